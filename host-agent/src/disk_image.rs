//! An image of a VM's disk, as a snapshot keeps it, written by `qemu-img` while the guest goes on.
//!
//! Decides what is looked at first (how large it will be, whether there is room), when it is given up that
//! goes no further, and whether what was written may be believed: the snapshot was there all the
//! time, and of a disk in a pool it was this host that had the disk all the time.
//!
//! ```text
//! reading (the snapshot stays) ─▶ measured ─▶ room taken ─▶ written ─▶ was it kept? ─ yes ─▶ all of it
//!         └── no such snapshot: end    └── no room: end                    └── no: not believed
//! ```
//!
//! QEMU never writes again into a block that a snapshot keeps: what is written later goes elsewhere, and the
//! tables that lead to a kept block change in nothing but a mark that readers pass over. So the file is opened
//! without its lock (`-U`), and what is read of the snapshot is the same whatever the guest does meanwhile.
//! What would not be: the disk as it is now, and blocks of a snapshot that is deleted. While the file is being
//! opened, its list of snapshots may be written anew for another one: opening is tried again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use hypervisor::VolumeFormat;
use protocol::image::{DiskSource, FetchState, FetchTrouble};
use protocol::job::Snapshot;
use protocol::refusal::Refusal;
use protocol::vm::VmSpec;
use serde::Deserialize;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::core::{Reply, Request, Turn};
use crate::fetch::{Room, of_disk};
use crate::part::Part;
use crate::qcow2::disk_bytes;
use crate::shell::Post;
use crate::snapshots::tag;
use crate::storage::{Storage, StorageError, io_error, run_command, say_of};

/// How long `qemu-img` may take to go through a disk's tables, some MiB for each 100 GiB.
const MEASURE_DEADLINE: Duration = Duration::from_secs(300);
/// What a file takes in which nothing was written yet: its header and first tables.
const EMPTY_BYTES_MAX: u64 = 1 << 20;
/// How often it is looked how far the writing is.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long nothing may be read and nothing written before it is given up: a busy disk takes its time.
const STILL_MAX: Duration = Duration::from_secs(600);
/// How often it is tried to open the file and find the snapshot in it.
const OPENINGS_MAX: u32 = 3;
/// How long a pool may take to say whose its volumes are, after hours perhaps of reading.
const POOL_PATIENCE: Duration = Duration::from_secs(60);
/// Pause before it is asked again, or a file opened again.
const PAUSE: Duration = Duration::from_millis(500);

/// What an image is made of, and with what.
pub(crate) struct DiskImage<'a> {
    /// Which disk, and of when.
    pub reading: Reading,
    /// Where disks are.
    pub storage: &'a Storage,
    /// Whether there is room.
    pub room: &'a Room,
    /// At most so many bytes a second are written.
    pub bytes_per_second: Option<u64>,
}

impl DiskImage<'_> {
    /// Writes all of it into the part.
    pub(crate) async fn write(
        self,
        part: &mut Part,
        tell: &(dyn Fn(FetchState) + Send + Sync),
    ) -> Result<(), FetchTrouble> {
        let disk = self.path_of(&self.reading.vm)?;
        let size_bytes = disk_bytes(&disk).map_err(io_error("read the size of", &disk));
        let size_bytes = size_bytes.map_err(of_disk)?;
        let total_bytes = self.measure(&disk).await.map_err(of_disk)?;
        make_empty(part.path(), size_bytes).await.map_err(of_disk)?;
        self.room.take(part, total_bytes).await?;
        self.convert(&disk, part.path(), total_bytes, tell).await.map_err(of_disk)?;
        part.take_in().await.map_err(of_disk)?;
        self.reading.end(self.storage).await
    }

    fn path_of(&self, vm: &VmSpec) -> Result<PathBuf, FetchTrouble> {
        let DiskSource { job, disk, .. } = &self.reading.source;
        let volumes = self.storage.volumes(job, vm).map_err(of_disk)?;
        let volume = volumes.into_iter().find(|volume| volume.name == *disk);
        let volume = volume.ok_or_else(|| refused(format!("{job} has no disk {disk}")))?;
        if volume.format != VolumeFormat::Qcow2 {
            return Err(refused(format!("{} is no qcow2", volume.path.display())));
        }
        Ok(volume.path)
    }

    /// How large the file will be.
    async fn measure(&self, disk: &Path) -> Result<u64, StorageError> {
        let mut openings = 0;
        let said = loop {
            let mut command = Command::new("qemu-img");
            command.args(["measure", "-U", "-f", "qcow2", "-O", "qcow2", "--output", "json"]);
            command.args(["-l", &self.snapshot_option()]).arg(disk);
            openings += 1;
            match say_of(command, disk, MEASURE_DEADLINE).await {
                Err(_) if openings < OPENINGS_MAX => sleep(PAUSE).await,
                said => break said?,
            }
        };
        let measure: Measure = serde_json::from_slice(&said).map_err(|error| {
            let message = format!("what it measured can't be read: {error}");
            StorageError::QemuImg { path: disk.to_owned(), message }
        })?;
        Ok(measure.required)
    }

    async fn convert(
        &self,
        disk: &Path,
        to: &Path,
        total_bytes: u64,
        tell: &(dyn Fn(FetchState) + Send + Sync),
    ) -> Result<(), StorageError> {
        let failed = |message: String| StorageError::QemuImg { path: to.to_owned(), message };
        let mut openings = 0;
        loop {
            let child = self.converter(disk, to).spawn().map_err(|e| failed(e.to_string()))?;
            let id = child.id();
            let mut ended = std::pin::pin!(child.wait_with_output());
            let (mut done, mut moved) = ((0, 0), Instant::now());
            let output = loop {
                let (_, got_bytes) = done;
                let from = self.reading.source.to_string();
                let (total_bytes, trouble) = (Some(total_bytes), None);
                tell(FetchState::Fetching { from, got_bytes, total_bytes, trouble });
                tokio::select! {
                    output = &mut ended => break output.map_err(|e| failed(e.to_string()))?,
                    () = sleep(LOOK_INTERVAL) => {}
                }
                let now = (read_bytes(id), fs::metadata(to).map_or(0, |found| found.len()));
                if now != done {
                    (done, moved) = (now, Instant::now());
                } else if moved.elapsed() > STILL_MAX {
                    return Err(failed(format!("nothing was read or written for {STILL_MAX:?}")));
                }
            };
            openings += 1;
            let has_begun = done.1 > EMPTY_BYTES_MAX;
            match output.status.success() {
                true => return Ok(()),
                false if openings < OPENINGS_MAX && !has_begun => sleep(PAUSE).await,
                false => {
                    let said = String::from_utf8_lossy(&output.stderr);
                    return Err(failed(said.trim().to_owned()));
                }
            }
        }
    }

    fn converter(&self, disk: &Path, to: &Path) -> Command {
        let mut command = Command::new("qemu-img");
        // The new file is empty, and reads as zeros.
        command.args(["convert", "-q", "-U", "-n", "--target-is-zero", "-f", "qcow2"]);
        command.args(["-O", "qcow2", "-l", &self.snapshot_option()]);
        if let Some(rate) = self.bytes_per_second {
            command.args(["-r", &rate.to_string()]);
        }
        command.arg(disk).arg(to).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        command
    }

    fn snapshot_option(&self) -> String {
        format!("snapshot.name={}", tag(&self.reading.source.snapshot))
    }
}

/// What a process has read so far, from files or from what the system remembers of them.
fn read_bytes(process: Option<u32>) -> u64 {
    let told = process.and_then(|id| fs::read_to_string(format!("/proc/{id}/io")).ok());
    let told = told.unwrap_or_default();
    let line = told.lines().find_map(|line| line.strip_prefix("rchar:"));
    line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or_default()
}

/// A snapshot that stays while this is there.
pub(crate) struct Reading {
    posts: mpsc::Sender<Post>,
    source: DiskSource,
    reader: Uuid,
    vm: VmSpec,
    taken_ms: Option<u64>,
    turn: Option<Box<Turn>>,
}

impl Reading {
    /// From now on it stays.
    pub(crate) async fn begin(
        posts: mpsc::Sender<Post>,
        source: DiskSource,
    ) -> Result<Self, FetchTrouble> {
        let reader = Uuid::new_v4();
        let (job, name) = (source.job.clone(), source.snapshot.clone());
        let request = Request::ReadSnapshot { job, name, reader };
        // There before the core has heard of it, so that its end is told whatever becomes of the answer.
        let vm = VmSpec::default();
        let mut begun = Self { posts, source, reader, vm, taken_ms: None, turn: None };
        let Reply::Reading { vm, taken_ms, turn } = ask(&begun.posts, request).await? else {
            return Err(refused("the agent gave another answer".to_owned()));
        };
        (begun.vm, begun.taken_ms, begun.turn) = (*vm, taken_ms, turn);
        Ok(begun)
    }

    /// Whether what was read is what the snapshot kept.
    async fn end(self, storage: &Storage) -> Result<(), FetchTrouble> {
        if let Some(turn) = &self.turn
            && !self.is_listed(storage, turn).await?
        {
            return Err(refused(format!(
                "another host has taken the disks of {} meanwhile: have the image made there",
                self.source.job
            )));
        }
        ask(&self.posts, self.ending()).await.map(drop)
    }

    /// Whether the disks in their pool are still this stay's, and have this very snapshot.
    async fn is_listed(&self, storage: &Storage, turn: &Turn) -> Result<bool, FetchTrouble> {
        let begin = Instant::now();
        let listed = loop {
            match storage.listed_snapshots(&self.source.job, Some(turn)).await {
                Err(_) if begin.elapsed() < POOL_PATIENCE => sleep(PAUSE).await,
                listed => break listed.map_err(of_disk)?,
            }
        };
        let name = &self.source.snapshot;
        let is_it = |found: &Snapshot| (&found.name, found.taken_ms) == (name, self.taken_ms);
        Ok(listed.iter().flatten().any(is_it))
    }

    fn ending(&self) -> Request {
        Request::EndReading { job: self.source.job.clone(), reader: self.reader }
    }
}

/// Told once more when it was told: that is harmless.
impl Drop for Reading {
    fn drop(&mut self) {
        let (posts, ending) = (self.posts.clone(), self.ending());
        tokio::spawn(async move { ask(&posts, ending).await });
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

/// What `qemu-img measure` says.
#[derive(Deserialize)]
struct Measure {
    /// Bytes of the file.
    required: u64,
}

/// Makes the file, in which everything is zero.
async fn make_empty(path: &Path, size_bytes: u64) -> Result<(), StorageError> {
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2"]).arg(path).arg(size_bytes.to_string());
    run_command(command, path, MEASURE_DEADLINE).await
}
