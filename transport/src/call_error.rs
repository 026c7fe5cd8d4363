//! Why a call has no good answer, and whether it may have had an effect all the same.
//!
//! What to do about it is left to the caller; these say what is safe.

use std::fmt;
use std::io;
use std::path::PathBuf;

use http::Method;
use protocol::refusal::{Problem, Refusal};

/// What was tried, for the reader of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// HTTP method.
    pub method: Method,
    /// Address and path.
    pub url: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.url)
    }
}

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The peer said no, or reported a fault of its own. A refusal changed nothing there.
    #[error("{call}: {} ({} {})", .problem.detail, .problem.status, .problem.name())]
    Problem {
        /// What was tried.
        call: Call,
        /// The answer.
        problem: Box<Problem>,
    },
    /// The request never left: nothing was changed.
    #[error("{call}: not sent")]
    NotSent {
        /// What was tried.
        call: Call,
        /// Why not.
        source: NotSent,
    },
    /// The request may have arrived and the answer did not: it may have been carried out.
    #[error("{call}: sent, but {why}")]
    Ambiguous {
        /// What was tried.
        call: Call,
        /// What happened instead of an answer.
        why: String,
    },
    /// There is an answer that makes no sense; the request was probably carried out.
    #[error("{call}: answer {status} cannot be understood: {why}")]
    BadAnswer {
        /// What was tried.
        call: Call,
        /// HTTP status.
        status: u16,
        /// What is wrong with it.
        why: String,
    },
}

/// Why a request never left.
#[derive(Debug, thiserror::Error)]
pub enum NotSent {
    /// The request or its address makes no sense.
    #[error("{0}")]
    Unusable(String),
    /// No connection.
    #[error("connect")]
    Connect(#[source] io::Error),
    /// No TLS.
    #[error("agree on TLS")]
    Tls(#[source] io::Error),
    /// Nothing came of it in time.
    #[error("no connection within {0} ms")]
    TimedOut(u64),
    /// Somebody else answers at that address.
    #[error("wrong key: expected {expected}, found {found}")]
    WrongKey {
        /// The key or host that was expected.
        expected: String,
        /// The key that was proved and the host it belongs to.
        found: String,
    },
    /// The file to be sent can't be read.
    #[error("open {path}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl CallError {
    /// What was tried.
    #[must_use]
    pub fn call(&self) -> &Call {
        match self {
            CallError::Problem { call, .. }
            | CallError::NotSent { call, .. }
            | CallError::Ambiguous { call, .. }
            | CallError::BadAnswer { call, .. } => call,
        }
    }

    /// The peer's problem document, when it gave one.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            CallError::Problem { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// The peer's typed no, when it gave one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        self.problem()?.refusal.as_ref()
    }

    /// True when the same request may well be answered later, and repeating it is the way to
    /// find out what became of it. Our requests are safe to repeat.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            CallError::Problem { problem, .. } => matches!(problem.status, 429 | 503),
            CallError::NotSent { source, .. } => {
                matches!(source, NotSent::Connect(_) | NotSent::Tls(_) | NotSent::TimedOut(_))
            }
            CallError::Ambiguous { .. } => true,
            CallError::BadAnswer { .. } => false,
        }
    }

    /// True unless it is sure that the request changed nothing at the peer.
    #[must_use]
    pub fn may_have_had_effect(&self) -> bool {
        match self {
            CallError::Problem { problem, .. } => {
                problem.refusal.is_none() && problem.status >= 500
            }
            CallError::NotSent { .. } => false,
            CallError::Ambiguous { .. } | CallError::BadAnswer { .. } => true,
        }
    }
}

/// An error and its causes in one line, for the errors of libraries that hide the interesting part.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
