//! Flags of the commands about hosts and what they store.

use clap::{Args, Subcommand};
use planner::Measure;
use protocol::id::{ImageName, JobId, SnapshotName};
use protocol::power::PowerAction;
use protocol::resources::Bytes;
use protocol::signed::Digest;

use super::values::Ms;

#[derive(Debug, Args)]
pub(crate) struct HostsArgs {
    /// Say too whether all hosts with one value of this label, such as a rack, may be lost together
    #[arg(long, value_name = "LABEL")]
    pub(crate) domain: Option<String>,
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
pub(crate) struct RebalanceArgs {
    /// Tell what would move where, and do nothing; exits with 1 if hosts are too far apart and no move helps
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// At most so many VMs are moved
    #[arg(long, default_value = "64", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) moves: u32,
    /// How far the fullest host may be above the emptiest, in points of a hundred of what each has. Where it is more, VMs
    /// are moved until it is half of that
    #[arg(
        long,
        default_value = "20",
        value_name = "PERCENT",
        value_parser = clap::value_parser!(u32).range(1..=100)
    )]
    pub(crate) within: u32,
    /// By what hosts are compared: what they have promised of memory and vCPUs, or the CPUs that guests use
    #[arg(long, value_enum, default_value_t = Measured::Promised)]
    pub(crate) measure: Measured,
}

/// By what hosts are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Measured {
    /// Memory or vCPUs that are promised, whichever is more of what the host has
    Promised,
    /// CPUs that guests keep busy, of those of the machine
    Cpu,
}

impl From<Measured> for Measure {
    fn from(measured: Measured) -> Self {
        match measured {
            Measured::Promised => Measure::Promised,
            Measured::Cpu => Measure::Cpu,
        }
    }
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
pub(crate) struct PowerArgs {
    /// The host: its name, id or the beginning of its id [default: every host that can be switched]
    pub(crate) host: Option<String>,
    /// What to do [default: tell whether it has power]
    #[arg(value_enum, requires = "host")]
    pub(crate) action: Option<ArgPower>,
    /// Also while it is heard and VMs are alive there: they end as in a power cut
    #[arg(long, requires = "action")]
    pub(crate) force: bool,
}

/// What to do with a host's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ArgPower {
    /// Turn it on
    On,
    /// Turn it off at once
    Off,
    /// Turn it off and on again
    Cycle,
    /// Drain it, and turn it off until somebody needs it: a run wakes it when its VM fits nowhere else
    Sleep,
}

impl From<ArgPower> for PowerAction {
    fn from(action: ArgPower) -> Self {
        match action {
            ArgPower::On => Self::On,
            ArgPower::Off => Self::Off,
            ArgPower::Cycle => Self::Cycle,
            ArgPower::Sleep => Self::Sleep,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct FencingArgs {
    /// What to change [default: tell how it is]
    #[command(subcommand)]
    pub(crate) command: Option<FencingCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FencingCommand {
    /// Let controllers do it; they need power files that name hosts' devices
    Set(FencingSetArgs),
    /// Let nobody do it: operators say it, with `ostler fence`
    None,
}

#[derive(Debug, Args)]
pub(crate) struct FencingSetArgs {
    /// The hosts whose controllers do it [default: every controller]
    #[arg(value_name = "HOST")]
    pub(crate) on: Vec<String>,
    /// After how long a silence [default: as it is, at first 30s]
    #[arg(long, value_name = "TIME")]
    pub(crate) after: Option<Ms>,
    /// Leave a host off that was switched off, for somebody to look at it
    #[arg(long)]
    pub(crate) stays_off: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FenceArgs {
    /// The host: its name, id or the beginning of its id [default: tell what was ever said]
    pub(crate) host: Option<String>,
    /// I have seen that it is off, and keep it off until this command has ended: what ran there and has no
    /// disks there is started elsewhere
    #[arg(long, requires = "host", conflicts_with = "cut_power")]
    pub(crate) is_off: bool,
    /// The same, but a controller turns it off and sees that it is off, by the devices in its power file
    #[arg(long, requires = "host")]
    pub(crate) cut_power: bool,
    /// Have a controller turn it on again afterwards
    #[arg(long, requires = "host")]
    pub(crate) turn_on: bool,
    /// Why, for whoever looks at it later
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "TEXT",
        requires = "host"
    )]
    pub(crate) reason: String,
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
    /// Make an image of a VM's disk, on the VM's host, while the VM runs on
    Take {
        /// The VM
        vm: JobId,
        /// What to call the image
        name: ImageName,
        /// Which disk [default: the first]
        #[arg(long)]
        disk: Option<String>,
        /// What the disk was in this snapshot [default: what it is now]
        #[arg(long)]
        snapshot: Option<SnapshotName>,
        /// How fast it is written, a second [default: as fast as it goes]
        #[arg(long, value_name = "SIZE")]
        limit: Option<Bytes>,
    },
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
    /// Delete images that `clone`, `restore` and `backup` have made, where no VM needs them any more
    Prune,
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
