//! Many hosts kept in buckets by what is free on each NUMA node, so that the tightest place for a
//! VM is looked up instead of searched for: the cost of a placement hardly grows with the fleet.
//!
//! Decides where a VM of plain numbers goes by a fit policy, exactly as a scan over all hosts would.
//! Rules between VMs, disks and images are the search's; this is for streams of placements and for
//! measuring.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What a VM takes. CPUs are counted in halves, so that half of a VM fits a NUMA node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Half CPUs.
    pub half_cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Taken half from each of two nodes, instead of from one.
    pub is_split: bool,
    /// Labels that the host must have, a bit each.
    pub labels: u64,
}

/// Where a VM is: its host, and its node when it is on one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The host's number.
    pub host: u32,
    /// The node, 0 or 1; none for a VM on both.
    pub node: Option<u8>,
}

/// Which of the places that fit is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// The host with the lowest number.
    First,
    /// The node with the fewest free CPUs, then the least free memory, then the lowest number.
    Best,
    /// The node with the most free CPUs.
    Worst,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Node {
    half_cpus: u32,
    memory_mib: u32,
}

#[derive(Debug, Clone)]
struct Row {
    free: [Node; 2],
    labels: u64,
    vms: u32,
    is_open: bool,
}

/// The hosts.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    rows: Vec<Row>,
    /// By free half CPUs of a node: (free memory, host * 2 + node).
    single: Vec<BTreeSet<(u32, u32)>>,
    /// By the smaller number of free half CPUs of both nodes: (smaller free memory, host).
    double: Vec<BTreeSet<(u32, u32)>>,
}

impl Fleet {
    /// Adds a host of two NUMA nodes; answers its number.
    pub fn add(&mut self, half_cpus: u32, memory_mib: u32, labels: u64) -> u32 {
        let node = Node { half_cpus, memory_mib };
        let host = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        self.rows.push(Row { free: [node, node], labels, vms: 0, is_open: true });
        let buckets = half_cpus as usize + 1;
        if self.single.len() < buckets {
            self.single.resize(buckets, BTreeSet::new());
            self.double.resize(buckets, BTreeSet::new());
        }
        self.index(host, true);
        host
    }

    /// How many hosts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True without hosts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// VMs on a host.
    #[must_use]
    pub fn vms(&self, host: u32) -> u32 {
        self.rows[host as usize].vms
    }

    /// Half CPUs and MiB that are free on a host.
    #[must_use]
    pub fn free(&self, host: u32) -> (u32, u32) {
        let [a, b] = self.rows[host as usize].free;
        (a.half_cpus + b.half_cpus, a.memory_mib + b.memory_mib)
    }

    /// Opens a host for placements, or closes it: what is on it stays.
    pub fn set_open(&mut self, host: u32, is_open: bool) {
        if self.rows[host as usize].is_open != is_open {
            self.index(host, false);
            self.rows[host as usize].is_open = is_open;
            self.index(host, true);
        }
    }

    /// The place that the policy takes, from the index. First fit has no index and scans.
    #[must_use]
    pub fn find(&self, demand: Demand, fit: Fit) -> Option<Place> {
        let (half_cpus, memory_mib) = demand.per_node();
        let buckets = if demand.is_split { &self.double } else { &self.single };
        let host_of = |slot: u32| if demand.is_split { slot } else { slot / 2 };
        let has_labels =
            |slot: u32| self.rows[host_of(slot) as usize].labels & demand.labels == demand.labels;
        let wide = buckets.get(half_cpus as usize..)?;
        let slot = match fit {
            Fit::First => return self.scan(demand, fit),
            Fit::Best => wide.iter().find_map(|bucket| {
                let fits = bucket.range((memory_mib, 0)..);
                fits.map(|(_, slot)| *slot).find(|slot| has_labels(*slot))
            }),
            Fit::Worst => wide.iter().rev().find_map(|bucket| {
                let fits = bucket.range((memory_mib, 0)..).rev();
                fits.map(|(_, slot)| *slot).find(|slot| has_labels(*slot))
            }),
        }?;
        Some(demand.place(slot))
    }

    /// The same by looking at every host: what the index is measured and tested against.
    #[must_use]
    pub fn scan(&self, demand: Demand, fit: Fit) -> Option<Place> {
        let (half_cpus, memory_mib) = demand.per_node();
        let fits = |node: Node| node.half_cpus >= half_cpus && node.memory_mib >= memory_mib;
        let mut best: Option<((u32, u32, u32), u32)> = None;
        for (host, row) in self.rows.iter().enumerate() {
            if !row.is_open || row.labels & demand.labels != demand.labels {
                continue;
            }
            let host = u32::try_from(host).unwrap_or(u32::MAX);
            let [a, b] = row.free;
            let nodes: [Option<(Node, u32)>; 2] = if demand.is_split {
                [Some((Node::least(a, b), host)), None]
            } else {
                [Some((a, host * 2)), Some((b, host * 2 + 1))]
            };
            for (node, slot) in nodes.into_iter().flatten().filter(|(node, _)| fits(*node)) {
                if fit == Fit::First {
                    return Some(demand.place(slot));
                }
                let key = (node.half_cpus, node.memory_mib, slot);
                let is_better = best.is_none_or(|(known, _)| match fit {
                    Fit::Worst => key > known,
                    Fit::First | Fit::Best => key < known,
                });
                if is_better {
                    best = Some((key, slot));
                }
            }
        }
        best.map(|(_, slot)| demand.place(slot))
    }

    /// Puts a VM in a place that [`Fleet::find`] gave.
    pub fn take(&mut self, place: Place, demand: Demand) {
        self.change(place, demand, true);
    }

    /// Takes a VM away.
    pub fn release(&mut self, place: Place, demand: Demand) {
        self.change(place, demand, false);
    }

    /// What lacks on each node of a host for a demand, the cheaper node first for one on one node.
    #[must_use]
    pub fn lacking(&self, host: u32, demand: Demand, node: Option<u8>) -> [(u32, u32); 2] {
        let (half_cpus, memory_mib) = demand.per_node();
        let lacks = |n: usize| {
            let free = self.rows[host as usize].free[n];
            let is_meant = node.is_none_or(|node| usize::from(node) == n);
            let lack =
                |asked: u32, free: u32| if is_meant { asked.saturating_sub(free) } else { 0 };
            (lack(half_cpus, free.half_cpus), lack(memory_mib, free.memory_mib))
        };
        [lacks(0), lacks(1)]
    }

    /// Whether a host has all labels of a demand and is open.
    #[must_use]
    pub fn admits_labels(&self, host: u32, demand: Demand) -> bool {
        let row = &self.rows[host as usize];
        row.is_open && row.labels & demand.labels == demand.labels
    }

    fn change(&mut self, place: Place, demand: Demand, is_taken: bool) {
        let before = self.entries(place.host);
        let (half_cpus, memory_mib) = demand.per_node();
        let row = &mut self.rows[place.host as usize];
        for (n, node) in row.free.iter_mut().enumerate() {
            if place.node.is_some_and(|at| usize::from(at) != n) {
                continue;
            }
            if is_taken {
                let fits = node.half_cpus >= half_cpus && node.memory_mib >= memory_mib;
                assert!(fits, "{demand:?} does not fit in {node:?}");
                node.half_cpus -= half_cpus;
                node.memory_mib -= memory_mib;
            } else {
                node.half_cpus += half_cpus;
                node.memory_mib += memory_mib;
            }
        }
        row.vms = if is_taken { row.vms + 1 } else { row.vms - 1 };
        if !row.is_open {
            return;
        }
        // Most VMs are on one node, and leave the other's entry as it is.
        for (was, is) in before.into_iter().zip(self.entries(place.host)) {
            if was != is {
                self.put(was, false);
                self.put(is, true);
            }
        }
    }

    fn index(&mut self, host: u32, is_in: bool) {
        if self.rows[host as usize].is_open {
            self.entries(host).into_iter().for_each(|entry| self.put(entry, is_in));
        }
    }

    /// What the index has of a host while it is open.
    fn entries(&self, host: u32) -> [Entry; 3] {
        let [a, b] = self.rows[host as usize].free;
        let entry = |node: Node, slot, is_double| Entry {
            is_double,
            bucket: node.half_cpus as usize,
            key: (node.memory_mib, slot),
        };
        let double = entry(Node::least(a, b), host, true);
        [entry(a, host * 2, false), entry(b, host * 2 + 1, false), double]
    }

    fn put(&mut self, Entry { is_double, bucket, key }: Entry, is_in: bool) {
        let buckets = if is_double { &mut self.double } else { &mut self.single };
        if is_in {
            buckets[bucket].insert(key);
        } else {
            buckets[bucket].remove(&key);
        }
    }
}

/// One place in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    is_double: bool,
    bucket: usize,
    key: (u32, u32),
}

impl Node {
    fn least(a: Self, b: Self) -> Self {
        Self { half_cpus: a.half_cpus.min(b.half_cpus), memory_mib: a.memory_mib.min(b.memory_mib) }
    }
}

impl Demand {
    fn per_node(self) -> (u32, u32) {
        if self.is_split {
            (self.half_cpus.div_ceil(2), self.memory_mib.div_ceil(2))
        } else {
            (self.half_cpus, self.memory_mib)
        }
    }

    fn place(self, slot: u32) -> Place {
        if self.is_split {
            Place { host: slot, node: None }
        } else {
            Place { host: slot / 2, node: Some(u8::from(slot % 2 == 1)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_index_takes_the_place_that_a_scan_takes(
            hosts in prop::collection::vec(0..4_u64, 1..8),
            vms in prop::collection::vec((1..20_u32, 1..20_u32, any::<bool>(), 0..4_u64, 0..3_u8), 1..60),
        ) {
            let mut fleet = Fleet::default();
            for labels in hosts {
                fleet.add(40, 40, labels);
            }
            let mut placed = Vec::new();
            for (half_cpus, memory_mib, is_split, labels, then) in vms {
                let demand = Demand { half_cpus, memory_mib, is_split, labels };
                for fit in [Fit::First, Fit::Best, Fit::Worst] {
                    prop_assert_eq!(fleet.find(demand, fit), fleet.scan(demand, fit));
                }
                if let Some(place) = fleet.find(demand, Fit::Best) {
                    fleet.take(place, demand);
                    placed.push((place, demand));
                }
                if then == 0 && !placed.is_empty() {
                    let (place, demand) = placed.remove(0);
                    fleet.release(place, demand);
                }
            }
        }
    }
}
