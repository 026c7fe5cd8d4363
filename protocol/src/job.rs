//! A job: what a host is asked to run, and how that is going.
//!
//! ```text
//!               PUT                 started               stop
//!   (nothing) ───────▶ accepted ──▶ starting ──▶ running ──────▶ stopping ──▶ stopped
//!                         │            │          │   ▲ │                       ▲
//!              PUT with   │            ▼          ▼   │ └─▶ migrating_out ──────┤ migrated
//!              migrate-in │          failed    paused─┘        │ (gave up: back │
//!                         ▼            ▲          └────────────┘  to running)   │
//!                    migrating_in ─────┘  gave up        crashed ◀── guest died │
//!                         └──▶ running (handed over)     stopped ◀── guest shut down
//!                                                   stopped (saved) ◀── saved by way of stopping
//! ```
//!
//! A one-off job runs to its own end: it is `stopped` with `exited` once its guest has shut down.
//! `lost` exists only in a view: a host never says it of itself.

mod reason;
pub use reason::Reason;

mod resize;
pub use resize::{Resize, ResizeStage};

mod snapshot;
pub use snapshot::{SNAPSHOTS_MAX, Snapshot, SnapshotStage, promise};

mod cards;
pub use cards::{
    ADDRESSES_MAX, Address, AddressSource, CARDS_MAX, Card, Unknown, address_in_short,
};

mod pace;
pub use pace::{Pace, Passes};

mod one_off;
pub use one_off::{LIMIT_MS_MAX, LIMIT_MS_MIN, OneOff};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use crate::amounts::Amounts;
use crate::budget::{Budget, Delegated};
use crate::hugepages::{PageSize, Pages};
use crate::id::{Cursor, HostId, JobId, OfferId, PoolName, Revision, RunId, TenantId};
use crate::resources::Resources;
use crate::signed::{Digest, PublicKey, Signed};
use crate::ticket::Handoff;
use crate::vm::{InvalidVm, NicSpec, Plug, Priority, Rank, VmSpec, mac_of};

/// What is asked of a host, apart from when and by whose permission.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// What to run.
    #[serde(flatten)]
    pub kind: JobKind,
    /// Whose quota it counts against.
    #[serde(default = "TenantId::default_tenant")]
    pub tenant: TenantId,
    /// Free words for people and selectors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// The kinds of job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    /// A virtual machine.
    Vm(VmSpec),
    /// A virtual machine that does something and is done.
    OneOff(OneOff),
    /// One of Ostler's own roles, placed by bootstrap.
    Service(ServiceSpec),
    /// A part of its tenant's quota that its host hands out by itself. It runs nothing.
    Budget(Budget),
}

/// One of Ostler's own roles as a process beside the agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// Which role.
    pub role: Role,
    /// TCP port to listen on; 0 lets the host choose and say so in the job's `endpoint`.
    #[serde(default)]
    pub port: u16,
    /// Discovery sources (URLs, addresses) the role finds hosts by.
    #[serde(default)]
    pub discovery: Vec<String>,
}

/// Who somebody is in the cluster.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Issues tickets.
    Arbiter,
    /// Says beside the arbiters where a job that may be lost runs.
    Witness,
    /// Follows hosts and serves the view; may read.
    Monitor,
    /// Plans and executes; may do what jobs need.
    Controller,
    /// A person or tool with the operator key; may do everything.
    Operator,
    /// Another agent.
    Host,
    /// A person or tool that runs the VMs of one tenant, and looks at everything.
    User,
    /// A person or tool that looks at everything and does nothing.
    Reader,
    /// A tool that reads `/metrics` and nothing else.
    Scraper,
}

/// Why no host can run a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpec {
    /// The VM makes no sense.
    #[error(transparent)]
    Vm(#[from] InvalidVm),
    /// The role is somebody's or a host's own.
    #[error("{0} is no service: use arbiter, monitor or controller")]
    NoService(Role),
    /// What ends once is not begun again.
    #[error("a one-off job is not started again: leave `restart` and `autostart` away")]
    OneOffRestart,
    /// What ends once is not begun again elsewhere either.
    #[error("a one-off job is kept when its host is cut off: leave on_loss away")]
    OneOffStop,
    /// What ends once is not begun again when there is room.
    #[error("a one-off job that is stopped is over: leave `preemptible` away")]
    OneOffPreemptible,
    /// What was there before has no port for an exit code.
    #[error("a one-off job is made anew: adopt a domain as a plain VM")]
    OneOffAdopted,
    /// Nothing could be started by it.
    #[error(
        "a budget has at least one CPU, some memory and one VM, and a number of each: say how many"
    )]
    Budget,
    /// A limit of time that no host could keep.
    #[error("{name} of {ms} ms: use {LIMIT_MS_MIN} to {LIMIT_MS_MAX}")]
    Limit {
        /// Which limit.
        name: &'static str,
        /// What was asked.
        ms: u64,
    },
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Role::Arbiter => "arbiter",
            Role::Witness => "witness",
            Role::Monitor => "monitor",
            Role::Controller => "controller",
            Role::Operator => "operator",
            Role::Host => "host",
            Role::User => "user",
            Role::Reader => "reader",
            Role::Scraper => "scraper",
        })
    }
}

/// Field by field: what `serde` derives for a flattened kind reads everything twice.
impl<'de> Deserialize<'de> for JobSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        struct Flat {
            #[serde(default)]
            vm: Option<VmSpec>,
            #[serde(default)]
            one_off: Option<OneOff>,
            #[serde(default)]
            service: Option<ServiceSpec>,
            #[serde(default)]
            budget: Option<Budget>,
            #[serde(default = "TenantId::default_tenant")]
            tenant: TenantId,
            #[serde(default)]
            labels: BTreeMap<String, String>,
        }
        let Flat { vm, one_off, service, budget, tenant, labels } =
            Flat::deserialize(deserializer)?;
        let kind = match (vm, one_off, service, budget) {
            (Some(vm), None, None, None) => JobKind::Vm(vm),
            (None, Some(one_off), None, None) => JobKind::OneOff(one_off),
            (None, None, Some(service), None) => JobKind::Service(service),
            (None, None, None, Some(budget)) => JobKind::Budget(budget),
            (None, None, None, None) => {
                let missing = "no kind of job: name one of `vm`, `one-off`, `service` and `budget`";
                return Err(D::Error::custom(missing));
            }
            _ => {
                let many =
                    "several kinds of job: name one of `vm`, `one-off`, `service` and `budget`";
                return Err(D::Error::custom(many));
            }
        };
        Ok(Self { kind, tenant, labels })
    }
}

impl JobSpec {
    /// A job that runs this VM for the default tenant.
    #[must_use]
    pub fn vm(vm: VmSpec) -> Self {
        Self { kind: JobKind::Vm(vm), tenant: TenantId::default_tenant(), labels: BTreeMap::new() }
    }

    /// The VM, if it is one.
    #[must_use]
    pub fn as_vm(&self) -> Option<&VmSpec> {
        match &self.kind {
            JobKind::Vm(vm) | JobKind::OneOff(OneOff { vm, .. }) => Some(vm),
            JobKind::Service(_) | JobKind::Budget(_) => None,
        }
    }

    /// How large the budget is, if it is one.
    #[must_use]
    pub fn as_budget(&self) -> Option<Budget> {
        match &self.kind {
            JobKind::Budget(budget) => Some(*budget),
            JobKind::Vm(_) | JobKind::OneOff(_) | JobKind::Service(_) => None,
        }
    }

    /// What it takes of its tenant's quota, if it is one of those that take something.
    #[must_use]
    pub fn counts(&self) -> Option<Amounts> {
        match &self.kind {
            JobKind::Vm(vm) | JobKind::OneOff(OneOff { vm, .. }) => {
                Some(Amounts::of_vm(vm.resources()))
            }
            JobKind::Budget(budget) => Some(budget.amounts()),
            JobKind::Service(_) => None,
        }
    }

    pub(crate) fn as_vm_mut(&mut self) -> Option<&mut VmSpec> {
        match &mut self.kind {
            JobKind::Vm(vm) | JobKind::OneOff(OneOff { vm, .. }) => Some(vm),
            JobKind::Service(_) | JobKind::Budget(_) => None,
        }
    }

    /// Whether its host refuses to end it.
    #[must_use]
    pub fn is_protected(&self) -> bool {
        self.as_vm().is_some_and(|vm| vm.protected)
    }

    /// The same VM, protected or not; `None` of what is no VM.
    #[must_use]
    pub fn with_protection(&self, is_protected: bool) -> Option<Self> {
        let mut spec = self.clone();
        spec.as_vm_mut()?.protected = is_protected;
        Some(spec)
    }

    /// How much it matters beside others; Ostler's own services matter most.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.as_vm().map_or(Priority::MAX, |vm| vm.priority)
    }

    /// Whether it may be stopped so that one with a higher priority fits. What is run once can't be started again.
    #[must_use]
    pub fn is_preemptible(&self) -> bool {
        matches!(&self.kind, JobKind::Vm(vm) if vm.preemptible && !vm.protected)
    }

    /// How it stands to others, in words, where it says anything of that: `priority 10, preemptible`.
    #[must_use]
    pub fn rank_words(&self) -> Option<String> {
        let vm = self.as_vm()?;
        let priority =
            (vm.priority != Priority::default()).then(|| format!("priority {}", vm.priority));
        let preemptible = vm.preemptible.then(|| "preemptible".to_owned());
        let words: Vec<String> = priority.into_iter().chain(preemptible).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }

    /// The same VM with what is said here of how it stands to others; `None` of what is no VM.
    #[must_use]
    pub fn ranked(&self, rank: Rank) -> Option<Self> {
        let mut spec = self.clone();
        let vm = spec.as_vm_mut()?;
        vm.priority = rank.priority.unwrap_or(vm.priority);
        vm.preemptible = rank.preemptible.unwrap_or(vm.preemptible);
        Some(spec)
    }

    /// Whether it is the same as another but for its protection and its rank, which say nothing of what runs.
    #[must_use]
    pub fn is_alike(&self, other: &Self) -> bool {
        let standing =
            |spec: &Self| spec.as_vm().map(|vm| (vm.protected, vm.priority, vm.preemptible));
        let Some(here) = standing(self).filter(|here| Some(*here) != standing(other)) else {
            return self == other;
        };
        let mut alike = other.clone();
        let Some(vm) = alike.as_vm_mut() else { return false };
        (vm.protected, vm.priority, vm.preemptible) = here;
        alike == *self
    }

    /// The domain that it was before it was a job, if it was adopted.
    #[must_use]
    pub fn adopted(&self) -> Option<Uuid> {
        self.as_vm().and_then(|vm| vm.adopted)
    }

    /// The addresses of its cards, as job `id`, where others could have the same: not those that are
    /// alone on QEMU's user network, nor what only an adopted VM's own definition says.
    #[must_use]
    pub fn macs(&self, id: &JobId) -> Vec<String> {
        let Some(vm) = self.as_vm() else { return vec![] };
        let shared = vm.nics.iter().enumerate().filter(|(_, nic)| nic.plug != Plug::User);
        let of_card = |(at, nic): (usize, &NicSpec)| match (&nic.mac, vm.adopted) {
            (Some(mac), _) => Some(mac.clone()),
            (None, None) => Some(mac_of(id.domain_uuid(), at)),
            (None, Some(_)) => None,
        };
        shared.filter_map(of_card).collect()
    }

    /// Its limits, if it is to come to an end.
    #[must_use]
    pub fn as_one_off(&self) -> Option<&OneOff> {
        match &self.kind {
            JobKind::OneOff(one_off) => Some(one_off),
            JobKind::Vm(_) | JobKind::Service(_) | JobKind::Budget(_) => None,
        }
    }

    /// What a host must promise. Services are Ostler's own and live in the host's reserve; a budget is
    /// a right, and no room.
    #[must_use]
    pub fn resources(&self) -> Resources {
        self.as_vm().map_or(Resources::ZERO, VmSpec::resources)
    }

    /// What of that is in named pools, and so not in its host's own folder.
    #[must_use]
    pub fn in_pools(&self) -> Resources {
        let disk_bytes = self.as_vm().map_or(0, VmSpec::bytes_in_pools);
        Resources { disk_bytes, ..Resources::ZERO }
    }

    /// How many bytes more its disks have as another job, by named pool.
    #[must_use]
    pub fn growth_by_pool(&self, to: &Self) -> BTreeMap<PoolName, u64> {
        let vms = self.as_vm().zip(to.as_vm());
        vms.map(|(from, to)| from.growth_by_pool(to)).unwrap_or_default()
    }

    /// The size of the huge pages that its memory is in, if it is in such.
    #[must_use]
    pub fn page_size(&self) -> Option<PageSize> {
        PageSize::of_kib(self.as_vm()?.hardware.hugepages_kib?)
    }

    /// The huge pages that a host must promise.
    #[must_use]
    pub fn pages(&self) -> Pages {
        self.pages_of(self.resources())
    }

    /// The huge pages that it takes when it has so much in all: whole ones.
    #[must_use]
    pub fn pages_of(&self, has: Resources) -> Pages {
        self.page_size().map_or(Pages::NONE, |size| Pages::holding(size, has.memory_bytes))
    }

    /// Whether its virtual CPUs have CPUs of the host to themselves.
    #[must_use]
    pub fn is_dedicated(&self) -> bool {
        self.as_vm().is_some_and(|vm| vm.hardware.dedicated_cpus)
    }

    /// The dedicated CPUs that a host must promise.
    #[must_use]
    pub fn dedicated_cpus(&self) -> u32 {
        self.dedicated_cpus_of(self.resources())
    }

    /// The dedicated CPUs that it takes when it has so much in all: one for each virtual one.
    #[must_use]
    pub fn dedicated_cpus_of(&self, has: Resources) -> u32 {
        if self.is_dedicated() { has.vcpus } else { 0 }
    }

    /// What a host must promise of its own: everything but what is in named pools, memory in huge pages and dedicated
    /// CPUs.
    #[must_use]
    pub fn takes(&self) -> Resources {
        self.of_host(self.resources())
    }

    /// What of its host's own it takes when it has so much in all. The rest is counted where it is: what is in
    /// named pools, memory in huge pages, and dedicated CPUs.
    #[must_use]
    pub fn of_host(&self, has: Resources) -> Resources {
        let own = has.minus(self.in_pools());
        let memory_bytes = if self.page_size().is_some() { 0 } else { own.memory_bytes };
        let vcpus = if self.is_dedicated() { 0 } else { own.vcpus };
        Resources { vcpus, memory_bytes, ..own }
    }

    /// Checks everything that does not depend on a host.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        match &self.kind {
            JobKind::Vm(vm) => Ok(vm.validate()?),
            JobKind::OneOff(one_off) => one_off.validate(),
            JobKind::Budget(budget) => budget.validate(),
            JobKind::Service(service) => match service.role {
                Role::Arbiter | Role::Witness | Role::Monitor | Role::Controller => Ok(()),
                role
                @ (Role::Operator | Role::Host | Role::User | Role::Reader | Role::Scraper) => {
                    Err(InvalidSpec::NoService(role))
                }
            },
        }
    }

    /// How a ticket names exactly this spec.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of_json(self)
    }
}

/// Where a job is in its life, on the host.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// In the ledger, nothing done yet. Entered by an admitted PUT.
    Accepted,
    /// Volumes and domain are being made. Entered when the host begins the start.
    Starting,
    /// The guest runs. Entered when libvirt says so.
    Running,
    /// The guest is suspended. Entered when libvirt says so.
    Paused,
    /// Waits for, or receives, a guest from another host. Entered by an admitted PUT with a migrate-in ticket.
    MigratingIn,
    /// Is being sent to another host. Entered by a migrate request.
    MigratingOut,
    /// Was asked to stop and has not ended yet.
    Stopping,
    /// Ended in an orderly way.
    Stopped,
    /// Could not be started or taken over.
    Failed,
    /// Ended without being asked.
    Crashed,
}

impl JobState {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 10] = [
        Self::Accepted,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::MigratingIn,
        Self::MigratingOut,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
        Self::Crashed,
    ];

    /// True when nothing of the job runs or is about to: its promise of memory and CPUs is free.
    #[must_use]
    pub fn is_ended(self) -> bool {
        matches!(self, JobState::Stopped | JobState::Failed | JobState::Crashed)
    }

    /// The word on the wire and on screens.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Accepted => "accepted",
            JobState::Starting => "starting",
            JobState::Running => "running",
            JobState::Paused => "paused",
            JobState::MigratingIn => "migrating_in",
            JobState::MigratingOut => "migrating_out",
            JobState::Stopping => "stopping",
            JobState::Stopped => "stopped",
            JobState::Failed => "failed",
            JobState::Crashed => "crashed",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Which task of which run asked for a change: repeating it has no second effect, and a claim
/// older than one already seen is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunKey {
    /// The run.
    pub run: RunId,
    /// The task within it.
    pub task: u32,
    /// The engine's claim on the run; grows when another engine takes over.
    pub claim: u64,
}

/// A job as its host knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Which change of it this is.
    pub revision: Revision,
    /// What was asked.
    // Shared: many jobs of a view are asked for in the same words.
    pub spec: Arc<JobSpec>,
    /// Where it is in its life.
    pub state: JobState,
    /// Why, when the state alone does not say.
    #[serde(
        flatten,
        default,
        deserialize_with = "reason::among",
        skip_serializing_if = "Option::is_none"
    )]
    pub reason: Option<Reason>,
    /// When the state was entered, in milliseconds since 1970; for people only.
    pub since_ms: u64,
    /// The redeemed ticket under which it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<OfferId>,
    /// The budget of this host by which it runs, and not by a ticket of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<JobId>,
    /// Of a budget: names that it owns whose VMs have left for other hosts, and which it never starts again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub away: BTreeSet<JobId>,
    /// Its libvirt uuid, for VMs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain_uuid: Option<Uuid>,
    /// Who asked for the last change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunKey>,
    /// What its guest has, while that is not what the spec says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<Box<Resize>>,
    /// What a migration under way needs or has left behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<Box<Migration>>,
    /// Where a service answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Box<ServiceEndpoint>>,
    /// The network cards of its running guest, with the addresses that they are known to have.
    #[serde(default, skip_serializing_if = "<[Card]>::is_empty")]
    pub cards: Box<[Card]>,
    /// The snapshots of its disks, the oldest first.
    #[serde(default, skip_serializing_if = "<[Snapshot]>::is_empty")]
    pub snapshots: Box<[Snapshot]>,
}

impl Job {
    /// A job of which no more is known than this: at its first revision, without a ticket, a domain or a
    /// time.
    #[must_use]
    pub fn of(id: JobId, spec: impl Into<Arc<JobSpec>>, state: JobState) -> Self {
        Self {
            id,
            revision: Revision(1),
            spec: spec.into(),
            state,
            reason: None,
            since_ms: 0,
            hold: None,
            budget: None,
            away: BTreeSet::new(),
            domain_uuid: None,
            run: None,
            resize: None,
            migration: None,
            endpoint: None,
            cards: Box::default(),
            snapshots: Box::default(),
        }
    }

    /// What the job holds of its host now: everything while it is alive; only its disks once
    /// it has ended, because its volumes are still there, and what their snapshots keep. What is in named
    /// pools is booked there, memory in huge pages is counted in pages, and dedicated CPUs by themselves.
    #[must_use]
    pub fn allocation(&self) -> Resources {
        let kept = Resources { disk_bytes: self.own_snapshot_bytes(), ..Resources::ZERO };
        let promised = self.spec.of_host(self.promised()).plus(kept);
        if self.state.is_ended() {
            Resources { disk_bytes: promised.disk_bytes, ..Resources::ZERO }
        } else {
            promised
        }
    }

    /// The huge pages that it holds of its host now: while it is alive, for all memory that it is promised.
    #[must_use]
    pub fn pages(&self) -> Pages {
        match self.state.is_ended() {
            true => Pages::NONE,
            false => self.spec.pages_of(self.promised()),
        }
    }

    /// The dedicated CPUs that it holds of its host now: while it is alive, as many as it is promised.
    #[must_use]
    pub fn dedicated_cpus(&self) -> u32 {
        match self.state.is_ended() {
            true => 0,
            false => self.spec.dedicated_cpus_of(self.promised()),
        }
    }

    /// Whether it is here by somebody's leave, its own or that of a budget.
    #[must_use]
    pub fn has_right(&self) -> bool {
        self.hold.is_some() || self.budget.is_some()
    }

    /// What arbiters need to know of it beside its size, if it is a budget.
    #[must_use]
    pub fn delegated(&self) -> Option<Delegated> {
        let budget = self.spec.as_budget()?;
        Some(Delegated { vms: budget.vms, away: self.away.clone() })
    }

    /// True when it has ended and disks that somebody may have written to are on its host.
    #[must_use]
    pub fn keeps_disks(&self) -> bool {
        let has_disks = self.spec.resources().disk_bytes > 0 || self.spec.adopted().is_some();
        let never_ran = self.state == JobState::Failed && self.revision <= Revision(1);
        let has_moved_away = matches!(self.reason, Some(Reason::Migrated { .. }));
        self.state.is_ended() && has_disks && !never_ran && !has_moved_away
    }
}

/// The two ends of a migration as the jobs on both hosts show them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "side", rename_all = "snake_case")]
pub enum Migration {
    /// On the target: volumes and listener are ready.
    Incoming {
        /// The host that sends.
        from: HostId,
        /// Where the target's agent takes the guest's streams: `https://IP:PORT`. Empty from agents
        /// before 0016, to which nothing can be sent.
        #[serde(default)]
        url: String,
    },
    /// On the source: on its way, or gone.
    Outgoing {
        /// The host that receives.
        to: HostId,
        /// Bytes moved so far, memory and disks.
        moved_bytes: u64,
        /// Bytes to move in all, as far as known.
        total_bytes: u64,
        /// How its memory goes, once that is being sent; disks go first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        memory: Option<Passes>,
        /// The source's signed word that it has let go (rule M3); relay it to the target.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        handoff: Option<Signed<Handoff>>,
    },
}

/// Where a service answers, and the key it proves itself with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceEndpoint {
    /// `https://ADDRESS:PORT`.
    pub url: String,
    /// Its key.
    pub key: PublicKey,
}

/// A domain in libvirt that nobody asked us for: shown, never touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ObservedDomain {
    /// Its libvirt uuid.
    pub uuid: Uuid,
    /// Its libvirt name.
    pub name: String,
    /// True when it has a process.
    pub is_active: bool,
    /// What it takes of the host, as libvirt says.
    pub resources: Resources,
    /// The size of the huge pages that its memory is in, if it is in such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_size: Option<PageSize>,
    /// True when libvirt still knows it after it has ended.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub is_persistent: bool,
}

impl ObservedDomain {
    /// What it takes of its host's own while it is active. The huge pages that it takes are known with those of
    /// all others.
    #[must_use]
    pub fn takes(&self) -> Resources {
        let memory_bytes = if self.page_size.is_some() { 0 } else { self.resources.memory_bytes };
        Resources { memory_bytes, ..self.resources }
    }
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_yes(value: &bool) -> bool {
    *value
}

/// A job together with where its row was read: what `ps` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobRow {
    /// The host it is on.
    pub host: HostId,
    /// The host's name, for people.
    pub host_name: String,
    /// Up to which event of that host this is true.
    pub cursor: Cursor,
    /// Age of that knowledge in milliseconds.
    pub age_ms: u64,
    /// The job.
    pub job: Job,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_reads_as_a_person_would_write_it() {
        let text = r#"{"vm": {"vcpus": 1, "memory_bytes": 134217728}}"#;
        let spec: JobSpec = serde_json::from_str(text).unwrap();
        assert_eq!(spec.resources().memory_bytes, 128 << 20);
        assert_eq!(spec.tenant, TenantId::default_tenant());
    }

    #[test]
    fn a_role_that_is_no_process_is_no_service() {
        let service = |role| {
            let kind = JobKind::Service(ServiceSpec { role, port: 0, discovery: vec![] });
            JobSpec { kind, tenant: TenantId::default_tenant(), labels: BTreeMap::new() }
        };
        assert_eq!(service(Role::Monitor).validate(), Ok(()));
        for role in [Role::Operator, Role::Host, Role::User, Role::Reader, Role::Scraper] {
            assert_eq!(service(role).validate(), Err(InvalidSpec::NoService(role)));
        }
    }

    #[test]
    fn a_one_off_is_a_vm_with_limits_that_a_host_can_keep() {
        let text =
            r#"{"one-off": {"vm": {"vcpus": 1, "memory_bytes": 134217728}, "deadline_ms": 60000}}"#;
        let mut spec: JobSpec = serde_json::from_str(text).unwrap();
        assert_eq!(spec.resources().memory_bytes, 128 << 20);
        assert_eq!(spec.validate(), Ok(()));
        let JobKind::OneOff(one_off) = &mut spec.kind else { panic!("it says so") };
        one_off.idle_ms = Some(5);
        assert_eq!(spec.validate(), Err(InvalidSpec::Limit { name: "idle_ms", ms: 5 }));
    }

    #[test]
    fn another_size_is_another_digest() {
        let vm = |vcpus| {
            JobSpec::vm(VmSpec {
                vcpus,
                memory_bytes: 1 << 30,
                disks: vec![],
                nics: vec![],
                ..VmSpec::default()
            })
        };
        assert_eq!(vm(1).digest(), vm(1).digest());
        assert_ne!(vm(1).digest(), vm(2).digest());
    }
}
