//! What a scheduler has done since it began and how things stand, in numbers that an embedder may show.
//!
//! Decides what is counted and by which words, each of a closed list. How it is shown is the embedder's.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use protocol::api::{RunState, Want};
use protocol::id::HostId;
use protocol::view::Freshness;

use crate::follow::Picture;
use crate::run::{Answer, Input, No};

/// Upper ends of the buckets of [`Durations`], in seconds: from a start that needs no image to a move of
/// large disks.
pub const TOOK_S: [f64; 11] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];

/// How long runs took, from their acceptance to their end.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Durations {
    /// How many ended within each of [`TOOK_S`], and not within the one before.
    pub within: [u64; TOOK_S.len()],
    /// All of them together, in milliseconds.
    pub sum_ms: u64,
    /// How many.
    pub count: u64,
}

impl Durations {
    fn add(&mut self, took_ms: u64) {
        #[expect(clippy::cast_precision_loss, reason = "ms fit a double for 285 000 years")]
        let took_s = took_ms as f64 / 1000.0;
        if let Some(bucket) = TOOK_S.iter().position(|end| took_s <= *end) {
            self.within[bucket] += 1;
        }
        self.sum_ms = self.sum_ms.saturating_add(took_ms);
        self.count += 1;
    }
}

/// What has happened since the scheduler began.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    /// Runs that have ended, by [`Want::as_str`] and [`RunState::as_str`].
    pub ended: BTreeMap<(&'static str, &'static str), u64>,
    /// How long those took, by [`Want::as_str`].
    pub took: BTreeMap<&'static str, Durations>,
    /// Plans, by whom they were for (`run`, `upkeep`) and what came of them: `whole`, `lacking` (something
    /// stays unmet), `none` (no current view, or others were planned first).
    pub plans: BTreeMap<(&'static str, &'static str), u64>,
    /// Definite noes, by who said so (`host`, `arbiter`) and their word for it.
    pub refusals: BTreeMap<(&'static str, &'static str), u64>,
    /// Requests of which nobody knows what became: no answer, or none that tells.
    pub unclear: u64,
}

/// How things stand with a scheduler.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// What has happened.
    pub counts: Counts,
    /// Runs that have not ended, by [`Want::as_str`] and [`RunState::as_str`].
    pub open: BTreeMap<(&'static str, &'static str), u64>,
    /// What is kept true.
    pub kept: Kept,
    /// Hosts of the view that are fresh, stale, lost and asleep.
    pub hosts: [u64; 4],
    /// Whether the view is followed and whole.
    pub is_current: bool,
    /// How long it has not been, in milliseconds; 0 while it is.
    pub stale_ms: u64,
}

/// How expectations stand.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kept {
    /// Sets.
    pub sets: u64,
    /// Expectations by level (`must`, `should`, `wish`; `none` of what is not understood) and standing
    /// (`met`, `coming`, `mending`, `unmet`, `not_understood`, `unknown`).
    pub standings: BTreeMap<(&'static str, &'static str), u64>,
    /// Jobs that are left alone for a while after a mend that did not succeed, or that was hindered.
    pub resting: u64,
    /// Jobs that are left alone for a while because they were mended of late.
    pub calm: u64,
}

/// Counts as things happen.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Counts>);

impl Tally {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().expect("no holder of this lock panics")
    }

    pub(crate) fn read(&self) -> Counts {
        self.counts().clone()
    }

    pub(crate) fn ended(&self, want: &Want, state: RunState, took_ms: u64) {
        let mut counts = self.counts();
        *counts.ended.entry((want.as_str(), state.as_str())).or_default() += 1;
        counts.took.entry(want.as_str()).or_default().add(took_ms);
    }

    /// Plans of runs; other inputs are none.
    pub(crate) fn planned(&self, input: &Input) {
        let outcome = match input {
            Input::Planned { outcome, .. } => plan_word(outcome.report.is_empty()),
            Input::CannotPlan { .. } => "none",
            Input::Begin | Input::Answered { .. } | Input::Cancel | Input::Tick => return,
        };
        *self.counts().plans.entry(("run", outcome)).or_default() += 1;
    }

    pub(crate) fn planned_upkeep(&self, is_whole: bool) {
        *self.counts().plans.entry(("upkeep", plan_word(is_whole))).or_default() += 1;
    }

    pub(crate) fn answered(&self, answer: &Answer) {
        let mut counts = self.counts();
        let mut no = |by, why| *counts.refusals.entry((by, why)).or_default() += 1;
        match answer {
            Answer::Refused(No::Host(refusal, _)) => no("host", refusal.name()),
            Answer::Refused(No::Failed(_) | No::NotStarted(_)) => no("host", "failed"),
            Answer::Refused(No::EndedByCommand(_)) => no("host", "ended-by-command"),
            Answer::Refused(No::Arbiters(denials)) => {
                denials.iter().for_each(|(_, why)| no("arbiter", why.as_str()));
            }
            Answer::OfferOver { .. } => no("host", "offer-ended"),
            Answer::TooLate => no("host", "too-late"),
            Answer::Unclear { .. } => counts.unclear += 1,
            Answer::Done(_) | Answer::NotYet { .. } | Answer::ClaimLost { .. } => {}
        }
    }
}

fn plan_word(is_whole: bool) -> &'static str {
    if is_whole { "whole" } else { "lacking" }
}

impl Figures {
    /// With what the view says of itself.
    pub(crate) fn seen(
        mut self,
        now_ms: u64,
        picture: &Picture,
        is_asleep: impl Fn(&HostId) -> bool,
    ) -> Self {
        for (host, _) in picture.view.hosts() {
            let freshness = picture.heard.get(host).map(|heard| heard.freshness);
            let place = match freshness.unwrap_or(Freshness::Fresh) {
                _ if is_asleep(host) => 3,
                Freshness::Fresh => 0,
                Freshness::Stale => 1,
                Freshness::Lost => 2,
            };
            self.hosts[place] += 1;
        }
        self.is_current = picture.is_current;
        self.stale_ms = picture.stale_since_ms.map_or(0, |since| now_ms.saturating_sub(since));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_bucket_that_holds_it() {
        let mut took = Durations::default();
        for ms in [100, 101, 5_000, 4_000_000] {
            took.add(ms);
        }
        assert_eq!(took.within, [1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
        assert_eq!((took.count, took.sum_ms), (4, 4_005_201), "what is in none counts, too");
    }
}
