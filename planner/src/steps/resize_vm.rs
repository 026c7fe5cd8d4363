//! Give a job another size where it is. What it can have at once it has at once, and the rest at its
//! next start; either way it is promised.

use protocol::admission::{Room, admit_resize};
use protocol::id::{HostId, JobId, Revision};
use protocol::job::{JobSpec, JobState};
use protocol::vm::SizeChange;
use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::state::{Placed, State};
use crate::steps::{Blocker, Step, usable};

/// Plugging in takes less, and a guest that gives memory up takes some seconds.
const TIME_MS: u64 = 1_000;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeVm {
    /// The job.
    pub job: JobId,
    /// Where it is.
    pub host: HostId,
    /// Which change of it this is.
    pub revision: Revision,
    /// What is to change.
    pub size: SizeChange,
    /// What it is then.
    pub spec: JobSpec,
    /// Whether that is more than it is asked for now, of something that counts: it takes a ticket.
    #[serde(default)]
    pub is_growth: bool,
}

impl ResizeVm {
    pub(super) fn check(&self, state: &State<'_>) -> Result<(), Blocker> {
        let row = usable(state, &self.host)?;
        if let Some(setback) = state.exclusion(&self.host) {
            return Err(Blocker::Setback { reason: setback.reason.clone() });
        }
        let Some(placed) = state.placed(&self.job, &self.host) else {
            let needed = "nothing is there to be resized".to_owned();
            return Err(Blocker::WrongState { state: None, needed });
        };
        let is_settled = matches!(placed.state, JobState::Running | JobState::Paused);
        if !is_settled && !placed.state.is_ended() {
            let needed = "wait until it runs, or has ended".to_owned();
            return Err(Blocker::WrongState { state: Some(placed.state), needed });
        }
        let rows = state.placements(&self.job);
        let mut others = rows.iter().filter(|(host, _)| **host != self.host);
        if let Some((host, other)) = others.find(|(_, placed)| !placed.state.is_ended()) {
            let needed = format!("it is alive on {} as well", host.short());
            return Err(Blocker::WrongState { state: Some(other.state), needed });
        }
        // A snapshot is of all disks: its host would refuse it for as long as there is one.
        if placed.has_snapshots && names(&placed.spec) != names(&self.spec) {
            let needed = "its snapshots are of the disks that it has: delete them first, with \
                          `ostler snapshots rm`"
                .to_owned();
            return Err(Blocker::WrongState { state: Some(placed.state), needed });
        }
        let pools = state.pools(row);
        let room = Room { pools: &pools, ..state.room_for(row, &self.job) };
        let job = (&self.job, placed.state);
        admit_resize(room, job, &placed.spec, placed.promised(), &self.spec)
            .map_err(|no| Blocker::Admission { no })
    }

    pub(super) fn apply(&self, state: &mut State<'_>) {
        let Some(placed) = state.placed(&self.job, &self.host) else { return };
        state.book(&self.host, placed.spec.growth_by_pool(&self.spec));
        // What its guest has not given up yet still counts; whoever plans next sees that.
        let (revision, spec) = (self.revision, self.spec.clone());
        state.place(&self.job, &self.host, Some(Placed { revision, spec, has: None, ..placed }));
    }

    pub(super) fn inverse(&self, before: &State<'_>) -> Option<Step> {
        let placed = before.placed(&self.job, &self.host)?;
        let size = placed.spec.as_vm()?.size();
        let change = SizeChange {
            vcpus: Some(size.vcpus),
            memory_bytes: Some(size.memory_bytes),
            max_vcpus: size.max_vcpus,
            max_memory_bytes: size.max_memory_bytes,
            // What was given to a disk stays on it, and disks and cards that came stay.
            ..SizeChange::default()
        };
        let spec = self.spec.with_size(|_| size)?;
        Some(Step::ResizeVm(Self {
            job: self.job.clone(),
            host: self.host.clone(),
            revision: Revision(self.revision.0 + 1),
            size: change,
            is_growth: !spec.resources().fits_in(self.spec.resources()),
            spec,
        }))
    }

    pub(super) fn cost() -> Cost {
        Cost { risk: 0, io_bytes: 0, time_ms: TIME_MS }
    }
}

/// The disks that it has, by name.
fn names(spec: &JobSpec) -> Vec<&str> {
    let disks = spec.as_vm().map_or(&[][..], |vm| &vm.disks);
    disks.iter().map(|disk| disk.name.as_str()).collect()
}
