//! `ostler images`: which image is where and who needs it, making one of a VM's disk, and taking one away.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use protocol::host::ImageFacts;
use protocol::id::{HostId, ImageName, JobId};
use protocol::image::{ImageList, ImageStatus};
use protocol::refusal::Refusal;
use protocol::resources::Bytes;
use serde_json::{Value, json};
use transport::{CallError, Clock, Endpoint, Method};

use super::import;
use super::taking::{DiskImage, Original, check_names, is_left};
use crate::cli::{ImagesArgs, ImagesCommand};
use crate::exit::{Code, Failure, code_of};
use crate::interrupt::Interrupts;
use crate::picture::{Picture, chain};
use crate::session::Session;
use crate::show;

/// Hosts asked at a time who needs their images.
const ASKED_AT_ONCE: usize = 64;
/// How long one may take; then the picture has to do.
const ASK_PATIENCE: Duration = Duration::from_secs(3);

/// How long monitors may take to show an image that has just come to a host.
const SEEN_MS_MAX: u64 = 15_000;
/// Pause between two looks.
const SEEN_PAUSE: Duration = Duration::from_millis(100);

/// A host as the commands about images see it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Its name.
    pub(super) name: String,
    /// Its row.
    pub(super) host: protocol::host::Host,
    /// How to reach its agent.
    pub(super) agent: Endpoint,
}

pub(crate) async fn run(session: &Session, args: ImagesArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    match args.command.unwrap_or(ImagesCommand::Ls) {
        ImagesCommand::Ls => Ok(ls(session, &picture).await),
        ImagesCommand::Import(args) => {
            let places = places(&picture, &args.on)?;
            import::run(session, places, args).await
        }
        ImagesCommand::Copy { name, on, limit } => {
            import::copy(session, &picture, &name, &on, limit.map(|size| size.0)).await
        }
        ImagesCommand::Take { vm, name, disk, snapshot, limit } => {
            let interrupts = Interrupts::listen()?;
            let mut original = Original::find(session, &interrupts, &picture, &vm).await?;
            let disk = disk.unwrap_or_else(|| first_disk(&original));
            let images = [DiskImage { disk, name }];
            check_names(&picture, &images)?;
            let taken = original.take(snapshot, &images, limit.map(|size| size.0)).await?;
            for (DiskImage { name, .. }, facts) in &taken.images {
                import::tell(session, name, &original.place.name, facts);
            }
            Ok(Code::Ok)
        }
        ImagesCommand::Prune => prune(session, places(&picture, &[])?).await,
        ImagesCommand::Rm { name, on } => rm(session, places(&picture, &on)?, &name).await,
    }
}

/// The hosts that are meant: all, or those that are named.
pub(super) fn places(picture: &Picture, on: &[String]) -> Result<Vec<Place>, Failure> {
    let mut meant = Vec::new();
    for text in on {
        meant.push(picture.host(text)?.host.id.clone());
    }
    let hosts = picture.hosts().into_iter().map(|row| row.host);
    let hosts = hosts.filter(|host| on.is_empty() || meant.contains(&host.id));
    let place = |host: protocol::host::Host| Place {
        name: host.name.clone(),
        agent: picture.agent(&host.id),
        host,
    };
    Ok(hosts.map(place).collect())
}

fn first_disk(original: &Original<'_>) -> String {
    let disks = original.job.spec.as_vm().map_or(&[][..], |vm| &vm.disks);
    disks.first().map_or_else(|| "root".to_owned(), |disk| disk.name.clone())
}

/// Waits until these are seen on a host: whoever plans next is to know of them.
pub(super) async fn await_images(
    session: &Session,
    host: &HostId,
    names: impl Iterator<Item = &ImageName> + Clone,
) -> Result<(), Failure> {
    let clock = Clock::real();
    let deadline_ms = clock.now().mono_ms + SEEN_MS_MAX;
    loop {
        let picture = session.picture().await?;
        let seen = picture.view.host(host).map(|row| &row.host.images);
        let missing = names.clone().find(|name| seen.is_none_or(|seen| !seen.contains_key(*name)));
        match missing {
            None => return Ok(()),
            Some(name) if clock.now().mono_ms >= deadline_ms => {
                let what = format!("image {name} is made, and the monitors do not show it yet");
                return Err(Failure::new(Code::Unreachable, what).next("ostler doctor"));
            }
            Some(_) => tokio::time::sleep(SEEN_PAUSE).await,
        }
    }
}

// Looking.

async fn ls(session: &Session, picture: &Picture) -> Code {
    let all = places(picture, &[]).unwrap_or_default();
    let asked = stream::iter(all).map(|place| async move {
        let client = session.client.with_deadline(ASK_PATIENCE);
        let list = client.get::<ImageList>(&place.agent, "/v1/images").await;
        (place, list)
    });
    let answers: Vec<_> = asked.buffered(ASKED_AT_ONCE).collect().await;
    let mut rows: BTreeMap<(ImageName, String), ImageRow> = BTreeMap::new();
    let mut coming = Vec::new();
    for (place, list) in answers {
        let statuses = list.map_or_else(
            |error| {
                let why = chain(&error);
                show::note(&format!(
                    "warning: {} does not say who needs its images: {why}",
                    place.name
                ));
                as_seen(picture, &place)
            },
            |list| list.images,
        );
        for status in statuses {
            if let Some(fetch) = &status.fetch {
                coming.push((status.name.clone(), place.name.clone(), fetch.clone()));
            }
            let Some(facts) = status.facts else { continue };
            let key = (status.name, facts.sha256.to_string());
            let row = rows.entry(key).or_insert_with(|| ImageRow::of(facts));
            row.hosts.push(place.name.clone());
            row.users.extend(status.users.into_iter().map(|job| (job, place.name.clone())));
        }
    }
    if session.is_json {
        let images: Vec<Value> =
            rows.iter().map(|((name, sha256), row)| row.json(name, sha256)).collect();
        let coming: Vec<Value> = coming
            .iter()
            .map(|(name, host, fetch)| json!({ "name": name, "host": host, "state": fetch }))
            .collect();
        show::json_pretty(&json!({ "images": images, "coming": coming }));
        return Code::Ok;
    }
    let lines = rows.iter().map(|((name, sha256), row)| row.cells(name, sha256));
    let header = ["IMAGE", "FORMAT", "FILE", "DISK", "SHA256", "HOSTS", "USED BY"];
    show::table(header, lines.collect());
    for (name, host, fetch) in coming {
        show::line(&format!("{name} on {host}: {fetch}"));
    }
    Code::Ok
}

/// One content under one name.
struct ImageRow {
    facts: ImageFacts,
    hosts: Vec<String>,
    /// Who needs it, and where.
    users: Vec<(JobId, String)>,
}

impl ImageRow {
    fn of(facts: ImageFacts) -> Self {
        Self { facts, hosts: Vec::new(), users: Vec::new() }
    }

    fn json(&self, name: &ImageName, sha256: &str) -> Value {
        let users: Vec<Value> =
            self.users.iter().map(|(job, host)| json!({ "job": job, "host": host })).collect();
        json!({
            "name": name,
            "sha256": sha256,
            "format": self.facts.format,
            "file_bytes": self.facts.file_bytes,
            "virtual_bytes": self.facts.virtual_bytes,
            "hosts": self.hosts,
            "users": users,
        })
    }

    fn cells(&self, name: &ImageName, sha256: &str) -> [String; 7] {
        let format = self.facts.format.map_or_else(|| "-".to_owned(), |format| format.to_string());
        let users: Vec<&str> = self.users.iter().map(|(job, _)| job.as_str()).collect();
        [
            name.to_string(),
            format,
            Bytes(self.facts.file_bytes).to_string(),
            Bytes(self.facts.virtual_bytes).to_string(),
            sha256.chars().take(12).collect(),
            self.hosts.join(", "),
            users.join(", "),
        ]
    }
}

/// What the picture says of a host that does not answer: whoever has such a disk may need the image.
fn as_seen(picture: &Picture, place: &Place) -> Vec<ImageStatus> {
    let jobs = picture.view.host(&place.host.id).map(|row| &row.jobs);
    let needs = |name: &ImageName| {
        let jobs = jobs.into_iter().flat_map(|jobs| jobs.values());
        let jobs = jobs.filter(|job| {
            let disks = job.spec.as_vm().map_or(&[][..], |vm| &vm.disks);
            disks.iter().any(|disk| disk.image.as_ref() == Some(name))
        });
        jobs.map(|job| job.id.clone()).collect()
    };
    let images = place.host.images.iter().map(|(name, facts)| ImageStatus {
        name: name.clone(),
        facts: Some(facts.clone()),
        users: needs(name),
        fetch: None,
    });
    images.collect()
}

// Taking away.

/// Looks first at every host: while one needs it, it is deleted from none.
async fn rm(session: &Session, places: Vec<Place>, name: &ImageName) -> Result<Code, Failure> {
    let path = format!("/v1/images/{name}");
    let mut there = Vec::new();
    for (place, status) in on_each::<ImageStatus>(session, places, Method::GET, &path).await {
        let status = status.map_err(|error| {
            let code = code_of(&error);
            Failure::new(code, format!("{} was not asked, and nothing deleted", place.name))
                .because(error)
                .next("name the hosts that are meant with --on")
        })?;
        if !status.users.is_empty() {
            let no = Refusal::ImageInUse { image: name.clone(), users: status.users };
            let what = format!("nothing was deleted: on {}: {no}", place.name);
            return Err(Failure::new(Code::Refused, what).next("ostler images"));
        }
        if status.facts.is_some() || status.fetch.is_some() {
            there.push(place);
        }
    }
    if there.is_empty() {
        let what = format!("no image {name} on the hosts that were asked");
        return Err(Failure::new(Code::NotFound, what).next("ostler images"));
    }
    let mut failed = Vec::new();
    for (place, deleted) in on_each::<Option<()>>(session, there, Method::DELETE, &path).await {
        match deleted {
            Ok(_) if session.is_json => {
                show::json(&json!({ "host": place.name, "deleted": name }));
            }
            Ok(_) => show::line(&format!("{name} is deleted from {}", place.name)),
            Err(error) => {
                failed.push((code_of(&error), format!("{}: {}", place.name, chain(&error))));
            }
        }
    }
    import::all_or(failed, &format!("hosts did not delete {name}"))
}

/// Deletes what commands have made for VMs that are not there any more; what somebody has named is kept.
async fn prune(session: &Session, places: Vec<Place>) -> Result<Code, Failure> {
    let now_ms = Clock::real().now().wall_ms;
    let (mut failed, mut count) = (Vec::new(), 0_usize);
    for (place, list) in on_each::<ImageList>(session, places, Method::GET, "/v1/images").await {
        let list = match list {
            Ok(list) => list,
            Err(error) => {
                failed.push((code_of(&error), format!("{}: {}", place.name, chain(&error))));
                continue;
            }
        };
        let is_unused = |image: &ImageStatus| image.users.is_empty() && image.fetch.is_none();
        for ImageStatus { name, .. } in list.images.into_iter().filter(is_unused) {
            if !is_left(&name, now_ms) {
                continue;
            }
            let path = format!("/v1/images/{name}");
            let asked =
                session.client.send::<_, Option<()>>(Method::DELETE, &place.agent, &path, &());
            match asked.await {
                Ok(_) if session.is_json => {
                    show::json(&json!({ "host": place.name, "deleted": name }));
                }
                Ok(_) => show::line(&format!("{name} is deleted from {}", place.name)),
                Err(error) => {
                    failed.push((code_of(&error), format!("{}: {}", place.name, chain(&error))));
                }
            }
            count += 1;
        }
    }
    if count == 0 && failed.is_empty() {
        show::note("there is nothing to delete");
    }
    import::all_or(failed, "hosts did not delete what nobody needs")
}

/// Asks each host the same, some at a time.
async fn on_each<T: serde::de::DeserializeOwned + Send>(
    session: &Session,
    places: Vec<Place>,
    method: Method,
    path: &str,
) -> Vec<(Place, Result<T, CallError>)> {
    let asked = stream::iter(places).map(|place| {
        let method = method.clone();
        async move {
            let asked = session.client.send::<_, T>(method, &place.agent, path, &()).await;
            (place, asked.map(|reply| reply.body))
        }
    });
    asked.buffered(ASKED_AT_ONCE).collect().await
}
