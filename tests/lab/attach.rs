//! Disks and network cards for guests that are there already, judged by the guest itself, `virsh` and
//! the files: while it runs, while it is off, refused, moved with it, kept by a guest that does not let go, and
//! with the agent killed in the middle.

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

const MAC: &str = "52:54:00:0a:0b:0c";

/// What the command says when it ends with this code.
fn ends(operator: &Operator, code: i32, words: &[&str]) -> String {
    let output = operator.run(words);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
    said
}

fn job(operator: &Operator) -> Value {
    operator.json(&["inspect", "web-1"])["jobs"][0]["job"].clone()
}

/// Disks and cards that libvirt shows of the running guest.
fn plugged(lab: &Lab, host: &str) -> (usize, usize) {
    let count = |words: &[&str], what: &str| {
        let output = lab.exec(host, &[&["virsh"], words].concat());
        String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.contains(what)).count()
    };
    (count(&["domblklist", "web-1"], ".qcow2"), count(&["domiflist", "web-1"], "52:54:"))
}

fn has_file(lab: &Lab, host: &str, disk: &str) -> bool {
    lab.data(host).join(format!("volumes/web-1/{disk}.qcow2")).exists()
}

#[test]
fn lab_disks_and_cards_come_while_the_guest_counts_and_go_while_it_is_off() {
    let Some(lab) = Lab::up("lab_disks_and_cards_come", 2) else { return };
    let mut operator = Operator::new();
    operator.make_cluster(&lab);
    operator.must(&["quota", "set", "default", "--disk", "200MiB"]);
    let words = ["--memory", "128MiB", "--disk", "root=64MiB", "--on", "h1"];
    operator.must(&[&["run", "guest", "--name", "web-1"], &words[..]].concat());
    let console = operator.follow(&["console", "web-1", "--no-input"]);
    console.line_with("count=2", Duration::from_secs(60));
    assert_eq!(plugged(&lab, "h1"), (1, 0));

    let nic = format!("user,mac={MAC}");
    operator.must(&["attach", "web-1", "--disk", "data=16MiB", "--nic", &nic]);
    console.line_with("now disks=vda:64MiB,vdb:16MiB", Duration::from_secs(30));
    assert_eq!((plugged(&lab, "h1"), job(&operator).get("resize")), ((2, 1), None));
    // Named by nobody, it has the next free name; and the quota counts.
    operator.must(&["attach", "web-1", "--disk", "8MiB"]);
    console.line_with("vdc:8MiB", Duration::from_secs(30));
    assert!(has_file(&lab, "h1", "disk1"));
    let said = ends(&operator, 3, &["attach", "web-1", "--disk", "big=150MiB"]);
    assert!(said.contains("limit of"), "{said}");
    let said = ends(&operator, 3, &["attach", "web-1", "--nic", "network=nowhere"]);
    assert!(said.contains("nowhere"), "{said}");
    ends(&operator, 2, &["attach", "web-1", "--disk", "data=8MiB"]);
    let said = ends(&operator, 3, &["detach", "web-1", "--disk", "root", "--delete-data"]);
    assert!(said.contains("stop it before"), "{said}");
    assert_eq!(plugged(&lab, "h1"), (3, 1));

    // All of it moves with the guest, which has not been started anew.
    operator.must(&["migrate", "web-1", "h2"]);
    assert_eq!(plugged(&lab, "h2"), (3, 1));
    assert!(has_file(&lab, "h2", "data") && has_file(&lab, "h2", "disk1"));
    let counts = console.line_with("count=", Duration::from_secs(10));
    assert!(!counts.contains("count=0"), "it was not restarted: {counts}");

    operator.must(&["stop", "web-1", "--force"]);
    ends(&operator, 2, &["detach", "web-1", "--disk", "data"]);
    operator.must(&["detach", "web-1", "--disk", "data", "--delete-data", "--nic", MAC]);
    assert!(!has_file(&lab, "h2", "data") && has_file(&lab, "h2", "disk1"));
    operator.must(&["attach", "web-1", "--disk", "late=24MiB"]);
    let console = operator.follow(&["console", "web-1", "--no-input", "--tail", "0"]);
    operator.must(&["start", "web-1"]);
    console.line_with("disks=vda:64MiB,vdb:8MiB,vdc:24MiB nics=none", Duration::from_secs(60));
    assert_eq!(plugged(&lab, "h2"), (3, 0));
}

/// Seconds that a command took.
fn timed(what: &str, f: impl FnOnce()) {
    let begun = Instant::now();
    f();
    println!("{what} took {:?}", begun.elapsed());
}

#[test]
fn lab_a_running_guest_lets_go_of_a_disk_and_a_card_and_counts_on() {
    let Some(lab) = Lab::up("lab_a_running_guest_lets_go", 2) else { return };
    let mut operator = Operator::new();
    operator.make_cluster(&lab);
    let own = format!("user,mac={MAC}");
    let words = ["--memory", "128MiB", "--disk", "root=64MiB", "--disk", "data=16MiB"];
    let more = ["--disk", "more=8MiB", "--nic", &own, "--nic", "user", "--on", "h1"];
    operator.must(&[&["run", "guest", "--name", "web-1"], &words[..], &more].concat());
    let console = operator.follow(&["console", "web-1", "--no-input"]);
    console.line_with("disks=vda:64MiB,vdb:16MiB,vdc:8MiB", Duration::from_secs(60));
    console.line_with("count=2", Duration::from_secs(60));
    assert_eq!(plugged(&lab, "h1"), (3, 2));

    timed("detach of a disk", || {
        operator.must(&["detach", "web-1", "--disk", "data", "--delete-data"]);
    });
    console.line_with("now disks=vda:64MiB,vdc:8MiB", Duration::from_secs(10));
    assert_eq!((plugged(&lab, "h1"), job(&operator).get("resize")), ((2, 2), None));
    assert!(!has_file(&lab, "h1", "data") && has_file(&lab, "h1", "more"));
    timed("detach of a card", || {
        operator.must(&["detach", "web-1", "--nic", MAC]);
    });
    console.line_with("now nics=52:54:", Duration::from_secs(10));
    assert_eq!((plugged(&lab, "h1"), job(&operator).get("resize")), ((2, 1), None));

    // The one behind keeps its name in the guest, grows under it, and what comes gets the free one.
    operator.must(&["resize", "web-1", "--disk", "more=12MiB"]);
    console.line_with("now disks=vda:64MiB,vdc:12MiB", Duration::from_secs(30));
    operator.must(&["snapshots", "take", "web-1", "one"]);
    operator.must(&["snapshots", "rm", "web-1", "one"]);
    operator.must(&["attach", "web-1", "--disk", "data=24MiB"]);
    console.line_with("now disks=vda:64MiB,vdb:24MiB,vdc:12MiB", Duration::from_secs(30));
    operator.must(&["migrate", "web-1", "h2"]);
    assert_eq!(plugged(&lab, "h2"), (3, 1));
    let console = operator.follow(&["console", "web-1", "--no-input"]);
    operator.must(&["detach", "web-1", "--disk", "more", "--delete-data"]);
    console.line_with("now disks=vda:64MiB,vdb:24MiB", Duration::from_secs(30));
    assert!(!has_file(&lab, "h2", "more") && has_file(&lab, "h2", "data"));
    let counts = console.line_with("count=", Duration::from_secs(10));
    assert!(!counts.contains("count=0"), "it was not restarted: {counts}");
}

#[test]
fn lab_what_a_guest_keeps_is_said_and_goes_when_it_lets_go_or_ends() {
    let Some(lab) = Lab::up("lab_what_a_guest_keeps", 1) else { return };
    let mut operator = Operator::new();
    let url = operator.make_cluster(&lab);
    let words = ["--memory", "128MiB", "--disk", "root=64MiB"];
    let more = ["--disk", "data=16MiB", "--disk", "more=8MiB"];
    operator.must(&[&["run", "guest", "--name", "web-1"], &words[..], &more].concat());
    let console = operator.follow(&["console", "web-1", "--no-input"]);
    console.line_with("count=2", Duration::from_secs(60));
    let detach = |disk| ["detach", "web-1", "--disk", disk, "--delete-data"];

    // A guest whose CPUs stand still lets go of nothing; going on, it does, and the agent sees it.
    operator.must(&["pause", "web-1"]);
    let said = ends(&operator, 0, &detach("data"));
    assert!(said.contains("still with disk \"data\" until its next start"), "{said}");
    assert!(said.contains("has not let go"), "{said}");
    assert!(has_file(&lab, "h1", "data"));
    assert_eq!(plugged(&lab, "h1").0, 3);
    let said = ends(&operator, 3, &["attach", "web-1", "--disk", "8MiB"]);
    assert!(said.contains("still with disk"), "{said}");
    ends(&operator, 0, &detach("data"));
    lab.must(&["signal", "h1", "agent", "KILL"]);
    lab.start_agent("h1", &url);
    lab.await_agent("h1");
    operator.must(&["resume", "web-1"]);
    until("the guest to be without it", Duration::from_secs(60), || {
        let resize = job(&operator).get("resize").cloned();
        is(resize.is_none(), resize)
    });
    assert!(!has_file(&lab, "h1", "data") && has_file(&lab, "h1", "more"));
    assert_eq!(plugged(&lab, "h1").0, 2);

    // Kept to the end, it goes with the guest.
    operator.must(&["pause", "web-1"]);
    ends(&operator, 0, &detach("more"));
    assert!(has_file(&lab, "h1", "more"));
    operator.must(&["stop", "web-1", "--force"]);
    until("the file to be gone", Duration::from_secs(30), || {
        is(!has_file(&lab, "h1", "more"), job(&operator))
    });
    let console = operator.follow(&["console", "web-1", "--no-input", "--tail", "0"]);
    operator.must(&["start", "web-1"]);
    console.line_with("disks=vda:64MiB nics=none", Duration::from_secs(60));
}

#[test]
fn lab_an_agent_killed_in_the_middle_takes_a_disk_out_all_the_same() {
    let Some(lab) = Lab::up("lab_an_agent_killed_in_the_middle_takes", 1) else { return };
    let mut operator = Operator::new();
    let url = operator.make_cluster(&lab);
    let words = ["--memory", "128MiB", "--disk", "root=64MiB", "--disk", "data=16MiB"];
    operator.must(&[&["run", "guest", "--name", "web-1"], &words[..]].concat());
    let console = operator.follow(&["console", "web-1", "--no-input"]);
    console.line_with("count=2", Duration::from_secs(60));
    lab.must(&["signal", "h1", "libvirtd", "STOP"]);
    let detach = operator.begin(&["detach", "web-1", "--disk", "data", "--delete-data"]);
    until("the change to be written down", Duration::from_secs(30), || {
        let stage = job(&operator)["resize"]["stage"].clone();
        is(stage == "changing", stage)
    });
    assert!(has_file(&lab, "h1", "data"));
    lab.must(&["signal", "h1", "agent", "KILL"]);
    lab.must(&["signal", "h1", "libvirtd", "KILL"]);
    lab.must(&["exec", "-d", "libvirtd", "h1", "libvirtd"]);
    lab.start_agent("h1", &url);
    let output = detach.wait_with_output().expect("the command ends");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let console = operator.follow(&["console", "web-1", "--no-input"]);
    console.line_with("now disks=vda:64MiB", Duration::from_secs(30));
    assert_eq!((plugged(&lab, "h1"), job(&operator).get("resize")), ((1, 0), None));
    assert!(!has_file(&lab, "h1", "data") && has_file(&lab, "h1", "root"));
    let counts = console.line_with("count=", Duration::from_secs(10));
    assert!(!counts.contains("count=0"), "it was not restarted: {counts}");
}

#[test]
fn lab_an_agent_killed_in_the_middle_plugs_a_disk_in_once() {
    let Some(lab) = Lab::up("lab_an_agent_killed_in_the_middle_plugs", 1) else { return };
    let mut operator = Operator::new();
    let url = operator.make_cluster(&lab);
    let words = ["--memory", "128MiB", "--disk", "root=64MiB"];
    operator.must(&[&["run", "guest", "--name", "web-1"], &words[..]].concat());
    let console = operator.follow(&["console", "web-1", "--no-input"]);
    console.line_with("count=2", Duration::from_secs(60));
    // A stopped libvirtd holds the change between the ledger and the machine.
    lab.must(&["signal", "h1", "libvirtd", "STOP"]);
    let attach = operator.begin(&["attach", "web-1", "--disk", "data=16MiB"]);
    until("the change to be written down", Duration::from_secs(30), || {
        let stage = job(&operator)["resize"]["stage"].clone();
        is(stage == "changing", stage)
    });
    lab.must(&["signal", "h1", "agent", "KILL"]);
    // libvirt 9.0 was seen to crash when a client dies that it was about to answer: so it dies here, too.
    lab.must(&["signal", "h1", "libvirtd", "KILL"]);
    lab.must(&["exec", "-d", "libvirtd", "h1", "libvirtd"]);
    lab.start_agent("h1", &url);
    let output = attach.wait_with_output().expect("the command ends");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let console = operator.follow(&["console", "web-1", "--no-input"]);
    console.line_with("now disks=vda:64MiB,vdb:16MiB", Duration::from_secs(30));
    assert_eq!((plugged(&lab, "h1"), job(&operator).get("resize")), ((2, 0), None));
    let counts = console.line_with("count=", Duration::from_secs(10));
    assert!(!counts.contains("count=0"), "it was not restarted: {counts}");
}
