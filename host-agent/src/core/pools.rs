//! Pools: which of them this host has, what is promised in them, and what a job here may do with its
//! volumes in them.
//!
//! Other hosts may use the same volumes, before or after this one. So every stay of a job's row here has
//! a number of its own (the cursor at which the row came); the shell writes it beside the volumes before
//! they are used, and touches nothing that has another host's, or another row's (see `crate::pool`).

use std::collections::BTreeMap;

use protocol::id::{Cursor, HostId, JobId, OfferId, PoolName, Revision};
use protocol::job::{JobSpec, Reason, Snapshot};
use protocol::pool::{PoolFacts, PoolSpec, PoolsConfig};
use protocol::refusal::Refusal;
use protocol::vm::VmSpec;
use serde::{Deserialize, Serialize};

use super::agent::Agent;
use super::input::{Effect, Reply};
use super::ledger::{JobRecord, Write};

/// How a job came to be here, as far as its volumes in pools are concerned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "coming", rename_all = "snake_case")]
pub enum Coming {
    /// For the first time anywhere: they are made.
    Makes,
    /// From another host: they are there, last used by that host if it is known which.
    Finds {
        /// Whom it is taken from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<HostId>,
    },
    /// Once more: they are there, last used here.
    Again,
}

/// A job's stay on this host: from when its row came until it is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stay {
    /// When its row came. No two rows of a host have the same.
    pub taken: Cursor,
    /// Whether its volumes are of this stay's making.
    pub made: bool,
    /// How it came, the last time that it was put here.
    #[serde(flatten)]
    pub coming: Coming,
}

/// By what right a piece of work uses a job's volumes in pools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// This host.
    pub host: HostId,
    /// The stay.
    pub stay: Stay,
    /// Which change of the job.
    pub revision: Revision,
    /// What it is.
    pub vm: VmSpec,
    /// Whether volumes in shared pools go with the row, when it is deleted.
    pub deletes_shared: bool,
    /// What the volumes were at some moments, as the row says.
    pub snapshots: Vec<Snapshot>,
}

impl Agent {
    /// Takes other pools: these, and no others. What jobs here count on stays.
    pub(super) fn set_pools(
        &mut self,
        config: PoolsConfig,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        config.validate()?;
        if self.declared == config {
            return Ok(Reply::Done);
        }
        if config.version <= self.declared.version {
            let (what, current) = ("pools".to_owned(), self.declared.version);
            return Err(Refusal::ConfigConflict { what, current });
        }
        let is_other = |now: &PoolSpec, then: &PoolSpec| {
            (now.id, &now.path, now.shared) != (then.id, &then.path, then.shared)
        };
        for (pool, now) in &self.declared.pools {
            if config.pools.get(pool).is_some_and(|then| !is_other(now, then)) {
                continue;
            }
            let users = self.users_of(pool);
            if !users.is_empty() {
                return Err(Refusal::PoolInUse { pool: pool.clone(), users });
            }
        }
        self.found.retain(|pool, facts| {
            config.pools.get(pool).is_some_and(|spec| spec.id == Some(facts.id))
        });
        self.declared = config.clone();
        out.push(Effect::Persist(Write::Pools(Box::new(config.clone()))));
        out.push(Effect::PoolsChanged(Box::new(config)));
        Ok(Reply::Done)
    }

    fn users_of(&self, pool: &PoolName) -> Vec<JobId> {
        let uses =
            |spec: &JobSpec| spec.as_vm().is_some_and(|vm| vm.bytes_by_pool().contains_key(pool));
        let offered = self.offers.open().filter(|(_, open)| open.in_pools.contains_key(pool));
        let offered = offered.map(|(_, open)| open.job.clone());
        let jobs = self.jobs.iter().filter(|(_, entry)| uses(&entry.record.job.spec));
        let mut users: Vec<JobId> = jobs.map(|(id, _)| id.clone()).chain(offered).collect();
        users.sort();
        users.dedup();
        users
    }

    /// The pools as they were found last, with what is offered in them, without one offer.
    pub(super) fn pools_without(&self, offer: Option<OfferId>) -> BTreeMap<PoolName, PoolFacts> {
        let mut pools = self.found.clone();
        for (_, open) in self.offers.open().filter(|(id, _)| Some(*id) != offer) {
            for (pool, bytes) in &open.in_pools {
                if let Some(facts) = pools.get_mut(pool) {
                    facts.promised_bytes = facts.promised_bytes.saturating_add(*bytes);
                }
            }
        }
        pools
    }

    /// What a new row remembers of its stay; `None` for what has nothing in pools.
    pub(super) fn stay(&self, id: &JobId, spec: &JobSpec, coming: Coming) -> Option<Box<Stay>> {
        spec.as_vm().filter(|vm| !vm.bytes_by_pool().is_empty())?;
        let before = self.jobs.get(id).and_then(|entry| entry.record.stay.as_deref());
        let made = match coming {
            Coming::Makes => true,
            Coming::Finds { .. } => false,
            Coming::Again => before.is_some_and(|stay| stay.made),
        };
        let taken = before.map_or(self.cursor.next(), |stay| stay.taken);
        Some(Box::new(Stay { taken, made, coming }))
    }

    /// By what right work for a job uses its volumes in pools.
    pub(super) fn turn(&self, id: &JobId) -> Option<Box<Turn>> {
        let record = &self.jobs.get(id)?.record;
        let stay = Stay::clone(record.stay.as_deref()?);
        Some(Box::new(Turn {
            host: self.host.id.clone(),
            stay,
            revision: record.job.revision,
            vm: record.job.spec.as_vm()?.clone(),
            deletes_shared: record.deletes_shared,
            snapshots: record.job.kept_snapshots().cloned().collect(),
        }))
    }

    /// Whether all of its disks are in one pool that other hosts share, as far as this one was told.
    pub(super) fn is_on_shared(&self, spec: &JobSpec) -> bool {
        let pool = spec.as_vm().and_then(VmSpec::sole_pool);
        pool.and_then(|pool| self.declared.pools.get(pool)).is_some_and(|pool| pool.shared)
    }
}

/// Whether a row's volumes in shared pools go with it. They stay if the job has gone elsewhere, or may
/// have: somebody else uses them, or will. They stay, too, if nobody asked for their end and others made
/// them: a start that is taken back must not take the job's past with it.
pub(super) fn deletes_shared(record: &JobRecord, is_asked: bool) -> bool {
    let may_be_elsewhere = matches!(
        record.job.reason,
        Some(Reason::Migrated { .. } | Reason::TenureLost { .. } | Reason::Fenced { .. })
    );
    let made = record.stay.as_ref().is_some_and(|stay| stay.made);
    !may_be_elsewhere && (is_asked || made)
}
