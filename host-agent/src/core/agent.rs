//! The agent's core: requests in, effects out.
//!
//! Holds what an agent knows, and what every part of it needs: whose turn an input is, the row that
//! is written before it is told, the numbers of events, the room that is promised. What is decided
//! is beside it: `taking` and `ending` jobs, `moving` them, `acts` on them, how they go on
//! (`job_life`), what becomes of them when the host was said to be off (`fencing`), their `snapshots` and `reading` these, what libvirt shows (`seeing`), what `addresses` guests have, which `networks` there are, and how a new life starts (`recover`).

use std::collections::BTreeMap;

use hypervisor::{CpuPlace, Lifecycle};
use protocol::admission::Room;
use protocol::api::HoldDebits;
use protocol::event::{Event, Fact};
use protocol::history::HistoryConfig;
use protocol::host::{Host, HostIntent, Inventory};
use protocol::hugepages::PageSize;
use protocol::id::{Cursor, Epoch, HostId, JobId, OfferId, PoolName};
use protocol::job::{JobState, ObservedDomain, Reason, RunKey};
use protocol::pool::{PoolFacts, PoolsConfig};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::signed::{Digest, SecretKey, Signed};
use protocol::ticket::OfferStanding;
use protocol::trust::{Trust, check_agreed};
use transport::clock::Now;
use uuid::Uuid;

use super::addresses::{Watch, runs};
use super::claims::{Claims, Deed};
use super::cpus::CpuLayout;
use super::input::{Effect, Input, Joint, Reply, ReplyId, Request, WorkId};
use super::leaving::tell_leaving;
use super::ledger::{JobRecord, LedgerState, Write};
use super::networks::KnownNetworks;
use super::offers::Offers;
use super::one_off::Heard;
use super::reading::Reading;
use super::resizing::{Giving, is_changing};
use super::table::Table;

/// Jobs in the ledger, ended ones included. Each row is about 1 KiB and an inventory with all of
/// them must fit into one message; what is history is forgotten before, and the rest is deleted by
/// request only, so beyond this the host refuses new jobs.
pub(super) const JOBS_MAX: usize = 5_000;

/// What an agent is born with.
#[derive(Debug)]
pub struct Birth {
    /// The key it signs with; its id is the fingerprint.
    pub key: SecretKey,
    /// What it says of itself; capacity and images as measured, allocation zero.
    pub host: Host,
    /// How its CPUs are divided.
    pub layout: CpuLayout,
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
    /// True when the work for the snapshot that is under way was begun, in this or perhaps an earlier life:
    /// what is found of it is its own.
    pub(super) is_snapshot_tried: bool,
    /// Who makes an image of one of its disks, by their names.
    pub(super) readings: BTreeMap<Uuid, Reading>,
    /// What libvirt has said of it since its work began, and nobody has looked into yet.
    pub(super) unseen: Option<Lifecycle>,
    /// What a one-off job's console was last seen to hold.
    pub(super) heard: Option<Heard>,
    /// What is waited for after a change of size.
    pub(super) giving: Option<Giving>,
    /// True when it is time to ask for what its guest is to let go of.
    pub(super) asks_leaving: bool,
    /// When its guest was last looked at for its size, in milliseconds since boot.
    pub(super) looked_ms: u64,
    /// How far the looking for its guest's addresses is.
    pub(super) addresses: Watch,
    /// On which CPUs its guest was put in this life, as far as that was done.
    pub(super) place: Option<CpuPlace>,
    /// Grows with every change of the row and every work begun.
    pub(super) change: u64,
    /// What its row takes in the ledger, once it has ended.
    pub(super) row_bytes: u64,
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
    Resize,
    Pin,
    TakeOut,
    Snapshot,
    /// A sending, which may last for hours; only what an operator's word has ended overtakes it.
    Send,
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
    /// The machine's boot id.
    pub(super) boot: String,
    /// The ledger's rows tell of it.
    pub(super) is_boot_written: bool,
    pub(super) cursor: Cursor,
    pub(super) trust: Option<Trust>,
    /// The last change of arbiters that the host has agreed to; durable.
    pub(super) agreed: Option<Digest>,
    /// The holds that the keeper runs only by the cover of both committees of a change.
    pub(super) joint: Joint,
    pub(super) jobs: Table,
    pub(super) by_uuid: BTreeMap<Uuid, JobId>,
    pub(super) observed: BTreeMap<Uuid, ObservedDomain>,
    pub(super) networks: KnownNetworks,
    pub(super) offers: Offers,
    pub(super) claims: Claims,
    pub(super) works: u64,
    /// Looks at guests' addresses, so that a late answer of an earlier one is noticed.
    pub(super) looks: u64,
    /// False until libvirt's domains have been listed once: until then nothing is started.
    pub(super) has_listed: bool,
    /// True once a quorum of arbiters has said in this life that our trust document is in force.
    pub(super) is_right_shown: bool,
    /// True while they are being asked.
    pub(super) is_right_asked: bool,
    /// How much is remembered of what has ended.
    pub(super) history: HistoryConfig,
    /// The pools that were declared.
    pub(super) declared: PoolsConfig,
    /// What was found of them, without what is offered.
    pub(super) found: BTreeMap<PoolName, PoolFacts>,
    /// How its CPUs are divided.
    pub(super) layout: CpuLayout,
    /// How many huge pages were taken by what is no job, by the last count.
    pub(super) others_pages: BTreeMap<PageSize, u64>,
    /// Jobs whose row was changed while restoring, and is to be written at the first occasion.
    pub(super) unwritten: Vec<JobId>,
}

impl Agent {
    /// The agent's first moment in a new life. Feed [`Input::Domains`] next.
    #[must_use]
    pub fn new(birth: Birth) -> Self {
        let Birth { key, mut host, layout, ledger } = birth;
        let is_rebooted = ledger.is_rebooted();
        let trust = ledger.trust.as_ref().and_then(|signed| signed.open().ok());
        host.trust_version = trust.as_ref().map(|t| t.version);
        host.intent = ledger.host_intent;
        let mut agent = Self {
            key,
            told: host.clone(),
            history: ledger.history,
            declared: ledger.pools,
            found: host.pools.clone(),
            host,
            is_boot_written: ledger.boot_of_rows == ledger.boot,
            boot: ledger.boot,
            cursor: Cursor { epoch: ledger.epoch, seq: 0 },
            trust,
            agreed: ledger.agreed,
            joint: Joint::default(),
            jobs: Table::default(),
            by_uuid: BTreeMap::new(),
            observed: BTreeMap::new(),
            networks: KnownNetworks::default(),
            offers: Offers::new(ledger.epoch),
            claims: Claims::restore(ledger.claims),
            works: 0,
            looks: 0,
            has_listed: false,
            is_right_shown: false,
            is_right_asked: false,
            layout,
            others_pages: BTreeMap::new(),
            unwritten: Vec::new(),
        };
        agent.restore(ledger.jobs, is_rebooted);
        agent.restore_networks(ledger.networks);
        agent.host.allocation = agent.allocation();
        agent.host.hugepages = agent.hugepages();
        agent.host.dedicated_cpus = agent.dedicated_cpus();
        agent.told = agent.host.clone();
        agent
    }

    /// Takes one input and says what is to be done, in this order.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Effect>) {
        self.offers.end_expired(now.mono_ms);
        match input {
            Input::Request { reply, request } => self.handle_request(now, reply, *request, out),
            Input::Done { job, work, outcome } => self.handle_done(now, job, work, outcome, out),
            Input::Progress { job, progress } => self.handle_progress(now, &job, progress, out),
            Input::Domain(event) => {
                self.expect_addresses(event.uuid);
                if event.what != Lifecycle::AgentChanged {
                    self.hear(&event, out);
                }
            }
            Input::Cards { job, look, cards } => self.handle_cards(now, &job, look, cards, out),
            Input::Looked { look, domain } => self.handle_looked(now, look, domain.as_ref(), out),
            Input::Heard { job, bytes } => self.handle_heard(now, &job, bytes),
            Input::Domains(domains) => self.handle_domains(now, &domains, out),
            Input::Service { job, news } => self.handle_service(now, &job, news, out),
            Input::Right(standing) => {
                self.handle_right(now, &standing, out);
                self.agree(&standing, out);
            }
            Input::Joint(joint) => self.joint = joint,
            Input::Lost { job, hold } => self.handle_lost(now, &job, hold, out),
            Input::Networks(seen) => self.handle_networks(*seen, out),
            Input::Images(images) => self.host.images = images,
            Input::Capacity(capacity) => self.host.capacity = capacity,
            Input::Hugepages(seen) => self.handle_hugepages(&seen),
            Input::Pools(found) => self.found = found,
            Input::Snapshots { job, snapshots } => {
                self.handle_snapshots(now, &job, snapshots, out);
            }
            Input::Placed { name, url } => {
                self.host.name = name;
                self.host.urls = vec![url];
            }
            Input::Tick => {
                self.watch_one_offs(now, out);
                self.watch_sizes(now, out);
                self.watch_addresses(now, out);
                self.ask_right(out);
                self.ask_agreement(out);
                self.go_on_all(now, out);
                self.end_unused_budgets(now, out);
                self.forget_history(now, out);
            }
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

    /// The last offers that ended without having been redeemed.
    #[must_use]
    pub fn unused_offers(&self) -> Vec<OfferId> {
        self.offers.unused().collect()
    }

    /// What arbiters have booked for what is held here, by the tickets.
    #[must_use]
    pub fn hold_debits(&self) -> Vec<HoldDebits> {
        let of = |entry: &Entry| {
            let (record, hold) = (&entry.record, entry.record.job.hold?);
            let debits = record.debits.clone();
            (!debits.is_empty()).then_some(HoldDebits { hold, debits })
        };
        self.jobs.values().filter_map(of).collect()
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
            Request::Protect { job, is_protected } => self.protect(now, &job, is_protected, out),
            Request::Rank { job, rank } => self.rank(now, &job, rank, out),
            Request::Resize { job, resize } => self.resize(now, &job, resize, out),
            Request::UndoResize { job, run } => self.undo_resize(now, &job, run, out),
            Request::TakeSnapshot { job, name, measured } => {
                self.take_snapshot(now, &job, name, measured, out)
            }
            Request::Revert { job, name, revert } => self.revert(now, &job, &name, &revert, out),
            Request::DeleteSnapshot { job, name } => self.delete_snapshot(now, &job, &name, out),
            Request::ReadSnapshot { job, name, reader } => self.read_snapshot(&job, &name, reader),
            Request::EndReading { job, reader } => self.end_reading(&job, reader),
            Request::Migrate { job, migrate, revision } => {
                self.migrate(now, &job, migrate, revision, out)
            }
            Request::CancelMigration { job, run } => self.cancel_migration(&job, run, out),
            Request::Handoff { job, handoff } => self.take_handoff(now, &job, &handoff, out),
            Request::Delete { job, run, shared } => self.delete(now, &job, run, shared, out),
            Request::Release(job) => self.release(now, &job, out),
            Request::Trust(trust) => self.obey(now, trust, out),
            Request::Intend(intent) => self.intend(intent, out),
            Request::Pools(config) => self.set_pools(config, out),
            Request::History(config) => self.set_history(now, config, out),
            Request::ShowHistory => Ok(Reply::History(self.history.clone())),
            Request::PutNetwork { name, put } => self.put_network(&name, put, out),
            Request::DeleteNetwork(name) => self.delete_network(&name, out),
            Request::ShowNetwork(name) => self.show_network(&name),
        };
        // Answered before anything is told or done, after everything is written.
        let written = out[begin..].iter().take_while(|e| matches!(e, Effect::Persist(_))).count();
        out.insert(begin + written, Effect::Reply(reply, answer));
    }

    fn obey(
        &mut self,
        now: Now,
        signed: Signed<Trust>,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let accepted = Trust::accept(self.trust.as_ref(), &signed)?;
        let Some(trust) = accepted else { return Ok(Reply::Done) };
        match (&self.trust, trust.change()) {
            (Some(old), _) => check_agreed(self.agreed, old, &trust)?,
            // Nothing here was ever granted by those in force alone, and nothing will be.
            (None, Some(change)) => self.bind(change, out),
            (None, None) => {}
        }
        if !trust.roster.contains(&self.host.key) {
            return Err(Refusal::Invalid {
                message: format!("host {} is not on the roster of this trust", self.host.id),
            });
        }
        self.offers.end_all();
        // By what the one before said, not by its version: it may have been one that no quorum ever obeyed.
        let key = &self.host.key;
        let is_fenced = self.trust.as_ref().is_some_and(|old| trust.says_anew(old, key));
        self.host.trust_version = Some(trust.version);
        self.trust = Some(trust);
        out.push(Effect::Persist(Write::Trust(Box::new(signed.clone()))));
        if is_fenced {
            self.end_fenced(now, out);
        }
        out.push(Effect::TrustChanged(Box::new(signed)));
        Ok(Reply::Done)
    }

    /// From the answer on nothing new arrives on a host that is drained: open offers end with it.
    fn intend(
        &mut self,
        intent: Option<HostIntent>,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        if intent == Some(HostIntent::Unknown) {
            let message = "this agent knows one intent: drain".to_owned();
            return Err(Refusal::Invalid { message });
        }
        if self.host.intent != intent {
            self.host.intent = intent;
            out.push(Effect::Persist(Write::HostIntent(intent)));
            if intent == Some(HostIntent::Drain) {
                self.offers.end_all();
            }
        }
        Ok(Reply::Done)
    }

    /// A job's domain in libvirt, which an adopted one has brought along.
    pub(super) fn domain_of(&self, id: &JobId) -> Uuid {
        let job = self.jobs.get(id).map(|entry| &entry.record.job);
        job.and_then(|job| job.domain_uuid).unwrap_or_else(|| id.domain_uuid())
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
            record.job.budget = None;
            record.debits.clear();
            record.issued = None;
        }
        if state.is_ended() && !is_changing(&record.job) {
            record.job.resize = None;
        }
        record.job.since_ms = now.wall_ms;
        if !runs(state) {
            record.job.cards = Box::default();
        }
        match state {
            JobState::Accepted | JobState::Starting => {
                record.tally.ran_from_ms = None;
                record.job.resize = None;
            }
            JobState::Running => {
                record.tally.ran_from_ms.get_or_insert(now.mono_ms);
                record.tally.restart_at_ms = None;
                record.tally.needs_right = false;
            }
            _ => record.tally.restart_at_ms = None,
        }
        // A guest that has begun or ended may have let go of what it kept; one that has ended gives nothing up.
        self.jobs.change(&record.job.id, |entry| {
            entry.asks_leaving = true;
            entry.giving = entry.giving.filter(|_| !state.is_ended());
            entry.place = entry.place.take().filter(|_| !state.is_ended());
        });
        let was_by_budget = self.jobs.is_by_budget(&record.job.id);
        self.insert(now, record, out);
        if was_by_budget && state.is_ended() {
            self.end_unused_budgets(now, out);
        }
    }

    /// Writes a job's row and tells it.
    pub(super) fn insert(&mut self, now: Now, mut record: JobRecord, out: &mut Vec<Effect>) {
        tell_leaving(&mut record);
        record.cpus = self.cpus_for(&record);
        record.penned |= !record.job.state.is_ended() && self.pens(&record);
        record.ended = self.ended(now, &record);
        out.push(Effect::Persist(Write::Job(Box::new(record.clone()))));
        let job = record.job.clone();
        self.remember(record);
        self.publish(now, Fact::JobChanged { job: Box::new(job) }, out);
    }

    pub(super) fn remember_done(&mut self, run: Option<RunKey>, deed: Deed, out: &mut Vec<Effect>) {
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
        let row_bytes = if record.job.state.is_ended() { bytes_of(&record) } else { 0 };
        if let Some(uuid) = record.job.domain_uuid {
            self.by_uuid.insert(uuid, id.clone());
            self.observed.remove(&uuid);
        }
        if !self.jobs.contains_key(&id) {
            let entry = Entry {
                record,
                work: None,
                is_begun: false,
                is_snapshot_tried: false,
                readings: BTreeMap::new(),
                unseen: None,
                heard: None,
                giving: None,
                asks_leaving: true,
                looked_ms: 0,
                addresses: Watch::default(),
                place: None,
                // Never a number of an earlier job of this name: a late look must not fit.
                change: self.works + 1,
                row_bytes,
            };
            return self.jobs.insert(id, entry);
        }
        self.jobs.change(&id, |entry| {
            entry.addresses.follow(record.job.state);
            entry.record = record;
            entry.row_bytes = row_bytes;
            entry.change += 1;
        });
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
        self.host.allocation = self.allocation();
        self.host.pools = self.pools_without(None);
        self.host.hugepages = self.hugepages();
        self.host.dedicated_cpus = self.dedicated_cpus();
        if self.host != self.told {
            self.told = self.host.clone();
            self.publish(now, Fact::HostChanged { host: Box::new(self.host.clone()) }, out);
        }
    }

    /// The host as admission sees it, under the policy of the document that it obeys; what is promised
    /// to others than the one who asks is put in by whoever asks.
    pub(super) fn room(&self) -> Room<'_> {
        let policy = self.trust.as_ref().map(|trust| trust.policy.as_ref());
        Room { policy, ..Room::of(&self.host) }
    }

    /// The same with what is promised to others than a job, an offer and a domain of others, which are one and
    /// the same thing.
    pub(super) fn room_without(
        &self,
        job: Option<&JobId>,
        offer: Option<OfferId>,
        domain: Option<Uuid>,
    ) -> Room<'_> {
        let allocation = self.allocation_without(job, offer, domain);
        let dedicated_cpus = self.dedicated_cpus_without(job, offer);
        Room { allocation, pages: self.pages_without(job, offer), dedicated_cpus, ..self.room() }
    }

    /// What is promised to jobs, to open offers and to domains of others.
    pub(super) fn allocation(&self) -> Resources {
        self.allocation_without(None, None, None)
    }

    /// The same without a job, an offer and a domain of others, which are one and the same thing. What
    /// snapshots of the job keep is there whatever becomes of the job.
    pub(super) fn allocation_without(
        &self,
        job: Option<&JobId>,
        offer: Option<OfferId>,
        domain: Option<Uuid>,
    ) -> Resources {
        let jobs = match job {
            Some(job) => self.jobs.promised_without(job),
            None => self.jobs.promised(),
        };
        let open = || self.offers.open().filter(|(id, _)| offer != Some(*id)).map(|(_, open)| open);
        // A domain that is offered to be adopted is counted as the offer.
        let is_offered = |uuid: Uuid| open().any(|open| open.domain == Some(uuid));
        let is_counted =
            |d: &&ObservedDomain| d.is_active && domain != Some(d.uuid) && !is_offered(d.uuid);
        let observed = self.observed.values().filter(is_counted).map(ObservedDomain::takes);
        let offers = open().map(|open| open.resources);
        offers.chain(observed).fold(jobs, Resources::plus)
    }
}

/// What a row takes in the ledger.
fn bytes_of(record: &JobRecord) -> u64 {
    serde_json::to_vec(record).map_or(0, |row| row.len() as u64)
}
