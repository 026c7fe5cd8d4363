//! Raw bytes in both directions over a connection that began as HTTP, for what is no message of
//! ours: the streams of a guest on its way to another host.
//!
//! Decides the change of protocol, and that the server's stop ends a pipe. Who may open one and
//! what flows is left to the applications; that the other end may not fall silent, to TCP.

use axum::extract::FromRequestParts;
use axum::response::{IntoResponse as _, Response};
use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use crate::call_error::CallError;
use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::problem::ProblemReply;
use crate::server::{Peer, Stopping};
use crate::stream::header_has;

/// What the connection is changed to.
const PROTOCOL: &str = "ostler-pipe";

/// One end of a pipe. Dropping it closes it.
pub type Pipe = TokioIo<Upgraded>;

/// Opens a pipe to `path` of a peer.
pub async fn connect_pipe(client: &Client, to: &Endpoint, path: &str) -> Result<Pipe, CallError> {
    let headers = vec![
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (UPGRADE, HeaderValue::from_static(PROTOCOL)),
    ];
    let (call, response, _) = client.upgrade(to, path, headers).await?;
    let status = response.status().as_u16();
    match hyper::upgrade::on(response).await {
        Ok(upgraded) => Ok(TokioIo::new(upgraded)),
        Err(error) => Err(CallError::BadAnswer { call, status, why: error.to_string() }),
    }
}

/// A request to open a pipe; an extractor. It fails with a problem when it is no such request.
pub struct PipeUpgrade {
    on_upgrade: OnUpgrade,
    peer: Peer,
    stopping: CancellationToken,
}

impl PipeUpgrade {
    /// Answers yes and runs `handle` with the pipe, in a task of its own, until the server stops.
    pub fn pipe<F, Fut>(self, handle: F) -> Response
    where
        F: FnOnce(Pipe) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send,
    {
        let Self { on_upgrade, peer, stopping } = self;
        tokio::spawn(async move {
            match on_upgrade.await {
                Ok(upgraded) => {
                    stopping.run_until_cancelled(handle(TokioIo::new(upgraded))).await;
                }
                Err(error) => tracing::debug!("open pipe to {peer}: {error}"),
            }
        });
        let headers = [(CONNECTION, "upgrade"), (UPGRADE, PROTOCOL)];
        (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
    }
}

impl<S: Sync> FromRequestParts<S> for PipeUpgrade {
    type Rejection = ProblemReply;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemReply> {
        let peer = Peer::from_request_parts(parts, state).await?;
        let stopping = parts.extensions.get::<Stopping>().cloned().unwrap_or_default().0;
        let is_upgrade =
            header_has(parts, &CONNECTION, "upgrade") && header_has(parts, &UPGRADE, PROTOCOL);
        match parts.extensions.remove::<OnUpgrade>().filter(|_| is_upgrade) {
            Some(on_upgrade) => Ok(Self { on_upgrade, peer, stopping }),
            None => {
                let detail = format!("this path is a pipe: open it with `Upgrade: {PROTOCOL}`");
                Err(ProblemReply::new(426, "upgrade-required", detail))
            }
        }
    }
}
