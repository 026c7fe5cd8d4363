//! The way to the collector: one request a batch, over our own sockets.
//!
//! Over TLS it is believed by the machine's authorities, as any server of the web: collectors know
//! nothing of our keys. When to ask, and for how long, is the queue's.

use std::pin::Pin;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};

use crate::download::{Web, WebUrl};

/// Longest answer that is read: it says at most how many spans were not taken.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// A collector of traces.
#[derive(Debug)]
pub(super) struct Collector {
    url: WebUrl,
    web: Web,
}

type Answering<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl Collector {
    /// The one at this URL, path included.
    ///
    /// # Errors
    /// In words, when it is no URL.
    pub(super) fn at(url: &str) -> Result<Self, String> {
        Ok(Self { url: WebUrl::parse(url)?, web: Web::of_this_machine() })
    }

    /// A connection for each batch: there is seldom more than one a second.
    async fn ask(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let io = self.web.connect(&self.url).await?;
        let (mut sender, connection) = handshake(TokioIo::new(io)).await?;
        // Ends with the answer.
        tokio::spawn(connection);
        let (mut head, body) = request.into_parts();
        head.headers.insert(http::header::HOST, self.url.authority().parse()?);
        head.uri = self.url.path().clone().into();
        let asked = Request::from_parts(head, Full::new(body));
        let (head, body) = sender.send_request(asked).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}

impl HttpClient for Collector {
    fn send_bytes<'a, 'b>(&'a self, request: Request<Bytes>) -> Answering<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        // Why it is not reached is kept from whoever sends.
        Box::pin(async move {
            let answer = self.ask(request).await;
            answer.inspect_err(|error| tracing::debug!("send traces to {}: {error}", self.url))
        })
    }
}
