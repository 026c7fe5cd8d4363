//! Files of guests: volumes, console logs, definitions that were adopted. Images are beside it.
//!
//! Decides where they are, and that making one is atomic (a neighbour, then a rename) and repeating
//! it harmless. Nothing here is ever removed because something else does not mention it.
//!
//! ```text
//! DATA/images: see images.rs      DATA/volumes/JOB/DISK.qcow2      DATA/console/JOB.log + JOB.exit
//! DATA/adopted/UUID.xml: the definition that a domain had before it was adopted; UUID.log: its console
//! ```

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use hypervisor::{Volume, VolumeFormat};
use protocol::id::{ImageName, JobId};
use protocol::vm::{DiskSpec, VmSpec};
use tokio::process::Command;
use uuid::Uuid;

use crate::images::Images;
use crate::qcow2;

/// How long one `qemu-img` may take. Making a volume writes metadata only.
const QEMU_IMG_DEADLINE: Duration = Duration::from_secs(30);

/// Most that is read of what a guest has written as its exit code.
const EXIT_BYTES_MAX: u64 = 4096;

/// How volumes are laid out and made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Maker {
    /// Thin qcow2 over its image, by `qemu-img`.
    QemuImg,
    /// Sparse files without content, for a hypervisor that only pretends.
    Sparse,
}

/// The agent's folder.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    folder: PathBuf,
    maker: Maker,
    images: Images,
}

/// What could not be done with which file.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The file system said no.
    #[error("{what} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `qemu-img` said no.
    #[error("qemu-img could not make {}: {message}", .path.display())]
    QemuImg {
        /// The volume.
        path: PathBuf,
        /// What it said.
        message: String,
    },
    /// The CD for cloud-init could not be written.
    #[error("genisoimage could not make {}: {message}", .path.display())]
    Seed {
        /// The CD.
        path: PathBuf,
        /// What it said.
        message: String,
    },
    /// The bytes are not those that were announced.
    #[error("the file has sha256 {found}, announced was {announced}; it was not kept")]
    WrongDigest {
        /// What came.
        found: protocol::signed::Digest,
        /// What was to come.
        announced: protocol::signed::Digest,
    },
    /// The image can't be started from.
    #[error("{0}")]
    BadImage(String),
}

pub(crate) fn io_error<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> StorageError + 'a {
    move |source| StorageError::Io { what, path: path.to_owned(), source }
}

impl Storage {
    /// Opens the folder, making what is missing.
    pub(crate) fn open(folder: &Path, maker: Maker) -> Result<Self, StorageError> {
        for name in ["images", "volumes", "console", "services", "adopted"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(io_error("make folder", &path))?;
        }
        let images = Images::new(folder.join("images"), folder.join("volumes"));
        Ok(Self { folder: folder.to_owned(), maker, images })
    }

    /// The images.
    #[must_use]
    pub(crate) fn images(&self) -> &Images {
        &self.images
    }

    /// Where a guest's console output goes.
    #[must_use]
    pub(crate) fn console_log(&self, job: &JobId) -> PathBuf {
        self.folder.join("console").join(format!("{job}.log"))
    }

    /// Where a one-off job's guest leaves its exit code.
    #[must_use]
    pub(crate) fn exit_file(&self, job: &JobId) -> PathBuf {
        self.folder.join("console").join(format!("{job}.exit"))
    }

    /// The last number that a guest has written; `None` when it has written none.
    pub(crate) fn exit_code(&self, job: &JobId) -> Result<Option<i32>, StorageError> {
        let path = self.exit_file(job);
        let mut text = Vec::new();
        let read = fs::File::open(&path)
            .and_then(|file| file.take(EXIT_BYTES_MAX).read_to_end(&mut text).map(drop));
        ignore_missing(read).map_err(io_error("read", &path))?;
        let text = String::from_utf8_lossy(&text);
        Ok(text.split_ascii_whitespace().rev().find_map(|word| word.parse().ok()))
    }

    /// Forgets the exit code of an earlier start.
    pub(crate) fn forget_exit(&self, job: &JobId) -> Result<(), StorageError> {
        let path = self.exit_file(job);
        ignore_missing(fs::remove_file(&path)).map_err(io_error("remove", &path))
    }

    fn kept_file(&self, domain: Uuid) -> PathBuf {
        self.folder.join("adopted").join(format!("{domain}.xml"))
    }

    /// Where the console of an adopted guest is recorded, if libvirt keeps no log of it.
    #[must_use]
    pub(crate) fn recording(&self, domain: Uuid) -> PathBuf {
        self.folder.join("adopted").join(format!("{domain}.log"))
    }

    /// The definition that a domain was adopted with; `None` when none is kept.
    pub(crate) fn kept_definition(&self, domain: Uuid) -> Result<Option<String>, StorageError> {
        let path = self.kept_file(domain);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read", &path)(error)),
        }
    }

    /// Keeps a domain's definition, durably, before anything of it is changed. It may hold secrets.
    pub(crate) fn keep_definition(&self, domain: Uuid, text: &str) -> Result<(), StorageError> {
        let path = self.kept_file(domain);
        transport::durable::replace(&path, text.as_bytes()).map_err(io_error("write", &path))
    }

    /// Forgets it once the domain has it again, and what was recorded of its console.
    pub(crate) fn forget_adopted(&self, domain: Uuid) -> Result<(), StorageError> {
        for path in [self.recording(domain), self.kept_file(domain)] {
            ignore_missing(fs::remove_file(&path)).map_err(io_error("remove", &path))?;
        }
        Ok(())
    }

    /// Where a service keeps its files.
    #[must_use]
    pub(crate) fn service_folder(&self, job: &JobId) -> PathBuf {
        self.folder.join("services").join(job.as_str())
    }

    fn job_folder(&self, job: &JobId) -> PathBuf {
        self.folder.join("volumes").join(job.as_str())
    }

    fn format(&self) -> VolumeFormat {
        match self.maker {
            Maker::QemuImg => VolumeFormat::Qcow2,
            Maker::Sparse => VolumeFormat::Raw,
        }
    }

    /// The files of a VM's disks, whether they exist or not.
    #[must_use]
    pub(crate) fn volumes(&self, job: &JobId, vm: &VmSpec) -> Vec<Volume> {
        let (folder, format) = (self.job_folder(job), self.format());
        let suffix = match format {
            VolumeFormat::Qcow2 => "qcow2",
            VolumeFormat::Raw | VolumeFormat::Iso => "raw",
        };
        let volume = |disk: &DiskSpec| Volume {
            name: disk.name.clone(),
            path: folder.join(format!("{}.{suffix}", disk.name)),
            format,
        };
        vm.disks.iter().map(volume).collect()
    }

    /// Makes the volumes that are missing, from their images or empty.
    pub(crate) async fn make_volumes(
        &self,
        job: &JobId,
        vm: &VmSpec,
        from_images: bool,
    ) -> Result<Vec<Volume>, StorageError> {
        let folder = self.job_folder(job);
        fs::create_dir_all(&folder).map_err(io_error("make folder", &folder))?;
        let volumes = self.volumes(job, vm);
        for (disk, volume) in vm.disks.iter().zip(&volumes) {
            if !volume.path.exists() {
                let image = disk.image.as_ref().filter(|_| from_images);
                self.make_volume(&volume.path, disk.size_bytes, image).await?;
            }
        }
        if let Some(data) = &vm.cloud_init {
            crate::seed::make(job, data, &self.seed_file(job)).await?;
        }
        Ok(self.made_volumes(job, vm))
    }

    /// What [`Storage::make_volumes`] has made.
    pub(crate) fn made_volumes(&self, job: &JobId, vm: &VmSpec) -> Vec<Volume> {
        let mut volumes = self.volumes(job, vm);
        if vm.cloud_init.is_some() {
            let (name, path) = ("seed".to_owned(), self.seed_file(job));
            volumes.push(Volume { name, path, format: VolumeFormat::Iso });
        }
        volumes
    }

    fn seed_file(&self, job: &JobId) -> PathBuf {
        self.job_folder(job).join("seed.iso")
    }

    async fn make_volume(
        &self,
        path: &Path,
        size_bytes: u64,
        image: Option<&ImageName>,
    ) -> Result<(), StorageError> {
        let new = path.with_extension("new");
        match self.maker {
            Maker::Sparse => {
                let file = fs::File::create(&new).map_err(io_error("make", &new))?;
                file.set_len(size_bytes).map_err(io_error("size", &new))?;
            }
            Maker::QemuImg => self.run_qemu_img(&new, size_bytes, image).await?,
        }
        // A power cut must not leave an empty file that looks like a volume.
        let file = fs::File::open(&new).map_err(io_error("open", &new))?;
        file.sync_all().map_err(io_error("sync", &new))?;
        fs::rename(&new, path).map_err(io_error("rename", &new))?;
        let folder = path.parent().unwrap_or(path);
        let folder = fs::File::open(folder).map_err(io_error("open", path))?;
        folder.sync_all().map_err(io_error("sync", path))
    }

    async fn run_qemu_img(
        &self,
        path: &Path,
        size_bytes: u64,
        image: Option<&ImageName>,
    ) -> Result<(), StorageError> {
        let failed = |message: String| StorageError::QemuImg { path: path.to_owned(), message };
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2"]);
        if let Some(image) = image {
            let file = self.images.file(image);
            // Never probed by qemu-img, which would follow what it finds.
            let format = qcow2::inspect(&file)?.0;
            command.args(["-F", format.as_str(), "-b"]).arg(&file);
        }
        command.arg(path).arg(size_bytes.to_string());
        command.stdin(Stdio::null()).kill_on_drop(true);
        let ended = tokio::time::timeout(QEMU_IMG_DEADLINE, command.output()).await;
        let output = ended
            .map_err(|_| failed(format!("no end after {QEMU_IMG_DEADLINE:?}")))?
            .map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            Ok(())
        } else {
            Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
        }
    }

    /// Removes a job's volumes and console log.
    pub(crate) fn delete_volumes(&self, job: &JobId) -> Result<(), StorageError> {
        self.forget_exit(job)?;
        let log = self.console_log(job);
        for file in [log.clone(), log.with_extension("log.0")] {
            ignore_missing(fs::remove_file(&file)).map_err(io_error("remove", &file))?;
        }
        let folder = self.job_folder(job);
        ignore_missing(fs::remove_dir_all(&folder)).map_err(io_error("remove", &folder))
    }

    /// Removes a service's files.
    pub(crate) fn delete_service(&self, job: &JobId) -> Result<(), StorageError> {
        let folder = self.service_folder(job);
        ignore_missing(fs::remove_dir_all(&folder)).map_err(io_error("remove", &folder))
    }

    /// Free bytes of the file system, and bytes that our own volumes take of it.
    pub(crate) fn disk_bytes(&self) -> Result<(u64, u64), StorageError> {
        let stat = rustix::fs::statvfs(&self.folder)
            .map_err(|error| io_error("measure", &self.folder)(error.into()))?;
        let volumes = self.folder.join("volumes");
        Ok((stat.f_bavail.saturating_mul(stat.f_frsize), used_bytes(&volumes)))
    }
}

fn used_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => used_bytes(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}

pub(crate) fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn making_volumes_twice_keeps_what_is_in_them() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(folder.path(), Maker::Sparse).unwrap();
        let job = JobId::new("web-1").unwrap();
        let disk = DiskSpec {
            name: "root".into(),
            size_bytes: 1 << 20,
            image: None,
            ..DiskSpec::default()
        };
        let vm = VmSpec {
            vcpus: 1,
            memory_bytes: 1 << 30,
            disks: vec![disk],
            nics: vec![],
            ..VmSpec::default()
        };
        let volumes = storage.make_volumes(&job, &vm, true).await.unwrap();
        fs::write(&volumes[0].path, b"precious").unwrap();
        storage.make_volumes(&job, &vm, true).await.unwrap();
        assert_eq!(fs::read(&volumes[0].path).unwrap(), b"precious");
        storage.delete_volumes(&job).unwrap();
        storage.delete_volumes(&job).unwrap();
        assert!(!volumes[0].path.exists());
    }
}
