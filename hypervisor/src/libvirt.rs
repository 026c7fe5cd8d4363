//! libvirt as a [`Hypervisor`]: operations made idempotent, and their errors given a kind.
//!
//! Which connection is in use and how it comes back is `link`'s, reading codes and states is
//! `words`', choosing KVM or not is `accel`'s, and everything unsafe is in `ffi`. Whether an
//! operation should be repeated is left to the agent.

mod link;

mod words;

mod accel;

mod addresses;

mod capabilities;

mod console;

mod disks;

mod embedded;

mod networks;

mod probes;

mod resize;

mod stats;

mod ffi;

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use protocol::host::{Accel, HypervisorFacts};
use protocol::id::JobId;
use protocol::job::{Card, Passes};
use protocol::resources::Resources;
use protocol::vm::{SizeChange, VmSpec};
use tokio::sync::mpsc;
use uuid::Uuid;
use virt_sys as sys;

use crate::call::HungCalls;
use crate::cpu_place::Pins;
use crate::domain::{
    DomainConfig, DomainInfo, DomainState, DomainUsage, MigrateOutcome, MigrateTo, NodeFacts,
    Owner, Progress, Resized,
};
use crate::domain_read::Definition;
use crate::domain_xml::{
    DriverKind, JOB_NAMESPACE, JOB_PREFIX, domain_xml, job_element, job_of_element, refused,
    unsupported,
};
use crate::error::{ErrorKind, HypervisorError};
use crate::event::WatchEvent;
use crate::fittings::{Fitting, Kept};
use crate::hypervisor::{ConsoleWriter, Hypervisor};
use crate::network::{NetworkConfig, NetworkInfo};
use crate::screen::{SCREENSHOT_BYTES_MAX, Screenshot};
use crate::unpinned::unpinned;
use console::Output;
use ffi::{Connection, Counted, Domain, RawError, TypedParams};
use link::Link;
use networks::Failure;

/// How to reach libvirt, and what to say of it.
#[derive(Debug, Clone)]
pub struct LibvirtOptions {
    /// `qemu:///system`, `qemu:///embed?root=DIR` or `test:///default`.
    pub uri: String,
    /// Overrides the choice between KVM and TCG.
    pub accel: Option<Accel>,
}

/// What an operation needs of a domain besides that it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Process,
    NoProcess,
}

/// libvirt on this host.
pub struct Libvirt {
    link: Link,
    hung_calls: Arc<HungCalls>,
}

impl Libvirt {
    /// Connects. Blocks, without limit when the daemon hangs: give it a thread.
    ///
    /// `Disconnected` when no daemon answers, `InUse` when another process drives this embedded root
    /// or this process drives another one, `Unsupported` for other kinds of URI.
    pub fn open(options: LibvirtOptions) -> Result<Self, HypervisorError> {
        Ok(Self { link: Link::open(options)?, hung_calls: Arc::default() })
    }

    /// Which of libvirt's drivers this is.
    #[must_use]
    pub fn driver(&self) -> DriverKind {
        self.link.driver()
    }

    /// Takes leave of libvirt before the process ends: nothing new is asked, what was asked may be answered
    /// within this time, and the connection is closed. False when an answer is still due. Guests go on.
    pub fn leave(&self, within: Duration) -> bool {
        self.link.leave(within)
    }

    /// Does something with one domain. When it fails, the domain is looked at again, because
    /// libvirt's code does not tell which state was in the way, and its drivers differ in the code.
    fn with_domain<T>(
        &self,
        what: &str,
        uuid: Uuid,
        needs: Needs,
        f: impl FnOnce(&Domain) -> Result<T, RawError>,
    ) -> Result<T, HypervisorError> {
        let what = format!("{what} {uuid}");
        let connection = self.link.connection(&what)?;
        let domain =
            connection.domain(uuid).map_err(|raw| self.link.error(&what, &connection, raw))?;
        f(&domain).map_err(|raw| {
            let mut error = self.link.error(&what, &connection, raw);
            if error.kind == ErrorKind::Failed {
                let state = domain.state().ok().map(words::state);
                error.kind = match (needs, state.map(DomainState::is_active)) {
                    (Needs::Process, Some(false)) => ErrorKind::NotRunning,
                    (Needs::NoProcess, Some(true)) => ErrorKind::AlreadyRunning,
                    _ => ErrorKind::Failed,
                };
            }
            error
        })
    }

    fn with_connection<T>(
        &self,
        what: &str,
        f: impl FnOnce(&Connection) -> Result<T, RawError>,
    ) -> Result<T, HypervisorError> {
        let connection = self.link.connection(what)?;
        f(&connection).map_err(|raw| self.link.error(what, &connection, raw))
    }

    fn must_have_networks(&self, what: &str) -> Result<(), HypervisorError> {
        if self.driver() == DriverKind::QemuEmbedded {
            let message = "libvirt inside this process has no networks: plug cards into `user` or \
                           a bridge, or run the agent with a libvirt daemon (qemu:///system)";
            return Err(HypervisorError::new(what, ErrorKind::Unsupported, message));
        }
        Ok(())
    }

    fn must_have_qemu(&self, what: &str) -> Result<(), HypervisorError> {
        if self.driver() == DriverKind::Test {
            let message = "libvirt's test driver has no disks that anybody writes to";
            return Err(HypervisorError::new(what, ErrorKind::Unsupported, message));
        }
        Ok(())
    }

    fn console(
        &self,
        uuid: Uuid,
        output: Output,
    ) -> Result<Box<dyn ConsoleWriter>, HypervisorError> {
        if self.driver() == DriverKind::Test {
            let message = "libvirt's test driver has no consoles";
            let what = format!("open console of domain {uuid}");
            return Err(HypervisorError::new(what, ErrorKind::Unsupported, message));
        }
        let (heard, is_open) = output.split();
        let console =
            self.with_domain("open console of domain", uuid, Needs::Process, |domain| {
                domain.open_console(heard)
            })?;
        Ok(Box::new(console::Writer::new(uuid, console, is_open)))
    }

    /// libvirt has no code for it, and so its definition is looked at.
    fn without_screen(&self, uuid: Uuid, error: HypervisorError) -> HypervisorError {
        let has_one = || self.xml(uuid).is_ok_and(|xml| xml.contains("<graphics "));
        let may_be = matches!(error.kind, ErrorKind::Failed | ErrorKind::Unsupported);
        if !may_be || has_one() {
            return error;
        }
        let message = "its definition has no graphics".to_owned();
        HypervisorError { kind: ErrorKind::Refused, message, ..error }
    }

    /// What is left here of a guest whose migration came back with an error.
    fn after_migration(
        &self,
        uuid: Uuid,
        before: DomainState,
        error: HypervisorError,
    ) -> MigrateOutcome {
        let seen = self.lookup(uuid).ok().flatten().map(|info| info.state);
        match seen {
            Some(state) if state == before && !error.kind.is_ambiguous() => {
                MigrateOutcome::StillHere { state, error }
            }
            seen => MigrateOutcome::Unknown { seen, error },
        }
    }
}

impl Hypervisor for Libvirt {
    fn facts(&self) -> HypervisorFacts {
        self.link.facts()
    }

    fn node(&self) -> Result<NodeFacts, HypervisorError> {
        let (cpus, memory_kib) = self.with_connection("read node facts", Connection::node)?;
        Ok(NodeFacts { cpus, memory_bytes: memory_kib * 1024 })
    }

    fn define(&self, config: &DomainConfig) -> Result<(), HypervisorError> {
        let what = format!("define domain {}", config.job);
        if let Some(message) = refused(config) {
            return Err(HypervisorError::new(what, ErrorKind::Refused, message));
        }
        if let Some(message) = unsupported(config, self.driver()) {
            return Err(HypervisorError::new(what, ErrorKind::Unsupported, message));
        }
        let connection = self.link.connection(&what)?;
        let defined = connection.define(&domain_xml(config, self.driver()));
        defined.map(drop).map_err(|raw| {
            let mut error = self.link.error(&what, &connection, raw);
            // libvirt's code for a name that is taken is its code for anything that failed.
            let namesake = connection.domain_named(config.job.as_str());
            if namesake.is_ok_and(|domain| domain.uuid() != config.uuid) {
                error.kind = ErrorKind::AlreadyExists;
            }
            error
        })
    }

    fn start(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let flags = sys::VIR_DOMAIN_NONE;
        self.with_domain("start domain", uuid, Needs::NoProcess, |domain| domain.create(flags))
    }

    fn start_paused(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let driver = self.driver();
        self.with_domain("start domain", uuid, Needs::NoProcess, |domain| match driver {
            DriverKind::Qemu | DriverKind::QemuEmbedded => {
                domain.create(sys::VIR_DOMAIN_START_PAUSED)
            }
            // It knows no such flag, and nothing runs in it.
            DriverKind::Test => {
                domain.create(sys::VIR_DOMAIN_NONE)?;
                domain.suspend()
            }
        })
    }

    fn shutdown(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let flags = match self.driver() {
            DriverKind::Qemu | DriverKind::QemuEmbedded => sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN,
            DriverKind::Test => sys::VIR_DOMAIN_SHUTDOWN_DEFAULT,
        };
        self.with_domain("shut down domain", uuid, Needs::Process, |domain| domain.shutdown(flags))
    }

    fn destroy(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        already_so(
            self.with_domain("destroy domain", uuid, Needs::Process, Domain::destroy),
            &[ErrorKind::NoSuchDomain, ErrorKind::NotRunning],
        )
    }

    fn pause(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.with_domain("pause domain", uuid, Needs::Process, |domain| {
            match words::state(domain.state()?) {
                DomainState::Paused(_) => Ok(()),
                _ => domain.suspend(),
            }
        })
    }

    fn resume(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.with_domain("resume domain", uuid, Needs::Process, |domain| {
            match words::state(domain.state()?) {
                DomainState::Running => Ok(()),
                _ => domain.resume(),
            }
        })
    }

    fn reset(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.with_domain("reset domain", uuid, Needs::Process, Domain::reset)
    }

    fn reboot(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let flags = match self.driver() {
            DriverKind::Qemu | DriverKind::QemuEmbedded => sys::VIR_DOMAIN_REBOOT_ACPI_POWER_BTN,
            DriverKind::Test => sys::VIR_DOMAIN_REBOOT_DEFAULT,
        };
        self.with_domain("reboot domain", uuid, Needs::Process, |domain| domain.reboot(flags))
    }

    fn save(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.with_domain("save domain", uuid, Needs::Process, Domain::managed_save)
    }

    fn forget_saved(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.with_domain("forget saved memory", uuid, Needs::Nothing, |domain| {
            if domain.has_managed_save()? { domain.remove_managed_save() } else { Ok(()) }
        })
    }

    fn undefine(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let flags = match self.driver() {
            DriverKind::Qemu | DriverKind::QemuEmbedded => {
                sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                    | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                    | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
                    | sys::VIR_DOMAIN_UNDEFINE_NVRAM
            }
            DriverKind::Test => sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE,
        };
        let undefined = self.with_domain("undefine domain", uuid, Needs::Nothing, |domain| {
            if domain.is_persistent()? { domain.undefine(flags) } else { Ok(()) }
        });
        already_so(undefined, &[ErrorKind::NoSuchDomain])
    }

    fn label(&self, uuid: Uuid, job: Option<&JobId>) -> Result<(), HypervisorError> {
        let element = job.map(job_element);
        self.with_domain("label domain", uuid, Needs::Nothing, |domain| {
            let mut flags = 0;
            if words::state(domain.state()?).is_active() {
                flags |= sys::VIR_DOMAIN_AFFECT_LIVE;
            }
            if domain.is_persistent()? {
                flags |= sys::VIR_DOMAIN_AFFECT_CONFIG;
            }
            let set = domain.set_metadata(JOB_PREFIX, JOB_NAMESPACE, element.as_deref(), flags);
            match set {
                Err(raw) if raw.code == sys::VIR_ERR_NO_DOMAIN_METADATA => Ok(()),
                set => set,
            }
        })
    }

    fn resize(&self, uuid: Uuid, to: SizeChange) -> Result<Resized, HypervisorError> {
        let driver = self.driver();
        let resized = self.with_domain("resize domain", uuid, Needs::Process, |domain| {
            if words::state(domain.state()?).is_active() {
                resize::resize_live(domain, driver, &to).map(Some)
            } else {
                Ok(None)
            }
        });
        resized?.ok_or_else(|| {
            let what = format!("resize domain {uuid}");
            HypervisorError::new(what, ErrorKind::NotRunning, "it has no process")
        })
    }

    fn attach(&self, config: &DomainConfig) -> Result<Vec<String>, HypervisorError> {
        let (driver, uuid) = (self.driver(), config.uuid);
        let left = self.with_domain("attach devices to domain", uuid, Needs::Process, |domain| {
            match words::state(domain.state()?).is_active() {
                true => resize::attach(domain, driver, config).map(Some),
                false => Ok(None),
            }
        });
        left?.ok_or_else(|| {
            let what = format!("attach devices to domain {uuid}");
            HypervisorError::new(what, ErrorKind::NotRunning, "it has no process")
        })
    }

    fn detach(
        &self,
        uuid: Uuid,
        leaving: &[Fitting],
        patience: Duration,
    ) -> Result<Vec<Kept>, HypervisorError> {
        let driver = self.driver();
        let kept = self.with_domain("detach devices from domain", uuid, Needs::Process, |domain| {
            match words::state(domain.state()?).is_active() {
                true => resize::detach(domain, driver, leaving, patience).map(Some),
                false => Ok(None),
            }
        });
        kept?.ok_or_else(|| {
            let what = format!("detach devices from domain {uuid}");
            HypervisorError::new(what, ErrorKind::NotRunning, "it has no process")
        })
    }

    fn snapshot(&self, uuid: Uuid, devices: &[String], tag: &str) -> Result<(), HypervisorError> {
        self.must_have_qemu("take a snapshot")?;
        self.with_domain("take a snapshot of domain", uuid, Needs::Process, |domain| {
            disks::snapshot(domain, devices, tag)
        })
    }

    fn delete_snapshot(
        &self,
        uuid: Uuid,
        devices: &[String],
        tag: &str,
    ) -> Result<(), HypervisorError> {
        self.must_have_qemu("delete a snapshot")?;
        self.with_domain("delete a snapshot of domain", uuid, Needs::Process, |domain| {
            disks::delete_snapshot(domain, devices, tag)
        })
    }

    fn grow_disk(&self, uuid: Uuid, device: &str, bytes: u64) -> Result<(), HypervisorError> {
        self.must_have_qemu("grow a disk")?;
        self.with_domain("grow a disk of domain", uuid, Needs::Process, |domain| {
            disks::grow(domain, device, bytes)
        })
    }

    fn resize_definition(&self, uuid: Uuid, to: SizeChange) -> Result<(), HypervisorError> {
        let what = format!("resize the definition of domain {uuid}");
        if to.max_memory_bytes.is_some() {
            let message = "head-room for memory can't be added to a definition that is not ours";
            return Err(HypervisorError::new(what, ErrorKind::Unsupported, message));
        }
        self.with_domain("resize the definition of domain", uuid, Needs::Nothing, |domain| {
            resize::resize_definition(domain, &to)
        })
    }

    fn list(&self) -> Result<Vec<DomainInfo>, HypervisorError> {
        self.with_connection("list domains", |connection| {
            let infos = connection.domains()?.into_iter().filter_map(|d| listed(&d).transpose());
            infos.collect()
        })
    }

    fn usage(&self) -> Result<Vec<DomainUsage>, HypervisorError> {
        let counted = self.with_connection("read what domains use", Connection::stats)?;
        let usage = |one: Counted| DomainUsage {
            uuid: one.uuid,
            usage: stats::usage(one.name, &one.stats),
        };
        Ok(counted.into_iter().map(usage).collect())
    }

    fn lookup(&self, uuid: Uuid) -> Result<Option<DomainInfo>, HypervisorError> {
        let found = self.with_domain("look up domain", uuid, Needs::Nothing, info);
        match found {
            Err(error) if error.kind == ErrorKind::NoSuchDomain => Ok(None),
            found => found,
        }
    }

    fn xml(&self, uuid: Uuid) -> Result<String, HypervisorError> {
        self.with_domain("read XML of domain", uuid, Needs::Nothing, |domain| domain.xml(0))
    }

    fn definition(&self, uuid: Uuid) -> Result<String, HypervisorError> {
        let flags = sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE;
        self.with_domain("read definition of domain", uuid, Needs::Nothing, |d| d.xml(flags))
    }

    fn restore(&self, definition: &str) -> Result<(), HypervisorError> {
        self.with_connection("restore a definition", |connection| connection.define(definition))
            .map(drop)
    }

    fn describe(&self, uuid: Uuid) -> Result<VmSpec, HypervisorError> {
        let what = format!("describe domain {uuid}");
        let definition = Definition::read(&self.definition(uuid)?).ok_or_else(|| {
            HypervisorError::new(&what, ErrorKind::Failed, "libvirt gave no domain's definition")
        })?;
        self.with_domain("describe domain", uuid, Needs::Nothing, |domain| {
            let (vcpus, memory_kib, _) = domain.size()?;
            // A disk without a size, such as a missing file, is one that we have no words for.
            Ok(definition
                .to_vm(uuid, vcpus, memory_kib * 1024, |disk| domain.disk_bytes(disk).ok()))
        })
    }

    fn cards(&self, uuid: Uuid) -> Result<Vec<Card>, HypervisorError> {
        let cards =
            self.with_domain("read addresses of domain", uuid, Needs::Process, |domain| {
                match words::state(domain.state()?).is_active() {
                    true => addresses::cards(domain).map(Some),
                    false => Ok(None),
                }
            })?;
        let what = format!("read addresses of domain {uuid}");
        match cards {
            Some(Some(cards)) => Ok(cards),
            Some(None) => {
                let message = "libvirt gave no domain's definition";
                Err(HypervisorError::new(what, ErrorKind::Failed, message))
            }
            None => Err(HypervisorError::new(what, ErrorKind::NotRunning, "it has no process")),
        }
    }

    fn migrate(&self, uuid: Uuid, to: &MigrateTo) -> Result<MigrateOutcome, HypervisorError> {
        let what = format!("migrate domain {uuid} to {}", to.libvirt_uri);
        if self.driver() != DriverKind::Qemu {
            let message = "migration needs libvirt daemons on both hosts";
            return Err(HypervisorError::new(what, ErrorKind::Unsupported, message));
        }
        let mut params = migrate_params(to)
            .map_err(|raw| HypervisorError::new(&what, ErrorKind::Refused, raw.message))?;
        self.with_domain("read definition of domain", uuid, Needs::Process, |domain| {
            leave_pins(domain, to, &mut params)
        })?;
        let before = self
            .with_domain("migrate domain", uuid, Needs::Process, |d| d.state().map(words::state))?;
        if !before.is_active() {
            let message = "it has no process that could move";
            return Err(HypervisorError::new(what, ErrorKind::NotRunning, message));
        }
        let moved = self.with_domain("migrate domain", uuid, Needs::Process, |domain| {
            domain.migrate(&to.libvirt_uri, &params, migrate_flags(to))
        });
        Ok(match moved {
            Ok(()) => MigrateOutcome::Moved,
            Err(mut error) => {
                error.what = what;
                self.after_migration(uuid, before, error)
            }
        })
    }

    fn networks(&self) -> Result<Vec<NetworkInfo>, HypervisorError> {
        let what = "list networks";
        self.must_have_networks(what)?;
        self.with_connection(what, networks::list)
    }

    fn make_network(&self, config: &NetworkConfig) -> Result<(), HypervisorError> {
        let what = format!("make network {}", config.name);
        self.must_have_networks(&what)?;
        let connection = self.link.connection(&what)?;
        networks::make(&connection, config).map_err(|failure| match failure {
            Failure::Raw(raw) => self.link.error(&what, &connection, raw),
            Failure::Taken => {
                let message = "another network, not made by Ostler, has this name";
                HypervisorError::new(&what, ErrorKind::AlreadyExists, message)
            }
        })
    }

    fn remove_network(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let what = format!("remove network {uuid}");
        self.must_have_networks(&what)?;
        self.with_connection(&what, |connection| match connection.network(uuid) {
            Ok(network) => networks::remove(&network),
            Err(raw) if raw.code == sys::VIR_ERR_NO_NETWORK => Ok(()),
            Err(raw) => Err(raw),
        })
    }

    fn guest_owner(&self) -> Result<Owner, HypervisorError> {
        let what = "read whose files guests use";
        let capabilities = self.with_connection(what, Connection::capabilities)?;
        // Without a label guests run as whoever runs libvirt, and so does this process.
        Ok(capabilities::guest_owner(&capabilities).unwrap_or_else(Owner::of_this_process))
    }

    fn job_progress(&self, uuid: Uuid) -> Result<Option<Progress>, HypervisorError> {
        let read = self.with_domain("read progress of domain", uuid, Needs::Process, |domain| {
            let (kind, stats) = domain.job_stats()?;
            let is_some =
                matches!(kind, sys::VIR_DOMAIN_JOB_BOUNDED | sys::VIR_DOMAIN_JOB_UNBOUNDED);
            // It may end between the two questions.
            Ok(is_some.then(|| progress(&stats, domain.max_downtime_ms().unwrap_or(0))))
        });
        match read {
            Ok(progress) => Ok(progress),
            Err(error) if error.kind == ErrorKind::NotRunning => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn pin(&self, uuid: Uuid, pins: &Pins) -> Result<(), HypervisorError> {
        if self.driver() == DriverKind::Test {
            let state = |domain: &Domain| domain.state().map(words::state);
            return match self.with_domain("pin domain", uuid, Needs::Process, state)?.is_active() {
                true => Ok(()),
                false => {
                    let what = format!("pin domain {uuid}");
                    Err(HypervisorError::new(what, ErrorKind::NotRunning, "it has no process"))
                }
            };
        }
        self.with_domain("pin domain", uuid, Needs::Process, |domain| {
            // Its spec may say by now that it can have more at its next start.
            for (vcpu, cpus) in (0..domain.vcpus_possible()?).zip(&pins.vcpus) {
                domain.pin_vcpu(vcpu, cpus, sys::VIR_DOMAIN_AFFECT_LIVE)?;
            }
            domain.pin_emulator(&pins.others, sys::VIR_DOMAIN_AFFECT_LIVE)
        })
    }

    fn allow_downtime(&self, uuid: Uuid, downtime_ms: u32) -> Result<(), HypervisorError> {
        self.with_domain("allow a downtime of domain", uuid, Needs::Process, |domain| {
            domain.set_max_downtime_ms(downtime_ms)
        })
    }

    fn abort_job(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let aborted =
            self.with_domain("abort migration of domain", uuid, Needs::Process, |domain| {
                match domain.job_stats()? {
                    (sys::VIR_DOMAIN_JOB_NONE, _) => Ok(()),
                    _ => domain.abort_job(),
                }
            });
        already_so(aborted, &[ErrorKind::NotRunning])
    }

    fn watch(&self) -> mpsc::Receiver<WatchEvent> {
        self.link.watch()
    }

    fn open_console(&self, uuid: Uuid) -> Result<Box<dyn ConsoleWriter>, HypervisorError> {
        self.console(uuid, Output::discarded())
    }

    fn record_console(
        &self,
        uuid: Uuid,
        log: &Path,
    ) -> Result<Box<dyn ConsoleWriter>, HypervisorError> {
        let output = Output::kept(log).map_err(|error| {
            let what = format!("keep what domain {uuid} prints in {}", log.display());
            HypervisorError::new(what, ErrorKind::Failed, error.to_string())
        })?;
        self.console(uuid, output)
    }

    fn screenshot(&self, uuid: Uuid) -> Result<Screenshot, HypervisorError> {
        let what = "take a picture of domain";
        let taken = self.with_domain(what, uuid, Needs::Process, |domain| {
            domain.screenshot(SCREENSHOT_BYTES_MAX)
        });
        let (media, bytes) = taken.map_err(|error| self.without_screen(uuid, error))?;
        Ok(Screenshot { media, bytes })
    }

    fn open_graphics(&self, uuid: Uuid) -> Result<UnixStream, HypervisorError> {
        let what = "open graphics of domain";
        let opened = self.with_domain(what, uuid, Needs::Process, Domain::open_graphics);
        Ok(opened.map_err(|error| self.without_screen(uuid, error))?.into())
    }

    fn hung_calls(&self) -> &Arc<HungCalls> {
        &self.hung_calls
    }
}

/// Takes an error that says "it is so already" for success.
fn already_so(
    result: Result<(), HypervisorError>,
    kinds: &[ErrorKind],
) -> Result<(), HypervisorError> {
    match result {
        Err(error) if kinds.contains(&error.kind) => Ok(()),
        result => result,
    }
}

/// Everything of one domain; `None` when it went away while we looked.
fn info(domain: &Domain) -> Result<Option<DomainInfo>, RawError> {
    let read = || {
        let (vcpus, memory_kib, now_kib) = domain.size()?;
        let job = match domain.metadata(JOB_NAMESPACE) {
            Ok(element) => job_of_element(&element),
            Err(raw) if raw.code == sys::VIR_ERR_NO_DOMAIN_METADATA => None,
            Err(raw) => return Err(raw),
        };
        // What one of ours has is what its spec says.
        let definition = || Definition::read(&domain.xml(0).ok()?);
        let page_size =
            if job.is_none() { definition().and_then(|read| read.page_size) } else { None };
        Ok(DomainInfo {
            uuid: domain.uuid(),
            name: domain.name(),
            state: words::state(domain.state()?),
            job,
            page_size,
            resources: Resources { vcpus, memory_bytes: memory_kib * 1024, disk_bytes: 0 },
            memory_now_bytes: now_kib * 1024,
            is_persistent: domain.is_persistent()?,
        })
    };
    match read() {
        Ok(info) => Ok(Some(info)),
        Err(raw) if raw.code == sys::VIR_ERR_NO_DOMAIN => Ok(None),
        Err(raw) => Err(raw),
    }
}

/// A domain in a list. One of others that can't be read is shown with what its handle alone tells,
/// and as alive: a guest that hangs must not hide all others. Of one of ours that would say something
/// untrue, and so would no domain at all; then the whole list is asked for again.
fn listed(domain: &Domain) -> Result<Option<DomainInfo>, RawError> {
    let (name, uuid) = (domain.name(), domain.uuid());
    match info(domain) {
        Err(raw) if !words::is_from_wire(&raw) && !is_ours(&name, uuid) => {
            tracing::warn!("domain {name} can't be read: {}", raw.message);
            Ok(Some(DomainInfo {
                uuid,
                name,
                state: DomainState::Running,
                job: None,
                resources: Resources::ZERO,
                memory_now_bytes: 0,
                page_size: None,
                is_persistent: true,
            }))
        }
        read => read,
    }
}

/// A job's domain has its name and the uuid that follows from it.
fn is_ours(name: &str, uuid: Uuid) -> bool {
    JobId::new(name).is_ok_and(|job| job.domain_uuid() == uuid)
}

fn migrate_params(to: &MigrateTo) -> Result<TypedParams, RawError> {
    let mut params = TypedParams::default();
    params.add_text(sys::VIR_MIGRATE_PARAM_URI, &to.migrate_uri)?;
    if copies_disks(to) {
        params.add_text(sys::VIR_MIGRATE_PARAM_DISKS_URI, &to.disks_uri)?;
    }
    for device in to.disks.iter().flatten() {
        params.add_text(sys::VIR_MIGRATE_PARAM_MIGRATE_DISKS, device)?;
    }
    if let Some(bandwidth_mib_s) = to.bandwidth_mib_s {
        params.add_number(sys::VIR_MIGRATE_PARAM_BANDWIDTH, bandwidth_mib_s)?;
    }
    Ok(params)
}

/// The target gives it CPUs of its own, and may not even have those that it has here.
fn leave_pins(domain: &Domain, to: &MigrateTo, params: &mut TypedParams) -> Result<(), RawError> {
    const WHOLE: u32 = sys::VIR_DOMAIN_XML_MIGRATABLE | sys::VIR_DOMAIN_XML_SECURE;
    if let Some(running) = unpinned(&domain.xml(WHOLE)?, &to.pinned) {
        params.add_text(sys::VIR_MIGRATE_PARAM_DEST_XML, &running)?;
    }
    let next = domain.xml(WHOLE | sys::VIR_DOMAIN_XML_INACTIVE)?;
    if let Some(next) = unpinned(&next, &to.pinned) {
        params.add_text(sys::VIR_MIGRATE_PARAM_PERSIST_XML, &next)?;
    }
    Ok(())
}

/// Names by libvirt's `virDomainGetJobStats`.
fn progress(stats: &TypedParams, downtime_ms: u64) -> Progress {
    let number = |name| stats.number(name).unwrap_or(0);
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let page_bytes = number(sys::VIR_DOMAIN_JOB_MEMORY_PAGE_SIZE);
    let pass = narrow(number(sys::VIR_DOMAIN_JOB_MEMORY_ITERATION));
    let throttle = stats.signed(sys::VIR_DOMAIN_JOB_AUTO_CONVERGE_THROTTLE).unwrap_or(0);
    let memory = (pass > 0).then(|| Passes {
        pass,
        left_bytes: number(sys::VIR_DOMAIN_JOB_MEMORY_REMAINING),
        written_bytes_s: number(sys::VIR_DOMAIN_JOB_MEMORY_DIRTY_RATE).saturating_mul(page_bytes),
        sent_bytes_s: number(sys::VIR_DOMAIN_JOB_MEMORY_BPS),
        downtime_ms: narrow(downtime_ms),
        throttle_percent: u8::try_from(throttle).unwrap_or(0),
    });
    Progress {
        moved_bytes: number(sys::VIR_DOMAIN_JOB_DATA_PROCESSED),
        total_bytes: number(sys::VIR_DOMAIN_JOB_DATA_TOTAL),
        memory,
    }
}

fn copies_disks(to: &MigrateTo) -> bool {
    to.disks.as_ref().is_none_or(|disks| !disks.is_empty())
}

fn migrate_flags(to: &MigrateTo) -> u32 {
    // What is on both hosts is known by its pool's mark, and used without their page caches. libvirt
    // knows of that only for some file systems, and calls all others unsafe.
    let stay = if to.disks.is_some() { sys::VIR_MIGRATE_UNSAFE } else { 0 };
    let copies = if copies_disks(to) { sys::VIR_MIGRATE_NON_SHARED_DISK } else { 0 };
    let flags = sys::VIR_MIGRATE_LIVE
        | sys::VIR_MIGRATE_PEER2PEER
        | stay
        | copies
        | sys::VIR_MIGRATE_PERSIST_DEST
        | sys::VIR_MIGRATE_UNDEFINE_SOURCE
        // A disk that fails on the way must not arrive as a disk with holes.
        | sys::VIR_MIGRATE_ABORT_ON_ERROR;
    let paused = if to.start_paused { sys::VIR_MIGRATE_PAUSED } else { 0 };
    let slowed = if to.auto_converge { sys::VIR_MIGRATE_AUTO_CONVERGE } else { 0 };
    flags | paused | slowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_ours_by_its_name_and_uuid_together() {
        let uuid = JobId::new("web-1").unwrap().domain_uuid();
        assert!(is_ours("web-1", uuid));
        assert!(!is_ours("web-2", uuid));
        assert!(!is_ours("Not a job", uuid));
        assert!(!is_ours("web-1", Uuid::from_u128(1)));
    }
}
