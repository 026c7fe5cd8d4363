//! What hosts say: rules R3 and R4, and the part of R2 that a statement can fulfil.

use std::collections::BTreeSet;
use std::sync::Arc;

use protocol::id::{HostId, JobId, OfferId};
use protocol::signed::Signed;
use protocol::tenure::{self, ITEMS_MAX, Term};
use protocol::trust::Trust;
use protocol::vm::OnLoss;

use super::{Core, Effect, NotStated, Said};
use crate::statement::Statement;

impl Core {
    /// R3, and the part of R2 that a statement can fulfil.
    pub(super) fn hear(
        &mut self,
        host: &HostId,
        asked_ms: u64,
        statement: &Statement,
        out: &mut Vec<Effect>,
    ) {
        let Ok((slot, trust)) = self.member() else { return };
        let trust = Arc::clone(trust);
        if !self.roster.contains_key(host) {
            return;
        }
        if statement.obeyed.unwrap_or(0) < trust.version {
            out.push(Effect::BringTrust { host: host.clone() });
        }
        self.rates.give_back(host, &statement.unused);
        self.rates.make_room(asked_ms, &trust);
        if self.is_over(&trust, host, statement.obeyed) {
            return;
        }
        let is_known = |id: &OfferId| self.books.of_offer(host, *id).is_some();
        if asked_ms >= self.silent_until() || statement.offers.iter().all(is_known) {
            self.missing.remove(host);
        }
        self.correct((slot, &trust), host, statement);
        // What it holds counts by the change that is known here, so an agreement to one that is not yet
        // known is heard again when it is.
        match statement.agreed.filter(|change| Some(*change) == trust.change()) {
            Some(change) => drop(self.agreed.insert(host.clone(), change)),
            None => drop(self.agreed.remove(host)),
        }
    }

    /// R3, whoever brought the statement.
    fn correct(&mut self, at: (u32, &Trust), host: &HostId, statement: &Statement) {
        let held: BTreeSet<&JobId> = statement.holds.iter().map(|hold| &hold.job).collect();
        let offered: Vec<Option<JobId>> = statement
            .offers
            .iter()
            .map(|id| {
                let named = statement.offered.get(id).cloned();
                named.or_else(|| self.books.of_offer(host, *id).map(|entry| entry.job.clone()))
            })
            .collect();
        self.leases.release(host, statement.watermark, |job| {
            // An offer of a job that nobody names may be of this one.
            let is_offered = offered.iter().any(|of| of.as_ref().is_none_or(|of| of == job));
            is_offered || held.contains(job)
        });
        if !self.is_or_was_witness() {
            self.books.correct(at, host, statement);
            let kept = statement.holds.iter().filter(|hold| hold.on_loss == OnLoss::Keep);
            for hold in kept.filter(|_| !at.1.fenced.is_empty()) {
                self.leases.note_held(&hold.job, host, hold.id);
            }
        }
        let listed = statement.holds.iter().map(|hold| hold.id).chain(statement.offers.clone());
        let Statement { watermark, obeyed, .. } = *statement;
        let said = Said { watermark, listed: listed.collect(), obeyed };
        // Statements may arrive late; what an older one closed stays closed either way (R13).
        if self.said.get(host).is_none_or(|last| last.watermark <= said.watermark) {
            self.said.insert(host.clone(), said);
        }
    }

    /// R3 and R4: takes a host's statement and says which of its holds are covered. While silent (R1)
    /// nothing is said of any.
    pub(super) fn cover(
        &mut self,
        now_ms: u64,
        signed: &Signed<tenure::Statement>,
    ) -> Result<Term, NotStated> {
        let (slot, trust) = self.covers_as()?;
        let (trust, version) = (Arc::clone(trust), trust.version);
        let said = signed.open()?;
        let (host, seq) = (said.host.clone(), said.seq);
        if self.roster.get(&host) != Some(&signed.key()) {
            return Err(NotStated::NotAHost { host, version });
        }
        if said.items.len() > ITEMS_MAX {
            return Err(NotStated::TooLong { items: said.items.len() });
        }
        if self.is_over(&trust, &host, Some(said.trust_version)) {
            return Ok(Term { slot, host, seq, covered: BTreeSet::new(), is_silent: false });
        }
        self.correct((slot, &trust), &host, &Statement::of_signed(&said));
        let is_silent = self.lease_silent_for(now_ms).is_some();
        let mut covered = BTreeSet::new();
        let needs_cover =
            |item: &&tenure::Item| !is_silent && item.is_hold() && item.on_loss == OnLoss::Stop;
        for item in said.items.iter().filter(needs_cover) {
            if self.leases.cover(now_ms, self.term_ms, &host, item) {
                covered.insert(item.id);
            }
        }
        Ok(Term { slot, host, seq, covered, is_silent })
    }

    /// Whether what a host says counts for nothing: it does not know yet that it is said to have been off.
    fn is_over(&self, trust: &Trust, host: &HostId, obeyed: Option<u64>) -> bool {
        self.roster.get(host).is_some_and(|key| trust.is_over(key, obeyed))
    }
}
