//! Keeping expectations true: which are broken, which of them are mended now, and what is told of the
//! others. Pure.
//!
//! Decides from the view, fact by fact, how each expectation stands (`upkeep/index.rs` knows who reads
//! what, `upkeep/judging.rs` when it is asked), and when a broken one is mended (`upkeep/mending.rs`): after it
//! has stood broken for a moment, in the order that schedulers have among themselves, no more at a time than
//! hosts bear, and not again and again. What would mend it is the planner's, and each mend is an ordinary run.
//! A group is judged and mended VM by VM, and told of as one (`upkeep/told.rs`).
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

mod foresight;

mod index;

mod judging;

mod mending;

mod mends;

mod saving;

mod set;

mod told;

mod turnover;

mod turns;

mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use planner::{
    Clause, Expectation, Favour, Group, Level, Need, PlanInput, Rehearsal, Report, Rule, Shift,
    Step, Terms,
};
use protocol::api::Want;
use protocol::expectations::SetStatus;
use protocol::id::{HostId, JobId, Revision, SetName};
use protocol::used::Used;
use protocol::view::View;
use serde_json::Value;

use self::balance::Balancing;
use self::index::{Index, Key};
use self::saving::Saving;
use self::set::{Entry, Item};
use self::verdict::Verdict;
use crate::follow::HeardAt;
use crate::knowledge::make_room;
use crate::sleep::Powers;

pub use balance::Shifts;
pub use clash::Clash;
pub use foresight::Foresight;
pub(crate) use mends::Mends;
pub use mends::Open;
pub use set::{ITEMS_MAX, SET_VERSION, SETS_MAX, SetError, SetRecord};
pub(crate) use set::{List, read};
pub use turns::Turns;

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
        /// Hosts that are put to sleep or woken for the sake of power, by steps that are not among them.
        savings: Vec<planner::Saving>,
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
    /// Who of them sleeps, and who may.
    pub powers: Arc<Powers>,
    /// What guests use, as far as it is known.
    pub used: Arc<Used>,
    /// How soon what a lost host ran may run elsewhere, if there is a trust document.
    pub terms: Option<Terms>,
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
        /// Whether it waits for room rather than have anybody stopped for it: what only should be so.
        yields: bool,
        /// How much what it is for matters.
        level: Level,
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
    /// How many hosts may be put to sleep, or woken for the room that they have.
    pub savings_max: u32,
    /// What guests use, if a move could be for that or be undone for it.
    pub used: Arc<Used>,
}

impl Aims {
    /// Tells a plan of it, beside what it is to reach already. Unless it says otherwise, others are moved, hosts woken
    /// and VMs stopped only for what must be.
    #[must_use]
    pub fn told(self, mut input: PlanInput) -> PlanInput {
        for (level, goal) in self.goals {
            if !input.expectations.contains(&goal) {
                input.levels.insert(goal.job().clone(), level);
                input.expectations.push(goal);
            }
        }
        let news: Vec<Clause> =
            self.clauses.into_iter().filter(|clause| !input.clauses.contains(clause)).collect();
        input.clauses.extend(news);
        let limits = &mut input.limits;
        limits.shifts_max = limits.shifts_max.max(self.shifts.max);
        limits.shifts_begun |= self.shifts.were_begun;
        limits.savings_max = limits.savings_max.max(self.savings_max);
        limits.wakes_for = limits.wakes_for.or(Some(Level::Must));
        limits.preempts_for = limits.preempts_for.or(Some(Level::Must));
        if !self.used.is_empty() {
            input.used = self.used;
        }
        make_room(&mut input, self.heeded);
        input
    }
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
    /// What it calls for, of hosts that sleep or are awake, and since when.
    need: Option<(Need, u64)>,
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
    /// What is done so that hosts sleep that nobody needs.
    saving: Saving,
    powers: Arc<Powers>,
    used: Arc<Used>,
    terms: Option<Terms>,
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
                self.saving.begin_at_rest(now_ms);
                self.put(now_ms, record, out);
            }
            Input::Looked(look) => self.look(now_ms, *look, out),
            Input::Planned { steps, favours, shifts, savings, report, open } => {
                let (of_shifts, of_others): (Vec<Step>, _) = steps
                    .into_iter()
                    .partition(|step| shifts.iter().any(|shift| balance::is_of(shift, step)));
                self.planned(now_ms, of_others, &favours, &report, open, out);
                self.begin_shift(now_ms, &of_shifts, &shifts, out);
                self.begin_saving(now_ms, &savings, out);
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
                let is_saving = self.saving.ended(now_ms, &job);
                let is_for_another = is_favour || is_shift || is_saving;
                self.mends.ended(now_ms, job, to, failure, is_for_another);
                self.planning.is_stale = true;
            }
            Input::Stopped { job, revision } => self.note_stop(now_ms, &job, revision, out),
            Input::Busy { job } => {
                self.mending.remove(&job);
                self.clearing.remove(&job);
                self.balancing.ended(now_ms, &job);
                self.saving.ended(now_ms, &job);
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
                self.saving.forget(&key);
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

    fn look(&mut self, now_ms: u64, look: Look, out: &mut Vec<Effect>) {
        let Look { view, heard, members, powers, used, terms, open, turns } = look;
        let (mut changed, mut is_change) = self.index.update(&view, &heard, &members);
        let before = std::mem::replace(&mut self.powers, powers);
        if !Arc::ptr_eq(&before, &self.powers) && before != self.powers {
            changed.extend(self.index.whole().cloned());
            is_change = true;
        }
        let before_used = std::mem::replace(&mut self.used, used);
        if !Arc::ptr_eq(&before_used, &self.used) && before_used != self.used {
            changed.extend(self.by_use().map(|(key, _)| key.clone()));
        }
        if std::mem::replace(&mut self.terms, terms) != terms {
            let by_terms = |item: &Item| {
                matches!(item, Item::Rule(Clause { rule: Rule::RestartWithin(_), .. }))
            };
            let readers = self.items().filter(|(_, item)| by_terms(item));
            changed.extend(readers.map(|(key, _)| key));
        }
        self.note_turned(now_ms, &before);
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
}

/// What an expectation says against something that is wanted.
fn objects(item: &Item, want: &Want) -> Option<String> {
    match (item, want) {
        (
            Item::Runs { job: expected, on: Some(on), .. } | Item::RunsOn { job: expected, on, .. },
            Want::Migrate { job, to, .. }
            | Want::Run { job, on: Some(to), .. }
            | Want::Spend { job, on: to, .. },
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

#[cfg(test)]
mod tests;
