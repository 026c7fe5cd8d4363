//! Dedicated CPUs on real hosts: who runs where, by what the kernel says of each of QEMU's threads.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::api::OfferRequest;
use protocol::id::{JobId, Revision};
use protocol::job::JobSpec;
use protocol::refusal::Refusal;
use protocol::ticket::Action;
use protocol::vm::{Hardware, VmSpec};
use serde_json::{Value, json};
use tests::lab::{Lab, ostler, say_skipped};
use tests::operator::{Operator, assert_refused, assert_runs, said};
use tests::wait::{is, until};

use crate::tickets::Caller;

/// For what is done at once, on a machine that is busy with others.
const LIMIT: Duration = Duration::from_secs(60);

/// The threads of a guest's QEMU, by name, and where each may run.
fn threads(lab: &Lab, host: &str, guest: &str) -> BTreeMap<String, String> {
    let script = format!(
        r#"for task in /proc/$(cat /run/libvirt/qemu/{guest}.pid)/task/*; do
            echo "$(cat $task/comm)=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' $task/status)"
        done"#
    );
    let output = lab.exec(host, &["sh", "-c", &script]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = |line: &str| {
        let (name, cpus) = line.split_once('=')?;
        (!cpus.is_empty()).then(|| (name.to_owned(), cpus.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// Where its virtual CPUs run, and where everything else does.
fn place(lab: &Lab, host: &str, guest: &str) -> Value {
    let (mut vcpus, mut others) = (vec![], vec![]);
    for (name, cpus) in threads(lab, host, guest) {
        if name.starts_with("CPU ") { &mut vcpus } else { &mut others }.push(cpus);
    }
    [&mut vcpus, &mut others].into_iter().for_each(|cpus| {
        cpus.sort();
        cpus.dedup();
    });
    json!({ "vcpus": vcpus, "others": others })
}

#[track_caller]
fn await_place(lab: &Lab, host: &str, guest: &str, vcpus: &str, others: &str) {
    let expected = json!({ "vcpus": [vcpus], "others": [others] });
    until(&format!("{guest} on {host} to be on {expected}"), LIMIT, || {
        let place = place(lab, host, guest);
        is(place == expected, place)
    });
}

/// Where its virtual CPUs run. Threads of QEMU's own that were begun in narrower bounds may keep to these.
#[track_caller]
fn await_vcpus(lab: &Lab, host: &str, guest: &str, vcpus: &str) {
    until(&format!("the CPUs of {guest} on {host} to be on {vcpus}"), LIMIT, || {
        let place = place(lab, host, guest);
        is(place["vcpus"] == json!([vcpus]), place)
    });
}

/// What a host says of its dedicated CPUs.
fn told(operator: &Operator, host: &str) -> Value {
    let shown = operator.json(&["hosts"]);
    let rows = shown["hosts"].as_array().cloned().unwrap_or_default();
    let row = rows.into_iter().find(|row| row["host"]["name"] == host).unwrap_or_default();
    row["host"]["dedicated_cpus"].clone()
}

fn await_told(operator: &Operator, host: &str, expected: &Value) {
    until(&format!("{host} to say {expected}"), LIMIT, || {
        let told = told(operator, host);
        is(told == *expected, told)
    });
}

fn run(operator: &Operator, name: &str, more: &[&str]) -> std::process::Output {
    let words = ["run", "--name", name, "--memory", "128MiB"];
    operator.run(&[&words[..], more].concat())
}

fn restart(lab: &Lab, host: &str, url: &str, more: &[&str]) {
    lab.must(&["stop", host, "agent"]);
    lab.start_agent_with(host, url, more);
    lab.await_agent(host);
}

#[test]
fn lab_dedicated_cpus_are_one_guests_alone_wherever_it_goes() {
    let test = "lab_dedicated_cpus_are_one_guests_alone";
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    if cpus != 2 {
        return say_skipped(test, "it is written for a machine of two CPUs");
    }
    let Some(lab) = Lab::up(test, 2) else { return };
    let mut operator = Operator::new();
    let url = operator.make_bare_cluster(&lab);
    // Before any host gives some away there are none, and nothing is said of any.
    let none = "needs 1 dedicated CPU; the host gives none to VMs for themselves";
    assert_refused(&run(&operator, "db", &["--dedicated-cpus"]), &[none]);
    assert!(!operator.must(&["hosts"]).contains("DEDICATED"));
    assert_runs(&run(&operator, "before", &["--on", "h2"]));
    assert_eq!(place(&lab, "h2", "before")["vcpus"], json!(["0-1"]));
    restart(&lab, "h1", &url, &["--dedicated-cpus", "1"]);
    await_told(&operator, "h1", &json!({ "total": 1, "promised": 0 }));

    assert_runs(&run(&operator, "db", &["--dedicated-cpus"]));
    assert_eq!(operator.await_state("db", "running"), "h1");
    await_place(&lab, "h1", "db", "1", "0");
    let pins = lab.exec("h1", &["virsh", "vcpupin", "db"]);
    let pins = String::from_utf8_lossy(&pins.stdout).into_owned();
    assert!(pins.lines().any(|line| line.split_whitespace().eq(["0", "1"])), "{pins}");
    await_told(&operator, "h1", &json!({ "total": 1, "promised": 1 }));
    let table = operator.must(&["hosts"]);
    assert!(table.contains("DEDICATED") && table.contains("1/1"), "{table}");

    // Nobody else comes near it.
    assert_runs(&run(&operator, "web", &["--on", "h1"]));
    await_place(&lab, "h1", "web", "0", "0");

    // One more than fits: by the plan, and by a host that is asked itself.
    let few = "needs 1 dedicated CPU; the host has 1, of which 1 are taken";
    let refused = run(&operator, "db2", &["--dedicated-cpus"]);
    assert_refused(&refused, &[few, "free 1 dedicated CPU on h1"]);
    let hardware = Box::new(Hardware { dedicated_cpus: true, ..Hardware::default() });
    let vm = VmSpec { vcpus: 1, memory_bytes: 128 << 20, hardware, ..VmSpec::default() };
    let ask = OfferRequest {
        job: JobId::new("db2").expect("a name"),
        revision: Revision(1),
        spec: JobSpec::vm(vm),
        action: Action::Start,
        finds_disks: false,
    };
    let caller = Caller::new(&operator);
    let no = caller.ask(&caller.host(&lab, "h1"), &ask).expect_err("it has no other");
    let few = Refusal::NoDedicatedCpus { asked: 1, free: 0, total: 1 };
    assert_eq!(no.refusal(), Some(&few));
    assert!(!lab.virsh_domains("h1").contains(&"db2".to_owned()));

    // A restart of the agent changes nothing.
    restart(&lab, "h1", &url, &["--dedicated-cpus", "1"]);
    await_told(&operator, "h1", &json!({ "total": 1, "promised": 1 }));
    await_place(&lab, "h1", "db", "1", "0");
    assert_eq!(place(&lab, "h1", "web"), json!({ "vcpus": ["0"], "others": ["0"] }));

    // What runs already leaves a CPU that is given away.
    restart(&lab, "h2", &url, &["--dedicated-cpus", "0"]);
    await_place(&lab, "h2", "before", "1", "1");

    await_told(&operator, "h2", &json!({ "total": 1, "promised": 0 }));

    // It takes none of its pins along, and has others before it runs there.
    operator.must(&["migrate", "db", "h2"]);
    assert_eq!(operator.await_state("db", "running"), "h2");
    await_place(&lab, "h2", "db", "0", "1");
    await_told(&operator, "h1", &json!({ "total": 1, "promised": 0 }));
    await_told(&operator, "h2", &json!({ "total": 1, "promised": 1 }));
    // Who shares finds where it comes to what is shared there.
    operator.must(&["migrate", "web", "h2"]);
    await_place(&lab, "h2", "web", "1", "1");

    // The next one fits, and after it has ended the one after it.
    assert_runs(&run(&operator, "db2", &["--dedicated-cpus"]));
    await_place(&lab, "h1", "db2", "1", "0");
    assert_refused(&run(&operator, "db3", &["--dedicated-cpus"]), &["free 1 dedicated CPU on"]);
    operator.must(&["stop", "db2", "--force"]);
    assert_runs(&run(&operator, "db3", &["--dedicated-cpus"]));
    await_place(&lab, "h1", "db3", "1", "0");
    // What was saved goes on where it belongs now.
    operator.must(&["stop", "db", "--force"]);
    operator.must(&["save", "web"]);
    restart(&lab, "h2", &url, &["--dedicated-cpus", "1"]);
    operator.must(&["start", "web"]);
    await_place(&lab, "h2", "web", "0", "0");

    // When none are given away any more, whoever was penned in is let out: what runs, and what is saved.
    await_place(&lab, "h2", "before", "0", "0");
    operator.must(&["save", "before"]);
    restart(&lab, "h2", &url, &[]);
    await_vcpus(&lab, "h2", "web", "0-1");
    operator.must(&["start", "before"]);
    await_vcpus(&lab, "h2", "before", "0-1");
    assert_eq!(told(&operator, "h2"), Value::Null);

    // What can't be is said at once.
    for (cpus, why) in [
        ("0-1", "0-1 are all CPUs of this machine"),
        ("7", "this machine has no CPU 7 that is online: choose of 0-1"),
    ] {
        let program = ostler();
        let program = program.to_str().expect("a path in UTF-8");
        let words = ["agent", "--data-dir", "/tmp/divided", "--listen", "127.0.0.1:0"];
        let words = [&[program], &words[..], &["--dedicated-cpus", cpus]].concat();
        let output = lab.exec("h1", &words);
        assert!(!output.status.success());
        assert!(said(&output).contains(why), "{}", said(&output));
    }
}
