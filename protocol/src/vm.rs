//! What a virtual machine is made of, as its owner asks for it.
//!
//! Units are in the field names. How libvirt is told is `hypervisor`'s business; whether it fits a
//! host is [`crate::admission`]'s.

mod hardware;
pub use hardware::{CpuMode, CpuSpec, Firmware, Hardware, Pin, Topology, Watchdog, pci_parts};

mod size;
pub use size::{MEMORY_BYTES_MAX, NoChange, Size, SizeChange};

mod restart;
pub use restart::{OnLoss, Restart};

mod priority;
pub use priority::{NoPriority, Preemptor, Priority, Rank};

mod pools;

mod nic;
pub use nic::{NicModel, NicSpec, Plug, mac_of};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::id::{ImageName, PoolName};
use crate::resources::{Bytes, Resources};

/// Most disks of one VM: what fits behind one PCI root without further bridges.
pub const DISKS_MAX: usize = 16;
/// Most network cards of one VM.
pub const NICS_MAX: usize = 8;
/// Most virtual CPUs of one VM (QEMU's q35 limit without further settings).
pub const VCPUS_MAX: u32 = 255;
/// Least memory of one VM: a firmware alone needs this.
pub const MEMORY_BYTES_MIN: u64 = 16 << 20;
/// Most bytes of cloud-init data of one VM: every view and every event of the job carries them.
pub const CLOUD_INIT_BYTES_MAX: usize = 32 << 10;
/// Least size of a volume.
pub const DISK_BYTES_MIN: u64 = 1 << 20;

/// A virtual machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// Virtual CPUs, 1 to [`VCPUS_MAX`].
    pub vcpus: u32,
    /// Memory in bytes, a whole number of MiB.
    pub memory_bytes: u64,
    /// How many virtual CPUs it can be resized to while it runs; without this its number changes at
    /// its next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_vcpus: Option<u32>,
    /// How much memory it can be resized to while it runs; without this it grows at its next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory_bytes: Option<u64>,
    /// Disks in boot order.
    #[serde(default)]
    pub disks: Vec<DiskSpec>,
    /// Network cards.
    #[serde(default)]
    pub nics: Vec<NicSpec>,
    /// The machine around these.
    #[serde(default, skip_serializing_if = "hardware::is_default")]
    pub hardware: Box<Hardware>,
    /// What cloud-init finds at its first boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_init: Option<Box<CloudInit>>,
    /// After which ends its host starts it again.
    #[serde(default, skip_serializing_if = "hardware::is_default")]
    pub restart: Restart,
    /// Whether its host starts it again after a reboot of the host, if it ran before and the host
    /// still has the right to run it.
    #[serde(default, skip_serializing_if = "restart::is_false")]
    pub autostart: bool,
    /// What becomes of it when its host is cut off.
    #[serde(default, skip_serializing_if = "hardware::is_default")]
    pub on_loss: OnLoss,
    /// Whether its host refuses to end it: it is not stopped, saved or deleted by command until somebody
    /// takes that off. What it does by itself, and what its host must do, goes on.
    #[serde(default, skip_serializing_if = "restart::is_false")]
    pub protected: bool,
    /// How much it matters beside others when not all can run.
    #[serde(default, skip_serializing_if = "hardware::is_default")]
    pub priority: Priority,
    /// Whether it is stopped so that one with a higher priority fits, where nothing else makes room.
    #[serde(default, skip_serializing_if = "restart::is_false")]
    pub preemptible: bool,
    /// The libvirt domain that it was before it was a job. Its definition stays its own: what is
    /// said here of disks and cards only tells what is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<Uuid>,
}

/// cloud-init's NoCloud data: the guest finds it on a CD labelled `cidata`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CloudInit {
    /// `#cloud-config`, a script, or what else cloud-init takes.
    pub user_data: String,
    /// Instance id and host name; without it the host writes these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta_data: Option<String>,
    /// Network configuration, version 1 or 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_config: Option<String>,
}

/// One disk: a volume that the host makes for this VM and deletes with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// Name within the VM, such as `root`.
    pub name: String,
    /// Virtual size in bytes; at least that of the image.
    pub size_bytes: u64,
    /// The image it starts from; without one it starts empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageName>,
    /// The pool that it is in; without one it is in its host's own, `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    /// Whether what is in it need not outlive its host: on another host it begins anew from its image.
    #[serde(default, skip_serializing_if = "restart::is_false")]
    pub ephemeral: bool,
    /// How the guest sees it.
    #[serde(default, skip_serializing_if = "hardware::is_default")]
    pub bus: DiskBus,
    /// What the host's page cache does for it.
    #[serde(default, skip_serializing_if = "hardware::is_default")]
    pub cache: DiskCache,
    /// Most operations a second, reads and writes together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_iops: Option<u64>,
    /// Most bytes a second, reads and writes together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes_s: Option<u64>,
    /// Its place in the boot order, from 1; when any disk has one, only those with one are booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<u32>,
}

/// How a guest sees a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DiskBus {
    /// `/dev/vda`: the fastest.
    #[default]
    Virtio,
    /// `/dev/sda` at a virtio-scsi controller.
    Scsi,
    /// `/dev/sda` as every system knows it.
    Sata,
}

/// What the host's page cache does for a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DiskCache {
    /// Used, and the guest's flushes are honoured. Works on every file system.
    #[default]
    Writeback,
    /// Not used (`O_DIRECT`).
    None,
    /// Used for reading; every write is flushed.
    Writethrough,
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
    /// Head-room for fewer CPUs than it has, or for more than QEMU has.
    #[error("head-room for {max} vcpus: use {vcpus}, which it has, to {VCPUS_MAX}")]
    MaxVcpus {
        /// The head-room.
        max: u32,
        /// What it has.
        vcpus: u32,
    },
    /// Head-room for less memory than it has, for too much, or not a whole number of MiB.
    #[error("head-room for {} of memory: use a whole number of MiB, {} that it has to {}", Bytes(*.max), Bytes(*.memory_bytes), Bytes(MEMORY_BYTES_MAX))]
    MaxMemory {
        /// The head-room.
        max: u64,
        /// What it has.
        memory_bytes: u64,
    },
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
    /// An address that no card can have.
    #[error("mac {0:?}: write six pairs of small hexadecimal digits, such as 52:54:00:00:00:01")]
    Mac(String),
    /// A limit on a card that can't have one.
    #[error("a card's limit is above 0 KiB/s, and a card of the user network has none")]
    NicLimit,
    /// A limit of nothing, or a place in the boot order that is taken or 0.
    #[error("disk {0:?}: limits are above 0; places in the boot order are different, from 1")]
    DiskTuning(String),
    /// A machine, CPU model or feature that is no word.
    #[error("hardware name {0:?}: use 1 to 64 of a-z, A-Z, 0-9, '-', '_' and '.'")]
    HardwareName(String),
    /// A model without the mode that takes one, or the other way round.
    #[error("a CPU model goes with the mode \"custom\", and only with it")]
    CpuModel,
    /// An arrangement of another number of CPUs than it has, head-room included.
    #[error("{} sockets × {} cores × {} threads are not {vcpus} vcpus", .topology.sockets, .topology.cores, .topology.threads)]
    Topology {
        /// The arrangement.
        topology: Topology,
        /// The CPUs.
        vcpus: u32,
    },
    /// A virtual CPU that is not there, is pinned twice, or to nothing.
    #[error("pin of vcpu {vcpu}: name each vcpu once, from 0, with at least one CPU of the host")]
    Pin {
        /// The virtual CPU.
        vcpu: u32,
    },
    /// CPUs that its host chooses, and CPUs that it names.
    #[error("dedicated CPUs are chosen by the host: leave pins away, or dedicated_cpus")]
    DedicatedPins,
    /// A page size that x86-64 does not have.
    #[error("hugepages of {0} KiB: there are 2048 and 1048576")]
    Hugepages(u64),
    /// What is no PCI address, or too many.
    #[error("PCI device {0:?}: write at most 8 different addresses, each such as 0000:03:00.0")]
    Pci(String),
    /// A disk with something to lose, of a VM that is to be started elsewhere without it.
    #[error(
        "disk {0:?} of a VM with on_loss = stop: elsewhere it would begin anew, so say that it may, with ephemeral, or put it into a pool that hosts share"
    )]
    DiskLost(String),
    /// A domain that has a place of its own, which no keeper guards.
    #[error("an adopted VM is kept when its host is cut off: leave on_loss away")]
    AdoptedStop,
    /// A domain that has a definition of its own, with its own pins.
    #[error("an adopted VM is on the CPUs that its own definition says: leave dedicated_cpus away")]
    AdoptedDedicated,
    /// What no command ends, and what ends so that another fits.
    #[error("a VM is protected or preemptible, not both: leave one of them away")]
    ProtectedPreemptible,
    /// More than every event should carry.
    #[error("{0} bytes of cloud-init data: at most {CLOUD_INIT_BYTES_MAX}")]
    CloudInit(usize),
}

impl VmSpec {
    /// What a host must promise to run this VM. An adopted one brings its disks along, wherever they
    /// are: nothing is made for it.
    #[must_use]
    pub fn resources(&self) -> Resources {
        let made = self.disks.iter().filter(|_| self.adopted.is_none());
        Resources {
            vcpus: self.vcpus,
            memory_bytes: self.memory_bytes,
            disk_bytes: made.fold(0, |sum, d| sum.saturating_add(d.size_bytes)),
        }
    }

    /// Checks everything that does not depend on a host.
    pub fn validate(&self) -> Result<(), InvalidVm> {
        self.size().validate()?;
        self.validate_disks()?;
        if self.nics.len() > NICS_MAX {
            return Err(InvalidVm::Nics(self.nics.len()));
        }
        self.nics.iter().try_for_each(NicSpec::validate)?;
        self.hardware.validate(self.vcpus_possible())?;
        self.validate_loss()?;
        if self.adopted.is_some() && self.hardware.dedicated_cpus {
            return Err(InvalidVm::AdoptedDedicated);
        }
        if self.protected && self.preemptible {
            return Err(InvalidVm::ProtectedPreemptible);
        }
        match self.cloud_init.as_ref().map_or(0, |data| data.bytes()) {
            bytes if bytes > CLOUD_INIT_BYTES_MAX => Err(InvalidVm::CloudInit(bytes)),
            _ => Ok(()),
        }
    }

    fn validate_loss(&self) -> Result<(), InvalidVm> {
        if self.on_loss == OnLoss::Keep {
            return Ok(());
        }
        // Whether a pool is shared is its hosts' to say, and admission's to check.
        match self.disks.iter().find(|disk| !disk.ephemeral && disk.named_pool().is_none()) {
            Some(disk) => Err(InvalidVm::DiskLost(disk.name.clone())),
            None if self.adopted.is_some() => Err(InvalidVm::AdoptedStop),
            None => Ok(()),
        }
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
            let is_zero = disk.limit_iops == Some(0) || disk.limit_bytes_s == Some(0);
            let is_taken = self.disks[..i].iter().any(|other| other.boot == disk.boot);
            if is_zero || disk.boot == Some(0) || (disk.boot.is_some() && is_taken) {
                return Err(InvalidVm::DiskTuning(disk.name.clone()));
            }
            if disk.size_bytes < DISK_BYTES_MIN {
                let (name, size_bytes) = (disk.name.clone(), disk.size_bytes);
                return Err(InvalidVm::DiskSize { name, size_bytes });
            }
        }
        Ok(())
    }
}

impl CloudInit {
    fn bytes(&self) -> usize {
        let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        self.user_data.len() + optional(&self.meta_data) + optional(&self.network_config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm() -> VmSpec {
        let root = DiskSpec { name: "root".into(), size_bytes: 64 << 20, ..DiskSpec::default() };
        VmSpec {
            vcpus: 1,
            memory_bytes: 128 << 20,
            disks: vec![root],
            nics: vec![Plug::User.into()],
            ..VmSpec::default()
        }
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
        let nics = vec![Plug::Bridge { bridge: "br0'/>".into() }.into()];
        assert!(matches!(VmSpec { nics, ..vm() }.validate(), Err(InvalidVm::NetworkName(_))));
    }

    #[test]
    fn what_was_written_before_there_was_more_reads_and_digests_the_same() {
        let old = r#"{"vcpus":1,"memory_bytes":134217728,"disks":[{"name":"root","size_bytes":67108864}],"nics":[{"network":"user"},{"network":"bridge","bridge":"br0"},{"network":"libvirt","name":"default"}]}"#;
        let vm: VmSpec = serde_json::from_str(old).unwrap();
        assert_eq!(serde_json::to_string(&vm).unwrap(), old);
        assert_eq!(vm.validate(), Ok(()));
    }

    #[test]
    fn a_typing_error_in_a_card_or_the_hardware_is_refused() {
        for nic in [
            r#"{"network":"user","bridge":"br0"}"#,
            r#"{"network":"bridge"}"#,
            r#"{"network":"user","speed":1}"#,
        ] {
            assert!(serde_json::from_str::<NicSpec>(nic).is_err(), "{nic} was accepted");
        }
        assert!(serde_json::from_str::<Hardware>(r#"{"firmwear":"uefi"}"#).is_err());
    }

    #[test]
    fn hardware_that_no_host_could_have_is_refused_by_name() {
        let with = |hardware| VmSpec { hardware: Box::new(hardware), ..vm() }.validate();
        let bare = Hardware::default();
        let topology = Topology { sockets: 1, cores: 2, threads: 1 };
        let uneven = with(Hardware { topology: Some(topology), ..bare.clone() });
        assert_eq!(uneven, Err(InvalidVm::Topology { topology, vcpus: 1 }));
        let pins = vec![Pin { vcpu: 1, cpus: vec![0] }];
        assert_eq!(with(Hardware { pins, ..bare.clone() }), Err(InvalidVm::Pin { vcpu: 1 }));
        let pins = vec![Pin { vcpu: 0, cpus: vec![0] }];
        let dedicated = Hardware { dedicated_cpus: true, ..bare.clone() };
        assert_eq!(with(Hardware { pins, ..dedicated.clone() }), Err(InvalidVm::DedicatedPins));
        let adopted = VmSpec { hardware: Box::new(dedicated), adopted: Some(Uuid::nil()), ..vm() };
        assert_eq!(adopted.validate(), Err(InvalidVm::AdoptedDedicated));
        let pci = vec!["03:00.0".to_owned()];
        assert!(matches!(with(Hardware { pci, ..bare.clone() }), Err(InvalidVm::Pci(_))));
        let machine = Some("q35,accel=kvm".to_owned());
        let evil = with(Hardware { machine, ..bare.clone() });
        assert!(matches!(evil, Err(InvalidVm::HardwareName(_))));
        let cpu = CpuSpec { mode: CpuMode::Custom, model: None, require: vec![], disable: vec![] };
        let modelless = with(Hardware { cpu: Some(cpu), ..bare.clone() });
        assert_eq!(modelless, Err(InvalidVm::CpuModel));
        assert_eq!(with(Hardware { hugepages_kib: Some(4), ..bare }), Err(InvalidVm::Hugepages(4)));
        let mac = Some("01:00:5e:00:00:01".to_owned());
        let multicast = VmSpec { nics: vec![NicSpec { mac, ..Plug::User.into() }], ..vm() };
        assert!(matches!(multicast.validate(), Err(InvalidVm::Mac(_))));
        let user_data = "x".repeat(CLOUD_INIT_BYTES_MAX + 1);
        let cloud_init =
            Some(Box::new(CloudInit { user_data, meta_data: None, network_config: None }));
        let long = VmSpec { cloud_init, ..vm() }.validate();
        assert!(matches!(long, Err(InvalidVm::CloudInit(_))));
    }
}
