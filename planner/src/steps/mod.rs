//! The transformations a plan is made of; one file each.
//!
//! A step says when it may be taken, what it changes and accounts for, what takes it back and what
//! it costs. It never does anything: the scheduler turns steps into tasks.

mod delete_vm;

mod migrate_vm;

mod resize_vm;

mod start_vm;

mod stop_vm;

mod sleep_host;

mod wake_host;

use std::fmt;

use protocol::id::{HostId, JobId, PoolName};
use protocol::job::JobState;
use protocol::refusal::Refusal;
use protocol::view::{Freshness, HostRow};
use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::input::{Reservation, SetbackReason};
use crate::intent::Intent;
use crate::level::Level;
use crate::report::{room_words, seconds};
use crate::state::State;

pub use delete_vm::DeleteVm;
pub use migrate_vm::MigrateVm;
pub use resize_vm::ResizeVm;
pub use sleep_host::SleepHost;
pub use start_vm::StartVm;
pub use stop_vm::StopVm;
pub use wake_host::WakeHost;

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// Start a job on a host.
    StartVm(StartVm),
    /// Stop a job on a host; its disks stay.
    StopVm(StopVm),
    /// Move a running job.
    MigrateVm(MigrateVm),
    /// Give a job another size where it is.
    ResizeVm(ResizeVm),
    /// Delete an ended job and its disks from a host.
    DeleteVm(DeleteVm),
    /// Switch a sleeping host on for a job.
    WakeHost(WakeHost),
    /// Have an empty host switched off until it is needed.
    SleepHost(SleepHost),
}

/// Why a step may not be taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "blocker", rename_all = "snake_case")]
pub enum Blocker {
    /// The host would say no.
    Admission {
        /// In these words and numbers.
        no: Refusal,
    },
    /// The host has said no, has failed or did not answer, in this very run.
    Setback {
        /// How.
        #[serde(flatten)]
        reason: SetbackReason,
    },
    /// The host has not been heard for too long to be asked.
    Lost {
        /// How long.
        age_ms: u64,
    },
    /// No such host is in the view.
    UnknownHost,
    /// Nothing here could switch the host off, or the cluster needs what is there.
    StaysOn,
    /// An operator intends something else with the host.
    Intended {
        /// What.
        intent: Intent,
    },
    /// The host has room, and a rule would be broken there.
    Rule {
        /// How much the rule matters.
        level: Level,
        /// The evidence, as it would be.
        evidence: String,
    },
    /// The job is not on the host in a state that would do.
    WrongState {
        /// Its state there, if it is there.
        state: Option<JobState>,
        /// What would do.
        needed: String,
    },
    /// The job's disks are on another host, and a start here would begin with fresh ones.
    DisksElsewhere {
        /// Where they are.
        host: HostId,
    },
    /// The host has a pool of that name which is not the one that the job's disks are in.
    OtherPool {
        /// The pool.
        pool: PoolName,
        /// Whose pool they are in.
        host: HostId,
    },
    /// The host has the pool elsewhere, and a running VM keeps its paths.
    OtherPoolPath {
        /// The pool.
        pool: PoolName,
        /// Where the job runs.
        host: HostId,
    },
}

impl Step {
    /// The job it changes, or is taken for.
    #[must_use]
    pub fn job(&self) -> &JobId {
        match self {
            Step::StartVm(step) => &step.job,
            Step::StopVm(step) => &step.job,
            Step::MigrateVm(step) => &step.job,
            Step::ResizeVm(step) => &step.job,
            Step::DeleteVm(step) => &step.job,
            Step::WakeHost(step) => &step.job,
            Step::SleepHost(step) => step.host.job(),
        }
    }

    /// Where the job is after it; `None` when it is alive nowhere for it.
    #[must_use]
    pub fn host_after(&self) -> Option<&HostId> {
        match self {
            Step::StartVm(step) => Some(&step.host),
            Step::MigrateVm(step) => Some(&step.to),
            Step::ResizeVm(step) => Some(&step.host),
            Step::StopVm(_) | Step::DeleteVm(_) | Step::WakeHost(_) | Step::SleepHost(_) => None,
        }
    }

    /// Whether it may be taken in this state.
    pub fn check(&self, state: &State<'_>) -> Result<(), Blocker> {
        match self {
            Step::StartVm(step) => step.check(state),
            Step::StopVm(step) => step.check(state),
            Step::MigrateVm(step) => step.check(state),
            Step::ResizeVm(step) => step.check(state),
            Step::DeleteVm(step) => step.check(state),
            Step::WakeHost(step) => step.check(state),
            Step::SleepHost(step) => step.check(state),
        }
    }

    /// The host that a job can't leave now, wherever it would go.
    pub(crate) fn source_in_the_way(&self, state: &State<'_>) -> Option<&HostId> {
        match self {
            Step::MigrateVm(step) => step.check_source(state).is_err().then_some(&step.from),
            Step::StartVm(_)
            | Step::StopVm(_)
            | Step::ResizeVm(_)
            | Step::DeleteVm(_)
            | Step::WakeHost(_)
            | Step::SleepHost(_) => None,
        }
    }

    /// The state after it. Only for a step that [`Step::check`] allows.
    #[must_use]
    pub fn apply<'a>(&self, state: &State<'a>) -> State<'a> {
        let mut after = state.clone();
        match self {
            Step::StartVm(step) => step.apply(&mut after),
            Step::StopVm(step) => step.apply(&mut after),
            Step::MigrateVm(step) => step.apply(&mut after),
            Step::ResizeVm(step) => step.apply(&mut after),
            Step::DeleteVm(step) => step.apply(&mut after),
            Step::WakeHost(step) => step.apply(&mut after),
            Step::SleepHost(step) => step.apply(&mut after),
        }
        after
    }

    /// The step that takes it back, given the state before it; `None` past the point of no return.
    #[must_use]
    pub fn inverse(&self, before: &State<'_>) -> Option<Step> {
        match self {
            Step::StartVm(step) => step.inverse(before),
            Step::StopVm(step) => step.inverse(before),
            Step::MigrateVm(step) => step.inverse(),
            Step::ResizeVm(step) => step.inverse(before),
            Step::SleepHost(step) => Some(step.inverse()),
            Step::DeleteVm(_) | Step::WakeHost(_) => None,
        }
    }

    /// What it costs.
    #[must_use]
    pub fn cost(&self, state: &State<'_>) -> Cost {
        let host = match self {
            Step::StartVm(step) => &step.host,
            Step::StopVm(step) => &step.host,
            Step::MigrateVm(step) => &step.to,
            Step::ResizeVm(step) => &step.host,
            Step::DeleteVm(step) => &step.host,
            // That it is not heard is what a wake ends.
            Step::WakeHost(_) => return self.cost_fresh(state),
            Step::SleepHost(step) => step.host.host(),
        };
        self.cost_fresh(state).plus(staleness_risk(state, host))
    }

    /// What it costs on a host that is fresh.
    pub(crate) fn cost_fresh(&self, state: &State<'_>) -> Cost {
        match self {
            Step::StartVm(step) => step.cost(state),
            Step::StopVm(_) => StopVm::cost(),
            Step::MigrateVm(step) => step.cost(state),
            Step::ResizeVm(_) => ResizeVm::cost(),
            Step::DeleteVm(_) => DeleteVm::cost(),
            Step::WakeHost(_) => WakeHost::cost(),
            Step::SleepHost(_) => SleepHost::cost(),
        }
    }

    /// What a run that takes it is about to use.
    #[must_use]
    pub fn reservation(&self, state: &State<'_>) -> Option<Reservation> {
        let (host, job, resources, spec) = match self {
            Step::StartVm(step) => (&step.host, &step.job, step.takes(), step.spec.clone()),
            Step::MigrateVm(step) => {
                let placed = state.placed(&step.job, &step.from)?;
                (&step.to, &step.job, placed.spec.takes(), placed.spec)
            }
            // The host keeps room for a growth from its offer on, and the job's row is there already.
            Step::ResizeVm(_)
            | Step::StopVm(_)
            | Step::DeleteVm(_)
            | Step::WakeHost(_)
            | Step::SleepHost(_) => return None,
        };
        let (host, job) = (host.clone(), job.clone());
        let (pages, dedicated_cpus) = (spec.pages(), spec.dedicated_cpus());
        Some(Reservation { host, job, resources, pages, dedicated_cpus })
    }
}

/// A stale row may be wrong: any fresh host is tried before it.
fn staleness_risk(state: &State<'_>, host: &HostId) -> Cost {
    let risk = match state.heard(host).freshness {
        Freshness::Fresh => 0,
        Freshness::Stale => 10,
        Freshness::Lost => 1000,
    };
    Cost { risk, ..Cost::default() }
}

/// The row of a host that may be asked at all.
fn usable<'a>(state: &State<'a>, host: &HostId) -> Result<&'a HostRow, Blocker> {
    let row = state.host(host).ok_or(Blocker::UnknownHost)?;
    let heard = state.heard(host);
    if let Some(intent @ (Intent::Off | Intent::Asleep)) = state.intent(host) {
        return Err(Blocker::Intended { intent });
    }
    if heard.freshness == Freshness::Lost {
        return Err(Blocker::Lost { age_ms: heard.age_ms });
    }
    Ok(row)
}

/// The row of a host that may be given something new.
fn welcoming<'a>(state: &State<'a>, host: &HostId) -> Result<&'a HostRow, Blocker> {
    let row = usable(state, host)?;
    if let Some(intent) = state.intent(host) {
        return Err(Blocker::Intended { intent });
    }
    match state.exclusion(host) {
        Some(setback) => Err(Blocker::Setback { reason: setback.reason.clone() }),
        None => Ok(row),
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::StartVm(step) => {
                write!(f, "start {} on {}", step.job, step.host.short())?;
                for fetch in &step.fetches {
                    let from = fetch.from.first().map_or("", HostId::short);
                    write!(f, ", with image {} copied from {from} first", fetch.image)?;
                }
                Ok(())
            }
            Step::StopVm(step) => write!(f, "stop {} on {}", step.job, step.host.short()),
            Step::MigrateVm(step) => {
                write!(f, "move {} from {} to {}", step.job, step.from.short(), step.to.short())
            }
            Step::ResizeVm(step) => write!(f, "resize {} on {}", step.job, step.host.short()),
            Step::DeleteVm(step) => write!(f, "delete {} from {}", step.job, step.host.short()),
            Step::WakeHost(step) if step.is_for_room() => write!(f, "wake {}", step.host.short()),
            Step::WakeHost(step) => write!(f, "wake {} for {}", step.host.short(), step.job),
            Step::SleepHost(step) => write!(f, "put {} to sleep", step.host.host().short()),
        }
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blocker::Admission { no: Refusal::NoCapacity { asked, free, .. } } => {
                f.write_str(&room_words(*asked, *free))
            }
            Blocker::Admission { no } => no.fmt(f),
            Blocker::Setback { reason } => match reason {
                SetbackReason::Refused { no } => write!(f, "has refused: {no}"),
                SetbackReason::Failed { message } => write!(f, "has failed: {message}"),
                SetbackReason::Unreachable { message } => write!(f, "did not answer: {message}"),
            },
            Blocker::Lost { age_ms } => write!(f, "has not been heard for {}", seconds(*age_ms)),
            Blocker::UnknownHost => f.write_str("is not in the view"),
            Blocker::StaysOn => f.write_str(
                "stays on: no controller has a device that switches it, or the cluster needs what is there",
            ),
            Blocker::Intended { intent } => intent.fmt(f),
            Blocker::Rule { level, evidence } => {
                write!(f, "has room, but {} not: {evidence}", level.as_str())
            }
            Blocker::WrongState { state: Some(state), needed } => {
                write!(f, "the job is {state} there; {needed}")
            }
            Blocker::WrongState { state: None, needed } => {
                write!(f, "the job is not there; {needed}")
            }
            Blocker::DisksElsewhere { host } => {
                write!(f, "the job's disks are on {}", host.short())
            }
            Blocker::OtherPool { pool, host } => write!(
                f,
                "its pool {pool} is not the pool {pool} of {}, where the job's disks are",
                host.short()
            ),
            Blocker::OtherPoolPath { pool, host } => write!(
                f,
                "it has pool {pool} at another path than {}, and a running VM keeps its paths",
                host.short()
            ),
        }
    }
}
