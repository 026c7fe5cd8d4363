//! Follows one source for ever: connects, resumes, backs off.
//!
//! Decides when a stream is given up and when it is opened again; what its frames are worth is the
//! core's decision. The same code follows a host and another monitor. A source that says nothing is
//! pinged on its stream; the writer looks at the pulse of all streams at once.
//!
//! ```text
//!            ┌───────────── back-off with jitter ◀── ended / silent / no history in time
//!            ▼                                             │
//!   connect (3 s a url) ──▶ opened ──▶ frames and signs of life
//!            ▲                             │ gap: at once, without cursor
//!            └── longer back-off ◀─────────┘ quarantined
//! ```

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use protocol::event::Frame;
use protocol::id::{Cursor, HostId};
use serde::Deserialize;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use transport::backoff::random_unit;
use transport::client::Patience;
use transport::stream::{Encoded, Liveness, StreamError, close, connect_stream_direct};
use transport::{Backoff, Client, Endpoint, Frames, with_causes};

use crate::check::check;
use crate::core::{Input, Source};
use crate::newer::{self, Newer, Reading};
use crate::writer::{Connections, Line, Order, Published};

/// First wait after a failure; many followers of one lost network are spread over it.
const RETRY_MIN: Duration = Duration::from_millis(250);

/// Longest wait after failures: a host that is back is seen within this.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// First wait after a hostile frame.
const QUARANTINE_MIN: Duration = Duration::from_secs(2);

/// Longest wait after hostile frames.
const QUARANTINE_MAX: Duration = Duration::from_secs(120);

/// A source that has said nothing for 1.5 to 3 s is asked for a sign of life, so that a living one
/// is never older than [`crate::core::FRESH_MS`], even if one answer is late. One that does not
/// answer is connected to anew after 6 to 7.5 s: the stream may hang on a path that is gone, while
/// another works.
const LIVENESS: Liveness =
    Liveness { ask_after: Duration::from_millis(1_500), lost_after: Duration::from_millis(4_500) };

/// How long history may pause before its end (the `Current` frame).
const HISTORY_PAUSE_MAX: Duration = Duration::from_secs(20);

/// Hosts on the network answer in milliseconds; a longer wait only delays the next address.
const PATIENCE: Patience =
    Patience { connect: Duration::from_secs(3), call: Duration::from_secs(3) };

/// A stream that lasted this long was worth opening; a shorter one counts as one more failure, so
/// that a host whose streams break again and again is not asked again and again.
const STEADY_MIN: Duration = Duration::from_secs(5);

/// Connections that are begun at the same time. Proving keys costs CPU time: thousands at once would
/// all be late, and be given up by both ends after the work was done.
pub(crate) const TURNS_MAX: usize = 128;

/// How long a connection under way keeps others from being begun. One that takes longer waits for
/// its host, not for us, and hosts that never answer must not cost the others their turn.
const TURN_MAX: Duration = Duration::from_millis(200);

/// Follows one source.
pub(crate) struct Follower {
    pub(crate) source: Source,
    pub(crate) client: Client,
    /// Where the source may answer, best first, each pinned.
    pub(crate) endpoints: watch::Receiver<Vec<Endpoint>>,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) published: Arc<Published>,
    /// Where its open stream is kept for the writer, who sees its pulse and may cut it.
    pub(crate) connections: Connections,
    /// Who may begin to connect now.
    pub(crate) turns: Arc<Semaphore>,
    /// Where a host's stream can be resumed.
    pub(crate) cursor: Option<Cursor>,
    /// Where a monitor's stream can be resumed.
    pub(crate) mark: Option<Mark>,
}

/// Where a subscriber stands in a monitor's stream; fields of its `current` frames.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Mark {
    stream: String,
    seq: u64,
}

/// Why a stream is no longer followed.
enum End {
    /// It ended, or was given up.
    Over(String),
    /// It must start from an inventory.
    Resync,
    /// It is not believed.
    Quarantine,
    /// The monitor stops.
    Stop,
}

impl Follower {
    /// Works until dropped, or until the writer is gone.
    pub(crate) async fn run(mut self) {
        let mut retry = Backoff::new(RETRY_MIN, RETRY_MAX);
        let mut quarantine = Backoff::new(QUARANTINE_MIN, QUARANTINE_MAX);
        let mut may_resume = true;
        let client = self.client.with_patience(PATIENCE);
        loop {
            let (end, is_steady) = match self.connect(&client, may_resume).await {
                Ok(frames) => {
                    may_resume = true;
                    self.hand_over(Some(&frames));
                    let ended = self.pump(frames).await;
                    self.hand_over(None);
                    ended
                }
                Err(why) => (End::Over(why), false),
            };
            if is_steady {
                retry.reset();
            }
            let is_distrusted = matches!(end, End::Quarantine);
            let wait = match end {
                End::Stop => return,
                End::Over(why) => {
                    tracing::debug!(source = %self.source, "stream is over: {why}");
                    let source = self.source.clone();
                    if !self.tell(Input::Ended { source, why }).await {
                        return;
                    }
                    retry.next(random_unit())
                }
                End::Resync => {
                    may_resume = false;
                    retry.next(random_unit())
                }
                // Without jitter's lower half: distrust must not end at once by chance.
                End::Quarantine => quarantine.next(0.5 + random_unit() / 2.0),
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // A new address may be the one that works.
                changed = self.endpoints.changed(), if !is_distrusted => if changed.is_err() {
                    return;
                },
            }
        }
    }

    async fn connect(&mut self, client: &Client, may_resume: bool) -> Result<Frames, String> {
        let path = self.path(may_resume);
        let mut why = "discovery knows no address of it".to_owned();
        let endpoints = self.endpoints.borrow_and_update().clone();
        for endpoint in endpoints {
            let connecting = connect_stream_direct(client, &endpoint, &path, LIVENESS);
            match in_turn(&self.turns, connecting).await {
                Ok(frames) => {
                    let (source, url) = (self.source.clone(), endpoint.url.clone());
                    self.tell(Input::Opened { source, url }).await;
                    return Ok(frames);
                }
                Err(error) => why = with_causes(&error),
            }
        }
        Err(why)
    }

    fn path(&self, may_resume: bool) -> String {
        match &self.source {
            Source::Monitor(_) => {
                let from = self.mark.as_ref().filter(|_| may_resume);
                let from = from.map(|Mark { stream, seq }| format!("&stream={stream}&seq={seq}"));
                format!("/v1/events?ages=true&marks=true{}", from.unwrap_or_default())
            }
            Source::Host(_) => match self.cursor.filter(|_| may_resume) {
                Some(Cursor { epoch, seq }) => format!("/v1/events?epoch={epoch}&seq={seq}"),
                None => "/v1/events".to_owned(),
            },
        }
    }

    /// Lets the writer have, or no more have, the open stream.
    fn hand_over(&self, frames: Option<&Frames>) {
        if let Some(mut connection) = self.connections.get_mut(&self.source) {
            connection.line = frames.map(Line::of);
        }
    }

    /// Passes frames on until the stream ends; also says whether it was a success, which is when
    /// history ended and the present lasted for a while.
    async fn pump(&mut self, mut frames: Frames) -> (End, bool) {
        let opened = Instant::now();
        let mut paused = pin!(sleep(HISTORY_PAUSE_MAX));
        let mut is_caught_up = false;
        let end = loop {
            tokio::select! {
                biased;
                next = frames.next_text() => {
                    let text = match next {
                        Some(Ok(text)) => text,
                        Some(Err(error)) => break self.ended(error).await,
                        None => break End::Over("the stream was closed".to_owned()),
                    };
                    if !is_caught_up {
                        paused.as_mut().reset(Instant::now() + HISTORY_PAUSE_MAX);
                    }
                    match self.take(text, &mut is_caught_up).await {
                        Ok(()) => {}
                        Err(end) => break end,
                    }
                }
                () = &mut paused, if !is_caught_up => {
                    let seconds = HISTORY_PAUSE_MAX.as_secs();
                    break End::Over(format!("its history stood still for {seconds} s"));
                }
            }
        };
        (end, is_caught_up && opened.elapsed() > STEADY_MIN)
    }

    async fn ended(&self, error: StreamError) -> End {
        match error {
            // By the source, which no longer has what was asked for, or by the writer, who missed something.
            StreamError::Closed { code: close::GAP, .. } => End::Resync,
            // By the writer; or a source says it of us, of which the core knows nothing yet.
            StreamError::Closed { code: close::DISTRUSTED, reason: why } => {
                let source = self.source.clone();
                match self.tell(Input::Ended { source, why }).await {
                    true => End::Quarantine,
                    false => End::Stop,
                }
            }
            error if is_hostile(&error) => self.distrust(error.to_string()).await,
            error => End::Over(error.to_string()),
        }
    }

    async fn distrust(&self, why: String) -> End {
        let source = self.source.clone();
        match self.tell(Input::Hostile { source, why }).await {
            true => End::Quarantine,
            false => End::Stop,
        }
    }

    /// Reads a text and hands it to the writer; an error is the stream's end.
    async fn take(&mut self, text: Encoded, is_caught_up: &mut bool) -> Result<(), End> {
        let (frame, text) = match newer::read(&text) {
            Ok(Reading::Frame(frame)) => (frame, text),
            Ok(Reading::Partly(frame, newer)) => {
                self.note(newer).await?;
                // Not the text: who reads on must not stumble over the same words.
                let text = Encoded::of(&frame);
                (frame, text)
            }
            Ok(Reading::Skipped(newer)) => {
                // It says nothing that is understood, and lives.
                let source = self.source.clone();
                return match self.tell(Input::Alive { source }).await {
                    true => self.note(newer).await,
                    false => Err(End::Stop),
                };
            }
            Ok(Reading::Missed(newer)) => {
                let is_its_own = newer.host.as_ref().is_some_and(|host| self.may_speak_for(host));
                self.note(newer).await?;
                return Err(match is_its_own {
                    true => End::Resync,
                    false => self.distrust("it speaks for another host".to_owned()).await,
                });
            }
            Err(error) => return Err(self.distrust(error.to_string()).await),
        };
        if let Err(why) = check(&self.source, &frame) {
            return Err(self.distrust(why).await);
        }
        match &frame {
            Frame::Inventory(inventory) => self.cursor = Some(inventory.cursor),
            Frame::Event(event) => self.cursor = Some(event.cursor),
            Frame::Current => {
                *is_caught_up = true;
                self.mark = text.parse().ok();
            }
            Frame::Freshness { .. } => {}
        }
        let order = Order::Frame { source: self.source.clone(), frame, text };
        self.orders.send(order).await.map_err(|_| End::Stop)
    }

    /// Says loudly that this monitor is older than what it follows.
    async fn note(&self, newer: Newer) -> Result<(), End> {
        self.published.metrics.newer.inc();
        let own = match &self.source {
            Source::Host(host) => Some(host.clone()),
            Source::Monitor(_) => None,
        };
        let host = newer.host.filter(|host| self.may_speak_for(host)).or(own);
        let Some(host) = host else { return Ok(()) };
        match self.tell(Input::Newer { host, what: newer.what }).await {
            true => Ok(()),
            false => Err(End::Stop),
        }
    }

    fn may_speak_for(&self, host: &HostId) -> bool {
        match &self.source {
            Source::Host(own) => own == host,
            Source::Monitor(_) => true,
        }
    }

    /// False when the monitor stops.
    async fn tell(&self, input: Input) -> bool {
        self.orders.send(Order::Input(input)).await.is_ok()
    }
}

/// Waits for a turn, and keeps it for a while.
async fn in_turn<T>(turns: &Semaphore, connecting: impl Future<Output = T>) -> T {
    let turn = turns.acquire().await;
    tokio::pin!(connecting);
    match timeout(TURN_MAX, &mut connecting).await {
        Ok(connected) => connected,
        Err(_) => {
            drop(turn);
            connecting.await
        }
    }
}

/// A frame that is none, or one of a size that none has.
fn is_hostile(error: &StreamError) -> bool {
    match error {
        StreamError::Bad { .. } | StreamError::TooLarge { .. } => true,
        StreamError::Lost { .. } | StreamError::Closed { .. } => false,
    }
}
