//! Hosts that nobody needs sleep, and those that are awake have room for the loss of any one of them. Broken while a
//! host sleeps without which they have not, or without which fewer than `awake_min` are awake; and while one is awake
//! that could be emptied and sleep, and they still had. With `spare` above 1 the room of so many less one of the
//! emptiest hosts is left out of account. Hosts that are lost, drained, retired or off are not awake; with `labels`
//! only those count that have all of them, as if there were no others.
//!
//! Which host that is, and how it is emptied, is [`crate::saving`]'s; when, whoever's who keeps it.

use std::collections::BTreeMap;
use std::fmt;

use protocol::host::Host;
use serde::{Deserialize, Serialize};

use crate::saving::need;
use crate::state::State;

/// Hosts' worth of room: who wants more of it than this wants no host to sleep.
const SPARE_MAX: u32 = 64;

/// Labels of one expectation, as of those that are balanced.
const LABELS_MAX: usize = 16;

/// A day: room that is there for longer is there.
const AFTER_S_MAX: u32 = 86_400;

/// Hosts that stay awake unless it is said otherwise: one, and one that can be lost.
const AWAKE_MIN: u32 = 2;

/// How long there has been too much room before a host is emptied, unless it is said otherwise: longer than a
/// restart of a few VMs, or an upgrade.
const AFTER_S: u32 = 600;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct PowerSaving {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    spare: u32,
    awake_min: u32,
    after_s: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default = "one")]
    spare: u32,
    #[serde(default = "awake_min")]
    awake_min: u32,
    #[serde(default = "after_s")]
    after_s: u32,
}

fn one() -> u32 {
    1
}

fn awake_min() -> u32 {
    AWAKE_MIN
}

fn after_s() -> u32 {
    AFTER_S
}

impl TryFrom<Written> for PowerSaving {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { labels, spare, awake_min, after_s } = written;
        if !(1..=SPARE_MAX).contains(&spare) {
            return Err(format!(
                "`spare` is 1 to {SPARE_MAX} hosts' worth of room that stays awake, not {spare}"
            ));
        }
        if awake_min == 0 {
            return Err("`awake_min` is at least 1: somebody has to take what comes".to_owned());
        }
        if !(1..=AFTER_S_MAX).contains(&after_s) {
            return Err(format!("`after_s` is 1 to {AFTER_S_MAX} seconds, not {after_s}"));
        }
        if labels.len() > LABELS_MAX {
            return Err(format!("{} labels are more than {LABELS_MAX}", labels.len()));
        }
        Ok(Self { labels, spare, awake_min, after_s })
    }
}

impl PowerSaving {
    /// The labels by which hosts count.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// Hosts' worth of room that stays awake.
    #[must_use]
    pub fn spare(&self) -> u32 {
        self.spare
    }

    /// Hosts that stay awake, whatever room they have.
    #[must_use]
    pub fn awake_min(&self) -> u32 {
        self.awake_min
    }

    /// How long there has been too much room before a host is put to sleep, in milliseconds; and how long none is
    /// after one was, or has woken.
    #[must_use]
    pub fn after_ms(&self) -> u64 {
        u64::from(self.after_s) * 1_000
    }

    /// Whether it is about this host.
    #[must_use]
    pub fn counts(&self, host: &Host) -> bool {
        self.labels.iter().all(|(key, value)| host.labels.get(key) == Some(value))
    }

    pub(super) fn violations(&self, state: &State<'_>) -> u32 {
        u32::from(need(state, self).is_some())
    }

    pub(super) fn evidence(&self, state: &State<'_>) -> String {
        need(state, self).map_or_else(String::new, |(_, words)| words)
    }
}

impl fmt::Display for PowerSaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hosts")?;
        for (n, (key, value)) in self.labels.iter().enumerate() {
            write!(f, "{} {key}={value}", if n == 0 { " with" } else { "," })?;
        }
        f.write_str(" sleep while nobody needs them")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::case::{Understood, understand};
    use crate::{Clause, Level, Rule};

    fn read(value: Value) -> Result<(Level, PowerSaving), String> {
        match understand(0, value).map_err(|no| no.why)? {
            Understood::Rule(Clause { level, rule: Rule::PowerSaving(rule) }) => Ok((level, rule)),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn it_is_a_wish_that_keeps_two_hosts_and_the_room_of_one_unless_it_says_more() {
        let (level, rule) = read(json!({ "expect": "power_saving" })).unwrap();
        assert_eq!((level, rule.spare(), rule.awake_min()), (Level::Wish, 1, 2));
        assert_eq!(rule.after_ms(), 600_000);
        assert_eq!(rule.to_string(), "hosts sleep while nobody needs them");
        let written = json!({
            "expect": "power_saving", "level": "should", "spare": 2, "awake_min": 3, "after_s": 60,
            "labels": { "rack": "a" },
        });
        let (level, rule) = read(written.clone()).unwrap();
        assert_eq!((level, rule.spare(), rule.awake_min()), (Level::Should, 2, 3));
        assert_eq!(rule.to_string(), "hosts with rack=a sleep while nobody needs them");
        let clause = Clause { level, rule: Rule::PowerSaving(rule) };
        assert_eq!(serde_json::to_value(&clause).unwrap(), written);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        for (key, what, says) in [
            ("spare", json!(0), "1 to 64"),
            ("awake_min", json!(0), "at least 1"),
            ("after_s", json!(0), "1 to 86400"),
            ("after_ms", json!(1), "after_ms"),
        ] {
            let mut value = json!({ "expect": "power_saving" });
            value[key] = what;
            let why = read(value).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
    }
}
