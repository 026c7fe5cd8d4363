//! L1: what one event costs a controller that keeps expectations, against the size of the cluster. Twenty VMs a host;
//! one VM of each is expected to run, and each tenth one apart from that of the next host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use planner::{Register, Shards};
use protocol::id::{HostId, JobId, Revision};
use protocol::job::Job;
use protocol::view::Freshness;
use protocol::vm::OnLoss;
use scheduler::cores::{Input, Look, Turns, Upkeep};
use scheduler::{HeardAt, SetRecord};
use serde_json::{Value, json};

use crate::world::{Lots, World, cpu_ns, round};

const SIZES: [usize; 4] = [100, 1_000, 10_000, 100_000];
const EVENTS: usize = 300;

#[derive(Clone, Copy)]
enum Kind {
    Load,
    Vm,
    Lost,
}

const KINDS: [(Kind, &str); 3] =
    [(Kind::Load, "a host's load"), (Kind::Vm, "a VM changed"), (Kind::Lost, "a host lost")];

/// CPU time of one event for upkeep and for the register, what was judged, and what had to be.
#[derive(Clone, Copy, Default)]
struct Cost {
    upkeep_us: f64,
    register_us: f64,
    judged: f64,
    affected: f64,
}

pub(crate) fn run() -> Vec<Value> {
    let costs = SIZES.map(costs);
    let mut lines = Vec::new();
    for (k, (_, event)) in KINDS.iter().enumerate() {
        for (size, cost) in SIZES.iter().zip(&costs) {
            let Cost { upkeep_us, register_us, judged, affected } = cost[k];
            lines.push(json!({ "name": "L1_event", "event": event, "hosts": size, "vms": size * 20,
                "value": round(upkeep_us + register_us), "unit": "us of CPU per event",
                "upkeep_us": round(upkeep_us), "register_us": round(register_us),
                "judged": round(judged), "baseline": "expectations that read what has changed",
                "affected": round(affected), "ratio": round(judged / affected), "n": EVENTS, "target": 3.0 }));
        }
        let of = |cost: &[Cost; 3]| cost[k].upkeep_us + cost[k].register_us;
        let times: Vec<f64> = costs.iter().map(of).collect();
        lines.push(json!({ "name": "L1_slope", "event": event, "value": round(slope(&times)),
            "unit": "log-log slope of CPU time over hosts", "baseline": 0.0,
            "ratio": round(times[3] / times[0]), "n": SIZES.len(), "target": 0.2 }));
    }
    lines
}

/// The slope of the line through all points.
fn slope(times: &[f64]) -> f64 {
    let points: Vec<(f64, f64)> = SIZES
        .iter()
        .zip(times)
        .map(|(size, time)| ((*size as f64).log10(), time.log10()))
        .collect();
    let mean =
        |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let both: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    both / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>()
}

fn costs(hosts: usize) -> [Cost; 3] {
    let mut world = World::filled(hosts, 95, 20, OnLoss::Keep);
    let mut upkeep = Upkeep::default();
    let mut out = Vec::new();
    let first = |n: usize| format!("vm-{n}-0");
    let mut items: Vec<Value> = Vec::new();
    for n in 0..hosts {
        items.push(json!({ "expect": "runs", "job": first(n) }));
        if n % 10 == 0 && n + 1 < hosts {
            items.push(json!({ "expect": "not_same_host", "jobs": [first(n), first(n + 1)] }));
        }
    }
    for (set, items) in items.chunks(1_000).enumerate() {
        let name = format!("set-{set}").parse().expect("a name");
        let record = SetRecord::new(name, Revision(1), Some(items.to_vec()), 0);
        upkeep.handle(0, Input::Put(record), &mut out);
    }
    let readers = Readers::of(&items);
    drop(items);
    let members: Arc<BTreeSet<HostId>> = Arc::new(world.hosts.iter().cloned().collect());
    let mut heard: OrdMap<HostId, HeardAt> = OrdMap::new();
    for host in &world.hosts {
        heard.insert(host.clone(), HeardAt { freshness: Freshness::Fresh, heard_ms: 0 });
    }
    let mut register = Register::new(1, Shards::default());
    let mut look = |world: &World, heard: &OrdMap<HostId, HeardAt>, now_ms: u64| {
        let (view, heard) = (world.view.clone(), heard.clone());
        let (members, open, turns) = (Arc::clone(&members), vec![], Turns::default());
        let powers = Arc::default();
        let look = Box::new(Look { view, heard, members, powers, open, turns });
        let before = upkeep.judged_count();
        let begin = cpu_ns();
        upkeep.handle(now_ms, Input::Looked(look), &mut out);
        let took = cpu_ns() - begin;
        out.clear();
        (took as f64 / 1e3, upkeep.judged_count() - before)
    };
    look(&world, &heard, 0);
    register.follow(&world.view);
    let mut lots = Lots(0x3333_5678_9abc_def1);
    KINDS.map(|(kind, _)| {
        let mut sum = Cost::default();
        for n in 0..EVENTS {
            let host = world.hosts[lots.next(hosts)].clone();
            // Every loss is news, in a small cluster too: what was lost before is heard again, uncounted.
            let was_lost = heard.get(&host).is_some_and(|at| at.freshness == Freshness::Lost);
            if was_lost {
                heard.insert(host.clone(), HeardAt { freshness: Freshness::Fresh, heard_ms: 0 });
                register.hear(&host, Freshness::Fresh);
                look(&world, &heard, n as u64);
            }
            let affected = match kind {
                Kind::Load => {
                    let events = world.change(&host, None, None);
                    world.merge(&events);
                    0
                }
                Kind::Vm => {
                    let row = world.view.host(&host).expect("known");
                    let Some(job) = row.jobs.get(&name_of(row)) else { continue };
                    let changed = Job { since_ms: n as u64 + 1, ..Job::clone(job) };
                    let events = world.change(&host, Some(job), Some(changed));
                    let id = job.id.clone();
                    world.merge(&events);
                    readers.count(&[id])
                }
                Kind::Lost => {
                    let lost = HeardAt { freshness: Freshness::Lost, heard_ms: 0 };
                    heard.insert(host.clone(), lost);
                    let row = world.view.host(&host).expect("known");
                    let jobs: Vec<JobId> = row.jobs.keys().cloned().collect();
                    readers.count(&jobs)
                }
            };
            let begin = cpu_ns();
            register.follow(&world.view);
            if let Kind::Lost = kind {
                register.hear(&host, Freshness::Lost);
            }
            sum.register_us += (cpu_ns() - begin) as f64 / 1e3;
            let (us, judged) = look(&world, &heard, n as u64);
            sum.upkeep_us += us;
            sum.judged += judged as f64;
            sum.affected += affected as f64;
        }
        let each = |sum: f64| sum / EVENTS as f64;
        Cost {
            upkeep_us: each(sum.upkeep_us),
            register_us: each(sum.register_us),
            judged: each(sum.judged),
            affected: each(sum.affected),
        }
    })
}

/// The VM of a host that something is expected of.
fn name_of(row: &protocol::view::HostRow) -> JobId {
    let number = row.host.name.strip_prefix("node-").expect("a number");
    JobId::new(format!("vm-{number}-0")).expect("a name")
}

/// Which expectations name a job, noted once by a look at all. A look at all between two events would leave
/// the caches empty for the next, the more so the larger the cluster is.
struct Readers(BTreeMap<JobId, Vec<usize>>);

impl Readers {
    fn of(items: &[Value]) -> Self {
        let mut readers: BTreeMap<JobId, Vec<usize>> = BTreeMap::new();
        for (n, item) in items.iter().enumerate() {
            let several = item["jobs"].as_array().into_iter().flatten();
            for job in several.chain(item.get("job")).filter_map(Value::as_str) {
                readers.entry(JobId::new(job).expect("a name")).or_default().push(n);
            }
        }
        Self(readers)
    }

    fn count(&self, jobs: &[JobId]) -> usize {
        let named = jobs.iter().filter_map(|job| self.0.get(job)).flatten();
        named.collect::<BTreeSet<_>>().len()
    }
}
