//! What a guest of ours has written to its disk `journal` (`scripts/guest-init`): a block for each count,
//! which names the boot that wrote it. So the disk itself tells who wrote when.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of a block.
const BLOCK_BYTES: usize = 512;

/// The journal of one VM, which any host may be writing to.
#[derive(Debug)]
pub struct Journal {
    file: PathBuf,
}

/// A writer, and how many blocks in a row are its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// The id of the guest's boot.
    pub boot: String,
    /// Blocks.
    pub blocks: usize,
}

impl Journal {
    /// The journal in this file of a pool.
    #[must_use]
    pub fn of(file: &Path) -> Self {
        Self { file: file.to_owned() }
    }

    /// Its writers, one after the other. They are read while somebody writes, so the last block may be
    /// half there, and does not count then.
    ///
    /// # Panics
    /// When two writers have written at the same time: when a block is not the next one, or somebody
    /// wrote again after another had begun.
    #[must_use]
    pub fn writers(&self) -> Vec<Writer> {
        let blocks = self.blocks();
        let mut writers: Vec<Writer> = Vec::new();
        for (at, (number, boot)) in blocks.iter().enumerate() {
            assert_eq!(at, *number, "a block is at the wrong place: {writers:?}");
            match writers.last_mut() {
                Some(last) if last.boot == *boot => last.blocks += 1,
                _ => writers.push(Writer { boot: boot.clone(), blocks: 1 }),
            }
        }
        for (i, writer) in writers.iter().enumerate() {
            let again = writers[i + 1..].iter().any(|other| other.boot == writer.boot);
            assert!(!again, "{} has written while another did: {writers:?}", writer.boot);
        }
        writers
    }

    /// Number and boot of every whole block.
    fn blocks(&self) -> Vec<(usize, String)> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let raw = folder.path().join("journal.raw");
        let mut read = Command::new("qemu-img");
        read.args(["convert", "-U", "-O", "raw"]).arg(&self.file).arg(&raw);
        let read = read.output().expect("qemu-img can be run");
        // Whoever grows the file may be half-way: whoever asks looks again.
        if !read.status.success() {
            return Vec::new();
        }
        let bytes = std::fs::read(&raw).expect("what was just made is there");
        let is_there = |block: &&[u8]| block.first().is_some_and(|byte| *byte != 0);
        let texts = bytes.chunks(BLOCK_BYTES).take_while(is_there);
        let words = texts.map(|block| {
            let text = String::from_utf8_lossy(block);
            let mut words = text.split_whitespace();
            let number = words.next().and_then(|word| word.parse().ok());
            let boot = words.next().and_then(|word| word.strip_prefix("boot="));
            Some((number?, boot?.to_owned()))
        });
        let blocks: Vec<Option<(usize, String)>> = words.collect();
        let whole = blocks.iter().take_while(|block| block.is_some()).count();
        assert!(whole + 1 >= blocks.len(), "block {whole} of {} is no block", blocks.len());
        blocks.into_iter().flatten().collect()
    }
}
