//! A whole agent over the fake hypervisor: real files, real TLS, real processes.

mod adopting;

mod disk_images;

mod events;

mod images;

mod incoming;

mod networks;

mod openapi;

mod outage;

mod pools;

mod resizing;

mod screens;

mod snapshots;

mod usage;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use host_agent::{FetchLimits, Options, Share, run};
use hypervisor::fake::{Fake, FakeOptions, Fault, Method as Call};
use hypervisor::{ErrorKind, Hypervisor, NodeFacts};
use protocol::api::{ImageReply, JobList, PutJob, SHA256_HEADER, StopJob};
use protocol::cpus::CpuSet;
use protocol::event::Frame;
use protocol::host::Inventory;
use protocol::id::{ClusterId, JobId, Revision};
use protocol::job::{Job, JobKind, JobSpec, JobState, OneOff, Reason, Role, ServiceSpec};
use protocol::refusal::Refusal;
use protocol::signed::{Digest, Signed};
use protocol::trust::{Slot, Trust};
use protocol::vm::{Restart, VmSpec};
use transport::download::Web;
use transport::{
    CallError, CancellationToken, Client, Clock, Endpoint, Identity, Method, connect_stream,
};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PATIENCE: Duration = Duration::from_secs(20);

/// An agent in a folder of its own.
struct Bench {
    folder: tempfile::TempDir,
    fake: Fake,
    stop: CancellationToken,
    task: Option<tokio::task::JoinHandle<()>>,
    client: Client,
    share: Share,
    fetching: FetchLimits,
}

impl Bench {
    async fn new() -> Self {
        Self::over(Fake::default()).await
    }

    async fn over(fake: Fake) -> Self {
        let mut bench = Self {
            folder: tempfile::tempdir().unwrap(),
            fake,
            stop: CancellationToken::new(),
            task: None,
            client: Client::new(Arc::new(Identity::ephemeral())),
            share: Share::default(),
            fetching: FetchLimits { web: Web::believing(vec![]), ..FetchLimits::default() },
        };
        bench.start().await;
        bench
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    async fn start(&mut self) {
        self.stop = CancellationToken::new();
        let options = Options {
            data_dir: self.data(),
            listen: (LOCALHOST, 0).into(),
            advertise: None,
            name: Some("h1".into()),
            hypervisor: "fake".into(),
            accel: None,
            channels: self.folder.path().join("channels"),
            migrate_bandwidth: None,
            watchdog: None,
            discovery: vec![],
            share: self.share,
            dedicated_cpus: CpuSet::NONE,
            fetching: self.fetching.clone(),
            program: self.folder.path().join("service"),
            labels: BTreeMap::new(),
        };
        let hv: Arc<dyn Hypervisor> = Arc::new(self.fake.clone());
        let running = run(options, LOCALHOST, hv, Clock::real(), self.stop.clone());
        self.task = Some(tokio::spawn(async move { running.await.expect("the agent ends well") }));
        let local = self.local();
        let begin = Instant::now();
        while self.client.get::<Inventory>(&local, "/v1/inventory").await.is_err() {
            assert!(begin.elapsed() < PATIENCE, "the agent does not answer");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends the agent in an orderly way and waits until it is gone.
    async fn end(&mut self) {
        self.stop.cancel();
        self.task.take().expect("it runs").await.expect("it did not panic");
    }

    fn local(&self) -> Endpoint {
        Endpoint::anyone(format!("unix:{}", self.data().join("agent.sock").display()))
    }

    async fn tls(&self) -> Endpoint {
        let inventory: Inventory = self.client.get(&self.local(), "/v1/inventory").await.unwrap();
        Endpoint::of_host(inventory.host.urls[0].clone(), inventory.host.id)
    }

    async fn put(&self, name: &str, spec: JobSpec) -> Result<Job, CallError> {
        let put = PutJob::of(Revision(1), spec);
        let path = format!("/v1/jobs/{name}");
        self.client.send(Method::PUT, &self.local(), &path, &put).await.map(|reply| reply.body)
    }

    async fn await_state(&self, name: &str, state: JobState) -> Job {
        let begin = Instant::now();
        loop {
            let job: Result<Job, _> =
                self.client.get(&self.local(), &format!("/v1/jobs/{name}")).await;
            match job {
                Ok(job) if job.state == state => return job,
                other => assert!(begin.elapsed() < PATIENCE, "{name} is not {state}: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn vm() -> JobSpec {
    JobSpec::vm(VmSpec {
        vcpus: 1,
        memory_bytes: 16 << 20,
        disks: vec![],
        nics: vec![],
        ..VmSpec::default()
    })
}

/// Its hold would be closed, and the start of an earlier life might still be in libvirt's hands.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_has_failed_only_once_its_guest_is_surely_off() {
    let bench = Bench::new().await;
    bench.fake.inject(Fault::Fail(Call::Define, ErrorKind::Refused));
    bench.fake.inject(Fault::Fail(Call::Destroy, ErrorKind::Disconnected));
    bench.put("web-1", vm()).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;
    // Where that is sure, it has.
    bench.fake.inject(Fault::Fail(Call::Define, ErrorKind::Refused));
    bench.put("web-2", vm()).await.unwrap();
    bench.await_state("web-2", JobState::Failed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_there_in_the_next_life() {
    let mut bench = Bench::new().await;
    bench.put("web-1", vm()).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;
    let before: Inventory = bench.client.get(&bench.local(), "/v1/inventory").await.unwrap();
    bench.end().await;
    assert_eq!(bench.fake.domains().len(), 1, "the guest runs on without an agent");
    bench.start().await;
    let after: Inventory = bench.client.get(&bench.local(), "/v1/inventory").await.unwrap();
    assert!(after.cursor.epoch > before.cursor.epoch);
    assert_eq!(after.jobs[0].state, JobState::Running);
    assert_eq!(after.host.id, before.host.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_gets_an_inventory_then_events_and_resumes_where_it_stood() {
    let bench = Bench::new().await;
    let agent = bench.tls().await;
    let mut stream = connect_stream(&bench.client, &agent, "/v1/events").await.unwrap();
    let first: Frame = stream.next().await.unwrap().unwrap();
    let Frame::Inventory(inventory) = first else { panic!("{first:?} instead of an inventory") };
    assert_eq!(stream.next::<Frame>().await.unwrap().unwrap(), Frame::Current);
    bench.put("web-1", vm()).await.unwrap();
    let mut cursor = inventory.cursor;
    let mut cursors = vec![];
    loop {
        let frame: Frame = stream.next().await.unwrap().unwrap();
        let Frame::Event(event) = frame else { panic!("{frame:?} instead of an event") };
        assert_eq!(event.cursor, cursor.next(), "no event is missing");
        cursor = event.cursor;
        cursors.push(cursor);
        if let protocol::event::Fact::JobChanged { job } = event.fact
            && job.state == JobState::Running
        {
            break;
        }
    }
    let from = cursors[0];
    let path = format!("/v1/events?epoch={}&seq={}", from.epoch, from.seq);
    let mut again = connect_stream(&bench.client, &agent, &path).await.unwrap();
    for expected in &cursors[1..] {
        match again.next::<Frame>().await.unwrap().unwrap() {
            Frame::Event(event) => assert_eq!(event.cursor, *expected),
            other => panic!("{other:?} instead of event {expected}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_jobs_at_once_are_all_answered_and_all_run() {
    let bench = Arc::new(Bench::new().await);
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..100 {
        let bench = Arc::clone(&bench);
        asked.spawn(async move {
            let spec = JobSpec::vm(VmSpec {
                vcpus: 1,
                memory_bytes: 16 << 20,
                disks: vec![],
                nics: vec![],
                ..VmSpec::default()
            });
            bench.put(&format!("vm-{n}"), spec).await
        });
    }
    let mut accepted = 0;
    let mut full = 0;
    while let Some(answer) = asked.join_next().await {
        match answer.unwrap() {
            Ok(_) => accepted += 1,
            Err(error) => {
                assert_eq!(
                    error.problem().map(|p| p.name().to_owned()),
                    Some("no-capacity".into())
                );
                full += 1;
            }
        }
    }
    assert_eq!(accepted + full, 100);
    let list: JobList = bench.client.get(&bench.local(), "/v1/jobs").await.unwrap();
    assert_eq!(list.jobs.len(), accepted);
    for job in list.jobs {
        bench.await_state(job.id.as_str(), JobState::Running).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_trust_a_stranger_may_nothing_and_local_root_still_everything() {
    let bench = Bench::new().await;
    let agent = bench.tls().await;
    let (operator, stranger) = (Identity::ephemeral(), Identity::ephemeral());
    let inventory: Inventory = bench.client.get(&bench.local(), "/v1/inventory").await.unwrap();
    let trust = Trust {
        version: 1,
        operators: vec![operator.public()],
        arbiters: vec![Slot { slot: 0, key: stranger.public(), url: String::new() }],
        roster: vec![inventory.host.key],
        ..Trust::of_nobody(ClusterId::new("c1").unwrap())
    };
    let signed = Signed::seal(&trust, operator.secret());
    let path = "/v1/config/trust";
    bench.client.send::<_, Option<()>>(Method::PUT, &agent, path, &signed).await.unwrap();
    let refused = bench.client.get::<Inventory>(&agent, "/v1/inventory").await.unwrap_err();
    assert_eq!(refused.problem().map(|p| p.name().to_owned()), Some("forbidden".into()));
    let allowed = Client::new(Arc::new(operator));
    allowed.get::<Inventory>(&agent, "/v1/inventory").await.unwrap();
    bench.client.get::<Inventory>(&bench.local(), "/v1/inventory").await.unwrap();
    let file: Signed<Trust> =
        serde_json::from_slice(&std::fs::read(bench.data().join("trust.json")).unwrap()).unwrap();
    assert_eq!(file.open().unwrap(), trust, "services read it from there");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_arrives_whole_or_not_at_all() {
    let bench = Bench::new().await;
    let file = bench.folder.path().join("disk.raw");
    std::fs::write(&file, vec![7; 3 << 20]).unwrap();
    let header = http::HeaderName::from_static(SHA256_HEADER);
    let send = async |digest: Digest| {
        let value = digest.to_string().parse().unwrap();
        let headers = [(header.clone(), value)];
        bench
            .client
            .put_file::<ImageReply>(&bench.local(), "/v1/images/disk", &file, &headers)
            .await
    };
    let wrong = send(Digest::of(b"something else")).await.unwrap_err();
    assert_eq!(wrong.problem().map(|p| p.status), Some(400));
    let right = Digest::of(&std::fs::read(&file).unwrap());
    assert_eq!(send(right).await.unwrap().body.facts.file_bytes, 3 << 20);
    assert_eq!(send(right).await.unwrap().status, 200, "the same again changes nothing");
    let inventory: Inventory = bench.client.get(&bench.local(), "/v1/inventory").await.unwrap();
    assert_eq!(inventory.host.images.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_outlives_the_agent_and_is_found_again_by_the_next() {
    let mut bench = Bench::new().await;
    write_service(&bench.folder.path().join("service"));
    let spec = JobSpec {
        kind: JobKind::Service(ServiceSpec { role: Role::Monitor, port: 7, discovery: vec![] }),
        ..vm()
    };
    bench.put("monitor-0", spec).await.unwrap();
    let job = bench.await_state("monitor-0", JobState::Running).await;
    assert_eq!(job.endpoint.unwrap().url, "https://127.0.0.1:7");
    let pid = service_pid(&bench);
    bench.end().await;
    assert!(is_alive(pid), "the service ended with the agent");
    bench.start().await;
    bench.await_state("monitor-0", JobState::Running).await;
    assert_eq!(service_pid(&bench), pid, "it was started a second time");

    let id = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
    let begin = Instant::now();
    while service_pid(&bench) == pid {
        assert!(begin.elapsed() < PATIENCE, "a dead service is not started again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bench.await_state("monitor-0", JobState::Running).await;
    // What it writes is bounded while it runs, and whoever asks for its log has the newest of it.
    let log = bench.data().join("services/monitor-0/log");
    let writer = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
    writer.set_len(17 << 20).unwrap();
    let begin = Instant::now();
    while std::fs::metadata(&log).unwrap().len() > 0 {
        assert!(begin.elapsed() < PATIENCE, "its log grows for ever");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(std::fs::metadata(log.with_extension("0")).unwrap().len(), 16 << 20);
    let stop = StopJob::within(0);
    let path = "/v1/jobs/monitor-0/stop";
    bench.client.send::<_, Job>(Method::POST, &bench.local(), path, &stop).await.unwrap();
    bench.await_state("monitor-0", JobState::Stopped).await;
    assert!(!is_alive(service_pid(&bench)), "it was stopped and runs on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_id_that_is_no_name_and_a_body_that_is_no_job_get_problems() {
    let bench = Bench::new().await;
    let odd = bench.client.get::<Job>(&bench.local(), "/v1/jobs/Not%20A%20Name").await.unwrap_err();
    assert_eq!(odd.problem().map(|p| p.status), Some(400));
    let body = serde_json::json!({"revision": "one"});
    let bad = bench
        .client
        .send::<_, Job>(Method::PUT, &bench.local(), "/v1/jobs/web-1", &body)
        .await
        .unwrap_err();
    assert!(bad.problem().is_some_and(|p| p.status == 400 || p.status == 422), "{bad}");
    assert!(JobId::new("web-1").is_ok());
}

/// A program that does what a role does: says where it answers, and stays.
fn write_service(path: &Path) {
    let key = Identity::from_seed([9; 32]).public();
    let script = format!(
        r#"#!/bin/sh
while [ $# -gt 0 ]; do
  case $1 in --listen) listen=$2 ;; --ready-file) ready=$2 ;; esac
  shift
done
echo "{{\"url\":\"https://$listen\",\"key\":\"{key}\"}}" >"$ready.new"
mv "$ready.new" "$ready"
exec sleep 600
"#
    );
    std::fs::write(path, script).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn service_pid(bench: &Bench) -> i32 {
    let file = bench.data().join("services/monitor-0/process.json");
    let process: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    process["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap()
}

fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[tokio::test]
async fn a_one_off_job_reports_its_exit_code_or_ends_at_its_deadline() {
    let bench = Bench::new().await;
    let one_off = |deadline_ms, idle_ms| {
        let vm = VmSpec { vcpus: 1, memory_bytes: 64 << 20, ..VmSpec::default() };
        let kind = JobKind::OneOff(OneOff { vm, deadline_ms, idle_ms });
        JobSpec { kind, ..JobSpec::vm(VmSpec::default()) }
    };
    bench.put("done", one_off(60_000, None)).await.unwrap();
    bench.put("late", one_off(1_000, None)).await.unwrap();
    bench.await_state("done", JobState::Running).await;
    assert!(bench.fake.guest_exits(JobId::new("done").unwrap().domain_uuid(), 3));
    let done = bench.await_state("done", JobState::Stopped).await;
    assert_eq!(done.reason, Some(Reason::Exited { code: 3 }));
    let late = bench.await_state("late", JobState::Stopped).await;
    assert_eq!(late.reason, Some(Reason::Deadline));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_creates_at_once_are_all_answered_and_all_run() {
    const JOBS: usize = 100;
    let node = NodeFacts { cpus: 64, memory_bytes: 64 << 30 };
    let fake = Fake::new(FakeOptions { node, ..FakeOptions::default() });
    for _ in 0..JOBS {
        fake.inject(Fault::Slow(Call::Start, Duration::from_millis(20)));
    }
    let bench = Arc::new(Bench::over(fake).await);
    let vm = VmSpec { vcpus: 1, memory_bytes: 64 << 20, ..VmSpec::default() };
    let mut creates = tokio::task::JoinSet::new();
    for n in 0..JOBS {
        let (bench, spec) = (Arc::clone(&bench), JobSpec::vm(vm.clone()));
        creates.spawn(async move {
            let mut times_busy = 0;
            loop {
                match bench.put(&format!("web-{n}"), spec.clone()).await {
                    Ok(_) => return times_busy,
                    Err(error) => match error.refusal() {
                        Some(Refusal::Busy { retry_after_ms, .. }) => {
                            times_busy += 1;
                            tokio::time::sleep(Duration::from_millis(*retry_after_ms)).await;
                        }
                        _ => panic!("web-{n}: {error}"),
                    },
                }
            }
        });
    }
    let times_busy: usize = creates.join_all().await.into_iter().sum();
    assert!(times_busy > 0, "more were asked for than a host begins at once");
    for n in 0..JOBS {
        bench.await_state(&format!("web-{n}"), JobState::Running).await;
    }
}

#[tokio::test]
async fn a_guest_that_dies_is_started_again_when_its_owner_wants_that() {
    let bench = Bench::new().await;
    let vm = VmSpec { vcpus: 1, memory_bytes: 64 << 20, ..VmSpec::default() };
    let spec = JobSpec::vm(VmSpec { restart: Restart::OnCrash, ..vm });
    bench.put("web-1", spec).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;
    assert!(bench.fake.guest_crashes(JobId::new("web-1").unwrap().domain_uuid()));
    let waiting = bench.await_state("web-1", JobState::Starting).await;
    assert!(matches!(waiting.reason, Some(Reason::Restarting { number: 1, .. })), "{waiting:?}");
    bench.await_state("web-1", JobState::Running).await;
}
