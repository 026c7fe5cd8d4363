//! A simulated libvirt with the guests under it: slow, failing, and at times unclear about what it
//! has done. It outlives the agent and dies with its machine.
//!
//! Operations that change a domain are carried out one after another, domain by domain, as
//! libvirt's own lock does it; looking is not held up. What the guests really do is in
//! [`Domain::state`]: the invariants look there, never at what somebody says about it.

use std::collections::BTreeMap;

use hypervisor::{DomainInfo, DomainState, ErrorKind, Lifecycle, PauseReason, StopReason};
use protocol::id::JobId;
use protocol::resources::Resources;
use protocol::vm::Size;
use uuid::Uuid;

use super::message::NodeId;
use super::tasks::CallId;

/// What libvirt can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HvOp {
    /// Make a domain known.
    Define(JobId, Size),
    /// Give a guest another size, as far as that goes.
    Resize(Uuid, Size),
    /// Start it.
    Start(Uuid),
    /// Press its power button.
    Shutdown(Uuid),
    /// End it now.
    Destroy(Uuid),
    /// Stop its CPUs.
    Pause(Uuid),
    /// Let its CPUs run.
    Resume(Uuid),
    /// Write its memory to disk and end it.
    Save(Uuid),
    /// Forget what was written.
    ForgetSaved(Uuid),
    /// Press its reset button.
    Reset(Uuid),
    /// Come back when everything asked for before is over.
    Barrier(Uuid),
    /// Forget its definition.
    Undefine(Uuid),
    /// Write a job into it, or take that out again.
    Label(Uuid, Option<JobId>),
    /// Read its definition.
    Definition(Uuid),
    /// Make this its definition again.
    Restore(Uuid, String),
    /// Look at it.
    Lookup(Uuid),
    /// Look at all.
    List,
    /// Send it to another machine.
    Migrate(Uuid, NodeId),
    /// Ask how far that is.
    Progress(Uuid),
    /// Give that up.
    Abort(Uuid),
}

/// What libvirt answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HvReply {
    /// It is so.
    Done,
    /// What is there.
    Domain(Option<DomainInfo>),
    /// All that is there.
    Domains(Vec<DomainInfo>),
    /// A definition.
    Definition(String),
    /// What of another size had to wait, and whether the guest takes its time to give memory up.
    Resized {
        /// What had to wait.
        left: Vec<String>,
        /// Whether it takes its time.
        is_giving: bool,
    },
    /// Whether a sending is under way.
    IsSending(bool),
    /// How a sending ended.
    Sent(Sent),
}

/// How a sending ended, in libvirt's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is there.
    Moved,
    /// It is still here as it was.
    StillHere,
    /// Nobody knows.
    Unknown,
}

/// Why it did not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HvError {
    /// Which sort.
    pub kind: ErrorKind,
}

/// What becomes of one operation, decided when it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// What it should.
    Good,
    /// libvirt tries and fails, and undoes it.
    Fails,
    /// It is done, and nobody hears of it.
    DoneUnheard,
    /// It is not done, and nobody hears of it.
    LostUnheard,
}

/// A domain.
#[derive(Debug, Clone)]
pub struct Domain {
    /// Its uuid.
    pub uuid: Uuid,
    /// Its name, which is its job's if Ostler has made it.
    pub job: JobId,
    /// The job that is written into it.
    pub label: Option<JobId>,
    /// What its definition says besides. A label that is taken out leaves its mark there.
    pub definition: String,
    /// How often its process was started.
    pub starts: u32,
    /// What it has.
    pub resources: Resources,
    /// What it starts with next.
    pub defined: Size,
    /// CPUs that its machine was started for.
    pub vcpus_max: u32,
    /// Memory that its machine has.
    pub machine_bytes: u64,
    /// Memory that it is on its way to give up to.
    pub giving_to: Option<u64>,
    /// What it really does.
    pub state: DomainState,
    /// Whether its definition outlives it.
    pub is_persistent: bool,
    /// The sending that is under way.
    pub sending: Option<Sending>,
    /// Held still by its gate, whatever its state says.
    pub is_frozen: bool,
}

/// A sending under way.
#[derive(Debug, Clone, Copy)]
pub struct Sending {
    /// The operation.
    pub op: u64,
    /// Where to.
    pub to: NodeId,
    /// Told to give up.
    pub is_aborted: bool,
    /// Whose answer it is.
    pub caller: Caller,
    /// What will become of it.
    pub fate: Fate,
}

/// Whom an answer is for.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// The agent's life.
    pub life: u32,
    /// The question.
    pub call: CallId,
}

/// One machine's libvirt.
#[derive(Debug, Default)]
pub struct Hv {
    /// Every domain it knows.
    pub domains: BTreeMap<Uuid, Domain>,
    /// It does not answer before this time.
    pub down_until_us: u64,
    /// Operations take this many times as long.
    pub slowness: u64,
    /// Numbers operations.
    pub ops: u64,
    /// Until when earlier operations on a domain take, whether there is one or not: they keep their order.
    pub busy_until_us: BTreeMap<Uuid, u64>,
    /// Gates that there are, and whether each is open.
    pub gates: BTreeMap<Uuid, bool>,
}

/// What happened to a domain, for those who watch.
pub type Happened = (Uuid, Lifecycle);

impl Domain {
    /// One that has just been defined.
    #[must_use]
    pub fn off(uuid: Uuid, name: JobId, label: Option<JobId>, defined: Size) -> Self {
        Self {
            resources: defined.resources(),
            vcpus_max: defined.vcpus,
            machine_bytes: defined.memory_bytes,
            giving_to: None,
            defined,
            uuid,
            definition: format!("domain {name}"),
            job: name,
            label,
            starts: 0,
            state: DomainState::ShutOff(StopReason::Unknown),
            is_persistent: true,
            sending: None,
            is_frozen: false,
        }
    }

    /// As libvirt shows it.
    #[must_use]
    pub fn info(&self) -> DomainInfo {
        DomainInfo {
            uuid: self.uuid,
            name: self.job.to_string(),
            state: self.state,
            job: self.label.clone(),
            resources: Resources { memory_bytes: self.machine_bytes, ..self.resources },
            memory_now_bytes: self.resources.memory_bytes,
            page_size: None,
            is_persistent: self.is_persistent,
        }
    }

    /// Its machine is made anew.
    fn boot(&mut self) {
        self.resources = self.defined.resources();
        self.vcpus_max = self.defined.max_vcpus.unwrap_or(self.defined.vcpus);
        self.machine_bytes = self.defined.memory_bytes;
        self.giving_to = None;
    }

    /// CPUs come up to what the machine was started for, and go if the guest lets them. Memory comes
    /// back up to what the machine has, and goes in two halves.
    fn resize(&mut self, to: Size, guest_obeys: bool) -> HvReply {
        let mut left = Vec::new();
        let vcpus = to.vcpus.min(self.vcpus_max);
        if vcpus >= self.resources.vcpus || guest_obeys {
            self.resources.vcpus = vcpus;
        }
        if self.resources.vcpus != to.vcpus {
            left.push("vcpus".to_owned());
        }
        let memory = to.memory_bytes.min(self.machine_bytes);
        let has = self.resources.memory_bytes;
        self.giving_to = None;
        if memory >= has {
            self.resources.memory_bytes = memory;
        } else if guest_obeys {
            self.resources.memory_bytes = memory + (has - memory) / 2;
            self.giving_to = Some(memory);
        }
        if memory != to.memory_bytes {
            left.push("memory".to_owned());
        }
        HvReply::Resized { left, is_giving: self.resources.memory_bytes != memory }
    }

    fn go_on_giving(&mut self) {
        if let Some(to) = self.giving_to.take() {
            self.resources.memory_bytes = to;
        }
    }

    /// True when its CPUs run.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let is_on = matches!(self.state, DomainState::Running | DomainState::ShuttingDown);
        is_on && !self.is_frozen
    }
}

impl HvOp {
    /// The domain it changes and must wait its turn for.
    #[must_use]
    pub fn changes(&self) -> Option<Uuid> {
        match self {
            HvOp::Define(job, _) => Some(job.domain_uuid()),
            HvOp::Start(uuid)
            | HvOp::Shutdown(uuid)
            | HvOp::Destroy(uuid)
            | HvOp::Pause(uuid)
            | HvOp::Resume(uuid)
            | HvOp::Save(uuid)
            | HvOp::ForgetSaved(uuid)
            | HvOp::Reset(uuid)
            | HvOp::Barrier(uuid)
            | HvOp::Label(uuid, _)
            | HvOp::Restore(uuid, _)
            | HvOp::Resize(uuid, _)
            | HvOp::Undefine(uuid) => Some(*uuid),
            // A sending holds no lock that would keep others out: it is aborted by them.
            HvOp::Lookup(_)
            | HvOp::List
            | HvOp::Definition(_)
            | HvOp::Migrate(..)
            | HvOp::Progress(_)
            | HvOp::Abort(_) => None,
        }
    }

    /// How long it takes, least and most, in milliseconds.
    #[must_use]
    pub fn takes_ms(&self) -> (u64, u64) {
        match self {
            HvOp::Define(..)
            | HvOp::Undefine(_)
            | HvOp::Label(..)
            | HvOp::Restore(..)
            | HvOp::Pause(_)
            | HvOp::Resume(_)
            | HvOp::Reset(_)
            | HvOp::ForgetSaved(_)
            | HvOp::Shutdown(_) => (1, 20),
            // A guest has some seconds to let go of a CPU.
            HvOp::Resize(..) => (5, 5_000),
            HvOp::Save(_) => (200, 3_000),
            HvOp::Barrier(_) => (0, 0),
            HvOp::Start(_) => (100, 900),
            HvOp::Destroy(_) => (10, 400),
            HvOp::Lookup(_)
            | HvOp::List
            | HvOp::Definition(_)
            | HvOp::Progress(_)
            | HvOp::Abort(_) => (1, 6),
            HvOp::Migrate(..) => (1, 5),
        }
    }

    /// For the trace and coverage.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            HvOp::Define(..) => "define",
            HvOp::Resize(..) => "resize",
            HvOp::Start(_) => "start",
            HvOp::Shutdown(_) => "shutdown",
            HvOp::Destroy(_) => "destroy",
            HvOp::Pause(_) => "pause",
            HvOp::Resume(_) => "resume",
            HvOp::Save(_) => "save",
            HvOp::ForgetSaved(_) => "forget-saved",
            HvOp::Reset(_) => "reset",
            HvOp::Barrier(_) => "barrier",
            HvOp::Undefine(_) => "undefine",
            HvOp::Label(..) => "label",
            HvOp::Definition(_) => "definition",
            HvOp::Restore(..) => "restore",
            HvOp::Lookup(_) => "lookup",
            HvOp::List => "list",
            HvOp::Migrate(..) => "migrate",
            HvOp::Progress(_) => "progress",
            HvOp::Abort(_) => "abort",
        }
    }
}

fn fails(kind: ErrorKind) -> Result<HvReply, HvError> {
    Err(HvError { kind })
}

impl Hv {
    /// Carries out an operation that ends at once; a migration is only begun elsewhere.
    pub fn perform(
        &mut self,
        op: &HvOp,
        guest_obeys: bool,
        happened: &mut Vec<Happened>,
    ) -> Result<HvReply, HvError> {
        match op {
            HvOp::Define(job, size) => {
                self.define(job, *size, happened);
                Ok(HvReply::Done)
            }
            HvOp::Resize(uuid, to) => match self.domains.get_mut(uuid) {
                Some(domain) if domain.state.is_active() => Ok(domain.resize(*to, guest_obeys)),
                Some(_) => fails(ErrorKind::NotRunning),
                None => fails(ErrorKind::NoSuchDomain),
            },
            HvOp::Start(uuid) => self.start(*uuid, happened),
            HvOp::Shutdown(uuid) => {
                let Some(domain) = self.domains.get_mut(uuid).filter(|d| d.state.is_active())
                else {
                    return fails(ErrorKind::NotRunning);
                };
                if guest_obeys && domain.is_running() {
                    happened.push((*uuid, Lifecycle::ShutDown));
                    self.end(*uuid, StopReason::Shutdown, happened);
                }
                Ok(HvReply::Done)
            }
            HvOp::Destroy(uuid) => {
                if self.is_active(*uuid) {
                    self.end(*uuid, StopReason::Destroyed, happened);
                }
                Ok(HvReply::Done)
            }
            HvOp::Resume(uuid) => {
                let Some(domain) = self.domains.get_mut(uuid).filter(|d| d.state.is_active())
                else {
                    return fails(ErrorKind::NotRunning);
                };
                domain.state = DomainState::Running;
                happened.push((*uuid, Lifecycle::Resumed));
                Ok(HvReply::Done)
            }
            HvOp::Pause(uuid) => {
                let Some(domain) = self.domains.get_mut(uuid).filter(|d| d.state.is_active())
                else {
                    return fails(ErrorKind::NotRunning);
                };
                domain.state = DomainState::Paused(PauseReason::Requested);
                happened.push((*uuid, Lifecycle::Suspended(PauseReason::Requested)));
                Ok(HvReply::Done)
            }
            HvOp::Save(uuid) => {
                let is_sending = self.domains.get(uuid).is_some_and(|d| d.sending.is_some());
                if !self.is_active(*uuid) || is_sending {
                    return fails(ErrorKind::NotRunning);
                }
                self.end(*uuid, StopReason::Saved, happened);
                Ok(HvReply::Done)
            }
            HvOp::ForgetSaved(uuid) => {
                let Some(domain) = self.domains.get_mut(uuid) else {
                    return fails(ErrorKind::NoSuchDomain);
                };
                if domain.state == DomainState::ShutOff(StopReason::Saved) {
                    domain.state = DomainState::ShutOff(StopReason::Unknown);
                }
                Ok(HvReply::Done)
            }
            HvOp::Reset(uuid) => {
                if !self.is_active(*uuid) {
                    return fails(ErrorKind::NotRunning);
                }
                happened.push((*uuid, Lifecycle::Rebooted));
                Ok(HvReply::Done)
            }
            HvOp::Undefine(uuid) => {
                self.undefine(*uuid, happened);
                Ok(HvReply::Done)
            }
            HvOp::Barrier(_) => Ok(HvReply::Done),
            HvOp::Label(uuid, job) => match self.domains.get_mut(uuid) {
                Some(domain) => {
                    domain.label.clone_from(job);
                    if job.is_none() {
                        domain.definition.push_str(", once labelled");
                    }
                    Ok(HvReply::Done)
                }
                None => fails(ErrorKind::NoSuchDomain),
            },
            HvOp::Definition(uuid) => match self.domains.get(uuid) {
                Some(domain) => Ok(HvReply::Definition(domain.definition.clone())),
                None => fails(ErrorKind::NoSuchDomain),
            },
            HvOp::Restore(uuid, definition) => match self.domains.get_mut(uuid) {
                Some(domain) => {
                    domain.definition.clone_from(definition);
                    Ok(HvReply::Done)
                }
                None => fails(ErrorKind::NoSuchDomain),
            },
            HvOp::Lookup(uuid) => {
                let domain = self.domains.get_mut(uuid);
                Ok(HvReply::Domain(domain.map(|domain| {
                    domain.go_on_giving();
                    domain.info()
                })))
            }
            HvOp::List => Ok(HvReply::Domains(self.domains.values().map(Domain::info).collect())),
            HvOp::Progress(uuid) => match self.domains.get(uuid) {
                Some(domain) => Ok(HvReply::IsSending(domain.sending.is_some())),
                None => fails(ErrorKind::NoSuchDomain),
            },
            HvOp::Abort(uuid) => {
                let Some(domain) = self.domains.get_mut(uuid) else {
                    return fails(ErrorKind::NoSuchDomain);
                };
                if let Some(sending) = &mut domain.sending {
                    sending.is_aborted = true;
                }
                Ok(HvReply::Done)
            }
            HvOp::Migrate(..) => fails(ErrorKind::Unsupported),
        }
    }

    fn define(&mut self, job: &JobId, size: Size, happened: &mut Vec<Happened>) {
        let uuid = job.domain_uuid();
        match self.domains.get_mut(&uuid) {
            Some(domain) => {
                domain.is_persistent = true;
                domain.defined = size;
            }
            None => {
                let domain = Domain::off(uuid, job.clone(), Some(job.clone()), size);
                self.domains.insert(uuid, domain);
            }
        }
        happened.push((uuid, Lifecycle::Defined));
    }

    fn start(&mut self, uuid: Uuid, happened: &mut Vec<Happened>) -> Result<HvReply, HvError> {
        let Some(domain) = self.domains.get_mut(&uuid) else {
            return fails(ErrorKind::NoSuchDomain);
        };
        if domain.state.is_active() {
            return fails(ErrorKind::AlreadyRunning);
        }
        if domain.state != DomainState::ShutOff(StopReason::Saved) {
            domain.boot();
        }
        domain.state = DomainState::Running;
        domain.starts += 1;
        happened.push((uuid, Lifecycle::Resumed));
        happened.push((uuid, Lifecycle::Started(hypervisor::StartReason::Booted)));
        Ok(HvReply::Done)
    }

    fn undefine(&mut self, uuid: Uuid, happened: &mut Vec<Happened>) {
        let Some(domain) = self.domains.get_mut(&uuid) else { return };
        domain.is_persistent = false;
        happened.push((uuid, Lifecycle::Undefined));
        if !domain.state.is_active() {
            self.domains.remove(&uuid);
        }
    }

    /// A guest's process is gone, for whatever reason.
    pub fn end(&mut self, uuid: Uuid, why: StopReason, happened: &mut Vec<Happened>) {
        let Some(domain) = self.domains.get_mut(&uuid) else { return };
        domain.state = DomainState::ShutOff(why);
        domain.is_frozen = false;
        happened.push((uuid, Lifecycle::Stopped(why)));
        if !domain.is_persistent && domain.sending.is_none() {
            self.domains.remove(&uuid);
        }
    }

    /// The guest has moved: nothing of it is left here.
    pub fn leave(&mut self, uuid: Uuid, happened: &mut Vec<Happened>) {
        if self.domains.remove(&uuid).is_some() {
            happened.push((uuid, Lifecycle::Stopped(StopReason::Migrated)));
            happened.push((uuid, Lifecycle::Undefined));
        }
    }

    /// A guest arrives; false when its namesake has a process here.
    pub fn receive(&mut self, mut guest: Domain, is_paused: bool) -> Option<Vec<Happened>> {
        let uuid = guest.uuid;
        if self.is_active(uuid) {
            return None;
        }
        let paused = DomainState::Paused(PauseReason::Requested);
        guest.state = if is_paused { paused } else { DomainState::Running };
        guest.sending = None;
        guest.is_persistent = true;
        guest.is_frozen = false;
        self.domains.insert(uuid, guest);
        Some(vec![(uuid, Lifecycle::Started(hypervisor::StartReason::Migrated))])
    }

    /// The machine loses power: guests are gone, definitions stay.
    pub fn lose_power(&mut self) {
        self.domains.retain(|_, domain| domain.is_persistent);
        for domain in self.domains.values_mut() {
            domain.state = DomainState::ShutOff(StopReason::Unknown);
            domain.sending = None;
            domain.is_frozen = false;
        }
        self.down_until_us = 0;
        self.busy_until_us.clear();
    }

    /// Whether its guest is on its way to another machine.
    #[must_use]
    pub fn is_sending(&self, uuid: Uuid) -> bool {
        self.domains.get(&uuid).is_some_and(|domain| domain.sending.is_some())
    }

    /// Whether its guest has a process.
    #[must_use]
    pub fn is_active(&self, uuid: Uuid) -> bool {
        self.domains.get(&uuid).is_some_and(|domain| domain.state.is_active())
    }
}
