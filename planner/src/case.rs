//! A planning case as people write it: expectations in a file, beside a view as monitors give it.
//!
//! Decides what of a file is understood. A kind of expectation that nobody here knows is reported
//! and blocks nothing; one that is known and badly written is told apart from it.

use std::collections::BTreeMap;

use protocol::api::ViewReply;
use protocol::id::{HostId, JobId};
use protocol::job::JobSpec;
use protocol::view::{Freshness, View};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::expectation::Expectation;
use crate::input::{Heard, Limits, PlanInput, Reservation};
use crate::intent::Intent;
use crate::level::Level;
use crate::policy::Placement;
use crate::rules::Clause;

/// Kinds of expectation that are met by steps of a job.
const GOALS: [&str; 4] = ["runs", "runs_on", "is_stopped", "absent"];
/// Kinds of expectation about where jobs are.
const RULES: [&str; 8] = [
    "host_label",
    "host_arch",
    "cpu_features",
    "same_host",
    "not_same_host",
    "spread_over",
    "no_migration",
    "lose_any_host",
];

/// An expectations file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// What is expected, most important first within each level.
    #[serde(default)]
    pub expectations: Vec<Value>,
    /// What is intended with hosts, by id, name or the beginning of an id.
    #[serde(default)]
    pub intents: BTreeMap<String, Intent>,
    /// Which of the hosts that would do is taken.
    #[serde(default)]
    pub placement: Placement,
    /// What others are about to take.
    #[serde(default)]
    pub reservations: Vec<Reservation>,
    /// Chooses among hosts that are equally good.
    #[serde(default)]
    pub seed: u64,
    /// How far to look.
    #[serde(default = "far")]
    pub limits: Limits,
}

fn far() -> Limits {
    // A person waits for the answer: more than an engine looks at for one run, and still seconds.
    Limits { nodes_max: 4096, steps_max: 6, may_make_room: true, tends_hosts: true }
}

/// Something in a file that could not be taken into account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotUnderstood {
    /// Which expectation, from 0; none for what is not an expectation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// The kind it names.
    pub kind: String,
    /// Why not, in words.
    pub why: String,
    /// True when the kind is known and only this one is badly written.
    pub is_malformed: bool,
}

/// Makes a plan's input of a view and what is wanted.
#[must_use]
pub fn case(
    view: View,
    heard: BTreeMap<HostId, Heard>,
    wanted: Wanted,
) -> (PlanInput, Vec<NotUnderstood>) {
    let Wanted { expectations, intents, placement, reservations, seed, limits } = wanted;
    let mut input = PlanInput { placement, reservations, seed, limits, ..PlanInput::default() };
    let mut not_understood = Vec::new();
    for (text, intent) in intents {
        match view.find_host(&text) {
            Ok(row) => {
                input.intents.insert(row.host.id.clone(), intent);
            }
            Err(found) => not_understood.push(NotUnderstood {
                index: None,
                kind: "intent".to_owned(),
                why: format!("{text:?} names {} hosts of the view", found.len()),
                is_malformed: true,
            }),
        }
    }
    for (index, value) in expectations.into_iter().enumerate() {
        let value = with_spec_of(&view, value);
        if let Err(no) = take(&mut input, index, value) {
            not_understood.push(no);
        }
    }
    (PlanInput { view, heard, ..input }, not_understood)
}

/// The ages in a monitor's answer.
#[must_use]
pub fn heard(reply: &ViewReply) -> BTreeMap<HostId, Heard> {
    let rows = reply.freshness.iter();
    let heard = rows.map(|f| {
        let heard = Heard { freshness: f.freshness, age_ms: f.age_ms };
        (f.host.clone(), heard)
    });
    let mut heard: BTreeMap<HostId, Heard> = heard.collect();
    // A host that the monitor says nothing of may be any age.
    for (host, _) in reply.view.hosts() {
        let unknown = Heard { freshness: Freshness::Stale, age_ms: 0 };
        heard.entry(host.clone()).or_insert(unknown);
    }
    heard
}

/// A job that hosts know needs no spec in the file.
fn with_spec_of(view: &View, mut value: Value) -> Value {
    let is_short = value["expect"] == "runs" && value.get("spec").is_none();
    let job: Option<JobId> = value["job"].as_str().and_then(|job| job.parse().ok());
    if let (true, Some(job)) = (is_short, job)
        && let Some((_, known)) = view.job_best(&job)
    {
        value["spec"] = serde_json::to_value::<&JobSpec>(&known.spec).unwrap_or_default();
    }
    value
}

fn take(input: &mut PlanInput, index: usize, value: Value) -> Result<(), NotUnderstood> {
    let kind = value["expect"].as_str().unwrap_or_default().to_owned();
    let no = |is_malformed: bool, why: String| {
        Err(NotUnderstood { index: Some(index), kind: kind.clone(), why, is_malformed })
    };
    let level = match value.get("level") {
        None => Level::Must,
        Some(level) => match serde_json::from_value(level.clone()) {
            Ok(level) => level,
            Err(error) => return no(true, error.to_string()),
        },
    };
    if GOALS.contains(&kind.as_str()) {
        match serde_json::from_value::<Expectation>(value) {
            Ok(goal) => {
                input.levels.insert(goal.job().clone(), level);
                input.expectations.push(goal);
                Ok(())
            }
            Err(error) => no(true, error.to_string()),
        }
    } else if RULES.contains(&kind.as_str()) {
        match serde_json::from_value::<Clause>(value) {
            Ok(clause) => {
                input.clauses.push(clause);
                Ok(())
            }
            Err(error) => no(true, error.to_string()),
        }
    } else {
        no(false, "no such kind of expectation is known here; it blocks nothing".to_owned())
    }
}

/// Whether a plan changes anything, and whether it does all that was wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All is as wanted, or on its way.
    NothingToDo,
    /// Steps will make it so.
    Changes,
    /// Something that must be stays unmet, whether or not there are steps for the rest.
    Cannot,
}

/// Judges a plan: shoulds and wishes that stay unmet are reported and no failure.
#[must_use]
pub fn verdict(
    input: &PlanInput,
    outcome: &crate::Outcome,
    not_understood: &[NotUnderstood],
) -> Verdict {
    let is_must = |job: &JobId| input.levels.get(job).copied().unwrap_or_default() == Level::Must;
    let report = &outcome.report;
    let drains = report.problems.iter().any(|p| matches!(p, crate::Problem::HostDraining { .. }));
    if report.unmet.iter().any(|unmet| is_must(&unmet.job))
        || report.violations.iter().any(|violation| violation.level == Level::Must)
        || drains
        || not_understood.iter().any(|no| no.is_malformed)
    {
        Verdict::Cannot
    } else if outcome.plan.steps.is_empty() {
        Verdict::NothingToDo
    } else {
        Verdict::Changes
    }
}
