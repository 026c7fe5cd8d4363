//! The right to run: what the keeper beside the agent may state of its ledger, and what becomes of a
//! job whose right is over (rules R9, R12, R13, R14).
//!
//! The keeper covers, frees and kills; the ledger is the agent's. So a hold is closed here, after its
//! guest is dead, and only then does a draft omit it.

use std::collections::BTreeMap;

use protocol::amounts::Amounts;
use protocol::id::{Epoch, JobId, OfferId};
use protocol::job::{Job, JobState, Reason};
use protocol::signed::Digest;
use protocol::tenure::{Item, Standing};
use protocol::ticket::HoldAt;
use protocol::trust::Trust;
use protocol::vm::OnLoss;
use serde::{Deserialize, Serialize};
use transport::clock::Now;
use uuid::Uuid;

use super::agent::Agent;
use super::input::Effect;
use super::ledger::{Intent, Issued, JobRecord};
use super::resizing::is_changing;

/// What a keeper may state in the host's name until it gets the next draft: old, it lists too much,
/// and never too little (R13).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draft {
    /// The agent's life.
    pub epoch: Epoch,
    /// The highest offer id ever issued.
    pub watermark: OfferId,
    /// Every hold and every open offer.
    pub items: Vec<Drafted>,
    /// The trust document that the agent obeys: by no older one may anything be let run.
    #[serde(default)]
    pub trust_version: u64,
    /// The change of arbiters that the host has agreed to: nothing runs without the cover of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreed: Option<Digest>,
}

/// An item of a draft, with what only this host needs to know of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drafted {
    /// As it is stated.
    pub item: Item,
    /// Its domain.
    pub uuid: Uuid,
    /// When its offer was made, in milliseconds since this boot of the machine: the slots that have
    /// granted it cover it from then (R9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_ms: Option<u64>,
    /// The hold under which its guest began, where it has been replaced since while the guest ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<OfferId>,
}

impl Draft {
    /// Whether anything of it needs to be covered.
    #[must_use]
    pub fn needs_keeper(&self) -> bool {
        self.items.iter().any(|drafted| drafted.item.on_loss == OnLoss::Stop)
    }
}

impl Agent {
    /// Whether anything here needs cover.
    #[must_use]
    pub fn needs_keeper(&self) -> bool {
        let is_offered = self.offers.open().any(|(_, open)| open.on_loss == OnLoss::Stop);
        is_offered || self.jobs.needs_cover()
    }

    /// What may be stated of the ledger as it is on disk now; `None` before the first list of domains,
    /// when what a reboot has closed may not be written yet.
    #[must_use]
    pub fn draft(&self) -> Option<Draft> {
        if !self.has_listed || !self.unwritten.is_empty() {
            return None;
        }
        let holds = self.jobs.values().filter_map(|entry| self.drafted(&entry.record));
        let offers = self.offers.open().map(|(id, open)| Drafted {
            item: Item {
                id,
                job: open.job.clone(),
                resources: open.resources,
                tenant: open.tenant.clone(),
                debits: None,
                on_loss: open.on_loss,
                delegated: None,
                standing: Standing::Offer,
            },
            uuid: self.domain_of(&open.job),
            issued_ms: None,
            since: None,
        });
        let items = holds.chain(offers).collect();
        Some(Draft {
            epoch: self.cursor.epoch,
            watermark: self.offers.watermark(),
            items,
            trust_version: self.trust.as_ref().map_or(0, |trust| trust.version),
            agreed: self.agreed(),
        })
    }

    fn drafted(&self, record: &JobRecord) -> Option<Drafted> {
        let job = &record.job;
        let counts = job.spec.counts()?;
        // What is here by a budget is stated as that.
        if job.budget.is_some() {
            return None;
        }
        let delegated = job.delegated();
        let is_vm = delegated.is_none();
        // A VM that is alive without a hold was started before there was trust. One whose hold was taken and
        // whose guest came all the same is ended where it stands still: it never runs (R13).
        let has_none = job.state.is_ended() || matches!(job.reason, Some(Reason::Fenced { .. }));
        let id = job.hold.or((is_vm && !has_none).then(OfferId::default))?;
        let standing = match &record.intent {
            Intent::Receive { from, hold, is_handed } => Standing::Arriving {
                from: HoldAt { host: from.clone(), hold: *hold },
                is_handed: *is_handed,
            },
            _ => Standing::Hold,
        };
        let item = Item {
            id,
            job: job.id.clone(),
            resources: if is_vm { job.promised() } else { counts.resources() },
            tenant: job.spec.tenant.clone(),
            debits: (!record.debits.is_empty()).then(|| record.debits.clone()),
            on_loss: on_loss(job),
            delegated,
            standing,
        };
        let issued = record.issued.as_ref().filter(|issued| issued.boot == self.boot);
        Some(Drafted {
            item,
            uuid: self.domain_of(&job.id),
            issued_ms: issued.map(|issued| issued.at_ms),
            since: issued.and_then(|issued| issued.since),
        })
    }

    /// When an offer was made that is good until then.
    pub(super) fn issued(&self, trust: &Trust, until_ms: u64) -> Issued {
        let lasts_ms = trust.term_ms - trust.kill_ms;
        let at_ms = until_ms.saturating_sub(lasts_ms);
        Issued { boot: self.boot.clone(), at_ms, since: None }
    }

    /// R12: the keeper has seen the guest dead, or never let it run. Whatever is left in libvirt is
    /// cleared away, and only then is the hold closed.
    pub(super) fn handle_lost(
        &mut self,
        now: Now,
        id: &JobId,
        hold: OfferId,
        out: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.jobs.get(id) else { return };
        let job = &entry.record.job;
        // Told before, or asked for: it ends at once already.
        let is_ending = job.state == JobState::Stopping
            && entry.record.intent == (Intent::Stop { grace_ms: 0 });
        let is_deleted = entry.record.intent == Intent::Delete;
        if job.hold != Some(hold) || on_loss(job) == OnLoss::Keep || is_ending || is_deleted {
            return;
        }
        let mut record = entry.record.clone();
        record.intent = Intent::Stop { grace_ms: 0 };
        record.job.migration = None;
        let why = why_lost(&record.job, hold);
        if record.job.state.is_ended() {
            // Its room may be somebody else's by now, and there is nothing left to end.
            return self.become_state(now, record, JobState::Stopped, why, out);
        }
        self.become_state(now, record, JobState::Stopping, why, out);
        self.go_on(now, id, out);
    }

    /// R14: what needed to be covered was not while the machine was off, whatever the row says. True
    /// when the row was changed.
    pub(super) fn lose_at_reboot(&self, record: &mut JobRecord) -> bool {
        let Some(hold) = record.job.hold else { return false };
        let is_of_now = record.issued.as_ref().is_some_and(|issued| issued.boot == self.boot);
        if on_loss(&record.job) == OnLoss::Keep || is_of_now || record.intent == Intent::Delete {
            return false;
        }
        record.intent = Intent::Stop { grace_ms: 0 };
        record.job.reason = why_lost(&record.job, hold);
        record.job.state = JobState::Stopped;
        record.job.hold = None;
        record.job.migration = None;
        if !is_changing(&record.job) {
            record.job.resize = None;
        }
        record.debits = BTreeMap::<u32, Amounts>::new();
        record.issued = None;
        true
    }
}

/// Why a job ends whose right is over. Of one that is being stopped somebody wants it to end, and to stay so:
/// controllers start again what says that its right was lost.
fn why_lost(job: &Job, lost: OfferId) -> Option<Reason> {
    match job.state {
        JobState::Stopping => job.reason.clone(),
        _ => Some(Reason::TenureLost { lost }),
    }
}

/// What becomes of a job when its host is cut off.
pub(super) fn on_loss(job: &Job) -> OnLoss {
    job.spec.as_vm().map_or(OnLoss::Keep, |vm| vm.on_loss)
}
