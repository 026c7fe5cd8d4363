//! Events over WebSocket: an inventory or what was missed, then everything as it happens.

use axum::extract::{Query, State};
use axum::response::Response;
use protocol::id::{Cursor, Epoch};
use protocol::trust::Right;
use schemars::JsonSchema;
use serde::Deserialize;
use transport::stream::Upgrade;
use transport::{Peer, ProblemReply};

use super::Api;

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
    upgrade: Upgrade,
) -> Result<Response, ProblemReply> {
    api.permit(peer, Right::Read)?;
    let from = from.epoch.zip(from.seq).map(|(epoch, seq)| Cursor { epoch: Epoch(epoch), seq });
    Ok(upgrade.read_directly().frames(move |mut frames| async move {
        api.feed.subscribe(from, frames.sender());
        // Followers say nothing; reading notices their goodbye.
        while let Some(Ok(_)) = frames.next_frame().await {}
    }))
}
