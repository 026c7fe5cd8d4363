//! P7: several schedulers that plan on pictures which are late, and how often hosts refuse what they
//! planned. Each has its own [`Knowledge`], as a controller has, and hosts decide by their own admission.

use std::collections::VecDeque;

use planner::{Placement, Setback, SetbackReason, Shards, Step, plan};
use protocol::admission::{Arrival, Room, admit};
use protocol::api::Want;
use protocol::event::Event;
use protocol::hugepages::Pages;
use protocol::id::{HostId, JobId, RunId};
use protocol::job::JobState;
use protocol::resources::Resources;
use protocol::view::View;
use protocol::vm::OnLoss;
use scheduler::{Knowledge, Picture};
use serde_json::{Value, json};

use crate::world::{self, CAPACITY, Lots, World, round};

const HOSTS: usize = 1_000;
const SCHEDULERS: usize = 8;
/// Changes of the cluster that a picture is late by: 200 a second, one second.
const LATE: usize = 200;
/// A hundred VMs come and a hundred go in a second.
const STEP_MS: u64 = 10;
/// How long a start takes; its run ends then, and its reservation with it.
const START_MS: u64 = 2_000;
/// Hosts that are asked for one VM at most.
const ATTEMPTS_MAX: usize = 8;
const PLACEMENTS: usize = 4_000;

/// How schedulers choose.
#[derive(Clone, Copy, PartialEq)]
enum How {
    /// As the product does; with hosts of their own first, or without.
    Planned { placement: Placement, is_sharded: bool },
    /// The tightest of ten hosts drawn by lot that have room: what it is compared with.
    BestOfTen,
}

#[derive(Default)]
struct Count {
    attempts: u64,
    refused: u64,
    placed: u64,
    unplaced: u64,
    over: usize,
}

pub(crate) fn run() -> Vec<Value> {
    let mut lines = Vec::new();
    let mut attempts = 0;
    let mut over = 0;
    for percent in [80, 95] {
        let mut share = |how: How| {
            let count = churn(percent, how);
            attempts += count.attempts;
            over += count.over;
            (count.refused as f64 * 100.0 / count.attempts as f64, count)
        };
        let (drawn, _) = share(How::BestOfTen);
        for placement in [Placement::Spread, Placement::Pack] {
            let (alone, _) = share(How::Planned { placement, is_sharded: false });
            let (refused, count) = share(How::Planned { placement, is_sharded: true });
            lines.push(json!({ "name": "P7", "used_percent": percent, "placement": placement,
                "hosts": HOSTS, "schedulers": SCHEDULERS, "late_by_changes": LATE,
                "value": round(refused), "unit": "% of attempts refused",
                "baseline": "the tightest of ten drawn by lot, same run", "baseline_percent": round(drawn),
                "without_shards_percent": round(alone), "ratio": round(refused / drawn),
                "unplaced": count.unplaced, "n": count.placed,
                "target": if percent == 80 { 5 } else { 10 } }));
        }
    }
    assert_eq!(over, 0, "a host took more than it has, in {attempts} attempts");
    lines
}

struct One {
    view: View,
    applied: usize,
    knowledge: Knowledge,
    going: VecDeque<(u64, RunId)>,
    /// What hosts have said when they refused, and after how many changes.
    told: Vec<(usize, HostId, Resources)>,
}

fn churn(percent: u32, how: How) -> Count {
    let mut lots = Lots(0x5151_5678_9abc_def1);
    let mut world = World::filled(HOSTS, percent, 200, OnLoss::Keep);
    let mut alive: Vec<(HostId, JobId)> = Vec::new();
    for (host, row) in world.view.hosts() {
        alive.extend(row.jobs.keys().map(|job| (host.clone(), job.clone())));
    }
    let mut log: Vec<[Event; 2]> = Vec::new();
    let mut all: Vec<One> = (0..SCHEDULERS as u64)
        .map(|n| {
            let mut knowledge = Knowledge::default();
            if let How::Planned { is_sharded: true, .. } = how {
                knowledge.share_with(Shards::new(n + 1, 1..=SCHEDULERS as u64));
            }
            let (view, going, told) = (world.view.clone(), VecDeque::new(), Vec::new());
            One { view, applied: 0, knowledge, going, told }
        })
        .collect();
    let mut count = Count::default();
    let used = |world: &World| -> u64 {
        world.view.hosts().map(|(_, row)| u64::from(row.host.allocation.vcpus)).sum()
    };
    let full = used(&world);
    let mut now_used = full;
    for step in 0..PLACEMENTS {
        let now_ms = step as u64 * STEP_MS;
        // As much goes as comes, in CPUs: the cluster stays as full as it is.
        while now_used >= full {
            let (host, id) = alive.swap_remove(lots.next(alive.len()));
            let job =
                world.view.host(&host).and_then(|row| row.jobs.get(&id)).expect("alive").clone();
            let events = world.change(&host, Some(&job), None);
            world.merge(&events);
            now_used -= u64::from(job.spec.takes().vcpus);
            log.push(events);
        }
        let n = lots.next(SCHEDULERS);
        let one = &mut all[n];
        while one.applied + LATE < log.len() {
            for event in &log[one.applied] {
                one.view.merge_event(event);
            }
            one.applied += 1;
        }
        while one.going.front().is_some_and(|(until_ms, _)| *until_ms <= now_ms) {
            let (_, run) = one.going.pop_front().expect("just seen");
            one.knowledge.release(run);
        }
        let spec = world::spec(lots.size(), OnLoss::Keep);
        let job = JobId::new(format!("new-{step}")).expect("a name");
        let run = RunId(uuid::Uuid::from_u128(step as u128 + 1));
        let mut setbacks: Vec<Setback> = Vec::new();
        let mut is_placed = false;
        for _ in 0..ATTEMPTS_MAX {
            let found = match how {
                How::BestOfTen => one.draw(&mut lots, &world.hosts, spec.takes()),
                How::Planned { placement, .. } => {
                    let picture =
                        Picture { view: one.view.clone(), is_current: true, ..Picture::default() };
                    let want =
                        Want::Run { job: job.clone(), spec: spec.clone(), on: None, again: false };
                    let (known, told) = (&mut one.knowledge, setbacks.clone());
                    let mut input = known.plan_input(now_ms, &picture, run, &want, told, n as u64);
                    input.placement = placement;
                    let outcome = plan(&input);
                    outcome.plan.steps.first().map(|step| match step {
                        Step::StartVm(start) => start.host.clone(),
                        other => panic!("a start, not {other}"),
                    })
                }
            };
            let Some(host) = found else { break };
            count.attempts += 1;
            let row = world.view.host(&host).expect("known");
            match admit(Room::of(&row.host), &spec, Arrival::Start) {
                Ok(()) => {
                    let row = world::job(job.clone(), spec.clone(), JobState::Running);
                    let events = world.change(&host, None, Some(row.clone()));
                    world.merge(&events);
                    now_used += u64::from(spec.takes().vcpus);
                    log.push(events);
                    let resources = spec.takes();
                    let hold = planner::Reservation {
                        host: host.clone(),
                        job: job.clone(),
                        resources,
                        pages: Pages::NONE,
                        dedicated_cpus: 0,
                    };
                    one.knowledge.reserve(run, vec![hold]);
                    one.knowledge.hear(now_ms, host.clone(), job.clone(), Some(row));
                    one.going.push_back((now_ms + START_MS, run));
                    alive.push((host, job.clone()));
                    is_placed = true;
                    break;
                }
                Err(no) => {
                    count.refused += 1;
                    one.knowledge.hear_no(now_ms, &host, &no);
                    one.told.push((log.len(), host.clone(), row.host.allocation));
                    let seen = one.view.host(&host).map(|row| row.host.allocation);
                    let allocation = seen.unwrap_or_default();
                    setbacks.push(Setback {
                        host,
                        reason: SetbackReason::Refused { no },
                        allocation,
                    });
                }
            }
        }
        count.placed += u64::from(is_placed);
        count.unplaced += u64::from(!is_placed);
    }
    let over = world.view.hosts().filter(|(_, row)| !row.host.allocation.fits_in(CAPACITY));
    count.over = over.count();
    count
}

impl One {
    fn draw(&mut self, lots: &mut Lots, hosts: &[HostId], size: Resources) -> Option<HostId> {
        self.told.retain(|(at, ..)| *at > self.applied);
        let told = |host: &HostId| self.told.iter().rev().find(|(_, of, _)| of == host);
        let drawn = (0..10).map(|_| &hosts[lots.next(hosts.len())]).filter_map(|host| {
            let seen = self.view.host(host)?.host.allocation;
            let free = CAPACITY.minus(told(host).map_or(seen, |(.., allocation)| *allocation));
            size.fits_in(free).then_some((free.vcpus, free.memory_bytes, host))
        });
        let drawn: Vec<_> = drawn.collect();
        drawn.into_iter().min().map(|(.., host)| host.clone())
    }
}
