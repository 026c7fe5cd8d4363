//! What a tenant may still have here: for one job, and all that is booked for it.

use std::collections::BTreeSet;

use protocol::amounts::Amounts;
use protocol::api::{JobDebit, TenantBook, TenantRoom};
use protocol::id::{HostId, JobId, OfferId, TenantId};

use super::{Core, NotMember};
use crate::books::{Counted, share};

/// What a tenant may still have here, for one of its jobs.
pub(super) struct Room {
    /// What hosts have of the job, without the offer in question.
    pub(super) had: Counted,
    /// What counts of the tenant's others.
    pub(super) others: Counted,
    /// This arbiter's part of the quota.
    pub(super) part: Amounts,
    /// All of it.
    pub(super) quota: Amounts,
}

impl Room {
    /// Whether so much may be booked for a job of that size. Each amount for itself: one that does not
    /// grow is not refused because there is too much of it already.
    pub(super) fn has_for(&self, debit: Amounts, takes: Amounts) -> bool {
        let Self { had, others, part, quota } = self;
        let is_well = |of: &fn(Amounts) -> u64| {
            let adds_nothing = of(debit) <= of(had.debit) && of(takes) <= of(had.takes);
            let booked = of(others.debit).saturating_add(of(debit.max(had.debit)));
            let promised = of(others.takes).saturating_add(of(takes.max(had.takes)));
            adds_nothing || (booked <= of(*part) && promised <= of(*quota))
        };
        Amounts::EACH.iter().all(is_well)
    }

    /// What can be booked for the job in all.
    pub(super) fn left(&self) -> Amounts {
        self.part.minus(self.others.debit).max(self.had.debit)
    }

    /// How large the job can be.
    pub(super) fn at_most(&self) -> Amounts {
        self.quota.minus(self.others.takes).max(self.had.takes)
    }
}

impl Core {
    /// Hosts that may know of more that is left of a tenant's quota or rate than is known here.
    #[must_use]
    pub fn hosts_with_news(&self, tenant: &TenantId) -> BTreeSet<HostId> {
        let mut hosts = self.books.hosts_of_tenant(tenant);
        hosts.extend(self.rates.hosts_of(tenant));
        hosts
    }

    /// What it could book for a job, for whoever plans whom to ask for how much.
    pub fn tenant_room(
        &self,
        now_ms: u64,
        tenant: &TenantId,
        job: &JobId,
    ) -> Result<TenantRoom, NotMember> {
        let (slot, trust) = self.arbiter()?;
        // Whoever asks again for an offer has its start already.
        let is_own = |host: &HostId, offer: OfferId| {
            let entry = self.books.of_offer(host, offer);
            entry.is_some_and(|entry| entry.job == *job && !entry.is_hold)
        };
        let starts = self.rates.left(now_ms, (slot, trust), tenant, is_own);
        let limit = trust.quota.get(tenant).copied();
        let quota = limit.unwrap_or(Amounts::UNLIMITED);
        let used = self.books.promised(tenant).told_by(quota);
        let had = self.books.held(tenant, job, |_| false);
        let has = had.debit.told_by(quota);
        if limit.is_none() {
            let (at_most, left) = (quota, quota);
            return Ok(TenantRoom { limit, used, at_most, left, has, starts });
        }
        let others = self.books.of_others(tenant, job);
        let room = Room { had, others, part: share(quota, trust, slot), quota };
        let (at_most, left) = (room.at_most(), room.left());
        Ok(TenantRoom { limit, used, at_most, left, has, starts })
    }

    /// What it has booked for a tenant's jobs.
    pub fn tenant_book(&self, tenant: &TenantId) -> Result<TenantBook, NotMember> {
        let (slot, trust) = self.arbiter()?;
        let limit = trust.quota.get(tenant).copied();
        let part = limit.map(|limit| share(limit, trust, slot));
        let told = |amounts: Amounts| amounts.told_by(limit.unwrap_or(Amounts::UNLIMITED));
        let row = |(job, counted): (&JobId, Counted)| {
            let mut hosts: Vec<&HostId> = self.books.of_job(job).map(|entry| &entry.host).collect();
            hosts.dedup();
            let host = hosts.first().filter(|_| hosts.len() == 1).map(|host| (*host).clone());
            let Counted { debit, takes } = counted;
            JobDebit { job: job.clone(), host, takes: told(takes), debit: told(debit) }
        };
        Ok(TenantBook { part, jobs: self.books.jobs_of(tenant).map(row).collect() })
    }
}
