//! Typing on a console whose reader may be slow, and keeping what is printed there.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::ffi::{Console, HeardFn};
use super::words;
use crate::error::{ErrorKind, HypervisorError};
use crate::hypervisor::ConsoleWriter;

/// A guest that takes no input for this long is not listening; people type slower than this.
const WRITE_MAX: Duration = Duration::from_secs(5);
/// Between two attempts: short against what a person notices.
const WRITE_PAUSE: Duration = Duration::from_millis(5);
/// Pieces of output, 4 KiB at most, that wait for the disk. What is more is lost: libvirt's only event
/// thread must not wait.
const PIECES_MAX: usize = 256;

pub(super) struct Writer {
    domain: Uuid,
    console: Console,
    is_open: Arc<AtomicBool>,
}

/// What becomes of the guest's output, and whether there will be more.
pub(super) struct Output {
    heard: HeardFn,
    is_open: Arc<AtomicBool>,
}

impl Output {
    /// It is thrown away.
    pub(super) fn discarded() -> Self {
        Self::to(|_| {})
    }

    /// It is appended to a file, by a thread that ends with it.
    pub(super) fn kept(log: &Path) -> std::io::Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let (sender, pieces) = sync_channel(PIECES_MAX);
        let shown = log.display().to_string();
        thread::Builder::new()
            .name("console-log".to_owned())
            .spawn(move || append(file, &pieces, &shown))?;
        Ok(Self::to(move |bytes| keep(&sender, bytes)))
    }

    /// The two halves: what libvirt calls, and what tells whether it still does.
    pub(super) fn split(self) -> (HeardFn, Arc<AtomicBool>) {
        (self.heard, self.is_open)
    }

    fn to(f: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        let is_open = Arc::new(AtomicBool::new(true));
        let open = Arc::clone(&is_open);
        let heard = Box::new(move |bytes: &[u8]| {
            if bytes.is_empty() {
                open.store(false, Ordering::Release);
            } else {
                f(bytes);
            }
        });
        Self { heard, is_open }
    }
}

fn keep(sender: &SyncSender<Vec<u8>>, bytes: &[u8]) {
    match sender.try_send(bytes.to_vec()) {
        Ok(()) | Err(TrySendError::Disconnected(_)) => {}
        Err(TrySendError::Full(_)) => tracing::debug!("a guest prints faster than the disk writes"),
    }
}

fn append(mut file: File, pieces: &Receiver<Vec<u8>>, log: &str) {
    for piece in pieces {
        if let Err(error) = file.write_all(&piece) {
            tracing::warn!(%error, log, "append to a console log");
        }
    }
}

impl Writer {
    /// A console that was opened with this output's `heard`.
    pub(super) fn new(domain: Uuid, console: Console, is_open: Arc<AtomicBool>) -> Self {
        Self { domain, console, is_open }
    }
}

impl ConsoleWriter for Writer {
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), HypervisorError> {
        let error = |kind, message: &str| {
            let what = format!("write to console of domain {}", self.domain);
            Err(HypervisorError::new(what, kind, message))
        };
        let begun = Instant::now();
        while !bytes.is_empty() {
            match self.console.write(bytes) {
                Ok(0) if begun.elapsed() > WRITE_MAX => {
                    return error(ErrorKind::TimedOut, "the guest takes no input");
                }
                Ok(0) => thread::sleep(WRITE_PAUSE),
                Ok(written) => bytes = &bytes[written..],
                Err(raw) => return error(words::kind(&raw), &raw.message),
            }
        }
        Ok(())
    }

    fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }
}
