//! A request body of which a handler may leave any part unread.
//!
//! Decides that the rest is then read and thrown away, for a bounded time. Without this, a refusal
//! given before the end of an upload is often lost: the connection is closed over unread bytes,
//! the kernel resets it, and the client has an ambiguous error instead of the reason.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// How long a client may go on sending what nobody wants.
const DRAIN: Duration = Duration::from_secs(5);

/// The body as it comes, drained when dropped.
pub(crate) struct DrainedBody(Option<Incoming>);

impl DrainedBody {
    pub(crate) fn new(body: Incoming) -> Self {
        Self(Some(body))
    }

    fn inner(&mut self) -> &mut Incoming {
        self.0.as_mut().expect("the body is there until it is dropped")
    }
}

impl Body for DrainedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(self.inner()).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for DrainedBody {
    fn drop(&mut self) {
        let rest = self.0.take().filter(|body| !body.is_end_stream());
        if let (Some(mut body), Ok(runtime)) = (rest, Handle::try_current()) {
            runtime.spawn(timeout(
                DRAIN,
                async move { while let Some(Ok(_)) = body.frame().await {} },
            ));
        }
    }
}
