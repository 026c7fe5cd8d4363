//! Hosts that take new VMs have promised about as much of what they have, or their guests use about as much of their
//! CPUs. A host's share is, as its measure says, the larger of its memory's and its vCPUs', promised over had, by
//! admission's numbers; or the CPUs that its guests keep busy, over those of the machine. Met when
//! the fullest is at most `within_percent` points above the emptiest; each host that is further above the emptiest
//! than that is a violation. Hosts that are lost, drained, retired or off do not count; with `labels` only those do
//! that have all of them. Nor does a host of which it is not known what its guests use, where that is what is measured.
//!
//! Which moves mend it is [`crate::balance`]'s.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use protocol::host::Host;
use protocol::id::HostId;
use protocol::view::{Freshness, HostRow};
use serde::{Deserialize, Serialize};

use crate::measure::Measure;
use crate::rules::count;
use crate::state::State;

/// Moves of an hour: one a second is more than any network bears.
const MOVES_PER_HOUR_MAX: u32 = 3_600;

/// How long hosts must have been uneven by what guests use before a VM is moved, unless it is said, in seconds: longer than a
/// nightly job of a minute or a boot, and no longer than somebody who waits for a slow guest would bear.
const AFTER_S: u32 = 300;

/// Longest such time, in seconds: for longer nobody keeps how long a VM was watched.
const AFTER_S_MAX: u32 = 3_600;

/// Shortest rest between moves for what guests use, in milliseconds: what the last one did must show.
const USE_REST_MS: u64 = 60_000;

/// An hour, in milliseconds.
const HOUR_MS: u64 = 3_600_000;

/// Hosts that are named of those of which something is not known.
const NAMED_MAX: usize = 3;

/// Labels of one expectation: more of them than this describe no host.
const LABELS_MAX: usize = 16;

/// Millionths of a point of a hundred.
const POINT: u64 = 10_000;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Balanced {
    within_percent: u32,
    #[serde(skip_serializing_if = "Measure::is_promised")]
    measure: Measure,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    moves_per_hour: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    after_s: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    within_percent: u32,
    #[serde(default)]
    measure: Measure,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    moves_per_hour: u32,
    #[serde(default)]
    after_s: Option<u32>,
}

impl TryFrom<Written> for Balanced {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { within_percent, measure, labels, moves_per_hour, after_s } = written;
        Self::new(within_percent, labels, moves_per_hour)?.measured(measure, after_s)
    }
}

/// Hosts that count, emptiest first, each with its share in millionths.
pub(crate) type Scale<'a> = BTreeSet<(u64, &'a HostId)>;

impl Balanced {
    /// Hosts with these labels are to be at most so many points of a hundred apart, and that is mended by at most so
    /// many moves an hour: none if it is only to be told. The error says what would be right.
    pub fn new(
        within_percent: u32,
        labels: BTreeMap<String, String>,
        moves_per_hour: u32,
    ) -> Result<Self, String> {
        if !(1..=100).contains(&within_percent) {
            return Err(format!(
                "`within_percent` is 1 to 100 points between the fullest host and the emptiest, not {within_percent}"
            ));
        }
        if moves_per_hour > MOVES_PER_HOUR_MAX {
            return Err(format!(
                "`moves_per_hour` is at most {MOVES_PER_HOUR_MAX}, not {moves_per_hour}; 0 is to be told only"
            ));
        }
        if labels.len() > LABELS_MAX {
            return Err(format!("{} labels are more than {LABELS_MAX}", labels.len()));
        }
        let (measure, after_s) = (Measure::default(), None);
        Ok(Self { within_percent, measure, labels, moves_per_hour, after_s })
    }

    /// The same by this measure, mended only after hosts were uneven for so many seconds. The error says what would be
    /// right.
    pub fn measured(self, measure: Measure, after_s: Option<u32>) -> Result<Self, String> {
        if let Some(seconds) = after_s.filter(|seconds| *seconds > AFTER_S_MAX) {
            return Err(format!("`after_s` is at most {AFTER_S_MAX} seconds, not {seconds}"));
        }
        Ok(Self { measure, after_s, ..self })
    }

    /// By what hosts are compared.
    #[must_use]
    pub fn measure(&self) -> Measure {
        self.measure
    }

    /// How long hosts must have been uneven before anybody is moved, in milliseconds. Of what guests use a VM's own must have been
    /// watched for as long.
    #[must_use]
    pub fn after_ms(&self) -> u64 {
        let unsaid = match self.measure {
            Measure::Promised => 0,
            Measure::Cpu => AFTER_S,
        };
        u64::from(self.after_s.unwrap_or(unsaid)) * 1_000
    }

    /// How long it is rested after each move, in milliseconds.
    #[must_use]
    pub fn rest_ms(&self) -> u64 {
        let rest_ms = HOUR_MS / u64::from(self.moves_per_hour.max(1));
        match self.measure {
            Measure::Promised => rest_ms,
            Measure::Cpu => rest_ms.max(USE_REST_MS),
        }
    }

    /// How many moves an hour may mend it; none where it is only told.
    #[must_use]
    pub fn moves_per_hour(&self) -> u32 {
        self.moves_per_hour
    }

    /// The labels by which hosts count.
    pub(super) fn labels(&self) -> impl Iterator<Item = &str> {
        self.labels.keys().map(String::as_str)
    }

    /// The gap that is left as it is, in millionths: what is tolerated, and half of that once shifts were begun, so that
    /// the next small change does not begin them anew.
    pub(crate) fn enough(&self, was_begun: bool) -> u64 {
        let tolerated = u64::from(self.within_percent) * POINT;
        if was_begun { tolerated / 2 } else { tolerated }
    }

    /// True while more is between hosts than that.
    #[must_use]
    pub fn is_uneven(&self, state: &State<'_>, was_begun: bool) -> bool {
        self.gap(state).is_some_and(|gap| gap.millionths() > self.enough(was_begun))
    }

    /// True for a move that does more than what is measured may do by itself in the next moment. What is promised stays as
    /// it is; what guests use does not, and a move is worth nothing that is undone when it has changed a little.
    pub(crate) fn is_clear(&self, from: u64, left: u64, arrived: u64) -> bool {
        match self.measure {
            Measure::Promised => true,
            // The VM would go back only once the hosts have changed by more than a quarter of what is tolerated.
            Measure::Cpu => {
                !self.is_noise(from.saturating_sub(left.max(arrived)))
                    && arrived.saturating_add(self.enough(false) / 4) <= from
            }
        }
    }

    /// True for a change of a share for which nobody goes: of what guests use, less than a quarter of a point of a hundred.
    pub(crate) fn is_noise(&self, change: u64) -> bool {
        match self.measure {
            Measure::Promised => false,
            Measure::Cpu => change < POINT / 4,
        }
    }

    /// The hosts that count and of which the share is known.
    pub(crate) fn scale<'a>(&self, state: &State<'a>) -> Scale<'a> {
        let rows = state.hosts().filter(|(host, row)| self.counts(state, host, row));
        rows.filter_map(|(host, row)| Some((self.measure.share(state, row)?, host))).collect()
    }

    /// A host's share, if it counts and that is known.
    pub(crate) fn share_of(&self, state: &State<'_>, host: &HostId) -> Option<u64> {
        let row = state.host(host).filter(|row| self.counts(state, host, row))?;
        self.measure.share(state, row)
    }

    /// Hosts that would count if their share were known.
    #[must_use]
    pub fn unknown<'a>(&self, state: &State<'a>) -> Vec<&'a HostId> {
        if self.measure.is_promised() {
            return vec![];
        }
        let rows = state.hosts().filter(|(host, row)| self.counts(state, host, row));
        let unknown = rows.filter(|(_, row)| self.measure.share(state, row).is_none());
        unknown.map(|(host, _)| host).collect()
    }

    /// The same in words, while there are any.
    #[must_use]
    pub fn unknown_words(&self, state: &State<'_>) -> Option<String> {
        let unknown = self.unknown(state);
        let mut names: Vec<&str> =
            unknown.iter().take(NAMED_MAX).map(|host| host.short()).collect();
        let more = format!("{} hosts more", unknown.len().saturating_sub(NAMED_MAX));
        if unknown.len() > NAMED_MAX {
            names.push(&more);
        }
        (!names.is_empty()).then(|| format!("what guests use is not known of {}", names.join(", ")))
    }

    /// True when nothing can be said, as there are several hosts and not even two of which the share is known.
    #[must_use]
    pub fn is_unknown(&self, state: &State<'_>) -> bool {
        let unknown = self.unknown(state).len();
        unknown > 0 && self.scale(state).len() < 2
    }

    /// Whether a host is one that this may be about, by what it says of itself.
    #[must_use]
    pub fn is_about(&self, host: &Host) -> bool {
        let capacity = host.capacity;
        capacity.memory_bytes > 0
            && capacity.vcpus > 0
            && self.labels.iter().all(|(key, value)| host.labels.get(key) == Some(value))
    }

    fn counts(&self, state: &State<'_>, host: &HostId, row: &HostRow) -> bool {
        self.is_about(&row.host)
            && state.intent(host).is_none()
            && state.heard(host).freshness != Freshness::Lost
    }

    /// What is between the fullest and the emptiest; `None` where no host counts.
    #[must_use]
    pub fn gap(&self, state: &State<'_>) -> Option<Gap> {
        let scale = self.scale(state);
        let end = |(millionths, host): &(u64, &HostId)| (*millionths, HostId::clone(host));
        let (fullest, emptiest) = (scale.last().map(end)?, scale.first().map(end)?);
        Some(Gap { measure: self.measure, fullest, emptiest })
    }

    pub(super) fn violations(&self, state: &State<'_>) -> u32 {
        let scale = self.scale(state);
        let Some((emptiest, _)) = scale.first() else { return 0 };
        let is_far = |share: u64| share - emptiest > self.enough(false);
        count(scale.iter().rev().take_while(|(share, _)| is_far(*share)).count())
    }

    pub(crate) fn evidence(&self, state: &State<'_>) -> String {
        let words = match self.gap(state) {
            Some(gap) => format!("{gap}, and {} may be", self.within_percent),
            None => "no host counts".to_owned(),
        };
        match self.unknown_words(state) {
            Some(unknown) => format!("{words}; {unknown}"),
            None => words,
        }
    }
}

impl fmt::Display for Balanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hosts")?;
        for (n, (key, value)) in self.labels.iter().enumerate() {
            write!(f, "{} {key}={value}", if n == 0 { " with" } else { "," })?;
        }
        write!(f, " are within {} points of each other", self.within_percent)?;
        match self.measure {
            Measure::Promised => Ok(()),
            Measure::Cpu => f.write_str(" by the CPUs that guests use"),
        }
    }
}

/// How far hosts are apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// By what they are.
    pub measure: Measure,
    /// The fullest, with its share in millionths.
    pub fullest: (u64, HostId),
    /// The emptiest.
    pub emptiest: (u64, HostId),
}

impl Gap {
    /// How much it is.
    #[must_use]
    pub fn millionths(&self) -> u64 {
        self.fullest.0 - self.emptiest.0
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((fullest, full), (emptiest, empty)) = (&self.fullest, &self.emptiest);
        let (full, empty) = (full.short(), empty.short());
        let points = points(self.millionths());
        write!(
            f,
            "{full} is {} {} and {empty} {}: {points} points apart",
            percent(*fullest),
            self.measure.adjective(),
            percent(*emptiest)
        )
    }
}

/// A share for people.
pub(crate) fn percent(share: u64) -> String {
    format!("{}%", points(share))
}

/// Up, so that what is too much never reads as what is tolerated.
fn points(share: u64) -> String {
    let tenths = share.div_ceil(POINT / 10);
    match tenths % 10 {
        0 => (tenths / 10).to_string(),
        tenth => format!("{}.{tenth}", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::case::{Understood, understand};
    use crate::{Clause, Level, Rule};

    fn read(value: Value) -> Result<(Level, Balanced), String> {
        match understand(0, value).map_err(|no| no.why)? {
            Understood::Rule(Clause { level, rule: Rule::Balanced(rule) }) => Ok((level, rule)),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn it_is_a_wish_that_moves_nobody_unless_it_says_more() {
        let (level, rule) = read(json!({ "expect": "balanced", "within_percent": 20 })).unwrap();
        assert_eq!((level, rule.moves_per_hour()), (Level::Wish, 0));
        assert_eq!(rule.to_string(), "hosts are within 20 points of each other");
        let (level, rule) = read(json!({
            "expect": "balanced", "level": "should", "within_percent": 1, "moves_per_hour": 12,
            "labels": { "rack": "a", "disk": "ssd" },
        }))
        .unwrap();
        assert_eq!((level, rule.moves_per_hour()), (Level::Should, 12));
        let words = "hosts with disk=ssd, rack=a are within 1 points of each other";
        assert_eq!(rule.to_string(), words);
        let clause = Clause { level, rule: Rule::Balanced(rule) };
        let written = serde_json::to_value(&clause).unwrap();
        assert_eq!(serde_json::from_value::<Clause>(written).unwrap(), clause);
    }

    #[test]
    fn by_what_guests_use_it_waits_and_rests_for_longer() {
        let (_, promised) = read(json!({
            "expect": "balanced", "within_percent": 20, "moves_per_hour": 360,
        }))
        .unwrap();
        assert_eq!((promised.after_ms(), promised.rest_ms()), (0, 10_000));
        let (level, rule) = read(json!({
            "expect": "balanced", "within_percent": 20, "moves_per_hour": 360, "measure": "cpu",
        }))
        .unwrap();
        assert_eq!((level, rule.after_ms(), rule.rest_ms()), (Level::Wish, 300_000, 60_000));
        let words = "hosts are within 20 points of each other by the CPUs that guests use";
        assert_eq!(rule.to_string(), words);
        let (_, rule) = read(json!({
            "expect": "balanced", "within_percent": 20, "moves_per_hour": 6, "measure": "cpu",
            "after_s": 20,
        }))
        .unwrap();
        assert_eq!((rule.after_ms(), rule.rest_ms()), (20_000, 600_000));
        let clause = Clause { level, rule: Rule::Balanced(rule) };
        let written = serde_json::to_value(&clause).unwrap();
        assert_eq!(serde_json::from_value::<Clause>(written).unwrap(), clause);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        let refused = |key: &str, what: Value, says: &str| {
            let mut value = json!({ "expect": "balanced", "within_percent": 20 });
            value[key] = what;
            let why = read(value).unwrap_err();
            assert!(why.contains(says), "{why}");
        };
        refused("within_percent", json!(0), "1 to 100 points");
        refused("within_percent", json!(101), "1 to 100 points");
        refused("moves_per_hour", json!(3_601), "at most 3600");
        refused("moves_per_day", json!(1), "moves_per_day");
        refused("measure", json!("disk"), "expected `promised` or `cpu`");
        refused("after_s", json!(3_601), "at most 3600 seconds");
        let many: BTreeMap<String, String> =
            (0..17).map(|n| (format!("label-{n}"), String::new())).collect();
        refused("labels", json!(many), "17 labels are more than 16");
        assert!(read(json!({ "expect": "balanced" })).unwrap_err().contains("within_percent"));
    }

    #[test]
    fn a_gap_that_is_too_much_does_not_read_as_what_is_tolerated() {
        assert_eq!(percent(750_000), "75%");
        assert_eq!(percent(175_000), "17.5%");
        assert_eq!(percent(200_001), "20.1%");
        assert_eq!(percent(0), "0%");
    }
}
