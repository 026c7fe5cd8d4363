//! What a controller tells Prometheus: its runs, what it keeps true, and how current its view is.
//!
//! Nothing is counted here: each scrape is a table of what the scheduler says. All words are of closed
//! lists, and those of which there is nothing are told as 0, so that graphs and alerts have no holes.

use std::collections::BTreeMap;

use protocol::api::{RunState, Want};
use scheduler::{Durations, Figures, TOOK_S};
use transport::metrics::{
    Family, Histogram, Sample, counters, gauge, gauges, histograms, number, sample, text, yes,
};

use crate::fencing::Counts;

type Pairs = BTreeMap<(&'static str, &'static str), u64>;

/// In Prometheus' text format.
pub(crate) fn of(figures: &Figures, trust_version: Option<u64>, fencing: Counts) -> String {
    let mut families = Vec::from(runs(figures));
    families.extend(plans(figures));
    families.extend(kept(figures));
    families.extend(view(figures));
    families.push(fences(fencing));
    let help = "Version of the trust document in force; 0 without one";
    families.push(gauge("trust_version", help, number(trust_version.unwrap_or(0))));
    text("ostler_controller", families)
}

fn fences(counts: Counts) -> Family {
    let samples = [("fenced", counts.fenced), ("failed", counts.failed)];
    let samples = samples.map(|(how, count)| sample([("outcome", how)], number(count)));
    let help = "Silent hosts that it has switched off by itself, or tried to";
    counters("fences", help, samples)
}

fn runs(figures: &Figures) -> [Family; 3] {
    let by_state = |is_ended: bool, counts| {
        let states = RunState::ALL.into_iter().filter(move |state| state.is_ended() == is_ended);
        let words: Vec<&str> = states.map(RunState::as_str).collect();
        pairs(["kind", "state"], (&Want::KINDS, &words), counts)
    };
    let took = Want::KINDS.map(|kind| {
        let took = figures.counts.took.get(kind).copied().unwrap_or_default();
        sample([("kind", kind)], histogram(&took))
    });
    let help = "Time of runs from their acceptance to their end";
    [
        gauges(
            "runs_open",
            "Runs that have not ended, by what they want",
            by_state(false, &figures.open),
        ),
        counters(
            "runs_ended",
            "Runs that have ended since it began",
            by_state(true, &figures.counts.ended),
        ),
        histograms("run", help, took).in_seconds(),
    ]
}

fn plans(figures: &Figures) -> [Family; 3] {
    let words = (&["run", "upkeep"][..], &["whole", "lacking", "none"][..]);
    let plans = pairs(["for", "outcome"], words, &figures.counts.plans);
    let refusals = figures.counts.refusals.iter();
    let refusals = refusals
        .map(|((by, reason), count)| sample([("by", by), ("reason", reason)], number(*count)));
    let help = "Requests to hosts and arbiters of which nobody knows what became";
    [
        counters("plans", "Plans, by what came of them", plans),
        counters("refusals", "Definite noes of hosts and arbiters, by their word", refusals),
        counters("unclear_answers", help, [sample([], number(figures.counts.unclear))]),
    ]
}

fn kept(figures: &Figures) -> [Family; 3] {
    let levels = &["must", "should", "wish", "none"][..];
    let standings = &["met", "coming", "mending", "unmet", "not_understood", "unknown"][..];
    let kept = &figures.kept;
    let standings = pairs(["level", "standing"], (levels, standings), &kept.standings);
    let resting = [
        sample([("why", "not_mended")], number(kept.resting)),
        sample([("why", "mended_of_late")], number(kept.calm)),
    ];
    [
        gauge("expectation_sets", "Sets of expectations that are kept", number(kept.sets)),
        gauges("expectations", "Expectations by level, and how they stand", standings),
        gauges("upkeep_resting_jobs", "Jobs that are left alone for a while, and why", resting),
    ]
}

fn view(figures: &Figures) -> [Family; 3] {
    let words = ["fresh", "stale", "lost", "asleep"].into_iter();
    let hosts = words.zip(figures.hosts).map(|(w, n)| sample([("freshness", w)], number(n)));
    let help = "How long the view has not been current; 0 while a monitor is followed";
    [
        gauge("view_current", "1 while nothing is missing in its view", yes(figures.is_current)),
        gauge("view_stale", help, number(figures.stale_ms) / 1000.0).in_seconds(),
        gauges("hosts", "Hosts of its view, as the monitor hears them, or asleep", hosts),
    ]
}

/// Every pair of words with its number, and 0 where there is none.
fn pairs(
    names: [&'static str; 2],
    (first, second): (&[&'static str], &[&'static str]),
    counts: &Pairs,
) -> Vec<Sample<f64>> {
    let all = first.iter().flat_map(|one| second.iter().map(move |other| (*one, *other)));
    let one = |(one, other)| {
        let value = counts.get(&(one, other)).copied().unwrap_or(0);
        sample([(names[0], one), (names[1], other)], number(value))
    };
    all.map(one).collect()
}

fn histogram(took: &Durations) -> Histogram {
    let buckets = TOOK_S.into_iter().zip(took.within).collect();
    Histogram { buckets, sum: number(took.sum_ms) / 1000.0, count: took.count }
}
