//! A hypervisor machine: its disk, its libvirt, and the shell around the agent's core.
//!
//! The shell is the real one's in small: inputs that wait are handled together, all that they want
//! written reaches the disk in one transaction or not at all, and only then is anybody answered,
//! told, or anything done. The process may die between any two effects.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use arbiter::statement::OpenOffers;
use host_agent::core::{
    Agent, Birth, CpuLayout, Effect, EventRing, Input, LedgerState, ReplyId, Request, Resume,
    Standing, Write,
};
use protocol::cpus::DedicatedCpus;
use protocol::event::Frame;
use protocol::host::{Accel, Host as HostFacts, HypervisorFacts};
use protocol::id::{Cursor, Epoch, HostId, JobId};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::signed::{SecretKey, Signed};
use protocol::trust::Trust;
use protocol::view::{HostRow, Merge, View};
use uuid::Uuid;

use super::hypervisor::Hv;
use super::invariants::Asked;
use super::keeper::KeeperProcess;
use super::ledger::{RealLedger, is_same};
use super::message::{Ask, Back, NodeId, StreamItem, Told};
use super::mutant::Mutant;
use super::tasks::Command;
use super::works;
use super::world::{Event, Tick, World, host_key};

/// Inputs handled for one disk sync, as in the real shell.
const BATCH_MAX: usize = 128;

/// What is on a machine's disk.
#[derive(Debug)]
pub struct Disk {
    /// The ledger's rows, and the boot of which they tell.
    pub ledger: LedgerState,
    /// Nothing can be written before this time.
    pub full_until_us: u64,
    /// Jobs with volumes.
    pub volumes: BTreeSet<JobId>,
    /// Definitions that domains had before they were adopted.
    pub kept: BTreeMap<Uuid, String>,
    /// The real ledger, in worlds that have it.
    pub real: Option<RealLedger>,
}

/// A hypervisor machine.
pub struct Host {
    /// The machine.
    pub node: NodeId,
    /// Its key, on disk.
    pub key: SecretKey,
    /// The key's fingerprint.
    pub id: HostId,
    /// What it says of itself at birth.
    pub facts: HostFacts,
    /// What is durable.
    pub disk: Disk,
    /// Its libvirt and guests.
    pub hv: Hv,
    /// How often it has booted.
    pub boot: u32,
    /// Its keeper.
    pub keeper: KeeperProcess,
    /// The agent, while it lives.
    pub process: Option<AgentProcess>,
}

/// Something in the agent's mailbox.
#[derive(Debug)]
pub enum Post {
    /// An input without an answer.
    Input(Input),
    /// A request and where its answer goes.
    Request(Request, Back),
    /// Which offers are open.
    OpenOffers(Back),
}

/// An agent that lives.
pub struct AgentProcess {
    /// The core.
    pub agent: Agent,
    /// What is published, by the last event.
    pub view: View,
    ring: EventRing,
    subscribers: Vec<u64>,
    mailbox: VecDeque<Post>,
    /// Between taking a batch and having performed all of it.
    is_busy: bool,
    is_turn_due: bool,
    /// What the disk is writing.
    writing: Vec<Write>,
    effects: VecDeque<Effect>,
    callers: BTreeMap<ReplyId, (Back, Asked)>,
    curious: Vec<Back>,
    memory: Rc<works::Memory>,
    requests: u64,
}

impl AgentProcess {
    /// The row that followers get.
    #[must_use]
    pub fn row(&self) -> Option<&HostRow> {
        self.view.host(self.agent.id())
    }

    /// True while nothing waits to be handled, written or performed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.is_busy && self.mailbox.is_empty()
    }
}

/// What every host has.
#[must_use]
pub fn capacity() -> Resources {
    Resources { vcpus: 5, memory_bytes: 16 << 30, disk_bytes: 64 << 30 }
}

impl Host {
    /// A machine whose agent has never run, with the trust document in its ledger.
    #[must_use]
    pub fn new(node: NodeId, n: usize, trust: &Signed<Trust>) -> Self {
        let key = host_key(n);
        let id = HostId::of(&key.public());
        let facts = HostFacts {
            id: id.clone(),
            key: key.public(),
            name: format!("h{n}"),
            urls: vec![works::url(node)],
            agent_version: "0".into(),
            hypervisor: HypervisorFacts {
                uri: "sim".into(),
                driver: "SIM".into(),
                libvirt_version: "0".into(),
                accel: Accel::None,
                accel_reason: None,
                can_receive: true,
                can_guard: true,
            },
            capacity: capacity(),
            allocation: Resources::ZERO,
            hugepages: BTreeMap::new(),
            dedicated_cpus: DedicatedCpus::NONE,
            images: BTreeMap::new(),
            networks: None,
            labels: BTreeMap::new(),
            trust_version: None,
            intent: None,
            pools: BTreeMap::new(),
        };
        let ledger = LedgerState {
            trust: Some(trust.clone()),
            boot_of_rows: 0.to_string(),
            ..LedgerState::default()
        };
        let disk = Disk {
            ledger,
            full_until_us: 0,
            volumes: BTreeSet::new(),
            kept: BTreeMap::new(),
            real: None,
        };
        let (hv, keeper) = (Hv::default(), KeeperProcess::default());
        Self { node, key, id, facts, disk, hv, boot: 0, keeper, process: None }
    }
}

/// Makes writes durable.
pub fn apply(ledger: &mut LedgerState, writes: Vec<Write>) {
    for write in writes {
        match write {
            Write::Job(record) => {
                ledger.jobs.retain(|known| known.job.id != record.job.id);
                ledger.jobs.push(*record);
            }
            Write::JobGone(id) => ledger.jobs.retain(|known| known.job.id != id),
            Write::Trust(trust) => ledger.trust = Some(*trust),
            Write::Agreed(change) => ledger.agreed = Some(change),
            Write::HostIntent(intent) => ledger.host_intent = intent,
            Write::Boot(boot) => ledger.boot_of_rows = boot,
            Write::Pools(pools) => ledger.pools = *pools,
            Write::History(history) => ledger.history = history,
            Write::Claim(run, claim) => {
                ledger.claims.retain(|(known, _)| *known != run);
                ledger.claims.push((run, claim));
            }
            // Simulated hosts have no networks.
            Write::Network(_) | Write::NetworkGone(_) => {}
            Write::ClaimGone(run) => ledger.claims.retain(|(known, _)| *known != run),
        }
    }
}

impl World {
    /// The agent opens its ledger, which begins a new epoch durably, and lists libvirt's domains.
    pub(super) fn start_agent(&mut self, n: usize) {
        let boot = self.hosts[n].boot.to_string();
        let keeps_epoch = self.mutant == Some(Mutant::OfferNumbersRestart);
        let forgets = self.mutant == Some(Mutant::RebootForgotten);
        let host = &mut self.hosts[n];
        let ledger = &mut host.disk.ledger;
        let is_first = ledger.epoch == Epoch(0);
        if is_first || !keeps_epoch {
            ledger.epoch = Epoch(ledger.epoch.0 + 1);
        }
        ledger.boot = boot;
        self.open_real_ledger(n);
        let host = &mut self.hosts[n];
        let mut ledger = host.disk.ledger.clone();
        super::budgets::mutate_birth(self.mutant, &mut ledger);
        if forgets {
            host.disk.ledger.boot_of_rows.clone_from(&ledger.boot);
        }
        let birth = Birth {
            key: host.key.clone(),
            host: host.facts.clone(),
            layout: CpuLayout::default(),
            ledger,
        };
        let agent = Agent::new(birth);
        let mut view = View::default();
        view.merge_inventory(agent.inventory());
        host.process = Some(AgentProcess {
            agent,
            view,
            ring: EventRing::default(),
            subscribers: vec![],
            mailbox: VecDeque::new(),
            is_busy: false,
            is_turn_due: false,
            writing: vec![],
            effects: VecDeque::new(),
            callers: BTreeMap::new(),
            curious: vec![],
            memory: Rc::new(works::Memory::of(&host.keeper.link)),
            requests: 0,
        });
        let node = host.node;
        let life = self.nodes[node.0].life;
        self.spawn(node, |ctx| Box::pin(works::list(ctx)));
        self.after_local_ms(node, 1000, Event::Tick { node, life, tick: Tick::Agent });
        self.check_durable(n);
        self.after_agent_start(n);
        // It publishes its document again: the life before may have died between disk and file.
        self.keeper_will_learn_trust(n);
    }

    /// Gives every host the agents' real ledger, before any agent has begun.
    pub fn use_real_ledgers(&mut self) {
        for (n, host) in self.hosts.iter_mut().enumerate() {
            let ledger = &host.disk.ledger;
            let trust = ledger.trust.clone().map(|trust| Write::Trust(Box::new(trust)));
            let first: Vec<Write> =
                trust.into_iter().chain([Write::Boot(ledger.boot_of_rows.clone())]).collect();
            let seed = self.profile.seed.wrapping_mul(31).wrapping_add(n as u64);
            host.disk.real = Some(RealLedger::new(seed, &first));
        }
    }

    /// What the real ledger says is what the simulated disk holds.
    fn open_real_ledger(&mut self, n: usize) {
        let disk = &mut self.hosts[n].disk;
        let Some(real) = &mut disk.real else { return };
        let wrong = match real.open(&disk.ledger.boot) {
            Ok(state) if is_same(&state, &disk.ledger) => {
                // Its epochs and its order count from here on.
                disk.ledger = state;
                return;
            }
            Ok(state) => format!("h{n} was answered {:?}; its ledger says {state:?}", disk.ledger),
            Err(error) => format!("h{n}: {error}"),
        };
        self.violate("what_was_answered_is_on_disk", wrong);
    }

    /// Whether the writes under way are in the real ledger; the simulated disk decides if there is none.
    fn are_written(&mut self, n: usize, writes: &[Write], simulated: bool) -> bool {
        let is_full = self.hosts[n].disk.full_until_us > self.now_us;
        let boot = self.hosts[n].boot;
        let disk = &mut self.hosts[n].disk;
        let Some(real) = &mut disk.real else { return simulated };
        real.die(writes, is_full);
        if writes.is_empty() {
            return false;
        }
        let mut with = disk.ledger.clone();
        apply(&mut with, writes.to_vec());
        let wrong = match real.open(&boot.to_string()) {
            Ok(state) => {
                real.die(&[], false);
                match (is_same(&state, &disk.ledger), is_same(&state, &with)) {
                    (true, _) => return false,
                    (false, true) => return true,
                    (false, false) => format!("h{n} has some of {writes:?}: {state:?}"),
                }
            }
            Err(error) => format!("h{n}: {error}"),
        };
        self.violate("what_was_not_answered_is_there_as_a_whole_or_not_at_all", wrong);
        false
    }

    /// A write under way has reached the disk or not; what was not written is forgotten.
    pub(super) fn agent_died(&mut self, n: usize) {
        let before = self.guests_running(n);
        let is_written = self.chance.happens(500_000);
        if let Some(process) = self.hosts[n].process.take()
            && self.are_written(n, &process.writing, is_written && !process.writing.is_empty())
        {
            self.coverage.hit("agent.died-after-unanswered-write");
            self.note_durable(n, process.writing);
        }
        self.forget_doing(n);
        self.agent_death_never_touches_guests(n, &before);
    }

    // Being asked.

    pub(super) fn agent_asked(&mut self, n: usize, ask: Ask, back: Back) {
        let node = self.hosts[n].node;
        let Some(process) = self.hosts[n].process.as_ref() else { return };
        let told = match ask {
            Ask::Agent(request) => return self.mail(n, Post::Request(request, back)),
            Ask::OpenOffers => return self.mail(n, Post::OpenOffers(back)),
            Ask::Subscribe { conn, from } => return self.subscribe_to_agent(n, conn, from),
            Ask::Job(id) => Told::Job(
                process
                    .row()
                    .and_then(|row| row.jobs.get(&id))
                    .map(|job| protocol::job::Job::clone(job))
                    .ok_or(Refusal::NoSuchJob { job: id }),
            ),
            Ask::Inventory => match process.row() {
                Some(row) => Told::Inventory(Box::new(row.clone().into())),
                None => return,
            },
            Ask::Health => {
                let trust_version = process.agent.trust().map(|trust| trust.version);
                Told::Health { trust_version, is_ready: true }
            }
            Ask::Grants(..) | Ask::TenantRoom { .. } | Ask::TenantBook(_) | Ask::Handover => return,
        };
        let told = self.mutate_reading(n, told);
        self.send_answer(node, back, told);
    }

    pub(super) fn post(&mut self, n: usize, input: Input) {
        let input = self.mutate_input(n, input);
        self.mail(n, Post::Input(input));
    }

    fn mail(&mut self, n: usize, post: Post) {
        let node = self.hosts[n].node;
        let life = self.nodes[node.0].life;
        let Some(process) = self.hosts[n].process.as_mut() else { return };
        process.mailbox.push_back(post);
        if !process.is_busy && !process.is_turn_due {
            process.is_turn_due = true;
            self.after(60, Event::Turn { host: n, life });
        }
    }

    // The loop.

    /// Everything that waits is handled, and what it wants written goes to the disk.
    pub(super) fn agent_turn(&mut self, n: usize) {
        let node = self.hosts[n].node;
        let (life, now) = (self.nodes[node.0].life, self.now_at(node));
        let Some(process) = self.hosts[n].process.as_mut() else { return };
        process.is_turn_due = false;
        if process.is_busy || process.mailbox.is_empty() {
            return;
        }
        let count = process.mailbox.len().min(BATCH_MAX);
        let batch: Vec<Post> = process.mailbox.drain(..count).collect();
        process.is_busy = true;
        let mut effects = Vec::new();
        for post in batch {
            self.handle_post(n, now, post, &mut effects);
        }
        self.check_promises(n);
        let mut writes = Vec::new();
        effects.retain(|effect| match effect {
            Effect::Persist(write) => {
                writes.push(write.clone());
                false
            }
            _ => true,
        });
        let early = self.mutate_order(n, &mut effects);
        for effect in early {
            self.perform_effect(n, effect);
        }
        let Some(process) = self.hosts[n].process.as_mut() else { return };
        process.effects = effects.into();
        process.writing = writes;
        if process.writing.is_empty() {
            self.draft(n);
            self.perform_effects(n);
        } else {
            let is_full = self.hosts[n].disk.full_until_us > self.now_us;
            let slow_us = if self.is_noisy && self.chance.happens(self.profile.disk_stall_ppm) {
                self.coverage.hit("disk.stalled");
                self.chance.between(100_000, 4_000_000)
            } else {
                self.chance.between(200, 2_500)
            };
            self.after(slow_us, Event::Synced { host: n, life, is_lost: is_full });
        }
    }

    fn handle_post(
        &mut self,
        n: usize,
        now: transport::Now,
        post: Post,
        effects: &mut Vec<Effect>,
    ) {
        let Some(process) = self.hosts[n].process.as_mut() else { return };
        match post {
            Post::Input(input) => process.agent.handle(now, input, effects),
            Post::OpenOffers(back) => process.curious.push(back),
            Post::Request(request, back) => {
                process.requests += 1;
                let reply = ReplyId(process.requests);
                process.callers.insert(reply, (back, Asked::of(&request)));
                self.handle_request(n, now, reply, request, effects);
            }
        }
    }

    /// The disk has written a batch, or could not; the process may be stopped meanwhile.
    pub(super) fn synced(&mut self, n: usize, life: u32, is_lost: bool) {
        let node = self.hosts[n].node;
        if !self.is_alive(node, life) {
            return;
        }
        if is_lost {
            // A ledger that can't remember must not promise: the agent ends.
            self.coverage.hit("disk.full");
            // A real one finds out for itself how much of it fits.
            let is_simulated = self.hosts[n].disk.real.is_none();
            if let Some(process) = self.hosts[n].process.as_mut()
                && is_simulated
            {
                process.writing.clear();
            }
            self.kill_process(node);
            self.after(1_000_000, Event::Start { node });
            return;
        }
        let Some(process) = self.hosts[n].process.as_mut() else { return };
        let writes = std::mem::take(&mut process.writing);
        self.make_durable(n, writes);
        self.draft(n);
        self.after(5, Event::Perform { host: n, life });
    }

    fn make_durable(&mut self, n: usize, writes: Vec<Write>) {
        if let Some(real) = &self.hosts[n].disk.real
            && let Err(error) = real.commit(&writes)
        {
            self.violate("a_disk_that_is_well_takes_writes", format!("h{n}: {error}"));
        }
        self.note_durable(n, writes);
    }

    fn note_durable(&mut self, n: usize, writes: Vec<Write>) {
        self.before_durable(n, &writes);
        let forgets = self.mutant == Some(Mutant::AgreementForgotten);
        let writes = writes.into_iter().filter(|w| !forgets || !matches!(w, Write::Agreed(_)));
        let writes = writes.collect();
        apply(&mut self.hosts[n].disk.ledger, writes);
        self.quota_is_never_exceeded();
        self.every_hold_is_counted_in_full();
        self.no_budget_is_overspent(n);
        self.no_guest_has_more_than_is_promised(n);
    }

    /// Replies, events and works, in order; a crash may come between any two.
    pub(super) fn perform_effects(&mut self, n: usize) {
        let node = self.hosts[n].node;
        let life = self.nodes[node.0].life;
        let may_crash = self.is_noisy && self.chance.happens(self.profile.crash_in_batch_ppm);
        let count = self.hosts[n].process.as_ref().map_or(0, |p| p.effects.len());
        let crash_after = may_crash.then(|| self.chance.index(count + 1));
        for i in 0..=count {
            if crash_after == Some(i) && count > 1 {
                self.coverage.hit("fault.agent-killed-between-effects");
                self.kill_process(node);
                let delay_us = self.chance.between(50_000, 4_000_000);
                self.after(delay_us, Event::Start { node });
                return;
            }
            let Some(process) = self.hosts[n].process.as_mut() else { return };
            match process.effects.pop_front() {
                Some(effect) => self.perform_effect(n, effect),
                None => break,
            }
        }
        self.answer_curious(n);
        let Some(process) = self.hosts[n].process.as_mut() else { return };
        process.is_busy = false;
        if !process.mailbox.is_empty() && !process.is_turn_due {
            process.is_turn_due = true;
            self.after(1, Event::Turn { host: n, life });
        }
    }

    fn answer_curious(&mut self, n: usize) {
        let node = self.hosts[n].node;
        let Some(process) = self.hosts[n].process.as_mut() else { return };
        let curious = std::mem::take(&mut process.curious);
        if curious.is_empty() {
            return;
        }
        let (watermark, offers) = process.agent.open_offers();
        let (epoch, agreed) = (process.agent.epoch(), process.agent.agreed());
        let debits = Some(process.agent.hold_debits());
        let unused = process.agent.unused_offers();
        let open = OpenOffers { epoch, watermark, offers, agreed, debits, unused };
        for back in curious {
            let told = Told::OpenOffers(open.clone());
            let told = self.mutate_reading(n, told);
            self.send_answer(node, back, told);
        }
    }

    pub(super) fn perform_effect(&mut self, n: usize, effect: Effect) {
        let node = self.hosts[n].node;
        match effect {
            Effect::Reply(reply, answer) => {
                let Some(process) = self.hosts[n].process.as_mut() else { return };
                let Some((back, asked)) = process.callers.remove(&reply) else { return };
                self.watch_reply(n, &asked, &answer);
                self.send_answer(node, back, Told::Agent(answer));
            }
            Effect::Publish(event) => {
                self.watch_publish(n, &event);
                let Some(process) = self.hosts[n].process.as_mut() else { return };
                let merged = process.view.merge_event(&event);
                if merged != Merge::Applied {
                    let what = format!("event {} of h{n} does not follow", event.cursor);
                    return self.violate("events_are_consecutive", what);
                }
                process.ring.push(Arc::new(event.clone()));
                let subscribers = process.subscribers.clone();
                for conn in subscribers {
                    let item = StreamItem::Frame(Frame::Event(event.clone()));
                    if !self.send_item(conn, item)
                        && let Some(process) = self.hosts[n].process.as_mut()
                    {
                        process.subscribers.retain(|known| *known != conn);
                    }
                }
            }
            Effect::Work { job, id, uuid, work, .. } => {
                self.watch_work(&work);
                let Some(process) = self.hosts[n].process.as_ref() else { return };
                let memory = Rc::clone(&process.memory);
                self.spawn(node, |ctx| {
                    Box::pin(works::perform(ctx, node, memory, job, (id, uuid), work))
                });
            }
            Effect::Look(look) => {
                self.spawn(node, |ctx| Box::pin(works::look(ctx, look)));
            }
            Effect::AskRight => self.ask_right(n),
            Effect::TrustChanged(_) => self.keeper_will_learn_trust(n),
            // Simulated guests have no network, say nothing, and have their disks where they are.
            Effect::LookAtCards { .. }
            | Effect::KeepNetworks
            | Effect::Listen(_)
            | Effect::Persist(_)
            | Effect::PoolsChanged(_) => {}
        }
    }

    /// Asks the arbiters of its document, one after the other.
    fn ask_right(&mut self, n: usize) {
        let node = self.hosts[n].node;
        let Some(process) = self.hosts[n].process.as_ref() else { return };
        let Some(trust) = process.agent.trust() else { return };
        let version = trust.version;
        let arbiters: Vec<(u32, NodeId)> = trust
            .seats()
            .iter()
            .filter_map(|(_, member)| Some((member.slot, *self.arbiter_nodes.get(&member.slot)?)))
            .collect();
        self.spawn(node, move |ctx| {
            Box::pin(async move {
                let mut standing = Standing { version, ..Standing::default() };
                for (slot, arbiter) in arbiters {
                    let told = ctx.call(arbiter, Ask::Health, 3_000).await;
                    let Ok(Told::Health { trust_version, is_ready }) = told else { continue };
                    if trust_version == Some(version) {
                        standing.obey.insert(slot);
                        if is_ready {
                            standing.ready.insert(slot);
                        }
                    }
                }
                ctx.say(Command::Post(Box::new(Input::Right(standing))));
            })
        });
    }

    fn subscribe_to_agent(&mut self, n: usize, conn: u64, from: Option<Cursor>) {
        let Some(process) = self.hosts[n].process.as_ref() else { return };
        let Some(row) = process.row() else { return };
        let resume = from.map_or(Resume::Inventory, |from| process.ring.resume(from, row.cursor));
        let mut items = vec![StreamItem::Opened];
        match resume {
            Resume::From(events) => items.extend(
                events
                    .iter()
                    .map(|e| StreamItem::Frame(Frame::Event(protocol::event::Event::clone(e)))),
            ),
            Resume::Inventory => {
                items.push(StreamItem::Frame(Frame::Inventory(Box::new(row.clone().into()))));
            }
        }
        items.push(StreamItem::Frame(Frame::Current));
        let mut is_open = true;
        for item in items {
            is_open &= self.send_item(conn, item);
        }
        if is_open && let Some(process) = self.hosts[n].process.as_mut() {
            process.subscribers.push(conn);
        }
    }

    // Definitions of domains that were adopted.

    pub(super) fn keep_definition(&mut self, node: NodeId, domain: Uuid, text: String) -> bool {
        let super::world::Role::Host(n) = self.nodes[node.0].role else { return false };
        let has_room = self.hosts[n].disk.full_until_us <= self.now_us;
        if has_room {
            self.hosts[n].disk.kept.insert(domain, text);
        }
        has_room
    }

    pub(super) fn kept_definition(&self, node: NodeId, domain: Uuid) -> Option<String> {
        let super::world::Role::Host(n) = self.nodes[node.0].role else { return None };
        self.hosts[n].disk.kept.get(&domain).cloned()
    }

    pub(super) fn forget_definition(&mut self, node: NodeId, domain: Uuid) {
        let super::world::Role::Host(n) = self.nodes[node.0].role else { return };
        self.hosts[n].disk.kept.remove(&domain);
    }

    // Volumes.

    pub(super) fn make_volumes(&mut self, node: NodeId, job: &JobId) -> bool {
        let super::world::Role::Host(n) = self.nodes[node.0].role else { return false };
        let has_them = self.hosts[n].disk.volumes.contains(job);
        if !has_them && self.hosts[n].disk.full_until_us > self.now_us {
            self.coverage.hit("disk.no-room-for-volumes");
            return false;
        }
        self.hosts[n].disk.volumes.insert(job.clone());
        true
    }

    pub(super) fn delete_volumes(&mut self, node: NodeId, job: &JobId) {
        let super::world::Role::Host(n) = self.nodes[node.0].role else { return };
        if self.hosts[n].disk.volumes.remove(job) {
            self.absence_destroys_nothing(n, job, "its volumes were deleted");
        }
    }
}
