//! A network of a host: what somebody asks for, and what the host says of it.
//!
//! A spec is the same text on every host that is to have the network, so that hosts can be told alike and
//! compared. Names are short enough that the kernel's devices can carry them.

mod subnet;
pub use subnet::{InvalidSubnet, Subnet};

use core::net::Ipv4Addr;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{JobId, Revision};

/// Longest name of a network: with a prefix of three it is a device's name, which the kernel keeps below
/// 16 bytes (`IFNAMSIZ`).
pub const NETWORK_CHARS_MAX: usize = 12;
/// Most networks that one host is asked to make: each is a bridge, a DHCP server and some rules.
pub const NETWORKS_MAX: usize = 64;
/// Most hosts of one overlay: each sends what goes to everybody to all others.
pub const MEMBERS_MAX: usize = 256;
/// Highest tag of a VLAN.
pub const VLAN_MAX: u16 = 4094;
/// Highest identifier of an overlay: 24 bits.
pub const VNI_MAX: u32 = (1 << 24) - 1;

/// A network's name.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkName(String);

/// Why a text names no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "network name {0:?}: use 1 to {NETWORK_CHARS_MAX} of a-z, 0-9 and '-', starting with a letter, for the host's devices carry it"
)]
pub struct InvalidNetworkName(pub String);

/// What a network is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum NetworkSpec {
    /// Guests reach out through their host, which answers as the first address of the subnet, with DNS
    /// and, unless told otherwise, DHCP. Nobody outside reaches them.
    Nat {
        /// The guests' and the host's addresses.
        subnet: Subnet,
        /// Whether guests are given their addresses.
        #[serde(default = "yes")]
        dhcp: bool,
    },
    /// Guests of one host reach each other, and their host if it has a subnet.
    Isolated {
        /// The guests' and the host's addresses; without it the host has none there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subnet: Option<Subnet>,
        /// Whether guests are given their addresses, if there are some to give.
        #[serde(default = "yes")]
        dhcp: bool,
    },
    /// A bridge that is there already.
    Bridge {
        /// Its interface name.
        bridge: String,
    },
    /// One VLAN of what an interface of the host carries.
    Vlan {
        /// The interface, such as `eth1`, or a bridge.
        uplink: String,
        /// The VLAN's tag, 1 to [`VLAN_MAX`].
        tag: u16,
    },
    /// One Ethernet over several hosts, in VXLAN between their addresses.
    Overlay {
        /// Its identifier, 1 to [`VNI_MAX`]; the same on all hosts.
        vni: u32,
        /// The addresses of all hosts that have it, their own included. Only being left out of a newer
        /// list ends a tunnel.
        members: Vec<Ipv4Addr>,
    },
}

fn yes() -> bool {
    true
}

/// Why no host can have such a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    /// A subnet without room for a host and a guest, or too large.
    #[error("subnet {0}: use a private one of /8 to /29, such as 10.20.0.0/24")]
    Subnet(Subnet),
    /// What is no interface's name.
    #[error("interface name {0:?}: use 1 to 15 of a-z, A-Z, 0-9, '-', '_' and '.'")]
    Interface(String),
    /// A tag that no VLAN has.
    #[error("VLAN {0}: use 1 to {VLAN_MAX}")]
    Tag(u16),
    /// An identifier that no overlay has.
    #[error("overlay {0}: use 1 to {VNI_MAX}")]
    Vni(u32),
    /// No hosts, too many, or one twice.
    #[error("{0} members: name 1 to {MEMBERS_MAX} different addresses of hosts")]
    Members(usize),
    /// An address that no host can be reached at.
    #[error("member {0}: name addresses by which hosts reach each other")]
    Member(Ipv4Addr),
}

/// `PUT /v1/networks/{name}` on a host. 201 [`NetworkStatus`] when it is written down; the host makes it
/// and keeps it. 200 when it is so already; else a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutNetwork {
    /// Which change of it; above the present one.
    pub revision: Revision,
    /// What it is.
    pub spec: NetworkSpec,
}

/// `GET /v1/networks/{name}` on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkStatus {
    /// Its name.
    pub name: String,
    /// What was asked for; absent for networks that Ostler did not make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<NetworkSpec>,
    /// How it is; absent until the host has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<NetworkFacts>,
    /// The jobs here that name it.
    #[serde(default)]
    pub users: Vec<JobId>,
}

/// `GET /v1/networks` on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkList {
    /// Every network, ours and others'.
    pub networks: Vec<NetworkStatus>,
}

/// The networks of a host, by libvirt's name, as it says them to everybody.
pub type Networks = BTreeMap<String, NetworkFacts>;

/// A network of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkFacts {
    /// What kind it is.
    pub kind: NetworkKind,
    /// The change of it that the host was last asked for; absent for networks that Ostler did not make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// True when guests can be plugged into it.
    pub is_up: bool,
    /// Its bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Its IPv4 subnet, if its host has an address there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Subnet>,
    /// The tag of its VLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The identifier of its overlay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// The hosts of its overlay, by address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Ipv4Addr>,
    /// What keeps the host from making it as asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// The kinds of network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkKind {
    /// Out through the host.
    Nat,
    /// Among guests of one host.
    Isolated,
    /// A bridge that was there.
    Bridge,
    /// A VLAN.
    Vlan,
    /// An overlay.
    Overlay,
    /// Another of libvirt's kinds, or one that only a newer agent knows.
    #[serde(other)]
    Other,
}

impl NetworkName {
    /// Takes a text as a name, or says what it would have to be.
    pub fn new(value: impl Into<String>) -> Result<Self, InvalidNetworkName> {
        let value = value.into();
        let is_fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let begins = value.starts_with(|c: char| c.is_ascii_lowercase());
        if begins && value.len() <= NETWORK_CHARS_MAX && value.chars().all(is_fine) {
            Ok(Self(value))
        } else {
            Err(InvalidNetworkName(value.chars().take(64).collect()))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for NetworkName {
    type Err = InvalidNetworkName;
    fn from_str(value: &str) -> Result<Self, InvalidNetworkName> {
        Self::new(value)
    }
}

impl TryFrom<String> for NetworkName {
    type Error = InvalidNetworkName;
    fn try_from(value: String) -> Result<Self, InvalidNetworkName> {
        Self::new(value)
    }
}

impl From<NetworkName> for String {
    fn from(name: NetworkName) -> String {
        name.0
    }
}

impl NetworkSpec {
    /// The kind.
    #[must_use]
    pub fn kind(&self) -> NetworkKind {
        match self {
            NetworkSpec::Nat { .. } => NetworkKind::Nat,
            NetworkSpec::Isolated { .. } => NetworkKind::Isolated,
            NetworkSpec::Bridge { .. } => NetworkKind::Bridge,
            NetworkSpec::Vlan { .. } => NetworkKind::Vlan,
            NetworkSpec::Overlay { .. } => NetworkKind::Overlay,
        }
    }

    /// The subnet in which the host has an address.
    #[must_use]
    pub fn subnet(&self) -> Option<Subnet> {
        match self {
            NetworkSpec::Nat { subnet, .. } => Some(*subnet),
            NetworkSpec::Isolated { subnet, .. } => *subnet,
            _ => None,
        }
    }

    /// True when it can become `other` under its guests: only who is in an overlay changes.
    #[must_use]
    pub fn is_but_for_members(&self, other: &Self) -> bool {
        match (self, other) {
            (NetworkSpec::Overlay { vni: a, .. }, NetworkSpec::Overlay { vni: b, .. }) => a == b,
            (a, b) => a == b,
        }
    }

    /// Checks everything that does not depend on a host.
    pub fn validate(&self) -> Result<(), InvalidNetwork> {
        if let Some(subnet) = self.subnet().filter(|subnet| !subnet.is_for_guests()) {
            return Err(InvalidNetwork::Subnet(subnet));
        }
        match self {
            NetworkSpec::Nat { .. } | NetworkSpec::Isolated { .. } => Ok(()),
            NetworkSpec::Bridge { bridge } => check_interface(bridge),
            NetworkSpec::Vlan { uplink, tag } => {
                check_interface(uplink)?;
                let is_tag = (1..=VLAN_MAX).contains(tag);
                is_tag.then_some(()).ok_or(InvalidNetwork::Tag(*tag))
            }
            NetworkSpec::Overlay { vni, members } => {
                if !(1..=VNI_MAX).contains(vni) {
                    return Err(InvalidNetwork::Vni(*vni));
                }
                let mut sorted = members.clone();
                sorted.sort();
                sorted.dedup();
                if !(1..=MEMBERS_MAX).contains(&members.len()) || sorted.len() != members.len() {
                    return Err(InvalidNetwork::Members(members.len()));
                }
                let is_odd = |ip: &&Ipv4Addr| {
                    ip.is_unspecified()
                        || ip.is_loopback()
                        || ip.is_multicast()
                        || ip.is_broadcast()
                };
                members.iter().find(is_odd).map_or(Ok(()), |ip| Err(InvalidNetwork::Member(*ip)))
            }
        }
    }
}

impl NetworkKind {
    /// The word on the wire and on screens.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            NetworkKind::Nat => "nat",
            NetworkKind::Isolated => "isolated",
            NetworkKind::Bridge => "bridge",
            NetworkKind::Vlan => "vlan",
            NetworkKind::Overlay => "overlay",
            NetworkKind::Other => "other",
        }
    }
}

fn check_interface(name: &str) -> Result<(), InvalidNetwork> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_name = (1..=15).contains(&name.len()) && name.chars().all(is_fine);
    // The kernel keeps these for itself, and `ip` takes a leading dash for an option.
    if is_name && !matches!(name, "." | "..") && !name.starts_with('-') {
        Ok(())
    } else {
        Err(InvalidNetwork::Interface(name.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_with_a_prefix_is_a_devices_name() {
        for good in ["a", "blue", "twelve-chars"] {
            assert!(NetworkName::new(good).unwrap().as_str().len() + 3 <= 15);
        }
        for bad in ["", "Blue", "1st", "thirteen-char", "a.b", "-a", "a b"] {
            assert!(NetworkName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_spec_reads_as_a_person_would_write_it() {
        let nat: NetworkSpec =
            serde_json::from_str(r#"{"kind": "nat", "subnet": "10.20.0.0/24"}"#).unwrap();
        assert_eq!(nat, NetworkSpec::Nat { subnet: subnet("10.20.0.0/24"), dhcp: true });
        let text = r#"{"kind": "overlay", "vni": 7, "members": ["10.0.0.1", "10.0.0.2"]}"#;
        let overlay: NetworkSpec = serde_json::from_str(text).unwrap();
        assert_eq!(overlay.validate(), Ok(()));
        let unknown = r#"{"kind": "nat", "subnet": "10.20.0.0/24", "vlan": 3}"#;
        assert!(serde_json::from_str::<NetworkSpec>(unknown).is_err());
    }

    #[test]
    fn what_no_host_can_have_is_said() {
        let vlan = |uplink: &str, tag| NetworkSpec::Vlan { uplink: uplink.into(), tag };
        assert_eq!(vlan("eth0", 4094).validate(), Ok(()));
        assert_eq!(vlan("eth0", 4095).validate(), Err(InvalidNetwork::Tag(4095)));
        for odd in ["", "sixteen-chars-xx", "-eth0", "a b", ".."] {
            assert_eq!(vlan(odd, 1).validate(), Err(InvalidNetwork::Interface(odd.into())));
        }
        let overlay = |vni, members: &[&str]| {
            let members = members.iter().map(|ip| ip.parse().unwrap()).collect();
            NetworkSpec::Overlay { vni, members }.validate()
        };
        assert_eq!(overlay(0, &["10.0.0.1"]), Err(InvalidNetwork::Vni(0)));
        assert_eq!(overlay(1, &[]), Err(InvalidNetwork::Members(0)));
        assert_eq!(overlay(1, &["10.0.0.1", "10.0.0.1"]), Err(InvalidNetwork::Members(2)));
        let loopback = "127.0.0.1".parse().unwrap();
        assert_eq!(overlay(1, &["127.0.0.1"]), Err(InvalidNetwork::Member(loopback)));
        let nat = NetworkSpec::Nat { subnet: subnet("10.0.0.0/30"), dhcp: true };
        assert!(matches!(nat.validate(), Err(InvalidNetwork::Subnet(_))));
    }

    #[test]
    fn only_the_members_of_an_overlay_change_under_its_guests() {
        let overlay = |vni, members: &[&str]| NetworkSpec::Overlay {
            vni,
            members: members.iter().map(|ip| ip.parse().unwrap()).collect(),
        };
        assert!(overlay(7, &["10.0.0.1"]).is_but_for_members(&overlay(7, &["10.0.0.2"])));
        assert!(!overlay(7, &["10.0.0.1"]).is_but_for_members(&overlay(8, &["10.0.0.1"])));
        let nat = |text| NetworkSpec::Nat { subnet: subnet(text), dhcp: true };
        assert!(!nat("10.1.0.0/24").is_but_for_members(&nat("10.2.0.0/24")));
    }
}
