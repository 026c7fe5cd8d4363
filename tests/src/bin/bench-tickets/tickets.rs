//! T1 and T2 in process: an arbiter's core and its signature, and the host's check of a ticket.

use std::collections::{BTreeMap, BTreeSet};

use arbiter::core::{Effect, Input, Verdict};
use protocol::id::{HostId, OfferId, Revision};
use protocol::resources::Resources;
use protocol::signed::{Digest, Signed};
use protocol::ticket::{Expected, Grant, OfferStanding, Purpose, Ticket, verify};
use protocol::vm::OnLoss;
use serde_json::{Value, json};

use crate::raw::{Raw, best, calls};
use crate::round2;
use crate::world::{Cluster, arbiter_key, job, key, offer, size, trust};

/// Tickets of one round.
const TIMES: usize = 2_000;

/// T1: from a signed offer to a signed grant, everything between included.
pub(crate) fn issue(cluster: &Cluster) -> Value {
    let mut core = cluster.arbiter(OnLoss::Keep);
    let offers = cluster.offers(calls(TIMES));
    let secret = arbiter_key(0);
    let bytes = offers[0].to_string().len();
    let raw = Raw::new(400);
    let mut out = Vec::new();
    let third = Resources { vcpus: 1, memory_bytes: 3 << 30, disk_bytes: 14 << 30 }.into();
    let mut decided = 0;
    let [ours, core_only, sign, verify_and_sign] = {
        let mut again = cluster.arbiter(OnLoss::Keep);
        let mut ask = |core: &mut arbiter::core::Core, i: usize| {
            let (offer, wish) = (offers[i].clone(), Some(third));
            core.handle(2, Input::Ask { request: 0, wall_ms: 0, offer, wish }, &mut out);
            let answer = out.pop();
            out.clear();
            let Some(Effect::Answer { verdict: Verdict::Grant(grant), .. }) = answer else {
                panic!("{answer:?}");
            };
            decided += 1;
            grant
        };
        // Two closures with one helper take turns, so the helper is behind a cell.
        let ask = std::cell::RefCell::new(&mut ask);
        best(
            TIMES,
            [
                &mut |i| {
                    let grant = (ask.borrow_mut())(&mut core, i);
                    std::hint::black_box(Signed::seal(&grant, &secret).to_string());
                },
                &mut |i| {
                    std::hint::black_box((ask.borrow_mut())(&mut again, i));
                },
                &mut |_| raw.sign(),
                &mut |_| {
                    raw.verify();
                    raw.sign();
                },
            ],
        )
    };
    assert_eq!(decided, 2 * calls(TIMES));
    json!({
        "name": "T1_issue", "value": (1e6 / ours).round(), "unit": "grants/s per core",
        "us": round2(ours), "decision_us": round2(core_only),
        "baseline": "Ed25519 sign, same library", "baseline_us": round2(sign),
        "ratio": round2(sign / ours), "target": 0.5,
        "verify_and_sign_us": round2(verify_and_sign),
        "ratio_of_verify_and_sign": round2(verify_and_sign / ours),
        "hosts": cluster.hosts.len(), "jobs": cluster.hosts.len() * cluster.jobs,
        "offer_bytes": bytes, "n": calls(TIMES),
    })
}

/// A ticket that k of 2k−1 arbiters have granted.
fn ticket(k: u32, num: u64) -> Ticket {
    let host = key(2, 0);
    let n = 2 * k - 1;
    let offer = Signed::seal(&offer(&host, num, job(0, 0), n), &host);
    let grants = (0..k).map(|slot| {
        let grant = Grant { slot, offer: offer.digest(), debit: size().into() };
        Signed::seal(&grant, &arbiter_key(slot as usize))
    });
    Ticket { grants: grants.collect(), offer }
}

/// T2: a host checks a ticket, and that it is not used yet, and uses it.
pub(crate) fn verified(k: u32) -> Value {
    let (host, n) = (key(2, 0), 2 * k as usize - 1);
    let trust = trust(n, k, std::slice::from_ref(&host));
    let (host_key, id) = (host.public(), HostId::of(&host.public()));
    let count = u64::try_from(calls(TIMES)).expect("few");
    let texts: Vec<String> =
        (1..=count).map(|num| serde_json::to_string(&ticket(k, num)).expect("JSON")).collect();
    let tickets: Vec<Ticket> =
        texts.iter().map(|text| serde_json::from_str(text).expect("a ticket")).collect();
    let raw = Raw::new(400);
    let job = job(0, 0);
    let expected = || Expected {
        host: &id,
        host_key: &host_key,
        job: &job,
        revision: Revision(1),
        spec: Digest::of(b"spec"),
        resources: size(),
        purpose: Purpose::Take,
        agreed: None,
    };
    let fresh = || (1..=count).map(crate::world::id).collect::<BTreeSet<OfferId>>();
    let redeem = |open: &mut BTreeSet<OfferId>, ticket: &Ticket| {
        let standing = |offer: OfferId| match open.contains(&offer) {
            true => OfferStanding::Open { left_ms: 1 },
            false => OfferStanding::Used,
        };
        let verified = verify(Some(ticket), expected(), &trust, standing).expect("a good ticket");
        assert!(open.remove(&verified.offer().id), "each works once");
    };
    let (mut open, mut open_of_texts) = (fresh(), fresh());
    let signatures = k + 1;
    let [ours, with_text, verify_all] = best(
        TIMES,
        [
            &mut |i| redeem(&mut open, &tickets[i]),
            &mut |i| {
                let ticket: Ticket = serde_json::from_str(&texts[i]).expect("a ticket");
                redeem(&mut open_of_texts, &ticket);
            },
            &mut |_| (0..signatures).for_each(|_| raw.verify()),
        ],
    );
    assert!(open.is_empty() && open_of_texts.is_empty(), "all were used");
    json!({
        "name": "T2_verify", "k": k, "value": (1e6 / ours).round(), "unit": "tickets/s per core",
        "us": round2(ours), "from_text_us": round2(with_text),
        "baseline": format!("{signatures} strict Ed25519 verifications, same library"),
        "baseline_us": round2(verify_all), "ratio": round2(verify_all / ours), "target": 0.8,
        "n": calls(TIMES),
    })
}

/// How long a ticket is.
pub(crate) fn bytes(k: u32) -> Value {
    let ticket = ticket(k, 1);
    let text = serde_json::to_string(&ticket).expect("JSON");
    let parts: BTreeMap<&str, usize> = BTreeMap::from([
        ("offer", ticket.offer.to_string().len()),
        ("grant", ticket.grants[0].to_string().len()),
    ]);
    json!({ "name": "ticket_bytes", "k": k, "value": text.len(), "unit": "bytes", "parts": parts })
}
