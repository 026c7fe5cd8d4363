//! The power of a host's machine, as the devices outside of it say (a BMC, a switched socket).
//!
//! What a device says is evidence that a host does not run (`off` of the tenure protocol, §3); what the
//! host itself says never is.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::HostId;

/// Whether a machine has power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    /// All of its devices say on.
    On,
    /// All of its devices say off: nothing runs there.
    Off,
    /// Some say on and some off: of two supplies one is dark, and it may run.
    Partly,
}

impl fmt::Display for PowerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Partly => "partly on",
        })
    }
}

/// What to do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PowerAction {
    /// Turn it on.
    On,
    /// Turn it off at once, as a power cut would.
    Off,
    /// Turn it off, see that it is off, and turn it on.
    Cycle,
}

/// `POST /v1/power/{host}` at a controller. Answered once the devices say that it is so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PowerChange {
    /// What.
    pub action: PowerAction,
    /// Also while the host is heard and guests are alive there: they end as in a power cut.
    #[serde(default)]
    pub force: bool,
}

/// The power of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostPower {
    /// Whose.
    pub host: HostId,
    /// What switches it: each device's agent and address, for people.
    pub devices: Vec<String>,
    /// What they say together; `None` when one of them does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<PowerState>,
    /// Why it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// `GET /v1/power` at a controller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PowerList {
    /// The hosts that something can switch.
    pub hosts: Vec<HostPower>,
    /// Names in its file that no host of the cluster has, or several have.
    #[serde(default)]
    pub unknown: Vec<String>,
}
