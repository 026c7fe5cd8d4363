//! What a source may say, before any of it reaches the view.
//!
//! A host speaks for itself alone and proves it by its key; a monitor repeats what hosts said. A
//! frame that breaks this is not dropped in silence: the whole stream is distrusted for a while.

use protocol::event::{Event, Fact, Frame};
use protocol::host::{Host, Inventory};
use protocol::id::{Cursor, HostId};

use crate::core::Source;

/// Largest epoch or sequence that is believed: what fits a JavaScript number. A host would need
/// centuries to get there, and one that claims more wants to break our arithmetic.
pub const CURSOR_MAX: u64 = 1 << 53;

/// Says what is wrong with a frame from this source, if anything is.
pub fn check(source: &Source, frame: &Frame) -> Result<(), String> {
    match (source, frame) {
        (_, Frame::Inventory(inventory)) => check_inventory(source, inventory),
        (_, Frame::Event(event)) => check_event(source, event),
        (Source::Host(_), Frame::Freshness { .. }) => {
            Err("a host has no say in how fresh its row is".to_owned())
        }
        (_, Frame::Current) | (Source::Monitor(_), Frame::Freshness { .. }) => Ok(()),
    }
}

fn check_inventory(source: &Source, inventory: &Inventory) -> Result<(), String> {
    check_speaker(source, &inventory.host.id)?;
    check_host(&inventory.host)?;
    check_cursor(inventory.cursor)
}

fn check_event(source: &Source, event: &Event) -> Result<(), String> {
    check_speaker(source, &event.host)?;
    check_cursor(event.cursor)?;
    match &event.fact {
        Fact::HostChanged { host } if host.id != event.host => {
            Err(format!("host {} describes itself as {}", event.host, host.id))
        }
        Fact::HostChanged { host } => check_host(host),
        Fact::JobChanged { .. }
        | Fact::JobDeleted { .. }
        | Fact::DomainObserved { .. }
        | Fact::DomainGone { .. } => Ok(()),
    }
}

fn check_speaker(source: &Source, host: &HostId) -> Result<(), String> {
    match source {
        Source::Host(speaker) if speaker != host => {
            Err(format!("host {speaker} speaks for host {host}"))
        }
        Source::Host(_) | Source::Monitor(_) => Ok(()),
    }
}

fn check_host(host: &Host) -> Result<(), String> {
    let real = HostId::of(&host.key);
    if real == host.id {
        Ok(())
    } else {
        Err(format!("host {} shows the key of host {real}", host.id))
    }
}

fn check_cursor(cursor: Cursor) -> Result<(), String> {
    if cursor.epoch.0 <= CURSOR_MAX && cursor.seq <= CURSOR_MAX {
        Ok(())
    } else {
        Err(format!("cursor {cursor} is beyond what any host can have reached"))
    }
}
