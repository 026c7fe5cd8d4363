//! The accept loop: from a listening address to an axum router that knows who is asking.
//!
//! Decides limits in time and number, and proves the peer's key before a request is read. What a
//! key may do is left to the handlers, who get it as [`Peer`].
//!
//! ```text
//! accept ─> place free? ─> TLS (5 s) ─> request head (30 s) ─> handler ─┐
//!   │           no: closed    plain HTTP: 400        ^                  │
//!   stop: no new ones, 10 s for those under way      └──── next ────────┘
//! ```

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts};
use http::Request;
use http::request::Parts;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use protocol::signed::PublicKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::body::RequestBody;
use crate::identity::Identity;
use crate::io::{BoxIo, Counted};
use crate::problem::ProblemReply;
use crate::stream::Keepalive;
use crate::{tcp, tls};

/// First byte of a TLS handshake record; no HTTP method starts with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// How long to rest when the system is out of sockets, instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a client hears who speaks HTTP to a TLS port.
const USE_HTTPS: &str = concat!(
    "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\nconnection: close\r\n",
    "content-length: 146\r\n\r\n",
    r#"{"type":"urn:ostler:use-https","title":"use https","status":400,"#,
    r#""detail":"this port speaks TLS 1.3 with keys on both sides: use https://"}"#,
    "        "
);

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// TCP with TLS; both sides prove a key.
    Tls(SocketAddr),
    /// A socket file for the owner alone (mode 0600): whoever can open it is trusted as local root.
    Unix(PathBuf),
    /// TCP without any proof; for discovery, where nothing secret travels.
    Plain(SocketAddr),
}

/// How a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// By TLS: the peer proved its key.
    Tls,
    /// By the local socket file: the peer is the owner of this process, or root.
    Unix,
    /// By plain TCP: the peer is anybody.
    Plain,
}

/// Who is asking; an extractor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The key it proved; always there with [`Via::Tls`], never otherwise.
    pub key: Option<PublicKey>,
    /// How it came in.
    pub via: Via,
}

/// The server's own wish to stop, for handlers that last (streams); an extractor.
#[derive(Debug, Clone, Default)]
pub struct Stopping(pub CancellationToken);

/// What a server allows. The defaults suit every role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open connections, streams included; more are closed at once.
    pub connections_max: usize,
    /// Largest request body; a route may set its own `DefaultBodyLimit`.
    pub body_bytes_max: usize,
    /// How long a client may take to prove its key.
    pub tls_accept: Duration,
    /// How long a client may take to send a request's head, or stay idle between two requests.
    pub header_read: Duration,
    /// How long a client may take to send 16 KiB of a request's body, or the rest of it.
    pub body_stall: Duration,
    /// How long requests under way may take once the server stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A thousand followers and their requests; each costs two descriptors at most.
            connections_max: 4096,
            body_bytes_max: 1 << 20,
            tls_accept: Duration::from_secs(5),
            header_read: Duration::from_secs(30),
            body_stall: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
#[error("listen on {addr}")]
pub struct BindError {
    /// Where.
    pub addr: Listen,
    /// What the system said.
    pub source: io::Error,
}

/// A listening socket, not yet answering.
pub struct Server {
    listener: Listener,
    limits: Limits,
}

enum Listener {
    Tls(TcpListener, TlsAcceptor),
    Unix(UnixListener),
    Plain(TcpListener),
}

enum Accepted {
    Tls(TcpStream, TlsAcceptor),
    Unix(UnixStream),
    Plain(TcpStream),
}

impl Server {
    /// Takes the address. Clients can connect from now on; they are answered by [`Server::serve`].
    pub async fn bind(addr: Listen, identity: Arc<Identity>) -> Result<Self, BindError> {
        let bound = match &addr {
            Listen::Tls(addr) => TcpListener::bind(addr).await.map(|listener| {
                Listener::Tls(listener, TlsAcceptor::from(Arc::new(tls::server_config(&identity))))
            }),
            Listen::Unix(path) => bind_unix(path).map(Listener::Unix),
            Listen::Plain(addr) => TcpListener::bind(addr).await.map(Listener::Plain),
        };
        match bound {
            Ok(listener) => Ok(Self { listener, limits: Limits::default() }),
            Err(source) => Err(BindError { addr, source }),
        }
    }

    /// With other limits than the default ones.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The TCP address in use (with the real port when 0 was asked for); `None` on a socket file.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.listener {
            Listener::Tls(listener, _) | Listener::Plain(listener) => listener.local_addr().ok(),
            Listener::Unix(_) => None,
        }
    }

    /// Answers until `shutdown`, then lets requests under way finish, for a bounded time.
    pub async fn serve(self, router: Router, shutdown: CancellationToken) {
        let Self { listener, limits } = self;
        let router = router.layer(DefaultBodyLimit::max(limits.body_bytes_max));
        let places = Arc::new(Semaphore::new(limits.connections_max));
        let keepalive = Keepalive::default();
        let tracker = TaskTracker::new();
        let cutoff = CancellationToken::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!("accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&places).try_acquire_owned() else {
                tracing::warn!(limit = limits.connections_max, "too many connections: closed one");
                continue;
            };
            let (router, stopping) = (router.clone(), shutdown.clone());
            let keepalive = keepalive.clone();
            let connection = Connection { router, limits, permit, stopping, keepalive };
            let cutoff = cutoff.clone();
            tracker.spawn(async move {
                tokio::select! {
                    () = cutoff.cancelled() => {}
                    () = connection.run(stream) => {}
                }
            });
        }
        drop(listener);
        tracker.close();
        if timeout(limits.drain, tracker.wait()).await.is_err() {
            tracing::warn!(open = tracker.len(), "connections did not finish in time: cut");
            cutoff.cancel();
            tracker.wait().await;
        }
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Listener::Tls(listener, acceptor) => {
                let (stream, _) = listener.accept().await?;
                Ok(Accepted::Tls(stream, acceptor.clone()))
            }
            Listener::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0)),
            Listener::Plain(listener) => Ok(Accepted::Plain(listener.accept().await?.0)),
        }
    }
}

/// One connection's share of the server.
struct Connection {
    router: Router,
    limits: Limits,
    permit: OwnedSemaphorePermit,
    stopping: CancellationToken,
    keepalive: Keepalive,
}

impl Connection {
    async fn run(self, stream: Accepted) {
        // Handshakes happen here, in the connection's own task: a slow one delays nobody.
        match prove(stream, self.limits.tls_accept).await {
            Ok(Some((io, peer))) => self.answer(io, peer).await,
            Ok(None) => {}
            Err(error) => tracing::debug!("greet a client: {error}"),
        }
    }

    async fn answer(self, io: BoxIo, peer: Peer) {
        let Self { router, limits, permit, stopping, keepalive } = self;
        let stop = Stopping(stopping.clone());
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(stop.clone());
            request.extensions_mut().insert(keepalive.clone());
            let request = request.map(|body| RequestBody::new(body, limits.body_stall));
            let router = router.clone();
            async move { Ok::<_, Infallible>(infallible(router.oneshot(request).await)) }
        });
        let io = TokioIo::new(Counted { io, _permit: Some(permit) });
        let mut http = hyper::server::conn::http1::Builder::new();
        // Without the timer the time-out panics; without the time-out idle clients stay for ever.
        http.timer(TokioTimer::new()).header_read_timeout(limits.header_read);
        let mut connection = pin!(http.serve_connection(io, service).with_upgrades());
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!("connection of {peer} ended: {error}");
        }
    }
}

/// Finds out who is there; `None` when it was somebody who must speak TLS and did not.
async fn prove(accepted: Accepted, limit: Duration) -> io::Result<Option<(BoxIo, Peer)>> {
    match accepted {
        Accepted::Unix(stream) => Ok(Some((Box::new(stream), Peer { key: None, via: Via::Unix }))),
        Accepted::Plain(stream) => {
            tcp::set_up(&stream)?;
            Ok(Some((Box::new(stream), Peer { key: None, via: Via::Plain })))
        }
        Accepted::Tls(stream, acceptor) => {
            tcp::set_up(&stream)?;
            timeout(limit, prove_tls(stream, acceptor)).await?
        }
    }
}

async fn prove_tls(stream: TcpStream, acceptor: TlsAcceptor) -> io::Result<Option<(BoxIo, Peer)>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first[0] != TLS_HANDSHAKE {
        say_use_https(stream).await?;
        return Ok(None);
    }
    let stream = acceptor.accept(stream).await?;
    let key = tls::peer_key(stream.get_ref().1.peer_certificates());
    // The handshake demands a certificate; should that ever not hold, nobody gets in.
    let key = key.ok_or_else(|| io::Error::other("client proved no key"))?;
    Ok(Some((Box::new(stream), Peer { key: Some(key), via: Via::Tls })))
}

async fn say_use_https(mut stream: TcpStream) -> io::Result<()> {
    // Reading first keeps the kernel from resetting the connection over unread bytes, which
    // could destroy the answer before the client sees it.
    let mut head = [0; 8192];
    let _ = stream.read(&mut head).await?;
    stream.write_all(USE_HTTPS.as_bytes()).await?;
    stream.shutdown().await
}

/// Puts a socket file in place, over one that nobody serves any more.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a file that is no socket is there",
            ));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves it"));
        }
        _ => {}
    }
    // Bound under another name and renamed, so that nobody can connect before the mode is set.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let _ = std::fs::remove_file(&new);
    let listener = UnixListener::bind(&new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&new, path)?;
    Ok(listener)
}

fn infallible<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = ProblemReply;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ProblemReply> {
        let missing =
            || ProblemReply::new(500, "internal", "this router is not served by a Server");
        parts.extensions.get().copied().ok_or_else(missing)
    }
}

impl<S: Sync> FromRequestParts<S> for Stopping {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.key, self.via) {
            (Some(key), _) => write!(f, "key {key}"),
            (None, Via::Unix) => f.write_str("local socket"),
            (None, Via::Plain | Via::Tls) => f.write_str("anybody"),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tls(addr) => write!(f, "https://{addr}"),
            Listen::Plain(addr) => write!(f, "http://{addr}"),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
