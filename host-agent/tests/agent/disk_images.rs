//! Images made of disks over the real shell: the fake hypervisor starts no guest, so that `qemu-io` plays one
//! and writes, while `qemu-img` reads the snapshot.

use std::fs;
use std::process::{Child, Stdio};

use protocol::image::{FetchState, FetchTrouble, ImageStatus};
use protocol::job::SnapshotStage;
use serde_json::{Value, json};

use super::pools::{config, folder, pooled};
use super::snapshots::{ask, await_stage, expect, qemu, with_disks, write};
use super::*;

const IMAGE: &str = "/v1/images/golden";

async fn fetch(bench: &Bench, body: &Value) -> Result<ImageStatus, CallError> {
    let path = format!("{IMAGE}/fetch");
    Ok(bench.client.send(Method::POST, &bench.local(), &path, body).await?.body)
}

fn of(disk: &str, snapshot: &str) -> Value {
    json!({ "from": { "disk": { "job": "web-1", "disk": disk, "snapshot": snapshot } } })
}

/// Waits until it is there, or will not come.
async fn end(bench: &Bench) -> Result<ImageStatus, FetchTrouble> {
    let begin = Instant::now();
    loop {
        let status: ImageStatus = bench.client.get(&bench.local(), IMAGE).await.unwrap();
        match &status.fetch {
            _ if status.facts.is_some() => return Ok(status),
            Some(FetchState::Failed { why }) => return Err(why.clone()),
            _ => assert!(begin.elapsed() < PATIENCE, "{:?}", status.fetch),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until it is written, and the snapshot read.
async fn await_writing(bench: &Bench) {
    let begin = Instant::now();
    loop {
        let status: ImageStatus = bench.client.get(&bench.local(), IMAGE).await.unwrap();
        if matches!(status.fetch, Some(FetchState::Fetching { .. })) {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A VM that runs, with a snapshot of its two disks; the one that is asked for by its file.
async fn with_snapshot(bench: &Bench) -> std::path::PathBuf {
    bench.put("web-1", with_disks()).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;
    let root = bench.data().join("volumes/web-1/root.qcow2");
    write(&root, 1);
    assert_eq!(ask(bench, Method::PUT, "a", json!(null)).await.unwrap(), 202);
    await_stage(bench, "a", Some(SnapshotStage::Ready)).await;
    root
}

/// Writes all over a disk until it is ended, with QEMU's lock on it, as a guest's QEMU does.
struct Writer(Child);

impl Writer {
    fn on(disk: &Path) -> Self {
        let orders = "write -q -P 9 0 1M\ndiscard 0 512k\nflush\n".repeat(20_000);
        let file = disk.parent().unwrap().join("orders");
        fs::write(&file, orders).unwrap();
        let mut command = std::process::Command::new("qemu-io");
        command.args(["-f", "qcow2", "-d", "unmap"]).arg(disk);
        command.stdin(fs::File::open(file).unwrap()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_what_the_snapshot_keeps_while_the_disk_is_written_to() {
    let bench = Bench::new().await;
    let root = with_snapshot(&bench).await;
    let writer = Writer::on(&root);
    fetch(&bench, &of("root", "a")).await.unwrap();
    let facts = end(&bench).await.unwrap().facts.unwrap();
    drop(writer);
    assert_eq!(facts.virtual_bytes, 1 << 20);
    let image = bench.data().join("images/golden.img");
    expect(&image, 1);
    let info = qemu("qemu-img", &["info", "--output=json", image.to_str().unwrap()]);
    let info: Value = serde_json::from_str(&info).unwrap();
    assert!(info.get("backing-filename").is_none() && info.get("snapshots").is_none(), "{info}");
    // Nobody reads it any more.
    assert_eq!(ask(&bench, Method::DELETE, "a", json!(null)).await.unwrap(), 202);
    await_stage(&bench, "a", None).await;
    expect(&image, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_stays_while_it_is_read_and_goes_once_that_is_called_off() {
    let bench = Bench::new().await;
    with_snapshot(&bench).await;
    let mut slow = of("root", "a");
    // One block in more than a minute.
    slow["bytes_per_second"] = json!(1000);
    fetch(&bench, &slow).await.unwrap();
    await_writing(&bench).await;
    let refused = ask(&bench, Method::DELETE, "a", json!(null)).await.unwrap_err();
    assert_eq!(refused.refusal().map(Refusal::name), Some("busy"), "{refused}");
    bench.client.send::<_, Option<()>>(Method::DELETE, &bench.local(), IMAGE, &()).await.unwrap();
    let begin = Instant::now();
    while ask(&bench, Method::DELETE, "a", json!(null)).await.is_err() {
        assert!(begin.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    await_stage(&bench, "a", None).await;
    let left = fs::read_dir(bench.data().join("images")).unwrap().count();
    assert_eq!(left, 0, "nothing of it is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_made_is_refused_at_once_and_says_what_there_is() {
    let bench = Bench::new().await;
    with_snapshot(&bench).await;
    let mut with_digest = of("root", "a");
    with_digest["sha256"] = json!("00".repeat(32));
    let cases = [
        (of("root", "b"), "no-such-snapshot", "a"),
        (of("other", "a"), "invalid", "root, data"),
        (with_digest, "invalid", "leave it out"),
    ];
    for (body, name, hint) in cases {
        let error = fetch(&bench, &body).await.unwrap_err();
        assert_eq!(error.refusal().map(Refusal::name), Some(name), "{error}");
        assert!(error.to_string().contains(hint), "{error}");
    }
    let body = json!({ "from": { "disk": { "job": "web-9", "disk": "root", "snapshot": "a" } } });
    let error = fetch(&bench, &body).await.unwrap_err();
    assert_eq!(error.refusal().map(Refusal::name), Some("no-such-job"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_of_a_disk_that_another_host_has_taken_is_not_believed() {
    let bench = Bench::new().await;
    let pool = folder();
    bench.declare(&config(1, pool.path(), true)).await.unwrap();
    bench.put("web-1", pooled(1 << 20)).await.unwrap();
    bench.await_state("web-1", JobState::Running).await;
    let volumes = pool.path().join("volumes/web-1");
    assert_eq!(ask(&bench, Method::PUT, "a", json!(null)).await.unwrap(), 202);
    await_stage(&bench, "a", Some(SnapshotStage::Ready)).await;
    let tag = volumes.join("tag.json");
    let mut taken: Value = serde_json::from_slice(&fs::read(&tag).unwrap()).unwrap();
    taken["host"] = json!("hanother");
    fs::write(&tag, taken.to_string()).unwrap();
    // The row does not know of it yet.
    fetch(&bench, &of("root", "a")).await.unwrap();
    let why = end(&bench).await.unwrap_err();
    assert!(why.to_string().contains("another host"), "{why}");
    assert_eq!(fs::read_dir(bench.data().join("images")).unwrap().count(), 0);
}
