//! The agents of `ostler dev`: child processes that are started, named when they die, started again.
//!
//! ```text
//! start ─▶ runs ─▶ ended: told, rest (0.25 s, doubling to 10 s) ─▶ start …
//!            └── end(): TERM ─▶ ended ─▶ its services: TERM
//! ```
//!
//! A process of an earlier `ostler dev` that was killed is recognised by its command line, ended (which
//! touches no guest) and replaced: so it is always this program that runs.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::api::Health;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use transport::traces::COLLECTOR_VAR;
use transport::{Client, Endpoint, Identity};

use super::place::Place;
use crate::exit::{Code, Failure};
use crate::reaper::Reaper;
use crate::show;

/// Rest before the first restart; doubles.
const REST: Duration = Duration::from_millis(250);

/// Longest rest between restarts.
const REST_MAX: Duration = Duration::from_secs(10);

/// An agent that lived this long was well; its next end is a new matter.
const WELL_AFTER: Duration = Duration::from_secs(30);

/// How long a process may take to end after SIGTERM.
const END_MS_MAX: u64 = 15_000;

/// How long an agent may take to its first answer: libvirt asks QEMU what it can, once.
const ANSWER_MS_MAX: u64 = 60_000;

/// How much of a log is shown with a failure.
const LOG_LINES_SHOWN: usize = 8;

/// The roles whose processes belong to a cluster.
const ROLES: [&str; 5] = ["agent", "arbiter", "witness", "monitor", "controller"];

/// Which ports agents take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ports {
    /// Each its own, where others look for it.
    Own,
    /// Any: nobody needs to find them but we, and we use their sockets.
    Any,
}

/// The child processes.
pub(super) struct Agents {
    reaper: Arc<Reaper>,
    folder: PathBuf,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Where they send traces.
    collector: Option<String>,
    /// Set by the first agent that can't run at all.
    dead: Arc<Mutex<Option<String>>>,
}

impl Agents {
    pub(super) fn new(reaper: Arc<Reaper>, place: &Place, collector: Option<&str>) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (folder, collector) = (place.folder.clone(), collector.map(str::to_owned));
        Self { reaper, folder, stop, tasks, collector, dead: Arc::default() }
    }

    pub(super) fn reaper(&self) -> Arc<Reaper> {
        Arc::clone(&self.reaper)
    }

    /// Starts every agent and keeps it running.
    pub(super) fn start(&self, place: &Place, ports: Ports) -> Result<(), Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::new(Code::Failed, "find this program").because(error))?;
        for number in 1..=place.state.agents {
            let child = Child {
                name: format!("h{number}"),
                program: program.clone(),
                arguments: arguments(place, number, ports),
                collector: self.collector.clone(),
                log: place.folder.join(format!("h{number}.log")),
                reaper: Arc::clone(&self.reaper),
                stop: self.stop.clone(),
                dead: Arc::clone(&self.dead),
            };
            std::fs::create_dir_all(place.agent_folder(number))
                .map_err(|error| Failure::new(Code::Failed, "make its folder").because(error))?;
            self.tasks.spawn(child.keep_running());
        }
        Ok(())
    }

    /// Waits until each agent has answered once, or one of them says that it never will.
    pub(super) async fn first_answers(&self, place: &Place) -> Result<(), Failure> {
        let client = Client::new(Arc::new(Identity::ephemeral()));
        for number in 1..=place.state.agents {
            let agent = Endpoint::anyone(place.agent_socket(number));
            let mut left = ANSWER_MS_MAX / 100;
            while client.get::<Health>(&agent, "/v1/health").await.is_err() {
                let dead = self.dead.lock().expect("no holder of this lock panics").clone();
                if let Some(why) = dead {
                    return Err(Failure::new(Code::Failed, why));
                }
                left -= 1;
                if left == 0 {
                    let log = place.folder.join(format!("h{number}.log"));
                    let what = format!("agent h{number} does not answer");
                    return Err(Failure::new(Code::Unreachable, what)
                        .next(format!("see {}", log.display())));
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    /// Ends agents, then what they started. Guests go on.
    pub(super) async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        end_processes(&self.folder, &ROLES).await;
    }

    /// Ends what an earlier `ostler dev` left when it was killed: its agents now; its services are
    /// adopted by the new agents.
    pub(super) async fn end_leftovers(&self) {
        end_processes(&self.folder, &ROLES[..1]).await;
    }
}

fn arguments(place: &Place, number: u16, ports: Ports) -> Vec<String> {
    let mut listen = place.agent_addr(number);
    if ports == Ports::Any {
        listen.set_port(0);
    }
    let mut arguments = vec![
        "agent".to_owned(),
        "--data-dir".to_owned(),
        place.agent_folder(number).display().to_string(),
        "--listen".to_owned(),
        listen.to_string(),
        "--name".to_owned(),
        format!("h{number}"),
        "--hypervisor".to_owned(),
        place.hypervisor_uri(number),
    ];
    if let Some(url) = &place.state.discovery {
        arguments.extend(["--discovery".to_owned(), url.clone()]);
    }
    // The hosts share one machine: each may promise its part of it.
    let memory = machine_memory_bytes() / 2 / u64::from(place.state.agents);
    let memory = (memory >> 20).max(256);
    arguments.extend(["--memory".to_owned(), format!("{memory}MiB")]);
    arguments
}

fn machine_memory_bytes() -> u64 {
    let pages = rustix::system::sysinfo();
    // The field's type differs between platforms.
    #[allow(clippy::useless_conversion, reason = "u32 on some platforms, u64 on others")]
    let total = u64::try_from(pages.totalram).unwrap_or(1 << 30);
    total.saturating_mul(u64::from(pages.mem_unit))
}

/// One agent, through all its lives.
struct Child {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    collector: Option<String>,
    reaper: Arc<Reaper>,
    stop: CancellationToken,
    dead: Arc<Mutex<Option<String>>>,
}

impl Child {
    async fn keep_running(self) {
        let mut rest = REST;
        loop {
            let started = tokio::time::Instant::now();
            let why = match self.one_life().await {
                Ok(None) => return,
                Ok(Some(why)) => why,
                Err(error) => format!("could not be started: {error}"),
            };
            if started.elapsed() >= WELL_AFTER {
                rest = REST;
            }
            let log = log_tail(&self.log);
            show::note(&format!("agent {} {why}; started again in {rest:?}", self.name));
            let text = format!("agent {} {why}:\n{log}", self.name);
            self.dead.lock().expect("no holder of this lock panics").get_or_insert(text);
            if self.stop.run_until_cancelled(tokio::time::sleep(rest)).await.is_none() {
                return;
            }
            rest = (rest * 2).min(REST_MAX);
        }
    }

    /// From start to end; `None` when we ended it.
    async fn one_life(&self) -> std::io::Result<Option<String>> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for us; we end agents when it is time.
            .process_group(0);
        if let Some(collector) = &self.collector {
            command.env(COLLECTOR_VAR, collector);
        }
        let (pid, mut ended) = self.reaper.spawn(&mut command)?;
        tokio::select! {
            status = &mut ended => {
                let status = status.map_err(std::io::Error::other)?;
                Ok(Some(format!("(pid {}) ended: {status}", pid.as_raw_nonzero())))
            }
            () = self.stop.cancelled() => {
                let _ = kill_process(pid, Signal::TERM);
                let limit = Duration::from_millis(END_MS_MAX);
                if tokio::time::timeout(limit, ended).await.is_err() {
                    show::note(&format!("agent {} does not end; killed", self.name));
                    let _ = kill_process(pid, Signal::KILL);
                }
                Ok(None)
            }
        }
    }
}

fn log_tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
    lines[from..].iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// Ends the processes of some roles that work in this folder, and waits until they are gone.
async fn end_processes(folder: &Path, roles: &[&str]) {
    let pids = processes(folder, roles);
    // An agent's second half hears of it from its first; hearing twice means "at once".
    for pid in pids.iter().filter(|pid| parent_of(**pid).is_none_or(|up| !pids.contains(&up))) {
        let _ = kill_process(*pid, Signal::TERM);
    }
    for round in 0..=END_MS_MAX / 50 {
        if !pids.iter().any(|pid| is_ours(*pid, folder, roles) && test_kill_process(*pid).is_ok()) {
            return;
        }
        if round == END_MS_MAX / 50 {
            for pid in pids.iter().filter(|pid| is_ours(**pid, folder, roles)) {
                let _ = kill_process(*pid, Signal::KILL);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The processes of some roles that work in this folder: `ostler ROLE … --data-dir FOLDER/…`.
fn processes(folder: &Path, roles: &[&str]) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(Pid::from_raw).filter(|pid| is_ours(*pid, folder, roles)).collect()
}

/// Field 4 of `/proc/PID/stat`; the name in field 2 may hold anything, so count from its end.
fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    Pid::from_raw(stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?)
}

fn is_ours(pid: Pid, folder: &Path, roles: &[&str]) -> bool {
    let path = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let words: Vec<&str> = text.split('\0').collect();
    let is_role = words.get(1).is_some_and(|word| roles.contains(word));
    let mut after = words.iter().skip_while(|word| **word != "--data-dir").skip(1);
    // Not a cluster of another folder, nor the one below ours.
    let is_here = |data: &str| {
        Path::new(data).strip_prefix(folder).is_ok_and(|rest| !rest.starts_with("test"))
    };
    is_role && after.next().is_some_and(|data| is_here(data))
}
