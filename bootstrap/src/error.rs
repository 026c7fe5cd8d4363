//! Why bootstrap ended early, in the words and with the evidence a person needs to go on.

use std::fmt;

use serde::Serialize;

use crate::event::Step;

/// What kind of end it was; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Something went wrong.
    Failed,
    /// Somebody said no.
    Refused,
    /// Somebody did not answer, or not in time.
    TimedOut,
}

/// Why bootstrap ended. What earlier steps did stays done: run it again to go on from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootstrapError {
    /// At which step.
    pub step: Step,
    /// What kind of end.
    pub kind: Kind,
    /// What happened.
    pub what: String,
    /// The reasons, one each: which host or process, and why.
    pub reasons: Vec<String>,
    /// The last lines of the log of the process it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// What to try next.
    pub next: String,
}

impl fmt::Display for BootstrapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.what)?;
        for reason in &self.reasons {
            write!(f, "\n  - {reason}")?;
        }
        if let Some(log) = &self.log {
            write!(f, "\n  its last log lines:")?;
            log.lines().try_for_each(|line| write!(f, "\n    {line}"))?;
        }
        write!(f, "\n  next: {}", self.next)
    }
}

impl std::error::Error for BootstrapError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_what_why_and_what_next() {
        let error = BootstrapError {
            step: Step::WaitHosts,
            kind: Kind::TimedOut,
            what: "1 of 2 hosts answered".into(),
            reasons: vec!["10.0.0.2: connection refused".into()],
            log: Some("a\nb".into()),
            next: "start the agent there".into(),
        };
        let expected = "wait-hosts: 1 of 2 hosts answered\n  - 10.0.0.2: connection refused\n  its \
                        last log lines:\n    a\n    b\n  next: start the agent there";
        assert_eq!(error.to_string(), expected);
    }
}
