//! The agent's core: requests in, effects out.
//!
//! Decides whether a request is taken, already so, or refused; what is remembered; what is told to
//! whom; and what has to be done next. How a job goes on after that is in `job_life`, how a new life
//! of the agent starts is in `recover`.

use std::collections::BTreeMap;

use hypervisor::DomainInfo;
use protocol::admission::{Arrival, Room, admit};
use protocol::api::{MigrateJob, OfferReply, OfferRequest, PutJob, StopJob};
use protocol::event::{Event, Fact};
use protocol::host::{Host, Inventory};
use protocol::id::{Cursor, Epoch, HostId, JobId, OfferId, Revision};
use protocol::job::{Job, JobKind, JobSpec, JobState, Migration, ObservedDomain, Reason, RunKey};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::signed::{SecretKey, Signed};
use protocol::ticket::{Action, Expected, Handoff, Offer, OfferStanding, VerifiedTicket, verify};
use protocol::trust::Trust;
use transport::clock::Now;
use uuid::Uuid;

use super::claims::{Claims, Deed};
use super::input::{Effect, Input, Look, Reply, ReplyId, Request, Work, WorkId};
use super::ledger::{Intent, JobRecord, LedgerState, Write};
use super::offers::{OPEN_MAX, Offers, Open};
use super::route;

/// Jobs in the ledger, ended ones included. Each row is about 1 KiB and an inventory with all of
/// them must fit into one message; deleting is by request only, so beyond this the host refuses new
/// jobs instead of forgetting old ones.
pub(super) const JOBS_MAX: usize = 5_000;

/// What an agent is born with.
#[derive(Debug)]
pub struct Birth {
    /// The key it signs with; its id is the fingerprint.
    pub key: SecretKey,
    /// What it says of itself; capacity and images as measured, allocation zero.
    pub host: Host,
    /// What it remembers.
    pub ledger: LedgerState,
}

/// A job in memory.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) record: JobRecord,
    /// The work under way, if any. At most one a job, so that effects of one job never race.
    pub(super) work: Option<UnderWay>,
    /// True when a sending was begun, or a service's supervisor told to run, in this or an earlier
    /// life: it must be settled, not begun again.
    pub(super) is_begun: bool,
    /// Grows with every change of the row and every work begun.
    pub(super) change: u64,
}

/// A piece of work that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UnderWay {
    pub(super) id: WorkId,
    pub(super) kind: WorkKind,
}

/// What its end may mean, and whether a stop may overtake it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkKind {
    /// A more impatient stop overtakes it.
    Stop,
    Pause,
    Resume,
    Save,
    /// A reset, or a reboot, which any stop overtakes: a guest may take its time.
    Reboot,
    /// Everything else.
    Other,
}

/// The agent.
#[derive(Debug)]
pub struct Agent {
    pub(super) key: SecretKey,
    pub(super) host: Host,
    /// The host as followers were last told.
    told: Host,
    pub(super) cursor: Cursor,
    pub(super) trust: Option<Trust>,
    pub(super) jobs: BTreeMap<JobId, Entry>,
    pub(super) by_uuid: BTreeMap<Uuid, JobId>,
    pub(super) observed: BTreeMap<Uuid, ObservedDomain>,
    pub(super) offers: Offers,
    pub(super) claims: Claims,
    pub(super) works: u64,
    /// False until libvirt's domains have been listed once: until then nothing is started.
    pub(super) has_listed: bool,
    /// Jobs whose row was changed while restoring, and is to be written at the first occasion.
    pub(super) unwritten: Vec<JobId>,
}

impl Agent {
    /// The agent's first moment in a new life. Feed [`Input::Domains`] next.
    #[must_use]
    pub fn new(birth: Birth) -> Self {
        let Birth { key, mut host, ledger } = birth;
        let trust = ledger.trust.as_ref().and_then(|signed| signed.open().ok());
        host.trust_version = trust.as_ref().map(|t| t.version);
        let mut agent = Self {
            key,
            told: host.clone(),
            host,
            cursor: Cursor { epoch: ledger.epoch, seq: 0 },
            trust,
            jobs: BTreeMap::new(),
            by_uuid: BTreeMap::new(),
            observed: BTreeMap::new(),
            offers: Offers::new(ledger.epoch),
            claims: Claims::restore(ledger.claims),
            works: 0,
            has_listed: false,
            unwritten: Vec::new(),
        };
        agent.restore(ledger.jobs, ledger.is_rebooted);
        agent.host.allocation = agent.allocation(None);
        agent.told = agent.host.clone();
        agent
    }

    /// Takes one input and says what is to be done, in this order.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Effect>) {
        self.offers.end_expired(now.mono_ms);
        match input {
            Input::Request { reply, request } => self.handle_request(now, reply, *request, out),
            Input::Done { job, work, outcome } => self.handle_done(now, job, work, outcome, out),
            Input::Progress { job, moved_bytes, total_bytes } => {
                self.handle_progress(now, &job, moved_bytes, total_bytes, out);
            }
            Input::Domain(event) => {
                let change = self.change_of(event.uuid);
                out.push(Effect::Look(Look::because(&event, change)));
            }
            Input::Looked { look, domain } => self.handle_looked(now, look, domain.as_ref(), out),
            Input::Domains(domains) => self.handle_domains(now, &domains, out),
            Input::Service { job, news } => self.handle_service(now, &job, news, out),
            Input::Images(images) => self.host.images = images,
            Input::Capacity(capacity) => self.host.capacity = capacity,
            Input::Placed { name, url } => {
                self.host.name = name;
                self.host.urls = vec![url];
            }
            Input::Tick => self.go_on_all(now, out),
        }
        self.publish_host_if_changed(now, out);
    }

    /// The agent's id.
    #[must_use]
    pub fn id(&self) -> &HostId {
        &self.host.id
    }

    /// Its present life.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.cursor.epoch
    }

    /// The trust document in force.
    #[must_use]
    pub fn trust(&self) -> Option<&Trust> {
        self.trust.as_ref()
    }

    /// One job's row.
    #[must_use]
    pub fn job(&self, id: &JobId) -> Option<&JobRecord> {
        self.jobs.get(id).map(|entry| &entry.record)
    }

    /// Everything, at the present cursor.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        Inventory {
            cursor: self.cursor,
            host: self.host.clone(),
            jobs: self.jobs.values().map(|entry| entry.record.job.clone()).collect(),
            observed: self.observed.values().cloned().collect(),
        }
    }

    /// Open offers and the highest id ever issued: with the inventory, what a statement lists.
    #[must_use]
    pub fn open_offers(&self) -> (OfferId, Vec<OfferId>) {
        (self.offers.watermark(), self.offers.open().map(|(id, _)| id).collect())
    }

    fn handle_request(
        &mut self,
        now: Now,
        reply: ReplyId,
        request: Request,
        out: &mut Vec<Effect>,
    ) {
        let begin = out.len();
        let answer = match request {
            Request::Offer(ask) => self.offer(now, ask),
            Request::VoidOffer(id) => {
                self.offers.end(id, OfferStanding::Ended);
                Ok(Reply::Done)
            }
            Request::Put { job, put } => self.put(now, job, put, out),
            Request::Stop { job, stop } => self.stop(now, &job, stop, out),
            Request::Act { job, act } => self.act(now, &job, act, out),
            Request::Migrate { job, migrate } => self.migrate(now, &job, migrate, out),
            Request::CancelMigration { job, run } => self.cancel_migration(&job, run, out),
            Request::Handoff { job, handoff } => self.take_handoff(now, &job, &handoff, out),
            Request::Delete { job, run } => self.delete(now, &job, run, out),
            Request::Trust(trust) => self.obey(trust, out),
        };
        // Answered before anything is told or done, after everything is written.
        let written = out[begin..].iter().take_while(|e| matches!(e, Effect::Persist(_))).count();
        out.insert(begin + written, Effect::Reply(reply, answer));
    }

    /// R8: admission and a reservation first, then the signed offer.
    fn offer(&mut self, now: Now, ask: OfferRequest) -> Result<Reply, Refusal> {
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
        let arrival = match ask.action {
            Action::Start => Arrival::Start,
            Action::MigrateIn { .. } => Arrival::Migrate,
        };
        let left_ms = trust.term_ms - trust.kill_ms;
        let trust_version = trust.version;
        let arbiters: Vec<u32> = trust.arbiters.iter().map(|a| a.slot).collect();
        self.check_change(&ask.job, ask.revision, &ask.spec, arrival)?;
        let room = self.room(Some(&ask.job));
        admit(room, &ask.spec, arrival)?;
        let resources = ask.spec.resources();
        let id = self.offers.issue(Open {
            job: ask.job.clone(),
            resources,
            until_ms: now.mono_ms + left_ms,
        });
        let offer = Offer {
            host: self.host.id.clone(),
            id,
            job: ask.job,
            revision: ask.revision,
            spec: ask.spec.digest(),
            action: ask.action,
            resources,
            tenant: ask.spec.tenant,
            plan: arbiters.into_iter().map(|slot| (slot, resources)).collect(),
            trust_version,
        };
        Ok(Reply::Offered(OfferReply { offer: Signed::seal(&offer, &self.key), left_ms }))
    }

    fn put(
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
            && known.spec == put.spec
        {
            return Ok(Reply::AlreadySo(Box::new(known.clone())));
        }
        let ticket = self.verify_ticket(now, &id, &put)?;
        let arrival = match ticket.as_ref().map(|t| &t.offer().action) {
            Some(Action::MigrateIn { .. }) => Arrival::Migrate,
            _ => Arrival::Start,
        };
        self.check_change(&id, put.revision, &put.spec, arrival)?;
        // The ticket's own reservation makes room for the job that redeems it.
        let redeemed = ticket.as_ref().map(|t| t.offer().id);
        let room =
            Room { allocation: self.allocation_without(Some(&id), redeemed), ..self.room(None) };
        admit(room, &put.spec, arrival)?;
        if let Some(offer) = redeemed {
            self.offers.end(offer, OfferStanding::Used);
        }
        self.offers.end_of_job(&id);
        let record = self.new_record(now, id.clone(), put, ticket.as_ref());
        let job = record.job.clone();
        self.insert(now, record, out);
        self.go_on(now, &id, out);
        Ok(Reply::Accepted(Box::new(job)))
    }

    /// Whether the job may be changed to this at all, whoever asks and whatever the room.
    fn check_change(
        &self,
        id: &JobId,
        revision: Revision,
        spec: &JobSpec,
        arrival: Arrival,
    ) -> Result<(), Refusal> {
        if self.observed.values().any(|domain| domain.name == id.as_str()) {
            return Err(Refusal::NameTaken { job: id.clone() });
        }
        let Some(entry) = self.jobs.get(id) else {
            if self.jobs.len() >= JOBS_MAX {
                return Err(Refusal::Busy {
                    what: "jobs in the ledger; delete ended ones".to_owned(),
                    limit: u32::try_from(JOBS_MAX).unwrap_or(u32::MAX),
                    retry_after_ms: 60_000,
                });
            }
            return Ok(());
        };
        let job = &entry.record.job;
        if revision <= job.revision {
            return Err(Refusal::RevisionConflict { job: id.clone(), current: job.revision });
        }
        let wrong_state =
            |needed: String| Err(Refusal::WrongState { job: id.clone(), state: job.state, needed });
        if entry.record.intent == Intent::Delete {
            return wrong_state("it is being deleted: wait until it is gone".to_owned());
        }
        if !job.state.is_ended() || entry.work.is_some() {
            return wrong_state("stop it before starting it again with another spec".to_owned());
        }
        if let (Some(Reason::Migrated { to }), Arrival::Start) = (&job.reason, arrival) {
            return wrong_state(format!(
                "it has moved to {to} and its disks here are older: start it there, or delete it here"
            ));
        }
        if job.reason == Some(Reason::Saved) && job.spec != *spec {
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

    /// R9, as far as a ticket is needed: VMs on a host with trust. Services are the operator's own
    /// doing, and a lone host obeys whoever may talk to it.
    fn verify_ticket(
        &self,
        now: Now,
        id: &JobId,
        put: &PutJob,
    ) -> Result<Option<VerifiedTicket>, Refusal> {
        let (Some(trust), JobKind::Vm(_)) = (&self.trust, &put.spec.kind) else {
            return Ok(None);
        };
        let expected = Expected {
            host: &self.host.id,
            host_key: &self.host.key,
            job: id,
            revision: put.revision,
            spec: put.spec.digest(),
            resources: put.spec.resources(),
        };
        let is_held = |offer| self.jobs.values().any(|e| e.record.job.hold == Some(offer));
        let standing = |offer| {
            if is_held(offer) {
                OfferStanding::Used
            } else {
                self.offers.standing(offer, now.mono_ms)
            }
        };
        Ok(Some(verify(put.ticket.as_ref(), expected, trust, standing)?))
    }

    fn new_record(
        &self,
        now: Now,
        id: JobId,
        put: PutJob,
        ticket: Option<&VerifiedTicket>,
    ) -> JobRecord {
        let (state, intent) = match ticket.map(|t| &t.offer().action) {
            Some(Action::MigrateIn { from, hold }) => {
                let (from, hold) = (from.clone(), *hold);
                (JobState::MigratingIn, Intent::Receive { from, hold, is_handed: false })
            }
            Some(Action::Start) | None => (JobState::Accepted, Intent::Run),
        };
        let domain_uuid = put.spec.as_vm().map(|_| id.domain_uuid());
        JobRecord {
            job: Job {
                id,
                revision: put.revision,
                spec: put.spec,
                state,
                reason: None,
                since_ms: now.wall_ms,
                hold: ticket.map(|t| t.offer().id),
                domain_uuid,
                run: put.run,
                migration: None,
                endpoint: None,
            },
            intent,
            debits: ticket.map(|t| t.debits().clone()).unwrap_or_default(),
        }
    }

    fn stop(
        &mut self,
        now: Now,
        id: &JobId,
        stop: StopJob,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let mut writes = Vec::new();
        let claimed = self.claims.check(stop.run, &mut writes);
        out.extend(writes.into_iter().map(Effect::Persist));
        claimed?;
        let mut record = self.record(id)?.clone();
        let job = &record.job;
        if self.claims.is_done(stop.run, Deed::Stop) {
            return Ok(Reply::AlreadySo(Box::new(job.clone())));
        }
        match (job.state, &record.intent) {
            // Deleting ends it too, and more.
            (_, Intent::Delete) => return Ok(Reply::AlreadySo(Box::new(job.clone()))),
            // What has crashed may be started again under its hold (R15); whoever stops it, closes it.
            (JobState::Crashed, _) if job.hold.is_some() => {
                record.intent = Intent::Stop { grace_ms: 0 };
                let reason = Some(Reason::Requested);
                self.remember_done(stop.run, Deed::Stop, out);
                self.become_state(now, record, JobState::Stopped, reason, out);
                return Ok(Reply::Accepted(Box::new(self.record(id)?.job.clone())));
            }
            (state, _) if state.is_ended() => {
                return Ok(Reply::AlreadySo(Box::new(job.clone())));
            }
            // A second, more impatient stop replaces the first; an equal one changes nothing.
            (_, Intent::Stop { grace_ms }) if *grace_ms <= stop.grace_ms => {
                return Ok(Reply::AlreadySo(Box::new(job.clone())));
            }
            // The source has let go: it is ours alone, and may be stopped like any other.
            (JobState::MigratingIn, Intent::Receive { is_handed: true, .. }) => {}
            (JobState::MigratingIn | JobState::MigratingOut, _) => {
                return Err(Refusal::WrongState {
                    job: id.clone(),
                    state: job.state,
                    needed: "cancel the migration, or wait for its end".to_owned(),
                });
            }
            _ => {}
        }
        self.remember_done(stop.run, Deed::Stop, out);
        record.intent = Intent::Stop { grace_ms: stop.grace_ms };
        record.job.run = stop.run.or(record.job.run);
        self.become_state(now, record, JobState::Stopping, Some(Reason::Requested), out);
        if let Some(entry) = self.jobs.get_mut(id)
            && entry.work.is_some_and(|w| matches!(w.kind, WorkKind::Stop | WorkKind::Reboot))
        {
            entry.work = None;
        }
        self.offers.end_of_job(id);
        self.go_on(now, id, out);
        Ok(Reply::Accepted(Box::new(self.record(id)?.job.clone())))
    }

    fn migrate(
        &mut self,
        now: Now,
        id: &JobId,
        migrate: MigrateJob,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let mut writes = Vec::new();
        let claimed = self.claims.check(migrate.run, &mut writes);
        out.extend(writes.into_iter().map(Effect::Persist));
        claimed?;
        let mut record = self.record(id)?.clone();
        match (record.job.state, &record.intent) {
            (JobState::MigratingOut, Intent::Send(under_way)) if under_way.to == migrate.to => {
                return Ok(Reply::AlreadySo(Box::new(record.job)));
            }
            (JobState::Stopped, _)
                if record.job.reason == Some(Reason::Migrated { to: migrate.to.clone() }) =>
            {
                return Ok(Reply::AlreadySo(Box::new(record.job)));
            }
            // It was sent, and has come back or never left.
            _ if self.claims.is_done(migrate.run, Deed::Send) => {
                return Ok(Reply::AlreadySo(Box::new(record.job)));
            }
            (JobState::Running, Intent::Run) => {}
            (state, _) => {
                return Err(Refusal::WrongState {
                    job: id.clone(),
                    state,
                    needed: "only a running job can be sent away".to_owned(),
                });
            }
        }
        self.check_route(id, &migrate)?;
        record.job.migration = Some(Migration::Outgoing {
            to: migrate.to.clone(),
            moved_bytes: 0,
            total_bytes: 0,
            handoff: None,
        });
        self.remember_done(migrate.run, Deed::Send, out);
        record.job.run = migrate.run.or(record.job.run);
        record.intent = Intent::Send(Box::new(migrate));
        self.become_state(now, record, JobState::MigratingOut, None, out);
        self.go_on(now, id, out);
        Ok(Reply::Accepted(Box::new(self.record(id)?.job.clone())))
    }

    /// Whether a guest may be sent there: to another host of this cluster that has a hold for it.
    /// Who answers at the address must prove that host's key, so the address decides nothing else.
    fn check_route(&self, id: &JobId, migrate: &MigrateJob) -> Result<(), Refusal> {
        let invalid = |message: String| Err(Refusal::Invalid { message });
        if migrate.to == self.host.id {
            return invalid(format!("job {id} is on this host already"));
        }
        let is_member = self.trust.as_ref().is_some_and(|t| t.host_key(&migrate.to).is_some());
        if !is_member || migrate.to_hold.is_none() {
            return invalid(format!(
                "job {id} can be sent only to a host on the roster of this cluster's trust, under a hold of that host"
            ));
        }
        match route::is_agent(&migrate.url) {
            true => Ok(()),
            false => {
                invalid(format!("{:?}: name the target's agent as https://IP:PORT", migrate.url))
            }
        }
    }

    /// Leaves a tombstone like a delete: a copy of the request to send that arrives late would find
    /// a target that has given up waiting, and the guest would be lost there.
    fn cancel_migration(
        &mut self,
        id: &JobId,
        run: Option<RunKey>,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let mut writes = Vec::new();
        let undone = self.claims.undo(run, &mut writes);
        out.extend(writes.into_iter().map(Effect::Persist));
        undone?;
        let job = self.record(id)?.job.clone();
        if job.state != JobState::MigratingOut {
            return Ok(Reply::AlreadySo(Box::new(job)));
        }
        self.works += 1;
        let cancel = WorkId(self.works);
        out.push(Effect::Work { job: id.clone(), id: cancel, work: Work::CancelSend });
        Ok(Reply::Accepted(Box::new(job)))
    }

    /// M4: the target may run the job once the source has signed that it let go.
    fn take_handoff(
        &mut self,
        now: Now,
        id: &JobId,
        signed: &Signed<Handoff>,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let mut record = self.record(id)?.clone();
        let invalid = |message: String| Err(Refusal::Invalid { message });
        let handoff = match signed.open() {
            Ok(handoff) => handoff,
            Err(error) => return invalid(error.to_string()),
        };
        let Intent::Receive { from, hold, is_handed } = &mut record.intent else {
            return if record.job.hold == Some(handoff.to_hold) {
                Ok(Reply::AlreadySo(Box::new(record.job)))
            } else {
                Err(Refusal::WrongState {
                    job: id.clone(),
                    state: record.job.state,
                    needed: "a handoff is for a job that is migrating in".to_owned(),
                })
            };
        };
        if *is_handed {
            return Ok(Reply::AlreadySo(Box::new(record.job)));
        }
        let source_key = self.trust.as_ref().and_then(|trust| trust.host_key(&handoff.from));
        if source_key != Some(signed.key()) {
            return invalid(format!("handoff is not signed by host {}", handoff.from));
        }
        let is_ours = handoff.job == *id
            && handoff.from == *from
            && handoff.hold == *hold
            && handoff.to == self.host.id
            && Some(handoff.to_hold) == record.job.hold;
        if !is_ours {
            return invalid("handoff is for another migration".to_owned());
        }
        *is_handed = true;
        self.insert(now, record, out);
        self.go_on(now, id, out);
        Ok(Reply::Accepted(Box::new(self.record(id)?.job.clone())))
    }

    fn delete(
        &mut self,
        now: Now,
        id: &JobId,
        run: Option<RunKey>,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let mut writes = Vec::new();
        let undone = self.claims.undo(run, &mut writes);
        out.extend(writes.into_iter().map(Effect::Persist));
        undone?;
        let was_done = self.claims.is_done(run, Deed::Delete);
        if !self.jobs.contains_key(id) {
            self.remember_done(run, Deed::Delete, out);
        }
        let mut record = self.record(id)?.clone();
        let is_unhanded = matches!(record.intent, Intent::Receive { is_handed: false, .. });
        if record.intent == Intent::Delete {
            return Ok(Reply::AlreadySo(Box::new(record.job)));
        }
        if was_done {
            // What it was about is gone; this is another job of that name.
            return Err(Refusal::NoSuchJob { job: id.clone() });
        }
        if !record.job.state.is_ended() && !is_unhanded {
            return Err(Refusal::WrongState {
                job: id.clone(),
                state: record.job.state,
                needed: "stop it before deleting it and its volumes".to_owned(),
            });
        }
        self.remember_done(run, Deed::Delete, out);
        record.intent = Intent::Delete;
        if is_unhanded {
            record.job.migration = None;
            let reason = Some(Reason::MigrationCancelled);
            self.become_state(now, record, JobState::Stopping, reason, out);
        } else {
            self.insert(now, record, out);
        }
        self.go_on(now, id, out);
        Ok(Reply::Accepted(Box::new(self.record(id)?.job.clone())))
    }

    fn obey(&mut self, signed: Signed<Trust>, out: &mut Vec<Effect>) -> Result<Reply, Refusal> {
        let accepted = Trust::accept(self.trust.as_ref(), &signed)
            .map_err(|error| Refusal::Invalid { message: error.to_string() })?;
        let Some(trust) = accepted else { return Ok(Reply::Done) };
        if !trust.roster.contains(&self.host.key) {
            return Err(Refusal::Invalid {
                message: format!("host {} is not on the roster of this trust", self.host.id),
            });
        }
        self.offers.end_all();
        self.host.trust_version = Some(trust.version);
        self.trust = Some(trust);
        out.push(Effect::Persist(Write::Trust(Box::new(signed.clone()))));
        out.push(Effect::TrustChanged(Box::new(signed)));
        Ok(Reply::Done)
    }

    pub(super) fn record(&self, id: &JobId) -> Result<&JobRecord, Refusal> {
        let entry = self.jobs.get(id);
        entry.map(|e| &e.record).ok_or_else(|| Refusal::NoSuchJob { job: id.clone() })
    }

    /// Enters a state: writes it, then tells it.
    pub(super) fn become_state(
        &mut self,
        now: Now,
        mut record: JobRecord,
        state: JobState,
        reason: Option<Reason>,
        out: &mut Vec<Effect>,
    ) {
        record.job.state = state;
        record.job.reason = reason;
        // An orderly end closes the hold: statements list it no more, and quota and lock are free.
        // After a crash it stays, because the job may be started again under it (rule R15).
        if matches!(state, JobState::Stopped | JobState::Failed) {
            record.job.hold = None;
            record.debits.clear();
        }
        record.job.since_ms = now.wall_ms;
        self.insert(now, record, out);
    }

    /// Writes a job's row and tells it.
    pub(super) fn insert(&mut self, now: Now, record: JobRecord, out: &mut Vec<Effect>) {
        out.push(Effect::Persist(Write::Job(Box::new(record.clone()))));
        let job = record.job.clone();
        self.remember(record);
        self.publish(now, Fact::JobChanged { job: Box::new(job) }, out);
    }

    fn remember_done(&mut self, run: Option<RunKey>, deed: Deed, out: &mut Vec<Effect>) {
        let mut writes = Vec::new();
        self.claims.set_done(run, deed, &mut writes);
        out.extend(writes.into_iter().map(Effect::Persist));
    }

    /// What a look at this domain has to carry.
    pub(super) fn change_of(&self, uuid: Uuid) -> u64 {
        let job = self.by_uuid.get(&uuid).and_then(|id| self.jobs.get(id));
        job.map_or(0, |entry| entry.change)
    }

    /// Keeps a row in memory only.
    pub(super) fn remember(&mut self, record: JobRecord) {
        let id = record.job.id.clone();
        if let Some(uuid) = record.job.domain_uuid {
            self.by_uuid.insert(uuid, id.clone());
            self.observed.remove(&uuid);
        }
        match self.jobs.get_mut(&id) {
            Some(entry) => {
                entry.record = record;
                entry.change += 1;
            }
            None => {
                // Never a number of an earlier job of this name: a late look must not fit.
                let change = self.works + 1;
                self.jobs.insert(id, Entry { record, work: None, is_begun: false, change });
            }
        }
    }

    pub(super) fn publish(&mut self, now: Now, fact: Fact, out: &mut Vec<Effect>) {
        self.cursor = self.cursor.next();
        out.push(Effect::Publish(Event {
            host: self.host.id.clone(),
            cursor: self.cursor,
            at_ms: now.wall_ms,
            fact,
        }));
    }

    fn publish_host_if_changed(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.host.allocation = self.allocation(None);
        if self.host != self.told {
            self.told = self.host.clone();
            self.publish(now, Fact::HostChanged { host: Box::new(self.host.clone()) }, out);
        }
    }

    fn room(&self, without: Option<&JobId>) -> Room<'_> {
        Room { allocation: self.allocation(without), ..Room::of(&self.host) }
    }

    /// What is promised to jobs, to open offers and to domains of others.
    pub(super) fn allocation(&self, without: Option<&JobId>) -> Resources {
        self.allocation_without(without, None)
    }

    fn allocation_without(&self, job: Option<&JobId>, offer: Option<OfferId>) -> Resources {
        let others = |id: &JobId| job != Some(id);
        let jobs = self.jobs.iter().filter(|(id, _)| others(id));
        let jobs = jobs.map(|(_, entry)| entry.record.job.allocation());
        let offers = self.offers.open().filter(|(id, _)| offer != Some(*id));
        let offers = offers.map(|(_, open)| open.resources);
        let observed = self.observed.values().filter(|d| d.is_active).map(|d| d.resources);
        jobs.chain(offers).chain(observed).fold(Resources::ZERO, Resources::plus)
    }

    /// A domain that is no job's, as it is shown.
    pub(super) fn as_observed(domain: &DomainInfo) -> ObservedDomain {
        ObservedDomain {
            uuid: domain.uuid,
            name: domain.name.clone(),
            is_active: domain.state.is_active(),
            resources: domain.resources,
        }
    }
}
