//! Typing on a console whose reader may be slow.

use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::ffi::Console;
use super::words;
use crate::error::{ErrorKind, HypervisorError};
use crate::hypervisor::ConsoleWriter;

/// A guest that takes no input for this long is not listening; people type slower than this.
const WRITE_MAX: Duration = Duration::from_secs(5);
/// Between two attempts: short against what a person notices.
const WRITE_PAUSE: Duration = Duration::from_millis(5);

pub(super) struct Writer {
    domain: Uuid,
    console: Console,
}

impl Writer {
    pub(super) fn new(domain: Uuid, console: Console) -> Self {
        Self { domain, console }
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
}
