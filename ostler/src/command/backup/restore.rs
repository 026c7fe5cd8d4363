//! Making a VM of a backup.
//!
//! Its disks come to one host as images, and the VM begins with them wherever it starts. Under another name
//! it is another VM; under its own it has the addresses that it had.

use protocol::api::ImageReply;
use protocol::id::JobId;
use protocol::job::{JobKind, JobSpec};
use protocol::resources::Bytes;
use protocol::view::Freshness;
use serde_json::Value;
use transport::Method;

use super::RestoreArgs;
use super::kept::{Backup, Folder, KeptDisk};
use crate::command::clone::{Start, begin_with, fit, likened, start_from};
use crate::command::images::{Place, places};
use crate::command::import::send_everywhere;
use crate::command::run::check_name;
use crate::command::taking::{DiskImage, images_for};
use crate::exit::{Code, Failure, code_of};
use crate::interrupt::Interrupts;
use crate::picture::{Picture, chain};
use crate::session::Session;
use crate::show;

pub(super) async fn run(session: &Session, args: RestoreArgs) -> Result<Code, Failure> {
    let interrupts = Interrupts::listen()?;
    let backup = newest(&args)?;
    let picture = session.picture().await?;
    picture.warn();
    let name = args.name.clone().unwrap_or_else(|| backup.manifest.vm.clone());
    check_name(&name)?;
    if picture.job(&name).is_ok() {
        let what = format!("there is a VM {name}, which a backup does not replace");
        let next = format!("restore it under another --name, or `ostler rm {name}` first");
        return Err(Failure::new(Code::Refused, what).next(next));
    }
    let (spec, images) = described(&backup, &name)?;
    check_files(&backup)?;
    let on = args.on.as_deref().map(|text| picture.host(text)).transpose()?;
    let on = on.map(|row| row.host.id.clone());
    let place = place(&picture, &args, backup.bytes())?;
    let restored = async {
        send(session, &interrupts, &backup, &place, &images).await?;
        let start = Start { name, spec, on, make_room: args.make_room, is_waiting: !args.no_wait };
        start_from(session, &interrupts, &place, &images, start).await
    };
    let restored = restored.await;
    let goes_on = matches!(restored, Ok(Code::Ok | Code::Interrupted));
    if !goes_on {
        forget(session, &place, &images).await;
    }
    restored
}

/// Looked at before anything is sent; whether they are what was written is seen by whoever takes them.
fn check_files(backup: &Backup) -> Result<(), Failure> {
    for disk in &backup.manifest.disks {
        let file = backup.file(disk);
        let found = std::fs::metadata(&file).map(|found| found.len());
        if !matches!(found, Ok(bytes) if bytes == disk.file_bytes) {
            let what = format!("{} is not there as it was written", file.display());
            let next = format!("ostler backup check {}", backup.path.display());
            return Err(Failure::new(Code::Failed, what).next(next));
        }
    }
    Ok(())
}

async fn send(
    session: &Session,
    interrupts: &Interrupts,
    backup: &Backup,
    place: &Place,
    images: &[DiskImage],
) -> Result<(), Failure> {
    for (disk, DiskImage { name, .. }) in backup.manifest.disks.iter().zip(images) {
        let (host, file) = ((place.name.clone(), place.agent.clone()), backup.file(disk));
        show::note(&format!("{} goes to {} as image {name}", file.display(), place.name));
        // What the host has not got as it was written, it does not take.
        let digest = disk.sha256.to_string();
        let sending = send_everywhere(&session.client, vec![host], &file, &digest, name);
        let sent = tokio::select! {
            sent = sending => sent?,
            () = interrupts.any() => {
                return interrupts.check("nothing was restored");
            }
        };
        for (host, answer) in sent {
            let _: ImageReply = answer.map_err(|error| {
                let what = format!("{host} did not take {}", file.display());
                let next = format!("ostler backup check {}", backup.path.display());
                Failure::new(code_of(&error), what).because(chain(&error)).next(next)
            })?;
        }
    }
    Ok(())
}

/// Takes back what was sent for a VM that is not to be. What one has come to need stays.
async fn forget(session: &Session, place: &Place, images: &[DiskImage]) {
    for DiskImage { name, .. } in images {
        let path = format!("/v1/images/{name}");
        let client = &session.client;
        let _ = client.send::<_, Option<Value>>(Method::DELETE, &place.agent, &path, &()).await;
    }
}

fn newest(args: &RestoreArgs) -> Result<Backup, Failure> {
    let (backups, unreadable) = Folder::at(&args.backup)?.backups()?;
    for failure in unreadable {
        if backups.is_empty() {
            return Err(failure);
        }
        show::note(&format!("warning: {}", failure.cause()));
    }
    let path = args.backup.display();
    let Some(first) = backups.first() else {
        let what = format!("there is no backup in {path}");
        return Err(Failure::new(Code::NotFound, what).next("ostler backup ls FOLDER"));
    };
    if backups.iter().any(|backup| backup.manifest.vm != first.manifest.vm) {
        let what = format!("{path} has backups of several VMs");
        return Err(Failure::usage(what).next(format!("ostler backup ls {path}; name one of them")));
    }
    Ok(backups.last().unwrap_or(first).clone())
}

/// The VM, and what images its disks are made from.
fn described(backup: &Backup, name: &JobId) -> Result<(JobSpec, Vec<DiskImage>), Failure> {
    let (manifest, vm) = (&backup.manifest, backup.vm()?);
    let images = images_for(name.as_str(), vm);
    let mut spec = if *name == manifest.vm {
        let mut vm = vm.clone();
        begin_with(&mut vm, &images);
        JobSpec { kind: JobKind::Vm(vm), ..manifest.spec.clone() }
    } else {
        likened(&manifest.spec, &images)?
    };
    let sizes =
        manifest.disks.iter().map(|KeptDisk { name, virtual_bytes, .. }| (name, *virtual_bytes));
    fit(&mut spec, sizes);
    Ok((spec, images))
}

/// Where its disks go: the host that was named, or the one with most room of those that take something.
fn place(picture: &Picture, args: &RestoreArgs, bytes: u64) -> Result<Place, Failure> {
    let named: Vec<String> = args.on.iter().cloned().collect();
    let mut places = places(picture, &named)?;
    if args.on.is_none() {
        let is_fresh = |place: &Place| {
            let row = picture.rows.iter().find(|row| row.host == place.host.id);
            row.is_some_and(|row| row.freshness == Freshness::Fresh)
        };
        places.retain(|place| is_fresh(place) && place.host.intent.is_none());
    }
    let free_bytes = |place: &Place| place.host.free().disk_bytes;
    let best = places.into_iter().max_by_key(free_bytes);
    best.filter(|place| free_bytes(place) >= bytes).ok_or_else(|| {
        let size = Bytes(bytes);
        let what = format!("no host that is heard and not drained has room for {size}");
        Failure::new(Code::Refused, what).next("ostler hosts")
    })
}
