//! VMs that stand in each other's way: two that must change places, a ring of more, or a chain of which one goes when the
//! next has gone.
//!
//! Decides what is tried when moves straight to their places lead nowhere: from what is wanted back to what it waits
//! for. Whoever is in the way goes where there is room; else it wants a place itself, and whoever is in its way there goes
//! first. In a ring that comes back to the one it began with, which steps aside, once, and goes to its place
//! at the end. Nobody else is moved twice, and on the way no rule is broken that matters as much as what is wanted.
//!
//! Fewest steps first; bounded in states and in places that are looked at.

use std::collections::{BTreeMap, BTreeSet};

use protocol::id::{HostId, JobId};
use protocol::job::JobState;
use protocol::view::{Freshness, HostRow};

use crate::cost::Cost;
use crate::evictions::{Leaving, leavers};
use crate::expectation::{Expectation, whereabouts};
use crate::level::Score;
use crate::load::{Lack, Load};
use crate::policy::millionths;
use crate::search::{
    Aim, Node, ROOM_HOSTS_MAX, Search, Signature, added_by, considered, is_alive, move_to,
    placement_rank, resize_on, signature, start_on,
};
use crate::state::State;
use crate::steps::{Blocker, Step};

/// Places that are looked at, all states together: a few milliseconds. With twenty hosts nothing is cut short.
const LOOKS_MAX: usize = 50_000;
/// Places with room that one VM may go to, and as many where it would have to be made.
const WAYS_MAX: usize = 4;

/// A job that wants to be on a host. The first of all is the aim's own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Want {
    job: JobId,
    to: HostId,
    /// Violations that its coming adds; negative when it ends some.
    added: Score,
}

/// A state on the way, with what is wanted in it: the last is to be met before the one in front of it can be.
#[derive(Clone)]
struct Way<'a> {
    node: Node<'a>,
    wants: Vec<Want>,
}

/// Harm done so far, violations in the end, cost with the least that must follow, place, lot, then as found. What mends
/// more comes first: of two ways around, the shorter one may leave others where they can't get away.
type Key = (Score, Score, Cost, u32, u64, usize);

/// The best way found.
pub(crate) fn exchange<'a>(search: &Search<'_>, start: &State<'a>) -> Option<Node<'a>> {
    let steps_max = start.input().limits.steps_max as usize;
    let found = BTreeMap::new();
    let mut exchange = Exchange { search, start, steps_max, looks: 0, found_count: 0, found };
    for want in exchange.first_wants() {
        exchange.add(Way { node: Node::root(start), wants: vec![want] }, 1, (0, 0));
    }
    exchange.run()
}

struct Exchange<'s, 'e, 'a> {
    search: &'s Search<'e>,
    start: &'s State<'a>,
    steps_max: usize,
    looks: usize,
    found_count: usize,
    found: BTreeMap<Key, Way<'a>>,
}

impl<'a> Exchange<'_, '_, 'a> {
    fn run(&mut self) -> Option<Node<'a>> {
        let mut seen: BTreeSet<(Signature, Vec<Want>)> = BTreeSet::new();
        let mut nodes_left = self.start.input().limits.nodes_max;
        while nodes_left > 0 && self.looks < LOOKS_MAX.min(self.search.looks_max) {
            let (_, mut way) = self.found.pop_first()?;
            if !seen.insert((signature(way.node.steps.iter()), way.wants.clone())) {
                continue;
            }
            nodes_left -= 1;
            let Some(Want { job, to, .. }) = way.wants.last() else { continue };
            let Some(step) = self.step(&way, job, to) else { continue };
            match step.check(&way.node.state) {
                Ok(()) => {
                    let Some(node) = self.search.harmless(&way.node, step) else { continue };
                    way.node = node;
                    way.wants.pop();
                    if way.wants.is_empty() {
                        if self.search.is_reached(self.start, &way.node) {
                            return Some(way.node);
                        }
                        continue;
                    }
                    let steps_left = way.wants.len();
                    self.add(way, steps_left, (0, 0));
                }
                Err(Blocker::Admission { no }) => {
                    if let Some(lack) = Lack::of(&no).filter(|lack| lack.may_be) {
                        self.clear(&way, lack.load);
                    }
                }
                Err(_) => {}
            }
        }
        None
    }

    /// Keeps a way, unless it is too long with the least number of steps that must follow.
    fn add(&mut self, way: Way<'a>, steps_left: usize, (rank, lot): (u32, u64)) {
        if way.node.steps.len() + steps_left > self.steps_max {
            return;
        }
        let added = way.node.added;
        let harm =
            Score { must: added.must.max(0), should: added.should.max(0), wish: added.wish.max(0) };
        let to_come = Cost { risk: steps_left as u64, ..Cost::default() };
        self.found_count += 1;
        let promised = way.wants.iter().fold(added, |sum, want| sum.plus(want.added));
        let cost = way.node.cost.plus(to_come);
        let key = (harm, promised, cost, rank, lot, self.found_count);
        self.found.insert(key, way);
    }

    /// The aim's own job, to each host where it would be right and lacks room: nearest to fitting first.
    fn first_wants(&mut self) -> Vec<Want> {
        let state = self.start;
        let (jobs, on): (Vec<&JobId>, Option<&HostId>) = match self.search.aim {
            Aim::Goal(Expectation::Runs { job, on, .. }, _)
                if on.is_some() || !is_alive(state, job) =>
            {
                (vec![job], on.as_ref())
            }
            Aim::Goal(Expectation::RunsOn { job, on }, _) => (vec![job], Some(on)),
            Aim::Goal(Expectation::HasSize { job, .. }, _) => {
                let rows = state.placements(job);
                let at = whereabouts(&rows).map(|(host, _)| host.clone());
                let want = |to| Want { job: job.clone(), to, added: Score::default() };
                return at.into_iter().map(want).collect();
            }
            Aim::Keep(clause) => (clause.rule.movable(), None),
            Aim::Away { job, .. } => (vec![job], None),
            Aim::Goal(..) | Aim::Relieve { .. } => return vec![],
        };
        let way = Way { node: Node::root(state), wants: vec![] };
        let mut near = Vec::new();
        for job in jobs {
            for (host, _) in considered(state, on) {
                self.looks += 1;
                let Some(step) = self.step(&way, job, host) else { continue };
                let Err(Blocker::Admission { no }) = step.check(state) else { continue };
                let Some(lack) = Lack::of(&no).filter(|lack| lack.may_be) else { continue };
                let added = added_by(state, &step);
                if added.plus(self.search.aim.gain()) < Score::default() {
                    let want = Want { job: job.clone(), to: host.clone(), added };
                    near.push((added, lack.shortfall, want));
                }
            }
        }
        near.sort();
        near.truncate(ROOM_HOSTS_MAX);
        near.into_iter().map(|(_, _, want)| want).collect()
    }

    /// What brings a job to where it wants to be, as things are on the way; `None` where it cannot go there.
    fn step(&self, way: &Way<'a>, job: &JobId, to: &HostId) -> Option<Step> {
        let state = &way.node.state;
        match self.search.aim {
            Aim::Goal(Expectation::Runs { job: own, spec, .. }, _)
                if own == job && !is_alive(state, job) =>
            {
                return Some(start_on(state, job, to, spec));
            }
            Aim::Goal(Expectation::HasSize { job: own, size }, _) if own == job => {
                let rows = state.placements(job);
                let (host, placed) = whereabouts(&rows)?;
                return resize_on(state, job, host, placed, size);
            }
            _ => {}
        }
        let from = running_on(state, job).filter(|from| from != to)?;
        Some(move_to(state, job, &from, to))
    }

    /// Ways on from where the last one that wants a place lacks so much there: somebody leaves.
    fn clear(&mut self, way: &Way<'a>, lacking: Load) {
        let state = &way.node.state;
        let Some(Want { job: wanting, to: at, .. }) = way.wants.last() else { return };
        let Some(row) = state.host(at) else { return };
        let own = &way.wants[0].job;
        let stays = self.own_stays();
        for (job, size, more) in leavers(state, &Leaving { row, room: Some((wanting, lacking)) }) {
            let is_own = job == *own;
            let is_waiting = way.wants.iter().skip(is_own.into()).any(|want| want.job == job);
            let is_waiting = is_waiting || is_own && stays;
            let was_moved = way.node.steps.iter().any(|step| *step.job() == job);
            let helps = lacking.minus(size) != lacking;
            let steps_left =
                way.wants.len().saturating_add(usize::try_from(more).unwrap_or(usize::MAX));
            let is_short =
                way.node.steps.len() + 1 + steps_left.min(self.steps_max) <= self.steps_max;
            if is_waiting || was_moved || !helps || !is_short {
                continue;
            }
            for host in self.places(way, &job, size, at) {
                let step = move_to(state, &job, at, &host);
                match step.check(state) {
                    Ok(()) => {
                        let place = placement_rank(state, &step);
                        if let Some(node) = self.search.harmless(&way.node, step) {
                            self.add(Way { node, wants: way.wants.clone() }, steps_left, place);
                        }
                    }
                    Err(Blocker::Admission { no }) => {
                        let lack = Lack::of(&no).filter(|lack| lack.may_be);
                        let added = added_by(state, &step);
                        if let Some(lack) = lack.filter(|_| self.search.aim.bears(added)) {
                            let mut way = way.clone();
                            way.wants.push(Want { job: job.clone(), to: host, added });
                            let rank = u32::try_from(lack.shortfall).unwrap_or(u32::MAX);
                            // Its own move, and at least one in front of it.
                            self.add(way, steps_left + 2, (rank, 0));
                        }
                    }
                    Err(_) => {}
                }
            }
        }
    }

    /// Whether the aim's own job moves straight to its place or not at all: what grows does so where it is, and a run that
    /// somebody asked for takes its job from one host to one other.
    fn own_stays(&self) -> bool {
        match self.search.aim {
            Aim::Goal(Expectation::HasSize { .. }, _) => true,
            Aim::Goal(..) => !self.start.input().limits.mends_rules,
            Aim::Keep(_) | Aim::Away { .. } | Aim::Relieve { .. } => false,
        }
    }

    /// Hosts that a VM may go to: a few that have room, and a few that nearly have. Where somebody wants to go already nobody
    /// waits for room; but who has it may come there first, and the one that leaves takes more along.
    fn places(&mut self, way: &Way<'a>, job: &JobId, size: Load, from: &HostId) -> Vec<HostId> {
        let state = &way.node.state;
        let clauses = state.clauses_of(job);
        let (mut with_room, mut near) = (Vec::new(), Vec::new());
        for (host, row) in state.hosts() {
            let is_wanted = way.wants.iter().any(|want| want.to == *host);
            let is_open = state.intent(host).is_none();
            if host == from || !is_open {
                continue;
            }
            let freshness = state.heard(host).freshness;
            if freshness == Freshness::Lost {
                continue;
            }
            self.looks += 1;
            let broken = clauses.iter().filter(|c| !c.rule.may_be_met_on(&row.host)).count();
            let lacking = size.minus(Load::free_in(state, row));
            let place = (broken, freshness, weight(lacking, row), host);
            if lacking == Load::ZERO {
                with_room.push(place);
            } else if !is_wanted {
                near.push(place);
            }
        }
        for places in [&mut with_room, &mut near] {
            places.sort();
            places.truncate(WAYS_MAX);
        }
        with_room.into_iter().chain(near).map(|(.., host)| host.clone()).collect()
    }
}

/// Where a job runs.
pub(crate) fn running_on(state: &State<'_>, job: &JobId) -> Option<HostId> {
    let rows = state.placements(job);
    let mut running = rows.iter().filter(|(_, placed)| placed.state == JobState::Running);
    running.next().map(|(host, _)| host.clone())
}

/// How much lacks on a host, in millionths of what it has.
fn weight(lacking: Load, row: &HostRow) -> u64 {
    let capacity = row.host.capacity;
    let Load { resources, pages, dedicated_cpus } = lacking;
    [
        millionths(resources.vcpus.into(), capacity.vcpus.into()),
        millionths(resources.memory_bytes, capacity.memory_bytes),
        millionths(resources.disk_bytes, capacity.disk_bytes),
        millionths(pages.bytes(), capacity.memory_bytes),
        millionths(dedicated_cpus.into(), row.host.dedicated_cpus.total.into()),
    ]
    .into_iter()
    .fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use protocol::host::{Host, HypervisorFacts, Inventory};
    use protocol::id::{Cursor, Epoch};
    use protocol::job::{Job, JobSpec};
    use protocol::resources::Resources;
    use protocol::signed::SecretKey;
    use protocol::view::View;
    use protocol::vm::VmSpec;

    use super::*;
    use crate::input::Limits;
    use crate::rules::{Clause, HostLabel, Rule};
    use crate::{Level, PlanInput};

    const STEPS_MAX: u32 = 4;
    const GIB: u64 = 1 << 30;

    /// Sizes of hosts, and of VMs with the host of each; the first of them is to be on the last host.
    #[derive(Debug, Clone)]
    struct Puzzle {
        hosts: Vec<u64>,
        vms: Vec<(usize, u64)>,
    }

    impl Puzzle {
        fn free(&self, at: &[usize], host: usize) -> u64 {
            let here = at.iter().zip(&self.vms).filter(|(at, _)| **at == host);
            self.hosts[host] - here.map(|(_, (_, size))| size).sum::<u64>()
        }

        /// Whether any order of moves leads there: the first one moves at most twice, all others once.
        fn may_be_solved(&self, at: &mut Vec<usize>, moved: &mut Vec<usize>) -> bool {
            let last = self.hosts.len() - 1;
            if at[0] == last {
                return true;
            }
            if moved.len() == STEPS_MAX as usize {
                return false;
            }
            for vm in 0..self.vms.len() {
                let times = moved.iter().filter(|other| **other == vm).count();
                if times > usize::from(vm == 0) {
                    continue;
                }
                let was = at[vm];
                for to in (0..self.hosts.len()).filter(|to| *to != was) {
                    if self.free(at, to) < self.vms[vm].1 {
                        continue;
                    }
                    at[vm] = to;
                    moved.push(vm);
                    let is_solved = self.may_be_solved(at, moved);
                    moved.pop();
                    at[vm] = was;
                    if is_solved {
                        return true;
                    }
                }
            }
            false
        }

        fn input(&self) -> PlanInput {
            let mut view = View::default();
            for (n, gib) in self.hosts.iter().enumerate() {
                let key = SecretKey::from_seed([u8::try_from(n).unwrap(); 32]).public();
                let of = |gib: u64| Resources { vcpus: 9, memory_bytes: gib * GIB, disk_bytes: 0 };
                let mut host = Host { capacity: of(*gib), ..Host::of_key(key) };
                host.hypervisor = HypervisorFacts { can_receive: true, ..host.hypervisor };
                host.labels.insert("place".into(), n.to_string());
                let here = self.vms.iter().enumerate().filter(|(_, (at, _))| *at == n);
                let jobs: Vec<Job> = here
                    .map(|(vm, (_, gib))| {
                        let memory_bytes = gib * GIB;
                        let spec = VmSpec { vcpus: 1, memory_bytes, ..VmSpec::default() };
                        let id = JobId::new(format!("vm-{vm}")).unwrap();
                        Job::of(id, JobSpec::vm(spec), JobState::Running)
                    })
                    .collect();
                host.allocation =
                    jobs.iter().fold(Resources::ZERO, |sum, job| sum.plus(job.allocation()));
                let cursor = Cursor { epoch: Epoch(1), seq: 1 };
                view.merge_inventory(Inventory { cursor, host, jobs, observed: vec![] });
            }
            let job = JobId::new("vm-0").unwrap();
            let value = (self.hosts.len() - 1).to_string();
            let rule = Rule::HostLabel(HostLabel { job, key: "place".into(), value });
            let limits = Limits {
                nodes_max: 4096,
                steps_max: STEPS_MAX,
                may_make_room: true,
                ..Limits::default()
            };
            let clauses = vec![Clause { level: Level::Must, rule }];
            PlanInput { view, clauses, limits, ..PlanInput::default() }
        }
    }

    #[test]
    fn a_run_takes_the_job_that_it_was_asked_for_there_in_one_move_or_not_at_all() {
        let puzzle = Puzzle { hosts: vec![4, 2, 4], vms: vec![(0, 2), (2, 4)] };
        let mut input = PlanInput { clauses: vec![], ..puzzle.input() };
        let (job, memory_bytes) = (JobId::new("vm-0").unwrap(), 2 * GIB);
        let spec = JobSpec::vm(VmSpec { vcpus: 1, memory_bytes, ..VmSpec::default() });
        let on = Some(HostId::of(&SecretKey::from_seed([2; 32]).public()));
        input.expectations = vec![Expectation::Runs { job: job.clone(), spec, on }];
        let moves = |input: &PlanInput| {
            let steps = crate::plan(input).plan.steps;
            steps.iter().map(|step| step.job().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(moves(&input), ["vm-0", "vm-1", "vm-0"], "what is kept steps aside");
        input.limits.mends_rules = false;
        assert_eq!(moves(&input), Vec::<String>::new());
        assert_eq!(crate::plan(&input).report.unmet[0].job, job);
    }

    fn puzzles() -> impl Strategy<Value = Puzzle> {
        let hosts = prop::collection::vec(2..8_u64, 2..5);
        let vms = prop::collection::vec((any::<prop::sample::Index>(), 1..5_u64), 2..7);
        (hosts, vms).prop_map(|(hosts, drawn)| {
            let mut puzzle = Puzzle { hosts, vms: vec![] };
            for (host, size) in drawn {
                let at: Vec<usize> = puzzle.vms.iter().map(|(at, _)| *at).collect();
                // What would have no room where it was drawn is where it has.
                let count = puzzle.hosts.len();
                let first = host.index(count);
                let mut all = (0..count).map(|n| (first + n) % count);
                if let Some(host) = all.find(|host| puzzle.free(&at, *host) >= size) {
                    puzzle.vms.push((host, size));
                }
            }
            puzzle
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn what_any_order_of_moves_could_mend_is_mended(puzzle in puzzles()) {
            prop_assume!(!puzzle.vms.is_empty());
            let mut at: Vec<usize> = puzzle.vms.iter().map(|(at, _)| *at).collect();
            let may_be = puzzle.may_be_solved(&mut at, &mut vec![]);
            let input = puzzle.input();
            let outcome = crate::plan(&input);
            prop_assert_eq!(crate::audit(&input, &outcome), vec![]);
            let is_mended = outcome.report.violations.is_empty();
            prop_assert!(is_mended || !may_be, "{puzzle:?} has a way");
            // A wider search than the naive one may know more; it says so by its steps.
            let moved: BTreeMap<&JobId, usize> =
                outcome.plan.steps.iter().fold(BTreeMap::new(), |mut moved, step| {
                    *moved.entry(step.job()).or_default() += 1;
                    moved
                });
            let steps: BTreeSet<usize> = moved.values().copied().collect();
            prop_assert!(steps.iter().all(|times| *times <= 2), "{:?}", outcome.plan.steps);
        }
    }
}
