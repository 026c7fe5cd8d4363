//! Which pools the disks of a VM are in.
//!
//! A disk without a pool, or in the one called [`DEFAULT`], is in its host's own folder. Whether a named
//! pool is there and shared is its host's to say.

use std::collections::BTreeMap;

use super::{DiskSpec, VmSpec};
use crate::host::Host;
use crate::id::PoolName;
use crate::pool::DEFAULT;

impl DiskSpec {
    /// The pool that it is in, if that is not its host's own folder.
    #[must_use]
    pub fn named_pool(&self) -> Option<&PoolName> {
        self.pool.as_ref().filter(|pool| pool.as_str() != DEFAULT)
    }
}

impl VmSpec {
    /// Virtual bytes of its disks by named pool. Those of an adopted VM are where they are.
    #[must_use]
    pub fn bytes_by_pool(&self) -> BTreeMap<&PoolName, u64> {
        let mut pools: BTreeMap<&PoolName, u64> = BTreeMap::new();
        for disk in self.disks.iter().filter(|_| self.adopted.is_none()) {
            if let Some(pool) = disk.named_pool() {
                let sum = pools.entry(pool).or_default();
                *sum = sum.saturating_add(disk.size_bytes);
            }
        }
        pools
    }

    /// How many bytes more its disks have as another, by named pool; only pools in which one is larger.
    #[must_use]
    pub fn growth_by_pool(&self, to: &Self) -> BTreeMap<PoolName, u64> {
        let before = self.bytes_by_pool();
        let more = to.bytes_by_pool().into_iter().filter_map(|(pool, bytes)| {
            let more = bytes.saturating_sub(before.get(pool).copied().unwrap_or(0));
            (more > 0).then(|| (pool.clone(), more))
        });
        more.collect()
    }

    /// Virtual bytes of its disks in all named pools together.
    #[must_use]
    pub fn bytes_in_pools(&self) -> u64 {
        let disks = self.disks.iter().filter(|_| self.adopted.is_none());
        let in_pools = disks.filter(|disk| disk.named_pool().is_some());
        in_pools.fold(0, |sum, disk| sum.saturating_add(disk.size_bytes))
    }

    /// True when it has disks and all of them are in named pools: where those are shared, it can be
    /// anywhere that they reach.
    #[must_use]
    pub fn is_in_pools(&self) -> bool {
        let is_named = |disk: &DiskSpec| disk.named_pool().is_some();
        self.adopted.is_none() && !self.disks.is_empty() && self.disks.iter().all(is_named)
    }

    /// The named pool that all of its disks are in; none when they are in several places.
    #[must_use]
    pub fn sole_pool(&self) -> Option<&PoolName> {
        let pools = self.bytes_by_pool();
        pools.into_keys().next().filter(|_| self.is_in_pools() && self.bytes_by_pool().len() == 1)
    }

    /// Whether anything of it that has to last is on this host and nowhere else.
    #[must_use]
    pub fn is_bound_to(&self, host: &Host) -> bool {
        let is_shared = |disk: &DiskSpec| {
            let facts = disk.named_pool().and_then(|pool| host.pools.get(pool));
            facts.is_some_and(|facts| facts.is_shared)
        };
        let is_there = |disk: &DiskSpec| !disk.ephemeral && !is_shared(disk);
        self.adopted.is_some() || self.disks.iter().any(is_there)
    }
}
