//! Specs by content: jobs that are asked for in the same words, as those of one template are, share
//! one spec. In a large view specs would take most of the memory otherwise.

use std::collections::HashSet;
use std::sync::Arc;

use crate::job::JobSpec;

/// A pool with fewer specs than this is never swept.
const SWEEP_MIN: usize = 1024;

/// Every spec in use, once.
#[derive(Debug, Default)]
pub struct SpecPool {
    specs: HashSet<Arc<JobSpec>>,
    /// How many were in use at the last sweep.
    in_use: usize,
}

impl SpecPool {
    /// Puts the pool's own spec of the same content in the place of this one.
    pub fn share(&mut self, spec: &mut Arc<JobSpec>) {
        if let Some(ours) = self.specs.get(spec) {
            *spec = Arc::clone(ours);
            return;
        }
        if self.specs.len() >= SWEEP_MIN.max(2 * self.in_use) {
            self.specs.retain(|spec| Arc::strong_count(spec) > 1);
            self.in_use = self.specs.len();
        }
        self.specs.insert(Arc::clone(spec));
    }

    /// How many different specs it keeps, those that nobody uses any more included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.specs.len()
    }

    /// True when it keeps none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.specs.is_empty()
    }
}
