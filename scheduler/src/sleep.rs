//! Hosts that are asleep: what plans know of them, and runs that wake one.
//!
//! Decides what of a sleeping host is in the picture although no monitor may have heard of it, and when a host counts
//! as awake for a run: when whoever remembers its sleep does so no more, and it is heard. Who remembers that, and what
//! switches hosts, is the embedder's ([`Waker`]).

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use imbl::OrdMap;
use protocol::host::Inventory;
use protocol::id::HostId;
use protocol::view::Freshness;

use crate::engine::Scheduler;
use crate::failover::freshness_of;
use crate::follow::{HeardAt, Picture};
use crate::run::{Answer, No};
use crate::task::{Ask, Dispatch, TaskResult};

/// How long one dispatch watches before it reports how far things are.
const WATCH: Duration = Duration::from_secs(3);

/// How often it looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// A host being switched on.
pub type Waking<'a> = Pin<Box<dyn Future<Output = Result<(), NotWoken>> + Send + 'a>>;

/// Why a host may not be on, in words that whoever reads runs may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotWoken {
    /// It is not switched on, however often it is asked.
    No(String),
    /// It may be on or not; it is asked again.
    Unclear(String),
}

/// Switches sleeping hosts on.
pub trait Waker: Send + Sync {
    /// Has a host switched on; ended once it has power. May be asked again, and of a host that is on.
    fn wake<'a>(&'a self, host: &'a HostId) -> Waking<'a>;
}

/// A host that is asleep.
#[derive(Debug, Clone)]
pub struct Sleeper {
    /// What it said last.
    pub inventory: Arc<Inventory>,
    /// Whether a run may wake it.
    pub may_wake: bool,
}

/// The hosts that are asleep, by id.
pub type Sleepers = BTreeMap<HostId, Sleeper>;

/// What a scheduler knows of them.
#[derive(Default)]
pub(crate) struct Asleep {
    sleepers: Mutex<Arc<Sleepers>>,
    waker: OnceLock<Arc<dyn Waker>>,
}

impl Asleep {
    fn lock(&self) -> MutexGuard<'_, Arc<Sleepers>> {
        self.sleepers.lock().expect("no holder of this lock panics")
    }

    pub(crate) fn sleepers(&self) -> Arc<Sleepers> {
        Arc::clone(&self.lock())
    }

    /// The picture with those of which no monitor has told.
    pub(crate) fn complete(&self, now_ms: u64, mut picture: Arc<Picture>) -> Arc<Picture> {
        let sleepers = self.sleepers();
        for (host, sleeper) in sleepers.iter() {
            if picture.view.host(host).is_some() {
                continue;
            }
            let picture = Arc::make_mut(&mut picture);
            picture.view.merge_inventory(Inventory::clone(&sleeper.inventory));
            let silent = HeardAt { freshness: Freshness::Lost, heard_ms: now_ms };
            picture.heard.insert(host.clone(), silent);
        }
        picture
    }
}

impl Scheduler {
    /// Runs wake hosts by this from now on. The first one stays.
    pub fn wake_by(&self, waker: Arc<dyn Waker>) {
        let _ = self.asleep().waker.set(waker);
    }

    /// These hosts are asleep now, and no others.
    pub fn note_asleep(&self, sleepers: Sleepers) {
        let may_wake = sleepers.iter().map(|(host, sleeper)| (host.clone(), sleeper.may_wake));
        self.knowledge().note_asleep(may_wake.collect());
        *self.asleep().lock() = Arc::new(sleepers);
    }

    /// How hosts are heard, for judging what is expected: nothing has happened on a sleeping one since it was heard
    /// last.
    pub(crate) fn heard_or_asleep(&self, picture: &Picture) -> OrdMap<HostId, HeardAt> {
        let mut heard = picture.heard.clone();
        for host in self.asleep().sleepers().keys() {
            if let Some(at) = heard.get_mut(host) {
                at.freshness = Freshness::Fresh;
            }
        }
        heard
    }

    /// Carries out what has to do with a host's sleep; `None` for anything else.
    pub(crate) async fn run_waking(&self, dispatch: &Dispatch) -> Option<Answer> {
        match &dispatch.ask {
            Ask::Wake(host) => Some(self.wake(host).await),
            Ask::AwaitAwake(host) => Some(self.await_awake(host).await),
            _ => None,
        }
    }

    async fn wake(&self, host: &HostId) -> Answer {
        if self.is_awake(host) {
            return Answer::Done(TaskResult::Done);
        }
        let Some(waker) = self.asleep().waker.get() else {
            return Answer::Refused(No::Failed("nothing here switches hosts".to_owned()));
        };
        match waker.wake(host).await {
            Ok(()) => Answer::Done(TaskResult::Done),
            Err(NotWoken::No(why)) => Answer::Refused(No::Failed(why)),
            Err(NotWoken::Unclear(what)) => Answer::Unclear { what, is_ambiguous: true },
        }
    }

    async fn await_awake(&self, host: &HostId) -> Answer {
        let look = async {
            while !self.is_awake(host) {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        match tokio::time::timeout(WATCH, look).await {
            Ok(()) => Answer::Done(TaskResult::Done),
            // Always the same words: that nothing is heard yet is no progress.
            Err(_) => Answer::NotYet {
                note: format!("{} has been switched on, and is not heard yet", host.short()),
            },
        }
    }

    fn is_awake(&self, host: &HostId) -> bool {
        let picture = self.picture();
        let is_heard = freshness_of(picture.heard.get(host)) == Freshness::Fresh;
        let is_asleep = self.asleep().sleepers().contains_key(host);
        picture.is_current && picture.view.host(host).is_some() && is_heard && !is_asleep
    }
}

#[cfg(test)]
mod tests {
    use planner::Step;
    use planner::steps::{StartVm, WakeHost};
    use protocol::api::Want;
    use protocol::host::Host;
    use protocol::id::{Cursor, Epoch, Revision};
    use protocol::job::JobSpec;
    use protocol::signed::SecretKey;
    use protocol::vm::VmSpec;

    use super::*;
    use crate::task::{Circumstances, TaskKind, tasks_of};

    fn sleeper(n: u8) -> (HostId, Sleeper) {
        let host = Host::of_key(SecretKey::from_seed([n; 32]).public());
        let (id, cursor) = (host.id.clone(), Cursor { epoch: Epoch(1), seq: 1 });
        let inventory = Inventory { cursor, host, jobs: vec![], observed: vec![] };
        (id, Sleeper { inventory: Arc::new(inventory), may_wake: true })
    }

    #[test]
    fn a_sleeping_host_is_in_a_picture_whose_monitor_has_never_heard_of_it() {
        let (id, one) = sleeper(1);
        let asleep = Asleep::default();
        *asleep.lock() = Arc::new(Sleepers::from([(id.clone(), one)]));
        let picture = asleep.complete(7, Arc::default());
        assert!(picture.view.host(&id).is_some());
        assert_eq!(freshness_of(picture.heard.get(&id)), Freshness::Lost);
        let heard = HeardAt { freshness: Freshness::Fresh, heard_ms: 9 };
        let mut known = Picture::clone(&picture);
        known.heard.insert(id.clone(), heard);
        let again = asleep.complete(8, Arc::new(known));
        assert_eq!(again.heard.get(&id), Some(&heard), "what is heard is left as it is");
    }

    #[test]
    fn a_host_is_woken_and_awaited_before_it_is_asked_for_an_offer() {
        let (host, _) = sleeper(1);
        let job: protocol::id::JobId = "web".parse().unwrap();
        let spec = JobSpec::vm(VmSpec { vcpus: 1, memory_bytes: 1, ..VmSpec::default() });
        let steps = [
            Step::WakeHost(WakeHost { host: host.clone(), job: job.clone() }),
            Step::StartVm(StartVm {
                job: job.clone(),
                host: host.clone(),
                revision: Revision(1),
                spec: spec.clone(),
                fetches: vec![],
                finds_disks: false,
            }),
        ];
        let want = Want::Run { job, spec, on: None };
        let at = Circumstances { has_trust: true, ..Circumstances::default() };
        let tasks = tasks_of(&steps, &want, &at, 3);
        assert!(matches!(&tasks[0], TaskKind::Wake { host: woken } if *woken == host));
        assert!(matches!(&tasks[1], TaskKind::AwaitAwake { host: woken } if *woken == host));
        assert!(matches!(&tasks[2], TaskKind::Offer { .. }));
        assert!(matches!(&tasks[4], TaskKind::Put { ticket: Some((5, 6)), .. }), "{tasks:?}");
        assert!(!tasks[0].has_undo() && !tasks[1].has_undo(), "a host that was woken stays awake");
    }
}
