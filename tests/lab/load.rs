//! Guests that keep the CPUs of one host busy are spread by what they use, while they run on; and what they have been promised, and
//! hosts that are about as busy, move nobody.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::lab::Lab;
use tests::operator::{Following, Operator};
use tests::wait::{is, until};

/// What is used is known after two rounds, must have been uneven for a while, and busy guests take their time.
const LIMIT: Duration = Duration::from_secs(240);

/// How long nothing must move where nothing should: longer than hosts must have been uneven before something does.
const STILL: Duration = Duration::from_secs(30);

#[test]
fn lab_a_busy_guest_leaves_a_busy_host_while_it_runs_on_and_idle_ones_stay() {
    let Some(lab) = Lab::up("lab_a_busy_guest_leaves", 2) else { return };
    let mut operator = Operator::new();
    let files = tempfile::tempdir().expect("a temporary folder");
    operator.make_cluster(&lab);
    let names = ["web-1", "web-2"];
    for name in names {
        let on = ["run", "--image", "guest", "--memory", "128MiB", "--on", "h1", "--name", name];
        operator.must(&on);
        assert_eq!(operator.await_state(name, "running"), "h1");
    }
    let mut consoles = names.map(|name| operator.follow_at_terminal(&["console", name]));
    for console in &consoles {
        console.line_with(" count=5", LIMIT);
    }

    // All that is promised is on one host, and nobody is busy.
    let path: PathBuf = files.path().join("even.json");
    let rule = json!({
        "expect": "balanced", "measure": "cpu", "within_percent": 20, "moves_per_hour": 60, "after_s": 20,
    });
    std::fs::write(&path, json!({ "expectations": [rule] }).to_string()).expect("it is written");
    operator.must(&["expect", &path.display().to_string()]);
    until("it to be known what guests use", LIMIT, || {
        let found = standing(&operator);
        let note = found["note"].as_str().unwrap_or_default();
        is(found["standing"] == "met" && note.contains("busy"), found.clone())
    });
    let looked = Instant::now();
    until("some time to have passed", 2 * STILL, || {
        assert_eq!(moves(&operator), Vec::<Value>::new(), "idle guests stay where they are");
        is(looked.elapsed() > STILL, looked.elapsed())
    });

    for console in &mut consoles {
        console.type_line("burn 1");
        console.line_with("burn 1 from now on", LIMIT);
    }
    let counted: Vec<u64> = consoles.iter().map(number).collect();
    let told = operator.run(&["plan"]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(!told.contains("is not known"), "{told}");
    until("one of them to be on the other host", LIMIT, || {
        let at: Vec<_> = names.iter().flat_map(|name| operator.ps(name)).collect();
        let is_there = |host: &str| {
            at.iter().filter(|(state, on)| state == "running" && on == host).count() == 1
        };
        is(at.len() == 2 && is_there("h1") && is_there("h2"), (at.clone(), standing(&operator)))
    });
    operator.await_no_run();
    let done = moves(&operator);
    let [run] = &done[..] else { panic!("one move was enough: {done:#?}") };
    let because = run["because"].as_str().unwrap_or_default();
    assert!(run["state"] == "succeeded" && because.contains("% busy and"), "{run:#?}");
    let moved = run["want"]["job"].as_str().expect("a job").to_owned();
    let at = names.iter().position(|name| *name == moved).expect("one of the two");
    let first = number(&operator.follow(&["console", &moved, "--no-input", "--tail", "65536"]));
    assert!(first >= counted[at], "{moved} counted to {}, then {first}: restarted", counted[at]);
    assert_eq!(lab.virsh_state("h2", &moved), "running");

    // Both hosts are as busy then, and both guests stay.
    until("it to be met", LIMIT, || {
        let found = standing(&operator);
        is(found["standing"] == "met", found.clone())
    });
    let looked = Instant::now();
    until("some time to have passed", 2 * STILL, || {
        assert_eq!(moves(&operator).len(), 1, "{:#}", standing(&operator));
        is(looked.elapsed() > STILL, looked.elapsed())
    });

    // By hand it is measured by two looks: nobody keeps it any more.
    operator.must(&["unexpect", "even"]);
    operator.must(&["migrate", &moved, "h1"]);
    assert_eq!(operator.ps(&moved), [("running".to_owned(), "h1".to_owned())]);
    let said = operator.must(&["rebalance", "--dry-run", "--measure", "cpu", "--within", "20"]);
    assert!(said.contains(" from h1 to h2") && said.contains("% busy and h2"), "{said}");
}

fn standing(operator: &Operator) -> Value {
    operator.json(&["expectations", "even"])["sets"][0]["expectations"][0].clone()
}

fn moves(operator: &Operator) -> Vec<Value> {
    let runs = operator.json(&["runs"])["runs"].as_array().cloned().unwrap_or_default();
    runs.into_iter().filter(|run| run["want"]["want"] == "migrate").collect()
}

fn number(console: &Following) -> u64 {
    loop {
        let line = console.line_with(" count=", LIMIT);
        if let Some(number) = line.rsplit('=').next().and_then(|n| n.trim().parse().ok()) {
            return number;
        }
    }
}
