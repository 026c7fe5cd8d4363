//! Wake a sleeping host, so that a job fits there, or so that there is room before anything needs it.
//!
//! Decides that only a host which is known to be asleep is woken, and what that may cost. Nothing takes it back: a
//! host that is awake harms nobody, and whoever wants it asleep again says so.

use protocol::id::{HostId, JobId};
use protocol::subject::Subject;
use serde::{Deserialize, Serialize};

use crate::cost::Cost;
use crate::intent::Intent;
use crate::state::State;
use crate::steps::Blocker;

/// From the order until the host's agent is heard, as a rule: firmware and memory tests take most of it.
const TIME_MS: u64 = 120_000;

/// It may not come up. Less than of a host that may be gone, more than of one that is well.
const RISK: u64 = 5;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeHost {
    /// The host.
    pub host: HostId,
    /// What is to start there; the host's own name where it is woken for the room that it has.
    pub job: JobId,
}

impl WakeHost {
    /// For the room that it has.
    #[must_use]
    pub fn for_room(host: &HostId) -> Self {
        let subject = Subject::from(host.clone());
        Self { host: host.clone(), job: subject.job().clone() }
    }

    /// True when nothing in particular is to start there.
    #[must_use]
    pub fn is_for_room(&self) -> bool {
        self.job == *Subject::from(self.host.clone()).job()
    }

    pub(super) fn check(&self, state: &State<'_>) -> Result<(), Blocker> {
        if state.host(&self.host).is_none() {
            return Err(Blocker::UnknownHost);
        }
        if let Some(setback) = state.exclusion(&self.host) {
            return Err(Blocker::Setback { reason: setback.reason.clone() });
        }
        match state.intent(&self.host) {
            Some(Intent::Asleep) if !state.input().kept_asleep.contains(&self.host) => Ok(()),
            Some(intent) => Err(Blocker::Intended { intent }),
            None => {
                let needed = format!("{} is awake", self.host.short());
                Err(Blocker::WrongState { state: None, needed })
            }
        }
    }

    pub(super) fn apply(&self, state: &mut State<'_>) {
        state.wake(&self.host);
    }

    pub(super) fn cost() -> Cost {
        Cost { risk: RISK, io_bytes: 0, time_ms: TIME_MS }
    }
}
