//! Benchmarks over sockets: simulated agents, three monitors, and subscribers who measure.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use protocol::event::{Fact, Frame};
use protocol::job::ServiceEndpoint;
use serde_json::json;
use tokio::sync::mpsc;
use transport::{CancellationToken, Client, Clock, Endpoint, Identity, connect_stream};

use crate::core::round2;
use crate::process::{self, Process};
use crate::world::{self, now_us};

/// Probes of M3.
const PROBES: usize = 200;

/// Events a second that no monitor here keeps up with. In four seconds they take some 80 MB, so
/// what is queued in the agents stays small whatever their number.
const FLOOD: usize = 25_000;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(120);

/// A monitor as a process of its own.
pub(crate) async fn monitor(folder: &str, discovery: &str) {
    let folder = Path::new(folder);
    let options = monitor::Options {
        data_dir: folder.join("data"),
        listen: "127.0.0.1:0".parse().expect("an address"),
        trust_file: None,
        ready_file: Some(folder.join("ready.json")),
        discovery: vec![discovery.parse().expect("a source")],
        follow: vec![],
    };
    println!("ready");
    monitor::serve(options, Clock::real(), CancellationToken::new()).await.expect("it serves");
}

struct Monitor {
    process: Process,
    to: Endpoint,
    started_us: u64,
}

impl Monitor {
    async fn start(folder: &Path, discovery: &str) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        let started_us = now_us();
        let words = ["--monitor", &folder.to_string_lossy(), discovery].map(str::to_owned);
        let (process, _) = Process::start(&words);
        let ready = folder.join("ready.json");
        while !ready.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let text = std::fs::read(ready).expect("a file");
        let endpoint: ServiceEndpoint = serde_json::from_slice(&text).expect("an endpoint");
        Self { process, to: Endpoint::of_key(endpoint.url, endpoint.key), started_us }
    }

    /// Waits until it hears so many hosts. That it calls its view complete is not enough: it gives
    /// hosts up after a while.
    async fn until_hears(&self, client: &Client, living: usize) {
        let name = "ostler_monitor_hosts{freshness=\"fresh\"}";
        let until = async {
            while self.metric(client, name).await < living as f64 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, until).await.expect("every living host is heard in time");
    }

    async fn metric(&self, client: &Client, name: &str) -> f64 {
        let text = client.get_bytes(&self.to, "/metrics", 1 << 20).await.expect("metrics");
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or(f64::NAN)
    }
}

/// Simulated hosts, and what is needed to follow them.
struct Cluster {
    client: Client,
    folder: tempfile::TempDir,
    discovery: String,
    agents: Vec<Process>,
    /// Hosts of one process of agents.
    share: usize,
    living: usize,
    facts: serde_json::Value,
}

impl Cluster {
    fn start(hosts: usize, jobs: usize, hole: Option<usize>, limit: usize) -> Self {
        let load = process::load();
        let client = Client::new(Arc::new(Identity::ephemeral()));
        let folder = tempfile::tempdir().expect("a folder");
        let list: String = (0..hosts)
            .map(|n| format!("{} {}\n", world::address(n), world::identity(n).host_id()))
            .collect();
        let file = folder.path().join("hosts");
        std::fs::write(&file, list).expect("a list");
        let discovery = format!("file://{}", file.display());
        // A listener and three followers a host, and some to spare.
        let share = (limit / 5).min(hosts.div_ceil(2)).max(1);
        let mut agents = Vec::new();
        for from in (0..hosts).step_by(share) {
            let to = (from + share).min(hosts);
            let words = format!("--agents {from} {to} {jobs} {}", hole.unwrap_or(0));
            agents.push(Process::start(&words.split(' ').map(str::to_owned).collect::<Vec<_>>()).0);
        }
        let living = hosts - hole.map_or(0, |hole| hosts.div_ceil(hole));
        let facts = json!({ "hosts": hosts, "living": living, "jobs": living * jobs,
            "agent_processes": agents.len(), "load_before": load });
        Self { client, folder, discovery, agents, share, living, facts }
    }

    async fn monitor(&self, name: &str) -> Monitor {
        Monitor::start(&self.folder.path().join(name), &self.discovery).await
    }

    /// Prints one line.
    fn say(&self, name: &str, figures: serde_json::Value) {
        let mut line = json!({ "name": name });
        for more in [figures, self.facts.clone()] {
            line.as_object_mut().expect("an object").extend(more.as_object().expect("one").clone());
        }
        println!("{line}");
    }
}

/// M3 alone, with so many events a second in the background.
pub(crate) async fn visible_only(hosts: usize, jobs: usize, rate: usize, limit: usize) {
    let mut cluster = Cluster::start(hosts, jobs, None, limit);
    let mut monitors = Vec::new();
    for name in ["m0", "m1", "m2"] {
        monitors.push(cluster.monitor(name).await);
    }
    for monitor in &monitors {
        monitor.until_hears(&cluster.client, cluster.living).await;
    }
    let figures = visible(&mut cluster, &monitors, hosts, None, rate).await;
    cluster.say("M3_visible", figures);
}

/// Everything that needs sockets, with so many hosts.
pub(crate) async fn run(hosts: usize, jobs: usize, hole: Option<usize>, limit: usize) {
    let mut cluster = Cluster::start(hosts, jobs, hole, limit);
    let (client, living) = (cluster.client.clone(), cluster.living);

    let first = cluster.monitor("m0").await;
    let empty = first.process.memory_bytes();
    first.until_hears(&client, living).await;
    let complete_us = now_us() - first.started_us;
    let cpu_us = first.process.cpu_us();
    cluster.say(
        "M4_complete",
        json!({ "value": complete_us / 1000, "unit": "ms",
        "monitor_cpu_ms": cpu_us / 1000, "cpu_us_per_host": cpu_us / living as u64 }),
    );

    tokio::time::sleep(Duration::from_secs(3)).await;
    let bytes = first.process.memory_bytes();
    cluster.say(
        "monitor_memory",
        json!({ "value": bytes >> 20, "unit": "MiB",
        "bytes_per_host": (bytes - empty) / living as u64,
        "bytes_per_job": (bytes - empty) / (living * jobs) as u64 }),
    );

    let idle_us = first.process.cpu_us();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let idle = (first.process.cpu_us() - idle_us) as f64 / 4e6;
    cluster.say("monitor_idle", json!({ "value": round2(idle * 100.0), "unit": "% of a core" }));

    let begin = now_us();
    let (mut bytes, mut frames_read) = (0, 0);
    let mut frames = connect_stream(&client, &first.to, "/v1/events").await.expect("a stream");
    loop {
        let text = frames.next_text().await.expect("a frame").expect("a sound one");
        bytes += text.as_str().len();
        frames_read += 1;
        if text.as_str().starts_with("{\"frame\":\"current\"") {
            break;
        }
    }
    drop(frames);
    cluster.say(
        "full_read",
        json!({ "value": (now_us() - begin) / 1000, "unit": "ms",
        "bytes": bytes, "frames": frames_read }),
    );

    // M1 over sockets, one monitor.
    let merged = first.metric(&client, "ostler_monitor_events_merged_total").await;
    let (cpu, begin) = (first.process.cpu_us(), now_us());
    tell_rate(&mut cluster.agents, FLOOD);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let merged = first.metric(&client, "ostler_monitor_events_merged_total").await - merged;
    let (cpu, wall) = (first.process.cpu_us() - cpu, now_us() - begin);
    cluster.say(
        "M1_merge_sockets",
        json!({ "value": (merged * 1e6 / wall as f64).round(),
        "unit": "events/s", "monitor_cpu_us_per_event": round2(cpu as f64 / merged),
        "events_per_cpu_second": (merged * 1e6 / cpu as f64).round(), "n": merged }),
    );

    tell_rate(&mut cluster.agents, 0);
    // What the agents have queued is merged after the flood; the rest is measured in peace.
    let mut before = -1.0;
    loop {
        let now = first.metric(&client, "ostler_monitor_events_merged_total").await;
        if now - before < 1.0 {
            break;
        }
        before = now;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let mut monitors = vec![first];
    for name in ["m1", "m2"] {
        monitors.push(cluster.monitor(name).await);
    }
    for monitor in &monitors {
        monitor.until_hears(&client, living).await;
    }
    for rate in [0, living.min(1_000), living] {
        let figures = visible(&mut cluster, &monitors, hosts, hole, rate).await;
        cluster.say("M3_visible", figures);
    }
    for rate in [1_000] {
        tell_rate(&mut cluster.agents, rate);
        let merged = monitors[0].metric(&client, "ostler_monitor_events_merged_total").await;
        let cpu = monitors[0].process.cpu_us();
        tokio::time::sleep(Duration::from_secs(4)).await;
        let merged =
            monitors[0].metric(&client, "ostler_monitor_events_merged_total").await - merged;
        let cpu = monitors[0].process.cpu_us() - cpu;
        tell_rate(&mut cluster.agents, 0);
        cluster.say(
            "cost_per_event",
            json!({ "value": round2(cpu as f64 / merged), "unit": "us",
            "events_per_s": (merged / 4.0).round(), "idle_percent": round2(idle * 100.0) }),
        );
    }
    agree(&cluster, &monitors).await;
}

fn tell_rate(agents: &mut [Process], rate: usize) {
    let share = rate / agents.len();
    agents.iter_mut().for_each(|agents| agents.tell(&format!("rate {share}")));
}

/// M3: from a host's change to the last of all monitors' subscribers.
async fn visible(
    cluster: &mut Cluster,
    monitors: &[Monitor],
    hosts: usize,
    hole: Option<usize>,
    rate: usize,
) -> serde_json::Value {
    let Cluster { client, agents, share, .. } = cluster;
    let (client, share) = (&*client, *share);
    let (tell, mut told) = mpsc::channel(1 << 12);
    let mut tasks = tokio::task::JoinSet::new();
    // The same event straight from the host is the yardstick.
    let watched: Vec<usize> =
        (0..hosts).filter(|n| hole.is_none_or(|hole| n % hole != 0)).collect();
    let probed = PROBES.min(watched.len());
    let watched: Vec<usize> = (0..probed).map(|i| watched[i * watched.len() / probed]).collect();
    for monitor in monitors {
        let mut frames = connect_stream(client, &monitor.to, "/v1/events").await.expect("stream");
        while frames.next::<Frame>().await.expect("goes on").expect("sound") != Frame::Current {}
        let tell = tell.clone();
        tasks.spawn(async move {
            while let Some(Ok(text)) = frames.next_text().await {
                let at = now_us();
                // Only job 0 of a host is a probe; all else is background.
                if !text.as_str().contains("-0\",\"revision\"") {
                    continue;
                }
                if let Ok(Frame::Event(event)) = text.parse::<Frame>()
                    && let Fact::JobChanged { job } = event.fact
                    && tell.send((job.id, job.since_ms, at)).await.is_err()
                {
                    return;
                }
            }
        });
    }
    drop(tell);
    tell_rate(agents, rate);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let spent = Spent::so_far(client, monitors, agents).await;
    let mut seen: HashMap<(String, u64), (usize, u64)> = HashMap::new();
    let mut latencies = Vec::new();
    let mut firsts = Vec::new();
    for i in 0..PROBES {
        let n = watched[i % watched.len()];
        agents[n / share].tell(&format!("probe {n}"));
        let deadline = tokio::time::Instant::now() + Duration::from_millis(25);
        while let Ok(Some((job, since, at))) = tokio::time::timeout_at(deadline, told.recv()).await
        {
            note(
                &mut seen,
                (job.to_string(), since),
                at,
                monitors.len(),
                &mut latencies,
                &mut firsts,
            );
        }
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(2);
    while let Ok(Some((job, since, at))) = tokio::time::timeout_at(deadline, told.recv()).await {
        note(&mut seen, (job.to_string(), since), at, monitors.len(), &mut latencies, &mut firsts);
    }
    let spent = Spent::so_far(client, monitors, agents).await.since(&spent);
    tell_rate(agents, 0);
    tasks.abort_all();
    latencies.sort_unstable();
    firsts.sort_unstable();
    let at = |sorted: &[u64], percent: usize| -> f64 {
        let i = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        sorted.get(i).map_or(f64::NAN, |us| round2(*us as f64 / 1000.0))
    };
    let mut figures = json!({ "value": at(&latencies, 99), "unit": "ms (p99)",
        "p50": at(&latencies, 50), "max": at(&latencies, 100), "first_p50": at(&firsts, 50),
        "background_per_s": rate, "monitors": monitors.len(), "n": latencies.len(),
        "probes": PROBES, "target": 20.0 });
    let more = spent.figures(monitors.len());
    figures.as_object_mut().expect("an object").extend(more.as_object().expect("one").clone());
    figures
}

/// What everybody has taken of the processors, and what came of it.
struct Spent {
    monitors_us: u64,
    agents_us: u64,
    subscribers_us: u64,
    wall_us: u64,
    /// Events that the first monitor has merged.
    merged: f64,
}

impl Spent {
    async fn so_far(client: &Client, monitors: &[Monitor], agents: &[Process]) -> Self {
        Self {
            merged: monitors[0].metric(client, "ostler_monitor_events_merged_total").await,
            monitors_us: monitors.iter().map(|monitor| monitor.process.cpu_us()).sum(),
            agents_us: agents.iter().map(Process::cpu_us).sum(),
            subscribers_us: process::cpu_us("self"),
            wall_us: now_us(),
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            merged: self.merged - before.merged,
            monitors_us: self.monitors_us - before.monitors_us,
            agents_us: self.agents_us - before.agents_us,
            subscribers_us: self.subscribers_us - before.subscribers_us,
            wall_us: self.wall_us - before.wall_us,
        }
    }

    /// CPU time an event: of each monitor, of all agents who tell all monitors, and of the
    /// subscribers, one of each monitor. How busy the machine's processors are with all of it.
    fn figures(&self, monitors: usize) -> serde_json::Value {
        let (monitors_us, agents_us) = (self.monitors_us as f64, self.agents_us as f64);
        let subscribers_us = self.subscribers_us as f64;
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let busy = (monitors_us + agents_us + subscribers_us) / self.wall_us as f64 / cores;
        json!({ "events_per_s": (self.merged * 1e6 / self.wall_us as f64).round(),
            "monitor_cpu_us_per_event": round2(monitors_us / self.merged / monitors as f64),
            "agents_cpu_us_per_event": round2(agents_us / self.merged),
            "subscribers_cpu_us_per_event": round2(subscribers_us / self.merged),
            "busy_percent": (busy * 100.0).round() })
    }
}

fn note(
    seen: &mut HashMap<(String, u64), (usize, u64)>,
    probe: (String, u64),
    at: u64,
    all: usize,
    latencies: &mut Vec<u64>,
    firsts: &mut Vec<u64>,
) {
    let since = probe.1;
    let known = seen.entry(probe).or_default();
    *known = (known.0 + 1, known.1.max(at));
    if known.0 == 1 {
        firsts.push(at.saturating_sub(since));
    }
    if known.0 == all {
        latencies.push(known.1.saturating_sub(since));
    }
}

/// M5: after churn, all monitors have the same view; how long that took once it was quiet.
async fn agree(cluster: &Cluster, monitors: &[Monitor]) {
    let begin = now_us();
    for attempt in 0..200 {
        let mut sums = Vec::new();
        for monitor in monitors {
            sums.push(view_sum(&cluster.client, monitor).await);
        }
        if sums.windows(2).all(|pair| pair[0] == pair[1]) {
            let ms = (now_us() - begin) / 1000;
            cluster.say(
                "M5_agree",
                json!({ "value": ms, "unit": "ms, reading included", "n": attempt + 1 }),
            );
            return;
        }
    }
    cluster.say("M5_agree", json!({ "value": null, "unit": "never" }));
}

/// All rows of a monitor, read in pages, as one number.
async fn view_sum(client: &Client, monitor: &Monitor) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    let mut after = String::new();
    loop {
        let path = format!("/v1/view?limit=1000{after}");
        let page: serde_json::Value = client.get(&monitor.to, &path).await.expect("a page");
        page["view"].to_string().hash(&mut hasher);
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return hasher.finish(),
        }
    }
}
