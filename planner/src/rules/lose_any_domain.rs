//! The loss of any one domain (rack, site) leaves room for what ran on its hosts: a domain is all hosts with one value
//! of a label, and all that do not say are one as well. Met when the VMs of each, largest first, find a host of the
//! others with room by admission's own arithmetic ([`crate::rehearsal`]). Each domain that cannot be lost is a violation.

use serde::{Deserialize, Serialize};

use crate::rehearsal::Rehearsal;
use crate::rules::count;
use crate::state::State;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoseAnyDomain {
    /// The label whose values are domains.
    pub domain: String,
}

impl LoseAnyDomain {
    pub(super) fn violations(&self, state: &State<'_>) -> u32 {
        count(self.rehearsed(state).stranding().count())
    }

    pub(super) fn evidence(&self, state: &State<'_>) -> String {
        self.rehearsed(state).to_string()
    }

    fn rehearsed(&self, state: &State<'_>) -> Rehearsal {
        Rehearsal::of_domains(&self.domain).in_state(state)
    }
}
