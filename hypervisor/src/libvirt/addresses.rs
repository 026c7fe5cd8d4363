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
                domain.interfaces(sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE)
            }
            AddressSource::Neighbour => {
                domain.interfaces(sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP)
            }
            AddressSource::Other => continue,
        };
        match answer {
            Ok(interfaces) => {
                let interfaces = interfaces.into_iter();
                let interfaces = interfaces.map(|(mac, ips)| Listed { mac, ips }).collect();
                listed.push((source, interfaces));
            }
            Err(error) => tracing::debug!("addresses by {}: {}", source.as_str(), error.message),
        }
    }
    Ok(Some(cards.known(&listed)))
}

/// The limit is the domain's, not the call's, so it is put back: freezing a file system, which others
/// may ask of the agent, takes longer than saying an address.
fn ask_agent(domain: &Domain) -> Result<Vec<(String, Vec<String>)>, RawError> {
    domain.set_agent_timeout(AGENT_SECONDS_MAX.into())?;
    let answer = domain.interfaces(sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT);
    domain.set_agent_timeout(sys::VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK)?;
    answer
}
