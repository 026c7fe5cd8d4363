//! Flags of the commands about the cluster as a whole: its making, its rules, what happens in it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use protocol::id::{JobId, TenantId};
use protocol::resources::Bytes;
use transport::discovery::Source;

use super::values::{Moment, Ms, parse_server};
use super::vms::WaitArgs;

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
    /// How many arbiters: 1, 3 or 5; with --liars F three times as many and one more
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) arbiters: u32,
    /// How many monitors [default: 2, or 1 on a single host]
    #[arg(long, value_name = "N")]
    pub(crate) monitors: Option<u32>,
    /// How many controllers
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) controllers: u32,
    /// How many witnesses a new cluster begins with, on hosts without arbiters: 0, 1, 3 or 5, with --liars 1 4 or 6;
    /// later `ostler witnesses`
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(..=50))]
    pub(crate) witnesses: u32,
    /// How many arbiters, and witnesses, of a new cluster may lie without harm: tickets need so many more of them
    #[arg(long, default_value_t = 0, value_name = "F", value_parser = clap::value_parser!(u32).range(..=5))]
    pub(crate) liars: u32,
    /// First of the services' ports; 0 lets each host choose
    #[arg(long, default_value_t = 7470, value_name = "PORT")]
    pub(crate) port_base: u16,
    /// How long to wait for enough hosts
    #[arg(long, default_value = "120s", value_name = "TIME")]
    pub(crate) timeout: Ms,
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
    /// VMs that run, or may
    #[arg(long, value_name = "N")]
    pub(crate) vms: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct BudgetArgs {
    #[command(subcommand)]
    pub(crate) command: Option<BudgetCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BudgetCommand {
    /// The budgets, and what is used of each
    List,
    /// Have a host hand out a part of a tenant's quota, or another part than it does
    Set(BudgetSetArgs),
    /// Have it hand out none of it any more; refused while VMs run by it
    Rm(BudgetRmArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BudgetSetArgs {
    /// The tenant
    pub(crate) tenant: TenantId,
    /// The host: its name, its id or the beginning of its id
    #[arg(long, value_name = "HOST")]
    pub(crate) on: String,
    /// What to call it: VMs by it are called NAME.SOMETHING [default: TENANT.HOST]
    #[arg(long)]
    pub(crate) name: Option<JobId>,
    /// Virtual CPUs
    #[arg(long, value_name = "N")]
    pub(crate) vcpus: Option<u32>,
    /// Memory
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<Bytes>,
    /// Disks, at their full size [default: none]
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk: Option<Bytes>,
    /// VMs that run, or may [default: as many as CPUs]
    #[arg(long, value_name = "N")]
    pub(crate) vms: Option<u32>,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BudgetRmArgs {
    /// The budget
    pub(crate) name: JobId,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    pub(crate) command: Option<PolicyCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// The rules in force, and the hosts that do not obey them yet
    Show,
    /// Which VMs could not be started again, and by which rules: exits with 1 if there are any
    Check {
        /// Rules, as docs/schema/policy.json describes them [default: those in force]
        file: Option<PathBuf>,
        /// When they would be started, such as 2026-12-05T22:30Z or 2026-12-05T22:30+01:00 [default: now]
        #[arg(long, value_name = "TIME")]
        at: Option<Moment>,
    },
    /// Have these rules obeyed in place of those in force; what runs goes on
    Set {
        /// Rules, as docs/schema/policy.json describes them
        file: PathBuf,
    },
    /// Have no rules obeyed any more
    Clear,
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
    /// Have a run turn back: what it has done is undone, as far as that goes
    Cancel {
        /// Its id, or the beginning of it
        id: String,
        /// Do not wait until it has ended
        #[arg(long)]
        no_wait: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct BundleArgs {
    /// A folder that is not there yet [default: ./ostler-bundle-TIME]
    pub(crate) folder: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// What is looked at [default: all of it]
    #[command(subcommand)]
    pub(crate) command: Option<DoctorCommand>,
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
    /// Ask every host what it wants looked after, such as a file of its ledger that was damaged. Exit
    /// code 1 when there is anything, or a host does not answer
    Hosts,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TrustCommand {
    /// The document in force
    Show,
    /// Fetch it from the cluster's hosts into this context, which may be nobody's yet: what a reader does first
    /// (`ostler readers add`), and again when monitors or controllers have changed places
    Fetch {
        /// Where its hosts are found, as for `bootstrap --discovery`; by default where they were the last time
        #[arg(value_name = "SOURCE")]
        from: Vec<Source>,
    },
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
        #[arg(long, value_name = "URL", value_parser = parse_server)]
        server: String,
    },
    /// Who is written down in a cluster
    List {
        /// What `new` printed
        url: Source,
    },
}
