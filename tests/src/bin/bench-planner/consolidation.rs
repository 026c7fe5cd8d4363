//! L4: which hosts can be emptied by moving at most one VM in forty. A plan that saves power is asked of a snapshot as a
//! cluster leaves it in which many VMs have gone, and compared with greed over the same numbers: the host with the
//! fewest VMs first, each of which goes where the least is left.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use planner::{Clause, Level, Limits, PlanInput, Rule, Saving, Step, plan};
use protocol::admission::{Arrival, Room, admit};
use protocol::id::HostId;
use protocol::resources::Resources;
use protocol::view::HostRow;
use serde_json::{Value, json};

use crate::world::{World, cpu_ns, round};

const HOSTS: usize = 300;
/// Of how many VMs one may be moved.
const VMS_PER_MOVE: usize = 40;
/// Later than this, moves are of a cluster that is no more.
const ANSWER_MS: f64 = 5_000.0;
const SNAPSHOTS: usize = 5;

/// What a way of emptying hosts comes to.
#[derive(Default)]
struct Freed {
    hosts: usize,
    moves: usize,
    gib: usize,
}

pub(crate) fn run() -> Vec<Value> {
    let (mut planned, mut greedy) = (Freed::default(), Freed::default());
    let (mut slowest_ms, mut vms) = (0.0_f64, 0);
    for seed in 1..=SNAPSHOTS as u64 {
        let world = World::uneven(HOSTS, seed);
        let count: usize = world.view.hosts().map(|(_, row)| row.jobs.len()).sum();
        let moves_max = count / VMS_PER_MOVE;
        let (freed, took_ms) = by_plan(&world, moves_max);
        planned.add(&freed);
        greedy.add(&by_greed(&world, moves_max));
        slowest_ms = slowest_ms.max(took_ms);
        vms += count;
    }
    let ratio = planned.hosts as f64 / greedy.hosts as f64;
    let each = |count: usize| round(count as f64 / SNAPSHOTS as f64);
    vec![
        json!({ "name": "L4", "hosts": HOSTS, "vms": each(vms), "moves_max": each(vms / VMS_PER_MOVE),
        "value": round(ratio), "unit": "hosts freed, of those that greed frees",
        "freed": each(planned.hosts), "moves": each(planned.moves), "gib_moved": each(planned.gib),
        "baseline": "greed, same snapshots", "baseline_freed": each(greedy.hosts),
        "baseline_moves": each(greedy.moves), "baseline_gib_moved": each(greedy.gib),
        "ratio": round(ratio), "n": SNAPSHOTS, "target": 1.0,
        "ms_max": round(slowest_ms), "ms_target": ANSWER_MS }),
    ]
}

impl Freed {
    fn add(&mut self, other: &Self) {
        self.hosts += other.hosts;
        self.moves += other.moves;
        self.gib += other.gib;
    }
}

/// The hosts that a plan puts to sleep as far as its moves are not too many, and how long it took.
fn by_plan(world: &World, moves_max: usize) -> (Freed, f64) {
    let rule = json!({ "expect": "power_saving" });
    let rule: Rule = serde_json::from_value(rule).expect("a rule");
    let input = PlanInput {
        view: world.view.clone(),
        may_sleep: world.hosts.iter().cloned().collect(),
        clauses: vec![Clause { level: Level::Wish, rule }],
        // A host with VMs takes one move at least.
        limits: Limits { savings_max: u32::try_from(moves_max).expect("few"), ..Limits::default() },
        ..PlanInput::default()
    };
    let begin = cpu_ns();
    let outcome = plan(&input);
    let took_ms = (cpu_ns() - begin) as f64 / 1e6;
    let mut freed = Freed::default();
    for saving in &outcome.plan.savings {
        let Saving::Sleep { moved, bytes, .. } = saving else { panic!("{saving}") };
        if freed.moves + moved.len() > moves_max {
            break;
        }
        let gib = usize::try_from(bytes >> 30).expect("little");
        freed.add(&Freed { hosts: 1, moves: moved.len(), gib });
    }
    check(world, &outcome.plan.steps, &freed);
    (freed, took_ms)
}

/// Carries out what counts of a plan: each target admits who comes, and who sleeps is empty.
fn check(world: &World, steps: &[Step], freed: &Freed) {
    let mut view = world.view.clone();
    let mut asleep: BTreeSet<HostId> = BTreeSet::new();
    for step in steps {
        match step {
            Step::MigrateVm(step) => {
                let mut now = World { view, hosts: vec![] };
                let job = now.view.host(&step.from).and_then(|row| row.jobs.get(&step.job));
                let job = job.expect("it is there").as_ref().clone();
                let target = now.view.host(&step.to).expect("known");
                admit(Room::of(&target.host), &job.spec, Arrival::Migrate).expect("there is room");
                assert!(!asleep.contains(&step.to), "nobody is moved to who sleeps");
                now.merge(&now.change(&step.from, Some(&job), None));
                now.merge(&now.change(&step.to, None, Some(job)));
                view = now.view;
            }
            Step::SleepHost(step) => {
                let host = step.host.host();
                assert!(view.host(host).is_some_and(|row| row.jobs.is_empty()), "it is empty");
                asleep.insert(host.clone());
            }
            other => panic!("nobody has asked for {other}"),
        }
        if asleep.len() == freed.hosts {
            return;
        }
    }
}

/// The hosts that are emptied by who looks at numbers only.
fn by_greed(world: &World, moves_max: usize) -> Freed {
    let rows: Vec<&HostRow> = world.view.hosts().map(|(_, row)| row).collect();
    let mut free: Vec<Option<Resources>> =
        rows.iter().map(|row| Some(row.host.capacity.minus(row.host.allocation))).collect();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|host| rows[*host].jobs.len());
    let mut has_taken = BTreeSet::new();
    let mut freed = Freed::default();
    for host in order {
        let mut sizes: Vec<Resources> =
            rows[host].jobs.values().map(|job| job.spec.takes()).collect();
        if has_taken.contains(&host) || freed.moves + sizes.len() > moves_max {
            continue;
        }
        sizes.sort_by_key(|size| Reverse((size.vcpus, size.memory_bytes)));
        let mut after = free.clone();
        after[host] = None;
        let places: Option<Vec<usize>> =
            sizes.iter().map(|size| tightest(&mut after, *size)).collect();
        let Some(places) = places else { continue };
        has_taken.extend(places);
        free = after;
        let bytes: u64 = sizes.iter().map(|size| size.memory_bytes).sum();
        let gib = usize::try_from(bytes >> 30).expect("little");
        freed.add(&Freed { hosts: 1, moves: sizes.len(), gib });
    }
    freed
}

/// Takes room where the least is left after it.
fn tightest(free: &mut [Option<Resources>], size: Resources) -> Option<usize> {
    let fits = |room: &Option<Resources>| room.is_some_and(|room| size.fits_in(room));
    let hosts = (0..free.len()).filter(|host| fits(&free[*host]));
    let least = |host: &usize| free[*host].map(|room| (room.vcpus, room.memory_bytes));
    let host = hosts.min_by_key(least)?;
    free[host] = free[host].map(|room| room.minus(size));
    Some(host)
}
