//! An agent from the package, and another package over it: what systemd and dpkg do with the two, by
//! hand, because a lab's host has neither.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tests::lab::Lab;
use tests::operator::Operator;
use tests::package::{Package, values};
use tests::wait::{is, until};

/// Starts the agent as its unit says, from a package that is unpacked here.
fn start(lab: &Lab, root: &Path, discovery: &str) {
    let unit = std::fs::read_to_string(root.join("usr/lib/systemd/system/ostler-agent.service"));
    let unit = unit.expect("the package has the unit");
    let line = values(&unit, "ExecStart").next().expect("a unit starts something");
    let mut words = line.split(' ').filter(|word| !word.starts_with('$'));
    let program = words.next().expect("a line begins with the program");
    let program = root.join(program.trim_start_matches('/')).display().to_string();
    let setting = format!("OSTLER_DISCOVERY={discovery}");
    let mut command = vec!["exec", "-d", "agent", "h1", "env", &setting, &program];
    command.extend(words);
    lab.must(&command);
}

fn pids(lab: &Lab, pattern: &str) -> Vec<String> {
    let found = lab.exec("h1", &["pgrep", "-f", pattern]);
    String::from_utf8_lossy(&found.stdout).lines().map(str::to_owned).collect()
}

fn program_of(lab: &Lab, pid: &str) -> String {
    let link = lab.exec("h1", &["readlink", &format!("/proc/{pid}/exe")]);
    String::from_utf8_lossy(&link.stdout).trim().to_owned()
}

#[test]
fn lab_an_upgrade_replaces_the_agent_and_touches_neither_guests_nor_services() {
    let name = "lab_an_upgrade_replaces_the_agent";
    let Some(package) = Package::make(name) else { return };
    let Some(lab) = Lab::up(name, 1) else { return };
    let mut operator = Operator::new();
    let installed = tempfile::tempdir().expect("a temporary folder");
    package.unpack_to(installed.path());
    let url = operator.discover(&lab.operator_address());
    start(&lab, installed.path(), &url);
    operator.must(&["bootstrap", "--discovery", &url, "-n", "1"]);
    operator.import_guest();
    operator.must(&["run", "--image", "guest", "--name", "web-1"]);
    let guest = pids(&lab, "qemu-system.*web-1");
    let services = pids(&lab, "usr/bin/ostler (arbiter|monitor|controller) ");
    assert_eq!((guest.len(), services.len()), (1, 3), "{guest:?} {services:?}");

    package.unpack_to(installed.path());
    lab.must(&["stop", "h1", "agent"]);
    assert_eq!(lab.virsh_state("h1", "web-1"), "running", "without any agent");
    start(&lab, installed.path(), &url);
    let address = format!("{}:7460", lab.address("h1"));
    let (_, took) = until("the new agent to show the guest", Duration::from_secs(10), || {
        let output = operator.run(&["ps", "--json", "--hosts", &address]);
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let state = shown["jobs"][0]["job"]["state"].clone();
        is(state == "running", state)
    });
    println!("the new agent runs {took:?} after the old one has ended");
    let agents = pids(&lab, "usr/bin/ostler agent");
    assert_eq!(agents.len(), 1, "{agents:?}");
    assert!(!program_of(&lab, &agents[0]).ends_with("(deleted)"), "it is the new program");
    assert_eq!(pids(&lab, "qemu-system.*web-1"), guest);
    assert_eq!(pids(&lab, "usr/bin/ostler (arbiter|monitor|controller) "), services);
    for pid in &services {
        assert!(program_of(&lab, pid).ends_with("(deleted)"), "{pid} was started anew");
    }
    assert_eq!(lab.virsh_state("h1", "web-1"), "running");
    let console = operator.follow(&["console", "web-1", "--no-input", "--tail", "0"]);
    console.line_with("count=", Duration::from_secs(30));
    operator.must(&["stop", "web-1", "--force"]);
}
