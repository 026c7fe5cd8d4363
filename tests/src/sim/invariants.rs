//! What must always hold, as named functions; and the oracle: what was promised, asked and seen,
//! noted independently of the cores.
//!
//! An invariant looks at what really is (guests in [`super::hypervisor`], rows on disk), never at
//! what a core believes. Each is called right after the events that could break it.

use std::collections::{BTreeMap, BTreeSet};

use host_agent::core::{Act, Agent, Effect, JobRecord, Reply, ReplyId, Request, Work, Write};
use protocol::amounts::Amounts;
use protocol::api::{RunState, TaskState, TenantRoom};
use protocol::event::{Event as HostEvent, Fact};
use protocol::id::{Cursor, Epoch, HostId, JobId, OfferId, Revision, RunId, TenantId};
use protocol::job::{Job, JobState, Migration, Reason, ResizeStage};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::signed::Digest;
use protocol::ticket::{Action, Answer, DenialReason, Grant, Offer, Ticket};
use protocol::view::HostRow;
use protocol::vm::OnLoss;
use scheduler::RunRecord;
use transport::Now;
use uuid::Uuid;

use super::engine::{run_state_name, task_state_name};
use super::host::{Host, capacity};
use super::hypervisor::{Caller, HvOp};
use super::message::{NodeId, Told};
use super::tasks::CallId;
use super::world::{Role, World, arbiter_key};

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which rule.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
    /// After which event.
    pub event: u64,
    /// When.
    pub at_us: u64,
}

/// What is known of an offer, beside what its host remembers.
#[derive(Debug, Clone)]
pub struct OfferFact {
    /// The host's life that made it.
    pub epoch: Epoch,
    /// The trust document that its host obeyed.
    pub trust_version: u64,
    /// For what.
    pub job: JobId,
    /// How much it reserves.
    pub resources: Resources,
    /// When it can no longer be redeemed, on the host's clock.
    pub until_ms: u64,
    /// Voided, or the job was handed away.
    pub is_over: bool,
    /// The job was handed away while it was open (rule M3).
    pub is_handed: bool,
    /// How often it was redeemed.
    pub redeemed: u32,
}

/// What was promised, asked for and seen.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Every offer a host has made.
    pub offers: BTreeMap<(usize, OfferId), OfferFact>,
    /// Which slots have signed a grant for an offer.
    grants: BTreeMap<Digest, BTreeSet<u32>>,
    /// Offers by the digest of what was signed.
    signed: BTreeMap<Digest, Offer>,
    /// Jobs that a host has said it has taken.
    accepted: BTreeMap<(usize, JobId), Revision>,
    /// Jobs that somebody wants ended on a host, since they were last taken.
    asked_to_end: BTreeSet<(usize, JobId)>,
    /// Calls to libvirt that end a guest which somebody wanted ended when they were made: host, life of the agent,
    /// call.
    ends: BTreeSet<(usize, u32, CallId)>,
    /// Tasks that a host has said are undone.
    undone: BTreeSet<(usize, RunId, u32)>,
    /// What tasks are about to have done, once the host's next batch is on disk.
    doing: Vec<(usize, RunId, u32, &'static str)>,
    /// What tasks have done on a host, durably.
    done: BTreeSet<(usize, RunId, u32, &'static str)>,
    /// Where each follower stands.
    cursors: BTreeMap<(NodeId, u32, HostId), Cursor>,
    /// What each host's last batch has made durable.
    last_batch: BTreeMap<usize, Vec<Write>>,
    /// Every request that put a job, for scenarios that repeat one.
    pub puts: Vec<(usize, Request)>,
    /// Every request that handed a job over.
    pub handoffs: Vec<(usize, Request)>,
    /// What was promised at the beginning of a change of size that is under way.
    resizing: BTreeMap<(usize, JobId), Resources>,
    /// When VMs of each tenant were started, in real time.
    starts: BTreeMap<TenantId, Vec<u64>>,
    /// The last state each host has told of a job.
    states: BTreeMap<(usize, JobId), JobState>,
}

fn times(k: u32, size: Amounts) -> Amounts {
    (0..k).fold(Amounts::ZERO, |sum, _| sum.plus(size))
}

impl World {
    // The rules.

    /// Two guests of one job never run at the same time.
    pub(super) fn no_vm_runs_on_two_hosts(&mut self, uuid: Uuid) {
        let runs = |host: &super::host::Host| {
            host.hv.domains.get(&uuid).is_some_and(super::hypervisor::Domain::is_running)
        };
        let hosts: Vec<usize> = (0..self.hosts.len()).filter(|n| runs(&self.hosts[*n])).collect();
        if hosts.len() < 2 {
            return;
        }
        let hosts = self.not_by_a_wrong_word(uuid, hosts);
        if hosts.len() > 1 {
            let job = self.hosts[hosts[0]].hv.domains[&uuid].job.clone();
            self.violate("no_vm_runs_on_two_hosts", format!("{job} runs on hosts {hosts:?}"));
        }
    }

    /// What a host has promised to jobs and offers is never more than it has. A guest that comes after its host was said
    /// to be off is ended, whether there is still room for it or not.
    pub(super) fn no_host_promises_more_than_it_has(&mut self, n: usize) {
        let Some(process) = self.hosts[n].process.as_ref() else { return };
        let inventory = process.agent.inventory();
        let observed = inventory.observed.iter().filter(|d| d.is_active);
        let others = observed.fold(Resources::ZERO, |sum, d| sum.plus(d.resources));
        let is_late =
            |job: &&Job| !job.state.is_ended() && matches!(job.reason, Some(Reason::Fenced { .. }));
        let late = inventory.jobs.iter().filter(is_late);
        let others = late.fold(others, |sum, job| sum.plus(job.promised()));
        let promised = inventory.host.allocation.minus(others);
        if !promised.fits_in(capacity()) {
            let what = format!("h{n} has promised {promised} of {}", capacity());
            self.violate("no_host_promises_more_than_it_has", what);
        }
    }

    pub(super) fn check_promises(&mut self, n: usize) {
        self.no_host_promises_more_than_it_has(n);
    }

    /// What a host said it has taken is on its disk, whatever has happened since.
    pub(super) fn accepted_jobs_survive_restart(&mut self, n: usize) {
        let rows = &self.hosts[n].disk.ledger.jobs;
        let of_host = self.oracle.accepted.iter().filter(|((host, _), _)| *host == n);
        let lost = of_host.into_iter().find(|((_, job), revision)| {
            let row = rows.iter().find(|record| record.job.id == *job);
            row.is_none_or(|record| record.job.revision < **revision)
        });
        if let Some(((_, job), revision)) = lost {
            let what = format!("h{n} had taken {job} revision {revision}; its disk has it not");
            self.violate("accepted_jobs_survive_restart", what);
        }
    }

    pub(super) fn check_durable(&mut self, n: usize) {
        self.accepted_jobs_survive_restart(n);
    }

    /// The guests that run on a host.
    pub(super) fn guests_running(&self, n: usize) -> Vec<Uuid> {
        let domains = self.hosts[n].hv.domains.iter();
        domains.filter(|(_, domain)| domain.is_running()).map(|(uuid, _)| *uuid).collect()
    }

    /// The death of an agent leaves its guests as they were.
    pub(super) fn agent_death_never_touches_guests(&mut self, n: usize, before: &[Uuid]) {
        let after = self.guests_running(n);
        if before != after {
            let what = format!("h{n} ran {before:?} before its agent died, and {after:?} after");
            self.violate("agent_death_never_touches_guests", what);
        }
    }

    /// Nothing is ended or deleted that nobody asked to be.
    pub(super) fn absence_destroys_nothing(&mut self, n: usize, job: &JobId, what: &str) {
        if !self.oracle.asked_to_end.contains(&(n, job.clone())) {
            let what = format!("{job} on h{n}: {what}, and nobody had asked for it");
            self.violate("absence_destroys_nothing", what);
        }
    }

    /// A follower's row never gets older, and at the host's own position it is the host's own.
    pub(super) fn view_never_goes_back(&mut self, node: NodeId, host: &HostId) {
        let seen = self.row_at(node, host);
        let Some((cursor, is_true)) = seen else { return };
        let place = (node, self.nodes[node.0].life, host.clone());
        let before = self.oracle.cursors.insert(place, cursor).unwrap_or_default();
        if cursor < before {
            let what = format!("{node:?} shows {} at {cursor} after {before}", host.short());
            self.violate("view_never_goes_back_within_an_epoch", what);
        }
        if !is_true {
            let what = format!("{node:?} shows {} at {cursor} other than it is", host.short());
            self.violate("view_shows_what_the_host_said", what);
        }
    }

    fn row_at(&self, node: NodeId, host: &HostId) -> Option<(Cursor, bool)> {
        let own = self.hosts.iter().find(|h| h.id == *host)?;
        let own = own.process.as_ref().and_then(super::host::AgentProcess::row);
        let is_here = |cursor: Cursor| own.filter(|own| own.cursor == cursor);
        match self.nodes[node.0].role {
            Role::Monitor(n) => {
                let monitor = &self.monitors[n];
                let cursor = monitor.cursor(host)?;
                let shown = |own: &HostRow| monitor.row(host).as_ref() == Some(own);
                Some((cursor, is_here(cursor).is_none_or(shown)))
            }
            Role::Engine(n) => {
                let picture = self.engines[n].life.as_ref()?.picture.borrow();
                let row = picture.view.host(host)?;
                Some((row.cursor, is_here(row.cursor).is_none_or(|own| own == row)))
            }
            Role::Host(_) | Role::Arbiter(_) => None,
        }
    }

    /// A ticket starts something once, in its time, in the life of the agent that offered it, and
    /// only with a quorum that has really signed.
    fn expired_ticket_starts_nothing(&mut self, n: usize, now: Now, ticket: &Ticket) {
        const RULE: &str = "expired_ticket_starts_nothing";
        let Ok(offer) = ticket.offer.open() else {
            return self.violate(RULE, format!("h{n} took a forged ticket"));
        };
        let agent = self.hosts[n].process.as_ref().map(|process| &process.agent);
        let epoch = agent.map(Agent::epoch);
        let signed = self.oracle.grants.get(&ticket.offer.digest()).cloned().unwrap_or_default();
        let is_quorum = agent.and_then(|agent| Some((agent.trust()?, agent.agreed())));
        let is_quorum = is_quorum.is_some_and(|(trust, agreed)| {
            let mut committees = trust.to_take(agreed, offer.on_loss);
            committees.all(|committee| committee.count(&signed) >= committee.k)
        });
        let is_booked = agent.and_then(|agent| Some((agent.trust()?, agent.agreed())));
        let is_booked = is_booked.is_some_and(|(trust, agreed)| {
            let size = offer.takes();
            let debits: BTreeMap<u32, Amounts> = ticket
                .grants
                .iter()
                .filter_map(|grant| grant.open().ok())
                .map(|grant| (grant.slot, grant.debit))
                .collect();
            trust.committees(agreed).all(|committee| {
                let its = debits.iter().filter(|(slot, _)| committee.has(**slot));
                let sum = its.fold(Amounts::ZERO, |sum, (_, debit)| sum.plus(debit.min(size)));
                times(committee.k, size).fits_in(sum)
            })
        });
        let Some(fact) = self.oracle.offers.get_mut(&(n, offer.id)) else {
            return self.violate(RULE, format!("h{n} redeemed {}, never offered", offer.id));
        };
        fact.redeemed += 1;
        let why = if fact.redeemed > 1 {
            format!("redeemed {} times", fact.redeemed)
        } else if fact.is_over {
            "it was over: voided, or the job was handed away".to_owned()
        } else if Some(fact.epoch) != epoch {
            format!("of epoch {}, the agent is in {epoch:?}", fact.epoch)
        } else if now.mono_ms >= fact.until_ms {
            format!("it ended at {}, it is {}", fact.until_ms, now.mono_ms)
        } else if !is_quorum {
            format!("arbiters {signed:?} have signed, which is no quorum there")
        } else if !is_booked {
            format!("too little is booked for {}", offer.resources)
        } else {
            return;
        };
        self.violate(RULE, format!("h{n} redeemed offer {} for {}: {why}", offer.id, offer.job));
    }

    /// No more of a tenant's VMs are started within the time of its rate than that says.
    fn rate_is_never_exceeded(&mut self, n: usize, ticket: &Ticket) {
        let Ok(Offer { tenant, action: Action::Start, job, .. }) = ticket.offer.open() else {
            return;
        };
        let Some(rate) = self.trust.policy.start_rate(&tenant) else { return };
        let starts = self.oracle.starts.entry(tenant.clone()).or_default();
        starts.push(self.now_us);
        let since_us = self.now_us.saturating_sub(u64::from(rate.within_s) * 1_000_000);
        let lately = starts.iter().filter(|at_us| **at_us >= since_us).count();
        if lately > rate.starts as usize {
            let what = format!("{job} on h{n} is start {lately} of tenant {tenant}, of {rate}");
            self.violate("rate_is_never_exceeded", what);
        }
    }

    /// An arbiter says yes to a start for the first time only while a window is open by its clock.
    fn nothing_is_granted_out_of_hours(&mut self, from: NodeId, grant: &Grant) {
        let is_again =
            self.oracle.grants.get(&grant.offer).is_some_and(|slots| slots.contains(&grant.slot));
        let offer = self.oracle.signed.get(&grant.offer);
        let Some(Offer { tenant, job, action: Action::Start, .. }) = offer.filter(|_| !is_again)
        else {
            return;
        };
        // Witnesses keep no policy, and are asked after the arbiters have said yes.
        let witnesses = self.profile.witnesses_ever();
        let is_free = |n: usize| self.is_liar(n) || witnesses.contains(&n);
        let is_exempt = matches!(self.nodes[from.0].role, Role::Arbiter(n) if is_free(n));
        let now = self.now_at(from);
        if let Some(closed) = self.trust.policy.closed(tenant, now.wall_ms).filter(|_| !is_exempt) {
            let what = format!("slot {} has granted {job}: {closed}", grant.slot);
            self.violate("nothing_is_granted_out_of_hours", what);
        }
    }

    /// What a tenant's jobs hold, by what is on the disks, is within its quota.
    pub(super) fn quota_is_never_exceeded(&mut self) {
        let mut held: BTreeMap<(&TenantId, &JobId), Amounts> = BTreeMap::new();
        for (n, host) in self.hosts.iter().enumerate() {
            for record in &host.disk.ledger.jobs {
                if is_held(host, record) && !self.is_taken(n, record) {
                    let place = held.entry((&record.job.spec.tenant, &record.job.id)).or_default();
                    *place = place.max(amounts_held(host, record));
                }
            }
        }
        let mut broken = None;
        for (tenant, quota) in &self.trust.quota {
            let of_tenant = held.iter().filter(|((of, _), _)| *of == tenant);
            let sum = of_tenant.fold(Amounts::ZERO, |sum, (_, held)| sum.plus(*held));
            if !sum.fits_in(*quota) {
                broken = Some(format!("tenant {tenant} holds {sum} of {quota}"));
            }
        }
        if let Some(what) = broken {
            self.violate("quota_is_never_exceeded", what);
        }
    }

    /// What is held anywhere is in the books of those who grant: k times its size in all, where one that
    /// waits for something, and so grants nothing, may count all of it (S2). Of as many as may lie the books are not
    /// asked.
    pub(super) fn every_hold_is_counted_in_full(&mut self) {
        let lives =
            || self.arbiters.iter().filter_map(|arbiter| Some((arbiter, arbiter.life.as_ref()?)));
        let newest = lives().filter_map(|(_, life)| life.core.borrow().trust().cloned());
        let Some(trust) = newest.max_by_key(|trust| trust.version) else { return };
        let (roster, committee) = (trust.roster_by_host(), trust.committee());
        let grants = lives().filter(|(arbiter, life)| {
            let (core, now_ms) = (life.core.borrow(), self.now_at(arbiter.node).mono_ms);
            let is_of_now = core.trust().is_some_and(|known| *known == trust);
            is_of_now && core.waiting_for(now_ms).is_empty()
        });
        let books: BTreeMap<u32, _> =
            grants.filter_map(|(_, life)| Some((life.core.borrow().slot().ok()?, life))).collect();
        let mut broken = None;
        for (n, host) in self.hosts.iter().enumerate() {
            if !roster.contains_key(&host.id) {
                continue;
            }
            let is_held =
                |record: &&JobRecord| is_held(host, record) && !self.is_taken_by(&trust, n, record);
            for record in host.disk.ledger.jobs.iter().filter(is_held) {
                let (job, size) = (&record.job.id, amounts_held(host, record));
                let counted = |slot: u32| match books.get(&slot) {
                    Some(life) => {
                        let core = life.core.borrow();
                        core.books().of_job_in_all(&record.job.spec.tenant, job).debit
                    }
                    None => size,
                };
                let slots = committee.members.iter().map(|arbiter| arbiter.slot);
                let slots = slots.filter(|slot| trust.f == 0 || !self.is_liars_slot(*slot));
                let counts: BTreeMap<u32, Amounts> =
                    slots.map(|slot| (slot, counted(slot))).collect();
                let sum = counts.values().copied().fold(Amounts::ZERO, Amounts::plus);
                if !times(committee.k - trust.f, size).fits_in(sum) {
                    let (hold, debits) = (record.job.hold, &record.debits);
                    broken = Some(format!(
                        "{job} on {} holds {size} by {hold:?} with {debits:?}, and arbiters of trust version {} count {counts:?}",
                        host.id.short(),
                        trust.version
                    ));
                }
            }
        }
        if let Some(what) = broken {
            self.violate("every_hold_is_counted_in_full", what);
        }
    }

    /// What a guest really has is promised to it, durably: more is written down before it is given,
    /// and less only once it was given up.
    pub(super) fn no_guest_has_more_than_is_promised(&mut self, n: usize) {
        let host = &self.hosts[n];
        let is_alive = |state| matches!(state, JobState::Running | JobState::Paused);
        let alive = host.disk.ledger.jobs.iter().filter(|record| is_alive(record.job.state));
        let broken = alive.into_iter().find_map(|record| {
            let domain = host.hv.domains.get(&record.job.domain_uuid?)?;
            let has = Resources { disk_bytes: 0, ..domain.resources };
            let is_broken = domain.state.is_active() && !has.fits_in(record.job.promised());
            is_broken.then(|| (record.job.id.clone(), has, record.job.promised()))
        });
        if let Some((job, has, promised)) = broken {
            let what = format!("{job} on h{n} has {has}, and is promised {promised}");
            self.violate("no_guest_has_more_than_is_promised", what);
        }
    }

    /// A job that is promised something gets more only with a ticket.
    fn nothing_grows_without_a_ticket(&mut self, n: usize, after: &Job) {
        let rows = &self.hosts[n].disk.ledger.jobs;
        let Some(before) = rows.iter().find(|record| record.job.id == after.id) else { return };
        let before = &before.job;
        // What is by a budget is held to that.
        if after.budget.is_some() {
            return;
        }
        // What has just ended may still be alive on the disk: a resize wakes nothing.
        let is_promised = |job: &Job| !job.state.is_ended() || job.hold.is_some();
        let is_counted = is_promised(before) && is_promised(after);
        if is_counted && !after.promised().fits_in(before.promised()) {
            let (more, had) = (after.promised(), before.promised());
            let what = format!("{} on h{n} had {had} and has {more} without a ticket", after.id);
            self.violate("nothing_grows_without_a_ticket", what);
        }
    }

    /// A stored run: nothing is left half done when it ends, and only its owner writes it.
    fn every_task_is_done_undone_or_owned(&mut self, record: &RunRecord, seen: u64) {
        const RULE: &str = "every_task_is_done_undone_or_owned";
        if record.claim < seen {
            let what =
                format!("run {} was stored with claim {} after {seen}", record.id, record.claim);
            return self.violate(RULE, what);
        }
        if !record.state.is_ended() {
            return;
        }
        let is_last = |i: usize| i >= record.round_start;
        let is_left = |(i, task): (usize, &scheduler::TaskRecord)| match (record.state, task.state)
        {
            (RunState::Stuck, _) => false,
            (_, TaskState::Started | TaskState::Undoing | TaskState::UndoFailed) => true,
            (RunState::Succeeded, TaskState::Pending) => is_last(i),
            (RunState::Succeeded, TaskState::Succeeded) => !is_last(i) && task.kind.has_undo(),
            (RunState::RolledBack, TaskState::Succeeded) => task.kind.has_undo(),
            _ => false,
        };
        let left = record.tasks.iter().enumerate().find(|(i, task)| is_left((*i, task)));
        if let Some((i, task)) = left {
            let what = format!(
                "run {} is {:?} and leaves task {i} ({}) {:?}",
                record.id,
                record.state,
                task.kind.title(record.job()),
                task.state
            );
            return self.violate(RULE, what);
        }
        if record.state != RunState::Succeeded && record.cause.is_none() {
            self.violate(RULE, format!("run {} is {:?} without a reason", record.id, record.state));
        }
    }

    /// What followers are told is on disk.
    fn nothing_is_told_before_it_is_durable(&mut self, n: usize, job: &Job) {
        let is_progress =
            matches!(job.migration.as_deref(), Some(Migration::Outgoing { handoff: None, .. }))
                && job.state == JobState::MigratingOut;
        let rows = &self.hosts[n].disk.ledger.jobs;
        let is_on_disk = rows.iter().any(|record| record.job == *job);
        let batch = self.oracle.last_batch.get(&n);
        let was_written = batch.is_some_and(|batch| {
            batch.iter().any(|w| matches!(w, Write::Job(record) if record.job == *job))
        });
        if !is_progress && !is_on_disk && !was_written {
            let what = format!("h{n} told that {} is {} before it was on disk", job.id, job.state);
            self.violate("nothing_is_told_before_it_is_durable", what);
        }
    }

    /// A task that was undone is not done afterwards.
    fn an_undone_task_is_never_done(&mut self, n: usize, run: Option<protocol::job::RunKey>) {
        let Some(key) = run else { return };
        if self.oracle.undone.contains(&(n, key.run, key.task)) {
            let what = format!("h{n} did task {} of run {} after its undo", key.task, key.run);
            self.violate("an_undone_task_is_never_done", what);
        }
    }

    /// A task of a run stops, sends or deletes a job on a host once; a copy of its request finds it
    /// done.
    fn a_step_takes_effect_at_most_once(
        &mut self,
        n: usize,
        deed: &'static str,
        run: Option<protocol::job::RunKey>,
    ) {
        let Some(key) = run else { return };
        self.oracle.doing.push((n, key.run, key.task, deed));
        if self.oracle.done.contains(&(n, key.run, key.task, deed)) {
            let what = format!("h{n}: {deed} of task {} of run {} again", key.task, key.run);
            self.violate("a_step_takes_effect_at_most_once", what);
        }
    }

    // What the oracle notes.

    /// A request reaches an agent's core.
    pub(super) fn watch_request(&mut self, n: usize, request: &Request) {
        match request {
            Request::Stop { job, .. } | Request::Delete { job, .. } | Request::Release(job) => {
                self.oracle.asked_to_end.insert((n, job.clone()));
            }
            Request::Act { job, act: Act::Save } => {
                self.oracle.asked_to_end.insert((n, job.clone()));
            }
            Request::Put { .. } => self.oracle.puts.push((n, request.clone())),
            Request::Handoff { .. } => self.oracle.handoffs.push((n, request.clone())),
            Request::Trust(signed) => {
                for job in self.ended_by(n, signed) {
                    self.oracle.asked_to_end.insert((n, job));
                }
            }
            Request::VoidOffer(id) => {
                if let Some(fact) = self.oracle.offers.get_mut(&(n, *id)) {
                    fact.is_over = true;
                }
            }
            Request::Offer(_)
            | Request::Act { .. }
            | Request::Protect { .. }
            | Request::Rank { .. }
            | Request::Resize { .. }
            | Request::UndoResize { .. }
            | Request::TakeSnapshot { .. }
            | Request::Revert { .. }
            | Request::DeleteSnapshot { .. }
            | Request::ReadSnapshot { .. }
            | Request::EndReading { .. }
            | Request::Migrate { .. }
            | Request::CancelMigration { .. }
            | Request::Intend(_)
            | Request::Pools(_)
            | Request::History(_)
            | Request::ShowHistory
            | Request::PutNetwork { .. }
            | Request::DeleteNetwork(_)
            | Request::ShowNetwork(_) => {}
        }
    }

    /// The core has answered a request.
    pub(super) fn watch_handled(
        &mut self,
        n: usize,
        now: Now,
        reply: ReplyId,
        asked: &Request,
        effects: &[Effect],
    ) {
        let answer = effects.iter().find_map(|effect| match effect {
            Effect::Reply(to, answer) if *to == reply => Some(answer),
            _ => None,
        });
        match (asked, answer) {
            (Request::Offer(_), Some(Ok(Reply::Offered(offered)))) => {
                let Ok(offer) = offered.offer.open() else { return };
                self.oracle.signed.insert(offered.offer.digest(), offer.clone());
                let trust = &self.trust;
                let fact = OfferFact {
                    epoch: offer.id.epoch,
                    trust_version: offer.trust_version,
                    job: offer.job,
                    resources: offer.resources,
                    until_ms: now.mono_ms + trust.term_ms - trust.kill_ms,
                    is_over: false,
                    is_handed: false,
                    redeemed: 0,
                };
                if self.oracle.offers.insert((n, offer.id), fact).is_some() {
                    let what = format!("h{n} has made offer {} twice", offer.id);
                    self.violate("offer_ids_never_repeat", what);
                }
            }
            (Request::Put { job, put }, Some(Ok(Reply::Accepted(_)))) => {
                self.oracle.asked_to_end.remove(&(n, job.clone()));
                self.an_undone_task_is_never_done(n, put.run);
                match &put.ticket {
                    Some(ticket) => {
                        self.expired_ticket_starts_nothing(n, now, ticket);
                        self.rate_is_never_exceeded(n, ticket);
                    }
                    None => self.nothing_is_taken_without_leave(n, job, put),
                }
            }
            (Request::Resize { resize, .. }, Some(Ok(Reply::Accepted(job)))) => {
                self.an_undone_task_is_never_done(n, resize.run);
                let is_redeemed = |ticket: &&Ticket| {
                    ticket.offer.open().is_ok_and(|offer| job.hold == Some(offer.id))
                };
                match resize.ticket.as_ref().filter(is_redeemed) {
                    Some(ticket) => self.expired_ticket_starts_nothing(n, now, ticket),
                    None => self.nothing_grows_without_a_ticket(n, job),
                }
            }
            (Request::UndoResize { .. }, Some(Ok(Reply::Accepted(job)))) => {
                self.nothing_grows_without_a_ticket(n, job);
            }
            (Request::Migrate { migrate, .. }, Some(Ok(Reply::Accepted(_)))) => {
                self.an_undone_task_is_never_done(n, migrate.run);
                self.a_step_takes_effect_at_most_once(n, "send", migrate.run);
            }
            (Request::Stop { stop, .. }, Some(Ok(Reply::Accepted(_)))) => {
                self.a_step_takes_effect_at_most_once(n, "stop", stop.run);
            }
            (Request::Delete { run, .. }, Some(Ok(Reply::Accepted(_)))) => {
                self.a_step_takes_effect_at_most_once(n, "delete", *run);
            }
            _ => {}
        }
    }

    /// A host answers.
    pub(super) fn watch_reply(&mut self, n: usize, asked: &Asked, answer: &Result<Reply, Refusal>) {
        match answer {
            Ok(Reply::Accepted(job)) if asked.name == "put" => {
                let is_on_disk = |record: &host_agent::core::JobRecord| {
                    record.job.id == job.id && record.job.revision >= job.revision
                };
                let rows = &self.hosts[n].disk.ledger.jobs;
                let batch = self.oracle.last_batch.get(&n).into_iter().flatten();
                let mut batch = batch.filter_map(|w| match w {
                    Write::Job(record) => Some(record),
                    _ => None,
                });
                if !rows.iter().any(is_on_disk) && !batch.any(|record| is_on_disk(record)) {
                    let what = format!("h{n} said it had taken {} before it was on disk", job.id);
                    return self.violate("accepted_jobs_survive_restart", what);
                }
                if rows.iter().any(is_on_disk) {
                    self.oracle.accepted.insert((n, job.id.clone()), job.revision);
                }
            }
            Ok(_) => {}
            Err(no) => self.coverage.hit_owned(format!("refusal.{}", no.name())),
        }
        let is_undo = matches!(asked.name, "delete" | "cancel-migration" | "undo-resize")
            && !matches!(answer, Err(Refusal::StaleClaim { .. }));
        if let Some(key) = asked.run.filter(|_| is_undo) {
            self.oracle.undone.insert((n, key.run, key.task));
        }
    }

    /// What a host was about to write is lost with its agent.
    pub(super) fn forget_doing(&mut self, n: usize) {
        self.oracle.doing.retain(|deed| deed.0 != n);
    }

    /// A batch is about to be on disk.
    pub(super) fn before_durable(&mut self, n: usize, writes: &[Write]) {
        for write in writes {
            match write {
                Write::JobGone(job) => {
                    self.oracle.accepted.remove(&(n, job.clone()));
                    self.absence_destroys_nothing(n, job, "its row was deleted");
                }
                Write::Job(record) => {
                    let is_handed = |job: &Job| {
                        matches!(
                            job.migration.as_deref(),
                            Some(Migration::Outgoing { handoff: Some(_), .. })
                        )
                    };
                    let rows = &self.hosts[n].disk.ledger.jobs;
                    let was_handed = rows
                        .iter()
                        .any(|known| known.job.id == record.job.id && is_handed(&known.job));
                    let is_handed = is_handed(&record.job) && !was_handed;
                    if is_handed {
                        self.end_offers_of(n, &record.job.id);
                    }
                }
                Write::Agreed(_) => self.coverage.hit("trust.agreed"),
                Write::Trust(_) => self.coverage.hit("trust.taken"),
                Write::Boot(_)
                | Write::HostIntent(_)
                | Write::Pools(_)
                | Write::History(_)
                | Write::Claim(..)
                | Write::ClaimGone(_)
                | Write::Network(_)
                | Write::NetworkGone(_) => {}
            }
        }
        let (done, doing) =
            std::mem::take(&mut self.oracle.doing).into_iter().partition(|deed| deed.0 == n);
        self.oracle.doing = doing;
        let done: Vec<_> = done;
        self.oracle.done.extend(done);
        self.oracle.last_batch.insert(n, writes.to_vec());
    }

    fn end_offers_of(&mut self, n: usize, job: &JobId) {
        let of_job = |((host, _), fact): &(&(usize, OfferId), &mut OfferFact)| {
            *host == n && fact.job == *job
        };
        for (_, fact) in self.oracle.offers.iter_mut().filter(of_job) {
            fact.is_over = true;
            fact.is_handed = true;
        }
    }

    /// A host tells its followers.
    pub(super) fn watch_publish(&mut self, n: usize, event: &HostEvent) {
        let Fact::JobChanged { job } = &event.fact else { return };
        self.nothing_is_told_before_it_is_durable(n, job);
        self.coverage.hit_owned(format!("job.{}", job.state));
        if matches!(job.reason, Some(Reason::Fenced { .. })) {
            self.coverage.hit("fence.taken");
        }
        self.watch_size(n, job);
        self.watch_budget(job);
        let before = self.oracle.states.insert((n, job.id.clone()), job.state);
        if let Some(before) = before.filter(|before| *before != job.state) {
            self.coverage.hit_owned(format!("transition.{before}.{}", job.state));
        }
    }

    /// How changes of size come out.
    fn watch_size(&mut self, n: usize, job: &Job) {
        let stage = job.resize.as_ref().map(|resize| resize.stage);
        let place = (n, job.id.clone());
        if stage == Some(ResizeStage::Changing) {
            self.oracle.resizing.entry(place).or_insert_with(|| job.promised());
            return;
        }
        let Some(promised) = self.oracle.resizing.remove(&place) else { return };
        self.coverage.hit(match stage {
            Some(_) => "resize.next-start",
            None if job.state.is_ended() => "resize.of-ended",
            None if job.promised() == promised => "resize.grown",
            None => "resize.given-up",
        });
    }

    /// A host begins a piece of work.
    pub(super) fn watch_work(&mut self, work: &Work) {
        self.coverage.hit(match work {
            Work::StartVm(_) => "work.start-vm",
            Work::RestoreVm(_) => "work.restore-vm",
            Work::StartOneOff(_) => "work.start-one-off",
            Work::ReadExit => "work.read-exit",
            Work::StopVm { .. } => "work.stop-vm",
            Work::PinVm(_) => "work.pin-vm",
            Work::PauseVm => "work.pause-vm",
            Work::ResumeVm => "work.resume-vm",
            Work::SaveVm => "work.save-vm",
            Work::ResetVm => "work.reset-vm",
            Work::RebootVm { .. } => "work.reboot-vm",
            Work::ResizeVm { .. } => "work.resize-vm",
            Work::TakeOut { .. } => "work.take-out",
            Work::SnapshotVm { .. } => "work.snapshot-vm",
            Work::AdoptVm => "work.adopt-vm",
            Work::ReleaseVm => "work.release-vm",
            Work::Delete => "work.delete",
            Work::PrepareIncoming(_) => "work.prepare-incoming",
            Work::TakeOver => "work.take-over",
            Work::SendVm { .. } => "work.send-vm",
            Work::SettleSend => "work.settle-send",
            Work::CancelSend => "work.cancel-send",
            Work::StartService(_) | Work::StopService => "work.service",
        });
    }

    /// An agent calls libvirt. What it ends then was to be ended, or nothing of it was there: so a start that has failed
    /// is followed by.
    pub(super) fn watch_hv_call(&mut self, n: usize, op: &HvOp, caller: Caller) {
        let is_asked = |job| self.oracle.asked_to_end.contains(&(n, job));
        if ended_by(op).is_some() && self.ended_by_call(n, op).is_none_or(is_asked) {
            self.oracle.ends.insert((n, caller.life, caller.call));
        }
    }

    /// libvirt is about to do something to a guest.
    pub(super) fn watch_hv(&mut self, n: usize, op: &HvOp, caller: Caller) {
        let was_asked = self.oracle.ends.remove(&(n, caller.life, caller.call));
        let Some(job) = self.ended_by_call(n, op) else { return };
        let is_asked = self.oracle.asked_to_end.contains(&(n, job.clone()));
        // A call that hangs in libvirt while its agent dies, and meets what was started since, cannot be called back.
        let outlived = caller.life != self.nodes[self.hosts[n].node.0].life;
        if was_asked && outlived && !is_asked {
            return self.coverage.hit("hv.outlives-its-agent");
        }
        self.absence_destroys_nothing(n, &job, op.name());
    }

    /// Whose guest or definition is ended by a call, as it is now.
    fn ended_by_call(&self, n: usize, op: &HvOp) -> Option<JobId> {
        let domain = self.hosts[n].hv.domains.get(&ended_by(op)?)?;
        let ends = domain.state.is_active() || matches!(op, HvOp::Undefine(_));
        ends.then(|| domain.job.clone())
    }

    /// Somebody answers over the network.
    pub(super) fn watch_answer(&mut self, from: NodeId, told: &Told) {
        match told {
            Told::Answer(Answer::Grant(grant)) => {
                self.coverage.hit("grant");
                let signer = grant.key();
                let is_own = |slot: u32| {
                    usize::try_from(slot).is_ok_and(|n| arbiter_key(n).public() == signer)
                };
                if let Ok(grant) = grant
                    .open()
                    .map_err(drop)
                    .and_then(|grant: Grant| is_own(grant.slot).then_some(grant).ok_or(()))
                {
                    self.nothing_is_granted_out_of_hours(from, &grant);
                    self.oracle.grants.entry(grant.offer).or_default().insert(grant.slot);
                }
            }
            // Whoever asks an arbiter before is not told no by it.
            Told::TenantRoom(TenantRoom { starts: Some(starts), .. }) if starts.left() == 0 => {
                self.coverage.hit("rate.used-up");
            }
            Told::Answer(Answer::Denial(denial)) => {
                if let Ok(denial) = denial.open() {
                    self.coverage.hit(match denial.why {
                        DenialReason::Silent { .. } => "denial.silent",
                        DenialReason::Rebuilding { .. } => "denial.rebuilding",
                        DenialReason::Promised { .. } => "denial.promised",
                        DenialReason::NotTheLast { .. } => "denial.not-the-last",
                        DenialReason::OfferEnded { .. } => "denial.offer-ended",
                        DenialReason::Quota { limit, used, .. }
                            if used.vms >= limit.vms && limit.tells_vms() =>
                        {
                            "denial.quota_vms"
                        }
                        DenialReason::Quota { .. } => "denial.quota",
                        DenialReason::Window { .. } => "denial.window",
                        DenialReason::Rate { .. } => "denial.rate",
                        DenialReason::OtherTrust { .. } => "denial.other-trust",
                        DenialReason::Policy { .. } => "denial.policy",
                    });
                }
            }
            _ => {}
        }
    }

    /// A run's record is about to be stored.
    pub(super) fn watch_saved(&mut self, record: &RunRecord, seen: u64) {
        self.coverage.hit(run_state_name(record.state));
        for task in &record.tasks {
            self.coverage.hit(task_state_name(task.state));
        }
        self.every_task_is_done_undone_or_owned(record, seen);
    }
}

/// What a host was asked, as far as its answer is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// What it is called.
    pub name: &'static str,
    /// Whose task it is.
    pub run: Option<protocol::job::RunKey>,
}

impl Asked {
    /// The part of a request that matters.
    #[must_use]
    pub fn of(request: &Request) -> Self {
        let run = match request {
            Request::Delete { run, .. } | Request::CancelMigration { run, .. } => *run,
            Request::Put { put, .. } => put.run,
            Request::UndoResize { run, .. } => *run,
            _ => None,
        };
        Self { name: super::message::request_name(request), run }
    }
}

/// Whether a record holds its job. R14: a reboot has closed what may be lost, whether that is written yet or not.
fn is_held(host: &Host, record: &JobRecord) -> bool {
    let lapses = record.job.spec.as_vm().is_some_and(|vm| vm.on_loss == OnLoss::Stop);
    let boot = host.boot.to_string();
    let is_of_now = record.issued.as_ref().is_some_and(|issued| issued.boot == boot);
    record.job.hold.is_some() && (is_of_now || !lapses)
}

/// What a record that holds its job holds of it. A reboot has taken from its guest what had not been
/// given up yet, whether that is written yet or not; what is to be written into the definition of one that was
/// off, it has not.
pub(super) fn size_held(host: &Host, record: &JobRecord) -> Resources {
    let (job, boot) = (&record.job, host.boot.to_string());
    let is_changing = job.resize.as_ref().is_some_and(|r| r.stage == ResizeStage::Changing);
    if host.disk.ledger.boot_of_rows == boot || is_changing && job.state.is_ended() {
        record.job.promised()
    } else {
        record.job.spec.resources()
    }
}

/// What a record that holds its job holds of a quota: a budget is what it says.
fn amounts_held(host: &Host, record: &JobRecord) -> Amounts {
    match record.job.spec.as_budget() {
        Some(budget) => budget.amounts(),
        None => Amounts::of_vm(size_held(host, record)),
    }
}

/// The domain that a call ends.
fn ended_by(op: &HvOp) -> Option<Uuid> {
    match op {
        HvOp::Destroy(uuid) | HvOp::Shutdown(uuid) | HvOp::Save(uuid) | HvOp::Undefine(uuid) => {
            Some(*uuid)
        }
        _ => None,
    }
}
