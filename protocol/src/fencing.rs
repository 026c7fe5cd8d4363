//! What a controller says of hosts that nobody hears, and whether it is about to switch them off.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::HostId;

/// `GET /v1/fencing` at a controller: the hosts of the roster that nobody hears.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FencingList {
    /// Whether it may switch hosts off by itself, by the trust document that it obeys.
    pub is_fencer: bool,
    /// Why it does nothing for now though it may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// The host that it is at now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<FencingAt>,
    /// Those that nobody hears, silent for longest first.
    pub hosts: Vec<SilentHost>,
}

/// A host that is being fenced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FencingAt {
    /// The host.
    pub host: HostId,
    /// How far it is.
    pub stage: FencingStage,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FencingStage {
    /// It is asked itself once more, and so are arbiters, before anything is done.
    Asking,
    /// Its power is cut, until its devices say so.
    Cutting,
    /// A trust document says that it is off, until a quorum of arbiters obeys.
    Saying,
    /// It is turned on again.
    TurningOn,
}

impl fmt::Display for FencingStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asking => "is asked once more",
            Self::Cutting => "is being switched off",
            Self::Saying => "is off, and arbiters are told",
            Self::TurningOn => "is turned on again",
        })
    }
}

/// A host that nobody hears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SilentHost {
    /// The host.
    pub host: HostId,
    /// For how long, as far as this controller has seen, in milliseconds.
    pub silent_ms: u64,
    /// What comes of it.
    pub standing: Standing,
}

/// What comes of a host that nobody hears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Standing {
    /// It is switched off next.
    Due,
    /// It is switched off when so much time has passed, in milliseconds.
    Counted {
        /// How much.
        left_ms: u64,
    },
    /// It was put to sleep.
    Asleep,
    /// A trust document says that it is off already.
    Said,
    /// No VM is there that could run elsewhere and may only if the host is certainly off.
    NothingAtStake,
    /// This controller has no device that switches it.
    NoDevice {
        /// Why.
        why: String,
    },
    /// As many hosts or more are silent as are heard: it may be this side of the network that is cut off.
    FewHeard {
        /// Hosts that are heard.
        heard: usize,
        /// Hosts on the roster, those left out that were put to sleep.
        roster: usize,
    },
    /// It did not work, and is tried again later.
    Resting {
        /// What went wrong.
        trouble: String,
        /// In how many milliseconds.
        left_ms: u64,
    },
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ms: &u64| ms.div_ceil(1_000);
        match self {
            Self::Due => f.write_str("is switched off next"),
            Self::Counted { left_ms } => {
                write!(f, "is switched off in {} s, if it stays silent", seconds(left_ms))
            }
            Self::Asleep => f.write_str("was put to sleep"),
            Self::Said => f.write_str("is said to be off already"),
            Self::NothingAtStake => f.write_str("has no VM that would start elsewhere for it"),
            Self::NoDevice { why } => write!(f, "can't be switched off from here: {why}"),
            Self::FewHeard { heard, roster } => write!(
                f,
                "stays on: {heard} of {roster} hosts are heard, and it takes more than half to be sure that \
                 it is the host that is cut off"
            ),
            Self::Resting { trouble, left_ms } => {
                write!(f, "is tried again in {} s: {trouble}", seconds(left_ms))
            }
        }
    }
}
