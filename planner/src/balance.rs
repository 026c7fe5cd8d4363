//! Moves that spread VMs over hosts again, one after the other.
//!
//! Decides which VM goes from a fuller host to an emptier one, or why none does. A shift leaves the fuller of its two
//! hosts, whichever that is then, less full than the fuller was, and neither emptier than the emptier was. So the
//! shares of all hosts, fullest first, only ever go down as a list, no two shifts lead in a circle, and what is
//! between the fullest and the emptiest never grows. A shift breaks no rule, whatever its level: who mends that rule
//! would else undo it. By the same token one for what guests use drives hosts no further apart by what is promised than is
//! comfortable, where that is expected as well, and the other way round.
//!
//! What guests use changes by itself. So a VM goes for it only if its own has been watched for as long as hosts must have
//! been uneven, to a host of which it is known what is used there, and if the move is clearly worth it
//! ([`Balanced::is_clear`]).
//!
//! It is done last, when all else that a plan is for has had its turn.

use std::cmp::Reverse;
use std::fmt;

use protocol::id::{HostId, JobId};
use protocol::view::Freshness;
use serde::{Deserialize, Serialize};

use crate::expectation::{Expectation, Standing};
use crate::level::Level;
use crate::measure::{Measure, Vm};
use crate::pools::bytes_to_copy;
use crate::report::broken_by;
use crate::rules::{Balanced, Clause, Rule, Scale, percent};
use crate::search::move_to;
use crate::state::{Placed, State};
use crate::steps::Step;

/// Emptier hosts that are looked at for the VMs of one fuller host, emptiest first: where so many cannot take what
/// is there, more are no better.
const TARGETS_MAX: usize = 32;

/// Moves that are tried for one fuller host, best first.
const TRIES_MAX: usize = 64;

/// Moves that are tried for one shift: in a large cluster in which nothing may be moved it is not all of them.
const TRIES_ALL_MAX: usize = 1_024;

/// A shift that lowers the fuller host by less than this part of what another one does is taken only after all that
/// do more, whatever these cost: a handful of small moves disturbs more guests than a large one.
const SMALL: u64 = 4;

/// VMs of which it is said why they are not moved.
const NAMED_MAX: usize = 3;

/// A move of one VM from a fuller host to an emptier one, for that reason alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shift {
    /// By what they are made more alike.
    #[serde(default, skip_serializing_if = "Measure::is_promised")]
    pub measure: Measure,
    /// The VM.
    pub job: JobId,
    /// The fuller host.
    pub from: HostId,
    /// Its share before, in millionths.
    pub from_millionths: u64,
    /// The emptier host.
    pub to: HostId,
    /// Its share before, in millionths.
    pub to_millionths: u64,
}

impl fmt::Display for Shift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "move {} from {} to {}", self.job, self.from.short(), self.to.short())
    }
}

impl Shift {
    /// What it is good for, in words.
    #[must_use]
    pub fn reason(&self) -> String {
        let (from, to) = (self.from.short(), self.to.short());
        let (fuller, emptier) = (percent(self.from_millionths), percent(self.to_millionths));
        let how = self.measure.adjective();
        format!("as {from} is {fuller} {how} and {to} {emptier}")
    }
}

/// A host and its share.
type Filled<'a> = (u64, &'a HostId);

/// A shift that may be possible; the lesser the better.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Way<'a> {
    /// Whether it is worth so little that several of its kind would be needed for what another one does.
    is_small: bool,
    /// Whether more goes over the wire than its memory.
    copies_disks: bool,
    /// How full the fuller of both is then.
    fuller: u64,
    /// How full the emptier host is then.
    arrived: u64,
    bytes: u64,
    job: JobId,
    to: Filled<'a>,
}

/// The next shift; `None` when hosts are near enough to each other, or no shift helps. Where it `was_begun`, near enough
/// is nearer.
pub(crate) fn next_shift(
    state: &State<'_>,
    rule: &Balanced,
    was_begun: bool,
) -> Option<(Shift, Step)> {
    let scale = rule.scale(state);
    let mut tries_left = TRIES_ALL_MAX;
    for from in scale.iter().rev() {
        let targets = targets(&scale, *from, rule.enough(was_begun));
        if targets.is_empty() {
            break;
        }
        let jobs = leaving(state, rule, from.1).into_iter();
        let ways = jobs.flat_map(|(job, placed)| {
            let vm = Vm { job: &job, placed: &placed };
            ways(state, rule, *from, &targets, vm)
        });
        let ways = in_order(from.0, ways.collect());
        for way in ways.into_iter().take(TRIES_MAX.min(tries_left)) {
            tries_left -= 1;
            let step = move_to(state, &way.job, from.1, way.to.1);
            if hindrance(state, rule, *from, way.to, &step).is_none() {
                let (from_millionths, from) = (from.0, from.1.clone());
                let (to_millionths, to) = (way.to.0, way.to.1.clone());
                let (measure, job) = (rule.measure(), way.job);
                let shift = Shift { measure, job, from, from_millionths, to, to_millionths };
                return Some((shift, step));
            }
        }
    }
    None
}

/// Ways from a host with this share, best first.
fn in_order(from: u64, mut ways: Vec<Way<'_>>) -> Vec<Way<'_>> {
    let best = ways.iter().map(|way| from - way.fuller).max().unwrap_or(0);
    for way in &mut ways {
        way.is_small = (from - way.fuller) < best / SMALL;
    }
    ways.sort();
    ways
}

/// Why there is no next shift, in words: what stands in the way of each VM of the fullest host.
pub(crate) fn why_none(state: &State<'_>, rule: &Balanced) -> String {
    let scale = rule.scale(state);
    let Some(from) = scale.last().copied() else { return "no host counts".to_owned() };
    let targets = targets(&scale, from, rule.enough(false));
    let jobs = leaving(state, rule, from.1);
    if jobs.is_empty() {
        return format!("no VM on {} could be moved", from.1.short());
    }
    let why = |(job, placed): &(JobId, Placed)| {
        let vm = Vm { job, placed };
        if let Some(way) = ways(state, rule, from, &targets, vm).first() {
            let step = move_to(state, job, from.1, way.to.1);
            let why = hindrance(state, rule, from, way.to, &step);
            let why = why.unwrap_or_else(|| "nothing stands in the way".to_owned());
            return format!("{job} to {}: {why}", way.to.1.short());
        }
        unwatched(state, rule, job).unwrap_or_else(|| {
            let (how, host) = (rule.measure().adjective(), from.1.short());
            match rule.measure() {
                Measure::Promised => {
                    format!("{job} would make any other host as {how} as {host} is")
                }
                Measure::Cpu if is_idle(state, rule, from.1, vm) => {
                    format!("{job} uses next to nothing")
                }
                Measure::Cpu => {
                    format!("{job} would make any other host about as {how} as {host} is")
                }
            }
        })
    };
    let mut words: Vec<String> = jobs.iter().take(NAMED_MAX).map(why).collect();
    if jobs.len() > NAMED_MAX {
        words.push(format!("and {} more VMs stay there", jobs.len() - NAMED_MAX));
    }
    format!("no move helps: {}", words.join("; "))
}

/// The hosts that are so much emptier than this one that a shift is worth it.
fn targets<'a>(scale: &Scale<'a>, from: Filled<'a>, enough: u64) -> Vec<Filled<'a>> {
    let is_far = |(share, _): &&Filled<'a>| from.0.saturating_sub(*share) > enough;
    scale.iter().take_while(is_far).take(TARGETS_MAX).copied().collect()
}

/// Why it is not known well enough what a VM uses, where that matters.
fn unwatched(state: &State<'_>, rule: &Balanced, job: &JobId) -> Option<String> {
    if rule.measure().is_promised() {
        return None;
    }
    let Some(known) = state.input().used.vms.get(job) else {
        return Some(format!("what {job} uses is not known"));
    };
    let (watched_s, after_s) = (known.watched_ms / 1_000, rule.after_ms() / 1_000);
    (known.watched_ms < rule.after_ms()).then(|| {
        format!("what {job} uses has been watched for {watched_s} s, and not yet for {after_s}")
    })
}

/// True for a VM without which its host would be as busy as it is.
fn is_idle(state: &State<'_>, rule: &Balanced, host: &HostId, vm: Vm<'_>) -> bool {
    let part = state.host(host).and_then(|row| rule.measure().part(state, row, vm));
    part.is_some_and(|part| rule.is_noise(part))
}

/// The VMs of a host, largest first.
fn leaving(state: &State<'_>, rule: &Balanced, host: &HostId) -> Vec<(JobId, Placed)> {
    let Some(row) = state.host(host) else { return vec![] };
    let alive = state.jobs_alive(row).into_iter();
    let mut jobs: Vec<_> =
        alive.filter_map(|job| Some((job.clone(), state.placed(&job, host)?))).collect();
    jobs.sort_by_key(|(job, placed)| {
        let size = rule.measure().part(state, row, Vm { job, placed });
        (Reverse(size), job.clone())
    });
    jobs
}

/// Where a VM could go as far as shares tell, best first.
fn ways<'a>(
    state: &State<'a>,
    rule: &Balanced,
    from: Filled<'a>,
    targets: &[Filled<'a>],
    vm: Vm<'_>,
) -> Vec<Way<'a>> {
    let measure = rule.measure();
    let Some(row) = state.host(from.1) else { return vec![] };
    let Some(left) = measure.without(state, row, vm) else { return vec![] };
    if unwatched(state, rule, vm.job).is_some() {
        return vec![];
    }
    let disks = bytes_to_copy(Some(row), &vm.placed.spec);
    let bytes = vm.placed.allocation().memory_bytes.saturating_add(disks);
    let way = |to: &Filled<'a>| {
        let arrived = measure.with(state, state.host(to.1)?, vm)?;
        let fuller = left.max(arrived);
        let (job, to, copies_disks) = (vm.job.clone(), *to, disks > 0);
        is_better(rule, (from.0, to.0), (left, arrived)).then_some(Way {
            is_small: false,
            copies_disks,
            fuller,
            arrived,
            bytes,
            job,
            to,
        })
    };
    let mut ways: Vec<_> = targets.iter().filter_map(way).collect();
    ways.sort();
    ways
}

/// True for a shift that leaves both hosts less full than the fuller was and neither emptier than the emptier was, and that
/// clearly so.
fn is_better(rule: &Balanced, (from, to): (u64, u64), (left, arrived): (u64, u64)) -> bool {
    left.max(arrived) < from && left.min(arrived) >= to && rule.is_clear(from, left, arrived)
}

/// What stands in the way of a shift, in words.
fn hindrance(
    state: &State<'_>,
    rule: &Balanced,
    from: Filled<'_>,
    to: Filled<'_>,
    step: &Step,
) -> Option<String> {
    let is_heard = |host: &HostId| state.heard(host).freshness == Freshness::Fresh;
    if let Some(host) = [from.1, to.1].into_iter().find(|host| !is_heard(host)) {
        return Some(format!("nothing new is heard of {}", host.short()));
    }
    if let Some(why) = step.check(state).err().or_else(|| broken_by(state, step, Level::Wish)) {
        return Some(why.to_string());
    }
    let after = step.apply(state);
    let shares = rule.share_of(&after, from.1).zip(rule.share_of(&after, to.1));
    if !shares.is_some_and(|shares| is_better(rule, (from.0, to.0), shares)) {
        return Some("the two would be no more alike".to_owned());
    }
    let mut goals = state.input().expectations.iter().filter(|goal| goal.job() == step.job());
    let is_broken = |goal: &Expectation| {
        goal.standing(state) == Standing::Met && goal.standing(&after) != Standing::Met
    };
    if goals.any(is_broken) {
        return Some("it is expected where it is".to_owned());
    }
    // Looked at last, as it costs most.
    if let Some(why) = undone(state, &after, rule, (from.1, to.1)) {
        return Some(why);
    }
    let clauses = state.input().clauses.iter().chain(&state.input().heeded);
    let mut whole = clauses
        .filter(|clause| matches!(clause.rule, Rule::LoseAnyHost(_) | Rule::LoseAnyDomain(_)));
    let is_worse =
        |clause: &&Clause| clause.rule.violations(&after) > clause.rule.violations(state);
    whole.find(is_worse).map(|clause| clause.rule.evidence(&after))
}

/// Why hosts that are to be balanced by another measure as well would be driven apart by that: a shift for it would undo this
/// one. Neither the two nor all of them may come further apart than they are, unless that is still comfortable.
fn undone(
    state: &State<'_>,
    after: &State<'_>,
    rule: &Balanced,
    (from, to): (&HostId, &HostId),
) -> Option<String> {
    let clauses = state.input().clauses.iter().chain(&state.input().heeded);
    let others = clauses.filter_map(|clause| match &clause.rule {
        Rule::Balanced(other) if other.measure() != rule.measure() => Some(other),
        _ => None,
    });
    let pair = |other: &Balanced, state: &State<'_>| {
        let shares = other.share_of(state, from).zip(other.share_of(state, to));
        shares.map_or(0, |(from, to)| from.abs_diff(to))
    };
    let gap =
        |other: &Balanced, state: &State<'_>| other.gap(state).map_or(0, |gap| gap.millionths());
    let mut driven = others.filter(|other| {
        let is_further = |before: u64, after: u64| after > before.max(other.enough(true));
        is_further(pair(other, state), pair(other, after))
            || is_further(gap(other, state), gap(other, after))
    });
    driven.next().map(|other| format!("{}, and {other}", other.evidence(after)))
}

#[cfg(test)]
mod tests;
