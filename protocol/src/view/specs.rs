//! Specs by content: jobs that are asked for in the same words, as those of one template are, share
//! one spec. In a large view specs would take most of the memory otherwise.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use crate::job::JobSpec;

/// A pool with fewer specs than this is never swept.
const SWEEP_MIN: usize = 1024;

/// Every spec in use, once.
#[derive(Debug, Default)]
pub struct SpecPool {
    /// By a number made of the content. Two specs with one number share nothing, and the later stays.
    specs: BTreeMap<u64, Arc<JobSpec>>,
    /// How many were in use at the last sweep.
    in_use: usize,
}

impl SpecPool {
    /// Puts the pool's own spec of the same content in the place of this one.
    pub fn share(&mut self, spec: &mut Arc<JobSpec>) {
        let number = number_of(spec);
        if let Some(ours) = self.specs.get(&number).filter(|ours| *ours == spec) {
            *spec = Arc::clone(ours);
            return;
        }
        if self.specs.len() >= SWEEP_MIN.max(2 * self.in_use) {
            self.specs.retain(|_, spec| Arc::strong_count(spec) > 1);
            self.in_use = self.specs.len();
        }
        self.specs.insert(number, Arc::clone(spec));
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

fn number_of(spec: &JobSpec) -> u64 {
    let mut hasher = DefaultHasher::new();
    spec.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::VmSpec;

    fn spec(vcpus: u32) -> Arc<JobSpec> {
        Arc::new(JobSpec::vm(VmSpec { vcpus, ..VmSpec::default() }))
    }

    #[test]
    fn equal_specs_become_one() {
        let mut pool = SpecPool::default();
        let (mut a, mut b, mut other) = (spec(1), spec(1), spec(2));
        for spec in [&mut a, &mut b, &mut other] {
            pool.share(spec);
        }
        assert!(Arc::ptr_eq(&a, &b) && !Arc::ptr_eq(&a, &other));
        assert_eq!(pool.len(), 2);
    }

    #[test]
    fn specs_that_nobody_uses_are_let_go_in_time() {
        let mut pool = SpecPool::default();
        let mut kept = spec(0);
        pool.share(&mut kept);
        for vcpus in 1..10_000 {
            pool.share(&mut spec(vcpus));
        }
        assert!(pool.len() <= SWEEP_MIN, "{} are kept", pool.len());
        let mut again = spec(0);
        pool.share(&mut again);
        assert!(Arc::ptr_eq(&kept, &again));
    }
}
