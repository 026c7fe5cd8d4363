//! Backups as they lie in a folder: the manifest of each, which there are, and which go.
//!
//! A backup is there once it has its name: its folder gets its name when all of it is on disk. What goes
//! loses its name first.
//!
//! ```text
//! FOLDER/VM/20261130-012014/backup.json, DISK.qcow2     FOLDER/VM/.lock: one at a time takes backups of a VM
//! FOLDER/VM/.20261130-012014.part: not yet, or no more, and cleaned up by whoever takes the next one
//! ```

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use protocol::host::ImageFacts;
use protocol::id::JobId;
use protocol::job::{JobKind, JobSpec};
use protocol::signed::Digest;
use protocol::vm::VmSpec;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::command::import::digest_of;
use crate::command::taking::stamp;
use crate::exit::{Code, Failure};

/// The form of manifests. A later one that says something else has another number.
const FORM: u32 = 1;
/// The file with a backup's manifest.
const MANIFEST: &str = "backup.json";
/// What is locked by whoever makes a backup of a VM.
const LOCK: &str = ".lock";
/// Most bytes of it that are read: 16 disks and 32 KiB of cloud-init are a tenth of it.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// What a backup is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// [`FORM`].
    pub(super) form: u32,
    /// The VM.
    pub(super) vm: JobId,
    /// Of which moment, in milliseconds since 1970.
    pub(super) taken_ms: u64,
    /// The host that it was on.
    pub(super) host: String,
    /// What it was. It may hold secrets, as cloud-init's data do: only its owner may read it.
    pub(super) spec: JobSpec,
    /// Its disks, in boot order.
    pub(super) disks: Vec<KeptDisk>,
}

/// A disk, as a file beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptDisk {
    /// Its name within the VM.
    pub(super) name: String,
    /// The file.
    pub(super) file: String,
    /// What the file is.
    pub(super) sha256: Digest,
    /// How large it is.
    pub(super) file_bytes: u64,
    /// How large the disk is.
    pub(super) virtual_bytes: u64,
}

/// A backup that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Backup {
    /// Its folder.
    pub(super) path: PathBuf,
    /// What it is of.
    pub(super) manifest: Manifest,
}

impl Backup {
    fn read(path: &Path) -> Result<Self, Failure> {
        let file = path.join(MANIFEST);
        let failed = |why: String| {
            Failure::new(Code::Failed, format!("read the backup {}", path.display())).because(why)
        };
        let size = fs::metadata(&file).map_err(|e| failed(e.to_string()))?.len();
        if size > MANIFEST_BYTES_MAX {
            return Err(failed(format!("{MANIFEST} has {size} bytes")));
        }
        let text = fs::read(&file).map_err(|e| failed(e.to_string()))?;
        let form = serde_json::from_slice::<Value>(&text).map_err(|e| failed(e.to_string()))?;
        match form["form"].as_u64() {
            Some(form) if form == u64::from(FORM) => {}
            Some(form) => {
                let why = format!("its manifest has form {form}, of another version of ostler");
                return Err(failed(why));
            }
            None => return Err(failed("its manifest does not say in which form it is".to_owned())),
        }
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|e| failed(e.to_string()))?;
        // Files are beside it and nowhere else, whoever wrote this.
        if let Some(disk) = manifest.disks.iter().find(|disk| !is_file_name(&disk.file)) {
            return Err(failed(format!("{:?} is no name of a file in it", disk.file)));
        }
        Ok(Self { path: path.to_owned(), manifest })
    }

    /// The file of a disk.
    pub(super) fn file(&self, disk: &KeptDisk) -> PathBuf {
        self.path.join(&disk.file)
    }

    /// What its files take.
    pub(super) fn bytes(&self) -> u64 {
        self.manifest.disks.iter().fold(0, |sum, disk| sum.saturating_add(disk.file_bytes))
    }

    /// What it is of, if a VM can be made of it: one that goes on, and whose disks are those beside it.
    pub(super) fn vm(&self) -> Result<&VmSpec, Failure> {
        let failed = |why: String| {
            let what = format!("no VM can be made of {}", self.path.display());
            Failure::new(Code::Failed, what).because(why)
        };
        let JobKind::Vm(vm) = &self.manifest.spec.kind else {
            return Err(failed("it is not of a VM that goes on".to_owned()));
        };
        let of_spec = vm.disks.iter().map(|disk| &disk.name);
        if vm.disks.is_empty() || !self.manifest.disks.iter().map(|disk| &disk.name).eq(of_spec) {
            return Err(failed("its disks are not those that the VM had".to_owned()));
        }
        if vm.adopted.is_some() {
            return Err(failed("it is of an adopted VM, which is another's definition".to_owned()));
        }
        self.manifest.spec.validate().map_err(|error| failed(error.to_string()))?;
        Ok(vm)
    }

    /// What is wrong with it; reads all of it.
    pub(super) async fn check(&self) -> Option<String> {
        if let Err(failure) = self.vm() {
            return Some(failure.cause());
        }
        for disk in &self.manifest.disks {
            match digest_of(self.file(disk)).await {
                Ok(found) if found == disk.sha256.to_string() => {}
                Ok(found) => {
                    let KeptDisk { file, sha256, .. } = disk;
                    return Some(format!("{file} has sha256 {found}, and was written as {sha256}"));
                }
                Err(failure) => return Some(failure.cause()),
            }
        }
        None
    }

    pub(super) fn json(&self) -> Value {
        let Manifest { vm, taken_ms, host, disks, .. } = &self.manifest;
        json!({ "vm": vm, "taken_ms": taken_ms, "host": host, "bytes": self.bytes(),
                "disks": disks, "path": self.path })
    }
}

fn is_file_name(text: &str) -> bool {
    Path::new(text).file_name().is_some_and(|name| name == text)
}

/// A folder with backups.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// A folder that is there.
    pub(super) fn at(path: &Path) -> Result<Self, Failure> {
        if path.is_dir() {
            return Ok(Self(path.to_owned()));
        }
        let what = format!("there is no folder {}", path.display());
        Err(Failure::new(Code::NotFound, what).next("ostler backup take VM --to FOLDER"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The backup that this folder is, if it is one.
    pub(super) fn itself(&self) -> Result<Option<Backup>, Failure> {
        match self.0.join(MANIFEST).exists() {
            true => Backup::read(&self.0).map(Some),
            false => Ok(None),
        }
    }

    /// All in it, by VM, the oldest first: itself, those of a VM, or those of many. And those that can't be read.
    pub(super) fn backups(&self) -> Result<(Vec<Backup>, Vec<Failure>), Failure> {
        let (mut backups, mut unreadable) = (Vec::new(), Vec::new());
        // What lies in a VM's own folder is its backups, and what is deeper was put there for another reason.
        let deep = if self.0.join(LOCK).exists() { 1 } else { 2 };
        for path in find(&self.0, deep)? {
            match Backup::read(&path) {
                Ok(backup) => backups.push(backup),
                Err(failure) => unreadable.push(failure),
            }
        }
        backups.sort_by(|a: &Backup, b: &Backup| {
            (&a.manifest.vm, a.manifest.taken_ms).cmp(&(&b.manifest.vm, b.manifest.taken_ms))
        });
        Ok((backups, unreadable))
    }
}

/// Backups at most this many folders deep. Hidden ones are not there yet, or no more; links lead to what is
/// counted where it is.
fn find(path: &Path, deep: u32) -> Result<Vec<PathBuf>, Failure> {
    if path.join(MANIFEST).exists() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    if deep == 0 {
        return Ok(found);
    }
    for entry in fs::read_dir(path).map_err(|e| failed("list", path, &e))? {
        let entry = entry.map_err(|e| failed("list", path, &e))?;
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && !entry.file_name().to_string_lossy().starts_with('.') {
            found.extend(find(&entry.path(), deep - 1)?);
        }
    }
    Ok(found)
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(Code::Failed, format!("{what} {}", path.display())).because(error.to_string())
}

/// The backups of one VM, for whoever makes another one: nobody else does meanwhile.
#[derive(Debug)]
pub(super) struct Shelf {
    path: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
}

/// A backup that is being made.
#[derive(Debug)]
pub(super) struct Draft {
    path: PathBuf,
    name: String,
    /// True once it is there.
    is_named: bool,
}

impl Shelf {
    /// Makes the VM's folder if need be, and cleans up what was never finished.
    pub(super) fn of(folder: &Path, vm: &JobId) -> Result<Self, Failure> {
        let path = folder.join(vm.as_str());
        let make = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        let synced = make.and_then(|()| File::open(folder)?.sync_all());
        synced.map_err(|e| failed("make folder", &path, &e))?;
        let shelf = Self::locked(path, vm)?;
        shelf.sweep()?;
        Ok(shelf)
    }

    fn locked(path: PathBuf, vm: &JobId) -> Result<Self, Failure> {
        let lock = path.join(LOCK);
        let mut open = fs::OpenOptions::new();
        open.create(true).truncate(false).write(true).mode(0o600);
        let file = open.open(&lock).map_err(|e| failed("open", &lock, &e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let what = format!("somebody else makes a backup of {vm} in {}", path.display());
                return Err(Failure::new(Code::Refused, what).next("wait until that has ended"));
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock", &lock, &error)),
        }
        Ok(Self { path, _lock: file })
    }

    /// Where a backup that is there lies: with the others of its VM, or wherever somebody has put it.
    pub(super) fn beside(backup: &Backup) -> Result<Self, Failure> {
        // By its own name, whatever link or dots led to it.
        let path = fs::canonicalize(&backup.path).map_err(|e| failed("find", &backup.path, &e))?;
        let path = path.parent().unwrap_or(&path).to_owned();
        Self::locked(path, &backup.manifest.vm)
    }

    fn sweep(&self) -> Result<(), Failure> {
        for entry in fs::read_dir(&self.path).map_err(|e| failed("list", &self.path, &e))? {
            let entry = entry.map_err(|e| failed("list", &self.path, &e))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_draft = name.starts_with('.') && name.ends_with(".part");
            if is_draft && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                fs::remove_dir_all(&path).map_err(|e| failed("remove", &path, &e))?;
            }
        }
        Ok(())
    }

    /// Begins one of this moment.
    pub(super) fn begin(&self, taken_ms: u64) -> Result<Draft, Failure> {
        let name = stamp(taken_ms);
        let path = self.path.join(format!(".{name}.part"));
        if self.path.join(&name).exists() {
            let what = format!("there is a backup {} already", self.path.join(&name).display());
            return Err(Failure::new(Code::Refused, what).next("a second later"));
        }
        let make = DirBuilder::new().mode(0o700).create(&path);
        make.map_err(|e| failed("make folder", &path, &e))?;
        Ok(Draft { path, name, is_named: false })
    }

    /// Those of the VM that are right here, the oldest first. Others somebody has put somewhere else on purpose.
    fn backups(&self, vm: &JobId) -> Result<Vec<Backup>, Failure> {
        let found = find(&self.path, 1)?.into_iter().filter_map(|path| Backup::read(&path).ok());
        let mut backups: Vec<Backup> = found.filter(|backup| backup.manifest.vm == *vm).collect();
        backups.sort_by_key(|backup| backup.manifest.taken_ms);
        Ok(backups)
    }

    /// Gives a file of an earlier backup another name, if one has this content and still is what was written.
    /// A disk that has not changed is kept once, and goes with the last backup that has it.
    pub(super) async fn link(&self, vm: &JobId, facts: &ImageFacts, to: &Path) -> bool {
        let backups = self.backups(vm).unwrap_or_default();
        let is_same =
            |disk: &&KeptDisk| (disk.sha256, disk.file_bytes) == (facts.sha256, facts.file_bytes);
        let same = backups
            .iter()
            .rev()
            .find_map(|backup| Some(backup.file(backup.manifest.disks.iter().find(is_same)?)));
        let Some(file) = same else { return false };
        let found = digest_of(file.clone()).await;
        found.is_ok_and(|found| found == facts.sha256.to_string())
            && fs::hard_link(&file, to).is_ok()
    }

    /// From now on it is there.
    pub(super) fn finish(&self, mut draft: Draft, manifest: Manifest) -> Result<Backup, Failure> {
        let file = draft.path.join(MANIFEST);
        let text = serde_json::to_vec_pretty(&manifest).expect("our nouns are always valid JSON");
        transport::durable::replace(&file, &text).map_err(|e| failed("write", &file, &e))?;
        let path = self.path.join(&draft.name);
        let named =
            fs::rename(&draft.path, &path).and_then(|()| File::open(&self.path)?.sync_all());
        named.map_err(|e| failed("name", &path, &e))?;
        draft.is_named = true;
        Ok(Backup { path, manifest })
    }

    /// Deletes the oldest until so many are left, this one among them whatever clocks have said; which were
    /// deleted.
    pub(super) fn keep(&self, made: &Backup, most: u32) -> Result<Vec<PathBuf>, Failure> {
        let mut others = self.backups(&made.manifest.vm)?;
        others.retain(|backup| backup.path != made.path);
        let most = usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(1);
        let mut gone = Vec::new();
        for backup in &others[..others.len().saturating_sub(most)] {
            self.remove(&backup.path)?;
            gone.push(backup.path.clone());
        }
        Ok(gone)
    }

    /// Deletes one; how many of its VM are left beside it. A disk that others have as well, they keep.
    pub(super) fn delete(&self, backup: &Backup) -> Result<usize, Failure> {
        let path = fs::canonicalize(&backup.path).map_err(|e| failed("find", &backup.path, &e))?;
        self.remove(&path)?;
        Ok(self.backups(&backup.manifest.vm)?.len())
    }

    fn remove(&self, backup: &Path) -> Result<(), Failure> {
        let name = backup.file_name().unwrap_or_default().to_string_lossy();
        let part = self.path.join(format!(".{name}.part"));
        let unnamed = fs::rename(backup, &part).and_then(|()| File::open(&self.path)?.sync_all());
        let removed = unnamed.and_then(|()| fs::remove_dir_all(&part));
        removed.map_err(|e| failed("remove", backup, &e))
    }

    /// One of this VM that is later than this one, by what hosts' clocks have said.
    pub(super) fn later_than(&self, made: &Backup) -> Option<Backup> {
        let newest = self.backups(&made.manifest.vm).ok()?.pop()?;
        (newest.manifest.taken_ms > made.manifest.taken_ms).then_some(newest)
    }
}

impl Draft {
    /// Where its files go until it is there.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// What is not finished is nothing.
impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_named {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

impl Manifest {
    /// What a backup of this VM says.
    pub(super) fn of(vm: JobId, taken_ms: u64, host: String, spec: JobSpec) -> Self {
        Self { form: FORM, vm, taken_ms, host, spec, disks: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use protocol::vm::{DiskSpec, VmSpec};

    use super::*;

    fn vm() -> JobId {
        JobId::new("web-1").unwrap()
    }

    fn manifest(taken_ms: u64) -> Manifest {
        let root = DiskSpec { name: "root".into(), size_bytes: 1 << 20, ..DiskSpec::default() };
        let spec =
            VmSpec { vcpus: 1, memory_bytes: 64 << 20, disks: vec![root], ..VmSpec::default() };
        Manifest::of(vm(), taken_ms, "h1".to_owned(), JobSpec::vm(spec))
    }

    fn make(shelf: &Shelf, taken_ms: u64) -> Backup {
        let draft = shelf.begin(taken_ms).unwrap();
        fs::write(draft.path().join("root.qcow2"), b"root").unwrap();
        let disk = KeptDisk {
            name: "root".to_owned(),
            file: "root.qcow2".to_owned(),
            sha256: Digest::of(b"root"),
            file_bytes: 4,
            virtual_bytes: 1 << 20,
        };
        shelf.finish(draft, Manifest { disks: vec![disk], ..manifest(taken_ms) }).unwrap()
    }

    #[tokio::test]
    async fn a_backup_is_there_when_all_of_it_is_and_the_oldest_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::of(folder.path(), &vm()).unwrap();
        let unfinished = shelf.begin(1).unwrap();
        let all = Folder::at(folder.path()).unwrap();
        assert!(all.backups().unwrap().0.is_empty());
        drop(unfinished);
        for at_ms in [3_000, 1_000, 2_000] {
            make(&shelf, at_ms);
        }
        let (backups, _) = all.backups().unwrap();
        let moments: Vec<_> = backups.iter().map(|backup| backup.manifest.taken_ms).collect();
        assert_eq!(moments, [1_000, 2_000, 3_000]);
        assert_eq!(backups[0].check().await, None);
        assert_eq!(shelf.later_than(&backups[1]), Some(backups[2].clone()));
        let gone = shelf.keep(&backups[2], 2).unwrap();
        assert_eq!(gone, [backups[0].path.clone()]);
        assert!(shelf.begin(2_500).is_err(), "of the same second");
        let (one, _) = Folder::at(&backups[2].path).unwrap().backups().unwrap();
        assert_eq!(one, backups[2..]);
        fs::write(backups[2].path.join("root.qcow2"), b"rust").unwrap();
        let damage = backups[2].check().await.unwrap();
        assert!(damage.contains("root.qcow2"), "{damage}");
    }

    #[tokio::test]
    async fn what_has_not_changed_is_kept_once_unless_it_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::of(folder.path(), &vm()).unwrap();
        let first = make(&shelf, 1_000);
        let facts = |content: &[u8]| ImageFacts {
            sha256: Digest::of(content),
            file_bytes: 4,
            virtual_bytes: 1 << 20,
            format: None,
        };
        let draft = shelf.begin(2_000).unwrap();
        assert!(!shelf.link(&vm(), &facts(b"rest"), &draft.path().join("a")).await);
        assert!(shelf.link(&vm(), &facts(b"root"), &draft.path().join("b")).await);
        assert_eq!(fs::read(draft.path().join("b")).unwrap(), b"root");
        fs::write(first.path.join("root.qcow2"), b"rust").unwrap();
        assert!(!shelf.link(&vm(), &facts(b"root"), &draft.path().join("c")).await);
    }

    #[tokio::test]
    async fn one_that_is_deleted_takes_nothing_from_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::of(folder.path(), &vm()).unwrap();
        let first = make(&shelf, 1_000);
        let draft = shelf.begin(2_000).unwrap();
        let facts = ImageFacts {
            sha256: Digest::of(b"root"),
            file_bytes: 4,
            virtual_bytes: 1 << 20,
            format: None,
        };
        assert!(shelf.link(&vm(), &facts, &draft.path().join("root.qcow2")).await);
        let disks = first.manifest.disks.clone();
        let second = shelf.finish(draft, Manifest { disks, ..manifest(2_000) }).unwrap();
        assert_eq!(Shelf::beside(&first).unwrap_err().code, Code::Refused, "one is being made");
        drop(shelf);
        let link = folder.path().join("latest");
        std::os::unix::fs::symlink(&first.path, &link).unwrap();
        let by_link = Folder::at(&link).unwrap().itself().unwrap().unwrap();
        assert_eq!(Shelf::beside(&by_link).unwrap().delete(&by_link).unwrap(), 1);
        assert!(!first.path.exists() && Folder::at(&link).is_err());
        assert_eq!(second.check().await, None, "the file has another name still");
        assert_eq!(Shelf::beside(&second).unwrap().delete(&second).unwrap(), 0);
        assert!(Folder::at(folder.path()).unwrap().itself().unwrap().is_none());
    }

    #[test]
    fn one_at_a_time_makes_backups_of_a_vm_and_cleans_up_after_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::of(folder.path(), &vm()).unwrap();
        std::mem::forget(shelf.begin(1_000).unwrap());
        let busy = Shelf::of(folder.path(), &vm()).unwrap_err();
        assert_eq!(busy.code, Code::Refused);
        drop(shelf);
        let left = || {
            let entries = fs::read_dir(folder.path().join("web-1")).unwrap().flatten();
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(left().len(), 2, "the lock and what was begun");
        Shelf::of(folder.path(), &vm()).unwrap();
        assert_eq!(left(), [".lock"]);
    }

    #[test]
    fn what_somebody_else_wrote_there_is_read_with_care() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::of(folder.path(), &vm()).unwrap();
        let backup = make(&shelf, 1_000);
        let file = backup.path.join(MANIFEST);
        let text = fs::read_to_string(&file).unwrap();
        let cases = [
            (text.replace("\"root.qcow2\"", "\"../../passwd\""), "no name of a file"),
            (text.replace("\"form\": 1", "\"form\": 2"), "another version"),
            ("[]".to_owned(), "in which form it is"),
            ("{".to_owned(), "EOF"),
        ];
        for (text, said) in cases {
            fs::write(&file, text).unwrap();
            let (read, unreadable) = Folder::at(folder.path()).unwrap().backups().unwrap();
            assert_eq!((read.len(), unreadable.len()), (0, 1));
            let cause = unreadable[0].cause();
            assert!(cause.contains(said), "{cause}");
        }
    }

    #[test]
    fn the_one_just_made_is_kept_whatever_clocks_say_and_what_lies_elsewhere_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::of(folder.path(), &vm()).unwrap();
        let archived = make(&shelf, 500);
        let archive = folder.path().join("web-1/archive");
        fs::create_dir(&archive).unwrap();
        fs::rename(&archived.path, archive.join("old")).unwrap();
        let of_tomorrow = make(&shelf, 90_000_000);
        std::os::unix::fs::symlink(&of_tomorrow.path, folder.path().join("web-1/latest")).unwrap();
        let made = make(&shelf, 2_000);
        assert_eq!(shelf.keep(&made, 2).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(shelf.keep(&made, 1).unwrap(), [of_tomorrow.path]);
        assert!(made.path.exists() && archive.join("old").exists());
    }

    #[test]
    fn no_vm_is_made_of_what_was_none_or_has_other_disks() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::of(folder.path(), &vm()).unwrap();
        let whole = make(&shelf, 1_000);
        whole.vm().unwrap();
        let mut without = whole.clone();
        without.manifest.disks.clear();
        let mut adopted = whole.clone();
        if let JobKind::Vm(vm) = &mut adopted.manifest.spec.kind {
            vm.adopted = Some(uuid::Uuid::nil());
        }
        let mut no_cpus = whole;
        if let JobKind::Vm(vm) = &mut no_cpus.manifest.spec.kind {
            vm.vcpus = 0;
        }
        for backup in [without, adopted, no_cpus] {
            assert!(backup.vm().is_err(), "{:?}", backup.manifest);
        }
    }
}
