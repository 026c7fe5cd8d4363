//! Jobs that are killed when they are not covered: the stories of the tenure protocol's §14, and the
//! rules of its §13 broken on purpose.

use protocol::id::{JobId, OfferId};
use protocol::job::{JobKind, JobSpec, JobState, Reason};
use protocol::ticket::Action;
use protocol::vm::OnLoss;
use tests::sim::message::NodeId;
use tests::sim::verdict::rest;
use tests::sim::workload::{job_id, spec};
use tests::sim::{Mutant, Profile, World};

/// D, T and K by the default trust document, in milliseconds.
const TERM_MS: u64 = 9_000;
const KILL_MS: u64 = 2_000;

fn profile(seed: u64) -> Profile {
    Profile { has_lapsing: true, ..Profile::calm(seed) }
}

pub(super) fn job() -> JobId {
    job_id(1)
}

pub(super) fn stop_spec() -> JobSpec {
    let mut spec = spec(1, false, false);
    let JobKind::Vm(vm) = &mut spec.kind else { unreachable!("it is a VM") };
    vm.on_loss = OnLoss::Stop;
    spec
}

/// A world in which the job runs on host 0.
#[track_caller]
pub(super) fn running(profile: Profile, mutant: Option<Mutant>) -> (World, OfferId) {
    let mut world = World::new(profile, mutant);
    world.run_ms(15_000);
    assert!(world.start(0, &job(), 1, &stop_spec()), "granted");
    world.await_state(0, &job(), JobState::Running);
    // The arbiters have covered it at least once.
    world.run_ms(2_000);
    let hold = world.hold(0, &job()).expect("a hold");
    (world, hold)
}

fn cut_off(world: &mut World, host: usize) {
    let node = world.hosts[host].node;
    for other in (0..world.nodes.len()).map(NodeId).filter(|other| *other != node) {
        world.network.part(node, other);
    }
}

/// Asks for the job on another host in the lost one's place; true when that has taken it.
fn fail_over(world: &mut World, to: usize, revision: u64, hold: OfferId) -> bool {
    let action = Action::FailOver { from: world.hosts[0].id.clone(), hold };
    let Some(offer) = world.offer(to, &job(), revision, &stop_spec(), action) else { return false };
    let Some(ticket) = world.ticket(offer) else { return false };
    matches!(world.put(to, &job(), &stop_spec(), ticket, None), Some(Ok(_)))
}

/// Asks again and again until that is granted; after how many milliseconds it was.
fn fail_over_when_granted(world: &mut World, hold: OfferId) -> u64 {
    let begin_us = world.now_us;
    for revision in 5..500 {
        if world.is_over() || fail_over(world, 1, revision, hold) {
            return (world.now_us - begin_us) / 1_000;
        }
        world.run_ms(50);
    }
    panic!("never granted");
}

fn is_lost(world: &World, host: usize) -> bool {
    let rows = &world.hosts[host].disk.ledger.jobs;
    let row = rows.iter().find(|record| record.job.id == job());
    row.is_some_and(|record| matches!(record.job.reason, Some(Reason::TenureLost { .. })))
}

#[track_caller]
fn ends_well(mut world: World) {
    world.heal();
    rest(&mut world);
    assert_eq!(world.violation, None);
}

/// With clocks as wrong as they may be, against the host that is to die in time.
#[test]
fn isolated_host_dies_before_takeover() {
    for seed in 300..310 {
        let (mut world, hold) = running(profile(seed), None);
        for arbiter in 0..world.arbiters.len() {
            let node = world.arbiters[arbiter].node.0;
            let now_us = world.now_us;
            world.nodes[node].clock.drift(now_us, 2_000);
        }
        let node = world.hosts[0].node.0;
        let now_us = world.now_us;
        world.nodes[node].clock.drift(now_us, -2_000);
        cut_off(&mut world, 0);
        let took_ms = fail_over_when_granted(&mut world, hold);
        assert!((TERM_MS - KILL_MS..TERM_MS + 2_500).contains(&took_ms), "{took_ms} ms");
        assert!(!world.runs(0, &job()), "it was dead before");
        world.await_state(1, &job(), JobState::Running);
        ends_well(world);
    }
}

#[test]
fn agent_stopped_keeper_renews() {
    let (mut world, hold) = running(profile(320), None);
    let node = world.hosts[0].node;
    world.kill_process(node);
    world.run_ms(60_000);
    assert!(world.runs(0, &job()));
    assert!(!fail_over(&mut world, 1, 2, hold), "it is covered");
    world.start_after(node, 0);
    world.run_ms(5_000);
    assert_eq!((world.state(0, &job()), world.runs(0, &job())), (Some(JobState::Running), true));
    ends_well(world);
}

/// Its hold is replaced while it runs: the keeper follows, whoever dies meanwhile, and what is lost at
/// last is the new one.
#[test]
fn a_guest_that_grows_is_covered_all_the_time() {
    for (seed, after_us) in (325..329).zip([0, 300, 20_000, 400_000]) {
        let (mut world, first) = running(profile(seed), None);
        for (revision, vcpus) in [(2, 2), (3, 3)] {
            assert!(world.grow(0, &job(), revision, vcpus).is_some(), "granted");
            world.run_us(after_us);
            let node = world.hosts[0].node;
            if revision == 2 {
                assert!(world.kill_keeper(0));
            } else {
                world.restart(node, 50);
            }
            world.run_ms(2 * TERM_MS);
            assert_eq!(
                (world.state(0, &job()), world.runs(0, &job())),
                (Some(JobState::Running), true)
            );
        }
        let hold = world.hold(0, &job()).expect("a hold");
        assert_ne!(hold, first);
        cut_off(&mut world, 0);
        assert!(!fail_over(&mut world, 1, 4, first), "it was not the last");
        fail_over_when_granted(&mut world, hold);
        assert!(!world.runs(0, &job()));
        ends_well(world);
    }
}

/// Statements arrive, terms do not: the arbiters think that it runs on, until the host says that it
/// has not, and then they know at once.
#[test]
fn one_way_partition_renewals_arrive_answers_lost() {
    let (mut world, hold) = running(profile(330), None);
    let node = world.hosts[0].node;
    for arbiter in 0..world.arbiters.len() {
        let answers = (world.arbiters[arbiter].node, node);
        world.network.cut.insert(answers);
    }
    world.run_ms(TERM_MS + 2_000);
    assert!(!world.runs(0, &job()) && is_lost(&world, 0));
    assert!(fail_over(&mut world, 1, 2, hold), "its end was stated");
    ends_well(world);
}

#[test]
fn host_reboots_and_what_it_ran_may_start_elsewhere_at_once() {
    let (mut world, hold) = running(profile(340), None);
    world.lose_power(0, 1_000);
    world.run_ms(6_000);
    assert!(is_lost(&world, 0) && !world.runs(0, &job()));
    assert!(fail_over(&mut world, 1, 2, hold), "the reboot has closed its hold");
    ends_well(world);
}

/// Its agent was away when its right was over, and its row says that it is starting still.
#[test]
fn a_start_that_finds_its_guest_dying_closes_no_hold_before_it_is_dead() {
    let mut died_late = 0;
    for seed in 370..390 {
        let mut world = World::new(profile(seed), None);
        world.run_ms(15_000);
        assert!(world.start(0, &job(), 1, &stop_spec()), "granted");
        let uuid = job().domain_uuid();
        let is_there = |world: &World| world.hosts[0].hv.is_active(uuid);
        assert!(world.run_until(20_000, is_there));
        let node = world.hosts[0].node;
        world.kill_process(node);
        cut_off(&mut world, 0);
        let is_sealed = |world: &World| world.hosts[0].hv.gates.get(&uuid) == Some(&false);
        assert!(world.run_until(2 * TERM_MS, is_sealed));
        world.start_after(node, 0);
        while is_there(&world) {
            let row = world.hosts[0].disk.ledger.jobs.iter().find(|row| row.job.id == job());
            assert!(row.is_some_and(|row| row.job.hold.is_some()), "listed until it is dead");
            died_late += u32::from(world.state(0, &job()) == Some(JobState::Starting));
            world.run_ms(1);
        }
        ends_well(world);
    }
    assert!(died_late > 0, "an agent was there before the end");
}

/// An old view shows it on the lost host still, when it has run elsewhere and was deleted there.
#[test]
fn what_was_deleted_elsewhere_does_not_come_back() {
    let (mut world, hold) = running(profile(350), None);
    cut_off(&mut world, 0);
    fail_over_when_granted(&mut world, hold);
    world.await_state(1, &job(), JobState::Running);
    world.run_ms(3_000);
    world.stop(1, &job());
    world.delete(1, &job());
    world.run_ms(3_000);
    assert!(!fail_over(&mut world, 2, 900, hold));
    ends_well(world);
}

#[test]
fn a_minority_of_arbiters_is_not_missed_and_a_majority_is() {
    let (mut world, _) = running(profile(360), None);
    let node = world.arbiters[0].node;
    world.kill_process(node);
    world.run_ms(30_000);
    assert!(world.runs(0, &job()));
    let node = world.arbiters[1].node;
    world.kill_process(node);
    world.run_ms(TERM_MS);
    assert!(!world.runs(0, &job()), "nobody can know that it is alone");
    ends_well(world);
}

// Rules broken on purpose: with the rule no story breaks anything, without it one of them does.

#[track_caller]
fn found_in_a_story(
    mutant: Mutant,
    seeds: std::ops::Range<u64>,
    story: impl Fn(&mut World, OfferId),
) {
    let tell = |seed, mutant| {
        let (mut world, hold) = running(profile(seed), mutant);
        story(&mut world, hold);
        world.violation
    };
    for seed in seeds.clone() {
        assert_eq!(tell(seed, None), None, "the story itself breaks a rule, seed {seed}");
    }
    let found = seeds.filter_map(|seed| tell(seed, Some(mutant))).next();
    assert_eq!(found.map(|v| v.invariant), Some("no_vm_runs_on_two_hosts"), "{mutant:?}");
}

#[test]
fn promise_forgotten_early() {
    found_in_a_story(Mutant::PromiseTooShort, 400..402, |world, hold| {
        cut_off(world, 0);
        fail_over_when_granted(world, hold);
        world.run_ms(3_000);
    });
}

#[test]
fn kill_begins_at_the_deadline() {
    found_in_a_story(Mutant::KillAtDeadline, 410..440, |world, hold| {
        cut_off(world, 0);
        fail_over_when_granted(world, hold);
        world.run_ms(3_000);
    });
}

#[test]
fn term_counted_from_receipt() {
    found_in_a_story(Mutant::TermCountedFromReceipt, 450..500, |world, hold| {
        // For a while every other message is late; then the host is cut off.
        world.network.late_ppm = 500_000;
        world.run_ms(6_000);
        world.network.late_ppm = 0;
        cut_off(world, 0);
        fail_over_when_granted(world, hold);
        world.run_ms(15_000);
    });
}

/// A start that libvirt carries out long after it was decided, when the job runs elsewhere already.
#[test]
fn start_effect_delayed_past_deadline() {
    found_in_a_story(Mutant::GateIgnored, 490..500, |world, _| {
        world.stop(0, &job());
        world.delete(0, &job());
        world.run_ms(2_000);
        world.hosts[0].hv.slowness = 60;
        assert!(world.start(0, &job(), 1, &stop_spec()));
        world.run_ms(1_500);
        let hold = world.hold(0, &job()).expect("a hold");
        cut_off(world, 0);
        fail_over_when_granted(world, hold);
        world.run_ms(60_000);
    });
}

/// Its host is covered by two arbiters when a third gives the job to another host and says no to what it
/// states from then on. Then one of the two is lost: with the no for a yes it would run on.
#[test]
fn host_ignores_exclusion() {
    found_in_a_story(Mutant::ExclusionIgnored, 500..505, |world, hold| {
        let host = world.hosts[0].node;
        let (one, two) = (world.arbiters[1].node, world.arbiters[2].node);
        world.network.part(host, one);
        world.run_ms(TERM_MS + 200);
        world.network.part(host, two);
        assert!(!fail_over(world, 1, 2, hold), "one of three is no quorum");
        world.network.cut.remove(&(host, one));
        world.network.cut.remove(&(one, host));
        fail_over_when_granted(world, hold);
        world.run_ms(3_000);
    });
}
