//! The log of a process that outlives the agent: bounded while it is written, and not only when it is begun.
//!
//! Services and the keeper have their log open for appending, and know nothing of its size. So it is cut from outside:
//! its last part is copied beside it, and then it is made empty, so that whoever writes goes on at its beginning. What
//! is written between the two is lost; a log that fills the disk would cost more. An agent that was away for long
//! finds a log as long as it has become, and keeps no more of it than of any other.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;

/// How often a log is looked at: one look is one question to the file system, and a process that writes without end
/// fills a few hundred MiB until then.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct LogFile {
    path: PathBuf,
    bytes_max: u64,
}

impl LogFile {
    /// The file of a process' folder that is cut when it is longer than this.
    pub(crate) fn of(folder: &Path, bytes_max: u64) -> Self {
        Self { path: folder.join("log"), bytes_max }
    }

    /// Opens it for a process that begins.
    pub(crate) fn open(&self) -> io::Result<File> {
        self.cut_if_long();
        OpenOptions::new().create(true).append(true).open(&self.path)
    }

    /// Cuts it whenever it is too long, for as long as it is asked to.
    pub(crate) async fn keep_bounded(self) -> Infallible {
        loop {
            sleep(LOOK_INTERVAL).await;
            let log = self.clone();
            // It ends by itself, and its only result is in the file.
            let _ = tokio::task::spawn_blocking(move || log.cut_if_long()).await;
        }
    }

    fn cut_if_long(&self) {
        if let Err(error) = self.try_cut_if_long() {
            tracing::warn!("cut {}: {error}", self.path.display());
        }
    }

    fn try_cut_if_long(&self) -> io::Result<()> {
        let mut log = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let length = log.metadata()?.len();
        if length <= self.bytes_max {
            return Ok(());
        }
        let kept = self.keep_last(&mut log, length);
        // Also where there is no room for a copy: that is when it matters most.
        log.set_len(0)?;
        kept
    }

    fn keep_last(&self, log: &mut File, length: u64) -> io::Result<()> {
        log.seek(SeekFrom::Start(length - self.bytes_max))?;
        let mut before = File::create(self.before())?;
        io::copy(&mut log.take(self.bytes_max), &mut before).map(drop)
    }

    /// Where its last part is kept.
    fn before(&self) -> PathBuf {
        self.path.with_extension("0")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_log_is_cut_under_the_one_who_writes_it_and_its_last_part_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let log = LogFile::of(folder.path(), 8);
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).ok();
        log.cut_if_long();
        assert_eq!(read("log"), None, "there is none yet");
        let mut writer = log.open().unwrap();
        writer.write_all(b"01234567").unwrap();
        log.cut_if_long();
        assert_eq!((read("log"), read("log.0")), (Some("01234567".into()), None));
        writer.write_all(b"89").unwrap();
        log.cut_if_long();
        writer.write_all(b"ab").unwrap();
        assert_eq!((read("log"), read("log.0")), (Some("ab".into()), Some("23456789".into())));
        // One that was written while nobody looked is cut at a start.
        writer.write_all(b"cdefghijkl").unwrap();
        log.open().unwrap().write_all(b"m").unwrap();
        assert_eq!((read("log"), read("log.0")), (Some("m".into()), Some("efghijkl".into())));
    }

    #[test]
    fn a_log_whose_last_part_can_t_be_kept_is_cut_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let log = LogFile::of(folder.path(), 1);
        fs::create_dir(folder.path().join("log.0")).unwrap();
        log.open().unwrap().write_all(b"long").unwrap();
        log.cut_if_long();
        assert_eq!(fs::metadata(folder.path().join("log")).unwrap().len(), 0);
    }
}
