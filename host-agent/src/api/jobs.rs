//! Jobs over HTTP.

use std::io::{Read as _, Seek as _, SeekFrom};

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use protocol::api::{
    JobList, MigrateJob, PutHandoff, PutJob, RebootJob, ResizeJob, RevertJob, StopJob,
};
use protocol::id::{JobId, Revision, RunId, SnapshotName};
use protocol::job::{Job, JobKind, RunKey, Snapshot};
use protocol::refusal::Refusal;
use protocol::trust::Right;
use protocol::vm::Rank;
use schemars::JsonSchema;
use serde::Deserialize;
use transport::{Json, Peer, ProblemReply};

use super::{Api, console};
use crate::core::{Act, Measured, Reply, Request};

/// Most of a service's log shown at a time.
const LOG_BYTES_MAX: u64 = 1 << 20;

pub(super) async fn list(
    State(api): State<Api>,
    peer: Peer,
) -> Result<Json<JobList>, ProblemReply> {
    api.permit(peer, Right::Read)?;
    Ok(Json(JobList { jobs: api.feed.jobs() }))
}

pub(super) async fn show(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
) -> Result<Json<Job>, ProblemReply> {
    api.permit(peer, Right::Read)?;
    Ok(Json(published(&api, &id)?))
}

pub(super) async fn put_job(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
    Json(put): Json<PutJob>,
) -> Result<Response, ProblemReply> {
    api.permit(peer, right_to_put(&put.spec.kind))?;
    answer(api.ask(Request::Put { job: id, put }).await?, StatusCode::CREATED)
}

pub(super) async fn stop(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
    Json(stop): Json<StopJob>,
) -> Result<Response, ProblemReply> {
    permit_for(&api, peer, &id, stop.run)?;
    answer(api.ask(Request::Stop { job: id, stop }).await?, StatusCode::ACCEPTED)
}

pub(super) async fn pause(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
) -> Result<Response, ProblemReply> {
    act(&api, peer, id, Act::Pause).await
}

pub(super) async fn resume(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
) -> Result<Response, ProblemReply> {
    act(&api, peer, id, Act::Resume).await
}

pub(super) async fn save(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
) -> Result<Response, ProblemReply> {
    act(&api, peer, id, Act::Save).await
}

pub(super) async fn reset(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
) -> Result<Response, ProblemReply> {
    act(&api, peer, id, Act::Reset).await
}

pub(super) async fn reboot(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
    Json(reboot): Json<RebootJob>,
) -> Result<Response, ProblemReply> {
    act(&api, peer, id, Act::Reboot { grace_ms: reboot.grace_ms }).await
}

async fn act(api: &Api, peer: Peer, job: JobId, act: Act) -> Result<Response, ProblemReply> {
    api.permit_over(peer, &job)?;
    answer(api.ask(Request::Act { job, act }).await?, StatusCode::ACCEPTED)
}

pub(super) async fn protect(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
) -> Result<Response, ProblemReply> {
    set_protection(&api, peer, id, true).await
}

pub(super) async fn unprotect(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
) -> Result<Response, ProblemReply> {
    set_protection(&api, peer, id, false).await
}

async fn set_protection(
    api: &Api,
    peer: Peer,
    job: JobId,
    is_protected: bool,
) -> Result<Response, ProblemReply> {
    api.permit_over(peer, &job)?;
    answer(api.ask(Request::Protect { job, is_protected }).await?, StatusCode::ACCEPTED)
}

pub(super) async fn rank(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
    Json(rank): Json<Rank>,
) -> Result<Response, ProblemReply> {
    api.permit_over(peer, &id)?;
    let job = published(&api, &id)?;
    if let Some((trust, to)) = api.trust().zip(job.spec.ranked(rank)) {
        let is_user = peer.key.as_ref().is_some_and(|key| trust.user(key).is_some());
        if let Some(breach) = trust.policy.breach_of_rank(&job.spec, &to, is_user) {
            return Err(trust.policy.refusal(&job.spec.tenant, breach).into());
        }
    }
    answer(api.ask(Request::Rank { job: id, rank }).await?, StatusCode::ACCEPTED)
}

pub(super) async fn resize(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
    Json(resize): Json<ResizeJob>,
) -> Result<Response, ProblemReply> {
    permit_for(&api, peer, &id, resize.run)?;
    answer(api.ask(Request::Resize { job: id, resize }).await?, StatusCode::ACCEPTED)
}

pub(super) async fn undo_resize(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
    Query(undo): Query<Undo>,
) -> Result<Response, ProblemReply> {
    let run = undo.key();
    permit_for(&api, peer, &id, run)?;
    let request = Request::UndoResize { job: id, run };
    answer(api.ask(request).await?, StatusCode::ACCEPTED)
}

pub(super) async fn show_snapshot(
    State(api): State<Api>,
    peer: Peer,
    Path((id, name)): Path<(JobId, SnapshotName)>,
) -> Result<Json<Snapshot>, ProblemReply> {
    api.permit(peer, Right::Read)?;
    let job = published(&api, &id)?;
    let has = || job.snapshots.iter().map(|snapshot| snapshot.name.clone()).collect();
    let no = || Refusal::NoSuchSnapshot { job: id.clone(), snapshot: name.clone(), has: has() };
    Ok(Json(job.snapshot(&name).cloned().ok_or_else(no)?))
}

pub(super) async fn take_snapshot(
    State(api): State<Api>,
    peer: Peer,
    Path((job, name)): Path<(JobId, SnapshotName)>,
) -> Result<Response, ProblemReply> {
    api.permit_over(peer, &job)?;
    // What it may keep is known to the files alone.
    let spec = published(&api, &job)?.spec;
    let measured = match spec.as_vm() {
        Some(vm) => api.storage.measured(&job, vm).await,
        None => Measured::default(),
    };
    let request = Request::TakeSnapshot { job, name, measured };
    answer(api.ask(request).await?, StatusCode::ACCEPTED)
}

pub(super) async fn revert(
    State(api): State<Api>,
    peer: Peer,
    Path((job, name)): Path<(JobId, SnapshotName)>,
    Json(revert): Json<RevertJob>,
) -> Result<Response, ProblemReply> {
    api.permit_over(peer, &job)?;
    answer(api.ask(Request::Revert { job, name, revert }).await?, StatusCode::ACCEPTED)
}

pub(super) async fn delete_snapshot(
    State(api): State<Api>,
    peer: Peer,
    Path((job, name)): Path<(JobId, SnapshotName)>,
) -> Result<Response, ProblemReply> {
    api.permit_over(peer, &job)?;
    answer(api.ask(Request::DeleteSnapshot { job, name }).await?, StatusCode::ACCEPTED)
}

pub(super) async fn migrate(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
    Query(planned): Query<Planned>,
    Json(migrate): Json<MigrateJob>,
) -> Result<Response, ProblemReply> {
    permit_for(&api, peer, &id, migrate.run)?;
    let request = Request::Migrate { job: id, migrate, revision: planned.revision };
    answer(api.ask(request).await?, StatusCode::ACCEPTED)
}

/// Which change of the job the target has made room for. Not in the body, which agents of before
/// there were resizes would refuse with it.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct Planned {
    revision: Option<Revision>,
}

pub(super) async fn cancel_migration(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
    Query(undo): Query<Undo>,
) -> Result<Response, ProblemReply> {
    let run = undo.key();
    permit_for(&api, peer, &id, run)?;
    let request = Request::CancelMigration { job: id, run };
    answer(api.ask(request).await?, StatusCode::ACCEPTED)
}

/// Anybody of the cluster may bring a handoff: it is believed for its signature.
pub(super) async fn take_handoff(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
    Json(body): Json<PutHandoff>,
) -> Result<Response, ProblemReply> {
    api.permit(peer, Right::Read)?;
    let request = Request::Handoff { job: id, handoff: body.handoff };
    answer(api.ask(request).await?, StatusCode::OK)
}

/// The task that is being undone, when a run turns back or deletes.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct Undo {
    run: Option<RunId>,
    #[serde(default)]
    task: u32,
    #[serde(default)]
    claim: u64,
}

impl Undo {
    fn key(self) -> Option<RunKey> {
        let Self { run, task, claim } = self;
        run.map(|run| RunKey { run, task, claim })
    }
}

/// What else goes with a job that is deleted.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct Also {
    /// Whether its volumes in shared pools go too, whoever made them: the job is to be nowhere.
    #[serde(default)]
    shared: bool,
}

pub(super) async fn delete_job(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
    Query(undo): Query<Undo>,
    Query(Also { shared }): Query<Also>,
) -> Result<Response, ProblemReply> {
    let run = undo.key();
    permit_for(&api, peer, &id, run)?;
    let request = Request::Delete { job: id, run, shared };
    answer(api.ask(request).await?, StatusCode::ACCEPTED)
}

pub(super) async fn release(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
) -> Result<Response, ProblemReply> {
    // What was adopted was no tenant's, and no user could adopt it again.
    api.permit_over(peer, &id)?;
    api.permit(peer, Right::Run)?;
    answer(api.ask(Request::Release(id)).await?, StatusCode::ACCEPTED)
}

/// How much of a log.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct Tail {
    tail: Option<u64>,
}

pub(super) async fn service_log(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
    Query(tail): Query<Tail>,
) -> Result<String, ProblemReply> {
    api.permit(peer, Right::Read)?;
    let job = published(&api, &id)?;
    if job.spec.as_vm().is_some() {
        // What a guest prints may hold secrets.
        api.permit_over(peer, &id)?;
    }
    let file = match job.spec.kind {
        JobKind::Service(_) => api.storage.service_folder(&id).join("log"),
        JobKind::Vm(_) | JobKind::OneOff(_) => console::log_of(&api, &job).await?.0,
        JobKind::Budget(_) => {
            return Err(ProblemReply::new(404, "no-log", format!("budget {id} runs nothing")));
        }
    };
    let bytes = tail.tail.unwrap_or(LOG_BYTES_MAX).min(LOG_BYTES_MAX);
    read_tail(&file, bytes).map_err(|error| ProblemReply::new(404, "no-log", error.to_string()))
}

fn read_tail(file: &std::path::Path, bytes: u64) -> std::io::Result<String> {
    let mut file = std::fs::File::open(file)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut tail = Vec::new();
    file.take(bytes).read_to_end(&mut tail)?;
    Ok(String::from_utf8_lossy(&tail).into_owned())
}

/// What is needed to put a job here: users have theirs put by controllers.
fn right_to_put(kind: &JobKind) -> Right {
    match kind {
        JobKind::Vm(_) | JobKind::OneOff(_) | JobKind::Budget(_) => Right::Run,
        JobKind::Service(_) => Right::Govern,
    }
}

/// To do it as a task of a run is for those who execute runs: what is done in a run's name is remembered as
/// done, or as taken back, for all of its jobs.
fn permit_for(api: &Api, peer: Peer, id: &JobId, run: Option<RunKey>) -> Result<(), ProblemReply> {
    api.permit_over(peer, id)?;
    match run {
        Some(_) => api.permit(peer, Right::Run),
        None => Ok(()),
    }
}

fn published(api: &Api, id: &JobId) -> Result<Job, ProblemReply> {
    let job = api.feed.job(id).ok_or_else(|| Refusal::NoSuchJob { job: id.clone() })?;
    Ok(Job::clone(&job))
}

fn answer(reply: Reply, accepted: StatusCode) -> Result<Response, ProblemReply> {
    match reply {
        Reply::Accepted(job) => Ok((accepted, Json(*job)).into_response()),
        Reply::AlreadySo(job) => Ok((StatusCode::OK, Json(*job)).into_response()),
        Reply::Offered(_)
        | Reply::Network { .. }
        | Reply::Reading { .. }
        | Reply::History(_)
        | Reply::Done => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}
