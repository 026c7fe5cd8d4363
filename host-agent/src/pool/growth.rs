//! Volumes in a pool that become larger.
//!
//! Decides that the room is promised by the tag before any file grows, and that a file which no guest uses
//! grows under the job's lock: whoever does it holds the lock itself, so that no other host takes the volumes
//! in the middle, also when the agent dies there. A file that a guest uses is QEMU's to make larger.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::process::Command;

use hypervisor::{Volume, VolumeFormat};
use protocol::id::JobId;

use super::{Lock, Pool, io_words, is_mine};
use crate::core::Turn;
use crate::qcow2;

/// Whether volumes may become larger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Promise {
    /// The pool has promised it, or has nothing of them yet: their first start makes room for them.
    Given,
    /// It has not, because of this, and no volume has grown.
    Refused(String),
}

impl Pool {
    /// Promises a job's volumes these sizes, if they are this stay's and there is room.
    pub(crate) fn promise(
        &self,
        job: &JobId,
        turn: &Turn,
        disks: &BTreeMap<String, u64>,
    ) -> Result<Promise, String> {
        self.check()?;
        let _lock = self.lock(job.as_str())?;
        let Some(tag) = self.tag(job)? else { return Ok(Promise::Given) };
        if !is_mine(&tag, turn) {
            return Ok(Promise::Refused(self.used_since(&tag)));
        }
        let grown = tag.grown_to(disks);
        if grown == tag {
            return Ok(Promise::Given);
        }
        let _all = self.lock("pool")?;
        let more_bytes = grown.bytes().saturating_sub(tag.bytes());
        if let Err(why) = self.check_room(job, more_bytes)? {
            return Ok(Promise::Refused(why));
        }
        self.write_tag(&grown)?;
        Ok(Promise::Given)
    }

    /// Takes back what was promised to volumes that have not grown, because another pool has refused.
    pub(crate) fn take_back(
        &self,
        job: &JobId,
        turn: &Turn,
        volumes: &[Volume],
    ) -> Result<(), String> {
        self.check()?;
        let _lock = self.lock(job.as_str())?;
        let Some(tag) = self.tag(job)?.filter(|tag| is_mine(tag, turn)) else { return Ok(()) };
        let mut real = tag.clone();
        for volume in volumes {
            if let Ok(bytes) = qcow2::disk_bytes(&volume.path) {
                real.disks.insert(volume.name.clone(), bytes);
            }
        }
        if real == tag { Ok(()) } else { self.write_tag(&real) }
    }

    /// Makes volumes as large as these sizes that no guest uses; never smaller. Those that were never made
    /// are left to their first start.
    pub(crate) fn grow(
        &self,
        job: &JobId,
        turn: &Turn,
        sized: &[(Volume, u64)],
    ) -> Result<(), String> {
        let Some(lock) = self.lock_of(job, turn)? else { return Ok(()) };
        sized.iter().try_for_each(|(volume, bytes)| lock.grow(volume, *bytes))
    }
}

impl Lock {
    pub(super) fn grow(&self, volume: &Volume, bytes: u64) -> Result<(), String> {
        let path = &volume.path;
        match qcow2::disk_bytes(path) {
            Ok(now) if now >= bytes => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_words("read", path)(error)),
        }
        if volume.format == VolumeFormat::Qcow2 {
            let mut resize = Command::new("qemu-img");
            resize.args(["resize", "-q", "-f", "qcow2"]).arg(path).arg(bytes.to_string());
            self.run(resize).map_err(|why| format!("make {} larger: {why}", path.display()))?;
        } else {
            let file = fs::OpenOptions::new().write(true).open(path);
            let sized = file.and_then(|file| file.set_len(bytes));
            sized.map_err(io_words("size", path))?;
        }
        fs::File::open(path).and_then(|file| file.sync_all()).map_err(io_words("sync", path))
    }

    /// Runs a command that holds this lock itself, until it has ended: as its input, of which it reads
    /// nothing.
    pub(super) fn run(&self, mut command: Command) -> Result<(), String> {
        let held = self.file.try_clone().map_err(|error| error.to_string())?;
        let output = command.stdin(held).output().map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }
}
