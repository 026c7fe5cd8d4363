//! A1, A2 and accepts: how long a call takes, beside a bare server doing the same JSON, over TLS, and
//! when the disk has to have it first.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use protocol::job::Job;
use serde_json::json;
use tokio::sync::Mutex;
use transport::{Client, Endpoint, Method};

use crate::agent::{Agent, body, client, in_memory, on_disk, put};
use crate::measure::{Figure, Times, load, median, timed, us};
use crate::process::Process;

const CONNECTIONS: usize = 8;
const ROUNDS: usize = 5;
const GETS: usize = 1_000;
const PUTS: usize = 50;
/// How soon one that was told that too many start asks again. A person's client waits as long as it is told.
const AGAIN: Duration = Duration::from_millis(1);

/// Numbers of jobs, so that each is new.
static JOBS: AtomicU64 = AtomicU64::new(0);

fn name() -> String {
    format!("j{}", JOBS.fetch_add(1, Ordering::Relaxed))
}

/// Many calls, so many at a time, each connection its own.
async fn calls<F, Fut>(clients: &[Client], each: usize, call: F) -> Times
where
    F: Fn(Client) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = f64> + Send + 'static,
{
    let mut tasks = tokio::task::JoinSet::new();
    for client in clients {
        let (client, call) = (client.clone(), call.clone());
        tasks.spawn(async move {
            let mut times = Vec::with_capacity(each);
            for _ in 0..each {
                times.push(call(client.clone()).await);
            }
            times
        });
    }
    Times::of(tasks.join_all().await.into_iter().flatten().collect())
}

async fn gets(clients: &[Client], to: &Endpoint) -> Times {
    let to = to.clone();
    calls(clients, GETS, move |client| {
        let to = to.clone();
        async move {
            let (answer, us) = timed(client.get::<Job>(&to, "/v1/jobs/first")).await;
            answer.expect("a job");
            us
        }
    })
    .await
}

async fn puts(clients: &[Client], to: &Endpoint, each: usize) -> Times {
    let to = to.clone();
    calls(clients, each, move |client| {
        let to = to.clone();
        async move {
            let name = name();
            loop {
                let (answer, us) = timed(put(&client, &to, &name)).await;
                if answer.is_some() {
                    return us;
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    })
    .await
}

/// Rounds of one thing and another, in turn.
#[derive(Default)]
struct Rounds {
    ours: Vec<Times>,
    theirs: Vec<Times>,
}

impl Rounds {
    fn print(&self, name: &'static str, target: &'static str, load_before: f64) {
        let p99 = |times: &[Times]| median(&times.iter().map(Times::p99).collect::<Vec<_>>());
        let p50 = |times: &[Times]| median(&times.iter().map(Times::p50).collect::<Vec<_>>());
        let pairs = self.ours.iter().zip(&self.theirs);
        let ratios: Vec<f64> = pairs.map(|(ours, theirs)| ours.p99() / theirs.p99()).collect();
        let (value, baseline) = (p99(&self.ours), p99(&self.theirs));
        let more = json!({
            "p50": p50(&self.ours).round(), "baseline_p50": p50(&self.theirs).round(),
            "ratio_p50": (p50(&self.ours) / p50(&self.theirs) * 100.0).round() / 100.0,
            "best_ratio": (Times::of(ratios.clone()).at(0) * 100.0).round() / 100.0,
            "n": self.ours.iter().map(Times::len).sum::<usize>(), "connections": CONNECTIONS,
        });
        let unit = "us p99";
        Figure { name, value, unit, baseline, target, load_before }
            .print_with(median(&ratios), &more);
    }
}

/// A1 and A2.
pub(crate) async fn run() {
    let load_before = load();
    let folder = in_memory();
    let agent = Agent::start(folder.path(), "fake").await;
    let socket = folder.path().join("bare.sock");
    let words = ["--bare", &socket.to_string_lossy()].map(str::to_owned);
    let (_bare, _) = Process::start(&words);
    let bare = Endpoint::anyone(format!("unix:{}", socket.display()));
    let clients = || (0..CONNECTIONS).map(|_| client()).collect::<Vec<_>>();
    let (ours, theirs, tls) = (clients(), clients(), clients());
    put(&client(), &agent.local, "first").await.expect("nothing else starts");

    let (mut get, mut get_tls) = (Rounds::default(), Rounds::default());
    let (mut puts_plain, mut puts_tls) = (Rounds::default(), Rounds::default());
    for round in 0..=ROUNDS {
        let plain = gets(&ours, &agent.local).await;
        let base = gets(&theirs, &bare).await;
        let sealed = gets(&tls, &agent.tls).await;
        // The first opens connections.
        if round == 0 {
            continue;
        }
        get.ours.push(plain.clone());
        get.theirs.push(base);
        get_tls.ours.push(sealed);
        get_tls.theirs.push(plain);
    }
    for round in 0..=ROUNDS {
        let plain = puts(&ours, &agent.local, PUTS).await;
        let base = bare_puts(&theirs, &bare).await;
        let sealed = puts(&tls, &agent.tls, PUTS).await;
        if round == 0 {
            continue;
        }
        puts_plain.ours.push(plain.clone());
        puts_plain.theirs.push(base);
        puts_tls.ours.push(sealed);
        puts_tls.theirs.push(plain);
    }
    get.print("A1_get", "<= 2", load_before);
    puts_plain.print("A1_put", "<= 2", load_before);
    get_tls.print("A2_get", "<= 1.5", load_before);
    puts_tls.print("A2_put", "<= 1.5", load_before);
}

async fn bare_puts(clients: &[Client], to: &Endpoint) -> Times {
    let to = to.clone();
    calls(clients, PUTS, move |client| {
        let to = to.clone();
        async move {
            let (answer, us) =
                timed(client.send::<_, Job>(Method::PUT, &to, "/v1/jobs/first", &body())).await;
            answer.expect("a job");
            us
        }
    })
    .await
}

const WRITERS: usize = 64;
const ACCEPTS_EACH: usize = 24;

/// Accepts of new jobs by 64 clients at once, on the machine's disk.
pub(crate) async fn accepts() {
    let load_before = load();
    let folder = on_disk();
    let sync = syncs(folder.path(), 200);
    let agent = Agent::start(folder.path(), "fake").await;
    let clients: Vec<Client> = (0..WRITERS).map(|_| client()).collect();
    puts(&clients, &agent.local, 1).await;
    let begin = Instant::now();
    let times = puts(&clients, &agent.local, ACCEPTS_EACH).await;
    let took = begin.elapsed();
    let single = single_syncs(folder.path()).await;
    let after = syncs(folder.path(), 200);
    let rate = times.len() as f64 / took.as_secs_f64();
    let sync_us = sync.p99().max(after.p99());
    let more = json!({
        "p50_ms": (times.p50() / 10.0).round() / 100.0, "clients": WRITERS, "n": times.len(),
        "sync_p50_ms": (sync.p50() / 10.0).round() / 100.0,
        "sync_p99_ms": (sync_us / 10.0).round() / 100.0,
    });
    let (value, baseline) = (times.p99() / 1e3, 20.0 + sync_us / 1e3);
    let name = "accept_p99";
    Figure { name, value, unit: "ms", baseline, target: "<= 1: 20 ms and a sync", load_before }
        .print(&more);
    Figure {
        name: "accepts_per_second",
        value: rate,
        unit: "1/s",
        baseline: single,
        target: ">= 3: of one sync an accept",
        load_before,
    }
    .print(&json!({ "clients": WRITERS, "n": times.len() }));
}

/// How long the disk takes to have a page.
fn syncs(folder: &std::path::Path, count: usize) -> Times {
    let mut file = File::create(folder.join("probe")).expect("a file");
    let page = [7_u8; 4096];
    let once = |_| {
        let begin = Instant::now();
        file.write_all(&page).and_then(|()| file.sync_data()).expect("a disk");
        us(begin.elapsed())
    };
    Times::of((0..count).map(once).collect())
}

/// Accepts a second when each has a sync of its own: the same clients wait for their turn.
async fn single_syncs(folder: &std::path::Path) -> f64 {
    let file = Arc::new(Mutex::new(File::create(folder.join("single")).expect("a file")));
    let row = serde_json::to_vec(&body()).expect("JSON");
    let begin = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let (file, row) = (Arc::clone(&file), row.clone());
        tasks.spawn(async move {
            for _ in 0..ACCEPTS_EACH / 2 {
                let (mut file, row) = (Arc::clone(&file).lock_owned().await, row.clone());
                let write = move || file.write_all(&row).and_then(|()| file.sync_data());
                tokio::task::spawn_blocking(write).await.expect("no panic").expect("a disk");
            }
        });
    }
    tasks.join_all().await;
    (WRITERS * (ACCEPTS_EACH / 2)) as f64 / begin.elapsed().as_secs_f64()
}
