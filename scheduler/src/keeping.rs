//! Sets of expectations as an embedder has them: put, told of, deleted; and the loop that keeps them
//! true.
//!
//! Decides that a set is stored before anybody is told that it is kept, and how often the world is
//! looked at: when something has changed, events that come at once together, and no more often than a
//! look costs. What is broken, and what is begun, is [`crate::upkeep`]'s.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use planner::rules::Balanced;
use planner::{Clause, Level, Plan, Setback, SetbackReason, State, Step};
use protocol::api::{NewRun, RunState, RunStatus, Want};
use protocol::expectations::{KeptStanding, SetList, SetStatus};
use protocol::id::{HostId, JobId, Revision, RunId, SetName};
use protocol::job::Role;
use protocol::refusal::{Problem, Refusal};
use protocol::trust::Trust;
use protocol::used::Used;
use protocol::view::View;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep_until};
use tracing::Instrument as _;
use uuid::Uuid;

use crate::conductor::StoreError;
use crate::engine::{Scheduler, SubmitError};
use crate::upkeep::{
    Aims, Clash, Effect, Input, Look, Open, SETS_MAX, SetError, SetRecord, Turns, Upkeep, read,
};

/// Two looks are at least this far apart, so that a burst of events is one look; and this many times
/// as far as a look takes, so that looking takes a small part of a core.
const LOOK_INTERVAL: (Duration, u32) = (Duration::from_millis(500), 8);

/// A look at least this often while something is broken, for what passes with time alone.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Sets that were deleted and are remembered, so that a scheduler which was away does not bring them
/// back. Whoever is away for longer than so many deletions does.
const DELETED_MAX: usize = SETS_MAX;

/// What a scheduler keeps.
#[derive(Debug, Default)]
pub(crate) struct Keeping {
    upkeep: Arc<Mutex<Upkeep>>,
    /// One change at a time: it is checked, stored and then obeyed.
    changing: tokio::sync::Mutex<()>,
    news: watch::Sender<u64>,
    /// Hosts of the cluster, by which trust document.
    members: Mutex<Members>,
    /// What guests use, as far as it is known.
    used: Mutex<Arc<Used>>,
}

type Members = (Option<Arc<Trust>>, Arc<BTreeSet<HostId>>);

impl Keeping {
    fn upkeep(&self) -> MutexGuard<'_, Upkeep> {
        self.upkeep.lock().expect("no holder of this lock panics")
    }

    /// Rules that moves of others for this job's sake must not break.
    pub(crate) fn heeded(&self, now_ms: u64, job: &JobId) -> Vec<Clause> {
        self.upkeep().heeded(now_ms, &BTreeSet::from([job]))
    }

    /// Something has changed that is not in the picture, and by which what is expected is judged.
    pub(crate) fn look_again(&self) {
        self.tell();
    }

    /// Hears of everything that is kept, judged or known otherwise.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// What is expected of what guests use.
    pub(crate) fn rules_of_use(&self) -> Vec<Balanced> {
        self.upkeep().rules_of_use()
    }

    /// The same `Arc` until something else is known.
    pub(crate) fn used(&self) -> Arc<Used> {
        Arc::clone(&self.used.lock().expect("no holder of this lock panics"))
    }

    /// Takes what is known now; whether that is something else than before.
    pub(crate) fn note_used(&self, used: Used) -> bool {
        let mut known = self.used.lock().expect("no holder of this lock panics");
        let is_other = **known != used;
        if is_other {
            *known = Arc::new(used);
        }
        is_other
    }

    fn tell(&self) {
        self.news.send_modify(|news| *news += 1);
    }
}

/// A set that is kept true, and a way to see how it stands.
#[derive(Clone)]
pub struct Kept {
    scheduler: Scheduler,
    name: SetName,
    news: watch::Receiver<u64>,
    /// True when it was put by this call, and was not so already.
    pub is_new: bool,
}

/// Why a set was not put or deleted. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// It cannot be kept, whatever the world is like.
    #[error(transparent)]
    Invalid(#[from] SetError),
    /// It cannot be kept beside what is kept already.
    #[error(transparent)]
    Clash(#[from] Clash),
    /// It was changed by somebody else meanwhile.
    #[error(
        "expectations {name} are at revision {current}, and say something else; a change needs a revision \
         above it"
    )]
    RevisionConflict {
        /// The set.
        name: SetName,
        /// The revision that is stored.
        current: Revision,
    },
    /// There is none of that name.
    #[error("there are no expectations {0}")]
    NoSuchSet(SetName),
    /// There are too many.
    #[error("{SETS_MAX} sets are kept; delete one, or put more into one")]
    TooMany,
    /// It could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<KeepError> for Problem {
    fn from(error: KeepError) -> Self {
        let detail = error.to_string();
        match error {
            KeepError::Invalid(_) => Refusal::Invalid { message: detail }.into(),
            KeepError::Clash(_) => Problem::new(409, "expectations-clash", detail),
            KeepError::RevisionConflict { .. } => Problem::new(409, "expectations-changed", detail),
            KeepError::NoSuchSet(_) => Problem::new(404, "no-such-expectations", detail),
            KeepError::TooMany => Problem::new(409, "too-many-expectations", detail),
            KeepError::Store(_) => Problem::new(503, "storage-broken", detail),
        }
    }
}

impl Kept {
    /// How it stands; `None` when it was deleted.
    #[must_use]
    pub fn status(&self) -> Option<SetStatus> {
        let keeping = self.scheduler.keeping();
        let status = keeping.upkeep().status(self.scheduler.now_ms(), &self.name);
        status.filter(|status| !status.is_deleted)
    }

    /// Waits until something has changed about this or any other set.
    pub async fn changed(&mut self) -> Option<SetStatus> {
        let _ = self.news.changed().await;
        self.status()
    }

    /// Waits until all of it is met, or it is deleted.
    pub async fn met(&mut self) -> Option<SetStatus> {
        loop {
            self.news.mark_unchanged();
            let status = self.status()?;
            let is_met = |standing: &KeptStanding| *standing == KeptStanding::Met;
            if status.expectations.iter().all(|one| is_met(&one.standing)) {
                return Some(status);
            }
            self.changed().await;
        }
    }
}

impl Scheduler {
    /// Keeps this true from now on, as long as [`Scheduler::tend_hosts`] runs: `expectations` are
    /// entries of an expectations file (docs/schema/expectations.json). `revision` must be above that
    /// of the set which has this name already; the same revision with the same words is so already.
    pub async fn keep(
        &self,
        name: SetName,
        revision: Revision,
        expectations: Vec<Value>,
    ) -> Result<Kept, KeepError> {
        read(&expectations)?;
        let now_ms = self.options().clock.now().wall_ms;
        let record = SetRecord::new(name, revision, Some(expectations), now_ms);
        self.change(record).await
    }

    /// Keeps a set no longer; what it has made so stays as it is. `revision` as in
    /// [`Scheduler::keep`]; without one, whatever is kept is meant.
    pub async fn keep_no_longer(
        &self,
        name: SetName,
        revision: Option<Revision>,
    ) -> Result<Kept, KeepError> {
        let known = self
            .keeping()
            .upkeep()
            .record(&name)
            .map(|record| (record.revision, record.expectations.is_none()));
        let Some((current, is_deleted)) = known else { return Err(KeepError::NoSuchSet(name)) };
        let next = if is_deleted { current } else { Revision(current.0.saturating_add(1)) };
        let now_ms = self.options().clock.now().wall_ms;
        self.change(SetRecord::new(name, revision.unwrap_or(next), None, now_ms)).await
    }

    /// Every set that is kept, and how it stands; with `with_deleted` also those that no longer are.
    #[must_use]
    pub fn expectations(&self, with_deleted: bool) -> SetList {
        let picture = self.options().picture.borrow().clone();
        let waiting_for =
            (!picture.is_current).then(|| format!("a current view: {}", picture.source));
        let sets = self.keeping().upkeep().statuses(self.now_ms(), with_deleted);
        SetList { waiting_for, sets }
    }

    /// The set of this name, if there is one.
    #[must_use]
    pub fn kept(&self, name: &SetName) -> Option<Kept> {
        let kept = self.handle_of(name.clone(), false);
        kept.status().map(|_| kept)
    }

    /// Takes what another scheduler of the cluster keeps, where that is later; how many sets were.
    pub async fn keep_as_well(&self, theirs: Vec<SetStatus>) -> Result<usize, StoreError> {
        let mut count = 0;
        for status in theirs {
            let _one = self.keeping().changing.lock().await;
            let theirs = SetRecord::from(status);
            let known = self.keeping().upkeep().record(&theirs.name).cloned();
            let merged = match known.clone() {
                Some(ours) => ours.merged(theirs),
                None => theirs,
            };
            if known.as_ref() != Some(&merged) {
                self.store(merged).await?;
                count += 1;
            }
        }
        Ok(count)
    }

    pub(crate) async fn recover_sets(&self) -> Result<Vec<(String, String)>, StoreError> {
        let stored = self.options().conductor.sets().await?;
        for record in stored.sets {
            self.obey(Input::Recovered(record));
        }
        Ok(stored.damaged)
    }

    pub(crate) fn objection(&self, want: &Want) -> Option<String> {
        self.keeping().upkeep().objection(want)
    }

    /// Somebody has a job stopped: what is expected of it is not mended against that.
    pub(crate) async fn note_stop(&self, job: &JobId) {
        let revision = self.picture().view.job(job).map(|(_, row)| row.revision).max();
        let Some(revision) = revision else { return };
        let mut out = Vec::new();
        let stopped = Input::Stopped { job: job.clone(), revision };
        {
            // A change of a set that is being stored takes over what was known before it.
            let _one = self.keeping().changing.lock().await;
            self.keeping().upkeep().handle(self.now_ms(), stopped, &mut out);
        }
        for effect in out {
            if let Effect::Save(name) = effect {
                self.save(&name).await;
            }
        }
        self.keeping().tell();
    }

    /// A job was moved for another's sake: it is left alone for a while.
    pub(crate) fn note_moved(&self, job: JobId) {
        let moved = Input::Moved { job };
        self.keeping().upkeep().handle(self.now_ms(), moved, &mut Vec::new());
    }

    fn handle_of(&self, name: SetName, is_new: bool) -> Kept {
        let news = self.keeping().news.subscribe();
        Kept { scheduler: self.clone(), name, news, is_new }
    }

    /// Goes on though whoever asked has gone: what is stored is obeyed in this life, too.
    async fn change(&self, record: SetRecord) -> Result<Kept, KeepError> {
        let scheduler = self.clone();
        let changed = async move { scheduler.change_to_the_end(record).await };
        tokio::spawn(changed.in_current_span()).await.unwrap_or_else(|error| {
            let (tried, why) = ("change a set", error.to_string());
            Err(StoreError::Broken { tried, why }.into())
        })
    }

    async fn change_to_the_end(&self, record: SetRecord) -> Result<Kept, KeepError> {
        let _one = self.keeping().changing.lock().await;
        let name = record.name.clone();
        let (known, count) = {
            let upkeep = self.keeping().upkeep();
            (upkeep.record(&name).cloned(), upkeep.count())
        };
        if let Some(known) = &known {
            if (known.revision, &known.expectations) == (record.revision, &record.expectations) {
                return Ok(self.handle_of(name, false));
            }
            if known.revision >= record.revision {
                let current = known.revision;
                return Err(KeepError::RevisionConflict { name, current });
            }
        }
        // Those who keep it elsewhere have checked it against what they kept then: a set that is learnt is kept.
        if let Some(expectations) = &record.expectations {
            let kept = read(expectations)?;
            if let Some(clash) = self.keeping().upkeep().clash(&name, &kept) {
                return Err(clash.into());
            }
        }
        let is_more = known.as_ref().is_none_or(|known| known.expectations.is_none());
        if is_more && record.expectations.is_some() && count >= SETS_MAX {
            return Err(KeepError::TooMany);
        }
        let record = match known {
            Some(known) => record.remembering(known),
            None => record,
        };
        self.store(record).await?;
        Ok(self.handle_of(name, true))
    }

    /// Stores a set, and then obeys it.
    async fn store(&self, record: SetRecord) -> Result<(), StoreError> {
        let conductor = &self.options().conductor;
        conductor.save_set(record.clone()).await?;
        self.obey(Input::Put(record));
        let deleted: Vec<SetName> =
            self.keeping().upkeep().deleted().iter().map(|record| record.name.clone()).collect();
        for name in deleted.iter().take(deleted.len().saturating_sub(DELETED_MAX)) {
            conductor.forget_set(name.clone()).await?;
            self.keeping().upkeep().forget(name);
        }
        Ok(())
    }

    fn obey(&self, set: Input) {
        let mut out = Vec::new();
        self.keeping().upkeep().handle(self.now_ms(), set, &mut out);
        for effect in out {
            // What more is known of it is stored after the next look.
            if let Effect::Heed(rules) = effect {
                self.knowledge().heed(rules);
            }
        }
        self.keeping().tell();
    }

    // The loop.

    pub(crate) async fn mend_expectations(&self) {
        let mut mends: JoinSet<(JobId, HostId, Arc<RunStatus>)> = JoinSet::new();
        let mut picture = self.options().picture.clone();
        let mut news = self.keeping().news.subscribe();
        // Who belongs to the cluster is judged by as well. Who tells of it may be gone before this ends.
        let mut trust = self.options().trust.clone();
        let mut is_told = true;
        let work = async {
            loop {
                let looked = Instant::now();
                let known = *news.borrow_and_update();
                let is_current = picture.borrow_and_update().is_current;
                if is_current && self.keeping().upkeep().has_work() {
                    self.look_after(&mut mends).await;
                    // Its own news are none, and what came meanwhile is.
                    self.keeping().tell();
                    if *news.borrow() == known + 1 {
                        news.mark_unchanged();
                    }
                }
                let took = looked.elapsed();
                let is_restless = self.keeping().upkeep().is_restless();
                tokio::select! {
                    Some(ended) = mends.join_next(), if !mends.is_empty() => {
                        if let Ok(ended) = ended {
                            self.note_mend(ended, &mut mends).await;
                        }
                    }
                    changed = picture.changed() => if changed.is_err() { return },
                    _ = news.changed() => {}
                    changed = trust.changed(), if is_told => is_told = changed.is_ok(),
                    () = sleep_until(looked + LOOK_AGAIN), if is_restless => {}
                }
                let (least, times) = LOOK_INTERVAL;
                sleep_until(looked + least.max(took * times)).await;
            }
        };
        self.shutdown().run_until_cancelled(work).await;
    }

    /// Judges what has changed, and begins what may be begun now.
    async fn look_after(&self, mends: &mut JoinSet<(JobId, HostId, Arc<RunStatus>)>) {
        let picture = self.picture();
        let members = self.members();
        let turns = {
            let trust = self.options().trust.borrow();
            let peers = trust.iter().flat_map(|trust| &trust.peers);
            let all =
                peers.filter(|peer| peer.role == Role::Controller).map(|peer| peer.key).collect();
            Turns { me: Some(self.options().client.identity().public()), all }
        };
        let open = self.open_mends(&picture.view);
        let (view, heard) = (picture.view.clone(), self.heard_or_asleep(&picture));
        let powers = self.asleep().powers();
        let used = self.used();
        let terms = self.terms();
        let look = Look { view, heard, members, powers, used, terms, open, turns };
        self.give(Input::Looked(Box::new(look)), mends).await;
    }

    /// How what is kept stands.
    pub(crate) fn kept_figures(&self) -> crate::tally::Kept {
        self.keeping().upkeep().figures(self.now_ms())
    }

    /// Hosts of the cluster. The same list until the trust document changes: it is as long as the cluster is large.
    fn members(&self) -> Arc<BTreeSet<HostId>> {
        let trust = self.options().trust.borrow().clone();
        let mut known = self.keeping().members.lock().expect("no holder of this lock panics");
        let is_same = match (&known.0, &trust) {
            (Some(of), Some(trust)) => Arc::ptr_eq(of, trust),
            (of, trust) => of.is_none() && trust.is_none(),
        };
        if !is_same {
            let hosts = trust.iter().flat_map(|trust| trust.roster_by_host().into_keys());
            *known = (trust.clone(), Arc::new(hosts.collect()));
        }
        Arc::clone(&known.1)
    }

    async fn note_mend(
        &self,
        (job, to, status): (JobId, HostId, Arc<RunStatus>),
        mends: &mut JoinSet<(JobId, HostId, Arc<RunStatus>)>,
    ) {
        let failure = (status.state != RunState::Succeeded).then(|| {
            let why = status.reason.clone().unwrap_or_else(|| "no reason was given".to_owned());
            tracing::warn!("{job} is not yet as expected: {why}");
            why
        });
        self.give(Input::Ended { job, to, failure }, mends).await;
    }

    /// Gives the core an input and does what it says, until nothing more is to be done.
    async fn give(&self, input: Input, mends: &mut JoinSet<(JobId, HostId, Arc<RunStatus>)>) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let (upkeep, now_ms) = (Arc::clone(&self.keeping().upkeep), self.now_ms());
            // Judging a large cluster takes long, and this thread answers requests.
            let handled = spawn_blocking(move || {
                let mut out = Vec::new();
                upkeep
                    .lock()
                    .expect("no holder of this lock panics")
                    .handle(now_ms, input, &mut out);
                out
            });
            for effect in handled.await.unwrap_or_default() {
                match effect {
                    Effect::Heed(rules) => self.knowledge().heed(rules),
                    Effect::Save(name) => self.save(&name).await,
                    Effect::Plan(aims) => inputs.push(self.plan_mends(*aims).await),
                    Effect::Mend { want, to, because, yields, level } => {
                        let id = RunId(Uuid::now_v7());
                        let asked = NewRun { because, yields, ..NewRun::new(id, *want) };
                        inputs.extend(self.begin_mend(asked, to, level, mends).await);
                    }
                }
            }
        }
    }

    async fn save(&self, name: &SetName) {
        let _one = self.keeping().changing.lock().await;
        let record = self.keeping().upkeep().record(name).cloned();
        let Some(record) = record else { return };
        if let Err(error) = self.options().conductor.save_set(record).await {
            tracing::error!("store what was seen of expectations {name}: {error}");
        }
    }

    async fn plan_mends(&self, mut aims: Aims) -> Input {
        let report = planner::Report::default();
        let nothing = |open| {
            let (steps, favours, shifts, savings) = (vec![], vec![], vec![], vec![]);
            Input::Planned { steps, favours, shifts, savings, report, open }
        };
        let Some(_turn) = self.planning_turn().await else { return nothing(vec![]) };
        let picture = self.picture();
        let open = self.open_mends(&picture.view);
        let failed = |(host, message): (HostId, String)| Setback {
            allocation: picture.view.host(&host).map(|row| row.host.allocation).unwrap_or_default(),
            reason: SetbackReason::Failed { message },
            host,
        };
        let setbacks = std::mem::take(&mut aims.shunned).into_iter().map(failed).collect();
        let (now_ms, seed) = (self.now_ms(), self.options().seed);
        let (scheduler, shards, policy) = (self.clone(), self.shards(), self.policy());
        let planned = spawn_blocking(move || {
            let mut knowledge = scheduler.knowledge();
            knowledge.share_with(shards);
            knowledge.obey(policy);
            knowledge.count_on(scheduler.terms());
            let input = knowledge.mend_input(now_ms, &picture, aims, setbacks, seed);
            drop(knowledge);
            let outcome = planner::plan(&input);
            // A later step may need an earlier one; it is found again once that is done. But what a host is woken for
            // wakes it by its own run.
            let Plan { steps, favours, shifts, savings, .. } = outcome.plan;
            let is_saving = |step: &Step| savings.iter().any(|saving| saving.has(step));
            let steps: Vec<Step> = steps.into_iter().filter(|step| !is_saving(step)).collect();
            let wakes = steps.iter().filter(|step| matches!(step, Step::WakeHost(_)));
            let state = wakes.fold(State::new(&input), |state, wake| wake.apply(&state));
            let steps = steps.into_iter().filter(|step| step.check(&state).is_ok());
            (steps.collect(), favours, shifts, savings, outcome.report)
        });
        match planned.await {
            Ok((steps, favours, shifts, savings, report)) => {
                self.tally().planned_upkeep(report.is_empty() && report.violations.is_empty());
                Input::Planned { steps, favours, shifts, savings, report, open }
            }
            Err(error) => {
                tracing::error!("plan what is expected: {error}");
                nothing(open)
            }
        }
    }

    async fn begin_mend(
        &self,
        asked: NewRun,
        to: HostId,
        level: Level,
        mends: &mut JoinSet<(JobId, HostId, Arc<RunStatus>)>,
    ) -> Option<Input> {
        let (job, because) = (asked.want.job().clone(), asked.because.clone());
        match self.submit_found(asked, level).await {
            Ok(mut run) => {
                let why = because.unwrap_or_else(|| "as is expected of it".to_owned());
                tracing::info!("{job} is changed on {}, {why}", to.short());
                mends.spawn(async move { (job, to, run.ended().await) });
                None
            }
            Err(SubmitError::JobBusy { .. } | SubmitError::TooMany) => Some(Input::Busy { job }),
            Err(error) => {
                tracing::warn!("make {job} as expected: {error}");
                Some(Input::Ended { job, to, failure: Some(error.to_string()) })
            }
        }
    }

    pub(crate) fn open_mends(&self, view: &View) -> Vec<Open> {
        let open = |status: Arc<RunStatus>| {
            let job = status.want.job().clone();
            let (from, to) = match &status.want {
                Want::Migrate { to, .. } => {
                    let at = view.job_best(&job).map(|(row, _)| row.host.id.clone());
                    (at, Some(to.clone()))
                }
                Want::Run { on, .. } => (None, on.clone()),
                Want::Spend { on, .. } => (None, Some(on.clone())),
                Want::Stop { .. }
                | Want::Resize { .. }
                | Want::Delete { .. }
                | Want::FailOver { .. }
                | Want::Sleep { .. }
                | Want::Wake { .. } => (None, None),
            };
            Open { run: status.id, job, from, to }
        };
        self.open_runs().into_iter().map(open).collect()
    }
}

#[cfg(test)]
mod tests;
