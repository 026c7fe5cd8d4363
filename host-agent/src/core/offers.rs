//! Offers a host has made in this life: each reserves room, works once and ends (rules R8, R16).
//!
//! Volatile on purpose: a restart is a new epoch, and ends every offer of the earlier one.

use std::collections::{BTreeMap, VecDeque};

use protocol::hugepages::Pages;
use protocol::id::{Epoch, JobId, OfferId, PoolName, TenantId};
use protocol::resources::Resources;
use protocol::ticket::OfferStanding;
use protocol::vm::OnLoss;
use uuid::Uuid;

/// Open offers at a time. Each reserves room for D (9 s), so more than this many unredeemed ones
/// mean schedulers that ask and do not come.
pub(super) const OPEN_MAX: u32 = 256;
/// Ended offers remembered, so that a late ticket is told "used" or "ended" and not "unknown".
const ENDED_MAX: usize = 4096;

/// Offers that ended unused that arbiters are told of: they read every second and a half.
const UNUSED_TOLD_MAX: usize = 256;

/// An offer that may still be redeemed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) job: JobId,
    pub(super) resources: Resources,
    /// Huge pages beside that.
    pub(super) pages: Pages,
    /// Dedicated CPUs beside that.
    pub(super) dedicated_cpus: u32,
    pub(super) tenant: TenantId,
    pub(super) on_loss: OnLoss,
    /// The domain that it would make a job of: it is not counted twice.
    pub(super) domain: Option<Uuid>,
    /// What is to be made in pools, in bytes.
    pub(super) in_pools: BTreeMap<PoolName, u64>,
    /// When it can no longer be redeemed, on the host's clock: issued + D − K.
    pub(super) until_ms: u64,
}

#[derive(Debug)]
pub(super) struct Offers {
    epoch: Epoch,
    num: u64,
    open: BTreeMap<OfferId, Open>,
    ended: VecDeque<(OfferId, OfferStanding)>,
}

impl Offers {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self { epoch, num: 0, open: BTreeMap::new(), ended: VecDeque::new() }
    }

    pub(super) fn issue(&mut self, offer: Open) -> OfferId {
        self.num += 1;
        let id = OfferId { epoch: self.epoch, num: self.num };
        self.open.insert(id, offer);
        id
    }

    /// Highest number ever issued (the watermark of a statement).
    pub(super) fn watermark(&self) -> OfferId {
        OfferId { epoch: self.epoch, num: self.num }
    }

    pub(super) fn standing(&self, id: OfferId, now_ms: u64) -> OfferStanding {
        if let Some(open) = self.open.get(&id) {
            return match open.until_ms.saturating_sub(now_ms) {
                0 => OfferStanding::Ended,
                left_ms => OfferStanding::Open { left_ms },
            };
        }
        let remembered = self.ended.iter().find(|(ended, _)| *ended == id);
        match remembered {
            Some((_, standing)) => *standing,
            None if id.epoch == self.epoch && id.num <= self.num => OfferStanding::Ended,
            None => OfferStanding::Unknown,
        }
    }

    /// When an open offer can no longer be redeemed.
    pub(super) fn until_ms(&self, id: OfferId) -> Option<u64> {
        self.open.get(&id).map(|open| open.until_ms)
    }

    /// Ends an offer for good; false when it was not open.
    pub(super) fn end(&mut self, id: OfferId, how: OfferStanding) -> bool {
        let was_open = self.open.remove(&id).is_some();
        if was_open {
            self.ended.push_back((id, how));
            if self.ended.len() > ENDED_MAX {
                self.ended.pop_front();
            }
        }
        was_open
    }

    pub(super) fn end_expired(&mut self, now_ms: u64) {
        let expired = |(id, open): (&OfferId, &Open)| (open.until_ms <= now_ms).then_some(*id);
        let ids: Vec<OfferId> = self.open.iter().filter_map(expired).collect();
        for id in ids {
            self.end(id, OfferStanding::Ended);
        }
    }

    /// Ends every open offer for a job: it is decided, or the source hands it away (rule M3).
    pub(super) fn end_of_job(&mut self, job: &JobId) {
        let of_job = |(id, open): (&OfferId, &Open)| (open.job == *job).then_some(*id);
        let ids: Vec<OfferId> = self.open.iter().filter_map(of_job).collect();
        for id in ids {
            self.end(id, OfferStanding::Ended);
        }
    }

    /// Ends everything: a new trust document makes every earlier offer void.
    pub(super) fn end_all(&mut self) {
        let ids: Vec<OfferId> = self.open.keys().copied().collect();
        for id in ids {
            self.end(id, OfferStanding::Ended);
        }
    }

    /// The last offers that ended without having been redeemed: nothing was ever started by them.
    pub(super) fn unused(&self) -> impl Iterator<Item = OfferId> {
        let unused = |(id, how): &(OfferId, OfferStanding)| {
            matches!(how, OfferStanding::Ended).then_some(*id)
        };
        self.ended.iter().rev().filter_map(unused).take(UNUSED_TOLD_MAX)
    }

    pub(super) fn open(&self) -> impl Iterator<Item = (OfferId, &Open)> {
        self.open.iter().map(|(id, open)| (*id, open))
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.open.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_open_then_ended_and_never_again() {
        let mut offers = Offers::new(Epoch(4));
        let job: JobId = "web-1".parse().unwrap();
        let (tenant, on_loss) = (TenantId::default_tenant(), OnLoss::Keep);
        let resources = Resources::ZERO;
        let (pages, in_pools) = (Pages::NONE, BTreeMap::new());
        let open = Open {
            job,
            resources,
            pages,
            dedicated_cpus: 0,
            tenant,
            on_loss,
            domain: None,
            in_pools,
            until_ms: 100,
        };
        let id = offers.issue(open.clone());
        assert_eq!(offers.standing(id, 99), OfferStanding::Open { left_ms: 1 });
        assert_eq!(offers.standing(id, 100), OfferStanding::Ended);
        offers.end(id, OfferStanding::Used);
        assert_eq!(offers.standing(id, 0), OfferStanding::Used);
        assert_ne!(offers.issue(open), id);
        let other_life = OfferId { epoch: Epoch(3), num: 1 };
        assert_eq!(offers.standing(other_life, 0), OfferStanding::Unknown);
        let never = OfferId { epoch: Epoch(4), num: 99 };
        assert_eq!(offers.standing(never, 0), OfferStanding::Unknown);
    }

    #[test]
    fn what_ended_unused_is_told_and_what_was_redeemed_never() {
        let mut offers = Offers::new(Epoch(4));
        let open = |job: &str| Open {
            job: job.parse().unwrap(),
            resources: Resources::ZERO,
            pages: Pages::NONE,
            dedicated_cpus: 0,
            tenant: TenantId::default_tenant(),
            on_loss: OnLoss::Keep,
            domain: None,
            in_pools: BTreeMap::new(),
            until_ms: 100,
        };
        let (used, beside) = (offers.issue(open("web-1")), offers.issue(open("web-1")));
        let (voided, late) = (offers.issue(open("web-2")), offers.issue(open("web-3")));
        offers.end(used, OfferStanding::Used);
        offers.end_of_job(&"web-1".parse().unwrap());
        offers.end(voided, OfferStanding::Ended);
        assert_eq!(offers.unused().collect::<Vec<_>>(), [voided, beside], "the last first");
        offers.end_expired(100);
        assert_eq!(offers.unused().collect::<Vec<_>>(), [late, voided, beside]);
        for _ in 0..2 * UNUSED_TOLD_MAX {
            let id = offers.issue(open("web-4"));
            offers.end(id, OfferStanding::Ended);
        }
        assert_eq!(offers.unused().count(), UNUSED_TOLD_MAX);
    }
}
