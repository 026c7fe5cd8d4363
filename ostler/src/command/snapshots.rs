//! `ostler snapshots`: what the disks of VMs were at some moment, asked of the host itself, which needs
//! nobody else for it: listing, taking, going back, deleting.

use protocol::api::RevertJob;
use protocol::id::{HostId, JobId, Revision, SnapshotName};
use protocol::job::{Job, JobRow, Snapshot, SnapshotStage};
use protocol::vm::VmSpec;
use serde::Serialize;
use serde_json::{Value, json};
use transport::{Clock, Method};

use crate::exit::{Code, Failure};
use crate::follow::await_job;
use crate::picture::{Picture, has_left};
use crate::session::Session;
use crate::show;

/// How long a host may take: the longest is the end of a snapshot of many large disks.
const SNAPSHOT_MS_MAX: u64 = 600_000;

#[derive(Debug, clap::Args)]
pub(crate) struct SnapshotsArgs {
    #[command(subcommand)]
    command: Option<SnapshotsCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum SnapshotsCommand {
    /// Which snapshots there are (the default)
    Ls {
        /// Only of this VM
        vm: Option<JobId>,
    },
    /// Keep what all disks of a VM are now, whether it runs or not; its memory is not in it
    Take(NamedArgs),
    /// Make the disks of a stopped VM what they were; what was written since is lost
    Revert(NamedArgs),
    /// Keep a snapshot no longer; the disks stay as they are
    Rm(RmArgs),
}

#[derive(Debug, clap::Args)]
struct NamedArgs {
    /// The VM
    vm: JobId,
    /// The snapshot
    snapshot: SnapshotName,
    /// Return as soon as its host has written it down
    #[arg(long)]
    no_wait: bool,
}

#[derive(Debug, clap::Args)]
struct RmArgs {
    #[command(flatten)]
    named: NamedArgs,
    /// Of what is left of the VM on this host: its name, its id or the beginning of its id
    #[arg(long, value_name = "HOST")]
    on: Option<String>,
}

pub(crate) async fn run(session: &Session, args: SnapshotsArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    match args.command.unwrap_or(SnapshotsCommand::Ls { vm: None }) {
        SnapshotsCommand::Ls { vm } => ls(session, &picture, vm.as_ref()),
        SnapshotsCommand::Take(args) => take(session, &picture, args).await,
        SnapshotsCommand::Revert(args) => revert(session, &picture, args).await,
        SnapshotsCommand::Rm(args) => rm(session, &picture, args).await,
    }
}

/// A snapshot, and whose it is.
#[derive(Debug, Serialize)]
struct Shown {
    vm: JobId,
    host: String,
    #[serde(flatten)]
    snapshot: Snapshot,
}

fn ls(session: &Session, picture: &Picture, vm: Option<&JobId>) -> Result<Code, Failure> {
    if let Some(vm) = vm {
        picture.job(vm)?;
    }
    let rows = picture.jobs().into_iter().filter(|row| !has_left(&row.job));
    let rows: Vec<JobRow> = rows.collect();
    // In a pool they are beside the disks, and who had those before knows no more of them.
    let newest = |job: &Job| {
        let rows = rows.iter().map(|row| &row.job).filter(|row| row.id == job.id);
        rows.map(|row| row.revision).max() == Some(job.revision)
    };
    let is_in_pools = |job: &Job| job.spec.as_vm().is_some_and(VmSpec::is_in_pools);
    let rows = rows.iter().filter(|row| !is_in_pools(&row.job) || newest(&row.job)).cloned();
    let rows = rows.filter(|row| vm.is_none_or(|vm| row.job.id == *vm));
    let shown = rows.flat_map(|JobRow { job, host_name, .. }| {
        let of = |snapshot| Shown { vm: job.id.clone(), host: host_name.clone(), snapshot };
        job.snapshots.iter().cloned().map(of).collect::<Vec<_>>()
    });
    let shown: Vec<Shown> = shown.collect();
    if session.is_json {
        show::json_pretty(&json!({ "snapshots": shown }));
        return Ok(Code::Ok);
    }
    let now_ms = Clock::real().now().wall_ms;
    let cells = shown.into_iter().map(|Shown { vm, host, snapshot }| {
        let age = snapshot.taken_ms.map(|at_ms| show::age(now_ms.saturating_sub(at_ms)));
        let (age, size) = (age.unwrap_or_else(|| "-".to_owned()), snapshot.size().to_string());
        let Snapshot { name, stage, why, .. } = snapshot;
        let why = why.unwrap_or_default();
        [vm.to_string(), name.to_string(), age, size, host, stage.to_string(), why]
    });
    show::table(["VM", "SNAPSHOT", "AGE", "SIZE", "HOST", "STATE", ""], cells.collect());
    Ok(Code::Ok)
}

/// A name that is taken is refused here: whoever takes a snapshot counts on its being of now.
async fn take(session: &Session, picture: &Picture, args: NamedArgs) -> Result<Code, Failure> {
    let row = now(session, picture, &args.vm).await?;
    let known = row.job.snapshot(&args.snapshot).map(|snapshot| snapshot.stage);
    if known.is_some_and(|stage| stage != SnapshotStage::Failed) {
        let what = format!("{} has a snapshot {} already", args.vm, args.snapshot);
        let next = format!(
            "ostler snapshots; choose another name, or `ostler snapshots rm {} {}`",
            args.vm, args.snapshot
        );
        return Err(Failure::new(Code::Refused, what).next(next));
    }
    let path = path(&args);
    change(session, picture, row, &args, (Method::PUT, path, json!(null)), "taken").await
}

async fn revert(session: &Session, picture: &Picture, args: NamedArgs) -> Result<Code, Failure> {
    let row = now(session, picture, &args.vm).await?;
    let body = RevertJob { revision: Revision(row.job.revision.0 + 1) };
    let path = format!("{}/revert", path(&args));
    let asked = (Method::POST, path, json!(body));
    change(session, picture, row, &args, asked, "what its disks are again").await
}

async fn rm(session: &Session, picture: &Picture, args: RmArgs) -> Result<Code, Failure> {
    let RmArgs { named, on } = args;
    let on = on.as_deref().map(|on| picture.host(on)).transpose()?.map(|row| row.host.id.clone());
    let row = keeper(picture.job(&named.vm)?, picture.jobs(), &named.snapshot, on.as_ref())?;
    let path = path(&named);
    change(session, picture, row, &named, (Method::DELETE, path, json!(null)), "gone").await
}

/// The row whose host keeps a snapshot: that of the VM as it is now, or one that is left of it where it was before.
/// Whoever has it nowhere is told so by the host.
fn keeper(
    now: JobRow,
    all: Vec<JobRow>,
    name: &SnapshotName,
    on: Option<&HostId>,
) -> Result<JobRow, Failure> {
    let vm = &now.job.id;
    let rows = all.into_iter().filter(|row| row.job.id == *vm);
    if let Some(on) = on {
        let mut rows = rows.filter(|row| row.host == *on);
        return rows.next().ok_or_else(|| {
            let what = format!("nothing of {vm} is on {}", on.short());
            Failure::new(Code::NotFound, what).next(format!("ostler snapshots ls {vm}"))
        });
    }
    let mut left: Vec<JobRow> = rows.filter(|row| row.job.snapshot(name).is_some()).collect();
    if now.job.snapshot(name).is_some() || left.is_empty() {
        return Ok(now);
    }
    match left.len() {
        1 => Ok(left.remove(0)),
        count => {
            let what =
                format!("{count} hosts keep a snapshot {name} of {vm} from when it was there");
            Err(Failure::usage(what).next(format!("ostler snapshots rm {vm} {name} --on HOST")))
        }
    }
}

/// The job as its host has it now: a view may not have heard of the last change.
async fn now(session: &Session, picture: &Picture, vm: &JobId) -> Result<JobRow, Failure> {
    let row = picture.job(vm)?;
    let path = format!("/v1/jobs/{vm}");
    let job = session.client.get::<Job>(&picture.agent(&row.host), &path).await?;
    Ok(JobRow { job, ..row })
}

fn path(args: &NamedArgs) -> String {
    format!("/v1/jobs/{}/snapshots/{}", args.vm, args.snapshot)
}

/// Asks the host, and waits until it has come to an end with it.
async fn change(
    session: &Session,
    picture: &Picture,
    row: JobRow,
    args: &NamedArgs,
    (method, path, body): (Method, String, Value),
    done: &str,
) -> Result<Code, Failure> {
    let (agent, is_over) = (picture.agent(&row.host), |job: &Job| is_over(job, args));
    let asked = session.client.send::<_, Job>(method, &agent, &path, &body).await;
    let asked = asked
        .map_err(|error| Failure::from(error).next(format!("ostler snapshots ls {}", args.vm)));
    let mut job = asked?.body;
    if !args.no_wait {
        job = await_job(&session.client, &agent, &args.vm, SNAPSHOT_MS_MAX, is_over).await?;
    }
    let snapshot = job.snapshot(&args.snapshot);
    let failed = snapshot.and_then(|snapshot| snapshot.why.clone());
    if session.is_json {
        let (vm, host) = (&args.vm, &row.host_name);
        show::json(&json!({ "vm": vm, "host": host, "name": args.snapshot, "snapshot": snapshot }));
    } else {
        let how = match snapshot {
            Some(Snapshot { stage: SnapshotStage::Ready, .. }) | None => done.to_owned(),
            Some(snapshot) => snapshot.stage.to_string(),
        };
        let why = failed.as_ref().map_or(String::new(), |why| format!(": {why}"));
        let NamedArgs { vm, snapshot: name, .. } = args;
        let how = if failed.is_some() { "not ".to_owned() + done } else { how };
        show::line(&format!("snapshot {name} of {vm} on {} is {how}{why}", row.host_name));
    }
    Ok(if failed.is_some() { Code::Failed } else { Code::Ok })
}

/// True when nothing more happens by itself, or only what has failed is tried again.
fn is_over(job: &Job, args: &NamedArgs) -> bool {
    let at_it = job.snapshot(&args.snapshot).filter(|snapshot| snapshot.is_under_way());
    at_it.is_none_or(|snapshot| snapshot.why.is_some())
}

#[cfg(test)]
mod tests {
    use protocol::id::{Cursor, Epoch};
    use protocol::job::{JobSpec, JobState};
    use protocol::signed::SecretKey;

    use super::*;

    fn row(n: u8, state: JobState, snapshots: &[&str]) -> JobRow {
        let host = HostId::of(&SecretKey::from_seed([n; 32]).public());
        let vm = JobSpec::vm(VmSpec::default());
        let mut job = Job::of("web".parse().unwrap(), vm, state);
        let snapshot = |name: &&str| Snapshot {
            name: name.parse().unwrap(),
            stage: SnapshotStage::Ready,
            why: None,
            taken_ms: None,
            size_bytes: 1,
            promised_bytes: 0,
        };
        job.snapshots = snapshots.iter().map(snapshot).collect();
        let cursor = Cursor { epoch: Epoch(1), seq: 1 };
        JobRow { host, host_name: format!("h{n}"), cursor, age_ms: 0, job }
    }

    #[test]
    fn a_snapshot_is_deleted_where_it_is_kept() {
        let now = || row(1, JobState::Running, &["new"]);
        let of = |others: &[JobRow], name: &str, on: Option<&HostId>| {
            let all = others.iter().cloned().chain([now()]).collect();
            let kept = keeper(now(), all, &name.parse().unwrap(), on);
            kept.map(|row| row.host_name).map_err(|failure| failure.code)
        };
        let (left, more) =
            (row(2, JobState::Stopped, &["old", "new"]), row(3, JobState::Stopped, &["old"]));
        let (one, both) = (vec![left.clone()], vec![left, more.clone()]);
        assert_eq!(of(&one, "new", None), Ok("h1".to_owned()), "as it is now");
        assert_eq!(of(&one, "old", None), Ok("h2".to_owned()), "what a loss has left");
        assert_eq!(of(&one, "none", None), Ok("h1".to_owned()), "its host says so");
        assert_eq!(of(&both, "old", None), Err(Code::Usage));
        assert_eq!(of(&both, "old", Some(&more.host)), Ok("h3".to_owned()));
        assert_eq!(of(&one, "old", Some(&more.host)), Err(Code::NotFound));
    }
}
