//! `ostler adopt`: a domain that runs on a host already becomes a job, by way of the controller and
//! with a ticket like any start, or by hand on a lone host.

use protocol::api::{DomainReply, PutJob, Want};
use protocol::id::{JobId, Revision};
use protocol::job::Job;
use protocol::view::HostRow;
use transport::Method;

use super::run::tell;
use crate::cli::AdoptArgs;
use crate::exit::{Code, Failure};
use crate::follow::await_settled;
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
    let agent = picture.agent(&row.host.id);
    let path = format!("/v1/domains/{}", args.domain);
    let asked = session.client.get::<DomainReply>(&agent, &path).await;
    let DomainReply { domain, mut spec } = asked.map_err(|error| {
        Failure::from(error).next(format!("ostler inspect {} shows its domains", row.host.name))
    })?;
    spec.tenant = args.tenant;
    let job = match args.name {
        Some(name) => name,
        None => JobId::new(&domain.name).map_err(|error| {
            Failure::usage(format!("domain {:?} can't be called that here: {error}", domain.name))
                .next("give it another name with --name NAME")
        })?,
    };
    if !session.is_without_controller() {
        let want = Want::Run { job, spec, on: Some(row.host.id.clone()) };
        return session.want(want, !args.wait.no_wait).await;
    }
    let put = PutJob { revision: Revision(1), spec, ticket: None, run: None };
    let path = format!("/v1/jobs/{job}");
    let taken = session.client.send::<_, Job>(Method::PUT, &agent, &path, &put).await?;
    let job = match args.wait.no_wait {
        true => taken.body,
        false => await_settled(&session.client, &agent, &job, ADOPT_MS_MAX).await?,
    };
    tell(session, &job, &row.host.name);
    Ok(if job.state.is_ended() { Code::Failed } else { Code::Ok })
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
