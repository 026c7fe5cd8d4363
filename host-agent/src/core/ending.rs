//! What ends a job on request: a stop, and the delete of what is left.

use protocol::api::StopJob;
use protocol::id::JobId;
use protocol::job::{JobState, Reason, RunKey};
use protocol::refusal::Refusal;
use transport::clock::Now;

use super::agent::{Agent, UnderWay, WorkKind};
use super::claims::Deed;
use super::input::{Effect, Reply};
use super::ledger::{Intent, JobRecord};
use super::pools::deletes_shared;
use super::protecting::{check_unprotected, is_left_over};
use super::ranking::{check_preemptible, is_preempted};

impl Agent {
    pub(super) fn stop(
        &mut self,
        now: Now,
        id: &JobId,
        stop: StopJob,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let mut writes = Vec::new();
        let claimed = self.claims.check(stop.run, &mut writes);
        out.extend(writes.into_iter().map(Effect::Persist));
        claimed?;
        let mut record = self.record(id)?.clone();
        if self.claims.is_done(stop.run, Deed::Stop) {
            return Ok(Reply::AlreadySo(Box::new(record.job)));
        }
        if record.job.spec.as_budget().is_some() {
            return self.stop_budget(now, record, stop.run, out);
        }
        let job = &record.job;
        let is_over = job.state.is_ended() && !job.has_right();
        if !is_over && !matches!(record.intent, Intent::Stop { .. } | Intent::Delete) {
            check_unprotected(job, stop.run)?;
            check_preemptible(job, stop.lets.as_ref())?;
        }
        match (job.state, &record.intent) {
            (state, Intent::Release) => {
                let needed = "it is being released, and runs on: stop it with virsh".to_owned();
                return Err(Refusal::WrongState { job: id.clone(), state, needed });
            }
            // Deleting ends it too, and more; and a guest that is done has ended.
            (_, Intent::Delete | Intent::Conclude) => {
                return Ok(Reply::AlreadySo(Box::new(job.clone())));
            }
            // What has crashed may be started again under its hold (R15); whoever stops it, closes it.
            (JobState::Crashed, _) if job.has_right() => {
                record.intent = Intent::Stop { grace_ms: 0 };
                let reason = Some(Reason::Requested);
                self.remember_done(stop.run, Deed::Stop, out);
                self.become_state(now, record, JobState::Stopped, reason, out);
                return Ok(Reply::Accepted(Box::new(self.record(id)?.job.clone())));
            }
            (JobState::Stopped, _) if is_preempted(job) && stop.lets.is_none() => {
                let reason = Some(Reason::Requested);
                self.become_state(now, record, JobState::Stopped, reason, out);
                return Ok(Reply::Accepted(Box::new(self.record(id)?.job.clone())));
            }
            (state, _) if state.is_ended() => {
                return Ok(Reply::AlreadySo(Box::new(job.clone())));
            }
            // Whoever had it stopped before has not done so for another.
            (_, Intent::Stop { .. }) if stop.lets.is_some() => {
                return Ok(Reply::AlreadySo(Box::new(job.clone())));
            }
            (_, Intent::Stop { grace_ms }) if is_preempted(job) && *grace_ms <= stop.grace_ms => {
                self.remember_done(stop.run, Deed::Stop, out);
                self.note(now, record, Reason::Requested, out);
                return Ok(Reply::Accepted(Box::new(self.record(id)?.job.clone())));
            }
            // A second, more impatient stop replaces the first; an equal one changes nothing.
            (_, Intent::Stop { grace_ms }) if *grace_ms <= stop.grace_ms => {
                return Ok(Reply::AlreadySo(Box::new(job.clone())));
            }
            // The source has let go: it is ours alone, and may be stopped like any other.
            (JobState::MigratingIn, Intent::Receive { is_handed: true, .. }) => {}
            (JobState::MigratingIn | JobState::MigratingOut, _) => {
                return Err(Refusal::WrongState {
                    job: id.clone(),
                    state: job.state,
                    needed: "cancel the migration, or wait for its end".to_owned(),
                });
            }
            _ => {}
        }
        self.remember_done(stop.run, Deed::Stop, out);
        record.job.run = stop.run.or(record.job.run);
        let why = stop.lets.map_or(Reason::Requested, |lets| Reason::Preempted { lets: lets.job });
        self.begin_stop(now, record, stop.grace_ms, why, out);
        Ok(Reply::Accepted(Box::new(self.record(id)?.job.clone())))
    }

    /// Has a job end, and says why; it overtakes an earlier stop and a reboot.
    pub(super) fn begin_stop(
        &mut self,
        now: Now,
        mut record: JobRecord,
        grace_ms: u64,
        why: Reason,
        out: &mut Vec<Effect>,
    ) {
        let id = record.job.id.clone();
        record.intent = Intent::Stop { grace_ms };
        self.become_state(now, record, JobState::Stopping, Some(why), out);
        self.overtake(&id, &[WorkKind::Stop, WorkKind::Reboot]);
        self.offers.end_of_job(&id);
        self.go_on(now, &id, out);
    }

    /// Waits for such work no more, which a stop interrupts: whatever comes of it means nothing.
    pub(super) fn overtake(&mut self, id: &JobId, kinds: &[WorkKind]) {
        let goes_on = |work: &UnderWay| !kinds.contains(&work.kind);
        self.jobs.change(id, |entry| entry.work = entry.work.filter(goes_on));
    }

    pub(super) fn delete(
        &mut self,
        now: Now,
        id: &JobId,
        run: Option<RunKey>,
        shared: bool,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let mut writes = Vec::new();
        let undone = self.claims.undo(run, &mut writes);
        out.extend(writes.into_iter().map(Effect::Persist));
        undone?;
        let was_done = self.claims.is_done(run, Deed::Delete);
        if !self.jobs.contains_key(id) {
            self.remember_done(run, Deed::Delete, out);
        }
        let mut record = self.record(id)?.clone();
        let is_unhanded = matches!(record.intent, Intent::Receive { is_handed: false, .. });
        if record.intent == Intent::Delete {
            return Ok(Reply::AlreadySo(Box::new(record.job)));
        }
        if was_done {
            // What it was about is gone; this is another job of that name.
            return Err(Refusal::NoSuchJob { job: id.clone() });
        }
        if !is_unhanded && !is_left_over(&record.job) {
            check_unprotected(&record.job, run)?;
        }
        // What Ostler did not make it does not delete.
        if record.job.spec.adopted().is_some() {
            self.remember_done(run, Deed::Delete, out);
            return self.begin_release(now, record, out);
        }
        if !record.job.state.is_ended() && !is_unhanded {
            return Err(Refusal::WrongState {
                job: id.clone(),
                state: record.job.state,
                needed: "stop it before deleting it and its volumes".to_owned(),
            });
        }
        self.remember_done(run, Deed::Delete, out);
        if record.job.spec.as_budget().is_some() {
            // There is nothing of it but the row.
            self.forget(now, &record, out);
            return Ok(Reply::Accepted(Box::new(record.job)));
        }
        record.intent = Intent::Delete;
        record.deletes_shared = !is_unhanded && deletes_shared(&record, shared);
        if is_unhanded {
            record.job.migration = None;
            let reason = Some(Reason::MigrationCancelled);
            self.become_state(now, record, JobState::Stopping, reason, out);
        } else {
            self.insert(now, record, out);
        }
        self.go_on(now, id, out);
        Ok(Reply::Accepted(Box::new(self.record(id)?.job.clone())))
    }
}
