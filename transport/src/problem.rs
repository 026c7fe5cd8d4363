//! Errors on the wire: every error answer of every server is an RFC 9457 problem document.
//!
//! Decides how a [`Problem`] becomes an HTTP answer and what the routes nobody wrote answer (unknown
//! path, wrong method, bad body, a panic). Which refusals exist is `protocol`'s affair.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, MatchedPath, Request};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use protocol::refusal::{Problem, Refusal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{Instrument as _, Span, field};

use crate::clock::Clock;
use crate::server::Peer;
use crate::traces;

/// The content type of a problem document.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Carries the id of a request, from the client if it sent one, and always in the answer.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id taken over from a client; enough for a uuid with a prefix.
const REQUEST_ID_CHARS_MAX: usize = 64;

/// Longest plain text of an error answer that is copied into a problem's detail.
const DETAIL_BYTES_MAX: usize = 4096;

/// A problem as an HTTP answer; handlers return `Result<_, ProblemReply>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProblemReply(pub Box<Problem>);

impl ProblemReply {
    /// A problem that is no refusal of ours.
    #[must_use]
    pub fn new(status: u16, name: &str, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(status, name, detail)))
    }
}

impl From<Problem> for ProblemReply {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl From<Box<Problem>> for ProblemReply {
    fn from(problem: Box<Problem>) -> Self {
        Self(problem)
    }
}

impl From<Refusal> for ProblemReply {
    fn from(refusal: Refusal) -> Self {
        Self(Box::new(refusal.into()))
    }
}

impl IntoResponse for ProblemReply {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).expect("a problem is always valid JSON");
        let mut response = (status, [(CONTENT_TYPE, PROBLEM_JSON)], body).into_response();
        if let Some(Refusal::Busy { retry_after_ms, .. }) = self.0.refusal {
            let seconds = HeaderValue::from(retry_after_ms.div_ceil(1000).max(1));
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        response
    }
}

/// A JSON body: as an extractor its rejections are problems, as an answer it is plain JSON.
#[derive(Debug, Clone, Copy, Default)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ProblemReply;

    async fn from_request(request: Request, state: &S) -> Result<Self, ProblemReply> {
        let axum::Json(value) = axum::Json::from_request(request, state).await.map_err(rejected)?;
        Ok(Self(value))
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// Completes a router: 404 and 405 as problems, panics as 500 problems, plain-text errors of
/// extractors as problems, a request id in every answer, a tracing span around every request.
///
/// Call it last: routes added later would have none of this.
pub fn finish(router: Router) -> Router {
    router
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn(guard))
}

async fn no_such_path(uri: Uri) -> ProblemReply {
    ProblemReply::new(404, "no-such-path", format!("there is nothing at {}", uri.path()))
}

async fn no_such_method(method: Method, uri: Uri) -> ProblemReply {
    ProblemReply::new(405, "no-such-method", format!("{} does not take {method}", uri.path()))
}

async fn guard(mut request: Request, next: Next) -> Response {
    let id = request_id(&request);
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let span = tracing::info_span!(
        "request",
        id = id.to_str().unwrap_or_default(),
        method = %request.method(),
        path = request.uri().path(),
        peer = request.extensions().get::<Peer>().map(field::display),
        otel.kind = field::Empty,
        otel.name = field::Empty,
        http.response.status_code = field::Empty,
        otel.status_code = field::Empty,
    );
    let is_followed = follow(&span, &request);
    let clock = Clock::real();
    let started = clock.now();
    let mut response = answer(request, next).instrument(span.clone()).await;
    response.headers_mut().insert(REQUEST_ID, id);
    let took_ms = clock.now().mono_ms.saturating_sub(started.mono_ms);
    let status = response.status();
    span.in_scope(|| tracing::debug!(status = status.as_u16(), took_ms, "answered"));
    if is_followed {
        span.record("http.response.status_code", status.as_u16());
        if status.is_server_error() {
            span.record("otel.status_code", "ERROR");
        }
    }
    response
}

/// Has the span of a request belong to the trace that the request names; false if it names none.
fn follow(span: &Span, request: &Request) -> bool {
    let Some(place) = traces::asked_for(request.headers()) else { return false };
    place.takes(span);
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    span.record("otel.kind", "server");
    span.record("otel.name", format!("{} {route}", request.method()).trim_end());
    true
}

async fn answer(request: Request, next: Next) -> Response {
    // A handler owns its request; what it shares sits behind locks that poison. So nothing half
    // done is seen by others after a panic.
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => as_problem(response).await,
        Err(panic) => {
            let message = panic_message(panic.as_ref());
            tracing::error!("handler panicked: {message}");
            let detail = "a fault in this server; its log has the request id and the cause";
            ProblemReply::new(500, "internal", detail).into_response()
        }
    }
}

/// Turns the plain-text errors of axum's own extractors into problems; others pass untouched.
async fn as_problem(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let is_plain = match response.headers().get(CONTENT_TYPE) {
        None => true,
        Some(kind) => kind.as_bytes().starts_with(b"text/plain"),
    };
    if !is_error || !is_plain {
        return response;
    }
    let (_, body) = response.into_parts();
    let text = axum::body::to_bytes(body, DETAIL_BYTES_MAX).await.unwrap_or_default();
    let words = status.canonical_reason().unwrap_or("error");
    let detail = match String::from_utf8_lossy(&text).into_owned() {
        text if text.is_empty() => words.to_lowercase(),
        text => text,
    };
    let name = words.to_lowercase().replace(' ', "-");
    ProblemReply::new(status.as_u16(), &name, detail).into_response()
}

fn rejected(rejection: JsonRejection) -> ProblemReply {
    let status = rejection.status().as_u16();
    let name = match status {
        413 => "body-too-large",
        415 => "not-json",
        _ => "bad-body",
    };
    ProblemReply::new(status, name, rejection.body_text())
}

fn request_id(request: &Request) -> HeaderValue {
    let is_sane = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_CHARS_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    let given = request.headers().get(REQUEST_ID).filter(is_sane);
    given.cloned().unwrap_or_else(fresh_request_id)
}

fn fresh_request_id() -> HeaderValue {
    let number = getrandom::u64().expect("the kernel always has random numbers");
    HeaderValue::from_str(&format!("{number:016x}")).expect("hex is a valid header")
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
