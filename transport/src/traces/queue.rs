//! Spans that have ended, on their way to the collector.
//!
//! Decides how many may wait, how they are sent together, and what is counted as lost. OpenTelemetry's
//! own queue has the same bounds; but it tells nobody what it has lost, and its thread cannot drive our
//! client's sockets.
//!
//! ```text
//! Waiting ──▶ in a batch ── taken ──▶ Sent
//!    └ full: Dropped  └── away, late, or a no ──▶ Undelivered
//! ```

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::Fates;

/// Spans that wait to be sent: some megabytes. More are dropped.
const WAITING_MAX: usize = 4096;

/// Spans in one request: some hundred kilobytes.
const BATCH_MAX: usize = 512;

/// How long spans are gathered before they are sent.
const BATCH_INTERVAL: Duration = Duration::from_secs(1);

/// How long the collector may take with a batch.
const SEND_MAX: Duration = Duration::from_secs(5);

/// Where spans go that have ended.
#[derive(Clone)]
pub(super) struct Queue {
    waiting: mpsc::Sender<Item>,
    shared: Arc<Shared>,
}

enum Item {
    Ended(Box<SpanData>),
    /// Send what was before it, and say when that is done.
    Flush(std::sync::mpsc::Sender<()>),
}

#[derive(Debug, Default)]
struct Shared {
    sent: AtomicU64,
    dropped: AtomicU64,
    undelivered: AtomicU64,
    /// The last batch was not taken.
    is_away: AtomicBool,
}

impl Queue {
    /// Begins to send, from a thread of its own: what a busy runtime or a blocked one does is no matter.
    pub(super) fn start<E>(mut exporter: E, of: Resource) -> std::io::Result<Self>
    where
        E: SpanExporter + 'static,
    {
        exporter.set_resource(&of);
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        let shared = Arc::new(Shared::default());
        let sending = Sending { exporter, waiting, shared: Arc::clone(&shared) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new()
            .name("traces".to_owned())
            .spawn(move || runtime.block_on(sending.run()))?;
        Ok(Self { waiting: sender, shared })
    }

    pub(super) fn fates(&self) -> Fates {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Shared { sent, dropped, undelivered, .. } = &*self.shared;
        Fates { sent: read(sent), dropped: read(dropped), undelivered: read(undelivered) }
    }

    /// Waits until what was before is sent or lost; a collector that is away is not waited for.
    pub(super) fn flush(&self, limit: Duration) {
        let (tell, told) = std::sync::mpsc::channel();
        let is_away = self.shared.is_away.load(Ordering::Relaxed);
        if !is_away && self.waiting.try_send(Item::Flush(tell)).is_ok() {
            // Too late is no matter: the process ends.
            let _ = told.recv_timeout(limit);
        }
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled()
            && self.waiting.try_send(Item::Ended(Box::new(span))).is_err()
        {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.flush(SEND_MAX);
        Ok(())
    }

    fn shutdown_with_timeout(&self, limit: Duration) -> OTelSdkResult {
        self.flush(limit);
        Ok(())
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// The thread's side.
struct Sending<E> {
    exporter: E,
    waiting: mpsc::Receiver<Item>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Batch {
    spans: Vec<SpanData>,
    tells: Vec<std::sync::mpsc::Sender<()>>,
}

impl<E: SpanExporter> Sending<E> {
    async fn run(mut self) {
        while let Some(Batch { spans, tells }) = self.gather().await {
            if !spans.is_empty() {
                self.send(spans).await;
            }
            for tell in tells {
                // Whoever waited may have given up.
                let _ = tell.send(());
            }
        }
    }

    /// A batch that is full, old enough, or wanted at once; `None` when nobody can add to it any more.
    async fn gather(&mut self) -> Option<Batch> {
        let mut batch = Batch::default();
        batch.add(self.waiting.recv().await?);
        let until = Instant::now() + BATCH_INTERVAL;
        while batch.spans.len() < BATCH_MAX && batch.tells.is_empty() {
            match timeout_at(until, self.waiting.recv()).await {
                Ok(Some(item)) => batch.add(item),
                Ok(None) | Err(_) => break,
            }
        }
        Some(batch)
    }

    async fn send(&self, spans: Vec<SpanData>) {
        let count = spans.len() as u64;
        let sent = match timeout(SEND_MAX, self.exporter.export(spans)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {SEND_MAX:?}")),
        };
        let was_away = self.shared.is_away.swap(sent.is_err(), Ordering::Relaxed);
        match sent {
            Ok(()) => self.shared.sent.fetch_add(count, Ordering::Relaxed),
            Err(_) => self.shared.undelivered.fetch_add(count, Ordering::Relaxed),
        };
        match (sent, was_away) {
            (Err(error), false) => {
                tracing::warn!("send traces: {error}; spans are lost until it works");
            }
            (Ok(()), true) => tracing::info!("traces are sent again"),
            _ => {}
        }
    }
}

impl Batch {
    fn add(&mut self, item: Item) {
        match item {
            Item::Ended(span) => self.spans.push(*span),
            Item::Flush(tell) => self.tells.push(tell),
        }
    }
}
