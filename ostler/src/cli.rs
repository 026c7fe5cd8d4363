//! The command line: names, flags and their forms. What a command does is in `command/`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::LazyLock;

use clap::{Args, Parser, Subcommand};
use protocol::host::Accel;
use protocol::id::{ImageName, JobId, RunId, TenantId};
use protocol::resources::Bytes;
use protocol::signed::Digest;
use protocol::vm::{NicModel, NicSpec, OnLoss, Plug, Restart};
use transport::discovery::Source;

use crate::exit::EXIT_CODES;

/// Runs virtual machines on a cluster of Linux hosts.
#[derive(Debug, Parser)]
#[command(name = "ostler", version = VERSION.as_str(), about, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The version, and the commit that whoever built a package names in `OSTLER_COMMIT`.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let commit = option_env!("OSTLER_COMMIT").unwrap_or("development build");
    format!("{} ({commit})", env!("CARGO_PKG_VERSION"))
});

/// What every command takes.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Global {
    /// Where the operator's key and the cluster's trust document are [default: ~/.config/ostler]
    #[arg(long, global = true, env = "OSTLER_CONTEXT", value_name = "DIR")]
    pub(crate) context: Option<PathBuf>,
    /// Talk straight to these agents: addresses, a discovery URL, file:///PATH or mdns
    #[arg(long, global = true, value_delimiter = ',', value_name = "HOST,…")]
    pub(crate) hosts: Vec<Source>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A whole cluster on this machine, with a first guest in it
    Dev(DevArgs),
    /// Make a cluster of hosts, or see that it is one
    Bootstrap(BootstrapArgs),
    /// Run a VM
    Run(RunArgs),
    /// Stop a VM; its disks stay
    Stop(StopArgs),
    /// Start a stopped VM again
    Start(StartArgs),
    /// Stop a VM's CPUs; its memory stays
    Pause(ActArgs),
    /// Let a paused VM go on
    Resume(ActArgs),
    /// Write a VM's memory to its host's disk and end it; start goes on from there
    Save(ActArgs),
    /// Press a VM's reset button
    Reset(ActArgs),
    /// Ask a VM to reboot, and reset it when it does not
    Reboot(RebootArgs),
    /// Wait until a VM has ended; exits with 1 when a one-off job was not a success
    Wait(EndArgs),
    /// Delete a stopped VM and its disks
    Rm(RmArgs),
    /// Make a job of a libvirt domain that runs on a host already, in place and without a restart
    Adopt(AdoptArgs),
    /// Give an adopted VM back, running as it is and with the definition that it came with
    Release(ReleaseArgs),
    /// Move a running VM to another host
    Migrate(MigrateArgs),
    /// Give a VM other CPUs or memory: at once where that goes, else at its next start
    Resize(ResizeArgs),
    /// Empty a host for maintenance: it takes nothing new, and its running VMs move away
    Drain(DrainArgs),
    /// Take a drained host into use again
    Undrain(UndrainArgs),
    /// Take a host out of the cluster for good
    Retire(RetireArgs),
    /// The VMs
    Ps(PsArgs),
    /// What VMs use right now
    Top(TopArgs),
    /// Everything about one VM or host
    Inspect(InspectArgs),
    /// The hosts
    Hosts,
    /// What happens on the hosts
    Events(EventsArgs),
    /// The page for a browser on this machine
    Ui(crate::ui::UiArgs),
    /// A VM's serial console; Ctrl-] leaves
    Console(ConsoleArgs),
    /// The log of a VM or service
    Log(LogArgs),
    /// Disk images on the hosts
    Images(ImagesArgs),
    /// What the controller did and does
    Runs(RunsArgs),
    /// What would be done, without doing it: exits with 0 nothing, 1 changes, 2 cannot
    Plan(crate::command::PlanArgs),
    /// Why a VM does not run, or what a host's loss would mean
    Why(crate::command::WhyArgs),
    /// Make a recorded plan again
    Replay(crate::command::ReplayArgs),
    /// Replay a trace of VMs on hosts with the planner's placement
    Simulate(crate::command::SimulateArgs),
    /// What is wrong with the cluster, and why
    #[command(subcommand)]
    Doctor(DoctorCommand),
    /// Who is believed in the cluster
    #[command(subcommand)]
    Trust(TrustCommand),
    /// What each tenant may have, and what it has
    Quota(QuotaArgs),
    /// A discovery server, and its clusters
    #[command(subcommand)]
    Discovery(DiscoveryCommand),
    /// Print what makes a shell complete this command line
    Completion(CompletionArgs),
    /// The agent of this host
    Agent(AgentArgs),
    /// An arbiter: issues tickets
    Arbiter(RoleArgs),
    /// What ends guests of this host in time when they may not run any more; its agent starts it
    Keeper(KeeperArgs),
    /// A monitor: follows hosts, serves the view
    Monitor(MonitorArgs),
    /// A controller: plans and executes what people want
    Controller(RoleArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// For which shell
    #[arg(value_enum)]
    pub(crate) shell: ArgShell,
}

/// A shell that completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ArgShell {
    /// source <(ostler completion bash)
    Bash,
    /// ostler completion zsh >"${fpath[1]}/_ostler"
    Zsh,
    /// ostler completion fish | source
    Fish,
}

#[derive(Debug, Args)]
pub(crate) struct BootstrapArgs {
    /// Where hosts are found: a discovery URL, file:///PATH or mdns
    #[arg(long, value_name = "SOURCE")]
    pub(crate) discovery: Vec<Source>,
    /// Find hosts that announce themselves on the local network
    #[arg(long)]
    pub(crate) mdns: bool,
    /// How many hosts must be ready [default: the number of --hosts, or 1]
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) hosts_min: Option<usize>,
    /// How many arbiters: 1, 3 or 5
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) arbiters: u32,
    /// How many monitors [default: 2, or 1 on a single host]
    #[arg(long, value_name = "N")]
    pub(crate) monitors: Option<u32>,
    /// How many controllers
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) controllers: u32,
    /// First of the services' ports; 0 lets each host choose
    #[arg(long, default_value_t = 7470, value_name = "PORT")]
    pub(crate) port_base: u16,
    /// How long to wait for enough hosts
    #[arg(long, default_value = "120s", value_name = "TIME")]
    pub(crate) timeout: Ms,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The image its first disk starts from
    #[arg(value_name = "IMAGE", conflicts_with = "image")]
    pub(crate) image_name: Option<ImageName>,
    /// The image its first disk starts from
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: Option<ImageName>,
    /// What to call it
    #[arg(long)]
    pub(crate) name: JobId,
    /// Virtual CPUs
    #[arg(long, default_value_t = 1)]
    pub(crate) vcpus: u32,
    /// Memory
    #[arg(long, default_value = "128MiB", value_name = "SIZE")]
    pub(crate) memory: Bytes,
    /// Virtual CPUs that it can be resized to while it runs
    #[arg(long, value_name = "N")]
    pub(crate) max_vcpus: Option<u32>,
    /// Memory that it can be resized to while it runs
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_memory: Option<Bytes>,
    /// A disk, the first one started from the image [default: one as large as the image]
    #[arg(long, value_name = "[NAME=]SIZE")]
    pub(crate) disk: Vec<DiskArg>,
    /// A network card: user, bridge=NAME or network=NAME, then ,mac=ADDRESS and ,model=MODEL
    #[arg(long, value_name = "NIC", value_parser = parse_nic)]
    pub(crate) nic: Vec<NicSpec>,
    /// Boot by UEFI instead of BIOS
    #[arg(long)]
    pub(crate) uefi: bool,
    /// Its CPUs: host-model, host-passthrough, maximum, or a model that libvirt knows
    #[arg(long, value_name = "MODEL")]
    pub(crate) cpu: Option<String>,
    /// Give it a screen, at VNC on its host's loopback address
    #[arg(long)]
    pub(crate) vnc: bool,
    /// cloud-init's user-data
    #[arg(long, value_name = "FILE")]
    pub(crate) cloud_init_user_data: Option<PathBuf>,
    /// cloud-init's meta-data, instead of one with the VM's name
    #[arg(long, value_name = "FILE", requires = "cloud_init_user_data")]
    pub(crate) cloud_init_meta_data: Option<PathBuf>,
    /// cloud-init's network-config
    #[arg(long, value_name = "FILE", requires = "cloud_init_user_data")]
    pub(crate) cloud_init_network_config: Option<PathBuf>,
    /// When its host starts it again by itself: never, on-crash or always
    #[arg(long, default_value = "never", value_name = "WHEN", value_parser = parse_restart)]
    pub(crate) restart: Restart,
    /// Have its host start it again after a reboot of the host
    #[arg(long)]
    pub(crate) autostart: bool,
    /// What becomes of it when its host is cut off: keep (it runs on), or stop (it is killed, and started
    /// on another host)
    #[arg(long, default_value = "keep", value_name = "WHAT", value_parser = parse_on_loss)]
    pub(crate) on_loss: OnLoss,
    /// Let its disks begin anew from the image on another host
    #[arg(long)]
    pub(crate) ephemeral: bool,
    /// Run it once: it is to shut itself down within this time, or is stopped
    #[arg(long, value_name = "TIME")]
    pub(crate) deadline: Option<Ms>,
    /// Stop it when it says nothing on its console for this long
    #[arg(long, value_name = "TIME", requires = "deadline")]
    pub(crate) idle: Option<Ms>,
    /// Only on this host: its name, its id or the beginning of its id
    #[arg(long, value_name = "HOST")]
    pub(crate) on: Option<String>,
    /// Whose quota it counts against
    #[arg(long, default_value = "default")]
    pub(crate) tenant: TenantId,
    /// A word for people and selectors
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    pub(crate) label: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct WaitArgs {
    /// Return as soon as the request is stored
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// The VM
    pub(crate) name: JobId,
    /// Destroy it at once
    #[arg(long, conflicts_with = "grace")]
    pub(crate) force: bool,
    /// How long the guest may take to shut down before it is destroyed
    #[arg(long, default_value = "30s", value_name = "TIME")]
    pub(crate) grace: Ms,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// The VM
    pub(crate) name: JobId,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ActArgs {
    /// The VM
    pub(crate) name: JobId,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RebootArgs {
    /// The VM
    pub(crate) name: JobId,
    /// How long the guest may take before it is reset
    #[arg(long, default_value = "30s", value_name = "TIME")]
    pub(crate) grace: Ms,
}

#[derive(Debug, Args)]
pub(crate) struct EndArgs {
    /// The VM
    pub(crate) name: JobId,
    /// How long to wait
    #[arg(long, default_value = "24h", value_name = "TIME")]
    pub(crate) timeout: Ms,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// The VM
    pub(crate) name: JobId,
    /// Even if it runs
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct AdoptArgs {
    /// The host: its name, id or the beginning of its id
    pub(crate) host: String,
    /// The domain's name or uuid, as `virsh list` there shows it
    pub(crate) domain: String,
    /// What to call it, if not by the domain's name
    #[arg(long)]
    pub(crate) name: Option<JobId>,
    /// Whose quota it counts against
    #[arg(long, default_value = "default")]
    pub(crate) tenant: TenantId,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    /// The VM
    pub(crate) name: JobId,
}

#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// The VM
    pub(crate) name: JobId,
    /// Where to: a host's name, id or the beginning of its id
    pub(crate) host: String,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("size").required(true).multiple(true))]
pub(crate) struct ResizeArgs {
    /// The VM
    pub(crate) name: JobId,
    /// Virtual CPUs
    #[arg(long, value_name = "N", group = "size")]
    pub(crate) vcpus: Option<u32>,
    /// Memory
    #[arg(long, value_name = "SIZE", group = "size")]
    pub(crate) memory: Option<Bytes>,
    /// Virtual CPUs that it can be given while it runs, from its next start on
    #[arg(long, value_name = "N", group = "size")]
    pub(crate) max_vcpus: Option<u32>,
    /// Memory that it can be given while it runs, from its next start on
    #[arg(long, value_name = "SIZE", group = "size")]
    pub(crate) max_memory: Option<Bytes>,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The host: its name, id or the beginning of its id
    pub(crate) host: String,
    /// Tell what would move where and what cannot, and do nothing; exits with 1 if something cannot
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Return as soon as the host knows
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) no_wait: bool,
    /// How long to watch; the draining itself goes on
    #[arg(long, default_value = "24h", value_name = "TIME")]
    pub(crate) timeout: Ms,
}

#[derive(Debug, Args)]
pub(crate) struct UndrainArgs {
    /// The host: its name, id or the beginning of its id
    pub(crate) host: String,
}

#[derive(Debug, Args)]
pub(crate) struct RetireArgs {
    /// The host: its name, id or the beginning of its id
    pub(crate) host: String,
    /// It does not answer, and I have seen that it is off and stays off: what ran there may run
    /// elsewhere
    #[arg(long)]
    pub(crate) is_off: bool,
    /// Start its VMs elsewhere, as far as they had no disks there
    #[arg(long)]
    pub(crate) restart: bool,
}

#[derive(Debug, Args)]
pub(crate) struct QuotaArgs {
    #[command(subcommand)]
    pub(crate) command: Option<QuotaCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QuotaCommand {
    /// Limit what a tenant's VMs may take together; what is not named stays as it is
    Set(QuotaSetArgs),
    /// Limit a tenant no more
    Clear {
        /// The tenant
        tenant: TenantId,
    },
}

#[derive(Debug, Args)]
pub(crate) struct QuotaSetArgs {
    /// The tenant
    pub(crate) tenant: TenantId,
    /// Virtual CPUs
    #[arg(long)]
    pub(crate) vcpus: Option<u32>,
    /// Memory
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<Bytes>,
    /// Disks, at their full size
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk: Option<Bytes>,
}

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Ostler's own services too
    #[arg(short, long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Only these VMs
    pub(crate) names: Vec<JobId>,
    /// Time between the two looks that rates are made of
    #[arg(long, default_value = "1s", value_name = "TIME")]
    pub(crate) over: Ms,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A VM, a service or a host
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Go on with what happens from now on
    #[arg(short, long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConsoleArgs {
    /// The VM
    pub(crate) name: JobId,
    /// Begin with this much of what was said before
    #[arg(long, default_value_t = 4096, value_name = "BYTES")]
    pub(crate) tail: u64,
    /// Leave after this many lines
    #[arg(long, value_name = "N")]
    pub(crate) lines: Option<u64>,
    /// Only look
    #[arg(long)]
    pub(crate) no_input: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// A VM or service
    pub(crate) name: JobId,
    /// How much of its end
    #[arg(long, default_value_t = 65_536, value_name = "BYTES")]
    pub(crate) tail: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ImagesCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImagesCommand {
    /// Which image is on which host, and which VMs need it there
    Ls,
    /// Bring an image to every host, from a file or from the web
    Import(ImportArgs),
    /// Have hosts copy an image from those that have it
    Copy {
        /// The image
        name: ImageName,
        /// Only to these hosts [default: all]
        #[arg(long, value_delimiter = ',', value_name = "HOST,…")]
        on: Vec<String>,
        /// How fast, a second, to each host [default: as fast as it goes]
        #[arg(long, value_name = "SIZE")]
        limit: Option<Bytes>,
    },
    /// Delete an image from the hosts, if no VM's disks are made from it
    Rm {
        /// The image
        name: ImageName,
        /// Only from these hosts [default: all]
        #[arg(long, value_delimiter = ',', value_name = "HOST,…")]
        on: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// A qcow2 or raw disk image: a file here, or an https:// or http:// URL that a host fetches
    pub(crate) source: String,
    /// What to call it
    #[arg(long)]
    pub(crate) name: ImageName,
    /// What it must be; needed with http://
    #[arg(long, value_name = "HEX")]
    pub(crate) sha256: Option<Digest>,
    /// Only to these hosts [default: all]
    #[arg(long, value_delimiter = ',', value_name = "HOST,…")]
    pub(crate) on: Vec<String>,
    /// How fast, a second, to each host that fetches it [default: as fast as it goes]
    #[arg(long, value_name = "SIZE")]
    pub(crate) limit: Option<Bytes>,
}

#[derive(Debug, Args)]
pub(crate) struct RunsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<RunsCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RunsCommand {
    /// One run with its tasks
    Show {
        /// Its id, or the beginning of it
        id: String,
        /// Go on until it ends
        #[arg(short, long)]
        follow: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DoctorCommand {
    /// Compare what every monitor shows with what the hosts themselves say. Exit code 1 when a
    /// difference lasts
    Views {
        /// Another monitor to compare, besides those of the cluster
        #[arg(long, value_name = "URL")]
        monitor: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TrustCommand {
    /// The document in force
    Show,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DiscoveryCommand {
    /// Serve
    Serve {
        /// Where
        #[arg(long, default_value = "0.0.0.0:7459", value_name = "IP:PORT")]
        listen: SocketAddr,
        /// The file that remembers the clusters
        #[arg(long, default_value = "/var/lib/ostler/discovery.json", value_name = "FILE")]
        data: PathBuf,
    },
    /// Open a cluster at a server, and print its URL
    New {
        /// http://SERVER:PORT
        #[arg(long, value_name = "URL")]
        server: String,
    },
    /// Who is written down in a cluster
    List {
        /// What `new` printed
        url: Source,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DevArgs {
    #[command(subcommand)]
    pub(crate) command: Option<DevCommand>,
    #[command(flatten)]
    pub(crate) up: DevUpArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DevCommand {
    /// End the guests too, and everything else
    Stop {
        /// Where its state is
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DevUpArgs {
    /// Where its state is [default: ~/.local/share/ostler/dev, for root /var/lib/ostler-dev]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The image of the first guest
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// Real QEMU guests (embed), or guests that only pretend (test) [default: embed where it works]
    #[arg(long, value_enum)]
    pub(crate) hypervisor: Option<DevHypervisor>,
    /// How many hosts to play
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) agents: u16,
}

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DevHypervisor {
    /// QEMU, driven by libvirt inside the agent
    Embed,
    /// libvirt's test driver
    Test,
}

#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// Where it keeps its key, ledger, images and volumes
    #[arg(long, default_value = "/var/lib/ostler", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Where it answers
    #[arg(long, default_value = "0.0.0.0:7460", value_name = "IP:PORT")]
    pub(crate) listen: SocketAddr,
    /// The address at which others reach it [default: the one of --listen, or of the network]
    #[arg(long, value_name = "IP")]
    pub(crate) advertise: Option<IpAddr>,
    /// What the host is called [default: its hostname]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// libvirt's URI: qemu:///system, qemu:///embed?root=DIR or test:///default
    #[arg(long, default_value = "qemu:///system", value_name = "URI")]
    pub(crate) hypervisor: String,
    /// How guests are run [default: kvm where it works, else tcg]
    #[arg(long, value_enum)]
    pub(crate) accel: Option<ArgAccel>,
    /// Where to announce the host: a discovery URL, mdns, or several with commas between them
    #[arg(
        long,
        value_name = "SOURCE",
        value_delimiter = ',',
        env = "OSTLER_DISCOVERY",
        hide_env_values = true
    )]
    pub(crate) discovery: Vec<Source>,
    /// Virtual CPUs promised for each real one [default: 4]
    #[arg(long, value_name = "N")]
    pub(crate) vcpu_overcommit: Option<u32>,
    /// Memory kept for the host itself [default: 1GiB]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory_reserve: Option<Bytes>,
    /// Memory for guests in all, instead of what the machine has
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<Bytes>,
    /// How fast each image may come that it fetches, a second [default: as fast as it goes]
    #[arg(long, value_name = "SIZE")]
    pub(crate) image_limit: Option<Bytes>,
    /// Disk space kept free [default: 2GiB]
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk_reserve: Option<Bytes>,
    /// A word for selectors
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    pub(crate) label: Vec<(String, String)>,
}

/// How guests are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ArgAccel {
    /// By the CPU
    Kvm,
    /// By translation
    Tcg,
}

impl From<ArgAccel> for Accel {
    fn from(accel: ArgAccel) -> Self {
        match accel {
            ArgAccel::Kvm => Accel::Kvm,
            ArgAccel::Tcg => Accel::Tcg,
        }
    }
}

/// What arbiters, monitors and controllers take.
#[derive(Debug, Args)]
pub(crate) struct RoleArgs {
    /// Where it keeps its key
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Where it answers; port 0 takes any that is free
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: SocketAddr,
    /// The signed trust document, kept by the agent beside it
    #[arg(long, value_name = "FILE")]
    pub(crate) trust_file: Option<PathBuf>,
    /// Written once it answers: its address and key
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// Where it looks for hosts
    #[arg(long, value_name = "SOURCE")]
    pub(crate) discovery: Vec<Source>,
}

#[derive(Debug, Args)]
pub(crate) struct KeeperArgs {
    /// The agent's folder
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// The cgroup partition that guests are in
    #[arg(long, value_name = "NAME")]
    pub(crate) partition: String,
}

#[derive(Debug, Args)]
pub(crate) struct MonitorArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,
    /// Another monitor to follow
    #[arg(long, value_name = "URL")]
    pub(crate) follow: Vec<String>,
}

/// A length of time: `500ms`, `30s`, `5m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ms(pub(crate) u64);

impl FromStr for Ms {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
        let wrong = || format!("{text:?} is not a time: write 500ms, 30s, 5m or 1h");
        let (number, unit) = text.split_at(text.find(char::is_alphabetic).ok_or_else(wrong)?);
        let (_, ms) = units.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(*ms).map(Ms).ok_or_else(wrong)
    }
}

/// A disk on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskArg {
    pub(crate) name: Option<String>,
    pub(crate) size: Bytes,
}

impl FromStr for DiskArg {
    type Err = protocol::resources::InvalidSize;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            None => Ok(Self { name: None, size: text.parse()? }),
            Some((name, size)) => Ok(Self { name: Some(name.to_owned()), size: size.parse()? }),
        }
    }
}

fn parse_nic(text: &str) -> Result<NicSpec, String> {
    let wrong = || {
        format!(
            "{text:?} is no network card: use user, bridge=NAME or network=NAME, and after it \
             ,mac=ADDRESS or ,model=virtio|e1000e|rtl8139"
        )
    };
    let mut words = text.split(',');
    let first = words.next().unwrap_or_default();
    let plug = match first.split_once('=') {
        None if first == "user" => Plug::User,
        Some(("bridge", bridge)) => Plug::Bridge { bridge: bridge.to_owned() },
        Some(("network", name)) => Plug::Libvirt { name: name.to_owned() },
        _ => return Err(wrong()),
    };
    let mut nic = NicSpec::from(plug);
    for word in words {
        match word.split_once('=') {
            Some(("mac", mac)) => nic.mac = Some(mac.to_owned()),
            Some(("model", "virtio")) => nic.model = NicModel::Virtio,
            Some(("model", "e1000e")) => nic.model = NicModel::E1000e,
            Some(("model", "rtl8139")) => nic.model = NicModel::Rtl8139,
            _ => return Err(wrong()),
        }
    }
    Ok(nic)
}

fn parse_restart(text: &str) -> Result<Restart, String> {
    match text {
        "never" => Ok(Restart::Never),
        "on-crash" => Ok(Restart::OnCrash),
        "always" => Ok(Restart::Always),
        _ => Err(format!("{text:?} is no such time: use never, on-crash or always")),
    }
}

fn parse_on_loss(text: &str) -> Result<OnLoss, String> {
    match text {
        "keep" => Ok(OnLoss::Keep),
        "stop" => Ok(OnLoss::Stop),
        _ => Err(format!("{text:?} is nothing that becomes of a VM: use keep or stop")),
    }
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("{text:?} is no label: write KEY=VALUE"))
}

/// The beginning of a run's id is enough for a person.
pub(crate) fn run_id_matches(id: RunId, text: &str) -> bool {
    text.len() >= 4 && id.to_string().starts_with(text)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_people_write_is_understood() {
        for line in [
            "ostler dev",
            "ostler dev --image x.qcow2 --hypervisor test --agents 2",
            "ostler dev stop",
            "ostler bootstrap --discovery http://d/clusters/abc -n 3 --json",
            "ostler bootstrap --hosts a,b,c",
            "ostler run debian-12 --name web-1 --vcpus 2 --memory 4GiB",
            "ostler run --image i --name web-1 --disk 64MiB --disk data=1GiB --nic bridge=br0",
            "ostler stop web-1 --force",
            "ostler stop web-1 --grace 500ms --no-wait",
            "ostler run i --name a --uefi --cpu Skylake-Server --vnc --cloud-init-user-data u",
            "ostler run i --name a --nic bridge=br0,mac=52:54:00:00:00:01,model=e1000e",
            "ostler run i --name a --deadline 10m --idle 1m",
            "ostler wait a --timeout 1h",
            "ostler run i --name a --restart on-crash --autostart",
            "ostler pause web-1",
            "ostler save web-1 --no-wait",
            "ostler reboot web-1 --grace 0s",
            "ostler migrate web-1 h2",
            "ostler run i --name a --vcpus 2 --max-vcpus 8 --memory 2GiB --max-memory 16GiB",
            "ostler resize web-1 --vcpus 4",
            "ostler resize web-1 --vcpus 4 --memory 8GiB --max-memory 16GiB --no-wait",
            "ostler ps --all --hosts 10.0.0.1,10.0.0.2:99",
            "ostler events --follow",
            "ostler console web-1 --lines 3 --no-input",
            "ostler images",
            "ostler images ls --json",
            "ostler images import f.qcow2 --name f",
            "ostler images import https://d/f.qcow2 --name f --on h1,h2 --limit 10MiB",
            "ostler images copy f --on h3",
            "ostler images rm f --on h1,h2",
            "ostler runs",
            "ostler runs show 0123",
            "ostler ui --listen 127.0.0.1:0",
            "ostler trust show --context /tmp/c",
            "ostler agent",
            "ostler agent --data-dir /d --listen 127.0.0.1:0 --hypervisor test:///default",
            "ostler arbiter --data-dir /d --listen 127.0.0.1:0 --trust-file /t --ready-file /r",
            "ostler monitor --data-dir /d --listen 127.0.0.1:0 --discovery mdns --discovery a:1",
            "ostler controller --data-dir /d --listen [::1]:0",
            "ostler doctor views --json --monitor https://10.0.0.1:7471",
            "ostler discovery serve --listen 127.0.0.1:0 --data f",
        ] {
            parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "ostler",
            "ostler run --name web-1 --memory 128",
            "ostler run --name Web",
            "ostler run i --image j --name a",
            "ostler run --name a --nic wifi",
            "ostler run --name a --nic user,speed=1",
            "ostler run --name a --cloud-init-network-config n",
            "ostler run --name a --idle 1m",
            "ostler run --name a --restart sometimes",
            "ostler resize web-1",
            "ostler resize web-1 --memory 8",
            "ostler stop web-1 --force --grace 3s",
            "ostler images import f.qcow2 --name f --sha256 12",
            "ostler images rm",
            "ostler stop web-1 --grace 3",
            "ostler bootstrap --hosts ftp://x",
            "ostler dev --agents 0",
            "ostler ui --listen 0.0.0.0:7461",
        ] {
            assert!(parse(line).is_err(), "{line:?} was accepted");
        }
    }

    #[test]
    fn times_and_disks_have_units() {
        assert_eq!("5m".parse(), Ok(Ms(300_000)));
        assert!("5".parse::<Ms>().is_err() && "5 s".parse::<Ms>().is_err());
        let disk: DiskArg = "data=64MiB".parse().unwrap();
        assert_eq!((disk.name.as_deref(), disk.size), (Some("data"), Bytes(64 << 20)));
    }
}
