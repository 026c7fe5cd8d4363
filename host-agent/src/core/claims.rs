//! Which engine owns a run, as far as this host has seen, and which of its tasks were taken back.
//!
//! An engine that lost its run to another one must do no harm here: the highest claim seen wins
//! for ever. A task that was undone before it arrived must not be done afterwards (the undo leaves a
//! tombstone), and one that was done is not done again: a copy of the request that was held up on
//! its way may arrive when the job is another run's by now.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use protocol::id::RunId;
use protocol::job::RunKey;
use protocol::refusal::Refusal;
use serde::{Deserialize, Serialize};

use super::ledger::Write;

/// Runs remembered. A run lasts minutes; this many pass in hours even on a busy host, and a row is
/// under 200 bytes.
const RUNS_MAX: usize = 10_000;

/// What is known of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The newest claim seen.
    pub claim: u64,
    /// Tasks that were undone.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub undone: BTreeSet<u32>,
    /// What tasks have done and must not do again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub done: BTreeSet<(u32, Deed)>,
}

/// What a task may do only once. A put by a ticket is not among them: its revision and ticket work only once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// It has stopped the job.
    Stop,
    /// It has sent the job away.
    Send,
    /// It has deleted the job, or has found it gone.
    Delete,
    /// It has put the job here by a budget.
    Spend,
}

/// All runs that have asked something of this host, oldest first out.
#[derive(Debug, Default)]
pub(super) struct Claims {
    runs: BTreeMap<RunId, Claim>,
    order: VecDeque<RunId>,
}

impl Claims {
    pub(super) fn restore(rows: Vec<(RunId, Claim)>) -> Self {
        let order = rows.iter().map(|(run, _)| *run).collect();
        Self { runs: rows.into_iter().collect(), order }
    }

    /// Lets a request of this run through, or says that a newer engine or an undo was here first.
    pub(super) fn check(
        &mut self,
        key: Option<RunKey>,
        writes: &mut Vec<Write>,
    ) -> Result<(), Refusal> {
        let Some(key) = key else { return Ok(()) };
        let known = self.runs.get(&key.run).cloned().unwrap_or_default();
        if key.claim < known.claim {
            return Err(Refusal::StaleClaim { seen: known.claim, given: key.claim });
        }
        if known.undone.contains(&key.task) {
            return Err(Refusal::TaskUndone { task: key.task });
        }
        if key.claim > known.claim {
            self.set(key.run, Claim { claim: key.claim, ..known }, writes);
        }
        Ok(())
    }

    /// Remembers that a task was taken back.
    pub(super) fn undo(
        &mut self,
        key: Option<RunKey>,
        writes: &mut Vec<Write>,
    ) -> Result<(), Refusal> {
        let Some(key) = key else { return Ok(()) };
        let mut known = self.runs.get(&key.run).cloned().unwrap_or_default();
        if key.claim < known.claim {
            return Err(Refusal::StaleClaim { seen: known.claim, given: key.claim });
        }
        known.claim = key.claim;
        if known.undone.insert(key.task) {
            self.set(key.run, known, writes);
        }
        Ok(())
    }

    /// Whether the task has done this before.
    pub(super) fn is_done(&self, key: Option<RunKey>, deed: Deed) -> bool {
        let known = key.and_then(|key| Some((key.task, self.runs.get(&key.run)?)));
        known.is_some_and(|(task, known)| known.done.contains(&(task, deed)))
    }

    /// Remembers what a task has done.
    pub(super) fn set_done(&mut self, key: Option<RunKey>, deed: Deed, writes: &mut Vec<Write>) {
        let Some(key) = key else { return };
        let mut known = self.runs.get(&key.run).cloned().unwrap_or_default();
        if known.done.insert((key.task, deed)) {
            self.set(key.run, known, writes);
        }
    }

    fn set(&mut self, run: RunId, claim: Claim, writes: &mut Vec<Write>) {
        writes.push(Write::Claim(run, claim.clone()));
        if self.runs.insert(run, claim).is_none() {
            self.order.push_back(run);
        }
        while self.order.len() > RUNS_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.runs.remove(&oldest);
                writes.push(Write::ClaimGone(oldest));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(task: u32, claim: u64) -> Option<RunKey> {
        Some(RunKey { run: RunId(uuid::Uuid::from_u128(1)), task, claim })
    }

    #[test]
    fn an_engine_that_lost_its_run_is_refused() {
        let (mut claims, mut writes) = (Claims::default(), vec![]);
        assert!(claims.check(key(1, 2), &mut writes).is_ok());
        assert_eq!(writes.len(), 1, "the newer claim is durable");
        let refusal = claims.check(key(1, 1), &mut writes).unwrap_err();
        assert_eq!(refusal, Refusal::StaleClaim { seen: 2, given: 1 });
    }

    #[test]
    fn a_task_undone_before_it_was_done_is_never_done() {
        let (mut claims, mut writes) = (Claims::default(), vec![]);
        claims.undo(key(3, 1), &mut writes).unwrap();
        let refusal = claims.check(key(3, 1), &mut writes).unwrap_err();
        assert_eq!(refusal, Refusal::TaskUndone { task: 3 });
        assert!(claims.check(key(4, 1), &mut writes).is_ok());
    }
}
