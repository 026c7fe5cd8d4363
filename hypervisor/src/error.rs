//! What went wrong, in terms that decide what to do next.
//!
//! The kind comes from libvirt's error codes and from looking at the domain again, never from
//! libvirt's texts, which change with version and language.

use std::fmt;

/// A failed operation.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}: {kind}: {message}")]
pub struct HypervisorError {
    /// What was tried, with the values that matter.
    pub what: String,
    /// What sort of failure it was.
    pub kind: ErrorKind,
    /// What came back, for people.
    pub message: String,
}

impl HypervisorError {
    /// An error of this kind.
    pub fn new(what: impl Into<String>, kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { what: what.into(), kind, message: message.into() }
    }
}

/// The sorts of failure, each with what it leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// There is no such domain. Nothing was changed.
    NoSuchDomain,
    /// The domain has a process already. Nothing was changed.
    AlreadyRunning,
    /// The domain has no process, or is in a state in which this can't be done. Nothing was changed.
    NotRunning,
    /// Another domain has this name. Nothing was changed.
    AlreadyExists,
    /// The configuration itself is at fault; repeating it is pointless. Nothing was changed.
    Refused,
    /// This driver can't do it. Nothing was changed.
    Unsupported,
    /// Another process uses this hypervisor exclusively. Nothing was changed.
    InUse,
    /// The connection is gone. The operation may have taken effect.
    Disconnected,
    /// No answer in time. The operation may have taken effect, or may yet.
    TimedOut,
    /// The hypervisor tried and failed. It has undone what it began.
    Failed,
}

impl ErrorKind {
    /// True when the operation may nevertheless have taken effect.
    #[must_use]
    pub fn is_ambiguous(self) -> bool {
        matches!(self, ErrorKind::Disconnected | ErrorKind::TimedOut)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ErrorKind::NoSuchDomain => "no such domain",
            ErrorKind::AlreadyRunning => "already running",
            ErrorKind::NotRunning => "not running",
            ErrorKind::AlreadyExists => "already exists",
            ErrorKind::Refused => "configuration refused",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::InUse => "in use",
            ErrorKind::Disconnected => "disconnected",
            ErrorKind::TimedOut => "timed out",
            ErrorKind::Failed => "failed",
        })
    }
}
