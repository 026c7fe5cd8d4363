//! `ostler images`: which image is where, and bringing a file to every host.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use futures_util::{StreamExt as _, stream};
use http::{HeaderName, HeaderValue};
use protocol::api::{ImageReply, SHA256_HEADER};
use protocol::id::ImageName;
use protocol::resources::Bytes;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use transport::{CallError, Client, Endpoint};

use crate::cli::ImagesCommand;
use crate::exit::{Code, Failure, code_of};
use crate::picture::chain;
use crate::session::Session;
use crate::show;

/// How many hosts get a file at a time: enough to fill a network, few enough to finish some early.
const SENT_AT_ONCE: usize = 4;

/// What a file is read in pieces of, to be hashed.
const CHUNK_BYTES: usize = 1 << 20;

pub(crate) async fn run(session: &Session, command: ImagesCommand) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    match command {
        ImagesCommand::Ls => {
            ls(session, &picture.hosts());
            Ok(Code::Ok)
        }
        ImagesCommand::Import { file, name } => {
            let name_of = |row: &crate::picture::Row| {
                let known = picture.view.host(&row.host);
                known.map_or_else(|| row.host.to_string(), |known| known.host.name.clone())
            };
            let hosts: Vec<(String, Endpoint)> =
                picture.rows.iter().map(|row| (name_of(row), row.agent.clone())).collect();
            import(session, hosts, file, name).await
        }
    }
}

fn ls(session: &Session, hosts: &[protocol::api::HostRowReply]) {
    let mut images: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for row in hosts {
        for (name, facts) in &row.host.images {
            let key = (name, facts.sha256, facts.file_bytes, facts.virtual_bytes);
            images.entry(key).or_default().push(&row.host.name);
        }
    }
    if session.is_json {
        let images: Vec<_> = images
            .iter()
            .map(|((name, sha256, file_bytes, virtual_bytes), hosts)| {
                json!({ "name": name, "sha256": sha256, "file_bytes": file_bytes,
                        "virtual_bytes": virtual_bytes, "hosts": hosts })
            })
            .collect();
        show::json_pretty(&json!({ "images": images }));
        return;
    }
    let rows = images.iter().map(|((name, sha256, file_bytes, virtual_bytes), hosts)| {
        [
            name.to_string(),
            Bytes(*file_bytes).to_string(),
            Bytes(*virtual_bytes).to_string(),
            sha256.to_string()[..12].to_owned(),
            hosts.join(", "),
        ]
    });
    show::table(["IMAGE", "FILE", "DISK", "SHA256", "HOSTS"], rows.collect());
}

async fn import(
    session: &Session,
    hosts: Vec<(String, Endpoint)>,
    file: PathBuf,
    name: ImageName,
) -> Result<Code, Failure> {
    let hosts_count = hosts.len();
    let answers = import_everywhere(&session.client, hosts, &file, &name).await?;
    let mut failed = Vec::new();
    for (host, answer) in &answers {
        match answer {
            Ok(reply) if session.is_json => show::json(&json!({ "host": host, "image": reply })),
            Ok(reply) => {
                let size = Bytes(reply.facts.file_bytes);
                show::line(&format!("{name} is on {host} ({size}, sha256 {})", reply.facts.sha256));
            }
            Err(error) => failed.push((code_of(error), format!("{host}: {}", chain(error)))),
        }
    }
    let Some((code, _)) = failed.first() else { return Ok(Code::Ok) };
    let reasons: Vec<&str> = failed.iter().map(|(_, reason)| reason.as_str()).collect();
    let what = format!(
        "{} of {hosts_count} hosts did not take {name}:\n  - {}",
        failed.len(),
        reasons.join("\n  - ")
    );
    Err(Failure::new(*code, what).next("mend that and import again; who has it skips nothing"))
}

/// Sends a file to hosts, some at a time.
pub(crate) async fn import_everywhere(
    client: &Client,
    hosts: Vec<(String, Endpoint)>,
    file: &Path,
    name: &ImageName,
) -> Result<Vec<(String, Result<ImageReply, CallError>)>, Failure> {
    let digest = digest_of(file.to_owned()).await?;
    let headers = [(
        HeaderName::from_static(SHA256_HEADER),
        HeaderValue::from_str(&digest).expect("hex is a valid header"),
    )];
    let (path, headers) = (format!("/v1/images/{name}"), &headers);
    let sent = stream::iter(hosts).map(|(host, agent)| {
        let path = &path;
        async move {
            let sent = client.put_file::<ImageReply>(&agent, path, file, headers).await;
            (host, sent.map(|reply| reply.body))
        }
    });
    Ok(sent.buffered(SENT_AT_ONCE).collect().await)
}

async fn digest_of(file: PathBuf) -> Result<String, Failure> {
    let read = move || {
        let mut reader = std::fs::File::open(&file)?;
        let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK_BYTES]);
        loop {
            match reader.read(&mut chunk)? {
                0 => break,
                n => hash.update(&chunk[..n]),
            }
        }
        Ok::<_, std::io::Error>(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    };
    let read = tokio::task::spawn_blocking(read).await.unwrap_or_else(|e| Err(e.into()));
    read.map_err(|error| {
        Failure::new(Code::Failed, "read the image file").because(error).next("check the path")
    })
}
