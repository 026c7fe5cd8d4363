//! Scripts of VMs that others make room for, and a property of several schedulers that do.

use super::*;

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
fn a_way_of_three_moves_is_made_move_by_move_and_each_plan_goes_on_from_there() {
    let mut world = World::new(3);
    world.label(2, Some("ssd"));
    let sizes = [2, 4, 2];
    for (n, gib) in (1..).zip(sizes) {
        world.put_job(n, sized(n.into(), gib));
    }
    world.put("web", 1, on_ssd());
    let mut at = [1_u8, 2, 3];
    let mut done = Vec::new();
    for now_ms in (0..120_000).step_by(1_000) {
        for (job, to) in moves(&world.live(now_ms)) {
            let vm = (0..3).find(|vm| id(vm + 1) == job).unwrap();
            let n = (1..=3).find(|n| host(*n) == to).unwrap();
            world.drop_job(at[vm], vm + 1);
            world.put_job(n, sized(vm + 1, sizes[vm]));
            at[vm] = n;
            world.handle(now_ms, Input::Ended { job, to, failure: None });
            done.push((vm + 1, n));
        }
    }
    assert_eq!(done, [(3, 1), (2, 3), (1, 2)]);
    assert_eq!(world.standing(120_000, "web"), KeptStanding::Met);
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
        let view = world.view.clone();
        let input = aims.told(planner::PlanInput { view, ..planner::PlanInput::default() });
        prop_assert_eq!(planner::plan(&input).plan.steps, vec![], "begun {:?}", several.begun);
    }
}
