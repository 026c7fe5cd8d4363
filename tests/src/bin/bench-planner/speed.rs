//! P1 and P2: placements a second, and how they grow with the cluster. One VM goes and one comes at a time, on
//! hosts that are 95 % full, each with three hard rules about its host.

use planner::fleet::{Demand, Fit, Fleet, Place};
use planner::marks::Marks;
use planner::rooms::{Asked, Room, Rooms};
use planner::rules::{HostArch, HostLabel};
use planner::{Clause, Level, Placement, Rule};
use protocol::admission::{Arrival, admit};
use protocol::host::Host;
use protocol::id::JobId;
use protocol::resources::Resources;
use protocol::view::Freshness;
use protocol::vm::OnLoss;
use serde_json::{Value, json};

use crate::world::{self, CAPACITY, Lots, cpu_ns, round, us_each};

pub(crate) const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
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

/// The last two sizes against each other.
pub(crate) fn growth(name: &str, placement: Placement, costs: &[f64]) -> Value {
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
pub(crate) fn rules_to_meet(job: &JobId, lots: &mut Lots, hosts: &[Host]) -> Vec<Clause> {
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
