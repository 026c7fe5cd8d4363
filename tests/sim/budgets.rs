//! Stories of budgets that chance seldom tells: what a host starts while all arbiters are away, what is
//! refused, and what becomes of it when things end, move, die and come back.

use host_agent::core::{Reply, Request};
use protocol::api::{NewRun, RunState, Want};
use protocol::id::JobId;
use protocol::job::{JobKind, JobState, Resize, ResizeStage};
use protocol::refusal::Refusal;
use protocol::ticket::Action;
use tests::sim::budgets::{budget, budget_id, owned_id};
use tests::sim::by_hand::HandAnswer;
use tests::sim::verdict::rest;
use tests::sim::workload::{job_id, spec};
use tests::sim::{Mutant, Profile, World};

/// Six CPUs of the tenant, and one arbiter, so that what is granted by hand can be counted on fingers.
fn world(seed: u64, mutant: Option<Mutant>) -> World {
    world_of(Profile { arbiters: 1, k: 1, quota_vcpus: 6, ..Profile::calm(seed) }, mutant)
}

fn world_of(profile: Profile, mutant: Option<Mutant>) -> World {
    let mut world = World::new(profile, mutant);
    world.run_ms(15_000);
    world
}

/// Has the first engine do it; how it ended.
#[track_caller]
fn run(world: &mut World, want: Want) -> RunState {
    let id = world.next_run_id();
    assert!(world.submit(0, NewRun::new(id, want)), "not accepted");
    let state = |world: &World| world.conductors[0].runs[&id].state;
    assert!(world.run_until(200_000, |world| state(world).is_ended()), "no end");
    state(world)
}

fn want_budget(world: &World, host: usize, vcpus: u32) -> Want {
    let (job, on) = (budget_id(host), Some(world.hosts[host].id.clone()));
    Want::Run { job, spec: budget(vcpus), on, again: false }
}

fn want_by_budget(world: &World, host: usize, n: u64, vcpus: u32) -> Want {
    let (job, on) = (owned_id(host, n), world.hosts[host].id.clone());
    Want::Spend { job, spec: spec(vcpus, false, true), on, budget: budget_id(host) }
}

fn want_by_ticket(n: u64, vcpus: u32) -> Want {
    Want::Run { job: job_id(n), spec: spec(vcpus, false, true), on: None, again: false }
}

/// Nothing is broken, and everything comes to rest when it is mended.
#[track_caller]
fn ends_well(mut world: World) {
    world.heal();
    rest(&mut world);
    assert_eq!(world.violation, None);
}

#[track_caller]
fn refused(answer: HandAnswer) -> Refusal {
    match answer {
        Some(Err(no)) => no,
        other => panic!("not refused: {other:?}"),
    }
}

fn all_arbiters(world: &mut World, are_up: bool) {
    for n in 0..world.arbiters.len() {
        let node = world.arbiters[n].node;
        match are_up {
            true => world.start_after(node, 50),
            false => world.kill_process(node),
        }
    }
}

/// A budget of four CPUs on host 0, and a VM with one of them by it.
#[track_caller]
fn spent(world: &mut World) -> (JobId, JobId) {
    let (id, vm) = (budget_id(0), owned_id(0, 0));
    assert!(world.delegate(0, &id, 1, &budget(4)));
    let started = world.spend(0, &vm, 1, &spec(1, false, true), &id);
    assert!(matches!(started, Some(Ok(Reply::Accepted(_)))), "{started:?}");
    world.await_state(0, &vm, JobState::Running);
    (id, vm)
}

/// By runs, as operators and tenants have it done, with three arbiters of whom two grant.
#[test]
fn delegated_budget_offline() {
    for seed in 0..8 {
        let profile = Profile { quota_vcpus: 6, ..Profile::calm(40 + seed) };
        let mut world = world_of(profile, None);
        let (id, done) = (budget_id(0), RunState::Succeeded);
        let want = want_budget(&world, 0, 3);
        assert_eq!(run(&mut world, want), done);
        let want = want_budget(&world, 0, 4);
        assert_eq!(run(&mut world, want), done, "it grows");
        assert_ne!(
            run(&mut world, want_by_ticket(0, 3)),
            done,
            "four of six are gone, used or not"
        );
        all_arbiters(&mut world, false);
        let want = want_by_budget(&world, 0, 0, 2);
        assert_eq!(run(&mut world, want), done);
        assert!(world.runs(0, &owned_id(0, 0)));
        let want = want_by_budget(&world, 0, 1, 3);
        assert_eq!(run(&mut world, want), RunState::RolledBack, "3 of 2");
        let no = refused(world.spend(0, &owned_id(0, 1), 1, &spec(3, false, true), &id));
        let Refusal::BudgetExhausted { used, asked, at_most, .. } = no else { panic!("{no}") };
        assert_eq!((used.vcpus, asked.vcpus, at_most.vcpus), (2, 3, 2));
        // kill -9 of the agent: what is used is in its ledger.
        let node = world.hosts[0].node;
        world.restart(node, 50);
        world.run_ms(5_000);
        assert!(world.runs(0, &owned_id(0, 0)), "a guest outlives its agent");
        let no = refused(world.spend(0, &owned_id(0, 1), 1, &spec(3, false, true), &id));
        assert_eq!(no.name(), "budget-exhausted");
        let want = want_by_budget(&world, 0, 1, 2);
        assert_eq!(run(&mut world, want), done);
        let no = refused(world.spend(0, &owned_id(0, 2), 1, &spec(1, false, true), &id));
        assert_eq!(no.name(), "budget-exhausted");
        assert!(!world.start(1, &job_id(1), 1, &spec(1, false, true)), "by a ticket as ever");
        all_arbiters(&mut world, true);
        world.run_ms(15_000);
        assert_eq!(run(&mut world, want_by_ticket(1, 2)), done, "2 of 6 were not delegated");
        assert_ne!(run(&mut world, want_by_ticket(2, 1)), done, "the other four were");
        // What ends frees the budget, and not the quota.
        world.stop(0, &owned_id(0, 0));
        assert_ne!(run(&mut world, want_by_ticket(2, 1)), done);
        world.stop(0, &owned_id(0, 1));
        assert_eq!(run(&mut world, Want::Delete { job: id }), done);
        world.run_ms(3_000);
        assert_eq!(run(&mut world, want_by_ticket(2, 4)), done, "it is given back");
        ends_well(world);
    }
}

#[test]
fn nothing_is_given_back_that_is_used() {
    let mut world = world(50, None);
    let (id, vm) = spent(&mut world);
    let no = refused(world.give_back(0, &id));
    let Refusal::BudgetInUse { used, users, .. } = no else { panic!("{no}") };
    assert_eq!((used.vcpus, users), (1, vec![vm.clone()]));
    // Less it may have, as far as it is not used, and without anybody's leave.
    let put = |world: &mut World, revision, vcpus| {
        let put = protocol::api::PutJob::of(protocol::id::Revision(revision), budget(vcpus));
        world.ask_host(0, Request::Put { job: budget_id(0), put })
    };
    assert!(matches!(put(&mut world, 2, 1), Some(Ok(_))));
    assert_eq!(refused(put(&mut world, 3, 2)).name(), "ticket-missing");
    world.run_ms(3_000);
    assert!(world.start(1, &job_id(0), 1, &spec(5, false, true)), "five are free again");
    assert_eq!(refused(world.resize(0, &vm, 2, 2, None)).name(), "budget-exhausted");
    ends_well(world);
}

#[test]
fn a_name_that_a_budget_owns_is_started_by_nobody_else() {
    let mut world = world(51, None);
    let (_, vm) = spent(&mut world);
    let one = spec(1, false, true);
    assert!(!world.start(1, &vm, 1, &one), "it runs on host 0 by the budget");
    assert!(!world.start(1, &owned_id(0, 1), 1, &one), "it could be started there at any moment");
    assert!(world.start(1, &owned_id(1, 1), 1, &one), "host 1 has no budget that owns it");
    assert!(!world.delegate(0, &budget_id(1), 1, &budget(1)), "host 1 has one of its names");
    ends_well(world);
}

#[test]
fn a_name_that_has_left_is_not_started_by_its_budget_again() {
    let mut world = world(52, None);
    let (id, vm) = spent(&mut world);
    let one = spec(1, false, true);
    world.migrate_by_hand(0, 1, &vm, 2, &one);
    world.await_state(1, &vm, JobState::Running);
    world.delete(0, &vm);
    let no = refused(world.spend(0, &vm, 1, &one, &id));
    assert_eq!(no.name(), "not-by-budget");
    // It frees the budget, and is counted where it is.
    assert!(matches!(world.spend(0, &owned_id(0, 1), 1, &spec(4, false, true), &id), Some(Ok(_))));
    world.run_ms(3_000);
    assert!(!world.start(2, &job_id(0), 1, &spec(2, false, true)), "5 of 6");
    assert!(world.start(2, &job_id(0), 1, &one));
    // And is its new host's from now on.
    world.stop(1, &vm);
    assert!(world.start(1, &vm, 3, &one));
    ends_well(world);
}

#[test]
fn a_budget_grows_once_what_it_has_started_has_left() {
    let mut world = world(53, None);
    let (id, vm) = spent(&mut world);
    let one = spec(1, false, true);
    let hold = world.hold(0, &vm).expect("that of the budget");
    let action = Action::MigrateIn { from: world.hosts[0].id.clone(), hold };
    let offer = world.offer(1, &vm, 2, &one, action).expect("an offer");
    let ticket = world.ticket(offer).expect("granted");
    assert!(matches!(world.put(1, &vm, &one, ticket, None), Some(Ok(_))));
    assert!(!world.delegate(0, &id, 2, &budget(5)), "one of its names is promised elsewhere");
    world.send_to_listener(0, 1, &vm);
    world.await_state(0, &vm, JobState::Stopped);
    let handoff = world.handoff_of(0, &vm).expect("the source has let go");
    world.ask_host(1, Request::Handoff { job: vm.clone(), handoff });
    world.await_state(1, &vm, JobState::Running);
    assert!(world.delegate(0, &id, 2, &budget(5)), "the name is away");
    ends_well(world);
}

/// After a reboot a host cannot know what was said of it meanwhile, so it asks before it spends.
#[test]
fn a_host_that_has_rebooted_spends_nothing_before_the_arbiters_have_spoken() {
    let mut world = world(54, None);
    let (id, _) = spent(&mut world);
    all_arbiters(&mut world, false);
    world.lose_power(0, 2_000_000);
    world.run_ms(10_000);
    let one = spec(1, false, true);
    let no = refused(world.spend(0, &owned_id(0, 1), 1, &one, &id));
    assert_eq!(no.name(), "budget-awaits-right");
    all_arbiters(&mut world, true);
    world.run_ms(20_000);
    assert!(matches!(world.spend(0, &owned_id(0, 1), 1, &one, &id), Some(Ok(_))));
    ends_well(world);
}

#[test]
fn what_a_budget_has_started_gets_a_ticket_of_its_own_by_a_change_of_size() {
    let mut world = world(55, None);
    let (id, vm) = spent(&mut world);
    // Alone there is room in the quota, but not in the budget.
    assert_eq!(refused(world.resize(0, &vm, 2, 5, None)).name(), "budget-exhausted");
    assert!(matches!(world.resize(0, &vm, 2, 2, None), Some(Ok(_))), "2 of 4");
    // At once, or from its next start on.
    let is_through = |world: &World| {
        let agent = world.hosts[0].process.as_ref().map(|process| &process.agent);
        let row = agent.and_then(|agent| agent.job(&vm)).map(|row| &row.job);
        let is_changing = |resize: &Resize| resize.stage == ResizeStage::Changing;
        row.is_some_and(|row| !row.resize.as_deref().is_some_and(is_changing))
    };
    assert!(world.run_until(60_000, is_through), "it has two CPUs");
    assert_eq!(world.grow(0, &vm, 3, 2), Some(()), "by a ticket: 4 and 2 of 6");
    assert_ne!(world.hold(0, &vm), world.hold(0, &id));
    assert!(matches!(world.give_back(0, &id), Some(Ok(_))), "nothing is by it any more");
    ends_well(world);
}

#[track_caller]
fn found(mutant: Mutant, seed: u64, invariant: &str, story: impl Fn(&mut World)) {
    let tell = |mutant| {
        let mut world = world(seed, mutant);
        story(&mut world);
        world.violation
    };
    assert_eq!(tell(None), None, "the story itself breaks a rule");
    let found = tell(Some(mutant)).map(|violation| violation.invariant);
    assert_eq!(found, Some(invariant), "{mutant:?}");
}

#[test]
fn spending_is_forgotten_when_the_agent_dies() {
    found(Mutant::SpendingForgotten, 60, "no_budget_is_overspent", |world| {
        let (id, _) = spent(world);
        let node = world.hosts[0].node;
        world.restart(node, 50);
        world.run_ms(3_000);
        world.spend(0, &owned_id(0, 1), 1, &spec(4, false, true), &id);
        world.run_ms(1_000);
    });
}

#[test]
fn a_budget_is_given_back_while_it_is_used() {
    found(Mutant::BudgetGivenBackWhileUsed, 61, "no_budget_is_overspent", |world| {
        let (id, _) = spent(world);
        world.give_back(0, &id);
        world.run_ms(1_000);
    });
}

#[test]
fn a_budget_is_not_counted() {
    found(Mutant::BudgetNotCounted, 62, "every_hold_is_counted_in_full", |world| {
        spent(world);
        world.run_ms(3_000);
        // Anything that is written down.
        world.start(1, &job_id(0), 1, &spec(1, false, true));
    });
}

#[test]
fn what_is_by_a_budget_is_counted_twice() {
    found(Mutant::SpendingCountedTwice, 63, "everything_comes_to_rest", |world| {
        spent(world);
        world.heal();
        rest(world);
    });
}

/// Of one VM, so that nothing but the names tells it from a VM.
#[test]
fn the_names_of_a_budget_are_anybodys() {
    found(Mutant::NamesNotOwned, 64, "no_vm_runs_on_two_hosts", |world| {
        let (id, vm, one) = (budget_id(0), owned_id(0, 0), spec(1, false, true));
        let mut small = budget(2);
        if let JobKind::Budget(budget) = &mut small.kind {
            budget.vms = 1;
        }
        assert!(world.delegate(0, &id, 1, &small));
        assert!(matches!(world.spend(0, &vm, 1, &one, &id), Some(Ok(_))));
        world.await_state(0, &vm, JobState::Running);
        // What it has granted itself it remembers.
        let node = world.arbiters[0].node;
        world.restart(node, 50);
        world.run_ms(15_000);
        world.start(1, &vm, 1, &one);
        world.run_ms(5_000);
    });
}

#[test]
fn a_name_that_is_away_is_forgotten() {
    found(Mutant::AwayForgotten, 65, "no_vm_runs_on_two_hosts", |world| {
        let (id, vm) = spent(world);
        let one = spec(1, false, true);
        world.migrate_by_hand(0, 1, &vm, 2, &one);
        world.await_state(1, &vm, JobState::Running);
        world.delete(0, &vm);
        let node = world.hosts[0].node;
        world.restart(node, 50);
        world.run_ms(3_000);
        world.spend(0, &vm, 1, &one, &id);
        world.run_ms(5_000);
    });
}
