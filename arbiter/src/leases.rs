//! Which host may run each `stop` job, and until when at least: rules R3 (3), R4 and R5 of the tenure
//! protocol.
//!
//! A lease lapses by time, on this arbiter's clock, because the host's own coverage has lapsed before
//! and its guest is dead (protocol §11). Whether anything may be promised at all (silence, books,
//! quota) is the core's decision.
//!
//! ```text
//!            promise, cover                    promise to a migrate-in
//!   nobody ────────────────▶ held by h (until) ───────────────────────▶ held by h, succ t
//!     ▲  ▲── released by h's statement ──┘  ▲                                │
//!     └───── lapsed: anybody may take ──────┘◀── t's hold is handed, or h is released ──┘
//! ```

use std::collections::{BTreeMap, BTreeSet};

use protocol::id::{HostId, JobId, OfferId};
use protocol::tenure::Item;
use protocol::ticket::{DenialReason, HoldAt};

/// Jobs whose last promise is remembered after it is over. What is forgotten beyond these, longest
/// unused first, fails over only by an operator's word.
const LAST_MAX: usize = 200_000;

/// A promise that lapses.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Promise {
    host: HostId,
    /// The largest offer id it was made for: an old statement must not release it.
    id: OfferId,
    until_ms: u64,
}

impl Promise {
    fn is_live(&self, now_ms: u64) -> bool {
        now_ms <= self.until_ms
    }
}

/// Who may run a job, and who is to take over from them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lease {
    held: Promise,
    succ: Option<Promise>,
}

/// The last hold of a job that was covered, kept after it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Last {
    hold: HoldAt,
    used: u64,
}

/// Every lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leases {
    jobs: BTreeMap<JobId, Lease>,
    /// Jobs in which a host has a part.
    hosts: BTreeMap<HostId, BTreeSet<JobId>>,
    last: BTreeMap<JobId, Last>,
    /// How often one was covered; tells which was longest ago.
    uses: u64,
}

impl Leases {
    /// R3 (3): what a host has closed for ever is released, unless it lists anything of the job, an
    /// arrival that is not handed over included.
    pub fn release(&mut self, host: &HostId, watermark: OfferId, lists: impl Fn(&JobId) -> bool) {
        let jobs = self.hosts.get(host).into_iter().flatten();
        let omitted: Vec<JobId> = jobs.filter(|job| !lists(job)).cloned().collect();
        let is_over = |promise: &Promise| promise.host == *host && promise.id <= watermark;
        for job in omitted {
            let Some(mut lease) = self.take(&job) else { continue };
            lease.succ = lease.succ.filter(|succ| !is_over(succ));
            if !is_over(&lease.held) {
                self.put(job, lease);
            } else if let Some(held) = lease.succ {
                self.put(job, Lease { held, succ: None });
            }
        }
    }

    /// Forgets every promise to a host that the operator has retired.
    pub fn retire(&mut self, host: &HostId) {
        let everything = OfferId { epoch: protocol::id::Epoch(u64::MAX), num: u64::MAX };
        self.release(host, everything, |_| false);
    }

    /// R4: whether the hold that a host lists is covered, for `term_ms` from now.
    pub fn cover(&mut self, now_ms: u64, term_ms: u64, host: &HostId, item: &Item) -> bool {
        let until_ms = now_ms + term_ms;
        let lease = self.jobs.get(&item.job).cloned();
        let held = lease.as_ref().map(|lease| &lease.held).filter(|held| held.is_live(now_ms));
        let succ = lease.as_ref().and_then(|lease| lease.succ.as_ref());
        let succ = succ.filter(|succ| succ.is_live(now_ms));
        let is = |promise: Option<&Promise>| promise.is_some_and(|p| p.host == *host);
        let (is_held_here, is_succ_here) = (is(held), is(succ));
        let mine = Promise { host: host.clone(), id: item.id, until_ms };
        if item.is_unhanded() {
            // Only ever extended as the successor of a source that is alive itself.
            let Some(held) = held.filter(|_| is_succ_here && !is_held_here).cloned() else {
                return false;
            };
            let succ =
                succ.map(|succ| Promise { until_ms: succ.until_ms.max(until_ms), ..succ.clone() });
            self.replace(&item.job, Lease { held, succ });
            return true;
        }
        let next = match held {
            Some(held) if is_held_here => {
                let held = later(held, &mine);
                Lease { held, succ: lease.as_ref().and_then(|lease| lease.succ.clone()) }
            }
            _ if is_succ_here => Lease { held: mine, succ: None },
            None if succ.is_none() => Lease { held: mine, succ: None },
            _ => return false,
        };
        self.replace(&item.job, next);
        self.remember(&item.job, host, item.id);
        true
    }

    /// R5: whether the job may be promised to this host now, coming from `from` if it runs there.
    pub fn check_take(
        &self,
        now_ms: u64,
        job: &JobId,
        host: &HostId,
        from: Option<&HostId>,
    ) -> Result<(), DenialReason> {
        let lease = self.jobs.get(job);
        let held = lease.map(|lease| &lease.held).filter(|held| held.is_live(now_ms));
        let succ = lease.and_then(|lease| lease.succ.as_ref());
        let succ = succ.filter(|succ| succ.is_live(now_ms));
        let is_other = |promise: &&Promise| promise.host != *host;
        let in_the_way = match from {
            None => held.filter(is_other).or(succ.filter(|s| is_other(s) || held.is_some())),
            Some(source) => {
                let is_source = held.is_some_and(|held| held.host == *source);
                if !is_source && held.is_none() {
                    let message = format!(
                        "host {source} has not said of late that it runs job {job}; look at the job again and ask for a new offer"
                    );
                    return Err(DenialReason::Policy { message });
                }
                held.filter(|_| !is_source).or(succ.filter(is_other))
            }
        };
        match in_the_way {
            None => Ok(()),
            Some(promise) => Err(DenialReason::Promised {
                host: promise.host.clone(),
                id: promise.id,
                for_ms: Some((promise.until_ms - now_ms).saturating_add(1)),
            }),
        }
    }

    /// Notes the last hold of a job that is kept and was taken from its host by an operator's word.
    pub fn note_taken(&mut self, job: &JobId, host: &HostId, id: OfferId) {
        self.remember(job, host, id);
    }

    /// A host holds a job that is kept: where another's hold was noted, that one was not the last.
    pub fn note_held(&mut self, job: &JobId, host: &HostId, id: OfferId) {
        if self.last.get(job).is_some_and(|last| last.hold.host != *host || last.hold.hold < id) {
            self.remember(job, host, id);
        }
    }

    /// Whether this hold was the last one of the job that was covered here. One that was not may have
    /// been followed by others. What was only promised since does not count: its offer may have ended,
    /// and while it has not, its lease is in the way.
    pub fn check_last(&self, job: &JobId, hold: &HoldAt) -> Result<(), DenialReason> {
        match self.last.get(job) {
            Some(last) if last.hold == *hold => Ok(()),
            Some(_) | None => Err(DenialReason::NotTheLast { hold: hold.clone() }),
        }
    }

    /// R5: promises the job, after [`Leases::check_take`] has said that this is well.
    pub fn promise(
        &mut self,
        now_ms: u64,
        term_ms: u64,
        job: &JobId,
        at: &HoldAt,
        from: Option<&HostId>,
    ) {
        let mine = Promise { host: at.host.clone(), id: at.hold, until_ms: now_ms + term_ms };
        let lease = self.jobs.get(job).cloned();
        let next = match (lease, from) {
            (Some(Lease { held, succ }), Some(_)) => {
                let before = succ.filter(|succ| succ.host == at.host);
                let succ = before.map_or(mine.clone(), |before| later(&before, &mine));
                Lease { held, succ: Some(succ) }
            }
            (Some(Lease { held, .. }), None) if held.host == at.host && held.is_live(now_ms) => {
                Lease { held: later(&held, &mine), succ: None }
            }
            _ => Lease { held: mine, succ: None },
        };
        self.replace(job, next);
    }

    /// Who has the lease of a job, live or not, and how long still.
    #[must_use]
    pub fn of(&self, now_ms: u64, job: &JobId) -> Option<(HoldAt, u64)> {
        let Promise { host, id, until_ms } = &self.jobs.get(job)?.held;
        let hold = HoldAt { host: host.clone(), hold: *id };
        Some((hold, until_ms.saturating_sub(now_ms)))
    }

    /// Jobs with a lease, live or not, for whoever looks: who has it and how long still.
    pub fn iter(&self, now_ms: u64) -> impl Iterator<Item = (&JobId, HoldAt, u64)> {
        self.jobs.iter().map(move |(job, lease)| {
            let Promise { host, id, until_ms } = &lease.held;
            let hold = HoldAt { host: host.clone(), hold: *id };
            (job, hold, until_ms.saturating_sub(now_ms))
        })
    }

    fn remember(&mut self, job: &JobId, host: &HostId, id: OfferId) {
        self.uses += 1;
        let used = self.uses;
        match self.last.get_mut(job) {
            Some(last) if last.hold.host == *host => {
                last.hold.hold = last.hold.hold.max(id);
                last.used = used;
            }
            _ => {
                let hold = HoldAt { host: host.clone(), hold: id };
                self.last.insert(job.clone(), Last { hold, used });
            }
        }
        if self.last.len() > LAST_MAX {
            let eldest = self.last.iter().filter(|(job, _)| !self.jobs.contains_key(*job));
            let eldest = eldest.min_by_key(|(_, last)| last.used).map(|(job, _)| job.clone());
            if let Some(job) = eldest {
                self.last.remove(&job);
            }
        }
    }

    fn replace(&mut self, job: &JobId, lease: Lease) {
        self.take(job);
        self.put(job.clone(), lease);
    }

    fn put(&mut self, job: JobId, lease: Lease) {
        for host in hosts_of(&lease) {
            self.hosts.entry(host).or_default().insert(job.clone());
        }
        self.jobs.insert(job, lease);
    }

    fn take(&mut self, job: &JobId) -> Option<Lease> {
        let lease = self.jobs.remove(job)?;
        for host in hosts_of(&lease) {
            if let Some(jobs) = self.hosts.get_mut(&host) {
                jobs.remove(job);
                if jobs.is_empty() {
                    self.hosts.remove(&host);
                }
            }
        }
        Some(lease)
    }
}

fn hosts_of(lease: &Lease) -> impl Iterator<Item = HostId> {
    let succ = lease.succ.as_ref().map(|succ| succ.host.clone());
    std::iter::once(lease.held.host.clone()).chain(succ)
}

/// Two promises to one host, as one: a late copy of an older request neither shortens the promise nor
/// lowers its id.
fn later(one: &Promise, other: &Promise) -> Promise {
    Promise {
        host: other.host.clone(),
        id: one.id.max(other.id),
        until_ms: one.until_ms.max(other.until_ms),
    }
}
