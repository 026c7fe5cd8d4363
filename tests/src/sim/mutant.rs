//! Worlds in which one rule is broken on purpose: each must be found out.
//!
//! The cores are never touched. A mutant lives in the adapters between a core and the world: it
//! changes what a core is born with, is told, or has said; where a host would have to accept what
//! its core refuses, the adapter, which has every key, forges a ticket that the core accepts.

use std::collections::BTreeSet;

use arbiter::core::Verdict;
use host_agent::core::{Effect, Input, Reply, ReplyId, Request, Standing, WorkOutcome};
use protocol::amounts::Amounts;
use protocol::api::{OfferRequest, PutJob, ResizeJob};
use protocol::id::JobId;
use protocol::job::{JobSpec, JobState};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::signed::Signed;
use protocol::ticket::{Action, DenialReason, Grant, Offer, Ticket, TicketError};
use protocol::vm::Size;
use transport::Now;

use super::host::capacity;
use super::hypervisor::{Caller, Fate, HvOp};
use super::message::Told;
use super::tasks::CallId;
use super::world::{Event, World, arbiter_key};

/// What is wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// A host redeems a ticket twice (R8, R9).
    TicketReusable,
    /// An agent begins no new epoch when it starts (R16).
    OfferNumbersRestart,
    /// An arbiter grants right after its restart (R1).
    NoSilenceAfterRestart,
    /// An arbiter takes its books for complete and empty after its restart (R2).
    BooksTakenAsEmpty,
    /// A guest runs on the target as soon as it has arrived (M3, M4).
    TargetRunsBeforeSourceLetGo,
    /// Offers for a job stay open when its host lets go of it (M3).
    HandoffLeavesOffersOpen,
    /// An arbiter grants a job that is promised to another host (R5).
    PromiseIgnored,
    /// An arbiter forgets the promises of hosts it does not hear (R7).
    PromiseFreedByTime,
    /// A statement leaves out what is held (R13).
    StatementHidesHolds,
    /// A statement says that a job takes less than its host has promised it.
    StatementTellsLess,
    /// A host takes what a guest was asked to give up for given.
    ShrinkTakenAsGiven,
    /// A host gives a job more without a ticket for it.
    GrowthNeedsNoTicket,
    /// An arbiter's share is the whole quota (R6).
    EscrowShareIsWholeQuota,
    /// A host does not count open offers when it admits.
    AdmissionIgnoresOpenOffers,
    /// A host answers before what it answers is on disk.
    ReplyBeforePersist,
    /// A host publishes before what it publishes is on disk.
    EventBeforePersist,
    /// Undoing a task leaves no trace on the host.
    UndoLeavesNoTombstone,
    /// An agent that starts ends guests that it does not expect.
    UnexpectedGuestsAreEnded,
    /// The conductor stores what an engine without the newest claim says.
    ConductorIgnoresClaims,
    /// An agent forgets its ledger when the machine boots.
    LedgerLostAtBoot,
    /// A term lasts from when it comes (R9, R10).
    TermCountedFromReceipt,
    /// An arbiter's promise lasts a third of a term (R5).
    PromiseTooShort,
    /// Whether a guest may run is asked when its start is decided, not where it takes effect (R11).
    GateIgnored,
    /// Killing begins at the deadline, and the guest runs meanwhile (R12).
    KillAtDeadline,
    /// A host takes an arbiter's no to a hold for a yes (R10).
    ExclusionIgnored,
    /// What is being stopped is listed no more while its guest lives (R12, R13).
    OmittedWhileDying,
    /// While arbiters are changed, a guest runs by the cover of those who are to follow alone (§10).
    NextAloneCovers,
    /// While arbiters are changed, a guest runs on by the cover of those in force alone on a host that has
    /// agreed (§10).
    PresentAloneCovers,
    /// While arbiters are changed, a host that has agreed takes tickets of those in force alone (§10).
    PresentAloneGrants,
    /// A host that has agreed to a change forgets it when its agent restarts (§10).
    AgreementForgotten,
    /// An arbiter is ready to take over before every host has agreed (§10).
    ReadyBeforeAllAgreed,
    /// An arbiter that takes over takes its books for complete and empty (§10, R2).
    NewMemberTakesBooksAsEmpty,
    /// An arbiter that takes over covers at once (§10, R1).
    NewMemberCoversAtOnce,
    /// A host takes a ticket whose debits are less than k times the job's size (R9).
    UnderbookedTicketTaken,
    /// An arbiter counts what it has booked last for a job, and not the largest of it (R6).
    NewestDebitAloneCounts,
    /// An arbiter signs what its part of a quota has no room for (R6).
    QuotaIgnored,
    /// An arbiter signs starts that its part of a rate has no room for.
    RateIgnored,
    /// An arbiter that starts anew takes it that it has granted no starts lately.
    StartsForgotten,
    /// An arbiter signs starts while no window is open.
    HoursIgnored,
    /// A host that returns starts what it held before the arbiters have said that this is still its (§8).
    RightNotAsked,
    /// An agent that dies before it has written what a reboot makes of its jobs knows nothing of the reboot (§8).
    RebootForgotten,
    /// A host goes on with what was taken from it (§8).
    FencedHoldsKept,
    /// An arbiter that starts with the word that a host was off takes its books of that host for complete (R2).
    FenceCompletesForgottenBooks,
    /// A host that is said to be off is turned on before a quorum of arbiters has heard that.
    FencedHostTurnedOnEarly,
    /// A host takes a job that may be lost by arbiters' grants alone, while witnesses let others run (§2, R9).
    ArbitersAloneGrant,
    /// A guest runs by the cover of some arbiters and some witnesses, counted together (R11).
    MixedCommitteeCovers,
    /// An agent that starts forgets what it has started by its budgets (§8).
    SpendingForgotten,
    /// A host ends a budget by which something is there still (§8).
    BudgetGivenBackWhileUsed,
    /// An arbiter counts what hosts say that they hold, and not their budgets (§8).
    BudgetNotCounted,
    /// An arbiter counts what was started by a budget, and the budget (§8).
    SpendingCountedTwice,
    /// An agent that starts forgets which names of its budgets are away.
    AwayForgotten,
    /// An arbiter reads of budgets, and not that they own names (R5).
    NamesNotOwned,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 52] = [
        Mutant::TicketReusable,
        Mutant::OfferNumbersRestart,
        Mutant::NoSilenceAfterRestart,
        Mutant::BooksTakenAsEmpty,
        Mutant::TargetRunsBeforeSourceLetGo,
        Mutant::HandoffLeavesOffersOpen,
        Mutant::PromiseIgnored,
        Mutant::PromiseFreedByTime,
        Mutant::StatementHidesHolds,
        Mutant::StatementTellsLess,
        Mutant::ShrinkTakenAsGiven,
        Mutant::GrowthNeedsNoTicket,
        Mutant::EscrowShareIsWholeQuota,
        Mutant::AdmissionIgnoresOpenOffers,
        Mutant::ReplyBeforePersist,
        Mutant::EventBeforePersist,
        Mutant::UndoLeavesNoTombstone,
        Mutant::UnexpectedGuestsAreEnded,
        Mutant::ConductorIgnoresClaims,
        Mutant::LedgerLostAtBoot,
        Mutant::TermCountedFromReceipt,
        Mutant::PromiseTooShort,
        Mutant::GateIgnored,
        Mutant::KillAtDeadline,
        Mutant::ExclusionIgnored,
        Mutant::OmittedWhileDying,
        Mutant::NextAloneCovers,
        Mutant::PresentAloneCovers,
        Mutant::PresentAloneGrants,
        Mutant::AgreementForgotten,
        Mutant::ReadyBeforeAllAgreed,
        Mutant::NewMemberTakesBooksAsEmpty,
        Mutant::NewMemberCoversAtOnce,
        Mutant::UnderbookedTicketTaken,
        Mutant::NewestDebitAloneCounts,
        Mutant::QuotaIgnored,
        Mutant::RateIgnored,
        Mutant::StartsForgotten,
        Mutant::HoursIgnored,
        Mutant::RightNotAsked,
        Mutant::RebootForgotten,
        Mutant::FencedHoldsKept,
        Mutant::FenceCompletesForgottenBooks,
        Mutant::FencedHostTurnedOnEarly,
        Mutant::ArbitersAloneGrant,
        Mutant::MixedCommitteeCovers,
        Mutant::SpendingForgotten,
        Mutant::BudgetGivenBackWhileUsed,
        Mutant::BudgetNotCounted,
        Mutant::SpendingCountedTwice,
        Mutant::AwayForgotten,
        Mutant::NamesNotOwned,
    ];
}

/// The answer of an arbiter that ignores promises, quotas, rates or hours.
pub(super) fn mutate_verdict(
    mutant: Option<Mutant>,
    verdict: Verdict,
    offer: &Signed<Offer>,
    wish: Option<Amounts>,
) -> Verdict {
    match (mutant, &verdict) {
        (Some(mutant), Verdict::Denial(denial))
            if matches!(
                (mutant, &denial.why),
                (Mutant::QuotaIgnored, DenialReason::Quota { .. })
                    | (Mutant::RateIgnored, DenialReason::Rate { .. })
                    | (Mutant::HoursIgnored, DenialReason::Window { .. })
            ) =>
        {
            let size = offer.open().map(|offer| offer.resources).unwrap_or_default();
            let debit = wish.unwrap_or(size.into());
            Verdict::Grant(Grant { slot: denial.slot, offer: denial.offer, debit })
        }
        (Some(Mutant::PromiseIgnored), Verdict::Denial(denial))
            if matches!(denial.why, DenialReason::Promised { .. }) =>
        {
            let debit = offer.open().map(|offer| offer.resources).unwrap_or_default().into();
            Verdict::Grant(Grant { slot: denial.slot, offer: denial.offer, debit })
        }
        _ => verdict,
    }
}

impl World {
    /// Gives a request to an agent's core, and looks at what it makes of it.
    pub(super) fn handle_request(
        &mut self,
        n: usize,
        now: Now,
        reply: ReplyId,
        mut request: Request,
        effects: &mut Vec<Effect>,
    ) {
        self.watch_request(n, &request);
        if let (
            Some(Mutant::UndoLeavesNoTombstone),
            Request::Delete { run, .. }
            | Request::CancelMigration { run, .. }
            | Request::UndoResize { run, .. },
        ) = (self.mutant, &mut request)
        {
            *run = None;
        }
        if let (Some(Mutant::FencedHoldsKept), Request::Trust(signed)) = (self.mutant, &request) {
            request = Request::Trust(self.without_fence(n, signed.clone()));
        }
        let asked = request.clone();
        let begin = effects.len();
        self.tell_core(n, now, reply, request, effects);
        self.forge(n, now, reply, &asked, begin, effects);
        self.watch_handled(n, now, reply, &asked, &effects[begin..]);
    }

    fn tell_core(
        &mut self,
        n: usize,
        now: Now,
        reply: ReplyId,
        request: Request,
        effects: &mut Vec<Effect>,
    ) {
        let open = self.open_offers_of(n, now);
        let Some(process) = self.hosts[n].process.as_mut() else { return };
        let is_blind = self.mutant == Some(Mutant::AdmissionIgnoresOpenOffers)
            && matches!(request, Request::Offer(_) | Request::Put { .. });
        let mut quiet = Vec::new();
        if is_blind {
            let more = capacity().plus(open);
            process.agent.handle(now, Input::Capacity(more), &mut quiet);
        }
        effects.extend(quiet);
        let request = Box::new(request);
        process.agent.handle(now, Input::Request { reply, request }, effects);
        if is_blind {
            process.agent.handle(now, Input::Capacity(capacity()), effects);
        }
    }

    fn open_offers_of(&self, n: usize, now: Now) -> Resources {
        let standing =
            self.oracle.offers.iter().filter(|((host, _), fact)| {
                *host == n && !fact.is_over && fact.until_ms > now.mono_ms
            });
        standing.fold(Resources::ZERO, |sum, (_, fact)| sum.plus(fact.resources))
    }

    /// A core that refuses a ticket for a reason that the mutant knows nothing of is given
    /// another one.
    fn forge(
        &mut self,
        n: usize,
        now: Now,
        reply: ReplyId,
        asked: &Request,
        begin: usize,
        effects: &mut Vec<Effect>,
    ) {
        if let Request::Stop { job, .. } = asked {
            return self.force_back(n, reply, job, begin, effects);
        }
        if let Request::Resize { job, resize } = asked {
            return self.forge_growth(n, now, reply, (job, resize), begin, effects);
        }
        let Request::Put { job, put } = asked else { return };
        let Some(ticket) = &put.ticket else { return };
        let refusal = effects[begin..].iter().find_map(|effect| match effect {
            Effect::Reply(to, Err(Refusal::Ticket { error })) if *to == reply => Some(error),
            _ => None,
        });
        let Ok(offer) = ticket.offer.open() else { return };
        let fact = self.oracle.offers.get(&(n, offer.id));
        let was_handed = fact.is_some_and(|f| f.is_handed && f.until_ms > now.mono_ms);
        let is_forged = match (self.mutant, refusal) {
            (Some(Mutant::TicketReusable), Some(TicketError::OfferUsed { .. })) => true,
            (Some(Mutant::UnderbookedTicketTaken), Some(TicketError::TicketUnderbooked { .. })) => {
                true
            }
            (Some(Mutant::HandoffLeavesOffersOpen), Some(TicketError::OfferEnded { .. })) => {
                was_handed
            }
            (Some(Mutant::PresentAloneGrants), Some(TicketError::TicketWithoutQuorum { .. })) => {
                let signed: BTreeSet<u32> = ticket
                    .grants
                    .iter()
                    .filter_map(|grant| Some(grant.open().ok()?.slot))
                    .collect();
                let process = self.hosts[n].process.as_ref();
                let trust = process.and_then(|process| process.agent.trust());
                trust.is_some_and(|trust| trust.is_quorum(None, &signed))
            }
            (
                Some(Mutant::ArbitersAloneGrant),
                Some(TicketError::TicketWithoutWitnesses { .. }),
            ) => true,
            _ => false,
        };
        if !is_forged {
            return;
        }
        let ask = OfferRequest {
            job: job.clone(),
            revision: put.revision,
            spec: put.spec.clone(),
            action: offer.action,
            finds_disks: false,
        };
        effects.truncate(begin);
        let Some(ticket) = self.forged(n, now, ask, effects) else { return };
        let put = PutJob { ticket: Some(ticket), ..put.clone() };
        let request = Box::new(Request::Put { job: job.clone(), put });
        let Some(process) = self.hosts[n].process.as_mut() else { return };
        process.agent.handle(now, Input::Request { reply, request }, effects);
    }

    fn forge_growth(
        &mut self,
        n: usize,
        now: Now,
        reply: ReplyId,
        (job, resize): (&JobId, &ResizeJob),
        begin: usize,
        effects: &mut Vec<Effect>,
    ) {
        let is_missing = effects[begin..].iter().any(|effect| {
            matches!(effect, Effect::Reply(to, Err(Refusal::Ticket { error: TicketError::TicketMissing }))
                if *to == reply)
        });
        if self.mutant != Some(Mutant::GrowthNeedsNoTicket) || !is_missing {
            return;
        }
        let row = self.hosts[n].process.as_ref().and_then(|process| process.agent.job(job));
        let sized = |spec: &JobSpec| spec.with_size(|size| size.changed(&resize.size));
        let Some(spec) = row.and_then(|record| sized(&record.job.spec)) else { return };
        let (job, revision) = (job.clone(), resize.revision);
        effects.truncate(begin);
        let ask = OfferRequest {
            job: job.clone(),
            revision,
            spec,
            action: Action::Resize,
            finds_disks: false,
        };
        let Some(ticket) = self.forged(n, now, ask, effects) else { return };
        let resize = ResizeJob { ticket: Some(ticket), ..resize.clone() };
        let request = Box::new(Request::Resize { job, resize });
        let Some(process) = self.hosts[n].process.as_mut() else { return };
        process.agent.handle(now, Input::Request { reply, request }, effects);
    }

    /// A ticket that nobody has granted.
    fn forged(
        &mut self,
        n: usize,
        now: Now,
        ask: OfferRequest,
        effects: &mut Vec<Effect>,
    ) -> Option<Ticket> {
        let process = self.hosts[n].process.as_mut()?;
        let mut made = Vec::new();
        let nobody = ReplyId(u64::MAX);
        let request = Box::new(Request::Offer(ask));
        process.agent.handle(now, Input::Request { reply: nobody, request }, &mut made);
        let offer = made.iter().find_map(|effect| match effect {
            Effect::Reply(_, Ok(Reply::Offered(offered))) => Some(offered.offer.clone()),
            _ => None,
        })?;
        effects.extend(made.into_iter().filter(|e| !matches!(e, Effect::Reply(..))));
        let debit = offer.open().ok()?.resources.into();
        let grants = (0..self.arbiters.len()).map(|slot| {
            let number = u32::try_from(slot).unwrap_or(0);
            let grant = Grant { slot: number, offer: offer.digest(), debit };
            Signed::seal(&grant, &arbiter_key(slot))
        });
        Some(Ticket { grants: grants.collect(), offer: offer.clone() })
    }

    /// What is done before the batch is on disk, which should be nothing.
    pub(super) fn mutate_order(&self, _n: usize, effects: &mut Vec<Effect>) -> Vec<Effect> {
        let is_early = |effect: &Effect| match self.mutant {
            Some(Mutant::ReplyBeforePersist) => matches!(effect, Effect::Reply(..)),
            Some(Mutant::EventBeforePersist) => matches!(effect, Effect::Publish(_)),
            _ => false,
        };
        let (early, rest) = std::mem::take(effects).into_iter().partition(is_early);
        *effects = rest;
        early
    }

    /// What arbiters are told of what a host holds.
    pub(super) fn mutate_reading(&self, _n: usize, told: Told) -> Told {
        match (self.mutant, told) {
            (Some(Mutant::StatementHidesHolds), Told::Inventory(mut inventory)) => {
                inventory.jobs.clear();
                Told::Inventory(inventory)
            }
            (Some(Mutant::StatementTellsLess), Told::Inventory(mut inventory)) => {
                for job in &mut inventory.jobs {
                    if let Some(less) = job.spec.with_size(|size| Size { vcpus: 1, ..size }) {
                        job.spec = less.into();
                    }
                }
                Told::Inventory(inventory)
            }
            (Some(Mutant::OmittedWhileDying), Told::Inventory(mut inventory)) => {
                inventory.jobs.retain(|job| job.state != JobState::Stopping);
                Told::Inventory(inventory)
            }
            (mutant, Told::Inventory(mut inventory)) => {
                super::budgets::mutate_told(mutant, &mut inventory);
                Told::Inventory(inventory)
            }
            (_, told) => told,
        }
    }

    /// What a core is told of its guests.
    pub(super) fn mutate_input(&self, n: usize, mut input: Input) -> Input {
        let domain = match &mut input {
            Input::Done { outcome: WorkOutcome::Resized { domain, .. }, .. } => Some(&mut **domain),
            Input::Looked { domain, .. } => domain.as_mut(),
            _ => None,
        };
        let is_credulous = self.mutant == Some(Mutant::ShrinkTakenAsGiven);
        if let Some(domain) = domain.filter(|_| is_credulous)
            && let Some(job) = &domain.job
            && let Some(process) = &self.hosts[n].process
            && let Some(record) = process.agent.job(job)
        {
            let asked = record.job.spec.resources();
            domain.resources.vcpus = domain.resources.vcpus.min(asked.vcpus);
            domain.memory_now_bytes = domain.memory_now_bytes.min(asked.memory_bytes);
        }
        input
    }

    /// What an agent does first.
    pub(super) fn after_agent_start(&mut self, n: usize) {
        match self.mutant {
            Some(Mutant::UnexpectedGuestsAreEnded) => {
                let known = &self.hosts[n].disk.ledger.jobs;
                let guests = self.hosts[n].hv.domains.iter().filter(|(_, domain)| {
                    let row = known.iter().find(|record| record.job.id == domain.job);
                    domain.is_running() && row.is_none_or(|r| r.job.state != JobState::Running)
                });
                let guests: Vec<uuid::Uuid> = guests.map(|(uuid, _)| *uuid).collect();
                let boot = self.hosts[n].boot;
                for uuid in guests {
                    let op = Box::new(HvOp::Destroy(uuid));
                    let caller = Caller { life: 0, call: CallId(0) };
                    let fate = Fate::Good;
                    self.after(1_000, Event::HvEffect { host: n, boot, op, fate, caller });
                }
            }
            Some(Mutant::RightNotAsked) => {
                let process = self.hosts[n].process.as_ref();
                let Some(trust) = process.and_then(|process| process.agent.trust()) else { return };
                let obey: BTreeSet<u32> = trust.members().iter().map(|slot| slot.slot).collect();
                let (version, ready) = (trust.version, obey.clone());
                let standing = Standing { version, obey, ready };
                self.post(n, Input::Right(standing));
            }
            Some(Mutant::LedgerLostAtBoot) if self.hosts[n].boot > 0 => {
                self.hosts[n].disk.ledger.jobs.clear();
                self.check_durable(n);
            }
            _ => {}
        }
    }
}
