//! What is moved so that another job fits.

use protocol::api::JobDebit;
use protocol::signed::{PublicKey, SecretKey};
use protocol::trust::Slot;

use super::*;

fn vcpus(vcpus: u32) -> Amounts {
    Amounts { vcpus, ..Amounts::ZERO }
}

fn key(n: u8) -> PublicKey {
    SecretKey::from_seed([n; 32]).public()
}

fn job(n: usize) -> JobId {
    JobId::new(format!("vm-{n}")).unwrap()
}

fn slots() -> Vec<Slot> {
    let slot = |slot: u8| Slot { slot: slot.into(), key: key(slot + 1), url: String::new() };
    (0..3).map(slot).collect()
}

/// What three arbiters have booked of a limit whose parts are these, for jobs of these sizes.
fn books(parts: [u32; 3], jobs: &[(u32, [u32; 3])]) -> BTreeMap<u32, TenantBook> {
    let host = Some(HostId::of(&key(9)));
    let row = |slot: usize, n: usize, takes: u32, debits: &[u32; 3]| JobDebit {
        job: job(n),
        host: host.clone(),
        takes: vcpus(takes),
        debit: vcpus(debits[slot]),
    };
    let book = |slot: usize| TenantBook {
        part: Some(vcpus(parts[slot])),
        jobs: jobs.iter().enumerate().map(|(n, (takes, d))| row(slot, n, *takes, d)).collect(),
    };
    (0..3_u32).map(|slot| (slot, book(slot as usize))).collect()
}

fn levelled(books: &BTreeMap<u32, TenantBook>, size: u32) -> Option<Vec<Move>> {
    let arbiters = slots();
    let committee = Committee { members: &arbiters, k: 2 };
    level(&[committee], books, (&job(99), vcpus(size)))
}

#[test]
fn what_one_arbiter_has_missed_is_moved_to_it() {
    // Six of nine CPUs, while the third arbiter was away.
    let away = books([6, 6, 6], &[(1, [1, 1, 0]); 6]);
    let moves = levelled(&away, 3).expect("3 of 9 are left");
    let mut left = [0_i64, 0, 6];
    for Move { debits, .. } in &moves {
        for slot in 0..3 {
            let before = i64::from(slot < 2);
            left[slot as usize] += before - i64::from(debits[&slot].vcpus);
        }
    }
    assert_eq!(left.iter().sum::<i64>(), 6);
    assert!(left.iter().all(|left| (0..=3).contains(left)), "twice 3 fit: {moves:?}");
    assert_eq!(levelled(&away, 4), None, "nor is there more than there is");
}

/// Of tenants without a limit of VMs all who grant count the VM; a limit that comes later may find every
/// part overdrawn, though the quota has room.
#[test]
fn what_more_have_booked_than_need_to_is_freed_even_of_parts_that_are_overdrawn() {
    let vm = Amounts { vms: 1, ..Amounts::ZERO };
    let arbiters = slots();
    let committee = Committee { members: &arbiters, k: 2 };
    // Limits of 42, of which 40 are used, and three of three have booked each where two need to.
    let (host, parts) = (Some(HostId::of(&key(9))), [28, 28, 28]);
    let row = |n| JobDebit { job: job(n), host: host.clone(), takes: vm, debit: vm };
    let book = |vms| TenantBook {
        part: Some(Amounts { vms, ..Amounts::UNLIMITED }),
        jobs: (0..40).map(row).collect(),
    };
    let books: BTreeMap<u32, TenantBook> = (0..).zip(parts.map(book)).collect();
    let moves = level(&[committee], &books, (&job(99), vm)).expect("two are left");
    let mut left = parts.map(|part| i64::from(part) - 40);
    for Move { debits, .. } in &moves {
        assert_eq!(debits.values().map(|debit| debit.vms).sum::<u32>(), 2);
        for slot in 0..3 {
            left[slot as usize] += 1 - i64::from(debits[&slot].vms);
        }
    }
    assert!(left.iter().filter(|left| **left > 0).count() >= 2, "{left:?} by {moves:?}");
    // More than can be moved at once is begun with.
    let many: Vec<_> = (0..200).map(row).collect();
    let books = books.into_keys().map(|slot| {
        let part = Some(Amounts { vms: 140, ..Amounts::UNLIMITED });
        (slot, TenantBook { part, jobs: many.clone() })
    });
    let moves = level(&[committee], &books.collect(), (&job(99), vm)).expect("ten are left");
    assert_eq!(moves.len(), MOVES_MAX);
}

#[test]
fn what_fits_already_moves_nothing() {
    let even = books([6, 6, 6], &[(3, [2, 2, 2])]);
    assert_eq!(levelled(&even, 6), Some(vec![]));
}

#[test]
fn a_job_that_is_on_its_way_is_left_alone() {
    let mut away = books([2, 2, 2], &[(2, [2, 2, 0])]);
    assert!(levelled(&away, 1).is_some());
    for book in away.values_mut() {
        book.jobs[0].host = None;
    }
    assert_eq!(levelled(&away, 1), None);
}
