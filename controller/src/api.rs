//! The controller's routes: ask for a run, look at runs, wait for one.
//!
//! Decides who may (trust does) and what an error looks like; 202 goes out only after the run is
//! stored, because [`Scheduler::submit`] returns no sooner.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use protocol::api::{Health, NewRun, RunList, RunStatus};
use protocol::fencing::FencingList;
use protocol::id::RunId;
use protocol::refusal::Problem;
use protocol::signed::PublicKey;
use protocol::trust::{Right, Trust};
use protocol::used::Used;
use scheduler::{CancelError, Picture, Scheduler, StoreError};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::watch;
use transport::problem::finish;
use transport::{Json, Peer, ProblemReply, StatusCode};

use crate::fencing::Told;
use crate::power::{self, Asleep, Power};
use crate::{expectations, metrics, openapi, users};

/// Runs in one answer of `GET /v1/runs`; about a megabyte.
const LIST_MAX: usize = 500;

/// What requests share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) scheduler: Scheduler,
    pub(crate) trust: watch::Receiver<Option<Arc<Trust>>>,
    pub(crate) picture: watch::Receiver<Arc<Picture>>,
    pub(crate) key: PublicKey,
    pub(crate) power: Power,
    pub(crate) asleep: Arc<Asleep>,
    pub(crate) told: Told,
}

pub(crate) fn router(shared: Shared) -> Router {
    finish(
        Router::new()
            .route("/v1/health", get(health))
            .route("/v1/openapi.json", get(openapi::show))
            .route("/v1/runs", get(list).post(submit))
            .route("/v1/runs/{id}", get(find))
            .route("/v1/runs/{id}/cancel", post(cancel))
            .merge(expectations::router())
            .merge(power::router())
            .route("/v1/fencing", get(fencing))
            .route("/v1/used", get(used))
            .route("/metrics", get(metrics))
            .with_state(shared),
    )
}

async fn health(State(shared): State<Shared>) -> Json<Health> {
    let trust_version = shared.trust.borrow().as_ref().map(|trust| trust.version);
    let mut waiting_for = Vec::new();
    if trust_version.is_none() {
        waiting_for.push("trust: no document yet".to_owned());
    }
    let picture = shared.picture.borrow().clone();
    if !picture.is_current {
        waiting_for.push(format!("view: {}", picture.source));
    }
    Json(Health {
        role: "controller".to_owned(),
        is_ready: picture.is_current,
        key: shared.key,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        trust_version,
        waiting_for,
    })
}

async fn submit(
    State(shared): State<Shared>,
    peer: Peer,
    Json(asked): Json<NewRun>,
) -> Result<Response, ProblemReply> {
    let run = match users::permit_run(&shared, peer, &asked)? {
        Some(tenant) => shared.scheduler.submit_for(tenant, asked).await,
        None => shared.scheduler.submit(asked).await,
    };
    let run = run.map_err(Problem::from)?;
    Ok((StatusCode::ACCEPTED, Json(RunStatus::clone(&run.status()))).into_response())
}

/// How many runs to tell.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// At most so many, and never more than 500.
    #[serde(default = "list_max")]
    max: usize,
}

fn list_max() -> usize {
    LIST_MAX
}

async fn list(
    State(shared): State<Shared>,
    peer: Peer,
    Query(query): Query<ListQuery>,
) -> Result<Json<RunList>, ProblemReply> {
    permit(&shared, peer, Right::Read)?;
    let runs = shared.scheduler.list(query.max.min(LIST_MAX)).await.map_err(broken)?;
    Ok(Json(RunList { runs }))
}

/// How long to wait for news.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WaitQuery {
    /// Milliseconds; at most a minute.
    #[serde(default)]
    pub(crate) wait_ms: u64,
}

async fn find(
    State(shared): State<Shared>,
    peer: Peer,
    Path(id): Path<RunId>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<RunStatus>, ProblemReply> {
    permit(&shared, peer, Right::Read)?;
    let Some(mut run) = shared.scheduler.find(id).await.map_err(broken)? else {
        return Err(ProblemReply::new(404, "no-such-run", format!("there is no run {id}")));
    };
    let status = run.changed(query.wait_ms).await;
    Ok(Json(RunStatus::clone(&status)))
}

async fn cancel(
    State(shared): State<Shared>,
    peer: Peer,
    Path(id): Path<RunId>,
) -> Result<Response, ProblemReply> {
    users::permit_cancel(&shared, peer, id).await?;
    let run = shared.scheduler.cancel(id).await.map_err(|error| match error {
        CancelError::NoSuchRun(_) => ProblemReply::new(404, "no-such-run", error.to_string()),
        CancelError::PastReturn { .. } => {
            ProblemReply::new(409, "run-past-return", error.to_string())
        }
        CancelError::Store(error) => broken(error),
    })?;
    Ok((StatusCode::ACCEPTED, Json(RunStatus::clone(&run.status()))).into_response())
}

/// The hosts that nobody hears, and whether it is about to switch them off.
async fn fencing(
    State(shared): State<Shared>,
    peer: Peer,
) -> Result<Json<FencingList>, ProblemReply> {
    permit(&shared, peer, Right::Read)?;
    Ok(Json(shared.told.list()))
}

/// What it knows of what guests use.
async fn used(State(shared): State<Shared>, peer: Peer) -> Result<Json<Used>, ProblemReply> {
    permit(&shared, peer, Right::Read)?;
    Ok(Json(Used::clone(&shared.scheduler.used())))
}

async fn metrics(State(shared): State<Shared>, peer: Peer) -> Result<Response, ProblemReply> {
    permit(&shared, peer, Right::Scrape)?;
    let trust_version = shared.trust.borrow().as_ref().map(|trust| trust.version);
    let text = metrics::of(&shared.scheduler.figures(), trust_version, shared.told.counts());
    Ok(transport::metrics::reply(&text))
}

pub(crate) fn broken(error: StoreError) -> ProblemReply {
    let name = match error {
        StoreError::Broken { .. } | StoreError::ClaimLost { .. } => "storage-broken",
        StoreError::Damaged { .. } => "run-damaged",
    };
    ProblemReply::new(503, name, error.to_string())
}

/// Without trust everything is allowed.
pub(crate) fn permit(shared: &Shared, peer: Peer, right: Right) -> Result<(), ProblemReply> {
    let trust = shared.trust.borrow().clone();
    match trust {
        Some(trust) => Ok(trust.permit(peer.key.as_ref(), right)?),
        None => Ok(()),
    }
}
