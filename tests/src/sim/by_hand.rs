//! Asking by hand: for scenarios that must be brought about exactly, request by request.
//!
//! Whoever asks sits at the machine of the first engine and uses the same network as everybody.

use std::cell::RefCell;
use std::rc::Rc;

use host_agent::core::{Reply, Request};
use protocol::amounts::Amounts;
use protocol::api::{MigrateJob, OfferRequest, PutJob, ResizeJob, StopJob};
use protocol::id::{JobId, OfferId, Revision};
use protocol::job::{JobSpec, JobState, Migration, Pace, RunKey};
use protocol::refusal::Refusal;
use protocol::signed::Signed;
use protocol::ticket::{Action, Answer, Denial, Grant, Handoff, Offer, Ticket};
use protocol::vm::{Size, SizeChange};
use uuid::Uuid;

use super::hypervisor::{Domain, HvOp};
use super::message::{Ask, NodeId, Told};
use super::mutant::Mutant;
use super::world::{Role, World};

/// How long a person waits for one answer.
const PATIENCE_MS: u64 = 10_000;

/// What an agent has answered; `None`: nothing.
pub type HandAnswer = Option<Result<Reply, Refusal>>;

impl World {
    fn told(&mut self, to: NodeId, ask: Ask) -> Option<Told> {
        let from = self.node_of(Role::Engine(0))?;
        let told = Rc::new(RefCell::new(None));
        let place = Rc::clone(&told);
        self.spawn(from, move |ctx| {
            Box::pin(async move {
                let answer = ctx.call(to, ask, PATIENCE_MS).await;
                *place.borrow_mut() = Some(answer.ok());
            })
        });
        self.run_until(2 * PATIENCE_MS, |_| told.borrow().is_some());
        let answer = told.borrow_mut().take();
        answer.flatten()
    }

    /// Asks a host, and waits for its answer.
    pub fn ask_host(&mut self, host: usize, request: Request) -> HandAnswer {
        match self.told(self.hosts[host].node, Ask::Agent(request))? {
            Told::Agent(answer) => Some(answer),
            _ => None,
        }
    }

    /// Has a host offer a job a place.
    pub fn offer(
        &mut self,
        host: usize,
        job: &JobId,
        revision: u64,
        spec: &JobSpec,
        action: Action,
    ) -> Option<Signed<Offer>> {
        let (job, spec, revision) = (job.clone(), spec.clone(), Revision(revision));
        let ask = OfferRequest { job, revision, spec, action, finds_disks: false };
        match self.ask_host(host, Request::Offer(ask))? {
            Ok(Reply::Offered(offered)) => Some(offered.offer),
            _ => None,
        }
    }

    /// Shows an offer to one arbiter.
    pub fn ask_arbiter(
        &mut self,
        arbiter: usize,
        offer: &Signed<Offer>,
    ) -> Option<Result<Signed<Grant>, Denial>> {
        self.ask_arbiter_for(arbiter, offer, None)
    }

    /// Shows an offer to one arbiter, and asks it to book so many CPUs and as much of the rest.
    pub fn ask_arbiter_for(
        &mut self,
        arbiter: usize,
        offer: &Signed<Offer>,
        vcpus: Option<u32>,
    ) -> Option<Result<Signed<Grant>, Denial>> {
        let size = offer.open().ok()?.resources;
        let wish = vcpus.map(|vcpus| Amounts { vcpus, ..size.into() });
        match self.told(self.arbiters[arbiter].node, Ask::Grants(offer.clone(), wish))? {
            Told::Answer(Answer::Grant(grant)) => Some(Ok(grant)),
            Told::Answer(Answer::Denial(denial)) => denial.open().ok().map(Err),
            _ => None,
        }
    }

    /// Shows an offer to all arbiters; the ticket, if enough of them say yes.
    pub fn ticket(&mut self, offer: Signed<Offer>) -> Option<Ticket> {
        let mut grants = Vec::new();
        for arbiter in 0..self.arbiters.len() {
            if let Some(Ok(grant)) = self.ask_arbiter(arbiter, &offer) {
                grants.push(grant);
            }
        }
        let slots = grants.iter().filter_map(|grant| Some(grant.open().ok()?.slot)).collect();
        let opened = offer.open().ok()?;
        let mut committees = self.trust.to_take(opened.agreed, opened.on_loss);
        let is_quorum = committees.all(|committee| committee.count(&slots) >= committee.k);
        let is_enough = match self.mutant {
            Some(Mutant::PresentAloneGrants) => true,
            Some(Mutant::ArbitersAloneGrant) => self.trust.is_quorum(opened.agreed, &slots),
            _ => is_quorum,
        };
        is_enough.then_some(Ticket { offer, grants })
    }

    /// Asks each arbiter to book so many CPUs for an offer, or not at all; whatever comes of it.
    pub fn ticket_of(&mut self, offer: Signed<Offer>, debits: &[Option<u32>]) -> Ticket {
        let mut grants = Vec::new();
        for (arbiter, debit) in debits.iter().enumerate() {
            if let Some(debit) = debit
                && let Some(Ok(grant)) = self.ask_arbiter_for(arbiter, &offer, Some(*debit))
            {
                grants.push(grant);
            }
        }
        Ticket { offer, grants }
    }

    /// Redeems a ticket.
    pub fn put(
        &mut self,
        host: usize,
        job: &JobId,
        spec: &JobSpec,
        ticket: Ticket,
        run: Option<RunKey>,
    ) -> HandAnswer {
        let revision = ticket.offer.open().ok()?.revision;
        let put = PutJob { ticket: Some(ticket), run, ..PutJob::of(revision, spec.clone()) };
        self.ask_host(host, Request::Put { job: job.clone(), put })
    }

    /// Offer, grants and put in one; true when the host has taken the job.
    pub fn start(&mut self, host: usize, job: &JobId, revision: u64, spec: &JobSpec) -> bool {
        let Some(offer) = self.offer(host, job, revision, spec, Action::Start) else {
            return false;
        };
        let Some(ticket) = self.ticket(offer) else { return false };
        matches!(self.put(host, job, spec, ticket, None), Some(Ok(_)))
    }

    /// Asks a host for so many CPUs for a job, with a ticket or without.
    pub fn resize(
        &mut self,
        host: usize,
        job: &JobId,
        revision: u64,
        vcpus: u32,
        ticket: Option<Ticket>,
    ) -> HandAnswer {
        let size = SizeChange { vcpus: Some(vcpus), ..SizeChange::default() };
        let resize = ResizeJob { revision: Revision(revision), size, ticket, run: None };
        self.ask_host(host, Request::Resize { job: job.clone(), resize })
    }

    /// Offer, grants and resize in one; `None` when somebody says no.
    pub fn grow(&mut self, host: usize, job: &JobId, revision: u64, vcpus: u32) -> Option<()> {
        let row = self.hosts[host].process.as_ref()?.agent.job(job)?;
        let spec = row.job.spec.with_size(|size| Size { vcpus, ..size })?;
        let offer = self.offer(host, job, revision, &spec, Action::Resize)?;
        let ticket = self.ticket(offer)?;
        let answer = self.resize(host, job, revision, vcpus, Some(ticket))?;
        answer.ok().map(drop)
    }

    /// Somebody defines and starts a domain of their own on a host; its uuid.
    pub fn start_foreign(&mut self, host: usize, name: &JobId) -> Uuid {
        let uuid = Uuid::from_u128(0xf0 + host as u128);
        let (max_vcpus, max_memory_bytes) = (None, None);
        let size = Size { vcpus: 1, memory_bytes: 1 << 30, max_vcpus, max_memory_bytes };
        let mut happened = vec![(uuid, hypervisor::Lifecycle::Defined)];
        let hv = &mut self.hosts[host].hv;
        hv.domains.insert(uuid, Domain::off(uuid, name.clone(), None, size));
        let started = hv.perform(&HvOp::Start(uuid), true, &mut happened);
        assert!(started.is_ok(), "{started:?}");
        self.hv_happened(host, happened);
        uuid
    }

    /// Stops a job at once, and waits until it has ended.
    pub fn stop(&mut self, host: usize, job: &JobId) {
        let stop = StopJob::within(0);
        self.ask_host(host, Request::Stop { job: job.clone(), stop });
        self.await_state(host, job, JobState::Stopped);
    }

    /// Deletes an ended job, and waits until it is gone.
    pub fn delete(&mut self, host: usize, job: &JobId) {
        self.ask_host(host, Request::Delete { job: job.clone(), run: None, shared: false });
        let is_gone = |world: &World| world.state(host, job).is_none();
        assert!(self.run_until(30_000, is_gone), "{job} is not gone from h{host}");
    }

    /// What a host says of a job.
    #[must_use]
    pub fn state(&self, host: usize, job: &JobId) -> Option<JobState> {
        Some(self.hosts[host].process.as_ref()?.agent.job(job)?.job.state)
    }

    /// Under which hold a host has a job: its own, or that of its budget.
    #[must_use]
    pub fn hold(&self, host: usize, job: &JobId) -> Option<OfferId> {
        let agent = &self.hosts[host].process.as_ref()?.agent;
        let row = &agent.job(job)?.job;
        row.hold.or_else(|| agent.job(row.budget.as_ref()?)?.job.hold)
    }

    /// Whether a job's guest really runs on a host.
    #[must_use]
    pub fn runs(&self, host: usize, job: &JobId) -> bool {
        let domain = self.hosts[host].hv.domains.get(&job.domain_uuid());
        domain.is_some_and(super::hypervisor::Domain::is_running)
    }

    /// Waits until a host says so.
    ///
    /// # Panics
    /// When it does not within a minute.
    pub fn await_state(&mut self, host: usize, job: &JobId, state: JobState) {
        let is_so = |world: &World| world.state(host, job) == Some(state);
        let came = self.run_until(60_000, is_so);
        assert!(came || self.violation.is_some(), "{job} on h{host} is not {state}");
    }

    /// kill -9, and a start after that many milliseconds.
    pub fn restart(&mut self, node: NodeId, after_ms: u64) {
        self.kill_process(node);
        self.start_after(node, after_ms);
    }
}

/// Moving by hand.
impl World {
    /// Has a guest moved, up to the source's word and its relay.
    ///
    /// # Panics
    /// When a step is refused.
    pub fn migrate_by_hand(
        &mut self,
        from: usize,
        to: usize,
        job: &JobId,
        revision: u64,
        spec: &JobSpec,
    ) {
        self.send_by_hand(from, to, job, revision, spec);
        self.await_state(from, job, JobState::Stopped);
        let handoff = self.handoff_of(from, job).expect("the source has let go");
        self.ask_host(to, Request::Handoff { job: job.clone(), handoff });
    }

    /// The target gets a ticket and listens, the source is told to send.
    ///
    /// # Panics
    /// When a step is refused.
    pub fn send_by_hand(
        &mut self,
        from: usize,
        to: usize,
        job: &JobId,
        revision: u64,
        spec: &JobSpec,
    ) {
        let hold = self.hold(from, job).expect("the source has a hold");
        let action = Action::MigrateIn { from: self.hosts[from].id.clone(), hold };
        let offer = self.offer(to, job, revision, spec, action).expect("an offer");
        let ticket = self.ticket(offer).expect("granted");
        self.put(to, job, spec, ticket, None);
        self.send_to_listener(from, to, job);
    }

    /// The source is told to send to a target that has a ticket.
    ///
    /// # Panics
    /// When the target does not listen within a minute.
    pub fn send_to_listener(&mut self, from: usize, to: usize, job: &JobId) {
        let incoming = |world: &World| world.incoming_at(to, job);
        assert!(self.run_until(60_000, |world| incoming(world).is_some()), "h{to} does not listen");
        let Some(url) = self.incoming_at(to, job) else { return };
        let to_hold = self.hold(to, job);
        let to = self.hosts[to].id.clone();
        let run = None;
        let migrate = MigrateJob { to, to_hold, url, run, pace: Pace::default() };
        let (job, revision) = (job.clone(), None);
        self.ask_host(from, Request::Migrate { job, migrate, revision });
    }

    fn incoming_at(&self, host: usize, job: &JobId) -> Option<String> {
        match self.hosts[host].process.as_ref()?.agent.job(job)?.job.migration.as_deref()? {
            Migration::Incoming { url, .. } => Some(url.clone()),
            Migration::Outgoing { .. } => None,
        }
    }

    /// The source's word that it has let go.
    #[must_use]
    pub fn handoff_of(&self, host: usize, job: &JobId) -> Option<Signed<Handoff>> {
        match self.hosts[host].process.as_ref()?.agent.job(job)?.job.migration.as_deref()? {
            Migration::Outgoing { handoff, .. } => handoff.clone(),
            Migration::Incoming { .. } => None,
        }
    }
}
