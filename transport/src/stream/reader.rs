//! Reads a stream: frames out, signs of life counted, the end noticed.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message};

use super::socket::Shared;
use super::{In, StreamError, close};

/// The half that reads.
pub(super) struct Reader(pub(super) Arc<Shared>);

impl Reader {
    /// The next frame; `None` once the stream has ended. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<In> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<In>> {
        let shared = &*self.0;
        while shared.end().is_none() {
            let Some(looked) = shared.look(|socket| socket.poll_next_unpin(cx)) else { break };
            let Poll::Ready(message) = looked else {
                shared.is_unread.store(false, Ordering::Relaxed);
                shared.reader.register(cx.waker());
                // Whoever ended it before that has woken nobody.
                match shared.end() {
                    Some(_) => break,
                    None => return Poll::Pending,
                }
            };
            shared.heard.fetch_add(1, Ordering::Relaxed);
            let frame = match message {
                Some(Ok(Message::Text(text))) => In::Text(text),
                Some(Ok(Message::Binary(bytes))) => In::Bytes(bytes),
                Some(Ok(Message::Close(why))) => {
                    shared.has_ended(closed_by_peer(why));
                    break;
                }
                Some(Ok(_)) => {
                    shared.signs.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                Some(Err(error)) => {
                    shared.has_ended(broken_by(error));
                    break;
                }
                None => {
                    shared.has_ended(StreamError::lost("it ended without a goodbye"));
                    break;
                }
            };
            // Until it asks for more, the application holds up what may have come since.
            shared.is_unread.store(true, Ordering::Relaxed);
            return Poll::Ready(Some(frame));
        }
        Poll::Ready(None)
    }
}

/// Reads ahead of the application until the stream has ended.
pub(super) async fn read_ahead(mut reader: Reader, arrived: mpsc::Sender<In>) {
    while let Some(frame) = reader.next().await {
        // Nobody reads any more; go on until the goodbyes are exchanged.
        let _ = arrived.send(frame).await;
    }
}

fn broken_by(error: tungstenite::Error) -> StreamError {
    match error {
        tungstenite::Error::Capacity(why) => StreamError::TooLarge { why: why.to_string() },
        error => StreamError::lost(error),
    }
}

fn closed_by_peer(why: Option<CloseFrame>) -> StreamError {
    match why {
        Some(why) => {
            StreamError::Closed { code: why.code.into(), reason: why.reason.as_str().to_owned() }
        }
        None => StreamError::Closed { code: close::NORMAL, reason: String::new() },
    }
}
