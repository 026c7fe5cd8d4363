//! The files of images: where they are, what is known of them, and which volumes are made from them.
//!
//! Decides that an image is there whole or not at all, that one content is stored once whatever its
//! names, and what of an earlier life is cleaned up: what was never finished, and what somebody had
//! begun to delete. Who may bring or delete one is left to [`crate::library`].
//!
//! ```text
//! IMAGES/NAME.img + NAME.json: an image and its facts; two names of one content are two links
//! IMAGES/.NAME.UUID.upload, .UUID.part: on its way in; gone with the life that began it
//! IMAGES/.SHA256.part: on its way in; gone on from, and cleaned up when nobody has for long
//! IMAGES/.NAME.gone: was NAME.json; the image is being deleted, by request
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::host::ImageFacts;
use protocol::id::{ImageName, JobId};
use protocol::job::{Job, JobState};
use protocol::signed::Digest;
use protocol::vm::DiskSpec;
use uuid::Uuid;

use crate::part::{Part, digest_of, hash};
use crate::qcow2::{self, Backing};
use crate::storage::{StorageError, ignore_missing, io_error};

/// The folder of images. Clones are the same folder.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    folder: PathBuf,
    volumes: PathBuf,
    /// Held while names are put in place or taken away; images that are being deleted.
    leaving: Arc<Mutex<BTreeSet<ImageName>>>,
}

/// What the volumes of one job say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Made {
    /// Images that they are made from.
    from: BTreeSet<ImageName>,
    /// Disks that are there and have said what they are made from, if anything.
    disks: BTreeSet<String>,
}

impl Images {
    /// Images in one folder, of which volumes in another are made.
    pub(crate) fn new(folder: PathBuf, volumes: PathBuf) -> Self {
        Self { folder, volumes, leaving: Arc::default() }
    }

    /// Where an image is, or would be. Volumes name it so, which is why a name is never used anew
    /// while one is made from it.
    #[must_use]
    pub(crate) fn file(&self, name: &ImageName) -> PathBuf {
        self.folder.join(format!("{name}.img"))
    }

    fn facts_file(&self, name: &ImageName) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }

    fn gone_file(&self, name: &ImageName) -> PathBuf {
        self.folder.join(format!(".{name}.gone"))
    }

    /// The images that are complete, and not about to be deleted.
    pub(crate) fn list(&self) -> Result<BTreeMap<ImageName, ImageFacts>, StorageError> {
        let leaving = self.lock().clone();
        let mut images = self.all()?;
        images.retain(|name, _| !leaving.contains(name));
        Ok(images)
    }

    fn all(&self) -> Result<BTreeMap<ImageName, ImageFacts>, StorageError> {
        let mut images = BTreeMap::new();
        for path in self.entries()? {
            if path.extension().is_some_and(|suffix| suffix == "json")
                && let Some((name, facts)) = read_facts(&path)
            {
                images.insert(name, facts);
            }
        }
        Ok(images)
    }

    fn entries(&self) -> Result<Vec<PathBuf>, StorageError> {
        let listed = fs::read_dir(&self.folder).and_then(|entries| {
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()
        });
        listed.map_err(io_error("list", &self.folder))
    }

    /// The file of a content, under whichever name.
    pub(crate) fn file_of(&self, sha256: Digest) -> Result<Option<PathBuf>, StorageError> {
        let found = self.list()?.into_iter().find(|(_, facts)| facts.sha256 == sha256);
        Ok(found.map(|(name, _)| self.file(&name)))
    }

    // Coming.

    /// Begins to take an image that somebody sends.
    pub(crate) async fn upload(&self, name: &ImageName) -> Result<Part, StorageError> {
        Part::new(self.folder.join(format!(".{name}.{}.upload", Uuid::new_v4()))).await
    }

    /// Begins to take an image, or goes on with what is here of it. Without a digest nothing tells
    /// what a part is of, and it goes with whoever began it.
    pub(crate) async fn part(&self, sha256: Option<Digest>) -> Result<Part, StorageError> {
        match sha256 {
            Some(sha256) => Part::resume(self.part_file(sha256)).await,
            None => Part::new(self.folder.join(format!(".{}.part", Uuid::new_v4()))).await,
        }
    }

    /// Gives a content that is here already another name; `None` when it is not here.
    pub(crate) fn link(
        &self,
        name: &ImageName,
        sha256: Digest,
    ) -> Result<Option<ImageFacts>, StorageError> {
        let leaving = self.lock();
        let all = self.all()?;
        let is_same =
            |(other, facts): &(&ImageName, &ImageFacts)| facts.sha256 == sha256 && *other != name;
        let Some((other, facts)) = all.iter().find(is_same) else { return Ok(None) };
        if let Some(known) = all.get(name) {
            return settled(name, known, sha256, &leaving).map(Some);
        }
        match self.put_link(name, &self.file(other), facts) {
            Ok(()) => Ok(Some(facts.clone())),
            // Something is in its place that has no facts. Whoever brings the bytes settles that.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(io_error("link", &self.file(name))(error)),
        }
    }

    /// Checks what came, and puts it in place under this name. Its file goes.
    pub(crate) async fn place(
        &self,
        mut part: Part,
        name: &ImageName,
        announced: Option<Digest>,
    ) -> Result<ImageFacts, StorageError> {
        let found = part.digest();
        if let Some(announced) = announced.filter(|announced| *announced != found) {
            part.discard();
            return Err(StorageError::WrongDigest { found, announced });
        }
        part.sync().await?;
        let inspected = qcow2::inspect(part.path());
        let (format, virtual_bytes) = match inspected {
            Ok(inspected) => inspected,
            Err(error) => {
                part.discard();
                return Err(error);
            }
        };
        let file_bytes = part.bytes();
        let facts = ImageFacts { sha256: found, file_bytes, virtual_bytes, format: Some(format) };
        let is_left = self.file(name).exists() && !self.facts_file(name).exists();
        if is_left {
            self.clear_leftover(name, found).await?;
        }
        let placed = self.place_checked(part.path(), name, facts);
        part.discard();
        placed
    }

    fn place_checked(
        &self,
        path: &Path,
        name: &ImageName,
        facts: ImageFacts,
    ) -> Result<ImageFacts, StorageError> {
        let leaving = self.lock();
        let all = self.all()?;
        if let Some(known) = all.get(name) {
            return settled(name, known, facts.sha256, &leaving);
        }
        // One content is stored once.
        let same = all.iter().find(|(_, known)| known.sha256 == facts.sha256);
        let source = same.map_or_else(|| path.to_owned(), |(other, _)| self.file(other));
        match self.put_link(name, &source, &facts) {
            // The same bytes are there from an earlier life, only without their facts.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.put_facts(name, &facts)?;
                Ok(facts)
            }
            Err(error) => Err(io_error("link", &self.file(name))(error)),
            Ok(()) => Ok(facts),
        }
    }

    /// The file first, then its facts: with the facts it is there.
    fn put_link(&self, name: &ImageName, source: &Path, facts: &ImageFacts) -> io::Result<()> {
        fs::hard_link(source, self.file(name))?;
        self.put_facts(name, facts).map_err(io::Error::other)
    }

    fn put_facts(&self, name: &ImageName, facts: &ImageFacts) -> Result<(), StorageError> {
        let json = self.facts_file(name);
        let text = serde_json::to_vec(facts).expect("our nouns are always valid JSON");
        transport::durable::replace(&json, &text).map_err(io_error("write", &json))
    }

    /// A file without facts is what a crash has left, of an image that came or one that was deleted.
    /// Unless it is what comes now, it makes way; not if volumes are made from it.
    async fn clear_leftover(&self, name: &ImageName, coming: Digest) -> Result<(), StorageError> {
        let file = self.file(name);
        let (sha256, _) = hash(file.clone()).await.map_err(io_error("read", &file))?;
        if digest_of(sha256) == coming {
            return Ok(());
        }
        let _leaving = self.lock();
        if self.made()?.values().any(|made| made.from.contains(name)) {
            return Err(StorageError::BadImage(format!(
                "{} has lost its description, and disks are made from it; give this one another \
                 name",
                file.display()
            )));
        }
        ignore_missing(fs::remove_file(&file)).map_err(io_error("remove", &file))
    }

    // Needed.

    /// What the volumes of each job are made from, by the volumes themselves.
    pub(crate) fn made(&self) -> Result<BTreeMap<JobId, Made>, StorageError> {
        let mut jobs = BTreeMap::new();
        let folders = fs::read_dir(&self.volumes).map_err(io_error("list", &self.volumes))?;
        for folder in folders {
            let folder = folder.map_err(io_error("list", &self.volumes))?.path();
            let name = folder.file_name().and_then(|name| name.to_str());
            let Some(Ok(job)) = name.map(JobId::new) else { continue };
            jobs.insert(job, made_in(&folder)?);
        }
        Ok(jobs)
    }

    /// Jobs that need an image: a volume is made from it, or their spec has one made from it that is
    /// not there yet, or does not say. Volumes that nobody's row names count as well.
    pub(crate) fn users<'a>(
        name: &ImageName,
        jobs: impl IntoIterator<Item = &'a Job>,
        made: &BTreeMap<JobId, Made>,
    ) -> Vec<JobId> {
        let from = made.iter().filter(|(_, made)| made.from.contains(name));
        let mut users: BTreeSet<JobId> = from.map(|(job, _)| job.clone()).collect();
        for job in jobs {
            let disks = job.spec.as_vm().map_or(&[][..], |vm| &vm.disks);
            let has_said =
                |disk: &str| made.get(&job.id).is_some_and(|made| made.disks.contains(disk));
            // What is in a pool has all of its image copied, once it was made.
            let is_copied = |disk: &DiskSpec| {
                disk.named_pool().is_some() && (has_run(job) || job.keeps_disks())
            };
            let mut of_it = disks.iter().filter(|disk| disk.image.as_ref() == Some(name));
            if of_it.any(|disk| !has_said(&disk.name) && !is_copied(disk)) {
                users.insert(job.id.clone());
            }
        }
        users.into_iter().collect()
    }

    // Going.

    /// From now on it is not listed any more, so that nothing new can be made from it.
    pub(crate) fn leave(&self, name: &ImageName) {
        self.lock().insert(name.clone());
    }

    /// It stays after all.
    pub(crate) fn stay(&self, name: &ImageName) {
        self.lock().remove(name);
    }

    /// Deletes an image that was told to leave. Its content stays as long as it has another name.
    pub(crate) fn remove(&self, name: &ImageName) -> Result<(), StorageError> {
        let mut leaving = self.lock();
        let (facts, gone) = (self.facts_file(name), self.gone_file(name));
        // What was asked for is on disk before anything is gone: a crash does not bring it back.
        ignore_missing(fs::rename(&facts, &gone)).map_err(io_error("rename", &facts))?;
        sync_folder(&self.folder)?;
        self.finish_removal(name)?;
        leaving.remove(name);
        Ok(())
    }

    fn finish_removal(&self, name: &ImageName) -> Result<(), StorageError> {
        for path in [self.file(name), self.gone_file(name)] {
            ignore_missing(fs::remove_file(&path)).map_err(io_error("remove", &path))?;
        }
        sync_folder(&self.folder)
    }

    /// Cleans up after an earlier life: what was on its way and can't be gone on from, and images
    /// whose deletion was begun.
    pub(crate) fn sweep(&self) -> Result<(), StorageError> {
        let all = self.all()?;
        let has = |sha256: Digest| all.values().any(|facts| facts.sha256 == sha256);
        let made = self.made()?;
        for path in self.entries()? {
            let Some(hidden) = hidden_name(&path) else { continue };
            if let Some(name) = hidden.strip_suffix(".gone").and_then(|n| ImageName::new(n).ok()) {
                let is_needed = made.values().any(|made| made.from.contains(&name));
                if !all.contains_key(&name) && !is_needed {
                    self.finish_removal(&name)?;
                }
            } else if resumable(hidden).is_some_and(|sha256| !has(sha256)) {
                give_back_room(&path).map_err(io_error("cut", &path))?;
            } else {
                ignore_missing(fs::remove_file(&path)).map_err(io_error("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Parts that may be gone on from, with their sizes.
    pub(crate) fn parts(&self) -> Result<BTreeMap<Digest, u64>, StorageError> {
        let parts = self.entries()?.into_iter().filter_map(|path| {
            let sha256 = resumable(hidden_name(&path)?)?;
            Some((sha256, fs::metadata(&path).ok()?.len()))
        });
        Ok(parts.collect())
    }

    /// Removes a part that nobody goes on with.
    pub(crate) fn forget_part(&self, sha256: Digest) -> Result<(), StorageError> {
        let path = self.part_file(sha256);
        ignore_missing(fs::remove_file(&path)).map_err(io_error("remove", &path))
    }

    fn part_file(&self, sha256: Digest) -> PathBuf {
        self.folder.join(format!(".{sha256}.part"))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<ImageName>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name that is taken: by the very same content, or not.
fn settled(
    name: &ImageName,
    known: &ImageFacts,
    sha256: Digest,
    leaving: &BTreeSet<ImageName>,
) -> Result<ImageFacts, StorageError> {
    if leaving.contains(name) {
        return Err(StorageError::BadImage(format!("image {name} is being deleted; try again")));
    }
    if known.sha256 == sha256 {
        return Ok(known.clone());
    }
    Err(StorageError::BadImage(name_taken(name, known.sha256)))
}

/// Why another content can't have the name.
pub(crate) fn name_taken(name: &ImageName, known: Digest) -> String {
    format!(
        "image {name} is here with sha256 {known}; disks are made from it, so give the new one another name"
    )
}

fn read_facts(path: &Path) -> Option<(ImageName, ImageFacts)> {
    let name = ImageName::new(path.file_stem()?.to_str()?).ok()?;
    let mut facts: ImageFacts = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let file = path.with_extension("img");
    if facts.format.is_none() {
        // Written by an older agent, which had looked at it in the same way.
        facts.format = qcow2::inspect(&file).ok().map(|(format, _)| format);
    }
    file.exists().then_some((name, facts))
}

/// Whether the job is alive and past the making of its volumes.
fn has_run(job: &Job) -> bool {
    !job.state.is_ended() && !matches!(job.state, JobState::Accepted | JobState::Starting)
}

fn made_in(folder: &Path) -> Result<Made, StorageError> {
    let mut made = Made::default();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_other_or_gone(&error) => return Ok(made),
        Err(error) => return Err(io_error("list", folder)(error)),
    };
    for entry in entries {
        let path = entry.map_err(io_error("list", folder))?.path();
        let backing = match qcow2::backing_of(&path) {
            Ok(backing) => backing,
            Err(error) if is_other_or_gone(&error) => continue,
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        match backing {
            Backing::File(file) => {
                made.from.extend(image_at(&file));
                made.disks.insert(stem.to_owned());
            }
            Backing::Nothing => drop(made.disks.insert(stem.to_owned())),
            Backing::Unsaid => {}
        }
    }
    Ok(made)
}

/// The image that a volume names as its backing: by its place in a folder of images, wherever that
/// is, for the data folder may have been moved since.
fn image_at(file: &Path) -> Option<ImageName> {
    let is_image = file.parent()?.file_name()? == "images" && file.extension()? == "img";
    let name = file.file_stem()?.to_str()?;
    ImageName::new(name).ok().filter(|_| is_image)
}

/// What was taken for the rest of a part is free until somebody goes on with it.
fn give_back_room(path: &Path) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).open(path)?;
    file.set_len(file.metadata()?.len())
}

/// A folder where a file was looked for, or the other way round, or nothing any more.
fn is_other_or_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
    )
}

/// The name of a file of ours that is not for others, without its dot.
fn hidden_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_prefix('.')
}

/// Which content a part is of, if that is known.
fn resumable(hidden: &str) -> Option<Digest> {
    hidden.strip_suffix(".part")?.parse().ok()
}

fn sync_folder(folder: &Path) -> Result<(), StorageError> {
    let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(io_error("sync", folder))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use protocol::job::JobSpec;
    use protocol::vm::VmSpec;

    use super::*;

    struct Bench {
        folder: tempfile::TempDir,
        images: Images,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (images, volumes) = (folder.path().join("images"), folder.path().join("volumes"));
            fs::create_dir_all(&images).unwrap();
            fs::create_dir_all(&volumes).unwrap();
            Self { images: Images::new(images, volumes), folder }
        }

        async fn bring(&self, name: &str, bytes: &[u8]) -> Result<ImageFacts, StorageError> {
            let name = ImageName::new(name).unwrap();
            let mut part = self.images.upload(&name).await?;
            part.write(bytes).await?;
            self.images.place(part, &name, Some(Digest::of(bytes))).await
        }

        fn files(&self) -> Vec<String> {
            let entries = self.images.entries().unwrap();
            let mut names: Vec<String> = entries
                .iter()
                .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
                .collect();
            names.sort();
            names
        }

        /// A volume that says it is made from this file.
        fn volume(&self, job: &str, file: &Path) {
            let folder = self.folder.path().join("volumes").join(job);
            fs::create_dir_all(&folder).unwrap();
            let name = file.to_str().unwrap().as_bytes();
            let mut bytes = vec![0; 104 + name.len()];
            bytes[..4].copy_from_slice(b"QFI\xfb");
            (bytes[7], bytes[15], bytes[19]) = (3, 104, u8::try_from(name.len()).unwrap());
            bytes[104..].copy_from_slice(name);
            fs::write(folder.join("root.qcow2"), bytes).unwrap();
        }
    }

    fn name(text: &str) -> ImageName {
        ImageName::new(text).unwrap()
    }

    #[tokio::test]
    async fn an_image_is_kept_only_if_it_is_what_was_announced() {
        let bench = Bench::new();
        let mut wrong = bench.images.upload(&name("guest")).await.unwrap();
        wrong.write(b"abc").await.unwrap();
        let refused = bench.images.place(wrong, &name("guest"), Some(Digest::of(b"abcd"))).await;
        assert!(matches!(refused, Err(StorageError::WrongDigest { .. })));
        assert!(bench.files().is_empty());
        assert_eq!(bench.bring("guest", b"abc").await.unwrap().file_bytes, 3);
        assert_eq!(bench.files(), ["guest.img", "guest.json"]);
    }

    #[tokio::test]
    async fn one_content_under_two_names_is_stored_once_and_outlives_one_of_them() {
        let bench = Bench::new();
        bench.bring("a", b"same").await.unwrap();
        bench.bring("b", b"same").await.unwrap();
        bench.images.link(&name("c"), Digest::of(b"same")).unwrap().unwrap();
        let inode = |n: &str| fs::metadata(bench.images.file(&name(n))).unwrap().ino();
        assert_eq!((inode("a"), inode("a")), (inode("b"), inode("c")));
        bench.images.remove(&name("a")).unwrap();
        assert_eq!(bench.files(), ["b.img", "b.json", "c.img", "c.json"]);
        assert_eq!(fs::read(bench.images.file(&name("b"))).unwrap(), b"same");
        assert_eq!(bench.images.link(&name("d"), Digest::of(b"other")).unwrap(), None);
    }

    #[tokio::test]
    async fn a_name_is_never_given_to_another_content() {
        let bench = Bench::new();
        bench.bring("a", b"one").await.unwrap();
        assert!(matches!(bench.bring("a", b"two").await, Err(StorageError::BadImage(_))));
        bench.bring("b", b"two").await.unwrap();
        assert!(bench.images.link(&name("a"), Digest::of(b"two")).is_err());
        assert_eq!(bench.bring("a", b"one").await.unwrap().sha256, Digest::of(b"one"));
        assert_eq!(bench.files(), ["a.img", "a.json", "b.img", "b.json"]);
    }

    #[tokio::test]
    async fn what_a_crash_left_is_cleaned_up_or_made_good_and_never_listed() {
        let bench = Bench::new();
        let folder = bench.folder.path().join("images");
        let digest = Digest::of(b"half");
        for file in [".a.0d6e.upload", ".b.0d6e", ".0d6e.part", ".old.json.00.new", "lost.img"] {
            fs::write(folder.join(file), b"x").unwrap();
        }
        fs::write(folder.join(format!(".{digest}.part")), b"ha").unwrap();
        bench.bring("leaving", b"x").await.unwrap();
        fs::rename(folder.join("leaving.json"), folder.join(".leaving.gone")).unwrap();
        bench.bring("done", b"done").await.unwrap();
        let done = folder.join(format!(".{}.part", Digest::of(b"done")));
        fs::hard_link(folder.join("done.img"), done).unwrap();
        bench.images.sweep().unwrap();
        let part = format!(".{digest}.part");
        assert_eq!(bench.files(), [part.as_str(), "done.img", "done.json", "lost.img"]);
        bench.images.remove(&name("done")).unwrap();
        assert!(bench.images.list().unwrap().is_empty(), "nothing of it can be used");

        bench.bring("lost", b"whole").await.unwrap();
        assert_eq!(fs::read(bench.images.file(&name("lost"))).unwrap(), b"whole");
        fs::remove_file(folder.join("lost.json")).unwrap();
        bench.volume("web-1", &bench.images.file(&name("lost")));
        assert!(bench.bring("lost", b"other").await.is_err(), "a disk is made from it");
        bench.bring("lost", b"whole").await.unwrap();
        assert_eq!(bench.images.list().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_deletion_that_a_disk_contradicts_is_not_finished_by_itself() {
        let bench = Bench::new();
        bench.bring("a", b"x").await.unwrap();
        bench.volume("web-1", &bench.images.file(&name("a")));
        let folder = bench.folder.path().join("images");
        fs::rename(folder.join("a.json"), folder.join(".a.gone")).unwrap();
        bench.images.sweep().unwrap();
        assert_eq!(bench.files(), [".a.gone", "a.img"]);
    }

    #[tokio::test]
    async fn an_image_that_leaves_is_not_listed_and_its_name_not_given_meanwhile() {
        let bench = Bench::new();
        bench.bring("a", b"x").await.unwrap();
        bench.images.leave(&name("a"));
        assert!(bench.images.list().unwrap().is_empty());
        assert!(bench.bring("a", b"x").await.is_err());
        bench.images.stay(&name("a"));
        assert_eq!(bench.images.list().unwrap().len(), 1);
    }

    #[test]
    fn a_disk_in_a_pool_needs_its_image_until_it_was_made() {
        let mut job = crate::core::tests::record("web-1").job;
        let (image, pool) = (Some(name("a")), Some("nfs".parse().unwrap()));
        let disk = DiskSpec {
            name: "root".into(),
            size_bytes: 1 << 20,
            image,
            pool,
            ..DiskSpec::default()
        };
        let vm = VmSpec { vcpus: 1, disks: vec![disk], ..VmSpec::default() };
        job.spec = JobSpec::vm(vm).into();
        let needs = |state| {
            let job = Job { state, ..job.clone() };
            !Images::users(&name("a"), [&job], &BTreeMap::new()).is_empty()
        };
        assert!(needs(JobState::Accepted) && needs(JobState::Starting));
        assert!(needs(JobState::Failed), "it never ran");
        assert!(!needs(JobState::Running) && !needs(JobState::Stopped));
    }

    #[test]
    fn volumes_say_whose_they_are_also_when_no_row_does() {
        let bench = Bench::new();
        bench.volume("web-1", Path::new("/elsewhere/images/a.img"));
        let made = bench.images.made().unwrap();
        assert_eq!(Images::users(&name("a"), [], &made), [JobId::new("web-1").unwrap()]);
        assert!(Images::users(&name("b"), [], &made).is_empty());
        bench.volume("web-2", Path::new("/elsewhere/volumes/web-2/b.img"));
        let made = bench.images.made().unwrap();
        assert!(Images::users(&name("b"), [], &made).is_empty(), "that is no image");
    }
}
