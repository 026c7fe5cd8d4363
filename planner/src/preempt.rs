//! Stops of VMs that are preemptible, so that one with a higher priority fits.
//!
//! Decides on which host, and who is stopped there: as little as is needed, least important first. It is looked for
//! when nothing else leads to the start: no host has room, no move of others makes it, none is woken. Who stops ends
//! by strictly less than who starts, so no chain of stops leads in a circle.
//!
//! As in Kubernetes' scheduler (its preemption): all who may be stopped are taken away, and those that are not needed
//! are spared again, most important first; of several hosts the one whose most important victim is least so.

use std::cmp::Reverse;
use std::fmt;

use protocol::hugepages::Pages;
use protocol::id::{HostId, JobId};
use protocol::job::{JobSpec, JobState};
use protocol::refusal::Refusal;
use protocol::view::HostRow;
use protocol::vm::Priority;
use serde::{Deserialize, Serialize};

use crate::level::Score;
use crate::load::{Lack, Load};
use crate::search::{Node, considered, start_on, weigh};
use crate::state::State;
use crate::steps::{Blocker, Step, StopVm};

/// A stop of one job so that another, which has a higher priority, fits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Preemption {
    /// What is stopped.
    pub job: JobId,
    /// Where.
    pub host: HostId,
    /// What fits there then.
    pub lets: JobId,
}

impl fmt::Display for Preemption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stops {} on {} {}", self.job, self.host.short(), self.reason())
    }
}

impl Preemption {
    /// What it is good for, in words.
    #[must_use]
    pub fn reason(&self) -> String {
        format!("so that {}, which has a higher priority, fits there", self.lets)
    }
}

/// Somebody who may be stopped for another.
struct Victim {
    job: JobId,
    priority: Priority,
    frees: Load,
}

/// What tells hosts apart on which room can be made: what a start there breaks, the most important victim, how many
/// there are, how much memory that frees, how well the job is placed, the seed's lot.
type Key = (Score, Priority, usize, u64, u32, u64);

/// The best way to start a job in the room of others, as stops and the start; `is_reached` says whether that is what
/// was wanted.
pub(crate) fn preempt<'a>(
    start: &State<'a>,
    job: &JobId,
    spec: &JobSpec,
    on: Option<&HostId>,
    is_reached: impl Fn(&Node<'a>) -> bool,
) -> Option<Node<'a>> {
    let ways = considered(start, on).into_iter().filter_map(|(_, row)| {
        let (key, node) = on_host(start, job, spec, row)?;
        is_reached(&node).then_some((key, node))
    });
    ways.min_by_key(|(key, _)| *key).map(|(_, node)| node)
}

fn on_host<'a>(
    start: &State<'a>,
    job: &JobId,
    spec: &JobSpec,
    row: &'a HostRow,
) -> Option<(Key, Node<'a>)> {
    let host = &row.host.id;
    let candidates = victims(start, row, spec.priority());
    if candidates.is_empty() {
        return None;
    }
    let begin = start_on(start, job, host, spec);
    let Err(Blocker::Admission { no }) = begin.check(start) else { return None };
    let lack = Lack::of(&no)?;
    let asked = match no {
        Refusal::NoCapacity { asked, .. } => asked,
        _ => begin.reservation(start)?.resources,
    };
    let dedicated_cpus = spec.dedicated_cpus();
    let asked = Load { resources: asked, pages: spec.pages(), dedicated_cpus };
    let room = start.room_for(row, job);
    let taken = Load {
        resources: room.allocation,
        pages: room.pages,
        dedicated_cpus: room.dedicated_cpus.promised,
    };
    let all = Load {
        resources: room.capacity,
        pages: Pages::for_jobs(room.hugepages),
        dedicated_cpus: room.dedicated_cpus.total,
    };
    // Of a host that others are about to fill beyond what it has, more than nothing is lacking.
    let lacking = taken.plus(asked).minus(all).max(lack.load);
    // A stopped VM keeps its disks.
    if !asked.fits_in(all) || lacking.resources.disk_bytes > 0 {
        return None;
    }
    let victims = enough(candidates, lacking)?;
    let worst = victims.iter().map(|victim| victim.priority).max()?;
    let freed = victims.iter().map(|victim| victim.frees.memory_bytes()).sum();
    let count = victims.len();
    let stops = victims.into_iter().map(|victim| stop(victim.job, host));
    let node = Node::replay(start, &stops.collect::<Vec<_>>())?;
    let begin = start_on(&node.state, job, host, spec);
    begin.check(&node.state).ok()?;
    let candidate = weigh(&node.state, begin, 0);
    let node = node.step(candidate.step);
    Some(((node.added, worst, count, freed, candidate.rank, candidate.lot), node))
}

fn stop(job: JobId, host: &HostId) -> Step {
    Step::StopVm(StopVm { job, host: host.clone() })
}

/// Who may be stopped on a host for somebody of this priority: what is on its way, or about to be, is left alone.
fn victims(state: &State<'_>, row: &HostRow, priority: Priority) -> Vec<Victim> {
    let host = &row.host.id;
    // Most hosts have nobody of the kind, which is to cost nothing.
    if !row.jobs.values().any(|job| job.spec.is_preemptible()) {
        return vec![];
    }
    let is_moving = |job: &JobId| state.input().reservations.iter().any(|held| held.job == *job);
    let alive = state.jobs_alive(row).into_iter().filter(|job| !is_moving(job));
    let placed = alive.filter_map(|job| {
        let placed = state.placed(&job, host)?;
        let is_at_rest = matches!(placed.state, JobState::Running | JobState::Paused);
        let may = placed.spec.is_preemptible() && placed.spec.priority() < priority && is_at_rest;
        may.then_some((job, placed))
    });
    let victim = placed.map(|(job, placed)| {
        let frees = Load::placed(&placed).without_disks();
        Victim { job, priority: placed.spec.priority(), frees }
    });
    victim.collect()
}

/// Those of them that are needed for so much room; `None` where all of them are not enough.
fn enough(mut all: Vec<Victim>, lacking: Load) -> Option<Vec<Victim>> {
    let sum = |all: &[Victim]| all.iter().fold(Load::ZERO, |sum, v| sum.plus(v.frees));
    if !lacking.fits_in(sum(&all)) {
        return None;
    }
    // The most important is spared first, and of as important ones the largest.
    all.sort_by_key(|v| {
        (Reverse((v.priority, v.frees.memory_bytes(), v.frees.vcpus())), v.job.clone())
    });
    let mut i = 0;
    while i < all.len() {
        let spared = all.remove(i);
        if !lacking.fits_in(sum(&all)) {
            all.insert(i, spared);
            i += 1;
        }
    }
    all.reverse();
    Some(all)
}

/// The stops among a start's steps: whose room it takes.
pub(crate) fn preemptions_of(own: &[&JobId], steps: &[Step]) -> Vec<Preemption> {
    let Some(Step::StartVm(start)) = steps.last() else { return vec![] };
    let of_step = |step: &Step| match step {
        Step::StopVm(stop) if stop.host == start.host && !own.contains(&&stop.job) => {
            let (job, host, lets) = (stop.job.clone(), stop.host.clone(), start.job.clone());
            Some(Preemption { job, host, lets })
        }
        _ => None,
    };
    steps.iter().filter_map(of_step).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::resources::Resources;

    use super::*;

    fn victim((n, (priority, vcpus, gib)): (usize, (u8, u32, u64))) -> Victim {
        Victim {
            job: format!("v{n}").parse().unwrap(),
            priority: Priority::try_from(priority).unwrap(),
            frees: Resources { vcpus, memory_bytes: gib << 30, disk_bytes: 0 }.into(),
        }
    }

    fn names(sizes: &[(u8, u32, u64)], vcpus: u32, gib: u64) -> Option<Vec<String>> {
        let lacking = Resources { vcpus, memory_bytes: gib << 30, disk_bytes: 0 }.into();
        let all = sizes.iter().copied().enumerate().map(victim).collect();
        let found = enough(all, lacking)?;
        Some(found.into_iter().map(|victim| victim.job.to_string()).collect())
    }

    #[test]
    fn the_least_important_are_stopped_and_no_more_than_are_needed() {
        let all = [(10, 1, 4), (20, 1, 4), (30, 1, 4)];
        assert_eq!(names(&all, 0, 3), Some(vec!["v0".to_owned()]));
        assert_eq!(names(&all, 0, 5), Some(vec!["v0".to_owned(), "v1".to_owned()]));
        assert_eq!(names(&all, 3, 1).map(|v| v.len()), Some(3), "CPUs count as memory does");
        assert_eq!(names(&all, 0, 13), None);
        // A large one of more importance goes only when the small ones of less do not do.
        assert_eq!(names(&[(10, 1, 1), (20, 1, 8)], 0, 8), Some(vec!["v1".to_owned()]));
        assert_eq!(names(&[(10, 1, 1), (10, 1, 8), (10, 1, 2)], 0, 2), Some(vec!["v2".to_owned()]));
    }

    proptest! {
        #[test]
        fn who_is_stopped_is_enough_and_nobody_of_them_could_be_spared(
            sizes in prop::collection::vec((1..=100_u8, 0..4_u32, 0..8_u64), 0..8),
            (vcpus, gib) in (0..8_u32, 0..16_u64),
        ) {
            let lacking = Load::from(Resources { vcpus, memory_bytes: gib << 30, disk_bytes: 0 });
            let all: Vec<Victim> = sizes.into_iter().enumerate().map(victim).collect();
            let sum = |all: &mut dyn Iterator<Item = &Victim>| {
                all.fold(Load::ZERO, |sum, victim| sum.plus(victim.frees))
            };
            let may = lacking.fits_in(sum(&mut all.iter()));
            let found = enough(all, lacking);
            prop_assert_eq!(found.is_some(), may);
            for (i, _) in found.iter().flatten().enumerate() {
                let found = found.as_ref().unwrap();
                let mut others = found.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, v)| v);
                prop_assert!(!lacking.fits_in(sum(&mut others)), "one could be spared");
            }
        }
    }
}
