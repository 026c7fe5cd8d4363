//! Stories that chance seldom tells, each a rule in its name. Those of the tenure protocol's list
//! (§14) keep their names, as far as today's cores have the rules.

use host_agent::core::Request;
use protocol::api::{NewRun, ResizeJob, RunState, Want};
use protocol::id::{JobId, Revision};
use protocol::job::{JobKind, JobSpec, JobState};
use protocol::refusal::Refusal;
use protocol::ticket::{Action, DenialReason};
use protocol::vm::{Size, SizeChange, VmSpec};
use tests::sim::verdict::rest;
use tests::sim::workload::{job_id, spec};
use tests::sim::{Profile, World};

/// A calm world that has come up.
fn world(profile: Profile) -> World {
    let mut world = World::new(profile, None);
    world.run_ms(15_000);
    world
}

/// Nothing is broken, and everything comes to rest when it is mended.
#[track_caller]
fn ends_well(mut world: World) {
    world.heal();
    rest(&mut world);
    assert_eq!(world.violation, None);
}

/// Wants something of a group of engines; the run's state when it has ended.
#[track_caller]
fn run(world: &mut World, engine: usize, want: Want) -> protocol::id::RunId {
    let id = world.next_run_id();
    assert!(world.submit(engine, NewRun::new(id, want)), "not accepted");
    id
}

fn state_of(world: &World, group: usize, id: protocol::id::RunId) -> RunState {
    world.conductors[group].runs[&id].state
}

#[track_caller]
fn await_end(world: &mut World, group: usize, id: protocol::id::RunId) -> RunState {
    assert!(world.run_until(200_000, |world| state_of(world, group, id).is_ended()), "no end");
    state_of(world, group, id)
}

fn want_run() -> Want {
    Want::Run { job: job_id(0), spec: spec(1, false, false), on: None, again: false }
}

fn want_size(vcpus: u32) -> Want {
    let size = SizeChange { vcpus: Some(vcpus), ..SizeChange::default() };
    Want::Resize { job: job_id(0), size }
}

/// CPUs that a guest really has.
fn vcpus_of(world: &World, host: usize) -> u32 {
    world.hosts[host].hv.domains[&job_id(0).domain_uuid()].resources.vcpus
}

#[test]
fn a_vm_grows_while_it_runs_within_its_quota_and_not_beyond() {
    let mut world = world(Profile { arbiters: 1, k: 1, ..Profile::calm(20) });
    let want = Want::Run { job: job_id(0), spec: spec(1, true, true), on: None, again: false };
    let started = run(&mut world, 0, want);
    assert_eq!(await_end(&mut world, 0, started), RunState::Succeeded);
    let at = (0..3).find(|n| world.runs(*n, &job_id(0))).expect("it runs somewhere");
    let grown = run(&mut world, 0, want_size(4));
    assert_eq!(await_end(&mut world, 0, grown), RunState::Succeeded);
    assert_eq!(vcpus_of(&world, at), 4);
    let too_much = run(&mut world, 0, want_size(5));
    assert_eq!(await_end(&mut world, 0, too_much), RunState::Succeeded, "5 of 6 and of 5");
    // Another of the tenant's is in the way now.
    let other = Want::Run { job: job_id(1), spec: spec(1, false, true), on: None, again: false };
    let other = run(&mut world, 0, other);
    assert_eq!(await_end(&mut world, 0, other), RunState::Succeeded);
    let third = Want::Run { job: job_id(2), spec: spec(1, false, true), on: None, again: false };
    let third = run(&mut world, 0, third);
    assert_eq!(await_end(&mut world, 0, third), RunState::RolledBack, "6 of 6 are promised");
    ends_well(world);
}

fn want_limited(n: u64) -> Want {
    Want::Run { job: job_id(n), spec: spec(1, false, true), on: None, again: false }
}

/// Starts jobs one after the other until one is refused; how many run.
fn fill(world: &mut World, from: u64) -> u64 {
    for n in from.. {
        let started = run(world, 0, want_limited(n));
        if await_end(world, 0, started) != RunState::Succeeded {
            return n;
        }
    }
    unreachable!("a quota has an end")
}

/// Seven CPUs of three arbiters, of which any two grant: 14 over three, in whole CPUs.
#[test]
fn all_of_a_quota_is_used_while_all_arbiters_are_there() {
    let mut world = world(Profile { quota_vcpus: 7, ..Profile::calm(22) });
    assert_eq!(fill(&mut world, 0), 7);
    assert_eq!(world.coverage.count("quota.fragmented"), 0, "nothing was in the way of another");
    ends_well(world);
}

/// Three VMs, whatever they take: any two of three arbiters grant each, and all of the limit can be used.
#[test]
fn as_many_vms_run_as_the_quota_says_and_one_more_when_one_has_ended() {
    let quota_vms = Some(3);
    let mut world = world(Profile { quota_vcpus: 8, quota_vms, ..Profile::calm(25) });
    assert_eq!(fill(&mut world, 0), 3);
    assert_eq!(world.coverage.count("quota.fragmented"), 0, "nothing was in the way of another");
    // More CPUs for one of them is no VM more.
    let grown = run(&mut world, 0, want_size(3));
    assert_eq!(await_end(&mut world, 0, grown), RunState::Succeeded);
    let at = (0..3).find(|host| world.runs(*host, &job_id(1))).expect("it runs somewhere");
    let to = world.hosts[(at + 1) % 3].id.clone();
    let moving = run(&mut world, 0, Want::migrate(job_id(1), to));
    assert_eq!(await_end(&mut world, 0, moving), RunState::Succeeded, "nor is a move");
    assert_eq!(fill(&mut world, 4), 4, "a fourth is refused");
    let stopped = run(&mut world, 0, Want::stop(job_id(2), 0));
    assert_eq!(await_end(&mut world, 0, stopped), RunState::Succeeded);
    assert_eq!(fill(&mut world, 5), 6, "one in its place");
    ends_well(world);
}

/// Two thirds with one away; and when it is back, what the others have booked alone is spread anew.
#[test]
fn k_of_n_of_a_quota_is_used_with_one_away_and_all_of_it_when_it_is_back() {
    let mut world = world(Profile { quota_vcpus: 9, ..Profile::calm(23) });
    let away = world.arbiters[1].node;
    world.kill_process(away);
    assert_eq!(fill(&mut world, 0), 6, "6 of 9");
    world.start_after(away, 50);
    world.run_ms(15_000);
    assert_eq!(fill(&mut world, 6), 9);
    assert!(world.coverage.count("quota.fragmented") > 0);
    ends_well(world);
}

#[test]
fn a_job_at_full_quota_moves_and_is_not_counted_twice() {
    let mut world = world(Profile { quota_vcpus: 5, ..Profile::calm(24) });
    assert_eq!(fill(&mut world, 0), 5);
    for n in 0..5 {
        let at = (0..3).find(|host| world.runs(*host, &job_id(n))).expect("it runs somewhere");
        let to = world.hosts[(at + 1) % 3].id.clone();
        let moving = run(&mut world, 0, Want::migrate(job_id(n), to));
        assert_eq!(await_end(&mut world, 0, moving), RunState::Succeeded);
    }
    ends_well(world);
}

/// All of a rate is used while all arbiters are there, no matter whose word each start has; and again once it is over.
#[test]
fn as_many_vms_start_as_the_rate_says_and_more_when_its_time_is_over() {
    let profile = Profile { quota_vcpus: 8, starts_in_a_minute: Some(3), ..Profile::calm(26) };
    let mut world = world(profile);
    let want = |n| Want::Run { job: job_id(n), spec: spec(1, false, true), on: None, again: false };
    for n in 0..3 {
        let run = run(&mut world, 0, want(n));
        assert_eq!(await_end(&mut world, 0, run), RunState::Succeeded, "start {n}");
    }
    let fourth = run(&mut world, 0, want(3));
    assert_eq!(await_end(&mut world, 0, fourth), RunState::RolledBack);
    world.run_ms(75_000);
    let again = run(&mut world, 0, want(3));
    assert_eq!(await_end(&mut world, 0, again), RunState::Succeeded);
    ends_well(world);
}

/// With one arbiter away, so many as any two others have parts for: of four, eight parts are three, three and two.
#[test]
fn with_an_arbiter_away_fewer_vms_start_and_never_more() {
    let profile = Profile { quota_vcpus: 8, starts_in_a_minute: Some(4), ..Profile::calm(27) };
    let mut world = world(profile);
    world.kill_process(world.arbiters[0].node);
    let want = |n| Want::Run { job: job_id(n), spec: spec(1, false, true), on: None, again: false };
    let mut ends = Vec::new();
    for n in 0..4 {
        let run = run(&mut world, 0, want(n));
        ends.push(await_end(&mut world, 0, run));
    }
    let won = ends.iter().filter(|end| **end == RunState::Succeeded).count();
    assert_eq!(won, 2, "{ends:?}");
}

/// Two requesters that know nothing of each other, and room for one: one has it, and the other none.
#[test]
fn rivals_for_the_last_of_a_quota_do_not_both_lose() {
    for seed in 0..12 {
        let mut world = world(Profile { quota_vcpus: 4, ..Profile::calm(80 + seed) });
        assert!(world.profile.groups == 2);
        let big = Want::Run { job: job_id(0), spec: spec(2, false, true), on: None, again: false };
        let first = run(&mut world, 0, big);
        assert_eq!(await_end(&mut world, 0, first), RunState::Succeeded);
        let want =
            |n| Want::Run { job: job_id(n), spec: spec(2, false, true), on: None, again: false };
        let (one, other) = (run(&mut world, 0, want(1)), run(&mut world, 1, want(2)));
        let ends = [await_end(&mut world, 0, one), await_end(&mut world, 1, other)];
        let won = ends.iter().filter(|end| **end == RunState::Succeeded).count();
        assert_eq!(won, 1, "seed {seed}: {ends:?}");
        ends_well(world);
    }
}

/// kill -9 of the agent between its journal and libvirt, again and again.
#[test]
fn a_resize_is_whole_whenever_its_agent_dies() {
    for after_us in (0..40_000).step_by(1_000) {
        let mut world = world(Profile::calm(21));
        let spec = spec(1, true, false);
        assert!(world.start(0, &job_id(0), 1, &spec));
        world.await_state(0, &job_id(0), JobState::Running);
        let offer = spec.with_size(|size| Size { vcpus: 3, ..size }).expect("a VM");
        let offer = world.offer(0, &job_id(0), 2, &offer, Action::Resize).expect("an offer");
        let ticket = world.ticket(offer).expect("granted");
        let size = SizeChange { vcpus: Some(3), ..SizeChange::default() };
        let ticket = Some(ticket);
        let resize = ResizeJob { revision: Revision(2), size, ticket, run: None };
        let request = Request::Resize { job: job_id(0), resize };
        world.ask_by_hand(0, 0, request);
        world.run_us(after_us);
        let node = world.hosts[0].node;
        world.restart(node, 50);
        world.run_ms(20_000);
        let rows = &world.hosts[0].disk.ledger.jobs;
        let vcpus = rows[0].job.spec.resources().vcpus;
        assert_eq!(vcpus_of(&world, 0), vcpus, "after {after_us} µs");
        assert_eq!(rows[0].job.resize, None);
        ends_well(world);
    }
}

#[test]
fn resize_ticket_pending_when_source_hands_off() {
    let mut world = world(Profile::calm(22));
    let (job, spec) = (job_id(0), spec(1, true, false));
    assert!(world.start(0, &job, 1, &spec));
    world.await_state(0, &job, JobState::Running);
    let larger = spec.with_size(|size| Size { vcpus: 3, ..size }).expect("a VM");
    let offer = world.offer(0, &job, 2, &larger, Action::Resize).expect("an offer");
    let ticket = world.ticket(offer).expect("granted");
    world.migrate_by_hand(0, 1, &job, 2, &spec);
    world.await_state(1, &job, JobState::Running);
    let late = world.resize(0, &job, 3, 3, Some(ticket));
    assert!(matches!(late, Some(Err(_))), "{late:?}");
    assert_eq!(vcpus_of(&world, 1), 1);
    ends_well(world);
}

#[test]
fn a_vm_is_run_moved_stopped_and_deleted() {
    let mut world = world(Profile::calm(10));
    let job = job_id(0);
    let started = run(&mut world, 0, want_run());
    assert_eq!(await_end(&mut world, 0, started), RunState::Succeeded);
    let at = (0..3).find(|n| world.runs(*n, &job)).expect("it runs somewhere");
    let to = world.hosts[(at + 1) % 3].id.clone();
    let moved = run(&mut world, 0, Want::migrate(job.clone(), to));
    assert_eq!(await_end(&mut world, 0, moved), RunState::Succeeded);
    assert!(world.runs((at + 1) % 3, &job));
    let stopped = run(&mut world, 0, Want::stop(job.clone(), 0));
    assert_eq!(await_end(&mut world, 0, stopped), RunState::Succeeded);
    let deleted = run(&mut world, 0, Want::Delete { job });
    assert_eq!(await_end(&mut world, 0, deleted), RunState::Succeeded);
    ends_well(world);
}

#[test]
fn two_schedulers_that_want_the_same_job_start_it_once() {
    for seed in 20..30 {
        let mut world = world(Profile::calm(seed));
        let ids = [run(&mut world, 0, want_run()), run(&mut world, 1, want_run())];
        for (group, id) in ids.into_iter().enumerate() {
            await_end(&mut world, group, id);
        }
        let running = (0..3).filter(|n| world.runs(*n, &job_id(0))).count();
        assert_eq!(running, 1, "seed {seed}");
        ends_well(world);
    }
}

#[test]
fn two_schedulers_five_arbiters_split_2_2_1() {
    for seed in 30..36 {
        let profile = Profile { arbiters: 5, k: 3, ..Profile::calm(seed) };
        let mut world = world(profile);
        // The first scheduler reaches arbiters 0 and 1, the second 2 and 3; nobody reaches the last.
        for (engine, arbiters) in [(0, [2, 3, 4]), (1, [0, 1, 4])] {
            for arbiter in arbiters {
                world.network.part(world.engines[engine].node, world.arbiters[arbiter].node);
            }
        }
        let ids = [run(&mut world, 0, want_run()), run(&mut world, 1, want_run())];
        world.run_ms(20_000);
        assert!((0..3).all(|n| !world.runs(n, &job_id(0))), "two of five are no quorum");
        world.network.cut.clear();
        for (group, id) in ids.into_iter().enumerate() {
            await_end(&mut world, group, id);
        }
        ends_well(world);
    }
}

#[test]
fn duplicate_offers_of_one_host_start_one_job_once() {
    let mut world = world(Profile::calm(40));
    let (job, spec) = (job_id(0), spec(1, false, false));
    let first = world.offer(0, &job, 1, &spec, Action::Start).expect("an offer");
    let second = world.offer(0, &job, 1, &spec, Action::Start).expect("another");
    let second = world.ticket(second).expect("granted: it is the same host");
    let first = world.ticket(first).expect("granted as well");
    assert!(matches!(world.put(0, &job, &spec, second, None), Some(Ok(_))));
    world.await_state(0, &job, JobState::Running);
    let hold = world.hold(0, &job);
    assert!(matches!(world.put(0, &job, &spec, first, None), Some(Ok(_))), "it is so already");
    assert_eq!(world.hold(0, &job), hold);
    ends_well(world);
}

/// Adopts the domain as `legacy` and waits until it is a job; the agent and libvirt fail meanwhile.
fn adopt(world: &mut World, uuid: uuid::Uuid, job: &JobId, trouble: impl Fn(&mut World)) {
    let JobKind::Vm(vm) = spec(1, false, false).kind else { unreachable!("it is a VM") };
    let spec = JobSpec::vm(VmSpec { adopted: Some(uuid), ..vm });
    for _ in 0..20 {
        if world.start(0, job, 1, &spec) {
            break;
        }
        world.run_ms(1_000);
    }
    trouble(world);
    world.await_state(0, job, JobState::Running);
}

#[test]
fn a_domain_is_adopted_and_released_without_a_restart_whatever_dies() {
    for seed in 60..90 {
        let mut world = world(Profile::calm(seed));
        let job: JobId = "legacy".parse().unwrap();
        let uuid = world.start_foreign(0, &job);
        let is_observed = |world: &World| {
            let process = world.hosts[0].process.as_ref();
            process.is_some_and(|p| p.agent.inventory().observed.iter().any(|d| d.uuid == uuid))
        };
        assert!(world.run_until(5_000, is_observed), "it is shown within 5 s");
        // The agent dies at another moment each time; libvirt is away, or the disk full, at some.
        let trouble = |world: &mut World| {
            if seed % 3 == 0 {
                world.hv_goes_down(0, 2_000_000);
            }
            if seed % 4 == 0 {
                world.hosts[0].disk.full_until_us = world.now_us + 3_000_000;
            }
            world.run_ms(seed % 7);
            let node = world.hosts[0].node;
            world.restart(node, 200);
        };
        adopt(&mut world, uuid, &job, trouble);
        assert_eq!(world.hosts[0].hv.domains[&uuid].label.as_ref(), Some(&job), "seed {seed}");
        assert!(world.hold(0, &job).is_some());

        let given = world.ask_host(0, Request::Release(job.clone()));
        assert!(matches!(given, Some(Ok(_))), "{given:?}");
        trouble(&mut world);
        assert!(world.run_until(60_000, is_observed), "seed {seed}: it is nobody's again");
        let domain = &world.hosts[0].hv.domains[&uuid];
        assert_eq!((domain.label.clone(), domain.definition.as_str()), (None, "domain legacy"));
        assert_eq!((domain.starts, domain.is_running()), (1, true), "seed {seed}");
        assert!(world.hosts[0].disk.kept.is_empty() && world.state(0, &job).is_none());
        ends_well(world);
    }
}

/// An answer that an arbiter asked for before its restart would show offers that it then forgets;
/// and a grant it gave before is still good. Silence keeps both harmless.
#[test]
fn statement_from_before_restart_arrives_after_it() {
    let mut world = world(Profile { arbiters: 1, k: 1, ..Profile::calm(41) });
    let (job, spec) = (job_id(0), spec(1, false, false));
    let first = world.offer(0, &job, 1, &spec, Action::Start).expect("an offer");
    let first = world.ticket(first).expect("granted");
    world.restart(world.arbiters[0].node, 50);
    world.run_ms(2_500);
    let second = world.offer(1, &job, 1, &spec, Action::Start).expect("an offer");
    let denial = world.ask_arbiter(0, &second).expect("an answer").expect_err("a denial");
    assert!(matches!(denial.why, DenialReason::Silent { .. }), "{denial:?}");
    assert!(matches!(world.put(0, &job, &spec, first, None), Some(Ok(_))));
    world.run_ms(12_000);
    let third = world.offer(1, &job, 1, &spec, Action::Start).expect("an offer");
    let denial = world.ask_arbiter(0, &third).expect("an answer").expect_err("a denial");
    assert!(matches!(denial.why, DenialReason::Promised { .. }), "{denial:?}");
    ends_well(world);
}

#[test]
fn two_of_three_amnesic_with_pending_takes() {
    for seed in 50..56 {
        let mut world = world(Profile::calm(seed));
        let (job, spec) = (job_id(0), spec(1, false, false));
        let first = world.offer(0, &job, 1, &spec, Action::Start).expect("an offer");
        let first = world.ticket(first).expect("granted");
        for arbiter in [0, 1] {
            world.restart(world.arbiters[arbiter].node, 100);
        }
        world.run_ms(1_000 * (seed - 49));
        let second = world.offer(1, &job, 1, &spec, Action::Start).expect("an offer");
        assert!(world.ticket(second).is_none(), "one that remembers is no quorum");
        world.put(0, &job, &spec, first, None);
        world.run_ms(15_000);
        assert!(!world.start(1, &job, 1, &spec) || !world.runs(0, &job));
        ends_well(world);
    }
}

#[test]
fn rolling_amnesia_one_after_the_other() {
    let mut world = world(Profile::calm(57));
    let (job, spec) = (job_id(0), spec(1, false, false));
    assert!(world.start(0, &job, 1, &spec));
    world.await_state(0, &job, JobState::Running);
    for arbiter in 0..3 {
        world.restart(world.arbiters[arbiter].node, 200);
        world.run_ms(1_000);
        assert!(!world.start(1, &job, 1, &spec), "arbiter {arbiter} has forgotten");
    }
    assert!(world.runs(0, &job));
    ends_well(world);
}

#[test]
fn all_members_restart_with_guests_running() {
    let mut world = world(Profile::calm(58));
    let (job, spec) = (job_id(0), spec(1, false, false));
    assert!(world.start(0, &job, 1, &spec));
    world.await_state(0, &job, JobState::Running);
    for arbiter in 0..3 {
        world.restart(world.arbiters[arbiter].node, 100);
    }
    world.run_ms(5_000);
    assert!(world.runs(0, &job), "keep jobs need nobody");
    assert!(!world.start(1, &job_id(1), 1, &spec), "granted while silent");
    world.run_ms(9_000);
    assert!(world.start(1, &job_id(1), 1, &spec));
    assert!(!world.start(1, &job, 1, &spec));
    ends_well(world);
}

/// Quota: what is promised to a host that nobody hears stays promised.
#[test]
fn promise_redeemed_then_host_partitioned() {
    let mut world = world(Profile { quota_vcpus: 3, ..Profile::calm(59) });
    let spec = spec(2, false, true);
    assert!(world.start(0, &job_id(0), 1, &spec));
    let others: Vec<_> = (0..world.nodes.len()).map(tests::sim::message::NodeId).collect();
    let cut_off = world.hosts[0].node;
    for other in others.into_iter().filter(|other| *other != cut_off) {
        world.network.part(cut_off, other);
    }
    world.run_ms(60_000);
    assert!(!world.start(1, &job_id(1), 1, &spec), "the quota is used up");
    world.network.cut.clear();
    world.run_ms(3_000);
    world.stop(0, &job_id(0));
    world.run_ms(3_000);
    assert!(world.start(1, &job_id(1), 1, &spec));
    ends_well(world);
}

/// The source loses power at every stage of a move; the guest is lost or moved, never doubled.
#[test]
fn migration_source_dies_before_and_after_handoff() {
    let mut ends = std::collections::BTreeSet::new();
    for step in 0..24 {
        let mut world = world(Profile::calm(60 + step % 3));
        let started = run(&mut world, 0, want_run());
        await_end(&mut world, 0, started);
        let at = (0..3).find(|n| world.runs(*n, &job_id(0))).expect("it runs somewhere");
        let to = world.hosts[(at + 1) % 3].id.clone();
        run(&mut world, 0, Want::migrate(job_id(0), to));
        world.run_ms(step * 200);
        world.lose_power(at, 20_000);
        world.run_ms(60_000);
        ends.insert((0..3).filter(|n| world.runs(*n, &job_id(0))).count());
        ends_well(world);
    }
    assert_eq!(ends.into_iter().collect::<Vec<_>>(), [0, 1], "both ends were seen");
}

/// The engine dies before it can relay the source's word; the next one finds it in the source's row.
#[test]
fn handoff_lost_then_relayed() {
    let mut world = world(Profile { groups: 1, engines_per_group: 2, ..Profile::calm(70) });
    let started = run(&mut world, 0, want_run());
    await_end(&mut world, 0, started);
    let at = (0..3).find(|n| world.runs(*n, &job_id(0))).expect("it runs somewhere");
    let to = (at + 1) % 3;
    let want = Want::migrate(job_id(0), world.hosts[to].id.clone());
    let moving = run(&mut world, 0, want);
    world.await_state(at, &job_id(0), JobState::Stopped);
    world.kill_process(world.engines[0].node);
    assert!(world.oracle.handoffs.is_empty() && !world.runs(to, &job_id(0)));
    world.restart(world.engines[1].node, 5_000);
    assert_eq!(await_end(&mut world, 0, moving), RunState::Succeeded);
    assert!(world.runs(to, &job_id(0)));
    ends_well(world);
}

#[test]
fn target_cancels_then_handoff_arrives() {
    let mut world = world(Profile::calm(71));
    let (job, spec) = (job_id(0), spec(1, false, false));
    assert!(world.start(0, &job, 1, &spec));
    world.await_state(0, &job, JobState::Running);
    world.send_by_hand(0, 1, &job, 2, &spec);
    world.await_state(0, &job, JobState::Stopped);
    world.delete(1, &job);
    let handoff = world.handoff_of(0, &job).expect("the source has let go");
    let late = world.ask_host(1, Request::Handoff { job: job.clone(), handoff });
    assert!(matches!(late, Some(Err(Refusal::NoSuchJob { .. }))), "{late:?}");
    world.run_ms(3_000);
    assert!((0..3).all(|n| !world.runs(n, &job)), "it was given up by both");
    assert!(world.start(2, &job, 3, &spec), "and may start anew");
    ends_well(world);
}

#[test]
fn host_reboots_faster_than_d() {
    let mut world = world(Profile::calm(72));
    let (job, spec) = (job_id(0), spec(1, false, false));
    assert!(world.start(0, &job, 1, &spec));
    world.await_state(0, &job, JobState::Running);
    let other = world.offer(0, &job_id(1), 1, &spec, Action::Start).expect("an offer");
    let other = world.ticket(other).expect("granted");
    world.lose_power(0, 1_000);
    world.run_ms(4_000);
    world.await_state(0, &job, JobState::Crashed);
    let late = world.put(0, &job_id(1), &spec, other, None);
    assert!(matches!(late, Some(Err(Refusal::Ticket { .. }))), "of an earlier life: {late:?}");
    assert!(!world.start(1, &job, 2, &spec), "its hold stays with the host");
    ends_well(world);
}

/// Long enough away that everybody else has given it up; not a week, which would only cost events.
#[test]
fn host_returns_after_a_long_time() {
    let mut world = world(Profile::calm(73));
    let started = run(&mut world, 0, want_run());
    await_end(&mut world, 0, started);
    let at = (0..3).find(|n| world.runs(*n, &job_id(0))).expect("it runs somewhere");
    world.lose_power(at, 600_000);
    world.run_ms(300_000);
    let again = run(&mut world, 1, want_run());
    world.run_ms(400_000);
    assert!(state_of(&world, 1, again).is_ended());
    assert!((0..3).filter(|n| world.runs(*n, &job_id(0))).count() <= 1);
    ends_well(world);
}

/// Both guests of a move that nobody can tell the end of stand still; only the source's word starts
/// one of them.
#[test]
fn two_migrate_in_offers_one_redeemed_one_ended_then_handoff() {
    let mut world = world(Profile::calm(74));
    let (job, spec) = (job_id(0), spec(1, false, false));
    assert!(world.start(0, &job, 1, &spec));
    world.await_state(0, &job, JobState::Running);
    let hold = world.hold(0, &job).expect("a hold");
    let action = Action::MigrateIn { from: world.hosts[0].id.clone(), hold };
    let one = world.offer(1, &job, 2, &spec, action.clone()).expect("an offer");
    let two = world.offer(2, &job, 2, &spec, action).expect("an offer");
    let one = world.ticket(one).expect("granted");
    assert!(world.ticket(two.clone()).is_none(), "one successor at a time");
    assert!(matches!(world.put(1, &job, &spec, one, None), Some(Ok(_))));
    world.send_to_listener(0, 1, &job);
    world.await_state(0, &job, JobState::Stopped);
    assert!(world.ticket(two).is_none(), "nor after the handoff");
    let handoff = world.handoff_of(0, &job).expect("the source has let go");
    assert!(matches!(
        world.ask_host(1, Request::Handoff { job: job.clone(), handoff }),
        Some(Ok(_))
    ));
    world.await_state(1, &job, JobState::Running);
    ends_well(world);
}
