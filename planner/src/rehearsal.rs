//! What the loss of each host would need, kept up to date while hosts change.
//!
//! Decides for each host whether its VMs, largest first, each find room on another, by admission's own
//! arithmetic: first on the hosts that come after it in the order of ids, the last being followed by the first;
//! and if that leaves some without a place, once more with each where it fits most tightly. It asks whether there is
//! *room*, not whether data would survive, and heeds no rules of the jobs.
//!
//! ```text
//!    h1   h2   h3   h4   h5 …        h2's VMs are looked for a place on h3, h4, …
//!         └─ lost ─▶ │    │          a change of h4 is nothing to h1 if h1's all fit on h2 and h3
//! ```
//!
//! So each host's rehearsal has read only so many neighbours, and is made anew only when one of these has changed:
//! where there is room that is a handful, whatever the size of the cluster. Hosts that cannot be lost have
//! read all others.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;

use protocol::id::{HostId, JobId};
use protocol::job::JobState;
use protocol::resources::Resources;
use protocol::view::{Freshness, HostRow, View};
use serde::{Deserialize, Serialize};

use crate::intent::Intent;
use crate::register::intent_of;
use crate::report::room_words;
use crate::state::State;

/// Hosts that are passed over together when none of them has room enough.
const BLOCK: usize = 32;

/// Hosts and VMs that are named in one sentence; the others are counted.
const NAMED_MAX: usize = 5;

/// What counts of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Part {
    /// False when it is lost or off already.
    is_there: bool,
    /// Room that VMs of others could have; none where nothing new may come.
    free: Resources,
    /// Its VMs that would need a place, largest first. A guest that is leaving has one already.
    vms: Vec<(Resources, JobId)>,
}

/// What the loss of one host would need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The host.
    pub host: HostId,
    /// VMs that would need another place.
    pub vms: u32,
    /// What they need together.
    pub needs: Resources,
    /// Those that would find none, largest first.
    pub stranded: Vec<Stranded>,
}

/// A VM that would find no place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stranded {
    /// The VM.
    pub job: JobId,
    /// What it needs.
    pub needs: Resources,
    /// What is left then on the host that comes nearest.
    pub nearest_free: Resources,
}

/// Every host's loss, as far as it is known.
#[derive(Debug, Clone, Default)]
pub struct Rehearsal {
    /// Hosts in the order of ids.
    hosts: Vec<HostId>,
    parts: Vec<Part>,
    /// The most of everything that is free in each block.
    blocks: Vec<Resources>,
    /// With how many hosts after it each has read.
    losses: Vec<Option<(Loss, usize)>>,
    /// Hosts that have changed since.
    changed: BTreeSet<usize>,
    /// What was followed last.
    view: View,
    heard: Vec<Freshness>,
    rehearsed_count: u64,
}

impl Rehearsal {
    /// The rehearsal of a state of a plan.
    #[must_use]
    pub fn of(state: &State<'_>) -> Self {
        let part = |(host, row): (&HostId, &HostRow)| (host.clone(), part_in(state, row));
        let mut rehearsal = Self::default();
        rehearsal.begin(state.hosts().map(part).collect());
        rehearsal.go();
        rehearsal
    }

    /// Brings it up to a view, at the cost of what has changed.
    pub fn follow(&mut self, view: &View, freshness: impl Fn(&HostId) -> Freshness) {
        let before = std::mem::replace(&mut self.view, view.clone());
        let changed: BTreeSet<&HostId> = view.changed_since(&before).collect();
        let is_other_set =
            changed.iter().any(|host| view.host(host).is_some() != before.host(host).is_some());
        if is_other_set || self.hosts.is_empty() {
            let rows = view.hosts();
            let heard: Vec<Freshness> = rows.map(|(host, _)| freshness(host)).collect();
            let rows = view.hosts().zip(&heard);
            self.begin(rows.map(|((host, row), is)| (host.clone(), part_of(row, *is))).collect());
            self.heard = heard;
        } else {
            for at in 0..self.hosts.len() {
                let host = &self.hosts[at];
                let is = freshness(host);
                if self.heard[at] == is && !changed.contains(host) {
                    continue;
                }
                self.heard[at] = is;
                let part = view.host(host).map(|row| part_of(row, is)).unwrap_or_default();
                self.put(at, part);
            }
        }
        self.go();
    }

    /// What each host's loss would need, in the order of ids; nothing of those that are lost or off.
    pub fn losses(&self) -> impl Iterator<Item = &Loss> {
        self.losses.iter().flatten().map(|(loss, _)| loss)
    }

    /// The hosts that cannot be lost.
    pub fn stranding(&self) -> impl Iterator<Item = &Loss> {
        self.losses().filter(|loss| !loss.stranded.is_empty())
    }

    /// How often the loss of a host was rehearsed so far.
    #[must_use]
    pub fn rehearsed_count(&self) -> u64 {
        self.rehearsed_count
    }

    fn begin(&mut self, parts: Vec<(HostId, Part)>) {
        (self.hosts, self.parts) = parts.into_iter().unzip();
        self.losses = vec![None; self.hosts.len()];
        self.changed = (0..self.hosts.len()).collect();
        self.blocks = self.parts.chunks(BLOCK).map(most_free).collect();
    }

    fn put(&mut self, at: usize, part: Part) {
        if self.parts[at] == part {
            return;
        }
        self.parts[at] = part;
        let block = at / BLOCK;
        let parts = self.parts.chunks(BLOCK).nth(block).unwrap_or_default();
        self.blocks[block] = most_free(parts);
        self.changed.insert(at);
    }

    /// Rehearses what may have become otherwise.
    fn go(&mut self) {
        let changed = std::mem::take(&mut self.changed);
        if changed.is_empty() {
            return;
        }
        let count = self.parts.len();
        let mut taken = vec![Resources::ZERO; count];
        for at in 0..count {
            let reach = self.losses[at].as_ref().map_or(0, |(_, reach)| *reach);
            // The next host after it that has changed, itself included, round the ring.
            let next = changed.range(at..).next().or_else(|| changed.iter().next());
            let is_touched = next.is_some_and(|next| (next + count - at) % count <= reach);
            if is_touched {
                self.losses[at] = self.rehearse(at, &mut taken);
            }
        }
    }

    fn rehearse(&mut self, at: usize, taken: &mut [Resources]) -> Option<(Loss, usize)> {
        if !self.parts[at].is_there {
            return None;
        }
        self.rehearsed_count += 1;
        let part = &self.parts[at];
        let (vms, host) =
            (u32::try_from(part.vms.len()).unwrap_or(u32::MAX), self.hosts[at].clone());
        let needs = part.vms.iter().fold(Resources::ZERO, |sum, (size, _)| sum.plus(*size));
        let mut places = Vec::new();
        let mut reach = 0;
        let mut fits_all = true;
        for (size, _) in &part.vms {
            let Some(steps) = self.first_fit(at, *size, taken) else {
                fits_all = false;
                break;
            };
            let place = (at + steps) % self.parts.len();
            reach = reach.max(steps);
            taken[place] = taken[place].plus(*size);
            places.push(place);
        }
        places.drain(..).for_each(|place| taken[place] = Resources::ZERO);
        let mut stranded = Vec::new();
        if !fits_all {
            reach = self.parts.len() - 1;
            for (size, job) in &part.vms {
                match self.tightest_fit(at, *size, taken) {
                    Ok(place) => {
                        taken[place] = taken[place].plus(*size);
                        places.push(place);
                    }
                    Err(nearest_free) => {
                        stranded.push(Stranded { job: job.clone(), needs: *size, nearest_free });
                    }
                }
            }
            places.drain(..).for_each(|place| taken[place] = Resources::ZERO);
        }
        Some((Loss { host, vms, needs, stranded }, reach))
    }

    /// How many hosts on the first one is that has room.
    fn first_fit(&self, at: usize, size: Resources, taken: &[Resources]) -> Option<usize> {
        let count = self.parts.len();
        let mut steps = 1;
        while steps < count {
            let place = (at + steps) % count;
            if place.is_multiple_of(BLOCK) && !size.fits_in(self.blocks[place / BLOCK]) {
                steps += BLOCK.min(count - place);
                continue;
            }
            if size.fits_in(self.parts[place].free.minus(taken[place])) {
                return Some(steps);
            }
            steps += 1;
        }
        None
    }

    /// The host on which the least is left; the error is what the nearest one has.
    fn tightest_fit(
        &self,
        at: usize,
        size: Resources,
        taken: &[Resources],
    ) -> Result<usize, Resources> {
        let key = |r: Resources| (r.memory_bytes, r.vcpus, r.disk_bytes);
        let free = |place: usize| self.parts[place].free.minus(taken[place]);
        let others = (0..self.parts.len()).filter(|place| *place != at);
        let fitting = others.clone().filter(|place| size.fits_in(free(*place)));
        let tightest = fitting.min_by_key(|place| key(free(*place).minus(size)));
        tightest.ok_or_else(|| {
            let nearest = others.min_by_key(|place| key(size.minus(free(*place))));
            nearest.map(free).unwrap_or_default()
        })
    }
}

impl fmt::Display for Rehearsal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut stranding: Vec<&Loss> = self.stranding().collect();
        stranding.sort_by_key(|loss| (Reverse(loss.stranded.len()), &loss.host));
        for (i, loss) in stranding.iter().take(NAMED_MAX).enumerate() {
            write!(f, "{}{loss}", if i > 0 { "; " } else { "" })?;
        }
        match stranding.len().saturating_sub(NAMED_MAX) {
            0 => Ok(()),
            more => write!(f, "; and {more} hosts more"),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.stranded.iter().take(NAMED_MAX).map(|stranded| stranded.job.as_str());
        let names = names.collect::<Vec<_>>().join(", ");
        write!(f, "{} would strand {} VMs: {names}", self.host.short(), self.stranded.len())?;
        match self.stranded.len().saturating_sub(NAMED_MAX) {
            0 => {}
            more => write!(f, " and {more} more")?,
        }
        let Some(first) = self.stranded.first() else { return Ok(()) };
        let of = if self.stranded.len() > 1 { format!("{} ", first.job) } else { String::new() };
        write!(f, " ({of}{})", room_words(first.needs, first.nearest_free))
    }
}

fn most_free(parts: &[Part]) -> Resources {
    parts.iter().fold(Resources::ZERO, |most, part| most.max(part.free))
}

/// What a host's row says of it.
fn part_of(row: &HostRow, freshness: Freshness) -> Part {
    let alive = row.jobs.values().filter(|job| !job.state.is_ended() && job.spec.as_vm().is_some());
    let vms = alive.map(|job| (job.state, job.allocation(), job.id.clone())).collect();
    let host = &row.host;
    part(freshness, intent_of(row), host.capacity.minus(host.allocation), vms)
}

/// What a state has of it.
fn part_in(state: &State<'_>, row: &HostRow) -> Part {
    let host = &row.host.id;
    let vm = |job: JobId| {
        let placed = state.placed(&job, host)?;
        Some((placed.state, placed.allocation(), job))
    };
    let vms = state.jobs_alive(row).into_iter().filter_map(vm).collect();
    let free = row.host.capacity.minus(state.allocation(row));
    part(state.heard(host).freshness, state.intent(host), free, vms)
}

fn part(
    freshness: Freshness,
    intent: Option<Intent>,
    free: Resources,
    vms: Vec<(JobState, Resources, JobId)>,
) -> Part {
    let is_there = freshness != Freshness::Lost && intent != Some(Intent::Off);
    if !is_there {
        return Part::default();
    }
    let (leaving, staying): (Vec<_>, Vec<_>) =
        vms.into_iter().partition(|(state, ..)| *state == JobState::MigratingOut);
    // A guest that moves is where it goes: what would come and go with each move is no news.
    let free = leaving.iter().fold(free, |sum, (_, size, _)| sum.plus(*size));
    let free = if intent.is_none() { free } else { Resources::ZERO };
    let mut vms: Vec<_> = staying.into_iter().map(|(_, size, job)| (size, job)).collect();
    vms.sort_by_key(|(size, job)| (Reverse((size.memory_bytes, size.vcpus)), job.clone()));
    Part { is_there, free, vms }
}

#[cfg(test)]
mod tests;
