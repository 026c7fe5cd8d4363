//! Which expectations read a fact that has changed.
//!
//! ```text
//!   host's row ─┬─ a job's row ────────────▶ expectations of that job
//!               ├─ its labels, its pools' ─▶ those of every job that has a row there
//!   freshness ──┘                                    (so has a host that is heard or not)
//!   which hosts there are ─────────────────▶ those of jobs that have no row at all
//!   anything ──────────────────────────────▶ those of the whole cluster
//! ```
//!
//! That a job runs is read with the jobs that it starts after: an order that names both reads a change of one,
//! and whoever waits by it is judged with it ([`super::Upkeep`]). Of a group, all numbers are counted, as
//! those above its count are told of.
//!
//! A view is compared with the one before, of which only what they do not share is opened: so it costs what has
//! changed and not what there is, and it makes no difference how many events came at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use protocol::id::{HostId, JobId, PoolName, SetName};
use protocol::job::Job;
use protocol::pool::PoolFacts;
use protocol::view::{Freshness, HostRow, Jobs, View};

use super::set::Item;
use super::turnover::Turnover;
use crate::failover::freshness_of;
use crate::follow::HeardAt;

/// An expectation: its set, and its place there.
pub(crate) type Key = (SetName, usize);

/// Facts of before, and who reads them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    by_job: BTreeMap<JobId, BTreeSet<Key>>,
    /// Those that read everything.
    whole: BTreeSet<Key>,
    /// Where jobs that somebody reads of have rows.
    homes: BTreeMap<JobId, BTreeSet<HostId>>,
    /// The same from the other side: what is read of on each host.
    read_on: BTreeMap<HostId, BTreeSet<JobId>>,
    /// Jobs that somebody reads of and that have a row nowhere.
    homeless: BTreeSet<JobId>,
    /// Groups by name, and where VMs of that name with a number have rows.
    groups: BTreeMap<String, Numbered>,
    heard: OrdMap<HostId, HeardAt>,
    view: View,
    members: Arc<BTreeSet<HostId>>,
    missing: BTreeSet<HostId>,
    has_moved: bool,
}

/// VMs that could be of one group, by their numbers.
#[derive(Debug, Clone, Default)]
struct Numbered {
    /// How many groups have the name; several sets may each have one.
    count: u32,
    homes: BTreeMap<u32, BTreeSet<HostId>>,
}

impl Index {
    /// Takes a group in, of which all numbers are looked up in the view of before.
    pub(crate) fn insert_group(&mut self, name: &str) {
        if let Some(known) = self.groups.get_mut(name) {
            known.count += 1;
            return;
        }
        let mut numbered = Numbered { count: 1, ..Numbered::default() };
        for (host, row) in self.view.hosts() {
            for job in row.jobs.keys() {
                if let Some((_, number)) = planner::numbered(job).filter(|(stem, _)| *stem == name)
                {
                    numbered.homes.entry(number).or_default().insert(host.clone());
                }
            }
        }
        self.groups.insert(name.to_owned(), numbered);
    }

    /// Takes a group out.
    pub(crate) fn remove_group(&mut self, name: &str) {
        let Some(known) = self.groups.get_mut(name) else { return };
        known.count -= 1;
        if known.count == 0 {
            self.groups.remove(name);
        }
    }

    /// Numbers of VMs of this name that hosts have.
    pub(crate) fn numbers(&self, name: &str) -> impl Iterator<Item = u32> {
        self.groups.get(name).into_iter().flat_map(|known| known.homes.keys().copied())
    }

    /// Takes an expectation in; what it reads is looked up in the view of before.
    pub(crate) fn insert(&mut self, key: &Key, item: &Item) {
        if item.reads_all() {
            self.whole.insert(key.clone());
        }
        for job in item.jobs() {
            self.by_job.entry(job.clone()).or_default().insert(key.clone());
            if !self.homes.contains_key(job) {
                let hosts: BTreeSet<HostId> =
                    self.view.job(job).map(|(row, _)| row.host.id.clone()).collect();
                if hosts.is_empty() {
                    self.homeless.insert(job.clone());
                }
                for host in &hosts {
                    self.read_on.entry(host.clone()).or_default().insert(job.clone());
                }
                self.homes.insert(job.clone(), hosts);
            }
        }
    }

    /// Takes an expectation out.
    pub(crate) fn remove(&mut self, key: &Key, item: &Item) {
        self.whole.remove(key);
        for job in item.jobs() {
            let Some(keys) = self.by_job.get_mut(job) else { continue };
            keys.remove(key);
            if keys.is_empty() {
                self.by_job.remove(job);
                self.homeless.remove(job);
                for host in self.homes.remove(job).into_iter().flatten() {
                    self.leave(&host, job);
                }
            }
        }
    }

    /// The expectations that read everything.
    pub(crate) fn whole(&self) -> impl Iterator<Item = &Key> {
        self.whole.iter()
    }

    /// What was compared with last.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// How fresh a host was then.
    pub(crate) fn freshness(&self, host: &HostId) -> Freshness {
        freshness_of(self.heard.get(host))
    }

    /// True when a VM had come from one host to another by the last look, whether or not it was seen on its way.
    pub(crate) fn has_moved(&self) -> bool {
        self.has_moved
    }

    /// Hosts of the cluster of which nothing was told.
    pub(crate) fn missing(&self) -> &BTreeSet<HostId> {
        &self.missing
    }

    /// The expectations of a job.
    pub(crate) fn readers_of(&self, job: &JobId) -> impl Iterator<Item = &Key> {
        self.by_job.get(job).into_iter().flatten()
    }

    /// The rows of a job on hosts that are not lost.
    pub(crate) fn rows_of(&self, job: &JobId) -> impl Iterator<Item = &Job> {
        let hosts = self.homes.get(job).into_iter().flatten();
        let heard = hosts.filter(|host| self.freshness(host) != Freshness::Lost);
        heard.filter_map(|host| Some(self.view.host(host)?.jobs.get(job)?.as_ref()))
    }

    /// The hosts that have a row of a job that somebody reads of.
    pub(crate) fn homes_of(&self, job: &JobId) -> impl Iterator<Item = &HostId> {
        self.homes.get(job).into_iter().flatten()
    }

    /// The hosts that an expectation reads; `None` for all.
    pub(crate) fn hosts_of(&self, item: &Item) -> Option<BTreeSet<HostId>> {
        if item.reads_all() {
            return None;
        }
        let homes = item.jobs().into_iter().filter_map(|job| self.homes.get(job));
        Some(homes.flatten().cloned().collect())
    }

    /// Takes the next view; the expectations that read what has changed, and whether anything has.
    pub(crate) fn update(
        &mut self,
        view: &View,
        heard: &OrdMap<HostId, HeardAt>,
        members: &Arc<BTreeSet<HostId>>,
    ) -> (BTreeSet<Key>, bool) {
        let mut jobs: BTreeSet<JobId> = BTreeSet::new();
        let before = std::mem::replace(&mut self.view, view.clone());
        let heard_before = std::mem::replace(&mut self.heard, heard.clone());
        let otherwise = heard_otherwise(&heard_before, heard);
        let changed: BTreeSet<&HostId> = view.changed_since(&before).collect();
        let mut is_change = false;
        let mut is_other_set = false;
        let mut turnover = Turnover::default();
        for host in changed.iter().copied().chain(&otherwise).collect::<BTreeSet<_>>() {
            let (was, is) = (before.host(host), view.host(host));
            if was.is_none() && is.is_none() {
                continue;
            }
            is_change = true;
            is_other_set |= was.is_some() != is.is_some();
            let is_all = was.is_some() != is.is_some() || otherwise.contains(host);
            self.compare(host, was, is, is_all, &mut jobs);
            turnover.note(was, is);
        }
        self.has_moved = turnover.has_moved();
        if is_other_set || !Arc::ptr_eq(&self.members, members) {
            let unheard = members.iter().filter(|host| view.host(host).is_none());
            let missing: BTreeSet<HostId> = unheard.cloned().collect();
            is_other_set |= missing != self.missing;
            (self.members, self.missing) = (Arc::clone(members), missing);
        }
        if is_other_set {
            is_change = true;
            jobs.extend(self.homeless.iter().cloned());
        }
        let readers = jobs.iter().filter_map(|job| self.by_job.get(job)).flatten();
        let whole = self.whole.iter().filter(|_| is_change);
        (readers.chain(whole).cloned().collect(), is_change)
    }

    /// Adds the jobs of which something is read that has changed on a host, and notes where they are now.
    fn compare(
        &mut self,
        host: &HostId,
        before: Option<&HostRow>,
        after: Option<&HostRow>,
        is_all: bool,
        jobs: &mut BTreeSet<JobId>,
    ) {
        let labels = |row: Option<&HostRow>| {
            let host = &row?.host;
            let of_pool = |(name, facts): (&PoolName, &PoolFacts)| {
                (name.clone(), facts.id, facts.labels.clone())
            };
            Some((host.labels.clone(), host.pools.iter().map(of_pool).collect::<Vec<_>>()))
        };
        let is_same_host =
            matches!((before, after), (Some(a), Some(b)) if Arc::ptr_eq(&a.host, &b.host));
        let is_all = is_all || !is_same_host && labels(before) != labels(after);
        let jobs_of =
            |row: Option<&HostRow>| row.map_or_else(Jobs::default, |row| row.jobs.clone());
        let (was, is) = (jobs_of(before), jobs_of(after));
        for (old, new) in is.changed_since(&was) {
            let Some(job) = new.or(old) else { continue };
            self.count_in(host, &job.id, new.is_some());
            let Some(homes) = self.homes.get_mut(&job.id) else { continue };
            let is_here = homes.contains(host);
            match new {
                Some(_) if !is_here => {
                    homes.insert(host.clone());
                    self.read_on.entry(host.clone()).or_default().insert(job.id.clone());
                    self.homeless.remove(&job.id);
                }
                None if is_here => {
                    homes.remove(host);
                    if homes.is_empty() {
                        self.homeless.insert(job.id.clone());
                    }
                    self.leave(host, &job.id);
                }
                Some(_) | None => {}
            }
            jobs.insert(job.id.clone());
        }
        if is_all {
            jobs.extend(self.read_on.get(host).into_iter().flatten().cloned());
        }
    }

    /// A host has, or has no more, what may be a VM of a group.
    fn count_in(&mut self, host: &HostId, job: &JobId, is_here: bool) {
        if self.groups.is_empty() {
            return;
        }
        let Some((name, number)) = planner::numbered(job) else { return };
        let Some(known) = self.groups.get_mut(name) else { return };
        let homes = known.homes.entry(number).or_default();
        match is_here {
            true => homes.insert(host.clone()),
            false => homes.remove(host),
        };
        if homes.is_empty() {
            known.homes.remove(&number);
        }
    }

    fn leave(&mut self, host: &HostId, job: &JobId) {
        let Some(jobs) = self.read_on.get_mut(host) else { return };
        jobs.remove(job);
        if jobs.is_empty() {
            self.read_on.remove(host);
        }
    }
}

/// Hosts that are heard otherwise than before, later or earlier aside.
fn heard_otherwise(
    before: &OrdMap<HostId, HeardAt>,
    now: &OrdMap<HostId, HeardAt>,
) -> BTreeSet<HostId> {
    let hosts = before.diff(now).map(|item| match item {
        DiffItem::Add(host, _) | DiffItem::Remove(host, _) => host,
        DiffItem::Update { new: (host, _), .. } => host,
    });
    let is_otherwise =
        |host: &&HostId| freshness_of(before.get(*host)) != freshness_of(now.get(*host));
    hosts.filter(is_otherwise).cloned().collect()
}
