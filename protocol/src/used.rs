//! What guests use on average over the last minutes, as rates: what whoever reads [`crate::usage`] again and again
//! makes of its counters.
//!
//! What is not known is left out, and is not zero: a host that is not named here may be busy or idle, and so may a VM.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{HostId, JobId};

/// A VM that has been watched for longer than this has been watched for long.
pub const WATCHED_MS_MAX: u64 = 3_600_000;

/// What is known of what guests use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Used {
    /// Hosts that say what their guests use.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hosts: BTreeMap<HostId, HostUse>,
    /// VMs of which it is known, wherever they are: what one uses goes with it when it moves.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vms: BTreeMap<JobId, VmUse>,
}

impl Used {
    /// True while nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.vms.is_empty()
    }
}

/// What there is to be used of a host, and what of it no job uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HostUse {
    /// CPUs of the machine, as its kernel counts them; how many it promises makes no difference.
    pub cpus: u32,
    /// What guests there use that are no jobs, in thousandths of a CPU.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub others_cpu_millis: u64,
}

/// What one VM uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VmUse {
    /// CPUs that its process keeps busy, in thousandths of a CPU.
    pub cpu_millis: u64,
    /// How long it has been watched without a break, in milliseconds; an hour at most, and if it is not said.
    #[serde(default = "for_long")]
    pub watched_ms: u64,
}

fn for_long() -> u64 {
    WATCHED_MS_MAX
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
