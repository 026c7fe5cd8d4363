//! The contract on real QEMU guests, driven by libvirt from inside a process of ours.
//!
//! ```text
//!   real_qemu_keeps_the_contract     reaps orphans, because PID 1 of a container may reap late
//!    └─ inside_a_sub_reaper          opens the root and runs every case
//!        ├─ a_first_life             before that: starts a guest and aborts
//!        └─ a_rival                  meanwhile: finds the root in use
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;
use std::{env, fs};

use hypervisor::{
    DomainState, ErrorKind, Hypervisor, Libvirt, LibvirtOptions, Lifecycle, StopReason, subreaper,
};
use protocol::host::Accel;
use protocol::vm::{
    CpuMode, CpuSpec, DiskBus, DiskSpec, Hardware, Plug, Topology, VmSpec, Watchdog,
};

use crate::subject::{Disks, Subject, eventually, expect_event, kind};
use crate::{for_each_case, skipped};

/// Tells the inner tests where the outer one wants them to work.
const ROOT_VAR: &str = "OSTLER_TEST_EMBED_ROOT";
/// The emulator for this machine's own instructions.
const QEMU: &str = "qemu-system-x86_64";

#[test]
fn real_qemu_keeps_the_contract() {
    if let Err(error) = Command::new(QEMU).arg("--version").output() {
        return skipped::note("the contract on real QEMU", &format!("{QEMU}: {error}"));
    }
    let root = tempfile::Builder::new().prefix("hv").tempdir_in("/tmp").unwrap();
    let ended = subreaper::run(&mut again("inside_a_sub_reaper", root.path())).unwrap();
    kill_leftovers(root.path());
    assert!(ended.success(), "the inner test said: {ended}");
}

/// Runs another test of this file in a process of its own.
fn again(test: &str, root: &Path) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "--ignored", "--nocapture"]).arg(format!("real_qemu::{test}"));
    command.env(ROOT_VAR, root);
    command
}

/// Guests outlive a test that failed half-way: that is the point of them.
fn kill_leftovers(root: &Path) {
    for pid in qemu_pids(root) {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
    }
}

fn qemu_pids(root: &Path) -> Vec<rustix::process::Pid> {
    let Ok(files) = fs::read_dir(root.join("run/qemu")) else { return Vec::new() };
    let files = files.filter_map(|entry| Some(entry.ok()?.path()));
    let pid_files = files.filter(|path| path.extension().is_some_and(|e| e == "pid"));
    let guests = pid_files.filter(|path| path.file_name().is_some_and(|n| n != "driver.pid"));
    let pids = guests.filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    pids.filter_map(rustix::process::Pid::from_raw).collect()
}

fn root() -> PathBuf {
    env::var_os(ROOT_VAR).expect("started by real_qemu_keeps_the_contract").into()
}

fn open(root: &Path) -> Result<Libvirt, hypervisor::HypervisorError> {
    let uri = format!("qemu:///embed?root={}", root.display());
    Libvirt::open(LibvirtOptions { uri, accel: None })
}

fn subject(root: &Path) -> Subject {
    Subject {
        hv: Arc::new(open(root).unwrap()),
        dir: root.to_owned(),
        has_consoles: true,
        has_polite_guests: false,
        disks: Disks::Real,
    }
}

#[test]
#[ignore = "started by real_qemu_keeps_the_contract"]
fn inside_a_sub_reaper() {
    let root = root();
    let first_life = again("a_first_life", &root).status().unwrap();
    assert!(!first_life.success(), "it aborts");

    let subject = subject(&root);
    the_guest_of_a_dead_process_is_seen_again(&subject);
    macro_rules! run {
        ($case:ident) => {
            let begun = Instant::now();
            crate::cases::$case(&subject);
            println!("{:5} ms {}", begun.elapsed().as_millis(), stringify!($case));
        };
    }
    for_each_case!(run);
    run_own_cases(&subject, &root);
}

/// Starts a guest and dies without a word.
#[test]
#[ignore = "started by inside_a_sub_reaper"]
fn a_first_life() {
    subject(&root()).running("survivor");
    std::process::abort();
}

fn the_guest_of_a_dead_process_is_seen_again(subject: &Subject) {
    let config = subject.config("survivor");
    let info = subject.hv.lookup(config.uuid).unwrap().unwrap();
    assert_eq!(info.job, Some(config.job));
    eventually("the guest", || {
        (subject.state(config.uuid) == Some(DomainState::Running)).then_some(())
    });
    subject.remove(config.uuid);
}

fn run_own_cases(subject: &Subject, root: &Path) {
    let facts = subject.hv.facts();
    println!("{facts:?}");
    assert_eq!(facts.driver, "QEMU");
    assert_eq!(facts.accel == Accel::Tcg, facts.accel_reason.is_some());

    a_root_has_one_process_and_a_process_one_root(root);
    managed_networks_are_unsupported(subject);
    a_guest_in_user_mode_network_starts(subject);
    a_guest_with_most_devices_starts(subject);
    a_port_for_an_exit_code_begins_empty(subject);
    a_killed_guest_is_announced(subject, root);
    a_missing_volume_fails_the_start_and_leaves_nothing(subject);
    a_dropped_connection_leaves_guests_running(subject, root);
}

fn a_root_has_one_process_and_a_process_one_root(root: &Path) {
    assert!(again("a_rival", root).status().unwrap().success());
    let other = tempfile::tempdir_in("/tmp").unwrap();
    assert_eq!(kind(open(other.path()).map(drop)), Some(ErrorKind::InUse));
}

#[test]
#[ignore = "started by inside_a_sub_reaper"]
fn a_rival() {
    assert_eq!(kind(open(&root()).map(drop)), Some(ErrorKind::InUse));
}

fn managed_networks_are_unsupported(subject: &Subject) {
    let mut config = subject.config("networked");
    config.vm.nics = vec![Plug::Libvirt { name: "default".to_owned() }.into()];
    assert_eq!(kind(subject.hv.define(&config)), Some(ErrorKind::Unsupported));
}

fn a_guest_in_user_mode_network_starts(subject: &Subject) {
    let mut config = subject.config("user-network");
    config.vm.nics = vec![Plug::User.into(), Plug::User.into()];
    subject.hv.define(&config).unwrap();
    subject.hv.start(config.uuid).unwrap();
    subject.remove(config.uuid);
}

/// Everything that needs nothing of the machine but QEMU itself.
fn a_guest_with_most_devices_starts(subject: &Subject) {
    let mut config = subject.config("equipped");
    let buses = [("root", DiskBus::Virtio), ("data", DiskBus::Scsi), ("old", DiskBus::Sata)];
    for (name, bus) in buses {
        let path = subject.dir.join(format!("{name}.raw"));
        fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
        let format = hypervisor::VolumeFormat::Raw;
        let is_shared = false;
        config.volumes.push(hypervisor::Volume { name: name.to_owned(), path, format, is_shared });
        let disk =
            DiskSpec { name: name.to_owned(), size_bytes: 1 << 20, bus, ..Default::default() };
        config.vm.disks.push(disk);
    }
    config.vm.disks[0].limit_iops = Some(1000);
    config.vm.disks[1].boot = Some(1);
    let path = subject.dir.join("seed.iso");
    fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let format = hypervisor::VolumeFormat::Iso;
    let (name, is_shared) = ("seed".to_owned(), false);
    config.volumes.push(hypervisor::Volume { name, path, format, is_shared });
    let (mode, model) = (CpuMode::Maximum, None);
    config.vm = VmSpec {
        vcpus: 2,
        hardware: Box::new(Hardware {
            cpu: Some(CpuSpec { mode, model, require: vec![], disable: vec!["vmx".to_owned()] }),
            topology: Some(Topology { sockets: 1, cores: 2, threads: 1 }),
            watchdog: Some(Watchdog::Reset),
            vnc: true,
            ..Hardware::default()
        }),
        ..config.vm
    };
    subject.hv.define(&config).unwrap();
    subject.hv.start(config.uuid).unwrap();
    assert_eq!(subject.state(config.uuid), Some(DomainState::Running));
    subject.remove(config.uuid);
}

fn a_port_for_an_exit_code_begins_empty(subject: &Subject) {
    let mut config = subject.config("one-off");
    let file = subject.dir.join("one-off.exit");
    fs::write(&file, "7\n").unwrap();
    config.exit_file = Some(file.clone());
    subject.hv.define(&config).unwrap();
    subject.hv.start(config.uuid).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"", "an earlier start's code is gone");
    subject.remove(config.uuid);
}

fn a_killed_guest_is_announced(subject: &Subject, root: &Path) {
    let config = subject.running("killed");
    let mut events = subject.hv.watch();
    kill_leftovers(root);
    let is_stopped = |what| matches!(what, Lifecycle::Stopped(_));
    let how = expect_event(&mut events, config.uuid, is_stopped);
    assert_eq!(how.last(), Some(&Lifecycle::Stopped(StopReason::Failed)));
    let ended = Some(DomainState::ShutOff(StopReason::Crashed));
    assert_eq!(subject.state(config.uuid), ended);
    subject.remove(config.uuid);
}

fn a_missing_volume_fails_the_start_and_leaves_nothing(subject: &Subject) {
    let mut config = subject.config("diskless");
    config.volumes = vec![hypervisor::Volume {
        name: "root".to_owned(),
        path: subject.dir.join("missing.qcow2"),
        format: hypervisor::VolumeFormat::Qcow2,
        is_shared: false,
    }];
    subject.hv.define(&config).unwrap();
    assert_eq!(kind(subject.hv.start(config.uuid)), Some(ErrorKind::Failed));
    assert!(!subject.state(config.uuid).unwrap().is_active());
    subject.remove(config.uuid);
}

fn a_dropped_connection_leaves_guests_running(subject: &Subject, root: &Path) {
    let second = open(root).unwrap();
    let config = subject.config("left-alone");
    second.define(&config).unwrap();
    second.start(config.uuid).unwrap();
    drop(second);
    assert_eq!(subject.state(config.uuid), Some(DomainState::Running));
    subject.remove(config.uuid);
}
