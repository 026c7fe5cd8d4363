//! Why a job is in its state, when the state alone does not say.

use std::fmt;

use schemars::JsonSchema;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::id::{HostId, JobId, OfferId};

/// Why a job is in its state, when the state alone does not say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// Somebody asked for it.
    Requested,
    /// It was stopped so that a job with a higher priority fits here.
    Preempted {
        /// That job.
        lets: JobId,
    },
    /// The guest shut itself down.
    GuestShutdown,
    /// A service process ended with this code (128 + signal when killed), or a one-off job's guest
    /// wrote it before it shut down.
    Exited {
        /// The code; 0 for success.
        code: i32,
    },
    /// A one-off job was not done when its time was over, and was stopped.
    Deadline,
    /// A one-off job said nothing on its console for too long, and was stopped.
    Idle,
    /// The guest vanished or died without being asked.
    Killed,
    /// Somebody destroyed it behind our back, as with `virsh destroy`.
    Destroyed,
    /// It has ended by itself and is being started again by its host.
    Restarting {
        /// How it ended.
        after: Box<Reason>,
        /// How many times this was so lately.
        number: u32,
        /// How long the host waits before it does, in milliseconds.
        in_ms: u64,
    },
    /// Its host was rebooted and waits for a quorum of arbiters to say that it is still theirs; then
    /// it starts the guest again.
    AwaitingRight,
    /// It was started again too often lately; its host has given up until somebody asks.
    Flapping {
        /// How it ended last.
        after: Box<Reason>,
        /// How many times it was started again.
        restarts: u32,
        /// Within how many milliseconds.
        within_ms: u64,
    },
    /// The host was rebooted under it.
    HostRebooted,
    /// The right to run it was over: no quorum of arbiters covered its hold any more, or the host was
    /// rebooted. Nothing of it runs, and it may be started anywhere.
    TenureLost {
        /// The hold that was lost.
        lost: OfferId,
    },
    /// Its host was said to be off, which took the right to run it from it. Nothing of it
    /// runs here, and it may be started anywhere.
    Fenced {
        /// The hold that was taken.
        lost: OfferId,
        /// Whether it ran here all the same when its host heard of that: then what was said was wrong, and
        /// it may have run twice.
        #[serde(default)]
        ran: bool,
    },
    /// It could not be started; nothing of it is left running.
    StartFailed {
        /// What was tried and what came back.
        message: String,
    },
    /// Nobody can say how something that was tried has ended; it is tried again until somebody can.
    Unclear {
        /// What was tried and what came back.
        message: String,
    },
    /// It moved away.
    Migrated {
        /// Where to.
        to: HostId,
    },
    /// Sending it away did not work; it still runs here.
    MigrationFailed {
        /// What was tried and what came back.
        message: String,
    },
    /// The host that was to send it gave up.
    MigrationCancelled,
    /// Its memory is in a file of its host's; the next start there goes on from it.
    Saved,
    /// What was asked of it last did not work; it goes on as before.
    ActionFailed {
        /// What was tried and what came back.
        message: String,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Requested => f.write_str("as requested"),
            Reason::Preempted { lets } => write!(f, "made room for {lets}"),
            Reason::GuestShutdown => f.write_str("the guest shut down"),
            Reason::Exited { code } => write!(f, "exited with {code}"),
            Reason::Deadline => f.write_str("not done by its deadline"),
            Reason::Idle => f.write_str("silent for too long"),
            Reason::Killed => f.write_str("ended without being asked"),
            Reason::Destroyed => f.write_str("somebody destroyed it"),
            Reason::Restarting { after, number, in_ms } => {
                write!(f, "{after}; start {number} again in {} s", in_ms.div_ceil(1000))
            }
            Reason::AwaitingRight => {
                f.write_str("waits for arbiters to say that this host is still theirs")
            }
            Reason::Flapping { after, restarts, within_ms } => write!(
                f,
                "{after}; given up after {restarts} starts in {} min",
                within_ms.div_ceil(60_000)
            ),
            Reason::HostRebooted => f.write_str("the host was rebooted"),
            Reason::TenureLost { .. } => f.write_str("the right to run it here was over"),
            Reason::Fenced { ran: false, .. } => f.write_str("this host was said to be off"),
            Reason::Fenced { ran: true, .. } => {
                f.write_str("this host was said to be off, and it ran here: it may have run twice")
            }
            Reason::StartFailed { message } => write!(f, "start failed: {message}"),
            Reason::Unclear { message } => write!(f, "no clear answer yet: {message}"),
            Reason::Migrated { to } => write!(f, "moved to {}", to.short()),
            Reason::MigrationFailed { message } => write!(f, "migration failed: {message}"),
            Reason::MigrationCancelled => f.write_str("migration cancelled"),
            Reason::Saved => f.write_str("its memory is saved"),
            Reason::ActionFailed { message } => write!(f, "not done: {message}"),
        }
    }
}

/// Reads a reason out of what else a job has; none when there is none, or none that is known here.
pub(super) fn among<'de, D: Deserializer<'de>>(rest: D) -> Result<Option<Reason>, D::Error> {
    struct Rest;

    impl<'de> Visitor<'de> for Rest {
        type Value = Option<Reason>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a reason")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<Reason>, A::Error> {
            let mut rest = Map::new();
            while let Some((name, value)) = map.next_entry::<String, Value>()? {
                rest.insert(name, value);
            }
            // Most jobs have none, which must cost nothing: an error would.
            if !rest.contains_key("reason") {
                return Ok(None);
            }
            Ok(Reason::deserialize(Value::Object(rest)).ok())
        }
    }

    rest.deserialize_map(Rest)
}
