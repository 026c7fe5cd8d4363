//! A peer that speaks WebSocket as it likes: the stream that was opened for it ends, brings nothing
//! larger than is allowed, and waits for nobody for ever.

#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use axum::routing::get;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use libfuzzer_sys::fuzz_target;
use protocol::event::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use transport::stream::Upgrade;
use transport::{Peer, Via};

/// Longest that a stream may outlive a peer that is gone: a question for a sign of life, the wait for
/// the answer, and a goodbye. The clock is not the world's: waiting costs nothing.
const END: Duration = Duration::from_secs(120);

const HANDSHAKE: &[u8] =
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[derive(Debug, Arbitrary)]
struct Sketch {
    pieces: Vec<Piece>,
    is_cut: bool,
}

#[derive(Debug, Arbitrary)]
enum Piece {
    Raw(Vec<u8>),
    /// A frame with any head; its length may be a lie.
    Made {
        head: u8,
        mask: Option<[u8; 4]>,
        lie: Option<u64>,
        payload: Vec<u8>,
    },
    Text(String),
}

fuzz_target!(|sketch: Sketch| {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let (ours, theirs) = duplex(64 << 10);
        let serving = tokio::spawn(serve(theirs));
        let playing = tokio::time::timeout(END, play(ours, sketch));
        playing.await.expect("the stream ends when its peer has nothing more to say");
        serving.abort();
    });
});

async fn serve(io: DuplexStream) {
    let peer = Peer { key: None, via: Via::Plain };
    let router = Router::new().route("/", get(take)).layer(Extension(peer));
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new().serve_connection(TokioIo::new(io), service);
    let _ = connection.with_upgrades().await;
}

/// Reads frames as a follower of events does, and answers some.
async fn take(upgrade: Upgrade) -> axum::response::Response {
    upgrade.frames(|mut frames| async move {
        while let Some(frame) = frames.next::<Frame>().await {
            match frame {
                Ok(frame) => {
                    if frames.send(&frame).await.is_err() {
                        break;
                    }
                }
                Err(error) => drop(error.to_string()),
            }
        }
    })
}

async fn play(io: DuplexStream, sketch: Sketch) {
    let (mut from, mut to) = tokio::io::split(io);
    to.write_all(HANDSHAKE).await.expect("the server reads");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(from.read_u8().await.expect("the server answers"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    let saying = async {
        for piece in sketch.pieces.iter().take(64) {
            if to.write_all(&bytes(piece)).await.is_err() {
                return;
            }
        }
        if sketch.is_cut {
            let _ = to.shutdown().await;
        }
    };
    let listening = async {
        let mut heard = [0; 4096];
        while from.read(&mut heard).await.is_ok_and(|length| length > 0) {}
    };
    tokio::join!(saying, listening);
}

fn bytes(piece: &Piece) -> Vec<u8> {
    match piece {
        Piece::Raw(bytes) => bytes.clone(),
        Piece::Text(text) => made(0x81, Some([0; 4]), None, text.as_bytes()),
        Piece::Made { head, mask, lie, payload } => made(*head, *mask, *lie, payload),
    }
}

fn made(head: u8, mask: Option<[u8; 4]>, lie: Option<u64>, payload: &[u8]) -> Vec<u8> {
    let length = lie.unwrap_or(payload.len() as u64);
    let is_masked = if mask.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![head];
    match length {
        0..126 => bytes.push(is_masked | u8::try_from(length).expect("below 126")),
        126..0x1_0000 => {
            bytes.push(is_masked | 126);
            bytes.extend(u16::try_from(length).expect("two bytes").to_be_bytes());
        }
        _ => {
            bytes.push(is_masked | 127);
            bytes.extend(length.to_be_bytes());
        }
    }
    let mask = mask.inspect(|mask| bytes.extend(mask)).unwrap_or_default();
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}
