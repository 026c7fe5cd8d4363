//! What is done with the disks of a running guest: snapshots inside them, by QEMU itself (see
//! [`crate::disk_nodes`]), and more room on them, by libvirt.

use protocol::resources::Bytes;
use virt_sys as sys;

use super::ffi::{Domain, RawError};
use crate::disk_nodes::{self, DiskNode};

/// All of the disks get it, or none.
pub(super) fn snapshot(domain: &Domain, devices: &[String], tag: &str) -> Result<(), RawError> {
    let disks = find(domain, devices)?;
    if disks.iter().any(|disk| has(disk, tag)) {
        let message = format!("a disk has a snapshot {tag} already");
        return Err(RawError::own(sys::VIR_ERR_DOM_EXIST, message));
    }
    tell(domain, &disk_nodes::snapshot(&disks, tag))
}

/// Deletes it from those that have it.
pub(super) fn delete_snapshot(
    domain: &Domain,
    devices: &[String],
    tag: &str,
) -> Result<(), RawError> {
    let disks = find(domain, devices)?;
    for disk in disks.iter().filter(|disk| has(disk, tag)) {
        tell(domain, &disk_nodes::delete_snapshot(disk, tag))?;
    }
    Ok(())
}

/// libvirt makes a disk smaller without a word, so it is asked first how large it is.
pub(super) fn grow(domain: &Domain, device: &str, bytes: u64) -> Result<(), RawError> {
    let now = domain.disk_bytes(device)?;
    if now > bytes {
        let (now, bytes) = (Bytes(now), Bytes(bytes));
        let message = format!("disk {device} has {now}, and is not made smaller ({bytes})");
        return Err(RawError::own(sys::VIR_ERR_INVALID_ARG, message));
    }
    if now == bytes { Ok(()) } else { domain.resize_disk(device, bytes) }
}

fn has(disk: &DiskNode, tag: &str) -> bool {
    disk.tags.iter().any(|has| has == tag)
}

fn find(domain: &Domain, devices: &[String]) -> Result<Vec<DiskNode>, RawError> {
    let answer = domain.ask_qemu(disk_nodes::QUERY)?;
    let found = disk_nodes::find(&domain.xml(0)?, &answer, devices);
    // What is not there, or can't, is no more there the next time.
    found.map_err(|message| RawError::own(sys::VIR_ERR_INVALID_ARG, message))
}

fn tell(domain: &Domain, command: &str) -> Result<(), RawError> {
    let returned = disk_nodes::returned(&domain.ask_qemu(command)?).map(drop);
    returned.map_err(|message| RawError::own(sys::VIR_ERR_OPERATION_FAILED, message))
}
