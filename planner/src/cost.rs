//! What a plan costs, summed over its steps and compared as a whole: risk first, then data moved,
//! then time.

use serde::{Deserialize, Serialize};

/// An amount of trouble. Compared field by field in this order.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Cost {
    /// Chance and weight of harm, in arbitrary units.
    pub risk: u64,
    /// Bytes read, written or sent.
    pub io_bytes: u64,
    /// How long it takes, as a rule.
    pub time_ms: u64,
}

impl Cost {
    /// Both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            risk: self.risk.saturating_add(other.risk),
            io_bytes: self.io_bytes.saturating_add(other.io_bytes),
            time_ms: self.time_ms.saturating_add(other.time_ms),
        }
    }
}
