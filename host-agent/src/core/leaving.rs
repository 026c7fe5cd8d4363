//! Disks and cards that a job's spec has no more, until its guest has let go of them.
//!
//! ```text
//!   resize without it ──▶ leaving ──the definition is without it──▶ asked for ──▶ (gone)
//!                            └──libvirt can't have that──▶ (stays)      ├──▶ kept, asked for again
//!                                                                       └──the guest has ended──▶ (gone)
//! ```
//!
//! A guest need not let go of anything, and may do so late. So what leaves is written down, with the room of
//! disks, before anybody is asked for it; whatever becomes of the job then, it is asked for again and again, and
//! a disk's file goes when neither the guest nor its definition has it. Until then its room is promised.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use protocol::job::{Job, JobSpec, JobState, Reason, Resize, ResizeStage};
use protocol::vm::VmSpec;
use serde::{Deserialize, Serialize};
use transport::clock::Now;

use super::agent::{Agent, Entry};
use super::input::{Effect, Work, WorkOutcome};
use super::ledger::JobRecord;
use super::resizing::as_resize;

/// How long a guest is waited for by whoever has asked for the change. Systems let go within a second or two.
const PATIENCE_MS: u64 = 10_000;
/// And when it is asked again, with nobody waiting.
const PATIENCE_AGAIN_MS: u64 = 1_000;

/// What a job loses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// Disks of the host's own by name, with the bytes that they are promised.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub disks: BTreeMap<String, u64>,
    /// Cards, by address.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub nics: BTreeSet<String>,
    /// True while the definition is what the spec says, and so without them. Before, libvirt may refuse that, and
    /// they stay.
    pub is_defined: bool,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leaver {
    /// A disk, by name.
    Disk(String),
    /// A card, by address.
    Card(String),
}

impl Leaving {
    /// What a VM loses that becomes another one, with what it was to lose already.
    pub(super) fn after(before: Option<&Self>, job: &Job, to: &JobSpec) -> Option<Box<Self>> {
        let mut leaving = before.cloned().unwrap_or_default();
        let (Some(vm), Some(to)) = (job.spec.as_vm(), to.as_vm()) else { return None };
        let domain = job.id.domain_uuid();
        let stays = |name: &str| to.disks.iter().any(|disk| disk.name == name);
        let gone = vm.disks.iter().filter(|disk| !stays(&disk.name));
        let disks: Vec<_> = gone.map(|disk| (disk.name.clone(), disk.size_bytes)).collect();
        let macs = to.macs(domain);
        let nics = vm.macs(domain).into_iter().filter(|mac| !macs.contains(mac));
        let nics: Vec<String> = nics.collect();
        leaving.is_defined = false;
        leaving.disks.extend(disks);
        leaving.nics.extend(nics);
        leaving.or_none()
    }

    /// The same without what this VM has: libvirt could not have it without, so it stays.
    pub(super) fn without(mut self, job: &Job, vm: &VmSpec) -> Option<Box<Self>> {
        let macs = vm.macs(job.id.domain_uuid());
        self.disks.retain(|name, _| vm.disks.iter().all(|disk| disk.name != *name));
        self.nics.retain(|mac| !macs.contains(mac));
        self.is_defined = true;
        self.or_none()
    }

    fn or_none(self) -> Option<Box<Self>> {
        (!(self.disks.is_empty() && self.nics.is_empty())).then(|| Box::new(self))
    }

    fn each(&self) -> Vec<Leaver> {
        let disks = self.disks.keys().cloned().map(Leaver::Disk);
        disks.chain(self.nics.iter().cloned().map(Leaver::Card)).collect()
    }

    fn keep(&mut self, kept: &[(Leaver, String)]) {
        let is_kept = |leaver: Leaver| kept.iter().any(|(kept, _)| *kept == leaver);
        self.disks.retain(|name, _| is_kept(Leaver::Disk(name.clone())));
        self.nics.retain(|mac| is_kept(Leaver::Card(mac.clone())));
    }

    fn bytes(&self) -> u64 {
        self.disks.values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }
}

impl fmt::Display for Leaver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leaver::Disk(name) => write!(f, "disk {name:?}"),
            Leaver::Card(mac) => write!(f, "card {mac}"),
        }
    }
}

/// Has the row say what leaves, and promise its room. What has no guest loses it as soon as its host comes to it.
pub(super) fn tell_leaving(record: &mut JobRecord) {
    let Some(leaving) = record.leaving.as_deref() else { return };
    let asked = record.job.spec.resources();
    let size = record.job.spec.as_vm().map(|vm| vm.size().resources()).unwrap_or_default();
    let changing = || Box::new(Resize::of(size, ResizeStage::Changing));
    let resize = record.job.resize.get_or_insert_with(changing);
    let bytes = leaving.bytes();
    resize.disk_bytes = if bytes > 0 { asked.disk_bytes.saturating_add(bytes) } else { 0 };
    resize.leaving = leaving.each().iter().map(Leaver::to_string).collect();
}

/// What is to be done for what leaves, if it is time.
pub(super) fn work_of_leaving(entry: &Entry) -> Option<Work> {
    let leaving = entry.record.leaving.as_ref().filter(|leaving| leaving.is_defined)?;
    let is_waited_for =
        entry.record.job.resize.as_ref().map(|resize| resize.stage) == Some(ResizeStage::Changing);
    let patience_ms = if is_waited_for { PATIENCE_MS } else { PATIENCE_AGAIN_MS };
    entry.asks_leaving.then(|| Work::TakeOut { leaving: leaving.each(), patience_ms })
}

impl Agent {
    /// What the end of such work means.
    pub(super) fn conclude_leaving(
        &mut self,
        now: Now,
        mut record: JobRecord,
        outcome: WorkOutcome,
        out: &mut Vec<Effect>,
    ) {
        let id = record.job.id.clone();
        let kept = match outcome {
            WorkOutcome::TakenOut(kept) => kept,
            WorkOutcome::Failed(message) | WorkOutcome::Unclear(message) => {
                self.jobs.change(&id, |entry| entry.asks_leaving = true);
                return self.note(now, record, Reason::Unclear { message }, out);
            }
            _ => return,
        };
        let is_giving = self.jobs.change(&id, |entry| {
            entry.looked_ms = now.mono_ms;
            entry.giving.is_some()
        });
        let before = record.clone();
        let is_changed_since = record.leaving.as_ref().is_some_and(|leaving| !leaving.is_defined);
        if let Some(mut leaving) = record.leaving.take() {
            leaving.keep(&kept);
            // Nobody's guest has it, so it is the definition that does.
            leaving.is_defined &= !record.job.state.is_ended();
            record.leaving = leaving.or_none();
        }
        if matches!(record.job.reason, Some(Reason::Unclear { .. })) {
            record.job.reason = None;
        }
        // Another change has begun meanwhile, and is to be done yet.
        match record.job.resize.as_mut().filter(|_| is_changed_since) {
            Some(resize) => (resize.leaving, resize.disk_bytes) = (vec![], 0),
            None => record.job.resize = settled(&record, &kept, is_giving == Some(true)),
        }
        tell_leaving(&mut record);
        if record != before {
            self.insert(now, record, out);
        }
    }
}

/// What is to be said of a job of which this is kept.
fn settled(record: &JobRecord, kept: &[(Leaver, String)], is_giving: bool) -> Option<Box<Resize>> {
    let mut was = record.job.resize.clone()?;
    if !matches!(record.job.state, JobState::Running | JobState::Paused) {
        return record.leaving.as_ref().map(|_| was);
    }
    // What was said of these, the last time that they were asked for.
    let said = std::mem::take(&mut was.leaving);
    let is_of_them = |why: &String| said.iter().any(|what| why.starts_with(&format!("{what}: ")));
    was.why.retain(|why| !is_of_them(why));
    was.why.extend(kept.iter().map(|(leaver, why)| format!("{leaver}: {why}")));
    let size = record.job.spec.as_vm()?.size().resources();
    was.disk_bytes = 0;
    let seen = Some(was.resources()).filter(|has| *has != size);
    let stage = if is_giving { ResizeStage::Changing } else { ResizeStage::NextStart };
    as_resize(record, seen, stage, (was.devices, was.why))
}
