//! `ostler start`: a stopped VM again, from the spec its host remembers, where its disks are.

use protocol::api::{PutJob, Want};
use protocol::id::Revision;
use protocol::job::{Job, JobRow, JobSpec};
use protocol::vm::VmSpec;
use transport::Method;

use super::run::{by_budget, tell};
use crate::cli::StartArgs;
use crate::exit::{Code, Failure};
use crate::follow::await_settled;
use crate::picture::Picture;
use crate::session::Session;

/// How long a lone host may take to start a guest.
const START_MS_MAX: u64 = 60_000;

pub(crate) async fn run(session: &Session, args: StartArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let row = picture.job(&args.name)?;
    if args.budget && row.job.state.is_ended() {
        check_kind(&row)?;
        let (spec, is_waiting) = (JobSpec::clone(&row.job.spec), !args.wait.no_wait);
        return by_budget(session, &picture, args.name, spec, is_waiting).await;
    }
    if !session.is_without_controller() {
        return session.want(want(row)?, !args.wait.no_wait).await;
    }
    if !row.job.state.is_ended() {
        tell(session, &row.job, &row.host_name);
        return Ok(Code::Ok);
    }
    let agent = picture.agent(&row.host);
    let row = at_host(session, &picture, row).await?;
    let job = match args.wait.no_wait {
        true => row.job,
        false => await_settled(&session.client, &agent, &args.name, START_MS_MAX).await?,
    };
    tell(session, &job, &row.host_name);
    Ok(if job.state.is_ended() { Code::Failed } else { Code::Ok })
}

/// What a controller is asked for: the VM as it was, where its disks are. Those in shared pools are
/// wherever the pool is.
pub(crate) fn want(row: JobRow) -> Result<Want, Failure> {
    check_kind(&row)?;
    let spec = JobSpec::clone(&row.job.spec);
    let may_be_elsewhere = spec.as_vm().is_some_and(VmSpec::is_in_pools);
    Ok(Want::Run {
        job: row.job.id,
        spec,
        on: (!may_be_elsewhere).then_some(row.host),
        again: true,
    })
}

/// Asks the host itself, and does not wait.
pub(crate) async fn at_host(
    session: &Session,
    picture: &Picture,
    row: JobRow,
) -> Result<JobRow, Failure> {
    check_kind(&row)?;
    let revision = Revision(row.job.revision.0 + 1);
    let spec = JobSpec::clone(&row.job.spec);
    let put = PutJob { must_exist: true, ..PutJob::of(revision, spec) };
    let (agent, path) = (picture.agent(&row.host), format!("/v1/jobs/{}", row.job.id));
    let job = session.client.send::<_, Job>(Method::PUT, &agent, &path, &put).await?.body;
    Ok(JobRow { job, ..row })
}

fn check_kind(row: &JobRow) -> Result<(), Failure> {
    if row.job.spec.as_vm().is_some() {
        return Ok(());
    }
    if row.job.spec.as_budget().is_some() {
        let what = format!("{} is a budget, by which VMs are started", row.job.id);
        return Err(Failure::usage(what).next("ostler run --budget --name NAME"));
    }
    let what = format!("{} is one of Ostler's own services", row.job.id);
    Err(Failure::usage(what).next("ostler bootstrap keeps these running"))
}
