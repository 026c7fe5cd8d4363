//! VMs that hold each other's places change them while they run on, one of them over a third host; and where none can
//! step aside they stay, and the operator is told what would do.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tests::counter::{count, counting, first_count};
use tests::lab::Lab;
use tests::operator::{Operator, assert_refused};
use tests::wait::{is, until};

const LIMIT: Duration = Duration::from_secs(180);

/// What a host has for guests in all: one of them fits.
const MEMORY: &str = "200MiB";

/// Starts a host's agent anew, with this much memory for guests, in this rack.
fn furnish(lab: &Lab, operator: &Operator, url: &str, host: &str, memory: &str, rack: &str) {
    lab.must(&["stop", host, "agent"]);
    let label = format!("rack={rack}");
    lab.start_agent_with(host, url, &["--memory", memory, "--label", &label]);
    until(&format!("{host} to be in rack {rack}"), LIMIT, || {
        let shown = operator.json(&["hosts"]);
        let rows = shown["hosts"].as_array().cloned().unwrap_or_default();
        let row = rows.into_iter().find(|row| row["host"]["name"] == host).unwrap_or_default();
        let is_so = row["host"]["labels"]["rack"] == rack;
        is(is_so && row["freshness"] == "fresh", row)
    });
}

fn standings(operator: &Operator) -> Vec<Value> {
    let shown = operator.json(&["expectations", "racks"]);
    shown["sets"][0]["expectations"].as_array().cloned().unwrap_or_default()
}

#[test]
fn lab_two_guests_that_hold_each_others_places_change_them_while_they_run_on() {
    let Some(lab) = Lab::up("lab_two_guests_change_places", 3) else { return };
    let mut operator = Operator::new();
    let url = operator.make_cluster(&lab);
    furnish(&lab, &operator, &url, "h1", MEMORY, "a");
    furnish(&lab, &operator, &url, "h2", MEMORY, "b");
    // Nobody can step aside to where nothing fits.
    furnish(&lab, &operator, &url, "h3", "64MiB", "c");
    let guests = [("web-1", "h1"), ("web-2", "h2")];
    for (name, host) in guests {
        let image = ["run", "--image", "guest", "--memory", "128MiB", "--on", host, "--name", name];
        operator.must(&image);
        assert_eq!(operator.await_state(name, "running"), host);
    }
    let counted = guests.map(|(name, _)| counting(&operator, name));

    let files = tempfile::tempdir().expect("a temporary folder");
    let path: PathBuf = files.path().join("racks.json");
    let in_rack = |job: &str, rack: &str| json!({ "expect": "host_label", "job": job, "key": "rack", "value": rack });
    let rules = json!({ "expectations": [in_rack("web-1", "b"), in_rack("web-2", "a")] });
    std::fs::write(&path, rules.to_string()).expect("it can be written");
    operator.must(&["expect", &path.display().to_string()]);
    let (told, _) = until("both to be unmet, with what would do", LIMIT, || {
        let found = standings(&operator);
        let is_told = |rule: &Value| rule["standing"] == "unmet" && rule["report"].is_object();
        if found.len() == 2 && found.iter().all(is_told) { Ok(found) } else { Err(found) }
    });
    let words = serde_json::to_string(&told).expect("it is JSON");
    assert!(words.contains("h3"), "{words}");
    println!("told while nobody can step aside: {}", told[0]["why"]);
    for (name, host) in guests {
        assert_eq!(operator.ps(name), [("running".to_owned(), host.to_owned())]);
    }

    // A third host has room now.
    furnish(&lab, &operator, &url, "h3", MEMORY, "c");
    let (_, took) = until("both to be where they are wanted", LIMIT, || {
        let at = ["web-1", "web-2"].map(|name| operator.ps(name));
        let wanted = ["h2", "h1"].map(|host| vec![("running".to_owned(), host.to_owned())]);
        is(at == wanted, at)
    });
    println!("they have changed places {took:?} after there was room to step aside");
    for ((name, host), counted) in [("web-1", "h2"), ("web-2", "h1")].into_iter().zip(counted) {
        assert_eq!(lab.virsh_state(host, name), "running");
        let first = first_count(&operator, name);
        assert!(first >= counted, "{name} counted to {counted} and then {first}: restarted");
        assert!(count(&operator, name) > counted);
    }
    until("both to be met", LIMIT, || {
        let found = standings(&operator);
        is(found.len() == 2 && found.iter().all(|rule| rule["standing"] == "met"), found)
    });
    operator.await_no_run();

    // Three moves, one of them for another's sake, and nothing more.
    let runs = operator.json(&["runs"])["runs"].as_array().cloned().unwrap_or_default();
    let moves: Vec<&Value> = runs.iter().filter(|run| run["want"]["want"] == "migrate").collect();
    assert_eq!(moves.len(), 3, "{moves:#?}");
    assert!(moves.iter().all(|run| run["state"] == "succeeded"), "{moves:#?}");
    let whys: Vec<&str> = moves.iter().filter_map(|run| run["because"].as_str()).collect();
    assert!(whys.iter().any(|why| why.contains("so that web-")), "{moves:#?}");
}

#[test]
fn lab_who_is_kept_on_a_host_steps_aside_to_come_there_and_what_only_should_be_waits() {
    let Some(lab) = Lab::up("lab_who_is_kept_on_a_host", 3) else { return };
    let mut operator = Operator::new();
    let url = operator.make_bare_cluster(&lab);
    for (host, rack) in [("h1", "a"), ("h2", "b"), ("h3", "c")] {
        furnish(&lab, &operator, &url, host, MEMORY, rack);
    }
    for (name, host, memory) in [("x", "h1", "64MiB"), ("y", "h2", "192MiB"), ("z", "h3", "64MiB")]
    {
        operator.must(&["run", "--name", name, "--on", host, "--memory", memory]);
        assert_eq!(operator.await_state(name, "running"), host);
    }
    let at = || ["x", "y", "z"].map(|name| operator.ps(name));
    let all_on = |hosts: [&str; 3]| hosts.map(|host| vec![("running".to_owned(), host.to_owned())]);

    let files = tempfile::tempdir().expect("a temporary folder");
    let expect = |name: &str, rules: Value| {
        let path: PathBuf = files.path().join(format!("{name}.json"));
        let text = json!({ "expectations": rules }).to_string();
        std::fs::write(&path, text).expect("it can be written");
        operator.must(&["expect", &path.display().to_string()]);
    };
    let apart = json!({ "expect": "not_same_host", "level": "should", "jobs": ["x", "z"] });
    expect("apart", json!([apart, { "expect": "no_migration", "job": "z" }]));
    // Who asks for it by name has nobody moved twice.
    let refused =
        operator.run(&["run", "--name", "x", "--memory", "64MiB", "--on", "h2", "--make-room"]);
    assert_refused(&refused, &["64MiB of memory"]);
    assert_eq!(at(), all_on(["h1", "h2", "h3"]));

    expect("racks", json!([{ "expect": "runs_on", "job": "x", "on": "h2" }]));
    let (_, took) = until("x and y to have changed places", LIMIT, || {
        let at = at();
        is(at == all_on(["h2", "h1", "h3"]), at)
    });
    println!("they have changed places after {took:?}");
    until("it to be met", LIMIT, || {
        let found = standings(&operator);
        is(found.iter().all(|rule| rule["standing"] == "met"), found)
    });
    operator.await_no_run();
    let runs = operator.json(&["runs"])["runs"].as_array().cloned().unwrap_or_default();
    let moves: Vec<&Value> = runs.iter().filter(|run| run["want"]["want"] == "migrate").collect();
    assert_eq!(moves.len(), 3, "{moves:#?}");
    assert!(moves.iter().all(|run| run["state"] == "succeeded"), "{moves:#?}");
}
