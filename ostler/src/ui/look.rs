//! What a page looks at more closely: one VM with all that is known of it, why it is as it is, what
//! has happened to it, what emptying a host would take, and where a VM could go.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::header;
use planner::case::{Record, Wanted, case};
use planner::{Intent, Limits, Step};
use protocol::host::Inventory;
use protocol::id::{HostId, JobId};
use protocol::view::View;
use serde_json::{Value, json};
use transport::Json;

use super::ask::No;
use super::news::named;
use super::serve::Shared;
use crate::command::{drain, events, expect, plan, screen, why};
use crate::exit::{Code, Failure};
use crate::picture::Picture;
use crate::session::Session;

/// What is told of what has happened to one VM, the newest.
const EVENTS_MAX: usize = 200;

/// What is told of what one has said, the newest.
const LOG_BYTES: usize = 64 << 10;

/// `GET /jobs/{job}`: its rows on every host, and which one matters.
pub(super) async fn job(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<JobId>,
) -> Result<Json<Value>, No> {
    let (_, picture) = shared.now().await?;
    let best = picture.job(&id)?;
    let agent = picture.agent(&best.host).url;
    let rows: Vec<_> = picture.jobs().into_iter().filter(|row| row.job.id == id).collect();
    Ok(Json(json!({ "job": best, "rows": rows, "agent": agent })))
}

/// `GET /jobs/{job}/why`: what `ostler why` prints.
pub(super) async fn why(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<JobId>,
) -> Result<Json<Value>, No> {
    let (session, picture) = shared.now().await?;
    let lines = why::of_job(&session, &picture, &id).await;
    let lines: Vec<_> = lines.iter().map(|line| named(&picture.view, line)).collect();
    Ok(Json(json!({ "lines": lines })))
}

/// `GET /jobs/{job}/events`: what the hosts that know it remember, the newest first.
pub(super) async fn events(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<JobId>,
) -> Result<Json<Value>, No> {
    let (session, mut picture) = shared.now().await?;
    picture.job(&id)?;
    let view = picture.view.clone();
    let knows = |host: &HostId| view.host(host).is_some_and(|row| row.jobs.contains_key(&id));
    picture.rows.retain(|row| knows(&row.host));
    let history = events::history(&session, &picture).await;
    let its = history.iter().rev().filter(|event| events::job_of(&event.fact) == Some(&id));
    let rows: Vec<Value> = its
        .take(EVENTS_MAX)
        .map(|event| {
            let words = named(&picture.view, &events::words(&event.fact));
            json!({ "at_ms": event.at_ms, "host": event.host, "words": words })
        })
        .collect();
    Ok(Json(json!({ "events": rows })))
}

/// `GET /jobs/{job}/screenshot`: what its screen shows now.
pub(super) async fn screenshot(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<JobId>,
) -> Result<Response, No> {
    let (session, picture) = shared.now().await?;
    let png = screen::picture_of(&session, &picture, &id).await?;
    Ok(([(header::CONTENT_TYPE, "image/png")], png).into_response())
}

/// `GET /jobs/{job}/log`: the end of what `ostler log` prints.
pub(super) async fn log(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<JobId>,
) -> Result<Json<Value>, No> {
    let (session, picture) = shared.now().await?;
    let row = picture.job(&id)?;
    let path = format!("/v1/jobs/{id}/log?tail={LOG_BYTES}");
    let bytes = session.client.get_bytes(&picture.agent(&row.host), &path, LOG_BYTES).await?;
    Ok(Json(json!({ "log": String::from_utf8_lossy(&bytes) })))
}

/// `GET /hosts/{host}/drain`: what `ostler drain --dry-run` prints, and whether all can leave.
pub(super) async fn rehearse_drain(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<HostId>,
) -> Result<Json<Value>, No> {
    let (session, picture) = shared.now().await?;
    picture.host(id.as_str())?;
    let rules = expect::rules(&session).await;
    let stay = drain::staying(&picture, &id);
    let policy = session.policy();
    let record = off_thread(move || drain::planned(&picture, &id, &rules, policy)).await?;
    let can_all_leave = record.outcome.report.unmet.is_empty();
    let mut lines = plan::lines(&record);
    if !stay.is_empty() {
        lines.push(format!("stopped VMs stay there, with their disks: {stay}"));
    }
    Ok(Json(json!({ "lines": lines, "can_all_leave": can_all_leave })))
}

/// The host that the planner would move this VM to, if its own had to be emptied.
pub(super) async fn best_target(
    session: &Session,
    picture: &Picture,
    job: &JobId,
) -> Result<HostId, Failure> {
    let row = picture.job(job)?;
    let (view, heard) = (alone(&picture.view, &row.host, job), plan::heard_of(picture));
    let (from, policy) = (row.host.clone(), session.policy());
    let record = off_thread(move || {
        let (mut input, _) = case(view, heard, Wanted::default());
        input.intents.insert(from, Intent::Drain);
        input.policy = policy;
        input.limits = Limits { tends_hosts: true, ..Limits::default() };
        Record::make(input, vec![])
    });
    let record = record.await?;
    let target = record.outcome.plan.steps.iter().find_map(|step| match step {
        Step::MigrateVm(step) if step.job == *job => Some(step.to.clone()),
        _ => None,
    });
    target.ok_or_else(|| {
        let lines = plan::lines(&record);
        let unmet = lines.iter().find_map(|line| line.strip_prefix("unmet: "));
        let what = unmet.map_or_else(|| format!("no host takes {job}"), str::to_owned);
        Failure::new(Code::Refused, what).next("make room elsewhere, or stop it and start it there")
    })
}

/// The view as if nothing else were on the job's host, so that only it has to be moved.
fn alone(view: &View, host: &HostId, job: &JobId) -> View {
    let mut view = view.clone();
    if let Some(row) = view.host(host).cloned() {
        let mut inventory = Inventory::from(row);
        inventory.jobs.retain(|other| other.id == *job);
        view.forget(host);
        view.merge_inventory(inventory);
    }
    view
}

/// Planning takes its time, and others wait to be answered.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::new(Code::Failed, "make a plan").because(error))
}
