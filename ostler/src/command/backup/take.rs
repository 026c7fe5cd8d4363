//! Making backups of VMs that go on.

use protocol::host::ImageFacts;
use protocol::id::JobId;
use protocol::job::{JobKind, JobRow};
use protocol::resources::Bytes;
use serde_json::json;
use transport::Clock;

use super::TakeArgs;
use super::carry::bring;
use super::kept::{Backup, KeptDisk, Shelf, Told, stamp};
use crate::command::clone::wanted;
use crate::command::taking::{Origin, Taken, Wanted};
use crate::exit::{Code, Failure};
use crate::picture::{Picture, has_left};
use crate::session::Session;
use crate::show;

/// One after the other, so that a cluster is not read as fast as it can be. What fails for one VM is told and
/// the others go on.
pub(super) async fn run(session: &Session, args: TakeArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let vms = if args.all { all(&picture) } else { args.vms.clone() };
    if vms.is_empty() {
        let what = "there is no VM with disks of its own";
        return Err(Failure::new(Code::NotFound, what).next("ostler ps --all"));
    }
    let mut code = Code::Ok;
    for vm in &vms {
        match one(session, &picture, vm, &args).await {
            Ok(backup) => tell(session, &backup),
            Err(failure) if failure.code == Code::Interrupted => return Err(failure),
            Err(failure) if vms.len() == 1 => return Err(failure),
            Err(failure) => {
                code = failure.code;
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
    let at = show::moment(backup.told.taken_ms);
    show::line(&format!("{} as it was at {at} is in {path} ({size})", backup.told.vm));
}

/// VMs with disks that are Ostler's own to read. One-off jobs are made again from what they began with.
fn all(picture: &Picture) -> Vec<JobId> {
    let has_disks = |row: &JobRow| match &row.job.spec.kind {
        JobKind::Vm(vm) => {
            let has_run = !row.job.state.is_ended() || row.job.keeps_disks();
            vm.adopted.is_none() && !vm.disks.is_empty() && has_run
        }
        JobKind::OneOff(_) | JobKind::Service(_) => false,
    };
    let rows = picture.jobs_now().into_iter().filter(|row| !has_left(&row.job) && has_disks(row));
    let mut vms: Vec<JobId> = rows.map(|row| row.job.id).collect();
    vms.sort();
    vms.dedup();
    vms
}

async fn one(
    session: &Session,
    picture: &Picture,
    vm: &JobId,
    args: &TakeArgs,
) -> Result<Backup, Failure> {
    let origin = Origin::find(session, picture, vm).await?;
    let now = stamp(Clock::real().now().wall_ms);
    let wanted = wanted(origin.vm()?, |disk| format!("backup-{vm}-{disk}-{now}"));
    let shelf = Shelf::of(&args.to, vm)?;
    let taken = origin.take(None, &wanted, args.limit.map(|size| size.0)).await?;
    let carried = tokio::select! {
        carried = carry(session, &origin, &shelf, &taken) => carried,
        _ = tokio::signal::ctrl_c() => {
            Err(Failure::new(Code::Interrupted, format!("interrupted; there is no backup of {vm}")))
        }
    };
    for Wanted { image, .. } in &wanted {
        origin.forget(image).await;
    }
    let backup = carried?;
    if let Some(most) = args.keep {
        for gone in shelf.keep(vm, most)? {
            show::note(&format!("{} is deleted: {most} are kept", gone.display()));
        }
    }
    Ok(backup)
}

async fn carry(
    session: &Session,
    origin: &Origin<'_>,
    shelf: &Shelf,
    taken: &Taken,
) -> Result<Backup, Failure> {
    let draft = shelf.begin(taken.at_ms)?;
    let (vm, host) = (origin.job.id.clone(), origin.place.name.clone());
    let mut told = Told::of(vm, taken.at_ms, host, origin.job.spec.as_ref().clone());
    for (Wanted { disk, .. }, facts) in &taken.images {
        let file = format!("{disk}.qcow2");
        let to = draft.path().join(&file);
        if !shelf.link(facts, &to).await {
            let what = format!("disk {disk} of {}", origin.job.id);
            bring(&session.client, &origin.place.agent, facts, &to, &what).await?;
        }
        let ImageFacts { sha256, file_bytes, virtual_bytes, .. } = *facts;
        told.disks.push(KeptDisk { name: disk.clone(), file, sha256, file_bytes, virtual_bytes });
    }
    shelf.finish(draft, told)
}
