//! `ostler pause`, `resume`, `save`, `reset`, `reboot`: asked of the host itself, which needs nobody
//! else for them.

use protocol::api::RebootJob;
use protocol::id::JobId;
use protocol::job::{Job, JobRow, JobState, Reason};
use serde_json::{Value, json};
use transport::Method;

use super::run::tell;
use crate::cli::{ActArgs, RebootArgs};
use crate::exit::{Code, Failure};
use crate::follow::await_job;
use crate::picture::Picture;
use crate::session::Session;

/// How long a pause or a resume may take: a call to libvirt, which may wait for its own lock.
const PAUSE_MS_MAX: u64 = 40_000;

/// How long a save may take: the host gives up before.
const SAVE_MS_MAX: u64 = 660_000;

/// What is asked of the guest, and where that leads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    Pause,
    Resume,
    Save,
    Reset,
}

impl Act {
    fn word(self) -> &'static str {
        match self {
            Act::Pause => "pause",
            Act::Resume => "resume",
            Act::Save => "save",
            Act::Reset => "reset",
        }
    }

    /// How long to wait for the state it leads to; `None`: it leads to none.
    fn wait_ms(self) -> Option<u64> {
        match self {
            Act::Pause | Act::Resume => Some(PAUSE_MS_MAX),
            Act::Save => Some(SAVE_MS_MAX),
            Act::Reset => None,
        }
    }

    /// True when nothing more will happen: it is so, or it did not work, or the guest has ended.
    fn is_over(self, job: &Job) -> bool {
        self.is_done(job) || has_failed(job) || job.state.is_ended()
    }

    /// True when it has led to where it was to lead.
    fn is_done(self, job: &Job) -> bool {
        match self {
            Act::Pause => job.state == JobState::Paused,
            Act::Resume => job.state == JobState::Running,
            Act::Save => job.state == JobState::Stopped && job.reason == Some(Reason::Saved),
            Act::Reset => true,
        }
    }
}

pub(crate) async fn run(session: &Session, args: ActArgs, act: Act) -> Result<Code, Failure> {
    let wait_ms = act.wait_ms().filter(|_| !args.wait.no_wait);
    let is_over = |job: &Job| act.is_over(job);
    let job = ask(session, &args.name, act.word(), &json!(null), wait_ms, is_over).await?;
    let is_so = if wait_ms.is_some() { act.is_done(&job) } else { !has_failed(&job) };
    Ok(if is_so { Code::Ok } else { Code::Failed })
}

pub(crate) async fn reboot(session: &Session, args: RebootArgs) -> Result<Code, Failure> {
    let body = json!(RebootJob { grace_ms: args.grace.0 });
    let job = ask(session, &args.name, "reboot", &body, None, |_| true).await?;
    Ok(if has_failed(&job) { Code::Failed } else { Code::Ok })
}

fn has_failed(job: &Job) -> bool {
    matches!(job.reason, Some(Reason::ActionFailed { .. }))
}

async fn ask(
    session: &Session,
    name: &JobId,
    word: &str,
    body: &Value,
    wait_ms: Option<u64>,
    is_over: impl Fn(&Job) -> bool,
) -> Result<Job, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let row = at_host(session, &picture, name, word, body).await?;
    let mut job = row.job;
    if let Some(wait_ms) = wait_ms {
        let agent = picture.agent(&row.host);
        job = await_job(&session.client, &agent, name, wait_ms, is_over).await?;
    }
    tell(session, &job, &row.host_name);
    Ok(job)
}

/// Asks the host itself, and does not wait.
pub(crate) async fn at_host(
    session: &Session,
    picture: &Picture,
    name: &JobId,
    word: &str,
    body: &Value,
) -> Result<JobRow, Failure> {
    let row = picture.job(name)?;
    let agent = picture.agent(&row.host);
    let path = format!("/v1/jobs/{name}/{word}");
    let job = session.client.send::<_, Job>(Method::POST, &agent, &path, body).await?.body;
    Ok(JobRow { job, ..row })
}

#[cfg(test)]
mod tests {
    use protocol::job::JobSpec;
    use protocol::vm::VmSpec;

    use super::*;

    #[test]
    fn a_guest_that_ended_otherwise_was_neither_saved_nor_paused_nor_resumed() {
        let job = |state, reason| Job {
            reason,
            ..Job::of("web".parse().unwrap(), JobSpec::vm(VmSpec::default()), state)
        };
        let saved = job(JobState::Stopped, Some(Reason::Saved));
        assert!(Act::Save.is_over(&saved) && Act::Save.is_done(&saved));
        for reason in [Reason::Requested, Reason::GuestShutdown, Reason::Killed] {
            let ended = job(JobState::Stopped, Some(reason));
            for act in [Act::Save, Act::Pause, Act::Resume] {
                assert!(act.is_over(&ended) && !act.is_done(&ended), "{act:?} {ended:?}");
            }
        }
        assert!(Act::Pause.is_done(&job(JobState::Paused, None)));
        assert!(Act::Resume.is_done(&job(JobState::Running, None)));
    }
}
