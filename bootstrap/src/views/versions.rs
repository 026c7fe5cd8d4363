//! Which versions the agents are of: a note when one is behind, a difference when versions are too
//! far apart to be promised to understand each other.

use std::collections::BTreeMap;

use super::{Difference, HostSight, Kind};

/// Versions of an agent as `MAJOR.MINOR.PATCH`; what a newer or older build says otherwise is
/// compared as a word.
type Parsed = Option<(u64, u64)>;

/// Agents that are not of the version that most are of; of two that are as many, the later word is
/// taken for it. Neighbouring versions work together: that is said, so that nobody stays behind
/// unseen, and is nothing wrong while a cluster is updated host by host. Further apart than two back
/// and one ahead is wrong.
pub(super) fn other_versions(hosts: &[HostSight]) -> Vec<Difference> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for version in hosts.iter().filter_map(version) {
        *counts.entry(version).or_default() += 1;
    }
    let most = counts.iter().max_by_key(|(version, count)| (**count, **version));
    let Some((usual, _)) = most else { return vec![] };
    let other = |host: &HostSight| {
        let version = version(host).filter(|version| version != usual)?;
        let name = &host.name;
        let kind = match are_apart(parse(version), parse(usual)) {
            true => Kind::VersionsApart,
            false => Kind::OtherVersion,
        };
        let words = match kind {
            Kind::VersionsApart => format!(
                "{name} runs agent {version}, most run {usual}: further apart than two versions \
                 back or one ahead, they need not understand each other; update the older"
            ),
            _ => format!("{name} runs agent {version}, most run {usual}: update the older"),
        };
        Some(Difference::new(kind, words).of_host(&host.host))
    };
    hosts.iter().filter_map(other).collect()
}

fn version(host: &HostSight) -> Option<&str> {
    host.machines.first().map(|machine| machine.inventory.host.agent_version.as_str())
}

/// Major and minor; patches do not change what is said.
fn parse(version: &str) -> Parsed {
    let mut parts = version.split('.').map(str::parse::<u64>);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

/// Whether an agent is out of reach of the usual version: N-2 to N+1, of one major.
fn are_apart(version: Parsed, usual: Parsed) -> bool {
    let (Some((major, minor)), Some((usual_major, usual_minor))) = (version, usual) else {
        return false;
    };
    major != usual_major || minor + 2 < usual_minor || minor > usual_minor + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_back_and_one_ahead_are_in_reach() {
        let apart = |version: &str, usual: &str| are_apart(parse(version), parse(usual));
        for near in ["0.3.0", "0.4.9", "0.5.1", "0.6.0"] {
            assert!(!apart(near, "0.5.0"), "{near}");
        }
        for far in ["0.2.9", "0.7.0", "1.5.0"] {
            assert!(apart(far, "0.5.0"), "{far}");
        }
        assert!(!apart("a build of mine", "0.5.0"), "what cannot be compared is only named");
    }
}
