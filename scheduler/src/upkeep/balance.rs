//! Hosts that are to be about as full as each other: when a VM is moved for it, and what is told until then.
//!
//! Decides how fast, and what goes before. One VM moves at a time; then there is a rest, of an hour divided by the moves that it
//! may have. Whatever else is seen on its way, by whoever's word, is waited for and rested after as well: so schedulers that keep the
//! same set share one pace without asking each other, and the next in turn acts only when the one before has let more than
//! such a rest pass. After a start a scheduler knows nothing of what was moved before, and rests first.
//!
//! ```text
//!   uneven ──settled, rested, nothing else to mend──▶ a plan of one shift ──▶ moving ──▶ resting ─┐
//!     ▲                                                       │ none helps                        │
//!     └── again uneven                          enough ◀──────┴──── near enough (half) ◀──────────┘
//! ```
//!
//! Once begun it goes on until hosts are comfortably alike. Which VM goes where is the planner's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use planner::rules::Balanced;
use planner::{Clause, Level, Rule, Shift, Step};
use protocol::api::Want;
use protocol::expectations::KeptStanding;
use protocol::id::{HostId, JobId};
use protocol::job::JobState;
use protocol::used::Used;
use protocol::view::Freshness;

use super::index::Key;
use super::mending::ends_of;
use super::set::Item;
use super::verdict::{Verdict, gap_words, is_between, is_told_only};
use super::{Effect, SETTLE_MS, TURN_MS, Upkeep};

/// What no move helps, and what is only told, is planned again after so long.
const AGAIN_MS: u64 = 10_000;

/// What is known of shifts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Balancing {
    /// Expectations for which it was begun and hosts are not near enough yet.
    begun: BTreeSet<Key>,
    /// VMs that are moved for it, each with what is told of that.
    moving: BTreeMap<JobId, (Key, String)>,
    /// The expectation for which a plan with a shift was asked for.
    asked: Option<Key>,
    /// When no shift came of that for an expectation.
    idle_ms: BTreeMap<Key, u64>,
    /// When it was told last what would be moved.
    told_ms: Option<u64>,
    /// When anything was last seen on its way.
    busy_ms: Option<u64>,
}

impl Balancing {
    /// True while something is to be done that no news may tell of.
    pub(super) fn is_restless(&self) -> bool {
        !self.begun.is_empty()
    }

    /// A set has changed: what was begun for it was begun for what it said.
    pub(super) fn forget(&mut self, key: &Key) {
        self.begun.remove(key);
        self.idle_ms.remove(key);
    }

    /// What was moved before is not known: as if that had been now.
    pub(super) fn begin_at_rest(&mut self, now_ms: u64) {
        self.busy_ms = Some(now_ms);
    }

    /// A move has ended or could not be begun; true if it was a shift.
    pub(super) fn ended(&mut self, now_ms: u64, job: &JobId) -> bool {
        let was_shift = self.moving.remove(job).is_some();
        if was_shift {
            self.busy_ms = Some(now_ms);
        }
        was_shift
    }
}

/// Which shifts a plan may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shifts {
    /// How many.
    pub max: u32,
    /// Whether they were begun before.
    pub were_begun: bool,
}

impl Upkeep {
    /// What is expected of hosts' shares.
    fn balanced(&self) -> impl Iterator<Item = (&Key, Level, &Balanced)> {
        self.index.whole().filter_map(|key| match self.item(key)? {
            Item::Rule(Clause { level, rule: Rule::Balanced(rule) }) => Some((key, *level, rule)),
            _ => None,
        })
    }

    /// Those of them that are about what guests use.
    pub(super) fn by_use(&self) -> impl Iterator<Item = (&Key, &Balanced)> {
        let all = self.balanced().map(|(key, _, rule)| (key, rule));
        all.filter(|(_, rule)| !rule.measure().is_promised())
    }

    /// What is expected of what guests use.
    pub(crate) fn rules_of_use(&self) -> Vec<Balanced> {
        self.by_use().map(|(_, rule)| rule.clone()).collect()
    }

    /// What guests use, for a plan that balances these: it matters as soon as anything is expected of it. A plan of anything
    /// else is none the better for it, and would keep it with what it was made of.
    pub(super) fn used_for(&self, uneven: &BTreeSet<Key>) -> Arc<Used> {
        match uneven.is_empty() || self.by_use().next().is_none() {
            true => Arc::default(),
            false => Arc::clone(&self.used),
        }
    }

    /// Notes whether anything is on its way, or has just come to its end, while that matters.
    pub(super) fn note_busy(&mut self, now_ms: u64) {
        let is_of_interest = self.balanced().any(|(key, ..)| self.is_wanted(key));
        let is_busy = !self.mending.is_empty() || self.on_its_way().is_some();
        if is_of_interest && (is_busy || self.index.has_moved()) {
            self.balancing.busy_ms = Some(now_ms);
        }
    }

    fn is_wanted(&self, key: &Key) -> bool {
        self.broken.contains(key) || self.balancing.begun.contains(key)
    }

    /// A VM that is between two states, on a host that may still say how that ends.
    pub(super) fn on_its_way(&self) -> Option<(&JobId, JobState, &HostId)> {
        let hosts = self.index.view().hosts();
        let heard = hosts.filter(|(host, _)| self.index.freshness(host) != Freshness::Lost);
        let mut jobs = heard.flat_map(|(host, row)| row.jobs.values().map(move |job| (host, job)));
        let (host, job) =
            jobs.find(|(_, job)| is_between(job.state) && job.spec.as_vm().is_some())?;
        Some((&job.id, job.state, host))
    }

    /// What is to be mended before: whatever else is broken that matters as much.
    pub(super) fn comes_first(&self, level: Level) -> Option<&Key> {
        self.broken.iter().find(|key| {
            let Some(item) = self.item(key) else { return false };
            let is_last = matches!(
                item,
                Item::Rule(Clause { rule: Rule::Balanced(_) | Rule::PowerSaving(_), .. })
            );
            !is_last && !is_told_only(item) && item.level().is_some_and(|its| its <= level)
        })
    }

    /// When the next shift may be begun at the earliest.
    fn shift_ms(&self, key: &Key, rule: &Balanced) -> u64 {
        let rest_ms = rule.rest_ms();
        let broken_ms = self.judged.get(key).and_then(|judged| judged.broken_since_ms);
        let settled_ms = broken_ms.map_or(0, |ms| ms + rule.after_ms().max(SETTLE_MS));
        let rested_ms = self.balancing.busy_ms.map_or(0, |ms| ms + rest_ms);
        let place = u64::from(self.turns.place(&key.0));
        settled_ms.max(rested_ms) + place * (rest_ms + TURN_MS)
    }

    /// Why no shift is begun now, in words.
    fn waits(&self, now_ms: u64, key: &Key, level: Level, rule: &Balanced) -> Option<String> {
        if rule.moves_per_hour() == 0 {
            return Some("nobody is moved, as it has no `moves_per_hour`".to_owned());
        }
        if let Some((set, place)) = self.comes_first(level) {
            let number = place + 1;
            return Some(format!("first comes what is not so of expectations {set} ({number})"));
        }
        if let Some((job, state, host)) = self.on_its_way() {
            return Some(format!("waits while {job} is {state} on {}", host.short()));
        }
        if let Some(job) = self.mending.first() {
            return Some(format!("waits while {job} is being changed"));
        }
        let left_ms = self.shift_ms(key, rule).saturating_sub(now_ms);
        (left_ms > 0).then(|| format!("no move for another {} s", left_ms.div_ceil(1000)))
    }

    /// The expectation for which a VM may be moved now, or else those of which it is told again what would be.
    pub(super) fn shifts_due(&self, now_ms: u64) -> (BTreeSet<Key>, Shifts) {
        let is_again = |last_ms: Option<u64>| last_ms.is_none_or(|last| last + AGAIN_MS <= now_ms);
        let due = self.balanced().find(|(key, level, rule)| {
            self.is_wanted(key)
                && is_again(self.balancing.idle_ms.get(*key).copied())
                && self.waits(now_ms, key, *level, rule).is_none()
        });
        if let Some((key, ..)) = due {
            let were_begun = self.balancing.begun.contains(key);
            return (BTreeSet::from([key.clone()]), Shifts { max: 1, were_begun });
        }
        let is_news = is_again(self.balancing.told_ms);
        let told = self.balanced().map(|(key, ..)| key);
        let told = told.filter(|key| is_news && self.broken.contains(*key));
        (told.cloned().collect(), Shifts::default())
    }

    /// A plan with these is being asked for.
    pub(super) fn shifts_asked(&mut self, now_ms: u64, keys: &BTreeSet<Key>, shifts: Shifts) {
        self.balancing.asked = keys.first().filter(|_| shifts.max > 0).cloned();
        if !keys.is_empty() && shifts.max == 0 {
            self.balancing.told_ms = Some(now_ms);
        }
    }

    /// Begins what a plan says, if nothing else was begun.
    pub(super) fn begin_shift(
        &mut self,
        now_ms: u64,
        steps: &[Step],
        shifts: &[Shift],
        out: &mut Vec<Effect>,
    ) {
        let Some(key) = self.balancing.asked.take() else { return };
        let Some(shift) = shifts.first() else {
            self.balancing.begun.remove(&key);
            self.balancing.idle_ms.insert(key, now_ms);
            return;
        };
        let step = steps.iter().find(|step| is_of(shift, step));
        let is_free = |step: &Step| {
            let mut ends = ends_of(step).into_iter();
            self.mending.is_empty()
                && self.on_its_way().is_none()
                && ends.all(|host| self.index.freshness(host) == Freshness::Fresh)
                && self.mends.admit(now_ms, step, &mut vec![], &self.open)
        };
        if !step.is_some_and(is_free) {
            self.balancing.idle_ms.insert(key, now_ms);
            return;
        }
        let (job, to) = (shift.job.clone(), shift.to.clone());
        let told = format!("moves {job} to {}, {}", to.short(), shift.reason());
        self.mending.insert(job.clone());
        self.balancing.begun.insert(key.clone());
        self.balancing.moving.insert(job.clone(), (key, told));
        self.balancing.busy_ms = Some(now_ms);
        self.planning.was_idle = false;
        let want = Box::new(Want::migrate(job, to.clone()));
        let (because, level) = (Some(shift.reason()), Level::Wish);
        out.push(Effect::Mend { want, to, because, yields: true, level });
    }

    /// The move that goes on for an expectation.
    pub(super) fn shifting(&self, key: &Key) -> Option<KeptStanding> {
        let mut moving = self.balancing.moving.iter();
        let (job, (_, told)) = moving.find(|(_, (of, _))| of == key)?;
        let run = self.open.iter().find(|run| run.job == *job)?;
        Some(KeptStanding::Mending { run: run.run, why: Some(told.clone()) })
    }

    /// What is told beside how it stands: how far hosts are apart while that may be, or what a move waits for.
    pub(super) fn balance_note(&self, now_ms: u64, key: &Key) -> Option<String> {
        let Item::Rule(Clause { level, rule: Rule::Balanced(rule) }) = self.item(key)? else {
            return None;
        };
        match self.judged.get(key)?.verdict {
            _ if self.shifting(key).is_some() => None,
            Verdict::Met => {
                let freshness = |host: &HostId| self.index.freshness(host);
                gap_words(self.index.view(), &freshness, &self.used, rule)
            }
            // Why is what is told.
            Verdict::Held { .. } => None,
            _ => self.waits(now_ms, key, *level, rule),
        }
    }
}

/// True for the step that is this shift.
pub(super) fn is_of(shift: &Shift, step: &Step) -> bool {
    matches!(step, Step::MigrateVm(step) if step.job == shift.job && step.to == shift.to && step.from == shift.from)
}
