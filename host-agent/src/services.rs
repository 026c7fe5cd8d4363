//! Ostler's own roles as processes beside the agent: started, watched, started again.
//!
//! A service outlives the agent: it runs in a session of its own, and a new agent finds it by the
//! pid and start time that are kept in its folder. Decides when a dead one is started again
//! (back-off); that one is wanted at all is the core's decision.
//!
//! ```text
//!   wanted ─▶ attach to what runs, else spawn ─▶ ready file appears ─▶ Up ─▶ exit ─▶ Down ─┐
//!                  ▲                                                                      │
//!                  └────────────────────── back-off ◀─────────────────────────────────────┘
//! ```

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::id::JobId;
use protocol::job::{ServiceEndpoint, ServiceSpec};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use transport::traces;

use crate::core::ServiceNews;
use crate::log_file::LogFile;
use crate::place::Place;

/// How long a service may take from start to its ready file.
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// How often a ready file is looked for.
const READY_INTERVAL: Duration = Duration::from_millis(20);
/// How long a service may take to end after SIGTERM.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
/// Rest before the first restart; doubles up to the longest.
const RESTART_REST: Duration = Duration::from_millis(250);
/// Longest rest between restarts.
const RESTART_REST_MAX: Duration = Duration::from_secs(30);
/// Logs beyond this size are cut.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// What every service needs to know of its host.
#[derive(Debug, Clone)]
pub(crate) struct ServiceContext {
    /// The `ostler` program.
    pub program: PathBuf,
    /// Where services listen.
    pub listen: IpAddr,
    /// Where others reach this host.
    pub place: watch::Receiver<Place>,
    /// The agent's trust document, kept in a file for services.
    pub trust_file: PathBuf,
}

/// The services of one agent.
#[derive(Debug)]
pub(crate) struct Services {
    context: ServiceContext,
    news: mpsc::Sender<(JobId, ServiceNews)>,
    running: Mutex<HashMap<JobId, CancellationToken>>,
    tasks: TaskTracker,
}

/// How a process is recognised again: a pid alone may be somebody else's by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct ProcessId {
    pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks since boot at the start of the process.
    started: u64,
}

impl Services {
    /// No services yet; news of them goes to `news`.
    #[must_use]
    pub(crate) fn new(
        context: ServiceContext,
        news: mpsc::Sender<(JobId, ServiceNews)>,
    ) -> Arc<Self> {
        let running = Mutex::new(HashMap::new());
        Arc::new(Self { context, news, running, tasks: TaskTracker::new() })
    }

    /// Keeps a service running from now on. Returns at once.
    pub(crate) fn start(self: &Arc<Self>, job: &JobId, spec: ServiceSpec, folder: PathBuf) {
        let stop = CancellationToken::new();
        let known = self.lock().insert(job.clone(), stop.clone());
        if let Some(known) = known {
            known.cancel();
        }
        let (services, job) = (Arc::clone(self), job.clone());
        self.tasks.spawn(async move { services.supervise(job, spec, folder, stop).await });
    }

    /// Ends a service, and returns when its process is gone.
    pub(crate) async fn stop(&self, job: &JobId, folder: &Path) -> io::Result<()> {
        if let Some(stop) = self.lock().remove(job) {
            stop.cancel();
        }
        let Some(process) = ProcessId::read(folder) else { return Ok(()) };
        process.signal(Signal::TERM)?;
        if timeout(STOP_DEADLINE, process.ended()).await.is_err() {
            process.signal(Signal::KILL)?;
            timeout(STOP_DEADLINE, process.ended())
                .await
                .map_err(|_| io::Error::other(format!("pid {} survives SIGKILL", process.pid)))?;
        }
        Ok(())
    }

    /// Stops watching; the processes go on.
    pub(crate) fn abandon(&self) {
        for (_, stop) in self.lock().drain() {
            stop.cancel();
        }
    }

    async fn supervise(
        &self,
        job: JobId,
        spec: ServiceSpec,
        folder: PathBuf,
        stop: CancellationToken,
    ) {
        let mut rest = RESTART_REST;
        loop {
            let life = self.one_life(&job, &spec, &folder);
            let code = tokio::select! {
                () = stop.cancelled() => return,
                never = log_of(&folder).keep_bounded() => match never {},
                ended = life => ended.unwrap_or_else(|error| {
                    tracing::warn!(%job, "start service: {error}");
                    127
                }),
            };
            tracing::warn!(%job, code, "service ended; it is started again after {rest:?}");
            if self.news.send((job.clone(), ServiceNews::Down { code })).await.is_err() {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(rest) => {}
            }
            rest = (rest * 2).min(RESTART_REST_MAX);
        }
    }

    /// From finding or starting the process to its end; its exit code.
    async fn one_life(&self, job: &JobId, spec: &ServiceSpec, folder: &Path) -> io::Result<i32> {
        fs::create_dir_all(folder)?;
        let (process, mut child) = match ProcessId::read(folder).filter(ProcessId::is_alive) {
            Some(process) => (process, None),
            None => {
                let child = self.spawn(spec, folder)?;
                let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
                let process = ProcessId::of(pid)
                    .ok_or_else(|| io::Error::other("the process ended at once; see its log"))?;
                if let Err(error) = process.write(folder) {
                    // One that is not written down would run on unseen beside the next.
                    process.signal(Signal::KILL)?;
                    return Err(error);
                }
                (process, Some(child))
            }
        };
        let ended = async {
            match &mut child {
                Some(child) => child.wait().await.map(|status| {
                    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
                }),
                None => {
                    process.ended().await;
                    Ok(0)
                }
            }
        };
        tokio::pin!(ended);
        tokio::select! {
            code = &mut ended => return code,
            ready = timeout(READY_DEADLINE, await_ready(folder)) => match ready {
                Ok(endpoint) => {
                    keep_port(folder, &endpoint)?;
                    tokio::select! {
                        code = &mut ended => return code,
                        () = self.tell_where(job, &endpoint) => {}
                    }
                }
                Err(_) => {
                    tracing::warn!(%job, "service is not ready after {READY_DEADLINE:?}; ended");
                    process.signal(Signal::KILL)?;
                }
            },
        }
        ended.await
    }

    /// Says where a service answers, now and whenever the host has moved.
    async fn tell_where(&self, job: &JobId, ready: &ServiceEndpoint) {
        let mut place = self.context.place.clone();
        loop {
            let url = place.borrow_and_update().url_here(&ready.url);
            let endpoint = ServiceEndpoint { url, key: ready.key };
            if self.news.send((job.clone(), ServiceNews::Up(endpoint))).await.is_err() {
                return;
            }
            if place.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn spawn(&self, spec: &ServiceSpec, folder: &Path) -> io::Result<tokio::process::Child> {
        let ready = ready_file(folder);
        // The port stays the same over restarts, so that others find the service again.
        let port = read_port(folder).unwrap_or(spec.port);
        let _ = fs::remove_file(&ready);
        let log = log_of(folder).open()?;
        let mut command = std::process::Command::new(&self.context.program);
        command
            .arg(spec.role.to_string())
            .arg("--data-dir")
            .arg(folder)
            .arg("--listen")
            .arg(std::net::SocketAddr::new(self.context.listen, port).to_string())
            .arg("--trust-file")
            .arg(&self.context.trust_file)
            .arg("--ready-file")
            .arg(&ready)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A group of its own: Ctrl-C at the agent's terminal is not for its services.
            .process_group(0);
        if let Some(collector) = traces::collector() {
            command.env(traces::COLLECTOR_VAR, collector);
        }
        for source in &spec.discovery {
            command.arg("--discovery").arg(source);
        }
        tokio::process::Command::from(command).kill_on_drop(false).spawn()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, CancellationToken>> {
        self.running.lock().expect("no holder of this lock panics")
    }
}

impl ProcessId {
    fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in field 2 may hold spaces and brackets: count from its last bracket.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?;
        let started = fields.nth(18)?.parse().ok()?;
        (state != "Z").then_some(Self { pid, started })
    }

    fn is_alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join("process.json")).ok()?).ok()
    }

    fn write(&self, folder: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self).expect("two numbers are always valid JSON");
        transport::durable::replace(&folder.join("process.json"), &text)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let Some(pidfd) = self.open() else { return Ok(()) };
        match pidfd_send_signal(pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A handle that stays this process's, even when its pid is given to another.
    fn open(&self) -> Option<rustix::fd::OwnedFd> {
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::NONBLOCK).ok()?;
        self.is_alive().then_some(pidfd)
    }

    async fn ended(&self) {
        let Some(pidfd) = self.open() else { return };
        #[expect(deprecated, reason = "its successor needs unsafe; an OwnedFd keeps its promise")]
        let pidfd = AsyncFd::new(pidfd);
        if let Ok(pidfd) = pidfd {
            let _ = pidfd.readable().await;
        }
    }
}

fn ready_file(folder: &Path) -> PathBuf {
    folder.join("ready.json")
}

/// The port that others know; in a file of its own, because the ready file goes with every start.
fn port_file(folder: &Path) -> PathBuf {
    folder.join("port.json")
}

fn read_port(folder: &Path) -> Option<u16> {
    serde_json::from_slice(&fs::read(port_file(folder)).ok()?).ok()
}

fn keep_port(folder: &Path, endpoint: &ServiceEndpoint) -> io::Result<()> {
    let port = endpoint.url.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
    match port {
        Some(port) if read_port(folder) != Some(port) => {
            transport::durable::replace(&port_file(folder), port.to_string().as_bytes())
        }
        _ => Ok(()),
    }
}

fn read_endpoint(path: &Path) -> Option<ServiceEndpoint> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

async fn await_ready(folder: &Path) -> ServiceEndpoint {
    loop {
        if let Some(endpoint) = read_endpoint(&ready_file(folder)) {
            return endpoint;
        }
        sleep(READY_INTERVAL).await;
    }
}

fn log_of(folder: &Path) -> LogFile {
    LogFile::of(folder, LOG_BYTES_MAX)
}
