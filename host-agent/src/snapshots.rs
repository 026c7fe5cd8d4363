//! Snapshots inside the files of volumes: which files have one, and taking, going back to and deleting one
//! while no guest uses them. While one does, that is QEMU's own to do ([`hypervisor::Hypervisor::snapshot`]).
//!
//! Decides what a job's disks have by reading their files alone, so that it is the same answer whoever made
//! it and whatever was remembered. `qemu-img` takes QEMU's lock on a file, so what a guest uses is left alone
//! whatever libvirt says.
//!
//! Volumes of other kinds than qcow2, which a hypervisor without guests has, can have none.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use hypervisor::{Volume, VolumeFormat};
use protocol::id::SnapshotName;
use tokio::process::Command;

use crate::core::Measured;
use crate::qcow2;
use crate::storage::{StorageError, grow, io_error, run_command};

/// How long `qemu-img` may take with one disk: it goes through the tables of a disk, some MiB for each
/// 100 GiB of it, and gives the space back piece by piece.
pub(crate) const DEADLINE: Duration = Duration::from_secs(300);

/// What the tags of those that Ostler has made begin with.
const PREFIX: &str = "ostler-";

/// What a snapshot is called inside a file. `qemu-img` takes a name that is a number for the number of
/// another snapshot; and what Ostler did not make is not to be mistaken for it.
pub(crate) fn tag(name: &SnapshotName) -> String {
    format!("{PREFIX}{name}")
}

/// The name of what is called so inside a file, if Ostler has made it.
pub(crate) fn name_of(tag: &str) -> Option<SnapshotName> {
    SnapshotName::new(tag.strip_prefix(PREFIX)?).ok()
}

/// Which of a job's disks have a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// All of them, since this moment, in milliseconds since 1970.
    All(u64),
    /// Some, and others not.
    Some,
    /// None.
    None,
}

/// Looks into the files.
pub(crate) fn find(volumes: &[Volume], tag: &str) -> Result<Found, StorageError> {
    let mut moments = Vec::new();
    for volume in volumes {
        moments.extend(moment(volume, tag)?);
    }
    Ok(match moments.first() {
        Some(first) if moments.len() == volumes.len() => Found::All(*first),
        Some(_) => Found::Some,
        None => Found::None,
    })
}

/// What volumes hold and take. What earlier snapshots keep may be counted with what they hold.
pub(crate) fn measure(volumes: &[(Volume, u64)]) -> Measured {
    let mut measured = Measured::default();
    for (volume, size_bytes) in volumes {
        let taken = fs::metadata(&volume.path).map_or(*size_bytes, |found| found.blocks() * 512);
        measured.held_bytes = measured.held_bytes.saturating_add(taken.min(*size_bytes));
        measured.took_bytes = measured.took_bytes.saturating_add(taken);
    }
    measured
}

/// Gives one to each volume that has none of this tag.
pub(crate) async fn take(volumes: &[Volume], tag: &str) -> Result<(), StorageError> {
    for volume in volumes {
        if moment(volume, tag)?.is_some() {
            continue;
        }
        if volume.format != VolumeFormat::Qcow2 {
            let message = "only qcow2 has snapshots".to_owned();
            return Err(StorageError::QemuImg { path: volume.path.clone(), message });
        }
        qemu_img(&volume.path, &["-c", tag]).await?;
    }
    Ok(())
}

/// Makes volumes what they were, with the size that they have now.
pub(crate) async fn revert(volumes: &[(Volume, u64)], tag: &str) -> Result<(), StorageError> {
    for (volume, size_bytes) in volumes {
        qemu_img(&volume.path, &["-a", tag]).await?;
        // It has the size that it had then.
        grow(volume, *size_bytes).await?;
        sync(&volume.path)?;
    }
    Ok(())
}

/// Takes it from the volumes that have it.
pub(crate) async fn delete(volumes: &[Volume], tag: &str) -> Result<(), StorageError> {
    for volume in volumes {
        if moment(volume, tag)?.is_some() {
            qemu_img(&volume.path, &["-d", tag]).await?;
        }
    }
    Ok(())
}

/// When a volume got it; `None` when it has none.
fn moment(volume: &Volume, tag: &str) -> Result<Option<u64>, StorageError> {
    let path = &volume.path;
    let tagged = qcow2::snapshots(path).map_err(io_error("read snapshots of", path))?;
    Ok(tagged.into_iter().find(|found| found.tag == tag).map(|found| found.taken_ms))
}

async fn qemu_img(path: &Path, words: &[&str]) -> Result<(), StorageError> {
    let mut command = Command::new("qemu-img");
    command.args(["snapshot", "-q"]).args(words).arg(path);
    run_command(command, path, DEADLINE).await?;
    sync(path)
}

/// What was done is on the disk before anybody is told.
fn sync(path: &Path) -> Result<(), StorageError> {
    let file = fs::File::open(path).map_err(io_error("open", path))?;
    file.sync_all().map_err(io_error("sync", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn run(program: &str, words: &[&str]) -> String {
        let output = std::process::Command::new(program).args(words).output().unwrap();
        assert!(output.status.success(), "{program} {words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Two disks of 8 MiB.
    fn disks(folder: &Path) -> Vec<Volume> {
        let disk = |name: &str| {
            let path = folder.join(format!("{name}.qcow2"));
            run("qemu-img", &["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "8M"]);
            let format = VolumeFormat::Qcow2;
            Volume { name: name.to_owned(), path, format, is_shared: false }
        };
        vec![disk("root"), disk("data")]
    }

    fn write(volume: &Volume, pattern: u8) {
        let path = volume.path.to_str().unwrap();
        run("qemu-io", &["-f", "qcow2", "-c", &format!("write -q -P {pattern} 0 4M"), path]);
    }

    /// Fails unless the first bytes are these.
    fn expect(volume: &Volume, pattern: u8) {
        let path = volume.path.to_str().unwrap();
        let said = run("qemu-io", &["-f", "qcow2", "-c", &format!("read -P {pattern} 0 4M"), path]);
        assert!(!said.contains("failed"), "{said}");
    }

    fn sized(volumes: &[Volume], size_bytes: u64) -> Vec<(Volume, u64)> {
        volumes.iter().map(|volume| (volume.clone(), size_bytes)).collect()
    }

    #[tokio::test]
    async fn disks_go_back_to_what_they_were_and_keep_their_present_size() {
        let folder = tempfile::tempdir().unwrap();
        let volumes = disks(folder.path());
        for volume in &volumes {
            write(volume, 1);
        }
        assert_eq!(find(&volumes, "t").unwrap(), Found::None);
        // Interrupted after the first disk, and done again.
        take(&volumes[..1], "t").await.unwrap();
        assert_eq!(find(&volumes, "t").unwrap(), Found::Some);
        take(&volumes, "t").await.unwrap();
        let Found::All(taken_ms) = find(&volumes, "t").unwrap() else { panic!("not all have it") };
        let written_s = fs::metadata(&volumes[0].path).unwrap().mtime().unsigned_abs();
        assert!(written_s.abs_diff(taken_ms / 1000) < 60, "{taken_ms} of {written_s}");
        for volume in &volumes {
            write(volume, 2);
            grow(volume, 16 * MIB).await.unwrap();
        }
        for _ in 0..2 {
            revert(&sized(&volumes, 16 * MIB), "t").await.unwrap();
            for volume in &volumes {
                expect(volume, 1);
                assert_eq!(qcow2::disk_bytes(&volume.path).unwrap(), 16 * MIB);
            }
        }
        let shown = run("qemu-img", &["snapshot", "-l", volumes[0].path.to_str().unwrap()]);
        assert_eq!(shown.matches(" t ").count(), 1, "{shown}");
    }

    #[tokio::test]
    async fn what_is_deleted_gives_its_space_back_and_may_be_deleted_again() {
        let folder = tempfile::tempdir().unwrap();
        let volumes = disks(folder.path());
        write(&volumes[0], 1);
        let measured = measure(&sized(&volumes, 8 * MIB));
        assert!((4 * MIB..5 * MIB).contains(&measured.held_bytes), "{measured:?}");
        assert_eq!(measured.took_bytes, measured.held_bytes);
        take(&volumes, "t").await.unwrap();
        write(&volumes[0], 2);
        let both = measure(&sized(&volumes, 8 * MIB));
        assert!(both.took_bytes > 8 * MIB && both.held_bytes <= 16 * MIB, "{both:?}");
        delete(&volumes, "t").await.unwrap();
        delete(&volumes, "t").await.unwrap();
        assert_eq!(find(&volumes, "t").unwrap(), Found::None);
        expect(&volumes[0], 2);
        assert!(measure(&sized(&volumes, 8 * MIB)).took_bytes < 5 * MIB);
        assert!(revert(&sized(&volumes, 8 * MIB), "t").await.is_err());
        expect(&volumes[0], 2);
    }
}
