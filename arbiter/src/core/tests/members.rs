//! An arbiter among those who are changed: when it is ready to take over, and what it does for those
//! who have not heard that it has left (protocol §10).

use protocol::trust::{Fence, Handover, Next, Succession, Witnesses};

use super::*;

/// Arbiters 0 to 2, with others to follow them.
fn between(version: u64, to: &[u8], hosts: u8) -> Trust {
    let old = trust(3, 2, hosts);
    let slot =
        |i: &u8| Slot { slot: u32::from(*i), key: key(ARBITER + i).public(), url: String::new() };
    let next = Next {
        since: 2,
        arbiters: to.iter().map(slot).collect(),
        k: 2,
        witnesses: Witnesses::default(),
        recovers: false,
    };
    let succession = Succession { next: Some(next), handover: None };
    Trust { version, succession, ..old }
}

fn member(n: u8, trust: Trust) -> Arbiter {
    let mut arbiter = Arbiter::of(Core::new(key(ARBITER + n).public(), 0, false));
    arbiter.tell(0, Input::Trust(Arc::new(trust)));
    arbiter
}

fn agreed(trust: &Trust) -> Statement {
    Statement { agreed: trust.change(), ..statement(0, vec![], &[]) }
}

#[test]
fn who_takes_over_is_ready_once_every_host_has_agreed_and_it_has_been_silent() {
    let trust = between(2, &[0, 1, 3], 2);
    let mut new = member(3, trust.clone());
    assert_eq!(new.core.slot(), Ok(3));
    new.hears(0, 0, agreed(&trust));
    new.hears(0, 1, statement(0, vec![], &[]));
    let waits = new.core.ready(1).unwrap_err();
    assert_eq!(waits, [Waiting::Silence { for_ms: T - 1 }, Waiting::Agreement(host(1))]);
    new.hears(5, 1, agreed(&trust));
    assert_eq!(
        new.core.ready(T).map(|ready| (ready.slot, Some(ready.change))),
        Ok((3, trust.change()))
    );
    // Agreed to another change is not agreed to this one.
    let other = between(2, &[0, 1, 2, 3], 2);
    new.hears(T, 1, agreed(&other));
    assert_eq!(new.core.ready(T).unwrap_err(), [Waiting::Agreement(host(1))]);
}

#[test]
fn who_only_leaves_has_no_word_in_it() {
    let trust = between(2, &[0, 1, 3], 1);
    let mut leaves = member(2, trust.clone());
    leaves.hears(0, 0, agreed(&trust));
    assert_eq!(leaves.core.ready(T).unwrap_err(), [Waiting::Change]);
    assert!(member(0, super::trust(3, 2, 1)).core.ready(T).is_err(), "no change is under way");
}

#[test]
fn who_has_left_grants_nothing_and_covers_on() {
    let mut left = member(2, super::trust(3, 2, 1));
    left.hears(0, 0, statement(0, vec![], &[]));
    let stop = Offer { on_loss: protocol::vm::OnLoss::Stop, ..offer(0, 1, "web", 1) };
    assert!(left.ask(0, &stop).is_ok());
    let others = Trust { version: 3, ..super::trust(2, 2, 1) };
    left.tell(10, Input::Trust(Arc::new(others)));
    assert!(left.core.slot().is_err());
    let item = protocol::tenure::Item {
        id: id(1, 1),
        job: JobId::new("web").unwrap(),
        resources: vcpus(1),
        tenant: TenantId::default_tenant(),
        debits: None,
        on_loss: protocol::vm::OnLoss::Stop,
        delegated: None,
        standing: protocol::tenure::Standing::Hold,
    };
    let said = tenure::Statement {
        host: host(0),
        epoch: Epoch(1),
        seq: 1,
        watermark: id(1, 1),
        items: vec![item],
        trust_version: 1,
    };
    let statement = Signed::seal(&said, &key(HOST));
    let out = left.tell(20, Input::Stated { request: 1, statement });
    let [Effect::Term { term: Ok(term), .. }] = &out[..] else { panic!("{out:?}") };
    assert_eq!((term.slot, term.covered.len()), (2, 1));
    let ask = Offer { trust_version: 3, ..offer(0, 2, "db", 1) };
    let (verdict, _) = left.ask_signed(20, Signed::seal(&ask, &key(HOST)));
    assert!(matches!(verdict, Verdict::NotMember(_)));
}

/// What it has read before, others may have changed since.
#[test]
fn who_comes_back_reads_every_host_again() {
    let mut arbiter = member(2, super::trust(3, 2, 1));
    arbiter.hears(0, 0, statement(0, vec![], &[]));
    assert_eq!(arbiter.ask(0, &offer(0, 1, "web", 1)), Ok(vcpus(1)));
    arbiter.tell(1, Input::Trust(Arc::new(Trust { version: 2, ..super::trust(2, 2, 1) })));
    arbiter.tell(2, Input::Trust(Arc::new(Trust { version: 3, ..super::trust(3, 2, 1) })));
    assert_eq!(arbiter.core.books().entries().count(), 0);
    let ask = Offer { trust_version: 3, ..offer(0, 2, "db", 1) };
    assert_eq!(arbiter.ask(3, &ask), Err(DenialReason::Rebuilding { missing: 1 }));
}

#[test]
fn a_share_is_the_smaller_of_both_committees() {
    let quota = vcpus(10).into();
    let mut trust = between(2, &[0, 1, 3], 1);
    (trust.arbiters, trust.k) = (trust.arbiters[..1].to_vec(), 1);
    assert_eq!(share(quota, &trust, 0).vcpus, 7, "2 of 3 and 1 of 1");
    assert_eq!(share(quota, &trust, 3).vcpus, 6);
    assert_eq!(share(quota, &trust, 7).vcpus, 0);
}

#[test]
fn who_hears_at_once_that_a_host_was_off_and_that_a_change_is_complete_reads_that_host() {
    let begun = between(2, &[0, 1, 3], 2);
    let mut arbiter = member(1, begun.clone());
    for n in 0..2 {
        arbiter.hears(0, n, statement(0, vec![], &[]));
    }
    assert_eq!(arbiter.core.waiting_for(T), [], "it has read everybody, and nobody has agreed");
    // Host 0 was off, was back, took something by the word of others, and agreed.
    let next = begun.succession.next.clone().expect("a change is under way");
    let change = begun.change().expect("as above");
    let handover = Handover { since: next.since, change, ready: vec![] };
    let (by, reason) = (key(1).public(), String::new());
    let off = Fence { host: key(HOST).public(), since: 3, by, by_fencer: false, at_ms: 0, reason };
    let complete = Trust {
        version: 4,
        arbiters: next.arbiters,
        succession: Succession { next: None, handover: Some(handover) },
        fenced: vec![off],
        ..begun
    };
    arbiter.tell(T, Input::Trust(Arc::new(complete.clone())));
    let waits = arbiter.core.waiting_for(T);
    assert!([host(0), host(1)].map(Waiting::Host).iter().all(|host| waits.contains(host)));
    for n in 0..2 {
        arbiter.hears(T + 1, n, statement(0, vec![], &[]));
    }
    assert_eq!(arbiter.core.waiting_for(T + 1), []);
}
