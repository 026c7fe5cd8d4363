//! One pool on disk: its mark, whose turn it is with which volumes, and what was deleted.
//!
//! Other hosts work in the same directory at the same time. Decides what of it this host may touch: a
//! job's volumes only after its tag has been written, and the tag only if nobody else has used them since
//! (see [`Turn`]). Everything that looks at a tag and changes something because of it holds the job's
//! lock. Nothing is overwritten: a volume is linked into place, and fails to be where one is.
//!
//! ```text
//! POOL/.ostler/pool.json: the mark     POOL/.ostler/locks/JOB     POOL/volumes/JOB/tag.json, DISK.qcow2
//! POOL/trash/JOB.NUMBER/: a job's volumes after they were deleted; they are kept for a day
//! ```
//!
//! All of it blocks, for as long as the file system likes: see [`crate::pools::off`].

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::id::{HostId, JobId, PoolName};
use protocol::pool::{DeletedVolumes, PoolContent, PoolSpec, Tag};
use protocol::resources::Bytes;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::core::{Coming, Turn};
use crate::storage::used_bytes;

/// Largest mark or tag that is read. Others may write there.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// How long another host may take for what it does under a lock: a few small files.
const LOCK_TRIES: u32 = 200;
/// Pause between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(25);
/// How long deleted volumes are kept, by the file system's own clock.
const TRASH_SECONDS: i64 = 24 * 3600;

/// A pool that this host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pool {
    name: PoolName,
    id: Uuid,
    path: PathBuf,
    is_shared: bool,
}

/// What makes a directory a pool.
#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    id: Uuid,
}

/// What was measured of a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    /// The full virtual size of every volume in it.
    pub promised_bytes: u64,
    /// What its volumes take.
    pub used_bytes: u64,
}

/// Held while a tag is looked at and something is done because of it.
struct Lock {
    file: File,
}

fn io_words<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> String + 'a {
    move |error| format!("{what} {}: {error}", path.display())
}

impl Pool {
    /// What was declared; `None` before its id is known.
    pub(crate) fn of(name: &PoolName, spec: &PoolSpec) -> Option<Self> {
        let (name, path) = (name.clone(), PathBuf::from(&spec.path));
        Some(Self { name, id: spec.id?, path, is_shared: spec.shared })
    }

    /// Whether other hosts may use it as well.
    pub(crate) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Its id.
    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    // The mark.

    /// The id of the pool at a path, which becomes one if that is asked. Also says whether it was made by
    /// this. What `spec` says of id and sharing is checked.
    pub(crate) fn find(name: &PoolName, spec: &PoolSpec) -> Result<(Uuid, bool), String> {
        let path = Path::new(&spec.path);
        let found = fs::metadata(path).map_err(io_words("look at", path))?;
        if !found.is_dir() {
            return Err(format!("{} is no directory", path.display()));
        }
        let (id, is_new) = match (read_mark(path)?, spec.create) {
            (Some(mark), _) => (mark.id, false),
            (None, true) => (make_mark(path, spec.id)?, true),
            (None, false) => {
                return Err(format!(
                    "{} has no mark of a pool: is it mounted? If it is to become one, say so (create)",
                    path.display()
                ));
            }
        };
        if let Some(wanted) = spec.id.filter(|wanted| *wanted != id) {
            return Err(format!("{} is pool {id}, and not {wanted}", path.display()));
        }
        let pool = Self { name: name.clone(), id, path: path.to_owned(), is_shared: spec.shared };
        match pool.prepare() {
            Ok(()) => Ok((id, is_new)),
            Err(why) => {
                if is_new {
                    pool.unmake();
                }
                Err(why)
            }
        }
    }

    /// Makes its folders, and tries what a shared pool must be able to do.
    fn prepare(&self) -> Result<(), String> {
        for folder in [self.locks(), self.volumes(), self.trash()] {
            fs::create_dir_all(&folder).map_err(io_words("make folder", &folder))?;
        }
        drop(self.lock("pool")?);
        if !self.is_shared {
            return Ok(());
        }
        let trial = self.path.join(".ostler").join(format!(".{}.trial", Uuid::new_v4()));
        let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
        let tried = File::create_new(&trial).and_then(|_| {
            OpenOptions::new().read(true).custom_flags(direct).open(&trial).map(drop)
        });
        let _ = fs::remove_file(&trial);
        tried.map_err(|error| {
            format!(
                "{} can't be shared, because its file system can't be used past the page cache (O_DIRECT): {error}",
                self.path.display()
            )
        })
    }

    /// Takes back that a directory was made a pool, as long as nothing is in it.
    pub(crate) fn unmake(&self) {
        let _ = fs::remove_file(mark_file(&self.path));
        let _ = fs::remove_file(self.locks().join("pool"));
        for folder in [self.locks(), self.volumes(), self.trash(), self.path.join(".ostler")] {
            let _ = fs::remove_dir(folder);
        }
    }

    /// Whether it is the pool that was declared: by its mark, not by its path.
    pub(crate) fn check(&self) -> Result<(), String> {
        match read_mark(&self.path)? {
            Some(mark) if mark.id == self.id => Ok(()),
            Some(mark) => Err(format!(
                "{} is another pool now ({}), and not {}",
                self.path.display(),
                mark.id,
                self.id
            )),
            None => Err(format!(
                "{} has no mark of a pool: it is not mounted, or was emptied",
                self.path.display()
            )),
        }
    }

    // Whose turn it is.

    /// Takes a job's volumes for this stay, before anything is done with them. After it, `true` means
    /// that what is missing of them may be made.
    pub(crate) fn take(
        &self,
        job: &JobId,
        turn: &Turn,
        disks: &BTreeMap<String, u64>,
    ) -> Result<bool, String> {
        self.check()?;
        let _lock = self.lock(job.as_str())?;
        let tag = self.tag(job)?;
        if let Some(tag) = tag.as_ref().filter(|tag| is_mine(tag, turn) && tag.arriving.is_none()) {
            // What was promised by the ledger is promised, also if its host died before it wrote that here.
            let grown = tag.grown_to(disks);
            if grown != *tag {
                self.write_tag(&grown)?;
            }
            return Ok(!tag.is_made);
        }
        self.may_take(job, tag.as_ref(), turn)?;
        let is_made = tag.as_ref().is_some_and(|tag| tag.is_made);
        let new = Tag {
            job: job.clone(),
            host: turn.host.clone(),
            taken: turn.stay.taken,
            revision: turn.revision,
            is_made,
            arriving: None,
            disks: tag.as_ref().map_or(disks.clone(), |tag| tag.grown_to(disks).disks),
            snapshots: tag.as_ref().map_or_else(Vec::new, |tag| tag.snapshots.clone()),
        };
        if tag.is_some() {
            self.write_tag(&new)?;
            return Ok(!is_made);
        }
        let _all = self.lock("pool")?;
        self.check_room(job, new.bytes())??;
        let folder = self.job_folder(job);
        fs::create_dir_all(&folder).map_err(io_words("make folder", &folder))?;
        self.write_tag(&new)?;
        Ok(true)
    }

    /// Whether so many bytes more can be promised, which the inner answer says. Two hosts may promise at
    /// once: whoever asks holds the pool's lock until its tag says so.
    fn check_room(&self, job: &JobId, bytes: u64) -> Result<Result<(), String>, String> {
        let promised_bytes = promised(&self.content()?);
        let capacity_bytes = self.capacity_bytes()?;
        if promised_bytes.saturating_add(bytes) <= capacity_bytes {
            return Ok(Ok(()));
        }
        Ok(Err(format!(
            "pool {} has {} to promise, and {job} needs {}",
            self.name,
            Bytes(capacity_bytes.saturating_sub(promised_bytes)),
            Bytes(bytes)
        )))
    }

    /// The lock of a job's volumes that are this stay's; `None` when there are none, an error when they are
    /// another's.
    fn lock_of(&self, job: &JobId, turn: &Turn) -> Result<Option<Lock>, String> {
        self.check()?;
        let lock = self.lock(job.as_str())?;
        match self.tag(job)? {
            Some(tag) if is_mine(&tag, turn) => Ok(Some(lock)),
            Some(tag) => Err(self.used_since(&tag)),
            None => Ok(None),
        }
    }

    /// Why a tag that is not this stay's leaves it nothing to do here.
    fn used_since(&self, tag: &Tag) -> String {
        format!(
            "the volumes of {} in pool {} were used since by host {} (revision {})",
            tag.job,
            self.name,
            tag.host.short(),
            tag.revision
        )
    }

    fn may_take(&self, job: &JobId, tag: Option<&Tag>, turn: &Turn) -> Result<(), String> {
        let pool = &self.name;
        let since = |tag: &Tag| self.used_since(tag);
        match (&turn.stay.coming, tag) {
            (_, Some(tag)) if is_mine(tag, turn) => Ok(()),
            (Coming::Makes, None) => Ok(()),
            (Coming::Makes, Some(tag)) => Err(format!(
                "pool {pool} has volumes of another {job}, used last by host {} (revision {}): delete \
                 them with `ostler volumes rm`, or choose another name",
                tag.host.short(),
                tag.revision
            )),
            // In a pool of this host's own there is nothing to be found of what was elsewhere.
            (Coming::Finds { .. }, None) if !self.is_shared => Ok(()),
            (Coming::Finds { .. }, Some(tag)) if !self.is_shared && tag.host == turn.host => Ok(()),
            (Coming::Finds { .. } | Coming::Again, None) => Err(format!(
                "the volumes of {job} are not in pool {pool}; `ostler volumes` shows what was deleted"
            )),
            (Coming::Again, Some(tag)) => Err(since(tag)),
            (Coming::Finds { .. }, Some(tag)) if tag.revision >= turn.revision => Err(since(tag)),
            (Coming::Finds { from: Some(from) }, Some(tag))
                if tag.host != *from && tag.arriving.as_ref() != Some(from) =>
            {
                Err(format!(
                    "the volumes of {job} in pool {pool} were used last by host {}, and not by {}, which \
                     ran it: is this a copy of the pool?",
                    tag.host.short(),
                    from.short()
                ))
            }
            (Coming::Finds { .. }, Some(_)) => Ok(()),
        }
    }

    /// All of a job's volumes are there from now on.
    pub(crate) fn set_made(&self, job: &JobId, turn: &Turn) -> Result<(), String> {
        let _lock = self.lock(job.as_str())?;
        match self.tag(job)? {
            Some(tag) if is_mine(&tag, turn) && !tag.is_made => {
                self.write_tag(&Tag { is_made: true, ..tag })
            }
            _ => Ok(()),
        }
    }

    /// Says that this host is about to take over a running guest with its volumes, which are left as
    /// they are.
    pub(crate) fn announce(&self, job: &JobId, turn: &Turn) -> Result<(), String> {
        self.check()?;
        let _lock = self.lock(job.as_str())?;
        let tag = self.tag(job)?;
        self.may_take(job, tag.as_ref(), turn)?;
        match tag {
            Some(tag) if !is_mine(&tag, turn) => {
                self.write_tag(&Tag { arriving: Some(turn.host.clone()), ..tag })
            }
            _ => Ok(()),
        }
    }

    /// Puts a job's volumes into the trash, if they are this stay's to put there; else leaves them.
    pub(crate) fn discard(&self, job: &JobId, turn: &Turn) -> Result<(), String> {
        if self.is_shared && !turn.deletes_shared {
            return Ok(());
        }
        self.check()?;
        let _lock = self.lock(job.as_str())?;
        match self.tag(job)? {
            Some(tag) if is_mine(&tag, turn) => self.to_trash(job),
            Some(tag) => {
                let (pool, host) = (&self.name, tag.host.short());
                tracing::info!(%job, %pool, host, "its volumes are another's now, and stay");
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Puts volumes into the trash that are nobody's any more, by a person's word. Whoever used them last is
    /// to be named: so nothing is deleted that has been used since somebody looked.
    pub(crate) fn discard_of(&self, job: &JobId, by: &HostId) -> Result<(), String> {
        self.check()?;
        let _lock = self.lock(job.as_str())?;
        match self.tag(job)? {
            Some(tag) if tag.host == *by => self.to_trash(job),
            Some(tag) => Err(format!(
                "the volumes of {job} were used last by host {}: look at them again",
                tag.host.short()
            )),
            None => Ok(()),
        }
    }

    fn to_trash(&self, job: &JobId) -> Result<(), String> {
        let folder = self.job_folder(job);
        // Its age is counted from this file's: the folder keeps its own when it is renamed.
        let stamp = folder.join("deleted");
        write_new(&stamp).map_err(io_words("write", &stamp))?;
        let number = Uuid::new_v4().simple().to_string();
        let entry = self.trash().join(format!("{job}.{}", &number[..12]));
        fs::rename(&folder, &entry).map_err(io_words("put into the trash", &folder))?;
        sync(&self.trash()).and_then(|()| sync(&self.volumes())).map_err(io_words("sync", &entry))
    }

    /// Takes volumes out of the trash again; `None` when they are not in it.
    pub(crate) fn restore(&self, entry: &str) -> Result<Option<Tag>, String> {
        self.check()?;
        let from = self.trash().join(entry);
        let is_entry = !entry.starts_with('.') && !entry.contains('/');
        let Some(tag) = is_entry.then(|| read_json::<Tag>(&from.join("tag.json"))).transpose()?
        else {
            return Ok(None);
        };
        let Some(tag) = tag else { return Ok(None) };
        let _lock = self.lock(tag.job.as_str())?;
        let to = self.job_folder(&tag.job);
        if to.exists() {
            return Err(format!("pool {} has other volumes of {}", self.name, tag.job));
        }
        fs::rename(&from, &to).map_err(io_words("take out of the trash", &from))?;
        let _ = fs::remove_file(to.join("deleted"));
        sync(&self.trash()).and_then(|()| sync(&self.volumes())).map_err(io_words("sync", &to))?;
        Ok(Some(tag))
    }

    // What is in it.

    /// Where a volume is, or would be.
    pub(crate) fn volume(&self, job: &JobId, disk: &str, suffix: &str) -> PathBuf {
        self.job_folder(job).join(format!("{disk}.{suffix}"))
    }

    /// What is promised in it, and what that takes.
    pub(crate) fn measure(&self) -> Result<Measured, String> {
        let content = self.content()?;
        Ok(Measured { promised_bytes: promised(&content), used_bytes: used_bytes(&self.volumes()) })
    }

    /// Bytes that may be promised in all.
    fn capacity_bytes(&self) -> Result<u64, String> {
        Ok(self.free_bytes()?.saturating_add(used_bytes(&self.volumes())))
    }

    /// Bytes that are free for whoever may use all of them.
    pub(crate) fn free_bytes(&self) -> Result<u64, String> {
        let stat = rustix::fs::statvfs(&self.path)
            .map_err(|error| io_words("measure", &self.path)(error.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Everything that has a tag. What has none is nobody's, and is left alone.
    pub(crate) fn content(&self) -> Result<PoolContent, String> {
        let volumes = tags(&self.volumes())?;
        let deleted = tags(&self.trash())?;
        let volumes = volumes.into_iter().map(|(_, tag)| tag).collect();
        let deleted = deleted.into_iter().map(|(entry, tag)| DeletedVolumes {
            entry,
            tag,
            used: BTreeMap::new(),
        });
        Ok(PoolContent { volumes, deleted: deleted.collect(), used: BTreeMap::new() })
    }

    /// The same, with what the files take.
    pub(crate) fn measured_content(&self) -> Result<PoolContent, String> {
        self.check()?;
        let mut content = self.content()?;
        for tag in &content.volumes {
            content.used.insert(tag.job.clone(), used_by_disk(&self.job_folder(&tag.job), tag));
        }
        for gone in &mut content.deleted {
            gone.used = used_by_disk(&self.trash().join(&gone.entry), &gone.tag);
        }
        Ok(content)
    }

    /// Removes what has been in the trash for long enough.
    pub(crate) fn sweep(&self) -> Result<(), String> {
        let entries = tags(&self.trash())?;
        if entries.is_empty() {
            return Ok(());
        }
        let now = self.path.join(".ostler").join(format!(".{}.now", Uuid::new_v4()));
        let now_s = write_new(&now).and_then(|()| fs::metadata(&now)).map(|found| found.mtime());
        let _ = fs::remove_file(&now);
        let now_s = now_s.map_err(io_words("write", &now))?;
        for (entry, _) in entries {
            let folder = self.trash().join(&entry);
            let Ok(stamp) = fs::metadata(folder.join("deleted")) else { continue };
            if now_s.saturating_sub(stamp.mtime()) > TRASH_SECONDS {
                tracing::info!(pool = %self.name, entry, "removed, after its time in the trash");
                fs::remove_dir_all(&folder).map_err(io_words("remove", &folder))?;
            }
        }
        Ok(())
    }

    fn tag(&self, job: &JobId) -> Result<Option<Tag>, String> {
        read_json(&self.job_folder(job).join("tag.json"))
    }

    fn write_tag(&self, tag: &Tag) -> Result<(), String> {
        let path = self.job_folder(&tag.job).join("tag.json");
        let text = serde_json::to_vec(tag).expect("our nouns are always valid JSON");
        transport::durable::replace(&path, &text).map_err(io_words("write", &path))
    }

    fn lock(&self, name: &str) -> Result<Lock, String> {
        let path = self.locks().join(name);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(io_words("open", &path))?;
        for _ in 0..LOCK_TRIES {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock { file }),
                Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
                Err(error) => return Err(io_words("lock", &path)(error.into())),
            }
        }
        Err(format!("another host holds {} and does not let go", path.display()))
    }

    fn locks(&self) -> PathBuf {
        self.path.join(".ostler/locks")
    }

    fn volumes(&self) -> PathBuf {
        self.path.join("volumes")
    }

    fn trash(&self) -> PathBuf {
        self.path.join("trash")
    }

    fn job_folder(&self, job: &JobId) -> PathBuf {
        self.volumes().join(job.as_str())
    }
}

/// What the files of volumes in a folder take, by disk. Those that are not there, or can't be looked at, are
/// left out.
pub(crate) fn used_by_disk(folder: &Path, tag: &Tag) -> BTreeMap<String, u64> {
    let used = tag.disks.keys().filter_map(|disk| {
        let mut files =
            ["qcow2", "raw"].map(|suffix| folder.join(format!("{disk}.{suffix}"))).into_iter();
        let found = files.find_map(|file| fs::metadata(file).ok())?;
        Some((disk.clone(), found.blocks() * 512))
    });
    used.collect()
}

fn promised(content: &PoolContent) -> u64 {
    content.volumes.iter().fold(0, |sum, tag| sum.saturating_add(tag.bytes()))
}

fn is_mine(tag: &Tag, turn: &Turn) -> bool {
    tag.host == turn.host && tag.taken == turn.stay.taken
}

fn mark_file(path: &Path) -> PathBuf {
    path.join(".ostler/pool.json")
}

fn read_mark(path: &Path) -> Result<Option<Mark>, String> {
    read_json(&mark_file(path))
}

fn make_mark(path: &Path, id: Option<Uuid>) -> Result<Uuid, String> {
    let file = mark_file(path);
    let folder = path.join(".ostler");
    fs::create_dir_all(&folder).map_err(io_words("make folder", &folder))?;
    let mark = Mark { id: id.unwrap_or_else(Uuid::new_v4) };
    let text = serde_json::to_vec(&mark).expect("our nouns are always valid JSON");
    match transport::durable::create(&file, &text) {
        Ok(()) => Ok(mark.id),
        // Another host was first: it is that pool.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match read_mark(path)? {
            Some(mark) => Ok(mark.id),
            None => Err(io_words("read", &file)(io::ErrorKind::NotFound.into())),
        },
        Err(error) => Err(io_words("write", &file)(error)),
    }
}

/// Reads a small file that others may have written; `None` when there is none.
fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_words("read", path)(error)),
    };
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(io_words("read", path))?;
    let read = serde_json::from_slice(&text);
    read.map(Some).map_err(|error| format!("{} can't be read: {error}", path.display()))
}

/// The folders with a tag that can be read, by name.
fn tags(folder: &Path) -> Result<Vec<(String, Tag)>, String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_words("list", folder))? {
        let entry = entry.map_err(io_words("list", folder))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        match read_json(&entry.path().join("tag.json")) {
            Ok(Some(tag)) => found.push((name, tag)),
            Ok(None) => {}
            Err(why) => tracing::warn!("{why}"),
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

fn write_new(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(b"\n")?;
    file.sync_all()
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

mod growth;
pub(crate) use growth::Promise;

mod snapshots;
pub(crate) use snapshots::{Deed, Noted};

#[cfg(test)]
mod tests;
