//! A hypervisor in memory, for tests of everything above the trait.
//!
//! It keeps the trait's promises and gives libvirt's events in libvirt's order; the contract tests
//! run the same cases on it and on real QEMU. What goes wrong is chosen with [`Fault`]; what guests
//! and other people do, with the methods of [`Fake`]. No clocks and no randomness: the only waits
//! are those that a fault asks for.

mod driver;
mod migration;
mod people;

mod fault;
pub use fault::{Fault, Method};

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use protocol::job::AddressSource;
use protocol::vm::{DiskSpec, NicSpec, Size};
use uuid::Uuid;

use crate::call::HungCalls;
use crate::domain::{
    DomainConfig, DomainInfo, DomainState, NodeFacts, PauseReason, StopReason, Volume,
};
use crate::domain_xml::{DriverKind, disk_device, domain_xml};
use crate::error::{ErrorKind, HypervisorError};
use crate::event::{DomainEvent, Lifecycle, StartReason, WatchEvent};
use crate::fittings::Fitting;
use crate::hub::Hub;
use crate::network::NetworkInfo;
use crate::resize::Live;

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
    networks: BTreeMap<Uuid, NetworkInfo>,
    faults: Vec<Fault>,
    /// Grows with each `release`.
    releases: u64,
    is_disconnected: bool,
}

#[derive(Debug, Clone)]
struct Guest {
    info: DomainInfo,
    config: Option<DomainConfig>,
    /// What it starts with next.
    defined: Size,
    /// What it was started with, and for.
    started: Size,
    console_input: Vec<u8>,
    job: Option<Outgoing>,
    /// Where what it prints is kept while somebody listens.
    recorded: Option<PathBuf>,
    /// What is known of its cards' addresses: who says so, of which card, which.
    addresses: Vec<(AddressSource, String, IpAddr)>,
    /// Snapshots inside its disks, by guest device.
    snapshots: BTreeMap<String, BTreeSet<String>>,
    /// Sizes that its disks were given while it ran, by guest device.
    grown: BTreeMap<String, u64>,
    /// Disks and cards that its definition has no more, and that it has as long as it runs.
    kept: (Vec<(DiskSpec, Volume)>, Vec<NicSpec>),
}

impl Guest {
    fn new(info: DomainInfo, config: Option<DomainConfig>, defined: Size) -> Self {
        let (console_input, addresses) = (Vec::new(), Vec::new());
        let (started, job, recorded) = (defined, None, None);
        let (snapshots, grown) = (BTreeMap::new(), BTreeMap::new());
        let kept = (Vec::new(), Vec::new());
        Self {
            info,
            config,
            defined,
            started,
            console_input,
            job,
            recorded,
            addresses,
            snapshots,
            grown,
            kept,
        }
    }

    /// Off, and not in a file, it is shown as what it would be.
    fn show_defined(&mut self) {
        self.info.resources = self.defined.resources();
        self.info.memory_now_bytes = self.defined.memory_bytes;
    }

    /// Whether it has a disk of this device, and how large that is.
    fn disk_bytes(&self, device: &str) -> Option<u64> {
        let disks = &self.config.as_ref()?.vm.disks;
        let is_it =
            |(at, disk): &(usize, &DiskSpec)| disk_device(*at, disk).as_deref() == Some(device);
        let (_, disk) = disks.iter().enumerate().find(is_it)?;
        Some(self.grown.get(device).copied().unwrap_or(disk.size_bytes))
    }

    /// What QEMU would do to the file of a disk, if there is a file: words before it, and after it.
    fn on_file(&self, device: &str, words: &[&str], more: &[&str]) -> Result<(), String> {
        let volumes = self.config.as_ref().map_or(&[][..], |config| &config.volumes);
        let disks = self.config.as_ref().map_or(&[][..], |config| &config.vm.disks);
        let is_it = |at: usize| disk_device(at, &disks[at]).as_deref() == Some(device);
        let volume = (0..disks.len()).find(|at| is_it(*at)).and_then(|at| volumes.get(at));
        let Some(volume) = volume.filter(|volume| volume.path.exists()) else { return Ok(()) };
        let mut command = Command::new("qemu-img");
        let done =
            command.args(words).arg(&volume.path).args(more).output().map_err(|e| e.to_string())?;
        match done.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
        }
    }

    fn live(&self, keeps_size: bool) -> Live {
        Live {
            vcpus: self.info.resources.vcpus,
            vcpus_max: self.started.max_vcpus.unwrap_or(self.started.vcpus),
            memory_bytes: self.info.resources.memory_bytes,
            memory_now_bytes: self.info.memory_now_bytes,
            memory_max_bytes: self.started.max_memory_bytes,
            can_plug: Ok(()),
            can_unplug: if keeps_size { Err("as the test wants it") } else { Ok(()) },
            can_balloon: Ok(()),
        }
    }

    /// What it runs with stays there when its definition becomes this, until it lets go of it.
    fn keep_what_goes(&mut self, to: &DomainConfig) {
        let Some(config) = &self.config else { return };
        let disks = config.vm.disks.iter().cloned().zip(config.volumes.iter().cloned());
        let goes = |volume: &Volume| to.volumes.iter().all(|stays| stays.path != volume.path);
        self.kept.0.extend(disks.filter(|(_, volume)| goes(volume)));
        let stay = to.vm.macs(to.uuid);
        let nics = config.vm.nics.iter().zip(config.vm.macs(config.uuid));
        let nics = nics.filter(|(_, mac)| !stay.contains(mac));
        let named = |(nic, mac): (&NicSpec, String)| NicSpec { mac: Some(mac), ..nic.clone() };
        self.kept.1.extend(nics.map(named));
    }

    fn let_go(&mut self, leaving: &[Fitting]) {
        let (disks, nics) = &mut self.kept;
        disks.retain(|(_, volume)| !leaving.contains(&Fitting::Disk(volume.path.clone())));
        let is_it =
            |nic: &NicSpec| nic.mac.clone().is_some_and(|m| leaving.contains(&Fitting::Card(m)));
        nics.retain(|nic| !is_it(nic));
    }

    /// What libvirt shows of it: while it runs with what it has not let go of.
    fn shown(&self) -> String {
        let is_kept = !(self.kept.0.is_empty() && self.kept.1.is_empty());
        let Some(config) = self.config.as_ref().filter(|_| is_kept) else {
            return self.definition();
        };
        let mut config = config.clone();
        for (disk, volume) in self.kept.0.iter().cloned() {
            config.vm.disks.push(disk);
            config.volumes.push(volume);
        }
        config.vm.nics.extend(self.kept.1.iter().cloned());
        domain_xml(&config, DriverKind::Test)
    }

    /// Like libvirt's, with the label in it.
    fn definition(&self) -> String {
        let info = &self.info;
        let label = info.job.as_ref().map(|job| format!("<metadata><job id='{job}'/></metadata>"));
        match &self.config {
            Some(config) if info.job.as_ref() == Some(&config.job) => {
                domain_xml(config, DriverKind::Test)
            }
            _ => format!(
                "<domain type='test'><name>{}</name><uuid>{}</uuid>{}<memory unit='b'>{}</memory><vcpu current='{}'>{}</vcpu><devices><serial type='pty'/></devices></domain>\n",
                info.name,
                info.uuid,
                label.unwrap_or_default(),
                self.defined.memory_bytes,
                self.defined.vcpus,
                self.defined.max_vcpus.unwrap_or(self.defined.vcpus),
            ),
        }
    }
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

    fn begin(&self, uuid: Uuid, is_paused: bool) -> Result<(), HypervisorError> {
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
            let guest = find(state, &what, uuid)?;
            if why == StartReason::Booted {
                guest.started = guest.defined;
                guest.show_defined();
            }
            match is_paused {
                true => self.become_paused(state, uuid, PauseReason::Requested),
                false => self.become_running(state, uuid),
            }
            self.announce(state, uuid, Lifecycle::Started(why));
            Ok(())
        })
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
        let own = guest.config.as_ref().filter(|_| self.0.options.writes_console_logs);
        let own = own.map(|config| &config.console_log);
        let Some(log) = guest.recorded.as_ref().or(own) else { return };
        let opened = OpenOptions::new().create(true).append(true).open(log);
        if let Err(error) = opened.and_then(|mut file| file.write_all(bytes)) {
            tracing::warn!(%error, log = %log.display(), "append to a fake console log");
        }
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
    if !next.is_active() {
        guest.kept = (Vec::new(), Vec::new());
    }
    if !next.is_active() && next != DomainState::ShutOff(StopReason::Saved) {
        guest.show_defined();
    }
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
mod tests;
