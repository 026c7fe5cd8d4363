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
//! What comes in has rooms of its own: a trust document in `obeying`, what hosts say in `hearing`, an offer in
//! `judging`; what a tenant has left is in `room`.
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
use protocol::id::{HostId, OfferId};
use protocol::signed::{Digest, PublicKey, Signed, SignedError};
use protocol::tenure::{self, ITEMS_MAX, Term};
use protocol::ticket::{Denial, Grant, Offer};
use protocol::trust::{Ready, Seat, Trust};

use crate::books::Books;
use crate::leases::Leases;
use crate::rates::Rates;
use crate::statement::Statement;

mod hearing;
mod judging;
mod obeying;
mod room;

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
    /// The document that it obeyed.
    obeyed: Option<u64>,
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

#[cfg(test)]
mod tests;
