//! Which hosts each of several schedulers takes first, so that they do not all want the same one.
//!
//! Decides by rendezvous hashing of hosts over the schedulers of the cluster: nobody asks anybody, and all
//! agree. It is a preference and no border: whoever guesses wrong takes a host that another one prefers, and
//! the host decides.

use protocol::id::HostId;
use serde::{Deserialize, Serialize};

use crate::policy::Placement;

/// Hosts that a shard has at least: with fewer of them its best is often much worse than that of all, and
/// schedulers share shards instead.
const HOSTS_MIN: usize = 10;

/// What is added to the rank of a host that another scheduler takes first.
///
/// Who spreads takes a host of its own that is up to a quarter of a host fuller than another's: one that has
/// more to do than others goes to theirs before its own are crowded. Who packs means to crowd hosts, and the
/// fullest of all is what everybody else wants too: it takes others' only when its own have no room.
pub(crate) const fn foreign_rank(placement: Placement) -> u32 {
    match placement {
        Placement::Spread | Placement::Balance => 250_000,
        Placement::Pack => 1_000_001,
    }
}

/// The schedulers of a cluster by numbers, of which this is one. Without others every host is one's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shards {
    /// This one.
    me: u64,
    /// All, in order.
    all: Vec<u64>,
}

impl Shards {
    /// One scheduler of several; each is named by a number that all know. One that is not among them is alone.
    #[must_use]
    pub fn new(me: u64, all: impl IntoIterator<Item = u64>) -> Self {
        let mut all: Vec<u64> = all.into_iter().collect();
        all.sort_unstable();
        all.dedup();
        Self { me, all }
    }

    /// True when nothing is divided.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.all.len() < 2 || !self.all.contains(&self.me)
    }

    /// Into how many shards so many hosts are divided.
    pub(crate) fn count(&self, hosts: usize) -> usize {
        if self.is_alone() { 1 } else { self.all.len().min(hosts / HOSTS_MIN).max(1) }
    }

    /// Whether a host is one of those that this scheduler takes first, of `count` shards.
    pub(crate) fn is_own(&self, host: &HostId, count: usize) -> bool {
        if count < 2 {
            return true;
        }
        let place = self.all.iter().position(|one| *one == self.me).unwrap_or(0) % count;
        let heads = self.all.iter().take(count).enumerate();
        let first = heads.max_by_key(|(_, head)| (lot(**head, host), **head));
        first.is_some_and(|(head, _)| head == place)
    }
}

/// A host's number for somebody: the same everywhere, and in no order.
pub(crate) fn lot(seed: u64, host: &HostId) -> u64 {
    let bytes = host.as_str().as_bytes().iter();
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // Seeds that differ in one bit give orders that have nothing in common.
    let mixed =
        (hash ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(n: u32) -> HostId {
        HostId::new(format!("h{n}")).unwrap()
    }

    #[test]
    fn every_host_is_first_with_exactly_one_shard_and_shards_are_alike() {
        let all = [11, 22, 33, 44];
        let mut of_each = [0; 4];
        for n in 0..1000 {
            let owners: Vec<usize> =
                (0..4).filter(|i| Shards::new(all[*i], all).is_own(&host(n), 4)).collect();
            assert_eq!(owners.len(), 1, "host {n}: {owners:?}");
            of_each[owners[0]] += 1;
        }
        assert!(of_each.iter().all(|count| (200..300).contains(count)), "{of_each:?}");
    }

    #[test]
    fn a_scheduler_more_takes_hosts_and_moves_none_between_the_others() {
        for n in 0..200 {
            let before = Shards::new(11, [11, 22, 33]).is_own(&host(n), 3);
            let after = Shards::new(11, [11, 22, 33, 44]).is_own(&host(n), 4);
            assert!(before || !after, "host {n} came to 11 from another");
        }
    }

    #[test]
    fn few_hosts_are_divided_among_few() {
        let shards = Shards::new(22, [11, 22, 33]);
        assert_eq!([5, 19, 20, 29, 30, 900].map(|hosts| shards.count(hosts)), [1, 1, 2, 2, 3, 3]);
        assert_eq!(Shards::new(99, [11, 22]).count(900), 1, "whom nobody counts takes any");
        assert_eq!(Shards::default().count(900), 1);
    }
}
