//! The machine around CPUs, memory, disks and cards: firmware, CPU model, topology, devices.
//!
//! Every field may be left out, and what is left out is not written, so that the digest of a spec
//! does not change when this list grows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::InvalidVm;

/// Most PCI devices passed through to one VM.
const PCI_MAX: usize = 8;
/// Page sizes that x86-64 has beyond the usual 4 KiB, in KiB.
const HUGEPAGE_KIB: [u64; 2] = [2048, 1_048_576];

/// What a VM is made of besides what it is measured by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    /// What it boots with.
    #[serde(default, skip_serializing_if = "is_default")]
    pub firmware: Firmware,
    /// QEMU's machine type; without one `q35`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// Its CPUs; without one what the host has, in a form that can move to similar hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuSpec>,
    /// How its virtual CPUs are arranged; sockets × cores × threads must be their number, head-room
    /// included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<Topology>,
    /// Which virtual CPUs run only on which of the host's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<Pin>,
    /// Whether each of its virtual CPUs has one of the host's to itself; which, its host chooses.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dedicated_cpus: bool,
    /// Memory in pages of this size in KiB, which the host must have set aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugepages_kib: Option<u64>,
    /// A watchdog, and what it does when the guest stops feeding it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<Watchdog>,
    /// A screen. Its host's agent shows it, by VNC and as pictures; nothing listens for others.
    #[serde(default, skip_serializing_if = "is_default")]
    pub vnc: bool,
    /// A TPM 2.0, emulated by `swtpm` on the host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tpm: bool,
    /// The host's PCI devices given to it, such as `0000:03:00.0`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pci: Vec<String>,
}

/// What a VM boots with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// `SeaBIOS`.
    #[default]
    Bios,
    /// UEFI, from a firmware that the host's libvirt finds.
    Uefi,
}

/// A VM's CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CpuSpec {
    /// Where the model comes from.
    pub mode: CpuMode,
    /// A model that libvirt knows; with the mode `custom` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Features that it must have, such as `avx2`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<String>,
    /// Features that it must not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disable: Vec<String>,
}

/// Where a CPU's model comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CpuMode {
    /// The nearest named model to the host's CPU.
    HostModel,
    /// The host's CPU itself: fastest, and moves only between equal hosts.
    HostPassthrough,
    /// All that the accelerator can do.
    Maximum,
    /// The named model.
    Custom,
}

/// How virtual CPUs are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Sockets.
    pub sockets: u32,
    /// Cores of each.
    pub cores: u32,
    /// Threads of each core.
    pub threads: u32,
}

/// Where one virtual CPU may run.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The virtual CPU, from 0.
    pub vcpu: u32,
    /// CPUs of the host.
    pub cpus: Vec<u32>,
}

/// What a watchdog does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Watchdog {
    /// Resets the guest.
    Reset,
    /// Ends it.
    Poweroff,
    /// Stops its CPUs, for somebody to look.
    Pause,
}

impl Hardware {
    /// Checks everything that does not depend on a host; `vcpus` with the head-room for more.
    pub(super) fn validate(&self, vcpus: u32) -> Result<(), InvalidVm> {
        let cpu = self.cpu.as_ref();
        let names =
            cpu.into_iter().flat_map(|c| c.model.iter().chain(&c.require).chain(&c.disable));
        if let Some(name) = names.chain(&self.machine).find(|name| !is_word(name)) {
            return Err(InvalidVm::HardwareName(name.clone()));
        }
        if let Some(cpu) = cpu
            && (cpu.mode == CpuMode::Custom) != cpu.model.is_some()
        {
            return Err(InvalidVm::CpuModel);
        }
        let product = |t: Topology| t.sockets.checked_mul(t.cores)?.checked_mul(t.threads);
        if let Some(topology) = self.topology.filter(|t| product(*t) != Some(vcpus)) {
            return Err(InvalidVm::Topology { topology, vcpus });
        }
        for (i, pin) in self.pins.iter().enumerate() {
            let is_repeated = self.pins[..i].iter().any(|other| other.vcpu == pin.vcpu);
            if pin.vcpu >= vcpus || pin.cpus.is_empty() || is_repeated {
                return Err(InvalidVm::Pin { vcpu: pin.vcpu });
            }
        }
        if self.dedicated_cpus && !self.pins.is_empty() {
            return Err(InvalidVm::DedicatedPins);
        }
        if let Some(kib) = self.hugepages_kib.filter(|kib| !HUGEPAGE_KIB.contains(kib)) {
            return Err(InvalidVm::Hugepages(kib));
        }
        let is_wrong = |(i, address): (usize, &String)| {
            i >= PCI_MAX || pci_parts(address).is_none() || self.pci[..i].contains(address)
        };
        match self.pci.iter().enumerate().find(|device| is_wrong(*device)) {
            Some((_, address)) => Err(InvalidVm::Pci(address.clone())),
            None => Ok(()),
        }
    }
}

/// Domain, bus, slot and function of a PCI address as `lspci -D` prints it.
#[must_use]
pub fn pci_parts(address: &str) -> Option<[&str; 4]> {
    let (domain, rest) = address.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (slot, function) = rest.split_once('.')?;
    let parts = [(domain, 4), (bus, 2), (slot, 2), (function, 1)];
    let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let is_fine = |(part, chars): &(&str, usize)| part.len() == *chars && part.chars().all(is_hex);
    parts.iter().all(is_fine).then_some([domain, bus, slot, function])
}

/// A name of libvirt's or QEMU's: nothing that could end an attribute or an argument.
fn is_word(name: &str) -> bool {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=64).contains(&name.len()) && name.chars().all(is_fine)
}

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
