//! L2: a host with twenty VMs is lost. From the picture that shows it until each of them has its plan, one after
//! the other, as an engine makes them.

use std::time::Duration;

use planner::{Step, plan};
use protocol::api::Want;
use protocol::id::{HostId, RunId};
use protocol::view::Freshness;
use protocol::vm::OnLoss;
use scheduler::cores::{FailOver, freshness_of};
use scheduler::{HeardAt, Knowledge, Picture};
use serde_json::{Value, json};

use crate::world::{World, cpu_ns, round};

const SIZES: [usize; 2] = [1_000, 10_000];
const VMS: usize = 20;
const ROUNDS: usize = 5;

pub(crate) fn run() -> Vec<Value> {
    SIZES.into_iter().flat_map(lost).collect()
}

fn lost(hosts: usize) -> Vec<Value> {
    let world = World::filled(hosts, 80, VMS, OnLoss::Stop);
    let mut picture = Picture { view: world.view.clone(), is_current: true, ..Picture::default() };
    let (mut knowledge, mut failover) = (Knowledge::default(), FailOver::default());
    let mut plans = |picture: &Picture| {
        let begin = cpu_ns();
        let freshness = |host: &HostId| freshness_of(picture.heard.get(host));
        let wants = failover.due(0, &picture.view, freshness, &[]);
        let wants: Vec<Want> = wants.into_iter().map(|(want, _)| want).collect();
        let mut first_ns = 0;
        let mut steps = 0;
        for (n, want) in wants.iter().enumerate() {
            let run = RunId(uuid::Uuid::from_u128(n as u128 + 1));
            let input = knowledge.plan_input(0, picture, run, want, vec![], 1);
            let outcome = plan(&input);
            let state = planner::State::new(&input);
            let found = &outcome.plan.steps;
            let is_start = matches!(found[..], [Step::StartVm(_)]);
            assert!(is_start, "{want:?}: {}", outcome.report);
            steps += found.len();
            let reservations = found.iter().filter_map(|step| step.reservation(&state)).collect();
            knowledge.reserve(run, reservations);
            if n == 0 {
                first_ns = cpu_ns() - begin;
            }
        }
        for n in 0..wants.len() {
            knowledge.release(RunId(uuid::Uuid::from_u128(n as u128 + 1)));
        }
        (first_ns as f64 / 1e6, (cpu_ns() - begin) as f64 / 1e6, steps)
    };
    // An engine that has never planned first reads all of the view.
    let full = world
        .hosts
        .iter()
        .filter(|host| world.view.host(host).is_some_and(|row| row.jobs.len() == VMS));
    let full: Vec<&HostId> = full.take(ROUNDS + 1).collect();
    let mut firsts = Vec::new();
    let mut alls = Vec::new();
    let mut cold_ms = 0.0;
    for (n, host) in full.into_iter().enumerate() {
        let heard_ms = Duration::ZERO.as_millis() as u64;
        picture.heard = [(host.clone(), HeardAt { freshness: Freshness::Lost, heard_ms })]
            .into_iter()
            .collect();
        let (first, all, steps) = plans(&picture);
        assert_eq!(steps, VMS, "each has a place");
        if n == 0 {
            cold_ms = first;
        } else {
            firsts.push(first);
            alls.push(all);
        }
    }
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let line = |name: &str, value: f64, target: u32| {
        json!({ "name": name, "hosts": hosts, "vms_lost": VMS, "value": round(value), "unit": "ms",
            "baseline": "the target", "ratio": round(value / f64::from(target)), "n": ROUNDS,
            "of_an_engine_that_has_never_planned_ms": round(cold_ms), "target": target })
    };
    vec![
        line("L2_first_step", median(&mut firsts), 50),
        line("L2_all_steps", median(&mut alls), 500),
    ]
}
