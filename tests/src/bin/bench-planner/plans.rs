//! P1 and P2 once more, of whole plans as an engine makes them: one VM goes and one comes at a time, with three hard
//! rules about its host. And what is asked for that fits nowhere, until it is explained why.

use std::sync::Arc;

use planner::{
    Expectation, Placement, PlanInput, Prepared, Register, Shards, Step, UnmetReason, plan,
};
use protocol::admission::{Arrival, Room, admit};
use protocol::host::Host;
use protocol::id::{HostId, JobId};
use protocol::job::{JobSpec, JobState};
use protocol::vm::OnLoss;
use serde_json::{Value, json};

use crate::speed::{SIZES, growth, rules_to_meet};
use crate::world::{self, CAPACITY, Lots, World, cpu_ns, round, us_each};

/// Plans by lookup, after as many as fill the caches.
const PLANS: usize = 20_000;
const PLANS_BEFORE: usize = 500;
/// Plans by a look at every host: each takes seconds where there are many.
const SCANS: usize = 3;
/// The same of what fits nowhere.
const IMPOSSIBLE: usize = 3;
/// More VMs a host would take more memory than is here: 100 000 hosts have two million.
const VMS_MAX: usize = 20;
/// VMs that have come and go again; older ones go when there are no more.
const COME_MAX: usize = 500;
/// The largest VMs fit nowhere, and why is explained host by host: that is measured by itself.
const VCPUS_MAX: u32 = 16;

pub(crate) fn run() -> Vec<Value> {
    let mut lines = Vec::new();
    let costs = SIZES.map(|hosts| plans(hosts, &mut lines));
    lines.push(growth("P2_plan", Placement::Spread, &costs));
    lines
}

/// CPU time of plans, and of bringing the register up to what has changed.
#[derive(Default)]
struct Sum {
    plan_ns: u64,
    follow_ns: u64,
    count: usize,
}

impl Sum {
    fn us(&self) -> (f64, f64) {
        let each = |ns: u64| ns as f64 / 1e3 / self.count as f64;
        (each(self.plan_ns), each(self.follow_ns))
    }
}

fn plans(hosts: usize, lines: &mut Vec<Value>) -> f64 {
    let mut cluster = Cluster::new(hosts);
    let begin = cpu_ns();
    cluster.follow();
    let first_ms = us_each(begin, 1) / 1e3;
    let mut by_lookup = Sum::default();
    for n in 0..PLANS_BEFORE + PLANS {
        let mut uncounted = Sum::default();
        let sum = if n < PLANS_BEFORE { &mut uncounted } else { &mut by_lookup };
        cluster.change_one(n, true, sum);
    }
    let mut by_scan = Sum::default();
    for n in 0..SCANS {
        cluster.change_one(PLANS_BEFORE + PLANS + n, false, &mut by_scan);
    }
    let used = cluster.used_percent();
    let ((us, follow_us), (scan_us, _)) = (by_lookup.us(), by_scan.us());
    lines.push(json!({ "name": "P1_plan", "hosts": hosts, "placement": Placement::Spread,
        "value": (1e6 / (us + follow_us)).round(), "unit": "plans/s", "us": round(us),
        "follow_us": round(follow_us), "first_ms": round(first_ms),
        "baseline_us": round(scan_us), "baseline": "the same plan by a look at every host",
        "ratio": round(scan_us / (us + follow_us)), "n": by_lookup.count,
        "unplaced": PLANS - by_lookup.count, "used_percent": used }));
    let none_us = cluster.impossible();
    lines.push(json!({ "name": "P1_plan_none", "hosts": hosts, "value": round(none_us / 1e3),
        "unit": "ms until it is explained why a VM fits nowhere",
        "baseline_ms": round(scan_us / 1e3), "baseline": "a plan by a look at every host",
        "ratio": round(none_us / scan_us), "n": IMPOSSIBLE }));
    us + follow_us
}

/// A cluster as an engine sees it, and what it keeps for its plans.
struct Cluster {
    lots: Lots,
    world: World,
    /// Some of its hosts, by which rules are drawn that some host meets.
    some: Vec<Host>,
    register: Arc<Register>,
    come: Vec<(HostId, JobId)>,
}

impl Cluster {
    fn new(hosts: usize) -> Self {
        Self {
            lots: Lots(0x2222_5678_9abc_def1),
            world: World::filled(hosts, 95, VMS_MAX, OnLoss::Keep),
            some: (0..40.min(hosts)).map(world::host).collect(),
            register: Arc::new(Register::new(7, Shards::default())),
            come: Vec::new(),
        }
    }

    fn follow(&mut self) {
        Arc::make_mut(&mut self.register).follow(&self.world.view);
    }

    fn followed_ns(&mut self) -> u64 {
        let begin = cpu_ns();
        self.follow();
        cpu_ns() - begin
    }

    /// One VM goes and one comes.
    fn change_one(&mut self, n: usize, is_prepared: bool, sum: &mut Sum) {
        self.lose_one();
        let gone_ns = self.followed_ns();
        let job = JobId::new(format!("new-{n}")).expect("a name");
        let mut size = self.lots.size();
        while size.vcpus > VCPUS_MAX {
            size = self.lots.size();
        }
        let spec = world::spec(size, OnLoss::Keep);
        let clauses = rules_to_meet(&job, &mut self.lots, &self.some);
        let begin = cpu_ns();
        let input = PlanInput { clauses, ..self.input(&job, &spec, is_prepared) };
        let steps = plan(&input).plan.steps;
        drop(input);
        let plan_ns = cpu_ns() - begin;
        let Some(Step::StartVm(start)) = steps.first() else { return };
        let row = self.world.view.host(&start.host).expect("known");
        admit(Room::of(&row.host), &spec, Arrival::Start).expect("what was planned is admitted");
        let row = world::job(job.clone(), spec, JobState::Running);
        let events = self.world.change(&start.host, None, Some(row));
        self.world.merge(&events);
        self.come.push((start.host.clone(), job));
        let come_ns = self.followed_ns();
        sum.plan_ns += plan_ns;
        sum.follow_ns += gone_ns + come_ns;
        sum.count += 1;
    }

    /// One goes that came before, or of those that were there.
    fn lose_one(&mut self) {
        let (host, job) = if self.come.len() > COME_MAX {
            let (host, id) = self.come.swap_remove(self.lots.next(self.come.len()));
            let row = self.world.view.host(&host).expect("known");
            let job = row.jobs.get(&id).expect("it has come").clone();
            (host, job)
        } else {
            let host = self.world.hosts[self.lots.next(self.world.hosts.len())].clone();
            let row = self.world.view.host(&host).expect("known");
            // By their names the last are of those that were there.
            let Some(job) = row.jobs.values().last().cloned() else { return };
            (host, job)
        };
        let events = self.world.change(&host, Some(&job), None);
        self.world.merge(&events);
    }

    fn input(&self, job: &JobId, spec: &JobSpec, is_prepared: bool) -> PlanInput {
        let prepared =
            if is_prepared { Arc::clone(&self.register).into() } else { Prepared::default() };
        let (job, spec) = (job.clone(), spec.clone());
        PlanInput {
            view: self.world.view.clone(),
            expectations: vec![Expectation::Runs { job, spec, on: None }],
            seed: 7,
            prepared,
            ..PlanInput::default()
        }
    }

    /// CPU time of a plan for a VM that no host has room for.
    fn impossible(&self) -> f64 {
        let job = JobId::new("too-large").expect("a name");
        let spec = world::spec(CAPACITY, OnLoss::Keep);
        let begin = cpu_ns();
        for _ in 0..IMPOSSIBLE {
            let outcome = plan(&self.input(&job, &spec, true));
            let unmet = outcome.report.unmet.first().map(|unmet| &unmet.reason);
            assert!(matches!(unmet, Some(UnmetReason::NoHostFits)), "{unmet:?}");
        }
        us_each(begin, IMPOSSIBLE)
    }

    fn used_percent(&self) -> u64 {
        let rows = self.world.view.hosts();
        let used: u64 = rows.map(|(_, row)| u64::from(row.host.allocation.vcpus)).sum();
        used * 100 / (self.world.hosts.len() as u64 * u64::from(CAPACITY.vcpus))
    }
}
