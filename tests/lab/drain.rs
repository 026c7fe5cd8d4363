//! A host is emptied for maintenance while its guests run on, and taken into use again.

use std::process::Child;
use std::time::Duration;

use serde_json::Value;
use tests::counter::count;
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn lab_a_host_is_drained_while_its_guests_run_on_and_the_controller_is_killed() {
    let Some(lab) = Lab::up("lab_a_host_is_drained", 3) else { return };
    let mut operator = Operator::new();
    operator.make_cluster(&lab);
    for name in ["web-1", "web-2"] {
        run_on(&operator, name, "h1");
    }
    let counted = ["web-1", "web-2"].map(|name| count(&operator, name));

    let plan = operator.json(&["drain", "h1", "--dry-run"]);
    assert_eq!(plan["steps"].as_array().map(Vec::len), Some(2), "{plan}");
    assert_eq!(intent(&operator, "h1"), Value::Null, "a dry run changes nothing");

    let drain = operator.begin(&["drain", "h1", "--timeout", "2m"]);
    until("a guest to be on its way", LIMIT, || {
        let states: Vec<_> = ["web-1", "web-2"].iter().flat_map(|n| operator.ps(n)).collect();
        is(states.iter().any(|(state, _)| state == "migrating_out"), states)
    });
    let (host, pid) = operator.service(&lab, "controller");
    let killed = lab.exec(&host, &["kill", "-9", &pid]);
    assert!(killed.status.success(), "{killed:?}");
    let said = end_of(drain);
    assert!(said.contains("h1 is drained"), "{said}");

    assert_eq!(intent(&operator, "h1"), "drain");
    assert!(operator.must(&["hosts"]).contains("fresh, drained"));
    until("h1 to have let go of them", LIMIT, || {
        let left = lab.virsh_domains("h1");
        is(left.is_empty(), left)
    });
    for (name, counted) in ["web-1", "web-2"].into_iter().zip(counted) {
        let host = operator.await_state(name, "running");
        assert_ne!(host, "h1");
        assert_eq!(lab.virsh_state(&host, name), "running");
        let now = count(&operator, name);
        assert!(now > counted, "the counter of {name} went from {counted} to {now}: restarted");
    }

    operator.must(&["run", "--name", "web-3", "--memory", "64MiB"]);
    assert_ne!(operator.await_state("web-3", "running"), "h1");
    let refused = operator.run(&["run", "--name", "web-4", "--memory", "64MiB", "--on", "h1"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("drained"), "{said}");

    operator.must(&["undrain", "h1"]);
    until("every view to show that it is drained no more", LIMIT, || {
        let words = ["run", "guest", "--memory", "128MiB", "--on", "h1", "--name", "web-5"];
        let output = operator.run(&words);
        is(output.status.success(), output)
    });
    assert_eq!(operator.await_state("web-5", "running"), "h1");
    assert!(operator.must(&["hosts"]).lines().all(|line| !line.contains("drain")));

    // What cannot leave is named with the reason, and leaves by itself once it can.
    operator.must(&["pause", "web-5"]);
    let stuck = operator.run(&["drain", "h1"]);
    let said = String::from_utf8_lossy(&[stuck.stdout, stuck.stderr].concat()).into_owned();
    assert_eq!(stuck.status.code(), Some(1), "{said}");
    assert!(said.contains("web-5 cannot leave") && said.contains("must be running"), "{said}");
    operator.must(&["resume", "web-5"]);
    until("web-5 to have left", LIMIT, || {
        let rows = operator.ps("web-5");
        is(rows.iter().any(|(state, host)| state == "running" && host != "h1"), rows)
    });
}

fn run_on(operator: &Operator, name: &str, host: &str) {
    let image = ["run", "--image", "guest", "--memory", "128MiB", "--on", host, "--name", name];
    operator.must(&image);
    assert_eq!(operator.await_state(name, "running"), host);
}

fn intent(operator: &Operator, name: &str) -> Value {
    let shown = operator.json(&["hosts"]);
    let rows = shown["hosts"].as_array().cloned().unwrap_or_default();
    let row = rows.into_iter().find(|row| row["host"]["name"] == name);
    row.map_or(Value::Null, |row| row["host"]["intent"].clone())
}

fn end_of(command: Child) -> String {
    let output = command.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{}: {said}", output.status);
    said
}
