//! Scripts of what is kept true, beginning with what is mended, when, and what is left alone.

use std::sync::Arc;

use planner::steps::MigrateVm;
use planner::{Unmet, UnmetReason};
use proptest::prelude::*;
use protocol::expectations::KeptStanding;
use protocol::host::{Accel, Host, HypervisorFacts, Inventory};
use protocol::id::{Cursor, Epoch, OfferId, Revision, RunId};
use protocol::job::{Job, JobSpec, JobState, Reason};
use protocol::resources::Resources;
use protocol::signed::SecretKey;
use protocol::view::Freshness;
use protocol::vm::{OnLoss, VmSpec};
use serde_json::json;
use uuid::Uuid;

use self::several::Several;
use super::mending::{ends_of, said_of};
use super::*;

mod balance;

mod by_use;

mod foresight;

mod groups;

mod orders;

mod property;

mod reads;

mod room;

mod saving;

mod sets;

mod several;

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
    powers: Powers,
    used: Used,
    terms: Option<Terms>,
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
        let look = self.seen();
        self.handle(now_ms, Input::Looked(Box::new(look)))
    }

    fn seen(&self) -> Look {
        let (view, heard) = (self.view.clone(), self.heard.clone());
        let (members, open) = (self.members.clone(), self.open.clone());
        let (turns, powers) = (self.turns.clone(), Arc::new(self.powers.clone()));
        let used = Arc::new(self.used.clone());
        let terms = self.terms;
        Look { view, heard, members, powers, used, terms, open, turns }
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
            let (view, heard) = (self.view.clone(), heard.collect());
            let input = planner::PlanInput { view, heard, ..planner::PlanInput::default() };
            let input = aims.told(self.powers.told(input).with_host_intents());
            let outcome = planner::plan(&input);
            let state = planner::State::new(&input);
            let planner::Plan { steps, favours, shifts, savings, .. } = outcome.plan;
            let is_saving = |step: &Step| savings.iter().any(|saving| saving.has(step));
            let steps = steps.into_iter().filter(|step| !is_saving(step));
            let steps = steps.filter(|step| step.check(&state).is_ok()).collect();
            let (report, open) = (outcome.report, self.open.clone());
            let planned = Input::Planned { steps, favours, shifts, savings, report, open };
            for effect in self.handle(now_ms, planned) {
                if let Effect::Mend { want, to, because, .. } = effect {
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

/// A VM of so many GiB.
fn sized(n: usize, gib: u64) -> Job {
    let vm = VmSpec { vcpus: 1, memory_bytes: gib * GIB, ..VmSpec::default() };
    Job { spec: Arc::new(JobSpec::vm(vm)), ..row(n, JobState::Running) }
}

fn runs(n: usize, gib: u64, level: &str) -> Value {
    json!({ "expect": "runs", "job": id(n), "spec": sized(n, gib).spec, "level": level })
}

fn after(job: usize, others: &[usize]) -> Value {
    let others: Vec<JobId> = others.iter().map(|n| id(*n)).collect();
    json!({ "expect": "starts_after", "jobs": [id(job)], "after": others })
}

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
    let help = "What would help: another host with 1GiB of memory free, where vm-1 can wait";
    assert!(why.contains(help), "{why}");
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
