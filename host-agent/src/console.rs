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

/// Serves one reader until either side goes; what it sends is typed when `types` says whose
/// console it is.
pub(crate) async fn serve(
    frames: Frames,
    log: PathBuf,
    begin: Begin,
    types: Option<(Arc<dyn Hypervisor>, Uuid)>,
) {
    let sender = frames.sender();
    let reading = follow(&log, begin, &sender);
    let typing = take_input(frames, types);
    tokio::select! {
        end = reading => {
            if let Err(error) = end {
                tracing::debug!("follow {}: {error}", log.display());
            }
        }
        () = typing => {}
    }
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
async fn take_input(mut frames: Frames, types: Option<(Arc<dyn Hypervisor>, Uuid)>) {
    let mut console: Option<Box<dyn ConsoleWriter>> = None;
    while let Some(Ok(frame)) = frames.next_frame().await {
        let (Frame::Bytes(bytes), Some((hv, uuid))) = (frame, &types) else { continue };
        if console.is_none() {
            let uuid = *uuid;
            let opened = hypervisor::call(hv, "open console", OPEN_DEADLINE, move |hv| {
                hv.open_console(uuid)
            });
            match opened.await {
                Ok(opened) => console = Some(opened),
                Err(error) => {
                    tracing::info!("{error}");
                    continue;
                }
            }
        }
        let Some(mut writer) = console.take() else { continue };
        let written = tokio::task::spawn_blocking(move || {
            let written = writer.write(&bytes);
            (writer, written)
        });
        match written.await {
            Ok((writer, Ok(()))) => console = Some(writer),
            Ok((_, Err(error))) => tracing::info!("type on the console: {error}"),
            Err(error) => tracing::warn!("type on the console: {error}"),
        }
    }
    if let Some(console) = console {
        let _ = tokio::task::spawn_blocking(move || drop(console)).await;
    }
}
