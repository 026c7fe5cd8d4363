//! Operators who say that a host is off, as with `ostler fence`: mostly when it is, and they keep it off until
//! a quorum of arbiters obeys; and at times when it is not.
//!
//! What was said wrongly may run twice, and is counted. Until such a host has heard, and has ended what was
//! taken from it, no rule can be asked of what it holds; of everything else, all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use host_agent::core::JobRecord;
use protocol::id::JobId;
use protocol::job::Reason;
use protocol::signed::Signed;
use protocol::trust::{Committee, Fence, Trust};
use uuid::Uuid;

use super::fencers::Fencer;
use super::message::Ask;
use super::mutant::Mutant;
use super::world::{Event, World, host_key, operator_key};

/// Of a million words, so many are about a host that is not off.
const WRONG_PPM: u32 = 150_000;

/// Of a million words, so many are a fencer's, where there are fencers.
const FENCERS_PPM: u32 = 600_000;

/// What operators have said of hosts.
#[derive(Debug, Default)]
pub struct Fencing {
    /// The host that is kept off until a quorum of this document's arbiters obeys it, as `ostler fence`
    /// waits for it. Whoever is an arbiter by a later one has it as well.
    kept_off: Option<(usize, Arc<Trust>)>,
    /// Hosts of which it was said wrongly, and by which version.
    pub wrong: BTreeMap<usize, u64>,
    /// Controllers that say it as well.
    pub(super) fencers: Vec<Fencer>,
}

impl World {
    /// Somebody says something, and the next time is chosen.
    pub(super) fn say_off(&mut self) {
        if !self.is_noisy {
            return;
        }
        let every_ms = self.profile.fence_every_ms;
        let next_us = self.chance.between(every_ms * 300, every_ms * 1_700);
        self.after(next_us, Event::SayOff);
        if let Some(with) = self.with_fencers() {
            return self.decree(with);
        }
        if self.profile.has_fencers && self.chance.happens(FENCERS_PPM) && self.fencer_says() {
            return;
        }
        if self.is_kept_off() {
            return;
        }
        let is_wrong = self.chance.happens(WRONG_PPM);
        let fits = |n: &usize| {
            let has_power = self.nodes[self.hosts[*n].node.0].has_power;
            has_power == is_wrong && self.can_do_without(*n)
        };
        let hosts: Vec<usize> = (0..self.hosts.len()).filter(fits).collect();
        let Some(n) = self.chance.pick(&hosts).copied() else {
            return self.coverage.hit("skipped.fence");
        };
        self.fence(n);
    }

    /// An operator says that a host is off, whether it is or not.
    pub fn fence(&mut self, n: usize) {
        let is_wrong = self.nodes[self.hosts[n].node.0].has_power;
        let mut next = self.above_all(self.base().next());
        let (host, by) = (host_key(n).public(), operator_key().public());
        let fence = Fence {
            host,
            since: next.version,
            by,
            by_fencer: false,
            at_ms: 0,
            reason: String::new(),
        };
        next.fenced.retain(|other| other.host != host);
        next.fenced.push(fence);
        self.note(|| format!("         h{n} is said to be off by version {}", next.version));
        if is_wrong {
            self.coverage.hit("fence.wrong");
            self.fencing.wrong.insert(n, next.version);
        } else {
            self.coverage.hit("fence.right");
        }
        self.fencing.kept_off = Some((n, Arc::new(next.clone())));
        self.decree(next);
    }

    /// Whether enough arbiters hear of a document without this host, and without those that are kept off already.
    pub(super) fn can_do_without(&self, n: usize) -> bool {
        let mut off = self.hosts_said_off();
        off.extend(self.fencing.kept_off.iter().map(|(host, _)| *host));
        off.insert(n);
        let is_elsewhere = |slot: u32| !off.contains(&self.home_of(slot));
        let mut committees = self.trust.committees(self.trust.change());
        committees.all(|committee| {
            let slots = committee.members.iter().map(|arbiter| arbiter.slot);
            committee.count(&slots.filter(|slot| is_elsewhere(*slot)).collect()) >= committee.k
        })
    }

    fn home_of(&self, slot: u32) -> usize {
        usize::try_from(slot).unwrap_or(0) % self.hosts.len()
    }

    /// Whether what an operator said is in no document that follows: a fencer spoke at the same time, and was heard.
    pub(super) fn has_unheard_word(&self) -> bool {
        let Some((host, said)) = &self.fencing.kept_off else { return false };
        let key = host_key(*host).public();
        let since = |trust: &Trust| trust.fence_of(&key).map_or(0, |word| word.since);
        since(&self.trust) < since(said)
    }

    /// Whether a host is off until its operators have heard that a quorum obeys.
    pub(super) fn is_kept_off(&mut self) -> bool {
        let Some((host, said)) = self.fencing.kept_off.clone() else { return false };
        let key = host_key(host).public();
        let since = said.fence_of(&key).map_or(0, |fence| fence.since);
        let says_so =
            |trust: &Trust| trust.fence_of(&key).is_some_and(|fence| fence.since >= since);
        let obeys = |slot: &u32| {
            let process = self.arbiters.get(usize::try_from(*slot).unwrap_or(usize::MAX));
            let life = process.and_then(|process| process.life.as_ref());
            life.is_some_and(|life| {
                life.core
                    .borrow()
                    .trust()
                    .is_some_and(|trust| trust.version >= said.version && says_so(trust))
            })
        };
        let slots: BTreeSet<u32> = (0..u32::try_from(self.arbiters.len()).unwrap_or(0)).collect();
        let obey: BTreeSet<u32> = slots.into_iter().filter(obeys).collect();
        let is_quorum = |committee: Committee<'_>| committee.count(&obey) >= committee.k;
        let is_obeyed = said.committees(said.change()).all(is_quorum);
        if is_obeyed {
            self.fencing.kept_off = None;
        }
        !is_obeyed
    }

    /// Whether this host, which is off, may not be turned on yet.
    pub(super) fn may_not_boot(&mut self, n: usize) -> bool {
        let is_meant = self.fencing.kept_off.as_ref().is_some_and(|(host, _)| *host == n);
        if self.kept_off_by_fencers().contains(&n) {
            return true;
        }
        is_meant && self.mutant != Some(Mutant::FencedHostTurnedOnEarly) && self.is_kept_off()
    }

    /// Whether documents are given by hand now; else hosts that were away hear from arbiters alone.
    pub(super) fn is_giving(&mut self) -> bool {
        self.profile.spare_arbiters > 0 || self.is_divided() || self.is_kept_off()
    }

    /// An arbiter gives a host the document that it obeys.
    pub(super) fn bring(&mut self, from: super::message::NodeId, host: usize, version: u64) {
        let is_it = |signed: &&Signed<Trust>| {
            signed.open().is_ok_and(|trust: Trust| trust.version == version)
        };
        let Some(signed) = self.operators.signed.iter().find(is_it).cloned() else { return };
        if self.operators.deaf.contains(&host) {
            return;
        }
        self.coverage.hit("fence.brought");
        let to = self.hosts[host].node;
        let ask = Ask::Agent(host_agent::core::Request::Trust(signed));
        self.spawn(from, move |ctx| Box::pin(async move { drop(ctx.call(to, ask, 3_000).await) }));
    }

    // What is over, and what that excuses.

    /// Whether a row of a host's disk shows what was taken from it, by the newest document there is.
    pub(super) fn is_taken(&self, n: usize, record: &JobRecord) -> bool {
        match self.profile.has_fencers {
            // Of two that speak at once, it is not known here who is heard.
            true => self.documents().iter().any(|trust| self.is_taken_by(trust, n, record)),
            false => self.is_taken_by(&self.trust, n, record),
        }
    }

    /// The same by another document: its offer was made by an older one than says that the host was off.
    pub(super) fn is_taken_by(&self, trust: &Trust, n: usize, record: &JobRecord) -> bool {
        let fence = trust.fenced.iter().find(|fence| fence.host == self.hosts[n].facts.key);
        let Some(fence) = fence else { return false };
        match self.hold_on_disk(n, record) {
            Some(hold) => {
                let fact = self.oracle.offers.get(&(n, hold));
                fact.map_or(0, |fact| fact.trust_version) < fence.since
            }
            None => matches!(record.job.reason, Some(Reason::Fenced { .. })),
        }
    }

    /// The jobs of a host that end when it takes a document.
    pub(super) fn ended_by(&self, n: usize, signed: &Signed<Trust>) -> Vec<JobId> {
        let Ok(trust) = signed.open() else { return vec![] };
        if !trust.says_anew(&self.trust_of_host(n), &self.hosts[n].facts.key) {
            return vec![];
        }
        // What it has taken and not written yet ends as well.
        let taken = self.hosts[n].process.iter().flat_map(|process| process.agent.inventory().jobs);
        let rows = self.hosts[n].disk.ledger.jobs.iter();
        rows.map(|record| record.job.id.clone()).chain(taken.map(|job| job.id)).collect()
    }

    /// A host has no power: whatever was said of it wrongly is so from now on.
    pub(super) fn is_off_after_all(&mut self, n: usize) {
        self.fencing.wrong.remove(&n);
    }

    /// Of hosts that run the same guest, those that operators are not to blame for.
    pub(super) fn not_by_a_wrong_word(&mut self, uuid: Uuid, hosts: Vec<usize>) -> Vec<usize> {
        let is_blamed = |n: &usize| {
            let Some(version) = self.fencing.wrong.get(n) else { return false };
            let theirs = self.trust_of_host(*n).version;
            let rows = &self.hosts[*n].disk.ledger.jobs;
            let row = rows.iter().find(|record| record.job.domain_uuid == Some(uuid));
            let is_dying = row.is_some_and(|record| self.is_taken(*n, record));
            theirs < *version || is_dying
        };
        let (blamed, others): (Vec<usize>, Vec<usize>) = hosts.into_iter().partition(is_blamed);
        if !blamed.is_empty() && !others.is_empty() {
            self.coverage.hit("fence.ran-twice");
        }
        others
    }

    // Mutants.

    /// A document as a host is told that does not end what was taken from it.
    pub(super) fn without_fence(&self, n: usize, signed: Signed<Trust>) -> Signed<Trust> {
        let Ok(mut trust) = signed.open() else { return signed };
        trust.fenced.retain(|fence| fence.host != self.hosts[n].facts.key);
        Signed::seal(&trust, &operator_key())
    }

    /// Hosts that a document says to be off.
    pub(super) fn fenced_hosts(&self, trust: &Arc<Trust>) -> Vec<usize> {
        let is_fenced = |n: &usize| trust.fence_of(&host_key(*n).public()).is_some();
        (0..self.hosts.len()).filter(is_fenced).collect()
    }
}
