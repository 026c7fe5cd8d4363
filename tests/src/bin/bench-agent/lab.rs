//! V1 and V3, on a lab host with QEMU: a start beside `virsh create` of the same definition, and a
//! hundred at once.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use protocol::api::{JobList, StopJob};
use protocol::host::Inventory;
use protocol::job::{Job, JobState};
use serde_json::json;
use tests::lab::Lab;
use tests::operator::Operator;
use transport::{Client, Endpoint, Method, connect_stream};

use crate::agent::{client, put};
use crate::measure::{Figure, Times, load, timed, us};
use crate::starts::await_running;

const ROUNDS: usize = 15;
const STARTS: usize = 100;
/// As the agent says when too many start: a little sooner than its own word of a second.
const AGAIN: Duration = Duration::from_millis(200);

pub(crate) fn run() {
    let load_before = load();
    let Some(lab) = Lab::up("bench-agent", 1) else { return };
    let mut operator = Operator::new();
    let discovery = operator.discover(&lab.operator_address());
    lab.start_agent_with("h1", &discovery, &["--vcpu-overcommit", "100"]);
    let agent = Endpoint::anyone(format!("https://{}:7460", lab.address("h1")));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = client();
    runtime.block_on(until_it_answers(&client, &agent));

    let (mut ours, mut whole, mut create) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let start = runtime.block_on(start(&client, &agent, "bench"));
        let xml = lab.must(&["exec", "h1", "virsh", "dumpxml", "--inactive", "bench"]);
        runtime.block_on(end(&client, &agent, &["bench".to_owned()]));
        let (virsh, bare) = start_theirs(&lab, &xml);
        runtime.block_on(until_nothing_is_seen(&client, &agent));
        // The first round pays for libvirt's probing of QEMU.
        if round > 0 {
            ours.push(start);
            whole.push(virsh);
            create.push(bare);
        }
    }
    let (ours, whole, create) = (Times::of(ours), Times::of(whole), Times::of(create));
    let more = json!({
        "n": ours.len(), "without_connecting_ms": (create.p50() / 1e3).round(),
        "ratio_without_connecting": (ours.p50() / create.p50() * 100.0).round() / 100.0,
    });
    let (value, baseline) = (ours.p50() / 1e3, whole.p50() / 1e3);
    let (name, unit) = ("V1_start", "ms p50, put to running at the client");
    Figure { name, value, unit, baseline, target: "<= 1.05", load_before }.print(&more);

    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (names, took) = runtime.block_on(start_many(&client, &agent));
    runtime.block_on(end(&client, &agent, &names));
    let serial = ours.sum() / ours.len() as f64 * STARTS as f64 / cores as f64;
    let more = json!({ "starts": STARTS, "cores": cores });
    let (name, unit) = ("V3_starts", "s until all run");
    let (value, baseline) = (took / 1e6, serial / 1e6);
    Figure { name, value, unit, baseline, target: "<= 1.2", load_before }.print(&more);
}

async fn until_it_answers(client: &Client, agent: &Endpoint) {
    while client.get::<JobList>(agent, "/v1/jobs").await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A name that the agent sees taken can't be put.
async fn until_nothing_is_seen(client: &Client, agent: &Endpoint) {
    loop {
        let inventory: Inventory = client.get(agent, "/v1/inventory").await.expect("an inventory");
        if inventory.observed.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn start(client: &Client, agent: &Endpoint, name: &str) -> f64 {
    let mut events = connect_stream(client, agent, "/v1/events").await.expect("events");
    let begin = async {
        put(client, agent, name).await.expect("nothing else starts");
        await_running(&mut events, name).await;
    };
    timed(begin).await.1
}

/// All at once, by clients that are told to come again.
async fn start_many(client: &Client, agent: &Endpoint) -> (Vec<String>, f64) {
    let names: Vec<String> = (0..STARTS).map(|n| format!("many-{n}")).collect();
    let begin = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for name in names.clone() {
        let (client, agent) = (client.clone(), agent.clone());
        tasks.spawn(async move {
            while put(&client, &agent, &name).await.is_none() {
                tokio::time::sleep(AGAIN).await;
            }
        });
    }
    tasks.join_all().await;
    until(client, agent, |jobs| {
        jobs.iter().filter(|job| job.state == JobState::Running).count() >= STARTS
    })
    .await;
    (names, us(begin.elapsed()))
}

async fn until(client: &Client, agent: &Endpoint, is_so: impl Fn(&[Job]) -> bool) {
    loop {
        let list: JobList = client.get(agent, "/v1/jobs").await.expect("jobs");
        if is_so(&list.jobs) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn end(client: &Client, agent: &Endpoint, names: &[String]) {
    let stop = StopJob::within(0);
    for name in names {
        let path = format!("/v1/jobs/{name}/stop");
        client.send::<_, Job>(Method::POST, agent, &path, &stop).await.expect("it is stopped");
    }
    until(client, agent, |jobs| jobs.iter().all(|job| job.state.is_ended())).await;
    for name in names {
        let path = format!("/v1/jobs/{name}");
        let gone = client.send::<_, Option<Job>>(Method::DELETE, agent, &path, &()).await;
        gone.expect("it is deleted");
    }
    until(client, agent, <[Job]>::is_empty).await;
}

/// `virsh create` of the same XML: as a command, and without its process and connection.
fn start_theirs(lab: &Lab, xml: &str) -> (f64, f64) {
    let file = lab.data("h1").join("bench.xml");
    std::fs::write(&file, xml).expect("the host's disk can be written");
    let pid = lab.host("h1")["pid"].to_string();
    let virsh = |words: &[&str]| -> (Output, f64) {
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-m", "-n", "-p", "-u", "virsh"]).args(words);
        let begin = Instant::now();
        let output = command.output().expect("nsenter can be run");
        (output, us(begin.elapsed()))
    };
    let (created, whole) = virsh(&["create", "/var/lib/ostler/bench.xml"]);
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let (_, connect) = virsh(&["domid", "bench"]);
    let (destroyed, _) = virsh(&["destroy", "bench"]);
    assert!(destroyed.status.success());
    (whole, whole - connect)
}
