//! The job's disks are kept more than once. Met when every pool in which it has disks, on the host where it is alive, says that it
//! keeps at least `copies` copies (its label `copies`), on at least `boxes` machines (its label `boxes`; 1 unless it is said
//! otherwise), both as whole numbers; each that does not is a violation. One box is what a pool that keeps copies is on at least, and needs no
//! label. Disks that may be lost with their host (`ephemeral`) do not count. A host's own folder says nothing, and does not
//! meet it: nor does it for one copy.

use protocol::id::JobId;
use serde::{Deserialize, Serialize};

use crate::rules::count;
use crate::rules::disks::{Kept, kept};
use crate::state::State;

/// How many copies a pool keeps.
const COPIES: &str = "copies";
/// On how many machines.
const BOXES: &str = "boxes";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageCopies {
    /// The job.
    pub job: JobId,
    /// How many copies at least.
    pub copies: u32,
    /// On how many machines at least.
    #[serde(default = "one")]
    pub boxes: u32,
}

fn one() -> u32 {
    1
}

impl StorageCopies {
    pub(super) fn violations(&self, state: &State<'_>) -> u32 {
        count(self.lacking(state).len())
    }

    pub(super) fn evidence(&self, state: &State<'_>) -> String {
        let lacking = self.lacking(state);
        let words = lacking.iter().map(|(kept, key)| kept.words(key)).collect::<Vec<_>>();
        format!("{} has disks in {}", self.job, words.join("; and in "))
    }

    /// Pools that say too little, each with what it says too little of.
    fn lacking<'a>(&self, state: &State<'a>) -> Vec<(Kept<'a>, &'static str)> {
        let number = |kept: &Kept<'_>, key: &str| -> Option<u32> { kept.label(key)?.parse().ok() };
        let lacks = |kept: &Kept<'_>| {
            let is_few = |key, least| number(kept, key).is_none_or(|found| found < least);
            if is_few(COPIES, self.copies) {
                return Some(COPIES);
            }
            (self.boxes > 1 && is_few(BOXES, self.boxes)).then_some(BOXES)
        };
        let all = kept(state, &self.job).into_iter();
        all.filter_map(|kept| lacks(&kept).map(|key| (kept, key))).collect()
    }
}
