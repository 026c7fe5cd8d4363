//! A hypervisor in memory, for tests of everything above the trait.
//!
//! It keeps the trait's promises and gives libvirt's events in libvirt's order; the contract tests
//! run the same cases on it and on real QEMU. What goes wrong is chosen with [`Fault`]; what guests
//! and other people do, with the methods of [`Fake`]. No clocks and no randomness: the only waits
//! are those that a fault asks for.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use protocol::host::{Accel, HypervisorFacts};
use protocol::id::JobId;
use protocol::resources::Resources;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::call::HungCalls;
use crate::domain::{
    DomainConfig, DomainInfo, DomainState, MigrateOutcome, MigrateTo, NodeFacts, Owner,
    PauseReason, Progress, StopReason,
};
use crate::domain_xml::{DriverKind, domain_xml, refused};
use crate::error::{ErrorKind, HypervisorError};
use crate::event::{DomainEvent, Lifecycle, StartReason, WatchEvent};
use crate::hub::Hub;
use crate::hypervisor::{ConsoleWriter, Hypervisor};

/// What a fake says of itself.
#[derive(Debug, Clone)]
pub struct FakeOptions {
    /// The machine.
    pub node: NodeFacts,
    /// Where other fakes of the fleet can send guests to; `None` when they can't.
    pub migration_uri: Option<String>,
    /// Whom it can send guests to.
    pub fleet: Fleet,
    /// True when starts and typed bytes are appended to a domain's console log, as an echoing guest
    /// would; otherwise no file is touched.
    pub writes_console_logs: bool,
}

impl Default for FakeOptions {
    fn default() -> Self {
        Self {
            node: NodeFacts { cpus: 8, memory_bytes: 16 << 30 },
            migration_uri: None,
            fleet: Fleet::default(),
            writes_console_logs: false,
        }
    }
}

/// Fakes that can send guests to each other.
#[derive(Debug, Clone, Default)]
pub struct Fleet(Arc<Mutex<BTreeMap<String, Weak<Inner>>>>);

impl Fleet {
    fn at(&self, uri: &str) -> Option<Fake> {
        lock(&self.0).get(uri).and_then(Weak::upgrade).map(Fake)
    }
}

/// Something that goes wrong. Unless it says otherwise, once, at the next such call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The call fails, and nothing is done.
    Fail(Method, ErrorKind),
    /// The call takes effect, and yet an error comes back.
    Ambiguous(Method, ErrorKind),
    /// The call takes this much longer.
    Slow(Method, Duration),
    /// The call comes back only after [`Fake::release`].
    Hang(Method),
    /// The guest does not react to a request to shut down or to reboot.
    GuestIgnoresShutdown,
    /// A migration ends without anybody here knowing where the guest is.
    MigrateUnknown {
        /// Whether it is in fact on the target.
        has_arrived: bool,
    },
    /// A migration goes on until it is aborted or [`Fake::release`] lets it end.
    MigrateStalls,
}

/// The methods that a fault can strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the trait's method of that name")]
pub enum Method {
    Node,
    Define,
    Start,
    Shutdown,
    Destroy,
    Pause,
    Resume,
    Reset,
    Reboot,
    Save,
    Undefine,
    Label,
    List,
    Lookup,
    Xml,
    Migrate,
    GuestOwner,
    JobProgress,
    AbortJob,
    OpenConsole,
}

/// The fake. Clones are the same hypervisor.
#[derive(Debug, Clone)]
pub struct Fake(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: FakeOptions,
    state: Mutex<State>,
    /// Signalled whenever something that a call may wait for has changed.
    changed: Condvar,
    hub: Hub,
    hung_calls: Arc<HungCalls>,
}

#[derive(Debug, Default)]
struct State {
    domains: BTreeMap<Uuid, Guest>,
    faults: Vec<Fault>,
    /// Grows with each `release`.
    releases: u64,
    is_disconnected: bool,
}

#[derive(Debug, Clone)]
struct Guest {
    info: DomainInfo,
    config: Option<DomainConfig>,
    console_input: Vec<u8>,
    job: Option<Outgoing>,
}

#[derive(Debug, Clone, Copy)]
struct Outgoing {
    is_aborted: bool,
}

impl Default for Fake {
    fn default() -> Self {
        Self::new(FakeOptions::default())
    }
}

impl Fake {
    /// A fake without domains.
    #[must_use]
    pub fn new(options: FakeOptions) -> Self {
        let (fleet, uri) = (options.fleet.clone(), options.migration_uri.clone());
        let fake = Self(Arc::new(Inner {
            options,
            state: Mutex::default(),
            changed: Condvar::new(),
            hub: Hub::default(),
            hung_calls: Arc::default(),
        }));
        if let Some(uri) = uri {
            lock(&fleet.0).insert(uri, Arc::downgrade(&fake.0));
        }
        fake
    }

    /// Has something go wrong.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Faults that have not struck yet.
    #[must_use]
    pub fn faults_left(&self) -> Vec<Fault> {
        self.state().faults.clone()
    }

    /// Lets every call that hangs or stalls now go on.
    pub fn release(&self) {
        self.state().releases += 1;
        self.0.changed.notify_all();
    }

    /// A running domain that nobody asked Ostler for.
    pub fn add_foreign(&self, name: &str, uuid: Uuid, resources: Resources) {
        let info = DomainInfo {
            uuid,
            name: name.to_owned(),
            state: DomainState::Running,
            job: None,
            resources,
            is_persistent: true,
        };
        let guest = Guest { info, config: None, console_input: Vec::new(), job: None };
        let mut state = self.state();
        state.domains.insert(uuid, guest);
        self.announce(&state, uuid, Lifecycle::Defined);
        self.announce(&state, uuid, Lifecycle::Started(StartReason::Booted));
    }

    /// The guest shuts itself down. False when it does not run.
    pub fn guest_shuts_down(&self, uuid: Uuid) -> bool {
        let mut state = self.state();
        let is_active = is_active(&state, uuid);
        if is_active {
            self.announce(&state, uuid, Lifecycle::ShutDown);
            self.become_shut_off(&mut state, uuid, StopReason::Shutdown);
        }
        is_active
    }

    /// The guest's process dies. False when it does not run.
    pub fn guest_crashes(&self, uuid: Uuid) -> bool {
        let mut state = self.state();
        let is_active = is_active(&state, uuid);
        if is_active {
            // In libvirt, too, event and state differ in this word.
            set_state(&mut state, uuid, DomainState::ShutOff(StopReason::Crashed));
            self.announce(&state, uuid, Lifecycle::Stopped(StopReason::Failed));
            forget_if_transient(&mut state, uuid);
        }
        is_active
    }

    /// The guest reboots itself.
    pub fn guest_reboots(&self, uuid: Uuid) {
        let state = self.state();
        if is_active(&state, uuid) {
            self.announce(&state, uuid, Lifecycle::Rebooted);
        }
    }

    /// The connection is lost: calls fail, events are lost, guests go on.
    pub fn disconnect(&self) {
        self.state().is_disconnected = true;
        let message = "the fake was disconnected".to_owned();
        self.0.hub.publish(&WatchEvent::Disconnected { message });
    }

    /// The connection is back.
    pub fn reconnect(&self) {
        self.state().is_disconnected = false;
        self.0.hub.publish(&WatchEvent::Reconnected);
    }

    /// The machine loses power and comes back: no guest runs, definitions are kept.
    pub fn reboot_host(&self) {
        self.disconnect();
        let mut state = self.state();
        state.domains.retain(|_, guest| guest.info.is_persistent);
        for guest in state.domains.values_mut() {
            guest.info.state = DomainState::ShutOff(StopReason::Unknown);
            guest.job = None;
        }
        drop(state);
        self.reconnect();
    }

    /// Domains as they really are, also while disconnected and without faults.
    #[must_use]
    pub fn domains(&self) -> Vec<DomainInfo> {
        self.state().domains.values().map(|guest| guest.info.clone()).collect()
    }

    /// What a domain was last defined as.
    #[must_use]
    pub fn config(&self, uuid: Uuid) -> Option<DomainConfig> {
        self.state().domains.get(&uuid).and_then(|guest| guest.config.clone())
    }

    /// Everything typed on a guest's console so far.
    #[must_use]
    pub fn console_input(&self, uuid: Uuid) -> Vec<u8> {
        let state = self.state();
        state.domains.get(&uuid).map(|guest| guest.console_input.clone()).unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    /// Lets faults strike, then does it.
    fn perform<T>(
        &self,
        method: Method,
        what: &str,
        f: impl FnOnce(&mut State) -> Result<T, HypervisorError>,
    ) -> Result<T, HypervisorError> {
        if let Some(Fault::Slow(_, delay)) =
            self.take_fault(|fault| matches!(fault, Fault::Slow(m, _) if *m == method))
        {
            thread::sleep(delay);
        }
        if self.take_fault(|fault| *fault == Fault::Hang(method)).is_some() {
            drop(self.wait_while(|_| true));
        }
        let fails = |fault: &Fault| matches!(fault, Fault::Fail(m, _) if *m == method);
        if let Some(Fault::Fail(_, kind)) = self.take_fault(fails) {
            return Err(HypervisorError::new(what, kind, "as the test wants it"));
        }
        let mut state = self.state();
        if state.is_disconnected {
            let message = "not tried: the fake is disconnected";
            return Err(HypervisorError::new(what, ErrorKind::Disconnected, message));
        }
        let result = f(&mut state);
        drop(state);
        self.0.changed.notify_all();
        let is_ambiguous = |fault: &Fault| matches!(fault, Fault::Ambiguous(m, _) if *m == method);
        match self.take_fault(is_ambiguous) {
            Some(Fault::Ambiguous(_, kind)) => {
                Err(HypervisorError::new(what, kind, "took effect, as the test wants it"))
            }
            _ => result,
        }
    }

    fn take_fault(&self, is_it: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let mut state = self.state();
        let index = state.faults.iter().position(is_it)?;
        Some(state.faults.remove(index))
    }

    /// Waits while `f` holds and nobody calls `release`.
    fn wait_while(&self, f: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let state = self.state();
        let releases = state.releases;
        self.0
            .changed
            .wait_while(state, |state| state.releases == releases && f(state))
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self, state: &State, uuid: Uuid, what: Lifecycle) {
        let guest = &state.domains[&uuid];
        if !state.is_disconnected {
            let event = DomainEvent { uuid, name: guest.info.name.clone(), what };
            self.0.hub.publish(&WatchEvent::Domain(event));
        }
    }

    fn become_running(&self, state: &mut State, uuid: Uuid) {
        set_state(state, uuid, DomainState::Running);
        self.announce(state, uuid, Lifecycle::Resumed);
    }

    fn become_paused(&self, state: &mut State, uuid: Uuid, reason: PauseReason) {
        set_state(state, uuid, DomainState::Paused(reason));
        self.announce(state, uuid, Lifecycle::Suspended(reason));
    }

    /// A transient domain is forgotten at its end.
    fn become_shut_off(&self, state: &mut State, uuid: Uuid, reason: StopReason) {
        set_state(state, uuid, DomainState::ShutOff(reason));
        self.announce(state, uuid, Lifecycle::Stopped(reason));
        forget_if_transient(state, uuid);
    }

    fn append_to_log(&self, guest: &Guest, bytes: &[u8]) {
        let Some(config) = guest.config.as_ref().filter(|_| self.0.options.writes_console_logs)
        else {
            return;
        };
        let log: &Path = &config.console_log;
        let opened = OpenOptions::new().create(true).append(true).open(log);
        if let Err(error) = opened.and_then(|mut file| file.write_all(bytes)) {
            tracing::warn!(%error, log = %log.display(), "append to a fake console log");
        }
    }

    /// Takes in a guest from another fake, as libvirt's daemon would.
    fn receive(&self, mut guest: Guest, is_paused: bool) -> Result<(), String> {
        let uuid = guest.info.uuid;
        let mut state = self.state();
        if state.is_disconnected {
            return Err("the target does not answer".to_owned());
        }
        if is_active(&state, uuid) {
            return Err("the target runs this domain already".to_owned());
        }
        guest.info.state = DomainState::Paused(PauseReason::Migration);
        guest.info.is_persistent = true;
        guest.job = None;
        state.domains.insert(uuid, guest);
        self.announce(&state, uuid, Lifecycle::Started(StartReason::Migrated));
        self.announce(&state, uuid, Lifecycle::Defined);
        if is_paused {
            self.become_paused(&mut state, uuid, PauseReason::Requested);
        } else {
            self.become_running(&mut state, uuid);
        }
        Ok(())
    }

    /// Blocks while a stalled migration is neither aborted nor released. Says whether to go on.
    fn transfer(&self, uuid: Uuid) -> bool {
        let goes_on = |state: &State| {
            let guest = state.domains.get(&uuid);
            guest.is_some_and(|guest| guest.job.is_some_and(|job| !job.is_aborted))
        };
        if self.take_fault(|fault| *fault == Fault::MigrateStalls).is_some() {
            let state = self.wait_while(goes_on);
            return goes_on(&state);
        }
        true
    }

    /// Forgets a guest that has moved away. libvirt announces no `Undefined` then.
    fn leave(&self, uuid: Uuid) {
        let mut state = self.state();
        if let Some(guest) = state.domains.get_mut(&uuid) {
            guest.info.is_persistent = false;
            self.become_paused(&mut state, uuid, PauseReason::Migration);
            self.become_shut_off(&mut state, uuid, StopReason::Migrated);
        }
    }
}

impl Hypervisor for Fake {
    fn facts(&self) -> HypervisorFacts {
        HypervisorFacts {
            uri: "fake:///".to_owned(),
            driver: "FAKE".to_owned(),
            libvirt_version: "0.0.0".to_owned(),
            accel: Accel::None,
            accel_reason: Some("the fake only pretends".to_owned()),
            can_receive: self.0.options.migration_uri.is_some(),
        }
    }

    fn node(&self) -> Result<NodeFacts, HypervisorError> {
        self.perform(Method::Node, "read node facts", |_| Ok(self.0.options.node))
    }

    fn define(&self, config: &DomainConfig) -> Result<(), HypervisorError> {
        let what = format!("define domain {}", config.job);
        self.perform(Method::Define, &what, |state| {
            if let Some(message) = refused(config) {
                return Err(HypervisorError::new(&what, ErrorKind::Refused, message));
            }
            let is_namesake =
                |g: &&Guest| g.info.name == config.job.as_str() && g.info.uuid != config.uuid;
            if let Some(guest) = state.domains.values().find(is_namesake) {
                let message = format!("domain {} has this name", guest.info.uuid);
                return Err(HypervisorError::new(&what, ErrorKind::AlreadyExists, message));
            }
            let before = state.domains.get(&config.uuid);
            let guest = Guest {
                info: DomainInfo {
                    uuid: config.uuid,
                    name: config.job.to_string(),
                    state: before
                        .map_or(DomainState::ShutOff(StopReason::Unknown), |g| g.info.state),
                    job: Some(config.job.clone()),
                    resources: Resources { disk_bytes: 0, ..config.vm.resources() },
                    is_persistent: true,
                },
                config: Some(config.clone()),
                console_input: before.map(|g| g.console_input.clone()).unwrap_or_default(),
                job: before.and_then(|g| g.job),
            };
            state.domains.insert(config.uuid, guest);
            self.announce(state, config.uuid, Lifecycle::Defined);
            Ok(())
        })
    }

    fn start(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let what = format!("start domain {uuid}");
        self.perform(Method::Start, &what, |state| {
            let guest = find(state, &what, uuid)?;
            if guest.info.state.is_active() {
                let message = "it has a process";
                return Err(HypervisorError::new(&what, ErrorKind::AlreadyRunning, message));
            }
            let line = format!("fake guest {} started\n", guest.info.name);
            self.append_to_log(guest, line.as_bytes());
            let why = match guest.info.state {
                DomainState::ShutOff(StopReason::Saved) => StartReason::Restored,
                _ => StartReason::Booted,
            };
            self.become_running(state, uuid);
            self.announce(state, uuid, Lifecycle::Started(why));
            Ok(())
        })
    }

    fn shutdown(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let what = format!("shut down domain {uuid}");
        let is_ignored = self.take_fault(|fault| *fault == Fault::GuestIgnoresShutdown).is_some();
        self.perform(Method::Shutdown, &what, |state| {
            find_active(state, &what, uuid)?;
            if !is_ignored {
                self.announce(state, uuid, Lifecycle::ShutDown);
                self.become_shut_off(state, uuid, StopReason::Shutdown);
            }
            Ok(())
        })
    }

    fn destroy(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let what = format!("destroy domain {uuid}");
        self.perform(Method::Destroy, &what, |state| {
            if is_active(state, uuid) {
                self.become_shut_off(state, uuid, StopReason::Destroyed);
            }
            Ok(())
        })
    }

    fn pause(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let what = format!("pause domain {uuid}");
        self.perform(Method::Pause, &what, |state| {
            let guest = find_active(state, &what, uuid)?;
            if !matches!(guest.info.state, DomainState::Paused(_)) {
                self.become_paused(state, uuid, PauseReason::Requested);
            }
            Ok(())
        })
    }

    fn resume(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let what = format!("resume domain {uuid}");
        self.perform(Method::Resume, &what, |state| {
            if find_active(state, &what, uuid)?.info.state != DomainState::Running {
                self.become_running(state, uuid);
            }
            Ok(())
        })
    }

    fn reset(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let what = format!("reset domain {uuid}");
        self.perform(Method::Reset, &what, |state| {
            find_active(state, &what, uuid)?;
            self.announce(state, uuid, Lifecycle::Rebooted);
            Ok(())
        })
    }

    fn reboot(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let what = format!("reboot domain {uuid}");
        let is_ignored = self.take_fault(|fault| *fault == Fault::GuestIgnoresShutdown).is_some();
        self.perform(Method::Reboot, &what, |state| {
            find_active(state, &what, uuid)?;
            if !is_ignored {
                self.announce(state, uuid, Lifecycle::Rebooted);
            }
            Ok(())
        })
    }

    fn save(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let what = format!("save domain {uuid}");
        self.perform(Method::Save, &what, |state| {
            if !find_active(state, &what, uuid)?.info.is_persistent {
                let message = "it is transient: nothing would remember what was saved";
                return Err(HypervisorError::new(&what, ErrorKind::Failed, message));
            }
            self.become_shut_off(state, uuid, StopReason::Saved);
            Ok(())
        })
    }

    fn undefine(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let what = format!("undefine domain {uuid}");
        self.perform(Method::Undefine, &what, |state| {
            let Some(guest) = state.domains.get_mut(&uuid).filter(|g| g.info.is_persistent) else {
                return Ok(());
            };
            guest.info.is_persistent = false;
            let is_active = guest.info.state.is_active();
            self.announce(state, uuid, Lifecycle::Undefined);
            if !is_active {
                state.domains.remove(&uuid);
            }
            Ok(())
        })
    }

    fn label(&self, uuid: Uuid, job: Option<&JobId>) -> Result<(), HypervisorError> {
        let what = format!("label domain {uuid}");
        self.perform(Method::Label, &what, |state| {
            find(state, &what, uuid)?.info.job = job.cloned();
            Ok(())
        })
    }

    fn list(&self) -> Result<Vec<DomainInfo>, HypervisorError> {
        self.perform(Method::List, "list domains", |state| {
            Ok(state.domains.values().map(|guest| guest.info.clone()).collect())
        })
    }

    fn lookup(&self, uuid: Uuid) -> Result<Option<DomainInfo>, HypervisorError> {
        self.perform(Method::Lookup, &format!("look up domain {uuid}"), |state| {
            Ok(state.domains.get(&uuid).map(|guest| guest.info.clone()))
        })
    }

    fn xml(&self, uuid: Uuid) -> Result<String, HypervisorError> {
        let what = format!("read definition of domain {uuid}");
        self.perform(Method::Xml, &what, |state| {
            let guest = find(state, &what, uuid)?;
            Ok(guest.config.as_ref().map_or_else(
                || format!("<domain type='test'><uuid>{uuid}</uuid></domain>\n"),
                |config| domain_xml(config, DriverKind::Test),
            ))
        })
    }

    fn migrate(&self, uuid: Uuid, to: &MigrateTo) -> Result<MigrateOutcome, HypervisorError> {
        let what = format!("migrate domain {uuid} to {}", to.libvirt_uri);
        let (guest, before) = self.perform(Method::Migrate, &what, |state| {
            let guest = find_active(state, &what, uuid)?;
            if guest.job.is_some() {
                let message = "it is being migrated already";
                return Err(HypervisorError::new(&what, ErrorKind::Failed, message));
            }
            guest.job = Some(Outgoing { is_aborted: false });
            Ok((guest.clone(), guest.info.state))
        })?;
        let unknown = self.take_fault(|fault| matches!(fault, Fault::MigrateUnknown { .. }));
        let sent = if self.transfer(uuid) {
            let target = self.0.options.fleet.at(&to.libvirt_uri);
            let is_paused = to.start_paused || before != DomainState::Running;
            match (&unknown, target) {
                (Some(Fault::MigrateUnknown { has_arrived: false }), _) => Ok(()),
                (_, Some(target)) => target.receive(guest, is_paused),
                (_, None) => Err("nobody answers there".to_owned()),
            }
        } else {
            Err("aborted, or the guest has ended".to_owned())
        };
        let error = |message: &str| HypervisorError::new(&what, ErrorKind::Failed, message);
        if unknown.is_some() {
            let mut state = self.state();
            if let Some(guest) = state.domains.get_mut(&uuid) {
                guest.job = None;
                self.become_paused(&mut state, uuid, PauseReason::Migration);
            }
            let seen = state.domains.get(&uuid).map(|guest| guest.info.state);
            return Ok(MigrateOutcome::Unknown { seen, error: error("as the test wants it") });
        }
        match sent {
            Ok(()) => {
                self.leave(uuid);
                Ok(MigrateOutcome::Moved)
            }
            Err(message) => {
                let mut state = self.state();
                let seen = state.domains.get_mut(&uuid).map(|guest| {
                    guest.job = None;
                    guest.info.state
                });
                Ok(match seen {
                    Some(state) if state == before => {
                        MigrateOutcome::StillHere { state, error: error(&message) }
                    }
                    seen => MigrateOutcome::Unknown { seen, error: error(&message) },
                })
            }
        }
    }

    fn guest_owner(&self) -> Result<Owner, HypervisorError> {
        let owner = Owner::of_this_process();
        self.perform(Method::GuestOwner, "read whose files guests use", |_| Ok(owner))
    }

    fn job_progress(&self, uuid: Uuid) -> Result<Option<Progress>, HypervisorError> {
        let what = format!("read progress of domain {uuid}");
        self.perform(Method::JobProgress, &what, |state| {
            let guest = find(state, &what, uuid)?;
            let total_bytes = guest.info.resources.memory_bytes;
            Ok(guest.job.map(|_| Progress { moved_bytes: total_bytes / 2, total_bytes }))
        })
    }

    fn abort_job(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let what = format!("abort migration of domain {uuid}");
        self.perform(Method::AbortJob, &what, |state| {
            if let Some(job) = &mut find(state, &what, uuid)?.job {
                job.is_aborted = true;
            }
            Ok(())
        })
    }

    fn watch(&self) -> mpsc::Receiver<WatchEvent> {
        self.0.hub.watch()
    }

    fn open_console(&self, uuid: Uuid) -> Result<Box<dyn ConsoleWriter>, HypervisorError> {
        let what = format!("open console of domain {uuid}");
        self.perform(Method::OpenConsole, &what, |state| {
            find_active(state, &what, uuid)?;
            Ok(Box::new(FakeConsole { fake: self.clone(), uuid }) as Box<dyn ConsoleWriter>)
        })
    }

    fn hung_calls(&self) -> &Arc<HungCalls> {
        &self.0.hung_calls
    }
}

struct FakeConsole {
    fake: Fake,
    uuid: Uuid,
}

impl ConsoleWriter for FakeConsole {
    fn write(&mut self, bytes: &[u8]) -> Result<(), HypervisorError> {
        let mut state = self.fake.state();
        let what = format!("write to console of domain {}", self.uuid);
        let guest = find_active(&mut state, &what, self.uuid)?;
        guest.console_input.extend_from_slice(bytes);
        self.fake.append_to_log(guest, bytes);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_active(state: &State, uuid: Uuid) -> bool {
    state.domains.get(&uuid).is_some_and(|guest| guest.info.state.is_active())
}

fn forget_if_transient(state: &mut State, uuid: Uuid) {
    if !state.domains[&uuid].info.is_persistent {
        state.domains.remove(&uuid);
    }
}

fn set_state(state: &mut State, uuid: Uuid, next: DomainState) {
    let guest = state.domains.get_mut(&uuid).expect("callers have found this domain");
    guest.info.state = next;
}

fn find<'a>(
    state: &'a mut State,
    what: &str,
    uuid: Uuid,
) -> Result<&'a mut Guest, HypervisorError> {
    let missing = || HypervisorError::new(what, ErrorKind::NoSuchDomain, "never heard of it");
    state.domains.get_mut(&uuid).ok_or_else(missing)
}

fn find_active<'a>(
    state: &'a mut State,
    what: &str,
    uuid: Uuid,
) -> Result<&'a mut Guest, HypervisorError> {
    let guest = find(state, what, uuid)?;
    if guest.info.state.is_active() {
        return Ok(guest);
    }
    Err(HypervisorError::new(what, ErrorKind::NotRunning, "it has no process"))
}

#[cfg(test)]
mod tests {
    use protocol::vm::VmSpec;

    use super::*;

    fn config(job: &str) -> DomainConfig {
        let job = JobId::new(job).unwrap();
        DomainConfig {
            uuid: job.domain_uuid(),
            job,
            vm: VmSpec {
                vcpus: 1,
                memory_bytes: 64 << 20,
                disks: vec![],
                nics: vec![],
                ..VmSpec::default()
            },
            volumes: vec![],
            console_log: "/nonexistent/console.log".into(),
            accel: Accel::None,
        }
    }

    fn running(fake: &Fake) -> Uuid {
        let config = config("web-1");
        fake.define(&config).unwrap();
        fake.start(config.uuid).unwrap();
        config.uuid
    }

    fn pair() -> (Fake, Fake, MigrateTo) {
        let fleet = Fleet::default();
        let fake = |uri: &str| {
            let migration_uri = Some(uri.to_owned());
            Fake::new(FakeOptions { migration_uri, fleet: fleet.clone(), ..Default::default() })
        };
        let to = MigrateTo {
            libvirt_uri: "fake://b".into(),
            migrate_uri: "tcp://b".into(),
            disks_uri: "tcp://b:1".into(),
            bandwidth_mib_s: None,
            start_paused: true,
        };
        (fake("fake://a"), fake("fake://b"), to)
    }

    #[test]
    fn an_ambiguous_start_has_started() {
        let fake = Fake::default();
        let config = config("web-1");
        fake.define(&config).unwrap();
        fake.inject(Fault::Ambiguous(Method::Start, ErrorKind::Disconnected));
        assert!(fake.start(config.uuid).unwrap_err().kind.is_ambiguous());
        assert_eq!(fake.lookup(config.uuid).unwrap().unwrap().state, DomainState::Running);
        assert_eq!(fake.faults_left(), []);
    }

    #[test]
    fn a_migrated_guest_waits_paused_on_the_target_and_is_gone_from_the_source() {
        let (a, b, to) = pair();
        let uuid = running(&a);
        assert!(matches!(a.migrate(uuid, &to), Ok(MigrateOutcome::Moved)));
        assert_eq!(a.lookup(uuid).unwrap(), None);
        let arrived = b.lookup(uuid).unwrap().unwrap();
        assert_eq!(arrived.state, DomainState::Paused(PauseReason::Requested));
        b.resume(uuid).unwrap();
        assert_eq!(b.lookup(uuid).unwrap().unwrap().state, DomainState::Running);
    }

    #[test]
    fn an_aborted_migration_leaves_the_guest_here() {
        let (a, b, to) = pair();
        let uuid = running(&a);
        a.inject(Fault::MigrateStalls);
        let source = a.clone();
        let migration = thread::spawn(move || source.migrate(uuid, &to));
        while a.job_progress(uuid).unwrap().is_none() {
            thread::yield_now();
        }
        a.abort_job(uuid).unwrap();
        let outcome = migration.join().unwrap();
        assert!(matches!(outcome, Ok(MigrateOutcome::StillHere { .. })), "{outcome:?}");
        assert_eq!(b.domains(), []);
    }

    #[test]
    fn an_unknown_outcome_leaves_the_source_paused() {
        for has_arrived in [false, true] {
            let (a, b, to) = pair();
            let uuid = running(&a);
            a.inject(Fault::MigrateUnknown { has_arrived });
            let outcome = a.migrate(uuid, &to);
            assert!(matches!(outcome, Ok(MigrateOutcome::Unknown { .. })), "{outcome:?}");
            assert_eq!(b.lookup(uuid).unwrap().is_some(), has_arrived);
        }
    }

    #[test]
    fn a_reboot_of_the_host_ends_guests_silently_and_keeps_definitions() {
        let fake = Fake::default();
        let uuid = running(&fake);
        let mut events = fake.watch();
        fake.reboot_host();
        let state = fake.lookup(uuid).unwrap().unwrap().state;
        assert_eq!(state, DomainState::ShutOff(StopReason::Unknown));
        assert!(matches!(events.try_recv(), Ok(WatchEvent::Disconnected { .. })));
        assert_eq!(events.try_recv(), Ok(WatchEvent::Reconnected));
        assert!(events.try_recv().is_err());
    }
}
