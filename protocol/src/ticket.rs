//! Tickets: a host's offer and a quorum of arbiters' grants, and the one function that checks them.
//!
//! Implements the messages and the host's side of R8 and R9 of the tenure protocol as far as they
//! are arithmetic: what must be true of the bytes. When the host issued the offer and whether it
//! ended is the host's own memory ([`OfferStanding`]), because freshness is host-relative: an
//! offer carries no time. Signing a grant, and the books behind it, are the arbiter's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::amounts::Amounts;
use crate::budget::Delegated;
use crate::id::{HostId, JobId, OfferId, Revision, TenantId};
use crate::resources::Resources;
use crate::signed::{Digest, Message, PublicKey, Signed, SignedError};
use crate::trust::{Closed, Seat, StartRate, Trust, span_words, times};
use crate::vm::OnLoss;

/// What a ticket permits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Start the job, or start it again with another revision.
    Start,
    /// Start it in place of a hold that was lost. Granted only while nobody has been promised the job
    /// since, so that an old view brings nothing back that was ended or deleted meanwhile.
    FailOver {
        /// The host where it ran.
        from: HostId,
        /// The hold under which it ran there.
        hold: OfferId,
    },
    /// Take it over from a host where it runs (rule M1).
    MigrateIn {
        /// The host where it runs.
        from: HostId,
        /// The hold under which it runs there.
        hold: OfferId,
    },
    /// Let it have another size where it is; the new hold replaces the one it has (rule R9).
    Resize,
    /// Have a budget of its tenant's quota there, or another size of the one that is there.
    Delegate {
        /// How many VMs it is for.
        vms: u32,
        /// Names that it owns and will never start.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        away: BTreeSet<JobId>,
    },
}

/// What a request does with a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// It takes the job: it starts it, or receives it.
    Take,
    /// It gives a job that is there another size.
    Resize,
    /// It makes a budget, or gives it another size.
    Delegate,
}

impl Action {
    /// What it permits.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        match self {
            Action::Start | Action::MigrateIn { .. } | Action::FailOver { .. } => Purpose::Take,
            Action::Resize => Purpose::Resize,
            Action::Delegate { .. } => Purpose::Delegate,
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Purpose::Take => "take the job",
            Purpose::Resize => "resize it",
            Purpose::Delegate => "have a budget",
        })
    }
}

/// A host's signed, single-use invitation to be granted a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Offer {
    /// Who offers.
    pub host: HostId,
    /// Its number; never repeated by that host.
    pub id: OfferId,
    /// The job.
    pub job: JobId,
    /// Which change of it.
    pub revision: Revision,
    /// Digest of the spec, so that a ticket for one size is none for another.
    pub spec: Digest,
    /// What is permitted.
    #[serde(flatten)]
    pub action: Action,
    /// How much it takes.
    pub resources: Resources,
    /// Whose quota.
    pub tenant: TenantId,
    /// Whether the host kills the job when it is not covered, so that a promise of it may lapse.
    #[serde(default, skip_serializing_if = "is_keep")]
    pub on_loss: OnLoss,
    /// How much each arbiter slot is asked to book. Between zero and `resources`.
    pub plan: BTreeMap<u32, Resources>,
    /// The trust document the host obeyed when it signed.
    pub trust_version: u64,
    /// The change of arbiters that the host has agreed to: it takes a ticket only with a quorum of
    /// those in force and of those who are to follow them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreed: Option<Digest>,
}

/// A hold, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HoldAt {
    /// The host.
    pub host: HostId,
    /// The hold.
    pub hold: OfferId,
}

/// Left away in JSON, so that an offer of a job that is kept reads as ever.
fn is_keep(on_loss: &OnLoss) -> bool {
    *on_loss == OnLoss::Keep
}

impl Offer {
    /// What it takes of its tenant's quota: one VM, unless it is for a budget of several.
    #[must_use]
    pub fn takes(&self) -> Amounts {
        match self.action {
            Action::Delegate { vms, .. } => Amounts { vms, ..self.resources.into() },
            Action::Start | Action::FailOver { .. } | Action::MigrateIn { .. } | Action::Resize => {
                Amounts::of_vm(self.resources)
            }
        }
    }

    /// What arbiters remember of it beside its size, if it is for a budget.
    #[must_use]
    pub fn delegated(&self) -> Option<Delegated> {
        match &self.action {
            Action::Delegate { vms, away } => Some(Delegated { vms: *vms, away: away.clone() }),
            Action::Start | Action::FailOver { .. } | Action::MigrateIn { .. } | Action::Resize => {
                None
            }
        }
    }
}

impl Message for Offer {
    const DOMAIN: &'static str = "offer";
}

/// One arbiter's signed yes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Grant {
    /// Its slot.
    pub slot: u32,
    /// The offer, by the digest of its signed bytes.
    pub offer: Digest,
    /// What it has booked.
    pub debit: Amounts,
}

impl Message for Grant {
    const DOMAIN: &'static str = "grant";
}

/// One arbiter's signed no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Denial {
    /// Its slot.
    pub slot: u32,
    /// The offer, by the digest of its signed bytes.
    pub offer: Digest,
    /// Why not.
    #[serde(flatten)]
    pub why: DenialReason,
}

impl Message for Denial {
    const DOMAIN: &'static str = "denial";
}

/// Why an arbiter said no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[serde(tag = "denial", rename_all = "snake_case")]
pub enum DenialReason {
    /// It has just started and may have forgotten promises (rule R1).
    #[error("the arbiter has just started and stays silent for {for_ms} ms more")]
    Silent {
        /// How much longer.
        for_ms: u64,
    },
    /// Its books are not complete yet (rule R2).
    #[error("the arbiter has not heard from {missing} hosts since it started")]
    Rebuilding {
        /// How many hosts have not reported.
        missing: u32,
    },
    /// The job is promised to another host.
    #[error("the job is promised to host {host}")]
    Promised {
        /// The other host.
        host: HostId,
        /// Its offer or hold.
        id: OfferId,
        /// How much longer at least, in milliseconds, if the promise lapses by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_ms: Option<u64>,
    },
    /// The hold in whose place the job was asked for is not the last that was promised.
    #[error("hold {} of host {} is not the last promise of this job that the arbiter knows of", .hold.hold, .hold.host)]
    NotTheLast {
        /// The hold.
        hold: HoldAt,
    },
    /// Its host has struck the offer off: it took too long, or was withdrawn.
    #[error("offer {id} of host {host} has ended; ask the host for a new one")]
    OfferEnded {
        /// The host.
        host: HostId,
        /// Its offer.
        id: OfferId,
    },
    /// The tenant has no more.
    #[error("tenant {tenant} has a limit of {limit}, {used} is promised, {asked} was asked for{}", .at_most.as_ref().map(|most| format!("; at most {most} would fit")).unwrap_or_default())]
    Quota {
        /// The tenant.
        tenant: TenantId,
        /// Its limit.
        limit: Amounts,
        /// What is promised of it, as far as this arbiter knows.
        used: Amounts,
        /// What the job takes.
        asked: Amounts,
        /// What this job could have in all, next to the tenant's others, if each arbiter still had
        /// its part of that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at_most: Option<Box<Amounts>>,
        /// What this arbiter could book for the job in all. None of an arbiter of before debits were
        /// split, which means its own part with all the other numbers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        left: Option<Box<Amounts>>,
    },
    /// It is no time to start the tenant's VMs, or to give them a larger size.
    #[error("policy of {}: start_windows: {closed}", of_whom(tenant, *is_default))]
    Window {
        /// The tenant.
        tenant: TenantId,
        /// Whether the rule is that of every tenant without rules of its own.
        is_default: bool,
        /// When it is time, what time it is by this arbiter's clock, and when the next window opens.
        closed: Box<Closed>,
    },
    /// As many of the tenant's VMs were started lately as may be.
    #[error("policy of {}: start_rate: {limit}, and no more for now{}", of_whom(tenant, *is_default), wait_words(*for_ms))]
    Rate {
        /// The tenant.
        tenant: TenantId,
        /// Whether the rule is that of every tenant without rules of its own.
        is_default: bool,
        /// How many starts, in how long.
        limit: StartRate,
        /// This arbiter's part of them.
        part: u32,
        /// What of its part counts as used: what it has granted, or all of it for as long as it may have
        /// granted what it has forgotten.
        used: u32,
        /// How much longer until one more is left, in milliseconds; `None`: not before the policy, or who is
        /// an arbiter, changes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_ms: Option<u64>,
    },
    /// Host and arbiter obey different trust documents.
    #[error("the offer was made under trust version {offered}, the arbiter obeys version {here}")]
    OtherTrust {
        /// The host's.
        offered: u64,
        /// The arbiter's.
        here: u64,
    },
    /// The offer is not signed by a host of this cluster, or makes no sense.
    #[error("{message}")]
    Policy {
        /// What is wrong and what would be right.
        message: String,
    },
}

fn of_whom(tenant: &TenantId, is_default: bool) -> String {
    format!("tenant {tenant}{}", if is_default { ", which is the default one" } else { "" })
}

fn wait_words(for_ms: Option<u64>) -> String {
    for_ms.map(|for_ms| format!("; the next in {}", span_words(for_ms))).unwrap_or_default()
}

impl DenialReason {
    /// The word for it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            DenialReason::Silent { .. } => "silent",
            DenialReason::Rebuilding { .. } => "rebuilding",
            DenialReason::Promised { .. } => "promised",
            DenialReason::NotTheLast { .. } => "not_the_last",
            DenialReason::OfferEnded { .. } => "offer_ended",
            DenialReason::Quota { .. } => "quota",
            DenialReason::Window { .. } => "window",
            DenialReason::Rate { .. } => "rate",
            DenialReason::OtherTrust { .. } => "other_trust",
            DenialReason::Policy { .. } => "policy",
        }
    }
}

/// An arbiter's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Yes.
    Grant(Signed<Grant>),
    /// No.
    Denial(Signed<Denial>),
}

/// Offer and grants together: the permission a host redeems once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    /// The host's offer.
    pub offer: Signed<Offer>,
    /// Arbiters' grants, in any order.
    pub grants: Vec<Signed<Grant>>,
}

/// The source's signed word that it has let go of a job (rule M3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Handoff {
    /// The job.
    pub job: JobId,
    /// Who lets go.
    pub from: HostId,
    /// The hold it has closed.
    pub hold: OfferId,
    /// Who may run it now.
    pub to: HostId,
    /// Under which hold.
    pub to_hold: OfferId,
}

impl Message for Handoff {
    const DOMAIN: &'static str = "handoff";
}

/// What a host remembers of one of its own offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfferStanding {
    /// Open, for this much longer.
    Open {
        /// Milliseconds left on the host's clock.
        left_ms: u64,
    },
    /// Its time is over, or it was voided.
    Ended,
    /// Redeemed already.
    Used,
    /// Of an earlier life of the agent, or never issued.
    Unknown,
}

/// What a ticket must be for, to be of use in one request.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The host that is asked.
    pub host: &'a HostId,
    /// The host's key.
    pub host_key: &'a PublicKey,
    /// The job in the request.
    pub job: &'a JobId,
    /// The revision in the request.
    pub revision: Revision,
    /// Digest of the spec in the request.
    pub spec: Digest,
    /// What the spec takes.
    pub resources: Resources,
    /// What the request does.
    pub purpose: Purpose,
    /// The change of arbiters that the host has agreed to.
    pub agreed: Option<Digest>,
}

/// Why a ticket does not permit what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[serde(tag = "ticket_error", rename_all = "kebab-case")]
pub enum TicketError {
    /// There is none, and this host obeys a trust document.
    #[error(
        "this host starts or resizes nothing without a ticket: ask it for an offer and the arbiters for grants"
    )]
    TicketMissing,
    /// It is not what it says it is.
    #[error("ticket is not genuine: {why}")]
    TicketForged {
        /// Which signature or text is wrong.
        why: String,
    },
    /// It was offered by another host.
    #[error("ticket is for host {offered}, this is host {here}")]
    TicketForOtherHost {
        /// The host in the ticket.
        offered: HostId,
        /// This host.
        here: HostId,
    },
    /// It is for another job.
    #[error("ticket is for job {offered}, the request is for job {asked}")]
    TicketForOtherJob {
        /// The job in the ticket.
        offered: JobId,
        /// The job in the request.
        asked: JobId,
    },
    /// It is for another size, or another change of the spec.
    #[error(
        "ticket is for revision {offered_revision} with {offered}; the request is revision {asked_revision} with {asked}"
    )]
    TicketForOtherSpec {
        /// The size in the ticket.
        offered: Resources,
        /// The revision in the ticket.
        offered_revision: Revision,
        /// The size in the request.
        asked: Resources,
        /// The revision in the request.
        asked_revision: Revision,
    },
    /// It is for something else that is done to a job.
    #[error("ticket is good to {offered}, the request would {asked}; ask for an offer for that")]
    TicketForOtherAction {
        /// What it permits.
        offered: Purpose,
        /// What was asked.
        asked: Purpose,
    },
    /// The offer's time is over.
    #[error("offer {offer} has ended; ask for a new one")]
    OfferEnded {
        /// Which.
        offer: OfferId,
    },
    /// It was redeemed before.
    #[error("offer {offer} was redeemed already; a ticket works once")]
    OfferUsed {
        /// Which.
        offer: OfferId,
    },
    /// The agent does not remember making it: it has restarted since.
    #[error("offer {offer} was not made in this life of the agent; ask for a new one")]
    OfferUnknown {
        /// Which.
        offer: OfferId,
    },
    /// Too few arbiters have said yes.
    #[error("ticket has grants of {have} arbiters, {need} are needed{}", .ignored.iter().map(|w| format!("; ignored: {w}")).collect::<String>())]
    TicketWithoutQuorum {
        /// Different slots with a good grant.
        have: u32,
        /// Slots needed.
        need: u32,
        /// Why other grants did not count.
        ignored: Vec<String>,
    },
    /// Too few witnesses have said yes to a job that may be lost.
    #[error("ticket has grants of {have} witnesses, {need} are needed{}", .ignored.iter().map(|w| format!("; ignored: {w}")).collect::<String>())]
    TicketWithoutWitnesses {
        /// Different slots with a good grant.
        have: u32,
        /// Slots needed.
        need: u32,
        /// Why other grants did not count.
        ignored: Vec<String>,
    },
    /// The arbiters booked less than k times what the job takes (rule R9).
    #[error("arbiters have booked {booked} in all, {needed} are needed")]
    TicketUnderbooked {
        /// The sum of the debits.
        booked: Amounts,
        /// k times the job's size; VMs are told where they are what is missing.
        needed: Amounts,
    },
    /// It was made under another trust document.
    #[error("ticket was made under trust version {offered}, this host obeys version {here}")]
    TicketOfOtherTrust {
        /// The version in the ticket.
        offered: u64,
        /// The version in force.
        here: u64,
    },
}

impl TicketError {
    /// The word for it in a problem's `type`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            TicketError::TicketMissing => "ticket-missing",
            TicketError::TicketForged { .. } => "ticket-forged",
            TicketError::TicketForOtherHost { .. } => "ticket-for-other-host",
            TicketError::TicketForOtherJob { .. } => "ticket-for-other-job",
            TicketError::TicketForOtherSpec { .. } => "ticket-for-other-spec",
            TicketError::TicketForOtherAction { .. } => "ticket-for-other-action",
            TicketError::OfferEnded { .. } => "offer-ended",
            TicketError::OfferUsed { .. } => "offer-used",
            TicketError::OfferUnknown { .. } => "offer-unknown",
            TicketError::TicketWithoutQuorum { .. } => "ticket-without-quorum",
            TicketError::TicketWithoutWitnesses { .. } => "ticket-without-witnesses",
            TicketError::TicketUnderbooked { .. } => "ticket-underbooked",
            TicketError::TicketOfOtherTrust { .. } => "ticket-of-other-trust",
        }
    }
}

impl From<SignedError> for TicketError {
    fn from(error: SignedError) -> Self {
        TicketError::TicketForged { why: error.to_string() }
    }
}

/// A ticket that permits exactly what was asked, now, here. Only [`verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedTicket {
    offer: Offer,
    debits: BTreeMap<u32, Amounts>,
}

impl VerifiedTicket {
    /// The offer that it redeems.
    #[must_use]
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// What each arbiter that counted has booked; kept in the hold.
    #[must_use]
    pub fn debits(&self) -> &BTreeMap<u32, Amounts> {
        &self.debits
    }
}

/// Checks a ticket against a request, the host's memory of its offers, and the trust in force
/// (rule R9). `standing` is asked only for offers that this host has really signed.
pub fn verify(
    ticket: Option<&Ticket>,
    expected: Expected<'_>,
    trust: &Trust,
    standing: impl FnOnce(OfferId) -> OfferStanding,
) -> Result<VerifiedTicket, TicketError> {
    let ticket = ticket.ok_or(TicketError::TicketMissing)?;
    let offer = ticket.offer.open()?;
    check_addressee(&offer, expected)?;
    if ticket.offer.key() != *expected.host_key {
        return Err(TicketError::TicketForged {
            why: format!("offer names this host but is signed by {}", ticket.offer.key()),
        });
    }
    match standing(offer.id) {
        OfferStanding::Open { .. } => {}
        OfferStanding::Ended => return Err(TicketError::OfferEnded { offer: offer.id }),
        OfferStanding::Used => return Err(TicketError::OfferUsed { offer: offer.id }),
        OfferStanding::Unknown => return Err(TicketError::OfferUnknown { offer: offer.id }),
    }
    if offer.trust_version != trust.version {
        return Err(TicketError::TicketOfOtherTrust {
            offered: offer.trust_version,
            here: trust.version,
        });
    }
    let debits = count_grants(ticket, &offer, trust, expected.agreed)?;
    Ok(VerifiedTicket { offer, debits })
}

fn check_addressee(offer: &Offer, expected: Expected<'_>) -> Result<(), TicketError> {
    if offer.host != *expected.host {
        return Err(TicketError::TicketForOtherHost {
            offered: offer.host.clone(),
            here: expected.host.clone(),
        });
    }
    if offer.job != *expected.job {
        return Err(TicketError::TicketForOtherJob {
            offered: offer.job.clone(),
            asked: expected.job.clone(),
        });
    }
    if offer.revision != expected.revision
        || offer.spec != expected.spec
        || offer.resources != expected.resources
    {
        return Err(TicketError::TicketForOtherSpec {
            offered: offer.resources,
            offered_revision: offer.revision,
            asked: expected.resources,
            asked_revision: expected.revision,
        });
    }
    let (offered, asked) = (offer.action.purpose(), expected.purpose);
    if offered != asked {
        return Err(TicketError::TicketForOtherAction { offered, asked });
    }
    Ok(())
}

/// The grants that count, one a slot; of each committee that counts for the host at least k of them,
/// and of arbiters Σ debits ≥ k·r. What may be lost needs witnesses as well, where there are any; they
/// book nothing.
fn count_grants(
    ticket: &Ticket,
    offer: &Offer,
    trust: &Trust,
    agreed: Option<Digest>,
) -> Result<BTreeMap<u32, Amounts>, TicketError> {
    let digest = ticket.offer.digest();
    let size = offer.takes();
    let mut debits = BTreeMap::new();
    let mut ignored = Vec::new();
    for grant in &ticket.grants {
        match check_grant(grant, digest, offer, trust) {
            Ok(grant) => {
                debits.insert(grant.slot, grant.debit);
            }
            Err(why) => ignored.push(why),
        }
    }
    let slots: BTreeSet<u32> = debits.keys().copied().collect();
    for committee in trust.committees(agreed) {
        let (have, need) = (committee.count(&slots), committee.k);
        if have < need {
            return Err(TicketError::TicketWithoutQuorum { have, need, ignored });
        }
        let of_it = debits.iter().filter(|(slot, _)| committee.has(**slot));
        let booked = of_it.fold(Amounts::ZERO, |sum, (_, debit)| sum.plus(debit.min(size)));
        let needed = times(need, size);
        if !needed.fits_in(booked) {
            let is_told = booked.vms < needed.vms;
            let told = |amounts: Amounts| match is_told {
                true => amounts,
                false => amounts.resources().into(),
            };
            let (booked, needed) = (told(booked), told(needed));
            return Err(TicketError::TicketUnderbooked { booked, needed });
        }
    }
    let witnesses = trust.councils(agreed).filter_map(|council| council.witnesses);
    for committee in witnesses.filter(|_| offer.on_loss == OnLoss::Stop) {
        let (have, need) = (committee.count(&slots), committee.k);
        if have < need {
            return Err(TicketError::TicketWithoutWitnesses { have, need, ignored });
        }
    }
    Ok(debits)
}

fn check_grant(
    signed: &Signed<Grant>,
    digest: Digest,
    offer: &Offer,
    trust: &Trust,
) -> Result<Grant, String> {
    let grant = signed.open().map_err(|e| e.to_string())?;
    let (seat, slot) =
        trust.seat(&signed.key()).ok_or_else(|| format!("key {} is no arbiter's", signed.key()))?;
    if slot.slot != grant.slot {
        return Err(format!("{seat} of slot {} signed for slot {}", slot.slot, grant.slot));
    }
    if grant.offer != digest {
        return Err(format!("slot {} granted another offer", grant.slot));
    }
    let size = offer.takes().told_by(grant.debit);
    if !grant.debit.fits_in(size) {
        return Err(format!("slot {} booked more than the job takes", grant.slot));
    }
    match (seat, offer.on_loss) {
        (Seat::Arbiter, _) => Ok(grant),
        // Its cover counts from now on, and nothing that it may say of a quota.
        (Seat::Witness, OnLoss::Stop) => Ok(Grant { debit: Resources::ZERO.into(), ..grant }),
        (Seat::Witness, OnLoss::Keep) => {
            Err(format!("slot {} is a witness, of which a kept job needs none", grant.slot))
        }
    }
}

/// One of each ticket error, for [`crate::refusal::examples`].
pub(crate) fn error_examples(host: &HostId, job: &JobId, offer: OfferId) -> Vec<TicketError> {
    let (one, two) =
        (Resources { vcpus: 1, ..Resources::ZERO }, Resources { vcpus: 2, ..Resources::ZERO });
    vec![
        TicketError::TicketMissing,
        TicketError::TicketForged { why: "signature does not hold".into() },
        TicketError::TicketForOtherHost { offered: host.clone(), here: host.clone() },
        TicketError::TicketForOtherJob { offered: job.clone(), asked: job.clone() },
        TicketError::TicketForOtherSpec {
            offered: one,
            offered_revision: Revision(1),
            asked: two,
            asked_revision: Revision(1),
        },
        TicketError::TicketForOtherAction { offered: Purpose::Resize, asked: Purpose::Take },
        TicketError::OfferEnded { offer },
        TicketError::OfferUsed { offer },
        TicketError::OfferUnknown { offer },
        TicketError::TicketWithoutQuorum { have: 1, need: 2, ignored: vec![] },
        TicketError::TicketWithoutWitnesses { have: 1, need: 2, ignored: vec![] },
        TicketError::TicketUnderbooked { booked: one.into(), needed: two.into() },
        TicketError::TicketOfOtherTrust { offered: 1, here: 2 },
    ]
}

#[cfg(test)]
mod tests;
