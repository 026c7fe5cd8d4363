//! A guest that writes to its memory faster than that can be sent: the move goes on and says why, can be
//! cancelled, and ends once the guest may stand still for long enough.

use std::time::Duration;

use serde_json::Value;
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

const LIMIT: Duration = Duration::from_secs(60);

/// Of the guest's memory, in MiB, what changes all the time …
const WRITTEN_MIB: u64 = 24;
/// … and what may be sent of it in a second, so that the rest takes 0.75 s.
const BANDWIDTH_MIB: u64 = 32;

#[test]
fn lab_a_guest_that_writes_faster_than_can_be_sent_moves_once_it_may_stand_still() {
    let Some(lab) = Lab::up("lab_a_guest_that_writes_faster", 2) else { return };
    let mut operator = Operator::new();
    operator.make_cluster(&lab);
    operator
        .must(&["run", "--image", "guest", "--memory", "128MiB", "--on", "h1", "--name", "web-1"]);
    let mut console = operator.follow_at_terminal(&["console", "web-1"]);
    console.line_with(" count=", LIMIT);
    console.type_line(&format!("write {WRITTEN_MIB}"));
    console.line_with("again and again", LIMIT);
    let bandwidth = format!("{BANDWIDTH_MIB}MiB");

    let wrong = operator.run(&["migrate", "web-1", "h2", "--bandwidth", "1000B"]);
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(said.contains("at least 1MiB a second"), "{said}");

    // It may stand still for a tenth of a second, and its rest takes seven.
    let words = ["migrate", "web-1", "h2", "--bandwidth", &bandwidth, "--downtime", "100ms"];
    let moving = operator.begin(&words);
    let (memory, _) = until("the fifth pass over its memory", LIMIT, || {
        let memory = memory(&operator);
        let (pass, sent) = (memory["pass"].as_u64(), memory["sent_bytes_s"].as_u64());
        if pass >= Some(5) && sent > Some(0) { Ok(memory) } else { Err(memory) }
    });
    println!("it does not converge: {memory}");
    assert_eq!(memory["downtime_ms"], 100, "{memory}");
    let sent = memory["sent_bytes_s"].as_u64().unwrap_or(0) >> 20;
    assert!(sent <= BANDWIDTH_MIB * 5 / 4, "{sent} MiB/s are sent: {memory}");
    let runs = operator.json(&["runs"]);
    let run =
        runs["runs"].as_array().and_then(|runs| runs.iter().find(|run| run["state"] == "running"));
    let id = run.and_then(|run| run["id"].as_str()).expect("the move runs").to_owned();
    until("the run to say why", LIMIT, || {
        let shown = operator.json(&["runs", "show", &id]).to_string();
        is(shown.contains("pass ") && shown.contains("MiB a second"), shown)
    });
    operator.must(&["runs", "cancel", &id]);
    let ended = moving.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
    assert!(!ended.status.success(), "{said}");
    assert!(said.contains("cancelled"), "{said}");
    until("web-1 to have stayed", LIMIT, || {
        let rows = operator.ps("web-1");
        is(rows == [("running".to_owned(), "h1".to_owned())], rows)
    });
    assert_eq!(lab.virsh_state("h1", "web-1"), "running");

    // By itself it may stand still for a second: it needs three quarters.
    operator.must(&["migrate", "web-1", "h2", "--bandwidth", &bandwidth]);
    assert_eq!(lab.virsh_state("h2", "web-1"), "running");
    assert_eq!(lab.virsh_domains("h1"), Vec::<String>::new());
    let counting = operator.follow(&["console", "web-1", "--no-input"]);
    counting.line_with(" count=", LIMIT);

    // As fast as it goes, the rest is sent in no time.
    operator.must(&["migrate", "web-1", "h1", "--auto-converge"]);
    assert_eq!(lab.virsh_state("h1", "web-1"), "running");
}

/// How the sending of its memory goes, by the host that sends it.
fn memory(operator: &Operator) -> Value {
    let rows = operator.json(&["inspect", "web-1"]);
    let rows = rows["jobs"].as_array().cloned().unwrap_or_default();
    let of_row = |row: &Value| row["job"]["migration"]["memory"].clone();
    rows.iter().map(of_row).find(Value::is_object).unwrap_or_default()
}
