//! From bare hosts to a VM that has moved, by commands alone.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tests::lab::Lab;
use tests::operator::{Following, Operator};
use tests::wait::{is, until};

#[test]
fn lab_the_walk_from_bare_hosts_to_a_moved_vm() {
    let Some(lab) = Lab::up("lab_the_walk_from_bare_hosts_to_a_moved_vm", 3) else { return };
    let mut operator = Operator::new();
    let url = operator.discover(&lab.operator_address());
    for host in lab.hosts() {
        lab.start_agent(&host, &url);
    }

    let first = operator.must(&["bootstrap", "--discovery", &url, "-n", "3", "--json"]);
    assert!(first.lines().count() > 5, "each step is told: {first}");
    let before = operator.json(&["trust", "show"]);
    let again = operator.must(&["bootstrap", "--discovery", &url, "-n", "3", "--json"]);
    assert_eq!(operator.json(&["trust", "show"]), before, "a second run changes nothing: {again}");

    operator.import_guest();
    let ids = host_ids(&operator);
    let events = operator.follow(&["events", "--follow", "--json"]);
    events.note_with("following", Duration::from_secs(10));
    let run = ["run", "--image", "guest", "--name", "web-1", "--vcpus", "1", "--memory", "128MiB"];
    operator.must(&run);
    let source = operator.await_state("web-1", "running");
    assert_eq!(lab.virsh_state(&source, "web-1"), "running");
    assert_eq!(domains(&lab, "web-1"), [source.as_str()]);
    assert_eq!(operator.json(&["inspect", "web-1"])["jobs"][0]["job"]["state"], "running");
    assert_eq!(operator.json(&["hosts"])["hosts"].as_array().map(Vec::len), Some(3));
    operator.must(&run);
    assert_eq!(domains(&lab, "web-1").len(), 1, "running it twice is running it once");

    let counted = counter(&operator.follow(&["console", "web-1", "--no-input"]), 3);
    let target = lab.hosts().into_iter().find(|host| *host != source).expect("another host");
    operator.must(&["migrate", "web-1", &target]);
    assert_eq!(operator.await_state("web-1", "running"), target);
    assert_eq!(lab.virsh_state(&target, "web-1"), "running");
    until("the source to have let go of it", Duration::from_secs(10), || {
        let left = lab.virsh_domains(&source);
        is(left.is_empty(), left)
    });
    let after = counter(&operator.follow(&["console", "web-1", "--no-input"]), 1);
    assert!(after > counted, "the counter went from {counted} to {after}: the guest was restarted");

    operator.must(&["stop", "web-1"]);
    until("virsh to agree that it is off", Duration::from_secs(10), || {
        let state = lab.virsh_state(&target, "web-1");
        is(state == "shut off", state)
    });
    // Each host tells in order what is there; of two hosts the one may be heard before the other.
    let at_source = ["accepted", "starting", "running", "migrating_out", "stopped"];
    let at_target = ["migrating_in", "running", "stopping", "stopped"];
    let told = [(ids[&source].clone(), &at_source[..]), (ids[&target].clone(), &at_target[..])];
    tell(&events, BTreeMap::from(told));
    operator.must(&["rm", "web-1"]);
    until("nothing to be left", Duration::from_secs(10), || {
        let left = domains(&lab, "web-1");
        is(left.is_empty(), left)
    });
}

/// Hosts whose virsh knows the domain.
fn domains(lab: &Lab, name: &str) -> Vec<String> {
    let knows = |host: &String| lab.virsh_domains(host).iter().any(|domain| domain == name);
    lab.hosts().into_iter().filter(knows).collect()
}

/// Waits until the guest's counter shows at least `least`; what it shows.
fn counter(console: &Following, least: u64) -> u64 {
    loop {
        let number = console.count();
        if number >= least {
            return number;
        }
    }
}

/// Checks that, somewhere after what was looked at before, this host tells this state of the VM.
fn tell(events: &Following, mut wanted: BTreeMap<String, &[&str]>) {
    while wanted.values().any(|states| !states.is_empty()) {
        let line = events.line_with("\"job_changed\"", Duration::from_secs(10));
        let event: Value = serde_json::from_str(&line).expect("events are JSON");
        let (host, job) = (event["host"].as_str().unwrap_or_default(), &event["fact"]["job"]);
        let Some(states) = wanted.get_mut(host) else { continue };
        if job["id"] == "web-1" && states.first().is_some_and(|next| job["state"] == *next) {
            *states = &states[1..];
        }
    }
}

/// Host ids by name.
fn host_ids(operator: &Operator) -> BTreeMap<String, String> {
    let shown = operator.json(&["hosts"]);
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = shown["hosts"].as_array().cloned().unwrap_or_default();
    rows.iter().map(|row| (word(&row["host"]["name"]), word(&row["host"]["id"]))).collect()
}
