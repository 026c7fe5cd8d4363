//! Images made of a VM's disks, all of one moment: for whoever starts others from them, clones it, or
//! carries them away.
//!
//! The host is asked for a snapshot, for an image of each disk as the snapshot keeps it, and to forget the
//! snapshot; the guest goes on meanwhile. What was begun and does not come to its end is taken back, also
//! when a person has had enough of waiting.

use std::time::Duration;

use futures_util::future::join_all;
use protocol::host::ImageFacts;
use protocol::id::{ImageName, JobId, SnapshotName};
use protocol::image::{DiskSource, FetchImage, ImageSource, ImageStatus};
use protocol::job::{Job, JobRow, Snapshot, SnapshotStage};
use protocol::vm::VmSpec;
use serde_json::json;
use transport::{CallError, Clock, Endpoint, Method};

use super::images::Place;
use super::import::fetch;
use crate::exit::{Code, Failure};
use crate::follow::await_job;
use crate::picture::Picture;
use crate::session::Session;
use crate::show;

/// How long a host may take for a snapshot: the longest is the end of one of many large disks.
const SNAPSHOT_MS_MAX: u64 = 600_000;
/// How long somebody else may read the snapshot that is to go: until the host has noticed that we do not.
const RELEASE_MS_MAX: u64 = 30_000;
/// Pause before a host that is busy with it is asked again.
const RELEASE_PAUSE: Duration = Duration::from_millis(200);

/// A VM, on the host where its disks are.
pub(super) struct Origin<'a> {
    session: &'a Session,
    /// Its host.
    pub(super) place: Place,
    /// What it is, as its host says now.
    pub(super) job: Job,
}

/// A disk, and what its image is to be called.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Its name within the VM.
    pub(super) disk: String,
    /// The image.
    pub(super) image: ImageName,
}

/// Images of disks, of one moment.
pub(super) struct Taken {
    /// Which moment, in milliseconds since 1970 by the host's clock.
    pub(super) at_ms: u64,
    /// What each has become, as they were wanted.
    pub(super) images: Vec<(Wanted, ImageFacts)>,
}

impl<'a> Origin<'a> {
    /// Asks its host what it is.
    pub(super) async fn find(
        session: &'a Session,
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
        Ok(Self { session, place: Place { name, host, agent }, job })
    }

    /// The VM itself, if there is something to take of it.
    pub(super) fn vm(&self) -> Result<&VmSpec, Failure> {
        let id = &self.job.id;
        let vm = self.job.spec.as_vm().filter(|vm| !vm.disks.is_empty());
        vm.ok_or_else(|| Failure::usage(format!("{id} is no VM with disks of its own")))
    }

    /// Makes the images, of a snapshot that is there or of one made for this.
    pub(super) async fn take(
        &self,
        of: Option<SnapshotName>,
        wanted: &[Wanted],
        bytes_per_second: Option<u64>,
    ) -> Result<Taken, Failure> {
        self.check_names(wanted).await?;
        let (name, is_ours) = match of {
            Some(name) => (name, false),
            None => {
                let text = format!("for-images-{}", Clock::real().now().wall_ms);
                (SnapshotName::new(&text).expect("letters, digits and dashes"), true)
            }
        };
        let made = tokio::select! {
            made = self.make(&name, is_ours, wanted, bytes_per_second) => made,
            _ = tokio::signal::ctrl_c() => {
                let what = format!("interrupted; no image of {} was made", self.job.id);
                Err(Failure::new(Code::Interrupted, what))
            }
        };
        if made.is_err() {
            self.call_off(wanted).await;
        }
        if is_ours {
            self.release(&name).await;
        }
        made
    }

    async fn make(
        &self,
        name: &SnapshotName,
        is_ours: bool,
        wanted: &[Wanted],
        bytes_per_second: Option<u64>,
    ) -> Result<Taken, Failure> {
        let at_ms = if is_ours { self.snapshot(name).await? } else { self.taken_ms(name)? };
        let fetched = wanted.iter().map(|wanted| {
            let source = DiskSource {
                job: self.job.id.clone(),
                disk: wanted.disk.clone(),
                snapshot: name.clone(),
            };
            let from = ImageSource::Disk(source);
            let asked = FetchImage { from, sha256: None, bytes_per_second };
            async move { fetch(self.session, &self.place, &wanted.image, &asked).await }
        });
        let mut images = Vec::new();
        for (wanted, fetched) in wanted.iter().zip(join_all(fetched).await) {
            let facts = fetched.map_err(|trouble| {
                let Wanted { disk, image } = wanted;
                let (id, host) = (&self.job.id, &self.place.name);
                let what = format!("{host} made no image {image} of disk {disk} of {id}");
                Failure::new(trouble.code, what).because(trouble.words)
            })?;
            images.push((wanted.clone(), facts));
        }
        Ok(Taken { at_ms, images })
    }

    /// An image that is there already is another one's, and would be taken for the new one.
    async fn check_names(&self, wanted: &[Wanted]) -> Result<(), Failure> {
        for Wanted { image, .. } in wanted {
            let path = format!("/v1/images/{image}");
            let status: ImageStatus = self.session.client.get(self.agent(), &path).await?;
            if status.facts.is_some() || status.fetch.is_some() {
                let what = format!("{} has an image {image} already", self.place.name);
                let next = format!("choose another name, or `ostler images rm {image}`");
                return Err(Failure::new(Code::Refused, what).next(next));
            }
        }
        Ok(())
    }

    fn taken_ms(&self, name: &SnapshotName) -> Result<u64, Failure> {
        let taken_ms = self.job.snapshot(name).and_then(|snapshot| snapshot.taken_ms);
        taken_ms.ok_or_else(|| {
            let id = &self.job.id;
            let what = format!("{id} has no snapshot {name} that could be read");
            Failure::new(Code::NotFound, what).next(format!("ostler snapshots ls {id}"))
        })
    }

    async fn snapshot(&self, name: &SnapshotName) -> Result<u64, Failure> {
        let id = &self.job.id;
        let path = format!("/v1/jobs/{id}/snapshots/{name}");
        let client = &self.session.client;
        client.send::<_, Job>(Method::PUT, self.agent(), &path, &json!(null)).await?;
        let is_over = |job: &Job| {
            job.snapshot(name).is_none_or(|snapshot| snapshot.stage != SnapshotStage::Taking)
        };
        let job = await_job(client, self.agent(), id, SNAPSHOT_MS_MAX, is_over).await?;
        match job.snapshot(name) {
            Some(Snapshot { stage: SnapshotStage::Ready, taken_ms: Some(at_ms), .. }) => Ok(*at_ms),
            other => {
                let why = other.and_then(|snapshot| snapshot.why.clone()).unwrap_or_default();
                let what = format!("no snapshot of {id} could be taken, to make images of");
                Err(Failure::new(Code::Failed, what).because(why))
            }
        }
    }

    async fn call_off(&self, wanted: &[Wanted]) {
        for Wanted { image, .. } in wanted {
            self.forget(image).await;
        }
    }

    /// Deletes an image that was made here, or ends its making.
    pub(super) async fn forget(&self, image: &ImageName) {
        let path = format!("/v1/images/{image}");
        let client = &self.session.client;
        let gone = client.send::<_, Option<()>>(Method::DELETE, self.agent(), &path, &()).await;
        if let Err(error) = gone {
            let why = crate::picture::chain(&error);
            show::note(&format!(
                "warning: image {image} stays on {} ({why}); next: ostler images rm {image}",
                self.place.name
            ));
        }
    }

    /// Forgets the snapshot; whoever has asked is told if it stays.
    async fn release(&self, name: &SnapshotName) {
        if let Err(why) = self.try_release(name).await {
            let id = &self.job.id;
            show::note(&format!(
                "warning: snapshot {name} of {id} stays ({why}); next: ostler snapshots rm {id} {name}"
            ));
        }
    }

    async fn try_release(&self, name: &SnapshotName) -> Result<(), String> {
        let (id, client) = (&self.job.id, &self.session.client);
        let path = format!("/v1/jobs/{id}/snapshots/{name}");
        let clock = Clock::real();
        let deadline_ms = clock.now().mono_ms + RELEASE_MS_MAX;
        loop {
            let asked =
                client.send::<_, Job>(Method::DELETE, self.agent(), &path, &json!(null)).await;
            match asked {
                Ok(_) => break,
                Err(error) if is_gone(&error) => return Ok(()),
                Err(error) if clock.now().mono_ms >= deadline_ms => {
                    return Err(crate::picture::chain(&error));
                }
                Err(_) => tokio::time::sleep(RELEASE_PAUSE).await,
            }
        }
        let is_gone = |job: &Job| job.snapshot(name).is_none();
        let gone = await_job(client, self.agent(), id, SNAPSHOT_MS_MAX, is_gone).await;
        gone.map(drop).map_err(|failure| failure.cause())
    }

    fn agent(&self) -> &Endpoint {
        &self.place.agent
    }
}

fn is_gone(error: &CallError) -> bool {
    let name = error.refusal().map(protocol::refusal::Refusal::name);
    matches!(name, Some("no-such-snapshot" | "no-such-job"))
}
