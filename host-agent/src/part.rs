//! A file on its way in: written, hashed, and never looked at by anybody until all of it is right.
//!
//! Decides how far what an earlier life has left is gone on from, and that the room for the whole is
//! taken before it comes. What it becomes is [`crate::images`]'s.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use protocol::signed::Digest;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};

use crate::storage::{StorageError, ignore_missing, io_error};

/// What is read at a time to be hashed.
const CHUNK_BYTES: usize = 1 << 20;

/// See the module. Dropped, it leaves nothing, unless it is to be gone on from.
#[derive(Debug)]
pub(crate) struct Part {
    file: tokio::fs::File,
    path: PathBuf,
    sha256: Sha256,
    bytes: u64,
    /// True when some of it was left by an earlier life, which may have lost what it wrote.
    is_resumed: bool,
    is_kept: bool,
}

impl Part {
    /// A new file, which goes when this is dropped.
    pub(crate) async fn new(path: PathBuf) -> Result<Self, StorageError> {
        let file = tokio::fs::File::create(&path).await.map_err(io_error("make", &path))?;
        let (sha256, bytes) = (Sha256::new(), 0);
        Ok(Self { file, path, sha256, bytes, is_resumed: false, is_kept: false })
    }

    /// The file as it was left, or a new one. It stays when this is dropped.
    pub(crate) async fn resume(path: PathBuf) -> Result<Self, StorageError> {
        let mut options = tokio::fs::OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let mut file = options.open(&path).await.map_err(io_error("open", &path))?;
        let (sha256, bytes) = hash(path.clone()).await.map_err(io_error("read", &path))?;
        file.seek(io::SeekFrom::Start(bytes)).await.map_err(io_error("seek", &path))?;
        Ok(Self { file, path, sha256, bytes, is_resumed: bytes > 0, is_kept: true })
    }

    /// Bytes that have come.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether an earlier life left some of it.
    pub(crate) fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Digest of what has come.
    pub(crate) fn digest(&self) -> Digest {
        digest_of(self.sha256.clone())
    }

    /// Takes the next bytes.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.sha256.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).await.map_err(io_error("write", &self.path))
    }

    /// Takes all that somebody else has written into its file.
    pub(crate) async fn take_in(&mut self) -> Result<(), StorageError> {
        let read = hash(self.path.clone()).await;
        (self.sha256, self.bytes) = read.map_err(io_error("read", &self.path))?;
        // Room that was taken and is not needed goes back.
        self.give_back_room().await
    }

    /// Forgets all that came. The file is a new one: a crash may have left the old one as an image.
    pub(crate) async fn restart(&mut self) -> Result<(), StorageError> {
        self.file.flush().await.map_err(io_error("write", &self.path))?;
        ignore_missing(fs::remove_file(&self.path)).map_err(io_error("remove", &self.path))?;
        let file = tokio::fs::File::create(&self.path).await;
        self.file = file.map_err(io_error("make", &self.path))?;
        (self.sha256, self.bytes, self.is_resumed) = (Sha256::new(), 0, false);
        Ok(())
    }

    /// Waits until all of it is on disk.
    pub(crate) async fn sync(&mut self) -> Result<(), StorageError> {
        let synced = async {
            self.file.flush().await?;
            self.file.sync_all().await
        };
        synced.await.map_err(io_error("sync", &self.path))
    }

    /// Bytes that a file of this size would still take of the file system.
    pub(crate) fn missing_bytes(&self, total_bytes: u64) -> u64 {
        let taken = fs::metadata(&self.path).map_or(0, |found| found.blocks() * 512);
        total_bytes.saturating_sub(taken)
    }

    /// Takes the room for a file of this size, so that nobody else is promised it. Where the file
    /// system can't, it is only taken as the bytes come.
    pub(crate) fn take_room(&self, total_bytes: u64) -> Result<(), StorageError> {
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, total_bytes.max(1)) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            Err(error) => Err(io_error("take room for", &self.path)(error.into())),
        }
    }

    /// It may be gone on from some time; until then it takes no more room than it has bytes.
    pub(crate) async fn give_back_room(&mut self) -> Result<(), StorageError> {
        let cut = async {
            self.file.flush().await?;
            self.file.set_len(self.bytes).await
        };
        cut.await.map_err(io_error("cut", &self.path))
    }

    /// Nothing is left of it, whatever it was to be.
    pub(crate) fn discard(mut self) {
        self.is_kept = false;
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Hashes a file off the threads that answer; how many bytes it has.
pub(crate) async fn hash(path: PathBuf) -> io::Result<(Sha256, u64)> {
    let read = move || {
        let mut file = fs::File::open(&path)?;
        let (mut sha256, mut chunk, mut bytes) = (Sha256::new(), vec![0; CHUNK_BYTES], 0);
        loop {
            match file.read(&mut chunk)? {
                0 => return Ok((sha256, bytes)),
                n => {
                    sha256.update(&chunk[..n]);
                    bytes += n as u64;
                }
            }
        }
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(error.into()))
}

pub(crate) fn digest_of(sha256: Sha256) -> Digest {
    let hex: String = sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    hex.parse().expect("a SHA-256 in hex is a digest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_was_left_is_gone_on_from_with_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.part");
        let mut first = Part::resume(path.clone()).await.unwrap();
        first.write(b"ab").await.unwrap();
        first.sync().await.unwrap();
        drop(first);
        let mut second = Part::resume(path.clone()).await.unwrap();
        assert_eq!((second.bytes(), second.is_resumed()), (2, true));
        second.write(b"c").await.unwrap();
        assert_eq!(second.digest(), Digest::of(b"abc"));
        second.restart().await.unwrap();
        second.write(b"d").await.unwrap();
        second.sync().await.unwrap();
        assert_eq!(second.digest(), Digest::of(b"d"));
        assert_eq!(fs::read(&path).unwrap(), b"d");
        second.discard();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn room_is_taken_without_the_file_looking_any_longer() {
        let folder = tempfile::tempdir().unwrap();
        let mut part = Part::new(folder.path().join("x")).await.unwrap();
        assert_eq!(part.missing_bytes(1 << 20), 1 << 20);
        part.take_room(1 << 20).unwrap();
        assert_eq!(fs::metadata(part.path()).unwrap().len(), 0);
        assert!(
            matches!(part.missing_bytes(1 << 20), 0 | 1_048_576),
            "all of it, or no such thing"
        );
        part.give_back_room().await.unwrap();
        assert_eq!(part.missing_bytes(1 << 20), 1 << 20);
    }
}
