//! Whom the page's server follows: a monitor, the next one when it fails, and the agents themselves
//! while no monitor answers.
//!
//! ```text
//!   seek ─▶ a monitor answers ─▶ follow it ──(cut, gap, no monitor any more)──▶ seek, the next one first
//!     └───▶ none does ─▶ follow every agent, and ask monitors again every 3 s ─▶ follow the monitor
//! ```
//!
//! What a frame means is the replica's to decide. It is published at most ten times a second, however
//! much happens.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use protocol::event::Frame;
use protocol::id::{Cursor, HostId};
use protocol::job::Role;
use protocol::trust::Trust;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use transport::stream::{Liveness, StreamError};
use transport::{CancellationToken, Client, Clock, Endpoint, Frames, stream};

use super::replica::{Input, Replica, Source};
use crate::picture::chain;
use crate::session::Session;

/// How long after the one before the next monitor is asked as well.
const TURN: Duration = Duration::from_millis(300);

/// Whoever is followed is asked for a sign of life after this much silence, and given up after as
/// much again: a page that stands still must say so soon.
const LIVENESS: Liveness = Liveness::of_interval(Duration::from_secs(2));

/// How long a monitor may take from its answer to having told everything: some thousand hosts.
const BEGIN_MAX: Duration = Duration::from_secs(20);

/// Rest before somebody else is looked for, so that one who cuts at once is not asked without end.
const REST: Duration = Duration::from_millis(100);

/// How often monitors are asked again while agents are followed.
const MONITORS_AGAIN: Duration = Duration::from_secs(3);

/// How often other agents are looked for while agents are followed.
const FIND_AGAIN: Duration = Duration::from_secs(10);

/// Rest before an agent that does not answer is asked again.
const AGENT_AGAIN: Duration = Duration::from_secs(1);

/// How often what is known is published.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);

/// What agents have told and nobody has read yet; TCP holds them back beyond that.
const INPUTS_MAX: usize = 1024;

/// Follows the cluster of whatever session is in force, until `stop`.
pub(crate) fn follow(
    sessions: watch::Receiver<Arc<Session>>,
    clock: Clock,
    stop: CancellationToken,
) -> watch::Receiver<Arc<Replica>> {
    let (publish, replicas) = watch::channel(Arc::default());
    let replica = Replica::default();
    let mut follower = Follower { sessions, clock, replica, publish, is_news: false };
    tokio::spawn(async move { stop.run_until_cancelled(follower.run()).await });
    replicas
}

struct Follower {
    sessions: watch::Receiver<Arc<Session>>,
    clock: Clock,
    replica: Replica,
    publish: watch::Sender<Arc<Replica>>,
    is_news: bool,
}

/// A monitor's stream, and which of them it is.
type Opened = (usize, Frames);

impl Follower {
    async fn run(&mut self) {
        let (mut turn, mut why) = (0, "the page has just begun".to_owned());
        loop {
            let session = self.sessions.borrow_and_update().clone();
            self.take(Input::Retired(retired(&session)));
            let monitors = monitors(&session);
            self.become_sourced(Source::Seeking(why.clone()));
            let opened = match first_stream(&session.client, &monitors, turn).await {
                Some(opened) => Some(opened),
                None => self.follow_agents(&session, &monitors, &why).await,
            };
            why = match opened {
                Some((at, frames)) => {
                    turn = at + 1;
                    let monitor = &monitors[at];
                    let why = self.follow_monitor(monitor, frames).await;
                    format!("monitor {}: {why}", monitor.url)
                }
                None => "another trust document is in force".to_owned(),
            };
            tokio::time::sleep(REST).await;
        }
    }

    /// Follows one monitor for as long as that goes well; says why it ended.
    async fn follow_monitor(&mut self, monitor: &Endpoint, mut frames: Frames) -> String {
        self.become_sourced(Source::Beginning(monitor.url.clone()));
        let mut ticks = tokio::time::interval(PUBLISH_INTERVAL);
        let mut begin = std::pin::pin!(tokio::time::sleep(BEGIN_MAX));
        loop {
            tokio::select! {
                frame = frames.next::<Frame>() => match frame {
                    Some(Ok(frame)) => {
                        if let Err(gap) = self.replica.handle(self.clock.now().mono_ms, Input::Told(frame)) {
                            return gap.to_string();
                        }
                        self.is_news = true;
                    }
                    // Of a newer version. What follows it leaves a gap, and then all is told anew.
                    Some(Err(StreamError::Bad { .. })) => {}
                    Some(Err(error)) => return error.to_string(),
                    None => return "it said goodbye".to_owned(),
                },
                _ = ticks.tick() => self.publish(),
                () = &mut begin, if !self.replica.is_current() => {
                    return format!("not everything was told within {} s", BEGIN_MAX.as_secs());
                }
                _ = self.sessions.changed() => {
                    if !self.is_still(monitor) {
                        return "it is no monitor of the cluster any more".to_owned();
                    }
                }
            }
        }
    }

    /// Whether another session has this monitor as well: a document that lets somebody in is no reason to begin anew.
    fn is_still(&mut self, monitor: &Endpoint) -> bool {
        let session = self.sessions.borrow_and_update().clone();
        self.take(Input::Retired(retired(&session)));
        monitors(&session).contains(monitor)
    }

    /// Follows every agent until a monitor answers; `None` when another session is in force.
    async fn follow_agents(
        &mut self,
        session: &Arc<Session>,
        monitors: &[Endpoint],
        why: &str,
    ) -> Option<Opened> {
        self.become_sourced(Source::Agents(why.to_owned()));
        let (tell, mut told) = mpsc::channel(INPUTS_MAX);
        let mut agents = Agents {
            session: Arc::clone(session),
            tell,
            known: BTreeSet::new(),
            tasks: JoinSet::new(),
        };
        let mut ticks = tokio::time::interval(PUBLISH_INTERVAL);
        let mut monitor = std::pin::pin!(monitor_again(&session.client, monitors));
        // What is known needs no finding, and finding takes a while.
        agents.follow_all(self.known_agents(session));
        let mut found = std::pin::pin!(agents_again(Arc::clone(session), Duration::ZERO));
        loop {
            tokio::select! {
                Some(input) = told.recv() => {
                    // An agent's own task sees to it that nothing is missing.
                    let _ = self.replica.handle(self.clock.now().mono_ms, input);
                    self.is_news = true;
                }
                _ = ticks.tick() => self.publish(),
                endpoints = &mut found => {
                    agents.follow_all(endpoints);
                    found.set(agents_again(Arc::clone(session), FIND_AGAIN));
                }
                opened = &mut monitor => return Some(opened),
                _ = self.sessions.changed() => return None,
            }
        }
    }

    fn known_agents(&self, session: &Session) -> Vec<Endpoint> {
        if let Some(local) = session.local() {
            return vec![local];
        }
        let rows = self.replica.picture(self.clock.now().mono_ms).rows;
        rows.into_iter().filter(|row| is_ours(session, &row.host)).map(|row| row.agent).collect()
    }

    fn take(&mut self, input: Input) {
        // Only what is told can leave a gap.
        let _ = self.replica.handle(self.clock.now().mono_ms, input);
        self.is_news = true;
    }

    fn become_sourced(&mut self, source: Source) {
        self.take(Input::Source(source));
        self.publish();
    }

    fn publish(&mut self) {
        if std::mem::take(&mut self.is_news) {
            self.publish.send_replace(Arc::new(self.replica.clone()));
        }
    }
}

/// Hosts that are none of the cluster's any more, whatever a monitor says.
fn retired(session: &Session) -> BTreeSet<HostId> {
    session.trust.as_ref().map(Trust::retired_hosts).unwrap_or_default()
}

/// Whom to follow; nobody where agents are asked themselves.
fn monitors(session: &Session) -> Vec<Endpoint> {
    match session.is_direct {
        true => Vec::new(),
        false => session.peers(Role::Monitor),
    }
}

/// The first monitor that answers, beginning with the one whose turn it is. Each is asked a moment
/// after the one before.
async fn first_stream(client: &Client, monitors: &[Endpoint], turn: usize) -> Option<Opened> {
    let count = monitors.len();
    let asked = (0..count).zip(0_u32..).map(|(step, pause)| async move {
        tokio::time::sleep(TURN * pause).await;
        let at = (turn + step) % count;
        let path = "/v1/events?ages=true";
        let opened = stream::connect_stream_with(client, &monitors[at], path, LIVENESS).await;
        opened.map(|frames| (at, frames))
    });
    let mut answers: FuturesUnordered<_> = asked.collect();
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(opened) => return Some(opened),
            Err(error) => tracing::debug!("follow a monitor: {}", chain(&error)),
        }
    }
    None
}

/// A monitor that answers again, at some time.
async fn monitor_again(client: &Client, monitors: &[Endpoint]) -> Opened {
    loop {
        tokio::time::sleep(MONITORS_AGAIN).await;
        if let Some(opened) = first_stream(client, monitors, 0).await {
            return opened;
        }
    }
}

/// Agents that can be found by now.
async fn agents_again(session: Arc<Session>, rest: Duration) -> Vec<Endpoint> {
    tokio::time::sleep(rest).await;
    let (found, _) = session.find().await;
    let ours =
        found.iter().filter(|found| found.host.as_ref().is_none_or(|id| is_ours(&session, id)));
    ours.map(transport::discovery::Found::endpoint).collect()
}

/// Whether the cluster's trust document has this host; without one every host counts.
fn is_ours(session: &Session, id: &HostId) -> bool {
    match &session.trust {
        Some(trust) if !session.is_direct => trust.host_key(id).is_some(),
        _ => true,
    }
}

/// Agents that are followed, a task each.
struct Agents {
    session: Arc<Session>,
    tell: mpsc::Sender<Input>,
    known: BTreeSet<String>,
    tasks: JoinSet<()>,
}

impl Agents {
    fn follow_all(&mut self, agents: Vec<Endpoint>) {
        for agent in agents {
            if self.known.insert(agent.url.clone()) {
                let follower = AgentFollower {
                    session: Arc::clone(&self.session),
                    agent,
                    tell: self.tell.clone(),
                };
                self.tasks.spawn(follower.run());
            }
        }
    }
}

struct AgentFollower {
    session: Arc<Session>,
    agent: Endpoint,
    tell: mpsc::Sender<Input>,
}

/// Nobody listens any more.
struct Unheard;

impl AgentFollower {
    async fn run(self) {
        loop {
            let opened = stream::connect_stream_with(
                &self.session.client,
                &self.agent,
                "/v1/events",
                LIVENESS,
            );
            if let Ok(frames) = opened.await
                && let Err(Unheard) = self.attend(frames).await
            {
                return;
            }
            tokio::time::sleep(AGENT_AGAIN).await;
        }
    }

    /// Passes on what one stream tells, for as long as nothing is missing in it.
    async fn attend(&self, mut frames: Frames) -> Result<(), Unheard> {
        let pulse = frames.pulse();
        let mut ticks = tokio::time::interval(AGENT_AGAIN);
        let (mut heard, mut told): (u64, Option<(HostId, Cursor)>) = (0, None);
        loop {
            tokio::select! {
                frame = frames.next::<Frame>() => {
                    let Some(Ok(frame)) = frame else { return Ok(()) };
                    match &frame {
                        Frame::Inventory(inventory) => {
                            let host = &inventory.host;
                            let is_itself = frames.peer_key().is_none_or(|key| key == host.key);
                            if !is_itself || !is_ours(&self.session, &host.id) {
                                return Ok(());
                            }
                            let way = match frames.peer_key() {
                                Some(key) => Endpoint::of_key(self.agent.url.clone(), key),
                                None => self.agent.clone(),
                            };
                            told = Some((host.id.clone(), inventory.cursor));
                            self.say(Input::Way(host.id.clone(), way)).await?;
                        }
                        Frame::Event(event) => match &mut told {
                            Some((host, at)) if *host == event.host && event.cursor == at.next() => {
                                *at = event.cursor;
                            }
                            _ => return Ok(()),
                        },
                        Frame::Current => continue,
                        // Hosts have no opinion of hosts.
                        Frame::Freshness { .. } => return Ok(()),
                    }
                    self.say(Input::Told(frame)).await?;
                }
                _ = ticks.tick() => {
                    let now = pulse.heard();
                    if let Some((host, _)) = told.as_ref().filter(|_| now != heard) {
                        self.say(Input::Alive(host.clone())).await?;
                    }
                    heard = now;
                }
            }
        }
    }

    async fn say(&self, input: Input) -> Result<(), Unheard> {
        self.tell.send(input).await.map_err(|_| Unheard)
    }
}
