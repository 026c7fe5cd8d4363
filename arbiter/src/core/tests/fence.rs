//! An operator's word that a host was off: what is free by it, what is believed of that host afterwards, and
//! what an arbiter that has forgotten everything still knows.

use protocol::trust::Fence;

use super::*;

/// The document of version `version`, by which host 0 was off since `since`.
fn fenced(version: u64, since: u64) -> Trust {
    let (host, by) = (key(HOST).public(), key(1).public());
    let fenced = vec![Fence { host, since, by, by_fencer: false, at_ms: 0, reason: String::new() }];
    Trust { version, fenced, ..trust(1, 1, 2) }
}

fn obeys(arbiter: &mut Arbiter, now_ms: u64, trust: Trust) {
    arbiter.tell(now_ms, Input::Trust(Arc::new(trust)));
}

fn said(obeyed: u64, watermark: u64, holds: Vec<HoldItem>) -> Statement {
    Statement { obeyed: Some(obeyed), ..statement(watermark, holds, &[]) }
}

fn by(version: u64, offer: Offer) -> Offer {
    Offer { trust_version: version, ..offer }
}

fn fails_over(n: u8, num: u64, from: u8, hold: OfferId) -> Offer {
    Offer { action: Action::FailOver { from: host(from), hold }, ..offer(n, num, "web", 1) }
}

/// Host 0 holds web.
fn with_web() -> Arbiter {
    let mut arbiter = Arbiter::ready(trust(1, 1, 2));
    arbiter.ask(0, &offer(0, 1, "web", 1)).unwrap();
    arbiter.hears(1, 0, said(1, 1, vec![hold(1, "web", 1)]));
    arbiter
}

#[test]
fn what_is_kept_on_a_host_that_was_off_is_started_elsewhere_once() {
    let mut arbiter = with_web();
    let web = id(1, 1);
    let early = arbiter.ask(2, &fails_over(1, 1, 0, web));
    assert!(matches!(early, Err(DenialReason::Promised { .. })), "nobody has said so");
    arbiter.hears(2, 1, said(1, 1, vec![]));
    obeys(&mut arbiter, 3, fenced(2, 2));
    let other = by(2, fails_over(1, 2, 0, id(1, 7)));
    assert!(matches!(arbiter.ask(4, &other), Err(DenialReason::NotTheLast { .. })));
    assert!(arbiter.ask(4, &by(2, fails_over(1, 3, 0, web))).is_ok());
    arbiter.hears(5, 1, said(2, 3, vec![hold(3, "web", 1)]));
    // Somebody has had it, and has deleted it.
    arbiter.hears(6, 1, said(2, 3, vec![]));
    let again = arbiter.ask(7, &by(2, fails_over(1, 4, 0, web)));
    assert!(matches!(again, Err(DenialReason::NotTheLast { .. })), "{again:?}");
    assert!(arbiter.ask(7, &by(2, offer(1, 5, "web", 1))).is_ok(), "by command, it may be");
}

#[test]
fn what_such_a_host_says_by_an_older_document_is_nobodys() {
    let mut arbiter = with_web();
    obeys(&mut arbiter, 3, fenced(2, 2));
    assert!(arbiter.ask(4, &by(2, offer(1, 1, "web", 1))).is_ok());
    let late = said(1, 1, vec![hold(1, "web", 1)]);
    let statement = Input::Statement { host: host(0), asked_ms: 5, statement: late };
    let out = arbiter.tell(5, statement);
    assert_eq!(out, [Effect::BringTrust { host: host(0) }]);
    let on_hosts = |arbiter: &Arbiter| -> Vec<HostId> {
        arbiter.core.books().entries().map(|entry| entry.host.clone()).collect()
    };
    assert_eq!(on_hosts(&arbiter), [host(1)]);
    // It has heard, and its guest still dies: that counts, and what it takes now as well.
    arbiter.hears(6, 0, said(2, 1, vec![hold(1, "web", 1)]));
    assert_eq!(on_hosts(&arbiter).len(), 2);
    arbiter.hears(7, 0, said(2, 1, vec![]));
    assert_eq!(on_hosts(&arbiter), [host(1)]);
    assert!(arbiter.ask(8, &by(2, offer(0, 2, "db", 1))).is_ok(), "a member as before");
    // Said again later, it is off again.
    obeys(&mut arbiter, 9, fenced(3, 2));
    assert_eq!(on_hosts(&arbiter).len(), 2, "the same was said in a later document");
    obeys(&mut arbiter, 10, fenced(4, 4));
    assert_eq!(on_hosts(&arbiter), [host(1)]);
}

/// An arbiter that hears of it after the host has, and after the host has taken something by it.
#[test]
fn what_such_a_host_has_taken_since_is_not_taken_from_it() {
    let quota = |trust| with_quota(trust, 1);
    let mut arbiter = Arbiter::ready(quota(trust(1, 1, 2)));
    arbiter.ask(0, &offer(0, 1, "web", 1)).unwrap();
    arbiter.hears(1, 0, said(1, 1, vec![hold(1, "web", 1)]));
    // It was off, is back, and has db by the word of others.
    arbiter.hears(2, 0, said(2, 2, vec![hold(2, "db", 1)]));
    obeys(&mut arbiter, 3, quota(fenced(2, 2)));
    arbiter.hears(4, 0, said(2, 2, vec![hold(2, "db", 1)]));
    let moves =
        by(2, Offer { job: JobId::new("db").unwrap(), ..migrate_in(1, 1, "db", 0, id(1, 2)) });
    assert!(arbiter.ask(5, &moves).is_ok(), "it counts once");
    assert!(arbiter.ask(5, &by(2, offer(1, 2, "more", 1))).is_err(), "the quota is used up");
}

#[test]
fn who_sees_it_come_need_not_wait_for_that_host_and_who_starts_with_it_does() {
    let waits = |arbiter: &Arbiter| arbiter.core.waiting_for(T).contains(&Waiting::Host(host(0)));
    let mut seen = Arbiter::started(trust(1, 1, 2), 0, true);
    seen.hears(T, 1, said(1, 0, vec![]));
    assert!(waits(&seen));
    obeys(&mut seen, T, fenced(2, 2));
    assert!(!waits(&seen));
    assert!(seen.ask(T, &by(2, offer(1, 1, "web", 1))).is_ok());
    let mut forgetful = Arbiter::started(fenced(2, 2), 0, true);
    forgetful.hears(T, 1, said(2, 0, vec![]));
    assert!(waits(&forgetful), "it may have been back, and been promised something");
    forgetful.hears(T, 0, said(1, 9, vec![hold(1, "web", 1)]));
    assert!(waits(&forgetful), "it has not heard yet");
    assert_eq!(forgetful.core.books().entries().count(), 0, "and none of that is believed");
    obeys(&mut forgetful, T + 1, fenced(3, 3));
    assert!(!waits(&forgetful), "it is off still");
}

/// It obeyed a document without the word, or with one that nobody else has heard: what it was told of that
/// host meanwhile may be wrong.
#[test]
fn a_host_is_read_again_when_it_was_said_afterwards_to_be_off_or_never_was() {
    let waits = |arbiter: &Arbiter| arbiter.core.waiting_for(T).contains(&Waiting::Host(host(0)));
    let by_fencer = |trust: Trust| {
        let fenced = trust.fenced.iter().cloned().map(|fence| Fence { by_fencer: true, ..fence });
        Trust { fenced: fenced.collect(), ..trust }
    };
    let mut arbiter = with_web();
    obeys(&mut arbiter, 3, Trust { version: 5, ..trust(1, 1, 2) });
    assert!(!waits(&arbiter));
    obeys(&mut arbiter, 4, by_fencer(fenced(7, 3)));
    assert!(waits(&arbiter), "it may have promised something by version 5");
    assert_eq!(arbiter.core.books().entries().count(), 0);
    arbiter.hears(T, 0, said(7, 1, vec![]));
    assert!(!waits(&arbiter));
    // Disowned: nothing was taken from it.
    obeys(&mut arbiter, T, Trust { version: 9, ..trust(1, 1, 2) });
    assert!(waits(&arbiter));
    arbiter.hears(T + 1, 0, said(9, 1, vec![hold(1, "web", 1)]));
    assert!(!waits(&arbiter));
    assert_eq!(arbiter.core.books().entries().count(), 1);
}

/// The operator may be wrong, and then only what lapses by itself runs once.
#[test]
fn a_lease_lapses_by_time_whatever_an_operator_says_and_is_renewed_no_more() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 2));
    let stop = |n, num| Offer { on_loss: OnLoss::Stop, ..offer(n, num, "web", 1) };
    arbiter.ask(0, &stop(0, 1)).unwrap();
    obeys(&mut arbiter, 10, fenced(2, 2));
    let early = arbiter.ask(20, &by(2, stop(1, 1)));
    assert!(matches!(early, Err(DenialReason::Promised { .. })), "{early:?}");
    let item = tenure::Item {
        id: id(1, 1),
        job: JobId::new("web").unwrap(),
        resources: vcpus(1),
        tenant: TenantId::default_tenant(),
        debits: None,
        on_loss: OnLoss::Stop,
        delegated: None,
        standing: protocol::tenure::Standing::Hold,
    };
    let statement = tenure::Statement {
        host: host(0),
        epoch: Epoch(1),
        seq: 1,
        watermark: id(1, 1),
        items: vec![item],
        trust_version: 1,
    };
    let statement = Signed::seal(&statement, &key(HOST));
    let out = arbiter.tell(T - 10, Input::Stated { request: 1, statement });
    let [Effect::Term { term: Ok(term), .. }] = &out[..] else { panic!("{out:?}") };
    assert!(term.covered.is_empty() && !term.is_silent);
    assert!(arbiter.ask(T + 1, &by(2, stop(1, 2))).is_ok());
}

/// Its room was free, and somebody has taken it: what the host lists until its guests are gone is no claim to it.
#[test]
fn what_was_taken_from_a_host_does_not_come_back_above_the_quota() {
    let quota = |trust: Trust| with_quota(trust, 3);
    let mut arbiter = Arbiter::ready(quota(trust(1, 1, 2)));
    arbiter.ask(0, &offer(0, 1, "web", 2)).unwrap();
    arbiter.hears(1, 0, said(1, 1, vec![hold(1, "web", 2)]));
    arbiter.hears(1, 1, said(1, 0, vec![]));
    obeys(&mut arbiter, 3, quota(fenced(2, 2)));
    assert!(arbiter.ask(4, &by(2, offer(1, 1, "db", 2))).is_ok(), "its room is free");
    arbiter.hears(5, 0, said(2, 1, vec![hold(1, "web", 2)]));
    let again = by(2, offer(0, 2, "web", 2));
    let denied = arbiter.ask(6, &again);
    assert!(matches!(denied, Err(DenialReason::Quota { .. })), "{denied:?}");
    arbiter.hears(7, 1, said(2, 1, vec![]));
    assert!(arbiter.ask(8, &again).is_ok(), "once there is room");
}
