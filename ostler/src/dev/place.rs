//! Where `ostler dev` keeps things: one folder, one lock, ports chosen once.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::signed::Digest;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use transport::discovery::Source;

use crate::cli::DevHypervisor;
use crate::exit::{Code, Failure};

/// First of the ports that are tried.
const PORT_FIRST: u16 = 17_460;

/// Ports of one cluster: discovery, nine agents, then ten for each role.
const PORTS: u16 = 40;

/// How many stretches of ports there are: up to where the kernel takes ports for itself.
const STRETCHES: u16 = 300;

/// The machine that the test hypervisor pretends: 8 CPUs and 16 GiB. Its built-in one is filled by a
/// guest of its own.
const PRETENDED_NODE: &str = "\
<node>
  <cpu>
    <mhz>2000</mhz><model>x86_64</model><active>8</active><nodes>1</nodes><sockets>1</sockets>
    <cores>8</cores><threads>1</threads>
  </cpu>
  <memory>16777216</memory>
</node>
";

/// How long `ostler dev` may take to end after it was asked.
const END_MS_MAX: u64 = 30_000;

/// The state folder: as given, else by the usual rules.
pub(super) fn data_folder(given: Option<PathBuf>) -> PathBuf {
    let folder = given.unwrap_or_else(|| {
        if rustix::process::geteuid().is_root() {
            return "/var/lib/ostler-dev".into();
        }
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let share = set("XDG_DATA_HOME").or_else(|| Some(set("HOME")?.join(".local/share")));
        share.unwrap_or_else(std::env::temp_dir).join("ostler/dev")
    });
    std::path::absolute(&folder).unwrap_or(folder)
}

/// The right to be the one that runs; given back with the process, however it ends.
pub(super) enum Lock {
    Taken(File),
    Held { pid: u32 },
}

impl Lock {
    pub(super) fn take(data: &Path) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            let what = format!("use {}", data.display());
            Failure::new(Code::Failed, what).because(error).next("choose another --data DIR")
        };
        std::fs::create_dir_all(data).map_err(failed)?;
        let mut options = OpenOptions::new();
        let opened = options.create(true).truncate(false).read(true).write(true);
        let mut file = opened.open(data.join("lock")).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let pid = std::process::id().to_string();
                file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
                file.write_all(pid.as_bytes()).map_err(failed)?;
                Ok(Lock::Taken(file))
            }
            Err(_) => {
                let mut text = String::new();
                file.read_to_string(&mut text).map_err(failed)?;
                Ok(Lock::Held { pid: text.trim().parse().unwrap_or_default() })
            }
        }
    }
}

/// Asks the one that runs to end, and waits until its lock is free.
pub(super) async fn terminate(pid: u32, data: &Path) -> Result<(), Failure> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = raw {
        let _ = kill_process(pid, Signal::TERM);
    }
    for _ in 0..END_MS_MAX / 100 {
        if matches!(Lock::take(data)?, Lock::Taken(_)) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let what = format!("ostler dev (pid {pid}) did not end within {} s", END_MS_MAX / 1000);
    Err(Failure::new(Code::Unreachable, what).next(format!("kill -9 {pid}")))
}

/// What drives the guests, and why.
pub(super) struct Chosen {
    pub(super) kind: DevHypervisor,
    pub(super) is_asked_for: bool,
    pub(super) why: String,
}

/// As asked; else as the last time; else real guests where they are possible.
pub(super) fn hypervisor_of(asked: Option<DevHypervisor>, data: &Path) -> Chosen {
    if let Some(kind) = asked {
        let why = match kind {
            DevHypervisor::Embed => "guests are real: QEMU, as asked",
            DevHypervisor::Test => "guests only pretend: libvirt's test hypervisor, as asked",
        };
        return Chosen { kind, is_asked_for: true, why: why.into() };
    }
    if !rustix::process::geteuid().is_root() {
        let why = "guests only pretend: real ones need root here";
        return Chosen { kind: DevHypervisor::Test, is_asked_for: false, why: why.into() };
    }
    let missing: Vec<&str> =
        ["qemu-system-x86_64", "qemu-img"].into_iter().filter(|tool| !is_in_path(tool)).collect();
    if !missing.is_empty() {
        let why = format!("guests only pretend: {} is not installed", missing.join(" and "));
        return Chosen { kind: DevHypervisor::Test, is_asked_for: false, why };
    }
    let why = format!("guests are real: QEMU; everything is in {}", data.display());
    Chosen { kind: DevHypervisor::Embed, is_asked_for: false, why }
}

fn is_in_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}

/// What is chosen once and kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) port_base: u16,
    pub(super) agents: u16,
    pub(super) discovery: Option<String>,
}

/// The folder of one cluster.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) data: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) kind: DevHypervisor,
    pub(super) state: State,
}

impl Place {
    /// The cluster with this hypervisor, new or as it was. More agents than last time join it; fewer
    /// would leave guests without an agent, so the larger number stays.
    pub(super) fn open(data: &Path, kind: DevHypervisor, agents: u16) -> Result<Self, Failure> {
        let folder = match kind {
            DevHypervisor::Embed => data.to_owned(),
            DevHypervisor::Test => data.join("test"),
        };
        let mut state = match read_state(&folder)? {
            Some(state) => state,
            None => State { port_base: free_ports(&folder)?, agents, discovery: None },
        };
        state.agents = state.agents.max(agents);
        let place = Self { data: data.to_owned(), folder, kind, state };
        place.save()?;
        let word = serde_json::to_vec(&kind).expect("a word is valid JSON");
        std::fs::write(data.join("last"), word).map_err(|error| place.failed("write", error))?;
        Ok(place)
    }

    /// The cluster that was used last.
    pub(super) fn of_last(data: &Path) -> Result<Self, Failure> {
        let word = std::fs::read(data.join("last")).unwrap_or_default();
        let kind = serde_json::from_slice(&word).unwrap_or(DevHypervisor::Embed);
        Self::open(data, kind, 1)
    }

    pub(super) fn save(&self) -> Result<(), Failure> {
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(&self.folder)?;
            let beside = self.folder.join(".dev.json");
            if self.kind == DevHypervisor::Test {
                std::fs::write(self.folder.join("node.xml"), PRETENDED_NODE)?;
            }
            std::fs::write(&beside, serde_json::to_vec(&self.state)?)?;
            std::fs::rename(beside, self.folder.join("dev.json"))
        };
        write().map_err(|error| self.failed("write", error))
    }

    fn failed(&self, doing: &str, error: std::io::Error) -> Failure {
        let what = format!("{doing} in {}", self.folder.display());
        Failure::new(Code::Failed, what).because(error).next("choose another --data DIR")
    }

    pub(super) fn context(&self) -> PathBuf {
        self.folder.join("context")
    }

    pub(super) fn discovery_addr(&self) -> SocketAddr {
        local(self.state.port_base)
    }

    pub(super) fn agent_addr(&self, number: u16) -> SocketAddr {
        local(self.state.port_base + number)
    }

    pub(super) fn agent_folder(&self, number: u16) -> PathBuf {
        self.folder.join(format!("h{number}"))
    }

    /// The socket of an agent, which needs no key.
    pub(super) fn agent_socket(&self, number: u16) -> String {
        format!("unix:{}", self.agent_folder(number).join("agent.sock").display())
    }

    pub(super) fn service_port_base(&self) -> u16 {
        self.state.port_base + 10
    }

    pub(super) fn discovery_source(&self) -> Result<Source, Failure> {
        let url = self.state.discovery.clone().unwrap_or_default();
        url.parse().map_err(|error| Failure::new(Code::Failed, "use dev.json").because(error))
    }

    /// libvirt's URI for an agent.
    pub(super) fn hypervisor_uri(&self, number: u16) -> String {
        match self.kind {
            DevHypervisor::Embed => {
                format!(
                    "qemu:///embed?root={}",
                    self.agent_folder(number).join("libvirt").display()
                )
            }
            DevHypervisor::Test => format!("test://{}", self.folder.join("node.xml").display()),
        }
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn read_state(folder: &Path) -> Result<Option<State>, Failure> {
    let path = folder.join("dev.json");
    let Ok(bytes) = std::fs::read(&path) else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        Failure::new(Code::Failed, format!("read {}", path.display()))
            .because(error)
            .next("choose another --data DIR")
    })
}

/// A stretch of ports in which every one is free. Where the search begins depends on the folder, so
/// that two clusters seldom want the same ports, even when one of them is down just now.
fn free_ports(folder: &Path) -> Result<u16, Failure> {
    let is_free = |port: u16| TcpListener::bind(local(port)).is_ok();
    let digest = Digest::of(folder.as_os_str().as_encoded_bytes()).to_string();
    let start = u16::from_str_radix(&digest[..4], 16).unwrap_or_default() % STRETCHES;
    (0..STRETCHES)
        .map(|step| PORT_FIRST + (start + step) % STRETCHES * PORTS)
        .find(|base| (*base..base + PORTS).all(is_free))
        .ok_or_else(|| Failure::new(Code::Failed, "no stretch of free ports on 127.0.0.1"))
}
