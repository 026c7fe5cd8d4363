//! Which VMs come first when not all can run.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::JobId;

/// How much a VM matters beside others: 1 (least) to 100 (most), 50 unless it is said otherwise.
///
/// Of VMs that have lost their host the ones with more are started first, and one with more may have a VM end that
/// has less and is preemptible. A host asks it of nothing. The scale is Nomad's (job specification, `priority`).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "u8", into = "u8")]
pub struct Priority(#[schemars(range(min = 1, max = 100))] u8);

/// What is changed of how a VM stands to others: `POST /v1/jobs/{id}/rank` on a host. 202 with the job, 200 when it
/// is so already. What is left out stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rank {
    /// How much it matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Whether it may be stopped so that one with a higher priority fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preemptible: Option<bool>,
}

/// For whom a VM is stopped that is preemptible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Preemptor {
    /// The job that is to have its room.
    pub job: JobId,
    /// How much that one matters: more than the one that is stopped.
    pub priority: Priority,
}

/// A number that is no priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("priority {0}: use 1, which comes last, to 100; 50 is what VMs have that say nothing")]
pub struct NoPriority(pub u8);

impl Priority {
    /// The most.
    pub const MAX: Self = Self(100);
}

impl Default for Priority {
    fn default() -> Self {
        Self(50)
    }
}

impl TryFrom<u8> for Priority {
    type Error = NoPriority;

    fn try_from(number: u8) -> Result<Self, NoPriority> {
        match number {
            1..=100 => Ok(Self(number)),
            _ => Err(NoPriority(number)),
        }
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> u8 {
        priority.0
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_a_hundred_priorities_and_half_is_what_is_not_said() {
        for number in [1, 50, 100] {
            let priority: Priority = serde_json::from_str(&number.to_string()).unwrap();
            assert_eq!(u8::from(priority), number);
            assert_eq!(serde_json::to_string(&priority).unwrap(), number.to_string());
        }
        for number in ["0", "101", "-1", "1.5", "\"50\"", "256"] {
            assert!(serde_json::from_str::<Priority>(number).is_err(), "{number} was taken");
        }
        assert_eq!(Priority::default(), Priority::try_from(50).unwrap());
    }
}
