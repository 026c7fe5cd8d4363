//! Spreading the debits of jobs that run anew, when a quota has room for another and the arbiters' parts
//! of it do not: what arbiters that were away for a while have not booked, others have.
//!
//! A job whose debits are to be others is offered by its host once more in the same size (tenure
//! protocol §6). Here is decided which, and with which debits; each is moved for itself, and after
//! any of them everything is right.

use std::collections::BTreeMap;

use protocol::amounts::Amounts;
use protocol::api::TenantBook;
use protocol::id::{HostId, JobId};
use protocol::trust::Committee;

use crate::spread::{Ladle, spread};

/// Most jobs that are moved for one that is to start: an offer lasts 7 s, and each takes some
/// milliseconds and three requests or so.
const MOVES_MAX: usize = 64;

/// How often each job is looked at: one amount may be levelled at the cost of another.
const ROUNDS_MAX: u32 = 4;

/// Other debits for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Where it is.
    pub host: HostId,
    /// The job.
    pub job: JobId,
    /// What each arbiter is to book.
    pub debits: BTreeMap<u32, Amounts>,
}

#[derive(Debug, Clone)]
struct Booked {
    host: Option<HostId>,
    takes: Amounts,
    debits: BTreeMap<u32, Amounts>,
}

/// What to move so that a job of this size can be booked by each committee; `None` when nothing that
/// can be moved would help.
#[must_use]
pub fn level(
    committees: &[Committee<'_>],
    books: &BTreeMap<u32, TenantBook>,
    wanted: (&JobId, Amounts),
) -> Option<Vec<Move>> {
    let (mut jobs, mut left) = taken_apart(books, wanted.0)?;
    let mut order: Vec<JobId> = jobs.keys().cloned().collect();
    // Large ones move most.
    order.sort_by_key(|job| {
        let takes = jobs[job].takes;
        std::cmp::Reverse((takes.vcpus, takes.memory_bytes, takes.disk_bytes, takes.vms))
    });
    let mut moves: BTreeMap<JobId, Move> = BTreeMap::new();
    for _ in 0..ROUNDS_MAX {
        let mut has_moved = false;
        for id in &order {
            if fits(committees, &left, wanted.1) {
                return Some(moves.into_values().collect());
            }
            let Some(booked) = jobs.get_mut(id) else { continue };
            let Some(host) = booked.host.clone() else { continue };
            if moves.len() >= MOVES_MAX && !moves.contains_key(id) {
                continue;
            }
            let Some((debits, after)) = moved(committees, &left, booked) else { continue };
            if !is_leveller(&after, &left, wanted.1) {
                continue;
            }
            left = after;
            booked.debits.clone_from(&debits);
            moves.insert(id.clone(), Move { host, job: id.clone(), debits });
            has_moved = true;
        }
        if !has_moved {
            break;
        }
    }
    fits(committees, &left, wanted.1).then(|| moves.into_values().collect())
}

type Left = BTreeMap<u32, Amounts>;

/// The tenant's other jobs, and what each arbiter has left besides.
fn taken_apart(
    books: &BTreeMap<u32, TenantBook>,
    wanted: &JobId,
) -> Option<(BTreeMap<JobId, Booked>, Left)> {
    let mut jobs: BTreeMap<JobId, Booked> = BTreeMap::new();
    let mut left = Left::new();
    for (slot, book) in books {
        let mut room = book.part?;
        for row in book.jobs.iter().filter(|row| row.job != *wanted) {
            // Where VMs are not limited there are none to move.
            let (takes, debit) = (row.takes.or_no_vms(), row.debit.or_no_vms());
            room = room.minus(debit);
            let booked = jobs.entry(row.job.clone()).or_insert_with(|| Booked {
                host: row.host.clone(),
                takes,
                debits: BTreeMap::new(),
            });
            booked.takes = booked.takes.max(takes);
            if booked.host != row.host {
                booked.host = None;
            }
            booked.debits.insert(*slot, debit);
        }
        left.insert(*slot, room);
    }
    Some((jobs, left))
}

fn fits(committees: &[Committee<'_>], left: &Left, size: Amounts) -> bool {
    let ladle = |left: Amounts| Ladle { left, ..Ladle::default() };
    let ladles = left.iter().map(|(slot, left)| (*slot, ladle(*left))).collect();
    spread(committees, size, &ladles).is_some()
}

/// A job's debits as they would be spread today, and what would be left then.
fn moved(
    committees: &[Committee<'_>],
    left: &Left,
    booked: &Booked,
) -> Option<(BTreeMap<u32, Amounts>, Left)> {
    let own = |slot: u32| booked.debits.get(&slot).copied().unwrap_or(Amounts::ZERO);
    let without: Left = left.iter().map(|(slot, left)| (*slot, left.plus(own(*slot)))).collect();
    let ladle = |left: Amounts| Ladle { left, ..Ladle::default() };
    let ladles = without.iter().map(|(slot, left)| (*slot, ladle(*left))).collect();
    let debits = spread(committees, booked.takes, &ladles)?;
    let after = |(slot, left): (u32, Amounts)| (slot, left.minus(debits[&slot]));
    let after = without.into_iter().map(after).collect();
    Some((debits, after))
}

/// Whether more of a job of this size can be booked than before, or what is left is more level.
fn is_leveller(after: &Left, before: &Left, size: Amounts) -> bool {
    let judge = |of: fn(Amounts) -> u64| {
        let usable = |left: &Left| {
            left.values().map(|left| u128::from(of(*left).min(of(size)))).sum::<u128>()
        };
        let gap = |left: &Left| {
            let amounts = || left.values().map(|left| of(*left));
            amounts().max().unwrap_or(0) - amounts().min().unwrap_or(0)
        };
        let is_worse = usable(after) < usable(before);
        let is_better = usable(after) > usable(before) || gap(after) < gap(before);
        (is_better, is_worse)
    };
    let amounts = Amounts::EACH.map(judge);
    amounts.iter().any(|(is_better, _)| *is_better) && amounts.iter().all(|(_, is_worse)| !is_worse)
}

#[cfg(test)]
mod tests;
