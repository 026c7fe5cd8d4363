//! What of a set contradicts another one that is kept.
//!
//! Decides what is refused of those who put a set here. One that is learnt from another scheduler is kept as it
//! is: refused here and kept there it would be two truths. Then both are told of as they stand.

use std::collections::BTreeMap;

use planner::{StartsAfter, circle, circle_words};
use protocol::id::{JobId, SetName};

use super::Upkeep;
use super::set::{Item, List};

/// Why a set cannot be kept beside another one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Clash {
    /// Both say that a VM runs, and one of them as one of a group.
    #[error(
        "expectations {set} say that {job} runs, and one of the two says so of a group: a VM is of one group, or \
         of none; name the group otherwise, or change {set} first"
    )]
    SameVm {
        /// The VM.
        job: JobId,
        /// The other set.
        set: SetName,
    },
    /// With all others, VMs would wait for each other.
    #[error("with what other sets say, {}", circle_words(.jobs))]
    Circle {
        /// Each waits for the next, and the last for the first.
        jobs: Vec<JobId>,
    },
}

impl Upkeep {
    /// Why a list cannot be kept under this name beside the others.
    pub(crate) fn clash(&self, name: &SetName, list: &List) -> Option<Clash> {
        let ours: BTreeMap<&JobId, bool> =
            list.running().map(|(job, _, is_group)| (job, is_group)).collect();
        let others = self.sets.iter().filter(|(other, _)| *other != name);
        for (other, set) in others.clone() {
            for entry in &set.entries {
                let is_group = entry.group.is_some();
                for (_, item) in set.parts(other, entry) {
                    let Item::Runs { job, .. } = item else { continue };
                    if ours.get(job).is_some_and(|was_group| is_group || *was_group) {
                        return Some(Clash::SameVm { job: job.clone(), set: other.clone() });
                    }
                }
            }
        }
        let mut orders: Vec<&StartsAfter> = others
            .flat_map(|(_, set)| &set.items)
            .filter_map(|item| match item {
                Item::Order(order) => Some(&order.order),
                _ => None,
            })
            .collect();
        // A circle of others is no reason against this one.
        if list.orders().next().is_none() || circle(orders.iter().copied()).is_some() {
            return None;
        }
        orders.extend(list.orders());
        circle(orders).map(|jobs| Clash::Circle { jobs })
    }
}
