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

/// How sure it is that a piece of work had no effect.
#[derive(Debug, Clone, Copy)]
enum Undone {
    Surely,
    Perhaps,
}

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
        record: JobRecord,
        ended: UnderWay,
        outcome: WorkOutcome,
        out: &mut Vec<Effect>,
    ) {
        match ended.kind {
            WorkKind::Pause | WorkKind::Resume | WorkKind::Save | WorkKind::Reboot => {
                self.conclude_act(now, record, ended.kind, outcome, out);
            }
            WorkKind::Resize => self.conclude_resize(now, record, outcome, out),
            WorkKind::Pin => self.conclude_pin(now, record, outcome, out),
            WorkKind::TakeOut => self.conclude_leaving(now, record, outcome, out),
            WorkKind::Snapshot => self.conclude_snapshot(now, record, outcome, out),
            WorkKind::Stop | WorkKind::Send | WorkKind::Other => {
                self.conclude_way(now, record, ended.kind, outcome, out);
            }
        }
    }

    /// The same of what takes a job from one state to the next. What no arm takes: the intent has changed while
    /// the work was under way, or it failed and is tried again at the next tick.
    fn conclude_way(
        &mut self,
        now: Now,
        mut record: JobRecord,
        kind: WorkKind,
        outcome: WorkOutcome,
        out: &mut Vec<Effect>,
    ) {
        let state = record.job.state;
        match (outcome, record.intent.clone()) {
            (WorkOutcome::Done, _) => self.conclude_done(now, record, kind, out),
            (WorkOutcome::Failed(message), _) => {
                self.conclude_undone(now, record, Undone::Surely, message, out);
            }
            (WorkOutcome::Unclear(message), _) => {
                self.conclude_undone(now, record, Undone::Perhaps, message, out);
            }
            (WorkOutcome::NotThere, _) => self.conclude_not_there(now, record, out),
            (WorkOutcome::Exited(code), Intent::Conclude) if state == JobState::Stopping => {
                self.become_exited(now, record, code, out);
            }
            (WorkOutcome::Adopted(domain), Intent::Adopt) if state == JobState::Starting => {
                self.become_adopted(now, record, &domain, out);
            }
            (WorkOutcome::Released(domain), Intent::Release) => {
                self.become_released(now, &record, domain.as_deref(), out);
            }
            (WorkOutcome::Listening { url }, Intent::Receive { from, .. })
                if state == JobState::MigratingIn =>
            {
                record.job.migration = Some(Migration::Incoming { from, url }.into());
                self.insert(now, record, out);
            }
            (WorkOutcome::Sent(how), Intent::Send(_)) if state == JobState::MigratingOut => {
                self.conclude_send(now, record, how, out);
            }
            (
                WorkOutcome::Exited(_)
                | WorkOutcome::Adopted(_)
                | WorkOutcome::Released(_)
                | WorkOutcome::Listening { .. }
                | WorkOutcome::Sent(_),
                _,
            ) => {}
            // How work ends that is concluded by its kind.
            (
                WorkOutcome::Resized { .. }
                | WorkOutcome::TakenOut(_)
                | WorkOutcome::Ungrown(_)
                | WorkOutcome::Snapshotted { .. },
                _,
            ) => {}
        }
    }

    /// It is as it was wanted when the work began.
    fn conclude_done(
        &mut self,
        now: Now,
        mut record: JobRecord,
        kind: WorkKind,
        out: &mut Vec<Effect>,
    ) {
        match (record.job.state, &record.intent) {
            // A service is running when it says so itself.
            (JobState::Starting, Intent::Run) if record.job.spec.as_vm().is_some() => {
                // What goes on from saved memory is put on its CPUs once more, when it runs.
                record.penned &= record.restores || self.pens(&record);
                record.restores = false;
                self.become_state(now, record, JobState::Running, None, out);
            }
            // The work may also have been the start that this stop overtook; then its own follows.
            (JobState::Stopping, Intent::Stop { .. }) if kind == WorkKind::Stop => {
                self.set_begun(&record.job.id, false);
                let why = record.job.reason.clone().filter(is_of_its_own);
                let why = why.unwrap_or(Reason::Requested);
                self.become_state(now, record, JobState::Stopped, Some(why), out);
            }
            (JobState::MigratingIn, Intent::Receive { is_handed: true, .. }) => {
                record.intent = Intent::Run;
                record.job.migration = None;
                self.become_state(now, record, JobState::Running, None, out);
            }
            (_, Intent::Delete) => self.forget(now, &record, out),
            (
                _,
                Intent::Run
                | Intent::Pause
                | Intent::Save
                | Intent::Stop { .. }
                | Intent::Conclude
                | Intent::Adopt
                | Intent::Release
                | Intent::Receive { .. }
                | Intent::Send(_),
            ) => {}
        }
    }

    /// It was not done, surely or for all that anybody can say.
    fn conclude_undone(
        &mut self,
        now: Now,
        mut record: JobRecord,
        undone: Undone,
        message: String,
        out: &mut Vec<Effect>,
    ) {
        match (record.job.state, &record.intent, undone) {
            (JobState::Starting, Intent::Run, Undone::Surely) => {
                let why = Reason::StartFailed { message };
                self.become_ended(now, record, JobState::Failed, why, out);
            }
            (JobState::MigratingIn, Intent::Receive { is_handed: false, .. }, Undone::Surely) => {
                record.intent = Intent::Stop { grace_ms: 0 };
                record.job.migration = None;
                let reason = Some(Reason::StartFailed { message });
                self.become_state(now, record, JobState::Failed, reason, out);
            }
            // It may run, or run soon: it keeps its hold and its room, and is started again until
            // libvirt gives an answer of its own.
            (JobState::Starting, Intent::Run, Undone::Perhaps)
            // It runs, and keeps its room: tried again, or released.
            | (JobState::Starting, Intent::Adopt, _)
            // The source has let go, so this is the only copy: it is asked for until it runs, or
            // surely is not here.
            | (JobState::MigratingIn, Intent::Receive { is_handed: true, .. }, _) => {
                self.note(now, record, Reason::Unclear { message }, out);
            }
            // What is in a pool that is not available now goes when it is.
            (_, Intent::Delete, _) if record.stay.is_some() => {
                self.note(now, record, Reason::ActionFailed { message }, out);
            }
            (_, Intent::Release, _) => {
                self.note(now, record, Reason::ActionFailed { message }, out);
            }
            (
                _,
                Intent::Run
                | Intent::Pause
                | Intent::Save
                | Intent::Stop { .. }
                | Intent::Conclude
                | Intent::Delete
                | Intent::Adopt
                | Intent::Receive { .. }
                | Intent::Send(_),
                _,
            ) => {}
        }
    }

    /// There is nothing to do it with.
    fn conclude_not_there(&mut self, now: Now, mut record: JobRecord, out: &mut Vec<Effect>) {
        match (record.job.state, &record.intent) {
            (JobState::Starting, Intent::Adopt) => {
                let message = "the domain was gone before it could be adopted".to_owned();
                record.intent = Intent::Stop { grace_ms: 0 };
                let why = Some(Reason::StartFailed { message });
                self.become_state(now, record, JobState::Failed, why, out);
            }
            (JobState::MigratingIn, Intent::Receive { is_handed: true, .. }) => {
                record.intent = Intent::Run;
                record.job.migration = None;
                self.become_state(now, record, JobState::Crashed, Some(Reason::Killed), out);
            }
            (
                _,
                Intent::Run
                | Intent::Pause
                | Intent::Save
                | Intent::Stop { .. }
                | Intent::Conclude
                | Intent::Delete
                | Intent::Adopt
                | Intent::Release
                | Intent::Receive { .. }
                | Intent::Send(_),
            ) => {}
        }
    }

    /// It runs on all the same where that failed, and is pinned by the agent's next life or its own next start.
    fn conclude_pin(
        &mut self,
        now: Now,
        record: JobRecord,
        outcome: WorkOutcome,
        out: &mut Vec<Effect>,
    ) {
        match outcome {
            WorkOutcome::Done => self.unpen(now, record, out),
            WorkOutcome::Failed(message) if record.job.state == JobState::Running => {
                self.note(now, record, Reason::ActionFailed { message }, out);
            }
            // Without an answer it is tried again at the next tick; the rest is no end of a pinning.
            WorkOutcome::Failed(_)
            | WorkOutcome::Unclear(_)
            | WorkOutcome::NotThere
            | WorkOutcome::Exited(_)
            | WorkOutcome::Adopted(_)
            | WorkOutcome::Released(_)
            | WorkOutcome::Resized { .. }
            | WorkOutcome::TakenOut(_)
            | WorkOutcome::Ungrown(_)
            | WorkOutcome::Snapshotted { .. }
            | WorkOutcome::Listening { .. }
            | WorkOutcome::Sent(_) => {}
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

/// Stopped for a reason of its own: a one-off job's limit, a right that was over, another's room.
fn is_of_its_own(why: &Reason) -> bool {
    let is_limit = matches!(why, Reason::Deadline | Reason::Idle);
    let is_lost = matches!(why, Reason::TenureLost { .. } | Reason::Fenced { .. });
    is_limit || is_lost || matches!(why, Reason::Preempted { .. })
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
