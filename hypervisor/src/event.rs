//! What subscribers of a hypervisor are told.
//!
//! A follower that has listed after [`crate::Hypervisor::watch`], applies every event, and lists
//! again after each marker knows the host. Numbering and keeping events is the agent's.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::{PauseReason, StopReason};

/// Events kept for a subscriber that does not read. One round of starts and stops of a full host
/// (a few hundred guests, four events each) fits; whoever is further behind lists again.
pub const WATCH_EVENTS_MAX: usize = 2048;

/// One message to a subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchEvent {
    /// Something happened to a domain.
    Domain(DomainEvent),
    /// A network was defined, started, stopped or undefined: list them.
    NetworksChanged,
    /// The hypervisor can't be reached; calls fail until `Reconnected`.
    Disconnected {
        /// What was noticed.
        message: String,
    },
    /// The hypervisor answers again. Events in between are lost: list again.
    Reconnected,
    /// This subscriber was too slow and events were dropped: list again.
    Overflowed,
}

/// Something that happened to a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainEvent {
    /// The domain's uuid.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// What happened.
    pub what: Lifecycle,
}

/// What can happen to a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// Its definition was made or replaced.
    Defined,
    /// Its definition was forgotten.
    Undefined,
    /// It has a process.
    Started(StartReason),
    /// Its CPUs stand still.
    Suspended(PauseReason),
    /// Its CPUs run. At a start libvirt says so *before* `Started`.
    Resumed,
    /// The guest has shut itself down; `Stopped` follows.
    ShutDown,
    /// Its process is gone. libvirt says [`StopReason::Failed`] here of a guest whose process died;
    /// the domain's state then says [`StopReason::Crashed`].
    Stopped(StopReason),
    /// The guest has rebooted itself.
    Rebooted,
    /// The guest sleeps, and wakes by itself or by a resume.
    Asleep,
    /// The guest's kernel panicked.
    Panicked,
    /// The agent in the guest has come up or gone: what it says may be had, or no more.
    AgentChanged,
}

/// How a domain came to have a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartReason {
    /// It was started.
    Booted,
    /// It is arriving from another host.
    Migrated,
    /// It was restored from a file, a snapshot or sleep.
    Restored,
}
