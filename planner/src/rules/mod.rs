//! What is expected of *where* jobs are, beyond that they run; one file each, each with the exact
//! test that says when it is met.
//!
//! A rule is a pure function of a state: how many violations, which jobs could end them by moving,
//! and the evidence in words. Unknown is unknown: a host that does not say its architecture does
//! not have the one asked for. A job that runs nowhere violates no rule.

mod balanced;

mod cpu_features;

mod disks;

mod host_arch;

mod host_at_least;

mod host_label;

mod lose_any_domain;

mod lose_any_host;

mod no_migration;

mod not_same_host;

mod not_same_storage;

mod power_saving;

mod restart_within;

mod same_host;

mod spread_over;

mod storage_class;

mod storage_copies;

use std::collections::BTreeMap;
use std::fmt;

use protocol::host::Host;
use protocol::id::{HostId, JobId};
use protocol::job::JobState;
use serde::{Deserialize, Serialize};

use crate::level::Level;
use crate::report::HostVerdict;
use crate::state::State;

pub use balanced::{Balanced, Gap};
pub(crate) use balanced::{Scale, percent};
pub use cpu_features::CpuFeatures;
pub(crate) use cpu_features::words as cpu_words;
pub use host_arch::HostArch;
pub(crate) use host_arch::LABEL as ARCH_LABEL;
pub use host_at_least::HostAtLeast;
pub use host_label::HostLabel;
pub use lose_any_domain::LoseAnyDomain;
pub use lose_any_host::LoseAnyHost;
pub use no_migration::NoMigration;
pub use not_same_host::NotSameHost;
pub use not_same_storage::NotSameStorage;
pub use power_saving::PowerSaving;
pub use restart_within::RestartWithin;
pub use same_host::SameHost;
pub use spread_over::SpreadOver;
pub use storage_class::StorageClass;
pub use storage_copies::StorageCopies;

/// A rule and how much it matters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clause {
    /// How much.
    #[serde(default)]
    pub level: Level,
    /// What.
    #[serde(flatten)]
    pub rule: Rule,
}

/// The rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "expect", rename_all = "snake_case")]
pub enum Rule {
    /// The job's host has a label.
    HostLabel(HostLabel),
    /// The job's host has an architecture.
    HostArch(HostArch),
    /// The job's host has so much of something.
    HostAtLeast(HostAtLeast),
    /// The job's host has CPU features.
    CpuFeatures(CpuFeatures),
    /// Jobs share a host.
    SameHost(SameHost),
    /// No two of the jobs share a host.
    NotSameHost(NotSameHost),
    /// No two of the jobs have disks in one storage.
    NotSameStorage(NotSameStorage),
    /// The job's disks are in pools with a label.
    StorageClass(StorageClass),
    /// The job's disks are in pools that keep copies.
    StorageCopies(StorageCopies),
    /// At most so many of the jobs in one domain.
    SpreadOver(SpreadOver),
    /// The job is not moved.
    NoMigration(NoMigration),
    /// The job would run again soon after its host is lost.
    RestartWithin(RestartWithin),
    /// The loss of any one host leaves room for what ran on it.
    LoseAnyHost(LoseAnyHost),
    /// The loss of any one domain of hosts leaves room for what ran there.
    LoseAnyDomain(LoseAnyDomain),
    /// Hosts are about as full as each other.
    Balanced(Balanced),
    /// Hosts that nobody needs sleep.
    PowerSaving(PowerSaving),
}

/// A rule that is not met, with evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// How much it matters.
    pub level: Level,
    /// Which rule.
    pub rule: Rule,
    /// How often it is violated.
    pub count: u32,
    /// The evidence, in words.
    pub evidence: String,
    /// Why no move of the job that stands nearest to a mending one ends it: what stands in the way on
    /// each host, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostVerdict>,
    /// The cheapest change known that would help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cheapest: Option<String>,
}

impl Rule {
    /// Jobs it is about; none for a rule about the whole cluster.
    #[must_use]
    pub fn jobs(&self) -> Vec<&JobId> {
        match self {
            Rule::HostLabel(rule) => vec![&rule.job],
            Rule::HostArch(rule) => vec![&rule.job],
            Rule::HostAtLeast(rule) => vec![&rule.job],
            Rule::CpuFeatures(rule) => vec![&rule.job],
            Rule::SameHost(rule) => rule.jobs.iter().collect(),
            Rule::NotSameHost(rule) => rule.jobs.iter().collect(),
            Rule::NotSameStorage(rule) => rule.jobs.iter().collect(),
            Rule::StorageClass(rule) => vec![&rule.job],
            Rule::StorageCopies(rule) => vec![&rule.job],
            Rule::SpreadOver(rule) => rule.jobs.iter().collect(),
            Rule::NoMigration(rule) => vec![&rule.job],
            Rule::RestartWithin(rule) => vec![&rule.job],
            Rule::LoseAnyHost(_)
            | Rule::LoseAnyDomain(_)
            | Rule::Balanced(_)
            | Rule::PowerSaving(_) => vec![],
        }
    }

    /// The host labels it reads.
    #[must_use]
    pub fn labels(&self) -> Vec<&str> {
        match self {
            Rule::HostLabel(rule) => vec![&rule.key],
            Rule::HostArch(_) => vec![host_arch::LABEL],
            Rule::HostAtLeast(rule) => vec![&rule.key],
            Rule::CpuFeatures(_) => vec![cpu_features::LABEL],
            Rule::SpreadOver(rule) => rule.domain.as_deref().into_iter().collect(),
            Rule::LoseAnyDomain(rule) => vec![&rule.domain],
            Rule::Balanced(rule) => rule.labels().collect(),
            Rule::PowerSaving(rule) => rule.labels().keys().map(String::as_str).collect(),
            Rule::SameHost(_)
            | Rule::NotSameHost(_)
            | Rule::NotSameStorage(_)
            | Rule::StorageClass(_)
            | Rule::StorageCopies(_)
            | Rule::NoMigration(_)
            | Rule::RestartWithin(_)
            | Rule::LoseAnyHost(_) => vec![],
        }
    }

    /// How often it is violated; 0 when it is met.
    #[must_use]
    pub fn violations(&self, state: &State<'_>) -> u32 {
        match self {
            Rule::HostLabel(rule) => rule.violations(state),
            Rule::HostArch(rule) => rule.violations(state),
            Rule::HostAtLeast(rule) => rule.violations(state),
            Rule::CpuFeatures(rule) => rule.violations(state),
            Rule::SameHost(rule) => rule.violations(state),
            Rule::NotSameHost(rule) => rule.violations(state),
            Rule::NotSameStorage(rule) => rule.violations(state),
            Rule::StorageClass(rule) => rule.violations(state),
            Rule::StorageCopies(rule) => rule.violations(state),
            Rule::SpreadOver(rule) => rule.violations(state),
            Rule::NoMigration(rule) => rule.violations(state),
            Rule::RestartWithin(rule) => rule.violations(state),
            Rule::LoseAnyHost(rule) => rule.violations(state),
            Rule::LoseAnyDomain(rule) => rule.violations(state),
            Rule::Balanced(rule) => rule.violations(state),
            Rule::PowerSaving(rule) => rule.violations(state),
        }
    }

    /// False when it would be broken on this host whatever else is there: the part of it that is about the
    /// host alone.
    pub(crate) fn may_be_met_on(&self, host: &Host) -> bool {
        match self {
            Rule::HostLabel(rule) => rule.is_met_on(host),
            Rule::HostArch(rule) => rule.is_met_on(host),
            Rule::HostAtLeast(rule) => rule.is_met_on(host),
            Rule::CpuFeatures(rule) => rule.is_met_on(host),
            Rule::SameHost(_)
            | Rule::NotSameHost(_)
            | Rule::NotSameStorage(_)
            | Rule::StorageClass(_)
            | Rule::StorageCopies(_)
            | Rule::SpreadOver(_)
            | Rule::NoMigration(_)
            | Rule::RestartWithin(_)
            | Rule::LoseAnyHost(_)
            | Rule::LoseAnyDomain(_)
            | Rule::Balanced(_)
            | Rule::PowerSaving(_) => true,
        }
    }

    /// Jobs whose move could lower the number of violations.
    #[must_use]
    pub fn movable(&self) -> Vec<&JobId> {
        match self {
            Rule::NoMigration(_)
            | Rule::RestartWithin(_)
            | Rule::LoseAnyHost(_)
            | Rule::LoseAnyDomain(_)
            | Rule::Balanced(_)
            | Rule::PowerSaving(_) => vec![],
            Rule::HostLabel(_)
            | Rule::HostArch(_)
            | Rule::HostAtLeast(_)
            | Rule::CpuFeatures(_)
            | Rule::SameHost(_)
            | Rule::NotSameHost(_)
            | Rule::NotSameStorage(_)
            | Rule::StorageClass(_)
            | Rule::StorageCopies(_)
            | Rule::SpreadOver(_) => self.jobs(),
        }
    }

    /// What is so, and what should be, in words.
    #[must_use]
    pub fn evidence(&self, state: &State<'_>) -> String {
        match self {
            Rule::HostLabel(rule) => rule.evidence(state),
            Rule::HostArch(rule) => rule.evidence(state),
            Rule::HostAtLeast(rule) => rule.evidence(state),
            Rule::CpuFeatures(rule) => rule.evidence(state),
            Rule::SameHost(rule) => format!("not on one host: {}", whereabouts(state, &rule.jobs)),
            Rule::NotSameHost(rule) => {
                format!("two on one host: {}", whereabouts(state, &rule.jobs))
            }
            Rule::NotSameStorage(rule) => rule.evidence(state),
            Rule::StorageClass(rule) => rule.evidence(state),
            Rule::StorageCopies(rule) => rule.evidence(state),
            Rule::SpreadOver(rule) => rule.evidence(state),
            Rule::NoMigration(rule) => format!("{} would be moved", rule.job),
            Rule::RestartWithin(rule) => rule.evidence(state),
            Rule::LoseAnyHost(rule) => rule.evidence(state),
            Rule::LoseAnyDomain(rule) => rule.evidence(state),
            Rule::Balanced(rule) => rule.evidence(state),
            Rule::PowerSaving(rule) => rule.evidence(state),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |jobs: &[JobId]| jobs.iter().map(JobId::as_str).collect::<Vec<_>>().join(", ");
        match self {
            Rule::HostLabel(r) => write!(f, "{} on a host with {}={}", r.job, r.key, r.value),
            Rule::HostArch(r) => write!(f, "{} on {}", r.job, r.arch),
            Rule::HostAtLeast(r) => {
                write!(f, "{} on a host with {} of {} or more", r.job, r.key, r.number)
            }
            Rule::CpuFeatures(r) => write!(f, "{} on a CPU with {}", r.job, r.features.join(", ")),
            Rule::SameHost(r) => write!(f, "{} on the same host", list(&r.jobs)),
            Rule::NotSameHost(r) => write!(f, "{} on different hosts", list(&r.jobs)),
            Rule::NotSameStorage(r) => write!(f, "{} in different storages", list(&r.jobs)),
            Rule::StorageClass(r) => {
                write!(f, "disks of {} in pools with {}={}", r.job, r.key, r.value)
            }
            Rule::StorageCopies(r) if r.boxes > 1 => {
                write!(f, "disks of {} kept {} times, on {} machines", r.job, r.copies, r.boxes)
            }
            Rule::StorageCopies(r) => write!(f, "disks of {} kept {} times", r.job, r.copies),
            Rule::SpreadOver(r) => write!(
                f,
                "at most {} of {} in one {}",
                r.per_domain_max,
                list(&r.jobs),
                r.domain.as_deref().unwrap_or("host")
            ),
            Rule::NoMigration(r) => write!(f, "{} is not moved", r.job),
            Rule::RestartWithin(r) => {
                write!(f, "{} runs elsewhere within {} s of its host's loss", r.job, r.within_s)
            }
            Rule::LoseAnyHost(_) => f.write_str("any one host can be lost"),
            Rule::LoseAnyDomain(r) => write!(f, "any one {} can be lost", r.domain),
            Rule::Balanced(rule) => rule.fmt(f),
            Rule::PowerSaving(rule) => rule.fmt(f),
        }
    }
}

/// Where the job is alive, as far as anybody sees; of one that is on its way, where it comes to.
pub(crate) fn home(state: &State<'_>, job: &JobId) -> Option<HostId> {
    let rows = state.placements(job);
    let alive = rows.iter().filter(|(_, placed)| !placed.state.is_ended());
    alive.max_by_key(|(_, placed)| stays(placed.state)).map(|(host, _)| host.clone())
}

/// How strongly a state says "the job will be here".
fn stays(state: JobState) -> u8 {
    match state {
        JobState::Running | JobState::Paused | JobState::Stopping => 3,
        JobState::MigratingIn => 2,
        JobState::MigratingOut => 1,
        JobState::Accepted
        | JobState::Starting
        | JobState::Stopped
        | JobState::Failed
        | JobState::Crashed => 0,
    }
}

/// Hosts with the jobs of the list that are alive there.
fn by_host<'a>(state: &State<'_>, jobs: &'a [JobId]) -> BTreeMap<HostId, Vec<&'a JobId>> {
    let mut hosts: BTreeMap<HostId, Vec<&JobId>> = BTreeMap::new();
    for job in jobs {
        if let Some(host) = home(state, job) {
            hosts.entry(host).or_default().push(job);
        }
    }
    hosts
}

fn whereabouts(state: &State<'_>, jobs: &[JobId]) -> String {
    let on = by_host(state, jobs);
    let words = on.iter().map(|(host, jobs)| {
        let names: Vec<&str> = jobs.iter().map(|job| job.as_str()).collect();
        format!("{} on {}", names.join(", "), host.short())
    });
    words.collect::<Vec<_>>().join("; ")
}

fn label_of(state: &State<'_>, host: &HostId, key: &str) -> Option<String> {
    state.host(host)?.host.labels.get(key).cloned()
}

fn said(found: Option<String>, key: &str) -> String {
    found.map_or_else(|| format!("does not say its {key}"), |value| format!("has {key}={value}"))
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
