//! Rules of spreading as scripts, and against arbiters asked CPU by CPU.

use proptest::prelude::*;
use protocol::signed::SecretKey;
use protocol::trust::Slot;

use super::*;

fn vcpus(vcpus: u32) -> Amounts {
    Amounts { vcpus, ..Amounts::ZERO }
}

fn slots(n: u32) -> Vec<Slot> {
    let key = |slot| SecretKey::from_seed([u8::try_from(slot).unwrap() + 1; 32]).public();
    (0..n).map(|slot| Slot { slot, key: key(slot), url: String::new() }).collect()
}

fn ladles(left: &[u32]) -> BTreeMap<u32, Ladle> {
    let ladle = |left: &u32| Ladle { left: vcpus(*left), ..Ladle::default() };
    (0..).zip(left.iter().map(ladle)).collect()
}

/// The debits of k of n arbiters that have so much left each.
fn of(n: u32, k: u32, size: u32, ladles: &BTreeMap<u32, Ladle>) -> Option<Vec<u32>> {
    let arbiters = slots(n);
    let committee = Committee { members: &arbiters, k };
    let debits = spread(&[committee], vcpus(size), ladles)?;
    Some(debits.into_values().map(|debit| debit.vcpus).collect())
}

#[test]
fn arbiters_are_left_with_as_much_as_each_other() {
    assert_eq!(of(3, 2, 3, &ladles(&[6, 6, 6])), Some(vec![2, 2, 2]));
    assert_eq!(of(3, 2, 3, &ladles(&[1, 6, 5])), Some(vec![0, 3, 3]));
    assert_eq!(of(3, 2, 3, &ladles(&[2, 2, 2])), Some(vec![2, 2, 2]), "the last of it");
    assert_eq!(of(3, 2, 1, &ladles(&[0, 0, 6])), None, "no slot counts twice");
    assert_eq!(of(3, 2, 3, &ladles(&[2, 2, 1])), None);
}

#[test]
fn what_a_job_has_already_costs_nothing_and_what_is_signed_is_not_asked_for_again() {
    let mut all = ladles(&[2, 2, 2]);
    all.get_mut(&0).unwrap().has = vcpus(2);
    all.get_mut(&2).unwrap().has = vcpus(2);
    assert_eq!(of(3, 2, 2, &all), Some(vec![2, 0, 2]), "it moves with what it has");
    let mut all = ladles(&[1, 6, 6]);
    all.get_mut(&0).unwrap().signed = vcpus(2);
    assert_eq!(of(3, 2, 3, &all), Some(vec![2, 2, 2]));
}

#[test]
fn while_arbiters_are_changed_both_committees_have_enough() {
    let all = slots(4);
    let (now, next) = (all[..3].to_vec(), [&all[..2], &all[3..]].concat());
    let committees = [Committee { members: &now, k: 2 }, Committee { members: &next, k: 2 }];
    let debits = spread(&committees, vcpus(3), &ladles(&[6, 6, 6, 6])).unwrap();
    let sum = |slots: [u32; 3]| slots.iter().map(|slot| debits[slot].vcpus).sum::<u32>();
    assert_eq!((sum([0, 1, 2]), sum([0, 1, 3])), (6, 6));
}

#[test]
fn vms_are_spread_as_any_amount_is() {
    let arbiters = slots(3);
    let two_of_three = [Committee { members: &arbiters, k: 2 }];
    let job = Amounts { vms: 1, ..vcpus(3) };
    let ladle = |vms| Ladle { left: Amounts { vms, ..vcpus(9) }, ..Ladle::default() };
    let debits = |vms: [u32; 3]| spread(&two_of_three, job, &(0..).zip(vms.map(ladle)).collect());
    let of =
        |debits: BTreeMap<u32, Amounts>| debits.into_values().map(|debit| (debit.vcpus, debit.vms));
    let with_most = of(debits([2, 1, 2]).unwrap()).collect::<Vec<_>>();
    assert_eq!(with_most, [(2, 1), (2, 0), (2, 1)]);
    assert_eq!(debits([5, 0, 0]), None, "one arbiter counts once");
}

#[test]
fn a_refusal_says_what_would_have_fitted() {
    let arbiters = slots(3);
    let two_of_three = [Committee { members: &arbiters, k: 2 }];
    assert_eq!(largest(&two_of_three, &ladles(&[2, 2, 2]), vcpus(9)), vcpus(3));
    assert_eq!(largest(&two_of_three, &ladles(&[0, 0, 6]), vcpus(9)), vcpus(0));
    assert_eq!(largest(&two_of_three, &ladles(&[6, 6, 6]), vcpus(4)), vcpus(4));
}

/// A cluster's arbiters, asked by nobody else: each has its part of the quota, whole CPUs.
struct Quota {
    k: u32,
    left: Vec<u32>,
}

impl Quota {
    fn new(n: u32, k: u32, quota: u32) -> Self {
        let part = |slot| quota * k / n + u32::from(slot < quota * k % n);
        Self { k, left: (0..n).map(part).collect() }
    }

    fn take(&mut self, size: u32) -> bool {
        let n = u32::try_from(self.left.len()).unwrap();
        let Some(debits) = of(n, self.k, size, &ladles(&self.left)) else { return false };
        assert!(debits.iter().all(|debit| *debit <= size));
        assert!(debits.iter().sum::<u32>() == self.k * size);
        self.left.iter_mut().zip(debits).for_each(|(left, debit)| *left -= debit);
        true
    }
}

proptest! {
    /// While nobody is away, a job fits if and only if it fits into what is left of the quota.
    #[test]
    fn all_of_a_quota_can_be_used(
        (n, k) in prop::sample::select(vec![(1_u32, 1_u32), (3, 2), (4, 3), (5, 3), (7, 4), (5, 5)]),
        quota in 0_u32..200,
        sizes in prop::collection::vec(1_u32..20, 0..60),
    ) {
        let mut left = quota;
        let mut arbiters = Quota::new(n, k, quota);
        for size in sizes {
            prop_assert_eq!(arbiters.take(size), size <= left, "{} of {} in {:?}", size, left, &arbiters.left);
            left -= if size <= left { size } else { 0 };
        }
    }

    /// Of arbiters of which some are away, those that are there give all that their parts allow.
    #[test]
    fn with_some_away_as_many_ns_of_it_can_be_used(
        (n, k, away) in prop::sample::select(vec![(3_u32, 2_u32, 1_usize), (5, 3, 1), (5, 3, 2), (7, 4, 3)]),
        quota in 1_u32..200,
    ) {
        let mut arbiters = Quota::new(n, k, quota);
        arbiters.left.truncate(n as usize - away);
        let mut used = 0;
        while of(n, k, 1, &ladles(&arbiters.left)).is_some() {
            let debits = of(n, k, 1, &ladles(&arbiters.left)).unwrap();
            arbiters.left.iter_mut().zip(debits).for_each(|(left, debit)| *left -= debit);
            used += 1;
        }
        let there = n - u32::try_from(away).unwrap();
        prop_assert!(used >= quota * there / n, "{} of {}, {} of {} are there", used, quota, there, n);
    }

    /// Whatever they have left: there is a plan if and only if there can be one.
    #[test]
    fn there_is_a_plan_when_there_can_be_one(
        left in prop::collection::vec(0_u32..12, 5),
        has in prop::collection::vec(0_u32..6, 5),
        signed in prop::collection::vec(0_u32..3, 5),
        size in 1_u32..9,
    ) {
        let ladle = |i: usize| {
            let (left, has, signed) = (vcpus(left[i]), vcpus(has[i]), vcpus(signed[i].min(size)));
            Ladle { left, has, signed }
        };
        let all: BTreeMap<u32, Ladle> = (0..5_u32).map(|slot| (slot, ladle(slot as usize))).collect();
        let most = |i: usize| left[i].min(size).max(has[i].min(size)).max(signed[i].min(size));
        let can_be = (0..5).map(most).sum::<u32>() >= 3 * size;
        let debits = of(5, 3, size, &all);
        prop_assert_eq!(debits.is_some(), can_be);
        for (i, debit) in debits.into_iter().flatten().enumerate() {
            prop_assert!(debit <= most(i) && debit >= signed[i].min(size));
        }
    }
}
