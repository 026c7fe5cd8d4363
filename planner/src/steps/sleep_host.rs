//! Put a host to sleep: have it switched off while nobody needs it.
//!
//! Decides that only a host which is heard, which whoever carries out the plan can switch, and on which nothing is alive
//! is put to sleep, and what that may cost. It is drained for that, by the run that takes the step. To wake it takes it back.

use protocol::id::HostId;
use protocol::job::Job;
use protocol::subject::Subject;
use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::state::State;
use crate::steps::{Blocker, Step, WakeHost, welcoming};

/// From the order until its devices say off and it is silent, as a rule.
const TIME_MS: u64 = 60_000;

/// It may not come up when it is needed: as much as a wake of it.
const RISK: u64 = 5;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SleepHost {
    /// The host.
    pub host: Subject,
}

impl SleepHost {
    /// Of this host.
    #[must_use]
    pub fn of(host: &HostId) -> Self {
        Self { host: host.clone().into() }
    }

    /// Whether it could sleep, were it empty.
    pub(crate) fn check_emptied(&self, state: &State<'_>) -> Result<(), Blocker> {
        let host = self.host.host();
        // One that is late for a moment is not needed more for that, and is asked itself before it is switched off.
        welcoming(state, host)?;
        // A budget is there for when nobody else can start anything.
        let is_budget = |job: &Job| !job.state.is_ended() && job.spec.as_budget().is_some();
        let row = state.host(host);
        let has_budget = row.is_some_and(|row| row.jobs.values().any(|job| is_budget(job)));
        match state.input().may_sleep.contains(host) && !has_budget {
            true => Ok(()),
            false => Err(Blocker::StaysOn),
        }
    }

    pub(super) fn check(&self, state: &State<'_>) -> Result<(), Blocker> {
        self.check_emptied(state)?;
        let Some(row) = state.host(self.host.host()) else { return Err(Blocker::UnknownHost) };
        let Some(job) = state.jobs_alive(row).into_iter().next() else { return Ok(()) };
        let placed = state.placed(&job, self.host.host());
        let needed = format!("{job} must have left");
        Err(Blocker::WrongState { state: placed.map(|placed| placed.state), needed })
    }

    pub(super) fn apply(&self, state: &mut State<'_>) {
        state.sleep(self.host.host());
    }

    pub(super) fn inverse(&self) -> Step {
        Step::WakeHost(WakeHost { host: self.host.host().clone(), job: self.host.job().clone() })
    }

    pub(super) fn cost() -> Cost {
        Cost { risk: RISK, io_bytes: 0, time_ms: TIME_MS }
    }
}
