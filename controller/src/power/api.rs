//! The routes of power: what devices say of a host, and switching it.

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use futures_util::{StreamExt as _, stream};
use protocol::host::Host;
use protocol::id::{HostId, JobId};
use protocol::power::{HostPower, PowerAction, PowerChange, PowerList};
use protocol::trust::Right;
use protocol::view::Freshness;
use scheduler::Picture;
use scheduler::cores::freshness_of;
use transport::{Json, Peer, ProblemReply};

use crate::api::{Shared, permit};

/// Devices asked at a time.
const ASKED_AT_ONCE: usize = 16;

pub(crate) fn router() -> Router<Shared> {
    Router::new().route("/v1/power", get(list)).route("/v1/power/{host}", get(find).post(change))
}

async fn list(State(shared): State<Shared>, peer: Peer) -> Result<Json<PowerList>, ProblemReply> {
    permit(&shared, peer, Right::Run)?;
    let (machines, unknown) = shared.power.known(&hosts(&shared.picture.borrow()))?;
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
    let machine = machine(&shared, &host)?;
    Ok(Json(machine.status().await))
}

async fn change(
    State(shared): State<Shared>,
    peer: Peer,
    Path(host): Path<HostId>,
    Json(change): Json<PowerChange>,
) -> Result<Json<HostPower>, ProblemReply> {
    permit(&shared, peer, Right::Run)?;
    let machine = machine(&shared, &host)?;
    let PowerChange { action, force } = change;
    if action != PowerAction::On && !force {
        check_dead(&shared.picture.borrow(), &host)?;
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

fn hosts(picture: &Picture) -> Vec<Host> {
    picture.view.hosts().map(|(_, row)| Host::clone(&row.host)).collect()
}

fn machine(shared: &Shared, id: &HostId) -> Result<super::Machine, ProblemReply> {
    let hosts = hosts(&shared.picture.borrow());
    let host = hosts.iter().find(|host| host.id == *id);
    let no_host = || ProblemReply::new(404, "no-such-host", format!("there is no host {id}"));
    Ok(shared.power.machine(host.ok_or_else(no_host)?, &hosts)?)
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
