//! A stream's socket, and what its two halves and all senders know of it.
//!
//! Decides that the first to end a stream has the say why, and that the end wakes both halves. Reading
//! and writing lock the socket for one look each and never wait with it, so that neither needs a
//! copy, a channel or a task between itself and the socket.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;

use super::{MESSAGE_BYTES_MAX, StreamError};
use crate::io::Counted;

/// Bytes read from the socket at a time. All of them are zeroed and touched at each look, so more
/// than an event has costs ten thousand streams their share of the processor's cache, and as much
/// memory; larger messages still get the room they need.
const READ_BUFFER_BYTES: usize = 1 << 10;

/// A WebSocket on one of our connections.
pub(super) type Socket = WebSocketStream<Counted>;

/// Goes on with a connection after its handshake; `read` was already taken from it.
pub(super) async fn upgraded(io: Counted, read: Bytes, role: Role) -> Socket {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    WebSocketStream::from_partially_read(io, read.into(), role, Some(config)).await
}

/// What both halves and all senders of a stream know.
pub(super) struct Shared {
    /// Gone when all is over.
    socket: Mutex<Option<Socket>>,
    /// Frames and pongs that came, to tell silence.
    pub(super) heard: AtomicU64,
    /// Those of them that are no frames.
    pub(super) signs: AtomicU64,
    /// True while the reader waits for the application.
    pub(super) is_unread: AtomicBool,
    /// True while the writer waits for the peer to read, which has a limit of its own.
    pub(super) is_stalled: AtomicBool,
    /// The peer is to be asked for a sign of life.
    is_ask_due: AtomicBool,
    pub(super) queued_bytes: AtomicUsize,
    end: OnceLock<End>,
    /// Woken at the end.
    pub(super) reader: AtomicWaker,
    /// Woken at the end, and to ask.
    pub(super) writer: AtomicWaker,
    /// The socket is let go.
    pub(super) over: CancellationToken,
}

/// How a stream ended.
struct End {
    error: StreamError,
    /// The peer has still to be told.
    is_untold: bool,
}

impl Shared {
    pub(super) fn of(socket: Socket) -> Self {
        Self {
            socket: Mutex::new(Some(socket)),
            heard: AtomicU64::default(),
            signs: AtomicU64::default(),
            is_unread: AtomicBool::default(),
            is_stalled: AtomicBool::default(),
            is_ask_due: AtomicBool::default(),
            queued_bytes: AtomicUsize::default(),
            end: OnceLock::new(),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
            over: CancellationToken::new(),
        }
    }

    /// Looks at the socket, if it is still there.
    pub(super) fn look<R>(&self, look: impl FnOnce(&mut Socket) -> R) -> Option<R> {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        socket.as_mut().map(look)
    }

    /// True while this end is what keeps the peer from being heard: that is not the peer's silence.
    pub(super) fn is_held_up(&self) -> bool {
        self.is_unread.load(Ordering::Relaxed) || self.is_stalled.load(Ordering::Relaxed)
    }

    /// Has the writer ask the peer for a sign of life.
    pub(super) fn ask(&self) {
        self.is_ask_due.store(true, Ordering::Relaxed);
        self.writer.wake();
    }

    /// Whether the peer is to be asked; says so once.
    pub(super) fn take_ask(&self) -> bool {
        // A look alone leaves the line to whoever else reads it.
        self.is_ask_due.load(Ordering::Relaxed) && self.is_ask_due.swap(false, Ordering::Relaxed)
    }

    /// Lets go of the socket.
    pub(super) fn close(&self) {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(socket);
        self.over.cancel();
    }

    /// Why the stream has ended, once it has.
    pub(super) fn end(&self) -> Option<&StreamError> {
        self.end.get().map(|end| &end.error)
    }

    /// What the peer has still to be told at the end.
    pub(super) fn untold(&self) -> Option<(u16, String)> {
        match self.end.get() {
            Some(End { error: StreamError::Closed { code, reason }, is_untold: true }) => {
                Some((*code, reason.clone()))
            }
            _ => None,
        }
    }

    /// Ends the stream with a word to the peer. The first end counts.
    pub(super) fn say_goodbye(&self, code: u16, reason: String) {
        self.finish(End { error: StreamError::Closed { code, reason }, is_untold: true });
    }

    /// The stream is found to have ended. The first end counts.
    pub(super) fn has_ended(&self, error: StreamError) {
        self.finish(End { error, is_untold: false });
    }

    fn finish(&self, end: End) {
        let _ = self.end.set(end);
        self.reader.wake();
        self.writer.wake();
    }
}
