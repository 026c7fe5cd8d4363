//! How a job goes on: which work follows from its state and intent, and what its results mean.

use hypervisor::Lifecycle;
use protocol::event::Fact;
use protocol::id::JobId;
use protocol::job::{Job, JobKind, JobState, Migration, OneOff, Reason};
use protocol::vm::VmSpec;
use transport::clock::Now;
use uuid::Uuid;

use super::agent::{Agent, Entry, UnderWay, WorkKind};
use super::input::{Effect, Look, MigrationOutcome, ServiceNews, Work, WorkId, WorkOutcome};
use super::leaving::work_of_leaving;
use super::ledger::{Intent, JobRecord, Write};
use super::resizing::work_of_resize;
use super::snapshots::work_of_snapshot;

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
        let record = &entry.record;
        let is_start = record.job.state == JobState::Starting && record.intent == Intent::Run;
        if is_vm && is_start && !self.is_start_due(now, record) {
            return;
        }
        let Some(work) = next_work(entry, self.is_misplaced(entry)) else { return };
        if matches!(work, Work::ResizeVm { .. }) && entry.giving.is_some() {
            return;
        }
        let (uuid, place) = (self.domain_of(id), self.place_of(record));
        if entry.record.job.state == JobState::Accepted {
            let record = entry.record.clone();
            self.become_state(now, record, JobState::Starting, None, out);
        }
        self.works += 1;
        let work_id = WorkId(self.works);
        self.jobs.change(id, |entry| {
            entry.work = Some(UnderWay { id: work_id, kind: kind_of(&work) });
            entry.change += 1;
            entry.is_begun |= matches!(work, Work::SendVm { .. } | Work::StartService(_));
            entry.asks_leaving &= !matches!(work, Work::TakeOut { .. });
            entry.is_snapshot_tried |= matches!(work, Work::SnapshotVm { .. });
            if work.places() {
                entry.place = Some(place.clone());
            }
        });
        let turn = self.turn(id);
        let cpus = Box::new(place);
        out.push(Effect::Work { job: id.clone(), id: work_id, uuid, work, turn, cpus });
    }

    pub(super) fn handle_done(
        &mut self,
        now: Now,
        id: JobId,
        work: WorkId,
        outcome: WorkOutcome,
        out: &mut Vec<Effect>,
    ) {
        let ended = self.jobs.change(&id, |entry| {
            let ended = entry.work.take_if(|under_way| under_way.id == work)?;
            Some((ended, entry.record.clone(), entry.unseen.take()))
        });
        let Some((ended, record, unseen)) = ended.flatten() else { return };
        let uuid = self.domain_of(&id);
        let has_failed = matches!(
            outcome,
            WorkOutcome::Failed(_)
                | WorkOutcome::Unclear(_)
                | WorkOutcome::Ungrown(_)
                | WorkOutcome::Sent(MigrationOutcome::Unknown { .. })
        );
        if matches!(outcome, WorkOutcome::Unclear(_)) {
            self.jobs.change(&id, |entry| entry.place = None);
        }
        let has_kept = matches!(&outcome, WorkOutcome::TakenOut(kept) if !kept.is_empty());
        self.conclude(now, record, ended, outcome, out);
        self.look_again(&id, uuid, unseen, out);
        // What failed and is still wanted is tried again at the next tick, not at once.
        if !has_failed && !has_kept {
            self.go_on(now, &id, out);
        }
        // A look finds nothing while the next work is under way: that one's end looks again.
        self.jobs.change(&id, |entry| entry.unseen = unseen.filter(|_| entry.work.is_some()));
    }

    /// Nobody looked while work was under way, and the guest may have ended meanwhile. It is looked at
    /// also where it is no job's any more.
    fn look_again(&self, id: &JobId, uuid: Uuid, unseen: Option<Lifecycle>, out: &mut Vec<Effect>) {
        let job = self.jobs.get(id).map(|entry| &entry.record.job);
        let lives = |job: &Job| {
            job.domain_uuid.is_some() && matches!(job.state, JobState::Running | JobState::Paused)
        };
        if unseen.is_some() || job.is_some_and(lives) {
            let change = self.change_of(uuid);
            out.push(Effect::Look(Look { uuid, hint: unseen, is_second: false, change }));
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
        if ended.kind == WorkKind::Resize {
            return self.conclude_resize(now, record, outcome, out);
        }
        if ended.kind == WorkKind::Pin {
            // It runs on all the same, and is pinned by the agent's next life or its own next start.
            if let (WorkOutcome::Failed(message), JobState::Running) = (outcome, record.job.state) {
                self.note(now, record, Reason::ActionFailed { message }, out);
            }
            return;
        }
        if ended.kind == WorkKind::TakeOut {
            return self.conclude_leaving(now, record, outcome, out);
        }
        if ended.kind == WorkKind::Snapshot {
            return self.conclude_snapshot(now, record, outcome, out);
        }
        let state = record.job.state;
        match (state, record.intent.clone(), outcome) {
            // A service is running when it says so itself.
            (JobState::Starting, Intent::Run, WorkOutcome::Done)
                if record.job.spec.as_vm().is_some() =>
            {
                record.restores = false;
                self.become_state(now, record, JobState::Running, None, out);
            }
            // It may run, or run soon: it keeps its hold and its room, and is started again until
            // libvirt gives an answer of its own.
            (JobState::Starting, Intent::Run, WorkOutcome::Unclear(message)) => {
                self.note(now, record, Reason::Unclear { message }, out);
            }
            (JobState::Starting, Intent::Run, WorkOutcome::Failed(message)) => {
                let why = Reason::StartFailed { message };
                self.become_ended(now, record, JobState::Failed, why, out);
            }
            // The work may also have been the start that this stop overtook; then its own follows.
            (JobState::Stopping, Intent::Stop { .. }, WorkOutcome::Done)
                if ended.kind == WorkKind::Stop =>
            {
                self.set_begun(&record.job.id, false);
                // Stopped for a reason of its own: a one-off job's limit, a right that was over, another's room.
                let why = record.job.reason.clone();
                let is_own = |why: &Reason| {
                    let is_limit = matches!(why, Reason::Deadline | Reason::Idle);
                    let is_lost = matches!(why, Reason::TenureLost { .. } | Reason::Fenced { .. });
                    is_limit || is_lost || matches!(why, Reason::Preempted { .. })
                };
                let why = why.filter(is_own);
                let why = why.unwrap_or(Reason::Requested);
                self.become_state(now, record, JobState::Stopped, Some(why), out);
            }
            (JobState::Stopping, Intent::Conclude, outcome) => {
                self.become_exited(now, record, outcome, out);
            }
            (_, Intent::Delete, WorkOutcome::Done) => self.forget(now, &record, out),
            // What is in a pool that is not available now goes when it is.
            (_, Intent::Delete, WorkOutcome::Failed(message) | WorkOutcome::Unclear(message))
                if record.stay.is_some() =>
            {
                self.note(now, record, Reason::ActionFailed { message }, out);
            }
            (JobState::Starting, Intent::Adopt, WorkOutcome::Adopted(domain)) => {
                self.become_adopted(now, record, &domain, out);
            }
            (JobState::Starting, Intent::Adopt, WorkOutcome::NotThere) => {
                let message = "the domain was gone before it could be adopted".to_owned();
                record.intent = Intent::Stop { grace_ms: 0 };
                let why = Some(Reason::StartFailed { message });
                self.become_state(now, record, JobState::Failed, why, out);
            }
            // It runs, and keeps its room: tried again, or released.
            (
                JobState::Starting,
                Intent::Adopt,
                WorkOutcome::Failed(message) | WorkOutcome::Unclear(message),
            ) => self.note(now, record, Reason::Unclear { message }, out),
            (_, Intent::Release, WorkOutcome::Released(domain)) => {
                self.become_released(now, &record, domain.as_deref(), out);
            }
            (_, Intent::Release, WorkOutcome::Failed(message) | WorkOutcome::Unclear(message)) => {
                self.note(now, record, Reason::ActionFailed { message }, out);
            }
            (
                JobState::MigratingIn,
                Intent::Receive { from, .. },
                WorkOutcome::Listening { url },
            ) => {
                record.job.migration = Some(Migration::Incoming { from, url }.into());
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

    /// Shows why a state lasts, once.
    pub(super) fn note(
        &mut self,
        now: Now,
        mut record: JobRecord,
        why: Reason,
        out: &mut Vec<Effect>,
    ) {
        if record.job.reason.as_ref() != Some(&why) {
            record.job.reason = Some(why);
            self.insert(now, record, out);
        }
    }

    pub(super) fn forget(&mut self, now: Now, record: &JobRecord, out: &mut Vec<Effect>) {
        let id = record.job.id.clone();
        self.jobs.remove(&id);
        if let Some(uuid) = record.job.domain_uuid {
            self.by_uuid.remove(&uuid);
        }
        out.push(Effect::Persist(Write::JobGone(id.clone())));
        self.publish(now, Fact::JobDeleted { job: id }, out);
    }

    pub(super) fn set_begun(&mut self, id: &JobId, is_begun: bool) {
        self.jobs.change(id, |entry| entry.is_begun = is_begun);
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
                let is_news = record.job.endpoint.as_deref() != Some(&endpoint)
                    || record.job.state != JobState::Running;
                if is_news {
                    record.job.endpoint = Some(endpoint.into());
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
        Work::PinVm(_) => WorkKind::Pin,
        Work::PauseVm => WorkKind::Pause,
        Work::ResumeVm => WorkKind::Resume,
        Work::SaveVm => WorkKind::Save,
        Work::ResetVm | Work::RebootVm { .. } => WorkKind::Reboot,
        Work::ResizeVm { .. } => WorkKind::Resize,
        Work::TakeOut { .. } => WorkKind::TakeOut,
        Work::SnapshotVm { .. } => WorkKind::Snapshot,
        Work::SendVm { .. } => WorkKind::Send,
        _ => WorkKind::Other,
    }
}

/// What has to be done for a job in this state with this intent; `None`: nothing, or wait. It may be misplaced, once
/// it runs.
fn next_work(entry: &Entry, is_misplaced: bool) -> Option<Work> {
    let (record, is_begun) = (&entry.record, entry.is_begun);
    match &record.job.spec.kind {
        _ if record.intent == Intent::Delete => Some(Work::Delete),
        _ if record.intent == Intent::Release => Some(Work::ReleaseVm),
        JobKind::Vm(vm) | JobKind::OneOff(OneOff { vm, .. }) => next_of_vm(entry, vm, is_misplaced),
        JobKind::Budget(_) => None,
        JobKind::Service(service) => match (record.job.state, &record.intent) {
            (state, Intent::Run) if !state.is_ended() => {
                (!is_begun).then(|| Work::StartService(service.clone()))
            }
            (JobState::Stopping, Intent::Stop { .. }) => Some(Work::StopService),
            _ => None,
        },
    }
}

fn next_of_vm(entry: &Entry, vm: &VmSpec, is_misplaced: bool) -> Option<Work> {
    let (record, job) = (&entry.record, &entry.record.job);
    let change = || {
        let resize = work_of_leaving(entry).or_else(|| work_of_resize(record, vm));
        resize.or_else(|| work_of_snapshot(job, vm, entry.is_snapshot_tried))
    };
    match (job.state, &record.intent) {
        (JobState::Accepted | JobState::Starting, Intent::Run) => {
            Some(match job.spec.as_one_off() {
                None if record.restores => Work::RestoreVm(vm.clone()),
                None => Work::StartVm(vm.clone()),
                Some(_) => Work::StartOneOff(vm.clone()),
            })
        }
        (JobState::Accepted | JobState::Starting, Intent::Adopt) => Some(Work::AdoptVm),
        (JobState::Stopping, Intent::Stop { grace_ms }) => {
            Some(Work::StopVm { grace_ms: *grace_ms })
        }
        (JobState::Running, Intent::Pause) => Some(Work::PauseVm),
        (JobState::Paused, Intent::Run) => Some(Work::ResumeVm),
        (JobState::Stopping, Intent::Save) => Some(Work::SaveVm),
        (JobState::Stopping, Intent::Conclude) => Some(Work::ReadExit),
        (JobState::MigratingIn, Intent::Receive { is_handed: false, .. }) => {
            job.migration.is_none().then(|| Work::PrepareIncoming(vm.clone()))
        }
        // It has come without the pins of where it was.
        (JobState::MigratingIn, Intent::Receive { is_handed: true, .. }) => {
            Some(if is_misplaced { Work::PinVm(vm.clone()) } else { Work::TakeOver })
        }
        (JobState::MigratingOut, Intent::Send(migrate)) => {
            let pinned = vm.hardware.pins.iter().map(|pin| pin.vcpu);
            let send = || Work::SendVm { migrate: migrate.clone(), pinned: pinned.collect() };
            Some(if entry.is_begun { Work::SettleSend } else { send() })
        }
        // Before it grows: what is plugged in is then where it belongs.
        (JobState::Running | JobState::Paused, _) if is_misplaced => Some(Work::PinVm(vm.clone())),
        (JobState::Running | JobState::Paused, _) => change(),
        (state, _) if state.is_ended() => change(),
        _ => None,
    }
}
