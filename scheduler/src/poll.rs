//! Asking arbiters for grants: whom next, for how much, and what their answers come to. Pure; sending
//! is the executor's.
//!
//! They are asked in slot order, the first reachable one alone first: of two rivals for a job only one
//! gets past it, so that they do not split the rest between them. While the arbiters are being changed,
//! a host that has agreed needs a quorum of those in force and one of those who follow; who is in both
//! counts for both. A job that may be lost needs a quorum of the witnesses beside them, too, where there are
//! any; they book nothing, so they are asked for a yes alone, in the order of slots as well, and once the arbiters
//! have said yes: of two rivals who split the arbiters neither takes a witness from the other.
//!
//! Where the tenant has a limit, each is first asked what it could book, and then for its part of a
//! plan ([`crate::spread`]). Rivals may be faster: a no says what is left, and the rest is planned anew.
//! Without a limit debits do not matter, and a quorum books the whole size.
//!
//! Where it is limited how many VMs the tenant may start within a time, a start is one of those as well, and as a
//! VM is booked: k arbiters book the one, and each of them has one start less. The others book none of it.

use std::collections::{BTreeMap, BTreeSet};

use protocol::amounts::Amounts;
use protocol::api::{StartsRoom, TenantRoom};
use protocol::signed::{Digest, Signed};
use protocol::ticket::{Action, Answer as ArbiterAnswer, DenialReason, Grant, Offer};
use protocol::trust::{Committee, Seat, Slot, Trust};
use protocol::vm::OnLoss;

use crate::judge::{is_firm, is_taken_over};
use crate::run::{Answer, No};
use crate::spread::{Ladle, largest, spread};
use crate::task::TaskResult;

/// How often one arbiter is asked about one offer: rivals may change a plan a few times, and then they
/// are better left alone for a while.
const ASKS_MAX: u32 = 4;

/// One offer being shown to arbiters.
#[derive(Debug)]
pub struct Poll<'a> {
    trust: &'a Trust,
    signed: &'a Signed<Offer>,
    offer: Option<Offer>,
    /// Why these arbiters are no use for this offer, by the document known here.
    unfit: Option<String>,
    arbiters: Vec<Slot>,
    /// Those, and after them the witnesses whose yes is needed, in the order of their slots.
    all: Vec<Slot>,
    how: How,
    grants: BTreeMap<u32, (Signed<Grant>, Amounts)>,
    denials: BTreeMap<u32, DenialReason>,
    silent: BTreeMap<u32, String>,
    asks: BTreeMap<u32, u32>,
}

/// How much each is asked to book.
#[derive(Debug)]
enum How {
    /// The whole size.
    Whole,
    /// What each can spare.
    Spread(Spread),
    /// So much.
    Fixed(BTreeMap<u32, Amounts>),
}

#[derive(Debug, Default)]
struct Spread {
    ladles: BTreeMap<u32, Ladle>,
    rooms: BTreeMap<u32, TenantRoom>,
    /// Somebody was faster.
    has_rivals: bool,
}

/// Why an arbiter has not said what it could book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRoom {
    /// It has answered, and knows no such question: it is of before debits were split.
    Unknown,
    /// It has not answered.
    Silent(String),
}

impl<'a> Poll<'a> {
    /// Nobody was asked yet.
    #[must_use]
    pub fn of(trust: &'a Trust, signed: &'a Signed<Offer>) -> Self {
        let offer = signed.open().ok();
        let agreed = offer.as_ref().and_then(|offer| offer.agreed);
        let unfit = (agreed.is_some() && agreed != trust.change()).then(|| {
            format!(
                "the host's arbiters are being changed, which version {} does not know",
                trust.version
            )
        });
        let arbiters = match agreed {
            Some(_) => trust.members(),
            None => {
                let mut arbiters = trust.arbiters.clone();
                arbiters.sort_by_key(|arbiter| arbiter.slot);
                arbiters
            }
        };
        let witnesses = offer.iter().flat_map(|offer| witness_committees(trust, offer));
        let mut witnesses: Vec<Slot> =
            witnesses.flat_map(|committee| committee.members).cloned().collect();
        witnesses.sort_by_key(|member| member.slot);
        witnesses.dedup_by_key(|member| member.slot);
        let all = arbiters.iter().chain(&witnesses).cloned().collect();
        let is_limited = offer.as_ref().is_some_and(|offer| {
            let has_limit = trust.quota.contains_key(&offer.tenant) || is_rated(trust, offer);
            has_limit && size_of(trust, offer) != Amounts::ZERO
        });
        let how = if is_limited { How::Spread(Spread::default()) } else { How::Whole };
        Self {
            trust,
            signed,
            offer,
            unfit,
            arbiters,
            all,
            how,
            grants: BTreeMap::new(),
            denials: BTreeMap::new(),
            silent: BTreeMap::new(),
            asks: BTreeMap::new(),
        }
    }

    /// The same, with debits that are planned already.
    #[must_use]
    pub fn with_debits(
        trust: &'a Trust,
        signed: &'a Signed<Offer>,
        debits: BTreeMap<u32, Amounts>,
    ) -> Self {
        Self { how: How::Fixed(debits), ..Self::of(trust, signed) }
    }

    /// Whom to ask what they could book, before anybody is asked for a grant.
    #[must_use]
    pub fn rooms_to_ask(&self) -> Vec<Slot> {
        match (&self.how, &self.unfit) {
            (How::Spread(_), None) => self.arbiters.clone(),
            _ => Vec::new(),
        }
    }

    /// What that one could book, or why it does not say.
    pub fn take_room(&mut self, slot: u32, room: Result<TenantRoom, NoRoom>) {
        let (size, is_rated) = (self.size(), self.is_rated());
        let How::Spread(how) = &mut self.how else { return };
        self.silent.remove(&slot);
        match room {
            Ok(room) => {
                let ladle = how.ladles.entry(slot).or_default();
                (ladle.left, ladle.has) = (room.left, room.has);
                if let Some(starts) = room.starts.filter(|_| is_rated) {
                    // Whatever the job has: a start is one more.
                    ladle.left.vms = ladle.left.vms.min(starts.left());
                    ladle.has.vms = 0;
                }
                how.rooms.insert(slot, room);
            }
            // It books the whole size or nothing.
            Err(NoRoom::Unknown) => {
                let ladle = how.ladles.entry(slot).or_default();
                (ladle.left, ladle.has) = (size, size);
            }
            Err(NoRoom::Silent(why)) => {
                how.ladles.remove(&slot);
                how.rooms.remove(&slot);
                self.silent.insert(slot, format!("arbiter {slot}: {why}"));
            }
        }
    }

    /// Whether what arbiters could book is not enough, so that it is worth asking them again after they
    /// have asked hosts.
    #[must_use]
    pub fn is_short(&self) -> bool {
        matches!(self.how, How::Spread(_)) && self.plan().is_none()
    }

    /// Whether it would fit into the tenant's limit, and yet not into what the arbiters have left of it:
    /// all have answered, and other jobs have used their parts up unevenly.
    #[must_use]
    pub fn is_fragmented(&self) -> bool {
        let How::Spread(how) = &self.how else { return false };
        let has_all = self.arbiters.iter().all(|arbiter| how.rooms.contains_key(&arbiter.slot));
        let would_fit = how.rooms.values().all(|room| self.size().fits_in(room.at_most));
        let is_short = self.plan().is_none() && self.rate_words(how).is_none();
        has_all && self.denials.is_empty() && would_fit && is_short
    }

    /// Whom to ask next, and to book how much; `None` when there is nobody left to ask, or enough have
    /// said yes.
    pub fn next_arbiter(&mut self) -> Option<(Slot, Option<Amounts>)> {
        if self.unfit.is_some() || self.is_granted() {
            return None;
        }
        let plan = self.plan()?;
        let granted = self.granted();
        let (trust, agreed) = (self.trust, self.agreed());
        let witnesses = self.witnesses();
        let have_arbiters = trust.committees(agreed).all(|c| c.count(&granted) >= c.k);
        let is_wanted_witness = |slot: u32| {
            let mut short = witnesses.iter().filter(|c| c.count(&granted) < c.k);
            let is_short = short.any(|committee| committee.has(slot));
            have_arbiters && !granted.contains(&slot) && is_short
        };
        let is_of_use = |slot: u32| match self.how {
            _ if is_wanted_witness(slot) => true,
            // Who is only in a committee that has said yes already need not be asked.
            How::Whole => {
                let mut short = trust.committees(agreed).filter(|c| c.count(&granted) < c.k);
                !granted.contains(&slot) && short.any(|committee| committee.has(slot))
            }
            How::Spread(_) | How::Fixed(_) => {
                let has = self.grants.get(&slot).map_or(Amounts::ZERO, |(_, debit)| *debit);
                plan.get(&slot).is_some_and(|debit| !debit.fits_in(has))
            }
        };
        let is_open = |slot: u32| {
            let is_refused = match (&self.how, self.denials.get(&slot)) {
                (How::Spread(_), Some(DenialReason::Quota { .. } | DenialReason::Rate { .. }))
                | (_, None) => false,
                (_, Some(_)) => true,
            };
            let asks = self.asks.get(&slot).copied().unwrap_or(0);
            let asks_max = if matches!(self.how, How::Spread(_)) { ASKS_MAX } else { 1 };
            !is_refused && !self.silent.contains_key(&slot) && asks < asks_max
        };
        let mut open = self.all.iter().filter(|member| is_open(member.slot));
        let next = open.find(|member| is_of_use(member.slot))?.clone();
        let wish = plan.get(&next.slot).map(|debit| self.wish(*debit));
        *self.asks.entry(next.slot).or_default() += 1;
        Some((next, wish))
    }

    /// What that one has said, or why nothing.
    pub fn take(&mut self, slot: u32, answer: Result<ArbiterAnswer, String>) {
        let wish = self.plan().and_then(|plan| plan.get(&slot).copied());
        match answer {
            Ok(ArbiterAnswer::Grant(signed)) => match self.own_grant(slot, &signed) {
                Ok(grant) => {
                    self.denials.remove(&slot);
                    let debit = grant.debit.min(self.size());
                    if let How::Spread(how) = &mut self.how {
                        how.ladles.entry(slot).or_default().signed = debit;
                    }
                    self.grants.insert(slot, (signed, debit));
                }
                Err(error) => self.give_up_on(slot, error),
            },
            Ok(ArbiterAnswer::Denial(denial)) => match denial.open() {
                Ok(denial) => {
                    self.take_no(slot, wish, &denial.why);
                    self.denials.insert(slot, denial.why);
                }
                Err(error) => self.give_up_on(slot, error.to_string()),
            },
            Err(why) => self.give_up_on(slot, why),
        }
    }

    /// A grant as the host will look at it: of one that is no grant of this arbiter for this offer nothing comes but a
    /// ticket that is refused, whoever else has granted.
    fn own_grant(&self, slot: u32, signed: &Signed<Grant>) -> Result<Grant, String> {
        let grant = signed.open().map_err(|error| error.to_string())?;
        let is_of = |member: &Slot| member.slot == slot && member.key == signed.key();
        if grant.slot != slot || !self.all.iter().any(is_of) {
            return Err(format!(
                "its grant is for slot {} and signed by {}",
                grant.slot,
                signed.key()
            ));
        }
        match grant.offer == self.signed.digest() {
            true => Ok(grant),
            false => Err("its grant is for another offer".to_owned()),
        }
    }

    /// A no for want of quota says what there is instead, and one for want of starts that there are none.
    fn take_no(&mut self, slot: u32, wish: Option<Amounts>, why: &DenialReason) {
        let How::Spread(how) = &mut self.how else { return };
        let Some(ladle) = how.ladles.get_mut(&slot) else { return };
        let signed = ladle.signed;
        let left = match why {
            DenialReason::Quota { left, at_most, .. } => {
                how.has_rivals = true;
                let left = left.as_ref().or(at_most.as_ref()).map(|left| **left);
                // Too little, and yet as much as was asked for: it wants none of this.
                left.filter(|left| wish.is_some_and(|wish| !wish.fits_in(*left)))
            }
            DenialReason::Rate { .. } => {
                how.has_rivals = true;
                Some(Amounts { vms: 0, ..ladle.left })
            }
            _ => None,
        };
        (ladle.left, ladle.has) = (left.unwrap_or(signed), left.map_or(signed, |_| ladle.has));
    }

    fn give_up_on(&mut self, slot: u32, why: String) {
        if let How::Spread(how) = &mut self.how {
            match self.grants.get(&slot) {
                Some((_, debit)) => {
                    let (left, has, signed) = (*debit, *debit, *debit);
                    how.ladles.insert(slot, Ladle { left, has, signed });
                }
                None => drop(how.ladles.remove(&slot)),
            }
        }
        self.silent.insert(slot, format!("{} {slot}: {why}", self.seat_of(slot)));
    }

    fn seat_of(&self, slot: u32) -> Seat {
        match self.witnesses().iter().any(|committee| committee.has(slot)) {
            true => Seat::Witness,
            false => Seat::Arbiter,
        }
    }

    /// What it comes to.
    #[must_use]
    pub fn conclude(self) -> Answer {
        if let Some(what) = self.unfit {
            return Answer::Unclear { what, is_ambiguous: false };
        }
        if self.is_granted() {
            let grants = self.grants.into_values().map(|(grant, _)| grant).collect();
            return Answer::Done(TaskResult::Grants { grants });
        }
        let granted = self.granted();
        let firm = self.firm();
        let slots: BTreeSet<u32> = firm.iter().map(|(slot, _)| *slot).collect();
        let mut committees = self.committees().into_iter().chain(self.witnesses());
        if committees.any(|committee| committee.n() - committee.count(&slots) < committee.k) {
            return Answer::Refused(No::Arbiters(firm));
        }
        let mut words: Vec<String> = self
            .denials
            .iter()
            .map(|(slot, why)| format!("{} {slot}: {why}", self.seat_of(*slot)))
            .collect();
        words.extend(self.silent.values().cloned());
        if let How::Spread(how) = &self.how
            && self.plan().is_none()
        {
            let no = self.rate_words(how).or_else(|| self.quota_words(how));
            match (self.could_be_enough(how), how.has_rivals, no) {
                // It is soon over: asked again, instead of planned anew.
                (false, _, Some((slot, why))) if !is_firm(&why) => {
                    words.push(format!("arbiter {slot}: {why}"));
                }
                (false, false, Some(no)) => return Answer::Refused(No::Arbiters(vec![no])),
                // Whoever was faster has it, or gives it back.
                (false, true, Some((_, why))) => {
                    let why = format!("others were faster; {why}");
                    return Answer::OfferOver { why };
                }
                (_, _, no) => words.extend(no.map(|(_, why)| format!("without that, {why}"))),
            }
        }
        let count = |committee: &Committee<'_>| (committee.count(&granted), committee.k);
        let of_arbiters = self.committees();
        let of_arbiters =
            of_arbiters.iter().map(count).map(|(have, k)| format!("{have} of {k} grants"));
        let of_witnesses = self.witnesses();
        let of_witnesses = of_witnesses
            .iter()
            .map(count)
            .map(|(have, k)| format!("{have} of {k} grants of witnesses"));
        let need: Vec<String> = of_arbiters.chain(of_witnesses).collect();
        let what = format!("{}; {}", need.join(" and "), words.join("; "));
        // With another offer it is worth trying only where enough answer.
        let answered: BTreeSet<u32> =
            granted.union(&self.denials.keys().copied().collect()).copied().collect();
        let mut committees = self.committees().into_iter().chain(self.witnesses());
        let is_there = committees.all(|committee| committee.count(&answered) >= committee.k);
        let is_over = |why: &DenialReason| match why {
            DenialReason::OfferEnded { .. } => is_there,
            DenialReason::OtherTrust { offered, here } => offered < here,
            _ => false,
        };
        match self.denials.values().any(is_over) {
            true => Answer::OfferOver { why: what },
            false => Answer::Unclear { what, is_ambiguous: false },
        }
    }

    /// Who has said no for good. Of one that could book something, but not what it was asked for, that
    /// is not so.
    fn firm(&self) -> Vec<(u32, DenialReason)> {
        let is_spread = matches!(self.how, How::Spread(_));
        let is_final = |why: &DenialReason| match why {
            DenialReason::Quota { .. } | DenialReason::Rate { .. } if is_spread => false,
            why => is_firm(why) || is_taken_over(self.signed, why),
        };
        let firm = self.denials.iter().filter(|(_, why)| is_final(why));
        firm.map(|(slot, why)| (*slot, why.clone())).collect()
    }

    /// Whether those who have not said what they could book might yet say enough.
    fn could_be_enough(&self, how: &Spread) -> bool {
        let mut ladles = how.ladles.clone();
        let is_waiting = |slot: u32| match self.denials.get(&slot) {
            Some(DenialReason::Quota { .. } | DenialReason::Rate { .. }) => false,
            Some(why) => !is_firm(why),
            None => self.silent.contains_key(&slot),
        };
        for arbiter in self.arbiters.iter().filter(|arbiter| is_waiting(arbiter.slot)) {
            let ladle = ladles.entry(arbiter.slot).or_default();
            ladle.left = self.size();
        }
        spread(&self.committees(), self.size(), &ladles).is_some()
    }

    /// That too few of them have a start left, and when enough will have.
    fn rate_words(&self, how: &Spread) -> Option<(u32, DenialReason)> {
        let tenant = &self.offer.as_ref().filter(|_| self.is_rated())?.tenant;
        let wait_of = |slot: u32| {
            let (ladle, room) = (how.ladles.get(&slot)?, how.rooms.get(&slot)?);
            let said = match self.denials.get(&slot) {
                Some(DenialReason::Rate { for_ms, .. }) => *for_ms,
                _ => room.starts.and_then(|starts| starts.for_ms),
            };
            if ladle.left.vms.max(ladle.signed.vms) > 0 { Some(0) } else { said }
        };
        // When a quorum of the committee has one: of each committee that one is needed of.
        let quorum_waits = |committee: Committee<'_>| {
            let mut waits: Vec<u64> = how
                .rooms
                .keys()
                .filter(|slot| committee.has(**slot))
                .filter_map(|slot| wait_of(*slot))
                .collect();
            waits.sort_unstable();
            waits.get((committee.k as usize).saturating_sub(1)).copied()
        };
        let waits: Vec<Option<u64>> = self.committees().into_iter().map(quorum_waits).collect();
        if waits.iter().all(|wait| *wait == Some(0)) {
            return None;
        }
        let for_ms = waits.into_iter().collect::<Option<Vec<u64>>>();
        let for_ms = for_ms.and_then(|waits| waits.into_iter().max());
        let longest = |room: &TenantRoom| room.starts.map(|starts| (starts.used, starts.for_ms));
        let (slot, room) = how.rooms.iter().max_by_key(|(_, room)| longest(room))?;
        let StartsRoom { limit, part, used, .. } = room.starts?;
        let (tenant, is_default) = (tenant.clone(), self.trust.policy.is_default(tenant));
        Some((*slot, DenialReason::Rate { tenant, is_default, limit, part, used, for_ms }))
    }

    /// The no of them all, in whole sizes, by the one that knows of most.
    fn quota_words(&self, how: &Spread) -> Option<(u32, DenialReason)> {
        let tenant = self.offer.as_ref()?.tenant.clone();
        let limit = *self.trust.quota.get(&tenant)?;
        let most = |a: &Amounts| (a.vcpus, a.memory_bytes, a.disk_bytes, a.vms);
        let (slot, room) = how.rooms.iter().max_by_key(|(_, room)| most(&room.used))?;
        let at_most = how.rooms.values().map(|room| room.at_most).reduce(Amounts::min)?;
        let at_most = largest(&self.committees(), &how.ladles, at_most);
        let (used, asked) = (room.used, self.size().told_by(limit));
        let at_most = Some(Box::new(at_most.told_by(limit)));
        Some((*slot, DenialReason::Quota { tenant, limit, used, asked, at_most, left: None }))
    }

    /// Whom to ask for how much; `None` when there is no way.
    fn plan(&self) -> Option<BTreeMap<u32, Amounts>> {
        match &self.how {
            How::Whole => Some(BTreeMap::new()),
            How::Fixed(debits) => Some(debits.clone()),
            How::Spread(how) => spread(&self.committees(), self.size(), &how.ladles),
        }
    }

    /// R9, as the host will see it.
    fn is_granted(&self) -> bool {
        let (granted, size) = (self.granted(), self.size());
        let is_witnessed = self.witnesses().iter().all(|c| c.count(&granted) >= c.k);
        is_witnessed
            && self.trust.committees(self.agreed()).all(|committee| {
                let its = self.grants.iter().filter(|(slot, _)| committee.has(**slot));
                let booked = its.fold(Amounts::ZERO, |sum, (_, (_, debit))| sum.plus(*debit));
                let is_booked = (0..committee.k).fold(Amounts::ZERO, |sum, _| sum.plus(size));
                committee.count(&granted) >= committee.k && is_booked.fits_in(booked)
            })
    }

    fn committees(&self) -> Vec<Committee<'a>> {
        self.trust.committees(self.agreed()).collect()
    }

    /// The committees of witnesses of which a yes is needed.
    fn witnesses(&self) -> Vec<Committee<'a>> {
        self.offer.iter().flat_map(|offer| witness_committees(self.trust, offer)).collect()
    }

    fn size(&self) -> Amounts {
        self.offer.as_ref().map_or(Amounts::ZERO, |offer| size_of(self.trust, offer))
    }

    /// Whether it is a start of a tenant whose starts are limited.
    fn is_rated(&self) -> bool {
        self.offer.as_ref().is_some_and(|offer| is_rated(self.trust, offer))
    }

    /// As an arbiter is asked for it: nothing is said of VMs where neither they nor their starts are limited.
    fn wish(&self, debit: Amounts) -> Amounts {
        if self.is_rated() {
            return debit;
        }
        let tenant = self.offer.as_ref().map(|offer| &offer.tenant);
        let limit = tenant.and_then(|tenant| self.trust.quota.get(tenant)).copied();
        debit.told_by(limit.unwrap_or(Amounts::UNLIMITED))
    }

    /// The change of arbiters that the host has agreed to.
    fn agreed(&self) -> Option<Digest> {
        self.offer.as_ref().and_then(|offer| offer.agreed)
    }

    fn granted(&self) -> BTreeSet<u32> {
        self.grants.keys().copied().collect()
    }
}

/// What the offer takes of a quota. Where neither VMs nor their starts are limited there are none to spread.
fn size_of(trust: &Trust, offer: &Offer) -> Amounts {
    match is_rated(trust, offer) {
        true => Amounts::of_vm(offer.resources),
        false => trust.asks(&offer.tenant, offer.takes()).or_no_vms(),
    }
}

fn is_rated(trust: &Trust, offer: &Offer) -> bool {
    offer.action == Action::Start && trust.policy.start_rate(&offer.tenant).is_some()
}

fn witness_committees<'a>(
    trust: &'a Trust,
    offer: &Offer,
) -> impl Iterator<Item = Committee<'a>> + use<'a> {
    let may_be_lost = offer.on_loss == OnLoss::Stop;
    let all = trust.councils(offer.agreed).filter_map(|council| council.witnesses);
    all.filter(move |_| may_be_lost)
}

#[cfg(test)]
mod tests;
