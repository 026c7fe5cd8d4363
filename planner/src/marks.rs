//! What a host has, as bits that can be put together: whether any host of a hundred may do is then
//! one comparison.
//!
//! A few facts have a bit of their own; words (labels, images, pools) share the others by their hash. So
//! marks may say of a host that it has what it has not, and then it is looked at for nothing; they never
//! say the contrary. Features of CPUs have bits apart: a host has a hundred of them, most of which all hosts have,
//! and they would be in the way of everything else.

use std::ops::Range;

use protocol::host::Host;
use protocol::hugepages::PageSize;
use protocol::id::{ImageName, PoolName};
use protocol::view::Freshness;

use crate::intent::Intent;
use crate::rules::{Rule, cpu_words};

/// Bits below this have a meaning of their own.
const FEATURES_FROM: u32 = 8;

/// Bits from here on are shared by all words but features of CPUs, which have those before.
const WORDS_FROM: u32 = 32;

/// See the module. None at all: the host is not placed on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks(u128);

impl Marks {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// It is heard, and nobody intends anything with it.
    pub const FRESH: Self = Self(1);
    /// It was heard a while ago, and nobody intends anything with it.
    pub const STALE: Self = Self(1 << 1);
    /// It is one of those that this scheduler takes first.
    pub const OWN: Self = Self(1 << 2);
    /// It can receive running guests.
    pub const RECEIVES: Self = Self(1 << 3);
    /// It can kill guests by itself.
    pub const GUARDS: Self = Self(1 << 4);

    /// All that a host has.
    #[must_use]
    pub fn of(host: &Host, freshness: Freshness, intent: Option<Intent>, own: bool) -> Self {
        let heard = match freshness {
            Freshness::Fresh => Self::FRESH,
            Freshness::Stale => Self::STALE,
            Freshness::Lost => return Self::NONE,
        };
        if intent.is_some() {
            return Self::NONE;
        }
        let mut marks = heard;
        let facts = [
            (own, Self::OWN),
            (host.hypervisor.can_receive, Self::RECEIVES),
            (host.hypervisor.can_guard, Self::GUARDS),
        ];
        for (_, mark) in facts.into_iter().filter(|(is_so, _)| *is_so) {
            marks = marks.and(mark);
        }
        for (key, value) in &host.labels {
            marks = marks.and(Self::label(key, value));
        }
        for word in cpu_words(host) {
            marks = marks.and(Self::feature(word));
        }
        let images = host.images.keys().map(Self::image);
        let words = images.chain(host.pools.keys().map(Self::pool));
        let pages = host.hugepages.keys().map(|size| Self::pages(*size));
        let dedicated = (host.dedicated_cpus.total > 0).then(Self::dedicated_cpus);
        words.chain(pages).chain(dedicated).fold(marks, Self::and)
    }

    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are also among these.
    pub(crate) fn only(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    /// Each mark there is, by itself.
    pub(crate) fn each() -> impl Iterator<Item = Self> {
        (0..u128::BITS).map(|bit| Self(1 << bit))
    }

    /// True when all of these may be here.
    #[must_use]
    pub fn have(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// True when the host is not placed on.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// It has this image.
    #[must_use]
    pub fn image(name: &ImageName) -> Self {
        Self::word(&["image", name.as_str()])
    }

    /// It has a pool of this name.
    #[must_use]
    pub fn pool(name: &PoolName) -> Self {
        Self::word(&["pool", name.as_str()])
    }

    /// It has huge pages of this size, whosever they are.
    #[must_use]
    pub fn pages(size: PageSize) -> Self {
        Self::word(&["pages", &size.to_string()])
    }

    /// It has dedicated CPUs, whosever they are.
    #[must_use]
    pub fn dedicated_cpus() -> Self {
        Self::word(&["dedicated-cpus"])
    }

    /// It has this label.
    #[must_use]
    pub fn label(key: &str, value: &str) -> Self {
        Self::word(&["label", key, value])
    }

    /// What a host must have so that a rule about its own facts is met; nothing for rules about others.
    #[must_use]
    pub fn asked_by(rule: &Rule) -> Self {
        match rule {
            Rule::HostLabel(rule) => Self::label(&rule.key, &rule.value),
            Rule::HostArch(rule) => Self::label(crate::rules::ARCH_LABEL, &rule.arch),
            Rule::CpuFeatures(rule) => {
                let features = rule.features.iter().map(|feature| Self::feature(feature));
                features.fold(Self::NONE, Self::and)
            }
            Rule::HostAtLeast(_)
            | Rule::SameHost(_)
            | Rule::NotSameHost(_)
            | Rule::NotSameStorage(_)
            | Rule::StorageClass(_)
            | Rule::StorageCopies(_)
            | Rule::SpreadOver(_)
            | Rule::NoMigration(_)
            | Rule::RestartWithin(_)
            | Rule::LoseAnyHost(_)
            | Rule::LoseAnyDomain(_)
            | Rule::Balanced(_)
            | Rule::PowerSaving(_) => Self::NONE,
        }
    }

    fn word(parts: &[&str]) -> Self {
        Self::bit_of(parts, WORDS_FROM..u128::BITS)
    }

    fn feature(name: &str) -> Self {
        Self::bit_of(&["cpu", name], FEATURES_FROM..WORDS_FROM)
    }

    fn bit_of(parts: &[&str], bits: Range<u32>) -> Self {
        let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        // Words that differ in one letter would else have bits in common: zone z0 and zone z1.
        let mixed = (hash ^ (hash >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bit = u32::try_from((mixed >> 32) % u64::from(bits.end - bits.start)).unwrap_or(0);
        Self(1 << (bits.start + bit))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn words_that_differ_in_one_letter_are_told_apart() {
        let zones: BTreeSet<u128> =
            (0..8).map(|n| Marks::label("zone", &format!("z{n}")).0).collect();
        assert!(zones.len() >= 7, "{zones:?}");
        let racks: BTreeSet<u128> =
            (0..1000).map(|n| Marks::label("rack", &format!("r{n}")).0).collect();
        assert!(racks.len() >= 90, "{}", racks.len());
    }
}
