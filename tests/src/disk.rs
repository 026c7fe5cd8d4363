//! A disk that forgets what was not synced, and fails on command: where the real ledger is tried.
//!
//! Each file has what is on the platter, what was written since the last sync, and its own count of
//! operations; a [`Fault`] comes at one of them. After a power cut of what was not synced there may be
//! nothing, all, or any part, torn at any byte. A file is in its place by one step that is durable at
//! once, which is what a rename and the sync of its folder are.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use host_agent::store::{Shelf, Twin};
use redb::StorageBackend;

use crate::sim::chance::Chance;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There is no space left for this write, nor for any later one. Syncs go on.
    Full,
    /// This operation fails; of what was to be synced, nobody knows what is.
    Error,
    /// The power fails: of this write so many bytes are still done, and nothing after it.
    Cut {
        /// Bytes of it.
        bytes: usize,
    },
}

/// What becomes of what was not synced, when the power fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsynced {
    /// It is lost.
    Lost,
    /// It has reached the platter after all.
    Kept,
    /// Any part of it has, each write torn anywhere, as the lots of this seed fall.
    Torn(u64),
}

/// A disk with the two files of a ledger.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<Folder>>);

#[derive(Debug, Default)]
struct Folder {
    in_place: BTreeMap<Twin, OnDisk>,
    fresh: BTreeMap<Twin, OnDisk>,
    aside: BTreeMap<Twin, OnDisk>,
    /// What goes wrong with a file, and at which of its operations.
    plan: BTreeMap<Twin, (u64, Fault)>,
}

/// A file. Whoever has it open has the same.
#[derive(Debug, Clone)]
pub struct OnDisk(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    platter: Vec<u8>,
    /// As a process reads it.
    cached: Vec<u8>,
    unsynced: Vec<Step>,
    operations: u64,
    plan: Option<(u64, Fault)>,
    is_full: bool,
    is_off: bool,
    unreadable: Vec<Range<u64>>,
}

#[derive(Debug, Clone)]
enum Step {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

fn apply(bytes: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Length(length) => bytes.resize(*length, 0),
        Step::Write { at, bytes: new } => {
            let end = at + new.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*at..end].copy_from_slice(new);
        }
    }
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

impl Disk {
    /// Something goes wrong with a file at its operation of this number, counted from the last power
    /// cut; made anew, it goes wrong in the same way.
    pub fn plan(&self, twin: Twin, operation: u64, fault: Fault) {
        let mut folder = lock(&self.0);
        folder.plan.insert(twin, (operation, fault));
        for file in [folder.in_place.get(&twin), folder.fresh.get(&twin)].into_iter().flatten() {
            lock(&file.0).plan = Some((operation, fault));
        }
    }

    /// The process that has the files open can do nothing more with them: it was killed.
    pub fn stop(&self) {
        lock(&self.0).all(|content| content.is_off = true);
    }

    /// Another process may begin, and nothing goes wrong any more; what was not synced is not lost.
    pub fn start(&self) {
        let mut folder = lock(&self.0);
        folder.plan.clear();
        folder.all(|content| {
            content.plan = None;
            content.is_full = false;
            content.is_off = false;
        });
    }

    /// The power fails, and comes back; nothing goes wrong from then on.
    pub fn lose_power(&self, unsynced: Unsynced) {
        let seed = if let Unsynced::Torn(seed) = unsynced { seed } else { 0 };
        let mut chance = Chance::new(seed);
        let mut folder = lock(&self.0);
        folder.plan.clear();
        folder.all(|content| content.lose_power(unsynced, &mut chance));
    }

    /// Operations on a file since the last power cut.
    #[must_use]
    pub fn operations(&self, twin: Twin) -> u64 {
        lock(&self.0).in_place.get(&twin).map_or(0, |file| lock(&file.0).operations)
    }

    /// What is on the platter.
    #[must_use]
    pub fn bytes(&self, twin: Twin) -> Vec<u8> {
        lock(&self.0)
            .in_place
            .get(&twin)
            .map_or_else(Vec::new, |file| lock(&file.0).platter.clone())
    }

    /// Puts these bytes on the platter.
    pub fn set_bytes(&self, twin: Twin, bytes: &[u8]) {
        if let Some(file) = lock(&self.0).in_place.get(&twin) {
            let mut content = lock(&file.0);
            bytes.clone_into(&mut content.platter);
            bytes.clone_into(&mut content.cached);
        }
    }

    /// These bytes can't be read any more.
    pub fn make_unreadable(&self, twin: Twin, bytes: Range<u64>) {
        if let Some(file) = lock(&self.0).in_place.get(&twin) {
            lock(&file.0).unreadable.push(bytes);
        }
    }

    /// Takes a file away.
    pub fn remove(&self, twin: Twin) {
        lock(&self.0).in_place.remove(&twin);
    }

    /// Takes the damaged file away that was put aside.
    pub fn remove_aside(&self, twin: Twin) -> bool {
        lock(&self.0).aside.remove(&twin).is_some()
    }

    /// A copy of the disk, on its own.
    #[must_use]
    pub fn copied(&self) -> Self {
        let folder = lock(&self.0);
        let copied = |files: &BTreeMap<Twin, OnDisk>| {
            files.iter().map(|(twin, file)| (*twin, file.copied())).collect()
        };
        let (in_place, fresh) = (copied(&folder.in_place), copied(&folder.fresh));
        let aside = copied(&folder.aside);
        Self(Arc::new(Mutex::new(Folder { in_place, fresh, aside, plan: folder.plan.clone() })))
    }
}

impl Folder {
    /// Whoever has no power can't move files either.
    fn check_power(&self) -> io::Result<()> {
        let mut files = self.in_place.values().chain(self.fresh.values());
        if files.any(|file| lock(&file.0).is_off) { Err(errno(EIO)) } else { Ok(()) }
    }

    fn all(&mut self, mut each: impl FnMut(&mut Content)) {
        let files = self.in_place.values().chain(self.fresh.values()).chain(self.aside.values());
        for file in files {
            each(&mut lock(&file.0));
        }
    }
}

impl OnDisk {
    fn new(plan: Option<(u64, Fault)>) -> Self {
        Self(Arc::new(Mutex::new(Content { plan, ..Content::default() })))
    }

    fn copied(&self) -> Self {
        let content = lock(&self.0);
        Self(Arc::new(Mutex::new(Content {
            platter: content.platter.clone(),
            cached: content.cached.clone(),
            unsynced: content.unsynced.clone(),
            unreadable: content.unreadable.clone(),
            ..Content::default()
        })))
    }
}

impl Content {
    fn lose_power(&mut self, unsynced: Unsynced, chance: &mut Chance) {
        for step in std::mem::take(&mut self.unsynced) {
            match unsynced {
                Unsynced::Lost => {}
                Unsynced::Kept => apply(&mut self.platter, &step),
                Unsynced::Torn(_) => match step {
                    Step::Write { at, bytes } if chance.happens(600_000) => {
                        let end = match chance.happens(500_000) {
                            true => bytes.len(),
                            false => chance.index(bytes.len() + 1),
                        };
                        let bytes = bytes[..end].to_vec();
                        apply(&mut self.platter, &Step::Write { at, bytes });
                    }
                    Step::Length(_) if chance.happens(600_000) => apply(&mut self.platter, &step),
                    _ => {}
                },
            }
        }
        self.cached.clone_from(&self.platter);
        let unreadable = std::mem::take(&mut self.unreadable);
        let (platter, cached) =
            (std::mem::take(&mut self.platter), std::mem::take(&mut self.cached));
        *self = Self { platter, cached, unreadable, ..Self::default() };
    }

    /// Counts an operation, and has it fail if its time has come. `Ok(Some(n))`: only so many bytes.
    fn operate(&mut self, is_write: bool) -> io::Result<Option<usize>> {
        if self.is_off {
            return Err(errno(EIO));
        }
        self.operations += 1;
        if self.is_full && is_write {
            return Err(errno(ENOSPC));
        }
        match self.plan.filter(|(at, _)| *at == self.operations) {
            Some((_, Fault::Full)) => {
                self.is_full = true;
                if is_write { Err(errno(ENOSPC)) } else { Ok(None) }
            }
            Some((_, Fault::Error)) => Err(errno(EIO)),
            Some((_, Fault::Cut { bytes })) => {
                self.is_off = true;
                if is_write { Ok(Some(bytes)) } else { Err(errno(EIO)) }
            }
            None => Ok(None),
        }
    }

    fn step(&mut self, step: Step) {
        apply(&mut self.cached, &step);
        self.unsynced.push(step);
    }
}

impl StorageBackend for OnDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.0).cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let content = lock(&self.0);
        let end = offset + out.len() as u64;
        let is_bad = |bad: &Range<u64>| bad.start < end && offset < bad.end;
        if content.is_off || content.unreadable.iter().any(is_bad) {
            return Err(errno(EIO));
        }
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = content.cached.get(at..at + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut content = lock(&self.0);
        let length = usize::try_from(len).map_err(io::Error::other)?;
        let is_growing = length > content.cached.len();
        if content.operate(is_growing)?.is_none() {
            content.step(Step::Length(length));
            return Ok(());
        }
        Err(errno(EIO))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut content = lock(&self.0);
        content.operate(false)?;
        for step in std::mem::take(&mut content.unsynced) {
            apply(&mut content.platter, &step);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut content = lock(&self.0);
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        match content.operate(true)? {
            None => {
                // A sector that is written anew can be read again.
                let new = offset..offset + data.len() as u64;
                content.unreadable.retain(|bad| bad.start < new.start || new.end < bad.end);
                content.step(Step::Write { at, bytes: data.to_vec() });
                Ok(())
            }
            Some(bytes) => {
                let bytes = data[..bytes.min(data.len())].to_vec();
                content.step(Step::Write { at, bytes });
                Err(errno(EIO))
            }
        }
    }
}

impl Shelf for Disk {
    type File = OnDisk;

    fn open(&self, twin: Twin) -> io::Result<Option<OnDisk>> {
        Ok(lock(&self.0).in_place.get(&twin).cloned())
    }

    fn fresh(&self, twin: Twin) -> io::Result<OnDisk> {
        let mut folder = lock(&self.0);
        folder.check_power()?;
        let file = OnDisk::new(folder.plan.get(&twin).copied());
        folder.fresh.insert(twin, file.clone());
        Ok(file)
    }

    fn put_in_place(&self, twin: Twin) -> io::Result<()> {
        let mut folder = lock(&self.0);
        folder.check_power()?;
        let file = folder.fresh.remove(&twin).ok_or(io::ErrorKind::NotFound)?;
        if lock(&file.0).operate(false)?.is_some() {
            return Err(errno(EIO));
        }
        folder.in_place.insert(twin, file);
        Ok(())
    }

    fn put_aside(&self, twin: Twin) -> io::Result<()> {
        let mut folder = lock(&self.0);
        folder.check_power()?;
        let file = folder.in_place.remove(&twin).ok_or(io::ErrorKind::NotFound)?;
        folder.aside.insert(twin, file);
        Ok(())
    }

    fn aside(&self, twin: Twin) -> Option<String> {
        lock(&self.0).aside.contains_key(&twin).then(|| format!("{twin}.damaged"))
    }
}
