//! Scripts of what is foreseen of sets, in worlds that stay as they are.

use super::*;

fn foreseen(world: &World, list: Value) -> Foresight {
    let list = list.as_array().unwrap().clone();
    Foresight::of([SetRecord::new(name("web"), Revision(1), Some(list), 0)], &world.seen())
}

fn jobs(foresight: &Foresight) -> Vec<JobId> {
    foresight.aims.goals.iter().map(|(_, goal)| goal.job().clone()).collect()
}

fn steps(world: &World, foresight: Foresight) -> Vec<String> {
    let view = world.view.clone();
    let input = foresight
        .aims
        .told(planner::PlanInput { view, ..planner::PlanInput::default() }.with_host_intents());
    planner::plan(&input).plan.steps.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_not_so_is_planned_for_and_what_waits_is_told() {
    let mut world = World::new(2);
    world.put_job(1, row(1, JobState::Running));
    world.put_job(1, ended(2, Reason::GuestShutdown));
    world.put_job(1, ended(3, Reason::Requested));
    world.put_job(2, row(5, JobState::Running));
    world.hear(2, Freshness::Lost);
    let list = (1..=5).map(|n| runs(n, 1, "must")).collect();
    let foresight = foreseen(&world, Value::Array(list));
    assert_eq!(jobs(&foresight), [id(2), id(4)], "the first runs");
    let whys: Vec<&str> = foresight.held.iter().map(|(_, why)| why.as_str()).collect();
    let [by_command, not_heard] = whys[..] else { panic!("{whys:?}") };
    assert!(by_command.contains("vm-3 was ended by command"), "{by_command}");
    assert!(not_heard.contains("which is not heard"), "{not_heard}");
    assert_eq!(steps(&world, foresight).len(), 2);
}

#[test]
fn what_was_there_and_is_gone_is_not_made_again() {
    let world = World::new(1);
    let list = vec![runs(1, 1, "must")];
    let put = SetRecord::new(name("web"), Revision(1), Some(list), 0);
    let begun = SetRecord { begun: BTreeSet::from([id(1)]), ..put.clone() };
    assert_eq!(jobs(&Foresight::of([put], &world.seen())), [id(1)]);
    let foresight = Foresight::of([begun], &world.seen());
    assert_eq!(foresight.aims, Aims::default());
    assert!(foresight.held[0].1.contains("was there and is gone"), "{:?}", foresight.held);
}

#[test]
fn where_all_is_well_nothing_is_planned_and_hosts_are_made_alike_as_if_time_had_passed() {
    let mut world = World::new(2);
    for n in 1..=4 {
        world.put_job(1, row(n, JobState::Running));
    }
    let nothing = foreseen(&world, json!([{ "expect": "runs_on", "job": "vm-1", "on": host(1) }]));
    assert_eq!(nothing, Foresight::default());
    let even = foreseen(
        &world,
        json!([{ "expect": "balanced", "within_percent": 10, "moves_per_hour": 6 }]),
    );
    assert_eq!(even.aims.shifts.max, 1, "as if it had been so for long");
    assert_eq!(steps(&world, even).len(), 1, "one at a time");
}
