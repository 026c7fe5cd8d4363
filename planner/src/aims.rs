//! What is aimed at, in which order, and the plan that comes of it.
//!
//! Decides that what must be comes before what should be, that one hopeless aim changes nothing for
//! the others, and which of several whole plans is taken: the one that leaves fewer violations,
//! level by level. The steps of one aim are [`crate::search`]'s.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;

use protocol::id::{HostId, JobId};
use protocol::resources::Resources;
use protocol::view::HostRow;
use protocol::vm::Priority;
use serde::{Deserialize, Serialize};

use crate::balance::{Shift, next_shift};
use crate::cost::Cost;
use crate::expectation::{Expectation, Standing};
use crate::input::PlanInput;
use crate::intent::{Intent, Problem, problems};
use crate::level::{Level, Score};
use crate::order::awaited;
use crate::preempt::{Preemption, preemptions_of};
use crate::report::{Report, Unmet, UnmetReason, explain, explain_stay, violations};
use crate::rules::{Balanced, Clause, PowerSaving, Rule};
use crate::saving::{Saving, next_saving};
use crate::search::{Aim, Node, Search};
use crate::state::State;
use crate::steps::Step;

/// Longer plans are not searched again for steps that the whole could do without: it would cost the
/// square of their length.
const MINIMAL_STEPS_MAX: usize = 64;

/// Hosts that are looked at for what would make room, all states together. It is a hint in a report, which
/// must not take longer than the plan: with a hundred hosts nothing is cut short.
pub(crate) const LOOKS_MAX: usize = 50_000;

/// Steps in the order in which they must be taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
    /// What they cost together.
    pub cost: Cost,
    /// Which of them are moves that nobody asked for, and for whose sake they are made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub favours: Vec<Favour>,
    /// Which of them stop something so that what matters more fits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preemptions: Vec<Preemption>,
    /// Which of them make hosts more alike, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shifts: Vec<Shift>,
    /// Which of them save power, or see to it that there is room, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub savings: Vec<Saving>,
}

/// A move of one job so that another fits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Favour {
    /// What is moved.
    pub job: JobId,
    /// Where to.
    pub to: HostId,
    /// What fits then.
    pub lets: JobId,
    /// Where it fits.
    pub fit_on: HostId,
}

impl fmt::Display for Favour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "moves {} to {} {}", self.job, self.to.short(), self.reason())
    }
}

impl Favour {
    /// What it is good for, in words.
    #[must_use]
    pub fn reason(&self) -> String {
        format!("so that {} fits on {}", self.lets, self.fit_on.short())
    }
}

/// The answer of [`plan`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// What to do. Empty when nothing need or can be done; `report` tells which.
    pub plan: Plan,
    /// What is on its way already, and where: waiting is enough.
    pub coming: Vec<(JobId, HostId)>,
    /// What stays unmet, and why.
    pub report: Report,
}

/// The same as [`plan`] for a job that is to run again: one that nobody has any more is not made anew.
#[must_use]
pub fn plan_again(input: &PlanInput, job: &JobId) -> Outcome {
    if !State::new(input).placements(job).is_empty() {
        return plan(input);
    }
    let (job, reason) = (job.clone(), UnmetReason::NoSuchJob);
    let unmet = vec![Unmet { job, reason, hosts: vec![], hosts_unlisted: 0, cheapest: None }];
    Outcome { report: Report { unmet, ..Report::default() }, ..Outcome::default() }
}

/// Finds the cheapest steps that make the expectations true, as many of them as can be.
#[must_use]
pub fn plan(input: &PlanInput) -> Outcome {
    let start = State::new(input);
    let mut best = Attempt::begin(&start, in_order(input));
    best.go();
    // A good plan first. Where it leaves goals unmet, the large ones first may serve more of them.
    if input.expectations.len() > 1 && best.has_unmet_goals() {
        let mut other = Attempt::begin(&start, largest_first(input));
        other.go();
        if other.score() < best.score() {
            best = other;
        }
    }
    best.balance();
    best.save();
    let outcome = best.outcome();
    debug_assert_eq!(crate::audit(input, &outcome), vec![], "a plan that breaks its own rules");
    outcome
}

/// What would make room for a start that fits nowhere: the moves, and the start.
pub(crate) fn room_making(state: &State<'_>, expectation: &Expectation) -> Option<Vec<Step>> {
    let start = State::new(state.input());
    let aim = Aim::Goal(expectation, level_of(state.input(), expectation));
    let (may_make_room, may_wake, may_preempt, looks_max) = (true, false, false, LOOKS_MAX);
    let search =
        Search { aim: &aim, earlier: &[], may_make_room, may_wake, may_preempt, looks_max };
    let found = search.run(&start)?;
    (found.steps.len() > 1).then_some(found.steps)
}

fn level_of(input: &PlanInput, expectation: &Expectation) -> Level {
    input.levels.get(expectation.job()).copied().unwrap_or_default()
}

fn in_order(input: &PlanInput) -> Vec<(Level, &Expectation)> {
    let mut goals: Vec<_> = input.expectations.iter().map(|e| (level_of(input, e), e)).collect();
    goals.sort_by_key(|(level, goal)| (*level, Reverse(priority_of(goal))));
    goals
}

/// What is to be started comes in the order of its priority; all else as if nothing was said.
fn priority_of(goal: &Expectation) -> Priority {
    match goal {
        Expectation::Runs { spec, .. } => spec.priority(),
        _ => Priority::default(),
    }
}

fn largest_first(input: &PlanInput) -> Vec<(Level, &Expectation)> {
    let mut goals = in_order(input);
    goals.sort_by_key(|(level, expectation)| {
        let size = match expectation {
            Expectation::Runs { spec, .. } => spec.resources(),
            _ => Resources { memory_bytes: u64::MAX, ..Resources::ZERO },
        };
        (*level, Reverse((priority_of(expectation), size.memory_bytes, size.vcpus)))
    });
    goals
}

/// One whole plan in the making.
struct Attempt<'a> {
    input: &'a PlanInput,
    start: State<'a>,
    node: Node<'a>,
    goals: Vec<(Level, &'a Expectation)>,
    /// Goals that have had their turn.
    earlier: Vec<&'a Expectation>,
    unmet: Vec<(Level, &'a Expectation)>,
    coming: Vec<(JobId, HostId)>,
    /// What could not be moved away from hosts that are to be emptied.
    staying: Vec<(JobId, HostId)>,
    favours: BTreeSet<Favour>,
    preemptions: BTreeSet<Preemption>,
    shifts: Vec<Shift>,
    savings: Vec<Saving>,
}

impl<'a> Attempt<'a> {
    fn begin(start: &State<'a>, goals: Vec<(Level, &'a Expectation)>) -> Self {
        let (input, node) = (start.input(), Node::root(start));
        let (earlier, unmet, coming, staying) = (vec![], vec![], vec![], vec![]);
        let (start, favours, shifts) = (start.clone(), BTreeSet::new(), vec![]);
        let (preemptions, savings) = (BTreeSet::new(), vec![]);
        Self {
            input,
            start,
            node,
            goals,
            earlier,
            unmet,
            coming,
            staying,
            favours,
            preemptions,
            shifts,
            savings,
        }
    }

    fn go(&mut self) {
        for level in [Level::Must, Level::Should, Level::Wish] {
            for (_, goal) in self.goals.clone().into_iter().filter(|(l, _)| *l == level) {
                self.meet(level, goal);
            }
            if level == Level::Must && self.input.limits.tends_hosts {
                self.empty_hosts();
            }
            if level == Level::Should && self.input.limits.tends_hosts {
                self.relieve_hosts();
            }
            let mends_rules = self.input.limits.mends_rules;
            let tended = |clause: &&Clause| {
                let is_last = balanced(clause).is_some() || saved(clause).is_some();
                clause.level == level && mends_rules && !is_last
            };
            let mut stuck: Vec<(usize, &Clause)> = Vec::new();
            for clause in self.input.clauses.iter().filter(tended) {
                if !self.keep(clause) {
                    stuck.push((self.node.steps.len(), clause));
                }
            }
            // What has moved for others since may have made room.
            for (steps_then, clause) in stuck {
                if self.node.steps.len() > steps_then {
                    self.keep(clause);
                }
            }
        }
        // What has moved since may have made room, and what others wait for may have been started.
        let mut steps_before = 0;
        while self.node.steps.len() > steps_before && !self.unmet.is_empty() {
            // Room is looked for once more; who waits for one that waits itself needs as many rounds.
            steps_before =
                if self.input.orders.is_empty() { usize::MAX } else { self.node.steps.len() };
            for (level, goal) in std::mem::take(&mut self.unmet) {
                self.meet(level, goal);
            }
        }
        self.drop_needless();
    }

    /// Mends a rule as far as it can be; true when nothing is left to mend.
    fn keep(&mut self, clause: &Clause) -> bool {
        while clause.rule.violations(&self.node.state) > 0 {
            if !self.pursue(&Aim::Keep(clause)) {
                return false;
            }
        }
        true
    }

    fn meet(&mut self, level: Level, goal: &'a Expectation) {
        match goal.standing(&self.node.state) {
            Standing::Met => {}
            Standing::Coming { host } => self.coming.push((goal.job().clone(), host)),
            Standing::Violated => {
                if self.waits(level, goal) || !self.pursue(&Aim::Goal(goal, level)) {
                    self.unmet.push((level, goal));
                }
            }
        }
        self.earlier.push(goal);
    }

    /// True while a start would be too early.
    fn waits(&self, level: Level, goal: &Expectation) -> bool {
        matches!(goal, Expectation::Runs { .. })
            && awaited(&self.node.state, goal.job(), level).is_some()
    }

    /// Moves what runs on hosts that are to be emptied: the largest first, as the last place for a
    /// large one is the hardest to find.
    fn empty_hosts(&mut self) {
        let is_emptied = |intent: &Intent| matches!(intent, Intent::Drain | Intent::Retire);
        for (host, _) in self.input.intents.iter().filter(|(_, intent)| is_emptied(intent)) {
            let Some(row) = self.node.state.host(host) else { continue };
            let state = &self.node.state;
            let mut jobs: Vec<_> = state
                .jobs_alive(row)
                .into_iter()
                .map(|job| {
                    let size = state.placed(&job, host).map(|p| p.allocation()).unwrap_or_default();
                    (Reverse((size.memory_bytes, size.vcpus)), job)
                })
                .collect();
            jobs.sort();
            for (_, job) in jobs {
                self.node.state.remember(&job);
                if !self.pursue(&Aim::Away { job: job.clone(), from: host.clone() }) {
                    self.staying.push((job, host.clone()));
                }
            }
        }
    }

    fn relieve_hosts(&mut self) {
        let crowded = problems(&self.node.state).into_iter().filter_map(|problem| match problem {
            Problem::Overloaded { host, .. } => Some(host),
            _ => None,
        });
        for host in crowded.collect::<Vec<_>>() {
            self.pursue(&Aim::Relieve { host });
        }
    }

    fn pursue(&mut self, aim: &Aim<'_>) -> bool {
        let limits = self.input.limits;
        let may_make_room = limits.may_make_room && aim.level() <= limits.room_level;
        let is_start = matches!(aim, Aim::Goal(Expectation::Runs { .. }, _));
        let may_wake = is_start && limits.wakes_for.is_some_and(|least| aim.level() <= least);
        let may_preempt = is_start && limits.preempts_for.is_some_and(|least| aim.level() <= least);
        let (earlier, looks_max) = (&self.earlier, usize::MAX);
        let search = Search { aim, earlier, may_make_room, may_wake, may_preempt, looks_max };
        let Some(found) = search.run(&self.node.state) else { return false };
        self.favours.extend(favours_of(aim, &found.steps));
        self.preemptions.extend(preemptions_of(&aim.jobs(), &found.steps));
        self.node.steps.extend(found.steps);
        self.node.cost = self.node.cost.plus(found.cost);
        self.node.added = self.node.added.plus(found.added);
        self.node.state = found.state;
        true
    }

    /// Drops each step without which the whole is as good.
    fn drop_needless(&mut self) {
        let mut i = 0;
        while self.node.steps.len() > 1
            && self.node.steps.len() <= MINIMAL_STEPS_MAX
            && i < self.node.steps.len()
        {
            let mut fewer = self.node.steps.clone();
            fewer.remove(i);
            let now = self.total(&self.node.state);
            match Node::replay(&self.start, &fewer).filter(|n| self.total(&n.state) <= now) {
                Some(shorter) => self.node = shorter,
                None => i += 1,
            }
        }
    }

    /// Moves VMs from fuller hosts to emptier ones, when all else has had its turn.
    fn balance(&mut self) {
        let (clauses, limits) = (&self.input.clauses, self.input.limits);
        let mut balanced: Vec<(Level, &Balanced)> = clauses.iter().filter_map(balanced).collect();
        balanced.sort_by_key(|(level, _)| *level);
        for (_, rule) in balanced {
            let mut was_begun = limits.shifts_begun;
            while self.shifts.len() < limits.shifts_max as usize {
                let next = next_shift(&self.node.state, rule, was_begun);
                let Some((shift, step)) = next else { break };
                self.node = self.node.clone().step(step);
                self.shifts.push(shift);
                was_begun = true;
            }
        }
    }

    /// Wakes hosts before they are needed, and puts those to sleep that are not: last of all, as what runs is what
    /// room is judged by. None sleeps while anything is unmet, or one is woken.
    fn save(&mut self) {
        let (clauses, limits) = (&self.input.clauses, self.input.limits);
        let mut saved: Vec<(Level, &PowerSaving)> = clauses.iter().filter_map(saved).collect();
        saved.sort_by_key(|(level, _)| *level);
        for (_, rule) in saved {
            while self.savings.len() < limits.savings_max as usize {
                let wakes = self.node.steps.iter().any(|step| matches!(step, Step::WakeHost(_)));
                let may_sleep = !wakes && !self.has_unmet_goals() && self.coming.is_empty();
                let next = next_saving(&self.node.state, rule, may_sleep);
                let Some((saving, found)) = next else { break };
                for step in found.steps {
                    self.node = self.node.clone().step(step);
                }
                self.savings.push(saving);
            }
        }
    }

    fn has_unmet_goals(&self) -> bool {
        !self.unmet.is_empty()
    }

    fn score(&self) -> Score {
        self.total(&self.node.state)
    }

    /// All that is wrong in a state: goals, rules, hosts to be emptied, hosts with too much.
    fn total(&self, state: &State<'a>) -> Score {
        let goals =
            self.goals.iter().filter(|(_, goal)| goal.standing(state) == Standing::Violated);
        let mut total = goals.fold(Score::default(), |sum, (l, _)| sum.plus(Score::at(*l, 1)));
        let clauses = self.input.clauses.iter().chain(&self.input.heeded);
        for clause in clauses.filter(|clause| !clause.rule.jobs().is_empty()) {
            let count = clause.rule.violations(state);
            total = total.plus(Score::at(clause.level, count.into()));
        }
        let is_off = |intent: &Intent| matches!(intent, Intent::Off | Intent::Asleep);
        let rows = self.input.intents.iter().filter(|(_, intent)| !is_off(intent));
        for (host, _) in rows {
            let left = state.host(host).map_or(0, |row| state.jobs_alive(row).len());
            total.must += i64::try_from(left).unwrap_or(i64::MAX);
        }
        // Against the beginning: what has promised too much and is left as it is makes no difference.
        let is_over = |state: &State<'_>, row: &HostRow| {
            i64::from(!state.allocation(row).fits_in(row.host.capacity))
        };
        for row in state.hosts_changed(&self.start) {
            total.should += is_over(state, row) - is_over(&self.start, row);
        }
        total
    }

    fn outcome(mut self) -> Outcome {
        // In the order in which they were asked, whatever was tried first.
        let place = |goal: &Expectation| self.input.expectations.iter().position(|e| e == goal);
        self.unmet.sort_by_key(|(_, goal)| place(goal));
        let state = &self.node.state;
        let unmet = self.unmet.iter().map(|(_, goal)| explain(state, goal));
        let left = self.staying.iter().filter(|(job, from)| {
            state.placed(job, from).is_some_and(|placed| !placed.state.is_ended())
        });
        let report = Report {
            unmet: unmet.chain(left.map(|(job, from)| explain_stay(state, job, from))).collect(),
            violations: violations(state),
            problems: if self.input.limits.tends_hosts { problems(state) } else { vec![] },
        };
        // Steps that the plan can do without are gone, and what made room for them is for nobody.
        let is_left = |favour: &Favour| {
            self.node.steps.iter().any(|step| match step {
                Step::MigrateVm(step) => step.job == favour.job && step.to == favour.to,
                _ => false,
            })
        };
        let favours = self.favours.into_iter().filter(is_left).collect();
        let is_made = |made: &Preemption| {
            self.node.steps.iter().any(|step| match step {
                Step::StopVm(step) => step.job == made.job && step.host == made.host,
                _ => false,
            })
        };
        let preemptions = self.preemptions.into_iter().filter(is_made).collect();
        let (Node { steps, cost, .. }, shifts, savings) = (self.node, self.shifts, self.savings);
        let plan = Plan { steps, cost, favours, preemptions, shifts, savings };
        Outcome { plan, coming: self.coming, report }
    }
}

fn balanced(clause: &Clause) -> Option<(Level, &Balanced)> {
    match &clause.rule {
        Rule::Balanced(rule) => Some((clause.level, rule)),
        _ => None,
    }
}

fn saved(clause: &Clause) -> Option<(Level, &PowerSaving)> {
    match &clause.rule {
        Rule::PowerSaving(rule) => Some((clause.level, rule)),
        _ => None,
    }
}

/// The moves of an aim's steps that are not of its own jobs: they make room for the last step's.
fn favours_of(aim: &Aim<'_>, steps: &[Step]) -> Vec<Favour> {
    let Some((last, before)) = steps.split_last() else { return vec![] };
    let Some(fit_on) = last.host_after() else { return vec![] };
    let own = aim.jobs();
    let favour = |step: &Step| match step {
        Step::MigrateVm(step) if step.job != *last.job() && !own.contains(&&step.job) => {
            let (job, to) = (step.job.clone(), step.to.clone());
            Some(Favour { job, to, lets: last.job().clone(), fit_on: fit_on.clone() })
        }
        _ => None,
    };
    before.iter().filter_map(favour).collect()
}
