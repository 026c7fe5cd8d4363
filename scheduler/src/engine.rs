//! Drives runs: performs the effects of each run machine in order and feeds back what came of it.
//!
//! Decides how many runs go on at once, who is told of progress, and what happens while storage
//! does not work: nothing is dispatched that is not stored. What a run does is [`crate::run`]'s.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use planner::{Level, Outcome, PlanInput, Shards, State, Terms};
use protocol::api::{NewRun, RunStatus, Want};
use protocol::id::{HostId, JobId, RunId, TenantId};
use protocol::job::Role;
use protocol::refusal::{Problem, Refusal};
use protocol::signed::PublicKey;
use protocol::trust::{Policy, Trust};
use tokio::sync::{OwnedSemaphorePermit, RwLock, Semaphore, mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{Instrument as _, Span};
use transport::{CancellationToken, Client, Clock, traces};
use uuid::Uuid;

use crate::conductor::{Acceptance, Conductor, StoreError};
use crate::executor::Executor;
use crate::follow::Picture;
use crate::judge::met_at;
use crate::keeping::Keeping;
use crate::knowledge::{Knowledge, make_room};
use crate::network::Network;
use crate::record::RunRecord;
use crate::run::{Answer, Effect, Input, PastReturn, Run};
use crate::sleep::Asleep;
use crate::tally::{Figures, Tally};
use crate::task::{Circumstances, Direction, Dispatch};

/// Runs that have not ended; more are refused until some have. Each costs a few kilobytes.
pub const RUNS_OPEN_MAX: usize = 4096;
/// Runs that are driven at once; the others wait their turn. Each has at most one request out.
const RUNS_DRIVEN_MAX: usize = 256;
/// Runs of one tenant's users that are open at a time: an eighth of those that are driven, so that no tenant keeps
/// the others, or what is done for lost hosts, from their turn.
const RUNS_OF_TENANT_MAX: usize = 32;
/// Runs that are driven at once for the sake of others, beside those: who waits for one has a place
/// already, and would else wait for ever.
const ERRANDS_DRIVEN_MAX: usize = 32;
/// How long a run waits for its plan. The search is bounded in nodes, so only a queue of others
/// before it takes long; a run that has waited so long says so and asks again.
const PLAN_WAIT: Duration = Duration::from_secs(30);
/// People who wait for one run to be cancelled; more wait to be heard.
const CANCELS_MAX: usize = 4;
/// Pause before storage that failed is tried again.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// How long a request may be held until a run's status changes.
pub const WAIT_MS_MAX: u64 = 60_000;

/// What a [`Scheduler`] works with.
#[derive(Clone)]
pub struct Options {
    /// Asks hosts and arbiters, as somebody they let do so.
    pub client: Client,
    /// Time.
    pub clock: Clock,
    /// Keeps the runs.
    pub conductor: Arc<dyn Conductor>,
    /// The view; see [`crate::follow`].
    pub picture: watch::Receiver<Arc<Picture>>,
    /// The trust document in force.
    pub trust: watch::Receiver<Option<Arc<Trust>>>,
    /// Chooses among equally good hosts; different for each scheduler of a cluster.
    pub seed: u64,
}

/// Makes what is wanted so, run by run. Clones are the same scheduler.
#[derive(Clone)]
pub struct Scheduler(Arc<Inner>);

struct Inner {
    options: Options,
    executor: Executor<Network>,
    knowledge: Arc<Mutex<Knowledge>>,
    open: Mutex<BTreeMap<RunId, Open>>,
    /// Held by each run from before it is stored until it is driven: whoever looks for one that may be
    /// on its way there waits for that.
    accepting: Arc<RwLock<()>>,
    places: Semaphore,
    errand_places: Semaphore,
    /// One plan at a time: the next one sees what the one before has reserved. Those who wait are
    /// bounded by `places`.
    planning: Arc<Semaphore>,
    keeping: Keeping,
    asleep: Asleep,
    tally: Tally,
    shutdown: CancellationToken,
}

impl Inner {
    fn picture(&self) -> Arc<Picture> {
        let picture = self.options.picture.borrow().clone();
        let trust = self.options.trust.borrow();
        let retired = trust.as_ref().map(|trust| trust.retired_hosts()).unwrap_or_default();
        let picture = self.asleep.complete(self.options.clock.now().mono_ms, picture);
        if retired.iter().all(|host| picture.view.host(host).is_none()) {
            return picture;
        }
        let mut picture = Picture::clone(&picture);
        for host in &retired {
            picture.view.forget(host);
        }
        Arc::new(picture)
    }

    /// The controllers of the cluster, of which this is one.
    fn shards(&self) -> Shards {
        let trust = self.options.trust.borrow();
        let peers = trust.iter().flat_map(|trust| &trust.peers);
        let all = peers.filter(|peer| peer.role == Role::Controller).map(|peer| number(&peer.key));
        Shards::new(number(&self.options.client.identity().public()), all)
    }

    /// What hosts let in, by the document in force.
    fn policy(&self) -> Arc<Policy> {
        let trust = self.options.trust.borrow();
        trust.as_ref().map(|trust| Arc::clone(&trust.policy)).unwrap_or_default()
    }

    /// How soon what a lost host ran may run elsewhere, by the same.
    fn terms(&self) -> Option<Terms> {
        self.options.trust.borrow().as_deref().map(Terms::of)
    }

    /// Plans on a thread of its own: a search may take long, and this one answers requests.
    async fn plan(&self, record: &RunRecord) -> Input {
        match timeout(PLAN_WAIT, self.plan_in_turn(record)).await {
            Ok(input) => input,
            Err(_) => {
                let why =
                    format!("no plan within {} s: others are planned first", PLAN_WAIT.as_secs());
                Input::CannotPlan { why }
            }
        }
    }

    /// Why nobody knows yet whether a job that is to run again is still there: monitors that have just begun have not
    /// heard everybody.
    fn unheard(&self, record: &RunRecord, picture: &Picture) -> Option<String> {
        let Want::Run { job, again: true, .. } = &record.want else { return None };
        if picture.view.job(job).next().is_some() {
            return None;
        }
        let trust = self.options.trust.borrow().clone()?;
        let roster = trust.roster_by_host();
        let unheard = roster.keys().filter(|host| picture.view.host(host).is_none()).count();
        (unheard > 0).then(|| {
            format!("no host that was heard has {job}, and {unheard} hosts were not heard yet")
        })
    }

    async fn plan_in_turn(&self, record: &RunRecord) -> Input {
        let Ok(turn) = Arc::clone(&self.planning).acquire_owned().await else {
            return Input::CannotPlan { why: "the engine is ending".to_owned() };
        };
        let options = &self.options;
        let picture = self.picture();
        if !picture.is_current {
            return Input::CannotPlan { why: format!("no current view ({})", picture.source) };
        }
        if let Some(why) =
            record.objection(&picture.view).or_else(|| self.unheard(record, &picture))
        {
            return Input::CannotPlan { why };
        }
        let (run, want, setbacks) = (record.id, record.want.clone(), record.setbacks.clone());
        let (now_ms, seed) = (options.clock.now().mono_ms, options.seed);
        let has_trust = options.trust.borrow().is_some();
        let (shards, policy, terms) = (self.shards(), self.policy(), self.terms());
        // Who is emptied for its sleep has others moved as who makes room has.
        let is_heeded = record.make_room || matches!(want, Want::Sleep { .. });
        let (yields, level) = (record.yields, record.level);
        let room = is_heeded.then(|| self.keeping.heeded(now_ms, want.job()));
        let knowledge = Arc::clone(&self.knowledge);
        // Gone as soon as nobody waits for this plan any more.
        let asker = Arc::new(());
        let asked = Arc::downgrade(&asker);
        let planned = spawn_blocking(move || {
            // The turn ends with the search, not with whoever waits for it.
            let _turn = turn;
            let lock = || knowledge.lock().expect("no holder of this lock panics");
            let mut knowledge = lock();
            knowledge.share_with(shards);
            knowledge.obey(policy);
            knowledge.count_on(terms);
            let mut input = knowledge.plan_input(now_ms, &picture, run, &want, setbacks, seed);
            drop(knowledge);
            if let (Want::Migrate { .. }, Some(level)) = (&want, level) {
                input.levels.insert(want.job().clone(), level);
            }
            if yields {
                input.limits.preempts_for = None;
            }
            if let Some(heeded) = room {
                make_room(&mut input, heeded);
            }
            let outcome = match &want {
                Want::Sleep { host } => planner::put_to_sleep(&input, host.host()),
                Want::Wake { host } => planner::wake(&input, host.host()),
                Want::Run { job, again: true, .. } => planner::plan_again(&input, job),
                _ => planner::plan(&input),
            };
            let state = State::new(&input);
            // Who empties a host for its sleep keeps room for each guest by its own move.
            let steps = outcome.plan.steps.iter().filter(|_| !matches!(want, Want::Sleep { .. }));
            let reservations = steps.filter_map(|step| step.reservation(&state)).collect();
            // Under the lock, so that a plan that comes too late keeps nothing of a run that is over.
            let mut knowledge = lock();
            if asked.upgrade().is_some() {
                knowledge.reserve(run, reservations);
            }
            drop(knowledge);
            planned(want.job(), has_trust, &input, outcome)
        });
        match planned.await {
            Ok(planned) => planned,
            Err(error) => Input::CannotPlan { why: format!("the planner failed: {error}") },
        }
    }
}

/// A run that has not ended.
#[derive(Clone)]
struct Open {
    tenant: Option<TenantId>,
    status: watch::Receiver<Arc<RunStatus>>,
    cancels: mpsc::Sender<Cancel>,
}

/// For whom a run is accepted.
#[derive(Debug, Default)]
struct Behalf {
    /// A user of this tenant.
    tenant: Option<TenantId>,
    /// A plan of this scheduler's own, for something that matters so much.
    level: Option<Level>,
}

/// Somebody wants a run no more, and waits for whether it turns back.
type Cancel = oneshot::Sender<Result<(), PastReturn>>;

/// A run, and a way to see how it is going.
#[derive(Debug, Clone)]
pub struct RunHandle {
    status: watch::Receiver<Arc<RunStatus>>,
    shutdown: CancellationToken,
}

/// Why a run was not accepted. Nothing of it was kept.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// What is wanted makes no sense on any host.
    #[error("{0}")]
    Invalid(String),
    /// The id belongs to a run that wants something else.
    #[error("run {0} wants something else; choose another id")]
    OtherWant(RunId),
    /// Another run of the job has not ended.
    #[error("job {job} is being changed by run {run}; wait until it has ended")]
    JobBusy {
        /// The job.
        job: JobId,
        /// The other run.
        run: RunId,
    },
    /// It would not last: something is kept true that says otherwise.
    #[error("{0}")]
    Expected(String),
    /// Too many runs are open.
    #[error("{RUNS_OPEN_MAX} runs are open; try again when some have ended")]
    TooMany,
    /// Too many of a tenant's users are open.
    #[error(
        "{RUNS_OF_TENANT_MAX} runs of users of tenant {tenant} are open; try again when some have ended"
    )]
    TooManyOfTenant {
        /// The tenant.
        tenant: TenantId,
    },
    /// It could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a run is not cancelled. It goes on, or has never been.
#[derive(Debug, thiserror::Error)]
pub enum CancelError {
    /// Nobody knows it.
    #[error("there is no run {0}")]
    NoSuchRun(RunId),
    /// There is no way back.
    #[error("run {run} goes on: {why}")]
    PastReturn {
        /// The run.
        run: RunId,
        /// What it has done.
        why: PastReturn,
    },
    /// It could not be read, or its engine is ending.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        let detail = error.to_string();
        match error {
            SubmitError::Invalid(message) => Refusal::Invalid { message }.into(),
            SubmitError::OtherWant(_) => Problem::new(422, "run-id-in-use", detail),
            SubmitError::JobBusy { .. } => Problem::new(409, "run-in-progress", detail),
            SubmitError::Expected(_) => Problem::new(409, "expected-otherwise", detail),
            SubmitError::TooMany => {
                let limit = u32::try_from(RUNS_OPEN_MAX).unwrap_or(u32::MAX);
                Refusal::Busy { what: "open runs".to_owned(), limit, retry_after_ms: 1000 }.into()
            }
            SubmitError::TooManyOfTenant { tenant } => {
                let limit = u32::try_from(RUNS_OF_TENANT_MAX).unwrap_or(u32::MAX);
                let what = format!("open runs of users of tenant {tenant}");
                Refusal::Busy { what, limit, retry_after_ms: 1000 }.into()
            }
            SubmitError::Store(_) => Problem::new(503, "storage-broken", detail),
        }
    }
}

impl Scheduler {
    /// A scheduler that works until `shutdown`. Runs that an earlier one has left are taken up by
    /// [`Scheduler::recover`].
    #[must_use]
    pub fn new(options: Options, shutdown: CancellationToken) -> Self {
        let knowledge = Arc::new(Mutex::new(Knowledge::default()));
        let executor = Executor(Network {
            client: options.client.clone(),
            clock: options.clock.clone(),
            picture: options.picture.clone(),
            trust: options.trust.clone(),
            knowledge: Arc::clone(&knowledge),
        });
        let open = Mutex::default();
        let accepting = Arc::default();
        let places = Semaphore::new(RUNS_DRIVEN_MAX);
        let errand_places = Semaphore::new(ERRANDS_DRIVEN_MAX);
        let planning = Arc::new(Semaphore::new(1));
        let keeping = Keeping::default();
        let asleep = Asleep::default();
        let tally = Tally::default();
        Self(Arc::new(Inner {
            options,
            executor,
            knowledge,
            open,
            accepting,
            places,
            errand_places,
            planning,
            keeping,
            asleep,
            tally,
            shutdown,
        }))
    }

    /// Takes up every run that has not ended, and every set of expectations; answers how many runs, and
    /// which records are damaged.
    pub async fn recover(&self) -> Result<(usize, Vec<(String, String)>), StoreError> {
        // First, so that no run is planned without what is to be heeded.
        let damaged_sets = self.recover_sets().await?;
        let claimed = self.0.options.conductor.claim_unfinished().await?;
        let count = claimed.runs.len();
        for record in claimed.runs {
            self.drive(record);
        }
        let runs = claimed.damaged.into_iter().map(|(run, why)| (format!("run {run}"), why));
        Ok((count, runs.chain(damaged_sets).collect()))
    }

    /// Wants something under an id of its own; the run goes on whether or not the handle is kept.
    pub async fn ensure(&self, want: Want) -> Result<RunHandle, SubmitError> {
        self.submit(NewRun::new(RunId(Uuid::now_v7()), want)).await
    }

    /// Wants something under the caller's id: asking twice is asking once. The run is stored when
    /// this returns.
    pub async fn submit(&self, asked: NewRun) -> Result<RunHandle, SubmitError> {
        self.submit_by(asked, Behalf::default()).await
    }

    /// The same for what a plan of ours has found, for something that matters so much. What is expected does not object:
    /// the plan has heeded it, and one that steps aside for a moment may leave where it is expected.
    pub(crate) async fn submit_found(
        &self,
        asked: NewRun,
        level: Level,
    ) -> Result<RunHandle, SubmitError> {
        self.submit_by(asked, Behalf { level: Some(level), tenant: None }).await
    }

    /// The same for a user of this tenant: it is done to that tenant's jobs alone, whatever becomes of names
    /// until it is planned. So many of a tenant's may be open that the others' go on.
    pub async fn submit_for(
        &self,
        tenant: TenantId,
        asked: NewRun,
    ) -> Result<RunHandle, SubmitError> {
        let is_known = self.open().contains_key(&asked.id);
        let is_of = |open: &&Open| open.tenant.as_ref() == Some(&tenant);
        let count = self.open().values().filter(is_of).count();
        if !is_known && count >= RUNS_OF_TENANT_MAX {
            return Err(SubmitError::TooManyOfTenant { tenant });
        }
        self.submit_by(asked, Behalf { tenant: Some(tenant), level: None }).await
    }

    async fn submit_by(&self, asked: NewRun, behalf: Behalf) -> Result<RunHandle, SubmitError> {
        if let Want::Run { spec, .. } | Want::Spend { spec, .. } | Want::FailOver { spec, .. } =
            &asked.want
        {
            spec.validate().map_err(|error| SubmitError::Invalid(error.to_string()))?;
        }
        let may_make_room = matches!(asked.want, Want::Run { .. } | Want::Resize { .. });
        if asked.make_room && !may_make_room {
            let message = "room is made only for a job that is to run, or to grow";
            return Err(SubmitError::Invalid(message.to_owned()));
        }
        if matches!(&asked.want, Want::Resize { size, .. } if size.is_empty()) {
            let message = "nothing is to change: name vcpus, memory_bytes or disks";
            return Err(SubmitError::Invalid(message.to_owned()));
        }
        if let Want::Migrate { pace, .. } = &asked.want {
            pace.check().map_err(SubmitError::Invalid)?;
        }
        if behalf.level.is_none()
            && let Some(why) = self.objection(&asked.want)
        {
            return Err(SubmitError::Expected(why));
        }
        let is_known = self.open().contains_key(&asked.id);
        if !is_known && self.open().len() >= RUNS_OPEN_MAX {
            return Err(SubmitError::TooMany);
        }
        let record = RunRecord::new(asked, self.0.options.clock.now().wall_ms);
        let Behalf { tenant, level } = behalf;
        let record = RunRecord { tenant, level, ..record };
        let accepting = Arc::clone(&self.0.accepting).read_owned().await;
        let scheduler = self.clone();
        let accept = async move {
            let _until_driven = accepting;
            scheduler.accept(record).await
        };
        // Goes on though whoever asked has gone: a run that is stored and not driven never ends, and nobody
        // else may change its job.
        let accepted = tokio::spawn(accept.in_current_span()).await;
        accepted.unwrap_or_else(|error| {
            let (tried, why) = ("accept a run", error.to_string());
            Err(StoreError::Broken { tried, why }.into())
        })
    }

    /// Stores a run, and drives it.
    async fn accept(&self, record: RunRecord) -> Result<RunHandle, SubmitError> {
        let (id, job) = (record.id, record.job().clone());
        match self.0.options.conductor.accept(record.clone()).await? {
            Acceptance::Accepted => {
                // What makes room for another has not been stopped for its own sake.
                if let Want::Stop { job, lets: None, .. } = &record.want {
                    self.note_stop(job).await;
                }
                Ok(self.drive(record))
            }
            Acceptance::AlreadySo(record) => {
                let known = self.open().get(&id).map(|open| open.status.clone());
                let status = known.unwrap_or_else(|| fixed(record.status()));
                Ok(self.handle(status))
            }
            Acceptance::OtherWant => Err(SubmitError::OtherWant(id)),
            Acceptance::JobBusy { run } => Err(SubmitError::JobBusy { job, run }),
        }
    }

    /// A run by its id, also one that has ended.
    pub async fn find(&self, id: RunId) -> Result<Option<RunHandle>, StoreError> {
        if let Some(Open { status, .. }) = self.open().get(&id).cloned() {
            return Ok(Some(self.handle(status)));
        }
        let record = self.0.options.conductor.load(id).await?;
        Ok(record.map(|record| self.handle(fixed(record.status()))))
    }

    /// Has a run turn back: what it has done is undone, and it ends. That is stored when this returns.
    /// One that has ended stays as it is.
    pub async fn cancel(&self, id: RunId) -> Result<RunHandle, CancelError> {
        // One that is being accepted is there then.
        drop(self.0.accepting.write().await);
        let open = self.open().get(&id).cloned();
        if let Some(Open { status, cancels, .. }) = open {
            let (sender, answer) = oneshot::channel();
            // Both fail only for a run that has ended meanwhile.
            if cancels.send(sender).await.is_ok()
                && let Ok(answer) = answer.await
            {
                let past_return = |why| CancelError::PastReturn { run: id, why };
                return answer.map(|()| self.handle(status)).map_err(past_return);
            }
        }
        self.find(id).await?.ok_or(CancelError::NoSuchRun(id))
    }

    /// Runs: first those under way, with what they wait for, then the others; of each the newest first.
    pub async fn list(&self, max: usize) -> Result<Vec<RunStatus>, StoreError> {
        let records = self.0.options.conductor.list(max).await?;
        let open = self.open();
        let current = |record: RunRecord| match open.get(&record.id) {
            Some(open) => RunStatus::clone(&open.status.borrow()),
            None => record.status(),
        };
        Ok(records.into_iter().map(current).collect())
    }

    pub(crate) fn options(&self) -> &Options {
        &self.0.options
    }

    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.0.shutdown
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.0.options.clock.now().mono_ms
    }

    /// The view as it is now, without the hosts that the operator has retired: a monitor may obey an
    /// older trust document than this engine. Hosts that are asleep are in it, whether or not a monitor has ever heard
    /// of them.
    #[must_use]
    pub fn picture(&self) -> Arc<Picture> {
        self.0.picture()
    }

    /// What the runs that have not ended want.
    pub(crate) fn open_wants(&self) -> Vec<Want> {
        self.open().values().map(|open| open.status.borrow().want.clone()).collect()
    }

    /// The runs that have not ended.
    pub(crate) fn open_runs(&self) -> Vec<Arc<RunStatus>> {
        self.open().values().map(|open| open.status.borrow().clone()).collect()
    }

    /// See [`Inner::shards`].
    pub(crate) fn shards(&self) -> Shards {
        self.0.shards()
    }

    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.0.policy()
    }

    pub(crate) fn terms(&self) -> Option<Terms> {
        self.0.terms()
    }

    /// What it has done, and how things stand.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let mut open = BTreeMap::new();
        for run in self.open_runs() {
            *open.entry((run.want.as_str(), run.state.as_str())).or_default() += 1;
        }
        let (counts, kept) = (self.tally().read(), self.kept_figures());
        let asleep = self.asleep().sleepers();
        let is_asleep = |host: &HostId| asleep.contains_key(host);
        let figures = Figures { counts, open, kept, ..Figures::default() };
        figures.seen(self.now_ms(), &self.picture(), is_asleep)
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.0.tally
    }

    pub(crate) fn keeping(&self) -> &Keeping {
        &self.0.keeping
    }

    pub(crate) fn asleep(&self) -> &Asleep {
        &self.0.asleep
    }

    /// The turn to plan; `None` when the engine is ending.
    pub(crate) async fn planning_turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.planning).acquire_owned().await.ok()
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<RunId, Open>> {
        self.0.open.lock().expect("no holder of this lock panics")
    }

    fn drive(&self, record: RunRecord) -> RunHandle {
        let id = record.id;
        let (publish, status) = watch::channel(Arc::new(record.status()));
        let (cancels, cancelled) = mpsc::channel(CANCELS_MAX);
        let tenant = record.tenant.clone();
        self.open().insert(id, Open { tenant, status: status.clone(), cancels });
        let driver = Driver {
            inner: Arc::clone(&self.0),
            run: Run::new(record),
            publish,
            cancelled,
            cancels: Vec::new(),
            flight: None,
            wake_at_ms: None,
        };
        let span = span_of(driver.run.record());
        let scheduler = self.clone();
        let drive = async move {
            let shutdown = scheduler.0.shutdown.clone();
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = driver.go() => {}
            }
            scheduler.knowledge().release(id);
            scheduler.open().remove(&id);
        };
        tokio::spawn(drive.instrument(span));
        self.handle(status)
    }

    fn handle(&self, status: watch::Receiver<Arc<RunStatus>>) -> RunHandle {
        RunHandle { status, shutdown: self.0.shutdown.clone() }
    }

    pub(crate) fn knowledge(&self) -> MutexGuard<'_, Knowledge> {
        self.0.knowledge.lock().expect("no holder of this lock panics")
    }
}

fn fixed(status: RunStatus) -> watch::Receiver<Arc<RunStatus>> {
    watch::channel(Arc::new(status)).1
}

impl RunHandle {
    /// How it is going.
    #[must_use]
    pub fn status(&self) -> Arc<RunStatus> {
        self.status.borrow().clone()
    }

    /// Waits until it has ended, or until its engine stops.
    pub async fn ended(&mut self) -> Arc<RunStatus> {
        let _ = self.status.wait_for(|status| status.state.is_ended()).await;
        self.status()
    }

    /// Waits until something about it has changed, it has ended, the time is over, or its engine stops.
    pub async fn changed(&mut self, wait_ms: u64) -> Arc<RunStatus> {
        let before = self.status();
        if !before.state.is_ended() {
            let wait = Duration::from_millis(wait_ms.min(WAIT_MS_MAX));
            let changed = async {
                if self.status.wait_for(|status| *status != before).await.is_err() {
                    // Nobody drives it here. Whoever asks again at each answer is not to ask without a pause.
                    self.shutdown.cancelled().await;
                }
            };
            let _ = timeout(wait, changed).await;
        }
        self.status()
    }
}

/// One run on its way.
struct Driver {
    inner: Arc<Inner>,
    run: Run,
    publish: watch::Sender<Arc<RunStatus>>,
    cancelled: mpsc::Receiver<Cancel>,
    /// Those who are answered next.
    cancels: Vec<Cancel>,
    flight: Option<Flight>,
    wake_at_ms: Option<u64>,
}

type Flight = Pin<Box<dyn Future<Output = (Dispatch, Answer)> + Send>>;

impl Driver {
    async fn go(mut self) {
        let inner = Arc::clone(&self.inner);
        // Whoever cancels does not wait for a place.
        let places = match self.run.record().because {
            Some(_) => &inner.errand_places,
            None => &inner.places,
        };
        let _place = loop {
            tokio::select! {
                place = places.acquire() => match place {
                    Ok(place) => break Some(place),
                    Err(_) => return,
                },
                Some(cancel) = self.cancelled.recv() => {
                    self.cancels.push(cancel);
                    if !self.take(Input::Cancel).await {
                        return;
                    }
                    if self.flight.is_some() {
                        break None;
                    }
                }
            }
        };
        let mut input = match self.flight {
            None => Input::Begin,
            Some(_) => Input::Tick,
        };
        while self.take(input).await {
            input = tokio::select! {
                (dispatch, answer) = landed(&mut self.flight), if self.flight.is_some() => {
                    self.flight = None;
                    inner.tally.answered(&answer);
                    let (task, direction) = (dispatch.key.task, dispatch.direction);
                    Input::Answered { task, direction, answer }
                }
                () = sleep_until(&inner, self.wake_at_ms), if self.wake_at_ms.is_some() => {
                    self.wake_at_ms = None;
                    Input::Tick
                }
                Some(cancel) = self.cancelled.recv() => {
                    self.cancels.push(cancel);
                    Input::Cancel
                }
                else => return,
            };
        }
    }

    /// Performs what comes of an input; false when there is nothing more to do.
    async fn take(&mut self, input: Input) -> bool {
        let mut inputs = vec![input];
        while let Some(next) = inputs.pop() {
            let mut effects = Vec::new();
            self.run.handle(self.now_ms(), next, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Persist(record) => {
                        if !self.persist(&record).await {
                            return false;
                        }
                    }
                    Effect::Dispatch(dispatch) => self.flight = Some(self.dispatch(*dispatch)),
                    Effect::Plan => {
                        let planned = self.plan_unless_cancelled().await;
                        self.inner.tally.planned(&planned);
                        inputs.push(planned);
                    }
                    Effect::WakeAt(at_ms) => self.wake_at_ms = Some(at_ms),
                    Effect::Publish => self.announce(),
                    Effect::AnswerCancel(answer) => {
                        for cancel in self.cancels.drain(..) {
                            // Nobody may be waiting any more.
                            let _ = cancel.send(answer);
                        }
                    }
                    Effect::End => {
                        self.announce();
                        let (run, now) = (self.run.record(), self.inner.options.clock.now());
                        let took_ms = now.wall_ms.saturating_sub(run.accepted_ms);
                        self.inner.tally.ended(&run.want, run.state, took_ms);
                        return false;
                    }
                }
            }
        }
        true
    }

    async fn plan_unless_cancelled(&mut self) -> Input {
        let plan = self.inner.plan(self.run.record()).instrument(tracing::debug_span!("plan"));
        tokio::select! {
            planned = plan => planned,
            Some(cancel) = self.cancelled.recv() => {
                self.cancels.push(cancel);
                Input::Cancel
            }
        }
    }

    /// Stores the record, however long that takes; false when the run is another engine's.
    async fn persist(&mut self, record: &RunRecord) -> bool {
        loop {
            match self.inner.options.conductor.save(record.clone()).await {
                Ok(()) => return true,
                Err(StoreError::ClaimLost { run, seen }) => {
                    tracing::warn!("run {run} is another engine's now (claim {seen})");
                    return false;
                }
                Err(error) => {
                    tracing::error!("run {}: {error}; nothing more is begun", record.id);
                    let mut status = self.run.status();
                    status.reason = Some(format!("waiting: {error}"));
                    self.publish.send_replace(Arc::new(status));
                    tokio::time::sleep(STORE_RETRY).await;
                }
            }
        }
    }

    fn dispatch(&self, dispatch: Dispatch) -> Flight {
        let scheduler = Scheduler(Arc::clone(&self.inner));
        let span = self.span_of(&dispatch);
        let perform = async move {
            let own = match scheduler.run_errand(&dispatch).await {
                Some(answer) => Some(answer),
                None => scheduler.run_waking(&dispatch).await,
            };
            let answer = match own {
                Some(answer) => answer,
                None => scheduler.0.executor.perform(dispatch.clone()).await,
            };
            (dispatch, answer)
        };
        Box::pin(perform.instrument(span))
    }

    fn span_of(&self, dispatch: &Dispatch) -> Span {
        let task = &self.run.record().tasks[dispatch.key.task as usize];
        let undo = match dispatch.direction {
            Direction::Do => "",
            Direction::Undo => "undo: ",
        };
        let title = || task.kind.title(&dispatch.job);
        tracing::debug_span!("task", otel.name = format!("{undo}{}", title()), job = %dispatch.job)
    }

    fn announce(&self) {
        self.publish.send_replace(Arc::new(self.run.status()));
    }

    fn now_ms(&self) -> u64 {
        self.inner.options.clock.now().mono_ms
    }
}

async fn sleep_until(inner: &Inner, at_ms: Option<u64>) {
    let now_ms = inner.options.clock.now().mono_ms;
    let pause = at_ms.unwrap_or(0).saturating_sub(now_ms);
    tokio::time::sleep(Duration::from_millis(pause)).await;
}

/// From a run's beginning to its end. Whoever asked for it has long been answered: it goes on in the
/// trace of that request, and begins one of its own when it is nobody's.
fn span_of(run: &RunRecord) -> Span {
    let (want, job) = (run.want.as_str(), run.want.job());
    let name = format_args!("run: {want}");
    let span = tracing::debug_span!(
        parent: None, "run", otel.name = %name, id = %run.id, want, %job, begins_trace = true,
    );
    if let Some(place) = traces::here() {
        place.takes(&span);
    }
    span
}

/// A key as a number that is the same for everybody.
fn number(key: &PublicKey) -> u64 {
    key.as_bytes().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A plan with what its tasks must know of the job.
fn planned(job: &JobId, has_trust: bool, input: &PlanInput, outcome: Outcome) -> Input {
    let state = State::new(input);
    let at = Circumstances::of(&state, job, has_trust);
    let met_at = met_at(input, &outcome, &state);
    Input::Planned { outcome: Box::new(outcome), at, met_at }
}

async fn landed(flight: &mut Option<Flight>) -> (Dispatch, Answer) {
    match flight {
        Some(flight) => flight.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
