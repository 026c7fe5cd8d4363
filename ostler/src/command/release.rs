//! `ostler release`: an adopted VM is nobody's job again. Asked of the host itself, which gives up what
//! it holds and needs nobody else for that.

use protocol::api::DomainReply;
use serde_json::json;

use super::act;
use crate::cli::ReleaseArgs;
use crate::exit::{Code, Failure};
use crate::follow::await_gone;
use crate::session::Session;
use crate::show;

/// How long a host may take to put a definition back.
const RELEASE_MS_MAX: u64 = 60_000;

pub(crate) async fn run(session: &Session, args: ReleaseArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let row = act::at_host(session, &picture, &args.name, "release", &json!(null)).await?;
    let agent = picture.agent(&row.host);
    let uuid = row.job.spec.adopted().map(|uuid| uuid.to_string()).unwrap_or_default();
    if let Some(why) = await_gone(&session.client, &agent, &args.name, RELEASE_MS_MAX).await? {
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
