//! How long a host may run a job: its signed statements of what it holds, and the terms by which
//! arbiters cover it (tenure protocol §3, rules R3, R4, R10, R13).
//!
//! Pure data. Freshness is the host's: a statement carries a number, the host remembers when it sent
//! it, and a term that answers it lasts from then. What an arbiter makes of a statement is the
//! arbiter's, how a host counts terms its keeper's.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::amounts::Amounts;
use crate::budget::Delegated;
use crate::id::{Epoch, HostId, JobId, OfferId, TenantId};
use crate::resources::Resources;
use crate::signed::Message;
use crate::ticket::HoldAt;
use crate::vm::OnLoss;

/// Most items of one statement: what a host's ledger and its open offers can have.
pub const ITEMS_MAX: usize = 8_192;

/// A host's signed list of what it holds and of what may still become a hold.
///
/// True for ever in one direction (R13): what it omits and has an id up to its watermark will never be
/// redeemed, resumed or run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Statement {
    /// Who says so.
    pub host: HostId,
    /// The life of the agent from whose ledger the items are.
    pub epoch: Epoch,
    /// Which statement of the keeper that sent it; grows for as long as the machine is up.
    pub seq: u64,
    /// The highest offer id the host had ever issued when it began to list.
    pub watermark: OfferId,
    /// Everything it holds or has offered.
    pub items: Vec<Item>,
    /// The trust document that the host obeyed when it listed them; 0 of a host that does not say.
    #[serde(default)]
    pub trust_version: u64,
}

impl Message for Statement {
    const DOMAIN: &'static str = "statement";
}

/// One hold, or one offer that may still be redeemed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Item {
    /// The offer, and the hold that it becomes. 0.0 for a VM that was alive before there was trust.
    pub id: OfferId,
    /// The job.
    pub job: JobId,
    /// What it takes.
    pub resources: Resources,
    /// Whose quota.
    pub tenant: TenantId,
    /// What each slot has booked by the ticket, so the same in every statement of this hold, however late
    /// it comes; `None` when the host does not know, and the whole size is assumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debits: Option<BTreeMap<u32, Amounts>>,
    /// Whether it needs to be covered.
    #[serde(default)]
    pub on_loss: OnLoss,
    /// Of a budget, what its size does not say. An arbiter keeps what it knows of a budget where this is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegated: Option<Delegated>,
    /// What it is.
    pub standing: Standing,
}

/// What an item of a statement is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "standing", rename_all = "snake_case")]
pub enum Standing {
    /// An offer that may still be redeemed.
    Offer,
    /// A redeemed ticket: the job runs here, or may.
    Hold,
    /// A redeemed ticket for a job that comes from another host.
    Arriving {
        /// From where.
        from: HoldAt,
        /// Whether the source has let go (rule M4). Until then it never runs here.
        is_handed: bool,
    },
}

impl Item {
    /// Whether it is a redeemed ticket.
    #[must_use]
    pub fn is_hold(&self) -> bool {
        self.standing != Standing::Offer
    }

    /// Whether it may not run here yet, because its source has not let go.
    #[must_use]
    pub fn is_unhanded(&self) -> bool {
        matches!(self.standing, Standing::Arriving { is_handed: false, .. })
    }
}

/// One arbiter's answer to a statement: which of its holds it covers, for one term from when the
/// host sent that statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Term {
    /// Its slot.
    pub slot: u32,
    /// Whose statement it answers.
    pub host: HostId,
    /// Which of that host's keeper's.
    pub seq: u64,
    /// The holds that it covers. What was listed, needs to be covered and is not here, is not covered.
    pub covered: BTreeSet<OfferId>,
    /// True while it may have forgotten promises (rule R1): then it says nothing about any hold, and
    /// what it covered before lasts as long as it would have.
    pub is_silent: bool,
}

impl Message for Term {
    const DOMAIN: &'static str = "term";
}
