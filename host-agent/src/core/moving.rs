//! A job on its way to another host, or from one: who may send it where, and when the source lets go.

use hypervisor::Progress;
use protocol::api::MigrateJob;
use protocol::event::Fact;
use protocol::id::{JobId, Revision};
use protocol::job::{JobState, Migration, Reason, RunKey};
use protocol::refusal::Refusal;
use protocol::signed::Signed;
use protocol::ticket::Handoff;
use transport::clock::Now;

use super::agent::Agent;
use super::claims::Deed;
use super::input::{Effect, MigrationOutcome, Reply, Work, WorkId};
use super::ledger::{Intent, JobRecord};
use super::resizing::check_settled;
use super::route;
use super::snapshots::check_quiet;

/// What to do about snapshots of disks that are not in a shared pool: a disk is copied as it is now, without
/// what it was.
const STAY: &str =
    "they stay behind when its disks are copied: delete them with `ostler snapshots rm` first";

impl Agent {
    pub(super) fn migrate(
        &mut self,
        now: Now,
        id: &JobId,
        migrate: MigrateJob,
        revision: Option<Revision>,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let mut writes = Vec::new();
        let claimed = self.claims.check(migrate.run, &mut writes);
        out.extend(writes.into_iter().map(Effect::Persist));
        claimed?;
        let mut record = self.record(id)?.clone();
        if record.job.spec.as_vm().is_none() {
            let message = format!("{id} is no VM: have it on the other host instead");
            return Err(Refusal::Invalid { message });
        }
        if record.job.spec.as_one_off().is_some() {
            let message = format!("one-off job {id} ends where it was started");
            return Err(Refusal::Invalid { message });
        }
        if record.job.spec.adopted().is_some() {
            let message = format!(
                "adopted job {id} stays on its host, where its disks are: release it, and move it by hand"
            );
            return Err(Refusal::Invalid { message });
        }
        match (record.job.state, &record.intent) {
            (JobState::MigratingOut, Intent::Send(under_way)) if under_way.to == migrate.to => {
                return Ok(Reply::AlreadySo(Box::new(record.job)));
            }
            (JobState::Stopped, _)
                if record.job.reason == Some(Reason::Migrated { to: migrate.to.clone() }) =>
            {
                return Ok(Reply::AlreadySo(Box::new(record.job)));
            }
            // It was sent, and has come back or never left.
            _ if self.claims.is_done(migrate.run, Deed::Send) => {
                return Ok(Reply::AlreadySo(Box::new(record.job)));
            }
            (JobState::Running, Intent::Run) => {}
            (state, _) => {
                return Err(Refusal::WrongState {
                    job: id.clone(),
                    state,
                    needed: "only a running job can be sent away".to_owned(),
                });
            }
        }
        // The target has made room for what the job was then.
        if let Some(current) =
            Some(record.job.revision).filter(|at| revision.is_some_and(|r| r != *at))
        {
            return Err(Refusal::RevisionConflict { job: id.clone(), current });
        }
        migrate.pace.check().map_err(|message| Refusal::Invalid { message })?;
        check_settled(&record.job, "sent away")?;
        check_quiet(&record.job)?;
        if !self.is_on_shared(&record.job.spec) {
            record.job.refuse_with_snapshots(STAY)?;
        }
        self.check_route(id, &migrate)?;
        self.check_may_leave(id)?;
        record.job.migration = Some(Box::new(Migration::Outgoing {
            to: migrate.to.clone(),
            moved_bytes: 0,
            total_bytes: 0,
            memory: None,
            handoff: None,
        }));
        self.remember_done(migrate.run, Deed::Send, out);
        record.job.run = migrate.run.or(record.job.run);
        record.intent = Intent::Send(Box::new(migrate));
        self.become_state(now, record, JobState::MigratingOut, None, out);
        self.go_on(now, id, out);
        Ok(Reply::Accepted(Box::new(self.record(id)?.job.clone())))
    }

    /// Whether a guest may be sent there: to another host of this cluster that has a hold for it.
    /// Who answers at the address must prove that host's key, so the address decides nothing else.
    fn check_route(&self, id: &JobId, migrate: &MigrateJob) -> Result<(), Refusal> {
        let invalid = |message: String| Err(Refusal::Invalid { message });
        if migrate.to == self.host.id {
            return invalid(format!("job {id} is on this host already"));
        }
        let is_member = self.trust.as_ref().is_some_and(|t| t.host_key(&migrate.to).is_some());
        if !is_member || migrate.to_hold.is_none() {
            return invalid(format!(
                "job {id} can be sent only to a host on the roster of this cluster's trust, under a hold of that host"
            ));
        }
        match route::is_agent(&migrate.url) {
            true => Ok(()),
            false => {
                invalid(format!("{:?}: name the target's agent as https://IP:PORT", migrate.url))
            }
        }
    }

    /// Leaves a tombstone like a delete: a copy of the request to send that arrives late would find
    /// a target that has given up waiting, and the guest would be lost there.
    pub(super) fn cancel_migration(
        &mut self,
        id: &JobId,
        run: Option<RunKey>,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let mut writes = Vec::new();
        let undone = self.claims.undo(run, &mut writes);
        out.extend(writes.into_iter().map(Effect::Persist));
        undone?;
        let job = self.record(id)?.job.clone();
        if job.state != JobState::MigratingOut {
            return Ok(Reply::AlreadySo(Box::new(job)));
        }
        self.cancel_send(id, out);
        Ok(Reply::Accepted(Box::new(job)))
    }

    /// Has libvirt end a sending; what comes of it, the sending says.
    pub(super) fn cancel_send(&mut self, id: &JobId, out: &mut Vec<Effect>) {
        self.works += 1;
        let cancel = WorkId(self.works);
        let uuid = self.domain_of(id);
        let work = Work::CancelSend;
        out.push(Effect::Work {
            job: id.clone(),
            id: cancel,
            uuid,
            work,
            turn: None,
            cpus: Box::default(),
        });
    }

    /// M4: the target may run the job once the source has signed that it let go.
    pub(super) fn take_handoff(
        &mut self,
        now: Now,
        id: &JobId,
        signed: &Signed<Handoff>,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let mut record = self.record(id)?.clone();
        let invalid = |message: String| Err(Refusal::Invalid { message });
        let handoff = match signed.open() {
            Ok(handoff) => handoff,
            Err(error) => return invalid(error.to_string()),
        };
        let Intent::Receive { from, is_handed, .. } = &mut record.intent else {
            return if record.job.hold == Some(handoff.to_hold) {
                Ok(Reply::AlreadySo(Box::new(record.job)))
            } else {
                Err(Refusal::WrongState {
                    job: id.clone(),
                    state: record.job.state,
                    needed: "a handoff is for a job that is migrating in".to_owned(),
                })
            };
        };
        if *is_handed {
            return Ok(Reply::AlreadySo(Box::new(record.job)));
        }
        let source_key = self.trust.as_ref().and_then(|trust| trust.host_key(&handoff.from));
        if source_key != Some(signed.key()) {
            return invalid(format!("handoff is not signed by host {}", handoff.from));
        }
        // Which hold it had there may have changed since it was offered here: that of a budget does when the budget
        // grows. Our own hold is of this migration and of no other.
        let is_ours = handoff.job == *id
            && handoff.from == *from
            && handoff.to == self.host.id
            && Some(handoff.to_hold) == record.job.hold;
        if !is_ours {
            return invalid("handoff is for another migration".to_owned());
        }
        *is_handed = true;
        self.insert(now, record, out);
        self.go_on(now, id, out);
        Ok(Reply::Accepted(Box::new(self.record(id)?.job.clone())))
    }

    pub(super) fn conclude_send(
        &mut self,
        now: Now,
        mut record: JobRecord,
        how: MigrationOutcome,
        out: &mut Vec<Effect>,
    ) {
        match how {
            MigrationOutcome::Gone => self.let_go(now, record, out),
            MigrationOutcome::StillHere { message } => {
                // No handoff was signed, so the target can't run it: going on here is safe.
                record.intent = Intent::Run;
                record.job.migration = None;
                self.set_begun(&record.job.id, false);
                let reason = Some(Reason::MigrationFailed { message });
                self.become_state(now, record, JobState::Running, reason, out);
            }
            MigrationOutcome::Ended => {
                record.intent = Intent::Run;
                record.job.migration = None;
                self.set_begun(&record.job.id, false);
                self.become_ended(now, record, JobState::Crashed, Reason::Killed, out);
            }
            // Settled at the next tick, as often as it takes.
            MigrationOutcome::Unknown { message } => {
                self.note(now, record, Reason::Unclear { message }, out);
            }
        }
    }

    /// M3: hold closed, all open offers for the job ended and the handoff recorded, in one
    /// transaction; only then does anybody see the signed handoff.
    fn let_go(&mut self, now: Now, mut record: JobRecord, out: &mut Vec<Effect>) {
        let Intent::Send(sent) = record.intent else { return };
        // A guest that runs without a hold (from before there was trust, or started behind our
        // back) is known to arbiters under the number zero.
        let hold = self.hold_of(&record.job).unwrap_or_default();
        let handoff = sent.to_hold.map(|to_hold| {
            let handoff = Handoff {
                job: record.job.id.clone(),
                from: self.host.id.clone(),
                hold,
                to: sent.to.clone(),
                to_hold,
            };
            Signed::seal(&handoff, &self.key)
        });
        self.note_away(now, &record.job.id, out);
        self.offers.end_of_job(&record.job.id);
        self.set_begun(&record.job.id, false);
        let moved = match record.job.migration.as_deref() {
            Some(Migration::Outgoing { total_bytes, .. }) => *total_bytes,
            _ => 0,
        };
        record.job.migration = Some(Box::new(Migration::Outgoing {
            to: sent.to.clone(),
            moved_bytes: moved,
            total_bytes: moved,
            memory: None,
            handoff,
        }));
        // They are beside the disks that it has there.
        if self.is_on_shared(&record.job.spec) {
            record.job.snapshots = Box::default();
        }
        record.intent = Intent::Stop { grace_ms: 0 };
        let reason = Some(Reason::Migrated { to: sent.to });
        self.become_state(now, record, JobState::Stopped, reason, out);
    }

    /// Progress is told and not written: after a crash it is asked for again.
    pub(super) fn handle_progress(
        &mut self,
        now: Now,
        id: &JobId,
        progress: Progress,
        out: &mut Vec<Effect>,
    ) {
        let changed = self.jobs.change(id, |entry| {
            let job = &mut entry.record.job;
            let Some(Migration::Outgoing {
                moved_bytes, total_bytes, memory, handoff: None, ..
            }) = job.migration.as_deref_mut()
            else {
                return None;
            };
            let told =
                Progress { moved_bytes: *moved_bytes, total_bytes: *total_bytes, memory: *memory };
            let is_news = told != progress;
            (*moved_bytes, *total_bytes) = (progress.moved_bytes, progress.total_bytes);
            *memory = progress.memory;
            is_news.then(|| job.clone())
        });
        if let Some(job) = changed.flatten() {
            self.publish(now, Fact::JobChanged { job: Box::new(job) }, out);
        }
    }
}
