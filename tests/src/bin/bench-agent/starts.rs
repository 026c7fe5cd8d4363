//! V2 and V4, on libvirt's test driver: what an agent adds to a start, and to a look at all VMs.

use std::path::Path;
use std::time::Duration;

use hypervisor::{CpuPlace, DomainConfig, Hypervisor, Libvirt, LibvirtOptions};
use protocol::api::JobList;
use protocol::event::{Fact, Frame};
use protocol::host::Accel;
use protocol::id::JobId;
use protocol::job::JobState;
use protocol::usage::Usage;
use serde_json::json;
use transport::{Client, Frames, connect_stream};

use crate::agent::{Agent, client, in_memory, put, spec};
use crate::measure::{Figure, Times, load, timed, us};

/// The machine of libvirt's test driver: one with room.
const NODE: &str = "<node><cpu><mhz>6000</mhz><model>i986</model><active>50</active><nodes>4</nodes>\
    <sockets>4</sockets><cores>4</cores><threads>2</threads></cpu><memory>68719476736</memory></node>";
const STARTS: usize = 1_000;
const VMS: usize = 500;
const LOOKS: usize = 100;
const USAGES: usize = 9;
/// Longer than what was read last is told again.
const PAUSE: Duration = Duration::from_millis(1_100);

pub(crate) async fn run() {
    let load_before = load();
    let folder = in_memory();
    let node = folder.path().join("node.xml");
    std::fs::write(&node, NODE).expect("a file");
    let uri = format!("test://{}", node.display());
    let agent = Agent::start(folder.path(), &uri).await;
    let client = client();
    let bare = Libvirt::open(LibvirtOptions { uri, accel: None }).expect("libvirt");
    let mut events = connect_stream(&client, &agent.local, "/v1/events").await.expect("events");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for n in 0..STARTS {
        let name = format!("vm-{n}");
        ours.push(timed(start(&client, &agent, &mut events, &name)).await.1);
        theirs.push(define_and_start(&bare, folder.path(), &name));
        if n + 1 == VMS {
            look(&client, &agent, &bare, load_before).await;
        }
    }
    let (ours, theirs) = (Times::of(ours), Times::of(theirs));
    let more = json!({
        "p99": ours.p99().round(), "baseline_p99": theirs.p99().round(), "n": STARTS,
    });
    let (value, baseline) = (ours.p50(), theirs.p50());
    let (name, unit) = ("V2_start", "us p50, put to running at the client");
    Figure { name, value, unit, baseline, target: "<= 5", load_before }.print(&more);
}

async fn start(client: &Client, agent: &Agent, events: &mut Frames, name: &str) {
    while put(client, &agent.local, name).await.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    await_running(events, name).await;
}

/// Waits for the event that says that it runs.
pub(crate) async fn await_running(events: &mut Frames, name: &str) {
    loop {
        let frame = events.next::<Frame>().await.expect("it goes on").expect("it is sound");
        if let Frame::Event(event) = frame
            && let Fact::JobChanged { job } = event.fact
            && job.id.as_str() == name
            && job.state == JobState::Running
        {
            return;
        }
    }
}

/// The same domain by two calls of libvirt in this process.
fn define_and_start(bare: &Libvirt, folder: &Path, name: &str) -> f64 {
    let job = JobId::new(name).expect("a name");
    let config = DomainConfig {
        uuid: job.domain_uuid(),
        vm: spec().as_vm().expect("a VM").clone(),
        volumes: vec![],
        console_log: folder.join(format!("{name}.log")),
        exit_file: None,
        accel: Accel::Tcg,
        partition: None,
        cpus: CpuPlace::default(),
        job,
    };
    let begin = std::time::Instant::now();
    bare.define(&config).expect("it is defined");
    bare.start(config.uuid).expect("it starts");
    us(begin.elapsed())
}

/// V4: all VMs, by the agent and by libvirt's own call for all of them.
async fn look(client: &Client, agent: &Agent, bare: &Libvirt, load_before: f64) {
    let (mut jobs, mut stats) = (Vec::new(), Vec::new());
    for _ in 0..LOOKS {
        let (list, us_jobs) = timed(client.get::<JobList>(&agent.local, "/v1/jobs")).await;
        assert_eq!(list.expect("jobs").jobs.len(), VMS);
        jobs.push(us_jobs);
        stats.push(count_theirs(bare));
    }
    // An agent reads at most once a second; whoever waits so long finds everything cold, libvirt too.
    let (mut usage, mut rare) = (Vec::new(), Vec::new());
    for _ in 0..USAGES {
        tokio::time::sleep(PAUSE).await;
        let (answer, us_usage) = timed(client.get::<Usage>(&agent.local, "/v1/usage")).await;
        answer.expect("usage");
        usage.push(us_usage);
        tokio::time::sleep(PAUSE).await;
        rare.push(count_theirs(bare));
    }
    let unit = "us p50";
    let figure = |name, ours: Vec<f64>, theirs: Vec<f64>| {
        let (value, baseline) = (Times::of(ours).p50(), Times::of(theirs).p50());
        Figure { name, value, unit, baseline, target: "<= 1.5", load_before }
    };
    let more = json!({ "vms": VMS });
    figure("V4_state", jobs, stats).print(&more);
    figure("V4_usage", usage, rare).print(&more);
}

/// What libvirt's own call for all of them takes.
fn count_theirs(bare: &Libvirt) -> f64 {
    let begin = std::time::Instant::now();
    assert_eq!(bare.usage().expect("usage").len(), VMS);
    us(begin.elapsed())
}
