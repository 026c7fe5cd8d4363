//! `ostler start`: a stopped VM again, from the spec its host remembers, where its disks are.

use protocol::api::{PutJob, Want};
use protocol::id::Revision;
use protocol::job::{Job, JobSpec};
use transport::Method;

use super::run::tell;
use crate::cli::StartArgs;
use crate::exit::{Code, Failure};
use crate::follow::await_settled;
use crate::session::Session;

/// How long a lone host may take to start a guest.
const START_MS_MAX: u64 = 60_000;

pub(crate) async fn run(session: &Session, args: StartArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let row = picture.job(&args.name)?;
    if row.job.spec.as_vm().is_none() {
        let what = format!("{} is one of Ostler's own services", args.name);
        return Err(Failure::usage(what).next("ostler bootstrap keeps these running"));
    }
    let (spec, host) = (JobSpec::clone(&row.job.spec), row.host.clone());
    if !session.is_without_controller() {
        let want = Want::Run { job: args.name, spec, on: Some(host) };
        return session.want(want, !args.wait.no_wait).await;
    }
    if !row.job.state.is_ended() {
        tell(session, &row.job, &row.host_name);
        return Ok(Code::Ok);
    }
    let agent = picture.agent(&host);
    let revision = Revision(row.job.revision.0 + 1);
    let put = PutJob { revision, spec, ticket: None, run: None };
    let path = format!("/v1/jobs/{}", args.name);
    let reply = session.client.send::<_, Job>(Method::PUT, &agent, &path, &put).await?;
    let job = match args.wait.no_wait {
        true => reply.body,
        false => await_settled(&session.client, &agent, &args.name, START_MS_MAX).await?,
    };
    tell(session, &job, &row.host_name);
    Ok(if job.state.is_ended() { Code::Failed } else { Code::Ok })
}
