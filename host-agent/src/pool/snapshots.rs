//! What volumes in a pool were at some moments: the list beside them, and taking, going back and deleting
//! while no guest uses them.
//!
//! Decides that the list goes where the volumes go. What is to be done is written there before it is done, so
//! whoever takes the volumes next comes to an end with it; what came of it is in the files themselves
//! ([`crate::snapshots`]). All of it is done under the job's lock, which the `qemu-img` that does it holds as
//! well: nobody takes volumes that are half-way back.
//!
//! ```text
//!   taking: all files have it ──▶ ready        some have it ──▶ taken from those      none ──▶ (none)
//!   reverting: all files have it ──▶ made what they were ──▶ ready        deleting ──▶ deleted ──▶ (none)
//! ```

use std::fs;
use std::path::Path;
use std::process::Command;

use hypervisor::{Volume, VolumeFormat};
use protocol::id::{JobId, SnapshotName};
use protocol::job::{Snapshot, SnapshotStage};
use protocol::pool::Tag;

use super::{Lock, Pool, io_words, is_mine};
use crate::core::Turn;
use crate::qcow2;
use crate::snapshots::{self, Found};

/// What came of writing down what a job's volumes were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Noted {
    /// It is beside the volumes.
    Done,
    /// The pool has no room for what they would keep.
    Full(String),
    /// The volumes are somebody else's by now, or gone: nothing is to be done with them here.
    NotOurs(String),
}

/// What is done with one while no guest uses the volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Each volume gets it that has it not.
    Take,
    /// Each becomes what it was, in the size that it has now.
    Revert,
    /// It is taken from each that has it.
    Delete,
}

impl Pool {
    /// The list beside a job's volumes; `None` when they are not this stay's.
    pub(crate) fn snapshots(
        &self,
        job: &JobId,
        turn: &Turn,
    ) -> Result<Option<Vec<Snapshot>>, String> {
        self.check()?;
        let tag = self.tag(job)?.filter(|tag| is_mine(tag, turn));
        Ok(tag.map(|tag| tag.snapshots))
    }

    /// Writes the list beside a job's volumes, if they are this stay's and the pool has room for what they
    /// keep.
    pub(crate) fn note(
        &self,
        job: &JobId,
        turn: &Turn,
        snapshots: &[Snapshot],
    ) -> Result<Noted, String> {
        self.check()?;
        let _lock = self.lock(job.as_str())?;
        let Some(tag) = self.tag(job)? else {
            let pool = &self.name;
            return Ok(Noted::NotOurs(format!("the volumes of {job} are not in pool {pool}")));
        };
        if !is_mine(&tag, turn) {
            return Ok(Noted::NotOurs(self.used_since(&tag)));
        }
        let new = Tag { snapshots: snapshots.to_vec(), ..tag.clone() };
        let more_bytes = new.bytes().saturating_sub(tag.bytes());
        if more_bytes > 0 {
            let _all = self.lock("pool")?;
            if let Err(why) = self.check_room(job, more_bytes)? {
                return Ok(Noted::Full(why));
            }
            self.write_tag(&new)?;
        } else if new != tag {
            self.write_tag(&new)?;
        }
        Ok(Noted::Done)
    }

    /// Does something with a snapshot of volumes that no guest uses. What has come to an end and failed is
    /// the inner error.
    pub(crate) fn with_snapshot(
        &self,
        job: &JobId,
        turn: &Turn,
        sized: &[(Volume, u64)],
        name: &SnapshotName,
        deed: Deed,
    ) -> Result<Result<(), String>, String> {
        let lock = self.lock_of(job, turn)?;
        let missing = || format!("the volumes of {job} are not in pool {}", self.name);
        Ok(lock.ok_or_else(missing)?.with_snapshot(sized, name, deed))
    }

    /// Comes to an end with what the last host of a job's volumes has begun, before a guest uses them. What
    /// the files have, and an older host has left out of the list, is in it again.
    pub(crate) fn settle(
        &self,
        job: &JobId,
        turn: &Turn,
        sized: &[(Volume, u64)],
    ) -> Result<(), String> {
        self.check()?;
        let lock = self.lock(job.as_str())?;
        let Some(tag) = self.tag(job)?.filter(|tag| is_mine(tag, turn)) else { return Ok(()) };
        let volumes: Vec<Volume> = sized.iter().map(|(volume, _)| volume.clone()).collect();
        let mut kept = Vec::new();
        for snapshot in &tag.snapshots {
            let found = find(&volumes, &snapshot.name)?;
            kept.extend(lock.settled(sized, snapshot.clone(), found)?);
        }
        for name in unlisted(&volumes, &kept)? {
            let Found::All(taken_ms) = find(&volumes, &name)? else { continue };
            let size_bytes = snapshots::measure(sized).held_bytes;
            let (stage, taken_ms) = (SnapshotStage::Ready, Some(taken_ms));
            let (why, promised_bytes) = (None, 0);
            kept.push(Snapshot { name, stage, why, taken_ms, size_bytes, promised_bytes });
        }
        if kept == tag.snapshots {
            return Ok(());
        }
        self.write_tag(&Tag { snapshots: kept, ..tag })
    }
}

/// Snapshots of ours in the first of the files that are not in the list.
fn unlisted(volumes: &[Volume], listed: &[Snapshot]) -> Result<Vec<SnapshotName>, String> {
    let Some(first) = volumes.first() else { return Ok(vec![]) };
    let tagged = qcow2::snapshots(&first.path).map_err(io_words("read", &first.path))?;
    let names = tagged.iter().filter_map(|found| snapshots::name_of(&found.tag));
    Ok(names.filter(|name| !listed.iter().any(|snapshot| snapshot.name == *name)).collect())
}

fn find(volumes: &[Volume], name: &SnapshotName) -> Result<Found, String> {
    snapshots::find(volumes, &snapshots::tag(name)).map_err(|error| error.to_string())
}

impl Lock {
    /// What a snapshot is after this; `None`: there is none.
    fn settled(
        &self,
        sized: &[(Volume, u64)],
        snapshot: Snapshot,
        found: Found,
    ) -> Result<Option<Snapshot>, String> {
        let ready = |snapshot: Snapshot| {
            Some(Snapshot { stage: SnapshotStage::Ready, why: None, ..snapshot })
        };
        Ok(match (snapshot.stage, found) {
            (SnapshotStage::Taking, Found::All(taken_ms)) => {
                ready(Snapshot { taken_ms: Some(taken_ms), ..snapshot })
            }
            (SnapshotStage::Taking | SnapshotStage::Deleting, Found::Some)
            | (SnapshotStage::Deleting, Found::All(_)) => {
                self.with_snapshot(sized, &snapshot.name, Deed::Delete)?;
                None
            }
            (SnapshotStage::Reverting, Found::All(_)) => {
                self.with_snapshot(sized, &snapshot.name, Deed::Revert)?;
                ready(snapshot)
            }
            // Nothing of it was begun, or it would have been refused.
            (SnapshotStage::Reverting, _) => ready(snapshot),
            (SnapshotStage::Ready, _) => Some(snapshot),
            (SnapshotStage::Failed | SnapshotStage::Taking | SnapshotStage::Deleting, _) => None,
        })
    }

    fn with_snapshot(
        &self,
        sized: &[(Volume, u64)],
        name: &SnapshotName,
        deed: Deed,
    ) -> Result<(), String> {
        let tag = snapshots::tag(name);
        for (volume, bytes) in sized {
            let path = &volume.path;
            let tagged = qcow2::snapshots(path).map_err(io_words("read", path))?;
            let has_it = tagged.iter().any(|found| found.tag == tag);
            match deed {
                _ if volume.format != VolumeFormat::Qcow2 => {
                    return Err(format!("{}: only qcow2 has snapshots", path.display()));
                }
                Deed::Take if !has_it => self.snapshot(path, "-c", &tag)?,
                Deed::Delete if has_it => self.snapshot(path, "-d", &tag)?,
                Deed::Revert => {
                    self.snapshot(path, "-a", &tag)?;
                    // It has the size that it had then.
                    self.grow(volume, *bytes)?;
                }
                Deed::Take | Deed::Delete => {}
            }
        }
        Ok(())
    }

    fn snapshot(&self, path: &Path, what: &str, tag: &str) -> Result<(), String> {
        let mut command = Command::new("qemu-img");
        command.args(["snapshot", "-q", what, tag]).arg(path);
        self.run(command).map_err(|why| format!("qemu-img snapshot {}: {why}", path.display()))?;
        // What was done is on the disk before anybody is told.
        fs::File::open(path).and_then(|file| file.sync_all()).map_err(io_words("sync", path))
    }
}
