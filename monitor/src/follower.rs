//! Follows one source for ever: connects, resumes, notices silence, backs off.
//!
//! Decides when a stream is given up and when it is opened again; what its frames are worth is the
//! core's decision. The same code follows a host and another monitor.
//!
//! ```text
//!            ┌───────────── back-off with jitter ◀── ended / silent / no history in time
//!            ▼                                             │
//!   connect (3 s a url) ──▶ opened ──▶ frames and signs of life
//!            ▲                             │ gap: at once, without cursor
//!            └── longer back-off ◀─────────┘ quarantined
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use protocol::event::Frame;
use serde::de::IgnoredAny;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use transport::backoff::random_unit;
use transport::client::Patience;
use transport::stream::{StreamError, close};
use transport::{Backoff, CallError, Client, Endpoint, Frames, connect_stream};

use crate::check::check;
use crate::core::{Input, Source};
use crate::writer::{Command, Order, Published};

/// First wait after a failure; many followers of one lost network are spread over it.
const RETRY_MIN: Duration = Duration::from_millis(250);

/// Longest wait after failures: a host that is back is seen within this.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// First wait after a hostile frame.
const QUARANTINE_MIN: Duration = Duration::from_secs(2);

/// Longest wait after hostile frames.
const QUARANTINE_MAX: Duration = Duration::from_secs(120);

/// How often a source that says nothing is asked for a sign of life.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// A source without a sign of life for this long is connected to anew: the stream may hang on a
/// path that is gone, while another works.
const SILENCE_MAX: Duration = Duration::from_secs(7);

/// How long history may pause before its end (the `Current` frame).
const HISTORY_PAUSE_MAX: Duration = Duration::from_secs(20);

/// Hosts on the network answer in milliseconds; a longer wait only delays the next address.
const PATIENCE: Patience =
    Patience { connect: Duration::from_secs(3), call: Duration::from_secs(3) };

/// A stream that lasted this long was worth opening; a shorter one counts as one more failure, so
/// that a host whose streams break again and again is not asked again and again.
const STEADY_MIN: Duration = Duration::from_secs(5);

/// Commands waiting for a follower; each of them ends the stream, so one is enough.
pub(crate) const COMMANDS_MAX: usize = 1;

/// Follows one source.
pub(crate) struct Follower {
    pub(crate) source: Source,
    pub(crate) client: Client,
    /// Where the source may answer, best first, each pinned.
    pub(crate) endpoints: watch::Receiver<Vec<Endpoint>>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) published: Arc<Published>,
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
                Ok((frames, endpoint)) => {
                    // Commands given for an earlier stream are not meant for this one.
                    while self.commands.try_recv().is_ok() {}
                    may_resume = true;
                    self.pump(&client, frames, &endpoint).await
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

    async fn connect(
        &mut self,
        client: &Client,
        may_resume: bool,
    ) -> Result<(Frames, Endpoint), String> {
        let path = self.path(may_resume);
        let mut why = "discovery knows no address of it".to_owned();
        let endpoints = self.endpoints.borrow_and_update().clone();
        for endpoint in endpoints {
            match connect_stream(client, &endpoint, &path).await {
                Ok(frames) => {
                    let (source, url) = (self.source.clone(), endpoint.url.clone());
                    self.tell(Input::Opened { source, url }).await;
                    return Ok((frames, endpoint));
                }
                Err(error) => why = with_causes(&error),
            }
        }
        Err(why)
    }

    fn path(&self, may_resume: bool) -> String {
        let host = match &self.source {
            Source::Monitor(_) => return "/v1/events?ages=true".to_owned(),
            Source::Host(host) => host,
        };
        let view = self.published.view.load();
        match view.host(host).filter(|_| may_resume) {
            Some(row) => {
                format!("/v1/events?epoch={}&seq={}", row.cursor.epoch, row.cursor.seq)
            }
            None => "/v1/events".to_owned(),
        }
    }

    /// Passes frames and signs of life on until the stream ends; also says whether it was a
    /// success, which is when history ended and the present lasted for a while.
    async fn pump(
        &mut self,
        client: &Client,
        mut frames: Frames,
        endpoint: &Endpoint,
    ) -> (End, bool) {
        let mut probes = tokio::time::interval(PROBE_INTERVAL);
        probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let opened = Instant::now();
        let (mut heard, mut framed) = (opened, opened);
        let mut is_caught_up = false;
        let probe = probe(client, endpoint);
        tokio::pin!(probe);
        let mut is_probing = false;
        let end = loop {
            tokio::select! {
                biased;
                command = self.commands.recv() => break match command {
                    Some(Command::Resync) => End::Resync,
                    Some(Command::Quarantine) => End::Quarantine,
                    None => End::Stop,
                },
                _ = probes.tick() => {
                    if heard.elapsed() > SILENCE_MAX {
                        let seconds = SILENCE_MAX.as_secs();
                        break End::Over(format!("no sign of life for {seconds} s"));
                    }
                    if !is_caught_up && framed.elapsed() > HISTORY_PAUSE_MAX {
                        let seconds = HISTORY_PAUSE_MAX.as_secs();
                        break End::Over(format!("its history stood still for {seconds} s"));
                    }
                    is_probing |= heard.elapsed() >= PROBE_INTERVAL / 2;
                }
                is_alive = &mut probe, if is_probing => {
                    is_probing = false;
                    probe.set(self::probe(client, endpoint));
                    if is_alive {
                        heard = Instant::now();
                        let source = self.source.clone();
                        if !self.tell(Input::Alive { source }).await {
                            break End::Stop;
                        }
                    }
                }
                next = frames.next::<Frame>() => {
                    (heard, framed) = (Instant::now(), Instant::now());
                    let source = self.source.clone();
                    let (input, end) = match next {
                        Some(Ok(frame)) => match check(&source, &frame) {
                            Ok(()) => {
                                is_caught_up |= frame == Frame::Current;
                                (Input::Frame { source, frame }, None)
                            }
                            Err(why) => (Input::Hostile { source, why }, Some(End::Quarantine)),
                        },
                        Some(Err(StreamError::Closed { code: close::GAP, .. })) => {
                            break End::Resync;
                        }
                        Some(Err(error)) if is_hostile(&error) => {
                            let why = error.to_string();
                            (Input::Hostile { source, why }, Some(End::Quarantine))
                        }
                        Some(Err(error)) => break End::Over(error.to_string()),
                        None => break End::Over("the stream was closed".to_owned()),
                    };
                    if !self.tell(input).await {
                        break End::Stop;
                    }
                    if let Some(end) = end {
                        break end;
                    }
                }
            }
        };
        (end, is_caught_up && opened.elapsed() > STEADY_MIN)
    }

    /// False when the monitor stops.
    async fn tell(&self, input: Input) -> bool {
        self.orders.send(Order::Input(input)).await.is_ok()
    }
}

/// Whether the other end says anything at all, on a connection of its own but to the same key.
async fn probe(client: &Client, endpoint: &Endpoint) -> bool {
    match client.get::<IgnoredAny>(endpoint, "/v1/health").await {
        Ok(_) | Err(CallError::Problem { .. } | CallError::BadAnswer { .. }) => true,
        Err(CallError::NotSent { .. } | CallError::Ambiguous { .. }) => false,
    }
}

/// A frame that is none, or one of a size that none has. The socket tells the latter in words only.
fn is_hostile(error: &StreamError) -> bool {
    match error {
        StreamError::Bad { .. } => true,
        StreamError::Lost { why } => why.contains("Space limit exceeded"),
        StreamError::Closed { .. } => false,
    }
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
