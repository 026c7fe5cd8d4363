//! The host's typed no, and the problem document every error on the wire is (RFC 9457).
//!
//! A refusal is data: which rule, with the numbers of now, so that a scheduler can patch its
//! picture and plan again, and a person can see what would have worked. The list is closed;
//! `docs/api.md` explains each, and a test checks that it does.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::amounts::Amounts;
use crate::cpus::DedicatedCpus;
use crate::hugepages::{PageSize, Pages};
use crate::id::{
    Epoch, HostId, ImageName, JobId, OfferId, PoolName, Revision, SnapshotName, TenantId,
};
use crate::job::JobState;
use crate::network::{NetworkName, Subnet};
use crate::resources::{Bytes, Resources};
use crate::ticket::TicketError;
use crate::trust::{Breach, TrustError, breach_examples};

/// Why something was not done. Nothing was changed when one of these comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[serde(tag = "refusal", rename_all = "kebab-case")]
pub enum Refusal {
    /// The host has promised too much already.
    #[error("needs {asked}; the host has {free} free")]
    NoCapacity {
        /// What was asked for.
        asked: Resources,
        /// What the host could still promise.
        free: Resources,
        /// Its capacity, so that "never" can be told from "not now".
        capacity: Resources,
    },
    /// The host has promised too much already for a job on it to have more.
    #[error("job {job} is to have {asked}; on this host it could have at most {at_most}")]
    NoRoomToGrow {
        /// The job.
        job: JobId,
        /// What it is to have.
        asked: Resources,
        /// What it could have in all, given what else is promised.
        at_most: Resources,
        /// The host's capacity, so that "never" can be told from "not now".
        capacity: Resources,
    },
    /// The host has too few huge pages of that size that are not taken.
    #[error("needs {}; {}", Pages::of(*.page_size, *.asked), pages_words(*.free, *.total))]
    NoHugepages {
        /// The size of the pages.
        page_size: PageSize,
        /// How many the job is to have.
        asked: u64,
        /// How many it could have.
        free: u64,
        /// How many the host has set aside, so that "never" can be told from "not now".
        total: u64,
    },
    /// The host has too few CPUs for VMs that have them for themselves that are not taken.
    #[error("needs {}; {}", DedicatedCpus::words(*.asked), cpus_words(*.free, *.total))]
    NoDedicatedCpus {
        /// How many the job is to have.
        asked: u32,
        /// How many it could have.
        free: u32,
        /// How many the host gives in all, so that "never" can be told from "not now".
        total: u32,
    },
    /// The host has no image of that name.
    #[error("image {image} is not on this host; import it here or choose a host that has it")]
    NoImage {
        /// The image.
        image: ImageName,
    },
    /// Disks on the host are made from the image, or will be.
    #[error("image {image} is needed on this host by {}; delete them first, with their disks", .users.iter().map(JobId::as_str).collect::<Vec<_>>().join(", "))]
    ImageInUse {
        /// The image.
        image: ImageName,
        /// Whose disks.
        users: Vec<JobId>,
    },
    /// A disk is smaller than the image it starts from.
    #[error("disk {disk:?} of {} is smaller than image {image} of {}", Bytes(*.asked_bytes), Bytes(*.needed_bytes))]
    DiskTooSmall {
        /// The disk.
        disk: String,
        /// The image.
        image: ImageName,
        /// What was asked for.
        asked_bytes: u64,
        /// What the image needs.
        needed_bytes: u64,
    },
    /// The host has no pool of that name.
    #[error("has no pool {pool}; it has {}", pool_words(.has))]
    NoPool {
        /// The pool.
        pool: PoolName,
        /// Those it has, beside its own folder.
        has: Vec<PoolName>,
    },
    /// The host has the pool, and nothing can be done in it now.
    #[error("pool {pool} is not available on this host: {why}")]
    PoolUnavailable {
        /// The pool.
        pool: PoolName,
        /// What is wrong with it.
        why: String,
    },
    /// The pool has been promised already.
    #[error("needs {} in pool {pool}, which has {} to promise", Bytes(*.asked_bytes), Bytes(*.free_bytes))]
    PoolFull {
        /// The pool.
        pool: PoolName,
        /// What was asked for.
        asked_bytes: u64,
        /// What it could still promise.
        free_bytes: u64,
        /// Its capacity, so that "never" can be told from "not now".
        capacity_bytes: u64,
    },
    /// Jobs of this host have disks in the pool: it can't be taken away, nor become another.
    #[error("pool {pool} is needed on this host by {}; delete them first, or keep it as it is", .users.iter().map(JobId::as_str).collect::<Vec<_>>().join(", "))]
    PoolInUse {
        /// The pool.
        pool: PoolName,
        /// Whose disks.
        users: Vec<JobId>,
    },
    /// Somebody has changed the host's configuration meanwhile.
    #[error(
        "the host's {what} are at version {current}; look at them again, and put a version above it"
    )]
    ConfigConflict {
        /// Which part of it.
        what: String,
        /// The version in force.
        current: u64,
    },
    /// The host has no network of that name that guests could be plugged into.
    #[error("has no network {network}{}; {}", .trouble.as_ref().map(|why| format!(" that is up ({why})")).unwrap_or_default(), has_words(.has))]
    NoNetwork {
        /// The network.
        network: String,
        /// What is wrong with it, if it is known and not up.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trouble: Option<String>,
        /// The networks that it has.
        has: Vec<String>,
    },
    /// Another job on the host has the address of one of the cards.
    #[error(
        "address {mac} is that of a card of job {job}; give the card another one (mac=…), or stop that job first"
    )]
    MacTaken {
        /// The address.
        mac: String,
        /// Whose card.
        job: JobId,
    },
    /// There is no such network here.
    #[error("network {network} is not on this host")]
    NoSuchNetwork {
        /// The network.
        network: String,
    },
    /// The network is somebody else's.
    #[error(
        "network {network} is on this host and was not made by Ostler; it is left alone: use it as it is, or choose another name"
    )]
    NetworkTaken {
        /// The network.
        network: String,
    },
    /// Guests are on the network, or would start on it.
    #[error("network {network} is needed here by {}; stop and delete or move them first", users_words(.users, *.others))]
    NetworkInUse {
        /// The network.
        network: NetworkName,
        /// The jobs that name it.
        users: Vec<JobId>,
        /// Cards plugged into it of guests that are no job's.
        #[serde(default)]
        others: u32,
    },
    /// The change is not newer than the network.
    #[error(
        "network {network} is at revision {current} and is something else; a change needs a revision above it"
    )]
    NetworkRevision {
        /// The network.
        network: NetworkName,
        /// The revision in the ledger.
        current: Revision,
    },
    /// Some of the addresses are in use on the host already.
    #[error("subnet {subnet} overlaps with {by}{}", .free.map(|free| format!("; {free} is free here")).unwrap_or_default())]
    SubnetTaken {
        /// What was asked for.
        subnet: Subnet,
        /// Who has it, or a part of it.
        by: String,
        /// One of that size that nobody here has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        free: Option<Subnet>,
    },
    /// The bridge or interface is not there.
    #[error("{device} is not on this host; {}", has_words(.has))]
    NoDevice {
        /// What was named.
        device: String,
        /// What could be named.
        has: Vec<String>,
    },
    /// What can be there only once is somebody's already.
    #[error("{what} is on this host already, of {by}; use that, or choose another number")]
    NetworkClash {
        /// What: a VLAN, or an overlay.
        what: String,
        /// Whose.
        by: String,
    },
    /// The id is in use for something else, or the change is not newer than the job.
    #[error(
        "job {job} is at revision {current} with another spec; a change needs a revision above it"
    )]
    RevisionConflict {
        /// The job.
        job: JobId,
        /// The revision in the ledger.
        current: Revision,
    },
    /// The job exists and is not in a state in which this can be done.
    #[error("job {job} is {state}; {needed}")]
    WrongState {
        /// The job.
        job: JobId,
        /// Its state.
        state: JobState,
        /// What would have to be true.
        needed: String,
    },
    /// There is no such job here.
    #[error("job {job} is not on this host")]
    NoSuchJob {
        /// The job.
        job: JobId,
    },
    /// A disk is not made smaller.
    #[error(
        "disk {disk} of {job} has {}, and only grows: {} would cut off what is on it",
        Bytes(*.has_bytes),
        Bytes(*.asked_bytes)
    )]
    DiskShrinks {
        /// The job.
        job: JobId,
        /// The disk.
        disk: String,
        /// What was asked for.
        asked_bytes: u64,
        /// What it has; more would do.
        has_bytes: u64,
    },
    /// The job has no such snapshot.
    #[error("job {job} has no snapshot {snapshot}; it has {}", snapshot_words(.has))]
    NoSuchSnapshot {
        /// The job.
        job: JobId,
        /// What was named.
        snapshot: SnapshotName,
        /// Those it has.
        has: Vec<SnapshotName>,
    },
    /// The job has snapshots, which would be lost.
    #[error("job {job} has snapshots ({}): {needed}", snapshot_words(.snapshots))]
    HasSnapshots {
        /// The job.
        job: JobId,
        /// Its snapshots.
        snapshots: Vec<SnapshotName>,
        /// What would have worked.
        needed: String,
    },
    /// Somebody has said that the job is not to be ended.
    #[error("job {job} is protected; `ostler unprotect {job}` takes that off")]
    Protected {
        /// The job.
        job: JobId,
    },
    /// The job was to make room for another, and is not one that may be stopped for that one, or no more.
    #[error(
        "job {job} is not preemptible, or matters as much as the other; `ostler rank {job}` changes that"
    )]
    NotPreemptible {
        /// The job.
        job: JobId,
    },
    /// There is no such domain here that could be adopted.
    #[error(
        "no domain {domain} is on this host that is nobody's job; `ostler hosts` and `virsh list --all` tell where it is"
    )]
    NoSuchDomain {
        /// Its libvirt uuid or name.
        domain: String,
    },
    /// A libvirt domain that is not ours has the name.
    #[error(
        "a domain named {job} that Ostler did not make is on this host; rename it or choose another name"
    )]
    NameTaken {
        /// The name.
        job: JobId,
    },
    /// The right to run was not shown.
    #[error("{error}")]
    Ticket {
        /// What is wrong with the ticket.
        #[serde(flatten)]
        error: TicketError,
    },
    /// A newer claim on the run has been seen: this engine is no longer the run's owner.
    #[error("run is claimed by a newer engine (claim {seen}); this request had claim {given}")]
    StaleClaim {
        /// The newest claim seen.
        seen: u64,
        /// The one in the request.
        given: u64,
    },
    /// The run took the job back before this task arrived.
    #[error("task {task} of this run was undone before it was done")]
    TaskUndone {
        /// The task.
        task: u32,
    },
    /// Too many open offers or starts; the same request will work later.
    #[error("the host is busy: {what} (limit {limit}); try again in {retry_after_ms} ms")]
    Busy {
        /// What there is too much of.
        what: String,
        /// How much is allowed.
        limit: u32,
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The host can't do this kind of thing at all.
    #[error("this host cannot {what}: {why}")]
    Unsupported {
        /// What was asked.
        what: String,
        /// Why not.
        why: String,
    },
    /// Its operator has the host drained: it takes nothing new.
    #[error(
        "host {host} is being drained and takes nothing new; choose another, or end that with `ostler undrain`"
    )]
    HostDraining {
        /// The host.
        host: HostId,
    },
    /// The request itself makes no sense anywhere.
    #[error("{message}")]
    Invalid {
        /// What is wrong and what would be right.
        message: String,
    },
    /// The trust document may not follow the one in force: two quorums of arbiters could miss each
    /// other, or something promised be forgotten.
    #[error(
        "trust version {version} may not follow the one in force: {why}; lawful would be {lawful}"
    )]
    UnlawfulTrust {
        /// The refused version.
        version: u64,
        /// What is wrong with it.
        why: String,
        /// What could follow.
        lawful: String,
    },
    /// The ledger can't be written: the host accepts nothing new until that is mended.
    #[error("the host cannot write its ledger ({message}); running guests go on")]
    LedgerReadOnly {
        /// What the disk said.
        message: String,
    },
    /// The host has no budget of that name that could be used.
    #[error("host has no budget {budget} to start VMs by{}", if .has.is_empty() { String::new() } else { format!("; it has {}", .has.iter().map(JobId::as_str).collect::<Vec<_>>().join(", ")) })]
    NoSuchBudget {
        /// The budget.
        budget: JobId,
        /// What budgets of the tenant there are.
        has: Vec<JobId>,
    },
    /// What is used of the budget leaves too little.
    #[error(
        "budget {budget} is {size}, of which {used} is used; {asked} was asked for, at most {at_most} would fit"
    )]
    BudgetExhausted {
        /// The budget.
        budget: JobId,
        /// Its size.
        size: Box<Amounts>,
        /// What others use of it.
        used: Amounts,
        /// What was asked for.
        asked: Amounts,
        /// What would fit.
        at_most: Amounts,
    },
    /// The budget is of another tenant's quota.
    #[error("budget {budget} is tenant {owner}'s, the VM is tenant {tenant}'s")]
    BudgetOfOther {
        /// The budget.
        budget: JobId,
        /// Whose it is.
        owner: TenantId,
        /// Whose the VM is.
        tenant: TenantId,
    },
    /// Others may have a VM of that name, and nobody is asked.
    #[error(
        "{job} is no name that budget {budget} owns: call it {budget}.NAME, such as {budget}.{job}"
    )]
    OutsideBudget {
        /// The VM.
        job: JobId,
        /// The budget.
        budget: JobId,
    },
    /// It takes a ticket, whatever the budget.
    #[error("{job} is not started by a budget: {why}")]
    NotByBudget {
        /// The job.
        job: JobId,
        /// Why not, and what would do.
        why: String,
    },
    /// What is used of the budget does not fit into less.
    #[error("budget {budget} is used by {}, for {used} in all: {asked} would be too little; stop some of them, or give it as much as is used", .users.iter().map(JobId::as_str).collect::<Vec<_>>().join(", "))]
    BudgetInUse {
        /// The budget.
        budget: JobId,
        /// What is used of it.
        used: Amounts,
        /// How large it was to be; nothing when it was to go.
        asked: Amounts,
        /// By whom.
        users: Vec<JobId>,
    },
    /// The host has been off since the arbiters granted the budget, and may have lost it.
    #[error(
        "host has rebooted, and budget {budget} may be taken from it since: it is used again when a quorum of arbiters has said that it is not"
    )]
    BudgetAwaitsRight {
        /// The budget.
        budget: JobId,
    },
    /// The peer's key is not allowed to do this.
    #[error("{who} may not {what}")]
    Forbidden {
        /// Who asked, as far as known.
        who: String,
        /// What was asked.
        what: String,
    },
    /// The cluster's policy for the tenant says no.
    #[error("policy of tenant {tenant}{}: {breach}", if *.is_default { ", which is the default one" } else { "" })]
    AgainstPolicy {
        /// Whose job it is.
        tenant: TenantId,
        /// True when the tenant has no rules of its own.
        is_default: bool,
        /// Which rule, what was asked, and what would do.
        breach: Breach,
    },
}

fn pool_words(has: &[PoolName]) -> String {
    let names: Vec<&str> = has.iter().map(PoolName::as_str).collect();
    if names.is_empty() { "none but its own folder".to_owned() } else { names.join(", ") }
}

fn snapshot_words(has: &[SnapshotName]) -> String {
    let names: Vec<&str> = has.iter().map(SnapshotName::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl Refusal {
    /// The word for it in a problem's `type`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Refusal::NoCapacity { .. } => "no-capacity",
            Refusal::NoRoomToGrow { .. } => "no-room-to-grow",
            Refusal::NoHugepages { .. } => "no-hugepages",
            Refusal::NoDedicatedCpus { .. } => "no-dedicated-cpus",
            Refusal::NoImage { .. } => "no-image",
            Refusal::ImageInUse { .. } => "image-in-use",
            Refusal::DiskTooSmall { .. } => "disk-too-small",
            Refusal::NoPool { .. } => "no-pool",
            Refusal::PoolUnavailable { .. } => "pool-unavailable",
            Refusal::PoolFull { .. } => "pool-full",
            Refusal::PoolInUse { .. } => "pool-in-use",
            Refusal::ConfigConflict { .. } => "config-conflict",
            Refusal::NoNetwork { .. } => "no-network",
            Refusal::MacTaken { .. } => "mac-taken",
            Refusal::NoSuchNetwork { .. } => "no-such-network",
            Refusal::NetworkTaken { .. } => "network-taken",
            Refusal::NetworkInUse { .. } => "network-in-use",
            Refusal::NetworkRevision { .. } => "network-revision",
            Refusal::SubnetTaken { .. } => "subnet-taken",
            Refusal::NoDevice { .. } => "no-device",
            Refusal::NetworkClash { .. } => "network-clash",
            Refusal::RevisionConflict { .. } => "revision-conflict",
            Refusal::WrongState { .. } => "wrong-state",
            Refusal::NoSuchJob { .. } => "no-such-job",
            Refusal::DiskShrinks { .. } => "disk-shrinks",
            Refusal::NoSuchSnapshot { .. } => "no-such-snapshot",
            Refusal::HasSnapshots { .. } => "has-snapshots",
            Refusal::Protected { .. } => "protected",
            Refusal::NotPreemptible { .. } => "not-preemptible",
            Refusal::NoSuchDomain { .. } => "no-such-domain",
            Refusal::NameTaken { .. } => "name-taken",
            Refusal::Ticket { error } => error.name(),
            Refusal::StaleClaim { .. } => "stale-claim",
            Refusal::TaskUndone { .. } => "task-undone",
            Refusal::Busy { .. } => "busy",
            Refusal::Unsupported { .. } => "unsupported",
            Refusal::HostDraining { .. } => "host-draining",
            Refusal::Invalid { .. } => "invalid",
            Refusal::UnlawfulTrust { .. } => "unlawful-trust",
            Refusal::LedgerReadOnly { .. } => "ledger-read-only",
            Refusal::NoSuchBudget { .. } => "no-such-budget",
            Refusal::BudgetExhausted { .. } => "budget-exhausted",
            Refusal::BudgetOfOther { .. } => "budget-of-other",
            Refusal::OutsideBudget { .. } => "outside-budget",
            Refusal::NotByBudget { .. } => "not-by-budget",
            Refusal::BudgetInUse { .. } => "budget-in-use",
            Refusal::BudgetAwaitsRight { .. } => "budget-awaits-right",
            Refusal::Forbidden { .. } => "forbidden",
            Refusal::AgainstPolicy { .. } => "against-policy",
        }
    }

    /// The HTTP status it travels with.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Refusal::Invalid { .. } => 400,
            Refusal::Forbidden { .. }
            | Refusal::Ticket { .. }
            | Refusal::BudgetOfOther { .. }
            | Refusal::AgainstPolicy { .. } => 403,
            Refusal::NoSuchBudget { .. }
            | Refusal::NoSuchJob { .. }
            | Refusal::NoSuchSnapshot { .. }
            | Refusal::NoSuchDomain { .. }
            | Refusal::NoSuchNetwork { .. } => 404,
            Refusal::RevisionConflict { .. }
            | Refusal::WrongState { .. }
            | Refusal::DiskShrinks { .. }
            | Refusal::HasSnapshots { .. }
            | Refusal::Protected { .. }
            | Refusal::NotPreemptible { .. }
            | Refusal::NameTaken { .. }
            | Refusal::StaleClaim { .. }
            | Refusal::TaskUndone { .. }
            | Refusal::NoCapacity { .. }
            | Refusal::NoRoomToGrow { .. }
            | Refusal::NoHugepages { .. }
            | Refusal::NoDedicatedCpus { .. }
            | Refusal::NoImage { .. }
            | Refusal::NoNetwork { .. }
            | Refusal::MacTaken { .. }
            | Refusal::NetworkTaken { .. }
            | Refusal::NetworkInUse { .. }
            | Refusal::NetworkRevision { .. }
            | Refusal::SubnetTaken { .. }
            | Refusal::NoDevice { .. }
            | Refusal::NetworkClash { .. }
            | Refusal::ImageInUse { .. }
            | Refusal::DiskTooSmall { .. }
            | Refusal::NoPool { .. }
            | Refusal::PoolUnavailable { .. }
            | Refusal::PoolFull { .. }
            | Refusal::PoolInUse { .. }
            | Refusal::ConfigConflict { .. }
            | Refusal::UnlawfulTrust { .. }
            | Refusal::BudgetExhausted { .. }
            | Refusal::BudgetInUse { .. }
            | Refusal::HostDraining { .. } => 409,
            Refusal::Unsupported { .. }
            | Refusal::OutsideBudget { .. }
            | Refusal::NotByBudget { .. } => 422,
            Refusal::Busy { .. } => 429,
            Refusal::LedgerReadOnly { .. } | Refusal::BudgetAwaitsRight { .. } => 503,
        }
    }

    /// True when another host may well say yes to the same request.
    #[must_use]
    pub fn is_about_this_host(&self) -> bool {
        if let Refusal::AgainstPolicy { breach, .. } = self {
            return breach.is_about_host();
        }
        matches!(
            self,
            Refusal::NoCapacity { .. }
                | Refusal::NoRoomToGrow { .. }
                | Refusal::NoHugepages { .. }
                | Refusal::NoDedicatedCpus { .. }
                | Refusal::NoImage { .. }
                | Refusal::NoPool { .. }
                | Refusal::PoolUnavailable { .. }
                | Refusal::PoolFull { .. }
                | Refusal::NoNetwork { .. }
                | Refusal::NameTaken { .. }
                | Refusal::NoSuchDomain { .. }
                | Refusal::Busy { .. }
                | Refusal::Unsupported { .. }
                | Refusal::HostDraining { .. }
                | Refusal::LedgerReadOnly { .. }
        )
    }
}

fn pages_words(free: u64, total: u64) -> String {
    match (total, total.saturating_sub(free), free) {
        (0, ..) => "the host has none of that size for guests".to_owned(),
        (_, 0, _) => format!("the host has {total} in all"),
        (_, taken, 0) => format!("the host has {total}, of which {taken} are taken"),
        (_, taken, free) => {
            format!("the host has {total}, of which {taken} are taken: {free} would fit")
        }
    }
}

fn cpus_words(free: u32, total: u32) -> String {
    match (total, total.saturating_sub(free), free) {
        (0, ..) => "the host gives none to VMs for themselves".to_owned(),
        (_, 0, _) => format!("the host has {total} in all"),
        (_, taken, 0) => format!("the host has {total}, of which {taken} are taken"),
        (_, taken, free) => {
            format!("the host has {total}, of which {taken} are taken: {free} would fit")
        }
    }
}

fn has_words(has: &[String]) -> String {
    if has.is_empty() { "it has none".to_owned() } else { format!("it has {}", has.join(", ")) }
}

fn users_words(users: &[JobId], others: u32) -> String {
    let mut words: Vec<String> = users.iter().map(ToString::to_string).collect();
    words.extend((others > 0).then(|| format!("{others} cards of guests that are no job's")));
    words.join(", ")
}

/// An error on the wire: RFC 9457, content type `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// `urn:ostler:` and the name of the rule; a closed list, in `docs/api.md`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The rule in words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// This case in words, with what would have worked.
    pub detail: String,
    /// The refusal with its numbers, where there is one.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
}

impl Problem {
    /// A problem that is no refusal of ours: a bad path, a bad body, a fault.
    #[must_use]
    pub fn new(status: u16, name: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:ostler:{name}"),
            title: name.replace('-', " "),
            status,
            detail: detail.into(),
            refusal: None,
        }
    }

    /// The last part of the type.
    #[must_use]
    pub fn name(&self) -> &str {
        self.kind.rsplit(':').next().unwrap_or(&self.kind)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal: Some(refusal.clone()),
            ..Self::new(refusal.status(), refusal.name(), refusal.to_string())
        }
    }
}

/// A document that is not taken, to whoever brought it.
impl From<TrustError> for Refusal {
    fn from(error: TrustError) -> Self {
        match error {
            TrustError::Unlawful { version, why, lawful } => {
                Refusal::UnlawfulTrust { version, why, lawful }
            }
            TrustError::Signature(_)
            | TrustError::NotOperator { .. }
            | TrustError::OtherCluster { .. }
            | TrustError::NotNewer { .. }
            | TrustError::Invalid(_)
            | TrustError::Policy(_) => Refusal::Invalid { message: error.to_string() },
        }
    }
}

impl From<TicketError> for Refusal {
    fn from(error: TicketError) -> Self {
        Refusal::Ticket { error }
    }
}

/// One of each refusal, for tests that every one is documented and survives the wire.
#[must_use]
pub fn examples() -> Vec<Refusal> {
    let job: JobId = JobId::new("web-1").expect("a valid name");
    let image = ImageName::new("debian-12").expect("a valid name");
    let pool = PoolName::new("nfs").expect("a valid name");
    let snapshot = SnapshotName::new("before").expect("a valid name");
    let some = Resources { vcpus: 2, memory_bytes: 1 << 30, disk_bytes: 8 << 30 };
    let mut all = vec![
        Refusal::NoCapacity { asked: some, free: Resources::ZERO, capacity: some },
        Refusal::NoRoomToGrow { job: job.clone(), asked: some, at_most: some, capacity: some },
        Refusal::NoHugepages { page_size: PageSize::MIB2, asked: 32, free: 24, total: 64 },
        Refusal::NoDedicatedCpus { asked: 2, free: 1, total: 4 },
        Refusal::NoImage { image: image.clone() },
        Refusal::ImageInUse { image: image.clone(), users: vec![job.clone()] },
        Refusal::DiskTooSmall {
            disk: "root".into(),
            image,
            asked_bytes: 1 << 20,
            needed_bytes: 1 << 30,
        },
        Refusal::NoPool { pool: pool.clone(), has: vec![pool.clone()] },
        Refusal::PoolUnavailable { pool: pool.clone(), why: "it is not mounted".into() },
        Refusal::PoolFull {
            pool: pool.clone(),
            asked_bytes: 2 << 30,
            free_bytes: 1 << 30,
            capacity_bytes: 8 << 30,
        },
        Refusal::PoolInUse { pool, users: vec![job.clone()] },
        Refusal::ConfigConflict { what: "pools".into(), current: 4 },
        Refusal::NoNetwork { network: "blue".into(), trouble: None, has: vec!["default".into()] },
        Refusal::MacTaken { mac: "52:54:00:00:00:01".into(), job: job.clone() },
        Refusal::RevisionConflict { job: job.clone(), current: Revision(3) },
        Refusal::WrongState {
            job: job.clone(),
            state: JobState::Stopped,
            needed: "start it first".into(),
        },
        Refusal::NoSuchJob { job: job.clone() },
        Refusal::DiskShrinks {
            job: job.clone(),
            disk: "root".into(),
            asked_bytes: 1 << 20,
            has_bytes: 1 << 30,
        },
        Refusal::NoSuchSnapshot { job: job.clone(), snapshot: snapshot.clone(), has: vec![] },
        Refusal::HasSnapshots {
            job: job.clone(),
            snapshots: vec![snapshot],
            needed: "delete them first".into(),
        },
        Refusal::Protected { job: job.clone() },
        Refusal::NotPreemptible { job: job.clone() },
        Refusal::NoSuchDomain { domain: "legacy".into() },
        Refusal::NameTaken { job: job.clone() },
        Refusal::StaleClaim { seen: 4, given: 3 },
        Refusal::TaskUndone { task: 2 },
        Refusal::Busy { what: "open offers".into(), limit: 64, retry_after_ms: 1000 },
        Refusal::Unsupported {
            what: "receive a migration".into(),
            why: "the embedded driver has no remote URI".into(),
        },
        Refusal::HostDraining { host: HostId::new("h1").expect("a valid name") },
        Refusal::Invalid { message: "0 vcpus: use 1 to 255".into() },
        Refusal::UnlawfulTrust {
            version: 7,
            why: "its arbiters are others at once".into(),
            lawful: "the others as next".into(),
        },
        Refusal::LedgerReadOnly { message: "no space left on device".into() },
        Refusal::Forbidden { who: "monitor m1".into(), what: "stop jobs".into() },
    ];
    all.extend(breach_examples().into_iter().take(1).map(|breach| Refusal::AgainstPolicy {
        tenant: TenantId::default_tenant(),
        is_default: true,
        breach,
    }));
    all.extend(of_networks(&job));
    all.extend(of_budgets(&job));
    let offer = OfferId { epoch: Epoch(2), num: 1 };
    let host = HostId::new("h1").expect("a valid name");
    all.extend(crate::ticket::error_examples(&host, &job, offer).into_iter().map(Refusal::from));
    all
}

fn of_networks(job: &JobId) -> Vec<Refusal> {
    let name = NetworkName::new("blue").expect("a valid name");
    let subnet: Subnet = "10.20.0.0/24".parse().expect("a subnet");
    let (device, has) = ("br0".to_owned(), vec!["br1".to_owned()]);
    let (what, by) = ("VLAN 7 of eth0".to_owned(), "network green".to_owned());
    vec![
        Refusal::NoSuchNetwork { network: "blue".into() },
        Refusal::NetworkTaken { network: "default".into() },
        Refusal::NetworkInUse { network: name.clone(), users: vec![job.clone()], others: 0 },
        Refusal::NetworkRevision { network: name, current: Revision(3) },
        Refusal::SubnetTaken { subnet, by: by.clone(), free: subnet.next() },
        Refusal::NoDevice { device, has },
        Refusal::NetworkClash { what, by },
    ]
}

fn of_budgets(job: &JobId) -> Vec<Refusal> {
    let budget = JobId::new("a.h1").expect("a valid name");
    let size = Amounts { vcpus: 4, memory_bytes: 8 << 30, disk_bytes: 0, vms: 4 };
    let (used, asked) = (size, Amounts::ZERO);
    let (owner, tenant) = (TenantId::default_tenant(), TenantId::new("b").expect("a valid name"));
    vec![
        Refusal::NoSuchBudget { budget: budget.clone(), has: vec![budget.clone()] },
        Refusal::BudgetExhausted {
            budget: budget.clone(),
            size: Box::new(size),
            used,
            asked,
            at_most: asked,
        },
        Refusal::BudgetOfOther { budget: budget.clone(), owner, tenant },
        Refusal::OutsideBudget { job: job.clone(), budget: budget.clone() },
        Refusal::NotByBudget { job: job.clone(), why: "it is no VM".into() },
        Refusal::BudgetInUse { budget: budget.clone(), used, asked, users: vec![job.clone()] },
        Refusal::BudgetAwaitsRight { budget },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_survives_the_wire_with_its_numbers() {
        for refusal in examples() {
            let problem = Problem::from(refusal.clone());
            let text = serde_json::to_string(&problem).unwrap();
            let back: Problem = serde_json::from_str(&text).unwrap();
            assert_eq!(back.refusal, Some(refusal), "{text}");
        }
    }

    #[test]
    fn a_refusal_for_want_of_huge_pages_says_how_many_would_fit() {
        let words = |asked, free, total| {
            Refusal::NoHugepages { page_size: PageSize::MIB2, asked, free, total }.to_string()
        };
        assert_eq!(
            words(32, 24, 64),
            "needs 32 huge pages of 2MiB; the host has 64, of which 40 are taken: 24 would fit"
        );
        assert_eq!(
            words(1, 0, 64),
            "needs 1 huge page of 2MiB; the host has 64, of which 64 are taken"
        );
        assert_eq!(words(65, 64, 64), "needs 65 huge pages of 2MiB; the host has 64 in all");
        assert_eq!(
            words(32, 0, 0),
            "needs 32 huge pages of 2MiB; the host has none of that size for guests"
        );
    }

    #[test]
    fn a_refusal_for_want_of_dedicated_cpus_says_how_many_would_fit() {
        let words =
            |asked, free, total| Refusal::NoDedicatedCpus { asked, free, total }.to_string();
        assert_eq!(
            words(2, 1, 4),
            "needs 2 dedicated CPUs; the host has 4, of which 3 are taken: 1 would fit"
        );
        assert_eq!(words(1, 0, 4), "needs 1 dedicated CPU; the host has 4, of which 4 are taken");
        assert_eq!(words(5, 4, 4), "needs 5 dedicated CPUs; the host has 4 in all");
        assert_eq!(
            words(1, 0, 0),
            "needs 1 dedicated CPU; the host gives none to VMs for themselves"
        );
    }

    #[test]
    fn every_refusal_has_a_name_and_sentence_of_its_own() {
        let names: std::collections::BTreeSet<_> = examples().iter().map(Refusal::name).collect();
        assert_eq!(names.len(), examples().len());
    }
}
