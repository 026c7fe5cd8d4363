//! Disks that hosts share: VMs that fail over with what they have written, judged by the disk itself.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tests::journal::{Journal, Writer};
use tests::lab::{Lab, SHARED_AT};
use tests::operator::Operator;
use tests::wait::{is, until};

const LIMIT: Duration = Duration::from_secs(90);

/// From a mishap to the next guest's first block: protocol §12 says 11 to 15 s until it runs, and a
/// translated guest takes some more to boot on a busy machine.
const FAILOVER: Duration = Duration::from_secs(45);

/// D of the trust document that `bootstrap` writes.
const TERM: Duration = Duration::from_secs(9);

/// A cluster of three whose hosts share the pool `nfs`.
struct Shared {
    lab: Lab,
    operator: Operator,
    url: String,
}

impl Shared {
    fn up(test: &str) -> Option<Self> {
        let lab = Lab::up(test, 3)?;
        let mut operator = Operator::new();
        let url = operator.make_cluster_with(&lab, &["--arbiters", "3", "--controllers", "3"]);
        for host in lab.hosts() {
            lab.mount_shared(&host);
        }
        operator.must(&["pools", "add", "nfs", SHARED_AT, "--shared", "--create"]);
        Some(Self { lab, operator, url })
    }

    /// A VM with a disk that it starts from and one that it writes to.
    fn run(&self, on_loss: &str) {
        let vm = ["run", "guest", "--name", "web-1", "--memory", "128MiB", "--on-loss", on_loss];
        let disks = ["--disk", "root=64MiB", "--disk", "journal=2MiB", "--pool", "nfs"];
        self.operator.must(&[&vm[..], &disks].concat());
    }

    fn folder(&self) -> PathBuf {
        self.lab.shared().join("volumes/web-1")
    }

    fn writers(&self) -> Vec<Writer> {
        Journal::of(&self.folder().join("journal.qcow2")).writers()
    }

    /// Who writes now, once it is somebody who has not written before.
    fn await_writer_after(&self, before: &[Writer]) -> (Writer, Duration) {
        until("somebody else to write", LIMIT, || {
            let now = self.writers();
            is(now.len() > before.len(), now.clone()).map(|()| now.last().cloned().unwrap())
        })
    }

    /// Waits until whoever wrote last has written some more, and nobody else.
    fn await_going_on(&self) -> Writer {
        let before = self.writers();
        let (now, _) = until("the guest to write on", LIMIT, || {
            let now = self.writers();
            let blocks = |writers: &[Writer]| writers.last().map_or(0, |writer| writer.blocks);
            is(!now.is_empty() && blocks(&now) > blocks(&before) + 2, now.clone()).map(|()| now)
        });
        assert_eq!(now.len(), before.len().max(1), "somebody else writes: {before:?}, {now:?}");
        now.last().cloned().expect("somebody writes")
    }

    /// Waits until a time is over in which the same guest must go on writing.
    fn goes_on_for(&self, time: Duration) {
        let boot = self.await_going_on().boot;
        let begin = Instant::now();
        while begin.elapsed() < time {
            assert_eq!(self.await_going_on().boot, boot, "the guest was started anew");
        }
    }

    /// The host on which libvirt says that it runs.
    fn await_running(&self) -> String {
        let (host, _) = until("web-1 to run on one host", LIMIT, || {
            let hosts = self.lab.hosts();
            let runs = |host: &&String| self.lab.virsh_state(host, "web-1") == "running";
            let running: Vec<&String> = hosts.iter().filter(runs).collect();
            match running[..] {
                [host] => Ok(host.clone()),
                _ => Err(format!("{running:?}")),
            }
        });
        host
    }

    /// What `qemu-img` says of one of its disks in the pool, whoever uses it.
    fn disk_info(&self, disk: &str) -> serde_json::Value {
        let file = self.folder().join(format!("{disk}.qcow2"));
        let mut ask = std::process::Command::new("qemu-img");
        let said = ask.args(["info", "-U", "--output=json"]).arg(file).output();
        let said = said.expect("qemu-img can be run").stdout;
        serde_json::from_slice(&said).expect("it says JSON")
    }

    /// The size of one of its disks in MiB.
    fn disk_mib(&self, disk: &str) -> u64 {
        self.disk_info(disk)["virtual-size"].as_u64().expect("a size") >> 20
    }

    /// Fails unless both of its disks have these snapshots, and their tag the same.
    fn assert_snapshots(&self, expected: &[&str]) {
        for disk in ["root", "journal"] {
            let found = self.disk_info(disk)["snapshots"].clone();
            let name = |one: &serde_json::Value| one["name"].as_str().expect("a name").to_owned();
            let names: Vec<_> = found.as_array().into_iter().flatten().map(name).collect();
            let expected = expected.iter().map(|name| format!("ostler-{name}"));
            assert_eq!(names, expected.collect::<Vec<_>>(), "{disk}");
        }
        assert_eq!(stages(&self.tag()), named(expected));
    }

    /// Which snapshots `ostler` shows, and of which host.
    fn shown_snapshots(&self) -> Vec<(String, String)> {
        let shown = self.operator.json(&["snapshots"])["snapshots"].clone();
        let text = |one: &serde_json::Value, key: &str| one[key].as_str().expect("text").to_owned();
        let shown = shown.as_array().expect("a list").iter();
        shown.map(|one| (text(one, "name"), text(one, "host"))).collect()
    }

    /// Waits until the row on a host has these snapshots, all of them ready.
    fn await_snapshots(&self, host: &str, expected: &[&str]) {
        until(&format!("{host} to have {expected:?}"), LIMIT, || {
            let job = self.operator.row_on("web-1", host)["job"].clone();
            is(stages(&job) == named(expected), job)
        });
    }

    fn blocks(&self) -> usize {
        self.writers().iter().map(|writer| writer.blocks).sum()
    }

    /// The same as libvirt says of the guest on this host.
    fn device_mib(&self, host: &str, device: &str) -> u64 {
        let said = self.lab.exec(host, &["virsh", "domblkinfo", "web-1", device]).stdout;
        let said = String::from_utf8_lossy(&said).into_owned();
        let size = said.lines().find_map(|line| line.strip_prefix("Capacity:"));
        let size = size.unwrap_or_else(|| panic!("{host} says nothing of {device}: {said}"));
        size.trim().parse::<u64>().expect("a number") >> 20
    }

    /// What its tag promises to a disk, in MiB.
    fn promised_mib(&self, disk: &str) -> u64 {
        self.tag()["disks"][disk].as_u64().expect("it is in the tag") >> 20
    }

    fn tag(&self) -> serde_json::Value {
        let text = std::fs::read(self.folder().join("tag.json")).expect("the volumes have a tag");
        serde_json::from_slice(&text).expect("a tag is JSON")
    }

    fn arbiters(&self) -> Vec<(String, String)> {
        let mut arbiters = Vec::new();
        for host in self.lab.hosts() {
            let found = self.lab.exec(&host, &["pgrep", "-f", "ostler arbiter"]).stdout;
            let pids = String::from_utf8_lossy(&found);
            arbiters.extend(pids.split_whitespace().map(|pid| (host.clone(), pid.to_owned())));
        }
        arbiters
    }

    fn signal(&self, at: &[(String, String)], signal: &str) {
        // At once, on a busy machine too: the first one must not be back before the last one is told.
        std::thread::scope(|scope| {
            for (host, pid) in at {
                scope.spawn(move || {
                    let told = self.lab.exec(host, &["kill", signal, pid]);
                    assert!(told.status.success(), "{host} {pid}");
                });
            }
        });
    }
}

/// Names and stages of the snapshots in a row or a tag.
fn stages(of: &serde_json::Value) -> Vec<(String, String)> {
    let text = |one: &serde_json::Value, key: &str| one[key].as_str().expect("text").to_owned();
    let all = of["snapshots"].as_array().cloned().unwrap_or_default();
    all.iter().map(|one| (text(one, "name"), text(one, "stage"))).collect()
}

fn named(ready: &[&str]) -> Vec<(String, String)> {
    ready.iter().map(|name| ((*name).to_owned(), "ready".to_owned())).collect()
}

/// What a host that is not to touch anything leaves as it is: every file but the journal itself, which
/// somebody writes to.
fn files(folder: &Path) -> BTreeMap<PathBuf, (u64, u64)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let about = entry.metadata().expect("a file has an inode");
        found.insert(entry.path(), (about.ino(), about.is_file().into()));
    }
    found
}

/// Says how long the next guest took to write, which must be less than this.
fn tell(what: &str, took: Duration, bound: Duration) {
    println!("{what}: the next guest writes {took:?} later");
    assert!(took < bound, "{what}: {took:?}");
}

#[test]
fn lab_a_vm_with_a_shared_disk_fails_over_with_it_and_nobody_else_writes() {
    let test = "lab_a_vm_with_a_shared_disk_fails_over";
    let Some(shared) = Shared::up(test) else { return };
    let lab = &shared.lab;
    shared.run("stop");
    let mut before = shared.writers();
    until("the first block", LIMIT, || {
        before = shared.writers();
        is(!before.is_empty(), ())
    });
    let cut = shared.await_running();
    lab.must(&["cut", &cut]);
    let (_, took) = shared.await_writer_after(&before);
    tell("host cut off", took, FAILOVER);
    // It comes back with a row and a disk in its reach, and leaves that alone.
    let (tag, kept) = (shared.tag(), files(&shared.folder()));
    lab.must(&["heal", &cut]);
    until("the healed host to say that it has lost it", LIMIT, || {
        let row = shared.operator.row_on("web-1", &cut);
        is(row["job"]["reason"] == "tenure_lost", row)
    });
    shared.await_going_on();
    assert_eq!((shared.tag(), files(&shared.folder())), (tag, kept), "{cut} has touched it");

    let host = shared.await_running();
    lab.must(&["signal", &host, "agent", "KILL"]);
    shared.goes_on_for(2 * TERM);
    lab.start_agent(&host, &shared.url);
    lab.must(&["signal", &host, "agent", "STOP"]);
    shared.goes_on_for(2 * TERM);
    lab.must(&["signal", &host, "agent", "CONT"]);
    println!("agent killed, agent stopped: the guest goes on");

    before = shared.writers();
    let host = shared.await_running();
    lab.must(&["kill", &host]);
    let (_, took) = shared.await_writer_after(&before);
    tell("power cut", took, FAILOVER);
    lab.must(&["boot", &host]);
    lab.mount_shared(&host);
    lab.start_agent(&host, &shared.url);
    until("the returned host to have let go of it", LIMIT, || {
        let row = shared.operator.row_on("web-1", &host);
        is(row["job"]["reason"] == "tenure_lost" && row["job"]["hold"].is_null(), row)
    });
    shared.await_going_on();
    until("three arbiters", LIMIT, || {
        let arbiters = shared.arbiters();
        is(arbiters.len() == 3, arbiters)
    });

    // The one that came back gives no cover for one term.
    shared.goes_on_for(2 * TERM);
    println!("in all: {:?}", shared.writers());
}

#[test]
fn lab_a_shared_disk_has_one_writer_whatever_arbiters_do() {
    let Some(shared) = Shared::up("lab_a_shared_disk_has_one_writer") else { return };
    let lab = &shared.lab;
    shared.run("stop");
    shared.await_going_on();

    let arbiters = shared.arbiters();
    assert_eq!(arbiters.len(), 3, "{arbiters:?}");
    shared.signal(&arbiters[..1], "-STOP");
    shared.goes_on_for(2 * TERM);
    shared.signal(&arbiters[..1], "-CONT");
    println!("one arbiter stopped: the guest goes on");

    let mut before = shared.writers();
    shared.signal(&arbiters, "-STOP");
    let looked = Instant::now();
    until("the guest to be ended without arbiters", LIMIT, || {
        let on: Vec<String> = lab.hosts().iter().map(|h| lab.virsh_state(h, "web-1")).collect();
        is(!on.iter().any(|state| state == "running"), on)
    });
    println!("all arbiters stopped: its host has ended it {:?} later", looked.elapsed());
    assert!(looked.elapsed() < TERM + Duration::from_secs(2));
    shared.signal(&arbiters, "-CONT");
    let (_, took) = shared.await_writer_after(&before);
    tell("arbiters back", took, FAILOVER);

    // One that is killed is started again, and gives no cover for one term.
    for slot in 0..2 {
        shared.signal(&shared.arbiters()[slot..=slot], "-KILL");
        shared.goes_on_for(2 * TERM);
    }
    println!("arbiters killed one by one: the guest goes on");
    before = shared.writers();
    shared.signal(&shared.arbiters(), "-KILL");
    let begin = Instant::now();
    until("its host to have lost it", LIMIT, || {
        let rows: Vec<_> =
            lab.hosts().iter().map(|host| shared.operator.row_on("web-1", host)).collect();
        let is_alive = |row: &serde_json::Value| row["job"]["state"] == "running";
        is(!rows.iter().any(is_alive), rows)
    });
    // Nobody remembers whose it was last, so it is started by a person's word alone.
    until("a person to have it started", LIMIT, || {
        let started = shared.operator.run(&["start", "web-1"]);
        is(started.status.success(), started)
    });
    shared.await_writer_after(&before);
    tell("all arbiters killed, and it started by hand", begin.elapsed(), 2 * FAILOVER);
    shared.await_going_on();
    println!("in all: {:?}", shared.writers());
}

#[test]
fn lab_a_running_vm_with_a_shared_disk_moves_and_its_disk_stays() {
    let Some(shared) = Shared::up("lab_a_running_vm_with_a_shared_disk_moves") else { return };
    shared.run("keep");
    let boot = shared.await_going_on().boot;
    let disks = |mut files: BTreeMap<PathBuf, (u64, u64)>| {
        files.retain(|path, _| path.extension().is_some_and(|suffix| suffix == "qcow2"));
        files
    };
    let kept = disks(files(&shared.folder()));
    for _ in 0..2 {
        let from = shared.await_running();
        let to = shared.lab.hosts().into_iter().find(|host| *host != from).expect("another host");
        let begin = Instant::now();
        shared.operator.must(&["migrate", "web-1", &to]);
        println!("moved from {from} to {to} in {:?}", begin.elapsed());
        assert_eq!(shared.await_running(), to);
        assert_eq!(shared.await_going_on().boot, boot, "it was started anew");
        let now = disks(files(&shared.folder()));
        assert_eq!(now, kept, "its disks are other files");
        for host in shared.lab.hosts() {
            let own = shared.lab.data(&host).join("volumes/web-1");
            let copies = std::fs::read_dir(&own).map_or(0, Iterator::count);
            assert_eq!(copies, 0, "{host} has a copy of a disk");
        }
    }
    // Stopped, it starts wherever the pool is; here where it has never been.
    let was = shared.await_running();
    shared.operator.must(&["stop", "web-1", "--force"]);
    shared.operator.must(&["drain", &was]);
    let before = shared.writers();
    shared.operator.must(&["start", "web-1"]);
    assert_ne!(shared.await_running(), was);
    shared.await_writer_after(&before);

    // Its end is the end of its disks, which are kept for a while.
    shared.operator.must(&["rm", "web-1", "--force"]);
    assert!(!shared.folder().exists(), "it is deleted");
    let volumes = shared.operator.json(&["volumes"]);
    let entry = volumes["volumes"][0]["entry"].as_str().expect("it is in the trash").to_owned();
    shared.operator.must(&["volumes", "restore", "nfs", &entry]);
    assert!(shared.writers().len() == before.len() + 1, "what was written is there again");
    // They are nobody's, and a new VM of that name does not get them.
    let again = ["run", "guest", "--name", "web-1", "--pool", "nfs"];
    let refused = shared.operator.run(&again);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("ostler volumes rm"), "{said}");
    shared.operator.must(&["volumes", "rm", "nfs", "web-1"]);
    shared.operator.must(&again);
}

#[test]
fn lab_a_missing_mount_is_no_pool_and_nothing_is_written_there() {
    let Some(shared) = Shared::up("lab_a_missing_mount_is_no_pool") else { return };
    let (lab, operator) = (&shared.lab, &shared.operator);
    shared.run("keep");
    let host = shared.await_running();
    shared.await_going_on();
    operator.must(&["stop", "web-1", "--force"]);
    let others: Vec<String> = lab.hosts().into_iter().filter(|other| *other != host).collect();

    lab.unmount_shared(&host);
    let await_trouble = |on: &[String]| {
        until("the hosts to say that it is not mounted", LIMIT, || {
            let pools = operator.json(&["pools"]);
            let troubles = pools["pools"][0]["troubles"].as_array().cloned().unwrap_or_default();
            let says = |host: &String| {
                let said = format!("{host}: ");
                troubles.iter().any(|why| {
                    why.as_str()
                        .is_some_and(|why| why.starts_with(&said) && why.contains("mounted"))
                })
            };
            is(on.iter().all(says), pools)
        });
    };
    await_trouble(std::slice::from_ref(&host));
    let is_empty = |host: &str| {
        let found = lab.exec(host, &["ls", "-A", SHARED_AT]).stdout;
        assert!(found.is_empty(), "{host}: {}", String::from_utf8_lossy(&found));
    };
    // Elsewhere it starts as if nothing were.
    let before = shared.writers();
    operator.must(&["start", "web-1"]);
    assert_ne!(shared.await_running(), host);
    shared.await_writer_after(&before);
    operator.must(&["stop", "web-1", "--force"]);

    for host in &others {
        lab.unmount_shared(host);
    }
    await_trouble(&lab.hosts());
    let refused = operator.run(&["start", "web-1"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    println!("{}", said.trim());
    assert!(!refused.status.success() && said.contains("pool nfs is not available"), "{said}");
    lab.hosts().iter().for_each(|host| is_empty(host));
    // Nor is an empty mount point taken for the pool, or made one by mistake.
    let other = ["pools", "add", "other", SHARED_AT, "--shared"];
    assert!(!operator.run(&other).status.success(), "a pool was made without a word");
    let nested = ["pools", "add", "other", SHARED_AT, "--shared", "--create"];
    assert!(!operator.run(&nested).status.success(), "two pools are in one place");
    lab.hosts().iter().for_each(|host| is_empty(host));

    for host in lab.hosts() {
        lab.mount_shared(&host);
    }
    until("the pool to be there again", LIMIT, || {
        let started = operator.run(&["start", "web-1"]);
        is(started.status.success(), started)
    });
    shared.await_writer_after(&before);
}

#[test]
fn lab_what_a_returned_host_has_left_of_a_vm_can_be_deleted_without_its_disks() {
    let Some(shared) = Shared::up("lab_what_a_returned_host_has_left") else { return };
    let (lab, operator) = (&shared.lab, &shared.operator);
    shared.run("stop");
    shared.await_going_on();
    let (dead, before) = (shared.await_running(), shared.writers());
    lab.must(&["kill", &dead]);
    shared.await_writer_after(&before);
    lab.must(&["boot", &dead]);
    lab.mount_shared(&dead);
    lab.start_agent(&dead, &shared.url);
    until("the returned host to have let go of it", LIMIT, || {
        let row = operator.row_on("web-1", &dead);
        is(row["job"]["reason"] == "tenure_lost" && row["job"]["hold"].is_null(), row)
    });
    let (tag, kept) = (shared.tag(), files(&shared.folder()));
    let socket = "/var/lib/ostler/agent.sock";
    let delete = "http://agent/v1/jobs/web-1?shared=true";
    let asked = lab.exec(&dead, &["curl", "-sf", "-X", "DELETE", "--unix-socket", socket, delete]);
    assert!(asked.status.success(), "{asked:?}");
    until("the row to be gone", LIMIT, || {
        let row = operator.row_on("web-1", &dead);
        is(row.is_null(), row)
    });
    shared.await_going_on();
    assert_eq!((shared.tag(), files(&shared.folder())), (tag, kept), "{dead} has touched it");
    // Its way back is open.
    operator.must(&["migrate", "web-1", &dead]);
    assert_eq!(shared.await_running(), dead);
    shared.await_going_on();
    operator.must(&["rm", "web-1", "--force"]);
    assert!(!shared.folder().exists(), "it is deleted");
}

#[test]
fn lab_a_disk_in_a_shared_pool_grows_and_is_as_large_wherever_the_vm_goes() {
    let Some(shared) = Shared::up("lab_a_disk_in_a_shared_pool_grows") else { return };
    let (lab, operator) = (&shared.lab, &shared.operator);
    shared.run("keep");
    let boot = shared.await_going_on().boot;
    let host = shared.await_running();
    let console = operator.follow(&["console", "web-1", "--no-input"]);
    console.line_with("count=", LIMIT);

    let begin = Instant::now();
    operator.must(&["resize", "web-1", "--disk", "journal=4MiB"]);
    println!("a running guest's disk is larger after {:?}", begin.elapsed());
    console.line_with("now disks=vda:64MiB,vdb:4MiB", LIMIT);
    let sizes = (shared.disk_mib("journal"), shared.device_mib(&host, "vdb"));
    assert_eq!((sizes, shared.promised_mib("journal")), ((4, 4), 4));
    let refused = |size: &str| {
        let output = operator.run(&["resize", "web-1", "--disk", size]);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(output.status.code(), Some(3), "{size}: {said}");
        said
    };
    let said = refused("journal=1024TiB");
    println!("{}", said.trim());
    assert!(said.contains("pool nfs"), "{said}");
    assert!(refused("journal=2MiB").contains("only grows"));
    assert_eq!((shared.disk_mib("journal"), shared.promised_mib("journal")), (4, 4));

    // A stopped libvirtd holds the growth between the ledger and the disk; then it and the agent die.
    lab.must(&["signal", &host, "libvirtd", "STOP"]);
    let resize = operator.begin(&["resize", "web-1", "--disk", "journal=6MiB"]);
    until("the change to be written down", LIMIT, || {
        let row = operator.row_on("web-1", &host);
        is(row["job"]["resize"]["stage"] == "changing", row)
    });
    lab.must(&["signal", &host, "agent", "KILL"]);
    assert_eq!(shared.disk_mib("journal"), 4, "it was done already");
    lab.must(&["signal", &host, "libvirtd", "KILL"]);
    lab.must(&["exec", "-d", "libvirtd", &host, "libvirtd"]);
    lab.start_agent(&host, &shared.url);
    let output = resize.wait_with_output().expect("the command ends");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((shared.disk_mib("journal"), shared.promised_mib("journal")), (6, 6));
    assert_eq!(shared.await_going_on().boot, boot, "it was started anew");

    let to = lab.hosts().into_iter().find(|other| *other != host).expect("another host");
    operator.must(&["migrate", "web-1", &to]);
    assert_eq!(shared.await_going_on().boot, boot, "it was started anew");
    assert_eq!((shared.device_mib(&to, "vdb"), shared.promised_mib("journal")), (6, 6));
    operator.must(&["resize", "web-1", "--disk", "journal=8MiB"]);
    assert_eq!((shared.disk_mib("journal"), shared.device_mib(&to, "vdb")), (8, 8));

    // Stopped, by `qemu-img`; and where it starts next it is as large.
    operator.must(&["stop", "web-1", "--force"]);
    operator.must(&["resize", "web-1", "--disk", "root=80MiB"]);
    assert_eq!((shared.disk_mib("root"), shared.promised_mib("root")), (80, 80));
    operator.must(&["drain", &to]);
    let before = shared.writers();
    operator.must(&["start", "web-1"]);
    let now = shared.await_running();
    assert_ne!(now, to);
    shared.await_writer_after(&before);
    assert_eq!((shared.device_mib(&now, "vda"), shared.device_mib(&now, "vdb")), (80, 8));
    until("the pool to be told as promised so far", LIMIT, || {
        let pools = operator.json(&["pools"]);
        is(pools["pools"][0]["pool"]["promised_bytes"] == 88 << 20, pools)
    });
}

#[test]
fn lab_snapshots_in_a_shared_pool_go_where_the_vm_goes_and_a_late_host_changes_none() {
    let Some(shared) = Shared::up("lab_snapshots_in_a_shared_pool_go") else { return };
    let (lab, operator) = (&shared.lab, &shared.operator);
    shared.run("stop");
    let boot = shared.await_going_on().boot;
    let first = shared.await_running();

    let least = shared.blocks();
    operator.must(&["snapshots", "take", "web-1", "before"]);
    let most = shared.blocks() + 1;
    println!("taken while it runs, with {least} to {most} blocks written");
    shared.assert_snapshots(&["before"]);
    let second = lab.hosts().into_iter().find(|host| *host != first).expect("another host");
    let begin = Instant::now();
    operator.must(&["migrate", "web-1", &second]);
    println!("moved with its snapshot in {:?}", begin.elapsed());
    assert_eq!(shared.await_going_on().boot, boot, "it was started anew");
    shared.await_snapshots(&second, &["before"]);
    assert_eq!(shared.shown_snapshots(), [("before".to_owned(), second.clone())]);
    shared.assert_snapshots(&["before"]);
    let volumes = operator.json(&["volumes"])["volumes"].clone();
    for (volume, (disk, mib)) in
        volumes.as_array().expect("a list").iter().zip([("journal", 2), ("root", 64)])
    {
        let shown = (&volume["disk"], &volume["bytes"], &volume["snapshots"][0]);
        assert_eq!(shown, (&disk.into(), &(mib << 20_u64).into(), &"before".into()), "{volume}");
        assert!(volume["used_bytes"].as_u64().is_some_and(|used| used > 0), "{volume}");
    }

    // A stopped libvirtd holds it between the ledger and the disks; then it and the agent die.
    lab.must(&["signal", &second, "libvirtd", "STOP"]);
    operator.must(&["snapshots", "take", "web-1", "moved", "--no-wait"]);
    until("the pool to be told what is to be", LIMIT, || {
        let tag = shared.tag();
        is(stages(&tag).contains(&("moved".to_owned(), "taking".to_owned())), tag)
    });
    lab.must(&["signal", &second, "agent", "KILL"]);
    lab.must(&["signal", &second, "libvirtd", "KILL"]);
    lab.must(&["exec", "-d", "libvirtd", &second, "libvirtd"]);
    lab.start_agent(&second, &shared.url);
    shared.await_snapshots(&second, &["before", "moved"]);
    shared.assert_snapshots(&["before", "moved"]);
    assert_eq!(shared.await_going_on().boot, boot, "it was started anew");

    let before = shared.writers();
    lab.must(&["kill", &second]);
    shared.await_writer_after(&before);
    let host = shared.await_running();
    shared.await_snapshots(&host, &["before", "moved"]);
    operator.must(&["stop", "web-1", "--force"]);
    let late = shared.blocks();
    operator.must(&["snapshots", "revert", "web-1", "before"]);
    let back = shared.blocks();
    println!("failed over, stopped with {late} blocks, back at {back}");
    assert!((least..=most).contains(&back), "{back} of {least} to {most}");
    let before = shared.writers();
    operator.must(&["start", "web-1"]);
    let third = shared.await_running();
    shared.await_writer_after(&before);

    // The host that was off still has a row with them, and its word is worth nothing any more.
    lab.must(&["boot", &second]);
    lab.mount_shared(&second);
    lab.start_agent(&second, &shared.url);
    until("the returned host to have let go of it", LIMIT, || {
        let row = operator.row_on("web-1", &second);
        is(row["job"]["reason"] == "tenure_lost" && row["job"]["hold"].is_null(), row)
    });
    assert!(shared.shown_snapshots().iter().all(|(_, host)| *host == third));
    let blocks = shared.blocks();
    let socket = "/var/lib/ostler/agent.sock";
    let revert = "http://agent/v1/jobs/web-1/snapshots/moved/revert";
    let known = operator.row_on("web-1", &second)["job"]["revision"].as_u64().expect("a number");
    let body = format!(r#"{{"revision": {}}}"#, known + 1);
    let body = ["-H", "content-type: application/json", "-d", &body];
    let post = ["curl", "-sf", "-X", "POST", "--unix-socket", socket];
    let asked = lab.exec(&second, &[&post[..], &body, &[revert]].concat());
    assert!(asked.status.success(), "{asked:?}");
    shared.await_snapshots(&second, &[]);
    shared.assert_snapshots(&["before", "moved"]);
    shared.await_going_on();
    assert!(shared.blocks() > blocks, "a late host has changed the disk");

    operator.must(&["snapshots", "rm", "web-1", "moved"]);
    shared.assert_snapshots(&["before"]);
    operator.must(&["migrate", "web-1", &second]);
    shared.await_snapshots(&second, &["before"]);
    operator.must(&["snapshots", "rm", "web-1", "before"]);
    shared.assert_snapshots(&[]);
    shared.await_going_on();
    operator.must(&["stop", "web-1", "--force"]);
    for disk in ["root", "journal"] {
        let file = format!("{SHARED_AT}/volumes/web-1/{disk}.qcow2");
        let said = lab.exec(&second, &["qemu-img", "check", &file]);
        let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        // QEMU was killed with its host in the middle: clusters that nobody uses may be left, and no more.
        assert!(matches!(said.status.code(), Some(0 | 3)), "{disk}: {text}");
    }
}
