//! Other CPUs and memory for real guests, judged by `virsh vcpucount`, `dommemstat` and `dumpxml`: at
//! once, at the next start, refused by quota and by room, and with the agent killed in the middle.

use std::time::Duration;

use serde_json::Value;
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

/// What `virsh` says a domain has: CPUs and MiB of memory now, and CPUs and MiB that it starts with.
#[derive(Debug, PartialEq, Eq)]
struct Has {
    vcpus: u64,
    memory_mib: u64,
    next_vcpus: u64,
    next_memory_mib: u64,
}

fn virsh(lab: &Lab, host: &str, words: &[&str]) -> String {
    let output = lab.exec(host, &[&["virsh"], words].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "virsh {words:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn number_after(text: &str, mark: &str) -> u64 {
    let (_, rest) = text.split_once(mark).unwrap_or_else(|| panic!("no {mark:?} in {text}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no number after {mark:?} in {text}"))
}

fn has(lab: &Lab, name: &str) -> Has {
    has_on(lab, "h1", name)
}

fn has_on(lab: &Lab, host: &str, name: &str) -> Has {
    let vcpus = virsh(lab, host, &["vcpucount", name, "--live", "--current"]);
    let defined = defined_on(lab, host, name);
    let Defined { vcpus: next_vcpus, memory_mib: next_memory_mib } = defined;
    Has {
        vcpus: vcpus.trim().parse().expect("a number"),
        memory_mib: number_after(&virsh(lab, host, &["dommemstat", name]), "actual ") / 1024,
        next_vcpus,
        next_memory_mib,
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Defined {
    vcpus: u64,
    memory_mib: u64,
}

fn defined_on(lab: &Lab, host: &str, name: &str) -> Defined {
    let vcpus = virsh(lab, host, &["vcpucount", name, "--config", "--current"]);
    let xml = virsh(lab, host, &["dumpxml", name, "--inactive"]);
    let memory_mib = number_after(&xml, "<memory unit='KiB'>") / 1024;
    Defined { vcpus: vcpus.trim().parse().expect("a number"), memory_mib }
}

fn all(vcpus: u64, memory_mib: u64) -> Has {
    Has { vcpus, memory_mib, next_vcpus: vcpus, next_memory_mib: memory_mib }
}

fn job(operator: &Operator, name: &str) -> Value {
    operator.json(&["inspect", name])["jobs"][0]["job"].clone()
}

/// What the host has promised, in CPUs and MiB, once the view shows it.
fn allocation(operator: &Operator) -> (u64, u64) {
    let host = operator.json(&["hosts"])["hosts"][0]["host"]["allocation"].clone();
    let number = |name: &str| host[name].as_u64().expect("a number");
    (number("vcpus"), number("memory_bytes") >> 20)
}

fn await_allocation(operator: &Operator, expected: (u64, u64)) {
    until(&format!("{expected:?} to be promised"), Duration::from_secs(10), || {
        let seen = allocation(operator);
        is(seen == expected, seen)
    });
}

fn refused(operator: &Operator, words: &[&str]) -> String {
    let output = operator.run(words);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    said
}

#[test]
fn lab_a_guest_with_head_room_is_resized_while_it_counts() {
    let Some(lab) = Lab::up("lab_a_guest_with_head_room_is_resized", 1) else { return };
    let mut operator = Operator::new();
    operator.make_cluster(&lab);
    let size = ["--memory", "384MiB", "--max-memory", "1GiB", "--max-vcpus", "4"];
    operator.must(&[&["run", "guest", "--name", "web-1"], &size[..]].concat());
    let console = operator.follow(&["console", "web-1", "--no-input"]);
    console.line_with("count=3", Duration::from_secs(60));
    assert_eq!(has(&lab, "web-1"), all(1, 384));

    let said = operator.must(&["resize", "web-1", "--vcpus", "3", "--memory", "640MiB"]);
    assert!(said.contains("web-1 running on h1 ("), "all of it is there: {said}");
    assert_eq!(has(&lab, "web-1"), all(3, 640));
    assert_eq!(job(&operator, "web-1").get("resize"), None);
    console.line_with("now vcpus=3 memory_kib=655360", Duration::from_secs(30));
    await_allocation(&operator, (3, 640));
    // Memory is the guest's to give back: it is free when `dommemstat` says so.
    operator.must(&["resize", "web-1", "--memory", "512MiB"]);
    assert_eq!(has(&lab, "web-1"), all(3, 512));
    await_allocation(&operator, (3, 512));
    // And it can have it back at once.
    operator.must(&["resize", "web-1", "--memory", "640MiB"]);
    assert_eq!(job(&operator, "web-1").get("resize"), None);

    let said = operator.must(&["resize", "web-1", "--vcpus", "2"]);
    let host = operator.json(&["hosts"])["hosts"][0]["host"].clone();
    if host["hypervisor"]["accel"] == "tcg" {
        // QEMU that translates can't take a CPU out.
        assert!(said.contains("vcpus 2, now 3 until its next start"), "{said}");
        await_allocation(&operator, (3, 640));
        let Has { vcpus, next_vcpus, .. } = has(&lab, "web-1");
        assert_eq!((vcpus, next_vcpus), (3, 2));
        let shown = operator.must(&["ps"]);
        assert!(shown.contains("vcpus 2, now 3 until its next start"), "{shown}");
    }
    let counts = console.line_with("count=", Duration::from_secs(10));
    assert!(!counts.contains("count=0"), "it was not restarted: {counts}");
    operator.must(&["stop", "web-1"]);
    operator.must(&["start", "web-1"]);
    assert_eq!(has(&lab, "web-1"), all(2, 640));
    await_allocation(&operator, (2, 640));
}

#[test]
fn lab_a_guest_without_head_room_grows_at_its_next_start() {
    let Some(lab) = Lab::up("lab_a_guest_without_head_room_grows", 1) else { return };
    let mut operator = Operator::new();
    operator.make_cluster(&lab);
    operator.must(&["run", "--name", "web-1", "--memory", "64MiB"]);
    let said = operator.must(&["resize", "web-1", "--vcpus", "2", "--memory", "128MiB"]);
    let words = "vcpus 2, now 1; memory 128MiB, now 64MiB until its next start";
    assert!(said.contains(words), "{said}");
    let waiting = Has { vcpus: 1, memory_mib: 64, next_vcpus: 2, next_memory_mib: 128 };
    assert_eq!(has(&lab, "web-1"), waiting);
    let resize = job(&operator, "web-1")["resize"].clone();
    assert_eq!((&resize["stage"], &resize["vcpus"]), (&"next_start".into(), &1.into()));
    await_allocation(&operator, (2, 128));
    operator.must(&["stop", "web-1", "--force"]);
    operator.must(&["start", "web-1"]);
    assert_eq!(has(&lab, "web-1"), all(2, 128));

    // Of one that is stopped, the definition changes, and it stays stopped.
    operator.must(&["stop", "web-1", "--force"]);
    operator.must(&["resize", "web-1", "--vcpus", "3"]);
    assert_eq!(lab.virsh_state("h1", "web-1"), "shut off");
    assert_eq!(defined_on(&lab, "h1", "web-1"), Defined { vcpus: 3, memory_mib: 128 });
    operator.must(&["start", "web-1"]);
    assert_eq!(has(&lab, "web-1"), all(3, 128));
}

#[test]
fn lab_a_guest_moves_with_what_it_has_and_with_what_it_waits_for() {
    let Some(lab) = Lab::up("lab_a_guest_moves_with_what_it_has", 2) else { return };
    let mut operator = Operator::new();
    operator.make_cluster(&lab);
    let size = ["--memory", "256MiB", "--max-memory", "512MiB", "--max-vcpus", "2"];
    operator.must(&[&["run", "guest", "--name", "web-1", "--on", "h1"], &size[..]].concat());
    let console = operator.follow(&["console", "web-1", "--no-input"]);
    console.line_with("count=3", Duration::from_secs(60));
    operator.must(&["resize", "web-1", "--vcpus", "3", "--memory", "384MiB"]);
    let waiting = Has { next_vcpus: 3, ..all(2, 384) };
    assert_eq!(has(&lab, "web-1"), waiting);
    operator.must(&["migrate", "web-1", "h2"]);
    assert_eq!(has_on(&lab, "h2", "web-1"), waiting);
    let words = "vcpus 3, now 2 until its next start";
    until("the target to say what waits", Duration::from_secs(10), || {
        let shown = operator.must(&["ps"]);
        is(shown.contains(words), shown)
    });
    operator.must(&["resize", "web-1", "--memory", "512MiB"]);
    assert_eq!(has_on(&lab, "h2", "web-1").memory_mib, 512);
    console.line_with("count=", Duration::from_secs(10));
    operator.must(&["stop", "web-1"]);
    operator.must(&["start", "web-1"]);
    assert_eq!(has_on(&lab, "h2", "web-1"), all(3, 512));
}

#[test]
fn lab_a_growth_beyond_quota_or_room_changes_nothing_and_says_what_would_fit() {
    let Some(lab) = Lab::up("lab_a_growth_beyond_quota_or_room", 1) else { return };
    let mut operator = Operator::new();
    operator.make_cluster(&lab);
    operator.must(&["quota", "set", "default", "--vcpus", "3"]);
    let run = |name: &'static str| {
        ["run", "--memory", "64MiB", "--max-vcpus", "4", "--name", name].to_vec()
    };
    operator.must(&run("web-1"));
    operator.must(&run("web-2"));
    let before = job(&operator, "web-1");
    let said = refused(&operator, &["resize", "web-1", "--vcpus", "3"]);
    assert!(said.contains("limit of 3 vcpus") && said.contains("at most 2 vcpus"), "{said}");
    let said = refused(&operator, &["resize", "web-1", "--memory", "1024TiB"]);
    assert!(said.contains("on this host it could have at most"), "{said}");
    assert_eq!(job(&operator, "web-1"), before, "nothing has changed");
    assert_eq!(has(&lab, "web-1"), all(1, 64));

    operator.must(&["resize", "web-1", "--vcpus", "2"]);
    assert_eq!(has(&lab, "web-1"), all(2, 64));
    // Firmware gives nothing up, so quota is free only when it is gone.
    operator.must(&["resize", "web-1", "--vcpus", "1"]);
    let said = refused(&operator, &["resize", "web-2", "--vcpus", "2"]);
    assert!(said.contains("limit of 3 vcpus"), "{said}");
    operator.must(&["stop", "web-1", "--force"]);
    operator.must(&["start", "web-1"]);
    operator.must(&["resize", "web-2", "--vcpus", "2"]);
    assert_eq!(has(&lab, "web-2"), all(2, 64));
    assert_eq!(has(&lab, "web-1"), all(1, 64));
}

#[test]
fn lab_an_agent_killed_in_the_middle_of_a_resize_completes_it() {
    let Some(lab) = Lab::up("lab_an_agent_killed_in_the_middle_of_a_resize", 1) else { return };
    let mut operator = Operator::new();
    let url = operator.make_cluster(&lab);
    let room = ["--max-vcpus", "4", "--max-memory", "512MiB"];
    operator.must(&[&["run", "--name", "web-1", "--memory", "128MiB"], &room[..]].concat());
    // A stopped libvirtd holds the change between the ledger and the domain.
    lab.must(&["signal", "h1", "libvirtd", "STOP"]);
    let resize = operator.begin(&["resize", "web-1", "--vcpus", "3", "--memory", "384MiB"]);
    until("the change to be written down", Duration::from_secs(30), || {
        let stage = job(&operator, "web-1")["resize"]["stage"].clone();
        is(stage == "changing", stage)
    });
    lab.must(&["signal", "h1", "agent", "KILL"]);
    // libvirt 9.0 was seen to crash when a client dies that it was about to answer: so it dies here, too.
    lab.must(&["signal", "h1", "libvirtd", "KILL"]);
    lab.must(&["exec", "-d", "libvirtd", "h1", "libvirtd"]);
    until("libvirtd to answer again", Duration::from_secs(60), || {
        let answer = lab.exec("h1", &["virsh", "domstate", "web-1"]);
        is(answer.status.success(), answer)
    });
    assert_eq!(has(&lab, "web-1"), all(1, 128), "it was done already");
    lab.start_agent("h1", &url);
    let output = resize.wait_with_output().expect("the command ends");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(has(&lab, "web-1"), all(3, 384));
    until("the view to show that it is through", Duration::from_secs(30), || {
        let resize = job(&operator, "web-1").get("resize").cloned();
        is(resize.is_none(), resize)
    });
    await_allocation(&operator, (3, 384));
}

/// The size of a disk in MiB, as `virsh` or the file says, whoever uses it.
fn disk_mib(lab: &Lab, disk: &str) -> u64 {
    let file = lab.data("h1").join(format!("volumes/web-1/{disk}.qcow2"));
    let mut ask = std::process::Command::new("qemu-img");
    let said = ask.args(["info", "-U", "--output=json"]).arg(file).output().expect("qemu-img runs");
    let said: Value = serde_json::from_slice(&said.stdout).expect("it says JSON");
    said["virtual-size"].as_u64().expect("a size") >> 20
}

#[test]
fn lab_a_disk_grows_while_the_guest_counts_and_while_it_is_off() {
    let Some(lab) = Lab::up("lab_a_disk_grows", 1) else { return };
    let mut operator = Operator::new();
    let url = operator.make_cluster(&lab);
    operator.must(&["quota", "set", "default", "--disk", "200MiB"]);
    let disks = ["--memory", "128MiB", "--disk", "root=64MiB", "--disk", "data=8MiB"];
    operator.must(&[&["run", "guest", "--name", "web-1"], &disks[..]].concat());
    let console = operator.follow(&["console", "web-1", "--no-input"]);
    console.line_with("disks=vda:64MiB,vdb:8MiB", Duration::from_secs(60));
    console.line_with("count=2", Duration::from_secs(60));

    operator.must(&["resize", "web-1", "--disk", "data=16MiB"]);
    console.line_with("now disks=vda:64MiB,vdb:16MiB", Duration::from_secs(30));
    assert_eq!((disk_mib(&lab, "data"), job(&operator, "web-1").get("resize")), (16, None));
    let seen = virsh(&lab, "h1", &["domblkinfo", "web-1", "vdb"]);
    assert!(seen.contains(&(16 << 20).to_string()), "{seen}");

    let said = refused(&operator, &["resize", "web-1", "--disk", "data=8MiB"]);
    assert!(said.contains("only grows"), "{said}");
    let said = refused(&operator, &["resize", "web-1", "--disk", "data=150MiB"]);
    assert!(said.contains("limit of"), "{said}");
    let said = refused(&operator, &["resize", "web-1", "--disk", "data=1024TiB"]);
    assert!(said.contains("on this host it could have at most"), "{said}");
    let output = operator.run(&["resize", "web-1", "--disk", "no=8MiB"]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(disk_mib(&lab, "data"), 16);

    // A stopped libvirtd holds the growth between the ledger and the disk.
    lab.must(&["signal", "h1", "libvirtd", "STOP"]);
    let resize = operator.begin(&["resize", "web-1", "--disk", "data=32MiB"]);
    until("the change to be written down", Duration::from_secs(30), || {
        let stage = job(&operator, "web-1")["resize"]["stage"].clone();
        is(stage == "changing", stage)
    });
    lab.must(&["signal", "h1", "agent", "KILL"]);
    assert_eq!(disk_mib(&lab, "data"), 16, "it was done already");
    // libvirt 9.0 was seen to crash when a client dies that it was about to answer: so it dies here, too.
    lab.must(&["signal", "h1", "libvirtd", "KILL"]);
    lab.must(&["exec", "-d", "libvirtd", "h1", "libvirtd"]);
    lab.start_agent("h1", &url);
    let output = resize.wait_with_output().expect("the command ends");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    // The one before has ended with its agent.
    let console = operator.follow(&["console", "web-1", "--no-input"]);
    console.line_with("now disks=vda:64MiB,vdb:32MiB", Duration::from_secs(30));
    let counts = console.line_with("count=", Duration::from_secs(10));
    assert!(!counts.contains("count=0"), "it was not restarted: {counts}");

    // Going back to what a disk was leaves it as large as it is.
    operator.must(&["snapshots", "take", "web-1", "small"]);
    operator.must(&["resize", "web-1", "--disk", "data=48MiB"]);
    operator.must(&["stop", "web-1", "--force"]);
    operator.must(&["snapshots", "revert", "web-1", "small"]);
    assert_eq!(disk_mib(&lab, "data"), 48);
    operator.must(&["resize", "web-1", "--disk", "root=80MiB"]);
    assert_eq!(disk_mib(&lab, "root"), 80);
    assert_eq!(lab.virsh_state("h1", "web-1"), "shut off");
    let console = operator.follow(&["console", "web-1", "--no-input", "--tail", "0"]);
    operator.must(&["start", "web-1"]);
    console.line_with("disks=vda:80MiB,vdb:48MiB", Duration::from_secs(60));
}
