//! How much a host remembers of jobs that have ended.
//!
//! Only of those that are history: nothing hangs on them any more, and nobody can start them again.
//! Which they are is the host's to say (`host_agent::core`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::refusal::Refusal;

/// Most ended jobs that a host can be told to remember: an inventory with all of them, and with the
/// living ones, still fits into one message.
pub const JOBS_MAX: u32 = 4_000;
/// Most bytes of their rows, for the same reason.
pub const BYTES_MAX: u64 = 16 << 20;
/// Least age at which a job is forgotten, in milliseconds, whatever else is configured: by then whoever
/// asked for it has been answered, and has stopped asking again.
pub const AGE_MS_MIN: u64 = 60_000;
/// Most age, in milliseconds: a year.
pub const AGE_MS_MAX: u64 = 365 * 24 * 3_600_000;

/// `PUT /v1/config/history` on a host: what it remembers of jobs that are history. The oldest are
/// forgotten as soon as any of the limits is passed. A body that is refused changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HistoryConfig {
    /// Which change of it; above the present one.
    pub version: u64,
    /// Most jobs.
    #[serde(default = "jobs_default")]
    pub jobs: u32,
    /// Most time since they ended, in milliseconds that the machine was on for; after a reboot of the
    /// machine it is counted anew.
    #[serde(default = "age_default")]
    pub age_ms: u64,
    /// Most bytes of their rows.
    #[serde(default = "bytes_default")]
    pub bytes: u64,
}

fn jobs_default() -> u32 {
    1_000
}

fn age_default() -> u64 {
    7 * 24 * 3_600_000
}

fn bytes_default() -> u64 {
    4 << 20
}

impl Default for HistoryConfig {
    /// A thousand jobs, a week, 4 MiB.
    fn default() -> Self {
        let (jobs, age_ms, bytes) = (jobs_default(), age_default(), bytes_default());
        Self { version: 0, jobs, age_ms, bytes }
    }
}

impl HistoryConfig {
    /// Checks everything that does not depend on a host.
    pub fn validate(&self) -> Result<(), Refusal> {
        let invalid = |message: String| Err(Refusal::Invalid { message });
        let Self { version: _, jobs, age_ms, bytes } = *self;
        if jobs > JOBS_MAX {
            return invalid(format!("jobs of {jobs}: a host remembers at most {JOBS_MAX}"));
        }
        if !(AGE_MS_MIN..=AGE_MS_MAX).contains(&age_ms) {
            return invalid(format!("age_ms of {age_ms}: use {AGE_MS_MIN} to {AGE_MS_MAX}"));
        }
        if bytes > BYTES_MAX {
            return invalid(format!("bytes of {bytes}: a host remembers at most {BYTES_MAX}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_as_it_is_by_default() {
        let config: HistoryConfig = serde_json::from_str(r#"{"version": 1, "jobs": 5}"#).unwrap();
        assert_eq!(config, HistoryConfig { version: 1, jobs: 5, ..HistoryConfig::default() });
        assert_eq!(config.validate(), Ok(()));
    }

    #[test]
    fn limits_that_no_host_could_keep_are_refused() {
        let default = HistoryConfig::default;
        for config in [
            HistoryConfig { jobs: JOBS_MAX + 1, ..default() },
            HistoryConfig { age_ms: AGE_MS_MIN - 1, ..default() },
            HistoryConfig { age_ms: AGE_MS_MAX + 1, ..default() },
            HistoryConfig { bytes: BYTES_MAX + 1, ..default() },
        ] {
            assert!(matches!(config.validate(), Err(Refusal::Invalid { .. })), "{config:?}");
        }
    }
}
