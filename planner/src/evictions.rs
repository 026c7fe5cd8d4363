//! Moves of VMs away from hosts: what makes room for one that fits nowhere, and what a host sheds that has
//! promised too much.
//!
//! Decides which VMs of a host are looked at, which of them are the same (they differ in nothing that matters, so
//! moving one is as good as moving the other), where each may go, and how many moves must follow it at least.
//! What is asked of every host, the same in each state of a search, is asked once.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use protocol::id::{HostId, JobId};
use protocol::job::JobState;
use protocol::resources::Resources;
use protocol::view::{Freshness, HostRow};

use crate::cost::Cost;
use crate::load::Load;
use crate::search::{Alike, CANDIDATES_MAX, Candidate, move_to, weigh};
use crate::shards::{foreign_rank, lot};
use crate::state::{Placed, State};

/// Hosts that one VM may go to, best first: more are no better.
const WAYS_MAX: usize = 8;
/// VMs of a host that are looked at: half of them the smallest, half those that nearly free
/// enough by themselves.
const VMS_MAX: usize = 12;

/// A host that VMs are to leave.
pub(crate) struct Leaving<'a> {
    pub(crate) row: &'a HostRow,
    /// For which job there is to be room, and how much lacks; none where as many leave as must.
    pub(crate) room: Option<(&'a JobId, Load)>,
}

/// A host that something may be moved to.
#[derive(Clone)]
struct Target<'a> {
    row: &'a HostRow,
    allocation: Resources,
    freshness: Freshness,
    is_foreign: bool,
    lot: u64,
}

/// Every host that something may be moved to, in the order of ids.
#[derive(Clone)]
pub(crate) struct Targets<'a>(Vec<Target<'a>>);

impl<'a> Targets<'a> {
    /// As they are in this state.
    pub(crate) fn of(state: &State<'a>) -> Self {
        let seed = state.input().seed;
        let target = |(host, row): (&'a HostId, &'a HostRow)| {
            let freshness = state.heard(host).freshness;
            (freshness != Freshness::Lost).then(|| Target {
                row,
                allocation: state.allocation(row),
                freshness,
                is_foreign: state.is_foreign(host),
                lot: lot(seed, host),
            })
        };
        Self(state.hosts().filter_map(target).collect())
    }

    /// The same hosts in another state of the same plan.
    fn in_state(&self, state: &State<'a>) -> Self {
        let mut all = self.clone();
        for host in state.touched() {
            if let Ok(at) = all.0.binary_search_by(|target| target.row.host.id.cmp(host)) {
                all.0[at].allocation = state.allocation(all.0[at].row);
            }
        }
        all
    }
}

/// The best moves away from these hosts, as many as a state's candidates may be, in no order.
pub(crate) fn evictions<'a>(
    state: &State<'a>,
    targets: &Targets<'a>,
    hosts: &[Leaving<'_>],
) -> Vec<Candidate> {
    let mut vms: Vec<Vm> = hosts.iter().flat_map(|host| vms_of(state, host)).collect();
    let needs = hosts.iter().map(|host| needed(state, host)).collect::<Vec<_>>();
    for vm in &mut vms {
        let others = hosts.iter().zip(&needs).filter(|(host, _)| host.row.host.id != vm.from);
        let others = others.map(|(_, moves)| *moves).min().unwrap_or(u64::MAX);
        vm.moves_left = vm.moves_left.min(others);
    }
    let look = Look { state, targets: targets.in_state(state), ranked: RefCell::default() };
    let (plain, ruled): (Vec<Vm>, _) = vms.into_iter().partition(|vm| vm.is_plain);
    let mut all: Vec<Candidate> = ruled.iter().flat_map(|vm| look.every_way(vm)).collect();
    let mut plain: Vec<(Key, Vm)> = plain.into_iter().map(|vm| (look.key(&vm), vm)).collect();
    plain.sort_by(|(a, x), (b, y)| (a, &x.from, &x.job).cmp(&(b, &y.from, &y.job)));
    let mut found: Vec<Key> = Vec::new();
    for (key, vm) in plain {
        // No move of this one, or of any after it, comes before so many.
        if found.iter().filter(|before| **before < key).count() >= CANDIDATES_MAX {
            break;
        }
        let ways = look.first_ways(&vm);
        found.extend(ways.iter().map(|way| (way.moves_left, way.cost)));
        all.extend(ways);
    }
    all
}

/// The VMs of a host that are worth looking at when a search asks one after the other: what each takes there, and how
/// many more must leave after it at least.
pub(crate) fn leavers(state: &State<'_>, host: &Leaving<'_>) -> Vec<(JobId, Load, u64)> {
    let vms = vms_of(state, host).into_iter();
    vms.map(|vm| (vm.job, vm.size, vm.moves_left)).collect()
}

/// What candidates that break nothing are told apart by, before where they lead.
type Key = (u64, Cost);

/// A VM that may leave.
struct Vm {
    job: JobId,
    from: HostId,
    size: Load,
    placed: Placed,
    /// The least number of moves that must follow this one.
    moves_left: u64,
    /// Whether what there is to be room for comes after them.
    is_for_room: bool,
    /// True when nothing tells it from another of its size: no rule, no wish, no row elsewhere.
    is_plain: bool,
}

/// The VMs of a host that are worth looking at.
fn vms_of(state: &State<'_>, leaving: &Leaving<'_>) -> Vec<Vm> {
    let not = leaving.room.map(|(job, _)| job);
    let lacking = leaving.room.map(|(_, lacking)| lacking);
    let all = movable(state, leaving.row, not);
    let sizes: Vec<Load> = all.iter().map(|(size, ..)| *size).collect();
    let is_wanted = |job: &JobId| state.input().expectations.iter().any(|e| e.job() == job);
    let vm = |(n, (size, job, placed)): (usize, (Load, JobId, Placed))| {
        let is_alone = state.placements(&job).len() == 1;
        let is_plain = is_alone && state.clauses_of(&job).is_empty() && !is_wanted(&job);
        let others = sizes.iter().enumerate().filter(|(m, _)| *m != n).map(|(_, size)| *size);
        let left = lacking.unwrap_or_default().minus(size);
        let moves_left = moves_needed(others, left);
        let (from, is_for_room) = (leaving.row.host.id.clone(), lacking.is_some());
        Vm { job, from, size, placed, moves_left, is_for_room, is_plain }
    };
    let mut vms: Vec<Vm> = all.into_iter().enumerate().map(vm).collect();
    // Where huge pages or dedicated CPUs lack, who has most of them comes last, and else who has most of the other
    // memory.
    let lacks = lacking.unwrap_or_default();
    let amount = |size: Load| match (lacks.pages.is_none(), lacks.dedicated_cpus) {
        (false, _) => size.pages.bytes(),
        (true, 0) => size.resources.memory_bytes,
        (true, _) => size.dedicated_cpus.into(),
    };
    let key = |vm: &Vm| {
        let Resources { vcpus, disk_bytes, .. } = vm.size.resources;
        (amount(vm.size), vcpus, disk_bytes)
    };
    vms.sort_by(|a, b| (key(a), &a.job).cmp(&(key(b), &b.job)));
    let is_same = |a: &Vm, b: &Vm| {
        let what = |vm: &Vm| (vm.placed.has, vm.placed.has_snapshots);
        a.is_plain && b.is_plain && what(a) == what(b) && a.placed.spec == b.placed.spec
    };
    vms.dedup_by(|later, first| is_same(later, first));
    if vms.len() > VMS_MAX {
        let large = &vms[VMS_MAX / 2..];
        let enough = large.partition_point(|vm| amount(vm.size) < amount(lacks));
        let enough = VMS_MAX / 2 + enough.min(large.len() - VMS_MAX / 2);
        vms.drain(enough + VMS_MAX / 2..);
        vms.drain(VMS_MAX / 2..enough);
    }
    vms
}

/// Running VMs of a host with what they take of it.
fn movable(state: &State<'_>, row: &HostRow, not: Option<&JobId>) -> Vec<(Load, JobId, Placed)> {
    let host = &row.host.id;
    let jobs = state.jobs_alive(row).into_iter().filter(|job| Some(job) != not);
    let placed = jobs.filter_map(|job| Some((state.placed(&job, host)?, job)));
    let running = placed.filter(|(placed, _)| placed.state == JobState::Running);
    running.map(|(placed, job)| (Load::placed(&placed), job, placed)).collect()
}

fn needed(state: &State<'_>, leaving: &Leaving<'_>) -> u64 {
    let Some((job, lacking)) = leaving.room else { return 0 };
    let vms = movable(state, leaving.row, Some(job));
    moves_needed(vms.into_iter().map(|(size, ..)| size), lacking)
}

/// The least number of VMs of these sizes that must leave a host so that what lacks is free.
fn moves_needed(sizes: impl Iterator<Item = Load>, lacking: Load) -> u64 {
    if lacking == Load::ZERO {
        return 0;
    }
    let sizes: Vec<Load> = sizes.collect();
    let least = |amount: &dyn Fn(&Load) -> u64| {
        let mut sizes: Vec<u64> = sizes.iter().map(amount).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let mut left = amount(&lacking);
        let mut moves = 0;
        for size in sizes {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(size);
            moves += 1;
        }
        if left == 0 { moves } else { u64::MAX }
    };
    let amounts: [&dyn Fn(&Load) -> u64; 6] = [
        &|load| load.resources.memory_bytes,
        &|load| load.resources.vcpus.into(),
        &|load| load.resources.disk_bytes,
        &|load| load.pages.mib2,
        &|load| load.pages.gib1,
        &|load| load.dedicated_cpus.into(),
    ];
    amounts.into_iter().map(least).max().unwrap_or_default()
}

/// Targets in one state, and which come first for a size.
struct Look<'l, 'a> {
    state: &'l State<'a>,
    targets: Targets<'a>,
    ranked: RefCell<BTreeMap<[u64; 3], Ranked>>,
}

/// Freshness, rank, lot, and which target.
type Rank = (Freshness, u32, u64, usize);

/// Targets in the order of how good they are, sorted as far as somebody has asked.
struct Ranked {
    first: Vec<usize>,
    rest: BinaryHeap<Reverse<Rank>>,
}

impl Ranked {
    fn get(&mut self, n: usize) -> Option<usize> {
        while self.first.len() <= n {
            let Reverse((.., target)) = self.rest.pop()?;
            self.first.push(target);
        }
        Some(self.first[n])
    }
}

impl<'a> Look<'_, 'a> {
    /// What all moves of a VM to hosts that are fresh have in common.
    fn key(&self, vm: &Vm) -> Key {
        let step = move_to(self.state, &vm.job, &vm.from, &vm.from);
        (vm.moves_left, step.cost_fresh(self.state))
    }

    /// The best moves of a VM, one to each kind of host, by a look at every host.
    fn every_way(&self, vm: &Vm) -> Vec<Candidate> {
        let mut ways: BTreeMap<Alike<'_>, Candidate> = BTreeMap::new();
        for target in self.targets.0.iter().filter(|target| target.row.host.id != vm.from) {
            if let Some(candidate) = self.way(vm, target) {
                let alike = Alike::of(self.state, target.row, &vm.job);
                if ways.get(&alike).is_none_or(|known| candidate.lot < known.lot) {
                    ways.insert(alike, candidate);
                }
            }
        }
        let mut ways: Vec<Candidate> = ways.into_values().collect();
        ways.sort_by_key(Candidate::key);
        ways.truncate(WAYS_MAX);
        ways
    }

    /// The same of a VM that is like any other: which host comes first is known by numbers alone, and only as
    /// many as are needed are checked in full.
    fn first_ways(&self, vm: &Vm) -> Vec<Candidate> {
        let size = vm.placed.spec.takes();
        let key = [u64::from(size.vcpus), size.memory_bytes, size.disk_bytes];
        let mut ranked = self.ranked.borrow_mut();
        let ranked = ranked.entry(key).or_insert_with(|| self.rank(size));
        let (mut ways, mut seen) = (Vec::new(), BTreeSet::new());
        for n in 0.. {
            let Some(target) = ranked.get(n).map(|at| &self.targets.0[at]) else { break };
            if target.row.host.id == vm.from {
                continue;
            }
            if let Some(candidate) = self.way(vm, target)
                && seen.insert(Alike::of(self.state, target.row, &vm.job))
            {
                ways.push(candidate);
                if ways.len() == WAYS_MAX {
                    break;
                }
            }
        }
        ways
    }

    fn rank(&self, size: Resources) -> Ranked {
        let placement = self.state.input().placement;
        let rank = |(at, target): (usize, &Target<'_>)| {
            let Target { row, allocation, freshness, is_foreign, lot } = target;
            let capacity = row.host.capacity;
            let rank = placement.rank(allocation.plus(size), capacity);
            let rank = rank.saturating_add(if *is_foreign { foreign_rank(placement) } else { 0 });
            let is_fit = size.fits_in(capacity.minus(*allocation));
            is_fit.then_some(Reverse((*freshness, rank, *lot, at)))
        };
        let rest: Vec<_> = self.targets.0.iter().enumerate().filter_map(rank).collect();
        Ranked { first: vec![], rest: rest.into() }
    }

    fn way(&self, vm: &Vm, target: &Target<'_>) -> Option<Candidate> {
        let step = move_to(self.state, &vm.job, &vm.from, &target.row.host.id);
        step.check(self.state).ok()?;
        let candidate = weigh(self.state, step, vm.moves_left);
        let steps_left = vm.moves_left.saturating_add(u64::from(vm.is_for_room));
        Some(Candidate { steps_left, ..candidate })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use protocol::hugepages::Pages;

    use super::*;
    use crate::PlanInput;
    use crate::level::Score;
    use crate::register::tests::{inputs, views};

    /// What candidates are sorted by, and what must follow.
    type Known = (Score, u64, Cost, u32, u64, u64);

    /// The keys of all that is offered, best first, by a look at every host for every VM.
    fn of_all(state: &State<'_>, hosts: &[Leaving<'_>]) -> Vec<Known> {
        let targets = Targets::of(state);
        let look = Look { state, targets, ranked: RefCell::default() };
        let vms = hosts.iter().flat_map(|host| vms_of(state, host));
        keys(vms.flat_map(|vm| look.every_way(&vm)).collect())
    }

    fn keys(mut all: Vec<Candidate>) -> Vec<Known> {
        let key = |c: &Candidate| (c.added, c.moves_left, c.cost, c.rank, c.lot, c.steps_left);
        all.sort_by_key(key);
        all.truncate(CANDIDATES_MAX);
        all.iter().map(key).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn as_good_moves_are_offered_as_a_look_at_every_host_finds(
            (_, view) in views(),
            input in inputs(),
            step in any::<prop::sample::Index>(),
        ) {
            let input = PlanInput { view, ..input };
            let start = State::new(&input);
            let targets = Targets::of(&start);
            let hosts = |state: &State<'_>| -> Vec<Leaving<'_>> {
                let rows = input.view.hosts().map(|(_, row)| row);
                let rows = rows.filter(|row| !state.jobs_alive(row).is_empty());
                rows.take(8).map(|row| Leaving { row, room: None }).collect()
            };
            let offered = evictions(&start, &targets, &hosts(&start));
            prop_assert_eq!(of_all(&start, &hosts(&start)), keys(offered.clone()));
            // What was known of hosts at the start holds after a move as well.
            if !offered.is_empty() {
                let after = step.get(&offered).step.apply(&start);
                let hosts = hosts(&after);
                prop_assert_eq!(of_all(&after, &hosts), keys(evictions(&after, &targets, &hosts)));
            }
        }
    }

    #[test]
    fn the_least_number_of_moves_is_that_of_the_largest_and_of_the_scarcest_amount() {
        let of = |vcpus, gib: u64| {
            Load::from(Resources { vcpus, memory_bytes: gib << 30, disk_bytes: 0 })
        };
        let needed = |lacking| moves_needed([of(1, 8), of(4, 1), of(2, 2)].into_iter(), lacking);
        assert_eq!(needed(Load::ZERO), 0);
        assert_eq!(needed(of(0, 8)), 1);
        assert_eq!(needed(of(5, 1)), 2);
        assert_eq!(needed(of(0, 11)), 3);
        assert_eq!(needed(of(8, 0)), u64::MAX, "there is no more");
        let pages = |mib2| Load { pages: Pages { mib2, gib1: 0 }, ..of(1, 0) };
        let needed = |lacking| moves_needed([pages(8), pages(2), of(1, 64)].into_iter(), lacking);
        assert_eq!(needed(Load { pages: Pages { mib2: 8, gib1: 0 }, ..Load::ZERO }), 1);
        assert_eq!(needed(pages(9)), 2);
        assert_eq!(needed(pages(11)), u64::MAX, "other memory is no huge page");
        let own = |dedicated_cpus| Load { dedicated_cpus, ..of(0, 1) };
        let needed = |lacking| moves_needed([own(2), own(1), of(8, 1)].into_iter(), lacking);
        assert_eq!(needed(Load { dedicated_cpus: 2, ..Load::ZERO }), 1);
        assert_eq!(needed(own(3)), 2);
        assert_eq!(needed(own(4)), u64::MAX, "what is shared is nobody's own");
    }
}
