//! What goes wrong, when, and for how long; and how everything is healed in the end.

use hypervisor::StopReason;
use uuid::Uuid;

use super::message::NodeId;
use super::world::{Event, Role, World};

/// A trouble that lasts for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing passes in these directions.
    Cut(Vec<(NodeId, NodeId)>),
    /// Messages are lost, doubled and late.
    Storm,
    /// libvirt is slow.
    HvSlow(usize),
    /// The machine has no power.
    NoPower(NodeId),
}

impl World {
    /// Something goes wrong, and the next time is chosen.
    pub(super) fn chaos(&mut self) {
        if !self.is_noisy {
            return;
        }
        let every_ms = self.profile.fault_every_ms;
        let next_us = self.chance.between(every_ms * 200, every_ms * 1_800);
        self.after(next_us, Event::Chaos);
        let faults = self.profile.faults.clone();
        let Some(name) = self.chance.pick(&faults).copied() else { return };
        self.note(|| format!("         FAULT {name}"));
        if self.strike(name) {
            self.coverage.hit_owned(format!("fault.{name}"));
        } else {
            self.coverage.hit_owned(format!("skipped.{name}"));
        }
    }

    /// False when there was nothing to strike.
    fn strike(&mut self, name: &str) -> bool {
        let node = NodeId(self.chance.index(self.nodes.len()));
        let other = NodeId(self.chance.index(self.nodes.len()));
        let host = self.chance.index(self.hosts.len());
        let short_us = self.chance.between(200_000, 6_000_000);
        let long_us = self.chance.between(1_000_000, 25_000_000);
        match name {
            "part" if node != other => self.cut(vec![(node, other), (other, node)], long_us),
            "part-one-way" if node != other => self.cut(vec![(node, other)], long_us),
            "isolate" => {
                let all = (0..self.nodes.len()).map(NodeId).filter(|n| *n != node);
                let both = all.flat_map(|n| [(n, node), (node, n)]).collect();
                self.cut(both, long_us);
            }
            "storm" => self.storm(long_us),
            "pause" if self.nodes[node.0].is_up => {
                self.nodes[node.0].paused_until_us = self.now_us + long_us;
            }
            "kill-agent" => return self.kill(self.hosts[host].node, short_us),
            "kill-keeper" => return self.kill_keeper(host),
            "pause-keeper" => return self.pause_keeper(host),
            "kill-arbiter" => {
                let n = self.chance.index(self.arbiters.len());
                return self.kill(self.arbiters[n].node, short_us);
            }
            "kill-arbiters" => {
                // Now and then for longer than a term.
                let for_us = long_us + 2 * short_us;
                let all = 0..self.profile.arbiters_ever();
                return all
                    .map(|n| self.kill(self.arbiters[n].node, for_us))
                    .filter(|was_up| *was_up)
                    .count()
                    > 0;
            }
            "kill-witnesses" => {
                let all = self.profile.witnesses_ever();
                return all
                    .map(|n| self.kill(self.arbiters[n].node, short_us))
                    .filter(|was_up| *was_up)
                    .count()
                    > 0;
            }
            "part-committee" => {
                let at = self.hosts[host].node;
                let arbiters = self.chance.happens(600_000);
                let all = match arbiters {
                    true => 0..self.profile.arbiters_ever(),
                    false => self.profile.witnesses_ever(),
                };
                let all = all.map(|n| self.arbiters[n].node);
                let both = all.flat_map(|n| [(n, at), (at, n)]).collect();
                self.cut(both, long_us);
            }
            "kill-monitor" => {
                let n = self.chance.index(self.monitors.len());
                return self.kill(self.monitors[n].node, short_us);
            }
            "kill-engine" => {
                let n = self.chance.index(self.engines.len());
                return self.kill(self.engines[n].node, short_us);
            }
            "take-over" => {
                let n = self.chance.index(self.engines.len());
                if self.engines[n].life.is_none() || self.profile.engines_per_group < 2 {
                    return false;
                }
                self.take_over(n);
            }
            "power-loss" => self.lose_power(host, long_us),
            "libvirt-down" => self.hv_goes_down(host, long_us),
            "libvirt-slow" => {
                self.hosts[host].hv.slowness = self.chance.between(5, 60);
                self.after(long_us, Event::FaultOver(Fault::HvSlow(host)));
            }
            "disk-full" => self.hosts[host].disk.full_until_us = self.now_us + short_us,
            "guest-ends" => return self.end_a_guest(host),
            "clock-drift" => {
                let ppm = u64::from(self.profile.clock_ppm);
                let rate = i64::try_from(self.chance.below(2 * ppm + 1)).unwrap_or(0)
                    - i64::from(self.profile.clock_ppm);
                let now_us = self.now_us;
                self.nodes[node.0].clock.drift(now_us, rate);
            }
            "wall-jump" => {
                let offset_ms = self.chance.below(4_000_000_000_000);
                self.nodes[node.0].clock.set_wall(offset_ms);
            }
            _ => return false,
        }
        true
    }

    fn cut(&mut self, directions: Vec<(NodeId, NodeId)>, for_us: u64) {
        self.network.cut.extend(directions.iter().copied());
        self.after(for_us, Event::FaultOver(Fault::Cut(directions)));
    }

    fn storm(&mut self, for_us: u64) {
        self.network.loss_ppm = 150_000;
        self.network.late_ppm = 80_000;
        self.network.double_ppm = 150_000;
        self.after(for_us, Event::FaultOver(Fault::Storm));
    }

    fn kill(&mut self, node: NodeId, restart_us: u64) -> bool {
        if !self.nodes[node.0].is_up {
            return false;
        }
        self.kill_process(node);
        self.after(restart_us, Event::Start { node });
        true
    }

    fn end_a_guest(&mut self, n: usize) -> bool {
        let hv = &self.hosts[n].hv;
        let running = hv.domains.iter().filter(|(_, domain)| domain.is_running());
        let running: Vec<Uuid> = running.map(|(uuid, _)| *uuid).collect();
        let Some(uuid) = self.chance.pick(&running).copied() else { return false };
        let is_by_itself = self.chance.happens(500_000);
        let why = if is_by_itself { StopReason::Shutdown } else { StopReason::Crashed };
        self.guest_ends(n, uuid, why);
        true
    }

    /// The machine loses power: process, guests and unwritten bytes are gone.
    pub fn lose_power(&mut self, n: usize, for_us: u64) {
        let node = self.hosts[n].node;
        if !self.nodes[node.0].has_power {
            return;
        }
        self.kill_process(node);
        self.nodes[node.0].has_power = false;
        self.hosts[n].boot += 1;
        self.hosts[n].hv.lose_power();
        self.is_off_after_all(n);
        self.keeper_loses_power(n);
        self.cut_streams_of(node);
        self.after(for_us, Event::FaultOver(Fault::NoPower(node)));
    }

    pub(super) fn fault_over(&mut self, fault: Fault) {
        match fault {
            Fault::Cut(directions) => {
                for direction in directions {
                    self.network.cut.remove(&direction);
                }
            }
            Fault::Storm => self.calm_network(),
            Fault::HvSlow(n) => self.hosts[n].hv.slowness = 1,
            Fault::NoPower(node) => {
                let host = self.hosts.iter().position(|host| host.node == node);
                if host.is_some_and(|n| self.may_not_boot(n)) {
                    return self.after(700_000, Event::FaultOver(Fault::NoPower(node)));
                }
                let now_us = self.now_us;
                if !self.nodes[node.0].has_power {
                    self.nodes[node.0].has_power = true;
                    self.nodes[node.0].clock.boot(now_us);
                }
                self.after(500_000, Event::Start { node });
            }
        }
    }

    fn calm_network(&mut self) {
        let noisy = |ppm| if self.is_noisy { ppm } else { 0 };
        self.network.loss_ppm = noisy(self.profile.loss_ppm);
        self.network.double_ppm = noisy(self.profile.double_ppm);
        self.network.late_ppm = noisy(self.profile.late_ppm);
    }

    /// Makes the network as troubled as the profile says.
    pub fn begin_noise(&mut self) {
        self.calm_network();
    }

    /// From now on nothing goes wrong any more, and whatever was broken is mended.
    pub fn heal(&mut self) {
        self.note(|| "         everything is healed".to_owned());
        self.is_noisy = false;
        self.network.cut.clear();
        self.calm_network();
        for host in &mut self.hosts {
            host.disk.full_until_us = 0;
            host.hv.slowness = 1;
        }
        for n in 0..self.nodes.len() {
            let node = NodeId(n);
            let now_us = self.now_us;
            let host = self.hosts.iter().position(|host| host.node == node);
            let is_off = !self.nodes[n].has_power;
            if is_off && host.is_some_and(|host| self.may_not_boot(host)) {
                continue;
            }
            let it = &mut self.nodes[n];
            if !it.has_power {
                it.has_power = true;
                it.clock.boot(now_us);
            }
            if !it.is_up {
                self.after(500_000, Event::Start { node });
            }
        }
    }

    /// The machine of a role.
    #[must_use]
    pub fn node_of(&self, role: Role) -> Option<NodeId> {
        self.nodes.iter().position(|node| node.role == role).map(NodeId)
    }
}
