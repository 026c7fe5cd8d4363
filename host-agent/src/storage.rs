//! Files of guests: volumes, console logs, definitions that were adopted. Images are beside it, and so
//! are pools, of which the one without a declaration, `default`, is here.
//!
//! Decides where they are, and that making one is atomic (a neighbour, then a rename) and repeating
//! it harmless. Nothing here is ever removed because something else does not mention it.
//!
//! ```text
//! DATA/images: see images.rs      DATA/volumes/JOB/DISK.qcow2      DATA/console/JOB.log + JOB.exit
//! DATA/adopted/UUID.xml: the definition that a domain had before it was adopted; UUID.log: its console
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use hypervisor::{Volume, VolumeFormat};
use protocol::id::{ImageName, JobId, PoolName};
use protocol::job::Snapshot;
use protocol::pool::Tag;
use protocol::vm::{DiskSpec, VmSpec};
use tokio::process::Command;
use uuid::Uuid;

use crate::core::{Measured, Turn};
use crate::images::Images;
use crate::pool::{Pool, Promise, used_by_disk};
use crate::pools::{Pools, off};
use crate::qcow2;
use crate::snapshots;

/// How long one `qemu-img` may take. Making a volume writes metadata only.
const QEMU_IMG_DEADLINE: Duration = Duration::from_secs(30);

/// How long it may take to copy an image into a pool.
const COPY_DEADLINE: Duration = Duration::from_secs(600);

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

/// Which disks are looked at when some are to grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Growing {
    /// Those in the host's own folder: what pools are like is not asked.
    Own,
    /// Those in pools as well, which were promised the room for it.
    InPoolsToo,
}

/// The agent's folder.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    folder: PathBuf,
    maker: Maker,
    images: Images,
    pools: Pools,
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
    /// A pool can't be used, or not by this job.
    #[error("{0}")]
    Pool(String),
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
        Ok(Self { folder: folder.to_owned(), maker, images, pools: Pools::default() })
    }

    /// The declared pools.
    #[must_use]
    pub(crate) fn pools(&self) -> &Pools {
        &self.pools
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
    pub(crate) fn volumes(&self, job: &JobId, vm: &VmSpec) -> Result<Vec<Volume>, StorageError> {
        let format = self.format();
        let suffix = suffix_of(format);
        let volume = |disk: &DiskSpec| {
            let (path, is_shared) = match disk.named_pool() {
                None => (self.own_volume(job, &disk.name), false),
                Some(pool) => {
                    let pool = self.pools.get(pool).map_err(StorageError::Pool)?;
                    (pool.volume(job, &disk.name, suffix), pool.is_shared())
                }
            };
            Ok(Volume { name: disk.name.clone(), path, format, is_shared })
        };
        vm.disks.iter().map(volume).collect()
    }

    /// Makes the volumes that are missing, from their images or empty. Those in pools are taken for this
    /// turn first, and only those are made there that were never made.
    pub(crate) async fn make_volumes(
        &self,
        job: &JobId,
        vm: &VmSpec,
        turn: Option<&Turn>,
    ) -> Result<Vec<Volume>, StorageError> {
        let folder = self.job_folder(job);
        fs::create_dir_all(&folder).map_err(io_error("make folder", &folder))?;
        let volumes = self.volumes(job, vm)?;
        let to_make = self.take(job, vm, turn).await?;
        for (disk, volume) in vm.disks.iter().zip(&volumes) {
            let exists = volume.path.exists();
            match disk.named_pool() {
                _ if exists => {}
                None => {
                    self.make_volume(&volume.path, disk.size_bytes, disk.image.as_ref()).await?;
                }
                Some(pool) if to_make.contains(pool) => {
                    self.make_pooled(&volume.path, disk.size_bytes, disk.image.as_ref()).await?;
                }
                Some(pool) => return Err(gone(job, disk, pool)),
            }
        }
        self.set_made(job, turn, to_make).await?;
        self.settle_snapshots(job, vm, turn).await?;
        // The agent may have died between writing down that one is to grow, and that.
        self.grow_volumes(job, vm, turn, Growing::InPoolsToo).await?;
        self.make_seed(job, vm).await?;
        self.made_volumes(job, vm)
    }

    /// Makes disks of the host's own for a VM that is here; those that are there stay as they are.
    pub(crate) async fn add_own(
        &self,
        job: &JobId,
        disks: &[DiskSpec],
    ) -> Result<(), StorageError> {
        let folder = self.job_folder(job);
        fs::create_dir_all(&folder).map_err(io_error("make folder", &folder))?;
        for disk in disks {
            let path = self.own_volume(job, &disk.name);
            if !path.exists() {
                self.make_volume(&path, disk.size_bytes, disk.image.as_ref()).await?;
            }
        }
        Ok(())
    }

    /// Removes disks of the host's own, as far as they are there.
    pub(crate) fn remove_own<'a>(
        &self,
        job: &JobId,
        disks: impl Iterator<Item = &'a str>,
    ) -> Result<(), StorageError> {
        for disk in disks {
            let path = self.own_volume(job, disk);
            ignore_missing(fs::remove_file(&path)).map_err(io_error("remove", &path))?;
        }
        Ok(())
    }

    /// Where a disk of the host's own is, as libvirt shows it.
    pub(crate) fn own_path(&self, job: &JobId, disk: &str) -> String {
        self.own_volume(job, disk).to_string_lossy().into_owned()
    }

    fn own_volume(&self, job: &JobId, disk: &str) -> PathBuf {
        self.job_folder(job).join(format!("{disk}.{}", suffix_of(self.format())))
    }

    /// Disks whose files are smaller than the disks are to be: which, and how large they are to be. A file of
    /// an adopted VM is not ours.
    pub(crate) async fn outgrown(
        &self,
        job: &JobId,
        vm: &VmSpec,
        which: Growing,
    ) -> Result<Vec<(usize, u64)>, StorageError> {
        if vm.adopted.is_some() {
            return Ok(vec![]);
        }
        let is_asked = |at: &usize| which == Growing::InPoolsToo || !is_pooled(vm, *at);
        let sized = self.sized_volumes(job, vm)?.into_iter().enumerate();
        let asked: Vec<_> = sized.filter(|(at, _)| is_asked(at)).collect();
        if asked.iter().any(|(at, _)| is_pooled(vm, *at)) {
            let found = off(QEMU_IMG_DEADLINE, move || find_outgrown(asked).map_err(words_of));
            return found.await.map_err(StorageError::Pool);
        }
        find_outgrown(asked)
    }

    /// Makes the volumes of a guest that does not run as large as its disks are to be.
    pub(crate) async fn grow_volumes(
        &self,
        job: &JobId,
        vm: &VmSpec,
        turn: Option<&Turn>,
        which: Growing,
    ) -> Result<(), StorageError> {
        let volumes = self.volumes(job, vm)?;
        let mut pooled: BTreeMap<PoolName, Vec<(Volume, u64)>> = BTreeMap::new();
        for (at, bytes) in self.outgrown(job, vm, which).await? {
            match vm.disks[at].named_pool() {
                None => grow(&volumes[at], bytes).await?,
                Some(pool) => {
                    pooled.entry(pool.clone()).or_default().push((volumes[at].clone(), bytes));
                }
            }
        }
        for (pool, sized) in pooled {
            let (job, turn) = (job.clone(), needed(turn)?);
            let grown = self.pools.within(&pool, move |pool| pool.grow(&job, &turn, &sized)).await;
            grown.map_err(StorageError::Pool)?;
        }
        Ok(())
    }

    /// Asks the pools for the room that a job's disks are to have in them. If one refuses, none has promised
    /// more than it had.
    pub(crate) async fn promise_growth(
        &self,
        job: &JobId,
        vm: &VmSpec,
        turn: Option<&Turn>,
    ) -> Result<Promise, StorageError> {
        for pool in vm.bytes_by_pool().into_keys() {
            let (job_of, turn_of) = (job.clone(), needed(turn)?);
            let disks = sizes_in(vm, pool);
            let ask = move |pool: &Pool| pool.promise(&job_of, &turn_of, &disks);
            let promise = self.pools.within(pool, ask).await.map_err(StorageError::Pool)?;
            if promise != Promise::Given {
                self.take_back_growth(job, vm, turn).await?;
                return Ok(promise);
            }
        }
        Ok(Promise::Given)
    }

    async fn take_back_growth(
        &self,
        job: &JobId,
        vm: &VmSpec,
        turn: Option<&Turn>,
    ) -> Result<(), StorageError> {
        let volumes = self.volumes(job, vm)?;
        for pool in vm.bytes_by_pool().into_keys() {
            let (job, turn) = (job.clone(), needed(turn)?);
            let its = volumes.iter().zip(&vm.disks);
            let its = its.filter(|(_, disk)| disk.named_pool() == Some(pool));
            let its: Vec<Volume> = its.map(|(volume, _)| volume.clone()).collect();
            let back = self.pools.within(pool, move |pool| pool.take_back(&job, &turn, &its)).await;
            back.map_err(StorageError::Pool)?;
        }
        Ok(())
    }

    /// Makes what a guest that comes needs: empty volumes, which the source fills, except for those in
    /// shared pools, which have to be there.
    pub(crate) async fn make_incoming(
        &self,
        job: &JobId,
        vm: &VmSpec,
        turn: Option<&Turn>,
    ) -> Result<(), StorageError> {
        let folder = self.job_folder(job);
        fs::create_dir_all(&folder).map_err(io_error("make folder", &folder))?;
        for pool in self.shared_pools(vm)? {
            let (job, turn) = (job.clone(), needed(turn)?);
            let announced = self.pools.within(&pool, move |pool| pool.announce(&job, &turn)).await;
            announced.map_err(StorageError::Pool)?;
        }
        for (disk, volume) in vm.disks.iter().zip(&self.volumes(job, vm)?) {
            let exists = volume.path.exists();
            match disk.named_pool() {
                Some(pool) if volume.is_shared && !exists => return Err(gone(job, disk, pool)),
                _ if exists => {}
                Some(pool) => {
                    self.take_in(job, vm, pool, turn).await?;
                    self.make_pooled(&volume.path, disk.size_bytes, None).await?;
                }
                None => self.make_volume(&volume.path, disk.size_bytes, None).await?,
            }
        }
        self.make_seed(job, vm).await
    }

    async fn make_seed(&self, job: &JobId, vm: &VmSpec) -> Result<(), StorageError> {
        match &vm.cloud_init {
            Some(data) => crate::seed::make(job, data, &self.seed_file(job)).await,
            None => Ok(()),
        }
    }

    /// Takes a job's volumes in pools for this turn. In the pools that come back, those that are missing
    /// may be made.
    pub(crate) async fn take(
        &self,
        job: &JobId,
        vm: &VmSpec,
        turn: Option<&Turn>,
    ) -> Result<Vec<PoolName>, StorageError> {
        let mut to_make = Vec::new();
        for pool in vm.bytes_by_pool().into_keys() {
            if self.take_in(job, vm, pool, turn).await? {
                to_make.push(pool.clone());
            }
        }
        Ok(to_make)
    }

    /// Takes the volumes of a guest that has arrived, before it runs.
    pub(crate) async fn take_over(
        &self,
        job: &JobId,
        turn: Option<&Turn>,
    ) -> Result<(), StorageError> {
        match turn {
            Some(turn) => self.take(job, &turn.vm, Some(turn)).await.map(drop),
            None => Ok(()),
        }
    }

    /// The places of the disks that are copied when it moves; `None` for all of them. Those in shared pools are
    /// at the target already.
    pub(crate) fn copied_disks(&self, vm: &VmSpec) -> Result<Option<Vec<usize>>, StorageError> {
        let shared = self.shared_pools(vm)?;
        if shared.is_empty() {
            return Ok(None);
        }
        let is_copied =
            |disk: &DiskSpec| disk.named_pool().is_none_or(|pool| !shared.contains(pool));
        let copied = vm.disks.iter().enumerate().filter(|(_, disk)| is_copied(disk));
        Ok(Some(copied.map(|(index, _)| index).collect()))
    }

    async fn take_in(
        &self,
        job: &JobId,
        vm: &VmSpec,
        pool: &PoolName,
        turn: Option<&Turn>,
    ) -> Result<bool, StorageError> {
        let (job, turn) = (job.clone(), needed(turn)?);
        let disks = sizes_in(vm, pool);
        let taken = self.pools.within(pool, move |pool| pool.take(&job, &turn, &disks)).await;
        taken.map_err(StorageError::Pool)
    }

    async fn set_made(
        &self,
        job: &JobId,
        turn: Option<&Turn>,
        pools: Vec<PoolName>,
    ) -> Result<(), StorageError> {
        for pool in pools {
            let (job, turn) = (job.clone(), needed(turn)?);
            let set = self.pools.within(&pool, move |pool| pool.set_made(&job, &turn)).await;
            set.map_err(StorageError::Pool)?;
        }
        Ok(())
    }

    /// What the files of a job's volumes in the own folder take, by disk.
    pub(crate) fn used_by_disk(&self, tag: &Tag) -> BTreeMap<String, u64> {
        used_by_disk(&self.job_folder(&tag.job), tag)
    }

    /// What a job's disks hold and take. Those that can't be looked at count in full.
    pub(crate) async fn measured(&self, job: &JobId, vm: &VmSpec) -> Measured {
        let Ok(sized) = self.sized_volumes(job, vm) else { return Measured::default() };
        if vm.bytes_by_pool().is_empty() {
            return snapshots::measure(&sized);
        }
        let bytes = vm.disks.iter().fold(0, |sum: u64, disk| sum.saturating_add(disk.size_bytes));
        let look = move || Ok(snapshots::measure(&sized));
        let full = Measured { held_bytes: bytes, took_bytes: bytes };
        off(QEMU_IMG_DEADLINE, look).await.unwrap_or(full)
    }

    /// Comes to an end with what was begun with snapshots of volumes in a pool, wherever that was.
    async fn settle_snapshots(
        &self,
        job: &JobId,
        vm: &VmSpec,
        turn: Option<&Turn>,
    ) -> Result<(), StorageError> {
        let Some(pool) = vm.sole_pool() else { return Ok(()) };
        let (sized, job, turn) = (self.sized_volumes(job, vm)?, job.clone(), needed(turn)?);
        let settle = move |pool: &Pool| pool.settle(&job, &turn, &sized);
        let settled = self.pools.within_for(snapshots::DEADLINE, pool, settle).await;
        settled.map_err(StorageError::Pool)
    }

    /// What is written beside a job's volumes of what they were; `None` when they are in no pool, or are
    /// not this turn's.
    pub(crate) async fn listed_snapshots(
        &self,
        job: &JobId,
        turn: Option<&Turn>,
    ) -> Result<Option<Vec<Snapshot>>, StorageError> {
        let Some((turn, pool)) = turn.and_then(|turn| Some((turn, turn.vm.sole_pool()?))) else {
            return Ok(None);
        };
        let (job, turn) = (job.clone(), turn.clone());
        let listed = self.pools.within(pool, move |pool| pool.snapshots(&job, &turn)).await;
        listed.map_err(StorageError::Pool)
    }

    fn shared_pools(&self, vm: &VmSpec) -> Result<Vec<PoolName>, StorageError> {
        let mut shared = Vec::new();
        for name in vm.bytes_by_pool().into_keys() {
            if self.pools.get(name).map_err(StorageError::Pool)?.is_shared() {
                shared.push(name.clone());
            }
        }
        Ok(shared)
    }

    /// The files of a VM's disks, with the sizes that the disks are to have.
    pub(crate) fn sized_volumes(
        &self,
        job: &JobId,
        vm: &VmSpec,
    ) -> Result<Vec<(Volume, u64)>, StorageError> {
        let sizes = vm.disks.iter().map(|disk| disk.size_bytes);
        Ok(self.volumes(job, vm)?.into_iter().zip(sizes).collect())
    }

    /// What [`Storage::make_volumes`] has made.
    pub(crate) fn made_volumes(
        &self,
        job: &JobId,
        vm: &VmSpec,
    ) -> Result<Vec<Volume>, StorageError> {
        let mut volumes = self.volumes(job, vm)?;
        if vm.cloud_init.is_some() {
            let (name, path) = ("seed".to_owned(), self.seed_file(job));
            volumes.push(Volume { name, path, format: VolumeFormat::Iso, is_shared: false });
        }
        Ok(volumes)
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

    /// A volume in a pool, with all that its image says copied into it: the image may not be where the
    /// volume is used next. It never replaces one that is there.
    async fn make_pooled(
        &self,
        path: &Path,
        size_bytes: u64,
        image: Option<&ImageName>,
    ) -> Result<(), StorageError> {
        let new = path.with_extension(format!("{}.new", Uuid::new_v4().simple()));
        let made = self.fill_pooled(&new, size_bytes, image).await;
        let linked = made.and_then(|()| {
            let file = fs::File::open(&new).map_err(io_error("open", &new))?;
            file.sync_all().map_err(io_error("sync", &new))?;
            match fs::hard_link(&new, path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    Err(io_error("put in place", path)(error))
                }
                _ => Ok(()),
            }
        });
        ignore_missing(fs::remove_file(&new)).map_err(io_error("remove", &new))?;
        linked?;
        let folder = path.parent().unwrap_or(path);
        let folder = fs::File::open(folder).map_err(io_error("open", path))?;
        folder.sync_all().map_err(io_error("sync", path))
    }

    async fn fill_pooled(
        &self,
        new: &Path,
        size_bytes: u64,
        image: Option<&ImageName>,
    ) -> Result<(), StorageError> {
        match (self.maker, image) {
            (Maker::Sparse, _) => {
                let file = fs::File::create(new).map_err(io_error("make", new))?;
                file.set_len(size_bytes).map_err(io_error("size", new))
            }
            (Maker::QemuImg, None) => self.run_qemu_img(new, size_bytes, None).await,
            (Maker::QemuImg, Some(image)) => {
                let file = self.images.file(image);
                let format = qcow2::inspect(&file)?.0;
                let mut copy = Command::new("qemu-img");
                copy.args(["convert", "-q", "-f", format.as_str(), "-O", "qcow2"]);
                copy.arg(&file).arg(new);
                run_command(copy, new, COPY_DEADLINE).await?;
                let mut resize = Command::new("qemu-img");
                resize.args(["resize", "-q", "-f", "qcow2"]).arg(new).arg(size_bytes.to_string());
                run_command(resize, new, QEMU_IMG_DEADLINE).await
            }
        }
    }

    async fn run_qemu_img(
        &self,
        path: &Path,
        size_bytes: u64,
        image: Option<&ImageName>,
    ) -> Result<(), StorageError> {
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2"]);
        if let Some(image) = image {
            let file = self.images.file(image);
            // Never probed by qemu-img, which would follow what it finds.
            let format = qcow2::inspect(&file)?.0;
            command.args(["-F", format.as_str(), "-b"]).arg(&file);
        }
        command.arg(path).arg(size_bytes.to_string());
        run_command(command, path, QEMU_IMG_DEADLINE).await
    }

    /// Removes a job's volumes and console log. Those in pools go into the trash there, as far as they are
    /// this turn's.
    pub(crate) async fn delete_volumes(
        &self,
        job: &JobId,
        turn: Option<&Turn>,
    ) -> Result<(), StorageError> {
        if let Some(turn) = turn {
            for pool in turn.vm.bytes_by_pool().into_keys() {
                let (job, turn) = (job.clone(), turn.clone());
                let gone = self.pools.within(pool, move |pool| pool.discard(&job, &turn)).await;
                gone.map_err(StorageError::Pool)?;
            }
        }
        self.delete_own(job)
    }

    fn delete_own(&self, job: &JobId) -> Result<(), StorageError> {
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

/// Work that uses pools has a turn there: the core gives it one with every job that has volumes in them.
fn needed(turn: Option<&Turn>) -> Result<Turn, StorageError> {
    turn.cloned().ok_or_else(|| StorageError::Pool("the job has no turn in its pools".to_owned()))
}

/// The sizes that disks in a pool are to have, by name.
fn sizes_in(vm: &VmSpec, pool: &PoolName) -> BTreeMap<String, u64> {
    let in_pool = vm.disks.iter().filter(|disk| disk.named_pool() == Some(pool));
    in_pool.map(|disk| (disk.name.clone(), disk.size_bytes)).collect()
}

fn is_pooled(vm: &VmSpec, at: usize) -> bool {
    vm.disks.get(at).is_some_and(|disk| disk.named_pool().is_some())
}

fn find_outgrown(sized: Vec<(usize, (Volume, u64))>) -> Result<Vec<(usize, u64)>, StorageError> {
    let mut outgrown = Vec::new();
    for (at, (volume, bytes)) in sized {
        match qcow2::disk_bytes(&volume.path) {
            Ok(now) if now < bytes => outgrown.push((at, bytes)),
            Ok(_) => {}
            // It is made at the next start.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("read", &volume.path)(error)),
        }
    }
    Ok(outgrown)
}

fn words_of(error: StorageError) -> String {
    error.to_string()
}

fn gone(job: &JobId, disk: &DiskSpec, pool: &PoolName) -> StorageError {
    let disk = &disk.name;
    StorageError::Pool(format!("disk {disk:?} of {job} is not in pool {pool}, where it once was"))
}

/// Makes a volume this large that nobody uses, unless it is; never smaller.
pub(crate) async fn grow(volume: &Volume, bytes: u64) -> Result<(), StorageError> {
    let path = &volume.path;
    if qcow2::disk_bytes(path).map_err(io_error("read", path))? >= bytes {
        return Ok(());
    }
    if volume.format == VolumeFormat::Qcow2 {
        let mut resize = Command::new("qemu-img");
        resize.args(["resize", "-q", "-f", "qcow2"]).arg(path).arg(bytes.to_string());
        run_command(resize, path, QEMU_IMG_DEADLINE).await?;
    } else {
        let file = fs::OpenOptions::new().write(true).open(path).map_err(io_error("open", path))?;
        file.set_len(bytes).map_err(io_error("size", path))?;
    }
    let file = fs::File::open(path).map_err(io_error("open", path))?;
    file.sync_all().map_err(io_error("sync", path))
}

/// Runs a program that does something with a file.
pub(crate) async fn run_command(
    command: Command,
    path: &Path,
    deadline: Duration,
) -> Result<(), StorageError> {
    say_of(command, path, deadline).await.map(drop)
}

/// The same, for what it says of the file.
pub(crate) async fn say_of(
    mut command: Command,
    path: &Path,
    deadline: Duration,
) -> Result<Vec<u8>, StorageError> {
    let failed = |message: String| StorageError::QemuImg { path: path.to_owned(), message };
    command.stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(deadline, command.output()).await;
    let output = ended
        .map_err(|_| failed(format!("no end after {deadline:?}")))?
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

pub(crate) fn used_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => used_bytes(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}

fn suffix_of(format: VolumeFormat) -> &'static str {
    match format {
        VolumeFormat::Qcow2 => "qcow2",
        VolumeFormat::Raw | VolumeFormat::Iso => "raw",
    }
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
        let volumes = storage.make_volumes(&job, &vm, None).await.unwrap();
        fs::write(&volumes[0].path, b"precious").unwrap();
        storage.make_volumes(&job, &vm, None).await.unwrap();
        assert_eq!(&fs::read(&volumes[0].path).unwrap()[..8], b"precious");
        let mut larger = vm.clone();
        larger.disks[0].size_bytes = 2 << 20;
        assert_eq!(storage.outgrown(&job, &larger, Growing::Own).await.unwrap(), [(0, 2 << 20)]);
        storage.make_volumes(&job, &larger, None).await.unwrap();
        // Never smaller, whatever is asked for.
        storage.make_volumes(&job, &vm, None).await.unwrap();
        let now = fs::read(&volumes[0].path).unwrap();
        assert_eq!((now.len(), &now[..8]), (2 << 20, &b"precious"[..]));
        storage.delete_volumes(&job, None).await.unwrap();
        storage.delete_volumes(&job, None).await.unwrap();
        assert!(!volumes[0].path.exists());
    }
}
