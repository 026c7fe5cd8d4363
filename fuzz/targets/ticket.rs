//! A ticket permits only what a host offered and a quorum granted, however its parts are put
//! together and whatever one byte of it is changed to: against a model that counts by hand.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::Arbitrary;
use fuzz::{job_id, key};
use libfuzzer_sys::fuzz_target;
use protocol::id::{ClusterId, Epoch, HostId, OfferId, Revision, TenantId};
use protocol::resources::Resources;
use protocol::signed::{Digest, Signed};
use protocol::ticket::{Action, Expected, Grant, Offer, OfferStanding, Purpose, Ticket, verify};
use protocol::trust::{Slot, Trust};
use protocol::vm::OnLoss;

/// Who signs as what: the host is key 0, the arbiters of slots 0 to 2 are keys 1 to 3.
const HOST: u8 = 0;
const ARBITER: u8 = 1;
const ARBITERS: u8 = 3;

#[derive(Debug, Arbitrary)]
struct Sketch {
    k: u8,
    offered: Words,
    asked: Words,
    signer: u8,
    trust_version: u8,
    standing: u8,
    grants: Vec<GrantSketch>,
    change: Option<(u16, u8)>,
}

/// What offer and request each say; equal more often than not.
#[derive(Debug, Arbitrary, Clone, Copy, PartialEq)]
struct Words {
    host: bool,
    job: bool,
    revision: bool,
    spec: bool,
    size: u64,
}

#[derive(Debug, Arbitrary)]
struct GrantSketch {
    slot: u8,
    signer: u8,
    is_for_this: bool,
    debit: u64,
}

impl Words {
    fn host_key(self) -> u8 {
        if self.host { HOST } else { 7 }
    }

    fn size(self) -> Resources {
        Resources { vcpus: 1, memory_bytes: self.size, disk_bytes: 0 }
    }

    fn spec(self) -> Digest {
        Digest::of(if self.spec { b"spec" } else { b"spek" })
    }
}

fuzz_target!(|sketch: Sketch| {
    let trust = trust(sketch.k);
    if trust.validate().is_err() {
        return;
    }
    let ticket = ticket(&sketch);
    let is_permitted = check(&ticket, &sketch, &trust);
    assert_eq!(is_permitted, is_right(&sketch, &trust), "{sketch:?}");
    if let Some((at, by)) = sketch.change {
        let text = serde_json::to_string(&ticket).expect("a ticket is always valid JSON");
        let mut bytes = text.clone().into_bytes();
        let at = usize::from(at) % bytes.len();
        bytes[at] ^= by;
        let changed = String::from_utf8(bytes).ok();
        let changed = changed.and_then(|text| serde_json::from_str::<Ticket>(&text).ok());
        if let Some(changed) = changed.filter(|changed| *changed != ticket) {
            let is_still = check(&changed, &sketch, &trust);
            // One grant less may leave enough of them; nothing makes more of it.
            assert!(!is_still || is_permitted, "byte {at} changed by {by:02x} in {text}");
        }
    }
});

fn trust(k: u8) -> Trust {
    let slot = |n| Slot { slot: u32::from(n), key: key(ARBITER + n).public(), url: String::new() };
    Trust {
        version: 1,
        operators: vec![key(6).public()],
        arbiters: (0..ARBITERS).map(slot).collect(),
        k: u32::from(k),
        roster: vec![key(HOST).public()],
        ..Trust::of_nobody(ClusterId::new("c").expect("a letter is a name"))
    }
}

fn ticket(sketch: &Sketch) -> Ticket {
    let words = sketch.offered;
    let offer = Offer {
        host: HostId::of(&key(words.host_key()).public()),
        id: OfferId { epoch: Epoch(1), num: 1 },
        job: job_id(u8::from(words.job)),
        revision: Revision(u64::from(words.revision)),
        spec: words.spec(),
        action: Action::Start,
        resources: words.size(),
        tenant: TenantId::default_tenant(),
        plan: BTreeMap::new(),
        on_loss: OnLoss::Keep,
        trust_version: u64::from(sketch.trust_version),
        agreed: None,
    };
    let offer = Signed::seal(&offer, key(sketch.signer));
    let grants = sketch.grants.iter().take(8).map(|grant| {
        let this = if grant.is_for_this { offer.digest() } else { Digest::of(b"another") };
        let debit = Resources { vcpus: 1, memory_bytes: grant.debit, disk_bytes: 0 }.into();
        let said = Grant { slot: u32::from(grant.slot), offer: this, debit };
        Signed::seal(&said, key(grant.signer))
    });
    let grants = grants.collect();
    Ticket { offer, grants }
}

fn standing(sketch: &Sketch) -> OfferStanding {
    match sketch.standing {
        1 => OfferStanding::Ended,
        2 => OfferStanding::Used,
        3 => OfferStanding::Unknown,
        _ => OfferStanding::Open { left_ms: 1 },
    }
}

fn check(ticket: &Ticket, sketch: &Sketch, trust: &Trust) -> bool {
    let words = sketch.asked;
    let host_key = key(words.host_key()).public();
    let expected = Expected {
        host: &HostId::of(&host_key),
        host_key: &host_key,
        job: &job_id(u8::from(words.job)),
        revision: Revision(u64::from(words.revision)),
        spec: words.spec(),
        resources: words.size(),
        purpose: Purpose::Take,
        agreed: None,
    };
    match verify(Some(ticket), expected, trust, |_| standing(sketch)) {
        Ok(verified) => {
            assert!(verified.debits().len() >= trust.k as usize);
            true
        }
        Err(error) => {
            let _ = (error.to_string(), serde_json::to_string(&error).expect("an error is JSON"));
            false
        }
    }
}

/// The model: which slots count, by hand.
fn is_right(sketch: &Sketch, trust: &Trust) -> bool {
    let size = sketch.offered.size;
    let counts = |grant: &&GrantSketch| {
        let is_its_arbiter =
            grant.slot < ARBITERS && grant.signer % fuzz::KEYS == ARBITER + grant.slot;
        is_its_arbiter && grant.is_for_this && grant.debit <= size
    };
    let grants: Vec<_> = sketch.grants.iter().take(8).filter(counts).collect();
    let slots: BTreeSet<u8> = grants.iter().map(|grant| grant.slot).collect();
    // Of several grants of one slot the last counts.
    let debit = |slot: &u8| grants.iter().rfind(|g| g.slot == *slot).map_or(0, |g| g.debit);
    let booked: u128 = slots.iter().map(|slot| u128::from(debit(slot))).sum();
    let saturated = |sum: u128| sum.min(u128::from(u64::MAX));
    sketch.offered == sketch.asked
        && sketch.signer % fuzz::KEYS == sketch.asked.host_key()
        && matches!(standing(sketch), OfferStanding::Open { .. })
        && u64::from(sketch.trust_version) == trust.version
        && slots.len() >= trust.k as usize
        && saturated(booked) >= saturated(u128::from(size) * u128::from(trust.k))
}
