//! Events over WebSocket, or as server-sent events: an inventory or what was missed, then everything as
//! it happens.

use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use http::HeaderMap;
use protocol::id::{Cursor, Epoch};
use protocol::trust::Right;
use schemars::JsonSchema;
use serde::Deserialize;
use transport::server::Stopping;
use transport::stream::Upgrade;
use transport::{Peer, ProblemReply, lines};

use super::Api;
use crate::feed::Subscriber;

/// Where a follower stands; without it, it starts from an inventory.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct From {
    epoch: Option<u64>,
    seq: Option<u64>,
}

pub(super) async fn follow(
    State(api): State<Api>,
    peer: Peer,
    Query(from): Query<From>,
    stopping: Stopping,
    headers: HeaderMap,
    upgrade: Result<Upgrade, ProblemReply>,
) -> Result<Response, ProblemReply> {
    api.permit(peer, Right::Read)?;
    let from = from.epoch.zip(from.seq).map(|(epoch, seq)| Cursor { epoch: Epoch(epoch), seq });
    if lines::is_asked(&headers) {
        // A browser that comes back asks for the same address, and says what it had last.
        let from = lines::last_id(&headers).and_then(cursor_of).or(from);
        let (sender, lines) = lines::lines(stopping);
        api.feed.subscribe(from, Subscriber::Lines(sender));
        return Ok(lines.until(api.forbidden(peer, Right::Read)).into_response());
    }
    let upgrade = upgrade?.read_directly().until(api.forbidden(peer, Right::Read));
    Ok(upgrade.frames(move |mut frames| async move {
        api.feed.subscribe(from, Subscriber::Frames(frames.sender()));
        // Followers say nothing; reading notices their goodbye.
        while let Some(Ok(_)) = frames.next_frame().await {}
    }))
}

/// As [`Subscriber::push`] writes it.
fn cursor_of(id: &str) -> Option<Cursor> {
    let (epoch, seq) = id.split_once(':')?;
    Some(Cursor { epoch: Epoch(epoch.parse().ok()?), seq: seq.parse().ok()? })
}
