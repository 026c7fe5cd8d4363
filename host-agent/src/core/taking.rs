//! Taking a job: the offer, the ticket, admission, and the row that makes it ours.

use std::collections::{BTreeMap, BTreeSet};

use protocol::admission::{Arrival, Room, admit};
use protocol::api::{OfferReply, OfferRequest, PutJob};
use protocol::event::Fact;
use protocol::host::HostIntent;
use protocol::hugepages::Pages;
use protocol::id::{JobId, OfferId, PoolName, Revision};
use protocol::job::{Job, JobSpec, JobState, ObservedDomain, Reason};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::signed::Signed;
use protocol::ticket::{Action, Expected, Offer, OfferStanding, Purpose, VerifiedTicket, verify};
use protocol::vm::{OnLoss, VmSpec};
use transport::clock::Now;
use uuid::Uuid;

use super::agent::{Agent, Entry, JOBS_MAX};
use super::claims::Deed;
use super::input::{Effect, Reply};
use super::leaving::Leaving;
use super::ledger::{Intent, JobRecord, Tally};
use super::offers::{OPEN_MAX, Open};
use super::pools::Coming;
use super::snapshots::check_not_reverting;

/// Starts under way at a time, those that wait for their turn included: at four at once and some
/// seconds each, the last of them begins well within the minute that clients wait.
pub(super) const STARTS_WAITING_MAX: usize = 32;
/// When to ask again: one or two of them are over by then.
const STARTS_RETRY_MS: u64 = 1_000;

/// What an offer is for.
pub(super) struct Reserved {
    /// What the job takes.
    pub(super) resources: Resources,
    /// How much more that is than what it has been promised: so much is kept free for it.
    pub(super) more: Resources,
    /// How many more huge pages: kept free for it as well.
    pub(super) pages: Pages,
    /// How many more dedicated CPUs.
    pub(super) dedicated_cpus: u32,
    /// The domain that it would make a job of.
    pub(super) domain: Option<Uuid>,
    /// What would be made in pools, in bytes.
    pub(super) in_pools: BTreeMap<PoolName, u64>,
}

impl Agent {
    /// R8: admission and a reservation first, then the signed offer.
    pub(super) fn offer(&mut self, now: Now, ask: OfferRequest) -> Result<Reply, Refusal> {
        let Some(trust) = &self.trust else {
            return Err(Refusal::Unsupported {
                what: "make offers".to_owned(),
                why: "it has no trust document and needs no tickets; PUT the job itself".to_owned(),
            });
        };
        if self.offers.len() >= OPEN_MAX {
            return Err(Refusal::Busy {
                what: "open offers".to_owned(),
                limit: OPEN_MAX,
                retry_after_ms: trust.term_ms / 4,
            });
        }
        let left_ms = trust.term_ms - trust.kill_ms;
        let trust_version = trust.version;
        let arbiters: Vec<u32> = trust.members().iter().map(|a| a.slot).collect();
        let agreed = self.agreed();
        let asked = match ask.action {
            Action::Start | Action::FailOver { .. } => {
                let finds = ask.finds_disks || matches!(ask.action, Action::FailOver { .. });
                self.check_arrival(&ask, self.arrival(&ask.job, &ask.spec, finds))?
            }
            Action::MigrateIn { .. } => self.check_arrival(&ask, Arrival::Migrate)?,
            Action::Resize => self.check_growth(&ask)?,
            Action::Delegate { .. } => self.check_delegation(&ask)?,
        };
        let action = match ask.spec.as_budget() {
            Some(budget) => self.delegation(&ask.job, budget),
            None => ask.action,
        };
        let Reserved { resources, more, pages, dedicated_cpus, domain, in_pools } = asked;
        let on_loss = ask.spec.as_vm().map_or(OnLoss::Keep, |vm| vm.on_loss);
        let id = self.offers.issue(Open {
            job: ask.job.clone(),
            resources: more,
            pages,
            dedicated_cpus,
            tenant: ask.spec.tenant.clone(),
            on_loss,
            domain,
            in_pools,
            until_ms: now.mono_ms + left_ms,
        });
        let offer = Offer {
            host: self.host.id.clone(),
            id,
            job: ask.job,
            revision: ask.revision,
            spec: ask.spec.digest(),
            action,
            resources,
            tenant: ask.spec.tenant,
            on_loss,
            plan: arbiters.into_iter().map(|slot| (slot, resources)).collect(),
            trust_version,
            agreed,
        };
        Ok(Reply::Offered(OfferReply { offer: Signed::seal(&offer, &self.key), left_ms }))
    }

    fn check_arrival(&self, ask: &OfferRequest, how: Arrival) -> Result<Reserved, Refusal> {
        if ask.spec.as_budget().is_some() {
            let message = format!(
                "{} is a budget, which is not started: ask for an offer to delegate it",
                ask.job
            );
            return Err(Refusal::Invalid { message });
        }
        self.check_change(&ask.job, ask.revision, &ask.spec, how)?;
        let domain = self.to_adopt(&ask.job, &ask.spec);
        let pools = self.pools_without(None);
        let room = self.room_without(Some(&ask.job), None, domain);
        admit(Room { pools: &pools, ..room }, &ask.spec, how)?;
        let makes = |pool: &PoolName| match how {
            Arrival::Start => true,
            Arrival::StartAgain => false,
            Arrival::StartOnShared | Arrival::Migrate => !pools[pool].is_shared,
        };
        let in_pools = ask.spec.as_vm().map(VmSpec::bytes_by_pool).unwrap_or_default();
        let in_pools = in_pools.into_iter().filter(|(pool, _)| makes(pool));
        let in_pools = in_pools.map(|(pool, bytes)| (pool.clone(), bytes)).collect();
        let (resources, more, pages) = (ask.spec.resources(), ask.spec.takes(), ask.spec.pages());
        let dedicated_cpus = ask.spec.dedicated_cpus();
        Ok(Reserved { resources, more, pages, dedicated_cpus, domain, in_pools })
    }

    pub(super) fn put(
        &mut self,
        now: Now,
        id: JobId,
        put: PutJob,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let mut writes = Vec::new();
        let claimed = self.claims.check(put.run, &mut writes);
        out.extend(writes.into_iter().map(Effect::Persist));
        claimed?;
        if let Some(known) = self.jobs.get(&id).map(|entry| &entry.record.job)
            && known.revision == put.revision
            && *known.spec == put.spec
        {
            return Ok(Reply::AlreadySo(Box::new(known.clone())));
        }
        if put.must_exist && !self.jobs.contains_key(&id) {
            return Err(Refusal::NoSuchJob { job: id });
        }
        if let Some(budget) = put.spec.as_budget() {
            return self.put_budget(now, id, put, budget, out);
        }
        if let Some(by) = &put.budget {
            self.check_not_put_before(&id, &put)?;
            self.check_spending(&id, &put, by)?;
        }
        let ticket = self.verify_ticket(now, &id, &put)?;
        let action = ticket.as_ref().map(|t| &t.offer().action);
        let finds = put.finds_disks || matches!(action, Some(Action::FailOver { .. }));
        let arrival = match action {
            Some(Action::MigrateIn { .. }) => Arrival::Migrate,
            // A ticket to resize, or for a budget, does not get here.
            Some(
                Action::Start | Action::FailOver { .. } | Action::Resize | Action::Delegate { .. },
            )
            | None => self.arrival(&id, &put.spec, finds),
        };
        self.check_change(&id, put.revision, &put.spec, arrival)?;
        // The ticket's own reservation makes room for the job that redeems it.
        let redeemed = ticket.as_ref().map(|t| t.offer().id);
        let until_ms = redeemed.and_then(|offer| self.offers.until_ms(offer));
        let issued = self.trust.as_ref().zip(until_ms).map(|(t, until)| self.issued(t, until));
        let domain = self.to_adopt(&id, &put.spec);
        let pools = self.pools_without(redeemed);
        let room = self.room_without(Some(&id), redeemed, domain);
        admit(Room { pools: &pools, ..room }, &put.spec, arrival)?;
        self.check_starts(&put.spec)?;
        if let Some(offer) = redeemed {
            self.offers.end(offer, OfferStanding::Used);
        }
        self.offers.end_of_job(&id);
        let coming = coming(arrival, ticket.as_ref());
        let is_found = matches!(coming, Coming::Finds { .. });
        let stay = self.stay(&id, &put.spec, coming);
        let record = self.new_record(now, id.clone(), put, ticket.as_ref(), domain);
        let mut record = JobRecord { issued, stay, ..record };
        if is_found {
            // What its disks were elsewhere is written beside them.
            record.job.snapshots = Box::default();
        }
        let job = record.job.clone();
        if job.budget.is_some() {
            self.remember_done(job.run, Deed::Spend, out);
        }
        self.insert(now, record, out);
        if let Some(uuid) = domain {
            self.publish(now, Fact::DomainGone { uuid }, out);
        }
        self.go_on(now, &id, out);
        Ok(Reply::Accepted(Box::new(job)))
    }

    /// A ticket works once; what is started by a budget has none. So a copy of the request that comes when its VM
    /// was deleted, and perhaps made anew since, is known by its task.
    fn check_not_put_before(&self, id: &JobId, put: &PutJob) -> Result<(), Refusal> {
        match self.claims.is_done(put.run, Deed::Spend) {
            true => Err(Refusal::NoSuchJob { job: id.clone() }),
            false => Ok(()),
        }
    }

    /// A job whose disks are here does not need the images that they were made from.
    fn arrival(&self, id: &JobId, spec: &JobSpec, finds: bool) -> Arrival {
        let known = self.jobs.get(id).map(|entry| &entry.record.job);
        if finds && spec.in_pools() != Resources::ZERO {
            return Arrival::StartOnShared;
        }
        if known.is_some_and(Job::keeps_disks) { Arrival::StartAgain } else { Arrival::Start }
    }

    /// A start more than the host can begin soon is not taken: whoever asks is told when to ask again,
    /// and its ticket is good until then.
    fn check_starts(&self, spec: &JobSpec) -> Result<(), Refusal> {
        if spec.as_vm().is_some() && self.jobs.starts() >= STARTS_WAITING_MAX {
            return Err(Refusal::Busy {
                what: "starts under way".to_owned(),
                limit: u32::try_from(STARTS_WAITING_MAX).unwrap_or(u32::MAX),
                retry_after_ms: STARTS_RETRY_MS,
            });
        }
        Ok(())
    }

    /// Whether the job may be changed to this at all, whoever asks and whatever the room.
    fn check_change(
        &self,
        id: &JobId,
        revision: Revision,
        spec: &JobSpec,
        arrival: Arrival,
    ) -> Result<(), Refusal> {
        let is_namesake =
            |d: &&ObservedDomain| d.name == id.as_str() && spec.adopted() != Some(d.uuid);
        if self.observed.values().any(|domain| is_namesake(&domain)) {
            return Err(Refusal::NameTaken { job: id.clone() });
        }
        self.check_adoption(id, spec)?;
        self.check_on_loss(spec)?;
        self.check_macs(id, spec)?;
        self.check_pins(id, spec)?;
        let is_alive = |entry: &Entry| !entry.record.job.state.is_ended();
        if self.host.intent == Some(HostIntent::Drain) && !self.jobs.get(id).is_some_and(is_alive) {
            return Err(Refusal::HostDraining { host: self.host.id.clone() });
        }
        let Some(entry) = self.jobs.get(id) else {
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
        if spec.tenant != job.spec.tenant {
            let (tenant, other) = (&job.spec.tenant, &spec.tenant);
            let message = format!(
                "{id} is tenant {tenant}'s here: delete it first, or choose another name for tenant {other}'s"
            );
            return Err(Refusal::Invalid { message });
        }
        if revision <= job.revision {
            return Err(Refusal::RevisionConflict { job: id.clone(), current: job.revision });
        }
        let wrong_state =
            |needed: String| Err(Refusal::WrongState { job: id.clone(), state: job.state, needed });
        match entry.record.intent {
            Intent::Delete => {
                return wrong_state("it is being deleted: wait until it is gone".to_owned());
            }
            Intent::Release => {
                return wrong_state("it is being released: wait until it is".to_owned());
            }
            _ => {}
        }
        check_not_reverting(job)?;
        if arrival == Arrival::Migrate && !self.is_on_shared(&job.spec) {
            job.refuse_with_snapshots(
                "its disks here are older, and have them: delete it here first",
            )?;
        }
        if !job.state.is_ended() || entry.work.is_some() {
            return wrong_state("stop it before starting it again with another spec".to_owned());
        }
        let is_start = arrival != Arrival::Migrate;
        let is_found = arrival == Arrival::StartOnShared;
        if entry.record.has_saved_memory() && is_found {
            return wrong_state(
                "its memory was saved here, and its disks have been used elsewhere since: delete it here first"
                    .to_owned(),
            );
        }
        if let (Some(Reason::Migrated { to }), true, false) = (&job.reason, is_start, is_found) {
            return wrong_state(format!(
                "it has moved to {to} and its disks here are older: start it there, or delete it here"
            ));
        }
        if entry.record.has_saved_memory() && *job.spec != *spec {
            return Err(Refusal::WrongState {
                job: id.clone(),
                state: job.state,
                needed: "its memory is saved, and fits only the spec it was saved with: start it \
                         with that, or delete it first"
                    .to_owned(),
            });
        }
        let disks = |spec: &JobSpec| spec.as_vm().map(|vm| vm.disks.clone());
        if disks(&job.spec) != disks(spec) {
            return Err(Refusal::Invalid {
                message: format!(
                    "job {id} has its volumes already and the new spec has other disks; delete it first, or keep the disks"
                ),
            });
        }
        Ok(())
    }

    /// Nobody covers what runs on a lone host, so nothing there could be started elsewhere in time.
    fn check_on_loss(&self, spec: &JobSpec) -> Result<(), Refusal> {
        match spec.as_vm() {
            Some(vm) if vm.on_loss == OnLoss::Stop && self.trust.is_none() => {
                Err(Refusal::Unsupported {
                    what: "run a VM with on_loss = stop".to_owned(),
                    why: "it is a lone host, which no arbiter covers: leave on_loss away"
                        .to_owned(),
                })
            }
            _ => Ok(()),
        }
    }

    /// R9, as far as a ticket is needed: VMs on a host with trust, unless a budget was granted for them. Services
    /// are the operator's own doing, and a lone host obeys whoever may talk to it.
    fn verify_ticket(
        &self,
        now: Now,
        id: &JobId,
        put: &PutJob,
    ) -> Result<Option<VerifiedTicket>, Refusal> {
        let (Some(trust), Some(_), None) = (&self.trust, put.spec.as_vm(), &put.budget) else {
            return Ok(None);
        };
        let expected = Expected {
            host: &self.host.id,
            host_key: &self.host.key,
            job: id,
            revision: put.revision,
            spec: put.spec.digest(),
            resources: put.spec.resources(),
            purpose: Purpose::Take,
            agreed: self.agreed,
        };
        let standing = |offer| self.standing(now, offer);
        Ok(Some(verify(put.ticket.as_ref(), expected, trust, standing)?))
    }

    pub(super) fn standing(&self, now: Now, offer: OfferId) -> OfferStanding {
        if self.jobs.holds(offer) {
            OfferStanding::Used
        } else {
            self.offers.standing(offer, now.mono_ms)
        }
    }

    pub(super) fn new_record(
        &self,
        now: Now,
        id: JobId,
        put: PutJob,
        ticket: Option<&VerifiedTicket>,
        adopting: Option<Uuid>,
    ) -> JobRecord {
        let (state, intent) = match ticket.map(|t| &t.offer().action) {
            Some(Action::MigrateIn { from, hold }) => {
                let (from, hold) = (from.clone(), *hold);
                (JobState::MigratingIn, Intent::Receive { from, hold, is_handed: false })
            }
            // A ticket to resize does not get here.
            Some(
                Action::Start | Action::FailOver { .. } | Action::Resize | Action::Delegate { .. },
            )
            | None => {
                (JobState::Accepted, if adopting.is_some() { Intent::Adopt } else { Intent::Run })
            }
        };
        // Its disks are the same, and what they keep with them.
        let before = self.jobs.get(&id).map(|entry| &entry.record);
        let snapshots = before.map(|record| record.job.snapshots.clone()).unwrap_or_default();
        let restores =
            state == JobState::Accepted && before.is_some_and(JobRecord::has_saved_memory);
        // Files of disks that it has no more; its start defines it without them.
        let leaving = before.and_then(|record| record.leaving.clone());
        let leaving = leaving.map(|leaving| Box::new(Leaving { is_defined: true, ..*leaving }));
        let domain_uuid = put.spec.as_vm().map(|vm| vm.adopted.unwrap_or_else(|| id.domain_uuid()));
        JobRecord {
            job: Job {
                id,
                revision: put.revision,
                spec: put.spec.into(),
                state,
                reason: None,
                since_ms: now.wall_ms,
                hold: ticket.map(|t| t.offer().id),
                budget: put.budget,
                away: BTreeSet::new(),
                domain_uuid,
                run: put.run,
                resize: None,
                migration: None,
                endpoint: None,
                cards: Box::default(),
                snapshots,
            },
            intent,
            debits: ticket.map(|t| t.debits().clone()).unwrap_or_default(),
            issued: None,
            tally: Tally::default(),
            last_resize: None,
            leaving,
            last_revert: None,
            stay: None,
            cpus: vec![],
            // What is defined anew is not where its last guest was.
            penned: restores && before.is_some_and(|record| record.penned),
            restores,
            deletes_shared: false,
            ended: None,
        }
    }
}

/// How a job comes, as far as its volumes in pools are concerned.
fn coming(arrival: Arrival, ticket: Option<&VerifiedTicket>) -> Coming {
    let from = match ticket.map(|t| &t.offer().action) {
        Some(Action::MigrateIn { from, .. } | Action::FailOver { from, .. }) => Some(from.clone()),
        Some(Action::Start | Action::Resize | Action::Delegate { .. }) | None => None,
    };
    match arrival {
        Arrival::Start => Coming::Makes,
        Arrival::StartAgain => Coming::Again,
        Arrival::StartOnShared | Arrival::Migrate => Coming::Finds { from },
    }
}
