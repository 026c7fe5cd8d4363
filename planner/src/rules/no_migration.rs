//! The job is not moved. Met by a plan that has no move of it; each move is a violation. What has
//! moved before the plan is forgotten.

use protocol::id::JobId;
use serde::{Deserialize, Serialize};

use crate::state::State;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoMigration {
    /// The job.
    pub job: JobId,
}

impl NoMigration {
    pub(super) fn violations(&self, state: &State<'_>) -> u32 {
        state.moves_of(&self.job)
    }
}
