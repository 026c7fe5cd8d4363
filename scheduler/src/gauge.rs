//! What guests use on average, made of the counters that their hosts tell. Pure.
//!
//! Decides what is known and for how long. A rate is the difference of two readings; a mean follows the rates and
//! forgets within minutes, so that a moment's work is no reason to move anybody. What a VM uses is the VM's: its mean goes
//! with it to another host, where its counter begins anew. While it is on its way nothing is counted, as sending it costs
//! its process CPU that its guest does not use. What has not been read for a while is known no more.
//!
//! ```text
//!              read twice at rest              read again
//!   unknown ───────────────────▶ known, for so long ─┐ ▲
//!      ▲                              │              └─┘
//!      └──── not read for a while ────┘
//! ```

use std::collections::BTreeMap;

use protocol::id::{HostId, JobId};
use protocol::job::JobState;
use protocol::usage::{GuestUsage, Usage};
use protocol::used::{HostUse, Used, VmUse, WATCHED_MS_MAX};
use protocol::view::HostRow;

/// How long back a mean remembers, in milliseconds: what is older counts for about a third. Shorter than what hosts are uneven
/// for before anybody is moved, so that the mean is of that time.
const REMEMBERED_MS: u64 = 120_000;

/// What was read last longer ago than this is not known any more, in milliseconds: several readings were missed.
const AGE_MS_MAX: u64 = 90_000;

/// Readings that are nearer to each other say more of the moment than of the guest, in milliseconds.
const APART_MS_MIN: u64 = 1_000;

/// Thousandths of a CPU are kept to a thousandth, so that small changes of a mean are not lost.
const FINE: u64 = 1_000;

/// Guests of all hosts, as their counters tell.
#[derive(Debug, Clone, Default)]
pub struct Gauge {
    hosts: BTreeMap<HostId, Read>,
    vms: BTreeMap<JobId, Mean>,
}

/// What a host said last.
#[derive(Debug, Clone)]
struct Read {
    /// When, by the clock of who asked.
    read_ms: u64,
    /// When, by the host's own.
    at_ms: u64,
    cpus: Option<u32>,
    /// CPU time of guests at rest, in nanoseconds, by name.
    guests: BTreeMap<String, Counter>,
    /// What guests use together that are no jobs.
    others: Option<Mean>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Counter {
    job: Option<JobId>,
    cpu_ns: u64,
}

/// A rate on average.
#[derive(Debug, Clone, Copy)]
struct Mean {
    /// Millionths of a CPU.
    fine: u64,
    watched_ms: u64,
    read_ms: u64,
}

impl Mean {
    /// The mean with a rate that was so for so long.
    fn followed(before: Option<Mean>, now_ms: u64, fine: u64, for_ms: u64) -> Mean {
        let known = before.filter(|mean| now_ms.saturating_sub(mean.read_ms) <= AGE_MS_MAX);
        let Some(mean) = known else { return Mean { fine, watched_ms: for_ms, read_ms: now_ms } };
        let (old, new) = (u128::from(mean.fine), u128::from(fine));
        let (kept, added) = (u128::from(REMEMBERED_MS), u128::from(for_ms));
        let fine = (old * kept + new * added) / (kept + added);
        let watched_ms = mean.watched_ms.saturating_add(for_ms).min(WATCHED_MS_MAX);
        Mean { fine: u64::try_from(fine).unwrap_or(u64::MAX), watched_ms, read_ms: now_ms }
    }

    fn is_known(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.read_ms) <= AGE_MS_MAX
    }

    fn cpu_millis(&self) -> u64 {
        self.fine / FINE
    }
}

impl Gauge {
    /// A host has told what its guests have used; `row` is what is known of the host then.
    pub fn take(&mut self, now_ms: u64, row: &HostRow, usage: &Usage) {
        let host = &row.host.id;
        let before = self.hosts.get(host);
        let is_later = |before: &&Read| before.at_ms + APART_MS_MIN <= usage.at_ms;
        // The same reading once more, or one of right before, says nothing; of before a reboot nothing is left.
        if before.is_some_and(|before| before.at_ms <= usage.at_ms && !is_later(&before)) {
            return;
        }
        let before = before.filter(is_later);
        let for_ms = before.map(|before| usage.at_ms - before.at_ms);
        let for_ms = for_ms.filter(|for_ms| *for_ms <= AGE_MS_MAX);
        let (mut guests, mut rates) = (BTreeMap::new(), Vec::new());
        let mut others = Some(0_u64);
        for guest in &usage.guests {
            let counter = counter(row, guest);
            let was = before.and_then(|before| before.guests.get(&guest.name));
            let rate = for_ms.and_then(|for_ms| rate(was?, counter.as_ref()?, for_ms));
            match (&guest.job, rate) {
                (Some(job), Some(rate)) => rates.push((job.clone(), rate)),
                (Some(_), None) => {}
                (None, rate) => {
                    others = others.zip(rate).map(|(sum, rate)| sum.saturating_add(rate));
                }
            }
            guests.extend(counter.map(|counter| (guest.name.clone(), counter)));
        }
        let others_before = before.and_then(|before| before.others);
        let others = match others.zip(for_ms) {
            Some((rate, for_ms)) => Some(Mean::followed(others_before, now_ms, rate, for_ms)),
            // One has come, or is not counted for now: what is known of all of them is as old as it is.
            None => others_before,
        };
        for (job, rate) in rates {
            let mean = self.vms.get(&job).copied();
            let mean = Mean::followed(mean, now_ms, rate, for_ms.unwrap_or_default());
            self.vms.insert(job, mean);
        }
        let (at_ms, cpus) = (usage.at_ms, usage.machine.cpus);
        self.hosts.insert(host.clone(), Read { read_ms: now_ms, at_ms, cpus, guests, others });
    }

    /// What is known now. What is known no more is forgotten.
    pub fn used(&mut self, now_ms: u64) -> Used {
        self.hosts.retain(|_, read| now_ms.saturating_sub(read.read_ms) <= AGE_MS_MAX);
        self.vms.retain(|_, mean| mean.is_known(now_ms));
        let hosts = self.hosts.iter().filter_map(|(host, read)| {
            let others = read.others.filter(|mean| mean.is_known(now_ms))?;
            let cpus = read.cpus.filter(|cpus| *cpus > 0)?;
            Some((host.clone(), HostUse { cpus, others_cpu_millis: others.cpu_millis() }))
        });
        let vms = self.vms.iter().map(|(job, mean)| {
            let used = VmUse { cpu_millis: mean.cpu_millis(), watched_ms: mean.watched_ms };
            (job.clone(), used)
        });
        Used { hosts: hosts.collect(), vms: vms.collect() }
    }
}

/// What a guest has used, unless it is on its way or nobody knows it.
fn counter(row: &HostRow, guest: &GuestUsage) -> Option<Counter> {
    let is_at_rest = |job: &JobId| {
        let state = row.jobs.get(job).map(|job| job.state);
        matches!(state, Some(JobState::Running | JobState::Paused))
    };
    let is_counted = guest.job.as_ref().is_none_or(is_at_rest);
    let cpu_ns = guest.cpu_ns.filter(|_| is_counted)?;
    Some(Counter { job: guest.job.clone(), cpu_ns })
}

/// What a guest used between two readings, in millionths of a CPU. A process that was begun anew has counted for a part of that
/// time only, and mostly its own beginning.
fn rate(was: &Counter, is: &Counter, for_ms: u64) -> Option<u64> {
    let busy_ns = is.cpu_ns.checked_sub(was.cpu_ns).filter(|_| is.job == was.job)?;
    // Nanoseconds a millisecond are millionths.
    busy_ns.checked_div(for_ms)
}

#[cfg(test)]
mod tests;
