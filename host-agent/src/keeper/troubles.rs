//! What has happened to a host's keepers, for people: in the host's health and in its metrics.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// How long a keeper that hung is spoken of after it was replaced: who looks once a day learns it from the
/// metrics and the log, who looks after an alarm learns it here.
const TOLD_MS: u64 = 3_600_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Troubles(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Since when the keeper that is there has been known to hang.
    hangs_since_ms: Option<u64>,
    replaced: usize,
    replaced_ms: u64,
    /// Why the watchdog is not fed, in the keeper's words.
    watchdog: Option<String>,
}

impl Troubles {
    /// The keeper was found silent.
    pub(super) fn keeper_hangs(&self, now_ms: u64) {
        self.lock().hangs_since_ms.get_or_insert(now_ms);
    }

    /// The keeper that is there does not hang.
    pub(super) fn keeper_speaks(&self) {
        self.lock().hangs_since_ms = None;
    }

    /// It is dead.
    pub(super) fn keeper_is_replaced(&self, now_ms: u64) {
        let mut known = self.lock();
        known.hangs_since_ms = None;
        known.replaced += 1;
        known.replaced_ms = now_ms;
    }

    /// What it has said of its watchdog is over with it.
    pub(super) fn keeper_is_gone(&self) {
        self.lock().watchdog = None;
    }

    /// The keeper says what is wrong with its watchdog; `None`: nothing any more.
    pub(super) fn watchdog_ails(&self, ailment: Option<String>) {
        self.lock().watchdog = ailment;
    }

    /// See [`super::Warden::replaced`].
    pub(super) fn replaced(&self) -> usize {
        self.lock().replaced
    }

    /// What somebody should look after.
    pub(super) fn ailments(&self, now_ms: u64) -> Vec<String> {
        let known = self.lock();
        let hangs = known.hangs_since_ms.map(|since_ms| {
            format!(
                "the keeper has hung for {} s and is not dead; VMs with on_loss = stop run on while they are \
                 covered, and none starts here",
                now_ms.saturating_sub(since_ms) / 1000
            )
        });
        let ago_ms = now_ms.saturating_sub(known.replaced_ms);
        let is_told = known.replaced > 0 && ago_ms < TOLD_MS;
        let replaced = is_told.then(|| {
            format!(
                "a keeper hung and was replaced {} min ago, the {}. since the agent began, and the \
                 next goes on from what it kept; look why: in DATA-DIR/keeper/log, and whether this machine is short of CPU time",
                ago_ms / 60_000,
                known.replaced
            )
        });
        hangs.into_iter().chain(replaced).chain(known.watchdog.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keeper_that_hung_is_spoken_of_until_an_hour_after_it_was_replaced() {
        let troubles = Troubles::default();
        assert_eq!(troubles.ailments(1_000), [""; 0]);
        troubles.keeper_hangs(1_000);
        let told = troubles.ailments(4_000);
        assert!(told[0].starts_with("the keeper has hung for 3 s"), "{told:?}");
        troubles.keeper_is_replaced(4_000);
        troubles.watchdog_ails(Some("the dog is out".to_owned()));
        let told = troubles.ailments(64_000);
        assert!(told[0].starts_with("a keeper hung and was replaced 1 min ago"), "{told:?}");
        assert_eq!((told[1].as_str(), troubles.replaced()), ("the dog is out", 1));
        troubles.keeper_is_gone();
        assert_eq!(troubles.ailments(4_000 + TOLD_MS), [""; 0]);
    }
}
