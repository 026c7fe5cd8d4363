//! Images made of a VM's disks, all of one moment: for whoever starts others from them, clones it, or
//! carries them away.
//!
//! The host is asked for a snapshot, for an image of each disk as the snapshot keeps it, and to forget the
//! snapshot; the guest goes on meanwhile. What was begun and does not come to its end is taken back, also
//! when somebody has had enough of waiting.

use std::time::Duration;

use futures_util::future::try_join_all;
use protocol::host::ImageFacts;
use protocol::id::{ImageName, JobId, SnapshotName};
use protocol::image::{DiskSource, FetchImage, ImageSource, ImageStatus};
use protocol::job::{Job, JobRow, Snapshot, SnapshotStage};
use protocol::refusal::Refusal;
use protocol::vm::{DiskSpec, VmSpec};
use serde_json::json;
use transport::{CallError, Clock, Endpoint, Method, StatusCode};
use uuid::Uuid;

use super::images::Place;
use super::import::fetch;
use crate::exit::{Code, Failure};
use crate::follow::await_job;
use crate::interrupt::Interrupts;
use crate::picture::{Picture, chain};
use crate::session::Session;
use crate::show;

/// How long a host may take for a snapshot: the longest is the end of one of many large disks, and others may
/// be at it first.
const SNAPSHOT_MS_MAX: u64 = 600_000;
/// Pause before a host that is busy with it is asked again.
const PAUSE: Duration = Duration::from_millis(200);
/// How the names of snapshots begin that were made for this.
const SNAPSHOTS: &str = "for-images-";
/// How the names of images begin that commands have made, and chosen the name of.
const IMAGES: &str = "for-";
/// How old such a snapshot is when nobody is at work on it any more: whoever reads a snapshot keeps it from being
/// deleted, and what is just beginning takes seconds.
const LEFT_MS: u64 = 600_000;
/// The same of an image. Nothing keeps one while it waits for those of larger disks, or is carried away, which may take
/// hours.
const IMAGE_LEFT_MS: u64 = 24 * 3_600_000;
/// How long somebody who has had enough waits for a host to forget a snapshot.
const LEAVING_MS_MAX: u64 = 30_000;
/// After how long it is said what is waited for.
const SILENT_MS_MAX: u64 = 5_000;

/// A VM, on the host where its disks are.
pub(super) struct Original<'a> {
    session: &'a Session,
    interrupts: &'a Interrupts,
    /// Its host.
    pub(super) place: Place,
    /// What it is, as its host said last.
    pub(super) job: Job,
}

/// A disk, and what its image is to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskImage {
    /// Its name within the VM.
    pub(super) disk: String,
    /// The image.
    pub(super) name: ImageName,
}

/// Images of disks, of one moment.
pub(super) struct Taken {
    /// Which moment, in milliseconds since 1970 by the host's clock.
    pub(super) at_ms: u64,
    /// What each has become, as they were asked for.
    pub(super) images: Vec<(DiskImage, ImageFacts)>,
}

impl<'a> Original<'a> {
    /// Asks its host what it is.
    pub(super) async fn find(
        session: &'a Session,
        interrupts: &'a Interrupts,
        picture: &Picture,
        vm: &JobId,
    ) -> Result<Self, Failure> {
        let JobRow { host, host_name: name, .. } = picture.job(vm)?;
        let agent = picture.agent(&host);
        let job = session.client.get::<Job>(&agent, &format!("/v1/jobs/{vm}")).await?;
        let known = picture.view.host(&host);
        let host = known.map(|row| row.host.as_ref().clone()).ok_or_else(|| {
            Failure::new(Code::NotFound, format!("host {name} of {vm} is not seen any more"))
        })?;
        Ok(Self { session, interrupts, place: Place { name, host, agent }, job })
    }

    /// The VM itself, if there is something to take of it.
    pub(super) fn vm(&self) -> Result<&VmSpec, Failure> {
        let id = &self.job.id;
        let vm = self.job.spec.as_vm().filter(|vm| !vm.disks.is_empty());
        vm.ok_or_else(|| Failure::usage(format!("{id} is no VM with disks of its own")))
    }

    /// Makes the images, of a snapshot that is there or of one made for this.
    pub(super) async fn take(
        &mut self,
        of: Option<SnapshotName>,
        images: &[DiskImage],
        bytes_per_second: Option<u64>,
    ) -> Result<Taken, Failure> {
        let is_ours = of.is_none();
        let name = of.unwrap_or_else(|| {
            let text = format!("{SNAPSHOTS}{}", Clock::real().now().wall_ms);
            SnapshotName::new(&text).expect("letters, digits and dashes")
        });
        let interrupts = self.interrupts.clone();
        let (mut has_snapshot, mut begun) = (false, Vec::new());
        let making = async {
            if is_ours {
                self.job = self.snapshot(&name, &mut has_snapshot).await?;
            }
            self.make(&name, images, bytes_per_second, &mut begun).await
        };
        let taken = tokio::select! {
            taken = making => taken,
            () = interrupts.any() => {
                let what = format!("interrupted: no image of {} was made", self.job.id);
                Err(Failure::new(Code::Interrupted, what))
            }
        };
        if taken.is_err() {
            for image in &begun {
                self.forget(image).await;
            }
        }
        if has_snapshot {
            self.release(&name).await;
            self.release_left().await;
        }
        taken
    }

    /// `begun` are images that are there, or on their way, because of this.
    async fn make(
        &self,
        snapshot: &SnapshotName,
        images: &[DiskImage],
        bytes_per_second: Option<u64>,
        begun: &mut Vec<ImageName>,
    ) -> Result<Taken, Failure> {
        let at_ms = self.taken_ms(snapshot)?;
        let asked = |image: &DiskImage| {
            let (job, disk) = (self.job.id.clone(), image.disk.clone());
            let source = DiskSource { job, disk, snapshot: snapshot.clone() };
            FetchImage { from: ImageSource::Disk(source), sha256: None, bytes_per_second }
        };
        for image in images {
            self.begin(&image.name, &asked(image), begun).await?;
        }
        let (session, place) = (self.session, &self.place);
        let made = images.iter().map(|image| {
            let asked = asked(image);
            async move {
                let facts =
                    fetch(session, place, &image.name, &asked).await.map_err(|trouble| {
                        let DiskImage { disk, name } = image;
                        let what = format!("{} made no image {name} of disk {disk}", place.name);
                        Failure::new(trouble.code, what).because(trouble.words)
                    })?;
                Ok::<_, Failure>((image.clone(), facts))
            }
        });
        Ok(Taken { at_ms, images: try_join_all(made).await? })
    }

    /// One that is there already, or on its way, is somebody else's, and would be taken for this one.
    async fn begin(
        &self,
        name: &ImageName,
        asked: &FetchImage,
        begun: &mut Vec<ImageName>,
    ) -> Result<(), Failure> {
        let (client, path) = (&self.session.client, format!("/v1/images/{name}"));
        let status: ImageStatus = client.get(self.agent(), &path).await?;
        let is_free = status.facts.is_none() && status.fetch.is_none();
        if is_free {
            // Noted first: nobody may be there to hear the answer.
            begun.push(name.clone());
            let path = format!("{path}/fetch");
            let sent =
                client.send::<_, ImageStatus>(Method::POST, self.agent(), &path, asked).await;
            match sent {
                Ok(reply) if reply.status == StatusCode::ACCEPTED.as_u16() => return Ok(()),
                Ok(_) => begun.retain(|other| other != name),
                Err(error) => {
                    if error.refusal().is_some() {
                        begun.retain(|other| other != name);
                    }
                    return Err(error.into());
                }
            }
        }
        let what = format!("{} has an image {name} already", self.place.name);
        let next = format!("choose another name, or `ostler images rm {name}`");
        Err(Failure::new(Code::Refused, what).next(next))
    }

    fn taken_ms(&self, name: &SnapshotName) -> Result<u64, Failure> {
        let id = &self.job.id;
        match self.job.snapshot(name) {
            Some(Snapshot { stage: SnapshotStage::Ready, taken_ms: Some(at_ms), .. }) => Ok(*at_ms),
            Some(Snapshot { why: Some(why), .. }) => {
                let what = format!("no snapshot of {id} could be taken, to make images of");
                Err(Failure::new(Code::Failed, what).because(why.clone()))
            }
            _ => {
                let what = format!("{id} has no snapshot {name} that could be read");
                Err(Failure::new(Code::NotFound, what).next(format!("ostler snapshots ls {id}")))
            }
        }
    }

    /// The job once it has come to an end with the snapshot. A host that is busy with another one is asked again.
    async fn snapshot(&self, name: &SnapshotName, is_begun: &mut bool) -> Result<Job, Failure> {
        let id = &self.job.id;
        let path = format!("/v1/jobs/{id}/snapshots/{name}");
        let (client, clock) = (&self.session.client, Clock::real());
        let deadline_ms = clock.now().mono_ms + SNAPSHOT_MS_MAX;
        loop {
            // Noted first: nobody may be there to hear the answer.
            *is_begun = true;
            let asked = client.send::<_, Job>(Method::PUT, self.agent(), &path, &json!(null)).await;
            let Err(error) = asked else { break };
            *is_begun = error.refusal().is_none();
            let is_busy = matches!(error.refusal(), Some(Refusal::Busy { .. }));
            if !is_busy || clock.now().mono_ms >= deadline_ms {
                return Err(error.into());
            }
            tokio::time::sleep(PAUSE).await;
        }
        let is_over = |job: &Job| {
            job.snapshot(name).is_none_or(|snapshot| snapshot.stage != SnapshotStage::Taking)
        };
        await_job(client, self.agent(), id, SNAPSHOT_MS_MAX, is_over).await
    }

    /// Deletes an image that was made here, or ends its making. One that a VM has come to need stays.
    pub(super) async fn forget(&self, image: &ImageName) {
        let path = format!("/v1/images/{image}");
        let client = &self.session.client;
        let gone = client.send::<_, Option<()>>(Method::DELETE, self.agent(), &path, &()).await;
        match gone {
            Ok(_) => {}
            Err(error) if matches!(error.refusal(), Some(Refusal::ImageInUse { .. })) => {}
            Err(error) => show::note(&format!(
                "warning: image {image} stays on {} ({}); next: ostler images rm {image}",
                self.place.name,
                chain(&error)
            )),
        }
    }

    /// Forgets the snapshot, also where the VM has gone meanwhile; whoever has asked is told if it stays.
    async fn release(&self, name: &SnapshotName) {
        let id = &self.job.id;
        let released = match self.release_at(self.agent(), name).await {
            Ok(true) => Ok(()),
            Ok(false) => self.release_elsewhere(name).await,
            Err(why) => Err(why),
        };
        if let Err(why) = released {
            show::note(&format!(
                "warning: snapshot {name} of {id} stays ({why}); next: ostler snapshots rm {id} {name}"
            ));
        }
    }

    /// A VM with its disks in a pool may have moved, and has taken its snapshots along.
    async fn release_elsewhere(&self, name: &SnapshotName) -> Result<(), String> {
        let picture = self.session.picture().await.map_err(|failure| failure.cause())?;
        let Ok(row) = picture.job(&self.job.id) else { return Ok(()) };
        if row.host != self.place.host.id {
            self.release_at(&picture.agent(&row.host), name).await?;
        }
        Ok(())
    }

    /// Whether it was there, and is not any more.
    async fn release_at(&self, agent: &Endpoint, name: &SnapshotName) -> Result<bool, String> {
        let (id, client) = (&self.job.id, &self.session.client);
        let path = format!("/v1/jobs/{id}/snapshots/{name}");
        let clock = Clock::real();
        let begin_ms = clock.now().mono_ms;
        let (mut deadline_ms, mut is_told) = (begin_ms + SNAPSHOT_MS_MAX, false);
        let mut why = loop {
            let asked = client.send::<_, Job>(Method::DELETE, agent, &path, &json!(null)).await;
            match asked {
                Ok(_) => break String::new(),
                Err(error) if is_not_there(&error) => return Ok(false),
                Err(error) => {
                    let why = chain(&error);
                    if clock.now().mono_ms >= deadline_ms {
                        break why;
                    }
                    self.wait_for(name, &why, begin_ms, &mut deadline_ms, &mut is_told).await;
                }
            }
        };
        while clock.now().mono_ms < deadline_ms {
            let job = client.get::<Job>(agent, &format!("/v1/jobs/{id}")).await;
            why = match job {
                Ok(job) => match job.snapshot(name) {
                    None => return Ok(true),
                    Some(snapshot) => {
                        snapshot.why.clone().unwrap_or_else(|| "it is being deleted".into())
                    }
                },
                Err(error) if is_not_there(&error) => return Ok(true),
                Err(error) => chain(&error),
            };
            self.wait_for(name, &why, begin_ms, &mut deadline_ms, &mut is_told).await;
        }
        Err(why)
    }

    /// Waits a little, and says once what for. Who has had enough already does not wait for long.
    async fn wait_for(
        &self,
        name: &SnapshotName,
        why: &str,
        begin_ms: u64,
        deadline_ms: &mut u64,
        is_told: &mut bool,
    ) {
        let now_ms = Clock::real().now().mono_ms;
        if !*is_told && now_ms >= begin_ms + SILENT_MS_MAX {
            *is_told = true;
            let host = &self.place.name;
            show::note(&format!("waiting for {host} to forget snapshot {name}: {why}"));
        }
        if self.interrupts.check("").is_err() {
            *deadline_ms = (*deadline_ms).min(now_ms + LEAVING_MS_MAX);
        }
        tokio::time::sleep(PAUSE).await;
    }

    /// Forgets snapshots that earlier commands have left when they were killed. One that is read stays.
    async fn release_left(&self) {
        let at_ms = self.job.snapshots.iter().filter_map(|snapshot| snapshot.taken_ms).max();
        let at_ms = at_ms.unwrap_or_default();
        let is_left = |snapshot: &&Snapshot| {
            let age_ms = snapshot.taken_ms.map(|taken_ms| at_ms.saturating_sub(taken_ms));
            let is_ours = snapshot.name.as_str().starts_with(SNAPSHOTS);
            is_ours && age_ms.is_some_and(|age_ms| age_ms >= LEFT_MS)
        };
        for Snapshot { name, .. } in self.job.snapshots.iter().filter(is_left) {
            let path = format!("/v1/jobs/{}/snapshots/{name}", self.job.id);
            let client = &self.session.client;
            let gone =
                client.send::<_, Job>(Method::DELETE, self.agent(), &path, &json!(null)).await;
            if gone.is_ok() {
                show::note(&format!("snapshot {name}, which an earlier command has left, is gone"));
            }
        }
    }

    fn agent(&self) -> &Endpoint {
        &self.place.agent
    }
}

fn is_not_there(error: &CallError) -> bool {
    let name = error.refusal().map(Refusal::name);
    matches!(name, Some("no-such-snapshot" | "no-such-job"))
}

/// An image of each disk, for somebody, by names that nobody else has.
pub(super) fn images_for(whom: &str, vm: &VmSpec) -> Vec<DiskImage> {
    let now = stamp(Clock::real().now().wall_ms);
    let salt = &Uuid::new_v4().simple().to_string()[..8];
    let one = |(at, disk): (usize, &DiskSpec)| {
        let name = ImageName::new(format!("{IMAGES}{whom}-{}-{now}-{salt}", disk.name));
        let name = name.or_else(|_| ImageName::new(format!("{IMAGES}{at}-{now}-{salt}")));
        let name = name.expect("letters, digits and dashes, and not too many");
        DiskImage { disk: disk.name.clone(), name }
    };
    vm.disks.iter().enumerate().map(one).collect()
}

/// Whether a command has made this image, and nobody is at work on it any more if no VM needs it.
pub(super) fn is_left(name: &ImageName, now_ms: u64) -> bool {
    let Some(rest) = name.as_str().strip_prefix(IMAGES) else { return false };
    let latest = stamp(now_ms.saturating_sub(IMAGE_LEFT_MS));
    let mut words = rest.rsplit('-').skip(1);
    let (Some(time), Some(day)) = (words.next(), words.next()) else { return false };
    let is_number = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    is_number(day, 8) && is_number(time, 6) && format!("{day}-{time}") < latest
}

/// A moment as a name, which images may have in theirs: `20261130-012014`, in UTC.
pub(super) fn stamp(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or_default();
    let at = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    at.strftime("%Y%m%d-%H%M%S").to_string()
}

/// Refuses a name that an image has somewhere: a VM may start on any host, from the one that is there.
pub(super) fn check_names(picture: &Picture, images: &[DiskImage]) -> Result<(), Failure> {
    for DiskImage { name, .. } in images {
        let mut hosts = picture.view.hosts().map(|(_, row)| &row.host);
        if let Some(host) = hosts.find(|host| host.images.contains_key(name)) {
            let what = format!("{} has an image {name} already", host.name);
            let next = format!("choose another name, or `ostler images rm {name}`");
            return Err(Failure::new(Code::Refused, what).next(next));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(disk: &str) -> VmSpec {
        let disk = DiskSpec { name: disk.to_owned(), ..DiskSpec::default() };
        VmSpec { disks: vec![disk], ..VmSpec::default() }
    }

    #[test]
    fn names_are_nobody_elses_and_say_how_old_they_are() {
        let now_ms = Clock::real().now().wall_ms;
        for (whom, disk) in [("web-2", "root"), (&*"x".repeat(60), "root"), ("web-2", "Data_1")] {
            let (one, other) = (images_for(whom, &vm(disk)), images_for(whom, &vm(disk)));
            assert_ne!(one, other);
            assert!(!is_left(&one[0].name, now_ms), "somebody may be at it: {}", one[0].name);
            assert!(!is_left(&one[0].name, now_ms + IMAGE_LEFT_MS / 2), "{}", one[0].name);
            assert!(is_left(&one[0].name, now_ms + 2 * IMAGE_LEFT_MS), "{}", one[0].name);
        }
        for kept in ["guest", "for-web-2-root", "for-20200101-000000", "debian-20200101-000000-aa"]
        {
            assert!(!is_left(&kept.parse().unwrap(), now_ms), "{kept}");
        }
    }
}
