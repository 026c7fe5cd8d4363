//! `ostler adopt`: a domain that runs on a host already becomes a job, by way of the controller and
//! with a ticket like any start, or by hand on a lone host.

use protocol::api::{DomainReply, PutJob, Want};
use protocol::id::{JobId, Revision};
use protocol::job::{Job, JobSpec};
use protocol::view::HostRow;
use transport::Method;

use super::run::tell;
use crate::cli::AdoptArgs;
use crate::exit::{Code, Failure};
use crate::follow::await_settled;
use crate::picture::Picture;
use crate::session::Session;

/// How long a host may take to keep a definition and write a name into it.
const ADOPT_MS_MAX: u64 = 60_000;

pub(crate) async fn run(session: &Session, args: AdoptArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let row = picture.host(&args.host)?;
    if let Some(job) = adopted_before(row, &args) {
        tell(session, job, &row.host.name);
        return Ok(Code::Ok);
    }
    let (job, spec) = described(session, &picture, row, &args).await?;
    if !session.is_without_controller() {
        let want = Want::Run { job, spec, on: Some(row.host.id.clone()), again: false };
        return session.want(want, !args.wait.no_wait).await;
    }
    let mut job = at_host(session, &picture, row, &job, spec).await?;
    if !args.wait.no_wait {
        let agent = picture.agent(&row.host.id);
        job = await_settled(&session.client, &agent, &job.id, ADOPT_MS_MAX).await?;
    }
    tell(session, &job, &row.host.name);
    Ok(if job.state.is_ended() { Code::Failed } else { Code::Ok })
}

/// The job that the domain would be, by its host's own word.
pub(crate) async fn described(
    session: &Session,
    picture: &Picture,
    row: &HostRow,
    args: &AdoptArgs,
) -> Result<(JobId, JobSpec), Failure> {
    let agent = picture.agent(&row.host.id);
    let path = format!("/v1/domains/{}", args.domain);
    let asked = session.client.get::<DomainReply>(&agent, &path).await;
    let DomainReply { domain, mut spec } = asked.map_err(|error| {
        Failure::from(error).next(format!("ostler inspect {} shows its domains", row.host.name))
    })?;
    spec.tenant = args.tenant.clone();
    let job = match &args.name {
        Some(name) => name.clone(),
        None => JobId::new(&domain.name).map_err(|error| {
            Failure::usage(format!("domain {:?} can't be called that here: {error}", domain.name))
                .next("give it another name with --name NAME")
        })?,
    };
    Ok((job, spec))
}

/// Asks the host itself, and does not wait.
pub(crate) async fn at_host(
    session: &Session,
    picture: &Picture,
    row: &HostRow,
    job: &JobId,
    spec: JobSpec,
) -> Result<Job, Failure> {
    let put = PutJob::of(Revision(1), spec);
    let (agent, path) = (picture.agent(&row.host.id), format!("/v1/jobs/{job}"));
    Ok(session.client.send::<_, Job>(Method::PUT, &agent, &path, &put).await?.body)
}

/// The job that the domain is already, by the name that is asked for.
fn adopted_before<'a>(row: &'a HostRow, args: &AdoptArgs) -> Option<&'a Job> {
    let is_it = |job: &Job| {
        let uuid = job.spec.adopted().map(|uuid| uuid.to_string());
        let is_named = match &args.name {
            Some(name) => job.id == *name,
            None => job.id.as_str() == args.domain || uuid.as_ref() == Some(&args.domain),
        };
        uuid.is_some() && is_named
    };
    row.jobs.values().map(AsRef::as_ref).find(|job| is_it(job))
}
