//! Everything a plan depends on, as one value: no other knowledge reaches the search.
//!
//! Decides how long a host's refusal outweighs the view: as long as the view still shows the very
//! numbers the host has contradicted. Forgetting refusals by age is the caller's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::host::Host;
use protocol::hugepages::Pages;
use protocol::id::{HostId, JobId};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::trust::Policy;
use protocol::used::Used;
use protocol::view::{Freshness, View};
use serde::{Deserialize, Serialize};

use crate::expectation::Expectation;
use crate::intent::Intent;
use crate::level::Level;
use crate::order::Order;
use crate::policy::Placement;
use crate::register::{Prepared, intent_of};
use crate::rules::Clause;
use crate::shards::Shards;
use crate::terms::Terms;

/// The input of [`crate::plan`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PlanInput {
    /// Hosts and jobs as far as they are known.
    pub view: View,
    /// When each host was last heard; a host without entry counts as fresh.
    #[serde(default)]
    pub heard: BTreeMap<HostId, Heard>,
    /// What is wanted, most important first. One that cannot be met leaves the others alone.
    pub expectations: Vec<Expectation>,
    /// How much what is wanted of a job matters; a job without entry is a must.
    #[serde(default)]
    pub levels: BTreeMap<JobId, Level>,
    /// What is expected of where jobs are.
    #[serde(default)]
    pub clauses: Vec<Clause>,
    /// Rules that no step may break for less than they matter. They are neither mended nor reported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heeded: Vec<Clause>,
    /// Who is started only while which others run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<Order>,
    /// What operators intend with hosts, as [`PlanInput::with_host_intents`] finds it in the view or
    /// as somebody says.
    #[serde(default)]
    pub intents: BTreeMap<HostId, Intent>,
    /// Hosts that are asleep and that no step may wake: whoever carries out this plan has nothing that switches
    /// them, or they are to stay as they are.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub kept_asleep: BTreeSet<HostId>,
    /// Hosts that may be put to sleep once they are empty: whoever carries out this plan has what switches them, and
    /// nothing of the cluster's own is there.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub may_sleep: BTreeSet<HostId>,
    /// Which of the hosts that would do is taken.
    #[serde(default)]
    pub placement: Placement,
    /// Hosts that have lost a job which is to run elsewhere. Their rows of it are out of sight; where its
    /// disks are is not.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lost: BTreeMap<JobId, HostId>,
    /// What tenants' VMs may be like, and where: hosts that obey it say no to others.
    #[serde(default, skip_serializing_if = "is_no_policy")]
    pub policy: Arc<Policy>,
    /// How soon what a lost host ran may run elsewhere, if whoever plans knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Terms>,
    /// What guests use, as far as whoever plans has measured it.
    #[serde(default, skip_serializing_if = "is_unknown")]
    pub used: Arc<Used>,
    /// What hosts have said no to, or failed at.
    #[serde(default)]
    pub setbacks: Vec<Setback>,
    /// What other runs are about to take.
    #[serde(default)]
    pub reservations: Vec<Reservation>,
    /// Chooses among hosts that are equally good, so that several schedulers spread.
    #[serde(default)]
    pub seed: u64,
    /// The schedulers of the cluster, each of which takes some hosts first.
    #[serde(default, skip_serializing_if = "Shards::is_alone")]
    pub shards: Shards,
    /// How far to look.
    #[serde(default)]
    pub limits: Limits,
    /// What is looked up in instead of walking all hosts. The plan is the same without.
    #[serde(skip)]
    pub prepared: Prepared,
}

impl PlanInput {
    /// Adds what hosts themselves say their operators intend with them. What is said here already
    /// counts more: somebody knows that a host is off which said last that it is drained.
    #[must_use]
    pub fn with_host_intents(mut self) -> Self {
        let said: Vec<&HostId> = match self.prepared.get() {
            // Who says so now, of those that said so then or say anything else since.
            Some(register) => {
                let changed = self.view.changed_since(register.view());
                register.intended().chain(changed).collect()
            }
            None => self.view.hosts().map(|(id, _)| id).collect(),
        };
        let said = said.into_iter().filter_map(|id| Some((id, intent_of(self.view.host(id)?)?)));
        for (id, intent) in said.map(|(id, intent)| (id.clone(), intent)).collect::<Vec<_>>() {
            self.intents.entry(id).or_insert(intent);
        }
        self
    }
}

fn is_unknown(used: &Arc<Used>) -> bool {
    used.is_empty()
}

fn is_no_policy(policy: &Arc<Policy>) -> bool {
    policy.is_empty()
}

/// When a host was last heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// How much its row is worth.
    pub freshness: Freshness,
    /// Milliseconds since it was last heard.
    pub age_ms: u64,
}

/// A host's no, or its failure, as one run remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setback {
    /// The host.
    pub host: HostId,
    /// What happened.
    #[serde(flatten)]
    pub reason: SetbackReason,
    /// The allocation that the view showed for the host at that moment.
    pub allocation: Resources,
}

/// Why a host is not to be asked the same again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "setback", rename_all = "snake_case")]
pub enum SetbackReason {
    /// It said no.
    Refused {
        /// Its words and numbers.
        no: Refusal,
    },
    /// It said yes and could not do it.
    Failed {
        /// What it said.
        message: String,
    },
    /// It did not answer.
    Unreachable {
        /// What was tried.
        message: String,
    },
}

impl Setback {
    /// What is free on the host by its own refusal, while the view still shows the numbers that
    /// the refusal contradicts. `None` for a refusal that newer numbers have replaced, or that was
    /// not about room.
    #[must_use]
    pub fn free_instead(&self, host: &Host) -> Option<Resources> {
        match &self.reason {
            SetbackReason::Refused { no: Refusal::NoCapacity { free, .. } } => {
                (host.id == self.host && host.allocation == self.allocation).then_some(*free)
            }
            SetbackReason::Refused { .. }
            | SetbackReason::Failed { .. }
            | SetbackReason::Unreachable { .. } => None,
        }
    }

    /// How many huge pages of one size the host has promised by its own refusal, or others have taken, as far
    /// as the view still shows the numbers that the refusal contradicts.
    #[must_use]
    pub fn pages_instead(&self, host: &Host) -> Option<Pages> {
        let SetbackReason::Refused { no: Refusal::NoHugepages { page_size, free, .. } } =
            &self.reason
        else {
            return None;
        };
        let is_as_then = host.id == self.host && host.allocation == self.allocation;
        let facts = host.hugepages.get(page_size).filter(|_| is_as_then)?;
        Some(Pages::of(*page_size, facts.for_jobs().saturating_sub(*free)))
    }

    /// How many dedicated CPUs the host has promised by its own refusal, as far as the view still shows the numbers
    /// that the refusal contradicts.
    #[must_use]
    pub fn dedicated_instead(&self, host: &Host) -> Option<u32> {
        let SetbackReason::Refused { no: Refusal::NoDedicatedCpus { free, .. } } = &self.reason
        else {
            return None;
        };
        let is_as_then = host.id == self.host && host.allocation == self.allocation;
        is_as_then.then(|| host.dedicated_cpus.total.saturating_sub(*free))
    }

    /// True when the host is out of the question whatever its numbers.
    #[must_use]
    pub fn excludes_host(&self) -> bool {
        let is_of_room = |no: &Refusal| {
            use Refusal::{NoCapacity, NoDedicatedCpus, NoHugepages};
            matches!(no, NoCapacity { .. } | NoHugepages { .. } | NoDedicatedCpus { .. })
        };
        !matches!(&self.reason, SetbackReason::Refused { no } if is_of_room(no))
    }
}

/// What a run in flight is about to take of a host. It counts until the view shows the job there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// The host.
    pub host: HostId,
    /// The job that will come.
    pub job: JobId,
    /// How much it takes.
    pub resources: Resources,
    /// How many huge pages beside that.
    #[serde(default, skip_serializing_if = "Pages::is_none")]
    pub pages: Pages,
    /// How many dedicated CPUs.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dedicated_cpus: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
pub(crate) fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// Bounds of the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// States looked at for one expectation. A start needs two; the rest is for making room.
    pub nodes_max: u32,
    /// Steps of one expectation's plan.
    pub steps_max: u32,
    /// Whether other VMs may be moved so that one fits.
    pub may_make_room: bool,
    /// The least that others are moved for.
    pub room_level: Level,
    /// Whether what is wrong with hosts is looked for and tended to, or only what is wanted.
    pub tends_hosts: bool,
    /// Whether rules that are broken already are mended, or only no further one is broken.
    pub mends_rules: bool,
    /// Moves from fuller hosts to emptier ones that a plan may have for the sake of balance; with none it is only told
    /// which would be the first.
    pub shifts_max: u32,
    /// Whether hosts are made more alike although they are near enough to each other, because that was begun when
    /// they were not.
    pub shifts_begun: bool,
    /// Hosts that a plan may put to sleep or wake for the sake of power and of room; with none it is only told which
    /// would be the first.
    pub savings_max: u32,
    /// The least that a sleeping host is woken for, once no other host will do; none is without it.
    pub wakes_for: Option<Level>,
    /// The least that VMs are stopped for which are preemptible and have a lower priority, once nothing else will do;
    /// none is without it.
    pub preempts_for: Option<Level>,
}

impl Default for Limits {
    fn default() -> Self {
        // 512 nodes are a few milliseconds; making room needs a handful of moves at most.
        Self {
            nodes_max: 512,
            steps_max: 4,
            may_make_room: false,
            room_level: Level::Wish,
            tends_hosts: false,
            mends_rules: true,
            shifts_max: 0,
            shifts_begun: false,
            savings_max: 0,
            wakes_for: None,
            preempts_for: None,
        }
    }
}
