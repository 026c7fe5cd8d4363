//! The watchdog at the end of the leash: a device of the kernel, or a FIFO whose reader plays one.
//!
//! A device begins when it is opened, resets the machine when it was not written to for its time, and stops
//! when a `V` is the last that it was written before it is closed. One whose keeper dies goes on: the
//! next keeper opens it again in time, or the machine is reset. [`super::core`] decides when it is fed.
//!
//! A FIFO's reader gets a line at each feed, the milliseconds after which it shall bite without another, and
//! the line `V` at the end. It is for machines whose device belongs to another program, and for the lab.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, OFlags, access, major, minor};
use tokio::time::Instant;

use super::core::Leash;
use super::ioctl;

/// Feeds are no closer together: what happens often need not be told more often.
const FEED_REST: Duration = Duration::from_millis(100);

/// `/dev/watchdog`, the old name of the first one, is of another kind than `/dev/watchdog0`.
const OLD_NAME: (u32, u32) = (10, 130);

/// Why a file can't be the watchdog. Nothing was begun.
#[derive(Debug, thiserror::Error)]
pub enum WatchdogError {
    /// It can't be looked at or written to.
    #[error("use watchdog {path}: {source}; `ls /dev/watchdog*` shows what there is, and `modprobe softdog` makes one", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is something else.
    #[error("{path} is no watchdog: it has to be a device such as /dev/watchdog0, or a FIFO whose reader plays one", path = .path.display())]
    Other {
        /// Which.
        path: PathBuf,
    },
    /// It goes on when nothing needs it any more.
    #[error("watchdog {path} can't be stopped once it was begun (nowayout), and this host would be reset when none of its VMs needs it; load its module with nowayout=0", path = .path.display())]
    Endless {
        /// Which.
        path: PathBuf,
    },
}

/// Whether that file can be the watchdog. It is not opened, which would begin it.
pub(crate) fn check(path: &Path) -> Result<(), WatchdogError> {
    let unusable = |source: io::Error| WatchdogError::File { path: path.to_owned(), source };
    let other = || WatchdogError::Other { path: path.to_owned() };
    let found = fs::metadata(path).map_err(unusable)?;
    access(path, Access::WRITE_OK).map_err(|error| unusable(error.into()))?;
    if found.file_type().is_fifo() {
        return Ok(());
    }
    if !found.file_type().is_char_device() {
        return Err(other());
    }
    let number = (major(found.rdev()), minor(found.rdev()));
    let told = PathBuf::from(match number {
        OLD_NAME => "/sys/class/watchdog/watchdog0".to_owned(),
        (major, minor) => format!("/sys/dev/char/{major}:{minor}"),
    });
    let kind = fs::read_link(told.join("subsystem")).unwrap_or_default();
    if number != OLD_NAME && !kind.ends_with("watchdog") {
        return Err(other());
    }
    match is_endless(&told) {
        true => Err(WatchdogError::Endless { path: path.to_owned() }),
        false => Ok(()),
    }
}

fn is_endless(told: &Path) -> bool {
    fs::read_to_string(told.join("nowayout")).is_ok_and(|text| text.trim() == "1")
}

/// The watchdog of this host.
#[derive(Debug)]
pub(super) struct Watchdog {
    path: PathBuf,
    out: Option<Out>,
    is_starved: bool,
    ailment: Option<String>,
}

/// One that was begun.
#[derive(Debug)]
struct Out {
    file: File,
    is_fifo: bool,
    /// What was asked for, and what is so.
    wanted_ms: u64,
    bite_ms: u64,
    fed: Option<Instant>,
}

impl Watchdog {
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path, out: None, is_starved: false, ailment: None }
    }

    /// How long after a feed it bites, once it was begun.
    pub(super) fn bite_ms(&self) -> Option<u64> {
        self.out.as_ref().map(|out| out.bite_ms)
    }

    /// Why it does not watch although it should.
    pub(super) fn ailment(&self) -> Option<&String> {
        self.ailment.as_ref()
    }

    /// Does what the core has decided; when it is fed, it shall bite after so long.
    pub(super) fn obey(&mut self, leash: Leash, wanted_ms: u64) {
        match leash {
            Leash::Off => self.put_away(),
            Leash::Feed => match self.feed(wanted_ms) {
                Ok(()) => self.ailment = None,
                Err(why) => self.ail(&why),
            },
            Leash::Starve if self.out.is_some() && !self.is_starved => {
                self.is_starved = true;
                tracing::error!(
                    "the watchdog is fed no more: what it guards is covered for no longer, and not dead yet"
                );
            }
            Leash::Starve => {}
        }
    }

    fn feed(&mut self, wanted_ms: u64) -> Result<(), String> {
        if self.out.as_ref().is_none_or(|out| out.wanted_ms != wanted_ms) {
            // The old one goes without an end: the new one is the same device.
            self.out = None;
            self.out = Some(Out::begin(&self.path, wanted_ms)?);
            tracing::info!(path = %self.path.display(), "the watchdog is fed, and bites {wanted_ms} ms after it is not");
        }
        let Some(out) = &mut self.out else { return Ok(()) };
        if std::mem::take(&mut self.is_starved) {
            tracing::info!("the watchdog is fed again");
        }
        if let Err(error) = out.feed() {
            self.out = None;
            return Err(format!("write to it: {error}"));
        }
        Ok(())
    }

    fn put_away(&mut self) {
        self.ailment = None;
        self.is_starved = false;
        let Some(mut out) = self.out.take() else { return };
        match out.end() {
            Ok(()) => tracing::info!("the watchdog has nothing to guard, and is stopped"),
            Err(error) => tracing::error!("stop the watchdog: {error}"),
        }
    }

    /// Guests are not ended for it: two killers are there still. Somebody has to be told.
    pub(super) fn ail(&mut self, why: &str) {
        let ailment = format!(
            "the watchdog {} is not fed: {why}; VMs with on_loss = stop run on without it",
            self.path.display()
        );
        if self.ailment.as_ref() != Some(&ailment) {
            tracing::error!("{ailment}");
        }
        self.ailment = Some(ailment);
    }
}

impl Out {
    /// Opening a device begins it.
    fn begin(path: &Path, wanted_ms: u64) -> Result<Self, String> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let opened = OpenOptions::new().write(true).custom_flags(flags).open(path);
        let file = opened.map_err(|error| match error.raw_os_error() {
            Some(code) if code == rustix::io::Errno::NXIO.raw_os_error() => {
                "nobody reads that FIFO".to_owned()
            }
            Some(code) if code == rustix::io::Errno::BUSY.raw_os_error() => {
                "another program has it open, such as systemd (RuntimeWatchdogSec=)".to_owned()
            }
            _ => format!("open it: {error}"),
        })?;
        let kind = file.metadata().map_err(|error| format!("look at it: {error}"))?.file_type();
        let mut out =
            Self { file, is_fifo: kind.is_fifo(), wanted_ms, bite_ms: wanted_ms, fed: None };
        if out.is_fifo {
            return Ok(out);
        }
        let seconds = i32::try_from(wanted_ms / 1_000).unwrap_or(i32::MAX);
        // One that can't be told has its time, which may do.
        let timeout = ioctl::set_timeout(&out.file, seconds).or_else(|_| ioctl::timeout(&out.file));
        let why = match timeout {
            Ok(bite_s) if (1..=seconds).contains(&bite_s) => {
                out.bite_ms = u64::from(bite_s.unsigned_abs()) * 1_000;
                return Ok(out);
            }
            Ok(bite_s) => {
                format!("it resets after {bite_s} s, and 1 s to {seconds} s would be in time")
            }
            Err(error) => format!("it is no watchdog whose time can be told or set: {error}"),
        };
        // It must not reset the machine for nothing.
        out.end().map_err(|error| format!("{why}; and it can't be stopped: {error}"))?;
        Err(why)
    }

    fn feed(&mut self) -> io::Result<()> {
        if self.fed.is_some_and(|at| at.elapsed() < FEED_REST) {
            return Ok(());
        }
        match self.file.write_all(format!("{}\n", self.bite_ms).as_bytes()) {
            // A FIFO is full because its reader hangs, who has food for long; it is not ours to wait.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => self.fed = Some(Instant::now()),
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        self.file.write_all(b"V\n")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn fifo(folder: &Path) -> PathBuf {
        let path = folder.join("dog");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        path
    }

    fn reader(path: &Path) -> File {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        OpenOptions::new().read(true).custom_flags(flags).open(path).unwrap()
    }

    /// What was written since the last look.
    fn heard(reader: &mut File) -> String {
        let mut bytes = [0; 4096];
        match reader.read(&mut bytes) {
            Ok(count) => String::from_utf8_lossy(&bytes[..count]).into_owned(),
            Err(_) => String::new(),
        }
    }

    #[test]
    fn a_file_that_is_no_watchdog_is_refused_and_the_words_say_what_would_do() {
        let folder = tempfile::tempdir().unwrap();
        let missing = check(&folder.path().join("none")).expect_err("it is not there");
        assert!(missing.to_string().contains("modprobe softdog"), "{missing}");
        let plain = folder.path().join("plain");
        fs::write(&plain, "").unwrap();
        assert!(matches!(check(&plain), Err(WatchdogError::Other { .. })));
        assert!(matches!(check(Path::new("/dev/null")), Err(WatchdogError::Other { .. })));
        check(&fifo(folder.path())).expect("somebody may read it");
    }

    #[test]
    fn one_that_can_never_be_stopped_is_known_by_its_driver() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_endless(folder.path()), "the driver does not say");
        fs::write(folder.path().join("nowayout"), "1\n").unwrap();
        assert!(is_endless(folder.path()));
    }

    #[test]
    fn it_is_fed_starved_and_put_away_as_the_core_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(folder.path());
        let mut dog = Watchdog::at(path.clone());
        dog.obey(Leash::Starve, 5_000);
        dog.obey(Leash::Off, 5_000);
        assert_eq!((dog.bite_ms(), dog.ailment()), (None, None), "nothing was begun");
        dog.obey(Leash::Feed, 5_000);
        assert!(dog.ailment().is_some_and(|why| why.contains("nobody reads that FIFO")));
        let mut reader = reader(&path);
        dog.obey(Leash::Feed, 5_000);
        assert_eq!((dog.ailment(), dog.bite_ms()), (None, Some(5_000)));
        assert_eq!(heard(&mut reader), "5000\n");
        dog.obey(Leash::Starve, 5_000);
        assert_eq!(heard(&mut reader), "");
        dog.obey(Leash::Feed, 3_000);
        assert_eq!(heard(&mut reader), "3000\n", "another trust document");
        dog.obey(Leash::Off, 3_000);
        assert_eq!(heard(&mut reader), "V\n");
    }

    #[test]
    fn a_keeper_that_goes_while_it_feeds_does_not_say_that_it_is_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(folder.path());
        let mut reader = reader(&path);
        let mut dog = Watchdog::at(path);
        dog.obey(Leash::Feed, 5_000);
        drop(dog);
        assert_eq!(heard(&mut reader), "5000\n");
    }

    #[test]
    fn a_device_whose_time_can_be_neither_told_nor_set_is_not_fed() {
        let mut dog = Watchdog::at("/dev/null".into());
        dog.obey(Leash::Feed, 5_000);
        assert!(dog.ailment().is_some_and(|why| why.contains("no watchdog whose time")));
    }
}
