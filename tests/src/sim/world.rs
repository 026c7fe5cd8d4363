//! The simulated world: machines, their processes, and one queue of things to come.
//!
//! One thread, one clock, one stream of lots. The world decides in which order things happen; what
//! they mean is decided by the very cores that run in the daemons. After each event the invariants
//! that it may have broken are checked.
//!
//! ```text
//!   queue ──▶ event ──▶ process (core, shell's tasks) ──▶ effects, commands ──▶ queue
//!                                  │
//!                                  └──▶ oracle: what was promised, seen, asked for ──▶ violation?
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;
use std::sync::Arc;

use host_agent::core::Input;
use protocol::id::{HostId, JobId, RunId, TenantId};
use protocol::signed::{SecretKey, Signed, remember_signatures};
use protocol::tenure::{Statement, Term};
use protocol::trust::Trust;
use transport::Now;

use super::arbiter::ArbiterProcess;
use super::chance::Chance;
use super::clock::MachineClock;
use super::coverage::Coverage;
use super::engine::{Conductor, EngineProcess};
use super::faults::Fault;
use super::fence::Fencing;
use super::host::Host;
use super::hypervisor::{Caller, Fate, HvOp};
use super::invariants::{Oracle, Violation};
use super::keeper::KeeperEvent;
use super::message::{Ask, Back, NodeId, StreamItem};
use super::monitor::MonitorProcess;
use super::mutant::Mutant;
use super::network::Network;
use super::operator::Operators;
use super::profile::Profile;
use super::tasks::{CallId, Command, Ctx, Reply, Task, TaskId};

/// What a machine is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs guests; index of the host.
    Host(usize),
    /// Index of the arbiter.
    Arbiter(usize),
    /// Index of the monitor.
    Monitor(usize),
    /// Index of the engine.
    Engine(usize),
}

/// A machine and the process on it.
pub struct Node {
    /// What it is there for.
    pub role: Role,
    /// Its clocks.
    pub clock: MachineClock,
    /// Which life its process is in; grows when it dies.
    pub life: u32,
    /// Whether the process is there.
    pub is_up: bool,
    /// Whether the machine has power.
    pub has_power: bool,
    /// Until when the process is stopped, as by SIGSTOP.
    pub paused_until_us: u64,
    pub(super) ctx: Ctx,
    pub(super) tasks: BTreeMap<TaskId, Task>,
    pub(super) waiting: BTreeMap<CallId, TaskId>,
    pub(super) sleepers: BTreeMap<u64, Vec<CallId>>,
    tasks_begun: u64,
}

/// Things that come regularly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tick {
    /// The agent's: failed work is tried again, offers expire.
    Agent,
    /// A monitor's: freshness.
    Monitor,
    /// Followers look after their streams.
    Followers,
}

/// Something that happens.
#[derive(Debug)]
pub(super) enum Event {
    /// A request arrives.
    Deliver { to: NodeId, from: NodeId, ask: Box<Ask>, back: Back },
    /// A task's question is answered.
    Answer { node: NodeId, life: u32, call: CallId, reply: Box<Reply> },
    /// An item of a stream arrives.
    Item { node: NodeId, life: u32, conn: u64, item: Box<StreamItem> },
    /// A follower asks for a sign of life, on the stream.
    Ping { to: NodeId, conn: u64 },
    /// The end of a stream is noticed.
    ConnOver { node: NodeId, life: u32, conn: u64 },
    /// Something is put into an agent's mailbox.
    Post { host: usize, life: u32, input: Box<Input> },
    /// An agent handles what waits in its mailbox.
    Turn { host: usize, life: u32 },
    /// A batch has reached the disk.
    Synced { host: usize, life: u32, is_lost: bool },
    /// An agent performs the effects of a batch that is on disk.
    Perform { host: usize, life: u32 },
    /// Time for something.
    Tick { node: NodeId, life: u32, tick: Tick },
    /// libvirt carries something out.
    HvEffect { host: usize, boot: u32, op: Box<HvOp>, fate: Fate, caller: Caller },
    /// A migration ends.
    SendingEnds { host: usize, boot: u32, job: JobId, op: u64 },
    /// libvirt answers again.
    HvUp { host: usize, boot: u32 },
    /// A run's record is stored.
    Stored { node: NodeId, life: u32, run: RunId },
    /// A run asked to be woken.
    WakeRun { node: NodeId, life: u32, run: RunId, at_ms: u64 },
    /// A process begins.
    Start { node: NodeId },
    /// An arbiter looks at the trust document of its host.
    Trust { node: NodeId, life: u32 },
    /// The operators look after the arbiters.
    Govern,
    /// An operator says that a host is off.
    SayOff,
    /// Something happens to a host's keeper, in that boot of the machine.
    Keeper { host: usize, boot: u32, life: u32, event: Box<KeeperEvent> },
    /// A host's statement arrives at an arbiter.
    Stated { host: usize, arbiter: usize, statement: Box<Signed<Statement>> },
    /// An arbiter's term arrives at a host's keeper.
    Termed { host: usize, term: Box<Term> },
    /// Somebody wants something.
    Wish,
    /// Something goes wrong, and the next thing is chosen.
    Chaos,
    /// A fault that was only for a time is over.
    FaultOver(Fault),
}

struct Entry {
    at_us: u64,
    seq: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at_us, self.seq) == (other.at_us, other.seq)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_us, self.seq).cmp(&(other.at_us, other.seq))
    }
}

/// Everything.
pub struct World {
    /// How it was made.
    pub profile: Profile,
    /// What is deliberately wrong with it.
    pub mutant: Option<Mutant>,
    /// Real time in microseconds.
    pub now_us: u64,
    /// Events so far.
    pub events: u64,
    /// Machines.
    pub nodes: Vec<Node>,
    /// What runs guests.
    pub hosts: Vec<Host>,
    /// Those who promise.
    pub arbiters: Vec<ArbiterProcess>,
    /// Those who show.
    pub monitors: Vec<MonitorProcess>,
    /// Those who do.
    pub engines: Vec<EngineProcess>,
    /// Where runs are kept, one for each group of engines.
    pub conductors: Vec<Conductor>,
    /// What is between them.
    pub network: Network,
    /// What was promised and seen.
    pub oracle: Oracle,
    /// What was exercised.
    pub coverage: Coverage,
    /// The first rule broken.
    pub violation: Option<Violation>,
    /// The newest document.
    pub trust: Arc<Trust>,
    /// The same as an operator signed it.
    pub trust_signed: Signed<Trust>,
    /// Who sign them.
    pub operators: Operators,
    /// What they have said of hosts being off.
    pub fencing: Fencing,
    /// True until everything is healed.
    pub is_noisy: bool,
    /// Ends the simulation after this event, when wanted.
    pub stop_after: Option<u64>,
    /// Tells what happens, event by event, when wanted.
    pub trace: Option<Vec<String>>,
    pub(super) chance: Chance,
    pub(super) host_nodes: Rc<BTreeMap<HostId, NodeId>>,
    pub(super) arbiter_nodes: Rc<BTreeMap<u32, NodeId>>,
    pub(super) wishes: u64,
    queue: BinaryHeap<Reverse<Entry>>,
    seq: u64,
}

/// Keys by purpose and number; nobody else has them.
pub(super) fn key(purpose: u8, n: usize) -> SecretKey {
    let mut seed = [purpose; 32];
    seed[0] = u8::try_from(n & 0xff).unwrap_or(0);
    seed[1] = u8::try_from(n >> 8).unwrap_or(0);
    SecretKey::from_seed(seed)
}

const KEY_HOST: u8 = 3;
const KEY_ARBITER: u8 = 4;
const KEY_OPERATOR: u8 = 5;
const KEY_FENCER: u8 = 6;

/// Host `n`'s key.
pub(super) fn host_key(n: usize) -> SecretKey {
    key(KEY_HOST, n)
}

/// The operators' key.
pub(super) fn operator_key() -> SecretKey {
    key(KEY_OPERATOR, 0)
}

/// The key of the controller that is fencer `n`.
pub(super) fn fencer_key(n: usize) -> SecretKey {
    key(KEY_FENCER, n)
}

/// Arbiter `n`'s key.
pub(super) fn arbiter_key(n: usize) -> SecretKey {
    key(KEY_ARBITER, n)
}

impl World {
    /// A world of this profile in which everything is about to start.
    #[must_use]
    pub fn new(profile: Profile, mutant: Option<Mutant>) -> Self {
        // What one of its nodes has verified, the others are told as well.
        remember_signatures();
        let mut chance = Chance::new(profile.seed);
        let trust = profile.trust(host_key, arbiter_key, &key(KEY_OPERATOR, 0));
        let trust_signed = Signed::seal(&trust, &key(KEY_OPERATOR, 0));
        let mut world = Self {
            now_us: 0,
            events: 0,
            nodes: Vec::new(),
            hosts: Vec::new(),
            arbiters: Vec::new(),
            monitors: Vec::new(),
            engines: Vec::new(),
            conductors: Vec::new(),
            network: Network::default(),
            oracle: Oracle::default(),
            coverage: Coverage::default(),
            violation: None,
            trust: Arc::new(trust),
            operators: Operators::of(&trust_signed),
            fencing: Fencing::default(),
            trust_signed,
            is_noisy: true,
            stop_after: None,
            trace: None,
            host_nodes: Rc::default(),
            arbiter_nodes: Rc::default(),
            wishes: 0,
            queue: BinaryHeap::new(),
            seq: 0,
            chance: chance.clone(),
            profile,
            mutant,
        };
        world.furnish(&mut chance);
        world.chance = chance;
        world
    }

    fn furnish(&mut self, chance: &mut Chance) {
        let profile = self.profile.clone();
        let mut host_nodes = BTreeMap::new();
        for n in 0..profile.hosts {
            let node = self.add_node(Role::Host(n), chance);
            let host = Host::new(node, n, &self.trust_signed);
            host_nodes.insert(host.id.clone(), node);
            self.hosts.push(host);
        }
        let mut arbiter_nodes = BTreeMap::new();
        for n in 0..profile.witnesses_ever().end {
            let node = self.add_node(Role::Arbiter(n), chance);
            arbiter_nodes.insert(u32::try_from(n).unwrap_or(0), node);
            self.arbiters.push(ArbiterProcess::new(node, n));
        }
        for n in 0..profile.monitors {
            let node = self.add_node(Role::Monitor(n), chance);
            self.monitors.push(MonitorProcess::new(node));
        }
        for group in 0..profile.groups {
            self.conductors.push(Conductor::default());
            for _ in 0..profile.engines_per_group {
                let n = self.engines.len();
                let node = self.add_node(Role::Engine(n), chance);
                self.engines.push(EngineProcess::new(node, group, n));
            }
        }
        self.host_nodes = Rc::new(host_nodes);
        self.arbiter_nodes = Rc::new(arbiter_nodes);
        for n in 0..self.nodes.len() {
            let delay = chance.below(300_000);
            self.after(delay, Event::Start { node: NodeId(n) });
        }
        if profile.wish_every_ms > 0 {
            self.after(4_000_000, Event::Wish);
        }
        if profile.fault_every_ms > 0 {
            self.after(3_000_000, Event::Chaos);
        }
        if profile.spare_arbiters > 0 || profile.has_fences {
            self.after(5_000_000, Event::Govern);
        }
        if profile.fence_every_ms > 0 {
            self.after(8_000_000, Event::SayOff);
        }
    }

    fn add_node(&mut self, role: Role, chance: &mut Chance) -> NodeId {
        let node = NodeId(self.nodes.len());
        let ppm = i64::from(self.profile.clock_ppm);
        let spread = u64::from(self.profile.clock_ppm) * 2;
        let rate = i64::try_from(chance.below(spread + 1)).unwrap_or(0) - ppm;
        let booted_us_ago = chance.between(1_000_000, 90_000_000_000);
        self.nodes.push(Node {
            role,
            clock: MachineClock::new(booted_us_ago, rate),
            life: 0,
            is_up: false,
            has_power: true,
            paused_until_us: 0,
            ctx: Ctx::default(),
            tasks: BTreeMap::new(),
            waiting: BTreeMap::new(),
            sleepers: BTreeMap::new(),
            tasks_begun: 0,
        });
        node
    }

    // Time.

    /// Puts something into the queue.
    pub(super) fn after(&mut self, delay_us: u64, event: Event) {
        self.seq += 1;
        let entry = Entry { at_us: self.now_us + delay_us, seq: self.seq, event };
        self.queue.push(Reverse(entry));
    }

    /// Puts something into the queue by a machine's own clock.
    pub(super) fn after_local_ms(&mut self, node: NodeId, ms: u64, event: Event) {
        let delay_us = self.nodes[node.0].clock.real_us_of(ms);
        self.after(delay_us, event);
    }

    /// A machine's clocks.
    #[must_use]
    pub fn now_at(&self, node: NodeId) -> Now {
        self.nodes[node.0].clock.now(self.now_us)
    }

    /// Lets the next thing happen; false when nothing is left or a rule was broken.
    pub fn step(&mut self) -> bool {
        if self.is_over() {
            return false;
        }
        let Some(Reverse(entry)) = self.queue.pop() else { return false };
        self.now_us = self.now_us.max(entry.at_us);
        if let Some(until_us) = self.deferred_until(&entry.event) {
            // In its old place among all that waits for the same moment.
            self.queue.push(Reverse(Entry { at_us: until_us, ..entry }));
            return true;
        }
        self.events += 1;
        if self.trace.is_some() {
            let line = format!("{:>8} {:>12.6} {:?}", self.events, self.seconds(), entry.event);
            self.note(|| line);
        }
        self.handle(entry.event);
        true
    }

    /// Lets time pass until then.
    pub fn run_until_us(&mut self, end_us: u64) {
        while !self.is_over()
            && self.queue.peek().is_some_and(|Reverse(entry)| entry.at_us <= end_us)
        {
            self.step();
        }
        self.now_us = self.now_us.max(end_us);
    }

    /// True once a rule was broken, or the wanted event was reached.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.violation.is_some() || self.stop_after.is_some_and(|last| self.events >= last)
    }

    /// Lets this much time pass.
    pub fn run_ms(&mut self, ms: u64) {
        self.run_us(ms * 1000);
    }

    /// Lets so much time pass.
    pub fn run_us(&mut self, us: u64) {
        self.run_until_us(self.now_us + us);
    }

    /// Lets time pass until something is so; false when it is not within that time.
    pub fn run_until(&mut self, max_ms: u64, is_so: impl Fn(&World) -> bool) -> bool {
        let end_us = self.now_us + max_ms * 1000;
        while !self.is_over() && self.now_us < end_us {
            if is_so(self) {
                return true;
            }
            if !self.step() {
                break;
            }
        }
        is_so(self)
    }

    /// Seconds of real time since the beginning.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub fn seconds(&self) -> f64 {
        self.now_us as f64 / 1e6
    }

    /// Adds a line to the trace, if one is kept.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    /// The first rule broken is what counts.
    pub(super) fn violate(&mut self, invariant: &'static str, what: String) {
        if self.violation.is_none() {
            let (event, at_us) = (self.events, self.now_us);
            self.note(|| format!("VIOLATION {invariant}: {what}"));
            self.violation = Some(Violation { invariant, what, event, at_us });
        }
    }

    /// Which process has to be awake for an event.
    fn process_of(
        event: &Event,
        hosts: &[Host],
        arbiters: &[ArbiterProcess],
    ) -> Option<(NodeId, Option<u32>)> {
        match event {
            Event::Deliver { to, .. } | Event::Ping { to, .. } => Some((*to, None)),
            Event::Answer { node, life, .. }
            | Event::Item { node, life, .. }
            | Event::ConnOver { node, life, .. }
            | Event::Tick { node, life, .. }
            | Event::Stored { node, life, .. }
            | Event::WakeRun { node, life, .. }
            | Event::Trust { node, life } => Some((*node, Some(*life))),
            Event::Post { host, life, .. }
            | Event::Turn { host, life }
            | Event::Perform { host, life } => Some((hosts[*host].node, Some(*life))),
            Event::Stated { arbiter, .. } => Some((arbiters[*arbiter].node, None)),
            Event::Synced { .. }
            | Event::Keeper { .. }
            | Event::Termed { .. }
            | Event::HvEffect { .. }
            | Event::SendingEnds { .. }
            | Event::HvUp { .. }
            | Event::Start { .. }
            | Event::Wish
            | Event::Govern
            | Event::SayOff
            | Event::Chaos
            | Event::FaultOver(_) => None,
        }
    }

    fn deferred_until(&self, event: &Event) -> Option<u64> {
        let (node, life) = Self::process_of(event, &self.hosts, &self.arbiters)?;
        let node = &self.nodes[node.0];
        let is_same = life.is_none_or(|life| life == node.life);
        (is_same && node.is_up && node.paused_until_us > self.now_us)
            .then_some(node.paused_until_us)
    }

    fn handle(&mut self, event: Event) {
        if let Some((node, Some(life))) = Self::process_of(&event, &self.hosts, &self.arbiters)
            && !self.is_alive(node, life)
        {
            return;
        }
        match event {
            Event::Deliver { to, from, ask, back } => self.deliver(to, from, *ask, back),
            Event::Answer { node, call, reply, .. } => self.answer(node, call, *reply),
            Event::Item { node, conn, item, .. } => self.take_item(node, conn, *item),
            Event::Ping { conn, .. } => {
                self.send_item(conn, StreamItem::Pong);
            }
            Event::ConnOver { node, conn, .. } => self.conn_over(node, conn),
            Event::Post { host, input, .. } => self.post(host, *input),
            Event::Turn { host, .. } => self.agent_turn(host),
            Event::Synced { host, life, is_lost } => self.synced(host, life, is_lost),
            Event::Perform { host, .. } => self.perform_effects(host),
            Event::Tick { node, life, tick } => self.tick(node, life, tick),
            Event::HvEffect { host, boot, op, fate, caller } => {
                self.hv_effect(host, boot, &op, fate, caller);
            }
            Event::SendingEnds { host, boot, job, op } => self.sending_ends(host, boot, &job, op),
            Event::HvUp { host, boot } => self.hv_up(host, boot),
            Event::Stored { node, run, .. } => self.stored(node, run),
            Event::WakeRun { node, run, at_ms, .. } => self.wake_run(node, run, at_ms),
            Event::Start { node } => self.start_process(node),
            Event::Trust { node, .. } => self.learn_trust(node),
            Event::Keeper { host, boot, life, event } => {
                self.keeper_event(host, boot, life, *event);
            }
            Event::Stated { host, arbiter, statement } => {
                self.arbiter_hears_statement(host, arbiter, *statement);
            }
            Event::Termed { host, term } => self.keeper_hears_term(host, *term),
            Event::Wish => self.wish(),
            Event::Govern => self.govern(),
            Event::SayOff => self.say_off(),
            Event::Chaos => self.chaos(),
            Event::FaultOver(fault) => self.fault_over(fault),
        }
    }

    // Processes.

    /// Whether this very life of a process goes on.
    #[must_use]
    pub fn is_alive(&self, node: NodeId, life: u32) -> bool {
        let node = &self.nodes[node.0];
        node.is_up && node.life == life
    }

    fn start_process(&mut self, node: NodeId) {
        let it = &mut self.nodes[node.0];
        if it.is_up || !it.has_power {
            return;
        }
        it.is_up = true;
        it.life += 1;
        it.paused_until_us = 0;
        it.ctx = Ctx::default();
        let role = it.role;
        self.note(|| format!("         start of {role:?}"));
        match role {
            Role::Host(n) => {
                self.boot_keeper(n);
                self.start_agent(n);
            }
            Role::Arbiter(n) => self.start_arbiter(n),
            Role::Monitor(n) => self.start_monitor(n),
            Role::Engine(n) => self.start_engine(n),
        }
    }

    /// A process begins after that time, unless it is there.
    pub fn start_after(&mut self, node: NodeId, ms: u64) {
        self.after(ms * 1000, Event::Start { node });
    }

    /// kill -9: memory and tasks are gone, whatever was under way outside goes on.
    pub fn kill_process(&mut self, node: NodeId) {
        let it = &mut self.nodes[node.0];
        if !it.is_up {
            return;
        }
        it.is_up = false;
        it.life += 1;
        it.tasks.clear();
        it.waiting.clear();
        it.sleepers.clear();
        match it.role {
            Role::Host(n) => self.agent_died(n),
            Role::Arbiter(n) => self.arbiters[n].die(),
            Role::Monitor(n) => self.monitors[n].die(),
            Role::Engine(n) => self.engines[n].die(),
        }
        self.cut_streams_of(node);
    }

    fn tick(&mut self, node: NodeId, life: u32, tick: Tick) {
        match (tick, self.nodes[node.0].role) {
            (Tick::Agent, Role::Host(n)) => {
                self.post(n, Input::Tick);
                self.tell_lost(n);
                self.tell_joint(n);
                self.after_local_ms(node, 1000, Event::Tick { node, life, tick });
            }
            (Tick::Monitor, Role::Monitor(n)) => {
                self.tell_monitor(n, monitor::core::Input::Tick);
                self.after_local_ms(node, 500, Event::Tick { node, life, tick });
            }
            (Tick::Followers, _) => {
                self.look_after_streams(node);
                self.after_local_ms(node, 250, Event::Tick { node, life, tick });
            }
            (Tick::Agent | Tick::Monitor, _) => {}
        }
    }

    // Tasks.

    /// Begins a task in a process.
    pub(super) fn spawn(&mut self, node: NodeId, make: impl FnOnce(Ctx) -> Task) {
        let id = self.add_task(node, make);
        self.poll(node, id);
    }

    /// A task that begins when it is polled.
    pub(super) fn add_task(&mut self, node: NodeId, make: impl FnOnce(Ctx) -> Task) -> TaskId {
        let it = &mut self.nodes[node.0];
        it.tasks_begun += 1;
        let id = TaskId(it.tasks_begun);
        let task = make(it.ctx.clone());
        it.tasks.insert(id, task);
        id
    }

    /// Drops a task wherever it waits.
    pub(super) fn cancel(&mut self, node: NodeId, task: TaskId) {
        let it = &mut self.nodes[node.0];
        it.tasks.remove(&task);
        it.waiting.retain(|_, waits| *waits != task);
    }

    pub(super) fn poll(&mut self, node: NodeId, id: TaskId) {
        let now = self.now_at(node);
        let it = &mut self.nodes[node.0];
        let Some(mut task) = it.tasks.remove(&id) else { return };
        let (commands, is_over) = it.ctx.clone().poll(now, &mut task);
        if !is_over {
            it.tasks.insert(id, task);
        }
        for (call, command) in commands {
            self.command(node, id, call, command);
        }
    }

    /// Answers a task's question, and lets it go on.
    pub(super) fn answer(&mut self, node: NodeId, call: CallId, reply: Reply) {
        let it = &mut self.nodes[node.0];
        // Nobody waits for it any more: it was answered otherwise, or given up.
        let Some(task) = it.waiting.remove(&call) else { return };
        for calls in it.sleepers.values_mut() {
            calls.retain(|sleeping| *sleeping != call);
        }
        it.ctx.answer(call, reply);
        self.poll(node, task);
    }

    fn command(&mut self, node: NodeId, task: TaskId, call: CallId, command: Command) {
        let life = self.nodes[node.0].life;
        match command {
            Command::Call { to, ask, patience_ms } => {
                self.nodes[node.0].waiting.insert(call, task);
                let back = Back { node, life, call: Some(call) };
                self.send_request(to, *ask, back, patience_ms);
            }
            Command::Sleep { ms, key } => {
                self.nodes[node.0].waiting.insert(call, task);
                if let Some(key) = key {
                    self.nodes[node.0].sleepers.entry(key).or_default().push(call);
                }
                let reply = Box::new(Reply::Woken);
                self.after_local_ms(node, ms, Event::Answer { node, life, call, reply });
            }
            Command::Hv { op, deadline_ms } => {
                self.nodes[node.0].waiting.insert(call, task);
                if let Role::Host(n) = self.nodes[node.0].role {
                    self.hv_issue(n, Caller { life, call }, op, deadline_ms);
                }
            }
            Command::MakeVolumes(job) => {
                self.nodes[node.0].waiting.insert(call, task);
                let is_done = self.make_volumes(node, &job);
                let reply = Box::new(Reply::Volumes(is_done));
                self.after(3_000, Event::Answer { node, life, call, reply });
            }
            Command::DeleteVolumes(job) => self.delete_volumes(node, &job),
            Command::KeepDefinition(domain, text) => {
                self.nodes[node.0].waiting.insert(call, task);
                let is_done = self.keep_definition(node, domain, text);
                let reply = Box::new(Reply::Volumes(is_done));
                self.after(3_000, Event::Answer { node, life, call, reply });
            }
            Command::KeptDefinition(domain) => {
                self.nodes[node.0].waiting.insert(call, task);
                let reply = Box::new(Reply::Kept(self.kept_definition(node, domain)));
                self.after(100, Event::Answer { node, life, call, reply });
            }
            Command::ForgetDefinition(domain) => self.forget_definition(node, domain),
            Command::Wake(key) => {
                for call in self.nodes[node.0].sleepers.remove(&key).unwrap_or_default() {
                    let reply = Box::new(Reply::Woken);
                    self.after(0, Event::Answer { node, life, call, reply });
                }
            }
            Command::Post(input) => {
                if let Role::Host(host) = self.nodes[node.0].role {
                    self.after(50, Event::Post { host, life, input });
                }
            }
            Command::Reply(back, told) => self.send_answer(node, back, *told),
            Command::Answered(run, flight, answer) => {
                self.run_answered(node, run, flight, *answer);
            }
            Command::Heard(_) => self.coverage.hit("arbiter.read"),
            Command::Hit(what) => self.coverage.hit(what),
            Command::Bring { host, version } => self.bring(node, host, version),
            Command::Word(word) => self.operators.words.push(*word),
        }
    }

    /// The quota of a tenant, if there is one.
    #[must_use]
    pub fn quota_of(&self, tenant: &TenantId) -> Option<protocol::amounts::Amounts> {
        self.trust.quota.get(tenant).copied()
    }
}
