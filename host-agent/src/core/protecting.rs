//! Protection of a VM against being ended by command: who is refused, and how it is put on and taken off.
//!
//! It is a word in the VM's spec, so it goes where the VM goes: to another host with a move, and to the host
//! that starts it in the place of one that was lost. Libvirt and the guest know nothing of it, and no ticket
//! is needed: what the job takes stays the same.
//!
//! What a host ends without being asked it ends all the same: a guest whose right is over, a one-off job
//! whose time is. And a run may take back what it has begun itself.

use protocol::id::{JobId, Revision};
use protocol::job::{Job, JobSpec, JobState, Reason, RunKey};
use protocol::refusal::Refusal;
use transport::clock::Now;

use super::agent::Agent;
use super::input::{Effect, Reply};
use super::ledger::Intent;

impl Agent {
    pub(super) fn protect(
        &mut self,
        now: Now,
        id: &JobId,
        is_protected: bool,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let spec = self.record(id)?.job.spec.with_protection(is_protected);
        self.respecify(now, id, spec, out)
    }

    /// Gives a VM a spec that says something else of how it is treated, and the same of what it is; `None` is that
    /// it is no VM.
    pub(super) fn respecify(
        &mut self,
        now: Now,
        id: &JobId,
        spec: Option<JobSpec>,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let mut record = self.record(id)?.clone();
        let Some(spec) = spec else {
            let message = format!("job {id} is no VM, and this is said of VMs only");
            return Err(Refusal::Invalid { message });
        };
        if *record.job.spec == spec {
            return Ok(Reply::AlreadySo(Box::new(record.job)));
        }
        spec.validate().map_err(|error| Refusal::Invalid { message: error.to_string() })?;
        let needed = match (record.job.state, &record.intent) {
            // Whoever waits for the start waits for the revision that was asked for.
            (JobState::Accepted | JobState::Starting, _) => "wait until it runs",
            // The other host was told what it is to be.
            (JobState::MigratingIn | JobState::MigratingOut, _) => "wait until it has moved",
            (JobState::Stopping, _) | (_, Intent::Delete) => "it is being ended: wait for that",
            (_, Intent::Release) => "it is being given back: wait for that",
            _ => {
                let revision = Revision(record.job.revision.0 + 1);
                record.job.spec = spec.into();
                return self.become_renewed(now, record, revision, out);
            }
        };
        let (job, state) = (id.clone(), record.job.state);
        Err(Refusal::WrongState { job, state, needed: needed.to_owned() })
    }
}

/// Whether a command may end the job; a run may take back what it has begun itself.
pub(super) fn check_unprotected(job: &Job, run: Option<RunKey>) -> Result<(), Refusal> {
    let is_its = run.zip(job.run).is_some_and(|(asks, began)| asks.run == began.run);
    match job.spec.is_protected() && !is_its {
        true => Err(Refusal::Protected { job: job.id.clone() }),
        false => Ok(()),
    }
}

/// Whether the row is what is left of a VM that is elsewhere now, or may be: its protection went with it.
pub(super) fn is_left_over(job: &Job) -> bool {
    matches!(
        job.reason,
        Some(Reason::Migrated { .. } | Reason::TenureLost { .. } | Reason::Fenced { .. })
    )
}
