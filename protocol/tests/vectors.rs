//! docs/ticket-vectors.json against the code: every committed text is what is sealed today, opens,
//! and has the verdict that is written beside it.
//!
//! The file is for other implementations; docs/ticket-format.md explains it. After a deliberate
//! change of the format, `OSTLER_WRITE_VECTORS=1 cargo test -p protocol --test vectors` writes it anew.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use protocol::amounts::{Amounts, VMS_ANY};
use protocol::id::{ClusterId, Epoch, HostId, JobId, OfferId, Revision, TenantId};
use protocol::job::JobSpec;
use protocol::resources::Resources;
use protocol::signed::{Digest, Message, PublicKey, SecretKey, Signed};
use protocol::ticket::{
    Action, Denial, DenialReason, Expected, Grant, Handoff, Offer, OfferStanding, Purpose, Ticket,
    verify,
};
use protocol::trust::{Slot, Trust, Witnesses};
use protocol::vm::OnLoss;
use protocol::vm::VmSpec;
use serde::{Deserialize, Serialize};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/ticket-vectors.json");

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Vectors {
    keys: Vec<KeyVector>,
    specs: Vec<SpecVector>,
    messages: Vec<MessageVector>,
    tickets: Vec<TicketVector>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct KeyVector {
    name: String,
    seed_hex: String,
    public: PublicKey,
    host: HostId,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct SpecVector {
    json: String,
    digest: Digest,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct MessageVector {
    name: String,
    domain: String,
    payload: String,
    digest: Digest,
    text: String,
    holds: bool,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct TicketVector {
    name: String,
    trust: Signed<Trust>,
    host: PublicKey,
    job: JobId,
    revision: Revision,
    spec: Digest,
    resources: Resources,
    standing: String,
    purpose: Purpose,
    ticket: Ticket,
    verdict: String,
    debits: BTreeMap<u32, Amounts>,
}

const HOST: u8 = 1;
const OTHER_HOST: u8 = 2;
const ARBITER: u8 = 10;
const OPERATOR: u8 = 99;

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

fn host(n: u8) -> HostId {
    HostId::of(&key(n).public())
}

fn job() -> JobId {
    JobId::new("web-1").unwrap()
}

fn id(num: u64) -> OfferId {
    OfferId { epoch: Epoch(3), num }
}

fn spec() -> JobSpec {
    JobSpec::vm(VmSpec { vcpus: 2, memory_bytes: 1 << 30, ..VmSpec::default() })
}

fn size() -> Resources {
    spec().resources()
}

fn trust() -> Trust {
    let slot = |n: u8| Slot {
        slot: u32::from(n),
        key: key(ARBITER + n).public(),
        url: format!("https://192.0.2.{}:7000", ARBITER + n),
    };
    Trust {
        version: 4,
        operators: vec![key(OPERATOR).public()],
        arbiters: (0..3).map(slot).collect(),
        k: 2,
        roster: vec![key(HOST).public(), key(OTHER_HOST).public()],
        quota: BTreeMap::from([(TenantId::default_tenant(), size().into())]),
        ..Trust::of_nobody(ClusterId::new("example").unwrap())
    }
}

/// The same with as many witnesses.
fn witnessed() -> Trust {
    let slot = |n: u8| Slot {
        slot: u32::from(n),
        key: key(ARBITER + n).public(),
        url: format!("https://192.0.2.{}:7000", ARBITER + n),
    };
    Trust { version: 5, witnesses: Witnesses::of((3..6).map(slot).collect(), 0), ..trust() }
}

/// The first with a limit of VMs.
fn counting() -> Trust {
    let limit = Amounts { vms: 3, ..size().into() };
    Trust { version: 6, quota: BTreeMap::from([(TenantId::default_tenant(), limit)]), ..trust() }
}

/// A budget of three VMs, of whose names one has left for another host.
fn delegate() -> Action {
    Action::Delegate { vms: 3, away: [JobId::new("web-1.db").unwrap()].into() }
}

fn offer(action: Action) -> Offer {
    Offer {
        host: host(HOST),
        id: id(7),
        job: job(),
        revision: Revision(1),
        spec: spec().digest(),
        action,
        resources: size(),
        tenant: TenantId::default_tenant(),
        plan: BTreeMap::new(),
        on_loss: OnLoss::Keep,
        trust_version: 4,
        agreed: None,
    }
}

fn lapsing() -> Offer {
    Offer { on_loss: OnLoss::Stop, trust_version: 5, ..offer(Action::Start) }
}

fn grant(offer: &Signed<Offer>, slot: u8, debit: impl Into<Amounts>) -> Signed<Grant> {
    let grant = Grant { slot: u32::from(slot), offer: offer.digest(), debit: debit.into() };
    Signed::seal(&grant, &key(ARBITER + slot))
}

fn message<T: Message>(name: &str, message: &T, signer: u8) -> MessageVector {
    let signed = Signed::seal(message, &key(signer));
    MessageVector {
        name: name.into(),
        domain: T::DOMAIN.into(),
        payload: serde_json::to_string(message).unwrap(),
        digest: signed.digest(),
        text: signed.to_string(),
        holds: true,
    }
}

fn messages() -> Vec<MessageVector> {
    let start = offer(Action::Start);
    let mut split = offer(Action::MigrateIn { from: host(OTHER_HOST), hold: id(2) });
    split.plan = BTreeMap::from([(0, size()), (2, Resources { vcpus: 1, ..size() })]);
    let sealed = Signed::seal(&start, &key(HOST));
    let yes = Grant { slot: 1, offer: sealed.digest(), debit: size().into() };
    let none = Grant { debit: Amounts { vms: 0, ..yes.debit }, ..yes.clone() };
    let used = Amounts::from(Resources { vcpus: 1, ..Resources::ZERO });
    let (tenant, limit, asked) = (TenantId::default_tenant(), used, size().into());
    let why = DenialReason::Quota { tenant, limit, used, asked, at_most: None, left: None };
    let handoff =
        Handoff { job: job(), from: host(OTHER_HOST), hold: id(2), to: host(HOST), to_hold: id(7) };
    let as_grant = MessageVector {
        name: "an offer passed off as a grant".into(),
        domain: Grant::DOMAIN.into(),
        holds: false,
        ..message("", &start, HOST)
    };
    vec![
        message("trust", &trust(), OPERATOR),
        message("offer to start", &start, HOST),
        message("offer to take over, with planned debits", &split, HOST),
        message("offer to resize", &offer(Action::Resize), HOST),
        message("grant", &yes, ARBITER + 1),
        message("denial", &Denial { slot: 1, offer: sealed.digest(), why }, ARBITER + 1),
        message("handoff", &handoff, OTHER_HOST),
        as_grant,
        message("trust with witnesses", &witnessed(), OPERATOR),
        message("offer of what may be lost", &lapsing(), HOST),
        message("trust with a limit of VMs", &counting(), OPERATOR),
        message("grant that books no VM", &none, ARBITER + 1),
        message("offer of a budget of three VMs", &offer(delegate()), HOST),
    ]
}

fn tickets() -> Vec<TicketVector> {
    let ticket = |change: &dyn Fn(&mut Offer), slots: &[u8], debit: Resources| {
        let mut offer = offer(Action::Start);
        change(&mut offer);
        let offer = Signed::seal(&offer, &key(HOST));
        let grants = slots.iter().map(|slot| grant(&offer, *slot, debit)).collect();
        Ticket { offer, grants }
    };
    let same = |_: &mut Offer| {};
    let half = Resources { vcpus: 1, ..size() };
    let mut forged = ticket(&same, &[0, 1], size());
    forged.offer = Signed::seal(&offer(Action::Start), &key(OTHER_HOST));
    let mut swapped = ticket(&same, &[0, 1], size());
    swapped.grants = ticket(&|o| o.id = id(8), &[0, 1], size()).grants;
    let mut split = ticket(&same, &[0], size());
    split.grants.extend(ticket(&same, &[1, 2], half).grants);
    let resize = ticket(&|o| o.action = Action::Resize, &[0, 1], size());
    let all = [
        ("two of three arbiters", "open", ticket(&same, &[0, 2], size())),
        ("all arbiters", "open", ticket(&same, &[0, 1, 2], size())),
        ("debits split over all arbiters", "open", split),
        ("debits of all arbiters that do not suffice", "open", ticket(&same, &[0, 1, 2], half)),
        ("a grant too few", "open", ticket(&same, &[1], size())),
        ("one arbiter twice", "open", ticket(&same, &[1, 1], size())),
        ("grants of another offer", "open", swapped),
        ("booked too little", "open", ticket(&same, &[0, 1], half)),
        ("signed by another host", "open", forged),
        ("for another host", "open", ticket(&|o| o.host = host(OTHER_HOST), &[0, 1], size())),
        ("for another revision", "open", ticket(&|o| o.revision = Revision(2), &[0, 1], size())),
        ("of other trust", "open", ticket(&|o| o.trust_version = 3, &[0, 1], size())),
        ("too late", "ended", ticket(&same, &[0, 1], size())),
        ("for the second time", "used", ticket(&same, &[0, 1], size())),
        ("from before a restart", "unknown", ticket(&same, &[0, 1], size())),
    ];
    let take = Purpose::Take;
    let taking = all.into_iter().map(|(name, standing, ticket)| (name, standing, take, ticket));
    let resizing = [
        ("to resize", "open", Purpose::Resize, resize.clone()),
        ("to resize, shown to start", "open", take, resize),
        ("to start, shown to resize", "open", Purpose::Resize, ticket(&same, &[0, 1], size())),
    ];
    let plain = taking.chain(resizing);
    let plain = plain.map(|(name, at, why, ticket)| judged(name, &trust(), (at, why), ticket));
    let stop = |slots: &[u8]| {
        let offer = Signed::seal(&lapsing(), &key(HOST));
        let debit = |slot: u8| if slot < 3 { size() } else { Resources::ZERO };
        let grants = slots.iter().map(|slot| grant(&offer, *slot, debit(*slot))).collect();
        Ticket { offer, grants }
    };
    let kept = ticket(&|o| o.trust_version = 5, &[0, 1, 3, 4], size());
    let with_witnesses = [
        ("by two of three arbiters and two of three witnesses", stop(&[0, 2, 3, 5])),
        ("by arbiters alone", stop(&[0, 1, 2])),
        ("by witnesses alone", stop(&[3, 4, 5])),
        ("a witness too few", stop(&[0, 1, 2, 4])),
        ("of a kept job, which needs no witness", kept),
    ];
    let with_witnesses = with_witnesses.into_iter();
    let counted = |vms: [u32; 3]| {
        let offer = Offer { trust_version: 6, ..offer(Action::Start) };
        let offer = Signed::seal(&offer, &key(HOST));
        let debit = |vms| Amounts { vms, ..size().into() };
        let grants = (0..).zip(vms).map(|(slot, vms)| grant(&offer, slot, debit(vms)));
        Ticket { grants: grants.collect(), offer }
    };
    let with_vms = [
        ("two of three book the VM", counted([1, 0, 1])),
        (
            "one books the VM, and one says nothing of it, which is the same",
            counted([1, 0, VMS_ANY]),
        ),
        ("one of three books the VM", counted([0, 1, 0])),
    ];
    let with_vms = with_vms.into_iter();
    let delegated = |vms: [u32; 2]| {
        let offer = Offer { trust_version: 6, ..offer(delegate()) };
        let offer = Signed::seal(&offer, &key(HOST));
        let debit = |vms| Amounts { vms, ..size().into() };
        let grants = (0..).zip(vms).map(|(slot, vms)| grant(&offer, slot, debit(vms)));
        Ticket { grants: grants.collect(), offer }
    };
    let budgets = [
        ("for a budget", Purpose::Delegate, delegated([3, VMS_ANY])),
        ("for a budget of which too few VMs are booked", Purpose::Delegate, delegated([3, 2])),
        (
            "for a budget, with a grant of more VMs than it has",
            Purpose::Delegate,
            delegated([3, 4]),
        ),
        ("for a budget, shown to start", Purpose::Take, delegated([3, 3])),
    ];
    let budgets =
        budgets.map(|(name, purpose, ticket)| judged(name, &counting(), ("open", purpose), ticket));
    let at = ("open", Purpose::Take);
    plain
        .chain(with_witnesses.map(|(name, ticket)| judged(name, &witnessed(), at, ticket)))
        .chain(with_vms.map(|(name, ticket)| judged(name, &counting(), at, ticket)))
        .chain(budgets)
        .collect()
}

fn judged(
    name: &str,
    trust: &Trust,
    (standing, purpose): (&str, Purpose),
    ticket: Ticket,
) -> TicketVector {
    let mut vector = TicketVector {
        name: name.into(),
        trust: Signed::seal(trust, &key(OPERATOR)),
        host: key(HOST).public(),
        job: job(),
        revision: Revision(1),
        spec: spec().digest(),
        resources: size(),
        standing: standing.into(),
        purpose,
        ticket,
        verdict: String::new(),
        debits: BTreeMap::new(),
    };
    (vector.verdict, vector.debits) = verdict(&vector);
    vector
}

/// What the code says of a vector, from nothing but what is in it.
fn verdict(vector: &TicketVector) -> (String, BTreeMap<u32, Amounts>) {
    let standing = match vector.standing.as_str() {
        "open" => OfferStanding::Open { left_ms: 7_000 },
        "ended" => OfferStanding::Ended,
        "used" => OfferStanding::Used,
        "unknown" => OfferStanding::Unknown,
        other => panic!("standing {other:?} is none of open, ended, used, unknown"),
    };
    let expected = Expected {
        host: &HostId::of(&vector.host),
        host_key: &vector.host,
        job: &vector.job,
        revision: vector.revision,
        spec: vector.spec,
        resources: vector.resources,
        purpose: vector.purpose,
        agreed: None,
    };
    let trust = vector.trust.open().unwrap();
    match verify(Some(&vector.ticket), expected, &trust, |_| standing) {
        Ok(verified) => ("ok".into(), verified.debits().clone()),
        Err(error) => (error.name().into(), BTreeMap::new()),
    }
}

fn today() -> Vectors {
    let named = [
        ("host", HOST),
        ("other host", OTHER_HOST),
        ("arbiter of slot 0", ARBITER),
        ("arbiter of slot 1", ARBITER + 1),
        ("arbiter of slot 2", ARBITER + 2),
        ("witness of slot 3", ARBITER + 3),
        ("witness of slot 4", ARBITER + 4),
        ("witness of slot 5", ARBITER + 5),
        ("operator", OPERATOR),
    ];
    let key_of = |(name, n): (&str, u8)| KeyVector {
        name: name.into(),
        seed_hex: HEXLOWER.encode(&key(n).seed()),
        public: key(n).public(),
        host: host(n),
    };
    let json = serde_json::to_string(&spec()).unwrap();
    Vectors {
        keys: named.into_iter().map(key_of).collect(),
        specs: vec![SpecVector { json, digest: spec().digest() }],
        messages: messages(),
        tickets: tickets(),
    }
}

fn committed() -> Vectors {
    if std::env::var_os("OSTLER_WRITE_VECTORS").is_some() {
        let text = serde_json::to_string_pretty(&today()).unwrap() + "\n";
        std::fs::write(FILE, text).unwrap();
    }
    serde_json::from_str(&std::fs::read_to_string(FILE).unwrap()).unwrap()
}

fn holds(vector: &MessageVector) -> bool {
    fn opens<T: Message>(text: &str) -> bool {
        text.parse::<Signed<T>>().is_ok_and(|signed| signed.open().is_ok())
    }
    match vector.domain.as_str() {
        "trust" => opens::<Trust>(&vector.text),
        "offer" => opens::<Offer>(&vector.text),
        "grant" => opens::<Grant>(&vector.text),
        "denial" => opens::<Denial>(&vector.text),
        "handoff" => opens::<Handoff>(&vector.text),
        other => panic!("no message is called {other:?}"),
    }
}

#[test]
fn committed_vectors_are_what_is_signed_today() {
    let (committed, today) = (committed(), today());
    assert_eq!(committed.keys, today.keys);
    assert_eq!(committed.specs, today.specs);
    assert_eq!(committed.messages, today.messages);
    assert_eq!(committed.tickets, today.tickets);
}

#[test]
fn committed_messages_hold_or_not_as_they_say() {
    for vector in committed().messages {
        assert_eq!(holds(&vector), vector.holds, "{}", vector.name);
    }
}

#[test]
fn committed_tickets_have_the_verdict_they_say() {
    let good = committed().tickets.into_iter().filter(|vector| vector.verdict == "ok");
    let good: Vec<String> = good.map(|vector| vector.name).collect();
    let expected = [
        "two of three arbiters",
        "all arbiters",
        "debits split over all arbiters",
        "to resize",
        "by two of three arbiters and two of three witnesses",
        "of a kept job, which needs no witness",
        "two of three book the VM",
        "one books the VM, and one says nothing of it, which is the same",
        "for a budget",
    ];
    assert_eq!(good, expected);
    for vector in committed().tickets {
        let (said, debits) = verdict(&vector);
        assert_eq!((&said, &debits), (&vector.verdict, &vector.debits), "{}", vector.name);
    }
}

/// docs/schema/policy.json against the types; `OSTLER_BLESS=1 cargo test -p protocol --test vectors` writes it anew.
#[test]
fn committed_schema_of_policies_is_what_the_types_say() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schema/policy.json");
    let mut schema = schemars::schema_for!(protocol::trust::Policy).to_value();
    schema["$id"] = "policy.json".into();
    schema["title"] =
        "What tenants' VMs may be like, on which hosts, and when they are started".into();
    let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    if std::env::var_os("OSTLER_BLESS").is_some() {
        std::fs::write(file, &text).unwrap();
    }
    let committed = std::fs::read_to_string(file).unwrap();
    assert!(committed == text, "docs/schema/policy.json is not what the types say");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schema/examples/policy.json");
    let example = std::fs::read_to_string(example).unwrap();
    let policy: protocol::trust::Policy = serde_json::from_str(&example).unwrap();
    assert_eq!(policy.validate(), Ok(()));
    assert!(policy.default.is_some() && !policy.tenants.is_empty());
}
