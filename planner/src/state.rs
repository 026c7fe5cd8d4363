//! The world as a plan would leave it: the input's view, and over it only what steps have changed.
//!
//! Cloning costs two pointers and a step costs what it changes, so the search may keep thousands.
//! Decides what of a host counts as promised: its own report or its newer refusal, and what other
//! runs are about to take.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use protocol::admission::Room;
use protocol::id::{HostId, JobId, OfferId, Revision};
use protocol::job::{Job, JobSpec, JobState, Reason};
use protocol::resources::Resources;
use protocol::view::{Freshness, HostRow};

use crate::expectation::Expectation;
use crate::input::{Heard, PlanInput, Setback};

/// A job's row on one host, as far as planning is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Which change of it.
    pub revision: Revision,
    /// What it is.
    pub spec: JobSpec,
    /// Where it is in its life.
    pub state: JobState,
    /// Under which hold, if it has one.
    pub hold: Option<OfferId>,
    /// True when it has left for another host and only its row is left here.
    pub has_moved_away: bool,
}

impl Placed {
    /// What it holds of its host.
    #[must_use]
    pub fn allocation(&self) -> Resources {
        let asked = self.spec.resources();
        if self.state.is_ended() {
            Resources { disk_bytes: asked.disk_bytes, ..Resources::ZERO }
        } else {
            asked
        }
    }

    /// True when disks that somebody may have written to are here.
    #[must_use]
    pub fn keeps_disks(&self) -> bool {
        let has_disks = self.spec.resources().disk_bytes > 0;
        let never_ran = self.state == JobState::Failed && self.revision <= Revision(1);
        self.state.is_ended() && has_disks && !never_ran && !self.has_moved_away
    }
}

impl From<&Job> for Placed {
    fn from(job: &Job) -> Self {
        Self {
            revision: job.revision,
            spec: job.spec.clone(),
            state: job.state,
            hold: job.hold,
            has_moved_away: job.state.is_ended()
                && matches!(job.reason, Some(Reason::Migrated { .. })),
        }
    }
}

/// An overlay over the input's view.
#[derive(Debug, Clone)]
pub struct State<'a> {
    input: &'a PlanInput,
    reserved: Arc<BTreeMap<&'a HostId, Resources>>,
    allocation: OrdMap<HostId, Resources>,
    jobs: OrdMap<JobId, OrdMap<HostId, Placed>>,
}

impl<'a> State<'a> {
    /// The world of now.
    #[must_use]
    pub fn new(input: &'a PlanInput) -> Self {
        let mut reserved: BTreeMap<&HostId, Resources> = BTreeMap::new();
        for hold in &input.reservations {
            let row = input.view.host(&hold.host).and_then(|row| row.jobs.get(&hold.job));
            if row.is_some_and(|job| !job.state.is_ended()) {
                continue;
            }
            let sum = reserved.entry(&hold.host).or_default();
            *sum = sum.plus(hold.resources);
        }
        // Looked up once: whoever asks where a job is would else walk all hosts each time.
        let jobs = input.expectations.iter().map(Expectation::job);
        let jobs = jobs.map(|job| (job.clone(), rows_of(input, job))).collect();
        Self { input, reserved: Arc::new(reserved), allocation: OrdMap::new(), jobs }
    }

    /// What the plan is made of.
    #[must_use]
    pub fn input(&self) -> &'a PlanInput {
        self.input
    }

    /// The rows of the view, by host id.
    pub fn hosts(&self) -> impl Iterator<Item = (&'a HostId, &'a HostRow)> {
        self.input.view.hosts()
    }

    /// One row of the view.
    #[must_use]
    pub fn host(&self, host: &HostId) -> Option<&'a HostRow> {
        self.input.view.host(host)
    }

    /// How fresh a host's row is.
    #[must_use]
    pub fn heard(&self, host: &HostId) -> Heard {
        let fresh = Heard { freshness: Freshness::Fresh, age_ms: 0 };
        self.input.heard.get(host).copied().unwrap_or(fresh)
    }

    /// Why the host is out of the question, if it has said or shown so.
    #[must_use]
    pub fn exclusion(&self, host: &HostId) -> Option<&'a Setback> {
        self.input.setbacks.iter().find(|s| s.host == *host && s.excludes_host())
    }

    /// Where a job has rows.
    #[must_use]
    pub fn placements(&self, job: &JobId) -> OrdMap<HostId, Placed> {
        if let Some(rows) = self.jobs.get(job) {
            return rows.clone();
        }
        rows_of(self.input, job)
    }

    /// A job's row on one host.
    #[must_use]
    pub fn placed(&self, job: &JobId, host: &HostId) -> Option<Placed> {
        match self.jobs.get(job) {
            Some(rows) => rows.get(host).cloned(),
            None => self.host(host)?.jobs.get(job).map(|job| Placed::from(job.as_ref())),
        }
    }

    /// What the host has promised, all jobs together.
    #[must_use]
    pub fn allocation(&self, row: &HostRow) -> Resources {
        if let Some(changed) = self.allocation.get(&row.host.id) {
            return *changed;
        }
        let reserved = self.reserved.get(&row.host.id).copied().unwrap_or_default();
        let free_instead = self.input.setbacks.iter().rev().find_map(|s| s.free_instead(&row.host));
        let told = free_instead.map_or(row.host.allocation, |free| row.host.capacity.minus(free));
        told.plus(reserved)
    }

    /// The room that the host has for this job: what it promised to others is taken.
    #[must_use]
    pub fn room_for(&self, row: &'a HostRow, job: &JobId) -> Room<'a> {
        let own = self.placed(job, &row.host.id).map(|p| p.allocation()).unwrap_or_default();
        let allocation = self.allocation(row).minus(own);
        Room { allocation, ..Room::of(&row.host) }
    }

    /// Puts a job's row in place, or takes it away, and accounts for the difference.
    pub(crate) fn place(&mut self, job: &JobId, host: &HostId, placed: Option<Placed>) {
        if let Some(row) = self.host(host) {
            let before = self.placed(job, host).map(|p| p.allocation()).unwrap_or_default();
            let after = placed.as_ref().map(Placed::allocation).unwrap_or_default();
            let allocation = self.allocation(row).minus(before).plus(after);
            self.allocation.insert(host.clone(), allocation);
        }
        let mut rows = self.placements(job);
        match placed {
            Some(placed) => rows.insert(host.clone(), placed),
            None => rows.remove(host),
        };
        self.jobs.insert(job.clone(), rows);
    }

    /// The revision that a new change of the job gets: above every one that any host remembers.
    #[must_use]
    pub fn next_revision(&self, job: &JobId) -> Revision {
        let last = self.placements(job).values().map(|placed| placed.revision.0).max();
        Revision(last.unwrap_or(0) + 1)
    }
}

fn rows_of(input: &PlanInput, job: &JobId) -> OrdMap<HostId, Placed> {
    let rows = input.view.hosts().filter_map(|(host, row)| Some((host, row.jobs.get(job)?)));
    rows.map(|(host, job)| (host.clone(), Placed::from(job.as_ref()))).collect()
}
