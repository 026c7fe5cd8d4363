//! The ledger on a real disk: what was committed is there, and what can't be read is said.

use std::path::Path;

use protocol::host::HostIntent;
use protocol::id::JobId;
use protocol::signed::Digest;

use super::rows::Table;
use super::*;

fn open(folder: &Path, boot: &str) -> (Store, LedgerState, Vec<Damage>) {
    Store::open(&FileShelf::new(folder), boot, 0).expect("it can be opened")
}

#[test]
fn every_opening_is_a_new_epoch_and_a_reboot_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let life = |boot: &str, is_written: bool| {
        let (store, state, _) = open(folder.path(), boot);
        if is_written {
            store.commit(&[Write::Boot(boot.to_owned())]).unwrap();
        }
        state
    };
    let first = life("a", true);
    assert!(!first.is_rebooted(), "the first start is no reboot");
    let second = life("a", false);
    assert!(second.epoch > first.epoch && !second.is_rebooted());
    assert!(life("b", false).is_rebooted());
    assert!(life("b", true).is_rebooted(), "nothing was written of it");
    assert!(!life("b", false).is_rebooted());
}

/// Jobs are taken before the first list of domains, with which a reboot is written down.
#[test]
fn a_reboot_right_after_the_first_start_is_noticed_too() {
    let folder = tempfile::tempdir().unwrap();
    let (store, first, _) = open(folder.path(), "a");
    assert_eq!((first.boot_of_rows.as_str(), first.is_rebooted()), ("a", false));
    let job = crate::core::tests::record("web-1");
    store.commit(&[Write::Job(Box::new(job))]).unwrap();
    drop(store);
    let (store, again, _) = open(folder.path(), "a");
    assert!(!again.is_rebooted());
    drop(store);
    assert!(open(folder.path(), "b").1.is_rebooted());
}

#[test]
fn a_ledger_that_was_put_back_counts_on_where_it_had_not_been() {
    let folder = tempfile::tempdir().unwrap();
    let shelf = FileShelf::new(folder.path());
    let open_at = |at_s: u64| Store::open(&shelf, "a", at_s).expect("it can be opened").1.epoch;
    let files = [Twin::Main, Twin::Second].map(|twin| shelf.place(twin));
    assert_eq!(open_at(1_000), Epoch(1_000));
    let backup = files.each_ref().map(|file| std::fs::read(file).unwrap());
    assert_eq!(open_at(1_000), Epoch(1_001), "twice in a second");
    assert_eq!(open_at(7), Epoch(1_002), "by a clock that was set back");
    let last = open_at(2_000);
    for (file, bytes) in files.iter().zip(backup) {
        std::fs::write(file, bytes).unwrap();
    }
    assert!(open_at(2_001) > last, "what was offered in between is not offered again");
}

#[test]
fn a_second_agent_in_one_folder_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let _first = open(folder.path(), "boot");
    let shelf = FileShelf::new(folder.path());
    let Err(refused) = Store::open(&shelf, "boot", 0) else { panic!("one is enough") };
    let refused = refused.to_string();
    assert!(refused.contains("another agent works in this folder"), "{refused}");
}

#[test]
fn what_was_committed_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let good = crate::core::tests::record("good");
    {
        let (store, ..) = open(folder.path(), "a");
        let drain = Some(HostIntent::Drain);
        let agreed = Write::Agreed(Digest::of(b"a change"));
        let writes = [Write::Job(Box::new(good.clone())), Write::HostIntent(drain), agreed];
        store.commit(&writes).unwrap();
    }
    let (store, state, _) = open(folder.path(), "a");
    assert_eq!(state.agreed, Some(Digest::of(b"a change")));
    assert_eq!((state.jobs, state.host_intent), (vec![good], Some(HostIntent::Drain)));
    store.commit(&[Write::HostIntent(None)]).unwrap();
    store.commit(&[Write::JobGone(JobId::new("good").unwrap())]).unwrap();
    drop(store);
    let state = open(folder.path(), "a").1;
    assert_eq!((state.jobs, state.host_intent), (vec![], None));
}

const UNREADABLE: [(Table, &str); 10] = [
    (Table::Meta, "epoch"),
    (Table::Meta, "commits"),
    (Table::Meta, "trust"),
    (Table::Meta, "agreed"),
    (Table::Meta, "host-intent"),
    (Table::Meta, "pools"),
    (Table::Meta, "history"),
    (Table::Jobs, "web-1"),
    (Table::Claims, "no-run"),
    (Table::Networks, "blue"),
];

fn tear(store: &Store, files: std::ops::Range<usize>, (table, key): (Table, &str)) {
    let torn = Change { table, key: key.to_owned(), value: Some(b"{torn".to_vec()) };
    for file in &store.files[files] {
        file.commit(std::slice::from_ref(&torn)).unwrap();
    }
}

#[test]
fn a_row_that_nobody_can_read_stops_the_agent_and_is_named() {
    for row in UNREADABLE {
        let folder = tempfile::tempdir().unwrap();
        let (store, ..) = open(folder.path(), "a");
        tear(&store, 0..2, row);
        drop(store);
        let refused =
            Store::open(&FileShelf::new(folder.path()), "a", 0).expect_err("two are torn");
        let StoreError::Unreadable { main_why, twin_why } = refused else { panic!("{refused}") };
        assert!(main_why.contains(row.1) && twin_why.contains(row.1), "{main_why} {twin_why}");
    }
}

#[test]
fn a_row_that_one_file_can_read_is_read_and_the_other_file_is_kept_and_named() {
    for row in UNREADABLE {
        for file in [0, 1] {
            let folder = tempfile::tempdir().unwrap();
            let (store, ..) = open(folder.path(), "a");
            let job = crate::core::tests::record("web-1");
            store.commit(&[Write::Job(Box::new(job.clone()))]).unwrap();
            tear(&store, file..file + 1, row);
            drop(store);
            let (store, state, damage) = open(folder.path(), "a");
            assert_eq!(state.jobs, std::slice::from_ref(&job));
            let [Damage { twin, why: Some(why), kept }] = &damage[..] else { panic!("{damage:?}") };
            assert!(*twin == Twin::ALL[file] && why.contains(row.1), "{why}");
            drop(store);
            let again = open(folder.path(), "a").2;
            let [Damage { why: None, .. }] = &again[..] else { panic!("it is told once more") };
            std::fs::remove_file(kept).unwrap();
            let (_, state, damage) = open(folder.path(), "a");
            assert_eq!((state.jobs, damage), (vec![job], vec![]));
        }
    }
}

#[test]
fn a_ledger_of_one_file_gets_its_twin_and_an_agent_that_knows_one_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    let job = crate::core::tests::record("web-1");
    let (store, first, _) = open(folder.path(), "a");
    store.commit(&[Write::Job(Box::new(job.clone()))]).unwrap();
    drop(store);
    std::fs::remove_file(folder.path().join(Twin::Second.name())).unwrap();
    let (store, state, damage) = open(folder.path(), "a");
    assert_eq!((&state.jobs[..], &damage[..]), (&[job][..], &[][..]));
    // An older agent begins an epoch, counts no commits, and writes to the main file alone.
    let mut epoch = Change::of_epoch(Epoch(first.epoch.0 + 2)).to_vec();
    epoch.truncate(2);
    epoch.push(Change::of(&Write::JobGone(JobId::new("web-1").unwrap())));
    store.files[0].commit(&epoch).unwrap();
    drop(store);
    let (_, state, damage) = open(folder.path(), "a");
    assert_eq!((state.jobs, damage), (vec![], vec![]));
    assert_eq!(state.epoch, Epoch(first.epoch.0 + 3));
}
