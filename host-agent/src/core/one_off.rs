//! The three ends of a one-off job: its guest is done, its time is over, or it has gone silent.
//!
//! ```text
//!            guest shuts down                exit code read
//!   running ──────────────────▶ stopping ───────────────────▶ stopped (exited, or guest_shutdown)
//!      └── deadline, silence ─▶ stopping (stop with grace) ──▶ stopped (deadline, idle)
//! ```
//!
//! Time is that since the machine's boot, so a new life of the agent goes on counting; after a reboot
//! of the machine nothing of the job is left to be measured. Silence is counted anew in each life.

use protocol::id::JobId;
use protocol::job::{JobState, Reason};
use transport::clock::Now;

use super::agent::Agent;
use super::input::Effect;
use super::ledger::{Intent, JobRecord};

/// How long a guest whose time is over may take to shut down.
const GRACE_MS: u64 = 10_000;

/// What was last seen of a job's console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heard {
    /// How many bytes there were.
    bytes: u64,
    /// Since when, in milliseconds since boot.
    since_ms: u64,
}

impl Agent {
    /// Ends what has run or been silent for too long, and listens to the others.
    pub(super) fn watch_one_offs(&mut self, now: Now, out: &mut Vec<Effect>) {
        let is_watched = |record: &JobRecord| {
            matches!(record.job.state, JobState::Running | JobState::Paused)
                && record.job.spec.as_one_off().is_some()
        };
        let watched = self.jobs.iter().filter(|(_, entry)| is_watched(&entry.record));
        let watched: Vec<JobId> = watched.map(|(id, _)| id.clone()).collect();
        for id in watched {
            self.watch_one_off(now, &id, out);
        }
    }

    fn watch_one_off(&mut self, now: Now, id: &JobId, out: &mut Vec<Effect>) {
        let Some(entry) = self.jobs.get(id) else { return };
        let record = &entry.record;
        let Some(limits) = record.job.spec.as_one_off() else { return };
        let since = |from_ms: u64| now.mono_ms.saturating_sub(from_ms);
        if record.tally.ran_from_ms.is_some_and(|from_ms| since(from_ms) >= limits.deadline_ms) {
            return self.end_one_off(now, id, Reason::Deadline, out);
        }
        let Some(idle_ms) = limits.idle_ms else { return };
        // A guest that stands still can't say anything.
        if record.job.state == JobState::Paused {
            self.jobs.change(id, |entry| entry.heard = None);
        } else if entry.heard.is_some_and(|heard| since(heard.since_ms) >= idle_ms) {
            self.end_one_off(now, id, Reason::Idle, out);
        } else {
            out.push(Effect::Listen(id.clone()));
        }
    }

    fn end_one_off(&mut self, now: Now, id: &JobId, why: Reason, out: &mut Vec<Effect>) {
        if let Ok(record) = self.record(id).cloned() {
            self.begin_stop(now, record, GRACE_MS, why, out);
        }
    }

    /// Its console has this many bytes by now; fewer than before when its log was turned over.
    pub(super) fn handle_heard(&mut self, now: Now, id: &JobId, bytes: u64) {
        self.jobs.change(id, |entry| {
            if entry.record.job.state == JobState::Running
                && entry.heard.is_none_or(|heard| heard.bytes != bytes)
            {
                entry.heard = Some(Heard { bytes, since_ms: now.mono_ms });
            }
        });
    }

    /// Its guest has shut down: what it has left as its exit code is read next.
    pub(super) fn conclude_one_off(
        &mut self,
        now: Now,
        mut record: JobRecord,
        out: &mut Vec<Effect>,
    ) {
        let id = record.job.id.clone();
        record.intent = Intent::Conclude;
        self.become_state(now, record, JobState::Stopping, Some(Reason::GuestShutdown), out);
        self.go_on(now, &id, out);
    }

    /// Its exit code has been read; `None`: it has left none.
    pub(super) fn become_exited(
        &mut self,
        now: Now,
        mut record: JobRecord,
        code: Option<i32>,
        out: &mut Vec<Effect>,
    ) {
        record.intent = Intent::Stop { grace_ms: 0 };
        let reason = code.map_or(Reason::GuestShutdown, |code| Reason::Exited { code });
        self.become_state(now, record, JobState::Stopped, Some(reason), out);
    }
}
