//! Who counts with whom, what may follow what where there are witnesses, and that nothing is written of
//! them where there are none.

use proptest::prelude::*;

use super::super::{Handover, Next, Ready, Succession, TrustError};
use super::*;
use crate::id::ClusterId;
use crate::signed::{SecretKey, Signed};

fn key(n: u32) -> SecretKey {
    let mut seed = [8; 32];
    seed[..4].copy_from_slice(&n.to_le_bytes());
    SecretKey::from_seed(seed)
}

const OPERATOR: u32 = 1_000;

fn slots(slots: &[u32]) -> Vec<Slot> {
    let slot = |slot: &u32| Slot { slot: *slot, key: key(*slot).public(), url: String::new() };
    slots.iter().map(slot).collect()
}

fn trust(version: u64, arbiters: &[u32], witnesses: &[u32]) -> Trust {
    Trust {
        version,
        operators: vec![key(OPERATOR).public()],
        arbiters: slots(arbiters),
        k: u32::try_from(arbiters.len()).unwrap() / 2 + 1,
        witnesses: Witnesses::of(slots(witnesses), 0),
        roster: vec![key(2_000).public()],
        ..Trust::of_nobody(ClusterId::new("c1").unwrap())
    }
}

#[test]
fn so_many_are_of_use_as_bear_every_liar_and_one_more_loss_than_one_less() {
    let of_use = |f: u32| (0..9).filter(|n| Witnesses::is_of_use(*n, f)).collect::<Vec<_>>();
    assert_eq!(of_use(0), [1, 3, 5, 7]);
    assert_eq!(of_use(1), [4, 6, 8]);
    assert_eq!(of_use(2), [7]);
    // Any two quorums have more than f in common, and those who don't lie are one.
    for f in 0..3 {
        for n in of_use(f) {
            let k = super::super::quorum(n, f);
            assert!(2 * k - n > f && n - f >= k, "{k} of {n}, {f} may lie");
        }
    }
}

/// The document that names both.
fn joint(version: u64, from: &Trust, to: &Trust) -> Trust {
    let (arbiters, k, witnesses) = (to.arbiters.clone(), to.k, to.witnesses.clone());
    let next = Next { since: version, arbiters, k, witnesses, recovers: false };
    let succession = Succession { next: Some(next), ..from.succession.clone() };
    Trust { version, succession, ..from.clone() }
}

/// The document that completes that, with the word of these arbiters.
fn completed(of: &Trust, ready: &[u32]) -> Trust {
    let next = of.succession.next.clone().unwrap();
    let change = of.change().unwrap();
    let word = |slot: &u32| {
        let ready = Ready { cluster: of.cluster.clone(), slot: *slot, change };
        Signed::seal(&ready, &key(*slot))
    };
    let handover = Handover { since: next.since, change, ready: ready.iter().map(word).collect() };
    Trust {
        version: of.version + 1,
        arbiters: next.arbiters,
        k: next.k,
        witnesses: next.witnesses,
        succession: Succession { next: None, handover: Some(handover) },
        ..of.clone()
    }
}

fn accept(old: &Trust, new: &Trust) -> Result<Option<Trust>, TrustError> {
    Trust::accept(Some(old), &Signed::seal(new, &key(OPERATOR)))
}

#[track_caller]
fn lawful(old: &Trust, new: &Trust) {
    assert_eq!(accept(old, new), Ok(Some(new.clone())));
}

#[track_caller]
fn unlawful(old: &Trust, new: &Trust) -> String {
    match accept(old, new) {
        Err(error @ TrustError::Unlawful { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn invalid(trust: &Trust) -> String {
    match trust.validate() {
        Err(TrustError::Invalid(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_document_without_witnesses_has_no_word_of_them() {
    let plain = trust(1, &[0, 1, 2], &[]);
    assert!(!serde_json::to_string(&plain).unwrap().contains("witness"));
    let change = joint(2, &plain, &trust(2, &[0, 1, 3], &[]));
    assert!(!serde_json::to_string(&change).unwrap().contains("witness"));
    // Hosts have agreed to this very digest before there was any witness.
    let named = change.change().unwrap().to_string();
    let (from, to) = (plain.committee().identity(), change.next_committee().unwrap().identity());
    assert_eq!(named, Digest::of_json(&(&plain.cluster, 2, from, to)).to_string());
    let with = trust(1, &[0], &[1]);
    let read: Trust = serde_json::from_str(&serde_json::to_string(&with).unwrap()).unwrap();
    assert_eq!(read, with);
}

#[test]
fn what_makes_no_sense_of_witnesses_says_why() {
    assert_eq!(trust(1, &[0, 1, 2], &[3, 4, 5]).validate(), Ok(()));
    assert_eq!(trust(1, &[0], &[1]).validate(), Ok(()));
    assert!(invalid(&trust(1, &[0, 1, 2], &[3, 4])).starts_with("2 witnesses: 1, 3 or 5"));
    let with_a_liar = |mut trust: Trust| {
        (trust.f, trust.k) = (1, 3);
        trust.witnesses = Witnesses::of(trust.witnesses.members, 1);
        trust
    };
    assert_eq!(with_a_liar(trust(1, &[0, 1, 2, 3], &[4, 5, 6, 7])).validate(), Ok(()));
    let five = with_a_liar(trust(1, &[0, 1, 2, 3], &[4, 5, 6, 7, 8]));
    assert!(invalid(&five).starts_with("5 witnesses: 4, 6 or 8"));
    assert!(invalid(&trust(1, &[0, 1, 2], &[2])).contains("witness 2 and arbiter 2 are one"));
    let mut one_key = trust(1, &[0, 1, 2], &[3]);
    one_key.witnesses.members[0].key = key(1).public();
    assert!(invalid(&one_key).contains("witness 3 and arbiter 1 are one"));
    let mut few = trust(1, &[0, 1, 2], &[3, 4, 5]);
    few.witnesses.k = 1;
    assert_eq!(invalid(&few), "k = 1 of n = 3 witnesses with f = 0 liars: k must be from 2 to 3");
    few.witnesses.members.clear();
    assert!(invalid(&few).contains("0 witnesses"));
    let twice = trust(1, &[0, 1, 2], &[3, 3, 4]);
    assert_eq!(invalid(&twice), "two witnesses have one slot");
    // Not by a change, either.
    let old = trust(1, &[0, 1, 2], &[3]);
    assert!(invalid(&joint(2, &old, &trust(2, &[0, 1, 3], &[]))).contains("are one"));
    assert!(invalid(&joint(2, &old, &old)).contains("are those it has"));
}

#[test]
fn members_of_the_two_are_never_counted_together() {
    let trust = trust(1, &[0, 1, 2], &[3, 4, 5]);
    let council = trust.council();
    let granted = |slots: &[u32], on_loss| {
        let slots = slots.iter().copied().collect();
        council.to_take(on_loss).all(|committee| committee.count(&slots) >= committee.k)
    };
    assert!(granted(&[0, 1], OnLoss::Keep) && !granted(&[0, 3, 4, 5], OnLoss::Keep));
    assert!(granted(&[0, 1, 3, 5], OnLoss::Stop));
    for short in [&[0, 1][..], &[3, 4, 5], &[0, 1, 2, 3], &[0, 3, 4, 5]] {
        assert!(!granted(short, OnLoss::Stop), "{short:?}");
    }
    let covered_by = |slots: &[u32]| {
        let slots = slots.iter().copied().collect();
        council.until(|committee| u64::from(committee.count(&slots) >= committee.k))
    };
    assert_eq!([covered_by(&[0, 1]), covered_by(&[4, 5]), covered_by(&[0, 3])], [1, 1, 0]);
    assert_eq!(trust.seat(&key(4).public()).unwrap().0, Seat::Witness);
    assert_eq!(trust.role_of(&key(4).public()), Some(Role::Witness));
    assert_eq!((trust.members().len(), trust.seats().len()), (3, 6));
}

#[test]
fn witnesses_come_change_and_go_only_through_a_document_that_names_both() {
    let without = trust(1, &[0, 1, 2], &[]);
    let why = unlawful(&without, &trust(2, &[0, 1, 2], &[3, 4, 5]));
    assert!(why.contains("its witnesses are others at once"), "{why}");
    assert!(why.contains("ostler witnesses set"), "{why}");
    let coming = joint(2, &without, &trust(2, &[0, 1, 2], &[3, 4, 5]));
    lawful(&without, &coming);
    unlawful(&coming, &Trust { version: 3, ..trust(3, &[0, 1, 2], &[3, 4, 5]) });
    let with = completed(&coming, &[0, 2]);
    lawful(&coming, &with);
    assert_eq!((with.witnesses.members.len(), with.witnesses.k), (3, 2));
    // The word of witnesses is none of an arbiter's.
    assert!(matches!(accept(&coming, &completed(&coming, &[0, 3])), Err(TrustError::Invalid(_))));
    let bare = Trust { version: 4, witnesses: Witnesses::default(), ..with.clone() };
    unlawful(&with, &bare);
    let other =
        Trust { version: 4, witnesses: Witnesses::of(slots(&[3, 4, 6]), 0), ..with.clone() };
    unlawful(&with, &other);
    let mut moved = Trust { version: 4, ..with.clone() };
    moved.witnesses.members[0].url = "https://elsewhere:1".into();
    lawful(&with, &moved);
    let going = joint(4, &with, &bare);
    lawful(&with, &going);
    lawful(&going, &completed(&going, &[1, 2]));
}

#[test]
fn a_host_agrees_when_a_quorum_of_each_committee_of_both_grants() {
    let old = trust(1, &[0, 1, 2], &[3]);
    let between = joint(2, &old, &trust(2, &[0, 1, 4], &[5, 6, 7]));
    let may = |trust: &Trust, slots: &[u32]| trust.may_agree(&slots.iter().copied().collect());
    assert!(may(&between, &[0, 1, 3, 5, 6]));
    for short in [&[0, 1, 5, 6][..], &[0, 1, 3, 5], &[0, 3, 4, 5, 6], &[1, 2, 3, 5, 6]] {
        assert!(!may(&between, short), "{short:?}");
    }
    let mut recovers = between;
    recovers.succession.next.as_mut().unwrap().recovers = true;
    assert!(may(&recovers, &[0, 4, 5, 7]) && !may(&recovers, &[0, 4, 3, 5]));
}

/// Whether a host that obeys this document, and has agreed to its change or not, could take a job by these
/// grants, and go on by this cover.
fn takes(trust: &Trust, agreed: bool, slots: &BTreeSet<u32>) -> bool {
    let agreed = trust.change().filter(|_| agreed);
    trust.to_take(agreed, OnLoss::Stop).all(|committee| committee.count(slots) >= committee.k)
}

fn goes_on(trust: &Trust, agreed: bool, slots: &BTreeSet<u32>) -> bool {
    let agreed = trust.change().filter(|_| agreed);
    trust.councils(agreed).all(|council| {
        council.until(|committee| u64::from(committee.count(slots) >= committee.k)) > 0
    })
}

fn some_slots(of: &'static [u32]) -> impl Strategy<Value = Vec<u32>> {
    let odd = prop::sample::select(vec![1_usize, 3]);
    odd.prop_flat_map(move |n| prop::sample::subsequence(of, n))
}

fn some_witnesses() -> impl Strategy<Value = Vec<u32>> {
    prop_oneof![Just(vec![]), some_slots(&[10, 11, 12, 13, 14])]
}

fn some_members() -> impl Strategy<Value = BTreeSet<u32>> {
    let all = vec![0_u32, 1, 2, 3, 4, 10, 11, 12, 13, 14];
    let n = all.len();
    prop::sample::subsequence(all, 0..=n).prop_map(|slots| slots.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Whoever takes by one of two documents that hosts may obey at once shares a member with whoever goes
    /// on by the other: before and between, between and after; and each with itself.
    #[test]
    fn who_takes_meets_who_goes_on(
        arbiters in (some_slots(&[0, 1, 2, 3, 4]), some_slots(&[0, 1, 2, 3, 4])),
        witnesses in (some_witnesses(), some_witnesses()),
        granted in some_members(),
        covers in some_members(),
    ) {
        let before = trust(1, &arbiters.0, &witnesses.0);
        let after = trust(3, &arbiters.1, &witnesses.1);
        let between = joint(2, &before, &after);
        let all = [(&before, false), (&between, false), (&between, true), (&after, false)];
        for (i, (one, agreed)) in all.into_iter().enumerate() {
            for (j, (other, then)) in all.into_iter().enumerate() {
                // Who has not agreed goes by the document before; after that nobody does.
                let are_never_both = i.min(j) < 2 && i.max(j) == 3;
                let meet = !granted.is_disjoint(&covers);
                if !are_never_both && takes(one, agreed, &granted) && goes_on(other, then, &covers) {
                    prop_assert!(meet, "{granted:?} and {covers:?}");
                }
            }
        }
    }
}
