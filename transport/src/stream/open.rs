//! How a stream is opened: the WebSocket handshake, from both ends.
//!
//! Who may open one is left to the handlers.

use std::pin::Pin;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::response::{IntoResponse as _, Response};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode};
use hyper::upgrade::{OnUpgrade, Parts as Freed, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;

use super::{Frames, Keepalive, Liveness, Reads, socket};
use crate::call_error::CallError;
use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::io::{BoxIo, Counted};
use crate::problem::ProblemReply;
use crate::server::{Peer, Stopping, Via};

/// Opens a stream from `path` of a peer.
pub async fn connect_stream(
    client: &Client,
    to: &Endpoint,
    path: &str,
) -> Result<Frames, CallError> {
    connect_stream_with(client, to, path, Liveness::default()).await
}

/// Opens a stream from `path` of a peer, and asks it for signs of life as often as `liveness` says.
pub async fn connect_stream_with(
    client: &Client,
    to: &Endpoint,
    path: &str,
    liveness: Liveness,
) -> Result<Frames, CallError> {
    connect(client, to, path, liveness, Reads::Ahead).await
}

/// As [`connect_stream_with`], for an application that does nothing but read: it costs less, and the
/// peer's pings are answered only while the application waits for a frame.
pub async fn connect_stream_direct(
    client: &Client,
    to: &Endpoint,
    path: &str,
    liveness: Liveness,
) -> Result<Frames, CallError> {
    connect(client, to, path, liveness, Reads::Directly).await
}

async fn connect(
    client: &Client,
    to: &Endpoint,
    path: &str,
    liveness: Liveness,
    reads: Reads,
) -> Result<Frames, CallError> {
    let key = generate_key();
    let headers = vec![
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")),
        (SEC_WEBSOCKET_KEY, HeaderValue::from_str(&key).expect("base64 is a valid header")),
    ];
    let (call, response, peer) = client.upgrade(to, path, headers).await?;
    let status = response.status().as_u16();
    let bad = |why: &str| CallError::BadAnswer { call: call.clone(), status, why: why.to_owned() };
    let accept = response.headers().get(SEC_WEBSOCKET_ACCEPT);
    if accept.is_none_or(|accept| accept.as_bytes() != derive_accept_key(key.as_bytes()).as_bytes())
    {
        return Err(bad("it did not accept our WebSocket key"));
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(|e| bad(&e.to_string()))?;
    let Freed { io, read_buf, .. } =
        upgraded.downcast::<TokioIo<BoxIo>>().map_err(|_| bad("its connection is not ours"))?;
    let io = Counted { io: io.into_inner(), _permit: None };
    let socket = socket::upgraded(io, read_buf, Role::Client).await;
    let via = match peer {
        Some(_) => Via::Tls,
        None if to.url.starts_with("unix:") => Via::Unix,
        None => Via::Plain,
    };
    let peer = Peer { key: peer, via };
    Ok(Frames::start(socket, peer, None, (client.keepalive(), liveness), reads))
}

/// A request to open a stream; an extractor. It fails with a problem when it is no such request.
pub struct Upgrade {
    on_upgrade: OnUpgrade,
    accept: String,
    peer: Peer,
    stopping: CancellationToken,
    keepalive: Keepalive,
    liveness: Liveness,
    reads: Reads,
    over: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Upgrade {
    /// Answers yes and runs `handle` with the stream, in a task of its own. The stream is closed
    /// with [`close::STOPPING`](super::close::STOPPING) when the server stops.
    pub fn frames<F, Fut>(self, handle: F) -> Response
    where
        F: FnOnce(Frames) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send,
    {
        let Self { on_upgrade, accept, peer, stopping, keepalive, liveness, reads, over } = self;
        tokio::spawn(async move {
            let freed = match on_upgrade.await.map(Upgraded::downcast::<TokioIo<Counted>>) {
                Ok(Ok(freed)) => freed,
                Ok(Err(_)) => return tracing::error!("open stream to {peer}: not our connection"),
                Err(error) => return tracing::debug!("open stream to {peer}: {error}"),
            };
            let Freed { io, read_buf, .. } = freed;
            let socket = socket::upgraded(io.into_inner(), read_buf, Role::Server).await;
            let liveness = (&keepalive, liveness);
            let Some(over) = over else {
                return handle(Frames::start(socket, peer, Some(stopping), liveness, reads)).await;
            };
            let closes = stopping.child_token();
            let frames = Frames::start(socket, peer, Some(closes.clone()), liveness, reads);
            let closed_early = async {
                over.await;
                closes.cancel();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = handle(frames) => {}
                () = closed_early => {}
            }
        });
        let headers = [
            (CONNECTION, "upgrade".to_owned()),
            (UPGRADE, "websocket".to_owned()),
            (SEC_WEBSOCKET_ACCEPT, accept),
        ];
        (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
    }

    /// The stream is closed as well when this ends: such as the peer's right to it.
    #[must_use]
    pub fn until(self, over: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { over: Some(Box::pin(over)), ..self }
    }

    /// With another ping interval than 15 s.
    #[must_use]
    pub fn with_ping_interval(self, ping_interval: Duration) -> Self {
        Self { liveness: Liveness::of_interval(ping_interval), ..self }
    }

    /// For a handler that does nothing but read, or waits for a frame beside all else that it does:
    /// it costs less, and the peer's pings are answered only while it does.
    #[must_use]
    pub fn read_directly(self) -> Self {
        Self { reads: Reads::Directly, ..self }
    }
}

impl<S: Sync> FromRequestParts<S> for Upgrade {
    type Rejection = ProblemReply;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemReply> {
        let peer = Peer::from_request_parts(parts, state).await?;
        let stopping = parts.extensions.get::<Stopping>().cloned().unwrap_or_default().0;
        let keepalive = parts.extensions.get::<Keepalive>().cloned().unwrap_or_default();
        let is_upgrade = header_has(parts, &CONNECTION, "upgrade")
            && header_has(parts, &UPGRADE, "websocket")
            && header_has(parts, &SEC_WEBSOCKET_VERSION, "13");
        let key = parts.headers.get(SEC_WEBSOCKET_KEY).filter(|_| is_upgrade);
        let accept = key.map(|key| derive_accept_key(key.as_bytes()));
        let on_upgrade = parts.extensions.remove::<OnUpgrade>();
        match (accept, on_upgrade) {
            (Some(accept), Some(on_upgrade)) => {
                let (liveness, reads) = (Liveness::default(), Reads::Ahead);
                let over = None;
                Ok(Self { on_upgrade, accept, peer, stopping, keepalive, liveness, reads, over })
            }
            _ => {
                let detail = "this path is a stream: open it as a WebSocket (version 13)";
                Err(ProblemReply::new(426, "upgrade-required", detail))
            }
        }
    }
}

/// Whether a header names this word in its list.
pub(crate) fn header_has(parts: &Parts, name: &HeaderName, word: &str) -> bool {
    let values = parts.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(word))
}
