//! L3: a VM that fits nowhere until others have moved. Small puzzles of which the least number of moves, and the
//! fewest bytes of that many, are known by trying everything.

use std::collections::BTreeMap;

use planner::{Expectation, Limits, PlanInput, Step, plan};
use protocol::host::Inventory;
use protocol::id::{Cursor, Epoch, JobId};
use protocol::job::JobState;
use protocol::resources::Resources;
use protocol::view::View;
use protocol::vm::OnLoss;
use serde_json::{Value, json};

use crate::world::{self, Lots, cpu_ns, round};

const MOVES_MAX: usize = 4;
const PUZZLES: usize = 100;
/// Puzzles that are made at most: those that need four moves are rare.
const TRIES: usize = 60_000;
const HOST_GIB: u64 = 16;

/// Free GiB of each host and where each VM of so many GiB is; and the one that is to come.
struct Puzzle {
    hosts: usize,
    vms: Vec<(usize, u64)>,
    wanted_gib: u64,
}

pub(crate) fn run() -> Vec<Value> {
    let mut lots = Lots(0x7777_5678_9abc_def1);
    let mut by_moves: BTreeMap<usize, Vec<(Puzzle, u64)>> = BTreeMap::new();
    for _ in 0..TRIES {
        let puzzle = Puzzle::drawn(&mut lots);
        if let Some((moves, gib)) = puzzle.optimum()
            && (1..=MOVES_MAX).contains(&moves)
        {
            let known = by_moves.entry(moves).or_default();
            if known.len() < PUZZLES {
                known.push((puzzle, gib));
            }
        }
        if by_moves.len() == MOVES_MAX && by_moves.values().all(|known| known.len() == PUZZLES) {
            break;
        }
    }
    by_moves.into_iter().map(|(moves, puzzles)| solve(moves, &puzzles)).collect()
}

fn solve(moves: usize, puzzles: &[(Puzzle, u64)]) -> Value {
    let (mut solved, mut more_moves, mut cost, mut worst, mut took_ns) = (0, 0, 0.0, 0.0_f64, 0);
    for (puzzle, gib) in puzzles {
        let input = puzzle.input(moves);
        let begin = cpu_ns();
        let outcome = plan(&input);
        took_ns += cpu_ns() - begin;
        if !matches!(outcome.plan.steps.last(), Some(Step::StartVm(_))) {
            continue;
        }
        solved += 1;
        more_moves += usize::from(outcome.plan.steps.len() - 1 > moves);
        let ratio = outcome.plan.cost.io_bytes as f64 / ((gib << 30) as f64);
        cost += ratio;
        worst = worst.max(ratio);
    }
    let ratio = cost / f64::from(solved.max(1));
    json!({ "name": "L3", "moves": moves, "value": round(f64::from(solved) * 100.0 / puzzles.len() as f64),
        "unit": "% solved", "baseline": "least moves, then least bytes, by trying everything",
        "ratio": round(ratio), "ratio_worst": round(worst), "with_more_moves": more_moves,
        "ms": round(took_ns as f64 / 1e6 / puzzles.len() as f64), "n": puzzles.len(),
        "target": 100, "target_ratio": 1.2 })
}

impl Puzzle {
    fn drawn(lots: &mut Lots) -> Self {
        let hosts = 3 + lots.next(4);
        let mut free = vec![HOST_GIB; hosts];
        let mut vms = Vec::new();
        for _ in 0..40 {
            let (host, gib) = (lots.next(hosts), 1 + lots.next(8) as u64);
            if gib <= free[host] && vms.len() < 3 * hosts {
                free[host] -= gib;
                vms.push((host, gib));
            }
        }
        let most = free.iter().max().copied().unwrap_or(0);
        let all: u64 = free.iter().sum();
        let wanted_gib = (most + 1 + lots.next(6) as u64).min(all).min(HOST_GIB);
        Self { hosts, vms, wanted_gib }
    }

    /// The least number of moves, and the fewest GiB that so many move.
    fn optimum(&self) -> Option<(usize, u64)> {
        let homes: Vec<usize> = self.vms.iter().map(|(host, _)| *host).collect();
        let mut layer: BTreeMap<Vec<usize>, u64> = BTreeMap::from([(homes, 0)]);
        for moves in 0..=MOVES_MAX {
            let done = layer.iter().filter(|(homes, _)| {
                (0..self.hosts).any(|host| self.free(homes, host) >= self.wanted_gib)
            });
            if let Some(gib) = done.map(|(_, gib)| *gib).min() {
                return Some((moves, gib));
            }
            let mut next: BTreeMap<Vec<usize>, u64> = BTreeMap::new();
            for (homes, moved) in &layer {
                for (vm, (_, gib)) in self.vms.iter().enumerate() {
                    for to in (0..self.hosts).filter(|to| *to != homes[vm]) {
                        if self.free(homes, to) >= *gib && moves < MOVES_MAX {
                            let mut after = homes.clone();
                            after[vm] = to;
                            let cost = next.entry(after).or_insert(u64::MAX);
                            *cost = (moved + gib).min(*cost);
                        }
                    }
                }
            }
            if next.len() > 200_000 {
                return None;
            }
            layer = next;
        }
        None
    }

    fn free(&self, homes: &[usize], host: usize) -> u64 {
        let here = homes.iter().zip(&self.vms).filter(|(home, _)| **home == host);
        HOST_GIB - here.map(|(_, (_, gib))| gib).sum::<u64>()
    }

    fn input(&self, moves: usize) -> PlanInput {
        let size = |gib: u64| Resources { vcpus: 1, memory_bytes: gib << 30, disk_bytes: 0 };
        let mut view = View::default();
        for n in 0..self.hosts {
            let here = self.vms.iter().enumerate().filter(|(_, (host, _))| *host == n);
            let jobs: Vec<_> = here
                .map(|(vm, (_, gib))| {
                    let id = JobId::new(format!("vm-{vm}")).expect("a name");
                    world::job(id, world::spec(size(*gib), OnLoss::Keep), JobState::Running)
                })
                .collect();
            let mut host = world::host(n);
            host.capacity = Resources { memory_bytes: HOST_GIB << 30, ..host.capacity };
            host.allocation =
                jobs.iter().fold(Resources::ZERO, |sum, job| sum.plus(job.allocation()));
            let cursor = Cursor { epoch: Epoch(1), seq: 0 };
            view.merge_inventory(Inventory { cursor, host, jobs, observed: vec![] });
        }
        let job = JobId::new("wanted").expect("a name");
        let spec = world::spec(size(self.wanted_gib), OnLoss::Keep);
        let steps_max = u32::try_from(moves + 1).expect("few");
        PlanInput {
            view,
            expectations: vec![Expectation::Runs { job, spec, on: None }],
            limits: Limits { may_make_room: true, steps_max, ..Limits::default() },
            ..PlanInput::default()
        }
    }
}
