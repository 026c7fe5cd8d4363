//! Stop a job where it runs. What it took of memory and CPUs is free again; its disks stay.

use protocol::id::{HostId, JobId};
use protocol::job::JobState;
use protocol::refusal::Refusal;
use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::state::{Placed, State};
use crate::steps::start_vm::StartVm;
use crate::steps::{Blocker, Step, usable};

/// Stopping what runs is the worst that can be done to it, short of deleting it.
const RISK: u64 = 100;
/// Guests take their time to shut down.
const TIME_MS: u64 = 10_000;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopVm {
    /// The job.
    pub job: JobId,
    /// Where it runs.
    pub host: HostId,
}

impl StopVm {
    pub(super) fn check(&self, state: &State<'_>) -> Result<(), Blocker> {
        usable(state, &self.host)?;
        let wrong =
            |state, needed: &str| Err(Blocker::WrongState { state, needed: needed.to_owned() });
        let placed = state.placed(&self.job, &self.host);
        // Its host would refuse.
        let is_protected = |placed: &Placed| placed.spec.is_protected() && !placed.state.is_ended();
        if placed.as_ref().is_some_and(is_protected) {
            let no = Refusal::Protected { job: self.job.clone() };
            return Err(Blocker::Admission { no });
        }
        match placed.map(|placed| placed.state) {
            Some(
                JobState::Accepted
                | JobState::Starting
                | JobState::Running
                | JobState::Paused
                | JobState::Stopping,
            ) => Ok(()),
            Some(moving @ (JobState::MigratingIn | JobState::MigratingOut)) => {
                wrong(Some(moving), "wait until it has moved, or cancel the migration")
            }
            Some(ended @ (JobState::Stopped | JobState::Failed | JobState::Crashed)) => {
                wrong(Some(ended), "nothing is left to stop")
            }
            None => wrong(None, "nothing is there to stop"),
        }
    }

    pub(super) fn apply(&self, state: &mut State<'_>) {
        let placed = state.placed(&self.job, &self.host);
        let stopped = placed.map(|placed| Placed { state: JobState::Stopped, has: None, ..placed });
        state.place(&self.job, &self.host, stopped);
    }

    pub(super) fn inverse(&self, before: &State<'_>) -> Option<Step> {
        let placed = before.placed(&self.job, &self.host)?;
        let revision = before.next_revision(&self.job);
        let (job, host) = (self.job.clone(), self.host.clone());
        let (spec, fetches) = (placed.spec, vec![]);
        let finds_disks = false;
        Some(Step::StartVm(StartVm { job, host, revision, spec, fetches, finds_disks }))
    }

    pub(super) fn cost() -> Cost {
        Cost { risk: RISK, io_bytes: 0, time_ms: TIME_MS }
    }
}
