//! Writes what is queued into a stream, asks for signs of life, and says goodbye.

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
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;

use super::socket::Shared;
use super::{Liveness, Out, StreamError, close};

/// Frames written between two flushes.
const BATCH_FRAMES_MAX: usize = 64;

/// How long a peer may take to read one batch before it counts as gone.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);

/// How long to wait for the other end's goodbye.
const FAREWELL: Duration = Duration::from_secs(1);

/// The half that writes; it lets go of the socket when all is over.
pub(super) struct Writer {
    queued: mpsc::Receiver<Out>,
    shared: Arc<Shared>,
    liveness: Liveness,
    ticks: Interval,
    silence: Silence,
}

/// What the writer remembers of the other end's silence.
#[derive(Default)]
struct Silence {
    heard: u64,
    intervals: u32,
}

/// What the writer does next.
enum Step {
    /// Something is queued.
    Write,
    /// Time to look whether the other end is still there.
    Listen,
    /// The stream has ended.
    End,
}

impl Writer {
    pub(super) fn new(
        queued: mpsc::Receiver<Out>,
        shared: Arc<Shared>,
        liveness: Liveness,
    ) -> Self {
        let mut ticks = interval(liveness.ask_after);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { queued, shared, liveness, ticks, silence: Silence::default() }
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
        self.ticks.tick().await;
        loop {
            let done = match poll_fn(|cx| self.poll_step(cx, &mut batch, stopped.as_mut())).await {
                Step::End => return,
                Step::Write => self.write(&mut batch).await,
                Step::Listen => self.listen().await,
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
        if self.ticks.poll_tick(cx).is_ready() {
            return Poll::Ready(Step::Listen);
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
        // Looked at again: whoever ended it before that has woken nobody.
        match self.shared.end() {
            Some(_) => Poll::Ready(Step::End),
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

    /// Asks for a sign of life when there was none of late; an end when there is no answer.
    async fn listen(&mut self) -> Result<(), StreamError> {
        let heard = self.shared.heard.load(Ordering::Relaxed);
        if heard != self.silence.heard || self.shared.is_held_up.load(Ordering::Relaxed) {
            self.silence = Silence { heard, intervals: 0 };
            return Ok(());
        }
        let Liveness { ask_after, lost_after } = self.liveness;
        let intervals = self.silence.intervals;
        if intervals > 0 && ask_after * intervals >= lost_after {
            let ms = lost_after.as_millis();
            return Err(StreamError::lost(format!("no answer to a ping within {ms} ms")));
        }
        self.silence.intervals += 1;
        self.send(iter::once(Message::Ping(Bytes::new()))).await
    }

    /// Writes until all is with the system, or until the stream has ended.
    async fn send(&self, messages: impl Iterator<Item = Message>) -> Result<(), StreamError> {
        let mut messages = messages;
        patient(poll_fn(|cx| {
            self.shared.writer.register(cx.waker());
            if self.shared.end().is_some() {
                return Poll::Ready(Ok(()));
            }
            self.shared.poll_send(cx, &mut messages)
        }))
        .await
    }

    /// Says goodbye where there is somebody to say it to, and waits for the answer.
    async fn part(&self) {
        if let Some((code, reason)) = self.shared.untold() {
            let reason = Utf8Bytes::from(reason);
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

/// Waits for a write, within reason. Most are done at once: only others cost a look at the clock.
async fn patient(write: impl Future<Output = Result<(), StreamError>>) -> Result<(), StreamError> {
    let mut write = pin!(write);
    let at_once = poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx))).await;
    if let Poll::Ready(written) = at_once {
        return written;
    }
    match timeout(WRITE_STALL_MAX, write).await {
        Ok(written) => written,
        Err(_) => {
            let seconds = WRITE_STALL_MAX.as_secs();
            Err(StreamError::lost(format!("the peer took nothing for {seconds} s")))
        }
    }
}
