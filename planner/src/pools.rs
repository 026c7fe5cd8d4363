//! Where a job's disks in pools are, and which hosts reach them.
//!
//! Decides that a job whose disks are all in shared pools may start wherever the same pools are, and
//! that they are the same by their ids, which hosts have found in them; a name or a path proves nothing.
//! What is promised in a pool is promised to everybody who has it, so a plan books it once, by the id.

use std::borrow::Cow;
use std::collections::BTreeMap;

use protocol::host::Host;
use protocol::id::{HostId, JobId, PoolName};
use protocol::job::JobSpec;
use protocol::pool::{PoolFacts, PoolId};
use protocol::view::HostRow;
use protocol::vm::VmSpec;

use crate::state::State;
use crate::steps::Blocker;

/// Bytes that a plan has made volumes of, by pool.
pub(crate) type Booked = imbl::OrdMap<PoolId, u64>;

/// A host's pools as a plan would leave them.
pub(crate) fn pools_of<'a>(
    row: &'a HostRow,
    booked: &Booked,
) -> Cow<'a, BTreeMap<PoolName, PoolFacts>> {
    let pools = &row.host.pools;
    if !pools.values().any(|facts| booked.contains_key(&facts.id)) {
        return Cow::Borrowed(pools);
    }
    let mut after = pools.clone();
    for facts in after.values_mut() {
        let more = booked.get(&facts.id).copied().unwrap_or(0);
        facts.promised_bytes = facts.promised_bytes.saturating_add(more);
    }
    Cow::Owned(after)
}

/// The host on which a job's disks were used last, as far as anybody sees: where it ended last, or where
/// it was lost.
pub(crate) fn last_host(state: &State<'_>, job: &JobId) -> Option<HostId> {
    let rows = state.placements(job);
    let kept = rows.iter().filter(|(_, placed)| placed.keeps_disks());
    let newest = kept.max_by_key(|(_, placed)| placed.revision).map(|(host, _)| host.clone());
    state.input().lost.get(job).cloned().or(newest)
}

/// Whether a start on this host finds disks in shared pools that were used elsewhere.
pub(crate) fn finds_disks(state: &State<'_>, job: &JobId, host: &HostId, spec: &JobSpec) -> bool {
    let is_pooled = spec.as_vm().is_some_and(|vm| !vm.bytes_by_pool().is_empty());
    is_pooled && last_host(state, job).is_some_and(|last| last != *host)
}

/// Whether all of a job's disks can be had on other hosts, by what their host says of its pools.
pub(crate) fn is_on_shared(row: Option<&HostRow>, spec: &JobSpec) -> bool {
    let Some((vm, row)) = spec.as_vm().zip(row) else { return false };
    let mut pools = vm.bytes_by_pool().into_keys();
    vm.is_in_pools()
        && pools.all(|pool| row.host.pools.get(pool).is_some_and(|facts| facts.is_shared))
}

/// Whether a host has the pools in which another has a job's disks. One that has none of that name is
/// admission's to refuse.
pub(crate) fn check_reach(
    state: &State<'_>,
    spec: &JobSpec,
    from: &HostId,
    to: &HostRow,
    is_running: bool,
) -> Result<(), Blocker> {
    let Some((vm, from_row)) = spec.as_vm().zip(state.host(from)) else { return Ok(()) };
    for pool in shared_pools(vm, &from_row.host) {
        let (Some(theirs), Some(ours)) = (from_row.host.pools.get(pool), to.host.pools.get(pool))
        else {
            continue;
        };
        let (pool, host) = (pool.clone(), from.clone());
        if theirs.id != ours.id || !ours.is_shared {
            return Err(Blocker::OtherPool { pool, host });
        }
        if is_running && theirs.path != ours.path {
            return Err(Blocker::OtherPoolPath { pool, host });
        }
    }
    Ok(())
}

fn shared_pools<'a>(vm: &'a VmSpec, host: &'a Host) -> impl Iterator<Item = &'a PoolName> {
    let pools = vm.bytes_by_pool().into_keys();
    pools.filter(|pool| host.pools.get(*pool).is_none_or(|facts| facts.is_shared))
}

/// Bytes of a job's disks that go with it when it moves from a host: those in shared pools stay.
pub(crate) fn bytes_to_copy(row: Option<&HostRow>, spec: &JobSpec) -> u64 {
    let Some(vm) = spec.as_vm() else { return 0 };
    let is_shared = |pool: &PoolName| {
        row.and_then(|row| row.host.pools.get(pool)).is_some_and(|facts| facts.is_shared)
    };
    let pools = vm.bytes_by_pool();
    let stays = pools.iter().filter(|(pool, _)| is_shared(pool));
    let stays = stays.fold(0, |sum: u64, (_, bytes)| sum.saturating_add(*bytes));
    spec.resources().disk_bytes.saturating_sub(stays)
}
