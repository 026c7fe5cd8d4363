//! Verdicts on hosts: is this one ready, and can these be one cluster?
//!
//! Pure. What was asked of a host and what came back is an argument; asking is `shell::agent`'s.

use std::collections::BTreeMap;
use std::fmt;

use protocol::api::Health;
use protocol::host::{Accel, Host};
use protocol::id::HostId;
use protocol::resources::Bytes;
use protocol::signed::PublicKey;
use serde::Serialize;

/// How far a host's clock may be from ours. Little in Ostler depends on wall time (arbiters keep a tenant's
/// hours by it), but people who read logs of several hosts do, and a clock that is off by this much is not
/// being set at all.
pub const CLOCK_SKEW_MS_MAX: u64 = 5_000;

/// Less free disk than this is worth a word: the first image would not fit.
pub const DISK_BYTES_FREE_LOW: u64 = 1 << 30;

/// A host that answered and is fit to be part of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Where it answered.
    pub url: String,
    /// What it says of its process.
    pub health: Health,
    /// What it says of itself.
    pub host: Host,
    /// Its wall clock less ours, in milliseconds, as far as a `Date` header tells.
    pub clock_ahead_ms: Option<i64>,
    /// What its agent drew when it started; a copy of the host has drawn something else.
    pub life: Option<String>,
}

/// Why a host that was found is not ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "unready", rename_all = "kebab-case")]
pub enum Unready {
    /// Nothing listens there.
    Refused,
    /// No answer in time.
    TimedOut {
        /// How long we waited.
        after_ms: u64,
    },
    /// It can't be reached for another reason.
    Unreachable {
        /// What was tried and what came back.
        why: String,
    },
    /// Somebody else's key answers at this address.
    WrongKey {
        /// What was found out.
        why: String,
    },
    /// It obeys a trust document in which our operator key means nothing.
    OtherCluster {
        /// What it said.
        why: String,
    },
    /// Something else than an agent answers.
    NotAnAgent {
        /// The role it says it has.
        role: String,
    },
    /// It answers and can't do its work.
    NotReady {
        /// What it waits for.
        waiting_for: Vec<String>,
    },
    /// Its clock is too far from ours.
    ClockSkew {
        /// Its clock less ours.
        ahead_ms: i64,
    },
    /// It answered with something that makes no sense.
    Nonsense {
        /// What.
        why: String,
    },
}

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unready::Refused => f.write_str("connection refused: no agent runs there"),
            Unready::TimedOut { after_ms } => write!(f, "no answer within {after_ms} ms"),
            Unready::Unreachable { why } | Unready::Nonsense { why } => f.write_str(why),
            Unready::WrongKey { why } => write!(f, "wrong key: {why}"),
            Unready::OtherCluster { why } => write!(f, "belongs to another cluster: {why}"),
            Unready::NotAnAgent { role } => write!(f, "a {role} answers there, not an agent"),
            Unready::NotReady { waiting_for } if waiting_for.is_empty() => {
                f.write_str("not ready, and does not say why")
            }
            Unready::NotReady { waiting_for } => {
                write!(f, "not ready: waits for {}", waiting_for.join(", "))
            }
            Unready::ClockSkew { ahead_ms } => {
                let side = if *ahead_ms >= 0 { "ahead of" } else { "behind" };
                let ms = ahead_ms.unsigned_abs();
                write!(f, "clock is {ms} ms {side} ours (limit {CLOCK_SKEW_MS_MAX} ms); set it")
            }
        }
    }
}

/// Whether an answer is that of a ready host. `expected` is the key that discovery proved.
pub fn judge(expected: Option<&PublicKey>, answer: &Answer) -> Result<(), Unready> {
    let Answer { health, host, .. } = answer;
    if health.role != "agent" {
        return Err(Unready::NotAnAgent { role: health.role.clone() });
    }
    if let Some(expected) = expected.filter(|key| **key != host.key) {
        let why = format!("found as key {expected}, answers with key {}", host.key);
        return Err(Unready::WrongKey { why });
    }
    if health.key != host.key || HostId::of(&host.key) != host.id {
        let why = format!("says it is host {} and shows key {}", host.id, host.key);
        return Err(Unready::Nonsense { why });
    }
    if !health.is_ready {
        return Err(Unready::NotReady { waiting_for: health.waiting_for.clone() });
    }
    match answer.clock_ahead_ms {
        Some(ahead_ms) if ahead_ms.unsigned_abs() > CLOCK_SKEW_MS_MAX => {
            Err(Unready::ClockSkew { ahead_ms })
        }
        _ => Ok(()),
    }
}

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// The cluster works, but not everything will.
    Warn,
    /// These hosts can't be one cluster.
    Fail,
}

/// One finding about the hosts taken together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How serious.
    pub level: Level,
    /// Which rule: `versions`, `ids`, `names`, `migration`, `disk`, `accel`, `join`.
    pub rule: &'static str,
    /// What is so.
    pub detail: String,
    /// What to try next, where something can be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        self.next.iter().try_for_each(|next| write!(f, " (try: {next})"))
    }
}

/// Whether strangers are kept out. `open` are the sources whose every entry counts as a host.
#[must_use]
pub fn check_sources(open: &[String]) -> Finding {
    if open.is_empty() {
        return fine("join", "only hosts that somebody vouches for count");
    }
    Finding {
        level: Level::Warn,
        rule: "join",
        detail: format!(
            "{} has no join secret: WHOEVER KNOWS THE URL COUNTS AS A HOST of this cluster",
            open.join(" and ")
        ),
        next: Some("`ostler discovery new` prints a URL with #join=; use it as it is".into()),
    }
}

/// Looks at ready hosts together. `ours` is the version of this program.
#[must_use]
pub fn check_hosts(ours: &str, hosts: &[&Host]) -> Vec<Finding> {
    vec![
        check_ids(hosts),
        check_names(hosts),
        check_versions(ours, hosts),
        check_migration(hosts),
        check_disk(hosts),
        check_accel(hosts),
    ]
}

/// The worst level among findings.
#[must_use]
pub fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}

fn fine(rule: &'static str, detail: impl Into<String>) -> Finding {
    Finding { level: Level::Ok, rule, detail: detail.into(), next: None }
}

/// The names of those hosts for which `is_odd` holds.
fn names_of(hosts: &[&Host], is_odd: impl Fn(&Host) -> bool) -> String {
    let names: Vec<&str> =
        hosts.iter().filter(|host| is_odd(host)).map(|host| host.name.as_str()).collect();
    names.join(", ")
}

fn check_ids(hosts: &[&Host]) -> Finding {
    let mut by_id: BTreeMap<&HostId, Vec<&Host>> = BTreeMap::new();
    for host in hosts {
        by_id.entry(&host.id).or_default().push(host);
    }
    by_id.values_mut().for_each(|twins| twins.sort_by_key(|host| (&host.name, &host.urls)));
    let Some((id, twins)) = by_id.iter().find(|(_, hosts)| hosts.len() > 1) else {
        return fine("ids", format!("{} hosts with keys of their own", hosts.len()));
    };
    let twins: Vec<String> =
        twins.iter().map(|host| format!("{} ({})", host.name, host.urls.join(", "))).collect();
    Finding {
        level: Level::Fail,
        rule: "ids",
        detail: format!(
            "{} have one key (host {}): one is a copy of the other's disk",
            twins.join(" and "),
            id.short()
        ),
        next: Some("on the copy, stop the agent, remove agent.key and start it again".into()),
    }
}

fn check_names(hosts: &[&Host]) -> Finding {
    let is_twin =
        |host: &Host| hosts.iter().any(|other| other.id != host.id && other.name == host.name);
    let twins = names_of(hosts, is_twin);
    if twins.is_empty() {
        return fine("names", "every host has a name of its own");
    }
    Finding {
        level: Level::Warn,
        rule: "names",
        detail: format!("hosts share a name ({twins}); they can be told apart only by id"),
        next: Some("hostnamectl hostname NAME, then restart the agent".into()),
    }
}

fn check_versions(ours: &str, hosts: &[&Host]) -> Finding {
    let mut by_version: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for host in hosts {
        by_version.entry(&host.agent_version).or_default().push(&host.name);
    }
    if by_version.keys().all(|version| *version == ours) {
        return fine("versions", format!("all have version {ours}"));
    }
    let list: Vec<String> = by_version
        .iter()
        .map(|(version, names)| format!("{version} on {}", names.join(", ")))
        .collect();
    Finding {
        level: Level::Warn,
        rule: "versions",
        detail: format!("versions differ: {ours} here, {}", list.join("; ")),
        next: Some("install the same package everywhere; guests keep running meanwhile".into()),
    }
}

fn check_migration(hosts: &[&Host]) -> Finding {
    let cannot = names_of(hosts, |host| !host.hypervisor.can_receive);
    if cannot.is_empty() {
        return fine("migration", "guests can move to every host");
    }
    if hosts.len() == 1 {
        return fine("migration", "there is one host, so nowhere to move guests");
    }
    Finding {
        level: Level::Warn,
        rule: "migration",
        detail: format!("guests cannot move to {cannot}: libvirt there cannot receive them"),
        next: Some("run the agent with --hypervisor qemu:///system and libvirtd listening".into()),
    }
}

fn check_disk(hosts: &[&Host]) -> Finding {
    let is_low = |host: &Host| host.free().disk_bytes < DISK_BYTES_FREE_LOW;
    let low = names_of(hosts, is_low);
    if low.is_empty() {
        let least = hosts.iter().map(|host| host.free().disk_bytes).min().unwrap_or(0);
        return fine("disk", format!("at least {} free on each host", Bytes(least)));
    }
    Finding {
        level: Level::Warn,
        rule: "disk",
        detail: format!("less than {} of disk free on {low}", Bytes(DISK_BYTES_FREE_LOW)),
        next: Some("free space, or move the agent's --data-dir to a larger disk".into()),
    }
}

fn check_accel(hosts: &[&Host]) -> Finding {
    let slow: Vec<String> = hosts
        .iter()
        .filter(|host| host.hypervisor.accel != Accel::Kvm)
        .map(|host| {
            let how = match host.hypervisor.accel {
                Accel::Kvm => "by the CPU",
                Accel::Tcg => "guests are translated, which is slow",
                Accel::None => "guests are only pretended",
            };
            let why = host.hypervisor.accel_reason.as_deref().unwrap_or("no reason given");
            format!("{}: {how} ({why})", host.name)
        })
        .collect();
    if slow.is_empty() {
        return fine("accel", "KVM on every host");
    }
    Finding { level: Level::Warn, rule: "accel", detail: slow.join("; "), next: None }
}

#[cfg(test)]
pub(crate) mod tests {
    use protocol::host::HypervisorFacts;
    use protocol::resources::Resources;
    use protocol::signed::SecretKey;

    use super::*;

    pub(crate) fn host(seed: u8) -> Host {
        let key = SecretKey::from_seed([seed; 32]).public();
        Host {
            name: format!("n{seed}"),
            urls: vec![format!("https://10.0.0.{seed}:7460")],
            agent_version: "0.1.0".into(),
            hypervisor: HypervisorFacts {
                uri: "qemu:///system".into(),
                driver: "QEMU".into(),
                libvirt_version: "9.0.0".into(),
                accel: Accel::Kvm,
                can_receive: true,
                can_guard: true,
                ..HypervisorFacts::default()
            },
            capacity: Resources { vcpus: 8, memory_bytes: 8 << 30, disk_bytes: 64 << 30 },
            ..Host::of_key(key)
        }
    }

    fn answer(seed: u8) -> Answer {
        let host = host(seed);
        let health = Health {
            role: "agent".into(),
            is_ready: true,
            key: host.key,
            version: host.agent_version.clone(),
            trust_version: None,
            waiting_for: vec![],
        };
        Answer { url: host.urls[0].clone(), health, host, clock_ahead_ms: Some(0), life: None }
    }

    #[test]
    fn a_ready_host_is_ready_whoever_found_it() {
        let answer = answer(1);
        assert_eq!(judge(None, &answer), Ok(()));
        assert_eq!(judge(Some(&answer.host.key), &answer), Ok(()));
    }

    #[test]
    fn each_trouble_has_a_name_of_its_own() {
        let other = host(2).key;
        assert!(matches!(judge(Some(&other), &answer(1)), Err(Unready::WrongKey { .. })));
        let mut monitor = answer(1);
        monitor.health.role = "monitor".into();
        assert!(matches!(judge(None, &monitor), Err(Unready::NotAnAgent { .. })));
        let mut waiting = answer(1);
        waiting.health.is_ready = false;
        waiting.health.waiting_for = vec!["libvirt".into()];
        let unready = judge(None, &waiting).unwrap_err();
        assert_eq!(unready.to_string(), "not ready: waits for libvirt");
        let mut liar = answer(1);
        liar.host.id = host(2).id;
        assert!(matches!(judge(None, &liar), Err(Unready::Nonsense { .. })));
    }

    #[test]
    fn a_clock_off_by_more_than_five_seconds_is_named_with_its_side() {
        let with = |ahead| Answer { clock_ahead_ms: Some(ahead), ..answer(1) };
        assert_eq!(judge(None, &with(-5_000)), Ok(()));
        let unready = judge(None, &with(-5_001)).unwrap_err();
        assert!(unready.to_string().contains("5001 ms behind ours"), "{unready}");
    }

    #[test]
    fn equal_healthy_hosts_pass_every_rule() {
        let (one, two) = (host(1), host(2));
        let findings = check_hosts("0.1.0", &[&one, &two]);
        assert_eq!(worst(&findings), Level::Ok, "{findings:?}");
    }

    #[test]
    fn a_copied_key_fails_and_names_both_hosts() {
        let (one, mut copy) = (host(1), host(1));
        copy.name = "copy".into();
        let findings = check_hosts("0.1.0", &[&one, &copy]);
        let failed = findings.iter().find(|f| f.level == Level::Fail).unwrap();
        assert!(failed.rule == "ids" && failed.detail.contains("n1"), "{failed}");
        assert!(failed.detail.contains("copy") && failed.next.is_some(), "{failed}");
    }

    #[test]
    fn what_only_limits_the_cluster_is_a_warning() {
        let limited = |change: fn(&mut Host)| {
            let (one, mut two) = (host(1), host(2));
            change(&mut two);
            let findings = check_hosts("0.1.0", &[&one, &two]);
            assert_eq!(worst(&findings), Level::Warn, "{findings:?}");
            findings.into_iter().find(|f| f.level == Level::Warn).unwrap().rule
        };
        assert_eq!(limited(|h| h.agent_version = "0.2.0".into()), "versions");
        assert_eq!(limited(|h| h.hypervisor.can_receive = false), "migration");
        assert_eq!(limited(|h| h.allocation = h.capacity), "disk");
        assert_eq!(limited(|h| h.hypervisor.accel = Accel::Tcg), "accel");
        assert_eq!(limited(|h| h.name = "n1".into()), "names");
    }
}
