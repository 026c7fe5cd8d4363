//! Arbiters are replaced while VMs run, start and fail over, and recovered from when they are lost; judged
//! by their processes and `virsh`.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

const LIMIT: Duration = Duration::from_secs(90);

/// D of the trust document that `bootstrap` writes.
const TERM: Duration = Duration::from_secs(9);

/// A cluster of five hosts with three arbiters, and whatever else is needed on each of them.
fn cluster(lab: &Lab, operator: &mut Operator) -> String {
    let everywhere = ["--arbiters", "3", "--monitors", "5", "--controllers", "5"];
    operator.make_cluster_with(lab, &everywhere)
}

/// The arbiters by slot, with the name of the host, as `ostler arbiters` tells.
fn arbiters(operator: &Operator) -> Vec<(u64, String)> {
    let shown = operator.json(&["arbiters"]);
    let rows = shown["arbiters"].as_array().cloned().unwrap_or_default();
    let row = |row: &Value| {
        let host = row["host"].as_str().unwrap_or_default().to_owned();
        (row["slot"].as_u64().expect("a slot"), host)
    };
    rows.iter().map(row).collect()
}

/// A VM's process on its host: another one after every start.
fn guest_pid(lab: &Lab, host: &str, name: &str) -> String {
    let found = lab.exec(host, &["pgrep", "-f", &format!("guest={name}")]).stdout;
    String::from_utf8_lossy(&found).trim().to_owned()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Runs a VM and deletes it again: whatever is needed to start one works.
fn starts(operator: &Operator, name: &str) {
    operator.must(&["run", "--name", name, "--memory", "64MiB"]);
    operator.must(&["stop", name, "--force"]);
    operator.must(&["rm", name]);
}

/// The host of one arbiter dies for good, and another takes its place; then a second one dies, which
/// three could not have borne without.
#[test]
fn lab_a_lost_arbiter_is_replaced_while_vms_run_start_and_fail_over() {
    let Some(lab) = Lab::up("lab_a_lost_arbiter_is_replaced", 5) else { return };
    let mut operator = Operator::new();
    cluster(&lab, &mut operator);
    let first = arbiters(&operator);
    assert_eq!(first.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [0, 1, 2]);
    let without = |hosts: &[&String]| -> String {
        let found = lab.hosts().into_iter().find(|host| !hosts.contains(&host));
        found.expect("a host without")
    };
    let mut busy: Vec<&String> = first.iter().map(|(_, host)| host).collect();
    let home = without(&busy);
    busy.push(&home);
    let spare = without(&busy);
    let run = ["run", "--memory", "64MiB", "--on", &home, "--name"];
    operator.must(&[&run[..], &["kept-1"]].concat());
    operator.must(&[&run[..], &["lapse-1", "--on-loss", "stop"]].concat());
    let pids = || ["kept-1", "lapse-1"].map(|name| guest_pid(&lab, &home, name));
    let before = pids();
    assert!(before.iter().all(|pid| !pid.is_empty()), "{before:?}");

    let (lost, dead) = first[2].clone();
    lab.must(&["kill", &dead]);
    println!("{dead}, which has arbiter {lost}, is dead");
    let slot = lost.to_string();
    let refused = operator.run(&["arbiters", "replace", &slot]);
    assert!(refused.status.code() == Some(3), "{}", said(&refused));
    assert!(
        said(&refused).contains(&format!("ostler retire {dead} --is-off")),
        "{}",
        said(&refused)
    );
    until("it to be silent", LIMIT, || {
        let retired = operator.run(&["retire", &dead, "--is-off"]);
        is(retired.status.success(), said(&retired))
    });
    let begin = Instant::now();
    let replace = ["arbiters", "replace", &slot, "--with", &spare];
    let plan = operator.run(&[&replace[..], &["--dry-run"]].concat());
    assert!(plan.status.success() && said(&plan).contains("arbiter 3 comes"), "{}", said(&plan));
    assert_eq!(arbiters(&operator).len(), 3, "nothing was done");

    // It is killed on the way, and goes on when it is run again; meanwhile VMs start.
    let mut interrupted = operator.begin(&replace);
    until("the change to be under way", LIMIT, || {
        let shown = operator.json(&["arbiters"]);
        is(!shown["change"].is_null(), shown)
    });
    interrupted.kill().expect("it can be killed");
    interrupted.wait().expect("it has ended");
    println!("the change is under way after {:?}", begin.elapsed());
    starts(&operator, "while-1");
    let done = operator.run(&replace);
    assert!(done.status.success(), "{}", said(&done));
    println!("arbiter {lost} is replaced after {:?}:\n{}", begin.elapsed(), said(&done));
    let second = arbiters(&operator);
    assert_eq!(second.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [0, 1, 3]);
    let again = operator.run(&replace);
    assert!(again.status.success() && said(&again).contains("already"), "{}", said(&again));
    assert_eq!(pids(), before, "no guest was touched");
    starts(&operator, "after-1");

    // Two of those who are left, of whom one is new.
    let (_, next) = second[0].clone();
    lab.must(&["kill", &next]);
    println!("{next}, which has arbiter 0, is dead");
    let looked = Instant::now();
    until("two terms to be over", LIMIT, || {
        assert_eq!(pids(), before, "two of three cover it, one of them new");
        is(looked.elapsed() > 2 * TERM, looked.elapsed())
    });
    starts(&operator, "after-2");
    lab.must(&["cut", &home]);
    let cut = Instant::now();
    let (host, _) = until("it to run elsewhere", LIMIT, || {
        let runs = |host: &String| lab.virsh_state(host, "lapse-1") == "running";
        let found: Vec<String> = lab.hosts().into_iter().filter(runs).collect();
        assert!(found.len() < 2, "lapse-1 runs on {found:?}");
        found.iter().find(|host| **host != home).cloned().ok_or(found)
    });
    println!("lapse-1 runs on {host} {:?} after {home} was cut off", cut.elapsed());
    assert_eq!(guest_pid(&lab, &home, "kept-1"), before[0], "it is kept");
}

/// One arbiter becomes three, one gets another key where it is, and bootstrap agrees with all of it.
#[test]
fn lab_arbiters_are_added_rekeyed_and_removed_and_bootstrap_agrees() {
    let Some(lab) = Lab::up("lab_arbiters_are_added_rekeyed_and_removed", 3) else { return };
    let mut operator = Operator::new();
    let url = operator.make_cluster(&lab);
    let only = arbiters(&operator);
    operator.must(&["run", "--name", "lapse-1", "--memory", "64MiB", "--on-loss", "stop"]);
    let home = operator.await_state("lapse-1", "running");
    let pid = guest_pid(&lab, &home, "lapse-1");
    let refused = operator.run(&["arbiters", "remove", "0"]);
    assert!(refused.status.code() == Some(3), "{}", said(&refused));
    assert!(said(&refused).contains("is the last"), "{}", said(&refused));

    let others: Vec<String> = lab.hosts().into_iter().filter(|host| *host != only[0].1).collect();
    let begin = Instant::now();
    operator.must(&["arbiters", "add", &others[0], &others[1]]);
    println!("one arbiter has become three after {:?}", begin.elapsed());
    assert_eq!(arbiters(&operator).len(), 3);
    let shown = operator.run(&["arbiters", "add", &others[0], &others[1]]);
    assert!(shown.status.success() && said(&shown).contains("already"), "{}", said(&shown));

    let begin = Instant::now();
    operator.must(&["arbiters", "replace", "0", "--with", &only[0].1]);
    println!("its key is another after {:?}", begin.elapsed());
    let rekeyed = arbiters(&operator);
    assert_eq!(rekeyed.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(rekeyed[2].1, only[0].1);

    let version = |operator: &Operator| operator.json(&["trust", "show"])["version"].clone();
    let before = version(&operator);
    operator.must(&["bootstrap", "--discovery", &url, "-n", "3", "--arbiters", "3"]);
    assert_eq!(version(&operator), before, "bootstrap has nothing to say");

    operator.must(&["arbiters", "remove", "1", "2"]);
    assert_eq!(arbiters(&operator), [(3, only[0].1.clone())]);
    assert_eq!(guest_pid(&lab, &home, "lapse-1"), pid, "it ran on through all of it");
    starts(&operator, "after-1");
}

/// The pid of an arbiter's process, as seen on its host.
fn arbiter_pid(lab: &Lab, host: &str, slot: u64) -> String {
    let folder = lab.data(host).join(format!("services/ostler-arbiter-{slot}/process.json"));
    let process = std::fs::read(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let process: Value = serde_json::from_slice(&process).expect("JSON");
    process["pid"].to_string()
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.expect("cp can be run").success(), "{} to {}", from.display(), to.display());
}

/// Two of three arbiters lose all they had, their hosts do not. Nothing can start until the operator goes on
/// without them; their keys and their document come back, and nobody needs them.
#[test]
fn lab_a_majority_of_arbiters_that_is_lost_is_recovered_from() {
    let Some(lab) = Lab::up("lab_a_majority_of_arbiters_that_is_lost", 4) else { return };
    let mut operator = Operator::new();
    operator.make_cluster_with(&lab, &["--arbiters", "3", "--monitors", "4", "--controllers", "4"]);
    let first = arbiters(&operator);
    let home = lab.hosts().into_iter().find(|host| first.iter().all(|(_, busy)| busy != host));
    let home = home.expect("a fourth host");
    let run = ["run", "--memory", "64MiB", "--on", &home, "--name"];
    operator.must(&[&run[..], &["kept-1"]].concat());
    operator.must(&[&run[..], &["lapse-1", "--on-loss", "stop"]].concat());
    let kept = guest_pid(&lab, &home, "kept-1");
    let recover = ["arbiters", "recover"];
    let refused = operator.run(&recover);
    assert!(refused.status.code() == Some(3), "{}", said(&refused));
    assert!(said(&refused).contains("they are not lost"), "{}", said(&refused));

    let saved = tempfile::tempdir().expect("a temporary folder");
    copy(&lab.data(&home).join("trust.json"), &saved.path().join("trust.json"));
    for (slot, host) in &first[..2] {
        let folder = lab.data(host).join(format!("services/ostler-arbiter-{slot}"));
        copy(&folder, &saved.path().join(slot.to_string()));
        let pid = arbiter_pid(&lab, host, *slot);
        std::fs::remove_dir_all(&folder).expect("the arbiter's folder is there");
        assert!(lab.exec(host, &["kill", "-9", &pid]).status.success());
    }
    until("the VM that needs cover to end", LIMIT, || {
        let state = lab.virsh_state(&home, "lapse-1");
        is(state != "running", state)
    });
    let plan = operator.run(&[&recover[..], &["--dry-run"]].concat());
    println!("{}", said(&plan));
    for word in
        ["1 of 3 arbiters answer", "arbiter 3 comes", "arbiter 4 comes", "lapse-1 may run only"]
    {
        assert!(plan.status.success() && said(&plan).contains(word), "{word}: {}", said(&plan));
    }
    assert_eq!(operator.json(&["trust", "show"])["version"], 1, "nothing was done");

    // A host that nobody hears may run anything: it is named, and nothing is done.
    let away = first[0].1.clone();
    lab.must(&["cut", &away]);
    let refused = operator.run(&recover);
    assert!(refused.status.code() == Some(3), "{}", said(&refused));
    assert!(said(&refused).contains(&format!("--off {away}")), "{}", said(&refused));
    lab.must(&["heal", &away]);
    until("it to be heard again", LIMIT, || {
        let plan = operator.run(&[&recover[..], &["--dry-run"]].concat());
        is(plan.status.success(), said(&plan))
    });

    let begin = Instant::now();
    let done = operator.run(&recover);
    assert!(done.status.success(), "{}", said(&done));
    println!("recovered after {:?}:\n{}", begin.elapsed(), said(&done));
    let second = arbiters(&operator);
    assert_eq!(second.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(guest_pid(&lab, &home, "kept-1"), kept, "it ran on through all of it");
    starts(&operator, "after-1");
    println!("a new VM has run after {:?}", begin.elapsed());

    // Those who were lost come back with their keys and the document by which they were a majority.
    for (slot, host) in &first[..2] {
        let data = lab.data(host);
        copy(&saved.path().join(slot.to_string()), &data.join(format!("old-{slot}")));
        copy(&saved.path().join("trust.json"), &data.join("old-trust.json"));
        let ostler = tests::lab::ostler();
        let (name, listen) = (format!("old-{slot}"), format!("{}:747{slot}", lab.address(host)));
        let program = ostler.to_str().expect("a path in UTF-8");
        let folder = format!("/var/lib/ostler/old-{slot}");
        let ready = format!("{folder}/ready-again.json");
        let trust = "/var/lib/ostler/old-trust.json";
        let files = ["--data-dir", &folder, "--trust-file", trust, "--ready-file", &ready];
        let words = ["exec", "-d", &name, host, program, "arbiter", "--listen", &listen];
        lab.must(&[&words[..], &files].concat());
        until("it to answer", LIMIT, || {
            let ready = std::fs::metadata(data.join(format!("old-{slot}/ready-again.json")));
            is(ready.is_ok(), "no ready file")
        });
    }
    let others: Vec<(String, String)> = second[1..]
        .iter()
        .map(|(slot, host)| (host.clone(), arbiter_pid(&lab, host, *slot)))
        .collect();
    for (host, pid) in &others {
        assert!(lab.exec(host, &["kill", "-STOP", pid]).status.success());
    }
    let mut waits = operator.begin(&["run", "--name", "never-1", "--memory", "64MiB"]);
    let looked = Instant::now();
    until("two terms to be over", LIMIT, || {
        let found: Vec<String> =
            lab.hosts().iter().flat_map(|host| lab.virsh_domains(host)).collect();
        assert!(!found.contains(&"never-1".to_owned()), "those who were lost have granted it");
        is(looked.elapsed() > 2 * TERM, looked.elapsed())
    });
    for (host, pid) in &others {
        assert!(lab.exec(host, &["kill", "-CONT", pid]).status.success());
    }
    waits.wait().expect("the command ends");
    starts(&operator, "after-2");
    assert_eq!(guest_pid(&lab, &home, "kept-1"), kept);
}

/// The only arbiter burns with its host, as it does in a cluster that was made without a thought.
#[test]
fn lab_the_only_arbiter_dies_with_its_host_and_is_recovered_from() {
    let Some(lab) = Lab::up("lab_the_only_arbiter_dies_with_its_host", 3) else { return };
    let mut operator = Operator::new();
    let url = operator.make_cluster(&lab);
    let (slot, dead) = arbiters(&operator)[0].clone();
    let home = lab.hosts().into_iter().find(|host| *host != dead).expect("another host");
    operator.must(&["run", "--memory", "64MiB", "--on", &home, "--name", "kept-1"]);
    operator.must(&["run", "--memory", "64MiB", "--on", &dead, "--name", "gone-1"]);
    let kept = guest_pid(&lab, &home, "kept-1");
    lab.must(&["kill", &dead]);
    // Nobody is there any more from whom a new arbiter could learn how it is started.
    until("it to be lost", LIMIT, || {
        let hosts = operator.json(&["hosts"])["hosts"].clone();
        let rows = hosts.as_array().cloned().unwrap_or_default();
        let is_lost =
            |row: &serde_json::Value| row["host"]["name"] == *dead && row["freshness"] == "lost";
        is(rows.iter().any(is_lost), hosts)
    });
    let refused = operator.run(&["retire", &dead, "--is-off"]);
    assert!(!refused.status.success(), "{}", said(&refused));
    let recover = ["arbiters", "recover", "--off", &dead];
    let begin = Instant::now();
    let (done, _) = until("it to be silent", LIMIT, || {
        let done = operator.run(&recover);
        if done.status.success() { Ok(done) } else { Err(said(&done)) }
    });
    println!("arbiter {slot} is recovered from after {:?}:\n{}", begin.elapsed(), said(&done));
    assert_eq!(arbiters(&operator).len(), 1);
    assert!(said(&done).contains("gone-1"), "{}", said(&done));
    assert_eq!(guest_pid(&lab, &home, "kept-1"), kept);
    // Whatever else was there is started elsewhere.
    operator.must(&["bootstrap", "--discovery", &url, "-n", "2"]);
    starts(&operator, "after-1");
    println!("a new VM has run after {:?}", begin.elapsed());
    // What the dead host ran runs where somebody says so, once.
    operator.must(&["run", "--memory", "64MiB", "--name", "gone-1"]);
    lab.must(&["boot", &dead]);
    let rows = operator.ps("gone-1");
    assert_eq!(rows.len(), 1, "{rows:?}");
}
