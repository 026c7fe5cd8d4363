//! The loss of any one host leaves room for what ran on it. Met when for every host that is not lost or off its VMs,
//! largest first, each find a host of the others with room by admission's own arithmetic ([`crate::rehearsal`]).
//! Each host that cannot be lost is a violation.

use serde::{Deserialize, Serialize};

use crate::rehearsal::Rehearsal;
use crate::rules::count;
use crate::state::State;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoseAnyHost {}

impl LoseAnyHost {
    #[expect(clippy::unused_self, reason = "one shape for every rule")]
    pub(super) fn violations(&self, state: &State<'_>) -> u32 {
        count(Rehearsal::of_hosts().in_state(state).stranding().count())
    }

    #[expect(clippy::unused_self, reason = "one shape for every rule")]
    pub(super) fn evidence(&self, state: &State<'_>) -> String {
        Rehearsal::of_hosts().in_state(state).to_string()
    }
}
