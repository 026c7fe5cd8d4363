//! Images made of a VM's disks, all of one moment: for whoever starts others from them, clones it, or
//! carries them away.
//!
//! The host is asked for a snapshot, for an image of each disk as the snapshot keeps it, and to forget the
//! snapshot; the guest goes on meanwhile. What was begun and does not come to its end is taken back, also
//! when somebody has had enough of waiting.

mod moment;

mod names;

pub(super) use names::{DiskImage, check_names, images_for, is_left, stamp};

use futures_util::future::try_join_all;
use protocol::host::ImageFacts;
use protocol::id::{ImageName, JobId, SnapshotName};
use protocol::image::{DiskSource, FetchImage, ImageSource, ImageStatus};
use protocol::job::{Job, JobRow, Snapshot, SnapshotStage};
use protocol::refusal::Refusal;
use protocol::vm::VmSpec;
use transport::{Clock, Endpoint, Method, StatusCode};

use super::images::Place;
use super::import::fetch;
use crate::exit::{Code, Failure};
use crate::interrupt::Interrupts;
use crate::picture::{Picture, chain};
use crate::session::Session;
use crate::show;

/// A VM, on the host where its disks are.
pub(super) struct Original<'a> {
    session: &'a Session,
    interrupts: &'a Interrupts,
    /// Its host.
    pub(super) place: Place,
    /// What it is, as its host said last.
    pub(super) job: Job,
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
        let name = of.unwrap_or_else(|| moment::name_of(Clock::real().now().wall_ms));
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

    fn agent(&self) -> &Endpoint {
        &self.place.agent
    }
}
