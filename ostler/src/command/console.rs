//! `ostler console`: a VM's serial console, straight from its host's agent.
//!
//! ```text
//! find the VM ─▶ stream ─▶ output to the terminal, keys to the guest ─▶ Ctrl-] : leave
//!      ▲                         │ stream ends
//!      └── it runs elsewhere ◀───┴──▶ it has ended: leave
//! ```
//!
//! Decides that a guest that moved is followed, and that without a terminal nothing is typed.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::time::Duration;

use protocol::id::JobId;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc;
use transport::stream::Frame;
use transport::{Clock, Frames, connect_stream};

use crate::cli::ConsoleArgs;
use crate::exit::{Code, Failure};
use crate::session::Session;
use crate::show;

/// Ctrl-].
const LEAVE: u8 = 0x1d;

/// Keys that wait to be sent; more than anybody types before the guest answers.
const KEYS_MAX: usize = 64;

/// How long a VM whose console ended may take to be seen elsewhere.
const REAPPEAR_MS_MAX: u64 = 15_000;

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
    let mut tail = args.tail;
    let mut host = None;
    loop {
        let picture = session.picture().await?;
        let row = picture.job(&args.name)?;
        let is_new = host.as_ref() != Some(&row.host);
        if row.job.state.is_ended() && !is_new {
            return Ok(Code::Ok);
        }
        if !is_new || host.is_some() {
            show::note(&format!("\r\n[{} {} on {}]\r", args.name, row.job.state, row.host_name));
        }
        host = Some(row.host.clone());
        let write = if is_typing { "&write=true" } else { "" };
        let path = format!("/v1/jobs/{}/console?tail={tail}{write}", args.name);
        let agent = picture.agent(&row.host);
        let stream = connect_stream(&session.client, &agent, &path).await?;
        match attend(stream, &mut keys, &mut screen).await {
            End::Left | End::Enough => return Ok(Code::Ok),
            End::Closed => {}
        }
        tail = 0;
        if !reappears(session, &args.name).await {
            return Ok(Code::Ok);
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

/// Waits until it is clear whether the VM runs on.
async fn reappears(session: &Session, id: &JobId) -> bool {
    let clock = Clock::real();
    let deadline_ms = clock.now().mono_ms + REAPPEAR_MS_MAX;
    while clock.now().mono_ms < deadline_ms {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let Ok(picture) = session.picture().await else { continue };
        match picture.job(id) {
            Ok(row) => return !row.job.state.is_ended(),
            Err(_) => return false,
        }
    }
    false
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
