//! When the machine's watchdog is fed (A5, R12): a feed lets the machine live for another bite, whatever
//! becomes of agent, keeper and kernel, so it is given only if every guest that may still run is covered
//! until then.
//!
//! That one rule is all: a keeper that hangs feeds no more; a guest that survives being killed is fed for no
//! longer than its cover lasts; and one that dies in time leaves the watchdog with nothing to guard.

use super::{Gate, Held, Keeper};

/// Taken off the end of a cover, for the time between looking at the clock and having fed.
const SLACK_MS: u64 = 250;

/// What is to be done with the watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leash {
    /// Nothing may be alive here that needs cover: the machine is never reset for anything else.
    Off,
    /// It is fed.
    Feed,
    /// It bites as late as is right, unless what is over is dead before.
    Starve,
}

impl Keeper {
    /// How long after a feed the machine is reset, in whole seconds as watchdogs have it. `None`: no trust
    /// document is known, or its terms are too short for one.
    ///
    /// D − 2K: long, so that a busy machine is not taken for a hung one and the next keeper is there in time; and
    /// less than what is left of a cover that is renewed in time, D less a renewal, even once a renewal was
    /// lost, so that it is fed always.
    #[must_use]
    pub fn bite_ms(&self) -> Option<u64> {
        let trust = self.trust.as_ref()?;
        let seconds = trust.term_ms.saturating_sub(2 * trust.kill_ms) / 1_000;
        (seconds > 0).then_some(seconds * 1_000)
    }

    /// Whether a watchdog that bites so long after a feed is to be fed now.
    #[must_use]
    pub fn leash(&self, now_ms: u64, bite_ms: u64) -> Leash {
        let may_run = |held: &&Held| matches!(held.gate, Gate::Open | Gate::Sealing);
        let alive = self.holds.values().filter(may_run);
        match alive.map(|held| self.dead_by_ms(held)).min() {
            None => Leash::Off,
            Some(dead_by_ms) if now_ms + bite_ms + SLACK_MS <= dead_by_ms => Leash::Feed,
            Some(_) => Leash::Starve,
        }
    }

    /// When a guest has to be dead at the latest: arbiters may let another host begin then. 0: nobody knows.
    fn dead_by_ms(&self, held: &Held) -> u64 {
        let kill_ms = self.trust.as_ref().map_or(0, |trust| trust.kill_ms);
        match self.closes_ms(held) {
            0 => 0,
            closes_ms => closes_ms + kill_ms,
        }
    }
}
