//! What a virtual machine is made of, as its owner asks for it.
//!
//! Units are in the field names. How libvirt is told is `hypervisor`'s business; whether it fits a
//! host is [`crate::admission`]'s.

use serde::{Deserialize, Serialize};

use crate::id::ImageName;
use crate::resources::{Bytes, Resources};

/// Most disks of one VM: what fits behind one PCI root without further bridges.
pub const DISKS_MAX: usize = 16;
/// Most network cards of one VM.
pub const NICS_MAX: usize = 8;
/// Most virtual CPUs of one VM (QEMU's q35 limit without further settings).
pub const VCPUS_MAX: u32 = 255;
/// Least memory of one VM: a firmware alone needs this.
pub const MEMORY_BYTES_MIN: u64 = 16 << 20;
/// Least size of a volume.
pub const DISK_BYTES_MIN: u64 = 1 << 20;

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// Virtual CPUs, 1 to [`VCPUS_MAX`].
    pub vcpus: u32,
    /// Memory in bytes, a whole number of MiB.
    pub memory_bytes: u64,
    /// Disks in boot order.
    #[serde(default)]
    pub disks: Vec<DiskSpec>,
    /// Network cards.
    #[serde(default)]
    pub nics: Vec<NicSpec>,
}

/// One disk: a volume that the host makes for this VM and deletes with it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// Name within the VM, such as `root`.
    pub name: String,
    /// Virtual size in bytes; at least that of the image.
    pub size_bytes: u64,
    /// The image it starts from; without one it starts empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageName>,
}

/// One network card and what it is plugged into.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "network", rename_all = "kebab-case", deny_unknown_fields)]
pub enum NicSpec {
    /// QEMU's user-mode network: out through the host, nothing in. Needs no set-up.
    User,
    /// A bridge that exists on the host.
    Bridge {
        /// The bridge's interface name.
        bridge: String,
    },
    /// A network that libvirt manages.
    Libvirt {
        /// Its libvirt name, such as `default`.
        name: String,
    },
}

/// Why a VM can't be made anywhere, whatever the host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVm {
    /// Zero or too many CPUs.
    #[error("{0} vcpus: use 1 to {VCPUS_MAX}")]
    Vcpus(u32),
    /// Too little memory, or not a whole number of MiB.
    #[error("{} of memory: use a whole number of MiB, at least {}", Bytes(*.0), Bytes(MEMORY_BYTES_MIN))]
    Memory(u64),
    /// Too many disks.
    #[error("{0} disks: at most {DISKS_MAX}")]
    Disks(usize),
    /// A disk's name is unusable or used twice.
    #[error("disk name {0:?}: use different names of a-z, 0-9 and '-', 1 to 16 characters")]
    DiskName(String),
    /// A disk that is too small.
    #[error("disk {name:?} of {}: use at least {}", Bytes(*.size_bytes), Bytes(DISK_BYTES_MIN))]
    DiskSize {
        /// The disk.
        name: String,
        /// Its size.
        size_bytes: u64,
    },
    /// Too many network cards.
    #[error("{0} network cards: at most {NICS_MAX}")]
    Nics(usize),
    /// A bridge or network name that the kernel or libvirt would not take.
    #[error("network name {0:?}: use 1 to 15 of a-z, A-Z, 0-9, '-', '_' and '.'")]
    NetworkName(String),
}

impl VmSpec {
    /// What a host must promise to run this VM.
    #[must_use]
    pub fn resources(&self) -> Resources {
        Resources {
            vcpus: self.vcpus,
            memory_bytes: self.memory_bytes,
            disk_bytes: self.disks.iter().fold(0, |sum, d| sum.saturating_add(d.size_bytes)),
        }
    }

    /// Checks everything that does not depend on a host.
    pub fn validate(&self) -> Result<(), InvalidVm> {
        if !(1..=VCPUS_MAX).contains(&self.vcpus) {
            return Err(InvalidVm::Vcpus(self.vcpus));
        }
        if self.memory_bytes < MEMORY_BYTES_MIN || !self.memory_bytes.is_multiple_of(1 << 20) {
            return Err(InvalidVm::Memory(self.memory_bytes));
        }
        self.validate_disks()?;
        if self.nics.len() > NICS_MAX {
            return Err(InvalidVm::Nics(self.nics.len()));
        }
        self.nics.iter().try_for_each(NicSpec::validate)
    }

    fn validate_disks(&self) -> Result<(), InvalidVm> {
        if self.disks.len() > DISKS_MAX {
            return Err(InvalidVm::Disks(self.disks.len()));
        }
        for (i, disk) in self.disks.iter().enumerate() {
            let is_fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            let is_repeated = self.disks[..i].iter().any(|other| other.name == disk.name);
            if !(1..=16).contains(&disk.name.len())
                || !disk.name.chars().all(is_fine)
                || disk.name.starts_with('-')
                || is_repeated
            {
                return Err(InvalidVm::DiskName(disk.name.clone()));
            }
            if disk.size_bytes < DISK_BYTES_MIN {
                let (name, size_bytes) = (disk.name.clone(), disk.size_bytes);
                return Err(InvalidVm::DiskSize { name, size_bytes });
            }
        }
        Ok(())
    }
}

impl NicSpec {
    fn validate(&self) -> Result<(), InvalidVm> {
        let name = match self {
            NicSpec::User => return Ok(()),
            NicSpec::Bridge { bridge } => bridge,
            NicSpec::Libvirt { name } => name,
        };
        let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if (1..=15).contains(&name.len()) && name.chars().all(is_fine) {
            Ok(())
        } else {
            Err(InvalidVm::NetworkName(name.clone()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm() -> VmSpec {
        let root = DiskSpec { name: "root".into(), size_bytes: 64 << 20, image: None };
        VmSpec { vcpus: 1, memory_bytes: 128 << 20, disks: vec![root], nics: vec![NicSpec::User] }
    }

    #[test]
    fn a_plain_vm_is_valid_and_counts_its_disks() {
        assert_eq!(vm().validate(), Ok(()));
        let expected = Resources { vcpus: 1, memory_bytes: 128 << 20, disk_bytes: 64 << 20 };
        assert_eq!(vm().resources(), expected);
    }

    #[test]
    fn what_no_host_could_run_is_refused_by_name() {
        assert_eq!(VmSpec { vcpus: 0, ..vm() }.validate(), Err(InvalidVm::Vcpus(0)));
        assert_eq!(VmSpec { memory_bytes: 5, ..vm() }.validate(), Err(InvalidVm::Memory(5)));
        let mut twice = vm();
        twice.disks.push(twice.disks[0].clone());
        assert_eq!(twice.validate(), Err(InvalidVm::DiskName("root".into())));
        let mut escape = vm();
        escape.disks[0].name = "../../etc".into();
        assert!(matches!(escape.validate(), Err(InvalidVm::DiskName(_))));
        let nics = vec![NicSpec::Bridge { bridge: "br0'/>".into() }];
        assert!(matches!(VmSpec { nics, ..vm() }.validate(), Err(InvalidVm::NetworkName(_))));
    }
}
