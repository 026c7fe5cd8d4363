//! Scripts of groups: VMs of one spec, started one by one and told of as one.

use super::*;

#[test]
fn a_group_is_started_vm_by_vm_each_where_it_is_alone() {
    let mut world = World::new(3);
    world.put("web", 1, Some(json!([apart_group(3)])));
    world.live(0);
    // One after the other: where each goes follows from where the others are.
    let mut begun = Vec::new();
    for now_ms in (SETTLE_MS..).step_by(500).take(3) {
        let now = world.begun(now_ms);
        let [(Want::Run { job, .. }, to, None)] = &now[..] else { panic!("{now:?}") };
        assert_eq!(world.live(now_ms), []);
        world.put_job(Several::number(to), Job { id: job.clone(), ..row(1, JobState::Running) });
        let (job, to) = (job.clone(), to.clone());
        world.handle(now_ms, Input::Ended { job: job.clone(), to: to.clone(), failure: None });
        begun.push((job, to));
    }
    let jobs: Vec<&JobId> = begun.iter().map(|(job, _)| job).collect();
    assert_eq!(jobs, [&id(1), &id(2), &id(3)]);
    let hosts: BTreeSet<&HostId> = begun.iter().map(|(_, to)| to).collect();
    assert_eq!(hosts.len(), 3, "{begun:?}");
    world.live(5_000);
    let told = told_of(&world, "web");
    assert_eq!(told.standing, KeptStanding::Met);
    assert_eq!(told.members.len(), 3);
    // Who is not alone any more is moved.
    world.drop_job(Several::number(&begun[1].1), 2);
    world.put_job(Several::number(&begun[0].1), row(2, JobState::Running));
    world.live(60_000);
    assert_eq!(moves(&world.live(60_000 + SETTLE_MS)).len(), 1);
    let run = RunId(Uuid::from_u128(1));
    world.open = vec![Open { run, job: id(2), from: None, to: None }];
    world.live(62_000);
    assert_eq!(told_of(&world, "web").standing, KeptStanding::Mending { run, why: None });
}

#[test]
fn a_group_tells_how_many_run_and_why_the_others_do_not() {
    let mut world = World::new(2);
    world.put("web", 1, Some(json!([group(3)])));
    world.put_job(1, row(1, JobState::Running));
    world.put_job(1, ended(2, Reason::Requested));
    world.put_job(2, row(3, JobState::Running));
    world.live(0);
    assert_eq!(world.live(60_000), [], "who has ended one of it is obeyed");
    let one = told_of(&world, "web");
    let KeptStanding::Unmet { why, .. } = &one.standing else { panic!("{one:?}") };
    assert!(why.starts_with("2 of 3 run; vm-2 was ended by command"), "{why}");
    let words: Vec<&str> = one.members.iter().map(|member| member.standing.as_str()).collect();
    assert_eq!(words, ["met", "unmet", "met"]);
    assert_eq!(one.surplus, []);
    let figures = world.upkeep.figures(0);
    assert_eq!(figures.standings, BTreeMap::from([(("must", "unmet"), 1)]), "it is one of them");
    // None of it is made again that was there.
    world.drop_job(2, 3);
    world.live(60_000);
    assert_eq!(world.live(600_000), []);
    let why = world.why(600_000, "web");
    assert!(why.starts_with("1 of 3 run;") && why.contains("vm-3 was there and is gone"), "{why}");
}

#[test]
fn a_smaller_count_ends_nobody_and_a_larger_one_starts_more() {
    let mut world = World::new(2);
    world.put("web", 1, Some(json!([group(3)])));
    for n in 1..=3 {
        world.put_job(1, row(n, JobState::Running));
    }
    assert_eq!(world.live(0), []);
    world.put("web", 2, Some(json!([group(2)])));
    for now_ms in (0..120_000).step_by(500) {
        assert_eq!(world.live(now_ms), [], "at {now_ms}");
    }
    let one = told_of(&world, "web");
    assert_eq!((one.standing, one.surplus), (KeptStanding::Met, vec![id(3)]));
    // What ends beyond the count stays ended; what is of the group does not.
    world.put_job(1, ended(3, Reason::GuestShutdown));
    world.put_job(1, ended(2, Reason::GuestShutdown));
    world.live(120_000);
    assert_eq!(started(&world.live(120_000 + SETTLE_MS)), [id(2)]);
    world.drop_job(1, 3);
    world.live(130_000);
    assert_eq!(told_of(&world, "web").surplus, []);
    world.put_job(1, row(2, JobState::Running));
    world.handle(130_000, Input::Ended { job: id(2), to: host(1), failure: None });
    world.put("web", 3, Some(json!([group(4)])));
    world.live(200_000);
    assert_eq!(started(&world.live(200_000 + SETTLE_MS)), [id(3), id(4)]);
}
