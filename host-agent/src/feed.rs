//! What the outside sees of the agent: the published inventory, recent events, and subscribers.
//!
//! Fed by the shell only after what it shows is durable. A subscriber that does not keep up is cut
//! and comes back with its cursor; it never delays another.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use protocol::event::{Event, Frame};
use protocol::host::{Host, Inventory};
use protocol::id::{Cursor, HostId, JobId};
use protocol::job::{Job, JobState};
use protocol::view::{HostRow, Merge, View};
use tokio::sync::watch;
use transport::lines::LineSender;
use transport::stream::{Cut, Encoded, FrameSender};
use uuid::Uuid;

use crate::core::{EventRing, Resume};

/// The agent's public face.
pub(crate) struct Feed {
    published: Mutex<Published>,
    /// Told of each event; what it was is asked for.
    changes: watch::Sender<()>,
}

struct Published {
    /// Of this host alone. Nothing is kept of its rows anywhere else: a change would copy them.
    view: View,
    host: HostId,
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
        let host = inventory.host.id.clone();
        view.merge_inventory(inventory);
        let ring = EventRing::default();
        let published = Mutex::new(Published { view, host, ring, subscribers: Vec::new() });
        Self { published, changes: watch::Sender::new(()) }
    }

    /// Applies the next event and tells all subscribers.
    ///
    /// # Panics
    /// When events do not follow each other, which only a fault of ours can cause.
    pub(crate) fn publish(&self, event: Event) {
        let mut published = self.lock();
        let merged = published.view.merge_event(&event);
        let at = published.row().cursor;
        assert_eq!(merged, Merge::Applied, "event {} after {at}", event.cursor);
        if !published.subscribers.is_empty() {
            let (at, encoded) = (Some(event.cursor), Encoded::of(&Frame::Event(event.clone())));
            published.subscribers.retain(|subscriber| subscriber.push(at, &encoded).is_ok());
        }
        published.ring.push(Arc::new(event));
        drop(published);
        self.changes.send_replace(());
    }

    /// Changes when something has.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Sends a newcomer all it needs to catch up, and from then on every event.
    pub(crate) fn subscribe(&self, from: Option<Cursor>, subscriber: Subscriber) {
        let mut published = self.lock();
        let resume = from.map_or(Resume::Inventory, |cursor| {
            published.ring.resume(cursor, published.row().cursor)
        });
        let told = |event: &Arc<Event>| (Some(event.cursor), Frame::Event(Event::clone(event)));
        let mut frames: Vec<(Option<Cursor>, Frame)> = match resume {
            Resume::From(events) => events.iter().map(told).collect(),
            Resume::Inventory => {
                let inventory = Inventory::from(published.row().clone());
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
        self.row().into()
    }

    /// The host as published.
    #[must_use]
    pub(crate) fn host(&self) -> Arc<Host> {
        Arc::clone(&self.lock().row().host)
    }

    /// One job as published.
    #[must_use]
    pub(crate) fn job(&self, id: &JobId) -> Option<Arc<Job>> {
        self.lock().row().jobs.get(id).cloned()
    }

    /// All jobs as published.
    #[must_use]
    pub(crate) fn jobs(&self) -> Vec<Job> {
        self.row().jobs.values().map(|job| Job::clone(job)).collect()
    }

    /// Jobs by their domains.
    #[must_use]
    pub(crate) fn jobs_by_domain(&self) -> BTreeMap<Uuid, JobId> {
        let by_domain = |job: &Arc<Job>| Some((job.domain_uuid?, job.id.clone()));
        self.row().jobs.values().filter_map(by_domain).collect()
    }

    /// The state of each job.
    #[must_use]
    pub(crate) fn states(&self) -> Vec<JobState> {
        self.row().jobs.values().map(|job| job.state).collect()
    }

    /// How many follow its events now.
    #[must_use]
    pub(crate) fn subscribers(&self) -> usize {
        self.lock().subscribers.iter().filter(|subscriber| !subscriber.is_over()).count()
    }

    /// What is published now, to be read without keeping others from it.
    fn row(&self) -> HostRow {
        self.lock().row().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Published> {
        self.published.lock().expect("no holder of this lock panics")
    }
}

impl Published {
    fn row(&self) -> &HostRow {
        self.view.host(&self.host).expect("the view begins with this host, and forgets none")
    }
}
