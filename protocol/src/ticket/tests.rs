//! Every way in which a ticket may be the wrong one, and the one in which it is right.

use super::*;
use crate::amounts::VMS_ANY;
use crate::id::{ClusterId, Epoch};
use crate::signed::SecretKey;
use crate::trust::Slot;

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

const HOST: u8 = 1;
const ARBITER: u8 = 10;

fn trust(n: u8, k: u32) -> Trust {
    Trust {
        version: 1,
        operators: vec![key(99).public()],
        arbiters: (0..n)
            .map(|i| Slot {
                slot: u32::from(i),
                key: key(ARBITER + i).public(),
                url: String::new(),
            })
            .collect(),
        k,
        roster: vec![key(HOST).public()],
        ..Trust::of_nobody(ClusterId::new("c1").unwrap())
    }
}

fn size() -> Resources {
    Resources { vcpus: 1, memory_bytes: 1 << 30, disk_bytes: 1 << 30 }
}

fn offer() -> Offer {
    Offer {
        host: HostId::of(&key(HOST).public()),
        id: OfferId { epoch: Epoch(3), num: 7 },
        job: JobId::new("web-1").unwrap(),
        revision: Revision(1),
        spec: Digest::of(b"spec"),
        action: Action::Start,
        resources: size(),
        tenant: TenantId::default_tenant(),
        plan: BTreeMap::new(),
        on_loss: OnLoss::Keep,
        trust_version: 1,
        agreed: None,
    }
}

fn ticket_of(offer: &Offer, slots: &[u8]) -> Ticket {
    let offer = Signed::seal(offer, &key(HOST));
    let grant =
        |slot: &u8| Grant { slot: u32::from(*slot), offer: offer.digest(), debit: size().into() };
    let grants = slots.iter().map(|s| Signed::seal(&grant(s), &key(ARBITER + s))).collect();
    Ticket { offer, grants }
}

fn check(ticket: &Ticket, trust: &Trust) -> Result<VerifiedTicket, TicketError> {
    check_standing(ticket, trust, OfferStanding::Open { left_ms: 9_000 })
}

fn check_standing(
    ticket: &Ticket,
    trust: &Trust,
    standing: OfferStanding,
) -> Result<VerifiedTicket, TicketError> {
    let here = HostId::of(&key(HOST).public());
    let expected = Expected {
        host: &here,
        host_key: &key(HOST).public(),
        job: &JobId::new("web-1").unwrap(),
        revision: Revision(1),
        spec: Digest::of(b"spec"),
        resources: size(),
        purpose: Purpose::Take,
        agreed: None,
    };
    verify(Some(ticket), expected, trust, |_| standing)
}

#[test]
fn k_of_n_grants_make_a_ticket_and_fewer_do_not() {
    assert!(check(&ticket_of(&offer(), &[0]), &trust(1, 1)).is_ok());
    let verified = check(&ticket_of(&offer(), &[0, 2]), &trust(3, 2)).unwrap();
    assert_eq!(verified.debits().keys().copied().collect::<Vec<_>>(), [0, 2]);
    assert!(matches!(
        check(&ticket_of(&offer(), &[0]), &trust(3, 2)),
        Err(TicketError::TicketWithoutQuorum { have: 1, need: 2, .. })
    ));
}

#[test]
fn one_slot_counts_once_however_often_it_signs() {
    assert!(matches!(
        check(&ticket_of(&offer(), &[1, 1, 1]), &trust(3, 2)),
        Err(TicketError::TicketWithoutQuorum { have: 1, need: 2, .. })
    ));
}

#[test]
fn a_ticket_for_something_else_says_for_what() {
    let trust = trust(1, 1);
    let ask = |change: fn(&mut Offer)| {
        let mut other = offer();
        change(&mut other);
        check(&ticket_of(&other, &[0]), &trust).unwrap_err().name()
    };
    assert_eq!(ask(|o| o.host = HostId::new("hother").unwrap()), "ticket-for-other-host");
    assert_eq!(ask(|o| o.job = JobId::new("web-2").unwrap()), "ticket-for-other-job");
    assert_eq!(ask(|o| o.resources.vcpus = 9), "ticket-for-other-spec");
    assert_eq!(ask(|o| o.spec = Digest::of(b"other")), "ticket-for-other-spec");
    assert_eq!(ask(|o| o.revision = Revision(2)), "ticket-for-other-spec");
    assert_eq!(ask(|o| o.action = Action::Resize), "ticket-for-other-action");
    assert_eq!(ask(|o| o.trust_version = 2), "ticket-of-other-trust");
}

#[test]
fn an_offer_works_once_and_only_in_its_time_and_epoch() {
    let (ticket, trust) = (ticket_of(&offer(), &[0]), trust(1, 1));
    let name = |standing| check_standing(&ticket, &trust, standing).unwrap_err().name();
    assert_eq!(name(OfferStanding::Ended), "offer-ended");
    assert_eq!(name(OfferStanding::Used), "offer-used");
    assert_eq!(name(OfferStanding::Unknown), "offer-unknown");
}

#[test]
fn grants_by_strangers_or_for_other_offers_do_not_count() {
    let trust = trust(1, 1);
    let mut by_stranger = ticket_of(&offer(), &[]);
    let grant = Grant { slot: 0, offer: by_stranger.offer.digest(), debit: size().into() };
    by_stranger.grants = vec![Signed::seal(&grant, &key(55))];
    assert_eq!(check(&by_stranger, &trust).unwrap_err().name(), "ticket-without-quorum");

    let mut other = offer();
    other.id.num += 1;
    let swapped = Ticket {
        offer: Signed::seal(&offer(), &key(HOST)),
        grants: ticket_of(&other, &[0]).grants,
    };
    assert_eq!(check(&swapped, &trust).unwrap_err().name(), "ticket-without-quorum");

    let forged = Ticket {
        offer: Signed::seal(&offer(), &key(66)),
        grants: ticket_of(&offer(), &[0]).grants,
    };
    assert_eq!(check(&forged, &trust).unwrap_err().name(), "ticket-forged");
}

#[test]
fn debits_must_count_the_vm_k_times_and_what_is_unsaid_counts() {
    let offer = Signed::seal(&offer(), &key(HOST));
    let of = |vms: [u32; 3]| {
        let grant = |(slot, vms): (u32, u32)| {
            let debit = Amounts { vms, ..size().into() };
            let grant = Grant { slot, offer: offer.digest(), debit };
            Signed::seal(&grant, &key(ARBITER + u8::try_from(slot).unwrap()))
        };
        let grants = (0..).zip(vms).map(grant).collect();
        check(&Ticket { offer: offer.clone(), grants }, &trust(3, 2))
    };
    for good in [[1, 0, 1], [1, 1, 1], [VMS_ANY, 0, 1], [VMS_ANY; 3]] {
        let debits = of(good).unwrap().debits().clone();
        assert_eq!(debits.into_values().map(|debit| debit.vms).collect::<Vec<_>>(), good);
    }
    let error = of([0, 1, 0]).unwrap_err();
    let TicketError::TicketUnderbooked { booked, needed } = error else { panic!("{error}") };
    assert_eq!((booked.vms, needed.vms), (1, 2));
    assert!(matches!(of([2, 1, 0]), Err(TicketError::TicketUnderbooked { .. })), "2 count nothing");
}

#[test]
fn debits_must_add_up_to_k_times_the_job() {
    let offer = Signed::seal(&offer(), &key(HOST));
    let half = Resources { vcpus: 0, memory_bytes: 1 << 29, disk_bytes: 1 << 29 };
    let grant = Grant { slot: 0, offer: offer.digest(), debit: half.into() };
    let ticket = Ticket { offer, grants: vec![Signed::seal(&grant, &key(ARBITER))] };
    assert_eq!(check(&ticket, &trust(1, 1)).unwrap_err().name(), "ticket-underbooked");
}

/// Three arbiters of whom two are needed, and as many witnesses.
fn with_witnesses() -> Trust {
    let witness = |slot: u32| Slot {
        slot,
        key: key(60 + u8::try_from(slot).unwrap()).public(),
        url: String::new(),
    };
    let witnesses = crate::trust::Witnesses::of((3..6).map(witness).collect(), 0);
    Trust { witnesses, ..trust(3, 2) }
}

fn witnessed(offer: &Offer, arbiters: &[u8], witnesses: &[u32]) -> Ticket {
    let mut ticket = ticket_of(offer, arbiters);
    for slot in witnesses {
        let grant =
            Grant { slot: *slot, offer: ticket.offer.digest(), debit: Resources::ZERO.into() };
        let secret = key(60 + u8::try_from(*slot).unwrap());
        ticket.grants.push(Signed::seal(&grant, &secret));
    }
    ticket
}

#[test]
fn what_may_be_lost_needs_witnesses_as_well_and_what_is_kept_does_not() {
    let trust = with_witnesses();
    let lapses = Offer { on_loss: OnLoss::Stop, ..offer() };
    let verified = check(&witnessed(&lapses, &[0, 2], &[3, 5]), &trust).unwrap();
    assert_eq!(verified.debits().keys().copied().collect::<Vec<_>>(), [0, 2, 3, 5]);
    assert_eq!(verified.debits()[&5], Resources::ZERO.into(), "a witness books nothing");
    for witnesses in [&[][..], &[4], &[4, 4]] {
        let error = check(&witnessed(&lapses, &[0, 1, 2], witnesses), &trust).unwrap_err();
        assert_eq!(error.name(), "ticket-without-witnesses", "{witnesses:?}");
    }
    let few = check(&witnessed(&lapses, &[0], &[3, 4, 5]), &trust).unwrap_err();
    assert_eq!(few.name(), "ticket-without-quorum", "they are not counted together");
    assert!(check(&ticket_of(&offer(), &[0, 2]), &trust).is_ok());
    let kept = check(&witnessed(&offer(), &[0, 2], &[3, 4]), &trust).unwrap();
    assert_eq!(kept.debits().len(), 2);
}
