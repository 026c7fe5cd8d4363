//! The power of a host's machine, as the devices outside of it say (a BMC, a switched socket).
//!
//! What a device says is evidence that a host does not run (`off` of the tenure protocol, §3); what the
//! host itself says never is.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::host::Inventory;
use crate::id::{Epoch, HostId};

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
    /// Turn it off for as long as nobody needs it: only while it is drained and nothing is there that could be missed.
    Sleep,
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
    /// For [`PowerAction::Sleep`]: it was drained for this, so that is taken back when it wakes. Else it stays drained,
    /// and no run wakes it.
    #[serde(default)]
    pub undrain: bool,
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

/// How far a host's sleep is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum SleepStage {
    /// Its agent was heard in a later life than the one that was put to sleep.
    Awake,
    /// It is being switched off, and whether it is off is not known yet.
    Falling,
    /// Its devices said off, and its agent was silent.
    Asleep,
}

/// What controllers remember of a host that was put to sleep. Later lives of its agent are later; within
/// one life it is what was seen last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Sleep {
    /// The host.
    pub host: HostId,
    /// In which life of its agent this was so.
    pub epoch: Epoch,
    /// How far it is.
    pub stage: SleepStage,
    /// When that was, for people: milliseconds since 1970 by the controller's clock.
    pub since_ms: u64,
    /// See [`PowerChange::undrain`].
    pub undrain: bool,
    /// What it said last; none once it is awake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Arc<Inventory>>,
}

impl Sleep {
    /// True when this is later than what is known, by whoever was told of it.
    #[must_use]
    pub fn is_after(&self, known: &Self) -> bool {
        // Who has said since that no run may wake it has said more.
        let order = |sleep: &Self| (sleep.epoch, sleep.stage, !sleep.undrain);
        order(self) > order(known)
    }
}

/// `GET /v1/asleep` at a controller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SleepList {
    /// Hosts that are asleep, and those that were and are awake.
    pub hosts: Vec<Sleep>,
    /// Hosts that this controller could put to sleep once they are empty: it has what switches them, and nothing is
    /// there that the cluster needs.
    #[serde(default)]
    pub may_sleep: BTreeSet<HostId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_a_later_life_is_later_and_within_one_it_fell_asleep_after_it_woke() {
        let of = |epoch, stage| Sleep {
            host: HostId::new("h1").unwrap(),
            epoch: Epoch(epoch),
            stage,
            since_ms: 0,
            undrain: true,
            inventory: None,
        };
        let lives = [
            of(5, SleepStage::Falling),
            of(5, SleepStage::Asleep),
            of(6, SleepStage::Awake),
            of(6, SleepStage::Asleep),
            of(7, SleepStage::Awake),
        ];
        for (i, one) in lives.iter().enumerate() {
            for (j, other) in lives.iter().enumerate() {
                assert_eq!(one.is_after(other), i > j, "{one:?} {other:?}");
            }
        }
        let held = Sleep { undrain: false, ..of(5, SleepStage::Asleep) };
        assert!(held.is_after(&lives[1]) && !lives[1].is_after(&held) && lives[2].is_after(&held));
    }
}
