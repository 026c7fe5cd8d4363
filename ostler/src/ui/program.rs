//! This very program as another process: a command of `ostler` with the context that the page speaks for.
//!
//! Decides how a command is started and how its end is read; which one is started is the callers'. What it does,
//! prints and refuses is what it would in a terminal, because it is the same.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use transport::discovery::Source;

use crate::cli::Global;
use crate::exit::{Code, Failure};

/// The file that this process was started from, also when a later version has taken its place meanwhile.
const ITSELF: &str = "/proc/self/exe";

/// Commands that read at a time: each asks every host, and a page has few lists open.
const READING_MAX: usize = 4;

/// How long one that reads may take: devices that switch hosts have 100 s to say how they are.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a failure begins that is told to a person, and how it goes on with what to try.
const FAILED: &str = "ostler: ";
const NEXT: &str = "  next: ";

/// What a shell adds to a signal's number to have an exit code: 130 is [`Code::Interrupted`].
const SIGNALLED: i32 = 128;

/// How to start it.
#[derive(Debug)]
pub(crate) struct Program {
    /// The flags that every command takes, as the page itself was given them.
    global: Vec<String>,
    reading: Semaphore,
}

/// What a command has printed that was to print JSON.
#[derive(Debug)]
pub(super) struct Printed {
    pub(super) json: Value,
    /// What it had to say besides.
    pub(super) notes: Vec<String>,
}

impl Program {
    pub(super) fn of(global: &Global) -> Self {
        let context = global.context.iter().map(|path| format!("--context={}", path.display()));
        let hosts = global.hosts.iter().map(|source| format!("--hosts={}", told(source)));
        let otlp = global.otlp.iter().map(|url| format!("--otlp={url}"));
        let global = context.chain(hosts).chain(otlp).collect();
        Self { global, reading: Semaphore::new(READING_MAX) }
    }

    /// A command that nobody types to. The terminal's Ctrl-C is the page's: it ends what it has begun.
    pub(super) fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new(ITSELF);
        command.arg0("ostler").args(&self.global).args(words).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command that changes nothing, and reads what it prints as JSON.
    pub(super) async fn read(&self, words: &[&str]) -> Result<Printed, Failure> {
        let _permit = self.reading.acquire().await.expect("nobody closes it");
        let line = words.join(" ");
        let words: Vec<String> =
            ["--json"].iter().chain(words).map(|word| (*word).to_owned()).collect();
        let mut command = self.command(&words);
        command.kill_on_drop(true);
        let Ok(output) = timeout(PATIENCE, command.output()).await else {
            let what = format!("`ostler {line}` has not ended after {} s", PATIENCE.as_secs());
            return Err(Failure::new(Code::Unreachable, what).next("ostler doctor"));
        };
        printed(&line, &output.map_err(|error| not_begun(&line).because(error))?)
    }
}

/// A source as a command takes it. What proves a host to be the cluster's is told with it, and what a host joins by
/// is not: everybody on this machine can read a command line.
fn told(source: &Source) -> String {
    match source {
        Source::Url(url) => url.to_verify().full(),
        other => other.to_string(),
    }
}

/// Nothing was asked of anybody yet.
pub(super) fn not_begun(line: &str) -> Failure {
    Failure::new(Code::Failed, format!("begin `ostler {line}`"))
}

fn printed(line: &str, output: &Output) -> Result<Printed, Failure> {
    let notes = String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect();
    let json = serde_json::from_slice::<Value>(&output.stdout).map_err(|error| {
        let what = format!("read what `ostler {line}` prints");
        Failure::new(Code::Failed, what).because(error)
    })?;
    match code_of(output.status) {
        Code::Ok => Ok(Printed { json, notes }),
        code => Err(failure_of(&json["error"])
            .unwrap_or_else(|| Failure::new(code, format!("`ostler {line}` has failed")))),
    }
}

/// A failure as scripts get it.
#[derive(Debug, Deserialize)]
struct Told {
    code: i32,
    what: String,
    why: String,
    next: Option<String>,
}

/// The failure that scripts get as this.
pub(super) fn failure_of(error: &Value) -> Option<Failure> {
    let Told { code, what, why, next } = Told::deserialize(error).ok()?;
    let failure = Failure::new(code_named(code), what);
    let failure = if why.is_empty() { failure } else { failure.because(why) };
    Some(match next {
        Some(next) => failure.next(next),
        None => failure,
    })
}

/// How a command has ended. One that a signal has ended counts as in a shell.
pub(super) fn code_of(status: ExitStatus) -> Code {
    let by_signal = || status.signal().map(|signal| SIGNALLED + signal);
    status.code().or_else(by_signal).map_or(Code::Failed, code_named)
}

fn code_named(code: i32) -> Code {
    let codes = [
        Code::Ok,
        Code::Usage,
        Code::Refused,
        Code::Unreachable,
        Code::NotFound,
        Code::Interrupted,
    ];
    codes.into_iter().find(|known| code == *known as i32).unwrap_or(Code::Failed)
}

/// The failure in what a command has told a person. One that has none of that form has said it in its last line.
pub(super) fn failure_in(lines: &[String], code: Code) -> Failure {
    let begin = lines.iter().rposition(|line| line.starts_with(FAILED));
    let told = &lines[begin.unwrap_or(lines.len().saturating_sub(1))..];
    let next = told.iter().position(|line| line.starts_with(NEXT)).unwrap_or(told.len());
    let what = told[..next].join("\n");
    let what = what.strip_prefix(FAILED).unwrap_or(&what);
    let failure = Failure::new(
        code,
        match (what, code) {
            ("", Code::Interrupted) => "interrupted; what was asked of the cluster goes on",
            ("", _) => "it has failed without a word",
            (what, _) => what,
        },
    );
    match told.get(next).and_then(|line| line.strip_prefix(NEXT)) {
        Some(next) => failure.next(next),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_failure_is_read_as_it_was_told() {
        let told = Failure::new(Code::Refused, "there is a VM web-2").more("on h1");
        let told = told.because("its name is taken").next("another name");
        let said = format!("warning: h9 is not heard\n{told}");
        let read = failure_in(&lines(&said), Code::Refused);
        assert_eq!(read.to_string(), told.to_string());
        let last = failure_in(&lines("one\nsnapshot a of web-1 on h1 is not taken"), Code::Failed);
        assert_eq!(last.json()["error"]["what"], "snapshot a of web-1 on h1 is not taken");
        assert!(failure_in(&[], Code::Failed).cause().contains("without a word"));
        assert_eq!(code_of(ExitStatus::from_raw(2)), Code::Interrupted, "by the signal of Ctrl-C");
    }

    #[test]
    fn a_command_is_told_the_same_hosts_and_no_secret() {
        let secret = transport::discovery::JoinSecret::fresh();
        let url = format!("http://127.0.0.1:7459/clusters/ab#join={}", secret.text());
        let told = told(&url.parse().unwrap());
        assert!(!told.contains(&secret.text()), "{told}");
        assert!(told.ends_with(&format!("#join-key={}", secret.key())), "{told}");
        assert_eq!(super::told(&Source::Mdns), "mdns");
    }

    #[test]
    fn what_a_script_would_get_is_the_same_failure() {
        let told = Failure::new(Code::NotFound, "no VM web-9").because("nobody has heard of it");
        let told = told.next("ostler ps").json();
        let output = Output {
            status: ExitStatus::from_raw(5 << 8),
            stdout: told.to_string().into_bytes(),
            stderr: vec![],
        };
        assert_eq!(printed("ps", &output).unwrap_err().json(), told);
        let killed = ExitStatus::from_raw(9);
        let output = Output { status: killed, stdout: b"{}".to_vec(), ..output };
        assert_eq!(printed("ps", &output).unwrap_err().code, Code::Failed);
        let output = Output {
            status: ExitStatus::from_raw(0),
            stdout: b"{\"images\": []}".to_vec(),
            stderr: b"warning: h9 is silent\n".to_vec(),
        };
        let read = printed("images", &output).unwrap();
        assert_eq!(
            (read.json, read.notes),
            (json!({ "images": [] }), lines("warning: h9 is silent"))
        );
    }
}
