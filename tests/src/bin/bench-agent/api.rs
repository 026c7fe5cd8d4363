//! A1, A2 and accepts: how long a call takes, beside a bare server doing the same JSON, over TLS, and
//! when the disk has to have it first.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use protocol::job::Job;
use serde_json::json;
use transport::{Client, Endpoint, Method};

use crate::agent::{Agent, UNLISTED, body, client, in_memory, on_disk, put};
use crate::measure::{Figure, Times, load, median, round, timed, us};
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
const ACCEPTS: usize = 32;

/// Accepts of new jobs on the machine's disk: by one client, whose every accept is a sync of its own, and
/// by 64 at once, who share them. Nothing is started meanwhile.
pub(crate) async fn accepts() {
    let load_before = load();
    let folder = on_disk();
    let agent = Agent::start(folder.path(), UNLISTED).await;
    let clients: Vec<Client> = (0..WRITERS).map(|_| client()).collect();
    puts(&clients, &agent.local, 1).await;
    let (mut times, mut alone, mut sync) = (Vec::new(), Vec::new(), Vec::new());
    let (mut rates, mut rates_alone) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        sync.push(syncs(folder.path(), 100));
        let begin = Instant::now();
        alone.push(puts(&clients[..1], &agent.local, 2 * ACCEPTS).await);
        rates_alone.push(2.0 * ACCEPTS as f64 / begin.elapsed().as_secs_f64());
        let begin = Instant::now();
        times.push(puts(&clients, &agent.local, ACCEPTS / 2).await);
        rates.push((WRITERS * ACCEPTS / 2) as f64 / begin.elapsed().as_secs_f64());
    }
    let ms = |times: &[Times], of: fn(&Times) -> f64| {
        median(&times.iter().map(of).collect::<Vec<_>>()) / 1e3
    };
    let more = json!({
        "p50_ms": round(ms(&times, Times::p50)), "clients": WRITERS,
        "n": times.iter().map(Times::len).sum::<usize>(),
        "alone_p50_ms": round(ms(&alone, Times::p50)), "alone_p99_ms": round(ms(&alone, Times::p99)),
        "sync_p50_ms": round(ms(&sync, Times::p50)), "sync_p99_ms": round(ms(&sync, Times::p99)),
    });
    let (value, baseline) = (ms(&times, Times::p99), 20.0 + ms(&sync, Times::p99));
    let (name, target) = ("accept_p99", "<= 1: of 20 ms and a sync");
    Figure { name, value, unit: "ms", baseline, target, load_before }.print(&more);
    let (value, baseline) = (median(&rates), median(&rates_alone));
    let (name, target) = ("accepts_per_second", ">= 3: of one sync an accept");
    Figure { name, value, unit: "1/s", baseline, target, load_before }.print(&more);
}

/// How long the disk takes to have a page.
fn syncs(folder: &Path, count: usize) -> Times {
    let mut file = File::create(folder.join("probe")).expect("a file");
    let page = [7_u8; 4096];
    let once = |_| {
        let begin = Instant::now();
        file.write_all(&page).and_then(|()| file.sync_data()).expect("a disk");
        us(begin.elapsed())
    };
    Times::of((0..count).map(once).collect())
}
