//! Is the whole cluster well? The last verdict of bootstrap, as a list of what is not.
//!
//! Pure. The reports are arguments; asking for them is `shell::agent`'s.

use protocol::api::{Health, ViewReply};
use protocol::id::HostId;
use protocol::job::Role;
use protocol::view::Freshness;

/// What one process of Ostler answered.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its name for people: `ostler-monitor-0 on h1`, or a host's name.
    pub name: String,
    /// What it was asked to be.
    pub role: Role,
    /// What came back; an error in words when nothing did.
    pub health: Result<Health, String>,
    /// A monitor's view, in words what went wrong.
    pub view: Option<Result<ViewReply, String>>,
}

/// What is not well, one sentence each; empty when everything is.
#[must_use]
pub fn troubles(trust_version: u64, hosts: &[HostId], reports: &[Report]) -> Vec<String> {
    let mut troubles = Vec::new();
    for Report { name, health, view, .. } in reports {
        match health {
            Err(why) => troubles.push(format!("{name} does not answer: {why}")),
            Ok(health) => troubles.extend(unready(name, trust_version, health)),
        }
        match view {
            None => {}
            Some(Err(why)) => troubles.push(format!("{name} shows no view: {why}")),
            Some(Ok(view)) => troubles.extend(unseen(name, hosts, view)),
        }
    }
    troubles
}

fn unready(name: &str, trust_version: u64, health: &Health) -> Option<String> {
    if health.trust_version != Some(trust_version) {
        let has =
            health.trust_version.map_or("no trust yet".into(), |v| format!("trust version {v}"));
        return Some(format!("{name} obeys {has}, not version {trust_version}"));
    }
    (!health.is_ready).then(|| match health.waiting_for.as_slice() {
        [] => format!("{name} is not ready"),
        waiting => format!("{name} waits for {}", waiting.join(", ")),
    })
}

fn unseen(name: &str, hosts: &[HostId], reply: &ViewReply) -> Option<String> {
    let is_fresh = |host: &&HostId| {
        let known = reply.view.host(host).is_some();
        let fresh =
            |f: &protocol::api::HostFreshness| f.host == **host && f.freshness == Freshness::Fresh;
        known && reply.freshness.iter().any(fresh)
    };
    let unseen: Vec<&str> =
        hosts.iter().filter(|host| !is_fresh(host)).map(HostId::short).collect();
    (!unseen.is_empty()).then(|| {
        let seen = hosts.len() - unseen.len();
        format!("{name} sees {seen} of {} hosts; not {}", hosts.len(), unseen.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use protocol::api::HostFreshness;
    use protocol::host::Inventory;
    use protocol::id::{Cursor, Epoch};
    use protocol::view::View;

    use super::*;
    use crate::verdict::tests::host;

    fn report(trust_version: Option<u64>, is_ready: bool) -> Report {
        let health = Health {
            role: "monitor".into(),
            is_ready,
            key: host(1).key,
            version: "0.1.0".into(),
            trust_version,
            waiting_for: vec!["a quorum".into()],
        };
        Report { name: "m0".into(), role: Role::Monitor, health: Ok(health), view: None }
    }

    fn view_of(freshness: Freshness) -> ViewReply {
        let mut view = View::default();
        let cursor = Cursor { epoch: Epoch(1), seq: 1 };
        let inventory = Inventory { cursor, host: host(1), jobs: vec![], observed: vec![] };
        view.merge_inventory(inventory);
        let row = HostFreshness {
            host: host(1).id,
            freshness,
            age_ms: 10,
            path: String::new(),
            trouble: None,
        };
        ViewReply { monitor: host(9).key, is_complete: true, freshness: vec![row], view }
    }

    #[test]
    fn a_well_cluster_has_no_troubles() {
        let mut monitor = report(Some(3), true);
        monitor.view = Some(Ok(view_of(Freshness::Fresh)));
        assert!(troubles(3, &[host(1).id], &[monitor]).is_empty());
    }

    #[test]
    fn each_trouble_is_a_sentence_with_the_process_in_it() {
        let one = |report: Report| {
            let troubles = troubles(3, &[host(1).id, host(2).id], &[report]);
            assert_eq!(troubles.len(), 1, "{troubles:?}");
            troubles.into_iter().next().unwrap()
        };
        assert_eq!(one(report(None, true)), "m0 obeys no trust yet, not version 3");
        assert_eq!(one(report(Some(2), true)), "m0 obeys trust version 2, not version 3");
        assert_eq!(one(report(Some(3), false)), "m0 waits for a quorum");
        let mut blind = report(Some(3), true);
        blind.view = Some(Ok(view_of(Freshness::Fresh)));
        assert!(one(blind).starts_with("m0 sees 1 of 2 hosts; not "));
        let mut stale = report(Some(3), true);
        stale.view = Some(Ok(view_of(Freshness::Stale)));
        assert!(one(stale).starts_with("m0 sees 0 of 2 hosts"));
        let dead = Report { health: Err("refused".into()), ..report(None, false) };
        assert_eq!(one(dead), "m0 does not answer: refused");
    }
}
