//! How many of a tenant's VMs were started lately by this arbiter's word, and how many more may be.
//!
//! Each start that is granted is remembered under its offer, for as long as it counts
//! ([`StartRate::counted_ms`]), and is given back only when its host says that the offer ended unused: what an
//! arbiter does not hear stays used. Which part of a rate is whose is as with quotas ([`share`]): the parts add up
//! to k times the rate, and a ticket takes a start of k arbiters at least. Whether a grant is a start at all is the core's.
//!
//! ```text
//!   left ── granted ──▶ used ── counted_ms later ──▶ left
//!     ▲                  │
//!     └── ended unused ──┘ by its host's word
//!
//!   all used, from the start of the process or of its membership, for as long as what it may have forgotten counts
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use protocol::amounts::Amounts;
use protocol::api::StartsRoom;
use protocol::id::{HostId, OfferId, TenantId};
use protocol::trust::{Policy, StartRate, Trust};

use crate::books::share;

/// Starts remembered of all tenants together. Rates are for dozens of starts; who has granted more than this within
/// one day says no until some of them are over, instead of forgetting any.
const REMEMBERED_MAX: usize = 100_000;

/// When it is worth asking again whether some of them are over.
const FULL_RETRY_MS: u64 = 60_000;

/// Starts whose hosts are asked before a no is final. What ended otherwise is read within a second and a half anyway.
const HOSTS_ASKED_MAX: usize = 64;

/// A start that was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Start {
    at_ms: u64,
    host: HostId,
    offer: OfferId,
}

/// Every start that counts.
#[derive(Debug, Clone, Default)]
pub struct Rates {
    /// By tenant, in the order in which they were granted.
    starts: BTreeMap<TenantId, VecDeque<Start>>,
    /// The same by host: whose start each offer is.
    offers: BTreeMap<HostId, BTreeMap<OfferId, TenantId>>,
    remembered: usize,
    /// What may have been granted before this time, of tenants whose starts were limited then, nobody here knows.
    unknown: Option<(u64, Arc<Policy>)>,
}

impl Rates {
    /// From now on nothing is known of what was granted before: of tenants whose starts this policy limits, as many
    /// as may be.
    pub fn forget(&mut self, now_ms: u64, policy: &Arc<Policy>) {
        *self = Self { unknown: Some((now_ms, Arc::clone(policy))), ..Self::default() };
    }

    /// Drops what is remembered of tenants whose starts are not limited any more.
    pub fn follow(&mut self, policy: &Policy) {
        let is_over = |tenant: &&TenantId| policy.start_rate(tenant).is_none();
        let over: Vec<TenantId> = self.starts.keys().filter(is_over).cloned().collect();
        for tenant in over {
            self.drop_while(&tenant, |_| true);
        }
    }

    /// What is left for a tenant, apart from starts that whoever asks has been granted already; `None` if its starts
    /// are not limited.
    #[must_use]
    pub fn left(
        &self,
        now_ms: u64,
        at: (u32, &Trust),
        tenant: &TenantId,
        is_own: impl Fn(&HostId, OfferId) -> bool,
    ) -> Option<StartsRoom> {
        let (slot, trust) = at;
        let limit = trust.policy.start_rate(tenant)?;
        let all = Amounts { vms: limit.starts, ..Amounts::UNLIMITED };
        let part = share(all, trust, slot).vms;
        let counted_ms = counted_ms(limit, trust);
        let counted = self.starts.get(tenant).into_iter().flatten();
        let counted = counted.filter(|start| !is_own(&start.host, start.offer));
        let counted = counted.map(|start| start.at_ms + counted_ms);
        let counted: Vec<u64> = counted.filter(|until_ms| *until_ms > now_ms).collect();
        // One is left once no more than all but one of the part are counted.
        let over = counted.len().checked_sub(part as usize);
        let free_ms = over.and_then(|over| counted.get(over)).copied();
        let known_ms = self.known_ms(tenant, counted_ms).filter(|known_ms| *known_ms > now_ms);
        let full_ms = (self.remembered >= REMEMBERED_MAX).then_some(now_ms + FULL_RETRY_MS);
        let is_held_back = known_ms.is_some() || full_ms.is_some();
        let used = u32::try_from(counted.len()).unwrap_or(u32::MAX);
        let used = if is_held_back { used.max(part) } else { used };
        let next_ms = free_ms.max(known_ms).max(full_ms).unwrap_or(now_ms);
        let for_ms = (part > 0).then_some(next_ms - now_ms);
        Some(StartsRoom { limit, part, used, for_ms })
    }

    /// When everything that counts is known here.
    fn known_ms(&self, tenant: &TenantId, counted_ms: u64) -> Option<u64> {
        let (at_ms, policy) = self.unknown.as_ref()?;
        policy.start_rate(tenant).map(|_| at_ms + counted_ms)
    }

    /// Whether the start of this offer is counted already.
    #[must_use]
    pub fn counts(&self, host: &HostId, offer: OfferId) -> bool {
        self.offers.get(host).is_some_and(|offers| offers.contains_key(&offer))
    }

    /// Some hosts with starts of a tenant that count, for whoever wants to ask them which came to nothing: the
    /// last first.
    #[must_use]
    pub fn hosts_of(&self, tenant: &TenantId) -> BTreeSet<HostId> {
        let starts = self.starts.get(tenant).into_iter().flatten().rev().take(HOSTS_ASKED_MAX);
        starts.map(|start| start.host.clone()).collect()
    }

    /// Forgets what is over of all tenants, where much is remembered.
    pub fn make_room(&mut self, now_ms: u64, trust: &Trust) {
        if self.remembered >= REMEMBERED_MAX / 2 {
            for tenant in self.starts.keys().cloned().collect::<Vec<_>>() {
                self.drop_what_is_over(now_ms, trust, &tenant);
            }
        }
    }

    /// Counts a start that is being granted, if the tenant's are limited.
    pub fn count(&mut self, now_ms: u64, trust: &Trust, tenant: &TenantId, at: (&HostId, OfferId)) {
        let (host, offer) = at;
        if trust.policy.start_rate(tenant).is_none() || self.counts(host, offer) {
            return;
        }
        self.drop_what_is_over(now_ms, trust, tenant);
        self.make_room(now_ms, trust);
        let start = Start { at_ms: now_ms, host: host.clone(), offer };
        self.starts.entry(tenant.clone()).or_default().push_back(start);
        self.offers.entry(host.clone()).or_default().insert(offer, tenant.clone());
        self.remembered += 1;
    }

    /// A host says which of its offers ended without having been used: nothing was started by them.
    pub fn give_back(&mut self, host: &HostId, unused: &BTreeSet<OfferId>) {
        let Some(offers) = self.offers.get(host) else { return };
        let given = unused.iter().filter_map(|id| Some((*id, offers.get(id)?.clone())));
        for (offer, tenant) in given.collect::<Vec<_>>() {
            if let Some(starts) = self.starts.get_mut(&tenant) {
                starts.retain(|start| start.host != *host || start.offer != offer);
            }
            self.strike(host, offer);
        }
        self.starts.retain(|_, starts| !starts.is_empty());
    }

    fn drop_what_is_over(&mut self, now_ms: u64, trust: &Trust, tenant: &TenantId) {
        let Some(limit) = trust.policy.start_rate(tenant) else { return };
        let counted_ms = counted_ms(limit, trust);
        self.drop_while(tenant, |start| start.at_ms + counted_ms <= now_ms);
    }

    fn drop_while(&mut self, tenant: &TenantId, is_over: impl Fn(&Start) -> bool) {
        let Some(mut starts) = self.starts.remove(tenant) else { return };
        while let Some(start) = starts.pop_front_if(|start| is_over(start)) {
            self.strike(&start.host, start.offer);
        }
        if !starts.is_empty() {
            self.starts.insert(tenant.clone(), starts);
        }
    }

    fn strike(&mut self, host: &HostId, offer: OfferId) {
        let Some(offers) = self.offers.get_mut(host) else { return };
        self.remembered -= usize::from(offers.remove(&offer).is_some());
        if offers.is_empty() {
            self.offers.remove(host);
        }
    }
}

fn counted_ms(limit: StartRate, trust: &Trust) -> u64 {
    limit.counted_ms(trust.term_ms, trust.clock_ppm)
}
