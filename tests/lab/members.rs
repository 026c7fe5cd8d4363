//! Arbiters are replaced while VMs run, start and fail over; judged by their processes and `virsh`.

use std::process::Output;
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
