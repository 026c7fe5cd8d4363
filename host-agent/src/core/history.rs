//! Forgetting: which ended jobs are history, and which of them go.
//!
//! ```text
//!   ended ──nothing hangs on it──▶ history ──beyond a limit, and a minute old──▶ being deleted ──▶ gone
//! ```
//!
//! History is what has ended for good: one-off jobs, and VMs whose first start failed. A VM that has
//! stopped is none: it can be started again, however long it takes. Nor is anything to which a right, a
//! disk that somebody may have written to, saved memory, a volume in a pool or a migration belongs, nor a
//! service, which has a store. What goes, goes as if somebody had deleted it: its definition and its
//! log with it, and followers are told so. Its exit code is gone, too.
//!
//! Age is counted on the boot clock, and the order is that of the events by which they ended.

use protocol::history::{AGE_MS_MIN, HistoryConfig};
use protocol::id::{Cursor, JobId};
use protocol::job::{Job, JobKind, JobState, OneOff, Reason};
use protocol::refusal::Refusal;
use serde::{Deserialize, Serialize};
use transport::clock::Now;

use super::agent::{Agent, Entry};
use super::input::{Effect, Reply};
use super::ledger::{Intent, JobRecord, Write};

/// Jobs being forgotten at a time: each asks libvirt and removes a folder, and guests come first.
const FORGOTTEN_AT_ONCE: usize = 64;

/// When a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Which event of the host told so.
    pub at: Cursor,
    /// In which boot of the machine.
    pub boot: String,
    /// Milliseconds since that boot.
    pub at_ms: u64,
}

/// A job that is history.
struct Past {
    id: JobId,
    /// What ended before the host counted is oldest.
    at: Option<Cursor>,
    age_ms: u64,
    bytes: u64,
}

impl Agent {
    /// Remembers so much of what has ended from now on.
    pub(super) fn set_history(
        &mut self,
        now: Now,
        config: HistoryConfig,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        config.validate()?;
        if self.history == config {
            return Ok(Reply::Done);
        }
        if config.version <= self.history.version {
            let (what, current) = ("history".to_owned(), self.history.version);
            return Err(Refusal::ConfigConflict { what, current });
        }
        self.history = config.clone();
        out.push(Effect::Persist(Write::History(config)));
        self.forget_history(now, out);
        Ok(Reply::Done)
    }

    /// Begins to forget what is beyond the limits, oldest first.
    pub(super) fn forget_history(&mut self, now: Now, out: &mut Vec<Effect>) {
        let is_going = |entry: &&Entry| entry.record.intent == Intent::Delete;
        let going = self.jobs.values().filter(is_going).count();
        let mut room = FORGOTTEN_AT_ONCE.saturating_sub(going);
        let mut past = self.past(now);
        let mut jobs = u32::try_from(past.len()).unwrap_or(u32::MAX);
        let mut bytes = past.iter().map(|one| one.bytes).sum::<u64>();
        let is_within =
            |jobs: u32, bytes: u64| jobs <= self.history.jobs && bytes <= self.history.bytes;
        if room == 0 || is_within(jobs, bytes) && !past.iter().any(|one| self.is_too_old(one)) {
            return;
        }
        past.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
        let mut gone = Vec::new();
        for one in past {
            let is_beyond = !is_within(jobs, bytes) || self.is_too_old(&one);
            if room == 0 || !is_beyond || one.age_ms < AGE_MS_MIN {
                continue;
            }
            room -= 1;
            jobs -= 1;
            bytes -= one.bytes;
            gone.push(one.id);
        }
        for id in gone {
            self.begin_forgetting(now, &id, out);
        }
    }

    fn is_too_old(&self, past: &Past) -> bool {
        past.age_ms >= self.history.age_ms
    }

    fn past(&self, now: Now) -> Vec<Past> {
        let is_offered = |id: &JobId| self.offers.open().any(|(_, open)| open.job == *id);
        let is_past = |(id, entry): &(&JobId, &Entry)| {
            entry.work.is_none() && is_history(&entry.record) && !is_offered(id)
        };
        let past = |(id, entry): (&JobId, &Entry)| {
            let ended = entry.record.ended.as_ref();
            let from_ms = ended.filter(|ended| ended.boot == self.boot).map_or(0, |e| e.at_ms);
            Past {
                id: id.clone(),
                at: ended.map(|ended| ended.at),
                age_ms: now.mono_ms.saturating_sub(from_ms),
                bytes: entry.row_bytes,
            }
        };
        self.jobs.iter().filter(is_past).map(past).collect()
    }

    /// As a delete that nobody asked for. What is shown of the job does not change before it is gone.
    fn begin_forgetting(&mut self, now: Now, id: &JobId, out: &mut Vec<Effect>) {
        let going = self.jobs.change(id, |entry| {
            entry.record.intent = Intent::Delete;
            entry.change += 1;
            entry.record.clone()
        });
        let Some(record) = going else { return };
        out.push(Effect::Persist(Write::Job(Box::new(record))));
        self.go_on(now, id, out);
    }

    /// When a row that is written now has ended, if it has.
    pub(super) fn ended(&self, now: Now, record: &JobRecord) -> Option<Ended> {
        if !record.job.state.is_ended() {
            return None;
        }
        let now = || Ended { at: self.cursor.next(), boot: self.boot.clone(), at_ms: now.mono_ms };
        Some(record.ended.clone().unwrap_or_else(now))
    }
}

/// Whether nothing hangs on a job any more, and nobody can start it again.
fn is_history(record: &JobRecord) -> bool {
    let JobRecord {
        job,
        intent,
        debits,
        issued,
        tally,
        last_resize: _,
        leaving: _,
        last_revert: _,
        stay,
        cpus: _,
        penned: _,
        deletes_shared: _,
        restores: _,
        ended: _,
    } = record;
    let is_at_rest = job.state.is_ended() && matches!(intent, Intent::Run | Intent::Stop { .. });
    let has_right = job.has_right() || !debits.is_empty() || issued.is_some();
    let is_on_its_way =
        job.migration.is_some() || job.resize.is_some() || tally.restart_at_ms.is_some();
    let lasts = matches!(
        job.reason,
        Some(Reason::Migrated { .. } | Reason::TenureLost { .. } | Reason::Fenced { .. })
    ) || record.has_saved_memory();
    let is_kept = stay.is_some() || !job.snapshots.is_empty();
    is_at_rest && !has_right && !is_on_its_way && !lasts && !is_kept && is_done(job)
}

/// Whether it has ended for good, and has left no disk that is anybody's.
fn is_done(job: &Job) -> bool {
    let has_never_run = job.state == JobState::Failed && job.revision.0 <= 1;
    match &job.spec.kind {
        JobKind::OneOff(OneOff { vm, .. }) => {
            has_never_run || vm.disks.iter().all(|disk| disk.ephemeral)
        }
        JobKind::Vm(vm) => has_never_run && vm.adopted.is_none(),
        JobKind::Service(_) | JobKind::Budget(_) => false,
    }
}
