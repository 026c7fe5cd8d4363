//! What people do to a guest between its start and its end: pause, resume, save, reset, reboot.
//!
//! Pause, resume and save are meant to last, so they are intents: durable before the answer, and
//! done again by the next life of the agent if need be. A reset or reboot is a moment; it is begun
//! at once or refused, and forgotten with the agent.
//!
//! ```text
//!   running ──pause──▶ paused ──resume──▶ running      running/paused ──save──▶ stopping ──▶ stopped
//! ```

use protocol::id::JobId;
use protocol::job::{JobState, Reason};
use protocol::refusal::Refusal;
use transport::clock::Now;

use super::agent::{Agent, UnderWay, WorkKind};
use super::input::{Effect, Reply, Work, WorkId, WorkOutcome};
use super::ledger::{Intent, JobRecord};
use super::protecting::check_unprotected;
use super::resizing::check_settled;

/// How long a caller waits before it asks again while other work of the job is under way. Such work
/// is a call to libvirt: milliseconds.
const RETRY_MS: u64 = 500;

/// Something to do to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Stop its CPUs.
    Pause,
    /// Let them run again.
    Resume,
    /// Write its memory to disk and end it.
    Save,
    /// Press its reset button.
    Reset,
    /// Ask it to reboot; reset it when this much time has passed.
    Reboot {
        /// How long it may take, in milliseconds.
        grace_ms: u64,
    },
}

impl Agent {
    pub(super) fn act(
        &mut self,
        now: Now,
        id: &JobId,
        act: Act,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let mut record = self.record(id)?.clone();
        if record.job.spec.as_vm().is_none() {
            let message = format!("job {id} is no VM, and only stops and starts");
            return Err(Refusal::Invalid { message });
        }
        if record.job.spec.as_one_off().is_some() && act == Act::Save {
            let message = format!("job {id} is to come to an end: pause it, or stop it");
            return Err(Refusal::Invalid { message });
        }
        let is_saved = record.job.reason == Some(Reason::Saved);
        match (record.job.state, &record.intent, act) {
            (JobState::Running | JobState::Paused, Intent::Pause, Act::Pause)
            | (JobState::Running | JobState::Paused, Intent::Run, Act::Resume)
            | (JobState::Stopping, Intent::Save, Act::Save) => {
                return Ok(Reply::AlreadySo(Box::new(record.job)));
            }
            (JobState::Stopped, _, Act::Save) if is_saved => {
                return Ok(Reply::AlreadySo(Box::new(record.job)));
            }
            (JobState::Running | JobState::Paused, Intent::Run, Act::Pause) => {
                record.intent = Intent::Pause;
                self.insert(now, record, out);
            }
            (JobState::Running | JobState::Paused, Intent::Pause, Act::Resume) => {
                record.intent = Intent::Run;
                self.insert(now, record, out);
            }
            (JobState::Running | JobState::Paused, Intent::Run | Intent::Pause, Act::Save) => {
                check_unprotected(&record.job, None)?;
                check_settled(&record.job, "saved")?;
                record.intent = Intent::Save;
                self.become_state(now, record, JobState::Stopping, Some(Reason::Requested), out);
                self.offers.end_of_job(id);
            }
            (JobState::Running, Intent::Run, Act::Reset) => {
                self.begin_moment(id, Work::ResetVm, out)?;
            }
            (JobState::Running, Intent::Run, Act::Reboot { grace_ms }) => {
                self.begin_moment(id, Work::RebootVm { grace_ms }, out)?;
            }
            (state, _, act) => {
                let (job, needed) = (id.clone(), needed_for(act).to_owned());
                return Err(Refusal::WrongState { job, state, needed });
            }
        }
        self.go_on(now, id, out);
        Ok(Reply::Accepted(Box::new(self.record(id)?.job.clone())))
    }

    /// Begins what is not remembered, unless other work of the job is under way.
    fn begin_moment(
        &mut self,
        id: &JobId,
        work: Work,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let what = format!("other work of job {id} is under way");
        let busy = Refusal::Busy { what, limit: 1, retry_after_ms: RETRY_MS };
        self.works += 1;
        let work_id = WorkId(self.works);
        if !self.has_listed || self.jobs.get(id).is_none_or(|entry| entry.work.is_some()) {
            return Err(busy);
        }
        let work_begun = UnderWay { id: work_id, kind: WorkKind::Reboot };
        self.jobs.change(id, |entry| entry.work = Some(work_begun));
        let uuid = self.domain_of(id);
        out.push(Effect::Work {
            job: id.clone(),
            id: work_id,
            uuid,
            work,
            turn: None,
            cpus: Box::default(),
        });
        Ok(())
    }

    /// What the end of such work means.
    pub(super) fn conclude_act(
        &mut self,
        now: Now,
        mut record: JobRecord,
        kind: WorkKind,
        outcome: WorkOutcome,
        out: &mut Vec<Effect>,
    ) {
        let is_alive = matches!(record.job.state, JobState::Running | JobState::Paused);
        match (kind, outcome) {
            (WorkKind::Pause, WorkOutcome::Done) if is_alive => {
                self.become_state(now, record, JobState::Paused, Some(Reason::Requested), out);
            }
            (WorkKind::Resume, WorkOutcome::Done) if is_alive => {
                self.become_state(now, record, JobState::Running, None, out);
            }
            (WorkKind::Save, WorkOutcome::Done) if record.job.state == JobState::Stopping => {
                record.intent = Intent::Stop { grace_ms: 0 };
                self.become_state(now, record, JobState::Stopped, Some(Reason::Saved), out);
            }
            (_, WorkOutcome::Failed(message)) => {
                self.become_undone(now, record, kind, message, out);
            }
            _ => {}
        }
    }

    /// It goes on as before, and says why.
    fn become_undone(
        &mut self,
        now: Now,
        mut record: JobRecord,
        kind: WorkKind,
        message: String,
        out: &mut Vec<Effect>,
    ) {
        let reason = Some(Reason::ActionFailed { message });
        match (kind, &record.intent) {
            (WorkKind::Pause, Intent::Pause) => record.intent = Intent::Run,
            (WorkKind::Resume, Intent::Run) => record.intent = Intent::Pause,
            (WorkKind::Save, Intent::Save) => {
                record.intent = Intent::Run;
                return self.become_state(now, record, JobState::Running, reason, out);
            }
            (WorkKind::Reboot, Intent::Run) => {}
            // Somebody wants something else by now, and it is not this that failed.
            _ => return,
        }
        record.job.reason = reason;
        self.insert(now, record, out);
    }
}

fn needed_for(act: Act) -> &'static str {
    match act {
        Act::Pause => "only a running guest can be paused",
        Act::Resume => "only a paused guest can be resumed",
        Act::Save => "only a running or paused guest can be saved",
        Act::Reset | Act::Reboot { .. } => "only a running guest can be reset or rebooted",
    }
}
