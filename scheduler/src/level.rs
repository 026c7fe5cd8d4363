//! Spreading the debits of jobs that run anew, when a quota has room for another and the arbiters' parts
//! of it do not: what arbiters that were away for a while have not booked, others have. Or more arbiters
//! have booked a job than need to have: all who granted it count its VM where VMs were not limited yet, and
//! a limit that comes later may leave every part overdrawn.
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

/// What to move so that a job of this size can be booked by each committee, or as much of that as is moved
/// at once; `None` when nothing that can be moved would help.
#[must_use]
pub fn level(
    committees: &[Committee<'_>],
    books: &BTreeMap<u32, TenantBook>,
    wanted: (&JobId, Amounts),
) -> Option<Vec<Move>> {
    let (mut jobs, mut left, debt) = taken_apart(books, wanted.0)?;
    let fits = |left: &Left| fits(committees, &without_debt(left, debt), wanted.1);
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
            if fits(&left) {
                return Some(moves.into_values().collect());
            }
            let Some(booked) = jobs.get_mut(id) else { continue };
            let Some(host) = booked.host.clone() else { continue };
            if moves.len() >= MOVES_MAX && !moves.contains_key(id) {
                continue;
            }
            let Some((debits, after)) = moved(committees, &left, booked) else { continue };
            if !is_leveller(&after, &left, (debt, wanted.1)) {
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
    (fits(&left) || moves.len() >= MOVES_MAX).then(|| moves.into_values().collect())
}

/// What each arbiter has left and the debt besides: so much as the one has booked beyond its part that is
/// overdrawn most, and so nothing is below zero.
type Left = BTreeMap<u32, Amounts>;

/// The tenant's other jobs, what each arbiter has left besides, and the debt in that.
fn taken_apart(
    books: &BTreeMap<u32, TenantBook>,
    wanted: &JobId,
) -> Option<(BTreeMap<JobId, Booked>, Left, Amounts)> {
    let mut jobs: BTreeMap<JobId, Booked> = BTreeMap::new();
    let (mut sums, mut debt) = (Left::new(), Amounts::ZERO);
    for (slot, book) in books {
        let mut sum = Amounts::ZERO;
        for row in book.jobs.iter().filter(|row| row.job != *wanted) {
            // Where VMs are not limited there are none to move.
            let (takes, debit) = (row.takes.or_no_vms(), row.debit.or_no_vms());
            sum = sum.plus(debit);
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
        debt = debt.max(sum.minus(book.part?));
        sums.insert(*slot, sum);
    }
    let mut left = Left::new();
    for (slot, book) in books {
        left.insert(*slot, book.part?.plus(debt).minus(sums[slot]));
    }
    Some((jobs, left, debt))
}

fn without_debt(left: &Left, debt: Amounts) -> Left {
    left.iter().map(|(slot, left)| (*slot, left.minus(debt))).collect()
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

/// Whether more of a job of this size can be booked than before, less is booked in all, or what is left is
/// more level.
fn is_leveller(after: &Left, before: &Left, (debt, size): (Amounts, Amounts)) -> bool {
    let judge = |of: fn(Amounts) -> u64| {
        let usable = |left: &Left| {
            let usable = left.values().map(|left| of(left.minus(debt)).min(of(size)));
            usable.map(u128::from).sum::<u128>()
        };
        let all = |left: &Left| left.values().map(|left| u128::from(of(*left))).sum::<u128>();
        let gap = |left: &Left| {
            let amounts = || left.values().map(|left| of(*left));
            amounts().max().unwrap_or(0) - amounts().min().unwrap_or(0)
        };
        let is_worse = usable(after) < usable(before);
        let is_better =
            usable(after) > usable(before) || all(after) > all(before) || gap(after) < gap(before);
        (is_better, is_worse)
    };
    let amounts = Amounts::EACH.map(judge);
    amounts.iter().any(|(is_better, _)| *is_better) && amounts.iter().all(|(_, is_worse)| !is_worse)
}

#[cfg(test)]
mod tests;
