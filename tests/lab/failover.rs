//! VMs that are killed when their host is cut off, and run elsewhere by themselves, never twice.

use std::time::{Duration, Instant};

use tests::dog::{DOG_AT, Dog};
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

const LIMIT: Duration = Duration::from_secs(60);

/// Protocol §12 says 11 to 15 s from the loss of a host; the rest is for a busy machine.
const FAILOVER: Duration = Duration::from_secs(25);

/// D of the trust document that `bootstrap` writes.
const TERM: Duration = Duration::from_secs(9);

/// A cluster whose arbiters outlive any one host, with a VM that may be lost.
fn cluster(lab: &Lab, operator: &mut Operator) -> String {
    let url = operator.make_cluster_with(lab, &["--arbiters", "3", "--controllers", "3"]);
    let size = ["--memory", "64MiB", "--max-vcpus", "2"];
    operator.must(&[&["run", "--name", "web-1", "--on-loss", "stop"], &size[..]].concat());
    url
}

/// The hosts on which libvirt says that it runs.
fn running_on(lab: &Lab, name: &str) -> Vec<String> {
    let runs = |host: &String| lab.virsh_state(host, name) == "running";
    lab.hosts().into_iter().filter(runs).collect()
}

/// Where it runs now, looked at until that is one host and not this one. Fails if it is ever two.
fn await_elsewhere(lab: &Lab, not: &str) -> (String, Duration) {
    until("web-1 to run elsewhere", LIMIT, || {
        let found = running_on(lab, "web-1");
        assert!(found.len() < 2, "web-1 runs on {found:?}");
        found.iter().find(|host| *host != not).cloned().ok_or(found)
    })
}

#[test]
fn lab_a_vm_of_a_dead_host_runs_elsewhere_by_itself_and_what_is_deleted_stays_so() {
    let Some(lab) = Lab::up("lab_a_vm_of_a_dead_host_runs_elsewhere", 3) else { return };
    let mut operator = Operator::new();
    let url = cluster(&lab, &mut operator);
    let dead = operator.await_state("web-1", "running");
    lab.must(&["kill", &dead]);
    let (host, took) = await_elsewhere(&lab, &dead);
    println!("web-1 runs on {host} {took:?} after {dead} lost its power");
    assert!(took < FAILOVER, "{took:?}");
    until("its stop to be taken", LIMIT, || {
        // The run that has started it may not have ended yet.
        let stopped = operator.run(&["stop", "web-1", "--force"]);
        is(stopped.status.success(), stopped)
    });
    assert_eq!(lab.virsh_state(&host, "web-1"), "shut off");

    // The host comes back with what it had. Nobody wants it any more, and it knows that.
    lab.must(&["boot", &dead]);
    lab.start_agent(&dead, &url);
    until("the returned host to have let go of it", LIMIT, || {
        let row = operator.row_on("web-1", &dead);
        is(row["job"]["reason"] == "tenure_lost" && row["job"]["hold"].is_null(), row)
    });
    operator.must(&["rm", "web-1"]);
    until("it to be gone everywhere", LIMIT, || {
        // A controller that has not heard the returned host yet leaves what it has there.
        let left: Vec<_> = lab.hosts().iter().flat_map(|host| lab.virsh_domains(host)).collect();
        if !left.is_empty() {
            let _ = operator.run(&["rm", "web-1"]);
        }
        is(left.is_empty() && operator.ps("web-1").is_empty(), left)
    });
}

#[test]
fn lab_a_host_that_is_cut_off_ends_its_vm_before_it_runs_elsewhere() {
    let Some(lab) = Lab::up("lab_a_host_that_is_cut_off_ends_its_vm", 3) else { return };
    let mut operator = Operator::new();
    cluster(&lab, &mut operator);
    let cut = operator.await_state("web-1", "running");
    lab.must(&["cut", &cut]);
    let begin = Instant::now();
    let (_, ended) = until("its host to have ended it", LIMIT, || {
        let state = lab.virsh_state(&cut, "web-1");
        is(state == "shut off", state)
    });
    println!("{cut} has ended web-1 {ended:?} after it was cut off");
    assert!(ended < TERM, "K before the end of its last term: {ended:?}");
    let (host, _) = await_elsewhere(&lab, &cut);
    println!("web-1 runs on {host} {:?} after the cut", begin.elapsed());
    assert!(begin.elapsed() < FAILOVER);
    lab.must(&["heal", &cut]);
    until("the healed host to say that it has lost it", LIMIT, || {
        let row = operator.row_on("web-1", &cut);
        is(row["job"]["reason"] == "tenure_lost", row)
    });
    assert_eq!(running_on(&lab, "web-1"), [host]);
}

/// Neither the keeper that hangs, which is killed, nor the next, which can't begin: the agent does it. A
/// process that hangs keeps its socket open, so nobody is told.
#[test]
fn lab_a_host_that_is_cut_off_while_its_keeper_hangs_ends_its_vm_all_the_same() {
    let Some(lab) = Lab::up("lab_a_host_that_is_cut_off_while_its_keeper", 3) else { return };
    let mut operator = Operator::new();
    cluster(&lab, &mut operator);
    let cut = operator.await_state("web-1", "running");
    // Has the lock that a keeper needs as soon as the one that hangs is dead.
    let lock = "/var/lib/ostler/keeper/lock";
    lab.must(&["exec", "-d", "lock", &cut, "flock", "--close", lock, "sleep", "600"]);
    let hung = keepers(&lab, &cut);
    stop_keepers(&lab, &cut);
    lab.must(&["cut", &cut]);
    let begin = Instant::now();
    let (_, ended) = until("its host to have ended it", LIMIT, || {
        let state = lab.virsh_state(&cut, "web-1");
        is(state == "shut off", state)
    });
    println!("{cut} has ended web-1 {ended:?} after it was cut off, without its keeper");
    assert!(ended < TERM + TERM / 4, "soon after the end of its last term: {ended:?}");
    let (host, _) = await_elsewhere(&lab, &cut);
    println!("web-1 runs on {host} {:?} after the cut", begin.elapsed());
    assert!(keepers(&lab, &cut).iter().all(|pid| !hung.contains(pid)), "it was killed");
    // The next one finds what that one knew, and does not go on with it.
    lab.must(&["signal", &cut, "lock", "KILL"]);
    lab.must(&["heal", &cut]);
    until("the healed host to say that it has lost it", LIMIT, || {
        let row = operator.row_on("web-1", &cut);
        is(row["job"]["reason"] == "tenure_lost", row)
    });
    assert_eq!(running_on(&lab, "web-1"), [host]);
}

#[test]
fn lab_a_keeper_that_hangs_is_replaced_and_its_vm_does_not_notice() {
    let Some(lab) = Lab::up("lab_a_keeper_that_hangs_is_replaced", 3) else { return };
    let mut operator = Operator::new();
    cluster(&lab, &mut operator);
    let host = operator.await_state("web-1", "running");
    let (guest, hung) = (guest_pid(&lab, &host), keepers(&lab, &host));
    stop_keepers(&lab, &host);
    let (_, took) = until("another keeper to be there, and that one not", LIMIT, || {
        let now = keepers(&lab, &host);
        is(!now.is_empty() && now.iter().all(|pid| !hung.contains(pid)), now)
    });
    println!("the keeper of {host} was replaced {took:?} after it was stopped");
    runs_on_for_two_terms(&lab, &host, &guest);
    let more = ["--on-loss", "stop", "--memory", "64MiB", "--on", &host];
    operator.must(&[&["run", "--name", "web-2"], &more[..]].concat());
    assert_eq!(operator.await_state("web-2", "running"), host);
    assert_eq!(guest_pid(&lab, &host), guest);
    let told = operator.run(&["doctor", "hosts"]).stdout;
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(told.contains("a keeper hung and was replaced"), "{told}");
}

/// Nobody on the host ends its VM, so the host is reset.
#[test]
fn lab_a_host_whose_agent_and_keeper_hang_is_reset_by_its_watchdog() {
    let Some(lab) = Lab::up("lab_a_host_whose_agent_and_keeper_hang", 3) else { return };
    let mut operator = Operator::new();
    let url = cluster(&lab, &mut operator);
    let host = operator.await_state("web-1", "running");
    let guest = guest_pid(&lab, &host);
    let dog = Dog::beside(&lab, &host);
    lab.must(&["signal", &host, "agent", "KILL"]);
    lab.start_agent_with(&host, &url, &["--watchdog", DOG_AT]);
    until("a keeper to feed it", LIMIT, || is(dog.known().meals > 0, dog.known()));
    runs_on_for_two_terms(&lab, &host, &guest);
    // One of the two is enough, and another keeper is there in time.
    let hung = keepers(&lab, &host);
    stop_keepers(&lab, &host);
    until("another keeper to feed it", LIMIT, || {
        let now = keepers(&lab, &host);
        is(now.iter().any(|pid| !hung.contains(pid)), now)
    });
    runs_on_for_two_terms(&lab, &host, &guest);
    assert_eq!(dog.known().bitten, None);

    lab.must(&["signal", &host, "agent", "STOP"]);
    stop_keepers(&lab, &host);
    lab.must(&["cut", &host]);
    let begin = Instant::now();
    let (there, took) = await_elsewhere(&lab, &host);
    println!("web-1 runs on {there} {took:?} after its host was cut off and hung");
    let bitten = dog.known().bitten.expect("nobody else could end it");
    println!("its host was off {:?} after that", bitten.duration_since(begin));
    assert!(bitten.duration_since(begin) < TERM, "before its cover ended");
    assert!(took < FAILOVER, "{took:?}");
}

/// Its keepers, as a host counts them.
fn keepers(lab: &Lab, host: &str) -> Vec<String> {
    let found = lab.exec(host, &["pgrep", "-f", "ostler keeper"]).stdout;
    String::from_utf8_lossy(&found).split_whitespace().map(str::to_owned).collect()
}

/// Lets them hang: they are there, and do nothing.
fn stop_keepers(lab: &Lab, host: &str) {
    assert!(lab.exec(host, &["pkill", "-STOP", "-f", "ostler keeper"]).status.success());
}

fn runs_on_for_two_terms(lab: &Lab, host: &str, guest: &str) {
    let looked = Instant::now();
    until("two terms to be over", LIMIT, || {
        assert_eq!(guest_pid(lab, host), guest, "it was not started again");
        is(looked.elapsed() > 2 * TERM, looked.elapsed())
    });
}

#[test]
fn lab_a_vm_runs_on_without_its_agent_its_keeper_or_one_arbiter_and_moves() {
    let Some(lab) = Lab::up("lab_a_vm_runs_on_without_its_agent", 3) else { return };
    let mut operator = Operator::new();
    let url = cluster(&lab, &mut operator);
    let host = operator.await_state("web-1", "running");
    let pid = guest_pid(&lab, &host);

    lab.must(&["signal", &host, "agent", "KILL"]);
    let looked = Instant::now();
    until("two terms to be over", LIMIT, || {
        assert_eq!(guest_pid(&lab, &host), pid, "the keeper renews");
        is(looked.elapsed() > 2 * TERM, looked.elapsed())
    });
    lab.start_agent(&host, &url);
    assert_eq!(operator.await_state("web-1", "running"), host);

    let keeper = || keepers(&lab, &host);
    let killed = keeper();
    until("the keeper to keep its memory", LIMIT, || {
        let status = lab.exec(&host, &["cat", &format!("/proc/{}/status", killed[0])]).stdout;
        let status = String::from_utf8_lossy(&status).into_owned();
        let locked = status.lines().find(|line| line.starts_with("VmLck:"));
        is(locked.is_some_and(|line| !line.ends_with(" 0 kB")), locked.map(str::to_owned))
    });
    assert!(lab.exec(&host, &["pkill", "-9", "-f", "ostler keeper"]).status.success());
    until("the agent to start another", LIMIT, || {
        let now = keeper();
        is(!now.is_empty() && now != killed, now)
    });

    // As an upgrade does it.
    let upgraded = lab.data(&host).join("upgraded-ostler");
    std::fs::copy(tests::lab::ostler(), &upgraded).expect("copy the program");
    lab.must(&["signal", &host, "agent", "KILL"]);
    let before = keeper();
    lab.start_agent_of(&upgraded, &host, &url);
    until("its keeper to be of the new program", LIMIT, || {
        let now = keeper();
        let is_new = now.iter().any(|pid| {
            let exe = lab.exec(&host, &["readlink", &format!("/proc/{pid}/exe")]).stdout;
            String::from_utf8_lossy(&exe).trim() == upgraded.to_string_lossy()
        });
        is(is_new && now.iter().all(|pid| !before.contains(pid)), now)
    });
    assert_eq!(operator.await_state("web-1", "running"), host);
    assert_eq!(guest_pid(&lab, &host), pid);

    let (arbiter_host, arbiter) = operator.service(&lab, "arbiter");
    assert!(lab.exec(&arbiter_host, &["kill", "-STOP", &arbiter]).status.success());
    let looked = Instant::now();
    until("two terms to be over without one arbiter", LIMIT, || {
        assert_eq!(guest_pid(&lab, &host), pid, "two of three cover it");
        is(looked.elapsed() > 2 * TERM, looked.elapsed())
    });
    assert!(lab.exec(&arbiter_host, &["kill", "-CONT", &arbiter]).status.success());

    let to = lab.hosts().into_iter().find(|other| *other != host).expect("another host");
    operator.must(&["migrate", "web-1", &to]);
    assert_eq!(running_on(&lab, "web-1"), std::slice::from_ref(&to));
    let moved = guest_pid(&lab, &to);
    let looked = Instant::now();
    until("two terms to be over there", LIMIT, || {
        assert_eq!(guest_pid(&lab, &to), moved, "its new host's keeper renews");
        is(looked.elapsed() > 2 * TERM, looked.elapsed())
    });
}

#[test]
fn lab_a_vm_that_may_be_lost_grows_while_it_runs_and_runs_elsewhere_in_its_new_size() {
    let Some(lab) = Lab::up("lab_a_vm_that_may_be_lost_grows", 3) else { return };
    let mut operator = Operator::new();
    cluster(&lab, &mut operator);
    let host = operator.await_state("web-1", "running");
    let pid = guest_pid(&lab, &host);
    let before = operator.row_on("web-1", &host)["job"]["hold"].clone();
    let cpus = |host: &str| {
        let count = lab.exec(host, &["virsh", "vcpucount", "web-1", "--live", "--current"]);
        String::from_utf8_lossy(&count.stdout).trim().to_owned()
    };
    assert_eq!(cpus(&host), "1");

    operator.must(&["resize", "web-1", "--vcpus", "2"]);
    assert_eq!(cpus(&host), "2");
    assert_ne!(operator.row_on("web-1", &host)["job"]["hold"], before, "another right to run it");
    let looked = Instant::now();
    until("two terms to be over", LIMIT, || {
        assert_eq!(guest_pid(&lab, &host), pid, "its keeper has gone on with the new one");
        is(looked.elapsed() > 2 * TERM, looked.elapsed())
    });

    lab.must(&["kill", &host]);
    let (there, took) = await_elsewhere(&lab, &host);
    println!("web-1 runs on {there} {took:?} after {host} lost its power");
    assert!(took < FAILOVER, "{took:?}");
    assert_eq!(cpus(&there), "2");
}

/// The guest's process, as its host counts it: another one after every start.
fn guest_pid(lab: &Lab, host: &str) -> String {
    let found = lab.exec(host, &["pgrep", "-f", "guest=web-1"]).stdout;
    let found = String::from_utf8_lossy(&found).trim().to_owned();
    assert!(!found.is_empty() && !found.contains('\n'), "web-1 on {host}: {found:?}");
    found
}

/// What libvirt asks before it starts a guest: notes that it was asked, and says no while told to.
const HOOK: &str = "#!/bin/sh
[ \"$2\" = prepare ] || exit 0
echo \"$1\" >>/etc/libvirt/hooks/asked
[ ! -e /etc/libvirt/hooks/refuse ]
";

/// Puts the hook in place. libvirt looks for one when it begins, so it is made to begin again.
fn hook(lab: &Lab, host: &str) {
    let place =
        format!("mkdir -p /etc/libvirt/hooks && printf %s '{HOOK}' >/etc/libvirt/hooks/qemu");
    let place = format!("{place} && chmod 755 /etc/libvirt/hooks/qemu");
    assert!(lab.exec(host, &["sh", "-c", &place]).status.success());
    lab.must(&["signal", host, "libvirtd", "SEGV"]);
    until("libvirtd to have begun again", LIMIT, || {
        let log = lab.must(&["log", host, "libvirtd"]);
        let answers = lab.exec(host, &["virsh", "version"]).status.success();
        is(answers && log.contains("started again"), log)
    });
}

/// Whoever should take the VM over can't start it at first. It is tried again, and runs in the end, once.
#[test]
fn lab_a_vm_that_its_new_host_fails_to_start_is_tried_again_until_it_runs() {
    let Some(lab) = Lab::up("lab_a_vm_that_its_new_host_fails_to_start", 3) else { return };
    for host in lab.hosts() {
        hook(&lab, &host);
    }
    let mut operator = Operator::new();
    cluster(&lab, &mut operator);
    let dead = operator.await_state("web-1", "running");
    let others: Vec<String> = lab.hosts().into_iter().filter(|host| *host != dead).collect();
    for host in &others {
        let told = lab.exec(host, &["touch", "/etc/libvirt/hooks/refuse"]);
        assert!(told.status.success(), "{told:?}");
    }
    let asked = |host: &String| {
        let asked = lab.exec(host, &["cat", "/etc/libvirt/hooks/asked"]).stdout;
        String::from_utf8_lossy(&asked).lines().filter(|name| *name == "web-1").count()
    };
    lab.must(&["kill", &dead]);
    let begin = Instant::now();
    let (tried, _) = until("two starts to have been refused", LIMIT, || {
        assert!(running_on(&lab, "web-1").is_empty(), "it can't run anywhere");
        let tried: Vec<usize> = others.iter().map(asked).collect();
        let is_so = tried.iter().sum::<usize>() >= 2;
        let seen = (tried.clone(), operator.json(&["runs"]));
        is(is_so, seen).map(|()| tried)
    });
    println!("{others:?} have tried {tried:?} times {:?} after the loss", begin.elapsed());
    for host in &others {
        assert!(lab.exec(host, &["rm", "/etc/libvirt/hooks/refuse"]).status.success());
    }
    let (host, took) = await_elsewhere(&lab, &dead);
    println!("web-1 runs on {host} {took:?} after hosts could start it again");
    let looked = Instant::now();
    let pid = guest_pid(&lab, &host);
    until("a term to be over", LIMIT, || {
        assert_eq!(running_on(&lab, "web-1"), std::slice::from_ref(&host));
        assert_eq!(guest_pid(&lab, &host), pid, "nobody starts it once more");
        is(looked.elapsed() > TERM, looked.elapsed())
    });
    assert_eq!(operator.await_state("web-1", "running"), host);
}

/// All arbiters die at once and forget everything. What lapses ends, and runs again by itself once they grant;
/// what is deleted stays so.
#[test]
fn lab_what_lapsed_because_all_arbiters_died_runs_again_by_itself() {
    let Some(lab) = Lab::up("lab_what_lapsed_because_all_arbiters_died", 3) else { return };
    let mut operator = Operator::new();
    cluster(&lab, &mut operator);
    operator.must(&["run", "--name", "web-2", "--on-loss", "stop", "--memory", "64MiB"]);
    let home = operator.await_state("web-1", "running");
    let pid = |name: &str, host: &str| {
        let found = lab.exec(host, &["pgrep", "-f", &format!("guest={name}")]).stdout;
        String::from_utf8_lossy(&found).trim().to_owned()
    };
    let before = pid("web-1", &home);
    assert!(!before.is_empty());
    let shown = operator.json(&["arbiters"]);
    let process = |row: &serde_json::Value| {
        let (slot, host) = (&row["slot"], row["host"].as_str().expect("a host").to_owned());
        let file = lab.data(&host).join(format!("services/ostler-arbiter-{slot}/process.json"));
        let process = std::fs::read(&file).expect("its process is written down");
        let process: serde_json::Value = serde_json::from_slice(&process).expect("JSON");
        (host, process["pid"].to_string())
    };
    let all: Vec<_> = shown["arbiters"].as_array().expect("arbiters").iter().map(process).collect();
    // At once, on a busy machine too: the first one must not be back before the last one dies.
    std::thread::scope(|scope| {
        for (host, pid) in &all {
            let lab = &lab;
            scope.spawn(move || assert!(lab.exec(host, &["kill", "-9", pid]).status.success()));
        }
    });
    let died = Instant::now();
    // Nobody has seen it lost, and nobody is starting it anew at this very moment.
    let gone = until("web-2 to be deleted", LIMIT, || {
        let _ = operator.run(&["stop", "web-2", "--force"]);
        let deleted = operator.run(&["rm", "web-2"]);
        is(deleted.status.success(), deleted)
    });
    println!("web-2 is deleted after {:?}", gone.1);
    until("web-1 to end", LIMIT, || {
        let found = running_on(&lab, "web-1");
        is(found.is_empty(), found)
    });
    println!("web-1 ended {:?} after the arbiters had died", died.elapsed());
    let (host, _) = until("web-1 to run again", LIMIT, || {
        let found = running_on(&lab, "web-1");
        assert!(found.len() < 2, "web-1 runs on {found:?}");
        found.first().cloned().ok_or(found)
    });
    println!("web-1 runs again on {host} {:?} after the arbiters had died", died.elapsed());
    assert_ne!(pid("web-1", &host), before);
    assert_eq!(operator.await_state("web-1", "running"), host);
    assert!(running_on(&lab, "web-2").is_empty(), "what is deleted stays so");
}
