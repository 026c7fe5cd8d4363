//! Writes what is queued into a stream, asks for a sign of life when it is time, and says goodbye.

use std::future::poll_fn;
use std::iter;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;

use super::socket::Shared;
use super::{Out, StreamError, close};

/// Frames written between two flushes.
const BATCH_FRAMES_MAX: usize = 64;

/// How long a peer may take to read one batch before it counts as gone.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);

/// How long to wait for the other end's goodbye.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a close frame has room for beside its code (RFC 6455, section 5.5).
const REASON_BYTES_MAX: usize = 123;

/// The half that writes; it lets go of the socket when all is over.
pub(super) struct Writer {
    queued: mpsc::Receiver<Out>,
    shared: Arc<Shared>,
}

/// What the writer does next.
enum Step {
    /// Something is queued.
    Write,
    /// The other end is to be asked for a sign of life.
    Ask,
    /// The stream has ended.
    End,
}

impl Writer {
    pub(super) fn new(queued: mpsc::Receiver<Out>, shared: Arc<Shared>) -> Self {
        Self { queued, shared }
    }

    /// Until the stream is over.
    pub(super) async fn run(mut self, stopping: Option<CancellationToken>) {
        let stopped = async {
            match stopping {
                Some(stopping) => stopping.cancelled().await,
                None => std::future::pending().await,
            }
        };
        self.write_until_end(pin!(stopped)).await;
        self.part().await;
        self.shared.close();
    }

    async fn write_until_end(&mut self, mut stopped: Pin<&mut impl Future<Output = ()>>) {
        let mut batch = Vec::new();
        loop {
            let done = match poll_fn(|cx| self.poll_step(cx, &mut batch, stopped.as_mut())).await {
                Step::End => return,
                Step::Write => self.write(&mut batch).await,
                Step::Ask => self.send(iter::once(Message::Ping(Bytes::new()))).await,
            };
            if let Err(end) = done {
                self.shared.has_ended(end);
            }
        }
    }

    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Out>,
        stopped: Pin<&mut impl Future<Output = ()>>,
    ) -> Poll<Step> {
        if self.shared.end().is_some() {
            return Poll::Ready(Step::End);
        }
        if self.shared.take_ask() {
            return Poll::Ready(Step::Ask);
        }
        match self.queued.poll_recv_many(cx, batch, BATCH_FRAMES_MAX) {
            Poll::Ready(0) => self.shared.say_goodbye(close::NORMAL, String::new()),
            Poll::Ready(_) => return Poll::Ready(Step::Write),
            Poll::Pending => {}
        }
        if stopped.poll(cx).is_ready() {
            self.shared.say_goodbye(close::STOPPING, "the server stops".to_owned());
        }
        self.shared.writer.register(cx.waker());
        // Looked at again: whoever ended it or had us ask before that has woken nobody.
        match self.shared.end() {
            Some(_) => Poll::Ready(Step::End),
            None if self.shared.take_ask() => Poll::Ready(Step::Ask),
            None => Poll::Pending,
        }
    }

    async fn write(&mut self, batch: &mut Vec<Out>) -> Result<(), StreamError> {
        // What was queued behind a goodbye is not said.
        let last = batch.iter().position(|out| matches!(out, Out::Close(..)));
        let goodbye = last.and_then(|last| batch.drain(last..).next());
        let mut written = 0;
        let messages = batch.drain(..).filter_map(|out| match out {
            Out::Message(message) => {
                written += message.len();
                Some(message)
            }
            Out::Close(..) => None,
        });
        self.send(messages).await?;
        self.shared.queued_bytes.fetch_sub(written, Ordering::Relaxed);
        if let Some(Out::Close(code, reason)) = goodbye {
            self.shared.say_goodbye(code, reason);
        }
        Ok(())
    }

    /// Writes until all is with the system, or until the stream has ended.
    async fn send(&self, messages: impl Iterator<Item = Message>) -> Result<(), StreamError> {
        let mut messages = messages;
        let mut written = pin!(poll_fn(|cx| {
            self.shared.writer.register(cx.waker());
            if self.shared.end().is_some() {
                return Poll::Ready(Ok(()));
            }
            self.shared.poll_send(cx, &mut messages)
        }));
        // Most is written at once: only what is not costs a look at the clock.
        let at_once = poll_fn(|cx| Poll::Ready(written.as_mut().poll(cx))).await;
        if let Poll::Ready(written) = at_once {
            return written;
        }
        self.shared.is_stalled.store(true, Ordering::Relaxed);
        let written = timeout(WRITE_STALL_MAX, written).await;
        self.shared.is_stalled.store(false, Ordering::Relaxed);
        written.unwrap_or_else(|_| {
            let seconds = WRITE_STALL_MAX.as_secs();
            Err(StreamError::lost(format!("the peer took nothing for {seconds} s")))
        })
    }

    /// Says goodbye where there is somebody to say it to, and waits for the answer.
    async fn part(&self) {
        if let Some((code, reason)) = self.shared.untold() {
            let end = reason.floor_char_boundary(REASON_BYTES_MAX);
            let reason = Utf8Bytes::from(&reason[..end]);
            let goodbye = Message::Close(Some(CloseFrame { code: code.into(), reason }));
            let mut goodbye = iter::once(goodbye);
            let said = poll_fn(|cx| self.shared.poll_send(cx, &mut goodbye));
            let _ = timeout(FAREWELL, said).await;
        }
        if let Some(StreamError::Closed { .. }) = self.shared.end() {
            // Our goodbye is answered, or the answer to the peer's is written, by reading on. The
            // socket stays until then: closing it over unread bytes would reset the connection, and
            // the peer could lose what we sent last.
            let read_on = poll_fn(|cx| self.shared.poll_to_end(cx));
            let _ = timeout(FAREWELL, read_on).await;
        }
    }
}

impl Shared {
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        messages: &mut impl Iterator<Item = Message>,
    ) -> Poll<Result<(), StreamError>> {
        let sent = self.look(|socket| -> Poll<Result<(), Error>> {
            loop {
                // Before the next is taken, so that none is lost while the socket is full.
                ready!(socket.poll_ready_unpin(cx))?;
                match messages.next() {
                    Some(message) => socket.start_send_unpin(message)?,
                    None => return socket.poll_flush_unpin(cx),
                }
            }
        });
        sent.unwrap_or(Poll::Ready(Ok(()))).map_err(StreamError::lost)
    }

    /// Reads what comes without looking at it, until nothing comes any more.
    fn poll_to_end(&self, cx: &mut Context<'_>) -> Poll<()> {
        let read = self.look(|socket| {
            while let Some(Ok(_)) = ready!(socket.poll_next_unpin(cx)) {}
            Poll::Ready(())
        });
        read.unwrap_or(Poll::Ready(()))
    }
}
