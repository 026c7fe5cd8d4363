//! Pipes: raw bytes both ways through TLS, one way closed before the other, and the server's stop.

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use transport::CallError;
use transport::pipe::{Pipe, PipeUpgrade, connect_pipe};

use crate::{Running, client, within};

/// Sends everything back, and closes its side when the other has closed its own.
fn echo() -> Router {
    let handler = async |upgrade: PipeUpgrade| {
        upgrade.pipe(async |pipe: Pipe| {
            let (mut from, mut to) = tokio::io::split(pipe);
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        })
    };
    transport::problem::finish(Router::new().route("/echo", get(handler)))
}

#[tokio::test]
async fn megabytes_come_back_and_the_end_is_passed_on() {
    let server = Running::tls(echo()).await;
    let pipe = connect_pipe(&client(), &server.https(), "/echo").await.unwrap();
    let (mut from, mut to) = tokio::io::split(pipe);
    let sent: Vec<u8> = (0..4_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let mut came = Vec::new();
    within(from.read_to_end(&mut came)).await.unwrap();
    assert!(came == expected, "{} of {} bytes", came.len(), expected.len());
    within(writing).await.unwrap();
}

#[tokio::test]
async fn a_plain_request_is_told_how_to_ask() {
    let server = Running::tls(echo()).await;
    let answer: Result<(), CallError> = client().get(&server.https(), "/echo").await;
    let Err(CallError::Problem { problem, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!((problem.status, problem.name()), (426, "upgrade-required"));
}

#[tokio::test]
async fn the_servers_stop_ends_a_pipe() {
    let server = Running::tls(echo()).await;
    let mut pipe = connect_pipe(&client(), &server.https(), "/echo").await.unwrap();
    pipe.write_all(b"x").await.unwrap();
    let mut byte = [0];
    within(pipe.read_exact(&mut byte)).await.unwrap();
    server.stopped().await;
    let end = within(pipe.read(&mut byte)).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}
