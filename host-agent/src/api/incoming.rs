//! The streams of a guest that arrives. libvirt's own is among them, so a pipe is for one caller
//! alone: the host that this job's ticket names as its source, while the job awaits it.

use axum::extract::{Path, State};
use axum::response::Response;
use protocol::id::{HostId, JobId};
use protocol::job::{JobState, Migration};
use protocol::refusal::Refusal;
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
    let from = match (job.state, job.migration.as_deref()) {
        (JobState::MigratingIn, Some(Migration::Incoming { from, .. })) => from.clone(),
        (state, _) => {
            let message = format!("{id} is {state} and awaits no guest");
            return Err(Refusal::Invalid { message }.into());
        }
    };
    if peer.key.as_ref().map(HostId::of).as_ref() != Some(&from) {
        let what = format!("send guest {id}, which comes from host {from}");
        return Err(Refusal::Forbidden { who: peer.to_string(), what }.into());
    }
    let there = api.channels.land(id.domain_uuid(), lane).await;
    let there = there.map_err(|error| {
        let detail = format!("nobody takes the guest's {lane:?} stream here: {error}");
        ProblemReply::new(503, "not-listening", detail)
    })?;
    Ok(upgrade.pipe(move |pipe| carry(pipe, there)))
}
