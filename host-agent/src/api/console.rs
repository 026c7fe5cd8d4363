//! Consoles over WebSocket.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::Response;
use protocol::id::JobId;
use protocol::job::JobKind;
use protocol::refusal::Refusal;
use protocol::trust::Right;
use schemars::JsonSchema;
use serde::Deserialize;
use transport::stream::Upgrade;
use transport::{Peer, ProblemReply};

use super::Api;
use crate::console::{Begin, serve};

/// Scrollback sent when nobody says how much.
const TAIL_BYTES_DEFAULT: u64 = 16 << 10;

/// Where to begin and whether to type.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct Ask {
    from: Option<u64>,
    tail: Option<u64>,
    #[serde(default)]
    write: bool,
}

pub(super) async fn open(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
    Query(ask): Query<Ask>,
    upgrade: Upgrade,
) -> Result<Response, ProblemReply> {
    // What a guest prints may hold secrets: looking at it is more than reading states.
    api.permit(peer, Right::Run)?;
    let job = api.feed.job(&id).ok_or_else(|| Refusal::NoSuchJob { job: id.clone() })?;
    if matches!(job.spec.kind, JobKind::Service(_)) {
        let message = format!("{id} is a service and has a log, not a console");
        return Err(Refusal::Invalid { message }.into());
    }
    let begin = match (ask.from, ask.tail) {
        (Some(at), _) => Begin::At(at),
        (None, tail) => Begin::Tail(tail.unwrap_or(TAIL_BYTES_DEFAULT)),
    };
    let log = api.storage.console_log(&id);
    let types = ask.write.then(|| (Arc::clone(&api.hv), id.domain_uuid()));
    Ok(upgrade.frames(move |frames| serve(frames, log, begin, types)))
}
