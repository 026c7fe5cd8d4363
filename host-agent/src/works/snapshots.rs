//! Taking a snapshot of a VM's disks, going back to it and deleting it, by QEMU while a guest uses them.
//!
//! Of disks in a pool the list of snapshots lies beside them: it is written before anything is done and
//! after, by whoever has the disks.

use std::time::Duration;

use hypervisor::{Hypervisor, Volume};
use protocol::id::{JobId, PoolName, SnapshotName};
use protocol::job::{Snapshot, SnapshotStage, promise};
use protocol::vm::VmSpec;
use uuid::Uuid;

use super::{CALL_DEADLINE, Trouble, Works, devices_by_place};
use crate::core::{SnapshotAct, Turn, WorkOutcome};
use crate::pool::{Deed, Noted, Pool};
use crate::pools::off;
use crate::snapshots::{self, Found};

/// A snapshot inside the disks of a running guest: QEMU writes their tables, some MiB for each 100 GiB; and
/// goes through all of them to delete one.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(300);

/// A VM's disks, and which snapshot of them something is done with.
pub(super) struct Disks {
    job: JobId,
    uuid: Uuid,
    /// With the sizes that they are to have.
    sized: Vec<(Volume, u64)>,
    volumes: Vec<Volume>,
    /// As a guest that is started now has them.
    devices: Vec<String>,
    name: SnapshotName,
    tag: String,
    /// The pool that they are in, and by what right.
    in_pool: Option<(PoolName, Turn)>,
}

impl Disks {
    async fn find(&self) -> Result<Found, Trouble> {
        let (volumes, tag) = (self.volumes.clone(), self.tag.clone());
        let find = move || snapshots::find(&volumes, &tag).map_err(|error| error.to_string());
        // Whatever was done before, a look that fails says nothing of it.
        self.off(find).await.map_err(Trouble::Unclear)
    }

    async fn snapshotted(&self, taken_ms: u64) -> Result<WorkOutcome, Trouble> {
        let sized = self.sized.clone();
        let measured = self.off(move || Ok(snapshots::measure(&sized))).await;
        let measured = measured.map_err(Trouble::Unclear)?;
        Ok(WorkOutcome::Snapshotted { taken_ms, measured })
    }

    /// Looks at files, which in a pool may take as long as the pool likes.
    async fn off<T: Send + 'static>(
        &self,
        look: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        match self.in_pool {
            Some(_) => off(CALL_DEADLINE, look).await,
            None => look(),
        }
    }

    /// What is written beside them in a pool after this: the list of before, and what came of it.
    fn list_after(
        &self,
        listed: &[Snapshot],
        outcome: &Result<WorkOutcome, Trouble>,
    ) -> Vec<Snapshot> {
        let mut after = listed.to_vec();
        let kept_bytes =
            listed.iter().fold(0_u64, |sum, one| sum.saturating_add(one.promised_bytes));
        let Some(at) = after.iter().position(|snapshot| snapshot.name == self.name) else {
            return after;
        };
        let mut at_most_bytes = kept_bytes;
        match (after[at].stage, outcome) {
            (SnapshotStage::Taking, Ok(WorkOutcome::Snapshotted { taken_ms, measured })) => {
                after[at].stage = SnapshotStage::Ready;
                (after[at].taken_ms, after[at].size_bytes) = (Some(*taken_ms), measured.held_bytes);
                at_most_bytes = measured.took_bytes;
            }
            (SnapshotStage::Reverting, _) => after[at].stage = SnapshotStage::Ready,
            (SnapshotStage::Taking, _) | (SnapshotStage::Deleting, Ok(_)) => {
                after.remove(at);
            }
            // It is tried again.
            _ => {}
        }
        promise(&mut after, at_most_bytes);
        after
    }
}

impl Works {
    pub(super) fn disks(
        &self,
        job: &JobId,
        uuid: Uuid,
        vm: &VmSpec,
        name: SnapshotName,
        turn: Option<&Turn>,
    ) -> Result<Disks, Trouble> {
        let sized = self.storage.sized_volumes(job, vm);
        let sized = sized.map_err(|error| Trouble::Unclear(error.to_string()))?;
        let volumes = sized.iter().map(|(volume, _)| volume.clone()).collect();
        let devices = devices_by_place(vm);
        let (job, tag) = (job.clone(), snapshots::tag(&name));
        let in_pool = vm.sole_pool().cloned().zip(turn.cloned());
        Ok(Disks { job, uuid, sized, volumes, devices, name, tag, in_pool })
    }

    /// Does something with a snapshot. In a pool it is written beside the volumes before, if they are ours,
    /// and what came of it after: whoever takes them next finds both.
    pub(super) async fn change_snapshot(
        &self,
        disks: &Disks,
        act: SnapshotAct,
        is_again: bool,
    ) -> Result<WorkOutcome, Trouble> {
        let Some((_, turn)) = &disks.in_pool else {
            return self.do_snapshot(disks, act, is_again).await;
        };
        self.note(disks, &turn.snapshots).await?;
        let outcome = self.do_snapshot(disks, act, is_again).await;
        if matches!(outcome, Ok(_) | Err(Trouble::No(_))) {
            let after = disks.list_after(&turn.snapshots, &outcome);
            self.note(disks, &after).await.map_err(Trouble::no_longer_no)?;
        }
        outcome
    }

    async fn note(&self, disks: &Disks, snapshots: &[Snapshot]) -> Result<(), Trouble> {
        let Some((pool, turn)) = &disks.in_pool else { return Ok(()) };
        let (job, turn, snapshots) = (disks.job.clone(), turn.clone(), snapshots.to_vec());
        let note = move |pool: &Pool| pool.note(&job, &turn, &snapshots);
        match self.storage.pools().within(pool, note).await {
            Ok(Noted::Done) => Ok(()),
            Ok(Noted::Full(why)) => Err(Trouble::No(why)),
            Ok(Noted::NotOurs(why)) => Err(Trouble::NotThere(why)),
            Err(why) => Err(Trouble::Unclear(why)),
        }
    }

    async fn do_snapshot(
        &self,
        disks: &Disks,
        act: SnapshotAct,
        is_again: bool,
    ) -> Result<WorkOutcome, Trouble> {
        match act {
            SnapshotAct::Take => self.take_snapshot(disks, is_again).await,
            SnapshotAct::Revert => self.revert(disks, is_again).await.map(|()| WorkOutcome::Done),
            SnapshotAct::Delete => self.delete_snapshot(disks).await.map(|()| WorkOutcome::Done),
        }
    }

    /// The end of work, and what is written beside the volumes in a pool that it has taken. Work of which
    /// that can't be read is not over.
    pub(crate) async fn with_list(
        &self,
        job: &JobId,
        turn: Option<&Turn>,
        outcome: WorkOutcome,
    ) -> (Option<Vec<Snapshot>>, WorkOutcome) {
        match self.storage.listed_snapshots(job, turn).await {
            Ok(snapshots) => (snapshots, outcome),
            Err(error) if outcome == WorkOutcome::Done => {
                (None, WorkOutcome::Unclear(error.to_string()))
            }
            Err(_) => (None, outcome),
        }
    }

    /// Whoever uses the disks takes it: QEMU while there is a guest, else we. What the files have decides
    /// what came of it, whatever was answered.
    async fn take_snapshot(&self, disks: &Disks, is_again: bool) -> Result<WorkOutcome, Trouble> {
        self.await_late_start(&disks.job).await?;
        match disks.find().await? {
            Found::None => {}
            Found::All(taken_ms) if is_again => return disks.snapshotted(taken_ms).await,
            // Some have it, of one moment, and the others would get it of another.
            Found::Some if is_again => {
                self.delete_snapshot(disks).await.map_err(Trouble::into_unclear)?;
            }
            Found::All(_) | Found::Some => {
                let tag = &disks.tag;
                return Err(Trouble::No(format!("a disk has a snapshot {tag} of somebody else")));
            }
        }
        let taken = self.take_at_once(disks).await;
        match (disks.find().await?, taken) {
            (Found::All(taken_ms), _) => disks.snapshotted(taken_ms).await,
            (Found::None, Err(trouble)) => Err(trouble),
            (Found::Some, Err(Trouble::No(message))) => {
                self.delete_snapshot(disks).await.map_err(Trouble::into_unclear)?;
                Err(Trouble::No(message))
            }
            (Found::Some, Err(trouble)) => Err(trouble),
            (Found::None | Found::Some, Ok(())) => {
                Err(Trouble::Unclear(format!("its disks have no snapshot {}", disks.tag)))
            }
        }
    }

    async fn take_at_once(&self, disks: &Disks) -> Result<(), Trouble> {
        let Disks { uuid, volumes, devices, tag, .. } = disks;
        if !self.is_active(*uuid).await? {
            return match &disks.in_pool {
                Some(place) => self.in_pool(disks, place, Deed::Take).await,
                None => Ok(snapshots::take(volumes, tag).await?),
            };
        }
        let devices = self.devices_of(*uuid, volumes, devices).await?;
        let (uuid, tag) = (*uuid, tag.clone());
        let take = move |hv: &dyn Hypervisor| hv.snapshot(uuid, &devices, &tag);
        self.call("take snapshot", SNAPSHOT_DEADLINE, take).await
    }

    /// Nothing is changed unless all disks have it; what was begun goes on until all are what they were.
    async fn revert(&self, disks: &Disks, is_again: bool) -> Result<(), Trouble> {
        let Disks { job, uuid, sized, tag, .. } = disks;
        let no = |message: String| match is_again {
            true => Trouble::Unclear(message),
            false => Trouble::No(message),
        };
        self.await_late_start(job).await?;
        if self.is_active(*uuid).await? {
            return Err(no("its guest runs".to_owned()));
        }
        let found = disks.find().await;
        match found.map_err(|_| no("its disks can't be read".to_owned()))? {
            Found::All(_) => {}
            Found::Some | Found::None => {
                return Err(no(format!("not all of its disks have a snapshot {tag}")));
            }
        }
        if let Some(place) = &disks.in_pool {
            return self.in_pool(disks, place, Deed::Revert).await;
        }
        let reverted = snapshots::revert(sized, tag).await;
        reverted.map_err(|error| Trouble::Unclear(error.to_string()))
    }

    async fn delete_snapshot(&self, disks: &Disks) -> Result<(), Trouble> {
        let Disks { job, uuid, volumes, devices, tag, .. } = disks;
        self.await_late_start(job).await?;
        if !self.is_active(*uuid).await? {
            if let Some(place) = &disks.in_pool {
                return self.in_pool(disks, place, Deed::Delete).await;
            }
            let deleted = snapshots::delete(volumes, tag).await;
            return deleted.map_err(|error| Trouble::Unclear(error.to_string()));
        }
        let devices = self.devices_of(*uuid, volumes, devices).await?;
        let (uuid, tag) = (*uuid, tag.clone());
        let delete = move |hv: &dyn Hypervisor| hv.delete_snapshot(uuid, &devices, &tag);
        self.call("delete snapshot", SNAPSHOT_DEADLINE, delete).await
    }

    /// Does it with disks in a pool that no guest uses.
    async fn in_pool(
        &self,
        disks: &Disks,
        (pool, turn): &(PoolName, Turn),
        deed: Deed,
    ) -> Result<(), Trouble> {
        let (job, turn, name) = (disks.job.clone(), turn.clone(), disks.name.clone());
        let sized = disks.sized.clone();
        let act = move |pool: &Pool| pool.with_snapshot(&job, &turn, &sized, &name, deed);
        let done = self.storage.pools().within_for(snapshots::DEADLINE, pool, act).await;
        match done.map_err(Trouble::Unclear)? {
            // Whether a disk has it is looked at next. What else was begun goes on until it is done.
            Err(why) if deed == Deed::Take => Err(Trouble::No(why)),
            done => done.map_err(Trouble::Unclear),
        }
    }
}
