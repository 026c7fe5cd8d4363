//! The contract on libvirt's test driver: real libvirt, pretended guests.
//!
//! All connections to it share one state per process, and nextest gives each test a process.

use std::sync::Arc;
use std::time::Duration;

use hypervisor::{
    ErrorKind, Hypervisor, Libvirt, LibvirtOptions, MigrateTo, NetworkConfig, NetworkForm,
};
use protocol::host::Accel;
use protocol::job::AddressSource;
use protocol::network::NetworkName;
use protocol::vm::Plug;

use crate::for_each_case;
use crate::subject::{Disks, Subject, kind};

fn options(uri: &str) -> LibvirtOptions {
    LibvirtOptions { uri: uri.to_owned(), accel: None }
}

fn with_subject(f: impl FnOnce(&Subject)) {
    let dir = tempfile::tempdir().unwrap();
    let libvirt = Libvirt::open(options("test:///default")).unwrap();
    f(&Subject {
        hv: Arc::new(libvirt),
        dir: dir.path().to_owned(),
        has_consoles: false,
        has_polite_guests: true,
        disks: Disks::Stiff,
    });
}

macro_rules! run {
    ($case:ident) => {
        #[test]
        fn $case() {
            with_subject(crate::cases::$case);
        }
    };
}

for_each_case!(run);

#[test]
fn it_says_that_it_only_pretends() {
    let libvirt = Libvirt::open(options("test:///default"));
    let facts = libvirt.unwrap().facts();
    assert_eq!((facts.accel, facts.driver.as_str()), (Accel::None, "TEST"));
    assert!(facts.accel_reason.is_some());
    assert!(!facts.can_receive);
    assert_ne!(facts.libvirt_version, "0.0.0");
}

#[test]
fn who_has_left_asks_nothing_more() {
    let libvirt = Libvirt::open(options("test:///default")).unwrap();
    assert!(libvirt.leave(Duration::from_secs(60)), "nothing was asked, so nothing is due");
    let error = libvirt.node().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Disconnected);
    assert!(error.message.contains("stopping"), "{error}");
    assert!(libvirt.leave(Duration::ZERO), "a second leave is none");
}

#[test]
fn a_domain_nobody_asked_us_for_has_no_job() {
    with_subject(|subject| {
        let all = subject.hv.list().unwrap();
        let foreign = all.iter().find(|info| info.name == "test").unwrap();
        assert_eq!(foreign.job, None);
        assert!(foreign.state.is_active());
    });
}

#[test]
fn an_address_that_a_network_has_leased_is_known() {
    with_subject(|subject| {
        let mut config = subject.config("leased");
        config.vm.nics = vec![Plug::Libvirt { name: "default".to_owned() }.into()];
        subject.hv.define(&config).unwrap();
        subject.hv.start(config.uuid).unwrap();
        let cards = subject.hv.cards(config.uuid).unwrap();
        assert_eq!(cards[0].source.as_deref(), Some("default"));
        // The address that the driver pretends to have leased is of the network's range.
        let [address] = &cards[0].addresses[..] else { panic!("{cards:?}") };
        assert_eq!(address.from, AddressSource::Lease);
        assert!(address.ip.to_string().starts_with("192.168.122."), "{address:?}");
        subject.remove(config.uuid);
    });
}

#[test]
fn a_network_of_others_keeps_its_name() {
    with_subject(|subject| {
        let name = NetworkName::new("default").unwrap();
        let form = NetworkForm::Bridge { bridge: "br0".to_owned() };
        let made = subject.hv.make_network(&NetworkConfig { name, form });
        assert_eq!(kind(made), Some(ErrorKind::AlreadyExists));
        let all = subject.hv.networks().unwrap();
        let theirs = all.iter().find(|network| network.name == "default").unwrap();
        assert!(theirs.is_active && !theirs.is_ours, "{theirs:?}");
    });
}

#[test]
fn migration_is_unsupported() {
    with_subject(|subject| {
        let config = subject.running("staying");
        let to = MigrateTo {
            libvirt_uri: "qemu+tcp://127.0.0.1/system".into(),
            migrate_uri: "tcp://127.0.0.1".into(),
            disks_uri: "tcp://127.0.0.1:49200".into(),
            disks: None,
            pinned: vec![],
            bandwidth_mib_s: None,
            auto_converge: false,
            start_paused: true,
        };
        let refused = subject.hv.migrate(config.uuid, &to).map(drop);
        assert_eq!(kind(refused), Some(ErrorKind::Unsupported));
    });
}

#[test]
fn what_is_not_there_can_not_be_opened() {
    let open = |uri: &str| kind(Libvirt::open(options(uri)).map(drop));
    assert_eq!(open("lxc:///"), Some(ErrorKind::Unsupported));
    assert_eq!(open("qemu:///embed"), Some(ErrorKind::Unsupported));
    let nobody = "qemu+unix:///system?socket=/nonexistent/libvirt-sock";
    assert_eq!(open(nobody), Some(ErrorKind::Disconnected));
}
