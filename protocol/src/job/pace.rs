//! How a running guest is sent to another host: how fast, and for how long it may stand still.
//!
//! Memory is sent in passes while the guest goes on: all of it first, then again and again what it has
//! written meanwhile, until the rest can be sent within the time that it may stand still.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::resources::Bytes;

const MIB: u64 = 1 << 20;

/// How a guest is sent. What is left away is for its host to choose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pace {
    /// At most so many bytes a second, of memory and as many of each disk that is copied. Rounded down to
    /// whole MiB. Without it the sending host's own limit counts, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_bytes_s: Option<u64>,
    /// For how long the guest may stand still at the end, in ms; without it, for 1000. It is 300 first,
    /// and doubled up to this whenever a pass has left no less to send than one before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime_ms: Option<u32>,
    /// The guest's CPUs are slowed, more and more, as long as it writes faster than can be sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto_converge: bool,
}

impl Pace {
    /// For how long a guest may stand still at the end when nobody says.
    pub const DOWNTIME_MS: u32 = 1_000;
    /// The longest that may be asked for: what stands still for longer may as well be saved.
    pub const DOWNTIME_MS_MAX: u32 = 600_000;

    /// True when all is left to the host.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// For how long the guest may stand still at the end, in ms.
    #[must_use]
    pub fn downtime_ms(&self) -> u32 {
        self.downtime_ms.unwrap_or(Self::DOWNTIME_MS)
    }

    /// What is wrong with it, in words that say what would do.
    pub fn check(&self) -> Result<(), String> {
        if let Some(asked) = self.bandwidth_bytes_s.filter(|asked| *asked < MIB) {
            return Err(format!("a bandwidth of {asked} B/s: it is at least 1MiB a second"));
        }
        let most = Self::DOWNTIME_MS_MAX;
        match self.downtime_ms {
            Some(asked) if asked == 0 || asked > most => Err(format!(
                "a downtime of {asked} ms: it is at least 1 ms and at most {most} ms; what may stand still for longer can be stopped and started elsewhere"
            )),
            _ => Ok(()),
        }
    }
}

/// How the sending of a guest's memory goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Passes {
    /// Which pass over the memory it is; the first sends all of it.
    pub pass: u32,
    /// Bytes of memory still to be sent.
    pub left_bytes: u64,
    /// Bytes a second that the guest writes; 0 before the end of the first pass.
    pub written_bytes_s: u64,
    /// Bytes a second that are sent.
    pub sent_bytes_s: u64,
    /// For how long the guest may stand still at the end, in ms, by now.
    pub downtime_ms: u32,
    /// By how many percent its CPUs are slowed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub throttle_percent: u8,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_zero(percent: &u8) -> bool {
    *percent == 0
}

impl fmt::Display for Passes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pass, left_bytes, written_bytes_s, sent_bytes_s, downtime_ms, throttle_percent } =
            *self;
        let whole = |bytes: u64| Bytes(if bytes < MIB { bytes } else { bytes / MIB * MIB });
        write!(f, "pass {pass} over its memory, {} left", whole(left_bytes))?;
        if written_bytes_s > 0 {
            let (written, sent) = (whole(written_bytes_s), whole(sent_bytes_s));
            write!(f, "; it writes {written} a second and {sent} are sent")?;
        }
        if throttle_percent > 0 {
            write!(f, ", slowed by {throttle_percent} %")?;
        }
        write!(f, "; it may stand still for {downtime_ms} ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_would_do() {
        let pace = |bandwidth_bytes_s, downtime_ms| Pace {
            bandwidth_bytes_s,
            downtime_ms,
            auto_converge: false,
        };
        assert_eq!(Pace::default().check(), Ok(()));
        assert_eq!(pace(Some(MIB), Some(1)).check(), Ok(()));
        assert_eq!(pace(None, Some(Pace::DOWNTIME_MS_MAX)).check(), Ok(()));
        let said = |pace: Pace| pace.check().unwrap_err();
        assert!(said(pace(Some(MIB - 1), None)).contains("at least 1MiB a second"));
        assert!(said(pace(None, Some(0))).contains("at least 1 ms"));
        assert!(said(pace(None, Some(Pace::DOWNTIME_MS_MAX + 1))).contains("at most 600000 ms"));
    }

    #[test]
    fn an_agent_of_before_is_told_nothing_that_it_does_not_know() {
        let (json, back) = (serde_json::to_string(&Pace::default()), serde_json::from_str("{}"));
        assert_eq!((json.unwrap().as_str(), back.unwrap()), ("{}", Pace::default()));
        assert!(serde_json::from_str::<Pace>(r#"{"speed":1}"#).is_err());
    }

    #[test]
    fn passes_are_told_in_words() {
        let first = Passes {
            pass: 1,
            left_bytes: 100 * MIB + 17,
            written_bytes_s: 0,
            sent_bytes_s: 0,
            downtime_ms: 300,
            throttle_percent: 0,
        };
        let said = "pass 1 over its memory, 100MiB left; it may stand still for 300 ms";
        assert_eq!(first.to_string(), said);
        let later = Passes {
            pass: 7,
            left_bytes: 40 * MIB,
            written_bytes_s: 90 * MIB,
            sent_bytes_s: 64 * MIB + 5,
            downtime_ms: 600,
            throttle_percent: 20,
        };
        let said = "pass 7 over its memory, 40MiB left; it writes 90MiB a second and 64MiB are sent, slowed by 20 %; it may stand still for 600 ms";
        assert_eq!(later.to_string(), said);
    }
}
