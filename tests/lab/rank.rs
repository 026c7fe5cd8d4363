//! What matters more, on real hosts: it has the room of what has agreed to make way, and of VMs that lost their host
//! it is started first.

use std::time::Duration;

use serde_json::{Value, json};
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

const LIMIT: Duration = Duration::from_secs(60);

/// Hosts of 512 MiB each.
fn small_hosts(lab: &Lab, operator: &mut Operator) -> String {
    let url = operator.make_bare_cluster(lab);
    for host in lab.hosts() {
        lab.must(&["stop", &host, "agent"]);
        lab.start_agent_with(&host, &url, &["--memory", "512MiB"]);
    }
    until("all hosts to say what they have", LIMIT, || {
        let shown = operator.json(&["hosts"]);
        let rows = shown["hosts"].as_array().cloned().unwrap_or_default();
        let is_so = |row: &Value| {
            row["host"]["capacity"]["memory_bytes"] == 512 << 20 && row["freshness"] == "fresh"
        };
        is(rows.len() == lab.hosts().len() && rows.iter().all(is_so), shown)
    });
    url
}

fn run(operator: &Operator, name: &str, mib: u32, more: &[&str]) {
    let memory = format!("{mib}MiB");
    operator.must(&[&["run", "--name", name, "--memory", &memory][..], more].concat());
}

fn guest(lab: &Lab, host: &str, name: &str) -> String {
    let found = lab.exec(host, &["cat", &format!("/run/libvirt/qemu/{name}.pid")]);
    String::from_utf8_lossy(&found.stdout).trim().to_owned()
}

fn reason(operator: &Operator, name: &str) -> Value {
    let rows = operator.json(&["ps", "--all"]);
    let rows = rows["jobs"].as_array().cloned().unwrap_or_default();
    let row = rows.into_iter().find(|row| row["job"]["id"] == name);
    row.map(|row| row["job"]["lets"].clone()).unwrap_or_default()
}

#[test]
fn lab_what_is_preemptible_makes_way_for_what_matters_more_and_for_nothing_else() {
    let Some(lab) = Lab::up("lab_what_is_preemptible_makes_way", 2) else { return };
    let mut operator = Operator::new();
    small_hosts(&lab, &mut operator);
    run(&operator, "batch", 400, &["--on", "h1", "--priority", "10", "--preemptible"]);
    run(&operator, "db", 400, &["--on", "h2"]);

    // What matters as much, or less, waits.
    let low = ["run", "--name", "low", "--memory", "300MiB", "--priority", "10"];
    let refused = operator.run(&low);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert_eq!(lab.virsh_state("h1", "batch"), "running");

    // Whoever cannot start in its place gives it back.
    let bad = ["run", "--name", "bad", "--memory", "300MiB", "--cpu", "nonesuch"];
    let refused = operator.run(&bad);
    let told = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{told}");
    assert!(told.contains("stop batch on h1 so that bad fits: undone"), "{told}");
    assert_eq!(lab.virsh_state("h1", "batch"), "running");
    operator.await_no_run();

    // Until somebody says otherwise, which its guest does not notice.
    let pid = guest(&lab, "h1", "batch");
    operator.must(&["rank", "batch", "--not-preemptible"]);
    let web = ["run", "--name", "web", "--memory", "300MiB"];
    let refused = operator.run(&web);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    let told = operator.must(&["rank", "batch", "--preemptible"]);
    assert!(told.contains("priority 10"), "{told}");
    assert_eq!(guest(&lab, "h1", "batch"), pid);

    let told = operator.must(&web);
    assert!(told.contains("stop batch on h1 so that web fits: done"), "{told}");
    assert_eq!(lab.virsh_state("h1", "web"), "running");
    assert_eq!(lab.virsh_state("h1", "batch"), "shut off");
    assert_eq!(lab.virsh_state("h2", "db"), "running", "nobody has asked it to make way");
    assert_eq!(reason(&operator, "batch"), "web");
    assert!(operator.must(&["ps", "--all"]).contains("made room for web"));

    // Kept, it comes back as soon as there is room.
    let file = operator.context().with_extension("batch.json");
    let expected = json!({ "expectations": [{ "expect": "runs", "job": "batch" }] });
    std::fs::write(&file, expected.to_string()).expect("a file for the expectation");
    operator.must(&["expect", &file.display().to_string(), "--name", "batch"]);
    until("what is kept to be looked at", LIMIT, || {
        let told = operator.json(&["expectations", "batch"]);
        is(told.to_string().contains("made room for web"), told)
    });
    assert_eq!(lab.virsh_state("h1", "batch"), "shut off");
    operator.must(&["rm", "web", "--force"]);
    assert_eq!(operator.await_state("batch", "running"), "h1");
}

#[test]
fn lab_of_vms_that_lost_their_host_what_matters_most_runs_again() {
    let Some(lab) = Lab::up("lab_of_vms_that_lost_their_host", 3) else { return };
    let mut operator = Operator::new();
    small_hosts(&lab, &mut operator);
    let busy = ["arbiter", "monitor", "controller"].map(|role| operator.service(&lab, role).0);
    let lost = lab.hosts().into_iter().find(|host| !busy.contains(host)).expect("one has no role");
    let others: Vec<String> = lab.hosts().into_iter().filter(|host| *host != lost).collect();
    let (first, second) = (others[0].as_str(), others[1].as_str());
    run(&operator, "batch", 300, &["--on", first, "--priority", "10", "--preemptible"]);
    run(&operator, "fix", 150, &["--on", first]);
    run(&operator, "db", 400, &["--on", second]);
    for (name, mib, priority) in [("a-low", 200, "20"), ("z-high", 300, "80")] {
        let rank = ["--on", &lost, "--priority", priority, "--on-loss", "stop"];
        run(&operator, name, mib, &rank);
    }

    lab.must(&["cut", &lost]);
    let (_, took) = until("what matters most to run elsewhere", LIMIT, || {
        let states = [first, second].map(|host| lab.virsh_state(host, "z-high"));
        is(states.iter().any(|state| state == "running"), states)
    });
    println!("z-high runs {took:?} after its host was cut off, in the room of batch");
    assert_eq!(lab.virsh_state(first, "z-high"), "running");
    assert_eq!(lab.virsh_state(first, "batch"), "shut off");
    assert_eq!(lab.virsh_state(first, "fix"), "running");
    assert_eq!(reason(&operator, "batch"), "z-high");
    for host in [first, second] {
        assert_ne!(lab.virsh_state(host, "a-low"), "running", "there is no room for it");
    }

    // What is left waits for room, and takes it by itself.
    operator.must(&["stop", "db", "--force"]);
    until("the other one to run as well", 2 * LIMIT, || {
        let state = lab.virsh_state(second, "a-low");
        is(state == "running", state)
    });
}
