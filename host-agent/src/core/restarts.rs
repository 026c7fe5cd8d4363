//! Starting again what has ended by itself: after which ends, when, and when no more.
//!
//! ```text
//!   running ── ended ──▶ starting (restarting: waits 1, 2, 4, 8, 16 s) ──▶ running
//!      │                     ▲
//!      ├── host rebooted ────┘ at once, with autostart and a right that is still shown; also in the middle of
//!      │                       a migration, unless it was let go, or has not been handed over yet
//!      └── ended for the sixth time in ten minutes ──▶ crashed (flapping)
//! ```
//!
//! While it waits, a job keeps its hold and its room: it is on its way, and nothing else may take its
//! place. After a reboot of the host a hold says only what was so before. A quorum of arbiters has to
//! say that the trust document under which it was given is still in force; what took the host off the
//! roster meanwhile, or may have, would have been a newer one.

use protocol::job::{JobState, Reason};
use protocol::vm::Restart;
use transport::clock::Now;

use super::agent::Agent;
use super::input::{Effect, Standing};
use super::ledger::{Intent, JobRecord};
use super::resizing::is_changing;

/// How long the first restart waits; each further one twice as long.
const BACKOFF_MS_MIN: u64 = 1_000;
/// Restarts within the window before a host gives up: the last of them has waited 16 s, so what ends
/// this often does not end by chance.
const RESTARTS_MAX: usize = 5;
/// A restart longer ago than this is forgotten.
const WINDOW_MS: u64 = 600_000;

impl Agent {
    /// A guest has ended by itself: it is started again later, or has ended.
    pub(super) fn become_ended(
        &mut self,
        now: Now,
        mut record: JobRecord,
        state: JobState,
        why: Reason,
        out: &mut Vec<Effect>,
    ) {
        if !is_to_restart(&record, &why) {
            return self.become_state(now, record, state, Some(why), out);
        }
        let tally = &mut record.tally;
        tally.restarts_ms.retain(|at_ms| now.mono_ms.saturating_sub(*at_ms) < WINDOW_MS);
        let before = tally.restarts_ms.len();
        let after = Box::new(why);
        if before >= RESTARTS_MAX {
            let (restarts, within_ms) = (count(before), WINDOW_MS);
            let why = Reason::Flapping { after, restarts, within_ms };
            tally.restarts_ms.clear();
            return self.become_state(now, record, JobState::Crashed, Some(why), out);
        }
        let in_ms = BACKOFF_MS_MIN << before;
        tally.restarts_ms.push(now.mono_ms);
        tally.restart_at_ms = Some(now.mono_ms + in_ms);
        record.intent = Intent::Run;
        let why = Reason::Restarting { after, number: count(before + 1), in_ms };
        self.become_state(now, record, JobState::Starting, Some(why), out);
    }

    /// Whether the start of a job has to wait, for its time or for the right to it.
    pub(super) fn is_start_due(&self, now: Now, record: &JobRecord) -> bool {
        let is_time = record.tally.restart_at_ms.is_none_or(|at_ms| at_ms <= now.mono_ms);
        is_time && (self.is_right_shown || !record.tally.needs_right)
    }

    /// Has the arbiters asked, while a job waits for them and nobody asks.
    pub(super) fn ask_right(&mut self, out: &mut Vec<Effect>) {
        let waits = |record: &JobRecord| {
            let is_wanted = record.job.state == JobState::Starting;
            record.tally.needs_right && (is_wanted || record.job.spec.as_budget().is_some())
        };
        let is_wanted = !self.is_right_shown && !self.is_right_asked;
        if is_wanted && self.jobs.values().any(|entry| waits(&entry.record)) {
            self.is_right_asked = true;
            out.push(Effect::AskRight);
        }
    }

    /// The arbiters have been asked: these obey that trust document.
    pub(super) fn handle_right(&mut self, now: Now, standing: &Standing, out: &mut Vec<Effect>) {
        self.is_right_asked = false;
        let Some(trust) = &self.trust else { return };
        if trust.version == standing.version && trust.is_quorum(self.agreed, &standing.obey) {
            self.is_right_shown = true;
            self.trust_budgets_again(now, out);
            self.go_on_all(now, out);
        }
    }

    /// What a reboot of the machine makes of a VM that was alive or on its way. A start that was not
    /// over yet was asked for, and is gone on with; both wait for the right to it. True when the row was
    /// changed; doing it twice changes nothing more.
    pub(super) fn rebooted(&self, record: &mut JobRecord) -> bool {
        if record.job.spec.as_budget().is_some() {
            // It says what was so before; nothing is started by it until that is shown.
            record.tally.needs_right = self.trust.is_some() && !record.job.state.is_ended();
            return false;
        }
        let Some(vm) = record.job.spec.as_vm() else { return false };
        let has_right = self.trust.is_none() || record.job.has_right();
        // What has ended comes back by a new ticket only, which shows it.
        record.tally.needs_right = self.trust.is_some() && !record.job.state.is_ended();
        // Whatever its guest had is gone; what is written down and not in its definition yet is not.
        let was_larger = !is_changing(&record.job) && record.job.resize.take().is_some();
        let is_changed = match record.job.state {
            JobState::Accepted | JobState::Starting if has_right => {
                let needs_right = record.tally.needs_right;
                record.job.resize = None;
                record.job.state = JobState::Starting;
                record.job.reason = needs_right.then_some(Reason::AwaitingRight);
                true
            }
            _ if was_alive(record) && has_right && vm.autostart => {
                record.intent = Intent::Run;
                record.job.migration = None;
                record.job.resize = None;
                record.job.state = JobState::Starting;
                let after = Box::new(Reason::HostRebooted);
                record.job.reason = Some(match self.trust {
                    Some(_) => Reason::AwaitingRight,
                    None => Reason::Restarting { after, number: 1, in_ms: 0 },
                });
                true
            }
            _ if was_alive(record) => {
                if matches!(record.intent, Intent::Send(_) | Intent::Receive { .. }) {
                    record.intent = Intent::Run;
                    record.job.migration = None;
                }
                record.job.state = JobState::Crashed;
                record.job.reason = Some(Reason::HostRebooted);
                true
            }
            _ => false,
        };
        is_changed || was_larger
    }
}

/// Whether the job's only guest was here when the machine went off. One that was being sent away was, until its
/// source has let go, whatever of it has come to the target, which may not run it (M3); one that was handed
/// over is here from then on (M4).
fn was_alive(record: &JobRecord) -> bool {
    match record.job.state {
        JobState::Running | JobState::Paused | JobState::MigratingOut => true,
        JobState::MigratingIn => matches!(record.intent, Intent::Receive { is_handed: true, .. }),
        _ => false,
    }
}

fn is_to_restart(record: &JobRecord, why: &Reason) -> bool {
    let restart = record.job.spec.as_vm().map_or(Restart::Never, |vm| vm.restart);
    match (restart, why) {
        (Restart::Never, _) => false,
        (_, Reason::Killed) => true,
        // What has run before may run again; a first start that fails has an owner who waits for it.
        (_, Reason::StartFailed { .. }) => !record.tally.restarts_ms.is_empty(),
        (Restart::Always, Reason::GuestShutdown | Reason::Destroyed) => true,
        _ => false,
    }
}

fn count(restarts: usize) -> u32 {
    u32::try_from(restarts).unwrap_or(u32::MAX)
}
