//! Reading a snapshot while an image is made of it.
//!
//! Nothing changes what a snapshot keeps while there is the snapshot, so its reader goes on whatever
//! becomes of the job: it is started, stopped, reverted, even deleted, which leaves the file to whoever
//! has it open. Only the snapshot's own deletion would give its blocks to others: it waits. Readers are
//! remembered in memory alone; a life of the agent that ends ends what it read for.
//!
//! Whether disks in a pool were this host's all the time is seen from what lies beside them, by the shell.

use protocol::id::{JobId, SnapshotName};
use protocol::job::{Job, SnapshotStage};
use protocol::refusal::Refusal;

use super::agent::Agent;
use super::input::Reply;
use super::snapshots::{busy, check_kind, known, no_such};

/// How long whoever is to wait for the end of it may wait before asking again.
const RETRY_MS: u64 = 5_000;

impl Agent {
    /// From now on the snapshot stays, until it is read no more.
    pub(super) fn read_snapshot(
        &mut self,
        id: &JobId,
        name: &SnapshotName,
    ) -> Result<Reply, Refusal> {
        let job = &self.record(id)?.job;
        check_kind(job)?;
        match known(job, name)?.stage {
            SnapshotStage::Ready | SnapshotStage::Reverting => {}
            SnapshotStage::Taking => return Err(busy(job)),
            SnapshotStage::Failed | SnapshotStage::Deleting => return Err(no_such(job, name)),
        }
        let vm = job.spec.as_vm().cloned().unwrap_or_default();
        self.jobs.change(id, |entry| *entry.readings.entry(name.clone()).or_default() += 1);
        Ok(Reply::Reading { vm: Box::new(vm), turn: self.turn(id) })
    }

    /// It is read no more. Fine only if it was kept all the time: the job of this name may be another by now.
    pub(super) fn end_reading(
        &mut self,
        id: &JobId,
        name: &SnapshotName,
    ) -> Result<Reply, Refusal> {
        let was_kept = self.jobs.change(id, |entry| {
            let Some(readers) = entry.readings.get_mut(name) else { return false };
            *readers -= 1;
            if *readers == 0 {
                entry.readings.remove(name);
            }
            true
        });
        match was_kept {
            Some(true) => Ok(Reply::Done),
            Some(false) => Err(no_such(&self.record(id)?.job, name)),
            None => Err(Refusal::NoSuchJob { job: id.clone() }),
        }
    }

    /// Refuses to delete a snapshot that somebody reads.
    pub(super) fn check_unread(&self, job: &Job, name: &SnapshotName) -> Result<(), Refusal> {
        let entry = self.jobs.get(&job.id);
        match entry.and_then(|entry| entry.readings.get(name)) {
            None => Ok(()),
            Some(_) => Err(Refusal::Busy {
                what: format!("an image being made of snapshot {name} of job {}", job.id),
                limit: 1,
                retry_after_ms: RETRY_MS,
            }),
        }
    }
}
