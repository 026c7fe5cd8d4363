//! Traces over real sockets: from who asks, through who is asked, to a collector that reads what OTLP's
//! own definitions say, or that is not there.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::{get, post};
use http::HeaderMap;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tracing::Instrument as _;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt as _;
use transport::problem::finish;
use transport::traces::{Fates, Tracer, here};
use transport::{Endpoint, Listen};

use super::{LIMIT, Running, anywhere, client, free_addr, within};

type Told = mpsc::UnboundedReceiver<ExportTraceServiceRequest>;

async fn collect(State(to): State<mpsc::UnboundedSender<ExportTraceServiceRequest>>, body: Bytes) {
    to.send(ExportTraceServiceRequest::decode(body).unwrap()).unwrap();
}

async fn collector(at: SocketAddr) -> (Running, Told) {
    let (to, told) = mpsc::unbounded_channel();
    let router = Router::new().route("/v1/traces", post(collect)).with_state(to);
    (Running::start(Listen::Plain(at), router).await, told)
}

/// A tracer for what this test's thread does.
fn tracing_to(collector: &str) -> (Tracer, DefaultGuard) {
    let tracer = Tracer::start("test", collector).unwrap();
    let subscriber = Registry::default().with(tracer.layer());
    (tracer, tracing::subscriber::set_default(subscriber))
}

/// All spans that have ended until now.
async fn spans(tracer: &Tracer, told: &mut Told) -> Vec<Span> {
    let flushing = tracer.clone();
    spawn_blocking(move || flushing.flush()).await.unwrap();
    let mut spans = Vec::new();
    while let Ok(batch) = told.try_recv() {
        let scopes = batch.resource_spans.into_iter().flat_map(|of| of.scope_spans);
        spans.extend(scopes.flat_map(|scope| scope.spans));
    }
    spans
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found = spans.iter().find(|span| span.name == name);
    found.unwrap_or_else(|| panic!("{name} is not in {spans:#?}"))
}

fn router() -> Router {
    let done = async || {
        async {}.instrument(tracing::debug_span!("libvirt")).await;
        "done"
    };
    finish(Router::new().route("/jobs/{id}", get(done)))
}

/// Ends spans that belong to a trace of their own.
fn end_spans(count: usize) {
    let root = tracing::debug_span!("root", begins_trace = true);
    root.in_scope(|| (1..count).for_each(|_| drop(tracing::debug_span!("child"))));
}

/// Asks as one does with `curl`, and reads the status line.
async fn curl(server: &Running, header: &str) -> String {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let ask = format!("GET /jobs/1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn one_request_is_followed_from_who_asks_to_what_is_done_for_it() {
    let (collector, mut told) = collector(anywhere()).await;
    let (tracer, _subscribed) = tracing_to(&collector.http());
    let server = Running::tls(router()).await;
    let ask = async || client().get_bytes(&server.https(), "/jobs/1", 1024).await.unwrap();

    // Nobody said that a trace begins here.
    ask().await;
    assert_eq!(here(), None);
    let root = tracing::debug_span!("ostler", otel.name = "ostler run", begins_trace = true);
    ask().instrument(root).await;

    let spans = spans(&tracer, &mut told).await;
    assert_eq!(spans.len(), 4, "the first request is in no trace: {spans:#?}");
    let chain = ["ostler run", "GET /jobs/1", "GET /jobs/{id}", "libvirt"];
    let [root, asked, served, called] = chain.map(|name| named(&spans, name));
    assert!(root.parent_span_id.is_empty());
    assert_eq!(asked.parent_span_id, root.span_id);
    assert_eq!(served.parent_span_id, asked.span_id);
    assert_eq!(called.parent_span_id, served.span_id);
    assert!(spans.iter().all(|span| span.trace_id == root.trace_id), "{spans:#?}");
    assert_eq!((asked.kind(), served.kind()), (SpanKind::Client, SpanKind::Server));
    for (outer, inner) in [(root, asked), (asked, served), (served, called)] {
        assert!(outer.start_time_unix_nano <= inner.start_time_unix_nano);
        assert!(inner.end_time_unix_nano <= outer.end_time_unix_nano);
    }
    assert_eq!(tracer.fates(), Fates { sent: 4, ..Fates::default() });
}

#[tokio::test]
async fn what_goes_on_after_the_answer_belongs_to_who_asked() {
    let (collector, mut told) = collector(anywhere()).await;
    let (tracer, _subscribed) = tracing_to(&collector.http());
    let root = tracing::debug_span!("root", begins_trace = true);
    let place = root.in_scope(here).expect("the root is traced");
    drop(root);
    let later = tracing::debug_span!(parent: None, "later");
    place.takes(&later);
    drop(later);

    let spans = spans(&tracer, &mut told).await;
    let [root, later] = ["root", "later"].map(|name| named(&spans, name));
    assert_eq!((&later.trace_id, &later.parent_span_id), (&root.trace_id, &root.span_id));
    assert!(root.end_time_unix_nano <= later.start_time_unix_nano);
}

#[tokio::test]
async fn whoever_asks_says_by_its_header_whether_it_is_traced() {
    let (collector, mut told) = collector(anywhere()).await;
    let (tracer, _subscribed) = tracing_to(&collector.http());
    let server = Running::start(Listen::Plain(anywhere()), router()).await;
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    for header in [
        format!("traceparent: 00-{trace}-{parent}-00"),
        format!("traceparent: 00-{trace}-0000000000000000-01"),
        "traceparent: nonsense".to_owned(),
        "x-nothing: 1".to_owned(),
    ] {
        assert_eq!(curl(&server, &header).await, "HTTP/1.1 200 OK", "{header}");
        assert_eq!(spans(&tracer, &mut told).await, [], "{header}");
    }
    curl(&server, &format!("traceparent: 00-{trace}-{parent}-01")).await;
    let spans = spans(&tracer, &mut told).await;
    let served = named(&spans, "GET /jobs/{id}");
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    assert_eq!((&*hex(&served.trace_id), &*hex(&served.parent_span_id)), (trace, parent));
}

#[tokio::test]
async fn without_a_collector_no_header_is_carried() {
    let carried = async |headers: HeaderMap| headers.contains_key("traceparent").to_string();
    let server = Running::tls(finish(Router::new().route("/", get(carried)))).await;
    let root = tracing::debug_span!("root", begins_trace = true);
    let ask = async || client().get_bytes(&server.https(), "/", 1024).await.unwrap();
    assert_eq!(ask().instrument(root).await, "false");
}

#[tokio::test]
async fn a_collector_that_does_not_answer_costs_spans_and_no_time() {
    let (batch_max, waiting_max) = (512, 4096);
    // It takes connections, and never reads.
    let silent = tokio::net::TcpListener::bind(anywhere()).await.unwrap();
    let (tracer, _subscribed) = tracing_to(&format!("http://{}", silent.local_addr().unwrap()));
    let server = Running::tls(router()).await;
    let begun = Instant::now();
    end_spans(20_000);
    let root = tracing::debug_span!("root", begins_trace = true);
    let ask = async || client().get_bytes(&server.https(), "/jobs/1", 1024).await;
    assert_eq!(ask().instrument(root).await.unwrap(), "done");
    let flushing = tracer.clone();
    spawn_blocking(move || flushing.flush()).await.unwrap();
    let took = begun.elapsed();

    assert!(took < Duration::from_secs(4), "a batch may take 5 s, and all of this took {took:?}");
    let Fates { sent, dropped, .. } = tracer.fates();
    assert_eq!(sent, 0);
    let dropped = usize::try_from(dropped).unwrap();
    // One batch is being sent, and one may have been gathered.
    assert!(dropped >= 20_000 - waiting_max - 2 * batch_max, "only {dropped} were dropped");
}

#[tokio::test]
async fn a_collector_that_comes_back_is_sent_to_again() {
    let at = free_addr();
    let (tracer, _subscribed) = tracing_to(&format!("http://{at}"));
    end_spans(10);
    let undelivered = async || {
        while tracer.fates().undelivered < 10 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(undelivered()).await;
    assert_eq!(tracer.fates(), Fates { undelivered: 10, ..Fates::default() });

    let (_collector, mut told) = collector(at).await;
    end_spans(3);
    let batch = tokio::time::timeout(LIMIT, told.recv()).await.unwrap().unwrap();
    assert_eq!(batch.resource_spans[0].scope_spans[0].spans.len(), 3);
}

#[tokio::test]
async fn an_address_that_is_none_is_refused() {
    for url in ["", "collector:4318", "unix:/run/x", "http://"] {
        let error = Tracer::start("test", url).unwrap_err();
        assert!(error.to_string().contains("send traces to"), "{error}");
    }
    // Whoever asks over TLS believes the machine's authorities, not a key of ours.
    let server = Running::tls(router()).await;
    let Endpoint { url, .. } = server.https();
    let (tracer, _subscribed) = tracing_to(&url);
    end_spans(1);
    let undelivered = async || {
        while tracer.fates().undelivered < 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(undelivered()).await;
}
