//! `ostler quota`: what each tenant may have promised, and what it has.
//!
//! Limits are part of the trust document, so arbiters keep to them whoever asks: each books its part
//! of every job, and all of a limit can be used while all of them answer. What is used is summed up
//! from the view, for people; arbiters count by their books.

use std::collections::BTreeMap;

use protocol::amounts::Amounts;
use protocol::id::TenantId;
use protocol::resources::{Bytes, Resources, Vcpus};
use protocol::trust::Trust;
use protocol::view::View;
use serde::Serialize;
use serde_json::json;

use crate::cli::{QuotaArgs, QuotaCommand, QuotaSetArgs};
use crate::exit::{Code, Failure};
use crate::govern::{Authority, in_force};
use crate::session::Session;
use crate::show;

/// See the module.
pub(crate) async fn run(session: &Session, args: QuotaArgs) -> Result<Code, Failure> {
    match args.command {
        None => list(session).await,
        Some(QuotaCommand::Set(args)) => set(session, args).await,
        Some(QuotaCommand::Clear { tenant }) => {
            let clear = |quota: &mut BTreeMap<TenantId, Amounts>| {
                quota.remove(&tenant);
            };
            change(session, &tenant, clear).await
        }
    }
}

async fn set(session: &Session, args: QuotaSetArgs) -> Result<Code, Failure> {
    let QuotaSetArgs { tenant, vcpus, memory, disk, vms } = args;
    if vcpus.is_none() && memory.is_none() && disk.is_none() && vms.is_none() {
        let what = "nothing to set";
        let next = "--vms, --vcpus, --memory or --disk; or `quota clear`";
        return Err(Failure::usage(what).next(next));
    }
    let code = change(session, &tenant, |quota| {
        let limit = quota.entry(tenant.clone()).or_insert(Amounts::UNLIMITED);
        limit.vcpus = vcpus.unwrap_or(limit.vcpus);
        limit.memory_bytes = memory.map_or(limit.memory_bytes, |bytes| bytes.0);
        limit.disk_bytes = disk.map_or(limit.disk_bytes, |bytes| bytes.0);
        limit.vms = vms.unwrap_or(limit.vms);
    });
    code.await
}

async fn change(
    session: &Session,
    tenant: &TenantId,
    change: impl FnOnce(&mut BTreeMap<TenantId, Amounts>),
) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    let authority = Authority::newest(session, &picture).await?;
    let mut next = authority.trust.next();
    change(&mut next.quota);
    if next.quota == authority.trust.quota {
        show::note("it is so already");
        return Ok(Code::Ok);
    }
    picture.warn();
    let (version, limit) = (next.version, next.quota.get(tenant).copied());
    let silent = authority.decree(session, &picture, next).await?;
    let used = used(&picture.view).remove(tenant).unwrap_or(Amounts::ZERO);
    if session.is_json {
        let words = json!({ "tenant": tenant, "limit": limit, "used": used.resources(),
            "vms": used.vms, "trust_version": version, "not_told": silent });
        show::json_pretty(&words);
        return Ok(Code::Ok);
    }
    show::note(&format!("tenant {tenant}: {}, by trust version {version}", words(limit)));
    if limit.is_some_and(|limit| !used.fits_in(limit)) {
        show::note(&format!("it uses {used}: nothing is stopped, and nothing more may start"));
    }
    Ok(Code::Ok)
}

/// A limit as a sentence says it, without what is not limited.
fn words(limit: Option<Amounts>) -> String {
    let limit = limit.unwrap_or(Amounts::UNLIMITED);
    let mut parts = Vec::new();
    if limit.tells_vms() {
        parts.push(format!("{} VM{}", limit.vms, if limit.vms == 1 { "" } else { "s" }));
    }
    if limit.vcpus != u32::MAX {
        parts.push(Vcpus(limit.vcpus).to_string());
    }
    for (bytes, of) in [(limit.memory_bytes, "memory"), (limit.disk_bytes, "disk")] {
        if bytes != u64::MAX {
            parts.push(format!("{} of {of}", Bytes(bytes)));
        }
    }
    if parts.is_empty() { "no limit".to_owned() } else { format!("at most {}", parts.join(", ")) }
}

/// What each tenant has now, each job once, at its best place.
fn used(view: &View) -> BTreeMap<TenantId, Amounts> {
    let mut used: BTreeMap<TenantId, Amounts> = BTreeMap::new();
    for (_, job) in view.jobs_best().into_values() {
        // A budget counts in full, and what is there by it does not count again.
        let takes = match job.spec.as_budget() {
            Some(budget) => budget.amounts(),
            None => Amounts::of_vm(job.promised()),
        };
        if job.spec.counts().is_some() && job.hold.is_some() {
            let its = used.entry(job.spec.tenant.clone()).or_insert(Amounts::ZERO);
            *its = its.plus(takes);
        }
    }
    used
}

/// What of that hosts hand out by themselves, by tenant.
fn delegated(view: &View) -> BTreeMap<TenantId, Amounts> {
    let mut delegated: BTreeMap<TenantId, Amounts> = BTreeMap::new();
    for (_, job) in view.jobs_best().into_values() {
        if let (Some(budget), Some(_)) = (job.spec.as_budget(), job.hold) {
            let its = delegated.entry(job.spec.tenant.clone()).or_insert(Amounts::ZERO);
            *its = its.plus(budget.amounts());
        }
    }
    delegated
}

async fn list(session: &Session) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    let trust = in_force(session, &picture).await.ok_or_else(|| {
        Failure::usage("quota is in the cluster's trust document, and none is here")
            .next("ostler bootstrap, or another --context")
    })?;
    let rows = rows(&trust, &picture.view);
    if session.is_json {
        let words =
            json!({ "quota": rows, "usable": usable(&trust), "warnings": picture.warnings });
        show::json_pretty(&words);
        return Ok(Code::Ok);
    }
    picture.warn();
    let header = ["TENANT", "VMS", "VCPUS", "MEMORY", "DISK"];
    show::table(header, rows.iter().map(cells).collect());
    for row in rows.iter().filter(|row| row.delegated != Amounts::ZERO) {
        let QuotaRow { tenant, delegated, .. } = row;
        show::note(&format!("of {tenant}, {delegated} is delegated: ostler budget list"));
    }
    if let Some(usable) = usable(&trust) {
        show::note(&usable);
    }
    Ok(Code::Ok)
}

/// A tenant as `quota --json` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct QuotaRow {
    tenant: TenantId,
    limit: Option<Amounts>,
    used: Resources,
    vms: u32,
    /// What of that is budgets, used or not.
    delegated: Amounts,
}

/// Every tenant that has a limit or something to count, by name.
pub(crate) fn rows(trust: &Trust, view: &View) -> Vec<QuotaRow> {
    let (used, delegated) = (used(view), delegated(view));
    let mut tenants: Vec<&TenantId> = trust.quota.keys().chain(used.keys()).collect();
    tenants.sort();
    tenants.dedup();
    let row = |tenant: &TenantId| {
        let has = used.get(tenant).copied().unwrap_or(Amounts::ZERO);
        let limit = trust.quota.get(tenant).copied();
        let delegated = delegated.get(tenant).copied().unwrap_or(Amounts::ZERO);
        QuotaRow { tenant: tenant.clone(), limit, used: has.resources(), vms: has.vms, delegated }
    };
    tenants.into_iter().map(row).collect()
}

fn cells(row: &QuotaRow) -> [String; 5] {
    let QuotaRow { tenant, limit, used, vms, delegated: _ } = row;
    let limit = limit.unwrap_or(Amounts::UNLIMITED);
    let of = |used: String, limit: String, is_limited: bool| match is_limited {
        true => format!("{used}/{limit}"),
        false => used,
    };
    let bytes = |used: u64, limit: u64| {
        of(Bytes(used).to_string(), Bytes(limit).to_string(), limit != u64::MAX)
    };
    [
        tenant.to_string(),
        of(vms.to_string(), limit.vms.to_string(), limit.tells_vms()),
        of(used.vcpus.to_string(), limit.vcpus.to_string(), limit.vcpus != u32::MAX),
        bytes(used.memory_bytes, limit.memory_bytes),
        bytes(used.disk_bytes, limit.disk_bytes),
    ]
}

/// How much of a limit can be used, by how many arbiters answer: each has its part, and a job's debits
/// are spread over those that are there.
pub(crate) fn usable(trust: &Trust) -> Option<String> {
    let n = u32::try_from(trust.arbiters.len()).unwrap_or(u32::MAX);
    let (k, f) = (trust.k, trust.f);
    if n <= k || trust.quota.is_empty() {
        return None;
    }
    // m arbiters can book m times (k−f)/(n−f) of a limit, and a job needs k times its size.
    let with = |m: u32| match (m * k.saturating_sub(f), k * n.saturating_sub(f)) {
        (part, whole) if part >= whole => "all of each limit".to_owned(),
        (part, whole) => {
            let by = (1..=part).rev().find(|by| part % by == 0 && whole % by == 0).unwrap_or(1);
            format!("{}/{} of each limit", part / by, whole / by)
        }
    };
    Some(format!(
        "{} can be used while all {n} arbiters answer, {} while only {k} do",
        with(n),
        with(k)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_vms_is_told_where_it_is_limited() {
        let limit = Amounts { vms: 3, ..Amounts::UNLIMITED };
        assert_eq!(words(Some(limit)), "at most 3 VMs");
        assert_eq!(words(Some(Amounts { vcpus: 8, ..limit })), "at most 3 VMs, 8 vcpus");
        assert_eq!(words(Some(Amounts::UNLIMITED)), "no limit");
        let tenant = TenantId::default_tenant();
        let row = |limit| {
            let (tenant, used, delegated) = (tenant.clone(), Resources::ZERO, Amounts::ZERO);
            cells(&QuotaRow { tenant, limit, used, vms: 2, delegated })
        };
        assert_eq!((row(Some(limit))[1].as_str(), row(None)[1].as_str()), ("2/3", "2"));
    }

    #[test]
    fn it_says_how_much_can_be_used_with_whom() {
        let words = |n: usize, k, f| {
            let trust = serde_json::json!({
                "cluster": "c1", "version": 1, "operators": [], "k": k, "f": f, "roster": [],
                "arbiters": [], "term_ms": 9_000, "kill_ms": 2_000, "clock_ppm": 2_000,
                "quota": { "default": { "vcpus": 1 } },
            });
            let mut trust: Trust = serde_json::from_value(trust).unwrap();
            let key = protocol::signed::SecretKey::from_seed([1; 32]).public();
            let slot = |slot| protocol::trust::Slot { slot, key, url: String::new() };
            trust.arbiters = (0..u32::try_from(n).unwrap()).map(slot).collect();
            usable(&trust)
        };
        assert_eq!(words(1, 1, 0), None, "there is nothing to say");
        let three = "all of each limit can be used while all 3 arbiters answer, 2/3 of each limit while only 2 do";
        assert_eq!(words(3, 2, 0).as_deref(), Some(three));
        let with_a_liar = "8/9 of each limit can be used while all 4 arbiters answer, 2/3 of each limit while only 3 do";
        assert_eq!(words(4, 3, 1).as_deref(), Some(with_a_liar));
    }
}
