//! What a libvirt network is told to be, and what it is seen to be.

use protocol::network::{NetworkKind, NetworkName, Subnet};
use uuid::Uuid;

/// Everything a network's definition is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Its name.
    pub name: NetworkName,
    /// What guests are plugged into.
    pub form: NetworkForm,
}

/// What guests are plugged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkForm {
    /// A bridge that libvirt makes for it.
    Own {
        /// The bridge.
        bridge: String,
        /// The host's and the guests' addresses there.
        subnet: Option<Subnet>,
        /// Whether guests are given theirs.
        dhcp: bool,
        /// Whether guests reach out through the host.
        is_nat: bool,
    },
    /// A bridge that is there.
    Bridge {
        /// The bridge.
        bridge: String,
    },
}

impl NetworkConfig {
    /// The network's uuid: it follows from the name, on every host alike.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("urn:ostler:network:{}", self.name).as_bytes())
    }
}

/// A network as seen at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkInfo {
    /// Its uuid.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// True when guests can be plugged into it.
    pub is_active: bool,
    /// True when Ostler made it.
    pub is_ours: bool,
    /// What it is, as far as libvirt knows: what is behind a bridge it does not.
    pub kind: NetworkKind,
    /// Its bridge.
    pub bridge: Option<String>,
    /// The IPv4 subnets in which the host has an address there.
    pub subnets: Vec<Subnet>,
    /// Guests' cards that are plugged in.
    pub cards: u32,
}
