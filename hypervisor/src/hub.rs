//! Handing events to subscribers without ever waiting for one.
//!
//! The publisher is libvirt's only event thread, so a full subscriber must cost it nothing. Each
//! channel keeps its last slot for [`WatchEvent::Overflowed`]: whoever reads on finds the marker
//! *after* everything it has room for, and lists again. Events dropped while the channel is full are
//! older than that listing, because the marker has not been read yet.

use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::event::{WATCH_EVENTS_MAX, WatchEvent};

/// The subscribers of one hypervisor.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    subscribers: Mutex<Vec<mpsc::Sender<WatchEvent>>>,
}

impl Hub {
    /// A new subscriber.
    pub(crate) fn watch(&self) -> mpsc::Receiver<WatchEvent> {
        let (sender, receiver) = mpsc::channel(WATCH_EVENTS_MAX + 1);
        self.lock().push(sender);
        receiver
    }

    /// Tells everybody, and forgets subscribers that are gone.
    pub(crate) fn publish(&self, event: &WatchEvent) {
        self.lock().retain(|subscriber| {
            let message = match subscriber.capacity() {
                0 | 1 => WatchEvent::Overflowed,
                _ => event.clone(),
            };
            match subscriber.try_send(message) {
                Ok(()) | Err(TrySendError::Full(_)) => true,
                Err(TrySendError::Closed(_)) => false,
            }
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<mpsc::Sender<WatchEvent>>> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_subscriber_finds_a_marker_after_what_it_has_room_for() {
        let hub = Hub::default();
        let mut slow = hub.watch();
        for _ in 0..WATCH_EVENTS_MAX + 5 {
            hub.publish(&WatchEvent::Reconnected);
        }
        for _ in 0..WATCH_EVENTS_MAX {
            assert_eq!(slow.try_recv(), Ok(WatchEvent::Reconnected));
        }
        assert_eq!(slow.try_recv(), Ok(WatchEvent::Overflowed));
        hub.publish(&WatchEvent::Reconnected);
        assert_eq!(slow.try_recv(), Ok(WatchEvent::Reconnected));
    }

    #[test]
    fn a_subscriber_that_left_is_forgotten() {
        let hub = Hub::default();
        drop(hub.watch());
        hub.publish(&WatchEvent::Reconnected);
        assert!(hub.lock().is_empty());
    }
}
