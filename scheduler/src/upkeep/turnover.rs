//! Turnover: who has come and who has gone between two looks, so that a move is known of that was over before
//! anybody saw it under way.

use std::collections::BTreeSet;

use protocol::id::JobId;
use protocol::job::{Job, Reason};
use protocol::view::{HostRow, Jobs};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Turnover {
    came: BTreeSet<JobId>,
    left: BTreeSet<JobId>,
    /// True when a host has said that one of its guests has moved away.
    is_told: bool,
}

impl Turnover {
    /// What a host had at the last look, and has at this one.
    pub(super) fn note(&mut self, was: Option<&HostRow>, is: Option<&HostRow>) {
        let none = Jobs::default();
        let jobs = |row: Option<&HostRow>| row.map(|row| row.jobs.clone());
        let (was, is) = (jobs(was), jobs(is));
        let (was, is) = (was.as_ref().unwrap_or(&none), is.as_ref().unwrap_or(&none));
        for (old, new) in is.changed_since(was) {
            let Some(job) = new.or(old) else { continue };
            let is_alive = |job: &Job| !job.state.is_ended();
            match (old.is_some_and(|old| is_alive(old)), new.is_some_and(|new| is_alive(new))) {
                (false, true) => drop(self.came.insert(job.id.clone())),
                (true, false) => {
                    self.is_told |= matches!(job.reason, Some(Reason::Migrated { .. }));
                    self.left.insert(job.id.clone());
                }
                (true, true) | (false, false) => {}
            }
        }
    }

    /// Whether anybody is alive elsewhere than at the last look.
    pub(super) fn has_moved(&self) -> bool {
        self.is_told || !self.came.is_disjoint(&self.left)
    }
}
