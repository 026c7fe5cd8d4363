//! A simulated host's end of a stream: the frames of RFC 6455 by hand, written by whoever has one.
//!
//! Decides that nothing stands between an event and the socket. Some thousand hosts in one process are
//! the load and not what is measured: each event wakes no task and takes no queue, so that most
//! of what they cost is what the system takes for sending.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse as _, Response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// First bytes of whole frames: text, a ping, its answer, a goodbye.
const TEXT: u8 = 0x81;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
const CLOSE: u8 = 0x88;

/// A text as a whole frame of a server.
pub(crate) fn frame(text: &str) -> Bytes {
    let mut frame = Vec::with_capacity(text.len() + 10);
    frame.push(TEXT);
    match (u8::try_from(text.len()), u16::try_from(text.len())) {
        (Ok(short @ ..126), _) => frame.push(short),
        (_, Ok(length)) => {
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend((text.len() as u64).to_be_bytes());
        }
    }
    frame.extend(text.as_bytes());
    frame.into()
}

/// What may be written from anywhere.
#[derive(Clone)]
pub(crate) struct Line(Arc<Mutex<Ends>>);

struct Ends {
    io: TokioIo<Upgraded>,
    /// What the socket had no room for.
    queued: VecDeque<Bytes>,
    /// The task that reads, and writes what is queued.
    waker: Waker,
    is_over: bool,
}

impl Line {
    /// Writes a frame; false once the other end is gone.
    pub(crate) fn push(&self, frame: &Bytes) -> bool {
        let mut ends = self.0.lock().expect("no panic");
        if !ends.is_over {
            let waker = ends.waker.clone();
            ends.queued.push_back(frame.clone());
            let written = ends.write(&mut Context::from_waker(&waker));
            ends.is_over = matches!(written, Poll::Ready(Err(_)));
        }
        !ends.is_over
    }

    /// Answers pings until the other end is gone.
    async fn listen(&self) {
        let (mut room, mut filled) = ([0; 1_024], 0);
        while let Ok(read @ 1..) = poll_fn(|cx| self.poll_read(cx, &mut room[filled..])).await {
            filled += read;
            while let Some((kind, length)) = whole_frame(&room[..filled]) {
                room.copy_within(length..filled, 0);
                filled -= length;
                match kind {
                    PING => drop(self.push(&Bytes::from_static(&[PONG, 0]))),
                    CLOSE => return self.end(),
                    _ => {}
                }
            }
        }
        self.end();
    }

    fn poll_read(&self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut ends = self.0.lock().expect("no panic");
        ends.waker.clone_from(cx.waker());
        if let Poll::Ready(Err(error)) = ends.write(cx) {
            return Poll::Ready(Err(error));
        }
        let mut room = ReadBuf::new(room);
        ready!(Pin::new(&mut ends.io).poll_read(cx, &mut room))?;
        Poll::Ready(Ok(room.filled().len()))
    }

    fn end(&self) {
        self.0.lock().expect("no panic").is_over = true;
    }
}

impl Ends {
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(first) = self.queued.front_mut() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, first))?;
            let _ = first.split_to(written);
            if first.is_empty() {
                self.queued.pop_front();
            }
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }
}

/// The kind and length of a client's next frame, once all of it is there. Clients say nothing long.
fn whole_frame(bytes: &[u8]) -> Option<(u8, usize)> {
    let [kind, length, ..] = *bytes else { return None };
    // Its mask has four bytes.
    let length = 2 + 4 + usize::from(length & 0x7f);
    (bytes.len() >= length).then_some((kind, length))
}

/// Answers yes to who opens a WebSocket, tells `greet` about the line, and listens.
pub(crate) fn open(mut request: Request, greet: impl FnOnce(Line) + Send + 'static) -> Response {
    let key = request.headers().get(SEC_WEBSOCKET_KEY).expect("a WebSocket");
    let accept = derive_accept_key(key.as_bytes());
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().expect("a connection");
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let (io, waker) = (TokioIo::new(upgraded), Waker::noop().clone());
        let ends = Ends { io, queued: VecDeque::new(), waker, is_over: false };
        let line = Line(Arc::new(Mutex::new(ends)));
        greet(line.clone());
        line.listen().await;
    });
    let headers: [(HeaderName, String); 3] = [
        (CONNECTION, "upgrade".to_owned()),
        (UPGRADE, "websocket".to_owned()),
        (SEC_WEBSOCKET_ACCEPT, accept),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}
