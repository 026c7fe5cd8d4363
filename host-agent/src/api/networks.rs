//! Networks over HTTP.

use std::collections::BTreeSet;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use protocol::network::{NetworkList, NetworkName, NetworkStatus, PutNetwork};
use protocol::trust::Right;
use transport::{Json, Peer, ProblemReply};

use super::Api;
use crate::core::{Reply, Request};

pub(super) async fn list(
    State(api): State<Api>,
    peer: Peer,
) -> Result<Json<NetworkList>, ProblemReply> {
    api.permit(peer, Right::Read)?;
    let host = api.feed.host();
    let names: BTreeSet<&String> = host.networks.iter().flat_map(|all| all.keys()).collect();
    let mut networks = Vec::new();
    for name in names {
        // One may go between the two looks.
        networks.extend(ask(&api, Request::ShowNetwork(name.clone())).await.ok().map(|(it, _)| it));
    }
    Ok(Json(NetworkList { networks }))
}

pub(super) async fn show(
    State(api): State<Api>,
    peer: Peer,
    Path(name): Path<String>,
) -> Result<Json<NetworkStatus>, ProblemReply> {
    api.permit(peer, Right::Read)?;
    let (status, _) = ask(&api, Request::ShowNetwork(name)).await?;
    Ok(Json(status))
}

/// What is there is looked at first, so that the core decides on what is so now.
pub(super) async fn put_network(
    State(api): State<Api>,
    peer: Peer,
    Path(name): Path<NetworkName>,
    Json(put): Json<PutNetwork>,
) -> Result<Response, ProblemReply> {
    api.permit(peer, Right::Run)?;
    api.networks.look().await;
    let (status, is_new) = ask(&api, Request::PutNetwork { name, put }).await?;
    let code = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((code, Json(status)).into_response())
}

pub(super) async fn remove(
    State(api): State<Api>,
    peer: Peer,
    Path(name): Path<String>,
) -> Result<StatusCode, ProblemReply> {
    api.permit(peer, Right::Run)?;
    api.networks.look().await;
    api.ask(Request::DeleteNetwork(name)).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn ask(api: &Api, request: Request) -> Result<(NetworkStatus, bool), ProblemReply> {
    match api.ask(request).await? {
        Reply::Network { status, is_new } => Ok((*status, is_new)),
        other => unreachable!("asked for a network, answered with {other:?}"),
    }
}
