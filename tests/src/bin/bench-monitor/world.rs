//! Simulated hosts: what they are, what runs on them, and what they say. The same in every process.
use std::net::{Ipv4Addr, SocketAddr};

use protocol::event::{Event, Fact};
use protocol::host::{Accel, Host, HypervisorFacts, Inventory};
use protocol::id::{Cursor, Epoch, JobId, OfferId};
use protocol::job::{Job, JobSpec, JobState};
use protocol::resources::Resources;
use protocol::vm::{DiskSpec, NicSpec, Plug, VmSpec};
use rustix::time::{ClockId, clock_gettime};
use transport::Identity;

/// Below the ports that the kernel gives to connections.
const PORT: u16 = 27_460;

/// The key of host `n`.
pub(crate) fn identity(n: usize) -> Identity {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&(n as u64).to_le_bytes());
    Identity::from_seed(seed)
}

/// Where host `n` answers: each has a loopback address of its own.
pub(crate) fn address(n: usize) -> SocketAddr {
    let byte = |n: usize| u8::try_from(n).expect("less than 250");
    let ip = Ipv4Addr::new(127, byte(1 + n / 62_500), byte(n / 250 % 250), byte(1 + n % 250));
    SocketAddr::from((ip, PORT))
}

/// Microseconds on a clock that all processes of this machine share.
pub(crate) fn now_us() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec * 1_000_000 + time.tv_nsec / 1_000).expect("never negative")
}

/// Everything about host `n` at the beginning.
pub(crate) fn inventory(n: usize, jobs: usize) -> Inventory {
    let identity = identity(n);
    let host = Host {
        name: format!("node-{n}"),
        urls: vec![format!("https://{}", address(n))],
        agent_version: "0.1.0".into(),
        hypervisor: HypervisorFacts {
            uri: "qemu:///system".into(),
            driver: "QEMU".into(),
            libvirt_version: "9.0.0".into(),
            accel: Accel::Kvm,
            can_receive: true,
            can_guard: true,
            ..HypervisorFacts::default()
        },
        capacity: Resources { vcpus: 128, memory_bytes: 512 << 30, disk_bytes: 8 << 40 },
        allocation: Resources { vcpus: 20, memory_bytes: 40 << 30, disk_bytes: 200 << 30 },
        labels: [("rack".to_owned(), format!("r{}", n / 40))].into(),
        trust_version: Some(1),
        ..Host::of_key(identity.public())
    };
    let jobs = (0..jobs).map(|j| job(n, j, 0)).collect();
    Inventory { cursor: Cursor { epoch: Epoch(1), seq: 0 }, host, jobs, observed: vec![] }
}

/// A spec that shares no part with that of another `n`: tenant, label, sizes and address are its own.
pub(crate) fn spec_of_its_own(n: usize) -> JobSpec {
    let image = Some(format!("image-{n}").parse().expect("a name"));
    let size_bytes = (20 << 30) + ((n as u64) << 20);
    let disk = DiskSpec { name: "root".into(), size_bytes, image, ..DiskSpec::default() };
    let mac = Some(format!("52:54:00:{:02x}:{:02x}:{:02x}", n >> 16 & 255, n >> 8 & 255, n & 255));
    let plug = Plug::Bridge { bridge: format!("br{}", n % 4_096) };
    let vm = VmSpec {
        vcpus: 1 + u32::try_from(n % 64).expect("small"),
        memory_bytes: (4 << 30) + ((n as u64) << 20),
        disks: vec![disk],
        nics: vec![NicSpec { mac, ..plug.into() }],
        ..VmSpec::default()
    };
    let labels = [("app".to_owned(), format!("app-{n}"))].into();
    let tenant = format!("tenant-{n}").parse().expect("a name");
    JobSpec { tenant, labels, ..JobSpec::vm(vm) }
}

/// Job `j` of host `n`; `since_ms` carries a moment in microseconds for who measures.
pub(crate) fn job(n: usize, j: usize, since_ms: u64) -> Job {
    let id = JobId::new(format!("vm-{n}-{j}")).expect("a name");
    let image = Some("debian-12".parse().expect("a name"));
    let disk = DiskSpec { name: "root".into(), size_bytes: 20 << 30, image, ..DiskSpec::default() };
    let vm = VmSpec {
        vcpus: 2,
        memory_bytes: 4 << 30,
        disks: vec![disk],
        nics: vec![Plug::User.into()],
        ..VmSpec::default()
    };
    Job {
        domain_uuid: Some(id.domain_uuid()),
        since_ms,
        hold: Some(OfferId { epoch: Epoch(1), num: j as u64 + 1 }),
        ..Job::of(id, JobSpec::vm(vm), JobState::Running)
    }
}

/// The event after `cursor`: job `j` has changed now, and when that is in microseconds.
pub(crate) fn event(n: usize, host: &Host, cursor: Cursor, j: usize) -> (Event, u64) {
    let at_us = now_us();
    let fact = Fact::JobChanged { job: Box::new(job(n, j, at_us)) };
    (Event { host: host.id.clone(), cursor: cursor.next(), at_ms: 0, fact }, at_us)
}
