//! `ostler hosts`: the hosts, what they have promised of what they have, and how fresh that is.

use protocol::api::HostRowReply;
use protocol::host::{Accel, Host, HostIntent};
use protocol::resources::Bytes;
use protocol::view::Freshness;
use serde_json::json;

use crate::exit::{Code, Failure};
use crate::session::Session;
use crate::show;

pub(crate) async fn run(session: &Session) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    let hosts = picture.hosts();
    if session.is_json {
        show::json_pretty(&json!({ "hosts": hosts, "warnings": picture.warnings }));
        return Ok(Code::Ok);
    }
    picture.warn();
    let header = [
        "HOST", "ID", "STATE", "VCPUS", "MEMORY", "DISK", "POOLS", "JOBS", "GUESTS", "VERSION",
        "AGE",
    ];
    show::table(header, hosts.iter().map(cells).collect());
    Ok(Code::Ok)
}

fn cells(row: &HostRowReply) -> [String; 11] {
    let HostRowReply { host, freshness, age_ms, jobs_alive, .. } = row;
    let (used, all) = (host.allocation, host.capacity);
    let heard = match freshness {
        Freshness::Fresh => "fresh",
        Freshness::Stale => "stale",
        Freshness::Lost => "lost",
    };
    let state = match host.intent {
        None => heard.to_owned(),
        Some(HostIntent::Drain) if row.vms_alive == 0 => format!("{heard}, drained"),
        Some(HostIntent::Drain) => format!("{heard}, draining"),
        Some(HostIntent::Unknown) => format!("{heard}, intended for what a newer agent knows"),
    };
    let guests = match host.hypervisor.accel {
        Accel::Kvm => "kvm",
        Accel::Tcg => "translated",
        Accel::None => "pretended",
    };
    [
        host.name.clone(),
        host.id.short().to_owned(),
        state,
        format!("{}/{}", used.vcpus, all.vcpus),
        format!("{}/{}", Bytes(used.memory_bytes), Bytes(all.memory_bytes)),
        format!("{}/{}", Bytes(used.disk_bytes), Bytes(all.disk_bytes)),
        pools_of(host),
        jobs_alive.to_string(),
        guests.to_owned(),
        host.agent_version.clone(),
        show::age(*age_ms),
    ]
}

/// Pools by name; what is not available is marked.
fn pools_of(host: &Host) -> String {
    let pools = host.pools.iter().map(|(name, facts)| match facts.unavailable {
        None => name.to_string(),
        Some(_) => format!("{name}(!)"),
    });
    let pools: Vec<String> = pools.collect();
    if pools.is_empty() { "-".to_owned() } else { pools.join(",") }
}
