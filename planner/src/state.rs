//! The world as a plan would leave it: the input's view, and over it only what steps have changed.
//!
//! Cloning costs two pointers and a step costs what it changes, so the search may keep thousands.
//! Decides what of a host counts as promised: its own report or its newer refusal, and what other
//! runs are about to take.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use imbl::{OrdMap, OrdSet};
use protocol::admission::Room;
use protocol::cpus::DedicatedCpus;
use protocol::host::ImageFacts;
use protocol::hugepages::Pages;
use protocol::id::{HostId, ImageName, JobId, OfferId, PoolName, Revision};
use protocol::job::{Job, JobSpec, JobState, Reason};
use protocol::pool::PoolFacts;
use protocol::resources::Resources;
use protocol::view::{Freshness, HostRow};
use protocol::vm::SizeChange;

use crate::expectation::Expectation;
use crate::images::{Fetch, Holders, bytes_of};
use crate::input::{Heard, PlanInput, Setback};
use crate::intent::Intent;
use crate::level::Score;
use crate::load::Load;
use crate::macs::Macs;
use crate::pools::{Booked, pools_of};
use crate::register::Register;
use crate::rules::Clause;

/// Hosts that are looked at one by one because the register may be wrong about them. Where there are more, looking
/// at all hosts costs no more.
const DIFFERING_MAX: usize = 512;

/// A job's row on one host, as far as planning is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Which change of it.
    pub revision: Revision,
    /// What it is.
    pub spec: JobSpec,
    /// Where it is in its life.
    pub state: JobState,
    /// Under which hold, if it has one.
    pub hold: Option<OfferId>,
    /// By which budget of its host, if it is there by one.
    pub budget: Option<JobId>,
    /// What its guest has, while that is not what the spec says.
    pub has: Option<Resources>,
    /// True when some of its disks or cards come or go at its next start only.
    pub has_other_devices: bool,
    /// True when it has left for another host and only its row is left here.
    pub has_moved_away: bool,
    /// True when its memory was saved here: it goes on only here.
    pub is_saved: bool,
    /// True when its disks have snapshots, which do not move with disks that are copied.
    pub has_snapshots: bool,
}

impl Placed {
    /// What it holds of its host. What is in pools is booked there, and memory in huge pages and dedicated CPUs are
    /// counted by themselves.
    #[must_use]
    pub fn allocation(&self) -> Resources {
        if self.state.is_ended() {
            Resources { disk_bytes: self.spec.takes().disk_bytes, ..Resources::ZERO }
        } else {
            self.spec.of_host(self.alive())
        }
    }

    /// The huge pages that it holds of its host.
    #[must_use]
    pub fn pages(&self) -> Pages {
        if self.state.is_ended() { Pages::NONE } else { self.spec.pages_of(self.alive()) }
    }

    /// The dedicated CPUs that it holds of its host.
    #[must_use]
    pub fn dedicated_cpus(&self) -> u32 {
        if self.state.is_ended() { 0 } else { self.spec.dedicated_cpus_of(self.alive()) }
    }

    /// What it is to have or has, whichever is more, wherever that is counted.
    fn alive(&self) -> Resources {
        let has = Resources { disk_bytes: 0, ..self.has.unwrap_or_default() };
        self.spec.resources().max(has)
    }

    /// True when its guest has more than its spec says.
    #[must_use]
    pub fn has_more_than_asked(&self) -> bool {
        !self.state.is_ended() && self.alive() != self.spec.resources()
    }

    /// What it has been promised, if it counts: while it is alive, and while it may be started again
    /// under the hold that it has.
    #[must_use]
    pub fn promised(&self) -> Option<Resources> {
        match self.state.is_ended() {
            true => {
                let has_right = self.hold.is_some() || self.budget.is_some();
                has_right.then(|| self.spec.resources())
            }
            false => Some(self.alive()),
        }
    }

    /// True when it is asked for in this size and nothing else is to come of it.
    #[must_use]
    pub fn is_sized(&self, job: &JobId, change: &SizeChange) -> bool {
        self.spec.is_sized(job, change) && self.has.is_none()
    }

    /// True when disks that somebody may have written to are here.
    #[must_use]
    pub fn keeps_disks(&self) -> bool {
        let has_disks = self.spec.resources().disk_bytes > 0 || self.spec.adopted().is_some();
        let never_ran = self.state == JobState::Failed && self.revision <= Revision(1);
        self.state.is_ended() && has_disks && !never_ran && !self.has_moved_away
    }
}

impl From<&Job> for Placed {
    fn from(job: &Job) -> Self {
        Self {
            revision: job.revision,
            spec: JobSpec::clone(&job.spec),
            state: job.state,
            hold: job.hold,
            budget: job.budget.clone(),
            has: job.resize.as_ref().filter(|_| !job.state.is_ended()).map(|r| r.resources()),
            has_other_devices: job.awaited_devices().is_some(),
            has_moved_away: job.state.is_ended()
                && matches!(job.reason, Some(Reason::Migrated { .. })),
            is_saved: job.state.is_ended() && job.reason == Some(Reason::Saved),
            has_snapshots: job.kept_snapshots().next().is_some(),
        }
    }
}

/// An overlay over the input's view.
#[derive(Debug, Clone)]
pub struct State<'a> {
    input: &'a PlanInput,
    reserved: Arc<BTreeMap<&'a HostId, Load>>,
    allocation: OrdMap<HostId, Resources>,
    /// Huge pages that hosts have promised, where steps have changed that.
    pages: OrdMap<HostId, Pages>,
    /// Dedicated CPUs that hosts have promised, where steps have changed that.
    dedicated_cpus: OrdMap<HostId, u32>,
    jobs: OrdMap<JobId, OrdMap<HostId, Placed>>,
    moves: OrdMap<JobId, u32>,
    /// What is looked up in, and the hosts of which it may say what is not so here.
    register: Option<&'a Register>,
    differing: Arc<BTreeSet<&'a HostId>>,
    shards_count: usize,
    /// Images that a step has copied to a host.
    brought: OrdMap<HostId, BTreeMap<ImageName, ImageFacts>>,
    holders: Arc<OnceLock<Holders>>,
    booked: Booked,
    macs: Arc<Macs<'a>>,
    clauses: Arc<BTreeMap<&'a JobId, Vec<&'a Clause>>>,
    /// Hosts that steps have woken.
    woken: OrdSet<HostId>,
    /// Hosts that steps have put to sleep.
    slept: OrdSet<HostId>,
}

impl<'a> State<'a> {
    /// The world of now.
    #[must_use]
    pub fn new(input: &'a PlanInput) -> Self {
        let mut reserved: BTreeMap<&HostId, Load> = BTreeMap::new();
        for hold in &input.reservations {
            let row = input.view.host(&hold.host).and_then(|row| row.jobs.get(&hold.job));
            if row.is_some_and(|job| !job.state.is_ended()) {
                continue;
            }
            let sum = reserved.entry(&hold.host).or_default();
            let (resources, pages) = (hold.resources, hold.pages);
            let dedicated_cpus = hold.dedicated_cpus;
            *sum = sum.plus(Load { resources, pages, dedicated_cpus });
        }
        // Looked up once: whoever asks where a job is would else walk all hosts each time.
        let mut clauses: BTreeMap<&JobId, Vec<&Clause>> = BTreeMap::new();
        for clause in input.clauses.iter().chain(&input.heeded) {
            let jobs: BTreeSet<&JobId> = clause.rule.jobs().into_iter().collect();
            for job in jobs {
                clauses.entry(job).or_default().push(clause);
            }
        }
        let found = input.prepared.get().and_then(|register| {
            let register = register.as_ref();
            Some((register, differing(input, register)?))
        });
        let (register, differing) = found.unzip();
        let differing = differing.unwrap_or_default();
        let wanted = input.expectations.iter().map(Expectation::job);
        let all: BTreeSet<&JobId> = wanted.chain(clauses.keys().copied()).collect();
        let rows = |job: &JobId| rows_of(input, register, &differing, job);
        let jobs = all.into_iter().map(|job| (job.clone(), rows(job))).collect();
        let (allocation, moves, brought) = (OrdMap::new(), OrdMap::new(), OrdMap::new());
        let (pages, dedicated_cpus) = (OrdMap::new(), OrdMap::new());
        let macs = Arc::new(Macs::of(input, register, &differing));
        Self {
            input,
            reserved: Arc::new(reserved),
            allocation,
            pages,
            dedicated_cpus,
            jobs,
            moves,
            register,
            differing: Arc::new(differing),
            shards_count: input.shards.count(input.view.len()),
            brought,
            holders: Arc::default(),
            booked: Booked::new(),
            macs,
            clauses: Arc::new(clauses),
            woken: OrdSet::new(),
            slept: OrdSet::new(),
        }
    }

    /// What is looked up in. Of hosts that [`State::may_differ`] names it may say what is not so here.
    pub(crate) fn register(&self) -> Option<&'a Register> {
        self.register
    }

    /// Hosts of which the register may say what is not so in this state.
    pub(crate) fn may_differ(&self) -> impl Iterator<Item = &HostId> {
        self.differing.iter().copied().chain(self.allocation.keys())
    }

    /// Hosts whose promises steps may have changed.
    pub(crate) fn touched(&self) -> impl Iterator<Item = &HostId> {
        self.allocation.keys()
    }

    /// True when another scheduler takes this host first.
    pub(crate) fn is_foreign(&self, host: &HostId) -> bool {
        !self.input.shards.is_own(host, self.shards_count)
    }

    /// True when hosts are divided among schedulers.
    pub(crate) fn is_sharded(&self) -> bool {
        self.shards_count > 1
    }

    /// What the plan is made of.
    #[must_use]
    pub fn input(&self) -> &'a PlanInput {
        self.input
    }

    /// The rows of the view, by host id.
    pub fn hosts(&self) -> impl Iterator<Item = (&'a HostId, &'a HostRow)> {
        self.input.view.hosts()
    }

    /// One row of the view.
    #[must_use]
    pub fn host(&self, host: &HostId) -> Option<&'a HostRow> {
        self.input.view.host(host)
    }

    /// How fresh a host's row is.
    #[must_use]
    pub fn heard(&self, host: &HostId) -> Heard {
        let fresh = Heard { freshness: Freshness::Fresh, age_ms: 0 };
        if self.woken.contains(host) {
            return fresh;
        }
        let heard = self.input.heard.get(host).copied().unwrap_or(fresh);
        // Whoever follows it may not have noticed yet.
        let is_asleep = self.intent(host) == Some(Intent::Asleep);
        if is_asleep { Heard { freshness: Freshness::Lost, ..heard } } else { heard }
    }

    /// Why the host is out of the question, if it has said or shown so.
    #[must_use]
    pub fn exclusion(&self, host: &HostId) -> Option<&'a Setback> {
        self.input.setbacks.iter().find(|s| s.host == *host && s.excludes_host())
    }

    /// Where a job has rows.
    #[must_use]
    pub fn placements(&self, job: &JobId) -> OrdMap<HostId, Placed> {
        if let Some(rows) = self.jobs.get(job) {
            return rows.clone();
        }
        rows_of(self.input, self.register, &self.differing, job)
    }

    /// A job's row on one host.
    #[must_use]
    pub fn placed(&self, job: &JobId, host: &HostId) -> Option<Placed> {
        match self.jobs.get(job) {
            Some(rows) => rows.get(host).cloned(),
            None => {
                let seen = self.host(host)?.jobs.get(job)?;
                Some(placed_as_seen(self.input, host, seen))
            }
        }
    }

    /// What an operator intends with a host.
    #[must_use]
    pub fn intent(&self, host: &HostId) -> Option<Intent> {
        if self.slept.contains(host) {
            return Some(Intent::Asleep);
        }
        let intent = self.input.intents.get(host).copied();
        intent.filter(|intent| *intent != Intent::Asleep || !self.woken.contains(host))
    }

    /// Switches a sleeping host on: it takes what fits, as of then.
    pub(crate) fn wake(&mut self, host: &HostId) {
        if let Some(row) = self.host(host) {
            // What was said of it at the beginning of a search is so no more.
            self.allocation.insert(host.clone(), self.allocation(row));
        }
        self.slept.remove(host);
        self.woken.insert(host.clone());
    }

    /// Switches an empty host off: it takes nothing, and nothing of it can be lost.
    pub(crate) fn sleep(&mut self, host: &HostId) {
        if let Some(row) = self.host(host) {
            self.allocation.insert(host.clone(), self.allocation(row));
        }
        self.woken.remove(host);
        self.slept.insert(host.clone());
    }

    /// Rules that are about a job.
    #[must_use]
    pub fn clauses_of(&self, job: &JobId) -> &[&'a Clause] {
        self.clauses.get(job).map_or(&[], Vec::as_slice)
    }

    /// Violations of the rules that are about a job.
    #[must_use]
    pub fn score_of(&self, job: &JobId) -> Score {
        let scores = self
            .clauses_of(job)
            .iter()
            .map(|clause| Score::at(clause.level, clause.rule.violations(self).into()));
        scores.fold(Score::default(), Score::plus)
    }

    /// How often a plan has moved the job so far.
    #[must_use]
    pub fn moves_of(&self, job: &JobId) -> u32 {
        self.moves.get(job).copied().unwrap_or(0)
    }

    pub(crate) fn count_move(&mut self, job: &JobId) {
        let moves = self.moves_of(job) + 1;
        self.moves.insert(job.clone(), moves);
    }

    /// Looks up where a job is, once, so that asking again costs nothing.
    pub(crate) fn remember(&mut self, job: &JobId) {
        if !self.jobs.contains_key(job) {
            self.jobs.insert(job.clone(), self.placements(job));
        }
    }

    /// VMs that are alive on a host in this state.
    #[must_use]
    pub fn jobs_alive(&self, row: &HostRow) -> Vec<JobId> {
        let host = &row.host.id;
        let is_alive = |job: &JobId| {
            self.placed(job, host).is_some_and(|p| !p.state.is_ended() && p.spec.as_vm().is_some())
        };
        let seen = row.jobs.keys().filter(|job| is_alive(job));
        let mut jobs: BTreeSet<JobId> = seen.cloned().collect();
        let placed = self.jobs.iter().filter(|(_, rows)| rows.contains_key(host));
        jobs.extend(placed.map(|(job, _)| job).filter(|job| is_alive(job)).cloned());
        jobs.into_iter().collect()
    }

    /// What guests keep busy of a host's CPUs, in thousandths of one; `None` unless it is known of all of them.
    #[must_use]
    pub fn cpu_millis(&self, row: &HostRow) -> Option<u64> {
        let (host, used) = (&row.host.id, &self.input.used);
        let mut sum = used.hosts.get(host)?.others_cpu_millis;
        let mut add = |job: &JobId| {
            sum = sum.saturating_add(used.vms.get(job)?.cpu_millis);
            Some(())
        };
        let seen = row.jobs.iter().filter(|(job, _)| !self.jobs.contains_key(*job));
        for (id, _) in seen.filter(|(_, job)| !job.state.is_ended() && job.spec.as_vm().is_some()) {
            add(id)?;
        }
        let placed = self.jobs.iter().filter_map(|(job, rows)| Some((job, rows.get(host)?)));
        for (id, _) in placed.filter(|(_, p)| !p.state.is_ended() && p.spec.as_vm().is_some()) {
            add(id)?;
        }
        Some(sum)
    }

    /// VMs that were alive on a host when it was last heard, whatever has become of them.
    #[must_use]
    pub fn jobs_seen_alive(&self, row: &HostRow) -> Vec<JobId> {
        let alive = row.jobs.iter().filter(|(_, job)| !job.state.is_ended());
        alive.filter(|(_, job)| job.spec.as_vm().is_some()).map(|(id, _)| id.clone()).collect()
    }

    /// Hosts whose promises steps have changed, with what they were before.
    pub(crate) fn hosts_changed<'s>(
        &'s self,
        start: &'s Self,
    ) -> impl Iterator<Item = &'a HostRow> {
        let hosts = self.allocation.keys().filter_map(|host| self.host(host));
        // Not everything that a VM takes need be in the allocation.
        let promised = |of: &Self, row| (of.allocation(row), of.pages(row), of.dedicated_cpus(row));
        hosts.filter(move |row| promised(self, *row) != promised(start, *row))
    }

    /// What the host has promised, all jobs together.
    #[must_use]
    pub fn allocation(&self, row: &HostRow) -> Resources {
        if let Some(changed) = self.allocation.get(&row.host.id) {
            return *changed;
        }
        let reserved = self.reserved.get(&row.host.id).copied().unwrap_or_default();
        let free_instead = self.input.setbacks.iter().rev().find_map(|s| s.free_instead(&row.host));
        let told = free_instead.map_or(row.host.allocation, |free| row.host.capacity.minus(free));
        told.plus(reserved.resources)
    }

    /// The huge pages that the host has promised, to all jobs together.
    #[must_use]
    pub fn pages(&self, row: &HostRow) -> Pages {
        if let Some(changed) = self.pages.get(&row.host.id) {
            return *changed;
        }
        if row.host.hugepages.is_empty() {
            return Pages::NONE;
        }
        let reserved = self.reserved.get(&row.host.id).map(|load| load.pages).unwrap_or_default();
        let told = Pages::promised(&row.host.hugepages);
        // By its own no, less is left than it has told.
        let taken = self.input.setbacks.iter().filter_map(|s| s.pages_instead(&row.host));
        taken.fold(told, Pages::max).plus(reserved)
    }

    /// The dedicated CPUs that the host has promised, to all jobs together.
    #[must_use]
    pub fn dedicated_cpus(&self, row: &HostRow) -> u32 {
        if let Some(changed) = self.dedicated_cpus.get(&row.host.id) {
            return *changed;
        }
        let reserved = self.reserved.get(&row.host.id).map_or(0, |load| load.dedicated_cpus);
        // By its own no, less is left than it has told.
        let taken = self.input.setbacks.iter().filter_map(|s| s.dedicated_instead(&row.host));
        taken.fold(row.host.dedicated_cpus.promised, u32::max).saturating_add(reserved)
    }

    /// The room that the host has for this job: what it promised to others is taken, and the policy holds.
    #[must_use]
    pub fn room_for(&self, row: &'a HostRow, job: &JobId) -> Room<'a> {
        let own = self.placed(job, &row.host.id).as_ref().map(Load::placed).unwrap_or_default();
        let allocation = self.allocation(row).minus(own.resources);
        let pages = self.pages(row).minus(own.pages);
        let dedicated_cpus = DedicatedCpus {
            promised: self.dedicated_cpus(row).saturating_sub(own.dedicated_cpus),
            ..row.host.dedicated_cpus
        };
        Room {
            allocation,
            pages,
            dedicated_cpus,
            policy: Some(&self.input.policy),
            ..Room::of(&row.host)
        }
    }

    /// The room for a job that is this: a domain that it adopts is counted already.
    #[must_use]
    pub fn room_for_spec(&self, row: &'a HostRow, job: &JobId, spec: &JobSpec) -> Room<'a> {
        let room = self.room_for(row, job);
        Room { allocation: room.allocation.minus(adoptable(row, spec)), ..room }
    }

    /// Who has which of the images that are wanted.
    pub(crate) fn holders(&self) -> &Holders {
        self.holders.get_or_init(|| Holders::of(self.input))
    }

    /// An address that this job would have and another one has.
    pub(crate) fn mac_taken(&self, job: &JobId, spec: &JobSpec) -> Option<(String, JobId)> {
        self.macs.taken(job, spec)
    }

    /// What a host has under this name, copies that steps have made included.
    #[must_use]
    pub fn image(&self, row: &'a HostRow, image: &ImageName) -> Option<&ImageFacts> {
        let brought = || self.brought.get(&row.host.id)?.get(image);
        row.host.images.get(image).or_else(brought)
    }

    /// A host's images as they would be after these copies.
    #[must_use]
    pub fn images_with(
        &self,
        row: &'a HostRow,
        fetches: &[Fetch],
    ) -> Cow<'a, BTreeMap<ImageName, ImageFacts>> {
        let brought = self.brought.get(&row.host.id);
        if fetches.is_empty() && brought.is_none() {
            return Cow::Borrowed(&row.host.images);
        }
        let mut images = row.host.images.clone();
        images.extend(
            brought.into_iter().flatten().map(|(name, facts)| (name.clone(), facts.clone())),
        );
        images.extend(fetches.iter().map(|fetch| (fetch.image.clone(), fetch.facts.clone())));
        Cow::Owned(images)
    }

    /// Copies images to a host, and accounts for their room.
    pub(crate) fn bring(&mut self, host: &HostId, fetches: &[Fetch]) {
        let Some(row) = self.host(host).filter(|_| !fetches.is_empty()) else { return };
        let copies = Resources { disk_bytes: bytes_of(fetches), ..Resources::ZERO };
        self.allocation.insert(host.clone(), self.allocation(row).plus(copies));
        let brought = self.brought.entry(host.clone()).or_default();
        brought.extend(fetches.iter().map(|fetch| (fetch.image.clone(), fetch.facts.clone())));
    }

    /// A host's pools, with what steps have made in them.
    #[must_use]
    pub fn pools(&self, row: &'a HostRow) -> Cow<'a, BTreeMap<PoolName, PoolFacts>> {
        pools_of(row, &self.booked)
    }

    /// Makes volumes in a host's pools, or makes them larger, and accounts for their room with everybody who
    /// has the pools.
    pub(crate) fn book(
        &mut self,
        host: &HostId,
        bytes_by_pool: impl IntoIterator<Item = (PoolName, u64)>,
    ) {
        let Some(row) = self.host(host) else { return };
        for (pool, bytes) in bytes_by_pool {
            let Some(facts) = row.host.pools.get(&pool) else { continue };
            let before = self.booked.get(&facts.id).copied().unwrap_or(0);
            self.booked.insert(facts.id, before.saturating_add(bytes));
        }
    }

    /// Puts a job's row in place, or takes it away, and accounts for the difference.
    pub(crate) fn place(&mut self, job: &JobId, host: &HostId, placed: Option<Placed>) {
        if let Some(row) = self.host(host) {
            let weight =
                |placed: &Placed| Load::placed(placed).minus(adoptable(row, &placed.spec).into());
            let before = self.placed(job, host).as_ref().map(weight).unwrap_or_default();
            let after = placed.as_ref().map(weight).unwrap_or_default();
            let allocation = self.allocation(row).minus(before.resources).plus(after.resources);
            self.allocation.insert(host.clone(), allocation);
            if before.pages != after.pages {
                let pages = self.pages(row).minus(before.pages).plus(after.pages);
                self.pages.insert(host.clone(), pages);
            }
            if before.dedicated_cpus != after.dedicated_cpus {
                let others = self.dedicated_cpus(row).saturating_sub(before.dedicated_cpus);
                let cpus = others.saturating_add(after.dedicated_cpus);
                self.dedicated_cpus.insert(host.clone(), cpus);
            }
        }
        let mut rows = self.placements(job);
        match placed {
            Some(placed) => rows.insert(host.clone(), placed),
            None => rows.remove(host),
        };
        self.jobs.insert(job.clone(), rows);
    }

    /// The revision that a new change of the job gets: above every one that any host remembers.
    #[must_use]
    pub fn next_revision(&self, job: &JobId) -> Revision {
        let last = self.placements(job).values().map(|placed| placed.revision.0).max();
        Revision(last.unwrap_or(0) + 1)
    }
}

/// What of a host's allocation is the domain that a job with this spec would adopt.
fn adoptable(row: &HostRow, spec: &JobSpec) -> Resources {
    let observed = spec.adopted().and_then(|uuid| row.observed.get(&uuid));
    observed.filter(|domain| domain.is_active).map(|d| d.takes()).unwrap_or_default()
}

fn rows_of(
    input: &PlanInput,
    register: Option<&Register>,
    differing: &BTreeSet<&HostId>,
    job: &JobId,
) -> OrdMap<HostId, Placed> {
    let seen = |(host, row): (&HostId, &HostRow)| {
        let placed = placed_as_seen(input, host, row.jobs.get(job)?);
        Some((host.clone(), placed))
    };
    let Some(register) = register else { return input.view.hosts().filter_map(seen).collect() };
    let hosts = register.homes(job).chain(differing.iter().copied());
    hosts.filter_map(|host| seen((host, input.view.host(host)?))).collect()
}

/// Hosts of which a register may say what is not so: their rows, how they are heard, what they are
/// intended for, or what they have promised. `None` when the register is of no use.
fn differing<'a>(input: &'a PlanInput, register: &'a Register) -> Option<BTreeSet<&'a HostId>> {
    if !register.is_for(input.seed, &input.shards, input.view.len()) {
        return None;
    }
    let changed = input.view.changed_since(register.view()).take(DIFFERING_MAX + 1);
    let mut hosts: BTreeSet<&HostId> = changed.collect();
    let heard = |host: &HostId| input.heard.get(host).map_or(Freshness::Fresh, |h| h.freshness);
    let otherwise = input.heard.iter().filter(|(host, h)| register.freshness(host) != h.freshness);
    hosts.extend(otherwise.map(|(host, _)| host));
    hosts.extend(register.unfresh().filter(|(h, was)| heard(h) != *was).map(|(host, _)| host));
    hosts.extend(register.intended().filter(|host| !input.intents.contains_key(*host)));
    hosts.extend(input.intents.keys());
    hosts.extend(input.setbacks.iter().map(|setback| &setback.host));
    hosts.extend(input.reservations.iter().map(|reservation| &reservation.host));
    (hosts.len() <= DIFFERING_MAX).then_some(hosts)
}

/// On a host that is known to be off nothing is alive, whatever it said last.
fn placed_as_seen(input: &PlanInput, host: &HostId, job: &Job) -> Placed {
    let placed = Placed::from(job);
    let is_off = input.intents.get(host) == Some(&Intent::Off);
    if is_off && !placed.state.is_ended() {
        return Placed { state: JobState::Crashed, has: None, has_other_devices: false, ..placed };
    }
    placed
}
