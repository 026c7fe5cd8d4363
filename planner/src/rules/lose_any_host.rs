//! The loss of any one host leaves room for what ran on it. Met when for every host that is not lost
//! its VMs, largest first, each find a host of the others with room by admission's own arithmetic.
//! Each host that cannot be lost is a violation.
//!
//! Decides nothing about disks: the rehearsal asks whether there is *room*, not whether the data
//! would survive. Rules of the jobs are not rehearsed either.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use protocol::id::{HostId, JobId};
use protocol::resources::Resources;
use protocol::view::{Freshness, HostRow};
use serde::{Deserialize, Serialize};

use crate::intent::Intent;
use crate::rules::count;
use crate::state::State;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoseAnyHost {}

/// What the loss of one host would leave without a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stranded {
    /// The host.
    pub host: HostId,
    /// Its VMs that fit nowhere else, largest first.
    pub jobs: Vec<JobId>,
}

impl LoseAnyHost {
    #[expect(clippy::unused_self, reason = "one shape for every rule")]
    pub(super) fn violations(&self, state: &State<'_>) -> u32 {
        count(rehearse(state).len())
    }

    #[expect(clippy::unused_self, reason = "one shape for every rule")]
    pub(super) fn evidence(&self, state: &State<'_>) -> String {
        let words = rehearse(state).into_iter().map(|stranded| {
            let names: Vec<&str> = stranded.jobs.iter().map(JobId::as_str).collect();
            let (host, number) = (stranded.host.short(), names.len());
            format!("{host} would strand {number} VMs: {}", names.join(", "))
        });
        words.collect::<Vec<_>>().join("; ")
    }
}

/// For every host whose loss would strand VMs, which.
#[must_use]
pub fn rehearse(state: &State<'_>) -> Vec<Stranded> {
    let usable: Vec<&HostRow> =
        state.hosts().map(|(_, row)| row).filter(|row| is_usable(state, row)).collect();
    let mut free: BTreeMap<&HostId, Resources> = BTreeMap::new();
    for row in usable.iter().filter(|row| state.intent(&row.host.id).is_none()) {
        free.insert(&row.host.id, row.host.capacity.minus(state.allocation(row)));
    }
    let lost = usable
        .iter()
        .map(|row| Stranded { host: row.host.id.clone(), jobs: stranded_by(state, row, &free) });
    lost.filter(|stranded| !stranded.jobs.is_empty()).collect()
}

fn is_usable(state: &State<'_>, row: &HostRow) -> bool {
    state.heard(&row.host.id).freshness != Freshness::Lost
        && state.intent(&row.host.id) != Some(Intent::Off)
}

fn stranded_by(
    state: &State<'_>,
    row: &HostRow,
    free: &BTreeMap<&HostId, Resources>,
) -> Vec<JobId> {
    let sized = state.jobs_alive(row).into_iter().filter_map(|job| {
        let size = state.placed(&job, &row.host.id)?.allocation();
        Some((size, job))
    });
    let mut jobs: Vec<(Resources, JobId)> = sized.collect();
    jobs.sort_by_key(|(size, job)| (Reverse((size.memory_bytes, size.vcpus)), job.clone()));
    // Only what the loss takes is remembered: copying every host for each would be quadratic.
    let mut taken: BTreeMap<&HostId, Resources> = BTreeMap::new();
    let mut stranded = Vec::new();
    for (size, job) in jobs {
        let left = |host: &HostId, free: Resources| {
            free.minus(taken.get(host).copied().unwrap_or_default())
        };
        let mut others = free.iter().filter(|(host, _)| **host != &row.host.id);
        match others.find(|(host, free)| size.fits_in(left(host, **free))) {
            Some((host, _)) => {
                let sum = taken.entry(host).or_default();
                *sum = sum.plus(size);
            }
            None => stranded.push(job),
        }
    }
    stranded
}
