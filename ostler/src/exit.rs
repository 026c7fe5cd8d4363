//! How a command ends: the exit codes, and the one place where an error is told.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | what was asked is so |
//! | 1 | it failed; the message says how far it came |
//! | 2 | the command line makes no sense |
//! | 3 | somebody said no, with a reason; nothing was changed |
//! | 4 | somebody who is needed did not answer, or not in time |
//! | 5 | there is no such VM, host, image or run |
//! | 130 | interrupted; what was asked of the cluster goes on |

use std::error::Error;
use std::fmt;
use std::io::Write as _;

use protocol::refusal::Refusal;
use serde_json::{Value, json};
use transport::CallError;

/// The same table for `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 refused (nothing changed), 4 no answer or not in time, \
5 no such thing, 130 interrupted (the run goes on).";

/// An exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// What was asked is so.
    Ok = 0,
    /// It failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// Somebody said no.
    Refused = 3,
    /// Somebody did not answer.
    Unreachable = 4,
    /// There is no such thing.
    NotFound = 5,
    /// The person had enough of waiting.
    Interrupted = 130,
}

impl From<Code> for std::process::ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// Why a command did not do what it was asked: what happened, why, and what to try next.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    what: String,
    why: Option<Box<dyn Error + Send + Sync>>,
    next: Option<String>,
}

impl Failure {
    pub(crate) fn new(code: Code, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), why: None, next: None }
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Code::Usage, what)
    }

    /// What is wrong with a command line: the first paragraph of what people are shown, and the hint or the usage
    /// that stands behind it.
    pub(crate) fn of_usage(error: &clap::Error) -> Self {
        let shown = error.render().to_string();
        let mut parts =
            shown.split("\n\n").map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
        let what = parts.next().unwrap_or_default();
        let failure = Self::usage(what.strip_prefix("error: ").unwrap_or(&what));
        let hints = ["tip: ", "Usage: "];
        let hint = parts.find_map(|part| {
            hints.iter().find_map(|hint| part.strip_prefix(hint).map(str::to_owned))
        });
        match hint {
            Some(hint) => failure.next(hint),
            None => failure,
        }
    }

    pub(crate) fn because(self, why: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { why: Some(why.into()), ..self }
    }

    pub(crate) fn next(self, next: impl Into<String>) -> Self {
        Self { next: Some(next.into()), ..self }
    }

    /// Adds a sentence to what happened.
    pub(crate) fn more(self, more: &str) -> Self {
        Self { what: format!("{}\n  {more}", self.what), ..self }
    }

    /// The cause and its causes, each once: a cause whose words are in what stands before it already
    /// says nothing new.
    fn chain(&self) -> String {
        let mut text = String::new();
        let mut cause = self.why.as_deref().map(|why| why as &(dyn Error + 'static));
        while let Some(error) = cause {
            let words = error.to_string();
            if !text.contains(&words) {
                text = if text.is_empty() { words } else { format!("{text}: {words}") };
            }
            cause = error.source();
        }
        text
    }

    /// What happened and why, as the cause of something else.
    pub(crate) fn cause(&self) -> String {
        let chain = self.chain();
        if chain.is_empty() { self.what.clone() } else { format!("{}: {chain}", self.what) }
    }

    /// As scripts get it.
    pub(crate) fn json(&self) -> Value {
        let Self { code, what, next, .. } = self;
        let error = json!({ "code": *code as u8, "what": what, "why": self.chain(), "next": next });
        json!({ "error": error })
    }

    /// Tells the person, or the script.
    pub(crate) fn tell(&self, is_json: bool) {
        if is_json {
            let _ = writeln!(std::io::stdout(), "{}", self.json());
        } else {
            let _ = writeln!(std::io::stderr(), "{self}");
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ostler: {}", self.what)?;
        let chain = self.chain();
        if !chain.is_empty() {
            write!(f, ": {chain}")?;
        }
        match &self.next {
            Some(next) => write!(f, "\n  next: {next}"),
            None => Ok(()),
        }
    }
}

/// What an answer of a peer means to a shell.
pub(crate) fn code_of(error: &CallError) -> Code {
    match (error.refusal(), error) {
        (
            Some(
                Refusal::NoSuchJob { .. }
                | Refusal::NoSuchSnapshot { .. }
                | Refusal::NoSuchNetwork { .. },
            ),
            _,
        ) => Code::NotFound,
        (Some(_), _) => Code::Refused,
        (None, CallError::Problem { problem, .. }) if problem.status == 404 => Code::NotFound,
        (None, CallError::Problem { problem, .. }) if problem.status == 409 => Code::Refused,
        (None, CallError::NotSent { .. } | CallError::Ambiguous { .. }) => Code::Unreachable,
        (None, CallError::Problem { .. } | CallError::BadAnswer { .. }) => Code::Failed,
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let code = code_of(&error);
        let what = match code {
            Code::Refused => "refused",
            Code::NotFound => "not found",
            Code::Unreachable => "no answer",
            _ => "the request failed",
        };
        Failure::new(code, what).because(error)
    }
}

impl From<bootstrap::ContextError> for Failure {
    fn from(error: bootstrap::ContextError) -> Self {
        Failure::new(Code::Failed, "use the context").because(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_the_chain_once_and_what_to_try() {
        let inner = std::io::Error::other("no route");
        let failure = Failure::new(Code::Unreachable, "ask h1").because(inner).next("ostler hosts");
        assert_eq!(failure.to_string(), "ostler: ask h1: no route\n  next: ostler hosts");
    }

    #[test]
    fn a_script_is_told_what_is_wrong_with_its_command_line() {
        use clap::CommandFactory as _;
        let told = |line: &str| {
            let wrong = crate::cli::Cli::command().try_get_matches_from(line.split_whitespace());
            Failure::of_usage(&wrong.expect_err(line)).json()["error"].clone()
        };
        let unknown = told("ostler ps --jsn");
        assert_eq!(unknown["code"], 2);
        assert!(
            unknown["what"].as_str().unwrap().contains("unexpected argument '--jsn'"),
            "{unknown}"
        );
        assert!(unknown["next"].as_str().unwrap().contains("--json"), "{unknown}");
        let missing = told("ostler stop");
        assert!(missing["what"].as_str().unwrap().contains("<NAME>"), "{missing}");
        assert!(missing["next"].as_str().unwrap().starts_with("ostler stop"), "{missing}");
        let wrong = told("ostler run --memory lots --name web-1");
        assert!(wrong["what"].as_str().unwrap().contains("lots"), "{wrong}");
    }
}
