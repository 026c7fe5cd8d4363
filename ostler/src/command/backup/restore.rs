//! Making a VM of a backup.
//!
//! Its disks come to one host as images, and the VM begins with them wherever it starts. Under another name
//! it is another VM; under its own it has the addresses that it had.

use protocol::api::Want;
use protocol::id::JobId;
use protocol::job::{JobKind, JobSpec};
use protocol::view::Freshness;

use super::RestoreArgs;
use super::kept::{Backup, Folder, stamp};
use crate::command::clone::{begin_with, likened, wanted};
use crate::command::images::{Place, await_images, places};
use crate::command::import::send_everywhere;
use crate::command::run::{check_name, start};
use crate::command::taking::Wanted;
use crate::exit::{Code, Failure, code_of};
use crate::picture::{Picture, chain};
use crate::session::Session;
use crate::show;

pub(super) async fn run(session: &Session, args: RestoreArgs) -> Result<Code, Failure> {
    let backup = newest(&args)?;
    let picture = session.picture().await?;
    picture.warn();
    let name = args.name.clone().unwrap_or_else(|| backup.told.vm.clone());
    check_name(&name)?;
    if picture.job(&name).is_ok() {
        let what = format!("there is a VM {name}, which a backup does not replace");
        let next = format!("restore it under another --name, or `ostler rm {name}` first");
        return Err(Failure::new(Code::Refused, what).next(next));
    }
    let (spec, images) = described(&backup, &name)?;
    let on = args.on.as_deref().map(|text| picture.host(text)).transpose()?;
    let on = on.map(|row| row.host.id.clone());
    let place = place(&picture, &args, backup.bytes())?;
    for (disk, Wanted { image, .. }) in backup.told.disks.iter().zip(&images) {
        let (host, file) = ((place.name.clone(), place.agent.clone()), backup.file(disk));
        show::note(&format!("{} goes to {} as image {image}", file.display(), place.name));
        // What the host has not got as it was written, it does not take.
        let digest = disk.sha256.to_string();
        let sent = send_everywhere(&session.client, vec![host], &file, &digest, image).await?;
        for (host, answer) in sent {
            answer.map_err(|error| {
                let what = format!("{host} did not take {}", file.display());
                let next = format!("ostler backup check {}", backup.path.display());
                Failure::new(code_of(&error), what).because(chain(&error)).next(next)
            })?;
        }
    }
    let names = images.iter().map(|wanted| &wanted.image);
    await_images(session, &place.host.id, names).await?;
    if session.is_without_controller() {
        return start(session, &session.picture().await?, &name, spec, on, !args.no_wait).await;
    }
    let want = Want::Run { job: name, spec, on };
    session.want_with_room(want, args.make_room, !args.no_wait).await
}

fn newest(args: &RestoreArgs) -> Result<Backup, Failure> {
    let backups = Folder::at(&args.backup)?.backups()?;
    let path = args.backup.display();
    let Some(first) = backups.first() else {
        let what = format!("there is no backup in {path}");
        return Err(Failure::new(Code::NotFound, what).next("ostler backup ls FOLDER"));
    };
    if backups.iter().any(|backup| backup.told.vm != first.told.vm) {
        let what = format!("{path} has backups of several VMs");
        return Err(Failure::usage(what).next(format!("ostler backup ls {path}; name one of them")));
    }
    Ok(backups.last().unwrap_or(first).clone())
}

/// The VM, and what images its disks are made from.
fn described(backup: &Backup, name: &JobId) -> Result<(JobSpec, Vec<Wanted>), Failure> {
    let told = &backup.told;
    let damaged = || {
        let what = format!("{} does not tell of a VM with these disks", backup.path.display());
        Failure::new(Code::Failed, what)
    };
    let vm = told.spec.as_vm().ok_or_else(damaged)?;
    let at = stamp(told.taken_ms);
    let images = wanted(vm, |disk| format!("{name}-{disk}-{at}"));
    let is_same = |(disk, wanted): (&super::kept::KeptDisk, &Wanted)| disk.name == wanted.disk;
    if told.disks.len() != images.len() || !told.disks.iter().zip(&images).all(is_same) {
        return Err(damaged());
    }
    let spec = if *name == told.vm {
        let mut vm = vm.clone();
        begin_with(&mut vm, &images);
        JobSpec { kind: JobKind::Vm(vm), ..told.spec.clone() }
    } else {
        likened(&told.spec, &images)?
    };
    spec.validate().map_err(|error| damaged().because(error.to_string()))?;
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
        let size = protocol::resources::Bytes(bytes);
        let what = format!("no host that is heard and not drained has room for {size}");
        Failure::new(Code::Refused, what).next("ostler hosts")
    })
}
