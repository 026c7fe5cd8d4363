//! Budgets in simulated worlds: who wants them made, spent and given back, the rules that always hold of
//! them, and the ways in which they are broken on purpose.
//!
//! Each host has one name for a budget, which owns a few names of VMs. These are also wanted by tickets, on any
//! host: so names are fought over, and VMs by a budget move away and come back.

use std::collections::BTreeSet;

use host_agent::core::{Effect, JobRecord, LedgerState, Reply, ReplyId, Request, Write};
use protocol::amounts::Amounts;
use protocol::api::{PutJob, StopJob, Want};
use protocol::budget::Budget;
use protocol::host::Inventory;
use protocol::id::{JobId, OfferId, Revision, TenantId};
use protocol::job::{Job, JobKind, JobSpec, JobState};
use protocol::refusal::Refusal;
use protocol::ticket::Action;
use protocol::vm::SizeChange;

use super::by_hand::HandAnswer;
use super::invariants::size_held;
use super::mutant::Mutant;
use super::profile::TENANT_WITH_QUOTA;
use super::workload::spec;
use super::world::World;

/// Names that a budget's VMs have.
const NAMES: u64 = 3;

/// The name of a host's budget.
#[must_use]
pub fn budget_id(host: usize) -> JobId {
    JobId::new(format!("b-{host}")).expect("a valid name")
}

/// A name that a host's budget owns.
#[must_use]
pub fn owned_id(host: usize, n: u64) -> JobId {
    JobId::new(format!("b-{host}.vm-{n}")).expect("a valid name")
}

/// A budget of the tenant with a limit: so many CPUs, as many VMs, and memory and disk for each.
#[must_use]
pub fn budget(vcpus: u32) -> JobSpec {
    let bytes = u64::from(vcpus) << 30;
    let budget = Budget { vcpus, memory_bytes: bytes, disk_bytes: bytes, vms: vcpus };
    let tenant = TenantId::new(TENANT_WITH_QUOTA).expect("a valid name");
    JobSpec { kind: JobKind::Budget(budget), ..JobSpec { tenant, ..spec(1, false, true) } }
}

// What people want.

impl World {
    /// Something about budgets.
    pub(super) fn choose_about_budgets(&mut self) -> Want {
        let at = self.chance.index(self.hosts.len());
        let on = self.hosts[at].id.clone();
        let elsewhere = self.chance.index(self.hosts.len());
        let other = self.hosts[elsewhere].id.clone();
        let (id, number) = (budget_id(at), self.chance.below(NAMES));
        let job = owned_id(at, number);
        let vcpus = u32::try_from(self.chance.between(1, 2)).unwrap_or(1);
        match self.chance.below(12) {
            0 | 1 => {
                let most = u64::from(self.profile.quota_vcpus);
                let vcpus = u32::try_from(self.chance.between(1, most)).unwrap_or(1);
                // At times of a name that another host's budget has.
                let on = if self.chance.happens(150_000) { other } else { on };
                Want::Run { job: id, spec: budget(vcpus), on: Some(on), again: false }
            }
            2 => Want::Delete { job: id },
            3 => {
                let spec = spec(vcpus, number == 0, true);
                let on = self.chance.happens(700_000).then_some(other);
                Want::Run { job, spec, on, again: false }
            }
            4 => Want::stop(job, 0),
            5 => Want::Delete { job },
            6 => Want::migrate(job, other),
            7 => {
                let vcpus = u32::try_from(self.chance.between(1, 3)).ok();
                Want::Resize { job, size: SizeChange { vcpus, ..SizeChange::default() } }
            }
            _ => {
                let mut spec = spec(vcpus, number == 0, true);
                if let JobKind::Vm(vm) = &mut spec.kind {
                    vm.autostart = number != 2;
                }
                Want::Spend { job, spec, on, budget: id }
            }
        }
    }

    // By hand.

    /// Offer, grants and put of a budget in one; true when the host has it.
    pub fn delegate(&mut self, host: usize, id: &JobId, revision: u64, spec: &JobSpec) -> bool {
        let Some(Budget { vms, .. }) = spec.as_budget() else { return false };
        let action = Action::Delegate { vms, away: BTreeSet::new() };
        let Some(offer) = self.offer(host, id, revision, spec, action) else { return false };
        let Some(ticket) = self.ticket(offer) else { return false };
        matches!(self.put(host, id, spec, ticket, None), Some(Ok(_)))
    }

    /// Has a host start a VM by a budget of its.
    pub fn spend(
        &mut self,
        host: usize,
        job: &JobId,
        revision: u64,
        spec: &JobSpec,
        budget: &JobId,
    ) -> HandAnswer {
        let put =
            PutJob { budget: Some(budget.clone()), ..PutJob::of(Revision(revision), spec.clone()) };
        self.ask_host(host, Request::Put { job: job.clone(), put })
    }

    /// Has a host give a budget back.
    pub fn give_back(&mut self, host: usize, budget: &JobId) -> HandAnswer {
        let (job, stop) = (budget.clone(), StopJob::within(0));
        self.ask_host(host, Request::Stop { job, stop })
    }

    // The rules.

    /// By which hold a row is there, its own or its budget's, by what is on the disk.
    pub(super) fn hold_on_disk(&self, n: usize, record: &JobRecord) -> Option<OfferId> {
        let rows = &self.hosts[n].disk.ledger.jobs;
        let of_budget = |budget: &JobId| {
            rows.iter().find(|row| row.job.id == *budget).and_then(|row| row.job.hold)
        };
        record.job.hold.or_else(|| record.job.budget.as_ref().and_then(of_budget))
    }

    /// What is started by a budget is within it, and is never there without it or counted by a hold of its own.
    pub(super) fn no_budget_is_overspent(&mut self, n: usize) {
        const RULE: &str = "no_budget_is_overspent";
        let host = &self.hosts[n];
        let rows = &host.disk.ledger.jobs;
        let mut broken = None;
        for record in rows.iter().filter(|record| record.job.budget.is_some()) {
            let Some(by) = &record.job.budget else { continue };
            let budget = rows.iter().find(|row| row.job.id == *by);
            let size = budget.filter(|row| row.job.hold.is_some());
            let Some(size) = size.and_then(|row| row.job.spec.as_budget()) else {
                broken = Some(format!("{} is on h{n} by {by}, which is not held", record.job.id));
                break;
            };
            let users = rows.iter().filter(|row| row.job.budget.as_ref() == Some(by));
            let used = users
                .fold(Amounts::ZERO, |sum, row| sum.plus(Amounts::of_vm(size_held(host, row))));
            if record.job.hold.is_some() {
                broken = Some(format!("{} on h{n} is by {by} and by a ticket", record.job.id));
            } else if !used.fits_in(size.amounts()) {
                broken =
                    Some(format!("{used} is used of {by} on h{n}, which is {}", size.amounts()));
            }
        }
        if let Some(what) = broken {
            self.violate(RULE, what);
        }
    }

    /// A host has taken something without a ticket: by a budget, or as less of one that it has.
    pub(super) fn nothing_is_taken_without_leave(&mut self, n: usize, job: &JobId, put: &PutJob) {
        if put.budget.is_some() {
            return self.coverage.hit("budget.spent");
        }
        let rows = &self.hosts[n].disk.ledger.jobs;
        let had = rows.iter().find(|record| record.job.id == *job);
        let had = had.filter(|record| record.job.hold.is_some());
        let had = had.and_then(|record| record.job.spec.as_budget());
        let is_less = had
            .zip(put.spec.as_budget())
            .is_some_and(|(had, asked)| asked.amounts().fits_in(had.amounts()));
        if is_less {
            return self.coverage.hit("budget.made-smaller");
        }
        let what = format!("h{n} took {job} without a ticket");
        self.violate("expired_ticket_starts_nothing", what);
    }

    /// What happens to budgets, for coverage.
    pub(super) fn watch_budget(&mut self, job: &Job) {
        if job.spec.as_budget().is_some() {
            self.coverage.hit_owned(format!("budget.{}", job.state));
            if !job.away.is_empty() {
                self.coverage.hit("budget.name-away");
            }
        }
    }

    // Mutants.

    /// A host ends a budget that it refuses to end, as if nothing were there by it.
    pub(super) fn force_back(
        &mut self,
        n: usize,
        reply: ReplyId,
        job: &JobId,
        begin: usize,
        effects: &mut Vec<Effect>,
    ) {
        let is_refused = effects[begin..].iter().any(|effect| {
            matches!(effect, Effect::Reply(to, Err(Refusal::BudgetInUse { .. })) if *to == reply)
        });
        if self.mutant != Some(Mutant::BudgetGivenBackWhileUsed) || !is_refused {
            return;
        }
        let rows = &self.hosts[n].disk.ledger.jobs;
        let Some(mut record) = rows.iter().find(|row| row.job.id == *job).cloned() else { return };
        record.job.state = JobState::Stopped;
        record.job.hold = None;
        effects.truncate(begin);
        effects.push(Effect::Persist(Write::Job(Box::new(record.clone()))));
        effects.push(Effect::Reply(reply, Ok(Reply::Accepted(Box::new(record.job)))));
    }
}

/// What an agent knows of its ledger when it begins.
pub(super) fn mutate_birth(mutant: Option<Mutant>, ledger: &mut LedgerState) {
    for record in &mut ledger.jobs {
        match mutant {
            Some(Mutant::SpendingForgotten) => record.job.budget = None,
            Some(Mutant::AwayForgotten) => record.job.away.clear(),
            _ => {}
        }
    }
}

/// What an arbiter reads of a host.
pub(super) fn mutate_told(mutant: Option<Mutant>, inventory: &mut Inventory) {
    match mutant {
        Some(Mutant::BudgetNotCounted) => {
            inventory.jobs.retain(|job| job.spec.as_budget().is_none());
        }
        Some(Mutant::SpendingCountedTwice) => {
            inventory.jobs.iter_mut().for_each(|job| job.budget = None);
        }
        _ => {}
    }
}
