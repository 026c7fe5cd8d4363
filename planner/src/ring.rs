//! VMs that would each have room if the next one were not where it is: two that hold each other's places, or
//! three.
//!
//! Decides what a report says of them: moves alone can't help while none of them has room to wait anywhere, so the least that
//! would let one wait, or the moves, where somebody only has not allowed them.

use std::fmt::Write as _;

use protocol::id::{HostId, JobId};
use protocol::resources::{Bytes, Resources};

use crate::evictions::{Leaving, leavers};
use crate::level::Score;
use crate::load::{Lack, Load};
use crate::report::{host_words, load_words};
use crate::search::{ROOM_HOSTS_MAX, added_by, move_to};
use crate::state::State;
use crate::steps::Blocker;

/// Places that are looked at for the second of three: with a hundred hosts or so. It is a hint in a report.
const PLACES_MAX: usize = 1_000;

/// Each with the host where it runs: it would have room where the next one is, the last one where the first is.
struct Ring(Vec<(JobId, HostId)>);

/// The least that would let a job change places with whoever is in its way on a host: how much memory lacks for that,
/// and what would help, in words. `None` where nobody's leaving lets all of them turn.
pub(crate) fn help_by_turning(
    state: &State<'_>,
    job: &JobId,
    from: &HostId,
    to: &HostId,
) -> Option<(u64, String)> {
    let rings = rings_of(state, job, from, to);
    rings.iter().filter_map(|ring| ring.help(state)).min_by_key(|(bytes, _)| *bytes)
}

/// The rings that a job is in which lacks room on the host where it should be, small ones first.
fn rings_of(state: &State<'_>, job: &JobId, from: &HostId, to: &HostId) -> Vec<Ring> {
    let mut rings = Vec::new();
    let step = move_to(state, job, from, to);
    let Err(Blocker::Admission { no }) = step.check(state) else { return rings };
    let Some(lack) = Lack::of(&no).filter(|lack| lack.may_be) else { return rings };
    let first = (job.clone(), from.clone());
    let mut without_first = state.clone();
    without_first.place(job, from, None);
    let mut seconds = Vec::new();
    for (second, without) in each_leaver(state, job, to, lack.load) {
        if !may_go(&without, job, from, to) {
            continue;
        }
        if may_go(&without_first, &second, to, from) {
            rings.push(Ring(vec![first.clone(), (second.clone(), to.clone())]));
        }
        seconds.push(second);
    }
    if seconds.len() * state.input().view.len() > PLACES_MAX {
        seconds.clear();
    }
    for second in seconds {
        let mut near: Vec<(u64, &HostId, Load)> = Vec::new();
        for (host, _) in state.hosts().filter(|(host, _)| *host != from && *host != to) {
            let step = move_to(state, &second, to, host);
            if let Err(Blocker::Admission { no }) = step.check(state)
                && let Some(lack) = Lack::of(&no).filter(|lack| lack.may_be)
                && added_by(state, &step) <= Score::default()
            {
                near.push((lack.shortfall, host, lack.load));
            }
        }
        near.sort_by_key(|(shortfall, host, _)| (*shortfall, *host));
        for (_, at, lacking) in near.into_iter().take(ROOM_HOSTS_MAX) {
            for (third, without) in each_leaver(state, &second, at, lacking) {
                let is_ring = third != *job
                    && may_go(&without, &second, to, at)
                    && may_go(&without_first, &third, at, from);
                if is_ring {
                    let rest = [(second.clone(), to.clone()), (third, at.clone())];
                    rings.push(Ring([first.clone()].into_iter().chain(rest).collect()));
                }
            }
        }
    }
    rings
}

/// VMs of a host that one waits for, each with the state as it would be without it.
fn each_leaver<'a>(
    state: &State<'a>,
    waiting: &JobId,
    host: &HostId,
    lacking: Load,
) -> Vec<(JobId, State<'a>)> {
    let Some(row) = state.host(host) else { return vec![] };
    let leavers = leavers(state, &Leaving { row, room: Some((waiting, lacking)) }).into_iter();
    let without = leavers.map(|(job, ..)| {
        let mut without = state.clone();
        without.place(&job, host, None);
        (job, without)
    });
    without.collect()
}

fn may_go(state: &State<'_>, job: &JobId, from: &HostId, to: &HostId) -> bool {
    let step = move_to(state, job, from, to);
    step.check(state).is_ok() && added_by(state, &step) <= Score::default()
}

impl Ring {
    /// How much memory lacks for it to turn, and what would help, in words.
    fn help(&self, state: &State<'_>) -> Option<(u64, String)> {
        let names: Vec<&str> = self.0.iter().map(|(job, _)| job.as_str()).collect();
        let (last, others) = names.split_last()?;
        let turn = format!("while {} and {last} change places", others.join(", "));
        let is_in_it = |host: &HostId| self.0.iter().any(|(_, at)| at == host);
        let mut best: Option<(u64, u32, u64, &HostId, usize, Load)> = None;
        for (n, (job, from)) in self.0.iter().enumerate() {
            for (host, _) in state.hosts().filter(|(host, _)| !is_in_it(host)) {
                let step = move_to(state, job, from, host);
                let lack = match step.check(state) {
                    Ok(()) => Load::ZERO,
                    Err(Blocker::Admission { no }) => match Lack::of(&no) {
                        Some(lack) if lack.may_be => lack.load,
                        _ => continue,
                    },
                    Err(_) => continue,
                };
                if added_by(state, &step) > Score::default() {
                    continue;
                }
                let Resources { vcpus, disk_bytes, .. } = lack.resources;
                let found = (lack.memory_bytes(), vcpus, disk_bytes, host, n, lack);
                let key =
                    |(memory, vcpus, disk, host, n, _): &(u64, u32, u64, &HostId, usize, Load)| {
                        (*memory, *vcpus, *disk, (*host).clone(), *n)
                    };
                if best.as_ref().is_none_or(|best| key(&found) < key(best)) {
                    best = Some(found);
                }
            }
        }
        match best {
            Some((.., host, n, Load::ZERO)) => Some((0, self.turned_by(state, n, host))),
            Some((memory, .., host, n, lack)) => {
                let lacking = load_words(lack);
                let place = host_words(state, host);
                let job = &self.0[n].0;
                Some((
                    memory,
                    format!("free {lacking} on {place}, so that {job} can wait there {turn}"),
                ))
            }
            None => {
                let size =
                    |(job, host): &(JobId, HostId)| Some(Load::placed(&state.placed(job, host)?));
                let sizes = self.0.iter().filter_map(|member| Some((member, size(member)?)));
                let ((job, _), size) = sizes.min_by_key(|(_, size)| size.memory_bytes())?;
                let room = Bytes(size.memory_bytes());
                let words =
                    format!("another host with {room} of memory free, where {job} can wait {turn}");
                Some((room.0, words))
            }
        }
    }

    /// The moves, with one of them waiting on a host meanwhile.
    fn turned_by(&self, state: &State<'_>, waiting: usize, aside: &HostId) -> String {
        let count = self.0.len();
        let (job, from) = &self.0[waiting];
        let mut words = format!("{}", move_to(state, job, from, aside));
        for n in 1..count {
            // Whoever goes where the one before it has left.
            let (job, from) = &self.0[(waiting + count - n) % count];
            let to = &self.0[(waiting + count - n + 1) % count].1;
            let _ = write!(words, ", then {}", move_to(state, job, from, to));
        }
        let home = &self.0[(waiting + 1) % count].1;
        let _ = write!(words, ", then {}", move_to(state, job, aside, home));
        words
    }
}
