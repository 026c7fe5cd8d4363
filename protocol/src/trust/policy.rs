//! What a tenant's VMs may be like, and on which hosts: rules of one job and one host, in the trust document.
//!
//! Decides which rule says no and with which numbers; who is asked, and when, is [`crate::admission`]'s. Sums over
//! the cluster are no rules of this kind: those are arbiters' (quota).
//!
//! ```text
//!   a start, by any ticket ──▶ vm_max, images, networks, host_hardware, host_labels, priority_max
//!   a move of what runs    ──▶ host_labels
//!   another size           ──▶ vm_max, of what grows
//!   another rank           ──▶ priority_max, of what is to matter more
//!   a restart, a reboot    ──▶ nothing: it is under the hold that it has
//! ```
//!
//! Two rules are no host's: when VMs may be started ([`StartWindows`]), and how many of them within a time
//! ([`StartRate`]). No host knows the tenant's others, and many clocks would be asked; arbiters keep to these.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{ImageName, TenantId};
use crate::job::JobSpec;
use crate::refusal::Refusal;
use crate::resources::{Bytes, Resources};
use crate::vm::{
    DISK_BYTES_MIN, DiskSpec, Hardware, MEMORY_BYTES_MIN, NicSpec, Plug, Priority, VCPUS_MAX,
    VmSpec,
};

mod rate;
mod windows;
pub use rate::{
    NoRate, RATE_STARTS_MAX, RATE_WITHIN_S_MAX, RATE_WITHIN_S_MIN, StartRate, span_words,
};
pub use windows::{
    Closed, Day, EmptyWindow, NoTime, StartWindows, TimeOfDay, UtcOffset, WINDOWS_MAX, Window,
};

/// Tenants with an entry of their own. Every host and every role keeps the document and reads it at each change.
const TENANTS_MAX: usize = 4096;
/// Entries of one list of a rule: what is more is better said by what names begin with.
const NAMES_MAX: usize = 256;
/// Longest name of a bridge or network that a card can be plugged into: the kernel's.
const PLUG_CHARS_MAX: usize = 15;
/// Longest key and longest value of a label.
const LABEL_CHARS_MAX: usize = 63;

/// The rules for all tenants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// For every tenant without an entry of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<TenantPolicy>,
    /// By tenant. An entry stands for itself: nothing of the default is added to it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tenants: BTreeMap<TenantId, TenantPolicy>,
}

/// The rules for one tenant. What is left out is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantPolicy {
    /// The largest single VM, head-room included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_max: Option<VmMax>,
    /// Images that disks may be made from; a disk without an image asks nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Vec<Pattern>>,
    /// Labels that a host must have, with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub host_labels: BTreeMap<String, String>,
    /// What cards may be plugged into: `user`, `bridge=NAME`, `network=NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<Pattern>>,
    /// What of the host's own hardware a VM may be given or tied to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_hardware: Option<Vec<HostHardware>>,
    /// The highest priority of a VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_max: Option<Priority>,
    /// When in the week VMs may be started or given a larger size; arbiters ask it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_windows: Option<StartWindows>,
    /// How many VMs may be started within a time; arbiters ask it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_rate: Option<StartRate>,
}

/// The most that one VM may have; what is left out has no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VmMax {
    /// Virtual CPUs, those included that it can be resized to while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Memory in bytes, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// All its disks together, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
}

/// A name, or the beginning of names and a `*`.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Pattern(pub String);

/// What reaches out of a VM into its host.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum HostHardware {
    /// The host's PCI devices.
    Pci,
    /// The host's CPUs by number.
    Pins,
    /// Memory that the host has set aside in large pages.
    Hugepages,
}

/// The rule that says no, with what was asked and what would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "rule", rename_all = "snake_case")]
pub enum Breach {
    /// The VM is too large.
    VmMax {
        /// What it may have, head-room included.
        asked: Resources,
        /// What a VM may have.
        at_most: VmMax,
    },
    /// A disk is made from an image that is not allowed.
    Images {
        /// The disk.
        disk: String,
        /// The image.
        image: ImageName,
        /// Those that are.
        allowed: Vec<Pattern>,
    },
    /// The host has not the labels that it must have.
    HostLabels {
        /// What it must have.
        needs: BTreeMap<String, String>,
        /// What it has under these keys.
        has: BTreeMap<String, String>,
    },
    /// A card is plugged into what is not allowed.
    Networks {
        /// `user`, `bridge=NAME` or `network=NAME`.
        network: String,
        /// Those that are.
        allowed: Vec<Pattern>,
    },
    /// It is given, or tied to, hardware of the host that is not allowed.
    HostHardware {
        /// Which kind.
        asked: HostHardware,
        /// Which of that kind, in words.
        what: String,
        /// Those that are.
        allowed: Vec<HostHardware>,
    },
    /// It is to matter more than it may.
    PriorityMax {
        /// How much it is to matter.
        asked: Priority,
        /// How much it may.
        at_most: Priority,
    },
    /// It is no time to start it. No host says so: arbiters do, by a denial.
    StartWindows(Closed),
}

/// Rules that make no sense. Whoever brought them is told what would.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// More tenants than a document holds.
    #[error("policy for {0} tenants: at most {TENANTS_MAX}; the others are the default's")]
    Tenants(usize),
    /// One tenant's.
    #[error("policy of tenant {tenant}: {fault}")]
    OfTenant {
        /// The tenant.
        tenant: TenantId,
        /// What is wrong.
        fault: Fault,
    },
    /// That of those without an entry.
    #[error("policy by default: {0}")]
    OfDefault(Fault),
}

/// What is wrong with one tenant's rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A limit of nothing.
    #[error("vm_max names no limit: give vcpus, memory_bytes or disk_bytes, or leave it away")]
    NoLimit,
    /// A limit that no VM could keep, or that every VM keeps.
    #[error("vm_max.vcpus = {0}: use 1 to {VCPUS_MAX}, or leave it away")]
    Vcpus(u32),
    /// A limit that no VM could keep.
    #[error("vm_max.memory_bytes = {0}: no VM has less than {MEMORY_BYTES_MIN}")]
    Memory(u64),
    /// A limit that only a VM without disks could keep.
    #[error("vm_max.disk_bytes = {0}: no disk has less than {DISK_BYTES_MIN}")]
    Disk(u64),
    /// No name of an image.
    #[error("images: {0:?} is no name of an image: use such a name, or its beginning and '*'")]
    Image(String),
    /// Nothing that a card can be plugged into.
    #[error(
        "networks: {0:?} is nothing to plug a card into: use user, bridge=NAME or network=NAME, or the beginning of these and '*'"
    )]
    Network(String),
    /// No label.
    #[error(
        "host_labels: {0:?}: use keys and values of 1 to {LABEL_CHARS_MAX} characters, without '=' in a key"
    )]
    Label(String),
    /// A list that is too long.
    #[error("{list}: {count} entries, at most {NAMES_MAX}: use the beginning of names and '*'")]
    TooMany {
        /// Which list.
        list: &'static str,
        /// How long it is.
        count: usize,
    },
    /// Nothing could ever be started.
    #[error(
        "start_windows.open names no window: name one, or leave start_windows away for any time"
    )]
    NoWindow,
    /// More windows than a week has hours.
    #[error("start_windows.open has {0} windows: at most {WINDOWS_MAX}")]
    TooManyWindows(usize),
    /// A window in which nothing could be started.
    #[error("start_windows.open, window {}: {why}", at + 1)]
    EmptyWindow {
        /// Which of them, from 0.
        at: usize,
        /// What is wrong with it.
        why: EmptyWindow,
    },
    /// A rate that nobody could keep.
    #[error(transparent)]
    Rate(#[from] NoRate),
}

impl Policy {
    /// True when it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks what does not depend on any job.
    pub fn validate(&self) -> Result<(), InvalidPolicy> {
        if self.tenants.len() > TENANTS_MAX {
            return Err(InvalidPolicy::Tenants(self.tenants.len()));
        }
        if let Some(rules) = &self.default {
            rules.validate().map_err(InvalidPolicy::OfDefault)?;
        }
        self.tenants.iter().try_for_each(|(tenant, rules)| {
            let of_tenant = |fault| InvalidPolicy::OfTenant { tenant: tenant.clone(), fault };
            rules.validate().map_err(of_tenant)
        })
    }

    /// The rules for a tenant, if there are any.
    #[must_use]
    pub fn of(&self, tenant: &TenantId) -> Option<&TenantPolicy> {
        self.tenants.get(tenant).or(self.default.as_ref())
    }

    /// Every rule about the job itself that its start breaks. Ostler's own services are asked nothing.
    #[must_use]
    pub fn breaches(&self, spec: &JobSpec) -> Vec<Breach> {
        let rules = spec.as_vm().zip(self.of(&spec.tenant));
        rules.map(|(vm, rules)| rules.breaches(vm)).unwrap_or_default()
    }

    /// The same for who may not change these rules: what they leave out of what reaches into a host is not
    /// allowed. That is its hardware, and its bridges; networks that somebody has made for guests are. Nor is what
    /// would put a VM before those of others who say nothing.
    #[must_use]
    pub fn breaches_of_user(&self, spec: &JobSpec) -> Vec<Breach> {
        let Some(vm) = spec.as_vm() else { return Vec::new() };
        let mut rules = self.of(&spec.tenant).cloned().unwrap_or_default();
        rules.host_hardware.get_or_insert_default();
        let for_guests = || ["user", "network=*"].map(|name| Pattern(name.to_owned())).to_vec();
        rules.networks.get_or_insert_with(for_guests);
        rules.priority_max.get_or_insert_default();
        rules.breaches(vm)
    }

    /// The rule that a job breaks by mattering more than it did; `is_user` of who may not change these rules.
    #[must_use]
    pub fn breach_of_rank(&self, from: &JobSpec, to: &JobSpec, is_user: bool) -> Option<Breach> {
        let is_it = |breach: &Breach| matches!(breach, Breach::PriorityMax { .. });
        let is_more = to.priority() > from.priority();
        let breaches = if is_user { self.breaches_of_user(to) } else { self.breaches(to) };
        breaches.into_iter().find(is_it).filter(|_| is_more)
    }

    /// The rule about hosts that the job breaks on a host with these labels.
    #[must_use]
    pub fn breach_on(&self, spec: &JobSpec, labels: &BTreeMap<String, String>) -> Option<Breach> {
        let needs = self.host_labels(spec);
        let is_so = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        if needs.iter().all(is_so) {
            return None;
        }
        let has = labels.iter().filter(|(key, _)| needs.contains_key(*key));
        let has = has.map(|(key, value)| (key.clone(), value.clone())).collect();
        Some(Breach::HostLabels { needs: needs.clone(), has })
    }

    /// The rule that the job breaks by being made larger. What does not grow is not asked: it is so already.
    #[must_use]
    pub fn breach_of_growth(&self, from: &JobSpec, to: &JobSpec) -> Option<Breach> {
        let (from, vm) = from.as_vm().zip(to.as_vm())?;
        let (had, asked) = (size(from), size(vm));
        let rules = self.of(&to.tenant)?;
        if let Some(breach) = Self::breach_of_new(rules, from, vm) {
            return Some(breach);
        }
        let at_most = rules.vm_max?;
        let grown = Resources {
            vcpus: if asked.vcpus > had.vcpus { asked.vcpus } else { 0 },
            memory_bytes: if asked.memory_bytes > had.memory_bytes {
                asked.memory_bytes
            } else {
                0
            },
            disk_bytes: if asked.disk_bytes > had.disk_bytes { asked.disk_bytes } else { 0 },
        };
        (!at_most.allows(grown)).then_some(Breach::VmMax { asked, at_most })
    }

    /// The rule that what is new among its disks and cards breaks.
    fn breach_of_new(rules: &TenantPolicy, from: &VmSpec, to: &VmSpec) -> Option<Breach> {
        let is_new = |disk: &&DiskSpec| from.disks.iter().all(|had| had.name != disk.name);
        let is_plugged_anew = |nic: &&NicSpec| from.nics.iter().all(|had| had.plug != nic.plug);
        let new = VmSpec {
            disks: to.disks.iter().filter(is_new).cloned().collect(),
            nics: to.nics.iter().filter(is_plugged_anew).cloned().collect(),
            ..VmSpec::default()
        };
        let is_of_new = |breach: &Breach| !matches!(breach, Breach::VmMax { .. });
        rules.breaches(&new).into_iter().find(is_of_new)
    }

    /// That a tenant's VMs may not be started at a time of the wall clock, and when they may be next.
    #[must_use]
    pub fn closed(&self, tenant: &TenantId, wall_ms: u64) -> Option<Closed> {
        self.of(tenant)?.start_windows.as_ref()?.closed(wall_ms)
    }

    /// How many of a tenant's VMs may be started within a time, if that is limited.
    #[must_use]
    pub fn start_rate(&self, tenant: &TenantId) -> Option<StartRate> {
        self.of(tenant)?.start_rate
    }

    /// Labels that hosts of the job must have.
    #[must_use]
    pub fn host_labels(&self, spec: &JobSpec) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        let rules = spec.as_vm().and_then(|_| self.of(&spec.tenant));
        rules.map_or(&NONE, |rules| &rules.host_labels)
    }

    /// The breach as a host's no.
    #[must_use]
    pub fn refusal(&self, tenant: &TenantId, breach: Breach) -> Refusal {
        let is_default = self.is_default(tenant);
        Refusal::AgainstPolicy { tenant: tenant.clone(), is_default, breach }
    }

    /// Whether a tenant has no entry of its own.
    #[must_use]
    pub fn is_default(&self, tenant: &TenantId) -> bool {
        !self.tenants.contains_key(tenant)
    }
}

impl TenantPolicy {
    fn validate(&self) -> Result<(), Fault> {
        self.vm_max.map_or(Ok(()), VmMax::validate)?;
        self.start_rate.map_or(Ok(()), StartRate::validate)?;
        self.start_windows.as_ref().map_or(Ok(()), validate_windows)?;
        let lists = [("images", &self.images), ("networks", &self.networks)];
        for (list, names) in lists {
            let count = names.as_ref().map_or(0, Vec::len);
            if count > NAMES_MAX {
                return Err(Fault::TooMany { list, count });
            }
        }
        if self.host_labels.len() > NAMES_MAX {
            let count = self.host_labels.len();
            return Err(Fault::TooMany { list: "host_labels", count });
        }
        if let Some(pattern) = self.images.iter().flatten().find(|one| !one.is_of_images()) {
            return Err(Fault::Image(pattern.0.clone()));
        }
        if let Some(pattern) = self.networks.iter().flatten().find(|one| !one.is_of_networks()) {
            return Err(Fault::Network(pattern.0.clone()));
        }
        let is_word = |word: &str| {
            let is_fine = |c: char| !c.is_control();
            (1..=LABEL_CHARS_MAX).contains(&word.chars().count()) && word.chars().all(is_fine)
        };
        let is_label =
            |key: &str, value: &str| is_word(key) && is_word(value) && !key.contains('=');
        match self.host_labels.iter().find(|(key, value)| !is_label(key, value)) {
            Some((key, value)) => Err(Fault::Label(format!("{key}={value}"))),
            None => Ok(()),
        }
    }

    fn breaches(&self, vm: &VmSpec) -> Vec<Breach> {
        let mut all = Vec::new();
        let asked = size(vm);
        if let Some(at_most) = self.vm_max.filter(|at_most| !at_most.allows(asked)) {
            all.push(Breach::VmMax { asked, at_most });
        }
        if let Some(allowed) = &self.images {
            let denied = vm.disks.iter().filter_map(|disk| {
                let image = disk.image.as_ref().filter(|i| !is_any(allowed, i.as_str()))?;
                let (disk, image) = (disk.name.clone(), image.clone());
                Some(Breach::Images { disk, image, allowed: allowed.clone() })
            });
            all.extend(denied);
        }
        if let Some(allowed) = &self.networks {
            let mut plugs: Vec<String> = vm.nics.iter().map(|nic| plug_words(&nic.plug)).collect();
            plugs.sort();
            plugs.dedup();
            let denied = plugs.into_iter().filter(|plug| !is_any(allowed, plug));
            let breach = |network| Breach::Networks { network, allowed: allowed.clone() };
            all.extend(denied.map(breach));
        }
        if let Some(allowed) = &self.host_hardware {
            let denied = of_host(&vm.hardware).into_iter();
            let denied = denied.filter(|(asked, _)| !allowed.contains(asked));
            let breach =
                |(asked, what)| Breach::HostHardware { asked, what, allowed: allowed.clone() };
            all.extend(denied.map(breach));
        }
        if let Some(at_most) = self.priority_max.filter(|at_most| vm.priority > *at_most) {
            all.push(Breach::PriorityMax { asked: vm.priority, at_most });
        }
        all
    }
}

fn validate_windows(windows: &StartWindows) -> Result<(), Fault> {
    match windows.open.len() {
        0 => Err(Fault::NoWindow),
        count if count > WINDOWS_MAX => Err(Fault::TooManyWindows(count)),
        _ => windows.validate().map_err(|(at, why)| Fault::EmptyWindow { at, why }),
    }
}

impl VmMax {
    fn validate(self) -> Result<(), Fault> {
        if self == Self::default() {
            return Err(Fault::NoLimit);
        }
        if let Some(vcpus) = self.vcpus.filter(|vcpus| !(1..=VCPUS_MAX).contains(vcpus)) {
            return Err(Fault::Vcpus(vcpus));
        }
        if let Some(bytes) = self.memory_bytes.filter(|bytes| *bytes < MEMORY_BYTES_MIN) {
            return Err(Fault::Memory(bytes));
        }
        match self.disk_bytes.filter(|bytes| *bytes < DISK_BYTES_MIN) {
            Some(bytes) => Err(Fault::Disk(bytes)),
            None => Ok(()),
        }
    }

    /// Whether a VM may have so much.
    #[must_use]
    pub fn allows(self, asked: Resources) -> bool {
        self.vcpus.is_none_or(|max| asked.vcpus <= max)
            && self.memory_bytes.is_none_or(|max| asked.memory_bytes <= max)
            && self.disk_bytes.is_none_or(|max| asked.disk_bytes <= max)
    }
}

impl Pattern {
    /// Whether it stands for a name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == self.0,
        }
    }

    fn is_of_images(&self) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => beginning.is_empty() || ImageName::new(beginning).is_ok(),
            None => ImageName::new(&self.0).is_ok(),
        }
    }

    fn is_of_networks(&self) -> bool {
        let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let (words, chars_min) = match self.0.strip_suffix('*') {
            Some(beginning) => (beginning, 0),
            None => (self.0.as_str(), 1),
        };
        let is_name = |name: &str| {
            (chars_min..=PLUG_CHARS_MAX).contains(&name.len()) && name.chars().all(is_fine)
        };
        match words.split_once('=') {
            Some(("bridge" | "network", name)) => is_name(name),
            Some(_) => false,
            None => self.0 == "user" || self.0 == "*",
        }
    }
}

/// The most that a VM may have without a start, and its disks.
fn size(vm: &VmSpec) -> Resources {
    let memory_bytes = vm.max_memory_bytes.unwrap_or(0).max(vm.memory_bytes);
    Resources { vcpus: vm.vcpus_possible().max(vm.vcpus), memory_bytes, ..vm.resources() }
}

fn is_any(patterns: &[Pattern], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(name))
}

/// What a card is plugged into, as it is written on the command line.
fn plug_words(plug: &Plug) -> String {
    match plug {
        Plug::User => "user".to_owned(),
        Plug::Bridge { bridge } => format!("bridge={bridge}"),
        Plug::Libvirt { name } => format!("network={name}"),
    }
}

/// What of its host's hardware a VM is given or tied to, once of each kind.
fn of_host(hardware: &Hardware) -> Vec<(HostHardware, String)> {
    let pci = hardware
        .pci
        .first()
        .map(|_| (HostHardware::Pci, format!("the host's PCI device {}", hardware.pci.join(", "))));
    let pins = hardware.pins.first().map(|pin| {
        let words = format!("the host's CPUs by number (vcpu {})", pin.vcpu);
        (HostHardware::Pins, words)
    });
    let own = hardware
        .dedicated_cpus
        .then(|| (HostHardware::Pins, "CPUs of the host for itself".to_owned()));
    let pages = hardware.hugepages_kib.map(|kib| {
        let words = format!("the host's pages of {}", Bytes(kib.saturating_mul(1024)));
        (HostHardware::Hugepages, words)
    });
    [pci, pins.or(own), pages].into_iter().flatten().collect()
}

impl Breach {
    /// The rule's name in the document.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        match self {
            Breach::VmMax { .. } => "vm_max",
            Breach::Images { .. } => "images",
            Breach::HostLabels { .. } => "host_labels",
            Breach::Networks { .. } => "networks",
            Breach::HostHardware { .. } => "host_hardware",
            Breach::PriorityMax { .. } => "priority_max",
            Breach::StartWindows(_) => "start_windows",
        }
    }

    /// True when it is the host that does not do, and another one may.
    #[must_use]
    pub fn is_about_host(&self) -> bool {
        matches!(self, Breach::HostLabels { .. })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for HostHardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            HostHardware::Pci => "pci",
            HostHardware::Pins => "pins",
            HostHardware::Hugepages => "hugepages",
        })
    }
}

impl fmt::Display for VmMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vcpus = self.vcpus.map(|vcpus| format!("{vcpus} vcpus"));
        let bytes = |bytes: Option<u64>, of: &str| bytes.map(|b| format!("{} of {of}", Bytes(b)));
        let all = [vcpus, bytes(self.memory_bytes, "memory"), bytes(self.disk_bytes, "disk")];
        f.write_str(&all.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.rule())?;
        match self {
            Breach::VmMax { asked, at_most } => f.write_str(&excess_words(*asked, *at_most)),
            Breach::Images { disk, image, allowed } => {
                write!(f, "disk {disk:?} is made from {image}; {}", allowed_words(allowed))
            }
            Breach::HostLabels { needs, has } => {
                let needs = label_words(needs);
                match has.is_empty() {
                    true => write!(f, "the host must have {needs}, and has no such label"),
                    false => write!(f, "the host must have {needs}, and has {}", label_words(has)),
                }
            }
            Breach::Networks { network, allowed } => {
                write!(f, "a card is plugged into {network}; {}", allowed_words(allowed))
            }
            Breach::HostHardware { what, allowed, .. } => {
                write!(f, "it is given {what}; {}", allowed_words(allowed))
            }
            Breach::PriorityMax { asked, at_most } => {
                write!(f, "its priority is {asked}, at most {at_most}")
            }
            Breach::StartWindows(closed) => closed.fmt(f),
        }
    }
}

/// What is too much, head-room included, and what would do.
fn excess_words(asked: Resources, at_most: VmMax) -> String {
    let mut words = Vec::new();
    if let Some(max) = at_most.vcpus.filter(|max| asked.vcpus > *max) {
        words.push(format!("{} vcpus, at most {max}", asked.vcpus));
    }
    let mut bytes = |of: &str, asked: u64, max: Option<u64>| {
        if let Some(max) = max.filter(|max| asked > *max) {
            words.push(format!("{} of {of}, at most {}", Bytes(asked), Bytes(max)));
        }
    };
    bytes("memory", asked.memory_bytes, at_most.memory_bytes);
    bytes("disk", asked.disk_bytes, at_most.disk_bytes);
    format!("one VM is to have {}, head-room included", words.join("; "))
}

fn allowed_words<T: fmt::Display>(allowed: &[T]) -> String {
    let names: Vec<String> = allowed.iter().map(ToString::to_string).collect();
    if names.is_empty() {
        "none is allowed".to_owned()
    } else {
        format!("allowed: {}", names.join(", "))
    }
}

fn label_words(labels: &BTreeMap<String, String>) -> String {
    let words: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    words.join(", ")
}

/// One of each, for tests that every one is documented and survives the wire.
#[must_use]
pub fn breach_examples() -> Vec<Breach> {
    let image = ImageName::new("debian-12").expect("a valid name");
    let asked = Resources { vcpus: 8, memory_bytes: 16 << 30, disk_bytes: 8 << 30 };
    let at_most = VmMax { vcpus: Some(4), memory_bytes: Some(8 << 30), disk_bytes: None };
    let label = |value: &str| BTreeMap::from([("owner".to_owned(), value.to_owned())]);
    let pattern = |text: &str| vec![Pattern(text.to_owned())];
    vec![
        Breach::VmMax { asked, at_most },
        Breach::Images { disk: "root".into(), image, allowed: pattern("alpine-*") },
        Breach::HostLabels { needs: label("acme"), has: label("other") },
        Breach::Networks { network: "bridge=br0".into(), allowed: pattern("network=blue") },
        Breach::HostHardware {
            asked: HostHardware::Pci,
            what: "the host's PCI device 0000:03:00.0".into(),
            allowed: vec![HostHardware::Hugepages],
        },
        Breach::PriorityMax { asked: Priority::MAX, at_most: Priority::default() },
        Breach::StartWindows(Closed::example()),
    ]
}

#[cfg(test)]
mod tests;
