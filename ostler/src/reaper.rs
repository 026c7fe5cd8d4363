//! Reaping what libvirt and dead agents leave behind, without taking anybody's child away.
//!
//! libvirt daemonises QEMU and, when it kills a guest, waits until the process has vanished. An
//! orphan vanishes only when its adopter reaps it, and PID 1 of many containers does that late or
//! never: each `destroy` would take ten seconds. So a process near the guests becomes a *sub-reaper*:
//! the kernel gives it its orphaned descendants, and it waits for them.
//!
//! Waiting for "any child" must not happen in a process whose libraries wait for children of their
//! own (libvirt's helpers, tokio's): whoever waits first gets the exit status, the other an error. So
//!
//! * `ostler agent` with an embedded hypervisor is two processes: a parent that only reaps and passes
//!   signals on, and the agent. When the parent dies, the kernel kills the agent too, so to the outside
//!   they are one; guests and services go on.
//! * `ostler dev` starts its agents through this module alone, which is then the only one to wait.
//!
//! ```text
//! spawn ─▶ known ──▶ wait(any) returns it ─▶ its exit status goes to whoever spawned it
//!          an orphan ─▶ wait(any) returns it ─▶ forgotten
//! ```

use std::collections::HashMap;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::Thread;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, getppid, kill_process, set_child_subreaper,
    set_parent_process_death_signal, wait,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Tells the second of an agent's two processes which process its first is.
const PARENT: &str = "OSTLER_REAPING_PARENT";

/// The one in this process who waits for children.
pub(crate) struct Reaper {
    known: Mutex<HashMap<Pid, oneshot::Sender<ExitStatus>>>,
    thread: Mutex<Option<Thread>>,
}

impl Reaper {
    /// Makes this process a sub-reaper. From now on children are started only by [`Reaper::spawn`].
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        set_child_subreaper(Pid::from_raw(1))?;
        let reaper = Arc::new(Self { known: Mutex::default(), thread: Mutex::new(None) });
        let waiting = Arc::clone(&reaper);
        let handle =
            std::thread::Builder::new().name("reaper".into()).spawn(move || waiting.run())?;
        *reaper.thread.lock().expect("no holder of this lock panics") =
            Some(handle.thread().clone());
        Ok(reaper)
    }

    /// Starts a child; its exit status comes once it has ended.
    pub(crate) fn spawn(
        &self,
        command: &mut Command,
    ) -> io::Result<(Pid, oneshot::Receiver<ExitStatus>)> {
        let (ended, status) = oneshot::channel();
        // Held until the child is known: it may end before `spawn` returns.
        let mut known = self.lock();
        let pid = Pid::from_child(&command.spawn()?);
        known.insert(pid, ended);
        drop(known);
        if let Some(thread) = &*self.thread.lock().expect("no holder of this lock panics") {
            thread.unpark();
        }
        Ok((pid, status))
    }

    fn run(&self) {
        loop {
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => {
                    if let Some(ended) = self.lock().remove(&pid) {
                        let _ = ended.send(ExitStatus::from_raw(status.as_raw()));
                    }
                }
                // No children, so no descendants either that could become ours: rest until the next
                // spawn. An unpark that came in between is remembered.
                Err(Errno::CHILD) => std::thread::park(),
                Ok(None) | Err(_) => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Pid, oneshot::Sender<ExitStatus>>> {
        self.known.lock().expect("no holder of this lock panics")
    }
}

/// Which half of an agent this process is.
pub(crate) enum Half {
    /// The first: it has done its work, and the agent has ended so.
    Parent(ExitStatus),
    /// The second, or one that needs no parent: be the agent.
    Agent,
}

/// Splits an agent in two when it needs a reaping parent. Call it first, from the main thread: the
/// kernel's promise to end the child with its parent is in truth one about the parent's thread.
pub(crate) fn split(needs_reaper: bool) -> io::Result<Half> {
    if let Some(parent) = std::env::var_os(PARENT) {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        let is_alive = getppid().is_some_and(|pid| parent == *pid.as_raw_nonzero().to_string());
        // It died before the line above: nobody would end us any more.
        return if is_alive { Ok(Half::Agent) } else { Err(io::Error::other("the parent died")) };
    }
    if !needs_reaper {
        return Ok(Half::Agent);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(attend()).map(Half::Parent)
}

/// The parent's life: the agent's, with signals passed on.
async fn attend() -> io::Result<ExitStatus> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let reaper = Reaper::start()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).env(PARENT, std::process::id().to_string());
    // A group of its own: Ctrl-C reaches it once, from us, not twice.
    command.process_group(0);
    let (agent, mut ended) = reaper.spawn(&mut command)?;
    loop {
        let passed_on = tokio::select! {
            status = &mut ended => return status.map_err(io::Error::other),
            _ = terminate.recv() => Signal::TERM,
            _ = interrupt.recv() => Signal::INT,
            _ = hangup.recv() => Signal::HUP,
        };
        let _ = kill_process(agent, passed_on);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, because there is one reaper in a process.
    #[tokio::test]
    async fn children_are_reported_and_orphans_vanish() {
        let reaper = Reaper::start().unwrap();
        let (_, status) = reaper.spawn(Command::new("false").arg("x")).unwrap();
        assert_eq!(status.await.unwrap().code(), Some(1));

        let file = tempfile::NamedTempFile::new().unwrap();
        let script = format!("sleep 0.2 & echo $! > {}", file.path().display());
        let (_, status) = reaper.spawn(Command::new("sh").args(["-c", &script])).unwrap();
        assert!(status.await.unwrap().success());
        let orphan = std::fs::read_to_string(file.path()).unwrap().trim().to_owned();
        let entry = std::path::PathBuf::from(format!("/proc/{orphan}"));
        for _ in 0..200 {
            if !entry.exists() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        panic!("orphan {orphan} was not reaped");
    }
}
