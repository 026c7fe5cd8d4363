//! A job that is to come to an end: what it runs in, and how long it may take.
//!
//! Its guest does the work and shuts down. A number that it writes to its second serial port
//! (`echo 0 > /dev/ttyS1`) before that is the job's exit code. How time is measured and what is done
//! when it is over is its host's business.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::InvalidSpec;
use crate::vm::{OnLoss, Restart, VmSpec};

/// Least time of either limit: hosts look once a second.
pub const LIMIT_MS_MIN: u64 = 1_000;
/// Most time of either limit: what runs for longer than a month is no job that ends.
pub const LIMIT_MS_MAX: u64 = 31 * 24 * 3_600_000;

/// A VM that runs to completion, once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OneOff {
    /// The machine it runs in.
    pub vm: VmSpec,
    /// Most time from its first instruction to its end, in milliseconds.
    pub deadline_ms: u64,
    /// Most time without a word on its console, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_ms: Option<u64>,
}

impl OneOff {
    /// Checks everything that does not depend on a host.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        self.vm.validate()?;
        if self.vm.restart != Restart::Never || self.vm.autostart {
            return Err(InvalidSpec::OneOffRestart);
        }
        if self.vm.on_loss != OnLoss::Keep {
            return Err(InvalidSpec::OneOffStop);
        }
        if self.vm.preemptible {
            return Err(InvalidSpec::OneOffPreemptible);
        }
        if self.vm.adopted.is_some() {
            return Err(InvalidSpec::OneOffAdopted);
        }
        let limits = [("deadline_ms", Some(self.deadline_ms)), ("idle_ms", self.idle_ms)];
        for (name, ms) in limits {
            if let Some(ms) = ms.filter(|ms| !(LIMIT_MS_MIN..=LIMIT_MS_MAX).contains(ms)) {
                return Err(InvalidSpec::Limit { name, ms });
            }
        }
        Ok(())
    }
}
