//! Another size over the real shell: what the hypervisor is told, and what is told of it.

use hypervisor::{Definition, ErrorKind};
use protocol::api::ResizeJob;
use protocol::job::ResizeStage;
use protocol::resources::Resources;
use protocol::vm::{DiskSpec, NicSpec, SizeChange};
use uuid::Uuid;

use super::*;

const MIB: u64 = 1 << 20;

/// 1 CPU and 256 MiB, with room for 4 and 1 GiB.
fn growing() -> JobSpec {
    JobSpec::vm(VmSpec {
        vcpus: 1,
        memory_bytes: 256 * MIB,
        max_vcpus: Some(4),
        max_memory_bytes: Some(1024 * MIB),
        ..VmSpec::default()
    })
}

fn to(vcpus: u32, memory_mib: u64) -> SizeChange {
    let (vcpus, memory_bytes) = (Some(vcpus), Some(memory_mib * MIB));
    SizeChange { vcpus, memory_bytes, ..SizeChange::default() }
}

async fn resize(bench: &Bench, name: &str, revision: u64, size: SizeChange) -> Job {
    let body = ResizeJob { revision: Revision(revision), size, ticket: None, run: None };
    let path = format!("/v1/jobs/{name}/resize");
    let reply = bench.client.send::<_, Job>(Method::POST, &bench.local(), &path, &body).await;
    reply.unwrap().body
}

/// Waits until the host is through with a change.
async fn await_settled(bench: &Bench, name: &str) -> Job {
    let begin = Instant::now();
    loop {
        let path = format!("/v1/jobs/{name}");
        let job: Job = bench.client.get(&bench.local(), &path).await.unwrap();
        let stage = job.resize.as_ref().map(|resize| resize.stage);
        if stage != Some(ResizeStage::Changing) {
            return job;
        }
        assert!(begin.elapsed() < PATIENCE, "it is being changed for ever: {job:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// CPUs and MiB that the guest has, and that it would start with.
fn sizes(bench: &Bench) -> ((u32, u64), (u32, u64)) {
    let domain = &bench.fake.domains()[0];
    let defined = Definition::read(&bench.fake.definition(domain.uuid).unwrap()).unwrap();
    let has = (domain.resources.vcpus, domain.memory_now_bytes / MIB);
    (has, (defined.vcpus, defined.memory_bytes / MIB))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_with_head_room_has_its_new_size_at_once_and_so_has_its_definition() {
    let mut bench = Bench::new().await;
    bench.put("web-1", growing()).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;
    resize(&bench, "web-1", 2, to(3, 512)).await;
    assert_eq!(await_settled(&bench, "web-1").await.resize, None);
    assert_eq!(sizes(&bench), ((3, 512), (3, 512)));
    // Beyond its head-room, and beyond the death of the agent.
    let words = "vcpus 6, now 4; memory 2GiB, now 1GiB until its next start";
    resize(&bench, "web-1", 3, to(6, 2048)).await;
    assert_eq!(await_settled(&bench, "web-1").await.resize_words().as_deref(), Some(words));
    bench.end().await;
    bench.start().await;
    let job = bench.await_state("web-1", JobState::Running).await;
    assert_eq!(job.resize_words().as_deref(), Some(words));
    assert_eq!(sizes(&bench), ((4, 1024), (6, 2048)));
    bench.fake.destroy(bench.fake.domains()[0].uuid).unwrap();
    bench.await_state("web-1", JobState::Crashed).await;
    let mut spec = JobSpec::clone(&job.spec);
    spec.labels.insert("again".into(), "yes".into());
    let put = PutJob::of(Revision(4), spec);
    let path = "/v1/jobs/web-1";
    bench.client.send::<_, Job>(Method::PUT, &bench.local(), path, &put).await.unwrap();
    assert_eq!(bench.await_state("web-1", JobState::Running).await.resize, None);
    assert_eq!(sizes(&bench), ((6, 2048), (6, 2048)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_gives_nothing_up_keeps_it_until_its_next_start() {
    let bench = Bench::new().await;
    bench.put("web-1", growing()).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;
    resize(&bench, "web-1", 2, to(2, 256)).await;
    await_settled(&bench, "web-1").await;
    bench.fake.inject(Fault::GuestKeepsSize);
    resize(&bench, "web-1", 3, to(1, 128)).await;
    let job = await_settled(&bench, "web-1").await;
    let words = "vcpus 1, now 2; memory 128MiB, now 256MiB until its next start";
    assert_eq!(job.resize_words().as_deref(), Some(words));
    assert_eq!(job.promised().vcpus, 2);
    assert_eq!(sizes(&bench), ((2, 256), (1, 128)));
    // Asked again, it gives.
    resize(&bench, "web-1", 4, to(1, 128)).await;
    assert_eq!(await_settled(&bench, "web-1").await.resize, None);
    assert_eq!(sizes(&bench), ((1, 128), (1, 128)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_vm_has_its_new_size_in_its_definition_and_at_its_next_start() {
    let bench = Bench::new().await;
    bench.put("web-1", growing()).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;
    let stop = StopJob::within(0);
    let path = "/v1/jobs/web-1/stop";
    bench.client.send::<_, Job>(Method::POST, &bench.local(), path, &stop).await.unwrap();
    bench.await_state("web-1", JobState::Stopped).await;
    resize(&bench, "web-1", 2, to(2, 300)).await;
    let job = await_settled(&bench, "web-1").await;
    assert_eq!((job.state, job.resize), (JobState::Stopped, None));
    assert_eq!(sizes(&bench), ((2, 300), (2, 300)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_an_answer_is_made_again_also_by_the_next_life() {
    let mut bench = Bench::new().await;
    bench.put("web-1", growing()).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;
    bench.fake.inject(Fault::Ambiguous(Call::Resize, ErrorKind::Disconnected));
    resize(&bench, "web-1", 2, to(2, 384)).await;
    assert_eq!(await_settled(&bench, "web-1").await.resize, None);
    assert_eq!(sizes(&bench), ((2, 384), (2, 384)), "and nothing is plugged in twice");

    bench.fake.inject(Fault::Hang(Call::Resize));
    let asked = resize(&bench, "web-1", 3, to(3, 512)).await;
    assert_eq!(asked.resize.map(|r| r.stage), Some(ResizeStage::Changing));
    bench.end().await;
    bench.fake.release();
    bench.start().await;
    assert_eq!(await_settled(&bench, "web-1").await.resize, None);
    assert_eq!(sizes(&bench), ((3, 512), (3, 512)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_domain_is_resized_in_its_own_definition_and_released_with_the_one_it_had() {
    let bench = Bench::new().await;
    let legacy = Uuid::from_u128(0xf00);
    let size = Resources { vcpus: 1, memory_bytes: 64 * MIB, disk_bytes: 0 };
    bench.fake.add_foreign("legacy", legacy, size);
    let original = bench.fake.definition(legacy).unwrap();
    let spec = super::adopting::await_domain(&bench).await.spec;
    bench.put("legacy", spec).await.unwrap();
    bench.await_state("legacy", JobState::Running).await;
    resize(&bench, "legacy", 2, to(2, 128)).await;
    let words = "vcpus 2, now 1; memory 128MiB, now 64MiB until its next start";
    assert_eq!(await_settled(&bench, "legacy").await.resize_words().as_deref(), Some(words));
    assert_eq!(sizes(&bench), ((1, 64), (2, 128)));
    let path = "/v1/jobs/legacy/release";
    bench.client.send::<_, Job>(Method::POST, &bench.local(), path, &()).await.unwrap();
    super::adopting::await_domain(&bench).await;
    assert_eq!(bench.fake.definition(legacy).unwrap(), original);
}

/// Bytes of a disk as `qemu-img` sees it.
fn disk_bytes(bench: &Bench, disk: &str) -> u64 {
    let file = bench.data().join(format!("volumes/web-1/{disk}.qcow2"));
    let mut ask = std::process::Command::new("qemu-img");
    let said = ask.args(["info", "--output=json"]).arg(file).output().unwrap();
    let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    said["virtual-size"].as_u64().unwrap()
}

fn disk(name: &str, mib: u64) -> SizeChange {
    let disks = BTreeMap::from([(name.to_owned(), mib * MIB)]);
    SizeChange { disks, ..SizeChange::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_grows_with_its_guest_and_without_whatever_dies() {
    let mut bench = Bench::new().await;
    let disk_of =
        |name: &str| DiskSpec { name: name.to_owned(), size_bytes: 8 * MIB, ..DiskSpec::default() };
    let disks = vec![disk_of("root"), disk_of("data")];
    let vm = VmSpec { vcpus: 1, memory_bytes: 64 * MIB, disks, ..VmSpec::default() };
    bench.put("web-1", JobSpec::vm(vm)).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;
    resize(&bench, "web-1", 2, disk("data", 16)).await;
    assert_eq!(await_settled(&bench, "web-1").await.resize, None);
    assert_eq!((disk_bytes(&bench, "root"), disk_bytes(&bench, "data")), (8 * MIB, 16 * MIB));
    // libvirt is away, and the agent dies before it is back.
    bench.fake.inject(Fault::Fail(Call::GrowDisk, ErrorKind::Disconnected));
    let sent = resize(&bench, "web-1", 3, disk("data", 32)).await;
    assert_eq!(sent.spec.resources().disk_bytes, 40 * MIB);
    bench.end().await;
    bench.start().await;
    assert_eq!(await_settled(&bench, "web-1").await.resize, None);
    assert_eq!(disk_bytes(&bench, "data"), 32 * MIB);
    let stop = StopJob::within(0);
    let path = "/v1/jobs/web-1/stop";
    bench.client.send::<_, Job>(Method::POST, &bench.local(), path, &stop).await.unwrap();
    bench.await_state("web-1", JobState::Stopped).await;
    resize(&bench, "web-1", 4, disk("root", 24)).await;
    assert_eq!(await_settled(&bench, "web-1").await.resize, None);
    assert_eq!((disk_bytes(&bench, "root"), disk_bytes(&bench, "data")), (24 * MIB, 32 * MIB));
}

fn with_root() -> JobSpec {
    with_disks(&["root"], vec![])
}

fn with_disks(names: &[&str], nics: Vec<NicSpec>) -> JobSpec {
    let disk =
        |name: &&str| DiskSpec { name: (*name).to_owned(), size_bytes: MIB, ..DiskSpec::default() };
    let disks = names.iter().map(disk).collect();
    JobSpec::vm(VmSpec { vcpus: 1, memory_bytes: 256 * MIB, disks, nics, ..VmSpec::default() })
}

fn adds(name: &str) -> SizeChange {
    let disk = DiskSpec { name: name.into(), size_bytes: 2 * MIB, ..DiskSpec::default() };
    SizeChange { add_disks: vec![disk], ..SizeChange::default() }
}

/// Disks with a file, in the order of the alphabet.
fn files(bench: &Bench) -> Vec<String> {
    let folder = std::fs::read_dir(bench.data().join("volumes/web-1")).unwrap();
    let stem = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()
    };
    let mut files: Vec<String> = folder.map(stem).collect();
    files.sort();
    files
}

/// Disks that the guest would start with.
fn defined(bench: &Bench) -> usize {
    let uuid = bench.fake.domains()[0].uuid;
    Definition::read(&bench.fake.definition(uuid).unwrap()).unwrap().disks.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_come_with_their_files_and_go_with_them() {
    let mut bench = Bench::new().await;
    bench.put("web-1", with_root()).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;
    resize(&bench, "web-1", 2, adds("data")).await;
    assert_eq!(await_settled(&bench, "web-1").await.resize, None);
    assert_eq!((files(&bench), defined(&bench)), (vec!["data".into(), "root".into()], 2));
    // What libvirt can't have leaves no file.
    bench.fake.inject(Fault::Fail(Call::Define, ErrorKind::Refused));
    resize(&bench, "web-1", 3, adds("no")).await;
    let job = await_settled(&bench, "web-1").await;
    assert_eq!(job.spec.as_vm().unwrap().disks.len(), 2);
    assert_eq!((files(&bench).len(), defined(&bench)), (2, 2));
    // No place for another, and the agent dies: it comes with the next start.
    bench.fake.inject(Fault::NoPort);
    resize(&bench, "web-1", job.revision.0 + 1, adds("more")).await;
    let words = "without disk \"more\": no port is free until its next start";
    let job = await_settled(&bench, "web-1").await;
    assert_eq!(job.resize_words().as_deref(), Some(words));
    bench.end().await;
    bench.start().await;
    let job = bench.await_state("web-1", JobState::Running).await;
    assert_eq!(job.resize_words().as_deref(), Some(words));

    let stop = StopJob::within(0);
    let path = "/v1/jobs/web-1/stop";
    bench.client.send::<_, Job>(Method::POST, &bench.local(), path, &stop).await.unwrap();
    bench.await_state("web-1", JobState::Stopped).await;
    let gone = SizeChange { remove_disks: vec!["data".into()], ..SizeChange::default() };
    resize(&bench, "web-1", job.revision.0 + 1, gone).await;
    let job = await_settled(&bench, "web-1").await;
    assert_eq!((job.state, job.resize), (JobState::Stopped, None));
    assert_eq!((files(&bench), defined(&bench)), (vec!["more".into(), "root".into()], 2));
}

async fn row(bench: &Bench) -> Job {
    bench.client.get(&bench.local(), "/v1/jobs/web-1").await.unwrap()
}

/// Disks and cards that the guest has.
fn plugged(bench: &Bench) -> (usize, usize) {
    let shown = bench.fake.xml(bench.fake.domains()[0].uuid).unwrap();
    (shown.matches("<disk ").count(), shown.matches("<interface ").count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_guest_loses_its_disk_and_then_its_file_goes() {
    let mut bench = Bench::new().await;
    let mac = "52:54:00:00:00:21".to_owned();
    let nic = NicSpec { mac: Some(mac.clone()), ..protocol::vm::Plug::User.into() };
    bench.put("web-1", with_disks(&["root", "data", "more"], vec![nic])).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;
    let gone = |disk: &str| SizeChange { remove_disks: vec![disk.into()], ..SizeChange::default() };
    let both = SizeChange { remove_nics: vec![mac], ..gone("data") };
    resize(&bench, "web-1", 2, both).await;
    assert_eq!(await_settled(&bench, "web-1").await.resize, None);
    assert_eq!((files(&bench), plugged(&bench)), (vec!["more".into(), "root".into()], (2, 0)));

    // A guest that keeps it has its file, and so has the next life of the agent.
    bench.fake.inject(Fault::GuestKeepsDevices);
    resize(&bench, "web-1", 3, gone("more")).await;
    let job = await_settled(&bench, "web-1").await;
    let words = "still with disk \"more\" until its next start";
    assert_eq!(job.resize_words().as_deref(), Some(words));
    assert_eq!((files(&bench).len(), plugged(&bench).0, defined(&bench)), (2, 2, 1));
    assert_eq!(job.promised().disk_bytes, 2 * MIB);
    bench.end().await;
    bench.fake.inject(Fault::Fail(Call::Detach, ErrorKind::Disconnected));
    bench.start().await;
    // Asked again, it lets go of it.
    let begin = Instant::now();
    while row(&bench).await.resize.is_some() {
        assert!(begin.elapsed() < PATIENCE, "it is never asked again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((files(&bench), plugged(&bench)), (vec!["root".into()], (1, 0)));
    assert_eq!(row(&bench).await.state, JobState::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_keeps_goes_when_it_is_stopped() {
    let bench = Bench::new().await;
    bench.put("web-1", with_disks(&["root", "data"], vec![])).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;
    bench.fake.inject(Fault::GuestKeepsDevices);
    let gone = SizeChange { remove_disks: vec!["data".into()], ..SizeChange::default() };
    resize(&bench, "web-1", 2, gone).await;
    await_settled(&bench, "web-1").await;
    assert_eq!(files(&bench).len(), 2);
    let stop = StopJob::within(0);
    let path = "/v1/jobs/web-1/stop";
    bench.client.send::<_, Job>(Method::POST, &bench.local(), path, &stop).await.unwrap();
    bench.await_state("web-1", JobState::Stopped).await;
    assert_eq!(await_settled(&bench, "web-1").await.resize, None);
    assert_eq!((files(&bench), defined(&bench)), (vec!["root".into()], 1));
}
