//! What becomes of other jobs for the sake of a run, each by a run of its own: one is moved, or stopped.
//!
//! Decides under which id (one that follows from the task, so that asking again after a crash is asking once),
//! that no more moves go on than hosts bear, and what taking one back means: it turns back if it still goes on,
//! and else the job is moved to where it was, or started again, unless somebody has changed it since.

use std::sync::Arc;
use std::time::Duration;

use planner::Level;
use protocol::api::{NewRun, RunState, Want};
use protocol::id::{HostId, JobId, RunId};
use protocol::job::{Job, JobState, Reason, RunKey};
use protocol::view::Freshness;
use protocol::vm::Preemptor;
use tokio::time::Instant;
use uuid::Uuid;

use crate::drain::{ARRIVING_MAX, LEAVING_MAX};
use crate::engine::{CancelError, RunHandle, Scheduler, SubmitError};
use crate::failover::freshness_of;
use crate::run::{Answer, No};
use crate::task::{Ask, Direction, Dispatch, TaskResult};
use crate::upkeep::Open;

/// How long one dispatch watches before it reports how far things are.
const WATCH_MS: u64 = 3_000;

/// Pause before somebody who is in the way is asked after again.
const PAUSE: Duration = Duration::from_millis(500);

/// How long a guest may take to shut down that makes room for another: what a stop by hand gives it.
const GRACE_MS: u64 = 30_000;

/// What is done for the sake of another job.
struct Errand {
    want: Want,
    because: String,
}

impl Scheduler {
    /// Carries out what an executor alone cannot; `None` for anything else.
    pub(crate) async fn run_errand(&self, dispatch: &Dispatch) -> Option<Answer> {
        let key = dispatch.key;
        match dispatch.ask.clone() {
            Ask::MakeRoom { job, to, because } => {
                let errand = Errand { want: Want::migrate(job.clone(), to), because };
                let answer = self.go_on_errand(id_of(key, Direction::Do), errand).await;
                if matches!(answer, Answer::Done(_)) {
                    self.note_moved(job);
                }
                Some(answer)
            }
            Ask::GiveBack { job, from, to, because } => {
                let errand = Errand { want: Want::migrate(job, from.clone()), because };
                Some(self.give_back(key, &from, &to, errand).await)
            }
            Ask::Preempt { job, host, priority, because } => {
                let lets = Some(Preemptor { job: dispatch.job.clone(), priority });
                let want = Want::Stop { job, grace_ms: GRACE_MS, lets };
                let errand = Errand { want, because };
                Some(self.preempt(id_of(key, Direction::Do), &host, errand).await)
            }
            Ask::StartAgain { job, host, because } => {
                Some(self.start_again(key, &dispatch.job, &job, &host, because).await)
            }
            _ => None,
        }
    }

    /// Begins the run, or goes on watching it.
    async fn go_on_errand(&self, id: RunId, errand: Errand) -> Answer {
        if let Ok(Some(run)) = self.find(id).await {
            return watch(run).await;
        }
        if let Some(note) = self.too_many(&errand) {
            tokio::time::sleep(PAUSE).await;
            return Answer::NotYet { note };
        }
        let Errand { want, because } = errand;
        let job = want.job().clone();
        // Who comes back has nobody else stopped for that.
        let asked = NewRun { because: Some(because), yields: true, ..NewRun::new(id, want) };
        // Others move, stop and come back for what must be.
        match self.submit_found(asked, Level::Must).await {
            Ok(run) => watch(run).await,
            Err(SubmitError::JobBusy { run, .. }) => {
                tokio::time::sleep(PAUSE).await;
                Answer::NotYet { note: format!("{job} is being changed by run {run}") }
            }
            Err(error @ (SubmitError::TooMany | SubmitError::Store(_))) => {
                Answer::Unclear { what: error.to_string(), is_ambiguous: true }
            }
            Err(
                error @ (SubmitError::Invalid(_)
                | SubmitError::OtherWant(_)
                | SubmitError::Expected(_)
                | SubmitError::TooManyOfTenant { .. }),
            ) => Answer::Refused(No::Failed(error.to_string())),
        }
    }

    /// Takes the move from `home` to `away` back.
    async fn give_back(&self, key: RunKey, home: &HostId, away: &HostId, errand: Errand) -> Answer {
        let done = Answer::Done(TaskResult::Done);
        // Nothing is to come any more to where the guest was.
        self.knowledge().release(key.run);
        let away_id = id_of(key, Direction::Do);
        let run = match self.cancel(away_id).await {
            Ok(run) => run,
            Err(CancelError::NoSuchRun(_)) => return done,
            // It arrives first.
            Err(CancelError::PastReturn { .. }) => match self.find(away_id).await {
                Ok(Some(run)) => run,
                Ok(None) => return done,
                Err(error) => return unclear(&error),
            },
            Err(CancelError::Store(error)) => return unclear(&error),
        };
        match watch(run).await {
            Answer::Done(_) => {}
            Answer::NotYet { note } => return Answer::NotYet { note },
            // It has stayed where it was.
            _ => return done,
        }
        let picture = self.picture();
        let at = picture.view.job_best(errand.want.job());
        let at = at.map(|(row, job)| (&row.host.id, job.state));
        if at.is_some_and(|(host, state)| state.is_ended() || (host != away && host != home)) {
            return done;
        }
        self.go_on_errand(id_of(key, Direction::Undo), errand).await
    }

    /// Has a job stopped on `host`. Where it is not any more it takes nobody's room, and goes on where it is.
    async fn preempt(&self, id: RunId, host: &HostId, errand: Errand) -> Answer {
        let is_begun = matches!(self.find(id).await, Ok(Some(_)));
        let at = self.whereabouts(errand.want.job(), host);
        if !is_begun && matches!(at, Whereabouts::Away | Whereabouts::Ended(_)) {
            return Answer::Done(TaskResult::Done);
        }
        self.go_on_errand(id, errand).await
    }

    /// Starts again what was stopped on `host` so that `lets` fits. What its host says decides: a stop that was not
    /// seen to its end may have come to it.
    async fn start_again(
        &self,
        key: RunKey,
        lets: &JobId,
        job: &JobId,
        host: &HostId,
        because: String,
    ) -> Answer {
        let done = Answer::Done(TaskResult::Done);
        self.knowledge().release(key.run);
        // A stop that was asked for is not taken back: it comes to its end first.
        match self.cancel(id_of(key, Direction::Do)).await {
            Ok(_) | Err(CancelError::PastReturn { .. }) => {}
            Err(CancelError::NoSuchRun(_)) => return done,
            Err(CancelError::Store(error)) => return unclear(&error),
        }
        let stop = match self.find(id_of(key, Direction::Do)).await {
            Ok(Some(run)) => watch(run).await,
            Ok(None) => return done,
            Err(error) => return unclear(&error),
        };
        if let Answer::NotYet { note } = stop {
            return Answer::NotYet { note };
        }
        // A view may be a moment behind a stop that has come to its end.
        let until = Instant::now() + Duration::from_millis(WATCH_MS);
        let row = loop {
            match self.whereabouts(job, host) {
                Whereabouts::Away => return done,
                Whereabouts::Ended(row) => break row,
                Whereabouts::Alive if Instant::now() >= until => return done,
                Whereabouts::Alive => tokio::time::sleep(PAUSE).await,
                Whereabouts::Unclear(note) => {
                    tokio::time::sleep(PAUSE).await;
                    return Answer::Unclear { what: note, is_ambiguous: false };
                }
            }
        };
        if !matches!(&row.reason, Some(Reason::Preempted { lets: whom }) if whom == lets) {
            return done;
        }
        let (job, spec) = (job.clone(), row.spec.as_ref().clone());
        let want = Want::Run { job, spec, on: None, again: true };
        self.go_on_errand(id_of(key, Direction::Undo), Errand { want, because }).await
    }

    /// What is known of a job on a host.
    fn whereabouts(&self, job: &JobId, host: &HostId) -> Whereabouts {
        let picture = self.picture();
        let is_heard = freshness_of(picture.heard.get(host)) == Freshness::Fresh;
        let Some(row) = picture.view.host(host).filter(|_| picture.is_current && is_heard) else {
            return Whereabouts::Unclear(format!("{} is not heard now", host.short()));
        };
        match row.jobs.get(job) {
            None => Whereabouts::Away,
            Some(job) if job.state.is_ended() => Whereabouts::Ended(Arc::clone(job)),
            Some(job) if job.state == JobState::Stopping => {
                Whereabouts::Unclear(format!("{} is stopping on {}", job.id, host.short()))
            }
            Some(_) => Whereabouts::Alive,
        }
    }

    /// Why no further move is begun now from or to the same hosts.
    fn too_many(&self, errand: &Errand) -> Option<String> {
        let Want::Migrate { job, to, .. } = &errand.want else { return None };
        let picture = self.picture();
        let open = self.open_mends(&picture.view);
        let from = picture.view.job_best(job).map(|(row, _)| row.host.id.clone());
        let is_leaving = |run: &&Open| from.is_some() && run.from == from;
        let leaving = open.iter().filter(is_leaving).count();
        let arriving = open.iter().filter(|run| run.to.as_ref() == Some(to)).count();
        let words = |host: &HostId, count: usize| {
            format!("{} guests leave or reach {} already", count, host.short())
        };
        match from {
            Some(from) if leaving >= LEAVING_MAX => Some(words(&from, leaving)),
            _ => (arriving >= ARRIVING_MAX).then(|| words(to, arriving)),
        }
    }
}

/// What is known of a job on a host.
#[derive(Debug, PartialEq, Eq)]
enum Whereabouts {
    /// The host has no row of it.
    Away,
    /// It has ended there.
    Ended(Arc<Job>),
    /// It is alive there.
    Alive,
    /// Nobody can say now, in words.
    Unclear(String),
}

/// A run's end as an answer, or how far it is.
async fn watch(mut run: RunHandle) -> Answer {
    let status = run.changed(WATCH_MS).await;
    match status.state {
        RunState::Succeeded => Answer::Done(TaskResult::Done),
        RunState::RolledBack | RunState::Stuck => {
            let why = status.reason.clone().unwrap_or_else(|| "no reason was given".to_owned());
            Answer::Refused(No::Failed(format!("run {}: {why}", status.id)))
        }
        RunState::Accepted | RunState::Running | RunState::Unwinding => {
            let note = status.tasks.iter().rev().find_map(|task| task.note.clone());
            let note = note.or_else(|| status.reason.clone()).map(|note| format!(": {note}"));
            Answer::NotYet { note: format!("run {}{}", status.id, note.unwrap_or_default()) }
        }
    }
}

fn unclear(error: &crate::conductor::StoreError) -> Answer {
    Answer::Unclear { what: error.to_string(), is_ambiguous: true }
}

/// The id of the run that does or undoes a task: the same whenever it is asked for.
fn id_of(key: RunKey, direction: Direction) -> RunId {
    let is_undo = u128::from(direction == Direction::Undo);
    let number = (u128::from(key.task) + 1) << 1 | is_undo;
    RunId(Uuid::from_u128(key.run.0.as_u128() ^ number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_errand_of_a_run_has_an_id_of_its_own_whoever_drives_the_run() {
        let key = |task, claim| {
            let run = RunId(Uuid::from_u128(0x0190_0000_0000_7000_8000_1234_5678_9abc));
            RunKey { run, task, claim }
        };
        let directions = [Direction::Do, Direction::Undo];
        let mut ids: Vec<RunId> = Vec::new();
        for task in 0..100 {
            for direction in directions {
                assert_eq!(id_of(key(task, 1), direction), id_of(key(task, 2), direction));
                ids.push(id_of(key(task, 1), direction));
            }
        }
        ids.push(key(0, 1).run);
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
