//! Making backups of VMs that go on.

use protocol::host::ImageFacts;
use protocol::id::JobId;
use protocol::job::{JobKind, JobRow};
use protocol::resources::Bytes;
use serde_json::json;

use super::TakeArgs;
use super::carry::bring;
use super::kept::{Backup, KeptDisk, Manifest, Shelf};
use crate::command::taking::{DiskImage, Original, Taken, images_for};
use crate::exit::{Code, Failure};
use crate::interrupt::Interrupts;
use crate::picture::{Picture, has_left};
use crate::session::Session;
use crate::show;

/// One after the other, so that a cluster is not read as fast as it can be. What fails for one VM is told and
/// the others go on.
pub(super) async fn run(session: &Session, args: TakeArgs) -> Result<Code, Failure> {
    let interrupts = Interrupts::listen()?;
    let picture = session.picture().await?;
    picture.warn();
    let vms = if args.all { all(&picture) } else { args.vms.clone() };
    if vms.is_empty() {
        let what = "there is no VM with disks of its own";
        return Err(Failure::new(Code::NotFound, what).next("ostler ps --all"));
    }
    let mut code = Code::Ok;
    for vm in &vms {
        interrupts.check(&format!("no backup of {vm}, and of those after it"))?;
        match one(session, &interrupts, &picture, vm, &args).await {
            Ok(()) => {}
            Err(failure) if failure.code == Code::Interrupted => return Err(failure),
            Err(failure) if vms.len() == 1 => return Err(failure),
            Err(failure) => {
                code = if code == Code::Ok { failure.code } else { code };
                failure.tell(session.is_json);
            }
        }
    }
    Ok(code)
}

fn tell(session: &Session, backup: &Backup) {
    if session.is_json {
        show::json(&json!({ "backup": backup.json() }));
        return;
    }
    let (path, size) = (backup.path.display(), Bytes(backup.bytes()));
    let at = show::moment(backup.manifest.taken_ms);
    show::line(&format!("{} as it was at {at} is in {path} ({size})", backup.manifest.vm));
}

/// VMs with disks that are Ostler's own to read. One-off jobs are made again from what they began with.
fn all(picture: &Picture) -> Vec<JobId> {
    let has_disks = |row: &JobRow| match &row.job.spec.kind {
        JobKind::Vm(vm) => {
            let has_run = !row.job.state.is_ended() || row.job.keeps_disks();
            vm.adopted.is_none() && !vm.disks.is_empty() && has_run
        }
        JobKind::OneOff(_) | JobKind::Service(_) | JobKind::Budget(_) => false,
    };
    for JobRow { job, .. } in picture.jobs_now() {
        if job.spec.adopted().is_some() {
            show::note(&format!(
                "{} is left out: it is adopted, and its disks are its own",
                job.id
            ));
        }
    }
    let is_apart = |row: &JobRow| {
        let vm = row.job.spec.as_vm();
        vm.is_some_and(|vm| !vm.bytes_by_pool().is_empty() && vm.sole_pool().is_none())
    };
    let rows = picture.jobs_now().into_iter().filter(|row| !has_left(&row.job) && has_disks(row));
    let (apart, together): (Vec<JobRow>, Vec<JobRow>) = rows.partition(is_apart);
    for JobRow { job, .. } in apart {
        show::note(&format!(
            "warning: {} is left out: its disks are in several places, and have no moment in common",
            job.id
        ));
    }
    let mut vms: Vec<JobId> = together.into_iter().map(|row| row.job.id).collect();
    vms.sort();
    vms.dedup();
    vms
}

async fn one(
    session: &Session,
    interrupts: &Interrupts,
    picture: &Picture,
    vm: &JobId,
    args: &TakeArgs,
) -> Result<(), Failure> {
    let mut original = Original::find(session, interrupts, picture, vm).await?;
    let images = images_for(&format!("backup-{vm}"), original.vm()?);
    let shelf = Shelf::of(&args.to, vm)?;
    let taken = original.take(None, &images, args.limit.map(|size| size.0)).await?;
    let carried = tokio::select! {
        carried = carry(session, &original, &shelf, &taken) => carried,
        () = interrupts.any() => {
            Err(Failure::new(Code::Interrupted, format!("interrupted: there is no backup of {vm}")))
        }
    };
    for DiskImage { name, .. } in &images {
        original.forget(name).await;
    }
    let backup = carried?;
    tell(session, &backup);
    if let Some(later) = shelf.later_than(&backup) {
        show::note(&format!(
            "warning: {} says that it is later: was a host's clock wrong? `restore` of the folder takes that one",
            later.path.display()
        ));
    }
    if let Some(most) = args.keep {
        for gone in shelf.keep(&backup, most)? {
            show::note(&format!("{} is deleted: {most} are kept", gone.display()));
        }
    }
    Ok(())
}

async fn carry(
    session: &Session,
    original: &Original<'_>,
    shelf: &Shelf,
    taken: &Taken,
) -> Result<Backup, Failure> {
    let draft = shelf.begin(taken.at_ms)?;
    let (vm, host) = (original.job.id.clone(), original.place.name.clone());
    let spec = original.job.spec.as_ref().clone();
    let mut manifest = Manifest::of(vm.clone(), taken.at_ms, host, spec);
    for (DiskImage { disk, .. }, facts) in &taken.images {
        let file = format!("{disk}.qcow2");
        let to = draft.path().join(&file);
        if !shelf.link(&vm, facts, &to).await {
            let what = format!("disk {disk} of {vm}");
            bring(&session.client, &original.place.agent, facts, &to, &what).await?;
        }
        let ImageFacts { sha256, file_bytes, virtual_bytes, .. } = *facts;
        let name = disk.clone();
        manifest.disks.push(KeptDisk { name, file, sha256, file_bytes, virtual_bytes });
    }
    // A disk that came while the images were made is in none of them: of that no VM could be made.
    let backup = Backup { path: draft.path().to_owned(), manifest };
    backup.vm()?;
    shelf.finish(draft, backup.manifest)
}
