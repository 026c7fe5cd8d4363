//! Snapshots of real guests' disks, judged by the disks themselves: by what the guest has written to them,
//! and by `qemu-img`. Taken while a guest writes and while it is off, gone back to, deleted; with the agent
//! and libvirtd killed between the ledger and the disk.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::journal::Journal;
use tests::lab::Lab;
use tests::operator::Operator;
use tests::wait::{is, until};

const LIMIT: Duration = Duration::from_secs(90);
/// Both disks of the guest.
const DISKS: [&str; 2] = ["root", "journal"];

/// A cluster with one VM on `h1` that writes to a disk of its own.
pub(crate) struct Story {
    pub(crate) lab: Lab,
    pub(crate) operator: Operator,
    url: String,
}

impl Story {
    pub(crate) fn up(test: &str, hosts: usize) -> Option<Self> {
        let lab = Lab::up(test, hosts)?;
        let mut operator = Operator::new();
        let url = operator.make_cluster(&lab);
        let vm = ["run", "guest", "--name", "web-1", "--memory", "128MiB", "--on", "h1"];
        let disks = ["--disk", "root=64MiB", "--disk", "journal=2MiB"];
        operator.must(&[&vm[..], &disks].concat());
        let story = Self { lab, operator, url };
        story.await_blocks_after(0);
        Some(story)
    }

    pub(crate) fn disk(&self, disk: &str) -> PathBuf {
        self.lab.data("h1").join(format!("volumes/web-1/{disk}.qcow2"))
    }

    /// What `qemu-img` says that a disk has: tags, and in milliseconds since 1970 of which moment.
    fn tags(&self, disk: &str) -> Vec<(String, u64)> {
        let mut ask = Command::new("qemu-img");
        ask.args(["info", "-U", "--output=json"]).arg(self.disk(disk));
        let said = ask.output().expect("qemu-img can be run");
        let said: Value = serde_json::from_slice(&said.stdout).expect("it says JSON");
        let of = |one: &Value| {
            let number = |name: &str| one[name].as_u64().expect("a number");
            let at_ms = number("date-sec") * 1000 + number("date-nsec") / 1_000_000;
            (one["name"].as_str().expect("a name").to_owned(), at_ms)
        };
        said["snapshots"].as_array().map_or(vec![], |all| all.iter().map(of).collect())
    }

    fn names(&self, disk: &str) -> Vec<String> {
        self.tags(disk).into_iter().map(|(tag, _)| tag).collect()
    }

    pub(crate) fn assert_tags(&self, expected: &[&str]) {
        for disk in DISKS {
            assert_eq!(self.names(disk), expected, "{disk}");
        }
    }

    /// Every disk is as QEMU wants it, to the last cluster. It is looked at where its image is.
    fn assert_whole(&self) {
        for disk in DISKS {
            let file = format!("/var/lib/ostler/volumes/web-1/{disk}.qcow2");
            let said = self.lab.exec("h1", &["qemu-img", "check", &file]);
            let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
            assert!(said.status.success(), "{disk}: {text}");
        }
    }

    /// Blocks in its journal.
    pub(crate) fn blocks(&self) -> usize {
        let writers = Journal::of(&self.disk("journal")).writers();
        writers.iter().map(|writer| writer.blocks).sum()
    }

    pub(crate) fn await_blocks_after(&self, before: usize) -> usize {
        let mut now = 0;
        until("the guest to write", LIMIT, || {
            now = self.blocks();
            is(now > before, now)
        });
        now
    }

    fn row(&self) -> Value {
        self.operator.row_on("web-1", "h1")["job"].clone()
    }

    fn stage(&self, name: &str) -> Value {
        let snapshots = self.row()["snapshots"].clone();
        let named = snapshots.as_array().into_iter().flatten().find(|one| one["name"] == name);
        named.map_or(Value::Null, |one| one["stage"].clone())
    }

    fn await_stage(&self, name: &str, stage: &Value) {
        until(&format!("snapshot {name} to be {stage}"), LIMIT, || {
            let now = self.stage(name);
            is(now == *stage, now)
        });
    }

    fn promised(&self) -> u64 {
        let hosts = self.operator.json(&["hosts"])["hosts"].clone();
        let mut hosts = hosts.as_array().expect("a list").iter();
        let host = hosts.find(|row| row["host"]["name"] == "h1").expect("h1 is seen");
        host["host"]["allocation"]["disk_bytes"].as_u64().expect("a number")
    }

    /// The command is refused; what it says.
    pub(crate) fn refused(&self, words: &[&str]) -> String {
        let output = self.operator.run(words);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(output.status.code(), Some(3), "{words:?}: {said}");
        said
    }

    pub(crate) fn kill_agent(&self) {
        self.lab.must(&["signal", "h1", "agent", "KILL"]);
    }

    pub(crate) fn start_agent(&self) {
        self.lab.start_agent("h1", &self.url);
        self.lab.await_agent("h1");
    }
}

/// Keeps QEMU's lock on a disk, as somebody with `qemu-nbd` would, until it is ended.
struct Holder(Child);

impl Holder {
    /// It answers once it has the disk. Nobody else looks whether it has: that would take the lock from it.
    fn of(disk: &std::path::Path) -> Self {
        let (holder, _) = until("somebody to hold the disk", LIMIT, || {
            let mut hold = Command::new("qemu-io");
            hold.args(["-f", "qcow2"]).arg(disk).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut holder = Self(hold.spawn().expect("qemu-io can be run"));
            let ask = holder.0.stdin.as_mut().expect("its input is piped").write_all(b"length\n");
            let mut said = String::new();
            let output = holder.0.stdout.as_mut().expect("its output is piped");
            let read = BufReader::new(output).read_line(&mut said);
            let is_held = ask.is_ok() && read.is_ok() && said.contains("MiB");
            if is_held { Ok(holder) } else { Err(said) }
        });
        holder
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Its input is at its end, and so is it.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn space(path: &std::path::Path) -> u64 {
    std::fs::metadata(path).expect("the disk is there").blocks() * 512
}

#[test]
fn lab_disks_go_back_to_what_they_were_while_the_guest_wrote() {
    let test = "lab_disks_go_back_to_what_they_were";
    let Some(story) = Story::up(test, 2) else { return };
    let operator = &story.operator;
    let console = operator.follow(&["console", "web-1", "--no-input"]);
    console.line_with("count=", LIMIT);
    let promised = story.promised();

    let least = story.blocks();
    let said = operator.must(&["snapshots", "take", "web-1", "before"]);
    assert!(said.contains("snapshot before of web-1 on h1 is taken"), "{said}");
    let most = story.blocks() + 1;
    story.assert_tags(&["ostler-before"]);
    let moments: Vec<u64> = DISKS.iter().map(|disk| story.tags(disk)[0].1).collect();
    let apart = moments[0].abs_diff(moments[1]);
    println!("taken of both disks within {apart} ms, with {least} to {most} blocks written");
    let shown = operator.must(&["snapshots"]);
    assert!(shown.contains("before") && shown.contains("ready"), "{shown}");
    let listed = operator.json(&["snapshots", "ls", "web-1"])["snapshots"][0].clone();
    assert_eq!(listed["taken_ms"].as_u64(), Some(moments[0]), "{listed}");
    let kept = listed["promised_bytes"].as_u64().expect("a size");
    until("what it keeps to be promised", LIMIT, || {
        let now = story.promised();
        is(now == promised + kept, now)
    });

    // Nothing else about it is refused without a word that would have worked.
    let said = story.refused(&["snapshots", "take", "web-1", "before"]);
    assert!(said.contains("already"), "{said}");
    let said = story.refused(&["snapshots", "revert", "web-1", "before"]);
    assert!(said.contains("stop it"), "{said}");
    let said = operator.run(&["migrate", "web-1", "h2"]);
    let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    assert!(said.contains("ostler snapshots rm"), "{said}");
    assert_eq!(story.lab.virsh_state("h1", "web-1"), "running");
    let later = story.await_blocks_after(most + 5);
    let counts = console.line_with("count=", LIMIT);
    assert!(!counts.contains("count=0"), "it was not restarted: {counts}");

    operator.must(&["stop", "web-1", "--force"]);
    assert!(story.blocks() >= later);
    let said = operator.must(&["snapshots", "revert", "web-1", "before"]);
    assert!(said.contains("is what its disks are again"), "{said}");
    let back = story.blocks();
    println!("stopped with {later} blocks or more, back at {back}");
    assert!((least..=most).contains(&back), "{back} of {least} to {most}");
    story.assert_whole();
    let console = operator.follow(&["console", "web-1", "--no-input", "--tail", "0"]);
    operator.must(&["start", "web-1"]);
    // One that was half-way when the snapshot was taken may be there for the guest, and not for us.
    let said = console.line_with("journal at ", LIMIT);
    let at: usize = said.rsplit(' ').next().and_then(|n| n.trim().parse().ok()).expect("a number");
    assert!((back..=back + 1).contains(&at), "the guest finds {at}, the disk has {back}");

    // Of a stopped one too; and what is deleted gives its space back, stopped or not.
    operator.must(&["stop", "web-1", "--force"]);
    operator.must(&["snapshots", "take", "web-1", "off"]);
    story.assert_tags(&["ostler-before", "ostler-off"]);
    operator.must(&["snapshots", "rm", "web-1", "before"]);
    operator.must(&["start", "web-1"]);
    let now = story.blocks();
    story.await_blocks_after(now + 20);
    let before = space(&story.disk("journal"));
    operator.must(&["snapshots", "rm", "web-1", "off"]);
    let after = space(&story.disk("journal"));
    println!("the journal took {before} bytes with the snapshot, {after} without");
    assert!(after < before);
    story.assert_tags(&[]);
    until("nothing more to be promised for them", LIMIT, || {
        let now = story.promised();
        is(now == promised, now)
    });
    operator.must(&["migrate", "web-1", "h2"]);
    assert_eq!(story.lab.virsh_state("h2", "web-1"), "running");
}

#[test]
fn lab_a_snapshot_is_found_or_finished_whoever_dies_in_the_middle() {
    let test = "lab_a_snapshot_is_found_or_finished";
    let Some(story) = Story::up(test, 1) else { return };
    let (operator, lab) = (&story.operator, &story.lab);
    let ready: Value = "ready".into();

    // A stopped libvirtd holds it between the ledger and the disks.
    lab.must(&["signal", "h1", "libvirtd", "STOP"]);
    operator.must(&["snapshots", "take", "web-1", "one", "--no-wait"]);
    story.await_stage("one", &"taking".into());
    story.assert_tags(&[]);
    story.kill_agent();
    // libvirt 9.0 was seen to crash when a client dies that it was about to answer: so it dies here, too.
    lab.must(&["signal", "h1", "libvirtd", "KILL"]);
    lab.must(&["exec", "-d", "libvirtd", "h1", "libvirtd"]);
    story.start_agent();
    story.await_stage("one", &ready);
    story.assert_tags(&["ostler-one"]);
    println!("agent killed before the disks had it: they have it, once");

    // libvirtd dies with it; whether QEMU was told is for the disks to say.
    lab.must(&["signal", "h1", "libvirtd", "STOP"]);
    operator.must(&["snapshots", "take", "web-1", "two", "--no-wait"]);
    lab.must(&["signal", "h1", "libvirtd", "KILL"]);
    lab.must(&["exec", "-d", "libvirtd", "h1", "libvirtd"]);
    story.await_stage("two", &ready);
    story.assert_tags(&["ostler-one", "ostler-two"]);
    println!("libvirtd killed: they have it, once");

    // The agent dies at no chosen moment: as soon as the answer is there, and later.
    for (number, pause_ms) in [0, 20, 80, 250].into_iter().enumerate() {
        let name = format!("k{number}");
        operator.must(&["snapshots", "take", "web-1", &name, "--no-wait"]);
        std::thread::sleep(Duration::from_millis(pause_ms));
        story.kill_agent();
        let had = story.names("root").contains(&format!("ostler-{name}"));
        story.start_agent();
        story.await_stage(&name, &ready);
        println!("agent killed {pause_ms} ms after the answer (had it: {had}): ready");
    }
    let all = ["ostler-one", "ostler-two", "ostler-k0", "ostler-k1", "ostler-k2", "ostler-k3"];
    story.assert_tags(&all);

    lab.must(&["signal", "h1", "libvirtd", "STOP"]);
    operator.must(&["snapshots", "rm", "web-1", "two", "--no-wait"]);
    story.kill_agent();
    lab.must(&["signal", "h1", "libvirtd", "KILL"]);
    lab.must(&["exec", "-d", "libvirtd", "h1", "libvirtd"]);
    story.start_agent();
    story.await_stage("two", &Value::Null);
    assert!(!story.names("root").contains(&"ostler-two".to_owned()));
    println!("agent and libvirtd killed while it was deleted: it is gone");

    // Half-way back: one disk is what it was, the other is somebody's.
    operator.must(&["stop", "web-1", "--force"]);
    let late = story.blocks();
    let holder = Holder::of(&story.disk("journal"));
    let reverted = operator.run(&["snapshots", "revert", "web-1", "one"]);
    assert_eq!(reverted.status.code(), Some(1), "it says that it goes on");
    story.await_stage("one", &"reverting".into());
    let said = story.row()["snapshots"].to_string();
    assert!(said.contains("lock"), "{said}");
    let started = operator.run(&["start", "web-1"]);
    assert!(!started.status.success(), "it was started half-way");
    assert_eq!(lab.virsh_state("h1", "web-1"), "shut off");
    story.kill_agent();
    story.start_agent();
    until("the next life to go on with it", LIMIT, || {
        let row = story.row();
        is(row["snapshots"].to_string().contains("lock"), row)
    });
    drop(holder);
    story.await_stage("one", &ready);
    let back = story.blocks();
    println!("half-way back, agent killed: {late} blocks became {back}");
    assert!(back < late);
    story.assert_whole();
    operator.must(&["start", "web-1"]);
    story.await_blocks_after(back);
}
