//! A BMC: a host is switched from outside, by a real fence agent over IPMI, and one that nobody reaches is
//! off for certain before its VM runs elsewhere; one that nobody needs is put to sleep, and woken.

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
    let file = power_file(&lab, &at, &[&host]);
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
    let boot = boot_id(&lab, &host).stdout;

    let fenced = operator.run(&["fence", &host, "--cut-power", "--reason", "nobody reaches it"]);
    assert_eq!(code(&fenced), Some(0), "{}", said(&fenced));
    assert!(said(&fenced).contains("is off, say fence_ipmilan"), "{}", said(&fenced));
    assert_eq!(lab.host(&host)["state"], "off");
    let (new, took) = until("web-1 to run elsewhere", LIMIT, || runs_elsewhere(&operator, &host));
    assert_eq!(lab.virsh_state(&new, "web-1"), "running");
    println!("web-1 runs on {new} {took:?} after the command has ended");

    // It is turned on again, from outside, and is a member that runs nothing of before.
    operator.must(&["power", &host, "on"]);
    lab.must(&["heal", &host]);
    await_booted(&lab, &host, &boot);
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

/// Gives hosts a BMC, and the controller's host a file that names it, which others may read.
fn power_file(lab: &Lab, controller: &str, hosts: &[&str]) -> PathBuf {
    let devices = |host: &str| {
        let bmc = lab.must(&["bmc", host]);
        let [_, address, port] = bmc.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("the lab says {bmc:?}");
        };
        let options = json!({ "ip": address, "ipport": port, "lanplus": "1", "cipher": "3",
            "username": "admin", "password": "secret" });
        json!([{ "agent": "fence_ipmilan", "options": options }])
    };
    let mut named: serde_json::Map<String, Value> =
        hosts.iter().map(|host| ((*host).to_owned(), devices(host))).collect();
    // An address of nobody: two hosts with one device are refused.
    let nobody = json!([{ "agent": "fence_ipmilan", "options": { "ip": "192.0.2.99" } }]);
    named.insert("h99".to_owned(), nobody);
    let file = json!({ "hosts": named });
    let disk = lab.host(controller)["disk"].as_str().expect("a host has a disk").to_owned();
    let path = PathBuf::from(disk).join("etc/ostler/power.json");
    std::fs::write(&path, file.to_string()).expect("the lab's disk is ours");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("it is ours");
    path
}

/// Which boot of its machine a host is in.
fn boot_id(lab: &Lab, host: &str) -> Output {
    lab.exec(host, &["cat", "/proc/sys/kernel/random/boot_id"])
}

fn await_booted(lab: &Lab, host: &str, boot: &[u8]) {
    until("the host to have booted", LIMIT, || {
        let now = boot_id(lab, host);
        let lives = lab.exec(host, &["virsh", "list"]).status.success();
        is(now.status.success() && now.stdout != boot && lives, now)
    });
}

/// Where web-1 runs, if not on this host.
fn runs_elsewhere(operator: &Operator, host: &str) -> Result<String, Vec<(String, String)>> {
    let rows = operator.ps("web-1");
    let found = rows.iter().find(|(state, at)| state == "running" && at != host);
    found.map(|(_, at)| at.clone()).ok_or(rows)
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn lab_a_host_sleeps_until_a_vm_fits_on_no_other_and_is_woken_for_it() {
    let Some(lab) = Lab::up("lab_a_host_sleeps_until_a_vm_fits", 3) else { return };
    let mut operator = Operator::new();
    let begin = Instant::now();
    let url = operator.discover(&lab.operator_address());
    let memory = ["--memory", "512MiB"];
    // Two have the cluster's services, and the third one joins.
    let bootstrap = ["bootstrap", "--discovery", &url, "--monitors", "1", "-n"];
    for host in ["h1", "h2"] {
        lab.start_agent_with(host, &url, &memory);
    }
    operator.must(&[&bootstrap[..], &["2"]].concat());
    lab.start_agent_with("h3", &url, &memory);
    operator.must(&[&bootstrap[..], &["3"]].concat());
    let (at, pid) = operator.service(&lab, "controller");
    let host = without_services(&operator, &lab);
    let others: Vec<String> = lab.hosts().into_iter().filter(|other| *other != host).collect();
    let file = power_file(&lab, &at, &[&host, &at]);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    operator.must(&["run", "--memory", "64MiB", "--on", &host, "--name", "web-1"]);
    for (n, other) in others.iter().enumerate() {
        let name = format!("fill-{n}");
        operator.must(&["run", "--memory", "256MiB", "--on", other, "--name", &name]);
    }

    // A host that the cluster needs is not put to sleep, and no host at once; and nothing has moved.
    let refused = operator.run(&["power", &at, "sleep"]);
    assert_eq!(code(&refused), Some(3), "{}", said(&refused));
    assert!(said(&refused).contains("controller"), "{}", said(&refused));
    let refused = operator.run(&["power", &host, "sleep", "--force"]);
    assert_eq!(code(&refused), Some(3), "{}", said(&refused));
    assert_eq!(lab.virsh_state(&host, "web-1"), "running");

    // It is emptied, is off, and is known for that.
    let slept = operator.run(&["power", &host, "sleep"]);
    assert_eq!(code(&slept), Some(0), "{}", said(&slept));
    assert!(said(&slept).contains("asleep"), "{}", said(&slept));
    assert_eq!(lab.host(&host)["state"], "off");
    println!("{host} is asleep after {:?}", begin.elapsed());
    let moved = operator.await_state("web-1", "running");
    assert!(others.contains(&moved), "{moved}");
    assert_eq!(lab.virsh_state(&moved, "web-1"), "running");
    let again = operator.run(&["power", &host, "sleep"]);
    assert!(code(&again) == Some(0) && said(&again).contains("already"), "{}", said(&again));
    until("it to be unheard, and asleep", LIMIT, || {
        let shown = operator.json(&["hosts"]);
        let rows = shown["hosts"].as_array().cloned().unwrap_or_default();
        let row = rows.into_iter().find(|row| row["host"]["name"] == host.as_str());
        let is_lost = row.is_some_and(|row| row["freshness"] == "lost");
        is(is_lost && shown["asleep"].as_array().is_some_and(|list| list.len() == 1), shown)
    });
    let table = operator.must(&["hosts"]);
    assert!(
        table.lines().any(|line| line.starts_with(&host) && line.contains("asleep")),
        "{table}"
    );
    let doctor = operator.run(&["doctor", "hosts"]);
    assert_eq!(code(&doctor), Some(0), "{}", said(&doctor));

    // A monitor that never heard of it changes nothing.
    let (seat, monitor) = operator.service(&lab, "monitor");
    assert!(lab.exec(&seat, &["kill", "-KILL", &monitor]).status.success());
    until("the next monitor to answer", LIMIT, || {
        let shown = operator.run(&["hosts"]);
        let line =
            said(&shown).lines().any(|line| line.starts_with(&host) && line.contains("asleep"));
        let is_other = operator.service(&lab, "monitor").1 != monitor;
        is(code(&shown) == Some(0) && line && is_other, said(&shown))
    });

    // What fits on a host that is awake wakes nobody; what would be done for a large one is told.
    operator.must(&["run", "--memory", "64MiB", "--name", "small"]);
    assert_eq!(lab.host(&host)["state"], "off");
    let wanted = tempfile::NamedTempFile::new().expect("a temporary file");
    let spec = json!({ "vm": { "vcpus": 1, "memory_bytes": 400 << 20 } });
    let wish = json!({ "expectations": [{ "expect": "runs", "job": "large", "spec": spec }],
        "limits": { "may_make_room": false, "wakes_for": "must" } });
    std::fs::write(wanted.path(), wish.to_string()).expect("the file is ours");
    let path = wanted.path().to_str().expect("a path in UTF-8");
    let plan = operator.run(&["plan", "--expectations", path]);
    assert!(said(&plan).contains(&format!("wake {host} for large")), "{}", said(&plan));
    assert_eq!(lab.host(&host)["state"], "off");

    // It is run, and whoever does it dies while the host boots.
    let run = operator.begin(&["run", "--memory", "400MiB", "--name", "large"]);
    until("the run to wait for the host", LIMIT, || {
        let runs = operator.json(&["runs"])["runs"].to_string();
        is(runs.contains("is awake") && lab.host(&host)["state"] != "off", runs)
    });
    assert!(lab.exec(&at, &["kill", "-KILL", &pid]).status.success());
    until("the host to have booted", LIMIT, || {
        let lives = lab.exec(&host, &["virsh", "list"]);
        is(lives.status.success(), lives)
    });
    let booted = Instant::now();
    lab.start_agent_with(&host, &url, &memory);
    assert_eq!(operator.await_state("large", "running"), host);
    println!("large runs {:?} after the host has booted", booted.elapsed());
    assert_eq!(lab.virsh_state(&host, "large"), "running");
    let ended = run.wait_with_output().expect("the command ends");
    assert_eq!(code(&ended), Some(0), "{}", said(&ended));

    // It takes what fits, as before.
    let shown = operator.json(&["hosts"]);
    assert_eq!(shown["asleep"], json!([]), "{shown}");
    operator.must(&["run", "--memory", "64MiB", "--on", &host, "--name", "web-2"]);
    println!("the story took {:?}", begin.elapsed());
}

#[test]
fn lab_an_empty_host_sleeps_by_itself_and_is_woken_before_it_is_needed() {
    let Some(lab) = Lab::up("lab_an_empty_host_sleeps_by_itself", 3) else { return };
    let mut operator = Operator::new();
    let begin = Instant::now();
    let url = operator.discover(&lab.operator_address());
    let memory = ["--memory", "512MiB"];
    let bootstrap = ["bootstrap", "--discovery", &url, "--monitors", "1", "-n"];
    for host in ["h1", "h2"] {
        lab.start_agent_with(host, &url, &memory);
    }
    operator.must(&[&bootstrap[..], &["2"]].concat());
    lab.start_agent_with("h3", &url, &memory);
    operator.must(&[&bootstrap[..], &["3"]].concat());
    let (at, _) = operator.service(&lab, "controller");
    let host = without_services(&operator, &lab);
    let others: Vec<String> = lab.hosts().into_iter().filter(|other| *other != host).collect();
    for (n, other) in others.iter().enumerate() {
        let name = format!("fill-{n}");
        operator.must(&["run", "--memory", "200MiB", "--on", other, "--name", &name]);
    }
    operator.must(&["run", "--memory", "64MiB", "--on", &host, "--name", "web-1"]);
    let file = power_file(&lab, &at, &[&host, &at]);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("it is ours");

    // Only the one without services may sleep; it is emptied for that.
    let files = tempfile::tempdir().expect("a temporary folder");
    let path = files.path().join("power.json");
    let rule = json!({ "expect": "power_saving", "after_s": 5 });
    std::fs::write(&path, json!({ "expectations": [rule] }).to_string()).expect("it is ours");
    operator.must(&["expect", &path.display().to_string()]);
    let sets = || operator.json(&["expectations", "power"]);
    until("the host to be off, and asleep", 3 * LIMIT, || {
        let shown = operator.json(&["hosts"]);
        let is_asleep = shown["asleep"].as_array().is_some_and(|list| list.len() == 1);
        is(is_asleep && lab.host(&host)["state"] == "off", (shown, sets()))
    });
    println!("{host} sleeps {:?} after the beginning", begin.elapsed());
    let moved = operator.await_state("web-1", "running");
    assert!(others.contains(&moved), "{moved}");
    assert_eq!(lab.virsh_state(&moved, "web-1"), "running");
    for other in &others {
        assert_ne!(lab.host(other)["state"], "off", "{other}");
    }
    until("it to be as expected", LIMIT, || {
        let told = sets();
        let standing = &told["sets"][0]["expectations"][0]["standing"];
        is(standing == "met" || standing == "mending", told.clone())
    });

    // It fits on a host that is awake, but what that one has fits nowhere else then.
    operator.must(&["run", "--memory", "220MiB", "--name", "more"]);
    let at_once = operator.await_state("more", "running");
    assert!(others.contains(&at_once), "{at_once}");
    until("the host to be woken", 3 * LIMIT, || {
        is(lab.host(&host)["state"] != "off", (sets(), operator.json(&["runs"])))
    });
    until("the host to have booted", LIMIT, || {
        let lives = lab.exec(&host, &["virsh", "list"]);
        is(lives.status.success(), lives)
    });
    lab.start_agent_with(&host, &url, &memory);
    until("it to be awake, and to take what fits", LIMIT, || {
        let shown = operator.json(&["hosts"]);
        let rows = shown["hosts"].as_array().cloned().unwrap_or_default();
        let row = rows.into_iter().find(|row| row["host"]["name"] == host.as_str());
        let takes = row.is_some_and(|row| row["host"]["intent"].is_null());
        is(shown["asleep"] == json!([]) && takes, shown)
    });
    operator.must(&["run", "--memory", "64MiB", "--on", &host, "--name", "web-2"]);
    println!("the story took {:?}", begin.elapsed());
}

#[test]
fn lab_nobody_is_switched_off_while_half_of_the_hosts_are_silent() {
    let Some(lab) = Lab::up("lab_nobody_is_switched_off_while_half", 4) else { return };
    let mut operator = Operator::new();
    operator.make_cluster_with(&lab, &["--monitors", "1", "--arbiters", "1"]);
    let at = |role| operator.service(&lab, role).0;
    let (controller, arbiter) = (at("controller"), at("arbiter"));
    // What the controller sees stays; the arbiter may be among the silent, and is heard again first.
    let stay = [&controller, &at("monitor")];
    let mut silent: Vec<String> =
        lab.hosts().into_iter().filter(|host| !stay.contains(&host)).take(2).collect();
    silent.sort_by_key(|host| *host != arbiter);
    let [first, second] = &silent[..] else { panic!("two of four are free") };
    for (host, name) in [(first, "web-1"), (second, "web-2")] {
        operator.must(&["run", "--memory", "64MiB", "--on", host, "--name", name]);
        assert_eq!(operator.await_state(name, "running"), *host);
    }
    let file = power_file(&lab, &controller, &[first, second]);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    operator.must(&["fencing", "set", "--after", "6s"]);
    until("the controller to watch", LIMIT, || {
        let shown = said(&operator.run(&["fencing"]));
        is(shown.contains("watches"), shown)
    });

    // Two of four: it may be the controller who is cut off.
    lab.must(&["cut", first]);
    lab.must(&["cut", second]);
    let left_alone = || {
        let shown = operator.json(&["fencing"]);
        let hosts = shown["fencers"][0]["says"]["hosts"].as_array().cloned().unwrap_or_default();
        let few = hosts.iter().filter(|one| one["standing"]["is"] == "few_heard").count();
        let ms = hosts.iter().filter_map(|one| one["silent_ms"].as_u64()).min().unwrap_or(0);
        (few, ms, shown)
    };
    until("both to be silent for three times that long, and left alone", LIMIT, || {
        for (host, name) in [(first, "web-1"), (second, "web-2")] {
            assert_ne!(lab.host(host)["state"], "off", "{host} was switched off");
            assert_eq!(lab.virsh_state(host, name), "running");
        }
        let (few, ms, shown) = left_alone();
        is(few == 2 && ms >= 18_000, shown)
    });

    // One is heard again: the other is alone with its silence.
    lab.must(&["heal", first]);
    until("the other's power to be cut", LIMIT, || {
        is(lab.host(second)["state"] == "off", said(&operator.run(&["fencing"])))
    });
    assert_ne!(lab.host(first)["state"], "off");
    assert_eq!(lab.virsh_state(first, "web-1"), "running");
    until("web-2 to run elsewhere", LIMIT, || {
        let rows = operator.ps("web-2");
        is(rows.iter().any(|(state, host)| state == "running" && host != second), rows)
    });
}

/// A host on which none of the cluster's services is.
fn without_services(operator: &Operator, lab: &Lab) -> String {
    let rows = operator.json(&["ps", "--all"])["jobs"].as_array().cloned().unwrap_or_default();
    let is_service = |row: &&Value| !row["job"]["spec"]["service"].is_null();
    let with: Vec<&str> =
        rows.iter().filter(is_service).filter_map(|row| row["host_name"].as_str()).collect();
    let free = lab.hosts().into_iter().find(|host| !with.contains(&host.as_str()));
    free.unwrap_or_else(|| panic!("each host has a service: {rows:?}"))
}

#[test]
fn lab_a_host_that_nobody_hears_is_switched_off_by_controllers_and_its_vm_runs_elsewhere_once() {
    let Some(lab) = Lab::up("lab_a_host_that_nobody_hears", 3) else { return };
    let mut operator = Operator::new();
    let begin = Instant::now();
    let url = operator.make_cluster(&lab);
    let (at, pid) = operator.service(&lab, "controller");
    let (arbiter, _) = operator.service(&lab, "arbiter");
    let host = lab.hosts().into_iter().find(|host| *host != at && *host != arbiter);
    let host = host.expect("a third host");
    operator.must(&["run", "--memory", "64MiB", "--on", &host, "--name", "web-1"]);
    assert_eq!(operator.await_state("web-1", "running"), host);

    // Nobody does it until an operator lets them, and then it is said whom they can't switch.
    let none = said(&operator.run(&["fencing"]));
    assert!(none.contains("no controller switches off"), "{none}");
    let file = power_file(&lab, &at, &[&host]);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    let refused = operator.run(&["fencing", "set", &host]);
    assert_eq!(code(&refused), Some(3), "{}", said(&refused));
    let set = said(&operator.run(&["fencing", "set", "--after", "6s"]));
    assert!(set.contains("after 6 s of silence"), "{set}");
    assert!(set.contains(&format!("no controller has a device that switches {at}")), "{set}");
    until("the controller to watch", LIMIT, || {
        let shown = said(&operator.run(&["fencing"]));
        is(shown.contains("watches"), shown)
    });

    // Its cable is pulled; the guest runs on, which nobody sees.
    lab.must(&["cut", &host]);
    let cut = Instant::now();
    assert_eq!(lab.virsh_state(&host, "web-1"), "running");
    let boot = boot_id(&lab, &host).stdout;
    let ((), took) = until("its power to be cut", LIMIT, || {
        is(lab.host(&host)["state"] == "off", said(&operator.run(&["fencing"])))
    });
    println!("{host} is off {took:?} after its cable was pulled");

    // The controller dies before or while it says so; its next life goes on.
    assert!(lab.exec(&at, &["kill", "-KILL", &pid]).status.success());
    let (new, _) = until("web-1 to run elsewhere", Duration::from_secs(120), || {
        runs_elsewhere(&operator, &host)
    });
    assert_eq!(lab.virsh_state(&new, "web-1"), "running");
    println!(
        "web-1 runs on {new} {:?} after the cable was pulled, a controller killed",
        cut.elapsed()
    );
    let fences = operator.json(&["fence"]);
    let since = fences["fences"][0]["since"].as_u64().expect("a version");
    assert!(since > 1_000 && since % 10 == 1, "{fences}");
    assert!(fences["fences"][0]["reason"].to_string().contains("fence_ipmilan"), "{fences}");

    // It is turned on again without anybody's doing, and is a member that runs nothing of before.
    until("it to be turned on", LIMIT, || is(lab.host(&host)["state"] != "off", ()));
    lab.must(&["heal", &host]);
    await_booted(&lab, &host, &boot);
    lab.start_agent(&host, &url);
    until("the host to be well", LIMIT, || {
        let shown = operator.json(&["hosts"]);
        let rows = shown["hosts"].as_array().cloned().unwrap_or_default();
        let row = rows.into_iter().find(|row| row["host"]["name"] == host.as_str());
        let row: Value = row.unwrap_or_default();
        let obeys = row["host"]["trust_version"].as_u64().is_some_and(|version| version >= since);
        is(row["freshness"] == "fresh" && obeys, row)
    });
    assert_ne!(lab.virsh_state(&host, "web-1"), "running");
    assert_eq!(lab.virsh_state(&new, "web-1"), "running");
    let states = operator.ps("web-1");
    assert_eq!(states.iter().filter(|(state, _)| state == "running").count(), 1, "{states:?}");

    // An operator goes on from there, and takes it back.
    operator.must(&["fencing", "none"]);
    let trust = operator.json(&["trust", "show"]);
    println!("the story took {:?}; {trust}", begin.elapsed());
    assert!(said(&operator.run(&["fencing"])).contains("no controller switches off"));
    operator.must(&["run", "--memory", "64MiB", "--name", "web-2"]);
}
