//! `ostler why NAME`: why a VM is where it is, or why it does not run: what hosts say of it, what
//! its run waits for, and what stands in the way on each host.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::join_all;
use planner::case::{Record, Wanted, case};
use planner::{Heard, Intent, Limits, Rehearsal, State, Terms};
use protocol::api::RunList;
use protocol::id::{HostId, JobId};
use protocol::job::Role;
use protocol::power::Sleep;
use protocol::trust::Policy;
use protocol::view::View;
use serde_json::json;

use crate::cli::Global;
use crate::command::plan;
use crate::exit::{Code, Failure};
use crate::picture::Picture;
use crate::session::Session;
use crate::show;

/// See the module.
#[derive(Debug, clap::Args)]
pub(crate) struct WhyArgs {
    /// A VM or a host
    pub(crate) name: String,
    /// Explain this view, as `GET /v1/view` of a monitor gives it, and ask nobody
    #[arg(long, value_name = "FILE")]
    pub(crate) view: Option<PathBuf>,
    /// What is expected, as docs/schema/expectations.json describes it
    #[arg(long, value_name = "FILE")]
    pub(crate) expectations: Option<PathBuf>,
}

pub(crate) fn offline(global: &Global, args: &WhyArgs) -> Result<Code, Failure> {
    let file = args.view.as_deref().unwrap_or(std::path::Path::new("-"));
    let (view, heard) = plan::read_view(file)?;
    explain(global.json, args, Told { view, heard, ..Told::default() })
}

pub(crate) async fn run(session: &Session, args: WhyArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let heard = plan::heard_of(&picture);
    let runs = last_runs(session, &args.name).await;
    let (view, asleep) = (picture.view, picture.asleep);
    let (policy, terms) = (session.policy(), session.terms());
    explain(session.is_json, &args, Told { view, heard, runs, policy, terms, asleep })
}

/// Why a VM is where it is or is not, in lines.
pub(crate) async fn of_job(session: &Session, picture: &Picture, name: &JobId) -> Vec<String> {
    let args = WhyArgs { name: name.to_string(), view: None, expectations: None };
    let runs = last_runs(session, &args.name).await;
    let (view, heard) = (picture.view.clone(), plan::heard_of(picture));
    let wanted = plan::under(session.policy(), session.terms(), Wanted::default());
    let told = Told { view, heard, runs, asleep: picture.asleep.clone(), ..Told::default() };
    let (mut lines, record) = explain_job(name, &told, wanted);
    lines.extend(plan::lines(&record));
    lines
}

/// What controllers last did about a VM.
async fn last_runs(session: &Session, name: &str) -> Vec<String> {
    let controllers = session.peers(Role::Controller);
    let asked = controllers.iter().map(|one| session.client.get::<RunList>(one, "/v1/runs"));
    let mut runs = Vec::new();
    for list in join_all(asked).await.into_iter().flatten() {
        let about = list.runs.into_iter().filter(|run| run.want.job().as_str() == name);
        // Newest first; the last one is what the state of the VM is due to.
        runs.extend(about.take(1));
    }
    let words = runs.iter().map(|run| {
        let state = json!(run.state);
        let state = state.as_str().unwrap_or_default().to_owned();
        let why = run.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        session.with_names(&format!("run {} {state}{why}", run.id))
    });
    words.collect()
}

/// What is known.
#[derive(Default)]
struct Told {
    view: View,
    heard: BTreeMap<HostId, Heard>,
    /// What controllers last did, in words.
    runs: Vec<String>,
    policy: Arc<Policy>,
    terms: Option<Terms>,
    asleep: BTreeMap<HostId, Sleep>,
}

fn explain(is_json: bool, args: &WhyArgs, told: Told) -> Result<Code, Failure> {
    let Told { view, runs, policy, terms, .. } = &told;
    let wanted = plan::read_wanted(args.expectations.as_deref())?;
    let wanted = plan::under(Arc::clone(policy), *terms, wanted);
    let job: Option<JobId> = args.name.parse().ok();
    let is_job = |job: &JobId| view.job(job).next().is_some();
    let has_wish = wanted.expectations.iter().any(|value| value["job"] == json!(args.name));
    let Some(job) = job.filter(|job| is_job(job) || has_wish || !runs.is_empty()) else {
        return explain_host(is_json, args, told, wanted);
    };
    let is_there = is_job(&job);
    let (lines, record) = explain_job(&job, &told, wanted);
    if is_json {
        show::json_pretty(&json!({ "job": job, "facts": lines, "plan": plan::report(&record) }));
    } else {
        lines.iter().for_each(|line| show::line(line));
        // Of what nobody has and nobody wants, nothing is planned.
        if is_there || has_wish {
            plan::tell(false, &record);
        }
    }
    Ok(Code::Ok)
}

/// The facts about a VM, and what would make it run.
fn explain_job(job: &JobId, told: &Told, mut wanted: Wanted) -> (Vec<String>, Record) {
    let Told { view, heard, runs, asleep, .. } = told;
    let has_wish = wanted.expectations.iter().any(|value| value["job"] == json!(job));
    if view.job(job).next().is_some() && !has_wish {
        wanted.expectations.push(json!({ "expect": "runs", "job": job }));
    }
    let mut lines: Vec<String> = view
        .job(job)
        .map(|(row, known)| {
            let reason = known.reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default();
            let age = heard.get(&row.host.id).map_or(0, |heard| heard.age_ms);
            let at = &row.host.name;
            format!("{job} is {} on {at}{reason}, as of {} ago", known.state, show::age(age))
        })
        .collect();
    if lines.is_empty() {
        lines.push(format!("{job} is on no host that was heard"));
    }
    lines.extend(runs.iter().cloned());
    let (mut input, not_understood) = case(view.clone(), heard.clone(), wanted);
    plan::lay_asleep(&mut input, asleep);
    (lines, Record::make(input, not_understood))
}

/// What the loss of a host would leave stranded, and what emptying it would take.
fn explain_host(
    is_json: bool,
    args: &WhyArgs,
    Told { view, heard, asleep, .. }: Told,
    wanted: Wanted,
) -> Result<Code, Failure> {
    let host = view.find_host(&args.name).map(|row| row.host.id.clone()).map_err(|_| {
        let what = format!("no VM or host {:?} among those that answer", args.name);
        Failure::new(Code::NotFound, what).next("ostler ps --all; ostler hosts")
    })?;
    if let Some(sleep) = asleep.get(&host) {
        let since = show::moment(sleep.since_ms);
        let who = if sleep.undrain {
            "a run wakes it when its VM fits nowhere else"
        } else {
            "no run wakes it"
        };
        match is_json {
            true => show::json_pretty(&json!({ "host": host, "asleep": sleep.since_ms })),
            false => show::line(&format!(
                "it has been asleep since {since}, switched off on purpose and empty; {who}, and `ostler power {} on` does",
                args.name
            )),
        }
        return Ok(Code::Ok);
    }
    let (mut input, not_understood) = case(view, heard, wanted);
    plan::lay_asleep(&mut input, &asleep);
    let rehearsal = Rehearsal::of_hosts().in_state(&State::new(&input));
    let stranded = rehearsal.stranding().find(|loss| loss.host() == Some(&host));
    let names: Vec<&str> =
        stranded.iter().flat_map(|loss| &loss.stranded).map(|one| one.job.as_str()).collect();
    let loss = match &stranded {
        None => "it can be lost: the others have room for what runs on it".to_owned(),
        Some(loss) => format!("it cannot be lost: {loss}"),
    };
    input.intents.insert(host.clone(), Intent::Drain);
    input.limits = Limits { tends_hosts: true, ..input.limits };
    let record = Record::make(input, not_understood);
    if is_json {
        let drain = plan::report(&record);
        show::json_pretty(&json!({ "host": host, "stranded": names, "drain": drain }));
    } else {
        show::line(&loss);
        show::line("to empty it:");
        plan::tell(false, &record);
    }
    Ok(Code::Ok)
}
