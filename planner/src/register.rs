//! What plans look up instead of walking all hosts for it: the room on each, where each job has a row, whose a
//! hardware address is, which sizes an image has.
//!
//! Kept beside a view, and brought up to a later one by what has changed. It is never wrong, only old: it knows
//! which view it is of, and whatever differs from that in what is planned with is looked at by itself
//! ([`crate::state`]). So any register may be given to any plan, and a poor one makes it slow.
//!
//! ```text
//!   view before ──┐
//!                 ├─ hosts whose rows differ ─▶ rooms, homes, addresses, images of these
//!   view now ─────┘
//! ```
//!
//! What must hold: after any changes it is what a new one of the same view would be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::host::HostIntent;
use protocol::id::{HostId, ImageName, JobId};
use protocol::job::Job;
use protocol::view::{Freshness, HostRow, Jobs, View};

use crate::intent::Intent;
use crate::marks::Marks;
use crate::rooms::{Room, Rooms};
use crate::shards::{Shards, lot};

/// Hosts of one view, prepared for planning.
#[derive(Debug, Clone, Default)]
pub struct Register {
    seed: u64,
    shards: Shards,
    shards_count: usize,
    view: View,
    numbers: BTreeMap<HostId, u32>,
    hosts: Vec<Option<HostId>>,
    vacant: BTreeSet<u32>,
    rooms: Rooms,
    /// Those that are not fresh.
    unfresh: BTreeMap<HostId, Freshness>,
    /// Those whose operators intend something with them, as they say themselves.
    intended: BTreeSet<HostId>,
    homes: BTreeMap<JobId, Vec<u32>>,
    macs: BTreeMap<String, BTreeSet<(JobId, u32)>>,
    /// How many hosts have an image in which size. Two sizes are two contents under one name.
    images: BTreeMap<ImageName, BTreeMap<u64, u32>>,
}

/// A register on the way to a plan, if there is one. What is planned does not depend on it.
#[derive(Debug, Clone, Default)]
pub struct Prepared(Option<Arc<Register>>);

impl PartialEq for Prepared {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl From<Arc<Register>> for Prepared {
    fn from(register: Arc<Register>) -> Self {
        Self(Some(register))
    }
}

impl Prepared {
    pub(crate) fn get(&self) -> Option<&Arc<Register>> {
        self.0.as_ref()
    }
}

impl Register {
    /// An empty one, for plans with this seed by one of these schedulers.
    #[must_use]
    pub fn new(seed: u64, shards: Shards) -> Self {
        Self { seed, shards, ..Self::default() }
    }

    /// Brings it up to a view, at the cost of what has changed since the last.
    pub fn follow(&mut self, view: &View) {
        let before = std::mem::replace(&mut self.view, view.clone());
        let now = self.view.clone();
        for host in now.changed_since(&before) {
            self.change(host, before.host(host), now.host(host));
        }
        let count = self.shards.count(now.len());
        if count != self.shards_count {
            self.shards_count = count;
            self.mark_all();
        }
    }

    /// Notes how a host is heard.
    pub fn hear(&mut self, host: &HostId, freshness: Freshness) {
        let before = self.freshness(host);
        match freshness {
            Freshness::Fresh => self.unfresh.remove(host),
            Freshness::Stale | Freshness::Lost => self.unfresh.insert(host.clone(), freshness),
        };
        if before != freshness {
            self.mark(host);
        }
    }

    /// Notes which schedulers there are.
    pub fn share_with(&mut self, shards: Shards) {
        if self.shards != shards {
            self.shards = shards;
            self.shards_count = self.shards.count(self.view.len());
            self.mark_all();
        }
    }

    /// For plans with which seed it is.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The view that it is of.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Hosts that are not fresh.
    pub fn unfresh(&self) -> impl Iterator<Item = (&HostId, Freshness)> {
        self.unfresh.iter().map(|(host, freshness)| (host, *freshness))
    }

    /// Hosts that say themselves that their operators intend something with them.
    pub fn intended(&self) -> impl Iterator<Item = &HostId> {
        self.intended.iter()
    }

    /// True when plans with this seed, among these schedulers, for so many hosts may use it: whose a host
    /// is depends on how many there are.
    pub(crate) fn is_for(&self, seed: u64, shards: &Shards, hosts: usize) -> bool {
        self.seed == seed && self.shards == *shards && self.shards_count == shards.count(hosts)
    }

    pub(crate) fn freshness(&self, host: &HostId) -> Freshness {
        self.unfresh.get(host).copied().unwrap_or(Freshness::Fresh)
    }

    pub(crate) fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    pub(crate) fn host(&self, number: u32) -> Option<&HostId> {
        self.hosts.get(number as usize)?.as_ref()
    }

    /// Hosts that have a row of a job.
    pub fn homes(&self, job: &JobId) -> impl Iterator<Item = &HostId> {
        let numbers = self.homes.get(job).into_iter().flatten();
        numbers.filter_map(|number| self.host(*number))
    }

    /// Jobs that are alive with a hardware address, and where.
    pub(crate) fn owners(&self, mac: &str) -> impl Iterator<Item = (&JobId, &HostId)> {
        let owners = self.macs.get(mac).into_iter().flatten();
        owners.filter_map(|(job, number)| Some((job, self.host(*number)?)))
    }

    /// The size of an image, if it is the same on all hosts that have it; `None` without one.
    pub(crate) fn image_bytes(&self, image: &ImageName) -> Option<u64> {
        let sizes = self.images.get(image).filter(|sizes| sizes.len() == 1)?;
        sizes.keys().next().copied()
    }

    fn change(&mut self, host: &HostId, before: Option<&HostRow>, now: Option<&HostRow>) {
        let number = match self.numbers.get(host) {
            Some(number) => *number,
            None => self.number(host),
        };
        self.change_jobs(number, before, now);
        let images = |row: Option<&HostRow>| {
            let images = row.into_iter().flat_map(|row| &row.host.images);
            images.map(|(name, facts)| (name.clone(), facts.file_bytes)).collect::<Vec<_>>()
        };
        let is_same_host =
            matches!((before, now), (Some(a), Some(b)) if Arc::ptr_eq(&a.host, &b.host));
        if is_same_host {
            return;
        }
        let (old, new) = (images(before), images(now));
        if old != new {
            old.iter().for_each(|(name, bytes)| self.count_image(name, *bytes, false));
            new.iter().for_each(|(name, bytes)| self.count_image(name, *bytes, true));
        }
        match now {
            Some(row) => {
                match intent_of(row) {
                    Some(_) => self.intended.insert(host.clone()),
                    None => self.intended.remove(host),
                };
                self.mark(host);
            }
            None => {
                self.intended.remove(host);
                self.rooms.put(number, Room::default());
                self.numbers.remove(host);
                self.hosts[number as usize] = None;
                self.vacant.insert(number);
            }
        }
    }

    fn number(&mut self, host: &HostId) -> u32 {
        let number = self.vacant.pop_first().unwrap_or_else(|| {
            self.hosts.push(None);
            u32::try_from(self.hosts.len() - 1).unwrap_or(u32::MAX)
        });
        self.hosts[number as usize] = Some(host.clone());
        self.numbers.insert(host.clone(), number);
        number
    }

    fn change_jobs(&mut self, number: u32, before: Option<&HostRow>, now: Option<&HostRow>) {
        let jobs = |row: Option<&HostRow>| row.map_or_else(Jobs::default, |row| row.jobs.clone());
        let (was, is) = (jobs(before), jobs(now));
        for (old, new) in is.changed_since(&was) {
            // Most changes are of a state alone, and leave the addresses as they are.
            let has_same_macs = matches!((old, new), (Some(old), Some(new))
                if Arc::ptr_eq(&old.spec, &new.spec) && old.state.is_ended() == new.state.is_ended());
            if !has_same_macs {
                old.iter().for_each(|old| self.count_macs(number, old, false));
                new.iter().for_each(|new| self.count_macs(number, new, true));
            }
            match (old, new) {
                (Some(old), None) => self.leave(number, &old.id),
                (None, Some(new)) => self.homes.entry(new.id.clone()).or_default().push(number),
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
    }

    fn leave(&mut self, number: u32, job: &JobId) {
        let Some(homes) = self.homes.get_mut(job) else { return };
        homes.retain(|home| *home != number);
        if homes.is_empty() {
            self.homes.remove(job);
        }
    }

    fn count_macs(&mut self, number: u32, job: &Job, is_more: bool) {
        if job.state.is_ended() {
            return;
        }
        for mac in job.spec.macs(&job.id) {
            let owner = (job.id.clone(), number);
            if is_more {
                self.macs.entry(mac).or_default().insert(owner);
            } else if let Some(owners) = self.macs.get_mut(&mac) {
                owners.remove(&owner);
                if owners.is_empty() {
                    self.macs.remove(&mac);
                }
            }
        }
    }

    fn count_image(&mut self, name: &ImageName, bytes: u64, is_more: bool) {
        let sizes = self.images.entry(name.clone()).or_default();
        let count = sizes.entry(bytes).or_default();
        *count = if is_more { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            sizes.remove(&bytes);
        }
        if sizes.is_empty() {
            self.images.remove(name);
        }
    }

    fn mark_all(&mut self) {
        let hosts: Vec<HostId> = self.numbers.keys().cloned().collect();
        hosts.iter().for_each(|host| self.mark(host));
    }

    /// Puts the room of a host as it is now.
    fn mark(&mut self, host: &HostId) {
        let (Some(number), Some(row)) = (self.numbers.get(host), self.view.host(host)) else {
            return;
        };
        let intent = intent_of(row);
        let is_own = self.shards.is_own(host, self.shards_count);
        let room = Room {
            capacity: row.host.capacity,
            allocation: row.host.allocation,
            lot: lot(self.seed, host),
            marks: Marks::of(&row.host, self.freshness(host), intent, is_own),
        };
        self.rooms.put(*number, room);
    }
}

/// What a host says that its operator intends with it, as far as it is understood.
pub(crate) fn intent_of(row: &HostRow) -> Option<Intent> {
    match row.host.intent {
        Some(HostIntent::Drain) => Some(Intent::Drain),
        Some(HostIntent::Unknown) | None => None,
    }
}

#[cfg(test)]
pub(crate) mod tests;
