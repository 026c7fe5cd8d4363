//! The network cards of a running guest, and what its host's tables and its own agent say of their
//! addresses, put together. Pure.
//!
//! Which of libvirt's tables is worth asking is decided here too: each question takes the domain's
//! lock, or a turn of the guest's agent.

use std::net::IpAddr;

use protocol::job::{ADDRESSES_MAX, Address, AddressSource, CARDS_MAX, Card, Unknown};

use crate::xml_walk::{Element, Visit, walk};

/// `ATF_COM`: the neighbour has answered with its hardware address.
const ANSWERED: u32 = 2;

/// What a running domain's XML says of its cards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cards {
    /// The cards, without addresses.
    pub cards: Vec<Card>,
    /// True when an agent in the guest has opened its channel.
    pub has_agent: bool,
}

/// An interface as one of libvirt's tables lists it. An agent lists all that its guest has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) mac: String,
    pub(crate) ips: Vec<String>,
}

impl Listed {
    /// The kernel's `/proc/net/arp`: who has answered, and at which address.
    pub(crate) fn neighbours(table: &str) -> Vec<Self> {
        let mut known = Vec::new();
        for line in table.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [ip, _, flags, mac, ..] = words[..] else { continue };
            let flags = flags.strip_prefix("0x").and_then(|hex| u32::from_str_radix(hex, 16).ok());
            if flags.is_some_and(|flags| flags & ANSWERED != 0) {
                known.push(Self { mac: mac.to_owned(), ips: vec![ip.to_owned()] });
            }
        }
        known
    }

    /// A table for each, as if each were said alone.
    pub(crate) fn each(
        known: &[(AddressSource, String, IpAddr)],
    ) -> Vec<(AddressSource, Vec<Self>)> {
        let one = |mac: &String, ip: &IpAddr| Self { mac: mac.clone(), ips: vec![ip.to_string()] };
        known.iter().map(|(from, mac, ip)| (*from, vec![one(mac, ip)])).collect()
    }
}

impl Cards {
    /// Reads a running domain's XML; `None` when it is none.
    #[must_use]
    pub fn read(xml: &str) -> Option<Self> {
        let mut read = Self::default();
        walk(xml, "domain", &mut read)?;
        read.cards.retain(|card| !card.mac.is_empty());
        read.cards.truncate(CARDS_MAX);
        Some(read)
    }

    /// The tables worth asking.
    pub(crate) fn sources(&self) -> Vec<AddressSource> {
        let any = |is: fn(&Card) -> bool| self.cards.iter().any(is);
        let asked = [
            (AddressSource::Agent, self.has_agent && any(|_| true)),
            (AddressSource::Lease, any(|card| card.plug == "network")),
            (AddressSource::Neighbour, any(|card| card.plug != "user")),
        ];
        asked.into_iter().filter(|(_, is)| *is).map(|(source, _)| source).collect()
    }

    /// The cards with what was listed of them. An address that several tables have is the best one's.
    pub(crate) fn known(mut self, listed: &[(AddressSource, Vec<Listed>)]) -> Vec<Card> {
        for card in &mut self.cards {
            let mut found: Vec<Address> = Vec::new();
            for (from, interfaces) in listed {
                let of_card = interfaces.iter().filter(|i| i.mac.eq_ignore_ascii_case(&card.mac));
                for ip in of_card.flat_map(|i| &i.ips).filter_map(|ip| ip.parse().ok()) {
                    found.extend(is_shown(ip).then_some(Address { ip, from: *from }));
                }
            }
            found.sort();
            found.dedup_by_key(|address| address.ip);
            found.truncate(ADDRESSES_MAX);
            let why = if card.plug == "user" { Unknown::UserNetwork } else { Unknown::NotSeen };
            card.unknown = found.is_empty().then_some(why);
            card.addresses = found;
        }
        self.cards
    }
}

impl Visit for Cards {
    fn begin(&mut self, path: &[&str], element: &Element<'_>) {
        let attribute = |name: &str| element.attribute(name);
        match *path {
            ["domain", "devices", "interface"] => self.cards.push(Card {
                mac: String::new(),
                plug: attribute("type").unwrap_or_default(),
                source: None,
                device: None,
                addresses: vec![],
                unknown: None,
            }),
            ["domain", "devices", "interface", part] => {
                let Some(card) = self.cards.last_mut() else { return };
                match part {
                    "mac" => card.mac = attribute("address").unwrap_or_default(),
                    // A network's card names the bridge that it is on as well.
                    "source" => {
                        let sources = ["network", "bridge", "dev"];
                        card.source = sources.into_iter().find_map(attribute);
                    }
                    "target" => card.device = attribute("dev"),
                    _ => {}
                }
            }
            ["domain", "devices", "channel", "target"] => {
                let is_agent = attribute("name").as_deref() == Some("org.qemu.guest_agent.0");
                self.has_agent |= is_agent && attribute("state").as_deref() == Some("connected");
            }
            _ => {}
        }
    }
}

/// What is valid on its own link alone follows from the card, or says that there was no DHCP server.
fn is_shown(ip: IpAddr) -> bool {
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(is_link_local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: &str = "<domain type='kvm' id='3'><devices>
        <interface type='network'><mac address='52:54:00:00:00:01'/>
          <source network='default' portid='x' bridge='virbr0'/><target dev='vnet0'/></interface>
        <interface type='user'><mac address='52:54:00:00:00:02'/></interface>
        <interface type='bridge'><mac address='52:54:00:00:00:03'/><source bridge='br0'/>
          <target dev='vnet1'/></interface>
        <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>
        </channel></devices></domain>";

    fn listed(mac: &str, ips: &[&str]) -> Listed {
        Listed { mac: mac.into(), ips: ips.iter().map(|ip| (*ip).to_owned()).collect() }
    }

    fn of(card: &Card) -> Vec<(String, AddressSource)> {
        card.addresses.iter().map(|address| (address.ip.to_string(), address.from)).collect()
    }

    #[test]
    fn cards_are_read_with_their_plugs_and_the_agents_state() {
        let read = Cards::read(LIVE).unwrap();
        assert!(read.has_agent);
        let seen = |card: &Card| (card.plug.clone(), card.source.clone(), card.device.clone());
        let some = |text: &str| Some(text.to_owned());
        let expected = [
            ("network".to_owned(), some("default"), some("vnet0")),
            ("user".to_owned(), None, None),
            ("bridge".to_owned(), some("br0"), some("vnet1")),
        ];
        assert_eq!(read.cards.iter().map(seen).collect::<Vec<_>>(), expected);
        assert_eq!(Cards::read("<pool/>"), None);
        let gone = LIVE.replace("'connected'", "'disconnected'");
        assert!(!Cards::read(&gone).unwrap().has_agent);
    }

    #[test]
    fn only_tables_that_may_know_are_asked() {
        let mut read = Cards::read(LIVE).unwrap();
        let (agent, lease) = (AddressSource::Agent, AddressSource::Lease);
        let neighbour = AddressSource::Neighbour;
        assert_eq!(read.sources(), [agent, lease, neighbour]);
        read.cards.remove(0);
        assert_eq!(read.sources(), [agent, neighbour]);
        read.cards.truncate(1);
        assert_eq!(read.sources(), [agent]);
        read.has_agent = false;
        assert_eq!(read.sources(), []);
    }

    #[test]
    fn the_best_source_counts_and_silence_is_explained() {
        let (agent, lease) = (AddressSource::Agent, AddressSource::Lease);
        let neighbour = AddressSource::Neighbour;
        let mac = |n: u8| format!("52:54:00:00:00:{n:02X}");
        let tables = [
            (neighbour, vec![listed(&mac(1), &["10.0.0.5"]), listed(&mac(3), &["10.1.0.9"])]),
            (lease, vec![listed(&mac(1), &["10.0.0.5", "nonsense"])]),
            (
                agent,
                vec![listed("00:00:00:00:00:00", &["127.0.0.1"]), listed(&mac(1), &["fe80::1"])],
            ),
        ];
        let cards = Cards::read(LIVE).unwrap().known(&tables);
        assert_eq!(of(&cards[0]), [("10.0.0.5".to_owned(), lease)]);
        assert_eq!((of(&cards[1]), cards[1].unknown), (vec![], Some(Unknown::UserNetwork)));
        assert_eq!(of(&cards[2]), [("10.1.0.9".to_owned(), neighbour)]);
        let cards = Cards::read(LIVE).unwrap().known(&[]);
        assert_eq!(cards[2].unknown, Some(Unknown::NotSeen));
    }

    #[test]
    fn neighbours_that_have_answered_are_known() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device
10.1.0.9         0x1         0x2         52:54:00:00:00:03     *        br0
10.1.0.10        0x1         0x0         00:00:00:00:00:00     *        br0
cut";
        assert_eq!(Listed::neighbours(table), [listed("52:54:00:00:00:03", &["10.1.0.9"])]);
        assert_eq!(Listed::neighbours(""), []);
    }

    #[test]
    fn a_guest_with_very_many_addresses_fills_no_row() {
        let ips: Vec<String> = (0..200).map(|n| format!("10.0.1.{n}")).collect();
        let table = Listed { mac: "52:54:00:00:00:01".into(), ips };
        let cards = Cards::read(LIVE).unwrap().known(&[(AddressSource::Agent, vec![table])]);
        assert_eq!(cards[0].addresses.len(), ADDRESSES_MAX);
    }
}
