//! From bare hosts to a VM that has moved, by commands alone.

use std::time::Duration;

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
    let events = operator.follow(&["events", "--follow", "--json"]);
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
    events.line_with("\"stopped\"", Duration::from_secs(10));
    tells_in_order(&operator, &["running", "migrating_in", "migrating_out", "stopped"]);
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
        let line = console.line_with(" count=", Duration::from_secs(60));
        let number = line.rsplit('=').next().and_then(|n| n.trim().parse().ok());
        if let Some(number) = number.filter(|n| *n >= least) {
            return number;
        }
    }
}

/// Checks that the hosts remember these states of some VM, each first seen after the one before.
fn tells_in_order(operator: &Operator, states: &[&str]) {
    let told = operator.must(&["events", "--json"]);
    let mut at = 0;
    for state in states {
        let word = format!("\"state\":\"{state}\"");
        let found = told.match_indices(&word).find(|(place, _)| *place >= at);
        let place = found.unwrap_or_else(|| panic!("no {word} after byte {at} of {told}")).0;
        at = place;
    }
}
