//! Arbiters that are changed while VMs run, start and fail over, or recovered from when they are lost: the
//! stories of the tenure protocol's §10, and each of its rules broken on purpose.

use std::collections::BTreeSet;

use bootstrap::committee::{begun, completed, recovered, taken_back};
use host_agent::core::Request;
use protocol::id::{JobId, OfferId};
use protocol::job::{JobKind, JobSpec, JobState};
use protocol::refusal::Refusal;
use protocol::ticket::Action;
use protocol::vm::OnLoss;
use tests::sim::message::NodeId;
use tests::sim::operator::change;
use tests::sim::verdict::{rest, simulate_rivals};
use tests::sim::workload::{job_id, spec};
use tests::sim::{Mutant, Profile, World};

/// T, and some time to read hosts and to agree.
const CHANGE_MS: u64 = 25_000;

fn profile(seed: u64) -> Profile {
    Profile { has_lapsing: true, spare_arbiters: 3, ..Profile::calm(seed) }
}

/// Only the first job of such a world is kept.
fn stop_job(n: u64) -> (JobId, JobSpec) {
    let mut stop = spec(1, false, false);
    let JobKind::Vm(vm) = &mut stop.kind else { unreachable!("it is a VM") };
    vm.on_loss = OnLoss::Stop;
    (job_id(n), stop)
}

/// A job that is killed when it is not covered, and one that is kept.
fn jobs() -> [(JobId, JobSpec); 2] {
    [stop_job(1), (job_id(0), spec(1, false, false))]
}

/// A world in which both jobs run on host 0, by arbiters 0, 1 and 2.
#[track_caller]
fn running(profile: Profile, mutant: Option<Mutant>) -> World {
    let has_lapsing = profile.has_lapsing;
    let mut world = World::new(profile, mutant);
    world.run_ms(15_000);
    let jobs = jobs().into_iter().skip(usize::from(!has_lapsing));
    for (job, spec) in jobs {
        assert!(world.start(0, &job, 1, &spec), "granted");
        world.await_state(0, &job, JobState::Running);
    }
    world.run_ms(2_000);
    world
}

/// The operator signs the beginning of a change, and gives it to every host that can be reached.
fn begin(world: &mut World, leaves: &[u32], joins: &[u32]) {
    let next = begun(&world.trust, &change(leaves, joins)).expect("a change");
    world.decree(next);
    world.give_to_all();
}

/// The same by an operator who takes those who leave for lost, rightly or not.
fn recover(world: &mut World, leaves: &[u32], joins: &[u32]) {
    let change = change(leaves, joins);
    let next = recovered(&world.trust, Some(&change), &BTreeSet::new()).expect("a change");
    world.decree(next);
    world.give_to_all();
}

/// A way in which a change begins: who leaves, who comes.
type Beginning = fn(&mut World, &[u32], &[u32]);

/// All of them.
const BEGINNINGS: [Beginning; 2] = [begin, recover];

fn kill(world: &mut World, arbiters: impl Iterator<Item = usize>) {
    for arbiter in arbiters {
        let node = world.arbiters[arbiter].node;
        world.kill_process(node);
    }
}

fn revive(world: &mut World, arbiters: impl Iterator<Item = usize>) {
    for arbiter in arbiters {
        let node = world.arbiters[arbiter].node;
        world.start_after(node, 0);
    }
}

/// The operator completes it as soon as that can be; false when it can't within that time.
pub(super) fn complete(world: &mut World, within_ms: u64) -> bool {
    let end_us = world.now_us + within_ms * 1_000;
    while world.now_us < end_us && !world.is_over() {
        if let Ok(next) = completed(&world.trust, &world.operators.words) {
            world.decree(next);
            world.give_to_all();
            world.run_ms(1_500);
            return true;
        }
        world.ask_words();
        world.give_to_all();
        world.run_ms(250);
    }
    false
}

fn cut(world: &mut World, node: NodeId, others: impl Iterator<Item = NodeId>) {
    for other in others {
        world.network.part(node, other);
    }
}

fn cut_off(world: &mut World, host: usize) {
    let node = world.hosts[host].node;
    let others: Vec<NodeId> = (0..world.nodes.len()).map(NodeId).filter(|n| *n != node).collect();
    cut(world, node, others.into_iter());
}

fn cut_from_arbiters(world: &mut World, host: usize, arbiters: &[usize]) {
    let node = world.hosts[host].node;
    let others: Vec<NodeId> = arbiters.iter().map(|n| world.arbiters[*n].node).collect();
    cut(world, node, others.into_iter());
}

fn heal(world: &mut World) {
    world.network.cut.clear();
    world.operators.deaf.clear();
}

/// Neither the operator nor an arbiter that reads the host brings it a document.
fn cut_from_operator(world: &mut World, host: usize) {
    world.operators.deaf.insert(host);
    let (node, operator) = (world.hosts[host].node, world.engines[0].node);
    cut(world, node, std::iter::once(operator));
}

/// Asks for the job on host 1 in the place of a lost hold on host 0, again and again; false when it is
/// not granted within that time.
fn fail_over(world: &mut World, hold: OfferId, within_ms: u64) -> bool {
    let [(job, spec), _] = jobs();
    let end_us = world.now_us + within_ms * 1_000;
    let mut revision = 100;
    while world.now_us < end_us && !world.is_over() {
        revision += 1;
        let action = Action::FailOver { from: world.hosts[0].id.clone(), hold };
        if let Some(offer) = world.offer(1, &job, revision, &spec, action)
            && let Some(ticket) = world.ticket(offer)
            && matches!(world.put(1, &job, &spec, ticket, None), Some(Ok(_)))
        {
            world.run_ms(3_000);
            return true;
        }
        world.run_ms(50);
    }
    false
}

/// Asks for a job on a host as if it ran nowhere, for a while.
fn take(world: &mut World, host: usize, (job, spec): &(JobId, JobSpec)) -> bool {
    for revision in 200..215 {
        if world.is_over() || world.start(host, job, revision, spec) {
            world.run_ms(3_000);
            return true;
        }
        world.run_ms(1_000);
    }
    false
}

#[track_caller]
fn ends_well(mut world: World) {
    world.heal();
    rest(&mut world);
    assert_eq!(world.violation, None);
}

fn run_on(world: &World, host: usize) -> [bool; 2] {
    jobs().map(|(job, _)| world.runs(host, &job))
}

/// One in the place of another, then all of them: VMs run on, things start at every moment, and in the
/// end the first three are of no use and not missed.
#[test]
fn arbiters_are_replaced_while_everything_goes_on() {
    for seed in 600..606 {
        let mut world = running(profile(seed), None);
        let guests = world.hosts[0].hv.domains.clone().into_keys().collect::<Vec<_>>();
        for (leaves, joins) in [(vec![2], vec![3]), (vec![0, 1], vec![4, 5])] {
            begin(&mut world, &leaves, &joins);
            let mut started = 10 * (1 + world.trust.version);
            let begin_us = world.now_us;
            while !complete(&mut world, 900) {
                assert!(world.now_us < begin_us + CHANGE_MS * 1_000, "seed {seed} takes too long");
                started += 1;
                let (job, spec) = stop_job(started);
                // An offer that is open when its host agrees ends with that; who asks again gets another.
                let is_started = (1..3).any(|revision| world.start(1, &job, revision, &spec));
                assert!(is_started, "{job} was not granted, seed {seed}");
                world.await_state(1, &job, JobState::Running);
                world.stop(1, &job);
                world.delete(1, &job);
            }
            assert_eq!(run_on(&world, 0), [true, true], "seed {seed}");
        }
        for arbiter in 0..3 {
            let node = world.arbiters[arbiter].node;
            world.kill_process(node);
        }
        world.run_ms(30_000);
        assert_eq!(run_on(&world, 0), [true, true], "three others cover it");
        let same = world.hosts[0].hv.domains.keys().copied().collect::<Vec<_>>();
        assert_eq!(guests, same);
        let hold = world.hold(0, &job_id(1)).expect("a hold");
        cut_off(&mut world, 0);
        assert!(fail_over(&mut world, hold, 20_000), "and grant");
        ends_well(world);
    }
}

#[test]
fn joint_replacement_with_a_host_asleep() {
    let mut world = running(profile(610), None);
    cut_from_operator(&mut world, 0);
    begin(&mut world, &[0, 1, 2], &[3, 4, 5]);
    assert!(!complete(&mut world, 40_000), "host 0 has not heard of it");
    assert_eq!(run_on(&world, 0), [true, true]);
    // Its arbiters are still those that it knows, and others know of it by them.
    let [stop, kept] = jobs();
    assert!(!take(&mut world, 1, &kept));
    assert!(!take(&mut world, 1, &stop));
    heal(&mut world);
    assert!(complete(&mut world, CHANGE_MS), "it has");
    assert_eq!(run_on(&world, 0), [true, true]);
    ends_well(world);
}

/// A host that has not heard yet that its arbiters were changed needs them until it has.
#[test]
fn those_who_left_cover_who_has_not_heard_of_it() {
    let mut world = running(profile(620), None);
    begin(&mut world, &[0, 1, 2], &[3, 4, 5]);
    while world.hosts.iter().any(|host| host.disk.ledger.agreed.is_none()) {
        world.run_ms(100);
    }
    cut_from_operator(&mut world, 0);
    assert!(complete(&mut world, CHANGE_MS));
    assert_ne!(world.trust_of_host(0).version, world.trust.version);
    world.run_ms(30_000);
    assert_eq!(run_on(&world, 0), [true, true]);
    ends_well(world);
}

#[test]
fn a_change_is_taken_back_until_a_host_has_agreed() {
    let mut world = running(profile(630), None);
    // Those who are to come are not there, so nobody agrees.
    for arbiter in 3..6 {
        let node = world.arbiters[arbiter].node;
        world.kill_process(node);
    }
    begin(&mut world, &[0, 1, 2], &[3, 4, 5]);
    world.run_ms(20_000);
    assert_eq!(run_on(&world, 0), [true, true], "nothing waits for them");
    let back = taken_back(&world.trust).expect("a change");
    world.decree(back);
    world.give_to_all();
    world.run_ms(1_000);
    assert!((0..3).all(|host| world.trust_of_host(host).version == world.trust.version));
    assert!(take(&mut world, 1, &stop_job(7)));

    let bound = |world: &World| world.hosts.iter().all(|host| host.disk.ledger.agreed.is_some());
    begin_with(&mut world, &[2], &[3]);
    assert!(world.run_until(CHANGE_MS, bound));
    let back = taken_back(&world.trust).expect("a change");
    world.decree(back);
    let signed = world.trust_signed.clone();
    let answer = world.ask_host(0, Request::Trust(signed));
    assert!(matches!(answer, Some(Err(Refusal::UnlawfulTrust { .. }))), "{answer:?}");
    // Begun anew from there, it is another change, which no host follows; the first goes on.
    recover(&mut world, &[2], &[3]);
    assert!(!complete(&mut world, CHANGE_MS), "hosts are bound to the first");
    let first = world.bound_to(&world.trust).expect("a change that hosts are bound to");
    world.decree(world.above_all(first));
    assert!(complete(&mut world, CHANGE_MS));
    assert!(world.trust.committee().has(3) && !world.trust.committee().has(2));
    ends_well(world);
}

fn begin_with(world: &mut World, leaves: &[u32], joins: &[u32]) {
    for arbiter in 3..6 {
        let node = world.arbiters[arbiter].node;
        world.start_after(node, 0);
    }
    world.run_ms(500);
    begin(world, leaves, joins);
}

/// Two of three are gone: what needs cover ends, what is kept runs on, nothing starts, and an ordinary
/// change has no end. It is recovered from; and when those two come back with their keys, they are nobody.
#[test]
fn a_majority_that_is_lost_is_replaced_without_it_and_is_powerless_when_it_returns() {
    for seed in 640..644 {
        let mut world = running(profile(seed), None);
        kill(&mut world, 0..2);
        world.run_ms(15_000);
        assert_eq!(run_on(&world, 0), [false, true], "seed {seed}");
        assert!(!world.start(1, &job_id(9), 1, &spec(1, false, false)));
        begin(&mut world, &[0, 1], &[3, 4]);
        assert!(
            !complete(&mut world, CHANGE_MS),
            "an ordinary change waits for those who are lost"
        );
        let same = recovered(&world.trust, None, &BTreeSet::new()).expect("a change");
        world.decree(same);
        world.give_to_all();
        assert!(complete(&mut world, CHANGE_MS), "seed {seed}");
        assert!(take(&mut world, 2, &stop_job(9)), "things start");
        let [stop, kept] = jobs();
        assert!(!take(&mut world, 1, &kept), "they know what runs");
        assert!(take(&mut world, 1, &stop), "and what has ended");

        revive(&mut world, 0..2);
        world.run_ms(15_000);
        kill(&mut world, 2..5);
        world.run_ms(15_000);
        assert!(!world.start(2, &job_id(11), 1, &spec(1, false, false)));
        assert!(run_on(&world, 0)[1] && !run_on(&world, 1)[0], "they cover nothing");
        revive(&mut world, 2..5);
        ends_well(world);
    }
}

/// The operator is wrong: they are not lost, and the host that they cover has not heard of anything.
#[test]
fn who_is_taken_for_lost_and_is_not_harms_nothing() {
    let mut world = running(profile(650), None);
    cut_from_operator(&mut world, 0);
    recover(&mut world, &[0, 1, 2], &[3, 4, 5]);
    assert!(!complete(&mut world, 40_000), "host 0 has not agreed");
    assert_eq!(run_on(&world, 0), [true, true]);
    heal(&mut world);
    assert!(complete(&mut world, CHANGE_MS), "it has");
    assert_eq!(run_on(&world, 0), [true, true], "nothing was touched");
    ends_well(world);
}

/// Two operators who know nothing of each other may keep each other from their ends, and break nothing.
#[track_caller]
fn rivals_break_nothing_over(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let verdict = simulate_rivals(seed, None);
        assert_eq!(verdict.violation, None, "seed {seed}");
    }
}

#[test]
fn rivals_break_nothing() {
    rivals_break_nothing_over(0..30);
}

#[test]
fn rivals_break_nothing_in_more_worlds() {
    rivals_break_nothing_over(30..60);
}

// Rules broken on purpose.

/// In a world where everything lapses, or in one where nothing does.
#[track_caller]
fn found_in_a_story(mutant: Mutant, has_lapsing: bool, rule: &str, story: impl Fn(&mut World)) {
    let tell = |seed, mutant| {
        let mut world = running(Profile { has_lapsing, ..profile(seed) }, mutant);
        story(&mut world);
        world.violation
    };
    for seed in 700..703 {
        assert_eq!(tell(seed, None), None, "the story itself breaks a rule, seed {seed}");
    }
    let found = (700..703).find_map(|seed| tell(seed, Some(mutant)));
    assert_eq!(found.map(|v| v.invariant), Some(rule), "{mutant:?}");
}

const TWICE: &str = "no_vm_runs_on_two_hosts";

/// The host reaches those who are to follow, and not those in force, who give its job away.
#[test]
fn next_alone_covers() {
    for begin in BEGINNINGS {
        next_alone_covers_by(begin);
    }
}

fn next_alone_covers_by(begin: Beginning) {
    found_in_a_story(Mutant::NextAloneCovers, true, TWICE, |world| {
        let hold = world.hold(0, &job_id(1)).expect("a hold");
        begin(world, &[0, 1, 2], &[3, 4, 5]);
        world.run_ms(5_000);
        // They have read host 1, which can't hear that they are ready: it goes on by those in force.
        cut_from_arbiters(world, 1, &[3, 4, 5]);
        let has_agreed = |world: &World| world.hosts[0].disk.ledger.agreed.is_some();
        assert!(world.run_until(CHANGE_MS, has_agreed));
        cut_from_arbiters(world, 0, &[0, 1, 2]);
        fail_over(world, hold, 20_000);
    });
}

/// A quorum of those who are to follow has said that it is ready.
fn await_words(world: &mut World) {
    for _ in 0..100 {
        world.ask_words();
        world.run_ms(250);
        if completed(&world.trust, &world.operators.words).is_ok() {
            return;
        }
    }
    assert!(world.is_over(), "no quorum of those who are to follow is ready");
}

/// Every host has agreed; host 0 is cut off from those who take over, who give its job away, and goes on
/// with those before.
#[test]
fn present_alone_covers() {
    for begin in BEGINNINGS {
        found_in_a_story(Mutant::PresentAloneCovers, true, TWICE, |world| {
            let hold = world.hold(0, &job_id(1)).expect("a hold");
            begin(world, &[0, 1, 2], &[3, 4, 5]);
            await_words(world);
            cut_from_arbiters(world, 0, &[3, 4, 5]);
            cut_from_operator(world, 0);
            if complete(world, 5_000) {
                fail_over(world, hold, 25_000);
            }
        });
    }
}

/// Every host has agreed and those who take over are ready; host 0 is cut off from them, and somebody
/// asks those in force alone for a job there. Then the change is completed, and those who took over are
/// asked for the same job elsewhere.
fn granted_by_those_in_force_alone(world: &mut World, begin: Beginning, restarts: bool) {
    let story = (job_id(8), spec(1, false, false));
    begin(world, &[0, 1, 2], &[3, 4, 5]);
    await_words(world);
    cut_from_arbiters(world, 0, &[3, 4, 5]);
    let operator = world.engines[0].node;
    let next: Vec<NodeId> = (3..6).map(|n| world.arbiters[n].node).collect();
    cut(world, operator, next.into_iter());
    if restarts {
        let node = world.hosts[0].node;
        world.kill_process(node);
        world.start_after(node, 100);
        world.run_ms(3_000);
    }
    let _ = world.start(0, &story.0, 1, &story.1);
    world.run_ms(2_000);
    world.network.cut.clear();
    cut_off(world, 0);
    if complete(world, 5_000) {
        take(world, 1, &story);
    }
}

#[test]
fn present_alone_grants() {
    for begin in BEGINNINGS {
        let rule = "expired_ticket_starts_nothing";
        found_in_a_story(Mutant::PresentAloneGrants, false, rule, |world| {
            granted_by_those_in_force_alone(world, begin, false);
        });
    }
}

#[test]
fn agreement_forgotten() {
    for begin in BEGINNINGS {
        found_in_a_story(Mutant::AgreementForgotten, false, TWICE, |world| {
            granted_by_those_in_force_alone(world, begin, true);
        });
    }
}

/// A host sleeps through the change; its own arbiters go on covering what it runs.
#[test]
fn ready_before_all_agreed() {
    for begin in BEGINNINGS {
        found_in_a_story(Mutant::ReadyBeforeAllAgreed, true, TWICE, |world| {
            let hold = world.hold(0, &job_id(1)).expect("a hold");
            cut_from_operator(world, 0);
            begin(world, &[0, 1, 2], &[3, 4, 5]);
            if complete(world, 30_000) {
                world.run_ms(10_000);
                fail_over(world, hold, 5_000);
                take(world, 1, &jobs()[0]);
            }
        });
    }
}

/// Those who take over can't read a host, and take it for empty.
#[test]
fn new_member_takes_books_as_empty() {
    for begin in BEGINNINGS {
        found_in_a_story(Mutant::NewMemberTakesBooksAsEmpty, false, TWICE, |world| {
            cut_from_arbiters(world, 0, &[3, 4, 5]);
            cut_from_operator(world, 0);
            begin(world, &[0, 1, 2], &[3, 4, 5]);
            if complete(world, 30_000) {
                take(world, 1, &jobs()[1]);
            }
        });
    }
}
