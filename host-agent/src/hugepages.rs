//! Counting huge pages: what the kernel has set aside, and what of that is taken.
//!
//! The kernel is asked each time, because whoever runs `sysctl vm.nr_hugepages` tells nobody. A hypervisor that
//! only pretends has none of the machine's, and as many as its agent was told.
//!
//! Guests get pages of a size only where a `hugetlbfs` of that size is mounted, as systemd mounts one of the usual
//! size. libvirt looks for it when it starts, and so does this.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use protocol::host::HypervisorFacts;
use protocol::hugepages::{PageSize, Pages};

use crate::core::HugepagesSeen;

/// Where Linux says how many there are, of all NUMA nodes together.
const FOLDER: &str = "/sys/kernel/mm/hugepages";
/// What is mounted here.
const MOUNTS: &str = "/proc/self/mounts";

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Counter {
    /// Where the kernel tells; `None` where all is pretended.
    folder: Option<PathBuf>,
    /// Sizes that guests can have, where the kernel tells.
    mounted: BTreeSet<PageSize>,
    /// How many are for guests, if that was said.
    at_most: Option<Pages>,
}

impl Counter {
    /// For this hypervisor, whose guests may have so many.
    pub(crate) fn of(facts: &HypervisorFacts, at_most: Option<Pages>) -> Self {
        let folder = (facts.driver == "QEMU").then(|| PathBuf::from(FOLDER));
        let mounted = mounted(&fs::read_to_string(MOUNTS).unwrap_or_default());
        let counter = Self { folder, mounted, at_most };
        for (size, seen) in counter.folder.as_deref().map(read).unwrap_or_default() {
            if seen.total > 0 && !counter.mounted.contains(&size) {
                tracing::warn!(
                    "{} huge pages of {size} are set aside, and no guest can have them: mount a hugetlbfs with \
                     pagesize={}K, then restart libvirtd, if there is one, and this agent",
                    seen.total,
                    size.kib()
                );
            }
        }
        counter
    }

    /// How many there are for guests, and how many of these are taken.
    pub(crate) fn count(&self) -> BTreeMap<PageSize, HugepagesSeen> {
        let Some(folder) = &self.folder else {
            let told = self.at_most.unwrap_or_default().each();
            return told.map(|(size, total)| (size, HugepagesSeen { total, taken: 0 })).collect();
        };
        let limited = |(size, seen): (PageSize, HugepagesSeen)| match self.at_most {
            None => (size, seen),
            Some(at_most) => (size, within(seen, at_most.count(size))),
        };
        let seen = read(folder).into_iter().filter(|(size, _)| self.mounted.contains(size));
        seen.map(limited).collect()
    }

    /// Memory that is set aside, for whomever, in bytes.
    pub(crate) fn bytes_aside(&self) -> u64 {
        let seen = self.folder.as_deref().map_or_else(|| self.count(), read);
        let bytes = seen.iter().map(|(size, seen)| size.bytes().saturating_mul(seen.total));
        bytes.fold(0, u64::saturating_add)
    }
}

/// The pages when only so many are for guests: others take the rest first.
fn within(seen: HugepagesSeen, at_most: u64) -> HugepagesSeen {
    let total = seen.total.min(at_most);
    HugepagesSeen { total, taken: seen.taken.saturating_sub(seen.total - total) }
}

/// The sizes of each `hugetlbfs` among these lines of `/proc/mounts`: `hugetlbfs /dev/hugepages hugetlbfs
/// rw,relatime,pagesize=2M 0 0`. A kernel that says no size means the usual one.
fn mounted(lines: &str) -> BTreeSet<PageSize> {
    let size = |line: &str| {
        let mut words = line.split(' ').skip(2);
        let options = words.next().filter(|kind| *kind == "hugetlbfs").and(words.next())?;
        let size = options.split(',').find_map(|option| option.strip_prefix("pagesize="));
        let Some(size) = size else { return Some(PageSize::MIB2) };
        let (number, kib) = match size.split_at_checked(size.len().saturating_sub(1))? {
            (number, "K") => (number, 1),
            (number, "M") => (number, 1 << 10),
            (number, "G") => (number, 1 << 20),
            _ => return None,
        };
        PageSize::of_kib(number.parse::<u64>().ok()?.checked_mul(kib)?)
    };
    lines.lines().filter_map(size).collect()
}

/// What the kernel says; what it does not say is none.
fn read(folder: &Path) -> BTreeMap<PageSize, HugepagesSeen> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let of_size = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let kib = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?;
        let size = PageSize::of_kib(kib.parse().ok()?)?;
        let number = |file: &str| -> Option<u64> {
            fs::read_to_string(entry.path().join(file)).ok()?.trim().parse().ok()
        };
        let (total, free) = (number("nr_hugepages")?, number("free_hugepages")?);
        // Reserved for somebody who has not touched them yet: as good as taken.
        let reserved = number("resv_hugepages").unwrap_or(0);
        let taken = total.saturating_sub(free).saturating_add(reserved);
        Some((size, HugepagesSeen { total, taken }))
    };
    entries.filter_map(of_size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(sizes: &[(&str, [&str; 3])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, numbers) in sizes {
            let size = dir.path().join(name);
            fs::create_dir(&size).unwrap();
            let files = ["nr_hugepages", "free_hugepages", "resv_hugepages"];
            for (file, number) in files.into_iter().zip(numbers) {
                fs::write(size.join(file), format!("{number}\n")).unwrap();
            }
        }
        dir
    }

    fn counter(dir: &tempfile::TempDir, at_most: Option<Pages>) -> Counter {
        let mounted = BTreeSet::from([PageSize::MIB2, PageSize::GIB1]);
        Counter { folder: Some(dir.path().to_owned()), mounted, at_most }
    }

    #[test]
    fn pages_that_no_mount_gives_to_guests_are_set_aside_all_the_same() {
        let lines = "proc /proc proc rw,pagesize=1G 0 0\n\
            hugetlbfs /dev/hugepages hugetlbfs rw,nosuid,relatime,pagesize=2M 0 0\n\
            huge /mnt/odd hugetlbfs rw,pagesize=many 0 0\nhugetlbfs\n";
        assert_eq!(mounted(lines), BTreeSet::from([PageSize::MIB2]));
        assert_eq!(
            mounted("h /a hugetlbfs rw,pagesize=1024M 0 0\nh /b hugetlbfs rw 0 0"),
            BTreeSet::from([PageSize::MIB2, PageSize::GIB1])
        );
        let dir = kernel(&[
            ("hugepages-2048kB", ["64", "64", "0"]),
            ("hugepages-1048576kB", ["2", "2", "0"]),
        ]);
        let counter = Counter { mounted: mounted(lines), ..counter(&dir, None) };
        let seen = HugepagesSeen { total: 64, taken: 0 };
        assert_eq!(counter.count(), BTreeMap::from([(PageSize::MIB2, seen)]));
        assert_eq!(counter.bytes_aside(), (128 << 20) + (2 << 30));
    }

    #[test]
    fn pages_are_counted_by_size_and_reserved_ones_are_taken() {
        let dir = kernel(&[
            ("hugepages-2048kB", ["64", "30", "6"]),
            ("hugepages-1048576kB", ["2", "2", "0"]),
            ("hugepages-oddkB", ["1", "1", "0"]),
            ("hugepages-64kB", ["many", "1", "0"]),
        ]);
        let all = counter(&dir, None);
        let expected = BTreeMap::from([
            (PageSize::MIB2, HugepagesSeen { total: 64, taken: 40 }),
            (PageSize::GIB1, HugepagesSeen { total: 2, taken: 0 }),
        ]);
        assert_eq!(all.count(), expected);
        assert_eq!(all.bytes_aside(), (128 << 20) + (2 << 30));
    }

    #[test]
    fn guests_have_no_more_than_was_said_and_others_take_the_rest_first() {
        let dir = kernel(&[("hugepages-2048kB", ["64", "30", "6"])]);
        let some = counter(&dir, Some(Pages { mib2: 32, gib1: 0 }));
        let seen = HugepagesSeen { total: 32, taken: 8 };
        assert_eq!(some.count(), BTreeMap::from([(PageSize::MIB2, seen)]));
        assert_eq!(some.bytes_aside(), 128 << 20, "what is set aside is so for nobody else");
    }

    #[test]
    fn what_only_pretends_has_what_it_was_told_and_a_kernel_without_any_has_none() {
        let told = Counter {
            folder: None,
            mounted: BTreeSet::new(),
            at_most: Some(Pages { mib2: 64, gib1: 0 }),
        };
        let seen = HugepagesSeen { total: 64, taken: 0 };
        assert_eq!(told.count(), BTreeMap::from([(PageSize::MIB2, seen)]));
        assert_eq!(told.bytes_aside(), 128 << 20);
        let none = Counter { folder: Some("/nonexistent".into()), at_most: None, ..told };
        assert_eq!((none.count(), none.bytes_aside()), (BTreeMap::new(), 0));
    }
}
