//! The agent's works over the simulated libvirt: the same questions in the same order, and the same
//! reading of the answers, as `host-agent/src/works.rs`.
//!
//! Services and snapshots are not simulated; storage is a set of names and a disk that may be full.

use host_agent::core::{Input, Look, MigrationOutcome, Work, WorkId, WorkOutcome};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use host_agent::keeper::core::Gate;
use hypervisor::{DomainInfo, DomainState, ErrorKind, StopReason};
use protocol::api::MigrateJob;
use protocol::id::JobId;
use protocol::vm::{OnLoss, VmSpec};
use uuid::Uuid;

use super::hypervisor::{HvError, HvOp, HvReply, Sent};
use super::keeper::Link;
use super::message::NodeId;
use super::tasks::{Command, Ctx};

const CALL_DEADLINE_MS: u64 = 35_000;
const START_DEADLINE_MS: u64 = 60_000;
const DESTROY_DEADLINE_MS: u64 = 60_000;
const ASK_INTERVAL_MS: u64 = 3_000;
const MIGRATE_DEADLINE_MS: u64 = 24 * 3_600_000;
const RESIZE_DEADLINE_MS: u64 = 60_000;
const SAVE_DEADLINE_MS: u64 = 600_000;
const LOOK_INTERVAL_MS: u64 = 500;
const LIST_DEADLINE_MS: u64 = 30_000;
const TICK_MS: u64 = 1_000;
const OPEN_DEADLINE_MS: u64 = 10_000;
const GATE_POLL_MS: u64 = 20;

/// Where a machine's agent answers.
#[must_use]
pub(super) fn url(node: NodeId) -> String {
    format!("https://10.0.{}.{}:7460", node.0 / 256, node.0 % 256)
}

fn node_at(url: &str) -> Option<NodeId> {
    let address = url.strip_prefix("https://10.0.")?.strip_suffix(":7460")?;
    let (high, low) = address.split_once('.')?;
    Some(NodeId(high.parse::<usize>().ok()? * 256 + low.parse::<usize>().ok()?))
}

/// What works know of each other in one life of the agent.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Jobs whose start gave no answer in time and is still in libvirt's hands.
    late_starts: RefCell<BTreeSet<JobId>>,
    /// How many stops of each job were begun: an overtaken one must not go on.
    stops: RefCell<BTreeMap<JobId, u64>>,
    /// What the keeper has told.
    link: Rc<RefCell<Link>>,
}

impl Memory {
    /// Nothing is known yet but the keeper.
    pub(super) fn of(link: &Rc<RefCell<Link>>) -> Self {
        Self { link: Rc::clone(link), ..Self::default() }
    }

    /// The gate of the hold that the job has here now.
    fn gate(&self, job: &JobId) -> Option<Gate> {
        let link = self.link.borrow();
        let items = link.draft.iter().flat_map(|draft| &draft.items);
        let mut holds = items.filter(|d| d.item.job == *job && d.item.is_hold());
        let hold = holds.next()?.item.id;
        link.table.of(hold).map(|kept| kept.gate)
    }
}

/// Does one piece of work and says how it went.
pub(super) async fn perform(
    ctx: Ctx,
    here: NodeId,
    memory: Rc<Memory>,
    job: JobId,
    (id, uuid): (WorkId, Uuid),
    work: Work,
) {
    let outcome = Works { ctx: ctx.clone(), here, memory }.perform(&job, uuid, work).await;
    ctx.say(Command::Post(Box::new(Input::Done { job, work: id, outcome })));
}

/// Looks at one domain and says what is there.
pub(super) async fn look(ctx: Ctx, look: Look) {
    loop {
        let found = ctx.hv(HvOp::Lookup(look.uuid), LIST_DEADLINE_MS).await;
        if let Ok(HvReply::Domain(domain)) = found {
            ctx.say(Command::Post(Box::new(Input::Looked { look, domain })));
            return;
        }
        ctx.sleep(TICK_MS).await;
    }
}

/// Lists until it works.
pub(super) async fn list(ctx: Ctx) {
    loop {
        if let Ok(HvReply::Domains(domains)) = ctx.hv(HvOp::List, LIST_DEADLINE_MS).await {
            ctx.say(Command::Post(Box::new(Input::Domains(domains))));
            return;
        }
        ctx.sleep(TICK_MS).await;
    }
}

struct Works {
    ctx: Ctx,
    here: NodeId,
    memory: Rc<Memory>,
}

/// Why a piece of work was not done.
enum Trouble {
    /// It was surely not done.
    No(String),
    /// It may have been done, or may yet be.
    Unclear(String),
    /// There is surely nothing to do it with.
    NotThere,
}

impl From<HvError> for Trouble {
    fn from(error: HvError) -> Self {
        let message = error.kind.to_string();
        if error.kind.is_ambiguous() { Trouble::Unclear(message) } else { Trouble::No(message) }
    }
}

impl Works {
    async fn perform(&self, job: &JobId, uuid: Uuid, work: Work) -> WorkOutcome {
        let is_fresh = !matches!(work, Work::RestoreVm(_));
        let done = match work {
            Work::StartVm(vm) | Work::RestoreVm(vm) if vm.adopted.is_some() => {
                self.start_adopted(job, uuid, is_fresh).await
            }
            Work::ResizeVm { vm, .. } => match self.resize_vm(job, uuid, &vm).await {
                Ok(outcome) => return outcome,
                Err(trouble) => Err(trouble),
            },
            Work::AdoptVm => match self.adopt(job, uuid).await {
                Ok(domain) => return WorkOutcome::Adopted(Box::new(domain)),
                Err(trouble) => Err(trouble),
            },
            Work::ReleaseVm => match self.release(job, uuid).await {
                Ok(domain) => return WorkOutcome::Released(domain.map(Box::new)),
                Err(trouble) => Err(trouble),
            },
            Work::StartVm(vm) | Work::RestoreVm(vm) | Work::StartOneOff(vm) => {
                self.start_vm(job, &vm, is_fresh).await
            }
            Work::ReadExit => return WorkOutcome::Exited(Some(0)),
            Work::StopVm { grace_ms } => self.stop_vm(job, uuid, grace_ms).await,
            Work::PauseVm => self.call(HvOp::Pause(uuid)).await.map(drop),
            Work::ResumeVm => self.call(HvOp::Resume(uuid)).await.map(drop),
            Work::SaveVm => self.save_vm(uuid).await,
            Work::ResetVm => self.call(HvOp::Reset(uuid)).await.map(drop),
            Work::RebootVm { grace_ms } => self.reboot_vm(job, uuid, grace_ms).await,
            Work::Delete => self.delete(job, uuid).await,
            Work::PrepareIncoming(vm) => return self.prepare_incoming(job, &vm).await,
            Work::TakeOver => self.take_over(uuid).await,
            // Simulated hosts have no CPUs that one could tell from others.
            Work::PinVm(_) => Ok(()),
            Work::SendVm { migrate, .. } => {
                return WorkOutcome::Sent(self.send(job, *migrate).await);
            }
            Work::SettleSend => return WorkOutcome::Sent(self.settle_send(uuid).await),
            Work::CancelSend => self.call(HvOp::Abort(uuid)).await.map(drop),
            // Guests have no disks or cards here, and so lose none.
            Work::TakeOut { .. } => return WorkOutcome::TakenOut(vec![]),
            // Nobody asks for one here.
            Work::SnapshotVm { .. } => return WorkOutcome::Failed("not simulated".to_owned()),
            Work::StartService(_) | Work::StopService => Ok(()),
        };
        match done {
            Ok(()) => WorkOutcome::Done,
            Err(Trouble::No(message)) => WorkOutcome::Failed(message),
            Err(Trouble::Unclear(message)) => WorkOutcome::Unclear(message),
            Err(Trouble::NotThere) => WorkOutcome::NotThere,
        }
    }

    async fn start_vm(&self, job: &JobId, vm: &VmSpec, is_fresh: bool) -> Result<(), Trouble> {
        let started = self.try_start_vm(job, vm, is_fresh).await;
        self.surely_ended(job.domain_uuid(), started).await
    }

    async fn surely_ended(&self, uuid: Uuid, started: Result<(), Trouble>) -> Result<(), Trouble> {
        let Err(Trouble::No(message)) = started else { return started };
        match self.is_active(uuid).await {
            Ok(false) => Err(self.end_unopened(uuid, Trouble::No(message)).await),
            Ok(true) => Err(Trouble::Unclear(message)),
            Err(Trouble::No(message)) => Err(Trouble::Unclear(message)),
            Err(trouble) => Err(trouble),
        }
    }

    async fn try_start_vm(&self, job: &JobId, vm: &VmSpec, is_fresh: bool) -> Result<(), Trouble> {
        let uuid = job.domain_uuid();
        self.await_late_start(job, uuid).await?;
        if let Err(trouble) = self.await_open(job, vm).await {
            return Err(self.end_unopened(uuid, trouble).await);
        }
        if self.is_active(uuid).await? {
            return Ok(());
        }
        if !self.ctx.make_volumes(job).await {
            return Err(Trouble::No("no space left on device".to_owned()));
        }
        self.call(HvOp::Define(job.clone(), vm.size())).await?;
        self.start_defined(job, uuid, is_fresh).await
    }

    /// A guest that needs cover waits for its gate.
    async fn await_open(&self, job: &JobId, vm: &VmSpec) -> Result<(), Trouble> {
        let deadline_ms = self.ctx.now().mono_ms + OPEN_DEADLINE_MS;
        if vm.on_loss == OnLoss::Keep {
            return Ok(());
        }
        loop {
            match self.memory.gate(job) {
                Some(Gate::Open) => return Ok(()),
                Some(Gate::Sealing) => {
                    return Err(Trouble::Unclear("its guest is dying".to_owned()));
                }
                Some(Gate::Lost) => {
                    return Err(Trouble::No("the right to run it was over".to_owned()));
                }
                Some(Gate::Shut) | None if self.ctx.now().mono_ms > deadline_ms => {
                    return Err(Trouble::No("no keeper has opened its gate".to_owned()));
                }
                Some(Gate::Shut) | None => self.ctx.sleep(GATE_POLL_MS).await,
            }
        }
    }

    /// What an earlier life has started may still be there.
    async fn end_unopened(&self, uuid: Uuid, trouble: Trouble) -> Trouble {
        let Trouble::No(message) = trouble else { return trouble };
        match self.ctx.hv(HvOp::Destroy(uuid), DESTROY_DEADLINE_MS).await {
            Ok(_) => Trouble::No(message),
            Err(error) => Trouble::Unclear(error.kind.to_string()),
        }
    }

    /// Nobody resizes what was adopted here.
    async fn resize_vm(
        &self,
        job: &JobId,
        uuid: Uuid,
        vm: &VmSpec,
    ) -> Result<WorkOutcome, Trouble> {
        self.await_late_start(job, uuid).await?;
        let before = self.info(uuid).await?.ok_or(Trouble::NotThere)?;
        self.call(HvOp::Define(job.clone(), vm.size())).await?;
        if !before.state.is_active() {
            return Ok(WorkOutcome::Done);
        }
        let resized = self.ctx.hv(HvOp::Resize(uuid, vm.size()), RESIZE_DEADLINE_MS).await;
        let (left, is_giving) = match resized {
            Ok(HvReply::Resized { left, is_giving }) => (left, is_giving),
            Ok(other) => unreachable!("a resize was answered with {other:?}"),
            Err(error) if error.kind.is_ambiguous() => return Err(error.into()),
            Err(error) => (vec![error.kind.to_string()], false),
        };
        let domain = self.info(uuid).await?.ok_or(Trouble::NotThere)?;
        if !domain.state.is_active() {
            return Ok(WorkOutcome::Done);
        }
        Ok(WorkOutcome::Resized { domain: Box::new(domain), devices: vec![], left, is_giving })
    }

    async fn start_defined(&self, job: &JobId, uuid: Uuid, is_fresh: bool) -> Result<(), Trouble> {
        if is_fresh {
            self.call(HvOp::ForgetSaved(uuid)).await?;
        }
        match self.ctx.hv(HvOp::Start(uuid), START_DEADLINE_MS).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind == ErrorKind::AlreadyRunning => Ok(()),
            Err(error) if error.kind.is_ambiguous() => {
                self.memory.late_starts.borrow_mut().insert(job.clone());
                if matches!(self.is_active(uuid).await, Ok(true)) {
                    Ok(())
                } else {
                    Err(error.into())
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Here nobody undefines what was adopted.
    async fn start_adopted(&self, job: &JobId, uuid: Uuid, is_fresh: bool) -> Result<(), Trouble> {
        let started = self.try_start_adopted(job, uuid, is_fresh).await;
        self.surely_ended(uuid, started).await
    }

    async fn try_start_adopted(
        &self,
        job: &JobId,
        uuid: Uuid,
        is_fresh: bool,
    ) -> Result<(), Trouble> {
        self.await_late_start(job, uuid).await?;
        if self.adopt(job, uuid).await?.state.is_active() {
            return Ok(());
        }
        self.start_defined(job, uuid, is_fresh).await
    }

    async fn adopt(&self, job: &JobId, uuid: Uuid) -> Result<DomainInfo, Trouble> {
        if self.info(uuid).await?.is_none() {
            return Err(Trouble::NotThere);
        }
        if self.ctx.kept_definition(uuid).await.is_none() {
            let read = self.definition(uuid).await?;
            if !self.ctx.keep_definition(uuid, read).await {
                return Err(Trouble::No("no space left on device".to_owned()));
            }
        }
        self.call(HvOp::Label(uuid, Some(job.clone()))).await?;
        self.info(uuid).await?.ok_or(Trouble::NotThere)
    }

    async fn release(&self, job: &JobId, uuid: Uuid) -> Result<Option<DomainInfo>, Trouble> {
        self.await_late_start(job, uuid).await?;
        let kept = self.ctx.kept_definition(uuid).await;
        if let (Some(kept), Some(domain)) = (kept, self.info(uuid).await?) {
            self.call(HvOp::Label(uuid, None)).await?;
            if domain.is_persistent && self.definition(uuid).await? != kept {
                self.call(HvOp::Restore(uuid, kept)).await?;
            }
        }
        self.ctx.say(Command::ForgetDefinition(uuid));
        self.info(uuid).await
    }

    async fn definition(&self, uuid: Uuid) -> Result<String, Trouble> {
        match self.call(HvOp::Definition(uuid)).await? {
            HvReply::Definition(text) => Ok(text),
            other => unreachable!("a definition was asked for, and was {other:?}"),
        }
    }

    /// The real works wait for the call's thread to come back; here, for the domain's turn.
    async fn await_late_start(&self, job: &JobId, uuid: Uuid) -> Result<(), Trouble> {
        if !self.memory.late_starts.borrow().contains(job) {
            return Ok(());
        }
        let waited = self.ctx.hv(HvOp::Barrier(uuid), CALL_DEADLINE_MS).await;
        if waited.is_err() {
            let message = "an earlier start has not come back from the hypervisor".to_owned();
            return Err(Trouble::Unclear(message));
        }
        self.memory.late_starts.borrow_mut().remove(job);
        Ok(())
    }

    async fn stop_vm(&self, job: &JobId, uuid: Uuid, grace_ms: u64) -> Result<(), Trouble> {
        self.await_late_start(job, uuid).await?;
        let turn = self.begin_stop(job);
        if grace_ms > 0 && self.is_active(uuid).await? {
            // A guest that stands still can't hear its power button.
            if let Some(DomainState::Paused(_)) = self.domain(uuid).await? {
                let _ = self.call(HvOp::Resume(uuid)).await;
            }
            let deadline_ms = self.ctx.now().mono_ms + grace_ms;
            while self.ctx.now().mono_ms < deadline_ms && self.is_active(uuid).await? {
                if self.is_overtaken(job, turn) {
                    return Ok(());
                }
                let _ = self.call(HvOp::Shutdown(uuid)).await;
                let left_ms = deadline_ms.saturating_sub(self.ctx.now().mono_ms);
                self.ctx.sleep(left_ms.min(ASK_INTERVAL_MS)).await;
            }
            if !self.is_active(uuid).await? || self.is_overtaken(job, turn) {
                return Ok(());
            }
        }
        // Also of a guest that is off: see the real works.
        Ok(self.ctx.hv(HvOp::Destroy(uuid), DESTROY_DEADLINE_MS).await.map(drop)?)
    }

    fn begin_stop(&self, job: &JobId) -> u64 {
        let mut stops = self.memory.stops.borrow_mut();
        let turn = stops.entry(job.clone()).or_default();
        *turn += 1;
        *turn
    }

    fn is_overtaken(&self, job: &JobId, turn: u64) -> bool {
        self.memory.stops.borrow().get(job).is_some_and(|last| *last != turn)
    }

    /// The simulated guest reboots when asked to, or is reset; a stop overtakes that.
    async fn reboot_vm(&self, job: &JobId, uuid: Uuid, grace_ms: u64) -> Result<(), Trouble> {
        let turn = self.begin_stop(job);
        self.ctx.sleep(grace_ms.min(ASK_INTERVAL_MS)).await;
        if self.is_overtaken(job, turn) {
            return Ok(());
        }
        self.call(HvOp::Reset(uuid)).await.map(drop)
    }

    async fn save_vm(&self, uuid: Uuid) -> Result<(), Trouble> {
        let saved = Some(DomainState::ShutOff(StopReason::Saved));
        if self.domain(uuid).await? == saved {
            return Ok(());
        }
        let Err(error) = self.ctx.hv(HvOp::Save(uuid), SAVE_DEADLINE_MS).await else {
            return Ok(());
        };
        let deadline_ms = self.ctx.now().mono_ms + SAVE_DEADLINE_MS;
        while error.kind.is_ambiguous() && self.ctx.now().mono_ms < deadline_ms {
            match self.domain(uuid).await {
                Ok(state) if state == saved => return Ok(()),
                Ok(Some(DomainState::Running)) => break,
                _ => self.ctx.sleep(LOOK_INTERVAL_MS).await,
            }
        }
        Err(error.into())
    }

    async fn delete(&self, job: &JobId, uuid: Uuid) -> Result<(), Trouble> {
        self.await_late_start(job, uuid).await?;
        if self.domain(uuid).await?.is_some() {
            self.ctx.hv(HvOp::Destroy(uuid), DESTROY_DEADLINE_MS).await?;
            self.call(HvOp::Undefine(uuid)).await?;
        }
        self.ctx.say(Command::DeleteVolumes(job.clone()));
        Ok(())
    }

    async fn prepare_incoming(&self, job: &JobId, vm: &VmSpec) -> WorkOutcome {
        if let Err(Trouble::No(message) | Trouble::Unclear(message)) =
            self.await_open(job, vm).await
        {
            return WorkOutcome::Failed(message);
        }
        if !self.ctx.make_volumes(job).await {
            return WorkOutcome::Failed("no space left on device".to_owned());
        }
        WorkOutcome::Listening { url: url(self.here) }
    }

    async fn take_over(&self, uuid: Uuid) -> Result<(), Trouble> {
        match self.domain(uuid).await? {
            Some(domain) if domain.is_active() => self.call(HvOp::Resume(uuid)).await.map(drop),
            _ => Err(Trouble::NotThere),
        }
    }

    async fn send(&self, job: &JobId, migrate: MigrateJob) -> MigrationOutcome {
        let uuid = job.domain_uuid();
        let Some(to) = node_at(&migrate.url) else {
            return self.go_on_here(uuid, "no such address".to_owned()).await;
        };
        let turn = self.begin_stop(job);
        let sent = self.ctx.hv(HvOp::Migrate(uuid, to), MIGRATE_DEADLINE_MS).await;
        if self.is_overtaken(job, turn) {
            return MigrationOutcome::Unknown { message: "a stop has overtaken it".to_owned() };
        }
        match sent {
            Ok(HvReply::Sent(Sent::Moved)) => MigrationOutcome::Gone,
            Ok(HvReply::Sent(Sent::StillHere)) => {
                self.go_on_here(uuid, "the other end failed".to_owned()).await
            }
            Ok(_) => MigrationOutcome::Unknown { message: "nobody can tell".to_owned() },
            Err(error) if error.kind.is_ambiguous() => {
                MigrationOutcome::Unknown { message: error.kind.to_string() }
            }
            Err(error) => self.go_on_here(uuid, error.kind.to_string()).await,
        }
    }

    async fn go_on_here(&self, uuid: Uuid, message: String) -> MigrationOutcome {
        match self.domain(uuid).await {
            Ok(Some(DomainState::Paused(_))) => match self.call(HvOp::Resume(uuid)).await {
                Ok(_) => MigrationOutcome::StillHere { message },
                Err(_) => MigrationOutcome::Unknown { message },
            },
            Ok(None | Some(DomainState::ShutOff(StopReason::Migrated))) => MigrationOutcome::Gone,
            Ok(Some(DomainState::ShutOff(_) | DomainState::Crashed)) => MigrationOutcome::Ended,
            Ok(Some(DomainState::Running | DomainState::ShuttingDown)) => {
                MigrationOutcome::StillHere { message }
            }
            Err(_) => MigrationOutcome::Unknown { message },
        }
    }

    async fn settle_send(&self, uuid: Uuid) -> MigrationOutcome {
        match self.ctx.hv(HvOp::Progress(uuid), CALL_DEADLINE_MS).await {
            Ok(HvReply::IsSending(true)) => {
                let _ = self.call(HvOp::Abort(uuid)).await;
                return MigrationOutcome::Unknown { message: "being cancelled".to_owned() };
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind, ErrorKind::NoSuchDomain | ErrorKind::NotRunning) => {
            }
            Err(error) => return MigrationOutcome::Unknown { message: error.kind.to_string() },
        }
        self.go_on_here(uuid, "the agent was restarted in the middle of it".to_owned()).await
    }

    async fn domain(&self, uuid: Uuid) -> Result<Option<DomainState>, Trouble> {
        Ok(self.info(uuid).await?.map(|domain| domain.state))
    }

    async fn info(&self, uuid: Uuid) -> Result<Option<DomainInfo>, Trouble> {
        let found = self.ctx.hv(HvOp::Lookup(uuid), CALL_DEADLINE_MS).await;
        // A look that fails says nothing of the guest, however surely it has failed.
        let found = found.map_err(|error| Trouble::Unclear(error.kind.to_string()))?;
        match found {
            HvReply::Domain(found) => Ok(found),
            other => unreachable!("a lookup was answered with {other:?}"),
        }
    }

    async fn is_active(&self, uuid: Uuid) -> Result<bool, Trouble> {
        Ok(self.domain(uuid).await?.is_some_and(DomainState::is_active))
    }

    async fn call(&self, op: HvOp) -> Result<HvReply, Trouble> {
        self.ctx.hv(op, CALL_DEADLINE_MS).await.map_err(Trouble::from)
    }
}
