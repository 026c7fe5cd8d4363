//! The arbiter, or the witness, as a process: its files, its routes, and the order in which things happen.
//!
//! Decides what is asked again before a no is final; every other decision is the core's. An answer
//! is signed after its promise is in the books, never before.
//!
//! ```text
//! POST /v1/grants ── core ── yes ────────────────────────────────────────▶ signed grant
//!                      └──── no, and a host may have news ── read it ── core ──▶ either
//! ```

use std::fs::{File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path as AxumPath, Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use protocol::amounts::{Amounts, VMS_ANY};
use protocol::api::{HandoverReply, Health, TenantBook, TenantRoom};
use protocol::id::{HostId, JobId, TenantId};
use protocol::job::ServiceEndpoint;
use protocol::refusal::Refusal;
use protocol::signed::Signed;
use protocol::tenure::{self, Term};
use protocol::ticket::{Answer, HoldAt, Offer};
use protocol::trust::{Right, Seat, Trust};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use transport::discovery::{Source, follow_addresses};
use transport::identity::IdentityError;
use transport::problem::finish;
use transport::server::BindError;
use transport::{
    CancellationToken, Client, Clock, Identity, Json, Listen, Peer, ProblemReply, Server, durable,
    trust_file,
};

use crate::books::{Entry, share};
use crate::core::{Core, Effect, Input, NotMember, NotStated, Verdict, Waiting};
use crate::metrics::{self, Counts};
use crate::openapi;
use crate::reader::{Reader, Readers};

/// How long an answer waits for hosts that may have news. They answer in milliseconds, or they
/// are down and the no stands.
const NEWS_WAIT: Duration = Duration::from_millis(1_000);

/// How long an answer waits for a later trust document: one look of the trust file's follower.
const TRUST_WAIT: Duration = Duration::from_millis(700);

/// How an arbiter is set up.
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
    pub discovery: Vec<Source>,
    /// What it says that it is while no trust document names it.
    pub seat: Seat,
}

/// Why an arbiter could not start. Nothing was promised.
#[derive(Debug, thiserror::Error)]
pub enum ArbiterError {
    /// Its folder can't be used.
    #[error("use data directory {path}", path = .path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the same key, and the two would promise without knowing of each other.
    #[error("another arbiter uses data directory {path}; one key is one arbiter", path = .path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
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

/// `GET /v1/books`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct BooksReply {
    /// The slot it signs for, if any.
    pub slot: Option<u32>,
    /// The trust document it obeys.
    pub trust_version: Option<u64>,
    /// What it waits for before it grants.
    pub waiting_for: Vec<String>,
    /// What it has promised, by host and id.
    pub entries: Vec<Entry>,
    /// How much of each quota is used, at this arbiter.
    pub tenants: Vec<TenantUse>,
    /// Whom it lets run jobs that are killed when they are not covered, and how long still.
    pub leases: Vec<LeaseRow>,
}

/// A job that may lapse.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct LeaseRow {
    /// The job.
    pub job: JobId,
    /// Who has it.
    #[serde(flatten)]
    pub hold: HoldAt,
    /// How much longer, in milliseconds; 0: anybody may take it.
    pub left_ms: u64,
}

/// A tenant in the books.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct TenantUse {
    /// The tenant.
    pub tenant: TenantId,
    /// What is booked here of its jobs.
    pub used: Amounts,
    /// What its jobs take in all, as far as this arbiter knows.
    pub promised: Amounts,
    /// This arbiter's part of the quota (rule R6); `None` without a quota.
    pub share: Option<Amounts>,
}

/// What requests and readers share.
pub(crate) struct Shared {
    core: Mutex<Core>,
    readers: Mutex<Readers>,
    counts: Mutex<Counts>,
    identity: Arc<Identity>,
    clock: Clock,
    trust: watch::Receiver<Option<Arc<Trust>>>,
    /// Where the document in force is as an operator signed it.
    trust_file: Option<PathBuf>,
    seat: Seat,
}

/// Serves until `shutdown`.
pub async fn serve(
    options: Options,
    clock: Clock,
    shutdown: CancellationToken,
) -> Result<(), ArbiterError> {
    let started_ms = clock.now().mono_ms;
    let _lock = lock_data_dir(&options.data_dir)?;
    let (identity, is_fresh) = identity(&options.data_dir)?;
    let server = Server::bind(Listen::Tls(options.listen), Arc::clone(&identity)).await?;
    let addr = server.local_addr().unwrap_or(options.listen);

    let trust = match &options.trust_file {
        Some(path) => trust_file::follow(path.clone(), shutdown.clone()),
        None => watch::channel(None).1,
    };
    let shared = Arc::new(Shared {
        core: Mutex::new(Core::new(identity.public(), started_ms, !is_fresh)),
        readers: Mutex::default(),
        counts: Mutex::default(),
        identity: Arc::clone(&identity),
        clock,
        trust,
        trust_file: options.trust_file,
        seat: options.seat,
    });
    let client = Client::new(Arc::clone(&identity));
    tokio::spawn(follow_trust(Arc::clone(&shared), client, options.discovery, shutdown.clone()));

    if let Some(path) = options.ready_file {
        let endpoint = ServiceEndpoint { url: format!("https://{addr}"), key: identity.public() };
        let json = serde_json::to_vec(&endpoint).expect("an endpoint is always valid JSON");
        durable::replace(&path, &json)
            .map_err(|source| ArbiterError::ReadyFile { path, source })?;
    }
    tracing::info!(%addr, key = %identity.public(), is_fresh, "{} answers", options.seat);
    server.serve(router(shared), shutdown).await;
    Ok(())
}

/// Two processes with one key would each have their own books.
fn lock_data_dir(path: &Path) -> Result<File, ArbiterError> {
    let unusable = |source| ArbiterError::DataDir { path: path.to_owned(), source };
    std::fs::create_dir_all(path).map_err(unusable)?;
    let lock = File::create(path.join("lock")).map_err(unusable)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(ArbiterError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(unusable(source)),
    }
}

/// The key, and whether this process has made it and so has nothing to be silent about (R1).
fn identity(data_dir: &Path) -> Result<(Arc<Identity>, bool), ArbiterError> {
    let path = data_dir.join("key");
    match Identity::load(&path) {
        Ok(identity) => Ok((Arc::new(identity), false)),
        Err(IdentityError::Unreadable { source, .. })
            if source.kind() == io::ErrorKind::NotFound =>
        {
            Ok((Arc::new(Identity::load_or_create(&path)?), true))
        }
        Err(error) => Err(error.into()),
    }
}

/// Obeys the trust document and keeps one reader for each host on its roster.
async fn follow_trust(
    shared: Arc<Shared>,
    client: Client,
    discovery: Vec<Source>,
    shutdown: CancellationToken,
) {
    let addresses = follow_addresses(discovery, &client, shutdown.clone());
    let mut changes = shared.trust.clone();
    let run = async {
        loop {
            let trust = changes.borrow_and_update().clone();
            if let Some(trust) = trust {
                let mut readers = lock(&shared.readers);
                let roster = trust.roster_by_host();
                readers.retain(|host, _| roster.contains_key(host));
                for (host, key) in roster {
                    readers.entry(host).or_insert_with(|| {
                        let clock = &shared.clock;
                        Reader::start(key, &shared, &client, clock, addresses.clone(), &shutdown)
                    });
                }
                drop(readers);
                shared.tell(Input::Trust(trust));
            }
            if changes.changed().await.is_err() {
                // No trust file, so no change ever.
                return;
            }
        }
    };
    shutdown.run_until_cancelled(run).await;
    // Readers hold the shared state and it holds them.
    lock(&shared.readers).clear();
}

impl Shared {
    /// What is counted is counted here.
    pub(crate) fn count(&self) -> MutexGuard<'_, Counts> {
        lock(&self.counts)
    }

    /// Gives the core an input that asks for no answer; whether its host is to be given the trust document.
    pub(crate) fn tell(&self, input: Input) -> bool {
        let mut is_behind = false;
        for effect in self.handle(input) {
            match effect {
                Effect::ReadHost { host } => {
                    if let Some(reader) = lock(&self.readers).get(&host) {
                        reader.wake();
                    }
                }
                Effect::BringTrust { .. } => is_behind = true,
                Effect::Answer { .. } | Effect::Term { .. } | Effect::ReadTrust => {}
            }
        }
        is_behind
    }

    /// A witness keeps no books that would be out of date: it reads a host when a no may be.
    pub(crate) fn reads_when_asked(&self) -> bool {
        lock(&self.core).is_witness()
    }

    /// The trust document as an operator signed it.
    pub(crate) fn signed_trust(&self) -> Option<Signed<Trust>> {
        trust_file::read(self.trust_file.as_ref()?)
    }

    fn handle(&self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        let now_ms = self.clock.now().mono_ms;
        lock(&self.core).handle(now_ms, input, &mut effects);
        effects
    }

    /// One decision, and what may be worth waiting for before it is final.
    fn decide(&self, offer: &Signed<Offer>, wish: Option<Amounts>) -> (Verdict, Vec<HostId>, bool) {
        let (mut verdict, mut hosts, mut is_trust_old) = (None, Vec::new(), false);
        let (offer, wall_ms) = (offer.clone(), self.clock.now().wall_ms);
        for effect in self.handle(Input::Ask { request: 0, wall_ms, offer, wish }) {
            match effect {
                Effect::Answer { verdict: decided, .. } => verdict = Some(decided),
                Effect::ReadHost { host } => hosts.push(host),
                Effect::ReadTrust => is_trust_old = true,
                Effect::Term { .. } | Effect::BringTrust { .. } => {}
            }
        }
        (verdict.expect("the core answers each request at once"), hosts, is_trust_old)
    }

    async fn wait_for_news(&self, hosts: Vec<HostId>, is_trust_old: bool) {
        if is_trust_old {
            let version = lock(&self.core).trust().map(|trust| trust.version);
            let mut trust = self.trust.clone();
            let later = trust.wait_for(|t| t.as_ref().map(|t| t.version) > version);
            if let Ok(Ok(later)) = tokio::time::timeout(TRUST_WAIT, later).await
                && let Some(trust) = later.clone()
            {
                drop(later);
                self.tell(Input::Trust(trust));
            }
        }
        let now_ms = self.clock.now().mono_ms;
        let mut waiting = Vec::new();
        for host in hosts {
            if let Some(reader) = lock(&self.readers).get(&host) {
                waiting.push(reader.progress());
                reader.wake();
            }
        }
        let all_read = async {
            for mut progress in waiting {
                let _ = progress.wait_for(|p| p.asked_ms.is_some_and(|at| at >= now_ms)).await;
            }
        };
        let _ = tokio::time::timeout(NEWS_WAIT, all_read).await;
    }

    fn waiting_for(&self) -> Vec<String> {
        let waiting = lock(&self.core).waiting_for(self.clock.now().mono_ms);
        self.in_words(waiting)
    }

    fn in_words(&self, waiting: Vec<Waiting>) -> Vec<String> {
        let readers = lock(&self.readers);
        let words = |waiting| match waiting {
            Waiting::Membership(why) => format!("trust: {why}"),
            Waiting::Silence { for_ms } => format!("silence: {for_ms} ms more (rule R1)"),
            Waiting::Host(host) => {
                let progress = readers.get(&host).map(|reader| reader.progress().borrow().clone());
                let trouble = progress.and_then(|progress| progress.trouble);
                let why = trouble.as_deref().unwrap_or("not read yet");
                format!("host {host}: {why} (rule R2)")
            }
            Waiting::Agreement(host) => {
                format!("host {host}: it has not agreed to the change of arbiters yet")
            }
            Waiting::Change => "a change of arbiters by which it takes over".to_owned(),
        };
        waiting.into_iter().map(words).collect()
    }
}

fn router(shared: Arc<Shared>) -> Router {
    finish(
        Router::new()
            .route("/v1/health", get(health))
            .route("/v1/openapi.json", get(openapi::show))
            .route("/v1/books", get(books))
            .route("/v1/handover", get(handover))
            .route("/v1/grants", post(grant))
            .route("/v1/tenants/{tenant}", get(tenant_book))
            .route("/v1/tenants/{tenant}/jobs/{job}", get(tenant_room))
            .route("/v1/statements", post(state))
            .route("/v1/leases/{job}", get(lease))
            .route("/metrics", get(show_metrics))
            .with_state(shared),
    )
}

async fn health(State(shared): State<Arc<Shared>>) -> Json<Health> {
    let waiting_for = shared.waiting_for();
    let seat = lock(&shared.core).seat().map_or(shared.seat, |(seat, _)| seat);
    Json(Health {
        role: seat.to_string(),
        is_ready: waiting_for.is_empty(),
        key: shared.identity.public(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        trust_version: lock(&shared.core).trust().map(|trust| trust.version),
        waiting_for,
    })
}

async fn books(
    State(shared): State<Arc<Shared>>,
    peer: Peer,
) -> Result<Json<BooksReply>, ProblemReply> {
    permit(&shared, peer, Right::Read)?;
    let waiting_for = shared.waiting_for();
    let now_ms = shared.clock.now().mono_ms;
    let core = lock(&shared.core);
    Ok(Json(BooksReply {
        slot: core.slot().ok(),
        trust_version: core.trust().map(|trust| trust.version),
        waiting_for,
        entries: core.books().entries().cloned().collect(),
        tenants: tenants(&core),
        leases: core
            .leases()
            .iter(now_ms)
            .map(|(job, hold, left_ms)| LeaseRow { job: job.clone(), hold, left_ms })
            .collect(),
    }))
}

async fn lease(
    State(shared): State<Arc<Shared>>,
    peer: Peer,
    AxumPath(job): AxumPath<JobId>,
) -> Result<Json<Option<LeaseRow>>, ProblemReply> {
    permit(&shared, peer, Right::Read)?;
    let now_ms = shared.clock.now().mono_ms;
    let lease = lock(&shared.core).leases().of(now_ms, &job);
    Ok(Json(lease.map(|(hold, left_ms)| LeaseRow { job, hold, left_ms })))
}

/// Every tenant that has a quota or an entry, by name.
fn tenants(core: &Core) -> Vec<TenantUse> {
    let trust = core.trust();
    let with_quota = trust.iter().flat_map(|trust| trust.quota.keys());
    let mut tenants: Vec<&TenantId> = core.books().tenants().chain(with_quota).collect();
    tenants.sort();
    tenants.dedup();
    let use_of = |tenant: &TenantId| TenantUse {
        tenant: tenant.clone(),
        used: core.books().used(tenant),
        promised: core.books().promised(tenant),
        share: trust
            .and_then(|trust| Some(share(*trust.quota.get(tenant)?, trust, core.slot().ok()?))),
    };
    tenants.into_iter().map(use_of).collect()
}

async fn show_metrics(
    State(shared): State<Arc<Shared>>,
    peer: Peer,
) -> Result<Response, ProblemReply> {
    permit(&shared, peer, Right::Scrape)?;
    let now_ms = shared.clock.now().mono_ms;
    let core = lock(&shared.core);
    let text = metrics::of(now_ms, &core, &shared.count(), &tenants(&core));
    Ok(transport::metrics::reply(&text))
}

async fn handover(
    State(shared): State<Arc<Shared>>,
    peer: Peer,
) -> Result<Json<HandoverReply>, ProblemReply> {
    permit(&shared, peer, Right::Read)?;
    let ready = lock(&shared.core).ready(shared.clock.now().mono_ms);
    Ok(Json(match ready {
        Ok(ready) => {
            let ready = Some(Signed::seal(&ready, shared.identity.secret()));
            HandoverReply { ready, waiting_for: vec![] }
        }
        Err(waiting) => HandoverReply { ready: None, waiting_for: shared.in_words(waiting) },
    }))
}

/// How much it is asked to book; nothing said: what the offer's plan says, else the job's whole size.
/// Booking less than before for an offer is not possible, and more is asked for by asking again.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Wish {
    /// Virtual CPUs.
    vcpus: Option<u32>,
    /// Memory in bytes.
    memory_bytes: Option<u64>,
    /// Disk space in bytes.
    disk_bytes: Option<u64>,
    /// VMs: 1 or 0; nothing said: the one.
    vms: Option<u32>,
}

impl Wish {
    fn amounts(&self) -> Option<Amounts> {
        let Self { vcpus, memory_bytes, disk_bytes, vms } = *self;
        let is_said =
            vcpus.is_some() || memory_bytes.is_some() || disk_bytes.is_some() || vms.is_some();
        is_said.then_some(Amounts {
            vcpus: vcpus.unwrap_or(0),
            memory_bytes: memory_bytes.unwrap_or(0),
            disk_bytes: disk_bytes.unwrap_or(0),
            vms: vms.unwrap_or(VMS_ANY),
        })
    }
}

async fn grant(
    State(shared): State<Arc<Shared>>,
    peer: Peer,
    Query(wish): Query<Wish>,
    Json(offer): Json<Signed<Offer>>,
) -> Result<Json<Answer>, ProblemReply> {
    permit(&shared, peer, Right::Run)?;
    let wish = wish.amounts();
    let (mut verdict, hosts, is_trust_old) = shared.decide(&offer, wish);
    if !hosts.is_empty() || is_trust_old {
        shared.wait_for_news(hosts, is_trust_old).await;
        (verdict, _, _) = shared.decide(&offer, wish);
    }
    shared.count().answered(&verdict);
    let secret = shared.identity.secret();
    match verdict {
        Verdict::Grant(grant) => Ok(Json(Answer::Grant(Signed::seal(&grant, secret)))),
        Verdict::Denial(denial) => Ok(Json(Answer::Denial(Signed::seal(&denial, secret)))),
        Verdict::NotMember(why) => Err(no_arbiter(why)),
    }
}

/// What may be asked of a tenant's room.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct Freshness {
    /// Whether hosts are read first.
    #[serde(default)]
    fresh: bool,
}

async fn tenant_room(
    State(shared): State<Arc<Shared>>,
    peer: Peer,
    AxumPath((tenant, job)): AxumPath<(TenantId, JobId)>,
    Query(freshness): Query<Freshness>,
) -> Result<Json<TenantRoom>, ProblemReply> {
    permit(&shared, peer, Right::Read)?;
    if freshness.fresh {
        let hosts = lock(&shared.core).hosts_with_news(&tenant);
        shared.wait_for_news(hosts.into_iter().collect(), false).await;
    }
    let now_ms = shared.clock.now().mono_ms;
    let room = lock(&shared.core).tenant_room(now_ms, &tenant, &job);
    room.map(Json).map_err(no_arbiter)
}

async fn tenant_book(
    State(shared): State<Arc<Shared>>,
    peer: Peer,
    AxumPath(tenant): AxumPath<TenantId>,
) -> Result<Json<TenantBook>, ProblemReply> {
    permit(&shared, peer, Right::Read)?;
    let book = lock(&shared.core).tenant_book(&tenant);
    book.map(Json).map_err(no_arbiter)
}

fn no_arbiter(why: NotMember) -> ProblemReply {
    ProblemReply::new(503, "no-arbiter", why.to_string())
}

/// A statement is believed for its signature, whoever brings it; so no right is asked.
async fn state(
    State(shared): State<Arc<Shared>>,
    Json(statement): Json<Signed<tenure::Statement>>,
) -> Result<Json<Signed<Term>>, ProblemReply> {
    let effects = shared.handle(Input::Stated { request: 0, statement });
    let term = effects.into_iter().find_map(|effect| match effect {
        Effect::Term { term, .. } => Some(term),
        Effect::Answer { .. }
        | Effect::ReadHost { .. }
        | Effect::ReadTrust
        | Effect::BringTrust { .. } => None,
    });
    let term = term.expect("the core answers each statement at once");
    shared.count().stated(term.is_ok());
    match term {
        Ok(term) => Ok(Json(Signed::seal(&term, shared.identity.secret()))),
        Err(NotStated::NotMember(why)) => Err(no_arbiter(why)),
        Err(why) => Err(Refusal::Invalid { message: why.to_string() }.into()),
    }
}

/// Without trust everything is allowed, and nothing is granted.
fn permit(shared: &Shared, peer: Peer, right: Right) -> Result<(), ProblemReply> {
    let trust = lock(&shared.core).trust().cloned();
    match trust {
        Some(trust) => Ok(trust.permit(peer.key.as_ref(), right)?),
        None => Ok(()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}
