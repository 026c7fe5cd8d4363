//! Making libvirt's networks and taking them away, each so that repeating it is harmless.

use virt_sys as sys;

use super::ffi::{Connection, Network, RawError};
use crate::network::{NetworkConfig, NetworkInfo};
use crate::network_xml::{NetworkRead, made_of, network_xml};

/// Every network. One that goes away while it is looked at is passed over.
pub(super) fn list(connection: &Connection) -> Result<Vec<NetworkInfo>, RawError> {
    let mut infos = Vec::new();
    for network in connection.networks()? {
        match info(&network) {
            Ok(info) => infos.extend(info),
            Err(raw) if raw.code == sys::VIR_ERR_NO_NETWORK => {}
            Err(raw) => return Err(raw),
        }
    }
    Ok(infos)
}

fn info(network: &Network) -> Result<Option<NetworkInfo>, RawError> {
    let is_active = network.is_active()?;
    let read = NetworkRead::read(&network.xml(0)?);
    if read.is_none() {
        tracing::warn!("network {} can't be read", network.name());
    }
    Ok(read.and_then(|read| read.into_info(is_active)))
}

/// What stands in the way of making one.
pub(super) enum Failure {
    /// Another network has the name.
    Taken,
    /// libvirt says no.
    Raw(RawError),
}

impl From<RawError> for Failure {
    fn from(raw: RawError) -> Self {
        Failure::Raw(raw)
    }
}

/// Defines it unless it is defined so, and starts it. A definition that changes under guests counts from
/// the network's next start: a restart would cut them off.
pub(super) fn make(connection: &Connection, config: &NetworkConfig) -> Result<(), Failure> {
    let found = match connection.network_named(config.name.as_str()) {
        Ok(network) if network.uuid() != config.uuid() => return Err(Failure::Taken),
        Ok(network) => Some(network),
        Err(raw) if raw.code == sys::VIR_ERR_NO_NETWORK => None,
        Err(raw) => return Err(raw.into()),
    };
    let network = match found {
        Some(network) if is_made_of(&network, config) => network,
        found => {
            if let Some(before) = found {
                let cards = info(&before)?.map_or(0, |info| info.cards);
                if before.is_active()? && cards == 0 {
                    before.destroy()?;
                }
            }
            connection.define_network(&network_xml(config))?
        }
    };
    if !network.is_autostarted()? {
        network.set_autostart()?;
    }
    if !network.is_active()? {
        network.create()?;
    }
    Ok(())
}

fn is_made_of(network: &Network, config: &NetworkConfig) -> bool {
    // A transient one would be gone with libvirt's next start.
    let is_kept = network.is_persistent().unwrap_or(false);
    let read = network.xml(sys::VIR_NETWORK_XML_INACTIVE).ok();
    let read = read.and_then(|xml| NetworkRead::read(&xml));
    is_kept && read.and_then(|read| read.made) == Some(made_of(config))
}

/// Stops and forgets it.
pub(super) fn remove(network: &Network) -> Result<(), RawError> {
    if network.is_active()? {
        network.destroy()?;
    }
    match network.is_persistent() {
        Ok(true) => network.undefine(),
        Ok(false) => Ok(()),
        // A transient one is gone by now.
        Err(raw) if raw.code == sys::VIR_ERR_NO_NETWORK => Ok(()),
        Err(raw) => Err(raw),
    }
}
