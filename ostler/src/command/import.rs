//! `ostler images import` and `copy`: bringing an image to hosts.
//!
//! A file goes from here to each host. From the web one host fetches it, and the others copy it from
//! that one: it comes over the wide network once, and is the same everywhere.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http::{HeaderName, HeaderValue};
use protocol::api::{ImageReply, SHA256_HEADER};
use protocol::host::ImageFacts;
use protocol::id::ImageName;
use protocol::image::{FetchImage, FetchState, FetchTrouble, ImageSource, ImageStatus, SourceHost};
use protocol::resources::Bytes;
use protocol::signed::Digest;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use transport::download::WebUrl;
use transport::{CallError, Client, Endpoint, Method};

use super::images::{Place, places};
use crate::cli::ImportArgs;
use crate::exit::{Code, Failure, code_of};
use crate::picture::{Picture, chain};
use crate::session::Session;
use crate::show;

/// How many hosts get a file at a time: enough to fill a network, few enough to finish some early.
const SENT_AT_ONCE: usize = 4;
/// What a file is read in pieces of, to be hashed.
const CHUNK_BYTES: usize = 1 << 20;
/// How often a host is asked how far its fetch is.
const POLL: Duration = Duration::from_millis(500);
/// Questions in a row that a host may leave unanswered, while its agent restarts.
const SILENCE_MAX: u32 = 20;
/// Told of a fetch at most each so many questions.
const TOLD_EVERY: u32 = 10;

pub(super) async fn run(
    session: &Session,
    places: Vec<Place>,
    args: ImportArgs,
) -> Result<Code, Failure> {
    let ImportArgs { source, name, sha256, limit, .. } = args;
    let limit = limit.map(|size| size.0);
    if !source.starts_with("http://") && !source.starts_with("https://") {
        return import_file(session, places, source.into(), name, sha256).await;
    }
    let url = WebUrl::parse(&source).map_err(Failure::usage)?;
    if !url.is_tls() && sha256.is_none() {
        let what = "over plain http anybody on the way could change what comes";
        return Err(Failure::usage(what).next("add --sha256, or use https"));
    }
    import_url(session, places, source, &name, sha256, limit).await
}

// From here.

async fn import_file(
    session: &Session,
    places: Vec<Place>,
    file: PathBuf,
    name: ImageName,
    sha256: Option<Digest>,
) -> Result<Code, Failure> {
    let found = digest_of(file.clone()).await?;
    if let Some(announced) = sha256.filter(|announced| announced.to_string() != found) {
        let what = format!("{} has sha256 {found}, and not {announced}", file.display());
        return Err(Failure::new(Code::Failed, what).next("get the file anew"));
    }
    let hosts = places.into_iter().map(|place| (place.name, place.agent)).collect();
    let answers = send_everywhere(&session.client, hosts, &file, &found, &name).await?;
    let mut failed = Vec::new();
    for (host, answer) in answers {
        match answer {
            Ok(reply) => tell(session, &name, &host, &reply.facts),
            Err(error) => failed.push((code_of(&error), format!("{host}: {}", chain(&error)))),
        }
    }
    all_or(failed, &format!("hosts did not take {name}"))
}

pub(super) fn tell(session: &Session, name: &ImageName, host: &str, facts: &ImageFacts) {
    if session.is_json {
        let image = ImageReply { name: name.clone(), facts: facts.clone() };
        show::json(&json!({ "host": host, "image": image }));
        return;
    }
    let size = Bytes(facts.file_bytes);
    show::line(&format!("{name} is on {host} ({size}, sha256 {})", facts.sha256));
}

/// Fine when nothing failed, or else all that did.
pub(super) fn all_or(failed: Vec<(Code, String)>, what: &str) -> Result<Code, Failure> {
    let Some((code, _)) = failed.first() else { return Ok(Code::Ok) };
    let code = *code;
    let reasons: Vec<String> = failed.into_iter().map(|(_, reason)| reason).collect();
    let what = format!("{} {what}:\n  - {}", reasons.len(), reasons.join("\n  - "));
    Err(Failure::new(code, what).next("mend that and do it again: it goes on where it is"))
}

/// Sends a file to hosts, some at a time.
pub(crate) async fn import_everywhere(
    client: &Client,
    hosts: Vec<(String, Endpoint)>,
    file: &Path,
    name: &ImageName,
) -> Result<Vec<(String, Result<ImageReply, CallError>)>, Failure> {
    let digest = digest_of(file.to_owned()).await?;
    send_everywhere(client, hosts, file, &digest, name).await
}

pub(super) async fn send_everywhere(
    client: &Client,
    hosts: Vec<(String, Endpoint)>,
    file: &Path,
    digest: &str,
    name: &ImageName,
) -> Result<Vec<(String, Result<ImageReply, CallError>)>, Failure> {
    let headers = [(
        HeaderName::from_static(SHA256_HEADER),
        HeaderValue::from_str(digest).expect("hex is a valid header"),
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

pub(super) async fn digest_of(file: PathBuf) -> Result<String, Failure> {
    let shown = file.display().to_string();
    let read = move || {
        let mut reader = std::fs::File::open(&file)?;
        let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK_BYTES]);
        loop {
            match reader.read(&mut chunk)? {
                0 => break,
                n => hash.update(&chunk[..n]),
            }
        }
        Ok::<_, std::io::Error>(hex(hash))
    };
    let read = tokio::task::spawn_blocking(read).await.unwrap_or_else(|e| Err(e.into()));
    read.map_err(|error| {
        let what = format!("read the image file {shown}");
        Failure::new(Code::Failed, what).because(error).next("check the path")
    })
}

/// A digest as people and headers write it.
pub(super) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

// From the web, and from host to host.

async fn import_url(
    session: &Session,
    mut places: Vec<Place>,
    url: String,
    name: &ImageName,
    sha256: Option<Digest>,
    bytes_per_second: Option<u64>,
) -> Result<Code, Failure> {
    let wanted = FetchImage { from: ImageSource::Url(url), sha256, bytes_per_second };
    // Whoever has it already need not fetch it.
    places.sort_by_key(|place| !place.host.images.contains_key(name));
    let mut failed = Vec::new();
    let mut first = None;
    let mut rest = places.into_iter();
    for place in rest.by_ref() {
        match fetch(session, &place, name, &wanted).await {
            Ok(facts) => {
                tell(session, name, &place.name, &facts);
                first = Some((place, facts));
                break;
            }
            Err(trouble) => {
                let is_hopeless = trouble.is_of_source;
                failed.push((trouble.code, format!("{}: {}", place.name, trouble.words)));
                if is_hopeless {
                    break;
                }
            }
        }
    }
    if let Some((place, facts)) = first {
        let source = source_of(&place);
        failed.extend(
            copy_to(session, rest.collect(), name, &facts, vec![source], bytes_per_second).await,
        );
    }
    all_or(failed, &format!("hosts did not get {name}"))
}

/// Has hosts copy an image that others have.
pub(super) async fn copy(
    session: &Session,
    picture: &Picture,
    name: &ImageName,
    on: &[String],
    bytes_per_second: Option<u64>,
) -> Result<Code, Failure> {
    let all = places(picture, &[])?;
    let holders: Vec<&Place> = all.iter().filter(|p| p.host.images.contains_key(name)).collect();
    let Some(facts) = holders.first().map(|place| place.host.images[name].clone()) else {
        let what = format!("no host has image {name}");
        return Err(
            Failure::new(Code::NotFound, what).next("ostler images import SOURCE --name NAME")
        );
    };
    if let Some(other) = holders.iter().find(|p| p.host.images[name].sha256 != facts.sha256) {
        let what = format!(
            "{} and {} have different images {name}; nobody knows which is meant",
            holders[0].name, other.name
        );
        return Err(
            Failure::new(Code::Refused, what).next("delete one of them, see `ostler images`")
        );
    }
    let sources = holders.iter().map(|place| source_of(place)).collect();
    let to = places(picture, on)?;
    let failed = copy_to(session, to, name, &facts, sources, bytes_per_second).await;
    all_or(failed, &format!("hosts did not get {name}"))
}

fn source_of(place: &Place) -> SourceHost {
    SourceHost { host: place.host.id.clone(), urls: place.host.urls.clone() }
}

/// Has hosts copy one content, some at a time; what failed.
async fn copy_to(
    session: &Session,
    places: Vec<Place>,
    name: &ImageName,
    facts: &ImageFacts,
    sources: Vec<SourceHost>,
    bytes_per_second: Option<u64>,
) -> Vec<(Code, String)> {
    let from = ImageSource::Hosts(sources);
    let wanted = &FetchImage { from, sha256: Some(facts.sha256), bytes_per_second };
    let copied = stream::iter(places).map(|place| async move {
        let fetched = fetch(session, &place, name, wanted).await;
        (place, fetched)
    });
    let mut copied = std::pin::pin!(copied.buffer_unordered(SENT_AT_ONCE));
    let mut failed = Vec::new();
    while let Some((place, fetched)) = copied.next().await {
        match fetched {
            Ok(facts) => tell(session, name, &place.name, &facts),
            Err(trouble) => {
                failed.push((trouble.code, format!("{}: {}", place.name, trouble.words)));
            }
        }
    }
    failed
}

/// Why a host did not get an image.
pub(super) struct Trouble {
    pub(super) code: Code,
    /// In words.
    pub(super) words: String,
    /// True when no other host would fare better.
    is_of_source: bool,
}

impl From<CallError> for Trouble {
    fn from(error: CallError) -> Self {
        Self { code: code_of(&error), words: chain(&error), is_of_source: false }
    }
}

impl From<FetchTrouble> for Trouble {
    fn from(why: FetchTrouble) -> Self {
        let code = match why {
            FetchTrouble::Unreachable { .. } => Code::Unreachable,
            FetchTrouble::NoSpace { .. } | FetchTrouble::TooLarge { .. } => Code::Refused,
            _ => Code::Failed,
        };
        Self { code, words: why.to_string(), is_of_source: why.is_of_source() }
    }
}

/// Has one host fetch an image, and watches until it is there. An agent that is restarted meanwhile is
/// asked again, and goes on where it was.
pub(super) async fn fetch(
    session: &Session,
    place: &Place,
    name: &ImageName,
    wanted: &FetchImage,
) -> Result<ImageFacts, Trouble> {
    let path = format!("/v1/images/{name}");
    let begin = format!("{path}/fetch");
    let ask = async || {
        let asked = session.client.send(Method::POST, &place.agent, &begin, wanted).await;
        asked.map(|reply| reply.body)
    };
    let mut status: ImageStatus = ask().await?;
    let (mut silent, mut questions) = (0, 0);
    loop {
        if let Some(facts) = status.facts {
            return Ok(facts);
        }
        let next = match status.fetch {
            Some(FetchState::Failed { why }) => return Err(why.into()),
            Some(fetch) => {
                questions += 1;
                if questions % TOLD_EVERY == 0 {
                    show::note(&format!("{name} on {}: {fetch}", place.name));
                }
                tokio::time::sleep(POLL).await;
                session.client.get(&place.agent, &path).await
            }
            None => ask().await,
        };
        status = match next {
            Ok(status) => status,
            Err(error) if error.is_retriable() && silent < SILENCE_MAX => {
                silent += 1;
                if silent == TOLD_EVERY {
                    let (host, why) = (&place.name, chain(&error));
                    show::note(&format!("{host} does not answer ({why}); asked again"));
                }
                tokio::time::sleep(POLL).await;
                let fetch = Some(FetchState::Waiting);
                ImageStatus { name: name.clone(), facts: None, users: vec![], fetch }
            }
            Err(error) => return Err(error.into()),
        };
        if !matches!(status.fetch, Some(FetchState::Waiting)) {
            silent = 0;
        }
    }
}
