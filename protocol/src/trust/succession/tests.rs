//! What may follow what, and that nothing else may.

use proptest::prelude::*;

use super::super::{CLOCK_PPM, TERM_MS};
use super::*;
use crate::signed::SecretKey;

fn key(n: u32) -> SecretKey {
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&n.to_le_bytes());
    SecretKey::from_seed(seed)
}

const OPERATOR: u32 = 1_000;
const HOST: u32 = 2_000;

fn arbiter(slot: u32) -> Slot {
    Slot { slot, key: key(slot).public(), url: String::new() }
}

fn arbiters(slots: &[u32]) -> Vec<Slot> {
    slots.iter().copied().map(arbiter).collect()
}

fn majority(slots: &[u32]) -> u32 {
    u32::try_from(slots.len()).unwrap() / 2 + 1
}

fn trust(version: u64, slots: &[u32]) -> Trust {
    Trust {
        version,
        operators: vec![key(OPERATOR).public()],
        arbiters: arbiters(slots),
        k: majority(slots),
        roster: vec![key(HOST).public(), key(HOST + 1).public()],
        ..Trust::of_nobody(ClusterId::new("c1").unwrap())
    }
}

fn joint(version: u64, since: u64, from: &[u32], to: &[u32]) -> Trust {
    let next = Next {
        since,
        arbiters: arbiters(to),
        k: majority(to),
        witnesses: Witnesses::default(),
        recovers: false,
    };
    let succession = Succession { next: Some(next), handover: None };
    Trust { succession, ..trust(version, from) }
}

/// The document that completes a change, with the word of these arbiters.
fn completed(version: u64, of: &Trust, ready: &[u32]) -> Trust {
    let next = of.succession.next.clone().unwrap();
    let change = of.change().unwrap();
    let word = |slot: &u32| {
        let ready = Ready { cluster: of.cluster.clone(), slot: *slot, change };
        Signed::seal(&ready, &key(*slot))
    };
    let handover = Handover { since: next.since, change, ready: ready.iter().map(word).collect() };
    Trust {
        version,
        arbiters: next.arbiters,
        k: next.k,
        succession: Succession { next: None, handover: Some(handover) },
        ..of.clone()
    }
}

fn accept(old: &Trust, new: &Trust) -> Result<Option<Trust>, TrustError> {
    Trust::accept(Some(old), &Signed::seal(new, &key(OPERATOR)))
}

#[track_caller]
fn unlawful(old: &Trust, new: &Trust) {
    let refused = accept(old, new);
    assert!(matches!(refused, Err(TrustError::Unlawful { .. })), "{refused:?}");
}

#[track_caller]
fn lawful(old: &Trust, new: &Trust) {
    assert_eq!(accept(old, new), Ok(Some(new.clone())));
}

#[test]
fn arbiters_change_only_through_a_document_that_names_both() {
    let old = trust(1, &[0, 1, 2]);
    unlawful(&old, &trust(2, &[0, 1, 3]));
    unlawful(&old, &trust(2, &[0, 1]));
    unlawful(&old, &trust(2, &[0, 1, 2, 3]));
    unlawful(&old, &Trust { k: 3, ..trust(2, &[0, 1, 2]) });
    let between = joint(2, 2, &[0, 1, 2], &[0, 1, 3]);
    lawful(&old, &between);
    lawful(&between, &completed(3, &between, &[0, 3]));
    // Where they answer is not who they are.
    let mut moved = trust(2, &[0, 1, 2]);
    moved.arbiters[1].url = "https://elsewhere:1".into();
    lawful(&old, &moved);
}

#[test]
fn a_change_is_completed_only_by_a_quorum_of_those_who_take_over() {
    let between = joint(2, 2, &[0, 1, 2], &[0, 1, 3]);
    let too_few = completed(3, &between, &[3]);
    assert!(matches!(accept(&between, &too_few), Err(TrustError::Invalid(_))));
    let by_the_old = completed(3, &between, &[0, 2]);
    assert!(matches!(accept(&between, &by_the_old), Err(TrustError::Invalid(_))));
    let mut forged = completed(3, &between, &[0, 3]);
    let handover = forged.succession.handover.as_mut().unwrap();
    let word = Ready { cluster: between.cluster.clone(), slot: 3, change: handover.change };
    handover.ready[1] = Signed::seal(&word, &key(2));
    assert!(matches!(accept(&between, &forged), Err(TrustError::Invalid(_))));
    // Their word is for one change; it is no use for another with the same end.
    let other = joint(2, 2, &[0, 1, 4], &[0, 1, 3]);
    let words_of_other = completed(3, &other, &[0, 3]);
    unlawful(&between, &words_of_other);
    let later = joint(5, 5, &[0, 1, 2], &[0, 1, 3]);
    unlawful(&later, &completed(6, &between, &[0, 3]));
}

/// A host that slept through the change has not agreed, whatever the others say.
#[test]
fn a_completed_change_follows_only_the_change() {
    let between = joint(2, 2, &[0, 1, 2], &[3, 4, 5]);
    unlawful(&trust(1, &[0, 1, 2]), &completed(3, &between, &[3, 4]));
    let done = completed(3, &between, &[3, 4]);
    // The next change may begin before a host has heard that the one before is over.
    let handover = done.succession.handover.clone();
    let next = Next {
        since: 4,
        arbiters: arbiters(&[3, 4, 6]),
        k: 2,
        witnesses: Witnesses::default(),
        recovers: false,
    };
    let onward =
        Trust { version: 4, succession: Succession { next: Some(next), handover }, ..done.clone() };
    lawful(&between, &onward);
    lawful(&done, &onward);
    // A finished change can't be begun again under its old number.
    let again = Next {
        since: 2,
        arbiters: arbiters(&[3, 4, 6]),
        k: 2,
        witnesses: Witnesses::default(),
        recovers: false,
    };
    let mut again = Trust { version: 5, ..onward.clone() }.with_next(again);
    assert!(matches!(accept(&done, &again), Err(TrustError::Invalid(_))));
    again.succession.next = None;
    lawful(&onward, &again);
}

impl Trust {
    fn with_next(mut self, next: Next) -> Self {
        self.succession.next = Some(next);
        self
    }
}

#[test]
fn a_change_is_taken_back_only_by_hosts_that_have_not_agreed() {
    let between = joint(2, 2, &[0, 1, 2], &[0, 1, 3]);
    let back = trust(3, &[0, 1, 2]);
    let other = joint(3, 3, &[0, 1, 2], &[0, 1, 4]);
    for new in [&back, &other] {
        lawful(&between, new);
        assert_eq!(check_agreed(None, &between, new), Ok(()));
        let agreed = check_agreed(between.change(), &between, new);
        assert!(matches!(agreed, Err(TrustError::Unlawful { .. })));
    }
    let mut onward = between.clone();
    onward.version = 3;
    onward.roster.push(key(HOST + 2).public());
    assert_eq!(check_agreed(between.change(), &between, &onward), Ok(()));
    let done = completed(3, &between, &[0, 1]);
    assert_eq!(check_agreed(between.change(), &between, &done), Ok(()));
}

#[test]
fn a_slot_belongs_to_one_key() {
    let old = trust(1, &[0, 1, 2]);
    let mut stolen = joint(2, 2, &[0, 1, 2], &[0, 1, 3]);
    stolen.succession.next.as_mut().unwrap().arbiters[2].slot = 2;
    assert!(matches!(accept(&old, &stolen), Err(TrustError::Invalid(_))));
    let mut rekeyed = trust(2, &[0, 1, 2]);
    rekeyed.arbiters[2].key = key(9).public();
    unlawful(&old, &rekeyed);
}

#[test]
fn terms_stay_and_hosts_leave_only_as_retired() {
    let old = trust(1, &[0]);
    unlawful(&old, &Trust { term_ms: TERM_MS + 1, ..trust(2, &[0]) });
    unlawful(&old, &Trust { clock_ppm: CLOCK_PPM - 1, ..trust(2, &[0]) });
    let mut without = trust(2, &[0]);
    let left = without.roster.pop().unwrap();
    unlawful(&old, &without);
    without.retired.push(left);
    lawful(&old, &without);
}

/// A role reads every half second: it may miss a document that its host has obeyed meanwhile.
#[test]
fn a_role_that_missed_a_document_follows_its_host() {
    let old = trust(1, &[0, 1, 2]);
    let between = joint(2, 2, &[0, 1, 2], &[3, 4, 5]);
    let done = Signed::seal(&completed(3, &between, &[3, 4]), &key(OPERATOR));
    assert!(Trust::accept(Some(&old), &done).is_err());
    assert!(Trust::follow(Some(&old), &done).unwrap().is_some());
    let at_once = Signed::seal(&trust(2, &[0, 1, 3]), &key(OPERATOR));
    assert!(Trust::follow(Some(&old), &at_once).is_err());
}

#[test]
fn what_was_granted_before_a_change_counts_with_those_who_take_over_as_if_they_had() {
    let one = Amounts { vcpus: 1, ..Amounts::ZERO };
    let of = |slots: &[u32]| slots.iter().map(|slot| (*slot, one)).collect();
    let counts = |trust: &Trust, slots: &[u32]| {
        let booked = trust.booked(&of(slots), one).into_iter();
        booked.filter(|(_, debit)| *debit == one).map(|(slot, _)| slot).collect::<Vec<_>>()
    };
    let between = joint(2, 2, &[0, 1, 2], &[0, 1, 3]);
    assert_eq!(counts(&between, &[0, 1]), [0, 1]);
    assert_eq!(counts(&between, &[0, 2]), [0, 2, 3], "3 stands where 2 stood");
    assert_eq!(counts(&between, &[0, 2, 3]), [0, 2, 3]);
    assert_eq!(counts(&trust(1, &[0, 1, 2]), &[0, 2]), [0, 2]);
}

proptest! {
    /// Whatever was booked by whom: it counts k times in each committee, and never more than once a slot.
    #[test]
    fn what_is_booked_is_enough_everywhere(
        debits in proptest::collection::btree_map(0_u32..7, 0_u32..6, 0..7),
        size in 0_u32..6,
        next in proptest::collection::btree_set(0_u32..7, 1..6),
    ) {
        let vcpus = |vcpus: u32| Amounts { vcpus, ..Amounts::ZERO };
        let next: Vec<u32> = next.into_iter().collect();
        prop_assume!(next != [0, 1, 2]);
        let trust = joint(2, 2, &[0, 1, 2], &next);
        let debits = debits.into_iter().map(|(slot, debit)| (slot, vcpus(debit.min(size)))).collect();
        let booked = trust.booked(&debits, vcpus(size));
        for committee in trust.committees(trust.change()) {
            let of_it = booked.iter().filter(|(slot, _)| committee.has(**slot));
            let sum: u32 = of_it.map(|(_, debit)| debit.vcpus).sum();
            prop_assert!(sum >= committee.k * size, "{sum}");
        }
        for (slot, debit) in &booked {
            prop_assert_eq!(trust.booked_at(*slot, &debits, vcpus(size)), *debit);
        }
        prop_assert!(booked.values().all(|debit| debit.vcpus <= size));
        prop_assert!(debits.iter().all(|(slot, debit)| debit.fits_in(booked[slot])));
    }
}

proptest! {
    /// However a document changes: a quorum that counted on a host before and one that counts on any
    /// host after meet, whether hosts have agreed or not.
    #[test]
    fn two_quorums_always_meet(
        from in proptest::collection::btree_set(0_u32..7, 1..6),
        to in proptest::collection::btree_set(0_u32..7, 1..6),
        end in proptest::collection::btree_set(0_u32..7, 1..6),
        has_next in any::<bool>(),
        next_again in any::<bool>(),
        is_completed in any::<bool>(),
        (agreed, then_agreed) in (any::<bool>(), any::<bool>()),
        (one, other) in (any::<u8>(), any::<u8>()),
    ) {
        let list = |set: &BTreeSet<u32>| set.iter().copied().collect::<Vec<_>>();
        let (from, to, end) = (list(&from), list(&to), list(&end));
        let old = if has_next { joint(2, 2, &from, &to) } else { trust(2, &from) };
        prop_assume!(old.validate().is_ok());
        let new = match (is_completed && has_next, next_again) {
            (true, _) => completed(3, &old, &to),
            (false, true) => joint(3, if to == end { 2 } else { 3 }, &from, &end),
            (false, false) => trust(3, &end),
        };
        prop_assume!(accept(&old, &new).is_ok());
        // A change is completed only after all have agreed to it, and who has agreed goes not back.
        let agreed = if is_completed || agreed { old.change() } else { None };
        prop_assume!(check_agreed(agreed, &old, &new).is_ok());
        let then = if then_agreed { new.change() } else { agreed };
        let chosen = |bits: u8| (0..7).filter(|n| bits & (1 << n) != 0).collect::<BTreeSet<u32>>();
        let (one, other) = (chosen(one), chosen(other));
        if old.is_quorum(agreed, &one) && new.is_quorum(then, &other) {
            prop_assert!(!one.is_disjoint(&other), "{one:?} under {old:?}, {other:?} under {new:?}");
        }
    }
}
