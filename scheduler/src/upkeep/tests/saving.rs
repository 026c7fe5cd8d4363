//! Scripts of hosts that sleep while nobody needs them, and of several schedulers that keep that.

use protocol::host::HostIntent;

use super::*;

const AFTER_MS: u64 = 60_000;

fn saving() -> Option<Value> {
    Some(json!([{ "expect": "power_saving", "after_s": AFTER_MS / 1_000 }]))
}

/// Hosts of 4 GiB of which all can be switched, with a VM of 1 GiB on each of the first two.
fn idle(hosts: u8) -> World {
    let mut world = World::new(hosts);
    world.powers.may_sleep = (1..=hosts).map(host).collect();
    world.put_job(1, row(1, JobState::Running));
    world.put_job(2, row(2, JobState::Running));
    world
}

fn job_of(n: u8) -> JobId {
    protocol::subject::Subject::from(host(n)).job().clone()
}

/// Which hosts are begun to be put to sleep, or woken.
fn turned(wants: &[Want]) -> Vec<(&'static str, HostId)> {
    let of = |want: &Want| match want {
        Want::Sleep { host } | Want::Wake { host } => (want.as_str(), host.host().clone()),
        other => panic!("{other:?}"),
    };
    wants.iter().map(of).collect()
}

fn drain(world: &mut World, n: u8, is_drained: bool) {
    world.host(n, |host, _| host.intent = is_drained.then_some(HostIntent::Drain));
}

fn fall_asleep(world: &mut World, n: u8) {
    drain(world, n, true);
    world.powers.asleep.insert(host(n), true);
    world.powers.may_sleep.remove(&host(n));
}

fn wake_up(world: &mut World, n: u8) {
    drain(world, n, false);
    world.powers.asleep.remove(&host(n));
    world.powers.may_sleep.insert(host(n));
}

/// What is begun from one time to another.
fn between(world: &mut World, from_ms: u64, to_ms: u64) -> Vec<(u64, Want)> {
    let times = (from_ms..to_ms).step_by(500);
    times.flat_map(|ms| world.live(ms).into_iter().map(move |want| (ms, want))).collect()
}

#[test]
fn a_host_sleeps_once_there_was_too_much_room_for_long_enough_and_then_none() {
    let mut world = idle(3);
    world.put("save", 1, saving());
    assert_eq!(between(&mut world, 0, AFTER_MS), []);
    let why = world.why(AFTER_MS - 500, "save");
    assert!(why.contains(&format!("nobody needs {}", host(3).short())), "{why}");
    let begun = world.live(AFTER_MS);
    assert_eq!(turned(&begun), [("sleep", host(3))]);
    let run = RunId(Uuid::from_u128(1));
    world.open = vec![Open { run, job: job_of(3), from: None, to: None }];
    drain(&mut world, 3, true);
    assert_eq!(between(&mut world, AFTER_MS + 500, AFTER_MS + 30_000), [], "it is at it");
    let standing = world.standing(0, "save");
    assert!(matches!(standing, KeptStanding::Met | KeptStanding::Mending { .. }), "{standing:?}");
    fall_asleep(&mut world, 3);
    world.open.clear();
    let ended = Input::Ended { job: job_of(3), to: host(3), failure: None };
    world.handle(AFTER_MS + 30_000, ended);
    assert_eq!(between(&mut world, AFTER_MS + 30_000, AFTER_MS + 900_000), [], "two stay awake");
    assert_eq!(world.standing(0, "save"), KeptStanding::Met);
}

#[test]
fn room_that_was_needed_meanwhile_is_too_much_from_then_on_only() {
    let mut world = idle(3);
    world.put("save", 1, saving());
    assert_eq!(between(&mut world, 0, 30_000), []);
    world.put_job(1, sized(3, 3));
    world.put_job(2, sized(4, 3));
    assert_eq!(between(&mut world, 30_000, 40_000), []);
    world.drop_job(1, 3);
    world.drop_job(2, 4);
    assert_eq!(between(&mut world, 40_000, 40_000 + AFTER_MS), []);
    let begun = between(&mut world, 40_000 + AFTER_MS, 50_000 + AFTER_MS);
    assert_eq!(begun.len(), 1, "{begun:?}");
}

#[test]
fn a_host_is_woken_at_once_when_the_loss_of_one_could_not_be_borne() {
    let mut world = idle(3);
    fall_asleep(&mut world, 3);
    world.put("save", 1, saving());
    assert_eq!(between(&mut world, 0, 5_000), []);
    world.put_job(1, sized(3, 2));
    world.put_job(2, sized(4, 2));
    let begun = between(&mut world, 5_000, 12_000);
    let wants: Vec<Want> = begun.iter().map(|(_, want)| want.clone()).collect();
    assert_eq!(turned(&wants), [("wake", host(3))], "{begun:?}");
    wake_up(&mut world, 3);
    world.handle(20_000, Input::Ended { job: job_of(3), to: host(3), failure: None });
    assert_eq!(between(&mut world, 20_000, 30_000), []);
    assert_eq!(world.standing(0, "save"), KeptStanding::Met);
    // It is not put to sleep again within that time, though it is not needed any more.
    world.drop_job(1, 3);
    world.drop_job(2, 4);
    assert_eq!(between(&mut world, 30_000, 30_000 + AFTER_MS), []);
}

#[test]
fn nobody_sleeps_for_a_while_after_a_host_was_woken_by_whoever() {
    let mut world = idle(4);
    fall_asleep(&mut world, 4);
    world.put("save", 1, saving());
    assert_eq!(between(&mut world, 0, 50_000), []);
    wake_up(&mut world, 4);
    assert_eq!(between(&mut world, 50_000, 50_000 + AFTER_MS), []);
    assert_eq!(world.live(50_500 + AFTER_MS).len(), 1);
}

#[test]
fn a_host_that_somebody_drains_is_waited_for() {
    let mut world = idle(4);
    world.put("save", 1, saving());
    assert_eq!(between(&mut world, 0, 50_000), []);
    drain(&mut world, 4, true);
    assert_eq!(between(&mut world, 50_000, 120_000), []);
    let note = world.upkeep.status(120_000, &name("save")).unwrap().expectations[0].note.clone();
    assert!(note.as_ref().is_some_and(|note| note.contains("is drained")), "{note:?}");
}

#[test]
fn a_scheduler_that_begins_does_not_know_what_was_before_and_rests() {
    let mut world = idle(3);
    world.put("save", 1, saving());
    assert_eq!(between(&mut world, 0, 50_000), []);
    let stored = world.upkeep.sets[&name("save")].record.clone();
    world.upkeep = Upkeep::default();
    world.handle(50_000, Input::Recovered(stored));
    assert_eq!(between(&mut world, 50_000, 50_000 + AFTER_MS), []);
    assert_eq!(world.live(50_000 + AFTER_MS).len(), 1);
}

#[test]
fn a_host_that_could_not_be_put_to_sleep_is_left_alone_and_another_one_goes() {
    let mut world = idle(4);
    world.put("save", 1, saving());
    let begun = between(&mut world, 0, AFTER_MS + 500);
    let [(_, Want::Sleep { host: first })] = &begun[..] else { panic!("{begun:?}") };
    let failure = Some("its devices say on".to_owned());
    let (job, to) = (first.job().clone(), first.host().clone());
    world.handle(AFTER_MS + 1_000, Input::Ended { job, to, failure });
    assert_eq!(between(&mut world, AFTER_MS + 1_000, 2 * AFTER_MS), []);
    let again = between(&mut world, 2 * AFTER_MS, 2 * AFTER_MS + 10_000);
    assert_eq!(again.len(), 1, "{again:?}");
}

/// What schedulers of one world do to its hosts, each of which sees it a second late.
fn keep_together(schedulers: u8, hosts: u8, killed: Option<(usize, u64)>) -> Vec<(u64, HostId)> {
    let all: Vec<_> = (101..101 + schedulers).map(key).collect();
    let world = |me: &protocol::signed::PublicKey| {
        let mut world = idle(hosts);
        world.turns = Turns { me: Some(*me), all: all.clone() };
        world.put("save", 1, saving());
        world
    };
    let mut worlds: Vec<World> = all.iter().map(world).collect();
    let mut begun: Vec<(u64, HostId)> = Vec::new();
    let mut going: Vec<(u64, usize, HostId)> = Vec::new();
    let number = |id: &HostId| (1..=hosts).find(|n| host(*n) == *id).unwrap();
    for now_ms in (0..1_200_000).step_by(500) {
        if let Some((who, at_ms)) = killed.filter(|(_, at_ms)| *at_ms == now_ms) {
            let world = &mut worlds[who % usize::from(schedulers)];
            let stored = world.upkeep.sets[&name("save")].record.clone();
            world.upkeep = Upkeep::default();
            world.handle(at_ms, Input::Recovered(stored));
        }
        for (at_ms, who, id) in &going {
            if at_ms + 1_000 == now_ms {
                worlds.iter_mut().for_each(|world| drain(world, number(id), true));
            }
            if at_ms + 20_000 == now_ms {
                worlds.iter_mut().for_each(|world| fall_asleep(world, number(id)));
                let job = job_of(number(id));
                let ended = Input::Ended { job, to: id.clone(), failure: None };
                worlds[*who].handle(now_ms, ended);
            }
        }
        going.retain(|(at_ms, ..)| at_ms + 20_000 > now_ms);
        for (who, world) in worlds.iter_mut().enumerate() {
            for want in world.live(now_ms) {
                let Want::Sleep { host } = want else { panic!("{want:?}") };
                begun.push((now_ms, host.host().clone()));
                going.push((now_ms, who, host.host().clone()));
            }
        }
        assert!(going.len() <= 1, "one at a time: {begun:?}");
    }
    begun
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    /// However many schedulers keep it, and one of them killed: one host goes at a time, never sooner after each other
    /// than is said, none twice, and two stay awake.
    #[test]
    fn several_schedulers_put_one_host_to_sleep_at_a_time(
        schedulers in 1..4_u8,
        hosts in 3..6_u8,
        killed in prop::option::of((0..3_usize, (0..600_u64).prop_map(|s| s * 1_000))),
    ) {
        let begun = keep_together(schedulers, hosts, killed);
        prop_assert_eq!(begun.len(), usize::from(hosts) - 2, "{:?}", begun);
        for pair in begun.windows(2) {
            prop_assert!(pair[1].0 - pair[0].0 >= AFTER_MS, "{:?}", begun);
        }
        let different: BTreeSet<&HostId> = begun.iter().map(|(_, host)| host).collect();
        prop_assert_eq!(different.len(), begun.len());
    }
}
