//! The job's disks are in pools of a kind: fast ones, say, or ones that are backed up. Met when every pool in which it has
//! disks, on the host where it is alive, has the label `key` with exactly `value`; each that has not is a violation. Disks
//! that may be lost with their host (`ephemeral`) do not count. A host's own folder has no labels, and does not meet it.

use protocol::id::JobId;
use serde::{Deserialize, Serialize};

use crate::rules::count;
use crate::rules::disks::{Kept, kept};
use crate::state::State;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageClass {
    /// The job.
    pub job: JobId,
    /// The label's name.
    pub key: String,
    /// The label's value.
    pub value: String,
}

impl StorageClass {
    pub(super) fn violations(&self, state: &State<'_>) -> u32 {
        count(self.others(state).len())
    }

    pub(super) fn evidence(&self, state: &State<'_>) -> String {
        let others = self.others(state);
        let words: Vec<String> = others.iter().map(|kept| kept.words(&self.key)).collect();
        format!("{} has disks in {}", self.job, words.join("; and in "))
    }

    /// Pools of another kind, or of none that is known.
    fn others<'a>(&self, state: &State<'a>) -> Vec<Kept<'a>> {
        let is_other = |kept: &Kept<'_>| kept.label(&self.key) != Some(&self.value);
        kept(state, &self.job).into_iter().filter(is_other).collect()
    }
}
