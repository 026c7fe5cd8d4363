//! What the page shows of hosts, jobs and runs: the parts that people look at, with the words that
//! every command uses. A job's whole spec may hold secrets and is not among them.

use std::collections::BTreeMap;

use protocol::api::{RunState, RunStatus, TaskState};
use protocol::host::{Accel, Host, HostIntent};
use protocol::id::{HostId, ImageName, JobId, PoolName, RunId, TenantId};
use protocol::job::{
    Card, Job, JobKind, JobState, Migration, ObservedDomain, Reason, address_in_short,
};
use protocol::network::Networks;
use protocol::pool::PoolFacts;
use protocol::resources::Resources;
use protocol::view::HostRow;
use protocol::vm::{NicSpec, Plug, Priority};
use serde::Serialize;

use crate::follow::wanted;

/// A host.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct HostCells {
    id: HostId,
    short: String,
    name: String,
    urls: Vec<String>,
    version: String,
    capacity: Resources,
    allocation: Resources,
    intent: Option<HostIntent>,
    accel: Accel,
    accel_reason: Option<String>,
    libvirt: String,
    labels: BTreeMap<String, String>,
    trust_version: Option<u64>,
    images: Vec<ImageName>,
    /// Its pools but for its own folder, which is in its capacity.
    pools: BTreeMap<PoolName, PoolFacts>,
    networks: Networks,
    /// VMs that are alive on it.
    vms: usize,
    /// Domains there that are no job's.
    observed: Vec<ObservedDomain>,
}

impl HostCells {
    pub(crate) fn of(row: &HostRow) -> Self {
        let Host { id, name, urls, agent_version, capacity, allocation, intent, .. } = &*row.host;
        let is_vm =
            |job: &&std::sync::Arc<Job>| job.spec.as_vm().is_some() && !job.state.is_ended();
        Self {
            id: id.clone(),
            short: id.short().to_owned(),
            name: name.clone(),
            urls: urls.clone(),
            version: agent_version.clone(),
            capacity: *capacity,
            allocation: *allocation,
            intent: *intent,
            accel: row.host.hypervisor.accel,
            accel_reason: row.host.hypervisor.accel_reason.clone(),
            libvirt: row.host.hypervisor.libvirt_version.clone(),
            labels: row.host.labels.clone(),
            trust_version: row.host.trust_version,
            images: row.host.images.keys().cloned().collect(),
            pools: row.host.pools.clone(),
            networks: row.host.networks.clone().unwrap_or_default(),
            vms: row.jobs.values().filter(is_vm).count(),
            observed: row.observed.values().cloned().collect(),
        }
    }
}

/// A job where it matters most.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct JobCells {
    id: JobId,
    /// `vm`, `one-off` or `service`.
    kind: &'static str,
    host: HostId,
    state: JobState,
    /// Why it is in that state, in words.
    why: Option<String>,
    /// When the state was entered, by the host's wall clock.
    since_ms: u64,
    is_ended: bool,
    tenant: TenantId,
    vcpus: u32,
    memory_bytes: u64,
    disk_bytes: u64,
    /// What its guest has instead, and until when, or what its host is at, in words.
    resize: Option<String>,
    image: Option<ImageName>,
    labels: BTreeMap<String, String>,
    is_adopted: bool,
    /// Whether its host refuses to end it.
    is_protected: bool,
    /// How much it matters beside others, in words, where it says so.
    rank: Option<String>,
    priority: Priority,
    is_preemptible: bool,
    /// Whether there is something to see.
    has_screen: bool,
    /// Where a service answers.
    url: Option<String>,
    /// One address of its guest for all.
    address: Option<String>,
    /// Its network cards with what is known of their addresses, in words.
    cards: Vec<String>,
    /// Those that its spec asks for, whether or not it runs.
    nics: Vec<NicCells>,
    /// Where it is going, and how far that is.
    moving: Option<Moving>,
}

/// A network card of a VM's spec.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct NicCells {
    mac: String,
    /// What it is plugged into, as flags name it: `user`, `bridge=br0`, `network=blue`.
    plug: String,
    /// The network, if it is plugged into one.
    network: Option<String>,
    /// Addresses that it is known to have and who says so, or why none is known; nothing while it does not run.
    addresses: Option<String>,
}

/// A migration that is under way.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Moving {
    to: HostId,
    moved_bytes: u64,
    total_bytes: u64,
    /// How the passes over its memory go, in words.
    passes: Option<String>,
}

impl JobCells {
    pub(crate) fn of(host: &HostId, job: &Job) -> Self {
        let kind = match job.spec.kind {
            JobKind::Vm(_) => "vm",
            JobKind::OneOff(_) => "one-off",
            JobKind::Service(_) => "service",
            JobKind::Budget(_) => "budget",
        };
        let asked = job.spec.resources();
        let disks = job.spec.as_vm().map_or(&[][..], |vm| &vm.disks);
        let moving = match job.migration.as_deref() {
            Some(Migration::Outgoing { to, moved_bytes, total_bytes, memory, .. })
                if job.state == JobState::MigratingOut =>
            {
                let (moved_bytes, total_bytes) = (*moved_bytes, *total_bytes);
                let passes = memory.map(|passes| passes.to_string());
                Some(Moving { to: to.clone(), moved_bytes, total_bytes, passes })
            }
            _ => None,
        };
        Self {
            id: job.id.clone(),
            kind,
            host: host.clone(),
            state: job.state,
            why: job
                .reason
                .as_ref()
                .filter(|why| **why != Reason::Requested)
                .map(ToString::to_string),
            since_ms: job.since_ms,
            is_ended: job.state.is_ended(),
            tenant: job.spec.tenant.clone(),
            vcpus: asked.vcpus,
            memory_bytes: asked.memory_bytes,
            disk_bytes: asked.disk_bytes,
            resize: job.resize_words().or_else(|| job.snapshot_words()),
            image: disks.first().and_then(|disk| disk.image.clone()),
            labels: job.spec.labels.clone(),
            is_adopted: job.spec.adopted().is_some(),
            is_protected: job.spec.as_vm().is_some_and(|vm| vm.protected),
            rank: job.spec.rank_words(),
            priority: job.spec.priority(),
            is_preemptible: job.spec.is_preemptible(),
            has_screen: job.spec.as_vm().is_some_and(|vm| vm.hardware.vnc),
            url: job.endpoint.as_ref().map(|endpoint| endpoint.url.clone()),
            address: address_in_short(&job.cards),
            cards: job.cards.iter().map(Card::words).collect(),
            nics: nics(job),
            moving,
        }
    }
}

fn nics(job: &Job) -> Vec<NicCells> {
    let Some(vm) = job.spec.as_vm() else { return vec![] };
    let macs = vm.macs(job.id.domain_uuid());
    let one = |(mac, nic): (String, &NicSpec)| {
        let (plug, network) = match &nic.plug {
            Plug::User => ("user".to_owned(), None),
            Plug::Bridge { bridge } => (format!("bridge={bridge}"), None),
            Plug::Libvirt { name } => (format!("network={name}"), Some(name.clone())),
        };
        let card = job.cards.iter().find(|card| card.mac == mac);
        NicCells { mac, plug, network, addresses: card.map(Card::known) }
    };
    macs.into_iter().zip(&vm.nics).map(one).collect()
}

/// A run of a controller.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RunCells {
    id: RunId,
    job: JobId,
    state: RunState,
    is_ended: bool,
    /// What is wanted, in words.
    wanted: String,
    why: Option<String>,
    rounds: u32,
    accepted_ms: u64,
    tasks: Vec<TaskCells>,
}

/// A task of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct TaskCells {
    title: String,
    state: TaskState,
    note: Option<String>,
}

impl RunCells {
    /// `named` puts names in place of hosts' ids.
    pub(crate) fn of(run: &RunStatus, named: impl Fn(&str) -> String) -> Self {
        let task = |task: &protocol::api::TaskStatus| TaskCells {
            title: named(&task.title),
            state: task.state,
            note: task.note.as_deref().map(&named),
        };
        Self {
            id: run.id,
            job: run.want.job().clone(),
            state: run.state,
            is_ended: run.state.is_ended(),
            wanted: named(&wanted(&run.want)),
            why: run.reason.as_deref().map(&named),
            rounds: run.rounds,
            accepted_ms: run.accepted_ms,
            tasks: run.tasks.iter().map(task).collect(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use protocol::host::{HypervisorFacts, Inventory};
    use protocol::id::{Cursor, Epoch};
    use protocol::job::{JobSpec, Resize, ResizeStage, Unknown};
    use protocol::signed::SecretKey;
    use protocol::vm::{CloudInit, VmSpec};

    use super::*;

    /// A host for tests, the nth.
    pub(crate) fn host(n: u8) -> Host {
        let key = SecretKey::from_seed([n; 32]).public();
        let some = Resources { vcpus: 8, memory_bytes: 8 << 30, disk_bytes: 64 << 30 };
        Host {
            name: format!("h{n}"),
            urls: vec![format!("https://10.0.0.{n}:7460")],
            agent_version: "0".into(),
            hypervisor: HypervisorFacts {
                uri: "qemu:///system".into(),
                driver: "QEMU".into(),
                libvirt_version: "9.0.0".into(),
                accel: Accel::Kvm,
                can_receive: true,
                ..HypervisorFacts::default()
            },
            capacity: some,
            ..Host::of_key(key)
        }
    }

    /// A VM for tests.
    pub(crate) fn job(name: &str, state: JobState) -> Job {
        let vm = VmSpec { vcpus: 1, memory_bytes: 64 << 20, ..VmSpec::default() };
        Job { since_ms: 5, ..Job::of(JobId::new(name).unwrap(), JobSpec::vm(vm), state) }
    }

    /// A host's report with these jobs, at its first event.
    pub(crate) fn inventory(host: &Host, jobs: &[Job]) -> Inventory {
        let cursor = Cursor { epoch: Epoch(1), seq: 1 };
        Inventory { cursor, host: host.clone(), jobs: jobs.to_vec(), observed: vec![] }
    }

    #[test]
    fn a_row_has_words_for_why_and_none_of_the_guests_secrets() {
        let mut job = job("web-1", JobState::Stopped);
        job.reason = Some(Reason::GuestShutdown);
        let user_data = "password: swordfish".to_owned();
        let secret = CloudInit { user_data, meta_data: None, network_config: None };
        let vm = VmSpec { vcpus: 1, cloud_init: Some(Box::new(secret)), ..VmSpec::default() };
        job.spec = std::sync::Arc::new(JobSpec::vm(vm));
        let text = serde_json::to_string(&JobCells::of(&host(1).id, &job)).unwrap();
        assert!(text.contains("the guest shut down"), "{text}");
        assert!(!text.contains("swordfish"), "{text}");
        job.reason = Some(Reason::Requested);
        assert_eq!(
            JobCells::of(&host(1).id, &job).why,
            None,
            "what everybody expects says nothing"
        );
        let has = Resources { vcpus: 2, memory_bytes: 64 << 20, disk_bytes: 0 };
        job.state = JobState::Running;
        job.resize = Some(Box::new(Resize::of(has, ResizeStage::NextStart)));
        let words = JobCells::of(&host(1).id, &job).resize.unwrap();
        assert!(words.starts_with("vcpus 1, now 2"), "{words}");
    }

    #[test]
    fn a_card_is_named_by_the_address_that_takes_it_away_also_while_the_vm_is_stopped() {
        let mut job = job("web-1", JobState::Stopped);
        let nics = vec![Plug::User.into(), Plug::Libvirt { name: "blue".into() }.into()];
        let vm = VmSpec { vcpus: 1, nics, ..VmSpec::default() };
        let macs = vm.macs(job.id.domain_uuid());
        job.spec = std::sync::Arc::new(JobSpec::vm(vm));
        let known = super::nics(&job);
        assert_eq!(
            known.iter().map(|nic| &nic.mac).collect::<Vec<_>>(),
            macs.iter().collect::<Vec<_>>()
        );
        assert_eq!((known[0].plug.as_str(), known[1].network.as_deref()), ("user", Some("blue")));
        assert_eq!(known[1].addresses, None);
        let mac = macs[1].clone();
        let (plug, source) = ("network".into(), Some("blue".into()));
        let unknown = Some(Unknown::NotSeen);
        job.cards = [Card { mac, plug, source, device: None, addresses: vec![], unknown }].into();
        assert_eq!(super::nics(&job)[1].addresses.as_deref(), Some("none seen yet"));
    }
}
