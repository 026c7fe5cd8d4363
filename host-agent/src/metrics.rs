//! What an agent tells Prometheus: what the host has promised, its jobs, and what guests use.
//!
//! Nothing is counted here: each scrape is a table of what is published and of what the hypervisor has
//! counted.

use std::sync::Arc;
use std::time::Duration;

use protocol::cpus::DedicatedCpus;
use protocol::host::Host;
use protocol::hugepages::{HugepageFacts, Hugepages, PageSize};
use protocol::job::JobState;
use protocol::resources::Resources;
use protocol::usage::{DiskUsage, GuestUsage, MachineUsage, NicUsage, Usage};
use transport::metrics::{Family, count, counters, gauge, gauges, number, sample, text, yes};

/// What one scrape shows.
#[derive(Debug)]
pub(crate) struct Scrape {
    /// The host as published.
    pub host: Arc<Host>,
    /// The state of each job.
    pub states: Vec<JobState>,
    /// Who follows its events now.
    pub subscribers: usize,
    /// Calls to the hypervisor that have not come back.
    pub hung_calls: usize,
    /// Files of the ledger that were damaged and mended, until somebody removes them.
    pub damaged_files: usize,
    /// Keepers that hung and were killed, since the agent began.
    pub replaced_keepers: usize,
    /// What is used, unless the hypervisor did not say.
    pub usage: Option<Arc<Usage>>,
}

impl Scrape {
    /// In Prometheus' text format.
    pub(crate) fn text(self) -> String {
        text("ostler_agent", self.families())
    }

    fn families(&self) -> Vec<Family> {
        let Host { capacity, allocation, trust_version, .. } = &*self.host;
        let state = |state: JobState| {
            let number = self.states.iter().filter(|one| **one == state).count();
            sample([("state", state.as_str())], count(number))
        };
        let mut all = vec![
            vcpus("capacity_vcpus", "CPUs that the host has for guests", capacity),
            memory("capacity_memory", "Memory that the host has for guests", capacity),
            disk("capacity_disk", "Disk space that the host has for guests", capacity),
            vcpus("promised_vcpus", "CPUs that the host has promised to guests", allocation),
            memory("promised_memory", "Memory that the host has promised to guests", allocation),
            disk("promised_disk", "Disk space that the host has promised to guests", allocation),
            gauges("jobs", "Jobs by state", JobState::ALL.into_iter().map(state)),
            gauge(
                "trust_version",
                "Version of the trust document in force; 0 without one",
                number(trust_version.unwrap_or(0)),
            ),
            gauge("event_subscribers", "Followers of the host's events", count(self.subscribers)),
            gauge(
                "hypervisor_hung_calls",
                "Calls to the hypervisor that have not come back",
                count(self.hung_calls),
            ),
            gauge(
                "ledger_damaged_files",
                "Files of the ledger that were damaged and made anew, and are kept to be looked at",
                count(self.damaged_files),
            ),
            gauge(
                "keepers_replaced",
                "Keepers that hung and were killed, since the agent began",
                count(self.replaced_keepers),
            ),
            gauge(
                "usage_known",
                "1 if the hypervisor has said what guests use",
                yes(self.usage.is_some()),
            ),
        ];
        all.extend(of_hugepages(&self.host.hugepages));
        all.extend(of_dedicated(self.host.dedicated_cpus));
        if let Some(usage) = &self.usage {
            all.extend(of_machine(&usage.machine));
            all.extend(of_guests(&usage.guests));
        }
        all
    }
}

fn of_hugepages(hugepages: &Hugepages) -> [Family; 3] {
    let pages = |name, help, count: fn(&HugepageFacts) -> u64| {
        let sample = |(size, facts): (&PageSize, &HugepageFacts)| {
            sample([("size", &*size.to_string())], number(count(facts)))
        };
        gauges(name, help, hugepages.iter().map(sample))
    };
    [
        pages("hugepages", "Huge pages that the host has set aside", |facts| facts.total),
        pages("hugepages_promised", "Huge pages that are promised to guests", |f| f.promised),
        pages("hugepages_free", "Huge pages that can still be promised", |facts| facts.free()),
    ]
}

fn of_dedicated(cpus: DedicatedCpus) -> [Family; 2] {
    [
        gauge(
            "dedicated_cpus",
            "CPUs that the host gives to guests for themselves",
            f64::from(cpus.total),
        ),
        gauge(
            "dedicated_cpus_promised",
            "CPUs that are promised to guests for themselves",
            f64::from(cpus.promised),
        ),
    ]
}

fn of_machine(machine: &MachineUsage) -> Vec<Family> {
    let help = "Memory of the machine that could be given to new processes";
    let available = gauge("machine_memory_available", help, number(machine.memory_available_bytes));
    let help = "Processes that ran or waited for a disk, on average over the last minute";
    let load = gauge("machine_load1", help, machine.load_1m);
    let help = "CPUs of the machine, as its kernel counts them";
    let cpus = machine.cpus.map(|cpus| gauge("machine_cpus", help, f64::from(cpus)));
    [available.in_bytes(), load].into_iter().chain(cpus).collect()
}

fn of_guests(guests: &[GuestUsage]) -> Vec<Family> {
    let seconds = |cpu_ns| Duration::from_nanos(cpu_ns).as_secs_f64();
    let cpu =
        |guest: &GuestUsage| guest.cpu_ns.map(|ns| sample([("vm", &guest.name)], seconds(ns)));
    let resident = |guest: &GuestUsage| {
        guest.memory_bytes.map(|bytes| sample([("vm", &guest.name)], number(bytes)))
    };
    let mut all = vec![
        counters("vm_cpu", "CPU time of a guest", guests.iter().filter_map(cpu)).in_seconds(),
        gauges(
            "vm_memory_resident",
            "Memory of the host that a guest has",
            guests.iter().filter_map(resident),
        )
        .in_bytes(),
    ];
    let disks = || guests.iter().flat_map(|guest| guest.disks.iter().map(move |one| (guest, one)));
    let of_disks = |name, help, read: fn(&DiskUsage) -> u64| {
        let samples = disks().map(|(guest, disk)| {
            sample([("vm", &*guest.name), ("device", &*disk.device)], number(read(disk)))
        });
        counters(name, help, samples)
    };
    all.extend([
        of_disks("vm_disk_read", "Read from a disk", |disk| disk.read_bytes).in_bytes(),
        of_disks("vm_disk_written", "Written to a disk", |disk| disk.written_bytes).in_bytes(),
        of_disks("vm_disk_reads", "Reads from a disk", |disk| disk.reads),
        of_disks("vm_disk_writes", "Writes to a disk", |disk| disk.writes),
    ]);
    let nics = || guests.iter().flat_map(|guest| guest.nics.iter().map(move |one| (guest, one)));
    let of_nics = |name, help, read: fn(&NicUsage) -> u64| {
        let samples = nics().map(|(guest, nic)| {
            sample([("vm", &*guest.name), ("device", &*nic.device)], number(read(nic)))
        });
        counters(name, help, samples)
    };
    all.extend([
        of_nics("vm_network_receive", "Received by a guest", |nic| nic.received_bytes).in_bytes(),
        of_nics("vm_network_transmit", "Sent by a guest", |nic| nic.sent_bytes).in_bytes(),
        of_nics("vm_network_receive_packets", "Packets to a guest", |nic| nic.received_packets),
        of_nics("vm_network_transmit_packets", "Packets of a guest", |nic| nic.sent_packets),
        of_nics("vm_network_dropped_packets", "Packets dropped", |nic| nic.dropped_packets),
    ]);
    all
}

fn vcpus(name: &'static str, help: &'static str, of: &Resources) -> Family {
    gauge(name, help, f64::from(of.vcpus))
}

fn memory(name: &'static str, help: &'static str, of: &Resources) -> Family {
    gauge(name, help, number(of.memory_bytes)).in_bytes()
}

fn disk(name: &'static str, help: &'static str, of: &Resources) -> Family {
    gauge(name, help, number(of.disk_bytes)).in_bytes()
}
