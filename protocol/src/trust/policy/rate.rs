//! How many of a tenant's VMs may be started within a time: the rule, and for how long a start counts.
//!
//! Who counts, and which part of it is whose, is the arbiters'.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most starts of a rate. An arbiter remembers each of them for as long as it counts.
pub const RATE_STARTS_MAX: u32 = 10_000;
/// Shortest time of a rate: much shorter ones would be lost in the term that is added to each.
pub const RATE_WITHIN_S_MIN: u32 = 60;
/// Longest: an arbiter that starts anew allows none for so long.
pub const RATE_WITHIN_S_MAX: u32 = 86_400;

/// At most so many starts in any time of this length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartRate {
    /// How many, from 1 to 10000.
    pub starts: u32,
    /// In how many seconds, from 60 to 86400.
    pub within_s: u32,
}

/// What is wrong with a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRate {
    /// None at all, or more than anybody counts.
    #[error(
        "start_rate.starts = {0}: use 1 to {RATE_STARTS_MAX}, or leave start_rate away for any number"
    )]
    Starts(u32),
    /// A time that is too short or too long.
    #[error("start_rate.within_s = {0}: use {RATE_WITHIN_S_MIN} to {RATE_WITHIN_S_MAX} seconds")]
    Within(u32),
}

impl StartRate {
    pub(super) fn validate(self) -> Result<(), NoRate> {
        if !(1..=RATE_STARTS_MAX).contains(&self.starts) {
            return Err(NoRate::Starts(self.starts));
        }
        match (RATE_WITHIN_S_MIN..=RATE_WITHIN_S_MAX).contains(&self.within_s) {
            true => Ok(()),
            false => Err(NoRate::Within(self.within_s)),
        }
    }

    /// For how many milliseconds of its own clock an arbiter counts a grant, so that what hosts make of grants
    /// keeps to the rate in real time: an offer is redeemed within D of its grant, so starts that are at most
    /// `within_s` apart have grants that are at most that and D apart, and neither clock is wrong by more than ρ.
    #[must_use]
    pub fn counted_ms(self, term_ms: u64, clock_ppm: u64) -> u64 {
        let fast = 1_000_000 + clock_ppm;
        let slow = 1_000_000 - clock_ppm.min(999_999);
        let within_ms = u64::from(self.within_s) * 1_000;
        (within_ms.saturating_add(term_ms)).saturating_mul(fast).div_ceil(slow)
    }
}

impl fmt::Display for StartRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { starts, within_s } = *self;
        let noun = if starts == 1 { "start" } else { "starts" };
        write!(f, "{starts} {noun} in {}", span_words(u64::from(within_s) * 1_000))
    }
}

/// A time as people say it, in its two largest units, rounded up to seconds: `2 h 5 min`, `90 s`.
#[must_use]
pub fn span_words(ms: u64) -> String {
    let seconds = ms.div_ceil(1_000);
    let (minutes, hours) = (seconds / 60, seconds / 3_600);
    let pair = |large: u64, of: &str, small: u64, and: &str| match small {
        0 => format!("{large} {of}"),
        _ => format!("{large} {of} {small} {and}"),
    };
    match (hours, minutes) {
        (0, 0..2) if seconds != 60 => format!("{seconds} s"),
        (0, _) => pair(minutes, "min", seconds % 60, "s"),
        (..48, _) => pair(hours, "h", minutes % 60, "min"),
        _ => pair(hours / 24, "days", hours % 24, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_without_starts_or_of_no_usable_time_is_refused() {
        let rate = |starts, within_s| StartRate { starts, within_s }.validate();
        assert_eq!(rate(1, 60), Ok(()));
        assert_eq!(rate(10_000, 86_400), Ok(()));
        assert_eq!(rate(0, 60), Err(NoRate::Starts(0)));
        assert_eq!(rate(10_001, 60), Err(NoRate::Starts(10_001)));
        assert_eq!(rate(1, 59), Err(NoRate::Within(59)));
        assert_eq!(rate(1, 86_401), Err(NoRate::Within(86_401)));
    }

    #[test]
    fn a_start_counts_for_its_time_and_a_term_by_the_slowest_clock() {
        let rate = StartRate { starts: 2, within_s: 600 };
        assert_eq!(rate.counted_ms(9_000, 0), 609_000);
        // Whoever measures 2 ‰ too fast, while the others measure 2 ‰ too slow.
        assert_eq!(rate.counted_ms(9_000, 2_000), 611_441);
    }

    #[test]
    fn times_are_told_in_two_units() {
        let told = [0, 1, 59_000, 60_000, 90_000, 120_000, 125_500, 3_600_000, 8_100_000];
        let words: Vec<String> = told.into_iter().map(span_words).collect();
        assert_eq!(
            words,
            ["0 s", "1 s", "59 s", "1 min", "90 s", "2 min", "2 min 6 s", "1 h", "2 h 15 min"]
        );
        assert_eq!(span_words(3 * 86_400_000 + 3_600_000), "3 days 1 h");
        assert_eq!(StartRate { starts: 1, within_s: 600 }.to_string(), "1 start in 10 min");
    }
}
