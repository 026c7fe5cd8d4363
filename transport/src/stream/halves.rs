//! The two halves of a stream's socket, each a task: one writes, one reads, either ends both.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;

use super::{In, Liveness, Out, Shared, StreamError, close};

/// Frames written between two flushes.
const BATCH_FRAMES_MAX: usize = 64;

/// How long a peer may take to read one batch before it counts as gone.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);

/// How long to wait for the other end's goodbye.
const FAREWELL: Duration = Duration::from_secs(1);

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Writes what is queued, asks for signs of life, and says goodbye.
pub(super) struct Writer {
    pub(super) sink: SplitSink<Socket, Message>,
    pub(super) queued: mpsc::Receiver<Out>,
    pub(super) shared: Arc<Shared>,
    pub(super) stopping: CancellationToken,
    pub(super) liveness: Liveness,
}

/// What the writer remembers of the other end's silence.
#[derive(Default)]
struct Silence {
    heard: u64,
    intervals: u32,
}

impl Writer {
    /// Until the stream is over.
    pub(super) async fn run(mut self) {
        if let Some((code, reason)) = self.write_until_close().await {
            let reason = Utf8Bytes::from(reason);
            let goodbye = Message::Close(Some(CloseFrame { code: code.into(), reason }));
            let _ = timeout(FAREWELL, self.sink.send(goodbye)).await;
            // The socket stays until the peer has answered: closing it over unread bytes would
            // reset the connection, and the peer could lose what we sent last.
            let _ = timeout(FAREWELL, self.shared.reader_done.cancelled()).await;
        }
        self.shared.over.cancel();
    }

    /// Writes until the stream ends; answers with what to say goodbye with, if anybody listens.
    async fn write_until_close(&mut self) -> Option<(u16, String)> {
        let shared = Arc::clone(&self.shared);
        let (stopping, period) = (self.stopping.clone(), self.liveness.ask_after);
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let mut silence = Silence::default();
        let mut batch = Vec::with_capacity(BATCH_FRAMES_MAX);
        loop {
            let step = async {
                tokio::select! {
                    _ = ticks.tick() => {
                        self.listen(&mut silence).await.map(|()| None)
                    }
                    _ = self.queued.recv_many(&mut batch, BATCH_FRAMES_MAX) => {
                        self.write(&mut batch).await
                    }
                }
            };
            let stepped = tokio::select! {
                biased;
                () = shared.cut.cancelled() => return closing(&shared),
                () = shared.reader_done.cancelled() => return None,
                () = stopping.cancelled() => {
                    let reason = "the server stops".to_owned();
                    shared.finish(StreamError::Closed { code: close::STOPPING, reason });
                    return closing(&shared);
                }
                stepped = step => stepped,
            };
            match stepped {
                Ok(None) => {}
                Ok(Some((code, reason))) => {
                    shared.finish(StreamError::Closed { code, reason });
                    return closing(&shared);
                }
                Err(end) => {
                    shared.finish(end);
                    return None;
                }
            }
        }
    }

    async fn write(&mut self, batch: &mut Vec<Out>) -> Result<Option<(u16, String)>, StreamError> {
        let mut goodbye = None;
        let mut written = 0;
        for out in batch.drain(..) {
            match out {
                Out::Message(message) => {
                    written += message.len();
                    patient(self.sink.feed(message)).await?;
                }
                Out::Close(code, reason) => {
                    goodbye = Some((code, reason));
                    break;
                }
            }
        }
        patient(self.sink.flush()).await?;
        self.shared.queued_bytes.fetch_sub(written, Ordering::Relaxed);
        Ok(goodbye)
    }

    /// Asks for a sign of life when there was none of late; an end when there is no answer.
    async fn listen(&mut self, silence: &mut Silence) -> Result<(), StreamError> {
        let heard = self.shared.heard.load(Ordering::Relaxed);
        if heard != silence.heard || self.shared.is_held_up.load(Ordering::Relaxed) {
            *silence = Silence { heard, intervals: 0 };
            return Ok(());
        }
        let Liveness { ask_after, lost_after } = self.liveness;
        if silence.intervals > 0 && ask_after * silence.intervals >= lost_after {
            let ms = lost_after.as_millis();
            return Err(StreamError::lost(format!("no answer to a ping within {ms} ms")));
        }
        silence.intervals += 1;
        patient(self.sink.send(Message::Ping(Bytes::new()))).await
    }
}

fn closing(shared: &Shared) -> Option<(u16, String)> {
    match shared.end.get() {
        Some(StreamError::Closed { code, reason }) => Some((*code, reason.clone())),
        _ => None,
    }
}

async fn patient<E: fmt::Display>(
    write: impl Future<Output = Result<(), E>>,
) -> Result<(), StreamError> {
    match timeout(WRITE_STALL_MAX, write).await {
        Ok(written) => written.map_err(StreamError::lost),
        Err(_) => {
            let seconds = WRITE_STALL_MAX.as_secs();
            Err(StreamError::lost(format!("the peer took nothing for {seconds} s")))
        }
    }
}

/// Reads until the stream is over.
pub(super) async fn read(
    mut stream: SplitStream<Socket>,
    arrived: mpsc::Sender<In>,
    shared: Arc<Shared>,
) {
    let end = loop {
        let message = tokio::select! {
            biased;
            () = shared.over.cancelled() => break None,
            message = stream.next() => message,
        };
        shared.heard.fetch_add(1, Ordering::Relaxed);
        let frame = match message {
            Some(Ok(Message::Text(text))) => In::Text(text),
            Some(Ok(Message::Binary(bytes))) => In::Bytes(bytes),
            Some(Ok(Message::Close(why))) => break Some(closed_by_peer(why)),
            Some(Ok(_)) => continue,
            Some(Err(error)) => break Some(StreamError::lost(error)),
            None => break Some(StreamError::lost("it ended without a goodbye")),
        };
        shared.is_held_up.store(true, Ordering::Relaxed);
        tokio::select! {
            () = shared.over.cancelled() => break None,
            // Nobody reads any more; go on until the goodbyes are exchanged.
            _ = arrived.send(frame) => {}
        }
        shared.is_held_up.store(false, Ordering::Relaxed);
    };
    if let Some(end) = end {
        shared.finish(end);
    }
    // One more look at the socket writes the answer to the peer's goodbye.
    let _ = timeout(FAREWELL, stream.next()).await;
    shared.reader_done.cancel();
}

fn closed_by_peer(why: Option<CloseFrame>) -> StreamError {
    match why {
        Some(why) => {
            StreamError::Closed { code: why.code.into(), reason: why.reason.as_str().to_owned() }
        }
        None => StreamError::Closed { code: close::NORMAL, reason: String::new() },
    }
}
