//! Scripts of hosts whose guests are to use about as much, and properties of several schedulers that keep that while what
//! guests use changes all the time.

use protocol::used::{HostUse, VmUse};

use super::*;

const REST_MS: u64 = 60_000;
const AFTER_MS: u64 = 120_000;

fn even(within: u32, moves_per_hour: u32) -> Option<Value> {
    let rule = json!({
        "expect": "balanced", "measure": "cpu", "within_percent": within,
        "moves_per_hour": moves_per_hour, "after_s": AFTER_MS / 1_000,
    });
    Some(json!([rule]))
}

impl World {
    /// What a VM uses, in thousandths of a CPU.
    fn uses(&mut self, job: usize, cpu_millis: u64) {
        self.used.vms.insert(id(job), VmUse { cpu_millis, watched_ms: 3_600_000 });
    }

    fn live_through(&mut self, range: std::ops::Range<u64>) -> Vec<(JobId, HostId)> {
        let wants: Vec<Want> = range.step_by(1_000).flat_map(|ms| self.live(ms)).collect();
        moves(&wants)
    }
}

/// Hosts of eight CPUs, of which it is known what is used there.
fn measured(hosts: u8) -> World {
    let mut world = World::new(hosts);
    for n in 1..=hosts {
        world.used.hosts.insert(host(n), HostUse { cpus: 8, others_cpu_millis: 0 });
    }
    world
}

/// Two VMs that keep three CPUs each busy, on the first of two hosts.
fn busy() -> World {
    let mut world = measured(2);
    for job in [1, 2] {
        world.put_job(1, row(job, JobState::Running));
        world.uses(job, 3_000);
    }
    world.put("even", 1, even(20, 360));
    world
}

#[test]
fn hosts_must_have_been_uneven_for_so_long_and_then_one_vm_goes() {
    let mut world = busy();
    assert_eq!(world.live_through(0..AFTER_MS), []);
    let note = told_of(&world, "even").note.unwrap();
    assert!(note.contains("no move for another 120 s"), "as of the beginning: {note}");
    let begun = world.begun(AFTER_MS);
    let [(want, to, Some(because))] = &begun[..] else { panic!("{begun:?}") };
    assert_eq!((want.job(), to), (&id(1), &host(2)));
    assert!(because.contains("is 75% busy and"), "{because}");
}

#[test]
fn what_passes_in_between_begins_the_time_anew() {
    let mut world = busy();
    assert_eq!(world.live_through(0..100_000), []);
    world.uses(1, 100);
    world.uses(2, 100);
    assert_eq!(world.live_through(100_000..120_000), []);
    assert_eq!(world.standing(120_000, "even"), KeptStanding::Met);
    world.uses(1, 3_000);
    world.uses(2, 3_000);
    assert_eq!(world.live_through(120_000..235_000), [], "uneven once more, and not for long");
    assert_eq!(world.live_through(235_000..250_000), [(id(1), host(2))]);
}

#[test]
fn after_a_move_it_is_rested_for_a_minute_at_least_and_then_hosts_are_alike() {
    let mut world = busy();
    for job in 3..=6 {
        world.put_job(1, row(job, JobState::Running));
        world.uses(job, 300);
    }
    let begun = world.live_through(0..AFTER_MS + 1_000);
    assert_eq!(begun, [(id(1), host(2))]);
    world.drop_job(1, 1);
    world.put_job(2, row(1, JobState::Running));
    let now_ms = AFTER_MS + 5_000;
    world.handle(now_ms, Input::Ended { job: id(1), to: host(2), failure: None });
    // 52.5 % and 37.5 %: within what is tolerated, and not yet half of it.
    let next = world.live_through(now_ms..now_ms + REST_MS);
    assert_eq!(next, [], "though 360 an hour are ten seconds each");
    let next = world.live_through(now_ms + REST_MS..now_ms + REST_MS + 10_000);
    assert_eq!(next, [(id(3), host(2))]);
}

#[test]
fn what_is_not_known_is_not_met_and_moves_nobody() {
    let mut world = busy();
    world.used = Used::default();
    assert_eq!(world.live_through(0..600_000), []);
    let why = world.why(600_000, "even");
    assert!(why.contains("what guests use is not known of"), "{why}");
    // One of the two hosts says nothing, or one of its guests is not known.
    world.used = busy().used;
    world.used.hosts.remove(&host(2));
    assert_eq!(world.live_through(600_000..1_200_000), []);
    assert!(world.why(1_200_000, "even").contains(host(2).short()));
    world.used = busy().used;
    world.used.vms.remove(&id(2));
    assert_eq!(world.live_through(1_200_000..1_800_000), []);
    assert!(world.why(1_800_000, "even").contains(host(1).short()));
    world.used = busy().used;
    assert_eq!(world.live_through(1_800_000..1_815_000 + AFTER_MS), [(id(1), host(2))]);
}

#[test]
fn hosts_that_are_known_are_alike_and_it_is_told_of_which_it_is_not_known() {
    let mut world = measured(3);
    world.used.hosts.remove(&host(3));
    world.put("even", 1, even(20, 60));
    world.look(0);
    assert_eq!(world.standing(0, "even"), KeptStanding::Met);
    let note = told_of(&world, "even").note.unwrap();
    assert!(note.contains("is 0% busy") && note.contains(host(3).short()), "{note}");
}

#[test]
fn without_moves_nobody_is_moved_and_it_is_told_what_would_be() {
    let mut world = busy();
    world.put("even", 2, even(20, 0));
    assert_eq!(world.live_through(0..300_000), []);
    let why = world.why(300_000, "even");
    assert!(why.contains("75% busy") && why.contains("move vm-1 from"), "{why}");
}

#[test]
fn plans_of_anything_else_are_not_made_of_what_guests_use() {
    let mut world = busy();
    world.put("web", 1, on_ssd());
    world.label(2, Some("ssd"));
    let plans = (0..5_000).step_by(500).flat_map(|now_ms| world.look(now_ms));
    let used: Vec<_> = plans
        .filter_map(|effect| match effect {
            Effect::Plan(aims) => {
                Some((aims.goals.len() + aims.clauses.len(), aims.used.is_empty()))
            }
            _ => None,
        })
        .collect();
    assert!(used.contains(&(1, false)), "what would be moved is told: {used:?}");
}

/// VMs with their hosts and what they use, in thousandths of a CPU.
fn homes() -> impl Strategy<Value = Vec<(u8, u64)>> {
    prop::collection::vec((1..5_u8, 0..3_000_u64), 2..10)
}

fn several(count: u8, homes: &[(u8, u64)], within: u32) -> Several {
    let mut several = Several::new(count, &[]);
    several.each(|world| {
        world.used = measured(4).used;
        for (n, (home, cpu_millis)) in homes.iter().enumerate() {
            world.host(*home, |host, _| host.capacity.memory_bytes = 40 * GIB);
            world.put_job(*home, row(n + 1, JobState::Running));
            world.uses(n + 1, *cpu_millis);
        }
        world.put("even", 1, even(within, 3_600));
    });
    several
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    /// However many schedulers keep it, and one of them killed: no two moves go on at once or sooner after each other
    /// than the pace allows, no VM goes back to where it came from, and it comes to rest where the planner knows no
    /// further move.
    #[test]
    fn several_schedulers_have_one_pace_by_use(
        count in 1..4_u8,
        homes in homes(),
        within in 10..40_u32,
        killed in prop::option::of((0..3_usize, 0..600_u64)),
    ) {
        let mut several = several(count, &homes, within);
        let mut been: BTreeMap<JobId, Vec<HostId>> = BTreeMap::new();
        for now_ms in (0..2_400_000).step_by(2_000) {
            if let Some((who, at)) = killed && now_ms == at * 2_000 {
                several.kill(who % usize::from(count), now_ms);
            }
            several.tick(now_ms);
            prop_assert!(several.going.len() <= 1, "one at a time");
            for (_, job, from, to, at_ms) in &several.going {
                if *at_ms == now_ms + 2_000 {
                    let been = been.entry(job.id.clone()).or_default();
                    prop_assert!(!been.contains(to), "{} goes back", job.id);
                    been.extend(from.clone());
                }
            }
        }
        for pair in several.begun.windows(2) {
            let apart_ms = pair[1].0 - pair[0].0;
            prop_assert!(apart_ms >= REST_MS, "{:?} of {:?}", pair, several.begun);
        }
        prop_assert!(several.begun.iter().all(|(at_ms, ..)| *at_ms >= AFTER_MS));
        let world = &several.worlds[0];
        let clauses = world.upkeep.clauses().cloned().collect();
        let mut input = planner::PlanInput {
            view: world.view.clone(),
            used: Arc::new(world.used.clone()),
            clauses,
            ..planner::PlanInput::default()
        };
        input.limits.shifts_max = 1;
        prop_assert_eq!(planner::plan(&input).plan.shifts, vec![], "begun {:?}", several.begun);
    }

    /// What each VM uses goes up and down all the time, and each scheduler has measured something else: once hosts are
    /// about alike, nobody is moved for what is within what is tolerated.
    #[test]
    fn noise_moves_nobody_for_ever(
        count in 1..3_u8,
        homes in homes(),
        within in 20..40_u32,
        noise in prop::collection::vec(0..100_u64, 101),
    ) {
        let mut several = several(count, &homes, within);
        // All VMs of a host together by no more than an eighth of what is tolerated.
        let most = 80 * u64::from(within) / 8 / homes.len() as u64;
        for now_ms in (0..3_600_000_u64).step_by(2_000) {
            if now_ms % 10_000 == 0 {
                for (who, world) in several.worlds.iter_mut().enumerate() {
                    for (n, (_, cpu_millis)) in homes.iter().enumerate() {
                        let at = now_ms / 10_000 * 7 + n as u64 * 13 + who as u64 * 31;
                        let more = most * noise[usize::try_from(at % 101).unwrap()] / 100;
                        world.uses(n + 1, cpu_millis + more);
                    }
                }
            }
            several.tick(now_ms);
        }
        let late = several.begun.iter().filter(|(at_ms, ..)| *at_ms > 1_800_000);
        prop_assert_eq!(late.count(), 0, "it is still at it: {:?}", several.begun);
    }
}
