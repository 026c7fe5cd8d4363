//! The tasks of a plan: what is asked of whom, in which order, for each of its steps.
//!
//! Decides which asks a step is made of, and which of them need what one before has left: tasks name each other by their
//! number in the run. How a task is asked, and taken back, is [`super`]'s.

use std::collections::BTreeSet;

use planner::steps::{MigrateVm, ResizeVm, StartVm, StopVm};
use planner::{Fetch, State, Step};
use protocol::api::Want;
use protocol::id::{HostId, JobId, OfferId, Revision};
use protocol::job::{JobSpec, JobState};
use protocol::ticket::{Action, HoldAt};
use protocol::vm::Priority;

use super::TaskKind;

/// What beside the plan decides the tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// Whether the cluster has a trust document, so that starts need tickets.
    pub has_trust: bool,
    /// What the job is, for a migration.
    pub spec: Option<JobSpec>,
    /// Under which hold it runs now, for a migration.
    pub hold: Option<OfferId>,
    /// Whether it is there by a budget of its host, which lets it grow as well.
    pub is_by_budget: bool,
    /// Which change of it runs now, for a migration.
    pub revision: Option<Revision>,
    /// Hosts that have a row of the job already.
    pub hosts_with_rows: Vec<HostId>,
}

impl Circumstances {
    /// As a state shows the job.
    #[must_use]
    pub fn of(state: &State<'_>, job: &JobId, has_trust: bool) -> Self {
        let rows = state.placements(job);
        let running = rows.iter().find(|(_, placed)| placed.state == JobState::Running);
        // What is there by a budget runs under the budget's hold.
        let hold = running.and_then(|(host, placed)| {
            let of_budget = || state.placed(placed.budget.as_ref()?, host)?.hold;
            placed.hold.or_else(of_budget)
        });
        let running = running.map(|(_, placed)| placed);
        let is_by_budget = rows.values().any(|placed| placed.budget.is_some());
        Self {
            has_trust,
            spec: running.map(|placed| placed.spec.clone()),
            hold,
            is_by_budget,
            revision: running.map(|placed| placed.revision),
            hosts_with_rows: rows.keys().cloned().collect(),
        }
    }
}

/// The tasks of a plan's steps, numbered from `first`.
#[must_use]
pub fn tasks_of(steps: &[Step], want: &Want, at: &Circumstances, first: usize) -> Vec<TaskKind> {
    let mut list = List { want, at, first, tasks: Vec::new(), is_fetched: false };
    for (n, step) in steps.iter().enumerate() {
        list.step(step, &steps[..n], &steps[n..]);
    }
    list.tasks
}

/// Tasks as they come together.
struct List<'a> {
    want: &'a Want,
    at: &'a Circumstances,
    first: usize,
    tasks: Vec<TaskKind>,
    /// Whether the images that a start needs are fetched already.
    is_fetched: bool,
}

impl List<'_> {
    /// The number of the next task in its run.
    fn next(&self) -> usize {
        self.first + self.tasks.len()
    }

    fn step(&mut self, step: &Step, before: &[Step], after: &[Step]) {
        let is_anothers = step.job() != self.want.job();
        match step {
            Step::StartVm(start) => self.start(start, before),
            Step::StopVm(other) if is_anothers => self.preempt(other, after),
            Step::StopVm(stop) => self.stop(stop),
            // Whoever empties drained hosts does this, several at a time.
            Step::MigrateVm(_) if matches!(self.want, Want::Sleep { .. }) => {}
            Step::MigrateVm(other) if is_anothers => {
                let (job, from, to) = (other.job.clone(), other.from.clone(), other.to.clone());
                self.tasks.push(TaskKind::MakeRoom { job, from, to });
            }
            Step::MigrateVm(migrate) => self.migrate(migrate),
            Step::ResizeVm(resize) => self.resize(resize),
            Step::WakeHost(wake) => {
                let host = wake.host.clone();
                self.tasks.push(TaskKind::Wake { host: host.clone() });
                self.tasks.push(TaskKind::AwaitAwake { host });
            }
            Step::SleepHost(sleep) => {
                let host = sleep.host.host().clone();
                self.tasks.push(TaskKind::Drain { host: host.clone() });
                self.tasks.push(TaskKind::AwaitEmpty { host: host.clone() });
                self.tasks.push(TaskKind::Sleep { host });
            }
            Step::DeleteVm(delete) => {
                let shared = matches!(self.want, Want::Delete { .. });
                self.tasks.push(TaskKind::Delete { host: delete.host.clone(), shared });
            }
        }
    }

    fn start(&mut self, start: &StartVm, before: &[Step]) {
        // What was lost is out of the plan's sight, and its row must not be taken for newer.
        let (revision, how) = match self.want {
            // Its host says which of its names are away.
            Want::Run { .. } if let Some(budget) = start.spec.as_budget() => {
                let (vms, away) = (budget.vms, BTreeSet::new());
                (start.revision, Action::Delegate { vms, away })
            }
            Want::FailOver { revision, lost: HoldAt { host, hold }, .. } => {
                let how = Action::FailOver { from: host.clone(), hold: *hold };
                (start.revision.max(Revision(revision.0 + 1)), how)
            }
            _ => (start.revision, Action::Start),
        };
        if !self.is_fetched {
            self.tasks.extend(copies(start));
        }
        let is_deleted = before.iter().any(|step| match step {
            Step::DeleteVm(delete) => delete.host == start.host && delete.job == start.job,
            _ => false,
        });
        let has_row = self.at.hosts_with_rows.contains(&start.host);
        let budget = match self.want {
            Want::Spend { budget, .. } => Some(budget.clone()),
            _ => None,
        };
        self.put(Putting {
            host: &start.host,
            revision,
            spec: &start.spec,
            how,
            // Services are Ostler's own and need none.
            needs_ticket: self.at.has_trust && start.spec.counts().is_some() && budget.is_none(),
            is_new: !has_row,
            finds_disks: start.finds_disks,
            must_exist: has_row && !is_deleted,
            budget,
        });
        self.tasks.push(TaskKind::AwaitRunning { host: start.host.clone(), revision });
    }

    /// Another VM makes way for the start that follows.
    fn preempt(&mut self, other: &StopVm, after: &[Step]) {
        let start = after.iter().find_map(|step| match step {
            Step::StartVm(start) => Some(start),
            _ => None,
        });
        // Nobody stops hours before there is need.
        self.tasks.extend(start.filter(|_| !self.is_fetched).into_iter().flat_map(copies));
        self.is_fetched = true;
        let priority = start.map_or_else(Priority::default, |start| start.spec.priority());
        let (job, host) = (other.job.clone(), other.host.clone());
        self.tasks.push(TaskKind::Preempt { job, host, priority });
    }

    fn stop(&mut self, stop: &StopVm) {
        let grace_ms = match self.want {
            Want::Stop { grace_ms, .. } => *grace_ms,
            Want::Run { .. }
            | Want::Spend { .. }
            | Want::Migrate { .. }
            | Want::Resize { .. }
            | Want::Delete { .. }
            | Want::FailOver { .. }
            | Want::Sleep { .. }
            | Want::Wake { .. } => 0,
        };
        let host = stop.host.clone();
        self.tasks.push(TaskKind::Stop { host: host.clone(), grace_ms });
        self.tasks.push(TaskKind::AwaitEnded { host });
    }

    fn migrate(&mut self, migrate: &MigrateVm) {
        let Some(spec) = &self.at.spec else { return };
        let (from, to) = (migrate.from.clone(), migrate.to.clone());
        let hold = self.at.hold.unwrap_or_default();
        self.put(Putting {
            host: &to,
            revision: migrate.revision,
            spec,
            how: Action::MigrateIn { from: from.clone(), hold },
            // Only the offer tells the target that a running guest will come.
            needs_ticket: true,
            is_new: true,
            finds_disks: false,
            must_exist: false,
            budget: None,
        });
        let incoming = self.next();
        self.tasks.push(TaskKind::AwaitIncoming { host: to.clone() });
        let revision = self.at.revision;
        self.tasks.push(TaskKind::Send { from: from.clone(), to: to.clone(), incoming, revision });
        let sent = self.next();
        self.tasks.push(TaskKind::AwaitSent { from: from.clone(), to: to.clone() });
        self.tasks.push(TaskKind::HandOver { to: to.clone(), sent });
        self.tasks.push(TaskKind::AwaitRunning { host: to, revision: migrate.revision });
        self.tasks.push(TaskKind::Delete { host: from, shared: false });
    }

    fn resize(&mut self, resize: &ResizeVm) {
        let (host, revision) = (resize.host.clone(), resize.revision);
        let needs_ticket = self.at.has_trust && resize.is_growth && !self.at.is_by_budget;
        let ticket = needs_ticket.then(|| {
            let (host, spec, how) = (host.clone(), resize.spec.clone(), Action::Resize);
            self.offer(TaskKind::Offer { host, revision, spec, how, finds_disks: false })
        });
        let (to, size) = (host.clone(), resize.size.clone());
        self.tasks.push(TaskKind::Resize { host: to, revision, size: size.clone(), ticket });
        self.tasks.push(TaskKind::AwaitResized { host, revision, size });
    }

    /// Asks for an offer and for grants of it; their numbers.
    fn offer(&mut self, offer: TaskKind) -> (usize, usize) {
        let number = self.next();
        self.tasks.push(offer);
        self.tasks.push(TaskKind::Grants { offer: number });
        (number, number + 1)
    }

    /// Brings a row to a host, with a ticket where it needs one.
    fn put(&mut self, put: Putting<'_>) {
        let Putting { host, revision, spec, how, is_new, finds_disks, must_exist, budget, .. } =
            put;
        let (host, spec) = (host.clone(), spec.clone());
        let ticket = put.needs_ticket.then(|| {
            let (host, spec) = (host.clone(), spec.clone());
            self.offer(TaskKind::Offer { host, revision, spec, how, finds_disks })
        });
        self.tasks.push(TaskKind::Put {
            host,
            revision,
            spec,
            ticket,
            is_new,
            finds_disks,
            must_exist,
            budget,
        });
    }
}

/// The images that a start needs and its host has not. Before the offer: that reserves room for seconds, and a copy may
/// take hours.
fn copies(start: &StartVm) -> impl Iterator<Item = TaskKind> {
    let host = &start.host;
    let copy = |fetch: &Fetch| TaskKind::Fetch { host: host.clone(), fetch: fetch.clone() };
    start.fetches.iter().map(copy)
}

/// A row that is to be on a host.
struct Putting<'a> {
    host: &'a HostId,
    revision: Revision,
    spec: &'a JobSpec,
    how: Action,
    needs_ticket: bool,
    is_new: bool,
    finds_disks: bool,
    must_exist: bool,
    budget: Option<JobId>,
}
