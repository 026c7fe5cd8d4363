//! Numbers as Prometheus reads them: each scrape is a table of families, each family the samples of one
//! name.
//!
//! Decides the text and its content type: Prometheus' own format rather than OpenMetrics, which says nothing
//! more of our numbers, and which its own checker cannot read. What is counted, and by which labels, is each role's; labels
//! must be words of a closed list or names whose number is bounded, because whoever scrapes keeps every
//! one of them.

use std::collections::HashMap;
use std::fmt::Error;

use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::traces;

/// The format that every Prometheus takes, and `promtool check metrics`.
pub const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The values of one name.
#[derive(Debug, Clone)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    samples: Samples,
}

#[derive(Debug, Clone)]
enum Samples {
    Gauges(Vec<Sample<f64>>),
    Counters(Vec<Sample<f64>>),
    Histograms(Vec<Sample<Histogram>>),
}

/// A value and what tells it from the others of its name.
#[derive(Debug, Clone)]
pub struct Sample<T> {
    labels: Vec<(&'static str, String)>,
    value: T,
}

/// How often something took how long.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    /// The upper end of each bucket, and how many are in it and in none before it.
    pub buckets: Vec<(f64, u64)>,
    /// Of all, together.
    pub sum: f64,
    /// How many in all; those that are in no bucket, too.
    pub count: u64,
}

/// A value with its labels: name and word.
#[must_use]
pub fn sample<T, const N: usize>(labels: [(&'static str, &str); N], value: T) -> Sample<T> {
    Sample { labels: labels.map(|(name, value)| (name, value.to_owned())).to_vec(), value }
}

/// One value that may go up and down.
#[must_use]
pub fn gauge(name: &'static str, help: &'static str, value: f64) -> Family {
    gauges(name, help, [sample([], value)])
}

/// Values that may go up and down.
pub fn gauges(
    name: &'static str,
    help: &'static str,
    samples: impl IntoIterator<Item = Sample<f64>>,
) -> Family {
    Family { name, help, unit: None, samples: Samples::Gauges(samples.into_iter().collect()) }
}

/// Values that only grow, until the process starts anew; `_total` is added to the name.
pub fn counters(
    name: &'static str,
    help: &'static str,
    samples: impl IntoIterator<Item = Sample<f64>>,
) -> Family {
    Family { name, help, unit: None, samples: Samples::Counters(samples.into_iter().collect()) }
}

/// How often things took how long.
pub fn histograms(
    name: &'static str,
    help: &'static str,
    samples: impl IntoIterator<Item = Sample<Histogram>>,
) -> Family {
    Family { name, help, unit: None, samples: Samples::Histograms(samples.into_iter().collect()) }
}

/// 1 for yes.
#[must_use]
pub fn yes(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// How many.
#[must_use]
pub fn count(of: usize) -> f64 {
    number(of as u64)
}

/// A number as Prometheus has it.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "exact up to 9 PB, and nobody reads the rest")]
pub fn number(of: u64) -> f64 {
    of as f64
}

impl Family {
    /// The same in bytes, which the name says.
    #[must_use]
    pub fn in_bytes(self) -> Self {
        Self { unit: Some(Unit::Bytes), ..self }
    }

    /// The same in seconds, which the name says.
    #[must_use]
    pub fn in_seconds(self) -> Self {
        Self { unit: Some(Unit::Seconds), ..self }
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let kind = match self.samples {
            Samples::Gauges(_) => MetricType::Gauge,
            Samples::Counters(_) => MetricType::Counter,
            Samples::Histograms(_) => MetricType::Histogram,
        };
        let row = encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), kind)?;
        match &self.samples {
            Samples::Gauges(all) => each(row, all, |v, row| ConstGauge::new(*v).encode(row)),
            Samples::Counters(all) => each(row, all, |v, row| ConstCounter::new(*v).encode(row)),
            Samples::Histograms(all) => each(row, all, Histogram::encode),
        }
    }
}

/// Whoever has no labels is alone, and is written without braces.
fn each<T>(
    mut family: MetricEncoder<'_>,
    samples: &[Sample<T>],
    write: impl Fn(&T, MetricEncoder<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    if let [Sample { labels, value }] = samples
        && labels.is_empty()
    {
        return write(value, family);
    }
    samples.iter().try_for_each(|one| write(&one.value, family.encode_family(&one.labels)?))
}

type Labels = Vec<(&'static str, String)>;

impl Histogram {
    fn encode(&self, mut row: MetricEncoder<'_>) -> Result<(), Error> {
        let Self { buckets, sum, count } = self;
        let within: u64 = buckets.iter().map(|(_, count)| count).sum();
        let rest = [(f64::MAX, count.saturating_sub(within))];
        let buckets: Vec<(f64, u64)> = buckets.iter().copied().chain(rest).collect();
        let no_examples: Option<&HashMap<usize, Exemplar<Labels, f64>>> = None;
        row.encode_histogram(*sum, *count, &buckets, no_examples)
    }
}

/// Families as they are now; each scrape makes its own.
#[derive(Debug)]
struct Scrape(Vec<Family>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        self.0.iter().try_for_each(|family| family.encode(&mut encoder))
    }
}

/// As [`reply`] takes it; every name begins with `prefix`. What became of traces is told beside.
#[must_use]
pub fn text(prefix: &'static str, mut families: Vec<Family>) -> String {
    families.push(traces::figures());
    let mut registry = Registry::with_prefix(prefix);
    registry.register_collector(Box::new(Scrape(families)));
    let mut text = String::new();
    encode(&mut text, &registry).expect("writing to a string does not fail");
    text
}

/// The answer to `GET /metrics`, of OpenMetrics text.
#[must_use]
pub fn reply(text: &str) -> Response {
    ([(CONTENT_TYPE, METRICS_TYPE)], plain(text)).into_response()
}

/// OpenMetrics as Prometheus' own format: a counter is described by the name that its samples have, and
/// there are no units and no end.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ');
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' '))
        {
            let total = if kind == "counter" { "_total" } else { "" };
            if let Some((_, help)) = help.take_if(|(described, _)| *described == name) {
                plain.extend(["# HELP ", name, total, " ", help, "\n"]);
            }
            plain.extend(["# TYPE ", name, total, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            plain.extend([line, "\n"]);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_written_with_and_without_labels() {
        let took = Histogram { buckets: vec![(0.5, 2), (1.0, 0)], sum: 9.5, count: 3 };
        let families = vec![
            gauge("lone", "Alone", 2.0),
            counters("calls", "Without labels", [sample([], 3.0)]),
            counters("said", "By word", [sample([("word", "no")], 1.0)]).in_bytes(),
            histograms("took", "By kind", [sample([("kind", "run")], took)]).in_seconds(),
            gauges("none", "Of nobody", []),
        ];
        let text = plain(&text("x", families));
        for line in [
            "x_lone 2.0",
            "x_calls_total 3.0",
            "# HELP x_calls_total Without labels",
            "# TYPE x_calls_total counter",
            "x_said_bytes_total{word=\"no\"} 1.0",
            "# TYPE x_took_seconds histogram",
            "x_took_seconds_bucket{le=\"0.5\",kind=\"run\"} 2",
            "x_took_seconds_bucket{le=\"1.0\",kind=\"run\"} 2",
            "x_took_seconds_bucket{le=\"+Inf\",kind=\"run\"} 3",
            "x_took_seconds_count{kind=\"run\"} 3",
            "x_took_seconds_sum{kind=\"run\"} 9.5",
        ] {
            assert!(text.lines().any(|written| written == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("UNIT") && !text.contains("EOF"), "only OpenMetrics has these");
    }
}
