//! The one task that owns the core: takes inputs in order, publishes views and deltas.
//!
//! Decides that readers never wait (they load an immutable view) and that no subscriber delays
//! another: a full queue cuts its owner, who comes back for a fresh start.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use protocol::event::Frame;
use protocol::view::View;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use transport::stream::{Encoded, FrameSender, close};
use transport::{CancellationToken, Clock};

use crate::core::{Core, Effect, HostStatus, Input, Source};

/// Inputs waiting for the writer. Followers wait when it is full, and TCP holds their hosts back.
pub(crate) const ORDERS_MAX: usize = 1024;

/// Inputs between two publications, so that a burst is merged before it is shown.
const BATCH_MAX: usize = 256;

/// Deltas waiting for one subscriber: about a second of a busy cluster's events.
const DELTAS_MAX: usize = 1024;

/// How often time is told to the core; freshness is late by this at most.
const TICK_INTERVAL: Duration = Duration::from_millis(250);

/// What the writer is asked.
pub(crate) enum Order {
    /// Take this into the view.
    Input(Input),
    /// Tell this subscriber everything from now on.
    Subscribe {
        /// To cut it when it does not keep up.
        stream: FrameSender,
        /// Whether it wants to hear each row's age regularly, as monitors do.
        wants_ages: bool,
        /// Where to begin.
        reply: oneshot::Sender<Subscription>,
    },
}

/// A subscriber's start: the view of now, and every delta after it.
pub(crate) struct Subscription {
    /// Everything known now.
    pub(crate) view: View,
    /// How fresh it is.
    pub(crate) ages: Vec<Frame>,
    /// What comes after.
    pub(crate) deltas: mpsc::Receiver<Encoded>,
}

/// What everybody may read at any time.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// The rows.
    pub(crate) view: ArcSwap<View>,
    /// What is known about them.
    pub(crate) status: ArcSwap<Status>,
}

/// What is known about the view as a whole.
#[derive(Debug, Default)]
pub(crate) struct Status {
    /// Everybody named has been heard, or given up.
    pub(crate) is_complete: bool,
    /// What it waits for.
    pub(crate) waiting_for: Vec<String>,
    /// How fresh each row is.
    pub(crate) hosts: Vec<HostStatus>,
}

/// What the writer tells a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Something was missed: open again without a cursor.
    Resync,
    /// It is not believed: open again after a while.
    Quarantine,
}

/// Followers at work.
pub(crate) type Connections = Arc<DashMap<Source, mpsc::Sender<Command>>>;

/// The writer.
pub(crate) struct Writer {
    pub(crate) core: Core,
    pub(crate) clock: Clock,
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) published: Arc<Published>,
    pub(crate) connections: Connections,
}

struct Subscriber {
    stream: FrameSender,
    wants_ages: bool,
    deltas: mpsc::Sender<Encoded>,
}

impl Writer {
    /// Works until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut subscribers = Vec::new();
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => batch.push(Order::Input(Input::Tick)),
                _ = self.orders.recv_many(&mut batch, BATCH_MAX) => {}
            }
            if batch.is_empty() {
                // Everybody who could give an order is gone.
                return;
            }
            self.work(&mut batch, &mut subscribers);
        }
    }

    fn work(&mut self, batch: &mut Vec<Order>, subscribers: &mut Vec<Subscriber>) {
        let now_ms = self.clock.now().mono_ms;
        let mut is_status_old = false;
        let mut effects = Vec::new();
        for order in batch.drain(..) {
            match order {
                Order::Input(input) => {
                    is_status_old |= !is_only_news(&input);
                    self.core.handle(now_ms, input, &mut effects);
                    for effect in effects.drain(..) {
                        self.perform(effect, subscribers);
                    }
                }
                Order::Subscribe { stream, wants_ages, reply } => {
                    let (deltas, receiver) = mpsc::channel(DELTAS_MAX);
                    let (view, ages) = (self.core.view().clone(), self.core.ages(now_ms));
                    if reply.send(Subscription { view, ages, deltas: receiver }).is_ok() {
                        subscribers.push(Subscriber { stream, wants_ages, deltas });
                    }
                }
            }
        }
        self.published.view.store(Arc::new(self.core.view().clone()));
        if is_status_old {
            self.published.status.store(Arc::new(Status {
                is_complete: self.core.is_complete(now_ms),
                waiting_for: self.core.waiting_for(now_ms),
                hosts: self.core.statuses(),
            }));
        }
    }

    fn perform(&self, effect: Effect, subscribers: &mut Vec<Subscriber>) {
        match effect {
            Effect::Publish(frame) => {
                let encoded = Encoded::of(&frame);
                subscribers.retain(|subscriber| subscriber.push(&encoded));
            }
            Effect::PublishAges(frames) => {
                if subscribers.iter().any(|subscriber| subscriber.wants_ages) {
                    for encoded in frames.iter().map(Encoded::of) {
                        subscribers.retain(|s| !s.wants_ages || s.push(&encoded));
                    }
                }
                subscribers.retain(|subscriber| !subscriber.stream.is_over());
            }
            Effect::Resync(source) => self.command(&source, Command::Resync),
            Effect::Quarantine { source, why } => {
                tracing::warn!(%source, "stream is quarantined: {why}");
                self.command(&source, Command::Quarantine);
            }
        }
    }

    fn command(&self, source: &Source, command: Command) {
        if let Some(follower) = self.connections.get(source) {
            // A full queue holds the same command already.
            let _ = follower.try_send(command);
        }
    }
}

impl Subscriber {
    /// False when it is no subscriber any more.
    fn push(&self, encoded: &Encoded) -> bool {
        match self.deltas.try_send(encoded.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.stream.cut(close::SLOW, "subscriber did not keep up");
                false
            }
        }
    }
}

/// Inputs that arrive by the thousand and change no more of the status than the next tick tells.
fn is_only_news(input: &Input) -> bool {
    matches!(input, Input::Alive { .. } | Input::Frame { frame: Frame::Event(_), .. })
}
