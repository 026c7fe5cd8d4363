//! The jobs of a host in memory, and the sums over them that every request asks for.
//!
//! What is promised to all jobs, how many of them start, who needs cover, which rights and addresses are
//! taken: counted anew for each request, that would cost what the host has, and not what the request
//! changes. So it is an account: whatever changes a job goes through [`Table::change`],
//! [`Table::insert`] or [`Table::remove`], which put the job's new share in the place of its old one.
//! There is no other way to a job that can be changed.

use std::collections::{BTreeMap, BTreeSet};

use protocol::cpus::CpuSet;
use protocol::hugepages::Pages;
use protocol::id::{JobId, OfferId};
use protocol::job::JobState;
use protocol::resources::Resources;
use protocol::vm::OnLoss;

use super::agent::Entry;
use super::cpus::named_cpus;
use super::tenure::on_loss;

/// Jobs by id.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: BTreeMap<JobId, Row>,
    account: Account,
}

#[derive(Debug)]
struct Row {
    entry: Entry,
    /// What of the account is this job's.
    share: Share,
}

/// The sums over all jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Account {
    promised: Sums,
    /// Huge pages; so few that no sum stops at a largest number.
    pages: Pages,
    dedicated_cpus: u64,
    /// How many jobs that are alive name each CPU.
    named_cpus: BTreeMap<u32, usize>,
    starts: usize,
    covered: usize,
    /// How many jobs have each hold.
    holds: BTreeMap<OfferId, usize>,
    /// Jobs by the addresses of their cards.
    macs: BTreeMap<String, BTreeSet<JobId>>,
    /// Jobs by the budgets that they are here by.
    users: BTreeMap<JobId, BTreeSet<JobId>>,
}

/// What one job adds to them.
#[derive(Debug, PartialEq, Eq)]
struct Share {
    promised: Resources,
    pages: Pages,
    dedicated_cpus: u32,
    named_cpus: CpuSet,
    is_starting: bool,
    is_covered: bool,
    hold: Option<OfferId>,
    budget: Option<JobId>,
    macs: Vec<String>,
}

/// A sum that can be taken apart again, because it never stops at a largest number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sums {
    vcpus: u64,
    memory_bytes: u128,
    disk_bytes: u128,
}

impl Table {
    pub(super) fn get(&self, id: &JobId) -> Option<&Entry> {
        self.rows.get(id).map(|row| &row.entry)
    }

    pub(super) fn contains_key(&self, id: &JobId) -> bool {
        self.rows.contains_key(id)
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// In the order of their ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&JobId, &Entry)> {
        self.rows.iter().map(|(id, row)| (id, &row.entry))
    }

    /// In the order of their ids.
    pub(super) fn values(&self) -> impl Iterator<Item = &Entry> {
        self.rows.values().map(|row| &row.entry)
    }

    /// Changes a job; `None`: there is none of this id.
    pub(super) fn change<T>(&mut self, id: &JobId, how: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let Row { entry, share } = self.rows.get_mut(id)?;
        let done = how(entry);
        let next = Share::of(id, entry);
        if next != *share {
            self.account.take(id, share);
            self.account.put(id, &next);
            *share = next;
        }
        Some(done)
    }

    /// Puts a job in the place of the one with its id, if there is one.
    pub(super) fn insert(&mut self, id: JobId, entry: Entry) {
        self.remove(&id);
        let share = Share::of(&id, &entry);
        self.account.put(&id, &share);
        self.rows.insert(id, Row { entry, share });
    }

    pub(super) fn remove(&mut self, id: &JobId) {
        if let Some(row) = self.rows.remove(id) {
            self.account.take(id, &row.share);
        }
    }

    /// What is promised to all jobs together.
    pub(super) fn promised(&self) -> Resources {
        self.account.promised.capped()
    }

    /// The same, of one job only what its snapshots keep: that is there whatever becomes of the job.
    pub(super) fn promised_without(&self, id: &JobId) -> Resources {
        let Some(Row { entry, share }) = self.rows.get(id) else { return self.promised() };
        let disk_bytes = entry.record.job.own_snapshot_bytes();
        let kept = Resources { disk_bytes, ..Resources::ZERO };
        self.account.promised.minus(share.promised).plus(kept).capped()
    }

    /// The huge pages that are promised to all jobs together.
    pub(super) fn pages(&self) -> Pages {
        self.account.pages
    }

    /// The same without a job.
    pub(super) fn pages_without(&self, id: &JobId) -> Pages {
        let own = self.rows.get(id).map(|row| row.share.pages).unwrap_or_default();
        self.account.pages.minus(own)
    }

    /// The dedicated CPUs that are promised to all jobs together.
    pub(super) fn dedicated_cpus(&self) -> u32 {
        u32::try_from(self.account.dedicated_cpus).unwrap_or(u32::MAX)
    }

    /// The same without a job.
    pub(super) fn dedicated_cpus_without(&self, id: &JobId) -> u32 {
        let own = self.rows.get(id).map_or(0, |row| row.share.dedicated_cpus);
        u32::try_from(self.account.dedicated_cpus - u64::from(own)).unwrap_or(u32::MAX)
    }

    /// The CPUs that jobs which are alive name by number, without one job; in the order of their numbers.
    pub(super) fn named_cpus_without(&self, id: Option<&JobId>) -> impl Iterator<Item = u32> {
        let own = id.and_then(|id| self.rows.get(id)).map(|row| &row.share.named_cpus);
        let own = move |cpu: u32| usize::from(own.is_some_and(|own| own.has(cpu)));
        let named = self.account.named_cpus.iter();
        named.filter(move |(cpu, jobs)| **jobs > own(**cpu)).map(|(cpu, _)| *cpu)
    }

    /// How many are being started.
    pub(super) fn starts(&self) -> usize {
        self.account.starts
    }

    /// Whether one of them has a right to run that must be covered.
    pub(super) fn needs_cover(&self) -> bool {
        self.account.covered > 0
    }

    /// Whether one of them is here by this right.
    pub(super) fn holds(&self, hold: OfferId) -> bool {
        self.account.holds.contains_key(&hold)
    }

    /// The jobs that are here by a budget, in the order of their ids.
    pub(super) fn users_of(&self, budget: &JobId) -> impl Iterator<Item = &JobId> {
        self.account.users.get(budget).into_iter().flatten()
    }

    /// Whether a job is here by a budget.
    pub(super) fn is_by_budget(&self, id: &JobId) -> bool {
        self.rows.get(id).is_some_and(|row| row.share.budget.is_some())
    }

    /// The first job that is alive and has one of these addresses, without one job.
    pub(super) fn has_mac(&self, macs: &[String], without: &JobId) -> Option<(&JobId, &str)> {
        let jobs = macs.iter().filter_map(|mac| self.account.macs.get(mac)).flatten();
        let first = jobs.filter(|job| *job != without).min()?;
        let mac = self.rows.get(first)?.share.macs.iter().find(|mac| macs.contains(mac))?;
        Some((first, mac))
    }

    /// Counts everything anew.
    ///
    /// # Panics
    /// When the account says something else.
    #[cfg(test)]
    pub(super) fn audit(&self) {
        let mut counted = Account::default();
        for (id, row) in &self.rows {
            counted.put(id, &Share::of(id, &row.entry));
        }
        assert_eq!(self.account, counted, "sums_are_what_a_full_count_gives");
    }
}

impl Share {
    fn of(id: &JobId, entry: &Entry) -> Self {
        let job = &entry.record.job;
        let (macs, named_cpus) = match job.state.is_ended() {
            true => (vec![], CpuSet::NONE),
            false => (job.spec.macs(id), named_cpus(&job.spec)),
        };
        Self {
            promised: job.allocation(),
            pages: job.pages(),
            dedicated_cpus: job.dedicated_cpus(),
            named_cpus,
            is_starting: entry.work.is_some() && job.state == JobState::Starting,
            is_covered: job.hold.is_some() && on_loss(job) == OnLoss::Stop,
            hold: job.hold,
            budget: job.budget.clone(),
            macs,
        }
    }
}

impl Account {
    fn put(&mut self, id: &JobId, share: &Share) {
        self.promised = self.promised.plus(share.promised);
        self.pages = self.pages.plus(share.pages);
        self.dedicated_cpus += u64::from(share.dedicated_cpus);
        for cpu in share.named_cpus.iter() {
            *self.named_cpus.entry(cpu).or_default() += 1;
        }
        self.starts += usize::from(share.is_starting);
        self.covered += usize::from(share.is_covered);
        if let Some(hold) = share.hold {
            *self.holds.entry(hold).or_default() += 1;
        }
        for mac in &share.macs {
            self.macs.entry(mac.clone()).or_default().insert(id.clone());
        }
        if let Some(budget) = &share.budget {
            self.users.entry(budget.clone()).or_default().insert(id.clone());
        }
    }

    /// Takes off what was put.
    fn take(&mut self, id: &JobId, share: &Share) {
        self.promised = self.promised.minus(share.promised);
        self.pages = self.pages.minus(share.pages);
        self.dedicated_cpus -= u64::from(share.dedicated_cpus);
        for cpu in share.named_cpus.iter() {
            if let Some(jobs) = self.named_cpus.get_mut(&cpu) {
                *jobs -= 1;
                if *jobs == 0 {
                    self.named_cpus.remove(&cpu);
                }
            }
        }
        self.starts -= usize::from(share.is_starting);
        self.covered -= usize::from(share.is_covered);
        if let Some(hold) = share.hold
            && let Some(jobs) = self.holds.get_mut(&hold)
        {
            *jobs -= 1;
            if *jobs == 0 {
                self.holds.remove(&hold);
            }
        }
        if let Some(budget) = &share.budget
            && let Some(jobs) = self.users.get_mut(budget)
        {
            jobs.remove(id);
            if jobs.is_empty() {
                self.users.remove(budget);
            }
        }
        for mac in &share.macs {
            if let Some(jobs) = self.macs.get_mut(mac) {
                jobs.remove(id);
                if jobs.is_empty() {
                    self.macs.remove(mac);
                }
            }
        }
    }
}

impl Sums {
    fn plus(self, more: Resources) -> Self {
        Self {
            vcpus: self.vcpus + u64::from(more.vcpus),
            memory_bytes: self.memory_bytes + u128::from(more.memory_bytes),
            disk_bytes: self.disk_bytes + u128::from(more.disk_bytes),
        }
    }

    /// Takes off what was put.
    fn minus(self, less: Resources) -> Self {
        Self {
            vcpus: self.vcpus - u64::from(less.vcpus),
            memory_bytes: self.memory_bytes - u128::from(less.memory_bytes),
            disk_bytes: self.disk_bytes - u128::from(less.disk_bytes),
        }
    }

    /// As amounts that stop at the largest number.
    fn capped(self) -> Resources {
        Resources {
            vcpus: u32::try_from(self.vcpus).unwrap_or(u32::MAX),
            memory_bytes: u64::try_from(self.memory_bytes).unwrap_or(u64::MAX),
            disk_bytes: u64::try_from(self.disk_bytes).unwrap_or(u64::MAX),
        }
    }
}
