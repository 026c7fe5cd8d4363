//! Which of several hosts that would all do is taken: the placement policies.
//!
//! Decides an order only among hosts that admit the job and break no rule; what a plan costs and
//! which rules it breaks come first.

use protocol::resources::Resources;
use serde::{Deserialize, Serialize};

/// A placement policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// The host with the largest free share of its scarcest resource *after* placing.
    #[default]
    Spread,
    /// The host with the smallest: few hosts are full, the others stay empty.
    Pack,
    /// The host whose shares of vCPUs and memory differ least after placing, so that neither is
    /// left over when the other is gone; among those the emptier one.
    Balance,
}

impl Placement {
    /// The lower the better, for a host that would have promised `taken` of `capacity`.
    #[must_use]
    pub fn rank(self, taken: Resources, capacity: Resources) -> u32 {
        let vcpus = millionths(taken.vcpus.into(), capacity.vcpus.into());
        let memory = millionths(taken.memory_bytes, capacity.memory_bytes);
        let disk = millionths(taken.disk_bytes, capacity.disk_bytes);
        let crowding = vcpus.max(memory).max(disk);
        let rank = match self {
            Placement::Spread => crowding,
            Placement::Pack => 1_000_000_u64.saturating_sub(crowding),
            // Per mille of difference first, then per mille of crowding.
            Placement::Balance => vcpus.abs_diff(memory) / 1000 * 1001 + crowding / 1000,
        };
        u32::try_from(rank).unwrap_or(u32::MAX)
    }
}

/// A share in millionths; more than nothing of nothing is all.
pub(crate) fn millionths(part: u64, whole: u64) -> u64 {
    if whole == 0 {
        return u64::from(part > 0) * 1_000_000;
    }
    // The short way while it is wide enough: this is asked for each host that is looked at.
    if let Some(parts) = part.checked_mul(1_000_000) {
        return parts / whole;
    }
    u64::try_from(u128::from(part) * 1_000_000 / u128::from(whole)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_policy_prefers_its_own_host() {
        let of = |vcpus, gib: u64| Resources { vcpus, memory_bytes: gib << 30, disk_bytes: 0 };
        let capacity = of(10, 10);
        let (empty, full, even) = (of(1, 3), of(9, 8), of(5, 5));
        let best = |policy: Placement| {
            [empty, full, even].into_iter().min_by_key(|taken| policy.rank(*taken, capacity))
        };
        assert_eq!(best(Placement::Spread), Some(empty));
        assert_eq!(best(Placement::Pack), Some(full));
        assert_eq!(best(Placement::Balance), Some(even));
    }
}
