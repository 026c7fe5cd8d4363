//! What a host does by itself: when a guest has ended without being asked, and when the host is cut off.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// After which ends a host starts the guest again, under the hold it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// None: whoever wants it to run asks for that.
    #[default]
    Never,
    /// Its process has died.
    OnCrash,
    /// Its process has died, it has shut down, or somebody has destroyed it behind its host's back.
    Always,
}

/// What becomes of a VM whose host can no longer be heard by the arbiters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnLoss {
    /// It runs on, for ever if need be, and is started elsewhere only by an operator's word.
    #[default]
    Keep,
    /// Its host kills it when a quorum of arbiters has not covered it for one term, so that it may be
    /// started elsewhere without asking anybody (tenure protocol §2, `on_loss = stop`).
    Stop,
}

/// Left away in JSON, so that what has no such wish reads and digests as ever.
pub(super) fn is_false(value: &bool) -> bool {
    !value
}
