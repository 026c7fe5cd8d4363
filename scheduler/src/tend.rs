//! Tends hosts: looks at the view again and again, begins the moves that empty drained ones, and starts
//! elsewhere what lost ones may no longer run.
//!
//! Decides when to look: when the view has changed, a run has ended or a rest is over, but no more
//! often than is of use. What to begin is [`crate::drain`]'s and [`crate::failover`]'s; each is an ordinary
//! run, durable and undone when it fails.

use std::sync::Arc;
use std::time::Duration;

use planner::steps::MigrateVm;
use planner::{Setback, SetbackReason, State, Step};
use protocol::api::{RunState, RunStatus, Want};
use protocol::host::HostIntent;
use protocol::id::{HostId, JobId};
use protocol::ticket::{DenialReason, HoldAt};
use protocol::view::View;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use crate::drain::{Drain, Effect, Input, Open};
use crate::engine::{Scheduler, SubmitError};
use crate::failover::{Ended, FailOver, freshness_of};
use crate::follow::Picture;
use crate::record::{Cause, RunRecord};

/// Two looks are at least this far apart: a view of many hosts changes all the time.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// And this far while nothing can be begun and nothing moves: a host may stand undrained for days because of
/// one guest, and each look is a plan over all hosts.
const IDLE_INTERVAL: Duration = Duration::from_secs(2);

/// A look at least this often while a host is drained and not empty.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(10);

type Moved = (JobId, HostId, Arc<RunStatus>);

impl Scheduler {
    /// Empties drained hosts, starts elsewhere what lost ones may no longer run, and mends what is kept true
    /// ([`Scheduler::keep`]), until the scheduler's shutdown. Several schedulers may do so at the same time: the hosts and arbiters let each guest go
    /// to one host only.
    pub async fn tend_hosts(&self) {
        let kept = async { tokio::join!(self.mend_expectations(), self.gauge_guests()) };
        tokio::join!(self.empty_hosts(), self.fail_over(), kept);
    }

    /// Starts elsewhere what its host has lost, or may have lost by its silence.
    async fn fail_over(&self) {
        let mut failover = FailOver::default();
        let mut runs: JoinSet<(JobId, HoldAt, Arc<RunStatus>)> = JoinSet::new();
        let mut before: Option<Arc<Picture>> = None;
        let work = async {
            loop {
                let picture = self.picture();
                if picture.is_current {
                    failover.obey(self.options().trust.borrow().clone());
                    let freshness = |host: &HostId| freshness_of(picture.heard.get(host));
                    let last = before.as_deref().map(|before| &before.view);
                    failover.see(last, &picture.view, freshness);
                    let open: Vec<JobId> =
                        self.open_wants().iter().map(|want| want.job().clone()).collect();
                    let due = failover.due(self.now_ms(), &picture.view, freshness, &open);
                    for (want, lost) in due {
                        self.begin(&mut failover, &mut runs, want, lost).await;
                    }
                } else {
                    failover.lost_sight();
                }
                before = picture.is_current.then_some(picture);
                tokio::select! {
                    Some(ended) = runs.join_next(), if !runs.is_empty() => {
                        if let Ok((job, lost, status)) = ended {
                            let how = self.how_it_ended(&job, &status).await;
                            failover.ended(self.now_ms(), job, lost, how);
                        }
                    }
                    () = tokio::time::sleep(LOOK_INTERVAL) => {}
                }
            }
        };
        self.shutdown().run_until_cancelled(work).await;
    }

    async fn how_it_ended(&self, job: &JobId, status: &RunStatus) -> Ended {
        if status.state == RunState::Succeeded {
            return Ended::Started;
        }
        let why = status.reason.as_deref().unwrap_or("no reason was given");
        tracing::warn!("{job} was not started elsewhere: {why}");
        let record = self.options().conductor.load(status.id).await;
        let record = record.ok().flatten();
        if let Some(held) = record.as_ref().and_then(RunRecord::held_in_vain) {
            return Ended::Held(held);
        }
        let cause = record.and_then(|record| record.cause);
        let is_not_the_last =
            |(_, why): &(u32, DenialReason)| matches!(why, DenialReason::NotTheLast { .. });
        match cause {
            Some(Cause::Denied { denials }) if denials.iter().all(is_not_the_last) => {
                Ended::Superseded
            }
            _ => Ended::Failed,
        }
    }

    async fn begin(
        &self,
        failover: &mut FailOver,
        runs: &mut JoinSet<(JobId, HoldAt, Arc<RunStatus>)>,
        want: Want,
        lost: HoldAt,
    ) {
        let job = want.job().clone();
        let how = match &want {
            Want::Run { .. } => "started anew: no arbiter remembers it, and",
            _ => "started elsewhere:",
        };
        match self.ensure(want).await {
            Ok(mut run) => {
                tracing::info!("{job} is {how} {} may have lost it", lost.host.short());
                runs.spawn(async move { (job, lost, run.ended().await) });
            }
            Err(error) => {
                tracing::warn!("{job} is not {how} {error}");
                failover.ended(self.now_ms(), job, lost, Ended::Failed);
            }
        }
    }

    async fn empty_hosts(&self) {
        let mut drain = Drain::default();
        let mut moves: JoinSet<Moved> = JoinSet::new();
        let mut picture = self.options().picture.clone();
        let work = async {
            loop {
                let looked = Instant::now();
                let view = picture.borrow_and_update().clone();
                let is_work = view.is_current && has_guests_to_move(&view.view);
                if is_work {
                    self.look(&mut drain, &mut moves).await;
                }
                let is_stuck = is_work && moves.is_empty();
                let pause = if is_stuck { IDLE_INTERVAL } else { LOOK_INTERVAL };
                let due = self.due(&drain, looked);
                tokio::select! {
                    Some(ended) = moves.join_next(), if !moves.is_empty() => {
                        self.note(&mut drain, ended.ok());
                    }
                    changed = picture.changed() => if changed.is_err() { return },
                    () = sleep_until(due), if is_work => {}
                }
                sleep_until(looked + pause).await;
            }
        };
        self.shutdown().run_until_cancelled(work).await;
    }

    /// Plans, and begins what may be begun now.
    async fn look(&self, drain: &mut Drain, moves: &mut JoinSet<Moved>) {
        let now_ms = self.now_ms();
        let Some((planned, view)) = self.plan_moves(drain, now_ms).await else { return };
        let open = self.runs_on_hosts(&view);
        let mut out = Vec::new();
        drain.handle(now_ms, Input::Looked { moves: planned, open }, &mut out);
        for Effect::Move { job, to } in out {
            match self.ensure(Want::migrate(job.clone(), to.clone())).await {
                Ok(mut run) => {
                    moves.spawn(async move { (job, to, run.ended().await) });
                }
                Err(SubmitError::JobBusy { .. } | SubmitError::TooMany) => {
                    drain.handle(now_ms, Input::Busy { job }, &mut vec![]);
                }
                Err(error) => {
                    tracing::warn!("move {job} away: {error}");
                    let failure = Some(error.to_string());
                    drain.handle(now_ms, Input::Ended { job, to, failure }, &mut vec![]);
                }
            }
        }
    }

    /// The moves that would empty what is drained, by the view as it is now.
    async fn plan_moves(&self, drain: &Drain, now_ms: u64) -> Option<(Vec<MigrateVm>, View)> {
        let _turn = self.planning_turn().await?;
        let picture = self.picture();
        let failed = |(host, message): (HostId, String)| Setback {
            allocation: picture.view.host(&host).map(|row| row.host.allocation).unwrap_or_default(),
            reason: SetbackReason::Failed { message },
            host,
        };
        let setbacks = drain.shunned(now_ms).into_iter().map(failed).collect();
        let seed = self.options().seed;
        let (scheduler, shards, policy) = (self.clone(), self.shards(), self.policy());
        let planned = spawn_blocking(move || {
            let mut knowledge = scheduler.knowledge();
            knowledge.share_with(shards);
            knowledge.obey(policy);
            knowledge.count_on(scheduler.terms());
            let input = knowledge.tend_input(now_ms, &picture, setbacks, seed);
            drop(knowledge);
            let outcome = planner::plan(&input);
            let moves = outcome.plan.steps.into_iter().filter_map(|step| match step {
                Step::MigrateVm(step) => Some(step),
                Step::StartVm(_)
                | Step::StopVm(_)
                | Step::ResizeVm(_)
                | Step::DeleteVm(_)
                | Step::WakeHost(_)
                | Step::SleepHost(_) => None,
            });
            let is_drained = |step: &MigrateVm| State::new(&input).intent(&step.from).is_some();
            (moves.filter(is_drained).collect(), input.view)
        });
        match planned.await {
            Ok(planned) => Some(planned),
            Err(error) => {
                tracing::error!("plan the emptying of hosts: {error}");
                None
            }
        }
    }

    fn runs_on_hosts(&self, view: &View) -> Vec<Open> {
        let drained = |job: &JobId| {
            let is_there = |row: &&protocol::view::HostRow| {
                row.host.intent == Some(HostIntent::Drain)
                    && row.jobs.get(job).is_some_and(|job| !job.state.is_ended())
            };
            view.hosts().map(|(_, row)| row).find(is_there).map(|row| row.host.id.clone())
        };
        let open = |want: Want| Open {
            from: drained(want.job()),
            job: want.job().clone(),
            to: match want {
                Want::Migrate { to, .. } => Some(to),
                Want::Run { .. }
                | Want::Spend { .. }
                | Want::Stop { .. }
                | Want::Resize { .. }
                | Want::Delete { .. }
                | Want::FailOver { .. }
                | Want::Sleep { .. }
                | Want::Wake { .. } => None,
            },
        };
        self.open_wants().into_iter().map(open).collect()
    }

    fn note(&self, drain: &mut Drain, ended: Option<Moved>) {
        // `None`: the task that waited for it has failed, and the next look finds the guest again.
        let Some((job, to, status)) = ended else { return };
        let failure = (status.state != RunState::Succeeded).then(|| {
            let why = status.reason.clone().unwrap_or_else(|| "no reason was given".to_owned());
            tracing::warn!("{job} did not get to {}: {why}", to.short());
            why
        });
        drain.handle(self.now_ms(), Input::Ended { job, to, failure }, &mut vec![]);
    }

    fn due(&self, drain: &Drain, looked: Instant) -> Instant {
        let now_ms = self.now_ms();
        let rest = drain.due_ms(now_ms).map(|due_ms| Duration::from_millis(due_ms - now_ms));
        looked + rest.unwrap_or(LOOK_INTERVAL_MAX).min(LOOK_INTERVAL_MAX)
    }
}

/// Whether a drained host has a guest that is alive.
fn has_guests_to_move(view: &View) -> bool {
    view.hosts().any(|(_, row)| {
        row.host.intent == Some(HostIntent::Drain)
            && row.jobs.values().any(|job| !job.state.is_ended() && job.spec.as_vm().is_some())
    })
}
