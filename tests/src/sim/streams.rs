//! Following an event stream: when it is opened, given up and opened again, as the monitors' and
//! the schedulers' followers do it.

use monitor::core::{Input as MonitorInput, Source};
use protocol::event::Frame;

use super::message::{Ask, Back, NodeId, StreamItem};
use super::tasks::CallId;
use super::world::{Event, Role, World};

const OPEN_PATIENCE_MS: u64 = 3_000;
const ASK_AFTER_MS: u64 = 1_500;
const SILENCE_MS_MAX: u64 = 6_000;
const RETRY_MS: (u64, u64) = (250, 5_000);

/// One source being followed.
#[derive(Debug, Clone)]
pub struct Follower {
    /// The machine it is on.
    pub server: NodeId,
    /// What a monitor calls it.
    pub source: Source,
    pub(super) conn: Option<u64>,
    pub(super) is_open: bool,
    pub(super) may_resume: bool,
    heard_ms: u64,
    opened_ms: u64,
    retry_at_ms: u64,
    failures: u32,
    asked_ms: u64,
}

impl Follower {
    /// A source nobody has connected to.
    #[must_use]
    pub fn new(server: NodeId, source: Source) -> Self {
        Self {
            server,
            source,
            conn: None,
            is_open: false,
            may_resume: true,
            heard_ms: 0,
            opened_ms: 0,
            retry_at_ms: 0,
            failures: 0,
            asked_ms: 0,
        }
    }

    fn back_off(&mut self, now_ms: u64) {
        self.conn = None;
        self.is_open = false;
        let pause_ms = (RETRY_MS.0 << self.failures.min(8)).min(RETRY_MS.1);
        self.failures += 1;
        self.retry_at_ms = now_ms + pause_ms;
    }
}

impl World {
    fn followers(&mut self, node: NodeId) -> &mut [Follower] {
        match self.nodes[node.0].role {
            Role::Monitor(n) => &mut self.monitors[n].followers,
            Role::Engine(n) => self.engines[n].followers(),
            Role::Host(_) | Role::Arbiter(_) => &mut [],
        }
    }

    /// Opens what is not open, gives up what is silent, asks the quiet for a sign of life.
    pub(super) fn look_after_streams(&mut self, node: NodeId) {
        let now_ms = self.now_at(node).mono_ms;
        for i in 0..self.followers(node).len() {
            let follower = self.followers(node)[i].clone();
            match follower.conn {
                None if now_ms >= follower.retry_at_ms => self.connect(node, i, now_ms),
                None => {}
                Some(conn)
                    if !follower.is_open && now_ms > follower.opened_ms + OPEN_PATIENCE_MS =>
                {
                    self.give_up(node, conn, "no answer");
                }
                Some(conn) if now_ms > follower.heard_ms + SILENCE_MS_MAX => {
                    self.give_up(node, conn, "no sign of life");
                }
                Some(conn) if now_ms > follower.heard_ms.max(follower.asked_ms) + ASK_AFTER_MS => {
                    self.followers(node)[i].asked_ms = now_ms;
                    if self.network.passes(node, follower.server) {
                        self.after(600, Event::Ping { to: follower.server, conn });
                    }
                }
                Some(_) => {}
            }
        }
    }

    fn connect(&mut self, node: NodeId, i: usize, now_ms: u64) {
        let follower = self.followers(node)[i].clone();
        let conn = self.open_stream(node, follower.server);
        let from = match (&follower.source, self.nodes[node.0].role) {
            (Source::Host(host), Role::Monitor(n)) if follower.may_resume => {
                self.monitors[n].core.as_ref().and_then(|core| core.cursor(host))
            }
            _ => None,
        };
        let it = &mut self.followers(node)[i];
        (it.conn, it.is_open, it.opened_ms, it.heard_ms) = (Some(conn), false, now_ms, now_ms);
        it.may_resume = true;
        it.asked_ms = now_ms;
        let life = self.nodes[node.0].life;
        // The answer is the stream itself.
        let back = Back { node, life, call: Some(CallId(0)) };
        self.send_request(follower.server, Ask::Subscribe { conn, from }, back, OPEN_PATIENCE_MS);
    }

    /// The follower of this stream lets go of it.
    pub(super) fn give_up(&mut self, node: NodeId, conn: u64, why: &str) {
        let now_ms = self.now_at(node).mono_ms;
        self.close_stream(conn);
        let followers = self.followers(node);
        let Some(i) = followers.iter().position(|f| f.conn == Some(conn)) else { return };
        followers[i].back_off(now_ms);
        let source = followers[i].source.clone();
        match self.nodes[node.0].role {
            Role::Monitor(n) => {
                let why = why.to_owned();
                self.tell_monitor(n, MonitorInput::Ended { source, why });
            }
            Role::Engine(n) => self.engine_lost_view(n, why),
            Role::Host(_) | Role::Arbiter(_) => {}
        }
    }

    pub(super) fn conn_over(&mut self, node: NodeId, conn: u64) {
        self.give_up(node, conn, "it was closed");
    }

    /// An item of a stream arrives; one of an earlier stream goes nowhere.
    pub(super) fn take_item(&mut self, node: NodeId, conn: u64, item: StreamItem) {
        let now_ms = self.now_at(node).mono_ms;
        let followers = self.followers(node);
        let Some(i) = followers.iter().position(|f| f.conn == Some(conn)) else { return };
        followers[i].heard_ms = now_ms;
        let source = followers[i].source.clone();
        match item {
            StreamItem::Opened => {
                followers[i].is_open = true;
                if let Role::Monitor(n) = self.nodes[node.0].role {
                    let url = format!("sim://{node:?}");
                    self.tell_monitor(n, MonitorInput::Opened { source, url });
                }
            }
            StreamItem::Pong => {
                if let Role::Monitor(n) = self.nodes[node.0].role {
                    self.tell_monitor(n, MonitorInput::Alive { source });
                }
            }
            StreamItem::Frame(frame) => {
                if frame == Frame::Current {
                    followers[i].failures = 0;
                }
                match self.nodes[node.0].role {
                    Role::Monitor(n) => {
                        self.tell_monitor(n, MonitorInput::Frame { source, frame });
                    }
                    Role::Engine(n) => self.engine_hears(n, conn, frame),
                    Role::Host(_) | Role::Arbiter(_) => {}
                }
            }
        }
    }
}
