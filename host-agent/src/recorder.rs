//! Consoles of guests whose own definition keeps no log: recorded while somebody looks.
//!
//! libvirt gives a console to one reader, so all who look at one guest share a recorder, which appends
//! what it prints to a file that they follow. It opens the console again when the guest has been started
//! anew, and closes it when the last of them has gone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::Duration;

use hypervisor::{ConsoleWriter, Hypervisor, HypervisorError};
use uuid::Uuid;

/// How long the console may take to be opened.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);
/// How often a console that is closed is opened again: its guest may have been started.
const OPEN_INTERVAL: Duration = Duration::from_secs(1);
/// A recording that is larger is begun anew by the next who looks, as virtlogd does with its own.
const RECORDING_BYTES_MAX: u64 = 2 << 20;

/// Everybody's recorders.
#[derive(Clone, Default)]
pub(crate) struct Recorders(Arc<Mutex<BTreeMap<Uuid, Weak<Recorder>>>>);

/// One guest's console, open for as long as somebody holds this.
pub(crate) struct Recorder {
    console: Mutex<Option<Box<dyn ConsoleWriter>>>,
}

impl Recorders {
    /// The guest's recorder, which records into `log`.
    pub(crate) fn of(&self, hv: &Arc<dyn Hypervisor>, uuid: Uuid, log: PathBuf) -> Arc<Recorder> {
        let mut recorders = lock(&self.0);
        recorders.retain(|_, recorder| recorder.strong_count() > 0);
        if let Some(recorder) = recorders.get(&uuid).and_then(Weak::upgrade) {
            return recorder;
        }
        begin_anew_if_large(&log);
        let recorder = Arc::new(Recorder { console: Mutex::new(None) });
        recorders.insert(uuid, Arc::downgrade(&recorder));
        tokio::spawn(keep_open(Arc::downgrade(&recorder), Arc::clone(hv), uuid, log));
        recorder
    }
}

impl Recorder {
    /// Types these bytes, if the console is open. Blocks while the guest takes its time.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), HypervisorError> {
        match lock(&self.console).as_mut() {
            Some(console) => console.write(bytes),
            None => Ok(()),
        }
    }

    /// Never waits: a console that is being written to is open.
    fn is_open(&self) -> bool {
        match self.console.try_lock() {
            Ok(console) => console.as_ref().is_some_and(|console| console.is_open()),
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Poisoned(console)) => {
                console.into_inner().as_ref().is_some_and(|console| console.is_open())
            }
        }
    }
}

async fn keep_open(recorder: Weak<Recorder>, hv: Arc<dyn Hypervisor>, uuid: Uuid, log: PathBuf) {
    while let Some(recorder) = recorder.upgrade() {
        if !recorder.is_open() {
            let log = log.clone();
            let opened = hypervisor::call(&hv, "record console", OPEN_DEADLINE, move |hv| {
                hv.record_console(uuid, &log)
            });
            match opened.await {
                Ok(console) => {
                    let before = lock(&recorder.console).replace(console);
                    // Closing calls libvirt, and may wait for it.
                    let _ = tokio::task::spawn_blocking(move || drop(before)).await;
                }
                Err(error) => tracing::debug!("{error}; tried again"),
            }
        }
        // Whoever looks may go meanwhile, and this must not hold the console open for nobody.
        let _ = tokio::task::spawn_blocking(move || drop(recorder)).await;
        tokio::time::sleep(OPEN_INTERVAL).await;
    }
}

fn begin_anew_if_large(log: &Path) {
    if std::fs::metadata(log).is_ok_and(|found| found.len() > RECORDING_BYTES_MAX)
        && let Err(error) = std::fs::File::create(log)
    {
        tracing::warn!("begin {} anew: {error}", log.display());
    }
}

/// Nobody who holds these locks panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
