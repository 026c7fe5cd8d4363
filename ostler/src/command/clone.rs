//! `ostler clone`: another VM that begins with what a VM's disks are at one moment.
//!
//! Its disks are thin, over images that are made for it on the host of the original; it may start on any
//! host, which copies these first.

use protocol::api::Want;
use protocol::id::{ImageName, JobId, SnapshotName};
use protocol::job::{JobKind, JobSpec};
use protocol::resources::Bytes;
use protocol::vm::{DiskSpec, VmSpec};
use uuid::Uuid;

use super::images::await_images;
use super::run::{check_name, start};
use super::taking::{Origin, Wanted};
use crate::exit::{Code, Failure};
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
    /// How fast its disks are read, a second [default: as fast as it goes]
    #[arg(long, value_name = "SIZE")]
    limit: Option<Bytes>,
    /// Return as soon as the controller has taken it
    #[arg(long)]
    no_wait: bool,
}

pub(crate) async fn run(session: &Session, args: CloneArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let CloneArgs { vm, name, .. } = args;
    check_name(&name)?;
    if picture.job(&name).is_ok() {
        let what = format!("there is a VM {name} already");
        return Err(Failure::new(Code::Refused, what).next("another name"));
    }
    let on = args.on.as_deref().map(|text| picture.host(text)).transpose()?;
    let on = on.map(|row| row.host.id.clone());
    let origin = Origin::find(session, &picture, &vm).await?;
    let wanted = wanted(origin.vm()?, |disk| format!("{name}-{disk}"));
    let spec = likened(&origin.job.spec, &wanted)?;
    let taken = origin.take(args.snapshot, &wanted, args.limit.map(|size| size.0)).await?;
    let images: Vec<&str> = wanted.iter().map(|wanted| wanted.image.as_str()).collect();
    show::note(&format!(
        "made of {vm} as it was at {}: images {} on {}, which stay as long as {name} needs them",
        show::moment(taken.at_ms),
        images.join(", "),
        origin.place.name
    ));
    let images = taken.images.iter().map(|(wanted, _)| &wanted.image);
    await_images(session, &origin.place.host.id, images).await?;
    if session.is_without_controller() {
        return start(session, &session.picture().await?, &name, spec, on, !args.no_wait).await;
    }
    let want = Want::Run { job: name, spec, on };
    session.want_with_room(want, args.make_room, !args.no_wait).await
}

/// An image of each disk, called so if an image can be; else by this moment, and nobody else's.
pub(super) fn wanted(vm: &VmSpec, name: impl Fn(&str) -> String) -> Vec<Wanted> {
    let salt = Uuid::now_v7().simple();
    let one = |(at, disk): (usize, &DiskSpec)| {
        let image = ImageName::new(name(&disk.name));
        let image = image.or_else(|_| ImageName::new(format!("disk-{salt}-{at}")));
        let image = image.expect("letters, digits and dashes, and not too many");
        Wanted { disk: disk.name.clone(), image }
    };
    vm.disks.iter().enumerate().map(one).collect()
}

/// A VM like another one, that begins with these images: what must not be there twice is left out. It is a
/// VM of its own that nobody has protected yet.
pub(super) fn likened(spec: &JobSpec, images: &[Wanted]) -> Result<JobSpec, Failure> {
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
pub(super) fn begin_with(vm: &mut VmSpec, images: &[Wanted]) {
    for disk in &mut vm.disks {
        let image = images.iter().find(|wanted| wanted.disk == disk.name);
        disk.image = image.map(|wanted| wanted.image.clone());
    }
}

#[cfg(test)]
mod tests {
    use protocol::vm::{NicSpec, Plug};

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
        let wanted = wanted(spec.as_vm().unwrap(), |disk| format!("web-2-{disk}"));
        let clone = likened(&spec, &wanted).unwrap();
        let vm = clone.as_vm().unwrap();
        let images: Vec<_> = vm.disks.iter().filter_map(|disk| disk.image.as_ref()).collect();
        assert_eq!(
            images,
            ["web-2-root", "web-2-data"].map(|name| name.parse().unwrap()).each_ref()
        );
        assert_eq!((vm.nics[0].mac.as_ref(), vm.protected), (None, false));
        assert_eq!(vm.disks[0].size_bytes, 1 << 20);
    }

    #[test]
    fn a_name_that_is_too_long_for_an_image_is_in_nobodys_way() {
        let spec = spec();
        let of = || wanted(spec.as_vm().unwrap(), |disk| format!("{}-{disk}", "x".repeat(200)));
        let (some, others) = (of(), of());
        assert_eq!(some.len(), 2);
        assert!(some.iter().all(|one| others.iter().all(|other| one.image != other.image)));
    }
}
