//! Snapshots over the real shell: what a guest's disk holds before and after, with real files and nobody
//! who writes to them but the test.

use hypervisor::ErrorKind;
use protocol::api::RevertJob;
use protocol::job::{Snapshot, SnapshotStage};
use protocol::vm::DiskSpec;
use serde_json::{Value, json};

use super::*;

pub(crate) fn with_disks() -> JobSpec {
    let disk =
        |name: &str| DiskSpec { name: name.to_owned(), size_bytes: 1 << 20, ..DiskSpec::default() };
    let disks = vec![disk("root"), disk("data")];
    JobSpec::vm(VmSpec { vcpus: 1, memory_bytes: 64 << 20, disks, ..VmSpec::default() })
}

pub(crate) async fn ask(
    bench: &Bench,
    method: Method,
    path: &str,
    body: Value,
) -> Result<u16, CallError> {
    let path = format!("/v1/jobs/web-1/snapshots/{path}");
    let reply = bench.client.send::<_, Job>(method, &bench.local(), &path, &body).await?;
    Ok(reply.status)
}

async fn show(bench: &Bench, name: &str) -> Option<Snapshot> {
    let path = format!("/v1/jobs/web-1/snapshots/{name}");
    match bench.client.get(&bench.local(), &path).await {
        Ok(snapshot) => Some(snapshot),
        Err(error) => {
            assert_eq!(error.refusal().map(Refusal::name), Some("no-such-snapshot"), "{error}");
            None
        }
    }
}

pub(crate) async fn await_stage(bench: &Bench, name: &str, stage: Option<SnapshotStage>) {
    let begin = Instant::now();
    while show(bench, name).await.map(|snapshot| snapshot.stage) != stage {
        assert!(begin.elapsed() < PATIENCE, "{name} is {:?}", show(bench, name).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn revert(bench: &Bench, name: &str, revision: u64) -> Result<u16, CallError> {
    let body = json!(RevertJob { revision: Revision(revision) });
    ask(bench, Method::POST, &format!("{name}/revert"), body).await
}

async fn stop(bench: &Bench) {
    let stop = StopJob::within(0);
    let path = "/v1/jobs/web-1/stop";
    bench.client.send::<_, Job>(Method::POST, &bench.local(), path, &stop).await.unwrap();
    bench.await_state("web-1", JobState::Stopped).await;
}

pub(crate) fn qemu(program: &str, words: &[&str]) -> String {
    let output = std::process::Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn write(disk: &Path, pattern: u8) {
    let order = format!("write -q -P {pattern} 0 64k");
    qemu("qemu-io", &["-f", "qcow2", "-c", &order, disk.to_str().unwrap()]);
}

/// Fails unless that was written last.
pub(crate) fn expect(disk: &Path, pattern: u8) {
    let order = format!("read -P {pattern} 0 64k");
    let said = qemu("qemu-io", &["-f", "qcow2", "-c", &order, disk.to_str().unwrap()]);
    assert!(!said.contains("failed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_become_what_they_were_and_what_is_deleted_is_gone() {
    let mut bench = Bench::new().await;
    bench.put("web-1", with_disks()).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;
    let folder = bench.data().join("volumes/web-1");
    let disks = [folder.join("root.qcow2"), folder.join("data.qcow2")];
    disks.iter().for_each(|disk| write(disk, 1));
    // libvirt gives no answer at first; nothing had happened.
    bench.fake.inject(Fault::Fail(Call::Snapshot, ErrorKind::Disconnected));
    assert_eq!(ask(&bench, Method::PUT, "a", json!(null)).await.unwrap(), 202);
    await_stage(&bench, "a", Some(SnapshotStage::Ready)).await;
    assert_eq!(ask(&bench, Method::PUT, "a", json!(null)).await.unwrap(), 200);
    assert!(show(&bench, "a").await.unwrap().taken_ms.is_some());
    disks.iter().for_each(|disk| write(disk, 2));
    let running = revert(&bench, "a", 2).await.unwrap_err();
    assert_eq!(running.refusal().map(Refusal::name), Some("wrong-state"), "{running}");
    stop(&bench).await;
    bench.end().await;
    bench.start().await;
    assert_eq!(revert(&bench, "a", 2).await.unwrap(), 202);
    await_stage(&bench, "a", Some(SnapshotStage::Ready)).await;
    disks.iter().for_each(|disk| expect(disk, 1));
    assert_eq!(ask(&bench, Method::DELETE, "a", json!(null)).await.unwrap(), 202);
    await_stage(&bench, "a", None).await;
    for disk in &disks {
        expect(disk, 1);
        assert_eq!(qemu("qemu-img", &["snapshot", "-l", disk.to_str().unwrap()]), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_libvirt_refuses_is_said_and_takes_nothing() {
    let bench = Bench::new().await;
    bench.put("web-1", with_disks()).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;
    bench.fake.inject(Fault::Fail(Call::Snapshot, ErrorKind::Failed));
    ask(&bench, Method::PUT, "a", json!(null)).await.unwrap();
    await_stage(&bench, "a", Some(SnapshotStage::Failed)).await;
    let failed = show(&bench, "a").await.unwrap();
    assert!(failed.why.is_some_and(|why| why.contains("as the test wants it")));
    assert_eq!(failed.size_bytes, 0);
}
