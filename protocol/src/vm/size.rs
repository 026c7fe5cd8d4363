//! How much of the countable a VM has, and how far that can change while it runs.
//!
//! A disk or card more is a change of size too: it takes the same offer, ticket and promise as a larger
//! disk does.
//!
//! Without head-room (`max_vcpus`, `max_memory_bytes`) a running guest grows at its next start. With
//! it, QEMU is started so that more can be plugged in. What is plugged is counted, head-room is not:
//! a guest can't take what QEMU has not given it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use uuid::Uuid;

use super::{DiskSpec, InvalidVm, MEMORY_BYTES_MIN, NicSpec, VCPUS_MAX, VmSpec, mac_of};
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
    /// Disks that it gets; of another name than those it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add_disks: Vec<DiskSpec>,
    /// Disks that it loses with all that is in them, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove_disks: Vec<String>,
    /// Cards that it gets; each with an address of its own, by which it is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add_nics: Vec<NicSpec>,
    /// Cards that it loses, by address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove_nics: Vec<String>,
}

/// Why there is no such change of a VM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoChange {
    /// A disk that it does not have is to grow.
    #[error("it has no disk {name:?}; it has {}", listed(has))]
    NoDisk {
        /// The name that was given.
        name: String,
        /// What it has.
        has: Vec<String>,
    },
    /// It has another disk of that name.
    #[error("it has another disk {0:?} already: give the new one a name of its own")]
    DiskTaken(String),
    /// It has another card with that address.
    #[error("it has another card with the address {0} already")]
    NicTaken(String),
    /// A card without an address could not be told from the next one.
    #[error("a card that is added needs an address (mac), such as 52:54:00:12:34:56")]
    NicUnnamed,
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl SizeChange {
    /// True when nothing is to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// True when disks or cards come or go.
    #[must_use]
    pub fn has_devices(&self) -> bool {
        let Self { add_disks, remove_disks, add_nics, remove_nics, .. } = self;
        !(add_disks.is_empty()
            && remove_disks.is_empty()
            && add_nics.is_empty()
            && remove_nics.is_empty())
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

    /// The same VM after a change of its size, as the given domain.
    ///
    /// # Errors
    /// When there is nothing that could change so.
    pub fn changed(&self, domain: Uuid, change: &SizeChange) -> Result<Self, NoChange> {
        let mut vm = self.with_size(self.size().changed(change));
        vm.disks.retain(|disk| !change.remove_disks.contains(&disk.name));
        for disk in &change.add_disks {
            // Whether the old one is meant to go, or has gone in an earlier try, nobody could tell.
            if change.remove_disks.contains(&disk.name) {
                return Err(NoChange::DiskTaken(disk.name.clone()));
            }
            match vm.disks.iter().find(|has| has.name == disk.name) {
                None => vm.disks.push(disk.clone()),
                Some(has) if has == disk => {}
                Some(_) => return Err(NoChange::DiskTaken(disk.name.clone())),
            }
        }
        for (name, bytes) in &change.disks {
            let Some(disk) = vm.disks.iter_mut().find(|disk| disk.name == *name) else {
                let has = vm.disks.into_iter().map(|disk| disk.name).collect();
                return Err(NoChange::NoDisk { name: name.clone(), has });
            };
            disk.size_bytes = *bytes;
        }
        if !change.remove_nics.is_empty() {
            vm.remove_nics(domain, &change.remove_nics);
        }
        for nic in &change.add_nics {
            let Some(mac) = &nic.mac else { return Err(NoChange::NicUnnamed) };
            match vm.macs(domain).iter().position(|has| has == mac) {
                None => vm.nics.push(nic.clone()),
                Some(at) if vm.nics[at] == *nic => {}
                Some(_) => return Err(NoChange::NicTaken(mac.clone())),
            }
        }
        Ok(vm)
    }

    /// The addresses of its cards, as the given domain.
    #[must_use]
    pub fn macs(&self, domain: Uuid) -> Vec<String> {
        let nics = self.nics.iter().enumerate();
        nics.map(|(at, nic)| nic.mac.clone().unwrap_or_else(|| mac_of(domain, at))).collect()
    }

    /// Those that stay keep the addresses that followed from their places.
    fn remove_nics(&mut self, domain: Uuid, gone: &[String]) {
        let macs = self.macs(domain);
        let Some(first) = macs.iter().position(|mac| gone.contains(mac)) else { return };
        for (nic, mac) in self.nics.iter_mut().zip(&macs).skip(first) {
            nic.mac.get_or_insert_with(|| mac.clone());
        }
        self.nics.retain(|nic| !nic.mac.as_ref().is_some_and(|mac| gone.contains(mac)));
    }

    /// The disk that it starts from: the first by the order that was asked for, else by place.
    #[must_use]
    pub fn boot_disk(&self) -> Option<&DiskSpec> {
        let asked = self.disks.iter().filter(|disk| disk.boot.is_some());
        asked.min_by_key(|disk| disk.boot).or(self.disks.first())
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
    use crate::vm::{DiskSpec, Plug};

    const GIB: u64 = 1 << 30;
    const DOMAIN: Uuid = Uuid::from_u128(7);

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
            vm.changed(DOMAIN, &SizeChange { disks, ..SizeChange::default() })
        };
        assert_eq!(vm.changed(DOMAIN, &SizeChange::default()).as_ref(), Ok(&vm));
        assert_eq!(change("data").unwrap().resources().disk_bytes, 3 * GIB);
        let has = vec!["root".to_owned(), "data".to_owned()];
        assert_eq!(change("no"), Err(NoChange::NoDisk { name: "no".to_owned(), has }));
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

    #[test]
    fn disks_and_cards_come_and_go_by_name_and_address_and_asking_twice_is_asking_once() {
        let disk =
            |name: &str| DiskSpec { name: name.to_owned(), size_bytes: GIB, ..DiskSpec::default() };
        let nic = |mac: &str| NicSpec { mac: Some(mac.to_owned()), ..Plug::User.into() };
        let vm = VmSpec {
            vcpus: 1,
            memory_bytes: GIB,
            disks: vec![disk("root")],
            nics: vec![Plug::User.into(), Plug::User.into()],
            ..VmSpec::default()
        };
        let more = SizeChange {
            add_disks: vec![disk("data")],
            add_nics: vec![nic("52:54:00:00:00:99")],
            ..SizeChange::default()
        };
        let with = vm.changed(DOMAIN, &more).unwrap();
        assert_eq!((with.disks.len(), with.nics.len()), (2, 3));
        assert_eq!(with.changed(DOMAIN, &more).as_ref(), Ok(&with));
        let other = DiskSpec { size_bytes: 2 * GIB, ..disk("data") };
        let other = SizeChange { add_disks: vec![other], ..SizeChange::default() };
        assert_eq!(with.changed(DOMAIN, &other), Err(NoChange::DiskTaken("data".to_owned())));
        let anew = SizeChange { remove_disks: vec!["data".to_owned()], ..more.clone() };
        assert_eq!(with.changed(DOMAIN, &anew), Err(NoChange::DiskTaken("data".to_owned())));
        let unnamed = SizeChange { add_nics: vec![Plug::User.into()], ..SizeChange::default() };
        assert_eq!(vm.changed(DOMAIN, &unnamed), Err(NoChange::NicUnnamed));

        // The card behind the one that goes keeps the address that it had by its place.
        let [first, second, _] = &with.macs(DOMAIN)[..] else { panic!("three cards") };
        let less = SizeChange {
            remove_disks: vec!["data".to_owned(), "never-was".to_owned()],
            remove_nics: vec![first.clone()],
            ..SizeChange::default()
        };
        let without = with.changed(DOMAIN, &less).unwrap();
        assert_eq!(without.disks, vm.disks);
        assert_eq!(without.macs(DOMAIN), [second.as_str(), "52:54:00:00:00:99"]);
        assert_eq!(without.changed(DOMAIN, &less).as_ref(), Ok(&without));
    }
}
