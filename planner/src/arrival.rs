//! The best host for a job that is to come somewhere, looked up in the register.
//!
//! Decides when what is looked up is surely what a look at every host would find, and answers nothing where it
//! is not: then every host is looked at. Hosts of which the register may be wrong, and those that rules tie to the job,
//! are looked at one by one; the others come in the order of how good they are, and the first that is allowed and costs
//! and breaks as little as any could is the best.
//!
//! ```text
//!   fresh, with all images, breaks nothing ──none──▶ fresh, one image is copied ──none──▶ look at every host
//! ```

use std::borrow::Cow;
use std::collections::BTreeSet;

use protocol::id::{HostId, ImageName, JobId};
use protocol::job::JobSpec;
use protocol::resources::Resources;
use protocol::view::{Freshness, HostRow};
use protocol::vm::OnLoss;

use crate::level::Score;
use crate::marks::Marks;
use crate::pools::{is_on_shared, last_host};
use crate::rooms::Asked;
use crate::rules::{Rule, home};
use crate::search::{Candidate, move_to, start_on, weigh};
use crate::state::State;
use crate::steps::Step;

/// Hosts that are checked in full before every host is looked at after all: those that the register offers are
/// seldom refused.
const CHECKED_MAX: usize = 64;

/// A job that is to come to some host.
pub(crate) struct Wish<'w> {
    pub(crate) job: &'w JobId,
    pub(crate) spec: Cow<'w, JobSpec>,
    /// Where it runs; none for a start.
    pub(crate) from: Option<HostId>,
}

impl Wish<'_> {
    fn step(&self, state: &State<'_>, to: &HostId) -> Step {
        match &self.from {
            Some(from) => move_to(state, self.job, from, to),
            None => start_on(state, self.job, to, &self.spec),
        }
    }

    fn images(&self) -> BTreeSet<&ImageName> {
        let disks = self.spec.as_vm().map_or(&[][..], |vm| &vm.disks);
        let is_made = self.from.is_none();
        disks.iter().filter(|_| is_made).filter_map(|disk| disk.image.as_ref()).collect()
    }
}

/// Which images a host has, of those that the job's disks are made from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tier {
    /// All of them.
    Has,
    /// None, and there is one: it is copied.
    Lacks,
}

/// The first of all candidates, if that can be said without a look at every host.
pub(crate) fn best_arrival(state: &State<'_>, wish: &Wish<'_>) -> Option<Candidate> {
    if wish.spec.adopted().is_some() {
        return None;
    }
    let look = Look::new(state, wish)?;
    let near = look.near()?;
    let images = wish.images();
    let tiers = if images.len() == 1 { &[Tier::Has, Tier::Lacks][..] } else { &[Tier::Has][..] };
    for tier in tiers {
        let here = |c: &&Candidate| c.added == look.floor && look.is_in(*tier, c);
        let known = near.iter().filter(here).map(Candidate::key).min();
        let far = if look.is_only_near { None } else { look.first(*tier)? };
        let is_better = |c: &Candidate| known.is_none_or(|known| c.key() < known);
        if let Some(far) = far.filter(is_better) {
            return Some(far);
        }
        if let Some(known) = known {
            return near.into_iter().find(|c| c.key() == known);
        }
    }
    None
}

struct Look<'l, 'a> {
    state: &'l State<'a>,
    wish: &'l Wish<'l>,
    /// What any host breaks at least.
    floor: Score,
    /// Hosts that are looked at one by one.
    near: BTreeSet<&'l HostId>,
    /// True when no other host can be as good as the best of these.
    is_only_near: bool,
    images: BTreeSet<&'l ImageName>,
    marks: Marks,
}

impl<'l, 'a> Look<'l, 'a> {
    fn new(state: &'l State<'a>, wish: &'l Wish<'l>) -> Option<Self> {
        let images = wish.images();
        // Where a name stands for several contents, what a start costs is different on each host.
        let register = state.register()?;
        if images.iter().any(|image| register.image_bytes(image).is_none()) {
            return None;
        }
        let rows = state.placements(wish.job);
        let stays = rows.iter().any(|(host, placed)| {
            placed.keeps_disks()
                && (placed.is_saved || !is_on_shared(state.host(host), &placed.spec))
        });
        // Disks that are found in shared pools need no image; which those are, each host says for itself.
        let is_found = wish.from.is_none() && last_host(state, wish.job).is_some();
        let has_pools = wish.spec.as_vm().is_some_and(|vm| !vm.bytes_by_pool().is_empty());
        if is_found && has_pools && !images.is_empty() {
            return None;
        }
        let mut near: BTreeSet<&HostId> = state.may_differ().collect();
        let clauses = state.clauses_of(wish.job).iter();
        let mut is_only_near = stays && wish.from.is_none();
        let mut marks = Marks::FRESH;
        let others = clauses.clone().flat_map(|clause| clause.rule.jobs());
        let homes = others.filter(|job| *job != wish.job).filter_map(|job| home(state, job));
        let homes: BTreeSet<HostId> = homes.chain(rows.keys().cloned()).collect();
        near.extend(homes.iter().filter_map(|host| Some(&state.host(host)?.host.id)));
        for clause in clauses {
            marks = marks.and(Marks::asked_by(&clause.rule));
            let is_alive = |job: &JobId| job != wish.job && home(state, job).is_some();
            is_only_near |=
                matches!(&clause.rule, Rule::SameHost(rule) if rule.jobs.iter().any(is_alive));
        }
        for (key, value) in state.input().policy.host_labels(&wish.spec) {
            marks = marks.and(Marks::label(key, value));
        }
        if let Some(vm) = wish.spec.as_vm() {
            let pools = vm.bytes_by_pool();
            marks = pools.keys().fold(marks, |marks, pool| marks.and(Marks::pool(pool)));
            if let Some(size) = wish.spec.page_size() {
                marks = marks.and(Marks::pages(size));
            }
            if wish.spec.is_dedicated() {
                marks = marks.and(Marks::dedicated_cpus());
            }
            if vm.on_loss == OnLoss::Stop {
                marks = marks.and(Marks::GUARDS);
            }
        }
        if wish.from.is_some() {
            marks = marks.and(Marks::RECEIVES);
        }
        let floor = floor(state, wish);
        Some(Self { state, wish, floor, near, is_only_near, images, marks })
    }

    /// What is allowed on the hosts that are looked at one by one; nothing when they are too many.
    fn near(&self) -> Option<Vec<Candidate>> {
        let hosts = self.near.iter().filter(|host| Some(**host) != self.wish.from.as_ref());
        Some(hosts.filter_map(|host| self.candidate(host)).collect())
    }

    fn candidate(&self, host: &HostId) -> Option<Candidate> {
        let step = self.wish.step(self.state, host);
        step.check(self.state).ok()?;
        Some(weigh(self.state, step, 0))
    }

    /// True for a candidate that costs as little as any of its tier.
    fn is_in(&self, tier: Tier, candidate: &Candidate) -> bool {
        let host = match &candidate.step {
            Step::StartVm(step) => &step.host,
            Step::MigrateVm(step) => &step.to,
            Step::StopVm(_)
            | Step::ResizeVm(_)
            | Step::DeleteVm(_)
            | Step::WakeHost(_)
            | Step::SleepHost(_) => return false,
        };
        let is_fresh = self.state.heard(host).freshness == Freshness::Fresh;
        is_fresh && self.state.host(host).is_some_and(|row| self.has(tier, row))
    }

    fn has(&self, tier: Tier, row: &'a HostRow) -> bool {
        let mut images = self.images.iter();
        match tier {
            Tier::Has => images.all(|image| self.state.image(row, image).is_some()),
            Tier::Lacks => images.all(|image| self.state.image(row, image).is_none()),
        }
    }

    /// The first of a tier by rank that is allowed and breaks no more than it must. `Some(None)` when there is none;
    /// `None` when that is not known.
    fn first(&self, tier: Tier) -> Option<Option<Candidate>> {
        let (state, register) = (self.state, self.state.register()?);
        let image = self.images.first().filter(|_| tier == Tier::Lacks);
        let copied = image.and_then(|image| register.image_bytes(image)).unwrap_or(0);
        let copies = Resources { disk_bytes: copied, ..Resources::ZERO };
        let images =
            self.images.iter().filter(|_| tier == Tier::Has).map(|image| Marks::image(image));
        let asked = Asked {
            size: self.wish.spec.takes().plus(copies),
            placement: state.input().placement,
            marks: images.fold(self.marks, Marks::and),
            is_sharded: state.is_sharded(),
        };
        let clauses = state.clauses_of(self.wish.job);
        let mut is_fit = |number: u32| {
            let Some(host) = register.host(number) else { return false };
            let Some(row) = state.host(host).filter(|_| !self.near.contains(host)) else {
                return false;
            };
            self.has(tier, row) && clauses.iter().all(|clause| clause.rule.may_be_met_on(&row.host))
        };
        let mut beyond = None;
        for _ in 0..CHECKED_MAX {
            let Some((key, number)) = register.rooms().best(&asked, beyond, &mut is_fit) else {
                return Some(None);
            };
            let candidate = register.host(number).and_then(|host| self.candidate(host));
            if let Some(candidate) = candidate.filter(|c| c.added == self.floor) {
                return Some(Some(candidate));
            }
            beyond = Some(key);
        }
        None
    }
}

/// The least that the job's coming adds to violations, wherever it comes.
fn floor(state: &State<'_>, wish: &Wish<'_>) -> Score {
    if state.clauses_of(wish.job).is_empty() {
        return Score::default();
    }
    let Some(from) = &wish.from else { return Score::default() };
    let mut without = state.clone();
    without.place(wish.job, from, None);
    without.count_move(wish.job);
    without.score_of(wish.job).minus(state.score_of(wish.job))
}
