//! How a VM stands to others: what is changed of it without a restart, and who may be stopped for whom.
//!
//! Both are words in the VM's spec, as its protection is, and go where the VM goes. Which VM comes first is the
//! planner's to say: a host knows only those that it has. It refuses to end for another's sake what is not, or is no
//! more, one of which that was said.

use protocol::id::JobId;
use protocol::job::{Job, Reason};
use protocol::refusal::Refusal;
use protocol::vm::{Preemptor, Rank};
use transport::clock::Now;

use super::agent::Agent;
use super::input::{Effect, Reply};

impl Agent {
    pub(super) fn rank(
        &mut self,
        now: Now,
        id: &JobId,
        rank: Rank,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let spec = self.record(id)?.job.spec.ranked(rank);
        self.respecify(now, id, spec, out)
    }
}

/// Whether the job may be ended so that another has its room.
pub(super) fn check_preemptible(job: &Job, lets: Option<&Preemptor>) -> Result<(), Refusal> {
    let may = |lets: &Preemptor| job.spec.is_preemptible() && job.spec.priority() < lets.priority;
    match lets.is_none_or(may) {
        true => Ok(()),
        false => Err(Refusal::NotPreemptible { job: job.id.clone() }),
    }
}

/// Whether it makes, or has made, room for another; whoever stops it for its own sake has the last word.
pub(super) fn is_preempted(job: &Job) -> bool {
    matches!(job.reason, Some(Reason::Preempted { .. }))
}
