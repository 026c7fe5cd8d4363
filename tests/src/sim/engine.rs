//! A scheduler's process: its replica of the view, its runs and their driver, as in
//! `scheduler/src/engine.rs`; and the conductor that keeps the runs of a group of engines.
//!
//! Engines of one group share a conductor: one may take over what another has begun, whether that
//! one is dead or only slow. Groups know nothing of each other and compete for jobs.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use monitor::core::Source;
use planner::State;
use protocol::api::{NewRun, RunState, TaskState, Want};
use protocol::event::Frame;
use protocol::id::RunId;
use protocol::view::Merge;
use scheduler::judge::met_at;
use scheduler::{
    Answer, Circumstances, Direction, Effect, HeardAt, Input, Knowledge, Picture, Run, RunRecord,
};

use super::executor::{self, Wires};
use super::message::NodeId;
use super::mutant::Mutant;
use super::streams::Follower;
use super::tasks::TaskId;
use super::world::{Event, Tick, World};

/// Where the runs of a group are kept. It works always and is reached by every engine of its group.
#[derive(Debug, Default)]
pub struct Conductor {
    /// Every run ever accepted.
    pub runs: BTreeMap<RunId, RunRecord>,
}

/// An engine.
pub struct EngineProcess {
    /// Its machine.
    pub node: NodeId,
    /// Whose runs it drives.
    pub group: usize,
    number: usize,
    /// What lives in memory.
    pub life: Option<EngineLife>,
}

/// What an engine has in memory.
pub struct EngineLife {
    /// Its replica of the view.
    pub picture: Rc<RefCell<Picture>>,
    knowledge: Rc<RefCell<Knowledge>>,
    followers: Vec<Follower>,
    turn: usize,
    /// The runs it drives.
    pub drivers: BTreeMap<RunId, Driver>,
    flights: u64,
}

/// One run on its way.
pub struct Driver {
    /// The machine.
    pub run: Run,
    inputs: Vec<Input>,
    effects: VecDeque<Effect>,
    storing: Option<Box<RunRecord>>,
    flight: Option<Flight>,
    wake_at_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Flight {
    number: u64,
    task: TaskId,
    of: u32,
    direction: Direction,
}

impl EngineProcess {
    /// An engine that has never run.
    #[must_use]
    pub fn new(node: NodeId, group: usize, number: usize) -> Self {
        Self { node, group, number, life: None }
    }

    pub(super) fn die(&mut self) {
        self.life = None;
    }

    pub(super) fn followers(&mut self) -> &mut [Follower] {
        match &mut self.life {
            // One monitor at a time, the next when it fails.
            Some(life) => {
                let turn = life.turn % life.followers.len().max(1);
                life.followers.get_mut(turn..=turn).unwrap_or_default()
            }
            None => &mut [],
        }
    }
}

impl World {
    pub(super) fn start_engine(&mut self, n: usize) {
        let node = self.engines[n].node;
        let monitors = self.monitors.iter().map(|m| m.node);
        let followers =
            monitors.map(|m| Follower::new(m, Source::Monitor(format!("sim://{}", m.0))));
        self.engines[n].life = Some(EngineLife {
            picture: Rc::default(),
            knowledge: Rc::default(),
            followers: followers.collect(),
            turn: n,
            drivers: BTreeMap::new(),
            flights: 0,
        });
        let life = self.nodes[node.0].life;
        self.after(1_000, Event::Tick { node, life, tick: Tick::Followers });
        self.take_over(n);
    }

    /// The engine claims every run of its group that has not ended.
    pub(super) fn take_over(&mut self, n: usize) {
        let group = self.engines[n].group;
        let open = self.conductors[group].runs.values_mut().filter(|r| !r.state.is_ended());
        let claimed: Vec<RunRecord> = open
            .map(|record| {
                record.claim += 1;
                record.clone()
            })
            .collect();
        for record in claimed {
            self.coverage.hit("run.taken-over");
            self.drive(n, record);
        }
    }

    /// Somebody wants something of a group; false when it was not accepted.
    pub fn submit(&mut self, n: usize, asked: NewRun) -> bool {
        let group = self.engines[n].group;
        let node = self.engines[n].node;
        if self.engines[n].life.is_none() {
            return false;
        }
        let accepted_ms = self.now_at(node).wall_ms;
        let record = RunRecord::new(asked, accepted_ms);
        let runs = &mut self.conductors[group].runs;
        let is_rival = |r: &RunRecord| !r.state.is_ended() && r.job() == record.job();
        if runs.contains_key(&record.id) || runs.values().any(is_rival) {
            return false;
        }
        runs.insert(record.id, record.clone());
        self.coverage.hit("run.accepted");
        self.drive(n, record);
        true
    }

    fn drive(&mut self, n: usize, record: RunRecord) {
        let id = record.id;
        let driver = Driver {
            run: Run::new(record),
            inputs: vec![Input::Begin],
            effects: VecDeque::new(),
            storing: None,
            flight: None,
            wake_at_ms: None,
        };
        self.drop_driver(n, id);
        if let Some(life) = self.engines[n].life.as_mut() {
            life.drivers.insert(id, driver);
        }
        self.go(n, id);
    }

    /// Somebody wants one of an engine's runs no more.
    pub(super) fn cancel_a_run(&mut self, n: usize) {
        let Some(life) = self.engines[n].life.as_mut() else { return };
        let open: Vec<RunId> = life.drivers.keys().copied().collect();
        let Some(id) = self.chance.pick(&open).copied() else { return };
        if let Some(driver) = self.driver(n, id) {
            driver.inputs.push(Input::Cancel);
            self.go(n, id);
        }
    }

    fn drop_driver(&mut self, n: usize, id: RunId) {
        let node = self.engines[n].node;
        let Some(life) = self.engines[n].life.as_mut() else { return };
        life.knowledge.borrow_mut().release(id);
        if let Some(flight) = life.drivers.remove(&id).and_then(|driver| driver.flight) {
            self.cancel(node, flight.task);
        }
    }

    fn driver(&mut self, n: usize, id: RunId) -> Option<&mut Driver> {
        self.engines[n].life.as_mut()?.drivers.get_mut(&id)
    }

    /// Performs effects in order, feeds inputs, and stops where something has to be waited for.
    fn go(&mut self, n: usize, id: RunId) {
        let node = self.engines[n].node;
        let now_ms = self.now_at(node).mono_ms;
        loop {
            let Some(driver) = self.driver(n, id) else { return };
            if driver.storing.is_some() {
                return;
            }
            if let Some(effect) = driver.effects.pop_front() {
                if !self.perform_for_run(n, id, effect) {
                    return;
                }
                continue;
            }
            let Some(input) = driver.inputs.pop() else { return };
            let mut out = Vec::new();
            driver.run.handle(now_ms, input, &mut out);
            driver.effects = out.into();
        }
    }

    /// False when the run is no longer driven here.
    fn perform_for_run(&mut self, n: usize, id: RunId, effect: Effect) -> bool {
        let node = self.engines[n].node;
        let life = self.nodes[node.0].life;
        match effect {
            Effect::Persist(record) => {
                if let Some(driver) = self.driver(n, id) {
                    driver.storing = Some(record);
                }
                let delay_us = self.chance.between(500, 4_000);
                self.after(delay_us, Event::Stored { node, life, run: id });
            }
            Effect::Dispatch(dispatch) => self.dispatch(n, id, *dispatch),
            Effect::Plan => {
                let planned = self.plan(n, id);
                if let Some(driver) = self.driver(n, id) {
                    driver.inputs.push(planned);
                }
            }
            Effect::WakeAt(at_ms) => {
                if let Some(driver) = self.driver(n, id) {
                    driver.wake_at_ms = Some(at_ms);
                }
                let pause_ms = at_ms.saturating_sub(self.now_at(node).mono_ms);
                self.after_local_ms(node, pause_ms, Event::WakeRun { node, life, run: id, at_ms });
            }
            Effect::AnswerCancel(answer) => self.coverage.hit(match answer {
                Ok(()) => "run.cancelled",
                Err(_) => "run.past-return",
            }),
            Effect::Publish => {}
            Effect::End => {
                self.drop_driver(n, id);
                return false;
            }
        }
        true
    }

    fn dispatch(&mut self, n: usize, id: RunId, dispatch: scheduler::Dispatch) {
        let node = self.engines[n].node;
        let (hosts, arbiters) = (Rc::clone(&self.host_nodes), Rc::clone(&self.arbiter_nodes));
        let trust = self.trust_of_host(n % self.hosts.len());
        let Some(life) = self.engines[n].life.as_mut() else { return };
        life.flights += 1;
        let number = life.flights;
        let (picture, knowledge) = (Rc::clone(&life.picture), Rc::clone(&life.knowledge));
        let (of, direction) = (dispatch.key.task, dispatch.direction);
        let old = life.drivers.get_mut(&id).and_then(|driver| driver.flight.take());
        if let Some(old) = old {
            self.cancel(node, old.task);
        }
        let task = self.add_task(node, move |ctx| {
            let wires = Wires { ctx, picture, knowledge, trust, hosts, arbiters };
            Box::pin(executor::perform(wires, id, number, dispatch))
        });
        if let Some(driver) = self.driver(n, id) {
            driver.flight = Some(Flight { number, task, of, direction });
        }
        // Its answer may come at once.
        self.poll(node, task);
    }

    /// A dispatched task has its answer.
    pub(super) fn run_answered(&mut self, node: NodeId, id: RunId, flight: u64, answer: Answer) {
        let Some(n) = self.engines.iter().position(|engine| engine.node == node) else { return };
        self.coverage.hit(answer_name(&answer));
        let Some(driver) = self.driver(n, id) else { return };
        let Some(landed) = driver.flight.filter(|f| f.number == flight) else { return };
        driver.flight = None;
        driver.wake_at_ms = None;
        let (task, direction) = (landed.of, landed.direction);
        driver.inputs.push(Input::Answered { task, direction, answer });
        self.go(n, id);
    }

    pub(super) fn wake_run(&mut self, node: NodeId, id: RunId, at_ms: u64) {
        let Some(n) = self.engines.iter().position(|engine| engine.node == node) else { return };
        let Some(driver) = self.driver(n, id) else { return };
        if driver.wake_at_ms == Some(at_ms) {
            driver.wake_at_ms = None;
            driver.inputs.push(Input::Tick);
            self.go(n, id);
        }
    }

    /// The conductor has the record, or has one of a newer claim.
    pub(super) fn stored(&mut self, node: NodeId, id: RunId) {
        let Some(n) = self.engines.iter().position(|engine| engine.node == node) else { return };
        let group = self.engines[n].group;
        let Some(driver) = self.driver(n, id) else { return };
        let Some(record) = driver.storing.take() else { return };
        let seen = self.conductors[group].runs.get(&id).map_or(0, |known| known.claim);
        if seen > record.claim && self.mutant != Some(Mutant::ConductorIgnoresClaims) {
            self.coverage.hit("run.claim-lost");
            self.drop_driver(n, id);
            return;
        }
        self.watch_saved(&record, seen);
        self.conductors[group].runs.insert(id, *record);
        self.go(n, id);
    }

    fn plan(&mut self, n: usize, id: RunId) -> Input {
        let node = self.engines[n].node;
        let now_ms = self.now_at(node).mono_ms;
        let seed = self.engines[n].number as u64;
        let Some(life) = self.engines[n].life.as_ref() else {
            return Input::CannotPlan { why: "no engine".to_owned() };
        };
        let picture = life.picture.borrow();
        let Some(driver) = life.drivers.get(&id) else {
            return Input::CannotPlan { why: "no run".to_owned() };
        };
        if !picture.is_current {
            return Input::CannotPlan { why: format!("no current view ({})", picture.source) };
        }
        let record = driver.run.record();
        let mut knowledge = life.knowledge.borrow_mut();
        let setbacks = record.setbacks.clone();
        let input = knowledge.plan_input(now_ms, &picture, id, &record.want, setbacks, seed);
        let outcome = match &record.want {
            Want::Run { job, again: true, .. } => planner::plan_again(&input, job),
            _ => planner::plan(&input),
        };
        let state = State::new(&input);
        let reservations =
            outcome.plan.steps.iter().filter_map(|step| step.reservation(&state)).collect();
        knowledge.reserve(id, reservations);
        let at = Circumstances::of(&state, record.job(), true);
        let met_at = met_at(&input, &outcome, &state);
        Input::Planned { outcome: Box::new(outcome), at, met_at }
    }

    // The view.

    pub(super) fn engine_hears(&mut self, n: usize, conn: u64, frame: Frame) {
        let node = self.engines[n].node;
        let now_ms = self.now_at(node).mono_ms;
        let Some(life) = self.engines[n].life.as_mut() else { return };
        let picture = Rc::clone(&life.picture);
        let host = match frame {
            Frame::Inventory(inventory) => {
                let host = inventory.host.id.clone();
                picture.borrow_mut().view.merge_inventory(*inventory);
                Some(host)
            }
            Frame::Event(event) => {
                let merged = picture.borrow_mut().view.merge_event(&event);
                if matches!(merged, Merge::Gap { .. }) {
                    self.coverage.hit("engine.gap");
                    return self.give_up(node, conn, "gap");
                }
                Some(event.host)
            }
            Frame::Current => {
                picture.borrow_mut().is_current = true;
                None
            }
            Frame::Freshness { host, freshness, age_ms } => {
                let heard_ms = now_ms.saturating_sub(age_ms);
                picture.borrow_mut().heard.insert(host, HeardAt { freshness, heard_ms });
                None
            }
        };
        if let Some(host) = host {
            self.view_never_goes_back(node, &host);
        }
    }

    pub(super) fn engine_lost_view(&mut self, n: usize, why: &str) {
        let Some(life) = self.engines[n].life.as_mut() else { return };
        life.turn += 1;
        let mut picture = life.picture.borrow_mut();
        picture.is_current = false;
        why.clone_into(&mut picture.source);
    }
}

/// For coverage.
fn answer_name(answer: &Answer) -> &'static str {
    match answer {
        Answer::Done(_) => "answer.done",
        Answer::Refused(_) => "answer.refused",
        Answer::Unclear { is_ambiguous: true, .. } => "answer.ambiguous",
        Answer::Unclear { .. } => "answer.unclear",
        Answer::NotYet { .. } => "answer.not-yet",
        Answer::OfferOver { .. } => "answer.offer-over",
        Answer::TooLate => "answer.too-late",
        Answer::ClaimLost { .. } => "answer.claim-lost",
    }
}

/// For coverage.
#[must_use]
pub fn run_state_name(state: RunState) -> &'static str {
    match state {
        RunState::Accepted => "run.accepted",
        RunState::Running => "run.running",
        RunState::Unwinding => "run.unwinding",
        RunState::Succeeded => "run.succeeded",
        RunState::RolledBack => "run.rolled-back",
        RunState::Stuck => "run.stuck",
    }
}

/// For coverage.
#[must_use]
pub fn task_state_name(state: TaskState) -> &'static str {
    match state {
        TaskState::Pending => "task.pending",
        TaskState::Started => "task.started",
        TaskState::Succeeded => "task.succeeded",
        TaskState::Failed => "task.failed",
        TaskState::Undoing => "task.undoing",
        TaskState::Undone => "task.undone",
        TaskState::UndoFailed => "task.undo-failed",
        TaskState::Skipped => "task.skipped",
    }
}

/// For coverage.
#[must_use]
pub fn want_name(want: &Want) -> &'static str {
    match want {
        Want::Run { on: None, .. } => "want.run",
        Want::Run { on: Some(_), .. } => "want.run-on",
        Want::Spend { .. } => "want.spend",
        Want::Stop { .. } => "want.stop",
        Want::Migrate { .. } => "want.migrate",
        Want::Resize { .. } => "want.resize",
        Want::Delete { .. } => "want.delete",
        Want::FailOver { .. } => "want.fail-over",
        Want::Sleep { .. } => "want.sleep",
        Want::Wake { .. } => "want.wake",
    }
}
