//! Traces, for who wants them: spans of `tracing`, sent to a collector by OTLP.
//!
//! Off unless somebody names a collector; then what is done for one request can be followed over all
//! processes, as requests carry W3C's `traceparent` along. Decides what begins a trace: only a span that
//! says so (a command, a run), and who asks with that header; what nobody asked for is in none. Spans,
//! sampling, their form on the wire and the header are OpenTelemetry's own crates'. What ends waits in
//! a queue (`queue.rs`) for the collector (`collector.rs`): one that is slow or away costs spans, never time.
//!
//! ```text
//! span ends ──▶ queue, bounded ──▶ a thread of its own ── once a second ──▶ POST {collector}/v1/traces
//! ```

mod collector;

mod queue;

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    Link, SpanContext, SpanKind, TraceContextExt as _, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_otlp::{
    Protocol, RetryPolicy, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    Sampler, SamplingDecision, SamplingResult, SdkTracerProvider, ShouldSample,
};
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{self, Filter, Layer};
use tracing_subscriber::registry::LookupSpan;

use self::collector::Collector;
use self::queue::Queue;
use crate::metrics::{Family, counters, number, sample};

/// Names the collector, such as `http://127.0.0.1:4318`; the name that OpenTelemetry gives it.
pub const COLLECTOR_VAR: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Names the service, where its role is not what it should be called.
const SERVICE_VAR: &str = "OTEL_SERVICE_NAME";

/// The field by which a span says that it begins a trace, if it belongs to none.
const BEGINS_FIELD: &str = "begins_trace";

/// How long the end of a process may wait for the collector, which is near and answers within
/// milliseconds; one that is away is not waited for.
const FLUSH_MAX: Duration = Duration::from_millis(500);

/// The tracer of this process, once there is one.
static TRACER: OnceLock<Tracer> = OnceLock::new();

/// Sends what goes on in this process to a collector.
#[derive(Debug, Clone)]
pub struct Tracer {
    collector: String,
    queue: Queue,
    provider: SdkTracerProvider,
}

/// Why there are no traces.
#[derive(Debug, thiserror::Error)]
pub enum NoTraces {
    /// The collector's address, or one of OpenTelemetry's variables, is no good.
    #[error("send traces to {collector}")]
    Unusable {
        /// As it was given.
        collector: String,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No thread could be started.
    #[error("start the thread that sends traces")]
    Thread(#[source] std::io::Error),
}

/// What becomes of spans that have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fates {
    /// The collector has taken them.
    pub sent: u64,
    /// More ended than could be sent, and they were lost.
    pub dropped: u64,
    /// The collector was away, too slow, or said no, and they were lost.
    pub undelivered: u64,
}

impl Tracer {
    /// A tracer that sends to the collector at `url`, from a thread of its own. The first of a process
    /// is the one that requests carry along.
    ///
    /// # Errors
    /// When the address is none, or the thread can't be started.
    pub fn start(service: &str, url: &str) -> Result<Self, NoTraces> {
        let unusable = |source| NoTraces::Unusable { collector: url.to_owned(), source };
        let endpoint = format!("{}/v1/traces", url.trim_end_matches('/'));
        let collector = Collector::at(&endpoint).map_err(|why| unusable(why.into()))?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(collector)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint)
            // Those who end wait for what they send, and new spans wait behind it.
            .with_retry_policy(RetryPolicy::disabled())
            .build()
            .map_err(|error| unusable(error.into()))?;
        let queue = Queue::start(exporter, resource(service)).map_err(NoTraces::Thread)?;
        let provider = SdkTracerProvider::builder()
            .with_span_processor(queue.clone())
            .with_sampler(Sampler::ParentBased(Box::new(WhatBegins)))
            .build();
        let tracer = Self { collector: url.to_owned(), queue, provider };
        // A second one (tests) sends, too, but is not told of.
        let _ = TRACER.set(tracer.clone());
        Ok(tracer)
    }

    /// The layer for a subscriber: all spans down to `debug`, and what was warned of within them.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("ostler"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            // Work changes threads; what belongs to what is for `tracing` to say.
            .with_context_activation(false)
            .with_filter(SpansAndWarnings)
    }

    /// What became of its spans until now.
    #[must_use]
    pub fn fates(&self) -> Fates {
        self.queue.fates()
    }

    /// Waits until what has ended so far is sent or lost, but not for long: for a process that ends.
    pub fn flush(&self) {
        self.queue.flush(FLUSH_MAX);
    }
}

/// The collector that this process sends to, for processes that it starts.
#[must_use]
pub fn collector() -> Option<&'static str> {
    TRACER.get().map(|tracer| tracer.collector.as_str())
}

/// A place in a trace: what belongs to it is done for the span there, of this or another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place(SpanContext);

impl Place {
    fn of(context: &Context) -> Option<Self> {
        let place = context.span().span_context().clone();
        // Whoever asks may say that nobody collects this.
        (place.is_valid() && place.is_sampled()).then_some(Self(place))
    }

    /// Has a span that was just made belong here, whatever is open around it. For what goes on when
    /// the span here has ended: within it, it would not end before.
    pub fn takes(&self, span: &Span) {
        // Without a tracer there are no places; a span that nobody shows belongs nowhere.
        let _ = span.set_parent(self.context());
    }

    fn context(&self) -> Context {
        Context::new().with_remote_span_context(self.0.clone())
    }
}

/// Where what goes on here belongs; `None` while nobody traces it.
#[must_use]
pub fn here() -> Option<Place> {
    TRACER.get()?;
    Place::of(&Span::current().context())
}

/// Notes on a span that it went wrong. It has the field `otel.status_code`.
pub(crate) fn failed(span: &Span, why: &dyn fmt::Display) {
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", tracing::field::display(why));
}

/// The headers by which a request belongs to this span.
pub(crate) fn headers(span: &Span) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = HeaderMap::new();
    if !span.is_none() {
        let injector = &mut HeaderInjector(&mut headers);
        TraceContextPropagator::new().inject_context(&span.context(), injector);
    }
    headers.into_iter().filter_map(|(name, value)| Some((name?, value))).collect()
}

/// Where a request belongs, by its headers; `None` while nobody traces.
pub(crate) fn asked_for(headers: &HeaderMap) -> Option<Place> {
    TRACER.get()?;
    Place::of(&TraceContextPropagator::new().extract(&HeaderExtractor(headers)))
}

/// How many spans were sent and lost; for every role's `/metrics`.
pub(crate) fn figures() -> Family {
    let fates = TRACER.get().map(Tracer::fates).unwrap_or_default();
    let fates =
        [("sent", fates.sent), ("dropped", fates.dropped), ("undelivered", fates.undelivered)];
    let help = "Spans of traces that have ended, by what became of them";
    counters("trace_spans", help, fates.map(|(fate, n)| sample([("fate", fate)], number(n))))
}

/// What tells this process's spans from others'.
fn resource(service: &str) -> Resource {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let resource = Resource::builder().with_attributes([
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("host.name", host.trim().to_owned()),
        KeyValue::new("process.pid", i64::from(std::process::id())),
    ]);
    match std::env::var(SERVICE_VAR) {
        Ok(name) if !name.is_empty() => resource.build(),
        _ => resource.with_service_name(service.to_owned()).build(),
    }
}

/// A span that belongs to nothing begins a trace if it says so.
#[derive(Debug, Clone)]
struct WhatBegins;

impl ShouldSample for WhatBegins {
    fn should_sample(
        &self,
        _: Option<&Context>,
        _: TraceId,
        _: &str,
        _: &SpanKind,
        fields: &[KeyValue],
        _: &[Link],
    ) -> SamplingResult {
        let begins = fields.iter().any(|field| field.key.as_str() == BEGINS_FIELD);
        let decision =
            if begins { SamplingDecision::RecordAndSample } else { SamplingDecision::Drop };
        SamplingResult { decision, attributes: Vec::new(), trace_state: TraceState::default() }
    }
}

/// Lets spans through, and events that somebody who looks for a fault wants beside them.
struct SpansAndWarnings;

impl SpansAndWarnings {
    fn lets_through(about: &Metadata<'_>) -> bool {
        *about.level() <= if about.is_span() { Level::DEBUG } else { Level::WARN }
    }
}

impl<S> Filter<S> for SpansAndWarnings {
    fn enabled(&self, about: &Metadata<'_>, _: &layer::Context<'_, S>) -> bool {
        Self::lets_through(about)
    }

    /// Asked once for each place in the code: what is not let through costs nothing there.
    fn callsite_enabled(&self, about: &'static Metadata<'static>) -> Interest {
        if Self::lets_through(about) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::DEBUG)
    }
}
