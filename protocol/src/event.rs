//! Numbered facts that a host publishes, and the frames in which followers get them.
//!
//! A stream is: one [`Frame::Inventory`] (or none, when the follower's cursor could be resumed),
//! then every later event in order, with [`Frame::Current`] where history ends and the present
//! begins. A follower that was too slow or too long away gets a fresh inventory, never a hole.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::host::{Host, Inventory};
use crate::id::{Cursor, HostId, JobId};
use crate::job::{Job, ObservedDomain};
use crate::view::Freshness;

/// One fact of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Who says it.
    pub host: HostId,
    /// Its number; consecutive within an epoch.
    pub cursor: Cursor,
    /// When, in milliseconds since 1970; for people only.
    pub at_ms: u64,
    /// What happened.
    pub fact: Fact,
}

/// What happened. Each carries the whole new row, so applying one twice is harmless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fact {
    /// A job is new or changed.
    JobChanged {
        /// The job as it is now.
        job: Box<Job>,
    },
    /// A job was deleted from the ledger, as somebody asked.
    JobDeleted {
        /// Which.
        job: JobId,
    },
    /// Facts, capacity or allocation of the host changed.
    HostChanged {
        /// The host as it is now.
        host: Box<Host>,
    },
    /// A domain that is no job's appeared or changed.
    DomainObserved {
        /// The domain as it is now.
        domain: ObservedDomain,
    },
    /// Such a domain is gone.
    DomainGone {
        /// Its libvirt uuid.
        uuid: uuid::Uuid,
    },
}

/// One message on an event stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "frame", rename_all = "snake_case")]
pub enum Frame {
    /// Everything about one host: start here, forget what was known of it before.
    Inventory(Box<Inventory>),
    /// The next fact of one host.
    Event(Event),
    /// History ends here; what follows happens now.
    Current,
    /// A monitor's opinion of a host. Hosts never send it.
    Freshness {
        /// Which host.
        host: HostId,
        /// How fresh its row is.
        freshness: Freshness,
        /// Milliseconds since the host was last heard.
        age_ms: u64,
    },
}
