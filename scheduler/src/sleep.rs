//! Hosts that are asleep: what plans know of them, and runs that wake one or put one to sleep.
//!
//! Decides what of a sleeping host is in the picture although no monitor may have heard of it, and when a host counts
//! as awake for a run: when whoever remembers its sleep does so no more, and it is heard. A host that is to sleep is
//! drained first, which moves its VMs ([`crate::drain`]), and it is looked once more whether it is needed right before it
//! is switched off. Who remembers all that, and what switches hosts, is the embedder's ([`Waker`]).

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use imbl::OrdMap;
use planner::{Intent, PlanInput};
use protocol::api::PutIntent;
use protocol::host::{HostIntent, Inventory};
use protocol::id::{HostId, JobId};
use protocol::view::{Freshness, HostRow};
use serde::de::IgnoredAny;
use transport::{Endpoint, Method};

use crate::engine::Scheduler;
use crate::failover::freshness_of;
use crate::follow::{HeardAt, Picture};
use crate::run::{Answer, No};
use crate::task::{Ask, Dispatch, TaskResult};

/// How long one dispatch watches before it reports how far things are.
const WATCH: Duration = Duration::from_secs(3);

/// How long a host may take to say what is intended with it.
const ASK_MAX: Duration = Duration::from_secs(5);

/// How often it looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// VMs that are named of those that are to leave.
const NAMED_MAX: usize = 3;

/// A host being switched.
pub type Waking<'a> = Pin<Box<dyn Future<Output = Result<(), NotSwitched>> + Send + 'a>>;

/// Why a host may not be as it is wanted, in words that whoever reads runs may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotSwitched {
    /// It is not switched, however often it is asked.
    No(String),
    /// It may be so or not; it is asked again.
    Unclear(String),
}

/// Switches sleeping hosts on, and empty ones off.
pub trait Waker: Send + Sync {
    /// Has a host switched on; ended once it has power. May be asked again, and of a host that is on.
    fn wake<'a>(&'a self, host: &'a HostId) -> Waking<'a>;

    /// Has a host put to sleep that was drained for it; ended once it is asleep. May be asked again, and of a host that
    /// sleeps already.
    fn sleep<'a>(&'a self, host: &'a HostId) -> Waking<'a>;
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

/// What of hosts' power counts for plans and for what is expected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Powers {
    /// Hosts that are asleep, and whether a run may wake them.
    pub asleep: BTreeMap<HostId, bool>,
    /// Hosts that may be put to sleep once they are empty.
    pub may_sleep: BTreeSet<HostId>,
}

impl Powers {
    /// Tells a plan of it.
    #[must_use]
    pub fn told(&self, mut input: PlanInput) -> PlanInput {
        let asleep = self.asleep.keys().map(|host| (host.clone(), Intent::Asleep));
        input.intents.extend(asleep);
        let kept = self.asleep.iter().filter(|(_, may_wake)| !**may_wake);
        input.kept_asleep = kept.map(|(host, _)| host.clone()).collect();
        input.may_sleep = self.may_sleep.clone();
        input
    }
}

/// What a scheduler knows of them.
#[derive(Default)]
pub(crate) struct Asleep {
    sleepers: Mutex<Arc<Sleepers>>,
    powers: Mutex<Arc<Powers>>,
    waker: OnceLock<Arc<dyn Waker>>,
}

impl Asleep {
    fn lock(&self) -> MutexGuard<'_, Arc<Sleepers>> {
        self.sleepers.lock().expect("no holder of this lock panics")
    }

    pub(crate) fn sleepers(&self) -> Arc<Sleepers> {
        Arc::clone(&self.lock())
    }

    /// The same `Arc` until something has changed.
    pub(crate) fn powers(&self) -> Arc<Powers> {
        Arc::clone(&self.powers.lock().expect("no holder of this lock panics"))
    }

    /// What is known now, if that is something else than before.
    fn note(&self, change: impl FnOnce(&mut Powers)) -> Option<Arc<Powers>> {
        let mut powers = self.powers.lock().expect("no holder of this lock panics");
        let mut next = Powers::clone(&powers);
        change(&mut next);
        (next != **powers).then(|| {
            *powers = Arc::new(next);
            Arc::clone(&powers)
        })
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
        let asleep: BTreeMap<HostId, bool> = may_wake.collect();
        let powers = self.asleep().note(|powers| powers.asleep = asleep);
        *self.asleep().lock() = Arc::new(sleepers);
        self.obey_powers(powers);
    }

    /// These hosts may be put to sleep now, and no others.
    pub fn note_may_sleep(&self, hosts: BTreeSet<HostId>) {
        let powers = self.asleep().note(|powers| powers.may_sleep = hosts);
        self.obey_powers(powers);
    }

    /// Plans go by these from now on, and what is expected is judged by them: on a quiet cluster nothing else
    /// happens for hours.
    fn obey_powers(&self, changed: Option<Arc<Powers>>) {
        let Some(powers) = changed else { return };
        self.knowledge().note_powers(powers);
        self.keeping().look_again();
    }

    /// The hosts that may be put to sleep, as it was told last.
    #[must_use]
    pub fn may_sleep(&self) -> BTreeSet<HostId> {
        self.asleep().powers().may_sleep.clone()
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
            Ask::Drain(host) => Some(self.intend(host, Some(HostIntent::Drain)).await),
            Ask::Undrain(host) => Some(self.undrain(host).await),
            Ask::AwaitEmpty(host) => Some(self.await_empty(host).await),
            Ask::Sleep(host) => Some(self.put_to_sleep(host).await),
            Ask::WakeAgain(host) => Some(self.wake_again(host).await),
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
            Err(NotSwitched::No(why)) => Answer::Refused(No::Failed(why)),
            Err(NotSwitched::Unclear(what)) => Answer::Unclear { what, is_ambiguous: true },
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

    /// Has a host say what is intended with it; both can be said again.
    async fn intend(&self, host: &HostId, intent: Option<HostIntent>) -> Answer {
        let Some(row) = self.picture().view.host(host).cloned() else {
            let what = format!("{} is not in the view", host.short());
            return Answer::Unclear { what, is_ambiguous: false };
        };
        let client = self.options().client.with_deadline(ASK_MAX);
        let mut what = format!("{} has no address", host.short());
        for url in &row.host.urls {
            let agent = Endpoint::of_host(url.clone(), host.clone());
            let path = "/v1/config/intent";
            let asked = match intent {
                Some(intent) => {
                    let body = PutIntent { intent };
                    client.send::<_, Option<IgnoredAny>>(Method::PUT, &agent, path, &body).await
                }
                None => {
                    client.send::<_, Option<IgnoredAny>>(Method::DELETE, &agent, path, &()).await
                }
            };
            match asked {
                Ok(_) => return Answer::Done(TaskResult::Done),
                Err(error) => what = error.to_string(),
            }
        }
        Answer::Unclear { what, is_ambiguous: true }
    }

    /// A host that sleeps takes what fits again when it wakes, by itself.
    async fn undrain(&self, host: &HostId) -> Answer {
        match self.asleep().sleepers().contains_key(host) {
            true => Answer::Done(TaskResult::Done),
            false => self.intend(host, None).await,
        }
    }

    async fn await_empty(&self, host: &HostId) -> Answer {
        let mut last = Emptied::TakenBack;
        let look = async {
            while last != Emptied::Done {
                tokio::time::sleep(LOOK_INTERVAL).await;
                last = how_empty(self.picture().view.host(host));
            }
        };
        // Late, or never: what is seen last tells.
        let _ = tokio::time::timeout(WATCH, look).await;
        match last {
            Emptied::Done => Answer::Done(TaskResult::Done),
            // The host has said so long ago.
            Emptied::TakenBack => {
                Answer::Refused(No::Failed(format!("{} is drained no more", host.short())))
            }
            Emptied::NotYet(left) => {
                Answer::NotYet { note: format!("{} is not empty yet: {left}", host.short()) }
            }
        }
    }

    /// Looked at once more, with all that others have drained or put to sleep meanwhile.
    async fn put_to_sleep(&self, host: &HostId) -> Answer {
        if self.asleep().sleepers().contains_key(host) {
            return Answer::Done(TaskResult::Done);
        }
        if let Some(why) = self.is_needed(host).await {
            return Answer::Refused(No::Failed(format!("it is needed: {why}")));
        }
        let Some(waker) = self.asleep().waker.get() else {
            return Answer::Refused(No::Failed("nothing here switches hosts".to_owned()));
        };
        match waker.sleep(host).await {
            Ok(()) => Answer::Done(TaskResult::Done),
            Err(NotSwitched::No(why)) => Answer::Refused(No::Failed(why)),
            Err(NotSwitched::Unclear(what)) => Answer::Unclear { what, is_ambiguous: true },
        }
    }

    /// Takes a sleep back; of one that is awake there is nothing to take back.
    async fn wake_again(&self, host: &HostId) -> Answer {
        // That it is heard still is no answer: the order may have been given a moment ago.
        let Some(waker) = self.asleep().waker.get() else { return Answer::Done(TaskResult::Done) };
        match waker.wake(host).await {
            Ok(()) => Answer::Done(TaskResult::Done),
            // One that never went to sleep.
            Err(NotSwitched::No(_)) if !self.asleep().sleepers().contains_key(host) => {
                Answer::Done(TaskResult::Done)
            }
            Err(NotSwitched::No(why)) => Answer::Refused(No::Failed(why)),
            Err(NotSwitched::Unclear(what)) => Answer::Unclear { what, is_ambiguous: true },
        }
    }

    /// Why a host that is to sleep is needed, by what is expected of those that are awake.
    async fn is_needed(&self, host: &HostId) -> Option<String> {
        let picture = self.picture();
        if !picture.is_current {
            return Some(format!("no current view ({})", picture.source));
        }
        let (now_ms, seed, host) = (self.now_ms(), self.options().seed, host.clone());
        let scheduler = self.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let mut knowledge = scheduler.knowledge();
            let input = knowledge.saving_input(now_ms, &picture, seed);
            drop(knowledge);
            planner::is_needed(&input, &host)
        });
        looked.await.unwrap_or_else(|error| Some(format!("that could not be found out: {error}")))
    }

    fn is_awake(&self, host: &HostId) -> bool {
        let picture = self.picture();
        let is_heard = freshness_of(picture.heard.get(host)) == Freshness::Fresh;
        let is_asleep = self.asleep().sleepers().contains_key(host);
        picture.is_current && picture.view.host(host).is_some() && is_heard && !is_asleep
    }
}

/// How far a host is that is to be empty.
#[derive(Debug, PartialEq, Eq)]
enum Emptied {
    Done,
    /// It says that it is drained no more, or not yet.
    TakenBack,
    /// These are there still, in words.
    NotYet(String),
}

fn how_empty(row: Option<&HostRow>) -> Emptied {
    let Some(row) = row else { return Emptied::NotYet("it is not in the view".to_owned()) };
    if row.host.intent != Some(HostIntent::Drain) {
        return Emptied::TakenBack;
    }
    let alive: Vec<&str> = row
        .jobs
        .values()
        .filter(|job| !job.state.is_ended())
        .map(|job| JobId::as_str(&job.id))
        .collect();
    match alive.len() {
        0 => Emptied::Done,
        count => {
            let named = alive[..count.min(NAMED_MAX)].join(", ");
            Emptied::NotYet(format!("{count} are there still, such as {named}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use planner::steps::{MigrateVm, SleepHost, StartVm, WakeHost};
    use planner::{Outcome, Plan, Step};
    use protocol::api::{NewRun, Want};
    use protocol::host::Host;
    use protocol::id::{Cursor, Epoch, Revision, RunId};
    use protocol::job::{Job, JobSpec, JobState};
    use protocol::signed::SecretKey;
    use protocol::vm::VmSpec;

    use super::*;
    use crate::record::RunRecord;
    use crate::run::{Effect, Input, Run};
    use crate::task::{Circumstances, TaskKind, tasks_of};

    #[test]
    fn a_host_is_drained_and_empty_before_it_is_switched_off_and_all_that_is_taken_back() {
        let host = sleeper(1).0;
        let want = Want::Sleep { host: host.clone().into() };
        let job = want.job().clone();
        let steps = [
            Step::MigrateVm(MigrateVm {
                job: "web".parse().unwrap(),
                from: host.clone(),
                to: sleeper(2).0,
                revision: Revision(2),
            }),
            Step::SleepHost(SleepHost::of(&host)),
        ];
        // Who empties drained hosts moves what is there.
        let tasks = tasks_of(&steps, &want, &Circumstances::default(), 0);
        let titles: Vec<String> = tasks.iter().map(|task| task.title(&job)).collect();
        let short = host.short();
        let (drain, await_empty) =
            (format!("drain {short}"), format!("wait until {short} is empty"));
        assert_eq!(titles, [drain, await_empty, format!("put {short} to sleep")]);

        let new = NewRun::new(RunId(uuid::Uuid::from_u128(1)), want);
        let mut run = Run::new(RunRecord::new(new, 0));
        let mut out = Vec::new();
        run.handle(0, Input::Begin, &mut out);
        let plan = Plan { steps: steps.to_vec(), ..Plan::default() };
        let outcome = Box::new(Outcome { plan, ..Outcome::default() });
        let (at, met_at) = (Circumstances::default(), None);
        run.handle(0, Input::Planned { outcome, at, met_at }, &mut out);
        let answers = [
            (Ask::Drain(host.clone()), Answer::Done(TaskResult::Done)),
            (Ask::AwaitEmpty(host.clone()), Answer::Done(TaskResult::Done)),
            (Ask::Sleep(host.clone()), Answer::Refused(No::Failed("it is needed".into()))),
            (Ask::WakeAgain(host.clone()), Answer::Done(TaskResult::Done)),
            (Ask::Undrain(host.clone()), Answer::Done(TaskResult::Done)),
        ];
        for (ask, answer) in answers {
            let asked = out.drain(..).filter_map(|effect| match effect {
                Effect::Dispatch(dispatch) => Some(*dispatch),
                _ => None,
            });
            let asked: Vec<Dispatch> = asked.collect();
            assert_eq!(asked.iter().map(|d| &d.ask).collect::<Vec<_>>(), [&ask]);
            let (task, direction) = (asked[0].key.task, asked[0].direction);
            run.handle(0, Input::Answered { task, direction, answer }, &mut out);
        }
        assert!(out.contains(&Effect::Plan), "another way may be found, without this host");
    }

    #[test]
    fn a_host_is_empty_when_it_says_that_it_is_drained_and_nothing_is_alive() {
        let row = |intent: Option<HostIntent>, state: JobState| {
            let (id, one) = sleeper(1);
            let mut inventory = Inventory::clone(&one.inventory);
            inventory.host.intent = intent;
            let spec = JobSpec::vm(VmSpec { vcpus: 1, memory_bytes: 1, ..VmSpec::default() });
            inventory.jobs.push(Job::of("web".parse().unwrap(), spec, state));
            let mut view = protocol::view::View::default();
            view.merge_inventory(inventory);
            view.host(&id).cloned().unwrap()
        };
        let drained = Some(HostIntent::Drain);
        assert_eq!(how_empty(Some(&row(drained, JobState::Stopped))), Emptied::Done);
        assert_eq!(how_empty(Some(&row(None, JobState::Stopped))), Emptied::TakenBack);
        let Emptied::NotYet(left) = how_empty(Some(&row(drained, JobState::MigratingOut))) else {
            panic!("it is there still");
        };
        assert!(left.contains("web"), "{left}");
    }

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
        let want = Want::Run { job, spec, on: None, again: false };
        let at = Circumstances { has_trust: true, ..Circumstances::default() };
        let tasks = tasks_of(&steps, &want, &at, 3);
        assert!(matches!(&tasks[0], TaskKind::Wake { host: woken } if *woken == host));
        assert!(matches!(&tasks[1], TaskKind::AwaitAwake { host: woken } if *woken == host));
        assert!(matches!(&tasks[2], TaskKind::Offer { .. }));
        assert!(matches!(&tasks[4], TaskKind::Put { ticket: Some((5, 6)), .. }), "{tasks:?}");
        assert!(!tasks[0].has_undo() && !tasks[1].has_undo(), "a host that was woken stays awake");
    }
}
