//! A trust document comes into force: who has left, who must be read (again), and what was said of hosts.

use std::sync::Arc;

use protocol::id::HostId;
use protocol::signed::Digest;
use protocol::trust::{Fence, Trust};
use protocol::vm::OnLoss;

use super::{Core, Effect, FIRST_VERSION};
use crate::books::Books;
use crate::rates::Rates;

impl Core {
    pub(super) fn obey(&mut self, now_ms: u64, trust: Arc<Trust>, out: &mut Vec<Effect>) {
        // Told by two tasks, so an older document may come last.
        if self.trust.as_ref().is_some_and(|old| old.version > trust.version) {
            return;
        }
        let trust_before = self.trust.clone();
        let old = std::mem::replace(&mut self.roster, trust.roster_by_host());
        let joined = self.roster.keys().filter(|host| !old.contains_key(*host));
        self.missing.extend(joined.cloned());
        for host in old.keys().filter(|host| !self.roster.contains_key(*host)) {
            self.missing.remove(host);
            self.agreed.remove(host);
            self.said.remove(host);
            self.books.retire(host);
            self.leases.retire(host);
        }
        self.term_ms = self.term_ms.max(trust.member_term_ms());
        let before = self.seat().ok().map(|(seat, _)| seat);
        let done = |trust: &Trust| trust.succession.handover.as_ref().map(|done| done.change);
        let done_before = self.trust.as_deref().and_then(done);
        let completed = done(&trust).filter(|change| done_before != Some(*change));
        let is_first = trust.version == FIRST_VERSION && !self.may_have_promised;
        self.trust = Some(trust);
        let seat = self.seat().ok().map(|(seat, _)| seat);
        if seat.is_some() && seat != before {
            // What it read as a member before, others have changed since.
            self.missing = self.roster.keys().cloned().collect();
            self.agreed.clear();
            self.books = Books::default();
            self.rates = Rates::default();
            if !is_first {
                self.leases_from_ms = now_ms + self.term_ms;
                self.forget_starts(now_ms);
            }
        }
        if let (Ok(slot), Some(trust)) = (self.slot(), &self.trust) {
            self.books.follow((slot, trust));
            self.rates.follow(&trust.policy);
        }
        let was_member = before.is_some() && (seat.is_none() || seat == before);
        self.take_from_fenced(trust_before.as_deref(), was_member);
        self.miss_who_agreed_unheard(completed);
        self.last_seat = self.seat().ok().or(self.last_seat);
        if self.is_or_was_witness() {
            self.missing.clear();
        }
        out.extend(self.missing.iter().cloned().map(|host| Effect::ReadHost { host }));
    }

    /// Whoever had its slot before, and it was that perhaps, may have granted starts that nobody here knows of.
    fn forget_starts(&mut self, now_ms: u64) {
        if let Some(trust) = &self.trust {
            self.rates.forget(now_ms, &trust.policy);
        }
    }

    /// A change of arbiters was completed by the words of a quorum. Whoever has not heard a host since
    /// that host agreed may lack what those before have granted there, and counts nothing for it: it
    /// reads the host once more before it grants. That goes for a host that was off as well: it may have been
    /// back, and have agreed, before this one has heard of either.
    fn miss_who_agreed_unheard(&mut self, completed: Option<Digest>) {
        let Some(change) = completed else { return };
        let unheard = self.roster.keys().filter(|host| self.agreed.get(*host) != Some(&change));
        self.missing.extend(unheard.cloned());
    }

    /// What hosts held that were off is nobody's any more, and who has it next is granted it as any other.
    /// What is kept and may now be started elsewhere is remembered with its hold, so that an old view starts
    /// nothing which somebody has had and deleted since.
    ///
    /// What is said afterwards, and what is disowned, it obeyed a document without: it reads such a host again.
    fn take_from_fenced(&mut self, before: Option<&Trust>, was_member: bool) {
        let Some(trust) = self.trust.clone() else { return };
        let version_before = before.map_or(0, |before| before.version);
        let is_disowned =
            |fence: &&Fence| before.is_some_and(|old| old.says_anew(&trust, &fence.host));
        let all = before.iter().flat_map(|before| &before.fenced);
        let disowned: Vec<HostId> =
            all.filter(is_disowned).map(|fence| HostId::of(&fence.host)).collect();
        self.missing.extend(disowned.into_iter().filter(|host| self.roster.contains_key(host)));
        let is_new =
            |fence: &&Fence| before.is_none_or(|before| trust.says_anew(before, &fence.host));
        for fence in trust.fenced.iter().filter(is_new) {
            let host = HostId::of(&fence.host);
            if !self.roster.contains_key(&host) {
                continue;
            }
            if fence.since <= version_before {
                self.missing.insert(host.clone());
            }
            let entries = self.books.of_host(&host);
            for entry in entries.filter(|entry| entry.on_loss == OnLoss::Keep) {
                self.leases.note_taken(&entry.job, &host, entry.id);
            }
            // Who has heard it before this arbiter did has ended what it had, or is about to, and lists what it has
            // taken since.
            let since =
                self.said.get(&host).filter(|said| !trust.is_over(&fence.host, said.obeyed));
            let has_since = |id| since.is_some_and(|said| said.listed.contains(&id));
            self.books.take(&host, has_since);
            if was_member && version_before > 0 && fence.since > version_before {
                self.missing.remove(&host);
            }
        }
    }
}
