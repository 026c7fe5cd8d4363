//! A monitor as a process sees the world: real TLS, real WebSockets, and agents that speak frames
//! and sometimes lie.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::get;
use monitor::{Options, serve};
use protocol::api::{Health, ViewReply};
use protocol::event::{Event, Fact, Frame};
use protocol::host::{Host, HypervisorFacts, Inventory};
use protocol::id::{ClusterId, Cursor, Epoch, HostId};
use protocol::job::{ObservedDomain, Role, ServiceEndpoint};
use protocol::resources::Resources;
use protocol::signed::Signed;
use protocol::trust::{Peer, Slot, Trust};
use protocol::view::{Freshness, View};
use serde::Deserialize;
use tokio::sync::broadcast;
use transport::stream::{Upgrade, close};
use transport::{
    CancellationToken, Client, Clock, Endpoint, FrameSender, Frames, Identity, Json, Listen,
    Server, connect_stream,
};

const PATIENCE: Duration = Duration::from_secs(15);

/// An agent that lives in this process: one host, its events, its subscribers.
struct Agent {
    identity: Arc<Identity>,
    addr: SocketAddr,
    state: Arc<AgentState>,
    _stop: tokio_util::sync::DropGuard,
}

struct AgentState {
    identity: Arc<Identity>,
    told: Mutex<Told>,
    live: broadcast::Sender<String>,
}

#[derive(Default)]
struct Told {
    epoch: u64,
    events: Vec<Event>,
    /// Cursors with which subscribers came.
    came_with: Vec<Option<Cursor>>,
    streams: Vec<FrameSender>,
}

#[derive(Deserialize)]
struct From {
    epoch: Option<u64>,
    seq: Option<u64>,
}

fn host(identity: &Identity) -> Host {
    Host {
        name: "fake".into(),
        agent_version: "0".into(),
        hypervisor: HypervisorFacts {
            uri: "test:///default".into(),
            driver: "TEST".into(),
            libvirt_version: "9.0.0".into(),
            ..HypervisorFacts::default()
        },
        ..Host::of_key(identity.public())
    }
}

impl AgentState {
    fn inventory(&self, told: &Told) -> Inventory {
        let mut view = View::default();
        let host = host(&self.identity);
        let id = host.id.clone();
        let cursor = Cursor { epoch: Epoch(told.epoch), seq: 0 };
        view.merge_inventory(Inventory { cursor, host, jobs: vec![], observed: vec![] });
        for event in &told.events {
            view.merge_event(event);
        }
        view.host(&id).unwrap().clone().into()
    }
}

impl Agent {
    async fn start() -> Self {
        let identity = Arc::new(Identity::ephemeral());
        let (live, _) = broadcast::channel(64);
        let told = Mutex::new(Told { epoch: 1, ..Told::default() });
        let state = Arc::new(AgentState { identity: Arc::clone(&identity), told, live });
        let listen = Listen::Tls("127.0.0.1:0".parse().unwrap());
        let server = Server::bind(listen, Arc::clone(&identity)).await.unwrap();
        let addr = server.local_addr().unwrap();
        let router = Router::new()
            .route("/v1/health", get(agent_health))
            .route("/v1/events", get(agent_events))
            .route("/v1/inventory", get(agent_inventory))
            .with_state(Arc::clone(&state));
        let stop = CancellationToken::new();
        tokio::spawn(server.serve(transport::problem::finish(router), stop.clone()));
        Self { identity, addr, state, _stop: stop.drop_guard() }
    }

    fn id(&self) -> HostId {
        self.identity.host_id()
    }

    fn cursor(&self) -> Cursor {
        let told = self.state.told.lock().unwrap();
        Cursor { epoch: Epoch(told.epoch), seq: told.events.len() as u64 }
    }

    /// Something happens, and subscribers hear of it.
    fn live(&self) {
        let event = self.happen();
        self.say(&Frame::Event(event));
    }

    /// Something happens that nobody is told.
    fn happen(&self) -> Event {
        let cursor = self.cursor().next();
        let domain = ObservedDomain {
            uuid: uuid::Uuid::from_u128(u128::from(cursor.seq)),
            name: "d".into(),
            is_active: true,
            resources: Resources::ZERO,
            page_size: None,
            is_persistent: true,
        };
        let fact = Fact::DomainObserved { domain };
        let event = Event { host: self.id(), cursor, at_ms: 0, fact };
        self.state.told.lock().unwrap().events.push(event.clone());
        event
    }

    fn say(&self, frame: &Frame) {
        self.say_text(serde_json::to_string(frame).unwrap());
    }

    fn say_text(&self, text: String) {
        let _ = self.state.live.send(text);
    }

    fn cut_all(&self) {
        for stream in self.state.told.lock().unwrap().streams.drain(..) {
            stream.cut(close::STOPPING, "test");
        }
    }

    fn came_with(&self) -> Vec<Option<Cursor>> {
        self.state.told.lock().unwrap().came_with.clone()
    }
}

async fn agent_health(State(state): State<Arc<AgentState>>) -> Json<Health> {
    Json(Health {
        role: "agent".into(),
        is_ready: true,
        key: state.identity.public(),
        version: "0".into(),
        trust_version: None,
        waiting_for: vec![],
    })
}

async fn agent_inventory(State(state): State<Arc<AgentState>>) -> Json<Inventory> {
    Json(state.inventory(&state.told.lock().unwrap()))
}

async fn agent_events(
    State(state): State<Arc<AgentState>>,
    Query(from): Query<From>,
    upgrade: Upgrade,
) -> Response {
    upgrade.frames(move |mut frames| async move {
        let mut live = state.live.subscribe();
        let sender = frames.sender();
        let greeting: Vec<Frame> = {
            let mut told = state.told.lock().unwrap();
            let cursor = from.epoch.zip(from.seq);
            let cursor = cursor.map(|(epoch, seq)| Cursor { epoch: Epoch(epoch), seq });
            told.came_with.push(cursor);
            told.streams.push(sender.clone());
            match cursor.filter(|cursor| cursor.epoch.0 == told.epoch) {
                Some(cursor) => {
                    let missed = told.events.iter().filter(|event| event.cursor > cursor);
                    missed.cloned().map(Frame::Event).collect()
                }
                None => vec![Frame::Inventory(Box::new(state.inventory(&told)))],
            }
        };
        for frame in greeting.iter().chain([&Frame::Current]) {
            sender.send(frame).await.ok();
        }
        loop {
            tokio::select! {
                text = live.recv() => if sender.send_text(text.unwrap()).await.is_err() { return },
                frame = frames.next_frame() => if !matches!(frame, Some(Ok(_))) { return },
            }
        }
    })
}

/// A running monitor and somebody who reads it.
struct Monitor {
    to: Endpoint,
    client: Client,
    _dir: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

impl Monitor {
    async fn start(agents: &[&Agent], follow: &[&Monitor]) -> Self {
        Self::start_with(agents, follow, None).await
    }

    async fn start_with(agents: &[&Agent], follow: &[&Monitor], trust: Option<&Path>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ready = dir.path().join("ready.json");
        let options = Options {
            data_dir: dir.path().join("data"),
            listen: "127.0.0.1:0".parse().unwrap(),
            trust_file: trust.map(Path::to_owned),
            ready_file: Some(ready.clone()),
            discovery: agents.iter().map(|a| a.addr.to_string().parse().unwrap()).collect(),
            follow: follow.iter().map(|monitor| monitor.to.clone()).collect(),
        };
        let stop = CancellationToken::new();
        let serving = serve(options, Clock::real(), stop.clone());
        tokio::spawn(async move { serving.await.unwrap() });
        let text = until("the ready file", async || std::fs::read(&ready).ok()).await;
        let endpoint: ServiceEndpoint = serde_json::from_slice(&text).unwrap();
        Self {
            to: Endpoint::of_key(endpoint.url, endpoint.key),
            client: Client::new(Arc::new(Identity::ephemeral())),
            _dir: dir,
            _stop: stop.drop_guard(),
        }
    }

    async fn view(&self) -> ViewReply {
        self.client.get(&self.to, "/v1/view").await.unwrap()
    }

    async fn until_view(&self, what: &str, is_so: impl Fn(&ViewReply) -> bool) -> ViewReply {
        let mut last = None;
        let look = async || {
            let view = self.view().await;
            let found = is_so(&view).then(|| view.clone());
            last = Some(view);
            found
        };
        match tokio::time::timeout(PATIENCE, until(what, look)).await {
            Ok(found) => found,
            Err(_) => panic!("waited in vain for {what}: {last:#?}"),
        }
    }

    /// Waits until the monitor knows each agent as it is now.
    async fn until_knows(&self, agents: &[&Agent]) -> ViewReply {
        self.until_view("the agents' present", |reply| {
            let knows = |agent: &&Agent| {
                reply.view.host(&agent.id()).is_some_and(|row| row.cursor == agent.cursor())
            };
            reply.is_complete && agents.iter().all(knows)
        })
        .await
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
    match tokio::time::timeout(2 * PATIENCE, found).await {
        Ok(found) => found,
        Err(_) => panic!("waited {} s in vain for {what}", PATIENCE.as_secs()),
    }
}

fn trouble(reply: &ViewReply, agent: &Agent) -> Option<String> {
    reply.freshness.iter().find(|f| f.host == agent.id())?.trouble.clone()
}

#[tokio::test]
async fn the_view_is_complete_fresh_and_follows_events() {
    let (one, two) = (Agent::start().await, Agent::start().await);
    two.happen();
    let monitor = Monitor::start(&[&one, &two], &[]).await;
    let reply = monitor.until_knows(&[&one, &two]).await;
    assert_eq!(reply.freshness.len(), 2);
    for host in &reply.freshness {
        assert_eq!(host.freshness, Freshness::Fresh);
        assert!(host.age_ms < 5_000 && host.path.starts_with("https://127.0.0.1:"), "{host:?}");
        assert_eq!(host.trouble, None);
    }
    one.live();
    monitor.until_knows(&[&one, &two]).await;
    let health: Health = monitor.client.get(&monitor.to, "/v1/health").await.unwrap();
    assert!(health.is_ready && health.role == "monitor", "{health:?}");
}

#[tokio::test]
async fn a_host_that_says_nothing_stays_fresh_while_it_lives() {
    let agent = Agent::start().await;
    let monitor = Monitor::start(&[&agent], &[]).await;
    monitor.until_knows(&[&agent]).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let reply = monitor.view().await;
    assert_eq!(reply.freshness[0].freshness, Freshness::Fresh, "{reply:?}");
}

#[tokio::test]
async fn a_cut_stream_is_resumed_at_its_cursor() {
    let agent = Agent::start().await;
    let monitor = Monitor::start(&[&agent], &[]).await;
    monitor.until_knows(&[&agent]).await;
    let known = agent.cursor();
    agent.cut_all();
    agent.happen();
    agent.happen();
    monitor.until_knows(&[&agent]).await;
    assert_eq!(agent.came_with(), [None, Some(known)]);
}

#[tokio::test]
async fn a_gap_is_closed_by_an_inventory() {
    let agent = Agent::start().await;
    let monitor = Monitor::start(&[&agent], &[]).await;
    monitor.until_knows(&[&agent]).await;
    agent.happen();
    agent.live();
    monitor.until_knows(&[&agent]).await;
    assert_eq!(agent.came_with(), [None, None]);
    let reply = monitor.until_view("no trouble", |reply| trouble(reply, &agent).is_none()).await;
    assert_eq!(reply.view.host(&agent.id()).unwrap().observed.len(), 2);
}

#[tokio::test]
async fn a_hostile_stream_is_quarantined_alone_and_its_row_kept() {
    let (liar, honest) = (Agent::start().await, Agent::start().await);
    let monitor = Monitor::start(&[&liar, &honest], &[]).await;
    monitor.until_knows(&[&liar, &honest]).await;
    let as_other = Event { host: honest.id(), ..honest.happen() };
    for (text, words) in [
        (serde_json::to_string(&Frame::Event(as_other)).unwrap(), "speaks for host"),
        ("{\"nonsense\":1}".to_owned(), "cannot be understood"),
        ("x".repeat((8 << 20) + 1), "a frame was too large"),
    ] {
        monitor.until_knows(&[&liar]).await;
        let reply = monitor.until_view("peace", |reply| trouble(reply, &liar).is_none()).await;
        assert!(reply.view.host(&liar.id()).is_some());
        liar.say_text(text);
        let reply =
            monitor.until_view("a quarantine", |reply| trouble(reply, &liar).is_some()).await;
        let said = trouble(&reply, &liar).unwrap();
        assert!(said.starts_with("quarantined: ") && said.contains(words), "{said}");
        assert_eq!(reply.view.host(&liar.id()).unwrap().cursor, liar.cursor());
        assert_eq!(trouble(&reply, &honest), None);
    }
}

#[tokio::test]
async fn monitors_converge_also_one_that_hears_only_another() {
    let (one, two) = (Agent::start().await, Agent::start().await);
    let upper = Monitor::start(&[&one, &two], &[]).await;
    let beside = Monitor::start(&[&one, &two], &[&upper]).await;
    let below = Monitor::start(&[], &[&beside]).await;
    for _ in 0..5 {
        one.live();
        two.live();
    }
    let views = [
        upper.until_knows(&[&one, &two]).await,
        beside.until_knows(&[&one, &two]).await,
        below.until_knows(&[&one, &two]).await,
    ];
    assert_eq!(views[0].view, views[1].view);
    assert_eq!(views[0].view, views[2].view);
    one.live();
    below.until_knows(&[&one, &two]).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    for host in &below.view().await.freshness {
        assert_eq!(host.freshness, Freshness::Fresh, "{host:?}");
        assert_eq!(host.path, beside.to.url);
    }
}

#[tokio::test]
async fn a_subscriber_gets_everything_then_the_present() {
    let agent = Agent::start().await;
    let monitor = Monitor::start(&[&agent], &[]).await;
    monitor.until_knows(&[&agent]).await;
    let mut frames = connect_stream(&monitor.client, &monitor.to, "/v1/events").await.unwrap();
    let mut next = async || frames.next::<Frame>().await.unwrap().unwrap();
    assert!(matches!(next().await, Frame::Inventory(i) if i.host.id == agent.id()));
    assert!(matches!(next().await, Frame::Freshness { freshness: Freshness::Fresh, .. }));
    assert_eq!(next().await, Frame::Current);
    agent.live();
    assert!(matches!(next().await, Frame::Event(e) if e.cursor == agent.cursor()));
}

#[tokio::test]
async fn with_trust_only_members_read_and_only_the_roster_is_followed() {
    let (member, stranger) = (Agent::start().await, Agent::start().await);
    let (operator, reader) = (Identity::ephemeral(), Arc::new(Identity::ephemeral()));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trust.json");
    let arbiter = Slot { slot: 0, key: operator.public(), url: String::new() };
    let trust = Trust {
        version: 1,
        operators: vec![operator.public()],
        arbiters: vec![arbiter],
        roster: vec![member.identity.public()],
        peers: vec![Peer { key: reader.public(), role: Role::Controller, url: String::new() }],
        ..Trust::of_nobody(ClusterId::new("c1").unwrap())
    };
    let signed = Signed::seal(&trust, operator.secret());
    std::fs::write(&path, serde_json::to_vec(&signed).unwrap()).unwrap();
    let mut monitor = Monitor::start_with(&[&member, &stranger], &[], Some(&path)).await;
    let refused = monitor.client.get::<ViewReply>(&monitor.to, "/v1/view").await.unwrap_err();
    assert_eq!(refused.problem().map(|problem| problem.status), Some(403), "{refused}");
    let refused = connect_stream(&monitor.client, &monitor.to, "/v1/events").await.unwrap_err();
    assert_eq!(refused.problem().map(|problem| problem.status), Some(403), "{refused}");

    monitor.client = Client::new(reader);
    let reply = monitor.until_knows(&[&member]).await;
    assert_eq!(reply.view.hosts().count(), 1);
    assert_eq!(stranger.came_with(), [], "nobody off the roster is asked for events");
}

/// Reads frames up to and with the next `current`; that as text, and the others.
async fn until_current(frames: &mut Frames) -> (serde_json::Value, Vec<Frame>) {
    let mut before = vec![];
    loop {
        let text = frames.next_text().await.unwrap().unwrap();
        match text.parse::<Frame>().unwrap() {
            Frame::Current => return (text.parse().unwrap(), before),
            frame => before.push(frame),
        }
    }
}

#[tokio::test]
async fn a_subscriber_that_comes_back_gets_only_what_it_missed() {
    let agent = Agent::start().await;
    let monitor = Monitor::start(&[&agent], &[]).await;
    monitor.until_knows(&[&agent]).await;
    let connect =
        async |path: &str| connect_stream(&monitor.client, &monitor.to, path).await.unwrap();
    let mut frames = connect("/v1/events").await;
    let (mark, _) = until_current(&mut frames).await;
    assert_eq!(mark["resumed"], false);
    drop(frames);
    agent.live();
    agent.live();
    monitor.until_knows(&[&agent]).await;
    let (stream, seq) = (mark["stream"].as_str().unwrap(), &mark["seq"]);
    let mut frames = connect(&format!("/v1/events?stream={stream}&seq={seq}")).await;
    let (again, missed) = until_current(&mut frames).await;
    assert_eq!(again["resumed"], true);
    assert!(!missed.iter().any(|frame| matches!(frame, Frame::Inventory(_))), "{missed:?}");
    let events = missed.iter().filter(|frame| matches!(frame, Frame::Event(_)));
    assert_eq!(events.count(), 2);
    for stale in ["stream=another&seq=1".to_owned(), format!("stream={stream}&seq=999999")] {
        let mut frames = connect(&format!("/v1/events?{stale}")).await;
        let (fresh, all) = until_current(&mut frames).await;
        assert_eq!(fresh["resumed"], false, "the gap is told");
        assert!(matches!(&all[0], Frame::Inventory(i) if i.cursor == agent.cursor()));
    }
}

#[tokio::test]
async fn the_view_is_read_in_pages_and_by_host() {
    let agents = [Agent::start().await, Agent::start().await, Agent::start().await];
    let all: Vec<&Agent> = agents.iter().collect();
    let monitor = Monitor::start(&all, &[]).await;
    monitor.until_knows(&all).await;
    let get = async |query: &str| -> serde_json::Value {
        monitor.client.get(&monitor.to, &format!("/v1/view?{query}")).await.unwrap()
    };
    let first = get("limit=2").await;
    assert_eq!(first["view"].as_object().unwrap().len(), 2);
    let second = get(&format!("limit=2&after={}", first["next"].as_str().unwrap())).await;
    assert_eq!(second["view"].as_object().unwrap().len(), 1);
    assert_eq!(second.get("next"), None);
    let one = get(&format!("host={}", agents[0].id())).await;
    assert_eq!(one["freshness"].as_array().unwrap().len(), 1);
    assert_eq!(one["freshness"][0]["host"], agents[0].id().as_str());
    assert_eq!(get("state=running").await["freshness"].as_array().unwrap().len(), 0);
    for bad in ["host=nobody", "label=no-value", "what=ever", "confirm=moon"] {
        let path = format!("/v1/view?{bad}");
        let error = monitor.client.get::<ViewReply>(&monitor.to, &path).await.unwrap_err();
        assert!(matches!(error.problem().map(|p| p.status), Some(400 | 404)), "{error}");
    }
}

#[tokio::test]
async fn a_row_that_must_be_fresher_is_read_from_its_host() {
    let (agent, mute) = (Agent::start().await, Agent::start().await);
    let monitor = Monitor::start(&[&agent, &mute], &[]).await;
    monitor.until_knows(&[&agent, &mute]).await;
    // Something that no stream tells.
    agent.happen();
    let path = format!("/v1/view?confirm=host&host={}", agent.id());
    let reply: ViewReply = monitor.client.get(&monitor.to, &path).await.unwrap();
    assert_eq!(reply.view.host(&agent.id()).unwrap().cursor, agent.cursor());
    assert_eq!(reply.freshness[0].age_ms, 0);
    monitor.until_knows(&[&agent]).await;
    agent.happen();
    let path = format!("/v1/view?max_age=0&host={}", agent.id());
    tokio::time::sleep(Duration::from_millis(50)).await;
    let reply: ViewReply = monitor.client.get(&monitor.to, &path).await.unwrap();
    assert_eq!(reply.view.host(&agent.id()).unwrap().cursor, agent.cursor());
    let id = mute.id();
    drop(mute);
    let path = format!("/v1/view?confirm=host&host={id}");
    let error = monitor.client.get::<ViewReply>(&monitor.to, &path).await.unwrap_err();
    assert_eq!(error.problem().map(|problem| problem.name()), Some("not-confirmed"), "{error}");
}

#[tokio::test]
async fn a_newer_agent_is_followed_loudly() {
    let agent = Agent::start().await;
    let monitor = Monitor::start(&[&agent], &[]).await;
    monitor.until_knows(&[&agent]).await;
    // A fact of a kind that does not exist here, about something that is in its inventory.
    let mut event = serde_json::to_value(Frame::Event(agent.happen())).unwrap();
    event["fact"] = serde_json::json!({"kind": "moon_phase_changed", "moon": "full"});
    agent.say_text(event.to_string());
    let is_noted = |reply: &ViewReply| {
        trouble(reply, &agent).is_some_and(|t| t.starts_with("newer agent") && t.contains("moon"))
    };
    let reply = monitor.until_view("a note of the newer agent", is_noted).await;
    assert!(!trouble(&reply, &agent).unwrap().contains("quarantined"));
    monitor.until_knows(&[&agent]).await;
    // Other frames and fields are nothing to stumble over.
    agent.say_text(r#"{"frame":"weather","rain":true}"#.to_owned());
    let mut event = serde_json::to_value(Frame::Event(agent.happen())).unwrap();
    event["mood"] = "good".into();
    agent.say_text(event.to_string());
    let reply = monitor.until_knows(&[&agent]).await;
    assert!(trouble(&reply, &agent).unwrap().starts_with("newer agent"), "it stays loud");
    assert_eq!(reply.view.host(&agent.id()).unwrap().observed.len(), 2);
}

#[tokio::test]
async fn metrics_are_what_prometheus_reads() {
    let agent = Agent::start().await;
    let monitor = Monitor::start(&[&agent], &[]).await;
    agent.live();
    monitor.until_knows(&[&agent]).await;
    let text = monitor.client.get_bytes(&monitor.to, "/metrics", 1 << 20).await.unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    for line in [
        "ostler_monitor_hosts{freshness=\"fresh\"} 1",
        "ostler_monitor_hosts{freshness=\"lost\"} 0",
        "ostler_monitor_jobs{state=\"running\"} 0",
        "ostler_monitor_quarantines_total 0",
        "ostler_monitor_subscribers 0",
        "ostler_monitor_view_complete 1",
        "# TYPE ostler_monitor_merge_seconds histogram",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
