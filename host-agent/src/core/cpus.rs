//! Which CPUs of the host a job has to itself, and where everybody else runs.
//!
//! How many are promised is counted like everything else. Which they are is chosen when a row comes to hold some, and
//! written with it: of one NUMA node where one has enough, and of the one with the fewest to spare, so that larger
//! VMs find room on another. They are a job's until it ends. What an operator takes out of the set while a job has it
//! stays that job's until then, and is given to nobody else. What is not there any more is nobody's: who had it is
//! given another. What a VM names by number while it is alive is not given away either, however it came to be of the
//! set.
//!
//! A guest that the host has penned in may be so after the host gives none away any more, in memory that was saved as
//! well: its row says so until it was put on all CPUs again.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use hypervisor::CpuPlace;
use protocol::cpus::{CpuSet, DedicatedCpus};
use protocol::id::{JobId, OfferId};
use protocol::job::JobSpec;
use protocol::refusal::Refusal;
use transport::clock::Now;

use super::agent::{Agent, Entry};
use super::input::Effect;
use super::ledger::JobRecord;

/// How the operator has divided the host's CPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuLayout {
    /// Those that each are given to one VM for itself.
    pub dedicated: CpuSet,
    /// All others.
    pub shared: CpuSet,
    /// Where there are several NUMA nodes, the CPUs of each.
    pub nodes: BTreeMap<u32, CpuSet>,
}

impl CpuLayout {
    /// As many of them as it may have that are there.
    fn kept(&self, has: &[u32], count: usize) -> Vec<u32> {
        has.iter().copied().filter(|cpu| self.is_there(*cpu)).take(count).collect()
    }

    fn is_there(&self, cpu: u32) -> bool {
        self.dedicated.has(cpu) || self.shared.has(cpu)
    }

    /// So many CPUs, of which it has these, and of which these are somebody's. Fewer where there are no more.
    fn choose(&self, has: &[u32], taken: &BTreeSet<u32>, count: usize) -> Vec<u32> {
        let mut chosen = self.kept(has, count);
        let is_free = |cpu: &u32| !taken.contains(cpu) && !has.contains(cpu);
        let free: CpuSet = self.dedicated.iter().filter(is_free).collect();
        let missing = count - chosen.len();
        if missing == 0 {
            return chosen;
        }
        let home = self.node_of(has);
        let mut parts: Vec<(Option<u32>, CpuSet)> = Vec::new();
        for (node, cpus) in &self.nodes {
            parts.push((Some(*node), cpus.iter().filter(|cpu| free.has(*cpu)).collect()));
        }
        let is_nowhere = |cpu: &u32| self.nodes.values().all(|cpus| !cpus.has(*cpu));
        parts.push((None, free.iter().filter(is_nowhere).collect()));
        // One that has enough before one that has not; of those the one where it is, then the fullest; else the
        // emptiest, so that it is on few.
        parts.sort_by_key(|(node, cpus)| {
            let count = cpus.iter().count();
            let is_enough = count >= missing;
            let room = if is_enough { (count, Reverse(0)) } else { (0, Reverse(count)) };
            (!is_enough, home.is_none() || *node != home, room, *node)
        });
        let cpus = parts.iter().flat_map(|(_, cpus)| cpus.iter());
        chosen.extend(cpus.take(missing));
        chosen
    }

    /// The node that all of them are of.
    fn node_of(&self, cpus: &[u32]) -> Option<u32> {
        let is_of = |node: &CpuSet| !cpus.is_empty() && cpus.iter().all(|cpu| node.has(*cpu));
        self.nodes.iter().find(|(_, node)| is_of(node)).map(|(node, _)| *node)
    }
}

impl Agent {
    /// The CPUs that a row holds: those that it has had as long as they are there and as many as it is promised.
    pub(super) fn cpus_for(&self, record: &JobRecord) -> Vec<u32> {
        let count = usize::try_from(record.job.dedicated_cpus()).unwrap_or(usize::MAX);
        let kept = self.layout.kept(&record.cpus, count);
        if kept.len() == count {
            return kept;
        }
        let id = &record.job.id;
        let named = self.jobs.named_cpus_without(Some(id));
        let taken = self.cpus_of_others(id).chain(named).collect();
        self.layout.choose(&kept, &taken, count)
    }

    fn cpus_of_others(&self, id: &JobId) -> impl Iterator<Item = u32> {
        let others = self.jobs.iter().filter(move |(other, _)| *other != id);
        others.flat_map(|(_, entry)| entry.record.cpus.iter().copied())
    }

    /// Whether a row has CPUs that are not there.
    pub(super) fn has_lost_cpus(&self, record: &JobRecord) -> bool {
        record.cpus.iter().any(|cpu| !self.layout.is_there(*cpu))
    }

    /// Whether the host says where a job's guest runs. An adopted one is where its own definition says.
    pub(super) fn pens(&self, record: &JobRecord) -> bool {
        let is_ours = record.job.spec.as_vm().is_some_and(|vm| vm.adopted.is_none());
        is_ours && (!self.layout.dedicated.is_empty() || !record.cpus.is_empty())
    }

    /// Where a job's guest is to be. One that was penned in by a host that gives no CPUs away any more is to be on all
    /// of them.
    pub(super) fn place_of(&self, record: &JobRecord) -> CpuPlace {
        if !self.pens(record) && !record.penned {
            return CpuPlace::default();
        }
        CpuPlace {
            own: record.cpus.clone(),
            shared: self.layout.shared.clone(),
            node: self.layout.node_of(&record.cpus),
        }
    }

    /// Whether a running guest may be elsewhere than it is to be.
    pub(super) fn is_misplaced(&self, entry: &Entry) -> bool {
        let place = self.place_of(&entry.record);
        !place.is_anywhere() && entry.place.as_ref() != Some(&place)
    }

    /// A guest was put where it is to be: where the host pens nobody in any more, it is free.
    pub(super) fn unpen(&mut self, now: Now, mut record: JobRecord, out: &mut Vec<Effect>) {
        if record.penned && !self.pens(&record) {
            record.penned = false;
            self.insert(now, record, out);
        }
    }

    /// The dedicated CPUs as they are told. What a VM that is alive names of them counts as promised: it is nobody
    /// else's until that ends.
    pub(super) fn dedicated_cpus(&self) -> DedicatedCpus {
        self.dedicated_cpus_without(None, None)
    }

    /// The same without what is promised to a job and to an offer.
    pub(super) fn dedicated_cpus_without(
        &self,
        job: Option<&JobId>,
        offer: Option<OfferId>,
    ) -> DedicatedCpus {
        let jobs = match job {
            Some(job) => self.jobs.dedicated_cpus_without(job),
            None => self.jobs.dedicated_cpus(),
        };
        let named = self.jobs.named_cpus_without(job).filter(|cpu| self.layout.dedicated.has(*cpu));
        let named = named.fold(0_u32, |count, _| count.saturating_add(1));
        let open = self.offers.open().filter(|(id, _)| offer != Some(*id));
        let offered = open.map(|(_, open)| open.dedicated_cpus);
        let promised = offered.chain([named]).fold(jobs, u32::saturating_add);
        DedicatedCpus { total: self.layout.dedicated.count(), promised }
    }

    /// Nobody gets by number what others have for themselves.
    pub(super) fn check_pins(&self, id: &JobId, spec: &JobSpec) -> Result<(), Refusal> {
        let named = named_cpus(spec);
        if named.is_empty() {
            return Ok(());
        }
        // What was taken out of the set is somebody's as long as it has it.
        let given: CpuSet = self.layout.dedicated.iter().chain(self.cpus_of_others(id)).collect();
        let Some(cpu) = named.iter().find(|cpu| given.has(*cpu)) else { return Ok(()) };
        Err(Refusal::Unsupported {
            what: format!("pin a virtual CPU to CPU {cpu}"),
            why: format!(
                "VMs with dedicated CPUs have it for themselves: use one of {}, or ask for dedicated CPUs",
                self.layout.shared.minus(&given)
            ),
        })
    }
}

/// The CPUs that a job's VM names by number.
pub(super) fn named_cpus(spec: &JobSpec) -> CpuSet {
    let pins = spec.as_vm().map_or(&[][..], |vm| &vm.hardware.pins);
    pins.iter().flat_map(|pin| pin.cpus.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(dedicated: &str, nodes: &[&str]) -> CpuLayout {
        let nodes = (0..).zip(nodes.iter().map(|cpus| cpus.parse().unwrap())).collect();
        let (dedicated, all): (CpuSet, CpuSet) =
            (dedicated.parse().unwrap(), "0-15".parse().unwrap());
        CpuLayout { shared: all.minus(&dedicated), dedicated, nodes }
    }

    fn choose(layout: &CpuLayout, has: &[u32], taken: &[u32], count: usize) -> Vec<u32> {
        layout.choose(has, &taken.iter().copied().collect(), count)
    }

    #[test]
    fn cpus_are_of_one_node_where_one_has_enough_and_of_the_fullest_such() {
        let two = layout("4-7,12-15", &["0-7", "8-15"]);
        assert_eq!(choose(&two, &[], &[], 2), [4, 5]);
        assert_eq!(choose(&two, &[], &[12], 2), [13, 14], "there are fewer to spare");
        assert_eq!(choose(&two, &[], &[12, 13, 14], 2), [4, 5], "one is too few");
        assert_eq!(choose(&two, &[], &[4, 5, 12], 4), [13, 14, 15, 6], "of few nodes at least");
        assert_eq!(choose(&two, &[], &[4, 5, 6, 12, 13, 14], 3), [7, 15], "there are no more");
    }

    #[test]
    fn who_grows_keeps_what_it_has_and_stays_on_its_node_where_that_has_room() {
        let two = layout("4-7,12-15", &["0-7", "8-15"]);
        assert_eq!(choose(&two, &[13], &[], 3), [13, 12, 14]);
        assert_eq!(choose(&two, &[13], &[12, 14, 15], 2), [13, 4]);
        assert_eq!(choose(&two, &[13, 14, 12], &[], 2), [13, 14]);
        // What the operator has taken out of the set since is kept as well.
        assert_eq!(choose(&two, &[0], &[], 2), [0, 4]);
    }

    #[test]
    fn where_no_nodes_are_known_any_will_do() {
        let flat = layout("2-3", &[]);
        assert_eq!(choose(&flat, &[], &[], 1), [2]);
        assert_eq!(choose(&flat, &[], &[2], 1), [3]);
        assert_eq!(flat.node_of(&[2]), None);
        assert_eq!(layout("4-7", &["0-7", "8-15"]).node_of(&[4, 9]), None);
    }
}
