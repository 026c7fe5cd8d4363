//! How much Ostler adds to a start: the same domain by `ostler`'s agent and by `virsh create`,
//! alternating in one run, on a lab host. Prints one JSON line.
//!
//! Times are wall clock at the client, in milliseconds: `accept` from the request for an offer to
//! the durable 201; `start` from there to the event that says running; `virsh` one whole
//! `virsh create` of the same XML, its own process and connection included, and `create` the same
//! without them (a `virsh` that only connects is measured beside it and taken off).

use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::api::{OfferReply, OfferRequest, PutJob, StopJob};
use protocol::event::{Fact, Frame};
use protocol::id::{HostId, JobId, Revision};
use protocol::job::{Job, JobSpec, JobState};
use protocol::signed::Signed;
use protocol::ticket::{Action, Answer, Ticket};
use protocol::trust::Trust;
use protocol::vm::VmSpec;
use tests::lab::Lab;
use tests::operator::Operator;
use transport::{Client, Endpoint, Frames, Identity, Method, connect_stream};

const ROUNDS: usize = 15;

fn main() {
    let Some(lab) = Lab::up("bench-start", 1) else { return };
    let mut operator = Operator::new();
    operator.make_cluster(&lab);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let identity = Identity::load(&operator.context().join("operator.key")).expect("a key");
    let trust = std::fs::read(operator.context().join("trust.json")).expect("trust");
    let trust: Signed<Trust> = serde_json::from_slice(&trust).expect("signed");
    let trust = trust.open().expect("genuine");
    let host = HostId::of(&trust.roster[0]);
    let agent = Endpoint::of_host(format!("https://{}:7460", lab.address("h1")), host);
    let client = Client::new(Arc::new(identity));

    let mut figures = Figures::default();
    for round in 0..=ROUNDS {
        let ours = runtime.block_on(start_ours(&client, &agent, &trust));
        let xml = lab.must(&["exec", "h1", "virsh", "dumpxml", "--inactive", "bench"]);
        runtime.block_on(end_ours(&client, &agent));
        let theirs = start_theirs(&lab, &xml);
        // The first round pays for libvirt's probing of QEMU.
        if round > 0 {
            figures.add(ours, theirs);
        }
    }
    println!("{}", figures.line());
}

#[derive(Default)]
struct Figures {
    accept: Vec<f64>,
    ours: Vec<f64>,
    virsh: Vec<f64>,
    create: Vec<f64>,
}

impl Figures {
    fn add(&mut self, (accept, ours): (f64, f64), (virsh, create): (f64, f64)) {
        self.accept.push(accept);
        self.ours.push(ours);
        self.virsh.push(virsh);
        self.create.push(create);
    }

    fn line(&self) -> String {
        let (ours, create) = (median(&self.ours), median(&self.create));
        serde_json::json!({
            "bench": "start",
            "rounds": self.ours.len(),
            "accept_ms_p50": median(&self.accept),
            "ours_ms_p50": ours,
            "virsh_ms_p50": median(&self.virsh),
            "create_ms_p50": create,
            "overhead_ms": ours - create,
            "ratio": ours / create,
        })
        .to_string()
    }
}

/// Offer, grant, redeem, and wait for the event: (accepted, running) in milliseconds.
async fn start_ours(client: &Client, agent: &Endpoint, trust: &Trust) -> (f64, f64) {
    let mut events = connect_stream(client, agent, "/v1/events").await.expect("events");
    let id = JobId::new("bench").expect("a name");
    let vm = VmSpec {
        vcpus: 1,
        memory_bytes: 64 << 20,
        disks: vec![],
        nics: vec![],
        ..VmSpec::default()
    };
    let (revision, spec) = (Revision(1), JobSpec::vm(vm));
    let begin = Instant::now();
    let ask = OfferRequest {
        job: id,
        revision,
        spec: spec.clone(),
        action: Action::Start,
        finds_disks: false,
    };
    let offered = client.send::<_, OfferReply>(Method::POST, agent, "/v1/offers", &ask).await;
    let offer = offered.expect("an offer").body.offer;
    let arbiter = Endpoint::of_key(trust.arbiters[0].url.clone(), trust.arbiters[0].key);
    let answer = client.send::<_, Answer>(Method::POST, &arbiter, "/v1/grants", &offer).await;
    let Answer::Grant(grant) = answer.expect("an answer").body else { panic!("denied") };
    let ticket = Some(Ticket { offer, grants: vec![grant] });
    let put = PutJob { ticket, ..PutJob::of(revision, spec) };
    let path = "/v1/jobs/bench";
    client.send::<_, Job>(Method::PUT, agent, path, &put).await.expect("accepted");
    let accepted = begin.elapsed();
    await_fact(
        &mut events,
        |fact| matches!(fact, Fact::JobChanged { job } if job.state == JobState::Running),
    )
    .await;
    (ms(accepted), ms(begin.elapsed()))
}

async fn end_ours(client: &Client, agent: &Endpoint) {
    let mut events = connect_stream(client, agent, "/v1/events").await.expect("events");
    let stop = StopJob::within(0);
    let stopped = client.send::<_, Job>(Method::POST, agent, "/v1/jobs/bench/stop", &stop).await;
    stopped.expect("it is stopped");
    await_fact(
        &mut events,
        |fact| matches!(fact, Fact::JobChanged { job } if job.state == JobState::Stopped),
    )
    .await;
    client
        .send::<_, Option<Job>>(Method::DELETE, agent, "/v1/jobs/bench", &())
        .await
        .expect("it is deleted");
    await_fact(&mut events, |fact| matches!(fact, Fact::JobDeleted { .. })).await;
}

async fn await_fact(events: &mut Frames, is_it: impl Fn(&Fact) -> bool) {
    loop {
        match events.next::<Frame>().await.expect("the stream goes on").expect("and is sound") {
            Frame::Event(event) if is_it(&event.fact) => return,
            _ => {}
        }
    }
}

/// `virsh create` of the same XML: (as a command, without its process and connection).
fn start_theirs(lab: &Lab, xml: &str) -> (f64, f64) {
    let file = lab.data("h1").join("bench.xml");
    std::fs::write(&file, xml).expect("the host's disk can be written");
    let pid = lab.host("h1")["pid"].to_string();
    let virsh = |words: &[&str]| -> (Output, Duration) {
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-m", "-n", "-p", "-u", "virsh"]).args(words);
        let begin = Instant::now();
        let output = command.output().expect("nsenter can be run");
        (output, begin.elapsed())
    };
    let (created, whole) = virsh(&["create", "/var/lib/ostler/bench.xml"]);
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let (_, connect) = virsh(&["domid", "bench"]);
    let (destroyed, _) = virsh(&["destroy", "bench"]);
    assert!(destroyed.status.success());
    (ms(whole), ms(whole.saturating_sub(connect)))
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
