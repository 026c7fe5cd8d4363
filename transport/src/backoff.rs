//! How long to wait before trying again: exponential with full jitter, bounded, reset by success.
//!
//! Pure: the caller brings the random value and does the waiting. Full jitter (anything between
//! nothing and the bound) spreads a thousand hosts that lost the same server at the same moment
//! better than a fixed share does.

use std::time::Duration;

/// Grows with each failure until it reaches its bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// Bounds grow from `base`, doubling, to `max`.
    #[must_use]
    pub fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, failures: 0 }
    }

    /// Counts a failure and says how long to wait, given a random value in 0..1.
    pub fn next(&mut self, random: f64) -> Duration {
        let bound = self.bound();
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(random.clamp(0.0, 1.0))
    }

    /// The longest wait that [`Backoff::next`] could answer now.
    #[must_use]
    pub fn bound(&self) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.max)
    }

    /// Failures since the last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// It worked: start from `base` next time.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A random value in 0..1 for [`Backoff::next`], from the system's generator.
///
/// # Panics
/// When the system has no randomness to give, without which no key would be safe either.
#[must_use]
pub fn random_unit() -> f64 {
    let bits = getrandom::u32().expect("the kernel always has random numbers");
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn waits_double_up_to_the_bound_and_start_over() {
        let mut backoff = Backoff::new(MS(100), MS(1000));
        let waits: Vec<_> = (0..6).map(|_| backoff.next(1.0)).collect();
        assert_eq!(waits, [MS(100), MS(200), MS(400), MS(800), MS(1000), MS(1000)]);
        backoff.reset();
        assert_eq!(backoff.next(0.5), MS(50));
    }

    #[test]
    fn a_million_failures_do_not_overflow() {
        let mut backoff = Backoff::new(MS(100), MS(1000));
        for _ in 0..1_000_000 {
            assert!(backoff.next(random_unit()) <= MS(1000));
        }
    }
}
