//! Flags of the commands about VMs.

use std::path::PathBuf;

use clap::Args;
use protocol::hugepages::PageSize;
use protocol::id::{ImageName, JobId, PoolName, TenantId};
use protocol::resources::Bytes;
use protocol::vm::{NicSpec, OnLoss, Priority, Restart};

use super::values::{
    DiskArg, Ms, parse_label, parse_nic, parse_on_loss, parse_page_size, parse_priority,
    parse_restart,
};

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
    /// Have its memory in huge pages of this size, 2MiB or 1GiB, which its host must have set aside
    #[arg(long, value_name = "SIZE", value_parser = parse_page_size)]
    pub(crate) hugepages: Option<PageSize>,
    /// Have a CPU of its host for each of its own to itself, of those that the host gives away (`ostler agent --dedicated-cpus`)
    #[arg(long)]
    pub(crate) dedicated_cpus: bool,
    /// A disk, the first one started from the image [default: one as large as the image]
    #[arg(long, value_name = "[NAME=]SIZE")]
    pub(crate) disk: Vec<DiskArg>,
    /// The pool of its disks [default: their host's own folder]
    #[arg(long, value_name = "POOL")]
    pub(crate) pool: Option<PoolName>,
    /// A network card: user, bridge=NAME or network=NAME, then ,mac=ADDRESS and ,model=MODEL
    #[arg(long, value_name = "NIC", value_parser = parse_nic)]
    pub(crate) nic: Vec<NicSpec>,
    /// Boot by UEFI instead of BIOS
    #[arg(long)]
    pub(crate) uefi: bool,
    /// Its CPUs: host-model, host-passthrough, maximum, or a model that libvirt knows
    #[arg(long, value_name = "MODEL")]
    pub(crate) cpu: Option<String>,
    /// Give it a screen, for `ostler vnc` and `ostler screenshot`
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
    /// Have its host refuse to stop, save or delete it, until `ostler unprotect`
    #[arg(long)]
    pub(crate) protected: bool,
    /// How much it matters when not all VMs can run: 1 (least) to 100 (most)
    #[arg(long, default_value_t, value_name = "NUMBER", value_parser = parse_priority)]
    pub(crate) priority: Priority,
    /// Let it be stopped so that one with a higher priority fits, where nothing else makes room
    #[arg(long, conflicts_with_all = ["protected", "deadline"])]
    pub(crate) preemptible: bool,
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
    /// Start it by the budget that owns its name, on the host that has that, without asking any arbiter
    #[arg(long, conflicts_with_all = ["on", "make_room"])]
    pub(crate) budget: bool,
    /// Move other VMs to other hosts first, where that makes it fit
    #[arg(long)]
    pub(crate) make_room: bool,
    /// Whose it is, and whose quota it counts against [default: the tenant of this context's key, or `default`]
    #[arg(long)]
    pub(crate) tenant: Option<TenantId>,
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
    /// Start it by the budget that owns its name, without asking any arbiter
    #[arg(long)]
    pub(crate) budget: bool,
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
pub(crate) struct ProtectArgs {
    /// The VM
    pub(crate) name: JobId,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub(crate) struct RankArgs {
    /// The VM
    pub(crate) name: JobId,
    /// How much it matters when not all VMs can run: 1 (least) to 100 (most)
    #[arg(value_name = "PRIORITY", value_parser = parse_priority, group = "what")]
    pub(crate) priority: Option<Priority>,
    /// Let it be stopped so that one with a higher priority fits, where nothing else makes room
    #[arg(long, group = "what")]
    pub(crate) preemptible: bool,
    /// Let it be stopped for no other's sake
    #[arg(long, group = "what", conflicts_with = "preemptible")]
    pub(crate) not_preemptible: bool,
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
    /// At most so much a second, of memory and of each disk [default: what its host allows]
    #[arg(long, value_name = "SIZE")]
    pub(crate) bandwidth: Option<Bytes>,
    /// For how long it may stand still at the end; it is for as short as will do [default: 1s]
    #[arg(long, value_name = "TIME")]
    pub(crate) downtime: Option<Ms>,
    /// Slow it down while it writes to its memory faster than that can be sent
    #[arg(long)]
    pub(crate) auto_converge: bool,
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
    /// A disk that is to have this size, at once and also while it runs; disks only grow
    #[arg(long, value_name = "[NAME=]SIZE", group = "size")]
    pub(crate) disk: Vec<DiskArg>,
    /// Move other VMs away from its host first, where that makes it fit
    #[arg(long)]
    pub(crate) make_room: bool,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("device").required(true).multiple(true))]
pub(crate) struct AttachArgs {
    /// The VM
    pub(crate) name: JobId,
    /// A disk of its host's own, empty unless --image says otherwise; without a name it is disk1, disk2 …
    #[arg(long, value_name = "[NAME=]SIZE", group = "device")]
    pub(crate) disk: Vec<DiskArg>,
    /// What the disk begins as a copy of; with one --disk
    #[arg(long, value_name = "IMAGE", requires = "disk")]
    pub(crate) image: Option<ImageName>,
    /// A network card: user, bridge=NAME or network=NAME, and after it ,mac=ADDRESS or ,model=MODEL
    #[arg(long, value_parser = parse_nic, value_name = "CARD", group = "device")]
    pub(crate) nic: Vec<NicSpec>,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("device").required(true).multiple(true))]
pub(crate) struct DetachArgs {
    /// The VM
    pub(crate) name: JobId,
    /// A disk, by name; all that is in it is deleted. Unmount it in the guest first
    #[arg(long, value_name = "NAME", group = "device", requires = "delete_data")]
    pub(crate) disk: Vec<String>,
    /// A network card, by its address; `ostler inspect` shows it
    #[arg(long, value_name = "MAC", group = "device")]
    pub(crate) nic: Vec<String>,
    /// Yes, what is in the disks is deleted
    #[arg(long)]
    pub(crate) delete_data: bool,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
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
pub(crate) struct VncArgs {
    /// The VM
    pub(crate) name: JobId,
    /// Listen at this port of 127.0.0.1; without it at any that is free
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "PORT")]
    pub(crate) port: u16,
    /// Listen at a socket file instead, which nobody else of this machine can open
    #[arg(long, value_name = "FILE", conflicts_with = "port")]
    pub(crate) socket: Option<PathBuf>,
    /// Leave when the first viewer goes
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ScreenshotArgs {
    /// The VM
    pub(crate) name: JobId,
    /// Where to, as PNG; without it NAME.png, and - is the standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// A VM or service
    pub(crate) name: JobId,
    /// How much of its end
    #[arg(long, default_value_t = 65_536, value_name = "BYTES")]
    pub(crate) tail: u64,
}
