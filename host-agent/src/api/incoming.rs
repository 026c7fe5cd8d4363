//! The streams of a guest that arrives. libvirt's own is among them, so a pipe is for one caller
//! alone: the host that this job's ticket names as its source, while the job awaits it. It ends when that is over,
//! whatever its source does: when the job's row says so, and when the source has no right here any more.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use protocol::id::{HostId, JobId};
use protocol::job::{Job, JobState, Migration};
use protocol::refusal::Refusal;
use protocol::trust::Right;
use transport::pipe::PipeUpgrade;
use transport::{Peer, ProblemReply};

use super::Api;
use crate::channel::{Lane, carry};

pub(super) async fn open(
    State(api): State<Api>,
    peer: Peer,
    Path((id, lane)): Path<(JobId, Lane)>,
    upgrade: PipeUpgrade,
) -> Result<Response, ProblemReply> {
    let job = api.feed.job(&id).ok_or_else(|| Refusal::NoSuchJob { job: id.clone() })?;
    let Some(from) = awaited(&job) else {
        let message = format!("{id} is {} and awaits no guest", job.state);
        return Err(Refusal::Invalid { message }.into());
    };
    if peer.key.as_ref().map(HostId::of).as_ref() != Some(from) {
        let what = format!("send guest {id}, which comes from host {from}");
        return Err(Refusal::Forbidden { who: peer.to_string(), what }.into());
    }
    let landing = api.channels.land(id.domain_uuid())?;
    let there = api.channels.connect(id.domain_uuid(), lane).await;
    let there = there.map_err(|error| {
        let detail = format!("nobody takes the guest's {lane:?} stream here: {error}");
        ProblemReply::new(503, "not-listening", detail)
    })?;
    let (over, forbidden) = (over(&api, &job), api.forbidden(peer, Right::Read));
    Ok(upgrade.pipe(move |pipe| {
        landing.until_over(async move {
            tokio::select! {
                () = carry(pipe, there) => {}
                () = over => {}
                () = forbidden => {}
            }
        })
    }))
}

/// The host that a guest is awaited from.
fn awaited(job: &Job) -> Option<&HostId> {
    match (job.state, job.migration.as_deref()) {
        (JobState::MigratingIn, Some(Migration::Incoming { from, .. })) => Some(from),
        _ => None,
    }
}

/// Ends when this guest is not awaited any more: it runs here, or has been given up, or another one of its name is
/// awaited.
fn over(api: &Api, job: &Job) -> impl Future<Output = ()> + Send + 'static {
    let (feed, mut changes) = (Arc::clone(&api.feed), api.feed.changes());
    let (id, hold, from) = (job.id.clone(), job.hold, awaited(job).cloned());
    async move {
        let is_it = |job: Arc<Job>| job.hold == hold && awaited(&job) == from.as_ref();
        while feed.job(&id).is_some_and(is_it) {
            // Without a sender there is no agent any more.
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}
