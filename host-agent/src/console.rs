//! A guest's console: its log file followed by any number of readers, and one who types.
//!
//! libvirt appends what the guest prints to a file, also while no agent runs. So reading is
//! following a file from any offset, and nothing a reader does can hold up the guest.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use hypervisor::{ConsoleWriter, Hypervisor};
use inotify::{Inotify, WatchMask};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use transport::stream::{Frame, FrameSender, Frames};
use uuid::Uuid;

use crate::recorder::Recorder;

/// Bytes read and sent at a time.
const CHUNK_BYTES: usize = 16 << 10;
/// How long the console may take to be opened for typing.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);
/// The file is looked at this often even if nobody says that it has changed: it may not be there
/// yet, or may have been replaced.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Where a reader begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Begin {
    /// At this byte of the log.
    At(u64),
    /// This many bytes before its end.
    Tail(u64),
}

/// How what comes in is typed.
pub(crate) enum Typing {
    /// By a console of one's own, opened at the first byte.
    Opens(Arc<dyn Hypervisor>, Uuid),
    /// By the console that is open for all who look.
    Shares(Arc<Recorder>),
}

/// Where a guest's console is.
pub(crate) struct Outlet {
    /// The file that what it prints is appended to.
    pub(crate) log: PathBuf,
    /// Who appends it, when libvirt does not.
    pub(crate) recorder: Option<Arc<Recorder>>,
}

/// Serves one reader until either side goes; what it sends is typed if `typing` says how.
pub(crate) async fn serve(frames: Frames, outlet: Outlet, begin: Begin, typing: Option<Typing>) {
    let Outlet { log, recorder } = outlet;
    let sender = frames.sender();
    let reading = follow(&log, begin, &sender);
    let typing = take_input(frames, typing);
    tokio::select! {
        end = reading => {
            if let Err(error) = end {
                tracing::debug!("follow {}: {error}", log.display());
            }
        }
        () = typing => {}
    }
    // The last one who looks closes the console, which may wait for libvirt.
    let _ = tokio::task::spawn_blocking(move || drop(recorder)).await;
}

async fn follow(log: &Path, begin: Begin, sender: &FrameSender) -> std::io::Result<()> {
    let (file, mut at) = open_at(log, begin).await?;
    let mut file = file;
    let inotify = Inotify::init()?;
    inotify
        .watches()
        .add(log, WatchMask::MODIFY | WatchMask::MOVE_SELF | WatchMask::DELETE_SELF)?;
    let mut changes = inotify.into_event_stream([0; 1024])?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = file.read(&mut chunk).await?;
        if length > 0 {
            at += length as u64;
            if sender.send_bytes(chunk[..length].to_vec()).await.is_err() {
                return Ok(());
            }
            continue;
        }
        let _ = tokio::time::timeout(LOOK_INTERVAL, changes.next()).await;
        // A restarted guest may begin the file anew.
        if tokio::fs::metadata(log).await.is_ok_and(|found| found.len() < at) {
            (file, at) = open_at(log, Begin::At(0)).await?;
        }
    }
}

/// Opens the log, waiting until there is one.
async fn open_at(log: &Path, begin: Begin) -> std::io::Result<(File, u64)> {
    let mut file = loop {
        match File::open(log).await {
            Ok(file) => break file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                tokio::time::sleep(LOOK_INTERVAL / 10).await;
            }
            Err(error) => return Err(error),
        }
    };
    let length = file.metadata().await?.len();
    let at = match begin {
        Begin::At(at) => at.min(length),
        Begin::Tail(bytes) => length.saturating_sub(bytes),
    };
    file.seek(SeekFrom::Start(at)).await?;
    Ok((file, at))
}

/// Types what comes in; returns when the reader has gone.
async fn take_input(mut frames: Frames, typing: Option<Typing>) {
    let mut console: Option<Box<dyn ConsoleWriter>> = None;
    while let Some(Ok(frame)) = frames.next_frame().await {
        let (Frame::Bytes(bytes), Some(typing)) = (frame, &typing) else { continue };
        let written = match typing {
            Typing::Opens(hv, uuid) => {
                if console.as_ref().is_none_or(|console| !console.is_open()) {
                    console = open(hv, *uuid).await;
                }
                let Some(mut writer) = console.take() else { continue };
                let write = move || {
                    let written = writer.write(&bytes);
                    (writer, written)
                };
                tokio::task::spawn_blocking(write).await.map(|(writer, written)| {
                    if written.is_ok() {
                        console = Some(writer);
                    }
                    written
                })
            }
            Typing::Shares(recorder) => {
                let recorder = Arc::clone(recorder);
                tokio::task::spawn_blocking(move || recorder.write(&bytes)).await
            }
        };
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!("type on the console: {error}"),
            Err(error) => tracing::warn!("type on the console: {error}"),
        }
    }
    let _ = tokio::task::spawn_blocking(move || drop((console, typing))).await;
}

async fn open(hv: &Arc<dyn Hypervisor>, uuid: Uuid) -> Option<Box<dyn ConsoleWriter>> {
    let opened =
        hypervisor::call(hv, "open console", OPEN_DEADLINE, move |hv| hv.open_console(uuid));
    opened.await.inspect_err(|error| tracing::info!("{error}")).ok()
}
