//! The runs of every controller, and which hosts are asleep by what they remember. Controllers have no stream of
//! these, so they are asked, and only while somebody looks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use protocol::api::{RunList, RunState, RunStatus};
use protocol::id::{Epoch, HostId, RunId};
use protocol::job::Role;
use tokio::sync::watch;
use transport::Clock;

use crate::picture::chain;
use crate::session::Session;

/// How often controllers are asked.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// The newest runs, which is where something happens.
const NEWEST: usize = 50;

/// Every how many times all of them are asked for: an old one may have been resumed, or be stuck.
const ALL_EVERY: u64 = 30;

/// Every how many times it is asked who sleeps: a host that falls asleep or wakes takes longer than that.
const ASLEEP_EVERY: u64 = 3;

/// How long a controller may take: the next question follows in a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs that are remembered, the newest; as many as a controller tells.
const RUNS_MAX: usize = 500;

/// What is known of runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runs {
    pub(crate) runs: BTreeMap<RunId, Arc<RunStatus>>,
    /// Hosts that are asleep, and in which life of its agent each was put to sleep.
    pub(crate) asleep: BTreeMap<HostId, Epoch>,
    /// When a controller last answered, on this machine's monotonic clock.
    pub(crate) heard_ms: Option<u64>,
    /// Why none did the last time.
    pub(crate) trouble: Option<String>,
}

/// Asks for as long as there are subscribers; rests while there are none.
pub(crate) async fn follow(
    sessions: watch::Receiver<Arc<Session>>,
    clock: Clock,
    publish: watch::Sender<Arc<Runs>>,
) {
    let mut known = Runs::default();
    let mut turn = 0;
    loop {
        if publish.receiver_count() > 0 {
            let session = sessions.borrow().clone();
            let max = if turn % ALL_EVERY == 0 { RUNS_MAX } else { NEWEST };
            if turn % ASLEEP_EVERY == 0 && !session.is_direct {
                known.asleep = session.asleep().await;
            }
            turn += 1;
            known.ask(&session, &clock, max).await;
            publish.send_replace(Arc::new(known.clone()));
        }
        tokio::time::sleep(ASK_INTERVAL).await;
    }
}

impl Runs {
    async fn ask(&mut self, session: &Session, clock: &Clock, max: usize) {
        let controllers = if session.is_direct { vec![] } else { session.peers(Role::Controller) };
        let client = session.client.with_deadline(PATIENCE);
        let path = format!("/v1/runs?max={max}");
        let asked = controllers.iter().map(|controller| client.get::<RunList>(controller, &path));
        let mut trouble = None;
        for answer in futures_util::future::join_all(asked).await {
            match answer {
                Ok(list) => {
                    self.heard_ms = Some(clock.now().mono_ms);
                    self.take(list.runs);
                }
                Err(error) => trouble = Some(chain(&error)),
            }
        }
        self.trouble = trouble;
    }

    fn take(&mut self, runs: Vec<RunStatus>) {
        for run in runs {
            if self.runs.get(&run.id).is_none_or(|known| **known != run) {
                self.runs.insert(run.id, Arc::new(run));
            }
        }
        while self.runs.len() > RUNS_MAX {
            // Ids are in the order of time; what is stuck stays until somebody has looked.
            let is_over = |run: &RunStatus| run.state.is_ended() && run.state != RunState::Stuck;
            let oldest = self.runs.values().find(|run| is_over(run)).map(|run| run.id);
            let Some(oldest) = oldest else { break };
            self.runs.remove(&oldest);
        }
    }
}
