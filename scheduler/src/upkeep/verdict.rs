//! How the world stands to one kept expectation. A function of the view alone.
//!
//! Decides what may be mended at all. What an operator has ended by command stays ended; what is on a
//! host that is not heard is failover's; and that nothing is seen of a job is no reason to start it,
//! but for the first time after it was put, when every host of the cluster has been heard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use planner::rules::{Balanced, PowerSaving};
use planner::{Clause, Heard, Need, PlanInput, Rehearsal, Rule, State, Terms};
use protocol::id::{HostId, JobId, Revision};
use protocol::job::{Job, JobKind, JobSpec, JobState, Reason};
use protocol::used::Used;
use protocol::view::{Freshness, HostRow, View};
use protocol::vm::{OnLoss, SizeChange};

use super::set::Item;
use crate::failover::superseded;
use crate::knowledge::forget_lost;
use crate::sleep::Powers;

/// How an expectation stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is so.
    Met,
    /// A host is at it.
    Coming { host: HostId },
    /// It is not so, and may be mended.
    Broken { evidence: String },
    /// It is not so, and is somebody else's to mend.
    Held { why: String },
}

/// What a verdict is made of. `view` needs no more hosts than those that have rows of the jobs.
pub(crate) struct Facts<'a> {
    pub(crate) view: &'a View,
    pub(crate) freshness: &'a dyn Fn(&HostId) -> Freshness,
    /// Who sleeps, and who may.
    pub(crate) powers: &'a Powers,
    /// What guests use.
    pub(crate) used: &'a Arc<Used>,
    /// How soon what a lost host ran may run elsewhere.
    pub(crate) terms: Option<Terms>,
    /// Hosts of the cluster that nobody has told of yet.
    pub(crate) missing: &'a BTreeSet<HostId>,
    /// Jobs that were seen since they were expected to run.
    pub(crate) begun: &'a BTreeSet<JobId>,
    /// Jobs that somebody has had stopped since, each with its change then.
    pub(crate) stopped: &'a BTreeMap<JobId, Revision>,
    /// Jobs without which this one is not started.
    pub(crate) after: &'a BTreeSet<&'a JobId>,
}

impl Facts<'_> {
    fn rows<'a>(&'a self, job: &'a JobId) -> Vec<(&'a HostRow, &'a Job)> {
        self.view.job(job).map(|(row, job)| (row, job.as_ref())).collect()
    }

    fn is_lost(&self, row: &HostRow) -> bool {
        (self.freshness)(&row.host.id) == Freshness::Lost
    }
}

/// How the world stands to an expectation.
pub(crate) fn judge(item: &Item, facts: &Facts<'_>) -> Verdict {
    match item {
        Item::Runs { job, spec, on, .. } => match alive(facts, job) {
            Some(at) => place(facts, job, at, on.as_ref()),
            None => in_order(facts, job, runs_not(facts, job, spec.as_ref())),
        },
        Item::RunsOn { job, on, .. } => match alive(facts, job) {
            Some(at) => place(facts, job, at, Some(on)),
            None => Verdict::Met,
        },
        Item::HasSize { job, size, .. } => has_size(facts, job, size),
        item if is_rehearsed(item) => {
            let mut rehearsal = rehearsal_for(item);
            rehearsal.follow(facts.view, facts.freshness);
            rehearsed(&rehearsal)
        }
        Item::Rule(clause) => rule(facts, clause),
        // Nothing is started against it. Who waits is told where that one is expected to run.
        Item::Order(_) => Verdict::Met,
        Item::Unknown { why } => Verdict::Held { why: why.clone() },
    }
}

/// What a job is: as the host has it that knows it best, else as it was put.
pub(crate) fn spec_of(view: &View, job: &JobId, put: Option<&JobSpec>) -> Option<JobSpec> {
    let known = view.job_best(job).map(|(_, row)| row.spec.as_ref());
    known.or(put).cloned()
}

fn alive<'a>(facts: &'a Facts<'_>, job: &'a JobId) -> Option<(&'a HostRow, &'a Job)> {
    facts
        .view
        .job_best(job)
        .map(|(row, job)| (row, job.as_ref()))
        .filter(|(_, j)| !j.state.is_ended())
}

/// What would be started, if those run that are to run before.
fn in_order(facts: &Facts<'_>, id: &JobId, verdict: Verdict) -> Verdict {
    let Verdict::Broken { .. } = verdict else { return verdict };
    let mut awaited = facts.after.iter().filter_map(|other| {
        let how = not_up(facts, other)?;
        Some(format!("{other}, which {how}"))
    });
    let Some(first) = awaited.next() else { return verdict };
    let more = match awaited.count() {
        0 => String::new(),
        more => format!(", and for {more} more"),
    };
    Verdict::Held { why: format!("{id} waits for {first}{more}") }
}

/// How a job is that does not run, as far as anybody hears now; `None` of one that runs.
fn not_up(facts: &Facts<'_>, id: &JobId) -> Option<String> {
    let rows = facts.rows(id);
    let is_up = |(row, job): &(&HostRow, &Job)| {
        planner::runs(job.state) && (facts.freshness)(&row.host.id) == Freshness::Fresh
    };
    if rows.iter().any(is_up) {
        return None;
    }
    let Some((row, job)) = facts.view.job_best(id) else { return Some("no host has".to_owned()) };
    let (host, state) = (row.host.id.short(), job.state);
    let is_heard = (facts.freshness)(&row.host.id) == Freshness::Fresh;
    Some(match &job.reason {
        _ if !is_heard => format!("was {state} on {host}, which is not heard"),
        Some(reason) if state.is_ended() => format!("is {state} on {host}: {reason}"),
        _ => format!("is {state} on {host}"),
    })
}

/// What is alive nowhere.
fn runs_not(facts: &Facts<'_>, id: &JobId, put: Option<&JobSpec>) -> Verdict {
    let held = |why: String| Verdict::Held { why };
    let rows = facts.rows(id);
    if let Some((row, _)) = rows.iter().find(|(row, _)| facts.is_lost(row)) {
        let host = row.host.id.short();
        return held(format!(
            "{host} had {id} and is not heard: it is not started while that is so"
        ));
    }
    let stays = |job: &Job| !matches!(job.reason, Some(Reason::Migrated { .. }));
    let last = rows.iter().filter(|(_, job)| stays(job)).max_by_key(|(_, job)| job.revision);
    let Some((row, job)) = last else { return unseen(facts, id, put) };
    let host = row.host.id.short();
    let ended = match &job.reason {
        Some(reason) => format!("{id} is {} on {host}: {reason}", job.state),
        None => format!("{id} is {} on {host}", job.state),
    };
    if !matches!(job.spec.kind, JobKind::Vm(_)) {
        return held(format!("{id} is a one-off job and is over when it is done"));
    }
    // Who stops what has just ended by itself is told that it is so, and its host remembers no command.
    let was_stopped = facts.stopped.get(id).is_some_and(|stopped| *stopped >= job.revision);
    match &job.reason {
        reason if was_stopped || matches!(reason, Some(Reason::Requested | Reason::Saved)) => held(
            format!("{id} was ended by command on {host} and stays so until `ostler start {id}`"),
        ),
        Some(Reason::TenureLost { .. }) if on_loss(job) == Some(OnLoss::Stop) => {
            held(format!("{ended}; it is started elsewhere once the arbiters let that be"))
        }
        Some(Reason::Fenced { .. }) => {
            held(format!("{ended}; it is started where it may be once the arbiters let that be"))
        }
        Some(Reason::Flapping { .. }) => {
            held(format!("{ended}; see `ostler log {id}`, then `ostler start {id}`"))
        }
        _ => Verdict::Broken { evidence: ended },
    }
}

fn on_loss(job: &Job) -> Option<OnLoss> {
    job.spec.as_vm().map(|vm| vm.on_loss)
}

/// What no host has.
fn unseen(facts: &Facts<'_>, id: &JobId, put: Option<&JobSpec>) -> Verdict {
    if facts.begun.contains(id) {
        return Verdict::Held {
            why: format!(
                "{id} was there and is gone: what is deleted is not made again unless the expectation is \
                 put anew"
            ),
        };
    }
    if put.is_none() {
        return Verdict::Held { why: format!("no host knows {id}, and no spec of it was put") };
    }
    let mut missing = facts.missing.iter();
    match missing.next() {
        Some(host) => Verdict::Held {
            why: format!(
                "no host has {id}, but {} and {} hosts more have not been heard yet",
                host.short(),
                missing.count()
            ),
        },
        None => Verdict::Broken { evidence: format!("no host has {id}") },
    }
}

/// What is alive, and where it may have to be.
fn place(
    facts: &Facts<'_>,
    id: &JobId,
    (row, job): (&HostRow, &Job),
    on: Option<&HostId>,
) -> Verdict {
    let host = &row.host.id;
    if facts.is_lost(row) {
        let why = match on_loss(job) {
            Some(OnLoss::Stop) => "it is started elsewhere once the arbiters let that be",
            _ => "whether it runs nobody knows, and it is not started twice",
        };
        let why = format!("{id} was {} on {}, which is not heard: {why}", job.state, host.short());
        return Verdict::Held { why };
    }
    match job.state {
        JobState::Running | JobState::Paused => match on.filter(|on| *on != host) {
            Some(on) => Verdict::Broken {
                evidence: format!("{id} is on {} and not on {}", host.short(), on.short()),
            },
            None => Verdict::Met,
        },
        _ => Verdict::Coming { host: host.clone() },
    }
}

fn has_size(facts: &Facts<'_>, id: &JobId, size: &SizeChange) -> Verdict {
    let Some((row, job)) = facts.view.job_best(id) else {
        return Verdict::Held { why: format!("no host has {id}") };
    };
    let host = row.host.id.short();
    if facts.is_lost(row) {
        return Verdict::Held { why: format!("{host}, which has {id}, is not heard") };
    }
    let is_asked_for = job.spec.is_sized(id, size);
    match &job.resize {
        _ if !is_asked_for => match is_between(job.state) {
            true => Verdict::Coming { host: row.host.id.clone() },
            false => Verdict::Broken { evidence: format!("{id} on {host} has another size") },
        },
        Some(resize) if !job.state.is_ended() => match resize.stage {
            protocol::job::ResizeStage::Changing => Verdict::Coming { host: row.host.id.clone() },
            protocol::job::ResizeStage::NextStart => Verdict::Held {
                why: format!("{id} on {host} has the rest of its size from its next start on"),
            },
        },
        _ => Verdict::Met,
    }
}

/// True while a host is at it.
pub(crate) fn is_between(state: JobState) -> bool {
    match state {
        JobState::Accepted
        | JobState::Starting
        | JobState::MigratingIn
        | JobState::MigratingOut
        | JobState::Stopping => true,
        JobState::Running
        | JobState::Paused
        | JobState::Stopped
        | JobState::Failed
        | JobState::Crashed => false,
    }
}

/// The view as rules read it.
fn rule_input(
    view: &View,
    freshness: &dyn Fn(&HostId) -> Freshness,
    powers: &Powers,
    used: &Arc<Used>,
    clauses: Vec<Clause>,
) -> PlanInput {
    let heard: BTreeMap<HostId, Heard> = view
        .hosts()
        .map(|(host, _)| (host.clone(), Heard { freshness: freshness(host), age_ms: 0 }))
        .collect();
    let mut view = view.clone();
    // What runs elsewhere by now is no more where a silent host had it.
    let is_heard = |host: &HostId| freshness(host) == Freshness::Fresh;
    for (host, job) in superseded(&view, is_heard) {
        forget_lost(&mut view, &job, &host);
    }
    let used = Arc::clone(used);
    let input = PlanInput { view, heard, clauses, used, ..PlanInput::default() };
    powers.told(input).with_host_intents()
}

/// How far hosts are apart, and of which that is not known, in words.
pub(crate) fn gap_words(
    view: &View,
    freshness: &dyn Fn(&HostId) -> Freshness,
    used: &Arc<Used>,
    rule: &Balanced,
) -> Option<String> {
    let input = rule_input(view, freshness, &Powers::default(), used, vec![]);
    let state = State::new(&input);
    let gap = rule.gap(&state)?;
    Some(match rule.unknown_words(&state) {
        Some(unknown) => format!("{gap}; {unknown}"),
        None => gap.to_string(),
    })
}

/// What is called for of hosts that sleep or are awake.
pub(crate) fn need(
    view: &View,
    freshness: &dyn Fn(&HostId) -> Freshness,
    powers: &Powers,
    rule: &PowerSaving,
) -> Option<(Need, String)> {
    let input = rule_input(view, freshness, powers, &Arc::default(), vec![]);
    planner::need(&State::new(&input), rule)
}

/// How the world stands to it that hosts sleep which nobody needs.
pub(crate) fn saved(need: Option<&(Need, String)>) -> Verdict {
    match need {
        None => Verdict::Met,
        Some((_, evidence)) => Verdict::Broken { evidence: evidence.clone() },
    }
}

fn rule(facts: &Facts<'_>, clause: &Clause) -> Verdict {
    let clauses = vec![clause.clone()];
    let input = rule_input(facts.view, facts.freshness, facts.powers, facts.used, clauses);
    let input = PlanInput { terms: facts.terms, ..input };
    let state = State::new(&input);
    if let Rule::Balanced(rule) = &clause.rule
        && rule.is_unknown(&state)
    {
        let why = rule.unknown_words(&state).unwrap_or_default();
        return Verdict::Held { why };
    }
    if clause.rule.violations(&state) == 0 {
        return match mended_by_a_move(facts, clause) {
            Some(host) => Verdict::Coming { host },
            None => Verdict::Met,
        };
    }
    let evidence = clause.rule.evidence(&state);
    let between = clause.rule.jobs().into_iter().find_map(|id| {
        let mut rows = facts.view.job(id);
        let is_at_it =
            |(row, job): &(&HostRow, &Arc<Job>)| is_between(job.state) && !facts.is_lost(row);
        rows.find(is_at_it).map(|(row, _)| row.host.id.clone())
    });
    match between {
        Some(host) => Verdict::Coming { host },
        None => Verdict::Broken { evidence },
    }
}

/// Where something comes to without which a rule would be broken: until it has come, it runs where it was.
fn mended_by_a_move(facts: &Facts<'_>, clause: &Clause) -> Option<HostId> {
    let mut unmoved = facts.view.clone();
    let mut to = None;
    for job in clause.rule.jobs() {
        let rows = facts.rows(job);
        let is_leaving = rows.iter().any(|(_, row)| row.state == JobState::MigratingOut);
        let coming =
            rows.iter().filter(|(_, row)| is_leaving && row.state == JobState::MigratingIn);
        for (row, _) in coming {
            forget_lost(&mut unmoved, job, &row.host.id);
            to = to.or(Some(row.host.id.clone()));
        }
    }
    let to = to?;
    let clauses = vec![clause.clone()];
    let input = rule_input(&unmoved, facts.freshness, facts.powers, facts.used, clauses);
    let input = PlanInput { terms: facts.terms, ..input };
    (clause.rule.violations(&State::new(&input)) > 0).then_some(to)
}

/// How the world stands to it that any one host or domain can be lost.
pub(crate) fn rehearsed(rehearsal: &Rehearsal) -> Verdict {
    match rehearsal.stranding().next() {
        None => Verdict::Met,
        Some(_) => Verdict::Broken { evidence: rehearsal.to_string() },
    }
}

/// True for what is judged by a rehearsal of losses.
pub(crate) fn is_rehearsed(item: &Item) -> bool {
    matches!(item, Item::Rule(Clause { rule: Rule::LoseAnyHost(_) | Rule::LoseAnyDomain(_), .. }))
}

/// The label whose values are lost together; `None`: each host by itself.
pub(crate) fn domain_of(item: &Item) -> Option<&str> {
    match item {
        Item::Rule(Clause { rule: Rule::LoseAnyDomain(rule), .. }) => Some(&rule.domain),
        _ => None,
    }
}

/// The rehearsal that it is judged by, of no cluster yet.
pub(crate) fn rehearsal_for(item: &Item) -> Rehearsal {
    domain_of(item).map_or_else(Rehearsal::of_hosts, Rehearsal::of_domains)
}

/// True for what no step can mend: it is told, and that is all.
pub(crate) fn is_told_only(item: &Item) -> bool {
    matches!(
        item,
        Item::Rule(Clause {
            rule: Rule::LoseAnyHost(_)
                | Rule::LoseAnyDomain(_)
                | Rule::NoMigration(_)
                | Rule::RestartWithin(_),
            ..
        })
    )
}
