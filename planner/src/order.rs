//! The order of starts: a VM is started only while those run that it is to start after.
//!
//! Decides who waits for whom, and which orders nobody could follow. It says something of starts and of
//! nothing else: what runs goes on when one that it started after has ended. An order binds what matters
//! no more than itself, as one that only should be is no reason to leave out what must be.

use std::collections::{BTreeMap, BTreeSet};

use protocol::id::{HostId, JobId};
use protocol::job::JobState;
use protocol::view::Freshness;
use serde::{Deserialize, Serialize};

use crate::level::Level;
use crate::rules::home;
use crate::state::State;

/// VMs on one side of one order: a list that a person can still read.
pub const ORDER_MAX: usize = 256;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct StartsAfter {
    /// Who waits.
    pub jobs: Vec<JobId>,
    /// For all of these.
    pub after: Vec<JobId>,
}

#[derive(Debug, Clone, Deserialize)]
struct Written {
    jobs: Vec<JobId>,
    after: Vec<JobId>,
}

impl TryFrom<Written> for StartsAfter {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { jobs, after } = written;
        for (list, name) in [(&jobs, "jobs"), (&after, "after")] {
            match list.len() {
                0 => return Err(format!("`{name}` names nobody")),
                1..=ORDER_MAX => {}
                more => {
                    return Err(format!(
                        "`{name}` names {more} VMs, and at most {ORDER_MAX} may be"
                    ));
                }
            }
        }
        Ok(Self { jobs, after })
    }
}

/// An order and how much it matters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// How much.
    #[serde(default)]
    pub level: Level,
    /// Who waits for whom.
    #[serde(flatten)]
    pub order: StartsAfter,
}

impl Order {
    /// True when it holds back a start of this job that matters so much.
    #[must_use]
    pub fn binds(&self, job: &JobId, level: Level) -> bool {
        self.level <= level && self.order.jobs.contains(job)
    }
}

impl std::fmt::Display for StartsAfter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |jobs: &[JobId]| jobs.iter().map(JobId::as_str).collect::<Vec<_>>().join(", ");
        let verb = if self.jobs.len() == 1 { "starts" } else { "start" };
        write!(f, "{} {verb} after {}", list(&self.jobs), list(&self.after))
    }
}

/// For whom a job waits that is alive nowhere and would be started, and where that one is, if anywhere.
pub(crate) fn awaited(
    state: &State<'_>,
    job: &JobId,
    level: Level,
) -> Option<(JobId, Option<(HostId, JobState)>)> {
    let orders = &state.input().orders;
    if orders.is_empty() || home(state, job).is_some() {
        return None;
    }
    let binding = orders.iter().filter(|order| order.binds(job, level));
    let mut after = binding.flat_map(|order| &order.order.after);
    let other = after.find(|other| !is_up(state, other))?;
    let rows = state.placements(other);
    let best = rows.iter().max_by_key(|(_, placed)| (!placed.state.is_ended(), placed.revision));
    Some((other.clone(), best.map(|(host, placed)| (host.clone(), placed.state))))
}

fn is_up(state: &State<'_>, job: &JobId) -> bool {
    let rows = state.placements(job);
    rows.iter()
        .any(|(host, placed)| runs(placed.state) && state.heard(host).freshness == Freshness::Fresh)
}

/// True for what others may start after: its guest runs, wherever it goes.
#[must_use]
pub fn runs(state: JobState) -> bool {
    match state {
        JobState::Running | JobState::Paused | JobState::MigratingOut => true,
        JobState::Accepted
        | JobState::Starting
        | JobState::MigratingIn
        | JobState::Stopping
        | JobState::Stopped
        | JobState::Failed
        | JobState::Crashed => false,
    }
}

/// VMs each of which waits for the next, and the last for the first: none would ever start.
#[must_use]
pub fn circle<'a>(orders: impl IntoIterator<Item = &'a StartsAfter>) -> Option<Vec<JobId>> {
    let orders: Vec<&StartsAfter> = orders.into_iter().collect();
    let mut binding: BTreeMap<&JobId, Vec<usize>> = BTreeMap::new();
    for (n, order) in orders.iter().enumerate() {
        for job in &order.jobs {
            binding.entry(job).or_default().push(n);
        }
    }
    // Who is known to wait for nobody in a circle, and orders that name only such: each is gone through once.
    let mut free: BTreeSet<&JobId> = BTreeSet::new();
    let mut harmless: BTreeSet<usize> = BTreeSet::new();
    for first in binding.keys().copied() {
        // The way here: each with the place among those it waits for that is looked at next.
        let mut way: Vec<(&JobId, usize, usize)> = vec![(first, 0, 0)];
        let mut on_way = BTreeSet::from([first]);
        while let Some((job, nth, place)) = way.last_mut() {
            let Some(n) = binding.get(*job).and_then(|own| own.get(*nth)).copied() else {
                free.insert(*job);
                on_way.remove(*job);
                way.pop();
                continue;
            };
            let next = match harmless.contains(&n) {
                true => None,
                false => orders[n].after.get(*place),
            };
            let Some(next) = next else {
                harmless.insert(n);
                (*nth, *place) = (*nth + 1, 0);
                continue;
            };
            *place += 1;
            if on_way.contains(next) {
                let jobs = way.iter().map(|(job, ..)| *job);
                return Some(jobs.skip_while(|job| *job != next).cloned().collect());
            }
            if !free.contains(next) {
                on_way.insert(next);
                way.push((next, 0, 0));
            }
        }
    }
    None
}

/// A circle in words.
#[must_use]
pub fn circle_words(jobs: &[JobId]) -> String {
    let Some((first, others)) = jobs.split_first() else { return String::new() };
    let next = others.iter().chain([first]).map(|job| format!("starts after {job}"));
    format!("{first} {}: none of them would ever start", next.collect::<Vec<_>>().join(", which "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: usize) -> JobId {
        JobId::new(format!("vm-{n}")).unwrap()
    }

    fn order(jobs: &[usize], after: &[usize]) -> StartsAfter {
        let list = |ids: &[usize]| ids.iter().map(|n| id(*n)).collect();
        StartsAfter { jobs: list(jobs), after: list(after) }
    }

    #[test]
    fn a_circle_is_named_as_one_goes_round() {
        assert_eq!(circle(&[order(&[1], &[2]), order(&[2], &[3]), order(&[4], &[2, 3])]), None);
        let found = circle(&[order(&[1], &[2]), order(&[2], &[3]), order(&[3], &[4, 2])]).unwrap();
        assert_eq!(found, [id(2), id(3)], "vm-1 only leads there");
        assert_eq!(
            circle_words(&found),
            "vm-2 starts after vm-3, which starts after vm-2: none of them would ever start"
        );
        let alone = circle(&[order(&[1, 2], &[2])]).unwrap();
        assert!(circle_words(&alone).starts_with("vm-2 starts after vm-2:"));
    }

    #[test]
    fn an_order_names_somebody_on_both_sides() {
        let read = |value| serde_json::from_value::<StartsAfter>(value).map_err(|e| e.to_string());
        let said = read(serde_json::json!({ "jobs": ["a"], "after": [] })).unwrap_err();
        assert!(said.contains("`after` names nobody"), "{said}");
        let many: Vec<JobId> = (0..=ORDER_MAX).map(id).collect();
        let said = read(serde_json::json!({ "jobs": many, "after": ["a"] })).unwrap_err();
        assert!(said.contains("257 VMs"), "{said}");
        let both = read(serde_json::json!({ "jobs": ["a", "b"], "after": ["c"] })).unwrap();
        assert_eq!(both.to_string(), "a, b start after c");
    }

    /// Whoever waits for nobody that is left may start; a circle is what is never left.
    fn is_stuck(orders: &[StartsAfter]) -> bool {
        let mut waiting: BTreeSet<&JobId> = orders.iter().flat_map(|order| &order.jobs).collect();
        loop {
            let is_free = |job: &&JobId| {
                let mut own = orders.iter().filter(|order| order.jobs.contains(*job));
                own.all(|order| !order.after.iter().any(|other| waiting.contains(other)))
            };
            let free: BTreeSet<&JobId> = waiting.iter().copied().filter(is_free).collect();
            if free.is_empty() {
                return !waiting.is_empty();
            }
            waiting.retain(|job| !free.contains(job));
        }
    }

    proptest! {
        #[test]
        fn a_circle_is_found_where_somebody_would_never_start(
            lists in prop::collection::vec(
                (prop::collection::vec(0..7_usize, 1..3), prop::collection::vec(0..7_usize, 1..3)),
                0..7,
            )
        ) {
            let orders: Vec<_> = lists.iter().map(|(jobs, after)| order(jobs, after)).collect();
            let found = circle(&orders);
            prop_assert_eq!(found.is_some(), is_stuck(&orders));
            let jobs = found.unwrap_or_default();
            for (job, next) in jobs.iter().zip(jobs.iter().cycle().skip(1)) {
                let mut own = orders.iter().filter(|order| order.jobs.contains(job));
                prop_assert!(own.any(|order| order.after.contains(next)), "{} and {}", job, next);
            }
        }
    }
}
