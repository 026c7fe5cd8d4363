//! The search for the steps of one aim: the cheapest state first, bounded in nodes.
//!
//! Decides what could help an aim, which candidates are the same (hosts that differ in nothing that
//! matters), and whether a state that reaches the aim is worth what it breaks. Which aims there are,
//! and in which order, is [`crate::aims`]'s.
//!
//! Keys are (violations added, cost and the least that is still to come, how well placed, the
//! seed's lot): a must is never broken for less than a must, and a state is opened only when no
//! cheaper one is left.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use protocol::hugepages::Hugepages;
use protocol::id::{HostId, ImageName, JobId, PoolName};
use protocol::job::{JobSpec, JobState};
use protocol::pool::PoolFacts;
use protocol::resources::Resources;
use protocol::view::{Freshness, HostRow};
use protocol::vm::SizeChange;

use crate::arrival::{Wish, best_arrival};
use crate::cost::Cost;
use crate::evictions::{Leaving, Targets, evictions};
use crate::exchange::exchange;
use crate::expectation::{Expectation, Standing, whereabouts};
use crate::images::fetches;
use crate::input::Limits;
use crate::level::{Level, Score};
use crate::load::{Lack, Load};
use crate::policy::millionths;
use crate::pools::finds_disks;
use crate::preempt::preempt;
use crate::rules::Clause;
use crate::shards::{foreign_rank, lot};
use crate::state::{Placed, State};
use crate::steps::{Blocker, DeleteVm, MigrateVm, ResizeVm, StartVm, Step, StopVm, WakeHost};

/// Hosts that are looked at for making room, nearest to fitting first: more are no better.
pub(crate) const ROOM_HOSTS_MAX: usize = 8;
/// States that are opened however many hosts each looks at: enough for a move and the start after it.
const NODES_MIN: usize = 8;
/// Candidates of one state that are kept, best first: a wide frontier of poor ones only costs.
pub(crate) const CANDIDATES_MAX: usize = 64;

/// One thing to be reached by steps.
#[derive(Debug, Clone)]
pub(crate) enum Aim<'e> {
    /// An expectation is met.
    Goal(&'e Expectation, Level),
    /// A rule has fewer violations than now.
    Keep(&'e Clause),
    /// A job is alive, and not on this host.
    Away { job: JobId, from: HostId },
    /// A host has promised no more than it has.
    Relieve { host: HostId },
}

/// Steps with what they cost and where they lead.
#[derive(Debug, Clone)]
pub(crate) struct Node<'a> {
    pub(crate) steps: Vec<Step>,
    pub(crate) cost: Cost,
    pub(crate) added: Score,
    pub(crate) state: State<'a>,
}

impl<'a> Node<'a> {
    pub(crate) fn root(state: &State<'a>) -> Self {
        let (cost, added) = (Cost::default(), Score::default());
        Self { steps: vec![], cost, added, state: state.clone() }
    }

    pub(crate) fn step(mut self, step: Step) -> Self {
        self.cost = self.cost.plus(step.cost(&self.state));
        let before = self.state.score_of(step.job());
        self.state = step.apply(&self.state);
        self.added = self.added.plus(self.state.score_of(step.job()).minus(before));
        self.steps.push(step);
        self
    }

    /// Takes the steps one after the other; `None` when one of them is not allowed in its turn.
    pub(crate) fn replay(state: &State<'a>, steps: &[Step]) -> Option<Self> {
        steps.iter().try_fold(Self::root(state), |node, step| {
            step.check(&node.state).ok()?;
            Some(node.step(step.clone()))
        })
    }
}

/// One way on from a state.
#[derive(Clone)]
pub(crate) struct Candidate {
    pub(crate) step: Step,
    pub(crate) added: Score,
    pub(crate) cost: Cost,
    /// The least number of moves that must follow.
    pub(crate) moves_left: u64,
    /// The same with what they are for.
    pub(crate) steps_left: u64,
    pub(crate) rank: u32,
    pub(crate) lot: u64,
}

impl Candidate {
    /// What comes first among steps that could be the last: the lower the better.
    pub(crate) fn key(&self) -> (Score, Cost, u32, u64) {
        (self.added, self.cost, self.rank, self.lot)
    }
}

/// Worth, nearness where that comes first, cheapness, place, lot, then as found.
type Key = (Score, u64, Cost, u32, u64, u32);

/// Which states are opened first, of those that break as little.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// What costs least, with the least that must follow.
    Cheapest,
    /// What is nearest to the aim, whatever it costs.
    Nearest,
}

/// A search for one aim.
pub(crate) struct Search<'e> {
    pub(crate) aim: &'e Aim<'e>,
    /// Goals that were met on the way here and must stay so.
    pub(crate) earlier: &'e [&'e Expectation],
    pub(crate) may_make_room: bool,
    /// Whether a sleeping host is woken when no other will do.
    pub(crate) may_wake: bool,
    /// Whether those are stopped that are preemptible and have a lower priority, when nothing else will do.
    pub(crate) may_preempt: bool,
    /// Hosts that may be looked at, all states together; a state looks at all of them.
    pub(crate) looks_max: usize,
}

impl Search<'_> {
    /// The best way found to the aim, without any step that is not needed.
    pub(crate) fn run<'a>(&self, start: &State<'a>) -> Option<Node<'a>> {
        let found = self.find(start)?;
        Some(self.minimal(start, found))
    }

    fn find<'a>(&self, start: &State<'a>) -> Option<Node<'a>> {
        if let Some(found) = self.look_up(start) {
            return Some(found);
        }
        let ground = Ground::new(start);
        let cheapest = self.explore(&ground, Order::Cheapest);
        // Where there are many cheap states, the one that leads on is found by its nearness alone.
        let again = || self.may_make_room.then(|| self.explore(&ground, Order::Nearest)).flatten();
        let exchange = || self.may_make_room.then(|| exchange(self, start)).flatten();
        let found = cheapest.or_else(again).or_else(exchange);
        found.or_else(|| self.wake(start)).or_else(|| self.preempt(start))
    }

    /// The best way in the room of others that have to stop for it.
    fn preempt<'a>(&self, start: &State<'a>) -> Option<Node<'a>> {
        let Aim::Goal(Expectation::Runs { job, spec, on }, _) = self.aim else { return None };
        if !self.may_preempt || is_alive(start, job) {
            return None;
        }
        preempt(start, job, spec, on.as_ref(), |node| self.is_reached(start, node))
    }

    /// The best way that begins with a host that is woken: what costs minutes is looked for when nothing else is
    /// left.
    fn wake<'a>(&self, start: &State<'a>) -> Option<Node<'a>> {
        let Aim::Goal(Expectation::Runs { job, spec, on }, _) = self.aim else { return None };
        if !self.may_wake || is_alive(start, job) {
            return None;
        }
        let rows = considered(start, on.as_ref()).into_iter();
        let ways = rows.filter_map(|(host, _)| {
            let (host, job) = (host.clone(), job.clone());
            let wake = Step::WakeHost(WakeHost { host: host.clone(), job: job.clone() });
            let node = Node::replay(start, &[wake])?;
            let begin = start_on(&node.state, &job, &host, spec);
            begin.check(&node.state).ok()?;
            let candidate = weigh(&node.state, begin, 0);
            let key = candidate.key();
            let node = node.step(candidate.step);
            self.is_reached(start, &node).then_some((key, node))
        });
        ways.min_by_key(|(key, _)| *key).map(|(_, node)| node)
    }

    fn explore<'a>(&self, ground: &Ground<'a>, order: Order) -> Option<Node<'a>> {
        let start = &ground.start;
        let limits = start.input().limits;
        let mut frontier: BTreeMap<Key, (Node<'a>, Option<Step>)> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        frontier.insert(Key::default(), (Node::root(start), None));
        let mut found_count = 0;
        let affordable = self.looks_max / start.input().view.len().max(1);
        let affordable = u32::try_from(affordable.max(NODES_MIN)).unwrap_or(u32::MAX);
        let mut nodes_left = limits.nodes_max.min(affordable);
        while nodes_left > 0 {
            let (_, (node, step)) = frontier.pop_first()?;
            // The same moves in another order lead to the same state.
            if !seen.insert(signature(node.steps.iter().chain(&step))) {
                continue;
            }
            nodes_left -= 1;
            // A candidate becomes a state only when its turn comes: most never do.
            let node = match step {
                Some(step) => node.step(step),
                None => node,
            };
            if self.is_reached(start, &node) {
                return Some(node);
            }
            let steps_left_max =
                u64::from(limits.steps_max).checked_sub(node.steps.len() as u64 + 1);
            let Some(steps_left_max) = steps_left_max else { continue };
            let candidates = self.candidates(&node.state, ground).into_iter();
            // What leads to the aim with too many steps leads nowhere.
            let candidates = candidates.filter(|c| c.steps_left <= steps_left_max);
            for candidate in candidates.filter(|c| self.aim.bears(c.added)) {
                found_count += 1;
                let Candidate { step, added, cost, moves_left, rank, lot, .. } = candidate;
                let to_come = Cost { risk: moves_left, ..Cost::default() };
                let cost = node.cost.plus(cost).plus(to_come);
                let near = match order {
                    Order::Cheapest => 0,
                    Order::Nearest => moves_left,
                };
                let key = (node.added.plus(added), near, cost, rank, lot, found_count);
                frontier.insert(key, (node.clone(), Some(step)));
            }
        }
        None
    }

    /// The best single arrival, when it is all that is needed: what [`Search::find`] would find first, without
    /// a look at every host.
    fn look_up<'a>(&self, start: &State<'a>) -> Option<Node<'a>> {
        let Limits { nodes_max, steps_max, .. } = start.input().limits;
        let root = Node::root(start);
        if start.register().is_none()
            || nodes_max < 2
            || steps_max < 1
            || self.is_reached(start, &root)
        {
            return None;
        }
        let mut best: Option<Candidate> = None;
        for wish in self.wishes(start)? {
            let found = best_arrival(start, &wish)?;
            if best.as_ref().is_none_or(|best| found.key() < best.key()) {
                best = Some(found);
            }
        }
        let node = root.step(best?.step);
        self.is_reached(start, &node).then_some(node)
    }

    /// Jobs of which one is to arrive somewhere, wherever that is; `None` when it takes more than that.
    fn wishes<'w>(&'w self, state: &State<'_>) -> Option<Vec<Wish<'w>>> {
        let running = |job: &'w JobId| {
            let rows = state.placements(job);
            let (from, placed) = rows.iter().find(|(_, p)| p.state == JobState::Running)?;
            let spec = Cow::Owned(placed.spec.clone());
            Some(Wish { job, spec, from: Some(from.clone()) })
        };
        match self.aim {
            Aim::Goal(Expectation::Runs { job, spec, on: None }, _) => {
                let rows = state.placements(job);
                let is_alive = rows.values().any(|placed| !placed.state.is_ended());
                (!is_alive).then(|| vec![Wish { job, spec: Cow::Borrowed(spec), from: None }])
            }
            Aim::Keep(clause) => {
                let wishes = clause.rule.movable().into_iter().filter_map(running);
                Some(wishes.collect())
            }
            Aim::Away { job, .. } => Some(vec![running(job)?]),
            Aim::Goal(..) | Aim::Relieve { .. } => None,
        }
    }

    pub(crate) fn is_reached(&self, start: &State<'_>, node: &Node<'_>) -> bool {
        let is_worth = node.added.plus(self.aim.gain()) < Score::default();
        is_worth && self.aim.is_met(start, &node.state) && self.keeps_earlier(start, &node.state)
    }

    /// Where a step leads; `None` where it breaks what matters as much as the aim, if only until the next one: whoever
    /// carries out the plan may end in between.
    pub(crate) fn harmless<'a>(&self, node: &Node<'a>, step: Step) -> Option<Node<'a>> {
        let next = node.clone().step(step);
        self.aim.bears(next.added.minus(node.added)).then_some(next)
    }

    fn keeps_earlier(&self, start: &State<'_>, state: &State<'_>) -> bool {
        self.earlier
            .iter()
            .all(|e| e.standing(state) == Standing::Met || e.standing(start) != Standing::Met)
    }

    fn minimal<'a>(&self, start: &State<'a>, found: Node<'a>) -> Node<'a> {
        let mut node = found;
        let mut i = 0;
        while node.steps.len() > 1 && i < node.steps.len() {
            let mut fewer = node.steps.clone();
            fewer.remove(i);
            match Node::replay(start, &fewer).filter(|node| self.is_reached(start, node)) {
                Some(shorter) => node = shorter,
                None => i += 1,
            }
        }
        node
    }

    /// The steps that could help, all of them allowed in this state.
    fn candidates<'a>(&self, state: &State<'a>, ground: &Ground<'a>) -> Vec<Candidate> {
        let mut all = match self.aim {
            Aim::Goal(Expectation::Runs { job, spec, on }, _) => {
                self.starts(state, job, spec, on.as_ref(), ground)
            }
            Aim::Goal(Expectation::RunsOn { job, on }, _) => {
                self.moves(state, job, Some(on), ground)
            }
            Aim::Goal(Expectation::HasSize { job, size }, _) => {
                self.resizes(state, job, size, ground)
            }
            Aim::Goal(Expectation::IsStopped { job }, _) => plain(state, ends(state, job, false)),
            Aim::Goal(Expectation::Absent { job }, _) => plain(state, ends(state, job, true)),
            Aim::Keep(clause) => {
                let mut all = Vec::new();
                for job in clause.rule.movable() {
                    // Once moved is enough: back and forth leads nowhere.
                    if state.moves_of(job) == ground.start.moves_of(job) {
                        all.extend(self.moves(state, job, None, ground));
                    }
                }
                all
            }
            Aim::Away { job, .. } => self.moves(state, job, None, ground),
            Aim::Relieve { host } => match state.host(host) {
                Some(row) => evictions(state, ground.targets(), &[Leaving { row, room: None }]),
                None => vec![],
            },
        };
        all.sort_by_key(|c| (c.added, c.moves_left, c.cost, c.rank, c.lot));
        all.truncate(CANDIDATES_MAX);
        all
    }

    fn starts<'a>(
        &self,
        state: &State<'a>,
        job: &JobId,
        spec: &JobSpec,
        on: Option<&HostId>,
        ground: &Ground<'a>,
    ) -> Vec<Candidate> {
        let rows = state.placements(job);
        // A budget has another size at once, where it is.
        let is_budget = spec.as_budget().is_some();
        if !is_budget && rows.values().any(|placed| !placed.state.is_ended()) {
            return on
                .filter(|_| moves_there(&rows, spec))
                .map_or(vec![], |on| self.moves(state, job, Some(on), ground));
        }
        let arrive = |state: &State<'a>, row: &'a HostRow| {
            self.arrival(state, job, row, start_on(state, job, &row.host.id, spec))
        };
        let all = |state: &State<'a>| {
            let rows = considered(state, on).into_iter();
            rows.filter_map(|(_, row)| arrive(state, row)).collect()
        };
        // What other hosts say of a start is the same after moves between some of them, unless rules tie it to
        // where others are.
        if !state.clauses_of(job).is_empty() {
            return self.arrivals(state, job, all(state), ground);
        }
        let touched: BTreeSet<&HostId> = state.touched().collect();
        let known = ground.arrivals.get_or_init(|| all(&ground.start)).iter();
        let rest = known.filter(|arrival| !touched.contains(&arrival.row.host.id));
        let is_considered = |host: &HostId| on.is_none_or(|on| on == host);
        let anew = touched.iter().filter(|host| is_considered(host));
        let anew = anew.filter_map(|host| arrive(state, state.host(host)?));
        let arrivals = rest.cloned().chain(anew).collect();
        self.arrivals(state, job, arrivals, ground)
    }

    /// Another size for a job where it is; where it lacks room for that, moves of others away from there.
    fn resizes<'a>(
        &self,
        state: &State<'a>,
        job: &JobId,
        size: &SizeChange,
        ground: &Ground<'a>,
    ) -> Vec<Candidate> {
        let rows = state.placements(job);
        let Some((host, placed)) = whereabouts(&rows) else { return vec![] };
        let Some(step) = resize_on(state, job, host, placed, size) else { return vec![] };
        match (step.check(state), state.host(host)) {
            (Ok(()), _) => plain(state, vec![step]),
            (Err(Blocker::Admission { no }), Some(row)) => {
                match Lack::of(&no).filter(|lack| self.may_make_room && lack.may_be) {
                    Some(lack) => {
                        let room = Some((job, lack.load));
                        evictions(state, ground.targets(), &[Leaving { row, room }])
                    }
                    None => vec![],
                }
            }
            (Err(_), _) => vec![],
        }
    }

    fn moves<'a>(
        &self,
        state: &State<'a>,
        job: &JobId,
        on: Option<&HostId>,
        ground: &Ground<'a>,
    ) -> Vec<Candidate> {
        let rows = state.placements(job);
        let mut running = rows.iter().filter(|(_, placed)| placed.state == JobState::Running);
        let Some((from, _)) = running.next() else { return vec![] };
        let hosts = considered(state, on).into_iter().filter(|(host, _)| *host != from);
        let arrivals = hosts.filter_map(|(host, row)| {
            self.arrival(state, job, row, move_to(state, job, from, host))
        });
        self.arrivals(state, job, arrivals.collect(), ground)
    }

    /// What a host says of a job's coming; `None` when it is out of the question.
    fn arrival<'a>(
        &self,
        state: &State<'a>,
        job: &JobId,
        row: &'a HostRow,
        step: Step,
    ) -> Option<Arrival<'a>> {
        let how = match step.check(state) {
            Ok(()) => How::Way(Box::new((Alike::of(state, row, job), weigh(state, step, 0)))),
            Err(Blocker::Admission { no }) => {
                let lack = Lack::of(&no).filter(|lack| self.may_make_room && lack.may_be)?;
                let Lack { load: lacking, shortfall, .. } = lack;
                How::Near { added: added_by(state, &step), shortfall, lacking }
            }
            Err(_) => return None,
        };
        Some(Arrival { row, how })
    }

    /// Ways for a job to come to one of these hosts; when none of them is worth what it breaks,
    /// ways to make room for it.
    fn arrivals<'a>(
        &self,
        state: &State<'a>,
        job: &JobId,
        arrivals: Vec<Arrival<'a>>,
        ground: &Ground<'a>,
    ) -> Vec<Candidate> {
        let mut ways: BTreeMap<Alike<'_>, Candidate> = BTreeMap::new();
        let mut near: Vec<(Score, u64, &'a HostRow, Load)> = Vec::new();
        for Arrival { row, how } in arrivals {
            match how {
                How::Way(way) => {
                    let (alike, candidate) = *way;
                    let better = |known: &Candidate| candidate.lot < known.lot;
                    if ways.get(&alike).is_none_or(better) {
                        ways.insert(alike, candidate);
                    }
                }
                How::Near { added, shortfall, lacking } => {
                    near.push((added, shortfall, row, lacking));
                }
            }
        }
        let mut all: Vec<Candidate> = ways.into_values().collect();
        let is_worth = |way: &Candidate| way.added.plus(self.aim.gain()) < Score::default();
        if self.may_make_room && !near.is_empty() && !all.iter().any(is_worth) {
            near.sort_by_key(|(added, shortfall, row, _)| (*added, *shortfall, &row.host.id));
            near.truncate(ROOM_HOSTS_MAX);
            let room = |(_, _, row, lacking): (Score, u64, &'a HostRow, Load)| Leaving {
                row,
                room: Some((job, lacking)),
            };
            let hosts: Vec<Leaving<'_>> = near.into_iter().map(room).collect();
            all.extend(evictions(state, ground.targets(), &hosts));
        }
        all
    }
}

pub(crate) fn is_alive(state: &State<'_>, job: &JobId) -> bool {
    state.placements(job).values().any(|placed| !placed.state.is_ended())
}

/// What hosts say at the beginning of a search: asked once, and again only of those that steps have changed.
struct Ground<'a> {
    start: State<'a>,
    arrivals: OnceCell<Vec<Arrival<'a>>>,
    targets: OnceCell<Targets<'a>>,
}

impl<'a> Ground<'a> {
    fn new(start: &State<'a>) -> Self {
        Self { start: start.clone(), arrivals: OnceCell::new(), targets: OnceCell::new() }
    }

    fn targets(&self) -> &Targets<'a> {
        self.targets.get_or_init(|| Targets::of(&self.start))
    }
}

/// What a host says of a job's coming.
#[derive(Clone)]
struct Arrival<'a> {
    row: &'a HostRow,
    how: How<'a>,
}

#[derive(Clone)]
enum How<'a> {
    /// It may come.
    Way(Box<(Alike<'a>, Candidate)>),
    /// There would have to be more room.
    Near { added: Score, shortfall: u64, lacking: Load },
}

impl Aim<'_> {
    /// How much it matters.
    pub(crate) fn level(&self) -> Level {
        match self {
            Aim::Goal(_, level) => *level,
            Aim::Keep(clause) => clause.level,
            Aim::Away { .. } => Level::Must,
            Aim::Relieve { .. } => Level::Should,
        }
    }

    /// Jobs whose steps are wanted for their own sake.
    pub(crate) fn jobs(&self) -> Vec<&JobId> {
        match self {
            Aim::Goal(expectation, _) => vec![expectation.job()],
            Aim::Keep(clause) => clause.rule.jobs(),
            Aim::Away { job, .. } => vec![job],
            Aim::Relieve { .. } => vec![],
        }
    }

    pub(crate) fn gain(&self) -> Score {
        match self {
            Aim::Goal(_, level) => Score::at(*level, -1),
            // What it gains is in the violations themselves.
            Aim::Keep(_) => Score::default(),
            Aim::Away { .. } => Score::at(Level::Must, -1),
            Aim::Relieve { .. } => Score::at(Level::Should, -1),
        }
    }

    /// Whether one step on the way to it may add such violations: none that matters as much.
    pub(crate) fn bears(&self, added: Score) -> bool {
        !added.adds_at(self.level())
    }

    fn is_met(&self, start: &State<'_>, state: &State<'_>) -> bool {
        match self {
            Aim::Goal(expectation, _) => expectation.standing(state) == Standing::Met,
            Aim::Keep(clause) => clause.rule.violations(state) < clause.rule.violations(start),
            Aim::Away { job, from } => {
                let rows = state.placements(job);
                let is_alive = |host: &HostId| rows.get(host).is_some_and(|p| !p.state.is_ended());
                !is_alive(from) && rows.keys().any(is_alive)
            }
            Aim::Relieve { host } => {
                state.host(host).is_none_or(|row| state.allocation(row).fits_in(row.host.capacity))
            }
        }
    }
}

/// What makes two hosts the same for a job: whichever is taken, all that follows is alike.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Alike<'a> {
    capacity: [u64; 3],
    allocation: [u64; 3],
    hugepages: &'a Hugepages,
    pages: [u64; 2],
    dedicated_cpus: [u32; 2],
    freshness: Freshness,
    can_receive: bool,
    can_guard: bool,
    is_foreign: bool,
    labels: &'a BTreeMap<String, String>,
    images: Vec<&'a ImageName>,
    pools: &'a BTreeMap<PoolName, PoolFacts>,
    /// Where jobs are that a rule ties to this one, no other host is like it.
    tied: Option<&'a HostId>,
}

impl<'a> Alike<'a> {
    pub(crate) fn of(state: &State<'a>, row: &'a HostRow, job: &JobId) -> Self {
        let host = &row.host;
        let numbers = |r: Resources| [u64::from(r.vcpus), r.memory_bytes, r.disk_bytes];
        let mut tied = state.clauses_of(job).iter().flat_map(|clause| clause.rule.jobs());
        let is_tied = state.placed(job, &host.id).is_some()
            || tied.any(|other| state.placed(other, &host.id).is_some());
        let pages = state.pages(row);
        // Packing looks at who is on a host; with nothing of the kind all that counts is numbers.
        Self {
            capacity: numbers(host.capacity),
            allocation: numbers(state.allocation(row)),
            hugepages: &host.hugepages,
            pages: [pages.mib2, pages.gib1],
            dedicated_cpus: [host.dedicated_cpus.total, state.dedicated_cpus(row)],
            freshness: state.heard(&host.id).freshness,
            can_receive: host.hypervisor.can_receive,
            can_guard: host.hypervisor.can_guard,
            is_foreign: state.is_foreign(&host.id),
            labels: &host.labels,
            images: host.images.keys().collect(),
            pools: &host.pools,
            tied: is_tied.then_some(&host.id),
        }
    }
}

pub(crate) fn weigh(state: &State<'_>, step: Step, moves_left: u64) -> Candidate {
    let (rank, lot) = placement_rank(state, &step);
    let (added, cost) = (added_by(state, &step), step.cost(state));
    Candidate { step, added, cost, moves_left, steps_left: moves_left, rank, lot }
}

fn plain(state: &State<'_>, steps: Vec<Step>) -> Vec<Candidate> {
    steps.into_iter().map(|step| weigh(state, step, 0)).collect()
}

/// Whether a job that is to run on a certain host comes there by a move: it is alive elsewhere, and the same.
pub(crate) fn moves_there(rows: &imbl::OrdMap<HostId, Placed>, spec: &JobSpec) -> bool {
    let mut alive = rows.values().filter(|placed| !placed.state.is_ended()).peekable();
    alive.peek().is_some() && alive.all(|placed| placed.spec.is_alike(spec))
}

/// Violations that a step adds; negative when it ends some.
pub(crate) fn added_by(state: &State<'_>, step: &Step) -> Score {
    if state.clauses_of(step.job()).is_empty() {
        return Score::default();
    }
    step.apply(state).score_of(step.job()).minus(state.score_of(step.job()))
}

/// Where each job that was touched has ended up, and which of its rows were ended or deleted.
pub(crate) type Signature = (Vec<(JobId, Option<HostId>)>, Vec<(JobId, HostId, bool)>);

pub(crate) fn signature<'s>(steps: impl Iterator<Item = &'s Step>) -> Signature {
    let mut ends: BTreeMap<&JobId, Option<&HostId>> = BTreeMap::new();
    let mut rows: BTreeMap<(&JobId, &HostId), bool> = BTreeMap::new();
    for step in steps {
        let host = match step {
            Step::StartVm(step) => Some(&step.host),
            Step::MigrateVm(step) => Some(&step.to),
            Step::ResizeVm(step) => Some(&step.host),
            Step::StopVm(StopVm { host, .. }) | Step::DeleteVm(DeleteVm { host, .. }) => {
                rows.insert((step.job(), host), matches!(step, Step::DeleteVm(_)));
                None
            }
            Step::WakeHost(_) | Step::SleepHost(_) => continue,
        };
        ends.insert(step.job(), host);
    }
    let ends = ends.into_iter().map(|(job, host)| (job.clone(), host.cloned()));
    let rows = rows.into_iter().map(|((job, host), gone)| (job.clone(), host.clone(), gone));
    (ends.collect(), rows.collect())
}

/// The hosts that may be asked: the named one, or all.
pub(crate) fn considered<'a>(
    state: &State<'a>,
    on: Option<&HostId>,
) -> Vec<(&'a HostId, &'a HostRow)> {
    match on {
        Some(on) => state.host(on).map(|row| (&row.host.id, row)).into_iter().collect(),
        None => state.hosts().collect(),
    }
}

pub(crate) fn start_on(state: &State<'_>, job: &JobId, host: &HostId, spec: &JobSpec) -> Step {
    Step::StartVm(StartVm {
        job: job.clone(),
        host: host.clone(),
        revision: state.next_revision(job),
        spec: spec.clone(),
        fetches: state.host(host).map(|row| fetches(state, job, row, spec)).unwrap_or_default(),
        finds_disks: finds_disks(state, job, host, spec),
    })
}

pub(crate) fn move_to(state: &State<'_>, job: &JobId, from: &HostId, to: &HostId) -> Step {
    Step::MigrateVm(MigrateVm {
        job: job.clone(),
        from: from.clone(),
        to: to.clone(),
        revision: state.next_revision(job),
    })
}

pub(crate) fn resize_on(
    state: &State<'_>,
    job: &JobId,
    host: &HostId,
    placed: &Placed,
    size: &SizeChange,
) -> Option<Step> {
    let spec = placed.spec.changed(job, size).ok()??;
    let is_more = !spec.resources().fits_in(placed.spec.resources());
    Some(Step::ResizeVm(ResizeVm {
        job: job.clone(),
        host: host.clone(),
        revision: state.next_revision(job),
        size: size.clone(),
        spec,
        is_growth: is_more && placed.promised().is_some(),
    }))
}

fn ends(state: &State<'_>, job: &JobId, with_rows: bool) -> Vec<Step> {
    let rows = state.placements(job);
    let steps = rows.iter().filter_map(|(host, placed)| {
        let (job, host) = (job.clone(), host.clone());
        match (placed.state.is_ended(), with_rows) {
            (false, _) => Some(Step::StopVm(StopVm { job, host })),
            (true, true) => Some(Step::DeleteVm(DeleteVm { job, host })),
            (true, false) => None,
        }
    });
    // Which row is treated first makes no difference, so only one is offered at a time.
    steps.filter(|step| step.check(state).is_ok()).take(1).collect()
}

/// How far a host is from fitting, in millionths of its capacity.
pub(crate) fn shortfall(asked: Resources, free: Resources, capacity: Resources) -> u64 {
    let lacking = asked.minus(free);
    [
        millionths(lacking.vcpus.into(), capacity.vcpus.into()),
        millionths(lacking.memory_bytes, capacity.memory_bytes),
        millionths(lacking.disk_bytes, capacity.disk_bytes),
    ]
    .into_iter()
    .sum()
}

/// How well a step places its job by the policy, and the seed's lot.
pub(crate) fn placement_rank(state: &State<'_>, step: &Step) -> (u32, u64) {
    let Some(reservation) = step.reservation(state) else { return (0, 0) };
    let Some(row) = state.host(&reservation.host) else { return (u32::MAX, 0) };
    let room = state.room_for(row, &reservation.job);
    let taken = room.allocation.plus(reservation.resources);
    let rank = state.input().placement.rank(taken, room.capacity);
    let is_foreign = state.is_foreign(&reservation.host);
    let foreign = if is_foreign { foreign_rank(state.input().placement) } else { 0 };
    let rank = rank.saturating_add(foreign);
    (rank, lot(state.input().seed, &reservation.host))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::PlanInput;
    use crate::aims::LOOKS_MAX;
    use crate::register::tests::{inputs, job_id, spec, views};

    type Known = ((Score, Cost, u32, u64), u64, Step);

    fn found<'a>(search: &Search<'_>, state: &State<'a>, ground: &Ground<'a>) -> Vec<Known> {
        let all = search.candidates(state, ground).into_iter();
        all.map(|c| (c.key(), c.moves_left, c.step)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn what_hosts_said_at_the_start_is_what_they_say_after_moves(
            (_, view) in views(),
            input in inputs(),
            (job, kind) in (0..14_u8, any::<u8>()),
            steps in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        ) {
            let input = PlanInput { view, ..input };
            let (job, on) = (job_id(job), None);
            let goal = Expectation::Runs { job, spec: spec(kind), on };
            let aim = Aim::Goal(&goal, Level::Must);
            let looks_max = usize::MAX;
            let (may_make_room, may_wake, may_preempt) = (true, false, false);
            let search =
                Search { aim: &aim, earlier: &[], may_make_room, may_wake, may_preempt, looks_max };
            let mut state = State::new(&input);
            let ground = Ground::new(&state);
            for step in steps {
                let known = found(&search, &state, &ground);
                prop_assert_eq!(&known, &found(&search, &state, &Ground::new(&state)));
                if known.is_empty() {
                    break;
                }
                state = step.get(&known).2.apply(&state);
            }
        }

        #[test]
        fn a_search_with_a_bound_finds_what_one_without_finds_among_few_hosts_and_nothing_wrong_with_less(
            (_, view) in views(),
            input in inputs(),
            (job, kind) in (0..14_u8, any::<u8>()),
        ) {
            let input = PlanInput { view, ..input };
            let (job, on) = (job_id(job), None);
            let goal = Expectation::Runs { job, spec: spec(kind), on };
            let aim = Aim::Goal(&goal, Level::Must);
            let start = State::new(&input);
            let (may_make_room, may_wake, may_preempt) = (true, false, false);
            let search = |looks_max| Search {
                aim: &aim,
                earlier: &[],
                may_make_room,
                may_wake,
                may_preempt,
                looks_max,
            };
            let found = |looks_max| search(looks_max).run(&start).map(|node| node.steps);
            prop_assert_eq!(found(LOOKS_MAX), found(usize::MAX));
            if let Some(steps) = found(0) {
                let node = Node::replay(&start, &steps).expect("each is allowed in its turn");
                prop_assert!(search(0).is_reached(&start, &node));
            }
        }
    }
}
