//! A process of simulated agents that speak the real protocol: TLS with a key each, WebSocket,
//! inventory, events, cursors. Told what to do by lines on standard input.
//!
//! `rate N`: N events a second from now on, spread over all hosts, until `rate 0`.
//! `probe H`: one event of host H.

use std::io::BufRead as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::get;
use protocol::api::Health;
use protocol::event::Frame;
use protocol::host::Inventory;
use protocol::id::Cursor;
use tokio::net::TcpListener;
use tokio::time::interval;
use transport::stream::Encoded;
use transport::{CancellationToken, Identity, Json, Listen, Server};

use crate::line::{self, Line};
use crate::world;

struct Agent {
    n: usize,
    identity: Arc<Identity>,
    told: Mutex<Told>,
}

struct Told {
    /// As it was at the beginning.
    inventory: Inventory,
    cursor: Cursor,
    /// When each job changed last, in microseconds; 0 if never.
    changed_us: Vec<u64>,
    followers: Vec<Line>,
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
        let inventory = world::inventory(n, jobs);
        let (cursor, changed_us) = (inventory.cursor, vec![0; jobs]);
        let told = Mutex::new(Told { inventory, cursor, changed_us, followers: vec![] });
        let agent = Arc::new(Agent { n, identity: Arc::clone(&identity), told });
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

impl Agent {
    /// Job `j` changes, and everybody who follows is told. Job 0 is left to those who measure.
    fn happen(&self, j: usize) {
        let mut told = self.told.lock().expect("no panic");
        let j = if j == 0 { 0 } else { 1 + j % (told.changed_us.len() - 1) };
        let (event, at_us) = world::event(self.n, &told.inventory.host, told.cursor, j);
        (told.cursor, told.changed_us[j]) = (event.cursor, at_us);
        let frame = line::frame(Encoded::of(&Frame::Event(event)).as_str());
        told.followers.retain(|follower| follower.push(&frame));
    }

    /// Tells a newcomer everything, or nothing when it is at the present: no ring is kept.
    fn greet(&self, query: Option<&str>, follower: Line) {
        let mut told = self.told.lock().expect("no panic");
        let push = |frame: &Frame| follower.push(&line::frame(Encoded::of(frame).as_str()));
        if query != Some(&cursor_query(told.cursor)) {
            let mut inventory = Inventory { cursor: told.cursor, ..told.inventory.clone() };
            for (j, (job, at_us)) in inventory.jobs.iter_mut().zip(&told.changed_us).enumerate() {
                *job = world::job(self.n, j, *at_us);
            }
            push(&Frame::Inventory(Box::new(inventory)));
        }
        push(&Frame::Current);
        told.followers.push(follower);
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

async fn events(State(agent): State<Arc<Agent>>, request: Request) -> Response {
    let query = request.uri().query().map(str::to_owned);
    line::open(request, move |follower| agent.greet(query.as_deref(), follower))
}

fn cursor_query(cursor: Cursor) -> String {
    format!("epoch={}&seq={}", cursor.epoch, cursor.seq)
}
