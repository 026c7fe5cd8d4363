//! Figures: times of many calls, what is said of them, and the line that is printed.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process;

/// Times in microseconds, shortest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    pub(crate) fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    /// The time that so many of a thousand calls take at most.
    pub(crate) fn at(&self, of_thousand: usize) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get((self.0.len() * of_thousand / 1000).min(last)).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn p50(&self) -> f64 {
        self.at(500)
    }

    pub(crate) fn p99(&self) -> f64 {
        self.at(990)
    }

    pub(crate) fn sum(&self) -> f64 {
        self.0.iter().sum()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The value in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    Times::of(values.to_vec()).p50()
}

/// Microseconds.
pub(crate) fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// How long a call takes.
pub(crate) async fn timed<T>(call: impl Future<Output = T>) -> (T, f64) {
    let begin = Instant::now();
    let answer = call.await;
    (answer, us(begin.elapsed()))
}

/// A figure, with what it is compared with in the same run.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) baseline: f64,
    /// The first target, for the ratio.
    pub(crate) target: &'static str,
    pub(crate) load_before: f64,
}

impl Figure {
    /// Prints it, with more that explains it.
    pub(crate) fn print(&self, more: &Value) {
        self.print_with(self.value / self.baseline, more);
    }

    /// The same, with a ratio that is not that of the two: a median of rounds.
    pub(crate) fn print_with(&self, ratio: f64, more: &Value) {
        let Self { name, value, unit, baseline, target, load_before } = self;
        let mut line = json!({
            "name": name, "value": round(*value), "unit": unit, "baseline": round(*baseline),
            "ratio": round(ratio), "target": target, "load_before": load_before,
        });
        if let (Some(line), Some(more)) = (line.as_object_mut(), more.as_object()) {
            line.extend(more.clone());
        }
        println!("{line}");
    }
}

/// Three digits that say something.
pub(crate) fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let digits = 10_f64.powf((3.0 - value.abs().log10().ceil()).max(0.0));
    (value * digits).round() / digits
}

/// The load of the machine before something is measured.
pub(crate) fn load() -> f64 {
    process::load()
}
