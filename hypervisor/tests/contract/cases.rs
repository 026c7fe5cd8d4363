//! The contract: what every hypervisor must do. Each case leaves no domain of its own behind.

use std::io::Read as _;
use std::process::Command;
use std::time::Duration;

use hypervisor::{
    CpuPlace, Definition, DomainState, ErrorKind, Fitting, Fittings, Lifecycle, NetworkConfig,
    NetworkForm, PauseReason, StartReason, StopReason, WatchEvent,
};
use protocol::id::JobId;
use protocol::job::Unknown;
use protocol::network::{NetworkKind, NetworkName};
use protocol::vm::{DiskBus, NicSpec, Plug, Size, SizeChange};
use uuid::Uuid;

use crate::subject::{DISK_BYTES, Disks, Subject, eventually, expect_event, kind};

/// Calls `$run!(name)` for the name of each case.
#[macro_export]
macro_rules! for_each_case {
    ($run:ident) => {
        $run!(node_has_something);
        $run!(defining_twice_is_one_domain);
        $run!(start_is_announced);
        $run!(a_paused_start_runs_only_when_resumed);
        $run!(a_running_domain_is_not_started_again);
        $run!(destroy_is_announced_and_idempotent);
        $run!(shutdown_is_a_request);
        $run!(pause_and_resume_are_idempotent);
        $run!(a_reset_or_reboot_leaves_the_process);
        $run!(a_running_guest_is_put_on_other_cpus);
        $run!(a_saved_guest_goes_on_at_the_next_start);
        $run!(a_label_can_be_taken_off_and_put_on_again);
        $run!(a_definition_can_be_put_back_while_the_guest_runs);
        $run!(a_domain_of_others_is_described_as_a_vm);
        $run!(a_running_guests_cards_are_shown_and_what_is_not_known_of_them);
        $run!(a_network_is_made_once_and_others_are_left_alone);
        $run!(a_running_guest_grows_within_its_head_room);
        $run!(without_head_room_a_guest_grows_at_its_next_start);
        $run!(a_guest_gives_up_what_it_can_and_the_rest_is_said);
        $run!(a_definition_that_is_not_ours_takes_another_size);
        $run!(a_snapshot_is_in_all_disks_or_in_none);
        $run!(a_disk_of_a_running_guest_grows_and_is_never_cut_off);
        $run!(disks_and_cards_are_plugged_in_once_while_the_guest_runs);
        $run!(a_guest_is_asked_for_disks_and_cards_and_what_it_keeps_is_said);
        $run!(what_a_running_guest_uses_is_counted);
        $run!(undefining_a_running_domain_lets_it_run);
        $run!(what_is_unknown_is_said_to_be);
        $run!(what_does_not_run_is_said_not_to);
        $run!(a_taken_name_is_refused);
        $run!(an_impossible_vm_is_refused);
        $run!(the_console_takes_input_or_says_that_there_is_none);
        $run!(what_a_guest_prints_is_recorded_while_somebody_listens);
        $run!(a_screen_is_seen_and_looked_at_through_the_hypervisor_alone);
        $run!(nothing_is_migrated_by_itself);
    };
}

pub(crate) fn node_has_something(subject: &Subject) {
    let node = subject.hv.node().unwrap();
    assert!(node.cpus > 0 && node.memory_bytes >= 1 << 30, "{node:?}");
}

pub(crate) fn defining_twice_is_one_domain(subject: &Subject) {
    let config = subject.defined("twice");
    subject.hv.define(&config).unwrap();
    let ours = subject.hv.list().unwrap().into_iter().filter(|info| info.uuid == config.uuid);
    let ours: Vec<_> = ours.collect();
    assert_eq!(ours.len(), 1);
    assert_eq!(ours[0].job.as_ref(), Some(&config.job));
    assert_eq!(ours[0].name, "twice");
    assert_eq!(ours[0].resources, config.vm.resources());
    assert!(ours[0].is_persistent && !ours[0].state.is_active());
    assert!(subject.hv.xml(config.uuid).unwrap().contains(&config.uuid.to_string()));
    subject.remove(config.uuid);
}

pub(crate) fn start_is_announced(subject: &Subject) {
    let mut events = subject.hv.watch();
    let config = subject.running("announced");
    expect_event(&mut events, config.uuid, |what| what == Lifecycle::Defined);
    let is_started = |what| what == Lifecycle::Started(StartReason::Booted);
    expect_event(&mut events, config.uuid, is_started);
    assert_eq!(subject.state(config.uuid), Some(DomainState::Running));
    subject.remove(config.uuid);
    expect_event(&mut events, config.uuid, |what| what == Lifecycle::Undefined);
}

pub(crate) fn a_paused_start_runs_only_when_resumed(subject: &Subject) {
    let config = subject.defined("held");
    let hv = &subject.hv;
    hv.start_paused(config.uuid).unwrap();
    let state = || hv.lookup(config.uuid).unwrap().map(|info| info.state);
    assert!(matches!(state(), Some(DomainState::Paused(_))), "{:?}", state());
    assert_eq!(kind(hv.start_paused(config.uuid)), Some(ErrorKind::AlreadyRunning));
    hv.resume(config.uuid).unwrap();
    assert_eq!(state(), Some(DomainState::Running));
    subject.remove(config.uuid);
}

pub(crate) fn a_running_domain_is_not_started_again(subject: &Subject) {
    let config = subject.running("again");
    assert_eq!(kind(subject.hv.start(config.uuid)), Some(ErrorKind::AlreadyRunning));
    subject.hv.define(&config).unwrap();
    assert_eq!(subject.state(config.uuid), Some(DomainState::Running));
    subject.remove(config.uuid);
}

pub(crate) fn destroy_is_announced_and_idempotent(subject: &Subject) {
    let config = subject.running("destroyed");
    let mut events = subject.hv.watch();
    subject.hv.destroy(config.uuid).unwrap();
    let is_destroyed = |what| what == Lifecycle::Stopped(StopReason::Destroyed);
    let seen = expect_event(&mut events, config.uuid, is_destroyed);
    assert!(!seen.contains(&Lifecycle::ShutDown), "it was not the guest's doing: {seen:?}");
    let ended = Some(DomainState::ShutOff(StopReason::Destroyed));
    assert_eq!(subject.state(config.uuid), ended);
    subject.hv.destroy(config.uuid).unwrap();
    assert_eq!(subject.state(config.uuid), ended);
    subject.remove(config.uuid);
}

pub(crate) fn shutdown_is_a_request(subject: &Subject) {
    let config = subject.running("polite");
    subject.hv.shutdown(config.uuid).unwrap();
    if subject.has_polite_guests {
        let ended = DomainState::ShutOff(StopReason::Shutdown);
        eventually("the end", || (subject.state(config.uuid) == Some(ended)).then_some(()));
    } else {
        assert!(subject.state(config.uuid).is_some_and(DomainState::is_active));
    }
    subject.remove(config.uuid);
}

pub(crate) fn pause_and_resume_are_idempotent(subject: &Subject) {
    let config = subject.running("pausing");
    let mut events = subject.hv.watch();
    subject.hv.pause(config.uuid).unwrap();
    subject.hv.pause(config.uuid).unwrap();
    let is_paused = |what| what == Lifecycle::Suspended(PauseReason::Requested);
    expect_event(&mut events, config.uuid, is_paused);
    let paused = DomainState::Paused(PauseReason::Requested);
    assert_eq!(subject.state(config.uuid), Some(paused));
    subject.hv.resume(config.uuid).unwrap();
    subject.hv.resume(config.uuid).unwrap();
    expect_event(&mut events, config.uuid, |what| what == Lifecycle::Resumed);
    assert_eq!(subject.state(config.uuid), Some(DomainState::Running));
    subject.remove(config.uuid);
}

pub(crate) fn a_running_guest_is_put_on_other_cpus(subject: &Subject) {
    let config = subject.running("pinned");
    let place = CpuPlace { own: vec![0], shared: "0".parse().unwrap(), node: None };
    let pins = place.pins(&config.vm).unwrap();
    subject.hv.pin(config.uuid, &pins).unwrap();
    subject.hv.pin(config.uuid, &pins).unwrap();
    subject.hv.destroy(config.uuid).unwrap();
    assert_eq!(kind(subject.hv.pin(config.uuid, &pins)), Some(ErrorKind::NotRunning));
    subject.hv.undefine(config.uuid).unwrap();
    assert_eq!(kind(subject.hv.pin(config.uuid, &pins)), Some(ErrorKind::NoSuchDomain));
}

pub(crate) fn a_reset_or_reboot_leaves_the_process(subject: &Subject) {
    let config = subject.running("reset");
    match kind(subject.hv.reset(config.uuid)) {
        None => {}
        Some(ErrorKind::Unsupported) => assert_eq!(subject.hv.facts().driver, "TEST"),
        other => panic!("{other:?}"),
    }
    subject.hv.reboot(config.uuid).unwrap();
    assert_eq!(subject.state(config.uuid), Some(DomainState::Running));
    subject.hv.destroy(config.uuid).unwrap();
    assert_eq!(kind(subject.hv.reboot(config.uuid)), Some(ErrorKind::NotRunning));
    subject.remove(config.uuid);
}

pub(crate) fn a_saved_guest_goes_on_at_the_next_start(subject: &Subject) {
    let config = subject.running("saved");
    let mut events = subject.hv.watch();
    subject.hv.save(config.uuid).unwrap();
    let is_saved = |what| what == Lifecycle::Stopped(StopReason::Saved);
    expect_event(&mut events, config.uuid, is_saved);
    let saved = Some(DomainState::ShutOff(StopReason::Saved));
    assert_eq!(subject.state(config.uuid), saved);
    assert_eq!(kind(subject.hv.save(config.uuid)), Some(ErrorKind::NotRunning));
    // A start repeated after a crash defines it again; what was saved must survive that.
    subject.hv.define(&config).unwrap();
    subject.hv.start(config.uuid).unwrap();
    expect_event(&mut events, config.uuid, |what| matches!(what, Lifecycle::Started(_)));
    eventually("the guest", || {
        (subject.state(config.uuid) == Some(DomainState::Running)).then_some(())
    });
    subject.hv.save(config.uuid).unwrap();
    // It is forgotten, and that again is harmless: the next start begins anew.
    for _ in 0..2 {
        subject.hv.forget_saved(config.uuid).unwrap();
    }
    let mut events = subject.hv.watch();
    subject.hv.start(config.uuid).unwrap();
    let is_anew = |what| what == Lifecycle::Started(StartReason::Booted);
    expect_event(&mut events, config.uuid, is_anew);
    subject.remove(config.uuid);
}

pub(crate) fn a_label_can_be_taken_off_and_put_on_again(subject: &Subject) {
    let config = subject.running("labelled");
    let job = || subject.hv.lookup(config.uuid).unwrap().unwrap().job;
    let before = subject.hv.xml(config.uuid).unwrap();
    for _ in 0..2 {
        subject.hv.label(config.uuid, None).unwrap();
        assert_eq!(job(), None);
    }
    let foreign = subject.hv.list().unwrap().into_iter().find(|info| info.uuid == config.uuid);
    assert_eq!(foreign.unwrap().job, None);
    let adopted: JobId = "adopted".parse().unwrap();
    subject.hv.label(config.uuid, Some(&adopted)).unwrap();
    assert_eq!(job(), Some(adopted));
    subject.hv.label(config.uuid, Some(&config.job)).unwrap();
    assert_eq!(subject.hv.xml(config.uuid).unwrap(), before);
    assert_eq!(subject.state(config.uuid), Some(DomainState::Running));
    subject.remove(config.uuid);
}

pub(crate) fn a_definition_can_be_put_back_while_the_guest_runs(subject: &Subject) {
    let config = subject.running("restored");
    subject.hv.label(config.uuid, None).unwrap();
    let before = subject.hv.definition(config.uuid).unwrap();
    subject.hv.label(config.uuid, Some(&config.job)).unwrap();
    assert_ne!(subject.hv.definition(config.uuid).unwrap(), before);
    for _ in 0..2 {
        subject.hv.restore(&before).unwrap();
        assert_eq!(subject.hv.definition(config.uuid).unwrap(), before);
    }
    assert_eq!(subject.state(config.uuid), Some(DomainState::Running));
    // Also of a domain that is not there any more.
    subject.remove(config.uuid);
    subject.hv.restore(&before).unwrap();
    assert_eq!(subject.hv.definition(config.uuid).unwrap(), before);
    assert!(!subject.state(config.uuid).unwrap().is_active());
    subject.remove(config.uuid);
    assert!(subject.hv.restore("<domain/>").is_err());
}

pub(crate) fn a_domain_of_others_is_described_as_a_vm(subject: &Subject) {
    let config = subject.running("described");
    subject.hv.label(config.uuid, None).unwrap();
    let vm = subject.hv.describe(config.uuid).unwrap();
    assert_eq!(vm.adopted, Some(config.uuid));
    assert_eq!((vm.vcpus, vm.memory_bytes), (config.vm.vcpus, config.vm.memory_bytes));
    assert_eq!(vm.validate(), Ok(()));
    subject.remove(config.uuid);
}

pub(crate) fn a_running_guests_cards_are_shown_and_what_is_not_known_of_them(subject: &Subject) {
    let mut config = subject.config("carded");
    let mut with_mac: NicSpec = Plug::User.into();
    with_mac.mac = Some("52:54:00:00:00:01".to_owned());
    config.vm.nics = vec![with_mac, Plug::User.into()];
    subject.hv.define(&config).unwrap();
    assert_eq!(kind(subject.hv.cards(config.uuid)), Some(ErrorKind::NotRunning));
    subject.hv.start(config.uuid).unwrap();
    let cards = subject.hv.cards(config.uuid).unwrap();
    assert_eq!(cards.len(), 2);
    assert_eq!((cards[0].mac.as_str(), cards[0].plug.as_str()), ("52:54:00:00:00:01", "user"));
    for card in cards {
        assert_eq!((card.addresses.len(), card.unknown), (0, Some(Unknown::UserNetwork)));
    }
    subject.remove(config.uuid);
}

fn network(name: &str, subnet: &str) -> NetworkConfig {
    let bridge = format!("ob-{name}");
    let subnet = Some(subnet.parse().unwrap());
    let form = NetworkForm::Own { bridge, subnet, dhcp: true, is_nat: true };
    NetworkConfig { name: NetworkName::new(name).unwrap(), form }
}

pub(crate) fn a_network_is_made_once_and_others_are_left_alone(subject: &Subject) {
    let (hv, config) = (&subject.hv, network("blue", "10.20.0.0/24"));
    let before = match hv.networks() {
        Ok(networks) => networks,
        Err(error) => {
            assert_eq!(error.kind, ErrorKind::Unsupported);
            assert_eq!(kind(hv.make_network(&config)), Some(ErrorKind::Unsupported));
            return assert_eq!(
                kind(hv.remove_network(config.uuid())),
                Some(ErrorKind::Unsupported)
            );
        }
    };
    let mut events = hv.watch();
    for _ in 0..2 {
        hv.make_network(&config).unwrap();
        let now = hv.networks().unwrap();
        let ours = now.iter().find(|network| network.uuid == config.uuid()).unwrap();
        assert!(ours.is_active && ours.is_ours && ours.name == "blue", "{ours:?}");
        assert_eq!((ours.kind, ours.bridge.as_deref()), (NetworkKind::Nat, Some("ob-blue")));
        assert_eq!(ours.subnets, ["10.20.0.0/24".parse().unwrap()]);
        assert!(before.iter().all(|network| now.contains(network)), "{before:?} in {now:?}");
    }
    let is_news = |event| (event == WatchEvent::NetworksChanged).then_some(());
    eventually("news of networks", || events.try_recv().ok().and_then(is_news));
    // Another subnet is another definition, and nobody is on it.
    let moved = network("blue", "10.21.0.0/24");
    hv.make_network(&moved).unwrap();
    let now = hv.networks().unwrap();
    let ours = now.iter().find(|network| network.uuid == config.uuid()).unwrap();
    assert_eq!((ours.is_active, &ours.subnets[..]), (true, &["10.21.0.0/24".parse().unwrap()][..]));
    for _ in 0..2 {
        hv.remove_network(config.uuid()).unwrap();
        assert_eq!(hv.networks().unwrap(), before);
    }
}

const MIB: u64 = 1 << 20;

fn size(vcpus: u32, memory_bytes: u64) -> Size {
    Size { vcpus, memory_bytes, max_vcpus: None, max_memory_bytes: None }
}

fn to(vcpus: u32, memory_bytes: u64) -> SizeChange {
    let (vcpus, memory_bytes) = (Some(vcpus), Some(memory_bytes));
    SizeChange { vcpus, memory_bytes, ..SizeChange::default() }
}

/// CPUs, and memory that the guest has.
fn has(subject: &Subject, uuid: Uuid) -> (u32, u64) {
    let info = subject.hv.lookup(uuid).unwrap().unwrap();
    (info.resources.vcpus, info.memory_now_bytes)
}

/// CPUs and memory that it would start with.
fn defined(subject: &Subject, uuid: Uuid) -> (u32, u64) {
    let read = Definition::read(&subject.hv.definition(uuid).unwrap()).unwrap();
    (read.vcpus, read.memory_bytes)
}

pub(crate) fn a_running_guest_grows_within_its_head_room(subject: &Subject) {
    let mut config = subject.config("growing");
    config.vm = config.vm.with_size(Size {
        max_vcpus: Some(4),
        max_memory_bytes: Some(256 * MIB),
        ..size(1, 128 * MIB)
    });
    let (uuid, room) = (config.uuid, config.vm.size());
    subject.hv.define(&config).unwrap();
    subject.hv.start(uuid).unwrap();
    assert_eq!(has(subject, uuid), (1, 128 * MIB));
    let can_plug = subject.hv.facts().driver != "TEST";
    let memory_bytes = if can_plug { 256 * MIB } else { 128 * MIB };
    for _ in 0..2 {
        let resized = subject.hv.resize(uuid, to(3, 256 * MIB)).unwrap();
        assert_eq!(resized.left.is_empty(), can_plug, "{resized:?}");
        assert_eq!(has(subject, uuid), (3, memory_bytes));
    }
    // Beyond that, as far as it goes.
    let resized = subject.hv.resize(uuid, to(6, 384 * MIB)).unwrap();
    assert!(resized.left.len() >= 2, "{resized:?}");
    assert_eq!(has(subject, uuid), (4, memory_bytes));
    // The definition is another matter, and what runs is not touched by it.
    assert_eq!(defined(subject, uuid), (1, 128 * MIB));
    config.vm = config.vm.with_size(Size { vcpus: 3, memory_bytes: 256 * MIB, ..room });
    subject.hv.define(&config).unwrap();
    assert_eq!(defined(subject, uuid), (3, 256 * MIB));
    assert_eq!(has(subject, uuid), (4, memory_bytes));
    subject.hv.destroy(uuid).unwrap();
    assert_eq!(kind(subject.hv.resize(uuid, to(3, MIB))), Some(ErrorKind::NotRunning));
    subject.hv.start(uuid).unwrap();
    assert_eq!(has(subject, uuid), (3, 256 * MIB));
    subject.remove(uuid);
}

pub(crate) fn without_head_room_a_guest_grows_at_its_next_start(subject: &Subject) {
    let mut config = subject.running("fixed");
    let uuid = config.uuid;
    let resized = subject.hv.resize(uuid, to(2, 128 * MIB)).unwrap();
    assert_eq!((resized.left.len(), resized.is_giving), (2, false), "{resized:?}");
    config.vm = config.vm.with_size(size(2, 128 * MIB));
    subject.hv.define(&config).unwrap();
    assert_eq!(has(subject, uuid), (1, 64 * MIB));
    assert_eq!(defined(subject, uuid), (2, 128 * MIB));
    subject.hv.destroy(uuid).unwrap();
    assert_eq!(has(subject, uuid), (2, 128 * MIB));
    subject.hv.start(uuid).unwrap();
    assert_eq!(has(subject, uuid), (2, 128 * MIB));
    subject.remove(uuid);
}

/// A guest without a system has no driver that could give anything up.
pub(crate) fn a_guest_gives_up_what_it_can_and_the_rest_is_said(subject: &Subject) {
    let mut config = subject.config("shrinking");
    let before = Size { max_vcpus: Some(2), ..size(2, 128 * MIB) };
    config.vm = config.vm.with_size(before);
    subject.hv.define(&config).unwrap();
    subject.hv.start(config.uuid).unwrap();
    let resized = subject.hv.resize(config.uuid, to(1, 64 * MIB)).unwrap();
    if subject.has_polite_guests {
        assert_eq!(resized.left, Vec::<String>::new());
        let given = || (has(subject, config.uuid) == (1, 64 * MIB)).then_some(());
        eventually("the guest's memory", given);
    } else {
        assert_eq!(resized.left.len(), 2, "{resized:?}");
        assert_eq!(has(subject, config.uuid), (2, 128 * MIB));
    }
    let memory_bytes = subject.hv.lookup(config.uuid).unwrap().unwrap().resources.memory_bytes;
    assert_eq!(memory_bytes, 128 * MIB, "its machine still has it");
    subject.remove(config.uuid);
}

pub(crate) fn a_definition_that_is_not_ours_takes_another_size(subject: &Subject) {
    let config = subject.running("theirs");
    let uuid = config.uuid;
    for (vcpus, mib) in [(3, 128), (3, 128), (1, 64)] {
        subject.hv.resize_definition(uuid, to(vcpus, mib * MIB)).unwrap();
        assert_eq!(defined(subject, uuid), (vcpus, mib * MIB));
        assert_eq!(has(subject, uuid), (1, 64 * MIB));
    }
    let more = SizeChange { vcpus: Some(2), ..SizeChange::default() };
    subject.hv.resize_definition(uuid, more).unwrap();
    assert_eq!(defined(subject, uuid), (2, 64 * MIB), "what is left out stays");
    subject.remove(uuid);
}

pub(crate) fn what_a_running_guest_uses_is_counted(subject: &Subject) {
    let (on, off) = (subject.running("counted"), subject.defined("uncounted"));
    let usage = subject.hv.usage().unwrap();
    let of = |uuid| usage.iter().find(|one| one.uuid == uuid).map(|one| &one.usage);
    assert_eq!(of(off.uuid), None, "it has no process");
    let used = of(on.uuid).expect("a running guest");
    assert_eq!((used.name.as_str(), &used.job), ("counted", &None));
    let is_counted = used.cpu_ns > Some(0) && used.memory_bytes > Some(0);
    // libvirt's test driver counts nothing, and says so by leaving it out.
    let is_left_out = used.cpu_ns.is_none() && used.memory_bytes.is_none();
    assert!(is_counted || (is_left_out && subject.hv.facts().driver != "QEMU"), "{used:?}");
    subject.remove(on.uuid);
    subject.remove(off.uuid);
}

pub(crate) fn undefining_a_running_domain_lets_it_run(subject: &Subject) {
    let config = subject.running("transient");
    subject.hv.undefine(config.uuid).unwrap();
    subject.hv.undefine(config.uuid).unwrap();
    let info = subject.hv.lookup(config.uuid).unwrap().unwrap();
    assert_eq!((info.state, info.is_persistent), (DomainState::Running, false));
    subject.hv.destroy(config.uuid).unwrap();
    assert_eq!(subject.state(config.uuid), None);
}

pub(crate) fn what_is_unknown_is_said_to_be(subject: &Subject) {
    let (hv, unknown) = (&subject.hv, Uuid::from_u128(7));
    let missing = Some(ErrorKind::NoSuchDomain);
    assert_eq!(hv.lookup(unknown).unwrap(), None);
    assert_eq!(kind(hv.start(unknown)), missing);
    assert_eq!(kind(hv.shutdown(unknown)), missing);
    assert_eq!(kind(hv.pause(unknown)), missing);
    assert_eq!(kind(hv.resume(unknown)), missing);
    assert_eq!(kind(hv.reset(unknown)), missing);
    assert_eq!(kind(hv.reboot(unknown)), missing);
    assert_eq!(kind(hv.save(unknown)), missing);
    assert_eq!(kind(hv.label(unknown, None)), missing);
    assert_eq!(kind(hv.xml(unknown)), missing);
    assert_eq!(kind(hv.definition(unknown)), missing);
    assert_eq!(kind(hv.describe(unknown)), missing);
    assert_eq!(kind(hv.cards(unknown)), missing);
    assert_eq!(kind(hv.resize(unknown, to(1, MIB))), missing);
    assert_eq!(kind(hv.resize_definition(unknown, to(1, MIB))), missing);
    assert_eq!(kind(hv.job_progress(unknown)), missing);
    hv.destroy(unknown).unwrap();
    hv.undefine(unknown).unwrap();
}

pub(crate) fn what_does_not_run_is_said_not_to(subject: &Subject) {
    let (hv, config) = (&subject.hv, subject.defined("idle"));
    let idle = Some(ErrorKind::NotRunning);
    assert_eq!(kind(hv.shutdown(config.uuid)), idle);
    assert_eq!(kind(hv.pause(config.uuid)), idle);
    assert_eq!(kind(hv.resume(config.uuid)), idle);
    assert!(!subject.state(config.uuid).unwrap().is_active());
    subject.remove(config.uuid);
}

pub(crate) fn a_taken_name_is_refused(subject: &Subject) {
    let config = subject.defined("taken");
    let mut other = config.clone();
    other.uuid = Uuid::from_u128(8);
    assert_eq!(kind(subject.hv.define(&other)), Some(ErrorKind::AlreadyExists));
    assert_eq!(subject.state(other.uuid), None);
    subject.remove(config.uuid);
}

pub(crate) fn an_impossible_vm_is_refused(subject: &Subject) {
    let mut config = subject.config("impossible");
    config.vm.vcpus = 0;
    assert_eq!(kind(subject.hv.define(&config)), Some(ErrorKind::Refused));
    assert_eq!(subject.state(config.uuid), None);
}

pub(crate) fn the_console_takes_input_or_says_that_there_is_none(subject: &Subject) {
    let config = subject.running("console");
    let opened = subject.hv.open_console(config.uuid);
    if !subject.has_consoles {
        assert_eq!(kind(opened.map(drop)), Some(ErrorKind::Unsupported));
        return subject.remove(config.uuid);
    }
    let mut console = opened.unwrap();
    console.write(b"hello\n").unwrap();
    // What the guest prints goes to the log although a console is open.
    eventually("output", || std::fs::metadata(&config.console_log).ok().filter(|m| m.len() > 0));
    drop(console);
    // It can be opened again once it is closed.
    subject.hv.open_console(config.uuid).unwrap().write(b"again\n").unwrap();
    subject.hv.destroy(config.uuid).unwrap();
    let closed = subject.hv.open_console(config.uuid);
    assert_eq!(kind(closed.map(drop)), Some(ErrorKind::NotRunning));
    subject.remove(config.uuid);
}

pub(crate) fn a_screen_is_seen_and_looked_at_through_the_hypervisor_alone(subject: &Subject) {
    let mut config = subject.config("screen");
    config.vm.hardware.vnc = true;
    subject.hv.define(&config).unwrap();
    subject.hv.start(config.uuid).unwrap();
    let shot = subject.hv.screenshot(config.uuid).unwrap();
    let begins: &[u8] = match shot.media.as_str() {
        "image/png" => b"\x89PNG",
        "image/x-portable-pixmap" => b"P6",
        other => panic!("a picture of the sort {other}"),
    };
    assert!(shot.bytes.starts_with(begins), "{} bytes of {}", shot.bytes.len(), shot.media);
    let opened = subject.hv.open_graphics(config.uuid);
    if !subject.has_consoles {
        assert_eq!(kind(opened), Some(ErrorKind::Unsupported));
        return subject.remove(config.uuid);
    }
    let mut viewer = opened.unwrap();
    viewer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut greeting = [0; 12];
    viewer.read_exact(&mut greeting).unwrap();
    assert!(greeting.starts_with(b"RFB 003."), "{}", String::from_utf8_lossy(&greeting));
    let xml = subject.hv.xml(config.uuid).unwrap();
    assert!(
        !xml.contains("127.0.0.1") && !xml.contains("port='5"),
        "nobody else can connect: {xml}"
    );

    let bare = subject.running("no-screen");
    assert_eq!(kind(subject.hv.screenshot(bare.uuid)), Some(ErrorKind::Refused));
    assert_eq!(kind(subject.hv.open_graphics(bare.uuid)), Some(ErrorKind::Refused));
    subject.remove(bare.uuid);

    subject.hv.destroy(config.uuid).unwrap();
    assert_eq!(viewer.read_to_end(&mut Vec::new()).ok(), Some(0), "a view ends with its guest");
    assert_eq!(kind(subject.hv.screenshot(config.uuid)), Some(ErrorKind::NotRunning));
    assert_eq!(kind(subject.hv.open_graphics(config.uuid)), Some(ErrorKind::NotRunning));
    subject.remove(config.uuid);
}

pub(crate) fn what_a_guest_prints_is_recorded_while_somebody_listens(subject: &Subject) {
    let config = subject.running("recorded");
    let log = subject.dir.join("recorded-by-us.log");
    let opened = subject.hv.record_console(config.uuid, &log);
    if !subject.has_consoles {
        assert_eq!(kind(opened.map(drop)), Some(ErrorKind::Unsupported));
        return subject.remove(config.uuid);
    }
    let mut console = opened.unwrap();
    console.write(b"hello\n").unwrap();
    // Firmware prints by itself; a fake echoes.
    eventually("output", || std::fs::metadata(&log).ok().filter(|m| m.len() > 0));
    assert!(console.is_open());
    subject.hv.destroy(config.uuid).unwrap();
    eventually("the end", || (!console.is_open()).then_some(()));
    assert_eq!(
        kind(subject.hv.record_console(config.uuid, &log).map(drop)),
        Some(ErrorKind::NotRunning)
    );
    subject.remove(config.uuid);
}

pub(crate) fn nothing_is_migrated_by_itself(subject: &Subject) {
    let config = subject.running("staying");
    assert_eq!(subject.hv.job_progress(config.uuid).unwrap_or(None), None);
    subject.remove(config.uuid);
}

pub(crate) fn a_snapshot_is_in_all_disks_or_in_none(subject: &Subject) {
    let (hv, both) = (&subject.hv, ["vda".to_owned(), "sdb".to_owned()]);
    if subject.disks == Disks::Stiff {
        let config = subject.running("stiff");
        assert_eq!(kind(hv.snapshot(config.uuid, &both, "a")), Some(ErrorKind::Unsupported));
        return subject.remove(config.uuid);
    }
    let config = subject.running_with_disks("kept");
    let uuid = config.uuid;
    hv.snapshot(uuid, &both, "a").unwrap();
    assert_eq!(kind(hv.snapshot(uuid, &both, "a")), Some(ErrorKind::AlreadyExists));
    // One disk has it already: the other one gets none.
    hv.snapshot(uuid, &both[1..], "b").unwrap();
    assert_eq!(kind(hv.snapshot(uuid, &both, "b")), Some(ErrorKind::AlreadyExists));
    hv.snapshot(uuid, &both[..1], "b").unwrap();
    assert_eq!(kind(hv.snapshot(uuid, &["vdz".to_owned()], "c")), Some(ErrorKind::Refused));
    assert_eq!(subject.state(uuid), Some(DomainState::Running));
    for tag in ["a", "b", "b"] {
        hv.delete_snapshot(uuid, &both, tag).unwrap();
    }
    hv.snapshot(uuid, &both, "b").unwrap();
    hv.destroy(uuid).unwrap();
    assert_eq!(kind(hv.snapshot(uuid, &both, "c")), Some(ErrorKind::NotRunning));
    assert_eq!(kind(hv.delete_snapshot(uuid, &both, "b")), Some(ErrorKind::NotRunning));
    subject.remove(uuid);
    assert_eq!(kind(hv.snapshot(uuid, &both, "c")), Some(ErrorKind::NoSuchDomain));
}

pub(crate) fn a_disk_of_a_running_guest_grows_and_is_never_cut_off(subject: &Subject) {
    let hv = &subject.hv;
    if subject.disks == Disks::Stiff {
        let config = subject.running("stiff");
        let grown = hv.grow_disk(config.uuid, "vda", DISK_BYTES);
        assert_eq!(kind(grown), Some(ErrorKind::Unsupported));
        return subject.remove(config.uuid);
    }
    let config = subject.running_with_disks("growing");
    let uuid = config.uuid;
    // Also one with a snapshot, and again.
    hv.snapshot(uuid, &["vda".to_owned()], "a").unwrap();
    for device in ["vda", "sdb", "sdb"] {
        hv.grow_disk(uuid, device, 2 * DISK_BYTES).unwrap();
    }
    for device in ["vda", "sdb"] {
        assert_eq!(kind(hv.grow_disk(uuid, device, DISK_BYTES)), Some(ErrorKind::Refused));
    }
    assert_eq!(kind(hv.grow_disk(uuid, "vdz", DISK_BYTES)), Some(ErrorKind::Refused));
    if subject.disks == Disks::Real {
        let path = &config.volumes[0].path;
        let mut ask = Command::new("qemu-img");
        let shown = ask.args(["info", "-U", "--output=json"]).arg(path).output().unwrap().stdout;
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.contains(&format!("\"virtual-size\": {}", 2 * DISK_BYTES)), "{shown}");
    }
    hv.destroy(uuid).unwrap();
    assert_eq!(kind(hv.grow_disk(uuid, "vda", 4 * DISK_BYTES)), Some(ErrorKind::NotRunning));
    subject.remove(uuid);
}

pub(crate) fn disks_and_cards_are_plugged_in_once_while_the_guest_runs(subject: &Subject) {
    let hv = &subject.hv;
    let mut config = subject.running("plugged");
    let uuid = config.uuid;
    assert_eq!(hv.attach(&config).unwrap(), Vec::<String>::new(), "it has all that it should");
    for n in 0..3 {
        subject.add_disk(&mut config, &format!("data{n}"), DiskBus::Virtio);
    }
    let mac = Some("52:54:00:00:00:77".to_owned());
    config.vm.nics.push(NicSpec { mac, ..Plug::User.into() });
    hv.define(&config).unwrap();
    let left = hv.attach(&config).unwrap();
    if subject.disks == Disks::Stiff {
        assert_eq!(left.len(), 4, "{left:?}");
        return subject.remove(uuid);
    }
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(hv.attach(&config).unwrap(), left, "twice is once");
    if subject.disks == Disks::Real {
        let shown = hv.xml(uuid).unwrap();
        let has = Definition::read(&shown).unwrap();
        let targets: Vec<&str> = has.disks.iter().map(|(target, _)| target.as_str()).collect();
        assert_eq!((targets, has.nics.len()), (vec!["vda", "vdb", "vdc"], 1));
    }
    // What QEMU can't open waits for the next start; the guest runs on.
    if subject.disks == Disks::Real {
        subject.add_disk(&mut config, "gone", DiskBus::Virtio);
        std::fs::remove_file(&config.volumes[3].path).unwrap();
        let left = hv.attach(&config).unwrap();
        assert!(matches!(&left[..], [why] if why.starts_with("disk \"gone\": ")), "{left:?}");
    }
    assert_eq!(subject.state(uuid), Some(DomainState::Running));
    hv.destroy(uuid).unwrap();
    assert_eq!(hv.attach(&config).unwrap_err().kind, ErrorKind::NotRunning);
    subject.remove(uuid);
}

pub(crate) fn a_guest_is_asked_for_disks_and_cards_and_what_it_keeps_is_said(subject: &Subject) {
    let hv = &subject.hv;
    let mut config = subject.config("unplugged");
    let uuid = config.uuid;
    for name in ["root", "data", "more"] {
        subject.add_disk(&mut config, name, DiskBus::Virtio);
    }
    let mac = "52:54:00:00:00:78".to_owned();
    config.vm.nics = vec![NicSpec { mac: Some(mac.clone()), ..Plug::User.into() }];
    hv.define(&config).unwrap();
    hv.start(uuid).unwrap();
    let left = config.volumes.remove(1);
    let leaving = [Fitting::Disk(left.path.clone()), Fitting::Card(mac)];
    config.vm.disks.remove(1);
    config.vm.nics.clear();
    hv.define(&config).unwrap();
    let has = || Fittings::read(&hv.xml(uuid).unwrap()).unwrap();
    assert!(leaving.iter().all(|fitting| has().has(fitting)), "a definition takes nothing away");

    let patience = Duration::from_millis(300);
    let kept = hv.detach(uuid, &leaving, patience).unwrap();
    match subject.disks {
        Disks::Pretended => assert_eq!(kept, []),
        // A guest without a system hears nothing, and libvirt's driver for tests can't.
        Disks::Real | Disks::Stiff => {
            assert_eq!(
                kept.iter().map(|kept| &kept.fitting).collect::<Vec<_>>(),
                [&leaving[0], &leaving[1]]
            );
            assert!(kept.iter().all(|kept| !kept.why.is_empty()));
        }
    }
    assert!(leaving.iter().all(|fitting| has().has(fitting) != kept.is_empty()));
    // Asked again at once, and for what nobody has.
    assert_eq!(hv.detach(uuid, &leaving, patience).unwrap().len(), kept.len());
    assert_eq!(hv.detach(uuid, &[Fitting::Disk("/never/was".into())], patience).unwrap(), []);
    // Others have the names that they had, and what comes gets one that is free.
    if subject.disks == Disks::Real {
        let more = config.volumes[1].path.clone();
        assert_eq!(has().device(&more), Some("vdc"));
        subject.add_disk(&mut config, "late", DiskBus::Virtio);
        hv.define(&config).unwrap();
        assert_eq!(hv.attach(&config).unwrap(), Vec::<String>::new());
        assert_eq!(has().device(&config.volumes[2].path), Some("vdd"));
    }
    assert_eq!(subject.state(uuid), Some(DomainState::Running));
    hv.destroy(uuid).unwrap();
    assert!(!has().has(&leaving[0]), "it starts without");
    assert_eq!(hv.detach(uuid, &leaving, patience).unwrap_err().kind, ErrorKind::NotRunning);
    subject.remove(uuid);
}
