//! `ostler policy`: what each tenant's VMs may be like, and on which hosts.
//!
//! The rules are part of the trust document, and every host that obeys it asks them when a VM is to start there.
//! Arbiters grant only what was offered under their own document: once a quorum of them obeys, which `set` waits
//! for, nothing starts under an older one. What runs is never touched, so `check` says beforehand what could not be
//! started again, now or at another time. Of rates it says nothing: what is left of them, arbiters count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use protocol::id::{HostId, JobId, TenantId};
use protocol::job::{Job, JobState};
use protocol::trust::{Breach, Policy, StartWindows, TenantPolicy};
use protocol::view::{HostRow, View};
use serde::Serialize;
use serde_json::json;
use transport::Clock;

use crate::cli::{Moment, PolicyArgs, PolicyCommand};
use crate::command::plan::{Paper, read_json};
use crate::exit::{Code, Failure};
use crate::govern::{Authority, in_force};
use crate::session::Session;
use crate::show;

/// How the rules of those without an entry are called in a list.
const DEFAULT: &str = "(default)";

/// See the module.
pub(crate) async fn run(session: &Session, args: PolicyArgs) -> Result<Code, Failure> {
    match args.command.unwrap_or(PolicyCommand::Show) {
        PolicyCommand::Show => show(session).await,
        PolicyCommand::Check { file, at } => check(session, file.as_deref(), at).await,
        PolicyCommand::Set { file } => change(session, read(&file)?).await,
        PolicyCommand::Clear => change(session, Policy::default()).await,
    }
}

fn read(file: &Path) -> Result<Policy, Failure> {
    let policy: Policy = read_json(file, Paper::Policy)?;
    match policy.validate() {
        Ok(()) => Ok(policy),
        Err(error) => {
            let what = format!("{}: {error}", file.display());
            Err(Failure::new(Code::Refused, what).next("see docs/schema/policy.json"))
        }
    }
}

async fn show(session: &Session) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    let trust = in_force(session, &picture).await.ok_or_else(without_trust)?;
    let behind = behind(&picture.view, trust.version);
    let rows = rows(&trust.policy, now_ms());
    if session.is_json {
        let rules = rows.iter().map(
            |[tenant, rule, allowed]| json!({ "tenant": tenant, "rule": rule, "allowed": allowed }),
        );
        let rules: Vec<_> = rules.collect();
        let words = json!({ "policy": trust.policy, "rules": rules,
            "trust_version": trust.version, "hosts_behind": behind,
            "warnings": picture.warnings });
        show::json_pretty(&words);
        return Ok(Code::Ok);
    }
    picture.warn();
    if rows.is_empty() {
        show::note("no policy: every tenant's VMs may be whatever fits");
    } else {
        show::table(["TENANT", "RULE", "ALLOWED"], rows);
    }
    if !behind.is_empty() {
        let names = behind.join(", ");
        show::note(&format!("not obeyed yet by {names}: nothing starts there until it is"));
    }
    Ok(Code::Ok)
}

fn without_trust() -> Failure {
    Failure::usage("a policy is in the cluster's trust document, and none is here")
        .next("ostler bootstrap, or another --context")
}

/// Hosts that obey an older document, by name. Arbiters grant nothing that these offer.
fn behind(view: &View, version: u64) -> Vec<String> {
    let older = |row: &&HostRow| row.host.trust_version.is_some_and(|obeyed| obeyed < version);
    view.hosts().map(|(_, row)| row).filter(older).map(|row| row.host.name.clone()).collect()
}

/// What this machine's clock shows; arbiters go by theirs.
fn now_ms() -> u64 {
    Clock::real().now().wall_ms
}

/// Each rule in one line.
fn rows(policy: &Policy, now_ms: u64) -> Vec<[String; 3]> {
    let default = policy.default.iter().map(|rules| (DEFAULT.to_owned(), rules));
    let tenants = policy.tenants.iter().map(|(tenant, rules)| (tenant.to_string(), rules));
    let all = default.chain(tenants).flat_map(|(tenant, rules)| {
        let lines = lines(rules, now_ms);
        lines.into_iter().map(move |(rule, words)| [tenant.clone(), rule.to_owned(), words])
    });
    all.collect()
}

fn lines(rules: &TenantPolicy, now_ms: u64) -> Vec<(&'static str, String)> {
    fn list<T: ToString>(names: &[T]) -> String {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }
    let labels = || {
        let each = rules.host_labels.iter().map(|(key, value)| format!("{key}={value}"));
        each.collect::<Vec<_>>().join(", ")
    };
    let lines = [
        rules.vm_max.map(|max| ("vm_max", format!("at most {max}, head-room included"))),
        rules.images.as_deref().map(|names| ("images", list(names))),
        (!rules.host_labels.is_empty()).then(|| ("host_labels", labels())),
        rules.networks.as_deref().map(|names| ("networks", list(names))),
        rules.host_hardware.as_deref().map(|kinds| ("host_hardware", list(kinds))),
        rules.priority_max.map(|max| ("priority_max", max.to_string())),
        rules.start_windows.as_ref().map(|hours| ("start_windows", hours_words(hours, now_ms))),
        rules.start_rate.map(|rate| ("start_rate", format!("at most {rate}"))),
    ];
    let lines: Vec<_> = lines.into_iter().flatten().collect();
    if lines.is_empty() { vec![("-", "whatever fits".to_owned())] } else { lines }
}

/// When it is open, and whether that is now.
fn hours_words(hours: &StartWindows, now_ms: u64) -> String {
    match hours.opens_ms(now_ms).filter(|opens_ms| *opens_ms > now_ms) {
        None => format!("{hours}: open now"),
        Some(opens_ms) => format!("{hours}: shut now, opens {}", hours.shown(opens_ms)),
    }
}

async fn check(
    session: &Session,
    file: Option<&Path>,
    at: Option<Moment>,
) -> Result<Code, Failure> {
    let policy = match file {
        Some(file) => Some(Arc::new(read(file)?)),
        None => None,
    };
    let picture = session.picture().await?;
    let policy = match policy {
        Some(policy) => policy,
        None => in_force(session, &picture).await.ok_or_else(without_trust)?.policy,
    };
    let at_ms = at.map_or_else(now_ms, |at| at.0);
    let verdict = Verdict::of(&policy, &picture.view, at_ms);
    if session.is_json {
        let mut words = json!(verdict);
        words["warnings"] = json!(picture.warnings);
        show::json_pretty(&words);
    } else {
        picture.warn();
        verdict.tell();
    }
    Ok(if verdict.denied.is_empty() { Code::Ok } else { Code::Failed })
}

async fn change(session: &Session, policy: Policy) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    let authority = Authority::newest(session, &picture).await?;
    let mut next = authority.trust.next();
    next.policy = Arc::new(policy);
    if next.policy == authority.trust.policy {
        show::note("it is so already");
        return Ok(Code::Ok);
    }
    picture.warn();
    let (version, policy) = (next.version, Arc::clone(&next.policy));
    let silent = authority.decree(session, &picture, next).await?;
    let verdict = Verdict::of(&policy, &picture.view, now_ms());
    if session.is_json {
        let words = json!({ "policy": policy, "trust_version": version, "not_told": silent,
            "denied": verdict.denied });
        show::json_pretty(&words);
        return Ok(Code::Ok);
    }
    let what = match (policy.is_empty(), policy.tenants.len(), &policy.default) {
        (true, ..) => "there is no policy any more".to_owned(),
        (false, tenants, None) => format!("policy for {}", count(tenants, "tenant")),
        (false, 0, Some(_)) => "policy for every tenant".to_owned(),
        (false, tenants, Some(_)) => {
            format!("policy for {}, and by default for the others", count(tenants, "tenant"))
        }
    };
    show::note(&format!("{what}, by trust version {version}"));
    if !verdict.denied.is_empty() {
        let denied = count(verdict.denied.len(), "VM");
        show::note(&format!(
            "{denied} that are there could not be started again; nothing is stopped: `ostler policy check`"
        ));
    }
    Ok(Code::Ok)
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// What a policy would mean for what is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Verdict {
    /// VMs that could not be started again, by name.
    denied: Vec<Denied>,
    /// How many of them each rule denies.
    by_rule: BTreeMap<&'static str, usize>,
    /// How many VMs there are.
    vms: usize,
    /// When they would be started, in milliseconds since 1970.
    at_ms: u64,
}

/// A VM that could not be started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Denied {
    job: JobId,
    tenant: TenantId,
    host: HostId,
    host_name: String,
    state: JobState,
    breaches: Vec<Breach>,
}

impl Verdict {
    fn of(policy: &Policy, view: &View, at_ms: u64) -> Self {
        let mut verdict = Self { denied: Vec::new(), by_rule: BTreeMap::new(), vms: 0, at_ms };
        for (row, job) in view.jobs_best().into_values() {
            // A one-off job that is over is never started again.
            let is_over = job.state.is_ended() && job.spec.as_one_off().is_some();
            if job.spec.as_vm().is_none() || is_over {
                continue;
            }
            verdict.vms += 1;
            let mut breaches = policy.breaches(&job.spec);
            breaches.extend(breach_of_hosts(policy, view, row, job));
            breaches.extend(policy.closed(&job.spec.tenant, at_ms).map(Breach::StartWindows));
            let rules: BTreeSet<&'static str> = breaches.iter().map(Breach::rule).collect();
            for rule in rules {
                *verdict.by_rule.entry(rule).or_default() += 1;
            }
            if !breaches.is_empty() {
                verdict.denied.push(Denied {
                    job: job.id.clone(),
                    tenant: job.spec.tenant.clone(),
                    host: row.host.id.clone(),
                    host_name: row.host.name.clone(),
                    state: job.state,
                    breaches,
                });
            }
        }
        verdict
    }

    fn tell(&self) {
        for Denied { job, tenant, host_name, state, breaches, .. } in &self.denied {
            let why: Vec<String> = breaches.iter().map(ToString::to_string).collect();
            let why = why.join("; ");
            show::line(&format!("{job} (tenant {tenant}, {state} on {host_name}): {why}"));
        }
        let vms = count(self.vms, "VM");
        if self.denied.is_empty() {
            return show::note(&format!("it denies none of {vms}"));
        }
        let rules = self.by_rule.iter().map(|(rule, number)| format!("{rule} {number}"));
        let rules = rules.collect::<Vec<_>>().join(", ");
        let denied = self.denied.len();
        show::note(&format!(
            "it denies {denied} of {vms} a further start ({rules}), at {}; none is stopped",
            show::moment(self.at_ms)
        ));
    }
}

/// The rule about hosts, of the hosts where the VM could be started: its own if its disks are nowhere else, else any.
fn breach_of_hosts(policy: &Policy, view: &View, row: &HostRow, job: &Job) -> Option<Breach> {
    let breach = policy.breach_on(&job.spec, &row.host.labels)?;
    let is_bound = job.spec.as_vm().is_some_and(|vm| vm.is_bound_to(&row.host));
    let fits = |other: &HostRow| policy.breach_on(&job.spec, &other.host.labels).is_none();
    let is_elsewhere = !is_bound && view.hosts().any(|(_, other)| fits(other));
    (!is_elsewhere).then_some(breach)
}

#[cfg(test)]
mod tests {
    use protocol::host::{Host, Inventory};
    use protocol::id::{Cursor, Epoch};
    use protocol::job::JobSpec;
    use protocol::signed::SecretKey;
    use protocol::vm::{DiskSpec, VmSpec};

    use super::*;

    /// Monday the fifth of January 2026, 00:00 UTC.
    const MONDAY_MS: u64 = 1_767_571_200_000;

    fn host(n: u8, owner: &str, jobs: Vec<Job>) -> Inventory {
        let mut host = Host::of_key(SecretKey::from_seed([n; 32]).public());
        host.name = format!("h{n}");
        host.labels.insert("owner".into(), owner.into());
        let cursor = Cursor { epoch: Epoch(1), seq: 1 };
        Inventory { cursor, host, jobs, observed: vec![] }
    }

    fn job(name: &str, vcpus: u32, has_disk: bool, state: JobState) -> Job {
        let disk = DiskSpec { name: "root".into(), size_bytes: 1 << 30, ..DiskSpec::default() };
        let disks = if has_disk { vec![disk] } else { vec![] };
        let vm = VmSpec { vcpus, memory_bytes: 1 << 30, disks, ..VmSpec::default() };
        Job::of(name.parse().unwrap(), JobSpec::vm(vm), state)
    }

    fn denied(policy: serde_json::Value, view: &View) -> Vec<(String, Vec<&'static str>)> {
        let policy: Policy = serde_json::from_value(policy).unwrap();
        policy.validate().unwrap();
        let verdict = Verdict::of(&policy, view, MONDAY_MS);
        assert_eq!(verdict.vms, 3);
        let rules = |one: &Denied| one.breaches.iter().map(Breach::rule).collect();
        verdict.denied.iter().map(|one| (one.job.to_string(), rules(one))).collect()
    }

    #[test]
    fn what_could_not_be_started_again_is_named_with_every_rule() {
        let running = JobState::Running;
        let on_first = vec![job("disk", 1, true, running), job("none", 1, false, running)];
        let mut view = View::default();
        view.merge_inventory(host(1, "other", on_first));
        view.merge_inventory(host(2, "acme", vec![job("large", 8, true, JobState::Stopped)]));
        let one = |name: &str, rules: &[&'static str]| (name.to_owned(), rules.to_vec());
        let size = json!({ "default": { "vm_max": { "vcpus": 4 } } });
        assert_eq!(denied(size, &view), [one("large", &["vm_max"])]);
        // What has no disks can go where the label is; what has some can't.
        let label = json!({ "default": { "host_labels": { "owner": "acme" } } });
        assert_eq!(denied(label, &view), [one("disk", &["host_labels"])]);
        let nowhere = json!({ "default": {
            "vm_max": { "vcpus": 4 }, "host_labels": { "owner": "nobody" } } });
        let all = [
            one("disk", &["host_labels"]),
            one("large", &["vm_max", "host_labels"]),
            one("none", &["host_labels"]),
        ];
        assert_eq!(denied(nowhere, &view), all);
        assert_eq!(denied(json!({ "tenants": { "acme": {} } }), &view), []);
        let hours = |from: &str| {
            let open = json!([{ "days": ["mon"], "from": from, "to": "18:00" }]);
            json!({ "default": { "vm_max": { "vcpus": 4 }, "start_windows": { "open": open } } })
        };
        assert_eq!(denied(hours("00:00"), &view), [one("large", &["vm_max"])]);
        let shut = [
            one("disk", &["start_windows"]),
            one("large", &["vm_max", "start_windows"]),
            one("none", &["start_windows"]),
        ];
        assert_eq!(denied(hours("00:01"), &view), shut);
    }

    #[test]
    fn each_rule_is_a_line_and_a_tenant_without_rules_one_too() {
        let policy = json!({
            "default": { "vm_max": { "vcpus": 4 }, "images": [] },
            "tenants": {
                "acme": {},
                "blue": { "host_labels": { "owner": "blue" } },
                "green": {
                    "start_windows": { "utc_offset": "+01:00",
                        "open": [{ "days": ["mon"], "from": "06:00", "to": "07:00" }] },
                    "start_rate": { "starts": 20, "within_s": 3600 },
                },
            },
        });
        let policy: Policy = serde_json::from_value(policy).unwrap();
        let shown: Vec<String> =
            rows(&policy, MONDAY_MS).iter().map(|row| row.join(" | ")).collect();
        assert_eq!(
            shown,
            [
                "(default) | vm_max | at most 4 vcpus, head-room included",
                "(default) | images | none",
                "acme | - | whatever fits",
                "blue | host_labels | owner=blue",
                "green | start_windows | mon 06:00-07:00 (UTC+01:00): shut now, opens mon 06:00",
                "green | start_rate | at most 20 starts in 1 h",
            ]
        );
    }
}
