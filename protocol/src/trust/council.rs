//! Arbiters, and the witnesses beside them (tenure protocol §2, §7).
//!
//! ```text
//!                                     arbiters        witnesses
//!   to take a job that may be lost    a quorum  and   a quorum
//!   to go on with it                  a quorum   or   a quorum
//!   to take a job that is kept        a quorum
//! ```
//!
//! Whoever takes meets whoever goes on in one member that both have asked, by whichever of the two
//! committees the latter goes on. Members of the two are never counted together: two arbiters and a
//! witness are no quorum of anything.
//!
//! Decides who counts with whom. How one council follows another is [`super::Succession`]'s.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Committee, Next, Slot, Trust, check_quorum};
use crate::job::Role;
use crate::signed::{Digest, PublicKey};
use crate::vm::OnLoss;

/// Those who say beside the arbiters where a job that may be lost runs. They keep no books and no quotas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Witnesses {
    /// Who they are. No slot of theirs is an arbiter's.
    pub members: Vec<Slot>,
    /// How many of them have to say yes.
    pub k: u32,
}

impl Witnesses {
    /// True where there are none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.members.is_empty() && self.k == 0
    }

    /// These, of whom a majority has to say yes.
    #[must_use]
    pub fn of(members: Vec<Slot>, f: u32) -> Self {
        let n = u32::try_from(members.len()).unwrap_or(u32::MAX);
        let k = if n == 0 { 0 } else { super::quorum(n, f) };
        Self { members, k }
    }

    /// Whether so many bear as many as `f` that lie, and more losses than one less.
    #[must_use]
    pub fn is_of_use(n: u32, f: u32) -> bool {
        n > f.saturating_mul(3) && n % 2 != f % 2
    }

    /// The smallest numbers of them that are of use where as many as `f` may lie, in words.
    #[must_use]
    pub fn of_use(f: u32) -> String {
        let first = 3 * f + 1;
        format!("{first}, {} or {}", first + 2, first + 4)
    }

    /// As whom they count; `None` where there are none.
    #[must_use]
    pub fn committee(&self) -> Option<Committee<'_>> {
        (!self.is_none()).then_some(Committee { members: &self.members, k: self.k })
    }

    /// Checks the numbers against each other.
    pub(super) fn validate(&self, f: u32) -> Result<(), String> {
        if self.is_none() {
            return Ok(());
        }
        let n = self.members.len();
        if n > super::MEMBERS_MAX as usize {
            return Err(format!("more than {} witnesses", super::MEMBERS_MAX));
        }
        if !Self::is_of_use(u32::try_from(n).unwrap_or(u32::MAX), f) {
            return Err(format!(
                "{n} witnesses: {} are of use; so many bear the loss of no more than one less",
                Self::of_use(f)
            ));
        }
        let slots: BTreeSet<u32> = self.members.iter().map(|witness| witness.slot).collect();
        if slots.len() != n {
            return Err("two witnesses have one slot".to_owned());
        }
        check_quorum("witnesses", self.k, n, f)
    }
}

/// What a member of a council is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Seat {
    /// It grants, covers and keeps the quotas.
    Arbiter,
    /// It grants and covers what may be lost.
    Witness,
}

impl From<Seat> for Role {
    fn from(seat: Seat) -> Self {
        match seat {
            Seat::Arbiter => Role::Arbiter,
            Seat::Witness => Role::Witness,
        }
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Seat::Arbiter => "arbiter",
            Seat::Witness => "witness",
        })
    }
}

/// Arbiters and the witnesses beside them.
#[derive(Debug, Clone, Copy)]
pub struct Council<'a> {
    /// Its arbiters.
    pub arbiters: Committee<'a>,
    /// Its witnesses, if it has any.
    pub witnesses: Option<Committee<'a>>,
}

/// Who belongs to a committee, without where they answer, and how many of them must say yes.
pub(super) type Identity = (BTreeMap<u32, PublicKey>, u32);

impl<'a> Council<'a> {
    /// The committees of which a ticket for such a job needs a quorum each.
    pub fn to_take(&self, on_loss: OnLoss) -> impl Iterator<Item = Committee<'a>> + use<'a> {
        let witnesses = self.witnesses.filter(|_| on_loss == OnLoss::Stop);
        std::iter::once(self.arbiters).chain(witnesses)
    }

    /// Until when a job may go on: as long as either committee lets it.
    pub fn until(&self, of: impl Fn(Committee<'a>) -> u64) -> u64 {
        self.to_take(OnLoss::Stop).map(of).max().unwrap_or(0)
    }

    /// Whether these slots are a quorum of each of its committees.
    #[must_use]
    pub fn has_quorum_of_each(&self, slots: &BTreeSet<u32>) -> bool {
        self.to_take(OnLoss::Stop).all(|committee| committee.count(slots) >= committee.k)
    }

    /// Who belongs to it, without where they answer.
    pub(super) fn identity(&self) -> (Identity, Option<Identity>) {
        (self.arbiters.identity(), self.witnesses.map(|witnesses| witnesses.identity()))
    }
}

impl Trust {
    /// The arbiters in force and their witnesses.
    #[must_use]
    pub fn council(&self) -> Council<'_> {
        Council { arbiters: self.committee(), witnesses: self.witnesses.committee() }
    }

    /// Those who are to take over from them.
    #[must_use]
    pub fn next_council(&self) -> Option<Council<'_>> {
        self.succession.next.as_ref().map(Next::council)
    }

    /// The councils that have to let a job be taken, and go on, on a host that has agreed to this change, or
    /// to none.
    pub fn councils(&self, agreed: Option<Digest>) -> impl Iterator<Item = Council<'_>> {
        let is_agreed = agreed.is_some() && agreed == self.change();
        std::iter::once(self.council()).chain(self.next_council().filter(|_| is_agreed))
    }

    /// The committees of which such a host needs a quorum each for a ticket.
    pub fn to_take(
        &self,
        agreed: Option<Digest>,
        on_loss: OnLoss,
    ) -> impl Iterator<Item = Committee<'_>> {
        self.councils(agreed).flat_map(move |council| council.to_take(on_loss))
    }

    /// Whether arbiters and witnesses in force are the same here and there, wherever they answer.
    #[must_use]
    pub fn council_is(&self, other: &Trust) -> bool {
        self.council().identity() == other.council().identity()
    }

    /// The witness that signs with this key, or that is to be one.
    #[must_use]
    pub fn witness(&self, key: &PublicKey) -> Option<&Slot> {
        self.all_witnesses().find(|witness| witness.key == *key)
    }

    /// What the owner of this key is in the council, or is to be.
    #[must_use]
    pub fn seat(&self, key: &PublicKey) -> Option<(Seat, &Slot)> {
        let arbiter = self.arbiter(key).map(|slot| (Seat::Arbiter, slot));
        arbiter.or_else(|| self.witness(key).map(|slot| (Seat::Witness, slot)))
    }

    /// Everybody who has a seat or is to have one, each once, by slot.
    #[must_use]
    pub fn seats(&self) -> Vec<(Seat, Slot)> {
        let arbiters = self.members().into_iter().map(|slot| (slot.slot, (Seat::Arbiter, slot)));
        let witnesses = self.all_witnesses().map(|slot| (slot.slot, (Seat::Witness, slot.clone())));
        let all: BTreeMap<u32, (Seat, Slot)> = arbiters.chain(witnesses).collect();
        all.into_values().collect()
    }

    fn all_witnesses(&self) -> impl Iterator<Item = &Slot> {
        let next = self.succession.next.iter().flat_map(|next| &next.witnesses.members);
        self.witnesses.members.iter().chain(next)
    }
}

/// Nobody is arbiter and witness, not even by a change.
pub(super) fn check_apart(trust: &Trust) -> Result<(), String> {
    let arbiters = trust.members();
    for witness in trust.all_witnesses() {
        let is_same = |arbiter: &&Slot| arbiter.slot == witness.slot || arbiter.key == witness.key;
        if let Some(arbiter) = arbiters.iter().find(is_same) {
            return Err(format!(
                "witness {} and arbiter {} are one: a witness has a slot and a key that no arbiter has",
                witness.slot, arbiter.slot
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
