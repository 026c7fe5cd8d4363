//! Hosts and VMs of a story as a view.

use std::collections::BTreeMap;

use protocol::host::{Accel, Host, HypervisorFacts, ImageFacts, Inventory};
use protocol::hugepages::{HugepageFacts, PageSize};
use protocol::id::{Cursor, Epoch, HostId, ImageName, JobId, PoolName, TenantId};
use protocol::job::{Job, JobSpec, JobState};
use protocol::pool::{PoolFacts, PoolId};
use protocol::resources::{Bytes, Resources};
use protocol::signed::{Digest, SecretKey};
use protocol::used::{VmUse, WATCHED_MS_MAX};
use protocol::vm::{DiskSpec, OnLoss, Plug, VmSpec};

/// Disk space of a host whose story does not say.
const DISK_BYTES: u64 = 100 << 30;

pub(crate) fn host(name: &str, memory_bytes: u64) -> Result<Inventory, String> {
    let key = SecretKey::from_seed([name.len() as u8; 32]).public();
    let host = Host {
        id: HostId::new(name).map_err(|e| e.to_string())?,
        name: name.to_owned(),
        hypervisor: HypervisorFacts {
            driver: "QEMU".into(),
            accel: Accel::Kvm,
            can_receive: true,
            can_guard: true,
            ..HypervisorFacts::default()
        },
        capacity: Resources { vcpus: 16, memory_bytes, disk_bytes: DISK_BYTES },
        images: BTreeMap::from([image("debian")?]),
        ..Host::of_key(key)
    };
    Ok(Inventory {
        cursor: Cursor { epoch: Epoch(1), seq: 1 },
        host,
        jobs: vec![],
        observed: vec![],
    })
}

pub(crate) fn image(name: &str) -> Result<(ImageName, ImageFacts), String> {
    let facts = ImageFacts {
        sha256: Digest::of(b""),
        file_bytes: 1 << 30,
        virtual_bytes: 1 << 30,
        format: None,
    };
    Ok((ImageName::new(name).map_err(|e| e.to_string())?, facts))
}

/// A pool by its words, `NAME:SIZE` or `NAME:SIZE,KEY=VALUE` with labels, with nothing in it. A shared one is the same on every host that has its name.
pub(crate) fn pool(
    host: &str,
    words: &str,
    is_shared: bool,
) -> Result<(PoolName, PoolFacts), String> {
    let (name, words) = words.split_once(':').ok_or("write POOL:SIZE")?;
    let mut words = words.split(',');
    let size = words.next().unwrap_or_default();
    let pair = |label: &str| {
        let (key, value) = label.split_once('=').ok_or("write POOL:SIZE,KEY=VALUE")?;
        Ok::<_, String>((key.to_owned(), value.to_owned()))
    };
    let labels = words.map(pair).collect::<Result<_, _>>()?;
    let mark = if is_shared { name.to_owned() } else { format!("{name} of {host}") };
    let mark = Digest::of(mark.as_bytes()).to_string();
    let bytes = bytes(size)?;
    let facts = PoolFacts {
        id: PoolId::parse_str(&mark[..32]).map_err(|e| e.to_string())?,
        is_shared,
        path: format!("/srv/{name}"),
        unavailable: None,
        capacity_bytes: bytes,
        promised_bytes: 0,
        free_bytes: bytes,
        labels,
    };
    Ok((PoolName::new(name).map_err(|e| e.to_string())?, facts))
}

/// Huge pages by their words, `2MiB:64`, or `2MiB:64-8` when 8 of them are taken by what is no job.
pub(crate) fn hugepages(words: &str) -> Result<(PageSize, HugepageFacts), String> {
    let wrong = || format!("write hugepages=2MiB:64, not {words}");
    let (size, count) = words.split_once(':').ok_or_else(wrong)?;
    let (total, others) = count.split_once('-').unwrap_or((count, "0"));
    let number = |text: &str| text.parse().map_err(|_| wrong());
    let facts = HugepageFacts { total: number(total)?, promised: 0, others: number(others)? };
    Ok((size.parse().map_err(|_| wrong())?, facts))
}

/// A VM by its words: `2GiB`, `4cpus`, `dedicated`, `hugepages=2MiB`, `disk=2GiB`, `disk=2GiB@POOL`, `image=debian`, `tenant=acme`, `bridge=br0`, `priority=80`,
/// `preemptible`, `protected`, `may-be-lost`.
pub(crate) fn spec(words: &[&str]) -> Result<JobSpec, String> {
    let mut vm =
        VmSpec { vcpus: 1, memory_bytes: 0, disks: vec![], nics: vec![], ..VmSpec::default() };
    let (mut image, mut tenant) = (None, TenantId::default_tenant());
    for word in words {
        if let Some(count) = word.strip_suffix("cpus") {
            vm.vcpus = count.parse().map_err(|_| format!("unknown word {word}"))?;
        } else if let Some(size) = word.strip_prefix("disk=") {
            let (size, pool) = size.split_once('@').map_or((size, None), |(a, b)| (a, Some(b)));
            let pool = pool.map(PoolName::new).transpose().map_err(|e| e.to_string())?;
            let (size_bytes, name) = (bytes(size)?, format!("d{}", vm.disks.len()));
            vm.disks.push(DiskSpec { name, size_bytes, pool, ..DiskSpec::default() });
        } else if let Some(size) = word.strip_prefix("hugepages=") {
            let size: PageSize = size.parse().map_err(|_| format!("unknown word {word}"))?;
            vm.hardware.hugepages_kib = Some(size.kib());
        } else if let Some(name) = word.strip_prefix("image=") {
            image = Some(ImageName::new(name).map_err(|e| e.to_string())?);
        } else if let Some(name) = word.strip_prefix("tenant=") {
            tenant = TenantId::new(name).map_err(|e| e.to_string())?;
        } else if let Some(bridge) = word.strip_prefix("bridge=") {
            vm.nics.push(Plug::Bridge { bridge: bridge.to_owned() }.into());
        } else if let Some(number) = word.strip_prefix("priority=") {
            vm.priority = serde_json::from_str(number).map_err(|e| e.to_string())?;
        } else if *word == "dedicated" {
            vm.hardware.dedicated_cpus = true;
        } else if *word == "preemptible" {
            vm.preemptible = true;
        } else if *word == "may-be-lost" {
            vm.on_loss = OnLoss::Stop;
        } else if *word == "protected" {
            vm.protected = true;
        } else {
            vm.memory_bytes = bytes(word)?;
        }
    }
    if let Some(disk) = vm.disks.first_mut() {
        disk.image = image;
    }
    Ok(JobSpec { tenant, ..JobSpec::vm(vm) })
}

/// What a VM uses, by its words: `uses=1.5cpus`, and for how long it was watched: `watched=20s`. Without the first it is not
/// known.
pub(crate) fn vm_use(words: &[&str]) -> Result<Option<VmUse>, String> {
    let mut used = None;
    let mut watched_ms = WATCHED_MS_MAX;
    for word in words {
        if let Some(cpus) = word.strip_prefix("uses=") {
            used = Some(cpu_millis(cpus)?);
        } else {
            let seconds = word.strip_prefix("watched=").and_then(|word| word.strip_suffix('s'));
            let seconds: Option<u64> = seconds.and_then(|seconds| seconds.parse().ok());
            watched_ms = 1_000 * seconds.ok_or(format!("unknown word {word}"))?;
        }
    }
    Ok(used.map(|cpu_millis| VmUse { cpu_millis, watched_ms }))
}

/// Thousandths of a CPU of `1.5cpus`.
pub(crate) fn cpu_millis(word: &str) -> Result<u64, String> {
    let cpus: Option<f64> = word.strip_suffix("cpus").and_then(|cpus| cpus.parse().ok());
    let cpus = cpus.filter(|cpus| (0.0..10_000.0).contains(cpus));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in range")]
    let millis = cpus.map(|cpus| (cpus * 1_000.0).round() as u64);
    millis.ok_or(format!("unknown word {word}"))
}

/// Milliseconds of `9s` or `9037ms`.
pub(crate) fn millis(word: &str) -> Result<u64, String> {
    let of = |number: &str, by: u64| number.parse::<u64>().ok().and_then(|n| n.checked_mul(by));
    let millis = match word.strip_suffix("ms") {
        Some(number) => of(number, 1),
        None => word.strip_suffix('s').and_then(|number| of(number, 1_000)),
    };
    millis.ok_or(format!("unknown word {word}"))
}

pub(crate) fn bytes(word: &str) -> Result<u64, String> {
    word.parse::<Bytes>().map(|bytes| bytes.0).map_err(|_| format!("unknown word {word}"))
}

pub(crate) fn job(name: &str, spec: JobSpec, state: JobState) -> Result<Job, String> {
    Ok(Job::of(JobId::new(name).map_err(|e| e.to_string())?, spec, state))
}
