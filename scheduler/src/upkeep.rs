//! Keeping expectations true: which are broken, which of them are mended now, and what is told of the
//! others. Pure.
//!
//! Decides from the view, fact by fact, how each expectation stands (`upkeep/index.rs` knows who reads
//! what), and when a broken one is mended: after it has stood broken for a moment, in the order that
//! schedulers have among themselves, no more at a time than hosts bear, and not again and again. What
//! would mend it is the planner's, and each mend is an ordinary run. A group is judged and mended VM by VM,
//! and told of as one (`upkeep/told.rs`).
//!
//! ```text
//!              facts change              for a moment, and it is our turn
//!   met ◀───────────────────▶ broken ─────────────────────▶ due ──▶ planned ──▶ mending ──▶ met
//!    ▲                           │ ▲                                   │ no step      │ did not succeed
//!    └── coming: a host is at it ┘ └── unmet, and why ◀────────────────┴──────────────┘
//!   held: not to be mended by us (ended by command, on a host that is not heard, deleted), or not yet: another
//!         one is to run before it
//! ```

mod balance;

mod clash;

mod index;

mod mends;

mod set;

mod told;

mod turns;

mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use planner::rules::NoMigration;
use planner::{Clause, Expectation, Favour, Group, Level, Rehearsal, Report, Rule, Shift, Step};
use protocol::api::Want;
use protocol::expectations::{KeptStanding, SetStatus};
use protocol::id::{HostId, JobId, Revision, SetName};
use protocol::job::{Job, JobState};
use protocol::resources::Resources;
use protocol::view::{Freshness, View};
use serde_json::{Value, json};

use self::balance::Balancing;
use self::index::{Index, Key};
use self::set::{Entry, Item};
use self::verdict::{Facts, Verdict, domain_of, is_between, is_rehearsed, is_told_only, judge};
use crate::follow::HeardAt;
use crate::tally::Kept;

pub use balance::Shifts;
pub use clash::Clash;
pub(crate) use mends::Mends;
pub use mends::Open;
pub use set::{ITEMS_MAX, SET_VERSION, SETS_MAX, SetError, SetRecord};
pub(crate) use set::{List, read};
pub use turns::Turns;
pub(crate) use verdict::spec_of;

/// How long an expectation must have been broken before it is mended: what passes by itself, as a move
/// that an operator makes, needs no help.
const SETTLE_MS: u64 = 1_000;

/// How much longer each next scheduler waits: the one before has begun by then, and it shows.
const TURN_MS: u64 = 3_000;

/// What reads the whole cluster is judged again no sooner: it costs what the cluster is large, and changes
/// with every event.
const WHOLE_MS: u64 = 5_000;

/// Two plans of which nothing came are at least this far apart.
const PLAN_IDLE_MS: u64 = 2_000;

/// What could not be mended is planned again at least this often, whatever has changed.
const PLAN_AGAIN_MS: u64 = 10_000;

/// What has happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// A set was put or deleted, and is stored.
    Put(SetRecord),
    /// A set was kept already when this began.
    Recovered(SetRecord),
    /// The view is this, and it is current.
    Looked(Box<Look>),
    /// A plan was made of [`Effect::Plan`].
    Planned {
        /// Steps that may be taken now, in their order.
        steps: Vec<Step>,
        /// Which of them move others so that something fits.
        favours: Vec<Favour>,
        /// Which of them make hosts more alike.
        shifts: Vec<Shift>,
        /// What stays as it is, and why.
        report: Report,
        /// Runs that have not ended.
        open: Vec<Open>,
    },
    /// A mend has ended.
    Ended {
        /// The job.
        job: JobId,
        /// Where it was to be.
        to: HostId,
        /// Why it is not; `None` when it is.
        failure: Option<String>,
    },
    /// Somebody has a job stopped.
    Stopped {
        /// The job.
        job: JobId,
        /// The latest change of it that is seen.
        revision: Revision,
    },
    /// A mend could not be begun now: somebody else is changing the job.
    Busy {
        /// The job.
        job: JobId,
    },
    /// A job was moved so that another fits, by somebody's run.
    Moved {
        /// The job that was moved.
        job: JobId,
    },
}

/// The world as it is now.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// Hosts and jobs.
    pub view: View,
    /// How each host is heard.
    pub heard: OrdMap<HostId, HeardAt>,
    /// Hosts of the cluster.
    pub members: Arc<BTreeSet<HostId>>,
    /// Runs that have not ended.
    pub open: Vec<Open>,
    /// Who else keeps the same sets.
    pub turns: Turns,
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// These rules are heeded by every new placement.
    Heed(Vec<Clause>),
    /// Store this set as it is now: more is known of it than what is stored.
    Save(SetName),
    /// Plan; answer with [`Input::Planned`].
    Plan(Box<Aims>),
    /// Begin a run; answer with [`Input::Ended`] or [`Input::Busy`].
    Mend {
        /// What.
        want: Box<Want>,
        /// Where the job will be.
        to: HostId,
        /// For whose sake, if it is for another's.
        because: Option<String>,
    },
}

/// What a plan is to reach.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Aims {
    /// Jobs, most important first within each level.
    pub goals: Vec<(Level, Expectation)>,
    /// Rules that are broken, and those that a mend of them could break.
    pub clauses: Vec<Clause>,
    /// Rules that moves of others must not break.
    pub heeded: Vec<Clause>,
    /// Hosts that failed of late, with what was said.
    pub shunned: BTreeMap<HostId, String>,
    /// Moves that make hosts more alike.
    pub shifts: Shifts,
}

#[derive(Debug, Clone)]
struct Set {
    record: SetRecord,
    items: Vec<Item>,
    /// What of them each expectation is.
    entries: Vec<Entry>,
}

impl Set {
    /// What an expectation of it is, each with its key.
    fn parts<'s>(
        &'s self,
        name: &'s SetName,
        entry: &'s Entry,
    ) -> impl Iterator<Item = (Key, &'s Item)> + Clone {
        let places = entry.places.clone();
        places.filter_map(move |place| Some(((name.clone(), place), self.items.get(place)?)))
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        self.entries.iter().filter_map(|entry| entry.group.as_ref())
    }

    /// Who waits for others by it.
    fn ordered(&self) -> BTreeSet<JobId> {
        let orders = self.items.iter().filter_map(|item| match item {
            Item::Order(order) => Some(&order.order.jobs),
            _ => None,
        });
        orders.flatten().cloned().collect()
    }
}

#[derive(Debug, Clone)]
struct Judged {
    verdict: Verdict,
    broken_since_ms: Option<u64>,
    /// When those whose turn it is first could last not mend it, or were seen at work.
    held_ms: Option<u64>,
    /// What the last plan said of it.
    report: Option<(String, Value)>,
}

#[derive(Debug, Clone, Default)]
struct Planning {
    /// When the last plan was asked for, and for what.
    asked_ms: Option<u64>,
    due: BTreeSet<Key>,
    /// True while it is being made.
    is_open: bool,
    /// True when nothing could be begun after it.
    was_idle: bool,
    /// Whether anything has changed since.
    is_stale: bool,
}

/// Every set of expectations that is kept.
#[derive(Debug, Clone, Default)]
pub struct Upkeep {
    sets: BTreeMap<SetName, Set>,
    index: Index,
    judged: BTreeMap<Key, Judged>,
    /// Those of them that are broken.
    broken: BTreeSet<Key>,
    mends: Mends,
    planning: Planning,
    /// Jobs with a mend that has not ended.
    mending: BTreeSet<JobId>,
    /// Those of them that are moved so that another fits.
    clearing: BTreeMap<JobId, Favour>,
    /// What is done so that hosts are about as full as each other.
    balancing: Balancing,
    /// What the loss of each host, or of each value of a label, would need, if anybody expects that none does harm.
    rehearsals: BTreeMap<Option<String>, Rehearsal>,
    open: Vec<Open>,
    turns: Turns,
    has_looked: bool,
    /// What was put since.
    unjudged: BTreeSet<Key>,
    /// What reads the whole cluster and is to be judged again, and when that was done last.
    postponed: BTreeSet<Key>,
    whole_ms: Option<u64>,
    judged_count: u64,
}

impl Upkeep {
    /// Takes one input; what has to be done is added to `out`, in order.
    pub fn handle(&mut self, now_ms: u64, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Put(record) => self.put(now_ms, record, out),
            Input::Recovered(record) => {
                self.balancing.begin_at_rest(now_ms);
                self.put(now_ms, record, out);
            }
            Input::Looked(look) => self.look(now_ms, *look, out),
            Input::Planned { steps, favours, shifts, report, open } => {
                let (of_shifts, of_others): (Vec<Step>, _) = steps
                    .into_iter()
                    .partition(|step| shifts.iter().any(|shift| balance::is_of(shift, step)));
                self.planned(now_ms, of_others, &favours, &report, open, out);
                self.begin_shift(now_ms, &of_shifts, &shifts, out);
            }
            Input::Ended { job, to, failure } => {
                // What was started once is not made again when it is deleted, whether or not it was seen.
                if failure.is_none() {
                    let jobs = BTreeSet::from([job.clone()]);
                    self.note_begun(&jobs, out);
                    self.judge(now_ms, self.keys_of(&job), out);
                }
                self.mending.remove(&job);
                let is_favour = self.clearing.remove(&job).is_some();
                let is_shift = self.balancing.ended(now_ms, &job);
                self.mends.ended(now_ms, job, to, failure, is_favour || is_shift);
                self.planning.is_stale = true;
            }
            Input::Stopped { job, revision } => self.note_stop(now_ms, &job, revision, out),
            Input::Busy { job } => {
                self.mending.remove(&job);
                self.clearing.remove(&job);
                self.balancing.ended(now_ms, &job);
                self.mends.busy(now_ms, job);
            }
            Input::Moved { job } => self.mends.moved(now_ms, job, true),
        }
    }

    /// The stored form of a set, also of one that was deleted.
    pub(crate) fn record(&self, name: &SetName) -> Option<&SetRecord> {
        self.sets.get(name).map(|set| &set.record)
    }

    /// How many sets there are, those that were deleted not counted.
    pub(crate) fn count(&self) -> usize {
        self.sets.values().filter(|set| set.record.expectations.is_some()).count()
    }

    /// The sets that were deleted, those that were put longest ago first.
    pub(crate) fn deleted(&self) -> Vec<&SetRecord> {
        let records = self.sets.values().map(|set| &set.record);
        let mut deleted: Vec<_> = records.filter(|r| r.expectations.is_none()).collect();
        deleted.sort_by_key(|record| (record.put_ms, &record.name));
        deleted
    }

    /// Forgets a set that was deleted.
    pub(crate) fn forget(&mut self, name: &SetName) {
        if self.record(name).is_some_and(|record| record.expectations.is_none()) {
            self.sets.remove(name);
        }
    }

    /// How often an expectation was judged so far.
    #[must_use]
    pub fn judged_count(&self) -> u64 {
        self.judged_count
    }

    /// True when something is kept.
    pub(crate) fn has_work(&self) -> bool {
        self.sets.values().any(|set| !set.items.is_empty())
    }

    /// True when something is broken, so that looking again soon is of use.
    pub(crate) fn is_restless(&self) -> bool {
        !self.postponed.is_empty() || !self.broken.is_empty() || self.balancing.is_restless()
    }

    /// Every set and how it stands now, by name.
    pub(crate) fn statuses(&self, now_ms: u64, with_deleted: bool) -> Vec<SetStatus> {
        let names = self.sets.keys();
        let all = names.filter_map(|name| self.status(now_ms, name));
        all.filter(|status| with_deleted || !status.is_deleted).collect()
    }

    /// One set and how it stands now.
    pub(crate) fn status(&self, now_ms: u64, name: &SetName) -> Option<SetStatus> {
        let set = self.sets.get(name)?;
        let SetRecord { revision, expectations, begun, stopped, put_ms, .. } = &set.record;
        Some(SetStatus {
            name: name.clone(),
            revision: *revision,
            is_deleted: expectations.is_none(),
            put_ms: *put_ms,
            begun: begun.clone(),
            stopped: stopped.clone(),
            expectations: self.entries_told(now_ms, name, set),
        })
    }

    /// How many expectations stand how, and how many jobs are left alone.
    pub(crate) fn figures(&self, now_ms: u64) -> Kept {
        let mut kept = Kept { sets: self.count() as u64, ..Kept::default() };
        (kept.resting, kept.calm) = self.mends.resting(now_ms);
        let being_changed: BTreeSet<&JobId> = self.open.iter().map(|run| &run.job).collect();
        for (name, set) in &self.sets {
            for entry in &set.entries {
                let parts = set.parts(name, entry);
                let level = parts.clone().find_map(|(_, item)| item.level());
                let words = parts.map(|(key, item)| self.standing_word(&key, item, &being_changed));
                let word = words.max_by_key(|word| told::weight(word)).unwrap_or("unknown");
                *kept.standings.entry((level.map_or("none", Level::as_str), word)).or_default() +=
                    1;
            }
        }
        kept
    }

    /// As [`Upkeep::standing`], without the reasons, which cost more than the word.
    fn standing_word(
        &self,
        key: &Key,
        item: &Item,
        being_changed: &BTreeSet<&JobId>,
    ) -> &'static str {
        if matches!(item, Item::Unknown { .. }) {
            return "not_understood";
        }
        match self.judged.get(key).map(|judged| &judged.verdict) {
            None => "unknown",
            Some(Verdict::Met) => "met",
            Some(Verdict::Coming { .. }) => "coming",
            Some(Verdict::Held { .. }) => "unmet",
            Some(Verdict::Broken { .. }) => {
                let is_mending = item.jobs().into_iter().any(|job| being_changed.contains(job));
                if is_mending { "mending" } else { "unmet" }
            }
        }
    }

    /// Why something that is asked for would not last: another set expects otherwise.
    pub(crate) fn objection(&self, want: &Want) -> Option<String> {
        let all = self.sets.iter().flat_map(|(name, set)| set.items.iter().map(move |i| (name, i)));
        let mut objections = all.filter_map(|(name, item)| {
            let expected = objects(item, want)?;
            Some(format!(
                "expectations {name} say that {expected}, and would have it so again; change them first: \
                 `ostler expectations {name}`"
            ))
        });
        objections.next()
    }

    // Sets.

    fn put(&mut self, now_ms: u64, record: SetRecord, out: &mut Vec<Effect>) {
        let name = record.name.clone();
        let mut ordered = BTreeSet::new();
        if let Some(before) = self.sets.remove(&name) {
            ordered.extend(before.ordered());
            for (place, item) in before.items.iter().enumerate() {
                let key = (name.clone(), place);
                self.index.remove(&key, item);
                self.judged.remove(&key);
                self.broken.remove(&key);
                self.balancing.forget(&key);
            }
            for group in before.groups() {
                self.index.remove_group(group.name());
            }
        }
        // What was put was read once already; a store may hold what a newer program has put.
        let kept = read(record.expectations.as_deref().unwrap_or_default());
        let List { items, entries } = kept.unwrap_or_else(|why| {
            let count = record.expectations.as_ref().map_or(0, Vec::len);
            List::unknown(count, &why.to_string())
        });
        for (place, item) in items.iter().enumerate() {
            self.index.insert(&(name.clone(), place), item);
        }
        let set = Set { record, items, entries };
        for group in set.groups() {
            self.index.insert_group(group.name());
        }
        ordered.extend(set.ordered());
        self.sets.insert(name.clone(), set);
        let expected: BTreeSet<JobId> =
            self.items().flat_map(|(_, item)| item.jobs()).cloned().collect();
        self.mends.retain(now_ms, |job| expected.contains(job));
        self.planning.is_stale = true;
        // By the world as it is when it is looked at next: what is known here may be old, and who has put it
        // may have seen more.
        let places = 0..self.sets[&name].items.len();
        self.unjudged.extend(places.map(|place| (name.clone(), place)));
        self.unjudged.extend(ordered.iter().flat_map(|job| self.index.readers_of(job)).cloned());
        out.push(Effect::Heed(self.clauses().cloned().collect()));
    }

    fn items(&self) -> impl Iterator<Item = (Key, &Item)> {
        self.sets.iter().flat_map(|(name, set)| {
            set.items.iter().enumerate().map(|(place, item)| ((name.clone(), place), item))
        })
    }

    fn item(&self, (name, place): &Key) -> Option<&Item> {
        self.sets.get(name)?.items.get(*place)
    }

    fn clauses(&self) -> impl Iterator<Item = &Clause> {
        self.sets.values().flat_map(|set| &set.items).filter_map(|item| match item {
            Item::Rule(clause) => Some(clause),
            _ => None,
        })
    }

    /// Jobs without which a start that matters so much waits.
    fn after(&self, job: &JobId, level: Level) -> BTreeSet<&JobId> {
        let items = self.index.readers_of(job).filter_map(|key| self.item(key));
        let binding = items.filter_map(|item| match item {
            Item::Order(order) if order.binds(job, level) => Some(&order.order.after),
            _ => None,
        });
        binding.flatten().collect()
    }

    // Verdicts.

    fn look(&mut self, now_ms: u64, look: Look, out: &mut Vec<Effect>) {
        let Look { view, heard, members, open, turns } = look;
        let (mut changed, is_change) = self.index.update(&view, &heard, &members);
        if !self.has_looked {
            changed = self.items().map(|(key, _)| key).collect();
        }
        let unjudged = std::mem::take(&mut self.unjudged);
        changed.extend(unjudged.iter().cloned());
        changed.extend(self.waiting(&changed));
        (self.has_looked, self.open, self.turns) = (true, open, turns);
        self.planning.is_stale |= is_change;
        let reads_all = |key: &Key| self.item(key).is_some_and(Item::reads_all);
        let is_put = unjudged.iter().any(reads_all);
        let (whole, mut part): (BTreeSet<Key>, _) = changed.into_iter().partition(reads_all);
        self.postponed.extend(whole);
        let is_time = self.whole_ms.is_none_or(|at_ms| at_ms + WHOLE_MS <= now_ms);
        if is_put || is_time && !self.postponed.is_empty() {
            self.whole_ms = Some(now_ms);
            part.append(&mut self.postponed);
        }
        self.judge(now_ms, part, out);
        self.note_held(now_ms);
        self.note_busy(now_ms);
        self.ask_for_plan(now_ms, out);
    }

    /// Who waits by orders that read what has changed.
    fn waiting(&self, changed: &BTreeSet<Key>) -> BTreeSet<Key> {
        let orders = changed.iter().filter_map(|key| match self.item(key)? {
            Item::Order(order) => Some(&order.order.jobs),
            _ => None,
        });
        let jobs: BTreeSet<&JobId> = orders.flatten().collect();
        jobs.into_iter().flat_map(|job| self.index.readers_of(job)).cloned().collect()
    }

    fn judge(&mut self, now_ms: u64, keys: BTreeSet<Key>, out: &mut Vec<Effect>) {
        // First, as what was seen once is judged otherwise when it is gone.
        let seen = keys.iter().filter_map(|key| match self.item(key)? {
            item @ Item::Runs { job, .. } => {
                let hosts = self.index.hosts_of(item)?;
                (!hosts.is_empty()).then(|| job.clone())
            }
            _ => None,
        });
        self.note_begun(&seen.collect(), out);
        self.rehearse(&keys);
        for key in keys {
            let Some(item) = self.item(&key) else { continue };
            let verdict = self.verdict(&key, item);
            self.judged_count += 1;
            let before = self.judged.remove(&key);
            let is_broken = matches!(verdict, Verdict::Broken { .. });
            let since_ms = before.as_ref().and_then(|judged| judged.broken_since_ms);
            let held_ms = before.as_ref().and_then(|judged| judged.held_ms);
            let report = before.and_then(|judged| judged.report).filter(|_| is_broken);
            let broken_since_ms = is_broken.then(|| since_ms.unwrap_or(now_ms));
            match is_broken {
                true => self.broken.insert(key.clone()),
                false => self.broken.remove(&key),
            };
            self.judged.insert(key, Judged { verdict, broken_since_ms, held_ms, report });
        }
    }

    /// Brings up to date what these are judged by, and lets go what nobody is judged by any more.
    fn rehearse(&mut self, keys: &BTreeSet<Key>) {
        let domains = |keys: &mut dyn Iterator<Item = &Key>| -> BTreeSet<Option<String>> {
            let items = keys.filter_map(|key| self.item(key)).filter(|item| is_rehearsed(item));
            items.map(|item| domain_of(item).map(str::to_owned)).collect()
        };
        let expected = domains(&mut self.index.whole());
        let domains = domains(&mut keys.iter());
        self.rehearsals.retain(|domain, _| expected.contains(domain));
        let index = &self.index;
        for domain in domains {
            let rehearsal = self.rehearsals.entry(domain).or_insert_with_key(|domain| {
                domain.as_ref().map_or_else(Rehearsal::of_hosts, Rehearsal::of_domains)
            });
            rehearsal.follow(index.view(), |host| index.freshness(host));
        }
    }

    fn verdict(&self, key: &Key, item: &Item) -> Verdict {
        if is_rehearsed(item) {
            let domain = domain_of(item).map(str::to_owned);
            let rehearsal =
                self.rehearsals.get(&domain).expect("it was rehearsed before it is judged");
            return verdict::rehearsed(rehearsal);
        }
        let after = match item {
            Item::Runs { job, level, .. } => self.after(job, *level),
            _ => BTreeSet::new(),
        };
        let others = after.iter().flat_map(|other| self.index.homes_of(other));
        let hosts = self.index.hosts_of(item);
        let part = hosts.map(|mut hosts| {
            hosts.extend(others.cloned());
            self.index.view().part(&hosts)
        });
        let (none, nothing) = (BTreeSet::new(), BTreeMap::new());
        let record = self.sets.get(&key.0).map(|set| &set.record);
        judge(
            item,
            &Facts {
                view: part.as_ref().unwrap_or(self.index.view()),
                freshness: &|host| self.index.freshness(host),
                missing: self.index.missing(),
                begun: record.map_or(&none, |record| &record.begun),
                stopped: record.map_or(&nothing, |record| &record.stopped),
                after: &after,
            },
        )
    }

    fn note_begun(&mut self, jobs: &BTreeSet<JobId>, out: &mut Vec<Effect>) {
        let mut changed = BTreeSet::new();
        for job in jobs {
            let keys: Vec<Key> = self.index.readers_of(job).cloned().collect();
            for (name, place) in keys {
                let Some(set) = self.sets.get_mut(&name) else { continue };
                let is_run = matches!(set.items.get(place), Some(Item::Runs { .. }));
                if is_run && set.record.begun.insert(job.clone()) {
                    changed.insert(name);
                }
            }
        }
        out.extend(changed.into_iter().map(Effect::Save));
    }

    fn note_stop(&mut self, now_ms: u64, job: &JobId, revision: Revision, out: &mut Vec<Effect>) {
        for set in self.sets.values_mut() {
            let is_it = |item: &Item| matches!(item, Item::Runs { job: id, .. } if id == job);
            if set.items.iter().any(is_it) {
                set.record.note_stop(job.clone(), revision);
                out.push(Effect::Save(set.record.name.clone()));
            }
        }
        self.judge(now_ms, self.keys_of(job), out);
    }

    fn keys_of(&self, job: &JobId) -> BTreeSet<Key> {
        self.index.readers_of(job).cloned().collect()
    }

    // Mending.

    /// Notes what others are to mend first and can't now, or are at work on: their time begins anew.
    fn note_held(&mut self, now_ms: u64) {
        let mut at_work = BTreeMap::new();
        let mut held = Vec::new();
        for key in self.broken.iter().filter(|key| self.turns.place(&key.0) > 0) {
            let is_held = self.item(key).is_some_and(|item| self.is_held_up(item))
                || *at_work.entry(&key.0).or_insert_with(|| self.is_somebody_else_at(&key.0));
            held.extend(is_held.then(|| key.clone()));
        }
        for key in held {
            if let Some(judged) = self.judged.get_mut(&key) {
                judged.held_ms = Some(now_ms);
            }
        }
    }

    /// True while nobody would mend it: nothing new is heard of a host that has to do with it, or VMs
    /// that others move leave that one, and only few may at a time.
    fn is_held_up(&self, item: &Item) -> bool {
        let hosts = self.index.hosts_of(item).unwrap_or_default();
        hosts.iter().any(|host| match self.index.freshness(host) {
            Freshness::Fresh => {
                let mut jobs =
                    self.index.view().host(host).into_iter().flat_map(|h| h.jobs.values());
                jobs.any(|job| job.state == JobState::MigratingOut && !self.is_ours(&job.id))
            }
            Freshness::Stale => true,
            Freshness::Lost => false,
        })
    }

    /// True while somebody else changes a job that the set names.
    fn is_somebody_else_at(&self, set: &SetName) -> bool {
        let items = self.sets.get(set).into_iter().flat_map(|set| &set.items);
        items.flat_map(Item::jobs).any(|job| {
            !self.is_ours(job) && self.index.rows_of(job).any(|row| is_between(row.state))
        })
    }

    fn is_ours(&self, job: &JobId) -> bool {
        self.mending.contains(job) || self.open.iter().any(|run| run.job == *job)
    }

    /// What is to be mended now.
    fn due(&self, now_ms: u64) -> BTreeSet<Key> {
        let is_due = |key: &&Key| {
            let (Some(item), Some(judged)) = (self.item(key), self.judged.get(*key)) else {
                return false;
            };
            let Some(broken_ms) = judged.broken_since_ms else { return false };
            let free_ms = broken_ms.max(judged.held_ms.unwrap_or(0));
            let turn_ms = TURN_MS * u64::from(self.turns.place(&key.0));
            let is_settled = free_ms + SETTLE_MS + turn_ms <= now_ms;
            let jobs = item.jobs();
            let is_made_room_for = |job: &&JobId| self.clearing.values().any(|f| f.lets == **job);
            let is_open = jobs.iter().any(|job| self.is_tied_to_a_change(job))
                || jobs.iter().any(is_made_room_for);
            let is_resting = jobs.iter().all(|job| self.mends.rest(now_ms, job).is_some());
            is_settled && !is_open && !is_resting && !is_told_only(item)
        };
        self.broken.iter().filter(is_due).cloned().collect()
    }

    /// True while the job, or one that a rule names together with it, is being changed by anybody: what a
    /// move of it would be worth is known only when that is over. Two that are to be on one host would
    /// else change places for ever.
    fn is_tied_to_a_change(&self, job: &JobId) -> bool {
        let keys = self.index.readers_of(job);
        let rules = keys.filter_map(|key| match self.item(key)? {
            Item::Rule(clause) => Some(clause),
            _ => None,
        });
        let tied = rules.flat_map(|clause| clause.rule.jobs());
        tied.chain([job]).any(|job| {
            self.mending.contains(job)
                || self.open.iter().any(|run| run.job == *job)
                || self.index.rows_of(job).any(|row| is_between(row.state))
        })
    }

    fn ask_for_plan(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let mut due = self.due(now_ms);
        let (uneven, shifts) = self.shifts_due(now_ms);
        due.extend(uneven.iter().cloned());
        let planning = &self.planning;
        let since_ms = planning.asked_ms.map(|asked_ms| now_ms.saturating_sub(asked_ms));
        let is_news = planning.is_stale || !due.is_subset(&planning.due);
        let pause_ms = match (is_news, planning.was_idle) {
            // These have a pace of their own.
            _ if shifts.max > 0 => 0,
            (true, false) => 0,
            (true, true) => PLAN_IDLE_MS,
            (false, _) => PLAN_AGAIN_MS,
        };
        if due.is_empty() || planning.is_open || since_ms.is_some_and(|since| since < pause_ms) {
            return;
        }
        let aims = Aims { shifts, ..self.aims(now_ms, &due) };
        self.shifts_asked(now_ms, &uneven, shifts);
        self.planning = Planning {
            asked_ms: Some(now_ms),
            due,
            is_open: true,
            was_idle: false,
            is_stale: false,
        };
        out.push(Effect::Plan(Box::new(aims)));
    }

    fn aims(&self, now_ms: u64, due: &BTreeSet<Key>) -> Aims {
        let items: Vec<&Item> = due.iter().filter_map(|key| self.item(key)).collect();
        let jobs: BTreeSet<&JobId> = items.iter().flat_map(|item| item.jobs()).collect();
        let goal = |item: &&Item| match *item {
            Item::Runs { job, spec, on, level } => {
                let spec = spec_of(self.index.view(), job, spec.as_ref())?;
                Some((*level, Expectation::Runs { job: job.clone(), spec, on: on.clone() }))
            }
            Item::RunsOn { job, on, level } => {
                Some((*level, Expectation::RunsOn { job: job.clone(), on: on.clone() }))
            }
            Item::HasSize { job, size, level } => {
                Some((*level, Expectation::HasSize { job: job.clone(), size: size.clone() }))
            }
            Item::Rule(_) | Item::Order(_) | Item::Unknown { .. } => None,
        };
        let mut goals: Vec<_> = items.iter().filter_map(goal).collect();
        // Two sets may say the same of a job.
        goals.dedup();
        let due_clauses = |clause: &&Clause| {
            let rule = Item::Rule((*clause).clone());
            items.contains(&&rule) || clause.rule.jobs().iter().any(|job| jobs.contains(job))
        };
        let mut clauses: Vec<Clause> = Vec::new();
        for clause in self.clauses().filter(due_clauses) {
            if !clauses.contains(clause) {
                clauses.push(clause.clone());
            }
        }
        let mut heeded = self.heeded(now_ms, &jobs);
        heeded.retain(|clause| !clauses.contains(clause));
        let shunned = self.mends.shunned(now_ms);
        Aims { goals, clauses, heeded, shunned, shifts: Shifts::default() }
    }

    /// Rules that moves of others for the sake of these jobs must not break: all that are kept, and that
    /// nobody is moved who is expected where it is, who was moved or could not be moved of late, or whom somebody
    /// is changing.
    pub(crate) fn heeded(&self, now_ms: u64, jobs: &BTreeSet<&JobId>) -> Vec<Clause> {
        let pinned = self.items().filter_map(|(_, item)| match item {
            Item::Runs { job, on: Some(_), .. } | Item::RunsOn { job, .. } => Some(job),
            _ => None,
        });
        let open = self.open.iter().map(|run| &run.job);
        let staying: BTreeSet<&JobId> =
            pinned.chain(open).chain(&self.mending).chain(self.mends.left_alone(now_ms)).collect();
        let stays = |job: &JobId| Clause {
            level: Level::Must,
            rule: Rule::NoMigration(NoMigration { job: job.clone() }),
        };
        let staying = staying.difference(jobs).map(|job| stays(job));
        self.clauses().cloned().chain(staying).collect()
    }

    fn planned(
        &mut self,
        now_ms: u64,
        steps: Vec<Step>,
        favours: &[Favour],
        report: &Report,
        open: Vec<Open>,
        out: &mut Vec<Effect>,
    ) {
        self.planning.is_open = false;
        self.open = open;
        let due = std::mem::take(&mut self.planning.due);
        for key in &due {
            let said = self.item(key).and_then(|item| said_of(report, item));
            if let Some(judged) = self.judged.get_mut(key) {
                judged.report = said;
            }
        }
        let mended: BTreeSet<JobId> = due
            .iter()
            .filter_map(|key| self.item(key))
            .flat_map(|item| item.jobs())
            .cloned()
            .collect();
        let mut begun = Vec::new();
        let mut places = mends::MENDS_MAX.saturating_sub(self.mending.len());
        self.planning.was_idle = true;
        let favours = self.favours_to_do(now_ms, favours, &mended, &due);
        let favour_of = |step: &Step| {
            let Step::MigrateVm(step) = step else { return None };
            let is_it = |favour: &&Favour| favour.job == step.job && favour.to == step.to;
            favours.iter().copied().find(is_it)
        };
        for step in steps {
            let favour = favour_of(&step);
            if favour.is_none() && !mended.contains(step.job()) {
                continue;
            }
            let is_heard =
                ends_of(&step).iter().all(|host| self.index.freshness(host) == Freshness::Fresh);
            if places == 0 || !is_heard {
                continue;
            }
            let is_free = !self.is_tied_to_a_change(step.job())
                && (favour.is_none() || self.is_at_rest(&step));
            if is_free && self.mends.admit(now_ms, &step, &mut begun, &self.open) {
                places -= 1;
                self.planning.was_idle = false;
                self.mending.insert(step.job().clone());
                self.clearing.extend(favour.map(|favour| (favour.job.clone(), favour.clone())));
                out.extend(self.mend(step, favour.map(|favour| favour.reason())));
            }
        }
        self.planning.due = due;
    }

    /// The moves of others that are worth beginning: not those for something that will fit once moves that go on
    /// already are over. Somebody else is at that, and has time to finish.
    fn favours_to_do<'f>(
        &mut self,
        now_ms: u64,
        favours: &'f [Favour],
        mended: &BTreeSet<JobId>,
        due: &BTreeSet<Key>,
    ) -> Vec<&'f Favour> {
        let mut to_do: Vec<&Favour> = favours.iter().filter(|f| mended.contains(&f.lets)).collect();
        let lets: BTreeSet<&JobId> = to_do.iter().map(|favour| &favour.lets).collect();
        let on_its_way = lets.into_iter().filter(|job| self.is_room_on_its_way(job, due));
        let on_its_way: BTreeSet<JobId> = on_its_way.cloned().collect();
        to_do.retain(|favour| !on_its_way.contains(&favour.lets));
        for key in due {
            let is_it = self
                .item(key)
                .is_some_and(|item| item.jobs().into_iter().any(|job| on_its_way.contains(job)));
            if let Some(judged) = self.judged.get_mut(key).filter(|_| is_it) {
                judged.broken_since_ms = Some(now_ms);
            }
        }
        to_do
    }

    fn is_room_on_its_way(&self, job: &JobId, due: &BTreeSet<Key>) -> bool {
        let view = self.index.view();
        let mut items = due.iter().filter_map(|key| self.item(key));
        let spec = items.find_map(|item| match item {
            Item::Runs { job: id, spec, .. } if id == job => spec.as_ref(),
            _ => None,
        });
        let Some(spec) = spec_of(view, job, spec) else { return false };
        let size = spec.takes();
        view.hosts().any(|(host, row)| {
            let is_leaving = |job: &&Arc<Job>| job.state == JobState::MigratingOut;
            let leaving = row.jobs.values().filter(is_leaving).map(|job| job.allocation());
            let leaving = leaving.reduce(Resources::plus);
            let free = row.host.capacity.minus(row.host.allocation);
            self.index.freshness(host) == Freshness::Fresh
                && row.host.intent.is_none()
                && leaving.is_some_and(|leaving| size.fits_in(free.plus(leaving)))
        })
    }

    /// True while nobody changes a job that nothing else is known of.
    fn is_at_rest(&self, step: &Step) -> bool {
        let Step::MigrateVm(step) = step else { return false };
        let row = self.index.view().host(&step.from);
        let job = row.and_then(|row| row.jobs.get(&step.job));
        job.is_some_and(|job| job.state == JobState::Running)
    }

    fn mend(&self, step: Step, because: Option<String>) -> Option<Effect> {
        match step {
            Step::StartVm(step) => {
                let (job, to) = (step.job, step.host);
                let on = self.items().find_map(|(_, item)| match item {
                    Item::Runs { job: id, on: Some(on), .. } if *id == job => Some(on.clone()),
                    _ => None,
                });
                let want = Box::new(Want::Run { job, spec: step.spec, on });
                Some(Effect::Mend { want, to, because })
            }
            Step::MigrateVm(step) => {
                let (job, to) = (step.job, step.to);
                let want = Box::new(Want::migrate(job, to.clone()));
                Some(Effect::Mend { want, to, because })
            }
            Step::ResizeVm(step) => {
                let (job, size) = (step.job, step.size);
                let want = Box::new(Want::Resize { job, size });
                Some(Effect::Mend { want, to: step.host, because })
            }
            Step::StopVm(_) | Step::DeleteVm(_) => None,
        }
    }

    fn standing(&self, now_ms: u64, key: &Key) -> KeptStanding {
        let Some(item) = self.item(key) else { return KeptStanding::Unknown };
        if let Item::Unknown { why } = item {
            return KeptStanding::NotUnderstood { why: why.clone() };
        }
        let Some(judged) = self.judged.get(key) else { return KeptStanding::Unknown };
        if let Some(shifting) = self.shifting(key) {
            return shifting;
        }
        let evidence = match &judged.verdict {
            Verdict::Met => return KeptStanding::Met,
            Verdict::Coming { host } => return KeptStanding::Coming { host: host.clone() },
            Verdict::Held { why } => {
                return KeptStanding::Unmet { why: why.clone(), report: None };
            }
            Verdict::Broken { evidence } => evidence.clone(),
        };
        let jobs = item.jobs();
        if let Some(run) = self.open.iter().find(|run| jobs.contains(&&run.job)) {
            return KeptStanding::Mending { run: run.run, why: None };
        }
        let mut clearing = self.clearing.values().filter(|favour| jobs.contains(&&favour.lets));
        let moving = clearing.find_map(|favour| {
            let run = self.open.iter().find(|run| run.job == favour.job)?;
            Some(KeptStanding::Mending { run: run.run, why: Some(favour.to_string()) })
        });
        if let Some(moving) = moving {
            return moving;
        }
        let resting = jobs.iter().filter_map(|job| self.mends.rest(now_ms, job)).max();
        let (why, report) = match (resting, &judged.report) {
            (Some((until_ms, why)), report) => {
                let seconds = until_ms.saturating_sub(now_ms).div_ceil(1000);
                let why = format!("{evidence}; {why}; tried again in {seconds} s");
                (why, report.as_ref().map(|(_, report)| report.clone()))
            }
            (None, Some((why, report))) => (why.clone(), Some(report.clone())),
            (None, None) => (evidence, None),
        };
        KeptStanding::Unmet { why, report }
    }
}

/// What an expectation says against something that is wanted.
fn objects(item: &Item, want: &Want) -> Option<String> {
    match (item, want) {
        (
            Item::Runs { job: expected, on: Some(on), .. } | Item::RunsOn { job: expected, on, .. },
            Want::Migrate { job, to, .. } | Want::Run { job, on: Some(to), .. },
        ) => (job == expected && to != on).then(|| format!("{job} runs on {}", on.short())),
        (Item::HasSize { job: expected, size, .. }, Want::Resize { job, size: wanted }) => {
            let differs = |a: Option<u64>, b: Option<u64>| a.zip(b).is_some_and(|(a, b)| a != b);
            let number = |n: Option<u32>| n.map(u64::from);
            let is_other = differs(number(size.vcpus), number(wanted.vcpus))
                || differs(number(size.max_vcpus), number(wanted.max_vcpus))
                || differs(size.memory_bytes, wanted.memory_bytes)
                || differs(size.max_memory_bytes, wanted.max_memory_bytes)
                || size
                    .disks
                    .iter()
                    .any(|(disk, bytes)| differs(Some(*bytes), wanted.disks.get(disk).copied()));
            (job == expected && is_other).then(|| format!("{job} has another size"))
        }
        _ => None,
    }
}

/// What a plan's report says of an expectation, in words and as it is.
fn said_of(report: &Report, item: &Item) -> Option<(String, Value)> {
    match item {
        Item::Runs { job, .. } | Item::RunsOn { job, .. } | Item::HasSize { job, .. } => {
            let unmet = report.unmet.iter().find(|unmet| unmet.job == *job)?;
            Some((unmet.to_string(), json!(unmet)))
        }
        Item::Rule(clause) => {
            let is_it = |v: &&planner::Violation| v.level == clause.level && v.rule == clause.rule;
            let violation = report.violations.iter().find(is_it)?;
            Some((violation.to_string(), json!(violation)))
        }
        Item::Order(_) | Item::Unknown { .. } => None,
    }
}

/// The hosts that a step needs.
fn ends_of(step: &Step) -> Vec<&HostId> {
    match step {
        Step::StartVm(step) => vec![&step.host],
        Step::MigrateVm(step) => vec![&step.from, &step.to],
        Step::ResizeVm(step) => vec![&step.host],
        Step::StopVm(step) => vec![&step.host],
        Step::DeleteVm(step) => vec![&step.host],
    }
}

#[cfg(test)]
mod tests;
