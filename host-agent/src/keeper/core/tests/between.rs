//! A keeper between two committees of arbiters (protocol §10).

use protocol::trust::{Next, Slot, Succession, Witnesses};

use super::*;

/// Arbiters 0 to 2, to be followed by 3 to 5.
fn between(version: u64) -> Arc<Trust> {
    let slot = |slot: u32| {
        let key = key(10 + u8::try_from(slot).unwrap()).public();
        Slot { slot, key, url: String::new() }
    };
    let next = Next {
        since: 2,
        arbiters: (3..6).map(slot).collect(),
        k: 2,
        witnesses: Witnesses::default(),
        recovers: false,
    };
    let succession = Succession { next: Some(next), handover: None };
    Arc::new(Trust { version, succession, ..Trust::clone(&trust(3, 2)) })
}

/// One that runs a hold by the three in force, and has heard of three others.
fn between_two() -> Bench {
    let mut bench = Bench::new(3, 2);
    bench.tell(0, Input::Draft(draft(vec![hold(1, 0, &[0, 1])])));
    assert_eq!(bench.gate(1), Some(Gate::Open));
    bench.tell(10, Input::Trust(between(2)));
    bench
}

/// The holds that need both, by the document that the keeper has heard of.
fn joint(bench: &Bench) -> Option<BTreeSet<OfferId>> {
    let joint = bench.0.table().joint();
    assert!(joint.change.is_none() || joint.change == between(2).change());
    joint.change.map(|_| joint.holds)
}

#[test]
fn a_hold_runs_by_those_in_force_until_the_others_cover_it_and_then_by_both() {
    let mut bench = between_two();
    let seq = bench.statement(20).seq;
    bench.term(30, 3, seq, &[1]);
    assert_eq!((bench.until(1), joint(&bench)), (D - K, None), "one of them is no quorum");
    bench.term(40, 4, seq, &[1]);
    assert_eq!(joint(&bench), Some([id(1)].into()));
    assert_eq!(bench.0.table().joint().version, 2);
    // Those in force renew alone: now that is not enough.
    let at = D - K - 100;
    let seq = bench.statement(at).seq;
    bench.term(at, 0, seq, &[1]);
    bench.term(at, 1, seq, &[1]);
    assert_eq!(bench.until(1), D - K);
    let out = bench.tell(D - K, Input::Tick);
    assert_eq!(out, [Effect::Seal(uuid(1))]);
}

#[test]
fn those_who_are_to_follow_do_not_keep_it_running_alone() {
    let mut bench = between_two();
    let seq = bench.statement(D - K - 10).seq;
    bench.term(D - K - 10, 3, seq, &[1]);
    bench.term(D - K - 10, 4, seq, &[1]);
    assert_eq!(bench.tell(D - K, Input::Tick), [Effect::Seal(uuid(1))]);
}

#[test]
fn what_the_agent_has_agreed_to_needs_both_whatever_was_seen_before() {
    let mut bench = Bench::new(3, 2);
    bench.tell(0, Input::Trust(between(2)));
    let agreed = between(2).change();
    let by_one = Draft { agreed, trust_version: 2, ..draft(vec![hold(1, 0, &[0, 1])]) };
    assert_eq!(bench.tell(0, Input::Draft(by_one)), [Effect::Seal(uuid(1))]);
    assert_eq!(bench.gate(1), Some(Gate::Sealing));
    let mut bench = Bench::new(3, 2);
    bench.tell(0, Input::Trust(between(2)));
    let by_both = Draft { agreed, trust_version: 2, ..draft(vec![hold(1, 0, &[0, 1, 3, 5])]) };
    assert_eq!(bench.tell(0, Input::Draft(by_both)), [Effect::Open(uuid(1))]);
}

#[test]
fn nothing_begins_by_a_document_older_than_the_agents() {
    let mut bench = Bench::new(3, 2);
    let later = Draft { trust_version: 2, ..draft(vec![hold(1, 0, &[0, 1])]) };
    assert_eq!(bench.tell(0, Input::Draft(later)), []);
    assert_eq!(bench.gate(1), Some(Gate::Shut));
    assert_eq!(bench.tell(100, Input::Trust(between(2))), [Effect::Open(uuid(1))]);
}

#[test]
fn a_next_life_lets_nothing_run_by_an_older_document() {
    let bench = between_two();
    let saved = bench.0.saved();
    let text = serde_json::to_string(&saved).unwrap();
    let saved: Saved = serde_json::from_str(&text).unwrap();
    let mut next = Bench(Keeper::new(here(), 50, saved), None);
    let out = next.tell(50, Input::Trust(trust(3, 2)));
    assert!(out.contains(&Effect::Seal(uuid(1))), "{out:?}");
}

#[test]
fn a_change_that_is_taken_back_leaves_no_trace() {
    let mut bench = between_two();
    let seq = bench.statement(20).seq;
    bench.term(30, 3, seq, &[1]);
    bench.term(30, 4, seq, &[1]);
    assert!(joint(&bench).is_some());
    let back = Trust { version: 3, ..Trust::clone(&trust(3, 2)) };
    bench.tell(40, Input::Trust(Arc::new(back)));
    assert_eq!((joint(&bench), bench.until(1)), (None, D - K));
}

/// What a document makes of the debits is for those who read them: a statement that comes late would tell
/// what was true by a document that is over.
#[test]
fn arbiters_are_told_what_the_ticket_says_whatever_document_is_obeyed() {
    let mut bench = Bench::new(3, 2);
    let one = Resources { vcpus: 1, ..Resources::ZERO };
    let mut drafted = hold(1, 0, &[0, 1]);
    drafted.item.resources = one;
    let debits = BTreeMap::from([(0, one.into()), (1, one.into())]);
    drafted.item.debits = Some(debits.clone());
    bench.tell(0, Input::Draft(draft(vec![drafted])));
    assert_eq!(bench.statement(0).items[0].debits, Some(debits.clone()));
    bench.tell(10, Input::Trust(between(2)));
    assert_eq!(bench.statement(3_000).items[0].debits, Some(debits));
}
