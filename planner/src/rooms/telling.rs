//! Which marks tell hosts apart: of what many hosts have and many have not, as much as leaves few kinds of hosts.
//!
//! Decides nothing about what is found, only how soon: a host of a kind has all marks of the kind, and a host
//! that has what is asked for is not looked for among those that have not.

use std::cmp::Reverse;

use super::Room;
use crate::marks::Marks;

/// Kinds of hosts: each look-up looks at every one.
pub(super) const KINDS_MAX: usize = 64;
/// Hosts that are looked at for it.
const SAMPLE: usize = 4096;
/// Marks that less than one host in so many has, or has not, tell few hosts apart.
const RARE: usize = 32;

/// The marks that tell these hosts apart.
pub(super) fn telling(rooms: &[Room]) -> Marks {
    let step = rooms.len().div_ceil(SAMPLE).max(1);
    let marks = rooms.iter().step_by(step).map(|room| room.marks);
    let sample: Vec<Marks> = marks.filter(|marks| !marks.is_none()).collect();
    let mut marks: Vec<(usize, Marks)> = Marks::each()
        .map(|mark| {
            let having = sample.iter().filter(|marks| marks.have(mark)).count();
            (having.min(sample.len() - having), mark)
        })
        .filter(|(fewer, _)| *fewer > 0 && fewer * RARE >= sample.len())
        .collect();
    // The most even first, so that few of them tell most.
    marks.sort_by_key(|(fewer, _)| Reverse(*fewer));
    let mut telling = Marks::NONE;
    for (_, mark) in marks {
        let more = telling.and(mark);
        if has_few_kinds(&sample, more) {
            telling = more;
        }
    }
    telling
}

fn has_few_kinds(sample: &[Marks], telling: Marks) -> bool {
    let mut kinds: Vec<Marks> = Vec::with_capacity(KINDS_MAX);
    sample.iter().all(|marks| {
        let kind = marks.only(telling);
        let is_known = kinds.contains(&kind);
        if !is_known {
            kinds.push(kind);
        }
        kinds.len() <= KINDS_MAX
    })
}
