//! Scripts of hosts that are to be about as full as each other, and a property of several schedulers that keep that.

use super::*;

const REST_MS: u64 = 60_000;

fn even(within: u32, moves_per_hour: u32) -> Option<Value> {
    let rule = json!({
        "expect": "balanced", "within_percent": within, "moves_per_hour": moves_per_hour,
    });
    Some(json!([rule]))
}

/// Hosts of 40 GiB, and so many VMs of 1 GiB on the first.
fn crowded(hosts: u8, vms: usize) -> World {
    let mut world = World::new(hosts);
    for n in 1..=hosts {
        world.host(n, |host, _| {
            host.capacity = Resources { vcpus: 100, memory_bytes: 40 * GIB, disk_bytes: 0 };
        });
    }
    for n in 1..=vms {
        world.put_job(1, row(n, JobState::Running));
    }
    world
}

fn open(job: usize, to: u8) -> Open {
    let run = RunId(Uuid::from_u128(1));
    Open { run, job: id(job), from: Some(host(1)), to: Some(host(to)) }
}

/// A move that was begun is shown, and ends.
fn arrive(world: &mut World, now_ms: u64, job: &JobId, to: &HostId) {
    let n: usize = job.as_str().trim_start_matches("vm-").parse().unwrap();
    world.drop_job(1, n);
    world.put_job(Several::number(to), row(n, JobState::Running));
    world.handle(now_ms, Input::Ended { job: job.clone(), to: to.clone(), failure: None });
}

#[test]
fn one_vm_moves_at_a_time_and_then_there_is_a_rest_until_hosts_are_comfortably_alike() {
    // 25 % and none: three moves make it 17.5 and 7.5.
    let mut world = crowded(2, 10);
    world.put("even", 1, even(20, 60));
    assert_eq!(world.live(0), [], "it may pass by itself");
    let mut now_ms = SETTLE_MS;
    for n in 0..3 {
        let begun = world.begun(now_ms);
        let [(Want::Migrate { job, .. }, to, Some(because))] = &begun[..] else {
            panic!("{n}: {begun:?}")
        };
        assert_eq!(*to, host(2));
        assert!(because.contains("full"), "{because}");
        assert_eq!(world.live(now_ms + 500), [], "one at a time");
        arrive(&mut world, now_ms + 2_000, job, to);
        assert_eq!(world.live(now_ms + 2_000), [], "then a rest");
        assert_eq!(world.live(now_ms + 2_000 + REST_MS - 1), []);
        now_ms += 2_000 + REST_MS;
    }
    for later in (now_ms..now_ms + 600_000).step_by(5_000) {
        assert_eq!(world.live(later), [], "near enough");
    }
    now_ms += 600_000;
    assert_eq!(world.standing(now_ms, "even"), KeptStanding::Met);
    let note = told_of(&world, "even").note.unwrap();
    assert!(note.contains("is 17.5% full") && note.contains("10 points apart"), "{note}");
    // What is tolerated does not begin it anew.
    world.put_job(1, row(11, JobState::Running));
    world.put_job(1, row(12, JobState::Running));
    for later in (now_ms..now_ms + 600_000).step_by(5_000) {
        assert_eq!(world.live(later), [], "not begun by what is tolerated");
    }
}

#[test]
fn without_moves_per_hour_it_is_told_what_would_be_moved_and_nobody_is() {
    let mut world = crowded(2, 10);
    world.put("even", 1, even(20, 0));
    for now_ms in (0..120_000).step_by(500) {
        assert_eq!(world.live(now_ms), []);
    }
    let why = world.why(120_000, "even");
    assert!(why.contains("25 points apart, and 20 may be"), "{why}");
    assert!(why.contains("What would help: move vm-1 from"), "{why}");
    let note = told_of(&world, "even").note.unwrap();
    assert!(note.contains("no `moves_per_hour`"), "{note}");
}

#[test]
fn what_no_move_helps_says_why() {
    let mut world = crowded(2, 0);
    world.put_job(1, sized(1, 30));
    world.put("even", 1, even(20, 60));
    for now_ms in (0..30_000).step_by(500) {
        assert_eq!(world.live(now_ms), []);
    }
    let why = world.why(30_000, "even");
    assert!(why.contains("vm-1 would make any other host as full"), "{why}");
}

#[test]
fn one_that_no_move_helps_does_not_hold_up_another() {
    let mut world = crowded(4, 0);
    for (n, label) in [(1, "ssd"), (2, "ssd"), (3, "tape"), (4, "tape")] {
        world.label(n, Some(label));
    }
    world.put_job(1, sized(1, 30));
    world.put_job(3, sized(2, 15));
    world.put_job(3, sized(3, 15));
    for label in ["ssd", "tape"] {
        let rule = json!({
            "expect": "balanced", "within_percent": 20, "moves_per_hour": 60,
            "labels": { "disk": label },
        });
        world.put(label, 1, Some(json!([rule])));
    }
    let begun: Vec<_> = (0..20_000).step_by(500).flat_map(|ms| world.live(ms)).collect();
    assert_eq!(moves(&begun), [(id(2), host(4))]);
    assert!(world.why(20_000, "ssd").contains("vm-1 would make any other host as full"));
}

#[test]
fn what_matters_as_much_comes_first_and_what_cannot_be_mended_as_well() {
    let mut world = crowded(2, 10);
    world.put("even", 1, even(20, 3_600));
    // No host has the label.
    world.put("web", 1, on_ssd());
    for now_ms in (0..60_000).step_by(500) {
        assert_eq!(world.live(now_ms), []);
    }
    let note = world.upkeep.status(60_000, &name("even")).unwrap().expectations[0].note.clone();
    assert_eq!(note.unwrap(), "first comes what is not so of expectations web (1)");
    world.label(1, Some("ssd"));
    let begun =
        moves(&(60_000..70_000).step_by(500).flat_map(|ms| world.live(ms)).collect::<Vec<_>>());
    assert_eq!(begun.len(), 1, "{begun:?}");
    assert!(begun[0].0 != id(1), "which is to stay on the host with the label");
}

#[test]
fn what_only_tells_does_not_come_first() {
    let mut world = crowded(2, 10);
    world.put_job(1, sized(20, 20));
    world.host(2, |host, _| host.capacity.memory_bytes = 20 * GIB);
    world.put("spare", 1, Some(json!([{ "expect": "lose_any_host" }])));
    world.put("even", 1, even(20, 60));
    let begun: Vec<_> = (0..10_000).step_by(500).flat_map(|ms| world.live(ms)).collect();
    assert!(matches!(world.verdict("spare"), Verdict::Broken { .. }));
    assert_eq!(moves(&begun).len(), 1);
}

#[test]
fn whatever_is_on_its_way_is_waited_for_and_rested_after() {
    let mut world = crowded(3, 10);
    world.put("even", 1, even(20, 60));
    world.put_job(3, row(20, JobState::MigratingOut));
    for now_ms in (0..30_000).step_by(500) {
        assert_eq!(world.live(now_ms), []);
    }
    let note = told_of(&world, "even").note.unwrap();
    assert!(note.contains("waits while vm-20 is migrating_out on"), "{note}");
    world.put_job(3, row(20, JobState::Running));
    assert_eq!(world.live(30_000), []);
    assert_eq!(world.live(29_500 + REST_MS - 1), [], "a rest after anybody's move");
    assert_eq!(world.live(30_000 + REST_MS).len(), 1);
}

#[test]
fn who_begins_anew_rests_first() {
    let mut world = crowded(2, 10);
    let list = even(20, 60).map(|list| list.as_array().unwrap().clone());
    let record = SetRecord::new(name("even"), Revision(1), list, 0);
    world.handle(0, Input::Recovered(record));
    let begun = |world: &mut World, range: std::ops::Range<u64>| {
        range.step_by(500).map(|now_ms| world.live(now_ms).len()).sum::<usize>()
    };
    assert_eq!(begun(&mut world, 0..REST_MS), 0, "what it has moved before is not known");
    assert_eq!(begun(&mut world, REST_MS..REST_MS + 10_000), 1);
}

#[test]
fn a_vm_that_is_expected_where_it_is_stays() {
    let mut world = crowded(2, 1);
    world.put_job(1, sized(2, 15));
    let list = json!([
        { "expect": "balanced", "within_percent": 20, "moves_per_hour": 60 },
        { "expect": "runs_on", "job": "vm-2", "on": host(1), "level": "wish" },
    ]);
    world.put("even", 1, Some(list));
    let begun: Vec<_> = (0..20_000).step_by(500).flat_map(|ms| world.live(ms)).collect();
    assert_eq!(moves(&begun), [(id(1), host(2))]);
}

#[test]
fn the_run_that_is_at_it_is_told() {
    let mut world = crowded(2, 10);
    world.put("even", 1, even(20, 60));
    world.live(0);
    assert_eq!(moves(&world.live(SETTLE_MS)), [(id(1), host(2))]);
    world.open = vec![open(1, 2)];
    world.live(SETTLE_MS + 500);
    let KeptStanding::Mending { why: Some(why), .. } = world.standing(SETTLE_MS + 500, "even")
    else {
        panic!("{:?}", world.standing(SETTLE_MS + 500, "even"))
    };
    assert!(why.starts_with("moves vm-1 to "), "{why}");
    let failure = Some("the wire was cut".to_owned());
    world.open.clear();
    world.handle(5_000, Input::Ended { job: id(1), to: host(2), failure });
    let again: Vec<_> =
        (5_000..5_000 + REST_MS).step_by(500).flat_map(|ms| world.live(ms)).collect();
    assert_eq!(again, [], "a move that failed is a move");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    /// However many schedulers keep it, and one of them killed: no two moves go on at once or sooner after each other
    /// than the pace allows, and it comes to rest where the planner knows no further one.
    #[test]
    fn several_schedulers_have_one_pace(
        count in 1..4_u8,
        homes in prop::collection::vec((1..5_u8, 1..3_u64), 2..10),
        moves_per_hour in prop::sample::select(vec![60_u32, 240, 720]),
        within in 10..40_u32,
        killed in prop::option::of((0..3_usize, 0..100_u64)),
    ) {
        let mut several = Several::new(count, &[]);
        several.each(|world| {
            for (n, (home, gib)) in homes.iter().enumerate() {
                world.host(*home, |host, _| host.capacity.memory_bytes = 20 * GIB);
                world.put_job(*home, sized(n + 1, *gib));
            }
            world.put("even", 1, even(within, moves_per_hour));
        });
        let rest_ms = 3_600_000 / u64::from(moves_per_hour);
        for now_ms in (0..1_800_000).step_by(1_000) {
            if let Some((who, at)) = killed && now_ms == at * 1_000 {
                several.kill(who % usize::from(count), now_ms);
            }
            several.tick(now_ms);
            prop_assert!(several.going.len() <= 1, "one at a time");
        }
        for pair in several.begun.windows(2) {
            let apart_ms = pair[1].0 - pair[0].0;
            prop_assert!(apart_ms >= rest_ms, "{:?} of {:?}", pair, several.begun);
        }
        let world = &several.worlds[0];
        let clauses = world.upkeep.clauses().cloned().collect();
        let mut input = planner::PlanInput {
            view: world.view.clone(),
            clauses,
            ..planner::PlanInput::default()
        };
        input.limits.shifts_max = 1;
        prop_assert_eq!(planner::plan(&input).plan.shifts, vec![], "begun {:?}", several.begun);
    }
}
