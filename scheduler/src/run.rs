//! The run machine: from a stored record and what has happened to what to do next. Pure.
//!
//! Decides order, retry, turning back and ending. Every effect that changes the world comes after
//! the `Persist` of its intent, so a crash between any two effects loses nothing: whoever recovers
//! the record asks again for what was started, and hosts answer the same as before.
//!
//! ```text
//!              plan            all tasks done
//! accepted ─▶ running ───────────────────────────────▶ succeeded
//!               │  ▲  ◀─ refused, and another way is left ─┐
//!       refused │  │ too late to turn back: it has         │
//!               │  │ switched over, or has come up         │
//!     for good  ▼  │                                       │
//!            unwinding ── all undone ──────────────────────┴─▶ rolled_back
//!               └──────── undo refused, or no answer ────────▶ stuck
//!
//! cancelled while accepted, running or unwinding: as if refused for good, unless there is no way back
//!
//! task: pending ─▶ started ─▶ succeeded | failed ;  started | succeeded | failed ─▶ undoing ─▶ undone
//! ```

use std::time::Duration;

use planner::{Outcome, Setback, SetbackReason};
use protocol::api::{RunState, TaskState, Want};
use protocol::id::{HostId, Revision};
use protocol::job::RunKey;
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::ticket::DenialReason;

use crate::record::{Cause, RunRecord, TaskRecord};
use crate::task::{
    Circumstances, Direction, Dispatch, TaskKind, TaskResult, ask_to_do, ask_to_undo, tasks_of,
};

/// Plans in a row of which nothing comes before a run gives up. Enough to try each host of a small
/// cluster, few enough that a hopeless run ends within minutes.
pub const ROUNDS_IDLE_MAX: u32 = 8;
/// Offers of one plan that may end unused before that counts as a failure: a quorum that takes
/// longer than five terms is not there.
const OFFERS_OVER_MAX: u32 = 5;
/// How long undoing goes on without an answer before a person must look.
const UNDO_PATIENCE: Duration = Duration::from_secs(600);
/// How long a run waits for a view, or for something to pass that is in its way.
const PLAN_PATIENCE: Duration = Duration::from_secs(120);
/// How often it looks whether it has passed.
const PLAN_RETRY: Duration = Duration::from_millis(500);
/// First and longest pause before asking again.
const RETRY_MS: (u64, u64) = (100, 5_000);

/// What has happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Take the run up, for the first time or after a crash.
    Begin,
    /// What the planner says.
    Planned {
        /// Its answer.
        outcome: Box<Outcome>,
        /// What the tasks depend on.
        at: Circumstances,
        /// Where the job is seen to be so, if what is wanted seems to be so already.
        met_at: Option<(HostId, Revision)>,
    },
    /// There is nothing to plan with yet.
    CannotPlan {
        /// What is missing.
        why: String,
    },
    /// A dispatched task was answered.
    Answered {
        /// Which.
        task: u32,
        /// Doing or undoing.
        direction: Direction,
        /// How.
        answer: Answer,
    },
    /// Somebody wants it no more; answered with [`Effect::AnswerCancel`].
    Cancel,
    /// Time has passed.
    Tick,
}

/// Why a run can't be cancelled: it has done what nothing takes back, and goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PastReturn {
    /// The guest runs on another host already.
    #[error("the guest has switched over to the other host already")]
    SwitchedOver,
    /// The guest was asked to end, or is being deleted.
    #[error("the VM has been asked to stop, or is being deleted, and nothing takes that back")]
    Ending,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It is so.
    Done(TaskResult),
    /// A definite no: it is not so, and will not be.
    Refused(No),
    /// No answer, or none that tells what became of it: ask again.
    Unclear {
        /// What was tried and what came back.
        what: String,
        /// Whether it may have had an effect.
        is_ambiguous: bool,
    },
    /// It is on its way.
    NotYet {
        /// How far.
        note: String,
    },
    /// The offer ended before it was redeemed, without effect.
    OfferOver {
        /// In the host's words.
        why: String,
    },
    /// Too late to take it back: the guest has switched over, or has come up after all, or a budget is used.
    TooLate,
    /// Another engine owns the run now.
    ClaimLost {
        /// Its claim.
        seen: u64,
    },
}

/// A definite no.
#[derive(Debug, Clone, PartialEq)]
pub enum No {
    /// A host's refusal, and what the view said of its allocation then.
    Host(Refusal, Resources),
    /// The arbiters'.
    Arbiters(Vec<(u32, DenialReason)>),
    /// A host said yes and could not do it.
    Failed(String),
    /// The same: the guest never ran there.
    NotStarted(String),
    /// Somebody has had it stopped or saved there.
    EndedByCommand(String),
}

/// What to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Store the record before anything after it.
    Persist(Box<RunRecord>),
    /// Ask for it; answer with [`Input::Answered`].
    Dispatch(Box<Dispatch>),
    /// Plan; answer with [`Input::Planned`] or [`Input::CannotPlan`].
    Plan,
    /// Come back with [`Input::Tick`] at this time of the monotonic clock.
    WakeAt(u64),
    /// Something people see has changed.
    Publish,
    /// Whoever wants to cancel it is answered: it turns back, or cannot.
    AnswerCancel(Result<(), PastReturn>),
    /// The run has ended.
    End,
}

/// A run being executed.
#[derive(Debug, Clone)]
pub struct Run {
    record: RunRecord,
    /// The task that is under way, and since when there was no progress.
    flight: Option<Flight>,
    /// Since when there has been nothing to plan with.
    planless_since_ms: Option<u64>,
    /// What a run without tasks waits for.
    waiting_for: Option<String>,
}

#[derive(Debug, Clone)]
struct Flight {
    task: usize,
    direction: Direction,
    progress_ms: u64,
    failures: u32,
    retry_at_ms: Option<u64>,
    /// Whether the last request was to leave alone what runs.
    kept_running: bool,
}

impl Run {
    /// A run as it was stored.
    #[must_use]
    pub fn new(record: RunRecord) -> Self {
        Self { record, flight: None, planless_since_ms: None, waiting_for: None }
    }

    /// As it is stored.
    #[must_use]
    pub fn record(&self) -> &RunRecord {
        &self.record
    }

    /// As people see it.
    #[must_use]
    pub fn status(&self) -> protocol::api::RunStatus {
        let mut status = self.record.status();
        if let Some(waiting_for) = &self.waiting_for {
            status.reason = Some(format!("waiting: {waiting_for}"));
        }
        status
    }

    /// Takes one input. `now_ms` is of a clock that never goes back.
    pub fn handle(&mut self, now_ms: u64, input: Input, out: &mut Vec<Effect>) {
        if self.record.state.is_ended() {
            return;
        }
        match input {
            Input::Begin => {
                if self.record.state == RunState::Accepted {
                    self.become_running();
                }
                self.advance(now_ms, out);
            }
            Input::Planned { outcome, at, met_at } => {
                if self.record.state == RunState::Running && !self.record.is_planned {
                    self.planned(now_ms, &outcome, &at, met_at, out);
                }
            }
            Input::CannotPlan { why } => {
                if self.record.state == RunState::Running && !self.record.is_planned {
                    let message = format!("could not plan: {why}");
                    self.wait_to_plan(now_ms, why, Cause::TimedOut { message }, out);
                }
            }
            Input::Answered { task, direction, answer } => {
                let is_awaited = self.flight.as_ref().is_some_and(|flight| {
                    flight.task == task as usize && flight.direction == direction
                });
                if is_awaited {
                    self.answered(now_ms, task as usize, direction, answer, out);
                }
            }
            Input::Cancel => self.cancel(now_ms, out),
            Input::Tick => self.tick(now_ms, out),
        }
    }

    /// Turns back for good, if there is a way back. What a run has not begun to do is not done.
    fn cancel(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        if let Some(why) = self.past_return() {
            return out.push(Effect::AnswerCancel(Err(why)));
        }
        let is_turning_back = self.record.state == RunState::Unwinding;
        self.record.cause = Some(Cause::Cancelled);
        if !is_turning_back && !self.record.is_planned && !self.has_made_room() {
            // Every plan before has been undone.
            self.settle(RunState::RolledBack, out);
            out.extend([Effect::AnswerCancel(Ok(())), Effect::End]);
            return;
        }
        self.record.state = RunState::Unwinding;
        self.persist(out);
        out.push(Effect::AnswerCancel(Ok(())));
        if !is_turning_back {
            self.flight = None;
            self.advance(now_ms, out);
        }
    }

    // What comes next.

    fn advance(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        match self.record.state {
            RunState::Accepted | RunState::Running => self.advance_forward(now_ms, out),
            RunState::Unwinding => self.advance_undo(now_ms, out),
            RunState::Succeeded | RunState::RolledBack | RunState::Stuck => {}
        }
    }

    fn advance_forward(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        if !self.record.is_planned {
            out.push(Effect::Plan);
            return;
        }
        let start = self.record.round_start;
        let is_open = |t: &TaskRecord| matches!(t.state, TaskState::Pending | TaskState::Started);
        match self.record.tasks[start..].iter().position(is_open) {
            Some(i) => {
                self.record.tasks[start + i].state = TaskState::Started;
                self.persist(out);
                self.fly(now_ms, start + i, Direction::Do, out);
            }
            None => self.become_ended(RunState::Succeeded, out),
        }
    }

    fn advance_undo(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        // What others have moved for serves the next plan as well; it goes back when there is none.
        let is_over = !self.may_go_on();
        let start = if is_over { 0 } else { self.record.round_start };
        let keeps_running = self.keeps_running();
        let keeps_ended = matches!(self.record.cause, Some(Cause::EndedByCommand { .. }));
        for i in (start..self.record.tasks.len()).rev() {
            let task = &mut self.record.tasks[i];
            if !is_over && is_made_room(task) {
                continue;
            }
            // Who has had it stopped has not asked for its disks to go.
            let is_put = matches!(task.kind, TaskKind::Put { .. });
            if keeps_ended && is_put && task.state == TaskState::Succeeded {
                task.state = TaskState::Undone;
                task.note = Some("it was ended by command, and is left as it is".to_owned());
                continue;
            }
            match task.state {
                TaskState::Pending => task.state = TaskState::Skipped,
                TaskState::Started if !task.kind.has_undo() => task.state = TaskState::Undone,
                TaskState::Succeeded | TaskState::Failed if !task.kind.has_undo() => {}
                TaskState::Started
                | TaskState::Succeeded
                | TaskState::Failed
                | TaskState::Undoing => {
                    if ask_to_undo(task, keeps_running).is_none() {
                        task.state = TaskState::Undone;
                        continue;
                    }
                    task.state = TaskState::Undoing;
                    self.persist(out);
                    self.fly(now_ms, i, Direction::Undo, out);
                    return;
                }
                TaskState::Undone | TaskState::UndoFailed | TaskState::Skipped => {}
            }
        }
        self.undone(now_ms, out);
    }

    /// Everything of this round is undone: another way, or the end.
    fn undone(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let cause = self.record.cause.clone();
        let may_replan = cause.as_ref().is_some_and(may_replan);
        if self.may_go_on() {
            let why = cause.as_ref().map(Cause::to_string);
            self.become_running();
            // The first other try is made at once; after that the world is given time to change.
            let pause_ms = RETRY_MS.0 << self.record.rounds_idle.min(6);
            if self.record.rounds_idle > 1 {
                self.waiting_for = why;
                out.push(Effect::Publish);
                out.push(Effect::WakeAt(now_ms + pause_ms));
            } else {
                self.advance(now_ms, out);
            }
            return;
        }
        if let Some(last) = cause.filter(|_| may_replan) {
            let (rounds, last) = (self.record.rounds, Box::new(last));
            self.record.cause = Some(Cause::GaveUp { rounds, last });
        }
        self.become_ended(RunState::RolledBack, out);
    }

    /// Whether another plan is made once this one is undone.
    fn may_go_on(&self) -> bool {
        let may_replan = self.record.cause.as_ref().is_some_and(may_replan);
        may_replan && self.record.rounds_idle < ROUNDS_IDLE_MAX
    }

    /// Whether others have been moved for this run.
    fn has_made_room(&self) -> bool {
        self.record.tasks.iter().any(is_made_room)
    }

    /// There is no way to what is wanted: nothing of this round is begun, and what others have moved for
    /// goes back.
    fn give_up(&mut self, now_ms: u64, cause: Cause, out: &mut Vec<Effect>) {
        let is_final = !may_replan(&cause) || !self.has_made_room();
        let rounds = self.record.rounds;
        self.record.cause = Some(match is_final {
            true => cause,
            false => Cause::GaveUp { rounds, last: Box::new(cause) },
        });
        if !self.has_made_room() {
            return self.become_ended(RunState::RolledBack, out);
        }
        self.record.state = RunState::Unwinding;
        self.persist(out);
        self.advance(now_ms, out);
    }

    // Planning.

    fn planned(
        &mut self,
        now_ms: u64,
        outcome: &Outcome,
        at: &Circumstances,
        met_at: Option<(HostId, Revision)>,
        out: &mut Vec<Effect>,
    ) {
        if outcome.report.is_passing() {
            let why = outcome.report.to_string();
            let report = outcome.report.clone();
            return self.wait_to_plan(now_ms, why, Cause::Unmet { report }, out);
        }
        if !outcome.report.is_empty() {
            return self.give_up(now_ms, Cause::Unmet { report: outcome.report.clone() }, out);
        }
        let first = self.record.tasks.len();
        let mut tasks = tasks_of(&outcome.plan.steps, &self.record.want, at, first);
        // What is already so by the view is asked of the host itself: a view may be late.
        let coming = outcome.coming.iter().map(|(_, host)| (host.clone(), Revision(0)));
        let waits = met_at.into_iter().filter(|_| tasks.is_empty()).chain(coming);
        let want = &self.record.want;
        let await_it = |(host, revision)| match want {
            Want::Resize { size, .. } => {
                TaskKind::AwaitResized { host, revision, size: size.clone() }
            }
            _ => TaskKind::AwaitRunning { host, revision },
        };
        let waits: Vec<TaskKind> = waits.map(await_it).collect();
        tasks.extend(waits);
        self.record.tasks.extend(tasks.into_iter().map(TaskRecord::new));
        self.record.round_start = first;
        self.record.is_planned = true;
        self.record.rounds += 1;
        self.record.rounds_idle += 1;
        self.record.offers_over = 0;
        self.planless_since_ms = None;
        self.waiting_for = None;
        self.advance(now_ms, out);
    }

    fn wait_to_plan(&mut self, now_ms: u64, why: String, cause: Cause, out: &mut Vec<Effect>) {
        let since_ms = *self.planless_since_ms.get_or_insert(now_ms);
        if now_ms.saturating_sub(since_ms) >= ms(PLAN_PATIENCE) {
            return self.give_up(now_ms, cause, out);
        }
        if self.waiting_for.as_ref() != Some(&why) {
            self.waiting_for = Some(why);
            out.push(Effect::Publish);
        }
        out.push(Effect::WakeAt(now_ms + ms(PLAN_RETRY)));
    }

    // Answers.

    fn answered(
        &mut self,
        now_ms: u64,
        i: usize,
        direction: Direction,
        answer: Answer,
        out: &mut Vec<Effect>,
    ) {
        match (direction, answer) {
            // An engine over the same store has stored its claim there first: then this end is not stored.
            (_, Answer::ClaimLost { seen }) => {
                let why =
                    format!("another engine has this run now (claim {seen}), and goes on with it");
                self.become_stuck(i, why, out);
            }
            (_, Answer::NotYet { note }) => self.not_yet(now_ms, i, note, out),
            (Direction::Do, Answer::Unclear { what, is_ambiguous }) => {
                self.record.tasks[i].is_ambiguous |= is_ambiguous;
                let patience = self.record.tasks[i].kind.patience();
                if self.is_overdue(now_ms, patience) {
                    self.do_timed_out(now_ms, i, what, out);
                } else {
                    self.retry_later(now_ms, i, what, out);
                }
            }
            (Direction::Undo, Answer::Unclear { what, .. }) => {
                if self.is_overdue(now_ms, UNDO_PATIENCE) {
                    self.cannot_undo(now_ms, i, what, out);
                } else {
                    self.retry_later(now_ms, i, what, out);
                }
            }
            (Direction::Do, Answer::Done(result)) => {
                self.flight = None;
                let task = &mut self.record.tasks[i];
                task.state = TaskState::Succeeded;
                task.result = Some(result);
                task.note = None;
                if matches!(task.kind, TaskKind::AwaitEnded { .. }) {
                    self.record.rounds_idle = 0;
                }
                self.advance(now_ms, out);
            }
            (Direction::Do, Answer::OfferOver { why }) => self.offer_over(now_ms, i, why, out),
            (Direction::Do, Answer::Refused(no)) => self.do_refused(now_ms, i, no, out),
            (Direction::Undo, Answer::Done(_)) => {
                self.flight = None;
                let task = &mut self.record.tasks[i];
                task.state = TaskState::Undone;
                self.advance(now_ms, out);
            }
            // Somebody has cancelled it since this was asked: now it goes although it runs.
            (Direction::Undo, Answer::TooLate) if self.goes_although_it_runs(i) => {
                self.redispatch(now_ms, i, out);
            }
            (_, Answer::TooLate) | (Direction::Undo, Answer::OfferOver { .. }) => {
                self.too_late(now_ms, i, out);
            }
            (Direction::Undo, Answer::Refused(no)) => {
                let why = cause_of(no).to_string();
                self.cannot_undo(now_ms, i, why, out);
            }
        }
    }

    fn not_yet(&mut self, now_ms: u64, i: usize, note: String, out: &mut Vec<Effect>) {
        let Some(flight) = &mut self.flight else { return };
        // The peer lives and is at it: patience starts anew with every new note.
        if self.record.tasks[i].note.as_ref() != Some(&note) {
            flight.progress_ms = now_ms;
            self.record.tasks[i].note = Some(note);
            out.push(Effect::Publish);
        } else if self.is_overdue(now_ms, self.record.tasks[i].kind.patience() * 10) {
            return self.do_or_undo_timed_out(now_ms, i, note, out);
        }
        if let Some(flight) = &mut self.flight {
            flight.failures = 0;
        }
        self.redispatch(now_ms, i, out);
    }

    fn do_or_undo_timed_out(&mut self, now_ms: u64, i: usize, what: String, out: &mut Vec<Effect>) {
        match self.flight.as_ref().map(|flight| flight.direction) {
            Some(Direction::Undo) => self.cannot_undo(now_ms, i, what, out),
            Some(Direction::Do) | None => self.do_timed_out(now_ms, i, what, out),
        }
    }

    /// Nobody could say in time whether it is done.
    fn do_timed_out(&mut self, now_ms: u64, i: usize, what: String, out: &mut Vec<Effect>) {
        let task = &self.record.tasks[i];
        let patience = task.kind.patience().as_secs();
        let title = task.kind.title(self.record.job());
        let message = format!("{title}: not within {patience} s; {what}");
        if self.is_past_return() && matches!(task.kind, TaskKind::Delete { .. }) {
            return self.leave_behind(now_ms, i, message, out);
        }
        if self.is_past_return() || (task.is_ambiguous && !self.can_turn_back(i)) {
            return self.become_stuck(i, message, out);
        }
        if let Some(host) = task.kind.host().cloned() {
            let reason = SetbackReason::Unreachable { message: what };
            self.record.setbacks.push(Setback { host, reason, allocation: Resources::ZERO });
        }
        // It stays `started`: that it was refused is more than anybody knows.
        self.record.tasks[i].note = Some(message.clone());
        let is_of_arbiters = matches!(self.record.tasks[i].kind, TaskKind::Grants { .. });
        let cause =
            if is_of_arbiters { Cause::NoQuorum { message } } else { Cause::TimedOut { message } };
        self.become_unwinding(now_ms, cause, out);
    }

    /// What was there is to run again, and somebody has deleted it: then nothing is made anew elsewhere either. Who
    /// wants it to run whatever was there before has it made anew.
    fn deleted_meanwhile(&self, kind: &TaskKind, no: &No) -> Option<Cause> {
        let TaskKind::Put { host, must_exist: true, .. } = kind else { return None };
        let No::Host(Refusal::NoSuchJob { job }, _) = no else { return None };
        if matches!(self.record.want, Want::Run { again: false, .. }) {
            return None;
        }
        let message = format!("{job} was deleted on {} before it could start there", host.short());
        Some(Cause::EndedByCommand { message })
    }

    fn do_refused(&mut self, now_ms: u64, i: usize, no: No, out: &mut Vec<Effect>) {
        let no = match no {
            // That was before: the plan was made on an old picture.
            No::EndedByCommand(words) if !self.has_put() => No::Failed(words),
            no => no,
        };
        let kind = self.record.tasks[i].kind.clone();
        let setback = setback_of(&kind, &no);
        let never_ran = matches!(no, No::NotStarted(_));
        let cause = match self.deleted_meanwhile(&kind, &no) {
            Some(cause) => cause,
            None => cause_of(no),
        };
        let task = &mut self.record.tasks[i];
        task.note = Some(cause.to_string());
        if self.is_past_return() {
            if matches!(kind, TaskKind::Delete { .. }) {
                return self.leave_behind(now_ms, i, cause.to_string(), out);
            }
            return self.become_stuck(i, cause.to_string(), out);
        }
        self.record.tasks[i].state = TaskState::Failed;
        self.record.tasks[i].never_ran = never_ran;
        self.record.setbacks.extend(setback);
        self.become_unwinding(now_ms, cause, out);
    }

    /// The guest runs where it should; the source's old row and disks cannot be deleted now. That
    /// is seen in the task's note, and whoever deletes or moves the job again sees them gone.
    fn leave_behind(&mut self, now_ms: u64, i: usize, why: String, out: &mut Vec<Effect>) {
        let task = &mut self.record.tasks[i];
        task.state = TaskState::Failed;
        task.note = Some(why);
        self.flight = None;
        self.advance(now_ms, out);
    }

    /// A task could not be taken back. What was only moved to make room runs as well where it is now, and what was
    /// stopped for that had agreed to it; with anything else a person must look.
    fn cannot_undo(&mut self, now_ms: u64, i: usize, why: String, out: &mut Vec<Effect>) {
        let task = &mut self.record.tasks[i];
        if !is_for_room(&task.kind) {
            return self.become_stuck(i, why, out);
        }
        task.state = TaskState::UndoFailed;
        task.note = Some(why);
        self.flight = None;
        self.advance(now_ms, out);
    }

    /// The offer ended while grants were gathered: from the offer on, once more.
    fn offer_over(&mut self, now_ms: u64, i: usize, why: String, out: &mut Vec<Effect>) {
        self.record.offers_over += 1;
        let (offer, grants) = match self.record.tasks[i].kind {
            TaskKind::Put { ticket: Some(ticket), .. }
            | TaskKind::Resize { ticket: Some(ticket), .. } => ticket,
            // It took too long, or the arbiters obey a later document than the host did when it made the offer.
            TaskKind::Grants { offer } => (offer, i),
            _ => return self.do_refused(now_ms, i, No::Failed(why), out),
        };
        if self.record.offers_over > OFFERS_OVER_MAX {
            let message = format!("{OFFERS_OVER_MAX} offers ended before they were used; {why}");
            if grants != i || self.is_past_return() {
                return self.do_refused(now_ms, i, No::Failed(message), out);
            }
            self.record.tasks[i].note = Some(message.clone());
            self.record.tasks[i].state = TaskState::Failed;
            return self.become_unwinding(now_ms, Cause::NoQuorum { message }, out);
        }
        for task in [offer, grants, i] {
            let task = &mut self.record.tasks[task];
            task.state = TaskState::Pending;
            task.result = None;
        }
        self.flight = None;
        self.advance(now_ms, out);
    }

    /// It can't be taken back: the guest has switched over, or has come up. So forward it is.
    fn too_late(&mut self, now_ms: u64, i: usize, out: &mut Vec<Effect>) {
        for (n, task) in self.record.tasks.iter_mut().enumerate().skip(i) {
            task.state = if n == i { TaskState::Succeeded } else { TaskState::Pending };
        }
        self.record.state = RunState::Running;
        self.record.cause = None;
        self.flight = None;
        self.advance(now_ms, out);
    }

    fn tick(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        match &self.flight {
            Some(flight) => {
                let (task, retry_at_ms) = (flight.task, flight.retry_at_ms);
                match retry_at_ms {
                    Some(at_ms) if at_ms <= now_ms => self.redispatch(now_ms, task, out),
                    Some(at_ms) => out.push(Effect::WakeAt(at_ms)),
                    None => {}
                }
            }
            None => self.advance(now_ms, out),
        }
    }

    // Dispatching.

    fn fly(&mut self, now_ms: u64, i: usize, direction: Direction, out: &mut Vec<Effect>) {
        let (progress_ms, failures, retry_at_ms) = (now_ms, 0, None);
        let (task, kept_running) = (i, false);
        self.flight =
            Some(Flight { task, direction, progress_ms, failures, retry_at_ms, kept_running });
        self.redispatch(now_ms, i, out);
    }

    fn redispatch(&mut self, now_ms: u64, i: usize, out: &mut Vec<Effect>) {
        let kept_running = self.keeps_running();
        let Some(flight) = &mut self.flight else { return };
        (flight.retry_at_ms, flight.kept_running) = (None, kept_running);
        let direction = flight.direction;
        let job = self.record.job().clone();
        let task = u32::try_from(i).expect("a run has few tasks");
        let key = RunKey { run: self.record.id, task, claim: self.record.claim };
        let ask = match direction {
            Direction::Do => ask_to_do(&self.record.tasks, i, &self.record.want, key),
            Direction::Undo => ask_to_undo(&self.record.tasks[i], kept_running),
        };
        match ask {
            Some(ask) => {
                out.push(Effect::Dispatch(Box::new(Dispatch { key, direction, job, ask })));
            }
            None => {
                let why = "the record lacks the result of an earlier task".to_owned();
                match direction {
                    Direction::Do => self.do_refused(now_ms, i, No::Failed(why), out),
                    Direction::Undo => self.cannot_undo(now_ms, i, why, out),
                }
            }
        }
    }

    fn retry_later(&mut self, now_ms: u64, i: usize, what: String, out: &mut Vec<Effect>) {
        let Some(flight) = &mut self.flight else { return };
        let (first, max) = RETRY_MS;
        let pause_ms = (first << flight.failures.min(16)).min(max);
        flight.failures += 1;
        let at_ms = now_ms + pause_ms;
        flight.retry_at_ms = Some(at_ms);
        if self.record.tasks[i].note.as_ref() != Some(&what) {
            self.record.tasks[i].note = Some(what);
            out.push(Effect::Publish);
        }
        out.push(Effect::WakeAt(at_ms));
    }

    fn is_overdue(&self, now_ms: u64, patience: Duration) -> bool {
        let since_ms = self.flight.as_ref().map_or(now_ms, |flight| flight.progress_ms);
        now_ms.saturating_sub(since_ms) >= ms(patience)
    }

    /// True once a migration of this round has switched over.
    fn is_past_return(&self) -> bool {
        self.record.tasks[self.record.round_start..]
            .iter()
            .any(|t| t.state == TaskState::Succeeded && t.kind.is_switch_over())
    }

    /// What of this round can't be taken back, if anything.
    fn past_return(&self) -> Option<PastReturn> {
        let is_begun =
            |t: &&TaskRecord| matches!(t.state, TaskState::Started | TaskState::Succeeded);
        let ends =
            |t: &TaskRecord| matches!(t.kind, TaskKind::Stop { .. } | TaskKind::Delete { .. });
        let mut begun = self.record.tasks[self.record.round_start..].iter().filter(is_begun);
        match self.is_past_return() {
            true => Some(PastReturn::SwitchedOver),
            false => begun.any(ends).then_some(PastReturn::Ending),
        }
    }

    /// Whether a guest that this run has started is left alone while it turns back. Where only an answer
    /// was missing, one that runs is what is wanted. A guest that moves has its own point of no return.
    fn keeps_running(&self) -> bool {
        let mut round = self.record.tasks[self.record.round_start..].iter();
        let moves = round.any(|task| matches!(task.kind, TaskKind::Send { .. }));
        matches!(self.record.cause, Some(Cause::TimedOut { .. })) && !moves
    }

    /// Whether what was left alone as it had come up is to go after all. What is there for another reason, as somebody
    /// uses it, stays.
    fn goes_although_it_runs(&self, i: usize) -> bool {
        let was_kept = self.flight.as_ref().is_some_and(|flight| flight.kept_running);
        was_kept && self.is_put(i) && !self.keeps_running()
    }

    fn is_put(&self, i: usize) -> bool {
        matches!(self.record.tasks[i].kind, TaskKind::Put { .. })
    }

    /// Whether the job is where it is by this plan.
    fn has_put(&self) -> bool {
        (self.record.round_start..self.record.tasks.len()).any(|i| self.is_put(i))
    }

    /// Whether undoing leaves nothing of this task behind.
    fn can_turn_back(&self, i: usize) -> bool {
        let kind = &self.record.tasks[i].kind;
        let only_waits = !matches!(kind, TaskKind::Stop { .. } | TaskKind::Delete { .. });
        kind.has_undo() || only_waits
    }

    // States.

    fn become_running(&mut self) {
        assert!(
            matches!(self.record.state, RunState::Accepted | RunState::Unwinding),
            "a run that is {:?} cannot begin a plan",
            self.record.state
        );
        self.record.state = RunState::Running;
        self.record.is_planned = false;
        self.record.round_start = self.record.tasks.len();
        self.record.cause = None;
    }

    fn become_unwinding(&mut self, now_ms: u64, cause: Cause, out: &mut Vec<Effect>) {
        assert_eq!(self.record.state, RunState::Running, "only a running run turns back");
        self.record.state = RunState::Unwinding;
        self.record.cause = Some(cause);
        self.flight = None;
        self.advance(now_ms, out);
    }

    fn become_stuck(&mut self, i: usize, why: String, out: &mut Vec<Effect>) {
        let task = u32::try_from(i).expect("a run has few tasks");
        let title = self.record.tasks[i].kind.title(self.record.job());
        let record = &mut self.record.tasks[i];
        if record.state == TaskState::Undoing {
            record.state = TaskState::UndoFailed;
        }
        record.note = Some(why.clone());
        self.record.cause = Some(Cause::Stuck { task, title, why });
        self.become_ended(RunState::Stuck, out);
    }

    fn become_ended(&mut self, state: RunState, out: &mut Vec<Effect>) {
        self.settle(state, out);
        out.push(Effect::End);
    }

    fn settle(&mut self, state: RunState, out: &mut Vec<Effect>) {
        assert!(state.is_ended() && !self.record.state.is_ended(), "a run ends once");
        self.record.state = state;
        self.flight = None;
        self.waiting_for = None;
        self.persist(out);
    }

    fn persist(&self, out: &mut Vec<Effect>) {
        out.push(Effect::Persist(Box::new(self.record.clone())));
        out.push(Effect::Publish);
    }
}

/// Whether the task is about another job, whose room is needed.
fn is_for_room(kind: &TaskKind) -> bool {
    matches!(kind, TaskKind::MakeRoom { .. } | TaskKind::Preempt { .. })
}

/// Whether the task has moved another job. One that was stopped instead is started again before the next plan: it may
/// be for another host.
fn is_made_room(task: &TaskRecord) -> bool {
    matches!(task.kind, TaskKind::MakeRoom { .. }) && task.state == TaskState::Succeeded
}

/// Whether another plan may do better after this.
fn may_replan(cause: &Cause) -> bool {
    match cause {
        Cause::Refused { no } => {
            no.is_about_this_host()
                || matches!(
                    no,
                    Refusal::RevisionConflict { .. }
                        | Refusal::WrongState { .. }
                        | Refusal::HasSnapshots { .. }
                        | Refusal::NoSuchJob { .. }
                        | Refusal::Forbidden { .. }
                )
        }
        Cause::Failed { .. } => true,
        // Another host may answer; only undoing had to be certain first.
        Cause::TimedOut { .. } => true,
        // It is to be so: whoever wants it to run all the same says so again.
        Cause::EndedByCommand { .. } => false,
        Cause::Unmet { .. }
        | Cause::Denied { .. }
        | Cause::NoQuorum { .. }
        | Cause::Cancelled
        | Cause::GaveUp { .. }
        | Cause::Stuck { .. } => false,
    }
}

fn cause_of(no: No) -> Cause {
    match no {
        No::Host(no, _) => Cause::Refused { no },
        No::Arbiters(denials) => Cause::Denied { denials },
        No::Failed(message) | No::NotStarted(message) => Cause::Failed { message },
        No::EndedByCommand(message) => Cause::EndedByCommand { message },
    }
}

/// What to remember of a no, so that the next plan does not run into it again.
fn setback_of(kind: &TaskKind, no: &No) -> Option<Setback> {
    // Of a migration that fails, it is the target that is avoided.
    let host = match kind {
        TaskKind::Send { to, .. } | TaskKind::AwaitSent { to, .. } => to,
        other => other.host()?,
    };
    let host = host.clone();
    match no {
        // Newer knowledge of the job, not the host, is what the next plan needs.
        No::Host(
            Refusal::RevisionConflict { .. }
            | Refusal::WrongState { .. }
            | Refusal::HasSnapshots { .. }
            | Refusal::NoSuchJob { .. },
            _,
        )
        | No::Arbiters(_)
        | No::EndedByCommand(_) => None,
        No::Host(no, allocation) => {
            let reason = SetbackReason::Refused { no: no.clone() };
            Some(Setback { host, reason, allocation: *allocation })
        }
        No::Failed(message) | No::NotStarted(message) => {
            let reason = SetbackReason::Failed { message: message.clone() };
            Some(Setback { host, reason, allocation: Resources::ZERO })
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod world;
