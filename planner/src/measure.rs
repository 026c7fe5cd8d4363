//! By what hosts are compared when they are to be balanced: a share of each, and what of it is one VM's.
//!
//! What is *promised* is known of every host, and changes only when somebody changes a VM. What guests *use* of CPUs is
//! measured by whoever plans: it is known of some hosts and VMs, and changes by itself. A host has a share by use only if
//! it is known of all its guests, as one that is not counted would be taken for idle.

use protocol::id::JobId;
use protocol::resources::Resources;
use protocol::view::HostRow;
use serde::{Deserialize, Serialize};

use crate::policy::millionths;
use crate::state::{Placed, State};

/// Thousandths of a CPU.
const MILLIS: u64 = 1_000;

/// What is compared.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// What is promised of memory or of vCPUs, whichever is more of what the host has.
    #[default]
    Promised,
    /// CPUs that guests keep busy, of those that the machine has.
    Cpu,
}

impl Measure {
    /// True for the measure of those who name none.
    #[must_use]
    pub fn is_promised(&self) -> bool {
        *self == Measure::Promised
    }

    /// As it is written in an expectation.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Measure::Promised => "promised",
            Measure::Cpu => "cpu",
        }
    }

    /// What a host is by it: `h1 is 75% full`.
    pub(crate) fn adjective(self) -> &'static str {
        match self {
            Measure::Promised => "full",
            Measure::Cpu => "busy",
        }
    }

    /// A host's share, in millionths; `None` where it is not known.
    pub(crate) fn share(self, state: &State<'_>, row: &HostRow) -> Option<u64> {
        match self {
            Measure::Promised => Some(share(state.allocation(row), row.host.capacity)),
            Measure::Cpu => Some(millionths(state.cpu_millis(row)?, cpu_millis_of(state, row)?)),
        }
    }

    /// What the share of a host that has a VM is without it.
    pub(crate) fn without(self, state: &State<'_>, row: &HostRow, vm: Vm<'_>) -> Option<u64> {
        match self {
            Measure::Promised => {
                let left = state.allocation(row).minus(vm.placed.allocation());
                Some(share(left, row.host.capacity))
            }
            Measure::Cpu => {
                let left = state.cpu_millis(row)?.saturating_sub(vm.cpu_millis(state)?);
                Some(millionths(left, cpu_millis_of(state, row)?))
            }
        }
    }

    /// What the share of a host that does not have a VM is with it.
    pub(crate) fn with(self, state: &State<'_>, row: &HostRow, vm: Vm<'_>) -> Option<u64> {
        match self {
            Measure::Promised => {
                let arrived = state.allocation(row).plus(vm.placed.allocation());
                Some(share(arrived, row.host.capacity))
            }
            Measure::Cpu => {
                let arrived = state.cpu_millis(row)?.saturating_add(vm.cpu_millis(state)?);
                Some(millionths(arrived, cpu_millis_of(state, row)?))
            }
        }
    }

    /// What of a host's share is one VM's, where that is known.
    pub(crate) fn part(self, state: &State<'_>, row: &HostRow, vm: Vm<'_>) -> Option<u64> {
        match self {
            Measure::Promised => Some(share(vm.placed.allocation(), row.host.capacity)),
            Measure::Cpu => Some(millionths(vm.cpu_millis(state)?, cpu_millis_of(state, row)?)),
        }
    }
}

/// A VM on a host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vm<'v> {
    pub(crate) job: &'v JobId,
    pub(crate) placed: &'v Placed,
}

impl Vm<'_> {
    fn cpu_millis(self, state: &State<'_>) -> Option<u64> {
        Some(state.input().used.vms.get(self.job)?.cpu_millis)
    }
}

fn cpu_millis_of(state: &State<'_>, row: &HostRow) -> Option<u64> {
    let host = state.input().used.hosts.get(&row.host.id)?;
    (host.cpus > 0).then_some(u64::from(host.cpus) * MILLIS)
}

/// How much of what a host has is promised, in millionths: of memory or of vCPUs, whichever is more.
pub(crate) fn share(promised: Resources, capacity: Resources) -> u64 {
    let vcpus = millionths(promised.vcpus.into(), capacity.vcpus.into());
    vcpus.max(millionths(promised.memory_bytes, capacity.memory_bytes))
}

/// CPUs for people: `1.5`.
pub(crate) fn cpus(millis: u64) -> String {
    let tenths = millis.div_ceil(MILLIS / 10);
    match tenths % 10 {
        0 => (tenths / 10).to_string(),
        tenth => format!("{}.{tenth}", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_the_larger_of_memory_and_vcpus() {
        let of = |vcpus, memory_bytes| Resources { vcpus, memory_bytes, disk_bytes: 7 };
        assert_eq!(share(of(1, 3), of(4, 4)), 750_000);
        assert_eq!(share(of(2, 1), of(4, 4)), 500_000);
        assert_eq!(share(of(5, 0), of(4, 4)), 1_250_000, "more than there is");
    }

    #[test]
    fn cpus_are_told_to_a_tenth_and_never_as_less() {
        let told = [0, 1, 100, 1_000, 1_510].map(cpus);
        assert_eq!(told, ["0", "0.1", "0.1", "1", "1.6"]);
    }
}
