//! A second opinion on a finished plan, with its own arithmetic instead of the search's state.
//!
//! Run on every plan in debug builds and tests. What it finds is a fault of ours, never the
//! world's.

use std::collections::{BTreeMap, BTreeSet};

use protocol::hugepages::Pages;
use protocol::id::{HostId, ImageName, JobId};
use protocol::job::{JobSpec, JobState};
use protocol::resources::Resources;
use protocol::view::Freshness;
use serde::{Deserialize, Serialize};

use crate::aims::Outcome;
use crate::balance::Shift;
use crate::expectation::{Expectation, Standing};
use crate::input::PlanInput;
use crate::intent::Intent;
use crate::level::Level;
use crate::load::Load;
use crate::measure::Measure;
use crate::report::violations;
use crate::rules::{Clause, Rule, Violation};
use crate::state::State;
use crate::steps::{MigrateVm, StartVm, Step, StopVm};

/// A rule that a plan breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// A host would promise more than it has.
    Overcommitted {
        /// The host.
        host: HostId,
        /// What it would have promised.
        promised: Resources,
        /// What it has.
        capacity: Resources,
    },
    /// A host would promise more huge pages than it has.
    TooManyPages {
        /// The host.
        host: HostId,
        /// How many it would have promised.
        promised: Pages,
        /// How many there are for jobs.
        total: Pages,
    },
    /// A host would promise more dedicated CPUs than it has.
    TooManyDedicatedCpus {
        /// The host.
        host: HostId,
        /// How many it would have promised.
        promised: u32,
        /// How many it has.
        total: u32,
    },
    /// A job would run in two places.
    RunsTwice {
        /// The job.
        job: JobId,
    },
    /// A step touches a host that has been lost.
    UsesLostHost {
        /// The host.
        host: HostId,
    },
    /// A step brings something to a host that takes nothing new.
    AgainstIntent {
        /// The host.
        host: HostId,
    },
    /// A step needs a host that is asleep, and none before it wakes it.
    UsesSleepingHost {
        /// The host.
        host: HostId,
    },
    /// A host would be woken that is awake, or that is to be left alone.
    WakesInVain {
        /// The host.
        host: HostId,
    },
    /// A host would be put to sleep on which something is alive, or that is to be left alone.
    SleepsInUse {
        /// The host.
        host: HostId,
    },
    /// A host would sleep although too few are awake then, or they could not take what one of them has.
    SleepsInNeed {
        /// The host.
        host: HostId,
    },
    /// A job would start without an image that it needs, or one would come from who has it not.
    WithoutImage {
        /// The host.
        host: HostId,
        /// The image.
        image: ImageName,
    },
    /// A job would come where the policy for its tenant does not let it.
    AgainstPolicy {
        /// The job.
        job: JobId,
        /// The host.
        host: HostId,
    },
    /// A job would start before one that it starts after.
    StartsTooEarly {
        /// The job.
        job: JobId,
        /// Who does not run.
        after: JobId,
    },
    /// A job would be stopped that nobody wants stopped, and not for one that matters more and starts in its place.
    StopsInVain {
        /// The job.
        job: JobId,
        /// The host.
        host: HostId,
    },
    /// A job would be moved for what guests use although that is not known of it or of one of the hosts, or the host that
    /// it comes to would then be as busy as the one that it leaves was.
    MovesInVain {
        /// The job.
        job: JobId,
        /// Where it comes to.
        to: HostId,
    },
    /// A job would be moved against what must be, if only until a later step.
    BreaksAMust {
        /// The job.
        job: JobId,
        /// Where it comes to.
        to: HostId,
    },
    /// The report claims other violations than there are.
    MiscountedRules {
        /// Claimed.
        claimed: usize,
        /// Found.
        found: usize,
    },
    /// An expectation is neither met at the end, nor coming, nor reported.
    Unexplained {
        /// Its job.
        job: JobId,
    },
}

/// Checks a plan against the input it was made from. An empty answer is a good one.
#[must_use]
pub fn audit(input: &PlanInput, outcome: &Outcome) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut ledger = Ledger::of(input);
    let mut woken: BTreeSet<&HostId> = BTreeSet::new();
    let mut slept: BTreeSet<&HostId> = BTreeSet::new();
    for (n, step) in outcome.plan.steps.iter().enumerate() {
        if let Step::StartVm(step) = step {
            faults.extend(ledger.too_early(&step.job));
        }
        faults.extend(in_vain(input, step, &outcome.plan.steps[n..]));
        faults
            .extend(outcome.plan.shifts.iter().find_map(|shift| ledger.moves_in_vain(shift, step)));
        ledger.take(step, &mut faults);
        faults.extend(against_policy(input, step));
        let is_asleep = |host: &HostId| input.intents.get(host) == Some(&Intent::Asleep);
        if let Step::WakeHost(step) = step {
            let may_wake = is_asleep(&step.host) && !input.kept_asleep.contains(&step.host);
            if !woken.insert(&step.host) || !may_wake {
                faults.push(Fault::WakesInVain { host: step.host.clone() });
            }
        }
        if let Step::SleepHost(step) = step {
            let host = step.host.host();
            let is_in_use = ledger.has_alive(host) || !input.may_sleep.contains(host);
            let is_intended = input.intents.contains_key(host) || woken.contains(host);
            if is_in_use || is_intended || !slept.insert(host) {
                faults.push(Fault::SleepsInUse { host: host.clone() });
            }
            continue;
        }
        if let Some(host) = touched(step).into_iter().find(|host| slept.contains(host)) {
            faults.push(Fault::UsesSleepingHost { host: host.clone() });
        }
        let target = step_target(step).filter(|host| input.intents.contains_key(*host));
        if let Some(host) = target.filter(|host| !is_asleep(host)) {
            faults.push(Fault::AgainstIntent { host: host.clone() });
        }
        for host in touched(step).into_iter().filter(|host| !woken.contains(host)) {
            if is_asleep(host) {
                faults.push(Fault::UsesSleepingHost { host: host.clone() });
                continue;
            }
            let heard = input.heard.get(host);
            if heard.is_some_and(|heard| heard.freshness == Freshness::Lost) {
                faults.push(Fault::UsesLostHost { host: host.clone() });
            }
        }
    }
    let in_need = slept.iter().filter(|host| ledger.needs(host, &slept, &woken));
    faults.extend(in_need.map(|host| Fault::SleepsInNeed { host: HostId::clone(host) }));
    let mut state = State::new(input);
    for step in &outcome.plan.steps {
        let next = step.apply(&state);
        if let Step::MigrateVm(MigrateVm { job, to, .. }) = step
            && broken_musts(&next, job) > broken_musts(&state, job)
        {
            faults.push(Fault::BreaksAMust { job: job.clone(), to: to.clone() });
        }
        state = next;
    }
    let (claimed, found) = (&outcome.report.violations, violations(&state));
    let counts = |list: &[Violation]| -> Vec<u32> { list.iter().map(|v| v.count).collect() };
    if counts(claimed) != counts(&found) {
        faults.push(Fault::MiscountedRules { claimed: claimed.len(), found: found.len() });
    }
    for expectation in &input.expectations {
        let job = expectation.job();
        let is_explained = outcome.report.unmet.iter().any(|unmet| unmet.job == *job)
            || outcome.coming.iter().any(|(coming, _)| coming == job);
        if !is_explained && !is_met(expectation, &state) {
            faults.push(Fault::Unexplained { job: job.clone() });
        }
    }
    faults
}

/// How often what must be of a job is not so.
fn broken_musts(state: &State<'_>, job: &JobId) -> u32 {
    let is_of_job =
        |clause: &&Clause| clause.level == Level::Must && clause.rule.jobs().contains(&job);
    let clauses = state.input().clauses.iter().filter(is_of_job);
    clauses.map(|clause| clause.rule.violations(state)).fold(0, u32::saturating_add)
}

fn against_policy(input: &PlanInput, step: &Step) -> Option<Fault> {
    let (spec, host) = match step {
        Step::StartVm(step) if !input.policy.breaches(&step.spec).is_empty() => {
            return Some(Fault::AgainstPolicy { job: step.job.clone(), host: step.host.clone() });
        }
        Step::StartVm(step) => (&step.spec, &step.host),
        Step::MigrateVm(step) => {
            (&input.view.host(&step.from)?.jobs.get(&step.job)?.spec as &JobSpec, &step.to)
        }
        Step::StopVm(_)
        | Step::ResizeVm(_)
        | Step::DeleteVm(_)
        | Step::WakeHost(_)
        | Step::SleepHost(_) => return None,
    };
    let labels = &input.view.host(host)?.host.labels;
    input.policy.breach_on(spec, labels)?;
    Some(Fault::AgainstPolicy { job: step.job().clone(), host: host.clone() })
}

/// A stop of what is not wanted stopped: it has to make room, for a start that comes after it, and to be of one
/// that has agreed to it and matters less.
fn in_vain(input: &PlanInput, step: &Step, after: &[Step]) -> Option<Fault> {
    let Step::StopVm(StopVm { job, host }) = step else { return None };
    let is_end = |e: &Expectation| {
        matches!(e, Expectation::IsStopped { .. } | Expectation::Absent { .. }) && e.job() == job
    };
    if input.expectations.iter().any(is_end) {
        return None;
    }
    let vm = input.view.host(host).and_then(|row| row.jobs.get(job)?.spec.as_vm());
    let is_for = |step: &Step| match (step, vm) {
        (Step::StartVm(start), Some(vm)) => {
            start.host == *host && vm.preemptible && start.spec.priority() > vm.priority
        }
        _ => false,
    };
    let is_agreed = after.iter().any(is_for);
    (!is_agreed).then(|| Fault::StopsInVain { job: job.clone(), host: host.clone() })
}

fn is_met(expectation: &Expectation, state: &State<'_>) -> bool {
    expectation.standing(state) == Standing::Met
}

fn touched(step: &Step) -> Vec<&HostId> {
    match step {
        Step::StartVm(step) => vec![&step.host],
        Step::StopVm(step) => vec![&step.host],
        Step::ResizeVm(step) => vec![&step.host],
        Step::DeleteVm(step) => vec![&step.host],
        Step::WakeHost(step) => vec![&step.host],
        Step::SleepHost(step) => vec![step.host.host()],
        Step::MigrateVm(step) => vec![&step.from, &step.to],
    }
}

/// Per host what it has and what is promised; per job where it is and whether it is alive there.
struct Ledger<'a> {
    input: &'a PlanInput,
    promised: BTreeMap<HostId, Load>,
    jobs: BTreeMap<JobId, BTreeMap<HostId, (bool, Load)>>,
    copied: BTreeMap<HostId, BTreeSet<ImageName>>,
}

impl<'a> Ledger<'a> {
    fn of(input: &'a PlanInput) -> Self {
        let mut promised = BTreeMap::new();
        let mut jobs: BTreeMap<JobId, BTreeMap<HostId, (bool, Load)>> = BTreeMap::new();
        for (id, row) in input.view.hosts() {
            let pages = Pages::promised(&row.host.hugepages);
            let dedicated_cpus = row.host.dedicated_cpus.promised;
            let resources = row.host.allocation;
            promised.insert(id.clone(), Load { resources, pages, dedicated_cpus });
            for (job, known) in &row.jobs {
                let is_off = input.intents.get(id) == Some(&Intent::Off);
                let is_alive = !is_off
                    && !matches!(
                        known.state,
                        JobState::Stopped | JobState::Failed | JobState::Crashed
                    );
                let entry = (is_alive, whole(&known.spec, known.promised()));
                jobs.entry(job.clone()).or_default().insert(id.clone(), entry);
            }
        }
        Self { input, promised, jobs, copied: BTreeMap::new() }
    }

    /// Whether any job is alive on a host.
    fn has_alive(&self, host: &HostId) -> bool {
        self.jobs.values().any(|rows| rows.get(host).is_some_and(|(is_alive, _)| *is_alive))
    }

    /// CPUs and memory of VMs that are leaving a host, and of all others there that would need another place.
    fn vms_on(&self, host: &HostId) -> (Resources, Resources) {
        let (mut leaving, mut staying) = (Resources::ZERO, Resources::ZERO);
        let seen = |job: &JobId| self.input.view.host(host)?.jobs.get(job);
        for (job, rows) in &self.jobs {
            let Some((true, size)) = rows.get(host) else { continue };
            let size = Resources { disk_bytes: 0, ..size.resources };
            match seen(job) {
                Some(seen) if seen.state == JobState::MigratingOut => leaving = leaving.plus(size),
                Some(seen) if seen.spec.as_vm().is_none() || seen.spec.is_preemptible() => {}
                _ => staying = staying.plus(size),
            }
        }
        (leaving, staying)
    }

    /// Whether a rule that is about a host which was put to sleep would have it awake: too few are, or what one of
    /// these has promised is more than all others have left, in sum. That much is needed for any rehearsal.
    fn needs(&self, slept: &HostId, all: &BTreeSet<&HostId>, woken: &BTreeSet<&HostId>) -> bool {
        let Some(row) = self.input.view.host(slept) else { return true };
        let clauses = self.input.clauses.iter().chain(&self.input.heeded);
        let mut rules = clauses.filter_map(|clause| match &clause.rule {
            Rule::PowerSaving(rule) if rule.counts(&row.host) => Some(rule),
            _ => None,
        });
        rules.any(|rule| {
            let is_awake = |host: &HostId| {
                let heard = self.input.heard.get(host);
                let is_lost = heard.is_some_and(|heard| heard.freshness == Freshness::Lost);
                let is_there = !self.input.intents.contains_key(host) && !is_lost;
                !all.contains(host) && (is_there || woken.contains(host))
            };
            let rows =
                self.input.view.hosts().filter(|(id, row)| is_awake(id) && rule.counts(&row.host));
            let rows: Vec<(Resources, Resources)> = rows
                .map(|(id, row)| {
                    let promised = self.promised.get(id).copied().unwrap_or_default().resources;
                    let (leaving, staying) = self.vms_on(id);
                    (staying, row.host.capacity.minus(promised.minus(leaving)))
                })
                .collect();
            let free = rows.iter().fold(Resources::ZERO, |sum, (_, free)| sum.plus(*free));
            let is_stranded =
                |(promised, own): &(Resources, Resources)| !promised.fits_in(free.minus(*own));
            rows.len() < rule.awake_min() as usize || rows.iter().any(is_stranded)
        })
    }

    /// CPUs that are kept busy on a host, in thousandths, and how many it has; `None` unless all of it is known.
    fn busy(&self, host: &HostId) -> Option<(u128, u128)> {
        let known = self.input.used.hosts.get(host)?;
        let mut sum = u128::from(known.others_cpu_millis);
        for (job, rows) in &self.jobs {
            let is_alive = rows.get(host).is_some_and(|(is_alive, _)| *is_alive);
            let mut seen = self.input.view.hosts().filter_map(|(_, row)| row.jobs.get(job));
            if is_alive && seen.all(|job| job.spec.as_vm().is_some()) {
                sum += u128::from(self.input.used.vms.get(job)?.cpu_millis);
            }
        }
        Some((sum, known.cpus.into()))
    }

    /// A move for what guests use that is not known to be of use.
    fn moves_in_vain(&self, shift: &Shift, step: &Step) -> Option<Fault> {
        let Step::MigrateVm(step) = step else { return None };
        let is_it = step.job == shift.job && step.from == shift.from && step.to == shift.to;
        if shift.measure != Measure::Cpu || !is_it {
            return None;
        }
        let is_of_use = || {
            let vm = self.input.used.vms.get(&shift.job)?;
            let (left, left_cpus) = self.busy(&shift.from)?;
            let (arrived, cpus) = self.busy(&shift.to)?;
            let arrived = arrived + u128::from(vm.cpu_millis);
            Some(vm.cpu_millis > 0 && arrived * left_cpus < left * cpus)
        };
        let fault = Fault::MovesInVain { job: shift.job.clone(), to: shift.to.clone() };
        (!is_of_use().unwrap_or(false)).then_some(fault)
    }

    /// Whoever is to run before this job is started and does not.
    fn too_early(&self, job: &JobId) -> Option<Fault> {
        let level = self.input.levels.get(job).copied().unwrap_or_default();
        let orders = self.input.orders.iter().filter(|order| order.binds(job, level));
        let is_alive = |other: &JobId| {
            let mut rows = self.jobs.get(other).into_iter().flatten();
            let is_lost = |host: &HostId| {
                self.input.heard.get(host).is_some_and(|heard| heard.freshness == Freshness::Lost)
            };
            rows.any(|(host, (is_alive, _))| *is_alive && !is_lost(host))
        };
        let missing = orders.flat_map(|order| &order.order.after).find(|other| !is_alive(other));
        let after = missing.filter(|_| !is_alive(job))?.clone();
        Some(Fault::StartsTooEarly { job: job.clone(), after })
    }

    fn take(&mut self, step: &Step, faults: &mut Vec<Fault>) {
        let had = step_target(step).and_then(|host| self.promised.get(host).copied());
        let had = had.unwrap_or_default();
        match step {
            Step::StartVm(s) => {
                self.fetch(s, faults);
                self.put(&s.job, &s.host, Some((true, whole(&s.spec, s.spec.resources()))));
            }
            Step::StopVm(s) => {
                let size = self.size(&s.job, &s.host);
                self.put(&s.job, &s.host, Some((false, size)));
            }
            Step::ResizeVm(s) => {
                let rows = self.jobs.get(&s.job).and_then(|rows| rows.get(&s.host));
                let is_alive = rows.is_some_and(|(is_alive, _)| *is_alive);
                self.put(&s.job, &s.host, Some((is_alive, whole(&s.spec, s.spec.resources()))));
            }
            Step::DeleteVm(s) => self.put(&s.job, &s.host, None),
            Step::WakeHost(_) | Step::SleepHost(_) => {}
            Step::MigrateVm(s) => {
                let size = self.size(&s.job, &s.from);
                self.put(&s.job, &s.from, None);
                self.put(&s.job, &s.to, Some((true, size)));
            }
        }
        let Some(reserved_for) = step_target(step) else { return };
        let now = self.promised.get(reserved_for).copied().unwrap_or_default();
        let row = self.input.view.host(reserved_for);
        let capacity = row.map(|row| row.host.capacity).unwrap_or_default();
        let total = row.map(|row| Pages::for_jobs(&row.host.hugepages)).unwrap_or_default();
        let more = now.pages.minus(had.pages);
        let short = now.pages.minus(total);
        if (more.mib2 > 0 && short.mib2 > 0) || (more.gib1 > 0 && short.gib1 > 0) {
            let (host, promised) = (reserved_for.clone(), now.pages);
            faults.push(Fault::TooManyPages { host, promised, total });
        }
        let total = row.map_or(0, |row| row.host.dedicated_cpus.total);
        if now.dedicated_cpus > had.dedicated_cpus.max(total) {
            let (host, promised) = (reserved_for.clone(), now.dedicated_cpus);
            faults.push(Fault::TooManyDedicatedCpus { host, promised, total });
        }
        let (promised, had) = (now.resources, had.resources);
        // A host that has promised too much may be asked for less, or for more of something else.
        if lacks(promised.minus(had), promised.minus(capacity)) {
            faults.push(Fault::Overcommitted { host: reserved_for.clone(), promised, capacity });
        }
        let alive = self
            .jobs
            .get(step.job())
            .map_or(0, |rows| rows.values().filter(|(is_alive, _)| *is_alive).count());
        if alive > 1 {
            faults.push(Fault::RunsTwice { job: step.job().clone() });
        }
    }

    /// Every image is there, or comes from somebody who has that very one; and takes its room.
    fn fetch(&mut self, start: &StartVm, faults: &mut Vec<Fault>) {
        let host = &start.host;
        for fetch in &start.fetches {
            let has_it = |from: &HostId| {
                let row = self.input.view.host(from);
                row.and_then(|row| row.host.images.get(&fetch.image)).is_some_and(|facts| {
                    facts.sha256 == fetch.facts.sha256 && facts.file_bytes == fetch.facts.file_bytes
                })
            };
            if fetch.from.is_empty() || !fetch.from.iter().all(has_it) {
                let (host, image) = (host.clone(), fetch.image.clone());
                faults.push(Fault::WithoutImage { host, image });
            }
            self.copied.entry(host.clone()).or_default().insert(fetch.image.clone());
            let promised = self.promised.entry(host.clone()).or_default();
            let disk_bytes = promised.resources.disk_bytes;
            promised.resources.disk_bytes = disk_bytes.saturating_add(fetch.facts.file_bytes);
        }
        let has_row = self.jobs.get(&start.job).is_some_and(|rows| rows.contains_key(host));
        let disks = start.spec.as_vm().map_or(&[][..], |vm| &vm.disks);
        let disks = disks.iter().filter(|d| !start.finds_disks || d.named_pool().is_none());
        for image in disks.filter_map(|disk| disk.image.as_ref()).filter(|_| !has_row) {
            let row = self.input.view.host(host);
            let is_there = row.is_some_and(|row| row.host.images.contains_key(image))
                || self.copied.get(host).is_some_and(|copied| copied.contains(image));
            if !is_there {
                let (host, image) = (host.clone(), image.clone());
                faults.push(Fault::WithoutImage { host, image });
            }
        }
    }

    fn size(&self, job: &JobId, host: &HostId) -> Load {
        let row = self.jobs.get(job).and_then(|rows| rows.get(host));
        row.map(|(_, size)| *size).unwrap_or_default()
    }

    fn put(&mut self, job: &JobId, host: &HostId, row: Option<(bool, Load)>) {
        let rows = self.jobs.entry(job.clone()).or_default();
        let before = rows.remove(host).map(held).unwrap_or_default();
        let after = row.map(held).unwrap_or_default();
        if let Some(row) = row {
            rows.insert(host.clone(), row);
        }
        let promised = self.promised.entry(host.clone()).or_default();
        *promised = promised.minus(before).plus(after);
    }
}

/// True when something of what is asked for is short.
fn lacks(asked: Resources, short: Resources) -> bool {
    (asked.vcpus > 0 && short.vcpus > 0)
        || (asked.memory_bytes > 0 && short.memory_bytes > 0)
        || (asked.disk_bytes > 0 && short.disk_bytes > 0)
}

fn held((is_alive, size): (bool, Load)) -> Load {
    let disk_bytes = size.resources.disk_bytes;
    if is_alive { size } else { Resources { disk_bytes, ..Resources::ZERO }.into() }
}

/// All that a job with so much takes of its host while it is alive.
fn whole(spec: &JobSpec, has: Resources) -> Load {
    let dedicated_cpus = spec.dedicated_cpus_of(has);
    Load { resources: spec.of_host(has), pages: spec.pages_of(has), dedicated_cpus }
}

fn step_target(step: &Step) -> Option<&HostId> {
    match step {
        Step::StartVm(step) => Some(&step.host),
        Step::MigrateVm(step) => Some(&step.to),
        Step::ResizeVm(step) => Some(&step.host),
        Step::StopVm(_) | Step::DeleteVm(_) | Step::WakeHost(_) | Step::SleepHost(_) => None,
    }
}
