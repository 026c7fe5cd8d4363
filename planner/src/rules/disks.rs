//! Where the disks of a job are that it is to keep: in which pools, and what its host says of each.
//!
//! Decides that disks which may be lost with their host (`ephemeral`) count for nothing, and that a host's own folder, and a
//! pool that it does not know any more, say nothing of themselves.

use std::collections::BTreeMap;

use protocol::id::{HostId, JobId};
use protocol::pool::DEFAULT;

use crate::rules::home;
use crate::state::State;

/// A pool, or a folder, with disks of a job in it.
pub(super) struct Kept<'a> {
    host: HostId,
    name: String,
    labels: Option<&'a BTreeMap<String, String>>,
}

/// Each place with disks of the job, on the host where it is alive.
pub(super) fn kept<'a>(state: &State<'a>, job: &JobId) -> Vec<Kept<'a>> {
    let Some(host) = home(state, job) else { return vec![] };
    let Some(placed) = state.placed(job, &host) else { return vec![] };
    let mut all: BTreeMap<String, Kept<'a>> = BTreeMap::new();
    let disks = placed.spec.as_vm().into_iter().flat_map(|vm| &vm.disks);
    for disk in disks.filter(|disk| !disk.ephemeral) {
        let name = disk.named_pool().map_or(DEFAULT, |pool| pool.as_str()).to_owned();
        let row = state.host(&host);
        let facts = disk.named_pool().and_then(|pool| row?.host.pools.get(pool));
        let labels = facts.map(|facts| &facts.labels);
        all.entry(name.clone()).or_insert_with(|| Kept { host: host.clone(), name, labels });
    }
    all.into_values().collect()
}

impl Kept<'_> {
    /// What its host says of it.
    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.labels?.get(key).map(String::as_str)
    }

    /// What it is, and what it says or does not say, in words.
    pub(super) fn words(&self, key: &str) -> String {
        let Self { host, name, labels } = self;
        let host = host.short();
        match (labels, self.label(key)) {
            (None, _) if name == DEFAULT => {
                format!("the own folder of {host}, which has no labels")
            }
            (None, _) => format!("pool {name}, which {host} does not know"),
            (Some(_), None) => format!("pool {name} of {host}, which does not say its {key}"),
            (Some(_), Some(value)) => format!("pool {name} of {host}, which has {key}={value}"),
        }
    }
}
