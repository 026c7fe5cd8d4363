//! `ostler clone`: another VM that begins with what a VM's disks are at one moment.
//!
//! Its disks are thin, over images that are made for it on the host of the original; it may start on any
//! host, which copies these first.

use protocol::api::Want;
use protocol::id::{HostId, JobId, SnapshotName};
use protocol::job::{JobKind, JobSpec};
use protocol::resources::Bytes;
use protocol::vm::VmSpec;

use super::images::{Place, await_images};
use super::run::{check_name, start};
use super::taking::{DiskImage, Original, images_for};
use crate::exit::{Code, Failure};
use crate::interrupt::Interrupts;
use crate::session::Session;
use crate::show;

#[derive(Debug, clap::Args)]
pub(crate) struct CloneArgs {
    /// The VM, which runs on
    vm: JobId,
    /// What to call the new one
    name: JobId,
    /// Begin with what the disks were in this snapshot [default: what they are now]
    #[arg(long)]
    snapshot: Option<SnapshotName>,
    /// On this host [default: where it fits best]
    #[arg(long, value_name = "HOST")]
    on: Option<String>,
    /// Move others away if that makes room for it
    #[arg(long)]
    make_room: bool,
    /// How fast the images are written, a second [default: as fast as it goes]
    #[arg(long, value_name = "SIZE")]
    limit: Option<Bytes>,
    /// Return as soon as the controller has taken it
    #[arg(long)]
    no_wait: bool,
}

pub(crate) async fn run(session: &Session, args: CloneArgs) -> Result<Code, Failure> {
    let interrupts = Interrupts::listen()?;
    let picture = session.picture().await?;
    picture.warn();
    let CloneArgs { vm, name, make_room, no_wait, .. } = args;
    check_name(&name)?;
    if picture.job(&name).is_ok() {
        let what = format!("there is a VM {name} already");
        return Err(Failure::new(Code::Refused, what).next("another name"));
    }
    let on = args.on.as_deref().map(|text| picture.host(text)).transpose()?;
    let on = on.map(|row| row.host.id.clone());
    let mut original = Original::find(session, &interrupts, &picture, &vm).await?;
    let images = images_for(name.as_str(), original.vm()?);
    likened(&original.job.spec, &images)?;
    let taken = original.take(args.snapshot, &images, args.limit.map(|size| size.0)).await?;
    let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
    show::note(&format!(
        "made of {vm} as it was at {}: images {} on {}; once no VM needs them, `ostler images prune` deletes them",
        show::moment(taken.at_ms),
        names.join(", "),
        original.place.name
    ));
    let mut spec = likened(&original.job.spec, &images)?;
    fit(&mut spec, taken.images.iter().map(|(image, facts)| (&image.disk, facts.virtual_bytes)));
    let start = Start { name, spec, on, make_room, is_waiting: !no_wait };
    let started = start_from(session, &interrupts, &original.place, &images, start).await;
    if !matches!(started, Ok(Code::Ok | Code::Interrupted)) {
        for image in &images {
            original.forget(&image.name).await;
        }
    }
    started
}

/// A VM that is to begin with images.
pub(super) struct Start {
    pub(super) name: JobId,
    pub(super) spec: JobSpec,
    /// Only here, if given.
    pub(super) on: Option<HostId>,
    pub(super) make_room: bool,
    pub(super) is_waiting: bool,
}

/// Starts it once its images are seen.
pub(super) async fn start_from(
    session: &Session,
    interrupts: &Interrupts,
    place: &Place,
    images: &[DiskImage],
    asked: Start,
) -> Result<Code, Failure> {
    let Start { name, spec, on, make_room, is_waiting } = asked;
    let names = images.iter().map(|image| &image.name);
    tokio::select! {
        seen = await_images(session, &place.host.id, names) => seen?,
        () = interrupts.any() => interrupts.check(&format!("{name} was not started"))?,
    }
    if session.is_without_controller() {
        return start(session, &session.picture().await?, &name, spec, on, is_waiting).await;
    }
    let want = Want::Run { job: name, spec, on, again: false };
    session.want_with_room(want, make_room, is_waiting).await
}

/// Makes disks no smaller than their images: one may have grown since its spec was read.
pub(super) fn fit<'a>(spec: &mut JobSpec, images: impl Iterator<Item = (&'a String, u64)>) {
    let JobKind::Vm(vm) = &mut spec.kind else { return };
    for (name, virtual_bytes) in images {
        if let Some(disk) = vm.disks.iter_mut().find(|disk| disk.name == *name) {
            disk.size_bytes = disk.size_bytes.max(virtual_bytes);
        }
    }
}

/// A VM like another one, that begins with these images: what must not be there twice is left out. It is a
/// VM of its own that nobody has protected yet.
pub(super) fn likened(spec: &JobSpec, images: &[DiskImage]) -> Result<JobSpec, Failure> {
    let JobKind::Vm(vm) = &spec.kind else {
        return Err(Failure::usage("only a VM that goes on is cloned: a one-off job is run again"));
    };
    let mut vm = vm.clone();
    begin_with(&mut vm, images);
    vm.nics.iter_mut().for_each(|nic| nic.mac = None);
    vm.protected = false;
    Ok(JobSpec { kind: JobKind::Vm(vm), ..spec.clone() })
}

/// Has a VM's disks made from images.
pub(super) fn begin_with(vm: &mut VmSpec, images: &[DiskImage]) {
    for disk in &mut vm.disks {
        let image = images.iter().find(|image| image.disk == disk.name);
        disk.image = image.map(|image| image.name.clone());
    }
}

#[cfg(test)]
mod tests {
    use protocol::vm::{DiskSpec, NicSpec, Plug};

    use super::*;

    fn spec() -> JobSpec {
        let disk = |name: &str| DiskSpec {
            name: name.to_owned(),
            size_bytes: 1 << 20,
            image: Some("debian".parse().unwrap()),
            ..DiskSpec::default()
        };
        let mac = Some("52:54:00:00:00:01".to_owned());
        let nics = vec![NicSpec { mac, ..NicSpec::from(Plug::User) }];
        let disks = vec![disk("root"), disk("data")];
        JobSpec::vm(VmSpec { vcpus: 1, disks, nics, protected: true, ..VmSpec::default() })
    }

    #[test]
    fn a_clone_begins_with_its_images_and_has_nothing_that_there_is_once() {
        let spec = spec();
        let images = images_for("web-2", spec.as_vm().unwrap());
        let clone = likened(&spec, &images).unwrap();
        let vm = clone.as_vm().unwrap();
        let begun = vm.disks.iter().filter_map(|disk| disk.image.as_ref());
        assert!(begun.eq(images.iter().map(|image| &image.name)));
        assert_eq!((vm.nics[0].mac.as_ref(), vm.protected), (None, false));
        let mut grown = clone.clone();
        fit(&mut grown, [(&"data".to_owned(), 2 << 20)].into_iter());
        let sizes: Vec<_> = grown.as_vm().unwrap().disks.iter().map(|d| d.size_bytes).collect();
        assert_eq!(sizes, [1 << 20, 2 << 20]);
        assert_eq!(vm.disks[0].size_bytes, 1 << 20);
    }
}
