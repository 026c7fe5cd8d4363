//! What guests use of a host right now: counters, read when somebody asks, and in no event.
//!
//! A counter begins anew with the guest's process; whoever wants a rate reads twice and divides by the
//! time between, which [`Usage::at_ms`] gives. What the hypervisor does not know is left out, and is
//! not zero.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::JobId;

/// What `GET /v1/usage` of a host answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// When the counters were read, in milliseconds since the host's boot.
    pub at_ms: u64,
    /// The machine.
    pub machine: MachineUsage,
    /// Every guest with a process, jobs and observed domains alike, by name.
    pub guests: Vec<GuestUsage>,
}

/// What is used of a machine, by guests and everything else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MachineUsage {
    /// CPUs that it has, as its kernel counts them; agents of before do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Memory that could be given to new processes, in bytes.
    pub memory_available_bytes: u64,
    /// Processes that ran or waited for a disk, on average over the last minute.
    pub load_1m: f64,
}

/// What one guest has used since its process began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestUsage {
    /// Its domain's name.
    pub name: String,
    /// The job that it is, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// CPU time of its process, in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ns: Option<u64>,
    /// Memory of the host that its process has, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Its disks, in the order of its definition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskUsage>,
    /// Its network cards that are devices of the host, in the order of its definition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<NicUsage>,
}

/// What went through one disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskUsage {
    /// As the guest's definition names it, such as `vda`.
    pub device: String,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes of the host's storage that its file takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated_bytes: Option<u64>,
}

/// What went through one network card, as the guest sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NicUsage {
    /// The host's device, such as `vnet0`.
    pub device: String,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets received.
    pub received_packets: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets dropped, in either direction.
    pub dropped_packets: u64,
}
