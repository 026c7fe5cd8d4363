//! Streams for those who have no WebSocket: server-sent events, one text each.
//!
//! Decides the same as [`crate::stream`] does: a subscriber who does not keep up is cut instead of
//! delaying anybody. What it has not read is let go at once, and the last that it reads is `gap`; it comes
//! back with the id of the last event that it had. A connection that takes nothing at all is ended by TCP.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::HeaderMap;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use tokio::sync::Notify;

use crate::server::Stopping;
use crate::stream::{Cut, Encoded, PING_INTERVAL, QUEUE_BYTES_MAX, QUEUE_FRAMES_MAX};

/// The type that a subscriber asks for.
const EVENT_STREAM: &str = "text/event-stream";
/// Where a subscriber that comes back says which event it had last.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Says nothing, so that what is between the two ends does not take the connection for dead.
const ALIVE: &[u8] = b":\n\n";
/// The last word to whoever was too slow.
const GAP: &[u8] = b"event: gap\ndata: {\"frame\":\"gap\",\"code\":4008}\n\n";

/// Sends events to one subscriber, from anywhere.
#[derive(Clone)]
pub struct LineSender(Arc<Shared>);

/// What one subscriber reads.
pub struct Lines {
    shared: Arc<Shared>,
    stopping: Stopping,
    over: Option<Over>,
}

type Over = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Shared {
    queue: Mutex<Queue>,
    more: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Bytes>,
    bytes: usize,
    end: End,
}

#[derive(Default, PartialEq, Eq)]
enum End {
    #[default]
    NotYet,
    /// It was too slow, and is not told yet.
    Cut,
    Over,
}

/// Whether a request asks for server-sent events.
#[must_use]
pub fn is_asked(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let kinds = accept.split(',').map(|kind| kind.split(';').next().unwrap_or_default().trim());
    kinds.into_iter().any(|kind| kind == EVENT_STREAM)
}

/// The id of the last event that a subscriber had, as it says.
#[must_use]
pub fn last_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok())
}

/// Both ends of a new stream.
#[must_use]
pub fn lines(stopping: Stopping) -> (LineSender, Lines) {
    let shared = Arc::new(Shared { queue: Mutex::default(), more: Notify::new() });
    (LineSender(Arc::clone(&shared)), Lines { shared, stopping, over: None })
}

impl LineSender {
    /// Queues an event without ever waiting. When too much is waiting already, the stream is cut.
    pub fn push(&self, id: Option<&str>, data: &Encoded) -> Result<(), Cut> {
        let mut text = String::with_capacity(data.as_str().len() + 64);
        if let Some(id) = id {
            let _ = writeln!(text, "id: {id}");
        }
        // JSON of ours has no line breaks.
        let _ = write!(text, "data: {}\n\n", data.as_str());
        let mut queue = self.0.lock();
        if queue.end != End::NotYet {
            return Err(Cut);
        }
        queue.bytes += text.len();
        queue.waiting.push_back(text.into());
        if queue.waiting.len() > QUEUE_FRAMES_MAX || queue.bytes > QUEUE_BYTES_MAX {
            *queue = Queue { end: End::Cut, ..Queue::default() };
        }
        self.0.more.notify_one();
        if queue.end == End::NotYet { Ok(()) } else { Err(Cut) }
    }

    /// True when nothing sent would arrive any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.lock().end != End::NotYet
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no holder of this lock panics")
    }
}

impl Lines {
    /// It ends as well when this does: such as the subscriber's right to it.
    #[must_use]
    pub fn until(mut self, over: impl Future<Output = ()> + Send + 'static) -> Self {
        self.over = Some(Box::pin(over));
        self
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(text) = self.take()? {
                return Some(text);
            }
            tokio::select! {
                () = self.shared.more.notified() => {}
                () = self.stopping.0.cancelled() => return None,
                () = ended(&mut self.over) => return None,
                () = tokio::time::sleep(PING_INTERVAL) => return Some(Bytes::from_static(ALIVE)),
            }
        }
    }

    /// `None`: all was said. `Some(None)`: nothing waits.
    fn take(&self) -> Option<Option<Bytes>> {
        let mut queue = self.shared.lock();
        if let Some(text) = queue.waiting.pop_front() {
            queue.bytes -= text.len();
            return Some(Some(text));
        }
        match queue.end {
            End::NotYet => Some(None),
            End::Over => None,
            End::Cut => {
                queue.end = End::Over;
                Some(Some(Bytes::from_static(GAP)))
            }
        }
    }
}

async fn ended(over: &mut Option<Over>) {
    match over {
        Some(over) => over.as_mut().await,
        None => std::future::pending().await,
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        *self.shared.lock() = Queue { end: End::Over, ..Queue::default() };
    }
}

impl IntoResponse for Lines {
    fn into_response(self) -> Response {
        let texts = stream::unfold(self, |mut lines| async {
            let text = lines.next().await?;
            Some((Ok::<_, Infallible>(text), lines))
        });
        let headers = [(CONTENT_TYPE, EVENT_STREAM), (CACHE_CONTROL, "no-cache")];
        (headers, Body::from_stream(texts)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn number(n: usize) -> Encoded {
        Encoded::of(&n)
    }

    #[tokio::test]
    async fn events_come_in_their_order_with_their_ids() {
        let (sender, mut lines) = lines(Stopping::default());
        sender.push(Some("1-7"), &number(7)).unwrap();
        sender.push(None, &number(8)).unwrap();
        assert_eq!(lines.next().await.unwrap(), "id: 1-7\ndata: 7\n\n");
        assert_eq!(lines.next().await.unwrap(), "data: 8\n\n");
    }

    #[tokio::test]
    async fn who_does_not_keep_up_is_cut_and_told_of_the_gap() {
        let (sender, mut lines) = lines(Stopping::default());
        let cut = (0..).find(|n| sender.push(None, &number(*n)).is_err());
        assert_eq!(cut, Some(QUEUE_FRAMES_MAX));
        assert!(sender.is_over() && sender.push(None, &number(0)).is_err());
        assert_eq!(lines.next().await.unwrap(), GAP, "what was queued is let go");
        assert_eq!(lines.next().await, None);
    }

    #[tokio::test]
    async fn who_has_gone_is_over_and_who_stops_says_no_more() {
        let stopping = Stopping::default();
        let (sender, mut lines) = super::lines(stopping.clone());
        stopping.0.cancel();
        assert_eq!(lines.next().await, None);
        assert!(!sender.is_over());
        drop(lines);
        assert!(sender.is_over());
    }

    #[test]
    fn it_is_asked_for_by_its_type() {
        let asks = |accept: &'static str| {
            let accept = HeaderValue::from_static(accept);
            is_asked(&HeaderMap::from_iter([(ACCEPT, accept)]))
        };
        assert!(asks("text/event-stream") && asks("text/html, text/event-stream;q=0.9"));
        assert!(!asks("*/*") && !is_asked(&HeaderMap::new()));
    }
}
