//! When nothing on a host could be missed: what keeps it on for good, and what does until it is drained.
//!
//! Decides by what the host itself says, and by the addresses in the trust document. Nothing here asks anybody.

use std::collections::BTreeSet;

use protocol::host::{Host, HostIntent, Inventory};
use protocol::job::{Job, JobKind, Role};
use protocol::trust::Trust;
use protocol::view::HostRow;

/// What keeps a host from ever being put to sleep, emptied or not.
pub(super) fn stays_on(inventory: &Inventory, trust: Option<&Trust>) -> Option<String> {
    let mut roles: BTreeSet<String> = BTreeSet::new();
    for job in inventory.jobs.iter().filter(|job| !job.state.is_ended()) {
        if let JobKind::Service(service) = &job.spec.kind {
            roles.insert(service.role.to_string());
        }
    }
    let own: BTreeSet<&str> =
        inventory.host.urls.iter().filter_map(|url| address_of(url)).collect();
    let is_here = |url: &str| address_of(url).is_some_and(|address| own.contains(address));
    for peer in trust.iter().flat_map(|trust| &trust.peers).filter(|peer| is_here(&peer.url)) {
        roles.insert(peer.role.to_string());
    }
    let seats = trust.iter().flat_map(|trust| trust.seats());
    roles.extend(
        seats.filter(|(_, slot)| is_here(&slot.url)).map(|(seat, _)| Role::from(seat).to_string()),
    );
    if !roles.is_empty() {
        let roles = roles.into_iter().collect::<Vec<_>>().join(", ");
        return Some(format!(
            "the cluster needs what runs there ({roles}): a host with one of its services is not put to sleep"
        ));
    }
    let observed = inventory.observed.iter().filter(|domain| domain.is_active);
    let observed: Vec<&str> = observed.map(|domain| domain.name.as_str()).collect();
    if !observed.is_empty() {
        return Some(format!(
            "domains run there that nobody asked Ostler for: {}; adopt them, or end them",
            observed.join(", ")
        ));
    }
    // Nobody moves what does not run, and it would start there by itself with the host.
    let held = inventory.jobs.iter().filter(|job| job.state.is_ended() && job.has_right());
    let held: Vec<&str> = held.map(|job| job.id.as_str()).collect();
    (!held.is_empty()).then(|| {
        format!(
            "it may start these again by itself, and holds their places: {}; stop or delete them",
            held.join(", ")
        )
    })
}

/// Why a host is not empty, or may be so no more in a moment.
pub(super) fn not_empty(inventory: &Inventory, offers: usize) -> Option<String> {
    if inventory.host.intent != Some(HostIntent::Drain) {
        return Some("it is not drained, so VMs may come at any moment".to_owned());
    }
    let is_alive = |job: &&Job| !job.state.is_ended();
    let alive: Vec<&str> =
        inventory.jobs.iter().filter(is_alive).map(|job| job.id.as_str()).collect();
    if !alive.is_empty() {
        let (count, alive) = (alive.len(), alive.join(", "));
        return Some(format!("{count} VMs are alive there still: {alive}"));
    }
    (offers > 0).then(|| format!("{offers} offers of it are open"))
}

/// Nothing of a host that could be missed: it takes nothing new, and no VM is there that is alive or would start.
pub(super) fn is_left_empty(row: &HostRow) -> bool {
    let is_drained = row.host.intent == Some(HostIntent::Drain);
    is_drained && row.jobs.values().all(|job| job.state.is_ended() && !job.has_right())
}

/// A host's row as it would tell it itself.
pub(super) fn said_by(row: &HostRow) -> Inventory {
    Inventory {
        cursor: row.cursor,
        host: Host::clone(&row.host),
        jobs: row.jobs.values().map(|job| Job::clone(job)).collect(),
        observed: row.observed.values().cloned().collect(),
    }
}

/// The address or name of `https://ADDRESS:PORT`, unless it is that of every machine.
fn address_of(url: &str) -> Option<&str> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split('/').next()?;
    let address = match rest.rsplit_once(':') {
        Some((address, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => address,
        _ => rest,
    };
    let is_everywhere = address.starts_with("127.") || ["localhost", "[::1]"].contains(&address);
    (!is_everywhere).then_some(address)
}

#[cfg(test)]
mod tests {
    use protocol::host::Host;
    use protocol::id::{ClusterId, Cursor, Epoch, OfferId};
    use protocol::job::{JobSpec, JobState, ObservedDomain, ServiceSpec};
    use protocol::resources::Resources;
    use protocol::signed::SecretKey;
    use protocol::trust::Slot;
    use protocol::vm::VmSpec;

    use super::*;

    fn vm(state: JobState) -> Job {
        let spec = VmSpec { vcpus: 1, memory_bytes: 1 << 30, ..VmSpec::default() };
        Job::of("web".parse().unwrap(), JobSpec::vm(spec), state)
    }

    /// A drained host with these jobs.
    fn inventory(jobs: Vec<Job>) -> Inventory {
        let key = SecretKey::from_seed([1; 32]).public();
        let urls = vec!["https://10.0.0.1:7460".to_owned()];
        let host = Host { intent: Some(HostIntent::Drain), urls, ..Host::of_key(key) };
        let cursor = Cursor { epoch: Epoch(3), seq: 7 };
        Inventory { cursor, host, jobs, observed: vec![] }
    }

    fn service(role: Role) -> Job {
        let service = ServiceSpec { role, port: 0, discovery: vec![] };
        let spec = JobSpec {
            kind: JobKind::Service(service),
            ..vm(JobState::Running).spec.as_ref().clone()
        };
        Job::of("service".parse().unwrap(), spec, JobState::Running)
    }

    #[test]
    fn only_a_host_that_says_itself_that_it_is_drained_and_empty_is_empty() {
        assert_eq!(not_empty(&inventory(vec![vm(JobState::Stopped)]), 0), None);
        let mut undrained = inventory(vec![]);
        undrained.host.intent = None;
        assert!(not_empty(&undrained, 0).unwrap().contains("not drained"));
        for state in
            [JobState::Running, JobState::Paused, JobState::MigratingIn, JobState::Accepted]
        {
            let why = not_empty(&inventory(vec![vm(state)]), 0).unwrap();
            assert!(why.contains("web"), "{state}: {why}");
        }
        assert!(not_empty(&inventory(vec![]), 1).unwrap().contains("offers"));
    }

    #[test]
    fn a_host_that_others_need_or_that_would_start_something_stays_on() {
        assert_eq!(stays_on(&inventory(vec![vm(JobState::Stopped)]), None), None);
        for role in [Role::Arbiter, Role::Witness, Role::Monitor, Role::Controller] {
            let why = stays_on(&inventory(vec![service(role)]), None).unwrap();
            assert!(why.contains(&role.to_string()), "{why}");
        }
        let hold = Some(OfferId { epoch: Epoch(1), num: 4 });
        let held = Job { hold, ..vm(JobState::Crashed) };
        assert!(stays_on(&inventory(vec![held]), None).unwrap().contains("web"));
        let mut strange = inventory(vec![]);
        strange.observed.push(ObservedDomain {
            uuid: uuid::Uuid::nil(),
            name: "old-db".to_owned(),
            is_active: true,
            resources: Resources::ZERO,
            page_size: None,
            is_persistent: true,
        });
        assert!(stays_on(&strange, None).unwrap().contains("old-db"));
        strange.observed[0].is_active = false;
        assert_eq!(stays_on(&strange, None), None);
    }

    #[test]
    fn an_arbiter_that_was_started_by_hand_is_known_by_its_address() {
        let trust = |url: &str| {
            let key = SecretKey::from_seed([9; 32]).public();
            let arbiters = vec![Slot { slot: 0, key, url: url.to_owned() }];
            Trust { arbiters, ..Trust::of_nobody(ClusterId::new("c1").unwrap()) }
        };
        let host = inventory(vec![]);
        assert!(
            stays_on(&host, Some(&trust("https://10.0.0.1:7461"))).unwrap().contains("arbiter")
        );
        assert_eq!(stays_on(&host, Some(&trust("https://10.0.0.11:7461"))), None);
        assert_eq!(stays_on(&host, Some(&trust("https://127.0.0.1:7461"))), None);
    }
}
