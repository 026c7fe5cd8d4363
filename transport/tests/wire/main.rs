//! The crate as its users meet it: real sockets on loopback, real keys, nothing mocked.

mod discovery;
mod downloads;
mod pipes;
mod requests;
mod streams;
mod traces;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::task::JoinHandle;
use transport::{CancellationToken, Client, Endpoint, Identity, Listen, Server};

/// Longest wait for anything; reaching it is a failure.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A server under test; it is stopped when dropped.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    pub(crate) identity: Arc<Identity>,
    pub(crate) stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn tls(router: Router) -> Self {
        Self::start(Listen::Tls(anywhere()), router).await
    }

    pub(crate) async fn start(listen: Listen, router: Router) -> Self {
        let identity = Arc::new(Identity::ephemeral());
        let server = Server::bind(listen, Arc::clone(&identity)).await.unwrap();
        let addr = server.local_addr().unwrap_or_else(anywhere);
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.serve(router, stop.clone()));
        Self { addr, identity, stop, task }
    }

    pub(crate) fn https(&self) -> Endpoint {
        Endpoint::of_key(format!("https://{}", self.addr), self.identity.public())
    }

    pub(crate) fn http(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) async fn stopped(mut self) {
        self.stop.cancel();
        within((&mut self.task).into_future()).await.unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn client() -> Client {
    Client::new(Arc::new(Identity::ephemeral()))
}

pub(crate) fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// An address where nobody listens, for now.
pub(crate) fn free_addr() -> SocketAddr {
    std::net::TcpListener::bind(anywhere()).unwrap().local_addr().unwrap()
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("it should have happened long ago")
}
