//! The keeper's process as its agent sees it: who it is, and its end.
//!
//! It is known by the connection and held by a pidfd, so no other process is ever hit, whoever has its
//! number afterwards: as long as nothing has been read that ends the connection, the process that was
//! opened is the one that answers.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::time::timeout;

/// How long a keeper may take to go when it is asked to. Then it is killed.
const GO_DEADLINE: Duration = Duration::from_secs(2);
/// How long one that is killed may take to be dead before that is spoken of: only a call of the kernel that
/// does not return, of a disk that does not answer say, keeps it.
const DIE_DEADLINE: Duration = Duration::from_secs(2);

/// A process at the other end of a connection.
#[derive(Debug)]
pub(super) struct Peer {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
}

impl Peer {
    /// Who listens there. `None`: it can't be told, has gone, or is this process.
    pub(super) fn of(stream: &UnixStream) -> Option<Self> {
        let pid = stream.peer_cred().ok()?.pid().and_then(Pid::from_raw)?;
        if pid == getpid() { None } else { Self::open(pid) }
    }

    /// One that was just started. Nobody has asked for its end yet, so its number is its own.
    pub(super) fn of_child(child: &Child) -> Option<Self> {
        Self::open(Pid::from_raw(i32::try_from(child.id()?).ok()?)?)
    }

    fn open(pid: Pid) -> Option<Self> {
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        #[expect(deprecated, reason = "its successor needs unsafe; an OwnedFd keeps its promise")]
        let pidfd = AsyncFd::new(pidfd).ok()?;
        Some(Self { pid, pidfd })
    }

    /// Its number, to show to people.
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Whether it was started from another file than this one, as before an upgrade: it may not know what
    /// we tell it.
    pub(super) fn is_of_another_program(&self, program: &Path) -> bool {
        let file = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        let theirs = file(&self.proc("exe"));
        theirs.zip(file(program)).is_some_and(|(theirs, ours)| theirs != ours)
    }

    /// The watchdog that it was told to feed.
    pub(super) fn watchdog(&self) -> Option<PathBuf> {
        let words = fs::read(self.proc("cmdline")).ok()?;
        let mut words = words.split(|byte| *byte == 0).skip_while(|word| *word != b"--watchdog");
        words.nth(1).map(|path| PathBuf::from(std::ffi::OsStr::from_bytes(path)))
    }

    /// Whether it has ended.
    pub(super) async fn is_dead(&self) -> bool {
        timeout(Duration::from_millis(1), self.dead()).await.is_ok()
    }

    /// Asks it to end, kills it if it does not, and returns when it is dead.
    pub(super) async fn end(&self) {
        self.signal(Signal::TERM);
        if timeout(GO_DEADLINE, self.dead()).await.is_err() {
            tracing::warn!(pid = self.pid(), "the keeper does not go: it is killed");
            self.kill().await;
        }
    }

    /// Kills it, and returns when it is dead: also one that is stopped, however long that takes.
    pub(super) async fn kill(&self) {
        self.signal(Signal::KILL);
        if timeout(DIE_DEADLINE, self.dead()).await.is_err() {
            tracing::error!(
                pid = self.pid(),
                "the keeper was killed and is not dead: a call of the kernel keeps it, such as of a disk \
                 that does not answer. Until then this agent ends what is over, and starts of VMs with \
                 on_loss = stop fail"
            );
            self.dead().await;
        }
    }

    fn signal(&self, signal: Signal) {
        match pidfd_send_signal(self.pidfd.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => tracing::error!(pid = self.pid(), "end the keeper: {error}"),
        }
    }

    /// Its files are closed by then, its lock among them.
    async fn dead(&self) {
        // An error is of our own poll; the next keeper can't begin before the lock is free anyway.
        let _ = self.pidfd.readable().await;
    }

    fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.pid()))
    }
}
