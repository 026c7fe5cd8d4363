//! `ostler why NAME`: why a VM is where it is, or why it does not run: what hosts say of it, what
//! its run waits for, and what stands in the way on each host.

use std::path::PathBuf;

use planner::case::{Record, case};
use planner::rules::rehearse;
use planner::{Intent, Limits, State};
use protocol::api::RunList;
use protocol::id::JobId;
use protocol::job::Role;
use protocol::view::View;
use serde_json::{Value, json};

use crate::cli::Global;
use crate::command::plan;
use crate::exit::{Code, Failure};
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
    explain(global.json, args, view, heard, Vec::new())
}

pub(crate) async fn run(session: &Session, args: WhyArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let heard = plan::heard_of(&picture);
    let mut runs = Vec::new();
    for controller in session.peers(Role::Controller) {
        let Ok(list) = session.client.get::<RunList>(&controller, "/v1/runs").await else {
            continue;
        };
        let about = list.runs.into_iter().filter(|run| run.want.job().as_str() == args.name);
        // Newest first; the last one is what the state of the VM is due to.
        runs.extend(about.take(1));
    }
    let words = runs.iter().map(|run| {
        let state = json!(run.state);
        let state = state.as_str().unwrap_or_default().to_owned();
        let reason = run.reason.clone().unwrap_or_default();
        session.with_names(&format!("run {} {state}: {reason}", run.id))
    });
    explain(session.is_json, &args, picture.view, heard, words.collect())
}

fn explain(
    is_json: bool,
    args: &WhyArgs,
    view: View,
    heard: std::collections::BTreeMap<protocol::id::HostId, planner::Heard>,
    runs: Vec<String>,
) -> Result<Code, Failure> {
    let mut wanted = plan::read_wanted(args.expectations.as_deref())?;
    let job: Option<JobId> = args.name.parse().ok();
    let is_job = |job: &JobId| view.job(job).next().is_some();
    let is_wanted = |value: &Value| value["job"] == json!(args.name);
    let has_wish = wanted.expectations.iter().any(is_wanted);
    let Some(job) = job.filter(|job| is_job(job) || has_wish || !runs.is_empty()) else {
        return explain_host(is_json, args, view, heard);
    };
    if is_job(&job) && !has_wish {
        wanted.expectations.push(json!({ "expect": "runs", "job": job }));
    }
    let mut lines: Vec<String> = view
        .job(&job)
        .map(|(row, known)| {
            let reason = known.reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default();
            let age = heard.get(&row.host.id).map_or(0, |heard| heard.age_ms);
            let at = &row.host.name;
            format!("{job} is {} on {at}{reason}, as of {} ago", known.state, show::age(age))
        })
        .collect();
    lines.extend(runs);
    let (input, not_understood) = case(view, heard, wanted);
    let record = Record::make(input, not_understood);
    if is_json {
        show::json_pretty(&json!({ "job": job, "facts": lines, "plan": plan::report(&record) }));
    } else {
        lines.iter().for_each(|line| show::line(line));
        plan::tell(false, &record);
    }
    Ok(Code::Ok)
}

/// What the loss of a host would leave stranded, and what emptying it would take.
fn explain_host(
    is_json: bool,
    args: &WhyArgs,
    view: View,
    heard: std::collections::BTreeMap<protocol::id::HostId, planner::Heard>,
) -> Result<Code, Failure> {
    let host = view.find_host(&args.name).map(|row| row.host.id.clone()).map_err(|_| {
        let what = format!("no VM or host {:?} among those that answer", args.name);
        Failure::new(Code::NotFound, what).next("ostler ps --all; ostler hosts")
    })?;
    let wanted = plan::read_wanted(args.expectations.as_deref())?;
    let (mut input, not_understood) = case(view, heard, wanted);
    let stranded = rehearse(&State::new(&input)).into_iter().find(|lost| lost.host == host);
    let names: Vec<&str> =
        stranded.iter().flat_map(|lost| lost.jobs.iter().map(JobId::as_str)).collect();
    let loss = match names.as_slice() {
        [] => "it can be lost: the others have room for what runs on it".to_owned(),
        some => format!("its loss would strand {} VMs: {}", some.len(), some.join(", ")),
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
