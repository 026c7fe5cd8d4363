//! How much each arbiter is asked to book for a job: its debits, spread so that what is left of the
//! tenant's quota can all be used later (rules R6, R9).
//!
//! A ticket needs k times the job's size in all, and no arbiter books more than the size. If each time
//! the same arbiters were asked, their parts would be used up while the others' lie idle; k/n of the
//! quota is what could be used. So the debits are poured from the top: the arbiters are left with as
//! much as each other, as far as that goes. As long as what they have left differs by no more than
//! one, whatever fits into the quota fits into their parts.
//!
//! Each amount (CPUs, memory, disk, and VMs where they are limited) is spread for itself.

use std::collections::BTreeMap;

use protocol::amounts::Amounts;
use protocol::trust::Committee;

/// What one arbiter can do for one job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ladle {
    /// What it could book for the job in all.
    pub(crate) left: Amounts,
    /// What it has booked for the job already: this much costs nothing.
    pub(crate) has: Amounts,
    /// What it has signed for this very offer: it is not asked for less.
    pub(crate) signed: Amounts,
}

/// The debits with which each of the committees books k times the size, by slot; `None` when there
/// are none. Arbiters without a ladle are asked for nothing.
#[must_use]
pub(crate) fn spread(
    committees: &[Committee<'_>],
    size: Amounts,
    ladles: &BTreeMap<u32, Ladle>,
) -> Option<BTreeMap<u32, Amounts>> {
    let mut debits: BTreeMap<u32, Amounts> =
        ladles.iter().map(|(slot, ladle)| (*slot, ladle.signed)).collect();
    for committee in committees {
        let slots: Vec<u32> = ladles.keys().copied().filter(|slot| committee.has(*slot)).collect();
        let amount = |of: &fn(Amounts) -> u64| {
            let cups: Vec<Cup> = slots
                .iter()
                .map(|slot| {
                    let Ladle { left, has, .. } = ladles[slot];
                    Cup::new(of(size), of(left), of(has), of(debits[slot]))
                })
                .collect();
            pour(&cups, u128::from(of(size)) * u128::from(committee.k))
        };
        let each: Vec<Vec<u64>> = Amounts::EACH.iter().map(amount).collect::<Option<_>>()?;
        for (i, slot) in slots.into_iter().enumerate() {
            let debit = Amounts::of_each(std::array::from_fn(|amount| each[amount][i]));
            debits.insert(slot, debit);
        }
    }
    Some(debits)
}

/// One amount at one arbiter.
#[derive(Debug, Clone, Copy)]
struct Cup {
    /// What is in it.
    full: u64,
    /// At least so much is taken.
    least: u64,
    /// So much costs nothing.
    free: u64,
    /// At most so much can be taken.
    most: u64,
}

impl Cup {
    fn new(size: u64, left: u64, has: u64, signed: u64) -> Self {
        let free = has.min(size).max(signed);
        let most = left.min(size).max(free);
        Self { full: left.max(most), least: signed, free, most }
    }
}

/// Takes a sum out of cups so that they are left as level as they can be; first what costs nothing.
fn pour(cups: &[Cup], sum: u128) -> Option<Vec<u64>> {
    let is_free = total(cups.iter().map(|cup| cup.free)) >= sum;
    let bounds = |cup: &Cup| if is_free { (cup.least, cup.free) } else { (cup.free, cup.most) };
    let taken = |level: u64| {
        let of = |cup: &Cup| {
            let (least, most) = bounds(cup);
            cup.full.saturating_sub(level).clamp(least, most)
        };
        cups.iter().map(of).collect::<Vec<u64>>()
    };
    if total(taken(0).into_iter()) < sum {
        return None;
    }
    // The highest level at which enough has been taken.
    let (mut level, mut above) = (0, cups.iter().map(|cup| cup.full).max().unwrap_or(0));
    if total(taken(above).into_iter()) >= sum {
        level = above;
    }
    while above - level > 1 {
        let middle = level + (above - level) / 2;
        match total(taken(middle).into_iter()) >= sum {
            true => level = middle,
            false => above = middle,
        }
    }
    let mut amounts = taken(level);
    let mut excess = total(amounts.iter().copied()) - sum.min(total(amounts.iter().copied()));
    // Amounts are whole: some give one less.
    for (amount, less) in amounts.iter_mut().zip(taken(level.saturating_add(1))) {
        if excess > 0 && less < *amount {
            *amount -= 1;
            excess -= 1;
        }
    }
    Some(amounts)
}

fn total(amounts: impl Iterator<Item = u64>) -> u128 {
    amounts.map(u128::from).sum()
}

/// The largest job that could be booked: what a refusal says would have worked.
#[must_use]
pub(crate) fn largest(
    committees: &[Committee<'_>],
    ladles: &BTreeMap<u32, Ladle>,
    at_most: Amounts,
) -> Amounts {
    let can_be = |of: fn(Amounts) -> u64| {
        let most = of(at_most);
        let fits = |size: u64| {
            committees.iter().all(|committee| {
                let its = ladles.iter().filter(|(slot, _)| committee.has(**slot));
                let sum = total(its.map(|(_, ladle)| {
                    let Ladle { left, has, signed } = *ladle;
                    Cup::new(size, of(left), of(has), of(signed)).most
                }));
                sum >= u128::from(size) * u128::from(committee.k)
            })
        };
        let (mut fit, mut too_much) = (0, most);
        if fits(most) {
            return most;
        }
        while too_much - fit > 1 {
            let middle = fit + (too_much - fit) / 2;
            match fits(middle) {
                true => fit = middle,
                false => too_much = middle,
            }
        }
        fit
    };
    Amounts::of_each(Amounts::EACH.map(can_be))
}

#[cfg(test)]
mod tests;
