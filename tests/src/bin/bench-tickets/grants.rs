//! T3: how long a grant takes at 1 000 a second, over TLS, beside an arbiter that goes on reading its
//! hosts; against a bare POST to a server of the same stack, at the same rate.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arbiter::Options;
use arbiter::statement::OpenOffers;
use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use protocol::host::{Accel, Host, HypervisorFacts, Inventory};
use protocol::id::{Cursor, Epoch, JobId};
use protocol::job::ServiceEndpoint;
use protocol::resources::Resources;
use protocol::signed::{SecretKey, Signed};
use protocol::ticket::{Answer, Offer};
use protocol::trust::{Seat, Slot, Trust};
use serde_json::{Value, json};
use tests::wait::until;
use transport::problem::finish;
use transport::{
    CancellationToken, Client, Clock, Endpoint, Identity, Json, Listen, Method, Server,
};

use crate::round2;
use crate::world::{id, offer, trust};

/// Hosts that it reads besides: more would measure them, on two cores.
const HOSTS: usize = 20;
const PER_SECOND: usize = 1_000;
const SECONDS: usize = 5;
/// Rounds of each, in turns.
const ROUNDS: usize = 2;

pub(crate) async fn latency() -> Vec<Value> {
    let stop = CancellationToken::new();
    let dir = tempfile::tempdir().expect("a folder");
    let mut hosts = Vec::new();
    for _ in 0..HOSTS {
        hosts.push(host(&stop).await);
    }
    let operator = Arc::new(Identity::ephemeral());
    let client = Client::new(Arc::clone(&operator));
    let arbiter = arbiter(dir.path(), &hosts, &operator, &client, &stop).await;
    let bare = bare(&stop).await;

    let offers = offers(&hosts, ROUNDS * PER_SECOND * SECONDS);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for offers in offers.chunks(PER_SECOND * SECONDS) {
        ours.extend(ask_all(&client, &arbiter, GRANTS, offers).await);
        theirs.extend(ask_all(&client, &bare, GRANTS, offers).await);
    }
    stop.cancel();
    let (ours, theirs) = (Percentiles::of(ours), Percentiles::of(theirs));
    vec![json!({
        "name": "T3_grant_latency", "value": ours.p99, "unit": "ms, p99 at 1 000 grants/s",
        "p50": ours.p50, "max": ours.max, "baseline": "POST of the same body, nothing done, same stack",
        "baseline_p50": theirs.p50, "baseline_p99": theirs.p99,
        "ratio": round2(ours.p99 / theirs.p99), "target": 5.0, "hosts_read": HOSTS,
        "n": ROUNDS * PER_SECOND * SECONDS,
    })]
}

const GRANTS: &str = "/v1/grants?vcpus=1&memory_bytes=3221225472&disk_bytes=15032385536";

/// Sends one after the other at an even rate, whether the ones before are answered or not; how long
/// each took from when it was due.
async fn ask_all(
    client: &Client,
    to: &Endpoint,
    path: &'static str,
    offers: &[Signed<Offer>],
) -> Vec<f64> {
    let begin = Instant::now();
    let gap = Duration::from_secs(1) / u32::try_from(PER_SECOND).expect("few");
    let mut asked = tokio::task::JoinSet::new();
    for (i, offer) in (0_u32..).zip(offers) {
        let due = begin + gap * i;
        tokio::time::sleep_until(due.into()).await;
        let (client, to, offer) = (client.clone(), to.clone(), offer.clone());
        asked.spawn(async move {
            let answer = client.send::<_, Answer>(Method::POST, &to, path, &offer).await;
            let answer = answer.expect("an answer").body;
            assert!(matches!(answer, Answer::Grant(_)), "{answer:?}");
            due.elapsed().as_secs_f64() * 1e3
        });
    }
    asked.join_all().await
}

struct Percentiles {
    p50: f64,
    p99: f64,
    max: f64,
}

impl Percentiles {
    fn of(mut times: Vec<f64>) -> Self {
        times.sort_unstable_by(f64::total_cmp);
        let at = |percent: usize| round2(times[(times.len() * percent / 100).min(times.len() - 1)]);
        Self { p50: at(50), p99: at(99), max: round2(times[times.len() - 1]) }
    }
}

/// A host as far as an arbiter reads it: it holds nothing.
async fn host(stop: &CancellationToken) -> (Arc<Identity>, String) {
    let identity = Arc::new(Identity::ephemeral());
    let server = Server::bind(loopback(), Arc::clone(&identity)).await.expect("a port");
    let addr = server.local_addr().expect("an address").to_string();
    let router = Router::new()
        .route("/v1/health", get(health))
        .route("/v1/offers", get(open_offers))
        .route("/v1/inventory", get(inventory))
        .with_state(Arc::clone(&identity));
    tokio::spawn(server.serve(finish(router), stop.clone()));
    (identity, addr)
}

fn loopback() -> Listen {
    Listen::Tls("127.0.0.1:0".parse().expect("an address"))
}

async fn health(State(identity): State<Arc<Identity>>) -> Json<protocol::api::Health> {
    Json(protocol::api::Health {
        role: "agent".into(),
        is_ready: true,
        key: identity.public(),
        version: "0".into(),
        trust_version: None,
        waiting_for: vec![],
    })
}

async fn open_offers() -> Json<OpenOffers> {
    let (epoch, watermark) = (Epoch(1), id(0));
    let (offers, agreed, debits, unused) = (vec![], None, Some(vec![]), vec![]);
    Json(OpenOffers { epoch, watermark, offers, agreed, debits, unused })
}

async fn inventory(State(identity): State<Arc<Identity>>) -> Json<Inventory> {
    let host = Host {
        id: identity.host_id(),
        key: identity.public(),
        name: "bench".into(),
        urls: vec![],
        agent_version: "0".into(),
        hypervisor: HypervisorFacts {
            uri: "test:///default".into(),
            driver: "TEST".into(),
            libvirt_version: "9.0.0".into(),
            accel: Accel::None,
            accel_reason: None,
            can_receive: false,
            can_guard: false,
        },
        capacity: Resources::ZERO,
        allocation: Resources::ZERO,
        hugepages: Default::default(),
        dedicated_cpus: Default::default(),
        images: Default::default(),
        networks: None,
        labels: Default::default(),
        trust_version: None,
        intent: None,
        pools: Default::default(),
    };
    let cursor = Cursor { epoch: Epoch(1), seq: 0 };
    Json(Inventory { cursor, host, jobs: vec![], observed: vec![] })
}

/// An arbiter as `ostler` serves it, once it grants.
async fn arbiter(
    dir: &Path,
    hosts: &[(Arc<Identity>, String)],
    operator: &Identity,
    client: &Client,
    stop: &CancellationToken,
) -> Endpoint {
    let (trust_file, ready_file) = (dir.join("trust.json"), dir.join("ready.json"));
    let options = Options {
        data_dir: dir.join("data"),
        listen: "127.0.0.1:0".parse().expect("an address"),
        trust_file: Some(trust_file.clone()),
        ready_file: Some(ready_file.clone()),
        discovery: hosts.iter().map(|(_, addr)| addr.parse().expect("a source")).collect(),
        seat: Seat::Arbiter,
    };
    tokio::spawn(arbiter::serve(options, Clock::real(), stop.clone()));
    let ready = tokio::task::spawn_blocking(move || {
        until("the arbiter's ready file", Duration::from_secs(10), || {
            std::fs::read(&ready_file).map_err(|error| error.to_string())
        })
    });
    let (ready, _) = ready.await.expect("it is ready");
    let at: ServiceEndpoint = serde_json::from_slice(&ready).expect("an endpoint");
    let keys: Vec<SecretKey> = hosts.iter().map(|(host, _)| host.secret().clone()).collect();
    let document = Trust {
        operators: vec![operator.public()],
        arbiters: vec![Slot { slot: 0, key: at.key, url: at.url.clone() }],
        ..trust(1, 1, &keys)
    };
    let signed = Signed::seal(&document, operator.secret());
    std::fs::write(&trust_file, serde_json::to_vec(&signed).expect("JSON")).expect("written");
    let to = Endpoint::of_key(at.url, at.key);
    let first = offers(hosts, 1).remove(0);
    loop {
        // It has read every host once it grants.
        match client.send::<_, Answer>(Method::POST, &to, GRANTS, &first).await {
            Ok(reply) if matches!(reply.body, Answer::Grant(_)) => return to,
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn offers(hosts: &[(Arc<Identity>, String)], count: usize) -> Vec<Signed<Offer>> {
    (0..count)
        .map(|i| {
            let key = hosts[i % hosts.len()].0.secret();
            let job = JobId::new(format!("new-{i}")).expect("a name");
            let num = 1 + (i / hosts.len()) as u64;
            Signed::seal(&offer(key, num, job, 1), key)
        })
        .collect()
}

/// A server that answers every offer alike.
async fn bare(stop: &CancellationToken) -> Endpoint {
    let identity = Arc::new(Identity::ephemeral());
    let server = Server::bind(loopback(), Arc::clone(&identity)).await.expect("a port");
    let url = format!("https://{}", server.local_addr().expect("an address"));
    let key = crate::world::key(2, 0);
    let any = Signed::seal(&offer(&key, 1, crate::world::job(0, 0), 1), &key);
    let grant =
        protocol::ticket::Grant { slot: 0, offer: any.digest(), debit: Resources::ZERO.into() };
    let answer = Answer::Grant(Signed::seal(&grant, &crate::world::arbiter_key(0)));
    let answer = serde_json::to_value(&answer).expect("JSON");
    let answer = move |_: axum::body::Bytes| {
        let answer = answer.clone();
        async move { axum::Json(answer) }
    };
    let router = Router::new().route("/v1/grants", post(answer));
    tokio::spawn(server.serve(router, stop.clone()));
    Endpoint::of_key(url, identity.public())
}
