//! A delegated budget: a part of a tenant's quota that one host hands out by itself, while arbiters may be away.
//!
//! It is a job of its own kind, which runs nothing. Arbiters grant it like any job, and count it in full for
//! as long as it is held; what its host starts by it they count no more. So a quota is as exact as ever
//! ([`crate::amounts`]), and what is started by a budget is its host's to keep within it.
//!
//! **A budget owns names.** Budget `a.h1` owns `a.h1.web`, `a.h1.web.2` and so on: its host alone starts VMs
//! that are called so, because nobody is asked at that moment who else has one. Arbiters see to that when they
//! grant the budget, and when they grant anything else. A name whose VM has left for another host is *away*, and
//! never comes back under this budget.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::amounts::{Amounts, VMS_ANY};
use crate::id::{JobId, TenantId};
use crate::job::{InvalidSpec, Job, JobSpec};
use crate::refusal::Refusal;
use crate::resources::Resources;
use crate::vm::OnLoss;

/// Names of a budget that may be away: each is in the budget's row and in every offer of it, and a host that is
/// emptied moves less than this many VMs of one budget.
pub const AWAY_MAX: usize = 256;

/// How large a budget is. Each amount is limited: what is not named is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Disk space in bytes, counted at a volume's full virtual size.
    #[serde(default)]
    pub disk_bytes: u64,
    /// VMs.
    pub vms: u32,
}

/// What arbiters need to know of a held budget beside its size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Delegated {
    /// How many VMs it is for.
    pub vms: u32,
    /// Names that it owns and will never start again, whatever becomes of it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub away: BTreeSet<JobId>,
}

impl Delegated {
    /// What a budget of this size takes of a quota.
    #[must_use]
    pub fn takes(&self, size: Resources) -> Amounts {
        Amounts { vms: self.vms, ..size.into() }
    }
}

impl Budget {
    /// What it takes of a quota, and what may be started by it.
    #[must_use]
    pub fn amounts(self) -> Amounts {
        Amounts { vms: self.vms, ..self.resources().into() }
    }

    /// Without VMs.
    #[must_use]
    pub fn resources(self) -> Resources {
        let Self { vcpus, memory_bytes, disk_bytes, .. } = self;
        Resources { vcpus, memory_bytes, disk_bytes }
    }

    /// Checks that a VM could be started by it.
    pub fn validate(self) -> Result<(), InvalidSpec> {
        let is_usable = self.vcpus > 0 && self.memory_bytes > 0 && self.vms > 0;
        match is_usable && self.vms != VMS_ANY {
            true => Ok(()),
            false => Err(InvalidSpec::Budget),
        }
    }
}

/// Whether a budget of that name owns the name of a job.
#[must_use]
pub fn owns(budget: &JobId, job: &JobId) -> bool {
    let rest = job.as_str().strip_prefix(budget.as_str());
    rest.is_some_and(|rest| rest.len() > 1 && rest.starts_with('.'))
}

/// Every name that a budget which owns this one could have, the shortest first.
pub fn owners(job: &JobId) -> impl Iterator<Item = JobId> + '_ {
    let text = job.as_str();
    let dots = text.match_indices('.').map(|(at, _)| at);
    dots.filter_map(move |at| JobId::new(&text[..at]).ok()).filter(|budget| owns(budget, job))
}

/// What of a budget is used by these rows, which are its host's.
pub fn used<'a>(budget: &JobId, rows: impl IntoIterator<Item = &'a Job>) -> Amounts {
    let users = rows.into_iter().filter(|job| job.budget.as_ref() == Some(budget));
    users.fold(Amounts::ZERO, |sum, job| sum.plus(Amounts::of_vm(job.promised())))
}

/// Says whether a VM may be started by a budget whoever else has something of it, or why not. `budget` is its row.
pub fn check_spender(budget: &Job, job: &JobId, spec: &JobSpec) -> Result<(), Refusal> {
    let no = |why: &str| {
        let (job, why) = (job.clone(), why.to_owned());
        Err(Refusal::NotByBudget { job, why })
    };
    let Some(vm) = spec.as_vm() else { return no("it is no VM") };
    if vm.on_loss == OnLoss::Stop {
        return no(
            "it may be lost and run elsewhere, which takes the arbiters' word: leave on_loss away",
        );
    }
    if vm.adopted.is_some() {
        return no("it was there before, by a name that is not the budget's: adopt it by a ticket");
    }
    check_tenant(budget, &spec.tenant)?;
    if !owns(&budget.id, job) {
        let (job, budget) = (job.clone(), budget.id.clone());
        return Err(Refusal::OutsideBudget { job, budget });
    }
    if budget.away.contains(job) {
        return no(
            "a VM of that name has moved away from here: choose another name, or start it by a ticket",
        );
    }
    Ok(())
}

fn check_tenant(budget: &Job, tenant: &TenantId) -> Result<(), Refusal> {
    if budget.spec.tenant == *tenant {
        return Ok(());
    }
    let (owner, tenant) = (budget.spec.tenant.clone(), tenant.clone());
    Err(Refusal::BudgetOfOther { budget: budget.id.clone(), owner, tenant })
}

/// Says whether so much fits into a budget of which others use that much.
pub fn check_room(
    budget: &JobId,
    size: Amounts,
    others: Amounts,
    asked: Amounts,
) -> Result<(), Refusal> {
    if others.plus(asked).fits_in(size) {
        return Ok(());
    }
    let at_most = size.minus(others);
    let (budget, size) = (budget.clone(), Box::new(size));
    Err(Refusal::BudgetExhausted { budget, size, used: others, asked, at_most })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobState;
    use crate::vm::VmSpec;

    fn id(text: &str) -> JobId {
        JobId::new(text).unwrap()
    }

    fn row() -> Job {
        let text = r#"{"budget": {"vcpus": 4, "memory_bytes": 4, "vms": 2}, "tenant": "a"}"#;
        let spec: JobSpec = serde_json::from_str(text).unwrap();
        assert_eq!(spec.validate(), Ok(()));
        Job::of(id("a.h1"), spec, JobState::Running)
    }

    fn vm() -> JobSpec {
        JobSpec { tenant: "a".parse().unwrap(), ..JobSpec::vm(VmSpec::default()) }
    }

    #[test]
    fn a_budget_owns_the_names_under_its_own() {
        let budget = id("a.h1");
        assert!(owns(&budget, &id("a.h1.web")) && owns(&budget, &id("a.h1.web.2")));
        for other in ["a.h1", "a.h1.", "a.h10", "a.h10.web", "a.h2.web", "a"] {
            assert!(!owns(&budget, &id(other)), "{other}");
        }
        let all: Vec<JobId> = owners(&id("a.h1.web")).collect();
        assert_eq!(all, [id("a"), id("a.h1")]);
        assert_eq!(owners(&id("web")).count(), 0);
    }

    #[test]
    fn what_others_could_have_is_not_started_by_a_budget() {
        let mut budget = row();
        let ask = |budget: &Job, job: &str, spec: JobSpec| {
            check_spender(budget, &id(job), &spec).map_err(|no| no.name())
        };
        assert_eq!(ask(&budget, "a.h1.web", vm()), Ok(()));
        assert_eq!(ask(&budget, "web", vm()), Err("outside-budget"));
        let others = JobSpec { tenant: "b".parse().unwrap(), ..vm() };
        assert_eq!(ask(&budget, "a.h1.web", others), Err("budget-of-other"));
        let stop = VmSpec { on_loss: OnLoss::Stop, ..VmSpec::default() };
        let stop = JobSpec { tenant: "a".parse().unwrap(), ..JobSpec::vm(stop) };
        assert_eq!(ask(&budget, "a.h1.web", stop), Err("not-by-budget"));
        assert_eq!(ask(&budget, "a.h1.web", (*budget.spec).clone()), Err("not-by-budget"));
        budget.away = [id("a.h1.web")].into();
        assert_eq!(ask(&budget, "a.h1.web", vm()), Err("not-by-budget"));
        assert_eq!(ask(&budget, "a.h1.db", vm()), Ok(()));
    }

    #[test]
    fn a_no_says_what_would_fit() {
        let size = row().spec.as_budget().unwrap().amounts();
        let one = Amounts { vcpus: 3, memory_bytes: 1, disk_bytes: 0, vms: 1 };
        assert_eq!(check_room(&id("a.h1"), size, Amounts::ZERO, one), Ok(()));
        let no = check_room(&id("a.h1"), size, one, one).unwrap_err();
        let Refusal::BudgetExhausted { at_most, .. } = no else { panic!("{no}") };
        assert_eq!((at_most.vcpus, at_most.vms), (1, 1));
    }

    #[test]
    fn a_budget_by_which_nothing_could_be_started_is_none() {
        let budget = Budget { vcpus: 1, memory_bytes: 1, disk_bytes: 0, vms: 1 };
        assert_eq!(budget.validate(), Ok(()));
        for none in [
            Budget { vcpus: 0, ..budget },
            Budget { memory_bytes: 0, ..budget },
            Budget { vms: 0, ..budget },
            Budget { vms: VMS_ANY, ..budget },
        ] {
            assert_eq!(none.validate(), Err(InvalidSpec::Budget));
        }
    }
}
