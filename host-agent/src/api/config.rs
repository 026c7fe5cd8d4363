//! What the host is told about itself over HTTP: the trust document, what is intended with it, and how
//! much it remembers.

use axum::extract::State;
use http::StatusCode;
use protocol::api::PutIntent;
use protocol::history::HistoryConfig;
use protocol::signed::Signed;
use protocol::trust::{Right, Trust};
use transport::{Json, Peer, ProblemReply};

use super::Api;
use crate::core::{Reply, Request};

pub(super) async fn show_trust(
    State(api): State<Api>,
    peer: Peer,
) -> Result<Json<Option<Signed<Trust>>>, ProblemReply> {
    api.permit(peer, Right::Read)?;
    Ok(Json(api.trust_in_force().map(|in_force| in_force.signed)))
}

/// No permission is asked: the document is believed for its signature, whoever brings it.
pub(super) async fn put_trust(
    State(api): State<Api>,
    Json(trust): Json<Signed<Trust>>,
) -> Result<StatusCode, ProblemReply> {
    api.ask(Request::Trust(trust)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn put_intent(
    State(api): State<Api>,
    peer: Peer,
    Json(put): Json<PutIntent>,
) -> Result<StatusCode, ProblemReply> {
    api.permit(peer, Right::Run)?;
    api.ask(Request::Intend(Some(put.intent))).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn delete_intent(
    State(api): State<Api>,
    peer: Peer,
) -> Result<StatusCode, ProblemReply> {
    api.permit(peer, Right::Run)?;
    api.ask(Request::Intend(None)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn show_history(
    State(api): State<Api>,
    peer: Peer,
) -> Result<Json<HistoryConfig>, ProblemReply> {
    api.permit(peer, Right::Read)?;
    match api.ask(Request::ShowHistory).await? {
        Reply::History(config) => Ok(Json(config)),
        other => unreachable!("asked how much is remembered, answered with {other:?}"),
    }
}

pub(super) async fn put_history(
    State(api): State<Api>,
    peer: Peer,
    Json(config): Json<HistoryConfig>,
) -> Result<StatusCode, ProblemReply> {
    api.permit(peer, Right::Run)?;
    api.ask(Request::History(config)).await?;
    Ok(StatusCode::NO_CONTENT)
}
