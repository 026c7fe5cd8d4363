//! Events for those without a WebSocket: from a cursor, and cut when they do not keep up.

use protocol::api::PutIntent;
use protocol::host::HostIntent;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::*;

/// More than a queue, what the server has ready to be sent, and what the kernel holds, which are some
/// hundred KiB each.
const EVENTS: u32 = 2_600;

/// A subscriber who reads the connection himself.
struct Raw {
    stream: UnixStream,
    text: String,
}

impl Raw {
    async fn open(bench: &Bench, last: Option<&str>) -> Self {
        let mut stream = UnixStream::connect(bench.data().join("agent.sock")).await.unwrap();
        let last = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let ask = format!(
            "GET /v1/events HTTP/1.1\r\nHost: agent\r\nAccept: text/event-stream\r\n{last}\r\n"
        );
        stream.write_all(ask.as_bytes()).await.unwrap();
        Self { stream, text: String::new() }
    }

    /// Reads until this was said; all of it until now.
    async fn until(&mut self, what: &str) -> &str {
        let mut buffer = vec![0; 64 << 10];
        while !self.text.contains(what) {
            let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut buffer));
            let read = read.await.unwrap_or_else(|_| panic!("{what}: not in {}", self.text));
            let bytes = &buffer[..read.unwrap()];
            assert!(!bytes.is_empty(), "it ended without {what}");
            self.text.push_str(&String::from_utf8_lossy(bytes));
        }
        &self.text
    }

    fn ids(&self) -> Vec<&str> {
        self.text.lines().filter_map(|line| line.strip_prefix("id: ")).collect()
    }
}

impl Bench {
    async fn drain(&self, is_drained: bool) {
        let path = "/v1/config/intent";
        let (to, client) = (self.local(), &self.client);
        let done = match is_drained {
            true => {
                let put = PutIntent { intent: HostIntent::Drain };
                client.send::<_, Option<()>>(Method::PUT, &to, path, &put).await
            }
            false => client.send::<_, Option<()>>(Method::DELETE, &to, path, &()).await,
        };
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_sent_events_go_on_from_the_last_id() {
    let bench = Bench::new().await;
    let mut first = Raw::open(&bench, None).await;
    let text = first.until("\"frame\":\"current\"").await;
    assert!(text.contains("content-type: text/event-stream"), "{text}");
    assert!(text.contains("\"frame\":\"inventory\""), "{text}");
    bench.drain(true).await;
    first.until("\"intent\":\"drain\"").await;
    let last = first.ids().last().expect("every event has an id").to_string();
    drop(first);

    bench.drain(false).await;
    bench.drain(true).await;
    let mut again = Raw::open(&bench, Some(&last)).await;
    let text = again.until("\"frame\":\"current\"").await.to_owned();
    assert!(!text.contains("inventory"), "what it had is not told again: {text}");
    let (epoch, seq) = last.split_once(':').expect("a cursor");
    let seq: u64 = seq.parse().unwrap();
    assert_eq!(again.ids(), [format!("{epoch}:{}", seq + 1), format!("{epoch}:{}", seq + 2)]);

    let mut lost = Raw::open(&bench, Some("0:0")).await;
    assert!(lost.until("\"frame\":\"current\"").await.contains("inventory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_subscriber_is_cut_with_a_gap_and_delays_nobody() {
    let bench = Bench::new().await;
    let mut stuck = Raw::open(&bench, None).await;
    stuck.until("\"frame\":\"current\"").await;
    let mut brisk = connect_stream(&bench.client, &bench.local(), "/v1/events").await.unwrap();
    let reading = tokio::spawn(async move {
        let mut events = 0_u32;
        while let Some(Ok(frame)) = brisk.next::<Frame>().await {
            events += u32::from(matches!(frame, Frame::Event(_)));
            if events == EVENTS {
                return;
            }
        }
        panic!("cut after {events} events");
    });
    for turn in 0..EVENTS {
        bench.drain(turn % 2 == 0).await;
    }
    tokio::time::timeout(PATIENCE, reading).await.expect("it has all of them").unwrap();
    let text = stuck.until("event: gap").await;
    assert!(text.matches("\nid: ").count() < EVENTS as usize, "it was not told everything");
    let mut rest = Vec::new();
    stuck.stream.read_to_end(&mut rest).await.unwrap();
}
