//! Delete an ended job and its disks from a host. There is no way back.

use protocol::id::{HostId, JobId};
use protocol::job::JobState;
use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::state::State;
use crate::steps::{Blocker, usable};

/// What is deleted cannot be had back.
const RISK: u64 = 1_000;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteVm {
    /// The job.
    pub job: JobId,
    /// Where its row and disks are.
    pub host: HostId,
}

impl DeleteVm {
    pub(super) fn check(&self, state: &State<'_>) -> Result<(), Blocker> {
        usable(state, &self.host)?;
        let found: Option<JobState> =
            state.placed(&self.job, &self.host).map(|placed| placed.state);
        match found {
            Some(ended) if ended.is_ended() => Ok(()),
            other => {
                let needed = "only an ended job can be deleted".to_owned();
                Err(Blocker::WrongState { state: other, needed })
            }
        }
    }

    pub(super) fn apply(&self, state: &mut State<'_>) {
        state.place(&self.job, &self.host, None);
    }

    pub(super) fn cost() -> Cost {
        Cost { risk: RISK, io_bytes: 0, time_ms: 500 }
    }
}
