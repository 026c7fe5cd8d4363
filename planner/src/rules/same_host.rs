//! Jobs share a host. Met when all of them that are alive are on one host; each job that is
//! not where most of them are is a violation.

use protocol::id::JobId;
use serde::{Deserialize, Serialize};

use crate::rules::{by_host, count};
use crate::state::State;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SameHost {
    /// The jobs.
    pub jobs: Vec<JobId>,
}

impl SameHost {
    pub(super) fn violations(&self, state: &State<'_>) -> u32 {
        // What is not with the largest party must move, so that is what counts.
        let parties = by_host(state, &self.jobs);
        let all: usize = parties.values().map(Vec::len).sum();
        let largest = parties.values().map(Vec::len).max().unwrap_or(0);
        count(all - largest)
    }
}
