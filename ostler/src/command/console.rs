//! `ostler console`: a VM's serial console, straight from its host's agent.
//!
//! ```text
//! find the VM ─▶ stream ─▶ output to the terminal, keys to the guest ─▶ Ctrl-] : leave
//!      ▲                         │ stream ends
//!      └─ it is seen elsewhere ◀─┴──▶ it has ended: leave
//! ```
//!
//! Decides that a guest that moved is followed, and that without a terminal nothing is typed.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::time::Duration;

use protocol::id::HostId;
use protocol::job::JobRow;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc;
use transport::stream::Frame;
use transport::{CallError, Clock, Frames, connect_stream};

use crate::cli::ConsoleArgs;
use crate::exit::{Code, Failure};
use crate::picture::may_be_elsewhere;
use crate::session::Session;
use crate::show;

/// Ctrl-].
const LEAVE: u8 = 0x1d;

/// Keys that wait to be sent; more than anybody types before the guest answers.
const KEYS_MAX: usize = 64;

/// How long a VM whose console ended may take to be seen elsewhere.
const REAPPEAR_MS_MAX: u64 = 15_000;

/// How often it is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How much of what a VM said since its arrival is shown when it has moved.
const ARRIVAL_BYTES: u64 = 32 << 10;

/// How a session with one host's console ended.
enum End {
    Left,
    Enough,
    Closed,
}

pub(crate) async fn run(session: &Session, args: ConsoleArgs) -> Result<Code, Failure> {
    let is_typing = !args.no_input && std::io::stdin().is_terminal();
    let mut keys = is_typing.then(read_keys);
    let mut screen = Screen { lines_left: args.lines };
    let raw = is_typing.then(RawTerminal::enter).flatten();
    if raw.is_some() {
        show::note(&format!("console of {}; Ctrl-] leaves\r", args.name));
    }
    let mut last = None;
    while let Some((host, stream)) = open(session, &args, is_typing, last.as_ref()).await? {
        match attend(stream, &mut keys, &mut screen).await {
            End::Left | End::Enough => break,
            End::Closed => last = Some(host),
        }
    }
    Ok(Code::Ok)
}

/// The console where the VM is; `None` when it has ended there. After the first time it may take a moment
/// until the VM is seen where it has gone.
async fn open(
    session: &Session,
    args: &ConsoleArgs,
    is_typing: bool,
    last: Option<&HostId>,
) -> Result<Option<(HostId, Frames)>, Failure> {
    let clock = Clock::real();
    let deadline_ms = clock.now().mono_ms + REAPPEAR_MS_MAX;
    loop {
        let is_last_look = last.is_none() || clock.now().mono_ms >= deadline_ms;
        match look(session, args, is_typing, last).await {
            Ok(Look::Ended) => return Ok(None),
            Ok(Look::Open(host, stream)) => return Ok(Some((host, stream))),
            Ok(Look::Gone(error)) if is_last_look => return Err(error.into()),
            Err(failure) if is_last_look => return Err(failure),
            Ok(Look::Gone(_)) | Err(_) => tokio::time::sleep(LOOK_INTERVAL).await,
        }
    }
}

/// What is found where the VM is seen.
enum Look {
    Open(HostId, Frames),
    /// It is not there any more, or its host does not answer.
    Gone(CallError),
    Ended,
}

async fn look(
    session: &Session,
    args: &ConsoleArgs,
    is_typing: bool,
    last: Option<&HostId>,
) -> Result<Look, Failure> {
    let picture = session.picture().await?;
    let JobRow { host, host_name, job, .. } = match picture.job(&args.name) {
        Err(_) if last.is_some() => return Ok(Look::Ended),
        row => row?,
    };
    let is_again = last == Some(&host);
    if is_again && job.state.is_ended() {
        return Ok(Look::Ended);
    }
    let tail = match last {
        None => args.tail,
        Some(_) if is_again => 0,
        // Its log begins with its arrival: all of it is news.
        Some(_) => ARRIVAL_BYTES,
    };
    let write = if is_typing { "&write=true" } else { "" };
    let path = format!("/v1/jobs/{}/console?tail={tail}{write}", args.name);
    match connect_stream(&session.client, &picture.agent(&host), &path).await {
        Err(error) if may_be_elsewhere(&error) => Ok(Look::Gone(error)),
        opened => {
            let stream = opened?;
            if last.is_some() {
                show::note(&format!("\r\n[{} {} on {host_name}]\r", args.name, job.state));
            }
            Ok(Look::Open(host, stream))
        }
    }
}

/// Passes output and keys to and fro.
async fn attend(
    mut stream: Frames,
    keys: &mut Option<mpsc::Receiver<Vec<u8>>>,
    screen: &mut Screen,
) -> End {
    loop {
        tokio::select! {
            frame = stream.next_frame() => match frame {
                Some(Ok(Frame::Bytes(bytes))) => {
                    if screen.show(&bytes) {
                        return End::Enough;
                    }
                }
                Some(Ok(Frame::Text(text))) => {
                    if screen.show(text.as_bytes()) {
                        return End::Enough;
                    }
                }
                Some(Err(_)) | None => return End::Closed,
            },
            typed = next_key(keys) => {
                let before = typed.split(|byte| *byte == LEAVE).next().unwrap_or_default();
                let is_leaving = before.len() < typed.len();
                if !before.is_empty() && stream.send_bytes(before.to_vec()).await.is_err() {
                    return End::Closed;
                }
                if is_leaving {
                    return End::Left;
                }
            }
        }
    }
}

async fn next_key(keys: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Vec<u8> {
    if let Some(receiver) = keys
        && let Some(typed) = receiver.recv().await
    {
        return typed;
    }
    // No keyboard, or it is gone: output goes on.
    *keys = None;
    std::future::pending().await
}

/// Where output goes, and how much of it is wanted.
struct Screen {
    lines_left: Option<u64>,
}

impl Screen {
    /// Shows output; true when that was enough of it.
    fn show(&mut self, bytes: &[u8]) -> bool {
        let wanted = match &mut self.lines_left {
            None => bytes.len(),
            Some(left) => take_lines(bytes, left),
        };
        let mut out = std::io::stdout().lock();
        let is_shown = out.write_all(&bytes[..wanted]).and_then(|()| out.flush()).is_ok();
        !is_shown || self.lines_left == Some(0)
    }
}

/// How many of these bytes belong to the lines that are still wanted.
fn take_lines(bytes: &[u8], left: &mut u64) -> usize {
    for (at, byte) in bytes.iter().enumerate() {
        if *left == 0 {
            return at;
        }
        if *byte == b'\n' {
            *left -= 1;
        }
        if *left == 0 {
            return at + 1;
        }
    }
    bytes.len()
}

/// A terminal that passes every key on, until it is dropped.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn enter() -> Option<Self> {
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
        println!();
    }
}

/// Keys as they come, from a thread of their own: reading a terminal blocks.
fn read_keys() -> mpsc::Receiver<Vec<u8>> {
    let (typed, keys) = mpsc::channel(KEYS_MAX);
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = std::io::stdin().read(&mut buffer) {
            if typed.blocking_send(buffer[..n].to_vec()).is_err() {
                break;
            }
        }
    });
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_wanted_lines_are_taken() {
        let mut left = 2;
        assert_eq!(take_lines(b"one\ntwo", &mut left), 7);
        assert_eq!(left, 1);
        assert_eq!(take_lines(b" more\nthree\n", &mut left), 6);
        assert_eq!((left, take_lines(b"x", &mut 0)), (0, 0));
    }
}
