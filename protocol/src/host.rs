//! What a host says of itself: facts, capacity, and the complete inventory a follower starts from.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cpus::DedicatedCpus;
use crate::hugepages::Hugepages;
use crate::id::{Cursor, HostId, ImageName, PoolName};
use crate::image::ImageFormat;
use crate::job::{Job, ObservedDomain};
use crate::network::Networks;
use crate::pool::PoolFacts;
use crate::resources::Resources;
use crate::signed::{Digest, PublicKey};

/// A host as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// Fingerprint of `key`.
    pub id: HostId,
    /// The key it signs with and proves itself by.
    pub key: PublicKey,
    /// Its hostname, for people; it may change.
    pub name: String,
    /// `https://ADDRESS:PORT` of its agent, best first.
    pub urls: Vec<String>,
    /// Version of the agent.
    pub agent_version: String,
    /// What drives its guests.
    pub hypervisor: HypervisorFacts,
    /// What it has for guests, the host's own reserve taken off and overcommit applied. Memory that is set
    /// aside as huge pages and CPUs that VMs have for themselves are no part of it.
    pub capacity: Resources,
    /// What it has promised to jobs and offers. Domains of others are counted too. Memory in huge pages is
    /// promised there, and dedicated CPUs are.
    pub allocation: Resources,
    /// Huge pages by their size. Older agents do not say: then there are none to be given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hugepages: Hugepages,
    /// CPUs that it gives to VMs for themselves, which are no part of the capacity. Older agents do not say: then
    /// there are none to be given.
    #[serde(default, skip_serializing_if = "DedicatedCpus::is_none")]
    pub dedicated_cpus: DedicatedCpus,
    /// Images it can start disks from.
    #[serde(default)]
    pub images: BTreeMap<ImageName, ImageFacts>,
    /// Where volumes can be beside its own folder, which is the pool `default`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pools: BTreeMap<PoolName, PoolFacts>,
    /// Networks that guests can be plugged into, by libvirt's name. Older agents do not say, nor does one
    /// that could not ask libvirt yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<Networks>,
    /// Free words for selectors.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Version of the trust document it obeys; `None` on a lone host.
    #[serde(default)]
    pub trust_version: Option<u64>,
    /// What its operator intends with it; `None`: it takes what fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<HostIntent>,
}

/// What an operator intends with a host. The host itself keeps it, and says it to whoever looks, so
/// that every scheduler knows and none has to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HostIntent {
    /// It takes nothing new, and controllers move away what runs there. Nothing is stopped.
    Drain,
    /// What only a newer agent understands: shown, and left to its host, which refuses by itself.
    #[serde(other)]
    Unknown,
}

impl Host {
    /// A host that has told nothing but its key: it has no address, and room for nothing.
    #[must_use]
    pub fn of_key(key: PublicKey) -> Self {
        Self {
            id: HostId::of(&key),
            key,
            name: String::new(),
            urls: Vec::new(),
            agent_version: String::new(),
            hypervisor: HypervisorFacts::default(),
            capacity: Resources::ZERO,
            allocation: Resources::ZERO,
            hugepages: Hugepages::new(),
            dedicated_cpus: DedicatedCpus::NONE,
            images: BTreeMap::new(),
            pools: BTreeMap::new(),
            networks: None,
            labels: BTreeMap::new(),
            trust_version: None,
            intent: None,
        }
    }

    /// What is left to promise.
    #[must_use]
    pub fn free(&self) -> Resources {
        self.capacity.minus(self.allocation)
    }
}

/// The hypervisor under an agent. By default one that is unknown and runs nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HypervisorFacts {
    /// libvirt's connection URI, such as `qemu:///system`.
    pub uri: String,
    /// libvirt's driver: `QEMU`, `TEST`.
    pub driver: String,
    /// libvirt's version, such as `9.0.0`.
    pub libvirt_version: String,
    /// How guests are run.
    pub accel: Accel,
    /// Why not KVM, when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accel_reason: Option<String>,
    /// Whether running guests can be sent here: a libvirt daemon that runs QEMU takes them, an
    /// embedded libvirt and a pretended one do not.
    #[serde(default)]
    pub can_receive: bool,
    /// Whether a guest can be held in a cgroup of its own, which a keeper freezes and kills when the
    /// right to run it is over: what `on_loss = stop` needs.
    #[serde(default)]
    pub can_guard: bool,
}

/// How guests' instructions are executed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Accel {
    /// By the CPU.
    Kvm,
    /// By translation: slow, and works everywhere.
    Tcg,
    /// Not at all: libvirt's test driver only pretends.
    #[default]
    None,
}

/// An image on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageFacts {
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes a disk made from it has at least.
    pub virtual_bytes: u64,
    /// How the file is laid out; older agents do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ImageFormat>,
}

/// A host's complete report at a cursor. Whoever has it and every event after it knows the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Inventory {
    /// Events up to this one are included.
    pub cursor: Cursor,
    /// The host.
    pub host: Host,
    /// Every job in its ledger.
    pub jobs: Vec<Job>,
    /// Every domain that is no job's.
    #[serde(default)]
    pub observed: Vec<ObservedDomain>,
}
