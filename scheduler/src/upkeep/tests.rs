//! Scripts of what is kept true, and a property: whatever happens in whatever order, and however many
//! events are looked at together, what was judged fact by fact is what judging everything anew says.

use std::sync::Arc;

use planner::steps::MigrateVm;
use planner::{Unmet, UnmetReason};
use proptest::prelude::*;
use protocol::host::{Accel, Host, HypervisorFacts, Inventory};
use protocol::id::{Cursor, Epoch, OfferId, Revision, RunId};
use protocol::job::{Job, JobSpec, JobState, Reason};
use protocol::resources::Resources;
use protocol::signed::SecretKey;
use protocol::vm::{OnLoss, VmSpec};
use uuid::Uuid;

use super::*;
use crate::failover::freshness_of;

mod balance;

const GIB: u64 = 1 << 30;

fn key(n: u8) -> protocol::signed::PublicKey {
    SecretKey::from_seed([n; 32]).public()
}

fn host(n: u8) -> HostId {
    HostId::of(&key(n))
}

fn id(n: usize) -> JobId {
    JobId::new(format!("vm-{n}")).unwrap()
}

fn name(text: &str) -> SetName {
    SetName::new(text).unwrap()
}

fn row(n: usize, state: JobState) -> Job {
    let vm = VmSpec { vcpus: 1, memory_bytes: GIB, on_loss: OnLoss::Keep, ..VmSpec::default() };
    Job {
        hold: Some(OfferId { epoch: Epoch(1), num: 1 }),
        ..Job::of(id(n), JobSpec::vm(vm), state)
    }
}

fn ended(n: usize, reason: Reason) -> Job {
    Job { reason: Some(reason), ..row(n, JobState::Stopped) }
}

/// The world, with what is kept in it.
#[derive(Debug, Clone, Default)]
struct World {
    view: View,
    heard: OrdMap<HostId, HeardAt>,
    members: Arc<BTreeSet<HostId>>,
    open: Vec<Open>,
    turns: Turns,
    seq: u64,
    upkeep: Upkeep,
}

impl World {
    fn new(hosts: u8) -> Self {
        let mut world = Self::default();
        for n in 1..=hosts {
            Arc::make_mut(&mut world.members).insert(host(n));
            world.host(n, |_, _| {});
        }
        world
    }

    /// Changes what a host says.
    fn host(&mut self, n: u8, change: impl FnOnce(&mut Host, &mut BTreeMap<JobId, Job>)) {
        let (mut facts, mut jobs) = match self.view.host(&host(n)) {
            Some(row) => (
                Host::clone(&row.host),
                row.jobs.values().map(|job| (job.id.clone(), Job::clone(job))).collect(),
            ),
            None => (new_host(n), BTreeMap::new()),
        };
        change(&mut facts, &mut jobs);
        let sum = |sum: Resources, job: &Job| sum.plus(job.allocation());
        facts.allocation = jobs.values().fold(Resources::ZERO, sum);
        self.seq += 1;
        let cursor = Cursor { epoch: Epoch(1), seq: self.seq };
        let jobs = jobs.into_values().collect();
        self.view.merge_inventory(Inventory { cursor, host: facts, jobs, observed: vec![] });
    }

    fn put_job(&mut self, n: u8, job: Job) {
        self.host(n, |_, jobs| drop(jobs.insert(job.id.clone(), job)));
    }

    fn drop_job(&mut self, n: u8, job: usize) {
        self.host(n, |_, jobs| drop(jobs.remove(&id(job))));
    }

    fn label(&mut self, n: u8, label: Option<&str>) {
        self.host(n, |host, _| {
            host.labels.remove("disk");
            host.labels.extend(label.map(|value| ("disk".to_owned(), value.to_owned())));
        });
    }

    fn hear(&mut self, n: u8, freshness: Freshness) {
        self.heard.insert(host(n), HeardAt { freshness, heard_ms: 0 });
    }

    fn put(&mut self, set: &str, revision: u64, expectations: Option<Value>) -> Vec<Effect> {
        let list = expectations.map(|list| list.as_array().unwrap().clone());
        let record = SetRecord::new(name(set), Revision(revision), list, 0);
        self.handle(0, Input::Put(record))
    }

    fn handle(&mut self, now_ms: u64, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        self.upkeep.handle(now_ms, input, &mut out);
        out
    }

    fn look(&mut self, now_ms: u64) -> Vec<Effect> {
        let (view, heard) = (self.view.clone(), self.heard.clone());
        let (members, open) = (self.members.clone(), self.open.clone());
        let turns = self.turns.clone();
        self.handle(now_ms, Input::Looked(Box::new(Look { view, heard, members, open, turns })))
    }

    /// Looks, plans with the planner if a plan is asked for, and says what is begun.
    fn live(&mut self, now_ms: u64) -> Vec<Want> {
        self.begun(now_ms).into_iter().map(|(want, ..)| want).collect()
    }

    /// The same with where each job will be, and for whose sake.
    fn begun(&mut self, now_ms: u64) -> Vec<(Want, HostId, Option<String>)> {
        let mut wants = Vec::new();
        for effect in self.look(now_ms) {
            let Effect::Plan(aims) = effect else { continue };
            let heard = self.heard.iter().map(|(host, at)| {
                let heard = planner::Heard { freshness: at.freshness, age_ms: 0 };
                (host.clone(), heard)
            });
            let mut input = planner::PlanInput {
                view: self.view.clone(),
                heard: heard.collect(),
                levels: aims.goals.iter().map(|(l, goal)| (goal.job().clone(), *l)).collect(),
                expectations: aims.goals.into_iter().map(|(_, goal)| goal).collect(),
                clauses: aims.clauses,
                ..planner::PlanInput::default()
            };
            crate::knowledge::make_room(&mut input, aims.heeded);
            let Shifts { max, were_begun } = aims.shifts;
            (input.limits.shifts_max, input.limits.shifts_begun) = (max, were_begun);
            let outcome = planner::plan(&input);
            let state = planner::State::new(&input);
            let steps = outcome.plan.steps.into_iter().filter(|step| step.check(&state).is_ok());
            let (steps, favours) = (steps.collect(), outcome.plan.favours);
            let (shifts, report, open) = (outcome.plan.shifts, outcome.report, self.open.clone());
            let planned = Input::Planned { steps, favours, shifts, report, open };
            for effect in self.handle(now_ms, planned) {
                if let Effect::Mend { want, to, because } = effect {
                    wants.push((*want, to, because));
                }
            }
        }
        wants
    }

    fn standing(&self, now_ms: u64, set: &str) -> KeptStanding {
        self.upkeep.status(now_ms, &name(set)).unwrap().expectations[0].standing.clone()
    }

    fn why(&self, now_ms: u64, set: &str) -> String {
        match self.standing(now_ms, set) {
            KeptStanding::Unmet { why, .. } => why,
            other => panic!("{other:?}"),
        }
    }

    fn verdict(&self, set: &str) -> Verdict {
        self.upkeep.judged[&(name(set), 0)].verdict.clone()
    }
}

fn new_host(n: u8) -> Host {
    Host {
        name: format!("h{n}"),
        hypervisor: HypervisorFacts {
            driver: "QEMU".into(),
            accel: Accel::Tcg,
            can_receive: true,
            can_guard: true,
            ..HypervisorFacts::default()
        },
        capacity: Resources { vcpus: 8, memory_bytes: 4 * GIB, disk_bytes: 100 * GIB },
        trust_version: Some(1),
        ..Host::of_key(key(n))
    }
}

fn on_ssd() -> Option<Value> {
    Some(json!([{ "expect": "host_label", "job": "vm-1", "key": "disk", "value": "ssd" }]))
}

fn apart() -> Option<Value> {
    Some(json!([{ "expect": "not_same_host", "jobs": ["vm-1", "vm-2"] }]))
}

fn running() -> Option<Value> {
    let spec = json!(row(1, JobState::Running).spec);
    Some(json!([{ "expect": "runs", "job": "vm-1", "spec": spec }]))
}

fn moves(wants: &[Want]) -> Vec<(JobId, HostId)> {
    let of = |want: &Want| match want {
        Want::Migrate { job, to, .. } => (job.clone(), to.clone()),
        other => panic!("{other:?}"),
    };
    wants.iter().map(of).collect()
}

/// vm-1 on h1, which has the label, and the rule that it must.
fn labelled(hosts: u8) -> World {
    let mut world = World::new(hosts);
    world.label(1, Some("ssd"));
    world.label(2, Some("ssd"));
    world.put_job(1, row(1, JobState::Running));
    world.put("web", 1, on_ssd());
    world
}

#[test]
fn what_is_broken_for_a_moment_is_mended_once() {
    let mut world = labelled(3);
    assert_eq!(world.live(0), []);
    assert_eq!(world.standing(0, "web"), KeptStanding::Met);
    world.label(1, None);
    assert_eq!(world.live(10), [], "it may pass by itself");
    assert_eq!(world.live(10 + SETTLE_MS - 1), []);
    assert_eq!(moves(&world.live(10 + SETTLE_MS)), [(id(1), host(2))]);
    assert_eq!(world.live(11 + SETTLE_MS), [], "it is begun");
    let run = RunId(Uuid::from_u128(1));
    world.open = vec![Open { run, job: id(1), from: Some(host(1)), to: Some(host(2)) }];
    assert_eq!(world.live(12 + SETTLE_MS), []);
    assert_eq!(world.standing(0, "web"), KeptStanding::Mending { run, why: None });
    world.put_job(1, row(1, JobState::MigratingOut));
    assert_eq!(world.live(3_000), []);
    assert_eq!(world.standing(0, "web"), KeptStanding::Coming { host: host(1) });
    world.drop_job(1, 1);
    world.put_job(2, row(1, JobState::Running));
    world.open.clear();
    world.handle(4_000, Input::Ended { job: id(1), to: host(2), failure: None });
    assert_eq!(world.live(4_000), []);
    assert_eq!(world.standing(4_000, "web"), KeptStanding::Met);
}

#[test]
fn two_that_must_be_apart_are_parted_and_the_next_one_is_left_alone() {
    let mut world = World::new(2);
    world.put_job(1, row(1, JobState::Running));
    world.put_job(1, row(2, JobState::Running));
    world.put("apart", 1, apart());
    world.live(0);
    let begun = moves(&world.live(SETTLE_MS));
    assert_eq!(begun.len(), 1, "one move is enough: {begun:?}");
    assert_eq!(begun[0].1, host(2));
}

#[test]
fn what_is_on_its_way_is_where_it_was_until_it_has_come() {
    // Whichever of the two hosts is first by its id.
    for (from, to) in [(1, 2), (2, 1)] {
        let mut world = World::new(2);
        world.put_job(from, row(1, JobState::Running));
        world.put_job(from, row(2, JobState::Running));
        world.put("apart", 1, apart());
        world.look(0);
        world.put_job(from, row(1, JobState::MigratingOut));
        world.put_job(to, row(1, JobState::MigratingIn));
        world.look(1);
        let coming = KeptStanding::Coming { host: host(to) };
        assert_eq!(world.standing(1, "apart"), coming);
        world.put_job(to, row(1, JobState::Running));
        world.look(2);
        assert_eq!(world.standing(2, "apart"), KeptStanding::Met);
    }
}

#[test]
fn what_is_put_is_judged_by_the_world_as_it_is_then() {
    let mut world = World::new(2);
    world.put("apart", 1, apart());
    world.look(0);
    assert_eq!(world.standing(0, "apart"), KeptStanding::Met);
    world.put("apart", 2, None);
    world.put_job(1, row(1, JobState::Running));
    world.put_job(1, row(2, JobState::Running));
    world.put("apart", 3, apart());
    assert_eq!(world.standing(0, "apart"), KeptStanding::Unknown);
    world.look(1);
    assert!(matches!(world.standing(1, "apart"), KeptStanding::Unmet { .. }));
}

#[test]
fn the_others_wait_for_their_turn_and_do_nothing_when_it_is_mended() {
    let keys: Vec<_> = (101..=103).map(key).collect();
    let place = |n: u8| Turns { me: Some(key(n)), all: keys.clone() }.place(&name("web"));
    let by_place = |wanted: u32| (101..=103).find(|n| place(*n) == wanted).unwrap();
    for wanted in 0..3_u32 {
        let mut world = labelled(3);
        world.turns = Turns { me: Some(key(by_place(wanted))), all: keys.clone() };
        world.live(0);
        world.label(1, None);
        world.live(0);
        let due_ms = SETTLE_MS + TURN_MS * u64::from(wanted);
        assert_eq!(world.live(due_ms - 1), [], "place {wanted}");
        let mut mended = world.clone();
        assert_eq!(world.live(due_ms).len(), 1, "place {wanted}");
        // Somebody was faster, and it shows.
        mended.put_job(1, row(1, JobState::MigratingOut));
        assert_eq!(mended.live(due_ms), []);
        mended.put_job(1, row(1, JobState::Running));
        assert_eq!(mended.live(due_ms + 1), [], "its time begins anew");
    }
}

/// The second of two: nobody tells it how the first one fares.
#[test]
fn whose_turn_is_later_lets_the_first_begin_when_the_way_is_free() {
    let keys = [101, 102].map(key);
    let is_second = |me: &_| Turns { me: Some(*me), all: keys.to_vec() }.place(&name("web")) == 1;
    let second = keys.into_iter().find(is_second);
    let mut world = labelled(3);
    world.turns = Turns { me: second, all: keys.to_vec() };
    world.put_job(1, row(2, JobState::Running));
    let two = json!({ "expect": "host_label", "job": "vm-2", "key": "disk", "value": "ssd" });
    world.put("web", 2, Some(json!([on_ssd().unwrap()[0], two])));
    world.live(0);
    world.label(1, None);
    world.hear(1, Freshness::Stale);
    let mut now_ms = 0;
    let mut quiet_until = |world: &mut World, until_ms: u64| {
        while now_ms < until_ms {
            assert_eq!(world.live(now_ms), [], "at {now_ms} ms");
            now_ms += 500;
        }
    };
    quiet_until(&mut world, 9_000);
    world.hear(1, Freshness::Fresh);
    let turn_ms = SETTLE_MS + TURN_MS;
    quiet_until(&mut world, 10_000);
    // The first one moves another VM away from there.
    world.put_job(1, row(3, JobState::MigratingOut));
    quiet_until(&mut world, 20_000);
    world.drop_job(1, 3);
    quiet_until(&mut world, 21_000);
    // And then one of the set, which was elsewhere.
    world.drop_job(1, 2);
    world.put_job(3, row(2, JobState::MigratingOut));
    quiet_until(&mut world, 30_000);
    world.drop_job(3, 2);
    world.put_job(2, row(2, JobState::Running));
    // No more is seen of it: only now something must have befallen it.
    let last_ms = 29_500;
    quiet_until(&mut world, last_ms + turn_ms);
    assert_eq!(moves(&world.live(last_ms + turn_ms)), [(id(1), host(2))]);
}

#[test]
fn what_ended_by_itself_is_started_and_what_was_ended_by_command_is_not() {
    let mut world = World::new(2);
    world.put("web", 1, running());
    world.put_job(1, row(1, JobState::Running));
    assert_eq!(world.live(0), []);
    world.put_job(1, ended(1, Reason::Requested));
    world.live(1_000);
    assert_eq!(world.live(60_000), []);
    assert!(world.why(60_000, "web").contains("ostler start vm-1"), "it says so");
    world.put_job(1, ended(1, Reason::Saved));
    world.live(61_000);
    assert_eq!(world.live(120_000), []);
    world.put_job(1, ended(1, Reason::GuestShutdown));
    world.live(120_000);
    let wants = world.live(120_000 + SETTLE_MS);
    assert!(matches!(&wants[..], [Want::Run { job, .. }] if *job == id(1)), "{wants:?}");
}

#[test]
fn who_stops_what_has_just_ended_by_itself_is_obeyed_until_it_is_started_anew() {
    let mut world = World::new(2);
    world.put("web", 1, running());
    world.put_job(1, row(1, JobState::Running));
    world.live(0);
    world.put_job(1, ended(1, Reason::GuestShutdown));
    world.live(0);
    let saved = world.handle(10, Input::Stopped { job: id(1), revision: Revision(1) });
    assert_eq!(saved, [Effect::Save(name("web"))]);
    assert!(world.why(10, "web").contains("by command"));
    assert_eq!(world.live(600_000), []);
    // The next change of it is another life.
    let next = |job: Job| Job { revision: Revision(2), ..job };
    world.put_job(1, next(row(1, JobState::Running)));
    world.live(600_000);
    assert_eq!(world.standing(600_000, "web"), KeptStanding::Met);
    world.put_job(1, next(ended(1, Reason::GuestShutdown)));
    world.live(600_000);
    assert_eq!(world.live(600_000 + SETTLE_MS).len(), 1);
    assert_eq!(world.handle(0, Input::Stopped { job: id(9), revision: Revision(1) }), []);
}

#[test]
fn what_is_on_a_host_that_is_not_heard_is_not_ours_to_start() {
    let mut world = World::new(2);
    world.put("web", 1, running());
    world.put_job(1, row(1, JobState::Running));
    world.live(0);
    for job in [row(1, JobState::Running), ended(1, Reason::GuestShutdown)] {
        world.put_job(1, job);
        world.hear(1, Freshness::Lost);
        world.live(0);
        assert_eq!(world.live(600_000), []);
        assert!(world.why(600_000, "web").contains("not heard"));
        assert!(matches!(world.verdict("web"), Verdict::Held { .. }));
    }
}

#[test]
fn a_job_that_nobody_has_is_started_once_and_not_again_when_it_is_deleted() {
    let mut world = World::new(2);
    Arc::make_mut(&mut world.members).insert(host(3));
    world.put("web", 1, running());
    world.live(0);
    assert_eq!(world.live(600_000), [], "h3 may have it");
    assert!(world.why(600_000, "web").contains("have not been heard yet"));
    world.host(3, |_, _| {});
    world.live(600_000);
    let wants = world.live(600_000 + SETTLE_MS);
    assert!(matches!(&wants[..], [Want::Run { .. }]), "{wants:?}");
    let ended = Input::Ended { job: id(1), to: host(1), failure: None };
    let saved = world.handle(602_000, ended);
    assert!(saved.contains(&Effect::Save(name("web"))), "{saved:?}");
    // It was there and somebody deleted it, all between two looks.
    world.live(602_000);
    assert_eq!(world.live(6_000_000), []);
    assert!(world.why(6_000_000, "web").contains("is gone"));
    // Put anew it is wanted anew.
    world.put("web", 2, running());
    world.live(7_000_000);
    assert_eq!(world.live(7_000_000 + SETTLE_MS).len(), 1);
}

#[test]
fn without_a_spec_nothing_is_made_up() {
    let mut world = World::new(1);
    world.put("web", 1, Some(json!([{ "expect": "runs", "job": "vm-1" }])));
    world.live(0);
    assert_eq!(world.live(600_000), []);
    assert!(world.why(0, "web").contains("no spec"));
    world.put_job(1, ended(1, Reason::GuestShutdown));
    world.live(600_000);
    assert_eq!(world.live(600_000 + SETTLE_MS).len(), 1, "its host knows what it is");
}

#[test]
fn what_could_not_be_mended_rests_longer_each_time() {
    let mut world = labelled(3);
    world.label(1, None);
    world.live(0);
    let mut now_ms = SETTLE_MS;
    for rest_ms in [5_000, 10_000, 20_000] {
        assert_eq!(world.live(now_ms).len(), 1, "at {now_ms}");
        let failure = Some("the wire was cut".to_owned());
        world.handle(now_ms, Input::Ended { job: id(1), to: host(2), failure });
        world.live(now_ms);
        let why = world.why(now_ms, "web");
        assert!(why.contains("the wire was cut") && why.contains("tried again in"), "{why}");
        assert_eq!(world.live(now_ms + rest_ms - 1), []);
        now_ms += rest_ms;
    }
}

#[test]
fn a_world_that_changes_its_mind_is_followed_ever_more_slowly() {
    let mut world = labelled(3);
    let mut at = 1;
    let mut mended = vec![];
    for now_ms in (0..600_000).step_by(500) {
        // The label is wherever the job is not.
        world.label(at, None);
        world.label(3 - at, Some("ssd"));
        for (job, to) in moves(&world.live(now_ms)) {
            world.drop_job(at, 1);
            at = 3 - at;
            assert_eq!(to, host(at));
            world.put_job(at, row(1, JobState::Running));
            world.handle(now_ms, Input::Ended { job, to, failure: None });
            mended.push(now_ms);
        }
    }
    assert!((4..=8).contains(&mended.len()), "{mended:?}");
    let gaps: Vec<u64> = mended.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(gaps.is_sorted(), "{gaps:?}");
}

#[test]
fn what_cannot_be_met_is_told_with_the_reason_and_nothing_is_begun() {
    let mut world = labelled(2);
    world.label(2, None);
    world.label(1, None);
    for now_ms in (0..120_000).step_by(500) {
        assert_eq!(world.live(now_ms), []);
    }
    let KeptStanding::Unmet { why, report } = world.standing(120_000, "web") else { panic!() };
    assert!(why.contains("does not say its disk"), "{why}");
    let report = report.expect("the planner's");
    assert_eq!(report["hosts"][0]["blocker"], "rule", "{report:#}");
    // Room lacks, and it is told how much.
    let mut world = labelled(2);
    let large = VmSpec { vcpus: 1, memory_bytes: 4 * GIB, ..VmSpec::default() };
    world.put_job(2, Job { spec: JobSpec::vm(large).into(), ..row(9, JobState::Running) });
    world.label(1, None);
    world.live(0);
    assert_eq!(world.live(SETTLE_MS), []);
    let why = world.why(SETTLE_MS, "web");
    assert!(why.contains("What would help: free 1GiB of memory on h2"), "{why}");
}

#[test]
fn few_move_at_a_time() {
    let mut world = World::new(2);
    world.label(2, Some("ssd"));
    let mut rules = vec![];
    for n in 1..=5 {
        let mut job = row(n, JobState::Running);
        let vm = VmSpec { vcpus: 1, memory_bytes: GIB / 2, ..VmSpec::default() };
        job.spec = JobSpec::vm(vm).into();
        world.put_job(1, job);
        let job = id(n);
        rules.push(json!({ "expect": "host_label", "job": job, "key": "disk", "value": "ssd" }));
    }
    world.put("all", 1, Some(Value::Array(rules)));
    world.live(0);
    assert_eq!(world.live(SETTLE_MS).len(), crate::drain::LEAVING_MAX);
}

#[test]
fn what_a_rule_ties_to_a_job_that_moves_waits_until_it_has_moved() {
    let mut world = World::new(3);
    world.put_job(3, row(1, JobState::Running));
    world.put_job(2, row(3, JobState::Running));
    let together = json!([{ "expect": "same_host", "jobs": ["vm-1", "vm-3"] }]);
    world.put("together", 1, Some(together));
    world.put("ssd", 1, on_ssd());
    world.live(0);
    let begun = moves(&world.live(SETTLE_MS));
    assert_eq!(begun.len(), 1, "{begun:?}");
    // The other one is told to go nowhere, whoever moves this one: this scheduler, or another.
    for now_ms in (SETTLE_MS..60_000).step_by(500) {
        assert_eq!(world.live(now_ms), []);
    }
    let (job, to) = begun[0].clone();
    world.put_job(2, row(3, JobState::MigratingOut));
    world.handle(60_000, Input::Ended { job, to, failure: Some("another one did it".into()) });
    for now_ms in (60_000..120_000).step_by(500) {
        assert_eq!(world.live(now_ms), []);
    }
}

#[test]
fn losing_any_host_is_told_and_moves_nothing() {
    let mut world = World::new(2);
    world.put("spare", 1, Some(json!([{ "expect": "lose_any_host" }])));
    for n in 1..=3 {
        world.put_job(1, row(n, JobState::Running));
    }
    world.live(0);
    assert_eq!(world.standing(0, "spare"), KeptStanding::Met);
    let large = VmSpec { vcpus: 1, memory_bytes: 3 * GIB, ..VmSpec::default() };
    world.put_job(2, Job { spec: JobSpec::vm(large).into(), ..row(4, JobState::Running) });
    world.live(1);
    assert_eq!(world.live(60_000), []);
    assert_eq!(world.live(120_000), []);
    assert!(world.why(120_000, "spare").contains("would strand"), "{}", world.why(0, "spare"));
}

#[test]
fn what_reads_everything_is_judged_now_and_then_and_the_last_word_counts() {
    let mut world = World::new(1);
    world.put("spare", 1, Some(json!([{ "expect": "lose_any_host" }])));
    world.look(0);
    assert_eq!(world.standing(0, "spare"), KeptStanding::Met);
    world.put_job(1, row(1, JobState::Running));
    world.look(WHOLE_MS - 1);
    assert_eq!(world.standing(0, "spare"), KeptStanding::Met, "not yet");
    assert!(world.upkeep.is_restless(), "it is to be looked at again");
    world.look(WHOLE_MS);
    assert!(world.why(WHOLE_MS, "spare").contains("would strand"));
}

#[test]
fn what_would_not_last_is_objected_to() {
    let mut world = World::new(2);
    world.put(
        "web",
        1,
        Some(json!([
            { "expect": "runs_on", "job": "vm-1", "on": host(1) },
            { "expect": "has_size", "job": "vm-1", "size": { "vcpus": 2 } },
        ])),
    );
    let upkeep = &world.upkeep;
    let migrate = |to| Want::migrate(id(1), host(to));
    assert_eq!(upkeep.objection(&migrate(1)), None);
    assert!(upkeep.objection(&migrate(2)).unwrap().contains("expectations web"));
    let resize = |vcpus| {
        let size = protocol::vm::SizeChange { vcpus, ..Default::default() };
        Want::Resize { job: id(1), size }
    };
    assert_eq!(upkeep.objection(&resize(Some(2))), None);
    assert!(upkeep.objection(&resize(Some(3))).is_some());
    world.put("web", 2, None);
    assert_eq!(world.upkeep.objection(&migrate(2)), None, "it is kept no longer");
}

#[test]
fn what_must_not_be_kept_is_refused_when_it_is_put() {
    let refused = |value: Value| read(&[value]).unwrap_err().to_string();
    assert!(refused(json!({ "expect": "absent", "job": "a" })).contains("ostler rm"));
    assert!(refused(json!({ "expect": "is_stopped", "job": "a" })).contains("done once"));
    assert!(refused(json!({ "expect": "same_host" })).contains("expectation 1"));
    let once =
        json!({ "one-off": { "vm": { "vcpus": 1, "memory_bytes": GIB }, "deadline_ms": 1000 } });
    assert!(refused(json!({ "expect": "runs", "job": "a", "spec": once })).contains("one-off"));
    assert!(refused(json!({ "expect": "has_size", "job": "a", "size": {} })).contains("vcpus"));
    let unknown = read(&[json!({ "expect": "shines" })]).unwrap();
    assert!(matches!(&unknown.items[..], [Item::Unknown { .. }]));
}

#[test]
fn what_contradicts_itself_is_refused_when_it_is_put() {
    let refused = |list: Value| read(list.as_array().unwrap()).unwrap_err();
    let same = SetError::SameVm { job: id(2), first: 1, second: 2 };
    let one = json!({ "expect": "runs", "job": "vm-2" });
    assert_eq!(refused(json!([group(2), one])), same);
    assert_eq!(refused(json!([one, group(2)])), same);
    let twice = refused(json!([group(1), group(2)]));
    assert_eq!(twice, SetError::SameVm { job: id(1), first: 1, second: 2 });
    assert!(twice.to_string().contains("name the group otherwise"), "{twice}");
    assert!(read(&[one.clone(), one]).is_ok(), "the same said twice is no contradiction");
    assert!(read(&[group(2), json!({ "expect": "runs", "job": "vm-3" })]).is_ok());
    let circle = refused(json!([after(1, &[2]), after(2, &[3]), after(3, &[1])]));
    assert_eq!(circle, SetError::Circle { jobs: vec![id(1), id(2), id(3)] });
    assert!(
        circle.to_string().starts_with("vm-1 starts after vm-2, which starts after vm-3, which")
    );
    let many = (0..5).map(|n| {
        let mut many = group(256);
        many["name"] = json!(format!("vm-{n}"));
        many
    });
    let long = read(&many.collect::<Vec<_>>()).unwrap_err();
    assert_eq!(long, SetError::TooMany { count: 5 * 256 }, "each VM counts");
    let error = refused(json!([apart().unwrap()[0], group(0)])).to_string();
    assert!(error.starts_with("expectation 2: a group of none"), "{error}");
}

#[test]
fn what_contradicts_another_set_is_refused_when_it_is_put() {
    let mut world = World::new(1);
    world.put("web", 1, Some(json!([group(2), after(1, &[2])])));
    let clash = |set: &str, list: Value| {
        let kept = read(list.as_array().unwrap()).unwrap();
        world.upkeep.clash(&name(set), &kept)
    };
    let same = Some(Clash::SameVm { job: id(2), set: name("web") });
    assert_eq!(clash("other", json!([{ "expect": "runs", "job": "vm-2" }])), same);
    assert!(
        clash("other", json!([group(1)])).unwrap().to_string().contains("expectations web say")
    );
    assert_eq!(clash("other", json!([{ "expect": "runs", "job": "vm-3" }])), None);
    assert_eq!(clash("web", json!([group(3)])), None, "it takes the place of that one");
    let circle = clash("other", json!([after(2, &[3]), after(3, &[1])])).unwrap();
    let Clash::Circle { jobs } = &circle else { panic!("{circle:?}") };
    assert_eq!(jobs.len(), 3, "{circle}");
    assert!(circle.to_string().starts_with("with what other sets say, vm-"), "{circle}");
    assert_eq!(clash("web", json!([after(2, &[1])])), None);
}

#[test]
fn of_two_records_the_same_one_counts_everywhere() {
    let record = |revision, list: Option<Value>| {
        let list = list.map(|list| list.as_array().unwrap().clone());
        SetRecord::new(name("web"), Revision(revision), list, revision)
    };
    let (old, new) = (record(1, on_ssd()), record(2, apart()));
    assert_eq!(old.clone().merged(new.clone()), new);
    assert_eq!(new.clone().merged(old), new);
    let (one, other) = (record(2, on_ssd()), record(2, apart()));
    assert_eq!(one.clone().merged(other.clone()), other.merged(one));
    let seen = SetRecord { begun: BTreeSet::from([id(1)]), ..new.clone() };
    assert_eq!(new.clone().merged(seen.clone()), seen);
    assert_eq!(seen.clone().merged(new.clone()), seen);
    let stop = |revision| {
        let stopped = BTreeMap::from([(id(1), Revision(revision))]);
        SetRecord { stopped, ..new.clone() }
    };
    assert_eq!(stop(3).merged(stop(2)), stop(3), "the later one");
    assert_eq!(stop(2).merged(stop(3)), stop(3));
}

#[test]
fn a_set_that_is_changed_remembers_of_whom_it_still_expects_to_run_who_was_stopped() {
    let runs = |n| json!({ "expect": "runs", "job": id(n) });
    let record = |revision, list: Option<Vec<Value>>| {
        SetRecord::new(name("web"), Revision(revision), list, revision)
    };
    let mut before = record(1, Some(vec![runs(1), runs(2)]));
    before.begun = BTreeSet::from([id(1), id(2)]);
    before.stopped = BTreeMap::from([(id(1), Revision(4)), (id(2), Revision(5))]);
    let after = record(2, Some(vec![runs(2), runs(3)]));
    let expected = SetRecord {
        begun: BTreeSet::from([id(2)]),
        stopped: BTreeMap::from([(id(2), Revision(5))]),
        ..after.clone()
    };
    assert_eq!(after.clone().merged(before.clone()), expected);
    assert_eq!(before.clone().merged(after), expected);
    let deleted = record(2, None);
    assert_eq!(deleted.clone().merged(before), deleted, "put anew, it begins anew");
}

#[test]
fn a_report_is_told_of_the_expectation_that_it_is_about() {
    let unmet = Unmet {
        job: id(1),
        reason: UnmetReason::NoHosts,
        hosts: vec![],
        hosts_unlisted: 0,
        cheapest: None,
    };
    let report = Report { unmet: vec![unmet], ..Report::default() };
    let item = |n| Item::RunsOn { job: id(n), on: host(1), level: Level::Must };
    assert!(said_of(&report, &item(1)).unwrap().0.contains("no host is known"));
    assert!(said_of(&report, &item(2)).is_none());
    let ends = MigrateVm { job: id(1), from: host(1), to: host(2), revision: Revision(2) };
    assert_eq!(ends_of(&Step::MigrateVm(ends)), [&host(1), &host(2)]);
}

// Groups.

fn group(count: usize) -> Value {
    let spec = json!(row(1, JobState::Running).spec);
    json!({ "expect": "group", "name": "vm", "count": count, "spec": spec })
}

fn apart_group(count: usize) -> Value {
    let mut group = group(count);
    group["spread"] = json!({});
    group
}

fn started(wants: &[Want]) -> Vec<JobId> {
    let of = |want: &Want| match want {
        Want::Run { job, .. } => job.clone(),
        other => panic!("{other:?}"),
    };
    let mut jobs: Vec<JobId> = wants.iter().map(of).collect();
    jobs.sort();
    jobs
}

fn told_of(world: &World, set: &str) -> protocol::expectations::ExpectationStatus {
    world.upkeep.status(0, &name(set)).unwrap().expectations.swap_remove(0)
}

#[test]
fn a_group_is_started_vm_by_vm_each_where_it_is_alone() {
    let mut world = World::new(3);
    world.put("web", 1, Some(json!([apart_group(3)])));
    world.live(0);
    // One after the other: where each goes follows from where the others are.
    let mut begun = Vec::new();
    for now_ms in (SETTLE_MS..).step_by(500).take(3) {
        let now = world.begun(now_ms);
        let [(Want::Run { job, .. }, to, None)] = &now[..] else { panic!("{now:?}") };
        assert_eq!(world.live(now_ms), []);
        world.put_job(Several::number(to), Job { id: job.clone(), ..row(1, JobState::Running) });
        let (job, to) = (job.clone(), to.clone());
        world.handle(now_ms, Input::Ended { job: job.clone(), to: to.clone(), failure: None });
        begun.push((job, to));
    }
    let jobs: Vec<&JobId> = begun.iter().map(|(job, _)| job).collect();
    assert_eq!(jobs, [&id(1), &id(2), &id(3)]);
    let hosts: BTreeSet<&HostId> = begun.iter().map(|(_, to)| to).collect();
    assert_eq!(hosts.len(), 3, "{begun:?}");
    world.live(5_000);
    let told = told_of(&world, "web");
    assert_eq!(told.standing, KeptStanding::Met);
    assert_eq!(told.members.len(), 3);
    // Who is not alone any more is moved.
    world.drop_job(Several::number(&begun[1].1), 2);
    world.put_job(Several::number(&begun[0].1), row(2, JobState::Running));
    world.live(60_000);
    assert_eq!(moves(&world.live(60_000 + SETTLE_MS)).len(), 1);
    let run = RunId(Uuid::from_u128(1));
    world.open = vec![Open { run, job: id(2), from: None, to: None }];
    world.live(62_000);
    assert_eq!(told_of(&world, "web").standing, KeptStanding::Mending { run, why: None });
}

#[test]
fn a_group_tells_how_many_run_and_why_the_others_do_not() {
    let mut world = World::new(2);
    world.put("web", 1, Some(json!([group(3)])));
    world.put_job(1, row(1, JobState::Running));
    world.put_job(1, ended(2, Reason::Requested));
    world.put_job(2, row(3, JobState::Running));
    world.live(0);
    assert_eq!(world.live(60_000), [], "who has ended one of it is obeyed");
    let one = told_of(&world, "web");
    let KeptStanding::Unmet { why, .. } = &one.standing else { panic!("{one:?}") };
    assert!(why.starts_with("2 of 3 run; vm-2 was ended by command"), "{why}");
    let words: Vec<&str> = one.members.iter().map(|member| member.standing.as_str()).collect();
    assert_eq!(words, ["met", "unmet", "met"]);
    assert_eq!(one.surplus, []);
    let figures = world.upkeep.figures(0);
    assert_eq!(figures.standings, BTreeMap::from([(("must", "unmet"), 1)]), "it is one of them");
    // None of it is made again that was there.
    world.drop_job(2, 3);
    world.live(60_000);
    assert_eq!(world.live(600_000), []);
    let why = world.why(600_000, "web");
    assert!(why.starts_with("1 of 3 run;") && why.contains("vm-3 was there and is gone"), "{why}");
}

#[test]
fn a_smaller_count_ends_nobody_and_a_larger_one_starts_more() {
    let mut world = World::new(2);
    world.put("web", 1, Some(json!([group(3)])));
    for n in 1..=3 {
        world.put_job(1, row(n, JobState::Running));
    }
    assert_eq!(world.live(0), []);
    world.put("web", 2, Some(json!([group(2)])));
    for now_ms in (0..120_000).step_by(500) {
        assert_eq!(world.live(now_ms), [], "at {now_ms}");
    }
    let one = told_of(&world, "web");
    assert_eq!((one.standing, one.surplus), (KeptStanding::Met, vec![id(3)]));
    // What ends beyond the count stays ended; what is of the group does not.
    world.put_job(1, ended(3, Reason::GuestShutdown));
    world.put_job(1, ended(2, Reason::GuestShutdown));
    world.live(120_000);
    assert_eq!(started(&world.live(120_000 + SETTLE_MS)), [id(2)]);
    world.drop_job(1, 3);
    world.live(130_000);
    assert_eq!(told_of(&world, "web").surplus, []);
    world.put_job(1, row(2, JobState::Running));
    world.handle(130_000, Input::Ended { job: id(2), to: host(1), failure: None });
    world.put("web", 3, Some(json!([group(4)])));
    world.live(200_000);
    assert_eq!(started(&world.live(200_000 + SETTLE_MS)), [id(3), id(4)]);
}

// Orders.

fn after(job: usize, others: &[usize]) -> Value {
    let others: Vec<JobId> = others.iter().map(|n| id(*n)).collect();
    json!({ "expect": "starts_after", "jobs": [id(job)], "after": others })
}

/// vm-1 starts after vm-2, and both are expected.
fn ordered() -> Value {
    json!([runs(1, 1, "must"), runs(2, 1, "must"), after(1, &[2])])
}

#[test]
fn a_vm_is_started_only_while_those_run_that_it_starts_after() {
    let mut world = World::new(2);
    world.put("shop", 1, Some(ordered()));
    world.live(0);
    assert_eq!(started(&world.live(SETTLE_MS)), [id(2)]);
    assert_eq!(world.why(SETTLE_MS, "shop"), "vm-1 waits for vm-2, which no host has");
    world.put_job(1, row(2, JobState::Starting));
    world.live(2_000);
    assert_eq!(world.live(30_000), [], "it does not run yet");
    let why = world.why(30_000, "shop");
    assert!(why.contains("waits for vm-2, which is starting on"), "{why}");
    world.put_job(1, row(2, JobState::Running));
    world.handle(30_000, Input::Ended { job: id(2), to: host(1), failure: None });
    assert_eq!(world.live(30_000), [], "it has stood so for a moment first");
    assert_eq!(started(&world.live(30_000 + SETTLE_MS)), [id(1)]);
}

#[test]
fn nothing_ends_when_what_it_started_after_does_and_after_a_power_cut_the_order_is_the_same() {
    let mut world = World::new(2);
    world.put("shop", 1, Some(ordered()));
    for n in 1..=2 {
        world.put_job(1, row(n, JobState::Running));
    }
    world.live(0);
    world.put_job(1, ended(2, Reason::Requested));
    world.live(1_000);
    assert_eq!(world.live(60_000), []);
    assert_eq!(world.standing(60_000, "shop"), KeptStanding::Met, "vm-1 runs on");
    // All ends at once; what was ended by command holds the other.
    world.put_job(1, ended(1, Reason::GuestShutdown));
    world.live(60_000);
    assert_eq!(world.live(120_000), []);
    let why = world.why(120_000, "shop");
    assert!(why.starts_with("vm-1 waits for vm-2, which is stopped on"), "{why}");
    world.put_job(1, ended(2, Reason::GuestShutdown));
    world.live(120_000);
    assert_eq!(started(&world.live(120_000 + SETTLE_MS)), [id(2)]);
    world.put_job(1, row(2, JobState::Running));
    world.handle(122_000, Input::Ended { job: id(2), to: host(1), failure: None });
    // Its host is silent for a moment: whether it runs nobody knows.
    world.hear(1, Freshness::Stale);
    world.put_job(1, row(2, JobState::Running));
    world.live(122_000);
    assert_eq!(world.live(180_000), []);
    assert!(world.why(180_000, "shop").contains("which is not heard"));
    world.hear(1, Freshness::Fresh);
    world.live(180_000);
    assert_eq!(started(&world.live(180_000 + SETTLE_MS)), [id(1)]);
}

#[test]
fn an_order_of_another_set_holds_and_is_over_when_that_is_deleted() {
    let mut world = World::new(2);
    world.put("web", 1, running());
    world.live(0);
    world.put("order", 1, Some(json!([after(1, &[2, 3])])));
    assert_eq!(world.live(60_000), []);
    let why = world.why(60_000, "web");
    assert_eq!(why, "vm-1 waits for vm-2, which no host has, and for 1 more");
    assert_eq!(world.standing(60_000, "order"), KeptStanding::Met, "nobody was started against it");
    world.put("order", 2, None);
    world.live(60_000);
    assert_eq!(started(&world.live(60_000 + SETTLE_MS)), [id(1)]);
}

#[test]
fn an_order_holds_back_nothing_that_matters_more() {
    let mut world = World::new(2);
    let mut order = after(1, &[2]);
    order["level"] = json!("should");
    world.put("web", 1, Some(json!([runs(1, 1, "must"), order])));
    world.put("wish", 1, Some(json!([runs(3, 1, "wish")])));
    let mut order = after(3, &[2]);
    order["level"] = json!("should");
    world.put("order", 1, Some(json!([order])));
    world.live(0);
    assert_eq!(started(&world.live(SETTLE_MS)), [id(1)]);
    assert!(world.why(0, "wish").contains("waits for vm-2"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    /// However many keep it, whoever of them is killed and whatever of it ends meanwhile: nothing is begun before
    /// what it starts after runs, and in the end all of it runs.
    #[test]
    fn starts_follow_their_order_whoever_lives(
        count in 1..4_u8,
        edges in prop::collection::btree_set((1..6_usize, 1..6_usize), 0..8),
        kills in prop::collection::vec((0..3_usize, 0..60_000_u64), 0..4),
        cuts in prop::collection::vec((1..6_usize, 20_000..60_000_u64), 0..5),
    ) {
        // Who has a lower number waits for those of a higher one: never in a circle.
        let edges: BTreeSet<(usize, usize)> = edges.into_iter().filter(|(a, b)| a < b).collect();
        let orders: Vec<Value> = edges.iter().map(|(job, other)| after(*job, &[*other])).collect();
        let mut several = Several::new(count, &[]);
        several.each(|world| {
            world.put("vms", 1, Some(json!([group(5)])));
            world.put("orders", 1, Some(json!(orders)));
        });
        for now_ms in (0..400_000).step_by(500) {
            for (who, _) in kills.iter().filter(|(_, at_ms)| at_ms / 500 == now_ms / 500) {
                several.kill(who % usize::from(count), now_ms);
            }
            for (job, _) in cuts.iter().filter(|(_, at_ms)| at_ms / 500 == now_ms / 500) {
                let Some((at, JobState::Running)) = several.home(&id(*job)) else { continue };
                several.each(|world| world.put_job(Several::number(&at), ended(*job, Reason::GuestShutdown)));
            }
            let runs = |several: &Several, n: usize| {
                several.home(&id(n)).is_some_and(|(_, state)| state == JobState::Running)
            };
            let up: BTreeSet<usize> = (1..6).filter(|n| runs(&several, *n)).collect();
            let before = several.begun.len();
            several.tick(now_ms);
            let up: BTreeSet<usize> = (1..6).filter(|n| up.contains(n) || runs(&several, *n)).collect();
            for (_, _, job) in &several.begun[before..] {
                let early = edges.iter().find(|(a, b)| id(*a) == *job && !up.contains(b));
                prop_assert_eq!(early, None, "at {} ms {} is begun", now_ms, job);
            }
        }
        for n in 1..6 {
            prop_assert!(several.home(&id(n)).is_some_and(|(_, s)| s == JobState::Running), "vm-{}", n);
        }
        let starts = 5 + cuts.len();
        prop_assert!(several.begun.len() <= starts, "{:?}", several.begun);
    }
}

// The property.

#[derive(Debug, Clone)]
enum Event {
    Job { host: u8, job: usize, state: usize },
    Gone { host: u8, job: usize },
    Label { host: u8, value: usize },
    Heard { host: u8, freshness: usize },
    Forgotten { host: u8 },
    Member { host: u8 },
    Put { set: usize, what: usize },
    Deleted { set: usize },
    Stopped { job: usize },
    Look,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1..5_u8, 1..4_usize, 0..10_usize)
            .prop_map(|(host, job, state)| Event::Job { host, job, state }),
        3 => (1..5_u8, 1..4_usize).prop_map(|(host, job)| Event::Gone { host, job }),
        3 => (1..5_u8, 0..3_usize).prop_map(|(host, value)| Event::Label { host, value }),
        3 => (1..5_u8, 0..3_usize).prop_map(|(host, freshness)| Event::Heard { host, freshness }),
        1 => (1..5_u8).prop_map(|host| Event::Forgotten { host }),
        1 => (1..6_u8).prop_map(|host| Event::Member { host }),
        2 => (0..3_usize, 0..SETS).prop_map(|(set, what)| Event::Put { set, what }),
        1 => (0..3_usize).prop_map(|set| Event::Deleted { set }),
        1 => (1..4_usize).prop_map(|job| Event::Stopped { job }),
        6 => Just(Event::Look),
    ]
}

/// How many sets [`any_set`] knows. Several of them may contradict each other: who has learnt them keeps them.
const SETS: usize = 15;

fn any_set(what: usize) -> Value {
    let spread =
        json!({ "expect": "spread_over", "jobs": ["vm-1", "vm-2", "vm-3"], "domain": "disk" });
    let one = match what {
        0 => return json!([running().unwrap()[0], spread]),
        1 => json!({ "expect": "runs", "job": "vm-2", "on": host(1) }),
        2 => json!({ "expect": "same_host", "jobs": ["vm-1", "vm-3"] }),
        3 => json!({ "expect": "lose_any_host" }),
        4 => json!({ "expect": "runs_on", "job": "vm-3", "on": host(2) }),
        5 => json!({ "expect": "has_size", "job": "vm-2", "size": { "vcpus": 1 } }),
        6 => return json!([on_ssd().unwrap()[0], apart().unwrap()[0]]),
        7 => apart_group(2),
        8 => return json!([group(3), after(1, &[2, 3])]),
        9 => after(1, &[2]),
        10 => after(2, &[1, 3]),
        11 => {
            let mut order = after(2, &[1]);
            order["level"] = json!("wish");
            return json!([running().unwrap()[0], runs(2, 1, "should"), order]);
        }
        12 => json!({ "expect": "balanced", "within_percent": 20, "labels": { "disk": "ssd" } }),
        13 => json!({ "expect": "balanced", "within_percent": 30, "moves_per_hour": 720 }),
        _ => json!({ "expect": "shines", "job": "vm-1" }),
    };
    json!([one])
}

fn any_row(job: usize, state: usize) -> Job {
    let states = [
        JobState::Accepted,
        JobState::Starting,
        JobState::Running,
        JobState::Paused,
        JobState::MigratingIn,
        JobState::MigratingOut,
        JobState::Stopping,
    ];
    match states.get(state) {
        Some(state) => row(job, *state),
        None if state == 7 => ended(job, Reason::Requested),
        None if state == 8 => ended(job, Reason::Migrated { to: host(1) }),
        None => ended(job, Reason::GuestShutdown),
    }
}

/// Judges everything anew, with the whole view.
fn anew(world: &World) -> BTreeMap<Key, Verdict> {
    let missing = world.members.iter().filter(|host| world.view.host(host).is_none());
    let missing: BTreeSet<HostId> = missing.cloned().collect();
    let judged = world.upkeep.items().map(|(key, item)| {
        let orders = world.upkeep.items().filter_map(|(_, other)| match (item, other) {
            (Item::Runs { job, level, .. }, Item::Order(order)) => {
                let binds = order.level <= *level && order.order.jobs.contains(job);
                binds.then_some(&order.order.after)
            }
            _ => None,
        });
        let after: BTreeSet<&JobId> = orders.flatten().collect();
        let facts = Facts {
            view: &world.view,
            freshness: &|host| freshness_of(world.heard.get(host)),
            missing: &missing,
            begun: &world.upkeep.sets[&key.0].record.begun,
            stopped: &world.upkeep.sets[&key.0].record.stopped,
            after: &after,
        };
        let verdict = judge(item, &facts);
        (key, verdict)
    });
    judged.collect()
}

/// VMs beyond the count of a group, looked for on all hosts.
fn surplus_anew(world: &World, expectation: &Value) -> Vec<JobId> {
    let count = if expectation["expect"] == "group" { expectation["count"].as_u64() } else { None };
    let rows = world.view.hosts().flat_map(|(_, row)| row.jobs.keys());
    let numbers = rows.map(|job| job.as_str().trim_start_matches("vm-").parse::<u64>().unwrap());
    let beyond: BTreeSet<u64> = numbers.filter(|n| count.is_some_and(|count| *n > count)).collect();
    beyond.into_iter().map(|n| id(n as usize)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn judged_fact_by_fact_is_judged_anew(events in prop::collection::vec(event(), 1..60)) {
        let mut world = World::new(3);
        let mut revision = 0;
        world.put("set-0", 1, Some(any_set(0)));
        world.put("set-1", 1, Some(any_set(6)));
        for (n, event) in events.into_iter().chain([Event::Look]).enumerate() {
            match event {
                Event::Job { host, job, state } => world.put_job(host, any_row(job, state)),
                Event::Gone { host, job } => world.drop_job(host, job),
                Event::Label { host, value } => {
                    world.label(host, [None, Some("ssd"), Some("tape")][value]);
                }
                Event::Heard { host, freshness } => {
                    let all = [Freshness::Fresh, Freshness::Stale, Freshness::Lost];
                    world.hear(host, all[freshness]);
                }
                Event::Forgotten { host: n } => drop(world.view.forget(&host(n))),
                Event::Member { host: n } => {
                    Arc::make_mut(&mut world.members).insert(host(n));
                }
                Event::Put { set, what } => {
                    revision += 2;
                    world.put(&format!("set-{set}"), revision, Some(any_set(what)));
                }
                Event::Deleted { set } => {
                    revision += 2;
                    world.put(&format!("set-{set}"), revision, None);
                }
                Event::Stopped { job } => {
                    let stopped = Input::Stopped { job: id(job), revision: Revision(1) };
                    drop(world.handle(0, stopped));
                }
                Event::Look => {
                    world.look(n as u64 * WHOLE_MS);
                    let kept: BTreeMap<Key, Verdict> = world
                        .upkeep
                        .judged
                        .iter()
                        .map(|(key, judged)| (key.clone(), judged.verdict.clone()))
                        .collect();
                    prop_assert_eq!(kept, anew(&world));
                    for status in world.upkeep.statuses(0, false) {
                        for one in status.expectations {
                            prop_assert_eq!(&one.surplus, &surplus_anew(&world, &one.expectation));
                        }
                    }
                }
            }
        }
    }
}

// Room.

/// A VM of so many GiB.
fn sized(n: usize, gib: u64) -> Job {
    let vm = VmSpec { vcpus: 1, memory_bytes: gib * GIB, ..VmSpec::default() };
    Job { spec: Arc::new(JobSpec::vm(vm)), ..row(n, JobState::Running) }
}

fn runs(n: usize, gib: u64, level: &str) -> Value {
    json!({ "expect": "runs", "job": id(n), "spec": sized(n, gib).spec, "level": level })
}

/// Two hosts with a small VM on each; a third VM needs a host of its own.
fn crowded(level: &str) -> World {
    let mut world = World::new(2);
    world.put_job(1, row(2, JobState::Running));
    world.put_job(2, sized(3, 2));
    world.put("big", 1, Some(json!([runs(1, 4, level)])));
    world.live(0);
    world
}

#[test]
fn others_move_so_that_what_must_run_fits_and_then_it_starts() {
    let mut world = crowded("must");
    let begun = world.begun(SETTLE_MS);
    let [(Want::Migrate { job, to, .. }, at, Some(because))] = &begun[..] else {
        panic!("{begun:?}")
    };
    assert_eq!((job, to, at), (&id(2), &host(2), &host(2)), "the smaller one");
    assert!(because.contains("so that vm-1 fits on"), "{because}");
    let run = RunId(Uuid::from_u128(1));
    world.open = vec![Open { run, job: id(2), from: Some(host(1)), to: Some(host(2)) }];
    assert_eq!(world.live(SETTLE_MS + 1), [], "nobody else moves meanwhile");
    let standing = world.standing(SETTLE_MS + 1, "big");
    let why = Some(format!("moves vm-2 to {} {because}", host(2).short()));
    assert_eq!(standing, KeptStanding::Mending { run, why });
    assert_eq!(world.live(60_000), []);
    world.drop_job(1, 2);
    world.put_job(2, row(2, JobState::Running));
    world.open.clear();
    world.handle(61_000, Input::Ended { job: id(2), to: host(2), failure: None });
    let begun = world.begun(61_000);
    assert!(
        matches!(&begun[..], [(Want::Run { job, .. }, to, None)] if *job == id(1) && *to == host(1)),
        "{begun:?}"
    );
}

#[test]
fn nobody_moves_for_what_only_should_be() {
    for level in ["should", "wish"] {
        let mut world = crowded(level);
        assert_eq!(world.live(SETTLE_MS), []);
        let why = world.why(SETTLE_MS, "big");
        assert!(why.contains("move vm-2 from") && why.contains("makes room"), "{why}");
    }
}

#[test]
fn whoever_is_expected_where_it_is_does_not_move_for_others() {
    for kept in [
        json!([{ "expect": "no_migration", "job": "vm-2" }]),
        json!([{ "expect": "runs_on", "job": "vm-2", "on": host(1) }]),
        json!([{ "expect": "runs", "job": "vm-2", "on": host(1) }]),
        json!([{ "expect": "not_same_host", "jobs": ["vm-2", "vm-3"] }]),
    ] {
        let mut world = crowded("must");
        world.put_job(2, sized(3, 2));
        world.put("stay", 1, Some(kept.clone()));
        // vm-3 could go to h1; from h1 nobody may.
        let moved = moves(&world.live(SETTLE_MS));
        assert!(moved.iter().all(|(job, _)| *job != id(2)), "{kept}: {moved:?}");
    }
}

#[test]
fn whoever_was_moved_of_late_is_left_alone_for_a_while() {
    let mut world = crowded("must");
    world.put("stay", 1, Some(json!([{ "expect": "no_migration", "job": "vm-3" }])));
    world.handle(0, Input::Moved { job: id(2) });
    assert_eq!(world.live(SETTLE_MS), []);
    assert_eq!(world.live(9_999), []);
    assert_eq!(moves(&world.live(21_000)), [(id(2), host(2))]);
}

#[test]
fn whoever_could_not_be_moved_rests_and_another_is_taken() {
    let mut world = crowded("must");
    assert_eq!(moves(&world.live(SETTLE_MS)), [(id(2), host(2))]);
    let failure = Some("it did not want to".to_owned());
    world.handle(2_000, Input::Ended { job: id(2), to: host(2), failure });
    assert_eq!(moves(&world.live(2_000)), [(id(3), host(1))]);
}

#[test]
fn while_somebody_else_makes_room_nobody_else_moves() {
    let mut world = crowded("must");
    let out = Job { state: JobState::MigratingOut, ..row(2, JobState::Running) };
    let coming = Job { state: JobState::MigratingIn, ..row(2, JobState::Running) };
    world.put_job(1, out);
    world.put_job(2, coming.clone());
    for now_ms in (SETTLE_MS..20_000).step_by(500) {
        assert_eq!(world.live(now_ms), []);
    }
    // The guest has stayed after all, and it is our turn.
    world.put_job(1, row(2, JobState::Running));
    world.drop_job(2, 2);
    world.live(20_000);
    world.live(20_000 + SETTLE_MS);
    let later = world.live(20_000 + SETTLE_MS + PLAN_IDLE_MS);
    assert!(later.len() <= 1, "{later:?}");
    assert!(world.standing(23_100, "big") != KeptStanding::Met);
}

#[test]
fn a_world_that_cannot_lose_a_host_is_told_with_numbers_and_a_move_is_no_news() {
    let mut world = World::new(2);
    world.put("spare", 1, Some(json!([{ "expect": "lose_any_host" }])));
    world.put_job(1, sized(1, 3));
    world.put_job(2, row(2, JobState::Running));
    world.live(0);
    assert_eq!(world.standing(0, "spare"), KeptStanding::Met);
    // On its way it counts once, where it goes.
    world.put_job(1, Job { state: JobState::MigratingOut, ..sized(1, 3) });
    world.put_job(2, Job { state: JobState::MigratingIn, ..sized(1, 3) });
    world.live(WHOLE_MS);
    assert_eq!(world.standing(WHOLE_MS, "spare"), KeptStanding::Met);
    world.drop_job(1, 1);
    world.put_job(2, sized(1, 3));
    world.put_job(1, sized(3, 2));
    world.live(2 * WHOLE_MS);
    let why = world.why(2 * WHOLE_MS, "spare");
    assert!(why.contains("would strand 1 VMs: vm-1 (needs 3GiB of memory, 2GiB free)"), "{why}");
    assert_eq!(world.live(3 * WHOLE_MS), [], "it is told, and moves nothing");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    /// However many schedulers make room for however large VMs: it comes to rest, nobody is moved again and again,
    /// no host gets more than it has, and what stays unmet has no way.
    #[test]
    fn room_is_made_and_comes_to_rest(
        count in 1..4_u8,
        homes in prop::collection::vec((1..5_u8, 1..3_u64), 1..6),
        bigs in prop::collection::vec(2..5_u64, 1..3),
        pinned in prop::option::of(10..13_usize),
    ) {
        let mut several = Several::new(count, &[]);
        several.each(|world| {
            for (n, (home, gib)) in (10..).zip(&homes) {
                let row = world.view.host(&host(*home)).unwrap();
                let free = row.host.capacity.minus(row.host.allocation);
                if sized(n, *gib).allocation().fits_in(free) {
                    world.put_job(*home, sized(n, *gib));
                }
            }
            let sets = bigs.iter().zip(1..).map(|(gib, n)| runs(n, *gib, "must"));
            for (set, one) in sets.enumerate() {
                world.put(&format!("big-{set}"), 1, Some(json!([one])));
            }
            let stays = pinned.map(|n| json!([{ "expect": "no_migration", "job": id(n) }]));
            world.put("stay", 1, stays);
        });
        for now_ms in (0..200_000).step_by(500) {
            several.tick(now_ms);
            for (_, row) in several.worlds[0].view.hosts() {
                prop_assert!(row.host.allocation.fits_in(row.host.capacity));
            }
        }
        let late = several.begun.iter().filter(|(at_ms, ..)| *at_ms > 100_000);
        prop_assert_eq!(late.count(), 0, "it is still at it: {:?}", several.begun);
        let starts = bigs.len();
        prop_assert!(several.begun.len() <= starts + 4 * starts, "{:?}", several.begun);
        let moved = several.begun.iter().any(|(_, _, job)| pinned.is_some_and(|n| *job == id(n)));
        prop_assert!(!moved);
        let world = &mut several.worlds[0];
        world.look(200_000);
        let due = world.upkeep.items().map(|(key, _)| key).collect();
        let aims = world.upkeep.aims(200_000, &due);
        let mut input = planner::PlanInput {
            view: world.view.clone(),
            expectations: aims.goals.into_iter().map(|(_, goal)| goal).collect(),
            clauses: aims.clauses,
            ..planner::PlanInput::default()
        };
        crate::knowledge::make_room(&mut input, aims.heeded);
        prop_assert_eq!(planner::plan(&input).plan.steps, vec![], "begun {:?}", several.begun);
    }
}

/// Several schedulers that keep the same sets of one world, each with its own picture of it.
struct Several {
    worlds: Vec<World>,
    /// Moves and starts under way: who has begun it, the job as it will be, where to, when it is done.
    going: Vec<(usize, Job, Option<HostId>, HostId, u64)>,
    begun: Vec<(u64, usize, JobId)>,
}

impl Several {
    fn new(count: u8, sets: &[(usize, usize)]) -> Self {
        let all: Vec<_> = (101..101 + count).map(key).collect();
        let worlds = all.iter().map(|me| {
            let mut world = World::new(4);
            world.turns = Turns { me: Some(*me), all: all.clone() };
            for (set, what) in sets {
                world.put(&format!("set-{set}"), 1, Some(any_set(*what)));
            }
            world
        });
        Self { worlds: worlds.collect(), going: vec![], begun: vec![] }
    }

    /// One is killed and begins anew with what it has stored; what it has begun goes on.
    fn kill(&mut self, who: usize, now_ms: u64) {
        let world = &mut self.worlds[who];
        let stored: Vec<SetRecord> =
            world.upkeep.sets.values().map(|set| set.record.clone()).collect();
        world.upkeep = Upkeep::default();
        for record in stored {
            world.handle(now_ms, Input::Recovered(record));
        }
    }

    fn each(&mut self, change: impl Fn(&mut World)) {
        self.worlds.iter_mut().for_each(change);
    }

    fn number(id: &HostId) -> u8 {
        (1..=4).find(|n| host(*n) == *id).expect("one of the four")
    }

    fn home(&self, job: &JobId) -> Option<(HostId, JobState)> {
        let (row, job) = self.worlds[0].view.job_best(job)?;
        Some((row.host.id.clone(), job.state))
    }

    fn tick(&mut self, now_ms: u64) {
        let done: Vec<_> = self.going.extract_if(.., |(.., at_ms)| *at_ms <= now_ms).collect();
        for (who, job, from, to, _) in done {
            self.each(|world| {
                if let Some(from) = &from {
                    world.host(Self::number(from), |_, jobs| drop(jobs.remove(&job.id)));
                }
                world.put_job(Self::number(&to), job.clone());
                world.open.retain(|run| run.job != job.id);
            });
            let ended = Input::Ended { job: job.id, to, failure: None };
            self.worlds[who].handle(now_ms, ended);
        }
        for who in 0..self.worlds.len() {
            for (want, to, _) in self.worlds[who].begun(now_ms) {
                self.begin(now_ms, who, &want, to);
            }
        }
    }

    /// Hosts let one begin what several want; the others are told no.
    fn begin(&mut self, now_ms: u64, who: usize, want: &Want, to: HostId) {
        let job = want.job().clone();
        let home = self.home(&job);
        let known = self.worlds[0].view.job_best(&job).map(|(_, job)| Job::clone(job));
        let (from, will_be) = match (want, &home) {
            (Want::Migrate { .. }, Some((from, JobState::Running))) => {
                (Some(from.clone()), known.unwrap())
            }
            (Want::Run { spec, .. }, home) if home.as_ref().is_none_or(|(_, s)| s.is_ended()) => {
                let spec = spec.clone();
                (None, Job::of(job.clone(), spec, JobState::Running))
            }
            // It has another size already, or somebody is at it.
            (_, _) => {
                self.worlds[who].handle(now_ms, Input::Busy { job });
                return;
            }
        };
        let row = &self.worlds[0].view.host(&to).unwrap().host;
        let free = row.capacity.minus(row.allocation);
        if !will_be.allocation().fits_in(free) {
            let failure = Some("somebody was faster".to_owned());
            self.worlds[who].handle(now_ms, Input::Ended { job, to, failure });
            return;
        }
        let run = RunId(Uuid::from_u128(self.begun.len() as u128));
        let open = Open { run, job: job.clone(), from: from.clone(), to: Some(to.clone()) };
        self.worlds[who].open.push(open);
        let shown = |state| Job { state, ..will_be.clone() };
        self.each(|world| match &from {
            Some(from) => {
                world.put_job(Self::number(from), shown(JobState::MigratingOut));
                world.put_job(Self::number(&to), shown(JobState::MigratingIn));
            }
            None => world.put_job(Self::number(&to), shown(JobState::Starting)),
        });
        self.going.push((who, will_be, from, to, now_ms + 2_000));
        self.begun.push((now_ms, who, job));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// However many keep the same, and whatever the world is like: it comes to rest, and then each
    /// expectation is met or the planner knows no way.
    #[test]
    fn a_world_that_is_left_alone_comes_to_rest(
        count in 1..4_u8,
        sets in prop::collection::btree_map(0..3_usize, 0..SETS, 1..4),
        homes in prop::collection::vec(1..5_u8, 3),
        labels in prop::collection::vec(0..3_usize, 4),
        later in prop::collection::vec(0..3_usize, 4),
    ) {
        let mut several = Several::new(count, &sets.into_iter().collect::<Vec<_>>());
        let values = [None, Some("ssd"), Some("tape")];
        several.each(|world| {
            for (n, home) in homes.iter().enumerate() {
                world.put_job(*home, row(n + 1, JobState::Running));
            }
            for (n, label) in (1..).zip(&labels) {
                world.label(n, values[*label]);
            }
        });
        for now_ms in (0..200_000).step_by(500) {
            if now_ms == 100_000 {
                several.each(|world| {
                    for (n, label) in (1..).zip(&later) {
                        world.label(n, values[*label]);
                    }
                });
            }
            several.tick(now_ms);
        }
        let late = several.begun.iter().filter(|(at_ms, ..)| *at_ms > 150_000);
        prop_assert_eq!(late.count(), 0, "it is still at it: {:?}", several.begun);
        prop_assert!(several.begun.len() <= 12, "{:?}", several.begun);
        for world in &mut several.worlds {
            world.look(200_000);
            for (key, judged) in &world.upkeep.judged {
                let is_at_rest = !matches!(judged.verdict, Verdict::Coming { .. });
                prop_assert!(is_at_rest, "{key:?}: {judged:?}");
            }
            // Nothing is left that a plan for all of it would do.
            let due = world.upkeep.items().map(|(key, _)| key).collect();
            let aims = world.upkeep.aims(200_000, &due);
            let input = planner::PlanInput {
                view: world.view.clone(),
                levels: aims.goals.iter().map(|(l, goal)| (goal.job().clone(), *l)).collect(),
                expectations: aims.goals.into_iter().map(|(_, goal)| goal).collect(),
                clauses: aims.clauses,
                ..planner::PlanInput::default()
            };
            let left = planner::plan(&input).plan.steps;
            prop_assert_eq!(left, vec![], "begun {:?}", several.begun);
        }
    }
}

#[test]
fn a_look_at_an_unchanged_world_judges_nothing() {
    let mut world = labelled(3);
    world.look(0);
    let (changed, is_change) = world.upkeep.index.update(
        &world.view.clone(),
        &world.heard.clone(),
        &world.members.clone(),
    );
    assert_eq!((changed.len(), is_change), (0, false));
    // A change that nobody reads of is none either.
    world.put_job(
        3,
        Job { spec: Arc::clone(&row(9, JobState::Running).spec), ..row(9, JobState::Running) },
    );
    let (changed, is_change) = world.upkeep.index.update(
        &world.view.clone(),
        &world.heard.clone(),
        &world.members.clone(),
    );
    assert_eq!((changed.len(), is_change), (0, true));
}
