//! `ostler hosts`: the hosts, what they have promised of what they have, how fresh that is, and whether each may be lost.

use std::collections::BTreeMap;

use planner::{Loss, Rehearsal};
use protocol::api::HostRowReply;
use protocol::host::{Accel, Host, HostIntent};
use protocol::id::HostId;
use protocol::resources::Bytes;
use protocol::view::Freshness;
use serde_json::json;

use crate::exit::{Code, Failure};
use crate::picture::Picture;
use crate::session::Session;
use crate::show;

pub(crate) async fn run(session: &Session) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    let hosts = picture.hosts();
    let rehearsal = rehearsed(&picture);
    if session.is_json {
        let losses: Vec<_> = rehearsal.losses().collect();
        let can_lose_any = rehearsal.stranding().next().is_none();
        show::json_pretty(&json!({
            "hosts": hosts,
            "warnings": picture.warnings,
            "can_lose_any": can_lose_any,
            "losses": losses,
        }));
        return Ok(Code::Ok);
    }
    picture.warn();
    let header = [
        "HOST", "ID", "STATE", "VCPUS", "MEMORY", "DISK", "POOLS", "JOBS", "GUESTS", "VERSION",
        "IF LOST", "AGE",
    ];
    let losses: BTreeMap<&HostId, &Loss> =
        rehearsal.losses().map(|loss| (&loss.host, loss)).collect();
    let is_fenced = |host: &Host| {
        let trust = session.trust.as_ref();
        trust.is_some_and(|trust| trust.is_over(&host.key, host.trust_version))
    };
    let cells =
        |row: &HostRowReply| cells(row, is_fenced(&row.host), losses.get(&row.host.id).copied());
    show::table(header, hosts.iter().map(cells).collect());
    show::line(&match rehearsal.stranding().next() {
        None => "can lose any one host: yes".to_owned(),
        Some(_) => {
            format!("can lose any one host: no, {}", with_names(&picture, rehearsal.to_string()))
        }
    });
    Ok(Code::Ok)
}

/// What the loss of each host would need, as the picture has them.
fn rehearsed(picture: &Picture) -> Rehearsal {
    let heard: BTreeMap<&HostId, Freshness> =
        picture.rows.iter().map(|row| (&row.host, row.freshness)).collect();
    let mut rehearsal = Rehearsal::default();
    rehearsal.follow(&picture.view, |host| heard.get(host).copied().unwrap_or(Freshness::Stale));
    rehearsal
}

/// A sentence as a person would say it: with names in place of ids.
fn with_names(picture: &Picture, text: String) -> String {
    picture.view.hosts().fold(text, |text, (id, row)| text.replace(id.short(), &row.host.name))
}

/// Whether others have room for what runs there.
fn loss_words(loss: Option<&Loss>) -> String {
    match loss.map(|loss| (loss.vms, loss.stranded.len())) {
        None => "-".to_owned(),
        Some((0, _)) => "nothing".to_owned(),
        Some((_, 0)) => "fits".to_owned(),
        Some((_, count)) => format!("strands {count}"),
    }
}

fn cells(row: &HostRowReply, is_fenced: bool, loss: Option<&Loss>) -> [String; 12] {
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
    let state = if is_fenced { format!("{state}, fenced") } else { state };
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
        loss_words(loss),
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
