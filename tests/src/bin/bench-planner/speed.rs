//! P1 and P2: placements a second, and how they grow with the cluster. One VM goes and one comes at a time, on
//! hosts that are 95 % full, each with three hard rules about its host.

use std::sync::Arc;

use planner::fleet::{Demand, Fit, Fleet, Place};
use planner::marks::Marks;
use planner::rooms::{Asked, Room, Rooms};
use planner::rules::{HostArch, HostLabel};
use planner::{
    Clause, Expectation, Level, Placement, PlanInput, Register, Rule, Shards, Step, plan,
};
use protocol::admission::{Arrival, admit};
use protocol::host::Host;
use protocol::id::{HostId, JobId};
use protocol::job::JobState;
use protocol::resources::Resources;
use protocol::view::Freshness;
use protocol::vm::OnLoss;
use serde_json::{Value, json};

use crate::world::{self, CAPACITY, Lots, World, cpu_ns, round, us_each};

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
const ROUNDS: usize = 3;

/// The index of a register, alone.
pub(crate) fn indexed() -> Vec<Value> {
    let mut lines = Vec::new();
    for placement in [Placement::Spread, Placement::Pack] {
        let costs = SIZES.map(|hosts| looked_up(hosts, placement, &mut lines));
        lines.push(growth("P2_index", placement, &costs));
    }
    lines
}

/// The fleet of `ostler simulate`.
pub(crate) fn numa() -> Vec<Value> {
    let mut lines = Vec::new();
    let costs = SIZES.map(|hosts| of_nodes(hosts, &mut lines));
    lines.push(growth("P2_numa", Placement::Pack, &costs));
    lines
}

/// Whole plans.
pub(crate) fn planned() -> Vec<Value> {
    let mut lines = Vec::new();
    let costs = SIZES.map(|hosts| plans(hosts, &mut lines));
    lines.push(growth("P2_plan", Placement::Spread, &costs));
    lines
}

fn growth(name: &str, placement: Placement, costs: &[f64]) -> Value {
    let ratio = costs[2] / costs[1];
    json!({ "name": name, "placement": placement, "value": round(ratio), "unit": "cost at 100 000 hosts by that at 10 000",
        "baseline": 1.0, "ratio": round(ratio), "target": 3.0 })
}

/// Three hard rules for a job.
fn rules(job: &JobId, lots: &mut Lots) -> Vec<Clause> {
    let label = |key: &str, value: String| {
        Rule::HostLabel(HostLabel { job: job.clone(), key: key.to_owned(), value })
    };
    let rules = [
        Rule::HostArch(HostArch { job: job.clone(), arch: "x86_64".to_owned() }),
        label("disk", ["ssd", "hdd"][lots.next(2)].to_owned()),
        // Zones of even numbers have one kind of disks, so the zone follows from it.
        label("zone", format!("z{}", lots.next(4))),
    ];
    rules.into_iter().map(|rule| Clause { level: Level::Must, rule }).collect()
}

/// Three rules that some host can meet.
fn rules_to_meet(job: &JobId, lots: &mut Lots, hosts: &[Host]) -> Vec<Clause> {
    loop {
        let rules = rules(job, lots);
        let marks =
            rules.iter().fold(Marks::NONE, |m, clause| m.and(Marks::asked_by(&clause.rule)));
        let is_met = |host: &Host| Marks::of(host, Freshness::Fresh, None, true).have(marks);
        if hosts.iter().take(40).any(is_met) {
            return rules;
        }
    }
}

/// The index alone, with the admission of the host that it finds.
fn looked_up(hosts: usize, placement: Placement, lines: &mut Vec<Value>) -> f64 {
    let mut lots = Lots(0x1234_5678_9abc_def1);
    let mut all: Vec<Host> = (0..hosts).map(world::host).collect();
    let mut rooms = Rooms::default();
    let mut vms: Vec<(usize, Resources)> = Vec::new();
    let marks: Vec<Marks> =
        all.iter().map(|host| Marks::of(host, Freshness::Fresh, None, true)).collect();
    for (n, host) in all.iter_mut().enumerate() {
        let full = CAPACITY.vcpus * (91 + u32::try_from(lots.next(9)).expect("small")) / 100;
        for _ in 0..200 {
            let size = lots.size();
            let after = host.allocation.plus(size);
            if after.vcpus <= full && after.fits_in(CAPACITY) {
                host.allocation = after;
                vms.push((n, size));
            }
        }
        rooms.put(number(n), room(host, n, marks[n]));
    }
    let used: u64 = all.iter().map(|host| u64::from(host.allocation.vcpus)).sum();
    let job = JobId::new("vm").expect("a name");
    let wishes: Vec<Marks> = (0..64)
        .map(|_| {
            let rules = rules_to_meet(&job, &mut lots, &all);
            rules.iter().fold(Marks::FRESH, |m, clause| m.and(Marks::asked_by(&clause.rule)))
        })
        .collect();
    let specs: Vec<_> = (0..256).map(|_| world::spec(lots.size(), OnLoss::Keep)).collect();
    let (mut refused, mut unplaced, mut placed) = (0, 0, 0);
    let mut churn = |count: usize, is_scan: bool| {
        let begin = cpu_ns();
        for _ in 0..count {
            let (n, size) = vms.swap_remove(lots.next(vms.len()));
            all[n].allocation = all[n].allocation.minus(size);
            rooms.put(number(n), room(&all[n], n, marks[n]));
            let spec = &specs[lots.next(specs.len())];
            let asked = Asked {
                size: spec.takes(),
                placement,
                marks: wishes[lots.next(wishes.len())],
                is_sharded: false,
            };
            let found = if is_scan {
                rooms.best_of_all(&asked, None, &mut |_| true)
            } else {
                rooms.best(&asked, None, &mut |_| true)
            };
            let Some((_, n)) = found else {
                unplaced += 1;
                continue;
            };
            let n = n as usize;
            let host = &mut all[n];
            let room_of = protocol::admission::Room::of(host);
            if admit(room_of, spec, Arrival::Start).is_err() {
                refused += 1;
                continue;
            }
            host.allocation = host.allocation.plus(asked.size);
            rooms.put(number(n), room(&all[n], n, marks[n]));
            vms.push((n, asked.size));
            placed += 1;
        }
        us_each(begin, count)
    };
    let (mut index, mut scan) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        scan = scan.min(churn((2_000_000 / hosts).max(20), true));
        index = index.min(churn(200_000, false));
    }
    lines.push(json!({ "name": "P1_index", "hosts": hosts, "placement": placement,
        "value": (1e6 / index).round(), "unit": "placements/s", "us": round(index),
        "baseline_us": round(scan), "baseline": "a look at every host, same numbers, same run",
        "ratio": round(scan / index), "n": placed, "unplaced": unplaced, "refused": refused,
        "used_percent": used * 100 / (hosts as u64 * u64::from(CAPACITY.vcpus)),
        "target": if hosts == 10_000 { 200_000 } else { 0 } }));
    index
}

fn number(n: usize) -> u32 {
    u32::try_from(n).expect("few hosts")
}

fn room(host: &Host, n: usize, marks: Marks) -> Room {
    let lot = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Room { capacity: host.capacity, allocation: host.allocation, lot, marks }
}

/// The fleet that `ostler simulate` uses: two NUMA nodes a host, three labels, best fit.
fn of_nodes(hosts: usize, lines: &mut Vec<Value>) -> f64 {
    let mut lots = Lots(0x9e37_79b9_7f4a_7c15);
    let demand = |lots: &mut Lots| {
        let size = lots.size();
        let gib = u32::try_from(size.memory_bytes >> 30).expect("small");
        // A maker, a zone and a kind of disk: one of two values each.
        let labels = (0..3).map(|n| 1_u64 << (2 * n + lots.next(2))).sum();
        Demand { half_cpus: size.vcpus * 2, memory_mib: gib * 1024, is_split: gib > 10, labels }
    };
    let mut fleet = Fleet::default();
    for n in 0..hosts {
        fleet.add(80, 90 * 1024, (0..3).map(|bit| 1_u64 << (2 * bit + (n >> bit & 1))).sum());
    }
    let mut placed: Vec<(Place, Demand)> = Vec::new();
    let (mut used, capacity) = (0, hosts as u64 * 160);
    while used < capacity * 95 / 100 {
        let demand = demand(&mut lots);
        let Some(place) = fleet.find(demand, Fit::Best) else { break };
        fleet.take(place, demand);
        used += u64::from(demand.half_cpus);
        placed.push((place, demand));
    }
    let mut churn = |count: usize, is_scan: bool| {
        let begin = cpu_ns();
        for _ in 0..count {
            let (place, gone) = placed.swap_remove(lots.next(placed.len()));
            fleet.release(place, gone);
            let demand = demand(&mut lots);
            let found =
                if is_scan { fleet.scan(demand, Fit::Best) } else { fleet.find(demand, Fit::Best) };
            if let Some(place) = found {
                fleet.take(place, demand);
                placed.push((place, demand));
            }
        }
        us_each(begin, count)
    };
    let (mut index, mut scan) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        scan = scan.min(churn((2_000_000 / hosts).max(20), true));
        index = index.min(churn(200_000, false));
    }
    lines.push(json!({ "name": "P1_numa", "hosts": hosts, "placement": "best fit",
        "value": (1e6 / index).round(), "unit": "placements/s", "us": round(index),
        "baseline_us": round(scan), "baseline": "a best-fit scan, same run",
        "ratio": round(scan / index), "n": placed.len(), "used_percent": used * 100 / capacity,
        "target": if hosts == 10_000 { 200_000 } else { 0 } }));
    index
}

/// Whole plans as an engine makes them, and what the picture costs that they are made on.
fn plans(hosts: usize, lines: &mut Vec<Value>) -> f64 {
    let mut lots = Lots(0x2222_5678_9abc_def1);
    let mut world = World::filled(hosts, 95, 20, OnLoss::Keep);
    let all: Vec<Host> = (0..40.min(hosts)).map(world::host).collect();
    let mut register = Arc::new(Register::new(7, Shards::default()));
    let begin = cpu_ns();
    Arc::make_mut(&mut register).follow(&world.view);
    let first_ms = us_each(begin, 1) / 1_000.0;
    let mut alive: Vec<(HostId, JobId)> = Vec::new();
    let (mut plan_ns, mut follow_ns, mut count, mut unplaced) = (0, 0, 0_usize, 0);
    let mut place = |n: usize, is_prepared: bool, world: &mut World| {
        // One goes that came before, or of those that were there.
        let (host, id) = if alive.len() > 500 {
            alive.swap_remove(lots.next(alive.len()))
        } else {
            let host = world.hosts[lots.next(world.hosts.len())].clone();
            let row = world.view.host(&host).expect("known");
            let Some(job) = row.jobs.values().next() else { return (0, 0) };
            (host.clone(), job.id.clone())
        };
        let gone = world.view.host(&host).and_then(|row| row.jobs.get(&id)).cloned();
        let events = world.change(&host, gone.as_deref(), None);
        world.merge(&events);
        let begin = cpu_ns();
        Arc::make_mut(&mut register).follow(&world.view);
        let mut followed = cpu_ns() - begin;
        let job = JobId::new(format!("new-{n}")).expect("a name");
        // The largest fit nowhere, and why is explained host by host: that is another thing to measure.
        let mut size = lots.size();
        while size.vcpus > 16 {
            size = lots.size();
        }
        let spec = world::spec(size, OnLoss::Keep);
        let clauses = rules_to_meet(&job, &mut lots, &all);
        let begin = cpu_ns();
        let prepared = if is_prepared { Arc::clone(&register).into() } else { Default::default() };
        let input = PlanInput {
            view: world.view.clone(),
            expectations: vec![Expectation::Runs {
                job: job.clone(),
                spec: spec.clone(),
                on: None,
            }],
            clauses,
            seed: 7,
            prepared,
            ..PlanInput::default()
        };
        let steps = plan(&input).plan.steps;
        drop(input);
        let took = cpu_ns() - begin;
        let Some(Step::StartVm(start)) = steps.first() else {
            unplaced += 1;
            return (0, 0);
        };
        let row = world.view.host(&start.host).expect("known");
        let room = protocol::admission::Room::of(&row.host);
        admit(room, &spec, Arrival::Start).expect("what was planned is admitted");
        let events =
            world.change(&start.host, None, Some(world::job(job.clone(), spec, JobState::Running)));
        world.merge(&events);
        let begin = cpu_ns();
        Arc::make_mut(&mut register).follow(&world.view);
        followed += cpu_ns() - begin;
        alive.push((start.host.clone(), job));
        (took, followed)
    };
    let (mut scan_ns, mut scans) = (0, 0_u64);
    for n in 0..20_500 {
        // The same without a register a few times, among the others.
        let is_scan = n % 2_500 == 2_499 && hosts <= 10_000 || n == 2_499;
        let (took, followed) = place(n, !is_scan, &mut world);
        if took > 0 && is_scan {
            scan_ns += took;
            scans += 1;
        } else if took > 0 && n >= 500 {
            plan_ns += took;
            follow_ns += followed;
            count += 1;
        }
    }
    let us = plan_ns as f64 / 1e3 / count as f64;
    let follow_us = follow_ns as f64 / 1e3 / count as f64;
    let scan_us = scan_ns as f64 / 1e3 / scans as f64;
    lines.push(json!({ "name": "P1_plan", "hosts": hosts, "placement": Placement::Spread,
        "value": (1e6 / (us + follow_us)).round(), "unit": "plans/s", "us": round(us),
        "follow_us": round(follow_us), "first_ms": round(first_ms),
        "baseline_us": round(scan_us), "baseline": "the same plan by a look at every host",
        "ratio": round(scan_us / (us + follow_us)), "n": count, "unplaced": unplaced }));
    us + follow_us
}
