//! The monitor as a process: its files, its routes, and who may read.
//!
//! Decides nothing about the view. Reading is open while there is no trust document, and needs
//! [`Right::Read`] after that.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::get;
use protocol::api::{Health, HostFreshness, ViewReply};
use protocol::event::Frame;
use protocol::job::ServiceEndpoint;
use protocol::trust::{Right, Trust};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot, watch};
use transport::discovery::Source as DiscoverySource;
use transport::identity::IdentityError;
use transport::problem::finish;
use transport::server::BindError;
use transport::stream::{Frames, Upgrade, close};
use transport::{
    CancellationToken, Client, Clock, Endpoint, Identity, Json, Listen, Peer, ProblemReply, Server,
    durable, trust_file,
};

use crate::core::Core;
use crate::directory;
use crate::sources::Sources;
use crate::writer::{Connections, ORDERS_MAX, Order, Published, Subscription, Writer};

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

struct Shared {
    published: Arc<Published>,
    orders: mpsc::Sender<Order>,
    identity: Arc<Identity>,
    trust: watch::Receiver<Option<Arc<Trust>>>,
    clock: Clock,
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
        addresses: directory::follow(options.discovery, &client, shutdown.clone()),
        client,
        follow: options.follow,
        trust: trust.clone(),
        orders: orders.clone(),
        published: Arc::clone(&published),
        connections,
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
    let shared = Arc::new(Shared { published, orders, identity, trust, clock });
    server.serve(router(shared), shutdown).await;
    Ok(())
}

fn router(shared: Arc<Shared>) -> Router {
    finish(
        Router::new()
            .route("/v1/health", get(health))
            .route("/v1/view", get(view))
            .route("/v1/events", get(events))
            .with_state(shared),
    )
}

async fn health(State(shared): State<Arc<Shared>>) -> Json<Health> {
    let status = shared.published.status.load();
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
) -> Result<Json<ViewReply>, ProblemReply> {
    permit(&shared, peer)?;
    // The status first: what it says of a row is then never newer than the row.
    let status = shared.published.status.load_full();
    let view = shared.published.view.load_full();
    let now_ms = shared.clock.now().mono_ms;
    let freshness = status.hosts.iter().map(|host| HostFreshness {
        host: host.host.clone(),
        freshness: host.freshness,
        age_ms: now_ms.saturating_sub(host.heard_ms),
        path: host.path.clone(),
        trouble: host.trouble.clone(),
    });
    Ok(Json(ViewReply {
        monitor: shared.identity.public(),
        is_complete: status.is_complete,
        freshness: freshness.collect(),
        view: (*view).clone(),
    }))
}

/// What a subscriber may ask for.
#[derive(Debug, Deserialize)]
struct EventsQuery {
    /// Tell each row's age every two seconds, as a monitor that follows this one needs.
    #[serde(default)]
    ages: bool,
}

async fn events(
    State(shared): State<Arc<Shared>>,
    peer: Peer,
    Query(query): Query<EventsQuery>,
    upgrade: Upgrade,
) -> Result<Response, ProblemReply> {
    permit(&shared, peer)?;
    let orders = shared.orders.clone();
    Ok(upgrade.frames(move |frames| stream(frames, query.ages, orders)))
}

/// The view of now, then every delta after it, in order.
async fn stream(mut frames: Frames, wants_ages: bool, orders: mpsc::Sender<Order>) {
    let sender = frames.sender();
    let (reply, answer) = oneshot::channel();
    let order = Order::Subscribe { stream: sender.clone(), wants_ages, reply };
    if orders.send(order).await.is_err() {
        return frames.close(close::STOPPING, "the monitor stops").await;
    }
    let Ok(Subscription { view, ages, mut deltas }) = answer.await else { return };
    let write = async {
        for (_, row) in view.hosts() {
            sender.send(&Frame::Inventory(Box::new(row.clone().into()))).await?;
        }
        for age in &ages {
            sender.send(age).await?;
        }
        sender.send(&Frame::Current).await?;
        while let Some(delta) = deltas.recv().await {
            sender.send_text(delta.as_str()).await?;
        }
        Ok::<(), transport::stream::StreamError>(())
    };
    tokio::select! {
        // Subscribers have nothing to say; reading is how their goodbye is noticed.
        () = async { while let Some(Ok(_)) = frames.next_frame().await {} } => {}
        _ = write => {}
    }
}

fn permit(shared: &Shared, peer: Peer) -> Result<(), ProblemReply> {
    let trust = shared.trust.borrow().clone();
    match trust {
        Some(trust) => Ok(trust.permit(peer.key.as_ref(), Right::Read)?),
        None => Ok(()),
    }
}
