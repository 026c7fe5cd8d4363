//! Start a job on a host, for the first time or again.
//!
//! Decides that a job alive anywhere is never started a second time, whatever is known of the host
//! it is on, and that a job with disks is started again only where they are, or where the same shared
//! pools are. Images that the host
//! has not are copied there first, and take their room.

use protocol::admission::{Arrival, Room, admit};
use protocol::id::{HostId, ImageName, JobId, Revision};
use protocol::job::{JobSpec, JobState};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::vm::VmSpec;
use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::images::{Fetch, bytes_of};
use crate::pools::{check_reach, is_on_shared, last_host};
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
    /// Images that are copied there first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fetches: Vec<Fetch>,
    /// Whether it finds disks in shared pools that it had on another host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub finds_disks: bool,
}

impl StartVm {
    pub(super) fn check(&self, state: &State<'_>) -> Result<(), Blocker> {
        let row = welcoming(state, &self.host)?;
        for (host, placed) in &state.placements(&self.job) {
            // Its name is that of its disks, wherever they are.
            if placed.spec.tenant != self.spec.tenant {
                let (tenant, host) = (&placed.spec.tenant, host.short());
                let needed = format!("it is tenant {tenant}'s on {host}: delete it there first");
                return Err(Blocker::WrongState { state: Some(placed.state), needed });
            }
            // A budget has another size at once, and nothing of it runs.
            let is_same_budget = *host == self.host
                && placed.spec.as_budget().is_some()
                && self.spec.as_budget().is_some();
            if !placed.state.is_ended() && !is_same_budget {
                let needed = format!("it must have ended on {}", host.short());
                return Err(Blocker::WrongState { state: Some(placed.state), needed });
            }
            if !placed.keeps_disks() || *host == self.host {
                continue;
            }
            if placed.is_saved || !is_on_shared(state.host(host), &placed.spec) {
                return Err(Blocker::DisksElsewhere { host: host.clone() });
            }
        }
        if let Some((mac, job)) = state.mac_taken(&self.job, &self.spec) {
            return Err(Blocker::Admission { no: Refusal::MacTaken { mac, job } });
        }
        let own = state.placed(&self.job, &self.host);
        if let Some(own) = own.as_ref().filter(|own| own.is_saved && self.finds_disks) {
            let needed =
                "its memory was saved there, and its disks have been used since".to_owned();
            return Err(Blocker::WrongState { state: Some(own.state), needed });
        }
        if let Some(last) = last_host(state, &self.job).filter(|last| *last != self.host) {
            check_reach(state, &self.spec, &last, row, false)?;
        }
        let arrival = match own.is_some_and(|placed| placed.keeps_disks()) {
            _ if self.finds_disks => Arrival::StartOnShared,
            true => Arrival::StartAgain,
            false => Arrival::Start,
        };
        let pools = state.pools(row);
        let room = state.room_for_spec(row, &self.job, &self.spec);
        let images = state.images_with(row, &self.fetches);
        let allocation = room.allocation.plus(self.copies());
        let with_copies = Room { allocation, images: &images, pools: &pools, ..room };
        admit(with_copies, &self.spec, arrival).map_err(|no| match no {
            // What is free is told as it is now, and what is needed with the copies.
            Refusal::NoCapacity { asked, capacity, .. } => {
                let asked = asked.plus(self.copies());
                let no = Refusal::NoCapacity { asked, free: room.free(), capacity };
                Blocker::Admission { no }
            }
            no => Blocker::Admission { no },
        })
    }

    /// What it takes of its host, copies of images included.
    pub(super) fn takes(&self) -> Resources {
        self.spec.takes().plus(self.copies())
    }

    fn copies(&self) -> Resources {
        Resources { disk_bytes: bytes_of(&self.fetches), ..Resources::ZERO }
    }

    pub(super) fn apply(&self, state: &mut State<'_>) {
        state.bring(&self.host, &self.fetches);
        let keeps = state.placed(&self.job, &self.host).is_some_and(|own| own.keeps_disks());
        if !keeps && !self.finds_disks {
            let made = self.spec.as_vm().map(VmSpec::bytes_by_pool).unwrap_or_default();
            state.book(&self.host, made.into_iter().map(|(pool, bytes)| (pool.clone(), bytes)));
        }
        let has_snapshots =
            state.placed(&self.job, &self.host).is_some_and(|own| own.has_snapshots);
        let placed = Placed {
            revision: self.revision,
            spec: self.spec.clone(),
            state: JobState::Running,
            hold: None,
            budget: None,
            has: None,
            has_other_devices: false,
            has_moved_away: false,
            is_saved: false,
            has_snapshots,
        };
        state.place(&self.job, &self.host, Some(placed));
    }

    /// A first start is taken back with its disks; a later one leaves them as they are. An image that
    /// came stays: only who asks for it by name deletes one.
    pub(super) fn inverse(&self, before: &State<'_>) -> Option<Step> {
        let (job, host) = (self.job.clone(), self.host.clone());
        Some(match before.placed(&self.job, &self.host) {
            Some(_) => Step::StopVm(StopVm { job, host }),
            None => Step::DeleteVm(DeleteVm { job, host }),
        })
    }

    pub(super) fn cost(&self, state: &State<'_>) -> Cost {
        let row = state.host(&self.host);
        let disks = self.spec.as_vm().map_or(&[][..], |vm| &vm.disks);
        let fetched = |name: &ImageName| {
            self.fetches.iter().find(|f| f.image == *name).map(|fetch| &fetch.facts)
        };
        let used = disks.iter().filter_map(|disk| {
            let name = disk.image.as_ref()?;
            state.image(row?, name).or_else(|| fetched(name))
        });
        let io_bytes = used.fold(0, |sum: u64, image| sum.saturating_add(image.file_bytes));
        let io_bytes = io_bytes.saturating_add(bytes_of(&self.fetches));
        Cost { risk: 0, io_bytes, time_ms: TIME_MS }
    }
}
