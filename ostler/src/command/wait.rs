//! `ostler wait`: until a job has ended, with its exit code told.

use protocol::job::{Job, JobState, Reason};

use super::run::tell;
use crate::cli::EndArgs;
use crate::exit::{Code, Failure};
use crate::follow::await_job;
use crate::session::Session;

/// Asked of the job's host, which needs nobody else for it.
pub(crate) async fn run(session: &Session, args: EndArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let row = picture.job(&args.name)?;
    let agent = picture.agent(&row.host);
    let wait_ms = args.timeout.0;
    let has_ended = |job: &Job| job.state.is_ended();
    let job = await_job(&session.client, &agent, &args.name, wait_ms, has_ended).await?;
    tell(session, &job, &row.host_name);
    Ok(verdict(&job))
}

/// Whether a job that has ended has done what it was to do.
pub(super) fn verdict(job: &Job) -> Code {
    let is_good = match (&job.spec.as_one_off(), &job.reason) {
        (_, Some(Reason::Exited { code })) => *code == 0,
        (Some(_), reason) => *reason == Some(Reason::GuestShutdown),
        (None, _) => true,
    };
    if is_good && job.state == JobState::Stopped { Code::Ok } else { Code::Failed }
}
