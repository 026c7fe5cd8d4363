//! `ostler hosts`: the hosts, what they have promised of what they have, how fresh that is, and whether each may be lost.

use std::collections::BTreeMap;

use bootstrap::committee::{Found, is_member};
use planner::{Loss, Rehearsal};
use protocol::api::HostRowReply;
use protocol::host::{Accel, Host, HostIntent};
use protocol::id::HostId;
use protocol::power::Sleep;
use protocol::resources::Bytes;
use protocol::trust::Trust;
use protocol::view::Freshness;
use serde_json::json;

use super::arbiters::arbiters_on;
use crate::cli::HostsArgs;
use crate::exit::{Code, Failure};
use crate::govern::in_force;
use crate::picture::Picture;
use crate::session::Session;
use crate::show;

/// Where the column of dedicated CPUs is.
const DEDICATED_AT: usize = 4;

pub(crate) async fn run(session: &Session, args: HostsArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    let hosts = picture.hosts();
    let rehearsal = rehearsed(&picture, Rehearsal::of_hosts());
    let domains = args.domain.map(|label| {
        let rehearsal = rehearsed(&picture, Rehearsal::of_domains(label.clone()));
        (label, rehearsal)
    });
    // Of hosts that were named alone, nothing is known of the others' arbiters.
    let trust = session.trust.as_ref().filter(|_| !session.is_direct);
    let cover = trust.map(|trust| Cover::of(&picture, trust)).unwrap_or_default();
    if session.is_json {
        let losses: Vec<_> = rehearsal.losses().collect();
        let of_domains =
            domains.as_ref().map(|(_, rehearsal)| rehearsal.losses().collect::<Vec<_>>());
        let can_lose_any = rehearsal.stranding().next().is_none() && cover == Cover::default();
        show::json_pretty(&json!({
            "hosts": hosts,
            "asleep": picture.asleep.keys().collect::<Vec<_>>(),
            "warnings": picture.warnings,
            "can_lose_any": can_lose_any,
            "losses": losses,
            "losses_of_domains": of_domains,
            "arbiters_are_few": cover.is_few,
            "arbiters_need": cover.pillars,
        }));
        return Ok(Code::Ok);
    }
    picture.warn();
    let header = [
        "HOST",
        "ID",
        "STATE",
        "VCPUS",
        "DEDICATED",
        "MEMORY",
        "HUGEPAGES",
        "DISK",
        "POOLS",
        "JOBS",
        "GUESTS",
        "VERSION",
        "IF LOST",
        "AGE",
    ];
    let trust = in_force(session, &picture).await;
    let is_fenced = |host: &Host| {
        let trust = trust.as_ref();
        trust.is_some_and(|trust| trust.is_over(&host.key, host.trust_version))
    };
    let losses: BTreeMap<&HostId, &Loss> =
        rehearsal.losses().filter_map(|loss| Some((loss.host()?, loss))).collect();
    let cells = |row: &HostRowReply| {
        let marks =
            Marks { is_fenced: is_fenced(&row.host), sleep: picture.asleep.get(&row.host.id) };
        cells(row, &marks, losses.get(&row.host.id).copied())
    };
    let mut header = header.to_vec();
    let mut rows: Vec<Vec<String>> = hosts.iter().map(|row| Vec::from(cells(row))).collect();
    // Most clusters give no CPUs away.
    if hosts.iter().all(|row| row.host.dedicated_cpus.is_none()) {
        header.remove(DEDICATED_AT);
        rows.iter_mut().for_each(|row| drop(row.remove(DEDICATED_AT)));
    }
    show::columns(&header, rows);
    let stranding = rehearsal.stranding().next();
    let stranding = stranding.map(|_| with_names(&picture, rehearsal.to_string()));
    let why: Vec<String> = stranding.into_iter().chain(cover.words()).collect();
    show::line(&match why.is_empty() {
        true => "can lose any one host: yes".to_owned(),
        false => format!("can lose any one host: no, {}", why.join("; ")),
    });
    if let Some((label, rehearsal)) = domains {
        show::line(&match rehearsal.stranding().next() {
            None => format!("can lose any one {label}: yes"),
            Some(_) => format!("can lose any one {label}: no, {rehearsal}"),
        });
    }
    Ok(Code::Ok)
}

/// What the loss of a host would mean for the arbiters.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cover {
    /// Fewer are heard already than a ticket needs.
    is_few: bool,
    /// The hosts without whose arbiters too few would be left, by name.
    pillars: Vec<String>,
}

impl Cover {
    fn of(picture: &Picture, trust: &Trust) -> Self {
        let found = arbiters_on(picture, |freshness| freshness == Freshness::Fresh);
        let is_in_force = |found: &&Found| trust.arbiters.iter().any(|slot| is_member(found, slot));
        let mut at: BTreeMap<&HostId, usize> = BTreeMap::new();
        for arbiter in found.iter().filter(|found| found.is_alive).filter(is_in_force) {
            *at.entry(&arbiter.host).or_default() += 1;
        }
        let k = trust.k as usize;
        let hosts = needed(&at, k).into_iter();
        let name = |host: &HostId| Some(picture.view.host(host)?.host.name.clone());
        Self { is_few: at.values().sum::<usize>() < k, pillars: hosts.filter_map(name).collect() }
    }

    fn words(&self) -> Option<String> {
        if self.is_few {
            return Some("too few arbiters are heard now (ostler arbiters)".to_owned());
        }
        let hosts = self.pillars.join(" or ");
        (!self.pillars.is_empty()).then(|| {
            format!(
                "without {hosts} too few arbiters would be left: nothing starts then, and VMs with \
                 --on-loss stop end (ostler arbiters)"
            )
        })
    }
}

/// The hosts whose loss would leave fewer than `k` of what is on them.
fn needed<'a>(at: &BTreeMap<&'a HostId, usize>, k: usize) -> Vec<&'a HostId> {
    let all: usize = at.values().sum();
    let (hosts, is_needed) = (at.iter(), |count: usize| all - count < k);
    hosts.filter(|(_, count)| is_needed(**count)).map(|(host, _)| *host).collect()
}

/// What each loss would need, as the picture has the hosts.
fn rehearsed(picture: &Picture, mut rehearsal: Rehearsal) -> Rehearsal {
    let heard: BTreeMap<&HostId, Freshness> =
        picture.rows.iter().map(|row| (&row.host, row.freshness)).collect();
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

/// What others say of a host.
struct Marks<'a> {
    is_fenced: bool,
    sleep: Option<&'a Sleep>,
}

fn cells(row: &HostRowReply, marks: &Marks<'_>, loss: Option<&Loss>) -> [String; 14] {
    let HostRowReply { host, freshness, age_ms, jobs_alive, .. } = row;
    let (used, all) = (host.allocation, host.capacity);
    let heard = match freshness {
        Freshness::Fresh => "fresh",
        Freshness::Stale => "stale",
        Freshness::Lost => "lost",
    };
    let state = match host.intent {
        _ if marks.sleep.is_some_and(|sleep| sleep.undrain) => "asleep".to_owned(),
        _ if marks.sleep.is_some() => "asleep, drained".to_owned(),
        None => heard.to_owned(),
        Some(HostIntent::Drain) if row.vms_alive == 0 => format!("{heard}, drained"),
        Some(HostIntent::Drain) => format!("{heard}, draining"),
        Some(HostIntent::Unknown) => format!("{heard}, intended for what a newer agent knows"),
    };
    let state = if marks.is_fenced { format!("{state}, fenced") } else { state };
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
        dedicated_of(host),
        format!("{}/{}", Bytes(used.memory_bytes), Bytes(all.memory_bytes)),
        hugepages_of(host),
        format!("{}/{}", Bytes(used.disk_bytes), Bytes(all.disk_bytes)),
        pools_of(host),
        jobs_alive.to_string(),
        guests.to_owned(),
        host.agent_version.clone(),
        loss_words(loss),
        show::age(*age_ms),
    ]
}

/// Dedicated CPUs: how many are promised of how many.
fn dedicated_of(host: &Host) -> String {
    let cpus = host.dedicated_cpus;
    if cpus.is_none() { "-".to_owned() } else { format!("{}/{}", cpus.promised, cpus.total) }
}

/// Huge pages by size: how many are taken of how many. What is not taken is free.
fn hugepages_of(host: &Host) -> String {
    let sizes = host.hugepages.iter().map(|(size, facts)| {
        format!("{}/{}x{size}", facts.total.saturating_sub(facts.free()), facts.total)
    });
    let sizes: Vec<String> = sizes.collect();
    if sizes.is_empty() { "-".to_owned() } else { sizes.join(",") }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_needed_when_too_few_arbiters_would_be_left_without_it() {
        let ids = ["h1", "h2", "h3"].map(|id| HostId::new(id).unwrap());
        let [one, two, three] = &ids;
        assert_eq!(needed(&[(one, 1)].into(), 1), [one], "the only one");
        assert_eq!(needed(&[(one, 1), (two, 1), (three, 1)].into(), 2), [one; 0]);
        assert_eq!(needed(&[(one, 1), (two, 1)].into(), 2), [one, two], "the third is away");
        assert_eq!(needed(&[(one, 2), (two, 1)].into(), 2), [one], "two are on one host");
    }
}
