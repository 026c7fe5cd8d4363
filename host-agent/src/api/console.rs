//! Consoles over WebSocket.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::response::Response;
use hypervisor::{Definition, Serial, call};
use protocol::id::JobId;
use protocol::job::{Job, JobKind};
use protocol::refusal::Refusal;
use schemars::JsonSchema;
use serde::Deserialize;
use transport::stream::Upgrade;
use transport::{Peer, ProblemReply};

use super::Api;
use crate::console::{Begin, Outlet, Typing, serve};

/// Scrollback sent when nobody says how much.
const TAIL_BYTES_DEFAULT: u64 = 16 << 10;

/// libvirt answers within milliseconds, or waits for its own lock for 30 s.
const READ_DEADLINE: Duration = Duration::from_secs(35);

/// Where to begin and whether to type.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct Ask {
    from: Option<u64>,
    tail: Option<u64>,
    #[serde(default)]
    write: bool,
}

pub(super) async fn open(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
    Query(ask): Query<Ask>,
    upgrade: Upgrade,
) -> Result<Response, ProblemReply> {
    // What a guest prints may hold secrets: looking at it is more than reading states.
    api.permit_over(peer, &id)?;
    let job = api.feed.job(&id).ok_or_else(|| Refusal::NoSuchJob { job: id.clone() })?;
    let message = match job.spec.kind {
        JobKind::Service(_) => Some(format!("{id} is a service and has a log, not a console")),
        JobKind::Budget(_) => Some(format!("{id} is a budget and runs nothing")),
        JobKind::Vm(_) | JobKind::OneOff(_) => None,
    };
    if let Some(message) = message {
        return Err(Refusal::Invalid { message }.into());
    }
    let begin = match (ask.from, ask.tail) {
        (Some(at), _) => Begin::At(at),
        (None, tail) => Begin::Tail(tail.unwrap_or(TAIL_BYTES_DEFAULT)),
    };
    let uuid = job.domain_uuid.unwrap_or_else(|| id.domain_uuid());
    let (log, is_recorded) = log_of(&api, &job).await?;
    let recorder = is_recorded.then(|| api.recorders.of(&api.hv, uuid, log.clone()));
    let typing = ask.write.then(|| match &recorder {
        Some(recorder) => Typing::Shares(Arc::clone(recorder)),
        None => Typing::Opens(Arc::clone(&api.hv), uuid),
    });
    let outlet = Outlet { log, recorder };
    let upgrade = upgrade.until(api.forbidden_over_job(peer, &job));
    Ok(upgrade.frames(move |frames| serve(frames, outlet, begin, typing)))
}

/// The file with what a guest has printed, and whether it is recorded only while somebody looks: an
/// adopted one has its own definition, which says.
pub(super) async fn log_of(api: &Api, job: &Job) -> Result<(PathBuf, bool), ProblemReply> {
    let Some(uuid) = job.spec.adopted() else {
        return Ok((api.storage.console_log(&job.id), false));
    };
    let read = call(&api.hv, "read definition", READ_DEADLINE, move |hv| hv.definition(uuid));
    let definition =
        read.await.map_err(|error| ProblemReply::new(503, "no-hypervisor", error.to_string()))?;
    match Definition::read(&definition).and_then(|read| read.serial) {
        Some(Serial { log: Some(log) }) => Ok((log, false)),
        Some(Serial { log: None }) => Ok((api.storage.recording(uuid), true)),
        None => {
            let message = format!("adopted job {} has no serial port in its definition", job.id);
            Err(Refusal::Invalid { message }.into())
        }
    }
}
