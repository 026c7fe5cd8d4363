//! Controllers that say by themselves that a host is off, as `ostler fencing` lets them: two of them and an
//! operator, none of whom asks the others.
//!
//! A fencer says nothing wrong, for devices have told it. What it says, it says upon the document that a quorum of
//! arbiters obeys when it looks; until a quorum has heard, its host stays off and it says it again. Documents that no
//! quorum hears are what this is about: whoever obeys one has to come back.

use std::collections::BTreeSet;
use std::sync::Arc;

use protocol::job::Role;
use protocol::signed::{PublicKey, SecretKey, Signed};
use protocol::trust::{Fence, Peer, Trust};

use super::world::{World, fencer_key, host_key};

/// How many.
const FENCERS: usize = 2;

/// How long a fencer waits for a quorum before it says it again.
const AGAIN_US: u64 = 6_000_000;

/// Of a million chances of an operator to look after documents, so many are taken.
const HEAL_PPM: u32 = 150_000;

/// A fencer.
#[derive(Debug, Default, Clone)]
pub struct Fencer {
    /// The last version that it has signed: the file that it keeps.
    last: u64,
    /// The host that it keeps off, and what it has said, until a quorum has heard.
    said: Option<Said>,
    /// What a quorum has heard of hosts from fencers, as far as it has seen that.
    heard: Vec<Fence>,
}

#[derive(Debug, Clone)]
struct Said {
    host: usize,
    trust: Arc<Trust>,
    signed: Signed<Trust>,
    at_us: u64,
}

impl World {
    /// The document that an operator signs so that there are fencers.
    pub(super) fn with_fencers(&self) -> Option<Trust> {
        if !self.profile.has_fencers || !self.trust.fencing.is_nobodys() {
            return None;
        }
        let keys: Vec<PublicKey> = (0..FENCERS).map(|n| fencer_key(n).public()).collect();
        let mut with = Trust::clone(&self.trust);
        let peer = |key: &PublicKey| Peer { key: *key, role: Role::Controller, url: String::new() };
        with.peers.extend(keys.iter().map(peer));
        let next = with.next_with_fencers(&keys).ok()?;
        Some(self.above_all(next))
    }

    /// What no quorum has heard is said again, upon what a quorum obeys by now. Where arbiters obey different
    /// documents, it is said upon the newest that an operator has signed.
    pub(super) fn fencers_go_on(&mut self) {
        self.forget_heard();
        for f in 0..self.fencing.fencers.len() {
            let Some(said) = &self.fencing.fencers[f].said else { continue };
            if self.now_us < said.at_us + AGAIN_US {
                continue;
            }
            let (host, upon) = (said.host, said.trust.operators_version());
            let obeyed = self.obeyed();
            let is_divided = obeyed.is_none();
            if let Some((obeyed, _)) = &obeyed {
                obeyed.note_heard(&mut self.fencing.fencers[f].heard);
            }
            let newer = || self.newest_by_operators().filter(|(base, _)| base.version > upon);
            if let Some((base, signed)) = obeyed.or_else(newer) {
                self.coverage.hit("fence.said-again");
                if is_divided {
                    self.coverage.hit("fence.said-to-the-divided");
                }
                self.says(f, host, &base, &signed);
            }
        }
    }

    /// The newest document that an operator has signed, of those that hosts obey, or that these are upon.
    fn newest_by_operators(&self) -> Option<(Trust, Signed<Trust>)> {
        let is_up = |n: &usize| self.nodes[self.hosts[*n].node.0].is_up;
        let up = (0..self.hosts.len()).filter(is_up);
        let newest = up.map(|n| self.trust_of_host(n).operators_version()).max()?;
        self.operators.signed.iter().find_map(|signed| {
            let trust: Trust = signed.open().ok()?;
            (trust.version == newest).then(|| (trust, signed.clone()))
        })
    }

    /// A fencer says that a host is off. False: it has nothing to say.
    pub(super) fn fencer_says(&mut self) -> bool {
        let f = self.chance.index(FENCERS);
        self.fencing.fencers.resize(FENCERS, Fencer::default());
        self.forget_heard();
        let kept = self.hosts_said_off();
        if self.fencing.fencers[f].said.is_some() {
            return false;
        }
        let is_off = |n: &usize| !self.nodes[self.hosts[*n].node.0].has_power;
        let fits = |n: &usize| is_off(n) && !kept.contains(n) && self.can_do_without(*n);
        let off: Vec<usize> = (0..self.hosts.len()).filter(fits).collect();
        // Else it may be the fencer that is cut off.
        let heard = (0..self.hosts.len()).filter(|n| !is_off(n)).count();
        if heard * 2 <= self.hosts.len() {
            return false;
        }
        let host = self.chance.pick(&off).copied();
        let (Some(host), Some((base, signed))) = (host, self.obeyed()) else { return false };
        base.note_heard(&mut self.fencing.fencers[f].heard);
        self.says(f, host, &base, &signed);
        true
    }

    fn says(&mut self, f: usize, host: usize, base: &Trust, signed: &Signed<Trust>) {
        let key: SecretKey = fencer_key(f);
        let Fencer { last, heard, .. } = &self.fencing.fencers[f];
        let Some(mut next) = base.next_by_fencer(signed, &key.public(), *last) else {
            return self.coverage.hit("skipped.fencer");
        };
        let (of, since) = (host_key(host).public(), next.version);
        let by = key.public();
        let before = next.fenced.len();
        next.repeat(heard);
        if next.fenced.len() > before {
            self.coverage.hit("fence.repeated");
        }
        next.fenced.retain(|other| other.host != of);
        let reason = String::new();
        next.fenced.push(Fence { host: of, since, by, by_fencer: true, at_ms: 0, reason });
        self.note(|| format!("         fencer {f} says by version {since} that h{host} is off"));
        self.coverage.hit("fence.by-fencer");
        let signed = Signed::seal(&next, &key);
        self.operators.signed.push(signed.clone());
        let trust = Arc::new(next);
        self.trust_signed = signed.clone();
        self.trust = Arc::clone(&trust);
        let at_us = self.now_us;
        let said = Some(Said { host, trust, signed, at_us });
        let fencer = &mut self.fencing.fencers[f];
        (fencer.last, fencer.said) = (since, said);
    }

    /// Which hosts fencers keep off still: no quorum has heard.
    pub(super) fn kept_off_by_fencers(&mut self) -> BTreeSet<usize> {
        self.forget_heard();
        self.hosts_said_off()
    }

    /// The same, as of the last look.
    pub(super) fn hosts_said_off(&self) -> BTreeSet<usize> {
        self.fencing.fencers.iter().flatten_said().map(|said| said.host).collect()
    }

    fn forget_heard(&mut self) {
        let heard: Vec<bool> = self
            .fencing
            .fencers
            .iter()
            .map(|fencer| fencer.said.as_ref().is_some_and(|said| self.have_heard(said)))
            .collect();
        for (fencer, _) in self.fencing.fencers.iter_mut().zip(heard).filter(|(_, heard)| *heard) {
            let Some(said) = fencer.said.take() else { continue };
            let host = host_key(said.host).public();
            fencer.heard.retain(|word| word.host != host);
            fencer.heard.extend(said.trust.fence_of(&host).cloned());
        }
    }

    /// Whether a quorum of arbiters obeys what was said, or what was signed upon it; or one document that says as much.
    /// Some who obey this word, and some who obey an operator's of the same host, are divided still.
    fn have_heard(&self, said: &Said) -> bool {
        let key = host_key(said.host).public();
        let word = said.trust.fence_of(&key);
        let heard = self.arbiters_that(|trust| trust.fence_of(&key) == word);
        let since = |trust: &Trust| trust.fence_of(&key).map_or(0, |word| word.since);
        let says_as_much = |obeyed: (Trust, _)| since(&obeyed.0) >= since(&said.trust);
        said.trust.committee().count(&heard) >= said.trust.k
            || self.obeyed().is_some_and(says_as_much)
    }

    /// The arbiters that are there and obey such a document.
    fn arbiters_that(&self, is_such: impl Fn(&Trust) -> bool) -> BTreeSet<u32> {
        let all = self.arbiters.iter().enumerate();
        let such = all.filter(|(_, process)| {
            let life = process.life.as_ref();
            life.is_some_and(|life| life.core.borrow().trust().is_some_and(|t| is_such(t)))
        });
        such.filter_map(|(n, _)| u32::try_from(n).ok()).collect()
    }

    /// The document that a quorum of arbiters obeys now.
    pub(super) fn obeyed(&self) -> Option<(Trust, Signed<Trust>)> {
        self.operators.signed.iter().rev().find_map(|signed| {
            let trust: Trust = signed.open().ok()?;
            let obey = self.arbiters_that(|theirs| theirs.version == trust.version);
            let is_obeyed = trust.committee().count(&obey) >= trust.k;
            is_obeyed.then(|| (trust, signed.clone()))
        })
    }

    /// What `ostler` signs a document upon.
    pub(super) fn base(&self) -> Trust {
        let newest = || Trust::clone(&self.trust);
        if !self.profile.has_fencers || self.trust.fencing.is_nobodys() {
            return newest();
        }
        // Its own last one is in its context.
        let own = self.operators.signed.iter().rev().filter_map(|signed| signed.open().ok());
        let own = own.into_iter().find(|trust: &Trust| trust.upon.is_none());
        let seen: Vec<Trust> =
            self.documents().iter().map(|trust| Trust::clone(trust)).chain(own).collect();
        let obeyed = self.obeyed().map(|(trust, _)| trust);
        Trust::brought_together(&seen, obeyed.as_ref()).unwrap_or_else(newest)
    }

    /// Whether hosts obey different documents, where that may be.
    pub(super) fn is_divided(&self) -> bool {
        let is_up = |n: &usize| self.nodes[self.hosts[*n].node.0].is_up;
        let is_other = |n: usize| self.trust_of_host(n).version != self.trust.version;
        self.profile.has_fencers && (0..self.hosts.len()).filter(is_up).any(is_other)
    }

    /// An operator sees hosts that obey different documents, and signs one that all can follow.
    pub(super) fn bring_together(&mut self) {
        if !self.profile.has_fencers || self.trust.fencing.is_nobodys() {
            return;
        }
        let has_more_to_say = self.has_unheard_word();
        if !(self.is_divided() || has_more_to_say) || !self.chance.happens(HEAL_PPM) {
            return;
        }
        self.coverage.hit("fence.healed");
        let next = self.above_all(self.base().next());
        self.decree(next);
    }

    /// What fencers give to hosts, beside what operators do.
    pub(super) fn give_said(&mut self) {
        let said: Vec<Said> = self.fencing.fencers.iter().flatten_said().cloned().collect();
        for said in said {
            for n in 0..self.hosts.len() {
                self.give(n, said.signed.clone());
            }
        }
    }

    /// Every document that some host obeys, and the newest.
    pub(super) fn documents(&self) -> Vec<Arc<Trust>> {
        let theirs = (0..self.hosts.len()).map(|n| self.trust_of_host(n));
        theirs.chain([Arc::clone(&self.trust)]).collect()
    }
}

/// Those who have said something that is not heard yet.
trait FlattenSaid<'a> {
    fn flatten_said(self) -> impl Iterator<Item = &'a Said>;
}

impl<'a, I: Iterator<Item = &'a Fencer>> FlattenSaid<'a> for I {
    fn flatten_said(self) -> impl Iterator<Item = &'a Said> {
        self.filter_map(|fencer| fencer.said.as_ref())
    }
}
