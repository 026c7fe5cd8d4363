//! A host between two committees of arbiters: when it agrees, what that binds it to, and what it never
//! follows (protocol §10).

use protocol::job::JobKind;
use protocol::tenure;
use protocol::trust::{Handover, Next, Ready, Succession, Trust, Witnesses};
use protocol::vm::OnLoss;

use super::*;

const NEXT: u8 = 60;

fn slot(slot: u32, seed: u8) -> Slot {
    Slot { slot, key: key(seed).public(), url: String::new() }
}

fn first() -> Trust {
    trust().open().unwrap()
}

/// The arbiter is to be followed by another.
fn between(version: u64, seed: u8) -> Trust {
    let next = Next {
        since: 2,
        arbiters: vec![slot(u32::from(seed - NEXT) + 1, seed)],
        k: 1,
        witnesses: Witnesses::default(),
        recovers: false,
    };
    let succession = Succession { next: Some(next), handover: None };
    Trust { version, succession, ..first() }
}

fn completed(of: &Trust) -> Trust {
    let change = of.change().unwrap();
    let next = of.succession.next.clone().unwrap();
    let ready = Ready { cluster: of.cluster.clone(), slot: 1, change };
    let ready = vec![Signed::seal(&ready, &key(NEXT))];
    let handover = Some(Handover { since: next.since, change, ready });
    let succession = Succession { next: None, handover };
    Trust { version: of.version + 1, arbiters: next.arbiters, k: 1, succession, ..of.clone() }
}

fn give(bench: &mut Bench, trust: &Trust) -> Result<Reply, Refusal> {
    bench.ask(Request::Trust(Signed::seal(trust, &key(OPERATOR))))
}

fn standing(version: u64, ready: &[u32]) -> Input {
    let ready: std::collections::BTreeSet<u32> = ready.iter().copied().collect();
    Input::Right(Standing { obey: ready.clone(), ready, version })
}

/// A host that has taken the document by which the change begins.
fn asked() -> Bench {
    let mut bench = Bench::trusted(HOST);
    assert_eq!(give(&mut bench, &between(2, NEXT)), Ok(Reply::Done));
    bench
}

fn agreed() -> Bench {
    let mut bench = asked();
    bench.tell(standing(2, &[0, 1]));
    assert_eq!(bench.agent.agreed(), between(2, NEXT).change());
    bench
}

#[test]
fn it_agrees_once_a_quorum_of_both_grants_and_remembers() {
    let mut bench = asked();
    bench.tell(Input::Tick);
    assert_eq!(bench.asked_right, 1);
    for ready in [&[0][..], &[1], &[]] {
        bench.tell(standing(2, ready));
        assert_eq!(bench.agent.agreed(), None, "{ready:?}");
    }
    bench.tell(standing(1, &[0, 1]));
    assert_eq!(bench.agent.agreed(), None, "of another document");
    bench.tell(standing(2, &[0, 1]));
    assert!(bench.agent.agreed().is_some());
    bench.die(false);
    assert_eq!(bench.agent.agreed(), between(2, NEXT).change());
}

#[test]
fn from_then_on_it_takes_nothing_without_a_quorum_of_both() {
    let mut bench = asked();
    let before = bench.offer("web-1", 1, Action::Start);
    assert_eq!(before.open().unwrap().agreed, None);
    let by_one = granted(bench.offer("db-1", 1, Action::Start));
    bench.put("db-1", body(1, 1, Some(by_one))).expect("it has not agreed yet");
    bench.tell(standing(2, &[0, 1]));
    let refused = bench.put("web-1", body(1, 1, Some(granted(before))));
    assert!(matches!(refused, Err(Refusal::Ticket { error: TicketError::OfferEnded { .. } })));
    let offer = bench.offer("web-1", 1, Action::Start);
    assert_eq!(offer.open().unwrap().agreed, bench.agent.agreed());
    let by_one = granted(offer.clone());
    let refused = bench.put("web-1", body(1, 1, Some(by_one.clone())));
    assert!(
        matches!(
            &refused,
            Err(Refusal::Ticket {
                error: TicketError::TicketWithoutQuorum { have: 0, need: 1, .. }
            })
        ),
        "{refused:?}"
    );
    let debit = offer.open().unwrap().resources;
    let other = Grant { slot: 1, offer: offer.digest(), debit: debit.into() };
    let mut by_both = by_one;
    by_both.grants.push(Signed::seal(&other, &key(NEXT)));
    bench.put("web-1", body(1, 1, Some(by_both))).expect("both have granted");
}

#[test]
fn it_agrees_only_when_the_keeper_needs_both_for_all_that_may_lapse() {
    let mut bench = asked();
    let JobKind::Vm(vm) = spec(1).kind else { unreachable!("it is a VM") };
    let stop = JobSpec::vm(VmSpec { on_loss: OnLoss::Stop, disks: vec![], ..vm });
    let ask = OfferRequest {
        job: job_id("web-1"),
        revision: Revision(1),
        spec: stop.clone(),
        action: Action::Start,
        finds_disks: false,
    };
    let Ok(Reply::Offered(offered)) = bench.ask(Request::Offer(ask)) else { panic!("no offer") };
    let ticket = Some(granted(offered.offer));
    let put = PutJob { ticket, ..PutJob::of(Revision(1), stop) };
    bench.put("web-1", put).unwrap();
    let hold = bench.agent.job(&job_id("web-1")).unwrap().job.hold.unwrap();
    let change = between(2, NEXT).change().unwrap();
    let joint = |holds: &[OfferId], change, version| {
        let holds = holds.iter().copied().collect();
        Input::Joint(Joint { version, change: Some(change), holds })
    };
    bench.tell(Input::Tick);
    assert_eq!(bench.asked_right, 0, "nobody need be asked yet");
    bench.tell(standing(2, &[0, 1]));
    bench.tell(joint(&[hold], between(2, 61).change().unwrap(), 2));
    bench.tell(standing(2, &[0, 1]));
    assert_eq!(bench.agent.agreed(), None, "of another change");
    bench.tell(joint(&[hold], change, 1));
    bench.tell(standing(2, &[0, 1]));
    assert_eq!(bench.agent.agreed(), None, "by an older document");
    bench.tell(joint(&[hold], change, 2));
    bench.tell(standing(2, &[0, 1]));
    assert_eq!(bench.agent.agreed(), Some(change));
    let draft = bench.agent.draft().unwrap();
    assert_eq!((draft.agreed, draft.trust_version), (Some(change), 2));
    assert!(draft.items.iter().any(|drafted| drafted.item.standing == tenure::Standing::Hold));
}

/// What still runs by those in force keeps it from agreeing, as ever; whether they answer does not.
#[test]
fn where_those_in_force_are_lost_it_agrees_without_them() {
    let mut lost = between(2, NEXT);
    lost.succession.next.as_mut().unwrap().recovers = true;
    let mut bench = Bench::trusted(HOST);
    assert_eq!(give(&mut bench, &lost), Ok(Reply::Done));
    for ready in [&[][..], &[0]] {
        bench.tell(standing(2, ready));
        assert_eq!(bench.agent.agreed(), None, "{ready:?}: those who take over grant first");
    }
    bench.tell(standing(2, &[1]));
    assert_eq!(bench.agent.agreed(), lost.change());
    let offer = bench.offer("web-1", 1, Action::Start);
    for grants in [granted(offer.clone()), by_next(offer)] {
        let refused = bench.put("web-1", body(1, 1, Some(grants)));
        assert!(matches!(refused, Err(Refusal::Ticket { .. })), "it needs both: {refused:?}");
    }
    assert_eq!(give(&mut bench, &completed(&lost)), Ok(Reply::Done));
    let offer = bench.offer("web-1", 1, Action::Start);
    bench.put("web-1", body(1, 1, Some(by_next(offer)))).expect("those who took over grant");
}

fn by_next(offer: Signed<protocol::ticket::Offer>) -> Ticket {
    let debit = offer.open().unwrap().resources;
    let grant = Grant { slot: 1, offer: offer.digest(), debit: debit.into() };
    Ticket { grants: vec![Signed::seal(&grant, &key(NEXT))], offer }
}

#[test]
fn what_may_not_follow_is_refused_with_what_might() {
    let mut bench = Bench::trusted(HOST);
    let at_once = Trust { version: 2, arbiters: vec![slot(1, NEXT)], ..first() };
    let refused = give(&mut bench, &at_once).unwrap_err();
    assert!(matches!(&refused, Refusal::UnlawfulTrust { version: 2, .. }), "{refused:?}");
    assert!(refused.to_string().contains("ostler arbiters replace"), "{refused}");
    assert_eq!(bench.agent.trust().map(|trust| trust.version), Some(1));
    // It was asleep while the others agreed.
    let done = completed(&between(2, NEXT));
    assert!(matches!(give(&mut bench, &done), Err(Refusal::UnlawfulTrust { .. })));
}

#[test]
fn who_has_agreed_goes_on_and_never_back() {
    let back = Trust { version: 3, ..first() };
    let other = between(3, 61);
    for document in [&back, &other] {
        assert_eq!(give(&mut asked(), document), Ok(Reply::Done));
        let refused = give(&mut agreed(), document);
        assert!(matches!(refused, Err(Refusal::UnlawfulTrust { version: 3, .. })), "{refused:?}");
    }
    let mut bench = agreed();
    assert_eq!(give(&mut bench, &completed(&between(2, NEXT))), Ok(Reply::Done));
    assert_eq!(bench.agent.agreed(), None, "no change is under way");
    let offer = bench.offer("web-1", 1, Action::Start);
    let debit = offer.open().unwrap().resources;
    let grant = Grant { slot: 1, offer: offer.digest(), debit: debit.into() };
    let ticket = Ticket { grants: vec![Signed::seal(&grant, &key(NEXT))], offer };
    bench.put("web-1", body(1, 1, Some(ticket))).expect("those who took over grant");
}

/// It has never taken anything by those in force alone, and never will.
#[test]
fn who_joins_while_arbiters_are_changed_needs_both_from_the_first() {
    let mut bench = Bench::lone();
    assert_eq!(give(&mut bench, &between(2, NEXT)), Ok(Reply::Done));
    assert_eq!(bench.agent.agreed(), between(2, NEXT).change());
    bench.die(false);
    assert_eq!(bench.agent.agreed(), between(2, NEXT).change());
    let back = Trust { version: 3, ..first() };
    assert!(matches!(give(&mut bench, &back), Err(Refusal::UnlawfulTrust { .. })));
}
