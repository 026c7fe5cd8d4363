//! The word that a host was off, an operator's or a fencer's: the evidence `override` and `off` of the tenure
//! protocol (§3, §6, §8), for everything that the host held.
//!
//! It is a line of the trust document, so whoever obeys the document has it, on disk, and an arbiter that
//! has forgotten everything reads it again. It says one thing, for ever: **what the host took by a document
//! older than `since` is over.** Nothing of it runs, and nothing of it ever will. What the host takes by this
//! document or a later one is not meant: it is a member as before, once it obeys.
//!
//! That is what needs no number of an offer and no boot id: an offer is granted by arbiters that obey the
//! very document its host does, and a host that takes a document ends its open offers with the same write.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Trust, TrustError};
use crate::id::HostId;
use crate::signed::PublicKey;

/// Longest reason: a sentence or two, in a document that every host keeps.
pub const REASON_CHARS_MAX: usize = 500;

/// A host was off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fence {
    /// The host.
    pub host: PublicKey,
    /// The version by which this was said; what the host took by an earlier one is over.
    pub since: u64,
    /// Who said it: an operator or a fencer.
    pub by: PublicKey,
    /// Whether a fencer did.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_fencer: bool,
    /// When, by their wall clock, in milliseconds since 1970; shown to people.
    pub at_ms: u64,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl Trust {
    /// What was said last of a host being off.
    #[must_use]
    pub fn fence_of(&self, host: &PublicKey) -> Option<&Fence> {
        self.fenced.iter().find(|fence| fence.host == *host)
    }

    /// The same of every host, by id.
    #[must_use]
    pub fn fences_by_host(&self) -> BTreeMap<HostId, &Fence> {
        self.fenced.iter().map(|fence| (HostId::of(&fence.host), fence)).collect()
    }

    /// Whether it says of a host that it was off, and the one before did not say so yet.
    #[must_use]
    pub fn says_anew(&self, before: &Trust, host: &PublicKey) -> bool {
        let since = |trust: &Trust| trust.fence_of(host).map_or(0, |fence| fence.since);
        since(self) > since(before)
    }

    /// Whether what a host took by this document is over. `None`: by none at all.
    #[must_use]
    pub fn is_over(&self, host: &PublicKey, obeyed: Option<u64>) -> bool {
        self.fence_of(host).is_some_and(|fence| obeyed.unwrap_or(0) < fence.since)
    }
}

/// Checks a document's fences against the rest of it.
pub(super) fn validate(trust: &Trust) -> Result<(), String> {
    for (n, fence) in trust.fenced.iter().enumerate() {
        let host = HostId::of(&fence.host);
        if trust.fenced[..n].iter().any(|other| other.host == fence.host) {
            return Err(format!("host {host} is said to be off twice"));
        }
        if fence.since == 0 || fence.since > trust.version {
            let (since, version) = (fence.since, trust.version);
            return Err(format!("host {host} is off since version {since}, and this is {version}"));
        }
        if fence.reason.chars().count() > REASON_CHARS_MAX {
            return Err(format!(
                "the reason why host {host} is off has over {REASON_CHARS_MAX} characters"
            ));
        }
    }
    Ok(())
}

/// Whether a document may follow another, as far as fences go. What was said once stays said, or those who
/// have started elsewhere what such a host ran and those who have not heard of it would differ; and nothing
/// is said of a time that somebody has lived through already without it. But for fencers' words (`fencers`): of
/// two documents that don't follow one another only one can have had a quorum, and who obeyed the other comes
/// back: what that one lacked is said afterwards, and what it alone said is disowned.
pub(super) fn check(old: &Trust, new: &Trust) -> Result<(), TrustError> {
    let unlawful = |why: String, lawful: String| {
        Err(TrustError::Unlawful { version: new.version, why, lawful })
    };
    for fence in old.fenced.iter().filter(|fence| new.roster.contains(&fence.host)) {
        let host = HostId::of(&fence.host);
        let kept = new.fence_of(&fence.host);
        let is_lost = kept.is_none_or(|kept| kept.since < fence.since);
        if is_lost && !new.fencing.disowns(fence) {
            return unlawful(
                format!("it takes back that host {host} was off"),
                format!("to have it off since version {} or later", fence.since),
            );
        }
    }
    // Under a fencer's word, which may be disowned, there is what the operator had said before.
    let upon = old.upon.as_ref().and_then(|upon| upon.open().ok());
    let said_before = |fence: &Fence| {
        let before = [Some(old), upon.as_ref()].into_iter().flatten();
        before.into_iter().any(|trust| trust.fence_of(&fence.host) == Some(fence))
    };
    for fence in new.fenced.iter().filter(|fence| !said_before(fence)) {
        if fence.since <= old.version && !fence.by_fencer {
            return unlawful(
                format!(
                    "it says afterwards that host {} was off in version {}",
                    HostId::of(&fence.host),
                    fence.since
                ),
                format!("to say so from version {} on", old.version + 1),
            );
        }
    }
    Ok(())
}
