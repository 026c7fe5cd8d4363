//! Prints placements a second on 10 000 and 100 000 hosts at 95 % use, with two NUMA nodes and three
//! hard constraints a VM, from the index and by a scan: one JSON line each (benchmarks P1 and P2).
//! The mix of VMs is a public cloud's. Run with `--release`.
use std::time::Instant;

use planner::fleet::{Demand, Fit, Fleet, Place};

/// Share in thousandths, vCPUs, GiB.
const MIX: [(u32, u32, u32); 10] = [
    (465, 1, 2),
    (225, 1, 1),
    (130, 2, 4),
    (80, 4, 8),
    (29, 1, 4),
    (20, 2, 8),
    (17, 8, 16),
    (17, 4, 16),
    (9, 8, 32),
    (8, 16, 32),
];

/// A generator of its own, so that every run is the same.
struct Lots(u64);

impl Lots {
    fn next(&mut self, below: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from((self.0 >> 33) % u64::from(below)).expect("below a u32")
    }

    fn demand(&mut self) -> Demand {
        let mut lot = self.next(1000);
        let (_, vcpus, gib) = MIX
            .into_iter()
            .find(|(share, ..)| {
                let is_it = lot < *share;
                lot = lot.saturating_sub(*share);
                is_it
            })
            .unwrap_or(MIX[0]);
        // A maker, a zone and a kind of disk: one of two values each.
        let labels = (0..3).map(|n| 1_u64 << (2 * n + self.next(2))).sum();
        Demand { half_cpus: vcpus * 2, memory_mib: gib * 1024, is_split: gib > 10, labels }
    }
}

fn fill(hosts: u32, lots: &mut Lots) -> (Fleet, Vec<(Place, Demand)>) {
    let mut fleet = Fleet::default();
    for n in 0..hosts {
        let labels = (0..3).map(|bit| 1_u64 << (2 * bit + (n >> bit & 1))).sum();
        fleet.add(80, 90 * 1024, labels);
    }
    let capacity = u64::from(hosts) * 160;
    let mut placed = Vec::new();
    let mut used = 0;
    while used < capacity * 95 / 100 {
        let demand = lots.demand();
        let Some(place) = fleet.find(demand, Fit::Best) else { break };
        fleet.take(place, demand);
        used += u64::from(demand.half_cpus);
        placed.push((place, demand));
    }
    (fleet, placed)
}

/// One departure and one arrival at a time; answers microseconds each.
fn churn(
    fleet: &mut Fleet,
    placed: &mut Vec<(Place, Demand)>,
    lots: &mut Lots,
    count: u32,
    is_scan: bool,
) -> f64 {
    let started = Instant::now();
    for _ in 0..count {
        let all = u32::try_from(placed.len()).expect("few VMs");
        let (place, demand) = placed.swap_remove(lots.next(all) as usize);
        fleet.release(place, demand);
        let demand = lots.demand();
        let found =
            if is_scan { fleet.scan(demand, Fit::Best) } else { fleet.find(demand, Fit::Best) };
        if let Some(place) = found {
            fleet.take(place, demand);
            placed.push((place, demand));
        }
    }
    started.elapsed().as_secs_f64() * 1e6 / f64::from(count)
}

fn main() {
    let mut costs = Vec::new();
    for hosts in [10_000_u32, 100_000] {
        let mut lots = Lots(0x9e37_79b9_7f4a_7c15);
        let (mut fleet, mut placed) = fill(hosts, &mut lots);
        let (mut best, mut scan) = (f64::MAX, f64::MAX);
        for _ in 0..3 {
            let scans = 2_000_000 / hosts;
            scan = scan.min(churn(&mut fleet, &mut placed, &mut lots, scans, true));
            best = best.min(churn(&mut fleet, &mut placed, &mut lots, 100_000, false));
        }
        println!(
            "{{\"name\":\"P1-{hosts}\",\"value\":{:.0},\"unit\":\"placements/s\",\"baseline\":{:.0},\"ratio\":{:.1},\"n\":{}}}",
            1e6 / best,
            1e6 / scan,
            scan / best,
            placed.len()
        );
        costs.push(best);
    }
    println!(
        "{{\"name\":\"P2\",\"value\":{:.2},\"unit\":\"ratio\",\"baseline\":1.0,\"ratio\":{:.2},\"n\":2}}",
        costs[1] / costs[0],
        costs[1] / costs[0]
    );
}
