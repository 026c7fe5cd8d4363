//! What is asked of whom after which answer.

use std::sync::Arc;

use protocol::id::{ClusterId, Epoch, HostId, JobId, OfferId, Revision, TenantId};
use protocol::resources::Resources;
use protocol::signed::SecretKey;
use protocol::ticket::{Action, Denial};
use protocol::trust::{Policy, StartRate, TenantPolicy};
use protocol::vm::OnLoss;

use super::*;

fn vcpus(vcpus: u32) -> Amounts {
    Resources { vcpus, ..Resources::ZERO }.into()
}

fn key(n: u32) -> SecretKey {
    SecretKey::from_seed([u8::try_from(n).unwrap(); 32])
}

/// Three arbiters, and a limit of nine CPUs if any.
fn trust(quota: Option<u32>) -> Trust {
    let slot = |slot: u32| Slot { slot, key: key(slot + 1).public(), url: String::new() };
    Trust {
        version: 1,
        operators: vec![key(9).public()],
        arbiters: (0..3).map(slot).collect(),
        k: 2,
        roster: vec![key(8).public()],
        quota: quota.map(|q| (TenantId::default_tenant(), vcpus(q))).into_iter().collect(),
        ..Trust::of_nobody(ClusterId::new("c1").unwrap())
    }
}

fn offer(size: u32) -> Signed<Offer> {
    let offer = Offer {
        host: HostId::of(&key(8).public()),
        id: OfferId { epoch: Epoch(1), num: 1 },
        job: JobId::new("web").unwrap(),
        revision: Revision(1),
        spec: Digest::of(b"spec"),
        action: Action::Start,
        resources: vcpus(size).resources(),
        tenant: TenantId::default_tenant(),
        on_loss: OnLoss::Keep,
        plan: BTreeMap::new(),
        trust_version: 1,
        agreed: None,
    };
    Signed::seal(&offer, &key(8))
}

fn room(left: u32) -> TenantRoom {
    let (limit, used, at_most) = (Some(vcpus(9)), vcpus(3), vcpus(6));
    TenantRoom { limit, used, at_most, left: vcpus(left), has: vcpus(0), starts: None }
}

fn yes(offer: &Signed<Offer>, slot: u32, debit: u32) -> Result<ArbiterAnswer, String> {
    let grant = Grant { slot, offer: offer.digest(), debit: vcpus(debit) };
    Ok(ArbiterAnswer::Grant(Signed::seal(&grant, &key(slot + 1))))
}

fn no(offer: &Signed<Offer>, slot: u32, why: DenialReason) -> Result<ArbiterAnswer, String> {
    let denial = Denial { slot, offer: offer.digest(), why };
    Ok(ArbiterAnswer::Denial(Signed::seal(&denial, &key(slot + 1))))
}

fn too_much(left: u32) -> DenialReason {
    DenialReason::Quota {
        tenant: TenantId::default_tenant(),
        limit: vcpus(9),
        used: vcpus(6),
        asked: vcpus(3),
        at_most: Some(Box::new(vcpus(3))),
        left: Some(Box::new(vcpus(left))),
    }
}

/// Whom it asks next, for how many CPUs.
fn next(poll: &mut Poll<'_>) -> Option<(u32, Option<u32>)> {
    poll.next_arbiter().map(|(slot, wish)| (slot.slot, wish.map(|wish| wish.vcpus)))
}

fn with_rooms<'a>(trust: &'a Trust, offer: &'a Signed<Offer>, left: [u32; 3]) -> Poll<'a> {
    let mut poll = Poll::of(trust, offer);
    assert_eq!(poll.rooms_to_ask().len(), 3);
    for (slot, left) in (0..).zip(left) {
        poll.take_room(slot, Ok(room(left)));
    }
    poll
}

#[test]
fn without_a_limit_a_quorum_books_the_whole_size() {
    let (trust, offer) = (trust(None), offer(3));
    let mut poll = Poll::of(&trust, &offer);
    assert!(poll.rooms_to_ask().is_empty());
    assert_eq!(next(&mut poll), Some((0, None)));
    poll.take(0, Err("no answer".into()));
    assert_eq!(next(&mut poll), Some((1, None)));
    poll.take(1, yes(&offer, 1, 3));
    assert_eq!(next(&mut poll), Some((2, None)));
    poll.take(2, yes(&offer, 2, 3));
    assert_eq!(next(&mut poll), None);
    assert!(matches!(poll.conclude(), Answer::Done(_)));
}

#[test]
fn with_a_limit_each_books_what_leaves_them_level() {
    let (trust, offer) = (trust(Some(9)), offer(3));
    let mut poll = with_rooms(&trust, &offer, [4, 4, 4]);
    for slot in 0..3 {
        assert_eq!(next(&mut poll), Some((slot, Some(2))));
        poll.take(slot, yes(&offer, slot, 2));
    }
    assert_eq!(next(&mut poll), None);
    assert!(matches!(poll.conclude(), Answer::Done(_)));
}

#[test]
fn where_vms_are_limited_k_arbiters_are_asked_to_book_the_one() {
    let limit = Amounts { vms: 3, ..vcpus(9) };
    let quota = BTreeMap::from([(TenantId::default_tenant(), limit)]);
    let (trust, offer) = (Trust { quota, ..trust(None) }, offer(3));
    let mut poll = Poll::of(&trust, &offer);
    for (slot, vms) in [(0, 1), (1, 2), (2, 2)] {
        let of = |room: Amounts, vms| Amounts { vms, ..room };
        let TenantRoom { used, at_most, left, has, .. } = room(4);
        let (used, at_most, left) = (of(used, 1), of(at_most, 1), of(left, vms));
        let room =
            TenantRoom { limit: Some(limit), used, at_most, left, has: of(has, 0), starts: None };
        poll.take_room(slot, Ok(room));
    }
    for (slot, vms) in [(0, 0), (1, 1), (2, 1)] {
        let (asked, wish) = poll.next_arbiter().unwrap();
        assert_eq!((asked.slot, wish), (slot, Some(Amounts { vms, ..vcpus(2) })));
        let grant = Grant { slot, offer: offer.digest(), debit: wish.unwrap() };
        poll.take(slot, Ok(ArbiterAnswer::Grant(Signed::seal(&grant, &key(slot + 1)))));
    }
    assert_eq!(next(&mut poll), None);
    assert!(matches!(poll.conclude(), Answer::Done(_)));
}

#[test]
fn where_vms_are_not_limited_no_arbiter_is_asked_for_a_number_of_them() {
    let (trust, offer) = (trust(Some(9)), offer(3));
    let mut poll = with_rooms(&trust, &offer, [4, 4, 4]);
    let (_, wish) = poll.next_arbiter().unwrap();
    assert_eq!(wish.map(Amounts::tells_vms), Some(false));
}

#[test]
fn a_no_for_want_of_vms_says_how_many_there_are() {
    let limit = Amounts { vms: 3, ..vcpus(9) };
    let quota = BTreeMap::from([(TenantId::default_tenant(), limit)]);
    let (trust, offer) = (Trust { quota, ..trust(None) }, offer(1));
    let mut poll = Poll::of(&trust, &offer);
    for slot in 0..3 {
        let TenantRoom { used, at_most, left, has, .. } = room(4);
        let (used, at_most) = (Amounts { vms: 3, ..used }, Amounts { vms: 0, ..at_most });
        let (left, has) = (Amounts { vms: 0, ..left }, Amounts { vms: 0, ..has });
        poll.take_room(
            slot,
            Ok(TenantRoom { limit: Some(limit), used, at_most, left, has, starts: None }),
        );
    }
    assert!(poll.is_short() && !poll.is_fragmented());
    assert_eq!(next(&mut poll), None);
    let Answer::Refused(No::Arbiters(no)) = poll.conclude() else { panic!("not refused") };
    let DenialReason::Quota { limit, used, asked, at_most, .. } = &no[0].1 else {
        panic!("not for want of quota: {no:?}");
    };
    let vms = [limit.vms, used.vms, asked.vms, at_most.as_ref().unwrap().vms];
    assert_eq!(vms, [3, 3, 1, 0]);
}

#[test]
fn what_a_rival_was_faster_with_is_planned_around() {
    let (trust, offer) = (trust(Some(9)), offer(3));
    let mut poll = with_rooms(&trust, &offer, [4, 4, 4]);
    assert_eq!(next(&mut poll), Some((0, Some(2))));
    poll.take(0, no(&offer, 0, too_much(1)));
    assert_eq!(next(&mut poll), Some((1, Some(3))));
    poll.take(1, yes(&offer, 1, 3));
    assert_eq!(next(&mut poll), Some((2, Some(3))));
    poll.take(2, yes(&offer, 2, 3));
    assert!(matches!(poll.conclude(), Answer::Done(_)));
}

#[test]
fn who_loses_what_was_left_to_rivals_tries_again_with_another_offer() {
    let (trust, offer) = (trust(Some(9)), offer(3));
    let mut poll = with_rooms(&trust, &offer, [2, 2, 2]);
    assert_eq!(next(&mut poll), Some((0, Some(2))));
    poll.take(0, no(&offer, 0, too_much(0)));
    assert_eq!(next(&mut poll), None);
    assert!(matches!(poll.conclude(), Answer::OfferOver { .. }));
}

#[test]
fn what_does_not_fit_is_refused_with_whole_numbers_and_asks_nobody() {
    let (trust, offer) = (trust(Some(9)), offer(3));
    let mut poll = with_rooms(&trust, &offer, [1, 1, 2]);
    assert!(poll.is_short() && poll.is_fragmented(), "6 of 9 are free");
    assert_eq!(next(&mut poll), None);
    let Answer::Refused(No::Arbiters(denials)) = poll.conclude() else { panic!("not refused") };
    let [(_, DenialReason::Quota { limit, used, asked, at_most, .. })] = &denials[..] else {
        panic!("{denials:?}");
    };
    assert_eq!((limit.vcpus, used.vcpus, asked.vcpus), (9, 3, 3));
    assert_eq!(at_most.as_ref().map(|most| most.vcpus), Some(2), "4 are left over three");
}

#[test]
fn who_does_not_answer_may_have_what_is_missing() {
    let (trust, offer) = (trust(Some(9)), offer(3));
    let mut poll = with_rooms(&trust, &offer, [1, 3, 4]);
    poll.take_room(2, Err(NoRoom::Silent("no answer".into())));
    assert!(poll.is_short() && !poll.is_fragmented());
    assert_eq!(next(&mut poll), None);
    let Answer::Unclear { what, .. } = poll.conclude() else { panic!("it is not over") };
    assert!(what.contains("arbiter 2: no answer") && what.contains("at most"), "{what}");
}

#[test]
fn an_arbiter_of_before_debits_were_split_books_the_whole_size() {
    let (trust, offer) = (trust(Some(9)), offer(3));
    let mut poll = Poll::of(&trust, &offer);
    poll.take_room(0, Err(NoRoom::Unknown));
    poll.take_room(1, Ok(room(6)));
    poll.take_room(2, Ok(room(6)));
    assert_eq!(next(&mut poll), Some((0, Some(3))));
    poll.take(0, yes(&offer, 0, 3));
    let (slot, wish) = next(&mut poll).expect("one is not enough");
    poll.take(slot, yes(&offer, slot, wish.unwrap()));
    while let Some((slot, wish)) = next(&mut poll) {
        poll.take(slot, yes(&offer, slot, wish.unwrap()));
    }
    assert!(matches!(poll.conclude(), Answer::Done(_)));
}

/// The same offer, of a job that may be lost.
fn lapsing(size: u32) -> Signed<Offer> {
    let offer = offer(size).open().unwrap();
    Signed::seal(&Offer { on_loss: OnLoss::Stop, ..offer }, &key(8))
}

fn with_witnesses(quota: Option<u32>) -> Trust {
    let slot = |slot: u32| Slot { slot, key: key(slot + 1).public(), url: String::new() };
    let witnesses = protocol::trust::Witnesses::of((3..6).map(slot).collect(), 0);
    Trust { witnesses, ..trust(quota) }
}

#[test]
fn what_may_be_lost_is_shown_to_witnesses_too_and_what_is_kept_is_not() {
    let trust = with_witnesses(None);
    let offer = lapsing(3);
    let mut poll = Poll::of(&trust, &offer);
    for slot in [0, 1] {
        assert_eq!(next(&mut poll).map(|next| next.0), Some(slot));
        poll.take(slot, yes(&offer, slot, 3));
    }
    assert_eq!(next(&mut poll), Some((3, None)), "no third arbiter is needed");
    poll.take(3, Err("silent".to_owned()));
    for slot in [4, 5] {
        assert_eq!(next(&mut poll), Some((slot, None)));
        poll.take(slot, yes(&offer, slot, 0));
    }
    assert_eq!(next(&mut poll), None);
    let Answer::Done(TaskResult::Grants { grants }) = poll.conclude() else { panic!("enough") };
    assert_eq!(grants.len(), 4);

    let kept = self::offer(3);
    let mut poll = Poll::of(&trust, &kept);
    for slot in [0, 1] {
        assert_eq!(next(&mut poll).map(|next| next.0), Some(slot));
        poll.take(slot, yes(&kept, slot, 3));
    }
    assert_eq!(next(&mut poll), None);
    assert!(matches!(poll.conclude(), Answer::Done(_)));
}

#[test]
fn witnesses_that_do_not_answer_leave_it_unclear_and_say_so() {
    let trust = with_witnesses(Some(9));
    let offer = lapsing(3);
    let mut poll = Poll::of(&trust, &offer);
    for slot in poll.rooms_to_ask() {
        assert!(slot.slot < 3, "a witness books nothing");
        poll.take_room(slot.slot, Ok(room(6)));
    }
    while let Some((slot, wish)) = next(&mut poll) {
        match slot {
            0..3 => poll.take(slot, yes(&offer, slot, wish.unwrap())),
            _ => poll.take(slot, Err("away".to_owned())),
        }
    }
    let Answer::Unclear { what, .. } = poll.conclude() else { panic!("not enough") };
    assert!(what.contains("0 of 2 grants of witnesses"), "{what}");
    assert!(what.contains("witness 4: away"), "{what}");
}

/// The tenant may start two VMs in ten minutes.
fn rated(quota: Option<u32>) -> Trust {
    let start_rate = Some(StartRate { starts: 2, within_s: 600 });
    let default = Some(TenantPolicy { start_rate, ..TenantPolicy::default() });
    Trust { policy: Arc::new(Policy { default, ..Policy::default() }), ..trust(quota) }
}

fn starts(part: u32, used: u32, for_ms: u64) -> TenantRoom {
    let limit = StartRate { starts: 2, within_s: 600 };
    let starts = Some(StartsRoom { limit, part, used, for_ms: Some(for_ms) });
    let (limit, used, left) = (None, vcpus(1), Amounts::UNLIMITED);
    TenantRoom { limit, used, at_most: left, left, has: vcpus(0), starts }
}

fn out_of_starts(for_ms: u64) -> DenialReason {
    DenialReason::Rate {
        tenant: TenantId::default_tenant(),
        is_default: true,
        limit: StartRate { starts: 2, within_s: 600 },
        part: 1,
        used: 1,
        for_ms: Some(for_ms),
    }
}

#[test]
fn a_start_is_one_of_k_arbiters_that_have_most_of_them_left() {
    let (trust, offer) = (rated(None), offer(2));
    let mut poll = Poll::of(&trust, &offer);
    assert_eq!(poll.rooms_to_ask().len(), 3);
    for (slot, used) in [(0, 2), (1, 0), (2, 0)] {
        poll.take_room(slot, Ok(starts(2, used, if used == 2 { 60_000 } else { 0 })));
    }
    let mut booked = Vec::new();
    while let Some((arbiter, wish)) = poll.next_arbiter() {
        let debit = wish.expect("a plan");
        booked.push((arbiter.slot, debit.vms));
        let grant = Grant { slot: arbiter.slot, offer: offer.digest(), debit };
        let answer = ArbiterAnswer::Grant(Signed::seal(&grant, &key(arbiter.slot + 1)));
        poll.take(arbiter.slot, Ok(answer));
    }
    assert_eq!(
        booked,
        [(0, 0), (1, 1), (2, 1)],
        "the first has none left, and books CPUs all the same"
    );
    assert!(matches!(poll.conclude(), Answer::Done(_)));
}

#[test]
fn what_is_no_start_is_asked_no_rate() {
    let trust = rated(None);
    let resize = Offer { action: Action::Resize, ..offer(2).open().unwrap() };
    let resize = Signed::seal(&resize, &key(8));
    assert!(Poll::of(&trust, &resize).rooms_to_ask().is_empty());
}

#[test]
fn where_too_few_have_a_start_left_the_no_says_when_a_quorum_has() {
    let (trust, offer) = (rated(Some(9)), offer(1));
    let mut poll = Poll::of(&trust, &offer);
    for (slot, for_ms) in [(0, 0), (1, 90_000), (2, 60_000)] {
        let TenantRoom { starts, .. } = starts(1, u32::from(for_ms > 0), for_ms);
        poll.take_room(slot, Ok(TenantRoom { starts, ..room(4) }));
    }
    assert!(poll.is_short() && !poll.is_fragmented(), "the quota has room");
    assert_eq!(next(&mut poll), None);
    let Answer::Refused(No::Arbiters(no)) = poll.conclude() else { panic!("not refused") };
    let [(_, DenialReason::Rate { limit, for_ms, is_default: true, .. })] = &no[..] else {
        panic!("not for want of starts: {no:?}");
    };
    assert_eq!((limit.starts, *for_ms), (2, Some(60_000)), "then two of three have one");
}

#[test]
fn a_start_that_is_left_soon_is_waited_for() {
    let (trust, offer) = (rated(None), offer(1));
    let mut poll = Poll::of(&trust, &offer);
    for slot in 0..3 {
        poll.take_room(slot, Ok(starts(1, 1, 5_000)));
    }
    let Answer::Unclear { what, is_ambiguous: false } = poll.conclude() else { panic!("ended") };
    assert!(what.contains("2 starts in 10 min, and no more for now; the next in 5 s"), "{what}");
}

#[test]
fn who_loses_the_last_start_to_rivals_tries_again_with_another_offer() {
    let (trust, offer) = (rated(None), offer(1));
    let mut poll = Poll::of(&trust, &offer);
    for slot in 0..3 {
        poll.take_room(slot, Ok(starts(1, 0, 0)));
    }
    let mut refused = 0;
    while let Some((arbiter, wish)) = poll.next_arbiter() {
        let answer = match wish.expect("a plan") {
            debit if debit.vms == 0 => {
                let grant = Grant { slot: arbiter.slot, offer: offer.digest(), debit };
                Ok(ArbiterAnswer::Grant(Signed::seal(&grant, &key(arbiter.slot + 1))))
            }
            _ => {
                refused += 1;
                no(&offer, arbiter.slot, out_of_starts(600_000))
            }
        };
        poll.take(arbiter.slot, answer);
    }
    assert_eq!(refused, 2, "the third alone would be no quorum");
    let Answer::OfferOver { why } = poll.conclude() else { panic!("ended for good") };
    assert!(why.contains("others were faster"), "{why}");
}

fn ended(offer: &Signed<Offer>) -> DenialReason {
    let offer = offer.open().unwrap();
    DenialReason::OfferEnded { host: offer.host, id: offer.id }
}

/// An arbiter that has just started is silent for about as long as an offer lasts.
#[test]
fn an_offer_that_ended_while_it_was_shown_is_asked_for_anew() {
    let (trust, offer) = (trust(None), offer(3));
    let mut poll = Poll::of(&trust, &offer);
    while let Some((arbiter, _)) = poll.next_arbiter() {
        poll.take(arbiter.slot, no(&offer, arbiter.slot, ended(&offer)));
    }
    let Answer::OfferOver { why } = poll.conclude() else { panic!("ended for good") };
    assert!(why.contains("has ended; ask the host for a new one"), "{why}");
}

#[test]
fn where_too_few_answer_another_offer_is_no_better() {
    let (trust, offer) = (trust(None), offer(3));
    let mut poll = Poll::of(&trust, &offer);
    while let Some((arbiter, _)) = poll.next_arbiter() {
        match arbiter.slot {
            0 => poll.take(0, no(&offer, 0, ended(&offer))),
            slot => poll.take(slot, Err("no answer".into())),
        }
    }
    let Answer::Unclear { what, .. } = poll.conclude() else { panic!("one is no quorum") };
    assert!(what.contains("0 of 2 grants") && what.contains("no answer"), "{what}");
}

/// Whoever signs what no host takes costs its own yes, and nobody else's.
#[test]
fn a_grant_that_no_host_would_take_spoils_no_ticket() {
    let (trust, asked) = (trust(None), offer(3));
    for wrong in [yes(&asked, 1, 3), yes(&offer(2), 0, 3)] {
        let mut poll = Poll::of(&trust, &asked);
        assert_eq!(next(&mut poll), Some((0, None)));
        poll.take(0, wrong);
        for slot in [1, 2] {
            assert_eq!(next(&mut poll), Some((slot, None)));
            poll.take(slot, yes(&asked, slot, 3));
        }
        let Answer::Done(TaskResult::Grants { grants }) = poll.conclude() else {
            panic!("two are a quorum")
        };
        let slots: Vec<u32> = grants.iter().map(|grant| grant.open().unwrap().slot).collect();
        assert_eq!(slots, [1, 2]);
    }
}
