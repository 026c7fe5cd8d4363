//! The processes of the benchmark: this same program in other roles, and what they cost.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// A child of the benchmark, killed when dropped.
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts this program with these words and waits until it says a line.
    pub(crate) fn start(words: &[String]) -> (Self, String) {
        let program = std::env::current_exe().expect("our own path");
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start a process");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        out.read_line(&mut line).expect("a line");
        let stdin = child.stdin.take();
        (Self { child, stdin }, line.trim().to_owned())
    }

    /// Tells it a line.
    pub(crate) fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).expect("it listens");
    }

    /// Resident memory in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        memory_bytes(&self.child.id().to_string())
    }

    /// CPU time it has used, in microseconds.
    pub(crate) fn cpu_us(&self) -> u64 {
        cpu_us(&self.child.id().to_string())
    }
}

/// Resident memory of a process (`self` for this one).
pub(crate) fn memory_bytes(pid: &str) -> u64 {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid).join("status"));
    let status = status.expect("it lives");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a figure");
    let kib = line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok());
    kib.expect("a number") * 1024
}

/// CPU time of a process, all threads.
pub(crate) fn cpu_us(pid: &str) -> u64 {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    let stat = stat.expect("it lives");
    let words: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let ticks = |i: usize| words[i].parse::<u64>().expect("a number");
    // User and system time, in ticks of 10 ms.
    (ticks(11) + ticks(12)) * 10_000
}

/// The load of the machine, so that a reader knows what the figures are worth.
pub(crate) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
}
