//! Images over HTTP.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use http::StatusCode;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE};
use http_body_util::BodyExt as _;
use protocol::api::{ImageReply, SHA256_HEADER};
use protocol::host::ImageFacts;
use protocol::id::ImageName;
use protocol::image::{FetchImage, FetchTrouble, ImageList, ImageStatus};
use protocol::job::Role;
use protocol::refusal::Refusal;
use protocol::resources::{Bytes, Resources};
use protocol::signed::Digest;
use protocol::trust::Right;
use tokio::io::AsyncSeekExt as _;
use tokio_util::io::ReaderStream;
use transport::{Json, Peer, ProblemReply};

use super::{Api, UNTOLD_BYTES_MAX};
use crate::images::name_taken;
use crate::library::{Asked, LibraryError};
use crate::storage::StorageError;

/// What is read of a file at a time when it is given away.
const CHUNK_BYTES: usize = 256 << 10;

pub(super) async fn list(
    State(api): State<Api>,
    peer: Peer,
) -> Result<Json<ImageList>, ProblemReply> {
    api.permit(peer, Right::Read)?;
    Ok(Json(api.library.list().map_err(problem)?))
}

pub(super) async fn show(
    State(api): State<Api>,
    peer: Peer,
    Path(name): Path<ImageName>,
) -> Result<Json<ImageStatus>, ProblemReply> {
    api.permit(peer, Right::Read)?;
    Ok(Json(api.library.status(&name).map_err(problem)?))
}

pub(super) async fn put_image(
    State(api): State<Api>,
    peer: Peer,
    Path(name): Path<ImageName>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ProblemReply> {
    api.permit(peer, Right::Run)?;
    let announced = announced(&headers)?;
    let images = api.library.images();
    if let Some(facts) = images.list().map_err(problem)?.get(&name) {
        if facts.sha256 == announced {
            return Ok(Json(ImageReply { name, facts: facts.clone() }).into_response());
        }
        return Err(Refusal::Invalid { message: name_taken(&name, facts.sha256) }.into());
    }
    // The same bytes are not needed a second time.
    if let Some(facts) = images.link(&name, announced).map_err(problem)? {
        api.library.tell().await.map_err(problem)?;
        return Ok(created(name, facts));
    }
    let mut part = images.upload(&name).await.map_err(problem)?;
    let length: Option<u64> =
        headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if let Some(bytes) = length {
        api.library.take_room(&part, bytes).await.map_err(no_room)?;
    }
    let mut body = body;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| ProblemReply::new(400, "broken-body", e.to_string()))?;
        if let Ok(bytes) = frame.into_data() {
            part.write(&bytes).await.map_err(problem)?;
        }
        if length.is_none() && part.bytes() > UNTOLD_BYTES_MAX {
            let limit = Bytes(UNTOLD_BYTES_MAX);
            let detail = format!("over {limit} without Content-Length: say how large it is");
            return Err(ProblemReply::new(413, "body-too-large", detail));
        }
    }
    let facts = api.library.place(part, &name, Some(announced)).await.map_err(problem)?;
    Ok(created(name, facts))
}

/// Looked for before the first byte is taken.
fn no_room(why: FetchTrouble) -> ProblemReply {
    match why {
        FetchTrouble::NoSpace { needed_bytes: disk_bytes, free, capacity } => {
            let asked = Resources { disk_bytes, ..Resources::ZERO };
            Refusal::NoCapacity { asked, free, capacity }.into()
        }
        why => ProblemReply::new(507, "storage", why.to_string()),
    }
}

fn created(name: ImageName, facts: ImageFacts) -> Response {
    (StatusCode::CREATED, Json(ImageReply { name, facts })).into_response()
}

pub(super) async fn fetch(
    State(api): State<Api>,
    peer: Peer,
    Path(name): Path<ImageName>,
    Json(wanted): Json<FetchImage>,
) -> Result<Response, ProblemReply> {
    api.permit(peer, Right::Run)?;
    let status = match api.library.fetch(&name, wanted)? {
        Asked::Here => StatusCode::OK,
        Asked::Coming => StatusCode::ACCEPTED,
    };
    let shown = api.library.status(&name).map_err(problem)?;
    Ok((status, Json(shown)).into_response())
}

pub(super) async fn remove(
    State(api): State<Api>,
    peer: Peer,
    Path(name): Path<ImageName>,
) -> Result<StatusCode, ProblemReply> {
    api.permit(peer, Right::Run)?;
    match api.library.remove(&name).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(LibraryError::Refused(no)) => Err(no.into()),
        Err(LibraryError::Storage(error)) => Err(problem(error)),
    }
}

/// An image's file by its content: to hosts of the cluster, which copy it, and to whoever may run.
pub(super) async fn give(
    State(api): State<Api>,
    peer: Peer,
    Path(sha256): Path<Digest>,
    headers: HeaderMap,
) -> Result<Response, ProblemReply> {
    let role = api.trust().and_then(|trust| trust.role_of(peer.key.as_ref()?));
    if role != Some(Role::Host) {
        api.permit(peer, Right::Run)?;
    }
    let busy = || {
        let what = "images being copied from here".to_owned();
        let limit = u32::try_from(super::GIVEN_AT_ONCE).unwrap_or(u32::MAX);
        Refusal::Busy { what, limit, retry_after_ms: 2_000 }
    };
    let place = std::sync::Arc::clone(&api.giving).try_acquire_owned().map_err(|_| busy())?;
    let found = api.library.images().file_of(sha256).map_err(problem)?;
    let missing =
        || ProblemReply::new(404, "no-such-file", format!("no image here has sha256 {sha256}"));
    let path = found.ok_or_else(missing)?;
    let mut file = tokio::fs::File::open(&path).await.map_err(|_| missing())?;
    let failed = |error: std::io::Error| ProblemReply::new(507, "storage", error.to_string());
    let total = file.metadata().await.map_err(failed)?.len();
    let from = headers.get(RANGE).and_then(|range| range.to_str().ok()).and_then(first_byte);
    if from.is_some_and(|from| from >= total) {
        let detail = format!("the file has {total} bytes");
        return Err(ProblemReply::new(416, "no-such-range", detail));
    }
    let first = from.unwrap_or(0);
    file.seek(std::io::SeekFrom::Start(first)).await.map_err(failed)?;
    // The place is taken until the last byte has left, or nobody reads any more.
    let bytes = ReaderStream::with_capacity(file, CHUNK_BYTES).map(move |bytes| {
        let _place = &place;
        bytes
    });
    let mut response = Response::new(Body::from_stream(bytes));
    let mut header = |name, value: String| {
        response.headers_mut().insert(name, value.parse().expect("digits and hex are valid"));
    };
    header(CONTENT_TYPE, "application/octet-stream".to_owned());
    header(CONTENT_LENGTH, (total - first).to_string());
    header(ACCEPT_RANGES, "bytes".to_owned());
    header(ETAG, format!("\"{sha256}\""));
    if from.is_some() {
        header(CONTENT_RANGE, format!("bytes {first}-{}/{total}", total - 1));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// `bytes=100-` as 100. Any other range is no range: the whole is a good answer.
fn first_byte(range: &str) -> Option<u64> {
    range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
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
        StorageError::Io { .. }
        | StorageError::QemuImg { .. }
        | StorageError::Seed { .. }
        | StorageError::Pool(_) => ProblemReply::new(507, "storage", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_to_the_end_is_understood_and_any_other_is_none() {
        assert_eq!(first_byte("bytes=100-"), Some(100));
        for other in ["bytes=1-2", "bytes=-5", "bytes=1-,7-", "items=1-", "bytes=-"] {
            assert_eq!(first_byte(other), None, "{other}");
        }
    }
}
