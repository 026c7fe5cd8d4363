//! Another size for a domain: what is asked of QEMU and of the guest at once, and what is written
//! into a definition that is not ours. What can be asked at all is [`crate::resize`]'s.

use std::thread::sleep;
use std::time::Duration;

use protocol::resources::Bytes;
use protocol::vm::SizeChange;
use virt_sys as sys;

use super::ffi::{Domain, RawError};
use super::words;
use crate::domain::{DomainConfig, Resized};
use crate::domain_read::Definition;
use crate::domain_xml::{DriverKind, memory_piece_xml, missing};
use crate::error::ErrorKind;
use crate::fittings::{Fitting, Fittings, Kept};
use crate::resize::Live;

/// How often libvirt is asked whether a guest has let go of what it was asked for.
const DETACH_POLL: Duration = Duration::from_millis(100);
/// How often libvirt is asked whether the guest has said how much memory it can spare.
const STATS_POLL: Duration = Duration::from_millis(250);
/// And how many times. A guest with a balloon driver says so once a second when asked to.
const STATS_POLLS: u32 = 14;
/// Of what it keeps, a guest must have this part to spare: one that is asked for its last page dies
/// of it.
const SPARE_PART: u64 = 8;

/// Asks for all that can be had at once.
pub(super) fn resize_live(
    domain: &Domain,
    driver: DriverKind,
    to: &SizeChange,
) -> Result<Resized, RawError> {
    let definition = Definition::read(&domain.xml(0)?).unwrap_or_default();
    let mut plan = live(domain, driver, &definition)?.plan(to);
    let mut left = std::mem::take(&mut plan.left);
    if let Some(vcpus) = plan.vcpus {
        let (now, ..) = domain.size()?;
        // A guest that is asked to let go of a CPU has some seconds for it.
        let kept = if vcpus < now { Some(sys::VIR_ERR_OPERATION_TIMEOUT) } else { None };
        let set = domain.set_vcpus(vcpus, sys::VIR_DOMAIN_AFFECT_LIVE);
        note(set, "its vcpus", &mut left, kept)?;
    }
    let mut is_giving = false;
    if let Some(bytes) = plan.balloon_bytes {
        let (_, _, now_kib) = domain.size()?;
        let stats_period_s = definition.memory_stats_period_s;
        match may_ask(domain, driver, stats_period_s, (now_kib * 1024, bytes))? {
            Ok(()) => {
                let set = domain.set_memory(bytes / 1024, sys::VIR_DOMAIN_AFFECT_LIVE);
                is_giving = note(set, "its memory", &mut left, None)?;
            }
            Err(why) => left.push(format!("its memory stays {}: {why}", Bytes(now_kib * 1024))),
        }
    }
    if let Some(bytes) = plan.plug_bytes {
        let (_, total_kib, _) = domain.size()?;
        // Named by where it leads: plugged in twice by a call that was given up, it is refused.
        let piece = memory_piece_xml(bytes, total_kib * 1024 + bytes);
        let plugged = domain.attach(&piece, sys::VIR_DOMAIN_AFFECT_LIVE);
        note(plugged, "memory to plug in", &mut left, None)?;
    }
    Ok(Resized { left, is_giving })
}

/// Plugs in what a running domain does not have; what it can't have comes back in words.
pub(super) fn attach(
    domain: &Domain,
    driver: DriverKind,
    config: &DomainConfig,
) -> Result<Vec<String>, RawError> {
    let has = fittings(domain)?;
    let mut left = Vec::new();
    for device in missing(config, &has) {
        // libvirt's driver for tests shows what it was defined with, and plugs nothing.
        if driver == DriverKind::Test {
            left.push(device.what);
            continue;
        }
        let plugged = domain.attach(&device.xml, sys::VIR_DOMAIN_AFFECT_LIVE);
        note(plugged, &device.what, &mut left, None)?;
    }
    Ok(left)
}

/// Asks a running domain's guest to let go of these, all at once, and looks until it has or its time is over.
/// libvirt's other call for it waits by itself, for each device anew.
pub(super) fn detach(
    domain: &Domain,
    driver: DriverKind,
    leaving: &[Fitting],
    patience: Duration,
) -> Result<Vec<Kept>, RawError> {
    let has = fittings(domain)?;
    let (mut asked, mut refused) = (Vec::new(), Vec::new());
    for fitting in leaving.iter().filter(|fitting| has.has(fitting)) {
        // The driver for tests has devices without a guest.
        let alias = has.alias(fitting).filter(|_| driver != DriverKind::Test);
        let mut why = Vec::new();
        let is_asked = match alias {
            Some(alias) => {
                // Whoever asks a second time while the guest is at it is told so.
                let done = domain.detach(alias, sys::VIR_DOMAIN_AFFECT_LIVE);
                note(done, "libvirt", &mut why, None)? || why.iter().any(|why| is_at_it(why))
            }
            None => false,
        };
        match is_asked {
            true => asked.push(fitting),
            false => {
                let why = why.pop().unwrap_or_else(|| "its machine can't".to_owned());
                refused.push(Kept { fitting: fitting.clone(), why });
            }
        }
    }
    let mut waited = Duration::ZERO;
    loop {
        let has = fittings(domain)?;
        refused.retain(|kept| has.has(&kept.fitting));
        asked.retain(|fitting| has.has(fitting));
        if asked.is_empty() || waited >= patience {
            break;
        }
        sleep(DETACH_POLL);
        waited += DETACH_POLL;
    }
    let why = "its guest has not let go of it".to_owned();
    let kept = asked.into_iter().map(|fitting| Kept { fitting: fitting.clone(), why: why.clone() });
    Ok(kept.chain(refused).collect())
}

/// QEMU's words for a device that a guest has been asked for already.
fn is_at_it(why: &str) -> bool {
    why.contains("already in the process of unplug")
}

fn fittings(domain: &Domain) -> Result<Fittings, RawError> {
    // Read as having nothing, a domain would be given what it has, and what it has would be deleted.
    Fittings::read(&domain.xml(0)?).ok_or_else(|| {
        RawError::own(sys::VIR_ERR_XML_ERROR, "libvirt gave no domain's XML".to_owned())
    })
}

/// Writes the size into the definition.
pub(super) fn resize_definition(domain: &Domain, to: &SizeChange) -> Result<(), RawError> {
    const CONFIG: u32 = sys::VIR_DOMAIN_AFFECT_CONFIG;
    let flags = sys::VIR_DOMAIN_XML_INACTIVE;
    let before = Definition::read(&domain.xml(flags)?).unwrap_or_default();
    let vcpus = to.vcpus.unwrap_or(before.vcpus);
    let vcpus_max = to.max_vcpus.unwrap_or(before.vcpus_max.max(vcpus));
    let set_max = || domain.set_vcpus(vcpus_max, CONFIG | sys::VIR_DOMAIN_VCPU_MAXIMUM);
    // The number may never be above the most there may be, on the way neither.
    if vcpus_max > before.vcpus_max {
        set_max()?;
    }
    if vcpus != before.vcpus {
        domain.set_vcpus(vcpus, CONFIG)?;
    }
    if vcpus_max < before.vcpus_max {
        set_max()?;
    }
    let Some(memory_bytes) = to.memory_bytes else { return Ok(()) };
    let memory_kib = memory_bytes / 1024;
    if before.memory_bytes != memory_bytes {
        domain.set_memory(memory_kib, CONFIG | sys::VIR_DOMAIN_MEM_MAXIMUM)?;
    }
    domain.set_memory(memory_kib, CONFIG)
}

fn live(domain: &Domain, driver: DriverKind, definition: &Definition) -> Result<Live, RawError> {
    let (vcpus, total_kib, now_kib) = domain.size()?;
    let is_translated = driver != DriverKind::Test && definition.kind != "kvm";
    Ok(Live {
        vcpus,
        vcpus_max: definition.vcpus_max.max(vcpus),
        memory_bytes: total_kib * 1024,
        memory_now_bytes: now_kib * 1024,
        memory_max_bytes: definition.memory_max_bytes,
        can_plug: match definition {
            _ if driver == DriverKind::Test => Err("libvirt's test driver can't"),
            Definition { memory_slots, memory_pieces, .. } if memory_pieces >= memory_slots => {
                Err("each place for it has been used since its start")
            }
            _ => Ok(()),
        },
        // QEMU 7.2 was seen to corrupt its own memory when it takes out a CPU that it translates for.
        can_unplug: if is_translated { Err("QEMU translates for them") } else { Ok(()) },
        can_balloon: match definition {
            Definition { is_memory_pinned: true, .. } => Err("it is pinned on the host"),
            Definition { has_balloon: false, .. } => Err("it has no balloon"),
            _ => Ok(()),
        },
    })
}

/// Whether a guest can spare the memory that it would give up. A guest without a driver for its
/// balloon would give it up whenever it gets one, perhaps in the middle of its boot: it is not asked.
fn may_ask(
    domain: &Domain,
    driver: DriverKind,
    stats_period_s: u16,
    (now_bytes, to_bytes): (u64, u64),
) -> Result<Result<(), String>, RawError> {
    let given = now_bytes.saturating_sub(to_bytes);
    if given == 0 || driver == DriverKind::Test {
        return Ok(Ok(()));
    }
    let before = domain.memory_stats()?.last_update;
    domain.set_memory_stats_period(1, sys::VIR_DOMAIN_AFFECT_LIVE)?;
    let said = await_stats(domain, before);
    domain.set_memory_stats_period(stats_period_s, sys::VIR_DOMAIN_AFFECT_LIVE)?;
    let Some(usable_kib) = said? else {
        return Ok(Err("the guest does not say how much it can spare".to_owned()));
    };
    let (usable, needed) = (usable_kib * 1024, given + to_bytes / SPARE_PART);
    Ok(if usable >= needed {
        Ok(())
    } else {
        let (usable, given) = (Bytes(usable), Bytes(given));
        Err(format!("the guest has {usable} to spare, too little to give {given}"))
    })
}

fn await_stats(domain: &Domain, before: Option<u64>) -> Result<Option<u64>, RawError> {
    for _ in 0..STATS_POLLS {
        sleep(STATS_POLL);
        let stats = domain.memory_stats()?;
        if stats.last_update > before && stats.usable_kib.is_some() {
            return Ok(stats.usable_kib);
        }
    }
    Ok(None)
}

/// Takes a definite no for an answer; false then. What may have its effect nevertheless is an error,
/// unless it is `known` for one that is waited for no longer and seen whenever it comes.
fn note(
    done: Result<(), RawError>,
    what: &str,
    left: &mut Vec<String>,
    known: Option<u32>,
) -> Result<bool, RawError> {
    match done {
        Ok(()) => Ok(true),
        Err(raw) => {
            let is_ambiguous = words::is_from_wire(&raw) || words::kind(&raw).is_ambiguous();
            let is_gone = words::kind(&raw) == ErrorKind::NoSuchDomain;
            if is_gone || (is_ambiguous && known != Some(raw.code)) {
                return Err(raw);
            }
            left.push(format!("{what}: {}", raw.message));
            Ok(false)
        }
    }
}
