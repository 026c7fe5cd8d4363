//! An arbiter as a process: real TLS, a trust file that changes, and agents that say what they hold.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arbiter::statement::OpenOffers;
use arbiter::{ArbiterError, Options, serve};
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use protocol::amounts::Amounts;
use protocol::api::Health;
use protocol::host::{Host, HypervisorFacts, Inventory};
use protocol::id::{ClusterId, Cursor, Epoch, JobId, OfferId, Revision, TenantId};
use protocol::job::{Job, JobSpec, JobState, ServiceEndpoint};
use protocol::resources::Resources;
use protocol::signed::Signed;
use protocol::ticket::{
    Action, Answer, DenialReason, Expected, Offer, OfferStanding, Purpose, Ticket, verify,
};
use protocol::trust::{Seat, Slot, Trust};
use protocol::vm::OnLoss;
use protocol::vm::VmSpec;
use tokio::task::JoinHandle;
use transport::problem::finish;
use transport::{
    CancellationToken, Client, Clock, Endpoint, Identity, Json, Listen, Method, Server,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// D in these tests, so that silence is over before a person looks up.
const TERM_MS: u64 = 2_500;

/// An agent as far as an arbiter asks it.
struct Agent {
    identity: Arc<Identity>,
    addr: SocketAddr,
    holds: Arc<Holds>,
    _stop: tokio_util::sync::DropGuard,
}

struct Holds {
    identity: Arc<Identity>,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    num: u64,
    open: Vec<OfferId>,
    jobs: Vec<Job>,
}

fn spec() -> JobSpec {
    JobSpec::vm(VmSpec {
        vcpus: 1,
        memory_bytes: 1 << 30,
        disks: vec![],
        nics: vec![],
        ..VmSpec::default()
    })
}

impl Agent {
    async fn start() -> Self {
        let identity = Arc::new(Identity::ephemeral());
        let holds = Arc::new(Holds { identity: Arc::clone(&identity), told: Mutex::default() });
        let listen = Listen::Tls("127.0.0.1:0".parse().unwrap());
        let server = Server::bind(listen, Arc::clone(&identity)).await.unwrap();
        let addr = server.local_addr().unwrap();
        let router = Router::new()
            .route("/v1/health", get(health))
            .route("/v1/offers", get(offers))
            .route("/v1/inventory", get(inventory))
            .with_state(Arc::clone(&holds));
        let stop = CancellationToken::new();
        tokio::spawn(server.serve(finish(router), stop.clone()));
        Self { identity, addr, holds, _stop: stop.drop_guard() }
    }

    fn offer(&self, job: &str, trust_version: u64) -> Signed<Offer> {
        let mut told = self.holds.told.lock().unwrap();
        told.num += 1;
        let id = OfferId { epoch: Epoch(1), num: told.num };
        told.open.push(id);
        let offer = Offer {
            host: self.identity.host_id(),
            id,
            job: JobId::new(job).unwrap(),
            revision: Revision(1),
            spec: spec().digest(),
            action: Action::Start,
            resources: spec().resources(),
            tenant: TenantId::default_tenant(),
            plan: BTreeMap::new(),
            on_loss: OnLoss::Keep,
            trust_version,
            agreed: None,
        };
        Signed::seal(&offer, self.identity.secret())
    }

    fn void_all(&self) {
        self.holds.told.lock().unwrap().open.clear();
    }

    fn redeem(&self, offer: &Signed<Offer>) {
        let offer = offer.open().unwrap();
        let mut told = self.holds.told.lock().unwrap();
        told.open.retain(|id| *id != offer.id);
        told.jobs.push(Job {
            revision: offer.revision,
            hold: Some(offer.id),
            ..Job::of(offer.job, spec(), JobState::Running)
        });
    }
}

async fn health(State(holds): State<Arc<Holds>>) -> Json<Health> {
    Json(Health {
        role: "agent".into(),
        is_ready: true,
        key: holds.identity.public(),
        version: "0".into(),
        trust_version: None,
        waiting_for: vec![],
    })
}

async fn offers(State(holds): State<Arc<Holds>>) -> Json<OpenOffers> {
    let told = holds.told.lock().unwrap();
    let watermark = OfferId { epoch: Epoch(1), num: told.num };
    let (epoch, offers) = (Epoch(1), told.open.clone());
    Json(OpenOffers { epoch, watermark, offers, agreed: None, debits: None, unused: vec![] })
}

async fn inventory(State(holds): State<Arc<Holds>>) -> Json<Inventory> {
    let host = Host {
        name: "fake".into(),
        agent_version: "0".into(),
        hypervisor: HypervisorFacts {
            uri: "test:///default".into(),
            driver: "TEST".into(),
            libvirt_version: "9.0.0".into(),
            ..HypervisorFacts::default()
        },
        ..Host::of_key(holds.identity.public())
    };
    let jobs = holds.told.lock().unwrap().jobs.clone();
    let cursor = Cursor { epoch: Epoch(1), seq: 0 };
    Json(Inventory { cursor, host, jobs, observed: vec![] })
}

/// Where the arbiter answers, how to stop it, and what came of it.
type Running = (Endpoint, CancellationToken, JoinHandle<Result<(), ArbiterError>>);

/// A cluster of one arbiter, and an operator.
struct Cluster {
    dir: tempfile::TempDir,
    operator: Arc<Identity>,
    agents: Vec<Agent>,
    client: Client,
    running: Option<Running>,
    trust: Option<Trust>,
}

impl Cluster {
    async fn start(agents: usize) -> Self {
        let operator = Arc::new(Identity::ephemeral());
        let client = Client::new(Arc::clone(&operator));
        let mut started = vec![];
        for _ in 0..agents {
            started.push(Agent::start().await);
        }
        let dir = tempfile::tempdir().unwrap();
        let mut cluster =
            Self { dir, operator, agents: started, client, running: None, trust: None };
        cluster.start_arbiter().await;
        cluster
    }

    fn options(&self) -> Options {
        let discovery = self.agents.iter().map(|a| a.addr.to_string().parse().unwrap()).collect();
        Options {
            data_dir: self.dir.path().join("data"),
            listen: "127.0.0.1:0".parse().unwrap(),
            trust_file: Some(self.trust_file()),
            ready_file: Some(self.dir.path().join("ready.json")),
            discovery,
            seat: Seat::Arbiter,
        }
    }

    fn trust_file(&self) -> PathBuf {
        self.dir.path().join("trust.json")
    }

    async fn start_arbiter(&mut self) {
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(self.options(), Clock::real(), stop.clone()));
        let ready = self.dir.path().join("ready.json");
        let text = until("the ready file", async || std::fs::read(&ready).ok()).await;
        let endpoint: ServiceEndpoint = serde_json::from_slice(&text).unwrap();
        let to = Endpoint::of_key(endpoint.url, endpoint.key);
        self.running = Some((to, stop, serving));
    }

    async fn stop_arbiter(&mut self) {
        let (_, stop, serving) = self.running.take().unwrap();
        stop.cancel();
        serving.await.unwrap().unwrap();
        std::fs::remove_file(self.dir.path().join("ready.json")).unwrap();
    }

    fn to(&self) -> &Endpoint {
        &self.running.as_ref().unwrap().0
    }

    /// What bootstrap does once the arbiter's key is known.
    fn sign_trust(&mut self, version: u64) {
        self.sign_trust_with(version, BTreeMap::new());
    }

    fn sign_trust_with(&mut self, version: u64, quota: BTreeMap<TenantId, Amounts>) {
        let trust = Trust {
            version,
            operators: vec![self.operator.public()],
            arbiters: vec![Slot { slot: 0, key: self.to().key.unwrap(), url: String::new() }],
            roster: self.agents.iter().map(|agent| agent.identity.public()).collect(),
            quota,
            term_ms: TERM_MS,
            ..Trust::of_nobody(ClusterId::new("c1").unwrap())
        };
        let signed = Signed::seal(&trust, self.operator.secret());
        let new = self.dir.path().join("trust.new");
        std::fs::write(&new, serde_json::to_vec(&signed).unwrap()).unwrap();
        std::fs::rename(&new, self.trust_file()).unwrap();
        self.trust = Some(trust);
    }

    async fn health(&self) -> Health {
        self.client.get(self.to(), "/v1/health").await.unwrap()
    }

    async fn until_ready(&self) {
        until("a ready arbiter", async || Some(self.health().await).filter(|h| h.is_ready)).await;
    }

    async fn ask(&self, offer: &Signed<Offer>) -> Answer {
        self.client.send(Method::POST, self.to(), "/v1/grants", offer).await.unwrap().body
    }

    async fn denial(&self, offer: &Signed<Offer>) -> DenialReason {
        match self.ask(offer).await {
            Answer::Denial(denial) => {
                assert_eq!(Some(denial.key()), self.to().key);
                denial.open().unwrap().why
            }
            Answer::Grant(grant) => panic!("granted: {grant:?}"),
        }
    }

    /// What the host makes of the answer.
    async fn ticket(&self, agent: &Agent, offer: &Signed<Offer>) -> Ticket {
        let Answer::Grant(grant) = self.ask(offer).await else { panic!("denied") };
        let ticket = Ticket { offer: offer.clone(), grants: vec![grant] };
        let opened = offer.open().unwrap();
        let expected = Expected {
            host: &agent.identity.host_id(),
            host_key: &agent.identity.public(),
            job: &opened.job,
            revision: Revision(1),
            spec: spec().digest(),
            resources: spec().resources(),
            purpose: Purpose::Take,
            agreed: None,
        };
        let open = |_| OfferStanding::Open { left_ms: 1 };
        verify(Some(&ticket), expected, self.trust.as_ref().unwrap(), open).unwrap();
        ticket
    }
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, found).await {
        Ok(found) => found,
        Err(_) => panic!("waited {} s in vain for {what}", PATIENCE.as_secs()),
    }
}

#[tokio::test]
async fn a_grant_makes_a_ticket_that_the_host_accepts() {
    let mut cluster = Cluster::start(1).await;
    let health = cluster.health().await;
    assert!(!health.is_ready && health.waiting_for[0].starts_with("trust: "), "{health:?}");
    let agent = &cluster.agents[0];
    let offer = agent.offer("web", 1);
    let early = cluster
        .client
        .send::<_, Answer>(Method::POST, cluster.to(), "/v1/grants", &offer)
        .await
        .unwrap_err();
    assert_eq!(early.problem().map(|problem| problem.status), Some(503), "{early}");

    cluster.sign_trust(1);
    cluster.until_ready().await;
    let agent = &cluster.agents[0];
    let ticket = cluster.ticket(agent, &offer).await;
    assert_eq!(cluster.ticket(agent, &offer).await, ticket, "asking again changes nothing");
    agent.redeem(&offer);
    let books: serde_json::Value = cluster.client.get(cluster.to(), "/v1/books").await.unwrap();
    assert_eq!(books["entries"].as_array().unwrap().len(), 1, "{books}");
    assert_eq!(books["slot"], 0);
}

#[tokio::test]
async fn a_promise_is_kept_until_its_host_says_that_it_is_over() {
    let mut cluster = Cluster::start(2).await;
    cluster.sign_trust(1);
    cluster.until_ready().await;
    let (one, two) = (&cluster.agents[0], &cluster.agents[1]);
    let first = one.offer("web", 1);
    cluster.ticket(one, &first).await;
    let second = two.offer("web", 1);
    let why = cluster.denial(&second).await;
    let promised_to = one.identity.host_id();
    assert!(matches!(&why, DenialReason::Promised { host, .. } if *host == promised_to), "{why}");
    // The arbiter asks the host in the way before it says no, so this needs no waiting here.
    one.void_all();
    cluster.ticket(two, &second).await;
    assert!(matches!(
        cluster.denial(&first).await,
        DenialReason::Promised { .. } | DenialReason::OfferEnded { .. }
    ));
}

#[tokio::test]
async fn a_restarted_arbiter_is_silent_then_asks_the_hosts_what_it_has_forgotten() {
    let mut cluster = Cluster::start(2).await;
    cluster.sign_trust(1);
    cluster.until_ready().await;
    let (one, two) = (&cluster.agents[0], &cluster.agents[1]);
    let first = one.offer("web", 1);
    cluster.ticket(one, &first).await;
    one.redeem(&first);
    let second = two.offer("web", 1);

    cluster.stop_arbiter().await;
    cluster.start_arbiter().await;
    let why = cluster.denial(&second).await;
    assert!(matches!(why, DenialReason::Silent { for_ms } if for_ms <= TERM_MS + 20), "{why}");
    let waiting = cluster.health().await.waiting_for;
    assert!(waiting.iter().any(|w| w.contains("rule R1")), "{waiting:?}");
    cluster.until_ready().await;
    let why = cluster.denial(&second).await;
    assert!(matches!(why, DenialReason::Promised { .. }), "{why}");
    let other = cluster.agents[1].offer("db", 1);
    cluster.ticket(&cluster.agents[1], &other).await;
}

#[tokio::test]
async fn a_host_that_was_never_read_holds_up_every_grant() {
    let mut cluster = Cluster::start(1).await;
    let absent = Agent { addr: "127.0.0.1:1".parse().unwrap(), ..Agent::start().await };
    cluster.agents.push(absent);
    cluster.sign_trust(1);
    let offer = cluster.agents[0].offer("web", 1);
    let why =
        until("a denial by the rule", async || match cluster.denial_or_problem(&offer).await {
            Some(why @ DenialReason::Rebuilding { missing: 1 }) => Some(why),
            _ => None,
        })
        .await;
    assert!(why.to_string().contains("1 hosts"), "{why}");
    let id = cluster.agents[1].identity.host_id();
    let waiting = cluster.health().await.waiting_for;
    assert!(waiting.iter().any(|w| w.contains(id.as_str())), "{waiting:?}");
}

impl Cluster {
    async fn denial_or_problem(&self, offer: &Signed<Offer>) -> Option<DenialReason> {
        let reply = self.client.send(Method::POST, self.to(), "/v1/grants", offer).await;
        match reply.ok()?.body {
            Answer::Denial(denial) => Some(denial.open().unwrap().why),
            Answer::Grant(grant) => panic!("granted: {grant:?}"),
        }
    }
}

#[tokio::test]
async fn a_later_trust_document_is_looked_for_before_an_offer_is_refused() {
    let mut cluster = Cluster::start(1).await;
    cluster.sign_trust(1);
    cluster.until_ready().await;
    let offer = cluster.agents[0].offer("web", 2);
    let why = cluster.denial(&offer).await;
    assert_eq!(why, DenialReason::OtherTrust { offered: 2, here: 1 });
    cluster.sign_trust(2);
    cluster.ticket(&cluster.agents[0], &offer).await;
}

#[tokio::test]
async fn strangers_get_no_grants_and_see_no_books() {
    let mut cluster = Cluster::start(1).await;
    cluster.sign_trust(1);
    cluster.until_ready().await;
    cluster.client = Client::new(Arc::new(Identity::ephemeral()));
    let offer = cluster.agents[0].offer("web", 1);
    let to = cluster.to();
    let refused =
        cluster.client.send::<_, Answer>(Method::POST, to, "/v1/grants", &offer).await.unwrap_err();
    assert_eq!(refused.problem().map(|problem| problem.status), Some(403), "{refused}");
    let refused = cluster.client.get::<serde_json::Value>(to, "/v1/books").await.unwrap_err();
    assert_eq!(refused.problem().map(|problem| problem.status), Some(403), "{refused}");
}

#[tokio::test]
async fn metrics_tell_what_was_granted_and_denied_and_what_is_waited_for() {
    let mut cluster = Cluster::start(2).await;
    let metrics = async |cluster: &Cluster| {
        let text = cluster.client.get_bytes(cluster.to(), "/metrics", 1 << 20).await.unwrap();
        String::from_utf8(text.to_vec()).unwrap()
    };
    let is_told = |text: &str, lines: &[&str]| {
        for line in lines {
            assert!(text.lines().any(|told| told == *line), "{line} is not in\n{text}");
        }
    };
    let early = metrics(&cluster).await;
    is_told(&early, &["ostler_arbiter_ready 0.0", "ostler_arbiter_member 0.0"]);

    let tenant = TenantId::default_tenant();
    let quota = Resources { vcpus: 8, memory_bytes: 1 << 33, disk_bytes: 1 << 40 };
    cluster.sign_trust_with(1, BTreeMap::from([(tenant, quota.into())]));
    cluster.until_ready().await;
    let (one, two) = (&cluster.agents[0], &cluster.agents[1]);
    let offer = one.offer("web", 1);
    cluster.ticket(one, &offer).await;
    one.redeem(&offer);
    cluster.denial(&two.offer("web", 1)).await;
    is_told(
        &metrics(&cluster).await,
        &[
            "ostler_arbiter_ready 1.0",
            "ostler_arbiter_hosts_unread 0.0",
            "ostler_arbiter_trust_version 1.0",
            "ostler_arbiter_grants_total 1.0",
            "ostler_arbiter_denials_total{reason=\"promised\"} 1.0",
            "ostler_arbiter_denials_total{reason=\"quota\"} 0.0",
            "ostler_arbiter_tenants 1.0",
            "ostler_arbiter_quota_limit_vcpus{tenant=\"default\"} 8.0",
            "ostler_arbiter_quota_booked_vcpus{tenant=\"default\"} 1.0",
            "ostler_arbiter_quota_promised_memory_bytes{tenant=\"default\"} 1073741824.0",
        ],
    );
    cluster.client = Client::new(Arc::new(Identity::ephemeral()));
    let refused = cluster.client.get_bytes(cluster.to(), "/metrics", 1 << 20).await.unwrap_err();
    assert_eq!(refused.problem().map(|problem| problem.status), Some(403), "{refused}");
}

#[tokio::test]
async fn one_key_is_one_arbiter() {
    let cluster = Cluster::start(0).await;
    let second = serve(cluster.options(), Clock::real(), CancellationToken::new()).await;
    assert!(matches!(second, Err(ArbiterError::InUse { .. })), "{second:?}");
}
