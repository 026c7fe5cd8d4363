//! Connections to peers: opened, proved, kept for a while, used again.
//!
//! Decides how a connection is made, that the peer's key is compared with the expected one before a
//! byte of a request leaves, and how long and how many idle ones are kept. What is asked over them
//! is left to the client.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use protocol::signed::PublicKey;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::call_error::NotSent;
use crate::certificate::Certificate;
use crate::clock::Clock;
use crate::endpoint::{Endpoint, Target, check_pin};
use crate::identity::Identity;
use crate::io::BoxIo;
use crate::{tcp, tls};

/// Idle connections kept to one peer; more at once are opened and closed as needed.
const IDLE_MAX: usize = 8;

/// How long an idle connection is kept: well under the 30 s after which a server closes it, so
/// that a request seldom meets a connection that is just being closed.
const IDLE_MS_MAX: u64 = 15_000;

/// How long an idle connection may take to finish its last exchange; a new one is as fast.
const READY_MAX: Duration = Duration::from_millis(20);

/// After this many returned connections the pool is swept of old ones.
const SWEEP_EVERY: u64 = 64;

/// Connections to any peers, shared by all clients of one identity.
pub(crate) struct Pool {
    tls: TlsConnector,
    clock: Clock,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
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
    pub(crate) sender: SendRequest<Body>,
    pub(crate) peer: Option<PublicKey>,
}

impl Pool {
    /// An empty pool that proves `identity` to everybody.
    pub(crate) fn new(identity: &Identity) -> Self {
        let tls = TlsConnector::from(Arc::new(tls::client_config(identity)));
        Self { tls, clock: Clock::real(), waiting: Mutex::default() }
    }

    /// A new connection.
    pub(crate) async fn connect(&self, to: &Endpoint) -> Result<Wire, NotSent> {
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
                let stream = self.prove(&authority).await?;
                let peer = tls::peer_key(stream.get_ref().1.peer_certificates());
                Ok((Box::new(stream), peer))
            }
        }
    }

    /// What the peer shows in a handshake, by a connection of its own.
    pub(crate) async fn certificate(&self, to: &Endpoint) -> Result<Certificate, NotSent> {
        let Target::Tls(authority) = Target::of(&to.url).map_err(NotSent::Unusable)? else {
            return Err(NotSent::Unusable(format!("there is no TLS at {to}")));
        };
        let stream = self.prove(&authority).await?;
        let shown = Certificate::shown(stream.get_ref().1.peer_certificates());
        check_pin(to, shown.as_ref().map(Certificate::key))?;
        shown.ok_or_else(|| NotSent::Tls(io::Error::other("no certificate was shown")))
    }

    async fn prove(&self, authority: &str) -> Result<TlsStream<TcpStream>, NotSent> {
        let stream = connect_tcp(authority).await.map_err(NotSent::Connect)?;
        self.tls.connect(tls::server_name(), stream).await.map_err(NotSent::Tls)
    }

    /// An idle connection that still works, as far as can be told without using it.
    pub(crate) async fn take(&self, to: &Endpoint) -> Option<Wire> {
        loop {
            let mut wire = self.pop(to)?;
            if let Ok(Ok(())) = timeout(READY_MAX, wire.sender.ready()).await {
                return Some(wire);
            }
        }
    }

    fn pop(&self, to: &Endpoint) -> Option<Wire> {
        let now_ms = self.clock.now().mono_ms;
        let mut waiting = self.waiting.lock().expect("no holder of this lock panics");
        let idle = waiting.idle.get_mut(to)?;
        idle.retain(|idle| idle.is_usable(now_ms));
        // The newest: the older ones get a chance to age and be closed.
        let newest = idle.pop();
        if idle.is_empty() {
            waiting.idle.remove(to);
        }
        newest.map(|idle| idle.wire)
    }

    /// Takes a connection back whose exchange has ended well.
    pub(crate) fn keep(&self, to: &Endpoint, wire: Wire) {
        let now_ms = self.clock.now().mono_ms;
        let mut waiting = self.waiting.lock().expect("no holder of this lock panics");
        waiting.returned += 1;
        if waiting.returned.is_multiple_of(SWEEP_EVERY) {
            waiting.idle.retain(|_, idle| {
                idle.retain(|idle| idle.is_usable(now_ms));
                !idle.is_empty()
            });
        }
        let idle = Idle { wire, since_ms: now_ms };
        if !idle.is_usable(now_ms) {
            return;
        }
        match waiting.idle.get_mut(to) {
            Some(others) if others.len() >= IDLE_MAX => {}
            Some(others) => others.push(idle),
            None => drop(waiting.idle.insert(to.clone(), vec![idle])),
        }
    }
}

impl Idle {
    fn is_usable(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.since_ms) <= IDLE_MS_MAX && !self.wire.sender.is_closed()
    }
}

async fn connect_tcp(authority: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(authority).await?;
    tcp::set_up(&stream)?;
    Ok(stream)
}
