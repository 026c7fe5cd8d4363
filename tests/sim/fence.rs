//! Hosts that operators say to be off: what was kept there runs elsewhere once, the host comes back as a
//! member, and each rule of that is broken on purpose.

use host_agent::core::Request;
use protocol::id::{JobId, OfferId};
use protocol::job::{JobSpec, JobState, Reason};
use protocol::refusal::Refusal;
use protocol::ticket::Action;
use tests::sim::message::NodeId;
use tests::sim::verdict::rest;
use tests::sim::workload::{job_id, spec};
use tests::sim::{Mutant, Profile, World};

/// Longer than any host of these stories is away.
const FOR_LONG_US: u64 = 3_600_000_000;

fn profile(seed: u64) -> Profile {
    Profile { has_fences: true, ..Profile::calm(seed) }
}

fn job() -> JobId {
    job_id(1)
}

fn bare() -> JobSpec {
    let mut spec = spec(1, false, false);
    if let protocol::job::JobKind::Vm(vm) = &mut spec.kind {
        vm.autostart = true;
    }
    spec
}

/// A world in which the job runs on host 2, where no two arbiters hear of documents; and its hold.
#[track_caller]
fn running(mutant: Option<Mutant>) -> (World, OfferId) {
    let mut world = World::new(profile(11), mutant);
    world.run_ms(15_000);
    assert!(world.start(2, &job(), 1, &bare()), "granted");
    world.await_state(2, &job(), JobState::Running);
    world.run_ms(2_000);
    let hold = world.hold(2, &job()).expect("a hold");
    (world, hold)
}

/// Asks for the job on a host in the place of what host 2 had; true when that has taken it.
fn fail_over(world: &mut World, to: usize, revision: u64, hold: OfferId) -> bool {
    fail_over_of(&job(), world, to, revision, hold)
}

fn fail_over_of(job: &JobId, world: &mut World, to: usize, revision: u64, hold: OfferId) -> bool {
    let action = Action::FailOver { from: world.hosts[2].id.clone(), hold };
    let Some(offer) = world.offer(to, job, revision, &bare(), action) else { return false };
    let Some(ticket) = world.ticket(offer) else { return false };
    matches!(world.put(to, job, &bare(), ticket, None), Some(Ok(_)))
}

/// The power of host 2 comes back.
fn turn_on(world: &mut World) {
    let node = world.hosts[2].node;
    let now_us = world.now_us;
    world.nodes[node.0].has_power = true;
    world.nodes[node.0].clock.boot(now_us);
    world.start_after(node, 100);
}

fn is_fenced(world: &World, ran: bool) -> bool {
    let rows = &world.hosts[2].disk.ledger.jobs;
    let row = rows.iter().find(|record| record.job.id == job());
    row.is_some_and(|record| {
        let is_it =
            matches!(record.job.reason, Some(Reason::Fenced { ran: was, .. }) if was == ran);
        is_it && record.job.state == JobState::Stopped && record.job.hold.is_none()
    })
}

fn part(world: &mut World, host: usize) {
    let node = world.hosts[host].node;
    for other in (0..world.nodes.len()).map(NodeId).filter(|other| *other != node) {
        world.network.part(node, other);
    }
}

#[test]
fn a_fenced_hosts_job_runs_elsewhere_once_and_the_host_comes_back() {
    let (mut world, hold) = running(None);
    world.lose_power(2, FOR_LONG_US);
    world.run_ms(3_000);
    assert!(!fail_over(&mut world, 1, 2, hold), "nobody has said that it is off");
    world.fence(2);
    world.run_ms(3_000);
    assert!(fail_over(&mut world, 1, 3, hold));
    world.await_state(1, &job(), JobState::Running);
    assert!(!fail_over(&mut world, 0, 9, hold), "once");
    turn_on(&mut world);
    assert!(world.run_until(20_000, |world| is_fenced(world, false)), "told by an arbiter");
    assert!(world.runs(1, &job()) && !world.runs(2, &job()));
    assert!(world.coverage.count("fence.brought") > 0);
    // Gone from there, an old view brings nothing back; and the host is a member as before.
    world.stop(1, &job());
    world.delete(1, &job());
    world.run_ms(4_000);
    assert!(!fail_over(&mut world, 0, 10, hold), "somebody has had it since");
    assert!(world.start(2, &job_id(3), 1, &bare()));
    world.await_state(2, &job_id(3), JobState::Running);
    assert_eq!(world.violation, None);
}

#[test]
fn what_runs_on_a_host_that_was_wrongly_said_to_be_off_is_ended_when_it_hears() {
    let (mut world, hold) = running(None);
    part(&mut world, 2);
    world.fence(2);
    world.run_ms(3_000);
    assert!(fail_over(&mut world, 1, 3, hold));
    world.await_state(1, &job(), JobState::Running);
    assert!(world.runs(1, &job()) && world.runs(2, &job()), "as true as the operator");
    assert!(world.coverage.count("fence.ran-twice") > 0, "counted");
    world.network.cut.clear();
    assert!(world.run_until(20_000, |world| is_fenced(world, true)), "and it is said");
    assert!(world.runs(1, &job()) && !world.runs(2, &job()));
    assert_eq!(world.violation, None);
}

/// It has been on its way since before host 2 heard, and host 0 has let go of it.
#[test]
fn a_guest_that_comes_to_a_host_that_was_said_to_be_off_is_ended_and_its_job_starts_again() {
    let mut world = World::new(profile(11), None);
    world.run_ms(15_000);
    assert!(world.start(0, &job(), 1, &bare()), "granted");
    world.await_state(0, &job(), JobState::Running);
    world.run_ms(2_000);
    world.send_by_hand(0, 2, &job(), 2, &bare());
    let is_sent = |world: &World| world.hosts[0].hv.is_sending(job().domain_uuid());
    assert!(world.run_until(1_000, is_sent), "it is on its way");
    world.fence(2);
    let document = world.trust_signed.clone();
    world.ask_host(2, Request::Trust(document));
    assert!(world.run_until(1_000, |world| is_fenced(world, false)));
    assert!(world.handoff_of(0, &job()).is_none(), "it is on its way still");
    world.await_state(0, &job(), JobState::Stopped);
    assert!(is_here(&world), "nobody may run it, and nobody else has it");
    assert!(world.run_until(5_000, |world| !is_here(world) && is_fenced(world, false)));
    let handoff = world.handoff_of(0, &job()).expect("the source has let go");
    let late = world.ask_host(2, Request::Handoff { job: job(), handoff });
    assert!(matches!(late, Some(Err(Refusal::WrongState { .. }))), "{late:?}");
    world.run_ms(3_000);
    assert!(world.start(2, &job(), 3, &bare()), "nobody's any more");
    world.await_state(2, &job(), JobState::Running);
    assert!(world.runs(2, &job()) && !world.runs(0, &job()));
    rest(&mut world);
    assert_eq!(world.violation, None);
}

/// Whether host 2 has a process of the job's guest, running or not.
fn is_here(world: &World) -> bool {
    world.hosts[2].hv.is_active(job().domain_uuid())
}

#[test]
fn arbiters_that_have_all_forgotten_go_on_by_the_word_and_need_it_anew_for_a_host_that_is_away() {
    let (mut world, hold) = running(None);
    world.lose_power(2, FOR_LONG_US);
    world.fence(2);
    world.run_ms(3_000);
    assert!(fail_over(&mut world, 1, 3, hold));
    for n in 0..world.arbiters.len() {
        world.restart(world.arbiters[n].node, 50);
    }
    world.run_ms(20_000);
    let (other, spec) = (job_id(3), bare());
    assert!(!world.start(0, &other, 1, &spec), "host 2 may have been back since");
    world.fence(2);
    world.run_ms(3_000);
    assert!(world.start(0, &other, 2, &spec), "it was not: it is off");
    assert!(!fail_over(&mut world, 0, 7, hold), "and host 1 has the job");
    turn_on(&mut world);
    assert!(world.run_until(20_000, |world| is_fenced(world, false)));
    assert!(world.runs(1, &job()) && !world.runs(2, &job()));
    assert_eq!(world.violation, None);
}

/// The story without and with the mutant, which breaks this rule or that.
fn found(mutant: Mutant, story: impl Fn(&mut World, OfferId)) {
    let tell = |mutant| {
        let (mut world, hold) = running(mutant);
        story(&mut world, hold);
        world.violation.map(|violation| violation.invariant)
    };
    assert_eq!(tell(None), None, "the story itself breaks a rule");
    assert_eq!(tell(Some(mutant)), Some("no_vm_runs_on_two_hosts"), "{mutant:?}");
}

#[test]
fn right_not_asked_after_a_reboot() {
    found(Mutant::RightNotAsked, |world, hold| {
        world.lose_power(2, FOR_LONG_US);
        world.fence(2);
        world.run_ms(3_000);
        fail_over(world, 1, 3, hold);
        world.run_ms(3_000);
        part(world, 2);
        turn_on(world);
        world.run_ms(10_000);
    });
}

/// Its agent dies between its ledger and libvirt's first answer, with a start that the power loss has cut.
#[test]
fn reboot_forgotten() {
    found(Mutant::RebootForgotten, |world, _| {
        let other = job_id(2);
        assert!(world.start(2, &other, 1, &bare()), "granted");
        let hold = world.hold(2, &other).expect("a hold");
        world.lose_power(2, FOR_LONG_US);
        world.fence(2);
        world.run_ms(3_000);
        assert!(fail_over_of(&other, world, 1, 3, hold), "it starts elsewhere");
        world.run_ms(3_000);
        part(world, 2);
        turn_on(world);
        assert!(world.run_until(5_000, |world| world.hosts[2].process.is_some()));
        world.restart(world.hosts[2].node, 50);
        world.run_ms(10_000);
    });
}

#[test]
fn fenced_holds_kept() {
    found(Mutant::FencedHoldsKept, |world, hold| {
        world.lose_power(2, FOR_LONG_US);
        world.fence(2);
        world.run_ms(3_000);
        fail_over(world, 1, 3, hold);
        world.run_ms(3_000);
        turn_on(world);
        world.run_ms(20_000);
    });
}

/// The host was back, was granted the job again, and is away once more when the arbiters forget.
#[test]
fn fence_completes_forgotten_books() {
    found(Mutant::FenceCompletesForgottenBooks, |world, _| {
        world.lose_power(2, FOR_LONG_US);
        world.fence(2);
        world.run_ms(3_000);
        turn_on(world);
        world.run_until(20_000, |world| is_fenced(world, false));
        world.start(2, &job(), 5, &bare());
        world.await_state(2, &job(), JobState::Running);
        world.run_ms(2_000);
        part(world, 2);
        for n in 0..world.arbiters.len() {
            world.restart(world.arbiters[n].node, 50);
        }
        world.run_ms(15_000);
        world.start(1, &job(), 6, &bare());
        world.run_ms(5_000);
    });
}

/// It boots while the arbiters have not heard yet, asks them, and is cut off then.
#[test]
fn fenced_host_turned_on_early() {
    found(Mutant::FencedHostTurnedOnEarly, |world, hold| {
        for n in 0..3 {
            let (engine, host) = (world.engines[0].node, world.hosts[n].node);
            world.network.part(engine, host);
        }
        world.lose_power(2, 1_000_000);
        world.fence(2);
        world.run_ms(20_000);
        world.network.cut.clear();
        part(world, 2);
        world.run_ms(3_000);
        fail_over(world, 1, 3, hold);
        world.run_ms(5_000);
    });
}
