//! `ostler stop`: by the controller; with `--hosts`, by the host itself, which needs nobody else.

use protocol::api::{StopJob, Want};
use protocol::id::JobId;
use protocol::job::{Job, JobRow};
use transport::Method;

use super::expect::note_if_expected;
use super::run::tell;
use crate::cli::StopArgs;
use crate::exit::{Code, Failure};
use crate::follow::await_ended;
use crate::picture::Picture;
use crate::session::Session;

/// How much longer than the grace a stop may take: destroying, and writing it down.
pub(super) const STOP_MS_MORE: u64 = 30_000;

pub(crate) async fn run(session: &Session, args: StopArgs) -> Result<Code, Failure> {
    let grace_ms = if args.force { 0 } else { args.grace.0 };
    if !session.is_without_controller() {
        let want = Want::stop(args.name.clone(), grace_ms);
        let code = session.want(want, !args.wait.no_wait).await?;
        let until = format!("it stays stopped until `ostler start {}`", args.name);
        note_if_expected(session, &args.name, &until).await;
        return Ok(code);
    }
    let picture = session.picture().await?;
    picture.warn();
    let row = at_host(session, &picture, &args.name, grace_ms).await?;
    let agent = picture.agent(&row.host);
    let job = match args.wait.no_wait {
        true => row.job,
        false => await_ended(&session.client, &agent, &args.name, grace_ms + STOP_MS_MORE).await?,
    };
    tell(session, &job, &row.host_name);
    Ok(Code::Ok)
}

/// Asks the host itself, and does not wait.
pub(crate) async fn at_host(
    session: &Session,
    picture: &Picture,
    name: &JobId,
    grace_ms: u64,
) -> Result<JobRow, Failure> {
    let row = picture.job(name)?;
    let agent = picture.agent(&row.host);
    let path = format!("/v1/jobs/{name}/stop");
    let stop = StopJob::within(grace_ms);
    let job = session.client.send::<_, Job>(Method::POST, &agent, &path, &stop).await?.body;
    Ok(JobRow { job, ..row })
}
