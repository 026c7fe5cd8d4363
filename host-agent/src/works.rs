//! Doing what the core wants done: the slow things, with libvirt, files and processes.
//!
//! Each piece of work may be asked for again after a crash and then finds what is there already.
//! An answer that may or may not have had its effect is never taken for a no: we look.

mod downtime;
mod leaving;
mod sending;
mod snapshots;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hypervisor::{
    CpuPlace, DomainConfig, DomainInfo, DomainState, ErrorKind, Hypervisor, HypervisorError,
    Lifecycle, Pins, Resized, StopReason, Volume, WatchEvent, call, disk_device,
};
use protocol::id::JobId;
use protocol::vm::{DiskSpec, OnLoss, SizeChange, VmSpec};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::channel::Channels;
use crate::core::{Input, MigrationOutcome, Turn, Work, WorkOutcome};
use crate::keeper::{Unopened, Warden};
use crate::networks::Networks;
use crate::place::Place;
use crate::pool::Promise;
use crate::services::Services;
use crate::storage::{Growing, Storage, StorageError};

/// Guests being started at a time. More only makes each slower: a start is CPU-bound in QEMU.
pub(crate) const STARTS_MAX: usize = 4;
/// An ordinary call: libvirt answers within milliseconds, or waits for its own lock for 30 s.
const CALL_DEADLINE: Duration = Duration::from_secs(35);
/// A start, capability probing of a fresh libvirt included.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Ending QEMU; the kernel may have to write back its files.
const DESTROY_DEADLINE: Duration = Duration::from_secs(60);
/// Another size: a guest has some seconds to say what it can spare, and some for each CPU that goes.
const RESIZE_DEADLINE: Duration = Duration::from_secs(60);
/// Writing a guest's memory to disk: 100 GiB at 200 MiB a second.
const SAVE_DEADLINE: Duration = Duration::from_secs(600);
/// How often a guest's power button is pressed: a guest that is still booting misses the first.
const ASK_INTERVAL: Duration = Duration::from_secs(3);
/// How often an ambiguous answer is looked into.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What works are done with.
pub(crate) struct Works {
    /// The hypervisor.
    pub hv: Arc<dyn Hypervisor>,
    /// The files.
    pub storage: Storage,
    /// The services.
    pub services: Arc<Services>,
    /// Limits starts.
    pub starts: Semaphore,
    /// Reboots, stops and sendings that wait for their guests.
    pub waits: Mutex<BTreeMap<JobId, CancellationToken>>,
    /// Starts that gave no answer in time and are still in the hypervisor's hands; each ends with
    /// the call's thread.
    pub late_starts: Mutex<BTreeMap<JobId, oneshot::Receiver<Infallible>>>,
    /// Where progress goes.
    pub inputs: mpsc::Sender<Input>,
    /// Where others reach this host's guests' streams.
    pub place: watch::Receiver<Place>,
    /// How guests come and go.
    pub channels: Channels,
    /// At most so many bytes a second of a guest that is sent, when nobody says.
    pub bandwidth_bytes_s: Option<u64>,
    /// Who lets those run that need cover.
    pub warden: Arc<Warden>,
    /// Who keeps networks.
    pub networks: Networks,
}

/// Who uses a VM's disks.
#[derive(Clone, Copy)]
enum User<'t> {
    /// Its guest, so that QEMU does what is done with them.
    Guest,
    /// Nobody: we do it, those in pools by this right.
    Nobody(Option<&'t Turn>),
}

/// Whose guest is defined, and where it is to run.
#[derive(Clone, Copy)]
struct Guest<'g> {
    job: &'g JobId,
    cpus: &'g CpuPlace,
}

/// Why a piece of work was not done.
enum Trouble {
    /// It was surely not done.
    No(String),
    /// It may have been done, or may yet be.
    Unclear(String),
    /// There is surely nothing to do it with.
    NotThere(String),
}

impl Trouble {
    /// The same of something that was to be written down after other work, which was done.
    fn no_longer_no(self) -> Self {
        match self {
            Trouble::NotThere(_) => self,
            other => other.into_unclear(),
        }
    }

    fn into_message(self) -> String {
        match self {
            Trouble::No(message) | Trouble::Unclear(message) | Trouble::NotThere(message) => {
                message
            }
        }
    }

    /// The same of something that was to clear up after other work: that is not over then.
    fn into_unclear(self) -> Self {
        Trouble::Unclear(self.into_message())
    }
}

impl From<HypervisorError> for Trouble {
    fn from(error: HypervisorError) -> Self {
        let message = error.to_string();
        if error.kind.is_ambiguous() { Trouble::Unclear(message) } else { Trouble::No(message) }
    }
}

impl From<StorageError> for Trouble {
    fn from(error: StorageError) -> Self {
        Trouble::No(error.to_string())
    }
}

/// What a guest goes on from. Memory that was saved is of disks as they were then: who was to start anew, and has
/// been elsewhere since for all that is known here, must not meet it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    Fresh,
    Saved,
}

/// The devices of a VM's disks when it starts.
fn devices_by_place(vm: &VmSpec) -> Vec<String> {
    let disks = vm.disks.iter().enumerate();
    disks.filter_map(|(index, disk)| disk_device(index, disk)).collect()
}

impl Works {
    /// Does one piece of work to its end.
    pub(crate) async fn perform(
        &self,
        job: &JobId,
        uuid: Uuid,
        work: Work,
        turn: Option<&Turn>,
        cpus: &CpuPlace,
    ) -> WorkOutcome {
        let guest = Guest { job, cpus };
        let done = match work {
            Work::StartVm(vm) if vm.adopted.is_some() => {
                self.start_adopted(job, uuid, Memory::Fresh).await
            }
            Work::RestoreVm(vm) if vm.adopted.is_some() => {
                self.start_adopted(job, uuid, Memory::Saved).await
            }
            Work::StartVm(vm) => self.start_vm(guest, vm, Memory::Fresh, turn, None).await,
            Work::RestoreVm(vm) => self.start_vm(guest, vm, Memory::Saved, turn, None).await,
            Work::StartOneOff(vm) => {
                let exit_file = Some(self.storage.exit_file(job));
                self.start_vm(guest, vm, Memory::Fresh, turn, exit_file).await
            }
            Work::ResizeVm { vm, change } => {
                match self.resize_vm(guest, uuid, vm, *change, turn).await {
                    Ok(outcome) => return outcome,
                    Err(trouble) => Err(trouble),
                }
            }
            Work::TakeOut { leaving, patience_ms } => {
                let patience = Duration::from_millis(patience_ms);
                match self.take_out(job, uuid, &leaving, patience).await {
                    Ok(outcome) => return outcome,
                    Err(trouble) => Err(trouble),
                }
            }
            Work::SnapshotVm { vm, name, act, is_again } => {
                let changed = match self.disks(job, uuid, &vm, name, turn) {
                    Ok(disks) => self.change_snapshot(&disks, act, is_again).await,
                    Err(trouble) => Err(trouble),
                };
                match changed {
                    Ok(outcome) => return outcome,
                    Err(trouble) => Err(trouble),
                }
            }
            Work::AdoptVm => match self.adopt(job, uuid).await {
                Ok(domain) => return WorkOutcome::Adopted(Box::new(domain)),
                Err(trouble) => Err(trouble),
            },
            Work::ReleaseVm => match self.release(job, uuid).await {
                Ok(domain) => return WorkOutcome::Released(domain.map(Box::new)),
                Err(trouble) => Err(trouble),
            },
            Work::ReadExit => return self.read_exit(job),
            Work::StopVm { grace_ms } => {
                self.interrupt(job);
                let stop = self.stop_vm(job, uuid, Duration::from_millis(grace_ms));
                self.unless_interrupted(job, stop).await.unwrap_or(Ok(()))
            }
            Work::PinVm(vm) => self.pin(uuid, cpus.pins(&vm)).await,
            Work::PauseVm => self.call("pause", CALL_DEADLINE, move |hv| hv.pause(uuid)).await,
            Work::ResumeVm => self.call("resume", CALL_DEADLINE, move |hv| hv.resume(uuid)).await,
            Work::SaveVm => self.save_vm(uuid).await,
            Work::ResetVm => self.call("reset", CALL_DEADLINE, move |hv| hv.reset(uuid)).await,
            Work::RebootVm { grace_ms } => {
                self.reboot_vm(job, uuid, Duration::from_millis(grace_ms)).await
            }
            Work::Delete => self.delete(job, turn).await,
            Work::PrepareIncoming(vm) => return self.prepare_incoming(job, vm, turn).await,
            Work::TakeOver => self.take_over(job, uuid, turn).await,
            Work::SendVm { migrate, pinned } => {
                // Interrupted, it must not have a guest go on here that is to end; nobody waits for its word.
                let sent =
                    self.unless_interrupted(job, self.send(job, *migrate, pinned, turn)).await;
                let message = "a stop has overtaken it".to_owned();
                return WorkOutcome::Sent(sent.unwrap_or(MigrationOutcome::Unknown { message }));
            }
            Work::SettleSend => return WorkOutcome::Sent(self.settle_send(uuid).await),
            Work::CancelSend => {
                self.call("abort migration", CALL_DEADLINE, move |hv| hv.abort_job(uuid)).await
            }
            Work::StartService(spec) => {
                self.services.start(job, spec, self.storage.service_folder(job));
                Ok(())
            }
            Work::StopService => {
                let folder = self.storage.service_folder(job);
                self.services.stop(job, &folder).await.map_err(|e| Trouble::No(e.to_string()))
            }
        };
        let (outcome, message): (fn(String) -> WorkOutcome, _) = match done {
            Ok(()) => return WorkOutcome::Done,
            Err(Trouble::No(message)) => (WorkOutcome::Failed, message),
            Err(Trouble::Unclear(message)) => (WorkOutcome::Unclear, message),
            Err(Trouble::NotThere(message)) => (|_| WorkOutcome::NotThere, message),
        };
        tracing::warn!(%job, "{message}");
        outcome(message)
    }

    fn read_exit(&self, job: &JobId) -> WorkOutcome {
        match self.storage.exit_code(job) {
            Ok(code) => WorkOutcome::Exited(code),
            Err(error) => WorkOutcome::Unclear(error.to_string()),
        }
    }

    async fn start_vm(
        &self,
        guest: Guest<'_>,
        vm: VmSpec,
        memory: Memory,
        turn: Option<&Turn>,
        exit_file: Option<PathBuf>,
    ) -> Result<(), Trouble> {
        let started = self.try_start_vm(guest, vm, memory, turn, exit_file).await;
        self.surely_ended(guest.job.domain_uuid(), started).await
    }

    async fn try_start_vm(
        &self,
        guest: Guest<'_>,
        vm: VmSpec,
        memory: Memory,
        turn: Option<&Turn>,
        exit_file: Option<PathBuf>,
    ) -> Result<(), Trouble> {
        let Guest { job, cpus } = guest;
        let uuid = job.domain_uuid();
        // A start that hangs in libvirt takes nobody's turn.
        self.await_late_start(job).await?;
        let closed = |_| Trouble::Unclear("the agent is stopping".to_owned());
        let _permit = self.starts.acquire().await.map_err(closed)?;
        if let Err(why) = self.warden.await_open(job, &vm).await {
            return Err(self.end_unopened(uuid, why).await);
        }
        let is_guarded = vm.on_loss == OnLoss::Stop;
        let pins = cpus.pins(&vm);
        if self.is_active(uuid).await? {
            // An earlier try may have left it standing still, or put it where an earlier life wanted it.
            return self.let_run(job, uuid, is_guarded, pins).await;
        }
        // What is saved goes on where it was, which may be another guest's by now.
        let pins = pins.filter(|_| memory == Memory::Saved);
        self.networks.await_ready(&vm).await.map_err(Trouble::No)?;
        let made = self.storage.make_volumes(job, &vm, turn);
        let volumes = made.instrument(tracing::debug_span!("make volumes")).await?;
        // What an earlier start has left is no exit code of this one.
        self.storage.forget_exit(job)?;
        let is_paused = is_guarded || pins.is_some();
        self.define(guest, vm, volumes, exit_file).await?;
        self.start_defined(job, uuid, memory, is_paused).await?;
        self.let_run(job, uuid, is_guarded, pins).await
    }

    /// Lets a guest run that stands still where somebody has to see to it first. One that can't be pinned runs all the
    /// same: it is tried once more then, and told.
    async fn let_run(
        &self,
        job: &JobId,
        uuid: Uuid,
        is_guarded: bool,
        pins: Option<Pins>,
    ) -> Result<(), Trouble> {
        let is_moved = pins.is_some();
        match self.pin(uuid, pins).await {
            Ok(()) => {}
            Err(Trouble::No(message)) => tracing::warn!(%job, "{message}"),
            Err(trouble) => return Err(trouble.into_unclear()),
        }
        match (is_guarded, is_moved) {
            (true, _) => self.free(job, uuid).await,
            (false, true) => self.call("resume", CALL_DEADLINE, move |hv| hv.resume(uuid)).await,
            (false, false) => Ok(()),
        }
    }

    /// A start that has failed closes its hold, so its guest must be off and stay so: a start that an earlier life
    /// has asked for may still be in libvirt's hands, and is ended behind it. One that runs by now is no failure.
    async fn surely_ended(&self, uuid: Uuid, started: Result<(), Trouble>) -> Result<(), Trouble> {
        let Err(Trouble::No(message)) = started else { return started };
        match self.is_active(uuid).await {
            Ok(false) => Err(self.end(uuid, message).await),
            Ok(true) => Err(Trouble::Unclear(message)),
            Err(trouble) => Err(trouble.into_unclear()),
        }
    }

    /// No, once the guest is surely gone.
    async fn end(&self, uuid: Uuid, message: String) -> Trouble {
        match self.call("destroy", DESTROY_DEADLINE, move |hv| hv.destroy(uuid)).await {
            Ok(()) => Trouble::No(message),
            Err(trouble) => trouble.into_unclear(),
        }
    }

    /// R12: a hold is closed once its guest is surely gone. One that an earlier life has started may still be
    /// there, or a start of it in libvirt's hands; like a stop, this waits for its turn behind that.
    async fn end_unopened(&self, uuid: Uuid, why: Unopened) -> Trouble {
        match why {
            Unopened::Ending(message) => Trouble::Unclear(message),
            Unopened::Over(message) => self.end(uuid, message).await,
        }
    }

    /// Puts a guest that has a process on its CPUs.
    async fn pin(&self, uuid: Uuid, pins: Option<Pins>) -> Result<(), Trouble> {
        let Some(pins) = pins else { return Ok(()) };
        self.call("pin", CALL_DEADLINE, move |hv| hv.pin(uuid, &pins)).await
    }

    async fn define(
        &self,
        guest: Guest<'_>,
        vm: VmSpec,
        volumes: Vec<Volume>,
        exit_file: Option<PathBuf>,
    ) -> Result<(), Trouble> {
        let config = self.config(guest, vm, volumes, exit_file);
        self.call("define", CALL_DEADLINE, move |hv| hv.define(&config)).await
    }

    fn config(
        &self,
        Guest { job, cpus }: Guest<'_>,
        vm: VmSpec,
        volumes: Vec<Volume>,
        exit_file: Option<PathBuf>,
    ) -> DomainConfig {
        let uuid = job.domain_uuid();
        let partition = self.warden.partition(&vm, uuid);
        DomainConfig {
            job: job.clone(),
            uuid,
            vm,
            volumes,
            console_log: self.storage.console_log(job),
            exit_file,
            accel: self.hv.facts().accel,
            partition,
            cpus: cpus.clone(),
        }
    }

    /// Disks first, which nothing takes back; then the definition: if libvirt can't have it, nothing else has
    /// happened to the guest, and disks that have come go again.
    async fn resize_vm(
        &self,
        guest: Guest<'_>,
        uuid: Uuid,
        vm: VmSpec,
        change: SizeChange,
        turn: Option<&Turn>,
    ) -> Result<WorkOutcome, Trouble> {
        let job = guest.job;
        self.await_late_start(job).await?;
        let gone = || Trouble::NotThere(format!("domain {uuid} is gone"));
        let before = self.info(uuid).await?;
        let is_active = before.as_ref().is_some_and(|domain| domain.state.is_active());
        let is_in_pool =
            |disk: &DiskSpec| disk.named_pool().is_some() && change.disks.contains_key(&disk.name);
        let mut which = Growing::Own;
        if vm.disks.iter().any(is_in_pool) {
            let unclear = |error: StorageError| Trouble::Unclear(error.to_string());
            let promised = self.storage.promise_growth(job, &vm, turn).await.map_err(unclear)?;
            if let Promise::Refused(why) = promised {
                tracing::warn!(%job, "its disks can't grow: {why}");
                return Ok(WorkOutcome::Ungrown(why));
            }
            which = Growing::InPoolsToo;
        }
        let added = || change.add_disks.iter().map(|disk| disk.name.as_str());
        if let Err(error) = self.storage.add_own(job, &change.add_disks).await {
            let trouble = Trouble::No(error.to_string());
            return Err(self.without_added(job, uuid, is_active, added(), trouble).await);
        }
        let user = if is_active { User::Guest } else { User::Nobody(turn) };
        self.grow_disks(job, uuid, &vm, user, which).await?;
        let before = before.ok_or_else(gone)?;
        let mut config = None;
        if vm.adopted.is_some() {
            let (what, change) = ("resize the definition", change.clone());
            self.call(what, CALL_DEADLINE, move |hv| hv.resize_definition(uuid, change)).await?;
        } else {
            let volumes = self.storage.made_volumes(job, &vm)?;
            if let Err(trouble) = self.define(guest, vm.clone(), volumes.clone(), None).await {
                return Err(self.without_added(job, uuid, is_active, added(), trouble).await);
            }
            config = Some(self.config(guest, vm, volumes, None));
        }
        if !before.state.is_active() {
            return Ok(WorkOutcome::Done);
        }
        let mut devices = Vec::new();
        if let Some(config) = config.filter(|_| change.has_devices()) {
            let attach = move |hv: &dyn Hypervisor| hv.attach(&config);
            let attached = call(&self.hv, "attach devices", RESIZE_DEADLINE, attach).await;
            devices = attached.map_err(|error| Trouble::Unclear(error.to_string()))?;
        }
        let resized = call(&self.hv, "resize", RESIZE_DEADLINE, move |hv| hv.resize(uuid, change));
        let resized = match resized.await {
            Ok(resized) => resized,
            Err(error) if error.kind.is_ambiguous() => return Err(error.into()),
            // The rest comes at its next start, whatever it is that stands in the way.
            Err(error) => Resized { left: vec![error.to_string()], is_giving: false },
        };
        // It has what it was given, whoever can't be asked for it.
        let domain = self.info(uuid).await.map_err(Trouble::into_unclear)?.ok_or_else(gone)?;
        if !domain.state.is_active() {
            return Ok(WorkOutcome::Done);
        }
        let Resized { left, is_giving } = resized;
        Ok(WorkOutcome::Resized { domain: Box::new(domain), devices, left, is_giving })
    }

    /// A definite no leaves no disk behind that nobody has; after any other answer they are needed. What an
    /// earlier try has plugged into the guest is the guest's: it may have written to it.
    async fn without_added<'a>(
        &self,
        job: &JobId,
        uuid: Uuid,
        is_active: bool,
        added: impl Iterator<Item = &'a str>,
        trouble: Trouble,
    ) -> Trouble {
        let Trouble::No(why) = trouble else { return trouble };
        let has = match is_active {
            true => self.call("xml", CALL_DEADLINE, move |hv| hv.xml(uuid)).await,
            false => Ok(String::new()),
        };
        let Ok(has) = has else { return Trouble::Unclear(why) };
        let is_unused = |name: &&str| !has.contains(&*self.storage.own_path(job, name));
        match self.storage.remove_own(job, added.filter(is_unused)) {
            Ok(()) => Trouble::No(why),
            Err(error) => Trouble::Unclear(format!("{why}; {error}")),
        }
    }

    /// Gives each disk the room that its spec says, by whoever uses it. One that can't have it now is
    /// tried again: others may have grown, and a disk is not made smaller.
    async fn grow_disks(
        &self,
        job: &JobId,
        uuid: Uuid,
        vm: &VmSpec,
        user: User<'_>,
        which: Growing,
    ) -> Result<(), Trouble> {
        let unclear = |error: StorageError| Trouble::Unclear(error.to_string());
        if let User::Nobody(turn) = user {
            return self.storage.grow_volumes(job, vm, turn, which).await.map_err(unclear);
        }
        let outgrown = self.storage.outgrown(job, vm, which).await.map_err(unclear)?;
        if outgrown.is_empty() {
            return Ok(());
        }
        let volumes = self.storage.made_volumes(job, vm).map_err(unclear)?;
        let devices = self.devices_of(uuid, &volumes, &devices_by_place(vm)).await;
        let devices = devices.map_err(Trouble::into_unclear)?;
        for (index, bytes) in outgrown {
            let Some(device) = devices.get(index).cloned() else { continue };
            let grow = move |hv: &dyn Hypervisor| hv.grow_disk(uuid, &device, bytes);
            let grown = call(&self.hv, "grow disk", CALL_DEADLINE, grow).await;
            grown.map_err(|error| Trouble::Unclear(error.to_string()))?;
        }
        Ok(())
    }

    /// Lets a guest run that was started with its CPUs stopped, after a look whether the keeper can end
    /// it. One that libvirt has put elsewhere is ended here.
    async fn free(&self, job: &JobId, uuid: Uuid) -> Result<(), Trouble> {
        if !self.warden.is_guarded(uuid) {
            self.call("destroy", DESTROY_DEADLINE, move |hv| hv.destroy(uuid)).await?;
            return Err(Trouble::No(format!(
                "libvirt has not put {job} into the cgroup that its definition names, so nothing \
                 could end it in time (is systemd-machined in charge of guests here?)"
            )));
        }
        self.call("resume", CALL_DEADLINE, move |hv| hv.resume(uuid)).await
    }

    async fn start_defined(
        &self,
        job: &JobId,
        uuid: Uuid,
        memory: Memory,
        is_paused: bool,
    ) -> Result<(), Trouble> {
        if memory == Memory::Fresh {
            self.call("forget saved memory", CALL_DEADLINE, move |hv| hv.forget_saved(uuid))
                .await?;
        }
        let (ends, late) = oneshot::channel::<Infallible>();
        let started = call(&self.hv, "start", START_DEADLINE, move |hv| {
            let _ends = ends;
            if is_paused { hv.start_paused(uuid) } else { hv.start(uuid) }
        });
        match started.await {
            Ok(()) => Ok(()),
            Err(error) if error.kind == ErrorKind::AlreadyRunning => Ok(()),
            Err(error) if error.kind.is_ambiguous() => {
                lock(&self.late_starts).insert(job.clone(), late);
                // Seen running, it has worked. Seen off or not seen, it may yet run: no answer.
                if matches!(self.is_active(uuid).await, Ok(true)) {
                    Ok(())
                } else {
                    Err(error.into())
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Starts a guest by its own definition, or by the one that it came with if that is gone.
    async fn start_adopted(&self, job: &JobId, uuid: Uuid, memory: Memory) -> Result<(), Trouble> {
        let started = self.try_start_adopted(job, uuid, memory).await;
        self.surely_ended(uuid, started).await
    }

    async fn try_start_adopted(
        &self,
        job: &JobId,
        uuid: Uuid,
        memory: Memory,
    ) -> Result<(), Trouble> {
        self.await_late_start(job).await?;
        let closed = |_| Trouble::Unclear("the agent is stopping".to_owned());
        let _permit = self.starts.acquire().await.map_err(closed)?;
        if self.domain(uuid).await?.is_none() {
            let kept = self.storage.kept_definition(uuid)?.ok_or_else(|| {
                Trouble::No(format!("domain {uuid} is gone, and no definition of it was kept"))
            })?;
            self.call("restore", CALL_DEADLINE, move |hv| hv.restore(&kept)).await?;
        }
        if self.adopt(job, uuid).await?.state.is_active() {
            return Ok(());
        }
        self.start_defined(job, uuid, memory, false).await
    }

    /// Keeps the definition, and only then writes the job into it.
    async fn adopt(&self, job: &JobId, uuid: Uuid) -> Result<DomainInfo, Trouble> {
        let gone = || Trouble::NotThere(format!("domain {uuid} is gone"));
        if self.info(uuid).await?.is_none() {
            return Err(gone());
        }
        if self.storage.kept_definition(uuid)?.is_none() {
            let read = self.call("read definition", CALL_DEADLINE, move |hv| hv.definition(uuid));
            self.storage.keep_definition(uuid, &read.await?)?;
        }
        let label = Some(job.clone());
        self.call("label", CALL_DEADLINE, move |hv| hv.label(uuid, label.as_ref())).await?;
        self.info(uuid).await?.ok_or_else(gone)
    }

    /// Takes the job out of the domain, and sees that its definition is what it was. One that somebody
    /// has undefined meanwhile stays so.
    async fn release(&self, job: &JobId, uuid: Uuid) -> Result<Option<DomainInfo>, Trouble> {
        self.await_late_start(job).await?;
        if let (Some(kept), Some(domain)) =
            (self.storage.kept_definition(uuid)?, self.info(uuid).await?)
        {
            self.call("label", CALL_DEADLINE, move |hv| hv.label(uuid, None)).await?;
            let read = self.call("read definition", CALL_DEADLINE, move |hv| hv.definition(uuid));
            if domain.is_persistent && read.await? != kept {
                self.call("restore", CALL_DEADLINE, move |hv| hv.restore(&kept)).await?;
            }
        }
        // Nothing else is removed: a guest may write its console log, or have its disks, in our folder.
        self.storage.forget_adopted(uuid)?;
        self.info(uuid).await
    }

    /// A start that gave no answer in time is still in libvirt's hands. Nothing else is done with
    /// the guest until that call has come back: a look that shows it off would prove nothing.
    ///
    /// What an earlier life of the agent left in the hands of a hung libvirt is not known here; what
    /// ends a guest therefore waits for its turn in libvirt even when the guest is seen off.
    async fn await_late_start(&self, job: &JobId) -> Result<(), Trouble> {
        let Some(mut late) = lock(&self.late_starts).remove(job) else { return Ok(()) };
        if timeout(CALL_DEADLINE, &mut late).await.is_err() {
            lock(&self.late_starts).insert(job.clone(), late);
            let message = "an earlier start has not come back from the hypervisor".to_owned();
            return Err(Trouble::Unclear(message));
        }
        Ok(())
    }

    async fn stop_vm(&self, job: &JobId, uuid: Uuid, grace: Duration) -> Result<(), Trouble> {
        self.await_late_start(job).await?;
        let mut events = self.hv.watch();
        if !grace.is_zero() && self.is_active(uuid).await? {
            // A guest that stands still can't hear its power button.
            if let Some(DomainState::Paused(_)) = self.domain(uuid).await? {
                let _ = self.call("resume", CALL_DEADLINE, move |hv| hv.resume(uuid)).await;
            }
            let deadline = Instant::now() + grace;
            while Instant::now() < deadline && self.is_active(uuid).await? {
                // A guest that does not listen to its power button refuses in the end by its grace.
                let _ = self.call("shut down", CALL_DEADLINE, move |hv| hv.shutdown(uuid)).await;
                await_end(&mut events, uuid, deadline.min(Instant::now() + ASK_INTERVAL)).await;
            }
            if !self.is_active(uuid).await? {
                return Ok(());
            }
        }
        // Also of a guest that is off: a start that an earlier life of the agent began may still be
        // in libvirt's hands, and this waits for its turn behind it.
        self.call("destroy", DESTROY_DEADLINE, move |hv| hv.destroy(uuid)).await
    }

    async fn save_vm(&self, uuid: Uuid) -> Result<(), Trouble> {
        let saved = Some(DomainState::ShutOff(StopReason::Saved));
        if self.domain(uuid).await? == saved {
            return Ok(());
        }
        let Err(error) = call(&self.hv, "save", SAVE_DEADLINE, move |hv| hv.save(uuid)).await
        else {
            return Ok(());
        };
        // libvirt may still be writing: it is over when the guest has ended, or runs again.
        let deadline = Instant::now() + SAVE_DEADLINE;
        while error.kind.is_ambiguous() && Instant::now() < deadline {
            match self.domain(uuid).await {
                Ok(state) if state == saved => return Ok(()),
                Ok(Some(DomainState::Running)) => break,
                _ => sleep(LOOK_INTERVAL).await,
            }
        }
        Err(error.into())
    }

    /// Like a stop, by the power button; but it is the reset button that ends the grace.
    async fn reboot_vm(&self, job: &JobId, uuid: Uuid, grace: Duration) -> Result<(), Trouble> {
        self.unless_interrupted(job, self.await_reboot(uuid, grace)).await.unwrap_or(Ok(()))
    }

    /// Work that waits for its guest, until a stop overtakes it: `None`. Overtaken, it must not go on: the
    /// next guest of that name would be taken for the one it waits for.
    async fn unless_interrupted<T>(&self, job: &JobId, work: impl Future<Output = T>) -> Option<T> {
        let interrupted = CancellationToken::new();
        lock(&self.waits).insert(job.clone(), interrupted.clone());
        let done = tokio::select! {
            () = interrupted.cancelled() => return None,
            done = work => done,
        };
        let mut waits = lock(&self.waits);
        if !interrupted.is_cancelled() {
            waits.remove(job);
        }
        Some(done)
    }

    async fn await_reboot(&self, uuid: Uuid, grace: Duration) -> Result<(), Trouble> {
        let mut events = self.hv.watch();
        let deadline = Instant::now() + grace;
        while Instant::now() < deadline {
            self.call("reboot", CALL_DEADLINE, move |hv| hv.reboot(uuid)).await?;
            let until = deadline.min(Instant::now() + ASK_INTERVAL);
            match await_event(&mut events, uuid, until, is_reboot_or_end).await {
                Some(Lifecycle::Rebooted) => return Ok(()),
                Some(_) => {
                    let message = "the guest has ended instead of rebooting".to_owned();
                    return Err(Trouble::No(message));
                }
                None => {}
            }
        }
        self.call("reset", CALL_DEADLINE, move |hv| hv.reset(uuid)).await
    }

    /// Ends work of the job that waits for its guest.
    fn interrupt(&self, job: &JobId) {
        let mut waits = lock(&self.waits);
        if let Some(wait) = waits.remove(job) {
            wait.cancel();
        }
    }

    async fn delete(&self, job: &JobId, turn: Option<&Turn>) -> Result<(), Trouble> {
        let uuid = job.domain_uuid();
        self.await_late_start(job).await?;
        if self.domain(uuid).await?.is_some() {
            self.call("destroy", DESTROY_DEADLINE, move |hv| hv.destroy(uuid)).await?;
            self.call("undefine", CALL_DEADLINE, move |hv| hv.undefine(uuid)).await?;
        }
        let folder = self.storage.service_folder(job);
        self.services.stop(job, &folder).await.map_err(|e| Trouble::No(e.to_string()))?;
        self.storage.delete_service(job)?;
        self.channels.end_arrival(uuid);
        Ok(self.storage.delete_volumes(job, turn).await?)
    }

    async fn prepare_incoming(&self, job: &JobId, vm: VmSpec, turn: Option<&Turn>) -> WorkOutcome {
        if !self.hv.facts().can_receive {
            return WorkOutcome::Failed("this host's libvirt can't receive guests".to_owned());
        }
        // Nothing can come before it is listened for, so there is nothing to end.
        if let Err(Unopened::Over(message) | Unopened::Ending(message)) =
            self.warden.await_open(job, &vm).await
        {
            return WorkOutcome::Failed(message);
        }
        // The source copies whole disks, so there is nothing to take from images here.
        if let Err(error) = self.storage.make_incoming(job, &vm, turn).await {
            return WorkOutcome::Failed(error.to_string());
        }
        let owner = match call(&self.hv, "guest owner", CALL_DEADLINE, |hv| hv.guest_owner()).await
        {
            Ok(owner) => owner,
            Err(error) => return WorkOutcome::Failed(error.to_string()),
        };
        match self.channels.await_arrival(job.domain_uuid(), owner) {
            Ok(()) => WorkOutcome::Listening { url: self.place.borrow().url() },
            Err(error) => WorkOutcome::Failed(format!("prepare the guest's channel: {error}")),
        }
    }

    async fn take_over(&self, job: &JobId, uuid: Uuid, turn: Option<&Turn>) -> Result<(), Trouble> {
        match self.domain(uuid).await? {
            Some(domain) if domain.is_active() => {
                self.channels.end_arrival(uuid);
                self.storage.take_over(job, turn).await?;
                if self.warden.keeps(job) {
                    return self.free(job, uuid).await;
                }
                self.call("resume", CALL_DEADLINE, move |hv| hv.resume(uuid)).await
            }
            _ => {
                let message = "the source has let go, but its guest is not here".to_owned();
                Err(Trouble::NotThere(message))
            }
        }
    }

    async fn domain(&self, uuid: Uuid) -> Result<Option<DomainState>, Trouble> {
        Ok(self.info(uuid).await?.map(|domain| domain.state))
    }

    async fn info(&self, uuid: Uuid) -> Result<Option<DomainInfo>, Trouble> {
        let found = call(&self.hv, "look up", CALL_DEADLINE, move |hv| hv.lookup(uuid)).await;
        // A look that fails says nothing of the guest, however surely it has failed.
        found.map_err(|error| Trouble::Unclear(error.to_string()))
    }

    async fn is_active(&self, uuid: Uuid) -> Result<bool, Trouble> {
        Ok(self.domain(uuid).await?.is_some_and(DomainState::is_active))
    }

    async fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        deadline: Duration,
        f: impl FnOnce(&dyn Hypervisor) -> Result<T, HypervisorError> + Send + 'static,
    ) -> Result<T, Trouble> {
        call(&self.hv, what, deadline, f).await.map_err(Trouble::from)
    }
}

/// Waits until the domain says that it has ended, or events were lost, or the deadline has passed.
async fn await_end(events: &mut mpsc::Receiver<WatchEvent>, uuid: Uuid, deadline: Instant) {
    await_event(events, uuid, deadline, |what| matches!(what, Lifecycle::Stopped(_))).await;
}

fn is_reboot_or_end(what: Lifecycle) -> bool {
    matches!(what, Lifecycle::Rebooted | Lifecycle::Stopped(_))
}

/// Waits for such an event of the domain. `None`: events were lost, or the deadline has passed.
async fn await_event(
    events: &mut mpsc::Receiver<WatchEvent>,
    uuid: Uuid,
    deadline: Instant,
    is_it: impl Fn(Lifecycle) -> bool,
) -> Option<Lifecycle> {
    while let Ok(Some(event)) = timeout_at(deadline, events.recv()).await {
        match event {
            WatchEvent::Domain(event) if event.uuid == uuid && is_it(event.what) => {
                return Some(event.what);
            }
            WatchEvent::Reconnected | WatchEvent::Overflowed => return None,
            WatchEvent::Domain(_)
            | WatchEvent::NetworksChanged
            | WatchEvent::Disconnected { .. } => {}
        }
    }
    None
}

/// Nobody who holds this lock does more than a look-up.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
