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
use crate::level::{Level, Score};
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
                    way.node = way.node.step(step);
                    way.wants.pop();
                    if !self.is_harmless(way.node.added) {
                        continue;
                    }
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
        for (job, size, more) in leavers(state, &Leaving { row, room: Some((wanting, lacking)) }) {
            let is_waiting = way.wants.iter().any(|want| want.job == job && job != *own);
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
                        let node = way.node.clone().step(step);
                        if self.is_harmless(node.added) {
                            self.add(Way { node, wants: way.wants.clone() }, steps_left, place);
                        }
                    }
                    // Whoever the way began with only steps aside: what it wants is another place.
                    Err(Blocker::Admission { no }) if job != *own => {
                        let lack = Lack::of(&no).filter(|lack| lack.may_be);
                        let added = added_by(state, &step);
                        if let Some(lack) =
                            lack.filter(|_| self.is_harmless(way.node.added.plus(added)))
                        {
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

    /// Hosts that a VM may go to: a few that have room, and a few that nearly have. What is wanted is no place.
    fn places(&mut self, way: &Way<'a>, job: &JobId, size: Load, from: &HostId) -> Vec<HostId> {
        let state = &way.node.state;
        let clauses = state.clauses_of(job);
        let (mut with_room, mut near) = (Vec::new(), Vec::new());
        for (host, row) in state.hosts() {
            let is_wanted = way.wants.iter().any(|want| want.to == *host);
            let is_open = state.intent(host).is_none();
            if is_wanted || host == from || !is_open {
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
            if lacking == Load::ZERO { with_room.push(place) } else { near.push(place) }
        }
        for places in [&mut with_room, &mut near] {
            places.sort();
            places.truncate(WAYS_MAX);
        }
        with_room.into_iter().chain(near).map(|(.., host)| host.clone()).collect()
    }

    /// True while what is wanted is worth what is broken.
    fn is_harmless(&self, added: Score) -> bool {
        let level: Level = self.search.aim.level();
        added.plus(Score::at(level, -1)) < Score::default()
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
    let Load { resources, pages } = lacking;
    [
        millionths(resources.vcpus.into(), capacity.vcpus.into()),
        millionths(resources.memory_bytes, capacity.memory_bytes),
        millionths(resources.disk_bytes, capacity.disk_bytes),
        millionths(pages.bytes(), capacity.memory_bytes),
    ]
    .into_iter()
    .fold(0, u64::saturating_add)
}
