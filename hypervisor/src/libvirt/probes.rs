//! QEMU processes that libvirt had asked what they can do when its own process was killed.
//!
//! Such a probe daemonises, serves nobody and would stay for ever. Each has a folder of its own,
//! `ROOT/lib/qemu/qmp-XXXXXX` with `qmp.pid`, and names it on its command line. Whoever holds the
//! root's lock is the only one who could be waiting for it, so what is there before libvirt is
//! opened is nobody's.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// Ends what an earlier life left below this root. What can't be ended is only told.
pub(super) fn end_left_over(root: &Path) {
    let Ok(entries) = fs::read_dir(root.join("lib/qemu")) else { return };
    for folder in entries.flatten().map(|entry| entry.path()) {
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.starts_with("qmp-") {
            continue;
        }
        if let Some(pid) = probe_of(&folder) {
            tracing::info!(pid = pid.as_raw_pid(), "ending a QEMU that nobody questions any more");
            let _ = kill_process(pid, Signal::KILL);
        }
        if let Err(error) = fs::remove_dir_all(&folder) {
            tracing::warn!("remove {}: {error}", folder.display());
        }
    }
}

/// The process that the folder names, if it is still that one: numbers are used again.
fn probe_of(folder: &Path) -> Option<Pid> {
    let pid = fs::read_to_string(folder.join("qmp.pid")).ok()?;
    let pid = Pid::from_raw(pid.trim().parse().ok()?)?;
    let command = fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid())).ok()?;
    String::from_utf8_lossy(&command).contains(folder.to_str()?).then_some(pid)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_left_over_probe_is_ended_and_a_stranger_with_its_number_is_not() {
        let root = tempfile::tempdir().unwrap();
        let folders =
            ["qmp-AAAAAA", "qmp-BBBBBB"].map(|name| root.path().join("lib/qemu").join(name));
        let kept = root.path().join("lib/qemu/save");
        for folder in folders.iter().chain([&kept]) {
            fs::create_dir_all(folder).unwrap();
        }
        let sleep = |word: &Path| {
            Command::new("sh")
                .args(["-c", "read never", "x"])
                .arg(word)
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        };
        let (mut probe, mut stranger) = (sleep(&folders[0]), sleep(Path::new("elsewhere")));
        fs::write(folders[0].join("qmp.pid"), format!("{}\n", probe.id())).unwrap();
        fs::write(folders[1].join("qmp.pid"), format!("{}\n", stranger.id())).unwrap();

        end_left_over(root.path());

        assert_eq!(probe.wait().unwrap().signal(), Some(9));
        assert!(stranger.try_wait().unwrap().is_none(), "it was not ours");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        assert!(folders.iter().all(|folder| !folder.exists()) && kept.exists());
    }
}
