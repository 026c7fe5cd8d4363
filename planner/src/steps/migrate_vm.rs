//! Move a running job to another host without a stop. Its disks go with it, unless they are in shared
//! pools.

use protocol::admission::{Arrival, Room, admit};
use protocol::id::{HostId, JobId, Revision};
use protocol::job::JobState;
use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::pools::{bytes_to_copy, check_reach, is_on_shared};
use crate::state::{Placed, State};
use crate::steps::{Blocker, Step, usable, welcoming};

/// A live migration may fail, and then the guest still runs where it was.
const RISK: u64 = 1;
/// What a migration takes beside copying.
const TIME_MS: u64 = 2_000;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrateVm {
    /// The job.
    pub job: JobId,
    /// Where it runs.
    pub from: HostId,
    /// Where it will run.
    pub to: HostId,
    /// Which change of it this is, on the target.
    pub revision: Revision,
}

impl MigrateVm {
    pub(super) fn check(&self, state: &State<'_>) -> Result<(), Blocker> {
        let running = self.check_source(state)?;
        let row = welcoming(state, &self.to)?;
        let left = state.placed(&self.job, &self.to);
        // What is left of a job whose disks are shared holds nothing that could be lost.
        let from_row = state.host(&self.from);
        let is_nothing = |left: &Placed| !left.is_saved && is_on_shared(from_row, &left.spec);
        if let Some(left) = left.filter(|left| !left.has_moved_away && !is_nothing(left)) {
            let needed = "an older row of the job is there; delete it first".to_owned();
            return Err(Blocker::WrongState { state: Some(left.state), needed });
        }
        check_reach(state, &running.spec, &self.from, row, true)?;
        let pools = state.pools(row);
        let room = Room { pools: &pools, ..state.room_for(row, &self.job) };
        admit(room, &running.spec, Arrival::Migrate).map_err(|no| Blocker::Admission { no })
    }

    /// What must be so where it runs, whatever its target; the job as it is there.
    pub(crate) fn check_source(&self, state: &State<'_>) -> Result<Placed, Blocker> {
        usable(state, &self.from)?;
        let running = state.placed(&self.job, &self.from);
        let Some(running) = running.filter(|placed| placed.state == JobState::Running) else {
            let found = state.placed(&self.job, &self.from).map(|placed| placed.state);
            let needed = format!("it must be running on {}", self.from.short());
            return Err(Blocker::WrongState { state: found, needed });
        };
        if running.has_more_than_asked() {
            let needed =
                "it has more than its spec says: stop and start it, or resize it".to_owned();
            return Err(Blocker::WrongState { state: Some(running.state), needed });
        }
        if running.has_other_devices {
            let needed =
                "some of its disks or cards come or go at its next start: stop and start it";
            return Err(Blocker::WrongState {
                state: Some(running.state),
                needed: needed.to_owned(),
            });
        }
        let stay_behind = !is_on_shared(state.host(&self.from), &running.spec);
        if running.has_snapshots && stay_behind {
            let needed = "its snapshots would be lost when its disks are copied: delete them with \
                          `ostler snapshots rm`, or leave it where it is"
                .to_owned();
            return Err(Blocker::WrongState { state: Some(running.state), needed });
        }
        let rows = state.placements(&self.job);
        let mut others = rows.iter().filter(|(host, _)| **host != self.from);
        if let Some((host, placed)) = others.find(|(_, placed)| !placed.state.is_ended()) {
            let needed =
                format!("it is alive on {} as well; one of the two must end", host.short());
            return Err(Blocker::WrongState { state: Some(placed.state), needed });
        }
        Ok(running)
    }

    pub(super) fn apply(&self, state: &mut State<'_>) {
        let Some(placed) = state.placed(&self.job, &self.from) else { return };
        let moved = Placed { revision: self.revision, hold: None, ..placed };
        state.place(&self.job, &self.from, None);
        state.place(&self.job, &self.to, Some(moved));
        state.count_move(&self.job);
    }

    #[expect(clippy::unnecessary_wraps, reason = "one shape for every step")]
    pub(super) fn inverse(&self) -> Option<Step> {
        Some(Step::MigrateVm(MigrateVm {
            job: self.job.clone(),
            from: self.to.clone(),
            to: self.from.clone(),
            revision: Revision(self.revision.0 + 1),
        }))
    }

    pub(super) fn cost(&self, state: &State<'_>) -> Cost {
        let placed = state.placed(&self.job, &self.from);
        let bytes = placed.map(|placed| {
            let disks = bytes_to_copy(state.host(&self.from), &placed.spec);
            placed.spec.resources().memory_bytes.saturating_add(disks)
        });
        let io_bytes = bytes.unwrap_or_default();
        Cost { risk: RISK, io_bytes, time_ms: TIME_MS }
    }
}
