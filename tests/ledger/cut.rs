//! The power fails: at every operation of either file, and at every byte of the last write.

use host_agent::store::Twin;
use tests::disk::{Disk, Fault, Unsynced};

use crate::workload::{Said, batches, live, open};

/// What was answered is there; of the next batch all or nothing is.
fn check(disk: &Disk, answered: usize, what: &str) {
    let batches = batches();
    let (store, said, damage) = open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let next = (answered + 1).min(batches.len());
    let is_right = [answered, next].iter().any(|n| said == *Said::after(*n));
    assert!(is_right, "{what}: {answered} batches were answered, and it says {said:?}");
    assert_eq!(damage, [], "{what}: a power cut damages nothing");
    // It goes on; whoever was not answered asks again.
    batches[answered..].iter().for_each(|batch| store.commit(batch).expect("the disk is well"));
    disk.stop();
    drop(store);
    disk.lose_power(Unsynced::Lost);
    let (_, said, damage) = open(disk).unwrap_or_else(|error| panic!("{what}, again: {error}"));
    assert_eq!((&said, damage), (Said::after_all(), vec![]), "{what}, again");
}

fn policies(seed: u64) -> [(&'static str, Unsynced); 4] {
    [
        ("lost", Unsynced::Lost),
        ("kept", Unsynced::Kept),
        ("torn", Unsynced::Torn(seed)),
        ("torn otherwise", Unsynced::Torn(seed ^ 0x5eed)),
    ]
}

/// Operations on each file when all goes well.
fn operations(before: &Disk) -> [u64; 2] {
    let disk = before.copied();
    assert_eq!(live(&disk, batches()).0, batches().len());
    Twin::ALL.map(|twin| disk.operations(twin))
}

/// Cuts the power at an operation of a file; the other is cut with it, or has gone on.
fn cut_everywhere(before: &Disk) {
    let counts = operations(before);
    assert!(counts.iter().all(|count| *count > 30), "{counts:?}");
    for (twin, count) in Twin::ALL.into_iter().zip(counts) {
        for operation in 1..=count {
            for (policy, unsynced) in policies(operation) {
                let disk = before.copied();
                let bytes = usize::try_from(operation * 97 % 4096).unwrap_or(0);
                disk.plan(twin, operation, Fault::Cut { bytes });
                if operation % 3 == 0 {
                    let other = Twin::ALL.into_iter().find(|other| *other != twin);
                    disk.plan(other.expect("there are two"), operation, Fault::Cut { bytes });
                }
                let (answered, _) = live(&disk, batches());
                disk.lose_power(unsynced);
                check(&disk, answered, &format!("{twin} cut at {operation}, the rest {policy}"));
            }
        }
    }
}

#[test]
fn power_that_fails_at_any_write_of_a_new_host_loses_nothing_that_was_answered() {
    cut_everywhere(&Disk::default());
}

#[test]
fn power_that_fails_at_any_write_of_a_later_life_loses_nothing_that_was_answered() {
    let disk = Disk::default();
    let (store, ..) = open(&disk).expect("it is new");
    // Closed in an orderly way, and then not.
    drop(store);
    let (store, ..) = open(&disk).expect("it is well");
    disk.stop();
    drop(store);
    disk.start();
    cut_everywhere(&disk);
}

#[test]
fn the_last_write_may_be_cut_at_any_byte() {
    let batches = batches();
    let (before, last) = batches.split_at(batches.len() - 1);
    let base = Disk::default();
    assert_eq!(live(&base, before).0, before.len());
    base.lose_power(Unsynced::Kept);
    // In a life of its own, so that its operations can be counted.
    let (opened, whole) = (base.copied(), base.copied());
    live(&opened, &[]);
    live(&whole, last);
    for twin in Twin::ALL {
        let writes = opened.operations(twin) + 1..=whole.operations(twin);
        assert!(writes.clone().count() >= 3, "pages, the header, and a sync: {writes:?}");
        for operation in writes.clone() {
            // The last of them write the header, by which all else counts or not: at every byte.
            let step = if operation + 4 > *writes.end() { 1 } else { 19 };
            for bytes in (0..320).step_by(step).chain((320..4096).step_by(199)) {
                let disk = base.copied();
                disk.plan(twin, operation, Fault::Cut { bytes });
                let (answered, _) = live(&disk, last);
                disk.lose_power(Unsynced::Kept);
                let what = format!("{twin} cut at byte {bytes} of operation {operation}");
                let (store, said, damage) = open(&disk).unwrap_or_else(|e| panic!("{what}: {e}"));
                drop(store);
                let all = before.len() + answered;
                let is_right = (all..=batches.len()).any(|n| said == *Said::after(n));
                assert!(is_right && damage.is_empty(), "{what}: {damage:?} {said:?}");
            }
        }
    }
}
