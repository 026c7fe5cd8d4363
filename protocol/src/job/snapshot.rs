//! Snapshots of a VM's disks, as its host has written them down.
//!
//! ```text
//!   (none) ──take──▶ taking ──▶ ready ──revert──▶ reverting ──▶ ready
//!                      │ ▲        └────delete───▶ deleting ───▶ (none)
//!                      ▼ │ take
//!                     failed ──delete──▶ (none)
//! ```
//!
//! Only disks are in one, all of them and of one moment; memory is not. It is kept inside the disks' own
//! files, so it lives and dies with them, and goes where the files go. In a pool the list of them is beside
//! the files ([`crate::pool::Tag`]), and a job's row says what it said when its host took them.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Job;
use crate::id::SnapshotName;
use crate::refusal::Refusal;
use crate::resources::Bytes;
use crate::vm::VmSpec;

/// Snapshots of one job: each is in the job's row, which every event about the job carries, and each
/// costs a disk a table of its own.
pub const SNAPSHOTS_MAX: usize = 32;

/// What a VM's disks were at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot {
    /// Its name, among those of the job.
    pub name: SnapshotName,
    /// How it is.
    pub stage: SnapshotStage,
    /// Why it is not what was asked for, if something has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The moment, in milliseconds since 1970 by its host's clock; for people only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_ms: Option<u64>,
    /// What the disks held then, in bytes: so much can it keep of its host's disk, beside what the disks
    /// themselves may take, when all of them is written anew.
    pub size_bytes: u64,
    /// Its part of what is promised for all of them: together they keep no more than the files of the
    /// disks took when the last one was taken.
    #[serde(default)]
    pub promised_bytes: u64,
}

/// How a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotStage {
    /// Its host is at it. Entered by a request to take it.
    Taking,
    /// The disks can be made what they were. Entered when all of them have it.
    Ready,
    /// The disks are being made what they were. Entered by a request to revert; nothing starts until it
    /// is over.
    Reverting,
    /// It is on its way out. Entered by a request to delete it.
    Deleting,
    /// There is none: no disk has it.
    Failed,
}

impl Job {
    /// The snapshot of that name.
    #[must_use]
    pub fn snapshot(&self, name: &SnapshotName) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.name == *name)
    }

    /// The one that its host is at.
    #[must_use]
    pub fn snapshot_under_way(&self) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.is_under_way())
    }

    /// Those that its disks have, or may have.
    pub fn kept_snapshots(&self) -> impl Iterator<Item = &Snapshot> {
        self.snapshots.iter().filter(|snapshot| snapshot.stage != SnapshotStage::Failed)
    }

    /// What is promised for them, by its host or by the pool of its disks.
    #[must_use]
    pub fn snapshot_bytes(&self) -> u64 {
        self.kept_snapshots().fold(0, |sum, snapshot| sum.saturating_add(snapshot.promised_bytes))
    }

    /// What its host has promised for them of its own.
    #[must_use]
    pub fn own_snapshot_bytes(&self) -> u64 {
        let is_in_pools = self.spec.as_vm().is_some_and(VmSpec::is_in_pools);
        if is_in_pools { 0 } else { self.snapshot_bytes() }
    }

    /// Promises each what it can keep, and all of them together no more than this.
    pub fn promise_snapshots(&mut self, at_most_bytes: u64) {
        promise(&mut self.snapshots, at_most_bytes);
    }

    /// Refuses what would leave the snapshots behind; `needed` says what would have worked.
    pub fn refuse_with_snapshots(&self, needed: &str) -> Result<(), Refusal> {
        let snapshots: Vec<_> = self.kept_snapshots().map(|s| s.name.clone()).collect();
        if snapshots.is_empty() {
            return Ok(());
        }
        Err(Refusal::HasSnapshots { job: self.id.clone(), snapshots, needed: needed.to_owned() })
    }

    /// What its host is at, in words: `taking snapshot before`.
    #[must_use]
    pub fn snapshot_words(&self) -> Option<String> {
        let Snapshot { name, stage, why, .. } = self.snapshot_under_way()?;
        let doing = match stage {
            SnapshotStage::Reverting => format!("reverting to snapshot {name}"),
            stage => format!("{stage} snapshot {name}"),
        };
        Some(why.as_ref().map_or(doing.clone(), |why| format!("{doing}: {why}")))
    }
}

/// Promises each what it can keep, and all of them together no more than this.
pub fn promise(snapshots: &mut [Snapshot], at_most_bytes: u64) {
    let mut left = at_most_bytes;
    for snapshot in snapshots {
        let can_keep = match snapshot.stage {
            SnapshotStage::Failed => 0,
            _ => snapshot.size_bytes,
        };
        snapshot.promised_bytes = can_keep.min(left);
        left -= snapshot.promised_bytes;
    }
}

impl Snapshot {
    /// True when its host has not come to an end with it.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        use SnapshotStage::{Deleting, Failed, Ready, Reverting, Taking};
        match self.stage {
            Taking | Reverting | Deleting => true,
            Ready | Failed => false,
        }
    }

    /// Its size in words.
    #[must_use]
    pub fn size(&self) -> Bytes {
        Bytes(self.size_bytes)
    }
}

impl fmt::Display for SnapshotStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            SnapshotStage::Taking => "taking",
            SnapshotStage::Ready => "ready",
            SnapshotStage::Reverting => "reverting",
            SnapshotStage::Deleting => "deleting",
            SnapshotStage::Failed => "failed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(stages: &[SnapshotStage]) -> Job {
        let text = r#"{"id": "web-1", "revision": 2, "state": "stopped", "since_ms": 0,
            "spec": {"vm": {"vcpus": 1, "memory_bytes": 1073741824,
                "disks": [{"name": "root", "size_bytes": 1073741824}]}}}"#;
        let job: Job = serde_json::from_str(text).expect("a row of before there were snapshots");
        let snapshot = |(at, stage): (usize, &SnapshotStage)| Snapshot {
            name: SnapshotName::new(format!("s{at}")).unwrap(),
            stage: *stage,
            why: None,
            taken_ms: None,
            size_bytes: 1 << 20,
            promised_bytes: 1 << 20,
        };
        Job { snapshots: stages.iter().enumerate().map(snapshot).collect(), ..job }
    }

    #[test]
    fn what_its_disks_keep_is_promised_also_once_it_has_ended() {
        use SnapshotStage::{Deleting, Failed, Ready, Taking};
        let kept = job(&[Ready, Failed, Taking, Deleting]);
        assert_eq!(kept.allocation().disk_bytes, (1 << 30) + (3 << 20));
        assert_eq!(kept.allocation().memory_bytes, 0);
        assert_eq!(job(&[Failed]).refuse_with_snapshots("delete them"), Ok(()));
        let refused = kept.refuse_with_snapshots("delete them").unwrap_err();
        assert_eq!(refused.to_string(), "job web-1 has snapshots (s0, s2, s3): delete them");
    }

    #[test]
    fn what_several_keep_of_the_same_is_promised_once() {
        use SnapshotStage::{Failed, Ready};
        let mut kept = job(&[Ready, Failed, Ready, Ready]);
        kept.promise_snapshots(5 << 19);
        let promised: Vec<u64> = kept.snapshots.iter().map(|one| one.promised_bytes).collect();
        assert_eq!(promised, [1 << 20, 0, 1 << 20, 1 << 19]);
        assert_eq!(kept.snapshot_bytes(), 5 << 19);
        kept.promise_snapshots(u64::MAX);
        assert_eq!(kept.snapshot_bytes(), 3 << 20);
    }

    #[test]
    fn what_its_host_is_at_is_said() {
        use SnapshotStage::{Ready, Reverting, Taking};
        assert_eq!(job(&[Ready]).snapshot_words(), None);
        assert_eq!(job(&[Ready, Taking]).snapshot_words().as_deref(), Some("taking snapshot s1"));
        let mut stuck = job(&[Reverting]);
        stuck.snapshots[0].why = Some("the disk is full".to_owned());
        let words = "reverting to snapshot s0: the disk is full";
        assert_eq!(stuck.snapshot_words().as_deref(), Some(words));
    }
}
