//! What an operator intends with a host, and what is wrong with hosts: facts that call for steps
//! though no expectation names them.
//!
//! Decides when a host counts as overloaded or its disk as almost full. What is done about it is
//! the search's.

use std::collections::BTreeSet;
use std::fmt;

use protocol::id::{HostId, JobId, PoolName};
use protocol::pool::PoolId;
use protocol::resources::{Bytes, Resources};
use protocol::used::HostUse;
use protocol::view::{Freshness, HostRow};
use serde::{Deserialize, Serialize};

use crate::rules::{Balanced, Clause, Rule};
use crate::state::State;

/// Disk space above this share of the capacity that is promised, or used, is worth a word, in percent.
const DISK_PERCENT_MAX: u64 = 90;

/// CPUs of a machine that its guests keep busy above this share are worth a word, in percent: what comes beside them waits.
const BUSY_PERCENT: u64 = 90;

/// What an operator intends with a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// Nothing new, and what runs there moves away. It stays a member.
    Drain,
    /// As drain, and it will not come back.
    Retire,
    /// It is known to be off, by fencing or by somebody who looked: nothing on it is alive.
    Off,
    /// It was empty and is switched off on purpose: nothing is there to be lost, and a plan may wake it.
    Asleep,
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Intent::Drain => "is being drained",
            Intent::Retire => "is being retired",
            Intent::Off => "is known to be off",
            Intent::Asleep => "is asleep",
        })
    }
}

/// Something wrong with the infrastructure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub enum Problem {
    /// A host has not been heard for long. Its jobs may or may not run.
    HostLost {
        /// The host.
        host: HostId,
        /// Milliseconds since it was last heard.
        age_ms: u64,
        /// Jobs that were alive there.
        jobs: Vec<JobId>,
    },
    /// A host is known to be off, and these jobs were on it.
    HostOff {
        /// The host.
        host: HostId,
        /// Jobs that were alive there.
        jobs: Vec<JobId>,
    },
    /// A host is to be emptied and is not empty.
    HostDraining {
        /// The host.
        host: HostId,
        /// What is intended.
        intent: Intent,
        /// Jobs still alive there.
        jobs: Vec<JobId>,
    },
    /// A host has promised more than it has: its capacity has shrunk, or somebody went around us.
    Overloaded {
        /// The host.
        host: HostId,
        /// What it has promised.
        allocation: Resources,
        /// What it has.
        capacity: Resources,
    },
    /// Its guests keep nine tenths of a host's CPUs busy, on average over minutes.
    Busy {
        /// The host.
        host: HostId,
        /// What they use, in thousandths of a CPU.
        cpu_millis: u64,
        /// CPUs that the machine has.
        cpus: u32,
    },
    /// Hosts are to be balanced by what guests use, and of this one it is not known.
    UseUnknown {
        /// The host.
        host: HostId,
    },
    /// Nine tenths of a host's disk space, or of a pool's, are promised; or of a pool only a tenth is really free.
    PoolAlmostFull {
        /// The host; of a pool that several have, the first of them.
        host: HostId,
        /// The pool; without one it is the host's own folder.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pool: Option<PoolName>,
        /// Bytes that are left.
        free_bytes: u64,
        /// Bytes in all.
        capacity_bytes: u64,
    },
}

impl Problem {
    /// The host it is about.
    #[must_use]
    pub fn host(&self) -> &HostId {
        match self {
            Problem::HostLost { host, .. }
            | Problem::HostOff { host, .. }
            | Problem::HostDraining { host, .. }
            | Problem::Overloaded { host, .. }
            | Problem::Busy { host, .. }
            | Problem::UseUnknown { host }
            | Problem::PoolAlmostFull { host, .. } => host,
        }
    }
}

/// What is wrong in this state, by host.
#[must_use]
pub fn problems(state: &State<'_>) -> Vec<Problem> {
    let by_use = |clause: &Clause| match &clause.rule {
        Rule::Balanced(rule) if !rule.measure().is_promised() => Some(rule.clone()),
        _ => None,
    };
    let by_use: Vec<Balanced> = state.input().clauses.iter().filter_map(by_use).collect();
    let mut seen = BTreeSet::new();
    state
        .hosts()
        .flat_map(|(_, row)| {
            [problems_of(state, row, &by_use), full_pools(state, row, &mut seen)].concat()
        })
        .collect()
}

/// Pools of a host that are almost full, but for those that were told of as another host's.
fn full_pools(state: &State<'_>, row: &HostRow, seen: &mut BTreeSet<PoolId>) -> Vec<Problem> {
    let host = &row.host.id;
    let is_away = state.heard(host).freshness == Freshness::Lost
        || matches!(state.intent(host), Some(Intent::Off | Intent::Asleep));
    let pools = state.pools(row);
    let usable = pools.iter().filter(|(_, facts)| !is_away && facts.unavailable.is_none());
    let full = usable.filter_map(|(pool, facts)| {
        let free_bytes = facts.room_bytes().min(facts.free_bytes);
        let used_bytes = facts.capacity_bytes.saturating_sub(free_bytes);
        let is_full = is_almost(used_bytes, facts.capacity_bytes) && seen.insert(facts.id);
        is_full.then(|| Problem::PoolAlmostFull {
            host: host.clone(),
            pool: Some(pool.clone()),
            free_bytes,
            capacity_bytes: facts.capacity_bytes,
        })
    });
    full.collect()
}

fn is_almost(bytes: u64, capacity_bytes: u64) -> bool {
    let full = u128::from(capacity_bytes) * u128::from(DISK_PERCENT_MAX);
    capacity_bytes > 0 && u128::from(bytes) * 100 >= full
}

fn problems_of(state: &State<'_>, row: &HostRow, by_use: &[Balanced]) -> Vec<Problem> {
    let host = row.host.id.clone();
    let heard = state.heard(&host);
    let intent = state.intent(&host);
    let mut found = Vec::new();
    // It is as somebody wants it.
    if intent == Some(Intent::Asleep) {
        return found;
    }
    if intent == Some(Intent::Off) {
        let jobs = state.jobs_seen_alive(row);
        if !jobs.is_empty() {
            found.push(Problem::HostOff { host, jobs });
        }
        return found;
    }
    if heard.freshness == Freshness::Lost {
        let jobs = state.jobs_seen_alive(row);
        found.push(Problem::HostLost { host, age_ms: heard.age_ms, jobs });
        return found;
    }
    if let Some(intent) = intent {
        let jobs = state.jobs_alive(row);
        if !jobs.is_empty() {
            found.push(Problem::HostDraining { host: host.clone(), intent, jobs });
        }
    }
    let (allocation, capacity) = (state.allocation(row), row.host.capacity);
    if !allocation.fits_in(capacity) {
        found.push(Problem::Overloaded { host: host.clone(), allocation, capacity });
    }
    found.extend(use_of(state, row, by_use));
    if is_almost(allocation.disk_bytes, capacity.disk_bytes) {
        let free_bytes = capacity.disk_bytes.saturating_sub(allocation.disk_bytes);
        let (pool, capacity_bytes) = (None, capacity.disk_bytes);
        found.push(Problem::PoolAlmostFull { host, pool, free_bytes, capacity_bytes });
    }
    found
}

/// What is wrong with what a host's guests use, or with what is known of it.
fn use_of(state: &State<'_>, row: &HostRow, by_use: &[Balanced]) -> Option<Problem> {
    let host = row.host.id.clone();
    let known = state.cpu_millis(row).zip(state.input().used.hosts.get(&host));
    if let Some((cpu_millis, HostUse { cpus, .. })) = known {
        let is_busy =
            u128::from(cpu_millis) * 100 >= u128::from(*cpus) * 1_000 * u128::from(BUSY_PERCENT);
        return (is_busy && *cpus > 0).then_some(Problem::Busy { host, cpu_millis, cpus: *cpus });
    }
    let is_asked = by_use.iter().any(|rule| rule.is_about(&row.host));
    (is_asked && state.intent(&host).is_none()).then_some(Problem::UseUnknown { host })
}

fn names(jobs: &[JobId]) -> String {
    jobs.iter().map(JobId::as_str).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::HostLost { host, age_ms, jobs } => write!(
                f,
                "{} has not been heard for {}; alive there when last heard: {}",
                host.short(),
                crate::report::seconds(*age_ms),
                if jobs.is_empty() { "nothing".to_owned() } else { names(jobs) }
            ),
            Problem::HostOff { host, jobs } => {
                write!(f, "{} is off; these were on it: {}", host.short(), names(jobs))
            }
            Problem::HostDraining { host, intent, jobs } => {
                write!(f, "{} {intent} and still has {}", host.short(), names(jobs))
            }
            Problem::Overloaded { host, allocation, capacity } => {
                write!(f, "{} has promised {allocation} and has {capacity}", host.short())
            }
            Problem::Busy { host, cpu_millis, cpus } => {
                let used = crate::measure::cpus(*cpu_millis);
                write!(f, "guests on {} keep {used} of its {cpus} CPUs busy", host.short())
            }
            Problem::UseUnknown { host } => {
                write!(f, "it is not known what guests on {} use", host.short())
            }
            Problem::PoolAlmostFull { host, pool, free_bytes, capacity_bytes } => {
                let (host, free, capacity) =
                    (host.short(), Bytes(*free_bytes), Bytes(*capacity_bytes));
                match pool {
                    None => write!(f, "{host} has {free} of {capacity} of disk left to promise"),
                    Some(pool) => write!(f, "pool {pool} of {host} has {free} of {capacity} left"),
                }
            }
        }
    }
}
