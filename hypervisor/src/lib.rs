//! Running domains on one host: the [`Hypervisor`] trait, libvirt behind it, and the fake.
//!
//! This crate decides how libvirt is told what a job wants, how its answers and events are read,
//! and what an error leaves behind. It holds all `unsafe` code of Ostler (`libvirt/ffi.rs` with the files
//! below it, and `footprint.rs`) but for the ioctls of a watchdog, which are the agent's
//! (`keeper/ioctl.rs`), and the only need for libvirt's headers. Which job may run, where its volumes are, and what to do after an error is
//! left to the agent.
//!
//! Every method of the trait blocks, because libvirt does. From async code go through [`call`],
//! which gives each call a thread and a deadline.

mod hypervisor;
pub use hypervisor::{ConsoleWriter, Hypervisor};

mod domain;
pub use domain::{
    DomainConfig, DomainInfo, DomainState, DomainUsage, MigrateOutcome, MigrateTo, NodeFacts,
    Owner, PauseReason, Progress, Resized, StopReason, Volume, VolumeFormat,
};

mod event;
pub use event::{DomainEvent, Lifecycle, StartReason, WATCH_EVENTS_MAX, WatchEvent};

mod error;
pub use error::{ErrorKind, HypervisorError};

mod threads;

mod call;
pub use call::{HUNG_CALLS_MAX, HungCalls, call};

mod domain_xml;
pub use domain_xml::{DriverKind, disk_device, domain_xml};

mod cpu_place;
pub use cpu_place::{CpuPlace, Pins};

mod unpinned;

mod domain_read;
pub use domain_read::{Definition, Serial};

mod screen;
pub use screen::{SCREENSHOT_BYTES_MAX, Screenshot};

mod cards;
pub use cards::Cards;

mod fittings;
pub use fittings::{Fitting, Fittings, Kept};

mod network;
pub use network::{NetworkConfig, NetworkForm, NetworkInfo};

mod network_xml;
pub use network_xml::{NetworkRead, network_xml};

mod resize;

mod disk_nodes;

mod xml_walk;

mod hub;

mod libvirt;
pub use libvirt::{Libvirt, LibvirtOptions};

pub mod fake;

pub mod subreaper;

pub mod footprint;

#[cfg(test)]
mod skipped;
