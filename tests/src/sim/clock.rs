//! A machine's clocks as seen from real time: each has its own rate, which may drift, and a wall
//! clock that may jump.
//!
//! Real time is the simulator's own, in microseconds; no simulated process ever sees it.

use transport::Now;

/// One machine's clocks.
#[derive(Debug, Clone)]
pub struct MachineClock {
    base_real_us: u64,
    base_mono_us: u64,
    /// How much faster than real time, in parts per million.
    rate_ppm: i64,
    wall_offset_ms: u64,
}

/// 2026-01-01, so that wall times look like such.
const WALL_START_MS: u64 = 1_767_225_600_000;

impl MachineClock {
    /// A machine that booted some time ago and whose monotonic clock runs at this rate.
    #[must_use]
    pub fn new(booted_us_ago: u64, rate_ppm: i64) -> Self {
        let wall_offset_ms = WALL_START_MS;
        Self { base_real_us: 0, base_mono_us: booted_us_ago, rate_ppm, wall_offset_ms }
    }

    /// The monotonic clock in microseconds.
    #[must_use]
    pub fn mono_us(&self, real_us: u64) -> u64 {
        let passed = i128::from(real_us.saturating_sub(self.base_real_us));
        let local = passed * i128::from(1_000_000 + self.rate_ppm) / 1_000_000;
        self.base_mono_us + u64::try_from(local).unwrap_or(0)
    }

    /// Both clocks, as a process is handed them.
    #[must_use]
    pub fn now(&self, real_us: u64) -> Now {
        let mono_ms = self.mono_us(real_us) / 1000;
        Now { mono_ms, wall_ms: self.wall_offset_ms + real_us / 1000 }
    }

    /// How long a timer of this many local milliseconds takes in real time; rounded up, as a
    /// kernel does.
    #[must_use]
    pub fn real_us_of(&self, local_ms: u64) -> u64 {
        let local = i128::from(local_ms) * 1000 * 1_000_000;
        let real = local / i128::from(1_000_000 + self.rate_ppm) + 1;
        u64::try_from(real).unwrap_or(u64::MAX)
    }

    /// From now on the clock runs at another rate.
    pub fn drift(&mut self, real_us: u64, rate_ppm: i64) {
        self.base_mono_us = self.mono_us(real_us);
        self.base_real_us = real_us;
        self.rate_ppm = rate_ppm;
    }

    /// Somebody sets the wall clock; the monotonic one does not care.
    pub fn set_wall(&mut self, offset_ms: u64) {
        self.wall_offset_ms = offset_ms;
    }

    /// The machine boots: its monotonic clock begins at zero.
    pub fn boot(&mut self, real_us: u64) {
        self.base_mono_us = 0;
        self.base_real_us = real_us;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_clock_is_ahead_and_never_goes_back_when_it_drifts() {
        let mut clock = MachineClock::new(0, 2000);
        assert_eq!(clock.mono_us(1_000_000), 1_002_000);
        clock.drift(1_000_000, -2000);
        assert_eq!(clock.mono_us(1_000_000), 1_002_000);
        assert_eq!(clock.mono_us(2_000_000), 2_000_000);
        assert!(clock.real_us_of(1000) > 1_002_000);
    }
}
