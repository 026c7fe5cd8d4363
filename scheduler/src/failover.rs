//! Which jobs have lost their host, and when each is started elsewhere.
//!
//! Decides from the view alone whom to try, and how often again. Whether a job may be started is the
//! arbiters' to say: they know whether its host may still run it, and whether it was promised to anybody
//! since. So a wrong guess here, by an old view or by two schedulers at once, costs a refusal.
//!
//! ```text
//!   runs ──its host is silent, or its right was lost──▶ to be started ──begun──▶ an open run ──▶ runs
//!                                                            ▲                       │ did not succeed
//!                                                            └── rest is over ── resting
//! ```
//!
//! Arbiters that have all forgotten (they died together) can't say which hold of a job was the last, and so
//! let nothing fail over: somebody may have had the job since, and have deleted it. Where this scheduler has
//! *seen* the loss, from the job being alive under that hold to its host saying that it was lost, and has
//! heard every host at each look since, nobody has. It is then started anew, on the host that lost it; that
//! it runs once is the arbiters' care as ever.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::api::Want;
use protocol::id::{HostId, JobId, OfferId};
use protocol::job::{Job, JobState, Reason};
use protocol::ticket::HoldAt;
use protocol::trust::Trust;
use protocol::view::{Freshness, HostRow, View};
use protocol::vm::{OnLoss, Priority};

use crate::fenced::{Taken, taken};
use crate::follow::HeardAt;
use crate::rest::rest_ms;

/// Runs of this kind that are open at a time: a lost host with hundreds of guests must not take every
/// place of an engine.
pub(crate) const OPEN_MAX: usize = 32;

/// First and longest rest after a run that did not succeed.
const REST_MS: (u64, u64) = (2_000, 60_000);

/// Rest of what arbiters say has been followed by another hold. Arbiters that have forgotten say so too.
const SUPERSEDED_MS: u64 = 600_000;

/// A hold that is tried again later.
#[derive(Debug, Clone)]
struct Rest {
    lost: HoldAt,
    until_ms: u64,
    failures: u32,
}

/// How an attempt has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It runs.
    Started,
    /// It is tried again later.
    Failed,
    /// The same, but a host has held it meanwhile, and could not start it. Arbiters that have covered this
    /// hold know it as the last one.
    Held(HoldAt),
    /// The arbiters know of a later hold: what was seen is left over.
    Superseded,
}

/// What a try of our own has left of a job.
#[derive(Debug, Clone)]
struct Try {
    lost: HoldAt,
    held: HoldAt,
}

/// The jobs that are started elsewhere.
#[derive(Debug, Default)]
pub struct FailOver {
    resting: BTreeMap<JobId, Rest>,
    /// Holds that tries of our own had, which failed at their hosts.
    tried: BTreeMap<JobId, Try>,
    lapsing: Lapsing,
    /// Jobs that were seen alive under a hold and then lost, and nowhere else since.
    seen: BTreeMap<JobId, HoldAt>,
    /// Those of them of which arbiters have forgotten everything.
    forgotten: BTreeMap<JobId, HoldAt>,
    /// Whether every host was heard at the last look.
    was_whole: bool,
    /// Tells which hosts are said to be off.
    trust: Option<Arc<Trust>>,
}

/// Rows of jobs that may be lost, found without a walk over all of a view: kept up by what has changed.
#[derive(Debug, Default)]
struct Lapsing {
    view: View,
    homes: BTreeMap<JobId, BTreeSet<HostId>>,
    /// Those whose host says that it has lost the right to run them.
    let_go: BTreeSet<(HostId, JobId)>,
}

impl FailOver {
    /// The trust document in force.
    pub fn obey(&mut self, trust: Option<Arc<Trust>>) {
        self.trust = trust;
    }

    /// What is to be begun now, most important first, each with the hold that was lost. `open` are the jobs
    /// with a run that has not ended.
    pub fn due(
        &mut self,
        now_ms: u64,
        view: &View,
        freshness: impl Fn(&HostId) -> Freshness,
        open: &[JobId],
    ) -> Vec<(Want, HoldAt)> {
        self.lapsing.follow(view);
        let by = self.trust.as_ref().filter(|trust| !trust.fenced.is_empty());
        let taken = by.map_or_else(Taken::new, |trust| taken(view, trust, &freshness));
        let lost = self.lapsing.lost(&freshness);
        let is_lost = |job: &JobId, known: &HoldAt| {
            let at = lost.get(job).map(|(_, at)| at).or(taken.get(job).map(|(_, at)| at));
            at == Some(known)
        };
        self.resting.retain(|job, rest| is_lost(job, &rest.lost));
        self.tried.retain(|job, tried| is_lost(job, &tried.lost));
        let is_resting =
            |job: &JobId| self.resting.get(job).is_some_and(|rest| now_ms < rest.until_ms);
        let is_due = |job: &JobId| !open.contains(job) && !is_resting(job);
        let taken = taken.into_iter().filter(|(job, _)| is_due(job)).map(|(_, due)| due);
        let due = lost.into_iter().filter(|(job, _)| is_due(job));
        let want = |(job, (row, lost)): (JobId, (&Job, HoldAt))| {
            let spec = row.spec.as_ref().clone();
            let want = if self.forgotten.get(&job) == Some(&lost) {
                Want::Run { job, spec, on: Some(lost.host.clone()), again: true }
            } else {
                let last = self.tried.get(&job).map_or(&lost, |tried| &tried.held).clone();
                Want::FailOver { job, spec, revision: row.revision, lost: last }
            };
            (want, lost)
        };
        let mut due: Vec<(Want, HoldAt)> = due.map(want).chain(taken).collect();
        due.sort_by_key(|(want, _)| Reverse(priority_of(want)));
        due.truncate(OPEN_MAX.saturating_sub(open.len()));
        due
    }

    /// The view was not followed for a while: what happened meanwhile was not seen.
    pub fn lost_sight(&mut self) {
        self.was_whole = false;
        self.seen.clear();
        self.forgotten.clear();
    }

    /// Notes whose loss is seen: alive in the view of the look before, and lost in this one. While a host is
    /// not heard, it may do anything.
    pub fn see(
        &mut self,
        before: Option<&View>,
        view: &View,
        freshness: impl Fn(&HostId) -> Freshness,
    ) {
        if view.hosts().any(|(host, _)| freshness(host) != Freshness::Fresh) {
            return self.lost_sight();
        }
        // What was shown of a host that was not heard is no sight of it.
        let before = before.filter(|_| self.was_whole);
        self.was_whole = true;
        self.lapsing.follow(view);
        let lost = self.lapsing.lost(|_| Freshness::Fresh);
        let was_alive = |job: &JobId, at: &HoldAt| {
            let row =
                before.and_then(|before| before.host(&at.host)).and_then(|row| row.jobs.get(job));
            row.is_some_and(|row| !row.state.is_ended() && row.hold == Some(at.hold))
        };
        let is_seen =
            |job: &JobId, at: &HoldAt| self.seen.get(job) == Some(at) || was_alive(job, at);
        let seen = lost.iter().map(|(job, (_, at))| (job, at));
        let seen: BTreeMap<JobId, HoldAt> = seen
            .filter(|(job, at)| is_seen(job, at))
            .map(|(job, at)| (job.clone(), at.clone()))
            .collect();
        self.forgotten.retain(|job, at| seen.get(job) == Some(at));
        self.seen = seen;
    }

    /// A run has ended, or could not be begun.
    pub fn ended(&mut self, now_ms: u64, job: JobId, lost: HoldAt, how: Ended) {
        let was_seen = self.seen.get(&job) == Some(&lost);
        let how = match how {
            // Nobody can have had it since.
            Ended::Superseded if was_seen => {
                self.forgotten.insert(job.clone(), lost.clone());
                Ended::Failed
            }
            // No arbiter has covered what the try had.
            Ended::Superseded if self.tried.remove(&job).is_some() => Ended::Failed,
            Ended::Held(held) => {
                self.tried.insert(job.clone(), Try { lost: lost.clone(), held });
                Ended::Failed
            }
            how => how,
        };
        let failures = self.resting.get(&job).map_or(0, |rest| rest.failures);
        let rest_ms = rest_ms(REST_MS, failures);
        let until_ms = match how {
            // What is still told as lost after that is left over, and a run for it ends at once each time.
            Ended::Started => {
                self.tried.remove(&job);
                now_ms + rest_ms
            }
            Ended::Failed | Ended::Held(_) => now_ms + rest_ms,
            Ended::Superseded => now_ms + SUPERSEDED_MS,
        };
        let failures = failures.saturating_add(1);
        self.resting.insert(job, Rest { lost, until_ms, failures });
    }
}

impl Lapsing {
    fn follow(&mut self, view: &View) {
        let before = std::mem::replace(&mut self.view, view.clone());
        for host in view.changed_since(&before) {
            for job in lapsing_on(&before, host) {
                if let Some(homes) = self.homes.get_mut(&job.id) {
                    homes.remove(host);
                    if homes.is_empty() {
                        self.homes.remove(&job.id);
                    }
                }
                self.let_go.remove(&(host.clone(), job.id.clone()));
            }
            for job in lapsing_on(view, host) {
                self.homes.entry(job.id.clone()).or_default().insert(host.clone());
                if hold_lost(job, || true).is_some() {
                    self.let_go.insert((host.clone(), job.id.clone()));
                }
            }
        }
    }

    /// Jobs whose newest row shows a hold that was lost, or that is on a host which is not heard.
    fn lost(&self, freshness: impl Fn(&HostId) -> Freshness) -> BTreeMap<JobId, (&Job, HoldAt)> {
        let hosts = self.view.hosts().map(|(host, _)| host);
        let silent = hosts.filter(|host| freshness(host) != Freshness::Fresh);
        let alive = silent.flat_map(|host| lapsing_on(&self.view, host)).map(|job| &job.id);
        let jobs: BTreeSet<&JobId> = alive.chain(self.let_go.iter().map(|(_, job)| job)).collect();
        let lost = jobs.into_iter().filter_map(|id| {
            let (host, job) = self.newest(id)?;
            let hold = hold_lost(job, || freshness(host) == Freshness::Fresh)?;
            Some((id.clone(), (job, HoldAt { host: host.clone(), hold })))
        });
        lost.collect()
    }

    /// The row of the latest change; of two that say the same one, that of the first host.
    fn newest(&self, id: &JobId) -> Option<(&HostId, &Job)> {
        let hosts = self.homes.get(id)?.iter();
        let rows =
            hosts.filter_map(|host| Some((host, self.view.host(host)?.jobs.get(id)?.as_ref())));
        rows.reduce(|known, row| if row.1.revision > known.1.revision { row } else { known })
    }
}

/// Jobs of a host that may be lost, but for those that are still on their way to it.
fn lapsing_on<'v>(view: &'v View, host: &HostId) -> impl Iterator<Item = &'v Job> {
    let jobs = view.host(host).into_iter().flat_map(|row| row.jobs.values());
    jobs.map(AsRef::as_ref).filter(|job| lapses(job))
}

/// Rows of silent hosts that say that a VM is alive which runs elsewhere by a later change: what failed
/// over, or was taken from its host by an operator's word. Its host will say so itself when it is heard again.
pub(crate) fn superseded(view: &View, is_heard: impl Fn(&HostId) -> bool) -> Vec<(HostId, JobId)> {
    let silent = view.hosts().filter(|(host, _)| !is_heard(host)).map(|(_, row)| row);
    superseded_on(silent, |job| {
        view.hosts().filter_map(|(_, row)| row.jobs.get(job)).map(AsRef::as_ref).collect()
    })
}

/// The same of these silent hosts, where each job's rows are known.
pub(crate) fn superseded_on<'v>(
    silent: impl Iterator<Item = &'v HostRow>,
    rows_of: impl Fn(&JobId) -> Vec<&'v Job>,
) -> Vec<(HostId, JobId)> {
    let is_later = |job: &Job| {
        let mut rows = rows_of(&job.id).into_iter();
        rows.any(|row| row.revision > job.revision && row.state != JobState::MigratingIn)
    };
    let mut found = Vec::new();
    for row in silent {
        let alive = row.jobs.values().filter(|job| !job.state.is_ended());
        let alive = alive.filter(|job| job.spec.as_vm().is_some());
        let later = alive.filter(|job| is_later(job));
        found.extend(later.map(|job| (row.host.id.clone(), job.id.clone())));
    }
    found
}

/// A job that may be lost, where it is and does not only come to.
fn lapses(job: &Job) -> bool {
    let is_arriving = job.state == JobState::MigratingIn;
    job.spec.as_vm().is_some_and(|vm| vm.on_loss == OnLoss::Stop) && !is_arriving
}

fn hold_lost(job: &Job, is_heard: impl FnOnce() -> bool) -> Option<OfferId> {
    match (job.state, &job.reason) {
        (
            JobState::Stopped,
            Some(Reason::TenureLost { lost: hold } | Reason::Fenced { lost: hold, .. }),
        ) => Some(*hold),
        // Somebody wants it to end.
        (JobState::Stopping, _) => None,
        (state, _) if state.is_ended() || is_heard() => None,
        _ => job.hold,
    }
}

/// How fresh a host is, as far as a monitor has said.
#[must_use]
pub fn freshness_of(heard: Option<&HeardAt>) -> Freshness {
    // Whom no monitor has spoken of yet may be well.
    heard.map_or(Freshness::Fresh, |heard| heard.freshness)
}

/// What is started first when there is not room, or time, for all.
fn priority_of(want: &Want) -> Priority {
    match want {
        Want::Run { spec, .. } | Want::Spend { spec, .. } | Want::FailOver { spec, .. } => {
            spec.priority()
        }
        _ => Priority::default(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::host::{Accel, Host, HypervisorFacts, Inventory};
    use protocol::id::{Cursor, Epoch, Revision};
    use protocol::job::JobSpec;
    use protocol::signed::SecretKey;
    use protocol::vm::{Rank, VmSpec};

    use super::*;

    fn host(n: u8) -> Host {
        let key = SecretKey::from_seed([n; 32]).public();
        Host {
            name: format!("h{n}"),
            hypervisor: HypervisorFacts {
                driver: "QEMU".into(),
                accel: Accel::Tcg,
                can_receive: true,
                can_guard: true,
                ..HypervisorFacts::default()
            },
            trust_version: Some(1),
            ..Host::of_key(key)
        }
    }

    fn job(revision: u64, hold: u64, on_loss: OnLoss, state: JobState) -> Job {
        let vm = VmSpec { vcpus: 1, memory_bytes: 1 << 30, on_loss, ..VmSpec::default() };
        Job {
            revision: Revision(revision),
            hold: Some(OfferId { epoch: Epoch(1), num: hold }),
            ..Job::of("web".parse().unwrap(), JobSpec::vm(vm), state)
        }
    }

    fn view(rows: &[(u8, Job)]) -> View {
        let mut view = View::default();
        for (n, row) in rows {
            let cursor = Cursor { epoch: Epoch(1), seq: 1 };
            let inventory =
                Inventory { cursor, host: host(*n), jobs: vec![row.clone()], observed: vec![] };
            view.merge_inventory(inventory);
        }
        view
    }

    /// Jobs that are lost, by a look at every row.
    fn lost_of_all(
        view: &View,
        freshness: impl Fn(&HostId) -> Freshness,
    ) -> BTreeMap<JobId, HoldAt> {
        let mut newest: BTreeMap<JobId, (HostId, &Job)> = BTreeMap::new();
        for (host, _) in view.hosts() {
            for job in lapsing_on(view, host) {
                if newest.get(&job.id).is_none_or(|(_, known)| known.revision < job.revision) {
                    newest.insert(job.id.clone(), (host.clone(), job));
                }
            }
        }
        let lost = newest.into_iter().filter_map(|(id, (host, job))| {
            let hold = hold_lost(job, || freshness(&host) == Freshness::Fresh)?;
            Some((id, HoldAt { host, hold }))
        });
        lost.collect()
    }

    proptest! {
        #[test]
        fn what_is_lost_is_the_same_by_what_has_changed_and_by_a_look_at_all(
            rounds in prop::collection::vec(
                (prop::collection::btree_map(0..5_u8, prop::collection::vec(any_row(), 0..4), 0..5),
                 prop::collection::btree_set(0..5_u8, 0..3)),
                1..8,
            ),
        ) {
            let mut failover = FailOver::default();
            let mut view = View::default();
            for (seq, (rows, silent)) in (1..).zip(rounds) {
                for n in 0..5_u8 {
                    // A host is heard with other jobs, is as it was, or is gone for good.
                    let Some(jobs) = rows.get(&n) else {
                        if seq % 3 == 0 {
                            view.forget(&host(n).id);
                        }
                        continue;
                    };
                    let cursor = Cursor { epoch: Epoch(1), seq };
                    let jobs: BTreeMap<JobId, Job> =
                        jobs.iter().map(|job| (job.id.clone(), job.clone())).collect();
                    let jobs = jobs.into_values().collect();
                    view.merge_inventory(Inventory { cursor, host: host(n), jobs, observed: vec![] });
                }
                let silent: BTreeSet<HostId> = silent.into_iter().map(|n| host(n).id).collect();
                let freshness = |id: &HostId| match silent.contains(id) {
                    true => Freshness::Stale,
                    false => Freshness::Fresh,
                };
                let due = failover.due(0, &view, freshness, &[]).into_iter();
                let due = due.map(|(want, _)| match want {
                    Want::FailOver { job, lost, .. } => (job, lost),
                    other => panic!("{other:?}"),
                });
                prop_assert_eq!(due.collect::<BTreeMap<_, _>>(), lost_of_all(&view, freshness));
            }
        }
    }

    #[test]
    fn what_matters_most_is_started_first_and_has_the_last_places() {
        let count = OPEN_MAX + 10;
        let mut view = View::default();
        let jobs = (0..count).map(|n| {
            let mut job = job(1, 1, OnLoss::Stop, JobState::Running);
            job.id = format!("web-{n:03}").parse().unwrap();
            let priority = u8::try_from(n % 100 + 1).unwrap();
            let rank = Rank { priority: Priority::try_from(priority).ok(), preemptible: None };
            job.spec = job.spec.ranked(rank).unwrap().into();
            job
        });
        let cursor = Cursor { epoch: Epoch(1), seq: 1 };
        let jobs = jobs.collect();
        view.merge_inventory(Inventory { cursor, host: host(1), jobs, observed: vec![] });
        let wants = due(&mut FailOver::default(), 0, &view, 1);
        let priorities: Vec<u8> = wants.iter().map(|want| priority_of(want).into()).collect();
        let most = u8::try_from(count).unwrap();
        let best: Vec<u8> = (0..u8::try_from(OPEN_MAX).unwrap()).map(|n| most - n).collect();
        assert_eq!(priorities, best);
    }

    fn any_row() -> impl Strategy<Value = Job> {
        let states = [
            JobState::Running,
            JobState::Running,
            JobState::MigratingIn,
            JobState::Stopping,
            JobState::Stopped,
        ];
        (0..4_u8, 0..4_u64, any::<bool>(), prop::sample::select(states.to_vec()), any::<bool>())
            .prop_map(|(name, revision, is_kept, state, has_lost)| {
                let on_loss = if is_kept { OnLoss::Keep } else { OnLoss::Stop };
                let mut job = job(revision, revision, on_loss, state);
                job.id = format!("web{name}").parse().unwrap();
                if state == JobState::Stopped && has_lost {
                    job.reason = job.hold.map(|lost| Reason::TenureLost { lost });
                }
                job
            })
    }

    fn due(failover: &mut FailOver, now_ms: u64, view: &View, silent: u8) -> Vec<Want> {
        let silent = host(silent).id;
        let freshness =
            |id: &HostId| if *id == silent { Freshness::Stale } else { Freshness::Fresh };
        failover.due(now_ms, view, freshness, &[]).into_iter().map(|(want, _)| want).collect()
    }

    fn lost_hold(wants: &[Want]) -> Option<u64> {
        match wants {
            [Want::FailOver { lost, .. }] => Some(lost.hold.num),
            [] => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_runs_on_a_silent_host_is_started_elsewhere_if_it_may_be() {
        let mut failover = FailOver::default();
        let stop = view(&[(1, job(1, 7, OnLoss::Stop, JobState::Running))]);
        assert_eq!(lost_hold(&due(&mut failover, 0, &stop, 2)), None, "its host is heard");
        assert_eq!(lost_hold(&due(&mut failover, 0, &stop, 1)), Some(7));
        let keep = view(&[(1, job(1, 7, OnLoss::Keep, JobState::Running))]);
        assert_eq!(lost_hold(&due(&mut failover, 0, &keep, 1)), None);
        let stopping = view(&[(1, job(1, 7, OnLoss::Stop, JobState::Stopping))]);
        assert_eq!(lost_hold(&due(&mut failover, 0, &stopping, 1)), None, "nobody wants it");
    }

    #[test]
    fn what_is_told_as_lost_though_it_was_started_is_not_asked_for_without_rest() {
        let mut failover = FailOver::default();
        let mut left_over = job(999, 7, OnLoss::Stop, JobState::Stopped);
        left_over.reason = left_over.hold.map(|lost| Reason::TenureLost { lost });
        let runs = (2, job(2, 3, OnLoss::Stop, JobState::Running));
        let view_of = |row: Job| view(&[(1, row), runs.clone()]);
        let (odd, lost) = (
            view_of(left_over.clone()),
            HoldAt { host: host(1).id, hold: left_over.hold.unwrap() },
        );
        assert_eq!(lost_hold(&due(&mut failover, 0, &odd, 3)), Some(7));
        for (at, rest) in [(0, REST_MS.0), (10_000, 2 * REST_MS.0)] {
            failover.ended(at, left_over.id.clone(), lost.clone(), Ended::Started);
            assert_eq!(lost_hold(&due(&mut failover, at + rest - 1, &odd, 3)), None);
            assert_eq!(lost_hold(&due(&mut failover, at + rest, &odd, 3)), Some(7));
        }
        // Another loss is none of that.
        let mut next = job(1000, 8, OnLoss::Stop, JobState::Stopped);
        next.reason = next.hold.map(|lost| Reason::TenureLost { lost });
        assert_eq!(lost_hold(&due(&mut failover, 10_001, &view_of(next), 3)), Some(8));
    }

    #[test]
    fn the_newest_row_counts_and_not_what_a_lost_host_said_before() {
        let mut failover = FailOver::default();
        let old = (1, job(1, 7, OnLoss::Stop, JobState::Running));
        let runs = view(&[old.clone(), (2, job(2, 3, OnLoss::Stop, JobState::Running))]);
        assert_eq!(lost_hold(&due(&mut failover, 0, &runs, 1)), None);
        let stopped = view(&[old.clone(), (2, job(2, 3, OnLoss::Stop, JobState::Stopped))]);
        assert_eq!(lost_hold(&due(&mut failover, 0, &stopped, 1)), None);
        let arriving = view(&[old, (2, job(2, 3, OnLoss::Stop, JobState::MigratingIn))]);
        assert_eq!(lost_hold(&due(&mut failover, 0, &arriving, 1)), Some(7), "not there yet");
    }

    #[test]
    fn a_lost_right_is_asked_for_anew_wherever_its_host_is() {
        let mut failover = FailOver::default();
        let mut row = job(1, 7, OnLoss::Stop, JobState::Stopped);
        let hold = row.hold.take().unwrap();
        row.reason = Some(Reason::TenureLost { lost: hold });
        assert_eq!(lost_hold(&due(&mut failover, 0, &view(&[(1, row)]), 2)), Some(7));
    }

    #[test]
    fn what_did_not_succeed_rests_longer_each_time_and_another_loss_does_not() {
        let mut failover = FailOver::default();
        let one = view(&[(1, job(1, 7, OnLoss::Stop, JobState::Running))]);
        let at = |num| HoldAt { host: host(1).id, hold: OfferId { epoch: Epoch(1), num } };
        failover.ended(0, "web".parse().unwrap(), at(7), Ended::Failed);
        assert_eq!(lost_hold(&due(&mut failover, 1_999, &one, 1)), None);
        assert_eq!(lost_hold(&due(&mut failover, 2_000, &one, 1)), Some(7));
        failover.ended(2_000, "web".parse().unwrap(), at(7), Ended::Failed);
        assert_eq!(lost_hold(&due(&mut failover, 5_999, &one, 1)), None);
        let other = view(&[(1, job(3, 9, OnLoss::Stop, JobState::Running))]);
        assert_eq!(lost_hold(&due(&mut failover, 2_001, &other, 1)), Some(9));
        failover.ended(3_000, "web".parse().unwrap(), at(9), Ended::Superseded);
        let later = 3_000 + SUPERSEDED_MS;
        assert_eq!(lost_hold(&due(&mut failover, later - 1, &other, 1)), None, "left over");
    }

    #[test]
    fn what_a_try_of_our_own_has_held_is_named_as_the_last_until_arbiters_know_better() {
        let mut failover = FailOver::default();
        let one = view(&[(1, job(1, 7, OnLoss::Stop, JobState::Running))]);
        let id: JobId = "web".parse().unwrap();
        let at = |n: u8, num| HoldAt { host: host(n).id, hold: OfferId { epoch: Epoch(1), num } };
        let lost = at(1, 7);
        failover.ended(0, id.clone(), lost.clone(), Ended::Held(at(3, 5)));
        assert!(due(&mut failover, REST_MS.0 - 1, &one, 1).is_empty());
        let names = |failover: &mut FailOver, now_ms| match &due(failover, now_ms, &one, 1)[..] {
            [Want::FailOver { lost, .. }] => Some(lost.clone()),
            _ => None,
        };
        assert_eq!(names(&mut failover, REST_MS.0), Some(at(3, 5)));
        failover.ended(2_000, id.clone(), lost.clone(), Ended::Held(at(2, 9)));
        assert_eq!(names(&mut failover, 10_000), Some(at(2, 9)), "the last of several");
        failover.ended(10_000, id.clone(), lost.clone(), Ended::Superseded);
        assert_eq!(names(&mut failover, 30_000), Some(lost.clone()), "it was not covered");
        failover.ended(30_000, id.clone(), lost.clone(), Ended::Superseded);
        assert_eq!(names(&mut failover, 30_000 + SUPERSEDED_MS - 1), None, "left over");
        // It runs somewhere, and is lost there: what was tried before says nothing of that.
        failover.ended(0, id, lost, Ended::Held(at(2, 9)));
        let later = view(&[(1, job(3, 8, OnLoss::Stop, JobState::Running))]);
        assert_eq!(lost_hold(&due(&mut failover, 0, &later, 1)), Some(8));
    }

    fn is_started_anew(wants: &[Want]) -> bool {
        matches!(wants, [Want::Run { on: Some(on), .. }] if *on == host(1).id)
    }

    #[test]
    fn what_all_arbiters_have_forgotten_is_started_anew_where_its_loss_was_seen() {
        let id: JobId = "web".parse().unwrap();
        let at = HoldAt { host: host(1).id, hold: OfferId { epoch: Epoch(1), num: 7 } };
        let alive = view(&[(1, job(1, 7, OnLoss::Stop, JobState::Running))]);
        let mut row = job(1, 7, OnLoss::Stop, JobState::Stopped);
        row.reason = Some(Reason::TenureLost { lost: row.hold.take().unwrap() });
        let lost = view(&[(1, row.clone())]);
        let fresh = |_: &HostId| Freshness::Fresh;
        let ask = |failover: &mut FailOver, now_ms| due(failover, now_ms, &lost, 9);
        let forget = |failover: &mut FailOver| {
            assert_eq!(lost_hold(&ask(failover, 0)), Some(7), "as if they remembered");
            failover.ended(0, id.clone(), at.clone(), Ended::Superseded);
        };
        let watching = || {
            let mut failover = FailOver::default();
            failover.see(None, &alive, fresh);
            failover
        };
        let mut failover = watching();
        failover.see(Some(&alive), &lost, fresh);
        failover.see(Some(&lost), &lost, fresh);
        forget(&mut failover);
        assert!(ask(&mut failover, REST_MS.0 - 1).is_empty(), "not at once");
        assert!(is_started_anew(&ask(&mut failover, REST_MS.0)));
        // It runs elsewhere, and is gone from there.
        let elsewhere = view(&[(1, row.clone()), (2, job(2, 3, OnLoss::Stop, JobState::Running))]);
        failover.see(Some(&lost), &elsewhere, fresh);
        assert!(due(&mut failover, REST_MS.0, &elsewhere, 9).is_empty());
        failover.see(Some(&elsewhere), &lost, fresh);
        forget(&mut failover);
        assert!(ask(&mut failover, SUPERSEDED_MS - 1).is_empty(), "by command, it may be");

        let other = view(&[(1, job(1, 6, OnLoss::Stop, JobState::Running))]);
        let away =
            |id: &HostId| if *id == host(1).id { Freshness::Stale } else { Freshness::Fresh };
        let unseen: [&dyn Fn(&mut FailOver); 6] = [
            &|_| {},
            &|failover| failover.see(None, &lost, fresh),
            &|failover| {
                failover.see(Some(&alive), &alive, away);
                failover.see(Some(&alive), &lost, fresh);
            },
            &|failover| failover.see(Some(&other), &lost, fresh),
            &|failover| {
                failover.see(Some(&alive), &lost, fresh);
                failover.lost_sight();
            },
            &|failover| {
                failover.see(Some(&alive), &lost, fresh);
                failover.see(Some(&lost), &lost, away);
                failover.see(Some(&lost), &lost, fresh);
            },
        ];
        for look in unseen {
            let mut failover = watching();
            look(&mut failover);
            forget(&mut failover);
            assert!(ask(&mut failover, SUPERSEDED_MS - 1).is_empty(), "somebody may have had it");
        }
    }
}
