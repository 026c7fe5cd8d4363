//! A host dies for good: what ran there runs elsewhere by the operator's word, and never twice.

use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

const LIMIT: Duration = Duration::from_secs(60);

/// A host without arbiter and controller, on which run web-1, without a disk, and db-1, with one.
fn with_two_vms(lab: &Lab, operator: &Operator) -> String {
    let busy = ["arbiter", "controller"].map(|role| operator.service(lab, role).0);
    let dead = lab.hosts().into_iter().find(|host| !busy.contains(host)).expect("a third host");
    let run = ["run", "--memory", "64MiB", "--on", &dead, "--autostart", "--name"];
    operator.must(&[&run[..], &["web-1"]].concat());
    operator.must(&[&run[..], &["db-1", "--image", "guest"]].concat());
    dead
}

#[test]
fn lab_a_dead_host_is_retired_and_its_vm_runs_elsewhere_once() {
    let Some(lab) = Lab::up("lab_a_dead_host_is_retired", 3) else { return };
    let mut operator = Operator::new();
    let begin = Instant::now();
    let url = operator.make_cluster(&lab);
    let dead = with_two_vms(&lab, &operator);
    assert_eq!(operator.await_state("web-1", "running"), dead);
    let id = operator.json(&["inspect", "web-1"])["jobs"][0]["host"].clone();
    let id = id.as_str().expect("the host's id").to_owned();

    println!("two VMs run on {dead} after {:?}", begin.elapsed());
    let refused = operator.run(&["retire", &dead]);
    assert!(code(&refused) == Some(3) && said(&refused).contains("still runs"), "{refused:?}");
    lab.must(&["kill", &dead]);
    until("it to be silent", LIMIT, || {
        let refused = operator.run(&["retire", &dead]);
        is(said(&refused).contains("--is-off"), said(&refused))
    });
    assert_eq!(version(&operator), 1, "nothing was changed");

    println!("{dead} is silent after {:?}", begin.elapsed());
    let retired = operator.run(&["retire", &dead, "--is-off", "--restart"]);
    assert_eq!(code(&retired), Some(0), "{}", said(&retired));
    assert!(said(&retired).contains("db-1 is gone with its disks"), "{}", said(&retired));
    assert_eq!(version(&operator), 2);
    let host = operator.await_state("web-1", "running");
    assert_ne!(host, dead);
    assert_eq!(lab.virsh_state(&host, "web-1"), "running");
    println!("web-1 runs on {host} after {:?}", begin.elapsed());
    let rows = (operator.ps("web-1").len(), operator.ps("db-1").len());
    assert_eq!(rows, (1, 0), "nothing is shown of what is gone");
    let again = operator.run(&["retire", &id]);
    assert_eq!(code(&again), Some(0), "retiring twice is retiring once: {}", said(&again));

    // It was not off for good. What it has in its ledger was started elsewhere, and stays down.
    lab.must(&["boot", &dead]);
    lab.start_agent(&dead, &url);
    let address = format!("https://{}:7460", lab.address(&dead));
    until("the returned host to wait for a right that nobody gives", LIMIT, || {
        let shown = operator.run(&["ps", "--json", "--hosts", &address]);
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
        let waits = shown["jobs"].as_array().is_some_and(|jobs| {
            jobs.len() == 2 && jobs.iter().all(|row| row["job"]["reason"] == "awaiting_right")
        });
        is(waits, shown)
    });
    assert_eq!(lab.virsh_state(&dead, "web-1"), "shut off");
    assert_eq!(lab.virsh_state(&host, "web-1"), "running");

    println!("the returned host starts nothing, after {:?}", begin.elapsed());
    let shown = operator.must(&["bootstrap", "--discovery", &url, "-n", "2"]);
    assert!(shown.contains("was retired"), "{shown}");
    assert_eq!(operator.json(&["hosts"])["hosts"].as_array().map(Vec::len), Some(2));
    println!("the story took {:?}", begin.elapsed());
}

#[test]
fn lab_a_host_that_is_well_is_retired_only_when_nothing_is_left_on_it() {
    let Some(lab) = Lab::up("lab_a_host_that_is_well_is_retired", 3) else { return };
    let mut operator = Operator::new();
    operator.make_cluster(&lab);
    let busy = ["arbiter", "controller"].map(|role| operator.service(&lab, role).0);
    let host = lab.hosts().into_iter().find(|host| !busy.contains(host)).expect("a third host");
    let refuses = |words: &str| {
        let refused = operator.run(&["retire", &host]);
        assert!(code(&refused) == Some(3) && said(&refused).contains(words), "{}", said(&refused));
        assert_eq!(version(&operator), 1, "nothing was changed");
    };
    refuses("takes what comes");
    let run = ["run", "--memory", "64MiB", "--image", "guest", "--on", &host, "--name", "db-1"];
    operator.must(&run);
    refuses("still runs db-1");
    operator.must(&["stop", "db-1", "--force"]);
    let drained = operator.run(&["drain", &host]);
    assert!(said(&drained).contains("stopped VMs stay there, with their disks: db-1"));
    refuses("has the disks of db-1");
    operator.must(&["rm", "db-1"]);
    let alone = &busy[1];
    let refused = operator.run(&["retire", alone, "--restart"]);
    assert!(code(&refused) == Some(3), "the only controller is there: {}", said(&refused));
    let retired = operator.run(&["retire", &host]);
    assert_eq!(code(&retired), Some(0), "{}", said(&retired));
    assert_eq!(version(&operator), 2);
    assert_eq!(operator.json(&["hosts"])["hosts"].as_array().map(Vec::len), Some(2));
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn version(operator: &Operator) -> u64 {
    operator.json(&["trust", "show"])["version"].as_u64().expect("a version")
}

/// The same host, whose power was only cut: what ran there runs elsewhere, and it comes back as a member.
#[test]
fn lab_what_ran_on_a_fenced_host_runs_elsewhere_once_and_the_host_comes_back() {
    let Some(lab) = Lab::up("lab_what_ran_on_a_fenced_host", 3) else { return };
    let mut operator = Operator::new();
    let begin = Instant::now();
    let url = operator.make_cluster(&lab);
    let dead = with_two_vms(&lab, &operator);
    assert_eq!(operator.await_state("db-1", "running"), dead);
    let refused = operator.run(&["fence", &dead, "--is-off"]);
    assert!(code(&refused) == Some(3) && said(&refused).contains("it is on"), "{refused:?}");
    lab.must(&["kill", &dead]);
    until("it to be silent", LIMIT, || {
        let refused = operator.run(&["fence", &dead]);
        is(said(&refused).contains("--is-off"), said(&refused))
    });
    assert_eq!(version(&operator), 1, "nothing was changed");

    println!("{dead} is silent after {:?}", begin.elapsed());
    let fenced = operator.run(&["fence", &dead, "--is-off", "--reason", "its plug was pulled"]);
    assert_eq!(code(&fenced), Some(0), "{}", said(&fenced));
    assert!(said(&fenced).contains("start elsewhere: web-1"), "{}", said(&fenced));
    assert!(said(&fenced).contains("where their disks are: db-1"), "{}", said(&fenced));
    let (host, _) = until("web-1 to run elsewhere", LIMIT, || {
        let rows = operator.ps("web-1");
        let found = rows.iter().find(|(state, host)| state == "running" && *host != dead);
        found.map(|(_, host)| host.clone()).ok_or(rows)
    });
    assert_eq!(lab.virsh_state(&host, "web-1"), "running");
    println!("web-1 runs on {host} after {:?}", begin.elapsed());
    let shown = operator.must(&["hosts"]);
    assert!(shown.contains("fenced"), "{shown}");
    let listed = operator.must(&["fence"]);
    assert!(listed.contains("off") && listed.contains("its plug was pulled"), "{listed}");

    // An arbiter tells it when it returns, before anything there starts.
    lab.must(&["boot", &dead]);
    lab.start_agent(&dead, &url);
    until("the returned host to have let web-1 go", LIMIT, || {
        let row = operator.row_on("web-1", &dead);
        is(row["job"]["state"] == "stopped" && row["job"]["reason"] == "fenced", row)
    });
    assert_eq!(lab.virsh_state(&dead, "web-1"), "shut off");
    assert_eq!(lab.virsh_state(&host, "web-1"), "running");
    until("db-1 to run again where its disk is", LIMIT, || {
        let rows = operator.ps("db-1");
        is(rows == [("running".to_owned(), dead.clone())], rows)
    });
    println!("the host is back and has db-1 after {:?}", begin.elapsed());
    let listed = operator.must(&["fence"]);
    assert!(listed.contains("has been back"), "{listed}");
    let refused = operator.run(&["migrate", "web-1", &dead]);
    assert!(said(&refused).contains("delete it first"), "{}", said(&refused));
    println!("the story took {:?}", begin.elapsed());
}
