//! A monitor's process: its core and those who follow it. The first monitors follow every host;
//! the last of several follows another monitor and half of the hosts.

use monitor::core::{Core, Effect, Input, Source, Wanted};
use protocol::event::Frame;
use protocol::host::Inventory;
use protocol::id::{Cursor, HostId};
use protocol::view::HostRow;

use super::message::{Ask, Back, NodeId, StreamItem, Told};
use super::streams::Follower;
use super::world::{Event, Role, Tick, World};

/// A monitor.
pub struct MonitorProcess {
    /// Its machine.
    pub node: NodeId,
    /// The core, while it lives.
    pub core: Option<Core>,
    /// Its streams.
    pub followers: Vec<Follower>,
    subscribers: Vec<(u64, bool)>,
}

impl MonitorProcess {
    /// A monitor that has never run.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self { node, core: None, followers: vec![], subscribers: vec![] }
    }

    /// Up to which event it shows a host.
    #[must_use]
    pub fn cursor(&self, host: &HostId) -> Option<Cursor> {
        self.core.as_ref()?.cursor(host)
    }

    /// What it shows of a host.
    #[must_use]
    pub fn row(&self, host: &HostId) -> Option<HostRow> {
        let row = self.core.as_ref()?.view().host(host)?;
        Some(Inventory::from(row.clone()).into())
    }

    pub(super) fn die(&mut self) {
        self.core = None;
        self.followers.clear();
        self.subscribers.clear();
    }
}

impl World {
    pub(super) fn start_monitor(&mut self, n: usize) {
        let node = self.monitors[n].node;
        let now_ms = self.now_at(node).mono_ms;
        let follows_monitor = n > 0 && n + 1 == self.monitors.len();
        let mut followers: Vec<Follower> = self
            .hosts
            .iter()
            .enumerate()
            .filter(|(i, _)| !follows_monitor || i % 2 == 0)
            .map(|(_, host)| Follower::new(host.node, Source::Host(host.id.clone())))
            .collect();
        if follows_monitor {
            let other = self.monitors[0].node;
            followers.push(Follower::new(other, Source::Monitor("sim://monitor".to_owned())));
        }
        let wanted = Wanted {
            sources: followers.iter().map(|f| f.source.clone()).collect(),
            roster: Some(self.hosts.iter().map(|host| host.id.clone()).collect()),
            retired: std::collections::BTreeSet::new(),
            is_settled: true,
        };
        self.monitors[n].core = Some(Core::new(now_ms));
        self.monitors[n].followers = followers;
        self.tell_monitor(n, Input::Wanted(wanted));
        let life = self.nodes[node.0].life;
        for tick in [Tick::Monitor, Tick::Followers] {
            self.after(1_000, Event::Tick { node, life, tick });
        }
    }

    pub(super) fn tell_monitor(&mut self, n: usize, input: Input) {
        let node = self.monitors[n].node;
        let now_ms = self.now_at(node).mono_ms;
        let host = match &input {
            Input::Frame { frame: Frame::Event(event), .. } => Some(event.host.clone()),
            Input::Frame { frame: Frame::Inventory(inventory), .. } => {
                Some(inventory.host.id.clone())
            }
            _ => None,
        };
        let Some(core) = self.monitors[n].core.as_mut() else { return };
        let taken = match &input {
            Input::Frame { frame, .. } => Some(frame.clone()),
            _ => None,
        };
        let mut effects = Vec::new();
        core.handle(now_ms, input, &mut effects);
        if let Some(host) = host {
            self.view_never_goes_back(node, &host);
        }
        for effect in effects {
            self.perform_for_monitor(n, effect, taken.as_ref());
        }
    }

    fn perform_for_monitor(&mut self, n: usize, effect: Effect, taken: Option<&Frame>) {
        let node = self.monitors[n].node;
        match effect {
            Effect::PassOn => {
                if let Some(frame) = taken {
                    self.send_to_subscribers(n, frame.clone(), false);
                }
            }
            Effect::Publish(frame) => self.send_to_subscribers(n, frame, false),
            Effect::PublishAges => {
                let now_ms = self.now_at(node).mono_ms;
                let core = self.monitors[n].core.as_ref();
                for frame in core.map(|core| core.ages(now_ms)).unwrap_or_default() {
                    self.send_to_subscribers(n, frame, true);
                }
            }
            Effect::Resync(source) => {
                self.coverage.hit("monitor.resync");
                self.reopen(n, node, &source, "something was missed");
            }
            Effect::Quarantine { source, why } => {
                self.coverage.hit("monitor.quarantine");
                self.reopen(n, node, &source, &why);
            }
        }
    }

    fn reopen(&mut self, n: usize, node: NodeId, source: &Source, why: &str) {
        let follower = self.monitors[n].followers.iter_mut().find(|f| f.source == *source);
        let Some(follower) = follower else { return };
        follower.may_resume = false;
        if let Some(conn) = follower.conn {
            self.give_up(node, conn, why);
        }
    }

    fn send_to_subscribers(&mut self, n: usize, frame: Frame, only_monitors: bool) {
        let subscribers = self.monitors[n].subscribers.clone();
        for (conn, wants_ages) in subscribers {
            if only_monitors && !wants_ages {
                continue;
            }
            if !self.send_item(conn, StreamItem::Frame(frame.clone())) {
                self.monitors[n].subscribers.retain(|(known, _)| *known != conn);
            }
        }
    }

    pub(super) fn monitor_asked(&mut self, n: usize, ask: Ask, back: Back) {
        let node = self.monitors[n].node;
        match ask {
            Ask::Health => {
                self.send_answer(node, back, Told::Health { trust_version: None, is_ready: true });
            }
            Ask::Subscribe { conn, .. } => {
                let now_ms = self.now_at(node).mono_ms;
                let Some(core) = self.monitors[n].core.as_ref() else { return };
                let rows = core.view().hosts().map(|(_, row)| {
                    StreamItem::Frame(Frame::Inventory(Box::new(row.clone().into())))
                });
                let mut items = vec![StreamItem::Opened];
                items.extend(rows);
                items.extend(core.ages(now_ms).into_iter().map(StreamItem::Frame));
                items.push(StreamItem::Frame(Frame::Current));
                for item in items {
                    self.send_item(conn, item);
                }
                let wants_ages = matches!(self.nodes[back.node.0].role, Role::Monitor(_));
                self.monitors[n].subscribers.push((conn, wants_ages));
            }
            Ask::Agent(_)
            | Ask::Job(_)
            | Ask::OpenOffers
            | Ask::Inventory
            | Ask::Grants(..)
            | Ask::TenantRoom { .. }
            | Ask::TenantBook(_)
            | Ask::Handover => {}
        }
    }
}
