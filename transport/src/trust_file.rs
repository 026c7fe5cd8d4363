//! Following the signed trust document that an agent keeps in a file for the services beside it.
//!
//! The file is a JSON string, a `Signed<Trust>`. Its first content is believed, because only the
//! agent's user can write it; the next version must be signed by an operator of the one in force and
//! be one that may follow it. Where versions were missed, the agent's choice is believed: it has seen
//! them all. What follows from a document is left to the roles.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::signed::Signed;
use protocol::trust::Trust;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the file is looked at. Trust changes by an operator's hand; a second is at once.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The document in force from now on: `None` until the file exists. The follower ends with
/// `shutdown` or when nobody listens any more.
#[must_use]
pub fn follow(path: PathBuf, shutdown: CancellationToken) -> watch::Receiver<Option<Arc<Trust>>> {
    let first = read(&path).and_then(|signed| accept(None, &signed, &path));
    let (sender, receiver) = watch::channel(first.map(Arc::new));
    tokio::spawn(async move {
        let mut interval = tokio::time::interval(LOOK_INTERVAL);
        let mut refused: Option<Signed<Trust>> = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sender.closed() => return,
                _ = interval.tick() => {}
            }
            let Some(signed) = read(&path).filter(|signed| refused.as_ref() != Some(signed)) else {
                continue;
            };
            let in_force = sender.borrow().clone();
            if let Some(new) = accept(in_force.as_deref(), &signed, &path) {
                tracing::info!(version = new.version, "trust in force");
                sender.send_replace(Some(Arc::new(new)));
            } else {
                refused = Some(signed);
            }
        }
    });
    receiver
}

/// The document as an operator signed it, for whoever carries it to others; `None` while there is none.
#[must_use]
pub fn read(path: &Path) -> Option<Signed<Trust>> {
    let text = std::fs::read(path).ok()?;
    match serde_json::from_slice(&text) {
        Ok(signed) => Some(signed),
        Err(error) => {
            tracing::warn!("read trust from {}: {error}", path.display());
            None
        }
    }
}

/// The document, when it is news and may be believed.
fn accept(in_force: Option<&Trust>, signed: &Signed<Trust>, path: &Path) -> Option<Trust> {
    match Trust::follow(in_force, signed) {
        Ok(new) => new,
        Err(error) => {
            tracing::warn!("trust in {} is not taken: {error}", path.display());
            None
        }
    }
}
