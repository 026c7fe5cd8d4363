//! What a keeper decides: rules R10 to R13 of the tenure protocol, without clocks, sockets or cgroups.
//!
//! It states what the agent has drafted, counts the terms that answer, and lets each guest run only
//! while a quorum covers its hold.
//!
//! ```text
//!   drafted ──▶ shut ──covered──▶ open ──deadline − K, or no longer drafted──▶ sealing ──empty──▶ lost
//!                 └── not covered in time ─────────────────────────────────────────▲            │
//!                                                       the agent drafts it no more: forgotten ◀─┘
//! ```
//!
//! Decisions that the protocol leaves open:
//! * **What is no longer drafted is sealed before it is no longer stated.** Agents omit a hold only when
//!   its guest is gone, so this ends nothing; it makes R13 true whatever an agent does.
//! * **A lost hold is stated until the agent has closed it.** Only the ledger outlives this machine's
//!   memory.
//! * **Arbiters and witnesses** are two committees, either of which lets a hold go on alone (R11). Who covers
//!   it is counted by slot, and no slot is in both.
//! * **Between two councils** (protocol §10) a hold runs by the arbiters in force until the next ones
//!   cover it as well, and from then on only by both; so does all that the agent says it has agreed to.
//!   By a document older than one that it has obeyed a keeper lets nothing run, and by one older than
//!   its agent's it lets nothing begin.
//! * **A keeper states only while something needs cover,** and once more after that. Everything else
//!   arbiters read from agents.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use protocol::id::{HostId, JobId, OfferId};
use protocol::signed::Digest;
use protocol::tenure::{ITEMS_MAX, Statement, Term};
use protocol::trust::{Committee, Council, Slot, Trust};
use protocol::vm::OnLoss;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::core::{Draft, Drafted, Joint};

/// How often a statement is renewed (protocol §12), less its jitter.
const RENEW_MS: u64 = 1_350;
/// The jitter on top of it.
const JITTER_MS: u64 = 300;
/// Statements whose answers are awaited. One a renewal and one a change; an older one's term would
/// hardly cover anything still.
const SENT_MAX: usize = 256;

/// What happens to a keeper.
#[derive(Debug, Clone)]
pub enum Input {
    /// The agent says what may be stated from now on.
    Draft(Draft),
    /// The trust document is there or has changed.
    Trust(Arc<Trust>),
    /// The answer of an arbiter or a witness, proven to be that slot's.
    Term(Term),
    /// A sealed gate has been seen with nobody behind it.
    Empty(Uuid),
    /// Time has passed.
    Tick,
}

/// What the shell has to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Sign it and send it to each arbiter and witness.
    State(Statement),
    /// Let what is behind the gate run; make the gate if there is none.
    Open(Uuid),
    /// Freeze and kill what is behind the gate; answer with [`Input::Empty`] once nobody is.
    Seal(Uuid),
    /// Remove the gate: nobody is behind it.
    Remove(Uuid),
}

/// Whether a guest may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Not yet.
    Shut,
    /// It may.
    Open,
    /// Not any more, and its end has not been seen.
    Sealing,
    /// Never again, and nothing of it is left.
    Lost,
}

/// A hold that needs cover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    drafted: Drafted,
    /// Until when each slot covers it, on this machine's clock.
    covers: BTreeMap<u32, u64>,
    gate: Gate,
    /// True when the agent drafts it no more.
    is_omitted: bool,
    /// The change of arbiters during which it needs the cover of both committees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    joint: Option<Digest>,
}

/// What a keeper is told of one hold by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The hold.
    pub hold: OfferId,
    /// The job.
    pub job: JobId,
    /// Its domain.
    pub uuid: Uuid,
    /// Whether its guest may run.
    pub gate: Gate,
    /// Until when, on this machine's clock; 0: no quorum covers it.
    pub until_ms: u64,
    /// The change of arbiters during which it needs the cover of both committees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joint: Option<Digest>,
    /// The trust document that the keeper obeys.
    #[serde(default)]
    pub trust_version: u64,
}

/// Everything a keeper knows of its holds, for the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table(pub Vec<Kept>);

impl Table {
    /// The row of one hold.
    #[must_use]
    pub fn of(&self, hold: OfferId) -> Option<&Kept> {
        self.0.iter().find(|kept| kept.hold == hold)
    }

    /// Whether anything may run by it, or has not been seen dead.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.0.iter().any(|kept| kept.gate != Gate::Lost)
    }

    /// The holds that run only by the cover of both committees of a change.
    #[must_use]
    pub fn joint(&self) -> Joint {
        let change = self.0.iter().find_map(|kept| kept.joint);
        let of_it = self.0.iter().filter(|kept| kept.joint.is_some() && kept.joint == change);
        let version = self.0.iter().map(|kept| kept.trust_version).min().unwrap_or(0);
        Joint { version, change, holds: of_it.map(|kept| kept.hold).collect() }
    }
}

/// What a keeper's next life in the same boot of the machine needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    #[serde(default)]
    trust_version: u64,
    seq: u64,
    draft: Option<Draft>,
    holds: Vec<(OfferId, Held)>,
}

/// A statement that was sent.
#[derive(Debug, Clone)]
struct Sent {
    seq: u64,
    at_ms: u64,
    /// The holds in it that need cover.
    listed: BTreeSet<OfferId>,
}

/// The keeper.
#[derive(Debug, Clone)]
pub struct Keeper {
    host: HostId,
    trust: Option<Arc<Trust>>,
    /// The latest version that this keeper or an earlier life has obeyed.
    trust_version: u64,
    draft: Option<Draft>,
    holds: BTreeMap<OfferId, Held>,
    seq: u64,
    sent: VecDeque<Sent>,
    /// The latest statement each slot has answered.
    answered: BTreeMap<u32, u64>,
    due_ms: u64,
    /// True while the last statement had something to cover.
    has_more: bool,
}

impl Keeper {
    /// A keeper that has just started, with what an earlier life in this boot of the machine has left.
    #[must_use]
    pub fn new(host: HostId, now_ms: u64, saved: Saved) -> Self {
        Self {
            host,
            trust: None,
            trust_version: saved.trust_version,
            draft: saved.draft,
            has_more: !saved.holds.is_empty(),
            holds: saved.holds.into_iter().collect(),
            // No number is used twice in one boot, even if what was saved is gone.
            seq: saved.seq.max(now_ms),
            sent: VecDeque::new(),
            answered: BTreeMap::new(),
            due_ms: now_ms,
        }
    }

    /// What a next life needs.
    #[must_use]
    pub fn saved(&self) -> Saved {
        let holds = self.holds.iter().map(|(id, held)| (*id, held.clone()));
        Saved {
            trust_version: self.trust_version,
            seq: self.seq,
            draft: self.draft.clone(),
            holds: holds.collect(),
        }
    }

    /// Every hold and its gate.
    #[must_use]
    pub fn table(&self) -> Table {
        let row = |(id, held): (&OfferId, &Held)| {
            let (job, uuid) = (held.drafted.item.job.clone(), held.drafted.uuid);
            let until_ms = self.closes_ms(held);
            let (gate, joint, trust_version) = (held.gate, held.joint, self.trust_version);
            Kept { hold: *id, job, uuid, gate, until_ms, joint, trust_version }
        };
        Table(self.holds.iter().filter(|(_, held)| !held.is_omitted).map(row).collect())
    }

    /// Whether it knows how long anything is covered; before that its table says nothing of it.
    #[must_use]
    pub fn has_trust(&self) -> bool {
        self.trust.is_some()
    }

    /// The number of the last statement.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.seq
    }

    /// When something is to be done that no input brings.
    #[must_use]
    pub fn due_ms(&self) -> u64 {
        let open = self.holds.values().filter(|held| held.gate == Gate::Open);
        let closes = open.map(|held| self.closes_ms(held)).min().unwrap_or(u64::MAX);
        let states = if self.has_something() { self.due_ms } else { u64::MAX };
        closes.min(states)
    }

    /// Takes one input; what has to be done is added to `out`, in order.
    pub fn handle(&mut self, now_ms: u64, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Draft(draft) => self.adopt(now_ms, draft, out),
            // Told by a file that may come back with a disk: what is older counts for nothing.
            Input::Trust(trust) if self.trust.is_some() && trust.version < self.trust_version => {}
            Input::Trust(trust) => {
                let is_first = self.trust.is_none();
                if let Some(known) = &self.trust {
                    let gone = departed(known, &trust);
                    self.answered.retain(|slot, _| !gone.contains(slot));
                    for held in self.holds.values_mut() {
                        held.covers.retain(|slot, _| !gone.contains(slot));
                    }
                }
                self.trust_version = self.trust_version.max(trust.version);
                self.trust = Some(trust);
                if let Some(draft) = self.draft.clone().filter(|_| is_first) {
                    self.adopt(now_ms, draft, out);
                    out.extend(self.holds.values().filter_map(|held| self.do_again(now_ms, held)));
                }
            }
            Input::Term(term) => self.count(term),
            Input::Empty(uuid) => self.emptied(uuid, out),
            Input::Tick => {}
        }
        self.join(now_ms);
        self.watch(now_ms, out);
        self.state(now_ms, out);
    }

    /// An earlier life may have ended between deciding and doing. What is over meanwhile may be sealed already,
    /// by the agent, and is not opened again.
    fn do_again(&self, now_ms: u64, held: &Held) -> Option<Effect> {
        let uuid = held.drafted.uuid;
        match held.gate {
            Gate::Open => (now_ms < self.closes_ms(held)).then_some(Effect::Open(uuid)),
            Gate::Sealing => Some(Effect::Seal(uuid)),
            Gate::Shut | Gate::Lost => None,
        }
    }

    /// Takes a draft as what may be stated; an agent's older life has nothing more to say.
    fn adopt(&mut self, now_ms: u64, draft: Draft, out: &mut Vec<Effect>) {
        if self.draft.as_ref().is_some_and(|known| known.epoch > draft.epoch) {
            return;
        }
        let Some(term_ms) = self.trust.as_ref().map(|trust| trust.term_ms) else {
            self.draft = Some(draft);
            return;
        };
        let needs_cover =
            |drafted: &&Drafted| drafted.item.is_hold() && drafted.item.on_loss == OnLoss::Stop;
        let drafted: BTreeMap<OfferId, &Drafted> =
            draft.items.iter().filter(needs_cover).map(|d| (d.item.id, d)).collect();
        self.follow(&drafted, term_ms);
        for (id, held) in &mut self.holds {
            held.is_omitted = !drafted.contains_key(id);
            if held.is_omitted && held.gate == Gate::Open {
                held.gate = Gate::Sealing;
                out.push(Effect::Seal(held.drafted.uuid));
            }
        }
        for (id, drafted) in drafted {
            match self.holds.get_mut(&id) {
                Some(held) => held.drafted = drafted.clone(),
                None => {
                    let covers = first_cover(drafted, term_ms).collect();
                    let (drafted, gate) = (drafted.clone(), Gate::Shut);
                    let held = Held { drafted, covers, gate, is_omitted: false, joint: None };
                    self.holds.insert(id, held);
                }
            }
        }
        self.forget(out);
        if self.draft.as_ref() != Some(&draft) {
            self.draft = Some(draft);
            self.due_ms = now_ms;
        }
    }

    /// A hold that has replaced another while the guest ran has that one's gate and its cover:
    /// arbiters cover a job on a host, under whatever number the host has it.
    fn follow(&mut self, drafted: &BTreeMap<OfferId, &Drafted>, term_ms: u64) {
        for (id, drafted) in drafted {
            let is_new = !self.holds.contains_key(id);
            let Some(since) = drafted.since.filter(|since| is_new && since < id) else { continue };
            let is_same = |held: &Held| {
                held.drafted.uuid == drafted.uuid && held.drafted.item.job == drafted.item.job
            };
            let before = self.holds.range(since..*id).rfind(|(_, held)| is_same(held));
            let Some(mut held) =
                before.map(|(id, _)| *id).and_then(|before| self.holds.remove(&before))
            else {
                continue;
            };
            for (slot, until_ms) in first_cover(drafted, term_ms) {
                let cover = held.covers.entry(slot).or_default();
                *cover = (*cover).max(until_ms);
            }
            self.holds.insert(*id, held);
        }
    }

    /// Drops what is drafted no more and surely does not run.
    fn forget(&mut self, out: &mut Vec<Effect>) {
        let is_over = |held: &Held| held.is_omitted && matches!(held.gate, Gate::Shut | Gate::Lost);
        let over: Vec<(OfferId, Uuid)> = self
            .holds
            .iter()
            .filter(|(_, held)| is_over(held))
            .map(|(id, held)| (*id, held.drafted.uuid))
            .collect();
        for (id, uuid) in over {
            self.holds.remove(&id);
            if self.holds.values().all(|held| held.drafted.uuid != uuid) {
                out.push(Effect::Remove(uuid));
            }
        }
    }

    /// R10: a term lasts from when the statement that it answers was sent.
    fn count(&mut self, term: Term) {
        let Some(trust) = &self.trust else { return };
        let is_ours = term.host == self.host && !term.is_silent;
        let is_newer = self.answered.get(&term.slot).is_none_or(|last| *last < term.seq);
        let sent = self.sent.iter().find(|sent| sent.seq == term.seq);
        let Some(sent) = sent.filter(|_| is_ours && is_newer) else { return };
        let until_ms = sent.at_ms + trust.term_ms;
        for id in &sent.listed {
            let Some(held) = self.holds.get_mut(id) else { continue };
            // R12: what is over does not come back, and until when it has to be dead stays as it was.
            if matches!(held.gate, Gate::Sealing | Gate::Lost) {
                continue;
            }
            let cover = held.covers.entry(term.slot).or_default();
            *cover = if term.covered.contains(id) { (*cover).max(until_ms) } else { 0 };
        }
        self.answered.insert(term.slot, term.seq);
    }

    /// What the next arbiters cover as well needs both from now on.
    fn join(&mut self, now_ms: u64) {
        let Some(trust) = self.trust.clone() else { return };
        let change = trust.change();
        for held in self.holds.values_mut().filter(|held| held.joint != change) {
            held.joint = None;
        }
        let (Some(change), Some(next)) = (change, trust.next_council()) else { return };
        let is_agreed = self.draft.as_ref().is_some_and(|draft| draft.agreed == Some(change));
        for held in self.holds.values_mut() {
            if is_agreed || now_ms + trust.kill_ms < runs_until(held, next) {
                held.joint = Some(change);
            }
        }
    }

    /// R12: nothing is left behind a sealed gate.
    fn emptied(&mut self, uuid: Uuid, out: &mut Vec<Effect>) {
        for held in self.holds.values_mut() {
            if held.drafted.uuid == uuid && held.gate == Gate::Sealing {
                held.gate = Gate::Lost;
            }
        }
        self.forget(out);
    }

    /// R11: opens what is covered, and seals in time what is not.
    fn watch(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let closes: Vec<(OfferId, u64)> =
            self.holds.iter().map(|(id, held)| (*id, self.closes_ms(held))).collect();
        if self.trust.is_none() {
            return;
        }
        for (id, closes_ms) in closes {
            let Some(held) = self.holds.get(&id) else { continue };
            let uuid = held.drafted.uuid;
            let is_covered = now_ms < closes_ms;
            let gate = match held.gate {
                // Another hold of the same guest may be on its way out behind that gate.
                Gate::Shut if is_covered && (self.is_in_use(uuid) || self.is_behind()) => continue,
                Gate::Shut if is_covered => {
                    out.push(Effect::Open(uuid));
                    Gate::Open
                }
                // The other one's end is its end.
                Gate::Shut if self.is_in_use(uuid) => Gate::Lost,
                // Nothing should be behind it. But an earlier life may have opened it, and what that knew
                // may be gone.
                Gate::Shut => {
                    out.push(Effect::Seal(uuid));
                    Gate::Sealing
                }
                Gate::Open if !is_covered => {
                    out.push(Effect::Seal(uuid));
                    Gate::Sealing
                }
                Gate::Open | Gate::Sealing | Gate::Lost => continue,
            };
            if let Some(held) = self.holds.get_mut(&id) {
                held.gate = gate;
            }
        }
    }

    fn is_in_use(&self, uuid: Uuid) -> bool {
        let is_it = |held: &Held| {
            held.drafted.uuid == uuid && matches!(held.gate, Gate::Open | Gate::Sealing)
        };
        self.holds.values().any(is_it)
    }

    /// Whether the agent obeys a later document than is known here.
    fn is_behind(&self) -> bool {
        let drafted = self.draft.as_ref().map_or(0, |draft| draft.trust_version);
        self.trust.as_ref().is_none_or(|trust| trust.version < drafted)
    }

    /// When the gate of a hold has to be shut: K before no quorum covers it any more, be it of arbiters or of
    /// witnesses (R11); between two councils, of either.
    fn closes_ms(&self, held: &Held) -> u64 {
        let in_force = self.trust.as_ref().filter(|trust| trust.version >= self.trust_version);
        let Some(trust) = in_force else { return 0 };
        let covers = trust.councils(held.joint).map(|council| runs_until(held, council));
        covers.min().unwrap_or(0).saturating_sub(trust.kill_ms)
    }

    fn has_something(&self) -> bool {
        let needs = self.draft.as_ref().is_some_and(Draft::needs_keeper);
        needs || !self.holds.is_empty() || self.has_more
    }

    /// States what is held, when it is due.
    fn state(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let Some(draft) = self.draft.as_ref().filter(|_| self.trust.is_some()) else { return };
        if !self.has_something() || now_ms < self.due_ms {
            return;
        }
        let is_leaving = |held: &&Held| held.is_omitted;
        let leaving = self.holds.values().filter(is_leaving).map(|held| held.drafted.item.clone());
        let drafted = draft.items.iter().map(|drafted| drafted.item.clone());
        let items: Vec<_> = drafted.chain(leaving).take(ITEMS_MAX).collect();
        self.seq = (self.seq + 1).max(now_ms);
        self.has_more = draft.needs_keeper() || !self.holds.is_empty();
        self.due_ms = now_ms + RENEW_MS + self.seq.wrapping_mul(7919) % JITTER_MS;
        let listed = self.holds.keys().copied().collect();
        self.sent.push_back(Sent { seq: self.seq, at_ms: now_ms, listed });
        if self.sent.len() > SENT_MAX {
            self.sent.pop_front();
        }
        out.push(Effect::State(Statement {
            host: self.host.clone(),
            epoch: draft.epoch,
            seq: self.seq,
            watermark: draft.watermark,
            items,
            trust_version: draft.trust_version,
        }));
    }
}

/// Slots whose owner has no seat any more, or another one in it: what the one before has covered is nobody's word.
fn departed(known: &Trust, now: &Trust) -> BTreeSet<u32> {
    let seats = now.seats();
    let stays =
        |slot: &Slot| seats.iter().any(|(_, one)| one.slot == slot.slot && one.key == slot.key);
    let before = known.seats().into_iter().map(|(_, slot)| slot);
    before.filter(|slot| !stays(slot)).map(|slot| slot.slot).collect()
}

/// Until when a council covers a hold: by its arbiters or by its witnesses, never by some of each.
fn runs_until(held: &Held, council: Council<'_>) -> u64 {
    council.until(|committee| covered_until(held, committee))
}

/// Until when a quorum of a committee covers a hold; 0: none does.
fn covered_until(held: &Held, committee: Committee<'_>) -> u64 {
    let slots = held.covers.iter().filter(|(slot, _)| committee.has(**slot));
    let mut covers: Vec<u64> = slots.map(|(_, until_ms)| *until_ms).collect();
    covers.sort_unstable_by(|a, b| b.cmp(a));
    let quorum = committee.k.checked_sub(1).and_then(|nth| covers.get(nth as usize));
    quorum.copied().unwrap_or(0)
}

/// R9: the slots whose grants made the hold cover it from when its offer was made.
fn first_cover(drafted: &Drafted, term_ms: u64) -> impl Iterator<Item = (u32, u64)> {
    let slots = drafted.item.debits.iter().flat_map(BTreeMap::keys);
    drafted
        .issued_ms
        .into_iter()
        .flat_map(move |issued_ms| slots.clone().map(move |slot| (*slot, issued_ms + term_ms)))
}

mod watchdog;
pub use watchdog::Leash;

#[cfg(test)]
mod tests;
