//! What a host knows of a running guest's network cards: seen, never promised.
//!
//! It is as good as its sources. A card of QEMU's user network has an address that only its guest
//! knows; a guest that does as it likes may have others than these.

use core::net::IpAddr;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most addresses shown of one card: a guest that has more of them is a router.
pub const ADDRESSES_MAX: usize = 16;
/// Most cards shown of one guest; only an adopted one has more than a spec may ask for.
pub const CARDS_MAX: usize = 16;

/// A network card of a running guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Card {
    /// Its address on the wire.
    pub mac: String,
    /// What kind of thing it is plugged into, in libvirt's words: `user`, `bridge`, `network` …
    pub plug: String,
    /// Which one, such as `br0` or `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The host's end of it, such as `vnet3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The IP addresses that it is known to have; addresses that are valid on their own link alone are
    /// left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// Why there is none, when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<Unknown>,
}

/// An IP address of a guest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Who says so; the best of those who do.
    pub from: AddressSource,
}

/// Who says what address a guest has, best first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum AddressSource {
    /// The guest itself, through its agent.
    Agent,
    /// The DHCP server of a libvirt network, which has leased it.
    Lease,
    /// The host's neighbour table: it has been seen on the wire. It may be some minutes old.
    Neighbour,
    /// What only a newer agent understands.
    #[serde(other)]
    Other,
}

/// Why no address of a card is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// It is behind QEMU's user network, where only the guest's own agent could tell, and nobody could
    /// reach it.
    UserNetwork,
    /// Nobody has leased it one, nobody has seen one on the wire, and no agent answers in the guest.
    NotSeen,
    /// What only a newer agent understands.
    #[serde(other)]
    Other,
}

impl AddressSource {
    /// The word on screens.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            AddressSource::Agent => "guest agent",
            AddressSource::Lease => "DHCP lease",
            AddressSource::Neighbour => "neighbour table",
            AddressSource::Other => "other",
        }
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Unknown::UserNetwork => "user network, unknown from outside",
            Unknown::NotSeen => "none seen yet",
            Unknown::Other => "unknown",
        })
    }
}

impl Card {
    /// One line for people: `52:54:00:00:00:01 on network default: 10.0.0.5 (DHCP lease)`.
    #[must_use]
    pub fn words(&self) -> String {
        let plug = self.source.as_ref().map_or_else(String::new, |source| format!(" {source}"));
        format!("{} on {}{plug}: {}", self.mac, self.plug, self.known())
    }

    /// The part of that line about addresses: `10.0.0.5 (DHCP lease)`, or why none is known.
    #[must_use]
    pub fn known(&self) -> String {
        let known = |a: &Address| format!("{} ({})", a.ip, a.from.as_str());
        let mut said: Vec<String> = self.addresses.iter().map(known).collect();
        said.extend(self.unknown.map(|why| why.to_string()));
        said.join(", ")
    }
}

/// What is shown where there is room for one address: the first IPv4 address, or else the first, and
/// how many more there are.
#[must_use]
pub fn address_in_short(cards: &[Card]) -> Option<String> {
    let all = || cards.iter().flat_map(|card| &card.addresses);
    let best = all().find(|address| address.ip.is_ipv4()).or_else(|| all().next())?;
    Some(match all().count() {
        0 | 1 => best.ip.to_string(),
        more => format!("{} +{}", best.ip, more - 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(addresses: &[(&str, AddressSource)]) -> Card {
        let address =
            |(ip, from): &(&str, AddressSource)| Address { ip: ip.parse().unwrap(), from: *from };
        Card {
            mac: "52:54:00:00:00:01".into(),
            plug: "network".into(),
            source: Some("default".into()),
            device: Some("vnet0".into()),
            addresses: addresses.iter().map(address).collect(),
            unknown: addresses.is_empty().then_some(Unknown::NotSeen),
        }
    }

    #[test]
    fn one_address_stands_for_all_and_ipv4_comes_first() {
        let (agent, lease) = (AddressSource::Agent, AddressSource::Lease);
        assert_eq!(address_in_short(&[]), None);
        assert_eq!(address_in_short(&[card(&[])]), None);
        let cards = [card(&[("2001:db8::5", agent)]), card(&[("10.0.0.5", lease)])];
        assert_eq!(address_in_short(&cards).unwrap(), "10.0.0.5 +1");
        assert_eq!(address_in_short(&cards[..1]).unwrap(), "2001:db8::5");
    }

    #[test]
    fn a_line_says_who_says_so_or_why_nobody_does() {
        let words = card(&[("10.0.0.5", AddressSource::Lease)]).words();
        assert_eq!(words, "52:54:00:00:00:01 on network default: 10.0.0.5 (DHCP lease)");
        assert!(card(&[]).words().ends_with(": none seen yet"));
    }

    #[test]
    fn sources_of_a_newer_agent_are_read() {
        let text = r#"{"ip": "10.0.0.5", "from": "oracle"}"#;
        let address: Address = serde_json::from_str(text).unwrap();
        assert_eq!(address.from, AddressSource::Other);
    }
}
