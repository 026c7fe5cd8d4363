//! What the loss of each host, or of each rack or site, would need, kept up to date while hosts change.
//!
//! Decides for each whether its VMs, largest first, each find room on another host, by admission's own
//! arithmetic: first on the hosts that come after it in a ring, the last being followed by the first;
//! and if that leaves some without a place, once more with each where it fits most tightly. It asks whether there is
//! *room*, not whether data would survive, and heeds no rules of the jobs. VMs that are preemptible need no place: they
//! may be stopped for others at any time. Where they are they take theirs, as if nobody stopped them.
//!
//! ```text
//!    h1   h2   h3   h4   h5 …        h2's VMs are looked for a place on h3, h4, …
//!         └─ lost ─▶ │    │          a change of h4 is nothing to h1 if h1's all fit on h2 and h3
//!
//!    [h1  h4] [h2  h3] [h5 …         racks are arcs of the ring: the first one's VMs are looked for a place
//!    └─ lost ────▶ │    │            on h2, h3, h5, …
//! ```
//!
//! So each rehearsal has read only so many neighbours, and is made anew only when one of these has changed:
//! where there is room that is a handful, whatever the size of the cluster. What cannot be lost has
//! read all others.

mod loss;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

pub use loss::{Loss, Lost, Stranded};

use protocol::id::{HostId, JobId};
use protocol::job::JobState;
use protocol::view::{Freshness, HostRow, View};

use crate::intent::Intent;
use crate::load::Load;
use crate::register::intent_of;
use crate::state::State;

/// Hosts that are passed over together when none of them has room enough.
const BLOCK: usize = 32;

/// Losses and VMs that are named in one sentence; the others are counted.
const NAMED_MAX: usize = 5;

/// What counts of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Part {
    /// Which domain it is in; `None` where each is its own, and where it does not say.
    domain: Option<String>,
    /// False when it is lost or off already.
    is_there: bool,
    /// Room that VMs of others could have; none where nothing new may come.
    free: Load,
    /// Its VMs that would need a place, largest first. A guest that is leaving has one already.
    vms: Vec<(Load, JobId)>,
}

/// Every host's or every domain's loss, as far as it is known.
#[derive(Debug, Clone, Default)]
pub struct Rehearsal {
    /// The label whose values are domains; `None`: each host is lost by itself.
    label: Option<String>,
    /// Hosts in the order of ids, those of a domain side by side.
    hosts: Vec<HostId>,
    parts: Vec<Part>,
    /// The most of everything that is free in each block.
    blocks: Vec<Load>,
    /// What is lost at once.
    arcs: Vec<Range<usize>>,
    /// For each arc, with how far after its first host it has read.
    losses: Vec<Option<(Loss, usize)>>,
    /// Hosts that have changed since.
    changed: BTreeSet<usize>,
    /// What was followed last.
    view: View,
    heard: Vec<Freshness>,
    rehearsed_count: u64,
}

impl Rehearsal {
    /// Of no cluster yet: each host by itself.
    #[must_use]
    pub fn of_hosts() -> Self {
        Self::default()
    }

    /// Of no cluster yet: all hosts with one value of this label together.
    #[must_use]
    pub fn of_domains(label: impl Into<String>) -> Self {
        Self { label: Some(label.into()), ..Self::default() }
    }

    /// The same of a state of a plan.
    #[must_use]
    pub fn in_state(mut self, state: &State<'_>) -> Self {
        let label = self.label.clone();
        let part = |(host, row): (&HostId, &HostRow)| {
            let domain = domain_of(row, label.as_deref());
            (host.clone(), Part { domain, ..part_in(state, row) })
        };
        self.begin(state.hosts().map(part).collect());
        self.go();
        self
    }

    /// The same of some hosts, as if there were no others, and with the room of so many of the emptiest left out of
    /// account.
    pub(crate) fn among(
        mut self,
        state: &State<'_>,
        counts: impl Fn(&HostRow) -> bool,
        unused: usize,
    ) -> Self {
        let rows = state.hosts().filter(|(_, row)| counts(row));
        let mut parts: Vec<(HostId, Part)> =
            rows.map(|(host, row)| (host.clone(), part_in(state, row))).collect();
        let mut emptiest: Vec<(Reverse<(u64, u32)>, usize)> = parts
            .iter()
            .zip(0..)
            .map(|((_, part), at)| (Reverse((part.free.memory_bytes(), part.free.vcpus())), at))
            .collect();
        emptiest.sort_unstable();
        for (_, at) in emptiest.into_iter().take(unused) {
            parts[at].1.free = Load::ZERO;
        }
        self.begin(parts);
        self.go();
        self
    }

    /// Brings it up to a view, at the cost of what has changed.
    pub fn follow(&mut self, view: &View, freshness: impl Fn(&HostId) -> Freshness) {
        let before = std::mem::replace(&mut self.view, view.clone());
        let changed: BTreeSet<&HostId> = view.changed_since(&before).collect();
        let label = self.label.clone();
        let domain = |row: Option<&HostRow>| domain_of(row?, label.as_deref());
        let is_elsewhere = |host: &HostId| {
            let (now, then) = (view.host(host), before.host(host));
            now.is_some() != then.is_some() || domain(now) != domain(then)
        };
        if changed.iter().any(|host| is_elsewhere(host)) || self.hosts.is_empty() {
            let rows = view.hosts().map(|(host, row)| {
                let part = part_of(row, freshness(host));
                (host.clone(), Part { domain: domain(Some(row)), ..part })
            });
            self.begin(rows.collect());
            self.heard = self.hosts.iter().map(freshness).collect();
        } else {
            for at in 0..self.hosts.len() {
                let host = &self.hosts[at];
                let is = freshness(host);
                if self.heard[at] == is && !changed.contains(host) {
                    continue;
                }
                self.heard[at] = is;
                let part = view.host(host).map(|row| part_of(row, is)).unwrap_or_default();
                self.put(at, Part { domain: self.parts[at].domain.clone(), ..part });
            }
        }
        self.go();
    }

    /// What each loss would need, in the order of ids or of domains; nothing of what is lost or off.
    pub fn losses(&self) -> impl Iterator<Item = &Loss> {
        self.losses.iter().flatten().map(|(loss, _)| loss)
    }

    /// What cannot be lost.
    pub fn stranding(&self) -> impl Iterator<Item = &Loss> {
        self.losses().filter(|loss| !loss.stranded.is_empty())
    }

    /// How often a loss was rehearsed so far.
    #[must_use]
    pub fn rehearsed_count(&self) -> u64 {
        self.rehearsed_count
    }

    fn begin(&mut self, mut parts: Vec<(HostId, Part)>) {
        // Hosts come in the order of ids, and stay so within each domain.
        parts.sort_by(|(_, a), (_, b)| a.domain.cmp(&b.domain));
        (self.hosts, self.parts) = parts.into_iter().unzip();
        self.arcs = match self.label {
            None => (0..self.hosts.len()).map(|at| at..at + 1).collect(),
            Some(_) => arcs(&self.parts),
        };
        self.losses = vec![None; self.arcs.len()];
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
        let mut taken = vec![Load::ZERO; count];
        for n in 0..self.arcs.len() {
            let arc = self.arcs[n].clone();
            let reach = self.losses[n].as_ref().map_or(arc.len() - 1, |(_, reach)| *reach);
            // The next host after its first that has changed, itself included, round the ring.
            let next = changed.range(arc.start..).next().or_else(|| changed.iter().next());
            let is_touched = next.is_some_and(|next| (next + count - arc.start) % count <= reach);
            if is_touched {
                self.losses[n] = self.rehearse(&arc, &mut taken);
            }
        }
    }

    fn rehearse(&mut self, arc: &Range<usize>, taken: &mut [Load]) -> Option<(Loss, usize)> {
        let parts = &self.parts[arc.clone()];
        if parts.iter().all(|part| !part.is_there) {
            return None;
        }
        self.rehearsed_count += 1;
        let mut vms: Vec<&(Load, JobId)> = parts.iter().flat_map(|part| &part.vms).collect();
        if arc.len() > 1 {
            vms.sort_by_key(|(size, job)| largest_first(*size, job));
        }
        let needs = vms.iter().fold(Load::ZERO, |sum, (size, _)| sum.plus(*size));
        let mut places = Vec::new();
        let mut reach = arc.len() - 1;
        let mut fits_all = true;
        for (size, _) in &vms {
            let Some(steps) = self.first_fit(arc, *size, taken) else {
                fits_all = false;
                break;
            };
            let place = (arc.start + steps) % self.parts.len();
            reach = reach.max(steps);
            taken[place] = taken[place].plus(*size);
            places.push(place);
        }
        places.drain(..).for_each(|place| taken[place] = Load::ZERO);
        let mut stranded = Vec::new();
        if !fits_all {
            reach = self.parts.len() - 1;
            for (size, job) in &vms {
                match self.tightest_fit(arc, *size, taken) {
                    Ok(place) => {
                        taken[place] = taken[place].plus(*size);
                        places.push(place);
                    }
                    Err(nearest_free) => {
                        stranded.push(Stranded::of(job.clone(), *size, nearest_free));
                    }
                }
            }
            places.drain(..).for_each(|place| taken[place] = Load::ZERO);
        }
        let vms = u32::try_from(vms.len()).unwrap_or(u32::MAX);
        Some((Loss { lost: self.lost(arc), vms, needs: needs.resources, stranded }, reach))
    }

    fn lost(&self, arc: &Range<usize>) -> Lost {
        match &self.label {
            None => Lost::Host { host: self.hosts[arc.start].clone() },
            Some(label) => {
                Lost::Domain { domain: label.clone(), value: self.parts[arc.start].domain.clone() }
            }
        }
    }

    /// How many hosts on from its first the first one is that has room and is not lost with it.
    fn first_fit(&self, arc: &Range<usize>, size: Load, taken: &[Load]) -> Option<usize> {
        let count = self.parts.len();
        let mut steps = arc.len();
        while steps < count {
            let place = (arc.start + steps) % count;
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
    fn tightest_fit(&self, arc: &Range<usize>, size: Load, taken: &[Load]) -> Result<usize, Load> {
        let key = |load: Load| {
            let of = load.resources;
            let beside = (load.dedicated_cpus, load.pages.bytes());
            (beside, of.memory_bytes, of.vcpus, of.disk_bytes)
        };
        let free = |place: usize| self.parts[place].free.minus(taken[place]);
        let others = (0..self.parts.len()).filter(|place| !arc.contains(place));
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
        stranding.sort_by_key(|loss| (Reverse(loss.stranded.len()), &loss.lost));
        for (i, loss) in stranding.iter().take(NAMED_MAX).enumerate() {
            write!(f, "{}{loss}", if i > 0 { "; " } else { "" })?;
        }
        match stranding.len().saturating_sub(NAMED_MAX) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// Hosts side by side that are lost together.
fn arcs(parts: &[Part]) -> Vec<Range<usize>> {
    let mut arcs: Vec<Range<usize>> = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        match arcs.last_mut() {
            Some(arc) if parts[arc.start].domain == part.domain => arc.end = at + 1,
            _ => arcs.push(at..at + 1),
        }
    }
    arcs
}

fn domain_of(row: &HostRow, label: Option<&str>) -> Option<String> {
    row.host.labels.get(label?).cloned()
}

fn largest_first(size: Load, job: &JobId) -> (Reverse<(u64, u32)>, JobId) {
    (Reverse((size.memory_bytes(), size.vcpus())), job.clone())
}

fn most_free(parts: &[Part]) -> Load {
    parts.iter().fold(Load::ZERO, |most, part| most.max(part.free))
}

/// What a host's row says of it.
fn part_of(row: &HostRow, freshness: Freshness) -> Part {
    let alive = row.jobs.values().filter(|job| !job.state.is_ended() && job.spec.as_vm().is_some());
    let vms = alive.map(|job| {
        let (state, needs_place) = (job.state, !job.spec.is_preemptible());
        Vm { state, size: Load::of(job), job: job.id.clone(), needs_place }
    });
    let vms = vms.collect();
    part(freshness, intent_of(row), Load::free_on(row), vms)
}

/// What a state has of it.
fn part_in(state: &State<'_>, row: &HostRow) -> Part {
    let host = &row.host.id;
    let vm = |job: JobId| {
        let placed = state.placed(&job, host)?;
        let (state, needs_place) = (placed.state, !placed.spec.is_preemptible());
        Some(Vm { state, size: Load::placed(&placed), job, needs_place })
    };
    let vms = state.jobs_alive(row).into_iter().filter_map(vm).collect();
    let free = Load::free_in(state, row);
    part(state.heard(host).freshness, state.intent(host), free, vms)
}

/// A VM on a host.
struct Vm {
    state: JobState,
    size: Load,
    job: JobId,
    /// Whether it needs another place when its host is lost. What may be stopped for others may as well wait.
    needs_place: bool,
}

fn part(freshness: Freshness, intent: Option<Intent>, free: Load, vms: Vec<Vm>) -> Part {
    let is_off = matches!(intent, Some(Intent::Off | Intent::Asleep));
    let is_there = freshness != Freshness::Lost && !is_off;
    if !is_there {
        return Part::default();
    }
    let (leaving, staying): (Vec<_>, Vec<_>) =
        vms.into_iter().partition(|vm| vm.state == JobState::MigratingOut);
    // A guest that moves is where it goes: what would come and go with each move is no news.
    let free = leaving.iter().fold(free, |sum, vm| sum.plus(vm.size));
    let free = if intent.is_none() { free } else { Load::ZERO };
    let needing = staying.into_iter().filter(|vm| vm.needs_place);
    let mut vms: Vec<_> = needing.map(|vm| (vm.size, vm.job)).collect();
    vms.sort_by_key(|(size, job)| largest_first(*size, job));
    Part { domain: None, is_there, free, vms }
}

#[cfg(test)]
mod tests;
