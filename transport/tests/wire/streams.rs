//! Streams: typed frames through TLS, consoles, slow subscribers, silence, goodbyes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use transport::stream::{
    Cut, Encoded, Frame, Liveness, StreamError, Upgrade, close, connect_stream_direct,
    connect_stream_with,
};
use transport::{CallError, FrameSender, Frames, Listen, connect_stream};

use crate::{Running, anywhere, client, within};

/// Sends back what it gets, frame by frame.
fn echo() -> Router {
    let handler = async |upgrade: Upgrade| {
        upgrade.frames(async |mut frames: Frames| {
            while let Some(Ok(frame)) = frames.next_frame().await {
                let sent = match frame {
                    Frame::Text(text) => frames.send_text(text).await,
                    Frame::Bytes(bytes) => frames.send_bytes(bytes).await,
                };
                if sent.is_err() {
                    return;
                }
            }
        })
    };
    transport::problem::finish(Router::new().route("/echo", get(handler)))
}

/// Hands the server's end of each stream to the test.
fn handing_over() -> (Router, mpsc::Receiver<Frames>) {
    handing_over_as(|upgrade| upgrade)
}

fn handing_over_as(
    read: impl Fn(Upgrade) -> Upgrade + Clone + Send + Sync + 'static,
) -> (Router, mpsc::Receiver<Frames>) {
    let (give, take) = mpsc::channel(8);
    let handler = async move |upgrade: Upgrade| {
        let upgrade = read(upgrade).with_ping_interval(Duration::from_millis(200));
        upgrade.frames(async move |frames| {
            let _ = give.send(frames).await;
        })
    };
    (Router::new().route("/", get(handler)), take)
}

async fn connect_directly(server: &Running) -> Frames {
    connect_stream_direct(&client(), &server.https(), "/", Liveness::default()).await.unwrap()
}

#[tokio::test]
async fn typed_frames_and_raw_bytes_travel_through_tls() {
    let server = Running::tls(echo()).await;
    let mut frames = connect_stream(&client(), &server.https(), "/echo").await.unwrap();
    assert_eq!(frames.peer_key(), Some(server.identity.public()));
    frames.send(&json!({ "seq": 1 })).await.unwrap();
    assert_eq!(within(frames.next::<Value>()).await, Some(Ok(json!({ "seq": 1 }))));
    frames.send_bytes(vec![0, 255]).await.unwrap();
    let bytes = within(frames.next_frame()).await;
    assert_eq!(bytes, Some(Ok(Frame::Bytes(vec![0, 255].into()))));
    frames.send_text("not json").await.unwrap();
    let bad = within(frames.next::<Value>()).await;
    assert!(matches!(bad, Some(Err(StreamError::Bad { .. }))), "{bad:?}");
    frames.send(&2).await.unwrap();
    assert_eq!(within(frames.next::<u32>()).await, Some(Ok(2)), "a bad frame ended the stream");
}

#[tokio::test]
async fn an_inventory_of_several_megabytes_fits() {
    let server = Running::tls(echo()).await;
    let mut frames = connect_stream(&client(), &server.https(), "/echo").await.unwrap();
    let large = "x".repeat(7 << 20);
    frames.send_text(large.clone()).await.unwrap();
    assert_eq!(within(frames.next_frame()).await, Some(Ok(Frame::Text(large))));
}

#[tokio::test]
async fn a_refused_stream_says_why() {
    let server = Running::tls(echo()).await;
    let error = connect_stream(&client(), &server.https(), "/nowhere").await.unwrap_err();
    assert_eq!(error.problem().map(|p| p.status), Some(404), "{error:?}");
    let error = client().get::<Value>(&server.https(), "/echo").await.unwrap_err();
    assert_eq!(error.problem().map(|p| p.name()), Some("upgrade-required"), "{error:?}");
    let other = transport::Identity::ephemeral();
    let wrong = transport::Endpoint::of_key(server.https().url, other.public());
    let error = connect_stream(&client(), &wrong, "/echo").await.unwrap_err();
    assert!(matches!(error, CallError::NotSent { .. }), "{error:?}");
}

#[tokio::test]
async fn what_was_queued_arrives_before_the_goodbye() {
    let (router, mut ends) = handing_over();
    let server = Running::tls(router).await;
    let mut frames = connect_stream(&client(), &server.https(), "/").await.unwrap();
    let end = within(ends.recv()).await.unwrap();
    for i in 0..500 {
        end.sender().push(&i).unwrap();
    }
    end.sender().close(close::GAP, "start over");
    for i in 0..500 {
        assert_eq!(within(frames.next::<u32>()).await, Some(Ok(i)));
    }
    let reason = "start over".to_owned();
    let closed = StreamError::Closed { code: close::GAP, reason };
    assert_eq!(within(frames.next::<u32>()).await, Some(Err(closed)));
    assert_eq!(within(frames.next::<u32>()).await, None, "an end is told once");
}

#[tokio::test]
async fn dropping_one_end_is_a_normal_end_for_the_other() {
    let (router, mut ends) = handing_over();
    let server = Running::tls(router).await;
    let mut frames = connect_stream(&client(), &server.https(), "/").await.unwrap();
    let end = within(ends.recv()).await.unwrap();
    end.sender().push(&1).unwrap();
    drop(end);
    assert_eq!(within(frames.next::<u32>()).await, Some(Ok(1)));
    assert_eq!(within(frames.next::<u32>()).await, None);
    assert!(frames.send(&1).await.is_err());

    let frames = connect_stream(&client(), &server.https(), "/").await.unwrap();
    let mut end = within(ends.recv()).await.unwrap();
    drop(frames);
    assert_eq!(within(end.next::<u32>()).await, None);
    within(end.sender().over()).await;
}

#[tokio::test]
async fn a_stalled_subscriber_is_cut_and_delays_nobody() {
    let subscribers: Arc<Mutex<Vec<FrameSender>>> = Arc::default();
    let list = Arc::clone(&subscribers);
    let (joined, mut joins) = mpsc::channel(2);
    let handler = async move |upgrade: Upgrade| {
        upgrade.frames(async move |mut frames: Frames| {
            list.lock().unwrap().push(frames.sender());
            joined.send(()).await.unwrap();
            while let Some(Ok(_)) = frames.next_frame().await {}
        })
    };
    let server = Running::tls(Router::new().route("/", get(handler))).await;
    let client = client();
    let mut stalled = connect_stream(&client, &server.https(), "/").await.unwrap();
    within(joins.recv()).await.unwrap();
    let mut fast = connect_stream(&client, &server.https(), "/").await.unwrap();
    within(joins.recv()).await.unwrap();
    let [to_stalled, to_fast] = &subscribers.lock().unwrap().clone()[..] else { panic!() };

    let mut seq = 0_u64;
    let text = "x".repeat(32 << 10);
    loop {
        let event = Encoded::of(&json!({ "seq": seq, "text": text }));
        let is_cut = to_stalled.push_encoded(&event).is_err();
        to_fast.push_encoded(&event).unwrap();
        let got = within(fast.next::<Value>()).await.unwrap().unwrap();
        assert_eq!(got["seq"], seq, "the fast one missed an event");
        seq += 1;
        if is_cut {
            break;
        }
        assert!(seq < 10_000, "the stalled one was never cut");
    }
    assert!(to_stalled.is_over() && !to_fast.is_over());
    within(to_stalled.over()).await;
    let end = within(async {
        loop {
            match stalled.next::<Value>().await {
                Some(Ok(_)) => {}
                end => break end,
            }
        }
    })
    .await;
    assert!(matches!(end, Some(Err(_))), "the cut one took it for a normal end");
}

#[tokio::test]
async fn what_waits_is_bounded_in_bytes_and_a_message_in_size() {
    let (router, mut ends) = handing_over();
    let server = Running::tls(router).await;
    let _first = connect_stream(&client(), &server.https(), "/").await.unwrap();
    let end = within(ends.recv()).await.unwrap();
    // One thread and no await: nothing is written between these.
    let large = vec![0; 7 << 20];
    end.sender().push_bytes(large.clone()).unwrap();
    end.sender().push_bytes(large.clone()).unwrap();
    assert_eq!(end.sender().push_bytes(large), Err(Cut), "21 MiB wait for one subscriber");

    let mut second = connect_stream(&client(), &server.https(), "/").await.unwrap();
    let end = within(ends.recv()).await.unwrap();
    assert_eq!(end.sender().push_bytes(vec![0; 9 << 20]), Err(Cut));
    let closed = within(second.next::<Value>()).await;
    assert!(
        matches!(closed, Some(Err(StreamError::Closed { code: close::TOO_LARGE, .. }))),
        "{closed:?}"
    );
}

#[tokio::test]
async fn a_silent_peer_is_dropped() {
    let (router, mut ends) = handing_over();
    let server = Running::start(Listen::Plain(anywhere()), router).await;
    let mut silent = TcpStream::connect(server.addr).await.unwrap();
    let hello = "GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    silent.write_all(hello.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    silent.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
    let mut end = within(ends.recv()).await.unwrap();
    let lost = within(end.next::<Value>()).await;
    assert!(matches!(lost, Some(Err(StreamError::Lost { .. }))), "{lost:?}");
    assert!(end.sender().push(&1).is_err());
}

#[tokio::test]
async fn a_peer_that_only_answers_pings_is_kept() {
    let (router, mut ends) = handing_over();
    let server = Running::tls(router).await;
    let mut frames = connect_stream(&client(), &server.https(), "/").await.unwrap();
    let end = within(ends.recv()).await.unwrap();
    // Longer than the two intervals of 200 ms after which silence is noticed.
    tokio::time::sleep(Duration::from_millis(900)).await;
    end.sender().push(&1).unwrap();
    assert_eq!(within(frames.next::<u32>()).await, Some(Ok(1)));
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_asked_and_its_answer_is_seen_from_elsewhere() {
    let (router, mut ends) = handing_over();
    let server = Running::tls(router).await;
    let liveness = Liveness::of_interval(Duration::from_millis(50));
    let frames = connect_stream_with(&client(), &server.https(), "/", liveness).await.unwrap();
    let _end = within(ends.recv()).await.unwrap();
    let (pulse, before) = (frames.pulse(), frames.pulse().signs());
    let grown = async {
        while pulse.signs() < before + 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(grown).await;
    assert!(!frames.sender().is_over());
}

#[tokio::test]
async fn a_slow_application_is_not_taken_for_a_silent_peer() {
    let (router, mut ends) = handing_over();
    let server = Running::tls(router).await;
    let frames = connect_stream(&client(), &server.https(), "/").await.unwrap();
    let mut end = within(ends.recv()).await.unwrap();
    for i in 0..200 {
        frames.send(&i).await.unwrap();
    }
    // The server's inbox is full all this time, so it cannot see our pongs.
    tokio::time::sleep(Duration::from_millis(900)).await;
    for i in 0..200 {
        assert_eq!(within(end.next::<u32>()).await, Some(Ok(i)));
    }
}

#[tokio::test]
async fn a_stopping_server_says_goodbye_to_its_streams() {
    let server = Running::tls(echo()).await;
    let mut frames = connect_stream(&client(), &server.https(), "/echo").await.unwrap();
    frames.send(&1).await.unwrap();
    assert_eq!(within(frames.next::<u32>()).await, Some(Ok(1)));
    server.stopped().await;
    let end = within(frames.next::<u32>()).await;
    assert!(matches!(end, Some(Err(StreamError::Closed { code: close::STOPPING, .. }))), "{end:?}");
}

#[tokio::test]
async fn who_reads_directly_gets_every_frame_and_every_end() {
    let (router, mut ends) = handing_over_as(Upgrade::read_directly);
    let server = Running::tls(router).await;
    let mut frames = connect_directly(&server).await;
    let mut end = within(ends.recv()).await.unwrap();
    for i in 0..500 {
        frames.send(&i).await.unwrap();
        end.sender().push(&i).unwrap();
    }
    end.sender().close(close::GAP, "start over");
    for i in 0..500 {
        assert_eq!(within(frames.next::<u32>()).await, Some(Ok(i)));
    }
    let reason = "start over".to_owned();
    let closed = StreamError::Closed { code: close::GAP, reason };
    assert_eq!(within(frames.next::<u32>()).await, Some(Err(closed.clone())));
    assert_eq!(within(frames.next::<u32>()).await, None, "an end is told once");
    assert_eq!(within(end.next::<u32>()).await, Some(Err(closed)), "nothing after one's goodbye");

    let frames = connect_directly(&server).await;
    let mut end = within(ends.recv()).await.unwrap();
    for i in 0..3 {
        frames.send(&i).await.unwrap();
    }
    drop(frames);
    for i in 0..3 {
        assert_eq!(within(end.next::<u32>()).await, Some(Ok(i)));
    }
    assert_eq!(within(end.next::<u32>()).await, None);
    within(end.sender().over()).await;
}

#[tokio::test]
async fn who_waits_directly_is_woken_by_a_cut_from_elsewhere() {
    let (router, mut ends) = handing_over_as(Upgrade::read_directly);
    let server = Running::tls(router).await;
    let mut frames = connect_directly(&server).await;
    let sender = within(ends.recv()).await.unwrap().sender();
    let waiting = tokio::spawn(async move { frames.next::<u32>().await });
    tokio::task::yield_now().await;
    sender.cut(close::SLOW, "too slow");
    let told = within(waiting).await.unwrap();
    assert!(matches!(told, None | Some(Err(StreamError::Closed { .. }))), "{told:?}");

    let mut frames = connect_directly(&server).await;
    let sender = frames.sender();
    let _end = within(ends.recv()).await.unwrap();
    let waiting = tokio::spawn(async move { frames.next::<u32>().await });
    tokio::task::yield_now().await;
    sender.cut(close::SLOW, "our own");
    let told = within(waiting).await.unwrap();
    assert!(matches!(told, Some(Err(StreamError::Closed { code: close::SLOW, .. }))), "{told:?}");
}

#[tokio::test]
async fn who_waits_directly_answers_pings_and_notices_silence() {
    let (router, mut ends) = handing_over_as(Upgrade::read_directly);
    let server = Running::tls(router).await;
    let mut frames = connect_directly(&server).await;
    let mut end = within(ends.recv()).await.unwrap();
    let (sender, server_waits) =
        (end.sender(), tokio::spawn(async move { end.next::<u32>().await }));
    let waits = tokio::spawn(async move { frames.next::<u32>().await });
    // Longer than the two intervals of 200 ms after which silence is noticed.
    tokio::time::sleep(Duration::from_millis(900)).await;
    sender.push(&1).unwrap();
    assert_eq!(within(waits).await.unwrap(), Some(Ok(1)));
    assert_eq!(within(server_waits).await.unwrap(), None, "the client is dropped by then");

    // A client that reads nothing answers nothing.
    let _asleep = connect_directly(&server).await;
    let mut end = within(ends.recv()).await.unwrap();
    let lost = within(end.next::<Value>()).await;
    assert!(matches!(lost, Some(Err(StreamError::Lost { .. }))), "{lost:?}");
}
