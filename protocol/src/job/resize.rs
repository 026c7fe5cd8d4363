//! A change of a job's size, as long as its guest has not got or given what the spec says.
//!
//! ```text
//!   (none) ──resize──▶ changing ──▶ (none): the guest is what the spec says
//!                          └──▶ next_start ──▶ (none): started anew, or given up at last
//! ```
//!
//! Entered also without a request when libvirt shows a guest that is not what its spec says.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Job, JobSpec};
use crate::id::JobId;
use crate::resources::{Bytes, Resources};
use crate::vm::{DiskSpec, NicSpec, NoChange, Size, SizeChange, VmSpec};

/// What a guest has, while that is not what its spec says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Resize {
    /// Virtual CPUs that it has now.
    pub vcpus: u32,
    /// Memory that it has now, in bytes.
    pub memory_bytes: u64,
    /// What its disks take with those that are being removed, as long as there are some; 0 otherwise.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub disk_bytes: u64,
    /// How long that lasts.
    pub stage: ResizeStage,
    /// Disks and cards that it gets at its next start, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// Disks and cards that were taken away and that it has still, in words. It is asked for them again and
    /// again, and is without them at its next start at the latest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<String>,
    /// What kept the rest from changing at once, as far as known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<String>,
}

/// How far a change of size is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResizeStage {
    /// The host is at it. Entered by a resize request.
    Changing,
    /// What could change has; the rest does when the guest is started anew. A reboot from within the
    /// guest is no start.
    NextStart,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields so")]
fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

impl Resize {
    /// A guest that has so much, with no more to be said.
    #[must_use]
    pub fn of(has: Resources, stage: ResizeStage) -> Self {
        let Resources { vcpus, memory_bytes, disk_bytes } = has;
        Self {
            vcpus,
            memory_bytes,
            disk_bytes,
            stage,
            devices: vec![],
            leaving: vec![],
            why: vec![],
        }
    }

    /// What the guest has.
    #[must_use]
    pub fn resources(&self) -> Resources {
        Resources {
            vcpus: self.vcpus,
            memory_bytes: self.memory_bytes,
            disk_bytes: self.disk_bytes,
        }
    }

    fn device_words(&self) -> Vec<String> {
        let said = [("without", &self.devices), ("still with", &self.leaving)];
        let said = said.into_iter().filter(|(_, devices)| !devices.is_empty());
        said.map(|(how, devices)| format!("{how} {}", devices.join(", "))).collect()
    }
}

impl Job {
    /// What its host has promised it if it counts: the larger of what it is to have and what its guest
    /// has, or, of one that is off, had until a change that may still fail. What was not given up yet is
    /// nobody else's.
    #[must_use]
    pub fn promised(&self) -> Resources {
        let asked = self.spec.resources();
        let counts =
            |resize: &Resize| !self.state.is_ended() || resize.stage == ResizeStage::Changing;
        match self.resize.as_deref().filter(|resize| counts(resize)) {
            Some(resize) => asked.max(resize.resources()),
            None => asked,
        }
    }

    /// True when its guest has more than its spec says.
    #[must_use]
    pub fn has_more_than_asked(&self) -> bool {
        self.promised() != self.spec.resources()
    }

    /// Disks and cards that its guest gets, or loses, at its next start, in words: `without disk "data"`. Until
    /// then it is neither moved nor saved, and its disks are left as they are: they are not those of its spec.
    #[must_use]
    pub fn awaited_devices(&self) -> Option<String> {
        let resize = self.resize.as_ref().filter(|_| !self.state.is_ended())?;
        let words = resize.device_words();
        (!words.is_empty()).then(|| words.join("; "))
    }

    /// How its size differs from its spec, in words: `vcpus 4, now 2 until its next start`.
    #[must_use]
    pub fn resize_words(&self) -> Option<String> {
        let (resize, vm) = (self.resize.as_ref()?, self.spec.as_vm()?);
        let mut words = Vec::new();
        if resize.vcpus != vm.vcpus {
            words.push(format!("vcpus {}, now {}", vm.vcpus, resize.vcpus));
        }
        if resize.memory_bytes != vm.memory_bytes {
            let (asked, now) = (Bytes(vm.memory_bytes), Bytes(resize.memory_bytes));
            words.push(format!("memory {asked}, now {now}"));
        }
        words.extend(resize.device_words());
        if words.is_empty() {
            words.push("size".to_owned());
        }
        Some(format!("{} {}", words.join("; "), resize.stage))
    }
}

impl JobSpec {
    /// The same job in another size; `None` when it is no VM.
    #[must_use]
    pub fn with_size(&self, change: impl FnOnce(Size) -> Size) -> Option<Self> {
        let vm = self.as_vm()?;
        let vm: VmSpec = vm.with_size(change(vm.size()));
        let mut sized = self.clone();
        *sized.as_vm_mut()? = vm;
        Some(sized)
    }
}

impl JobSpec {
    /// The same job with disks of these sizes, by name; the others stay.
    #[must_use]
    pub fn with_disk_sizes(&self, bytes: &BTreeMap<String, u64>) -> Self {
        let mut sized = self.clone();
        for disk in sized.as_vm_mut().map_or(&mut [][..], |vm| &mut vm.disks) {
            disk.size_bytes = bytes.get(&disk.name).copied().unwrap_or(disk.size_bytes);
        }
        sized
    }

    /// The same job with these disks and cards. A disk that it has is as large as it is.
    #[must_use]
    pub fn with_devices(&self, disks: Vec<DiskSpec>, nics: Vec<NicSpec>) -> Self {
        let mut changed = self.clone();
        let Some(vm) = changed.as_vm_mut() else { return changed };
        let has: BTreeMap<String, u64> =
            vm.disks.drain(..).map(|disk| (disk.name, disk.size_bytes)).collect();
        (vm.disks, vm.nics) = (disks, nics);
        changed.with_disk_sizes(&has)
    }

    /// The spec after a change of its size, as the given job's; nothing when it is no VM.
    ///
    /// # Errors
    /// When there is nothing that could change so.
    pub fn changed(&self, job: &JobId, change: &SizeChange) -> Result<Option<Self>, NoChange> {
        let Some(vm) = self.as_vm() else { return Ok(None) };
        let mut changed = self.clone();
        let vm = vm.changed(job.domain_uuid(), change)?;
        if let Some(place) = changed.as_vm_mut() {
            *place = vm;
        }
        Ok(Some(changed))
    }

    /// True when the given job's spec is so already.
    #[must_use]
    pub fn is_sized(&self, job: &JobId, change: &SizeChange) -> bool {
        self.changed(job, change).is_ok_and(|changed| changed.as_ref() == Some(self))
    }
}

impl fmt::Display for ResizeStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ResizeStage::Changing => "and being changed",
            ResizeStage::NextStart => "until its next start",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobState;

    const GIB: u64 = 1 << 30;

    fn job(state: JobState, resize: Option<Resize>) -> Job {
        let text = r#"{"id": "web-1", "revision": 2, "state": "running", "since_ms": 0,
            "spec": {"vm": {"vcpus": 4, "memory_bytes": 1073741824,
                "disks": [{"name": "root", "size_bytes": 1073741824}]}}}"#;
        let job: Job = serde_json::from_str(text).expect("a row of before there was a resize");
        Job { state, resize: resize.map(Box::new), ..job }
    }

    fn has(vcpus: u32, memory_bytes: u64) -> Option<Resize> {
        Some(Resize { vcpus, memory_bytes, ..Resize::of(Resources::ZERO, ResizeStage::NextStart) })
    }

    #[test]
    fn the_larger_of_asked_and_had_is_promised_while_the_guest_lives() {
        let of = |state, resize| {
            let job = job(state, resize);
            (job.allocation().vcpus, job.allocation().memory_bytes, job.has_more_than_asked())
        };
        assert_eq!(of(JobState::Running, None), (4, GIB, false));
        assert_eq!(of(JobState::Running, has(2, GIB)), (4, GIB, false));
        assert_eq!(of(JobState::Paused, has(2, 3 * GIB)), (4, 3 * GIB, true));
        assert_eq!(of(JobState::Stopped, has(8, 3 * GIB)), (0, 0, false));
        assert_eq!(job(JobState::Stopped, has(8, GIB)).allocation().disk_bytes, GIB);
    }

    #[test]
    fn what_waits_is_said_with_both_numbers() {
        let words = |resize| job(JobState::Running, resize).resize_words();
        assert_eq!(words(None), None);
        let vcpus = "vcpus 4, now 2 until its next start";
        assert_eq!(words(has(2, GIB)).as_deref(), Some(vcpus));
        let both = "vcpus 4, now 2; memory 1GiB, now 3GiB until its next start";
        assert_eq!(words(has(2, 3 * GIB)).as_deref(), Some(both));
        let devices = |devices: &[&str]| devices.iter().map(|what| (*what).to_owned()).collect();
        let (devices, leaving) = (devices(&["disk \"late\""]), devices(&["card a", "card b"]));
        let both = Resize { devices, leaving, ..has(4, GIB).unwrap() };
        let said = "without disk \"late\"; still with card a, card b until its next start";
        assert_eq!(words(Some(both.clone())).as_deref(), Some(said));
        let awaited = job(JobState::Running, Some(both.clone())).awaited_devices();
        assert_eq!(awaited.as_deref(), said.strip_suffix(" until its next start"));
        assert_eq!(job(JobState::Stopped, Some(both)).awaited_devices(), None);
    }

    #[test]
    fn a_one_off_and_a_vm_change_size_alike_and_nothing_else_of_them() {
        let before = JobSpec::clone(&job(JobState::Running, None).spec);
        let change = SizeChange { vcpus: Some(1), ..SizeChange::default() };
        let after = before.with_size(|size| size.changed(&change)).unwrap();
        assert_eq!(after.resources().vcpus, 1);
        assert_eq!(after.with_size(|_| before.as_vm().unwrap().size()), Some(before));
    }
}
