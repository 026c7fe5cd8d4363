//! What becomes of a host's jobs when it hears that it was said to be off (protocol §8): whatever
//! it held is over, and somebody else may run it.
//!
//! ```text
//!   document names this host as off ──▶ same write: offers ended, and of each job with a hold
//!       alive or on its way ──▶ stopping (fenced) ──▶ stopped (fenced): a controller starts it where it can
//!                                     ▲                 │
//!                                     └─ its guest comes all the same, by a migration that was under way
//!       being stopped       ──▶ stopping, at once, and ends as it would have
//!       being sent away     ──▶ stopping (fenced), at once: the sending is cancelled, and not waited for
//!       ended               ──▶ as it was, without the hold
//!       a budget            ──▶ stopping (fenced), until the last VM by it has ended
//! ```
//!
//! The document and the ends are one transaction, so no later life of the agent knows the one without the
//! other; and before the document nothing is started after a reboot, because the arbiters obey it already
//! (`restarts`). A hold is listed until its guest is gone, as ever (R13).

use protocol::job::{JobState, Reason};
use transport::clock::Now;

use super::agent::{Agent, WorkKind};
use super::input::Effect;
use super::ledger::{Intent, JobRecord};

impl Agent {
    /// Ends whatever was taken by an older document than the one in force now.
    pub(super) fn end_fenced(&mut self, now: Now, out: &mut Vec<Effect>) {
        let records = self.jobs.values().map(|entry| &entry.record);
        let held = records.filter(|record| record.job.has_right());
        // What is deleted is on its way to nothing, and a one-off job whose guest has ended has ended.
        let ends =
            |record: &&JobRecord| !matches!(record.intent, Intent::Delete | Intent::Conclude);
        let held: Vec<JobRecord> = held.filter(ends).cloned().collect();
        for record in held {
            self.take_right(now, record, out);
        }
        self.end_unused_budgets(now, out);
    }

    fn take_right(&mut self, now: Now, mut record: JobRecord, out: &mut Vec<Effect>) {
        let Some(lost) = self.hold_of(&record.job) else { return };
        let (id, state) = (record.job.id.clone(), record.job.state);
        if record.job.spec.as_budget().is_some() {
            // It is held, and stated, for as long as a guest lives by it.
            if state != JobState::Stopping {
                let why = Some(Reason::Fenced { lost, ran: false });
                self.end_budget(now, record, why, out);
            }
            return;
        }
        if state.is_ended() {
            record.job.hold = None;
            record.job.budget = None;
            record.debits.clear();
            record.issued = None;
            return self.insert(now, record, out);
        }
        let is_handed = matches!(record.intent, Intent::Receive { is_handed: true, .. });
        let is_sent = state == JobState::MigratingOut;
        let ran = matches!(state, JobState::Running | JobState::Paused) || is_sent || is_handed;
        record.intent = Intent::Stop { grace_ms: 0 };
        record.job.migration = None;
        if state == JobState::Stopping {
            // Somebody wants it to end, and to stay so.
            self.insert(now, record, out);
        } else {
            let why = Some(Reason::Fenced { lost, ran });
            self.become_state(now, record, JobState::Stopping, why, out);
        }
        if is_sent {
            self.cancel_send(&id, out);
        }
        self.overtake(&id, &[WorkKind::Stop, WorkKind::Reboot, WorkKind::Send]);
        self.go_on(now, &id, out);
    }
}
