//! Scripts of VMs that start after others, and a property of several schedulers that obey an order.

use super::*;

/// vm-1 starts after vm-2, and both are expected.
fn ordered() -> Value {
    json!([runs(1, 1, "must"), runs(2, 1, "must"), after(1, &[2])])
}

#[test]
fn a_vm_is_started_only_while_those_run_that_it_starts_after() {
    let mut world = World::new(2);
    world.put("shop", 1, Some(ordered()));
    world.live(0);
    assert_eq!(started(&world.live(SETTLE_MS)), [id(2)]);
    assert_eq!(world.why(SETTLE_MS, "shop"), "vm-1 waits for vm-2, which no host has");
    world.put_job(1, row(2, JobState::Starting));
    world.live(2_000);
    assert_eq!(world.live(30_000), [], "it does not run yet");
    let why = world.why(30_000, "shop");
    assert!(why.contains("waits for vm-2, which is starting on"), "{why}");
    world.put_job(1, row(2, JobState::Running));
    world.handle(30_000, Input::Ended { job: id(2), to: host(1), failure: None });
    assert_eq!(world.live(30_000), [], "it has stood so for a moment first");
    assert_eq!(started(&world.live(30_000 + SETTLE_MS)), [id(1)]);
}

#[test]
fn nothing_ends_when_what_it_started_after_does_and_after_a_power_cut_the_order_is_the_same() {
    let mut world = World::new(2);
    world.put("shop", 1, Some(ordered()));
    for n in 1..=2 {
        world.put_job(1, row(n, JobState::Running));
    }
    world.live(0);
    world.put_job(1, ended(2, Reason::Requested));
    world.live(1_000);
    assert_eq!(world.live(60_000), []);
    assert_eq!(world.standing(60_000, "shop"), KeptStanding::Met, "vm-1 runs on");
    // All ends at once; what was ended by command holds the other.
    world.put_job(1, ended(1, Reason::GuestShutdown));
    world.live(60_000);
    assert_eq!(world.live(120_000), []);
    let why = world.why(120_000, "shop");
    assert!(why.starts_with("vm-1 waits for vm-2, which is stopped on"), "{why}");
    world.put_job(1, ended(2, Reason::GuestShutdown));
    world.live(120_000);
    assert_eq!(started(&world.live(120_000 + SETTLE_MS)), [id(2)]);
    world.put_job(1, row(2, JobState::Running));
    world.handle(122_000, Input::Ended { job: id(2), to: host(1), failure: None });
    // Its host is silent for a moment: whether it runs nobody knows.
    world.hear(1, Freshness::Stale);
    world.put_job(1, row(2, JobState::Running));
    world.live(122_000);
    assert_eq!(world.live(180_000), []);
    assert!(world.why(180_000, "shop").contains("which is not heard"));
    world.hear(1, Freshness::Fresh);
    world.live(180_000);
    assert_eq!(started(&world.live(180_000 + SETTLE_MS)), [id(1)]);
}

#[test]
fn an_order_of_another_set_holds_and_is_over_when_that_is_deleted() {
    let mut world = World::new(2);
    world.put("web", 1, running());
    world.live(0);
    world.put("order", 1, Some(json!([after(1, &[2, 3])])));
    assert_eq!(world.live(60_000), []);
    let why = world.why(60_000, "web");
    assert_eq!(why, "vm-1 waits for vm-2, which no host has, and for 1 more");
    assert_eq!(world.standing(60_000, "order"), KeptStanding::Met, "nobody was started against it");
    world.put("order", 2, None);
    world.live(60_000);
    assert_eq!(started(&world.live(60_000 + SETTLE_MS)), [id(1)]);
}

#[test]
fn an_order_holds_back_nothing_that_matters_more() {
    let mut world = World::new(2);
    let mut order = after(1, &[2]);
    order["level"] = json!("should");
    world.put("web", 1, Some(json!([runs(1, 1, "must"), order])));
    world.put("wish", 1, Some(json!([runs(3, 1, "wish")])));
    let mut order = after(3, &[2]);
    order["level"] = json!("should");
    world.put("order", 1, Some(json!([order])));
    world.live(0);
    assert_eq!(started(&world.live(SETTLE_MS)), [id(1)]);
    assert!(world.why(0, "wish").contains("waits for vm-2"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    /// However many keep it, whoever of them is killed and whatever of it ends meanwhile: nothing is begun before
    /// what it starts after runs, and in the end all of it runs.
    #[test]
    fn starts_follow_their_order_whoever_lives(
        count in 1..4_u8,
        edges in prop::collection::btree_set((1..6_usize, 1..6_usize), 0..8),
        kills in prop::collection::vec((0..3_usize, 0..60_000_u64), 0..4),
        cuts in prop::collection::vec((1..6_usize, 20_000..60_000_u64), 0..5),
    ) {
        // Who has a lower number waits for those of a higher one: never in a circle.
        let edges: BTreeSet<(usize, usize)> = edges.into_iter().filter(|(a, b)| a < b).collect();
        let orders: Vec<Value> = edges.iter().map(|(job, other)| after(*job, &[*other])).collect();
        let mut several = Several::new(count, &[]);
        several.each(|world| {
            world.put("vms", 1, Some(json!([group(5)])));
            world.put("orders", 1, Some(json!(orders)));
        });
        for now_ms in (0..400_000).step_by(500) {
            for (who, _) in kills.iter().filter(|(_, at_ms)| at_ms / 500 == now_ms / 500) {
                several.kill(who % usize::from(count), now_ms);
            }
            for (job, _) in cuts.iter().filter(|(_, at_ms)| at_ms / 500 == now_ms / 500) {
                let Some((at, JobState::Running)) = several.home(&id(*job)) else { continue };
                several.each(|world| world.put_job(Several::number(&at), ended(*job, Reason::GuestShutdown)));
            }
            let runs = |several: &Several, n: usize| {
                several.home(&id(n)).is_some_and(|(_, state)| state == JobState::Running)
            };
            let up: BTreeSet<usize> = (1..6).filter(|n| runs(&several, *n)).collect();
            let before = several.begun.len();
            several.tick(now_ms);
            let up: BTreeSet<usize> = (1..6).filter(|n| up.contains(n) || runs(&several, *n)).collect();
            for (_, _, job) in &several.begun[before..] {
                let early = edges.iter().find(|(a, b)| id(*a) == *job && !up.contains(b));
                prop_assert_eq!(early, None, "at {} ms {} is begun", now_ms, job);
            }
        }
        for n in 1..6 {
            prop_assert!(several.home(&id(n)).is_some_and(|(_, s)| s == JobState::Running), "vm-{}", n);
        }
        let starts = 5 + cuts.len();
        prop_assert!(several.begun.len() <= starts, "{:?}", several.begun);
    }
}
