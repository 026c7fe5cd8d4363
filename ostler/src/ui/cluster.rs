//! The operator's session, as it is now: a page stays open for longer than a trust document is in
//! force.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::cli::Global;
use crate::session::Session;
use crate::show;

/// How often the context is looked at. It changes by an operator's hand.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The session from now on. Ends when nobody wants to know any more.
pub(crate) fn follow(global: Global, first: Session) -> watch::Receiver<Arc<Session>> {
    let (publish, sessions) = watch::channel(Arc::new(first));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = publish.closed() => return,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            let session = Arc::clone(&publish.borrow());
            // What can't be read now may be half written; the one in force goes on.
            let Ok(Some((_, trust))) = session.context.trust() else { continue };
            if session.trust.as_ref().map(|trust| trust.version) == Some(trust.version) {
                continue;
            }
            if let Ok(next) = Session::open(&global) {
                show::note(&format!("trust version {} is in force", trust.version));
                publish.send_replace(Arc::new(next));
            }
        }
    });
    sessions
}
