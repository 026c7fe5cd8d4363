//! The lab from a test: the `./lab` script, and nothing beside it.
//!
//! A test that can't have a lab says so in the file that `./check` prints, and does nothing.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::wait::{is, until};

/// Hosts of one test. Dropping it takes them down; a failed test prints their logs first.
#[derive(Debug)]
pub struct Lab {
    hosts: usize,
}

/// Where hosts mount [`Lab::shared`]: in a folder that each of them has for itself.
pub const SHARED_AT: &str = "/var/lib/libvirt/shared";

/// The agent's folder on a host's disk.
const DATA: &str = "var/lib/ostler";

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a folder of it").to_owned()
}

/// The `ostler` program that the other tests' build has put in place.
#[must_use]
pub fn ostler() -> PathBuf {
    let mut path = std::env::current_exe().expect("a test has a path");
    while path.pop() {
        let program = path.join("ostler");
        if program.is_file() {
            return program;
        }
    }
    panic!("no ostler program beside the tests: run `cargo build -p ostler` first");
}

impl Lab {
    /// Hosts h1 … hN, from clean. `None`: this machine can't, which is written down.
    #[must_use]
    pub fn up(test: &str, hosts: usize) -> Option<Self> {
        let can = run_lab(&["can"]);
        if !can.status.success() {
            let why = text(&can.stdout) + &text(&can.stderr);
            say_skipped(test, why.trim());
            return None;
        }
        let up = run_lab(&["up", &hosts.to_string()]);
        assert!(up.status.success(), "lab up: {}", text(&up.stderr));
        Some(Self { hosts })
    }

    /// Names of the hosts.
    #[must_use]
    pub fn hosts(&self) -> Vec<String> {
        (1..=self.hosts).map(|n| format!("h{n}")).collect()
    }

    /// What the script says of a host.
    #[must_use]
    pub fn host(&self, name: &str) -> Value {
        self.host_if_known(name).unwrap_or_else(|| panic!("the lab says nothing of {name}"))
    }

    fn host_if_known(&self, name: &str) -> Option<Value> {
        let status = run_lab(&["status", "--json", name]);
        let hosts: Vec<Value> = serde_json::from_slice(&status.stdout).ok()?;
        hosts.into_iter().next()
    }

    /// The host's address.
    #[must_use]
    pub fn address(&self, name: &str) -> String {
        self.host(name)["address"].as_str().expect("a host has an address").to_owned()
    }

    /// The address by which hosts reach this machine.
    #[must_use]
    pub fn operator_address(&self) -> String {
        let host = self.address("h1");
        let (network, _) = host.rsplit_once('.').expect("an IPv4 address");
        format!("{network}.1")
    }

    /// Where a host's `/var/lib/ostler` is on this machine.
    #[must_use]
    pub fn data(&self, name: &str) -> PathBuf {
        let disk = self.host(name)["disk"].as_str().expect("a host has a disk").to_owned();
        Path::new(&disk).join(DATA)
    }

    /// A directory of this machine that hosts can mount, as they would one of a file server. It goes with
    /// the lab.
    #[must_use]
    pub fn shared(&self) -> PathBuf {
        let disk = self.host("h1")["disk"].as_str().expect("a host has a disk").to_owned();
        let lab = Path::new(&disk).ancestors().nth(2).expect("a disk is in a host in a lab");
        let shared = lab.join("shared");
        std::fs::create_dir_all(&shared).expect("the lab's folder is ours");
        shared
    }

    /// Mounts it on a host. A power cut ends that.
    pub fn mount_shared(&self, host: &str) {
        let shared = self.shared();
        let shared = shared.to_str().expect("a path in UTF-8");
        assert!(self.exec(host, &["mkdir", "-p", SHARED_AT]).status.success());
        let mounted = self.exec(host, &["mount", "--bind", shared, SHARED_AT]);
        assert!(mounted.status.success(), "{}", text(&mounted.stderr));
    }

    /// Unmounts it on a host, whoever uses it: the empty mount point is what is there then.
    pub fn unmount_shared(&self, host: &str) {
        let unmounted = self.exec(host, &["umount", "-l", SHARED_AT]);
        assert!(unmounted.status.success(), "{}", text(&unmounted.stderr));
    }

    /// Runs `./lab` with these words; what it prints.
    ///
    /// # Panics
    /// When it fails.
    pub fn must(&self, words: &[&str]) -> String {
        let output = run_lab(words);
        let both = || text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "lab {}: {}", words.join(" "), both());
        text(&output.stdout)
    }

    /// Runs a command on a host, whatever its end.
    #[must_use]
    pub fn exec(&self, host: &str, words: &[&str]) -> Output {
        run_lab(&[&["exec", host], words].concat())
    }

    /// A domain's state by the host's own `virsh`: `running`, `shut off`, or empty when unknown.
    #[must_use]
    pub fn virsh_state(&self, host: &str, domain: &str) -> String {
        text(&self.exec(host, &["virsh", "domstate", domain]).stdout).trim().to_owned()
    }

    /// Names of all domains on a host, running or not.
    #[must_use]
    pub fn virsh_domains(&self, host: &str) -> Vec<String> {
        let list = text(&self.exec(host, &["virsh", "list", "--all", "--name"]).stdout);
        list.split_whitespace().map(str::to_owned).collect()
    }

    /// Waits until a host's agent answers. What a view shows may be of the life before.
    pub fn await_agent(&self, host: &str) {
        let socket = ["--unix-socket", "/var/lib/ostler/agent.sock"];
        let ask = [&["curl", "-sf"], &socket[..], &["http://agent/v1/health"]].concat();
        until(&format!("the agent of {host} to answer"), Duration::from_secs(60), || {
            let asked = self.exec(host, &ask);
            is(asked.status.success(), text(&asked.stderr))
        });
    }

    /// Starts the agent on a host.
    pub fn start_agent(&self, host: &str, discovery: &str) {
        self.start_agent_with(host, discovery, &[]);
    }

    /// The same, with more to say to it.
    pub fn start_agent_with(&self, host: &str, discovery: &str, more: &[&str]) {
        self.start(&ostler(), host, discovery, more);
    }

    /// The same, from another file than the others.
    pub fn start_agent_of(&self, program: &Path, host: &str, discovery: &str) {
        self.start(program, host, discovery, &[]);
    }

    fn start(&self, program: &Path, host: &str, discovery: &str, more: &[&str]) {
        let program = program.to_str().expect("a path in UTF-8");
        let listen = format!("{}:7460", self.address(host));
        let words = ["exec", "-d", "agent", host, program, "agent", "--listen", &listen];
        self.must(&[&words[..], &["--discovery", discovery], more].concat());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for host in self.hosts() {
                let log = run_lab(&["log", &host, "agent"]);
                let tail: Vec<String> = text(&log.stdout).lines().map(str::to_owned).collect();
                let tail = &tail[tail.len().saturating_sub(30)..];
                eprintln!("== agent of {host}\n{}", tail.join("\n"));
                // A second panic would hide what the first has said.
                let known = self.host_if_known(&host);
                if let Some(disk) = known.as_ref().and_then(|host| host["disk"].as_str()) {
                    print_service_logs(&Path::new(disk).join(DATA));
                }
            }
        }
        run_lab(&["down"]);
    }
}

fn print_service_logs(data: &Path) {
    let Ok(services) = std::fs::read_dir(data.join("services")) else { return };
    for service in services.flatten() {
        let log = std::fs::read_to_string(service.path().join("log")).unwrap_or_default();
        let tail: Vec<&str> = log.lines().collect();
        let tail = &tail[tail.len().saturating_sub(20)..];
        eprintln!("== {}\n{}", service.file_name().to_string_lossy(), tail.join("\n"));
    }
}

/// Writes down that a test could not run, for the summary of `./check`.
pub fn say_skipped(test: &str, why: &str) {
    eprintln!("{test} could not run: {why}");
    let Some(file) = std::env::var_os("OSTLER_SKIPPED") else { return };
    let file = OpenOptions::new().create(true).append(true).open(file);
    if let Ok(mut file) = file {
        let _ = writeln!(file, "{test}: {why}");
    }
}

/// For who has no [`Lab`] in hand.
pub(crate) fn cut_power(host: &str) {
    let cut = run_lab(&["kill", host]);
    assert!(cut.status.success(), "lab kill {host}: {}", text(&cut.stderr));
}

fn run_lab(words: &[&str]) -> Output {
    let mut command = Command::new(repository().join("lab"));
    command.args(words).env("OSTLER_BIN", ostler()).env("OSTLER_LAB", name());
    command.output().expect("the lab script can be run")
}

/// Stories run side by side under nextest, each in the lab of the slot that it was given. No lab's name
/// is the beginning of another's: their folders are told apart by it.
fn name() -> String {
    let name = std::env::var("OSTLER_LAB").unwrap_or_else(|_| "tests".to_owned());
    match std::env::var("NEXTEST_TEST_GROUP_SLOT") {
        Ok(slot) if slot.parse::<u32>().is_ok() => format!("{name}-{slot}"),
        _ => name,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
