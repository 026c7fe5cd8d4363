//! The trait that everything above libvirt programs against.
//!
//! It fixes what each operation promises, above all which of them may be repeated. Deadlines are
//! [`crate::call`]'s, intent and retries the agent's.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use protocol::host::HypervisorFacts;
use protocol::id::JobId;
use protocol::job::Card;
use protocol::vm::{SizeChange, VmSpec};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::call::HungCalls;
use crate::cpu_place::Pins;
use crate::domain::{
    DomainConfig, DomainInfo, DomainUsage, MigrateOutcome, MigrateTo, NodeFacts, Owner, Progress,
    Resized,
};
use crate::error::HypervisorError;
use crate::event::WatchEvent;
use crate::fittings::{Fitting, Kept};
use crate::network::{NetworkConfig, NetworkInfo};
use crate::screen::Screenshot;

/// What runs domains on this host. All methods block; see [`crate::call`].
///
/// After an error whose [`crate::ErrorKind::is_ambiguous`] is true the operation may have taken
/// effect: look before repeating anything that is not idempotent.
pub trait Hypervisor: Send + Sync + 'static {
    /// What drives the guests. Answered from memory, so it works while libvirt is away.
    fn facts(&self) -> HypervisorFacts;

    /// What the machine has.
    fn node(&self) -> Result<NodeFacts, HypervisorError>;

    /// Makes the domain known, or replaces its definition; a running guest is not touched.
    /// Repeating it is harmless: the uuid decides which domain is meant.
    fn define(&self, config: &DomainConfig) -> Result<(), HypervisorError>;

    /// Starts a defined domain. `AlreadyRunning` when it has a process.
    fn start(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// The same, with its CPUs stopped until [`Hypervisor::resume`].
    fn start_paused(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Asks the guest to shut down, through ACPI. It may take its time or ignore it.
    fn shutdown(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Ends the guest now. Also fine when it runs no more or is unknown.
    fn destroy(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Stops the guest's CPUs. Also fine when they are stopped.
    fn pause(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Lets the guest's CPUs run again. Also fine when they run.
    fn resume(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Restarts the guest's machine at once, as its reset button would. What the guest had not
    /// written is lost.
    fn reset(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Asks the guest to reboot, through ACPI. It may take its time or ignore it;
    /// [`crate::Lifecycle::Rebooted`] says when it has.
    fn reboot(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Writes the guest's memory to a file of libvirt's and ends its process. The next start goes
    /// on from there, with the definition it was saved with. `NotRunning` when it has no process.
    fn save(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Forgets what [`Hypervisor::save`] has written, so that the next start begins anew. Harmless when nothing
    /// was saved.
    fn forget_saved(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Gives a running guest of another size all that can be had at once, and asks it for what is to
    /// be given up. What it has then shows in [`crate::DomainInfo`], and the rest comes with its next
    /// start. Repeating it is harmless.
    fn resize(&self, uuid: Uuid, to: SizeChange) -> Result<Resized, HypervisorError>;

    /// Gives a domain that runs the disks and cards of this configuration that it does not have yet. Doing it
    /// twice is doing it once. Comes back with those that it can't have while it runs, and why.
    fn attach(&self, config: &DomainConfig) -> Result<Vec<String>, HypervisorError>;

    /// Asks a running guest to let go of these disks and cards and waits for it, no longer than that. Comes back
    /// with those that it has still, and why; it may let go of them later. Repeating it is harmless: what it does
    /// not have is gone.
    fn detach(
        &self,
        uuid: Uuid,
        leaving: &[Fitting],
        patience: Duration,
    ) -> Result<Vec<Kept>, HypervisorError>;

    /// Takes a snapshot of these disks of a running guest, named by their guest devices such as `vda` (see
    /// [`crate::Fittings::device`]): of one moment, and all of them have it then, or none. The guest's memory is
    /// not in it. `AlreadyExists` when a disk has one of that tag; `NotRunning` when there is no process,
    /// and the files are whoever has them to work on.
    fn snapshot(&self, uuid: Uuid, devices: &[String], tag: &str) -> Result<(), HypervisorError>;

    /// Deletes a snapshot from these disks of a running guest. Also fine on those that do not have it.
    fn delete_snapshot(
        &self,
        uuid: Uuid,
        devices: &[String],
        tag: &str,
    ) -> Result<(), HypervisorError>;

    /// Makes a disk of a running guest this large, which the guest sees at once. Repeating it is harmless.
    /// `Refused` when the disk is larger: what a guest has on it is not cut off.
    fn grow_disk(&self, uuid: Uuid, device: &str, bytes: u64) -> Result<(), HypervisorError>;

    /// Writes what changes into a definition that is not ours; a running guest is not touched.
    /// Repeating it is harmless. `Refused` or `Failed` when libvirt can't change that of it.
    fn resize_definition(&self, uuid: Uuid, to: SizeChange) -> Result<(), HypervisorError>;

    /// Forgets the definition; a running guest goes on without one. Also fine when unknown.
    fn undefine(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Writes into the domain whose job it is, or takes that out again; nothing else of it changes.
    fn label(&self, uuid: Uuid, job: Option<&JobId>) -> Result<(), HypervisorError>;

    /// Every domain, ours and others', running or not.
    fn list(&self) -> Result<Vec<DomainInfo>, HypervisorError>;

    /// One domain, or `None` when there is none.
    fn lookup(&self, uuid: Uuid) -> Result<Option<DomainInfo>, HypervisorError>;

    /// What every domain with a process has used. A domain that something else is being done with may
    /// be told of incompletely, or be missing: nothing waits for it. What is not counted is left out.
    fn usage(&self) -> Result<Vec<DomainUsage>, HypervisorError>;

    /// The domain's definition as libvirt keeps it.
    fn xml(&self, uuid: Uuid) -> Result<String, HypervisorError>;

    /// The definition that a domain would be started with again, with what is secret in it.
    fn definition(&self, uuid: Uuid) -> Result<String, HypervisorError>;

    /// Makes such a text the definition of the domain that it names; a running guest is not touched.
    /// Repeating it is harmless.
    fn restore(&self, definition: &str) -> Result<(), HypervisorError>;

    /// What a domain is as a VM, with its present size, as far as a spec has words for it.
    fn describe(&self, uuid: Uuid) -> Result<VmSpec, HypervisorError>;

    /// The network cards of a running guest, with the addresses that libvirt's networks, the host's
    /// neighbour table and the guest's agent know. `NotRunning` when it has no process.
    fn cards(&self, uuid: Uuid) -> Result<Vec<Card>, HypervisorError>;

    /// Sends a running guest with its disks to another host, and blocks until that has ended.
    ///
    /// An `Err` means nothing was begun, unless [`crate::call`]'s own deadline produced it.
    fn migrate(&self, uuid: Uuid, to: &MigrateTo) -> Result<MigrateOutcome, HypervisorError>;

    /// Every network, ours and others'. `Unsupported` where there can be none.
    fn networks(&self) -> Result<Vec<NetworkInfo>, HypervisorError>;

    /// Has a network be like this, now and at every start of libvirt; guests on it are not cut off: a
    /// change then counts from its next start. Repeating it is harmless. `AlreadyExists` when another one
    /// has the name, `Unsupported` where there can be none.
    fn make_network(&self, config: &NetworkConfig) -> Result<(), HypervisorError>;

    /// Stops and forgets a network. Also fine when it is unknown.
    fn remove_network(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Whose files and sockets a guest's process may use.
    fn guest_owner(&self) -> Result<Owner, HypervisorError>;

    /// Has each thread of a running guest run where this says; where it will the next time is its definition's to
    /// say. `NotRunning` when it has no process. Repeating it is harmless.
    fn pin(&self, uuid: Uuid, pins: &Pins) -> Result<(), HypervisorError>;

    /// How far the migration of a domain is; `None` when none is under way.
    fn job_progress(&self, uuid: Uuid) -> Result<Option<Progress>, HypervisorError>;

    /// For how long, in ms, the guest may stand still at the end of the migration that is under way.
    fn allow_downtime(&self, uuid: Uuid, downtime_ms: u32) -> Result<(), HypervisorError>;

    /// Makes a migration under way give up; its `migrate` returns some time later, because disk
    /// copies end at their own pace. Also fine when there is none.
    fn abort_job(&self, uuid: Uuid) -> Result<(), HypervisorError>;

    /// Everything that happens from now on. Subscribe first, list second: then nothing is missed.
    fn watch(&self) -> mpsc::Receiver<WatchEvent>;

    /// A way to type on the guest's serial console. What the guest prints is in its console log.
    fn open_console(&self, uuid: Uuid) -> Result<Box<dyn ConsoleWriter>, HypervisorError>;

    /// The same of a guest whose definition keeps no console log: as long as it is open, what the guest
    /// prints is appended to this file.
    fn record_console(
        &self,
        uuid: Uuid,
        log: &Path,
    ) -> Result<Box<dyn ConsoleWriter>, HypervisorError>;

    /// A picture of what a guest's first screen shows now. `NotRunning` when it has no process; `Refused`
    /// when it has no screen.
    fn screenshot(&self, uuid: Uuid) -> Result<Screenshot, HypervisorError>;

    /// A viewer's end of a guest's first screen, which speaks VNC and asks for no password; dropping it
    /// ends that view. `NotRunning` when it has no process, `Refused` when it has no screen, `Unsupported`
    /// where guests only pretend to have one.
    fn open_graphics(&self, uuid: Uuid) -> Result<UnixStream, HypervisorError>;

    /// Calls to this hypervisor that were given up and have not come back.
    fn hung_calls(&self) -> &Arc<HungCalls>;
}

/// Types on a guest's serial console. Dropping it closes the console, which may block.
pub trait ConsoleWriter: Send {
    /// Types all of these bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<(), HypervisorError>;

    /// False once the guest has closed it: it must be opened anew.
    fn is_open(&self) -> bool;
}
