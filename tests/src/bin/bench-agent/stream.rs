//! A3 and A4: what an event costs for each subscriber, and what an agent takes with many VMs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use protocol::api::PutIntent;
use protocol::host::HostIntent;
use serde_json::json;
use transport::{Client, Endpoint, Method, connect_stream};

use crate::agent::{Agent, client, in_memory, put};
use crate::measure::{Figure, load};
use crate::process::Process;

const SUBSCRIBERS: u64 = 1_000;
const EVENTS: u64 = 500;
/// Between two events: a hundred a second.
const EVERY: Duration = Duration::from_millis(10);

/// Subscribers as a process: for each line it says how many frames all of them have had.
pub(crate) async fn subscribe(socket: &str, count: usize) {
    let to = Endpoint::anyone(format!("unix:{socket}"));
    let client = client();
    let frames = Arc::new(AtomicU64::new(0));
    for _ in 0..count {
        let mut stream = connect_stream(&client, &to, "/v1/events").await.expect("a stream");
        let frames = Arc::clone(&frames);
        tokio::spawn(async move {
            while let Some(Ok(_)) = stream.next_text().await {
                frames.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    println!("ready");
    std::future::pending::<()>().await;
}

struct Subscribers {
    _process: Process,
}

impl Subscribers {
    fn of(socket: &str, count: u64) -> Self {
        let words = ["--subscribe", socket, &count.to_string()].map(str::to_owned);
        Self { _process: Process::start(&words).0 }
    }
}

/// Has the host tell an event, again and again.
async fn tell(client: &Client, agent: &Endpoint, events: u64) {
    let mut ticks = tokio::time::interval(EVERY);
    for event in 0..events {
        ticks.tick().await;
        let path = "/v1/config/intent";
        let told = match event % 2 {
            0 => client
                .send::<_, Option<()>>(
                    Method::PUT,
                    agent,
                    path,
                    &PutIntent { intent: HostIntent::Drain },
                )
                .await
                .map(drop),
            _ => client.send::<_, Option<()>>(Method::DELETE, agent, path, &()).await.map(drop),
        };
        told.expect("it is told");
    }
}

pub(crate) async fn run() {
    let load_before = load();
    let folder = in_memory();
    let agent = Agent::start(folder.path(), "fake").await;
    let client = client();
    let socket = folder.path().join("data/agent.sock");
    let frame = a_frame(&client, &agent.local).await;
    let cpu_of_events = async |events: u64| {
        let (before, begin) = (agent.process.cpu_us(), Instant::now());
        match events {
            0 => tokio::time::sleep(EVERY * 500).await,
            events => tell(&client, &agent.local, events).await,
        }
        (agent.process.cpu_us() - before) as f64 / begin.elapsed().as_secs_f64()
    };
    let alone = cpu_of_events(EVENTS).await;
    let subscribers = Subscribers::of(&socket.to_string_lossy(), SUBSCRIBERS);
    let idle = cpu_of_events(0).await;
    let busy = cpu_of_events(EVENTS).await;
    drop(subscribers);
    let sends_a_second =
        (SUBSCRIBERS * 1_000 / u64::try_from(EVERY.as_millis()).unwrap_or(1)) as f64;
    let ours = (busy - idle - alone).max(0.0) / sends_a_second;
    let bare = bare_send(folder.path(), &frame).await;
    let more = json!({
        "subscribers": SUBSCRIBERS, "events_per_second": 100, "frame_bytes": frame.len(),
        "idle_cpu_percent": (idle / 1e3).round() / 10.0, "busy_cpu_percent": (busy / 1e3).round() / 10.0,
    });
    let (name, unit) = ("A3_stream", "us CPU an event and subscriber");
    Figure { name, value: ours, unit, baseline: bare, target: "<= 10", load_before }.print(&more);
}

/// The text of one event.
async fn a_frame(client: &Client, agent: &Endpoint) -> String {
    let mut stream = connect_stream(client, agent, "/v1/events").await.expect("a stream");
    tell(client, agent, 2).await;
    loop {
        let text = stream.next_text().await.expect("it goes on").expect("it is sound");
        if text.as_str().contains("host_changed") {
            return text.as_str().to_owned();
        }
    }
}

/// CPU time of a bare send of the same text to as many, each flushed.
async fn bare_send(folder: &std::path::Path, frame: &str) -> f64 {
    let (socket, file) = (folder.join("bare.sock"), folder.join("frame"));
    std::fs::write(&file, frame).expect("a file");
    let words = ["--bare-stream", &socket.to_string_lossy(), &file.to_string_lossy()];
    let (mut bare, _) = Process::start(&words.map(str::to_owned));
    let _subscribers = Subscribers::of(&socket.to_string_lossy(), SUBSCRIBERS);
    let before = bare.cpu_us();
    bare.tell(&EVENTS.to_string());
    tokio::time::sleep(EVERY * 500 + Duration::from_secs(1)).await;
    (bare.cpu_us() - before) as f64 / (EVENTS * SUBSCRIBERS) as f64
}

const VMS: usize = 500;

pub(crate) async fn memory() {
    let load_before = load();
    let folder = in_memory();
    let agent = Agent::start(folder.path(), "fake").await;
    let client = client();
    let empty = agent.process.memory_bytes();
    for n in 0..VMS {
        while put(&client, &agent.local, &format!("vm-{n}")).await.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let socket = folder.path().join("data/agent.sock");
    let _subscribers = Subscribers::of(&socket.to_string_lossy(), 50);
    // What only starting needed is let go by then.
    tokio::time::sleep(Duration::from_secs(12)).await;
    tell(&client, &agent.local, 100).await;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let more = json!({ "vms": VMS, "subscribers": 50, "empty_mib": mib(empty).round() });
    let value = mib(agent.process.memory_bytes());
    let (name, unit) = ("A4_memory", "MiB resident");
    Figure { name, value, unit, baseline: 20.0, target: "<= 2", load_before }.print(&more);
}
