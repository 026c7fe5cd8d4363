//! The monitor as a process: its files, its routes, and who may read.
//!
//! Decides nothing about the view: `page` and `feed` show it. Reading is open while there is no trust document, and needs
//! [`Right::Read`] after that.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::get;
use protocol::api::Health;
use protocol::job::ServiceEndpoint;
use protocol::trust::{Right, Trust};
use tokio::sync::{Semaphore, mpsc, watch};
use transport::backoff::random_unit;
use transport::discovery::{Source as DiscoverySource, follow_addresses};
use transport::identity::IdentityError;
use transport::problem::finish;
use transport::server::BindError;
use transport::stream::Upgrade;
use transport::{
    CancellationToken, Client, Clock, Endpoint, Identity, Json, Listen, Peer, ProblemReply, Server,
    durable, trust_file,
};

use crate::core::Core;
use crate::feed::{self, FeedQuery};
use crate::follower::TURNS_MAX;
use crate::openapi;
use crate::page::{self, Page, PageQuery};
use crate::sources::Sources;
use crate::writer::{self, Connections, ORDERS_MAX, Order, Published, Shown, Writer};

/// How a monitor is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where its key is kept; nothing else is.
    pub data_dir: PathBuf,
    /// Where it answers.
    pub listen: SocketAddr,
    /// The signed trust document that the agent beside it keeps.
    pub trust_file: Option<PathBuf>,
    /// Written once it answers: a [`ServiceEndpoint`].
    pub ready_file: Option<PathBuf>,
    /// Where it looks for hosts.
    pub discovery: Vec<DiscoverySource>,
    /// Other monitors to follow.
    pub follow: Vec<Endpoint>,
}

/// Why a monitor could not start.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// Its folder can't be used.
    #[error("use data directory {path}", path = .path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It has no key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It can't listen.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// It can't say that it is ready.
    #[error("write ready file {path}", path = .path.display())]
    ReadyFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) published: Arc<Published>,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) connections: Connections,
    pub(crate) client: Client,
    pub(crate) identity: Arc<Identity>,
    pub(crate) clock: Clock,
    /// Names this life of this monitor, so that nobody resumes in the stream of another.
    pub(crate) stream: String,
    trust: watch::Receiver<Option<Arc<Trust>>>,
}

impl Shared {
    /// The view as it is now, and what is known about it; as it was last, when this monitor is just
    /// ending.
    pub(crate) async fn view(&self) -> Arc<Shown> {
        let shown = writer::ask(&self.orders).await;
        shown.unwrap_or_else(|| self.published.shown.load_full())
    }
}

/// Serves until `shutdown`.
pub async fn serve(
    options: Options,
    clock: Clock,
    shutdown: CancellationToken,
) -> Result<(), MonitorError> {
    let unusable = |source| MonitorError::DataDir { path: options.data_dir.clone(), source };
    std::fs::create_dir_all(&options.data_dir).map_err(unusable)?;
    let identity = Arc::new(Identity::load_or_create(&options.data_dir.join("key"))?);
    let server = Server::bind(Listen::Tls(options.listen), Arc::clone(&identity)).await?;
    let addr = server.local_addr().unwrap_or(options.listen);

    let trust = match options.trust_file {
        Some(path) => trust_file::follow(path, shutdown.clone()),
        None => watch::channel(None).1,
    };
    let client = Client::new(Arc::clone(&identity));
    let published = Arc::new(Published::default());
    let connections = Connections::default();
    let (orders, inbox) = mpsc::channel(ORDERS_MAX);
    let writer = Writer {
        core: Core::new(clock.now().mono_ms),
        clock: clock.clone(),
        orders: inbox,
        published: Arc::clone(&published),
        connections: Arc::clone(&connections),
    };
    tokio::spawn(writer.run(shutdown.clone()));
    let sources = Sources {
        addresses: follow_addresses(options.discovery, &client, shutdown.clone()),
        client: client.clone(),
        follow: options.follow,
        trust: trust.clone(),
        orders: orders.clone(),
        published: Arc::clone(&published),
        connections: Arc::clone(&connections),
        turns: Arc::new(Semaphore::new(TURNS_MAX)),
    };
    let stop = shutdown.clone();
    tokio::spawn(async move {
        stop.run_until_cancelled(sources.run()).await;
    });

    if let Some(path) = options.ready_file {
        let endpoint = ServiceEndpoint { url: format!("https://{addr}"), key: identity.public() };
        let json = serde_json::to_vec(&endpoint).expect("an endpoint is always valid JSON");
        durable::replace(&path, &json)
            .map_err(|source| MonitorError::ReadyFile { path, source })?;
    }
    tracing::info!(%addr, key = %identity.public(), "monitor answers");
    let stream = format!("{:x}", clock.now().wall_ms ^ rand_bits());
    let shared =
        Arc::new(Shared { published, orders, connections, client, identity, clock, stream, trust });
    server.serve(router(shared), shutdown).await;
    Ok(())
}

fn router(shared: Arc<Shared>) -> Router {
    finish(
        Router::new()
            .route("/v1/health", get(health))
            .route("/v1/openapi.json", get(openapi::show))
            .route("/v1/view", get(view))
            .route("/v1/events", get(events))
            .route("/metrics", get(metrics))
            .with_state(shared),
    )
}

async fn health(State(shared): State<Arc<Shared>>) -> Json<Health> {
    let shown = shared.view().await;
    let status = &shown.status;
    Json(Health {
        role: "monitor".to_owned(),
        is_ready: status.is_complete,
        key: shared.identity.public(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        trust_version: shared.trust.borrow().as_ref().map(|trust| trust.version),
        waiting_for: status.waiting_for.clone(),
    })
}

async fn view(
    State(shared): State<Arc<Shared>>,
    peer: Peer,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page>, ProblemReply> {
    permit(&shared, peer, Right::Read)?;
    Ok(Json(page::read(&shared, query).await?))
}

async fn events(
    State(shared): State<Arc<Shared>>,
    peer: Peer,
    Query(query): Query<FeedQuery>,
    upgrade: Upgrade,
) -> Result<Response, ProblemReply> {
    permit(&shared, peer, Right::Read)?;
    let upgrade = upgrade.read_directly().until(forbidden(&shared, peer));
    Ok(upgrade.frames(move |frames| feed::run(shared, frames, query)))
}

async fn metrics(State(shared): State<Arc<Shared>>, peer: Peer) -> Result<Response, ProblemReply> {
    permit(&shared, peer, Right::Scrape)?;
    let shown = shared.view().await;
    let now_ms = shared.clock.now().mono_ms;
    let text = shared.published.metrics.text(now_ms, &shown.view, &shown.status);
    Ok(transport::metrics::reply(&text))
}

fn permit(shared: &Shared, peer: Peer, right: Right) -> Result<(), ProblemReply> {
    let trust = shared.trust.borrow().clone();
    match trust {
        Some(trust) => Ok(trust.permit(peer.key.as_ref(), right)?),
        None => Ok(()),
    }
}

/// Ends when the caller may no longer read: a stream that is open must not outlive that.
fn forbidden(shared: &Shared, peer: Peer) -> impl Future<Output = ()> + Send + 'static {
    let mut trust = shared.trust.clone();
    let is_lost = move |trust: &Option<Arc<Trust>>| {
        let permitted = trust.as_ref().map(|trust| trust.permit(peer.key.as_ref(), Right::Read));
        permitted.is_some_and(|permitted| permitted.is_err())
    };
    async move {
        if trust.wait_for(is_lost).await.is_err() {
            // Nobody tells of trust any more: the server's own end is near.
            std::future::pending::<()>().await;
        }
    }
}

/// Chance enough to tell two lives apart that began in the same millisecond.
fn rand_bits() -> u64 {
    random_unit().to_bits() << 11
}
