//! What stays unmet and why, with numbers a person can act on.
//!
//! Decides which fact about a job matters most (where it is alive comes before who has room), and
//! what the cheapest change would be that makes it fit.

use std::fmt;

use protocol::cpus::DedicatedCpus;
use protocol::hugepages::{PageSize, Pages};
use protocol::id::{HostId, JobId};
use protocol::job::{JobSpec, JobState};
use protocol::refusal::Refusal;
use protocol::resources::{Bytes, Resources};
use protocol::view::Freshness;
use serde::{Deserialize, Serialize};

use crate::aims::room_making;
use crate::balance::{next_shift, why_none};
use crate::expectation::{Expectation, whereabouts};
use crate::intent::{Intent, Problem};
use crate::level::{Level, Score};
use crate::load::{Lack, Load};
use crate::order::awaited;
use crate::pools::is_on_shared;
use crate::ring::help_by_turning;
use crate::rules::{Clause, Rule, Violation, home};
use crate::saving::next_saving;
use crate::search::{added_by, considered, move_to, moves_there, resize_on, start_on};
use crate::state::{Placed, State};
use crate::steps::{Blocker, DeleteVm, Step, StopVm};

/// Hosts named in one explanation, nearest to fitting first: more than a screenful helps nobody.
const VERDICTS_MAX: usize = 16;

/// Hosts without room that are looked at for who would have to change places with a job: a label that many have is no
/// place of somebody's.
const RINGS_MAX: u32 = 4;

/// What a plan leaves undone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// One entry for each expectation that stays unmet.
    pub unmet: Vec<Unmet>,
    /// Rules that are broken when the plan is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
    /// What is wrong with hosts when the plan is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl Report {
    /// True when nothing stays unmet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unmet.is_empty()
    }

    /// True when waiting may help, because all that stands in the way is under way itself.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        let is_passing = |u: &Unmet| matches!(u.reason, UnmetReason::InTransition { .. });
        !self.is_empty() && self.unmet.iter().all(is_passing)
    }
}

/// One unmet expectation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmet {
    /// The job.
    pub job: JobId,
    /// The main reason.
    pub reason: UnmetReason,
    /// What stands in the way on each host, nearest first.
    pub hosts: Vec<HostVerdict>,
    /// How many more hosts there are that are not listed.
    pub hosts_unlisted: u32,
    /// The cheapest change known that would help.
    pub cheapest: Option<String>,
}

/// Why an expectation stays unmet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "unmet", rename_all = "snake_case")]
pub enum UnmetReason {
    /// No host in the view has the job.
    NoSuchJob,
    /// No host is known at all.
    NoHosts,
    /// No host can take it.
    NoHostFits,
    /// The job is alive on a host that cannot be asked.
    AliveOnLostHost {
        /// The host.
        host: HostId,
        /// Its state when it was last heard of.
        state: JobState,
        /// How long ago that was.
        age_ms: u64,
    },
    /// The job is alive with another spec.
    OtherSpec {
        /// Where.
        host: HostId,
    },
    /// The job is between two states; what it will be is not known yet.
    InTransition {
        /// Where.
        host: HostId,
        /// What it is doing.
        state: JobState,
    },
    /// The job's disks are on a host that is not the one asked for.
    DisksElsewhere {
        /// Where they are.
        host: HostId,
    },
    /// Its host is to be emptied, and no other can take it.
    CannotLeave {
        /// Where it is.
        host: HostId,
    },
    /// It starts after another one, which does not run.
    WaitsFor {
        /// The other one.
        job: JobId,
        /// Where that is, if anybody has it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<HostId>,
        /// How it is there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        state: Option<JobState>,
    },
    /// A host stays awake, or asleep.
    KeptAsItIs {
        /// The host.
        host: HostId,
        /// Why, in words.
        why: String,
    },
    /// The policy for its tenant lets no host start it.
    AgainstPolicy {
        /// In these words and numbers.
        no: Refusal,
    },
    /// The one step that would help is not possible.
    Blocked,
}

/// What stands in the way on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostVerdict {
    /// The host.
    pub host: HostId,
    /// Its name, for people.
    pub name: String,
    /// What stands in the way.
    #[serde(flatten)]
    pub why: Blocker,
    /// How old the facts behind it are, in milliseconds.
    #[serde(default)]
    pub age_ms: u64,
    /// How many more hosts say the very same; they are not listed.
    #[serde(default)]
    pub alike: u32,
}

/// The rules that are broken in a state.
pub(crate) fn violations(state: &State<'_>) -> Vec<Violation> {
    let clauses = state.input().clauses.iter();
    let broken = clauses.filter_map(|clause| {
        let count = clause.rule.violations(state);
        (count > 0).then(|| violation(state, clause, count))
    });
    broken.collect()
}

fn violation(state: &State<'_>, clause: &Clause, count: u32) -> Violation {
    let Clause { level, rule } = clause.clone();
    let mut evidence = rule.evidence(state);
    let cheapest = match &rule {
        Rule::Balanced(rule) => match next_shift(state, rule, state.input().limits.shifts_begun) {
            Some((shift, _)) => Some(shift.to_string()),
            None => {
                evidence = format!("{evidence}; {}", why_none(state, rule));
                None
            }
        },
        Rule::PowerSaving(rule) => {
            next_saving(state, rule, true).map(|(saving, _)| saving.to_string())
        }
        Rule::RestartWithin(rule) => rule.help(state),
        rule => rule.movable().iter().find_map(|job| nearest_move(state, job)),
    };
    Violation { level, rule, count, evidence, hosts: why_no_move(state, clause), cheapest }
}

/// What stands in the way of a move that would end a violation: on every host, for the first of the jobs
/// that are too many where they are. Nothing when such a move is possible.
fn why_no_move(state: &State<'_>, clause: &Clause) -> Vec<HostVerdict> {
    let before = clause.rule.violations(state);
    let verdicts_of = |job: &JobId| {
        let from = home(state, job)?;
        let mut without = state.clone();
        without.place(job, &from, None);
        if clause.rule.violations(&without) >= before {
            return None;
        }
        let mut hosts = Vec::new();
        for (host, row) in state.hosts().filter(|(host, _)| **host != from) {
            let step = move_to(state, job, &from, host);
            let after = step.apply(state);
            let why = match step.check(state).err().or_else(|| broken_by(state, &step, Level::Wish))
            {
                Some(why) => why,
                None if clause.rule.violations(&after) >= before => {
                    let (level, evidence) = (clause.level, clause.rule.evidence(&after));
                    Blocker::Rule { level, evidence }
                }
                None => return Some(vec![]),
            };
            let (host, name) = (host.clone(), row.host.name.clone());
            let age_ms = state.heard(&host).age_ms;
            hosts.push((distance(&why), HostVerdict { host, name, why, age_ms, alike: 0 }));
        }
        Some(classes(hosts))
    };
    let mut all = clause.rule.movable().into_iter().filter_map(verdicts_of);
    let mut verdicts = all.next().unwrap_or_default();
    verdicts.truncate(VERDICTS_MAX);
    verdicts
}

/// What keeps a job from the host that would end a violation, as a change that would help.
fn nearest_move(state: &State<'_>, job: &JobId) -> Option<String> {
    let from = home(state, job)?;
    let mut near: Vec<(u64, String)> = Vec::new();
    let mut rings_left = RINGS_MAX;
    for (host, row) in state.hosts().filter(|(host, _)| **host != from) {
        let step = move_to(state, job, &from, host);
        if added_by(state, &step) >= Score::default() {
            continue;
        }
        let place = name(host, &row.host.name);
        match step.check(state) {
            Err(Blocker::Admission { no: Refusal::NoCapacity { asked, free, .. } }) => {
                let lacking = asked.minus(free);
                let words = format!("free {} on {place} for {job}", lacking_words(lacking));
                let is_asked = rings_left > 0;
                let turned = is_asked.then(|| help_by_turning(state, job, &from, host)).flatten();
                // Nobody else is there to free it.
                let is_alone = state.jobs_alive(row).len() == 1;
                let is_less = |bytes: u64| is_alone || bytes < lacking.memory_bytes;
                near.push(match turned.filter(|(bytes, _)| is_less(*bytes)) {
                    Some((_, words)) => (0, words),
                    None => (1, words),
                });
                rings_left = rings_left.saturating_sub(1);
            }
            Err(Blocker::Admission { no: Refusal::NoHugepages { page_size, asked, free, .. } }) => {
                let lacking = Pages::of(page_size, asked.saturating_sub(free));
                near.push((1, format!("free {lacking} on {place} for {job}, or set more aside")));
            }
            Err(Blocker::Admission { no: Refusal::NoDedicatedCpus { asked, free, .. } }) => {
                let lacking = DedicatedCpus::words(asked.saturating_sub(free));
                near.push((1, format!("free {lacking} on {place} for {job}, or set more aside")));
            }
            Err(why) => near.push((2, format!("{job} to {place}, which {why}"))),
            Ok(()) => near.push((3, format!("move {job} to {place}, if its rules let it"))),
        }
    }
    near.into_iter().min().map(|(_, words)| words)
}

/// Says why nothing helps an expectation.
pub(crate) fn explain(state: &State<'_>, expectation: &Expectation) -> Unmet {
    let job = expectation.job();
    let level = state.input().levels.get(job).copied().unwrap_or_default();
    let is_start = matches!(expectation, Expectation::Runs { .. });
    if let Some((other, at)) = awaited(state, job, level).filter(|_| is_start) {
        let (host, state) = at.unzip();
        let reason = UnmetReason::WaitsFor { job: other, host, state };
        let job = job.clone();
        return Unmet { job, reason, hosts: vec![], hosts_unlisted: 0, cheapest: None };
    }
    let mut hosts = verdicts(state, expectation);
    let hosts_unlisted = hosts.len().saturating_sub(VERDICTS_MAX);
    hosts.truncate(VERDICTS_MAX);
    let reason = reason(state, expectation);
    let cheapest = cheapest(state, expectation, &reason, &hosts);
    Unmet {
        job: job.clone(),
        reason,
        hosts,
        hosts_unlisted: u32::try_from(hosts_unlisted).unwrap_or(u32::MAX),
        cheapest,
    }
}

/// Says why a job stays on a host that is to be emptied.
pub(crate) fn explain_stay(state: &State<'_>, job: &JobId, from: &HostId) -> Unmet {
    let rows = state.placements(job);
    let is_between = |state: &JobState| {
        matches!(
            state,
            JobState::Accepted
                | JobState::Starting
                | JobState::Stopping
                | JobState::MigratingIn
                | JobState::MigratingOut
        )
    };
    // On its way to another host, it is leaving already.
    let between = rows.iter().find(|(_, placed)| is_between(&placed.state));
    let (job, host) = (job.clone(), from.clone());
    if let Some((host, Placed { state, .. })) = between {
        let reason = UnmetReason::InTransition { host: host.clone(), state: *state };
        return Unmet { job, reason, hosts: vec![], hosts_unlisted: 0, cheapest: None };
    }
    let others = state.hosts().filter(|(to, _)| *to != from);
    let moves = others.map(|(to, _)| (to.clone(), move_to(state, &job, from, to)));
    let mut hosts = judge(state, moves.collect(), Level::Must);
    let hosts_unlisted = u32::try_from(hosts.len().saturating_sub(VERDICTS_MAX));
    hosts.truncate(VERDICTS_MAX);
    let cheapest = hosts.first().and_then(nearest_help);
    let reason = UnmetReason::CannotLeave { host };
    Unmet { job, reason, hosts, hosts_unlisted: hosts_unlisted.unwrap_or(u32::MAX), cheapest }
}

fn reason(state: &State<'_>, expectation: &Expectation) -> UnmetReason {
    let rows = state.placements(expectation.job());
    for (host, placed) in rows.iter().filter(|(_, placed)| !placed.state.is_ended()) {
        let heard = state.heard(host);
        if heard.freshness == Freshness::Lost {
            let (host, state, age_ms) = (host.clone(), placed.state, heard.age_ms);
            return UnmetReason::AliveOnLostHost { host, state, age_ms };
        }
        let is_between = match placed.state {
            JobState::Stopping | JobState::MigratingIn | JobState::MigratingOut => true,
            JobState::Accepted | JobState::Starting => {
                matches!(expectation, Expectation::RunsOn { .. } | Expectation::HasSize { .. })
            }
            JobState::Running
            | JobState::Paused
            | JobState::Stopped
            | JobState::Failed
            | JobState::Crashed => false,
        };
        if is_between {
            return UnmetReason::InTransition { host: host.clone(), state: placed.state };
        }
        if matches!(expectation, Expectation::Runs { spec, .. } if !spec.is_alike(&placed.spec)) {
            return UnmetReason::OtherSpec { host: host.clone() };
        }
    }
    let is_alive = rows.values().any(|placed| !placed.state.is_ended());
    if let (Expectation::Runs { spec, .. }, false) = (expectation, is_alive)
        && let Some(no) = denied(state, spec)
    {
        return UnmetReason::AgainstPolicy { no };
    }
    match expectation {
        _ if state.hosts().next().is_none() => UnmetReason::NoHosts,
        Expectation::Runs { on, .. } => {
            let stays = |host: &HostId, placed: &Placed| {
                let may_follow = is_on_shared(state.host(host), &placed.spec) && !placed.is_saved;
                placed.keeps_disks() && on.as_ref() != Some(host) && !may_follow
            };
            let kept = rows.iter().find(|(host, placed)| stays(host, placed));
            match (kept, on) {
                (Some((host, _)), Some(_)) => UnmetReason::DisksElsewhere { host: host.clone() },
                _ => UnmetReason::NoHostFits,
            }
        }
        Expectation::RunsOn { .. }
        | Expectation::HasSize { .. }
        | Expectation::IsStopped { .. }
        | Expectation::Absent { .. } => match rows.is_empty() {
            true => UnmetReason::NoSuchJob,
            false => UnmetReason::Blocked,
        },
    }
}

/// The first rule that the start of such a job breaks wherever it is.
fn denied(state: &State<'_>, spec: &JobSpec) -> Option<Refusal> {
    let policy = &state.input().policy;
    let breach = policy.breaches(spec).into_iter().next()?;
    Some(policy.refusal(&spec.tenant, breach))
}

fn verdicts(state: &State<'_>, expectation: &Expectation) -> Vec<HostVerdict> {
    let rows = state.placements(expectation.job());
    let mut steps: Vec<(HostId, Step)> = Vec::new();
    match expectation {
        Expectation::Runs { job, spec, on: Some(on) } if moves_there(&rows, spec) => {
            let alive = rows.iter().filter(|(_, placed)| !placed.state.is_ended());
            for (from, _) in alive.filter(|(from, _)| *from != on) {
                steps.push((on.clone(), move_to(state, job, from, on)));
            }
        }
        Expectation::Runs { job, spec, on } => {
            for (host, _) in considered(state, on.as_ref()) {
                steps.push((host.clone(), start_on(state, job, host, spec)));
            }
        }
        Expectation::RunsOn { job, on } => {
            for from in rows.keys().filter(|from| *from != on) {
                steps.push((on.clone(), move_to(state, job, from, on)));
            }
        }
        Expectation::HasSize { job, size } => {
            if let Some((host, placed)) = whereabouts(&rows)
                && let Some(step) = resize_on(state, job, host, placed, size)
            {
                steps.push((host.clone(), step));
            }
        }
        Expectation::IsStopped { job } | Expectation::Absent { job } => {
            for (host, placed) in &rows {
                let (job, host) = (job.clone(), host.clone());
                let step = if placed.state.is_ended() {
                    Step::DeleteVm(DeleteVm { job, host: host.clone() })
                } else {
                    Step::StopVm(StopVm { job, host: host.clone() })
                };
                steps.push((host, step));
            }
        }
    }
    let level = state.input().levels.get(expectation.job()).copied().unwrap_or_default();
    judge(state, steps, level)
}

/// What stands in the way of each step, nearest to possible first.
fn judge(state: &State<'_>, steps: Vec<(HostId, Step)>, level: Level) -> Vec<HostVerdict> {
    let mut verdicts: Vec<_> = steps
        .into_iter()
        .filter_map(|(host, step)| {
            let why = stands_in_the_way(state, &step, level)?;
            let host = step.source_in_the_way(state).cloned().unwrap_or(host);
            let name = state.host(&host).map_or_else(String::new, |row| row.host.name.clone());
            let age_ms = state.heard(&host).age_ms;
            let verdict = HostVerdict { host, name, why, age_ms, alike: 0 };
            Some((distance(&verdict.why), verdict))
        })
        .collect();
    // What is in the way where it runs is so for every target, and said once.
    verdicts.dedup_by(|(_, a), (_, b)| a.host == b.host && a.why == b.why);
    classes(verdicts)
}

/// Why a step may not be taken. Of a host that is asleep that is worth a word only where the step could be taken if
/// it were awake.
fn stands_in_the_way(state: &State<'_>, step: &Step, level: Level) -> Option<Blocker> {
    let why = |state: &State<'_>| step.check(state).err().or_else(|| broken_by(state, step, level));
    match why(state) {
        Some(Blocker::Intended { intent: Intent::Asleep }) => {
            let mut awake = state.clone();
            step.host_after().into_iter().for_each(|host| awake.wake(host));
            why(&awake).or(Some(Blocker::Intended { intent: Intent::Asleep }))
        }
        why => why,
    }
}

/// Nearest first, with equal hosts as one where there are too many to be named.
fn classes(mut verdicts: Vec<(u64, HostVerdict)>) -> Vec<HostVerdict> {
    verdicts.sort_by(|(a, x), (b, y)| (a, &x.host).cmp(&(b, &y.host)));
    let verdicts_count = verdicts.len();
    let mut classes: Vec<HostVerdict> = Vec::new();
    for (_, verdict) in verdicts {
        // Each host is named where all can be. Equal ones stand side by side, being equally near.
        let mut near = classes.iter_mut().rev().take(VERDICTS_MAX);
        match near.find(|c| verdicts_count > VERDICTS_MAX && c.why == verdict.why) {
            Some(class) => class.alike += 1,
            None => classes.push(verdict),
        }
    }
    classes
}

/// The rule that would be broken by a step which its host would admit: one that matters at least as
/// much as what is wanted.
pub(crate) fn broken_by(state: &State<'_>, step: &Step, level: Level) -> Option<Blocker> {
    let after = step.apply(state);
    let mut clauses = state.clauses_of(step.job()).iter();
    let clause = clauses.find(|clause| {
        clause.level <= level && clause.rule.violations(&after) > clause.rule.violations(state)
    })?;
    let evidence = clause.rule.evidence(&after);
    Some(Blocker::Rule { level: clause.level, evidence })
}

/// How far from yes, for sorting.
fn distance(why: &Blocker) -> u64 {
    match why {
        Blocker::Admission { no: Refusal::NoImage { .. } | Refusal::DiskTooSmall { .. } } => 0,
        Blocker::Admission { no } => Lack::of(no).map_or(20_000_000, |lack| {
            let never = u64::from(!lack.may_be) * 10_000_000;
            lack.shortfall.saturating_add(never)
        }),
        // It has room.
        Blocker::Intended { intent: Intent::Asleep } => 0,
        Blocker::Rule { .. } => 15_000_000,
        Blocker::Intended { intent: Intent::Drain | Intent::Retire } => 25_000_000,
        Blocker::Setback { .. } => 30_000_000,
        Blocker::WrongState { .. }
        | Blocker::DisksElsewhere { .. }
        | Blocker::OtherPool { .. }
        | Blocker::OtherPoolPath { .. }
        | Blocker::StaysOn => 40_000_000,
        Blocker::Lost { .. } | Blocker::UnknownHost | Blocker::Intended { .. } => 50_000_000,
    }
}

fn cheapest(
    state: &State<'_>,
    expectation: &Expectation,
    reason: &UnmetReason,
    hosts: &[HostVerdict],
) -> Option<String> {
    match reason {
        UnmetReason::NoHostFits => {}
        // One that lacks room where it is.
        UnmetReason::Blocked if matches!(expectation, Expectation::HasSize { .. }) => {}
        // One that lacks room where it is to go.
        UnmetReason::Blocked if matches!(expectation, Expectation::RunsOn { .. }) => {}
        UnmetReason::OtherSpec { host } => {
            return Some(format!("stop {} on {} first", expectation.job(), host.short()));
        }
        UnmetReason::DisksElsewhere { host } => {
            return Some(format!("start it on {}, then move it", host.short()));
        }
        UnmetReason::NoSuchJob
        | UnmetReason::NoHosts
        | UnmetReason::AliveOnLostHost { .. }
        | UnmetReason::InTransition { .. }
        | UnmetReason::CannotLeave { .. }
        | UnmetReason::WaitsFor { .. }
        | UnmetReason::KeptAsItIs { .. }
        | UnmetReason::AgainstPolicy { .. }
        | UnmetReason::Blocked => return None,
    }
    if let Some(steps) = room_making(state, expectation) {
        let moves = &steps[..steps.len() - 1];
        let moves: Vec<String> = moves.iter().map(Step::to_string).collect();
        return Some(format!("{}: that makes room", moves.join(", then ")));
    }
    let nearest = nearest_help(hosts.first()?);
    let Expectation::RunsOn { job, on } = expectation else { return nearest };
    let from = home(state, job)?;
    let turned = help_by_turning(state, job, &from, on);
    turned.map(|(_, words)| words).or(nearest)
}

/// What would make the nearest host fit.
fn nearest_help(nearest: &HostVerdict) -> Option<String> {
    let host = name(&nearest.host, &nearest.name);
    match &nearest.why {
        Blocker::Admission { no: Refusal::NoCapacity { asked, free, capacity } } => {
            let lacking = lacking_words(asked.minus(*free));
            Some(if asked.fits_in(*capacity) {
                format!("free {lacking} on {host}")
            } else {
                format!("a host with {lacking} more than {host} has in all")
            })
        }
        Blocker::Admission { no: Refusal::NoHugepages { page_size, asked, free, total } } => {
            let pages = |count: u64| Pages::of(*page_size, count);
            Some(if asked <= total {
                format!("free {} on {host}", pages(asked.saturating_sub(*free)))
            } else {
                format!(
                    "set {} more aside on {host}, or free them there",
                    pages(asked.saturating_sub(*free))
                )
            })
        }
        Blocker::Admission { no: Refusal::NoDedicatedCpus { asked, free, total } } => {
            let lacking = DedicatedCpus::words(asked.saturating_sub(*free));
            Some(if asked <= total {
                format!("free {lacking} on {host}")
            } else {
                format!("set {lacking} more aside on {host}, or free them there")
            })
        }
        Blocker::Admission { no: Refusal::NoImage { image } } => {
            Some(format!("import image {image} on {host}"))
        }
        Blocker::Admission { no: Refusal::DiskTooSmall { disk, needed_bytes, .. } } => {
            Some(format!("make disk {disk:?} {}", Bytes(*needed_bytes)))
        }
        Blocker::Intended { intent: Intent::Drain | Intent::Retire } => {
            Some(format!("take {host} back into service"))
        }
        Blocker::Intended { intent: Intent::Asleep } => Some(format!("power on {host}")),
        Blocker::Rule { .. }
        | Blocker::Intended { .. }
        | Blocker::Admission { .. }
        | Blocker::Setback { .. }
        | Blocker::Lost { .. }
        | Blocker::StaysOn
        | Blocker::UnknownHost
        | Blocker::WrongState { .. }
        | Blocker::DisksElsewhere { .. }
        | Blocker::OtherPool { .. }
        | Blocker::OtherPoolPath { .. } => None,
    }
}

/// The same of huge pages: `needs 32 huge pages of 2MiB, 24 free`.
pub(crate) fn pages_words(asked: Pages, free: Pages) -> String {
    let lacks = |(size, count): &(PageSize, u64)| *count > free.count(*size);
    let words = asked.each().filter(lacks).map(|(size, count)| {
        format!("needs {}, {} free", Pages::of(size, count), free.count(size))
    });
    words.collect::<Vec<_>>().join("; ")
}

/// The same of dedicated CPUs: `needs 2 dedicated CPUs, 1 free`.
pub(crate) fn cpus_words(asked: u32, free: u32) -> String {
    match asked > free {
        true => format!("needs {}, {free} free", DedicatedCpus::words(asked)),
        false => String::new(),
    }
}

/// What is asked and what is free, of the things that lack: `needs 8GiB of memory, 5GiB free`.
pub(crate) fn room_words(asked: Resources, free: Resources) -> String {
    let mut words = Vec::new();
    if asked.vcpus > free.vcpus {
        words.push(format!("needs {} vcpus, {} free", asked.vcpus, free.vcpus));
    }
    let mut bytes = |what: &str, asked: u64, free: u64| {
        if asked > free {
            words.push(format!("needs {} of {what}, {} free", Bytes(asked), Bytes(free)));
        }
    };
    bytes("memory", asked.memory_bytes, free.memory_bytes);
    bytes("disk", asked.disk_bytes, free.disk_bytes);
    words.join("; ")
}

/// An amount of whatever it is, in words.
pub(crate) fn load_words(load: Load) -> String {
    let pages = (!load.pages.is_none()).then(|| load.pages.to_string());
    let resources = (load.resources != Resources::ZERO).then(|| lacking_words(load.resources));
    resources.into_iter().chain(pages).collect::<Vec<_>>().join(" and ")
}

fn lacking_words(lacking: Resources) -> String {
    let mut words = Vec::new();
    if lacking.vcpus > 0 {
        words.push(format!("{} vcpus", lacking.vcpus));
    }
    if lacking.memory_bytes > 0 {
        words.push(format!("{} of memory", Bytes(lacking.memory_bytes)));
    }
    if lacking.disk_bytes > 0 {
        words.push(format!("{} of disk", Bytes(lacking.disk_bytes)));
    }
    words.join(" and ")
}

pub(crate) fn seconds(ms: u64) -> String {
    format!("{} s", ms / 1000)
}

/// A host as people know it.
pub(crate) fn host_words(state: &State<'_>, host: &HostId) -> String {
    name(host, state.host(host).map_or("", |row| &row.host.name))
}

fn name(host: &HostId, name: &str) -> String {
    if name.is_empty() { host.short().to_owned() } else { format!("{name} ({})", host.short()) }
}

impl fmt::Display for UnmetReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnmetReason::NoSuchJob => f.write_str("no host has such a job"),
            UnmetReason::NoHosts => f.write_str("no host is known"),
            UnmetReason::NoHostFits => f.write_str("no host can take it"),
            UnmetReason::AliveOnLostHost { host, state, age_ms } => write!(
                f,
                "{state} on {}, which has not been heard for {}; only evidence that it is off permits a start elsewhere",
                host.short(),
                seconds(*age_ms)
            ),
            UnmetReason::OtherSpec { host } => {
                write!(f, "alive on {} with another spec", host.short())
            }
            UnmetReason::InTransition { host, state } => {
                write!(f, "{state} on {}", host.short())
            }
            UnmetReason::DisksElsewhere { host } => {
                write!(f, "its disks are on {}", host.short())
            }
            UnmetReason::CannotLeave { host } => {
                write!(f, "cannot leave {}, which is to be emptied", host.short())
            }
            UnmetReason::WaitsFor { job, host: Some(host), state: Some(state) } => {
                write!(f, "waits for {job}, which is {state} on {}", host.short())
            }
            UnmetReason::WaitsFor { job, .. } => write!(f, "waits for {job}, which no host has"),
            UnmetReason::KeptAsItIs { host, why } => {
                write!(f, "{} stays as it is: {why}", host.short())
            }
            UnmetReason::AgainstPolicy { no } => no.fmt(f),
            UnmetReason::Blocked => f.write_str("cannot be done now"),
        }
    }
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.job, self.reason)?;
        let has_verdicts = matches!(
            self.reason,
            UnmetReason::NoHostFits | UnmetReason::CannotLeave { .. } | UnmetReason::Blocked
        );
        for verdict in self.hosts.iter().filter(|_| has_verdicts) {
            write!(f, "; {}", name(&verdict.host, &verdict.name))?;
            if verdict.alike > 0 {
                write!(f, " and {} alike", verdict.alike)?;
            }
            write!(f, ": {}", verdict.why)?;
        }
        if has_verdicts && self.hosts_unlisted > 0 {
            write!(f, "; and {} hosts more", self.hosts_unlisted)?;
        }
        match &self.cheapest {
            Some(change) => write!(f, ". What would help: {change}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.evidence)?;
        for verdict in &self.hosts {
            write!(f, "; {}", name(&verdict.host, &verdict.name))?;
            if verdict.alike > 0 {
                write!(f, " and {} alike", verdict.alike)?;
            }
            write!(f, ": {}", verdict.why)?;
        }
        match &self.cheapest {
            Some(change) => write!(f, ". What would help: {change}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, unmet) in self.unmet.iter().enumerate() {
            write!(f, "{}{unmet}", if i > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}
