//! The lab itself: it leaves nothing behind, however it ended.

use std::process::Command;
use std::time::Duration;

use tests::lab::Lab;
use tests::wait::until;

/// Where a lab shows on this machine: its folder's name and its bridge's.
struct Marks {
    folder: String,
    bridge: String,
}

impl Marks {
    fn of(lab: &Lab) -> Self {
        let disk = lab.data("h1");
        let host = disk.ancestors().find(|path| path.ends_with("h1"));
        let folder = host.and_then(|host| host.parent()).expect("a host is in the lab's folder");
        let address = lab.address("h1");
        let subnet = address.split('.').nth(2).expect("an IPv4 address");
        Self { folder: folder.display().to_string(), bridge: format!("olab{subnet}") }
    }

    /// Processes, mounts, interfaces and files that carry the marks.
    fn seen(&self) -> Vec<String> {
        let mut seen = lines_with("ps", &["-eo", "stat,args"], &self.folder);
        // What has ended and waits to be reaped by somebody else's PID 1 is no trace.
        seen.retain(|line| !line.starts_with('Z'));
        seen.extend(lines_with("cat", &["/proc/mounts"], &self.folder));
        seen.extend(lines_with("ip", &["-br", "link"], &self.bridge));
        if std::path::Path::new(&self.folder).join("h1").exists() {
            seen.push(self.folder.clone());
        }
        seen
    }
}

fn lines_with(program: &str, words: &[&str], mark: &str) -> Vec<String> {
    let output = Command::new(program).args(words).output().expect("it can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter(|line| line.contains(mark)).map(str::to_owned).collect()
}

#[test]
fn lab_leaves_nothing_behind_after_a_crash_and_a_second_up() {
    let name = "lab_leaves_nothing_behind_after_a_crash_and_a_second_up";
    let Some(lab) = Lab::up(name, 2) else { return };
    let marks = Marks::of(&lab);
    assert!(marks.seen().len() >= 3, "the test must be able to see a lab: {:?}", marks.seen());
    // A crashed one is started again, as its unit would; a killed one is not.
    lab.must(&["signal", "h1", "libvirtd", "SEGV"]);
    until("libvirtd to answer again", Duration::from_secs(60), || {
        let log = lab.must(&["log", "h1", "libvirtd"]);
        let answers = lab.exec("h1", &["virsh", "version"]).status.success();
        if answers && log.contains("started again") { Ok(()) } else { Err(log) }
    });
    lab.must(&["signal", "h1", "libvirtd", "KILL"]);
    lab.must(&["kill", "h2"]);
    lab.must(&["up", "2"]);
    assert_eq!(lab.virsh_domains("h2"), Vec::<String>::new());
    lab.must(&["cut", "h1"]);
    drop(lab);
    assert_eq!(marks.seen(), Vec::<String>::new());
}
