//! Asking a peer: one request, one answer, and an error that says whether it may have had an effect.
//!
//! Decides time-outs, the pool of connections, and that the peer's key is compared with the
//! expected one before a byte of the request leaves. Whether to ask again is left to the caller:
//!
//! ```text
//! connect ─> prove keys ─> send ─> answer's head ─> answer's body
//! └──── NotSent ────────┘└─────────── Ambiguous ───────────────┘
//!                          a problem document: Problem; anything else we can't read: BadAnswer
//! ```

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use protocol::id::HostId;
use protocol::refusal::{Problem, Refusal};
use protocol::signed::PublicKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_util::io::ReaderStream;

use crate::clock::Clock;
use crate::identity::Identity;
use crate::io::BoxIo;
use crate::{tcp, tls};

/// Largest answer that is read: a view of ten thousand jobs takes about 20 MiB.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Idle connections kept to one peer; more at once are opened and closed as needed.
const IDLE_MAX: usize = 8;

/// How long an idle connection is kept: well under the 30 s after which a server closes it, so
/// that a request seldom meets a connection that is just being closed.
const IDLE_MS_MAX: u64 = 15_000;

/// How long an idle connection may take to finish its last exchange; a new one is as fast.
const READY_MAX: Duration = Duration::from_millis(20);

/// After this many returned connections the pool is swept of old ones.
const SWEEP_EVERY: u64 = 64;

/// Bytes of a file that are read at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// Where a peer is reached, and who it has to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// `https://ADDRESS:PORT`, `unix:/PATH`, or `http://ADDRESS:PORT` for discovery.
    pub url: String,
    /// The key it must prove; `None` accepts any.
    pub key: Option<PublicKey>,
    /// The host it must be; `None` accepts any.
    pub host: Option<HostId>,
}

impl Endpoint {
    /// Whoever answers at this address. For first contact and local sockets.
    #[must_use]
    pub fn anyone(url: impl Into<String>) -> Self {
        Self { url: url.into(), key: None, host: None }
    }

    /// The holder of this key at this address.
    #[must_use]
    pub fn of_key(url: impl Into<String>, key: PublicKey) -> Self {
        Self { url: url.into(), key: Some(key), host: None }
    }

    /// This host at this address.
    #[must_use]
    pub fn of_host(url: impl Into<String>, host: HostId) -> Self {
        Self { url: url.into(), key: None, host: Some(host) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

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

/// What was tried, for the reader of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// HTTP method.
    pub method: Method,
    /// Address and path.
    pub url: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.url)
    }
}

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The peer said no, or reported a fault of its own. A refusal changed nothing there.
    #[error("{call}: {} ({} {})", .problem.detail, .problem.status, .problem.name())]
    Problem {
        /// What was tried.
        call: Call,
        /// The answer.
        problem: Box<Problem>,
    },
    /// The request never left: nothing was changed.
    #[error("{call}: not sent")]
    NotSent {
        /// What was tried.
        call: Call,
        /// Why not.
        source: NotSent,
    },
    /// The request may have arrived and the answer did not: it may have been carried out.
    #[error("{call}: sent, but {why}")]
    Ambiguous {
        /// What was tried.
        call: Call,
        /// What happened instead of an answer.
        why: String,
    },
    /// There is an answer that makes no sense; the request was probably carried out.
    #[error("{call}: answer {status} cannot be understood: {why}")]
    BadAnswer {
        /// What was tried.
        call: Call,
        /// HTTP status.
        status: u16,
        /// What is wrong with it.
        why: String,
    },
}

/// Why a request never left.
#[derive(Debug, thiserror::Error)]
pub enum NotSent {
    /// The request or its address makes no sense.
    #[error("{0}")]
    Unusable(String),
    /// No connection.
    #[error("connect")]
    Connect(#[source] io::Error),
    /// No TLS.
    #[error("agree on TLS")]
    Tls(#[source] io::Error),
    /// Nothing came of it in time.
    #[error("no connection within {0} ms")]
    TimedOut(u64),
    /// Somebody else answers at that address.
    #[error("wrong key: expected {expected}, found {found}")]
    WrongKey {
        /// The key or host that was expected.
        expected: String,
        /// The key that was proved and the host it belongs to.
        found: String,
    },
    /// The file to be sent can't be read.
    #[error("open {path}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl CallError {
    /// What was tried.
    #[must_use]
    pub fn call(&self) -> &Call {
        match self {
            CallError::Problem { call, .. }
            | CallError::NotSent { call, .. }
            | CallError::Ambiguous { call, .. }
            | CallError::BadAnswer { call, .. } => call,
        }
    }

    /// The peer's problem document, when it gave one.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            CallError::Problem { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// The peer's typed no, when it gave one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        self.problem()?.refusal.as_ref()
    }

    /// True when the same request may well be answered later, and repeating it is the way to
    /// find out what became of it. Our requests are safe to repeat.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            CallError::Problem { problem, .. } => matches!(problem.status, 429 | 503),
            CallError::NotSent { source, .. } => {
                matches!(source, NotSent::Connect(_) | NotSent::Tls(_) | NotSent::TimedOut(_))
            }
            CallError::Ambiguous { .. } => true,
            CallError::BadAnswer { .. } => false,
        }
    }

    /// True unless it is sure that the request changed nothing at the peer.
    #[must_use]
    pub fn may_have_had_effect(&self) -> bool {
        match self {
            CallError::Problem { problem, .. } => {
                problem.refusal.is_none() && problem.status >= 500
            }
            CallError::NotSent { .. } => false,
            CallError::Ambiguous { .. } | CallError::BadAnswer { .. } => true,
        }
    }
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
    shared: Arc<Shared>,
    patience: Patience,
}

struct Shared {
    identity: Arc<Identity>,
    tls: TlsConnector,
    clock: Clock,
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    idle: HashMap<Endpoint, Vec<Idle>>,
    returned: u64,
}

struct Idle {
    wire: Wire,
    since_ms: u64,
}

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A connection to a peer that is who it has to be.
pub(crate) struct Wire {
    sender: SendRequest<Body>,
    pub(crate) peer: Option<PublicKey>,
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
    to: &'a Endpoint,
    headers: Vec<(HeaderName, HeaderValue)>,
    path: PathAndQuery,
    body: Bytes,
}

impl Client {
    /// A client that proves `identity` to everybody it asks.
    #[must_use]
    pub fn new(identity: Arc<Identity>) -> Self {
        let tls = TlsConnector::from(Arc::new(tls::client_config(&identity)));
        let pool = Mutex::default();
        let shared = Arc::new(Shared { identity, tls, clock: Clock::real(), pool });
        Self { shared, patience: Patience::default() }
    }

    /// The same client, sharing connections, with other time-outs.
    #[must_use]
    pub fn with_patience(&self, patience: Patience) -> Self {
        Self { shared: Arc::clone(&self.shared), patience }
    }

    /// The same client, sharing connections, with another deadline for each call.
    #[must_use]
    pub fn with_deadline(&self, call: Duration) -> Self {
        self.with_patience(Patience { call, ..self.patience })
    }

    /// Who this client proves to be.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.shared.identity
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
        let deadline = self.deadline();
        let mut pooled = self.shared.take(ask.to).await;
        loop {
            let is_reused = pooled.is_some();
            let mut wire = match pooled.take() {
                Some(wire) => wire,
                None => self.connect(&ask.call, ask.to).await?,
            };
            let answer = timeout_at(deadline, exchange(&mut wire, &ask, ask.body())).await;
            match answer.map_err(|_| ask.late(self.patience))? {
                Ok(response) => {
                    return self.finish(&ask, wire, response, bytes_max, deadline).await;
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
        self.shared.keep(ask.to, wire);
        Ok(Answer { call: ask.call.clone(), status, headers: head.headers, body, peer })
    }

    async fn connect(&self, call: &Call, to: &Endpoint) -> Result<Wire, CallError> {
        let limit = self.patience.connect.min(self.patience.call);
        let connected = timeout(limit, self.shared.connect(to)).await;
        let late = || NotSent::TimedOut(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        connected
            .unwrap_or_else(|_| Err(late()))
            .map_err(|source| CallError::NotSent { call: call.clone(), source })
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.patience.call
    }
}

impl Shared {
    async fn connect(&self, to: &Endpoint) -> Result<Wire, NotSent> {
        let (io, peer) = self.open(to).await?;
        check_pin(to, peer)?;
        let (sender, connection) =
            handshake(TokioIo::new(io)).await.map_err(|e| NotSent::Connect(io::Error::other(e)))?;
        // Ends by itself when the sender is dropped or the peer closes; errors reach the sender.
        tokio::spawn(connection.with_upgrades());
        Ok(Wire { sender, peer })
    }

    async fn open(&self, to: &Endpoint) -> Result<(BoxIo, Option<PublicKey>), NotSent> {
        match Target::of(&to.url).map_err(NotSent::Unusable)? {
            Target::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(NotSent::Connect)?;
                Ok((Box::new(stream), None))
            }
            Target::Plain(authority) => {
                let stream = connect_tcp(&authority).await.map_err(NotSent::Connect)?;
                Ok((Box::new(stream), None))
            }
            Target::Tls(authority) => {
                let stream = connect_tcp(&authority).await.map_err(NotSent::Connect)?;
                let tls = self.tls.connect(tls::server_name(), stream).await;
                let stream = tls.map_err(NotSent::Tls)?;
                let peer = tls::peer_key(stream.get_ref().1.peer_certificates());
                Ok((Box::new(stream), peer))
            }
        }
    }

    /// An idle connection that still works, as far as can be told without using it.
    async fn take(&self, to: &Endpoint) -> Option<Wire> {
        loop {
            let mut wire = self.pop(to)?;
            if let Ok(Ok(())) = timeout(READY_MAX, wire.sender.ready()).await {
                return Some(wire);
            }
        }
    }

    fn pop(&self, to: &Endpoint) -> Option<Wire> {
        let now_ms = self.clock.now().mono_ms;
        let mut pool = self.pool.lock().expect("no holder of this lock panics");
        let waiting = pool.idle.get_mut(to)?;
        waiting.retain(|idle| idle.is_usable(now_ms));
        // The newest: the older ones get a chance to age and be closed.
        let newest = waiting.pop();
        if waiting.is_empty() {
            pool.idle.remove(to);
        }
        newest.map(|idle| idle.wire)
    }

    fn keep(&self, to: &Endpoint, wire: Wire) {
        let now_ms = self.clock.now().mono_ms;
        let mut pool = self.pool.lock().expect("no holder of this lock panics");
        pool.returned += 1;
        if pool.returned.is_multiple_of(SWEEP_EVERY) {
            pool.idle.retain(|_, waiting| {
                waiting.retain(|idle| idle.is_usable(now_ms));
                !waiting.is_empty()
            });
        }
        let idle = Idle { wire, since_ms: now_ms };
        if !idle.is_usable(now_ms) {
            return;
        }
        match pool.idle.get_mut(to) {
            Some(waiting) if waiting.len() >= IDLE_MAX => {}
            Some(waiting) => waiting.push(idle),
            None => drop(pool.idle.insert(to.clone(), vec![idle])),
        }
    }
}

impl Idle {
    fn is_usable(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.since_ms) <= IDLE_MS_MAX && !self.wire.sender.is_closed()
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
                let headers = vec![
                    (HOST, host),
                    (ACCEPT, HeaderValue::from_static("application/json")),
                    (USER_AGENT, HeaderValue::from_static(agent)),
                ];
                Ok(Self { call, to, headers, path, body })
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

fn call_of(method: Method, to: &Endpoint, path: &str) -> Call {
    Call { method, url: format!("{}{path}", to.url.trim_end_matches('/')) }
}

/// Nothing is sent to somebody who is not the one it was meant for.
fn check_pin(to: &Endpoint, found: Option<PublicKey>) -> Result<(), NotSent> {
    let is_key = to.key.is_none() || to.key == found;
    let host = found.as_ref().map(HostId::of);
    let is_host = to.host.is_none() || to.host == host;
    if is_key && is_host {
        return Ok(());
    }
    let expected = match (&to.key, &to.host) {
        (Some(key), _) if !is_key => format!("key {key}"),
        (_, Some(host)) => format!("host {host}"),
        _ => unreachable!("without a pin nothing is wrong"),
    };
    let found = match (found, host) {
        (Some(key), Some(host)) => format!("key {key} of host {host}"),
        _ => "no key, as there is no TLS on this address".to_owned(),
    };
    Err(NotSent::WrongKey { expected, found })
}

async fn connect_tcp(authority: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(authority).await?;
    tcp::set_up(&stream)?;
    Ok(stream)
}

/// What an endpoint's URL leads to.
enum Target {
    Tls(String),
    Plain(String),
    Unix(PathBuf),
}

impl Target {
    fn of(url: &str) -> Result<Self, String> {
        if let Some(path) = url.strip_prefix("unix:") {
            return Ok(Target::Unix(path.trim_start_matches("//").into()));
        }
        let uri: Uri = url.parse().map_err(|e| format!("address {url:?}: {e}"))?;
        let (Some(host), "/" | "") = (uri.host(), uri.path()) else {
            return Err(format!("address {url:?} is not https://ADDRESS:PORT or unix:/PATH"));
        };
        let port = uri.authority().map(port_of).transpose()?.flatten();
        match uri.scheme_str() {
            Some("https") => Ok(Target::Tls(format!("{host}:{}", port.unwrap_or(443)))),
            Some("http") => Ok(Target::Plain(format!("{host}:{}", port.unwrap_or(80)))),
            _ => Err(format!("address {url:?} does not start with https://, http:// or unix:")),
        }
    }

    fn host_header(&self) -> Result<HeaderValue, String> {
        match self {
            Target::Tls(authority) | Target::Plain(authority) => {
                HeaderValue::from_str(authority).map_err(|e| format!("address {authority:?}: {e}"))
            }
            Target::Unix(_) => Ok(HeaderValue::from_static("localhost")),
        }
    }
}

/// The port of an address, if it names one. `http` itself reads a wrong port as no port.
pub(crate) fn port_of(authority: &Authority) -> Result<Option<u16>, String> {
    let text = authority.as_str();
    let text = text.rsplit_once('@').map_or(text, |(_, text)| text);
    match text[authority.host().len()..].strip_prefix(':') {
        None => Ok(None),
        Some(port) => {
            port.parse().map(Some).map_err(|_| format!("port {port:?} is no number up to 65535"))
        }
    }
}

/// An error and its causes in one line, for the errors of libraries that hide the interesting part.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("identity", &self.shared.identity.public())
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}
