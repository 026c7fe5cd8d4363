//! What is known of all hosts below a branch, and how good the best of them can be at most.
//!
//! Where all hosts have as much of everything the bound is the very rank of a host that has the least of all below:
//! a bound that is better by a hair would have every host opened that is as good as the best.

use protocol::resources::Resources;

use super::{Asked, Key, Room};
use crate::marks::Marks;
use crate::policy::{Placement, millionths};

/// CPUs, memory, disk.
type Three<T> = [T; 3];

fn three(of: Resources) -> Three<u64> {
    [u64::from(of.vcpus), of.memory_bytes, of.disk_bytes]
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Branch {
    marks: Marks,
    lot_min: u64,
    free_max: Three<u64>,
    capacity_min: Three<u64>,
    capacity_max: Three<u64>,
    /// What is promised.
    allocation_min: Three<u64>,
    allocation_max: Three<u64>,
    /// The same, in millionths of each host's capacity.
    share_min: Three<u32>,
    share_max: Three<u32>,
    /// Of what is scarcest on each host, the least.
    crowding_min: u32,
}

impl Branch {
    pub(super) const EMPTY: Self = Self {
        marks: Marks::NONE,
        lot_min: u64::MAX,
        free_max: [0; 3],
        capacity_min: [u64::MAX; 3],
        capacity_max: [0; 3],
        allocation_min: [u64::MAX; 3],
        allocation_max: [0; 3],
        share_min: [u32::MAX; 3],
        share_max: [0; 3],
        crowding_min: u32::MAX,
    };

    pub(super) fn of(room: &Room) -> Self {
        if room.marks.is_none() {
            return Self::EMPTY;
        }
        let shares = shares(room);
        let (capacity, allocation) = (three(room.capacity), three(room.allocation));
        Self {
            marks: room.marks,
            lot_min: room.lot,
            free_max: three(room.capacity.minus(room.allocation)),
            capacity_min: capacity,
            capacity_max: capacity,
            allocation_min: allocation,
            allocation_max: allocation,
            share_min: shares,
            share_max: shares,
            crowding_min: shares.into_iter().max().unwrap_or(0),
        }
    }

    pub(super) fn join(&self, other: &Self) -> Self {
        let mut both = *self;
        both.marks = self.marks.and(other.marks);
        both.lot_min = self.lot_min.min(other.lot_min);
        both.crowding_min = self.crowding_min.min(other.crowding_min);
        for n in 0..3 {
            both.free_max[n] = both.free_max[n].max(other.free_max[n]);
            both.share_min[n] = both.share_min[n].min(other.share_min[n]);
            both.share_max[n] = both.share_max[n].max(other.share_max[n]);
            both.capacity_min[n] = both.capacity_min[n].min(other.capacity_min[n]);
            both.capacity_max[n] = both.capacity_max[n].max(other.capacity_max[n]);
            both.allocation_min[n] = both.allocation_min[n].min(other.allocation_min[n]);
            both.allocation_max[n] = both.allocation_max[n].max(other.allocation_max[n]);
        }
        both
    }

    /// The best key that a host below may have; `None` when none of them will do.
    pub(super) fn bound(&self, asked: &Asked) -> Option<Key> {
        let size = three(asked.size);
        let fits = size.iter().zip(self.free_max).all(|(size, free)| *size <= free);
        if !fits || self.marks.is_none() || !self.marks.have(asked.marks) {
            return None;
        }
        let low = |n: usize| self.low(n, size[n]);
        let high = |n: usize| self.high(n, size[n]);
        let crowding = || low(0).max(low(1)).max(low(2)).max(self.crowding_min);
        let rank = match asked.placement {
            Placement::Spread => crowding(),
            Placement::Pack => 1_000_000_u32.saturating_sub(high(0).max(high(1)).max(high(2))),
            Placement::Balance => {
                let apart = low(0).saturating_sub(high(1)).max(low(1).saturating_sub(high(0)));
                (apart / 1000).saturating_mul(1001).saturating_add(crowding() / 1000)
            }
        };
        Some((rank.saturating_add(asked.foreign_rank(self.marks)), self.lot_min))
    }

    /// The least share of a resource that a host below would have promised with so much more.
    fn low(&self, n: usize, size: u64) -> u32 {
        let capacity = self.capacity_max[n];
        if self.capacity_min[n] == capacity {
            return whole(millionths(self.allocation_min[n].saturating_add(size), capacity));
        }
        // Of two parts that are rounded down, less is left than of both together.
        self.share_min[n].saturating_add(whole(millionths(size, capacity)))
    }

    /// The largest.
    fn high(&self, n: usize, size: u64) -> u32 {
        let capacity = self.capacity_min[n];
        if self.capacity_max[n] == capacity {
            return whole(millionths(self.allocation_max[n].saturating_add(size), capacity));
        }
        let more = if size == 0 { 0 } else { whole(millionths(size, capacity)).saturating_add(1) };
        self.share_max[n].saturating_add(more)
    }
}

fn whole(millionths: u64) -> u32 {
    u32::try_from(millionths).unwrap_or(u32::MAX)
}

/// What a host has promised, in millionths of what it has.
pub(super) fn shares(room: &Room) -> Three<u32> {
    let (capacity, allocation) = (three(room.capacity), three(room.allocation));
    [0, 1, 2].map(|n: usize| whole(millionths(allocation[n], capacity[n])))
}
