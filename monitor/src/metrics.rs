//! What a monitor counts, for `GET /metrics` in Prometheus' text format.
//!
//! Counters are kept as things happen; numbers of hosts and jobs are counted when somebody asks.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use protocol::job::JobState;
use protocol::view::Freshness;

use crate::packed::PackedView;
use crate::writer::Status;

/// Counters of one monitor.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Events and inventories that were news.
    pub(crate) merged: Counter,
    /// Streams that had to start anew because something was missed.
    pub(crate) gaps: Counter,
    /// Streams that were not believed.
    pub(crate) quarantines: Counter,
    /// Things only a newer version understands.
    pub(crate) newer: Counter,
    /// Subscribers that did not keep up.
    pub(crate) cut: Counter,
    /// Subscribers now.
    pub(crate) subscribers: Gauge,
    /// Time to merge one batch of inputs.
    pub(crate) merge_seconds: Histogram,
    hosts: Family<FreshnessLabel, Gauge>,
    jobs: Family<StateLabel, Gauge>,
    view_age: Gauge<f64, std::sync::atomic::AtomicU64>,
    is_complete: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FreshnessLabel {
    freshness: Word,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: Word,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Word(&'static str);

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), fmt::Error> {
        self.0.encode(encoder)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("ostler_monitor");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let merged = counter("events_merged", "Events and inventories that were news");
        let gaps = counter("gaps", "Streams started anew because something was missed");
        let quarantines = counter("quarantines", "Streams that were not believed");
        let newer = counter("newer_frames", "Frames that only a newer version fully understands");
        let cut = counter("subscribers_cut", "Subscribers cut because they did not keep up");
        let (subscribers, is_complete) = (Gauge::default(), Gauge::default());
        registry.register("subscribers", "Subscribers now", subscribers.clone());
        let help = "1 once every host that was named has been heard or given up";
        registry.register("view_complete", help, is_complete.clone());
        // From 10 us, a few events, to 5 s, which would be a fault.
        let merge_seconds = Histogram::new(exponential_buckets(1e-5, 3.0, 13));
        let help = "Time to merge a batch of inputs";
        registry.register_with_unit("merge", help, Unit::Seconds, merge_seconds.clone());
        let (hosts, jobs) = (Family::default(), Family::default());
        registry.register("hosts", "Hosts by freshness", Family::clone(&hosts));
        registry.register("jobs", "Jobs by state, as the hosts told last", Family::clone(&jobs));
        let view_age = Gauge::default();
        let help = "Age of the oldest row that is not lost";
        registry.register_with_unit("view_age", help, Unit::Seconds, view_age.clone());
        Self {
            registry,
            merged,
            gaps,
            quarantines,
            newer,
            cut,
            subscribers,
            merge_seconds,
            hosts,
            jobs,
            view_age,
            is_complete,
        }
    }
}

impl Metrics {
    /// Everything, with hosts and jobs as they are now.
    pub(crate) fn text(&self, now_ms: u64, view: &PackedView, status: &Status) -> String {
        let mut hosts: BTreeMap<&'static str, i64> =
            [Freshness::Fresh, Freshness::Stale, Freshness::Lost].map(|f| (word(f), 0)).into();
        let mut age_ms_max = 0;
        for host in &status.hosts {
            *hosts.entry(word(host.freshness)).or_default() += 1;
            if host.freshness != Freshness::Lost {
                age_ms_max = age_ms_max.max(now_ms.saturating_sub(host.heard_ms));
            }
        }
        // Also those that no job is in, so that graphs have no holes.
        let mut jobs: BTreeMap<&'static str, i64> =
            JobState::ALL.map(|state| (state.as_str(), 0)).into();
        for job in view.hosts().flat_map(|(_, row)| row.jobs.values()) {
            *jobs.entry(job.state().as_str()).or_default() += 1;
        }
        for (freshness, number) in hosts {
            let label = FreshnessLabel { freshness: Word(freshness) };
            self.hosts.get_or_create(&label).set(number);
        }
        for (state, number) in jobs {
            self.jobs.get_or_create(&StateLabel { state: Word(state) }).set(number);
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "an age in ms fits a double for 285 000 years"
        )]
        self.view_age.set(age_ms_max as f64 / 1000.0);
        self.is_complete.set(i64::from(status.is_complete));
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text + &transport::metrics::text("ostler_monitor", Vec::new())
    }
}

fn word(freshness: Freshness) -> &'static str {
    match freshness {
        Freshness::Fresh => "fresh",
        Freshness::Stale => "stale",
        Freshness::Lost => "lost",
    }
}
