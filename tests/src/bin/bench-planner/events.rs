//! L1: what one event costs a controller that keeps expectations, against the size of the cluster. Twenty VMs a host;
//! one VM of each is expected to run, and each tenth one apart from that of the next host.
//!
//! Each event is measured twice: on a host drawn by lot, of which nothing is in the processor's caches where the cluster
//! is large, and once more on the same host. What the first costs more is waiting for memory, as both do the same.

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
#[derive(Clone, Copy)]
struct Cost {
    upkeep_us: f64,
    register_us: f64,
    judged: f64,
    affected: f64,
}

impl Cost {
    fn us(&self) -> f64 {
        self.upkeep_us + self.register_us
    }

    /// Of each figure the one in the middle, as somebody else's work on the machine falls on few; of counts the mean.
    fn median(costs: &[Self]) -> Self {
        let middle = |of: fn(&Self) -> f64| {
            let mut all: Vec<f64> = costs.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let mean = |of: fn(&Self) -> f64| costs.iter().map(of).sum::<f64>() / costs.len() as f64;
        Self {
            upkeep_us: middle(|cost| cost.upkeep_us),
            register_us: middle(|cost| cost.register_us),
            judged: mean(|cost| cost.judged),
            affected: mean(|cost| cost.affected),
        }
    }
}

pub(crate) fn run() -> Vec<Value> {
    let costs = SIZES.map(costs);
    let mut lines = Vec::new();
    for (k, (_, event)) in KINDS.iter().enumerate() {
        for (size, cost) in SIZES.iter().zip(&costs) {
            let (cold, warm) = cost[k];
            let Cost { upkeep_us, register_us, judged, affected } = cold;
            lines.push(json!({ "name": "L1_event", "event": event, "hosts": size, "vms": size * 20,
                "value": round(cold.us()), "unit": "us of CPU per event",
                "upkeep_us": round(upkeep_us), "register_us": round(register_us), "again_us": round(warm.us()),
                "judged": round(judged), "baseline": "expectations that read what has changed",
                "affected": round(affected), "ratio": round(judged / affected), "n": EVENTS, "target": 3.0 }));
        }
        let cold = costs.map(|cost| cost[k].0.us());
        let warm = costs.map(|cost| cost[k].1.us());
        lines.push(json!({ "name": "L1_slope", "event": event, "value": round(slope(&cold)),
            "unit": "log-log slope of CPU time over hosts", "baseline": 0.0,
            "again_slope": round(slope(&warm)), "ratio": round(cold[3] / cold[0]),
            "n": SIZES.len(), "target": 0.2 }));
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

/// What each kind of event costs on a host drawn by lot, and once more on the same.
fn costs(hosts: usize) -> [(Cost, Cost); 3] {
    let mut kept = Kept::new(hosts);
    let mut lots = Lots(0x3333_5678_9abc_def1);
    KINDS.map(|(kind, _)| {
        let (mut cold, mut warm) = (Vec::new(), Vec::new());
        for _ in 0..EVENTS {
            let host = kept.world.hosts[lots.next(hosts)].clone();
            cold.push(kept.happens(kind, &host));
            warm.push(kept.happens(kind, &host));
        }
        (Cost::median(&cold), Cost::median(&warm))
    })
}

/// A cluster, and who keeps expectations of it.
struct Kept {
    world: World,
    heard: OrdMap<HostId, HeardAt>,
    members: Arc<BTreeSet<HostId>>,
    upkeep: Upkeep,
    register: Register,
    readers: Readers,
    now_ms: u64,
}

impl Kept {
    fn new(hosts: usize) -> Self {
        let world = World::filled(hosts, 95, 20, OnLoss::Keep);
        let mut upkeep = Upkeep::default();
        let items = items(hosts);
        for (set, items) in items.chunks(1_000).enumerate() {
            let name = format!("set-{set}").parse().expect("a name");
            let record = SetRecord::new(name, Revision(1), Some(items.to_vec()), 0);
            upkeep.handle(0, Input::Put(record), &mut vec![]);
        }
        let fresh = HeardAt { freshness: Freshness::Fresh, heard_ms: 0 };
        let heard = world.hosts.iter().map(|host| (host.clone(), fresh)).collect();
        let members = Arc::new(world.hosts.iter().cloned().collect());
        let register = Register::new(1, Shards::default());
        let readers = Readers::of(&items);
        let mut kept = Self { world, heard, members, upkeep, register, readers, now_ms: 0 };
        kept.look();
        kept.register.follow(&kept.world.view);
        kept
    }

    /// Something happens to a host; what it costs from the picture that shows it on.
    fn happens(&mut self, kind: Kind, host: &HostId) -> Cost {
        self.now_ms += 1;
        let changed = self.change(kind, host);
        let affected = self.readers.count(&changed) as f64;
        let begin = cpu_ns();
        self.register.follow(&self.world.view);
        if let Kind::Lost = kind {
            self.register.hear(host, Freshness::Lost);
        }
        let register_us = (cpu_ns() - begin) as f64 / 1e3;
        let (upkeep_us, judged) = self.look();
        // Heard again, uncounted: every loss is news, and one host is lost at a time in a large cluster too.
        if let Kind::Lost = kind {
            self.hear(host, Freshness::Fresh);
            self.register.hear(host, Freshness::Fresh);
            self.look();
        }
        Cost { upkeep_us, register_us, judged, affected }
    }

    /// Jobs of which something is otherwise then.
    fn change(&mut self, kind: Kind, host: &HostId) -> Vec<JobId> {
        let row = self.world.view.host(host).expect("known");
        match kind {
            Kind::Load => {
                let events = self.world.change(host, None, None);
                self.world.merge(&events);
                vec![]
            }
            Kind::Vm => {
                let job = row.jobs.get(&name_of(row)).expect("every host has one");
                let changed = Job { since_ms: self.now_ms, ..Job::clone(job) };
                let events = self.world.change(host, Some(job), Some(changed));
                let id = job.id.clone();
                self.world.merge(&events);
                vec![id]
            }
            Kind::Lost => {
                let jobs = row.jobs.keys().cloned().collect();
                self.hear(host, Freshness::Lost);
                jobs
            }
        }
    }

    fn hear(&mut self, host: &HostId, freshness: Freshness) {
        self.heard.insert(host.clone(), HeardAt { freshness, heard_ms: 0 });
    }

    /// Upkeep looks; CPU time in microseconds, and how much was judged.
    fn look(&mut self) -> (f64, f64) {
        let (view, heard) = (self.world.view.clone(), self.heard.clone());
        let members = Arc::clone(&self.members);
        let (powers, open, turns) = (Arc::default(), vec![], Turns::default());
        let used = Arc::default();
        let look = Box::new(Look { view, heard, members, powers, used, terms: None, open, turns });
        let before = self.upkeep.judged_count();
        let mut out = Vec::new();
        let begin = cpu_ns();
        self.upkeep.handle(self.now_ms, Input::Looked(look), &mut out);
        let took = cpu_ns() - begin;
        (took as f64 / 1e3, (self.upkeep.judged_count() - before) as f64)
    }
}

/// What is expected of so many hosts.
fn items(hosts: usize) -> Vec<Value> {
    let first = |n: usize| format!("vm-{n}-0");
    let mut items = Vec::new();
    for n in 0..hosts {
        items.push(json!({ "expect": "runs", "job": first(n) }));
        if n % 10 == 0 && n + 1 < hosts {
            items.push(json!({ "expect": "not_same_host", "jobs": [first(n), first(n + 1)] }));
        }
    }
    items
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
