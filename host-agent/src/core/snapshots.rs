//! Snapshots of a job's disks: which may be taken, gone back to and deleted, and what came of it.
//!
//! ```text
//!   (none) ──take──▶ taking ──▶ ready ──revert──▶ reverting ──▶ ready
//!                      │          └────delete───▶ deleting ───▶ (none)
//!                      └──▶ failed: no disk has it
//! ```
//!
//! The row is written first, and the room promised with it. What a life of the agent left under way is
//! done again by the next: taking finds what all disks have, reverting goes on until all disks are what
//! they were, and the job does not start before. One thing is under way for a job at a time.
//!
//! Of disks in a pool the list is beside them, and they may be somebody else's by now: the row is what
//! this host was told when it took them, and has none any more when it is told that they are another's.

use protocol::admission::{Room, admit_in_pool};
use protocol::api::RevertJob;
use protocol::id::{JobId, PoolName, Revision, SnapshotName};
use protocol::job::{Job, JobState, Reason, SNAPSHOTS_MAX, Snapshot, SnapshotStage};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::vm::VmSpec;
use serde::{Deserialize, Serialize};
use transport::clock::Now;

use super::agent::Agent;
use super::input::{Effect, Measured, Reply, SnapshotAct, Work, WorkOutcome};
use super::ledger::{Intent, JobRecord};
use super::resizing::{check_devices_are_there, is_changing};

/// How long a snapshot takes as a rule, for whoever asks for the next one meanwhile.
const RETRY_MS: u64 = 500;

/// The last time that a job's disks were made what they were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRevert {
    /// Which change of the job that was.
    pub revision: Revision,
    /// To which snapshot.
    pub to: SnapshotName,
}

impl Agent {
    /// Takes a snapshot of disks that were just measured.
    pub(super) fn take_snapshot(
        &mut self,
        now: Now,
        id: &JobId,
        name: SnapshotName,
        measured: Measured,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let record = self.record(id)?;
        check_kind(&record.job)?;
        match record.job.snapshot(&name).map(|snapshot| snapshot.stage) {
            Some(SnapshotStage::Taking | SnapshotStage::Ready | SnapshotStage::Reverting) => {
                return Ok(Reply::AlreadySo(Box::new(record.job.clone())));
            }
            None | Some(SnapshotStage::Failed | SnapshotStage::Deleting) => {}
        }
        check_quiet(&record.job)?;
        check_state(record)?;
        if let Some(needed) = unfit_to_take(&record.job) {
            return Err(wrong_state(&record.job, needed));
        }
        let mut record = record.clone();
        let before = record.job.snapshot_bytes();
        let taking = Snapshot {
            name: name.clone(),
            stage: SnapshotStage::Taking,
            why: None,
            taken_ms: None,
            size_bytes: measured.held_bytes,
            promised_bytes: 0,
        };
        let others = record.job.snapshots.iter().filter(|snapshot| snapshot.name != name);
        record.job.snapshots = others.cloned().chain([taking]).collect();
        record.job.promise_snapshots(measured.took_bytes);
        let more_bytes = record.job.snapshot_bytes().saturating_sub(before);
        self.check_room_to_keep(&record.job, more_bytes)?;
        self.begin_snapshot(now, record, out)
    }

    /// Whether there is room for what a snapshot more can keep, where the disks are.
    fn check_room_to_keep(&self, job: &Job, more_bytes: u64) -> Result<(), Refusal> {
        let pools = self.pools_without(None);
        let room = Room { pools: &pools, ..self.room() };
        if let Some(pool) = job.spec.as_vm().and_then(VmSpec::sole_pool) {
            return admit_in_pool(room, pool, more_bytes);
        }
        let asked = Resources { disk_bytes: more_bytes, ..Resources::ZERO };
        let free = room.capacity.minus(self.allocation());
        match asked.fits_in(free) {
            true => Ok(()),
            false => Err(Refusal::NoCapacity { asked, free, capacity: room.capacity }),
        }
    }

    /// What is written beside a job's volumes in a pool, when they were just taken. What nobody wrote there
    /// yet of what was asked of this host is still to be done.
    pub(super) fn handle_snapshots(
        &mut self,
        now: Now,
        id: &JobId,
        mut told: Vec<Snapshot>,
        out: &mut Vec<Effect>,
    ) {
        let Ok(record) = self.record(id) else { return };
        let mut record = record.clone();
        for asked in &record.job.snapshots {
            let at = told.iter().position(|snapshot| snapshot.name == asked.name);
            match (asked.stage, at) {
                (SnapshotStage::Taking | SnapshotStage::Failed, None) => told.push(asked.clone()),
                (SnapshotStage::Deleting, Some(at)) => told[at].stage = SnapshotStage::Deleting,
                _ => {}
            }
        }
        if record.stay.is_none() || told[..] == record.job.snapshots[..] {
            return;
        }
        record.job.snapshots = told.into();
        // What is under way was begun, by whoever wrote it there.
        self.jobs.change(id, |entry| entry.is_snapshot_tried = true);
        self.insert(now, record, out);
    }

    /// Makes a job's disks what they were. A second request while the first fails may name another
    /// snapshot.
    pub(super) fn revert(
        &mut self,
        now: Now,
        id: &JobId,
        name: &SnapshotName,
        revert: &RevertJob,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let record = self.record(id)?;
        let last = LastRevert { revision: revert.revision, to: name.clone() };
        if record.job.revision == revert.revision && record.last_revert.as_deref() == Some(&last) {
            return Ok(Reply::AlreadySo(Box::new(record.job.clone())));
        }
        if revert.revision <= record.job.revision {
            return Err(Refusal::RevisionConflict {
                job: id.clone(),
                current: record.job.revision,
            });
        }
        check_kind(&record.job)?;
        match known(&record.job, name)?.stage {
            SnapshotStage::Ready | SnapshotStage::Reverting => {}
            SnapshotStage::Taking | SnapshotStage::Deleting => return Err(busy(&record.job)),
            SnapshotStage::Failed => return Err(no_such(&record.job, name)),
        }
        check_state(record)?;
        if let Some(needed) = unfit_to_revert(&record.job) {
            return Err(wrong_state(&record.job, needed));
        }
        let is_at_work = self.jobs.get(id).is_some_and(|entry| entry.work.is_some());
        let is_reverting = |snapshot: &Snapshot| snapshot.stage == SnapshotStage::Reverting;
        match record.job.snapshot_under_way() {
            Some(other) if is_at_work || !is_reverting(other) => return Err(busy(&record.job)),
            _ => check_settled(&record.job)?,
        }
        self.check_nothing_read(&record.job)?;
        let mut record = record.clone();
        record.job.revision = revert.revision;
        record.last_revert = Some(Box::new(last));
        for snapshot in &mut record.job.snapshots {
            if snapshot.stage == SnapshotStage::Reverting {
                snapshot.stage = SnapshotStage::Ready;
            }
        }
        set_stage(&mut record.job, name, SnapshotStage::Reverting);
        self.offers.end_of_job(id);
        self.begin_snapshot(now, record, out)
    }

    pub(super) fn delete_snapshot(
        &mut self,
        now: Now,
        id: &JobId,
        name: &SnapshotName,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let record = self.record(id)?;
        check_kind(&record.job)?;
        let stage = known(&record.job, name)?.stage;
        if stage == SnapshotStage::Deleting {
            return Ok(Reply::AlreadySo(Box::new(record.job.clone())));
        }
        check_quiet(&record.job)?;
        check_state(record)?;
        self.check_unread(&record.job, name)?;
        let mut record = record.clone();
        if stage == SnapshotStage::Failed {
            forget(&mut record.job, name);
            let job = record.job.clone();
            self.insert(now, record, out);
            return Ok(Reply::Accepted(Box::new(job)));
        }
        set_stage(&mut record.job, name, SnapshotStage::Deleting);
        self.begin_snapshot(now, record, out)
    }

    fn begin_snapshot(
        &mut self,
        now: Now,
        record: JobRecord,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let id = record.job.id.clone();
        self.jobs.change(&id, |entry| entry.is_snapshot_tried = false);
        self.insert(now, record, out);
        self.go_on(now, &id, out);
        Ok(Reply::Accepted(Box::new(self.record(&id)?.job.clone())))
    }

    /// What the end of such work means. Only a taking or reverting that has surely changed nothing is
    /// given up; everything else is done again until it is done.
    pub(super) fn conclude_snapshot(
        &mut self,
        now: Now,
        mut record: JobRecord,
        outcome: WorkOutcome,
        out: &mut Vec<Effect>,
    ) {
        let before = record.job.snapshots.clone();
        if outcome == WorkOutcome::NotThere {
            // They are another host's by now, and so is what they were.
            record.job.snapshots = Box::default();
            return self.insert(now, record, out);
        }
        let Some(at) = record.job.snapshots.iter().position(Snapshot::is_under_way) else { return };
        // Of what all of them can keep, those that are left can keep no more.
        let mut at_most_bytes = record.job.snapshot_bytes();
        let snapshot = &mut record.job.snapshots[at];
        match (snapshot.stage, outcome) {
            (SnapshotStage::Taking, WorkOutcome::Snapshotted { taken_ms, measured }) => {
                (snapshot.stage, snapshot.why) = (SnapshotStage::Ready, None);
                (snapshot.taken_ms, snapshot.size_bytes) = (Some(taken_ms), measured.held_bytes);
                at_most_bytes = measured.took_bytes;
            }
            (SnapshotStage::Taking, WorkOutcome::Failed(message)) => {
                snapshot.stage = SnapshotStage::Failed;
                (snapshot.why, snapshot.size_bytes) = (Some(message), 0);
            }
            (SnapshotStage::Reverting, WorkOutcome::Done) => {
                (snapshot.stage, snapshot.why) = (SnapshotStage::Ready, None);
            }
            (SnapshotStage::Reverting, WorkOutcome::Failed(message)) => {
                (snapshot.stage, snapshot.why) = (SnapshotStage::Ready, Some(message));
            }
            (SnapshotStage::Deleting, WorkOutcome::Done) => {
                let name = snapshot.name.clone();
                forget(&mut record.job, &name);
            }
            (_, WorkOutcome::Failed(message) | WorkOutcome::Unclear(message)) => {
                snapshot.why = Some(message);
            }
            _ => {}
        }
        record.job.promise_snapshots(at_most_bytes);
        if record.job.snapshots != before {
            self.insert(now, record, out);
        }
    }
}

/// What is to be done for a snapshot that is under way. Disks are made what they were only while nobody
/// uses them.
pub(super) fn work_of_snapshot(job: &Job, vm: &VmSpec, is_again: bool) -> Option<Work> {
    let snapshot = job.snapshot_under_way()?;
    let act = match snapshot.stage {
        SnapshotStage::Taking => SnapshotAct::Take,
        SnapshotStage::Reverting if job.state.is_ended() => SnapshotAct::Revert,
        SnapshotStage::Deleting => SnapshotAct::Delete,
        SnapshotStage::Reverting | SnapshotStage::Ready | SnapshotStage::Failed => return None,
    };
    Some(Work::SnapshotVm { vm: vm.clone(), name: snapshot.name.clone(), act, is_again })
}

/// Refuses to start a job whose disks are between what they are and what they were.
pub(super) fn check_not_reverting(job: &Job) -> Result<(), Refusal> {
    match job.snapshot_under_way() {
        Some(Snapshot { name, stage: SnapshotStage::Reverting, why, .. }) => {
            let why = why.as_ref().map_or(String::new(), |why| format!(" ({why})"));
            let needed = format!(
                "its disks are being made what they were in snapshot {name}{why}: wait until they are"
            );
            Err(wrong_state(job, &needed))
        }
        _ => Ok(()),
    }
}

/// Whether its disks are of a kind that has snapshots.
pub(super) fn check_kind(job: &Job) -> Result<(), Refusal> {
    let invalid = |message: String| Err(Refusal::Invalid { message });
    let Some(vm) = job.spec.as_vm() else {
        return invalid(format!("job {} is no VM, and has no disks", job.id));
    };
    if job.spec.as_one_off().is_some() {
        return invalid(format!(
            "one-off job {} is not started again: keep what it began from as an image",
            job.id
        ));
    }
    let what = "take snapshots of these disks".to_owned();
    if vm.adopted.is_some() {
        let why =
            "they are the adopted VM's own, and are left alone: `virsh snapshot-create` does it"
                .to_owned();
        return Err(Refusal::Unsupported { what, why });
    }
    if vm.disks.is_empty() {
        return invalid(format!("job {} has no disks", job.id));
    }
    let pools: Vec<&str> = vm.bytes_by_pool().into_keys().map(PoolName::as_str).collect();
    if !pools.is_empty() && vm.sole_pool().is_none() {
        let own = if vm.is_in_pools() { "" } else { ", others in their host's own folder" };
        let why = format!(
            "some are in {}{own}, and a snapshot is of all of a VM's disks, which are to be in one place",
            pools.join(", ")
        );
        return Err(Refusal::Unsupported { what, why });
    }
    Ok(())
}

/// Whether it is alive or has ended, and is to stay here.
fn check_state(record: &JobRecord) -> Result<(), Refusal> {
    let job = &record.job;
    let needed = match (job.state, &record.intent) {
        (_, Intent::Delete | Intent::Release) => "it is being given up",
        (JobState::Running | JobState::Paused, _) => return Ok(()),
        (state, _) if state.is_ended() => return Ok(()),
        _ => "wait until it runs, or has ended",
    };
    Err(wrong_state(job, needed))
}

fn unfit_to_take(job: &Job) -> Option<&'static str> {
    match &job.reason {
        Some(Reason::Migrated { .. }) if job.state.is_ended() => {
            Some("it has moved away: take a snapshot of it where it is")
        }
        _ if job.state.is_ended() && !job.keeps_disks() => {
            Some("it has never run, and has no disks yet: start it first")
        }
        _ if job.kept_snapshots().count() >= SNAPSHOTS_MAX => {
            Some("it has as many snapshots as it may have: delete one first")
        }
        _ => None,
    }
}

fn unfit_to_revert(job: &Job) -> Option<&'static str> {
    match &job.reason {
        _ if !job.state.is_ended() => Some("stop it before its disks are made what they were"),
        Some(Reason::Saved) => Some(
            "its memory is saved, and fits its disks as they are: start it, stop it, and revert then",
        ),
        Some(Reason::Migrated { .. }) => Some("it has moved away"),
        _ => None,
    }
}

/// Nothing else of this kind is under way.
pub(super) fn check_quiet(job: &Job) -> Result<(), Refusal> {
    if job.snapshot_under_way().is_some() {
        return Err(busy(job));
    }
    check_devices_are_there(job)?;
    check_settled(job)
}

fn check_settled(job: &Job) -> Result<(), Refusal> {
    if is_changing(job) { Err(busy(job)) } else { Ok(()) }
}

pub(super) fn known<'a>(job: &'a Job, name: &SnapshotName) -> Result<&'a Snapshot, Refusal> {
    job.snapshot(name).ok_or_else(|| no_such(job, name))
}

pub(super) fn no_such(job: &Job, name: &SnapshotName) -> Refusal {
    let has = job.kept_snapshots().map(|snapshot| snapshot.name.clone()).collect();
    Refusal::NoSuchSnapshot { job: job.id.clone(), snapshot: name.clone(), has }
}

fn wrong_state(job: &Job, needed: &str) -> Refusal {
    Refusal::WrongState { job: job.id.clone(), state: job.state, needed: needed.to_owned() }
}

pub(super) fn busy(job: &Job) -> Refusal {
    let doing = job.snapshot_words().unwrap_or_else(|| "changing its size".to_owned());
    let what = format!("{doing} of job {}", job.id);
    Refusal::Busy { what, limit: 1, retry_after_ms: RETRY_MS }
}

fn set_stage(job: &mut Job, name: &SnapshotName, stage: SnapshotStage) {
    if let Some(snapshot) = job.snapshots.iter_mut().find(|snapshot| snapshot.name == *name) {
        (snapshot.stage, snapshot.why) = (stage, None);
    }
}

fn forget(job: &mut Job, name: &SnapshotName) {
    let others = job.snapshots.iter().filter(|snapshot| snapshot.name != *name);
    job.snapshots = others.cloned().collect();
}
