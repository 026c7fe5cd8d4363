//! Offers over HTTP.

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use protocol::api::{HoldDebits, OfferRequest};
use protocol::id::{Epoch, OfferId};
use protocol::signed::Digest;
use protocol::trust::Right;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::oneshot;
use transport::{Json, Peer, ProblemReply};

use super::Api;
use crate::core::{Reply, Request};
use crate::shell::{Curious, Post};

/// What arbiters rebuild their books from, together with the inventory.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct OpenOffers {
    epoch: Epoch,
    watermark: OfferId,
    offers: Vec<OfferId>,
    /// The change of arbiters that the host has agreed to.
    #[serde(skip_serializing_if = "Option::is_none")]
    agreed: Option<Digest>,
    /// What arbiters have booked for what it holds.
    debits: Vec<HoldDebits>,
    /// The last offers that ended without having been redeemed, so that no start is counted for them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unused: Vec<OfferId>,
}

pub(super) async fn list(
    State(api): State<Api>,
    peer: Peer,
) -> Result<Json<OpenOffers>, ProblemReply> {
    api.permit(peer, Right::Read)?;
    let (sender, receiver) = oneshot::channel();
    let stopping = || ProblemReply::new(503, "stopping", "this agent is stopping; ask again");
    api.posts.send(Post::OpenOffers(sender)).await.map_err(|_| stopping())?;
    let told = receiver.await.map_err(|_| stopping())?;
    let Curious { watermark, offers, agreed, debits, unused } = told;
    let epoch = watermark.epoch;
    Ok(Json(OpenOffers { epoch, watermark, offers, agreed, debits, unused }))
}

pub(super) async fn make(
    State(api): State<Api>,
    peer: Peer,
    Json(ask): Json<OfferRequest>,
) -> Result<Response, ProblemReply> {
    api.permit(peer, Right::Run)?;
    // The core can't know: nothing but time passes while libvirt says nothing.
    if let Some(no) = api.outage.refusal(api.clock.now().mono_ms) {
        return Err(no.into());
    }
    match api.ask(Request::Offer(ask)).await? {
        Reply::Offered(offer) => Ok((StatusCode::CREATED, Json(offer)).into_response()),
        _ => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

pub(super) async fn void(
    State(api): State<Api>,
    peer: Peer,
    Path((epoch, num)): Path<(u64, u64)>,
) -> Result<StatusCode, ProblemReply> {
    api.permit(peer, Right::Run)?;
    let id = OfferId { epoch: Epoch(epoch), num };
    api.ask(Request::VoidOffer(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}
