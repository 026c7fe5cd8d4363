//! The last events of this life, so that a follower who was away briefly can go on where it stood.

use std::collections::VecDeque;
use std::sync::Arc;

use protocol::event::Event;
use protocol::id::Cursor;

/// Events kept: more than anybody is sent at once.
const EVENTS_MAX: usize = 1024;

/// Events sent at once to a follower that comes back. More would overflow its queue (1024 frames)
/// before it has read any, and it would be cut and come back for the same ones, for ever.
const RESUME_MAX: u64 = 512;

/// A bounded tail of a host's events.
#[derive(Debug, Default)]
pub struct EventRing {
    events: VecDeque<Arc<Event>>,
}

/// How a follower goes on.
#[derive(Debug, PartialEq, Eq)]
pub enum Resume {
    /// With these events, which follow directly on its cursor.
    From(Vec<Arc<Event>>),
    /// With a fresh inventory: its cursor is of another life or too far back.
    Inventory,
}

impl EventRing {
    /// Adds the next event.
    pub fn push(&mut self, event: Arc<Event>) {
        self.events.push_back(event);
        if self.events.len() > EVENTS_MAX {
            self.events.pop_front();
        }
    }

    /// What a follower at `cursor` needs to reach `present`.
    #[must_use]
    pub fn resume(&self, cursor: Cursor, present: Cursor) -> Resume {
        if cursor.epoch != present.epoch || cursor > present {
            return Resume::Inventory;
        }
        let missing = present.seq - cursor.seq;
        if missing > RESUME_MAX {
            return Resume::Inventory;
        }
        let kept = u64::try_from(self.events.len()).unwrap_or(u64::MAX);
        match usize::try_from(missing) {
            Ok(missing) if missing as u64 <= kept => {
                Resume::From(self.events.range(self.events.len() - missing..).cloned().collect())
            }
            _ => Resume::Inventory,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::event::Fact;
    use protocol::id::{Epoch, HostId, JobId};

    fn at(epoch: u64, seq: u64) -> Cursor {
        Cursor { epoch: Epoch(epoch), seq }
    }

    fn ring(events: u64) -> EventRing {
        let mut ring = EventRing::default();
        for seq in 1..=events {
            ring.push(Arc::new(Event {
                host: HostId::new("h1").unwrap(),
                cursor: at(2, seq),
                at_ms: 0,
                fact: Fact::JobDeleted { job: JobId::new("j").unwrap() },
            }));
        }
        ring
    }

    #[test]
    fn a_follower_gets_exactly_what_it_missed() {
        let Resume::From(events) = ring(10).resume(at(2, 7), at(2, 10)) else {
            panic!("no resume")
        };
        let numbers: Vec<u64> = events.iter().map(|e| e.cursor.seq).collect();
        assert_eq!(numbers, [8, 9, 10]);
        assert_eq!(ring(10).resume(at(2, 10), at(2, 10)), Resume::From(vec![]));
    }

    #[test]
    fn another_life_the_future_or_too_long_ago_gets_an_inventory() {
        assert_eq!(ring(10).resume(at(1, 7), at(2, 10)), Resume::Inventory);
        assert_eq!(ring(10).resume(at(2, 11), at(2, 10)), Resume::Inventory);
        let long = EVENTS_MAX as u64 + 10;
        assert_eq!(ring(long).resume(at(2, 5), at(2, long)), Resume::Inventory);
        let beyond = at(2, long - RESUME_MAX - 1);
        assert_eq!(ring(long).resume(beyond, at(2, long)), Resume::Inventory);
        assert!(matches!(ring(long).resume(beyond.next(), at(2, long)), Resume::From(_)));
    }
}
