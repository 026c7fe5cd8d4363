//! Flags of the roles themselves, and of the cluster on one machine.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use protocol::cpus::CpuSet;
use protocol::host::Accel;
use protocol::hugepages::PageSize;
use protocol::resources::Bytes;
use transport::discovery::Source;

use super::values::{parse_hugepages, parse_label};

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
    /// Huge pages for guests in all, instead of those that the machine has: so many of 2MiB or of 1GiB
    #[arg(long, value_name = "SIZE=COUNT", value_parser = parse_hugepages)]
    pub(crate) hugepages: Vec<(PageSize, u64)>,
    /// CPUs of this machine that VMs can have for themselves (`ostler run --dedicated-cpus`), as taskset writes them, such as 2-3,6; everything else runs on the others [default: none]
    #[arg(long, value_name = "CPUS")]
    pub(crate) dedicated_cpus: Option<CpuSet>,
    /// How fast each image may come that it fetches, a second [default: as fast as it goes]
    #[arg(long, value_name = "SIZE")]
    pub(crate) image_limit: Option<Bytes>,
    /// How fast guests are sent to other hosts, a second, of memory and of each disk, unless `ostler migrate` says [default: as fast as it goes]
    #[arg(long, value_name = "SIZE")]
    pub(crate) migrate_bandwidth: Option<Bytes>,
    /// Disk space kept free [default: 2GiB]
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk_reserve: Option<Bytes>,
    /// What resets this machine when neither agent nor keeper can end a VM with on_loss = stop in time: a device such as /dev/watchdog0, or a FIFO whose reader plays one [default: nothing does]
    #[arg(long, value_name = "PATH", env = "OSTLER_WATCHDOG")]
    pub(crate) watchdog: Option<PathBuf>,
    /// A word for selectors and expectations; goes before what the machine says of itself (arch, cpu-model, …)
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
    /// What resets the machine when it is not fed
    #[arg(long, value_name = "PATH")]
    pub(crate) watchdog: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct MonitorArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,
    /// Another monitor to follow
    #[arg(long, value_name = "URL")]
    pub(crate) follow: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ControllerArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,
    /// What switches hosts off and on: the fence agent of each device and its options
    #[arg(
        long,
        default_value = "/etc/ostler/power.json",
        value_name = "FILE",
        env = "OSTLER_POWER_FILE"
    )]
    pub(crate) power_file: PathBuf,
}

impl From<ArgAccel> for Accel {
    fn from(accel: ArgAccel) -> Self {
        match accel {
            ArgAccel::Kvm => Accel::Kvm,
            ArgAccel::Tcg => Accel::Tcg,
        }
    }
}
