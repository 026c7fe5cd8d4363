//! A VM's console for a page: passed on from its host's agent, and from the next host's when it moves.
//!
//! Bytes are the guest's and the keyboard's. Text is ours: a sentence about where the guest is.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::response::Response;
use protocol::id::{HostId, JobId};
use serde::Deserialize;
use tokio::sync::watch;
use transport::stream::{Frame, Upgrade, close};
use transport::{Frames, connect_stream};

use super::ask::No;
use super::replica::Replica;
use super::serve::Shared;
use crate::picture::{chain, may_be_elsewhere};

/// How much of what was said before a page begins with.
const TAIL_BYTES: u64 = 32 << 10;

/// How often a VM whose console has ended is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How long it is looked for.
const LOOKS_MAX: u32 = 60;

/// Whether to type.
#[derive(Debug, Deserialize)]
pub(super) struct Ask {
    #[serde(default)]
    write: bool,
}

/// `GET /jobs/{job}/console`, a WebSocket.
pub(super) async fn open(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<JobId>,
    Query(ask): Query<Ask>,
    upgrade: Result<Upgrade, transport::ProblemReply>,
) -> Result<Response, No> {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(no) => return Ok(axum::response::IntoResponse::into_response(no)),
    };
    shared.now().await?.1.job(&id)?;
    Ok(upgrade.frames(move |page| attend(shared, page, id, ask.write)))
}

/// Until the page goes or the VM is no more.
async fn attend(shared: Arc<Shared>, mut page: Frames, id: JobId, is_typing: bool) {
    let mut last: Option<HostId> = None;
    let words = loop {
        let Some(opened) = open_at_host(&shared, &id, is_typing, last.as_ref()).await else {
            break format!("{id} has ended");
        };
        let Opened { host, host_name, console } = opened;
        let console = match console {
            Ok(console) => console,
            Err(why) => break why,
        };
        let _ = page.send_text(format!("{id} on {host_name}")).await;
        let moving = moved(shared.replicas.clone(), &id, &host);
        if matches!(pass_on(&mut page, console, moving).await, End::PageGone) {
            return;
        }
        last = Some(host);
    };
    let _ = page.send_text(words).await;
    page.close(close::NORMAL, "").await;
}

/// A console where the VM is, or why there is none.
struct Opened {
    host: HostId,
    host_name: String,
    console: Result<Frames, String>,
}

/// The console where the VM is; `None` when it is nowhere any more. After the first time it may take
/// a moment until the VM is seen where it has gone.
async fn open_at_host(
    shared: &Shared,
    id: &JobId,
    is_typing: bool,
    last: Option<&HostId>,
) -> Option<Opened> {
    for _ in 0..LOOKS_MAX {
        let (session, picture) = shared.now().await.ok()?;
        let row = picture.job(id).ok()?;
        let is_again = last == Some(&row.host);
        if !is_again || !row.job.state.is_ended() {
            // On another host its log begins with its arrival: all of it is news.
            let tail = if is_again { 0 } else { TAIL_BYTES };
            let write = if is_typing { "&write=true" } else { "" };
            let path = format!("/v1/jobs/{id}/console?tail={tail}{write}");
            let opened = connect_stream(&session.client, &picture.agent(&row.host), &path).await;
            if !matches!(&opened, Err(error) if last.is_some() && may_be_elsewhere(error)) {
                let console = opened.map_err(|error| chain(&error));
                return Some(Opened { host: row.host, host_name: row.host_name, console });
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    None
}

/// Returns when the VM is alive on another host than this one: the agent that it has left goes on
/// reading a log to which nothing is added.
async fn moved(mut replicas: watch::Receiver<Arc<Replica>>, id: &JobId, host: &HostId) {
    let is_elsewhere = |replica: &Arc<Replica>| {
        let best = replica.view.job_best(id);
        best.is_some_and(|(row, job)| row.host.id != *host && !job.state.is_ended())
    };
    if replicas.wait_for(is_elsewhere).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Which side ended a console.
enum End {
    PageGone,
    ConsoleGone,
}

async fn pass_on(page: &mut Frames, mut console: Frames, moved: impl Future<Output = ()>) -> End {
    let mut moved = std::pin::pin!(moved);
    loop {
        tokio::select! {
            () = &mut moved => return End::ConsoleGone,
            said = console.next_frame() => {
                let bytes = match said {
                    Some(Ok(Frame::Bytes(bytes))) => bytes,
                    Some(Ok(Frame::Text(text))) => text.into_bytes().into(),
                    Some(Err(_)) | None => return End::ConsoleGone,
                };
                if page.send_bytes(bytes).await.is_err() {
                    return End::PageGone;
                }
            }
            typed = page.next_frame() => {
                let bytes = match typed {
                    Some(Ok(Frame::Bytes(bytes))) => bytes,
                    Some(Ok(Frame::Text(text))) => text.into_bytes().into(),
                    Some(Err(_)) | None => return End::PageGone,
                };
                if console.send_bytes(bytes).await.is_err() {
                    return End::ConsoleGone;
                }
            }
        }
    }
}
