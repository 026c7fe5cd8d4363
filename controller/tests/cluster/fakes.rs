//! Hosts, a monitor and an arbiter in one process: real keys, real tickets, real TLS, and faults
//! on request. The hosts keep what an agent keeps: rows, offers, claims and undone tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::routing::{delete, get, post};
use protocol::admission::{Arrival, Room, admit};
use protocol::api::{OfferReply, OfferRequest, PutJob, StopJob};
use protocol::event::{Event, Fact, Frame};
use protocol::host::{Accel, Host, HypervisorFacts, Inventory};
use protocol::id::{ClusterId, Cursor, Epoch, HostId, JobId, OfferId, RunId};
use protocol::job::{Job, JobSpec, JobState, Reason, Role, RunKey};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::signed::Signed;
use protocol::ticket::{
    Answer, Denial, DenialReason, Expected, Grant, Offer, OfferStanding, Purpose, verify,
};
use protocol::trust::{Peer as TrustPeer, Right, Slot, Trust};
use protocol::usage::{GuestUsage, MachineUsage, Usage};
use protocol::vm::{OnLoss, VmSpec};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::sync::broadcast;
use transport::problem::finish;
use transport::stream::Upgrade;
use transport::{CancellationToken, Identity, Json, Listen, Peer, ProblemReply, Server};

/// What is wrong with one host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    pub(crate) is_full: bool,
    pub(crate) fails_starts: bool,
    pub(crate) hangs_starts: bool,
    /// Starts of this job fail.
    pub(crate) fails_start_of: Option<JobId>,
}

pub(crate) struct Cluster {
    pub(crate) operator: Arc<Identity>,
    pub(crate) monitor: Arc<Identity>,
    world: Arc<World>,
    folder: TempDir,
    stop: CancellationToken,
}

struct World {
    hosts: Vec<Mutex<FakeHost>>,
    trust: Mutex<Option<Arc<Trust>>>,
    events: broadcast::Sender<Frame>,
    denies_quota: AtomicBool,
    start_ms: AtomicU64,
    ran_twice: AtomicBool,
    arbiter: Arc<Identity>,
}

struct FakeHost {
    identity: Arc<Identity>,
    host: Host,
    seq: u64,
    jobs: BTreeMap<JobId, Job>,
    offers: BTreeMap<OfferId, Resources>,
    used: BTreeSet<OfferId>,
    offers_made: u64,
    claims: BTreeMap<RunId, u64>,
    undone: BTreeSet<(RunId, u32)>,
    starts: BTreeMap<JobId, u32>,
    faults: Faults,
    /// What its guests keep busy, in thousandths of a CPU, since it began.
    uses: BTreeMap<JobId, u64>,
    began: Instant,
    /// How often it was asked what its guests use.
    usage_count: u32,
}

pub(crate) fn spec() -> JobSpec {
    JobSpec::vm(VmSpec {
        vcpus: 1,
        memory_bytes: 256 << 20,
        disks: vec![],
        nics: vec![],
        ..VmSpec::default()
    })
}

impl Cluster {
    pub(crate) async fn start(count: u32) -> Self {
        let stop = CancellationToken::new();
        let folder = TempDir::new().unwrap();
        let [operator, monitor, arbiter] = [(); 3].map(|()| Arc::new(Identity::ephemeral()));
        let mut servers = Vec::new();
        let mut hosts = Vec::new();
        for n in 0..count {
            let identity = Arc::new(Identity::ephemeral());
            let server = bind(&identity).await;
            hosts.push(Mutex::new(FakeHost::new(identity, url(&server), n)));
            servers.push(server);
        }
        let world = Arc::new(World {
            hosts,
            trust: Mutex::default(),
            events: broadcast::channel(4096).0,
            denies_quota: AtomicBool::new(false),
            start_ms: AtomicU64::new(5),
            ran_twice: AtomicBool::new(false),
            arbiter: Arc::clone(&arbiter),
        });
        for (n, server) in servers.into_iter().enumerate() {
            let router = host_router(Shared { world: Arc::clone(&world), n });
            tokio::spawn(server.serve(router, stop.clone()));
        }
        let monitor_server = bind(&monitor).await;
        let arbiter_server = bind(&arbiter).await;
        let data_dir = folder.path().join("controller");
        std::fs::create_dir(&data_dir).unwrap();
        let controller = Identity::load_or_create(&data_dir.join("key")).unwrap();
        let peer = |key, role, url| TrustPeer { key, role, url };
        let peers = vec![
            peer(monitor.public(), Role::Monitor, url(&monitor_server)),
            peer(controller.public(), Role::Controller, String::new()),
        ];
        let trust = Trust {
            version: 1,
            operators: vec![operator.public()],
            arbiters: vec![Slot { slot: 0, key: arbiter.public(), url: url(&arbiter_server) }],
            roster: world.hosts.iter().map(|h| lock(h).host.key).collect(),
            peers,
            ..Trust::of_nobody(ClusterId::new("c1").unwrap())
        };
        let signed = Signed::seal(&trust, operator.secret());
        let json = serde_json::to_vec(&signed).unwrap();
        std::fs::write(folder.path().join("trust.json"), json).unwrap();
        *lock(&world.trust) = Some(Arc::new(trust));
        let shared = Arc::clone(&world);
        tokio::spawn(monitor_server.serve(monitor_router(shared), stop.clone()));
        let shared = Arc::clone(&world);
        tokio::spawn(arbiter_server.serve(arbiter_router(shared), stop.clone()));
        Self { operator, monitor, world, folder, stop }
    }

    pub(crate) fn trust_file(&self) -> PathBuf {
        self.folder.path().join("trust.json")
    }

    /// Where the controller of this cluster keeps its key and runs.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("controller")
    }

    /// Hosts by number, in the order in which plans prefer them while all are empty.
    pub(crate) fn by_preference(&self) -> Vec<usize> {
        (0..self.world.hosts.len()).collect()
    }

    pub(crate) fn set(&self, host: usize, change: impl Fn(&mut Faults)) {
        change(&mut lock(&self.world.hosts[host]).faults);
    }

    /// Hosts take guests of others, as far as a plan goes.
    pub(crate) fn can_receive(&self) {
        for host in &self.world.hosts {
            lock(host).host.hypervisor.can_receive = true;
        }
    }

    /// A guest keeps so much of a host's eight CPUs busy, in thousandths of one.
    pub(crate) fn uses(&self, host: usize, job: &str, cpu_millis: u64) {
        let id = JobId::new(job).unwrap();
        lock(&self.world.hosts[host]).uses.insert(id, cpu_millis);
    }

    /// How often hosts were asked what their guests use.
    pub(crate) fn usage_counts(&self) -> Vec<u32> {
        self.world.hosts.iter().map(|host| lock(host).usage_count).collect()
    }

    pub(crate) fn host_id(&self, host: usize) -> HostId {
        lock(&self.world.hosts[host]).host.id.clone()
    }

    pub(crate) fn set_start_ms(&self, ms: u64) {
        self.world.start_ms.store(ms, Ordering::Relaxed);
    }

    pub(crate) fn deny_quota(&self, is_denied: bool) {
        self.world.denies_quota.store(is_denied, Ordering::Relaxed);
    }

    pub(crate) fn rows(&self, job: &str) -> Vec<(usize, JobState)> {
        let id = JobId::new(job).unwrap();
        let rows = self.world.hosts.iter().enumerate();
        rows.filter_map(|(n, host)| Some((n, lock(host).jobs.get(&id)?.state))).collect()
    }

    pub(crate) fn running(&self, job: &str) -> Vec<usize> {
        let rows = self.rows(job).into_iter();
        rows.filter(|(_, state)| *state == JobState::Running).map(|(n, _)| n).collect()
    }

    pub(crate) fn starts(&self, job: &str) -> u32 {
        let id = JobId::new(job).unwrap();
        self.world.hosts.iter().filter_map(|host| lock(host).starts.get(&id).copied()).sum()
    }

    pub(crate) fn offers_open(&self) -> usize {
        self.world.hosts.iter().map(|host| lock(host).offers.len()).sum()
    }

    pub(crate) fn ran_twice(&self) -> bool {
        self.world.ran_twice.load(Ordering::Relaxed)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn bind(identity: &Arc<Identity>) -> Server {
    let listen = Listen::Tls("127.0.0.1:0".parse().unwrap());
    Server::bind(listen, Arc::clone(identity)).await.unwrap()
}

fn url(server: &Server) -> String {
    format!("https://{}", server.local_addr().unwrap())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

fn permit(world: &World, peer: Peer, right: Right) -> Result<(), ProblemReply> {
    let trust = lock(&world.trust).clone().unwrap();
    Ok(trust.permit(peer.key.as_ref(), right)?)
}

// Hosts.

#[derive(Clone)]
struct Shared {
    world: Arc<World>,
    n: usize,
}

type Reply<T> = Result<Json<T>, ProblemReply>;

fn host_router(shared: Shared) -> Router {
    finish(
        Router::new()
            .route("/v1/offers", post(offer))
            .route("/v1/offers/{epoch}/{num}", delete(void_offer))
            .route("/v1/usage", get(usage))
            .route("/v1/jobs/{id}", get(read).put(put).delete(remove))
            .route("/v1/jobs/{id}/stop", post(stop))
            .with_state(shared),
    )
}

impl Shared {
    fn permit(&self, peer: Peer) -> Result<(), ProblemReply> {
        permit(&self.world, peer, Right::Run)
    }

    fn host(&self) -> MutexGuard<'_, FakeHost> {
        lock(&self.world.hosts[self.n])
    }

    /// Changes a row and tells the monitor.
    fn tell(&self, host: &mut FakeHost, fact: Fact) {
        host.seq += 1;
        let cursor = Cursor { epoch: Epoch(1), seq: host.seq };
        let event = Event { host: host.host.id.clone(), cursor, at_ms: 0, fact };
        let _ = self.world.events.send(Frame::Event(event));
    }

    fn set(&self, host: &mut FakeHost, job: Job) {
        host.jobs.insert(job.id.clone(), job.clone());
        self.tell(host, Fact::JobChanged { job: Box::new(job) });
        host.host.allocation = host.allocation(None);
        let changed = Box::new(host.host.clone());
        self.tell(host, Fact::HostChanged { host: changed });
    }

    fn become_state(&self, host: &mut FakeHost, id: &JobId, state: JobState, why: Option<Reason>) {
        let Some(mut job) = host.jobs.get(id).cloned() else { return };
        job.state = state;
        job.reason = why;
        job.since_ms += 1;
        self.set(host, job);
    }
}

impl FakeHost {
    fn new(identity: Arc<Identity>, url: String, n: u32) -> Self {
        let host = Host {
            name: format!("node{n}"),
            urls: vec![url],
            hypervisor: HypervisorFacts {
                driver: "QEMU".into(),
                accel: Accel::Tcg,
                ..HypervisorFacts::default()
            },
            // Each has a little less memory than the one before, so that plans prefer that one.
            capacity: Resources {
                vcpus: 1000,
                memory_bytes: u64::from(32 - 4 * n) << 30,
                disk_bytes: 0,
            },
            trust_version: Some(1),
            ..Host::of_key(identity.public())
        };
        Self {
            identity,
            host,
            seq: 1,
            jobs: BTreeMap::new(),
            offers: BTreeMap::new(),
            used: BTreeSet::new(),
            offers_made: 0,
            claims: BTreeMap::new(),
            undone: BTreeSet::new(),
            starts: BTreeMap::new(),
            faults: Faults::default(),
            uses: BTreeMap::new(),
            began: Instant::now(),
            usage_count: 0,
        }
    }

    fn allocation(&self, without: Option<&JobId>) -> Resources {
        let jobs = self.jobs.values().filter(|job| Some(&job.id) != without);
        jobs.fold(Resources::ZERO, |sum, job| sum.plus(job.allocation()))
    }

    fn admit(&self, id: &JobId, spec: &JobSpec) -> Result<(), Refusal> {
        let allocation =
            if self.faults.is_full { self.host.capacity } else { self.allocation(Some(id)) };
        admit(Room { allocation, ..Room::of(&self.host) }, spec, Arrival::Start)
    }

    fn claim(&mut self, key: Option<RunKey>) -> Result<(), Refusal> {
        let Some(key) = key else { return Ok(()) };
        let seen = self.claims.entry(key.run).or_default();
        if key.claim < *seen {
            return Err(Refusal::StaleClaim { seen: *seen, given: key.claim });
        }
        *seen = key.claim;
        if self.undone.contains(&(key.run, key.task)) {
            return Err(Refusal::TaskUndone { task: key.task });
        }
        Ok(())
    }

    fn job(&self, id: &JobId) -> Result<Job, Refusal> {
        self.jobs.get(id).cloned().ok_or_else(|| Refusal::NoSuchJob { job: id.clone() })
    }
}

async fn offer(
    State(shared): State<Shared>,
    peer: Peer,
    Json(ask): Json<OfferRequest>,
) -> Reply<OfferReply> {
    shared.permit(peer)?;
    let trust = lock(&shared.world.trust).clone().unwrap();
    let mut host = shared.host();
    if let Some(job) = host.jobs.get(&ask.job) {
        if ask.revision <= job.revision {
            let current = job.revision;
            return Err(Refusal::RevisionConflict { job: ask.job, current }.into());
        }
        if !job.state.is_ended() {
            let (state, needed) = (job.state, "stop it first".to_owned());
            return Err(Refusal::WrongState { job: ask.job, state, needed }.into());
        }
    }
    host.admit(&ask.job, &ask.spec)?;
    host.offers_made += 1;
    let id = OfferId { epoch: Epoch(1), num: host.offers_made };
    let resources = ask.spec.resources();
    host.offers.insert(id, resources);
    let offer = Offer {
        host: host.host.id.clone(),
        id,
        job: ask.job,
        revision: ask.revision,
        spec: ask.spec.digest(),
        action: ask.action,
        resources,
        tenant: ask.spec.tenant,
        plan: BTreeMap::from([(0, resources)]),
        on_loss: OnLoss::Keep,
        trust_version: trust.version,
        agreed: None,
    };
    let offer = Signed::seal(&offer, host.identity.secret());
    Ok(Json(OfferReply { offer, left_ms: 7000 }))
}

async fn void_offer(State(shared): State<Shared>, Path((epoch, num)): Path<(u64, u64)>) {
    shared.host().offers.remove(&OfferId { epoch: Epoch(epoch), num });
}

async fn put(
    State(shared): State<Shared>,
    peer: Peer,
    Path(id): Path<JobId>,
    Json(body): Json<PutJob>,
) -> Reply<Job> {
    shared.permit(peer)?;
    let trust = lock(&shared.world.trust).clone().unwrap();
    let mut host = shared.host();
    host.claim(body.run)?;
    if let Some(known) = host.jobs.get(&id) {
        if known.revision == body.revision && *known.spec == body.spec {
            return Ok(Json(known.clone()));
        }
        if body.revision <= known.revision {
            let current = known.revision;
            return Err(Refusal::RevisionConflict { job: id, current }.into());
        }
    }
    let expected = Expected {
        host: &host.host.id,
        host_key: &host.host.key,
        job: &id,
        revision: body.revision,
        spec: body.spec.digest(),
        resources: body.spec.resources(),
        purpose: Purpose::Take,
        agreed: None,
    };
    let standing = |offer| match (host.used.contains(&offer), host.offers.contains_key(&offer)) {
        (true, _) => OfferStanding::Used,
        (_, true) => OfferStanding::Open { left_ms: 1000 },
        _ => OfferStanding::Ended,
    };
    let ticket = verify(body.ticket.as_ref(), expected, &trust, standing).map_err(Refusal::from)?;
    let offer = ticket.offer().id;
    host.admit(&id, &body.spec)?;
    host.offers.remove(&offer);
    host.used.insert(offer);
    let job = Job {
        revision: body.revision,
        since_ms: 1,
        hold: Some(offer),
        run: body.run,
        ..Job::of(id.clone(), body.spec, JobState::Accepted)
    };
    shared.set(&mut host, job.clone());
    drop(host);
    tokio::spawn(bring_up(shared, id));
    Ok(Json(job))
}

async fn bring_up(shared: Shared, id: JobId) {
    loop {
        let start_ms = shared.world.start_ms.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(start_ms)).await;
        let mut host = shared.host();
        if host.jobs.get(&id).is_none_or(|job| job.state != JobState::Accepted) {
            return;
        }
        if host.faults.hangs_starts {
            continue;
        }
        if host.faults.fails_starts || host.faults.fails_start_of.as_ref() == Some(&id) {
            let why = Reason::StartFailed { message: "no such disk".into() };
            shared.become_state(&mut host, &id, JobState::Failed, Some(why));
            return;
        }
        *host.starts.entry(id.clone()).or_default() += 1;
        shared.become_state(&mut host, &id, JobState::Running, None);
        drop(host);
        let running = |h: &Mutex<FakeHost>| {
            lock(h).jobs.get(&id).is_some_and(|job| job.state == JobState::Running)
        };
        if shared.world.hosts.iter().filter(|h| running(h)).count() > 1 {
            shared.world.ran_twice.store(true, Ordering::Relaxed);
        }
        return;
    }
}

/// What each guest that is alive has used, as if it had always kept the same busy.
async fn usage(State(shared): State<Shared>, peer: Peer) -> Reply<Usage> {
    permit(&shared.world, peer, Right::Read)?;
    let mut host = shared.host();
    host.usage_count += 1;
    let elapsed_ms = u64::try_from(host.began.elapsed().as_millis()).unwrap();
    let alive = host.jobs.values().filter(|job| !job.state.is_ended());
    let guests = alive.map(|job| {
        let cpu_ns = host.uses.get(&job.id).map(|cpu_millis| cpu_millis * elapsed_ms * 1_000);
        let (name, job) = (job.id.to_string(), Some(job.id.clone()));
        GuestUsage { name, job, cpu_ns, ..GuestUsage::default() }
    });
    let guests = guests.collect();
    let machine = MachineUsage { cpus: Some(8), memory_available_bytes: 0, load_1m: 0.0 };
    Ok(Json(Usage { at_ms: elapsed_ms, machine, guests }))
}

async fn read(State(shared): State<Shared>, Path(id): Path<JobId>) -> Reply<Job> {
    Ok(Json(shared.host().job(&id)?))
}

async fn stop(
    State(shared): State<Shared>,
    peer: Peer,
    Path(id): Path<JobId>,
    Json(body): Json<StopJob>,
) -> Reply<Job> {
    shared.permit(peer)?;
    let mut host = shared.host();
    host.claim(body.run)?;
    if !host.job(&id)?.state.is_ended() {
        let why = body.lets.map_or(Reason::Requested, |lets| Reason::Preempted { lets: lets.job });
        shared.become_state(&mut host, &id, JobState::Stopping, Some(why.clone()));
        let (shared, id) = (shared.clone(), id.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let mut host = shared.host();
            shared.become_state(&mut host, &id, JobState::Stopped, Some(why));
        });
    }
    Ok(Json(host.job(&id)?))
}

#[derive(Deserialize)]
struct UndoneBy {
    run: RunId,
    task: u32,
}

async fn remove(
    State(shared): State<Shared>,
    Path(id): Path<JobId>,
    Query(by): Query<UndoneBy>,
    peer: Peer,
) -> Reply<Job> {
    shared.permit(peer)?;
    let mut host = shared.host();
    host.undone.insert((by.run, by.task));
    let job = host.job(&id)?;
    if !job.state.is_ended() {
        let needed = "stop it first".to_owned();
        return Err(Refusal::WrongState { job: id, state: job.state, needed }.into());
    }
    let (later, gone) = (shared.clone(), id);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut host = later.host();
        if host.jobs.remove(&gone).is_some() {
            later.tell(&mut host, Fact::JobDeleted { job: gone });
        }
    });
    Ok(Json(job))
}

// The monitor and the arbiter.

fn monitor_router(world: Arc<World>) -> Router {
    finish(Router::new().route("/v1/events", get(events)).with_state(world))
}

async fn events(State(world): State<Arc<World>>, upgrade: Upgrade) -> axum::response::Response {
    upgrade.frames(move |frames| async move {
        let mut later = world.events.subscribe();
        for host in &world.hosts {
            let inventory = {
                let host = lock(host);
                Inventory {
                    cursor: Cursor { epoch: Epoch(1), seq: host.seq },
                    host: host.host.clone(),
                    jobs: host.jobs.values().cloned().collect(),
                    observed: vec![],
                }
            };
            let _ = frames.send(&Frame::Inventory(Box::new(inventory))).await;
        }
        let _ = frames.send(&Frame::Current).await;
        let sender = frames.sender();
        loop {
            tokio::select! {
                () = sender.over() => return,
                frame = later.recv() => match frame {
                    Ok(frame) => { let _ = frames.send(&frame).await; }
                    Err(_) => return,
                }
            }
        }
    })
}

fn arbiter_router(world: Arc<World>) -> Router {
    finish(Router::new().route("/v1/grants", post(grant)).with_state(world))
}

async fn grant(
    State(world): State<Arc<World>>,
    peer: Peer,
    Json(offer): Json<Signed<Offer>>,
) -> Reply<Answer> {
    permit(&world, peer, Right::Run)?;
    let secret = world.arbiter.secret();
    let (digest, asked) = (offer.digest(), offer.open().unwrap());
    let is_elsewhere = |h: &&Mutex<FakeHost>| {
        let host = lock(h);
        let is_alive = |job: &Job| !job.state.is_ended();
        host.host.id != asked.host && host.jobs.get(&asked.job).is_some_and(is_alive)
    };
    let deny = |why| Answer::Denial(Signed::seal(&Denial { slot: 0, offer: digest, why }, secret));
    if world.denies_quota.load(Ordering::Relaxed) {
        let (tenant, asked) = (asked.tenant, asked.resources.into());
        let (limit, used) = (Resources::ZERO.into(), Resources::ZERO.into());
        let why = DenialReason::Quota { tenant, limit, used, asked, at_most: None, left: None };
        return Ok(Json(deny(why)));
    }
    if let Some(host) = world.hosts.iter().find(is_elsewhere) {
        let host: HostId = lock(host).host.id.clone();
        return Ok(Json(deny(DenialReason::Promised {
            host,
            id: OfferId::default(),
            for_ms: None,
        })));
    }
    let grant = Grant { slot: 0, offer: digest, debit: asked.resources.into() };
    Ok(Json(Answer::Grant(Signed::seal(&grant, secret))))
}
