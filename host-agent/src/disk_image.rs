//! An image of a VM's disk, as a snapshot keeps it, written by `qemu-img` while the guest goes on.
//!
//! Decides what is looked at first (how large it will be, whether there is room), when writing that goes
//! no further is given up, and whether what was written may be believed: the snapshot was there all the
//! time, and of a disk in a pool it was this host that had the disk all the time.
//!
//! ```text
//! reading (the snapshot stays) ─▶ measured ─▶ room taken ─▶ written ─▶ was it kept? ─ yes ─▶ all of it
//!         └── no such snapshot: end    └── too large, no room: end         └── no: not believed
//! ```
//!
//! QEMU never writes again into a block that a snapshot keeps: what is written later goes elsewhere, and so
//! do the tables that lead to it. So the file is opened without its lock (`-U`), and what is read of the
//! snapshot is the same whatever the guest does meanwhile. What would not be: the tables of the disk as it is
//! now, and blocks of a snapshot that is deleted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use hypervisor::VolumeFormat;
use protocol::id::{JobId, SnapshotName};
use protocol::image::{DiskSource, FetchState, FetchTrouble};
use protocol::refusal::Refusal;
use protocol::vm::VmSpec;
use serde::Deserialize;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use crate::core::{Reply, Request, Turn};
use crate::fetch::{Room, of_disk};
use crate::part::Part;
use crate::shell::Post;
use crate::snapshots::tag;
use crate::storage::{Storage, StorageError, run_command, say_of};

/// How long `qemu-img` may take to go through a disk's tables, some MiB for each 100 GiB.
const MEASURE_DEADLINE: Duration = Duration::from_secs(300);
/// How often it is looked how far the writing is.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long the file may stay as it is before writing is given up: long parts of a disk in which nothing was
/// ever written take their time to be passed over, and a busy disk its own.
const STILL_MAX: Duration = Duration::from_secs(600);

/// What an image is made of, and with what.
pub(crate) struct DiskImage<'a> {
    /// Which disk, and of when.
    pub source: &'a DiskSource,
    /// Where disks are.
    pub storage: &'a Storage,
    /// To the core.
    pub posts: &'a mpsc::Sender<Post>,
    /// Whether there is room.
    pub room: &'a Room,
    /// Largest image, in bytes.
    pub bytes_max: u64,
    /// At most so many bytes a second are read.
    pub bytes_per_second: Option<u64>,
}

impl DiskImage<'_> {
    /// Writes all of it into the part. Ended early, it leaves nothing behind.
    pub(crate) async fn write(
        &self,
        part: &mut Part,
        tell: &(dyn Fn(FetchState) + Send + Sync),
    ) -> Result<(), FetchTrouble> {
        let reading = Reading::begin(self.posts.clone(), self.source).await?;
        let disk = self.path_of(&reading.vm)?;
        let total_bytes = measure(&disk, &self.source.snapshot).await.map_err(of_disk)?;
        if total_bytes > self.bytes_max {
            let (bytes, limit_bytes) = (total_bytes, self.bytes_max);
            return Err(FetchTrouble::TooLarge { bytes, limit_bytes });
        }
        let size = reading.size_of(&self.source.disk);
        make_empty(part.path(), size).await.map_err(of_disk)?;
        self.room.take(part, total_bytes).await?;
        self.convert(&disk, part.path(), total_bytes, tell).await?;
        part.take_in().await.map_err(of_disk)?;
        reading.end(self.storage).await
    }

    fn path_of(&self, vm: &VmSpec) -> Result<PathBuf, FetchTrouble> {
        let DiskSource { job, disk, .. } = self.source;
        let volumes = self.storage.volumes(job, vm).map_err(of_disk)?;
        let volume = volumes.into_iter().find(|volume| volume.name == *disk);
        let volume = volume.ok_or_else(|| refused(format!("{job} has no disk {disk}")))?;
        if volume.format != VolumeFormat::Qcow2 {
            return Err(refused(format!("{} is no qcow2", volume.path.display())));
        }
        Ok(volume.path)
    }

    async fn convert(
        &self,
        disk: &Path,
        to: &Path,
        total_bytes: u64,
        tell: &(dyn Fn(FetchState) + Send + Sync),
    ) -> Result<(), FetchTrouble> {
        let mut command = Command::new("qemu-img");
        // The new file is empty, and reads as zeros.
        command.args(["convert", "-q", "-U", "-n", "--target-is-zero", "-f", "qcow2"]);
        command.args(["-O", "qcow2", "-l", &snapshot_option(&self.source.snapshot)]);
        if let Some(rate) = self.bytes_per_second {
            command.args(["-r", &rate.to_string()]);
        }
        command.arg(disk).arg(to).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let failed =
            |message: String| of_disk(StorageError::QemuImg { path: to.to_owned(), message });
        let child = command.kill_on_drop(true).spawn().map_err(|e| failed(e.to_string()))?;
        let mut ended = std::pin::pin!(child.wait_with_output());
        let (mut got_bytes, mut grown) = (0, Instant::now());
        let output = loop {
            let from = self.source.to_string();
            tell(FetchState::Fetching {
                from,
                got_bytes,
                total_bytes: Some(total_bytes),
                trouble: None,
            });
            tokio::select! {
                output = &mut ended => break output.map_err(|e| failed(e.to_string()))?,
                () = sleep(LOOK_INTERVAL) => {}
            }
            let now_bytes = fs::metadata(to).map_or(0, |found| found.len());
            if now_bytes != got_bytes {
                (got_bytes, grown) = (now_bytes, Instant::now());
            } else if grown.elapsed() > STILL_MAX {
                return Err(failed(format!("nothing more was written for {STILL_MAX:?}")));
            }
        };
        match output.status.success() {
            true => Ok(()),
            false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    }
}

/// A snapshot that stays while this is there.
struct Reading {
    posts: mpsc::Sender<Post>,
    job: JobId,
    name: SnapshotName,
    vm: VmSpec,
    turn: Option<Box<Turn>>,
    /// True once the core was told of its end.
    is_over: bool,
}

impl Reading {
    async fn begin(posts: mpsc::Sender<Post>, source: &DiskSource) -> Result<Self, FetchTrouble> {
        let (job, name) = (source.job.clone(), source.snapshot.clone());
        let request = Request::ReadSnapshot { job: job.clone(), name: name.clone() };
        match ask(&posts, request).await? {
            Reply::Reading { vm, turn } => {
                Ok(Self { posts, job, name, vm: *vm, turn, is_over: false })
            }
            _ => Err(refused("the agent gave another answer".to_owned())),
        }
    }

    /// How large a disk is, for its guest.
    fn size_of(&self, disk: &str) -> u64 {
        let found = self.vm.disks.iter().find(|found| found.name == disk);
        found.map_or(0, |found| found.size_bytes)
    }

    /// Whether what was read is what the snapshot kept.
    async fn end(mut self, storage: &Storage) -> Result<(), FetchTrouble> {
        if let Some(turn) = &self.turn {
            let listed = storage.listed_snapshots(&self.job, Some(turn)).await.map_err(of_disk)?;
            let is_there = |name: &SnapshotName| {
                listed.iter().flatten().any(|snapshot| snapshot.name == *name)
            };
            if !is_there(&self.name) {
                return Err(refused(format!(
                    "another host has taken the disks of {} meanwhile: have the image made there",
                    self.job
                )));
            }
        }
        self.is_over = true;
        let request = Request::EndReading { job: self.job.clone(), name: self.name.clone() };
        ask(&self.posts, request).await.map(drop)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let request = Request::EndReading { job: self.job.clone(), name: self.name.clone() };
        let posts = self.posts.clone();
        tokio::spawn(async move { ask(&posts, request).await });
    }
}

async fn ask(posts: &mpsc::Sender<Post>, request: Request) -> Result<Reply, FetchTrouble> {
    let (sender, answer) = oneshot::channel();
    let post = Post::Request(Box::new(request), sender, transport::traces::here());
    let stopping = || refused("the agent is stopping; ask again".to_owned());
    posts.send(post).await.map_err(|_| stopping())?;
    let answer = answer.await.map_err(|_| stopping())?;
    answer.map_err(|no: Refusal| refused(no.to_string()))
}

fn refused(message: String) -> FetchTrouble {
    FetchTrouble::Refused { message }
}

fn snapshot_option(name: &SnapshotName) -> String {
    format!("snapshot.name={}", tag(name))
}

/// What `qemu-img measure` says.
#[derive(Deserialize)]
struct Measure {
    /// Bytes of the file.
    required: u64,
}

/// How large the file will be.
async fn measure(disk: &Path, name: &SnapshotName) -> Result<u64, StorageError> {
    let mut command = Command::new("qemu-img");
    command.args(["measure", "-U", "-f", "qcow2", "-O", "qcow2", "--output", "json"]);
    command.args(["-l", &snapshot_option(name)]).arg(disk);
    let said = say_of(command, disk, MEASURE_DEADLINE).await?;
    let measure: Measure = serde_json::from_slice(&said).map_err(|error| {
        let message = format!("what it measured can't be read: {error}");
        StorageError::QemuImg { path: disk.to_owned(), message }
    })?;
    Ok(measure.required)
}

/// Makes the file, in which everything is zero.
async fn make_empty(path: &Path, size_bytes: u64) -> Result<(), StorageError> {
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2"]).arg(path).arg(size_bytes.to_string());
    run_command(command, path, MEASURE_DEADLINE).await
}
