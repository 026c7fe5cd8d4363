//! Asking a peer: one request, one answer, and an error that says whether it may have had an effect.
//!
//! Decides time-outs and what counts as an answer. Connections are the pool's, and whether to ask
//! again is left to the caller:
//!
//! ```text
//! connect ─> prove keys ─> send ─> answer's head ─> answer's body
//! └──── NotSent ────────┘└─────────── Ambiguous ───────────────┘
//!                          a problem document: Problem; anything else we can't read: BadAnswer
//! ```

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use protocol::refusal::Problem;
use protocol::signed::PublicKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::io::ReaderStream;
use tracing::{Span, field};

use crate::call_error::{Call, CallError, NotSent, with_causes};
use crate::certificate::Certificate;
use crate::download::{self, Download, DownloadError, Had};
use crate::endpoint::{Endpoint, Target};
use crate::identity::Identity;
use crate::pool::{Body, Pool, Wire};
use crate::stream::Keepalive;
use crate::traces;

/// Largest answer that is read: a view of ten thousand jobs takes about 20 MiB.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Bytes of a file that are read at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// An answer that went well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply<T> {
    /// HTTP status, 200 to 299.
    pub status: u16,
    /// The answer; an empty one reads as `()` or `None`.
    pub body: T,
    /// The key the peer proved; always there over TLS.
    pub peer: Option<PublicKey>,
}

/// How long a client waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For a call as a whole, the answer's body included. A file being sent may take longer, as
    /// long as it makes progress within this time.
    pub call: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { connect: Duration::from_secs(3), call: Duration::from_secs(30) }
    }
}

/// Asks peers. Clones share connections.
#[derive(Clone)]
pub struct Client {
    identity: Arc<Identity>,
    pool: Arc<Pool>,
    keepalive: Keepalive,
    patience: Patience,
}

/// Any complete HTTP answer.
pub(crate) struct Answer {
    pub(crate) call: Call,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    peer: Option<PublicKey>,
}

/// A request's parts, from which it can be built again for another connection.
struct Ask<'a> {
    call: Call,
    /// From its making to its end, for who follows what it is asked for.
    span: Span,
    to: &'a Endpoint,
    headers: Vec<(HeaderName, HeaderValue)>,
    path: PathAndQuery,
    body: Bytes,
}

impl Client {
    /// A client that proves `identity` to everybody it asks.
    #[must_use]
    pub fn new(identity: Arc<Identity>) -> Self {
        let pool = Arc::new(Pool::new(&identity));
        Self { identity, pool, keepalive: Keepalive::default(), patience: Patience::default() }
    }

    /// The same client, sharing connections, with other time-outs.
    #[must_use]
    pub fn with_patience(&self, patience: Patience) -> Self {
        Self { patience, ..self.clone() }
    }

    /// The same client, sharing connections, with another deadline for each call.
    #[must_use]
    pub fn with_deadline(&self, call: Duration) -> Self {
        self.with_patience(Patience { call, ..self.patience })
    }

    /// Who this client proves to be.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// What looks after the streams it opens.
    pub(crate) fn keepalive(&self) -> &Keepalive {
        &self.keepalive
    }

    /// Reads something. A connection that turns out to be closed is replaced and asked again.
    pub async fn get<T: DeserializeOwned>(
        &self,
        to: &Endpoint,
        path: &str,
    ) -> Result<T, CallError> {
        let ask = Ask::new(Method::GET, to, path, Bytes::new())?;
        Ok(self.ask(ask, ANSWER_BYTES_MAX).await?.parse()?.body)
    }

    /// Sends a JSON document; `()` sends an empty body.
    pub async fn send<B: Serialize + Sync + ?Sized, T: DeserializeOwned>(
        &self,
        method: Method,
        to: &Endpoint,
        path: &str,
        body: &B,
    ) -> Result<Reply<T>, CallError> {
        self.exchange(method, to, path, Vec::new(), body).await?.parse()
    }

    /// Reads something that is no JSON, up to `bytes_max`.
    pub async fn get_bytes(
        &self,
        to: &Endpoint,
        path: &str,
        bytes_max: usize,
    ) -> Result<Bytes, CallError> {
        let ask = Ask::new(Method::GET, to, path, Bytes::new())?;
        Ok(self.ask(ask, bytes_max).await?.judge()?.body)
    }

    /// Begins to read a large file of a peer, from where it was left. It comes as slowly as it likes,
    /// but is not silent for longer than `silence`.
    pub async fn download(
        &self,
        to: &Endpoint,
        path: &str,
        had: &Had,
        silence: Duration,
    ) -> Result<Download, DownloadError> {
        let begun = async {
            let mut ask = Ask::new(Method::GET, to, path, Bytes::new())?;
            ask.headers.extend(
                download::range_headers(had)
                    .into_iter()
                    .filter_map(|(name, value)| name.map(|name| (name, value))),
            );
            let deadline = self.deadline();
            // A connection of its own: it is busy for as long as the file takes.
            let mut wire = self.connect(&ask.call, to).await?;
            let answer = timeout_at(deadline, exchange(&mut wire, &ask, ask.body())).await;
            let answer = answer.map_err(|_| ask.late(self.patience))?;
            let response = answer.map_err(|failed| failed.why)?;
            if response.status().is_success() {
                return Ok(response);
            }
            let finished = self.finish(&ask, wire, response, ANSWER_BYTES_MAX, deadline).await?;
            let reply = finished.judge()?;
            let why = "expected a file".to_owned();
            Err(CallError::BadAnswer { call: ask.call, status: reply.status, why })
        };
        let response = begun.await.map_err(|error| download::of_call(&error))?;
        download::judge(to, response, had, silence)
    }

    /// The certificate that a peer shows, which is the one that was meant.
    pub async fn certificate(&self, to: &Endpoint) -> Result<Certificate, CallError> {
        let limit = self.patience.connect.min(self.patience.call);
        let shown = timeout(limit, self.pool.certificate(to)).await;
        shown
            .unwrap_or_else(|_| Err(late(limit)))
            .map_err(|source| CallError::NotSent { call: call_of(Method::GET, to, ""), source })
    }

    /// Streams a file as the body of a PUT, however long it takes while it makes progress.
    pub async fn put_file<T: DeserializeOwned>(
        &self,
        to: &Endpoint,
        path: &str,
        file: &Path,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Reply<T>, CallError> {
        let mut ask = Ask::new(Method::PUT, to, path, Bytes::new())?;
        let sent = Arc::new(AtomicU64::new(0));
        let (body, length) = match file_body(file, Arc::clone(&sent)).await {
            Ok(opened) => opened,
            Err(source) => return Err(ask.not_sent(NotSent::File { path: file.into(), source })),
        };
        ask.headers.push((CONTENT_LENGTH, HeaderValue::from(length)));
        ask.headers.extend_from_slice(headers);
        let mut wire = self.connect(&ask.call, to).await?;
        let answer = exchange(&mut wire, &ask, body);
        let limit = self.patience.call;
        let Some(answer) = while_progressing(answer, &sent, limit).await else {
            let ms = limit.as_millis();
            let sent = sent.load(Ordering::Relaxed);
            return Err(ask.ambiguous(format!("no progress for {ms} ms after {sent} bytes")));
        };
        let response = answer.map_err(|failed| failed.why)?;
        let deadline = self.deadline();
        self.finish(&ask, wire, response, ANSWER_BYTES_MAX, deadline).await?.parse()
    }

    /// Asks to leave HTTP behind on a connection of its own; the caller takes the stream.
    pub(crate) async fn upgrade(
        &self,
        to: &Endpoint,
        path: &str,
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Result<(Call, Response<Incoming>, Option<PublicKey>), CallError> {
        let deadline = self.deadline();
        let mut ask = Ask::new(Method::GET, to, path, Bytes::new())?;
        ask.headers.extend(headers);
        let mut wire = self.connect(&ask.call, to).await?;
        let answer = timeout_at(deadline, exchange(&mut wire, &ask, ask.body())).await;
        let response = answer.map_err(|_| ask.late(self.patience))?.map_err(|failed| failed.why)?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok((ask.call, response, wire.peer));
        }
        let answer = self.finish(&ask, wire, response, ANSWER_BYTES_MAX, deadline).await?;
        let reply = answer.judge()?;
        let why = "expected a change of protocol".to_owned();
        Err(CallError::BadAnswer { call: ask.call, status: reply.status, why })
    }

    /// Sends a JSON document and hands back whatever HTTP answer comes, errors included.
    pub(crate) async fn exchange<B: Serialize + Sync + ?Sized>(
        &self,
        method: Method,
        to: &Endpoint,
        path: &str,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: &B,
    ) -> Result<Answer, CallError> {
        let json = json_of(&method, to, path, body)?;
        let mut ask = Ask::new(method, to, path, json)?;
        if !ask.body.is_empty() {
            ask.headers.push((CONTENT_TYPE, HeaderValue::from_static("application/json")));
        }
        ask.headers.extend(headers);
        self.ask(ask, ANSWER_BYTES_MAX).await
    }

    async fn ask(&self, ask: Ask<'_>, bytes_max: usize) -> Result<Answer, CallError> {
        let answer = self.ask_once_or_again(&ask, bytes_max).await;
        match &answer {
            Ok(answer) => drop(ask.span.record("http.response.status_code", answer.status)),
            Err(error) => traces::failed(&ask.span, error),
        }
        answer
    }

    async fn ask_once_or_again(
        &self,
        ask: &Ask<'_>,
        bytes_max: usize,
    ) -> Result<Answer, CallError> {
        let deadline = self.deadline();
        let mut pooled = self.pool.take(ask.to).await;
        loop {
            let is_reused = pooled.is_some();
            let mut wire = match pooled.take() {
                Some(wire) => wire,
                None => self.connect(&ask.call, ask.to).await?,
            };
            let answer = timeout_at(deadline, exchange(&mut wire, ask, ask.body())).await;
            match answer.map_err(|_| ask.late(self.patience))? {
                Ok(response) => {
                    return self.finish(ask, wire, response, bytes_max, deadline).await;
                }
                // The server closed an idle connection while we took it up. Asking once more, on
                // a new one, is safe if the request did not leave or only reads.
                Err(failed) if is_reused && (failed.is_unsent || ask.call.method.is_safe()) => {}
                Err(failed) => return Err(failed.why),
            }
        }
    }

    /// Reads the answer to its end, and keeps the connection if it can be used again.
    async fn finish(
        &self,
        ask: &Ask<'_>,
        wire: Wire,
        response: Response<Incoming>,
        bytes_max: usize,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let (head, body) = response.into_parts();
        let status = head.status.as_u16();
        let read = timeout_at(deadline, Limited::new(body, bytes_max).collect()).await;
        let body = match read.map_err(|_| ask.late(self.patience))? {
            Ok(body) => body.to_bytes(),
            Err(e) if e.is::<http_body_util::LengthLimitError>() => {
                let why = format!("it is larger than {bytes_max} bytes");
                return Err(CallError::BadAnswer { call: ask.call.clone(), status, why });
            }
            Err(e) => return Err(ask.ambiguous(format!("the answer broke off: {e}"))),
        };
        let peer = wire.peer;
        self.pool.keep(ask.to, wire);
        Ok(Answer { call: ask.call.clone(), status, headers: head.headers, body, peer })
    }

    async fn connect(&self, call: &Call, to: &Endpoint) -> Result<Wire, CallError> {
        let limit = self.patience.connect.min(self.patience.call);
        let connected = timeout(limit, self.pool.connect(to)).await;
        connected
            .unwrap_or_else(|_| Err(late(limit)))
            .map_err(|source| CallError::NotSent { call: call.clone(), source })
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.patience.call
    }
}

impl Answer {
    fn parse<T: DeserializeOwned>(self) -> Result<Reply<T>, CallError> {
        let call = self.call.clone();
        let Reply { status, body, peer } = self.judge()?;
        let json = if body.is_empty() { &b"null"[..] } else { &body };
        match serde_json::from_slice(json) {
            Ok(body) => Ok(Reply { status, body, peer }),
            Err(e) => Err(CallError::BadAnswer { call, status, why: e.to_string() }),
        }
    }

    /// The answer if it is a good one, else what is wrong with it.
    pub(crate) fn judge(self) -> Result<Reply<Bytes>, CallError> {
        let Self { call, status, body, peer, .. } = self;
        if (200..300).contains(&status) {
            return Ok(Reply { status, body, peer });
        }
        Err(match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => CallError::Problem { call, problem: Box::new(problem) },
            Err(_) => {
                let start = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
                let why = format!("it is no problem document: {start:?}");
                CallError::BadAnswer { call, status, why }
            }
        })
    }
}

impl<'a> Ask<'a> {
    fn new(method: Method, to: &'a Endpoint, path: &str, body: Bytes) -> Result<Self, CallError> {
        let call = call_of(method, to, path);
        let agent = concat!("ostler/", env!("CARGO_PKG_VERSION"));
        let host = Target::of(&to.url).and_then(|target| target.host_header());
        let path = path.parse::<PathAndQuery>().map_err(|e| format!("path {path:?}: {e}"));
        match host.and_then(|host| Ok((host, path?))) {
            Err(why) => Err(CallError::NotSent { call, source: NotSent::Unusable(why) }),
            Ok((host, path)) => {
                let span = span_of(&call.method, to, path.path());
                let mut headers = vec![
                    (HOST, host),
                    (ACCEPT, HeaderValue::from_static("application/json")),
                    (USER_AGENT, HeaderValue::from_static(agent)),
                ];
                headers.extend(traces::headers(&span));
                Ok(Self { call, span, to, headers, path, body })
            }
        }
    }

    fn body(&self) -> Body {
        Full::new(self.body.clone()).map_err(|never| match never {}).boxed_unsync()
    }

    fn request(&self, body: Body) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = self.call.method.clone();
        *request.uri_mut() = Uri::from(self.path.clone());
        request.headers_mut().extend(self.headers.iter().cloned());
        request
    }

    fn not_sent(&self, source: NotSent) -> CallError {
        CallError::NotSent { call: self.call.clone(), source }
    }

    fn ambiguous(&self, why: String) -> CallError {
        CallError::Ambiguous { call: self.call.clone(), why }
    }

    fn late(&self, patience: Patience) -> CallError {
        self.ambiguous(format!("no answer within {} ms", patience.call.as_millis()))
    }
}

/// A request that got no answer's head.
struct Failed {
    is_unsent: bool,
    why: CallError,
}

async fn exchange(
    wire: &mut Wire,
    ask: &Ask<'_>,
    body: Body,
) -> Result<Response<Incoming>, Box<Failed>> {
    let sending = wire.sender.try_send_request(ask.request(body));
    sending.await.map_err(|mut e| {
        let is_unsent = e.take_message().is_some();
        let why = match is_unsent {
            true => ask.not_sent(NotSent::Connect(io::Error::other(e.into_error()))),
            false => ask.ambiguous(format!("no answer came: {}", with_causes(&e.into_error()))),
        };
        Box::new(Failed { is_unsent, why })
    })
}

/// Waits for `answer` as long as `sent` grows; `None` when it stood still for `limit`.
async fn while_progressing<T>(
    answer: impl Future<Output = T>,
    sent: &AtomicU64,
    limit: Duration,
) -> Option<T> {
    let mut answer = std::pin::pin!(answer);
    let mut before = sent.load(Ordering::Relaxed);
    loop {
        if let Ok(answer) = timeout(limit, &mut answer).await {
            return Some(answer);
        }
        let now = sent.load(Ordering::Relaxed);
        if now == before {
            return None;
        }
        before = now;
    }
}

async fn file_body(path: &Path, sent: Arc<AtomicU64>) -> io::Result<(Body, u64)> {
    let file = tokio::fs::File::open(path).await?;
    let length = file.metadata().await?.len();
    let chunks = ReaderStream::with_capacity(file, CHUNK_BYTES);
    let counted = chunks.map_ok(move |chunk| {
        sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        Frame::data(chunk)
    });
    Ok((StreamBody::new(counted).boxed_unsync(), length))
}

fn json_of<B: Serialize + ?Sized>(
    method: &Method,
    to: &Endpoint,
    path: &str,
    body: &B,
) -> Result<Bytes, CallError> {
    match serde_json::to_vec(body) {
        Ok(json) if json == b"null" => Ok(Bytes::new()),
        Ok(json) => Ok(json.into()),
        Err(e) => {
            let source = NotSent::Unusable(format!("body cannot be written as JSON: {e}"));
            Err(CallError::NotSent { call: call_of(method.clone(), to, path), source })
        }
    }
}

/// The span of a request; none where nobody follows what it is asked for. A discovery URL is a password:
/// what is asked there is in no trace.
fn span_of(method: &Method, to: &Endpoint, path: &str) -> Span {
    if traces::here().is_none() || path.contains("/clusters/") {
        return Span::none();
    }
    tracing::debug_span!(
        "ask",
        otel.kind = "client",
        otel.name = %format_args!("{method} {path}"),
        to = %to.url,
        http.response.status_code = field::Empty,
        otel.status_code = field::Empty,
        otel.status_description = field::Empty,
    )
}

fn late(limit: Duration) -> NotSent {
    NotSent::TimedOut(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX))
}

fn call_of(method: Method, to: &Endpoint, path: &str) -> Call {
    Call { method, url: format!("{}{path}", to.url.trim_end_matches('/')) }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("identity", &self.identity.public())
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}
