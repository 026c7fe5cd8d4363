//! `ostler discovery`: serve, open a cluster, and see who is written down in one.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use transport::discovery::{DiscoveryStore, Source, create_cluster, discovery_router};
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
            let url = create_cluster(&nobody(), server.trim_end_matches('/')).await?;
            match global.json {
                true => show::json(&serde_json::json!({ "url": url.to_string() })),
                false => show::line(&url.to_string()),
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
    if global.json {
        show::json_pretty(&serde_json::json!({ "instances": instances }));
        return Ok(Code::Ok);
    }
    let rows = instances.iter().map(|instance| {
        let host = instance.host.as_ref().map_or("-".into(), ToString::to_string);
        let proof = if instance.proven { "proven" } else { "unproven" };
        [instance.name.clone(), instance.url.clone(), host, proof.to_owned()]
    });
    show::table(["NAME", "URL", "HOST", "ENTRY"], rows.collect());
    Ok(Code::Ok)
}

/// Discovery servers do not ask who we are.
fn nobody() -> Client {
    Client::new(Arc::new(Identity::ephemeral()))
}
