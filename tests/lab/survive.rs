//! kill -9 of each part in the middle of things, judged by `virsh` and by what an operator sees.

use std::process::Child;
use std::time::Duration;

use serde_json::Value;
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

const RUN: [&str; 6] = ["run", "--name", "web-1", "--memory", "64MiB", "--on"];

/// Ends of a run that an operator can act on.
fn end_of(run: Child) -> (Option<i32>, String) {
    let output = run.wait_with_output().expect("the command ends");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// Hosts whose virsh shows the domain running.
fn running_on(lab: &Lab, name: &str) -> Vec<String> {
    lab.hosts().into_iter().filter(|host| lab.virsh_state(host, name) == "running").collect()
}

fn await_one_domain(lab: &Lab) {
    until("exactly one domain to run", Duration::from_secs(60), || {
        let hosts = running_on(lab, "web-1");
        is(hosts.len() == 1, hosts)
    });
}

#[test]
fn lab_an_agent_killed_before_the_domain_exists_completes_the_run() {
    let Some(lab) = Lab::up("lab_an_agent_killed_before_the_domain_exists", 2) else { return };
    let mut operator = Operator::new();
    let url = operator.make_cluster(&lab);
    // A stopped libvirtd holds the start between the ledger and the domain.
    lab.must(&["signal", "h1", "libvirtd", "STOP"]);
    let run = operator.begin(&[&RUN[..], &["h1"]].concat());
    operator.await_state("web-1", "starting");
    lab.must(&["signal", "h1", "agent", "KILL"]);
    lab.must(&["signal", "h1", "libvirtd", "CONT"]);
    assert_eq!(lab.virsh_domains("h1"), Vec::<String>::new(), "the domain exists already");
    lab.start_agent("h1", &url);
    let (code, said) = end_of(run);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(running_on(&lab, "web-1"), ["h1"]);
    assert_eq!(lab.virsh_domains("h1"), ["web-1"]);
}

#[test]
fn lab_an_agent_killed_after_the_domain_exists_completes_the_run() {
    let Some(lab) = Lab::up("lab_an_agent_killed_after_the_domain_exists", 2) else { return };
    let mut operator = Operator::new();
    let url = operator.make_cluster(&lab);
    let run = operator.begin(&[&RUN[..], &["h1"]].concat());
    until("the domain to exist", Duration::from_secs(30), || {
        let domains = lab.virsh_domains("h1");
        is(!domains.is_empty(), domains)
    });
    lab.must(&["signal", "h1", "agent", "KILL"]);
    lab.start_agent("h1", &url);
    let (code, said) = end_of(run);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(running_on(&lab, "web-1"), ["h1"]);
    assert_eq!(lab.virsh_domains("h1"), ["web-1"]);
}

#[test]
fn lab_agent_death_never_touches_guests_and_the_next_life_shows_them_within_5_s() {
    let Some(lab) = Lab::up("lab_agent_death_never_touches_guests", 1) else { return };
    let mut operator = Operator::new();
    let url = operator.make_cluster(&lab);
    operator.must(&["run", "--image", "guest", "--name", "web-1"]);
    let console = operator.follow(&["console", "web-1", "--no-input"]);
    console.line_with("count=2", Duration::from_secs(60));
    let pid = qemu_pid(&lab);
    lab.must(&["signal", "h1", "agent", "KILL"]);
    assert_eq!(running_on(&lab, "web-1"), ["h1"]);
    lab.start_agent("h1", &url);
    let agent = format!("{}:7460", lab.address("h1"));
    let (_, took) = until("the agent to show the guest", Duration::from_secs(5), || {
        let output = operator.run(&["ps", "--json", "--hosts", &agent]);
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let state = shown["jobs"][0]["job"]["state"].clone();
        is(state == "running", state)
    });
    println!("the agent shows its guest again after {took:?}");
    assert_eq!(qemu_pid(&lab), pid, "it is the same guest");
    let console = operator.follow(&["console", "web-1", "--no-input", "--tail", "0"]);
    console.line_with("count=", Duration::from_secs(10));

    // Its leave of libvirt is not waited for without end, and the guest is none the wiser.
    lab.must(&["signal", "h1", "libvirtd", "STOP"]);
    lab.must(&["signal", "h1", "agent", "TERM"]);
    let (_, took) = until("the agent to have stopped", Duration::from_secs(10), || {
        let status = lab.exec("h1", &["pgrep", "-f", "ostler agent"]).status;
        is(!status.success(), status)
    });
    println!("beside a libvirtd that hangs the agent stops within {took:?}");
    assert_eq!(qemu_pid(&lab), pid);
}

#[test]
fn lab_each_role_killed_during_a_run_leaves_nothing_half_there() {
    let Some(lab) = Lab::up("lab_each_role_killed_during_a_run", 3) else { return };
    let mut operator = Operator::new();
    operator.make_cluster(&lab);
    for role in ["controller", "arbiter", "monitor"] {
        let (host, pid) = operator.service(&lab, role);
        let run = operator.begin(&[&RUN[..5], &["--vcpus", "1"]].concat());
        until("the run to be stored", Duration::from_secs(20), || {
            let runs = operator.run(&["runs", "--json"]);
            let runs = String::from_utf8_lossy(&runs.stdout).into_owned();
            is(runs.contains("web-1"), runs)
        });
        let killed = lab.exec(&host, &["kill", "-9", &pid]);
        assert!(killed.status.success(), "kill the {role}: {killed:?}");
        let (code, said) = end_of(run);
        println!("{role} killed during the run: {code:?} {said}");
        let ended = until("every run to have ended", Duration::from_secs(90), || {
            let runs = operator.run(&["runs", "--json"]);
            let runs: Value = serde_json::from_slice(&runs.stdout).unwrap_or_default();
            let states: Vec<String> = (runs["runs"].as_array().into_iter().flatten())
                .map(|run| run["state"].as_str().unwrap_or_default().to_owned())
                .collect();
            let is_ended = |state: &String| state == "succeeded" || state == "rolled_back";
            is(!states.is_empty() && states.iter().all(is_ended), states.clone()).map(|()| states)
        });
        println!("runs: {:?}", ended.0);
        if ended.0.first().is_some_and(|newest| newest == "succeeded") {
            await_one_domain(&lab);
            operator.must(&["stop", "web-1", "--force"]);
            operator.must(&["rm", "web-1"]);
        }
        until("nothing half there", Duration::from_secs(20), || {
            let left: Vec<_> = lab.hosts().iter().flat_map(|h| lab.virsh_domains(h)).collect();
            is(left.is_empty(), left)
        });
    }
}

fn qemu_pid(lab: &Lab) -> String {
    let found = lab.exec("h1", &["pgrep", "-f", "qemu-system.*web-1"]);
    String::from_utf8_lossy(&found.stdout).trim().to_owned()
}
