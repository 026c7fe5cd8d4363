//! How a job goes on: which work follows from its state and intent, and what its results mean.
//!
//! libvirt is the reality. Its events are hints that make the core look; a look that contradicts
//! the ledger is repeated once, because it may have begun before our own last change.

use hypervisor::{DomainInfo, DomainState, Lifecycle, StopReason};
use protocol::event::Fact;
use protocol::id::JobId;
use protocol::job::{JobKind, JobState, Migration, Reason};
use protocol::signed::Signed;
use protocol::ticket::Handoff;
use transport::clock::Now;

use super::agent::{Agent, UnderWay, WorkKind};
use super::input::{Effect, Look, MigrationOutcome, ServiceNews, Work, WorkId, WorkOutcome};
use super::ledger::{Intent, JobRecord, Write};

impl Agent {
    /// Begins whatever has to be done next for every job; also retries what failed.
    pub(super) fn go_on_all(&mut self, now: Now, out: &mut Vec<Effect>) {
        let idle = self.jobs.iter().filter(|(_, entry)| entry.work.is_none());
        let idle: Vec<JobId> = idle.map(|(id, _)| id.clone()).collect();
        for id in idle {
            self.go_on(now, &id, out);
        }
    }

    /// Begins whatever has to be done next for a job, unless something is under way.
    pub(super) fn go_on(&mut self, now: Now, id: &JobId, out: &mut Vec<Effect>) {
        let Some(entry) = self.jobs.get(id) else { return };
        let is_vm = entry.record.job.spec.as_vm().is_some();
        if entry.work.is_some() || (is_vm && !self.has_listed) {
            return;
        }
        let Some(work) = next_work(&entry.record, entry.is_begun) else { return };
        if entry.record.job.state == JobState::Accepted {
            let record = entry.record.clone();
            self.become_state(now, record, JobState::Starting, None, out);
        }
        self.works += 1;
        let work_id = WorkId(self.works);
        if let Some(entry) = self.jobs.get_mut(id) {
            entry.work = Some(UnderWay { id: work_id, kind: kind_of(&work) });
            entry.change += 1;
            entry.is_begun |= matches!(work, Work::SendVm(_) | Work::StartService(_));
        }
        out.push(Effect::Work { job: id.clone(), id: work_id, work });
    }

    pub(super) fn handle_done(
        &mut self,
        now: Now,
        id: JobId,
        work: WorkId,
        outcome: WorkOutcome,
        out: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        let Some(ended) = entry.work.filter(|under_way| under_way.id == work) else { return };
        entry.work = None;
        let record = entry.record.clone();
        let has_failed = matches!(outcome, WorkOutcome::Failed(_) | WorkOutcome::Unclear(_));
        self.conclude(now, record, ended, outcome, out);
        self.look_again(&id, out);
        // What failed and is still wanted is tried again at the next tick, not at once.
        if !has_failed {
            self.go_on(now, &id, out);
        }
    }

    /// Looks were ignored while work was under way, and the guest may have ended meanwhile.
    fn look_again(&self, id: &JobId, out: &mut Vec<Effect>) {
        let Some(entry) = self.jobs.get(id) else { return };
        let job = &entry.record.job;
        if let (Some(uuid), JobState::Running | JobState::Paused) = (job.domain_uuid, job.state) {
            let change = entry.change;
            out.push(Effect::Look(Look { uuid, hint: None, is_second: false, change }));
        }
    }

    /// What the end of a piece of work means, given what is wanted now.
    fn conclude(
        &mut self,
        now: Now,
        mut record: JobRecord,
        ended: UnderWay,
        outcome: WorkOutcome,
        out: &mut Vec<Effect>,
    ) {
        if matches!(
            ended.kind,
            WorkKind::Pause | WorkKind::Resume | WorkKind::Save | WorkKind::Reboot
        ) {
            return self.conclude_act(now, record, ended.kind, outcome, out);
        }
        let state = record.job.state;
        match (state, record.intent.clone(), outcome) {
            // A service is running when it says so itself.
            (JobState::Starting, Intent::Run, WorkOutcome::Done)
                if record.job.spec.as_vm().is_some() =>
            {
                self.become_state(now, record, JobState::Running, None, out);
            }
            // It may run, or run soon: it keeps its hold and its room, and is started again until
            // libvirt gives an answer of its own.
            (JobState::Starting, Intent::Run, WorkOutcome::Unclear(message)) => {
                self.note(now, record, Reason::Unclear { message }, out);
            }
            (JobState::Starting, Intent::Run, WorkOutcome::Failed(message)) => {
                let reason = Some(Reason::StartFailed { message });
                self.become_state(now, record, JobState::Failed, reason, out);
            }
            // The work may also have been the start that this stop overtook; then its own follows.
            (JobState::Stopping, Intent::Stop { .. }, WorkOutcome::Done)
                if ended.kind == WorkKind::Stop =>
            {
                self.set_begun(&record.job.id, false);
                self.become_state(now, record, JobState::Stopped, Some(Reason::Requested), out);
            }
            (_, Intent::Delete, WorkOutcome::Done) => self.forget(now, &record, out),
            (
                JobState::MigratingIn,
                Intent::Receive { from, .. },
                WorkOutcome::Listening { url },
            ) => {
                record.job.migration = Some(Migration::Incoming { from, url });
                self.insert(now, record, out);
            }
            (JobState::MigratingIn, Intent::Receive { is_handed: true, .. }, WorkOutcome::Done) => {
                record.intent = Intent::Run;
                record.job.migration = None;
                self.become_state(now, record, JobState::Running, None, out);
            }
            // The source has let go, so this is the only copy: it is asked for until it runs, or
            // surely is not here.
            (
                JobState::MigratingIn,
                Intent::Receive { is_handed: true, .. },
                WorkOutcome::Failed(message) | WorkOutcome::Unclear(message),
            ) => self.note(now, record, Reason::Unclear { message }, out),
            (
                JobState::MigratingIn,
                Intent::Receive { is_handed: true, .. },
                WorkOutcome::NotThere,
            ) => {
                record.intent = Intent::Run;
                record.job.migration = None;
                self.become_state(now, record, JobState::Crashed, Some(Reason::Killed), out);
            }
            (JobState::MigratingIn, Intent::Receive { .. }, WorkOutcome::Failed(message)) => {
                record.intent = Intent::Stop { grace_ms: 0 };
                record.job.migration = None;
                let reason = Some(Reason::StartFailed { message });
                self.become_state(now, record, JobState::Failed, reason, out);
            }
            (JobState::MigratingOut, Intent::Send(_), WorkOutcome::Sent(how)) => {
                self.conclude_send(now, record, how, out);
            }
            // Anything else: the intent has changed while the work was under way, or it failed and
            // is tried again at the next tick.
            _ => {}
        }
    }

    fn conclude_send(
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
                self.become_state(now, record, JobState::Crashed, Some(Reason::Killed), out);
            }
            // Settled at the next tick, as often as it takes.
            MigrationOutcome::Unknown { .. } => {}
        }
    }

    /// M3: hold closed, all open offers for the job ended and the handoff recorded, in one
    /// transaction; only then does anybody see the signed handoff.
    fn let_go(&mut self, now: Now, mut record: JobRecord, out: &mut Vec<Effect>) {
        let Intent::Send(sent) = record.intent else { return };
        // A guest that runs without a hold (from before there was trust, or started behind our
        // back) is known to arbiters under the number zero.
        let hold = record.job.hold.unwrap_or_default();
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
        self.offers.end_of_job(&record.job.id);
        self.set_begun(&record.job.id, false);
        let moved = match record.job.migration {
            Some(Migration::Outgoing { total_bytes, .. }) => total_bytes,
            _ => 0,
        };
        record.job.migration = Some(Migration::Outgoing {
            to: sent.to.clone(),
            moved_bytes: moved,
            total_bytes: moved,
            handoff,
        });
        record.intent = Intent::Stop { grace_ms: 0 };
        let reason = Some(Reason::Migrated { to: sent.to });
        self.become_state(now, record, JobState::Stopped, reason, out);
    }

    /// Shows why a state lasts, once.
    fn note(&mut self, now: Now, mut record: JobRecord, why: Reason, out: &mut Vec<Effect>) {
        if record.job.reason.as_ref() != Some(&why) {
            record.job.reason = Some(why);
            self.insert(now, record, out);
        }
    }

    fn forget(&mut self, now: Now, record: &JobRecord, out: &mut Vec<Effect>) {
        let id = record.job.id.clone();
        self.jobs.remove(&id);
        if let Some(uuid) = record.job.domain_uuid {
            self.by_uuid.remove(&uuid);
        }
        out.push(Effect::Persist(Write::JobGone(id.clone())));
        self.publish(now, Fact::JobDeleted { job: id }, out);
    }

    fn set_begun(&mut self, id: &JobId, is_begun: bool) {
        if let Some(entry) = self.jobs.get_mut(id) {
            entry.is_begun = is_begun;
        }
    }

    /// Progress is told and not written: after a crash it is asked for again.
    pub(super) fn handle_progress(
        &mut self,
        now: Now,
        id: &JobId,
        moved: u64,
        total: u64,
        out: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.jobs.get_mut(id) else { return };
        let Some(Migration::Outgoing { moved_bytes, total_bytes, handoff: None, .. }) =
            &mut entry.record.job.migration
        else {
            return;
        };
        if (*moved_bytes, *total_bytes) == (moved, total) {
            return;
        }
        (*moved_bytes, *total_bytes) = (moved, total);
        let job = Box::new(entry.record.job.clone());
        self.publish(now, Fact::JobChanged { job }, out);
    }

    pub(super) fn handle_looked(
        &mut self,
        now: Now,
        look: Look,
        domain: Option<&DomainInfo>,
        out: &mut Vec<Effect>,
    ) {
        match self.by_uuid.get(&look.uuid).cloned() {
            Some(id) => self.compare(now, &id, look, domain, out),
            None => self.observe(now, look.uuid, domain, out),
        }
    }

    /// Compares one of our jobs with what libvirt shows.
    fn compare(
        &mut self,
        now: Now,
        id: &JobId,
        look: Look,
        domain: Option<&DomainInfo>,
        out: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.jobs.get(id) else { return };
        if entry.work.is_some() {
            return;
        }
        if look.change != entry.change {
            // Overtaken by a change of ours: what it saw may be of before.
            let change = entry.change;
            out.push(Effect::Look(Look { is_second: false, change, ..look }));
            return;
        }
        let mut record = entry.record.clone();
        let Some((state, reason)) = seen_instead(record.job.state, look, domain) else { return };
        if look.is_second {
            match state {
                JobState::Running => record.intent = Intent::Run,
                // Whoever paused it, or whatever did, it stays so until somebody resumes it.
                JobState::Paused => record.intent = Intent::Pause,
                _ => {}
            }
            self.become_state(now, record, state, reason, out);
        } else {
            out.push(Effect::Look(Look { is_second: true, ..look }));
        }
    }

    /// Shows a domain that is no job's, or that it is gone.
    fn observe(
        &mut self,
        now: Now,
        uuid: uuid::Uuid,
        domain: Option<&DomainInfo>,
        out: &mut Vec<Effect>,
    ) {
        let Some(domain) = domain.map(Self::as_observed) else {
            if self.observed.remove(&uuid).is_some() {
                self.publish(now, Fact::DomainGone { uuid }, out);
            }
            return;
        };
        if self.observed.get(&uuid) != Some(&domain) {
            self.observed.insert(uuid, domain.clone());
            self.publish(now, Fact::DomainObserved { domain }, out);
        }
    }

    /// A complete list: settles every difference at start; later only says where to look again.
    pub(super) fn handle_domains(
        &mut self,
        now: Now,
        domains: &[DomainInfo],
        out: &mut Vec<Effect>,
    ) {
        let is_first = !std::mem::replace(&mut self.has_listed, true);
        self.write_restored(now, out);
        let gone: Vec<uuid::Uuid> = self.observed.keys().copied().collect();
        for uuid in gone {
            if !domains.iter().any(|domain| domain.uuid == uuid) {
                self.observe(now, uuid, None, out);
            }
        }
        for domain in domains {
            if !self.by_uuid.contains_key(&domain.uuid) {
                self.observe(now, domain.uuid, Some(domain), out);
            }
        }
        // The first list is begun after the ledger was read, so it is the last word; a later one may
        // have been overtaken and counts as a first look.
        let ours: Vec<uuid::Uuid> = self.by_uuid.keys().copied().collect();
        for uuid in ours {
            let change = self.change_of(uuid);
            let look = Look { uuid, hint: None, is_second: is_first, change };
            let domain = domains.iter().find(|domain| domain.uuid == uuid);
            self.handle_looked(now, look, domain, out);
        }
        self.go_on_all(now, out);
    }

    pub(super) fn handle_service(
        &mut self,
        now: Now,
        id: &JobId,
        news: ServiceNews,
        out: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.jobs.get(id) else { return };
        let mut record = entry.record.clone();
        if record.intent != Intent::Run {
            return;
        }
        match news {
            ServiceNews::Up(endpoint) => {
                let is_news = record.job.endpoint.as_ref() != Some(&endpoint)
                    || record.job.state != JobState::Running;
                if is_news {
                    record.job.endpoint = Some(endpoint);
                    self.become_state(now, record, JobState::Running, None, out);
                }
            }
            ServiceNews::Down { code } => {
                let reason = Some(Reason::Exited { code });
                self.become_state(now, record, JobState::Starting, reason, out);
            }
        }
    }
}

fn kind_of(work: &Work) -> WorkKind {
    match work {
        Work::StopVm { .. } | Work::StopService => WorkKind::Stop,
        Work::PauseVm => WorkKind::Pause,
        Work::ResumeVm => WorkKind::Resume,
        Work::SaveVm => WorkKind::Save,
        Work::ResetVm | Work::RebootVm { .. } => WorkKind::Reboot,
        _ => WorkKind::Other,
    }
}

/// What has to be done for a job in this state with this intent; `None`: nothing, or wait.
fn next_work(record: &JobRecord, is_begun: bool) -> Option<Work> {
    let job = &record.job;
    match (&job.spec.kind, job.state, &record.intent) {
        (_, _, Intent::Delete) => Some(Work::Delete),
        (JobKind::Vm(vm), JobState::Accepted | JobState::Starting, Intent::Run) => {
            Some(Work::StartVm(vm.clone()))
        }
        (JobKind::Vm(_), JobState::Stopping, Intent::Stop { grace_ms }) => {
            Some(Work::StopVm { grace_ms: *grace_ms })
        }
        (JobKind::Vm(_), JobState::Running, Intent::Pause) => Some(Work::PauseVm),
        (JobKind::Vm(_), JobState::Paused, Intent::Run) => Some(Work::ResumeVm),
        (JobKind::Vm(_), JobState::Stopping, Intent::Save) => Some(Work::SaveVm),
        (JobKind::Vm(vm), JobState::MigratingIn, Intent::Receive { is_handed: false, .. }) => {
            job.migration.is_none().then(|| Work::PrepareIncoming(vm.clone()))
        }
        (JobKind::Vm(_), JobState::MigratingIn, Intent::Receive { is_handed: true, .. }) => {
            Some(Work::TakeOver)
        }
        (JobKind::Vm(_), JobState::MigratingOut, Intent::Send(migrate)) => {
            Some(if is_begun { Work::SettleSend } else { Work::SendVm(migrate.clone()) })
        }
        (JobKind::Service(service), state, Intent::Run) if !state.is_ended() => {
            (!is_begun).then(|| Work::StartService(service.clone()))
        }
        (JobKind::Service(_), JobState::Stopping, Intent::Stop { .. }) => Some(Work::StopService),
        _ => None,
    }
}

/// The state that libvirt shows, when it is not the one in the ledger.
fn seen_instead(
    state: JobState,
    look: Look,
    domain: Option<&DomainInfo>,
) -> Option<(JobState, Option<Reason>)> {
    let seen = domain.map(|d| d.state);
    let is_running = matches!(seen, Some(DomainState::Running | DomainState::ShuttingDown));
    let is_paused = matches!(seen, Some(DomainState::Paused(_)));
    match state {
        JobState::Running if is_running => None,
        JobState::Running if is_paused => Some((JobState::Paused, None)),
        JobState::Paused if is_running => Some((JobState::Running, None)),
        JobState::Paused if is_paused => None,
        JobState::Running | JobState::Paused => Some(end_of(look.hint, seen)),
        // Somebody has started it behind our back: it runs, whatever we think of it.
        JobState::Stopped | JobState::Failed | JobState::Crashed if is_running => {
            Some((JobState::Running, None))
        }
        JobState::Stopped | JobState::Failed | JobState::Crashed => None,
        // Under way: the work that is done for these states looks for itself.
        JobState::Accepted
        | JobState::Starting
        | JobState::Stopping
        | JobState::MigratingIn
        | JobState::MigratingOut => None,
    }
}

/// How a guest ended that nobody asked to end.
fn end_of(hint: Option<Lifecycle>, seen: Option<DomainState>) -> (JobState, Option<Reason>) {
    if matches!(seen, Some(DomainState::ShutOff(StopReason::Saved))) {
        return (JobState::Stopped, Some(Reason::Saved));
    }
    let by_guest = match (hint, seen) {
        (Some(Lifecycle::Stopped(reason)), _) => reason == StopReason::Shutdown,
        (_, Some(DomainState::ShutOff(reason))) => reason == StopReason::Shutdown,
        _ => false,
    };
    if by_guest {
        (JobState::Stopped, Some(Reason::GuestShutdown))
    } else {
        (JobState::Crashed, Some(Reason::Killed))
    }
}
