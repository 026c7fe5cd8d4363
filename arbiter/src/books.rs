//! The arbiter's books: what it has promised to whom, and how much of each quota that takes.
//!
//! An entry is never dropped by time (rule R7), only by the host's own statement (R3) or when the
//! operator takes the host off the roster. Whether a grant may be signed is the core's decision;
//! the numbers for it (R6) are here, summed up as entries come and go: a tenant may have 100 000 jobs,
//! and a grant must not cost more for that.
//!
//! Two sums are kept of a tenant. What is *booked here* is this arbiter's part of each job, by which
//! quotas are exact ([`share`]). What is *promised* is each job's whole size, as far as this arbiter
//! knows of it: what others have granted is known here once the host has said so.

use std::collections::{BTreeMap, BTreeSet};

use protocol::amounts::Amounts;
use protocol::budget::{self, Delegated};
use protocol::id::{HostId, JobId, OfferId, TenantId};
use protocol::signed::Digest;
use protocol::trust::{Committee, Trust};
use protocol::vm::OnLoss;
use schemars::JsonSchema;
use serde::Serialize;

use crate::statement::{Debits, HoldItem, Statement};

/// Most entries of one host. A host runs some hundred guests and keeps some dozen offers open; more
/// than this means that somebody asks for offers without end.
pub const ENTRIES_PER_HOST_MAX: usize = 8192;

/// Hosts asked before a no for want of quota is final. Those with promises that may have ended
/// unredeemed come first; what has ended otherwise is read within a second and a half anyway.
const HOSTS_ASKED_MAX: usize = 64;

/// One promise, of this arbiter or of others as far as a host's statement told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Entry {
    /// Who holds or may redeem it.
    pub host: HostId,
    /// The offer, and the hold it becomes.
    pub id: OfferId,
    /// The job.
    pub job: JobId,
    /// Whose quota.
    pub tenant: TenantId,
    /// What this arbiter has booked for it, as it has signed that or its host has told; of VMs at most
    /// what it takes.
    pub debit: Amounts,
    /// What its host says that it takes: less than the ticket permitted, once a job was made smaller
    /// and its guest has given the rest up. More again takes a ticket, and so another entry.
    pub takes: Amounts,
    /// The offer this arbiter has signed a grant for; `None` when it was learnt from the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed: Option<Digest>,
    /// True once the host's statement listed it as redeemed.
    pub is_hold: bool,
    /// Whether its host kills the job when it is not covered; else the entry alone keeps others away.
    pub on_loss: OnLoss,
    /// Of a budget, what its size does not say: which names are its host's alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delegated: Option<Delegated>,
    /// What its host says of its ticket's debits, by slot. What counts of it here follows from that and
    /// from the trust document in force.
    #[serde(skip)]
    pub told: Option<BTreeMap<u32, Amounts>>,
}

impl Entry {
    /// What counts of it against a quota. Debits that were at least k times the size in all, each at
    /// most the size, are so of the smaller size as well.
    fn counts(&self) -> Counted {
        let (debit, takes) = (self.debit, self.takes);
        Counted { debit: debit.min(takes), takes }
    }
}

/// What counts of a job, or of its largest entry amount by amount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Booked here.
    pub debit: Amounts,
    /// The whole size.
    pub takes: Amounts,
}

impl Counted {
    fn max(self, other: Self) -> Self {
        Self { debit: self.debit.max(other.debit), takes: self.takes.max(other.takes) }
    }
}

/// A sum that can be taken apart again, however large.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum([u128; 4]);

impl Sum {
    fn add(&mut self, part: Amounts) {
        for (sum, of) in self.0.iter_mut().zip(Amounts::EACH) {
            *sum += u128::from(of(part));
        }
    }

    fn subtract(&mut self, part: Amounts) {
        for (sum, of) in self.0.iter_mut().zip(Amounts::EACH) {
            *sum -= u128::from(of(part));
        }
    }

    /// The sum, stopping at the largest number.
    fn amounts(self) -> Amounts {
        Amounts::of_each(self.0.map(|sum| u64::try_from(sum).unwrap_or(u64::MAX)))
    }
}

/// What a tenant has: over its jobs the *largest* of each job's entries (one instance runs at a time).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Account {
    jobs: BTreeMap<JobId, Counted>,
    debit: Sum,
    takes: Sum,
}

impl Account {
    fn count(&mut self, job: &JobId, counted: Option<Counted>) {
        let before = match counted {
            Some(counted) => {
                self.debit.add(counted.debit);
                self.takes.add(counted.takes);
                self.jobs.insert(job.clone(), counted)
            }
            None => self.jobs.remove(job),
        };
        if let Some(before) = before {
            self.debit.subtract(before.debit);
            self.takes.subtract(before.takes);
        }
    }
}

/// All entries, found by host, by job and by tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Books {
    /// An offer is for one job; only what has no offer shares an id.
    hosts: BTreeMap<HostId, BTreeMap<OfferId, Vec<Entry>>>,
    jobs: BTreeMap<JobId, BTreeSet<(HostId, OfferId)>>,
    tenants: BTreeMap<TenantId, Account>,
    /// Holds that were taken from a host by the word that it was off. It lists them again when it is back,
    /// until their guests are gone.
    taken: BTreeMap<HostId, BTreeSet<OfferId>>,
}

impl Books {
    /// Every entry, by host and id.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.hosts.values().flat_map(BTreeMap::values).flatten()
    }

    /// The entries of one job.
    pub fn of_job<'a>(&'a self, job: &'a JobId) -> impl Iterator<Item = &'a Entry> {
        let places = self.jobs.get(job).into_iter().flatten();
        places.filter_map(|(host, id)| self.at(host, *id, job))
    }

    /// Entries of budgets that own the name of a job.
    pub fn owners_of(&self, job: &JobId) -> Vec<&Entry> {
        let is_budget = |entry: &&Entry| entry.delegated.is_some();
        let mut owners = Vec::new();
        for name in budget::owners(job) {
            owners.extend(self.at_each(&name).filter(is_budget));
        }
        owners
    }

    /// Entries of jobs whose names a budget of this name owns.
    pub fn owned_by<'a>(&'a self, budget: &'a JobId) -> impl Iterator<Item = &'a Entry> {
        let from = self.jobs.range(budget..);
        let near = from.take_while(|(job, _)| job.as_str().starts_with(budget.as_str()));
        let owned = near.filter(|(job, _)| budget::owns(budget, job));
        owned.flat_map(move |(job, places)| {
            places.iter().filter_map(move |(host, id)| self.at(host, *id, job))
        })
    }

    fn at_each(&self, job: &JobId) -> impl Iterator<Item = &Entry> {
        let places = self.jobs.get_key_value(job).into_iter();
        places.flat_map(move |(job, places)| {
            places.iter().filter_map(move |(host, id)| self.at(host, *id, job))
        })
    }

    /// The entries of one host, by id.
    pub fn of_host<'a>(&'a self, host: &HostId) -> impl Iterator<Item = &'a Entry> + use<'a> {
        self.hosts.get(host).into_iter().flat_map(BTreeMap::values).flatten()
    }

    /// The entry of one offer, whatever job the books say it is for.
    #[must_use]
    pub fn of_offer(&self, host: &HostId, id: OfferId) -> Option<&Entry> {
        self.hosts.get(host)?.get(&id)?.first()
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

    /// A tenant's jobs, and what counts of each.
    pub fn jobs_of(&self, tenant: &TenantId) -> impl Iterator<Item = (&JobId, Counted)> {
        let jobs = self.tenants.get(tenant).into_iter().flat_map(|account| &account.jobs);
        jobs.map(|(job, counted)| (job, *counted))
    }

    /// Writes a promise down, replacing what was known of the same offer and job.
    pub fn enter(&mut self, entry: Entry) {
        let (host, id, job) = (entry.host.clone(), entry.id, entry.job.clone());
        let tenant = entry.tenant.clone();
        let of_id = self.hosts.entry(host.clone()).or_default().entry(id).or_default();
        let before = match of_id.iter_mut().find(|known| known.job == job) {
            Some(known) => Some(std::mem::replace(known, entry)),
            None => {
                of_id.push(entry);
                self.jobs.entry(job.clone()).or_default().insert((host, id));
                None
            }
        };
        if let Some(before) = before.filter(|before| before.tenant != tenant) {
            self.recount(&before.tenant, &job);
        }
        self.recount(&tenant, &job);
    }

    /// R3 (1) and (2): what the statement covers and omits is closed for ever; what it holds and
    /// the books lack is added. An entry above the watermark is younger than the statement and
    /// stays untouched.
    pub fn correct(&mut self, (slot, trust): (u32, &Trust), host: &HostId, statement: &Statement) {
        let listed: BTreeSet<(OfferId, &JobId)> =
            statement.holds.iter().map(|hold| (hold.id, &hold.job)).collect();
        let is_closed = |entry: &&Entry| {
            !statement.offers.contains(&entry.id) && !listed.contains(&(entry.id, &entry.job))
        };
        let known = self.hosts.get(host).into_iter();
        let known = known.flat_map(|entries| entries.range(..=statement.watermark));
        let closed = known.flat_map(|(_, entries)| entries).filter(is_closed);
        let closed: Vec<(OfferId, JobId)> =
            closed.map(|entry| (entry.id, entry.job.clone())).collect();
        for (id, job) in closed {
            self.strike(host, id, &job);
        }
        for hold in &statement.holds {
            let known = self.at(host, hold.id, &hold.job);
            // A keeper that is older than budgets leaves out what makes it one.
            let delegated = hold.delegated.as_ref();
            let delegated = delegated.or_else(|| known?.delegated.as_ref()).cloned();
            let takes = match &delegated {
                Some(delegated) => delegated.takes(hold.resources),
                None => Amounts::of_vm(hold.resources),
            };
            let debit = debit_of((slot, trust), hold, takes, known);
            let told = match &hold.debits {
                Debits::Known(debits) => Some(debits),
                Debits::NotYet | Debits::Untold => None,
            };
            // Most statements say what the one before has said.
            let is_so = |entry: &Entry| {
                entry.is_hold
                    && (entry.debit, entry.takes) == (debit, takes)
                    && (&entry.tenant, entry.on_loss) == (&hold.tenant, hold.on_loss)
                    && entry.told.as_ref() == told
                    && entry.delegated == delegated
            };
            if known.is_some_and(is_so) {
                continue;
            }
            let signed = known.and_then(|entry| entry.signed);
            self.enter(Entry {
                host: host.clone(),
                id: hold.id,
                job: hold.job.clone(),
                tenant: hold.tenant.clone(),
                debit,
                takes,
                signed,
                is_hold: true,
                on_loss: hold.on_loss,
                delegated,
                told: told.cloned(),
            });
        }
    }

    /// Counts what hosts have told by another trust document: until each is read again, that is at once.
    pub fn follow(&mut self, (slot, trust): (u32, &Trust)) {
        let changed = |entry: &Entry| {
            let debit = trust.booked_at(slot, entry.told.as_ref()?, entry.takes);
            (debit != entry.debit).then(|| Entry { debit, ..entry.clone() })
        };
        let changed: Vec<Entry> = self.entries().filter_map(changed).collect();
        for entry in changed {
            self.enter(entry);
        }
    }

    /// Drops every entry of a host that the operator has retired.
    pub fn retire(&mut self, host: &HostId) {
        self.taken.remove(host);
        let entries = self.hosts.get(host).into_iter().flat_map(BTreeMap::values).flatten();
        let places: Vec<(OfferId, JobId)> =
            entries.map(|entry| (entry.id, entry.job.clone())).collect();
        for (id, job) in places {
            self.strike(host, id, &job);
        }
    }

    /// Drops the entries of a host that an operator says was off, and remembers which they were: what they
    /// took is free, and may be somebody else's when the host is back. What it has said since that it has stays.
    pub fn take(&mut self, host: &HostId, has_since: impl Fn(OfferId) -> bool) {
        let entries = self.of_host(host).filter(|entry| !has_since(entry.id));
        let places: Vec<(OfferId, JobId)> =
            entries.map(|entry| (entry.id, entry.job.clone())).collect();
        for (id, job) in &places {
            self.strike(host, *id, job);
        }
        let taken = self.taken.entry(host.clone()).or_default();
        taken.extend(places.into_iter().map(|(id, _)| id));
    }

    /// R6: what is booked here of a tenant's quota.
    #[must_use]
    pub fn used(&self, tenant: &TenantId) -> Amounts {
        self.tenants.get(tenant).map_or(Amounts::ZERO, |account| account.debit.amounts())
    }

    /// What is promised of it in all, as far as this arbiter knows.
    #[must_use]
    pub fn promised(&self, tenant: &TenantId) -> Amounts {
        self.tenants.get(tenant).map_or(Amounts::ZERO, |account| account.takes.amounts())
    }

    /// What the tenant's other jobs take, booked here and in all.
    #[must_use]
    pub fn of_others(&self, tenant: &TenantId, job: &JobId) -> Counted {
        let Some(account) = self.tenants.get(tenant) else { return Counted::default() };
        let (mut debit, mut takes) = (account.debit, account.takes);
        if let Some(own) = account.jobs.get(job) {
            debit.subtract(own.debit);
            takes.subtract(own.takes);
        }
        Counted { debit: debit.amounts(), takes: takes.amounts() }
    }

    /// What a job has, apart from one offer for it, for whoever wants that again or more.
    #[must_use]
    pub fn had(&self, tenant: &TenantId, job: &JobId, but: Option<(&HostId, OfferId)>) -> Counted {
        self.largest(tenant, job, |entry| but.is_none_or(|but| but != (&entry.host, entry.id)))
    }

    /// What hosts have said that a job has, apart from what is `past`. An unredeemed promise is nothing that is had:
    /// others may know that it is over, and have given its room away.
    #[must_use]
    pub fn held(&self, tenant: &TenantId, job: &JobId, past: impl Fn(&Entry) -> bool) -> Counted {
        self.largest(tenant, job, |entry| entry.is_hold && !past(entry))
    }

    /// The largest of some of a job's entries. What was taken from its host is not had: its room was free.
    fn largest(&self, tenant: &TenantId, job: &JobId, counts: impl Fn(&Entry) -> bool) -> Counted {
        let is_taken =
            |entry: &Entry| self.taken.get(&entry.host).is_some_and(|ids| ids.contains(&entry.id));
        let entries = self.of_job(job).filter(|entry| entry.tenant == *tenant && !is_taken(entry));
        let entries = entries.filter(|entry| counts(entry));
        entries.fold(Counted::default(), |most, entry| most.max(entry.counts()))
    }

    /// What counts of a job.
    #[must_use]
    pub fn of_job_in_all(&self, tenant: &TenantId, job: &JobId) -> Counted {
        let entries = self.of_job(job).filter(|entry| entry.tenant == *tenant);
        entries.fold(Counted::default(), |most, entry| most.max(entry.counts()))
    }

    /// Some hosts with entries of a tenant, for whoever wants to ask them whether that is still so:
    /// first those with promises that may have ended.
    #[must_use]
    pub fn hosts_of_tenant(&self, tenant: &TenantId) -> BTreeSet<HostId> {
        let entries = || self.jobs_of(tenant).flat_map(|(job, _)| self.of_job(job));
        let open = entries().filter(|entry| !entry.is_hold);
        let mut hosts = BTreeSet::new();
        for entry in open.chain(entries()) {
            if hosts.len() >= HOSTS_ASKED_MAX {
                break;
            }
            hosts.insert(entry.host.clone());
        }
        hosts
    }

    fn at(&self, host: &HostId, id: OfferId, job: &JobId) -> Option<&Entry> {
        self.hosts.get(host)?.get(&id)?.iter().find(|entry| entry.job == *job)
    }

    fn strike(&mut self, host: &HostId, id: OfferId, job: &JobId) {
        let Some(entries) = self.hosts.get_mut(host) else { return };
        let Some(of_id) = entries.get_mut(&id) else { return };
        let Some(at) = of_id.iter().position(|entry| entry.job == *job) else { return };
        let entry = of_id.swap_remove(at);
        if of_id.is_empty() {
            entries.remove(&id);
        }
        if entries.is_empty() {
            self.hosts.remove(host);
        }
        if let Some(places) = self.jobs.get_mut(job) {
            places.remove(&(host.clone(), id));
            if places.is_empty() {
                self.jobs.remove(job);
            }
        }
        self.recount(&entry.tenant, job);
    }

    /// The sums of a tenant, after an entry of one of its jobs has come, changed or gone.
    fn recount(&mut self, tenant: &TenantId, job: &JobId) {
        let is_left = self.of_job(job).any(|entry| entry.tenant == *tenant);
        let counted = is_left.then(|| self.of_job_in_all(tenant, job));
        let account = self.tenants.entry(tenant.clone()).or_default();
        account.count(job, counted);
        if account.jobs.is_empty() {
            self.tenants.remove(tenant);
        }
    }
}

/// What a hold counts here. By its ticket's final word on debits, as far as that is known; a host that
/// does not say which arbiters have booked how much may have been granted everything by others or by
/// none of those in force, so the whole size is assumed everywhere.
fn debit_of(
    (slot, trust): (u32, &Trust),
    hold: &HoldItem,
    takes: Amounts,
    known: Option<&Entry>,
) -> Amounts {
    match (&hold.debits, known) {
        (Debits::Known(debits), _) => trust.booked_at(slot, debits, takes),
        // Redeemed while its host was read: until the next read it counts what it was granted.
        (Debits::NotYet, Some(entry)) if entry.signed.is_some() => entry.debit,
        (Debits::NotYet | Debits::Untold, _) => takes,
    }
}

/// R6: this arbiter's part of a quota, so that the parts of all are together exactly what k honest
/// debits a job can use up: Q·(k−f) over n−f arbiters. Amounts are whole, so what does not go evenly
/// goes to the lowest slots, one each. However the parts are used up, jobs whose honest debits are
/// k−f times their size cannot add up to more than Q; and as long as the parts that are left differ
/// by no more than one, all of Q can be used. Who is in the committee in force and in the next one
/// keeps to the smaller part.
#[must_use]
pub fn share(quota: Amounts, trust: &Trust, slot: u32) -> Amounts {
    let its = trust.committees(trust.change()).filter(|committee| committee.has(slot));
    let parts = its.map(|committee| part(quota, committee, trust.f, slot));
    parts.reduce(Amounts::min).unwrap_or(Amounts::ZERO)
}

fn part(quota: Amounts, committee: Committee<'_>, f: u32, slot: u32) -> Amounts {
    let (k, n) = (u128::from(committee.k), u128::from(committee.n()));
    let f = u128::from(f);
    let (part, whole) = (k.saturating_sub(f), n.saturating_sub(f).max(1));
    let rank = committee.members.iter().filter(|arbiter| arbiter.slot < slot).count() as u128;
    let of = |amount: u64| {
        let all = u128::from(amount) * part;
        let its = all / whole + u128::from(rank < all % whole);
        u64::try_from(its).unwrap_or(u64::MAX)
    };
    Amounts::of_each(Amounts::EACH.map(|amount| of(amount(quota)))).told_by(quota)
}
