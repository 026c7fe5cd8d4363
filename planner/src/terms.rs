//! How soon what a lost host ran may run elsewhere, as far as the trust document says so.
//!
//! Decides what is a bound and what is none: of a VM that may be lost (`on_loss` is `stop`) arbiters count on no host any
//! more that they have not heard for their term. One that is kept waits for somebody's word that its host is off; where
//! controllers see to that by themselves it comes after a silence, and after as long as the host's device takes, which nobody knows.

use std::fmt;

use protocol::host::Host;
use protocol::trust::Trust;
use protocol::vm::{OnLoss, VmSpec};
use serde::{Deserialize, Serialize};

/// From the moment at which a VM may be started elsewhere until it runs: the loss is noticed, the start is tried again
/// where arbiters were not ready for it, and the guest is started. Of starts after a power cut in the lab the slowest
/// took 8 s beyond the term of the arbiters.
const START_MS: u64 = 8_000;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// How long arbiters count on a host that they do not hear, by their clocks.
    pub lapse_ms: u64,
    /// After how long a silence controllers switch a host off, where they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced_after_ms: Option<u64>,
}

/// Why it is not known when a VM would run again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoBound {
    /// Nobody has said by which terms.
    NoTerms,
    /// Its disks are on its host.
    Bound,
    /// It waits for the word that its host is off, and nobody sees to that by himself.
    Kept,
    /// Controllers see to it, after so long a silence.
    Fenced {
        /// Milliseconds.
        after_ms: u64,
    },
}

impl Terms {
    /// Those of a trust document.
    #[must_use]
    pub fn of(trust: &Trust) -> Self {
        let fencing = &trust.fencing;
        let fenced_after_ms = (!fencing.is_nobodys()).then_some(fencing.after_ms);
        Self { lapse_ms: trust.member_term_ms(), fenced_after_ms }
    }
}

/// Milliseconds from the loss of its host until such a VM runs elsewhere, at most, if there is room for it and its arbiters
/// are there.
pub(crate) fn restart_ms_max(
    terms: Option<Terms>,
    vm: &VmSpec,
    host: &Host,
) -> Result<u64, NoBound> {
    let terms = terms.ok_or(NoBound::NoTerms)?;
    match (vm.on_loss, terms.fenced_after_ms) {
        _ if vm.is_bound_to(host) => Err(NoBound::Bound),
        (OnLoss::Stop, _) => Ok(terms.lapse_ms.saturating_add(START_MS)),
        (OnLoss::Keep, Some(after_ms)) => Err(NoBound::Fenced { after_ms }),
        (OnLoss::Keep, None) => Err(NoBound::Kept),
    }
}

impl NoBound {
    /// What would make it known.
    pub(crate) fn help(&self) -> &'static str {
        match self {
            Self::NoTerms => {
                "a trust document that arbiters obey, or `terms` beside the expectations"
            }
            Self::Bound => "its disks in a pool that hosts share, and `--on-loss stop`",
            Self::Kept | Self::Fenced { .. } => "run it with `--on-loss stop`",
        }
    }
}

impl fmt::Display for NoBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTerms => f.write_str("by which terms it would run elsewhere is not known"),
            Self::Bound => f.write_str("its disks are on its host, and lost with it"),
            Self::Kept => f.write_str(
                "it is kept until somebody says that its host is off, however long that takes",
            ),
            Self::Fenced { after_ms } => write!(
                f,
                "it is kept until its host was switched off, which controllers do after {} s of silence and after as long as its device takes, which nobody knows",
                after_ms.div_ceil(1_000)
            ),
        }
    }
}
