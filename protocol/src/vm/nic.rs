//! A network card, and what it is plugged into.
//!
//! On the wire it is one flat object, `{"network": "bridge", "bridge": "br0", "mac": …}`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::InvalidVm;

/// One network card.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Flat", into = "Flat")]
pub struct NicSpec {
    /// What it is plugged into.
    pub plug: Plug,
    /// What the guest sees.
    pub model: NicModel,
    /// Its address; without one it follows from the VM's name and the card's place.
    pub mac: Option<String>,
    /// Most KiB a second in each direction.
    pub limit_kib_s: Option<u64>,
}

/// What a network card is plugged into.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Plug {
    /// QEMU's user-mode network: out through the host, nothing in. Needs no set-up.
    User,
    /// A bridge that exists on the host.
    Bridge {
        /// The bridge's interface name.
        bridge: String,
    },
    /// A network that libvirt manages.
    Libvirt {
        /// Its libvirt name, such as `default`.
        name: String,
    },
}

/// What a guest sees of a network card.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NicModel {
    /// The fastest; needs a driver that Linux has.
    #[default]
    Virtio,
    /// An Intel card that every system knows.
    E1000e,
    /// A Realtek card that old systems know.
    Rtl8139,
}

impl NicModel {
    /// libvirt's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            NicModel::Virtio => "virtio",
            NicModel::E1000e => "e1000e",
            NicModel::Rtl8139 => "rtl8139",
        }
    }
}

impl From<Plug> for NicSpec {
    fn from(plug: Plug) -> Self {
        Self { plug, model: NicModel::default(), mac: None, limit_kib_s: None }
    }
}

impl NicSpec {
    pub(super) fn validate(&self) -> Result<(), InvalidVm> {
        if let Some(mac) = self.mac.as_ref().filter(|mac| !is_mac(mac)) {
            return Err(InvalidVm::Mac(mac.clone()));
        }
        if self.limit_kib_s == Some(0) || (self.limit_kib_s.is_some() && self.plug == Plug::User) {
            return Err(InvalidVm::NicLimit);
        }
        let name = match &self.plug {
            Plug::User => return Ok(()),
            Plug::Bridge { bridge } => bridge,
            Plug::Libvirt { name } => name,
        };
        let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if (1..=15).contains(&name.len()) && name.chars().all(is_fine) {
            Ok(())
        } else {
            Err(InvalidVm::NetworkName(name.clone()))
        }
    }
}

/// The address of a VM's nth card that names none: QEMU's prefix and three bytes that follow from its
/// domain. libvirt would invent a new one at every definition, and the guest would lose its lease.
#[must_use]
pub fn mac_of(domain: Uuid, index: usize) -> String {
    let [.., a, b, c] = domain.into_bytes();
    let last = u32::from_be_bytes([0, a, b, c]).wrapping_add(u32::try_from(index).unwrap_or(0));
    let [_, a, b, c] = last.to_be_bytes();
    format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
}

/// Six pairs of small hexadecimal digits, not a multicast address.
fn is_mac(mac: &str) -> bool {
    let pairs: Vec<&str> = mac.split(':').collect();
    let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let is_pair = |pair: &&str| pair.len() == 2 && pair.chars().all(is_hex);
    let first = pairs.first().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    pairs.len() == 6 && pairs.iter().all(is_pair) && first.is_some_and(|byte| byte & 1 == 0)
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Flat {
    network: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bridge: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "super::hardware::is_default")]
    model: NicModel,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit_kib_s: Option<u64>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "NicNetwork")]
enum Kind {
    User,
    Bridge,
    Libvirt,
}

impl TryFrom<Flat> for NicSpec {
    type Error = String;

    fn try_from(flat: Flat) -> Result<Self, String> {
        let plug = match (flat.network, flat.bridge, flat.name) {
            (Kind::User, None, None) => Plug::User,
            (Kind::Bridge, Some(bridge), None) => Plug::Bridge { bridge },
            (Kind::Libvirt, None, Some(name)) => Plug::Libvirt { name },
            (kind, ..) => {
                return Err(format!(
                    "a card in network {kind:?} has other fields: `bridge` for a bridge, `name` for libvirt, neither for user"
                ));
            }
        };
        let (model, mac, limit_kib_s) = (flat.model, flat.mac, flat.limit_kib_s);
        Ok(Self { plug, model, mac, limit_kib_s })
    }
}

impl From<NicSpec> for Flat {
    fn from(nic: NicSpec) -> Self {
        let (network, bridge, name) = match nic.plug {
            Plug::User => (Kind::User, None, None),
            Plug::Bridge { bridge } => (Kind::Bridge, Some(bridge), None),
            Plug::Libvirt { name } => (Kind::Libvirt, None, Some(name)),
        };
        Self { network, bridge, name, model: nic.model, mac: nic.mac, limit_kib_s: nic.limit_kib_s }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_network_card_has_an_address_of_its_own_that_stays() {
        let uuid = Uuid::from_u128(0xff_ffff);
        assert_eq!(mac_of(uuid, 0), "52:54:00:ff:ff:ff");
        assert_eq!(mac_of(uuid, 1), "52:54:00:00:00:00");
    }
}
