//! A host's keeper: its core, what it has saved in this boot of the machine, and the gates in libvirt's
//! cgroups, as `host-agent/src/keeper` has them.
//!
//! It lives beside the agent and survives it. Assumption A5 is kept here: it is never paused or dead for
//! longer than killing a guest may take less what killing takes; the agent's own watch over the gates
//! (`warden`) is not simulated.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use arbiter::core::{Effect as ArbiterEffect, Input as ArbiterInput};
use host_agent::core::{Draft, Input as AgentInput, Joint};
use host_agent::keeper::core::{Effect, Gate, Input, Keeper, Saved, Table};
use hypervisor::StopReason;
use protocol::id::JobId;
use protocol::signed::Signed;
use protocol::tenure::{Statement, Term};
use protocol::trust::Trust;
use uuid::Uuid;

use super::mutant::Mutant;
use super::world::{Event, World};

/// Longest that a killed guest takes to be gone.
const KILL_US_MAX: u64 = 600_000;
/// How late a statement or term is at most.
const LATE_US_MAX: u64 = 20_000_000;

/// What the agent and its works share with the keeper.
#[derive(Debug, Default)]
pub struct Link {
    /// The agent's last draft.
    pub draft: Option<Draft>,
    /// What the keeper has told.
    pub table: Table,
}

/// A keeper.
#[derive(Debug, Default)]
pub struct KeeperProcess {
    core: Option<Keeper>,
    saved: Saved,
    /// Which life it is in; grows when it dies.
    pub life: u32,
    paused_until_us: u64,
    wakes_ms: u64,
    /// Shared with the agent.
    pub link: Rc<RefCell<Link>>,
    /// True while the agent's last draft had something that needs cover.
    is_kept: bool,
}

/// What happens to a keeper, as an event.
#[derive(Debug, Clone)]
pub enum KeeperEvent {
    /// It begins.
    Start,
    /// It looks at its host's trust document.
    Trust,
    /// Something for its core.
    Input(Box<Input>),
    /// The time has come that it wanted to be woken at.
    Wake(u64),
    /// What is behind a sealed gate is dead.
    Dead(Uuid),
}

impl World {
    /// The keeper's agent says what is on disk now.
    pub(super) fn draft(&mut self, n: usize) {
        let Some(process) = self.hosts[n].process.as_ref() else { return };
        let needs_keeper = process.agent.needs_keeper();
        if !needs_keeper && !self.hosts[n].keeper.is_kept {
            return;
        }
        let Some(draft) = process.agent.draft() else { return };
        let keeper = &mut self.hosts[n].keeper;
        keeper.is_kept = needs_keeper;
        let is_news = keeper.link.borrow().draft.as_ref() != Some(&draft);
        keeper.link.borrow_mut().draft = Some(draft.clone());
        if is_news {
            self.tell_keeper(n, 100, Input::Draft(draft));
        }
    }

    fn tell_keeper(&mut self, n: usize, delay_us: u64, input: Input) {
        let event = KeeperEvent::Input(Box::new(input));
        self.keeper_after(n, delay_us, event);
    }

    fn keeper_after(&mut self, n: usize, delay_us: u64, event: KeeperEvent) {
        let (boot, life) = (self.hosts[n].boot, self.hosts[n].keeper.life);
        self.after(delay_us, Event::Keeper { host: n, boot, life, event: Box::new(event) });
    }

    /// Kills it; another one begins a little later.
    pub fn kill_keeper(&mut self, n: usize) -> bool {
        if self.hosts[n].keeper.core.take().is_none() {
            return false;
        }
        self.hosts[n].keeper.life += 1;
        let delay_us = self.chance.between(50_000, 900_000);
        self.keeper_after(n, delay_us, KeeperEvent::Start);
        true
    }

    /// Stops it for a while, as by SIGSTOP.
    pub(super) fn pause_keeper(&mut self, n: usize) -> bool {
        let for_us = self.chance.between(50_000, 900_000);
        let now_us = self.now_us;
        let keeper = &mut self.hosts[n].keeper;
        keeper.paused_until_us = now_us + for_us;
        keeper.core.is_some()
    }

    /// The machine loses power: what was saved is in memory that goes with it.
    pub(super) fn keeper_loses_power(&mut self, n: usize) {
        let keeper = &mut self.hosts[n].keeper;
        let link = Rc::clone(&keeper.link);
        *link.borrow_mut() = Link::default();
        let life = keeper.life + 1;
        *keeper = KeeperProcess { life, link, ..KeeperProcess::default() };
        self.hosts[n].hv.gates.clear();
    }

    /// It begins when the machine does.
    pub(super) fn boot_keeper(&mut self, n: usize) {
        if self.hosts[n].keeper.core.is_none() {
            self.keeper_after(n, 1_000, KeeperEvent::Start);
        }
    }

    pub(super) fn keeper_event(&mut self, n: usize, boot: u32, life: u32, event: KeeperEvent) {
        if self.hosts[n].boot != boot || !self.nodes[self.hosts[n].node.0].has_power {
            return;
        }
        if let KeeperEvent::Dead(uuid) = event {
            // Done by the kernel, whatever becomes of the keeper meanwhile.
            self.kill_behind_gate(n, uuid);
            return self.tell_keeper(n, 5_000, Input::Empty(uuid));
        }
        let paused_us = self.hosts[n].keeper.paused_until_us.saturating_sub(self.now_us);
        if paused_us > 0 {
            return self
                .after(paused_us, Event::Keeper { host: n, boot, life, event: Box::new(event) });
        }
        if self.hosts[n].keeper.life != life {
            return;
        }
        match event {
            KeeperEvent::Start => self.start_keeper(n),
            KeeperEvent::Trust => {
                let trust = self.trust_of_keeper(n);
                self.keeper_handles(n, Input::Trust(trust));
            }
            KeeperEvent::Input(input) => self.keeper_handles(n, *input),
            KeeperEvent::Wake(at_ms) if self.hosts[n].keeper.wakes_ms == at_ms => {
                self.keeper_handles(n, Input::Tick);
            }
            KeeperEvent::Wake(_) | KeeperEvent::Dead(_) => {}
        }
    }

    fn start_keeper(&mut self, n: usize) {
        if self.hosts[n].keeper.core.is_some() {
            return;
        }
        let now_ms = self.now_at(self.hosts[n].node).mono_ms;
        let id = self.hosts[n].id.clone();
        let keeper = &mut self.hosts[n].keeper;
        keeper.core = Some(Keeper::new(id, now_ms, keeper.saved.clone()));
        let trust = self.trust_of_keeper(n);
        self.keeper_handles(n, Input::Trust(trust));
        let draft = self.hosts[n].keeper.link.borrow().draft.clone();
        if let Some(draft) = draft {
            self.keeper_handles(n, Input::Draft(draft));
        }
        self.coverage.hit("keeper.start");
    }

    /// The agent has another document: its keeper looks every half second.
    pub(super) fn keeper_will_learn_trust(&mut self, n: usize) {
        let delay_us = self.chance.between(1_000, 500_000);
        self.keeper_after(n, delay_us, KeeperEvent::Trust);
    }

    fn trust_of_keeper(&self, n: usize) -> Arc<Trust> {
        let signed = self.hosts[n].disk.ledger.trust.as_ref();
        let opened = signed.filter(|signed| **signed != self.trust_signed).map(Signed::open);
        let trust = match opened {
            Some(Ok(trust)) => Arc::new(trust),
            Some(Err(_)) | None => Arc::clone(&self.trust),
        };
        match self.mutant {
            Some(Mutant::KillAtDeadline) => Arc::new(Trust { kill_ms: 0, ..Trust::clone(&trust) }),
            Some(Mutant::PresentAloneCovers) => present_alone(&trust),
            Some(Mutant::MixedCommitteeCovers) => mixed(&trust),
            _ => trust,
        }
    }

    fn keeper_handles(&mut self, n: usize, input: Input) {
        let now_ms = self.now_at(self.hosts[n].node).mono_ms;
        let keeper = &mut self.hosts[n].keeper;
        let Some(core) = keeper.core.as_mut() else { return };
        let mut effects = Vec::new();
        core.handle(now_ms, input, &mut effects);
        keeper.saved = core.saved();
        keeper.link.borrow_mut().table = core.table();
        let due_ms = core.due_ms();
        keeper.wakes_ms = due_ms;
        if due_ms < u64::MAX {
            let node = self.hosts[n].node;
            let delay_us = self.nodes[node.0].clock.real_us_of(due_ms.saturating_sub(now_ms));
            // A timer fires late at times, never early.
            let late_us = self.chance.below(2_000);
            self.keeper_after(n, delay_us + 1_000 + late_us, KeeperEvent::Wake(due_ms));
        }
        for effect in effects {
            match effect {
                Effect::State(statement) => self.state_holds(n, &statement),
                Effect::Open(uuid) => self.open_gate(n, uuid),
                Effect::Seal(uuid) => self.seal_gate(n, uuid),
                Effect::Remove(uuid) => drop(self.hosts[n].hv.gates.remove(&uuid)),
            }
        }
        self.tell_lost(n);
        self.tell_joint(n);
    }

    /// The agent is told what runs only by the cover of both committees.
    pub(super) fn tell_joint(&mut self, n: usize) {
        let joint = self.joint_of(n);
        let node = self.hosts[n].node;
        if joint.change.is_some() && self.nodes[node.0].is_up {
            self.post(n, AgentInput::Joint(joint));
            if self.mutant == Some(Mutant::NextAloneCovers) {
                let trust = self.trust_of_keeper(n);
                self.tell_keeper(n, 10, Input::Trust(next_alone(&trust)));
            }
        }
    }

    /// What the keeper says of that; a mutant says so of everything, and goes on as before.
    fn joint_of(&self, n: usize) -> Joint {
        let link = self.hosts[n].keeper.link.borrow();
        if self.mutant != Some(Mutant::PresentAloneCovers) {
            return link.table.joint();
        }
        let trust = self.trust_of_host(n);
        let holds = link.table.0.iter().map(|kept| kept.hold).collect();
        Joint { version: trust.version, change: trust.change(), holds }
    }

    /// The agent is told what is lost, again and again until it has closed it.
    pub(super) fn tell_lost(&mut self, n: usize) {
        let lost: Vec<_> = {
            let link = self.hosts[n].keeper.link.borrow();
            let lost = link.table.0.iter().filter(|kept| kept.gate == Gate::Lost);
            lost.map(|kept| (kept.job.clone(), kept.hold)).collect()
        };
        let node = self.hosts[n].node;
        for (job, hold) in lost {
            if self.nodes[node.0].is_up {
                self.coverage.hit("keeper.lost");
                self.post(n, AgentInput::Lost { job, hold });
            }
        }
    }

    // Gates.

    fn open_gate(&mut self, n: usize, uuid: Uuid) {
        self.coverage.hit("keeper.open");
        let hv = &mut self.hosts[n].hv;
        hv.gates.insert(uuid, true);
        if let Some(domain) = hv.domains.get_mut(&uuid) {
            domain.is_frozen = false;
        }
        self.no_vm_runs_on_two_hosts(uuid);
    }

    fn seal_gate(&mut self, n: usize, uuid: Uuid) {
        self.coverage.hit("keeper.seal");
        let hv = &mut self.hosts[n].hv;
        hv.gates.insert(uuid, false);
        if let Some(domain) = hv.domains.get_mut(&uuid) {
            // Killing takes its time; without freezing first it would run on meanwhile.
            domain.is_frozen =
                domain.state.is_active() && self.mutant != Some(Mutant::KillAtDeadline);
        }
        let delay_us = self.chance.between(4_000, KILL_US_MAX);
        self.keeper_after(n, delay_us, KeeperEvent::Dead(uuid));
    }

    fn kill_behind_gate(&mut self, n: usize, uuid: Uuid) {
        let hv = &self.hosts[n].hv;
        if hv.gates.get(&uuid) == Some(&false) && hv.is_active(uuid) {
            self.guest_ends(n, uuid, StopReason::Crashed);
        }
    }

    /// Whether libvirt can start or take in this guest now.
    pub(super) fn is_gate_open(&self, n: usize, uuid: Uuid, job: &JobId) -> bool {
        let is_guarded = self.profile.lapses(job);
        let ignores = self.mutant == Some(Mutant::GateIgnored);
        !is_guarded || ignores || self.hosts[n].hv.gates.get(&uuid) == Some(&true)
    }

    // Statements and terms.

    fn state_holds(&mut self, n: usize, statement: &Statement) {
        let signed = Signed::seal(statement, &self.hosts[n].key);
        let seats = self.trust_of_host(n).seats();
        for a in seats.iter().filter_map(|(_, member)| usize::try_from(member.slot).ok()) {
            self.send_statement(n, a, &signed);
        }
    }

    fn send_statement(&mut self, n: usize, a: usize, signed: &Signed<Statement>) {
        let (from, to) = (self.hosts[n].node, self.arbiters[a].node);
        let is_lost = self.chance.happens(self.network.loss_ppm);
        if !self.network.passes(from, to) || is_lost {
            return self.coverage.hit("net.statement-lost");
        }
        let copies = if self.chance.happens(self.network.double_ppm) { 2 } else { 1 };
        for _ in 0..copies {
            let is_late = self.chance.happens(self.network.late_ppm);
            let delay_us = self.chance.between(150, if is_late { LATE_US_MAX } else { 1_500 });
            let statement = Box::new(signed.clone());
            self.after(delay_us, Event::Stated { host: n, arbiter: a, statement });
        }
    }

    pub(super) fn arbiter_hears_statement(
        &mut self,
        n: usize,
        a: usize,
        statement: Signed<Statement>,
    ) {
        let (from, to) = (self.hosts[n].node, self.arbiters[a].node);
        if !self.nodes[to.0].is_up || !self.network.passes(from, to) {
            return self.coverage.hit("net.statement-undelivered");
        }
        let now_ms = self.now_at(to).mono_ms;
        let Some(shared) = self.arbiters[a].life.clone() else { return };
        let mut effects = Vec::new();
        let said = statement.open();
        let input = ArbiterInput::Stated { request: 0, statement };
        shared.core.borrow_mut().handle(now_ms, input, &mut effects);
        let term = match effects.pop() {
            Some(ArbiterEffect::Term { term: Ok(term), .. }) => Some(term),
            _ => None,
        };
        let term = match said {
            Ok(said) if self.is_liar(a) => self.lie_of_cover(a, &said, term),
            _ => term,
        };
        let Some(term) = term else { return };
        self.coverage.hit(if term.is_silent { "term.silent" } else { "term.covers" });
        let is_lost = self.chance.happens(self.network.loss_ppm);
        if !self.network.passes(to, from) || is_lost {
            return self.coverage.hit("net.term-lost");
        }
        let is_late = self.chance.happens(self.network.late_ppm);
        let delay_us = self.chance.between(150, if is_late { LATE_US_MAX } else { 1_500 });
        self.after(delay_us, Event::Termed { host: n, term: Box::new(term) });
    }

    pub(super) fn keeper_hears_term(&mut self, n: usize, mut term: Term) {
        if self.mutant == Some(Mutant::TermCountedFromReceipt)
            && let Some(seq) = self.hosts[n].keeper.core.as_ref().map(Keeper::last_seq)
        {
            term.seq = seq;
        }
        if self.mutant == Some(Mutant::ExclusionIgnored) {
            // As if it had covered all that was listed.
            let table = &self.hosts[n].keeper.link.borrow().table;
            term.covered.extend(table.0.iter().map(|kept| kept.hold));
        }
        self.tell_keeper(n, 10, Input::Term(term));
    }
}

/// A document as if those who are to follow were in force already.
fn next_alone(trust: &Trust) -> Arc<Trust> {
    let mut trust = trust.clone();
    if let Some(next) = trust.succession.next.take() {
        (trust.arbiters, trust.k, trust.witnesses) = (next.arbiters, next.k, next.witnesses);
    }
    Arc::new(trust)
}

/// A document as if arbiters and witnesses were one committee.
fn mixed(trust: &Trust) -> Arc<Trust> {
    let mut trust = trust.clone();
    let witnesses = std::mem::take(&mut trust.witnesses);
    trust.arbiters.extend(witnesses.members);
    Arc::new(trust)
}

/// A document as if nobody were to follow.
fn present_alone(trust: &Trust) -> Arc<Trust> {
    let mut trust = trust.clone();
    trust.succession.next = None;
    Arc::new(trust)
}
