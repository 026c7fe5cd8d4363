//! The one task that owns the core: takes inputs in order, publishes views and deltas.
//!
//! Decides that a reader gets an immutable view, made when one is asked for: each one published makes
//! the next change of a row copy what the two share, thousands of times a second if it were made for
//! whoever might ask. No subscriber delays another or the writer: deltas go into one ring, encoded
//! once, and each subscriber reads from it. A frame of a host is passed on as it came; nothing is
//! written as JSON twice.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use protocol::event::Frame;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use transport::stream::{Encoded, Pulse, close};
use transport::{CancellationToken, Clock, Endpoint, FrameSender, Frames};

use crate::core::{Core, Effect, HostStatus, Input, Source};
use crate::metrics::Metrics;
use crate::packed::PackedView;
use crate::ring::Ring;

/// Inputs waiting for the writer. Followers wait when it is full, and TCP holds their hosts back.
pub(crate) const ORDERS_MAX: usize = 1024;

/// Inputs between two looks at the clock, so that a burst is merged before it is shown.
const BATCH_MAX: usize = 256;

/// Signs of life told to the core at a time. All of 10 000 hosts at once would hold up whatever
/// else happens for 20 ms.
const ALIVE_MAX: usize = 64;

/// How often time is told to the core; freshness is late by this at most.
const TICK_INTERVAL: Duration = Duration::from_millis(250);

/// Ticks between two looks at who has given a sign of life: an age is wrong by this at most.
const PULSE_TICKS: u64 = 4;

/// What is known about the rows is told anew to who asks after this time if it has changed. Making it
/// looks at every host, which others wait for.
const STATUS_CHANGED_MS: u64 = 250;

/// The same if only ages have.
const STATUS_AGED_MS: u64 = 1_000;

/// What the writer is asked.
pub(crate) enum Order {
    /// Take this into the view.
    Input(Input),
    /// Take this frame into the view, and pass the text on if it is news.
    Frame {
        /// From whom.
        source: Source,
        /// What it says.
        frame: Frame,
        /// The same as text.
        text: Encoded,
    },
    /// Show the view as it is now, and what is known about it.
    Show(oneshot::Sender<Arc<Shown>>),
}

/// What everybody may read at any time.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// The rows as they were when somebody asked last.
    pub(crate) shown: ArcSwap<Shown>,
    /// What happened of late.
    pub(crate) ring: Ring,
    /// Each row's age, every now and then, for monitors that follow this one.
    pub(crate) ages: watch::Sender<Arc<[Encoded]>>,
    /// What is counted.
    pub(crate) metrics: Metrics,
}

/// The rows, and the position in the ring up to which they are true.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) view: PackedView,
    pub(crate) position: u64,
    /// What is known about them.
    pub(crate) status: Arc<Status>,
}

impl std::ops::Deref for Shown {
    type Target = PackedView;

    fn deref(&self) -> &PackedView {
        &self.view
    }
}

/// What is known about the view as a whole.
#[derive(Debug, Default)]
pub(crate) struct Status {
    /// The position in the ring up to which this is true; the view is never older.
    pub(crate) position: u64,
    /// Everybody named has been heard, or given up.
    pub(crate) is_complete: bool,
    /// What it waits for.
    pub(crate) waiting_for: Vec<String>,
    /// How fresh each row is.
    pub(crate) hosts: Vec<HostStatus>,
}

/// A follower at work.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Where its source may answer.
    pub(crate) endpoints: watch::Receiver<Vec<Endpoint>>,
    /// Its stream, while one is open.
    pub(crate) line: Option<Line>,
}

/// A follower's open stream.
#[derive(Debug)]
pub(crate) struct Line {
    pulse: Pulse,
    /// Signs of life that had come on it when last looked.
    signs: u64,
    /// Cuts it, which its follower sees at once.
    sender: FrameSender,
}

impl Line {
    pub(crate) fn of(frames: &Frames) -> Self {
        Self { pulse: frames.pulse(), signs: 0, sender: frames.sender() }
    }

    /// Whether a sign of life has come since this was last asked.
    fn has_beaten(&mut self) -> bool {
        let signs = self.pulse.signs();
        std::mem::replace(&mut self.signs, signs) != signs
    }
}

/// Followers at work.
pub(crate) type Connections = Arc<DashMap<Source, Connection>>;

/// The writer.
pub(crate) struct Writer {
    pub(crate) core: Core,
    pub(crate) clock: Clock,
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) published: Arc<Published>,
    pub(crate) connections: Connections,
}

/// What has changed since it was last published.
#[derive(Default)]
struct Unpublished {
    deltas: Vec<Encoded>,
    /// Who has asked for the view.
    asked: Vec<oneshot::Sender<Arc<Shown>>>,
    /// What was told about it has changed.
    is_status_old: bool,
    /// When that was made; `None` if never.
    status_ms: Option<u64>,
    ticks: u64,
    /// Sources that gave a sign of life and are still to be told to the core.
    alive: VecDeque<Source>,
}

impl Unpublished {
    fn is_status_due(&self, now_ms: u64) -> bool {
        let Some(made_ms) = self.status_ms else { return true };
        let age_ms = now_ms.saturating_sub(made_ms);
        age_ms >= STATUS_AGED_MS || self.is_status_old && age_ms >= STATUS_CHANGED_MS
    }
}

/// Asks for the view; `None` when this monitor is just ending.
pub(crate) async fn ask(orders: &mpsc::Sender<Order>) -> Option<Arc<Shown>> {
    let (tell, told) = oneshot::channel();
    orders.send(Order::Show(tell)).await.ok()?;
    told.await.ok()
}

impl Writer {
    /// Works until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unpublished = Unpublished::default();
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut stopped = pin!(shutdown.cancelled());
        loop {
            tokio::select! {
                biased;
                () = &mut stopped => return,
                _ = ticks.tick() => self.tick(&mut unpublished),
                number = self.orders.recv_many(&mut batch, BATCH_MAX) => {
                    if number == 0 {
                        // Everybody who could give an order is gone.
                        return;
                    }
                    self.collect(&mut batch).await;
                    self.work(&mut batch, &mut unpublished);
                    // Whoever is never idle must not forget who lives.
                    self.tell_alive(&mut unpublished);
                }
                () = std::future::ready(()), if !unpublished.alive.is_empty() => {
                    self.tell_alive(&mut unpublished);
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Lets the followers who can go on do so first, and takes what they bring: what happens at once
    /// on many hosts is then told to each subscriber at once, not by a wake-up and a write for each
    /// event. Where nobody can go on this costs a microsecond.
    async fn collect(&mut self, batch: &mut Vec<Order>) {
        tokio::task::yield_now().await;
        while batch.len() < BATCH_MAX
            && let Ok(order) = self.orders.try_recv()
        {
            batch.push(order);
        }
    }

    fn work(&mut self, batch: &mut Vec<Order>, unpublished: &mut Unpublished) {
        let started = Instant::now();
        let now_ms = self.clock.now().mono_ms;
        let mut effects = Vec::new();
        for order in batch.drain(..) {
            let (input, mut text) = match order {
                Order::Show(tell) => {
                    unpublished.asked.push(tell);
                    continue;
                }
                Order::Frame { source, frame, text } => {
                    (Input::Frame { source, frame }, Some(text))
                }
                Order::Input(input) => {
                    let read = match &input {
                        Input::Read { inventory, .. } => Some(Frame::Inventory(inventory.clone())),
                        _ => None,
                    };
                    (input, read.as_ref().map(Encoded::of))
                }
            };
            unpublished.is_status_old |= !is_only_news(&input);
            self.core.handle(now_ms, input, &mut effects);
            for effect in effects.drain(..) {
                self.perform(effect, &mut text, &mut unpublished.deltas);
            }
        }
        self.publish_deltas(unpublished);
        if !unpublished.asked.is_empty() {
            self.show(now_ms, unpublished);
        }
        self.published.metrics.merge_seconds.observe(started.elapsed().as_secs_f64());
    }

    fn tick(&mut self, unpublished: &mut Unpublished) {
        let now_ms = self.clock.now().mono_ms;
        let mut effects = Vec::new();
        unpublished.ticks += 1;
        // Whose sign of life is still to be told is not asked for another.
        if unpublished.ticks.is_multiple_of(PULSE_TICKS) && unpublished.alive.is_empty() {
            for mut connection in self.connections.iter_mut() {
                if connection.line.as_mut().is_some_and(Line::has_beaten) {
                    unpublished.alive.push_back(connection.key().clone());
                }
            }
        }
        self.core.handle(now_ms, Input::Tick, &mut effects);
        for effect in effects {
            unpublished.is_status_old |= matches!(effect, Effect::Publish(_));
            self.perform(effect, &mut None, &mut unpublished.deltas);
        }
        self.publish_deltas(unpublished);
    }

    fn tell_alive(&mut self, unpublished: &mut Unpublished) {
        let now_ms = self.clock.now().mono_ms;
        let mut effects = Vec::new();
        let number = unpublished.alive.len().min(ALIVE_MAX);
        for source in unpublished.alive.drain(..number) {
            self.core.handle(now_ms, Input::Alive { source }, &mut effects);
        }
        for effect in effects {
            self.perform(effect, &mut None, &mut unpublished.deltas);
        }
        self.publish_deltas(unpublished);
    }

    fn publish_deltas(&self, unpublished: &mut Unpublished) {
        self.published.ring.append(unpublished.deltas.drain(..));
    }

    /// Tells everybody who has asked.
    fn show(&self, now_ms: u64, unpublished: &mut Unpublished) {
        let position = self.published.ring.append(std::iter::empty());
        let status = match unpublished.is_status_due(now_ms) {
            true => {
                (unpublished.status_ms, unpublished.is_status_old) = (Some(now_ms), false);
                Arc::new(self.status(now_ms, position))
            }
            false => Arc::clone(&self.published.shown.load().status),
        };
        let shown = Arc::new(Shown { view: self.core.view().clone(), position, status });
        self.published.shown.store(Arc::clone(&shown));
        for tell in unpublished.asked.drain(..) {
            // Whoever asked may have gone.
            let _ = tell.send(Arc::clone(&shown));
        }
    }

    fn status(&self, now_ms: u64, position: u64) -> Status {
        Status {
            position,
            is_complete: self.core.is_complete(now_ms),
            waiting_for: self.core.waiting_for(now_ms),
            hosts: self.core.statuses(),
        }
    }

    fn perform(&self, effect: Effect, text: &mut Option<Encoded>, deltas: &mut Vec<Encoded>) {
        match effect {
            Effect::PassOn => {
                self.published.metrics.merged.inc();
                deltas.extend(text.take());
            }
            Effect::Publish(frame) => deltas.push(Encoded::of(&frame)),
            Effect::PublishAges => {
                if self.published.ages.receiver_count() > 0 {
                    let ages = self.core.ages(self.clock.now().mono_ms);
                    self.published.ages.send_replace(ages.iter().map(Encoded::of).collect());
                }
            }
            Effect::Resync(source) => {
                self.published.metrics.gaps.inc();
                self.cut(&source, close::GAP, "something was missed");
            }
            Effect::Quarantine { source, why } => {
                tracing::warn!(%source, "stream is quarantined: {why}");
                self.published.metrics.quarantines.inc();
                self.cut(&source, close::DISTRUSTED, &why);
            }
        }
    }

    /// Has a follower begin again.
    fn cut(&self, source: &Source, code: u16, why: &str) {
        // One whose stream has just ended begins again anyway.
        if let Some(line) = self.connections.get(source).as_ref().and_then(|c| c.line.as_ref()) {
            line.sender.cut(code, why);
        }
    }
}

/// Inputs that arrive by the thousand and change no more of the status than the next tick tells.
fn is_only_news(input: &Input) -> bool {
    matches!(input, Input::Alive { .. } | Input::Frame { frame: Frame::Event(_), .. })
}
