//! Jobs have their disks in different storages, so that one that fails harms only one of them. A storage is a
//! pool, which is the same on all hosts that find the same id in it, or a host's own folder. Met when no storage
//! has disks of two of the jobs, wherever they are alive; each job beyond the first in a storage is a violation. Disks
//! that may be lost with their host (`ephemeral`) do not count. A move ends it where disks go along; those in a shared
//! pool stay where they are.

use std::collections::{BTreeMap, BTreeSet};

use protocol::id::{HostId, JobId};
use protocol::pool::{DEFAULT, PoolId};
use protocol::vm::DiskSpec;
use serde::{Deserialize, Serialize};

use crate::rules::{count, home};
use crate::state::State;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotSameStorage {
    /// The jobs.
    pub jobs: Vec<JobId>,
}

/// What fails as one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Storage {
    /// A pool, on whichever host.
    Pool(PoolId),
    /// A folder of a host, or a pool of it that it does not know any more, by its name.
    Own(HostId, String),
}

impl NotSameStorage {
    pub(super) fn violations(&self, state: &State<'_>) -> u32 {
        self.by_storage(state).values().map(|(_, jobs)| count(jobs.len() - 1)).sum()
    }

    pub(super) fn evidence(&self, state: &State<'_>) -> String {
        let shared = self.by_storage(state).into_values().filter(|(_, jobs)| jobs.len() > 1);
        let words = shared.map(|(words, jobs)| {
            let names: Vec<&str> = jobs.into_iter().map(JobId::as_str).collect();
            format!("{} have disks in {words}", names.join(", "))
        });
        words.collect::<Vec<_>>().join("; ")
    }

    /// Storages with what they are called, and the jobs of the list that have disks there.
    fn by_storage(&self, state: &State<'_>) -> BTreeMap<Storage, (String, BTreeSet<&JobId>)> {
        let mut all: BTreeMap<Storage, (String, BTreeSet<&JobId>)> = BTreeMap::new();
        for job in &self.jobs {
            let Some(host) = home(state, job) else { continue };
            let Some(placed) = state.placed(job, &host) else { continue };
            let disks = placed.spec.as_vm().into_iter().flat_map(|vm| &vm.disks);
            for disk in disks.filter(|disk| !disk.ephemeral) {
                let (storage, words) = storage_of(state, &host, disk);
                all.entry(storage).or_insert_with(|| (words, BTreeSet::new())).1.insert(job);
            }
        }
        all
    }
}

fn storage_of(state: &State<'_>, host: &HostId, disk: &DiskSpec) -> (Storage, String) {
    let name = disk.named_pool().map_or(DEFAULT, |pool| pool.as_str());
    let of_host = format!("pool {name} of {}", host.short());
    let row = state.host(host);
    match disk.named_pool().and_then(|pool| row?.host.pools.get(pool)) {
        Some(facts) if facts.is_shared => (Storage::Pool(facts.id), format!("shared pool {name}")),
        Some(facts) => (Storage::Pool(facts.id), of_host),
        None => (Storage::Own(host.clone(), name.to_owned()), of_host),
    }
}
