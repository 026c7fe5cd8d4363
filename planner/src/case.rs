//! A planning case as people write it: expectations in a file, beside a view as monitors give it.
//!
//! Decides what of a file is understood. A kind of expectation that nobody here knows is reported
//! and blocks nothing; one that is known and badly written is told apart from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::hugepages::Pages;
use protocol::id::{HostId, JobId};
use protocol::job::{Job, JobSpec};
use protocol::resources::Resources;
use protocol::signed::SecretKey;
use protocol::trust::Policy;
use protocol::used::{HostUse, Used, VmUse};
use protocol::view::{Freshness, View};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::expectation::Expectation;
use crate::group::Group;
use crate::input::{Heard, Limits, PlanInput, Reservation};
use crate::intent::Intent;
use crate::level::Level;
use crate::order::{Order, StartsAfter};
use crate::policy::Placement;
use crate::rules::Clause;
use crate::terms::Terms;

/// Kinds of expectation that are met by steps of a job.
pub const GOALS: [&str; 5] = ["runs", "runs_on", "has_size", "is_stopped", "absent"];
/// Kinds of expectation about where jobs are.
pub const RULES: [&str; 16] = [
    "host_label",
    "host_arch",
    "host_at_least",
    "cpu_features",
    "same_host",
    "not_same_host",
    "not_same_storage",
    "storage_class",
    "storage_copies",
    "spread_over",
    "no_migration",
    "restart_within",
    "lose_any_host",
    "lose_any_domain",
    "balanced",
    "power_saving",
];

/// Kinds of expectation that are told in terms of others: VMs by the number, and who starts after whom.
pub const OTHERS: [&str; 2] = ["group", "starts_after"];

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
    /// Hosts that may be put to sleep once they are empty, named as in `intents`.
    #[serde(default)]
    pub may_sleep: Vec<String>,
    /// Which of the hosts that would do is taken.
    #[serde(default)]
    pub placement: Placement,
    /// What tenants' VMs may be like, and where, as in the trust document.
    #[serde(default)]
    pub policy: Arc<Policy>,
    /// How soon what a lost host ran may run elsewhere; not known without.
    #[serde(default)]
    pub terms: Option<Terms>,
    /// What guests use, with hosts named as in `intents`.
    #[serde(default)]
    pub used: WantedUse,
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

/// What guests use, as a file says it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedUse {
    /// Hosts that say what their guests use, by id, name or the beginning of an id.
    #[serde(default)]
    pub hosts: BTreeMap<String, HostUse>,
    /// VMs of which it is known.
    #[serde(default)]
    pub vms: BTreeMap<JobId, VmUse>,
}

fn far() -> Limits {
    // A person waits for the answer: more than an engine looks at for one run, and still seconds.
    Limits {
        nodes_max: 4096,
        steps_max: 6,
        may_make_room: true,
        room_level: Level::Wish,
        tends_hosts: true,
        mends_rules: true,
        shifts_max: 64,
        shifts_begun: false,
        savings_max: 1,
        wakes_for: Some(Level::Wish),
        preempts_for: Some(Level::Must),
    }
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
    let Wanted { expectations, intents, may_sleep, placement, policy, reservations, .. } = wanted;
    let Wanted { terms, used, seed, limits, .. } = wanted;
    let input = PlanInput { placement, reservations, seed, limits, ..PlanInput::default() };
    let mut input = PlanInput { view, heard, policy, terms, ..input };
    let mut not_understood = Vec::new();
    for (text, intent) in intents {
        match input.view.find_host(&text) {
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
    for text in may_sleep {
        match input.view.find_host(&text) {
            Ok(row) => drop(input.may_sleep.insert(row.host.id.clone())),
            Err(found) => not_understood.push(NotUnderstood {
                index: None,
                kind: "may_sleep".to_owned(),
                why: format!("{text:?} names {} hosts of the view", found.len()),
                is_malformed: true,
            }),
        }
    }
    let mut known = Used { vms: used.vms, ..Used::default() };
    for (text, of_host) in used.hosts {
        match input.view.find_host(&text) {
            Ok(row) => {
                known.hosts.insert(row.host.id.clone(), of_host);
            }
            Err(found) => not_understood.push(NotUnderstood {
                index: None,
                kind: "used".to_owned(),
                why: format!("{text:?} names {} hosts of the view", found.len()),
                is_malformed: true,
            }),
        }
    }
    input.used = Arc::new(known);
    for (index, value) in expectations.into_iter().enumerate() {
        let value = with_spec_of(&input.view, value);
        if let Err(no) = take(&mut input, index, value) {
            not_understood.push(no);
        }
    }
    (input.with_host_intents(), not_understood)
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
    match understand(index, value)? {
        Understood::Goal(level, goal) => {
            input.levels.insert(goal.job().clone(), level);
            input.expectations.push(goal);
        }
        Understood::Group(level, group) => {
            for job in group.members() {
                let known = input.view.job_best(job).map(|(_, known)| JobSpec::clone(&known.spec));
                let spec = known.unwrap_or_else(|| group.spec().clone());
                input.levels.insert(job.clone(), level);
                input.expectations.push(Expectation::Runs { job: job.clone(), spec, on: None });
            }
            input.clauses.extend(group.clause(level));
        }
        Understood::Rule(clause) => input.clauses.push(clause),
        Understood::Order(order) => input.orders.push(order),
    }
    Ok(())
}

/// One entry of an expectations file, read.
#[derive(Debug, Clone, PartialEq)]
pub enum Understood {
    /// It is met by steps of a job.
    Goal(Level, Expectation),
    /// So many VMs of one kind.
    Group(Level, Group),
    /// It is about where jobs are.
    Rule(Clause),
    /// It is about who is started first.
    Order(Order),
}

/// Reads one entry of an expectations file, which is its `index`th.
pub fn understand(index: usize, mut value: Value) -> Result<Understood, NotUnderstood> {
    let kind = value["expect"].as_str().unwrap_or_default().to_owned();
    let no = |is_malformed: bool, why: String| NotUnderstood {
        index: Some(index),
        kind: kind.clone(),
        why,
        is_malformed,
    };
    // How full hosts are, and that they are on, harms nobody by itself: unless it is said, all else comes first.
    let is_wish = ["balanced", "power_saving"].contains(&kind.as_str());
    if is_wish && value.get("level").is_none() {
        value["level"] = json!(Level::Wish);
    }
    let level = match value.get("level") {
        None => Level::Must,
        Some(level) => {
            serde_json::from_value(level.clone()).map_err(|error| no(true, error.to_string()))?
        }
    };
    if GOALS.contains(&kind.as_str()) {
        let goal = serde_json::from_value::<Expectation>(value);
        goal.map(|goal| Understood::Goal(level, goal)).map_err(|error| no(true, error.to_string()))
    } else if RULES.contains(&kind.as_str()) {
        let clause = serde_json::from_value::<Clause>(value);
        clause.map(Understood::Rule).map_err(|error| no(true, error.to_string()))
    } else if kind == "group" {
        let group = serde_json::from_value::<Group>(value);
        group
            .map(|group| Understood::Group(level, group))
            .map_err(|error| no(true, error.to_string()))
    } else if kind == "starts_after" {
        let order = serde_json::from_value::<StartsAfter>(value);
        order
            .map(|order| Understood::Order(Order { level, order }))
            .map_err(|error| no(true, error.to_string()))
    } else {
        let why = "no such kind of expectation is known here; it blocks nothing";
        Err(no(false, why.to_owned()))
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

/// Reads a view as `GET /v1/view` gives it, or as a person writes it: what does not matter for
/// planning may be left out (keys, urls, versions, cursors, ages), and a host's allocation, and what of its
/// huge pages and dedicated CPUs is promised, is then the sum of its jobs.
pub fn view_of(value: Value) -> Result<(View, BTreeMap<HostId, Heard>), serde_json::Error> {
    let (mut rows, freshness) = match value {
        Value::Object(mut reply) if reply.contains_key("view") => {
            let freshness = reply.remove("freshness").unwrap_or_default();
            (reply.remove("view").unwrap_or_default(), freshness)
        }
        view => (view, Value::Null),
    };
    for (id, row) in rows.as_object_mut().into_iter().flatten() {
        complete_row(id, row);
    }
    let view: View = serde_json::from_value(rows)?;
    let mut heard: BTreeMap<HostId, Heard> = BTreeMap::new();
    for row in freshness.as_array().into_iter().flatten() {
        let host: HostId = serde_json::from_value(row["host"].clone())?;
        let freshness: Freshness = serde_json::from_value(row["freshness"].clone())?;
        let age_ms = row["age_ms"].as_u64().unwrap_or(0);
        heard.insert(host, Heard { freshness, age_ms });
    }
    if !heard.is_empty() {
        // A host that the monitor says nothing of may be any age.
        for (host, _) in view.hosts() {
            let unknown = Heard { freshness: Freshness::Stale, age_ms: 0 };
            heard.entry(host.clone()).or_insert(unknown);
        }
    }
    Ok((view, heard))
}

fn complete_row(id: &str, row: &mut Value) {
    let key = SecretKey::from_seed([0; 32]).public();
    fill(row, "cursor", json!({ "epoch": 1, "seq": 1 }));
    fill(row, "jobs", json!([]));
    fill(row, "host", json!({}));
    let (mut sum, mut pages, mut dedicated) = (Resources::ZERO, Pages::NONE, 0_u32);
    for job in row["jobs"].as_array_mut().into_iter().flatten() {
        fill(job, "revision", json!(1));
        fill(job, "since_ms", json!(0));
        if let Ok(job) = serde_json::from_value::<Job>(job.clone()) {
            sum = sum.plus(job.allocation());
            pages = pages.plus(job.pages());
            dedicated = dedicated.saturating_add(job.dedicated_cpus());
        }
    }
    let host = &mut row["host"];
    let hugepages = host.get_mut("hugepages").and_then(Value::as_object_mut);
    for (size, facts) in hugepages.into_iter().flatten() {
        let promised = size.parse().map_or(0, |size| pages.count(size));
        fill(facts, "promised", json!(promised));
    }
    if let Some(cpus) = host.get_mut("dedicated_cpus") {
        fill(cpus, "promised", json!(dedicated));
    }
    for (name, value) in [
        ("id", json!(id)),
        ("key", json!(key)),
        ("name", json!(id)),
        ("urls", json!([])),
        ("agent_version", json!("")),
        ("hypervisor", json!({})),
        ("allocation", json!(sum)),
    ] {
        fill(host, name, value);
    }
    let is_new = host["hypervisor"] == json!({});
    let hypervisor = &mut host["hypervisor"];
    for (name, value) in [
        ("uri", json!("")),
        ("driver", json!("QEMU")),
        ("libvirt_version", json!("")),
        ("accel", json!("kvm")),
    ] {
        fill(hypervisor, name, value);
    }
    if is_new {
        fill(hypervisor, "can_receive", json!(true));
    }
}

fn fill(object: &mut Value, name: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.entry(name).or_insert(value);
    }
}

/// A plan as it is kept: everything it was made of, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The form of this document.
    pub version: u32,
    /// Everything the plan depended on.
    pub input: PlanInput,
    /// What was not understood.
    #[serde(default)]
    pub not_understood: Vec<NotUnderstood>,
    /// What came of it.
    pub outcome: crate::Outcome,
    /// What that means.
    pub verdict: Verdict,
}

impl Record {
    /// Plans, and keeps everything.
    #[must_use]
    pub fn make(input: PlanInput, not_understood: Vec<NotUnderstood>) -> Self {
        let outcome = crate::plan(&input);
        let verdict = verdict(&input, &outcome, &not_understood);
        Self { version: 1, input, not_understood, outcome, verdict }
    }
}

/// Changes a fact of an input: `HOST lost`, `HOST stale`, `HOST fresh`, `HOST off`, `HOST asleep`,
/// `HOST drain`, `HOST retire`. The error says what is wrong with the words.
pub fn change(input: &mut PlanInput, words: &str) -> Result<(), String> {
    let (host, what) = words
        .rsplit_once(' ')
        .ok_or_else(|| format!("{words:?}: write a host and what becomes of it: `h3 lost`"))?;
    let found = input.view.find_host(host.trim());
    let host = found
        .map(|row| row.host.id.clone())
        .map_err(|rows| format!("{words:?}: {host:?} names {} hosts of the plan", rows.len()))?;
    let mut hear = |freshness| {
        let age_ms = input.heard.get(&host).map_or(0, |heard| heard.age_ms);
        input.heard.insert(host.clone(), Heard { freshness, age_ms });
    };
    match what {
        "lost" => hear(Freshness::Lost),
        "stale" => hear(Freshness::Stale),
        "fresh" => hear(Freshness::Fresh),
        "off" => drop(input.intents.insert(host, Intent::Off)),
        "asleep" => drop(input.intents.insert(host, Intent::Asleep)),
        "drain" => drop(input.intents.insert(host, Intent::Drain)),
        "retire" => drop(input.intents.insert(host, Intent::Retire)),
        other => {
            return Err(format!(
                "{other:?} is nothing that can become of a host: lost, stale, fresh, off, asleep, drain or retire"
            ));
        }
    }
    Ok(())
}
