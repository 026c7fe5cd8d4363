//! Asking arbiters for grants: whom next, and what their answers come to. Pure; sending is the
//! executor's.
//!
//! They are asked in slot order, the first reachable one alone first: of two rivals for a job only one
//! gets past it, so that they do not split the rest between them. While the arbiters are being changed,
//! a host that has agreed needs a quorum of those in force and one of those who follow; who is in both
//! counts for both.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use protocol::signed::{Digest, Signed};
use protocol::ticket::{Answer as ArbiterAnswer, DenialReason, Grant, Offer};
use protocol::trust::{Slot, Trust};

use crate::judge::{is_firm, is_taken_over};
use crate::run::{Answer, No};
use crate::task::TaskResult;

/// One offer being shown to arbiters.
#[derive(Debug)]
pub struct Poll<'a> {
    trust: &'a Trust,
    offer: &'a Signed<Offer>,
    /// The change of arbiters that the host has agreed to.
    agreed: Option<Digest>,
    /// Why these arbiters are no use for this offer, by the document known here.
    unfit: Option<String>,
    left: VecDeque<Slot>,
    grants: BTreeMap<u32, Signed<Grant>>,
    denials: Vec<(u32, DenialReason)>,
    silent: Vec<String>,
}

impl<'a> Poll<'a> {
    /// Nobody was asked yet.
    #[must_use]
    pub fn of(trust: &'a Trust, offer: &'a Signed<Offer>) -> Self {
        let agreed = offer.open().ok().and_then(|offer| offer.agreed);
        let unfit = (agreed.is_some() && agreed != trust.change()).then(|| {
            format!(
                "the host's arbiters are being changed, which version {} does not know",
                trust.version
            )
        });
        let left = match agreed {
            Some(_) => trust.members(),
            None => {
                let mut arbiters = trust.arbiters.clone();
                arbiters.sort_by_key(|arbiter| arbiter.slot);
                arbiters
            }
        };
        Self {
            trust,
            offer,
            agreed,
            unfit,
            left: left.into(),
            grants: BTreeMap::new(),
            denials: Vec::new(),
            silent: Vec::new(),
        }
    }

    /// Whom to ask next; `None` when there is nobody left to ask, or enough have said yes.
    pub fn next_arbiter(&mut self) -> Option<Slot> {
        if self.unfit.is_some() {
            return None;
        }
        let granted = self.granted();
        let (trust, agreed) = (self.trust, self.agreed);
        while let Some(arbiter) = self.left.pop_front() {
            // Who is only in a committee that has said yes already need not be asked.
            let is_needed = |slot: u32| {
                let mut short = trust.committees(agreed).filter(|c| c.count(&granted) < c.k);
                short.any(|committee| committee.has(slot))
            };
            if is_needed(arbiter.slot) {
                return Some(arbiter);
            }
        }
        None
    }

    /// What that one has said, or why nothing.
    pub fn take(&mut self, slot: u32, answer: Result<ArbiterAnswer, String>) {
        match answer {
            Ok(ArbiterAnswer::Grant(grant)) => drop(self.grants.insert(slot, grant)),
            Ok(ArbiterAnswer::Denial(denial)) => match denial.open() {
                Ok(denial) => self.denials.push((slot, denial.why)),
                Err(error) => self.silent.push(format!("arbiter {slot}: {error}")),
            },
            Err(why) => self.silent.push(format!("arbiter {slot}: {why}")),
        }
    }

    /// What it comes to.
    #[must_use]
    pub fn conclude(mut self) -> Answer {
        if let Some(what) = self.unfit {
            return Answer::Unclear { what, is_ambiguous: false };
        }
        let granted = self.granted();
        if self.trust.is_quorum(self.agreed, &granted) {
            let grants = self.grants.into_values().collect();
            return Answer::Done(TaskResult::Grants { grants });
        }
        let is_final = |why: &DenialReason| is_firm(why) || is_taken_over(self.offer, why);
        let firm = self.denials.iter().filter(|(_, why)| is_final(why)).map(|(slot, _)| *slot);
        let firm: BTreeSet<u32> = firm.collect();
        let mut committees = self.trust.committees(self.agreed);
        if committees.any(|committee| committee.n() - committee.count(&firm) < committee.k) {
            self.denials.retain(|(_, why)| is_final(why));
            return Answer::Refused(No::Arbiters(self.denials));
        }
        let mut words: Vec<String> =
            self.denials.iter().map(|(slot, why)| format!("arbiter {slot}: {why}")).collect();
        words.extend(self.silent);
        let need: Vec<String> = self
            .trust
            .committees(self.agreed)
            .map(|committee| format!("{} of {} grants", committee.count(&granted), committee.k))
            .collect();
        let what = format!("{}; {}", need.join(" and "), words.join("; "));
        let is_behind = |(_, why): &(u32, DenialReason)| matches!(why, DenialReason::OtherTrust { offered, here } if offered < here);
        match self.denials.iter().any(is_behind) {
            true => Answer::OfferOver { why: what },
            false => Answer::Unclear { what, is_ambiguous: false },
        }
    }

    fn granted(&self) -> BTreeSet<u32> {
        self.grants.keys().copied().collect()
    }
}
