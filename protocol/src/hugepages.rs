//! Huge pages: what a host has set aside, and what of it VMs take.
//!
//! A host's kernel keeps memory apart in pages of 2 MiB or 1 GiB (`vm.nr_hugepages`). No other memory can be
//! given to a VM that asks for such pages, and they can be given to nothing else. So they are counted by
//! themselves: in whole pages, each size apart, and not as memory.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::resources::{Bytes, InvalidSize};

/// How large a page is. On the wire and to people it is written as `2MiB`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct PageSize {
    kib: u32,
}

impl PageSize {
    /// The usual size of x86-64.
    pub const MIB2: Self = Self { kib: 2 << 10 };
    /// The larger one.
    pub const GIB1: Self = Self { kib: 1 << 20 };

    /// Of so many KiB; `None` for none, and for more than any CPU has.
    #[must_use]
    pub fn of_kib(kib: u64) -> Option<Self> {
        u32::try_from(kib).ok().filter(|kib| *kib > 0).map(|kib| Self { kib })
    }

    /// In KiB.
    #[must_use]
    pub fn kib(self) -> u64 {
        self.kib.into()
    }

    /// In bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.kib() << 10
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Bytes(self.bytes()).fmt(f)
    }
}

impl FromStr for PageSize {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let Bytes(bytes) = text.parse()?;
        let size = Self::of_kib(bytes >> 10).filter(|size| size.bytes() == bytes);
        size.ok_or_else(|| InvalidSize(text.to_owned()))
    }
}

impl TryFrom<String> for PageSize {
    type Error = InvalidSize;

    fn try_from(text: String) -> Result<Self, InvalidSize> {
        text.parse()
    }
}

impl From<PageSize> for String {
    fn from(size: PageSize) -> Self {
        size.to_string()
    }
}

/// A host's huge pages by size; what is not here, it has not.
pub type Hugepages = BTreeMap<PageSize, HugepageFacts>;

/// The pages of one size that a host has set aside.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub struct HugepageFacts {
    /// How many there are.
    pub total: u64,
    /// How many are promised to jobs and offers.
    pub promised: u64,
    /// How many are taken by what is no job: other programs, and guests that nobody has adopted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub others: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl HugepageFacts {
    /// How many jobs could have in all.
    #[must_use]
    pub fn for_jobs(self) -> u64 {
        self.total.saturating_sub(self.others)
    }

    /// How many can still be promised.
    #[must_use]
    pub fn free(self) -> u64 {
        self.for_jobs().saturating_sub(self.promised)
    }
}

/// How many pages of each size that a VM may ask for. No number goes below zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pages {
    /// Of 2 MiB.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mib2: u64,
    /// Of 1 GiB.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gib1: u64,
}

impl Pages {
    /// None at all.
    pub const NONE: Self = Self { mib2: 0, gib1: 0 };

    /// So many of one size; none of a size that no VM may ask for.
    #[must_use]
    pub fn of(size: PageSize, count: u64) -> Self {
        match size {
            PageSize::MIB2 => Self { mib2: count, ..Self::NONE },
            PageSize::GIB1 => Self { gib1: count, ..Self::NONE },
            _ => Self::NONE,
        }
    }

    /// As many as hold so many bytes.
    #[must_use]
    pub fn holding(size: PageSize, bytes: u64) -> Self {
        Self::of(size, bytes.div_ceil(size.bytes()))
    }

    /// What jobs of such a host could have in all.
    #[must_use]
    pub fn for_jobs(hugepages: &Hugepages) -> Self {
        Self::sum(hugepages, HugepageFacts::for_jobs)
    }

    /// What such a host has promised.
    #[must_use]
    pub fn promised(hugepages: &Hugepages) -> Self {
        Self::sum(hugepages, |facts| facts.promised)
    }

    fn sum(hugepages: &Hugepages, count: impl Fn(HugepageFacts) -> u64) -> Self {
        let each = hugepages.iter().map(|(size, facts)| Self::of(*size, count(*facts)));
        each.fold(Self::NONE, Self::plus)
    }

    /// Those of one size.
    #[must_use]
    pub fn count(self, size: PageSize) -> u64 {
        match size {
            PageSize::MIB2 => self.mib2,
            PageSize::GIB1 => self.gib1,
            _ => 0,
        }
    }

    /// The sizes of which there are some, with how many.
    pub fn each(self) -> impl Iterator<Item = (PageSize, u64)> {
        let all = [(PageSize::MIB2, self.mib2), (PageSize::GIB1, self.gib1)];
        all.into_iter().filter(|(_, count)| *count > 0)
    }

    /// True when there are none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// The memory in them, in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.each().fold(0, |sum: u64, (size, count)| {
            sum.saturating_add(count.saturating_mul(size.bytes()))
        })
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.by(other, u64::saturating_add)
    }

    /// What is left without the other.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.by(other, u64::saturating_sub)
    }

    /// The larger of each number.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        self.by(other, u64::max)
    }

    /// True when there are no more of any size than in `room`.
    #[must_use]
    pub fn fits_in(self, room: Self) -> bool {
        self.minus(room).is_none()
    }

    fn by(self, other: Self, both: impl Fn(u64, u64) -> u64) -> Self {
        Self { mib2: both(self.mib2, other.mib2), gib1: both(self.gib1, other.gib1) }
    }
}

/// The same host with other promises.
#[must_use]
pub fn with_promised(hugepages: &Hugepages, promised: Pages) -> Hugepages {
    let each = hugepages
        .iter()
        .map(|(size, facts)| (*size, HugepageFacts { promised: promised.count(*size), ..*facts }));
    each.collect()
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return f.write_str("no huge pages");
        }
        for (i, (size, count)) in self.each().enumerate() {
            let (and, s) = (if i > 0 { " and " } else { "" }, if count == 1 { "" } else { "s" });
            write!(f, "{and}{count} huge page{s} of {size}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_size_reads_back_as_it_is_written_and_is_of_whole_kib() {
        for (size, text) in [(PageSize::MIB2, "2MiB"), (PageSize::GIB1, "1GiB")] {
            assert_eq!(size.to_string(), text);
            assert_eq!(text.parse(), Ok(size));
            assert_eq!(PageSize::of_kib(size.kib()), Some(size));
        }
        for bad in ["0MiB", "3B", "2048", "9999TiB", ""] {
            assert!(bad.parse::<PageSize>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!(PageSize::of_kib(0), None);
        assert_eq!(PageSize::of_kib(u64::MAX), None);
    }

    #[test]
    fn hosts_tell_their_pages_by_size() {
        let facts = HugepageFacts { total: 64, promised: 40, others: 0 };
        let hugepages = Hugepages::from([(PageSize::MIB2, facts)]);
        let text = r#"{"2MiB":{"total":64,"promised":40}}"#;
        assert_eq!(serde_json::to_string(&hugepages).unwrap(), text);
        assert_eq!(serde_json::from_str::<Hugepages>(text).unwrap(), hugepages);
    }

    #[test]
    fn what_others_take_is_nobodys_to_promise() {
        let facts = HugepageFacts { total: 64, promised: 40, others: 8 };
        assert_eq!((facts.for_jobs(), facts.free()), (56, 16));
        let shrunk = HugepageFacts { total: 32, ..facts };
        assert_eq!((shrunk.for_jobs(), shrunk.free()), (24, 0));
    }

    #[test]
    fn memory_is_held_in_whole_pages() {
        assert_eq!(Pages::holding(PageSize::MIB2, 64 << 20), Pages { mib2: 32, gib1: 0 });
        assert_eq!(Pages::holding(PageSize::MIB2, 65 << 20), Pages { mib2: 33, gib1: 0 });
        assert_eq!(Pages::holding(PageSize::GIB1, 1), Pages { mib2: 0, gib1: 1 });
        let all = Pages { mib2: 3, gib1: 1 };
        assert_eq!(all.bytes(), (6 << 20) + (1 << 30));
        assert_eq!(all.to_string(), "3 huge pages of 2MiB and 1 huge page of 1GiB");
        assert!(Pages { mib2: 3, gib1: 0 }.fits_in(all));
        assert!(!all.fits_in(Pages { mib2: 3, gib1: 0 }));
    }
}
