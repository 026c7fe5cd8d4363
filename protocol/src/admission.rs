//! Whether a host takes a job: the one function that the planner and the host share.
//!
//! The host calls it with its ledger, the planner with what a view says of that ledger; given the
//! same numbers they cannot disagree. It knows nothing of tickets: permission is
//! [`crate::ticket`]'s question, room is this one's.

use std::collections::BTreeMap;

use crate::cpus::DedicatedCpus;
use crate::host::{Host, ImageFacts};
use crate::hugepages::{Hugepages, Pages};
use crate::id::{ImageName, JobId, PoolName};
use crate::job::{JobSpec, JobState};
use crate::network::Networks;
use crate::pool::PoolFacts;
use crate::refusal::Refusal;
use crate::resources::Resources;
use crate::trust::{Breach, Policy};
use crate::vm::{DiskSpec, NicSpec, OnLoss, Plug, Size, VmSpec};

/// What admission needs to know of a host.
#[derive(Debug, Clone, Copy)]
pub struct Room<'a> {
    /// What there is.
    pub capacity: Resources,
    /// What is promised to others than the job that asks.
    pub allocation: Resources,
    /// Huge pages that are here. What of them is promised is the next one's to say.
    pub hugepages: &'a Hugepages,
    /// How many of these are promised to others than the job that asks.
    pub pages: Pages,
    /// Dedicated CPUs that are here, with how many of them are promised to others than the job that asks.
    pub dedicated_cpus: DedicatedCpus,
    /// Images that are here.
    pub images: &'a BTreeMap<ImageName, ImageFacts>,
    /// Pools that are here.
    pub pools: &'a BTreeMap<PoolName, PoolFacts>,
    /// Networks that are here, as far as the host says.
    pub networks: Option<&'a Networks>,
    /// What its labels are.
    pub labels: &'a BTreeMap<String, String>,
    /// What tenants' VMs may be like, if anybody says.
    pub policy: Option<&'a Policy>,
    /// Whether the host can receive running guests.
    pub can_receive: bool,
    /// Whether the host can kill a guest by itself when the right to run it is over.
    pub can_guard: bool,
}

impl<'a> Room<'a> {
    /// The room that a host's own report leaves, with no policy.
    #[must_use]
    pub fn of(host: &'a Host) -> Self {
        Self {
            capacity: host.capacity,
            allocation: host.allocation,
            hugepages: &host.hugepages,
            pages: Pages::promised(&host.hugepages),
            dedicated_cpus: host.dedicated_cpus,
            images: &host.images,
            pools: &host.pools,
            networks: host.networks.as_ref(),
            labels: &host.labels,
            policy: None,
            can_receive: host.hypervisor.can_receive,
            can_guard: host.hypervisor.can_guard,
        }
    }

    /// What is left.
    #[must_use]
    pub fn free(&self) -> Resources {
        self.capacity.minus(self.allocation)
    }

    /// How many huge pages are left.
    #[must_use]
    pub fn free_pages(&self) -> Pages {
        Pages::for_jobs(self.hugepages).minus(self.pages)
    }
}

/// How the job would come to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It starts here, its disks made from images.
    Start,
    /// It starts here again, on the disks that it has.
    StartAgain,
    /// It starts here on disks in shared pools that it had on another host; the others begin anew.
    StartOnShared,
    /// It comes running from another host, its disks copied unless they are in shared pools.
    Migrate,
}

/// Says yes, or which rule says no with its numbers.
pub fn admit(room: Room<'_>, spec: &JobSpec, arrival: Arrival) -> Result<(), Refusal> {
    spec.validate().map_err(|e| Refusal::Invalid { message: e.to_string() })?;
    admit_by_policy(room, spec, arrival)?;
    if arrival == Arrival::Migrate && !room.can_receive {
        return Err(Refusal::Unsupported {
            what: "receive a running guest".to_owned(),
            why: "its hypervisor has no address for others to send to".to_owned(),
        });
    }
    if !room.can_guard && spec.as_vm().is_some_and(|vm| vm.on_loss == OnLoss::Stop) {
        return Err(Refusal::Unsupported {
            what: "run a VM with on_loss = stop".to_owned(),
            why:
                "it has no writable cgroup2 hierarchy to hold guests in, so nothing could end them \
                  in time; use another host, or on_loss = keep"
                    .to_owned(),
        });
    }
    if arrival == Arrival::Migrate && spec.as_one_off().is_some() {
        return Err(Refusal::Unsupported {
            what: "receive a one-off job".to_owned(),
            why: "its time is measured where it was started; it ends there".to_owned(),
        });
    }
    if arrival == Arrival::Migrate && spec.adopted().is_some() {
        return Err(Refusal::Unsupported {
            what: "receive an adopted VM".to_owned(),
            why: "its definition and its disks are its own host's; release it there, and move it \
                  by hand"
                .to_owned(),
        });
    }
    admit_networks(room, spec)?;
    // What is adopted has its pages already, and they are counted as others' until it is a job.
    let asked = if is_adoption(spec, arrival) { Pages::NONE } else { spec.pages() };
    admit_pages(room, asked, Pages::NONE)?;
    admit_dedicated(room, spec.dedicated_cpus(), 0)?;
    let asked = spec.takes();
    if !asked.fits_in(room.free()) {
        return Err(Refusal::NoCapacity { asked, free: room.free(), capacity: room.capacity });
    }
    admit_pools(room, spec, arrival)?;
    admit_images(room, spec, arrival)
}

/// It runs already, as a domain that is no job's.
fn is_adoption(spec: &JobSpec, arrival: Arrival) -> bool {
    spec.adopted().is_some() && arrival == Arrival::Start
}

/// There are as many huge pages as are asked for, or no more are than what is promised already. What the host
/// has none of is said before what it has too little of: room that others make would be in vain.
fn admit_pages(room: Room<'_>, asked: Pages, promised: Pages) -> Result<(), Refusal> {
    let at_most = promised.max(room.free_pages());
    let lacks = |(size, asked): &(_, u64)| *asked > at_most.count(*size);
    let Some((page_size, asked)) = asked.each().find(lacks) else { return Ok(()) };
    let total = room.hugepages.get(&page_size).map_or(0, |facts| facts.total);
    Err(Refusal::NoHugepages { page_size, asked, free: at_most.count(page_size), total })
}

/// There are as many dedicated CPUs as are asked for, or no more are than what is promised already.
fn admit_dedicated(room: Room<'_>, asked: u32, promised: u32) -> Result<(), Refusal> {
    let free = promised.max(room.dedicated_cpus.free());
    match asked > free {
        true => Err(Refusal::NoDedicatedCpus { asked, free, total: room.dedicated_cpus.total }),
        false => Ok(()),
    }
}

/// Every start is asked all rules. What runs already and moves was let in once: only the host is new to it.
fn admit_by_policy(room: Room<'_>, spec: &JobSpec, arrival: Arrival) -> Result<(), Refusal> {
    let Some(policy) = room.policy else { return Ok(()) };
    let of_job = match arrival {
        Arrival::Start | Arrival::StartAgain | Arrival::StartOnShared => policy.breaches(spec),
        Arrival::Migrate => vec![],
    };
    obeyed(policy, spec, of_job.into_iter().next().or_else(|| policy.breach_on(spec, room.labels)))
}

fn obeyed(policy: &Policy, spec: &JobSpec, breach: Option<Breach>) -> Result<(), Refusal> {
    breach.map_or(Ok(()), |breach| Err(policy.refusal(&spec.tenant, breach)))
}

/// Every named pool is here and can be used, is shared if that is what the job counts on, and has room
/// for what is yet to be made in it.
fn admit_pools(room: Room<'_>, spec: &JobSpec, arrival: Arrival) -> Result<(), Refusal> {
    let Some(vm) = spec.as_vm() else { return Ok(()) };
    for (pool, asked_bytes) in vm.bytes_by_pool() {
        let facts = available(room, pool)?;
        let is_kept = |disk: &&DiskSpec| disk.named_pool() == Some(pool) && !disk.ephemeral;
        let needs_shared = vm.on_loss == OnLoss::Stop || arrival == Arrival::StartOnShared;
        if needs_shared
            && !facts.is_shared
            && let Some(disk) = vm.disks.iter().find(is_kept)
        {
            return Err(Refusal::Unsupported {
                what: format!("have disk {:?} in pool {pool}", disk.name),
                why: "the pool is not shared, and the disk is to be had on other hosts too: use a shared \
                      one, or say that the disk is ephemeral"
                    .to_owned(),
            });
        }
        let is_made = match arrival {
            Arrival::Start => true,
            Arrival::StartAgain => false,
            Arrival::StartOnShared | Arrival::Migrate => !facts.is_shared,
        };
        if is_made && asked_bytes > facts.room_bytes() {
            return Err(pool_full(pool, asked_bytes, facts));
        }
    }
    Ok(())
}

/// Whether the disk is made when the job comes, and not found.
fn is_made(room: Room<'_>, disk: &DiskSpec, arrival: Arrival) -> bool {
    let shared = || {
        let facts = disk.named_pool().and_then(|pool| room.pools.get(pool));
        facts.is_some_and(|facts| facts.is_shared)
    };
    match arrival {
        Arrival::Start => true,
        Arrival::StartOnShared => !shared(),
        Arrival::StartAgain | Arrival::Migrate => false,
    }
}

/// Says whether a job that is here, in this state, may have another size, `from` which it goes `to`. The
/// room is without what the job itself has been promised, which is `promised`.
///
/// Only what becomes more has to fit: giving up is welcome on a host that has promised too much. A
/// job that has ended is promised nothing yet; its next start is admitted as such.
pub fn admit_resize(
    room: Room<'_>,
    (job, state): (&JobId, JobState),
    from: &JobSpec,
    promised: Option<Resources>,
    to: &JobSpec,
) -> Result<(), Refusal> {
    to.validate().map_err(|e| Refusal::Invalid { message: e.to_string() })?;
    if from.as_one_off().is_some() {
        let message = format!("one-off job {job} ends by itself: run another one in that size");
        return Err(Refusal::Invalid { message });
    }
    if bare(from) != bare(to) {
        let message = format!(
            "job {job} can change its CPUs, its memory, its disks and its cards, and nothing else: stop it, and start it again as it is to be"
        );
        return Err(Refusal::Invalid { message });
    }
    if let Some(policy) = room.policy {
        obeyed(policy, to, policy.breach_of_growth(from, to))?;
    }
    admit_devices(room, (job, state), from, to)?;
    admit_growth_in_pools(room, from, to)?;
    // What has ended keeps its disks, and nothing else. What is in pools takes nothing of the host.
    let disks =
        |spec: &JobSpec| Resources { disk_bytes: spec.takes().disk_bytes, ..Resources::ZERO };
    if let Some(promised) = promised {
        admit_pages(room, to.pages(), from.pages_of(promised))?;
        admit_dedicated(room, to.dedicated_cpus(), from.dedicated_cpus_of(promised))?;
    }
    let (promised, asked) = match promised {
        Some(promised) => (from.of_host(promised), to.takes()),
        None => (disks(from), disks(to)),
    };
    let free = room.free();
    let grown = asked.minus(promised);
    if grown.fits_in(free.minus(promised)) {
        return Ok(());
    }
    let at_most = promised.max(free);
    Err(Refusal::NoRoomToGrow { job: job.clone(), asked, at_most, capacity: room.capacity })
}

/// The job, but for what a change of size may change.
fn bare(job: &JobSpec) -> JobSpec {
    let mut bare = job.clone();
    let none = Size { vcpus: 0, memory_bytes: 0, max_vcpus: None, max_memory_bytes: None };
    if let Some(vm) = bare.as_vm_mut() {
        *vm = VmSpec { disks: vec![], nics: vec![], ..vm.with_size(none) };
    }
    bare
}

/// Disks and cards come and go at any time, but for the disk that a guest has started from. A disk that stays grows if it is ours to
/// make larger, and never becomes smaller.
fn admit_devices(
    room: Room<'_>,
    (job, state): (&JobId, JobState),
    from: &JobSpec,
    to: &JobSpec,
) -> Result<(), Refusal> {
    let (Some(had), Some(asked)) = (from.as_vm(), to.as_vm()) else { return Ok(()) };
    let Devices { added, removed } = devices(job, had, asked)?;
    if let Some(what) = added.first().or(removed.first())
        && had.adopted.is_some()
    {
        let why =
            "the definition of an adopted VM is its own: use virsh attach-device and detach-device";
        return Err(Refusal::Unsupported {
            what: format!("change {what} of it"),
            why: why.to_owned(),
        });
    }
    let is_new = |disk: &&DiskSpec| had.disks.iter().all(|has| has.name != disk.name);
    let is_gone = |disk: &&DiskSpec| asked.disks.iter().all(|has| has.name != disk.name);
    if !state.is_ended() {
        let refuse = |needed| Err(Refusal::WrongState { job: job.clone(), state, needed });
        if let Some(disk) = had.boot_disk().filter(is_gone) {
            let name = &disk.name;
            return refuse(format!(
                "its guest has started from disk {name:?}: stop it before you take that away"
            ));
        }
        // The guest may keep the old one, and both would have to have room.
        if had.disks.iter().any(|disk| is_gone(&disk)) && asked.disks.iter().any(|d| is_new(&d)) {
            return refuse(
                "it runs: take the old disk away first, then add the new one".to_owned(),
            );
        }
    }
    let changed = asked.disks.iter().filter(is_new).chain(had.disks.iter().filter(is_gone));
    if let Some((disk, pool)) = changed.filter_map(|disk| Some((disk, disk.named_pool()?))).next() {
        let why = "what a VM has in a pool is settled when it is first started; give it a disk of its host's own";
        let what = format!("add or remove disk {:?} in pool {pool}", disk.name);
        return Err(Refusal::Unsupported { what, why: why.to_owned() });
    }
    let nics = asked.nics.iter().filter(|nic| had.nics.iter().all(|has| has.plug != nic.plug));
    let new = VmSpec {
        disks: asked.disks.iter().filter(is_new).cloned().collect(),
        nics: nics.cloned().collect(),
        ..VmSpec::default()
    };
    let mut probe = to.clone();
    if let Some(place) = probe.as_vm_mut() {
        *place = new;
    }
    admit_networks(room, &probe)?;
    admit_images(room, &probe, Arrival::Start)
}

/// What comes and what goes, in words.
struct Devices {
    added: Vec<String>,
    removed: Vec<String>,
}

fn devices(job: &JobId, had: &VmSpec, asked: &VmSpec) -> Result<Devices, Refusal> {
    let mut removed = Vec::new();
    let mut disks = asked.disks.iter();
    for has in &had.disks {
        let Some(stays) = asked.disks.iter().find(|disk| disk.name == has.name) else {
            removed.push(format!("disk {:?}", has.name));
            continue;
        };
        let (has_bytes, asked_bytes) = (has.size_bytes, stays.size_bytes);
        let is_in_place = disks.next() == Some(stays);
        let as_before = DiskSpec { size_bytes: has_bytes, ..stays.clone() };
        if !is_in_place || as_before != *has {
            let message = format!(
                "disk {:?} of job {job} can change its size, and nothing else: neither its place among the disks",
                has.name
            );
            return Err(Refusal::Invalid { message });
        }
        if asked_bytes < has_bytes {
            let (job, disk) = (job.clone(), has.name.clone());
            return Err(Refusal::DiskShrinks { job, disk, asked_bytes, has_bytes });
        }
        if asked_bytes > has_bytes && had.adopted.is_some() {
            let what = format!("make disk {:?} larger", has.name);
            let why = "it is the adopted VM's own: `virsh blockresize` does it".to_owned();
            return Err(Refusal::Unsupported { what, why });
        }
    }
    let mut added: Vec<String> = disks.map(|disk| format!("disk {:?}", disk.name)).collect();
    let domain = job.domain_uuid();
    let (had_macs, asked_macs) = (had.macs(domain), asked.macs(domain));
    let mut at = 0;
    for (has, mac) in had.nics.iter().zip(&had_macs) {
        if !asked_macs.contains(mac) {
            removed.push(format!("card {mac}"));
            continue;
        }
        let stays = asked.nics.get(at).filter(|_| asked_macs.get(at) == Some(mac));
        let of_has = NicSpec { mac: None, ..has.clone() };
        if stays.is_none_or(|stays| NicSpec { mac: None, ..stays.clone() } != of_has) {
            let message = format!(
                "card {mac} of job {job} can't change, nor its place: take it away, and add another"
            );
            return Err(Refusal::Invalid { message });
        }
        at += 1;
    }
    added.extend(asked_macs[at..].iter().map(|mac| format!("card {mac}")));
    Ok(Devices { added, removed })
}

/// Every pool in which disks are to grow is here, can be used, and has room for how much more they get.
fn admit_growth_in_pools(room: Room<'_>, from: &JobSpec, to: &JobSpec) -> Result<(), Refusal> {
    let growth = from.growth_by_pool(to);
    growth.iter().try_for_each(|(pool, more_bytes)| admit_in_pool(room, pool, *more_bytes))
}

/// Says whether so many bytes more can be promised in a pool.
pub fn admit_in_pool(room: Room<'_>, pool: &PoolName, more_bytes: u64) -> Result<(), Refusal> {
    let facts = available(room, pool)?;
    match more_bytes > facts.room_bytes() {
        true => Err(pool_full(pool, more_bytes, facts)),
        false => Ok(()),
    }
}

/// A pool that the host has, and finds where it should be.
fn available<'r>(room: Room<'r>, pool: &PoolName) -> Result<&'r PoolFacts, Refusal> {
    let Some(facts) = room.pools.get(pool) else {
        let has = room.pools.keys().cloned().collect();
        return Err(Refusal::NoPool { pool: pool.clone(), has });
    };
    match &facts.unavailable {
        Some(why) => Err(Refusal::PoolUnavailable { pool: pool.clone(), why: why.clone() }),
        None => Ok(facts),
    }
}

fn pool_full(pool: &PoolName, asked_bytes: u64, facts: &PoolFacts) -> Refusal {
    Refusal::PoolFull {
        pool: pool.clone(),
        asked_bytes,
        free_bytes: facts.room_bytes(),
        capacity_bytes: facts.capacity_bytes,
    }
}

/// An adopted VM is on its networks already, whatever they are.
fn admit_networks(room: Room<'_>, spec: &JobSpec) -> Result<(), Refusal> {
    let (Some(networks), None) = (room.networks, spec.adopted()) else { return Ok(()) };
    let nics = spec.as_vm().map_or(&[][..], |vm| &vm.nics);
    for nic in nics {
        let Plug::Libvirt { name } = &nic.plug else { continue };
        let facts = networks.get(name);
        if facts.is_some_and(|facts| facts.is_up) {
            continue;
        }
        let down = || "libvirt has not started it".to_owned();
        let trouble = facts.map(|facts| facts.trouble.clone().unwrap_or_else(down));
        let up = networks.iter().filter(|(_, facts)| facts.is_up);
        let has = up.map(|(name, _)| name.clone()).collect();
        return Err(Refusal::NoNetwork { network: name.clone(), trouble, has });
    }
    Ok(())
}

fn admit_images(room: Room<'_>, spec: &JobSpec, arrival: Arrival) -> Result<(), Refusal> {
    let disks = spec.as_vm().map_or(&[][..], |vm| &vm.disks);
    for disk in disks.iter().filter(|disk| is_made(room, disk, arrival)) {
        let Some(image) = &disk.image else { continue };
        let Some(facts) = room.images.get(image) else {
            return Err(Refusal::NoImage { image: image.clone() });
        };
        if disk.size_bytes < facts.virtual_bytes {
            return Err(Refusal::DiskTooSmall {
                disk: disk.name.clone(),
                image: image.clone(),
                asked_bytes: disk.size_bytes,
                needed_bytes: facts.virtual_bytes,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hugepages::{HugepageFacts, PageSize};
    use crate::signed::Digest;
    use crate::vm::SizeChange;

    const GIB: u64 = 1 << 30;
    static NO_POOLS: BTreeMap<PoolName, PoolFacts> = BTreeMap::new();
    static NO_HUGEPAGES: Hugepages = Hugepages::new();
    static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

    fn spec(vcpus: u32, image: Option<&str>) -> JobSpec {
        let image = image.map(|i| ImageName::new(i).unwrap());
        JobSpec::vm(VmSpec {
            vcpus,
            memory_bytes: 1 << 30,
            disks: vec![DiskSpec {
                name: "root".into(),
                size_bytes: 1 << 30,
                image,
                ..DiskSpec::default()
            }],
            nics: vec![],
            ..VmSpec::default()
        })
    }

    fn room(images: &BTreeMap<ImageName, ImageFacts>) -> Room<'_> {
        Room {
            capacity: Resources { vcpus: 4, memory_bytes: 4 << 30, disk_bytes: 8 << 30 },
            allocation: Resources { vcpus: 2, memory_bytes: 1 << 30, disk_bytes: 0 },
            hugepages: &NO_HUGEPAGES,
            pages: Pages::NONE,
            dedicated_cpus: DedicatedCpus::NONE,
            images,
            pools: &NO_POOLS,
            networks: None,
            labels: &NO_LABELS,
            policy: None,
            can_receive: false,
            can_guard: false,
        }
    }

    #[test]
    fn the_last_free_cpu_is_given_and_the_next_is_refused_with_numbers() {
        let none = BTreeMap::new();
        assert_eq!(admit(room(&none), &spec(2, None), Arrival::Start), Ok(()));
        let Err(Refusal::NoCapacity { asked, free, .. }) =
            admit(room(&none), &spec(3, None), Arrival::Start)
        else {
            panic!("3 of 2 free cpus were admitted");
        };
        assert_eq!((asked.vcpus, free.vcpus), (3, 2));
    }

    fn in_pages(memory_bytes: u64) -> JobSpec {
        let mut spec = spec(1, None);
        let vm = spec.as_vm_mut().unwrap();
        (vm.memory_bytes, vm.hardware.hugepages_kib) = (memory_bytes, Some(2048));
        spec
    }

    fn hugepages(total: u64, others: u64) -> Hugepages {
        Hugepages::from([(PageSize::MIB2, HugepageFacts { total, promised: 0, others })])
    }

    #[test]
    fn huge_pages_are_given_while_there_are_some_and_refused_with_numbers() {
        let (none, hugepages) = (BTreeMap::new(), hugepages(64, 8));
        let room =
            Room { hugepages: &hugepages, pages: Pages { mib2: 32, gib1: 0 }, ..room(&none) };
        let ask = |mib: u64, how| admit(room, &in_pages(mib << 20), how);
        assert_eq!(ask(48, Arrival::Start), Ok(()));
        let no = Refusal::NoHugepages { page_size: PageSize::MIB2, asked: 25, free: 24, total: 64 };
        // Rounded up to whole pages, whether it runs already elsewhere or not.
        let room = Room { can_receive: true, ..room };
        for how in [Arrival::Start, Arrival::StartAgain, Arrival::Migrate] {
            assert_eq!(admit(room, &in_pages(49 << 20), how), Err(no.clone()));
        }
        let nowhere = Room { hugepages: &NO_HUGEPAGES, pages: Pages::NONE, ..room };
        let no = admit(nowhere, &in_pages(2 << 20), Arrival::Start);
        assert!(matches!(no, Err(Refusal::Invalid { .. })), "less than any VM has: {no:?}");
        let no = admit(nowhere, &in_pages(64 << 20), Arrival::Start);
        assert!(
            matches!(no, Err(Refusal::NoHugepages { asked: 32, free: 0, total: 0, .. })),
            "{no:?}"
        );
    }

    #[test]
    fn what_is_in_huge_pages_takes_no_other_memory_and_no_other_memory_will_do() {
        let (none, hugepages) = (BTreeMap::new(), hugepages(512, 0));
        let full = Resources { memory_bytes: 4 * GIB, ..Resources::ZERO };
        let full = Room { allocation: full, hugepages: &hugepages, ..room(&none) };
        assert_eq!(admit(full, &in_pages(GIB), Arrival::Start), Ok(()));
        assert!(matches!(
            admit(full, &spec(1, None), Arrival::Start),
            Err(Refusal::NoCapacity { .. })
        ));
        let taken = Room { pages: Pages { mib2: 512, gib1: 0 }, ..full };
        let no =
            admit(Room { allocation: Resources::ZERO, ..taken }, &in_pages(GIB), Arrival::Start);
        assert!(matches!(no, Err(Refusal::NoHugepages { free: 0, .. })), "{no:?}");
        // The CPUs are counted as ever.
        let all = Resources { vcpus: 4, ..Resources::ZERO };
        let no = admit(Room { allocation: all, ..full }, &in_pages(GIB), Arrival::Start);
        assert!(matches!(no, Err(Refusal::NoCapacity { .. })), "{no:?}");
    }

    #[test]
    fn what_is_in_huge_pages_grows_into_those_that_are_left_and_gives_up_at_any_time() {
        let (none, job) = (BTreeMap::new(), JobId::new("web-1").unwrap());
        // Of 64 pages others have 20, it has 32: it could have 44.
        let (from, hugepages) = (in_pages(64 << 20), hugepages(64, 0));
        let others = Pages { mib2: 20, gib1: 0 };
        let room = Room { hugepages: &hugepages, pages: others, ..room(&none) };
        let resize = |room: Room<'_>, promised, mib: u64| {
            let to = from.with_size(|size| Size { memory_bytes: mib << 20, ..size }).unwrap();
            admit_resize(room, (&job, alive_if(promised)), &from, promised, &to)
        };
        let promised = Some(from.resources());
        assert_eq!(resize(room, promised, 88), Ok(()));
        let no = resize(room, promised, 90);
        let expected =
            Refusal::NoHugepages { page_size: PageSize::MIB2, asked: 45, free: 44, total: 64 };
        assert_eq!(no, Err(expected));
        // Somebody has taken pages out of the pool meanwhile.
        let shrunk = Room { pages: Pages { mib2: 60, gib1: 0 }, ..room };
        assert_eq!(resize(shrunk, promised, 64), Ok(()));
        assert_eq!(resize(shrunk, promised, 32), Ok(()));
        assert!(resize(shrunk, promised, 66).is_err());
        assert_eq!(resize(shrunk, None, 512), Ok(()), "its next start is asked");
    }

    fn dedicated(vcpus: u32) -> JobSpec {
        let mut spec = spec(vcpus, None);
        spec.as_vm_mut().unwrap().hardware.dedicated_cpus = true;
        spec
    }

    #[test]
    fn dedicated_cpus_are_given_while_there_are_some_and_refused_with_numbers() {
        let none = BTreeMap::new();
        let dedicated_cpus = DedicatedCpus { total: 4, promised: 1 };
        let room = Room { dedicated_cpus, can_receive: true, ..room(&none) };
        let no = Refusal::NoDedicatedCpus { asked: 4, free: 3, total: 4 };
        for how in [Arrival::Start, Arrival::StartAgain, Arrival::Migrate] {
            assert_eq!(admit(room, &dedicated(3), how), Ok(()));
            assert_eq!(admit(room, &dedicated(4), how), Err(no.clone()));
        }
        let nowhere = Room { dedicated_cpus: DedicatedCpus::NONE, ..room };
        let no = Refusal::NoDedicatedCpus { asked: 1, free: 0, total: 0 };
        assert_eq!(admit(nowhere, &dedicated(1), Arrival::Start), Err(no));
        // The operator has taken some away, and more are promised than there are.
        let dedicated_cpus = DedicatedCpus { total: 1, promised: 3 };
        let no = Refusal::NoDedicatedCpus { asked: 1, free: 0, total: 1 };
        let shrunk = Room { dedicated_cpus, ..room };
        assert_eq!(admit(shrunk, &dedicated(1), Arrival::Start), Err(no));
    }

    #[test]
    fn dedicated_cpus_take_none_that_others_share_and_no_shared_ones_will_do() {
        let none = BTreeMap::new();
        let dedicated_cpus = DedicatedCpus { total: 8, promised: 0 };
        let all = Resources { vcpus: 4, ..Resources::ZERO };
        let full = Room { allocation: all, dedicated_cpus, ..room(&none) };
        assert_eq!(admit(full, &dedicated(8), Arrival::Start), Ok(()), "more than are shared");
        let no = admit(full, &spec(1, None), Arrival::Start);
        assert!(matches!(no, Err(Refusal::NoCapacity { .. })), "{no:?}");
        let dedicated_cpus = DedicatedCpus { total: 8, promised: 8 };
        let taken = Room { allocation: Resources::ZERO, dedicated_cpus, ..full };
        let no = admit(taken, &dedicated(1), Arrival::Start);
        assert!(matches!(no, Err(Refusal::NoDedicatedCpus { free: 0, .. })), "{no:?}");
        // The memory is counted as ever.
        let all = Resources { memory_bytes: 4 * GIB, ..Resources::ZERO };
        let no = admit(Room { allocation: all, ..full }, &dedicated(1), Arrival::Start);
        assert!(matches!(no, Err(Refusal::NoCapacity { .. })), "{no:?}");
    }

    #[test]
    fn dedicated_cpus_grow_into_those_that_are_left_and_are_given_up_at_any_time() {
        let (none, job) = (BTreeMap::new(), JobId::new("web-1").unwrap());
        // Of 4 others have 1, it has 2: it could have 3.
        let from = dedicated(2);
        let cpus = |total, promised| {
            let dedicated_cpus = DedicatedCpus { total, promised };
            Room { dedicated_cpus, ..room(&none) }
        };
        let resize = |room: Room<'_>, promised, vcpus| {
            let to = from.with_size(|size| Size { vcpus, ..size }).unwrap();
            admit_resize(room, (&job, alive_if(promised)), &from, promised, &to)
        };
        let promised = Some(from.resources());
        assert_eq!(resize(cpus(4, 1), promised, 3), Ok(()));
        let no = Refusal::NoDedicatedCpus { asked: 4, free: 3, total: 4 };
        assert_eq!(resize(cpus(4, 1), promised, 4), Err(no));
        // The operator has taken some away meanwhile.
        assert_eq!(resize(cpus(2, 2), promised, 2), Ok(()));
        assert_eq!(resize(cpus(2, 2), promised, 1), Ok(()));
        assert!(resize(cpus(2, 2), promised, 3).is_err());
        assert_eq!(resize(cpus(4, 1), None, 40), Ok(()), "its next start is asked");
    }

    #[test]
    fn an_image_must_be_here_and_fit_its_disk() {
        let image = ImageName::new("big").unwrap();
        let facts = ImageFacts {
            sha256: Digest::of(b""),
            file_bytes: 1,
            virtual_bytes: 2 << 30,
            format: None,
        };
        let images = BTreeMap::from([(image.clone(), facts)]);
        let ask = |name| admit(room(&images), &spec(1, Some(name)), Arrival::Start);
        assert!(matches!(ask("big"), Err(Refusal::DiskTooSmall { .. })));
        assert!(matches!(ask("absent"), Err(Refusal::NoImage { .. })));
        let again = admit(room(&images), &spec(1, Some("absent")), Arrival::StartAgain);
        assert_eq!(again, Ok(()), "its disks are there already");
    }

    #[test]
    fn a_host_that_cannot_receive_says_so() {
        let none = BTreeMap::new();
        let answer = admit(room(&none), &spec(1, None), Arrival::Migrate);
        assert!(matches!(answer, Err(Refusal::Unsupported { .. })));
    }

    fn alive_if(promised: Option<Resources>) -> JobState {
        if promised.is_some() { JobState::Running } else { JobState::Stopped }
    }

    /// A job of 2 CPUs and 1 GiB in [`room`], without the job itself: 2 CPUs and 2 GiB are others'.
    fn resize(promised: Option<Resources>, vcpus: u32, memory_bytes: u64) -> Result<(), Refusal> {
        let none = BTreeMap::new();
        let others = Resources { vcpus: 2, memory_bytes: 2 * GIB, disk_bytes: 0 };
        let room = Room { allocation: others, ..room(&none) };
        let (job, from) = (JobId::new("web-1").unwrap(), spec(2, None));
        let to = from.with_size(|size| Size { vcpus, memory_bytes, ..size }).unwrap();
        admit_resize(room, (&job, alive_if(promised)), &from, promised, &to)
    }

    #[test]
    fn a_job_grows_into_what_is_left_and_a_refusal_says_how_far() {
        let promised = Some(spec(2, None).resources());
        assert_eq!(resize(promised, 2, 2 * GIB), Ok(()));
        let Err(Refusal::NoRoomToGrow { asked, at_most, .. }) = resize(promised, 3, 4 * GIB) else {
            panic!("3 of 2 cpus and 4 of 2 GiB were admitted");
        };
        assert_eq!((asked.vcpus, asked.memory_bytes), (3, 4 * GIB));
        assert_eq!((at_most.vcpus, at_most.memory_bytes), (2, 2 * GIB));
    }

    #[test]
    fn giving_up_is_admitted_where_too_much_is_promised() {
        let has = Resources { vcpus: 4, memory_bytes: 8 * GIB, disk_bytes: GIB };
        assert_eq!(resize(Some(has), 1, GIB), Ok(()));
        // What it has not given up yet is its own still.
        assert_eq!(resize(Some(has), 4, GIB), Ok(()));
        assert!(resize(Some(has), 5, GIB).is_err());
    }

    #[test]
    fn what_has_ended_may_have_any_size_that_makes_sense() {
        assert_eq!(resize(None, 200, 64 * GIB), Ok(()));
        assert!(matches!(resize(None, 0, GIB), Err(Refusal::Invalid { .. })));
    }

    #[test]
    fn a_resize_changes_nothing_else() {
        let none = BTreeMap::new();
        let (job, from) = (JobId::new("web-1").unwrap(), spec(2, None));
        let mut other = from.clone();
        other.labels.insert("tier".into(), "web".into());
        let answer = admit_resize(room(&none), (&job, JobState::Stopped), &from, None, &other);
        assert!(matches!(answer, Err(Refusal::Invalid { .. })));
    }

    #[test]
    fn a_disk_grows_into_what_is_left_and_never_shrinks() {
        let none = BTreeMap::new();
        let (job, from) = (JobId::new("web-1").unwrap(), spec(2, None));
        // 8 GiB in all, of which others have 5 and it has 1.
        let others = Resources { vcpus: 2, memory_bytes: 0, disk_bytes: 5 * GIB };
        let room = Room { allocation: others, ..room(&none) };
        let grow = |promised, from: &JobSpec, disk: &str, size_bytes| {
            let disks = BTreeMap::from([(disk.to_owned(), size_bytes)]);
            let to = from.changed(&job, &SizeChange { disks, ..SizeChange::default() }).ok()??;
            Some(admit_resize(room, (&job, alive_if(promised)), from, promised, &to))
        };
        // Whether it is alive or has ended: its disk stays.
        for promised in [Some(from.resources()), None] {
            assert_eq!(grow(promised, &from, "root", 3 * GIB), Some(Ok(())));
            let Some(Err(Refusal::NoRoomToGrow { asked, at_most, .. })) =
                grow(promised, &from, "root", 4 * GIB)
            else {
                panic!("4 of 3 GiB were admitted");
            };
            assert_eq!((asked.disk_bytes, at_most.disk_bytes), (4 * GIB, 3 * GIB));
            let shrunk = grow(promised, &from, "root", GIB / 2);
            assert!(matches!(shrunk, Some(Err(Refusal::DiskShrinks { .. }))), "{shrunk:?}");
        }
        assert_eq!(grow(None, &from, "data", GIB), None, "there is no such disk");
    }

    #[test]
    fn a_disk_in_a_pool_grows_into_what_the_pool_has_left_and_takes_nothing_of_its_host() {
        let (none, from) = (BTreeMap::new(), in_pool(GIB, OnLoss::Keep));
        let job = JobId::new("web-1").unwrap();
        let full = Resources { disk_bytes: 8 * GIB, ..Resources::ZERO };
        let grow = |pools: &BTreeMap<_, _>, promised, size_bytes| {
            let room = Room { pools, allocation: full, ..room(&none) };
            let disks = BTreeMap::from([("root".to_owned(), size_bytes)]);
            let to = from
                .changed(&job, &SizeChange { disks, ..SizeChange::default() })
                .unwrap()
                .unwrap();
            admit_resize(room, (&job, alive_if(promised)), &from, promised, &to)
        };
        // The pool can promise 1 GiB more.
        for promised in [Some(from.resources()), None] {
            assert_eq!(grow(&pool(true, None), promised, 2 * GIB), Ok(()));
            let no = grow(&pool(true, None), promised, 3 * GIB);
            let Err(Refusal::PoolFull { asked_bytes, free_bytes, .. }) = no else {
                panic!("2 of 1 GiB were admitted: {no:?}");
            };
            assert_eq!((asked_bytes, free_bytes), (2 * GIB, GIB));
            let no = grow(&pool(true, Some("it is not mounted")), promised, 2 * GIB);
            assert!(matches!(no, Err(Refusal::PoolUnavailable { .. })), "{no:?}");
            let no = grow(&BTreeMap::new(), promised, 2 * GIB);
            assert!(matches!(no, Err(Refusal::NoPool { .. })), "{no:?}");
            assert_eq!(grow(&BTreeMap::new(), promised, GIB), Ok(()), "nothing grows there");
        }
    }

    fn pool(is_shared: bool, unavailable: Option<&str>) -> BTreeMap<PoolName, PoolFacts> {
        let facts = PoolFacts {
            id: uuid::Uuid::from_u128(1),
            is_shared,
            path: "/srv/nfs".into(),
            unavailable: unavailable.map(str::to_owned),
            capacity_bytes: 4 * GIB,
            promised_bytes: 3 * GIB,
            free_bytes: 2 * GIB,
            labels: BTreeMap::new(),
        };
        BTreeMap::from([("nfs".parse().unwrap(), facts)])
    }

    fn in_pool(size_bytes: u64, on_loss: OnLoss) -> JobSpec {
        let pool = Some("nfs".parse().unwrap());
        let disk = DiskSpec { name: "root".into(), size_bytes, pool, ..DiskSpec::default() };
        let disks = vec![disk];
        JobSpec::vm(VmSpec { vcpus: 1, memory_bytes: GIB, disks, on_loss, ..VmSpec::default() })
    }

    #[test]
    fn a_disk_in_a_pool_takes_room_there_and_none_of_its_host() {
        let (none, pools) = (BTreeMap::new(), pool(false, None));
        let full = Resources { disk_bytes: 8 * GIB, ..Resources::ZERO };
        let room = Room { pools: &pools, allocation: full, ..room(&none) };
        let ask = |bytes, how| admit(room, &in_pool(bytes, OnLoss::Keep), how);
        assert_eq!(ask(GIB, Arrival::Start), Ok(()));
        let full = ask(2 * GIB, Arrival::Start);
        assert!(matches!(full, Err(Refusal::PoolFull { free_bytes: GIB, .. })), "{full:?}");
        assert_eq!(ask(2 * GIB, Arrival::StartAgain), Ok(()), "it is in there already");
    }

    #[test]
    fn a_pool_that_is_not_here_or_not_available_or_not_shared_is_refused_by_name() {
        let none = BTreeMap::new();
        let ask = |pools: &BTreeMap<_, _>, on_loss, how| {
            let room = Room { pools, can_guard: true, can_receive: true, ..room(&none) };
            admit(room, &in_pool(GIB, on_loss), how)
        };
        let absent = ask(&BTreeMap::new(), OnLoss::Keep, Arrival::Start);
        assert!(matches!(absent, Err(Refusal::NoPool { .. })), "{absent:?}");
        let gone = ask(&pool(true, Some("it is not mounted")), OnLoss::Keep, Arrival::StartAgain);
        assert!(matches!(gone, Err(Refusal::PoolUnavailable { .. })), "{gone:?}");
        let own = ask(&pool(false, None), OnLoss::Stop, Arrival::Start);
        assert!(matches!(own, Err(Refusal::Unsupported { .. })), "{own:?}");
        let own = ask(&pool(false, None), OnLoss::Keep, Arrival::StartOnShared);
        assert!(matches!(own, Err(Refusal::Unsupported { .. })), "{own:?}");
        for how in [Arrival::Start, Arrival::StartOnShared, Arrival::Migrate] {
            assert_eq!(ask(&pool(true, None), OnLoss::Stop, how), Ok(()));
        }
    }

    #[test]
    fn what_is_found_in_a_shared_pool_needs_neither_room_nor_image() {
        let (none, pools) = (BTreeMap::new(), pool(true, None));
        let room = Room { pools: &pools, can_receive: true, ..room(&none) };
        let mut spec = in_pool(2 * GIB, OnLoss::Keep);
        if let crate::job::JobKind::Vm(vm) = &mut spec.kind {
            vm.disks[0].image = Some(ImageName::new("absent").unwrap());
        }
        for how in [Arrival::StartOnShared, Arrival::Migrate] {
            assert_eq!(admit(room, &spec, how), Ok(()), "{how:?}");
        }
        assert!(matches!(admit(room, &spec, Arrival::Start), Err(Refusal::PoolFull { .. })));
    }

    #[test]
    fn disks_and_cards_come_and_go_at_any_time_but_for_the_one_that_a_guest_has_started_from() {
        let none = BTreeMap::new();
        let (job, from) = (JobId::new("web-1").unwrap(), spec(2, None));
        let ask = |state, from: &JobSpec, change: SizeChange| {
            let to = from.changed(&job, &change).unwrap().unwrap();
            admit_resize(room(&none), (&job, state), from, Some(from.resources()), &to).map(|()| to)
        };
        let data = DiskSpec { name: "data".into(), size_bytes: GIB, ..DiskSpec::default() };
        let mac = Some("52:54:00:00:00:01".to_owned());
        let add = |disk: DiskSpec| SizeChange { add_disks: vec![disk], ..SizeChange::default() };
        let nic = NicSpec { mac, ..Plug::User.into() };
        let more = SizeChange { add_nics: vec![nic], ..add(data.clone()) };
        let with = ask(JobState::Running, &from, more).unwrap();
        assert_eq!(with.resources().disk_bytes, from.resources().disk_bytes + GIB);
        let huge = DiskSpec { size_bytes: 64 * GIB, ..data.clone() };
        let no = ask(JobState::Running, &from, add(huge));
        assert!(matches!(no, Err(Refusal::NoRoomToGrow { .. })), "{no:?}");
        let image = Some("debian-13".parse().unwrap());
        let no = ask(JobState::Running, &from, add(DiskSpec { image, ..data.clone() }));
        assert!(matches!(no, Err(Refusal::NoImage { .. })), "{no:?}");
        let pool = Some("fast".parse().unwrap());
        let no = ask(JobState::Running, &from, add(DiskSpec { pool, ..data }));
        assert!(matches!(no, Err(Refusal::Unsupported { .. })), "{no:?}");

        let less = |disk: &str| SizeChange {
            remove_disks: vec![disk.to_owned()],
            ..SizeChange::default()
        };
        assert!(ask(JobState::Running, &with, less("data")).is_ok());
        assert!(ask(JobState::Stopped, &with, less("data")).is_ok());
        let root = with.as_vm().unwrap().disks[0].name.clone();
        let no = ask(JobState::Running, &with, less(&root));
        assert!(matches!(no, Err(Refusal::WrongState { .. })), "{no:?}");
        assert!(ask(JobState::Stopped, &with, less(&root)).is_ok());
        let named = DiskSpec { name: "other".into(), size_bytes: GIB, ..DiskSpec::default() };
        let both = SizeChange { add_disks: vec![named], ..less("data") };
        let no = ask(JobState::Running, &with, both.clone());
        assert!(matches!(no, Err(Refusal::WrongState { .. })), "{no:?}");
        assert!(ask(JobState::Stopped, &with, both).is_ok());
        let nics = SizeChange {
            remove_nics: with.as_vm().unwrap().macs(job.domain_uuid()),
            ..SizeChange::default()
        };
        assert!(ask(JobState::Paused, &with, nics.clone()).is_ok());
        assert!(ask(JobState::Crashed, &with, nics).is_ok());
        // A disk that stays is what it was, where it was.
        let mut to = with.clone();
        to.as_vm_mut().unwrap().disks.swap(0, 1);
        let no = admit_resize(room(&none), (&job, JobState::Stopped), &with, None, &to);
        assert!(matches!(no, Err(Refusal::Invalid { .. })), "{no:?}");
    }
}
