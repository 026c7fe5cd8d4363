//! The search for steps, and the plan it answers with.
//!
//! Decides the order of trying: expectations one by one in the order given, and for each the
//! cheapest state first. A violated expectation is asked only for the steps that could help it.
//! Bounded in nodes, so that a hopeless wish costs little and never holds up the others.

use std::collections::BTreeMap;

use protocol::id::{HostId, JobId};
use protocol::job::{JobSpec, JobState};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::view::HostRow;
use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::expectation::{Expectation, Standing};
use crate::input::PlanInput;
use crate::report::{Report, explain};
use crate::state::State;
use crate::steps::{Blocker, DeleteVm, MigrateVm, StartVm, Step, StopVm};

/// Hosts that are looked at for making room, nearest to fitting first: more are no better.
const ROOM_HOSTS_MAX: usize = 8;
/// VMs of such a host that are looked at, smallest first.
const ROOM_VMS_MAX: usize = 4;

/// Steps in the order in which they must be taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
    /// What they cost together.
    pub cost: Cost,
}

/// The answer of [`plan`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// What to do. Empty when nothing need or can be done; `report` tells which.
    pub plan: Plan,
    /// What is on its way already, and where: waiting is enough.
    pub coming: Vec<(JobId, HostId)>,
    /// What stays unmet, and why.
    pub report: Report,
}

/// Finds the cheapest steps that make the expectations true, as many of them as can be.
#[must_use]
pub fn plan(input: &PlanInput) -> Outcome {
    let mut outcome = Outcome::default();
    let mut state = State::new(input);
    for (i, expectation) in input.expectations.iter().enumerate() {
        match expectation.standing(&state) {
            Standing::Met => {}
            Standing::Coming { host } => outcome.coming.push((expectation.job().clone(), host)),
            Standing::Violated => match search(&state, expectation, &input.expectations[..i]) {
                Some(found) => {
                    outcome.plan.steps.extend(found.steps);
                    outcome.plan.cost = outcome.plan.cost.plus(found.cost);
                    state = found.state;
                }
                None => outcome.report.unmet.push(explain(&state, expectation)),
            },
        }
    }
    debug_assert_eq!(crate::audit(input, &outcome), vec![], "a plan that breaks its own rules");
    outcome
}

/// What would make room for a start that fits nowhere: the moves, and the start.
pub(crate) fn room_making(state: &State<'_>, expectation: &Expectation) -> Option<Vec<Step>> {
    let start = State::new(state.input());
    let found = Search { expectation, earlier: &[], may_make_room: true }.run(&start)?;
    (found.steps.len() > 1).then_some(found.steps)
}

fn search<'a>(
    state: &State<'a>,
    expectation: &Expectation,
    earlier: &[Expectation],
) -> Option<Node<'a>> {
    let may_make_room = state.input().limits.may_make_room;
    let found = Search { expectation, earlier, may_make_room }.run(state)?;
    Some(minimal(state, expectation, found))
}

#[derive(Debug, Clone)]
struct Node<'a> {
    steps: Vec<Step>,
    cost: Cost,
    state: State<'a>,
}

/// Cheapest first, then the best placed, then by the seed's lot, then as found.
type Key = (Cost, u32, u64, u32);

struct Search<'e> {
    expectation: &'e Expectation,
    earlier: &'e [Expectation],
    may_make_room: bool,
}

impl Search<'_> {
    fn run<'a>(&self, start: &State<'a>) -> Option<Node<'a>> {
        let limits = start.input().limits;
        let mut frontier: BTreeMap<Key, (Node<'a>, Option<Step>)> = BTreeMap::new();
        let root = Node { steps: vec![], cost: Cost::default(), state: start.clone() };
        frontier.insert((Cost::default(), 0, 0, 0), (root, None));
        let mut found_count = 0;
        for _ in 0..limits.nodes_max {
            let ((cost, ..), (mut node, step)) = frontier.pop_first()?;
            // A candidate becomes a state only when its turn comes: most never do.
            if let Some(step) = step {
                node.state = step.apply(&node.state);
                node.steps.push(step);
                node.cost = cost;
            }
            if self.is_goal(start, &node.state) {
                return Some(node);
            }
            if node.steps.len() >= limits.steps_max as usize {
                continue;
            }
            for step in self.candidates(&node.state) {
                let cost = node.cost.plus(step.cost(&node.state));
                let (crowding, lot) = placement_rank(&node.state, &step);
                found_count += 1;
                frontier.insert((cost, crowding, lot, found_count), (node.clone(), Some(step)));
            }
        }
        None
    }

    fn is_goal(&self, start: &State<'_>, state: &State<'_>) -> bool {
        let keeps = |e: &Expectation| {
            e.standing(state) == Standing::Met || e.standing(start) != Standing::Met
        };
        self.expectation.standing(state) == Standing::Met && self.earlier.iter().all(keeps)
    }

    /// The steps that could help, all of them allowed in this state.
    fn candidates(&self, state: &State<'_>) -> Vec<Step> {
        match self.expectation {
            Expectation::Runs { job, spec, on } => self.starts(state, job, spec, on.as_ref()),
            Expectation::RunsOn { job, on } => moves(state, job, on),
            Expectation::IsStopped { job } => ends(state, job, false),
            Expectation::Absent { job } => ends(state, job, true),
        }
    }

    fn starts(
        &self,
        state: &State<'_>,
        job: &JobId,
        spec: &JobSpec,
        on: Option<&HostId>,
    ) -> Vec<Step> {
        let rows = state.placements(job);
        if rows.values().any(|placed| !placed.state.is_ended()) {
            let is_the_same = rows.values().all(|p| p.state.is_ended() || p.spec == *spec);
            return on.filter(|_| is_the_same).map_or(vec![], |on| moves(state, job, on));
        }
        let mut starts = Vec::new();
        let mut near: Vec<(u64, &HostRow)> = Vec::new();
        for (host, row) in considered(state, on) {
            let step = start_on(state, job, host, spec);
            match step.check(state) {
                Ok(()) => starts.push(step),
                Err(Blocker::Admission { no: Refusal::NoCapacity { asked, free, capacity } })
                    if asked.fits_in(capacity) =>
                {
                    near.push((shortfall(asked, free, capacity), row));
                }
                Err(_) => {}
            }
        }
        if starts.is_empty() && self.may_make_room {
            near.sort_by_key(|(shortfall, row)| (*shortfall, row.host.id.clone()));
            near.truncate(ROOM_HOSTS_MAX);
            return near.into_iter().flat_map(|(_, row)| evictions(state, row, job)).collect();
        }
        starts
    }
}

/// Drops each step without which the rest still works.
fn minimal<'a>(start: &State<'a>, expectation: &Expectation, found: Node<'a>) -> Node<'a> {
    let mut node = found;
    let mut i = 0;
    while node.steps.len() > 1 && i < node.steps.len() {
        let mut fewer = node.steps.clone();
        fewer.remove(i);
        match replay(start, &fewer).filter(|n| expectation.standing(&n.state) == Standing::Met) {
            Some(shorter) => node = shorter,
            None => i += 1,
        }
    }
    node
}

fn replay<'a>(start: &State<'a>, steps: &[Step]) -> Option<Node<'a>> {
    let mut node = Node { steps: vec![], cost: Cost::default(), state: start.clone() };
    for step in steps {
        step.check(&node.state).ok()?;
        node.cost = node.cost.plus(step.cost(&node.state));
        node.state = step.apply(&node.state);
        node.steps.push(step.clone());
    }
    Some(node)
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

fn moves(state: &State<'_>, job: &JobId, on: &HostId) -> Vec<Step> {
    let rows = state.placements(job);
    let running = rows.iter().filter(|(_, placed)| placed.state == JobState::Running);
    let steps = running.map(|(from, _)| move_to(state, job, from, on));
    steps.filter(|step| step.check(state).is_ok()).collect()
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

/// Moves of small VMs away from a host.
fn evictions(state: &State<'_>, row: &HostRow, not: &JobId) -> Vec<Step> {
    let from = &row.host.id;
    let mut vms: Vec<(u64, &JobId)> = row
        .jobs
        .iter()
        .filter(|(id, job)| *id != not && job.state == JobState::Running)
        .map(|(id, job)| (job.spec.resources().memory_bytes, id))
        .collect();
    vms.sort();
    let moved = vms.into_iter().take(ROOM_VMS_MAX).filter_map(|(_, job)| {
        let steps = state.hosts().filter(|(to, _)| *to != from);
        let steps = steps.map(|(to, _)| move_to(state, job, from, to));
        let allowed = steps.filter(|step| step.check(state).is_ok());
        allowed.min_by_key(|step| placement_rank(state, step))
    });
    moved.collect()
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

fn millionths(part: u64, whole: u64) -> u64 {
    if whole == 0 {
        return u64::from(part > 0) * 1_000_000;
    }
    u64::try_from(u128::from(part) * 1_000_000 / u128::from(whole)).unwrap_or(u64::MAX)
}

/// How crowded the host would be, in millionths of its scarcest resource, and the seed's lot.
fn placement_rank(state: &State<'_>, step: &Step) -> (u32, u64) {
    let Some(reservation) = step.reservation(state) else { return (0, 0) };
    let Some(row) = state.host(&reservation.host) else { return (u32::MAX, 0) };
    let room = state.room_for(row, &reservation.job);
    let taken = room.allocation.plus(reservation.resources);
    let crowding = [
        millionths(taken.vcpus.into(), room.capacity.vcpus.into()),
        millionths(taken.memory_bytes, room.capacity.memory_bytes),
        millionths(taken.disk_bytes, room.capacity.disk_bytes),
    ];
    let crowding = crowding.into_iter().max().unwrap_or(0);
    let lot = lot(state.input().seed, &reservation.job, &reservation.host);
    (u32::try_from(crowding).unwrap_or(u32::MAX), lot)
}

/// FNV-1a over seed, job and host: the same everywhere, and different for each.
fn lot(seed: u64, job: &JobId, host: &HostId) -> u64 {
    let bytes = seed.to_le_bytes();
    let all = bytes.iter().chain(job.as_str().as_bytes()).chain(host.as_str().as_bytes());
    all.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
