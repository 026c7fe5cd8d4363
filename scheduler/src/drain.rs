//! Which moves empty the hosts that are drained, and when each is begun.
//!
//! Decides how many guests move at a time and when one that could not be moved is tried again.
//! Which host takes which guest is the planner's; that a host is drained is the host's own word,
//! so nothing of this has to be remembered over a restart.
//!
//! ```text
//!   to be moved ──begun──▶ an open run ──succeeded──▶ gone
//!        ▲                     │ did not succeed
//!        └── rest is over ── resting (its target is left alone meanwhile)
//! ```

use std::collections::BTreeMap;

use planner::steps::MigrateVm;
use protocol::id::{HostId, JobId};

use crate::rest::{BUSY_MS, rest_ms};

/// Guests that leave one host at a time. Each copies memory and disks over the same wire, and two
/// keep it busy while one of them is at its beginning or end.
pub(crate) const LEAVING_MAX: usize = 2;

/// Guests that arrive on one host at a time, for the same reason.
pub(crate) const ARRIVING_MAX: usize = 2;

/// First and longest rest after a move that did not succeed: whoever has mended what stood in the way does not wait longer.
const REST_MS: (u64, u64) = (5_000, 300_000);

/// What happens to the emptying of hosts.
#[derive(Debug, Clone)]
pub enum Input {
    /// Hosts were looked at, and a plan was made.
    Looked {
        /// Moves that empty what is drained, most important first.
        moves: Vec<MigrateVm>,
        /// Runs that have not ended.
        open: Vec<Open>,
    },
    /// A move that was begun has ended.
    Ended {
        /// The guest.
        job: JobId,
        /// Where it was to go.
        to: HostId,
        /// Why it did not get there; `None` when it did.
        failure: Option<String>,
    },
    /// A move could not be begun now: somebody else is changing the guest.
    Busy {
        /// The guest.
        job: JobId,
    },
}

/// A run that has not ended, as far as it takes from the wire of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The job.
    pub job: JobId,
    /// The drained host where it is alive, if it is on one.
    pub from: Option<HostId>,
    /// Where it goes, if it is a move.
    pub to: Option<HostId>,
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Begin a run that moves the guest.
    Move {
        /// The guest.
        job: JobId,
        /// Where to.
        to: HostId,
    },
}

/// A guest that could not be moved.
#[derive(Debug, Clone)]
struct Rest {
    until_ms: u64,
    failures: u32,
    /// Where it could not go, and why.
    shunned: Option<(HostId, String)>,
}

/// The emptying of every drained host.
#[derive(Debug, Default)]
pub struct Drain {
    resting: BTreeMap<JobId, Rest>,
}

impl Drain {
    /// Takes one input; what has to be done is added to `out`, in order.
    pub fn handle(&mut self, now_ms: u64, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Looked { moves, open } => {
                // Who was not tried again for so long is gone, or stays where it is.
                self.resting.retain(|_, rest| now_ms < rest.until_ms.saturating_add(REST_MS.1));
                self.begin(now_ms, moves, open, out);
            }
            Input::Ended { job, failure: None, .. } => drop(self.resting.remove(&job)),
            Input::Ended { job, to, failure: Some(why) } => self.rest(now_ms, job, to, why),
            Input::Busy { job } => {
                let failures = self.resting.get(&job).map_or(0, |rest| rest.failures);
                let rest = Rest { until_ms: now_ms + BUSY_MS, failures, shunned: None };
                self.resting.insert(job, rest);
            }
        }
    }

    /// Hosts that a move to has failed of late, with what was said. A plan leaves them out.
    pub(crate) fn shunned(&self, now_ms: u64) -> BTreeMap<HostId, String> {
        let resting = self.resting.values().filter(|rest| rest.until_ms > now_ms);
        resting.filter_map(|rest| rest.shunned.clone()).collect()
    }

    /// When something is tried again that is not tried now.
    pub(crate) fn due_ms(&self, now_ms: u64) -> Option<u64> {
        let until = self.resting.values().map(|rest| rest.until_ms);
        until.filter(|until_ms| *until_ms > now_ms).min()
    }

    fn begin(
        &self,
        now_ms: u64,
        moves: Vec<MigrateVm>,
        mut open: Vec<Open>,
        out: &mut Vec<Effect>,
    ) {
        for MigrateVm { job, from, to, .. } in moves {
            let is_resting = self.resting.get(&job).is_some_and(|rest| rest.until_ms > now_ms);
            let is_open = open.iter().any(|run| run.job == job);
            let leaving = open.iter().filter(|run| run.from.as_ref() == Some(&from)).count();
            let arriving = open.iter().filter(|run| run.to.as_ref() == Some(&to)).count();
            if is_resting || is_open || leaving >= LEAVING_MAX || arriving >= ARRIVING_MAX {
                continue;
            }
            out.push(Effect::Move { job: job.clone(), to: to.clone() });
            open.push(Open { job, from: Some(from), to: Some(to) });
        }
    }

    fn rest(&mut self, now_ms: u64, job: JobId, to: HostId, why: String) {
        let failures = self.resting.get(&job).map_or(0, |rest| rest.failures);
        let rest = Rest {
            until_ms: now_ms + rest_ms(REST_MS, failures),
            failures: failures.saturating_add(1),
            shunned: Some((to, why)),
        };
        self.resting.insert(job, rest);
    }
}

#[cfg(test)]
mod tests {
    use protocol::id::Revision;

    use super::*;

    fn host(name: &str) -> HostId {
        HostId::new(name).unwrap()
    }

    fn job(n: usize) -> JobId {
        JobId::new(format!("vm-{n}")).unwrap()
    }

    fn step(n: usize, to: &str) -> MigrateVm {
        MigrateVm { job: job(n), from: host("h1"), to: host(to), revision: Revision(2) }
    }

    fn open(n: usize, to: &str) -> Open {
        Open { job: job(n), from: Some(host("h1")), to: Some(host(to)) }
    }

    fn looked(
        drain: &mut Drain,
        now_ms: u64,
        moves: Vec<MigrateVm>,
        open: Vec<Open>,
    ) -> Vec<JobId> {
        let mut out = Vec::new();
        drain.handle(now_ms, Input::Looked { moves, open }, &mut out);
        out.into_iter().map(|Effect::Move { job, .. }| job).collect()
    }

    #[test]
    fn two_leave_a_host_at_a_time_and_the_next_when_one_is_gone() {
        let mut drain = Drain::default();
        let moves: Vec<_> = (0..5).map(|n| step(n, ["h2", "h3"][n % 2])).collect();
        assert_eq!(looked(&mut drain, 0, moves.clone(), vec![]), [job(0), job(1)]);
        let both = vec![open(0, "h2"), open(1, "h3")];
        assert_eq!(looked(&mut drain, 1, moves[2..].to_vec(), both), []);
        assert_eq!(looked(&mut drain, 2, moves[2..].to_vec(), vec![open(1, "h3")]), [job(2)]);
    }

    #[test]
    fn no_host_receives_more_than_two_at_a_time() {
        let mut drain = Drain::default();
        let others = vec![
            Open { job: job(8), from: None, to: Some(host("h2")) },
            Open { job: job(9), from: None, to: Some(host("h2")) },
        ];
        let moves = vec![step(0, "h2"), step(1, "h3")];
        assert_eq!(looked(&mut drain, 0, moves, others), [job(1)]);
    }

    #[test]
    fn what_could_not_be_moved_rests_longer_each_time_and_its_target_is_left_alone() {
        let mut drain = Drain::default();
        let fail = |drain: &mut Drain, now_ms| {
            let failure = Some("no".to_owned());
            let ended = Input::Ended { job: job(0), to: host("h2"), failure };
            drain.handle(now_ms, ended, &mut vec![]);
        };
        fail(&mut drain, 0);
        assert_eq!(drain.shunned(0).keys().collect::<Vec<_>>(), [&host("h2")]);
        assert_eq!(looked(&mut drain, REST_MS.0 - 1, vec![step(0, "h3")], vec![]), []);
        assert_eq!(drain.due_ms(0), Some(REST_MS.0));
        assert_eq!(looked(&mut drain, REST_MS.0, vec![step(0, "h2")], vec![]), [job(0)]);
        assert!(drain.shunned(REST_MS.0).is_empty());
        fail(&mut drain, 10_000);
        assert_eq!(drain.due_ms(10_000), Some(10_000 + 2 * REST_MS.0));
        (0..100).for_each(|_| fail(&mut drain, 20_000));
        assert_eq!(drain.due_ms(20_000), Some(20_000 + REST_MS.1));
    }

    #[test]
    fn a_guest_that_has_arrived_is_forgotten() {
        let mut drain = Drain::default();
        let ended = |failure| Input::Ended { job: job(0), to: host("h2"), failure };
        drain.handle(0, ended(Some("no".to_owned())), &mut vec![]);
        drain.handle(1, ended(None), &mut vec![]);
        assert_eq!((drain.due_ms(1), drain.shunned(1).len()), (None, 0));
    }

    #[test]
    fn a_guest_that_is_not_to_be_moved_any_more_is_forgotten_after_the_longest_rest() {
        let mut drain = Drain::default();
        let failure = || Some("no".to_owned());
        for _ in 0..5 {
            let ended = Input::Ended { job: job(0), to: host("h2"), failure: failure() };
            drain.handle(0, ended, &mut vec![]);
        }
        let over = drain.due_ms(0).unwrap();
        assert_eq!(looked(&mut drain, over + REST_MS.1 - 1, vec![], vec![]), []);
        assert_eq!(drain.resting.len(), 1, "its next failure would be its sixth");
        assert_eq!(looked(&mut drain, over + REST_MS.1, vec![], vec![]), []);
        assert!(drain.resting.is_empty());
    }
}
