//! `ostler ps`: the VMs, where they are, and how old that knowledge is.

use protocol::job::{JobRow, address_in_short};
use protocol::resources::Bytes;
use serde_json::json;
use transport::Clock;

use crate::cli::PsArgs;
use crate::exit::{Code, Failure};
use crate::picture::has_left;
use crate::session::Session;
use crate::show;

pub(crate) async fn run(session: &Session, args: PsArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    let mut jobs = if args.all { picture.jobs() } else { picture.jobs_now() };
    jobs.retain(|row| args.all || (row.job.spec.as_vm().is_some() && !has_left(&row.job)));
    if session.is_json {
        show::json_pretty(&json!({ "jobs": jobs, "warnings": picture.warnings }));
        return Ok(Code::Ok);
    }
    picture.warn();
    let now_ms = Clock::real().now().wall_ms;
    let header = ["NAME", "STATE", "HOST", "VCPUS", "MEMORY", "ADDRESS", "SINCE", "AGE", ""];
    show::table(header, jobs.iter().map(|row| cells(row, now_ms)).collect());
    Ok(Code::Ok)
}

fn cells(row: &JobRow, now_ms: u64) -> [String; 9] {
    let JobRow { host_name, age_ms, job, .. } = row;
    let (vcpus, memory) = job.spec.counts().map_or(("-".into(), "-".into()), |size| {
        (size.vcpus.to_string(), Bytes(size.memory_bytes).to_string())
    });
    let since = show::age(now_ms.saturating_sub(job.since_ms));
    let endpoint = job.endpoint.as_ref().map(|endpoint| endpoint.url.clone());
    let why = job.reason.as_ref().map(ToString::to_string).or(endpoint);
    let protected = job.spec.is_protected().then(|| "protected".to_owned());
    let by = job.budget.as_ref().map(|budget| format!("by budget {budget}"));
    let why = why.into_iter().chain(by).chain(protected).chain(job.spec.rank_words());
    let why = why.chain(job.resize_words()).chain(job.snapshot_words());
    let why: Vec<String> = why.collect();
    let why = why.join("; ");
    [
        job.id.to_string(),
        job.state.to_string(),
        host_name.clone(),
        vcpus,
        memory,
        address_in_short(&job.cards).unwrap_or_else(|| "-".into()),
        since,
        show::age(*age_ms),
        why,
    ]
}
