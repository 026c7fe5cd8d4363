//! Simulated hosts and VMs in the mix of a public cloud, and the clock of this thread.

use std::collections::BTreeMap;

use protocol::cpus::DedicatedCpus;
use protocol::event::{Event, Fact};
use protocol::host::{Accel, Host, HypervisorFacts, Inventory};
use protocol::id::{Cursor, Epoch, HostId, JobId, OfferId};
use protocol::job::{Job, JobSpec, JobState};
use protocol::resources::Resources;
use protocol::signed::SecretKey;
use protocol::view::View;
use protocol::vm::{OnLoss, VmSpec};

/// Share in thousandths, vCPUs, GiB.
const MIX: [(u32, u32, u64); 12] = [
    (460, 1, 2),
    (220, 1, 1),
    (130, 2, 4),
    (80, 4, 8),
    (29, 1, 4),
    (20, 2, 8),
    (17, 8, 16),
    (17, 4, 16),
    (9, 8, 32),
    (9, 16, 32),
    (5, 12, 24),
    (4, 64, 128),
];

/// What a host has.
pub(crate) const CAPACITY: Resources =
    Resources { vcpus: 80, memory_bytes: 180 << 30, disk_bytes: 4 << 40 };

/// What a host of half the size has.
const CAPACITY_HALF: Resources =
    Resources { vcpus: 40, memory_bytes: 90 << 30, disk_bytes: 4 << 40 };

/// A generator of its own, so that every run is the same.
pub(crate) struct Lots(pub(crate) u64);

impl Lots {
    /// A number below another.
    pub(crate) fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 20) % below as u64).expect("below a usize")
    }

    /// The size of a VM.
    pub(crate) fn size(&mut self) -> Resources {
        let mut lot = u32::try_from(self.next(1000)).expect("small");
        for (share, vcpus, gib) in MIX {
            if lot < share {
                return Resources { vcpus, memory_bytes: gib << 30, disk_bytes: 0 };
            }
            lot -= share;
        }
        Resources { vcpus: 1, memory_bytes: 2 << 30, disk_bytes: 0 }
    }
}

pub(crate) fn spec(size: Resources, on_loss: OnLoss) -> JobSpec {
    let (vcpus, memory_bytes) = (size.vcpus, size.memory_bytes);
    JobSpec::vm(VmSpec { vcpus, memory_bytes, on_loss, ..VmSpec::default() })
}

pub(crate) fn job(id: JobId, spec: JobSpec, state: JobState) -> Job {
    Job { hold: Some(OfferId { epoch: Epoch(1), num: 1 }), ..Job::of(id, spec, state) }
}

pub(crate) fn id(n: usize) -> HostId {
    // As long as real ones, and in no order.
    let mixed = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    HostId::new(format!("{mixed:016x}{:036x}", n)).expect("a name")
}

pub(crate) fn host(n: usize) -> Host {
    let label = |key: &str, value: String| (key.to_owned(), value);
    let words = if n.is_multiple_of(3) { "sse4_2,avx2,avx512f" } else { "sse4_2,avx2" };
    Host {
        id: id(n),
        key: SecretKey::from_seed([1; 32]).public(),
        name: format!("node-{n}"),
        urls: vec![format!("https://10.0.{}.{}:7460", n / 250 % 250, n % 250)],
        agent_version: "0.1.0".into(),
        hypervisor: HypervisorFacts {
            uri: "qemu:///system".into(),
            driver: "QEMU".into(),
            libvirt_version: "9.0.0".into(),
            accel: Accel::Kvm,
            accel_reason: None,
            can_receive: true,
            can_guard: true,
        },
        capacity: CAPACITY,
        allocation: Resources::ZERO,
        hugepages: BTreeMap::new(),
        dedicated_cpus: DedicatedCpus::NONE,
        images: BTreeMap::new(),
        pools: BTreeMap::new(),
        networks: None,
        labels: [
            label("arch", if n % 10 == 9 { "aarch64" } else { "x86_64" }.to_owned()),
            label("cpu-features", words.to_owned()),
            label("zone", format!("z{}", n % 4)),
            label("disk", if n.is_multiple_of(2) { "ssd" } else { "hdd" }.to_owned()),
            label("rack", format!("r{}", n / 40)),
        ]
        .into(),
        trust_version: Some(1),
        intent: None,
    }
}

/// Hosts, and what runs on each.
pub(crate) struct World {
    pub(crate) view: View,
    pub(crate) hosts: Vec<HostId>,
}

impl World {
    /// Hosts filled up to a share of their CPUs; with a largest number of VMs on each.
    pub(crate) fn filled(hosts: usize, percent: u32, vms_max: usize, on_loss: OnLoss) -> Self {
        let mut lots = Lots(0x9e37_79b9_7f4a_7c15);
        let mut view = View::default();
        for n in 0..hosts {
            let mut host = host(n);
            let mut jobs = Vec::new();
            // Not every host as full as the next.
            let spread = u32::try_from(lots.next(9)).expect("small");
            let full = CAPACITY.vcpus * (percent + 4).saturating_sub(spread).min(100) / 100;
            for _ in 0..vms_max * 2 {
                let size = lots.size();
                let after = host.allocation.plus(size);
                if after.vcpus <= full && after.fits_in(CAPACITY) && jobs.len() < vms_max {
                    host.allocation = after;
                    let id = JobId::new(format!("vm-{n}-{}", jobs.len())).expect("a name");
                    jobs.push(job(id, spec(size, on_loss), JobState::Running));
                }
            }
            let cursor = Cursor { epoch: Epoch(1), seq: 0 };
            view.merge_inventory(Inventory { cursor, host, jobs, observed: vec![] });
        }
        Self { view, hosts: (0..hosts).map(id).collect() }
    }

    /// Hosts of half the size, each filled to a share drawn by lot, from nearly nothing to nearly all: so first fit leaves
    /// them when many VMs have gone.
    pub(crate) fn uneven(hosts: usize, seed: u64) -> Self {
        let mut lots = Lots(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut view = View::default();
        for n in 0..hosts {
            let mut host = Host { capacity: CAPACITY_HALF, ..host(n) };
            let mut jobs = Vec::new();
            let full = 2 + u32::try_from(lots.next(37)).expect("small");
            for _ in 0..200 {
                let size = lots.size();
                let after = host.allocation.plus(size);
                if host.allocation.vcpus < full && after.fits_in(CAPACITY_HALF) {
                    host.allocation = after;
                    let id = JobId::new(format!("vm-{n}-{}", jobs.len())).expect("a name");
                    jobs.push(job(id, spec(size, OnLoss::Keep), JobState::Running));
                }
            }
            let cursor = Cursor { epoch: Epoch(1), seq: 0 };
            view.merge_inventory(Inventory { cursor, host, jobs, observed: vec![] });
        }
        Self { view, hosts: (0..hosts).map(id).collect() }
    }

    /// What a host says when one of its jobs has changed, come or gone: the job, and what it has promised since.
    pub(crate) fn change(
        &self,
        host: &HostId,
        gone: Option<&Job>,
        come: Option<Job>,
    ) -> [Event; 2] {
        let row = self.view.host(host).expect("known");
        let mut facts = Host::clone(&row.host);
        let allocation = |job: &Job| job.spec.takes();
        facts.allocation = facts.allocation.minus(gone.map(allocation).unwrap_or_default());
        facts.allocation = facts.allocation.plus(come.as_ref().map(allocation).unwrap_or_default());
        let first = row.cursor.next();
        let of_job = match (come, gone) {
            (Some(job), _) => Fact::JobChanged { job: Box::new(job) },
            (None, Some(job)) => Fact::JobDeleted { job: job.id.clone() },
            (None, None) => Fact::HostChanged { host: Box::new(facts.clone()) },
        };
        let of_host = Fact::HostChanged { host: Box::new(facts) };
        let event = |cursor, fact| Event { host: host.clone(), cursor, at_ms: 0, fact };
        [event(first, of_job), event(first.next(), of_host)]
    }

    /// What a host says when it is this.
    pub(crate) fn say(&self, host: Host) -> Event {
        let row = self.view.host(&host.id).expect("known");
        let (id, cursor) = (host.id.clone(), row.cursor.next());
        Event { host: id, cursor, at_ms: 0, fact: Fact::HostChanged { host: Box::new(host) } }
    }

    pub(crate) fn merge(&mut self, events: &[Event]) {
        for event in events {
            assert_eq!(
                self.view.merge_event(event),
                protocol::view::Merge::Applied,
                "the next event"
            );
        }
    }
}

/// CPU time of this thread, in nanoseconds.
pub(crate) fn cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).expect("never negative")
}

/// Microseconds each, of so many since then.
pub(crate) fn us_each(begin_ns: u64, count: usize) -> f64 {
    (cpu_ns() - begin_ns) as f64 / 1_000.0 / count as f64
}

/// The load of the machine, so that a reader knows what the figures are worth.
pub(crate) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
}

/// Three digits.
pub(crate) fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let unit = 10_f64.powf(value.abs().log10().floor() - 2.0);
    ((value / unit).round() * unit * 1e6).round() / 1e6
}
