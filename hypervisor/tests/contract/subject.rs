//! What the cases need to know of the hypervisor they are run on.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hypervisor::{
    CpuPlace, DomainConfig, DomainEvent, DomainState, ErrorKind, Hypervisor, HypervisorError,
    Lifecycle, Volume, VolumeFormat, WatchEvent,
};
use protocol::host::Accel;
use protocol::id::JobId;
use protocol::vm::{DiskBus, DiskSpec, VmSpec};
use tokio::sync::mpsc;
use uuid::Uuid;

/// The size of the disks of guests that have some.
pub(crate) const DISK_BYTES: u64 = 16 << 20;

/// Longest wait for something that must happen; a busy two-core machine runs QEMU slowly.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Subject {
    pub(crate) hv: Arc<dyn Hypervisor>,
    /// Where console logs go.
    pub(crate) dir: PathBuf,
    pub(crate) has_consoles: bool,
    /// Whether a guest without a system reacts to a request to shut down.
    pub(crate) has_polite_guests: bool,
    /// What disks of its guests can do.
    pub(crate) disks: Disks,
}

/// What disks of guests can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disks {
    /// They are files, and QEMU works on them.
    Real,
    /// They are believed in.
    Pretended,
    /// Nothing.
    Stiff,
}

impl Subject {
    /// The smallest guest: no disk, no kernel, only firmware.
    pub(crate) fn config(&self, job: &str) -> DomainConfig {
        let job = JobId::new(job).unwrap();
        DomainConfig {
            uuid: job.domain_uuid(),
            vm: VmSpec {
                vcpus: 1,
                memory_bytes: 64 << 20,
                disks: vec![],
                nics: vec![],
                ..VmSpec::default()
            },
            volumes: vec![],
            console_log: self.dir.join(format!("{job}.log")),
            exit_file: None,
            accel: match self.hv.facts().accel {
                Accel::Kvm => Accel::Kvm,
                Accel::Tcg | Accel::None => Accel::Tcg,
            },
            partition: None,
            cpus: CpuPlace::default(),
            job,
        }
    }

    pub(crate) fn defined(&self, job: &str) -> DomainConfig {
        let config = self.config(job);
        self.hv.define(&config).unwrap();
        config
    }

    pub(crate) fn running(&self, job: &str) -> DomainConfig {
        let config = self.defined(job);
        self.hv.start(config.uuid).unwrap();
        config
    }

    /// A running guest with two disks, `vda` and `sdb`.
    pub(crate) fn running_with_disks(&self, job: &str) -> DomainConfig {
        let mut config = self.config(job);
        for (name, bus) in [("root", DiskBus::Virtio), ("data", DiskBus::Scsi)] {
            self.add_disk(&mut config, name, bus);
        }
        self.hv.define(&config).unwrap();
        self.hv.start(config.uuid).unwrap();
        config
    }

    pub(crate) fn add_disk(&self, config: &mut DomainConfig, name: &str, bus: DiskBus) {
        let path = self.dir.join(format!("{}-{name}.qcow2", config.job));
        if self.disks == Disks::Real {
            let mut make = Command::new("qemu-img");
            make.args(["create", "-q", "-f", "qcow2"]).arg(&path).arg(DISK_BYTES.to_string());
            assert!(make.status().unwrap().success());
        }
        let (name, size_bytes) = (name.to_owned(), DISK_BYTES);
        let format = VolumeFormat::Qcow2;
        config.volumes.push(Volume { name: name.clone(), path, format, is_shared: false });
        config.vm.disks.push(DiskSpec { name, size_bytes, bus, ..DiskSpec::default() });
    }

    pub(crate) fn state(&self, uuid: Uuid) -> Option<DomainState> {
        self.hv.lookup(uuid).unwrap().map(|info| info.state)
    }

    pub(crate) fn remove(&self, uuid: Uuid) {
        self.hv.destroy(uuid).unwrap();
        self.hv.undefine(uuid).unwrap();
        assert_eq!(self.hv.lookup(uuid).unwrap(), None);
    }
}

/// Waits for this event of this domain; gives every event of the domain up to it.
pub(crate) fn expect_event(
    events: &mut mpsc::Receiver<WatchEvent>,
    uuid: Uuid,
    is_it: impl Fn(Lifecycle) -> bool,
) -> Vec<Lifecycle> {
    let mut seen = Vec::new();
    eventually("an event", || match events.try_recv() {
        Ok(WatchEvent::Domain(DomainEvent { uuid: of, what, .. })) if of == uuid => {
            seen.push(what);
            is_it(what).then(|| std::mem::take(&mut seen))
        }
        Ok(_) => None,
        Err(mpsc::error::TryRecvError::Empty) => {
            thread::sleep(Duration::from_millis(5));
            None
        }
        Err(error) => panic!("{error} after {seen:?}"),
    })
}

/// Tries until there is an answer.
pub(crate) fn eventually<T>(what: &str, mut f: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = f() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} did not come in {PATIENCE:?}");
        thread::yield_now();
    }
}

pub(crate) fn kind<T>(result: Result<T, HypervisorError>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind)
}
