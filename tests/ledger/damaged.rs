//! Bytes change by themselves, pages can't be read, files are cut short or gone: one file's damage costs
//! nothing and is named; that of both is said, and nothing is made up.

use std::collections::BTreeSet;

use host_agent::store::{StoreError, Twin};
use tests::disk::{Disk, Unsynced};
use tests::sim::chance::Chance;

use crate::workload::{Said, batches, live, open};

const PAGE: usize = 4096;

/// A ledger with all batches, closed in an orderly way or killed.
fn whole(is_killed: bool) -> Disk {
    let disk = Disk::default();
    assert_eq!(live(&disk, batches()).0, batches().len());
    disk.lose_power(Unsynced::Lost);
    let (store, ..) = open(&disk).expect("it is well");
    if is_killed {
        disk.stop();
    }
    drop(store);
    disk.start();
    disk
}

/// All is there, and if the damage was seen, it is named, and gone with the next life.
fn check(disk: &Disk, twin: Twin, what: &str) -> bool {
    let (store, said, damage) = open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    drop(store);
    assert_eq!(&said, Said::after_all(), "{what}");
    let is_seen = match &damage[..] {
        [] => false,
        [one] => one.twin == twin && one.why.is_some(),
        _ => panic!("{what}: {damage:?}"),
    };
    assert_eq!(disk.remove_aside(twin), is_seen, "{what}: it is kept, and named by what it is");
    let (_, said, damage) = open(disk).unwrap_or_else(|error| panic!("{what}, again: {error}"));
    assert_eq!((&said, damage), (Said::after_all(), vec![]), "{what}, again");
    is_seen
}

#[test]
fn a_byte_that_has_changed_in_one_file_costs_nothing() {
    let mut chance = Chance::new(7);
    for is_killed in [false, true] {
        let disk = whole(is_killed);
        for twin in Twin::ALL {
            let good = disk.bytes(twin);
            let mut seen = BTreeSet::new();
            // Every byte of the header, and of each page some.
            let bytes = (0..320).chain((320..good.len()).step_by(1409));
            for at in bytes {
                let disk = disk.copied();
                let mut bytes = good.clone();
                bytes[at] ^= 1 << chance.below(8);
                disk.set_bytes(twin, &bytes);
                if check(&disk, twin, &format!("byte {at} of {twin} (killed: {is_killed})")) {
                    seen.insert(at / PAGE);
                }
            }
            assert!(seen.len() > 5, "the pages that count are summed: {seen:?}");
        }
    }
}

#[test]
fn a_page_that_is_empty_unreadable_or_gone_costs_nothing() {
    for is_killed in [false, true] {
        let disk = whole(is_killed);
        for twin in Twin::ALL {
            let good = disk.bytes(twin);
            let mut seen = 0;
            for page in 0..good.len() / PAGE {
                let range = page * PAGE..(page + 1) * PAGE;
                let empty = disk.copied();
                let mut bytes = good.clone();
                bytes[range.clone()].fill(0);
                empty.set_bytes(twin, &bytes);
                seen += u32::from(check(&empty, twin, &format!("page {page} of {twin} is empty")));

                let unreadable = disk.copied();
                unreadable.make_unreadable(twin, range.start as u64..range.end as u64);
                check(&unreadable, twin, &format!("page {page} of {twin} can't be read"));

                let short = disk.copied();
                short.set_bytes(twin, &good[..range.start]);
                check(&short, twin, &format!("{twin} ends at page {page}"));
            }
            assert!(seen > 5, "{seen}");
        }
    }
}

#[test]
fn a_file_that_is_gone_is_made_anew() {
    for twin in Twin::ALL {
        let disk = whole(true);
        disk.remove(twin);
        let (_, said, damage) = open(&disk).expect("one file is enough");
        assert_eq!((&said, damage), (Said::after_all(), vec![]));
    }
}

#[test]
fn what_neither_file_can_tell_is_not_made_up_and_nothing_is_touched() {
    let disk = whole(true);
    for twin in Twin::ALL {
        let mut bytes = disk.bytes(twin);
        bytes[PAGE..].fill(0xa5);
        disk.set_bytes(twin, &bytes);
    }
    let before = Twin::ALL.map(|twin| disk.bytes(twin));
    let error = open(&disk).expect_err("there is nothing to go by");
    let StoreError::Unreadable { main_why, twin_why } = error else { panic!("{error}") };
    assert!(!main_why.is_empty() && !twin_why.is_empty());
    assert!(Twin::ALL.into_iter().all(|twin| !disk.remove_aside(twin)), "nothing is moved");
    disk.lose_power(Unsynced::Lost);
    assert!(before == Twin::ALL.map(|twin| disk.bytes(twin)), "and nothing is changed");
}
