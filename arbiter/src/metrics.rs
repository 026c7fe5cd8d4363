//! What an arbiter tells Prometheus: what it has granted and denied, what its books hold, and what it
//! waits for.
//!
//! Decides how many tenants are told by name: whoever scrapes keeps each of them.

use std::collections::BTreeMap;

use protocol::amounts::Amounts;
use protocol::id::TenantId;
use transport::metrics::{
    Family, Sample, count, counters, gauge, gauges, number, sample, text, yes,
};

use crate::core::{Core, Verdict, Waiting};
use crate::serve::TenantUse;

/// Tenants that are told by name: sixteen numbers each, and those with a quota first.
const TENANTS_MAX: usize = 200;

/// Reasons of denials, each told also while it is 0.
const REASONS: [&str; 9] = [
    "silent",
    "rebuilding",
    "promised",
    "not_the_last",
    "quota",
    "window",
    "rate",
    "other_trust",
    "policy",
];

/// What has happened since the process began.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    grants: u64,
    denials: BTreeMap<&'static str, u64>,
    not_member: u64,
    /// Statements of keepers that were answered, and that were not believed.
    statements: [u64; 2],
    /// Reads of hosts that succeeded, and that did not.
    reads: [u64; 2],
}

impl Counts {
    /// An answer that goes out.
    pub(crate) fn answered(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Grant(_) => self.grants += 1,
            Verdict::Denial(denial) => *self.denials.entry(denial.why.as_str()).or_default() += 1,
            Verdict::NotMember(_) => self.not_member += 1,
        }
    }

    pub(crate) fn stated(&mut self, is_believed: bool) {
        self.statements[usize::from(!is_believed)] += 1;
    }

    pub(crate) fn read(&mut self, is_done: bool) {
        self.reads[usize::from(!is_done)] += 1;
    }
}

/// In Prometheus' text format.
pub(crate) fn of(now_ms: u64, core: &Core, counts: &Counts, tenants: &[TenantUse]) -> String {
    let mut families = standing(now_ms, core);
    families.extend(events(counts));
    families.extend(books(now_ms, core, tenants.len()));
    families.extend(quotas(core, tenants));
    text("ostler_arbiter", families)
}

fn standing(now_ms: u64, core: &Core) -> Vec<Family> {
    let waiting = core.waiting_for(now_ms);
    let (mut is_member, mut silent_ms, mut hosts) = (true, 0, 0);
    for one in &waiting {
        match one {
            Waiting::Membership(_) => is_member = false,
            Waiting::Silence { for_ms } => silent_ms = *for_ms,
            Waiting::Host(_) => hosts += 1,
            // Of a change of arbiters, which is no reason not to grant.
            Waiting::Agreement(_) | Waiting::Change => {}
        }
    }
    let trust_version = core.trust().map_or(0, |trust| trust.version);
    vec![
        gauge("ready", "1 while it grants; 0 while it waits", yes(waiting.is_empty())),
        gauge("member", "1 while trust names it as an arbiter or witness", yes(is_member)),
        gauge("witness", "1 while trust names it as a witness", yes(core.is_witness())),
        gauge("silence", "How much longer it may promise nothing", number(silent_ms) / 1000.0)
            .in_seconds(),
        gauge("hosts_unread", "Hosts that its books are not complete without", count(hosts)),
        gauge(
            "trust_version",
            "Version of the trust document in force; 0 without one",
            number(trust_version),
        ),
    ]
}

fn events(counts: &Counts) -> Vec<Family> {
    let denials = REASONS.map(|reason| {
        sample([("reason", reason)], number(counts.denials.get(reason).copied().unwrap_or(0)))
    });
    let split = |[yes, no]: [u64; 2], words: [&'static str; 2]| {
        [sample([("outcome", words[0])], number(yes)), sample([("outcome", words[1])], number(no))]
    };
    let help = "Requests for grants while it was no arbiter";
    vec![
        counters("grants", "Grants that were signed", [sample([], number(counts.grants))]),
        counters("denials", "Denials that were signed, by reason", denials),
        counters("asked_as_stranger", help, [sample([], number(counts.not_member))]),
        counters(
            "statements",
            "What hosts' keepers have stated",
            split(counts.statements, ["answered", "refused"]),
        ),
        counters(
            "host_reads",
            "Reads of what hosts hold",
            split(counts.reads, ["succeeded", "failed"]),
        ),
    ]
}

fn books(now_ms: u64, core: &Core, tenants: usize) -> Vec<Family> {
    let entries = core.books().entries();
    let (holds, offers) = entries.fold((0, 0), |(holds, offers), entry| match entry.is_hold {
        true => (holds + 1, offers),
        false => (holds, offers + 1),
    });
    let live = core.leases().iter(now_ms).filter(|(_, _, left_ms)| *left_ms > 0).count();
    let entries =
        [sample([("is", "hold")], count(holds)), sample([("is", "offer")], count(offers))];
    vec![
        gauges("book_entries", "Promises in its books: held, or only offered yet", entries),
        gauge("leases", "Leases of jobs that lapse, and have not", count(live)),
        gauge("tenants", "Tenants with a quota or an entry", count(tenants)),
    ]
}

fn quotas(core: &Core, tenants: &[TenantUse]) -> Vec<Family> {
    let quota = |tenant: &TenantId| core.trust().and_then(|trust| trust.quota.get(tenant)).copied();
    let (with, without): (Vec<_>, Vec<_>) = tenants.iter().partition(|one| one.share.is_some());
    let shown: Vec<&TenantUse> = with.into_iter().chain(without).take(TENANTS_MAX).collect();
    let each = |of: &dyn Fn(&TenantUse) -> Option<Amounts>, pick: fn(Amounts) -> Option<u64>| {
        let one = |tenant: &&TenantUse| {
            let value = pick(of(tenant)?)?;
            Some(sample([("tenant", tenant.tenant.as_str())], number(value)))
        };
        shown.iter().filter_map(one).collect::<Vec<Sample<f64>>>()
    };
    let mut families = Vec::new();
    // VMs are told where there is a number of them: a limit may say nothing of them.
    let mut tell = |names: [&'static str; 4], help, of: &dyn Fn(&TenantUse) -> Option<Amounts>| {
        let [vcpus, memory, disk, vms] = names;
        families.push(gauges(vcpus, help, each(of, |a| Some(u64::from(a.vcpus)))));
        families.push(gauges(memory, help, each(of, |a| Some(a.memory_bytes))).in_bytes());
        families.push(gauges(disk, help, each(of, |a| Some(a.disk_bytes))).in_bytes());
        families.push(gauges(vms, help, each(of, |a| a.tells_vms().then(|| a.vms.into()))));
    };
    tell(
        ["quota_limit_vcpus", "quota_limit_memory", "quota_limit_disk", "quota_limit_vms"],
        "What a tenant's jobs may take together",
        &|one| quota(&one.tenant),
    );
    tell(
        ["quota_share_vcpus", "quota_share_memory", "quota_share_disk", "quota_share_vms"],
        "This arbiter's part of a tenant's limit",
        &|one| one.share,
    );
    tell(
        ["quota_booked_vcpus", "quota_booked_memory", "quota_booked_disk", "quota_booked_vms"],
        "What is booked here of a tenant's limit",
        &|one| Some(one.used),
    );
    tell(
        [
            "quota_promised_vcpus",
            "quota_promised_memory",
            "quota_promised_disk",
            "quota_promised_vms",
        ],
        "What a tenant's jobs take in all, as far as this arbiter knows",
        &|one| Some(one.promised),
    );
    families
}
