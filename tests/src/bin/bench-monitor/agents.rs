//! A process of simulated agents that speak the real protocol: TLS with a key each, WebSocket,
//! inventory, events, cursors. Told what to do by lines on standard input.
//!
//! `rate N`: N events a second from now on, spread over all hosts, until `rate 0`.
//! `probe H`: one event of host H.

use std::io::BufRead as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use protocol::api::Health;
use protocol::event::Frame;
use protocol::id::Cursor;
use protocol::view::{HostRow, Merge, View};
use tokio::net::TcpListener;
use tokio::time::interval;
use transport::stream::{Encoded, Upgrade};
use transport::{CancellationToken, FrameSender, Identity, Json, Listen, Server};

use crate::world;

struct Agent {
    n: usize,
    jobs: usize,
    identity: Arc<Identity>,
    told: Mutex<Told>,
}

struct Told {
    view: View,
    subscribers: Vec<FrameSender>,
}

/// Runs hosts `from..to`, of which every `hole`th never answers anything.
pub(crate) async fn run(from: usize, to: usize, jobs: usize, hole: Option<usize>) {
    let mut agents = Vec::new();
    let mut holes = Vec::new();
    for n in from..to {
        if hole.is_some_and(|hole| n % hole == 0) {
            // Connections come to stand and nobody ever speaks.
            holes.push(TcpListener::bind(world::address(n)).await.expect("an address"));
            continue;
        }
        let identity = Arc::new(world::identity(n));
        let mut view = View::default();
        view.merge_inventory(world::inventory(n, jobs));
        let told = Mutex::new(Told { view, subscribers: vec![] });
        let agent = Arc::new(Agent { n, jobs, identity: Arc::clone(&identity), told });
        let server = Server::bind(Listen::Tls(world::address(n)), identity).await.expect("bind");
        let router = Router::new()
            .route("/v1/health", get(health))
            .route("/v1/events", get(events))
            .with_state(Arc::clone(&agent));
        tokio::spawn(server.serve(router, CancellationToken::new()));
        agents.push(agent);
    }
    println!("ready");
    let (tell, mut told) = tokio::sync::mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if tell.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let agents = Arc::new(agents);
    let mut background = CancellationToken::new();
    while let Some(line) = told.recv().await {
        let (word, number) = line.split_once(' ').expect("a word and a number");
        let number: u64 = number.parse().expect("a number");
        match word {
            "rate" => {
                background.cancel();
                background = CancellationToken::new();
                let (agents, stop) = (Arc::clone(&agents), background.clone());
                tokio::spawn(async move {
                    stop.run_until_cancelled(live(&agents, number)).await;
                });
            }
            "probe" => {
                let n = usize::try_from(number).expect("small");
                if let Some(agent) = agents.iter().find(|agent| agent.n == n) {
                    agent.happen(0);
                }
            }
            other => panic!("what is {other}?"),
        }
    }
}

/// `rate` events a second, in steps of 10 ms.
async fn live(agents: &[Arc<Agent>], rate: u64) {
    let mut steps = interval(Duration::from_millis(10));
    let (mut due, mut next) = (0, 0);
    while rate > 0 && !agents.is_empty() {
        steps.tick().await;
        due += rate;
        while due >= 100 {
            due -= 100;
            agents[next % agents.len()].happen(1 + next / agents.len());
            next += 1;
        }
    }
}

impl Told {
    fn row(&self) -> &HostRow {
        self.view.hosts().next().expect("an agent knows its host").1
    }
}

impl Agent {
    /// Job `j` changes, and everybody who follows is told. Job 0 is left to those who measure.
    fn happen(&self, j: usize) {
        let mut told = self.told.lock().expect("no panic");
        let encoded = self.step(&mut told, j);
        told.subscribers.retain(|subscriber| subscriber.push_encoded(&encoded).is_ok());
    }

    fn step(&self, told: &mut Told, j: usize) -> Encoded {
        let j = if j == 0 { 0 } else { 1 + j % (self.jobs - 1) };
        let row = told.row();
        let event = world::event(self.n, &row.host, row.cursor, j);
        assert_eq!(told.view.merge_event(&event), Merge::Applied);
        Encoded::of(&Frame::Event(event))
    }
}

async fn health(State(agent): State<Arc<Agent>>) -> Json<Health> {
    Json(Health {
        role: "agent".into(),
        is_ready: true,
        key: agent.identity.public(),
        version: "0".into(),
        trust_version: None,
        waiting_for: vec![],
    })
}

async fn events(
    State(agent): State<Arc<Agent>>,
    axum::extract::RawQuery(query): axum::extract::RawQuery,
    upgrade: Upgrade,
) -> Response {
    upgrade.read_directly().frames(move |mut frames| async move {
        {
            let mut told = agent.told.lock().expect("no panic");
            let here = cursor_query(told.row().cursor);
            // No ring is kept: who is not at the present gets an inventory.
            if query.as_deref() != Some(&here) {
                let _ =
                    frames.sender().push(&Frame::Inventory(Box::new(told.row().clone().into())));
            }
            let _ = frames.sender().push(&Frame::Current);
            told.subscribers.retain(|subscriber| !subscriber.is_over());
            told.subscribers.push(frames.sender());
        }
        while let Some(Ok(_)) = frames.next_frame().await {}
    })
}

fn cursor_query(cursor: Cursor) -> String {
    format!("epoch={}&seq={}", cursor.epoch, cursor.seq)
}
