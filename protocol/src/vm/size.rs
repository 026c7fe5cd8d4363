//! How much of the countable a VM has, and how far that can change while it runs.
//!
//! Without head-room (`max_vcpus`, `max_memory_bytes`) a running guest grows at its next start. With
//! it, QEMU is started so that more can be plugged in. What is plugged is counted, head-room is not:
//! a guest can't take what QEMU has not given it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{InvalidVm, MEMORY_BYTES_MIN, VCPUS_MAX, VmSpec};
use crate::resources::Resources;

/// Most head-room for memory. How much of it a CPU model can address is said by its start.
pub const MEMORY_BYTES_MAX: u64 = 4 << 40;

/// CPUs and memory of a VM, with the head-room for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// See [`VmSpec::max_vcpus`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_vcpus: Option<u32>,
    /// See [`VmSpec::max_memory_bytes`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory_bytes: Option<u64>,
}

/// What is to change of a VM's size; what is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SizeChange {
    /// Virtual CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Memory in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Head-room for CPUs, from the next start on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_vcpus: Option<u32>,
    /// Head-room for memory, from the next start on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory_bytes: Option<u64>,
    /// Disks by name, and how many bytes each is to have. They only grow.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub disks: BTreeMap<String, u64>,
}

impl SizeChange {
    /// True when nothing is to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Size {
    /// The size after the change. Head-room that the new size outgrows grows with it.
    #[must_use]
    pub fn changed(self, change: &SizeChange) -> Self {
        let vcpus = change.vcpus.unwrap_or(self.vcpus);
        let memory_bytes = change.memory_bytes.unwrap_or(self.memory_bytes);
        let kept_vcpus = self.max_vcpus.map(|max| max.max(vcpus));
        let kept_memory = self.max_memory_bytes.map(|max| max.max(memory_bytes));
        Self {
            vcpus,
            memory_bytes,
            max_vcpus: change.max_vcpus.or(kept_vcpus),
            max_memory_bytes: change.max_memory_bytes.or(kept_memory),
        }
    }

    /// What a host must promise for it; disks are no part of a size.
    #[must_use]
    pub fn resources(self) -> Resources {
        Resources { vcpus: self.vcpus, memory_bytes: self.memory_bytes, disk_bytes: 0 }
    }

    pub(super) fn validate(self) -> Result<(), InvalidVm> {
        if !(1..=VCPUS_MAX).contains(&self.vcpus) {
            return Err(InvalidVm::Vcpus(self.vcpus));
        }
        let is_even = |bytes: u64| bytes.is_multiple_of(1 << 20);
        if self.memory_bytes < MEMORY_BYTES_MIN || !is_even(self.memory_bytes) {
            return Err(InvalidVm::Memory(self.memory_bytes));
        }
        if let Some(max) = self.max_vcpus.filter(|max| !(self.vcpus..=VCPUS_MAX).contains(max)) {
            return Err(InvalidVm::MaxVcpus { max, vcpus: self.vcpus });
        }
        let is_room = |max: u64| (self.memory_bytes..=MEMORY_BYTES_MAX).contains(&max);
        match self.max_memory_bytes.filter(|max| !is_room(*max) || !is_even(*max)) {
            Some(max) => Err(InvalidVm::MaxMemory { max, memory_bytes: self.memory_bytes }),
            None => Ok(()),
        }
    }
}

impl VmSpec {
    /// Its size.
    #[must_use]
    pub fn size(&self) -> Size {
        let Self { vcpus, memory_bytes, max_vcpus, max_memory_bytes, .. } = *self;
        Size { vcpus, memory_bytes, max_vcpus, max_memory_bytes }
    }

    /// The same VM in another size.
    #[must_use]
    pub fn with_size(&self, size: Size) -> Self {
        let Size { vcpus, memory_bytes, max_vcpus, max_memory_bytes } = size;
        Self { vcpus, memory_bytes, max_vcpus, max_memory_bytes, ..self.clone() }
    }

    /// The same VM after a change of its size; `None` when it has no disk of a name.
    #[must_use]
    pub fn changed(&self, change: &SizeChange) -> Option<Self> {
        let mut vm = self.with_size(self.size().changed(change));
        for (name, bytes) in &change.disks {
            vm.disks.iter_mut().find(|disk| disk.name == *name)?.size_bytes = *bytes;
        }
        Some(vm)
    }

    /// Most CPUs that it may have without a start: what its CPUs are numbered and arranged by.
    #[must_use]
    pub fn vcpus_possible(&self) -> u32 {
        self.max_vcpus.unwrap_or(self.vcpus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::DiskSpec;

    const GIB: u64 = 1 << 30;

    fn size(vcpus: u32, max_vcpus: Option<u32>) -> Size {
        Size { vcpus, memory_bytes: GIB, max_vcpus, max_memory_bytes: None }
    }

    #[test]
    fn what_is_left_out_stays_and_head_room_is_outgrown_with_the_size() {
        let small = Size { max_memory_bytes: Some(2 * GIB), ..size(1, Some(4)) };
        assert_eq!(small.changed(&SizeChange::default()), small);
        let grown = small.changed(&SizeChange { vcpus: Some(6), ..SizeChange::default() });
        assert_eq!(grown, Size { vcpus: 6, max_vcpus: Some(6), ..small });
        let wanted = SizeChange { memory_bytes: Some(3 * GIB), ..SizeChange::default() };
        assert_eq!(small.changed(&wanted).max_memory_bytes, Some(3 * GIB));
        let none = size(1, None).changed(&SizeChange { vcpus: Some(2), ..SizeChange::default() });
        assert_eq!(none.max_vcpus, None, "no head-room comes by itself");
    }

    #[test]
    fn head_room_below_the_size_or_beyond_what_qemu_has_is_refused() {
        assert_eq!(size(2, Some(2)).validate(), Ok(()));
        assert!(matches!(size(2, Some(1)).validate(), Err(InvalidVm::MaxVcpus { max: 1, .. })));
        assert!(matches!(size(2, Some(256)).validate(), Err(InvalidVm::MaxVcpus { .. })));
        for max in [GIB - (1 << 20), GIB + 1, MEMORY_BYTES_MAX + (1 << 20)] {
            let wrong = Size { max_memory_bytes: Some(max), ..size(1, None) };
            assert!(matches!(wrong.validate(), Err(InvalidVm::MaxMemory { .. })), "{max}");
        }
    }

    #[test]
    fn a_change_names_the_disks_that_grow() {
        let disk =
            |name: &str| DiskSpec { name: name.to_owned(), size_bytes: GIB, ..DiskSpec::default() };
        let disks = vec![disk("root"), disk("data")];
        let vm = VmSpec { vcpus: 1, memory_bytes: GIB, disks, ..VmSpec::default() };
        let change = |name: &str| {
            let disks = BTreeMap::from([(name.to_owned(), 2 * GIB)]);
            vm.changed(&SizeChange { disks, ..SizeChange::default() })
        };
        assert_eq!(vm.changed(&SizeChange::default()).as_ref(), Some(&vm));
        assert_eq!(change("data").unwrap().resources().disk_bytes, 3 * GIB);
        assert_eq!(change("no"), None);
        let old: SizeChange = serde_json::from_str(r#"{"vcpus":2}"#).unwrap();
        assert_eq!(serde_json::to_string(&old).unwrap(), r#"{"vcpus":2}"#);
    }

    #[test]
    fn a_size_can_be_taken_off_a_vm_and_put_on() {
        let vm = VmSpec { vcpus: 1, memory_bytes: GIB, autostart: true, ..VmSpec::default() };
        let other = vm.with_size(size(3, Some(8)));
        assert_eq!((other.size(), other.autostart), (size(3, Some(8)), true));
        assert_eq!((vm.vcpus_possible(), other.vcpus_possible()), (1, 8));
    }
}
