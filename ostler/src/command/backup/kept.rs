//! Backups as they lie in a folder: what tells of one, which there are, and which go.
//!
//! A backup is there once it has been told: its folder gets its name when all of it is on disk. What goes
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
use protocol::job::JobSpec;
use protocol::signed::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::command::import::digest_of;
use crate::exit::{Code, Failure};

/// The form in which backups are told. A later one that says something else has another number.
const FORM: u32 = 1;
/// What tells of a backup.
const TOLD: &str = "backup.json";
/// Most bytes of it that are read: 16 disks and 32 KiB of cloud-init are a tenth of it.
const TOLD_BYTES_MAX: u64 = 1 << 20;

/// What a backup is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
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
    pub(super) told: Told,
}

impl Backup {
    fn read(path: &Path) -> Result<Self, Failure> {
        let file = path.join(TOLD);
        let failed = |why: String| {
            Failure::new(Code::Failed, format!("read the backup {}", path.display())).because(why)
        };
        let size = fs::metadata(&file).map_err(|e| failed(e.to_string()))?.len();
        if size > TOLD_BYTES_MAX {
            return Err(failed(format!("{TOLD} has {size} bytes")));
        }
        let text = fs::read(&file).map_err(|e| failed(e.to_string()))?;
        let form = serde_json::from_slice::<Value>(&text).map_err(|e| failed(e.to_string()))?;
        match form["form"].as_u64() {
            Some(form) if form == u64::from(FORM) => {}
            Some(form) => {
                let why = format!("it is told in form {form}, of another version of ostler");
                return Err(failed(why));
            }
            None => return Err(failed("it does not say in which form it is told".to_owned())),
        }
        let told: Told = serde_json::from_slice(&text).map_err(|e| failed(e.to_string()))?;
        // Files are beside it and nowhere else, whoever wrote this.
        if let Some(disk) = told.disks.iter().find(|disk| !is_file_name(&disk.file)) {
            return Err(failed(format!("{:?} is no name of a file in it", disk.file)));
        }
        Ok(Self { path: path.to_owned(), told })
    }

    /// The file of a disk.
    pub(super) fn file(&self, disk: &KeptDisk) -> PathBuf {
        self.path.join(&disk.file)
    }

    /// What its files take.
    pub(super) fn bytes(&self) -> u64 {
        self.told.disks.iter().fold(0, |sum, disk| sum.saturating_add(disk.file_bytes))
    }

    /// What is wrong with it; reads all of it.
    pub(super) async fn check(&self) -> Option<String> {
        for disk in &self.told.disks {
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
        let Told { vm, taken_ms, host, disks, .. } = &self.told;
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

    /// All in it, by VM, the oldest first: itself, those of a VM, or those of many.
    pub(super) fn backups(&self) -> Result<Vec<Backup>, Failure> {
        let mut backups = Vec::new();
        find(&self.0, 2, &mut backups)?;
        backups.sort_by(|a: &Backup, b: &Backup| {
            (&a.told.vm, a.told.taken_ms).cmp(&(&b.told.vm, b.told.taken_ms))
        });
        Ok(backups)
    }
}

/// Looks for backups this many folders deep. Hidden ones are not there yet, or no more.
fn find(path: &Path, deep: u32, backups: &mut Vec<Backup>) -> Result<(), Failure> {
    if path.join(TOLD).exists() {
        backups.push(Backup::read(path)?);
        return Ok(());
    }
    if deep == 0 {
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(|e| failed("list", path, &e))? {
        let entry = entry.map_err(|e| failed("list", path, &e))?.path();
        let name = entry.file_name().and_then(|name| name.to_str()).unwrap_or(".");
        if entry.is_dir() && !name.starts_with('.') {
            find(&entry, deep - 1, backups)?;
        }
    }
    Ok(())
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
}

impl Shelf {
    /// Makes the VM's folder if need be, and cleans up what was never finished.
    pub(super) fn of(folder: &Path, vm: &JobId) -> Result<Self, Failure> {
        let path = folder.join(vm.as_str());
        let make = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        make.map_err(|e| failed("make folder", &path, &e))?;
        let lock = path.join(".lock");
        let mut open = fs::OpenOptions::new();
        open.create(true).truncate(false).write(true).mode(0o600);
        let file = open.open(&lock).map_err(|e| failed("open", &lock, &e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let what = format!("somebody else makes a backup of {vm} in {}", folder.display());
                return Err(Failure::new(Code::Refused, what).next("wait until that has ended"));
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock", &lock, &error)),
        }
        let shelf = Self { path, _lock: file };
        shelf.sweep()?;
        Ok(shelf)
    }

    fn sweep(&self) -> Result<(), Failure> {
        for entry in fs::read_dir(&self.path).map_err(|e| failed("list", &self.path, &e))? {
            let entry = entry.map_err(|e| failed("list", &self.path, &e))?.path();
            if entry.extension().is_some_and(|end| end == "part") {
                fs::remove_dir_all(&entry).map_err(|e| failed("remove", &entry, &e))?;
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
        Ok(Draft { path, name })
    }

    /// Gives a file of an earlier backup another name, if one has this content and still is what was written.
    /// A disk that has not changed is kept once, and goes with the last backup that has it.
    pub(super) async fn link(&self, facts: &ImageFacts, to: &Path) -> bool {
        let backups = Folder(self.path.clone()).backups().unwrap_or_default();
        let is_same =
            |disk: &&KeptDisk| (disk.sha256, disk.file_bytes) == (facts.sha256, facts.file_bytes);
        let same = backups
            .iter()
            .rev()
            .find_map(|backup| Some(backup.file(backup.told.disks.iter().find(is_same)?)));
        let Some(file) = same else { return false };
        let found = digest_of(file.clone()).await;
        found.is_ok_and(|found| found == facts.sha256.to_string())
            && fs::hard_link(&file, to).is_ok()
    }

    /// From now on it is there.
    pub(super) fn finish(&self, draft: Draft, told: Told) -> Result<Backup, Failure> {
        let file = draft.path.join(TOLD);
        let text = serde_json::to_vec_pretty(&told).expect("our nouns are always valid JSON");
        transport::durable::replace(&file, &text).map_err(|e| failed("write", &file, &e))?;
        let path = self.path.join(&draft.name);
        let named =
            fs::rename(&draft.path, &path).and_then(|()| File::open(&self.path)?.sync_all());
        named.map_err(|e| failed("name", &path, &e))?;
        std::mem::forget(draft);
        Ok(Backup { path, told })
    }

    /// Deletes the oldest until so many are left; which were deleted.
    pub(super) fn keep(&self, vm: &JobId, most: u32) -> Result<Vec<PathBuf>, Failure> {
        let backups = Folder(self.path.clone()).backups()?;
        let theirs: Vec<_> = backups.into_iter().filter(|backup| backup.told.vm == *vm).collect();
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let mut gone = Vec::new();
        for backup in &theirs[..theirs.len().saturating_sub(most)] {
            let name = backup.path.file_name().unwrap_or_default().to_string_lossy();
            let part = self.path.join(format!(".{name}.part"));
            let removed = fs::rename(&backup.path, &part).and_then(|()| fs::remove_dir_all(&part));
            removed.map_err(|e| failed("remove", &backup.path, &e))?;
            gone.push(backup.path.clone());
        }
        Ok(gone)
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
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A moment as a name, which images may have in theirs: `20261130-012014`, in UTC.
pub(super) fn stamp(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or_default();
    let at = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    at.strftime("%Y%m%d-%H%M%S").to_string()
}

impl Told {
    /// What a backup of this VM says.
    pub(super) fn of(vm: JobId, taken_ms: u64, host: String, spec: JobSpec) -> Self {
        Self { form: FORM, vm, taken_ms, host, spec, disks: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use protocol::vm::VmSpec;

    use super::*;

    fn vm() -> JobId {
        JobId::new("web-1").unwrap()
    }

    fn told(taken_ms: u64) -> Told {
        Told::of(vm(), taken_ms, "h1".to_owned(), JobSpec::vm(VmSpec::default()))
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
        shelf.finish(draft, Told { disks: vec![disk], ..told(taken_ms) }).unwrap()
    }

    #[tokio::test]
    async fn a_backup_is_there_when_all_of_it_is_and_the_oldest_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::of(folder.path(), &vm()).unwrap();
        let unfinished = shelf.begin(1).unwrap();
        let all = Folder::at(folder.path()).unwrap();
        assert!(all.backups().unwrap().is_empty());
        drop(unfinished);
        for at_ms in [3_000, 1_000, 2_000] {
            make(&shelf, at_ms);
        }
        let backups = all.backups().unwrap();
        let moments: Vec<_> = backups.iter().map(|backup| backup.told.taken_ms).collect();
        assert_eq!(moments, [1_000, 2_000, 3_000]);
        assert_eq!(backups[0].check().await, None);
        let gone = shelf.keep(&vm(), 2).unwrap();
        assert_eq!(gone, [backups[0].path.clone()]);
        assert!(shelf.begin(2_500).is_err(), "of the same second");
        let one = Folder::at(&backups[2].path).unwrap().backups().unwrap();
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
        assert!(!shelf.link(&facts(b"rest"), &draft.path().join("a")).await);
        assert!(shelf.link(&facts(b"root"), &draft.path().join("b")).await);
        assert_eq!(fs::read(draft.path().join("b")).unwrap(), b"root");
        fs::write(first.path.join("root.qcow2"), b"rust").unwrap();
        assert!(!shelf.link(&facts(b"root"), &draft.path().join("c")).await);
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
        let file = backup.path.join(TOLD);
        let text = fs::read_to_string(&file).unwrap();
        let cases = [
            (text.replace("\"root.qcow2\"", "\"../../passwd\""), "no name of a file"),
            (text.replace("\"form\": 1", "\"form\": 2"), "another version"),
            ("[]".to_owned(), "in which form"),
            ("{".to_owned(), "EOF"),
        ];
        for (text, said) in cases {
            fs::write(&file, text).unwrap();
            let failure = Folder::at(&backup.path).unwrap().backups().unwrap_err();
            assert!(failure.cause().contains(said), "{}", failure.cause());
        }
    }
}
