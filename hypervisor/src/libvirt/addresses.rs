//! Asking libvirt what addresses a guest has.

use protocol::job::{AddressSource, Card};
use virt_sys as sys;

use super::ffi::{Domain, RawError};
use crate::cards::{Cards, Listed};

/// How long a guest's agent may take, in seconds. It is the guest's, and may never answer: without a
/// limit libvirt would wait for as long as the guest runs, and our thread with it.
const AGENT_SECONDS_MAX: u16 = 3;

/// The cards of a running guest with their addresses; `None` when its XML can't be read. A table that
/// can't be asked (an agent that is just going, a network that is not libvirt's) is one that says
/// nothing.
pub(super) fn cards(domain: &Domain) -> Result<Option<Vec<Card>>, RawError> {
    let Some(cards) = Cards::read(&domain.xml(0)?) else { return Ok(None) };
    let mut listed = Vec::new();
    for source in cards.sources() {
        let answer = match source {
            AddressSource::Agent => ask_agent(domain),
            AddressSource::Lease => {
                let source = sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE;
                domain.interfaces(source).map_err(|error| error.message)
            }
            AddressSource::Neighbour => neighbours(),
            AddressSource::Other => continue,
        };
        match answer {
            Ok(interfaces) => listed.push((source, interfaces)),
            Err(why) => tracing::debug!("addresses by {}: {why}", source.as_str()),
        }
    }
    Ok(Some(cards.known(&listed)))
}

/// The limit is the domain's, not the call's, so it is put back: freezing a file system, which others
/// may ask of the agent, takes longer than saying an address.
fn ask_agent(domain: &Domain) -> Result<Vec<Listed>, String> {
    let timed = |timeout| domain.set_agent_timeout(timeout).map_err(|error| error.message);
    timed(AGENT_SECONDS_MAX.into())?;
    let answer = domain.interfaces(sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT);
    timed(sys::VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK)?;
    answer.map_err(|error| error.message)
}

/// libvirt reads the same table, and tells of it only for cards of its own networks.
fn neighbours() -> Result<Vec<Listed>, String> {
    let table = std::fs::read_to_string("/proc/net/arp").map_err(|error| error.to_string())?;
    Ok(Listed::neighbours(&table))
}
