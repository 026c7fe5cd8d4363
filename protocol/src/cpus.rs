//! CPUs of a host by number, and how many of them VMs have for themselves.
//!
//! Which CPUs a VM has is its host's business, and may be others each time that it starts. That there are so many is
//! what everybody counts. Written as `taskset` and libvirt write them: `0-3,8`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The highest number that a CPU may have: more than Linux is built for.
const CPU_MAX: u32 = 65_535;

/// Some CPUs of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuSet(BTreeSet<u32>);

/// What is no list of CPUs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no list of CPUs: write numbers and ranges with commas between them, such as 2-3,6"
)]
pub struct InvalidCpus(String);

impl CpuSet {
    /// None at all.
    pub const NONE: Self = Self(BTreeSet::new());

    /// True when there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn has(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// In the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }

    /// Those that are not among the others.
    #[must_use]
    pub fn minus(&self, others: &Self) -> Self {
        Self(self.0.difference(&others.0).copied().collect())
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl FromStr for CpuSet {
    type Err = InvalidCpus;

    fn from_str(text: &str) -> Result<Self, InvalidCpus> {
        let wrong = || InvalidCpus(text.to_owned());
        let number = |word: &str| word.parse::<u32>().ok().filter(|cpu| *cpu <= CPU_MAX);
        let mut cpus = BTreeSet::new();
        for part in text.trim().split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range = number(first).zip(number(last)).filter(|(first, last)| first <= last);
            let (first, last) = range.ok_or_else(wrong)?;
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for cpu in self.iter() {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        for (i, (first, last)) in ranges.into_iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// How many CPUs a host gives to VMs for themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct DedicatedCpus {
    /// How many there are.
    pub total: u32,
    /// How many are promised to jobs and offers.
    pub promised: u32,
}

impl DedicatedCpus {
    /// A host that gives none.
    pub const NONE: Self = Self { total: 0, promised: 0 };

    /// How many can still be promised.
    #[must_use]
    pub fn free(self) -> u32 {
        self.total.saturating_sub(self.promised)
    }

    /// True when there is nothing to be said of them.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// So many of them in words.
    #[must_use]
    pub fn words(count: u32) -> String {
        let s = if count == 1 { "" } else { "s" };
        format!("{count} dedicated CPU{s}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_cpus_is_read_and_written_as_taskset_does() {
        let read = |text: &str| text.parse::<CpuSet>().map(|cpus| cpus.to_string());
        for (text, same) in [("2", "2"), ("0-3", "0-3"), ("7,1-2,3", "1-3,7"), ("5,5", "5")] {
            assert_eq!(read(text), Ok(same.to_owned()), "{text}");
        }
        assert_eq!(read("0-1\n"), Ok("0-1".to_owned()), "as the kernel ends its lines");
        for bad in ["", ",", "a", "3-1", "1-", "-1", "1,,2", "^1", "0-4294967295"] {
            assert!(read(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_host_tells_how_many_it_has() {
        let cpus = DedicatedCpus { total: 4, promised: 3 };
        let text = r#"{"total":4,"promised":3}"#;
        assert_eq!(serde_json::to_string(&cpus).unwrap(), text);
        assert_eq!(cpus.free(), 1);
        assert_eq!(
            DedicatedCpus { total: 2, ..cpus }.free(),
            0,
            "the operator has taken some away"
        );
        assert_eq!(DedicatedCpus::words(1), "1 dedicated CPU");
    }
}
