//! Arbiters and witnesses that lie, as many as the trust document bears (`f`): they sign what nobody should, for
//! whoever asks, forget without being silent, and say no for no reason.
//!
//! Besides that they are arbiters: what they say that is true is as true as anybody's. The rules must hold
//! whatever they say, by the words of the others.

use arbiter::core::Core;
use protocol::amounts::Amounts;
use protocol::api::TenantRoom;
use protocol::id::OfferId;
use protocol::signed::Signed;
use protocol::tenure::{Statement, Term};
use protocol::ticket::{Answer, Denial, DenialReason, Grant, Offer};
use protocol::trust::Ready;

use super::arbiter::Shared;
use super::message::{Ask, Told};
use super::world::{World, arbiter_key};

/// Of a million answers, so many say yes, whatever is so.
const YES_PPM: u32 = 500_000;
/// Of those that don't, so many say no.
const NO_PPM: u32 = 300_000;
/// Of those that say neither, so many are none at all.
const NOTHING_PPM: u32 = 200_000;
/// Of a million grants, so many are signed for somebody else's slot.
const OTHERS_SLOT_PPM: u32 = 50_000;

/// What a liar says.
pub(super) enum Said {
    /// Whatever an arbiter would say.
    Truth,
    /// Nothing.
    Nothing,
    /// This.
    This(Told),
}

impl World {
    /// Whether this arbiter or witness lies when it likes.
    #[must_use]
    pub fn is_liar(&self, n: usize) -> bool {
        self.profile.liars.contains(&n)
    }

    /// The same of a slot.
    pub(super) fn is_liars_slot(&self, slot: u32) -> bool {
        usize::try_from(slot).is_ok_and(|n| self.is_liar(n))
    }

    /// Whether it goes on after a restart as if it had never promised anything.
    pub(super) fn forgets_aloud(&mut self, n: usize) -> bool {
        self.is_liar(n) && self.chance.happens(YES_PPM)
    }

    /// What it says when it is asked.
    pub(super) fn lie(&mut self, n: usize, shared: &Shared, ask: &Ask) -> Said {
        if !self.is_liar(n) {
            return Said::Truth;
        }
        if self.chance.happens(YES_PPM) {
            return self.yes(n, shared, ask);
        }
        if self.chance.happens(NO_PPM) {
            return self.no(n, shared, ask);
        }
        match self.chance.happens(NOTHING_PPM) {
            true => Said::Nothing,
            false => Said::Truth,
        }
    }

    fn yes(&mut self, n: usize, shared: &Shared, ask: &Ask) -> Said {
        let slot = u32::try_from(n).unwrap_or(0);
        match ask {
            Ask::Grants(signed, wish) => {
                let Ok(offer) = signed.open() else { return Said::Truth };
                let others = (0..self.arbiters.len()).filter(|other| *other != n).count();
                let slot = match self.chance.happens(OTHERS_SLOT_PPM) && others > 0 {
                    true => (slot + 1) % u32::try_from(self.arbiters.len()).unwrap_or(1),
                    false => slot,
                };
                self.coverage.hit("lie.grant");
                let debit = wish.unwrap_or_else(|| offer.takes());
                let grant = Grant { slot, offer: signed.digest(), debit };
                Said::This(Told::Answer(Answer::Grant(Signed::seal(&grant, &arbiter_key(n)))))
            }
            Ask::TenantRoom { .. } => {
                self.coverage.hit("lie.room");
                Said::This(Told::TenantRoom(room(Amounts::UNLIMITED)))
            }
            Ask::Handover => {
                let core = shared.core.borrow();
                let trust = core.trust().cloned();
                let Some(trust) = trust else { return Said::Truth };
                let Some(change) = trust.change() else { return Said::Truth };
                drop(core);
                self.coverage.hit("lie.ready");
                let ready = Ready { cluster: trust.cluster.clone(), slot, change };
                Said::This(Told::Handover(Some(Signed::seal(&ready, &arbiter_key(n)))))
            }
            Ask::Health => {
                let trust_version = Some(self.trust.version);
                Said::This(Told::Health { trust_version, is_ready: true })
            }
            _ => Said::Truth,
        }
    }

    fn no(&mut self, n: usize, shared: &Shared, ask: &Ask) -> Said {
        match ask {
            Ask::Grants(signed, _) => {
                let Ok(offer) = signed.open() else { return Said::Truth };
                self.coverage.hit("lie.denial");
                let slot = u32::try_from(n).unwrap_or(0);
                let why = self.no_reason(&offer);
                let denial = Denial { slot, offer: signed.digest(), why };
                Said::This(Told::Answer(Answer::Denial(Signed::seal(&denial, &arbiter_key(n)))))
            }
            Ask::TenantRoom { .. } => {
                self.coverage.hit("lie.room");
                Said::This(Told::TenantRoom(room(Amounts::ZERO)))
            }
            Ask::TenantBook(tenant) => {
                // As if it had never heard of anybody.
                let mut none = Core::new(arbiter_key(n).public(), 0, false);
                let trust = shared.core.borrow().trust().cloned();
                let Some(trust) = trust else { return Said::Truth };
                none.handle(0, arbiter::core::Input::Trust(trust), &mut Vec::new());
                none.tenant_book(tenant).map_or(Said::Truth, |book| {
                    self.coverage.hit("lie.book");
                    Said::This(Told::TenantBook(book))
                })
            }
            Ask::Handover => Said::This(Told::Handover(None)),
            _ => Said::Truth,
        }
    }

    fn no_reason(&mut self, offer: &Offer) -> DenialReason {
        let host = self.chance.index(self.hosts.len());
        let host = self.hosts[host].id.clone();
        let id = OfferId { num: offer.id.num + 1, ..offer.id };
        match self.chance.below(6) {
            0 => DenialReason::Silent { for_ms: 60_000 },
            1 => DenialReason::Rebuilding { missing: 3 },
            2 => DenialReason::Promised { host, id, for_ms: None },
            3 => DenialReason::OfferEnded { host: offer.host.clone(), id: offer.id },
            4 => DenialReason::OtherTrust { offered: offer.trust_version, here: u64::MAX },
            _ => DenialReason::Quota {
                tenant: offer.tenant.clone(),
                limit: Amounts::ZERO,
                used: Amounts::ZERO,
                asked: offer.takes(),
                at_most: Some(Box::new(Amounts::ZERO)),
                left: Some(Box::new(Amounts::ZERO)),
            },
        }
    }

    /// What it says that it covers, instead of this.
    pub(super) fn lie_of_cover(
        &mut self,
        n: usize,
        said: &Statement,
        term: Option<Term>,
    ) -> Option<Term> {
        if !self.is_liar(n) {
            return term;
        }
        let slot = u32::try_from(n).unwrap_or(0);
        let (host, seq) = (said.host.clone(), said.seq);
        if self.chance.happens(YES_PPM) {
            self.coverage.hit("lie.cover");
            let covered = said.items.iter().map(|item| item.id).collect();
            return Some(Term { slot, host, seq, covered, is_silent: false });
        }
        if self.chance.happens(NO_PPM) {
            let covered = Default::default();
            return Some(Term { slot, host, seq, covered, is_silent: false });
        }
        term.filter(|_| !self.chance.happens(NOTHING_PPM))
    }
}

/// So much is left, of a limit that is nobody's.
fn room(left: Amounts) -> TenantRoom {
    let limit = Some(Amounts::UNLIMITED);
    let has = Amounts::ZERO;
    TenantRoom { limit, used: Amounts::ZERO, at_most: left, left, has, starts: None }
}
