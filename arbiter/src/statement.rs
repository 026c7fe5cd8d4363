//! What a host says it holds: the one kind of message by which books are corrected (rule R3).
//!
//! A statement is true for ever in one direction (rule R13): what it omits and has an id up to its
//! watermark will never be redeemed or run again. The arbiter asks each host itself, over a connection
//! pinned to the host's key, and hosts with jobs that need cover send signed ones besides: both come
//! to this.

use std::collections::{BTreeMap, BTreeSet};

use protocol::amounts::Amounts;
use protocol::api::HoldDebits;
use protocol::budget::Delegated;
use protocol::host::Inventory;
use protocol::id::{Epoch, HostId, JobId, OfferId, TenantId};
use protocol::resources::Resources;
use protocol::signed::Digest;
use protocol::tenure;
use protocol::vm::OnLoss;
use serde::{Deserialize, Serialize};

/// `GET /v1/offers` on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenOffers {
    /// The life of the agent that answers.
    pub epoch: Epoch,
    /// The highest id it has ever issued.
    pub watermark: OfferId,
    /// Offers that may still be redeemed.
    pub offers: Vec<OfferId>,
    /// The change of arbiters that the host has agreed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreed: Option<Digest>,
    /// What arbiters have booked for what it holds; `None` of a host that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debits: Option<Vec<HoldDebits>>,
    /// Offers that ended without having been redeemed, the last of them; of a host that does not say, none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unused: Vec<OfferId>,
}

/// A redeemed ticket, as its host lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldItem {
    /// The offer that was redeemed.
    pub id: OfferId,
    /// The job.
    pub job: JobId,
    /// What it takes: the larger size while it is being resized.
    pub resources: Resources,
    /// Whose quota.
    pub tenant: TenantId,
    /// Of a budget, what its size does not say; `None` also of one whose host's keeper is older than budgets.
    pub delegated: Option<Delegated>,
    /// What each slot has booked, by the ticket.
    pub debits: Debits,
    /// Whether the host kills it when it is not covered.
    pub on_loss: OnLoss,
}

/// What is known of what arbiters have booked for a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Debits {
    /// The ticket's final word.
    Known(BTreeMap<u32, Amounts>),
    /// It was redeemed between the two reads that make a statement.
    NotYet,
    /// Its host does not say, or it has no ticket.
    Untold,
}

impl From<Option<BTreeMap<u32, Amounts>>> for Debits {
    fn from(debits: Option<BTreeMap<u32, Amounts>>) -> Self {
        debits.map_or(Debits::Untold, Debits::Known)
    }
}

/// Everything that a host holds or may still redeem.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statement {
    /// The highest id the host had issued when it began to list.
    pub watermark: OfferId,
    /// Its holds.
    pub holds: Vec<HoldItem>,
    /// Its open offers.
    pub offers: BTreeSet<OfferId>,
    /// The jobs of those offers, as far as the host names them.
    pub offered: BTreeMap<OfferId, JobId>,
    /// The change of arbiters that the host had agreed to before it began to list.
    pub agreed: Option<Digest>,
    /// The trust document that the host obeyed when it listed them; what it took by an older one than
    /// says that it was off is over.
    pub obeyed: Option<u64>,
    /// Offers that ended without having been redeemed, as far as it says: nothing was ever started by them.
    pub unused: BTreeSet<OfferId>,
}

/// Why two answers of a host are no statement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// The inventory is another host's.
    #[error("host {expected} answered with the inventory of host {actual}")]
    OtherHost {
        /// The host that was asked.
        expected: HostId,
        /// The host in the answer.
        actual: HostId,
    },
    /// The watermark is of a life that the agent has not lived yet.
    #[error("watermark {watermark} is later than the agent's epoch {epoch}")]
    FutureWatermark {
        /// The watermark.
        watermark: OfferId,
        /// The agent's epoch.
        epoch: Epoch,
    },
    /// The second answer is older than the first.
    #[error("inventory of epoch {inventory} was read after offers of epoch {offers}")]
    OlderInventory {
        /// Epoch of the inventory.
        inventory: Epoch,
        /// Epoch of the offers.
        offers: Epoch,
    },
}

impl Statement {
    /// Makes one statement of two answers, the open offers read **before** the inventory was asked
    /// for. In that order an offer redeemed in between is listed twice; in the other order it would
    /// be listed nowhere, and a running guest would be struck off the books.
    ///
    /// A VM that is alive without a hold was started before there was trust. It is listed under the
    /// id 0.0, so that no arbiter lets a second instance of it start elsewhere.
    pub fn of_reads(
        host: &HostId,
        offers: OpenOffers,
        inventory: &Inventory,
    ) -> Result<Self, StatementError> {
        if inventory.host.id != *host {
            let (expected, actual) = (host.clone(), inventory.host.id.clone());
            return Err(StatementError::OtherHost { expected, actual });
        }
        if offers.watermark.epoch > offers.epoch {
            let OpenOffers { watermark, epoch, .. } = offers;
            return Err(StatementError::FutureWatermark { watermark, epoch });
        }
        if inventory.cursor.epoch < offers.epoch {
            let (inventory, offers) = (inventory.cursor.epoch, offers.epoch);
            return Err(StatementError::OlderInventory { inventory, offers });
        }
        let OpenOffers { watermark, offers, agreed, debits: told, unused, .. } = offers;
        let offers: BTreeSet<OfferId> = offers.into_iter().collect();
        let tells = told.is_some();
        let told = told.into_iter().flatten().map(|of| (of.hold, of.debits));
        let mut told: BTreeMap<OfferId, BTreeMap<u32, Amounts>> = told.collect();
        let holds = inventory.jobs.iter().filter_map(|job| {
            // What is here by a budget is listed as that.
            let is_vm = job.spec.as_vm().is_some() && job.budget.is_none();
            let is_untitled = is_vm && !job.state.is_ended();
            let id = job.hold.or(is_untitled.then(OfferId::default))?;
            let debits = match told.remove(&id) {
                Some(debits) => Debits::Known(debits),
                None if tells && (offers.contains(&id) || id > watermark) => Debits::NotYet,
                None => Debits::Untold,
            };
            Some(HoldItem {
                id,
                job: job.id.clone(),
                resources: match job.spec.as_budget() {
                    Some(budget) => budget.resources(),
                    None => job.promised(),
                },
                tenant: job.spec.tenant.clone(),
                delegated: job.delegated(),
                debits,
                on_loss: job.spec.as_vm().map_or(OnLoss::Keep, |vm| vm.on_loss),
            })
        });
        let holds = holds.collect();
        let obeyed = inventory.host.trust_version;
        let (offered, unused) = (BTreeMap::new(), unused.into_iter().collect());
        Ok(Self { watermark, holds, offers, offered, agreed, obeyed, unused })
    }

    /// A host's signed statement, as far as the books go.
    #[must_use]
    pub fn of_signed(said: &tenure::Statement) -> Self {
        let hold = |item: &tenure::Item| HoldItem {
            id: item.id,
            job: item.job.clone(),
            resources: item.resources,
            tenant: item.tenant.clone(),
            delegated: item.delegated.clone(),
            debits: item.debits.clone().into(),
            on_loss: item.on_loss,
        };
        let offers = || said.items.iter().filter(|item| !item.is_hold());
        Self {
            watermark: said.watermark,
            holds: said.items.iter().filter(|item| item.is_hold()).map(hold).collect(),
            offers: offers().map(|item| item.id).collect(),
            offered: offers().map(|item| (item.id, item.job.clone())).collect(),
            agreed: None,
            obeyed: Some(said.trust_version),
            unused: BTreeSet::new(),
        }
    }

    /// Whether the offer, redeemed for that job or still open, is in the list.
    #[must_use]
    pub fn lists(&self, id: OfferId, job: &JobId) -> bool {
        self.offers.contains(&id) || self.holds.iter().any(|h| h.id == id && h.job == *job)
    }
}
