//! `ostler plan`: what would be done, without doing it; of a live cluster with what is kept there, or of files.
//!
//! Exits with 0 when there is nothing to do, 1 when there are changes, 2 when something that must be
//! cannot. Files that cannot be read are another failure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use planner::case::{Record, Verdict, Wanted, case, change, view_of};
use planner::{Clause, Heard, Intent, Limits, PlanInput, State, Terms};
use protocol::id::{HostId, SetName};
use protocol::power::Sleep;
use protocol::trust::Policy;
use protocol::used::Used;
use protocol::view::View;
use scheduler::{Foresight, HeardAt, Look, Powers, SetRecord};
use serde_json::{Value, json};

use crate::cli::Global;
use crate::command::expect::{kept, rules_of};
use crate::exit::{Code, Failure};
use crate::picture::Picture;
use crate::session::Session;
use crate::show;

/// What `--with` says, here and in `ostler replay`.
pub(crate) const WITH_HELP: &str =
    "As if this had become of a host: lost, stale, fresh, off, asleep, drain or retire";

/// See the module.
#[derive(Debug, clap::Args)]
pub(crate) struct PlanArgs {
    /// Plan for this view, as `GET /v1/view` of a monitor gives it, and ask nobody
    #[arg(long, value_name = "FILE")]
    pub(crate) view: Option<PathBuf>,
    /// What is expected, as docs/schema/expectations.json describes it
    #[arg(long, value_name = "FILE")]
    pub(crate) expectations: Option<PathBuf>,
    #[arg(long, help = WITH_HELP, value_name = "\"HOST WORD\"")]
    pub(crate) with: Vec<String>,
    /// Keep the plan and all it was made of, for `ostler replay`
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
}

/// A plan of files.
pub(crate) fn offline(global: &Global, view: &Path, args: &PlanArgs) -> Result<Code, Failure> {
    let (view, heard) = read_view(view)?;
    finish(global.json, args, view, heard, Around::default())
}

/// A plan of the cluster as it is, with what is kept there: what its controllers would do next.
pub(crate) async fn run(session: &Session, args: PlanArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let heard = heard_of(&picture);
    let sets = kept(session).await;
    let may_sleep = session.may_sleep().await;
    let used = session.used().await;
    let members = session.members();
    let (policy, terms, asleep) = (session.policy(), session.terms(), picture.asleep);
    let around = Around { sets, members, policy, terms, asleep, may_sleep, used };
    finish(session.is_json, &args, picture.view, heard, around)
}

/// What a plan of the cluster depends on beside the view.
#[derive(Default)]
struct Around {
    /// What is kept there.
    sets: Vec<SetRecord>,
    /// Hosts of the cluster.
    members: BTreeSet<HostId>,
    policy: Arc<Policy>,
    terms: Option<Terms>,
    asleep: BTreeMap<HostId, Sleep>,
    may_sleep: BTreeSet<HostId>,
    used: Used,
}

/// Tells a plan who is asleep, and whom no run wakes.
pub(crate) fn lay_asleep(input: &mut PlanInput, asleep: &BTreeMap<HostId, Sleep>) {
    for (host, sleep) in asleep {
        // Who says that a host is off, or drained, says more.
        let says = input.view.host(host).and_then(|row| row.host.intent);
        let is_of_host = says.is_some() && input.intents.get(host) == Some(&Intent::Drain);
        if is_of_host || !input.intents.contains_key(host) {
            input.intents.insert(host.clone(), Intent::Asleep);
        }
        if !sleep.undrain {
            input.kept_asleep.insert(host.clone());
        }
    }
}

pub(crate) fn heard_of(picture: &Picture) -> BTreeMap<HostId, Heard> {
    let rows = picture.rows.iter();
    rows.map(|row| {
        let heard = Heard { freshness: row.freshness, age_ms: row.age_ms };
        (row.host.clone(), heard)
    })
    .collect()
}

pub(crate) fn read_view(file: &Path) -> Result<(View, BTreeMap<HostId, Heard>), Failure> {
    let value: Value = read_json(file, Paper::View)?;
    view_of(value).map_err(|error| bad_file(file, Paper::View, error))
}

pub(crate) fn read_wanted(file: Option<&Path>) -> Result<Wanted, Failure> {
    let value = match file {
        Some(file) => read_json(file, Paper::Expectations)?,
        None => json!({}),
    };
    let file = file.unwrap_or(Path::new("-"));
    serde_json::from_value(value).map_err(|error| bad_file(file, Paper::Expectations, error))
}

/// What a file is to hold.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Paper {
    Expectations,
    Plan,
    Policy,
    View,
}

impl Paper {
    /// What a file without it is, and what would help.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Paper::Expectations => (
                "has no expectations",
                "docs/planner.md describes them, docs/schema/examples has some",
            ),
            Paper::Plan => ("is no plan", "`ostler plan --record FILE` writes one"),
            Paper::Policy => (
                "is no policy",
                "docs/schema/policy.json describes it, docs/schema/examples/policy.json is one",
            ),
            Paper::View => {
                ("is no view", "docs/schema/view.json describes it, `GET /v1/view` gives one")
            }
        }
    }
}

pub(crate) fn read_json<T: serde::de::DeserializeOwned>(
    file: &Path,
    paper: Paper,
) -> Result<T, Failure> {
    let bytes = std::fs::read(file).map_err(|error| {
        Failure::new(Code::NotFound, format!("read {}", file.display())).because(error)
    })?;
    serde_json::from_slice(&bytes).map_err(|error| bad_file(file, paper, error))
}

/// What is wanted, under the policy and by the terms in force unless it names others.
pub(crate) fn under(policy: Arc<Policy>, terms: Option<Terms>, wanted: Wanted) -> Wanted {
    let terms = wanted.terms.or(terms);
    let policy = if wanted.policy.is_empty() { policy } else { wanted.policy };
    Wanted { policy, terms, ..wanted }
}

fn bad_file(file: &Path, paper: Paper, error: serde_json::Error) -> Failure {
    let (is_not, next) = paper.words();
    let is_not = if error.is_data() { is_not } else { "is no JSON document" };
    Failure::new(Code::Refused, format!("{} {is_not}", file.display())).because(error).next(next)
}

fn finish(
    is_json: bool,
    args: &PlanArgs,
    view: View,
    heard: BTreeMap<HostId, Heard>,
    Around { sets, members, policy, terms, asleep, may_sleep, used }: Around,
) -> Result<Code, Failure> {
    let wanted = under(policy, terms, read_wanted(args.expectations.as_deref())?);
    let (mut input, not_understood) = case(view, heard, wanted);
    lay_asleep(&mut input, &asleep);
    input.may_sleep.extend(may_sleep);
    // What a file says is how somebody would have it.
    if input.used.is_empty() {
        input.used = Arc::new(used);
    }
    with(&mut input, &args.with)?;
    let (input, held) = beside(input, sets, members);
    let record = Record::make(input, not_understood);
    if let Some(file) = &args.record {
        let text = serde_json::to_vec(&record).expect("our nouns are always valid JSON");
        std::fs::write(file, text).map_err(|error| {
            Failure::new(Code::Unreachable, format!("write {}", file.display())).because(error)
        })?;
    }
    tell_all(is_json, &record, &held);
    Ok(code_of(record.verdict))
}

/// What is to be planned beside what is kept, and what of that waits for something else than a plan: each with the
/// set's name.
fn beside(
    mut input: PlanInput,
    sets: Vec<SetRecord>,
    members: BTreeSet<HostId>,
) -> (PlanInput, Vec<(SetName, String)>) {
    if sets.is_empty() {
        return (input, Vec::new());
    }
    let is_new = |clause: &Clause| !input.clauses.contains(clause);
    let rules: Vec<Clause> = rules_of(&sets).filter(is_new).collect();
    input.clauses.extend(rules);
    let asleep = input.intents.iter().filter(|(_, intent)| **intent == Intent::Asleep);
    let asleep = asleep.map(|(host, _)| (host.clone(), !input.kept_asleep.contains(host)));
    let powers = Powers { asleep: asleep.collect(), may_sleep: input.may_sleep.clone() };
    let heard = input
        .heard
        .iter()
        .map(|(host, heard)| (host.clone(), HeardAt { freshness: heard.freshness, heard_ms: 0 }));
    let look = Look {
        view: input.view.clone(),
        heard: heard.collect(),
        members: Arc::new(members),
        powers: Arc::new(powers),
        used: Arc::clone(&input.used),
        terms: input.terms,
        ..Look::default()
    };
    let Foresight { aims, held } = Foresight::of(sets, &look);
    let limits = input.limits;
    let mut input = aims.told(input);
    // Whoever says how far a plan may go has the last word.
    if limits != Limits::default() {
        input.limits = limits;
    }
    (input, held)
}

pub(crate) fn with(input: &mut PlanInput, changes: &[String]) -> Result<(), Failure> {
    for words in changes {
        change(input, words).map_err(|error| Failure::new(Code::Refused, error))?;
    }
    Ok(())
}

/// 0, 1 and 2 as scripts of other planners expect them.
pub(crate) fn code_of(verdict: Verdict) -> Code {
    match verdict {
        Verdict::NothingToDo => Code::Ok,
        Verdict::Changes => Code::Failed,
        Verdict::Cannot => Code::Usage,
    }
}

/// The report as people or scripts read it.
pub(crate) fn tell(is_json: bool, record: &Record) {
    tell_all(is_json, record, &[]);
}

/// The same, with what waits of what is kept.
fn tell_all(is_json: bool, record: &Record, held: &[(SetName, String)]) {
    if is_json {
        let mut value = report(record);
        if !held.is_empty() {
            let held = held.iter().map(|(set, why)| json!({ "set": set, "why": why }));
            value["held"] = held.collect();
        }
        return show::json_pretty(&value);
    }
    lines(record).iter().for_each(|line| show::line(line));
    for (set, why) in held {
        show::line(&named(&record.input, format!("waits ({set}): {why}")));
    }
}

/// The report as people read it.
pub(crate) fn lines(record: &Record) -> Vec<String> {
    let mut lines = Vec::new();
    let input = &record.input;
    let name = |text: String| named(input, text);
    let mut state = State::new(input);
    for (i, step) in record.outcome.plan.steps.iter().enumerate() {
        let cost = step.cost(&state);
        let mut words = format!("{:>3}. {step} (about {}", i + 1, seconds(cost.time_ms));
        if cost.io_bytes > 0 {
            words += &format!(", {}", protocol::resources::Bytes(cost.io_bytes));
        }
        if cost.risk > 0 {
            words += &format!(", risk {}", cost.risk);
        }
        if let Some(favour) = favour_of(record, step) {
            words += &format!("; {}", favour.reason());
        }
        if let Some(preemption) = preemption_of(record, step) {
            words += &format!("; {}", preemption.reason());
        }
        if let Some(shift) = shift_of(record, step) {
            words += &format!("; {}", shift.reason());
        }
        if let Some(saving) = record.outcome.plan.savings.iter().find(|saving| saving.has(step)) {
            words += &format!("; {}", saving.reason());
        }
        let after = waits_for(record, i);
        if !after.is_empty() {
            let list: Vec<String> = after.iter().map(|n| (n + 1).to_string()).collect();
            words += &format!("; after {}", list.join(", "));
        }
        lines.push(name(words + ")"));
        state = step.apply(&state);
    }
    for (job, host) in &record.outcome.coming {
        lines.push(name(format!("{job} is on its way on {}", host.short())));
    }
    let report = &record.outcome.report;
    for unmet in &report.unmet {
        lines.push(name(format!("unmet: {unmet}")));
    }
    for violation in &report.violations {
        let (level, rule) = (violation.level.as_str(), &violation.rule);
        let mut words = format!("violated ({level}): {rule}: {}", violation.evidence);
        if let Some(cheapest) = &violation.cheapest {
            words += &format!(". What would help: {cheapest}");
        }
        lines.push(name(words));
    }
    for problem in &report.problems {
        lines.push(name(format!("problem: {problem}")));
    }
    for no in &record.not_understood {
        let place = no.index.map_or_else(String::new, |i| format!(" (expectation {})", i + 1));
        lines.push(format!("not understood: {:?}{place}: {}", no.kind, no.why));
    }
    if record.outcome.plan.steps.is_empty() && record.verdict == Verdict::NothingToDo {
        lines.push("nothing to do".to_owned());
    }
    lines
}

/// What scripts get: everything but the input.
pub(crate) fn report(record: &Record) -> Value {
    let mut state = State::new(&record.input);
    let mut steps = Vec::new();
    for (i, step) in record.outcome.plan.steps.iter().enumerate() {
        let mut value = json!(step);
        value["number"] = json!(i + 1);
        value["title"] = json!(step.to_string());
        value["cost"] = json!(step.cost(&state));
        value["after"] = json!(waits_for(record, i).iter().map(|n| n + 1).collect::<Vec<_>>());
        steps.push(value);
        state = step.apply(&state);
    }
    json!({
        "verdict": record.verdict,
        "steps": steps,
        "cost": record.outcome.plan.cost,
        "favours": record.outcome.plan.favours,
        "preemptions": record.outcome.plan.preemptions,
        "shifts": record.outcome.plan.shifts,
        "savings": record.outcome.plan.savings,
        "coming": record.outcome.coming,
        "report": record.outcome.report,
        "not_understood": record.not_understood,
    })
}

/// For whose sake a step moves somebody, if it is for another's.
fn favour_of<'r>(record: &'r Record, step: &planner::Step) -> Option<&'r planner::Favour> {
    let planner::Step::MigrateVm(step) = step else { return None };
    let mut favours = record.outcome.plan.favours.iter();
    favours.find(|favour| favour.job == step.job && favour.to == step.to)
}

/// For whose sake a step stops somebody, if it is for another's.
fn preemption_of<'r>(record: &'r Record, step: &planner::Step) -> Option<&'r planner::Preemption> {
    let planner::Step::StopVm(step) = step else { return None };
    let mut preemptions = record.outcome.plan.preemptions.iter();
    preemptions.find(|made| made.job == step.job && made.host == step.host)
}

/// Why a step moves somebody, if it is to make hosts more alike.
fn shift_of<'r>(record: &'r Record, step: &planner::Step) -> Option<&'r planner::Shift> {
    let planner::Step::MigrateVm(step) = step else { return None };
    let mut shifts = record.outcome.plan.shifts.iter();
    shifts.find(|shift| shift.job == step.job && shift.to == step.to && shift.from == step.from)
}

/// Steps that must be done before this one: those of the same job, and those that leave its target or wake it.
fn waits_for(record: &Record, i: usize) -> Vec<usize> {
    use planner::Step;
    let steps = &record.outcome.plan.steps;
    let target = match &steps[i] {
        Step::StartVm(step) => Some(&step.host),
        Step::MigrateVm(step) => Some(&step.to),
        Step::ResizeVm(step) => Some(&step.host),
        // What is moved away from it comes first.
        Step::SleepHost(step) => Some(step.host.host()),
        Step::StopVm(_) | Step::DeleteVm(_) | Step::WakeHost(_) => None,
    };
    let leaves = |step: &Step| match step {
        Step::MigrateVm(step) => Some(step.from.clone()),
        Step::StopVm(step) => Some(step.host.clone()),
        Step::DeleteVm(step) => Some(step.host.clone()),
        // What starts there waits for it.
        Step::WakeHost(step) => Some(step.host.clone()),
        Step::StartVm(_) | Step::ResizeVm(_) | Step::SleepHost(_) => None,
    };
    let before = steps[..i].iter().enumerate();
    before
        .filter(|(_, step)| step.job() == steps[i].job() || leaves(step).as_ref() == target)
        .filter(|(_, step)| step.job() == steps[i].job() || target.is_some())
        .map(|(n, _)| n)
        .collect()
}

fn named(input: &PlanInput, text: String) -> String {
    input.view.hosts().fold(text, |text, (id, row)| {
        let (name, short) = (&row.host.name, id.short());
        if name.is_empty() || name == short {
            return text;
        }
        // Generated ids are long enough not to be part of another word.
        if short.len() < 9 {
            return text;
        }
        text.replace(&format!("{name} ({short})"), name).replace(short, name)
    })
}

fn seconds(ms: u64) -> String {
    format!("{} s", ms.div_ceil(1000))
}
