//! Hosts that sleep while nobody needs them: which is put to sleep next, how it is emptied, and which is woken before
//! it is needed.
//!
//! Decides by the room that is left: those that are awake bear the loss of any one of them, by the rehearsal of losses,
//! and still would without the host that goes to sleep. Of the hosts that could, it is the one that takes least to empty:
//! few bytes, and few moves. Each VM goes to the host that is awake where the least is left, by admission, and no move
//! breaks a rule of any level. So what a rule keeps where it is keeps its host awake.
//!
//! ```text
//!   too little room, and one sleeps ──▶ wake one ──▶ enough
//!   enough, and would be without h3 ──▶ move what is on h3 ──▶ put h3 to sleep
//! ```

use std::cmp::Reverse;
use std::fmt;

use protocol::id::{HostId, JobId};
use protocol::resources::{Bytes, Resources};
use protocol::view::{Freshness, HostRow};
use serde::{Deserialize, Serialize};

use crate::aims::{Outcome, Plan};
use crate::expectation::Standing;
use crate::input::PlanInput;
use crate::intent::Intent;
use crate::level::Level;
use crate::measure::share;
use crate::pools::bytes_to_copy;
use crate::rehearsal::Rehearsal;
use crate::report::{Report, Unmet, UnmetReason, broken_by};
use crate::rules::{Clause, PowerSaving, Rule};
use crate::search::{Node, move_to};
use crate::state::State;
use crate::steps::{SleepHost, Step, WakeHost};

/// Hosts that are looked at for the next to sleep, those with the least to move first: each look is a rehearsal of
/// all losses, and where so many cannot be emptied, one that has more to move hardly can.
const CANDIDATES_MAX: usize = 8;

/// What a move costs beside what it copies, in bytes: its beginning, its end and its risk are the same for a small VM,
/// and as long as four seconds of a fast wire.
const MOVE_BYTES: u64 = 4 << 30;

/// VMs that are moved for one host's sleep: more take longer than a night.
const MOVES_MAX: usize = 32;

/// Hosts that are tried for each of them, emptiest first, and then fullest first.
const TARGETS_MAX: usize = 16;

/// Sleeping hosts that are looked at for the one that helps most, smallest first: each look is a rehearsal, too.
const WAKES_MAX: usize = 16;

/// What a rule calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// One more host awake.
    Wake,
    /// One fewer.
    Sleep,
}

/// What a plan does for the sake of power, or of room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "saving", rename_all = "snake_case")]
pub enum Saving {
    /// A host is put to sleep.
    Sleep {
        /// The host.
        host: HostId,
        /// The VMs that are moved away from it before.
        moved: Vec<JobId>,
        /// What of theirs goes over the wire.
        bytes: u64,
    },
    /// A host is woken.
    Wake {
        /// The host.
        host: HostId,
        /// What could not be borne without it.
        why: String,
    },
}

impl Saving {
    /// The host.
    #[must_use]
    pub fn host(&self) -> &HostId {
        match self {
            Saving::Sleep { host, .. } | Saving::Wake { host, .. } => host,
        }
    }

    /// True for a step that is taken for it.
    #[must_use]
    pub fn has(&self, step: &Step) -> bool {
        match (self, step) {
            (Saving::Sleep { host, .. }, Step::SleepHost(step)) => step.host.host() == host,
            (Saving::Sleep { host, moved, .. }, Step::MigrateVm(step)) => {
                step.from == *host && moved.contains(&step.job)
            }
            (Saving::Wake { host, .. }, Step::WakeHost(step)) => {
                step.host == *host && step.is_for_room()
            }
            _ => false,
        }
    }

    /// What it is good for, in words.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Saving::Sleep { host, moved, .. } if moved.is_empty() => {
                format!("as nobody needs {}", host.short())
            }
            Saving::Sleep { host, .. } => format!("so that {} sleeps", host.short()),
            Saving::Wake { why, .. } => format!("as {why}"),
        }
    }
}

impl fmt::Display for Saving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Saving::Sleep { host, moved, .. } if moved.is_empty() => {
                write!(f, "put {} to sleep", host.short())
            }
            Saving::Sleep { host, moved, .. } => {
                let jobs = moved.iter().map(JobId::as_str).collect::<Vec<_>>().join(", ");
                write!(f, "move {jobs} away from {}, and put it to sleep", host.short())
            }
            Saving::Wake { host, .. } => write!(f, "wake {}", host.short()),
        }
    }
}

/// What a rule calls for now, and the evidence; `None` when it is kept.
#[must_use]
pub fn need(state: &State<'_>, rule: &PowerSaving) -> Option<(Need, String)> {
    if let Some(lacking) = shortage(state, rule) {
        let (saving, _) = next_wake(state, rule, lacking)?;
        let Saving::Wake { host, why } = saving else { return None };
        return Some((Need::Wake, format!("{why}, and {} sleeps", host.short())));
    }
    let (saving, _) = next_sleep(state, rule)?;
    let host = saving.host().short();
    let moved = match &saving {
        Saving::Sleep { moved, bytes, .. } if !moved.is_empty() => {
            format!(", once {} VMs with {} have moved", moved.len(), Bytes(*bytes))
        }
        _ => String::new(),
    };
    let words =
        format!("nobody needs {host}: the others bear the loss of any one without it{moved}");
    Some((Need::Sleep, words))
}

/// The next thing to do for a rule, and the steps; `None` when it is kept, or there is no way.
pub(crate) fn next_saving<'a>(
    state: &State<'a>,
    rule: &PowerSaving,
    may_sleep: bool,
) -> Option<(Saving, Node<'a>)> {
    match shortage(state, rule) {
        Some(lacking) => next_wake(state, rule, lacking),
        None if may_sleep => next_sleep(state, rule),
        None => None,
    }
}

/// Why a run puts a host to sleep, or why not; for a run that is about that host.
#[must_use]
pub fn put_to_sleep(input: &PlanInput, host: &HostId) -> Outcome {
    let state = State::new(input);
    if state.intent(host) == Some(Intent::Asleep) {
        return Outcome::default();
    }
    match emptied(&state, host, None) {
        Ok((_, node)) => planned(node),
        Err(why) => refused(host, why),
    }
}

/// The step that wakes a host, or why it is not woken; for a run that is about that host.
#[must_use]
pub fn wake(input: &PlanInput, host: &HostId) -> Outcome {
    let state = State::new(input);
    let step = Step::WakeHost(WakeHost::for_room(host));
    match (state.intent(host), step.check(&state)) {
        (Some(Intent::Asleep), Ok(())) => planned(Node::root(&state).step(step)),
        (Some(Intent::Asleep), Err(why)) => refused(host, why.to_string()),
        _ => Outcome::default(),
    }
}

/// Why a host that is drained for its sleep is needed after all, if it is.
#[must_use]
pub fn is_needed(input: &PlanInput, host: &HostId) -> Option<String> {
    let mut state = State::new(input);
    state.sleep(host);
    lacking(&state, host)
}

fn planned(node: Node<'_>) -> Outcome {
    let Node { steps, cost, .. } = node;
    Outcome { plan: Plan { steps, cost, ..Plan::default() }, ..Outcome::default() }
}

fn refused(host: &HostId, why: String) -> Outcome {
    let (job, host) = (SleepHost::of(host).host.job().clone(), host.clone());
    let reason = UnmetReason::KeptAsItIs { host, why };
    let unmet = vec![Unmet { job, reason, hosts: vec![], hosts_unlisted: 0, cheapest: None }];
    Outcome { report: Report { unmet, ..Report::default() }, ..Outcome::default() }
}

/// Rules that are about this host.
fn rules_of<'s>(state: &'s State<'_>, row: &HostRow) -> impl Iterator<Item = &'s PowerSaving> {
    let clauses = state.input().clauses.iter().chain(&state.input().heeded);
    clauses.filter_map(move |clause| match &clause.rule {
        Rule::PowerSaving(rule) if rule.counts(&row.host) => Some(rule),
        _ => None,
    })
}

/// What those that are awake could not bear without this host, by any rule that is about it.
fn lacking(state: &State<'_>, host: &HostId) -> Option<String> {
    let row = state.host(host)?;
    rules_of(state, row).find_map(|rule| shortage(state, rule)).map(|lacking| lacking.words)
}

/// Hosts that take what comes, as far as a rule is about them.
fn awake<'a>(state: &State<'a>, rule: &PowerSaving) -> Vec<&'a HostRow> {
    let is_awake = |host: &HostId, row: &HostRow| {
        state.intent(host).is_none()
            && state.heard(host).freshness != Freshness::Lost
            && rule.counts(&row.host)
    };
    let rows = state.hosts().filter(|(host, row)| is_awake(host, row));
    rows.map(|(_, row)| row).collect()
}

/// Hosts that may be woken, as far as a rule is about them: one of each size, smallest first.
fn sleepers<'a>(state: &State<'a>, rule: &PowerSaving) -> impl Iterator<Item = &'a HostRow> {
    let rows = state.hosts().filter(|(host, row)| {
        let wake = Step::WakeHost(WakeHost::for_room(host));
        rule.counts(&row.host) && wake.check(state).is_ok()
    });
    let mut rows: Vec<&HostRow> = rows.map(|(_, row)| row).collect();
    let size = |row: &&HostRow| (row.host.capacity.memory_bytes, row.host.capacity.vcpus);
    rows.sort_by_key(|row| (size(row), &row.host.id));
    rows.dedup_by_key(|row| size(row));
    rows.into_iter()
}

/// What those that are awake could not bear.
struct Shortage {
    /// How much it is: hosts that lack in number, then VMs without a place.
    amount: (usize, usize),
    words: String,
}

/// What those that are awake could not bear; `None` when they have room enough.
fn shortage(state: &State<'_>, rule: &PowerSaving) -> Option<Shortage> {
    let awake = awake(state, rule);
    let (count, least) = (awake.len(), rule.awake_min() as usize);
    if count < least {
        let words = format!("{count} hosts are awake, and {least} are to be");
        return Some(Shortage { amount: (least - count, 0), words });
    }
    let unused = rule.spare().saturating_sub(1) as usize;
    let rehearsal = Rehearsal::of_hosts().among(state, |row| rule.counts(&row.host), unused);
    let stranded = rehearsal.stranding().map(|loss| loss.stranded.len()).sum();
    if stranded == 0 {
        return None;
    }
    let without = match unused {
        0 => String::new(),
        unused => format!(" with the room of {unused} hosts left out of account"),
    };
    Some(Shortage { amount: (0, stranded), words: format!("{rehearsal}{without}") })
}

fn next_wake<'a>(
    state: &State<'a>,
    rule: &PowerSaving,
    lacking: Shortage,
) -> Option<(Saving, Node<'a>)> {
    let woken =
        |row: &HostRow| Node::root(state).step(Step::WakeHost(WakeHost::for_room(&row.host.id)));
    // Of those that help as much the smallest; none that does not help.
    let mut best = (lacking.amount, None);
    for row in sleepers(state, rule).take(WAKES_MAX) {
        let left = shortage(&woken(row).state, rule).map_or((0, 0), |lacking| lacking.amount);
        if left < best.0 {
            best = (left, Some(row));
        }
        if left == (0, 0) {
            break;
        }
    }
    let row = best.1?;
    Some((Saving::Wake { host: row.host.id.clone(), why: lacking.words }, woken(row)))
}

fn next_sleep<'a>(state: &State<'a>, rule: &PowerSaving) -> Option<(Saving, Node<'a>)> {
    let awake = awake(state, rule);
    // One that is to go leaves the others as many.
    if awake.len() <= rule.awake_min() as usize {
        return None;
    }
    let could = |row: &&&HostRow| SleepHost::of(&row.host.id).check_emptied(state).is_ok();
    let mut rows: Vec<(u64, &HostId)> =
        awake.iter().filter(could).map(|row| (effort_on(state, row), &row.host.id)).collect();
    rows.sort();
    let mut ways = rows.into_iter().take(CANDIDATES_MAX);
    ways.find_map(|(_, host)| emptied(state, host, Some(rule)).ok())
}

/// What it takes for a host to be empty: what would go over the wire, and what the moves cost beside.
fn effort_on(state: &State<'_>, row: &HostRow) -> u64 {
    let each = sizes_on(state, row).map(|bytes| bytes.saturating_add(MOVE_BYTES));
    each.fold(0, u64::saturating_add)
}

/// What would go over the wire for each VM of a host.
fn sizes_on(state: &State<'_>, row: &HostRow) -> impl Iterator<Item = u64> {
    state.jobs_alive(row).into_iter().filter_map(|job| {
        let placed = state.placed(&job, &row.host.id)?;
        let disks = bytes_to_copy(Some(row), &placed.spec);
        Some(placed.allocation().memory_bytes.saturating_add(disks))
    })
}

/// The steps that empty a host and put it to sleep; the error says what stands in the way. `for_rule`: VMs go only to
/// hosts that it is about.
fn emptied<'a>(
    state: &State<'a>,
    host: &HostId,
    for_rule: Option<&PowerSaving>,
) -> Result<(Saving, Node<'a>), String> {
    let short = host.short();
    let row = state.host(host).ok_or("no such host is known")?;
    let sleep = SleepHost::of(host);
    sleep.check_emptied(state).map_err(|why| format!("{short} {why}"))?;
    let bytes = sizes_on(state, row).fold(0, u64::saturating_add);
    let mut jobs: Vec<(Reverse<(u64, u32)>, JobId)> = Vec::new();
    for job in state.jobs_alive(row) {
        let size = state.placed(&job, host).map(|placed| placed.allocation()).unwrap_or_default();
        jobs.push((Reverse((size.memory_bytes, size.vcpus)), job));
    }
    jobs.sort();
    if jobs.len() > MOVES_MAX {
        return Err(format!("{short} has {} VMs, and at most {MOVES_MAX} are moved", jobs.len()));
    }
    let moved: Vec<JobId> = jobs.into_iter().map(|(_, job)| job).collect();
    let is_place =
        |row: &HostRow| row.host.id != *host && for_rule.is_none_or(|rule| rule.counts(&row.host));
    // For a rule they are packed: spread, they would go to the hosts that sleep next, and move once more. Else spread
    // as placement does. The other way where that leaves a large one without a place.
    let is_spread = for_rule.is_none();
    let node = leave(state, host, &moved, is_place, is_spread)
        .or_else(|_| leave(state, host, &moved, is_place, !is_spread))?
        .step(Step::SleepHost(sleep));
    let others = rules_of(&node.state, row).filter(|rule| Some(*rule) != for_rule);
    let lacking = for_rule.into_iter().chain(others).find_map(|rule| shortage(&node.state, rule));
    if let Some(lacking) = lacking {
        return Err(format!("without {short} {}", lacking.words));
    }
    // Looked at last, as it costs most.
    let clauses = state.input().clauses.iter().chain(&state.input().heeded);
    let mut whole = clauses
        .filter(|clause| matches!(clause.rule, Rule::LoseAnyHost(_) | Rule::LoseAnyDomain(_)));
    let is_worse =
        |clause: &&Clause| clause.rule.violations(&node.state) > clause.rule.violations(state);
    if let Some(clause) = whole.find(is_worse) {
        return Err(format!("without {short} {}", clause.rule.evidence(&node.state)));
    }
    Ok((Saving::Sleep { host: host.clone(), moved, bytes }, node))
}

/// The moves of all VMs of a host to others, in this order.
fn leave<'a>(
    state: &State<'a>,
    from: &HostId,
    jobs: &[JobId],
    is_place: impl Fn(&HostRow) -> bool,
    is_spread: bool,
) -> Result<Node<'a>, String> {
    let mut node = Node::root(state);
    for job in jobs {
        node.state.remember(job);
        let places = places(&node.state, from, job, &is_place, is_spread);
        let step = places.into_iter().find_map(|to| {
            let step = move_to(&node.state, job, from, to);
            is_free(&node.state, &step).then_some(step)
        });
        let step = step.ok_or_else(|| format!("{job} cannot leave {}", from.short()))?;
        node = node.step(step);
    }
    Ok(node)
}

/// Hosts that have room for a VM as far as numbers tell, best first.
fn places<'a>(
    state: &State<'a>,
    from: &HostId,
    job: &JobId,
    is_place: impl Fn(&HostRow) -> bool,
    is_spread: bool,
) -> Vec<&'a HostId> {
    let size = state.placed(job, from).map(|placed| placed.allocation()).unwrap_or_default();
    let size = Resources { disk_bytes: 0, ..size };
    let fits = |host: &HostId, row: &HostRow| {
        state.intent(host).is_none()
            && state.heard(host).freshness != Freshness::Lost
            && size.fits_in(row.host.capacity.minus(state.allocation(row)))
    };
    let rows = state.hosts().filter(|(host, row)| is_place(row) && fits(host, row));
    let mut rows: Vec<_> = rows
        .map(|(host, row)| (share(state.allocation(row).plus(size), row.host.capacity), host))
        .collect();
    rows.sort();
    if !is_spread {
        rows.reverse();
    }
    rows.into_iter().take(TARGETS_MAX).map(|(_, host)| host).collect()
}

/// True for a move that is allowed, breaks no rule, and takes nobody from where it is expected.
fn is_free(state: &State<'_>, step: &Step) -> bool {
    if step.check(state).is_err() || broken_by(state, step, Level::Wish).is_some() {
        return false;
    }
    let mut goals = state.input().expectations.iter().filter(|goal| goal.job() == step.job());
    let after = step.apply(state);
    goals
        .all(|goal| goal.standing(state) != Standing::Met || goal.standing(&after) == Standing::Met)
}

#[cfg(test)]
mod tests;
