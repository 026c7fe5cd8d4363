//! A BMC: a host is switched from outside, by a real fence agent over IPMI, and one that nobody reaches is
//! off for certain before its VM runs elsewhere.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn lab_a_host_that_nobody_reaches_is_turned_off_by_its_bmc_and_its_vm_runs_elsewhere_once() {
    let Some(lab) = Lab::up("lab_a_host_that_nobody_reaches", 3) else { return };
    let mut operator = Operator::new();
    let begin = Instant::now();
    let url = operator.make_cluster(&lab);
    let (at, _) = operator.service(&lab, "controller");
    let (arbiter, _) = operator.service(&lab, "arbiter");
    let host = lab.hosts().into_iter().find(|host| *host != at && *host != arbiter);
    let host = host.expect("a third host");
    operator.must(&["run", "--memory", "64MiB", "--on", &host, "--name", "web-1"]);
    assert_eq!(operator.await_state("web-1", "running"), host);

    // Nobody can switch anything, then the file is too open, then it is as it should be.
    let refused = operator.run(&["power", &host]);
    assert_eq!(code(&refused), Some(5), "{}", said(&refused));
    assert!(said(&refused).contains("/etc/ostler/power.json"), "{}", said(&refused));
    let file = power_file(&lab, &at, &host);
    let refused = operator.run(&["power", &host]);
    assert_eq!(code(&refused), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("chmod 600"), "{}", said(&refused));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    until("the device to say on", LIMIT, || {
        let shown = operator.run(&["power", &host]);
        is(said(&shown).contains("on, by fence_ipmilan"), said(&shown))
    });
    let listed = operator.json(&["power"]);
    assert_eq!(listed["hosts"][0]["state"], "on", "{listed}");
    assert_eq!(listed["unknown"], json!(["h99"]), "{listed}");
    println!("{host} can be switched after {:?}", begin.elapsed());

    // Not by mistake.
    let refused = operator.run(&["power", &host, "off"]);
    assert_eq!(code(&refused), Some(3), "{}", said(&refused));
    assert!(said(&refused).contains("web-1") && said(&refused).contains("--force"));
    let refused = operator.run(&["fence", &host, "--cut-power"]);
    assert!(code(&refused) == Some(3) && said(&refused).contains("it is on"), "{}", said(&refused));
    assert_eq!(lab.virsh_state(&host, "web-1"), "running");

    // Its cable is pulled; the guest runs on, which nobody sees.
    lab.must(&["cut", &host]);
    let (words, _) = until("it to be silent", LIMIT, || {
        let refused = operator.run(&["fence", &host]);
        let words = said(&refused);
        if words.contains("--is-off") { Ok(words) } else { Err(words) }
    });
    assert!(words.contains("--cut-power turns it off by fence_ipmilan"), "{words}");
    assert_eq!(lab.virsh_state(&host, "web-1"), "running");
    let boot = lab.exec(&host, &["cat", "/proc/sys/kernel/random/boot_id"]).stdout;

    let fenced = operator.run(&["fence", &host, "--cut-power", "--reason", "nobody reaches it"]);
    assert_eq!(code(&fenced), Some(0), "{}", said(&fenced));
    assert!(said(&fenced).contains("is off, say fence_ipmilan"), "{}", said(&fenced));
    assert_eq!(lab.host(&host)["state"], "off");
    let (new, took) = until("web-1 to run elsewhere", LIMIT, || {
        let rows = operator.ps("web-1");
        let found = rows.iter().find(|(state, at)| state == "running" && *at != host);
        found.map(|(_, at)| at.clone()).ok_or(rows)
    });
    assert_eq!(lab.virsh_state(&new, "web-1"), "running");
    println!("web-1 runs on {new} {took:?} after the command has ended");

    // It is turned on again, from outside, and is a member that runs nothing of before.
    operator.must(&["power", &host, "on"]);
    lab.must(&["heal", &host]);
    until("the host to have booted", LIMIT, || {
        let now = lab.exec(&host, &["cat", "/proc/sys/kernel/random/boot_id"]);
        let lives = lab.exec(&host, &["virsh", "list"]).status.success();
        is(now.status.success() && now.stdout != boot && lives, now)
    });
    lab.start_agent(&host, &url);
    until("the host to be well", LIMIT, || {
        let shown = operator.json(&["hosts"]);
        let rows = shown["hosts"].as_array().cloned().unwrap_or_default();
        let row = rows.into_iter().find(|row| row["host"]["name"] == host.as_str());
        let row: Value = row.unwrap_or_default();
        is(row["freshness"] == "fresh" && row["host"]["trust_version"] == 2, row)
    });
    assert_ne!(lab.virsh_state(&host, "web-1"), "running");
    assert_eq!(lab.virsh_state(&new, "web-1"), "running");
    let states = operator.ps("web-1");
    assert_eq!(states.iter().filter(|(state, _)| state == "running").count(), 1, "{states:?}");

    // Nothing lives there: it may be turned off without another word.
    operator.must(&["power", &host, "off"]);
    assert_eq!(lab.host(&host)["state"], "off");
    assert_eq!(operator.json(&["power", &host])["state"], "off");
    println!("the story took {:?}", begin.elapsed());
}

/// Gives the host a BMC, and the controller's host a file that names it, which others may read.
fn power_file(lab: &Lab, controller: &str, host: &str) -> PathBuf {
    let bmc = lab.must(&["bmc", host]);
    let [_, address, port] = bmc.split_whitespace().collect::<Vec<_>>()[..] else {
        panic!("the lab says {bmc:?}");
    };
    let options = json!({ "ip": address, "ipport": port, "lanplus": "1", "cipher": "3",
        "username": "admin", "password": "secret" });
    let devices = json!([{ "agent": "fence_ipmilan", "options": options }]);
    let file = json!({ "hosts": { host: devices, "h99": devices } });
    let disk = lab.host(controller)["disk"].as_str().expect("a host has a disk").to_owned();
    let path = PathBuf::from(disk).join("etc/ostler/power.json");
    std::fs::write(&path, file.to_string()).expect("the lab's disk is ours");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("it is ours");
    path
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}
