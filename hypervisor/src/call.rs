//! A deadline for calls that may never return.
//!
//! libvirt's calls block: opening a connection to a hung daemon without any limit, the others until
//! keep-alive gives up. So every call has a thread for itself (see `crate::threads`), and the async side
//! stops waiting at the deadline. The thread can't be stopped; it is counted as hung until it comes back,
//! and beyond [`HUNG_CALLS_MAX`] new calls are not even tried.
//!
//! ```text
//!   Waited ── thread is through ──▶ Ended
//!      └── deadline passes, or the caller goes away ──▶ Abandoned ── thread is through ──▶ Ended
//! ```

use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::field;

use crate::error::{ErrorKind, HypervisorError};
use crate::hypervisor::Hypervisor;
use crate::threads::THREADS;

/// Most abandoned calls of one hypervisor. Each costs a thread; a daemon that left this many
/// unanswered will not answer the next one either.
pub const HUNG_CALLS_MAX: usize = 32;

/// Counts the abandoned calls of one hypervisor.
#[derive(Debug, Default)]
pub struct HungCalls {
    // Signed: a thread may come back before the caller that abandoned it has counted it.
    count: AtomicIsize,
}

impl HungCalls {
    /// How many there are now.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::try_from(self.count.load(Ordering::Acquire)).unwrap_or(0)
    }
}

/// Runs `f` on a thread that it has for itself, and waits for it until `deadline`.
///
/// `TimedOut` means that it may have taken effect, or may yet. `Disconnected` with nothing tried is
/// the answer while [`HUNG_CALLS_MAX`] earlier calls are hung.
pub async fn call<T: Send + 'static>(
    hv: &Arc<dyn Hypervisor>,
    what: &'static str,
    deadline: Duration,
    f: impl FnOnce(&dyn Hypervisor) -> Result<T, HypervisorError> + Send + 'static,
) -> Result<T, HypervisorError> {
    let hung = Arc::clone(hv.hung_calls());
    if hung.count() >= HUNG_CALLS_MAX {
        let message = format!("not tried: {HUNG_CALLS_MAX} earlier calls have not come back");
        return Err(HypervisorError::new(what, ErrorKind::Disconnected, message));
    }
    let watched = Arc::new(Watched { phase: Mutex::new(Phase::Waited), hung });
    let (sender, receiver) = oneshot::channel();
    let (hv, at_thread) = (Arc::clone(hv), Arc::clone(&watched));
    let span = tracing::debug_span!(
        "libvirt",
        otel.name = %format_args!("libvirt: {what}"),
        otel.status_code = field::Empty,
        otel.status_description = field::Empty,
    );
    let body = move || {
        let ends = EndsWithThread(at_thread);
        let answer = span.in_scope(|| f(hv.as_ref()));
        if let Err(error) = &answer {
            span.record("otel.status_code", "ERROR");
            span.record("otel.status_description", field::display(error));
        }
        // It is over before whoever waits goes on.
        drop(span);
        // Before the answer is out: who has it must not find the call counted as hung.
        drop(ends);
        // Nobody may be waiting any more: then the answer goes nowhere.
        drop(sender.send(answer));
    };
    if let Err(error) = THREADS.run(thread_name(what), body) {
        let message = format!("not tried: start a thread: {error}");
        return Err(HypervisorError::new(what, ErrorKind::Failed, message));
    }
    let abandons = AbandonsOnDrop(watched);
    let answer = timeout(deadline, receiver).await;
    drop(abandons);
    match answer {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(HypervisorError::new(what, ErrorKind::TimedOut, "the call panicked")),
        Err(_) => {
            let message = format!("no answer within {deadline:?}");
            Err(HypervisorError::new(what, ErrorKind::TimedOut, message))
        }
    }
}

/// Thread names show in `top` and are cut by the kernel after 15 bytes.
fn thread_name(what: &str) -> String {
    format!("hv {what}").chars().filter(char::is_ascii_graphic).take(15).collect()
}

struct Watched {
    phase: Mutex<Phase>,
    hung: Arc<HungCalls>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Somebody waits for the thread.
    Waited,
    /// Nobody does any more; the thread is counted as hung.
    Abandoned,
    /// The thread is through.
    Ended,
}

impl Watched {
    fn become_phase(&self, next: Phase) -> Phase {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *phase;
        if before != Phase::Ended {
            *phase = next;
        }
        before
    }
}

/// Held by the async side, so that a cancelled caller abandons its call just as a late one does.
struct AbandonsOnDrop(Arc<Watched>);

impl Drop for AbandonsOnDrop {
    fn drop(&mut self) {
        if self.0.become_phase(Phase::Abandoned) == Phase::Waited {
            self.0.hung.count.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// Held by the thread, so that a panic ends it too.
struct EndsWithThread(Arc<Watched>);

impl Drop for EndsWithThread {
    fn drop(&mut self) {
        if self.0.become_phase(Phase::Ended) == Phase::Abandoned {
            self.0.hung.count.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
