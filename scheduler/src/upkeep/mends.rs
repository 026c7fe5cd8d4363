//! How many mends go on at once, and when a job is left alone.
//!
//! ```text
//!   to be mended ──begun──▶ an open run ──succeeded──▶ calm: not mended again for a while, twice as
//!        ▲                      │ did not succeed            long each time
//!        └── rest is over ── resting (its target is left alone meanwhile)
//! ```
//!
//! A mend lowers what is violated, or is a step aside for one that does, so mends that succeed never go round in circles. What
//! may is the world: a label that comes and goes, a guest that ends as soon as it runs. Calm is for these.

use std::collections::BTreeMap;

use planner::Step;
use protocol::id::{HostId, JobId, RunId};

use crate::drain::{ARRIVING_MAX, LEAVING_MAX};
use crate::rest::{BUSY_MS, rest_ms};

/// Mends that are open at a time: the rest of an engine's places are for people and failover.
pub(crate) const MENDS_MAX: usize = 16;

/// First and longest rest after a mend that did not succeed.
const REST_MS: (u64, u64) = (5_000, 300_000);

/// First and longest time that a job is left alone after a mend that did.
const CALM_MS: (u64, u64) = (10_000, 600_000);

/// A job that has needed no mend for so long is as good as new.
const CALM_OVER_MS: u64 = 1_800_000;

/// A run that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Its id.
    pub run: RunId,
    /// The job that it changes.
    pub job: JobId,
    /// Where the job is alive, if the run moves it.
    pub from: Option<HostId>,
    /// Where it goes, if that is known.
    pub to: Option<HostId>,
}

#[derive(Debug, Clone)]
struct Rest {
    until_ms: u64,
    failures: u32,
    shunned: Option<(HostId, String)>,
    why: String,
}

#[derive(Debug, Clone)]
struct Calm {
    mended_ms: u64,
    count: u32,
    /// True when it was for another's sake.
    is_favour: bool,
}

impl Calm {
    fn until_ms(&self) -> u64 {
        self.mended_ms + rest_ms(CALM_MS, self.count.saturating_sub(1))
    }
}

/// What was mended, or could not be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mends {
    resting: BTreeMap<JobId, Rest>,
    calm: BTreeMap<JobId, Calm>,
}

impl Mends {
    /// Until when the job is left alone, and why.
    pub(crate) fn rest(&self, now_ms: u64, job: &JobId) -> Option<(u64, String)> {
        let resting = self.resting.get(job).map(|rest| (rest.until_ms, rest.why.clone()));
        let calm = self.calm.get(job).map(|calm| {
            let why = format!("{job} was mended or moved {} times of late", calm.count);
            (calm.until_ms(), why)
        });
        let until = resting.into_iter().chain(calm).max_by_key(|(until_ms, _)| *until_ms);
        until.filter(|(until_ms, _)| *until_ms > now_ms)
    }

    /// Jobs that are left alone now: for want of success, and because they were mended of late.
    pub(crate) fn resting(&self, now_ms: u64) -> (u64, u64) {
        let resting = self.resting.values().filter(|rest| rest.until_ms > now_ms).count();
        let calm = self.calm.values().filter(|calm| calm.until_ms() > now_ms).count();
        (resting as u64, calm as u64)
    }

    /// Jobs that are left alone now.
    pub(crate) fn left_alone(&self, now_ms: u64) -> impl Iterator<Item = &JobId> {
        let known = self.resting.keys().chain(self.calm.keys());
        known.filter(move |job| self.rest(now_ms, job).is_some())
    }

    /// Hosts at which mends have failed of late, with what was said.
    pub(crate) fn shunned(&self, now_ms: u64) -> BTreeMap<HostId, String> {
        let resting = self.resting.values().filter(|rest| rest.until_ms > now_ms);
        resting.filter_map(|rest| rest.shunned.clone()).collect()
    }

    /// Whether a step may be begun beside what goes on; if so it counts as open from now on.
    pub(crate) fn admit(
        &self,
        now_ms: u64,
        step: &Step,
        begun: &mut Vec<(Option<HostId>, HostId)>,
        open: &[Open],
    ) -> bool {
        let job = step.job();
        let (from, to) = match step {
            Step::MigrateVm(step) => (Some(step.from.clone()), step.to.clone()),
            Step::StartVm(step) => (None, step.host.clone()),
            Step::ResizeVm(step) => (None, step.host.clone()),
            // Nothing is ended or deleted to mend something.
            // A host is woken by the run of what starts there.
            Step::StopVm(_) | Step::DeleteVm(_) | Step::WakeHost(_) | Step::SleepHost(_) => {
                return false;
            }
        };
        let froms = open.iter().map(|run| &run.from).chain(begun.iter().map(|(from, _)| from));
        let leaving = froms.flatten().filter(|host| from.as_ref() == Some(*host)).count();
        let tos = open.iter().filter_map(|run| run.to.as_ref());
        let arriving =
            tos.chain(begun.iter().map(|(_, to)| to)).filter(|host| **host == to).count();
        let may = self.rest(now_ms, job).is_none()
            && open.iter().all(|run| run.job != *job)
            && leaving < LEAVING_MAX
            && arriving < ARRIVING_MAX;
        if may {
            begun.push((from, to));
        }
        may
    }

    /// A mend has ended.
    pub(crate) fn ended(
        &mut self,
        now_ms: u64,
        job: JobId,
        to: HostId,
        failure: Option<String>,
        is_favour: bool,
    ) {
        let Some(why) = failure else { return self.moved(now_ms, job, is_favour) };
        let failures = self.resting.get(&job).map_or(0, |rest| rest.failures);
        let rest = Rest {
            until_ms: now_ms + rest_ms(REST_MS, failures),
            failures: failures.saturating_add(1),
            shunned: Some((to, why.clone())),
            why: format!("the last try did not succeed: {why}"),
        };
        self.resting.insert(job, rest);
    }

    /// A job is as it should be, or has been moved for another's sake.
    pub(crate) fn moved(&mut self, now_ms: u64, job: JobId, is_favour: bool) {
        self.resting.remove(&job);
        let calm = self.calm.entry(job).or_insert(Calm { mended_ms: now_ms, count: 0, is_favour });
        if now_ms.saturating_sub(calm.mended_ms) > CALM_OVER_MS {
            calm.count = 0;
        }
        (calm.mended_ms, calm.count) = (now_ms, calm.count.saturating_add(1));
        calm.is_favour = is_favour;
        self.calm.retain(|_, calm| now_ms.saturating_sub(calm.mended_ms) <= CALM_OVER_MS);
    }

    /// A mend could not be begun now: somebody else is changing the job.
    pub(crate) fn busy(&mut self, now_ms: u64, job: JobId) {
        let failures = self.resting.get(&job).map_or(0, |rest| rest.failures);
        let why = format!("{job} is being changed by somebody else");
        let rest = Rest { until_ms: now_ms + BUSY_MS, failures, shunned: None, why };
        self.resting.insert(job, rest);
    }

    /// Forgets jobs of which nothing is expected any more. Whoever was moved for another's sake is left alone all the
    /// same.
    pub(crate) fn retain(&mut self, now_ms: u64, is_expected: impl Fn(&JobId) -> bool) {
        self.resting.retain(|job, rest| is_expected(job) || rest.until_ms > now_ms);
        self.calm.retain(|job, calm| is_expected(job) || calm.is_favour);
    }
}
