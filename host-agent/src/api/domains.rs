//! Domains that are nobody's job, as jobs that they could become.

use std::time::Duration;

use axum::extract::{Path, State};
use hypervisor::{ErrorKind, call};
use protocol::api::DomainReply;
use protocol::job::JobSpec;
use protocol::refusal::Refusal;
use protocol::trust::Right;
use transport::{Json, Peer, ProblemReply};

use super::Api;

/// libvirt answers within milliseconds, or waits for its own lock for 30 s.
const DESCRIBE_DEADLINE: Duration = Duration::from_secs(35);

/// By uuid, or by name.
pub(super) async fn show(
    State(api): State<Api>,
    peer: Peer,
    Path(asked): Path<String>,
) -> Result<Json<DomainReply>, ProblemReply> {
    api.permit(peer, Right::Read)?;
    let observed = api.feed.inventory().observed;
    let is_asked = |name: &str, uuid: uuid::Uuid| asked == name || asked == uuid.to_string();
    let unknown = || Refusal::NoSuchDomain { domain: asked.clone() };
    let domain = observed.into_iter().find(|domain| is_asked(&domain.name, domain.uuid));
    let domain = domain.ok_or_else(unknown)?;
    let uuid = domain.uuid;
    let described = call(&api.hv, "describe", DESCRIBE_DEADLINE, move |hv| hv.describe(uuid)).await;
    match described {
        Ok(vm) => Ok(Json(DomainReply { domain, spec: JobSpec::vm(vm) })),
        Err(error) if error.kind == ErrorKind::NoSuchDomain => Err(unknown().into()),
        Err(error) => Err(ProblemReply::new(503, "no-hypervisor", error.to_string())),
    }
}
