//! `ostler discovery`: serve, open a cluster, and see who is written down in one.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use transport::discovery::{
    ClusterUrl, DiscoveryStore, Instance, Source, create_cluster, discovery_router,
};
use transport::{CancellationToken, Client, Clock, Identity, Listen, Server, shutdown};

use crate::cli::{DiscoveryCommand, Global};
use crate::exit::{Code, Failure};
use crate::show;

pub(crate) async fn run(global: &Global, command: DiscoveryCommand) -> Result<Code, Failure> {
    match command {
        DiscoveryCommand::Serve { listen, data } => {
            let stop = shutdown::on_signals()
                .map_err(|error| Failure::new(Code::Failed, "watch for signals").because(error))?;
            let started = start(listen, &data, stop).await;
            let (addr, serving) =
                started.map_err(|failure| failure.next("another --listen or --data"))?;
            show::line(&format!("discovery serves at http://{addr}"));
            serving.await;
            Ok(Code::Ok)
        }
        DiscoveryCommand::New { server } => {
            let url = create_cluster(&nobody(), &server).await?;
            match global.json {
                true => show::json(&serde_json::json!({ "url": url.full() })),
                false => show::line(&url.full()),
            }
            Ok(Code::Ok)
        }
        DiscoveryCommand::List { url } => list(global, &url).await,
    }
}

/// Takes the address and answers from the store in `data`, until `stop`.
pub(crate) async fn start(
    listen: SocketAddr,
    data: &Path,
    stop: CancellationToken,
) -> Result<(SocketAddr, impl Future<Output = ()> + Send + 'static), Failure> {
    let failed =
        |what: String, error: std::io::Error| Failure::new(Code::Failed, what).because(error);
    if let Some(folder) = data.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|error| failed(format!("create {}", folder.display()), error))?;
    }
    let store = DiscoveryStore::open(data, Clock::real())
        .map_err(|error| failed(format!("open {}", data.display()), error))?;
    let identity = Arc::new(Identity::ephemeral());
    let server = Server::bind(Listen::Plain(listen), identity)
        .await
        .map_err(|error| Failure::new(Code::Failed, "serve discovery").because(error))?;
    let addr = server.local_addr().unwrap_or(listen);
    Ok((addr, server.serve(discovery_router(store), stop)))
}

async fn list(global: &Global, url: &Source) -> Result<Code, Failure> {
    let Source::Url(url) = url else {
        return Err(Failure::usage(format!("{url} is no discovery URL"))
            .next("ostler discovery list http://SERVER/clusters/TOKEN"));
    };
    let instances = url.list(&nobody()).await?;
    let entries: Vec<Entry> = instances.into_iter().map(|given| Entry::of(url, given)).collect();
    if global.json {
        show::json_pretty(&serde_json::json!({ "instances": entries }));
        return Ok(Code::Ok);
    }
    let rows = entries.iter().map(|Entry { instance, joined, why, .. }| {
        let host = instance.host.as_ref().map_or("-".into(), ToString::to_string);
        let proof = match (why, joined) {
            (Some(why), _) => format!("unproven: {why}"),
            (None, Some(_)) => "proven".to_owned(),
            (None, None) => "proven key; this URL has no #join= to prove more".to_owned(),
        };
        let twin = if instance.twin { "; another machine has the same key" } else { "" };
        [instance.name.clone(), instance.url.clone(), host, proof + twin]
    });
    show::table(["NAME", "URL", "HOST", "ENTRY"], rows.collect());
    Ok(Code::Ok)
}

/// An entry, and what we think of it; the server's own opinion is overwritten.
#[derive(Serialize)]
struct Entry {
    #[serde(flatten)]
    instance: Instance,
    /// Whether it knows the join secret; unknown to who does not know it.
    joined: Option<bool>,
    /// What is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

impl Entry {
    fn of(url: &ClusterUrl, instance: Instance) -> Self {
        let judged = url.judge(&instance);
        let joined = url.join().map(|_| judged.is_ok());
        let instance = Instance { proven: judged.is_ok(), ..instance };
        Self { instance, joined, why: judged.err().map(|why| why.to_string()) }
    }
}

/// Discovery servers do not ask who we are.
fn nobody() -> Client {
    Client::new(Arc::new(Identity::ephemeral()))
}
