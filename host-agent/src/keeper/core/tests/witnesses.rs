//! A keeper with arbiters and witnesses: a hold goes on by either committee, and by no mix of both (R11).

use protocol::trust::{Next, Slot, Succession, Witnesses};

use super::*;

/// Arbiters 0 to 2, witnesses 3 to 5.
fn council() -> Trust {
    let slot = |slot: u32| {
        let key = key(10 + u8::try_from(slot).unwrap()).public();
        Slot { slot, key, url: String::new() }
    };
    let witnesses = Witnesses::of((3..6).map(slot).collect(), 0);
    Trust { witnesses, ..Trust::clone(&trust(3, 2)) }
}

fn bench(trust: Trust) -> Bench {
    let mut bench = Bench(Keeper::new(here(), 0, Saved::default()), None);
    bench.tell(0, Input::Trust(Arc::new(trust)));
    bench
}

#[test]
fn the_ticket_covers_by_both_and_the_longer_counts() {
    let mut bench = bench(council());
    bench.tell(0, Input::Draft(draft(vec![hold(1, 0, &[0, 1, 3, 4])])));
    assert_eq!(bench.until(1), D - K);
    let said = bench.statement(3_000);
    bench.term(3_010, 3, said.seq, &[1]);
    assert_eq!(bench.until(1), D - K, "one of three");
    bench.term(3_020, 5, said.seq, &[1]);
    let by_witnesses = bench.until(1);
    assert!(by_witnesses > D - K + 2_000, "from when it was sent: {by_witnesses}");
    bench.term(3_030, 0, said.seq, &[]);
    bench.term(3_040, 1, said.seq, &[]);
    assert_eq!(bench.until(1), by_witnesses, "arbiters that say no do not end it");
    bench.term(3_050, 2, said.seq, &[1]);
    assert_eq!(bench.until(1), by_witnesses);
    let later = bench.statement(6_000);
    bench.term(6_010, 3, later.seq, &[]);
    bench.term(6_020, 4, later.seq, &[]);
    bench.term(6_030, 5, later.seq, &[]);
    assert_eq!(bench.until(1), 0, "one arbiter is left");
    assert_eq!(bench.gate(1), Some(Gate::Sealing));
}

#[test]
fn two_of_six_are_a_quorum_only_of_one_committee() {
    let mut bench = bench(council());
    bench.tell(0, Input::Draft(draft(vec![hold(1, 0, &[0, 1, 3, 4])])));
    let said = bench.statement(5_000);
    bench.term(5_010, 2, said.seq, &[1]);
    bench.term(5_010, 5, said.seq, &[1]);
    assert_eq!(bench.until(1), D - K, "an arbiter and a witness prolong nothing");
    assert!(bench.tell(D - K, Input::Tick).contains(&Effect::Seal(uuid(1))));
}

/// While witnesses come, a host that has not taken over yet must not rely on them: others take without.
#[test]
fn witnesses_that_are_to_come_prolong_nothing() {
    let with = council();
    let next = Next {
        since: 2,
        arbiters: with.arbiters.clone(),
        k: with.k,
        witnesses: with.witnesses.clone(),
        recovers: false,
    };
    let succession = Succession { next: Some(next), handover: None };
    let before = Trust { witnesses: Witnesses::default(), ..with };
    let mut bench = bench(before.clone());
    bench.tell(0, Input::Draft(draft(vec![hold(1, 0, &[0, 1])])));
    let between = Trust { version: 2, succession, ..before };
    bench.tell(1_000, Input::Trust(Arc::new(between.clone())));
    for agreed in [None, between.change()] {
        let draft = Draft { trust_version: 2, agreed, ..draft(vec![hold(1, 0, &[0, 1])]) };
        bench.tell(1_500, Input::Draft(draft));
        let said = bench.statement(4_000);
        for witness in 3..6 {
            bench.term(4_010, witness, said.seq, &[1]);
        }
        assert_eq!(bench.until(1), D - K, "agreed: {agreed:?}");
    }
    // And while they go, arbiters have to cover it.
    let next = Next {
        since: 2,
        arbiters: between.arbiters.clone(),
        k: 2,
        witnesses: Witnesses::default(),
        recovers: false,
    };
    let succession = Succession { next: Some(next), handover: None };
    let going = Trust { version: 2, succession, ..council() };
    let mut bench = self::bench(going.clone());
    let draft = Draft {
        trust_version: 2,
        agreed: going.change(),
        ..draft(vec![hold(1, 0, &[0, 1, 3, 4])])
    };
    bench.tell(0, Input::Draft(draft));
    let said = bench.statement(4_000);
    for witness in 3..6 {
        bench.term(4_010, witness, said.seq, &[1]);
    }
    assert_eq!(bench.until(1), D - K);
}

/// Numbers of those who left are used again: whoever has one now has not said what the one before did.
#[test]
fn cover_of_a_slot_goes_with_its_owner() {
    let mut bench = bench(council());
    bench.tell(0, Input::Draft(draft(vec![hold(1, 0, &[0, 1, 3, 4])])));
    let said = bench.statement(3_000);
    for witness in [3, 4] {
        bench.term(3_010, witness, said.seq, &[1]);
    }
    let by_witnesses = bench.until(1);
    assert!(by_witnesses > D - K + 2_000, "{by_witnesses}");
    let mut others = Trust { version: 2, ..council() };
    bench.tell(3_020, Input::Trust(Arc::new(others.clone())));
    assert_eq!(bench.until(1), by_witnesses, "the same witnesses by a later document");
    for witness in &mut others.witnesses.members {
        witness.key = key(50 + u8::try_from(witness.slot).unwrap()).public();
    }
    bench.tell(3_030, Input::Trust(Arc::new(Trust { version: 3, ..others })));
    assert_eq!(bench.until(1), D - K, "what the arbiters' ticket covers is left");
}
