//! Where runs and sets of expectations are kept: one trait, and the one in memory for tests and
//! embedders who need no more.
//!
//! Decides what storage must promise: accepting is atomic (same id is the same run, one active run
//! a job), saving is durable when it returns, and an engine that lost its claim saves nothing.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use protocol::id::{RunId, SetName};

use crate::record::RunRecord;
use crate::upkeep::SetRecord;

/// A storage operation under way.
pub type Storing<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Keeps runs, and what is expected.
pub trait Conductor: Send + Sync + 'static {
    /// Takes a new run, durably.
    fn accept(&self, record: RunRecord) -> Storing<'_, Acceptance>;
    /// Replaces a run's record, durably, unless a newer claim on it is stored.
    fn save(&self, record: RunRecord) -> Storing<'_, ()>;
    /// One run.
    fn load(&self, run: RunId) -> Storing<'_, Option<RunRecord>>;
    /// Every run that has not ended, claimed anew: each claim is above any before it.
    fn claim_unfinished(&self) -> Storing<'_, Claimed>;
    /// Runs, those that have not ended first, and of each the newest first.
    fn list(&self, max: usize) -> Storing<'_, Vec<RunRecord>>;
    /// Puts a set of expectations in place of the one of that name, durably.
    fn save_set(&self, record: SetRecord) -> Storing<'_, ()>;
    /// Forgets a set of expectations, one that was deleted long ago.
    fn forget_set(&self, name: SetName) -> Storing<'_, ()>;
    /// Every set of expectations.
    fn sets(&self) -> Storing<'_, Sets>;
}

/// The answer of [`Conductor::sets`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sets {
    /// Sets, those that were deleted included.
    pub sets: Vec<SetRecord>,
    /// Those that cannot be read, by name, each with the reason.
    pub damaged: Vec<(String, String)>,
}

/// What became of a new run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acceptance {
    /// It is stored.
    Accepted,
    /// It was stored before; this is it now.
    AlreadySo(Box<RunRecord>),
    /// Its id belongs to a run that wants something else.
    OtherWant,
    /// Another run of the same job has not ended.
    JobBusy {
        /// That run.
        run: RunId,
    },
}

/// The answer of [`Conductor::claim_unfinished`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claimed {
    /// Runs to go on with.
    pub runs: Vec<RunRecord>,
    /// Records that cannot be read, each with the reason. The others are not held up by them.
    pub damaged: Vec<(String, String)>,
}

/// Why something could not be stored or read. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The storage does not work.
    #[error("{tried}: {why}")]
    Broken {
        /// What was tried.
        tried: &'static str,
        /// What came back.
        why: String,
    },
    /// Another engine has claimed the run.
    #[error("run {run} has been claimed by another engine (claim {seen})")]
    ClaimLost {
        /// The run.
        run: RunId,
        /// The newer claim.
        seen: u64,
    },
    /// The record cannot be read.
    #[error("the record of run {run} is damaged: {why}")]
    Damaged {
        /// The run.
        run: RunId,
        /// What is wrong with it.
        why: String,
    },
}

/// Runs in memory: they end with the process.
#[derive(Debug, Clone, Default)]
pub struct InMemory {
    runs: Arc<Mutex<BTreeMap<RunId, RunRecord>>>,
    sets: Arc<Mutex<BTreeMap<SetName, SetRecord>>>,
}

impl InMemory {
    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<RunId, RunRecord>) -> T) -> T {
        act(&mut self.runs.lock().expect("no holder of this lock panics"))
    }
}

impl Conductor for InMemory {
    fn accept(&self, record: RunRecord) -> Storing<'_, Acceptance> {
        let acceptance = self.with(|runs| {
            if let Some(known) = runs.get(&record.id) {
                return if known.want == record.want {
                    Acceptance::AlreadySo(Box::new(known.clone()))
                } else {
                    Acceptance::OtherWant
                };
            }
            let is_rival = |r: &&RunRecord| !r.state.is_ended() && r.job() == record.job();
            if let Some(rival) = runs.values().find(is_rival) {
                return Acceptance::JobBusy { run: rival.id };
            }
            runs.insert(record.id, record);
            Acceptance::Accepted
        });
        Box::pin(async move { Ok(acceptance) })
    }

    fn save(&self, record: RunRecord) -> Storing<'_, ()> {
        let saved = self.with(|runs| match runs.get(&record.id) {
            Some(known) if known.claim > record.claim => {
                Err(StoreError::ClaimLost { run: record.id, seen: known.claim })
            }
            _ => {
                runs.insert(record.id, record);
                Ok(())
            }
        });
        Box::pin(async move { saved })
    }

    fn load(&self, run: RunId) -> Storing<'_, Option<RunRecord>> {
        let found = self.with(|runs| runs.get(&run).cloned());
        Box::pin(async move { Ok(found) })
    }

    fn claim_unfinished(&self) -> Storing<'_, Claimed> {
        let runs = self.with(|runs| {
            let open = runs.values_mut().filter(|record| !record.state.is_ended());
            let claim = |record: &mut RunRecord| {
                record.claim += 1;
                record.clone()
            };
            open.map(claim).collect()
        });
        Box::pin(async move { Ok(Claimed { runs, damaged: vec![] }) })
    }

    fn list(&self, max: usize) -> Storing<'_, Vec<RunRecord>> {
        let mut all: Vec<RunRecord> = self.with(|runs| runs.values().cloned().collect());
        let newest = |record: &RunRecord| std::cmp::Reverse((record.accepted_ms, record.id));
        all.sort_by_key(|record| (record.state.is_ended(), newest(record)));
        all.truncate(max);
        Box::pin(async move { Ok(all) })
    }

    fn save_set(&self, record: SetRecord) -> Storing<'_, ()> {
        let mut sets = self.sets.lock().expect("no holder of this lock panics");
        sets.insert(record.name.clone(), record);
        Box::pin(async { Ok(()) })
    }

    fn forget_set(&self, name: SetName) -> Storing<'_, ()> {
        self.sets.lock().expect("no holder of this lock panics").remove(&name);
        Box::pin(async { Ok(()) })
    }

    fn sets(&self) -> Storing<'_, Sets> {
        let sets = self.sets.lock().expect("no holder of this lock panics");
        let sets = Sets { sets: sets.values().cloned().collect(), damaged: vec![] };
        Box::pin(async move { Ok(sets) })
    }
}
