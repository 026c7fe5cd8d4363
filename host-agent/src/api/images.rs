//! Images over HTTP.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http_body_util::BodyExt as _;
use protocol::api::{ImageReply, SHA256_HEADER};
use protocol::id::ImageName;
use protocol::refusal::Refusal;
use protocol::signed::Digest;
use protocol::trust::Right;
use transport::{Json, Peer, ProblemReply};

use super::Api;
use crate::core::Input;
use crate::shell::Post;
use crate::storage::StorageError;

pub(super) async fn put_image(
    State(api): State<Api>,
    peer: Peer,
    Path(name): Path<ImageName>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ProblemReply> {
    api.permit(peer, Right::Run)?;
    let announced = announced(&headers)?;
    let known = api.storage.images().map_err(problem)?;
    if let Some(facts) = known.get(&name) {
        if facts.sha256 == announced {
            return Ok(Json(ImageReply { name, facts: facts.clone() }).into_response());
        }
        let message = format!(
            "image {name} is here with sha256 {}; disks are made from it, so give the new one another name",
            facts.sha256
        );
        return Err(Refusal::Invalid { message }.into());
    }
    let mut incoming = api.storage.receive_image(&name).await.map_err(problem)?;
    let mut body = body;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| ProblemReply::new(400, "broken-body", e.to_string()))?;
        if let Ok(bytes) = frame.into_data() {
            incoming.write(&bytes).await.map_err(problem)?;
        }
    }
    let facts = incoming.keep(announced).await.map_err(problem)?;
    let images = api.storage.images().map_err(problem)?;
    let _ = api.posts.send(Post::Input(Input::Images(images))).await;
    Ok((StatusCode::CREATED, Json(ImageReply { name, facts })).into_response())
}

fn announced(headers: &HeaderMap) -> Result<Digest, ProblemReply> {
    let text = headers.get(SHA256_HEADER).and_then(|value| value.to_str().ok());
    text.and_then(|text| text.parse().ok()).ok_or_else(|| {
        let message = format!("header {SHA256_HEADER} must hold the file's SHA-256 in hex");
        Refusal::Invalid { message }.into()
    })
}

fn problem(error: StorageError) -> ProblemReply {
    match error {
        StorageError::WrongDigest { .. } | StorageError::BadImage(_) => {
            Refusal::Invalid { message: error.to_string() }.into()
        }
        StorageError::Io { .. } | StorageError::QemuImg { .. } | StorageError::Seed { .. } => {
            ProblemReply::new(507, "storage", error.to_string())
        }
    }
}
