//! Guests that crowd on one host are spread over all of them while they run on: told first, then kept, then by hand.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::counter::{count, counting, first_count};
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

const LIMIT: Duration = Duration::from_secs(120);

/// How long nothing must move where nothing should: longer than the rest between two moves.
const STILL: Duration = Duration::from_secs(15);

#[test]
fn lab_crowded_guests_are_spread_while_they_run_on_and_the_next_one_moves_nobody() {
    let Some(lab) = Lab::up("lab_crowded_guests_are_spread", 3) else { return };
    let mut operator = Operator::new();
    let files = tempfile::tempdir().expect("a temporary folder");
    let url = operator.make_cluster(&lab);
    for host in ["h1", "h2", "h3"] {
        lab.must(&["stop", host, "agent"]);
        lab.start_agent_with(host, &url, &["--memory", "640MiB"]);
    }
    until("all hosts to say what they have", LIMIT, || {
        let shown = operator.json(&["hosts"]);
        let rows = shown["hosts"].as_array().cloned().unwrap_or_default();
        let is_so = |row: &Value| {
            row["host"]["capacity"]["memory_bytes"] == 640 << 20 && row["freshness"] == "fresh"
        };
        is(rows.len() == 3 && rows.iter().all(is_so), shown)
    });
    let names = ["web-1", "web-2", "web-3"];
    for name in names {
        run_on(&operator, name, "h1");
    }
    let counted = names.map(|name| counting(&operator, name));
    let keep = |name: &str, expectations: &Value| {
        let path: PathBuf = files.path().join(format!("{name}.json"));
        let text = json!({ "expectations": expectations }).to_string();
        std::fs::write(&path, text).expect("it can be written");
        operator.must(&["expect", &path.display().to_string()]);
    };

    // Two of the three would move, and with leave to move only the others, the others.
    let plan = operator.json(&["rebalance", "--dry-run", "--within", "30"]);
    assert_eq!(moved_by(&plan), ["web-1", "web-2"], "{plan}");
    keep("stays", &json!([{ "expect": "no_migration", "job": "web-1" }]));
    let told = operator.must(&["rebalance", "--dry-run", "--within", "30"]);
    assert!(told.contains("move web-2 from h1 to h"), "{told}");
    assert!(told.contains("as h1 is 60% full and h"), "{told}");
    assert!(told.contains("about 2 s"), "{told}");
    assert!(!told.contains("move web-1"), "{told}");
    keep("even", &json!([{ "expect": "balanced", "within_percent": 30 }]));
    until("it to be told what would move", LIMIT, || {
        let found = standing(&operator);
        is(found["why"].as_str().unwrap_or_default().contains("move web-2"), found)
    });
    assert_eq!(moves(&operator), Vec::<Value>::new(), "all of this moves nobody");

    let rule = json!({ "expect": "balanced", "within_percent": 30, "moves_per_hour": 360 });
    keep("even", &json!([rule]));
    until("one guest on each host", LIMIT, || {
        let at: Vec<_> = names.iter().flat_map(|name| operator.ps(name)).collect();
        let hosts: std::collections::BTreeSet<_> = at.iter().map(|(_, host)| host).collect();
        is(hosts.len() == 3 && at.iter().all(|(state, _)| state == "running"), at.clone())
    });
    assert_eq!(operator.ps("web-1"), [("running".to_owned(), "h1".to_owned())]);
    assert_eq!(lab.virsh_state("h1", "web-1"), "running");
    assert!(count(&operator, "web-1") > counted[0]);
    for (name, counted) in ["web-2", "web-3"].into_iter().zip(&counted[1..]) {
        let first = first_count(&operator, name);
        assert!(first >= *counted, "{name} counted to {counted} and then {first}: restarted");
    }
    operator.await_no_run();
    let done = moves(&operator);
    assert_eq!(done.len(), 2, "{done:#?}");
    for run in &done {
        let because = run["because"].as_str().unwrap_or_default();
        assert!(run["state"] == "succeeded" && because.contains("full"), "{run:#?}");
    }
    until("it to be met", LIMIT, || {
        let found = standing(&operator);
        let note = found["note"].as_str().unwrap_or_default();
        is(found["standing"] == "met" && note.contains("points apart"), found.clone())
    });

    // What is tolerated moves nobody.
    run_on(&operator, "web-4", "h1");
    let looked = Instant::now();
    until("some time to have passed", 2 * STILL, || {
        assert_eq!(moves(&operator).len(), 2);
        is(looked.elapsed() > STILL, looked.elapsed())
    });

    // By hand, and where no move helps.
    operator.must(&["unexpect", "even"]);
    let refused = operator.run(&["rebalance", "--within", "10"]);
    let said = String::from_utf8_lossy(&[refused.stdout, refused.stderr].concat()).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("no move helps") && said.contains("as full as h1 is"), "{said}");
    run_on(&operator, "web-5", "h1");
    let counted = counting(&operator, "web-4");
    let said = operator.must(&["rebalance", "--within", "30"]);
    assert!(said.contains("move web-4 from h1"), "{said}");
    let rows = operator.ps("web-4");
    assert!(rows.iter().all(|(state, host)| state == "running" && host != "h1"), "{rows:?}");
    let first = first_count(&operator, "web-4");
    assert!(first >= counted, "web-4 counted to {counted} and then {first}: restarted");
    assert_eq!(moves(&operator).len(), 3);
}

fn run_on(operator: &Operator, name: &str, host: &str) {
    let image = ["run", "--image", "guest", "--memory", "128MiB", "--on", host, "--name", name];
    operator.must(&image);
    assert_eq!(operator.await_state(name, "running"), host);
}

fn standing(operator: &Operator) -> Value {
    operator.json(&["expectations", "even"])["sets"][0]["expectations"][0].clone()
}

fn moves(operator: &Operator) -> Vec<Value> {
    let runs = operator.json(&["runs"])["runs"].as_array().cloned().unwrap_or_default();
    runs.into_iter().filter(|run| run["want"]["want"] == "migrate").collect()
}

fn moved_by(plan: &Value) -> Vec<String> {
    let shifts = plan["shifts"].as_array().cloned().unwrap_or_default();
    shifts.iter().map(|shift| shift["job"].as_str().unwrap_or_default().to_owned()).collect()
}
