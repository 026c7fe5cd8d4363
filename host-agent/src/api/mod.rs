//! The agent's HTTP interface: paths, permissions, and nothing decided.
//!
//! Every handler checks the caller's right, turns the request into one input for the core, and the
//! core's answer into a status. Reads are answered from what is published.

mod config;
mod console;
mod domains;
mod events;
mod images;
mod incoming;
mod jobs;
mod networks;
mod offers;
mod openapi;
mod pools;
mod screen;
mod usage;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request as HttpRequest, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use hypervisor::Hypervisor;
use protocol::api::Health;
use protocol::host::{Host, Inventory};
use protocol::id::{JobId, TenantId};
use protocol::job::{Job, JobKind, JobSpec};
use protocol::refusal::Refusal;
use protocol::signed::PublicKey;
use protocol::trust::{Right, Trust};
use tokio::sync::{Semaphore, mpsc, oneshot};
use transport::problem::finish;
use transport::{Clock, Json, Now, Peer, ProblemReply, Via};

pub use self::openapi::openapi;
use crate::channel::Channels;
use crate::core::{Reply, Request};
use crate::feed::Feed;
use crate::keeper::Warden;
use crate::library::Library;
use crate::meter::Meter;
use crate::networks::Networks;
use crate::outage::Outage;
use crate::recorder::Recorders;
use crate::shell::{InForce, Post, TrustInForce};
use crate::storage::Storage;
use crate::store::Damage;
use crate::trust_file::TrustFile;

/// Largest image, however it comes: the largest file of ext4. Whether there is room is looked at first.
pub(crate) const IMAGE_BYTES_MAX: u64 = 16 << 40;
/// Largest one that somebody sends without saying how large it is.
pub(crate) const UNTOLD_BYTES_MAX: u64 = 64 << 30;

/// Images given to others at a time: enough to fill a network, and the guests' disks go on.
pub(crate) const GIVEN_AT_ONCE: usize = 8;

/// Largest trust document: some thousand hosts. Anybody may send one.
const TRUST_BYTES_MAX: usize = 256 << 10;

/// What handlers need.
#[derive(Clone)]
pub(crate) struct Api {
    /// To the core.
    pub posts: mpsc::Sender<Post>,
    /// What is published.
    pub feed: Arc<Feed>,
    /// Who may do what.
    pub trust: TrustInForce,
    /// Logs.
    pub storage: Storage,
    /// Images.
    pub library: Library,
    /// Networks.
    pub networks: Networks,
    /// Limits images being copied from here.
    pub giving: Arc<Semaphore>,
    /// What guests use.
    pub meter: Meter,
    /// For consoles.
    pub hv: Arc<dyn Hypervisor>,
    /// For consoles that libvirt keeps no log of.
    pub recorders: Recorders,
    /// For guests that arrive.
    pub channels: Channels,
    /// This host's key.
    pub key: PublicKey,
    /// Drawn at this start of the agent.
    pub life: String,
    /// Files of the ledger that were damaged and mended.
    pub damage: Arc<[Damage]>,
    /// Whether libvirt answers.
    pub outage: Arc<Outage>,
    /// Whether the trust document is where the keeper reads it.
    pub trust_file: Arc<TrustFile>,
    /// Whether the keeper is well.
    pub warden: Arc<Warden>,
    /// For people who compare clocks.
    pub clock: Clock,
}

/// The routes.
pub(crate) fn router(api: Api) -> Router {
    let bytes_max = usize::try_from(IMAGE_BYTES_MAX).unwrap_or(usize::MAX);
    let image = get(images::show).put(images::put_image).delete(images::remove);
    let image = image.layer(DefaultBodyLimit::max(bytes_max));
    let trust = get(config::show_trust).put(config::put_trust);
    let trust = trust.layer(DefaultBodyLimit::max(TRUST_BYTES_MAX));
    let router = Router::new()
        .route("/v1/health", get(health))
        .route("/v1/openapi.json", get(openapi::show))
        .route("/v1/host", get(host))
        .route("/v1/inventory", get(inventory))
        .route("/v1/events", get(events::follow))
        .route("/v1/usage", get(usage::show))
        .route("/metrics", get(usage::metrics))
        .route("/v1/offers", get(offers::list).post(offers::make))
        .route("/v1/offers/{epoch}/{num}", delete(offers::void))
        .route("/v1/domains/{domain}", get(domains::show))
        .route("/v1/jobs", get(jobs::list))
        .route("/v1/jobs/{id}", get(jobs::show).put(jobs::put_job).delete(jobs::delete_job))
        .route("/v1/jobs/{id}/stop", post(jobs::stop))
        .route("/v1/jobs/{id}/pause", post(jobs::pause))
        .route("/v1/jobs/{id}/resume", post(jobs::resume))
        .route("/v1/jobs/{id}/save", post(jobs::save))
        .route("/v1/jobs/{id}/reset", post(jobs::reset))
        .route("/v1/jobs/{id}/reboot", post(jobs::reboot))
        .route("/v1/jobs/{id}/protect", post(jobs::protect))
        .route("/v1/jobs/{id}/unprotect", post(jobs::unprotect))
        .route("/v1/jobs/{id}/rank", post(jobs::rank))
        .route("/v1/jobs/{id}/release", post(jobs::release))
        .route("/v1/jobs/{id}/resize", post(jobs::resize))
        .route("/v1/jobs/{id}/resize/undo", post(jobs::undo_resize))
        .route(
            "/v1/jobs/{id}/snapshots/{snapshot}",
            get(jobs::show_snapshot).put(jobs::take_snapshot).delete(jobs::delete_snapshot),
        )
        .route("/v1/jobs/{id}/snapshots/{snapshot}/revert", post(jobs::revert))
        .route("/v1/jobs/{id}/migrate", post(jobs::migrate))
        .route("/v1/jobs/{id}/migrate/cancel", post(jobs::cancel_migration))
        .route("/v1/jobs/{id}/handoff", post(jobs::take_handoff))
        .route("/v1/jobs/{id}/incoming/{lane}", get(incoming::open))
        .route("/v1/jobs/{id}/console", get(console::open))
        .route("/v1/jobs/{id}/vnc", get(screen::vnc))
        .route("/v1/jobs/{id}/screenshot", get(screen::screenshot))
        .route("/v1/jobs/{id}/log", get(jobs::service_log))
        .route("/v1/images", get(images::list))
        .route("/v1/images/{name}", image)
        .route("/v1/images/{name}/fetch", post(images::fetch))
        .route("/v1/image-files/{sha256}", get(images::give))
        .route("/v1/networks", get(networks::list))
        .route(
            "/v1/networks/{name}",
            get(networks::show).put(networks::put_network).delete(networks::remove),
        )
        .route("/v1/config/trust", trust)
        .route("/v1/config/intent", put(config::put_intent).delete(config::delete_intent))
        .route("/v1/config/history", get(config::show_history).put(config::put_history))
        .route("/v1/config/pools", get(pools::show_config).put(pools::put_config))
        .route("/v1/pools/{pool}/volumes", get(pools::content))
        .route("/v1/pools/{pool}/volumes/{job}", delete(pools::remove))
        .route("/v1/pools/{pool}/deleted/{entry}/restore", post(pools::restore))
        .layer(middleware::from_fn_with_state(api.clone(), refuse_strangers))
        .with_state(api);
    finish(router)
}

/// With trust, nobody reads the body of a stranger's request. Health and what there is to ask are everybody's,
/// and a trust document is believed for its signature.
async fn refuse_strangers(
    State(api): State<Api>,
    peer: Peer,
    request: HttpRequest,
    next: Next,
) -> Result<Response, ProblemReply> {
    match request.uri().path() {
        "/v1/health" | "/v1/openapi.json" | "/v1/config/trust" => {}
        "/metrics" => api.permit(peer, Right::Scrape)?,
        _ => api.permit(peer, Right::Read)?,
    }
    Ok(next.run(request).await)
}

impl Api {
    /// Lets the caller through, or says why not. Without trust everybody may do everything; root
    /// on this machine always may.
    fn permit(&self, peer: Peer, right: Right) -> Result<(), ProblemReply> {
        permit(self.trust.borrow().as_ref(), peer, right).map_err(ProblemReply::from)
    }

    /// The same for what is done to a job, or shown of it: whoever may run jobs may, and a user of its tenant.
    /// Services are Ostler's own: only an operator starts and stops them.
    fn permit_over(&self, peer: Peer, job: &JobId) -> Result<(), ProblemReply> {
        let right = match self.feed.job(job) {
            Some(job) => right_over(&job.spec),
            None => RightOver::Any(Right::Run),
        };
        permit_over(self.trust.borrow().as_ref(), peer, &right).map_err(ProblemReply::from)
    }

    /// Ends when the caller loses the right: a stream that is open must not outlive it.
    fn forbidden(&self, peer: Peer, right: Right) -> impl Future<Output = ()> + Send + 'static {
        let mut trust = self.trust.subscribe();
        async move {
            let is_lost =
                |in_force: &Option<InForce>| permit(in_force.as_ref(), peer, right).is_err();
            // Without a sender there is no agent any more.
            let _ = trust.wait_for(is_lost).await;
        }
    }

    /// The same for what is shown of a job: also when there is another one of its name, or none.
    fn forbidden_over_job(
        &self,
        peer: Peer,
        job: &Job,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (mut trust, mut changes) = (self.trust.subscribe(), self.feed.changes());
        let (feed, id, tenant) = (Arc::clone(&self.feed), job.id.clone(), job.spec.tenant.clone());
        let right = right_over(&job.spec);
        async move {
            let is_there = || feed.job(&id).is_some_and(|job| job.spec.tenant == tenant);
            while is_there()
                && permit_over(trust.borrow_and_update().as_ref(), peer, &right).is_ok()
            {
                let is_over = tokio::select! {
                    changed = trust.changed() => changed.is_err(),
                    changed = changes.changed() => changed.is_err(),
                };
                // Without a sender there is no agent any more.
                if is_over {
                    return;
                }
            }
        }
    }

    fn trust(&self) -> Option<Arc<Trust>> {
        self.trust_in_force().map(|in_force| in_force.trust)
    }

    fn trust_in_force(&self) -> Option<InForce> {
        self.trust.borrow().clone()
    }

    /// Asks the core.
    async fn ask(&self, request: Request) -> Result<Reply, ProblemReply> {
        let (sender, receiver) = oneshot::channel();
        let stopping = || ProblemReply::new(503, "stopping", "this agent is stopping; ask again");
        let post = Post::Request(Box::new(request), sender, transport::traces::here());
        self.posts.send(post).await.map_err(|_| stopping())?;
        let answer: Result<Reply, Refusal> = receiver.await.map_err(|_| stopping())?;
        answer.map_err(ProblemReply::from)
    }
}

fn permit(in_force: Option<&InForce>, peer: Peer, right: Right) -> Result<(), Refusal> {
    permit_over(in_force, peer, &RightOver::Any(right))
}

/// What somebody needs.
#[derive(Debug, Clone)]
enum RightOver {
    /// This right, over everything.
    Any(Right),
    /// To run VMs, at least this tenant's.
    VmsOf(TenantId),
}

fn right_over(spec: &JobSpec) -> RightOver {
    match spec.kind {
        JobKind::Vm(_) | JobKind::OneOff(_) => RightOver::VmsOf(spec.tenant.clone()),
        // Operators delegate, and controllers do what they say; users have the VMs.
        JobKind::Budget(_) => RightOver::Any(Right::Run),
        JobKind::Service(_) => RightOver::Any(Right::Govern),
    }
}

fn permit_over(in_force: Option<&InForce>, peer: Peer, right: &RightOver) -> Result<(), Refusal> {
    match in_force {
        Some(InForce { trust, .. }) if peer.via != Via::Unix => match right {
            RightOver::Any(right) => trust.permit(peer.key.as_ref(), *right),
            RightOver::VmsOf(tenant) => trust.permit_over(peer.key.as_ref(), tenant),
        },
        _ => Ok(()),
    }
}

/// An agent's health, with what tells it from a copy of itself and its clock from ours.
#[derive(serde::Serialize, schemars::JsonSchema)]
struct AgentHealth {
    #[serde(flatten)]
    health: Health,
    life: String,
    wall_ms: u64,
    /// What somebody should look after on this host, although all goes on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ailments: Vec<String>,
}

async fn health(State(api): State<Api>) -> Json<AgentHealth> {
    let health = Health {
        role: "agent".to_owned(),
        is_ready: true,
        key: api.key,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        trust_version: api.trust().map(|trust| trust.version),
        waiting_for: Vec::new(),
    };
    let Now { mono_ms, wall_ms } = api.clock.now();
    let damage = api.damage.iter().map(ToString::to_string);
    let ailments = damage.chain(api.outage.ailment(mono_ms)).chain(api.trust_file.ailment());
    let ailments = ailments.chain(api.warden.ailments(mono_ms)).collect();
    Json(AgentHealth { health, life: api.life.clone(), wall_ms, ailments })
}

async fn host(State(api): State<Api>, peer: Peer) -> Result<Json<Host>, ProblemReply> {
    api.permit(peer, Right::Read)?;
    Ok(Json(Host::clone(&api.feed.host())))
}

async fn inventory(State(api): State<Api>, peer: Peer) -> Result<Json<Inventory>, ProblemReply> {
    api.permit(peer, Right::Read)?;
    Ok(Json(api.feed.inventory()))
}
