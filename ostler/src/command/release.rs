//! `ostler release`: an adopted VM is nobody's job again. Asked of the host itself, which gives up what
//! it holds and needs nobody else for that.

use protocol::api::DomainReply;
use protocol::job::Job;
use serde_json::json;
use transport::Clock;

use super::act;
use crate::cli::ReleaseArgs;
use crate::exit::{Code, Failure};
use crate::session::Session;
use crate::show;

/// How long a host may take to put a definition back.
const RELEASE_MS_MAX: u64 = 60_000;

pub(crate) async fn run(session: &Session, args: ReleaseArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let row = act::at_host(session, &picture, &args.name, "release", &json!(null)).await?;
    let agent = picture.agent(&row.host);
    let path = format!("/v1/jobs/{}", args.name);
    let uuid = row.job.spec.adopted().map(|uuid| uuid.to_string()).unwrap_or_default();
    let clock = Clock::real();
    let deadline_ms = clock.now().mono_ms + RELEASE_MS_MAX;
    let last = loop {
        match session.client.get::<Job>(&agent, &path).await {
            Err(error) if error.problem().is_some_and(|p| p.name() == "no-such-job") => break None,
            Err(error) if !error.is_retriable() => return Err(error.into()),
            answer if clock.now().mono_ms >= deadline_ms => break Some(answer),
            _ => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    };
    if let Some(last) = last {
        let why = match last {
            Ok(job) => job.reason.map_or(job.state.to_string(), |reason| reason.to_string()),
            Err(error) => error.to_string(),
        };
        let what = format!("{} is still being released: {why}", args.name);
        return Err(Failure::new(Code::Unreachable, what)
            .next(format!("ostler inspect {}; the host goes on trying", args.name)));
    }
    let there = session.client.get::<DomainReply>(&agent, &format!("/v1/domains/{uuid}")).await;
    let domain = there.ok().map(|reply| reply.domain);
    if session.is_json {
        show::json(&json!({ "released": args.name, "host": row.host, "domain": domain }));
        return Ok(Code::Ok);
    }
    show::line(&match domain {
        Some(domain) => {
            let state = if domain.is_active { "runs" } else { "is off" };
            let name = domain.name;
            format!("{} is released: domain {name} {state} on {}", args.name, row.host_name)
        }
        None => format!("{} is released; its domain is gone from {}", args.name, row.host_name),
    });
    Ok(Code::Ok)
}
