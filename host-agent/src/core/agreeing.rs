//! A host's agreement to a change of arbiters (tenure protocol §10): from then on it takes and runs
//! nothing without a quorum of those in force and of those who are to take over, and never goes back
//! behind it.
//!
//! ```text
//!   no change ──document names next arbiters──▶ asked ──agreed, on disk──▶ bound ──handover──▶ no change
//!                       ▲                         │
//!                       └────── taken back ───────┘
//! ```
//!
//! It agrees once that costs nothing: whatever needs cover has that of both already, and a quorum of
//! both say that they grant. Where those in force are lost, nobody asks them: what they alone have covered
//! has ended by then, since whatever still runs by them keeps the host from agreeing. Offers made before end with it, so that whoever reads what the host holds
//! afterwards has read everything that the arbiters in force alone have granted.

use protocol::id::OfferId;
use protocol::signed::Digest;
use protocol::vm::OnLoss;

use super::agent::Agent;
use super::input::{Effect, Standing};
use super::ledger::Write;
use super::tenure::on_loss;

impl Agent {
    /// The change of arbiters that the host has agreed to, while it is under way.
    #[must_use]
    pub fn agreed(&self) -> Option<Digest> {
        let change = self.trust.as_ref()?.change();
        self.agreed.filter(|agreed| change == Some(*agreed))
    }

    /// A change that the host has not agreed to yet.
    fn asked_change(&self) -> Option<Digest> {
        let change = self.trust.as_ref()?.change()?;
        (self.agreed != Some(change)).then_some(change)
    }

    /// Has the arbiters asked, while the host could agree but for them.
    pub(super) fn ask_agreement(&mut self, out: &mut Vec<Effect>) {
        let could = self.asked_change().is_some_and(|change| self.is_covered_by_both(change));
        if could && !self.is_right_asked {
            self.is_right_asked = true;
            out.push(Effect::AskRight);
        }
    }

    /// The arbiters have been asked: agrees, if now nothing is in the way.
    pub(super) fn agree(&mut self, standing: &Standing, out: &mut Vec<Effect>) {
        let Some(change) = self.asked_change() else { return };
        let Some(trust) = &self.trust else { return };
        let is_answered = trust.version == standing.version && trust.may_agree(&standing.ready);
        if !is_answered || !self.is_covered_by_both(change) {
            return;
        }
        self.offers.end_all();
        self.bind(change, out);
    }

    /// From now on, in every later life.
    pub(super) fn bind(&mut self, change: Digest, out: &mut Vec<Effect>) {
        self.agreed = Some(change);
        out.push(Effect::Persist(Write::Agreed(change)));
    }

    /// Whether all that needs cover has it of both committees, by the keeper's word.
    fn is_covered_by_both(&self, change: Digest) -> bool {
        let version = self.trust.as_ref().map(|trust| trust.version);
        let is_of_now = self.joint.change == Some(change) && Some(self.joint.version) == version;
        let is_joint = |hold: &OfferId| is_of_now && self.joint.holds.contains(hold);
        let jobs = self.jobs.values().map(|entry| &entry.record.job);
        let mut need = jobs.filter(|job| on_loss(job) == OnLoss::Stop).filter_map(|job| job.hold);
        self.has_listed && self.unwritten.is_empty() && need.all(|hold| is_joint(&hold))
    }
}
