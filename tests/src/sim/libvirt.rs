//! libvirt in the world: when an operation is carried out, what its caller hears of it, and what
//! becomes of guests that are sent from one machine to another.

use host_agent::core::Input;
use hypervisor::{DomainEvent, DomainState, ErrorKind, Lifecycle, PauseReason};
use protocol::id::JobId;
use protocol::job::JobState;
use uuid::Uuid;

use super::hypervisor::{Caller, Fate, Happened, HvError, HvOp, HvReply, Sending, Sent};
use super::message::NodeId;
use super::mutant::Mutant;
use super::tasks::Reply;
use super::works;
use super::world::{Event, World};

impl World {
    /// An agent asks libvirt for something.
    pub(super) fn hv_issue(&mut self, n: usize, caller: Caller, op: HvOp, deadline_ms: u64) {
        let node = self.hosts[n].node;
        let (now_us, boot, life) = (self.now_us, self.hosts[n].boot, caller.life);
        let answer = |kind| Box::new(Reply::Hv(Err(HvError { kind })));
        if self.hosts[n].hv.down_until_us > now_us {
            let reply = answer(ErrorKind::Disconnected);
            return self.after(1_000, Event::Answer { node, life, call: caller.call, reply });
        }
        let (least, most) = op.takes_ms();
        let slowness = self.hosts[n].hv.slowness.max(1);
        let takes_us = self.chance.between(least * 1000, most * 1000) * slowness;
        let fate = self.fate_of(&op);
        let mut at_us = now_us + takes_us;
        if let Some(uuid) = op.changes() {
            let busy_until_us = self.hosts[n].hv.busy_until_us.entry(uuid).or_default();
            at_us = now_us.max(*busy_until_us) + takes_us;
            *busy_until_us = at_us;
        }
        self.coverage.hit(op.name());
        self.watch_hv_call(n, &op, caller);
        let op = Box::new(op);
        self.after(at_us - now_us, Event::HvEffect { host: n, boot, op, fate, caller });
        let reply = answer(ErrorKind::TimedOut);
        self.after_local_ms(
            node,
            deadline_ms,
            Event::Answer { node, life, call: caller.call, reply },
        );
    }

    fn fate_of(&mut self, op: &HvOp) -> Fate {
        let weight = match op {
            // The longest of all, and with the most ways to go wrong.
            HvOp::Migrate(..) => 12,
            HvOp::Start(_)
            | HvOp::Destroy(_)
            | HvOp::Pause(_)
            | HvOp::Resume(_)
            | HvOp::Resize(..)
            | HvOp::Save(_) => 4,
            _ => 1,
        };
        let ppm = self.profile.hv_trouble_ppm * weight;
        if !self.is_noisy || !self.chance.happens(ppm) {
            return Fate::Good;
        }
        match self.chance.below(3) {
            0 => {
                self.coverage.hit("hv.fails");
                Fate::Fails
            }
            1 => {
                self.coverage.hit("hv.done-unheard");
                Fate::DoneUnheard
            }
            _ => {
                self.coverage.hit("hv.lost-unheard");
                Fate::LostUnheard
            }
        }
    }

    pub(super) fn hv_effect(&mut self, n: usize, boot: u32, op: &HvOp, fate: Fate, caller: Caller) {
        if self.hosts[n].boot != boot {
            return;
        }
        if let HvOp::Migrate(uuid, _) = op {
            return self.begin_sending(n, *uuid, op, fate, caller);
        }
        let guest_obeys = !self.chance.happens(200_000);
        let mut happened = Vec::new();
        let result = match fate {
            Fate::Good | Fate::DoneUnheard => {
                self.watch_hv(n, op, caller);
                if self.is_kept_shut(n, op) {
                    self.coverage.hit("hv.start-behind-a-shut-gate");
                    Err(HvError { kind: ErrorKind::Failed })
                } else {
                    self.hosts[n].hv.perform(op, guest_obeys, &mut happened)
                }
            }
            Fate::Fails => Err(HvError { kind: ErrorKind::Failed }),
            Fate::LostUnheard => Err(HvError { kind: ErrorKind::Disconnected }),
        };
        let heard = if fate == Fate::DoneUnheard {
            Err(HvError { kind: ErrorKind::Disconnected })
        } else {
            result
        };
        self.hv_happened(n, happened);
        if matches!(op, HvOp::Resize(..)) {
            self.no_guest_has_more_than_is_promised(n);
        }
        self.hv_answer(n, caller, heard);
    }

    /// A start ends frozen in its gate, and is killed there.
    fn is_kept_shut(&self, n: usize, op: &HvOp) -> bool {
        let HvOp::Start(uuid) = op else { return false };
        let domain = self.hosts[n].hv.domains.get(uuid);
        domain.is_some_and(|domain| !self.is_gate_open(n, *uuid, &domain.job))
    }

    fn hv_answer(&mut self, n: usize, caller: Caller, result: Result<HvReply, HvError>) {
        let (node, Caller { life, call }) = (self.hosts[n].node, caller);
        let reply = Box::new(Reply::Hv(result));
        self.after(100, Event::Answer { node, life, call, reply });
    }

    /// Guests have changed: the invariants look, and the agent is told if it listens.
    pub(super) fn hv_happened(&mut self, n: usize, happened: Vec<Happened>) {
        for (uuid, what) in happened {
            if matches!(what, Lifecycle::Resumed | Lifecycle::Started(_)) {
                self.no_vm_runs_on_two_hosts(uuid);
            }
            let node = self.hosts[n].node;
            let life = self.nodes[node.0].life;
            if self.hosts[n].hv.down_until_us > self.now_us {
                continue;
            }
            let event = DomainEvent { uuid, name: String::new(), what };
            let delay_us = self.chance.between(100, 8_000);
            let input = Box::new(Input::Domain(event));
            self.after(delay_us, Event::Post { host: n, life, input });
        }
    }

    // Sending.

    fn begin_sending(&mut self, n: usize, uuid: Uuid, op: &HvOp, fate: Fate, caller: Caller) {
        let HvOp::Migrate(_, to) = op else { return };
        let number = {
            let hv = &mut self.hosts[n].hv;
            hv.ops += 1;
            hv.ops
        };
        let domain = self.hosts[n].hv.domains.get_mut(&uuid);
        let Some(domain) = domain.filter(|d| d.state.is_active() && d.sending.is_none()) else {
            return self.hv_answer(n, caller, Err(HvError { kind: ErrorKind::NotRunning }));
        };
        let (op, to) = (number, *to);
        let job = domain.job.clone();
        if !self.is_awaited(to, &job) {
            self.coverage.hit("migration.not-awaited");
            return self.hv_answer(n, caller, Ok(HvReply::Sent(Sent::StillHere)));
        }
        let Some(domain) = self.hosts[n].hv.domains.get_mut(&uuid) else { return };
        domain.sending = Some(Sending { op, to, is_aborted: false, caller, fate });
        let boot = self.hosts[n].boot;
        let takes_us = self.chance.between(100_000, 4_000_000);
        self.after(takes_us, Event::SendingEnds { host: n, boot, job, op });
    }

    /// The switch-over, or why there is none.
    pub(super) fn sending_ends(&mut self, n: usize, boot: u32, job: &JobId, op: u64) {
        let uuid = job.domain_uuid();
        if self.hosts[n].boot != boot {
            return;
        }
        let Some(domain) = self.hosts[n].hv.domains.get_mut(&uuid) else { return };
        let Some(sending) = domain.sending.filter(|sending| sending.op == op) else { return };
        domain.sending = None;
        let guest = domain.clone();
        let caller = sending.caller;
        let is_there = self.can_receive(n, &sending);
        if !guest.is_running() || sending.is_aborted || !is_there || sending.fate == Fate::Fails {
            self.coverage.hit("migration.not-switched-over");
            let sent = if guest.is_running() { Sent::StillHere } else { Sent::Unknown };
            return self.hv_answer(n, caller, Ok(HvReply::Sent(sent)));
        }
        let is_paused = self.mutant != Some(Mutant::TargetRunsBeforeSourceLetGo);
        match sending.fate {
            Fate::Good | Fate::Fails => self.switch_over(n, uuid, &sending, is_paused),
            // The target has it and the source is not sure: both keep it, paused.
            Fate::DoneUnheard => {
                self.coverage.hit("migration.unknown-arrived");
                self.pause_source(n, uuid);
                self.arrive(n, &sending, guest, is_paused);
                self.hv_answer(n, caller, Ok(HvReply::Sent(Sent::Unknown)));
            }
            Fate::LostUnheard => {
                self.coverage.hit("migration.unknown-not-arrived");
                self.pause_source(n, uuid);
                self.hv_answer(n, caller, Ok(HvReply::Sent(Sent::Unknown)));
            }
        }
    }

    fn switch_over(&mut self, n: usize, uuid: Uuid, sending: &Sending, is_paused: bool) {
        let guest = self.hosts[n].hv.domains[&uuid].clone();
        let mut happened = Vec::new();
        self.hosts[n].hv.leave(uuid, &mut happened);
        if !self.arrive(n, sending, guest.clone(), is_paused) {
            self.hosts[n].hv.domains.insert(uuid, guest);
            return self.hv_answer(n, sending.caller, Ok(HvReply::Sent(Sent::StillHere)));
        }
        self.coverage.hit("migration.switched-over");
        self.hv_happened(n, happened);
        self.hv_answer(n, sending.caller, Ok(HvReply::Sent(Sent::Moved)));
    }

    /// A guest's streams go by the agent of the host that it comes to, which opens them only while its row awaits
    /// the guest.
    fn is_awaited(&self, to: NodeId, job: &JobId) -> bool {
        let target = self.hosts.iter().find(|host| host.node == to);
        let agent = target.and_then(|host| host.process.as_ref()).map(|process| &process.agent);
        let row = agent.and_then(|agent| agent.job(job));
        row.is_some_and(|record| record.job.state == JobState::MigratingIn)
    }

    fn can_receive(&self, n: usize, sending: &Sending) -> bool {
        let (from, to) = (self.hosts[n].node, sending.to);
        let target = self.hosts.iter().find(|host| host.node == to);
        target.is_some_and(|host| host.hv.down_until_us <= self.now_us)
            && self.nodes[to.0].has_power
            && self.network.passes(from, to)
            && self.network.passes(to, from)
    }

    fn pause_source(&mut self, n: usize, uuid: Uuid) {
        if let Some(domain) = self.hosts[n].hv.domains.get_mut(&uuid) {
            domain.state = DomainState::Paused(PauseReason::Migration);
            self.hv_happened(n, vec![(uuid, Lifecycle::Suspended(PauseReason::Migration))]);
        }
    }

    fn arrive(
        &mut self,
        _from: usize,
        sending: &Sending,
        guest: super::hypervisor::Domain,
        is_paused: bool,
    ) -> bool {
        let Some(m) = self.hosts.iter().position(|host| host.node == sending.to) else {
            return false;
        };
        if !self.is_gate_open(m, guest.uuid, &guest.job) {
            return false;
        }
        match self.hosts[m].hv.receive(guest, is_paused) {
            Some(happened) => {
                self.hv_happened(m, happened);
                true
            }
            None => false,
        }
    }

    // Troubles of libvirt as a whole.

    /// libvirt is away for a while: calls fail, events are lost, sendings are given up.
    pub fn hv_goes_down(&mut self, n: usize, for_us: u64) {
        let (now_us, boot) = (self.now_us, self.hosts[n].boot);
        self.hosts[n].hv.down_until_us = now_us + for_us;
        let mut ended = Vec::new();
        for domain in self.hosts[n].hv.domains.values_mut() {
            if let Some(sending) = domain.sending.take() {
                ended.push(sending.caller);
            }
        }
        for caller in ended {
            self.hv_answer(n, caller, Err(HvError { kind: ErrorKind::Disconnected }));
        }
        self.after(for_us, Event::HvUp { host: n, boot });
    }

    /// It is back: whoever watches lists again.
    pub(super) fn hv_up(&mut self, n: usize, boot: u32) {
        let node = self.hosts[n].node;
        let is_back = self.hosts[n].boot == boot && self.hosts[n].hv.down_until_us <= self.now_us;
        if is_back && self.nodes[node.0].is_up {
            self.spawn(node, |ctx| Box::pin(works::list(ctx)));
        }
    }

    /// A guest ends by itself.
    pub(super) fn guest_ends(&mut self, n: usize, uuid: Uuid, why: hypervisor::StopReason) {
        let mut happened = Vec::new();
        self.hosts[n].hv.end(uuid, why, &mut happened);
        self.hv_happened(n, happened);
    }
}
