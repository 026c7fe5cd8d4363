//! The traces of this process, a command or a role, when somebody names a collector for them.
//!
//! That there are none because the address is no good is said, and is no failure of what was asked for.

use tracing::{Span, Subscriber, field};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use transport::traces::Tracer;

use crate::show;

/// What ends while this lives is sent; the last of it when it is dropped.
#[derive(Debug)]
pub(crate) struct Traces(Tracer);

impl Traces {
    /// Traces of a process that calls itself `service`; `None` without a collector.
    pub(crate) fn start(service: &str, collector: Option<&str>) -> Option<Self> {
        // Set to nothing, the variable is as good as not set.
        let collector = collector.filter(|url| !url.is_empty())?;
        match Tracer::start(service, collector) {
            Ok(tracer) => Some(Self(tracer)),
            Err(error) => {
                let why = std::error::Error::source(&error).map(|why| format!(": {why}"));
                show::note(&format!("no traces: {error}{}", why.unwrap_or_default()));
                None
            }
        }
    }

    /// The same of a command, which has no log.
    pub(crate) fn of_command(collector: Option<&str>) -> Option<Self> {
        let traces = Self::start("ostler", collector)?;
        // A second start (tests) changes nothing.
        let _ = tracing_subscriber::registry().with(traces.layer()).try_init();
        Some(traces)
    }

    /// What a role's log goes through, too.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        self.0.layer()
    }

    /// A command from its beginning to its end: a trace. Its other words are nobody's business.
    pub(crate) fn root(command: &str) -> Span {
        tracing::debug_span!(
            "ostler",
            otel.name = %format_args!("ostler {command}"),
            otel.status_code = field::Empty,
            otel.status_description = field::Empty,
            begins_trace = true,
        )
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        self.0.flush();
    }
}
