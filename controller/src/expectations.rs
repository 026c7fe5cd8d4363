//! The routes of expectations: put a set, look at them, wait, delete one.
//!
//! Decides who may, as [`crate::api`] does: whoever may run VMs may say what is to be true of them.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use protocol::expectations::{PutExpectations, SetList, SetStatus};
use protocol::id::{Revision, SetName};
use protocol::refusal::Problem;
use protocol::trust::Right;
use scheduler::{KeepError, Kept, WAIT_MS_MAX};
use schemars::JsonSchema;
use serde::Deserialize;
use transport::{Json, Peer, ProblemReply, StatusCode};

use crate::api::{Shared, WaitQuery, permit};

pub(crate) fn router() -> Router<Shared> {
    Router::new()
        .route("/v1/expectations", get(list))
        .route("/v1/expectations/{name}", get(find).put(put).delete(delete))
}

/// Which sets to tell.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetsQuery {
    /// Those that were deleted as well.
    #[serde(default)]
    deleted: bool,
}

async fn list(
    State(shared): State<Shared>,
    peer: Peer,
    Query(query): Query<SetsQuery>,
) -> Result<Json<SetList>, ProblemReply> {
    permit(&shared, peer, Right::Read)?;
    Ok(Json(shared.scheduler.expectations(query.deleted)))
}

async fn put(
    State(shared): State<Shared>,
    peer: Peer,
    Path(name): Path<SetName>,
    Json(put): Json<PutExpectations>,
) -> Result<Response, ProblemReply> {
    permit(&shared, peer, Right::Run)?;
    let PutExpectations { revision, expectations } = put;
    let kept = shared.scheduler.keep(name, revision, expectations).await.map_err(Problem::from)?;
    let status = if kept.is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(kept.status())).into_response())
}

async fn find(
    State(shared): State<Shared>,
    peer: Peer,
    Path(name): Path<SetName>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<SetStatus>, ProblemReply> {
    permit(&shared, peer, Right::Read)?;
    let Some(kept) = shared.scheduler.kept(&name) else {
        return Err(Problem::from(KeepError::NoSuchSet(name)).into());
    };
    match changed(kept, query.wait_ms).await {
        Some(status) => Ok(Json(status)),
        None => Err(Problem::from(KeepError::NoSuchSet(name)).into()),
    }
}

/// How it stands once that is another than now, or the time is over.
async fn changed(mut kept: Kept, wait_ms: u64) -> Option<SetStatus> {
    let before = kept.status();
    let change = async {
        loop {
            let status = kept.changed().await;
            if status != before {
                return status;
            }
        }
    };
    let wait = Duration::from_millis(wait_ms.min(WAIT_MS_MAX));
    tokio::time::timeout(wait, change).await.unwrap_or(before)
}

/// Which change is the last.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeleteQuery {
    /// A revision above the present one; the next one if it is left out.
    revision: Option<Revision>,
}

async fn delete(
    State(shared): State<Shared>,
    peer: Peer,
    Path(name): Path<SetName>,
    Query(query): Query<DeleteQuery>,
) -> Result<StatusCode, ProblemReply> {
    permit(&shared, peer, Right::Run)?;
    let gone = shared.scheduler.keep_no_longer(name, query.revision).await;
    gone.map_err(Problem::from)?;
    Ok(StatusCode::NO_CONTENT)
}
