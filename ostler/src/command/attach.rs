//! `ostler attach` and `ostler detach`: disks and network cards of a VM that is there already.
//!
//! A card that is added gets an address of its own here, so that asking again names the same card.

use protocol::job::Job;
use protocol::vm::{DiskSpec, NicSpec, SizeChange};
use uuid::Uuid;

use super::resize;
use crate::cli::{AttachArgs, DetachArgs};
use crate::exit::{Code, Failure};
use crate::session::Session;

pub(crate) async fn attach(session: &Session, args: AttachArgs) -> Result<Code, Failure> {
    let size = added(&args, &session.picture().await?.job(&args.name)?.job)?;
    resize::change(session, args.name, size, false, args.wait).await
}

pub(crate) async fn detach(session: &Session, args: DetachArgs) -> Result<Code, Failure> {
    let size = removed(&args, &session.picture().await?.job(&args.name)?.job)?;
    resize::change(session, args.name, size, false, args.wait).await
}

fn added(args: &AttachArgs, job: &Job) -> Result<SizeChange, Failure> {
    if args.image.is_some() && args.disk.len() > 1 {
        let what = "one image is for one disk";
        return Err(Failure::usage(what).next("ostler attach once for each disk"));
    }
    let has = job.spec.as_vm().map_or(&[][..], |vm| &vm.disks);
    let mut names: Vec<String> = has.iter().map(|disk| disk.name.clone()).collect();
    let mut size = SizeChange::default();
    for disk in &args.disk {
        let free = || (1..).map(|n| format!("disk{n}")).find(|name| !names.contains(name));
        let name = disk.name.clone().or_else(free).unwrap_or_default();
        if names.contains(&name) {
            let what = format!("{} has a disk {name:?} already", job.id);
            return Err(
                Failure::usage(what).next("another name; `ostler resize --disk` makes it larger")
            );
        }
        names.push(name.clone());
        let (size_bytes, image) = (disk.size.0, args.image.clone());
        size.add_disks.push(DiskSpec { name, size_bytes, image, ..DiskSpec::default() });
    }
    let with_mac =
        |nic: &NicSpec| NicSpec { mac: nic.mac.clone().or_else(|| Some(any_mac())), ..nic.clone() };
    size.add_nics = args.nic.iter().map(with_mac).collect();
    Ok(size)
}

/// QEMU's prefix and three bytes by chance.
fn any_mac() -> String {
    let [a, b, c, ..] = Uuid::new_v4().into_bytes();
    format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
}

fn removed(args: &DetachArgs, job: &Job) -> Result<SizeChange, Failure> {
    let Some(vm) = job.spec.as_vm() else {
        return Err(Failure::usage(format!("{} is no VM", job.id)));
    };
    let disks: Vec<&str> = vm.disks.iter().map(|disk| disk.name.as_str()).collect();
    let macs = vm.macs(job.id.domain_uuid());
    // What its guest has not let go of yet is asked for anew.
    let is_leaving =
        |what: String| job.resize.as_ref().is_some_and(|resize| resize.leaving.contains(&what));
    let is_unknown =
        |disk: &&String| !disks.contains(&disk.as_str()) && !is_leaving(format!("disk {disk:?}"));
    if let Some(disk) = args.disk.iter().find(is_unknown) {
        let what = format!("{} has no disk {disk:?}", job.id);
        return Err(
            Failure::new(Code::NotFound, what).next(format!("one of: {}", disks.join(", ")))
        );
    }
    let is_unplugged = |mac: &&String| !macs.contains(mac) && !is_leaving(format!("card {mac}"));
    if let Some(mac) = args.nic.iter().find(is_unplugged) {
        let what = format!("{} has no card with the address {mac}", job.id);
        return Err(Failure::new(Code::NotFound, what).next(format!("one of: {}", macs.join(", "))));
    }
    Ok(SizeChange {
        remove_disks: args.disk.clone(),
        remove_nics: args.nic.clone(),
        ..SizeChange::default()
    })
}
