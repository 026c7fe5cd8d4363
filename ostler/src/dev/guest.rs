//! The first guest of `ostler dev`: its image, itself, its first words, and its fate.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use protocol::api::{JobList, StopJob, Want};
use protocol::id::{ImageName, JobId};
use protocol::job::{Job, JobSpec, Reason};
use protocol::vm::{DISK_BYTES_MIN, DiskSpec, VmSpec};
use transport::stream::Frame;
use transport::{Client, Endpoint, Identity, Method, connect_stream};

use super::place::Place;
use crate::cli::DevHypervisor;
use crate::command::import_everywhere;
use crate::exit::{Code, Failure};
use crate::follow::await_ended;
use crate::picture::Picture;
use crate::session::Session;
use crate::show;

/// Its name.
const HELLO: &str = "hello";

/// Enough for a Linux with a busybox.
const MEMORY_BYTES: u64 = 128 << 20;

/// How many of its lines are shown.
const LINES_SHOWN: usize = 6;

/// How long it may take to say them; a translated Linux takes some seconds to boot.
const LINES_MS_MAX: u64 = 30_000;

/// How long destroying a guest may take.
const END_MS_MAX: u64 = 30_000;

fn hello() -> JobId {
    JobId::new(HELLO).expect("a valid name")
}

/// Sees that the first guest is there; starts it only if it never was.
pub(super) async fn first(
    session: &Session,
    image: Option<&Path>,
    place: &Place,
    is_json: bool,
) -> Result<(), Failure> {
    let image = match image {
        Some(file) => Some(import(session, file, is_json).await?),
        None => None,
    };
    let picture = session.picture().await?;
    let want = match picture.job(&hello()) {
        Err(_) => {
            Want::Run { job: hello(), spec: spec(image.as_ref(), &picture), on: None, again: false }
        }
        Ok(row) if is_to_start_again(&row.job) => {
            let why = row.job.reason.as_ref().map_or(String::new(), ToString::to_string);
            say(is_json, &format!("{HELLO} on {} ended: {why}; starting it again", row.host_name));
            Want::Run {
                job: hello(),
                spec: Arc::unwrap_or_clone(row.job.spec),
                on: Some(row.host),
                again: true,
            }
        }
        Ok(row) => {
            let state = row.job.state;
            say(is_json, &format!("{HELLO} is {state} on {} already", row.host_name));
            if state.is_ended() {
                say(is_json, &format!("  `ostler start {HELLO}` starts it again"));
            }
            return Ok(());
        }
    };
    session.want(want, true).await?;
    if place.kind == DevHypervisor::Embed && !is_json {
        show_first_lines(session).await;
    }
    Ok(())
}

/// What nobody asked to end is wanted still.
fn is_to_start_again(job: &Job) -> bool {
    job.state.is_ended()
        && matches!(job.reason, Some(Reason::Killed | Reason::Destroyed | Reason::HostRebooted))
}

fn spec(image: Option<&ImageName>, picture: &Picture) -> JobSpec {
    let facts =
        image.and_then(|name| picture.view.hosts().find_map(|(_, row)| row.host.images.get(name)));
    let disks = image
        .map(|name| DiskSpec {
            name: "root".into(),
            size_bytes: facts.map_or(64 << 20, |f| f.virtual_bytes).max(DISK_BYTES_MIN),
            image: Some(name.clone()),
            ..DiskSpec::default()
        })
        .into_iter()
        .collect();
    JobSpec::vm(VmSpec {
        vcpus: 1,
        memory_bytes: MEMORY_BYTES,
        disks,
        nics: vec![],
        ..VmSpec::default()
    })
}

/// Brings the image to the agents that do not have it.
async fn import(session: &Session, file: &Path, is_json: bool) -> Result<ImageName, Failure> {
    let name = image_name(file)?;
    let picture = session.picture().await?;
    let lacking = picture.rows.iter().filter_map(|row| {
        let host = &picture.view.host(&row.host)?.host;
        let lacks = !host.images.contains_key(&name);
        lacks.then(|| (host.name.clone(), row.agent.clone()))
    });
    let lacking: Vec<(String, Endpoint)> = lacking.collect();
    if lacking.is_empty() {
        say(is_json, &format!("image {name} is on every host already"));
        return Ok(name);
    }
    for (host, answer) in import_everywhere(&session.client, lacking, file, &name).await? {
        answer.map_err(|error| {
            Failure::new(Code::Failed, format!("bring image {name} to {host}")).because(error)
        })?;
        say(is_json, &format!("image {name} is on {host}"));
    }
    await_images(session, &name).await;
    Ok(name)
}

/// The view follows the hosts by a moment; the controller plans with the view.
async fn await_images(session: &Session, name: &ImageName) {
    for _ in 0..50 {
        if let Ok(picture) = session.picture().await
            && picture.view.hosts().all(|(_, row)| row.host.images.contains_key(name))
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// `some/Guest_1.qcow2` is `guest-1`.
fn image_name(file: &Path) -> Result<ImageName, Failure> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let name: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    ImageName::new(name.trim_start_matches(['-', '.']))
        .map_err(|error| Failure::usage(format!("no name for image {}: {error}", file.display())))
}

async fn show_first_lines(session: &Session) {
    show::line(&format!("the first lines of {HELLO}'s console:"));
    let limit = Duration::from_millis(LINES_MS_MAX);
    if tokio::time::timeout(limit, first_lines(session)).await.is_err() {
        show::line("  (nothing more yet)");
    }
}

async fn first_lines(session: &Session) -> Option<()> {
    let picture = session.picture().await.ok()?;
    let row = picture.job(&hello()).ok()?;
    let path = format!("/v1/jobs/{HELLO}/console?from=0");
    let mut stream =
        connect_stream(&session.client, &picture.agent(&row.host), &path).await.ok()?;
    let (mut text, mut shown) = (Vec::new(), 0);
    while let Some(Ok(frame)) = stream.next_frame().await {
        match frame {
            Frame::Bytes(bytes) => text.extend_from_slice(&bytes),
            Frame::Text(more) => text.extend_from_slice(more.as_bytes()),
        }
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let line = printable(&line);
            if !line.trim().is_empty() {
                show::line(&format!("  | {line}"));
                shown += 1;
            }
            if shown == LINES_SHOWN {
                return Some(());
            }
        }
    }
    Some(())
}

/// Without the escapes by which a firmware paints the screen.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                let _ = chars.by_ref().skip(1).find(|c| c.is_ascii_alphabetic());
            }
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// What becomes of the guests when everything else ends.
pub(super) async fn fate(place: &Place) -> String {
    let guests = alive(place).await;
    match (place.kind, guests.as_slice()) {
        (_, []) => "no guest runs; `ostler dev` brings the cluster back".to_owned(),
        (DevHypervisor::Test, _) => {
            "the pretended guests end with their agents; `ostler dev` brings the cluster back"
                .into()
        }
        (DevHypervisor::Embed, guests) => {
            let names: Vec<_> =
                guests.iter().map(|(host, job, _)| format!("{} (on {host})", job.id)).collect();
            let (keep, them) = if names.len() == 1 { ("keeps", "it") } else { ("keep", "them") };
            format!(
                "{} {keep} running; `ostler dev` (or ./up) again adopts {them}; `ostler dev stop` \
                 ends guests too",
                names.join(", ")
            )
        }
    }
}

/// The guests that are alive, asked of each agent by its socket.
async fn alive(place: &Place) -> Vec<(String, Job, Endpoint)> {
    let client = local_client();
    let mut guests = Vec::new();
    for number in 1..=place.state.agents {
        let agent = Endpoint::anyone(place.agent_socket(number));
        let Ok(list) = client.get::<JobList>(&agent, "/v1/jobs").await else { continue };
        let is_guest = |job: &Job| job.spec.as_vm().is_some() && !job.state.is_ended();
        let jobs = list.jobs.into_iter().filter(is_guest);
        guests.extend(jobs.map(|job| (format!("h{number}"), job, agent.clone())));
    }
    guests
}

/// Destroys every guest.
pub(super) async fn end_all(place: &Place, is_json: bool) -> Result<(), Failure> {
    let client = local_client();
    for (host, job, agent) in alive(place).await {
        let path = format!("/v1/jobs/{}/stop", job.id);
        let stop = StopJob::within(0);
        client.send::<_, Job>(Method::POST, &agent, &path, &stop).await?;
        await_ended(&client, &agent, &job.id, END_MS_MAX).await?;
        say(is_json, &format!("{} on {host} has ended", job.id));
    }
    Ok(())
}

fn local_client() -> Client {
    Client::new(Arc::new(Identity::ephemeral())).with_deadline(Duration::from_secs(10))
}

fn say(is_json: bool, text: &str) {
    if !is_json {
        show::line(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_name_becomes_an_images_name() {
        let name = |file: &str| image_name(Path::new(file)).map(|name| name.to_string());
        assert_eq!(name("target/guest/guest.qcow2").unwrap(), "guest");
        assert_eq!(name("/x/_Debian_12.1.img").unwrap(), "debian-12.1");
        assert!(name("/").is_err());
    }

    #[test]
    fn a_firmwares_painting_is_left_out() {
        assert_eq!(printable(b"\x1b[2J\x1b[01;01HSeaBIOS\r\n"), "SeaBIOS");
    }
}
