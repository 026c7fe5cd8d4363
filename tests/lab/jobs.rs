//! What an operator does to a VM between its start and its end, with `virsh` as the judge.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn await_virsh(lab: &Lab, host: &str, state: &str) {
    until(&format!("virsh to say {state}"), Duration::from_secs(10), || {
        let seen = lab.virsh_state(host, "web-1");
        is(seen == state, seen)
    });
}

#[test]
fn lab_pause_resume_save_reset_and_reboot() {
    let Some(lab) = Lab::up("lab_pause_resume_save_reset_and_reboot", 1) else { return };
    let mut operator = Operator::new();
    let url = operator.make_cluster(&lab);
    operator.must(&["run", "--image", "guest", "--name", "web-1", "--memory", "128MiB"]);
    let host = operator.await_state("web-1", "running");
    let console = operator.follow(&["console", "web-1", "--no-input"]);
    console.count();

    operator.must(&["pause", "web-1"]);
    assert_eq!(lab.virsh_state(&host, "web-1"), "paused");
    operator.must(&["pause", "web-1"]);
    lab.must(&["signal", &host, "agent", "KILL"]);
    lab.start_agent(&host, &url);
    lab.await_agent(&host);
    operator.await_state("web-1", "paused");
    operator.must(&["resume", "web-1"]);
    assert_eq!(lab.virsh_state(&host, "web-1"), "running");

    lab.must(&["exec", &host, "virsh", "suspend", "web-1"]);
    operator.await_state("web-1", "paused");
    operator.must(&["resume", "web-1"]);
    await_virsh(&lab, &host, "running");

    let console = operator.follow(&["console", "web-1", "--no-input", "--tail", "0"]);
    let before = console.count();
    operator.must(&["save", "web-1"]);
    assert_eq!(lab.virsh_state(&host, "web-1"), "shut off");
    operator.await_state("web-1", "stopped");
    operator.must(&["start", "web-1"]);
    await_virsh(&lab, &host, "running");
    let console = operator.follow(&["console", "web-1", "--no-input", "--tail", "0"]);
    assert!(console.count() >= before, "it went on where it was");

    operator.must(&["reset", "web-1"]);
    until("the guest to count from the beginning", Duration::from_secs(60), || {
        let number = console.count();
        is(number <= 1, number)
    });
    operator.must(&["reboot", "web-1", "--grace", "5s"]);
    until("the guest to count from the beginning", Duration::from_secs(60), || {
        let number = console.count();
        is(number <= 1, number)
    });
    assert_eq!(operator.await_state("web-1", "running"), host);
    operator.must(&["stop", "web-1"]);
    operator.must(&["rm", "web-1"]);
    assert_eq!(lab.virsh_domains(&host), Vec::<String>::new());
}

#[test]
fn lab_a_vm_gets_the_machine_and_the_cloud_init_it_asks_for() {
    let Some(lab) = Lab::up("lab_a_vm_gets_the_machine_and_the_cloud_init_it_asks_for", 1) else {
        return;
    };
    let mut operator = Operator::new();
    operator.make_cluster(&lab);
    let user_data = operator.context().join("user-data");
    std::fs::write(&user_data, "#cloud-config\nhostname: web-1\n").expect("a file can be written");
    let user_data = user_data.to_str().expect("a path in UTF-8");
    let nic = "user,mac=52:54:00:12:34:56,model=e1000e";
    let run = ["run", "--image", "guest", "--name", "web-1", "--memory", "128MiB", "--nic", nic];
    operator.must(&[&run[..], &["--vnc", "--cloud-init-user-data", user_data]].concat());
    let host = operator.await_state("web-1", "running");
    let console = operator.follow(&["console", "web-1", "--no-input"]);
    console.count();
    let xml = lab.must(&["exec", &host, "virsh", "dumpxml", "web-1"]);
    for part in ["52:54:00:12:34:56", "e1000e", "device='cdrom'", "type='vnc'", "seed.iso"] {
        assert!(xml.contains(part), "{part} is missing in {xml}");
    }
    a_screen_is_seen_from_afar(&lab, &operator, &host);
    let seed = lab.data(&host).join("volumes/web-1/seed.iso");
    let bytes = std::fs::read(seed).expect("the CD is there");
    assert!(bytes[16 * 2048 + 40..].starts_with(b"cidata "), "its label is cidata");
    let used = operator.json(&["top", "web-1"])["vms"][0].clone();
    assert!(used["memory_bytes"].as_u64() > Some(0) && used["host"] == host.as_str(), "{used}");
    assert!(used["cpus"].as_f64() > Some(0.0), "it counts: {used}");
    let socket = lab.data(&host).join("agent.sock");
    let socket = socket.to_str().expect("a path in UTF-8");
    let ask = ["curl", "-s", "--unix-socket", socket, "http://agent/v1/usage"];
    let usage: Value = serde_json::from_slice(&lab.exec(&host, &ask).stdout).expect("JSON");
    let disk = &usage["guests"][0]["disks"][0];
    assert!(disk["device"] == "vda" && disk["read_bytes"].as_u64() > Some(0), "{usage}");
    operator.must(&["rm", "web-1", "--force"]);
    assert!(!lab.data(&host).join("volumes/web-1").exists());
}

/// As a picture and by VNC, while nothing on its host listens for that.
fn a_screen_is_seen_from_afar(lab: &Lab, operator: &Operator, host: &str) {
    let file = operator.context().join("web-1.png");
    let name = file.to_str().expect("a path in UTF-8");
    operator.must(&["screenshot", "web-1", "-o", name]);
    let png = std::fs::read(&file).expect("the picture is there");
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"), "{} bytes", png.len());
    let size = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().expect("four bytes"));
    assert!(size(16) >= 320 && size(20) >= 200, "{} by {}", size(16), size(20));

    let socket = operator.context().join("web-1.vnc");
    let words = ["vnc", "web-1", "--once", "--socket", socket.to_str().expect("a path in UTF-8")];
    let watching = operator.follow(&words);
    watching.line_with("web-1.vnc", Duration::from_secs(20));
    let mut viewer = UnixStream::connect(&socket).expect("it listens");
    viewer.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let read = |bytes: usize, viewer: &mut UnixStream| {
        let mut buffer = vec![0; bytes];
        viewer.read_exact(&mut buffer).expect("QEMU speaks");
        buffer
    };
    let greeting = read(12, &mut viewer);
    assert!(greeting.starts_with(b"RFB 003."), "{greeting:?}");
    viewer.write_all(b"RFB 003.008\n").expect("it is told");
    // One way in, and it is: without a password.
    assert_eq!(read(2, &mut viewer), [1, 1]);
    viewer.write_all(&[1]).expect("it is told");
    assert_eq!(read(4, &mut viewer), [0; 4], "it is let in");
    // Others may look, too. It answers with width and height first.
    viewer.write_all(&[1]).expect("it is told");
    let seen = read(4, &mut viewer);
    assert_eq!(u32::from(u16::from_be_bytes([seen[0], seen[1]])), size(16));

    let listening = lab.must(&["exec", host, "ss", "-Htlnp"]);
    assert!(!listening.contains("qemu"), "QEMU listens at a port: {listening}");
}

#[test]
fn lab_a_one_off_job_runs_to_completion_or_to_its_deadline() {
    let Some(lab) = Lab::up("lab_a_one_off_job_runs_to_completion_or_to_its_deadline", 1) else {
        return;
    };
    let mut operator = Operator::new();
    operator.make_cluster(&lab);
    let run = |name, more: &[&str]| {
        let words = ["run", "--image", "guest", "--name", name, "--memory", "128MiB"];
        operator.must(&[&words[..], more].concat());
    };
    run("done", &["--deadline", "10m"]);
    let host = operator.await_state("done", "running");
    let mut console = operator.follow_at_terminal(&["console", "done"]);
    console.count();
    console.type_line("exit 3");
    let waited = operator.run(&["wait", "done", "--timeout", "60s"]);
    assert_eq!(waited.status.code(), Some(1), "{waited:?}");
    assert!(said(&waited).contains("exited with 3"), "{waited:?}");
    assert_eq!(lab.virsh_state(&host, "done"), "shut off");

    run("late", &["--deadline", "2s"]);
    let waited = operator.run(&["wait", "late", "--timeout", "60s"]);
    assert!(said(&waited).contains("not done by its deadline"), "{waited:?}");
    assert_eq!(lab.virsh_state(&host, "late"), "shut off");
    operator.must(&["rm", "done"]);
    operator.must(&["rm", "late"]);
    assert_eq!(lab.virsh_domains(&host), Vec::<String>::new());
}

#[test]
fn lab_a_guest_that_dies_and_one_whose_host_lost_power_are_started_again() {
    let Some(lab) = Lab::up("lab_a_guest_that_dies_and_one_whose_host_lost_power", 1) else {
        return;
    };
    let mut operator = Operator::new();
    let url = operator.make_cluster(&lab);
    let run = ["run", "--image", "guest", "--name", "web-1", "--memory", "128MiB"];
    operator.must(&[&run[..], &["--restart", "on-crash", "--autostart"]].concat());
    let host = operator.await_state("web-1", "running");
    let pid = || {
        let output = lab.exec(&host, &["cat", "/run/libvirt/qemu/web-1.pid"]);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let old = pid();
    let killed = lab.exec(&host, &["kill", "-9", &old]);
    assert!(killed.status.success(), "{killed:?}");
    until("another process to run it", Duration::from_secs(60), || {
        let now = pid();
        is(!now.is_empty() && now != old, now)
    });
    assert_eq!(operator.await_state("web-1", "running"), host);
    await_virsh(&lab, &host, "running");

    // What virsh destroys has not crashed.
    lab.must(&["exec", &host, "virsh", "destroy", "web-1"]);
    operator.await_state("web-1", "crashed");
    operator.must(&["start", "web-1"]);
    await_virsh(&lab, &host, "running");

    lab.must(&["kill", &host]);
    lab.must(&["boot", &host]);
    assert_eq!(lab.virsh_state(&host, "web-1"), "shut off");
    lab.start_agent(&host, &url);
    until("virsh to say running", Duration::from_secs(60), || {
        let seen = lab.virsh_state(&host, "web-1");
        is(seen == "running", seen)
    });
    operator.await_state("web-1", "running");
}
