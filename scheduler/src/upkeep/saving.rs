//! Hosts that sleep while nobody needs them: when one is put to sleep, and when one is woken before it is needed.
//!
//! Decides how long there has to have been too much room, and what goes before. One host goes at a time; after one was
//! seen to be drained, to fall asleep or to wake, by whoever's word, none goes for as long as there has to be too much
//! room. So no host is put to sleep that was woken within that time, and schedulers that keep the same set see what the
//! first of them does, and wait. A wake waits for nothing but its turn. After a start a scheduler does not know what was
//! before, and rests first.
//!
//! ```text
//!   too much room ──for long enough, nothing drained, nothing else to mend──▶ a plan ──▶ drained ──▶ asleep
//!   too little room, and one sleeps ──a moment──▶ a plan ──▶ woken ──▶ a minute's rest before the next one
//! ```
//!
//! Which host it is is the planner's. That it is still not needed is looked at once more by its run, right before it is
//! switched off: of two schedulers that began at once, both turn back.

use std::collections::BTreeMap;

use planner::rules::PowerSaving;
use planner::{Clause, Level, Need, Rule, Saving as Saved};
use protocol::api::Want;
use protocol::expectations::KeptStanding;
use protocol::host::HostIntent;
use protocol::id::{HostId, JobId};
use protocol::subject::Subject;
use protocol::view::Freshness;

use super::index::Key;
use super::set::Item;
use super::{Effect, SETTLE_MS, TURN_MS, Upkeep};
use crate::sleep::Powers;

/// How much longer each next scheduler waits to put a host to sleep: what the one before does shows by then.
const APART_MS: u64 = 15_000;

/// A host that was drained for its sleep is asleep after so long, or its drain is somebody else's.
const FALL_MS: u64 = 600_000;

/// After one has woken, it takes VMs, and others are judged by that, before the next one is woken.
const WAKE_REST_MS: u64 = 60_000;

/// What no plan helps is planned again after so long.
const AGAIN_MS: u64 = 10_000;

/// What is known of hosts that go to sleep, and wake.
#[derive(Debug, Clone, Default)]
pub(crate) struct Saving {
    /// Hosts that this one has put to sleep or woken, by the names of their runs: for what, and what is told of it.
    doing: BTreeMap<JobId, (Key, Need, String)>,
    /// The expectation for which a plan was asked for.
    asked: Option<Key>,
    /// When none came of that for an expectation.
    idle_ms: BTreeMap<Key, u64>,
    /// When a host was last seen to be drained, to fall asleep or to wake.
    turned_ms: Option<u64>,
    /// When one was last seen to wake.
    woke_ms: Option<u64>,
    /// Hosts that are drained and awake, and since when that is seen.
    drained: BTreeMap<HostId, u64>,
}

impl Saving {
    /// What was before is not known: as if a host had turned now.
    pub(super) fn begin_at_rest(&mut self, now_ms: u64) {
        self.turned_ms = Some(now_ms);
    }

    /// A set has changed.
    pub(super) fn forget(&mut self, key: &Key) {
        self.idle_ms.remove(key);
    }

    /// A run has ended or could not be begun; true if it was for this.
    pub(super) fn ended(&mut self, now_ms: u64, job: &JobId) -> bool {
        let was_ours = self.doing.remove(job).is_some();
        if was_ours {
            self.turned_ms = Some(now_ms);
        }
        was_ours
    }
}

/// The rule of an item that is about hosts' sleep.
pub(super) fn saving_of(item: &Item) -> Option<(Level, &PowerSaving)> {
    match item {
        Item::Rule(Clause { level, rule: Rule::PowerSaving(rule) }) => Some((*level, rule)),
        _ => None,
    }
}

impl Upkeep {
    fn savings(&self) -> impl Iterator<Item = (&Key, Level, &PowerSaving)> {
        self.index.whole().filter_map(|key| {
            let (level, rule) = saving_of(self.item(key)?)?;
            Some((key, level, rule))
        })
    }

    /// Notes which hosts have turned, by what was known before.
    pub(super) fn note_turned(&mut self, now_ms: u64, before: &Powers) {
        if self.savings().next().is_none() {
            self.saving.drained.clear();
            return;
        }
        let (was, is) = (&before.asleep, &self.powers.asleep);
        let has_woken = was.keys().any(|host| !is.contains_key(host));
        let has_slept = is.keys().any(|host| !was.contains_key(host));
        let is_drained = |host: &HostId, row: &protocol::view::HostRow| {
            row.host.intent == Some(HostIntent::Drain)
                && !is.contains_key(host)
                && self.index.freshness(host) != Freshness::Lost
        };
        let rows = self.index.view().hosts().filter(|(host, row)| is_drained(host, row));
        let since = |host: &HostId| self.saving.drained.get(host).copied();
        let mut has_drained = false;
        let drained = rows.map(|(host, _)| {
            has_drained |= since(host).is_none();
            (host.clone(), since(host).unwrap_or(now_ms))
        });
        let drained: BTreeMap<HostId, u64> = drained.collect();
        self.saving.drained = drained;
        if has_woken {
            self.saving.woke_ms = Some(now_ms);
        }
        if has_woken || has_slept || has_drained {
            self.saving.turned_ms = Some(now_ms);
        }
    }

    /// What an expectation calls for, and since when.
    fn call(&self, key: &Key) -> Option<(Need, u64)> {
        self.judged.get(key)?.need
    }

    /// Why nothing is begun now for an expectation, in words.
    fn saving_waits(
        &self,
        now_ms: u64,
        key: &Key,
        level: Level,
        rule: &PowerSaving,
    ) -> Option<String> {
        let (need, since_ms) = self.call(key)?;
        let place = u64::from(self.turns.place(&key.0));
        let at_ms = match need {
            Need::Wake => {
                if self.saving.doing.values().any(|(_, need, _)| *need == Need::Wake) {
                    return Some("waits while a host is being woken".to_owned());
                }
                let rested_ms = self.saving.woke_ms.map_or(0, |ms| ms + WAKE_REST_MS);
                (since_ms + SETTLE_MS).max(rested_ms) + place * TURN_MS
            }
            Need::Sleep => {
                if let Some(why) = self.sleep_waits(now_ms, level) {
                    return Some(why);
                }
                let turned_ms = self.saving.turned_ms.unwrap_or(0);
                since_ms.max(turned_ms) + rule.after_ms() + place * APART_MS
            }
        };
        let left_ms = at_ms.saturating_sub(now_ms);
        if left_ms > 0 {
            return Some(format!("nothing is switched for another {} s", left_ms.div_ceil(1_000)));
        }
        let idle_ms = self.saving.idle_ms.get(key)?;
        (idle_ms + AGAIN_MS > now_ms).then(|| {
            "no plan leads there now, by what is expected of VMs and hosts; it is tried again"
                .to_owned()
        })
    }

    /// What goes before that a host is put to sleep.
    fn sleep_waits(&self, now_ms: u64, level: Level) -> Option<String> {
        if let Some((set, place)) = self.comes_first(level) {
            let number = place + 1;
            return Some(format!("first comes what is not so of expectations {set} ({number})"));
        }
        let mut falling = self.saving.drained.iter().filter(|(_, since)| *since + FALL_MS > now_ms);
        if let Some((host, _)) = falling.next() {
            return Some(format!("waits while {} is drained", host.short()));
        }
        if let Some((job, state, host)) = self.on_its_way() {
            return Some(format!("waits while {job} is {state} on {}", host.short()));
        }
        let job = self.mending.first()?;
        Some(format!("waits while {job} is being changed"))
    }

    /// The expectation for which a host may be put to sleep or woken now.
    pub(super) fn saving_due(&self, now_ms: u64) -> Option<Key> {
        let mut due = self.savings().filter(|(key, level, rule)| {
            self.broken.contains(*key)
                && self.call(key).is_some()
                && self.saving_waits(now_ms, key, *level, rule).is_none()
        });
        due.next().map(|(key, ..)| key.clone())
    }

    /// A plan for this one is being asked for.
    pub(super) fn saving_asked(&mut self, key: Option<&Key>) {
        self.saving.asked = key.cloned();
    }

    /// Begins what a plan says, if the way is free.
    pub(super) fn begin_saving(&mut self, now_ms: u64, savings: &[Saved], out: &mut Vec<Effect>) {
        let Some(key) = self.saving.asked.take() else { return };
        let first = savings.first().filter(|saving| self.is_free(now_ms, saving));
        let Some(saving) = first else {
            self.saving.idle_ms.insert(key, now_ms);
            return;
        };
        let host = Subject::from(saving.host().clone());
        let (job, to) = (host.job().clone(), host.host().clone());
        let (need, want) = match saving {
            Saved::Sleep { .. } => (Need::Sleep, Want::Sleep { host }),
            Saved::Wake { .. } => (Need::Wake, Want::Wake { host }),
        };
        let told = match need {
            Need::Sleep => saving.to_string(),
            Need::Wake => format!("{saving}, {}", saving.reason()),
        };
        self.saving.idle_ms.remove(&key);
        self.saving.doing.insert(job.clone(), (key, need, told));
        self.mending.insert(job);
        self.planning.was_idle = false;
        out.push(Effect::Mend {
            want: Box::new(want),
            to,
            because: Some(saving.reason()),
            yields: true,
            level: Level::Wish,
        });
    }

    fn is_free(&self, now_ms: u64, saving: &Saved) -> bool {
        let host = Subject::from(saving.host().clone());
        let is_open = self.open.iter().any(|run| run.job == *host.job());
        let is_at_rest = match saving {
            Saved::Wake { .. } => true,
            Saved::Sleep { .. } => self.mending.is_empty() && self.on_its_way().is_none(),
        };
        is_at_rest && !is_open && self.mends.rest(now_ms, host.job()).is_none()
    }

    /// What goes on for an expectation.
    pub(super) fn saving_going(&self, key: &Key) -> Option<KeptStanding> {
        let mut doing = self.saving.doing.iter();
        let (job, (_, _, told)) = doing.find(|(_, (of, ..))| of == key)?;
        let run = self.open.iter().find(|run| run.job == *job)?;
        Some(KeptStanding::Mending { run: run.run, why: Some(told.clone()) })
    }

    /// What is told beside how it stands: what it waits for.
    pub(super) fn saving_note(&self, now_ms: u64, key: &Key) -> Option<String> {
        let (level, rule) = saving_of(self.item(key)?)?;
        if self.saving_going(key).is_some() || !self.broken.contains(key) {
            return None;
        }
        self.saving_waits(now_ms, key, level, rule)
    }
}
