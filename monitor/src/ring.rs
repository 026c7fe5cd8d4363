//! The last deltas of the view, encoded once, from which every subscriber reads at its own pace.
//!
//! Decides how far a subscriber may fall behind: as far as the ring reaches back, whatever the
//! number of subscribers. Each costs the writer nothing; one that falls off the end is told so.
//!
//! ```text
//!   oldest                                     newest
//!     │ delta 41 │ 42 │ 43 │ 44 │ 45 │ 46 │ 47 │ ◀── writer appends, oldest fall off
//!                     ▲              ▲
//!             a slow subscriber   a fast one         position 40: fallen off, must start anew
//! ```

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use tokio::sync::watch;
use transport::stream::Encoded;

/// Bytes of deltas that are kept: several seconds of ten thousand busy hosts, so that a newcomer
/// who is still reading the whole view does not miss what happens meanwhile.
pub(crate) const RING_BYTES_MAX: usize = 32 << 20;

/// Deltas that are kept, for when they are small: each host's change of freshness, several times.
pub(crate) const RING_DELTAS_MAX: usize = 1 << 16;

/// The ring holds no more what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Behind;

/// Deltas, numbered from 1. A position is the number of the last delta that somebody has.
#[derive(Debug)]
pub(crate) struct Ring {
    kept: Mutex<Kept>,
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    deltas: VecDeque<Encoded>,
    /// Where the next ones are put.
    room: BytesMut,
    /// Position before the oldest delta kept.
    before: u64,
    bytes: usize,
}

impl Default for Ring {
    fn default() -> Self {
        Self { kept: Mutex::default(), newest: watch::channel(0).0 }
    }
}

impl Ring {
    /// Adds deltas and wakes subscribers; the position after them.
    pub(crate) fn append(&self, deltas: impl Iterator<Item = Encoded>) -> u64 {
        let mut kept = self.lock();
        let before = kept.newest();
        for delta in deltas {
            kept.push(&delta);
        }
        let newest = kept.newest();
        drop(kept);
        if newest != before {
            self.newest.send_replace(newest);
        }
        newest
    }

    /// Up to `max` deltas after a position.
    pub(crate) fn after(&self, position: u64, max: usize) -> Result<Vec<Encoded>, Behind> {
        let kept = self.lock();
        let skip = position.checked_sub(kept.before).ok_or(Behind)?;
        let skip = usize::try_from(skip).map_or(kept.deltas.len(), |n| n.min(kept.deltas.len()));
        Ok(kept.deltas.iter().skip(skip).take(max).cloned().collect())
    }

    /// Whether a follower who stands there can go on.
    pub(crate) fn reaches(&self, position: u64) -> bool {
        let kept = self.lock();
        (kept.before..=kept.newest()).contains(&position)
    }

    /// Tells the newest position, again and again.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Waits until the delta after a position is gone.
    pub(crate) async fn fallen_behind(&self, position: u64) {
        let mut newest = self.watch();
        while self.lock().before <= position {
            if newest.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn newest(&self) -> u64 {
        self.before + self.deltas.len() as u64
    }

    fn push(&mut self, delta: &Encoded) {
        self.bytes += delta.as_str().len();
        self.deltas.push_back(delta.kept_in(&mut self.room));
        while self.bytes > RING_BYTES_MAX || self.deltas.len() > RING_DELTAS_MAX {
            let Some(oldest) = self.deltas.pop_front() else { return };
            self.bytes -= oldest.as_str().len();
            self.before += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deltas(numbers: std::ops::Range<usize>) -> impl Iterator<Item = Encoded> {
        numbers.map(|n| Encoded::of(&n))
    }

    fn texts(deltas: &[Encoded]) -> Vec<&str> {
        deltas.iter().map(Encoded::as_str).collect()
    }

    #[test]
    fn everybody_reads_on_from_where_they_stand() {
        let ring = Ring::default();
        assert_eq!(ring.append(deltas(1..6)), 5);
        assert_eq!(texts(&ring.after(3, 10).unwrap()), ["4", "5"]);
        assert_eq!(texts(&ring.after(0, 2).unwrap()), ["1", "2"]);
        assert!(ring.after(5, 10).unwrap().is_empty());
        assert!(ring.reaches(0) && ring.reaches(5) && !ring.reaches(6));
    }

    #[test]
    fn who_is_too_far_behind_is_told_so() {
        let ring = Ring::default();
        ring.append(deltas(0..RING_DELTAS_MAX + 10));
        assert!(ring.after(9, 1).is_err());
        assert!(!ring.reaches(9) && ring.reaches(10));
        assert_eq!(texts(&ring.after(10, 1).unwrap()), ["10"]);
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes_too() {
        let ring = Ring::default();
        let large = "x".repeat(RING_BYTES_MAX / 4);
        ring.append((0..10).map(|_| Encoded::of(&large)));
        assert!(ring.after(6, 10).is_err());
        assert_eq!(ring.after(7, 10).unwrap().len(), 3);
    }
}
