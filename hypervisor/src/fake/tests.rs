//! That faults strike as announced, and that guests move as libvirt's would.

use protocol::host::Accel;
use protocol::id::JobId;
use protocol::vm::VmSpec;

use super::*;
use crate::cpu_place::CpuPlace;
use crate::domain::{MigrateOutcome, MigrateTo};
use crate::hypervisor::Hypervisor as _;

fn config(job: &str) -> DomainConfig {
    let job = JobId::new(job).unwrap();
    DomainConfig {
        uuid: job.domain_uuid(),
        job,
        vm: VmSpec {
            vcpus: 1,
            memory_bytes: 64 << 20,
            disks: vec![],
            nics: vec![],
            ..VmSpec::default()
        },
        volumes: vec![],
        console_log: "/nonexistent/console.log".into(),
        exit_file: None,
        accel: Accel::None,
        partition: None,
        cpus: CpuPlace::default(),
    }
}

fn running(fake: &Fake) -> Uuid {
    let config = config("web-1");
    fake.define(&config).unwrap();
    fake.start(config.uuid).unwrap();
    config.uuid
}

fn pair() -> (Fake, Fake, MigrateTo) {
    let fleet = Fleet::default();
    let fake = |uri: &str| {
        let migration_uri = Some(uri.to_owned());
        Fake::new(FakeOptions { migration_uri, fleet: fleet.clone(), ..Default::default() })
    };
    let to = MigrateTo {
        libvirt_uri: "fake://b".into(),
        migrate_uri: "tcp://b".into(),
        disks_uri: "tcp://b:1".into(),
        disks: None,
        pinned: vec![],
        bandwidth_mib_s: None,
        auto_converge: false,
        start_paused: true,
    };
    (fake("fake://a"), fake("fake://b"), to)
}

#[test]
fn an_ambiguous_start_has_started() {
    let fake = Fake::default();
    let config = config("web-1");
    fake.define(&config).unwrap();
    fake.inject(Fault::Ambiguous(Method::Start, ErrorKind::Disconnected));
    assert!(fake.start(config.uuid).unwrap_err().kind.is_ambiguous());
    assert_eq!(fake.lookup(config.uuid).unwrap().unwrap().state, DomainState::Running);
    assert_eq!(fake.faults_left(), []);
}

#[test]
fn a_migrated_guest_waits_paused_on_the_target_and_is_gone_from_the_source() {
    let (a, b, to) = pair();
    let uuid = running(&a);
    assert!(matches!(a.migrate(uuid, &to), Ok(MigrateOutcome::Moved)));
    assert_eq!(a.lookup(uuid).unwrap(), None);
    let arrived = b.lookup(uuid).unwrap().unwrap();
    assert_eq!(arrived.state, DomainState::Paused(PauseReason::Requested));
    b.resume(uuid).unwrap();
    assert_eq!(b.lookup(uuid).unwrap().unwrap().state, DomainState::Running);
}

#[test]
fn an_aborted_migration_leaves_the_guest_here() {
    let (a, b, to) = pair();
    let uuid = running(&a);
    a.inject(Fault::MigrateStalls);
    let source = a.clone();
    let migration = thread::spawn(move || source.migrate(uuid, &to));
    while a.job_progress(uuid).unwrap().is_none() {
        thread::yield_now();
    }
    a.abort_job(uuid).unwrap();
    let outcome = migration.join().unwrap();
    assert!(matches!(outcome, Ok(MigrateOutcome::StillHere { .. })), "{outcome:?}");
    assert_eq!(b.domains(), []);
}

#[test]
fn an_unknown_outcome_leaves_the_source_paused() {
    for has_arrived in [false, true] {
        let (a, b, to) = pair();
        let uuid = running(&a);
        a.inject(Fault::MigrateUnknown { has_arrived });
        let outcome = a.migrate(uuid, &to);
        assert!(matches!(outcome, Ok(MigrateOutcome::Unknown { .. })), "{outcome:?}");
        assert_eq!(b.lookup(uuid).unwrap().is_some(), has_arrived);
    }
}

#[test]
fn a_reboot_of_the_host_ends_guests_silently_and_keeps_definitions() {
    let fake = Fake::default();
    let uuid = running(&fake);
    let mut events = fake.watch();
    fake.reboot_host();
    let state = fake.lookup(uuid).unwrap().unwrap().state;
    assert_eq!(state, DomainState::ShutOff(StopReason::Unknown));
    assert!(matches!(events.try_recv(), Ok(WatchEvent::Disconnected { .. })));
    assert_eq!(events.try_recv(), Ok(WatchEvent::Reconnected));
    assert!(events.try_recv().is_err());
}
