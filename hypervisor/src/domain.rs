//! What a domain is told to be, and what it is seen to be.
//!
//! Plain values without behaviour of their own; how they look as XML is `domain_xml`'s business.

use std::path::PathBuf;

use protocol::host::Accel;
use protocol::hugepages::PageSize;
use protocol::id::JobId;
use protocol::job::Passes;
use protocol::resources::Resources;
use protocol::usage::GuestUsage;
use protocol::vm::VmSpec;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::cpu_place::CpuPlace;
use crate::error::HypervisorError;

/// Everything a definition is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainConfig {
    /// The job; its id becomes the domain's name and is written into its metadata.
    pub job: JobId,
    /// The domain's uuid, normally [`JobId::domain_uuid`].
    pub uuid: Uuid,
    /// CPUs, memory and network cards. Its disks are named here and found in `volumes`.
    pub vm: VmSpec,
    /// The disks' files, in boot order; last a CD for cloud-init, if there is one.
    pub volumes: Vec<Volume>,
    /// The file that the serial console's output is appended to. Its folder must exist.
    pub console_log: PathBuf,
    /// The file that gets what the guest writes to its second serial port, anew at each start.
    /// Without one it has no such port. Its folder must exist.
    pub exit_file: Option<PathBuf>,
    /// How the guest's instructions are executed.
    pub accel: Accel,
    /// The cgroup partition that its process is started into, such as `/ostler/UUID`; it must be there.
    /// Without one it is libvirt's own.
    pub partition: Option<String>,
    /// On which CPUs of its host it runs.
    pub cpus: CpuPlace,
}

/// A disk's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The disk's name within the VM; the guest finds it as `/dev/disk/by-id/virtio-NAME`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// How it is laid out.
    pub format: VolumeFormat,
    /// Whether it is on storage that other hosts write to as well. Then its host's page cache is not
    /// used, whatever its spec says: what is left there of a guest that was killed could reach the file
    /// when another host writes to it already.
    pub is_shared: bool,
}

/// How a volume's file is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeFormat {
    /// Grows as it is written to.
    Qcow2,
    /// Byte for byte.
    Raw,
    /// A CD, which the guest only reads.
    Iso,
}

/// A domain as seen at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainInfo {
    /// Its uuid.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: DomainState,
    /// The job in its metadata; `None` for domains of others.
    pub job: Option<JobId>,
    /// CPUs and memory. Disks are not counted: libvirt does not know them cheaply.
    pub resources: Resources,
    /// What of its memory the guest has not given back, in bytes.
    pub memory_now_bytes: u64,
    /// The size of the huge pages that its memory is in, as far as it is known: of domains of others it is read.
    pub page_size: Option<PageSize>,
    /// True when it is still known after it ended.
    pub is_persistent: bool,
}

/// What a domain with a process has used of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainUsage {
    /// Which.
    pub uuid: Uuid,
    /// What; [`GuestUsage::job`] is for whoever knows the job.
    pub usage: GuestUsage,
}

/// What came of another size for a running guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resized {
    /// What could not be done at once, and why.
    pub left: Vec<String>,
    /// True when the guest was asked to give memory back or may take some: that takes it a while, and
    /// shows in [`DomainInfo::memory_now_bytes`].
    pub is_giving: bool,
}

/// What a domain is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DomainState {
    /// Its CPUs run.
    Running,
    /// It has a process and its CPUs stand still.
    Paused(PauseReason),
    /// The guest is shutting down.
    ShuttingDown,
    /// It has no process.
    ShutOff(StopReason),
    /// The guest crashed and its process is kept for inspection.
    Crashed,
}

impl DomainState {
    /// True when it has a process, and so holds memory and its disks.
    #[must_use]
    pub fn is_active(self) -> bool {
        !matches!(self, DomainState::ShutOff(_))
    }
}

/// Why a domain is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseReason {
    /// Somebody asked for it; also a guest that arrived by a migration with `start_paused`.
    Requested,
    /// It is on its way out, or arriving.
    Migration,
    /// A disk failed or is full.
    IoError,
    /// Its process has been made and its CPUs have not begun.
    StartingUp,
    /// Anything else.
    Other,
}

/// How a domain came to have no process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The guest shut down.
    Shutdown,
    /// Somebody destroyed it.
    Destroyed,
    /// Its process died.
    Crashed,
    /// It moved to another host.
    Migrated,
    /// It was saved to a file.
    Saved,
    /// It could not be started.
    Failed,
    /// Nobody knows, as after a reboot of the host.
    Unknown,
}

/// What the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeFacts {
    /// CPUs as the kernel counts them.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// A user and a group of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

impl Owner {
    /// Who runs this program.
    #[must_use]
    pub fn of_this_process() -> Self {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        Self { uid: uid.as_raw(), gid: gid.as_raw() }
    }
}

/// Where and how a guest is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateTo {
    /// The target's libvirt, such as `qemu+unix:///system?socket=/PATH`.
    pub libvirt_uri: String,
    /// Where memory is sent, such as `unix:///PATH`. A socket file has this name on both hosts.
    pub migrate_uri: String,
    /// Where disks are sent, such as `unix:///PATH`.
    pub disks_uri: String,
    /// Guest devices, such as `vda`, of the disks that are sent; the others are on both hosts. Without
    /// a list all of them are sent. See [`crate::disk_device`].
    pub disks: Option<Vec<String>>,
    /// Virtual CPUs that the VM's spec pins. All other pins are its host's, and stay.
    pub pinned: Vec<u32>,
    /// Limit in MiB a second, of memory and of each disk.
    pub bandwidth_mib_s: Option<u64>,
    /// Slows the guest's CPUs as long as it writes faster than can be sent.
    pub auto_converge: bool,
    /// Leaves the guest paused on the target until somebody resumes it there.
    ///
    /// Without it, libvirt resumes the source when it can't tell whether the target has started
    /// the guest, so a link that breaks in that moment makes two of them run.
    pub start_paused: bool,
}

/// How a migration ended.
#[derive(Debug, Clone)]
pub enum MigrateOutcome {
    /// The guest is on the target, and its domain is gone from here.
    Moved,
    /// It did not work; libvirt says that the guest is as alive here as it was before.
    StillHere {
        /// What libvirt says of the guest here.
        state: DomainState,
        /// Why it did not work.
        error: HypervisorError,
    },
    /// Nobody here can tell where the guest is.
    Unknown {
        /// What libvirt says of the guest here, when it says anything.
        seen: Option<DomainState>,
        /// What came back.
        error: HypervisorError,
    },
}

/// How far a migration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of memory and disks sent so far.
    pub moved_bytes: u64,
    /// Bytes to send in all, as far as known; it grows while the guest writes.
    pub total_bytes: u64,
    /// How its memory goes, once that is being sent.
    pub memory: Option<Passes>,
}
