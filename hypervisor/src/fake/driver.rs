//! The fake as a hypervisor: each call finds its domain, lets faults strike, and announces what it did.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use protocol::host::{Accel, HypervisorFacts};
use protocol::id::JobId;
use protocol::job::Card;
use protocol::usage::GuestUsage;
use protocol::vm::{Size, SizeChange, VmSpec};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::fault::{Fault, Method};
use super::{Fake, Guest, find, find_active, is_active};
use crate::call::HungCalls;
use crate::cards::{Cards, Listed};
use crate::cpu_place::Pins;
use crate::domain::{
    DomainConfig, DomainInfo, DomainState, DomainUsage, MigrateOutcome, MigrateTo, NodeFacts,
    Owner, PauseReason, Progress, Resized, StopReason,
};
use crate::domain_read::Definition;
use crate::domain_xml::refused;
use crate::error::{ErrorKind, HypervisorError};
use crate::event::{Lifecycle, WatchEvent};
use crate::fittings::{Fitting, Fittings, Kept};
use crate::hypervisor::{ConsoleWriter, Hypervisor};
use crate::network::{NetworkConfig, NetworkInfo};
use crate::network_xml::{NetworkRead, network_xml};
use crate::screen::Screenshot;

impl Hypervisor for Fake {
    fn facts(&self) -> HypervisorFacts {
        HypervisorFacts {
            uri: "fake:///".to_owned(),
            driver: "FAKE".to_owned(),
            libvirt_version: "0.0.0".to_owned(),
            accel: Accel::None,
            accel_reason: Some("the fake only pretends".to_owned()),
            can_receive: self.0.options.migration_uri.is_some(),
            can_guard: false,
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
            let size = config.vm.size();
            let info = DomainInfo {
                uuid: config.uuid,
                name: config.job.to_string(),
                state: DomainState::ShutOff(StopReason::Unknown),
                job: Some(config.job.clone()),
                resources: size.resources(),
                memory_now_bytes: size.memory_bytes,
                page_size: None,
                is_persistent: true,
            };
            let fresh = || Guest::new(info.clone(), None, size);
            let guest = state.domains.entry(config.uuid).or_insert_with(fresh);
            // What runs, or is saved, has what it was started with.
            let before = &guest.info;
            let is_fresh = !before.state.is_active()
                && before.state != DomainState::ShutOff(StopReason::Saved);
            let (state_now, has, now) = (before.state, before.resources, before.memory_now_bytes);
            if state_now.is_active() {
                guest.keep_what_goes(config);
            }
            guest.info = DomainInfo { state: state_now, ..info };
            (guest.config, guest.defined, guest.recorded) = (Some(config.clone()), size, None);
            if !is_fresh {
                (guest.info.resources, guest.info.memory_now_bytes) = (has, now);
            }
            self.announce(state, config.uuid, Lifecycle::Defined);
            Ok(())
        })
    }

    fn start(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.begin(uuid, false)
    }

    fn start_paused(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        self.begin(uuid, true)
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

    fn forget_saved(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let what = format!("forget the saved memory of domain {uuid}");
        self.perform(Method::ForgetSaved, &what, |state| {
            let guest = find(state, &what, uuid)?;
            if guest.info.state == DomainState::ShutOff(StopReason::Saved) {
                guest.info.state = DomainState::ShutOff(StopReason::Unknown);
            }
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

    fn resize(&self, uuid: Uuid, to: SizeChange) -> Result<Resized, HypervisorError> {
        let what = format!("resize domain {uuid}");
        let keeps_size = self.take_fault(|fault| *fault == Fault::GuestKeepsSize).is_some();
        self.perform(Method::Resize, &what, |state| {
            let guest = find_active(state, &what, uuid)?;
            let plan = guest.live(keeps_size).plan(&to);
            let info = &mut guest.info;
            info.resources.vcpus = plan.vcpus.unwrap_or(info.resources.vcpus);
            if let Some(bytes) = plan.balloon_bytes.filter(|_| !keeps_size) {
                info.memory_now_bytes = bytes;
            }
            let plugged = plan.plug_bytes.unwrap_or(0);
            info.resources.memory_bytes += plugged;
            info.memory_now_bytes += plugged;
            Ok(Resized { left: plan.left, is_giving: plan.balloon_bytes.is_some() })
        })
    }

    fn attach(&self, config: &DomainConfig) -> Result<Vec<String>, HypervisorError> {
        let what = format!("attach devices to domain {}", config.uuid);
        let is_full = self.take_fault(|fault| *fault == Fault::NoPort).is_some();
        self.perform(Method::Attach, &what, |state| {
            let guest = find_active(state, &what, config.uuid)?;
            // A definition is what a guest here has at once; but for what there is no port for.
            let last = guest.config.as_ref().and_then(|config| config.vm.disks.last());
            let left = last
                .filter(|_| is_full)
                .map(|disk| format!("disk {:?}: no port is free", disk.name));
            Ok(left.into_iter().collect())
        })
    }

    fn detach(
        &self,
        uuid: Uuid,
        leaving: &[Fitting],
        _patience: Duration,
    ) -> Result<Vec<Kept>, HypervisorError> {
        let what = format!("detach devices from domain {uuid}");
        let keeps = self.take_fault(|fault| *fault == Fault::GuestKeepsDevices).is_some();
        self.perform(Method::Detach, &what, |state| {
            let guest = find_active(state, &what, uuid)?;
            let has = Fittings::read(&guest.shown()).unwrap_or_default();
            if !keeps {
                guest.let_go(leaving);
            }
            let kept = leaving.iter().filter(|fitting| keeps && has.has(fitting)).cloned();
            let why = "its guest has not let go of it".to_owned();
            Ok(kept.map(|fitting| Kept { fitting, why: why.clone() }).collect())
        })
    }

    fn snapshot(&self, uuid: Uuid, devices: &[String], tag: &str) -> Result<(), HypervisorError> {
        let what = format!("take a snapshot of domain {uuid}");
        self.perform(Method::Snapshot, &what, |state| {
            let guest = find_active(state, &what, uuid)?;
            for device in devices {
                must_have_disk(guest, &what, device)?;
                if guest.snapshots.get(device).is_some_and(|tags| tags.contains(tag)) {
                    let message = format!("disk {device} has a snapshot {tag} already");
                    return Err(HypervisorError::new(&what, ErrorKind::AlreadyExists, message));
                }
            }
            for device in devices {
                guest
                    .on_file(device, &["snapshot", "-c", tag], &[])
                    .map_err(|e| failed(&what, e))?;
                guest.snapshots.entry(device.clone()).or_default().insert(tag.to_owned());
            }
            Ok(())
        })
    }

    fn delete_snapshot(
        &self,
        uuid: Uuid,
        devices: &[String],
        tag: &str,
    ) -> Result<(), HypervisorError> {
        let what = format!("delete a snapshot of domain {uuid}");
        self.perform(Method::DeleteSnapshot, &what, |state| {
            let guest = find_active(state, &what, uuid)?;
            for device in devices {
                must_have_disk(guest, &what, device)?;
                if guest.snapshots.entry(device.clone()).or_default().remove(tag) {
                    guest
                        .on_file(device, &["snapshot", "-d", tag], &[])
                        .map_err(|e| failed(&what, e))?;
                }
            }
            Ok(())
        })
    }

    fn grow_disk(&self, uuid: Uuid, device: &str, bytes: u64) -> Result<(), HypervisorError> {
        let what = format!("grow a disk of domain {uuid}");
        self.perform(Method::GrowDisk, &what, |state| {
            let guest = find_active(state, &what, uuid)?;
            let now = must_have_disk(guest, &what, device)?;
            if now > bytes {
                let message = format!("disk {device} has {now} bytes, and is not made smaller");
                return Err(HypervisorError::new(&what, ErrorKind::Refused, message));
            }
            let size = bytes.to_string();
            guest
                .on_file(device, &["resize", "-q", "-f", "qcow2"], &[&size])
                .map_err(|e| failed(&what, e))?;
            guest.grown.insert(device.to_owned(), bytes);
            Ok(())
        })
    }

    fn resize_definition(&self, uuid: Uuid, to: SizeChange) -> Result<(), HypervisorError> {
        let what = format!("resize the definition of domain {uuid}");
        self.perform(Method::ResizeDefinition, &what, |state| {
            let guest = find(state, &what, uuid)?;
            let size = guest.defined.changed(&to);
            guest.defined = size;
            if let Some(config) = &mut guest.config {
                config.vm = config.vm.with_size(size);
            }
            if !guest.info.state.is_active() {
                guest.show_defined();
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

    /// A fake's guest does nothing, once.
    fn usage(&self) -> Result<Vec<DomainUsage>, HypervisorError> {
        self.perform(Method::Usage, "read what domains use", |state| {
            let active = state.domains.iter().filter(|(_, guest)| guest.info.state.is_active());
            let usage = |(uuid, guest): (&Uuid, &Guest)| DomainUsage {
                uuid: *uuid,
                usage: GuestUsage {
                    name: guest.info.name.clone(),
                    cpu_ns: Some(1),
                    memory_bytes: Some(guest.info.memory_now_bytes),
                    ..GuestUsage::default()
                },
            };
            Ok(active.map(usage).collect())
        })
    }

    fn xml(&self, uuid: Uuid) -> Result<String, HypervisorError> {
        let what = format!("read definition of domain {uuid}");
        self.perform(Method::Xml, &what, |state| {
            find(state, &what, uuid).map(|guest| guest.shown())
        })
    }

    fn definition(&self, uuid: Uuid) -> Result<String, HypervisorError> {
        let what = format!("read definition of domain {uuid}");
        self.perform(Method::Definition, &what, |state| {
            find(state, &what, uuid).map(|guest| guest.definition())
        })
    }

    fn restore(&self, definition: &str) -> Result<(), HypervisorError> {
        let what = "restore a definition";
        self.perform(Method::Restore, what, |state| {
            let read = Definition::read(definition);
            let Some((uuid, read)) = read.and_then(|read| Some((read.uuid?, read))) else {
                let message = "it is no domain's definition";
                return Err(HypervisorError::new(what, ErrorKind::Refused, message));
            };
            let off = || DomainState::ShutOff(StopReason::Unknown);
            let state_of = state.domains.get(&uuid).map(|guest| guest.info.state);
            let size = Size {
                vcpus: read.vcpus,
                memory_bytes: read.memory_bytes,
                max_vcpus: Some(read.vcpus_max).filter(|max| *max > read.vcpus),
                max_memory_bytes: None,
            };
            let mut guest = Guest::new(
                DomainInfo {
                    uuid,
                    name: read.name,
                    state: state_of.unwrap_or_else(off),
                    job: None,
                    resources: size.resources(),
                    memory_now_bytes: size.memory_bytes,
                    page_size: None,
                    is_persistent: true,
                },
                None,
                size,
            );
            if let Some(before) = state.domains.get(&uuid) {
                guest.config = before.config.clone();
                guest.started = before.started;
                if before.info.state.is_active() {
                    guest.info.resources = before.info.resources;
                    guest.info.memory_now_bytes = before.info.memory_now_bytes;
                }
            }
            state.domains.insert(uuid, guest);
            self.announce(state, uuid, Lifecycle::Defined);
            Ok(())
        })
    }

    fn describe(&self, uuid: Uuid) -> Result<VmSpec, HypervisorError> {
        let what = format!("describe domain {uuid}");
        self.perform(Method::Describe, &what, |state| {
            let guest = find(state, &what, uuid)?;
            let size = guest.info.resources;
            let read = Definition::read(&guest.definition()).unwrap_or_default();
            Ok(read.to_vm(uuid, size.vcpus, size.memory_bytes, |_| None))
        })
    }

    fn cards(&self, uuid: Uuid) -> Result<Vec<Card>, HypervisorError> {
        let what = format!("read addresses of domain {uuid}");
        self.perform(Method::Cards, &what, |state| {
            let guest = find_active(state, &what, uuid)?;
            let listed = Listed::each(&guest.addresses);
            let read = Cards::read(&guest.definition()).unwrap_or_default();
            Ok(read.known(&listed))
        })
    }

    fn migrate(&self, uuid: Uuid, to: &MigrateTo) -> Result<MigrateOutcome, HypervisorError> {
        self.send(uuid, to)
    }

    fn networks(&self) -> Result<Vec<NetworkInfo>, HypervisorError> {
        self.perform(Method::Networks, "list networks", |state| {
            Ok(state.networks.values().cloned().collect())
        })
    }

    fn make_network(&self, config: &NetworkConfig) -> Result<(), HypervisorError> {
        let what = format!("make network {}", config.name);
        let made = self.perform(Method::MakeNetwork, &what, |state| {
            let uuid = config.uuid();
            let mut named = state.networks.values().filter(|n| n.name == config.name.as_str());
            if named.any(|network| network.uuid != uuid) {
                let message = "another network has this name";
                return Err(HypervisorError::new(&what, ErrorKind::AlreadyExists, message));
            }
            let read = NetworkRead::read(&network_xml(config));
            let info = read.and_then(|read| read.into_info(true));
            let info = info.expect("what we have written can be read");
            let before = state.networks.insert(uuid, info.clone());
            Ok(before != Some(info))
        })?;
        if made {
            self.0.hub.publish(&WatchEvent::NetworksChanged);
        }
        Ok(())
    }

    fn remove_network(&self, uuid: Uuid) -> Result<(), HypervisorError> {
        let what = format!("remove network {uuid}");
        let before =
            self.perform(Method::RemoveNetwork, &what, |state| Ok(state.networks.remove(&uuid)))?;
        if before.is_some() {
            self.0.hub.publish(&WatchEvent::NetworksChanged);
        }
        Ok(())
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
            let (moved_bytes, memory) = (total_bytes / 2, None);
            Ok(guest.job.map(|_| Progress { moved_bytes, total_bytes, memory }))
        })
    }

    fn pin(&self, uuid: Uuid, _pins: &Pins) -> Result<(), HypervisorError> {
        let what = format!("pin domain {uuid}");
        self.perform(Method::Pin, &what, |state| find_active(state, &what, uuid).map(drop))
    }

    fn allow_downtime(&self, uuid: Uuid, _downtime_ms: u32) -> Result<(), HypervisorError> {
        let what = format!("allow a downtime of domain {uuid}");
        self.perform(Method::AllowDowntime, &what, |state| find(state, &what, uuid).map(drop))
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

    fn record_console(
        &self,
        uuid: Uuid,
        log: &Path,
    ) -> Result<Box<dyn ConsoleWriter>, HypervisorError> {
        let what = format!("record console of domain {uuid}");
        self.perform(Method::RecordConsole, &what, |state| {
            find_active(state, &what, uuid)?.recorded = Some(log.to_owned());
            Ok(Box::new(FakeConsole { fake: self.clone(), uuid }) as Box<dyn ConsoleWriter>)
        })
    }

    fn screenshot(&self, uuid: Uuid) -> Result<Screenshot, HypervisorError> {
        let what = format!("take a picture of domain {uuid}");
        self.perform(Method::Screenshot, &what, |state| {
            must_have_screen(find_active(state, &what, uuid)?, &what)?;
            let media = "image/x-portable-pixmap".to_owned();
            // Two pixels: red and blue.
            Ok(Screenshot { media, bytes: b"P6\n2 1\n255\n\xff\0\0\0\0\xff".to_vec() })
        })
    }

    fn open_graphics(&self, uuid: Uuid) -> Result<UnixStream, HypervisorError> {
        let what = format!("open graphics of domain {uuid}");
        self.perform(Method::OpenGraphics, &what, |state| {
            must_have_screen(find_active(state, &what, uuid)?, &what)?;
            FakeScreen::open(self.clone(), uuid).map_err(|error| failed(&what, error.to_string()))
        })
    }

    fn hung_calls(&self) -> &Arc<HungCalls> {
        &self.0.hung_calls
    }
}

fn failed(what: &str, message: String) -> HypervisorError {
    HypervisorError::new(what, ErrorKind::Failed, message)
}

fn must_have_disk(guest: &Guest, what: &str, device: &str) -> Result<u64, HypervisorError> {
    guest.disk_bytes(device).ok_or_else(|| {
        let message = format!("the guest has no disk {device}");
        HypervisorError::new(what, ErrorKind::Refused, message)
    })
}

fn must_have_screen(guest: &Guest, what: &str) -> Result<(), HypervisorError> {
    if guest.config.as_ref().is_some_and(|config| config.vm.hardware.vnc) {
        return Ok(());
    }
    Err(HypervisorError::new(what, ErrorKind::Refused, "its definition has no graphics"))
}

/// Greets as a server of VNC does, then says back what it is told, as long as the guest runs.
struct FakeScreen {
    fake: Fake,
    uuid: Uuid,
    stream: UnixStream,
}

impl FakeScreen {
    /// How often it looks whether the guest still runs.
    const LOOK: Duration = Duration::from_millis(20);

    fn open(fake: Fake, uuid: Uuid) -> std::io::Result<UnixStream> {
        let (stream, viewer) = UnixStream::pair()?;
        stream.set_read_timeout(Some(Self::LOOK))?;
        std::thread::Builder::new()
            .name("fake-screen".to_owned())
            .spawn(move || Self { fake, uuid, stream }.serve())?;
        Ok(viewer)
    }

    fn serve(mut self) {
        let mut said = b"RFB 003.008\n".to_vec();
        let mut chunk = [0; 1024];
        while is_active(&self.fake.state(), self.uuid) {
            if self.stream.write_all(&said).is_err() {
                return;
            }
            said = match self.stream.read(&mut chunk) {
                Ok(0) => return,
                Ok(length) => chunk[..length].to_vec(),
                // It is time to look.
                Err(_) => Vec::new(),
            };
        }
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

    fn is_open(&self) -> bool {
        is_active(&self.fake.state(), self.uuid)
    }
}
