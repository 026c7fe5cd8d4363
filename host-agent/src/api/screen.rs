//! Screens: a picture now, and VNC over WebSocket.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use hypervisor::{ErrorKind, HypervisorError, call};
use protocol::id::JobId;
use protocol::job::{Job, JobKind};
use protocol::refusal::Refusal;
use tokio::task::spawn_blocking;
use transport::stream::Upgrade;
use transport::{Peer, ProblemReply};
use uuid::Uuid;

use super::Api;
use crate::screen::{png_of, serve};

/// libvirt answers within milliseconds, or waits for its own lock for 30 s.
const DEADLINE: Duration = Duration::from_secs(35);

/// A picture is taken anew for everybody who asks.
const NEVER_KEPT: &str = "no-store";

pub(super) async fn vnc(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
    upgrade: Upgrade,
) -> Result<Response, ProblemReply> {
    let (job, uuid) = find(&api, peer, &id)?;
    let opened = call(&api.hv, "open graphics", DEADLINE, move |hv| hv.open_graphics(uuid)).await;
    let guest = opened.map_err(|error| no(&job, &error))?;
    let upgrade = upgrade.until(api.forbidden_over_job(peer, &job));
    Ok(upgrade.frames(move |frames| serve(frames, guest)))
}

pub(super) async fn screenshot(
    State(api): State<Api>,
    peer: Peer,
    Path(id): Path<JobId>,
) -> Result<Response, ProblemReply> {
    let (job, uuid) = find(&api, peer, &id)?;
    let taken = call(&api.hv, "take a picture", DEADLINE, move |hv| hv.screenshot(uuid)).await;
    let taken = taken.map_err(|error| no(&job, &error))?;
    let unreadable = |why: &dyn ToString| ProblemReply::new(503, "no-hypervisor", why.to_string());
    // Some milliseconds of a processor.
    let png = spawn_blocking(move || png_of(taken)).await.map_err(|error| unreadable(&error))?;
    let png = png.map_err(|error| unreadable(&error))?;
    Ok(([(CONTENT_TYPE, "image/png"), (CACHE_CONTROL, NEVER_KEPT)], png).into_response())
}

/// The job, if the caller may see what it shows and it can show something.
fn find(api: &Api, peer: Peer, id: &JobId) -> Result<(Job, Uuid), ProblemReply> {
    // What a guest shows may be secret, as on its console.
    api.permit_over(peer, id)?;
    let job = api.feed.job(id).ok_or_else(|| Refusal::NoSuchJob { job: id.clone() })?;
    let has_screen = match &job.spec.kind {
        JobKind::Service(_) | JobKind::Budget(_) => false,
        // Its own definition says.
        _ if job.spec.adopted().is_some() => true,
        JobKind::Vm(vm) => vm.hardware.vnc,
        JobKind::OneOff(one_off) => one_off.vm.hardware.vnc,
    };
    if !has_screen {
        let message = format!("{id} has no screen: `hardware.vnc` of its spec gives it one");
        return Err(Refusal::Invalid { message }.into());
    }
    let uuid = job.domain_uuid.unwrap_or_else(|| id.domain_uuid());
    Ok((Job::clone(&job), uuid))
}

fn no(job: &Job, error: &HypervisorError) -> ProblemReply {
    match error.kind {
        ErrorKind::NotRunning | ErrorKind::NoSuchDomain => Refusal::WrongState {
            job: job.id.clone(),
            state: job.state,
            needed: "running or paused".to_owned(),
        }
        .into(),
        ErrorKind::Unsupported | ErrorKind::Refused => {
            Refusal::Invalid { message: format!("{} has no screen: {error}", job.id) }.into()
        }
        ErrorKind::AlreadyRunning
        | ErrorKind::AlreadyExists
        | ErrorKind::InUse
        | ErrorKind::Disconnected
        | ErrorKind::TimedOut
        | ErrorKind::Failed => ProblemReply::new(503, "no-hypervisor", error.to_string()),
    }
}
