//! Asks silent peers for a sign of life: one look at many streams, in place of a timer for each.
//!
//! Decides when a peer is asked and when its stream is lost. Ten thousand streams with a timer each would
//! have their tasks woken thousands of times a second, only to find that their peers have spoken. Here one
//! task goes over all streams of a client or a server, a slice at a time so that nothing waits for
//! it, and wakes only who has to ask.
//!
//! ```text
//!  heard ◀── it spoke, or we are the ones who hold it up ──┐
//!    └── an interval of silence ──▶ asked ── no answer in time ──▶ lost
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::socket::Shared;
use super::{Liveness, StreamError};

/// Parts into which a round over all streams is cut.
const SLICES: usize = 32;

/// Looks after the streams of one client or server. Clones look after the same.
#[derive(Clone, Default)]
pub(crate) struct Keepalive(Arc<Mutex<BTreeMap<Duration, Round>>>);

/// All streams that are looked at once in the same interval.
#[derive(Default)]
struct Round {
    slices: [Vec<Watched>; SLICES],
    next: usize,
    /// Goes over the slices while there are any streams.
    walk: Option<JoinHandle<()>>,
}

/// A stream, and what is remembered of its peer's silence.
struct Watched {
    shared: Weak<Shared>,
    liveness: Liveness,
    /// What had come when last looked; `None` before the first look.
    heard: Option<u64>,
    /// Intervals since it was first asked.
    intervals: u32,
}

impl Keepalive {
    /// Looks after a stream until it has ended.
    pub(super) fn watch(&self, shared: &Arc<Shared>, liveness: Liveness) {
        let watched =
            Watched { shared: Arc::downgrade(shared), liveness, heard: None, intervals: 0 };
        let mut rounds = self.rounds();
        let round = rounds.entry(liveness.ask_after).or_default();
        // The shortest: however many streams are opened at once, they are not asked at once.
        if let Some(slice) = round.slices.iter_mut().min_by_key(|slice| slice.len()) {
            slice.push(watched);
        }
        // One that was started in a runtime that is no more looks after nobody.
        if round.walk.as_ref().is_none_or(JoinHandle::is_finished) {
            round.walk = Some(tokio::spawn(self.clone().walk(liveness.ask_after)));
        }
    }

    /// Goes over all streams that are looked at every `ask_after`, while there are any.
    async fn walk(self, ask_after: Duration) {
        let mut ticks = interval(ask_after / u32::try_from(SLICES).expect("a few"));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut rounds = self.rounds();
            let Some(round) = rounds.get_mut(&ask_after) else { return };
            let slice = &mut round.slices[round.next];
            slice.retain_mut(Watched::look);
            if slice.is_empty() {
                *slice = Vec::new();
            }
            round.next = (round.next + 1) % SLICES;
            if round.slices.iter().all(Vec::is_empty) {
                rounds.remove(&ask_after);
                return;
            }
        }
    }

    fn rounds(&self) -> MutexGuard<'_, BTreeMap<Duration, Round>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// Asks for a sign of life when there was none of late; false once the stream has ended.
    fn look(&mut self) -> bool {
        let Some(shared) = self.shared.upgrade() else { return false };
        if shared.end().is_some() {
            return false;
        }
        let heard = shared.heard.load(Ordering::Relaxed);
        if self.heard != Some(heard) || shared.is_held_up() {
            (self.heard, self.intervals) = (Some(heard), 0);
            return true;
        }
        let Liveness { ask_after, lost_after } = self.liveness;
        if self.intervals > 0 && ask_after * self.intervals >= lost_after {
            let ms = lost_after.as_millis();
            shared.has_ended(StreamError::lost(format!("no answer to a ping within {ms} ms")));
            return false;
        }
        self.intervals += 1;
        shared.ask();
        true
    }
}
