//! From one committee of arbiters to the next, so that two quorums always meet (tenure protocol §10).
//!
//! ```text
//!   arbiters A ──next: B──▶ A, next B ──every host has agreed, a quorum of B is ready──▶ arbiters B
//!       ▲                      │  ▲                                                        (handover)
//!       └── taken back ────────┘  └── another B, while no host has agreed
//! ```
//!
//! While a next committee is named, a host goes on by the quorum of A until it *agrees*: from then on
//! it takes and runs nothing without a quorum of both, and it follows no document that takes the change
//! back. B alone counts only by a document that shows the signatures of a quorum of B: each says that
//! every host has agreed and that what they hold is in its books. So A and A-then-B meet in A, A-then-B
//! and B meet in B, and A and B are never in force at once.
//!
//! Witnesses are part of it: A and B above are *councils*, arbiters with the witnesses beside them. To take
//! a quorum of each committee of a council is needed, to go on a quorum of either ([`super::Council`]); so
//! whoever takes by A meets whoever goes on by A, and that is all that was used.
//!
//! Where those in force are lost for good, the change *recovers*: hosts agree without asking them. That
//! is all that differs, so a document that says so when they are not lost does no harm, either.
//!
//! Decides what may follow what. When a host agrees is the host's, when an arbiter is ready the
//! arbiter's.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::council::{Council, Identity};
use super::{Slot, Trust, TrustError, Witnesses};
use crate::amounts::Amounts;
use crate::id::{ClusterId, HostId};
use crate::signed::{Digest, Message, PublicKey, Signed};

/// How a trust document's arbiters came to be, and who follows them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Succession {
    /// Who is to take over from the arbiters, while they are being changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Next>,
    /// By what the arbiters took over from those before; `None`: they are the cluster's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<Handover>,
}

impl Succession {
    /// True for a cluster's first arbiters, when no others are named.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

/// The committee that is to take over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Next {
    /// The version by which the change was begun. Later documents repeat it until the change is over.
    pub since: u64,
    /// Its arbiters. Who is in both committees has one slot and one key in both.
    pub arbiters: Vec<Slot>,
    /// How many of them a ticket will need.
    pub k: u32,
    /// The witnesses beside them.
    #[serde(default, skip_serializing_if = "Witnesses::is_none")]
    pub witnesses: Witnesses,
    /// True when too many of those in force are lost for good to be asked: a host then agrees once a
    /// quorum of these alone grants. Not part of what names the change, so one that is under way can
    /// become one that recovers.
    #[serde(default, skip_serializing_if = "is_false")]
    pub recovers: bool,
}

impl Next {
    /// The arbiters and witnesses that are to take over.
    pub(super) fn council(&self) -> Council<'_> {
        let arbiters = Committee { members: &self.arbiters, k: self.k };
        Council { arbiters, witnesses: self.witnesses.committee() }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What shows that a change of arbiters was completed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Handover {
    /// The version by which the change was begun.
    pub since: u64,
    /// Which change it was ([`Trust::change`]).
    pub change: Digest,
    /// The word of a quorum of those who took over.
    pub ready: Vec<Signed<Ready>>,
}

/// An arbiter's signed word that a change may be completed: every host has agreed to it, and this
/// arbiter knows what each of them holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ready {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its slot.
    pub slot: u32,
    /// Which change.
    pub change: Digest,
}

impl Message for Ready {
    const DOMAIN: &'static str = "ready";
}

/// Arbiters, or witnesses, of whom k must say yes.
#[derive(Debug, Clone, Copy)]
pub struct Committee<'a> {
    /// Its members.
    pub members: &'a [Slot],
    /// How many of them a ticket needs.
    pub k: u32,
}

impl Committee<'_> {
    /// How many there are.
    #[must_use]
    pub fn n(&self) -> u32 {
        u32::try_from(self.members.len()).unwrap_or(u32::MAX)
    }

    /// How many of these slots are its members'.
    #[must_use]
    pub fn count(&self, slots: &BTreeSet<u32>) -> u32 {
        let members = self.members.iter().filter(|member| slots.contains(&member.slot));
        u32::try_from(members.count()).unwrap_or(u32::MAX)
    }

    /// Whether it has a member of that slot.
    #[must_use]
    pub fn has(&self, slot: u32) -> bool {
        self.members.iter().any(|member| member.slot == slot)
    }

    /// Who belongs to it, without where they answer.
    pub(super) fn identity(&self) -> Identity {
        (self.members.iter().map(|member| (member.slot, member.key)).collect(), self.k)
    }
}

impl Trust {
    /// The arbiters in force.
    #[must_use]
    pub fn committee(&self) -> Committee<'_> {
        Committee { members: &self.arbiters, k: self.k }
    }

    /// Those who are to take over from them.
    #[must_use]
    pub fn next_committee(&self) -> Option<Committee<'_>> {
        let next = self.succession.next.as_ref()?;
        Some(Committee { members: &next.arbiters, k: next.k })
    }

    /// The committees of arbiters of which a host that has agreed to this change, or to none, needs a quorum
    /// each for every ticket. What needs cover asks their councils ([`Trust::councils`]).
    pub fn committees(&self, agreed: Option<Digest>) -> impl Iterator<Item = Committee<'_>> {
        let is_agreed = agreed.is_some() && agreed == self.change();
        std::iter::once(self.committee()).chain(self.next_committee().filter(|_| is_agreed))
    }

    /// Everybody who is an arbiter or is to be one, each once, by slot.
    #[must_use]
    pub fn members(&self) -> Vec<Slot> {
        let next = self.succession.next.iter().flat_map(|next| &next.arbiters);
        let all: BTreeMap<u32, &Slot> =
            self.arbiters.iter().chain(next).map(|arbiter| (arbiter.slot, arbiter)).collect();
        all.into_values().cloned().collect()
    }

    /// What names the change of arbiters that is under way: who hands over to whom, since when.
    #[must_use]
    pub fn change(&self) -> Option<Digest> {
        let next = self.succession.next.as_ref()?;
        let (from, to) = (self.council().identity(), self.next_council()?.identity());
        Some(match (&from, &to) {
            // As it was named before there were witnesses: hosts have agreed to that.
            ((from, None), (to, None)) => Digest::of_json(&(&self.cluster, next.since, from, to)),
            _ => Digest::of_json(&(&self.cluster, next.since, from, to)),
        })
    }

    /// Whether these slots are a quorum of each committee of arbiters that counts for the host.
    #[must_use]
    pub fn is_quorum(&self, agreed: Option<Digest>, slots: &BTreeSet<u32>) -> bool {
        self.committees(agreed).all(|committee| committee.count(slots) >= committee.k)
    }

    /// Whether these slots are all whom a host has to hear that they grant before it agrees to the change
    /// under way: a quorum of each committee of both councils, or of the next one where it takes over from
    /// the lost.
    #[must_use]
    pub fn may_agree(&self, slots: &BTreeSet<u32>) -> bool {
        let recovers = self.succession.next.as_ref().is_some_and(|next| next.recovers);
        let next = self.next_council();
        next.is_some_and(|next| next.has_quorum_of_each(slots))
            && (recovers || self.council().has_quorum_of_each(slots))
    }

    /// What each slot has booked, or is to count as booked, for a job of this size that was granted
    /// with these debits (rule R9). Where arbiters were changed since, those who granted it may be
    /// fewer than a quorum of those who are or will be in force; what is missing there then counts with
    /// slots that have booked nothing for it, so that each committee counts k times the size again.
    /// Everybody with the same document makes the same of the same debits, and one new arbiter in one
    /// old one's place counts exactly what that one did.
    #[must_use]
    pub fn booked(&self, debits: &BTreeMap<u32, Amounts>, size: Amounts) -> BTreeMap<u32, Amounts> {
        let mut booked = debits.clone();
        for committee in self.committees(self.change()) {
            for (slot, debit) in completed(committee, debits, size) {
                let known = booked.entry(slot).or_insert(Amounts::ZERO);
                *known = known.max(debit);
            }
        }
        booked
    }

    /// What one slot has booked of that. Most tickets are enough as they are.
    #[must_use]
    pub fn booked_at(&self, slot: u32, debits: &BTreeMap<u32, Amounts>, size: Amounts) -> Amounts {
        let is_enough = |committee: Committee<'_>| {
            let of_it = debits.iter().filter(|(slot, _)| committee.has(**slot));
            let booked = of_it.fold(Amounts::ZERO, |sum, (_, debit)| sum.plus(debit.min(size)));
            times(committee.k, size).fits_in(booked)
        };
        let its = match self.committees(self.change()).all(is_enough) {
            true => debits.get(&slot).copied(),
            false => self.booked(debits, size).get(&slot).copied(),
        };
        its.unwrap_or(Amounts::ZERO)
    }

    /// The version by which the last completed change was begun.
    fn changed_at(&self) -> u64 {
        self.succession.handover.as_ref().map_or(0, |handover| handover.since)
    }
}

/// The debits of a committee's slots, with what is missing to k times the size spread over those who
/// have booked least.
fn completed(
    committee: Committee<'_>,
    debits: &BTreeMap<u32, Amounts>,
    size: Amounts,
) -> BTreeMap<u32, Amounts> {
    let had = |slot: u32| debits.get(&slot).copied().unwrap_or(Amounts::ZERO);
    let mut slots: Vec<u32> = committee.members.iter().map(|arbiter| arbiter.slot).collect();
    // The newest arbiters have the highest slots.
    slots.sort_unstable_by_key(|slot| std::cmp::Reverse(*slot));
    let fill = |amount: fn(Amounts) -> u64| {
        let most = amount(size);
        let before: Vec<u64> = slots.iter().map(|slot| amount(had(*slot)).min(most)).collect();
        filled(before, most, u128::from(most) * u128::from(committee.k))
    };
    let each = Amounts::EACH.map(fill);
    let of_slot = |(i, slot): (usize, u32)| {
        (slot, Amounts::of_each(std::array::from_fn(|amount| each[amount][i])))
    };
    slots.iter().copied().enumerate().map(of_slot).collect()
}

/// Raises amounts to a sum, none above `most`: those that are nothing alike, then the others alike,
/// and then whoever can.
fn filled(mut amounts: Vec<u64>, most: u64, sum: u128) -> Vec<u64> {
    let (idle, busy): (Vec<usize>, Vec<usize>) = (0..amounts.len()).partition(|i| amounts[*i] == 0);
    let alike = [idle, busy];
    let alike = alike.iter().flat_map(|group| {
        group.iter().enumerate().map(|(nth, i)| (*i, (group.len() - nth) as u128))
    });
    let whoever = (0..amounts.len()).map(|i| (i, 1));
    for (i, among) in alike.chain(whoever).collect::<Vec<_>>() {
        let have: u128 = amounts.iter().map(|amount| u128::from(*amount)).sum();
        let more = sum.saturating_sub(have).div_ceil(among);
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        amounts[i] = amounts[i].saturating_add(more).min(most);
    }
    amounts
}

/// So many times an amount.
pub(crate) fn times(k: u32, size: Amounts) -> Amounts {
    (0..k).fold(Amounts::ZERO, |sum, _| sum.plus(size))
}

/// Checks what a document says of its succession against itself.
pub(super) fn validate(trust: &Trust) -> Result<(), String> {
    if let Some(handover) = &trust.succession.handover {
        check_handover(trust, handover)?;
    }
    let Some(next) = &trust.succession.next else { return Ok(()) };
    if next.since <= trust.changed_at() || next.since > trust.version {
        return Err(format!(
            "its next arbiters are named since version {}: that must be over {} and at most {}",
            next.since,
            trust.changed_at(),
            trust.version
        ));
    }
    if next.arbiters.len() > super::MEMBERS_MAX as usize {
        return Err(format!("more than {} next arbiters", super::MEMBERS_MAX));
    }
    super::check_quorum("arbiters", next.k, next.arbiters.len(), trust.f)?;
    next.witnesses.validate(trust.f)?;
    let next_council = next.council();
    if trust.council().identity() == next_council.identity() {
        return Err("its next arbiters and witnesses are those it has".to_owned());
    }
    if next_council.arbiters.identity().0.len() != next.arbiters.len() {
        return Err("two of the next arbiters have one slot".to_owned());
    }
    one_key_a_slot(trust.arbiters.iter().chain(&next.arbiters))?;
    one_key_a_slot(trust.witnesses.members.iter().chain(&next.witnesses.members))
}

/// Of arbiters or of witnesses: nobody is both.
fn one_key_a_slot<'a>(arbiters: impl Iterator<Item = &'a Slot>) -> Result<(), String> {
    let (mut keys, mut slots) = (BTreeMap::new(), BTreeMap::new());
    for arbiter in arbiters {
        let (slot, key) = (arbiter.slot, arbiter.key);
        if *keys.entry(slot).or_insert(key) != key {
            return Err(format!(
                "slot {slot} has two keys: a new arbiter takes a slot that nobody had"
            ));
        }
        if *slots.entry(key).or_insert(slot) != slot {
            return Err(format!("arbiter {key} has two slots: it keeps the one it has"));
        }
    }
    Ok(())
}

fn check_handover(trust: &Trust, handover: &Handover) -> Result<(), String> {
    let mut slots = BTreeSet::new();
    for signed in &handover.ready {
        let ready = signed.open().map_err(|error| error.to_string())?;
        let is_its = |arbiter: &&Slot| arbiter.key == signed.key() && arbiter.slot == ready.slot;
        let is_of_this = ready.cluster == trust.cluster && ready.change == handover.change;
        if is_of_this && trust.arbiters.iter().any(|arbiter| is_its(&arbiter)) {
            slots.insert(ready.slot);
        }
    }
    let have = trust.committee().count(&slots);
    if have < trust.k {
        return Err(format!(
            "{have} of its arbiters have signed that they have taken over, {} are needed",
            trust.k
        ));
    }
    Ok(())
}

/// Whether one document may follow another on a host (or with a role that missed none between).
pub(super) fn check(old: &Trust, new: &Trust) -> Result<(), TrustError> {
    let unlawful = |why: String, lawful: String| {
        Err(TrustError::Unlawful { version: new.version, why, lawful })
    };
    if (old.term_ms, old.clock_ppm) != (new.term_ms, new.clock_ppm) {
        return unlawful(
            "it changes how long promises last, and those who made and got them would differ"
                .into(),
            format!("term_ms = {} and clock_ppm = {}", old.term_ms, old.clock_ppm),
        );
    }
    let is_left = |key: &&PublicKey| !new.roster.contains(key) && !new.retired.contains(key);
    if let Some(key) = old.roster.iter().find(is_left) {
        return unlawful(
            format!(
                "it leaves host {} out, and what that one holds would be free",
                HostId::of(key)
            ),
            "to have it on the roster, or among the retired: `ostler retire`".to_owned(),
        );
    }
    let of_both = old.seats().into_iter().chain(new.seats()).map(|(_, slot)| slot);
    if let Err(why) = one_key_a_slot(of_both.collect::<Vec<_>>().iter()) {
        return unlawful(why, "a slot above all that were ever used".to_owned());
    }
    let (now, then) = (old.council().identity(), new.council().identity());
    if now == then && old.changed_at() == new.changed_at() {
        return Ok(());
    }
    let are = if now.0 == then.0 && now.1 != then.1 { "witnesses" } else { "arbiters" };
    let is_completed = |next: &Next| {
        let takes_over = next.council().identity() == then;
        let handover = new.succession.handover.as_ref();
        let is_of_this = |h: &Handover| h.since == next.since && Some(h.change) == old.change();
        takes_over && handover.is_some_and(is_of_this)
    };
    match &old.succession.next {
        Some(next) if is_completed(next) => Ok(()),
        Some(_) => unlawful(
            format!("its {are} are others, and it does not show that every host has agreed"),
            format!(
                "the arbiters of version {}, or its next ones with a quorum's word that they are \
                 ready: `ostler arbiters` goes on with the change",
                old.version
            ),
        ),
        None => unlawful(
            format!("its {are} are others at once, and two quorums could miss each other"),
            match are {
                "witnesses" => format!(
                    "the witnesses of version {} with the others in `next`: `ostler witnesses set`",
                    old.version
                ),
                _ => format!(
                    "the arbiters of version {} with the others as `next`: `ostler arbiters replace`",
                    old.version
                ),
            },
        ),
    }
}

/// Whether a host that has agreed to a change may follow a document. Others may count on it: what
/// they sign says that this host needs the next arbiters, too.
pub fn check_agreed(agreed: Option<Digest>, old: &Trust, new: &Trust) -> Result<(), TrustError> {
    let is_bound = agreed.is_some() && agreed == old.change();
    let goes_back =
        old.council_is(new) && old.changed_at() == new.changed_at() && new.change() != old.change();
    if is_bound && goes_back {
        return Err(TrustError::Unlawful {
            version: new.version,
            why: "this host has agreed to the change of arbiters that it takes back".to_owned(),
            lawful: "to complete the change: `ostler arbiters`".to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
