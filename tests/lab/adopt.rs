//! A domain that somebody else has made becomes a job in place and is given back, and what `virsh` does
//! behind our back is seen at once.

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

/// A firmware-only guest with devices that Ostler has no words for.
const LEGACY: &str = "<domain type='qemu'><name>legacy</name>
  <metadata><app:owner xmlns:app='urn:app'>somebody else</app:owner></metadata>
  <memory unit='KiB'>66000</memory><currentMemory unit='KiB'>60000</currentMemory>
  <vcpu placement='static' current='1'>2</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/><bios useserial='yes'/></os>
  <on_reboot>restart</on_reboot>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/>
      <source file='/var/lib/libvirt/images/legacy.raw'/><target dev='vda' bus='virtio'/></disk>
    <interface type='user'><mac address='52:54:00:aa:bb:cc'/><model type='virtio'/></interface>
    <serial type='pty'><target port='0'/></serial>
    <input type='tablet' bus='usb'/><graphics type='vnc' autoport='yes' passwd='secret'/>
    <sound model='ich6'/>
  </devices></domain>";

fn virsh(lab: &Lab, words: &[&str]) -> String {
    let output = lab.exec("h1", &[&["virsh"], words].concat());
    assert!(output.status.success(), "virsh {words:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn sh(lab: &Lab, script: &str) -> String {
    let output = lab.exec("h1", &["sh", "-c", script]);
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn start_legacy(lab: &Lab) {
    let make =
        "mkdir -p /var/lib/libvirt/images && truncate -s 8M /var/lib/libvirt/images/legacy.raw";
    let define =
        format!("cat >/run/legacy.xml <<'END'\n{LEGACY}\nEND\nvirsh define /run/legacy.xml");
    sh(lab, &format!("{make} && {define} && virsh start legacy"));
}

fn observed(operator: &Operator) -> Vec<(String, bool)> {
    let host = operator.json(&["inspect", "h1"]);
    let rows = host["observed"].as_array().cloned().unwrap_or_default();
    let row = |d: &Value| (d["name"].as_str().map(str::to_owned), d["is_active"].as_bool());
    rows.iter().map(row).filter_map(|(name, active)| Some((name?, active?))).collect()
}

fn await_observed(operator: &Operator, name: &str, limit: Duration) {
    until(&format!("{name} to be observed"), limit, || {
        let rows = observed(operator);
        is(rows.iter().any(|(n, _)| n == name), rows)
    });
}

#[test]
fn lab_a_domain_is_adopted_in_place_and_released_as_it_was() {
    let Some(lab) = Lab::up("lab_a_domain_is_adopted_in_place_and_released_as_it_was", 1) else {
        return;
    };
    let mut operator = Operator::new();
    let url = operator.make_cluster(&lab);
    start_legacy(&lab);
    await_observed(&operator, "legacy", Duration::from_secs(5));
    let pid = || sh(&lab, "cat /run/libvirt/qemu/legacy.pid");
    let definition = || virsh(&lab, &["dumpxml", "--inactive", "--security-info", "legacy"]);
    let (first_pid, original) = (pid(), definition());

    operator.must(&["adopt", "h1", "legacy"]);
    operator.must(&["adopt", "h1", "legacy"]);
    assert_eq!(operator.await_state("legacy", "running"), "h1");
    assert_eq!(pid(), first_pid, "the same process goes on");
    assert!(definition().contains("urn:ostler:job"), "libvirt knows whose it is");
    assert_eq!(observed(&operator), []);
    let job = operator.json(&["inspect", "legacy"])["jobs"][0]["job"].clone();
    assert!(job["hold"].is_object(), "it runs under a ticket: {job}");
    let vm = &job["spec"]["vm"];
    assert_eq!((&vm["vcpus"], &vm["disks"][0]["size_bytes"]), (&1.into(), &(8 << 20).into()));
    assert_eq!(vm["nics"][0]["mac"], "52:54:00:aa:bb:cc");

    let console = operator.follow(&["console", "legacy", "--no-input"]);
    // What it prints before somebody looks is lost.
    let (firmware, _) = until("the firmware on its console", Duration::from_secs(60), || {
        let reset = operator.run(&["reset", "legacy"]);
        let (begin, mut seen) = (Instant::now(), Vec::new());
        while begin.elapsed() < Duration::from_secs(5) {
            seen.extend(console.lines());
            if let Some(line) = seen.iter().find(|line| line.contains("SeaBIOS")) {
                return Ok(line.clone());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err((reset, seen))
    });
    println!("on the console of a guest that nobody logged: {firmware}");
    drop(console);

    lab.must(&["signal", "h1", "agent", "KILL"]);
    lab.start_agent("h1", &url);
    until("the next life of the agent", Duration::from_secs(30), || {
        let asked = operator.run(&["pause", "legacy"]);
        is(asked.status.success(), asked)
    });
    assert_eq!(lab.virsh_state("h1", "legacy"), "paused");
    operator.must(&["resume", "legacy"]);
    assert_eq!(pid(), first_pid, "the same process goes on");

    operator.must(&["stop", "legacy", "--force"]);
    assert_eq!(lab.virsh_state("h1", "legacy"), "shut off");
    operator.must(&["start", "legacy"]);
    assert_eq!(lab.virsh_state("h1", "legacy"), "running");
    let later_pid = pid();
    assert_ne!(later_pid, first_pid);

    operator.must(&["release", "legacy"]);
    assert_eq!(pid(), later_pid, "it runs on");
    assert_eq!(definition(), original);
    until("the view to have it no more", Duration::from_secs(30), || {
        let rows = operator.ps("legacy");
        is(rows.is_empty(), rows)
    });
    await_observed(&operator, "legacy", Duration::from_secs(5));
    assert_eq!(operator.run(&["release", "legacy"]).status.code(), Some(5), "there is none now");

    operator.must(&["adopt", "h1", "legacy", "--name", "renamed"]);
    operator.must(&["rm", "renamed", "--force"]);
    assert_eq!(lab.virsh_domains("h1"), ["legacy"], "what Ostler did not make it does not delete");
    assert_eq!(definition(), original);
    assert!(sh(&lab, "ls /var/lib/libvirt/images").contains("legacy.raw"));
}

#[test]
fn lab_what_virsh_does_behind_our_back_is_an_event_within_a_second() {
    let Some(lab) = Lab::up("lab_what_virsh_does_behind_our_back_is_an_event", 1) else { return };
    let mut operator = Operator::new();
    operator.make_cluster(&lab);
    operator.must(&["run", "--name", "web-1", "--memory", "64MiB"]);
    operator.await_state("web-1", "running");
    start_legacy(&lab);
    await_observed(&operator, "legacy", Duration::from_secs(5));
    let events = operator.follow(&["events", "--follow", "--json"]);
    events.note_with("following", Duration::from_secs(10));
    let limit = Duration::from_secs(20);
    let timed = |words: &[&str], seen: &str| {
        // What has been said before is of before.
        drop(events.lines());
        virsh(&lab, words);
        let ended = Instant::now();
        events.line_with(seen, limit);
        let took = ended.elapsed();
        println!("{:4} ms after virsh {}", took.as_millis(), words.join(" "));
        // Some 50 ms where nothing else is done; who only lists what there is does so every 30 s.
        assert!(took < Duration::from_secs(5), "{took:?} after virsh {words:?}");
    };
    timed(&["suspend", "web-1"], r#""state":"paused""#);
    timed(&["resume", "web-1"], r#""state":"running""#);
    timed(&["destroy", "web-1"], r#""state":"crashed""#);
    timed(&["start", "web-1"], r#""state":"running""#);
    timed(&["suspend", "web-1"], r#""state":"paused""#);
    timed(&["destroy", "web-1"], r#""state":"crashed""#);
    timed(&["destroy", "legacy"], r#""is_active":false"#);
    timed(&["start", "legacy"], r#""is_active":true"#);
    virsh(&lab, &["destroy", "legacy"]);
    timed(&["undefine", "legacy"], r#""kind":"domain_gone""#);

    // Undefined while it is off, a job is still a job: its next start defines it again.
    virsh(&lab, &["undefine", "web-1"]);
    operator.must(&["start", "web-1"]);
    assert_eq!(lab.virsh_state("h1", "web-1"), "running");
    // Undefined while it runs, it runs on, and is stopped and started as ever.
    virsh(&lab, &["undefine", "web-1"]);
    assert_eq!(operator.ps("web-1"), [("running".to_owned(), "h1".to_owned())]);
    operator.must(&["stop", "web-1", "--force"]);
    assert_eq!(lab.virsh_domains("h1"), Vec::<String>::new());
    operator.must(&["start", "web-1"]);
    assert_eq!(lab.virsh_state("h1", "web-1"), "running");
    operator.must(&["rm", "web-1", "--force"]);
    assert_eq!(lab.virsh_domains("h1"), Vec::<String>::new());
}
