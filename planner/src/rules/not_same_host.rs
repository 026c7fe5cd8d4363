//! Jobs are kept apart. Met when no two of them are alive on one host; each job beyond the first on
//! a host is a violation. Two-sided: it binds every job of the list.

use protocol::id::JobId;
use serde::{Deserialize, Serialize};

use crate::rules::{by_host, count};
use crate::state::State;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotSameHost {
    /// The jobs.
    pub jobs: Vec<JobId>,
}

impl NotSameHost {
    pub(super) fn violations(&self, state: &State<'_>) -> u32 {
        by_host(state, &self.jobs).values().map(|jobs| count(jobs.len() - 1)).sum()
    }
}
