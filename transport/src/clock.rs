//! The only place in the workspace where clocks are read; everybody else is handed a [`Now`].
//!
//! Decides which clocks: deadlines use time since boot including sleep (a suspended laptop's leases
//! must run out), people are shown wall time. What a time means is left to the cores.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// One reading of both clocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Milliseconds since this machine booted, sleep included; never goes back. For deadlines.
    pub mono_ms: u64,
    /// Milliseconds since 1970 UTC; may jump. Only for people and log lines.
    pub wall_ms: u64,
}

/// Where time comes from: the machine, or a test.
#[derive(Debug, Clone)]
pub struct Clock(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Real,
    Manual(Arc<Mutex<Now>>),
}

impl Clock {
    /// The machine's clocks.
    #[must_use]
    pub fn real() -> Self {
        Self(Kind::Real)
    }

    /// A clock that stands at `start` until a test moves it; clones move together.
    #[must_use]
    pub fn manual(start: Now) -> Self {
        Self(Kind::Manual(Arc::new(Mutex::new(start))))
    }

    /// Reads the clocks.
    ///
    /// # Panics
    /// When the kernel's clock says a time before its own start, which Linux never does.
    #[must_use]
    pub fn now(&self) -> Now {
        match &self.0 {
            Kind::Real => Now { mono_ms: mono_ms(), wall_ms: wall_ms() },
            Kind::Manual(now) => *now.lock().expect("no holder of this lock panics"),
        }
    }

    /// Moves a manual clock forward, both readings alike.
    ///
    /// # Panics
    /// When called on the real clock: time cannot be moved.
    pub fn advance_ms(&self, ms: u64) {
        let Kind::Manual(now) = &self.0 else { panic!("only a manual clock can be moved") };
        let mut now = now.lock().expect("no holder of this lock panics");
        now.mono_ms += ms;
        now.wall_ms += ms;
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::real()
    }
}

fn mono_ms() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let ms = time.tv_sec * 1000 + time.tv_nsec / 1_000_000;
    u64::try_from(ms).expect("time since boot is never negative")
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_time_does_not_go_back() {
        let clock = Clock::real();
        let first = clock.now();
        let second = clock.now();
        assert!(second.mono_ms >= first.mono_ms);
        assert!(first.wall_ms > 1_700_000_000_000, "the wall clock reads {}", first.wall_ms);
    }

    #[test]
    fn manual_time_moves_only_when_told() {
        let clock = Clock::manual(Now { mono_ms: 5, wall_ms: 100 });
        let other = clock.clone();
        other.advance_ms(10);
        assert_eq!(clock.now(), Now { mono_ms: 15, wall_ms: 110 });
    }
}
