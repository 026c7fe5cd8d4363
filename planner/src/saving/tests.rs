//! What a host's sleep is judged by, beside the stories in `tests/stories/saving.story`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::case::view_of;
use crate::intent::problems;
use crate::steps::Blocker;

const GIB: u64 = 1 << 30;

/// Hosts of 8 GiB, each with VMs of so many GiB, all of which can be switched.
fn input(vms: &[(&str, &[u64])]) -> PlanInput {
    let mut hosts = serde_json::Map::new();
    for (host, sizes) in vms {
        let jobs: Vec<Value> = (0..)
            .zip(*sizes)
            .map(|(n, gib)| {
                json!({
                    "id": format!("{host}-{n}"), "state": "running",
                    "spec": { "vm": { "vcpus": 1, "memory_bytes": gib * GIB } },
                })
            })
            .collect();
        let capacity = json!({ "vcpus": 16, "memory_bytes": 8 * GIB, "disk_bytes": GIB });
        hosts.insert((*host).to_owned(), json!({ "host": { "capacity": capacity }, "jobs": jobs }));
    }
    let (view, _) = view_of(Value::Object(hosts)).unwrap();
    let may_sleep = view.hosts().map(|(host, _)| host.clone()).collect();
    PlanInput { view, may_sleep, ..PlanInput::default() }
}

fn id(host: &str) -> HostId {
    HostId::new(host).unwrap()
}

fn rule(value: Value) -> Clause {
    let mut clause = json!({ "expect": "power_saving" });
    clause.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
    serde_json::from_value(clause).unwrap()
}

#[test]
fn a_host_is_put_to_sleep_only_while_nothing_is_alive_there_and_to_wake_takes_it_back() {
    let input = input(&[("h1", &[]), ("h2", &[1])]);
    let state = State::new(&input);
    let step = Step::SleepHost(SleepHost::of(&id("h2")));
    assert!(matches!(step.check(&state), Err(Blocker::WrongState { .. })));
    let step = Step::SleepHost(SleepHost::of(&id("h1")));
    assert_eq!(step.check(&state), Ok(()));
    let after = step.apply(&state);
    assert_eq!(after.intent(&id("h1")), Some(Intent::Asleep));
    assert!(step.check(&after).is_err(), "it sleeps");
    assert_eq!(problems(&after), [], "that is as somebody wants it");
    let back = step.inverse(&state).unwrap();
    assert_eq!(back.to_string(), "wake h1");
    assert_eq!(back.check(&after), Ok(()));
    assert_eq!(back.apply(&after).intent(&id("h1")), None);
    assert_eq!(back.apply(&after).heard(&id("h1")).freshness, Freshness::Fresh);
}

#[test]
fn a_host_stays_on_that_is_drained_lost_or_that_nobody_can_switch() {
    let step = Step::SleepHost(SleepHost::of(&id("h1")));
    let all = input(&[("h1", &[])]);
    assert_eq!(step.check(&State::new(&all)), Ok(()));
    let none = PlanInput { may_sleep: Default::default(), ..all.clone() };
    assert_eq!(step.check(&State::new(&none)), Err(Blocker::StaysOn));
    for intent in [Intent::Drain, Intent::Retire, Intent::Off, Intent::Asleep] {
        let intents = BTreeMap::from([(id("h1"), intent)]);
        let input = PlanInput { intents, ..all.clone() };
        assert!(step.check(&State::new(&input)).is_err(), "{intent:?}");
    }
    let heard = |freshness| {
        let heard = BTreeMap::from([(id("h1"), crate::Heard { freshness, age_ms: 1 })]);
        PlanInput { heard, ..all.clone() }
    };
    assert!(step.check(&State::new(&heard(Freshness::Lost))).is_err());
    assert_eq!(step.check(&State::new(&heard(Freshness::Stale))), Ok(()), "late for a moment");
}

#[test]
fn of_two_that_were_drained_at_once_each_is_needed() {
    let mut input = input(&[("h1", &[5]), ("h2", &[1]), ("h3", &[]), ("h4", &[])]);
    input.clauses = vec![rule(json!({}))];
    input.intents = BTreeMap::from([(id("h3"), Intent::Drain)]);
    assert_eq!(is_needed(&input, &id("h3")), None);
    input.intents.insert(id("h4"), Intent::Drain);
    assert_eq!(is_needed(&input, &id("h3")), None, "h2 has room for what h1 has");
    input.clauses = vec![rule(json!({ "awake_min": 3 }))];
    let why = is_needed(&input, &id("h3")).unwrap();
    assert!(why.contains("2 hosts are awake, and 3 are to be"), "{why}");
    input.clauses = vec![rule(json!({ "awake_min": 3, "labels": { "rack": "b" } }))];
    assert_eq!(is_needed(&input, &id("h3")), None, "that is not about it");
}

#[test]
fn few_moves_count_as_few_bytes_do_and_a_vm_goes_where_the_least_is_left() {
    let mut input = input(&[("h1", &[4]), ("h2", &[1, 1]), ("h3", &[3]), ("h4", &[5])]);
    input.clauses = vec![rule(json!({}))];
    input.limits.savings_max = 1;
    let steps: Vec<String> =
        crate::plan(&input).plan.steps.iter().map(ToString::to_string).collect();
    assert_eq!(steps, ["move h3-0 from h3 to h4", "put h3 to sleep"]);
}

#[test]
fn a_run_puts_to_sleep_what_can_be_emptied_and_says_why_not() {
    let said = |outcome: &Outcome| outcome.report.to_string();
    let input = input(&[("h1", &[5]), ("h2", &[2, 2]), ("h3", &[])]);
    let outcome = put_to_sleep(&input, &id("h2"));
    let steps: Vec<String> = outcome.plan.steps.iter().map(ToString::to_string).collect();
    let moves = ["move h2-0 from h2 to h3", "move h2-1 from h2 to h3"];
    assert_eq!(steps, [&moves[..], &["put h2 to sleep"]].concat());
    let asleep = BTreeMap::from([(id("h3"), Intent::Asleep)]);
    let full = PlanInput { intents: asleep, ..input.clone() };
    let outcome = put_to_sleep(&full, &id("h1"));
    assert_eq!(outcome.plan.steps, []);
    assert!(said(&outcome).contains("stays as it is"), "{}", said(&outcome));
    assert_eq!(put_to_sleep(&full, &id("h3")), Outcome::default(), "it is so already");
    assert_eq!(wake(&full, &id("h3")).plan.steps.len(), 1);
    assert_eq!(wake(&full, &id("h2")), Outcome::default(), "it is so already");
    let kept = PlanInput { kept_asleep: [id("h3")].into(), ..full };
    assert!(said(&wake(&kept, &id("h3"))).contains("stays as it is"));
}
