//! Start a job on a host, for the first time or again.
//!
//! Decides that a job alive anywhere is never started a second time, whatever is known of the host
//! it is on, and that a job with disks is started again only where they are.

use protocol::admission::{Arrival, admit};
use protocol::id::{HostId, JobId, Revision};
use protocol::job::{JobSpec, JobState};
use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::state::{Placed, State};
use crate::steps::{Blocker, DeleteVm, Step, StopVm, welcoming};

/// How long a start takes, as a rule.
const TIME_MS: u64 = 2_000;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartVm {
    /// The job.
    pub job: JobId,
    /// Where.
    pub host: HostId,
    /// Which change of it this is.
    pub revision: Revision,
    /// What it is.
    pub spec: JobSpec,
}

impl StartVm {
    pub(super) fn check(&self, state: &State<'_>) -> Result<(), Blocker> {
        let row = welcoming(state, &self.host)?;
        for (host, placed) in &state.placements(&self.job) {
            if !placed.state.is_ended() {
                let needed = format!("it must have ended on {}", host.short());
                return Err(Blocker::WrongState { state: Some(placed.state), needed });
            }
            if placed.keeps_disks() && *host != self.host {
                return Err(Blocker::DisksElsewhere { host: host.clone() });
            }
        }
        let room = state.room_for_spec(row, &self.job, &self.spec);
        admit(room, &self.spec, Arrival::Start).map_err(|no| Blocker::Admission { no })
    }

    pub(super) fn apply(&self, state: &mut State<'_>) {
        let placed = Placed {
            revision: self.revision,
            spec: self.spec.clone(),
            state: JobState::Running,
            hold: None,
            has_moved_away: false,
        };
        state.place(&self.job, &self.host, Some(placed));
    }

    /// A first start is taken back with its disks; a later one leaves them as they are.
    pub(super) fn inverse(&self, before: &State<'_>) -> Option<Step> {
        let (job, host) = (self.job.clone(), self.host.clone());
        Some(match before.placed(&self.job, &self.host) {
            Some(_) => Step::StopVm(StopVm { job, host }),
            None => Step::DeleteVm(DeleteVm { job, host }),
        })
    }

    pub(super) fn cost(&self, state: &State<'_>) -> Cost {
        let images = state.host(&self.host).map(|row| &row.host.images);
        let disks = self.spec.as_vm().map_or(&[][..], |vm| &vm.disks);
        let copied = disks.iter().filter_map(|d| images?.get(d.image.as_ref()?));
        let io_bytes = copied.fold(0, |sum: u64, image| sum.saturating_add(image.file_bytes));
        Cost { risk: 0, io_bytes, time_ms: TIME_MS }
    }
}
