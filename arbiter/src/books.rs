//! The arbiter's books: what it has promised to whom, and how much of each quota that takes.
//!
//! An entry is never dropped by time (rule R7), only by the host's own statement (R3) or when the
//! operator takes the host off the roster. Whether a grant may be signed is the core's decision;
//! the numbers for it (R6) are here.

use std::collections::{BTreeMap, BTreeSet};

use protocol::id::{HostId, JobId, OfferId, TenantId};
use protocol::resources::Resources;
use protocol::signed::Digest;
use protocol::trust::{Committee, Trust};
use protocol::vm::OnLoss;
use serde::Serialize;

use crate::statement::Statement;

/// Most entries of one host. A host runs some hundred guests and keeps some dozen offers open; more
/// than this means that somebody asks for offers without end.
pub const ENTRIES_PER_HOST_MAX: usize = 8192;

/// One promise, of this arbiter or of others as far as a host's statement told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Who holds or may redeem it.
    pub host: HostId,
    /// The offer, and the hold it becomes.
    pub id: OfferId,
    /// The job.
    pub job: JobId,
    /// Whose quota.
    pub tenant: TenantId,
    /// What this arbiter has booked for it.
    pub debit: Resources,
    /// What its host says that it takes: less than the ticket permitted, once a job was made smaller
    /// and its guest has given the rest up. More again takes a ticket, and so another entry.
    pub takes: Resources,
    /// The offer this arbiter has signed a grant for; `None` when it was learnt from the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed: Option<Digest>,
    /// True once the host's statement listed it as redeemed.
    pub is_hold: bool,
    /// Whether its host kills the job when it is not covered; else the entry alone keeps others away.
    pub on_loss: OnLoss,
}

impl Entry {
    /// What counts of it against a quota. Debits of k slots that were at least k times the size, each
    /// at most the size, are so of the smaller size as well.
    fn counts(&self) -> Resources {
        let (debit, takes) = (self.debit, self.takes);
        Resources {
            vcpus: debit.vcpus.min(takes.vcpus),
            memory_bytes: debit.memory_bytes.min(takes.memory_bytes),
            disk_bytes: debit.disk_bytes.min(takes.disk_bytes),
        }
    }
}

type Place = (OfferId, JobId);

/// All entries, found by host, by job and by tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Books {
    hosts: BTreeMap<HostId, BTreeMap<Place, Entry>>,
    jobs: BTreeMap<JobId, BTreeSet<(HostId, OfferId)>>,
    tenants: BTreeMap<TenantId, BTreeSet<JobId>>,
}

impl Books {
    /// Every entry, by host and id.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.hosts.values().flat_map(BTreeMap::values)
    }

    /// The entries of one job.
    pub fn of_job<'a>(&'a self, job: &'a JobId) -> impl Iterator<Item = &'a Entry> {
        let places = self.jobs.get(job).into_iter().flatten();
        places.filter_map(|(host, id)| self.hosts.get(host)?.get(&(*id, job.clone())))
    }

    /// The entry of one offer, whatever job the books say it is for.
    #[must_use]
    pub fn of_offer(&self, host: &HostId, id: OfferId) -> Option<&Entry> {
        self.hosts.get(host)?.values().find(|entry| entry.id == id)
    }

    /// How many entries a host has.
    #[must_use]
    pub fn count_of(&self, host: &HostId) -> usize {
        self.hosts.get(host).map_or(0, BTreeMap::len)
    }

    /// Tenants with entries.
    pub fn tenants(&self) -> impl Iterator<Item = &TenantId> {
        self.tenants.keys()
    }

    /// Writes a promise down, replacing what was known of the same offer and job.
    pub fn enter(&mut self, entry: Entry) {
        let place = (entry.id, entry.job.clone());
        self.strike(&entry.host.clone(), &place);
        self.jobs.entry(entry.job.clone()).or_default().insert((entry.host.clone(), entry.id));
        self.tenants.entry(entry.tenant.clone()).or_default().insert(entry.job.clone());
        self.hosts.entry(entry.host.clone()).or_default().insert(place, entry);
    }

    /// R3 (1) and (2): what the statement covers and omits is closed for ever; what it holds and
    /// the books lack is added. An entry above the watermark is younger than the statement and
    /// stays untouched.
    pub fn correct(&mut self, slot: u32, host: &HostId, statement: &Statement) {
        let listed: BTreeSet<(OfferId, &JobId)> =
            statement.holds.iter().map(|hold| (hold.id, &hold.job)).collect();
        let is_closed = |(id, job): &Place| {
            *id <= statement.watermark
                && !statement.offers.contains(id)
                && !listed.contains(&(*id, job))
        };
        let known = self.hosts.get(host).into_iter().flat_map(BTreeMap::keys);
        let closed: Vec<Place> = known.filter(|place| is_closed(place)).cloned().collect();
        for place in closed {
            self.strike(host, &place);
        }
        for hold in &statement.holds {
            let place = (hold.id, hold.job.clone());
            let known = self.hosts.get(host).and_then(|entries| entries.get(&place));
            let said = hold.debits.as_ref();
            // The ticket's final word on debits, else what this arbiter booked, else the whole size.
            let debit = match (said, known) {
                (Some(debits), _) => debits.get(&slot).copied().unwrap_or(Resources::ZERO),
                (None, Some(entry)) => entry.debit,
                (None, None) => hold.resources,
            };
            let signed = known.and_then(|entry| entry.signed);
            let (host, id, job) = (host.clone(), hold.id, hold.job.clone());
            let (tenant, takes) = (hold.tenant.clone(), hold.resources);
            let on_loss = hold.on_loss;
            self.enter(Entry {
                host,
                id,
                job,
                tenant,
                debit,
                takes,
                signed,
                is_hold: true,
                on_loss,
            });
        }
    }

    /// Drops every entry of a host that the operator has retired.
    pub fn retire(&mut self, host: &HostId) {
        let places: Vec<Place> =
            self.hosts.get(host).into_iter().flat_map(BTreeMap::keys).cloned().collect();
        for place in places {
            self.strike(host, &place);
        }
    }

    /// R6: what a tenant has promised, over its jobs the *largest* of each job's debits (one
    /// instance runs at a time), with `debit` for `job` counted in.
    #[must_use]
    pub fn used(&self, tenant: &TenantId, with: Option<(&JobId, Resources)>) -> Resources {
        let jobs = self.tenants.get(tenant).into_iter().flatten();
        let mut sum = jobs.fold(Resources::ZERO, |sum, job| {
            let extra = with.filter(|(asked, _)| *asked == job).map(|(_, debit)| debit);
            sum.plus(self.largest(tenant, job).max(extra.unwrap_or(Resources::ZERO)))
        });
        if let Some((job, debit)) = with
            && !self.tenants.get(tenant).is_some_and(|jobs| jobs.contains(job))
        {
            sum = sum.plus(debit);
        }
        sum
    }

    /// What the tenant's other jobs take.
    #[must_use]
    pub fn used_by_others(&self, tenant: &TenantId, job: &JobId) -> Resources {
        let jobs = self.tenants.get(tenant).into_iter().flatten().filter(|other| *other != job);
        jobs.fold(Resources::ZERO, |sum, other| sum.plus(self.largest(tenant, other)))
    }

    /// Hosts with entries of a tenant, for whoever wants to ask them whether that is still so.
    #[must_use]
    pub fn hosts_of_tenant(&self, tenant: &TenantId) -> BTreeSet<HostId> {
        let jobs = self.tenants.get(tenant).into_iter().flatten();
        jobs.flat_map(|job| self.of_job(job)).map(|entry| entry.host.clone()).collect()
    }

    fn largest(&self, tenant: &TenantId, job: &JobId) -> Resources {
        let entries = self.of_job(job).filter(|entry| entry.tenant == *tenant);
        entries.fold(Resources::ZERO, |most, entry| most.max(entry.counts()))
    }

    fn strike(&mut self, host: &HostId, place: &Place) {
        let Some(entries) = self.hosts.get_mut(host) else { return };
        let Some(entry) = entries.remove(place) else { return };
        if entries.is_empty() {
            self.hosts.remove(host);
        }
        if let Some(places) = self.jobs.get_mut(&entry.job) {
            places.remove(&(host.clone(), entry.id));
            if places.is_empty() {
                self.jobs.remove(&entry.job);
            }
        }
        let is_tenant_left = self.of_job(&entry.job).any(|other| other.tenant == entry.tenant);
        if !is_tenant_left && let Some(jobs) = self.tenants.get_mut(&entry.tenant) {
            jobs.remove(&entry.job);
            if jobs.is_empty() {
                self.tenants.remove(&entry.tenant);
            }
        }
    }
}

/// R6: this arbiter's part of a quota, ⌊Q·(k−f)/(n−f)⌋ of each amount. However the parts are used
/// up, k honest debits a job cannot add up to more than Q. Who is in the committee in force and in the
/// next one keeps to the smaller part.
#[must_use]
pub fn share(quota: Resources, trust: &Trust, slot: u32) -> Resources {
    let its = trust.committees(trust.change()).filter(|committee| committee.has(slot));
    let parts = its.map(|committee| part(quota, committee, trust.f));
    parts
        .reduce(|one, other| Resources {
            vcpus: one.vcpus.min(other.vcpus),
            memory_bytes: one.memory_bytes.min(other.memory_bytes),
            disk_bytes: one.disk_bytes.min(other.disk_bytes),
        })
        .unwrap_or(Resources::ZERO)
}

fn part(quota: Resources, committee: Committee<'_>, f: u32) -> Resources {
    let (k, n) = (u128::from(committee.k), u128::from(committee.n()));
    let f = u128::from(f);
    let (part, whole) = (k.saturating_sub(f), n.saturating_sub(f).max(1));
    let of = |amount: u64| u64::try_from(u128::from(amount) * part / whole).unwrap_or(u64::MAX);
    Resources {
        vcpus: u32::try_from(of(u64::from(quota.vcpus))).unwrap_or(u32::MAX),
        memory_bytes: of(quota.memory_bytes),
        disk_bytes: of(quota.disk_bytes),
    }
}
