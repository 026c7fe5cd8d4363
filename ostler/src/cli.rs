//! The command line: the commands' names here, their flags in the files below, by what they are about.
//! What a command does is in `command/`.

mod vms;
pub(crate) use vms::*;

mod hosts;
pub(crate) use hosts::*;

mod networks;
pub(crate) use networks::*;

mod cluster;
pub(crate) use cluster::*;

mod members;
pub(crate) use members::*;

mod roles;
pub(crate) use roles::*;

mod values;
pub(crate) use values::*;

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Args, Parser, Subcommand};
use transport::discovery::Source;
use transport::traces::COLLECTOR_VAR;

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
    /// Send traces of what is done to this collector of OpenTelemetry's, such as http://127.0.0.1:4318
    #[arg(long, global = true, env = COLLECTOR_VAR, value_name = "URL")]
    pub(crate) otlp: Option<String>,
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
    /// Have a VM's host refuse to stop, save or delete it
    Protect(ProtectArgs),
    /// Let a protected VM be stopped, saved and deleted again
    Unprotect(ProtectArgs),
    /// Say how much a VM matters beside others, and whether it may be stopped for one that matters more
    Rank(RankArgs),
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
    /// Give a VM other CPUs or memory, at once where that goes, else at its next start; or larger disks
    Resize(ResizeArgs),
    /// Give a VM disks or network cards, at once where its machine has a place for them, else at its next
    /// start
    Attach(AttachArgs),
    /// Take disks, with all that is in them, or network cards from a VM: at once where its guest lets go of them,
    /// else at its next start
    Detach(DetachArgs),
    /// Empty a host for maintenance: it takes nothing new, and its running VMs move away
    Drain(DrainArgs),
    /// Take a drained host into use again
    Undrain(UndrainArgs),
    /// Move VMs from fuller hosts to emptier ones
    Rebalance(RebalanceArgs),
    /// Whether hosts have power, and switching them from outside
    Power(PowerArgs),
    /// Say that a silent host is off, so that its VMs run elsewhere; it may come back
    Fence(FenceArgs),
    /// Which controllers switch off hosts that nobody hears, so that their VMs run elsewhere by themselves
    Fencing(FencingArgs),
    /// Take a host out of the cluster for good
    Retire(RetireArgs),
    /// Keep expectations true from now on: VMs that run, and where
    Expect(crate::command::ExpectArgs),
    /// Keep a set of expectations no longer
    Unexpect(crate::command::UnexpectArgs),
    /// What is kept true, and how it stands
    Expectations(crate::command::ExpectationsArgs),
    /// The VMs
    Ps(PsArgs),
    /// What VMs use right now
    Top(TopArgs),
    /// Everything about one VM or host
    Inspect(InspectArgs),
    /// The hosts
    Hosts(HostsArgs),
    /// What happens on the hosts
    Events(EventsArgs),
    /// The page for a browser on this machine
    Ui(crate::ui::UiArgs),
    /// A VM's serial console; Ctrl-] leaves
    Console(ConsoleArgs),
    /// A VM's screen, for a VNC viewer on this machine
    Vnc(VncArgs),
    /// What a VM's screen shows now, as a file
    Screenshot(ScreenshotArgs),
    /// The log of a VM or service
    Log(LogArgs),
    /// Disk images on the hosts
    Images(ImagesArgs),
    /// The pools that volumes are in
    Pools(crate::command::PoolsArgs),
    /// How much the hosts remember of one-off jobs and failed starts that have ended
    History(crate::command::HistoryArgs),
    /// The disks of VMs, and what was deleted from pools
    Volumes(crate::command::VolumesArgs),
    /// What the disks of VMs were: keep it, go back to it
    #[command(visible_alias = "snapshot")]
    Snapshots(crate::command::SnapshotsArgs),
    /// Another VM that begins with what a VM's disks are now
    Clone(crate::command::CloneArgs),
    /// Copies of VMs in a folder of this machine, and VMs made of them again
    Backup(crate::command::BackupArgs),
    /// Networks of the hosts
    #[command(visible_alias = "network")]
    Networks(NetworksArgs),
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
    Doctor(DoctorArgs),
    /// Write what every part says of itself into a folder, without secrets, to be looked at or passed on
    Bundle(BundleArgs),
    /// Who is believed in the cluster
    #[command(subcommand)]
    Trust(TrustCommand),
    /// The arbiters, who grant what starts: how they are, and changing them while everything runs on
    Arbiters(ArbitersArgs),
    /// The witnesses, who beside the arbiters let VMs with --on-loss stop go on: how they are, and changing them
    Witnesses(WitnessesArgs),
    /// The keys of those who may do everything
    Operators(OperatorsArgs),
    /// The keys of those who run the VMs of one tenant
    Users(UsersArgs),
    /// The keys of those who look and do nothing
    Readers(ReadersArgs),
    /// Write what a Prometheus needs to scrape every part of the cluster, a key of its own included
    Prometheus(PrometheusArgs),
    /// What each tenant may have, and what it has
    Quota(QuotaArgs),
    /// Parts of quotas that hosts hand out by themselves, while arbiters may be away
    Budget(BudgetArgs),
    /// What each tenant's VMs may be like, and on which hosts
    Policy(PolicyArgs),
    /// A discovery server, and its clusters
    #[command(subcommand)]
    Discovery(DiscoveryCommand),
    /// Print what makes a shell complete this command line
    Completion(CompletionArgs),
    /// The agent of this host
    Agent(AgentArgs),
    /// An arbiter: issues tickets
    Arbiter(RoleArgs),
    /// A witness: says beside the arbiters where a VM with on_loss = stop runs
    Witness(RoleArgs),
    /// What ends guests of this host in time when they may not run any more; its agent starts it
    Keeper(KeeperArgs),
    /// A monitor: follows hosts, serves the view
    Monitor(MonitorArgs),
    /// A controller: plans and executes what people want
    Controller(ControllerArgs),
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
#[cfg(test)]
mod tests;
