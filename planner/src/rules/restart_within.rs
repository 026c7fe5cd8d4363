//! The job would run again soon after the loss of its host. Met when the longest that may pass from the loss of the host on which it
//! is alive until it runs elsewhere is known and at most `within_s` seconds. It is known of a VM with `on_loss` of `stop` which has no
//! disks on its host: the term of the arbiters, and 8 s for the start ([`crate::terms`]). It is not known, and so not met, of one
//! that is kept, and of any where the plan was not told the terms. Whether there is room elsewhere is `lose_any_host`'s question.

use protocol::id::JobId;
use serde::{Deserialize, Serialize};

use crate::rules::home;
use crate::state::State;
use crate::terms::{NoBound, restart_ms_max};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartWithin {
    /// The job.
    pub job: JobId,
    /// Seconds.
    pub within_s: u64,
}

impl RestartWithin {
    pub(super) fn violations(&self, state: &State<'_>) -> u32 {
        let is_late = |bound: Result<u64, NoBound>| {
            bound.map_or(true, |ms| ms > self.within_s.saturating_mul(1_000))
        };
        u32::from(self.bound(state).is_some_and(is_late))
    }

    pub(super) fn evidence(&self, state: &State<'_>) -> String {
        let Self { job, within_s } = self;
        match self.bound(state) {
            None => String::new(),
            Some(Err(why)) => format!("{job} may not run again within {within_s} s: {why}"),
            Some(Ok(ms)) => {
                format!("{job} runs elsewhere within {} s of its host's loss", seconds(ms))
            }
        }
    }

    /// What would make it met.
    pub(crate) fn help(&self, state: &State<'_>) -> Option<String> {
        Some(match self.bound(state)? {
            Err(why) => why.help().to_owned(),
            Ok(ms) => {
                format!("{} s or more: the arbiters' term and a start take as long", seconds(ms))
            }
        })
    }

    /// How long it may take; `None` when it runs nowhere, or is no VM.
    fn bound(&self, state: &State<'_>) -> Option<Result<u64, NoBound>> {
        let host = home(state, &self.job)?;
        let placed = state.placed(&self.job, &host)?;
        let vm = placed.spec.as_vm()?;
        Some(restart_ms_max(state.input().terms, vm, &state.host(&host)?.host))
    }
}

fn seconds(ms: u64) -> u64 {
    ms.div_ceil(1_000)
}
