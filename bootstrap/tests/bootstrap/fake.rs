//! A fake agent: the HTTP interface that bootstrap uses, over real TLS, with state in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::routing::get;
use protocol::api::{Health, HostFreshness, JobList, PutJob, ViewReply};
use protocol::host::{Accel, Host, HypervisorFacts, Inventory};
use protocol::id::{Cursor, Epoch, HostId, JobId};
use protocol::job::{Job, JobKind, JobState, Reason, Role, ServiceEndpoint};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::signed::{PublicKey, SecretKey, Signed};
use protocol::trust::{Right, Trust};
use protocol::view::{Freshness, View};
use transport::discovery::{Advert, ClusterUrl};
use transport::{CancellationToken, Client, Identity, Json, Listen, Peer, ProblemReply, Server};

/// What all fakes of a test's process tell each other in place of discovery: the hosts there are.
pub(crate) struct FakeAgent {
    pub(crate) url: String,
    state: Arc<Fake>,
    shutdown: CancellationToken,
    task: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

struct Fake {
    identity: Arc<Identity>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    name: String,
    url: String,
    is_ready: bool,
    is_failing: bool,
    jobs: BTreeMap<JobId, Job>,
    trust: Option<(Signed<Trust>, Trust)>,
    puts: usize,
    asks: usize,
}

impl FakeAgent {
    pub(crate) async fn start(seed: u8) -> Self {
        Self::start_named(seed, &format!("fake{seed}")).await
    }

    pub(crate) async fn start_named(seed: u8, name: &str) -> Self {
        let identity = Arc::new(Identity::from_seed([seed; 32]));
        let listen = Listen::Tls("127.0.0.1:0".parse().unwrap());
        let server = Server::bind(listen, Arc::clone(&identity)).await.unwrap();
        let url = format!("https://{}", server.local_addr().unwrap());
        let inner =
            Inner { name: name.into(), url: url.clone(), is_ready: true, ..Inner::default() };
        let state = Arc::new(Fake { identity, inner: Mutex::new(inner) });
        let router = Router::new()
            .route("/v1/health", get(health))
            .route("/v1/host", get(host))
            .route("/v1/jobs", get(jobs))
            .route("/v1/jobs/{id}", get(job).put(put_job))
            .route("/v1/jobs/{id}/log", get(async || "starting\nno such port\n"))
            .route("/v1/config/trust", get(trust).put(put_trust))
            .with_state(Arc::clone(&state));
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(server.serve(transport::problem::finish(router), shutdown.clone()));
        Self { url, state, shutdown, task: Mutex::new(Some(task)) }
    }

    pub(crate) fn key(&self) -> PublicKey {
        self.state.identity.public()
    }

    pub(crate) async fn stop(&self) {
        self.shutdown.cancel();
        let task = self.task.lock().unwrap().take();
        if let Some(task) = task {
            task.await.unwrap();
        }
    }

    pub(crate) fn set_ready(&self, is_ready: bool) {
        self.state.inner.lock().unwrap().is_ready = is_ready;
    }

    /// Shows this document from now on, whoever has signed it.
    pub(crate) fn shows(&self, trust: &Trust, signer: &SecretKey) {
        let signed = Signed::seal(trust, signer);
        self.state.inner.lock().unwrap().trust = Some((signed, trust.clone()));
    }

    pub(crate) fn fail_services(&self, is_failing: bool) {
        self.state.inner.lock().unwrap().is_failing = is_failing;
    }

    /// How often somebody asked it anything.
    pub(crate) fn asks(&self) -> usize {
        self.state.inner.lock().unwrap().asks
    }

    /// Writes itself down, as an agent does.
    pub(crate) async fn register(&self, cluster: &ClusterUrl) {
        let client = Client::new(Arc::clone(&self.state.identity));
        let name = self.state.inner.lock().unwrap().name.clone();
        cluster.register(&client, &Advert::new(name, &self.url)).await.unwrap();
    }

    /// How often somebody asked for a job.
    pub(crate) fn puts(&self) -> usize {
        self.state.inner.lock().unwrap().puts
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

type Shared = State<Arc<Fake>>;

impl Fake {
    fn permit(&self, peer: Peer, right: Right) -> Result<(), Refusal> {
        let inner = self.inner.lock().unwrap();
        inner.trust.as_ref().map_or(Ok(()), |(_, trust)| trust.permit(peer.key.as_ref(), right))
    }

    fn host(&self) -> Host {
        let inner = self.inner.lock().unwrap();
        let big = Resources { vcpus: 8, memory_bytes: 8 << 30, disk_bytes: 64 << 30 };
        Host {
            name: inner.name.clone(),
            urls: vec![inner.url.clone()],
            agent_version: env!("CARGO_PKG_VERSION").into(),
            hypervisor: HypervisorFacts {
                uri: "fake:///".into(),
                driver: "QEMU".into(),
                libvirt_version: "9.0.0".into(),
                accel: Accel::Kvm,
                can_receive: true,
                can_guard: true,
                ..HypervisorFacts::default()
            },
            capacity: big,
            trust_version: inner.trust.as_ref().map(|(_, trust)| trust.version),
            ..Host::of_key(self.identity.public())
        }
    }
}

async fn health(State(fake): Shared) -> Json<Health> {
    let mut inner = fake.inner.lock().unwrap();
    inner.asks += 1;
    Json(Health {
        role: "agent".into(),
        is_ready: inner.is_ready,
        key: fake.identity.public(),
        version: env!("CARGO_PKG_VERSION").into(),
        trust_version: inner.trust.as_ref().map(|(_, trust)| trust.version),
        waiting_for: if inner.is_ready { vec![] } else { vec!["libvirt".into()] },
    })
}

async fn host(State(fake): Shared, peer: Peer) -> Result<Json<Host>, ProblemReply> {
    fake.permit(peer, Right::Read)?;
    Ok(Json(fake.host()))
}

async fn jobs(State(fake): Shared, peer: Peer) -> Result<Json<JobList>, ProblemReply> {
    fake.permit(peer, Right::Read)?;
    Ok(Json(JobList { jobs: fake.inner.lock().unwrap().jobs.values().cloned().collect() }))
}

async fn job(State(fake): Shared, Path(id): Path<JobId>) -> Result<Json<Job>, ProblemReply> {
    let found = fake.inner.lock().unwrap().jobs.get(&id).cloned();
    Ok(Json(found.ok_or(Refusal::NoSuchJob { job: id })?))
}

async fn put_job(
    State(fake): Shared,
    peer: Peer,
    Path(id): Path<JobId>,
    Json(put): Json<PutJob>,
) -> Result<Json<Job>, ProblemReply> {
    fake.permit(peer, Right::Govern)?;
    let JobKind::Service(service) = &put.spec.kind else {
        panic!("bootstrap starts only services")
    };
    let is_failing = {
        let mut inner = fake.inner.lock().unwrap();
        inner.puts += 1;
        inner.is_failing
    };
    let endpoint = if is_failing { None } else { Some(serve_role(&fake, service.role).await) };
    let job = Job {
        revision: put.revision,
        reason: is_failing.then_some(Reason::Exited { code: 1 }),
        endpoint: endpoint.map(Box::new),
        ..Job::of(
            id.clone(),
            put.spec,
            if is_failing { JobState::Failed } else { JobState::Running },
        )
    };
    fake.inner.lock().unwrap().jobs.insert(id, job.clone());
    Ok(Json(job))
}

async fn trust(State(fake): Shared, peer: Peer) -> Result<axum::response::Response, ProblemReply> {
    fake.permit(peer, Right::Read)?;
    let signed = fake.inner.lock().unwrap().trust.clone().map(|(signed, _)| signed);
    Ok(Json(signed).into_response())
}

async fn put_trust(
    State(fake): Shared,
    Json(signed): Json<Signed<Trust>>,
) -> Result<(), ProblemReply> {
    let mut inner = fake.inner.lock().unwrap();
    let in_force = inner.trust.as_ref().map(|(_, trust)| trust);
    let refused = |e: protocol::trust::TrustError| Refusal::Invalid { message: e.to_string() };
    if let Some(trust) = Trust::accept(in_force, &signed).map_err(refused)? {
        inner.trust = Some((signed, trust));
    }
    Ok(())
}

/// A role as bootstrap sees it: healthy once its host obeys a trust document; a monitor that sees
/// every host of the roster.
async fn serve_role(fake: &Arc<Fake>, role: Role) -> ServiceEndpoint {
    let identity = Arc::new(Identity::ephemeral());
    let listen = Listen::Tls("127.0.0.1:0".parse().unwrap());
    let server = Server::bind(listen, Arc::clone(&identity)).await.unwrap();
    let url = format!("https://{}", server.local_addr().unwrap());
    let endpoint = ServiceEndpoint { url, key: identity.public() };
    let (key, of_health, of_view) = (identity.public(), Arc::clone(fake), Arc::clone(fake));
    let health = move || {
        let inner = of_health.inner.lock().unwrap();
        let trust_version = inner.trust.as_ref().map(|(_, trust)| trust.version);
        std::future::ready(Json(Health {
            role: role.to_string(),
            is_ready: trust_version.is_some(),
            key,
            version: "0.1.0".into(),
            trust_version,
            waiting_for: vec![],
        }))
    };
    let view = move || std::future::ready(Json(view_of(&of_view, key)));
    let router = Router::new().route("/v1/health", get(health)).route("/v1/view", get(view));
    tokio::spawn(server.serve(transport::problem::finish(router), CancellationToken::new()));
    endpoint
}

fn view_of(fake: &Fake, monitor: protocol::signed::PublicKey) -> ViewReply {
    let template = fake.host();
    let inner = fake.inner.lock().unwrap();
    let roster = inner.trust.as_ref().map(|(_, trust)| trust.roster.clone()).unwrap_or_default();
    let mut view = View::default();
    let mut freshness = Vec::new();
    for key in roster {
        let host = Host { id: HostId::of(&key), key, ..template.clone() };
        freshness.push(HostFreshness {
            host: host.id.clone(),
            freshness: Freshness::Fresh,
            age_ms: 0,
            path: String::new(),
            trouble: None,
        });
        let cursor = Cursor { epoch: Epoch(1), seq: 1 };
        view.merge_inventory(Inventory { cursor, host, jobs: vec![], observed: vec![] });
    }
    ViewReply { monitor, is_complete: true, freshness, view }
}
