//! The disk says no: it is full, or an operation fails. That is an error and nothing else.

use host_agent::store::{StoreError, Twin};
use tests::disk::{Disk, Fault, Unsynced};

use crate::workload::{Said, batches, live, open};

fn fail_everywhere(fault: Fault) {
    let batches = batches();
    let whole = Disk::default();
    live(&whole, batches);
    for twin in Twin::ALL {
        for operation in 1..=whole.operations(twin) {
            for loses_power in [false, true] {
                let disk = Disk::default();
                disk.plan(twin, operation, fault);
                let what = format!("{fault:?} at operation {operation} of {twin}");
                let (answered, error) = live(&disk, batches);
                match error {
                    Some(StoreError::Failed { .. } | StoreError::Shelf { .. }) => {}
                    // The disk was full for what was not needed any more.
                    None if answered == batches.len() => {}
                    other => panic!("{what}: {answered} and {other:?}"),
                }
                match loses_power {
                    true => disk.lose_power(Unsynced::Torn(operation)),
                    false => disk.start(),
                }
                let (_, said, damage) = open(&disk).unwrap_or_else(|e| panic!("{what}: {e}"));
                let next = (answered + 1).min(batches.len());
                let is_right = [answered, next].iter().any(|n| said == *Said::after(*n));
                assert!(is_right, "{what}: {answered} were answered: {said:?}");
                assert_eq!(damage, [], "{what}");
            }
        }
    }
}

#[test]
fn a_full_disk_is_said_and_loses_nothing() {
    fail_everywhere(Fault::Full);
}

#[test]
fn an_operation_that_fails_is_said_and_loses_nothing() {
    fail_everywhere(Fault::Error);
}

#[test]
fn after_a_failure_nothing_more_is_written() {
    let batches = batches();
    let disk = Disk::default();
    let (store, ..) = open(&disk).expect("it is new");
    let failing = disk.operations(Twin::Second) + 1;
    disk.plan(Twin::Second, failing, Fault::Error);
    assert!(matches!(store.commit(&batches[0]), Err(StoreError::Failed { .. })));
    assert!(matches!(store.commit(&batches[1]), Err(StoreError::Over)));
}

#[test]
fn a_disk_that_is_full_at_the_start_puts_no_file_aside() {
    let disk = Disk::default();
    live(&disk, batches());
    disk.start();
    for twin in Twin::ALL {
        let full = disk.copied();
        full.plan(twin, 1, Fault::Full);
        match open(&full) {
            Ok((_, _, damage)) => assert_eq!(damage, []),
            Err(StoreError::Failed { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        full.stop();
        full.start();
        let (_, said, damage) = open(&full).expect("there is space again");
        assert_eq!((&said, damage), (Said::after_all(), vec![]));
    }
}
