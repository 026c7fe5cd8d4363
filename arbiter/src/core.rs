//! What an arbiter decides: rules R1 to R7 of the tenure protocol, without sockets, clocks or keys.
//!
//! ```text
//!   start ──▶ waiting for trust ──▶ silent (R1) ──▶ rebuilding (R2) ──▶ granting (R5, R6)
//!                                      fresh key ──────┘ ▲                   │
//!                                                        └── a roster host ──┘
//!                                                            never read yet
//! ```
//!
//! All state is volatile; a restart is amnesia and begins at the left. Every job is exclusive: a `keep`
//! job by its entry in the books, a `stop` job by its lease, which lapses (`leases`).
//!
//! Decisions that the protocol leaves open:
//! * **A fresh key need not be silent.** Silence is for promises that were forgotten. A key that
//!   was made by this very process has signed nothing, so nothing is forgotten. R2 holds all the
//!   same: the slot may have had another key before, and what that one promised is in the hosts'
//!   ledgers. Cover is not: so whoever becomes a member by any but the cluster's first trust document
//!   gives no leases for one term.
//! * **A host that is off the roster is retired.** The operator's signature on the trust document
//!   is the evidence R7 asks for; nothing else could ever release such entries. If it comes
//!   back, it must be read before anything is granted, like a new host.
//! * **A read completes the books (R2) only if nothing unknown can grow out of it.** Hosts list
//!   their open offers by id alone. One of them may be an offer that this arbiter granted before
//!   its restart and forgot, and it may become a hold right after the read. So a read that lists
//!   unknown offers counts only if it was asked for after the silence: by then every such
//!   offer has been redeemed, and is listed as a hold, or has ended. For the same reason books are
//!   completed by reads alone, and offers that a statement lists are not entered (R3 (2)).
//! * **Who hands over goes on covering.** A host that has not heard yet that its arbiters were changed
//!   needs their cover until it has. They grant nothing any more, and what they cover its next arbiters
//!   cover as well, or it would not run ([`protocol::trust::Succession`]).
//! * **What a host held when an operator says that it was off is over** ([`protocol::trust::Fence`]), but
//!   for leases, which lapse by themselves within a term whether the operator is right or not. What the host
//!   says by an older document counts for nothing from then on. Who sees such a document come has
//!   complete books of that host (R2): whatever it promised and forgot was promised by an older one. Who
//!   starts with it has not: the host may have been back since, and been promised more.
//! * **A budget owns names** ([`protocol::budget`]). What its host starts by it has no entry of its own, so
//!   the budget's entry keeps everybody else from all names that it owns.
//! * **What fails over must have been the last.** Whoever fails a job over names the hold that was
//!   lost. Views are old at times: the job may have run elsewhere since, and have been deleted there.
//!   An arbiter that remembers a later promise, or none, says no.
//! * **What counts as a start of a tenant's VM** is an offer to start it. One in place of a hold that was lost, one
//!   that a running guest moves by, and one for another size are none: what counted when it came counts no more. A
//!   larger size, where its VM is or where it moves to, is asked the hours alone ([`protocol::trust::StartWindows`]).
//!   The hours are told by this machine's wall clock, and are all that is: a clock that jumps opens or shuts a
//!   window here, and does nothing else. Rates ([`rates`](crate::rates)) go by the clock that all other rules go by.
//!
//! **A witness is this core without books** ([`protocol::trust::Council`]). It promises, covers and releases
//! leases by the same rules, so every argument about time is the same. It keeps no entries, no quota and no
//! last holds: what it says is whether it lets anybody else run the job. So it waits for no host (R2): after a
//! term of silence nothing that it has forgotten covers anything, and leases are all that it has. Of jobs that
//! are kept it says nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::amounts::Amounts;
use protocol::api::{JobDebit, StartsRoom, TenantBook, TenantRoom};
use protocol::budget::Delegated;
use protocol::id::{HostId, JobId, OfferId, TenantId};
use protocol::resources::Resources;
use protocol::signed::{Digest, PublicKey, Signed, SignedError};
use protocol::tenure::{self, ITEMS_MAX, Term};
use protocol::ticket::{Action, Denial, DenialReason, Grant, HoldAt, Offer};
use protocol::trust::{Fence, Ready, Seat, Trust};
use protocol::vm::OnLoss;

use crate::books::{Books, Counted, ENTRIES_PER_HOST_MAX, Entry, share};
use crate::leases::Leases;
use crate::rates::Rates;
use crate::statement::Statement;

/// The version of a cluster's first trust document: before it nobody was a member.
const FIRST_VERSION: u64 = 1;

/// What happens to an arbiter.
#[derive(Debug, Clone)]
pub enum Input {
    /// The trust document is there or has changed.
    Trust(Arc<Trust>),
    /// Somebody shows an offer and wants it granted.
    Ask {
        /// Comes back in the answer.
        request: u64,
        /// What the wall clock shows, for hours of the week alone.
        wall_ms: u64,
        /// The offer as its host signed it.
        offer: Signed<Offer>,
        /// How much is to be booked; `None`: what the offer's plan says, else its whole size.
        wish: Option<Amounts>,
    },
    /// A host has said what it holds.
    Statement {
        /// Who, proven by key.
        host: HostId,
        /// When it was asked, on the arbiter's clock; not when it answered.
        asked_ms: u64,
        /// What it said.
        statement: Statement,
    },
    /// A host's keeper shows what the host holds, and wants to know what of it is covered.
    Stated {
        /// Comes back in the answer.
        request: u64,
        /// The statement as the host signed it.
        statement: Signed<tenure::Statement>,
    },
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Sign and send.
    Answer {
        /// Of the request.
        request: u64,
        /// The decision.
        verdict: Verdict,
    },
    /// Sign and send.
    Term {
        /// Of the request.
        request: u64,
        /// What is covered, or why this is nobody's statement.
        term: Result<Term, NotStated>,
    },
    /// Ask this host now: what it says may change an answer just given.
    ReadHost {
        /// Which.
        host: HostId,
    },
    /// Look at the trust file again: a host obeys a later version.
    ReadTrust,
    /// Give this host the document in force: it obeys an older one, and may not know what was taken from it.
    BringTrust {
        /// Which.
        host: HostId,
    },
}

/// The decision on one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Yes; the promise is in the books.
    Grant(Grant),
    /// No.
    Denial(Denial),
    /// This process has no slot to answer for.
    NotMember(NotMember),
}

/// Why this process can't answer as an arbiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotMember {
    /// Nobody has given it trust.
    #[error("this arbiter has no trust document yet; run ostler bootstrap")]
    NoTrust,
    /// The document lists other arbiters.
    #[error("trust version {version} does not name this key as an arbiter or witness")]
    NoSlot {
        /// The document in force.
        version: u64,
    },
    /// It is a witness, and keeps no books.
    #[error("this is a witness by trust version {version}: arbiters keep the books")]
    Witness {
        /// The document in force.
        version: u64,
    },
}

/// Why a statement was not answered. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotStated {
    /// This process can't answer as an arbiter.
    #[error(transparent)]
    NotMember(#[from] NotMember),
    /// It is not genuine.
    #[error(transparent)]
    Forged(#[from] SignedError),
    /// It is signed by somebody who is no host of this cluster, or not the host it names.
    #[error("statement of host {host} is not signed by a host of trust version {version}")]
    NotAHost {
        /// The host it names.
        host: HostId,
        /// The document in force.
        version: u64,
    },
    /// It lists more than a host can have.
    #[error("statement has {items} items; a host has at most {ITEMS_MAX}")]
    TooLong {
        /// How many.
        items: usize,
    },
}

/// What an arbiter waits for before it grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// To be a member.
    Membership(NotMember),
    /// For its silence to end (R1).
    Silence {
        /// How much longer.
        for_ms: u64,
    },
    /// For a roster host to be read once (R2).
    Host(HostId),
    /// For a roster host to agree to the change of arbiters.
    Agreement(HostId),
    /// For a change of arbiters by which it takes over.
    Change,
}

/// What time it is.
#[derive(Debug, Clone, Copy)]
struct Times {
    now_ms: u64,
    wall_ms: u64,
}

/// The last statement of a host, as far as it tells which offers are over.
#[derive(Debug, Clone)]
struct Said {
    watermark: OfferId,
    listed: BTreeSet<OfferId>,
}

/// One arbiter.
#[derive(Debug)]
pub struct Core {
    me: PublicKey,
    /// Start of the process.
    started_ms: u64,
    /// False for a key made by this very process.
    may_have_promised: bool,
    trust: Option<Arc<Trust>>,
    /// Its roster: an id is a hash, too dear to be made of every key for every statement.
    roster: BTreeMap<HostId, PublicKey>,
    /// When it may give leases: T after it became a member, because whoever had its slot before may have
    /// covered what nobody here knows of.
    leases_from_ms: u64,
    /// The largest T seen, so that a shorter term in a new document can't cut the silence short.
    term_ms: u64,
    /// What it was when it was last a member.
    last_seat: Option<(Seat, u32)>,
    /// Roster hosts that were not yet read since the start in a way that completes the books (R2).
    missing: BTreeSet<HostId>,
    /// The change of arbiters that each of them had agreed to when it was last read.
    agreed: BTreeMap<HostId, Digest>,
    said: BTreeMap<HostId, Said>,
    books: Books,
    leases: Leases,
    rates: Rates,
}

impl Core {
    /// An arbiter that has just started, knowing only its key and whether it is new.
    #[must_use]
    pub fn new(me: PublicKey, started_ms: u64, may_have_promised: bool) -> Self {
        Self {
            me,
            started_ms,
            may_have_promised,
            trust: None,
            roster: BTreeMap::new(),
            leases_from_ms: 0,
            term_ms: 0,
            last_seat: None,
            missing: BTreeSet::new(),
            agreed: BTreeMap::new(),
            said: BTreeMap::new(),
            books: Books::default(),
            leases: Leases::default(),
            rates: Rates::default(),
        }
    }

    /// Takes one input; what has to be done is added to `out`, in order.
    pub fn handle(&mut self, now_ms: u64, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Trust(trust) => self.obey(now_ms, trust, out),
            Input::Ask { request, wall_ms, offer, wish } => {
                let now = Times { now_ms, wall_ms };
                let verdict = self.answer(now, &offer, wish, out);
                out.push(Effect::Answer { request, verdict });
            }
            Input::Statement { host, asked_ms, statement } => {
                self.hear(&host, asked_ms, &statement, out);
            }
            Input::Stated { request, statement } => {
                let term = self.cover(now_ms, &statement);
                out.push(Effect::Term { request, term });
            }
        }
    }

    /// The trust document in force.
    #[must_use]
    pub fn trust(&self) -> Option<&Arc<Trust>> {
        self.trust.as_ref()
    }

    /// The slot it signs for, if it has one.
    pub fn slot(&self) -> Result<u32, NotMember> {
        self.member().map(|(slot, _)| slot)
    }

    /// What it is by the document in force, and for which slot.
    pub fn seat(&self) -> Result<(Seat, u32), NotMember> {
        let trust = self.trust.as_ref().ok_or(NotMember::NoTrust)?;
        let seat = trust.seat(&self.me).map(|(seat, slot)| (seat, slot.slot));
        seat.ok_or(NotMember::NoSlot { version: trust.version })
    }

    /// Whether it is a witness, by the document in force.
    #[must_use]
    pub fn is_witness(&self) -> bool {
        matches!(self.seat(), Ok((Seat::Witness, _)))
    }

    /// What it has promised.
    #[must_use]
    pub fn books(&self) -> &Books {
        &self.books
    }

    /// Whom it lets run `stop` jobs.
    #[must_use]
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// What it waits for before it grants; empty when it grants.
    #[must_use]
    pub fn waiting_for(&self, now_ms: u64) -> Vec<Waiting> {
        let mut waiting = Vec::new();
        if let Err(why) = self.slot() {
            waiting.push(Waiting::Membership(why));
        }
        if let Some(for_ms) = self.lease_silent_for(now_ms) {
            waiting.push(Waiting::Silence { for_ms });
        }
        waiting.extend(self.missing.iter().cloned().map(Waiting::Host));
        waiting
    }

    /// Its word that the change of arbiters by which it takes over may be completed, or what it waits
    /// for: every host has agreed, and what each held then is in its books. Sign and send.
    pub fn ready(&self, now_ms: u64) -> Result<Ready, Vec<Waiting>> {
        let mut waiting = self.waiting_for(now_ms);
        let Ok((slot, trust)) = self.member() else { return Err(waiting) };
        let change = trust.change();
        let takes_over = trust.next_committee().is_some_and(|committee| committee.has(slot));
        let (true, Some(change)) = (takes_over, change) else {
            waiting.push(Waiting::Change);
            return Err(waiting);
        };
        let has_agreed = |host: &HostId| self.agreed.get(host) == Some(&change);
        let not_yet = self.roster.keys().filter(|host| !has_agreed(host)).cloned();
        let not_yet = not_yet.filter(|host| !self.missing.contains(host));
        waiting.extend(not_yet.map(Waiting::Agreement));
        match waiting.is_empty() {
            true => Ok(Ready { cluster: trust.cluster.clone(), slot, change }),
            false => Err(waiting),
        }
    }

    fn obey(&mut self, now_ms: u64, trust: Arc<Trust>, out: &mut Vec<Effect>) {
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
            self.books.take(&host);
            if was_member && version_before > 0 && fence.since > version_before {
                self.missing.remove(&host);
            }
        }
    }

    /// Whether what a host says counts for nothing: it does not know yet that it is said to have been off.
    fn is_over(&self, trust: &Trust, host: &HostId, obeyed: Option<u64>) -> bool {
        self.roster.get(host).is_some_and(|key| trust.is_over(key, obeyed))
    }

    /// R3, and the part of R2 that a statement can fulfil.
    fn hear(&mut self, host: &HostId, asked_ms: u64, statement: &Statement, out: &mut Vec<Effect>) {
        let Ok((slot, trust)) = self.member() else { return };
        let trust = Arc::clone(trust);
        if !self.roster.contains_key(host) {
            return;
        }
        if statement.obeyed.unwrap_or(0) < trust.version {
            out.push(Effect::BringTrust { host: host.clone() });
        }
        self.rates.give_back(host, &statement.unused);
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
        let said = Said { watermark: statement.watermark, listed: listed.collect() };
        // Statements may arrive late; what an older one closed stays closed either way (R13).
        if self.said.get(host).is_none_or(|last| last.watermark <= said.watermark) {
            self.said.insert(host.clone(), said);
        }
    }

    /// R3 and R4: takes a host's statement and says which of its holds are covered. While silent (R1)
    /// nothing is said of any.
    fn cover(
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

    fn answer(
        &mut self,
        now: Times,
        offer: &Signed<Offer>,
        wish: Option<Amounts>,
        out: &mut Vec<Effect>,
    ) -> Verdict {
        let (slot, trust) = match self.member() {
            Ok((slot, trust)) => (slot, Arc::clone(trust)),
            Err(why) => return Verdict::NotMember(why),
        };
        let digest = offer.digest();
        let is_witness = self.is_witness();
        let judged =
            check_policy(offer, &trust, &self.roster, out).and_then(|offer| match is_witness {
                true => self.judge_as_witness(now.now_ms, &offer, out),
                false => self.judge(now, (slot, &trust), digest, offer, wish, out),
            });
        match judged {
            Ok(debit) => Verdict::Grant(Grant { slot, offer: digest, debit }),
            Err(why) => Verdict::Denial(Denial { slot, offer: digest, why }),
        }
    }

    /// R1, R2, R5, the tenant's hours, R6 and its rate in this order; books the promise when all of them agree. Who asks again gets the
    /// same answer, or asks for more to be booked: what was signed once is never booked with less.
    fn judge(
        &mut self,
        now: Times,
        (slot, trust): (u32, &Trust),
        digest: Digest,
        offer: Offer,
        wish: Option<Amounts>,
        out: &mut Vec<Effect>,
    ) -> Result<Amounts, DenialReason> {
        let now_ms = now.now_ms;
        let silent_for = match offer.on_loss {
            OnLoss::Keep => self.silent_for(now_ms),
            OnLoss::Stop => self.lease_silent_for(now_ms),
        };
        if let Some(for_ms) = silent_for {
            return Err(DenialReason::Silent { for_ms });
        }
        if !self.missing.is_empty() {
            let count = u32::try_from(self.missing.len()).unwrap_or(u32::MAX);
            out.extend(self.missing.iter().cloned().map(|host| Effect::ReadHost { host }));
            return Err(DenialReason::Rebuilding { missing: count });
        }
        let takes = offer.takes();
        let planned = || offer.plan.get(&slot).copied().unwrap_or(offer.resources).into();
        let wish = wish.unwrap_or_else(planned);
        if !wish.fits_in(takes.told_by(wish)) {
            return policy(format!(
                "{wish} are to be booked at slot {slot}, more than the job's {takes}"
            ));
        }
        let known = self.check_identity(digest, &offer)?;
        let booked = known.map_or(Amounts::ZERO, |entry| entry.debit);
        let is_hold = known.is_some_and(|entry| entry.is_hold);
        if known.is_some_and(|entry| entry.signed.is_some())
            && (is_hold || wish.min(takes).fits_in(booked))
        {
            return Ok(booked);
        }
        self.check_exclusive(now_ms, &offer, out)?;
        self.check_hours(now.wall_ms, trust, &offer, out)?;
        let debit = wish.max(booked);
        self.check_quota((slot, trust), &offer, debit, out)?;
        if is_start(&offer) && takes_a_start(debit) {
            self.check_rate(now_ms, (slot, trust), &offer, out)?;
            self.rates.count(now_ms, trust, &offer.tenant, (&offer.host, offer.id));
        }
        if offer.on_loss == OnLoss::Stop {
            let at = HoldAt { host: offer.host.clone(), hold: offer.id };
            let from = source_of(&offer).map(|(source, _)| source);
            self.leases.promise(now_ms, self.term_ms, &offer.job, &at, from);
        }
        let delegated = offer.delegated();
        let Offer { host, id, job, tenant, on_loss, .. } = offer;
        let signed = Some(digest);
        self.books.enter(Entry {
            host,
            id,
            job,
            tenant,
            debit,
            takes,
            signed,
            is_hold,
            on_loss,
            delegated,
            told: None,
        });
        Ok(debit)
    }

    /// R1 and R5 for what may be lost, as far as leases go. Who asks again has it promised again, which
    /// makes no promise shorter; and what its host has struck off is over here as well.
    fn judge_as_witness(
        &mut self,
        now_ms: u64,
        offer: &Offer,
        out: &mut Vec<Effect>,
    ) -> Result<Amounts, DenialReason> {
        if offer.on_loss == OnLoss::Keep {
            return policy(format!(
                "job {} is kept when its host is lost: arbiters alone grant it, and this is a witness",
                offer.job
            ));
        }
        if let Some(for_ms) = self.lease_silent_for(now_ms) {
            return Err(DenialReason::Silent { for_ms });
        }
        self.check_not_ended(offer)?;
        let source = source_of(offer).map(|(source, _)| source);
        if source == Some(&offer.host) {
            return policy(format!(
                "host {} cannot migrate job {} to itself",
                offer.host, offer.job
            ));
        }
        self.check_lease(now_ms, offer, source, out)?;
        let at = HoldAt { host: offer.host.clone(), hold: offer.id };
        self.leases.promise(now_ms, self.term_ms, &offer.job, &at, source);
        Ok(Resources::ZERO.into())
    }

    /// One id is one offer, and an offer that its host has struck off is over (R3, R13). A late
    /// duplicate of it must not enter the books again: if the host died now, nobody could ever
    /// release it.
    fn check_identity(
        &self,
        digest: Digest,
        offer: &Offer,
    ) -> Result<Option<&Entry>, DenialReason> {
        let known = self.books.of_offer(&offer.host, offer.id);
        let is_other = |entry: &&Entry| {
            entry.job != offer.job || entry.signed.is_some_and(|signed| signed != digest)
        };
        if let Some(entry) = known.filter(is_other) {
            return policy(format!(
                "host {} has used offer id {} for job {} already; it must never repeat an id",
                offer.host, offer.id, entry.job
            ));
        }
        self.check_not_ended(offer)?;
        if known.is_none() && self.books.count_of(&offer.host) >= ENTRIES_PER_HOST_MAX {
            return policy(format!(
                "host {} has {ENTRIES_PER_HOST_MAX} entries in the books; void or redeem offers first",
                offer.host
            ));
        }
        Ok(known)
    }

    fn check_not_ended(&self, offer: &Offer) -> Result<(), DenialReason> {
        let said = self.said.get(&offer.host);
        if said.is_some_and(|s| offer.id <= s.watermark && !s.listed.contains(&offer.id)) {
            return Err(DenialReason::OfferEnded { host: offer.host.clone(), id: offer.id });
        }
        Ok(())
    }

    /// R5. For a `keep` job nobody else may have an entry of the job, whatever its age (R7); for a
    /// `stop` job nobody else a live lease, nor an entry from when it was to be kept. A migration is from
    /// the one who has it.
    fn check_exclusive(
        &self,
        now_ms: u64,
        offer: &Offer,
        out: &mut Vec<Effect>,
    ) -> Result<(), DenialReason> {
        let from = source_of(offer);
        let lapses = |entry: &Entry| offer.on_loss == OnLoss::Stop && entry.on_loss == OnLoss::Stop;
        let is_in_the_way = |entry: &&Entry| {
            entry.host != offer.host
                && from.is_none_or(|(source, _)| entry.host != *source)
                && !lapses(entry)
        };
        if let Some(entry) = self.books.of_job(&offer.job).find(is_in_the_way) {
            out.push(Effect::ReadHost { host: entry.host.clone() });
            let (host, id) = (entry.host.clone(), entry.id);
            return Err(DenialReason::Promised { host, id, for_ms: None });
        }
        self.check_names(offer, out)?;
        if let Action::FailOver { from, hold } = &offer.action {
            let is_kept = offer.on_loss == OnLoss::Keep;
            if is_kept && !self.is_fenced(from) {
                return policy(format!(
                    "job {} is kept when its host is lost: only the word that the host is off \
                     starts it elsewhere, such as `ostler fence`",
                    offer.job
                ));
            }
            let lost = HoldAt { host: from.clone(), hold: *hold };
            self.leases.check_last(&offer.job, &lost)?;
        }
        if offer.on_loss == OnLoss::Stop {
            self.check_lease(now_ms, offer, from.map(|(source, _)| source), out)?;
        }
        let Some((source, hold)) = from else { return Ok(()) };
        if *source == offer.host {
            return policy(format!("host {source} cannot migrate job {} to itself", offer.job));
        }
        let is_source = |entry: &Entry| entry.host == *source && entry.id == hold;
        // What runs by a budget is held as that.
        let mut owners = self.books.owners_of(&offer.job).into_iter();
        if !self.books.of_job(&offer.job).any(is_source) && !owners.any(is_source) {
            out.push(Effect::ReadHost { host: source.clone() });
            return policy(format!(
                "host {source} does not hold job {} as {hold}; look at the job again and ask for a new offer",
                offer.job
            ));
        }
        Ok(())
    }

    /// R5 for names: what a host starts by a budget it starts without asking, so nobody else may have a name that
    /// the budget owns. A budget is not granted while somebody else has one, and nobody else is granted one while
    /// the budget may be used, but who takes over from its host. Names that are away are nobody's: the host never
    /// starts them by it again. What a host has already may have another size there.
    fn check_names(&self, offer: &Offer, out: &mut Vec<Effect>) -> Result<(), DenialReason> {
        let source = source_of(offer).map(|(source, _)| source);
        let is_away = |budget: Option<&Delegated>, job: &JobId| {
            budget.is_some_and(|budget| budget.away.contains(job))
        };
        let owners = self.books.owners_of(&offer.job).into_iter();
        let mut owners = owners.filter(|entry| {
            let is_others = entry.host != offer.host && Some(&entry.host) != source;
            is_others && !is_away(entry.delegated.as_ref(), &offer.job)
        });
        let offered = offer.delegated();
        let mut owned = self
            .books
            .owned_by(&offer.job)
            .filter(|entry| entry.host != offer.host && !is_away(offered.as_ref(), &entry.job));
        let taken = match offer.action {
            Action::Resize => None,
            Action::Delegate { .. } => owners.next().or_else(|| owned.next()),
            Action::Start | Action::FailOver { .. } | Action::MigrateIn { .. } => owners.next(),
        };
        let Some(Entry { host, id, .. }) = taken else { return Ok(()) };
        out.push(Effect::ReadHost { host: host.clone() });
        Err(DenialReason::Promised { host: host.clone(), id: *id, for_ms: None })
    }

    /// R5 for leases: nobody else may run it, but whom it comes from.
    fn check_lease(
        &self,
        now_ms: u64,
        offer: &Offer,
        source: Option<&HostId>,
        out: &mut Vec<Effect>,
    ) -> Result<(), DenialReason> {
        let taken = self.leases.check_take(now_ms, &offer.job, &offer.host, source);
        if let Err(DenialReason::Promised { host, .. }) = &taken {
            out.push(Effect::ReadHost { host: host.clone() });
        }
        taken
    }

    /// Whether it was ever said of the host that it was off.
    fn is_fenced(&self, host: &HostId) -> bool {
        let key = self.roster.get(host);
        let trust = self.trust.as_ref();
        key.zip(trust).is_some_and(|(key, trust)| trust.fence_of(key).is_some())
    }

    /// R6, twice. What is booked here must stay within this arbiter's part of the quota: that makes it
    /// exact. And the whole size within the whole quota, as far as is known here: that keeps to a quota
    /// that was made smaller than what was booked under the old one.
    ///
    /// Entries learnt from statements count as used; the check applies only to what is signed. What
    /// takes no more than the job's other entries do adds nothing, and is never refused: a job may
    /// move, fail over and have its debits spread anew whatever the quota.
    fn check_quota(
        &self,
        (slot, trust): (u32, &Trust),
        offer: &Offer,
        debit: Amounts,
        out: &mut Vec<Effect>,
    ) -> Result<(), DenialReason> {
        let Some(quota) = trust.quota.get(&offer.tenant) else { return Ok(()) };
        let tenant = &offer.tenant;
        let (job, own) = (&offer.job, (&offer.host, offer.id));
        let had = self.books.had(tenant, job, Some(own));
        let others = self.books.of_others(tenant, job);
        let room = Room { had, others, part: share(*quota, trust, slot), quota: *quota };
        let takes = offer.takes();
        if room.has_for(debit.min(takes), takes) {
            return Ok(());
        }
        let hosts = self.books.hosts_of_tenant(tenant);
        out.extend(hosts.into_iter().map(|host| Effect::ReadHost { host }));
        let (left, at_most) = (room.left(), room.at_most());
        Err(DenialReason::Quota {
            tenant: tenant.clone(),
            limit: *quota,
            used: self.books.promised(tenant).told_by(*quota),
            asked: takes.told_by(*quota),
            at_most: Some(Box::new(at_most)),
            left: Some(Box::new(left)),
        })
    }

    /// Whether it is a time to start or enlarge the tenant's VMs. A job that its host has had enlarged by others, or
    /// by nobody that is known here, is read before it is told that it grows.
    fn check_hours(
        &self,
        wall_ms: u64,
        trust: &Trust,
        offer: &Offer,
        out: &mut Vec<Effect>,
    ) -> Result<(), DenialReason> {
        let Some(closed) = trust.policy.closed(&offer.tenant, wall_ms) else { return Ok(()) };
        if !is_start(offer) {
            if !self.grows(offer) {
                return Ok(());
            }
            out.push(Effect::ReadHost { host: offer.host.clone() });
        }
        let (tenant, is_default) = (offer.tenant.clone(), trust.policy.is_default(&offer.tenant));
        Err(DenialReason::Window { tenant, is_default, closed: Box::new(closed) })
    }

    /// Whether the job is to have more than it has where it is, or where it moves from.
    fn grows(&self, offer: &Offer) -> bool {
        match &offer.action {
            Action::Resize | Action::MigrateIn { .. } => {
                let own = Some((&offer.host, offer.id));
                let had = self.books.had(&offer.tenant, &offer.job, own);
                !Amounts::of_vm(offer.resources).fits_in(had.takes)
            }
            Action::Start | Action::FailOver { .. } | Action::Delegate { .. } => false,
        }
    }

    /// Whether one more start is left of this arbiter's part of the tenant's rate. Hosts that may have news of
    /// offers that ended unused are read: such a start is given back.
    fn check_rate(
        &self,
        now_ms: u64,
        at: (u32, &Trust),
        offer: &Offer,
        out: &mut Vec<Effect>,
    ) -> Result<(), DenialReason> {
        if self.rates.counts(&offer.host, offer.id) {
            return Ok(());
        }
        let Some(room) = self.rates.left(now_ms, at, &offer.tenant, |_, _| false) else {
            return Ok(());
        };
        if room.left() > 0 {
            return Ok(());
        }
        let hosts = self.rates.hosts_of(&offer.tenant);
        out.extend(hosts.into_iter().map(|host| Effect::ReadHost { host }));
        let (tenant, is_default) = (offer.tenant.clone(), at.1.policy.is_default(&offer.tenant));
        let StartsRoom { limit, part, used, for_ms } = room;
        Err(DenialReason::Rate { tenant, is_default, limit, part, used, for_ms })
    }

    /// Hosts that may know of more that is left of a tenant's quota or rate than is known here.
    #[must_use]
    pub fn hosts_with_news(&self, tenant: &TenantId) -> BTreeSet<HostId> {
        let mut hosts = self.books.hosts_of_tenant(tenant);
        hosts.extend(self.rates.hosts_of(tenant));
        hosts
    }

    /// What it could book for a job, for whoever plans whom to ask for how much.
    pub fn tenant_room(
        &self,
        now_ms: u64,
        tenant: &TenantId,
        job: &JobId,
    ) -> Result<TenantRoom, NotMember> {
        let (slot, trust) = self.arbiter()?;
        // Whoever asks again for an offer has its start already.
        let is_own = |host: &HostId, offer: OfferId| {
            let entry = self.books.of_offer(host, offer);
            entry.is_some_and(|entry| entry.job == *job && !entry.is_hold)
        };
        let starts = self.rates.left(now_ms, (slot, trust), tenant, is_own);
        let limit = trust.quota.get(tenant).copied();
        let quota = limit.unwrap_or(Amounts::UNLIMITED);
        let used = self.books.promised(tenant).told_by(quota);
        let had = self.books.had(tenant, job, None);
        let has = had.debit.told_by(quota);
        if limit.is_none() {
            let (at_most, left) = (quota, quota);
            return Ok(TenantRoom { limit, used, at_most, left, has, starts });
        }
        let others = self.books.of_others(tenant, job);
        let room = Room { had, others, part: share(quota, trust, slot), quota };
        let (at_most, left) = (room.at_most(), room.left());
        Ok(TenantRoom { limit, used, at_most, left, has, starts })
    }

    /// What it has booked for a tenant's jobs.
    pub fn tenant_book(&self, tenant: &TenantId) -> Result<TenantBook, NotMember> {
        let (slot, trust) = self.arbiter()?;
        let limit = trust.quota.get(tenant).copied();
        let part = limit.map(|limit| share(limit, trust, slot));
        let told = |amounts: Amounts| amounts.told_by(limit.unwrap_or(Amounts::UNLIMITED));
        let row = |(job, counted): (&JobId, Counted)| {
            let mut hosts: Vec<&HostId> = self.books.of_job(job).map(|entry| &entry.host).collect();
            hosts.dedup();
            let host = hosts.first().filter(|_| hosts.len() == 1).map(|host| (*host).clone());
            let Counted { debit, takes } = counted;
            JobDebit { job: job.clone(), host, takes: told(takes), debit: told(debit) }
        };
        Ok(TenantBook { part, jobs: self.books.jobs_of(tenant).map(row).collect() })
    }

    /// As whom it covers, and by which document.
    fn covers_as(&self) -> Result<(u32, &Arc<Trust>), NotMember> {
        match (self.member(), self.last_seat, &self.trust) {
            (Ok((slot, trust)), ..) => Ok((slot, trust)),
            (Err(_), Some((_, slot)), Some(trust)) => Ok((slot, trust)),
            (Err(why), ..) => Err(why),
        }
    }

    fn member(&self) -> Result<(u32, &Arc<Trust>), NotMember> {
        let trust = self.trust.as_ref().ok_or(NotMember::NoTrust)?;
        let seat = trust.seat(&self.me).ok_or(NotMember::NoSlot { version: trust.version })?;
        Ok((seat.1.slot, trust))
    }

    /// A member that keeps books.
    fn arbiter(&self) -> Result<(u32, &Arc<Trust>), NotMember> {
        let member = self.member()?;
        match self.is_witness() {
            true => Err(NotMember::Witness { version: member.1.version }),
            false => Ok(member),
        }
    }

    /// One that was a witness goes on covering until hosts have heard that it is none, still without books.
    fn is_or_was_witness(&self) -> bool {
        let seat = self.seat().ok().or(self.last_seat);
        matches!(seat, Some((Seat::Witness, _)))
    }

    /// R1.
    fn silent_until(&self) -> u64 {
        self.started_ms + if self.may_have_promised { self.term_ms } else { 0 }
    }

    fn silent_for(&self, now_ms: u64) -> Option<u64> {
        self.silent_until().checked_sub(now_ms).filter(|for_ms| *for_ms > 0)
    }

    /// R1, for jobs whose cover the books do not show.
    fn lease_silent_for(&self, now_ms: u64) -> Option<u64> {
        let until_ms = self.silent_until().max(self.leases_from_ms);
        until_ms.checked_sub(now_ms).filter(|for_ms| *for_ms > 0)
    }
}

/// What a tenant may still have here, for one of its jobs.
struct Room {
    /// What counts of the job without the offer in question.
    had: Counted,
    /// What counts of the tenant's others.
    others: Counted,
    /// This arbiter's part of the quota.
    part: Amounts,
    /// All of it.
    quota: Amounts,
}

impl Room {
    /// Whether so much may be booked for a job of that size. Each amount for itself: one that does not
    /// grow is not refused because there is too much of it already.
    fn has_for(&self, debit: Amounts, takes: Amounts) -> bool {
        let Self { had, others, part, quota } = self;
        let is_well = |of: &fn(Amounts) -> u64| {
            let adds_nothing = of(debit) <= of(had.debit) && of(takes) <= of(had.takes);
            let booked = of(others.debit).saturating_add(of(debit.max(had.debit)));
            let promised = of(others.takes).saturating_add(of(takes.max(had.takes)));
            adds_nothing || (booked <= of(*part) && promised <= of(*quota))
        };
        Amounts::EACH.iter().all(is_well)
    }

    /// What can be booked for the job in all.
    fn left(&self) -> Amounts {
        self.part.minus(self.others.debit).max(self.had.debit)
    }

    /// How large the job can be.
    fn at_most(&self) -> Amounts {
        self.quota.minus(self.others.takes).max(self.had.takes)
    }
}

/// Whether it starts a VM that was not there. What is to go on in place of a hold that was lost was.
fn is_start(offer: &Offer) -> bool {
    match &offer.action {
        Action::Start => true,
        Action::FailOver { .. }
        | Action::MigrateIn { .. }
        | Action::Resize
        | Action::Delegate { .. } => false,
    }
}

/// Whether a grant with this debit is one of the k that book the VM. One that says nothing of VMs books it.
fn takes_a_start(debit: Amounts) -> bool {
    debit.vms > 0
}

/// The host and hold that a migration is from.
fn source_of(offer: &Offer) -> Option<(&HostId, OfferId)> {
    match &offer.action {
        Action::Start | Action::FailOver { .. } | Action::Resize | Action::Delegate { .. } => None,
        Action::MigrateIn { from, hold } => Some((from, *hold)),
    }
}

/// Whether the offer is a host's of this cluster and makes sense, apart from any books.
fn check_policy(
    signed: &Signed<Offer>,
    trust: &Trust,
    roster: &BTreeMap<HostId, PublicKey>,
    out: &mut Vec<Effect>,
) -> Result<Offer, DenialReason> {
    let offer = match signed.open() {
        Ok(offer) => offer,
        Err(why) => return policy(why.to_string()),
    };
    if offer.trust_version != trust.version {
        if offer.trust_version > trust.version {
            out.push(Effect::ReadTrust);
        }
        let (offered, here) = (offer.trust_version, trust.version);
        return Err(DenialReason::OtherTrust { offered, here });
    }
    match roster.get(&offer.host) {
        Some(key) if *key == signed.key() => {}
        Some(_) => {
            return policy(format!(
                "offer of host {} is signed by another key, {}",
                offer.host,
                signed.key()
            ));
        }
        None => {
            return policy(format!(
                "host {} is not on the roster of trust version {}",
                offer.host, trust.version
            ));
        }
    }
    if let Some((slot, debit)) = offer.plan.iter().find(|(_, d)| !d.fits_in(offer.resources)) {
        return policy(format!(
            "offer plans to book {debit} at slot {slot}, more than the job's {}",
            offer.resources
        ));
    }
    Ok(offer)
}

fn policy<T>(message: String) -> Result<T, DenialReason> {
    Err(DenialReason::Policy { message })
}

#[cfg(test)]
mod tests;
