//! Long-lived streams: typed frames over WebSocket, for events and consoles, the same at both ends.
//!
//! Decides that a stream that falls silent is asked for a sign of life and then dropped (15 s each,
//! or as a [`Liveness`] says), and that a subscriber who does not keep up is cut with a close code instead of delaying anybody. Who may subscribe and
//! what a frame means is left to the applications.
//!
//! ```text
//!            ┌── queue (bounded) ── writer ──> socket      full queue: cut(4008)
//! Frames ────┤        keepalive ──────┘ping when silent    no answer in time: lost
//!            └── inbox (bounded) <── reader <── socket     slow reader: TCP holds the peer back
//!                       or the reader itself, when the application does nothing but read
//! ```

mod socket;

mod reader;

mod writer;

mod open;

mod keepalive;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use protocol::signed::PublicKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;

use crate::server::Peer;
pub(crate) use keepalive::Keepalive;
pub(crate) use open::header_has;
pub use open::{Upgrade, connect_stream, connect_stream_direct, connect_stream_with};
use reader::{Reader, read_ahead};
use socket::{Shared, Socket};
use writer::Writer;

/// Close codes that our streams end with.
pub mod close {
    /// All was said.
    pub const NORMAL: u16 = 1000;
    /// The server stops; connect again elsewhere or later.
    pub const STOPPING: u16 = 1001;
    /// A message is larger than [`super::MESSAGE_BYTES_MAX`].
    pub const TOO_LARGE: u16 = 1009;
    /// The subscriber did not keep up and missed frames; connect again with its cursor.
    pub const SLOW: u16 = 4008;
    /// What was asked for is no longer there in full; start from a new inventory.
    pub const GAP: u16 = 4009;
    /// What came is not believed; connecting again is of no use until that is mended.
    pub const DISTRUSTED: u16 = 4010;
}

/// Largest message: a host's complete inventory with some thousands of jobs.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Frames waiting for one subscriber: about a second of a busy host's events.
pub const QUEUE_FRAMES_MAX: usize = 1024;

/// Bytes waiting for one subscriber: an inventory of the largest size and as much again of events.
pub const QUEUE_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;

/// Frames read ahead of the application; TCP holds the peer back beyond that.
const INBOX_FRAMES_MAX: usize = 64;

/// After one to two of these without a word, each end asks whether the other is still there.
pub const PING_INTERVAL: Duration = Duration::from_secs(15);

/// Bytes that texts which are kept are put into together.
const ROOM_BYTES: usize = 256 << 10;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// JSON or other text.
    Text(String),
    /// Raw bytes, as of a console.
    Bytes(Bytes),
}

/// Why a stream ended or a frame could not be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// One end closed it with a reason.
    #[error("stream was closed: {reason} (code {code})")]
    Closed {
        /// See [`close`].
        code: u16,
        /// In words.
        reason: String,
    },
    /// It broke off.
    #[error("stream was lost: {why}")]
    Lost {
        /// What the socket said.
        why: String,
    },
    /// The peer sent a frame larger than any may be.
    #[error("stream was cut: a frame was too large: {why}")]
    TooLarge {
        /// What the socket said.
        why: String,
    },
    /// One frame is not what was expected; the stream goes on.
    #[error("frame {start:?} cannot be understood: {why}")]
    Bad {
        /// How the frame starts.
        start: String,
        /// What is wrong with it.
        why: String,
    },
}

/// How one end finds out whether the other is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Liveness {
    /// After one to two of these without a word, ask.
    pub ask_after: Duration,
    /// After this long without an answer, the stream is lost.
    pub lost_after: Duration,
}

impl Liveness {
    /// Asks after an interval of silence, and gives up after another.
    #[must_use]
    pub const fn of_interval(interval: Duration) -> Self {
        Self { ask_after: interval, lost_after: interval }
    }
}

impl Default for Liveness {
    fn default() -> Self {
        Self::of_interval(PING_INTERVAL)
    }
}

/// The stream is over, so the frame was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream is over")]
pub struct Cut;

/// A value as text, made once for any number of subscribers.
#[derive(Debug, Clone)]
pub struct Encoded(Utf8Bytes);

impl Encoded {
    /// The value's JSON.
    ///
    /// # Panics
    /// When `T` cannot be written as JSON, which none of our nouns can cause.
    #[must_use]
    pub fn of<T: Serialize>(value: &T) -> Self {
        Self(serde_json::to_string(value).expect("our nouns are always valid JSON").into())
    }

    /// The JSON.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same text in `room`, of which a new piece is taken when it does not fit. Many small texts
    /// that are kept for a while are cheaper so: each of its own would be a hole afterwards.
    #[must_use]
    pub fn kept_in(&self, room: &mut BytesMut) -> Self {
        let text = self.0.as_str().as_bytes();
        if room.capacity() < text.len() {
            *room = BytesMut::with_capacity(ROOM_BYTES.max(text.len()));
        }
        room.extend_from_slice(text);
        Self(room.split().freeze().try_into().expect("it was text"))
    }

    /// Reads it as a `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, StreamError> {
        parse(self.0.as_str().as_bytes())
    }
}

impl From<String> for Encoded {
    /// Takes JSON that is there already.
    fn from(json: String) -> Self {
        Self(json.into())
    }
}

/// Tells signs of life of a stream's other end, from anywhere.
#[derive(Clone)]
pub struct Pulse(Arc<Shared>);

impl Pulse {
    /// Counts every frame, ping and pong that came: it grows while the other end lives.
    #[must_use]
    pub fn heard(&self) -> u64 {
        self.0.heard.load(Ordering::Relaxed)
    }

    /// Counts every ping and pong that came: it grows while the other end lives and has nothing to
    /// say. What it says tells by itself.
    #[must_use]
    pub fn signs(&self) -> u64 {
        self.0.signs.load(Ordering::Relaxed)
    }
}

/// When frames are taken from the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// As they come, by a task of the stream's own, up to [`INBOX_FRAMES_MAX`] of them.
    Ahead,
    /// When the application asks for the next one. Costs no task and no wake-up more than it has.
    Directly,
}

/// One end of a stream. Dropping it says goodbye after what is queued.
pub struct Frames {
    inbox: Inbox,
    sender: FrameSender,
    peer: Peer,
    is_end_told: bool,
}

/// Sends into a stream, from anywhere; clones share the queue.
#[derive(Clone)]
pub struct FrameSender {
    queue: mpsc::Sender<Out>,
    shared: Arc<Shared>,
}

enum Out {
    Message(Message),
    Close(u16, String),
}

/// A frame as it lies in the read buffer.
enum In {
    Text(Utf8Bytes),
    Bytes(Bytes),
}

/// Where the next frame comes from.
enum Inbox {
    Ahead(mpsc::Receiver<In>),
    Direct(Reader),
}

impl Frames {
    fn start(
        socket: Socket,
        peer: Peer,
        stopping: Option<CancellationToken>,
        (keepalive, liveness): (&Keepalive, Liveness),
        reads: Reads,
    ) -> Self {
        let (queue, queued) = mpsc::channel(QUEUE_FRAMES_MAX);
        let shared = Arc::new(Shared::of(socket));
        keepalive.watch(&shared, liveness);
        tokio::spawn(Writer::new(queued, Arc::clone(&shared)).run(stopping));
        let reader = Reader(Arc::clone(&shared));
        let inbox = match reads {
            Reads::Directly => Inbox::Direct(reader),
            Reads::Ahead => {
                let (arrived, inbox) = mpsc::channel(INBOX_FRAMES_MAX);
                tokio::spawn(read_ahead(reader, arrived));
                Inbox::Ahead(inbox)
            }
        };
        Self { inbox, sender: FrameSender { queue, shared }, peer, is_end_told: false }
    }

    /// The next text frame as a `T`, or the next byte frame parsed as JSON. `None` after a normal
    /// end; any other end is told once as an error. Cancel-safe.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Option<Result<T, StreamError>> {
        Some(match self.next_in().await? {
            Ok(In::Text(text)) => parse(text.as_str().as_bytes()),
            Ok(In::Bytes(bytes)) => parse(&bytes),
            Err(error) => Err(error),
        })
    }

    /// The next frame's text, unread, to be passed on or read later. `None` after a normal end; any
    /// other end is told once as an error. Cancel-safe.
    pub async fn next_text(&mut self) -> Option<Result<Encoded, StreamError>> {
        // Copied out of the read buffer: whoever keeps a short text must not keep all of that.
        Some(match self.next_in().await? {
            Ok(In::Text(text)) => Ok(text.as_str().to_owned().into()),
            Ok(In::Bytes(bytes)) => match std::str::from_utf8(&bytes) {
                Ok(text) => Ok(text.to_owned().into()),
                Err(e) => Err(bad(&bytes, e)),
            },
            Err(error) => Err(error),
        })
    }

    /// The next frame as it came. `None` after a normal end; any other end is told once as an
    /// error. Cancel-safe.
    pub async fn next_frame(&mut self) -> Option<Result<Frame, StreamError>> {
        Some(self.next_in().await?.map(|frame| match frame {
            In::Text(text) => Frame::Text(text.as_str().to_owned()),
            In::Bytes(bytes) => Frame::Bytes(bytes),
        }))
    }

    async fn next_in(&mut self) -> Option<Result<In, StreamError>> {
        let frame = match &mut self.inbox {
            Inbox::Ahead(inbox) => inbox.recv().await,
            Inbox::Direct(reader) => reader.next().await,
        };
        if let Some(frame) = frame {
            return Some(Ok(frame));
        }
        let end = self.sender.shared.end()?;
        if std::mem::replace(&mut self.is_end_told, true) || end.is_normal() {
            return None;
        }
        Some(Err(end.clone()))
    }

    /// Sends a value as JSON; waits while the queue is full.
    pub async fn send<T: Serialize + Sync>(&self, value: &T) -> Result<(), StreamError> {
        self.sender.send(value).await
    }

    /// Sends text; waits while the queue is full.
    pub async fn send_text(&self, text: impl Into<String>) -> Result<(), StreamError> {
        self.sender.send_text(text).await
    }

    /// Sends raw bytes; waits while the queue is full.
    pub async fn send_bytes(&self, bytes: impl Into<Bytes>) -> Result<(), StreamError> {
        self.sender.send_bytes(bytes).await
    }

    /// A way to send from elsewhere. The stream still ends when this `Frames` is dropped.
    #[must_use]
    pub fn sender(&self) -> FrameSender {
        self.sender.clone()
    }

    /// A way to see from elsewhere whether the other end lives.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        Pulse(Arc::clone(&self.sender.shared))
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The key that the other end proved.
    #[must_use]
    pub fn peer_key(&self) -> Option<PublicKey> {
        self.peer.key
    }

    /// Says goodbye after what is queued and waits until the stream is over.
    pub async fn close(self, code: u16, reason: &str) {
        let goodbye = self.sender.queue.send(Out::Close(code, reason.to_owned()));
        let over = self.sender.shared.over.clone();
        if goodbye.await.is_ok() {
            over.cancelled().await;
        }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        let goodbye = Out::Close(close::NORMAL, String::new());
        if self.sender.queue.try_send(goodbye).is_err() {
            self.sender.cut(close::NORMAL, "");
        }
    }
}

impl FrameSender {
    /// Queues a value as JSON without ever waiting. When the subscriber has too much waiting
    /// already, it is cut with [`close::SLOW`].
    pub fn push<T: Serialize>(&self, value: &T) -> Result<(), Cut> {
        self.push_encoded(&Encoded::of(value))
    }

    /// As [`FrameSender::push`], of a value encoded once for many.
    pub fn push_encoded(&self, encoded: &Encoded) -> Result<(), Cut> {
        self.push_message(Message::Text(encoded.0.clone()))
    }

    /// As [`FrameSender::push`], of raw bytes.
    pub fn push_bytes(&self, bytes: impl Into<Bytes>) -> Result<(), Cut> {
        self.push_message(Message::Binary(bytes.into()))
    }

    /// Sends a value as JSON; waits while the queue is full.
    pub async fn send<T: Serialize + Sync>(&self, value: &T) -> Result<(), StreamError> {
        self.send_message(Message::Text(Encoded::of(value).0)).await
    }

    /// Sends what was encoded once for many; waits while the queue is full.
    pub async fn send_encoded(&self, encoded: &Encoded) -> Result<(), StreamError> {
        self.send_message(Message::Text(encoded.0.clone())).await
    }

    /// Sends text; waits while the queue is full.
    pub async fn send_text(&self, text: impl Into<String>) -> Result<(), StreamError> {
        self.send_message(Message::Text(text.into().into())).await
    }

    /// Sends raw bytes; waits while the queue is full.
    pub async fn send_bytes(&self, bytes: impl Into<Bytes>) -> Result<(), StreamError> {
        self.send_message(Message::Binary(bytes.into())).await
    }

    /// Ends the stream now with a close code, whatever is queued.
    pub fn cut(&self, code: u16, reason: &str) {
        self.shared.say_goodbye(code, reason.to_owned());
    }

    /// Queues a close code behind what is queued already.
    pub fn close(&self, code: u16, reason: &str) {
        if self.queue.try_send(Out::Close(code, reason.to_owned())).is_err() {
            self.cut(code, reason);
        }
    }

    /// True when nothing sent would arrive any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shared.end().is_some()
    }

    /// Waits until the stream is over.
    pub async fn over(&self) {
        self.shared.over.cancelled().await;
    }

    fn push_message(&self, message: Message) -> Result<(), Cut> {
        if self.is_over() {
            return Err(Cut);
        }
        let bytes = message.len();
        if bytes > MESSAGE_BYTES_MAX {
            self.cut(close::TOO_LARGE, "a message is larger than 8 MiB");
            return Err(Cut);
        }
        let before = self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes <= QUEUE_BYTES_MAX && self.queue.try_send(Out::Message(message)).is_ok() {
            return Ok(());
        }
        self.cut(close::SLOW, "subscriber did not keep up");
        Err(Cut)
    }

    async fn send_message(&self, message: Message) -> Result<(), StreamError> {
        self.shared.queued_bytes.fetch_add(message.len(), Ordering::Relaxed);
        // The writer drops the queue when it ends, so this never waits for ever.
        let sent = self.queue.send(Out::Message(message)).await;
        match (sent, self.shared.end()) {
            (Ok(()), None) => Ok(()),
            (_, Some(end)) => Err(end.clone()),
            (Err(_), None) => Err(StreamError::Lost { why: "the stream is over".to_owned() }),
        }
    }
}

impl StreamError {
    fn is_normal(&self) -> bool {
        matches!(self, StreamError::Closed { code: close::NORMAL, .. })
    }

    fn lost(why: impl fmt::Display) -> Self {
        StreamError::Lost { why: why.to_string() }
    }
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, StreamError> {
    serde_json::from_slice(json).map_err(|e| bad(json, e))
}

fn bad(frame: &[u8], why: impl fmt::Display) -> StreamError {
    let start = String::from_utf8_lossy(&frame[..frame.len().min(200)]).into_owned();
    StreamError::Bad { start, why: why.to_string() }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pulse").field(&self.signs()).finish()
    }
}

impl fmt::Debug for FrameSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameSender").field("is_over", &self.is_over()).finish_non_exhaustive()
    }
}
