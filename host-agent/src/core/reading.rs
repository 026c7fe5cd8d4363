//! Reading a snapshot while an image is made of it.
//!
//! Nothing changes what a snapshot keeps while there is the snapshot, so its reader goes on whatever
//! becomes of the job: it is started, stopped, grown, even deleted, which leaves the file to whoever has it
//! open. Two things are otherwise. The snapshot's own deletion would give its blocks to others. And a disk that is
//! made what it was may have another size for a moment, by which a snapshot of it is read. Both wait for
//! readers, and readers for them.
//!
//! Readers are remembered in memory alone: what is read for a life of the agent is nothing to the next.
//! Whether disks in a pool were this host's all the time is seen from what lies beside them, by the shell.

use protocol::id::{JobId, SnapshotName};
use protocol::job::{Job, Snapshot, SnapshotStage};
use protocol::refusal::Refusal;
use uuid::Uuid;

use super::agent::Agent;
use super::input::Reply;
use super::snapshots::{busy, check_kind, known, no_such};

/// How long whoever is to wait for the end of it may wait before asking again.
const RETRY_MS: u64 = 5_000;

/// Somebody who reads a snapshot of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reading {
    snapshot: SnapshotName,
    /// Tells it from a later one of the same name.
    taken_ms: Option<u64>,
}

/// The snapshot, if it may be read.
pub(crate) fn readable<'a>(job: &'a Job, name: &SnapshotName) -> Result<&'a Snapshot, Refusal> {
    check_kind(job)?;
    let snapshot = known(job, name)?;
    match (snapshot.stage, job.snapshot_under_way()) {
        (_, Some(Snapshot { stage: SnapshotStage::Reverting, .. }))
        | (SnapshotStage::Taking, _) => Err(busy(job)),
        (SnapshotStage::Failed | SnapshotStage::Deleting, _) => Err(no_such(job, name)),
        (SnapshotStage::Ready | SnapshotStage::Reverting, _) => Ok(snapshot),
    }
}

impl Agent {
    /// From now on the snapshot stays, until this reader has ended.
    pub(super) fn read_snapshot(
        &mut self,
        id: &JobId,
        name: &SnapshotName,
        reader: Uuid,
    ) -> Result<Reply, Refusal> {
        let job = &self.record(id)?.job;
        let taken_ms = readable(job, name)?.taken_ms;
        let vm = job.spec.as_vm().cloned().unwrap_or_default();
        let reading = Reading { snapshot: name.clone(), taken_ms };
        self.jobs.change(id, |entry| entry.readings.insert(reader, reading));
        Ok(Reply::Reading { vm: Box::new(vm), taken_ms, turn: self.turn(id) })
    }

    /// This reader reads no more; fine when it never began. It may believe what it has read only if the
    /// snapshot was kept all the time: the job of this name may be another by now.
    pub(super) fn end_reading(&mut self, id: &JobId, reader: Uuid) -> Result<Reply, Refusal> {
        let ended = self.jobs.change(id, |entry| entry.readings.remove(&reader));
        let Some(Reading { snapshot, taken_ms }) = ended.flatten() else {
            return Err(Refusal::NoSuchJob { job: id.clone() });
        };
        let job = &self.record(id)?.job;
        match known(job, &snapshot)? {
            found if found.taken_ms == taken_ms => Ok(Reply::Done),
            _ => Err(no_such(job, &snapshot)),
        }
    }

    /// Refuses to delete a snapshot that somebody reads.
    pub(super) fn check_unread(&self, job: &Job, name: &SnapshotName) -> Result<(), Refusal> {
        let is_read = |reading: &Reading| reading.snapshot == *name;
        self.check_readings(job, is_read, || format!("snapshot {name} of job {}", job.id))
    }

    /// Refuses to make disks what they were while somebody reads any snapshot of them.
    pub(super) fn check_nothing_read(&self, job: &Job) -> Result<(), Refusal> {
        self.check_readings(job, |_| true, || format!("a snapshot of job {}", job.id))
    }

    fn check_readings(
        &self,
        job: &Job,
        is_in_the_way: impl Fn(&Reading) -> bool,
        what: impl Fn() -> String,
    ) -> Result<(), Refusal> {
        let entry = self.jobs.get(&job.id);
        if !entry.is_some_and(|entry| entry.readings.values().any(is_in_the_way)) {
            return Ok(());
        }
        Err(Refusal::Busy {
            what: format!("an image being made of {}", what()),
            limit: 1,
            retry_after_ms: RETRY_MS,
        })
    }
}
