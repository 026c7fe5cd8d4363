//! Hosts that take new VMs have promised about as much of what they have. A host's share is the larger of its
//! memory's and its vCPUs', promised over had, by admission's numbers: what guests use makes no difference. Met when
//! the fullest is at most `within_percent` points above the emptiest; each host that is further above the emptiest
//! than that is a violation. Hosts that are lost, drained, retired or off do not count; with `labels` only those do
//! that have all of them.
//!
//! Which moves mend it is [`crate::balance`]'s.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use protocol::id::HostId;
use protocol::resources::Resources;
use protocol::view::{Freshness, HostRow};
use serde::{Deserialize, Serialize};

use crate::policy::millionths;
use crate::rules::count;
use crate::state::State;

/// Moves of an hour: one a second is more than any network bears.
const MOVES_PER_HOUR_MAX: u32 = 3_600;

/// Labels of one expectation: more of them than this describe no host.
const LABELS_MAX: usize = 16;

/// Millionths of a point of a hundred.
const POINT: u64 = 10_000;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Balanced {
    within_percent: u32,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    moves_per_hour: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    within_percent: u32,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    moves_per_hour: u32,
}

impl TryFrom<Written> for Balanced {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { within_percent, labels, moves_per_hour } = written;
        Self::new(within_percent, labels, moves_per_hour)
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
        Ok(Self { within_percent, labels, moves_per_hour })
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

    /// The hosts that count.
    pub(crate) fn scale<'a>(&self, state: &State<'a>) -> Scale<'a> {
        let rows = state.hosts().filter(|(host, row)| self.counts(state, host, row));
        rows.map(|(host, row)| (share(state.allocation(row), row.host.capacity), host)).collect()
    }

    fn counts(&self, state: &State<'_>, host: &HostId, row: &HostRow) -> bool {
        let capacity = row.host.capacity;
        capacity.memory_bytes > 0
            && capacity.vcpus > 0
            && state.intent(host).is_none()
            && state.heard(host).freshness != Freshness::Lost
            && self.labels.iter().all(|(key, value)| row.host.labels.get(key) == Some(value))
    }

    /// What is between the fullest and the emptiest; `None` where no host counts.
    #[must_use]
    pub fn gap(&self, state: &State<'_>) -> Option<Gap> {
        let scale = self.scale(state);
        let end = |(millionths, host): &(u64, &HostId)| (*millionths, HostId::clone(host));
        Some(Gap { fullest: scale.last().map(end)?, emptiest: scale.first().map(end)? })
    }

    pub(super) fn violations(&self, state: &State<'_>) -> u32 {
        let scale = self.scale(state);
        let Some((emptiest, _)) = scale.first() else { return 0 };
        let is_far = |share: u64| share - emptiest > self.enough(false);
        count(scale.iter().rev().take_while(|(share, _)| is_far(*share)).count())
    }

    pub(super) fn evidence(&self, state: &State<'_>) -> String {
        match self.gap(state) {
            Some(gap) => format!("{gap}, and {} may be", self.within_percent),
            None => "no host counts".to_owned(),
        }
    }
}

impl fmt::Display for Balanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hosts")?;
        for (n, (key, value)) in self.labels.iter().enumerate() {
            write!(f, "{} {key}={value}", if n == 0 { " with" } else { "," })?;
        }
        write!(f, " are within {} points of each other", self.within_percent)
    }
}

/// How far hosts are apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
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
            "{full} is {} full and {empty} {}: {points} points apart",
            percent(*fullest),
            percent(*emptiest)
        )
    }
}

/// How much of what a host has is promised, in millionths: of memory or of vCPUs, whichever is more.
pub(crate) fn share(promised: Resources, capacity: Resources) -> u64 {
    let vcpus = millionths(promised.vcpus.into(), capacity.vcpus.into());
    vcpus.max(millionths(promised.memory_bytes, capacity.memory_bytes))
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

    #[test]
    fn a_share_is_the_larger_of_memory_and_vcpus() {
        let of = |vcpus, memory_bytes| Resources { vcpus, memory_bytes, disk_bytes: 7 };
        assert_eq!(share(of(1, 3), of(4, 4)), 750_000);
        assert_eq!(share(of(2, 1), of(4, 4)), 500_000);
        assert_eq!(share(of(5, 0), of(4, 4)), 1_250_000, "more than there is");
    }
}
