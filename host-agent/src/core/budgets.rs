//! Budgets: parts of tenants' quotas that this host hands out by itself, and what is started by them.
//!
//! ```text
//!   (nothing) ──PUT with a ticket──▶ running ──PUT with a ticket──▶ running (more, or under another hold)
//!                                      │  └────PUT without one────▶ running (less, not below what is used)
//!                                      ├──stop, unused────────────▶ stopped: its hold is closed
//!                                      └──said to be off──▶ stopping ──the last VM by it has ended──▶ stopped
//! ```
//!
//! What is used of a budget is the sum over the rows that are here by it, so it is in the ledger whatever
//! becomes of the agent, and a row counts for exactly one of a hold of its own and a budget. A budget's own hold is
//! closed only when no row is here by it any more: nothing that runs is ever uncounted. It reserves no room.
//!
//! After a reboot a budget says only what was so before, as any hold does (`restarts`): nothing new is started by
//! it until a quorum of arbiters has said that the host was not said to be off meanwhile.

use protocol::amounts::Amounts;
use protocol::api::{OfferRequest, PutJob};
use protocol::budget::{AWAY_MAX, Budget, check_room, check_spender, owns, used};
use protocol::host::HostIntent;
use protocol::id::{JobId, OfferId, Revision};
use protocol::job::{Job, JobSpec, JobState, Reason, RunKey};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::ticket::{Action, Expected, OfferStanding, Purpose, VerifiedTicket, verify};
use transport::clock::Now;

use super::agent::{Agent, Entry, JOBS_MAX};
use super::claims::Deed;
use super::input::{Effect, Reply};
use super::ledger::{Intent, JobRecord};
use super::taking::Reserved;

impl Agent {
    // Making one, and giving it back.

    /// What an offer of a budget says and reserves: a right, and no room.
    pub(super) fn check_delegation(&self, ask: &OfferRequest) -> Result<Reserved, Refusal> {
        let Some(budget) = ask.spec.as_budget() else {
            let message = format!("{} is no budget: ask for an offer to start it", ask.job);
            return Err(Refusal::Invalid { message });
        };
        self.check_budget(&ask.job, ask.revision, &ask.spec, budget)?;
        let (resources, more) = (budget.resources(), Resources::ZERO);
        let (pages, in_pools) = Default::default();
        Ok(Reserved { resources, more, pages, dedicated_cpus: 0, domain: None, in_pools })
    }

    /// As the offer says it, whoever has asked in which words.
    pub(super) fn delegation(&self, id: &JobId, budget: Budget) -> Action {
        let away = self.jobs.get(id).map(|entry| entry.record.job.away.clone());
        Action::Delegate { vms: budget.vms, away: away.unwrap_or_default() }
    }

    /// Has a budget, or has it in another size. Only less than before needs no ticket.
    pub(super) fn put_budget(
        &mut self,
        now: Now,
        id: JobId,
        put: PutJob,
        budget: Budget,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        if let Some(by) = &put.budget {
            let message = format!("{id} is a budget itself, and can't be by budget {by}");
            return Err(Refusal::Invalid { message });
        }
        self.check_budget(&id, put.revision, &put.spec, budget)?;
        let known = self.jobs.get(&id).map(|entry| entry.record.clone());
        let lives = known.filter(|record| !record.job.state.is_ended());
        let size = lives.as_ref().and_then(|record| record.job.spec.as_budget());
        let is_less = size.is_some_and(|size| budget.amounts().fits_in(size.amounts()));
        let ticket = match is_less && put.ticket.is_none() {
            true => None,
            false => Some(self.verify_delegation(now, &id, &put, budget)?),
        };
        if let Some(ticket) = &ticket {
            self.offers.end(ticket.offer().id, OfferStanding::Used);
        }
        self.offers.end_of_job(&id);
        let before = self.jobs.get(&id).map(|entry| &entry.record);
        let mut away = before.map(|record| record.job.away.clone()).unwrap_or_default();
        if let Some(Action::Delegate { away: offered, .. }) =
            ticket.as_ref().map(|t| &t.offer().action)
        {
            away.extend(offered.iter().cloned());
        }
        let tally = lives.as_ref().filter(|_| ticket.is_none()).map(|record| record.tally.clone());
        let mut record = self.new_record(now, id.clone(), put, ticket.as_ref(), None);
        record.job.away = away;
        record.job.state = JobState::Running;
        if let Some(before) = lives.filter(|_| ticket.is_none()) {
            record.job.hold = before.job.hold;
            record.debits = before.debits;
        }
        record.tally = tally.unwrap_or_default();
        self.insert(now, record, out);
        Ok(Reply::Accepted(Box::new(self.record(&id)?.job.clone())))
    }

    /// Whether the budget may be so, whoever asks.
    fn check_budget(
        &self,
        id: &JobId,
        revision: Revision,
        spec: &JobSpec,
        budget: Budget,
    ) -> Result<(), Refusal> {
        if self.trust.is_none() {
            return Err(Refusal::Unsupported {
                what: "have a budget".to_owned(),
                why: "it has no trust document and starts VMs without anybody's leave".to_owned(),
            });
        }
        spec.validate().map_err(|error| Refusal::Invalid { message: error.to_string() })?;
        let Some(entry) = self.jobs.get(id) else {
            if self.host.intent == Some(HostIntent::Drain) {
                return Err(Refusal::HostDraining { host: self.host.id.clone() });
            }
            if self.jobs.len() >= JOBS_MAX {
                return Err(Refusal::Busy {
                    what: "jobs in the ledger; delete VMs that have ended".to_owned(),
                    limit: u32::try_from(JOBS_MAX).unwrap_or(u32::MAX),
                    retry_after_ms: 60_000,
                });
            }
            return Ok(());
        };
        let job = &entry.record.job;
        if job.spec.as_budget().is_none() {
            let message = format!("{id} is a VM here: choose another name for the budget");
            return Err(Refusal::Invalid { message });
        }
        if job.spec.tenant != spec.tenant {
            let owner = &job.spec.tenant;
            let message = format!("budget {id} is tenant {owner}'s: give it back first");
            return Err(Refusal::Invalid { message });
        }
        if revision <= job.revision {
            return Err(Refusal::RevisionConflict { job: id.clone(), current: job.revision });
        }
        if job.state == JobState::Stopping {
            let needed = "it is ending: wait until the VMs by it have ended".to_owned();
            return Err(Refusal::WrongState { job: id.clone(), state: job.state, needed });
        }
        self.check_still_fits(id, budget.amounts())
    }

    /// Whether what is used of a budget fits into so much.
    fn check_still_fits(&self, id: &JobId, asked: Amounts) -> Result<(), Refusal> {
        let used = self.used_of(id, None);
        if used.fits_in(asked) {
            return Ok(());
        }
        let users = self.jobs.users_of(id).cloned().collect();
        Err(Refusal::BudgetInUse { budget: id.clone(), used, asked, users })
    }

    /// R9 for a budget.
    fn verify_delegation(
        &self,
        now: Now,
        id: &JobId,
        put: &PutJob,
        budget: Budget,
    ) -> Result<VerifiedTicket, Refusal> {
        let Some(trust) = &self.trust else {
            let what = "have a budget".to_owned();
            return Err(Refusal::Unsupported { what, why: "it has no trust document".to_owned() });
        };
        let expected = Expected {
            host: &self.host.id,
            host_key: &self.host.key,
            job: id,
            revision: put.revision,
            spec: put.spec.digest(),
            resources: budget.resources(),
            purpose: Purpose::Delegate,
            agreed: self.agreed,
        };
        let standing = |offer| self.standing(now, offer);
        Ok(verify(put.ticket.as_ref(), expected, trust, standing)?)
    }

    /// Gives an unused budget back.
    pub(super) fn stop_budget(
        &mut self,
        now: Now,
        record: JobRecord,
        run: Option<RunKey>,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let id = record.job.id.clone();
        if record.job.state.is_ended() || record.job.state == JobState::Stopping {
            return Ok(Reply::AlreadySo(Box::new(record.job)));
        }
        if self.jobs.users_of(&id).next().is_some() {
            self.check_still_fits(&id, Amounts::ZERO)?;
        }
        self.remember_done(run, Deed::Stop, out);
        self.end_budget(now, record, Some(Reason::Requested), out);
        Ok(Reply::Accepted(Box::new(self.record(&id)?.job.clone())))
    }

    /// Ends a budget now if nothing is here by it, or as soon as that is so.
    pub(super) fn end_budget(
        &mut self,
        now: Now,
        mut record: JobRecord,
        why: Option<Reason>,
        out: &mut Vec<Effect>,
    ) {
        let id = record.job.id.clone();
        let is_used = self.jobs.users_of(&id).next().is_some();
        let state = if is_used { JobState::Stopping } else { JobState::Stopped };
        self.offers.end_of_job(&id);
        record.intent = Intent::Stop { grace_ms: 0 };
        self.become_state(now, record, state, why, out);
    }

    /// Closes what was to end and is used no more.
    pub(super) fn end_unused_budgets(&mut self, now: Now, out: &mut Vec<Effect>) {
        let is_over = |entry: &&Entry| {
            let job = &entry.record.job;
            let is_ending = job.spec.as_budget().is_some() && job.state == JobState::Stopping;
            is_ending && self.jobs.users_of(&job.id).next().is_none()
        };
        let over: Vec<JobRecord> =
            self.jobs.values().filter(is_over).map(|entry| entry.record.clone()).collect();
        for record in over {
            let why = record.job.reason.clone();
            self.end_budget(now, record, why, out);
        }
    }

    // Spending it.

    /// Whether a VM may be started by a budget of this host, with no ticket: it is the ledger that says so.
    pub(super) fn check_spending(
        &self,
        id: &JobId,
        put: &PutJob,
        by: &JobId,
    ) -> Result<(), Refusal> {
        if put.ticket.is_some() {
            let message = format!("{id} has a ticket and names budget {by}: it is started by one");
            return Err(Refusal::Invalid { message });
        }
        if self.trust.is_none() {
            return Err(Refusal::Unsupported {
                what: "start a VM by a budget".to_owned(),
                why: "it has no trust document and starts VMs without anybody's leave: leave the budget away".to_owned(),
            });
        }
        let budget = self.usable(by, &put.spec)?;
        check_spender(budget, id, &put.spec)?;
        self.check_fits(by, id, Amounts::of_vm(put.spec.resources()))
    }

    /// Whether a VM that is here by a budget may have so much.
    pub(super) fn check_growth_in_budget(
        &self,
        job: &Job,
        by: &JobId,
        asked: Resources,
    ) -> Result<(), Refusal> {
        self.usable(by, &job.spec)?;
        self.check_fits(by, &job.id, Amounts::of_vm(asked))
    }

    /// A budget that something may be taken of.
    fn usable(&self, by: &JobId, spec: &JobSpec) -> Result<&Job, Refusal> {
        let usable = |entry: &Entry| {
            let job = &entry.record.job;
            let is_held = job.hold.is_some() && job.state == JobState::Running;
            is_held && job.spec.as_budget().is_some()
        };
        let Some(entry) = self.jobs.get(by).filter(|entry| usable(entry)) else {
            let all = self.jobs.values().filter(|entry| usable(entry));
            let of_tenant = all.filter(|entry| entry.record.job.spec.tenant == spec.tenant);
            let has = of_tenant.map(|entry| entry.record.job.id.clone()).collect();
            return Err(Refusal::NoSuchBudget { budget: by.clone(), has });
        };
        if entry.record.tally.needs_right && !self.is_right_shown {
            return Err(Refusal::BudgetAwaitsRight { budget: by.clone() });
        }
        Ok(&entry.record.job)
    }

    fn check_fits(&self, by: &JobId, id: &JobId, asked: Amounts) -> Result<(), Refusal> {
        let size = self.record(by)?.job.spec.as_budget().map(Budget::amounts).unwrap_or_default();
        check_room(by, size, self.used_of(by, Some(id)), asked)
    }

    /// What is used of a budget, by others than one job.
    fn used_of(&self, budget: &JobId, but: Option<&JobId>) -> Amounts {
        let others = self.jobs.users_of(budget).filter(|id| Some(*id) != but);
        let rows = others.filter_map(|id| self.jobs.get(id)).map(|entry| &entry.record.job);
        used(budget, rows)
    }

    // What leaves.

    /// By which hold a job is here, its own or that of its budget.
    pub(super) fn hold_of(&self, job: &Job) -> Option<OfferId> {
        let of_budget = || self.jobs.get(job.budget.as_ref()?)?.record.job.hold;
        job.hold.or_else(of_budget)
    }

    fn owners_of(&self, id: &JobId) -> impl Iterator<Item = &JobRecord> {
        let records = self.jobs.values().map(|entry| &entry.record);
        records
            .filter(move |record| record.job.spec.as_budget().is_some() && owns(&record.job.id, id))
    }

    /// Whether a VM of that name may leave: its name has to be remembered for as long as the budget is here.
    pub(super) fn check_may_leave(&self, id: &JobId) -> Result<(), Refusal> {
        let is_full = |job: &Job| job.away.len() >= AWAY_MAX && !job.away.contains(id);
        let full = self.owners_of(id).find(|record| is_full(&record.job));
        let Some(JobRecord { job: budget, .. }) = full else { return Ok(()) };
        let needed = format!(
            "{AWAY_MAX} VMs with names of budget {} have moved away from here, and no more are remembered: \
             give it back and make another one",
            budget.id
        );
        Err(Refusal::WrongState { job: id.clone(), state: JobState::Running, needed })
    }

    /// Remembers that a name has left, in the write by which its VM does.
    pub(super) fn note_away(&mut self, now: Now, id: &JobId, out: &mut Vec<Effect>) {
        let owners: Vec<JobRecord> = self.owners_of(id).cloned().collect();
        for mut record in owners {
            if record.job.away.insert(id.clone()) {
                self.insert(now, record, out);
            }
        }
    }

    /// The arbiters have said that what was held before a reboot is still held.
    pub(super) fn trust_budgets_again(&mut self, now: Now, out: &mut Vec<Effect>) {
        let records = self.jobs.values().map(|entry| &entry.record);
        let waits =
            |record: &&JobRecord| record.tally.needs_right && record.job.spec.as_budget().is_some();
        let waiting: Vec<JobRecord> = records.filter(waits).cloned().collect();
        for mut record in waiting {
            record.tally.needs_right = false;
            self.insert(now, record, out);
        }
    }
}
