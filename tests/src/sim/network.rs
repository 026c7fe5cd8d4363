//! The network: who reaches whom, how long it takes, what is lost, doubled or late.
//!
//! Requests and answers are single messages that may overtake each other, and a request may arrive
//! long after its sender has given up. A stream keeps its order, as TCP does, and ends when its
//! path breaks. Partitions are directed, so that one direction may work without the other.

use std::collections::{BTreeMap, BTreeSet};

use super::message::{Ask, Back, CallTrouble, NodeId, StreamItem, Told};
use super::tasks::Reply;
use super::world::{Event, Role, World};

/// A stream between two processes.
#[derive(Debug, Clone, Copy)]
pub struct Conn {
    /// Who tells.
    pub server: NodeId,
    /// Who listens.
    pub client: NodeId,
    client_life: u32,
    /// The next item arrives no earlier than this.
    free_us: u64,
    is_broken: bool,
}

/// What is between the machines.
#[derive(Debug, Default)]
pub struct Network {
    /// Directions in which nothing passes.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    /// Streams.
    pub conns: BTreeMap<u64, Conn>,
    /// How many streams there have been.
    pub conns_opened: u64,
    /// Of a million messages, so many are lost.
    pub loss_ppm: u32,
    /// Of a million requests, so many arrive twice.
    pub double_ppm: u32,
    /// Of a million messages, so many are late.
    pub late_ppm: u32,
}

/// How late a late message is at most: longer than any offer lasts.
const LATE_US_MAX: u64 = 25_000_000;

impl Network {
    /// Whether messages from one pass to the other.
    #[must_use]
    pub fn passes(&self, from: NodeId, to: NodeId) -> bool {
        !self.cut.contains(&(from, to))
    }

    /// Cuts both directions.
    pub fn part(&mut self, a: NodeId, b: NodeId) {
        self.cut.insert((a, b));
        self.cut.insert((b, a));
    }
}

impl World {
    fn delay_us(&mut self) -> u64 {
        if self.chance.happens(self.network.late_ppm) {
            self.coverage.hit("net.late");
            return self.chance.between(50_000, LATE_US_MAX);
        }
        self.chance.between(150, 1_500)
    }

    /// Sends a request; its answer, or the lack of one, comes back as the call's reply.
    pub(super) fn send_request(&mut self, to: NodeId, ask: Ask, back: Back, patience_ms: u64) {
        let Back { node: from, life, call } = back;
        let Some(call) = call else { return };
        let fail = |trouble| Box::new(Reply::Call(Err(trouble)));
        let is_listening = self.nodes[to.0].is_up;
        let there = self.network.passes(from, to);
        let back_too = self.network.passes(to, from);
        // A connection that was open before a partition lets one direction through.
        let has_old_conn = self.chance.happens(500_000);
        if !is_listening || !there || (!back_too && !has_old_conn) {
            let refused_us = if is_listening { 1_000_000 } else { 2_000 };
            let (node, reply) = (from, fail(CallTrouble::NotSent));
            self.after(refused_us, Event::Answer { node, life, call, reply });
            return;
        }
        let reply = fail(CallTrouble::Ambiguous);
        self.after_local_ms(from, patience_ms, Event::Answer { node: from, life, call, reply });
        if self.chance.happens(self.network.loss_ppm) {
            self.coverage.hit("net.request-lost");
            return;
        }
        if self.chance.happens(self.network.double_ppm) {
            self.coverage.hit("net.request-doubled");
            let delay_us = self.chance.between(500, LATE_US_MAX);
            let copy = Box::new(ask.clone());
            let back = Back { call: None, ..back };
            self.after(delay_us, Event::Deliver { to, from, ask: copy, back });
        }
        let delay_us = self.delay_us();
        self.after(delay_us, Event::Deliver { to, from, ask: Box::new(ask), back });
    }

    /// A request arrives at whoever is there now.
    pub(super) fn deliver(&mut self, to: NodeId, from: NodeId, ask: Ask, back: Back) {
        if !self.nodes[to.0].is_up || !self.network.passes(from, to) {
            self.coverage.hit("net.request-undelivered");
            return;
        }
        self.coverage.hit(ask.name());
        match self.nodes[to.0].role {
            Role::Host(n) => self.agent_asked(n, ask, back),
            Role::Arbiter(n) => self.arbiter_asked(n, ask, back),
            Role::Monitor(n) => self.monitor_asked(n, ask, back),
            Role::Engine(_) => {}
        }
    }

    /// Sends an answer back.
    pub(super) fn send_answer(&mut self, from: NodeId, back: Back, told: Told) {
        self.watch_answer(from, &told);
        let Back { node, life, call } = back;
        let Some(call) = call else { return };
        if !self.network.passes(from, node) || self.chance.happens(self.network.loss_ppm) {
            self.coverage.hit("net.answer-lost");
            return;
        }
        let delay_us = self.delay_us();
        let reply = Box::new(Reply::Call(Ok(told)));
        self.after(delay_us, Event::Answer { node, life, call, reply });
    }

    // Streams.

    /// A follower opens a stream; its number is known at once, its first item comes later.
    pub(super) fn open_stream(&mut self, client: NodeId, server: NodeId) -> u64 {
        self.network.conns_opened += 1;
        let conn = self.network.conns_opened;
        let client_life = self.nodes[client.0].life;
        let free_us = self.now_us;
        let stream = Conn { server, client, client_life, free_us, is_broken: false };
        self.network.conns.insert(conn, stream);
        conn
    }

    /// Sends one item; false when the stream is over.
    pub(super) fn send_item(&mut self, conn: u64, item: StreamItem) -> bool {
        let delay_us = self.delay_us();
        let is_lost = self.chance.happens(self.network.loss_ppm / 4);
        let now_us = self.now_us;
        let Some(stream) = self.network.conns.get_mut(&conn) else { return false };
        let passes = !self.network.cut.contains(&(stream.server, stream.client));
        if stream.is_broken {
            return false;
        }
        if !passes || is_lost {
            // What TCP could not get through; neither side hears of it at once.
            stream.is_broken = true;
            self.coverage.hit("net.stream-broken");
            return false;
        }
        stream.free_us = stream.free_us.max(now_us + delay_us) + 1;
        let (node, life, at_us) = (stream.client, stream.client_life, stream.free_us);
        let item = Box::new(item);
        self.after(at_us - now_us, Event::Item { node, life, conn, item });
        true
    }

    /// One side lets go of a stream.
    pub(super) fn close_stream(&mut self, conn: u64) {
        self.network.conns.remove(&conn);
    }

    /// A process has died: its streams end, and the other side is told if it can be reached.
    pub(super) fn cut_streams_of(&mut self, node: NodeId) {
        let conns: Vec<(u64, Conn)> = self
            .network
            .conns
            .iter()
            .filter(|(_, stream)| stream.server == node || stream.client == node)
            .map(|(conn, stream)| (*conn, *stream))
            .collect();
        for (conn, stream) in conns {
            self.network.conns.remove(&conn);
            if stream.server == node && self.network.passes(node, stream.client) {
                let (node, life) = (stream.client, stream.client_life);
                self.after(2_000, Event::ConnOver { node, life, conn });
            }
        }
    }
}
