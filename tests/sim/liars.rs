//! Arbiters and witnesses that lie: as many as the trust document bears break no rule, and one more does.

use protocol::id::JobId;
use protocol::job::JobState;
use protocol::ticket::{Action, Ticket};
use tests::sim::coverage::Coverage;
use tests::sim::verdict::conclude;
use tests::sim::workload::{job_id, spec};
use tests::sim::{Profile, World, simulate_liars, simulate_world};

use super::fixed::replay;

/// As many as a debug build does in some ten seconds.
const SEEDS: u64 = 40;
/// How often a liar is asked until it says yes.
const ASKS_MAX: usize = 60;

/// Nobody has lied yet.
fn world(seed: u64, arbiters: usize, k: u32, f: u32) -> World {
    let profile = Profile { arbiters, k, f, ..Profile::calm(seed) };
    let mut world = World::new(profile, None);
    world.run_ms(15_000);
    world
}

/// Offered by a host, and granted by whichever of these arbiters can be had to say yes.
fn ticket(world: &mut World, host: usize, job: &JobId, arbiters: &[usize]) -> Ticket {
    let offer = world.offer(host, job, 1, &spec(1, false, false), Action::Start).expect("an offer");
    let mut grants = Vec::new();
    for arbiter in arbiters {
        let asks = if *arbiter == 0 { ASKS_MAX } else { 1 };
        let is_its = |grant: &protocol::signed::Signed<protocol::ticket::Grant>| {
            grant.open().is_ok_and(|grant| grant.slot as usize == *arbiter)
        };
        let yes = (0..asks)
            .find_map(|_| world.ask_arbiter(*arbiter, &offer).and_then(Result::ok).filter(is_its));
        grants.extend(yes);
    }
    Ticket { offer, grants }
}

/// Host 0 runs a job by some arbiters' word. Then arbiter 0 lies, and host 1 asks it and all who know nothing of the job,
/// and then the rest.
/// Whether it is taken there as well.
fn is_taken_twice(world: &mut World, first: &[usize], unknowing: &[usize]) -> bool {
    let (job, wanted) = (job_id(0), spec(1, false, false));
    for arbiter in unknowing {
        let (from, to) = (world.hosts[0].node, world.arbiters[*arbiter].node);
        world.network.part(from, to);
    }
    let one = ticket(world, 0, &job, first);
    let taken = world.put(0, &job, &wanted, one, None);
    assert!(matches!(taken, Some(Ok(_))), "{taken:?} {:?}", world.violation);
    world.await_state(0, &job, JobState::Running);
    world.profile.liars = vec![0];
    let knowing = first.iter().filter(|arbiter| **arbiter != 0);
    let all: Vec<usize> = [0].iter().chain(unknowing).chain(knowing).copied().collect();
    let two = ticket(world, 1, &job, &all);
    let is_taken = matches!(world.put(1, &job, &wanted, two, None), Some(Ok(_)));
    world.run_ms(5_000);
    is_taken
}

/// §14 of the protocol. With f = 0 a single liar in the share of two quorums starts a VM twice; with f = 1 two
/// quorums share an honest one as well.
#[test]
fn one_lying_arbiter_f0_and_f1() {
    let mut borne_by_none = world(60, 3, 2, 0);
    assert!(is_taken_twice(&mut borne_by_none, &[0, 1], &[2]), "the liar is one of the two");
    let broken = conclude(borne_by_none).violation.expect("it runs twice");
    assert_eq!(broken.invariant, "no_vm_runs_on_two_hosts");

    let mut borne = world(61, 4, 3, 1);
    assert!(!is_taken_twice(&mut borne, &[0, 1, 2], &[3]), "one of three knows");
    assert_eq!(conclude(borne).violation, None);
}

#[test]
fn every_rule_holds_over_worlds_with_liars() {
    let mut coverage = Coverage::default();
    for seed in 0..SEEDS {
        let verdict = simulate_liars(seed, None);
        assert!(verdict.violation.is_none(), "--liars\n{}", replay(&verdict));
        coverage.add(&verdict.coverage);
    }
    for lie in ["lie.grant", "lie.denial", "lie.room", "lie.cover", "lie.ready"] {
        assert!(coverage.count(lie) > 0, "nobody lied so: {lie}");
    }
}

/// What liars say does harm, where nobody reckons with it: else the rules that hold above would say nothing.
#[test]
fn a_liar_that_nobody_reckons_with_is_found() {
    let is_found = |seed| {
        let base = Profile::of_seed(seed);
        let profile = Profile { arbiters: 3, k: 2, liars: vec![0], ..base };
        let broken = simulate_world(profile, None).violation;
        broken.is_some_and(|broken| {
            ["no_vm_runs_on_two_hosts", "quota_is_never_exceeded", "every_hold_is_counted_in_full"]
                .contains(&broken.invariant)
        })
    };
    assert!((0..200).any(is_found), "found in no seed");
}
