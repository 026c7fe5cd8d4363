//! Scripts of counters, and what is known of them.

use proptest::prelude::*;
use protocol::host::{Host, Inventory};
use protocol::id::{Cursor, Epoch};
use protocol::job::{Job, JobSpec};
use protocol::signed::SecretKey;
use protocol::usage::MachineUsage;
use protocol::view::View;
use protocol::vm::VmSpec;

use super::*;

const SECOND_NS: u64 = 1_000_000_000;

fn id(name: &str) -> JobId {
    name.parse().unwrap()
}

fn host(n: u8) -> HostId {
    Host::of_key(SecretKey::from_seed([n; 32]).public()).id
}

/// What is known of a host with these jobs.
fn row(n: u8, jobs: &[(&str, JobState)]) -> HostRow {
    let host = Host::of_key(SecretKey::from_seed([n; 32]).public());
    let of = |(name, state): &(&str, JobState)| {
        Job::of(id(name), JobSpec::vm(VmSpec::default()), *state)
    };
    let (jobs, id) = (jobs.iter().map(of).collect(), host.id.clone());
    let cursor = Cursor { epoch: Epoch(1), seq: 1 };
    let mut view = View::default();
    view.merge_inventory(Inventory { cursor, host, jobs, observed: vec![] });
    view.host(&id).unwrap().clone()
}

fn guest(name: &str, cpu_ns: impl Into<Option<u64>>) -> GuestUsage {
    let job = (!name.starts_with("observed")).then(|| id(name));
    GuestUsage { name: name.to_owned(), job, cpu_ns: cpu_ns.into(), ..GuestUsage::default() }
}

fn usage(at_s: u64, guests: Vec<GuestUsage>) -> Usage {
    let machine = MachineUsage { cpus: Some(4), memory_available_bytes: 0, load_1m: 0.0 };
    Usage { at_ms: at_s * 1_000, machine, guests }
}

/// What a VM that keeps so many CPUs busy has used after so many seconds.
fn busy(name: &str, cpus: u64, seconds: u64) -> GuestUsage {
    guest(name, cpus * seconds * SECOND_NS)
}

const RUNNING: &[(&str, JobState)] = &[("web", JobState::Running)];

fn vm(gauge: &mut Gauge, at_s: u64) -> Option<(u64, u64)> {
    let used = gauge.used(at_s * 1_000);
    used.vms.get(&id("web")).map(|known| (known.cpu_millis, known.watched_ms / 1_000))
}

#[test]
fn two_readings_are_needed_and_then_it_is_known_for_as_long_as_they_go_on() {
    let (mut gauge, row) = (Gauge::default(), row(1, RUNNING));
    gauge.take(0, &row, &usage(100, vec![busy("web", 2, 0)]));
    assert!(gauge.used(0).is_empty());
    for n in 1..=12 {
        // The host's clock is its own.
        gauge.take(n * 10_000, &row, &usage(100 + n * 10, vec![busy("web", 2, n * 10)]));
        assert_eq!(vm(&mut gauge, n * 10), Some((2_000, n * 10)));
    }
    let of_host = HostUse { cpus: 4, others_cpu_millis: 0 };
    assert_eq!(gauge.used(120_000).hosts, BTreeMap::from([(host(1), of_host)]));
    assert_eq!(vm(&mut gauge, 210), Some((2_000, 120)), "for a while it counts");
    assert!(gauge.used(210_001).is_empty(), "and then it is known no more");
}

#[test]
fn a_moments_work_hardly_shows_and_what_lasts_does() {
    let (mut gauge, row) = (Gauge::default(), row(1, RUNNING));
    let mut cpu_ns = 0;
    let mut read = |gauge: &mut Gauge, at_s: u64, cpus_millis: u64| {
        cpu_ns += cpus_millis * 10_000_000;
        gauge.take(at_s * 1_000, &row, &usage(at_s, vec![guest("web", cpu_ns)]));
        vm(gauge, at_s).map_or(0, |(cpu_millis, _)| cpu_millis)
    };
    for at_s in (0..=300).step_by(10) {
        read(&mut gauge, at_s, 100);
    }
    let burst = read(&mut gauge, 310, 4_000);
    assert!((100..450).contains(&burst), "{burst}");
    for at_s in (320..=640).step_by(10) {
        read(&mut gauge, at_s, 100);
    }
    let calm = read(&mut gauge, 650, 100);
    assert!(calm < 130, "{calm}");
    let mut last = calm;
    for at_s in (660..=900).step_by(10) {
        let next = read(&mut gauge, at_s, 4_000);
        assert!(next > last, "{next} after {last}");
        last = next;
    }
    assert!(last > 3_300, "{last}");
}

#[test]
fn what_a_vm_uses_goes_with_it_and_its_way_is_not_counted() {
    let mut gauge = Gauge::default();
    for at_s in (0..=100).step_by(10) {
        gauge.take(at_s * 1_000, &row(1, RUNNING), &usage(at_s, vec![busy("web", 1, at_s)]));
        gauge.take(at_s * 1_000, &row(2, &[]), &usage(at_s, vec![]));
    }
    assert_eq!(vm(&mut gauge, 100), Some((1_000, 100)));
    // Sent at the cost of three CPUs more, to a process that waits.
    let leaving = row(1, &[("web", JobState::MigratingOut)]);
    let coming = row(2, &[("web", JobState::MigratingIn)]);
    gauge.take(110_000, &leaving, &usage(110, vec![guest("web", 140 * SECOND_NS)]));
    gauge.take(110_000, &coming, &usage(110, vec![guest("web", 5)]));
    assert_eq!(vm(&mut gauge, 110), Some((1_000, 100)));
    // Arrived, its counter is another one.
    gauge.take(120_000, &row(1, &[]), &usage(120, vec![]));
    gauge.take(120_000, &row(2, RUNNING), &usage(120, vec![guest("web", 3 * SECOND_NS)]));
    assert_eq!(vm(&mut gauge, 120), Some((1_000, 100)));
    gauge.take(130_000, &row(2, RUNNING), &usage(130, vec![guest("web", 13 * SECOND_NS)]));
    assert_eq!(vm(&mut gauge, 130), Some((1_000, 110)));
}

#[test]
fn a_host_that_does_not_say_how_many_cpus_it_has_is_not_known() {
    let (mut gauge, row) = (Gauge::default(), row(1, RUNNING));
    for at_s in [0, 10] {
        let mut said = usage(at_s, vec![busy("web", 1, at_s)]);
        said.machine.cpus = None;
        gauge.take(at_s * 1_000, &row, &said);
    }
    let used = gauge.used(10_000);
    assert!(used.hosts.is_empty() && used.vms.len() == 1, "{used:?}");
}

#[test]
fn a_guest_that_is_not_counted_is_not_known_and_neither_is_its_host_if_it_is_no_job() {
    let (mut gauge, row) = (Gauge::default(), row(1, RUNNING));
    for at_s in [0, 10] {
        let guests = vec![guest("web", None), guest("observed", None)];
        gauge.take(at_s * 1_000, &row, &usage(at_s, guests));
    }
    assert!(gauge.used(10_000).is_empty());
    for at_s in [20, 30] {
        let guests = vec![guest("web", None), busy("observed", 2, at_s)];
        gauge.take(at_s * 1_000, &row, &usage(at_s, guests));
    }
    let used = gauge.used(30_000);
    assert_eq!(used.hosts[&host(1)], HostUse { cpus: 4, others_cpu_millis: 2_000 });
    assert!(used.vms.is_empty(), "{used:?}");
}

#[test]
fn a_guest_that_began_anew_and_a_host_that_did_have_used_nothing_known() {
    let (mut gauge, row) = (Gauge::default(), row(1, RUNNING));
    gauge.take(0, &row, &usage(1_000, vec![busy("web", 2, 500)]));
    gauge.take(10_000, &row, &usage(1_010, vec![busy("web", 2, 1)]));
    assert_eq!(vm(&mut gauge, 10), None, "its process began between the two");
    gauge.take(20_000, &row, &usage(5, vec![busy("web", 2, 2)]));
    assert_eq!(vm(&mut gauge, 20), None, "its host has rebooted");
    gauge.take(30_000, &row, &usage(15, vec![busy("web", 2, 12)]));
    assert_eq!(vm(&mut gauge, 30), Some((2_000, 10)));
}

#[test]
fn the_same_reading_twice_and_one_of_long_ago_tell_nothing() {
    let (mut gauge, row) = (Gauge::default(), row(1, RUNNING));
    gauge.take(0, &row, &usage(0, vec![busy("web", 1, 0)]));
    gauge.take(5_000, &row, &usage(0, vec![busy("web", 1, 0)]));
    assert_eq!(vm(&mut gauge, 5), None);
    gauge.take(500_000, &row, &usage(500, vec![busy("web", 1, 500)]));
    assert_eq!(vm(&mut gauge, 500), None, "nobody has watched it since");
    gauge.take(510_000, &row, &usage(510, vec![busy("web", 1, 510)]));
    assert_eq!(vm(&mut gauge, 510), Some((1_000, 10)));
}

proptest! {
    /// However counters go on, a mean is never above the highest rate that was read and never below the lowest, and nothing
    /// is remembered of what nobody has.
    #[test]
    fn a_mean_is_between_what_was_read(rates in prop::collection::vec((0..8_000_u64, 1..60_u64), 1..60)) {
        let (mut gauge, row) = (Gauge::default(), row(1, RUNNING));
        let (mut at_s, mut cpu_ns) = (7, 0);
        gauge.take(at_s * 1_000, &row, &usage(at_s, vec![guest("web", cpu_ns)]));
        for (millis, seconds) in &rates {
            at_s += seconds;
            cpu_ns += millis * seconds * 1_000_000;
            gauge.take(at_s * 1_000, &row, &usage(at_s, vec![guest("web", cpu_ns)]));
            let (known, _) = vm(&mut gauge, at_s).unwrap();
            let all = || rates.iter().map(|(millis, _)| *millis);
            let (least, most) = (all().min().unwrap(), all().max().unwrap());
            prop_assert!(known + 1 >= least && known <= most, "{known} of {least} to {most}");
        }
        gauge.used((at_s + 91) * 1_000);
        prop_assert!(gauge.hosts.is_empty() && gauge.vms.is_empty());
    }
}
