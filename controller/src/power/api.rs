//! The routes of power: what devices say of a host, and switching it.

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use futures_util::{StreamExt as _, stream};
use protocol::id::{HostId, JobId};
use protocol::power::{HostPower, PowerAction, PowerChange, PowerList, SleepList};
use protocol::trust::Right;
use protocol::view::Freshness;
use scheduler::Picture;
use scheduler::cores::freshness_of;
use transport::{Json, Peer, ProblemReply};

use crate::api::{Shared, permit};

/// Devices asked at a time.
const ASKED_AT_ONCE: usize = 16;

pub(crate) fn router() -> Router<Shared> {
    Router::new()
        .route("/v1/power", get(list))
        .route("/v1/power/{host}", get(find).post(change))
        .route("/v1/asleep", get(asleep))
}

async fn list(State(shared): State<Shared>, peer: Peer) -> Result<Json<PowerList>, ProblemReply> {
    permit(&shared, peer, Right::Run)?;
    let (machines, unknown) = shared.power.known(&shared.asleep.hosts())?;
    let asked = stream::iter(machines).map(|machine| async move { machine.status().await });
    let hosts = asked.buffered(ASKED_AT_ONCE).collect().await;
    Ok(Json(PowerList { hosts, unknown }))
}

async fn find(
    State(shared): State<Shared>,
    peer: Peer,
    Path(host): Path<HostId>,
) -> Result<Json<HostPower>, ProblemReply> {
    permit(&shared, peer, Right::Run)?;
    let machine = shared.asleep.machine(&host)?;
    Ok(Json(machine.status().await))
}

async fn change(
    State(shared): State<Shared>,
    peer: Peer,
    Path(host): Path<HostId>,
    Json(change): Json<PowerChange>,
) -> Result<Json<HostPower>, ProblemReply> {
    permit(&shared, peer, Right::Run)?;
    let machine = shared.asleep.machine(&host)?;
    let PowerChange { action, force, undrain } = change;
    if action == PowerAction::Sleep {
        return put_to_sleep(shared, host, force, undrain).await;
    }
    if action != PowerAction::On && !force {
        check_dead(&shared.picture.borrow(), &host)?;
    }
    if action == PowerAction::Off {
        shared.asleep.hold(&host).await?;
    }
    tracing::warn!(%host, ?action, force, "power is switched");
    // Goes on though whoever asked has gone: half a cycle is a host that stays off.
    let power = shared.power.clone();
    let names = machine.names();
    let switched = tokio::spawn(async move { power.change(&machine, action).await });
    let state = switched.await.map_err(|_| {
        ProblemReply::new(500, "internal", "the order was not carried out to its end")
    })??;
    Ok(Json(HostPower { host, devices: names, state: Some(state), problem: None }))
}

/// Which hosts sleep, and which did.
async fn asleep(State(shared): State<Shared>, peer: Peer) -> Result<Json<SleepList>, ProblemReply> {
    permit(&shared, peer, Right::Read)?;
    let (hosts, may_sleep) = (shared.asleep.told(), shared.scheduler.may_sleep());
    Ok(Json(SleepList { hosts, may_sleep }))
}

async fn put_to_sleep(
    shared: Shared,
    host: HostId,
    force: bool,
    undrain: bool,
) -> Result<Json<HostPower>, ProblemReply> {
    if force {
        let why = "a host is put to sleep only when it is empty; `off` with `force` cuts its power";
        return Err(ProblemReply::new(409, "cannot-sleep", why));
    }
    let devices = shared.asleep.machine(&host)?.names();
    let trust = shared.trust.borrow().clone();
    let id = host.clone();
    // Goes on though whoever asked has gone: whether it sleeps is to be known.
    let put = tokio::spawn(async move { shared.asleep.put(&id, undrain, trust).await });
    let state = put.await.map_err(|_| {
        ProblemReply::new(500, "internal", "the order was not carried out to its end")
    })??;
    Ok(Json(HostPower { host, devices, state: Some(state), problem: None }))
}

/// Nobody cuts the power of guests by mistake.
fn check_dead(picture: &Picture, id: &HostId) -> Result<(), ProblemReply> {
    // Of whom nothing is known now may be well.
    let is_well = !picture.is_current || freshness_of(picture.heard.get(id)) == Freshness::Fresh;
    let jobs = picture.view.host(id).into_iter().flat_map(|row| row.jobs.values());
    let alive = jobs.filter(|job| job.spec.as_vm().is_some() && !job.state.is_ended());
    let alive: Vec<&str> = alive.map(|job| JobId::as_str(&job.id)).collect();
    if !is_well || alive.is_empty() {
        return Ok(());
    }
    let detail = format!(
        "it is heard, as far as this controller sees, and {} VMs are alive there: {}; `ostler drain` moves them away, or say force",
        alive.len(),
        alive.join(", ")
    );
    Err(ProblemReply::new(409, "host-alive", detail))
}
