//! Operators who change the arbiters while everything goes on and goes wrong: the documents are those of
//! `ostler arbiters`, given to hosts over the network, late, twice, or not at all.
//!
//! They sit at the machine of the first engine. One knows the newest document. A rival, where there is
//! one, signs whatever may follow some older one, and gives it to whom it likes.

use std::collections::BTreeSet;
use std::sync::Arc;

use bootstrap::committee::{
    Change, are_witnesses_lost, begun, begun_with_witnesses, check_lost, completed, gone_on,
    recovered, taken_back,
};
use host_agent::core::Request;
use protocol::signed::{Digest, Signed};
use protocol::trust::{MEMBERS_MAX, Ready, Slot, Trust, Witnesses};

use super::message::{Ask, Told};
use super::tasks::Command;
use super::world::{Event, World, arbiter_key, operator_key};

/// How often they look after things.
const EVERY_MS: u64 = 700;
/// Of a million looks, so many take a change back.
const TAKE_BACK_PPM: u32 = 12_000;
/// Of a million looks, so many give some host an old document.
const OLD_PPM: u32 = 100_000;
/// Of a million changes, so many are of the witnesses, where those change.
const WITNESSES_PPM: u32 = 500_000;
/// Of a million looks, so many have a rival sign something.
const RIVAL_PPM: u32 = 150_000;

/// What operators have signed and been told.
#[derive(Debug)]
pub struct Operators {
    /// Every document ever signed, the newest last.
    pub signed: Vec<Signed<Trust>>,
    /// What arbiters have said of being ready.
    pub words: Vec<Signed<Ready>>,
    /// Hosts on whose way every document is lost, whoever brings it.
    pub deaf: BTreeSet<usize>,
    /// When the next change begins.
    next_us: u64,
}

impl Operators {
    pub(super) fn of(first: &Signed<Trust>) -> Self {
        Self { signed: vec![first.clone()], words: Vec::new(), deaf: BTreeSet::new(), next_us: 0 }
    }
}

impl World {
    /// A host's document, as it is on its disk.
    #[must_use]
    pub fn trust_of_host(&self, n: usize) -> Arc<Trust> {
        let signed = self.hosts[n].disk.ledger.trust.as_ref();
        match signed.filter(|signed| **signed != self.trust_signed).map(Signed::open) {
            Some(Ok(trust)) => Arc::new(trust),
            Some(Err(_)) | None => Arc::clone(&self.trust),
        }
    }

    /// Signs a document, which is the newest from now on.
    pub fn decree(&mut self, trust: Trust) {
        let signed = Signed::seal(&trust, &operator_key());
        self.note(|| format!("         version {}: {:?}", trust.version, slots_of(&trust)));
        self.operators.signed.push(signed.clone());
        self.trust_signed = signed;
        self.trust = Arc::new(trust);
    }

    /// What the operators do now, and again a little later.
    pub(super) fn govern(&mut self) {
        let next_us = self.chance.between(EVERY_MS * 500, EVERY_MS * 1_500);
        self.after(next_us, Event::Govern);
        if self.profile.change_every_ms > 0 {
            self.choose();
        }
        self.bring_together();
        if self.is_giving() {
            self.give_to_all();
        }
        self.fencers_go_on();
        self.give_said();
        self.ask_words();
        if self.is_noisy && self.chance.happens(OLD_PPM) {
            let n = self.chance.index(self.operators.signed.len());
            let host = self.chance.index(self.hosts.len());
            let old = self.operators.signed[n].clone();
            self.coverage.hit("operator.old-document");
            self.give(host, old);
        }
        if self.is_noisy && self.profile.has_rival && self.chance.happens(RIVAL_PPM) {
            self.rival();
        }
    }

    /// Begins, completes or takes back a change, goes on with one that a host is bound to, or does without
    /// those who are down when they are too many.
    fn choose(&mut self) {
        let trust = Arc::clone(&self.trust);
        // What every command of `ostler arbiters` looks for first: that host follows nothing else.
        if let Some(bound) = self.bound_to(&trust) {
            self.coverage.hit("operator.gone-on");
            return self.decree(self.above_all(bound));
        }
        if let Some(next) = self.recovery(&trust) {
            self.coverage.hit("operator.recovered");
            return self.decree(self.above_all(next));
        }
        if trust.succession.next.is_some() {
            if let Ok(next) = completed(&trust, &self.operators.words.clone()) {
                self.coverage.hit("operator.completed");
                return self.decree(self.above_all(next));
            }
            if self.is_noisy && self.chance.happens(TAKE_BACK_PPM) {
                self.coverage.hit("operator.taken-back");
                if let Some(next) = taken_back(&trust) {
                    self.decree(self.above_all(next));
                }
            }
            return;
        }
        if !self.is_noisy || self.now_us < self.operators.next_us {
            return;
        }
        if !self.is_obeyed(&trust) {
            self.coverage.hit("operator.waits-for-hosts");
            return;
        }
        let every_ms = self.profile.change_every_ms;
        self.operators.next_us =
            self.now_us + self.chance.between(every_ms * 300, every_ms * 1_700);
        if self.profile.spare_witnesses > 0 && self.chance.happens(WITNESSES_PPM) {
            if let Some(next) = self.some_witnesses(&trust) {
                self.coverage.hit("operator.witnesses");
                self.decree(next);
            }
            return;
        }
        if let Some(change) = self.some_change(&trust)
            && let Ok(next) = begun(&trust, &change)
            && is_fit(&next)
        {
            self.coverage.hit("operator.begun");
            self.decree(next);
        }
    }

    /// Whether every host obeys the newest document. `ostler arbiters` begins no change before: a host that is
    /// silent may have agreed, or may agree yet, to the change that was taken back last, and two changes that
    /// hosts are bound to can never be completed.
    fn is_obeyed(&self, trust: &Trust) -> bool {
        (0..self.hosts.len()).all(|n| self.trust_of_host(n).version == trust.version)
    }

    /// What an operator signs who takes those that are down now for lost: others come in their place, or
    /// the change under way is completed without them.
    fn recovery(&self, trust: &Trust) -> Option<Trust> {
        let next = trust.succession.next.as_ref();
        if !self.is_noisy || next.is_some_and(|next| next.recovers) {
            return None;
        }
        if next.is_none() && !self.is_obeyed(trust) {
            return None;
        }
        let up = self.up();
        check_lost(trust, &up).ok()?;
        let (left, leaves): (Vec<u32>, Vec<u32>) =
            trust.arbiters.iter().map(|arbiter| arbiter.slot).partition(|slot| up.contains(slot));
        let ever = u32::try_from(self.profile.arbiters_ever()).unwrap_or(0);
        let is_other = |slot: &&u32| **slot < ever && !trust.committee().has(**slot);
        let joins: Vec<u32> = up.iter().filter(is_other).take(leaves.len()).copied().collect();
        if left.len() + joins.len() == 0 {
            return None;
        }
        let change = change(&leaves, &joins);
        let change = next.is_none().then_some(&change);
        let is_new = change.is_some();
        let mut next = recovered(trust, change, &BTreeSet::new()).ok()?;
        if is_new
            && are_witnesses_lost(trust, &up)
            && let Some(council) = &mut next.succession.next
        {
            council.witnesses = Witnesses::default();
        }
        is_fit(&next).then_some(next)
    }

    /// The slots of all whose process is there.
    fn up(&self) -> BTreeSet<u32> {
        let is_up = |slot: u32| {
            let process = self.arbiters.get(usize::try_from(slot).ok()?)?;
            process.life.as_ref().map(|_| slot)
        };
        (0..MEMBERS_MAX).filter_map(is_up).collect()
    }

    /// A version above every one that was ever signed.
    #[must_use]
    pub fn above_all(&self, trust: Trust) -> Trust {
        let versions = self.operators.signed.iter().filter_map(|signed| signed.open().ok());
        let most = versions.map(|trust| trust.version).max().unwrap_or(0);
        match trust.version > most {
            true => trust,
            false => {
                Trust { version: Trust { version: most, ..trust.clone() }.next().version, ..trust }
            }
        }
    }

    /// The document that goes on with a change to which a host is bound, though it was taken back, or put aside
    /// for another. `None` also where hosts are bound to both: one of them would have to be retired.
    #[must_use]
    pub fn bound_to(&self, trust: &Trust) -> Option<Trust> {
        let all = self.hosts.iter().enumerate();
        let all = all.map(|(n, host)| (host.disk.ledger.agreed, self.trust_of_host(n)));
        let is_bound = |agreed: &Option<Digest>, theirs: &Trust| {
            agreed.is_some() && *agreed == theirs.change()
        };
        let bound: Vec<Arc<Trust>> = all
            .filter(|(agreed, theirs)| is_bound(agreed, theirs))
            .map(|(_, theirs)| theirs)
            .collect();
        if bound.iter().any(|theirs| theirs.change() == trust.change()) {
            return None;
        }
        bound.iter().find_map(|theirs| gone_on(trust, theirs))
    }

    /// One more, one less, one in the place of another, or all of them.
    pub fn some_change(&mut self, trust: &Trust) -> Option<Change> {
        let has = |slot: u32| trust.committee().has(slot);
        let count = u32::try_from(self.profile.arbiters_ever()).unwrap_or(0);
        let (present, absent): (Vec<u32>, Vec<u32>) = (0..count).partition(|slot| has(*slot));
        let one = *self.chance.pick(&present)?;
        let other = self.chance.pick(&absent).copied();
        let (leaves, joins) = match (self.chance.below(6), other) {
            (0, Some(other)) if present.len() < 5 => (vec![], vec![other]),
            (1, _) if present.len() > 1 => (vec![one], vec![]),
            (2, _) => {
                let joins = absent.into_iter().take(present.len()).collect();
                (present, joins)
            }
            (_, Some(other)) => (vec![one], vec![other]),
            (_, None) => return None,
        };
        Some(change(&leaves, &joins))
    }

    /// Other witnesses, more of them, fewer or none.
    fn some_witnesses(&mut self, trust: &Trust) -> Option<Trust> {
        let mut ever: Vec<usize> = self.profile.witnesses_ever().collect();
        let n = *self.chance.pick(&[0, 1, 3, 3])?;
        while ever.len() > n {
            let out = self.chance.index(ever.len());
            ever.remove(out);
        }
        let up = self.up();
        let next = begun_with_witnesses(trust, members(&ever), are_witnesses_lost(trust, &up));
        is_fit(&next).then_some(next)
    }

    // Over the network.

    /// Every host that does not obey the newest document is given it.
    pub fn give_to_all(&mut self) {
        for n in 0..self.hosts.len() {
            if self.hosts[n].disk.ledger.trust.as_ref() != Some(&self.trust_signed) {
                let signed = self.trust_signed.clone();
                self.give(n, signed);
            }
        }
    }

    /// A host is given a document.
    pub fn give(&mut self, host: usize, signed: Signed<Trust>) {
        let (node, to) = (self.engines[0].node, self.hosts[host].node);
        if !self.nodes[node.0].is_up || self.operators.deaf.contains(&host) {
            return;
        }
        let ask = Ask::Agent(Request::Trust(signed));
        self.spawn(node, move |ctx| Box::pin(async move { drop(ctx.call(to, ask, 3_000).await) }));
    }

    /// Those who are to take over are asked whether they are ready.
    pub fn ask_words(&mut self) {
        let node = self.engines[0].node;
        let next: Vec<u32> = self
            .trust
            .succession
            .next
            .iter()
            .flat_map(|next| next.arbiters.iter().map(|arbiter| arbiter.slot))
            .collect();
        for slot in next {
            let Some(to) = self.arbiter_nodes.get(&slot).copied() else { continue };
            if !self.nodes[node.0].is_up {
                return;
            }
            self.spawn(node, move |ctx| {
                Box::pin(async move {
                    let told = ctx.call(to, Ask::Handover, 3_000).await;
                    if let Ok(Told::Handover(Some(word))) = told {
                        ctx.say(Command::Word(Box::new(word)));
                    }
                })
            });
        }
    }

    // The rival.

    /// Signs something that may follow a document that is known to it, and gives it to some.
    fn rival(&mut self) {
        let n = self.chance.index(self.operators.signed.len());
        let Ok(base) = self.operators.signed[n].open() else { return };
        let next = match self.chance.below(3) {
            0 => taken_back(&base),
            1 => completed(&base, &self.operators.words).ok(),
            _ => {
                let change = self.some_change(&base);
                let next = change.and_then(|change| begun(&base, &change).ok());
                next.filter(|next| next.validate().is_ok())
            }
        };
        let Some(mut next) = next else { return };
        if self.chance.happens(500_000) {
            next = self.above_all(next);
        }
        self.coverage.hit("operator.rival");
        let signed = Signed::seal(&next, &operator_key());
        self.operators.signed.push(signed.clone());
        for host in 0..self.hosts.len() {
            if self.chance.happens(500_000) {
                self.give(host, signed.clone());
            }
        }
    }
}

/// Whether a document is a lawful one by which those who don't lie are enough.
fn is_fit(trust: &Trust) -> bool {
    let mut committees = [Some(trust.committee()), trust.next_committee()].into_iter().flatten();
    let of_witnesses = |witnesses: &Witnesses| {
        let n = u32::try_from(witnesses.members.len()).unwrap_or(u32::MAX);
        n == 0 || n - trust.f >= witnesses.k
    };
    let mut witnesses = std::iter::once(&trust.witnesses)
        .chain(trust.succession.next.as_ref().map(|next| &next.witnesses));
    let is_enough = committees.all(|committee| committee.n() - trust.f >= committee.k);
    trust.validate().is_ok() && is_enough && witnesses.all(of_witnesses)
}

/// A change of arbiters by their numbers.
#[must_use]
pub fn change(leaves: &[u32], joins: &[u32]) -> Change {
    let joins: Vec<usize> = joins.iter().map(|slot| usize::try_from(*slot).unwrap_or(0)).collect();
    Change { leaves: leaves.iter().copied().collect(), joins: members(&joins) }
}

/// Arbiters or witnesses by their numbers.
#[must_use]
pub fn members(numbers: &[usize]) -> Vec<Slot> {
    let slot = |n: &usize| {
        let (slot, key) = (u32::try_from(*n).unwrap_or(0), arbiter_key(*n).public());
        Slot { slot, key, url: String::new() }
    };
    numbers.iter().map(slot).collect()
}

fn slots_of(trust: &Trust) -> (Vec<u32>, Option<Vec<u32>>) {
    let slots = |members: &[Slot]| members.iter().map(|member| member.slot).collect::<Vec<u32>>();
    let both = |arbiters: &[Slot], witnesses: &Witnesses| {
        let mut all: Vec<u32> = slots(arbiters);
        all.extend(slots(&witnesses.members));
        all
    };
    let next = trust.succession.next.as_ref().map(|next| both(&next.arbiters, &next.witnesses));
    (both(&trust.arbiters, &trust.witnesses), next)
}
