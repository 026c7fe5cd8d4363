//! Pools over HTTP: which this host has, and what is in them.
//!
//! What is in a shared pool is the same whichever host is asked. Volumes of jobs that are here are the
//! job's, and go with it; here go only those that no row tells of any more.

use std::collections::BTreeMap;

use axum::extract::{Path, Query, State};
use http::StatusCode;
use protocol::id::{Cursor, Epoch, HostId, JobId, PoolName};
use protocol::pool::{DEFAULT, PoolContent, PoolsConfig, Tag};
use protocol::refusal::Refusal;
use protocol::trust::Right;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::oneshot;
use transport::{Json, Peer, ProblemReply};

use super::Api;
use crate::core::{Input, Request};
use crate::pool::Pool;
use crate::pools::Pools;
use crate::shell::Post;

pub(super) async fn show_config(
    State(api): State<Api>,
    peer: Peer,
) -> Result<Json<PoolsConfig>, ProblemReply> {
    api.permit(peer, Right::Read)?;
    Ok(Json(api.storage.pools().config()))
}

pub(super) async fn put_config(
    State(api): State<Api>,
    peer: Peer,
    Json(config): Json<PoolsConfig>,
) -> Result<Json<PoolsConfig>, ProblemReply> {
    api.permit(peer, Right::Run)?;
    config.validate().map_err(ProblemReply::from)?;
    let (found, made) = Pools::find(&config).await?;
    if let Err(no) = api.ask(Request::Pools(found.clone())).await {
        made.iter().for_each(Pool::unmake);
        return Err(no);
    }
    // Whoever is answered can have volumes there, and sees the pools on the host.
    api.storage.pools().declare(&found);
    let looked = api.storage.pools().look_once().await;
    let (tell, told) = oneshot::channel();
    if api.posts.send(Post::Awaited(Input::Pools(looked), tell)).await.is_ok() {
        // The agent that stops before has written them all the same.
        let _ = told.await;
    }
    Ok(Json(found))
}

pub(super) async fn content(
    State(api): State<Api>,
    peer: Peer,
    Path(name): Path<PoolName>,
) -> Result<Json<PoolContent>, ProblemReply> {
    api.permit(peer, Right::Read)?;
    if name.as_str() == DEFAULT {
        return Ok(Json(own_content(&api)));
    }
    known(&api, &name)?;
    let content = api.storage.pools().within(&name, Pool::measured_content).await;
    content.map(Json).map_err(|why| unavailable(name, why))
}

/// What is in the host's own folder, by its rows: no other host has anything there.
fn own_content(api: &Api) -> PoolContent {
    let host = api.feed.host().id.clone();
    let mut content = PoolContent::default();
    for job in api.feed.jobs() {
        let Some(vm) = job.spec.as_vm().filter(|vm| vm.adopted.is_none()) else { continue };
        let own = vm.disks.iter().filter(|disk| disk.named_pool().is_none());
        let disks: BTreeMap<String, u64> =
            own.map(|disk| (disk.name.clone(), disk.size_bytes)).collect();
        if disks.is_empty() {
            continue;
        }
        let tag = Tag {
            host: host.clone(),
            taken: Cursor { epoch: Epoch(0), seq: 0 },
            revision: job.revision,
            is_made: !job.state.is_ended() || job.keeps_disks(),
            arriving: None,
            disks,
            snapshots: job.kept_snapshots().cloned().collect(),
            job: job.id,
        };
        content.used.insert(tag.job.clone(), api.storage.used_by_disk(&tag));
        content.volumes.push(tag);
    }
    content
}

/// Whoever used the volumes last, as the caller has seen it.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct By {
    /// The host.
    host: HostId,
}

pub(super) async fn remove(
    State(api): State<Api>,
    peer: Peer,
    Path((name, job)): Path<(PoolName, JobId)>,
    Query(By { host }): Query<By>,
) -> Result<StatusCode, ProblemReply> {
    api.permit(peer, Right::Run)?;
    known(&api, &name)?;
    if let Some(row) = api.feed.job(&job) {
        let needed = "the volumes are its own: delete the job".to_owned();
        return Err(Refusal::WrongState { job, state: row.state, needed }.into());
    }
    let removed = api.storage.pools().within(&name, move |pool| pool.discard_of(&job, &host)).await;
    removed.map(|()| StatusCode::NO_CONTENT).map_err(|why| unavailable(name, why))
}

pub(super) async fn restore(
    State(api): State<Api>,
    peer: Peer,
    Path((name, entry)): Path<(PoolName, String)>,
) -> Result<Json<Tag>, ProblemReply> {
    api.permit(peer, Right::Run)?;
    known(&api, &name)?;
    let what = entry.clone();
    let restored = api.storage.pools().within(&name, move |pool| pool.restore(&entry)).await;
    match restored.map_err(|why| unavailable(name.clone(), why))? {
        Some(tag) => Ok(Json(tag)),
        None => {
            let message = format!("pool {name} has no {what:?} in its trash; look again");
            Err(Refusal::Invalid { message }.into())
        }
    }
}

fn known(api: &Api, name: &PoolName) -> Result<(), ProblemReply> {
    let has: Vec<PoolName> = api.storage.pools().config().pools.into_keys().collect();
    match has.contains(name) {
        true => Ok(()),
        false => Err(Refusal::NoPool { pool: name.clone(), has }.into()),
    }
}

fn unavailable(pool: PoolName, why: String) -> ProblemReply {
    Refusal::PoolUnavailable { pool, why }.into()
}
