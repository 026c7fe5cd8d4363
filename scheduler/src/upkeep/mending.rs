//! Mending: what is due, what a plan is asked for, and which of its steps are begun.
//!
//! Decides whose turn it is and what must wait; never what would help, which is the planner's, and never how
//! often and how many at a time, which is [`super::mends`]'.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use planner::rules::NoMigration;
use planner::{Clause, Expectation, Favour, Level, Report, Rule, Step};
use protocol::api::Want;
use protocol::hugepages::Pages;
use protocol::id::{HostId, JobId, SetName};
use protocol::job::{Job, JobState};
use protocol::resources::Resources;
use protocol::view::Freshness;
use serde_json::{Value, json};

use super::index::Key;
use super::set::Item;
use super::verdict::{is_between, is_told_only, spec_of};
use super::{
    Aims, Effect, Open, PLAN_AGAIN_MS, PLAN_IDLE_MS, Planning, SETTLE_MS, TURN_MS, Upkeep, mends,
};

impl Upkeep {
    /// Notes what others are to mend first and can't now, or are at work on: their time begins anew.
    pub(super) fn note_held(&mut self, now_ms: u64) {
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
    pub(super) fn is_held_up(&self, item: &Item) -> bool {
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
    pub(super) fn is_somebody_else_at(&self, set: &SetName) -> bool {
        let items = self.sets.get(set).into_iter().flat_map(|set| &set.items);
        items.flat_map(Item::jobs).any(|job| {
            !self.is_ours(job) && self.index.rows_of(job).any(|row| is_between(row.state))
        })
    }

    pub(super) fn is_ours(&self, job: &JobId) -> bool {
        self.mending.contains(job) || self.open.iter().any(|run| run.job == *job)
    }

    /// What is to be mended now.
    pub(super) fn due(&self, now_ms: u64) -> BTreeSet<Key> {
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
    pub(super) fn is_tied_to_a_change(&self, job: &JobId) -> bool {
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

    pub(super) fn ask_for_plan(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let mut due = self.due(now_ms);
        let (uneven, shifts) = self.shifts_due(now_ms);
        due.extend(uneven.iter().cloned());
        // One or the other: each is judged by a world at rest.
        let saving = self.saving_due(now_ms).filter(|_| shifts.max == 0);
        let savings_max = u32::from(saving.is_some());
        due.extend(saving.clone());
        let planning = &self.planning;
        let since_ms = planning.asked_ms.map(|asked_ms| now_ms.saturating_sub(asked_ms));
        let is_news = planning.is_stale || !due.is_subset(&planning.due);
        let pause_ms = match (is_news, planning.was_idle) {
            // These have a pace of their own.
            _ if shifts.max > 0 || savings_max > 0 => 0,
            (true, false) => 0,
            (true, true) => PLAN_IDLE_MS,
            (false, _) => PLAN_AGAIN_MS,
        };
        if due.is_empty() || planning.is_open || since_ms.is_some_and(|since| since < pause_ms) {
            return;
        }
        let used = self.used_for(&uneven);
        let aims = Aims { shifts, savings_max, used, ..self.aims(now_ms, &due) };
        self.shifts_asked(now_ms, &uneven, shifts);
        self.saving_asked(saving.as_ref());
        self.planning = Planning {
            asked_ms: Some(now_ms),
            due,
            is_open: true,
            was_idle: false,
            is_stale: false,
        };
        out.push(Effect::Plan(Box::new(aims)));
    }

    pub(super) fn aims(&self, now_ms: u64, due: &BTreeSet<Key>) -> Aims {
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
        Aims { goals, clauses, heeded, shunned, ..Aims::default() }
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

    pub(super) fn planned(
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
                let whose = favour.map_or(step.job(), |favour| &favour.lets);
                let level = self.level_due(&due, whose);
                out.extend(self.mend(step, favour.map(|favour| favour.reason()), level));
            }
        }
        self.planning.due = due;
    }

    /// The moves of others that are worth beginning: not those for something that will fit once moves that go on
    /// already are over. Somebody else is at that, and has time to finish.
    pub(super) fn favours_to_do<'f>(
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

    pub(super) fn is_room_on_its_way(&self, job: &JobId, due: &BTreeSet<Key>) -> bool {
        let view = self.index.view();
        let mut items = due.iter().filter_map(|key| self.item(key));
        let spec = items.find_map(|item| match item {
            Item::Runs { job: id, spec, .. } if id == job => spec.as_ref(),
            _ => None,
        });
        let Some(spec) = spec_of(view, job, spec) else { return false };
        let (size, pages, cpus) = (spec.takes(), spec.pages(), spec.dedicated_cpus());
        view.hosts().any(|(host, row)| {
            let is_leaving = |job: &&Arc<Job>| job.state == JobState::MigratingOut;
            let leaving = || row.jobs.values().filter(is_leaving);
            let pages_leaving = leaving().map(|job| job.pages()).fold(Pages::NONE, Pages::plus);
            let cpus_leaving =
                leaving().map(|job| job.dedicated_cpus()).fold(0, u32::saturating_add);
            let leaving = leaving().map(|job| job.allocation()).reduce(Resources::plus);
            let free = row.host.capacity.minus(row.host.allocation);
            let hugepages = &row.host.hugepages;
            let pages_free = Pages::for_jobs(hugepages).minus(Pages::promised(hugepages));
            self.index.freshness(host) == Freshness::Fresh
                && row.host.intent.is_none()
                && pages.fits_in(pages_free.plus(pages_leaving))
                && cpus <= row.host.dedicated_cpus.free().saturating_add(cpus_leaving)
                && leaving.is_some_and(|leaving| size.fits_in(free.plus(leaving)))
        })
    }

    /// True while nobody changes a job that nothing else is known of.
    pub(super) fn is_at_rest(&self, step: &Step) -> bool {
        let Step::MigrateVm(step) = step else { return false };
        let row = self.index.view().host(&step.from);
        let job = row.and_then(|row| row.jobs.get(&step.job));
        job.is_some_and(|job| job.state == JobState::Running)
    }

    /// How much what is to be mended of a job matters.
    fn level_due(&self, due: &BTreeSet<Key>, job: &JobId) -> Level {
        let items = due.iter().filter_map(|key| self.item(key));
        let of_job = items.filter(|item| item.jobs().contains(&job));
        of_job.filter_map(Item::level).min().unwrap_or(Level::Wish)
    }

    pub(super) fn mend(&self, step: Step, because: Option<String>, level: Level) -> Option<Effect> {
        match step {
            Step::StartVm(step) => {
                let (job, to) = (step.job, step.host);
                let on = self.items().find_map(|(_, item)| match item {
                    Item::Runs { job: id, on: Some(on), .. } if *id == job => Some(on.clone()),
                    _ => None,
                });
                // What was there and is deleted is not made again, unless a set was put since that has not seen it.
                let expects =
                    |item: &Item| matches!(item, Item::Runs { job: id, .. } if *id == job);
                let again = self
                    .sets
                    .values()
                    .filter(|set| set.items.iter().any(expects))
                    .all(|set| set.record.begun.contains(&job));
                let is_must = |item: &Item| matches!(item, Item::Runs { job: id, level: Level::Must, .. } if *id == job);
                let yields = !self.items().any(|(_, item)| is_must(item));
                let want = Box::new(Want::Run { job, spec: step.spec, on, again });
                Some(Effect::Mend { want, to, because, yields, level })
            }
            Step::MigrateVm(step) => {
                let (job, to) = (step.job, step.to);
                let want = Box::new(Want::migrate(job, to.clone()));
                Some(Effect::Mend { want, to, because, yields: true, level })
            }
            Step::ResizeVm(step) => {
                let (job, size) = (step.job, step.size);
                let want = Box::new(Want::Resize { job, size });
                Some(Effect::Mend { want, to: step.host, because, yields: true, level })
            }
            Step::StopVm(_) | Step::DeleteVm(_) | Step::WakeHost(_) | Step::SleepHost(_) => None,
        }
    }
}

/// What a plan's report says of an expectation, in words and as it is.
pub(super) fn said_of(report: &Report, item: &Item) -> Option<(String, Value)> {
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
pub(super) fn ends_of(step: &Step) -> Vec<&HostId> {
    match step {
        Step::StartVm(step) => vec![&step.host],
        Step::MigrateVm(step) => vec![&step.from, &step.to],
        Step::ResizeVm(step) => vec![&step.host],
        Step::StopVm(step) => vec![&step.host],
        Step::DeleteVm(step) => vec![&step.host],
        Step::WakeHost(step) => vec![&step.host],
        Step::SleepHost(step) => vec![step.host.host()],
    }
}
