//! What an engine knows beyond the view: what hosts have just told it, and what its own runs are
//! about to take; and what it keeps beside the view so that plans need not walk all of it.
//!
//! A view lags behind the answers an engine gets. Decides when the view has caught up: when it
//! shows the job at least as new, or when the word is too old to be better.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use planner::{
    Clause, Expectation, Heard, Level, Limits, PlanInput, Register, Reservation, Rule, Setback,
    Shards, Terms,
};
use protocol::api::Want;
use protocol::cpus::DedicatedCpus;
use protocol::event::{Event, Fact};
use protocol::host::Host;
use protocol::hugepages::{Pages, with_promised};
use protocol::id::{HostId, JobId, Revision, RunId};
use protocol::job::Job;
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::trust::Policy;
use protocol::view::{Freshness, HostRow, View};

use crate::failover::{freshness_of, superseded_on};
use crate::follow::{HeardAt, Picture};
use crate::sleep::Powers;
use crate::upkeep::Aims;

/// How long a host's own word beats a view that shows something older. Monitors lag by less than a
/// second; a reconnect takes a few.
const WORD_MS_MAX: u64 = 10_000;

/// Hosts that are looked at for making room, all states of a search together; others wait for their plans
/// meanwhile.
const ROOM_LOOKS_MAX: u32 = 50_000;
/// States that are opened in any case: enough for a move and what it is for.
const ROOM_NODES_MIN: u32 = 8;

/// What hosts have said to this engine about jobs.
#[derive(Debug, Default)]
pub struct Knowledge {
    words: BTreeMap<(JobId, HostId), Word>,
    /// What hosts had promised when they said no for want of room.
    refusals: BTreeMap<HostId, Promised>,
    reservations: BTreeMap<RunId, Vec<Reservation>>,
    /// What is expected of where jobs are, whatever is planned.
    rules: Vec<Clause>,
    /// What plans look up in, for the picture of the last plan.
    register: Arc<Register>,
    /// How hosts were heard then.
    heard: OrdMap<HostId, HeardAt>,
    shards: Shards,
    /// What hosts let in, by the document that this engine obeys.
    policy: Arc<Policy>,
    terms: Option<Terms>,
    /// Who sleeps, and who may.
    powers: Arc<Powers>,
}

#[derive(Debug)]
struct Word {
    at_ms: u64,
    /// `None`: the host has no such job.
    job: Option<Job>,
}

#[derive(Debug)]
struct Promised {
    at_ms: u64,
    allocation: Resources,
}

impl Knowledge {
    /// A host has answered with its row of a job, or that it has none.
    pub fn hear(&mut self, now_ms: u64, host: HostId, id: JobId, job: Option<Job>) {
        self.words.insert((id, host), Word { at_ms: now_ms, job });
        self.words.retain(|_, word| now_ms.saturating_sub(word.at_ms) <= WORD_MS_MAX);
    }

    /// A host has said no. If that is for want of room, what it says of its room is newer than the view, for
    /// whatever is planned next: who forgets it asks the same host again.
    pub fn hear_no(&mut self, now_ms: u64, host: &HostId, no: &Refusal) {
        if let Refusal::NoCapacity { free, capacity, .. } = no {
            let allocation = capacity.minus(*free);
            self.refusals.insert(host.clone(), Promised { at_ms: now_ms, allocation });
        }
        self.refusals.retain(|_, said| now_ms.saturating_sub(said.at_ms) <= WORD_MS_MAX);
    }

    /// A run takes these places until it ends.
    pub fn reserve(&mut self, run: RunId, reservations: Vec<Reservation>) {
        self.reservations.insert(run, reservations);
    }

    /// A run has ended, or plans anew.
    pub fn release(&mut self, run: RunId) {
        self.reservations.remove(&run);
    }

    /// These rules are heeded from now on.
    pub fn heed(&mut self, rules: Vec<Clause>) {
        self.rules = rules;
    }

    /// Several schedulers place on these hosts; each takes some of them first.
    pub fn share_with(&mut self, shards: Shards) {
        self.shards = shards;
    }

    /// Hosts obey this policy, or will within moments.
    pub fn obey(&mut self, policy: Arc<Policy>) {
        self.policy = policy;
    }

    /// How soon what a lost host ran may run elsewhere.
    pub fn count_on(&mut self, terms: Option<Terms>) {
        self.terms = terms;
    }

    /// Who sleeps, and who may.
    pub fn note_powers(&mut self, powers: Arc<Powers>) {
        self.powers = powers;
    }

    /// Brings what plans look up in up to a picture, at the cost of what has changed since the last.
    fn prepare(&mut self, picture: &Picture, seed: u64) -> Arc<Register> {
        if self.register.seed() != seed {
            (self.register, self.heard) =
                (Arc::new(Register::new(seed, self.shards.clone())), OrdMap::new());
        }
        // Copied only while another plan is still at work with it: one at a time is made.
        let register = Arc::make_mut(&mut self.register);
        register.share_with(self.shards.clone());
        register.follow(&picture.view);
        for item in self.heard.diff(&picture.heard) {
            match item {
                DiffItem::Add(host, at) | DiffItem::Update { new: (host, at), .. } => {
                    register.hear(host, at.freshness);
                }
                DiffItem::Remove(host, _) => register.hear(host, Freshness::Fresh),
            }
        }
        self.heard = picture.heard.clone();
        Arc::clone(&self.register)
    }

    /// The view with what hosts have said since.
    #[must_use]
    pub fn view(&self, now_ms: u64, view: &View) -> View {
        let mut later = view.clone();
        let mut merge = |host: &HostId, fact: Fact| {
            // The copy's cursor is of no use to anybody: it is planned with and thrown away.
            let Some(cursor) = later.host(host).map(|row| row.cursor.next()) else { return };
            later.merge_event(&Event { host: host.clone(), cursor, at_ms: 0, fact });
        };
        let mut rooms: BTreeMap<&HostId, Room> = BTreeMap::new();
        for ((id, host), word) in &self.words {
            let Some(row) = view.host(host).filter(|_| is_fresh(now_ms, word.at_ms)) else {
                continue;
            };
            let Some((before, after)) = word.change(row.jobs.get(id).map(AsRef::as_ref)) else {
                continue;
            };
            let fact = match &word.job {
                Some(job) => Fact::JobChanged { job: Box::new(job.clone()) },
                None => Fact::JobDeleted { job: id.clone() },
            };
            merge(host, fact);
            // What the host says of its room is as old as what it says of the job: both come together.
            let room = rooms.entry(host).or_insert_with(|| self.room(now_ms, row));
            room.change(word.at_ms, before, after);
        }
        for host in self.refusals.keys().filter_map(|host| view.host(host)) {
            rooms.entry(&host.host.id).or_insert_with(|| self.room(now_ms, host));
        }
        for (host, room) in rooms {
            let Some(facts) = view.host(host).map(|row| &row.host) else { continue };
            let allocation = room.allocation();
            let (pages, promised) = (room.pages, room.dedicated_cpus);
            let is_as_seen = allocation == facts.allocation
                && pages == Pages::promised(&facts.hugepages)
                && promised == facts.dedicated_cpus.promised;
            if !is_as_seen {
                let hugepages = with_promised(&facts.hugepages, pages);
                let dedicated_cpus = DedicatedCpus { promised, ..facts.dedicated_cpus };
                let host = Host { allocation, hugepages, dedicated_cpus, ..Host::clone(facts) };
                merge(&facts.id, Fact::HostChanged { host: Box::new(host) });
            }
        }
        later
    }

    /// What a host has promised by the view, and by its own no.
    fn room(&self, now_ms: u64, row: &HostRow) -> Room {
        let said = self.refusals.get(&row.host.id).filter(|said| is_fresh(now_ms, said.at_ms));
        let pages = Pages::promised(&row.host.hugepages);
        let said = said.map(|said| (said.at_ms, said.allocation));
        let dedicated_cpus = row.host.dedicated_cpus.promised;
        Room { seen: row.host.allocation, said, pages, dedicated_cpus }
    }

    /// Forgets what hosts said of their room once the view shows as much.
    fn settle(&mut self, view: &View) {
        let is_ahead = |host: &HostId, said: &Promised| {
            let seen = view.host(host).map(|row| row.host.allocation);
            seen.is_some_and(|seen| !said.allocation.fits_in(seen))
        };
        self.refusals.retain(|host, said| is_ahead(host, said));
    }

    /// Everything a plan for one run depends on.
    #[must_use]
    pub fn plan_input(
        &mut self,
        now_ms: u64,
        picture: &Picture,
        run: RunId,
        want: &Want,
        setbacks: Vec<Setback>,
        seed: u64,
    ) -> PlanInput {
        let others = self.reservations.iter().filter(|(other, _)| **other != run);
        // What is kept for this very job is kept by the run for whose sake it is moved.
        let held = others.flat_map(|(_, held)| held).filter(|held| held.job != *want.job());
        let reservations = held.cloned().collect();
        let expectations = Expectation::of(want).into_iter().collect();
        let of_job = |clause: &&Clause| clause.rule.jobs().contains(&want.job());
        let clauses = self.rules.iter().filter(of_job).cloned().collect();
        // A job that must run runs, if need be against what should be; to be moved elsewhere is no need.
        let level = match want {
            Want::Migrate { .. } => Level::Wish,
            Want::Run { .. }
            | Want::Spend { .. }
            | Want::Stop { .. }
            | Want::Resize { .. }
            | Want::Delete { .. }
            | Want::FailOver { .. }
            | Want::Sleep { .. }
            | Want::Wake { .. } => Level::Must,
        };
        let levels = BTreeMap::from([(want.job().clone(), level)]);
        let (wakes_for, preempts_for) = (Some(Level::Must), Some(Level::Must));
        let limits = Limits { mends_rules: false, wakes_for, preempts_for, ..Limits::default() };
        let mut input = self.input(now_ms, picture, setbacks, seed);
        if let Want::FailOver { job, lost, revision, .. } = want {
            forget_lost(&mut input.view, job, &lost.host);
            // A start elsewhere that failed is what was lost last, and the host that had it before is silent still:
            // what it said then is nothing to wait for.
            for host in silent_with(picture, &self.register, job, *revision) {
                forget_lost(&mut input.view, job, &host);
            }
            input.lost.insert(job.clone(), lost.host.clone());
        }
        PlanInput { expectations, levels, clauses, reservations, limits, ..input }
    }

    /// Everything a plan for what is wrong with hosts depends on.
    #[must_use]
    pub fn tend_input(
        &mut self,
        now_ms: u64,
        picture: &Picture,
        setbacks: Vec<Setback>,
        seed: u64,
    ) -> PlanInput {
        let reservations = self.reservations.values().flatten().cloned().collect();
        let limits = Limits { tends_hosts: true, mends_rules: false, ..Limits::default() };
        let input = self.input(now_ms, picture, setbacks, seed);
        // Who sleeps is nothing that is wrong with hosts, and costs a rehearsal of all of them.
        let is_other = |clause: &&Clause| !matches!(clause.rule, Rule::PowerSaving(_));
        let clauses = self.rules.iter().filter(is_other).cloned().collect();
        PlanInput { reservations, limits, clauses, ..input }
    }

    /// Everything depends on by which a host may sleep: where all is, and what is expected of it.
    #[must_use]
    pub fn saving_input(&mut self, now_ms: u64, picture: &Picture, seed: u64) -> PlanInput {
        let reservations = self.reservations.values().flatten().cloned().collect();
        let input = self.input(now_ms, picture, vec![], seed);
        PlanInput { reservations, clauses: self.rules.clone(), ..input }
    }

    /// Everything a plan depends on that mends what is expected.
    #[must_use]
    pub fn mend_input(
        &mut self,
        now_ms: u64,
        picture: &Picture,
        aims: Aims,
        setbacks: Vec<Setback>,
        seed: u64,
    ) -> PlanInput {
        let reservations = self.reservations.values().flatten().cloned().collect();
        let input = self.input(now_ms, picture, setbacks, seed);
        aims.told(PlanInput { reservations, ..input })
    }

    fn input(
        &mut self,
        now_ms: u64,
        picture: &Picture,
        setbacks: Vec<Setback>,
        seed: u64,
    ) -> PlanInput {
        let register = self.prepare(picture, seed);
        // Who is not named is fresh.
        let heard = register.unfresh().map(|(host, freshness)| {
            let heard_ms = picture.heard.get(host).map_or(now_ms, |at| at.heard_ms);
            (host.clone(), Heard { freshness, age_ms: now_ms.saturating_sub(heard_ms) })
        });
        self.settle(&picture.view);
        let mut view = self.view(now_ms, &picture.view);
        let silent = register.unfresh().filter_map(|(host, _)| view.host(host));
        let said = |job: &JobId| {
            let words = self.words.keys();
            words.filter(|(id, _)| id == job).map(|(_, host)| host.clone()).collect::<Vec<_>>()
        };
        let gone = superseded_on(silent, |job| {
            let hosts = register.homes(job).cloned().chain(said(job));
            let rows = hosts.filter_map(|host| view.host(&host)?.jobs.get(job));
            rows.map(AsRef::as_ref).collect()
        });
        for (host, job) in gone {
            forget_lost(&mut view, &job, &host);
        }
        let (heard, shards) = (heard.collect(), self.shards.clone());
        let policy = Arc::clone(&self.policy);
        let prepared = register.into();
        let input = self.powers.told(PlanInput::default());
        let terms = self.terms;
        PlanInput { view, heard, setbacks, seed, shards, prepared, policy, terms, ..input }
            .with_host_intents()
    }
}

/// Whether a host's word still counts where the view shows something older.
fn is_fresh(now_ms: u64, at_ms: u64) -> bool {
    now_ms.saturating_sub(at_ms) <= WORD_MS_MAX
}

impl Word {
    /// What the host has promised for the job by the view and by its word; `None` when the view is as new.
    fn change(&self, shown: Option<&Job>) -> Option<(Takes, Takes)> {
        let is_news = match (&self.job, shown) {
            (Some(job), Some(shown)) => {
                (shown.revision, shown.since_ms) < (job.revision, job.since_ms)
            }
            (Some(_), None) | (None, Some(_)) => true,
            (None, None) => false,
        };
        let takes = |job: &Job| (job.allocation(), job.pages(), job.dedicated_cpus());
        let promised = |job: Option<&Job>| job.map(takes).unwrap_or_default();
        is_news.then(|| (promised(shown), promised(self.job.as_ref())))
    }
}

/// What a job takes of its host, and how many huge pages and dedicated CPUs beside that.
type Takes = (Resources, Pages, u32);

/// What a host has promised, as two accounts have it that are both kept up with its words.
struct Room {
    /// By the view.
    seen: Resources,
    /// By its own no, and when that was.
    said: Option<(u64, Resources)>,
    /// Huge pages, by the view alone: hosts that refuse for want of those are asked again.
    pages: Pages,
    /// Dedicated CPUs, likewise.
    dedicated_cpus: u32,
}

impl Room {
    fn change(
        &mut self,
        at_ms: u64,
        (before, pages_before, cpus_before): Takes,
        (after, pages_after, cpus_after): Takes,
    ) {
        self.pages = self.pages.minus(pages_before).plus(pages_after);
        let others = self.dedicated_cpus.saturating_sub(cpus_before);
        self.dedicated_cpus = others.saturating_add(cpus_after);
        self.seen = self.seen.minus(before).plus(after);
        // What was so before it said no is in what it said.
        if let Some((said_ms, said)) = &mut self.said
            && at_ms > *said_ms
        {
            *said = said.minus(before).plus(after);
        }
    }

    /// Which of the two is newer is not known. The larger one costs a while of a host that has become emptier;
    /// the smaller one would cost the same no again.
    fn allocation(&self) -> Resources {
        self.said.map_or(self.seen, |(_, said)| said.max(self.seen))
    }
}

/// Lets a plan move others where that makes something fit that must be: at most what a report would name as a help,
/// so that what is told and what is done are the same.
pub(crate) fn make_room(input: &mut PlanInput, heeded: Vec<Clause>) {
    let hosts = u32::try_from(input.view.len().max(1)).unwrap_or(u32::MAX);
    input.limits.may_make_room = true;
    input.limits.room_level = Level::Must;
    input.limits.nodes_max = (ROOM_LOOKS_MAX / hosts).clamp(ROOM_NODES_MIN, input.limits.nodes_max);
    let is_new = |clause: &Clause| !input.clauses.contains(clause);
    input.heeded = heeded.into_iter().filter(is_new).collect();
}

/// Takes what was lost out of a view that is planned with: whether it is over is the arbiters' to say, and
/// not in the way of a plan.
pub(crate) fn forget_lost(view: &mut View, job: &JobId, host: &HostId) {
    let Some(row) = view.host(host) else { return };
    if row.jobs.get(job).is_none_or(|row| row.state.is_ended()) {
        return;
    }
    let (host, cursor) = (host.clone(), row.cursor.next());
    let fact = Fact::JobDeleted { job: job.clone() };
    view.merge_event(&Event { host, cursor, at_ms: 0, fact });
}

/// Hosts that are not heard and have said that the job is there, by no later change than this one.
fn silent_with(
    picture: &Picture,
    register: &Register,
    job: &JobId,
    revision: Revision,
) -> Vec<HostId> {
    let row = |host: &HostId| picture.view.host(host)?.jobs.get(job);
    let is_there = |host: &HostId| row(host).is_some_and(|row| row.revision <= revision);
    let is_silent = |host: &HostId| freshness_of(picture.heard.get(host)) != Freshness::Fresh;
    let with = register.homes(job).filter(|host| is_there(host) && is_silent(host));
    with.cloned().collect()
}

#[cfg(test)]
mod tests {
    use protocol::host::Inventory;
    use protocol::hugepages::{HugepageFacts, PageSize};
    use protocol::id::{Cursor, Epoch};
    use protocol::job::{JobSpec, JobState};
    use protocol::signed::SecretKey;
    use protocol::vm::{Hardware, VmSpec};

    use super::*;

    #[test]
    fn what_a_host_has_just_taken_is_not_free_before_the_view_shows_it_and_counts_once_after() {
        let spec = JobSpec::vm(VmSpec { vcpus: 2, memory_bytes: 1 << 30, ..VmSpec::default() });
        let id: JobId = "web".parse().unwrap();
        let job = Job { since_ms: 5, ..Job::of(id, spec, JobState::Running) };
        let facts = Host::of_key(SecretKey::from_seed([1; 32]).public());
        let (host, id, takes) = (facts.id.clone(), job.id.clone(), job.allocation());
        assert!(takes.vcpus == 2, "{takes:?}");
        let shown = |seq: u64, allocation, jobs| {
            let cursor = Cursor { epoch: Epoch(1), seq };
            let host = Host { allocation, ..facts.clone() };
            let mut view = View::default();
            view.merge_inventory(Inventory { cursor, host, jobs, observed: vec![] });
            view
        };
        let (late, now) =
            (shown(1, Default::default(), vec![]), shown(3, takes, vec![job.clone()]));
        let mut knowledge = Knowledge::default();
        let taken = |knowledge: &Knowledge, view: &View| {
            knowledge.view(0, view).host(&host).map(|row| row.host.allocation)
        };
        knowledge.hear(0, host.clone(), id.clone(), Some(job));
        assert_eq!(taken(&knowledge, &late), Some(takes));
        assert_eq!(taken(&knowledge, &now), Some(takes));
        knowledge.hear(0, host.clone(), id, None);
        assert_eq!(taken(&knowledge, &now), Some(Default::default()), "it has ended since");
        assert_eq!(taken(&knowledge, &late), Some(Default::default()));
    }

    #[test]
    fn huge_pages_that_a_host_has_just_promised_are_not_free_before_the_view_shows_it() {
        let hardware = Hardware { hugepages_kib: Some(2048), ..Hardware::default() };
        let hardware = Box::new(hardware);
        let vm = VmSpec { vcpus: 2, memory_bytes: 64 << 20, hardware, ..VmSpec::default() };
        let id: JobId = "db".parse().unwrap();
        let job = Job { since_ms: 5, ..Job::of(id.clone(), JobSpec::vm(vm), JobState::Running) };
        let facts = HugepageFacts { total: 64, promised: 0, others: 8 };
        let hugepages = [(PageSize::MIB2, facts)].into();
        let facts = Host::of_key(SecretKey::from_seed([1; 32]).public());
        let host = Host { hugepages, ..facts };
        let (at, cursor) = (host.id.clone(), Cursor { epoch: Epoch(1), seq: 1 });
        let mut view = View::default();
        view.merge_inventory(Inventory { cursor, host, jobs: vec![], observed: vec![] });
        let mut knowledge = Knowledge::default();
        let told = |knowledge: &Knowledge| {
            let view = knowledge.view(0, &view);
            view.host(&at).map(|row| row.host.hugepages[&PageSize::MIB2])
        };
        assert_eq!(told(&knowledge).map(HugepageFacts::free), Some(56));
        knowledge.hear(0, at.clone(), id.clone(), Some(job));
        assert_eq!(told(&knowledge).map(HugepageFacts::free), Some(24));
        knowledge.hear(0, at.clone(), id, None);
        assert_eq!(told(&knowledge).map(HugepageFacts::free), Some(56));
    }

    #[test]
    fn dedicated_cpus_that_a_host_has_just_promised_are_not_free_before_the_view_shows_it() {
        let hardware = Box::new(Hardware { dedicated_cpus: true, ..Hardware::default() });
        let vm = VmSpec { vcpus: 2, memory_bytes: 64 << 20, hardware, ..VmSpec::default() };
        let id: JobId = "db".parse().unwrap();
        let job = Job { since_ms: 5, ..Job::of(id.clone(), JobSpec::vm(vm), JobState::Running) };
        let dedicated_cpus = DedicatedCpus { total: 4, promised: 1 };
        let facts = Host::of_key(SecretKey::from_seed([1; 32]).public());
        let host = Host { dedicated_cpus, ..facts };
        let (at, cursor) = (host.id.clone(), Cursor { epoch: Epoch(1), seq: 1 });
        let mut view = View::default();
        view.merge_inventory(Inventory { cursor, host, jobs: vec![], observed: vec![] });
        let mut knowledge = Knowledge::default();
        let free = |knowledge: &Knowledge| {
            let view = knowledge.view(0, &view);
            view.host(&at).map(|row| row.host.dedicated_cpus.free())
        };
        assert_eq!(free(&knowledge), Some(3));
        knowledge.hear(0, at.clone(), id.clone(), Some(job));
        assert_eq!(free(&knowledge), Some(1));
        knowledge.hear(0, at.clone(), id, None);
        assert_eq!(free(&knowledge), Some(3));
    }

    #[test]
    fn a_run_wakes_who_may_be_woken_for_what_fits_on_no_other() {
        let of = |memory_bytes| Resources { vcpus: 8, memory_bytes, disk_bytes: 0 };
        let mut view = View::default();
        let mut put = |n: u8, capacity| {
            let key = SecretKey::from_seed([n; 32]).public();
            let host = Host { capacity, ..Host::of_key(key) };
            let (id, cursor) = (host.id.clone(), Cursor { epoch: Epoch(1), seq: 1 });
            view.merge_inventory(Inventory { cursor, host, jobs: vec![], observed: vec![] });
            id
        };
        let (small, large) = (put(1, of(1 << 30)), put(2, of(8 << 30)));
        let picture = Picture { view, is_current: true, ..Picture::default() };
        let vm = |memory_bytes| JobSpec::vm(VmSpec { vcpus: 1, memory_bytes, ..VmSpec::default() });
        let plan = |knowledge: &mut Knowledge, memory_bytes| {
            let job: JobId = "web".parse().unwrap();
            let want = Want::Run { job, spec: vm(memory_bytes), on: None, again: false };
            let run = RunId(uuid::Uuid::from_u128(1));
            let outcome = planner::plan(&knowledge.plan_input(0, &picture, run, &want, vec![], 1));
            let steps = outcome.plan.steps.iter().map(ToString::to_string).collect::<Vec<_>>();
            (steps, outcome.report.to_string())
        };
        let mut knowledge = Knowledge::default();
        let asleep = |host: &HostId, may_wake| {
            let asleep = BTreeMap::from([(host.clone(), may_wake)]);
            Arc::new(Powers { asleep, ..Powers::default() })
        };
        knowledge.note_powers(asleep(&large, true));
        let (small, large) = (small.short(), large.short());
        assert_eq!(plan(&mut knowledge, 512 << 20).0, [format!("start web on {small}")]);
        let woken = [format!("wake {large} for web"), format!("start web on {large}")];
        assert_eq!(plan(&mut knowledge, 4 << 30).0, woken);
        let id = picture.view.hosts().find(|(id, _)| id.short() == large).unwrap().0.clone();
        knowledge.note_powers(asleep(&id, false));
        let (steps, report) = plan(&mut knowledge, 4 << 30);
        assert!(steps.is_empty(), "{steps:?}");
        assert!(report.contains("is asleep") && report.contains("power on"), "{report}");
    }

    #[test]
    fn what_a_silent_host_said_is_not_waited_for_when_a_start_elsewhere_has_failed() {
        use protocol::host::HypervisorFacts;
        use protocol::id::OfferId;
        use protocol::ticket::HoldAt;
        use protocol::vm::OnLoss;

        let vm = VmSpec { vcpus: 1, memory_bytes: 1 << 30, ..VmSpec::default() };
        let spec = JobSpec::vm(VmSpec { on_loss: OnLoss::Stop, ..vm });
        let job: JobId = "web".parse().unwrap();
        let capacity = Resources { vcpus: 8, memory_bytes: 8 << 30, disk_bytes: 0 };
        let mut picture = Picture { is_current: true, ..Picture::default() };
        let mut put = |n: u8, freshness, state: Option<JobState>| {
            let host = Host::of_key(SecretKey::from_seed([n; 32]).public());
            let hypervisor = HypervisorFacts { can_guard: true, ..host.hypervisor.clone() };
            let host = Host { capacity, hypervisor, ..host };
            let (id, cursor) = (host.id.clone(), Cursor { epoch: Epoch(1), seq: 1 });
            let row =
                |state| Job { revision: Revision(1), ..Job::of(job.clone(), spec.clone(), state) };
            let jobs = state.map(row).into_iter().collect();
            picture.view.merge_inventory(Inventory { cursor, host, jobs, observed: vec![] });
            picture.heard.insert(id.clone(), HeardAt { freshness, heard_ms: 0 });
            id
        };
        let silent = put(1, Freshness::Lost, Some(JobState::Running));
        let tried = put(2, Freshness::Fresh, Some(JobState::Failed));
        put(3, Freshness::Fresh, None);
        let hold = OfferId { epoch: Epoch(1), num: 1 };
        let lost = HoldAt { host: tried, hold };
        let want = Want::FailOver { job, spec, revision: Revision(1), lost };
        let run = RunId(uuid::Uuid::from_u128(1));
        let input = Knowledge::default().plan_input(0, &picture, run, &want, vec![], 1);
        assert!(input.view.host(&silent).unwrap().jobs.is_empty());
        let steps = planner::plan(&input).plan.steps;
        let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
        assert!(matches!(&steps[..], [step] if step.starts_with("start web on")), "{steps:?}");
    }

    #[test]
    fn every_plan_is_made_under_the_policy_that_the_engine_obeys() {
        use protocol::trust::{TenantPolicy, VmMax};

        let capacity = Resources { vcpus: 8, memory_bytes: 8 << 30, disk_bytes: 0 };
        let host = Host { capacity, ..Host::of_key(SecretKey::from_seed([1; 32]).public()) };
        let cursor = Cursor { epoch: Epoch(1), seq: 1 };
        let mut view = View::default();
        view.merge_inventory(Inventory { cursor, host, jobs: vec![], observed: vec![] });
        let picture = Picture { view, is_current: true, ..Picture::default() };
        let spec = JobSpec::vm(VmSpec { vcpus: 2, memory_bytes: 1 << 30, ..VmSpec::default() });
        let job: JobId = "web".parse().unwrap();
        let want = Want::Run { job, spec: spec.clone(), on: None, again: false };
        let steps = |knowledge: &mut Knowledge| {
            let run = RunId(uuid::Uuid::from_u128(1));
            let input = knowledge.plan_input(0, &picture, run, &want, vec![], 1);
            planner::plan(&input).plan.steps.len()
        };
        let mut knowledge = Knowledge::default();
        assert_eq!(steps(&mut knowledge), 1);
        let vm_max = Some(VmMax { vcpus: Some(1), ..VmMax::default() });
        let rules = TenantPolicy { vm_max, ..TenantPolicy::default() };
        knowledge.obey(Policy { default: Some(rules), ..Policy::default() }.into());
        assert_eq!(steps(&mut knowledge), 0);
        let tended = knowledge.tend_input(0, &picture, vec![], 1);
        let mended = knowledge.mend_input(0, &picture, Aims::default(), vec![], 1);
        for policy in [tended.policy, mended.policy] {
            assert!(!policy.breaches(&spec).is_empty());
        }
        knowledge.obey(Arc::default());
        assert_eq!(steps(&mut knowledge), 1);
    }

    #[test]
    fn a_host_that_has_said_no_counts_as_full_as_it_said_until_the_view_shows_as_much() {
        let of = |vcpus| Resources { vcpus, ..Resources::ZERO };
        let facts =
            Host { capacity: of(8), ..Host::of_key(SecretKey::from_seed([1; 32]).public()) };
        let host = facts.id.clone();
        let shown = |seq: u64, allocation| {
            let cursor = Cursor { epoch: Epoch(1), seq };
            let host = Host { allocation, ..facts.clone() };
            let mut view = View::default();
            view.merge_inventory(Inventory { cursor, host, jobs: vec![], observed: vec![] });
            view
        };
        let taken = |knowledge: &Knowledge, now_ms, view: &View| {
            knowledge.view(now_ms, view).host(&host).map(|row| row.host.allocation.vcpus)
        };
        let mut knowledge = Knowledge::default();
        let job = |name: &str, vcpus| {
            let spec = JobSpec::vm(VmSpec { vcpus, memory_bytes: 0, ..VmSpec::default() });
            Job { since_ms: 5, ..Job::of(name.parse().unwrap(), spec, JobState::Running) }
        };
        let hear = |knowledge: &mut Knowledge, now_ms, name: &str, vcpus| {
            let job = job(name, vcpus);
            knowledge.hear(now_ms, host.clone(), job.id.clone(), Some(job));
        };
        hear(&mut knowledge, 0, "before", 1);
        let no = Refusal::NoCapacity { asked: of(4), free: of(3), capacity: of(8) };
        knowledge.hear_no(1, &host, &no);
        let late = shown(1, of(2));
        assert_eq!(taken(&knowledge, 1, &late), Some(5), "what came before the no is in it");
        hear(&mut knowledge, 2, "after", 2);
        assert_eq!(taken(&knowledge, 2, &late), Some(7), "what came after is not");
        assert_eq!(
            taken(&knowledge, 2 + WORD_MS_MAX, &late),
            Some(4),
            "a no does not count for ever"
        );
        assert_eq!(taken(&knowledge, 2, &shown(2, of(6))), Some(9), "others may have come since");
        knowledge.settle(&late);
        assert_eq!(taken(&knowledge, 2, &late), Some(7), "the view is not there yet");
        knowledge.settle(&shown(2, of(5)));
        assert_eq!(taken(&knowledge, 2, &shown(3, of(1))), Some(4), "the view was there");
    }
}
