//! What the outside sees of the agent: the published inventory, recent events, and subscribers.
//!
//! Fed by the shell only after what it shows is durable. A subscriber that does not keep up is cut
//! and comes back with its cursor; it never delays another.

use std::sync::{Arc, Mutex, MutexGuard};

use protocol::event::{Event, Frame};
use protocol::host::{Host, Inventory};
use protocol::id::{Cursor, JobId};
use protocol::job::Job;
use protocol::view::{HostRow, Merge, View};
use transport::lines::LineSender;
use transport::stream::{Cut, Encoded, FrameSender};

use crate::core::{EventRing, Resume};

/// The agent's public face.
pub(crate) struct Feed(Mutex<Published>);

struct Published {
    view: View,
    row: HostRow,
    ring: EventRing,
    subscribers: Vec<Subscriber>,
}

/// Somebody who is told everything.
#[derive(Clone)]
pub(crate) enum Subscriber {
    /// Over WebSocket.
    Frames(FrameSender),
    /// As server-sent events, by the cursor of each.
    Lines(LineSender),
}

impl Subscriber {
    fn push(&self, at: Option<Cursor>, frame: &Encoded) -> Result<(), Cut> {
        match self {
            Self::Frames(frames) => frames.push_encoded(frame),
            Self::Lines(lines) => lines.push(at.map(|at| at.to_string()).as_deref(), frame),
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Frames(frames) => frames.is_over(),
            Self::Lines(lines) => lines.is_over(),
        }
    }
}

impl Feed {
    /// A feed that starts with this inventory.
    #[must_use]
    pub(crate) fn new(inventory: Inventory) -> Self {
        let mut view = View::default();
        view.merge_inventory(inventory.clone());
        let row = HostRow::from(inventory);
        let ring = EventRing::default();
        Self(Mutex::new(Published { view, row, ring, subscribers: Vec::new() }))
    }

    /// Applies the next event and tells all subscribers.
    ///
    /// # Panics
    /// When events do not follow each other, which only a fault of ours can cause.
    pub(crate) fn publish(&self, event: Event) {
        let mut published = self.lock();
        let merged = published.view.merge_event(&event);
        assert_eq!(merged, Merge::Applied, "event {} after {}", event.cursor, published.row.cursor);
        if let Some(row) = published.view.host(&event.host).cloned() {
            published.row = row;
        }
        let (at, encoded) = (Some(event.cursor), Encoded::of(&Frame::Event(event.clone())));
        published.ring.push(Arc::new(event));
        published.subscribers.retain(|subscriber| subscriber.push(at, &encoded).is_ok());
    }

    /// Sends a newcomer all it needs to catch up, and from then on every event.
    pub(crate) fn subscribe(&self, from: Option<Cursor>, subscriber: Subscriber) {
        let mut published = self.lock();
        let resume = from.map_or(Resume::Inventory, |cursor| {
            published.ring.resume(cursor, published.row.cursor)
        });
        let told = |event: &Arc<Event>| (Some(event.cursor), Frame::Event(Event::clone(event)));
        let mut frames: Vec<(Option<Cursor>, Frame)> = match resume {
            Resume::From(events) => events.iter().map(told).collect(),
            Resume::Inventory => {
                let inventory = Inventory::from(published.row.clone());
                vec![(Some(inventory.cursor), Frame::Inventory(Box::new(inventory)))]
            }
        };
        frames.push((None, Frame::Current));
        let mut frames = frames.iter().map(|(at, frame)| (*at, Encoded::of(frame)));
        if frames.all(|(at, frame)| subscriber.push(at, &frame).is_ok()) {
            published.subscribers.push(subscriber);
        }
        published.subscribers.retain(|subscriber| !subscriber.is_over());
    }

    /// Everything, at the present cursor.
    #[must_use]
    pub(crate) fn inventory(&self) -> Inventory {
        let row = self.lock().row.clone();
        row.into()
    }

    /// The host as published.
    #[must_use]
    pub(crate) fn host(&self) -> Arc<Host> {
        Arc::clone(&self.lock().row.host)
    }

    /// One job as published.
    #[must_use]
    pub(crate) fn job(&self, id: &JobId) -> Option<Arc<Job>> {
        self.lock().row.jobs.get(id).cloned()
    }

    /// All jobs as published.
    #[must_use]
    pub(crate) fn jobs(&self) -> Vec<Job> {
        let row = self.lock().row.clone();
        row.jobs.values().map(|job| Job::clone(job)).collect()
    }

    /// How many follow its events now.
    #[must_use]
    pub(crate) fn subscribers(&self) -> usize {
        self.lock().subscribers.iter().filter(|subscriber| !subscriber.is_over()).count()
    }

    fn lock(&self) -> MutexGuard<'_, Published> {
        self.0.lock().expect("no holder of this lock panics")
    }
}
