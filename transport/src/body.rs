//! A request's body as a server takes it: never for ever, and never cut in the middle of an answer.
//!
//! Decides two things. A client that stops sending, or sends drop by drop, is cut, so that it can't
//! hold a connection and a handler's memory. And of what a handler leaves unread the rest is read
//! and thrown away, for a bounded time: otherwise a refusal given before the end of an upload is
//! often lost, because the connection is closed over unread bytes, the kernel resets it, and the
//! client has an ambiguous error instead of the reason.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep, timeout};

/// How long a client may go on sending what nobody wants.
const DRAIN: Duration = Duration::from_secs(5);

/// Bytes that must come between two judgements of a body's pace, if it does not end before.
const PROGRESS_BYTES_MIN: usize = 16 << 10;

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The connection broke, or what came is no HTTP.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    /// The client is slower than a modem.
    #[error("the body came too slowly: send at least {PROGRESS_BYTES_MIN} bytes in {within:?}")]
    TooSlow {
        /// The time between two judgements.
        within: Duration,
    },
}

/// The body as it comes, judged by its pace, drained when dropped.
pub(crate) struct RequestBody {
    incoming: Option<Incoming>,
    judged_every: Duration,
    /// Runs from the first time that the body made somebody wait.
    judgement: Option<Pin<Box<Sleep>>>,
    bytes_since: usize,
}

impl RequestBody {
    pub(crate) fn new(body: Incoming, judged_every: Duration) -> Self {
        Self { incoming: Some(body), judged_every, judgement: None, bytes_since: 0 }
    }

    fn incoming(&mut self) -> &mut Incoming {
        self.incoming.as_mut().expect("the body is there until it is dropped")
    }

    /// Ready when the body is too slow.
    fn poll_judgement(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let period = self.judged_every;
        let judgement = self.judgement.get_or_insert_with(|| Box::pin(sleep(period)));
        loop {
            ready!(judgement.as_mut().poll(cx));
            if self.bytes_since < PROGRESS_BYTES_MIN {
                return Poll::Ready(());
            }
            self.bytes_since = 0;
            judgement.as_mut().reset(Instant::now() + period);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(self.incoming()).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.bytes_since += frame.data_ref().map_or(0, Bytes::len);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(end) => Poll::Ready(end.map(|frame| frame.map_err(BodyError::from))),
            Poll::Pending => {
                ready!(self.poll_judgement(cx));
                Poll::Ready(Some(Err(BodyError::TooSlow { within: self.judged_every })))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let rest = self.incoming.take().filter(|body| !body.is_end_stream());
        if let (Some(mut body), Ok(runtime)) = (rest, Handle::try_current()) {
            runtime.spawn(timeout(
                DRAIN,
                async move { while let Some(Ok(_)) = body.frame().await {} },
            ));
        }
    }
}
