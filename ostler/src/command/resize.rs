//! `ostler resize`: other CPUs and memory for a VM, where it is. By the controller; with `--hosts`, by
//! the host itself, which needs nobody else as long as it has no trust or nothing grows.
//!
//! Done is done either way: what the guest cannot have at once is promised to it, and comes at its next
//! start. The last line says which.

use protocol::api::{ResizeJob, Want};
use protocol::id::Revision;
use protocol::job::{Job, Reason, ResizeStage};
use protocol::vm::SizeChange;
use transport::Method;

use super::run::tell;
use crate::cli::ResizeArgs;
use crate::exit::{Code, Failure};
use crate::follow::await_job;
use crate::session::Session;

/// How long a host may take: a guest has a minute to give memory up.
const RESIZE_MS_MAX: u64 = 120_000;

pub(crate) async fn run(session: &Session, args: ResizeArgs) -> Result<Code, Failure> {
    let size = SizeChange {
        vcpus: args.vcpus,
        memory_bytes: args.memory.map(|bytes| bytes.0),
        max_vcpus: args.max_vcpus,
        max_memory_bytes: args.max_memory.map(|bytes| bytes.0),
    };
    if !session.is_without_controller() {
        let want = Want::Resize { job: args.name, size };
        return session.want(want, !args.wait.no_wait).await;
    }
    let picture = session.picture().await?;
    picture.warn();
    let row = picture.job(&args.name)?;
    let agent = picture.agent(&row.host);
    let revision = Revision(row.job.revision.0 + 1);
    let resize = ResizeJob { revision, size, ticket: None, run: None };
    let path = format!("/v1/jobs/{}/resize", args.name);
    let reply = session.client.send::<_, Job>(Method::POST, &agent, &path, &resize).await?;
    let job = match args.wait.no_wait {
        true => reply.body,
        false => await_job(&session.client, &agent, &args.name, RESIZE_MS_MAX, is_settled).await?,
    };
    tell(session, &job, &row.host_name);
    let has_failed = matches!(job.reason, Some(Reason::ActionFailed { .. }));
    Ok(if has_failed { Code::Failed } else { Code::Ok })
}

/// True when its host is through with it.
pub(crate) fn is_settled(job: &Job) -> bool {
    job.resize.as_ref().is_none_or(|resize| resize.stage != ResizeStage::Changing)
}
