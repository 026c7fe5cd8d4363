//! The property: whatever happens in whatever order, and however many events are looked at together, what was
//! judged fact by fact is what judging everything anew says.

use protocol::used::{HostUse, VmUse};

use super::*;
use crate::failover::freshness_of;
use crate::upkeep::verdict::{Facts, judge};

#[derive(Debug, Clone)]
enum Event {
    Job { host: u8, job: usize, state: usize },
    Gone { host: u8, job: usize },
    Label { host: u8, value: usize },
    Heard { host: u8, freshness: usize },
    Forgotten { host: u8 },
    Member { host: u8 },
    Put { set: usize, what: usize },
    Deleted { set: usize },
    Stopped { job: usize },
    Asleep { host: u8, is_so: bool },
    MaySleep { host: u8, is_so: bool },
    Uses { job: usize, cpu_millis: Option<u64> },
    Measured { host: u8, others: Option<u64> },
    Look,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1..5_u8, 1..4_usize, 0..10_usize)
            .prop_map(|(host, job, state)| Event::Job { host, job, state }),
        3 => (1..5_u8, 1..4_usize).prop_map(|(host, job)| Event::Gone { host, job }),
        3 => (1..5_u8, 0..3_usize).prop_map(|(host, value)| Event::Label { host, value }),
        3 => (1..5_u8, 0..3_usize).prop_map(|(host, freshness)| Event::Heard { host, freshness }),
        1 => (1..5_u8).prop_map(|host| Event::Forgotten { host }),
        1 => (1..6_u8).prop_map(|host| Event::Member { host }),
        2 => (0..3_usize, 0..SETS).prop_map(|(set, what)| Event::Put { set, what }),
        1 => (0..3_usize).prop_map(|set| Event::Deleted { set }),
        1 => (1..4_usize).prop_map(|job| Event::Stopped { job }),
        2 => (1..5_u8, any::<bool>()).prop_map(|(host, is_so)| Event::Asleep { host, is_so }),
        2 => (1..5_u8, any::<bool>()).prop_map(|(host, is_so)| Event::MaySleep { host, is_so }),
        3 => (1..4_usize, prop::option::weighted(0.8, 0..8_000_u64))
            .prop_map(|(job, cpu_millis)| Event::Uses { job, cpu_millis }),
        3 => (1..5_u8, prop::option::weighted(0.8, 0..2_000_u64))
            .prop_map(|(host, others)| Event::Measured { host, others }),
        6 => Just(Event::Look),
    ]
}

/// How many sets [`any_set`] knows. Several of them may contradict each other: who has learnt them keeps them.
pub(super) const SETS: usize = 19;

pub(super) fn any_set(what: usize) -> Value {
    let spread =
        json!({ "expect": "spread_over", "jobs": ["vm-1", "vm-2", "vm-3"], "domain": "disk" });
    let one = match what {
        0 => return json!([running().unwrap()[0], spread]),
        1 => json!({ "expect": "runs", "job": "vm-2", "on": host(1) }),
        2 => json!({ "expect": "same_host", "jobs": ["vm-1", "vm-3"] }),
        3 => json!({ "expect": "lose_any_host" }),
        4 => json!({ "expect": "runs_on", "job": "vm-3", "on": host(2) }),
        5 => json!({ "expect": "has_size", "job": "vm-2", "size": { "vcpus": 1 } }),
        6 => return json!([on_ssd().unwrap()[0], apart().unwrap()[0]]),
        7 => apart_group(2),
        8 => return json!([group(3), after(1, &[2, 3])]),
        9 => after(1, &[2]),
        10 => after(2, &[1, 3]),
        11 => {
            let mut order = after(2, &[1]);
            order["level"] = json!("wish");
            return json!([running().unwrap()[0], runs(2, 1, "should"), order]);
        }
        12 => json!({ "expect": "balanced", "within_percent": 20, "labels": { "disk": "ssd" } }),
        13 => json!({ "expect": "balanced", "within_percent": 30, "moves_per_hour": 720 }),
        14 => json!({ "expect": "power_saving", "awake_min": 1, "after_s": 5 }),
        15 => json!({ "expect": "power_saving", "spare": 2, "labels": { "disk": "ssd" } }),
        16 => json!({ "expect": "balanced", "within_percent": 20, "measure": "cpu" }),
        17 => json!({
            "expect": "balanced", "within_percent": 30, "measure": "cpu", "moves_per_hour": 720,
            "labels": { "disk": "ssd" }, "after_s": 10,
        }),
        _ => json!({ "expect": "shines", "job": "vm-1" }),
    };
    json!([one])
}

fn any_row(job: usize, state: usize) -> Job {
    let states = [
        JobState::Accepted,
        JobState::Starting,
        JobState::Running,
        JobState::Paused,
        JobState::MigratingIn,
        JobState::MigratingOut,
        JobState::Stopping,
    ];
    // One whose loss not every host can bear.
    let row = |job, state| match job {
        3 => Job { spec: sized(3, 3).spec, ..row(job, state) },
        _ => row(job, state),
    };
    match states.get(state) {
        Some(state) => row(job, *state),
        None if state == 7 => ended(job, Reason::Requested),
        None if state == 8 => ended(job, Reason::Migrated { to: host(1) }),
        None => ended(job, Reason::GuestShutdown),
    }
}

/// Judges everything anew, with the whole view.
fn anew(world: &World) -> BTreeMap<Key, Verdict> {
    let missing = world.members.iter().filter(|host| world.view.host(host).is_none());
    let missing: BTreeSet<HostId> = missing.cloned().collect();
    let used = Arc::new(world.used.clone());
    let judged = world.upkeep.items().map(|(key, item)| {
        let orders = world.upkeep.items().filter_map(|(_, other)| match (item, other) {
            (Item::Runs { job, level, .. }, Item::Order(order)) => {
                let binds = order.level <= *level && order.order.jobs.contains(job);
                binds.then_some(&order.order.after)
            }
            _ => None,
        });
        let after: BTreeSet<&JobId> = orders.flatten().collect();
        let facts = Facts {
            view: &world.view,
            freshness: &|host| freshness_of(world.heard.get(host)),
            powers: &world.powers,
            used: &used,
            terms: None,
            missing: &missing,
            begun: &world.upkeep.sets[&key.0].record.begun,
            stopped: &world.upkeep.sets[&key.0].record.stopped,
            after: &after,
        };
        let verdict = judge(item, &facts);
        (key, verdict)
    });
    judged.collect()
}

/// VMs beyond the count of a group, looked for on all hosts.
fn surplus_anew(world: &World, expectation: &Value) -> Vec<JobId> {
    let count = if expectation["expect"] == "group" { expectation["count"].as_u64() } else { None };
    let rows = world.view.hosts().flat_map(|(_, row)| row.jobs.keys());
    let numbers = rows.map(|job| job.as_str().trim_start_matches("vm-").parse::<u64>().unwrap());
    let beyond: BTreeSet<u64> = numbers.filter(|n| count.is_some_and(|count| *n > count)).collect();
    beyond.into_iter().map(|n| id(n as usize)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn judged_fact_by_fact_is_judged_anew(events in prop::collection::vec(event(), 1..60)) {
        let mut world = World::new(3);
        let mut revision = 0;
        world.put("set-0", 1, Some(any_set(0)));
        world.put("set-1", 1, Some(any_set(6)));
        for (n, event) in events.into_iter().chain([Event::Look]).enumerate() {
            match event {
                Event::Job { host, job, state } => world.put_job(host, any_row(job, state)),
                Event::Gone { host, job } => world.drop_job(host, job),
                Event::Label { host, value } => {
                    world.label(host, [None, Some("ssd"), Some("tape")][value]);
                }
                Event::Heard { host, freshness } => {
                    let all = [Freshness::Fresh, Freshness::Stale, Freshness::Lost];
                    world.hear(host, all[freshness]);
                }
                Event::Forgotten { host: n } => drop(world.view.forget(&host(n))),
                Event::Member { host: n } => {
                    Arc::make_mut(&mut world.members).insert(host(n));
                }
                Event::Put { set, what } => {
                    revision += 2;
                    world.put(&format!("set-{set}"), revision, Some(any_set(what)));
                }
                Event::Deleted { set } => {
                    revision += 2;
                    world.put(&format!("set-{set}"), revision, None);
                }
                Event::Stopped { job } => {
                    let stopped = Input::Stopped { job: id(job), revision: Revision(1) };
                    drop(world.handle(0, stopped));
                }
                Event::Asleep { host: n, is_so } => {
                    match is_so {
                        true => drop(world.powers.asleep.insert(host(n), true)),
                        false => drop(world.powers.asleep.remove(&host(n))),
                    }
                }
                Event::MaySleep { host: n, is_so } => {
                    match is_so {
                        true => drop(world.powers.may_sleep.insert(host(n))),
                        false => drop(world.powers.may_sleep.remove(&host(n))),
                    }
                }
                Event::Uses { job, cpu_millis } => match cpu_millis {
                    Some(cpu_millis) => {
                        let known = VmUse { cpu_millis, watched_ms: 60_000 };
                        world.used.vms.insert(id(job), known);
                    }
                    None => {
                        world.used.vms.remove(&id(job));
                    }
                },
                Event::Measured { host: n, others } => match others {
                    Some(others_cpu_millis) => {
                        let known = HostUse { cpus: 8, others_cpu_millis };
                        world.used.hosts.insert(host(n), known);
                    }
                    None => {
                        world.used.hosts.remove(&host(n));
                    }
                },
                Event::Look => {
                    world.look(n as u64 * WHOLE_MS);
                    let kept: BTreeMap<Key, Verdict> = world
                        .upkeep
                        .judged
                        .iter()
                        .map(|(key, judged)| (key.clone(), judged.verdict.clone()))
                        .collect();
                    prop_assert_eq!(kept, anew(&world));
                    for status in world.upkeep.statuses(0, false) {
                        for one in status.expectations {
                            prop_assert_eq!(&one.surplus, &surplus_anew(&world, &one.expectation));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_look_at_an_unchanged_world_judges_nothing() {
    let mut world = labelled(3);
    world.look(0);
    let (changed, is_change) = world.upkeep.index.update(
        &world.view.clone(),
        &world.heard.clone(),
        &world.members.clone(),
    );
    assert_eq!((changed.len(), is_change), (0, false));
    // A change that nobody reads of is none either.
    world.put_job(
        3,
        Job { spec: Arc::clone(&row(9, JobState::Running).spec), ..row(9, JobState::Running) },
    );
    let (changed, is_change) = world.upkeep.index.update(
        &world.view.clone(),
        &world.heard.clone(),
        &world.members.clone(),
    );
    assert_eq!((changed.len(), is_change), (0, true));
}
