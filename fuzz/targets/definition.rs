//! A definition that somebody else has written, as it is read when its domain is adopted: whatever
//! it is, nothing breaks, and what is made of it is a VM that we would take. And the network cards of a
//! running one, and networks, which are in every view.

#![no_main]

use hypervisor::{Cards, Definition, NetworkRead};
use libfuzzer_sys::fuzz_target;
use protocol::job::CARDS_MAX;
use uuid::Uuid;

fuzz_target!(|text: &str| {
    if let Some(info) = NetworkRead::read(text).and_then(|read| read.into_info(true)) {
        assert!(info.subnets.iter().all(|subnet| subnet.prefix() <= 32));
    }
    if let Some(read) = Cards::read(text) {
        assert!(
            read.cards.len() <= CARDS_MAX && read.cards.iter().all(|card| !card.mac.is_empty())
        );
    }
    let Some(definition) = Definition::read(text) else { return };
    assert_eq!(Definition::read(text).as_ref(), Some(&definition));
    for disk_bytes in [None, Some(0), Some(1 << 30), Some(u64::MAX)] {
        let vm = definition.to_vm(Uuid::nil(), 1, 1 << 30, |_| disk_bytes);
        // The names of disks are libvirt's; of all else a valid part was taken or none.
        let valid = vm.validate();
        assert!(valid.is_ok(), "{valid:?} of {definition:?}");
    }
});
