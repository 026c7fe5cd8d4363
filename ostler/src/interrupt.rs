//! Somebody who has had enough of waiting: a person with Ctrl-C, or what runs a command by a timer and ends it.
//!
//! For commands that have something to take back. The first signal is told to them; a second one ends the
//! process at once, with what is there.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::{Code, Failure};

/// From its making on, INT, TERM and HUP are told here. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Interrupts(CancellationToken);

impl Interrupts {
    /// Listens from now on, for as long as the process lives.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let failed =
            |error: std::io::Error| Failure::new(Code::Failed, "listen for signals").because(error);
        let token = CancellationToken::new();
        for kind in kinds {
            let (mut signals, token) = (signal(kind).map_err(failed)?, token.clone());
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    if token.is_cancelled() {
                        std::process::exit(Code::Interrupted as i32);
                    }
                    token.cancel();
                }
            });
        }
        Ok(Self(token))
    }

    /// Ends when somebody has had enough.
    pub(crate) async fn any(&self) {
        self.0.cancelled().await;
    }

    /// Fails when somebody has had enough already.
    pub(crate) fn check(&self, what: &str) -> Result<(), Failure> {
        match self.0.is_cancelled() {
            true => Err(Failure::new(Code::Interrupted, format!("interrupted: {what}"))),
            false => Ok(()),
        }
    }
}
