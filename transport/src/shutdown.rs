//! SIGINT and SIGTERM become one [`CancellationToken`] that every part of a process listens to.
//!
//! Decides that a second signal means "now": the process exits at once. How each part stops
//! is its own affair.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code of a process that was told twice to stop, as shells report SIGINT.
const EXIT_CODE_IMPATIENT: i32 = 130;

/// A token that is cancelled by the first SIGINT or SIGTERM.
///
/// # Errors
/// When the process cannot install signal handlers.
pub fn on_signals() -> std::io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            };
            if stop.is_cancelled() {
                tracing::warn!("{name} again: exiting without waiting");
                std::process::exit(EXIT_CODE_IMPATIENT);
            }
            tracing::info!("{name}: stopping");
            stop.cancel();
        }
    });
    Ok(token)
}
