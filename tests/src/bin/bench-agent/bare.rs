//! What agents are compared with: a server that does the same JSON and nothing else, and one that sends
//! the same frames.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use protocol::api::PutJob;
use protocol::job::{Job, JobState};
use tokio::net::UnixListener;
use tokio_tungstenite::tungstenite::Message;

use crate::agent::body;

/// The job that it answers with.
fn job() -> Job {
    let id = protocol::id::JobId::new("first").expect("a name");
    Job {
        domain_uuid: Some(id.domain_uuid()),
        revision: body().revision,
        since_ms: 1_700_000_000_000,
        ..Job::of(id, body().spec, JobState::Running)
    }
}

/// Reads a `PutJob` if there is one, and answers with a `Job`.
pub(crate) async fn answer(socket: &str) {
    let listener = UnixListener::bind(socket).expect("a socket");
    println!("ready");
    let job = std::sync::Arc::new(job());
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let job = std::sync::Arc::clone(&job);
        let service = service_fn(move |request: Request<Incoming>| {
            let job = std::sync::Arc::clone(&job);
            async move {
                let is_put = request.method() == hyper::Method::PUT;
                let asked = request.into_body().collect().await?.to_bytes();
                let answer = match is_put.then(|| serde_json::from_slice::<PutJob>(&asked)) {
                    Some(put) => Job { spec: put.expect("a job").spec.into(), ..Job::clone(&job) },
                    None => Job::clone(&job),
                };
                let text = serde_json::to_vec(&answer).expect("JSON");
                let response = Response::builder().header("content-type", "application/json");
                Ok::<_, hyper::Error>(response.body(Full::new(Bytes::from(text))).expect("a reply"))
            }
        });
        let io = TokioIo::new(stream);
        tokio::spawn(async move {
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        });
    }
}

/// Takes WebSockets; for each line with a number it sends the file's text to each of them so often, a hundred
/// times a second.
pub(crate) async fn send(socket: &str, file: &str) {
    let text = std::fs::read_to_string(file).expect("a frame");
    let listener = UnixListener::bind(socket).expect("a socket");
    println!("ready");
    let (say, mut lines) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        let lines = std::io::stdin().lines().map_while(Result::ok);
        lines.take_while(|line| say.blocking_send(line.clone()).is_ok()).for_each(drop);
    });
    let mut sinks = Vec::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.expect("a connection");
                let socket = tokio_tungstenite::accept_async(stream).await.expect("a WebSocket");
                sinks.push(socket.split().0);
            }
            line = lines.recv() => {
                let Some(line) = line else { return };
                let count: u32 = line.trim().parse().expect("a number");
                let mut ticks = tokio::time::interval(Duration::from_millis(10));
                for _ in 0..count {
                    ticks.tick().await;
                    for sink in &mut sinks {
                        sink.send(Message::text(text.clone())).await.expect("it is read");
                    }
                }
            }
        }
    }
}
