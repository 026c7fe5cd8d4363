//! `ostler resize`: other CPUs and memory for a VM, and larger disks, where it is. By the controller; with `--hosts`, by
//! the host itself, which needs nobody else as long as it has no trust or nothing grows.
//!
//! Done is done either way: what the guest cannot have at once is promised to it, and comes at its next
//! start. The last line says which.

use std::collections::BTreeMap;

use protocol::api::{ResizeJob, Want};
use protocol::id::{JobId, Revision};
use protocol::job::{Job, JobRow, Reason, ResizeStage};
use protocol::vm::SizeChange;
use transport::Method;

use super::run::tell;
use crate::cli::{DiskArg, ResizeArgs, WaitArgs};
use crate::exit::{Code, Failure};
use crate::follow::await_job;
use crate::picture::Picture;
use crate::session::Session;

/// How long a host may take: a guest has a minute to give memory up.
const RESIZE_MS_MAX: u64 = 120_000;

pub(crate) async fn run(session: &Session, args: ResizeArgs) -> Result<Code, Failure> {
    let mut size = asked(&args);
    if !args.disk.is_empty() {
        size.disks = named(&args.disk, &session.picture().await?.job(&args.name)?.job)?;
    }
    change(session, args.name, size, args.make_room, args.wait).await
}

/// Has a VM changed, by the controller or by its host.
pub(super) async fn change(
    session: &Session,
    name: JobId,
    size: SizeChange,
    makes_room: bool,
    wait: WaitArgs,
) -> Result<Code, Failure> {
    if !session.is_without_controller() {
        let want = Want::Resize { job: name, size };
        return session.want_with_room(want, makes_room, !wait.no_wait).await;
    }
    let picture = session.picture().await?;
    picture.warn();
    let row = at_host(session, &picture, &name, size).await?;
    let agent = picture.agent(&row.host);
    let job = match wait.no_wait {
        true => row.job,
        false => await_job(&session.client, &agent, &name, RESIZE_MS_MAX, is_settled).await?,
    };
    tell(session, &job, &row.host_name);
    let has_failed = matches!(job.reason, Some(Reason::ActionFailed { .. }));
    Ok(if has_failed { Code::Failed } else { Code::Ok })
}

/// What the words ask for, apart from disks; the rest stays.
pub(crate) fn asked(args: &ResizeArgs) -> SizeChange {
    SizeChange {
        vcpus: args.vcpus,
        memory_bytes: args.memory.map(|bytes| bytes.0),
        max_vcpus: args.max_vcpus,
        max_memory_bytes: args.max_memory.map(|bytes| bytes.0),
        ..SizeChange::default()
    }
}

/// Disks by the names that the VM has for them; the only disk of a VM needs no name.
fn named(disks: &[DiskArg], job: &Job) -> Result<BTreeMap<String, u64>, Failure> {
    let has = job.spec.as_vm().map_or(&[][..], |vm| &vm.disks);
    let names: Vec<&str> = has.iter().map(|disk| disk.name.as_str()).collect();
    let one = |disk: &DiskArg| {
        let name = match (&disk.name, names.as_slice()) {
            (Some(name), names) if names.contains(&name.as_str()) => name.clone(),
            (None, [only]) => (*only).to_owned(),
            (name, _) => {
                let what = match name {
                    Some(name) => format!("{} has no disk {name:?}", job.id),
                    None => format!("{} has {} disks, so say which", job.id, names.len()),
                };
                let next = format!("--disk NAME=SIZE, with one of: {}", names.join(", "));
                return Err(Failure::usage(what).next(next));
            }
        };
        Ok((name, disk.size.0))
    };
    disks.iter().map(one).collect()
}

/// Asks the host itself, and does not wait.
pub(crate) async fn at_host(
    session: &Session,
    picture: &Picture,
    job: &JobId,
    size: SizeChange,
) -> Result<JobRow, Failure> {
    let row = picture.job(job)?;
    let revision = Revision(row.job.revision.0 + 1);
    let resize = ResizeJob { revision, size, ticket: None, run: None };
    let (agent, path) = (picture.agent(&row.host), format!("/v1/jobs/{job}/resize"));
    let job = session.client.send::<_, Job>(Method::POST, &agent, &path, &resize).await?.body;
    Ok(JobRow { job, ..row })
}

/// True when its host is through with it.
pub(crate) fn is_settled(job: &Job) -> bool {
    job.resize.as_ref().is_none_or(|resize| resize.stage != ResizeStage::Changing)
}
