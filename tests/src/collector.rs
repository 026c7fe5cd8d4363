//! A collector of traces, as OpenTelemetry's own definitions describe what it is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use data_encoding::HEXLOWER;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// One that listens until it is dropped.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    spans: Spans,
    _runtime: Runtime,
}

type Spans = Arc<Mutex<Vec<Span>>>;

/// A span, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The trace, in hex.
    pub trace: String,
    /// The span, in hex.
    pub id: String,
    /// What it is a part of; empty at the root.
    pub parent: String,
    /// What it is called.
    pub name: String,
    /// The service that tells of it.
    pub service: String,
    /// The host that this runs on.
    pub host: String,
}

/// The spans of one trace, by their ids.
#[derive(Debug)]
pub struct Trace(BTreeMap<String, Span>);

impl Collector {
    /// Listens at a free port of this address.
    ///
    /// # Panics
    /// When it can't.
    #[must_use]
    pub fn listen(address: &str) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind((address, 0))).expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let spans = Spans::default();
        let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&spans));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { address, spans, _runtime: runtime }
    }

    /// Where it is reached.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many traces there are of which something has come.
    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.spans).iter().map(|span| &span.trace).collect::<BTreeSet<_>>().len()
    }

    /// What has come of the trace that begins with a span of this name; `None` before that has come.
    #[must_use]
    pub fn trace(&self, root: &str) -> Option<Trace> {
        let spans = lock(&self.spans);
        let trace = &spans.iter().find(|span| span.name == root && span.parent.is_empty())?.trace;
        let of_it = spans.iter().filter(|span| span.trace == *trace);
        Some(Trace(of_it.map(|span| (span.id.clone(), span.clone())).collect()))
    }
}

impl Trace {
    /// Its spans.
    pub fn spans(&self) -> impl Iterator<Item = &Span> {
        self.0.values()
    }

    /// The names of the spans that this one is a part of, from the root to itself; up to where one has
    /// not come.
    #[must_use]
    pub fn way_to<'a>(&'a self, span: &'a Span) -> Vec<&'a str> {
        let mut way = vec![span.name.as_str()];
        let mut at = span;
        while let Some(outer) = self.0.get(&at.parent) {
            way.push(&outer.name);
            at = outer;
        }
        way.reverse();
        way
    }

    /// What is a part of something that has not come.
    #[must_use]
    pub fn orphans(&self) -> Vec<&Span> {
        let is_orphan =
            |span: &&Span| !span.parent.is_empty() && !self.0.contains_key(&span.parent);
        self.spans().filter(is_orphan).collect()
    }

    /// The hosts on which a service tells of spans that are called like this.
    #[must_use]
    pub fn hosts(&self, service: &str, name: &str) -> BTreeSet<&str> {
        let told = self.spans().filter(|span| span.service == service && span.name == name);
        told.map(|span| span.host.as_str()).collect()
    }
}

async fn take(State(spans): State<Spans>, body: Bytes) {
    let batch = ExportTraceServiceRequest::decode(body).expect("it is what OTLP says it is");
    for of in batch.resource_spans {
        let resource = of.resource.unwrap_or_default();
        let (service, host) = (word(&resource, "service.name"), word(&resource, "host.name"));
        for span in of.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            lock(&spans).push(Span {
                trace: HEXLOWER.encode(&span.trace_id),
                id: HEXLOWER.encode(&span.span_id),
                parent: HEXLOWER.encode(&span.parent_span_id),
                name: span.name,
                service: service.clone(),
                host: host.clone(),
            });
        }
    }
}

fn word(of: &Resource, key: &str) -> String {
    let found = of.attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|found| found.value.clone()).and_then(|value| value.value) {
        Some(Value::StringValue(word)) => word,
        other => panic!("{key} of {of:?} is {other:?}"),
    }
}

fn lock(spans: &Spans) -> MutexGuard<'_, Vec<Span>> {
    spans.lock().expect("no holder of this lock panics")
}
