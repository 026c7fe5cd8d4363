//! What guests use, for people and for Prometheus.

use axum::extract::State;
use axum::response::Response;
use protocol::trust::Right;
use protocol::usage::Usage;
use transport::{Json, Peer, ProblemReply};

use super::Api;
use crate::metrics::Scrape;

pub(super) async fn show(State(api): State<Api>, peer: Peer) -> Result<Json<Usage>, ProblemReply> {
    api.permit(peer, Right::Read)?;
    let unknown = |error: hypervisor::HypervisorError| {
        ProblemReply::new(503, "no-hypervisor", error.to_string())
    };
    let usage = api.meter.read().await.map_err(unknown)?;
    Ok(Json(Usage::clone(&usage)))
}

/// Everything but the guests' part is there also while the hypervisor is not.
pub(super) async fn metrics(State(api): State<Api>, peer: Peer) -> Result<Response, ProblemReply> {
    api.permit(peer, Right::Scrape)?;
    let usage = api.meter.read().await.ok();
    let scrape = Scrape {
        host: api.feed.host(),
        states: api.feed.states(),
        subscribers: api.feed.subscribers(),
        hung_calls: api.hv.hung_calls().count(),
        damaged_files: api.damage.len(),
        replaced_keepers: api.warden.replaced(),
        usage,
    };
    Ok(transport::metrics::reply(&scrape.text()))
}
