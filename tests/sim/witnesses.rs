//! Witnesses beside the arbiters: jobs that may be lost go on by either committee, and are taken by both
//! (tenure protocol §7, the stories of §14 and the rules of §13).

use bootstrap::committee::begun_with_witnesses;
use protocol::id::OfferId;
use protocol::job::{JobState, Reason};
use protocol::ticket::{Action, TicketError};
use tests::sim::message::NodeId;
use tests::sim::operator::members;
use tests::sim::verdict::rest;
use tests::sim::workload::{job_id, spec};
use tests::sim::{Mutant, Profile, World, simulate_witnesses};

use crate::fixed::replay;
use crate::members::complete;
use crate::tenure::{job, running, stop_spec};

/// D by the default trust document, in milliseconds.
const TERM_MS: u64 = 9_000;

/// Arbiters 0 to 2, witnesses 3 to 5.
fn profile(seed: u64) -> Profile {
    Profile { has_lapsing: true, witnesses: 3, ..Profile::calm(seed) }
}

const ARBITERS: std::ops::Range<usize> = 0..3;
const WITNESSES: std::ops::Range<usize> = 3..6;

/// A host and these members hear nothing of each other any more.
fn part(world: &mut World, host: usize, members: impl IntoIterator<Item = usize>) {
    for n in members {
        world.network.part(world.hosts[host].node, world.arbiters[n].node);
    }
}

fn join(world: &mut World, host: usize, member: usize) {
    let (host, member) = (world.hosts[host].node, world.arbiters[member].node);
    world.network.cut.remove(&(host, member));
    world.network.cut.remove(&(member, host));
}

fn cut_off(world: &mut World, host: usize) {
    let node = world.hosts[host].node;
    for other in (0..world.nodes.len()).map(NodeId).filter(|other| *other != node) {
        world.network.part(node, other);
    }
}

fn kill(world: &mut World, members: impl IntoIterator<Item = usize>) {
    for n in members {
        world.kill_process(world.arbiters[n].node);
    }
}

fn revive(world: &mut World, members: impl IntoIterator<Item = usize>) {
    for n in members {
        world.start_after(world.arbiters[n].node, 0);
    }
}

/// Asks for the job on another host in the lost one's place; true when that has taken it.
fn fail_over(world: &mut World, to: usize, revision: u64, hold: OfferId) -> bool {
    let action = Action::FailOver { from: world.hosts[0].id.clone(), hold };
    let Some(offer) = world.offer(to, &job(), revision, &stop_spec(), action) else { return false };
    let Some(ticket) = world.ticket(offer) else { return false };
    matches!(world.put(to, &job(), &stop_spec(), ticket, None), Some(Ok(_)))
}

/// Asks again and again for so long; whether that was granted.
fn fails_over_within(world: &mut World, hold: OfferId, ms: u64) -> bool {
    let end_us = world.now_us + ms * 1_000;
    let mut revision = 4;
    while world.now_us < end_us && !world.is_over() {
        revision += 1;
        if fail_over(world, 1, revision, hold) {
            return true;
        }
        world.run_ms(50);
    }
    false
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

/// §14, the half with witnesses: arbiters forget everything and wait for everybody, and nobody notices.
/// The half without them is the world of today.
#[test]
fn all_members_restart_with_guests_running() {
    for seed in 600..606 {
        let (mut world, hold) = running(profile(seed), None);
        for n in ARBITERS {
            world.restart(world.arbiters[n].node, 50 + seed);
        }
        world.run_ms(3 * TERM_MS);
        assert!(world.runs(0, &job()) && world.hold(0, &job()) == Some(hold), "seed {seed}");
        // Then those that carried it over: the arbiters have covered it again meanwhile.
        for n in WITNESSES {
            world.restart(world.arbiters[n].node, 50);
        }
        world.run_ms(3 * TERM_MS);
        assert!(world.runs(0, &job()) && world.hold(0, &job()) == Some(hold), "seed {seed}");
        // Both at once: nobody knows anything, and it ends in time.
        for n in ARBITERS.chain(WITNESSES) {
            world.restart(world.arbiters[n].node, 50);
        }
        world.run_ms(TERM_MS);
        assert!(!world.runs(0, &job()), "seed {seed}");
        world.run_ms(TERM_MS);
        assert!(is_lost(&world, 0));
        ends_well(world);
    }
    let (mut world, _) = running(Profile { witnesses: 0, ..profile(606) }, None);
    for n in ARBITERS {
        world.restart(world.arbiters[n].node, 50);
    }
    world.run_ms(TERM_MS);
    assert!(!world.runs(0, &job()), "nobody else could know that it is alone");
    ends_well(world);
}

/// Without arbiters nothing is taken over; they come back with no memory, and then it is, once.
#[test]
fn arbiters_away_for_long_are_not_missed_by_what_runs_and_by_all_that_starts() {
    for seed in 610..614 {
        let (mut world, hold) = running(profile(seed), None);
        kill(&mut world, ARBITERS);
        world.run_ms(5 * TERM_MS);
        assert!(world.runs(0, &job()), "witnesses cover it");
        assert!(!fails_over_within(&mut world, hold, 2_000), "nobody grants");
        revive(&mut world, ARBITERS);
        world.run_ms(2 * TERM_MS);
        assert!(world.runs(0, &job()));
        cut_off(&mut world, 0);
        assert!(fails_over_within(&mut world, hold, 2 * TERM_MS));
        assert!(!world.runs(0, &job()), "it was dead before");
        world.await_state(1, &job(), JobState::Running);
        ends_well(world);
    }
}

/// A host that only witnesses hear keeps its job, though arbiters would give it to another; one that only
/// arbiters hear as well; one that nobody hears is dead in time.
#[test]
fn either_committee_is_enough_to_go_on_and_both_are_needed_to_take() {
    let (mut world, hold) = running(profile(620), None);
    part(&mut world, 0, ARBITERS);
    world.run_ms(2 * TERM_MS);
    assert!(world.runs(0, &job()));
    assert!(!fails_over_within(&mut world, hold, TERM_MS), "the witnesses say no");
    assert!(world.runs(0, &job()));
    for n in ARBITERS {
        join(&mut world, 0, n);
    }
    world.run_ms(2 * TERM_MS);
    part(&mut world, 0, WITNESSES);
    world.run_ms(2 * TERM_MS);
    assert!(world.runs(0, &job()));
    assert!(!fails_over_within(&mut world, hold, TERM_MS), "the arbiters say no");
    part(&mut world, 0, ARBITERS);
    world.run_ms(TERM_MS);
    assert!(!world.runs(0, &job()), "seen by nobody");
    assert!(fails_over_within(&mut world, hold, 2 * TERM_MS));
    ends_well(world);
}

/// A job that is kept asks no witness for anything.
#[test]
fn a_kept_job_needs_no_witness() {
    let mut world = World::new(profile(625), None);
    world.run_ms(15_000);
    kill(&mut world, WITNESSES);
    let kept = spec(1, false, false);
    assert!(world.start(0, &job_id(0), 1, &kept));
    world.await_state(0, &job_id(0), JobState::Running);
    assert!(!world.start(1, &job(), 1, &stop_spec()), "this one does");
    ends_well(world);
}

/// §14: while another host takes the job over, a witness hears its old host again.
#[test]
fn witness_reconnects_during_takeover() {
    for seed in 630..660 {
        let (mut world, hold) = running(profile(seed), None);
        cut_off(&mut world, 0);
        // About when everybody's promise ends, a little earlier and later.
        world.run_ms(TERM_MS - 900 + (seed - 630) * 60);
        join(&mut world, 0, 3 + usize::try_from(seed % 3).unwrap());
        assert!(fails_over_within(&mut world, hold, 3 * TERM_MS), "seed {seed}");
        world.run_ms(5_000);
        assert!(!world.runs(0, &job()));
        ends_well(world);
    }
}

/// It moves by grants of both, and its target goes on by either.
#[test]
fn a_migration_takes_both_committees_and_goes_on_by_one() {
    let (mut world, _) = running(profile(665), None);
    world.migrate_by_hand(0, 1, &job(), 2, &stop_spec());
    world.await_state(1, &job(), JobState::Running);
    kill(&mut world, ARBITERS);
    world.run_ms(3 * TERM_MS);
    assert!(world.runs(1, &job()) && !world.runs(0, &job()));
    ends_well(world);
}

/// From no witnesses to some and back. Until every host has agreed nobody goes on by witnesses: a host that
/// has not heard of them takes without asking them.
#[test]
fn witnesses_are_added_and_taken_out_while_a_host_sleeps() {
    let base = profile(670);
    let profile = Profile { witnesses: 0, spare_witnesses: 3, spare_arbiters: 0, ..base };
    let numbers: Vec<usize> = WITNESSES.collect();
    let (mut world, _) = running(profile, None);
    world.operators.deaf.insert(2);
    let next = begun_with_witnesses(&world.trust, members(&numbers), false);
    world.decree(next);
    assert!(!complete(&mut world, 3 * TERM_MS), "host 2 has not agreed");
    assert!(world.runs(0, &job()));
    kill(&mut world, ARBITERS);
    world.run_ms(TERM_MS);
    assert!(!world.runs(0, &job()), "by witnesses alone it goes on only when all know of them");
    revive(&mut world, ARBITERS);
    world.operators.deaf.clear();
    assert!(complete(&mut world, 5 * TERM_MS));
    world.run_ms(TERM_MS);
    assert!(world.start(1, &job(), 7, &stop_spec()), "granted by both");
    world.await_state(1, &job(), JobState::Running);
    kill(&mut world, ARBITERS);
    world.run_ms(2 * TERM_MS);
    assert!(world.runs(1, &job()));
    revive(&mut world, ARBITERS);
    world.run_ms(2 * TERM_MS);
    let next = begun_with_witnesses(&world.trust, vec![], false);
    world.decree(next);
    assert!(complete(&mut world, 3 * TERM_MS));
    assert!(world.runs(1, &job()));
    kill(&mut world, WITNESSES);
    world.run_ms(2 * TERM_MS);
    assert!(world.runs(1, &job()), "as before there were any");
    ends_well(world);
}

#[test]
fn a_ticket_without_witnesses_is_refused_with_numbers() {
    let (mut world, _) = running(profile(680), None);
    kill(&mut world, WITNESSES);
    world.stop(0, &job());
    world.delete(0, &job());
    world.run_ms(3_000);
    let action = Action::Start;
    let offer = world.offer(1, &job(), 9, &stop_spec(), action).expect("an offer");
    let ticket = world.ticket_of(offer, &[Some(1), Some(1), Some(1)]);
    let refused = world.put(1, &job(), &stop_spec(), ticket, None);
    let Some(Err(protocol::refusal::Refusal::Ticket { error })) = refused else {
        panic!("{refused:?}");
    };
    assert!(matches!(error, TicketError::TicketWithoutWitnesses { have: 0, need: 2, .. }));
    ends_well(world);
}

// Rules broken on purpose.

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
    let found = found.map(|violation| violation.invariant);
    let is_it =
        |found| matches!(found, "no_vm_runs_on_two_hosts" | "expired_ticket_starts_nothing");
    assert!(found.is_some_and(is_it), "{mutant:?}: {found:?}");
}

/// Its host is heard by witnesses alone, and arbiters alone give it to another.
#[test]
fn take_by_arbiters_alone() {
    found_in_a_story(Mutant::ArbitersAloneGrant, 700..702, |world, hold| {
        part(world, 0, ARBITERS);
        world.run_ms(TERM_MS + 1_000);
        fails_over_within(world, hold, TERM_MS);
        world.run_ms(5_000);
    });
}

/// Its host is heard by one of each, which are two of six and a quorum of nothing.
#[test]
fn mixed_committee_covers() {
    found_in_a_story(Mutant::MixedCommitteeCovers, 710..712, |world, hold| {
        part(world, 0, [1, 2, 4, 5]);
        world.run_ms(TERM_MS + 1_000);
        fails_over_within(world, hold, TERM_MS);
        world.run_ms(5_000);
    });
}

/// As many as a debug build does within some seconds.
const SEEDS: u64 = 30;

#[test]
fn every_rule_holds_over_worlds_with_witnesses() {
    let mut coverage = tests::sim::coverage::Coverage::default();
    for seed in 0..SEEDS {
        let verdict = simulate_witnesses(seed, None);
        coverage.add(&verdict.coverage);
        assert!(verdict.violation.is_none(), "with witnesses: {}", replay(&verdict));
    }
    let hit: Vec<&str> = coverage.all().map(|(what, _)| what).collect();
    for what in ["fault.kill-arbiters", "fault.kill-witnesses", "operator.witnesses"] {
        assert!(hit.contains(&what), "never exercised: {what}");
    }
}
