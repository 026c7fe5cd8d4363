//! What the word that it was off has taken from a host ([`protocol::trust::Fence`]), and where it may be started
//! again.
//!
//! Decides from the view and the trust document alone, like [`crate::failover`], which tries it and rests; the
//! arbiters decide. Of a VM that is kept:
//!
//! * while its host is away: elsewhere, if nothing of it is on that host alone;
//! * once its host has heard that this was taken from it, and says so: elsewhere or there again; what has
//!   disks there, there.
//!
//! What ran by a budget is started there again, by a ticket, if it has disks there, and else left as it is. One-off
//! jobs are not begun a second time. What may be lost fails over by its lapsed lease as ever.

use std::collections::BTreeMap;

use protocol::api::Want;
use protocol::id::{HostId, JobId, OfferId};
use protocol::job::{Job, JobState, Reason};
use protocol::ticket::HoldAt;
use protocol::trust::Trust;
use protocol::view::{Freshness, HostRow, View};
use protocol::vm::OnLoss;

/// What was taken, each with the hold that it had.
pub(crate) type Taken = BTreeMap<JobId, (Want, HoldAt)>;

/// What may be started again, by this document and view.
pub(crate) fn taken(view: &View, trust: &Trust, freshness: impl Fn(&HostId) -> Freshness) -> Taken {
    let mut taken = Taken::new();
    for (host, fence) in trust.fences_by_host() {
        let Some(row) = view.host(&host) else { continue };
        let has_heard = row.host.trust_version.unwrap_or(0) >= fence.since;
        if !has_heard && freshness(&host) == Freshness::Fresh {
            // It is back, and about to hear.
            continue;
        }
        for job in row.jobs.values() {
            let Some(hold) = hold_taken(job, has_heard) else { continue };
            if is_later_elsewhere(view, &host, job) {
                continue;
            }
            if is_a_budgets(row, hold) && !is_bound(row, job) {
                continue;
            }
            let at = HoldAt { host: host.clone(), hold };
            if let Some(want) = want(row, job, at.clone(), has_heard) {
                taken.insert(job.id.clone(), (want, at));
            }
        }
    }
    taken
}

/// The hold that a kept VM has lost by the operator's word.
fn hold_taken(job: &Job, has_heard: bool) -> Option<OfferId> {
    let is_kept = job.spec.as_vm().is_some_and(|vm| vm.on_loss == OnLoss::Keep);
    if !is_kept || job.spec.as_one_off().is_some() {
        return None;
    }
    match (has_heard, job.state, &job.reason) {
        (true, JobState::Stopped, Some(Reason::Fenced { lost, .. })) => Some(*lost),
        (true, ..) => None,
        // Somebody wants it to end, or it has not come yet.
        (false, JobState::Stopping | JobState::MigratingIn, _) => None,
        (false, state, _) if state.is_ended() => None,
        (false, ..) => job.hold,
    }
}

/// Whether it was a budget that had the hold: of what ran by it the arbiters know no hold, so nobody could take over
/// from it.
fn is_a_budgets(row: &HostRow, hold: OfferId) -> bool {
    let mut budgets = row.jobs.values().filter(|job| job.spec.as_budget().is_some());
    budgets.any(|job| matches!(job.reason, Some(Reason::Fenced { lost, .. }) if lost == hold))
}

fn is_bound(row: &HostRow, job: &Job) -> bool {
    job.spec.as_vm().is_some_and(|vm| vm.is_bound_to(&row.host))
}

fn is_later_elsewhere(view: &View, home: &HostId, job: &Job) -> bool {
    let others = view.hosts().filter(|(host, _)| *host != home);
    let rows = others.filter_map(|(_, row)| row.jobs.get(&job.id));
    let mut rows = rows.filter(|row| row.state != JobState::MigratingIn);
    rows.any(|row| row.revision > job.revision || !row.state.is_ended())
}

fn want(row: &HostRow, job: &Job, lost: HoldAt, has_heard: bool) -> Option<Want> {
    let (id, spec) = (job.id.clone(), job.spec.as_ref().clone());
    match (is_bound(row, job), has_heard) {
        (true, false) => None,
        (true, true) => Some(Want::Run { job: id, spec, on: Some(lost.host), again: true }),
        (false, _) => Some(Want::FailOver { job: id, spec, revision: job.revision, lost }),
    }
}

#[cfg(test)]
mod tests {
    use protocol::budget::Budget;
    use protocol::host::{Host, Inventory};
    use protocol::id::{ClusterId, Cursor, Epoch, Revision};
    use protocol::job::{JobKind, JobSpec};
    use protocol::signed::SecretKey;
    use protocol::trust::Fence;
    use protocol::vm::{DiskSpec, VmSpec};

    use super::*;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed([n; 32])
    }

    /// Version 3, by which host 1 was off since version 2.
    fn trust() -> Trust {
        let (host, by) = (key(1).public(), key(9).public());
        Trust {
            version: 3,
            operators: vec![by],
            roster: vec![key(1).public(), key(2).public()],
            fenced: vec![Fence {
                host,
                since: 2,
                by,
                by_fencer: false,
                at_ms: 0,
                reason: String::new(),
            }],
            ..Trust::of_nobody(ClusterId::new("c1").unwrap())
        }
    }

    fn hold(num: u64) -> OfferId {
        OfferId { epoch: Epoch(1), num }
    }

    fn job(state: JobState, change: impl FnOnce(&mut VmSpec)) -> Job {
        let mut vm = VmSpec { vcpus: 1, memory_bytes: 1 << 30, ..VmSpec::default() };
        change(&mut vm);
        let job = Job::of("web".parse().unwrap(), JobSpec::vm(vm), state);
        Job { revision: Revision(3), hold: Some(hold(7)), ..job }
    }

    fn row(view: &mut View, n: u8, obeyed: u64, jobs: Vec<Job>) {
        let cursor = Cursor { epoch: Epoch(1), seq: 1 };
        let host = Host { trust_version: Some(obeyed), ..Host::of_key(key(n).public()) };
        view.merge_inventory(Inventory { cursor, host, jobs, observed: vec![] });
    }

    fn of(obeyed: u64, job: Job, freshness: Freshness) -> Option<Want> {
        let mut view = View::default();
        row(&mut view, 1, obeyed, vec![job]);
        row(&mut view, 2, 3, vec![]);
        taken(&view, &trust(), |_| freshness).into_values().next().map(|(want, _)| want)
    }

    fn is_elsewhere(want: Option<Want>) -> bool {
        matches!(want, Some(Want::FailOver { lost, .. }) if lost.hold == hold(7))
    }

    #[test]
    fn what_was_taken_from_a_host_that_is_away_is_started_elsewhere_if_it_can_be() {
        let running = |change: fn(&mut VmSpec)| job(JobState::Running, change);
        assert!(is_elsewhere(of(1, running(|_| {}), Freshness::Lost)));
        assert_eq!(of(1, running(|_| {}), Freshness::Fresh), None, "it is about to hear");
        assert_eq!(of(2, running(|_| {}), Freshness::Lost), None, "taken since, and lost since");
        let disk = DiskSpec { name: "root".into(), size_bytes: 1, ..DiskSpec::default() };
        let with = |disk: DiskSpec| job(JobState::Running, |vm| vm.disks.push(disk));
        assert_eq!(of(1, with(disk.clone()), Freshness::Lost), None, "its disk is there");
        let ephemeral = DiskSpec { ephemeral: true, ..disk };
        assert!(is_elsewhere(of(1, with(ephemeral), Freshness::Lost)));
        let may_be_lost = running(|vm| vm.on_loss = OnLoss::Stop);
        assert_eq!(of(1, may_be_lost, Freshness::Lost), None, "that fails over by time");
        for state in
            [JobState::Stopped, JobState::Crashed, JobState::Stopping, JobState::MigratingIn]
        {
            assert_eq!(of(1, job(state, |_| {}), Freshness::Lost), None, "{state}");
        }
    }

    #[test]
    fn what_its_host_says_was_taken_is_started_again_there_if_nowhere_else() {
        let mut ended = job(JobState::Stopped, |_| {});
        ended.hold = None;
        assert_eq!(of(2, ended.clone(), Freshness::Fresh), None, "somebody has stopped it");
        ended.reason = Some(Reason::Fenced { lost: hold(7), ran: false });
        assert!(is_elsewhere(of(2, ended.clone(), Freshness::Fresh)));
        let disk = DiskSpec { name: "root".into(), size_bytes: 1, ..DiskSpec::default() };
        let mut vm = ended.spec.as_vm().unwrap().clone();
        vm.disks.push(disk);
        ended.spec = JobSpec::vm(vm).into();
        let there = of(2, ended, Freshness::Fresh);
        let host = HostId::of(&key(1).public());
        assert!(matches!(there, Some(Want::Run { on: Some(on), .. }) if on == host));
    }

    #[test]
    fn what_ran_by_a_budget_is_started_there_by_a_ticket_or_not_at_all() {
        let fenced = Some(Reason::Fenced { lost: hold(7), ran: false });
        let size = Budget { vcpus: 1, memory_bytes: 0, disk_bytes: 0, vms: 1 };
        let budget = JobSpec {
            kind: JobKind::Budget(size),
            ..job(JobState::Stopped, |_| {}).spec.as_ref().clone()
        };
        let budget = Job::of("a.h1".parse().unwrap(), budget, JobState::Stopped);
        let of = |change: fn(&mut VmSpec)| {
            let mut vm = job(JobState::Stopped, change);
            (vm.hold, vm.reason) = (None, fenced.clone());
            let mut view = View::default();
            let budget = Job { reason: fenced.clone(), ..budget.clone() };
            row(&mut view, 1, 2, vec![vm, budget]);
            taken(&view, &trust(), |_| Freshness::Fresh).into_values().next().map(|(want, _)| want)
        };
        assert_eq!(of(|_| {}), None);
        let there = of(|vm| {
            vm.disks.push(DiskSpec { name: "root".into(), size_bytes: 1, ..DiskSpec::default() });
        });
        assert!(matches!(there, Some(Want::Run { on: Some(_), .. })), "{there:?}");
    }

    #[test]
    fn what_somebody_has_had_since_is_left_alone() {
        let lost = job(JobState::Running, |_| {});
        for (revision, state, is_left) in [
            (4, JobState::Running, true),
            (4, JobState::Stopped, true),
            (3, JobState::Running, true),
            (3, JobState::Stopped, false),
            (4, JobState::MigratingIn, false),
        ] {
            let mut view = View::default();
            row(&mut view, 1, 1, vec![lost.clone()]);
            let other = Job { revision: Revision(revision), ..job(state, |_| {}) };
            row(&mut view, 2, 3, vec![other]);
            let taken = taken(&view, &trust(), |_| Freshness::Lost);
            assert_eq!(taken.is_empty(), is_left, "{revision} {state}");
        }
    }
}
