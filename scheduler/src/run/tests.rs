//! Scripts of single runs, and a sweep that kills the engine between any two effects of each.

use planner::State;
use proptest::prelude::*;
use protocol::api::{NewRun, Want};
use protocol::host::ImageFacts;
use protocol::id::{ImageName, RunId};
use protocol::image::ImageFormat;
use protocol::job::{JobSpec, JobState, Reason};
use protocol::signed::Digest;
use protocol::vm::{DiskSpec, Priority, Rank, SizeChange, VmSpec};
use uuid::Uuid;

use super::world::{World, job_id, spec};
use super::*;
use crate::task::Ask;

/// What may go wrong on the way to a host and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Net {
    Good,
    RequestLost,
    ReplyLost,
}

/// One run in one world, with a journal that outlives the engine.
struct Bench {
    world: World,
    journal: RunRecord,
    run: Run,
    now_ms: u64,
    effects_done: usize,
    crash_at: Option<usize>,
    crash_after_effect: bool,
    net: Vec<Net>,
    /// Requests that a dead engine has sent and that have not arrived yet.
    delayed: Vec<Dispatch>,
    has_crashed: bool,
    leaves_a_row: bool,
    /// Somebody wants it no more once so many effects are done.
    cancel_at: Option<usize>,
    /// What came of that.
    cancelled: Option<Result<(), PastReturn>>,
    /// Somebody deletes the job in the moment before it is put.
    is_deleted_at_put: bool,
}

/// More than any run of these tests needs; a run that takes longer never ends.
const EFFECTS_MAX: usize = 4000;

impl Bench {
    fn new(world: World, want: Want) -> Self {
        let id = RunId(Uuid::from_u128(7));
        let journal = RunRecord::new(NewRun::new(id, want), 0);
        Self {
            run: Run::new(journal.clone()),
            world,
            journal,
            now_ms: 0,
            effects_done: 0,
            crash_at: None,
            crash_after_effect: false,
            net: vec![],
            delayed: vec![],
            has_crashed: false,
            leaves_a_row: false,
            cancel_at: None,
            cancelled: None,
            is_deleted_at_put: false,
        }
    }

    /// Runs to the end and checks what must hold.
    fn finish(mut self) -> Self {
        let mut inputs = vec![Input::Begin];
        while let Some(mut input) = inputs.pop() {
            let mut late = None;
            if self.cancel_at.is_some_and(|at| at <= self.effects_done) {
                self.cancel_at = None;
                // What is under way is answered all the same.
                late = Some(std::mem::replace(&mut input, Input::Cancel));
            }
            let mut effects = Vec::new();
            self.run.handle(self.now_ms, input, &mut effects);
            let mut next = None;
            for effect in effects {
                self.effects_done += 1;
                assert!(self.effects_done < EFFECTS_MAX, "never ends: {:#?}", self.run.record());
                if self.crash_at == Some(self.effects_done) {
                    if self.crash_after_effect {
                        self.half_perform(effect);
                    }
                    self.crash();
                    next = Some(Input::Begin);
                    break;
                }
                if let Some(input) = self.perform(effect) {
                    next = Some(input);
                }
            }
            self.world.settle();
            self.now_ms += 50;
            inputs.extend(next);
            inputs.extend(late);
        }
        self.check();
        self
    }

    fn perform(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Persist(record) => {
                self.journal = *record;
                None
            }
            Effect::Dispatch(dispatch) => {
                let answer = self.answer(&dispatch);
                let (task, direction) = (dispatch.key.task, dispatch.direction);
                // Late requests of a dead engine arrive behind it.
                for late in std::mem::take(&mut self.delayed) {
                    self.world.perform(&late);
                }
                Some(Input::Answered { task, direction, answer })
            }
            Effect::Plan => Some(self.plan()),
            Effect::WakeAt(at_ms) => {
                self.now_ms = self.now_ms.max(at_ms);
                Some(Input::Tick)
            }
            Effect::AnswerCancel(answer) => {
                self.cancelled = Some(answer);
                None
            }
            Effect::Publish => None,
            Effect::End => None,
        }
    }

    fn answer(&mut self, dispatch: &Dispatch) -> Answer {
        let lost = |is_ambiguous| Answer::Unclear { what: "lost".to_owned(), is_ambiguous };
        if let (Ask::Put(host, _), true) = (&dispatch.ask, self.is_deleted_at_put) {
            self.world.hosts.get_mut(host).unwrap().jobs.remove(&job_id());
            self.is_deleted_at_put = false;
        }
        match self.net.pop().unwrap_or(Net::Good) {
            // An offer that cannot be taken back ends by itself.
            _ if matches!(dispatch.ask, Ask::VoidOffer(..)) => self.world.perform(dispatch),
            Net::Good => self.world.perform(dispatch),
            Net::RequestLost => lost(false),
            Net::ReplyLost => {
                self.world.perform(dispatch);
                lost(true)
            }
        }
    }

    fn half_perform(&mut self, effect: Effect) {
        match effect {
            Effect::Persist(record) => self.journal = *record,
            Effect::Dispatch(dispatch) => {
                self.world.perform(&dispatch);
            }
            _ => {}
        }
    }

    /// The engine dies; another one goes on from the journal, with a higher claim.
    fn crash(&mut self) {
        self.journal.claim += 1;
        self.run = Run::new(self.journal.clone());
        self.has_crashed = true;
    }

    fn plan(&self) -> Input {
        let record = self.run.record();
        let mut input = self.world.plan_input(&record.want, record.setbacks.clone());
        input.limits.may_make_room = record.make_room;
        let outcome = match &record.want {
            Want::Run { job, again: true, .. } => planner::plan_again(&input, job),
            _ => planner::plan(&input),
        };
        let rows = State::new(&input).placements(record.job());
        let running = rows.iter().find(|(_, placed)| placed.state == JobState::Running);
        let at = Circumstances {
            has_trust: true,
            spec: running.map(|(_, placed)| placed.spec.clone()),
            hold: running.and_then(|(_, placed)| placed.hold),
            is_by_budget: false,
            revision: running.map(|(_, placed)| placed.revision),
            hosts_with_rows: rows.keys().cloned().collect(),
        };
        let is_done = outcome.plan.steps.is_empty() && outcome.coming.is_empty();
        let met = running.filter(|_| is_done && outcome.report.is_empty());
        let met_at = met.map(|(host, placed)| (host.clone(), placed.revision));
        Input::Planned { outcome: Box::new(outcome), at, met_at }
    }

    fn check(&mut self) {
        let record = self.run.record().clone();
        assert!(record.state.is_ended(), "ended without an end: {record:#?}");
        assert_eq!(record, self.journal, "what was told is what is stored");
        assert!(!self.world.ran_twice, "at most one running instance: {record:#?}");
        assert_every_task_is_done_undone_or_owned(&record);
        if !self.leaves_a_row {
            assert_nothing_is_left_behind(&record, &self.world);
        }
        let mut effects = Vec::new();
        let mut again = Run::new(self.journal.clone());
        again.handle(self.now_ms, Input::Begin, &mut effects);
        assert_eq!(effects, vec![], "an ended run never begins again");
    }

    fn state(&self) -> RunState {
        self.journal.state
    }
}

fn assert_every_task_is_done_undone_or_owned(record: &RunRecord) {
    for task in &record.tasks {
        let is_settled = match task.state {
            TaskState::Succeeded | TaskState::Undone | TaskState::Skipped => true,
            TaskState::Failed => !task.kind.has_undo() || record.state != RunState::RolledBack,
            TaskState::Pending | TaskState::Started | TaskState::Undoing => {
                record.state == RunState::Stuck
            }
            TaskState::UndoFailed => {
                record.state == RunState::Stuck || matches!(task.kind, TaskKind::MakeRoom { .. })
            }
        };
        assert!(is_settled, "{:?} is {:?} in {record:#?}", task.kind, task.state);
    }
}

fn assert_nothing_is_left_behind(record: &RunRecord, world: &World) {
    let rows: Vec<_> =
        world.hosts.iter().filter_map(|(h, fake)| Some((h, fake.jobs.get(&job_id())?))).collect();
    let running = rows.iter().filter(|(_, job)| job.state == JobState::Running).count();
    let ours = |job: &protocol::job::Job| {
        job.run.is_some_and(|run| run.run == record.id && job.revision.0 > 0)
    };
    match (&record.want, record.state) {
        (Want::Run { .. } | Want::Migrate { .. }, RunState::Succeeded) => {
            assert_eq!(running, 1, "{rows:#?}");
            assert_eq!(rows.len(), 1, "one row is left: {rows:#?}");
        }
        (Want::Run { .. }, RunState::RolledBack) => {
            let left = rows.iter().filter(|(_, job)| ours(job) && !job.state.is_ended());
            assert_eq!(left.count(), 0, "{rows:#?}\n{record:#?}");
        }
        (Want::Migrate { .. }, RunState::RolledBack) => {
            assert_eq!((running, rows.len()), (1, 1), "{rows:#?}\n{record:#?}");
        }
        (Want::Resize { size, .. }, ended) => {
            let vcpus = if ended == RunState::Succeeded { size.vcpus } else { Some(2) };
            let has = rows.iter().map(|(_, job)| Some(job.spec.resources().vcpus));
            assert_eq!(has.collect::<Vec<_>>(), [vcpus], "{rows:#?}\n{record:#?}");
        }
        (Want::Stop { .. }, RunState::Succeeded) => assert_eq!(running, 0),
        (Want::Delete { .. }, RunState::Succeeded) => assert_eq!(rows.len(), 0),
        _ => {}
    }
}

// Scenarios.

#[derive(Debug, Clone, Copy)]
enum Scenario {
    Start,
    StartRefusedOnce,
    StartFailsOnce,
    StartRefusedEverywhere,
    StartFailsEverywhere,
    StartAgain,
    AlreadyRuns,
    Migrate,
    MigrateFails,
    MigrateRefused,
    Grow,
    GrowRefused,
    GrowFails,
    Shrink,
    HasSizeAlready,
    Stop,
    DeleteRunning,
}

const SCENARIOS: [(Scenario, RunState); 17] = [
    (Scenario::Start, RunState::Succeeded),
    (Scenario::StartRefusedOnce, RunState::Succeeded),
    (Scenario::StartFailsOnce, RunState::Succeeded),
    (Scenario::StartRefusedEverywhere, RunState::RolledBack),
    (Scenario::StartFailsEverywhere, RunState::RolledBack),
    (Scenario::StartAgain, RunState::Succeeded),
    (Scenario::AlreadyRuns, RunState::Succeeded),
    (Scenario::Migrate, RunState::Succeeded),
    (Scenario::MigrateFails, RunState::RolledBack),
    (Scenario::MigrateRefused, RunState::RolledBack),
    (Scenario::Grow, RunState::Succeeded),
    (Scenario::GrowRefused, RunState::RolledBack),
    (Scenario::GrowFails, RunState::RolledBack),
    (Scenario::Shrink, RunState::Succeeded),
    (Scenario::HasSizeAlready, RunState::Succeeded),
    (Scenario::Stop, RunState::Succeeded),
    (Scenario::DeleteRunning, RunState::Succeeded),
];

/// A job of two CPUs that runs there, and is to have so many.
fn resize(world: &mut World, host: &HostId, vcpus: u32) -> Want {
    world.place(host, JobState::Running);
    let job = world.hosts.get_mut(host).unwrap().jobs.get_mut(&job_id()).unwrap();
    let change = |vcpus| SizeChange { vcpus: Some(vcpus), ..SizeChange::default() };
    job.spec = job.spec.with_size(|size| size.changed(&change(2))).unwrap().into();
    Want::Resize { job: job_id(), size: change(vcpus) }
}

fn bench(scenario: Scenario) -> Bench {
    let mut world = World::new(3);
    let [h0, h1, _] = <[HostId; 3]>::try_from(world.by_preference()).unwrap();
    let job = job_id();
    let start = Want::Run { job: job.clone(), spec: spec(), on: None, again: false };
    let migrate = Want::migrate(job.clone(), h1.clone());
    let want = match scenario {
        Scenario::Start => start,
        Scenario::StartRefusedOnce => {
            world.hosts.get_mut(&h0).unwrap().faults.refuses = true;
            start
        }
        Scenario::StartFailsOnce => {
            world.hosts.get_mut(&h0).unwrap().faults.fails_starts = true;
            start
        }
        Scenario::StartRefusedEverywhere => {
            world.hosts.values_mut().for_each(|fake| fake.faults.refuses = true);
            start
        }
        Scenario::StartFailsEverywhere => {
            world.hosts.values_mut().for_each(|fake| fake.faults.fails_starts = true);
            start
        }
        Scenario::StartAgain => {
            world.place(&h1, JobState::Stopped);
            Want::Run { job, spec: spec(), on: Some(h1), again: true }
        }
        Scenario::AlreadyRuns => {
            world.place(&h1, JobState::Running);
            start
        }
        Scenario::Migrate => {
            world.place(&h0, JobState::Running);
            migrate
        }
        Scenario::MigrateFails => {
            world.place(&h0, JobState::Running);
            world.hosts.get_mut(&h0).unwrap().faults.fails_sends = true;
            migrate
        }
        Scenario::MigrateRefused => {
            world.place(&h0, JobState::Running);
            world.hosts.get_mut(&h1).unwrap().faults.refuses = true;
            migrate
        }
        Scenario::Grow => resize(&mut world, &h0, 4),
        Scenario::Shrink => resize(&mut world, &h0, 1),
        Scenario::HasSizeAlready => resize(&mut world, &h0, 2),
        Scenario::GrowRefused => {
            world.hosts.get_mut(&h0).unwrap().faults.refuses = true;
            resize(&mut world, &h0, 4)
        }
        Scenario::GrowFails => {
            world.hosts.get_mut(&h0).unwrap().faults.fails_resizes = true;
            resize(&mut world, &h0, 4)
        }
        Scenario::Stop => {
            world.place(&h0, JobState::Running);
            Want::stop(job, 0)
        }
        Scenario::DeleteRunning => {
            world.place(&h0, JobState::Running);
            Want::Delete { job }
        }
    };
    Bench::new(world, want)
}

#[test]
fn each_scenario_ends_as_it_should() {
    for (scenario, expected) in SCENARIOS {
        let bench = bench(scenario).finish();
        assert_eq!(bench.state(), expected, "{scenario:?}: {:#?}", bench.journal);
    }
}

#[test]
fn killed_before_or_after_any_effect_a_run_still_ends_as_it_should() {
    let mut points = 0;
    for (scenario, expected) in SCENARIOS {
        let total = bench(scenario).finish().effects_done;
        for at in 1..=total {
            for after in [false, true] {
                let mut bench = bench(scenario);
                bench.crash_at = Some(at);
                bench.crash_after_effect = after;
                let bench = bench.finish();
                points += 1;
                assert!(bench.has_crashed || at == total, "{scenario:?} at {at}");
                assert_eq!(bench.state(), expected, "{scenario:?} at {at}, after: {after}");
            }
        }
    }
    assert!(points > 300, "only {points} crash points were tried");
}

#[test]
fn cancelled_after_any_effect_a_run_turns_back_or_says_why_it_can_not() {
    for (scenario, expected) in SCENARIOS {
        for at in 0.. {
            let mut bench = bench(scenario);
            bench.cancel_at = Some(at);
            let bench = bench.finish();
            let (state, reason) = (bench.state(), bench.run.status().reason.unwrap_or_default());
            let case = format!("{scenario:?} cancelled after {at} effects: {state:?}, {reason}");
            match bench.cancelled {
                // It is too late for that in the middle of a move or a growth, which then go on.
                Some(Ok(())) if state == RunState::Succeeded => {
                    assert!(matches!(scenario, Scenario::Migrate | Scenario::Shrink), "{case}");
                }
                Some(Ok(())) => {
                    assert_eq!(state, RunState::RolledBack, "{case}");
                    assert!(reason.starts_with("cancelled: "), "{case}");
                }
                Some(Err(_)) => assert_eq!(state, expected, "{case}"),
                None => break,
            }
        }
    }
}

#[test]
fn a_stop_that_has_been_asked_for_is_not_cancelled_and_a_start_that_waits_is() {
    let mut stop = bench(Scenario::Stop);
    stop.cancel_at = Some(4);
    let stop = stop.finish();
    assert_eq!(
        (stop.cancelled, stop.state()),
        (Some(Err(PastReturn::Ending)), RunState::Succeeded)
    );
    let mut start = bench(Scenario::StartRefusedEverywhere);
    start.cancel_at = Some(1);
    let start = start.finish();
    assert_eq!((start.cancelled, start.state()), (Some(Ok(())), RunState::RolledBack));
}

#[test]
fn a_request_of_a_dead_engine_that_arrives_late_starts_nothing_twice() {
    let total = bench(Scenario::StartFailsOnce).finish().effects_done;
    for at in 1..=total {
        let mut bench = bench(Scenario::StartFailsOnce);
        bench.crash_at = Some(at);
        // The put that the dead engine sends is delivered only after the next one's first answer.
        let put = last_put_before(Scenario::StartFailsOnce, at);
        bench.delayed.extend(put);
        let bench = bench.finish();
        let starts = bench.world.starts.len();
        assert!(starts <= 2, "at {at}: {:?}", bench.world.starts);
    }
}

/// The last put that an engine dispatches before effect `at`.
fn last_put_before(scenario: Scenario, at: usize) -> Option<Dispatch> {
    let mut bench = bench(scenario);
    let (mut inputs, mut last) = (vec![Input::Begin], None);
    while let Some(input) = inputs.pop() {
        let mut effects = Vec::new();
        bench.run.handle(bench.now_ms, input, &mut effects);
        for effect in effects {
            bench.effects_done += 1;
            if bench.effects_done >= at {
                return last;
            }
            if let Effect::Dispatch(dispatch) = &effect
                && matches!(dispatch.ask, Ask::Put(..))
            {
                last = Some(Dispatch::clone(dispatch));
            }
            inputs.extend(bench.perform(effect));
        }
        bench.world.settle();
        bench.now_ms += 50;
    }
    last
}

#[test]
fn a_refusal_is_remembered_and_the_next_host_is_asked() {
    let bench = bench(Scenario::StartRefusedOnce).finish();
    assert_eq!(bench.journal.rounds, 2);
    assert_eq!(bench.journal.setbacks.len(), 1);
    let second = &bench.world.by_preference()[1];
    assert_eq!(bench.world.starts, vec![(second.clone(), Revision(1))]);
}

#[test]
fn the_end_of_a_hopeless_run_says_why_per_host() {
    let bench = bench(Scenario::StartRefusedEverywhere).finish();
    let reason = bench.journal.status().reason.unwrap();
    assert!(reason.starts_with("unmet: web-1: no host can take it"), "{reason}");
    assert_eq!(reason.matches("has refused: image x").count(), 3, "{reason}");
}

#[test]
fn a_job_started_again_keeps_its_row_when_the_start_is_undone() {
    let mut bench = bench(Scenario::StartAgain);
    let host = bench.world.by_preference()[1].clone();
    bench.world.hosts.get_mut(&host).unwrap().faults.fails_starts = true;
    let bench = bench.finish();
    assert_eq!(bench.state(), RunState::RolledBack);
    let row = &bench.world.hosts[&host].jobs[&job_id()];
    assert_eq!((row.state, row.revision), (JobState::Failed, Revision(2)), "its disks are there");
}

#[test]
fn what_is_deleted_while_it_is_started_again_is_not_made_anew() {
    let mut again = bench(Scenario::StartAgain);
    again.is_deleted_at_put = true;
    let again = again.finish();
    assert_eq!(again.state(), RunState::RolledBack);
    assert!(again.world.hosts.values().all(|fake| fake.jobs.is_empty()));
    assert_eq!(again.world.starts, []);
    let why = again.run.status().reason.unwrap();
    assert!(why.contains("was deleted on"), "{why}");

    // Who asks for it to run, there before or not, has it.
    let world = bench(Scenario::StartAgain).world;
    let host = world.by_preference()[1].clone();
    let want = Want::Run { job: job_id(), spec: spec(), on: Some(host), again: false };
    let mut anew = Bench::new(world, want);
    anew.is_deleted_at_put = true;
    let anew = anew.finish();
    assert_eq!((anew.state(), anew.world.starts.len()), (RunState::Succeeded, 1));
}

/// A budget by which somebody has started a VM in the meantime.
#[test]
fn what_is_used_when_its_run_is_cancelled_stays_and_the_run_goes_on() {
    let mut went_on = 0;
    for at in 1..30 {
        let mut bench = bench(Scenario::StartFailsOnce);
        for fake in bench.world.hosts.values_mut() {
            (fake.faults.fails_starts, fake.faults.is_in_use) = (false, true);
        }
        bench.cancel_at = Some(at);
        let bench = bench.finish();
        let alive = bench.world.hosts.values().filter(|fake| !fake.jobs.is_empty()).count();
        match (bench.state(), bench.cancelled) {
            (RunState::RolledBack, Some(Ok(()))) => assert_eq!(alive, 0, "cancelled at {at}"),
            (RunState::Succeeded, cancelled) => {
                assert_eq!(alive, 1, "cancelled at {at}");
                went_on += usize::from(cancelled == Some(Ok(())));
            }
            other => panic!("cancelled at {at}: {other:?}"),
        }
    }
    assert!(went_on > 0, "it was never cancelled in time to be undone");
}

#[test]
fn a_host_that_never_answers_an_undo_leaves_the_run_stuck_and_named() {
    let mut bench = bench(Scenario::StartFailsOnce);
    // offer, grants, put, wait; then every undo request is lost.
    bench.net = [vec![Net::RequestLost; 1000], vec![Net::Good; 4]].concat();
    let bench = bench.finish();
    assert_eq!(bench.state(), RunState::Stuck);
    let reason = bench.journal.status().reason.unwrap();
    assert!(reason.starts_with("stuck: task 2 (put web-1 on"), "{reason}");
}

#[test]
fn past_the_switch_over_nothing_is_undone() {
    let mut bench = bench(Scenario::Migrate);
    // Everything is lost from the hand-over on, for an hour.
    let dispatched_before = 6;
    bench.net = [vec![Net::RequestLost; 2000], vec![Net::Good; dispatched_before]].concat();
    let bench = bench.finish();
    assert_eq!(bench.state(), RunState::Stuck);
    let undone = bench.journal.tasks.iter().filter(|t| t.state == TaskState::Undone).count();
    assert_eq!(undone, 0, "{:#?}", bench.journal);
    let reason = bench.journal.status().reason.unwrap();
    assert!(reason.contains("(hand web-1 over to"), "{reason}");
}

#[test]
fn a_put_that_may_have_arrived_is_taken_back_before_another_host_is_asked() {
    let mut bench = bench(Scenario::Start);
    let [first, second, _] = <[HostId; 3]>::try_from(bench.world.by_preference()).unwrap();
    bench.world.hosts.get_mut(&first).unwrap().faults.dawdles = true;
    let offer_and_grants = vec![Net::Good; 2];
    bench.net = [vec![Net::ReplyLost; 30], offer_and_grants].concat();
    let bench = bench.finish();
    assert_eq!((bench.state(), bench.journal.rounds), (RunState::Succeeded, 2));
    assert_eq!(bench.world.starts, [(second, Revision(1))]);
    assert!(bench.world.hosts[&first].jobs.is_empty());
}

/// A start of which no answer comes within patience: neither to the put, nor to what is asked next.
fn unheard_start(answered: usize) -> Bench {
    let mut bench = bench(Scenario::Start);
    bench.net = [vec![Net::ReplyLost; 30], vec![Net::Good; answered]].concat();
    bench
}

#[test]
fn a_guest_that_came_up_while_its_host_was_not_heard_is_left_running() {
    for answered in [2, 3] {
        let bench = unheard_start(answered).finish();
        assert_eq!((bench.state(), bench.journal.rounds), (RunState::Succeeded, 1));
        let first = bench.world.by_preference().remove(0);
        assert_eq!(bench.world.starts, [(first.clone(), Revision(1))]);
        assert_eq!(bench.world.hosts[&first].jobs[&job_id()].state, JobState::Running);
    }
}

#[test]
fn a_start_that_is_not_heard_of_and_then_cancelled_is_taken_back_although_it_came_up() {
    let mut cancelled = 0;
    for at in 1.. {
        let mut bench = unheard_start(3);
        bench.cancel_at = Some(at);
        let bench = bench.finish();
        let Some(answer) = bench.cancelled else { break };
        assert_eq!((answer, bench.state()), (Ok(()), RunState::RolledBack), "after {at} effects");
        assert!(bench.world.hosts.values().all(|host| host.jobs.is_empty()), "after {at} effects");
        cancelled += 1;
    }
    assert!(cancelled > 60, "while it waits and while it turns back: {cancelled}");
}

#[test]
fn what_is_stopped_by_command_while_it_is_started_stays_stopped_and_keeps_its_disks() {
    for command in [Reason::Requested, Reason::Saved] {
        let mut bench = bench(Scenario::Start);
        let first = bench.world.by_preference().remove(0);
        bench.world.hosts.get_mut(&first).unwrap().faults.is_stopped_by = Some(command.clone());
        let bench = bench.finish();
        assert_eq!((bench.state(), bench.journal.rounds), (RunState::RolledBack, 1));
        assert_eq!(bench.world.starts, [(first.clone(), Revision(1))], "nowhere else");
        let row = &bench.world.hosts[&first].jobs[&job_id()];
        assert_eq!((row.state, row.reason.as_ref()), (JobState::Stopped, Some(&command)));
        let reason = bench.journal.status().reason.unwrap();
        assert!(reason.starts_with("ended-by-command: the job is stopped"), "{reason}");
    }
}

#[test]
fn what_was_stopped_by_command_before_is_started_by_who_saw_it_run() {
    let mut bench = bench(Scenario::AlreadyRuns);
    // The row that the plan is made on is older than the stop.
    let seen = bench.world.by_preference().remove(1);
    let mut effects = Vec::new();
    bench.run.handle(0, Input::Begin, &mut effects);
    let planned = bench.plan();
    bench.run.handle(0, planned, &mut effects);
    let row = bench.world.hosts.get_mut(&seen).unwrap().jobs.get_mut(&job_id()).unwrap();
    (row.state, row.reason) = (JobState::Stopped, Some(Reason::Requested));
    let Some(Effect::Dispatch(wait)) = effects.pop() else { panic!("{effects:#?}") };
    let answer = bench.world.perform(&wait);
    assert!(matches!(answer, Answer::Refused(No::EndedByCommand(_))), "{answer:?}");
    let (task, direction) = (wait.key.task, wait.direction);
    bench.run.handle(0, Input::Answered { task, direction, answer }, &mut effects);
    assert_eq!(effects.last(), Some(&Effect::Plan), "{effects:#?}");
}

#[test]
fn a_run_that_another_engine_has_ends_here_and_says_so() {
    let mut bench = bench(Scenario::Start);
    let mut effects = Vec::new();
    bench.run.handle(0, Input::Begin, &mut effects);
    let planned = bench.plan();
    bench.run.handle(0, planned, &mut effects);
    effects.clear();
    let (task, direction, answer) = (0, Direction::Do, Answer::ClaimLost { seen: 3 });
    bench.run.handle(0, Input::Answered { task, direction, answer }, &mut effects);
    let [Effect::Persist(stored), Effect::Publish, Effect::End] = &effects[..] else {
        panic!("{effects:#?}")
    };
    assert_eq!((stored.state, stored.claim), (RunState::Stuck, 1), "under its own claim");
    let reason = bench.run.status().reason.unwrap();
    assert!(reason.contains("another engine has this run now (claim 3)"), "{reason}");
}

#[test]
fn a_growth_that_may_have_arrived_is_given_back_when_its_host_falls_silent() {
    let mut bench = bench(Scenario::Grow);
    // Offer, grants, and a resize whose answers are lost until patience is over.
    bench.net = [vec![Net::ReplyLost; 30], vec![Net::Good; 2]].concat();
    let bench = bench.finish();
    // The host is left alone in the next plan, and there is no other for this.
    assert_eq!(bench.state(), RunState::RolledBack);
    let host = &bench.world.by_preference()[0];
    let row = &bench.world.hosts[host].jobs[&job_id()];
    assert_eq!((row.spec.resources().vcpus, row.revision), (2, Revision(3)));
}

#[test]
fn offers_that_end_while_arbiters_are_asked_are_made_anew_and_not_for_ever() {
    for (ends, state) in [(OFFERS_OVER_MAX, RunState::Succeeded), (100, RunState::RolledBack)] {
        let mut bench = bench(Scenario::Start);
        bench.world.offers_to_end = ends;
        let bench = bench.finish();
        assert_eq!((bench.state(), bench.journal.rounds), (state, 1));
        if state == RunState::RolledBack {
            let cause = &bench.journal.cause;
            assert!(matches!(cause, Some(Cause::NoQuorum { .. })), "{cause:?}");
            assert!(bench.world.starts.is_empty());
        }
    }
}

#[test]
fn what_was_given_up_can_not_be_taken_back_so_the_run_goes_on() {
    let mut bench = bench(Scenario::Shrink);
    // The resize arrives, and its host is not heard until patience is over.
    bench.net = vec![Net::ReplyLost; 30];
    let bench = bench.finish();
    assert_eq!((bench.state(), bench.journal.rounds), (RunState::Succeeded, 1));
    let reason = bench.journal.status().reason;
    assert_eq!(reason, None);
}

#[test]
fn the_end_of_a_growth_without_room_says_how_far_it_could_go() {
    let bench = bench(Scenario::GrowRefused).finish();
    let reason = bench.journal.status().reason.unwrap();
    assert!(reason.contains("could have at most 2 vcpus"), "{reason}");
}

#[test]
fn a_move_that_is_cancelled_too_late_goes_on() {
    let mut bench = bench(Scenario::Migrate);
    // The source sends and lets go, and is not heard until patience is over.
    let until_sent = vec![Net::Good; 5];
    bench.net = [vec![Net::RequestLost; 34], until_sent].concat();
    let bench = bench.finish();
    assert_eq!((bench.state(), bench.journal.rounds), (RunState::Succeeded, 1));
}

#[test]
fn a_source_that_is_gone_after_the_move_does_not_spoil_it() {
    let mut bench = bench(Scenario::Migrate);
    let dispatched_before = 8;
    bench.net = [vec![Net::RequestLost; 1000], vec![Net::Good; dispatched_before]].concat();
    bench.leaves_a_row = true;
    let bench = bench.finish();
    assert_eq!(bench.state(), RunState::Succeeded);
    let last = bench.journal.status().tasks.pop().unwrap();
    assert_eq!(last.state, TaskState::Failed);
    assert!(last.note.unwrap().contains("not within 60 s"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_the_network_loses_and_whenever_the_engine_dies(
        scenario in 0..SCENARIOS.len(),
        net in prop::collection::vec(
            prop_oneof![3 => Just(Net::Good), 1 => Just(Net::RequestLost), 1 => Just(Net::ReplyLost)],
            0..40,
        ),
        crash_at in 1..80_usize,
        crash_after_effect: bool,
        cancel_at in prop::option::of(0..80_usize),
    ) {
        let mut bench = bench(SCENARIOS[scenario].0);
        bench.net = net;
        bench.crash_at = Some(crash_at);
        bench.crash_after_effect = crash_after_effect;
        bench.cancel_at = cancel_at;
        bench.finish();
    }
}

/// Three hosts with room for a disk, of which the full one has the image.
fn world_with_an_image() -> (World, Want) {
    let mut world = World::new(3);
    let image = ImageName::new("guest").unwrap();
    let facts = ImageFacts {
        sha256: Digest::of(b"guest"),
        file_bytes: 1 << 20,
        virtual_bytes: 1 << 20,
        format: Some(ImageFormat::Qcow2),
    };
    let full = world.by_preference().pop().unwrap();
    for fake in world.hosts.values_mut() {
        fake.host.capacity.disk_bytes = 1 << 30;
    }
    let fake = world.hosts.get_mut(&full).unwrap();
    fake.host.images.insert(image.clone(), facts);
    fake.host.allocation = fake.host.capacity;
    let disk = DiskSpec {
        name: "root".into(),
        size_bytes: 1 << 20,
        image: Some(image),
        ..DiskSpec::default()
    };
    let vm = VmSpec { vcpus: 1, memory_bytes: 1 << 30, disks: vec![disk], ..VmSpec::default() };
    (world, Want::Run { job: job_id(), spec: JobSpec::vm(vm), on: None, again: false })
}

fn titles(record: &RunRecord) -> Vec<String> {
    let end = |title: String| title.split(' ').next().unwrap_or_default().to_owned();
    record.tasks.iter().map(|task| end(task.kind.title(record.job()))).collect()
}

#[test]
fn an_image_is_fetched_before_the_offer_and_the_run_goes_on_with_it() {
    let (world, want) = world_with_an_image();
    let bench = Bench::new(world, want).finish();
    assert_eq!(bench.state(), RunState::Succeeded);
    assert_eq!(titles(&bench.journal), ["fetch", "ask", "have", "put", "wait"]);
    let first = bench.world.by_preference().remove(0);
    assert_eq!(bench.world.starts.last().map(|(host, _)| host), Some(&first));
}

#[test]
fn a_fetch_that_fails_is_tried_on_another_host() {
    let (mut world, want) = world_with_an_image();
    let hosts = world.by_preference();
    world.hosts.get_mut(&hosts[0]).unwrap().faults.fails_fetches = true;
    let bench = Bench::new(world, want).finish();
    assert_eq!(bench.state(), RunState::Succeeded);
    assert_eq!(bench.world.starts.last().map(|(host, _)| host), Some(&hosts[1]));
    assert!(bench.world.hosts[&hosts[0]].jobs.is_empty());
}

#[test]
fn killed_between_any_two_effects_a_run_with_a_fetch_ends_as_it_should() {
    for at in 1..40 {
        for after in [false, true] {
            let (world, want) = world_with_an_image();
            let mut bench = Bench::new(world, want);
            (bench.crash_at, bench.crash_after_effect) = (Some(at), after);
            let bench = bench.finish();
            assert_eq!(bench.state(), RunState::Succeeded, "killed at effect {at}");
            assert_eq!(bench.world.starts.len(), 1);
        }
    }
}

// Room.

const GIB: u64 = 1 << 30;

/// Three hosts of 64 GiB; what is to run needs 62, and others have 4, 62 and 6 of them.
fn crowded() -> Bench {
    crowded_with(&[4, 62, 6])
}

fn crowded_with(gib: &[u64]) -> Bench {
    let mut world = World::new(u8::try_from(gib.len()).unwrap());
    for (n, (host, gib)) in world.by_preference().into_iter().zip(gib).enumerate() {
        world.occupy(&host, n, gib * GIB);
    }
    let vm = VmSpec { vcpus: 1, memory_bytes: 62 * GIB, ..VmSpec::default() };
    let want = Want::Run { job: job_id(), spec: JobSpec::vm(vm), on: None, again: false };
    let mut bench = Bench::new(world, want);
    bench.journal.make_room = true;
    bench.run = Run::new(bench.journal.clone());
    bench
}

/// Where the others are, by the order in which hosts are preferred.
fn others(world: &World) -> Vec<Vec<String>> {
    let on = |host: &HostId| {
        let jobs = world.hosts[host].jobs.keys().filter(|job| **job != job_id());
        jobs.map(ToString::to_string).collect()
    };
    world.by_preference().iter().map(on).collect()
}

fn home() -> Vec<Vec<String>> {
    homes(3)
}

fn homes(count: usize) -> Vec<Vec<String>> {
    (0..count).map(|n| vec![format!("other-{n}")]).collect()
}

#[test]
fn others_move_first_and_stay_where_they_are_when_it_runs() {
    let bench = crowded().finish();
    assert_eq!(bench.state(), RunState::Succeeded);
    assert_eq!(titles(&bench.journal), ["move", "ask", "have", "put", "wait"]);
    let title = bench.journal.tasks[0].kind.title(&job_id());
    assert!(title.contains("other-0") && title.ends_with("so that web-1 fits"), "{title}");
    assert_eq!(others(&bench.world)[0], Vec::<String>::new());
    assert_eq!(others(&bench.world)[2], ["other-0", "other-2"]);
}

#[test]
fn without_leave_nobody_moves() {
    let mut bench = crowded();
    bench.journal.make_room = false;
    bench.run = Run::new(bench.journal.clone());
    let bench = bench.finish();
    assert_eq!(bench.state(), RunState::RolledBack);
    assert_eq!((others(&bench.world), bench.journal.tasks.len()), (home(), 0));
    let said = bench.journal.cause.as_ref().unwrap().to_string();
    assert!(said.contains("makes room"), "{said}");
}

#[test]
fn what_has_moved_serves_the_next_plan_and_goes_back_when_there_is_none() {
    let mut bench = crowded_with(&[4, 62, 6, 6]);
    bench.world.hosts.values_mut().for_each(|fake| fake.faults.fails_starts = true);
    let bench = bench.finish();
    assert_eq!(bench.state(), RunState::RolledBack);
    assert!(bench.journal.rounds > 1, "another host was tried");
    assert_eq!(others(&bench.world), homes(4), "{:#?}", bench.journal);
    let moves = bench.journal.tasks.iter().filter(|t| matches!(t.kind, TaskKind::MakeRoom { .. }));
    let back = moves.filter(|task| task.state == TaskState::Undone).count();
    assert!(back >= 2, "for each of them: {back}");
}

#[test]
fn a_move_that_fails_leaves_all_as_it_was() {
    let mut bench = crowded();
    bench.world.hosts.values_mut().for_each(|fake| fake.faults.fails_sends = true);
    let bench = bench.finish();
    assert_eq!((bench.state(), others(&bench.world)), (RunState::RolledBack, home()));
}

#[test]
fn who_cannot_go_back_stays_and_the_run_says_so() {
    let mut bench = crowded();
    bench.world.hosts.values_mut().for_each(|fake| fake.faults.fails_starts = true);
    bench.world.gives_nobody_back = true;
    let bench = bench.finish();
    assert_eq!(bench.state(), RunState::RolledBack);
    let stays = bench.journal.tasks.iter().filter(|task| task.state == TaskState::UndoFailed);
    assert!(stays.clone().count() > 0 && stays.clone().all(|task| task.note.is_some()));
}

#[test]
fn killed_or_cancelled_between_any_two_effects_others_are_back_or_it_runs() {
    for fails in [false, true] {
        for at in 1..70 {
            for how in 0..3 {
                let mut bench = crowded();
                bench.world.hosts.values_mut().for_each(|f| f.faults.fails_starts = fails);
                match how {
                    0 => bench.cancel_at = Some(at),
                    _ => (bench.crash_at, bench.crash_after_effect) = (Some(at), how == 1),
                }
                let bench = bench.finish();
                match bench.state() {
                    RunState::Succeeded => assert!(!fails),
                    RunState::RolledBack => {
                        assert!(fails || how == 0, "killed at {at}: {:#?}", bench.journal);
                        assert_eq!(
                            others(&bench.world),
                            home(),
                            "{at} {how}: {:#?}",
                            bench.journal
                        );
                    }
                    other => panic!("{other:?} at {at} {how}: {:#?}", bench.journal),
                }
            }
        }
    }
}

/// Hosts that are full, on each of which one VM may be stopped for another.
fn full_of_preemptible() -> Bench {
    let mut bench = crowded_with(&[62, 62, 62]);
    for fake in bench.world.hosts.values_mut() {
        for job in fake.jobs.values_mut() {
            let rank =
                Rank { priority: Some(Priority::try_from(10).unwrap()), preemptible: Some(true) };
            job.spec = job.spec.ranked(rank).unwrap().into();
        }
    }
    bench
}

/// Who is not running any more of those that were there.
fn stopped(world: &World) -> Vec<String> {
    let jobs = world.hosts.values().flat_map(|fake| fake.jobs.values());
    let jobs = jobs.filter(|job| job.id != job_id() && job.state.is_ended());
    jobs.map(|job| job.id.to_string()).collect()
}

#[test]
fn who_may_be_stopped_is_stopped_first_and_stays_so_when_it_runs() {
    let bench = full_of_preemptible().finish();
    assert_eq!(bench.state(), RunState::Succeeded);
    assert_eq!(titles(&bench.journal), ["stop", "ask", "have", "put", "wait"]);
    let title = bench.journal.tasks[0].kind.title(&job_id());
    assert!(title.ends_with("so that web-1 fits"), "{title}");
    assert_eq!(stopped(&bench.world).len(), 1);
}

#[test]
fn killed_or_cancelled_between_any_two_effects_nobody_stays_stopped_in_vain() {
    for fails in [false, true] {
        for at in 1..70 {
            for how in 0..3 {
                let mut bench = full_of_preemptible();
                bench.world.hosts.values_mut().for_each(|f| f.faults.fails_starts = fails);
                match how {
                    0 => bench.cancel_at = Some(at),
                    _ => (bench.crash_at, bench.crash_after_effect) = (Some(at), how == 1),
                }
                let bench = bench.finish();
                let stopped = stopped(&bench.world);
                match bench.state() {
                    RunState::Succeeded => assert!(!fails && stopped.len() == 1, "{stopped:?}"),
                    RunState::RolledBack => {
                        assert!(fails || how == 0, "killed at {at}: {:#?}", bench.journal);
                        assert!(stopped.is_empty(), "{at} {how} {stopped:?}: {:#?}", bench.journal);
                    }
                    other => panic!("{other:?} at {at} {how}: {:#?}", bench.journal),
                }
            }
        }
    }
}
