//! How a network is described to libvirt, and what libvirt says of one: pure, both ways.
//!
//! The same configuration gives the same text on every host. What a definition of ours was made of is in
//! its metadata, so that what libvirt adds to it (a hardware address) is not taken for a change.

use core::net::Ipv4Addr;

use protocol::network::{NetworkKind, Subnet};
use protocol::signed::Digest;
use uuid::Uuid;

use crate::domain_xml::Xml;
use crate::network::{NetworkConfig, NetworkForm, NetworkInfo};
use crate::xml_walk::{Element, Visit, walk};

/// Namespace of our element in a network's metadata.
const NAMESPACE: &str = "urn:ostler:network";
/// Our element there.
const ELEMENT: &str = "ostler:network";

/// The network's definition.
#[must_use]
pub fn network_xml(config: &NetworkConfig) -> String {
    with_mark(config, &made_of(config))
}

/// What tells two definitions apart: a fingerprint of everything else in them.
pub(crate) fn made_of(config: &NetworkConfig) -> String {
    let mut digest = Digest::of_json(&with_mark(config, "")).to_string();
    digest.truncate(16);
    digest
}

fn with_mark(config: &NetworkConfig, mark: &str) -> String {
    let mut xml = Xml::new();
    xml.open("network", &[]);
    xml.text("name", &[], config.name.as_str());
    xml.text("uuid", &[], &config.uuid().to_string());
    xml.open("metadata", &[]);
    xml.empty(ELEMENT, &[("xmlns:ostler", NAMESPACE), ("made", mark)]);
    xml.close("metadata");
    match &config.form {
        NetworkForm::Bridge { bridge } => {
            xml.empty("forward", &[("mode", "bridge")]);
            xml.empty("bridge", &[("name", bridge)]);
        }
        NetworkForm::Own { bridge, subnet, dhcp, is_nat } => {
            if *is_nat {
                xml.empty("forward", &[("mode", "nat")]);
            }
            xml.empty("bridge", &[("name", bridge), ("stp", "on"), ("delay", "0")]);
            match subnet {
                Some(subnet) => addresses(&mut xml, config, *subnet, *dhcp),
                None => xml.empty("dns", &[("enable", "no")]),
            }
        }
    }
    xml.close("network");
    xml.into_string()
}

fn addresses(xml: &mut Xml, config: &NetworkConfig, subnet: Subnet, dhcp: bool) {
    // Names of guests are answered for here, and not asked for elsewhere.
    xml.empty("domain", &[("name", config.name.as_str()), ("localOnly", "yes")]);
    let text = |ip: Ipv4Addr| ip.to_string();
    let (address, netmask) = (text(subnet.gateway()), text(subnet.netmask()));
    xml.open("ip", &[("address", &*address), ("netmask", &netmask)]);
    if dhcp {
        let (first, last) = (text(subnet.nth(2)), text(subnet.last()));
        xml.open("dhcp", &[]);
        xml.empty("range", &[("start", &*first), ("end", &last)]);
        xml.close("dhcp");
    }
    xml.close("ip");
}

/// What libvirt's XML says of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkRead {
    /// Its name.
    pub name: String,
    /// Its uuid.
    pub uuid: Option<Uuid>,
    /// What our mark in it says that it was made of, if it has one.
    pub made: Option<String>,
    forward: Option<String>,
    bridge: Option<String>,
    subnets: Vec<Subnet>,
    cards: u32,
}

impl NetworkRead {
    /// Reads libvirt's XML; `None` when it is none.
    #[must_use]
    pub fn read(xml: &str) -> Option<Self> {
        let mut read = Self::default();
        walk(xml, "network", &mut read)?;
        Some(read)
    }

    /// What is seen of it.
    #[must_use]
    pub fn into_info(self, is_active: bool) -> Option<NetworkInfo> {
        let kind = match self.forward.as_deref() {
            None => NetworkKind::Isolated,
            Some("nat") => NetworkKind::Nat,
            Some("bridge") if self.bridge.is_some() => NetworkKind::Bridge,
            Some(_) => NetworkKind::Other,
        };
        Some(NetworkInfo {
            uuid: self.uuid?,
            name: self.name,
            is_active,
            is_ours: self.made.is_some(),
            kind,
            bridge: self.bridge,
            subnets: self.subnets,
            cards: self.cards,
        })
    }
}

impl Visit for NetworkRead {
    fn begin(&mut self, path: &[&str], element: &Element<'_>) {
        let attribute = |name: &str| element.attribute(name);
        match *path {
            ["network"] => {
                let cards = attribute("connections").and_then(|text| text.parse().ok());
                self.cards = cards.unwrap_or(0);
            }
            ["network", "metadata", ELEMENT] => self.made = attribute("made"),
            ["network", "forward"] => {
                self.forward = Some(attribute("mode").unwrap_or_else(|| "nat".to_owned()));
            }
            ["network", "bridge"] => self.bridge = attribute("name"),
            ["network", "ip"] => {
                let ip: Option<Ipv4Addr> = attribute("address").and_then(|ip| ip.parse().ok());
                let prefix = attribute("prefix").and_then(|text| text.parse().ok());
                let mask: Option<Ipv4Addr> = attribute("netmask").and_then(|ip| ip.parse().ok());
                let of_mask =
                    mask.and_then(|mask| u8::try_from(mask.to_bits().leading_ones()).ok());
                let prefix = prefix.or(of_mask).filter(|prefix| *prefix <= 32);
                // Without a mask libvirt takes the class of the address, which nobody writes any more.
                let subnet = ip.zip(prefix).map(|(ip, prefix)| Subnet::around(ip, prefix));
                self.subnets.extend(subnet);
            }
            _ => {}
        }
    }

    fn text(&mut self, path: &[&str], text: &str) {
        match *path {
            ["network", "name"] => text.clone_into(&mut self.name),
            ["network", "uuid"] => self.uuid = text.parse().ok(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;
    use std::{env, fs};

    use protocol::network::NetworkName;

    use super::*;

    fn config(name: &str, form: NetworkForm) -> NetworkConfig {
        NetworkConfig { name: NetworkName::new(name).unwrap(), form }
    }

    fn own(name: &str, subnet: Option<&str>, dhcp: bool, is_nat: bool) -> NetworkConfig {
        let (bridge, subnet) = (format!("ob-{name}"), subnet.map(|text| text.parse().unwrap()));
        config(name, NetworkForm::Own { bridge, subnet, dhcp, is_nat })
    }

    fn goldens() -> Vec<(&'static str, NetworkConfig)> {
        vec![
            ("network-nat.xml", own("blue", Some("10.20.0.0/22"), true, true)),
            ("network-isolated.xml", own("alone", Some("10.30.0.0/24"), false, false)),
            ("network-no-subnet.xml", own("twelve-chars", None, true, false)),
            ("network-bridge.xml", config("lan", NetworkForm::Bridge { bridge: "br0".to_owned() })),
        ]
    }

    fn golden_path(file: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(file)
    }

    #[test]
    fn definitions_are_as_in_the_golden_files() {
        for (file, config) in goldens() {
            let (path, xml) = (golden_path(file), network_xml(&config));
            if env::var_os("OSTLER_REWRITE_GOLDEN").is_some() {
                fs::write(&path, &xml).unwrap();
            }
            let golden = fs::read_to_string(&path).unwrap();
            assert_eq!(xml, golden, "{file}: rewrite with OSTLER_REWRITE_GOLDEN=1");
        }
    }

    #[test]
    fn libvirts_schema_accepts_the_golden_files() {
        for (file, _) in goldens() {
            match Command::new("virt-xml-validate").arg(golden_path(file)).arg("network").output() {
                // The script's own way to say that it lacks xmllint.
                Ok(output) if output.status.code() == Some(127) => {
                    let why = String::from_utf8_lossy(&output.stderr);
                    return crate::skipped::note("virt-xml-validate", why.trim());
                }
                Ok(output) => assert!(output.status.success(), "{file}: {output:?}"),
                Err(error) => return crate::skipped::note("virt-xml-validate", &error.to_string()),
            }
        }
    }

    #[test]
    fn what_was_written_is_read_back() {
        for (file, config) in goldens() {
            let read = NetworkRead::read(&network_xml(&config)).unwrap();
            assert_eq!(read.made, Some(made_of(&config)), "{file}");
            let info = read.into_info(true).unwrap();
            assert_eq!((info.name.as_str(), info.uuid), (config.name.as_str(), config.uuid()));
            let subnets: Vec<Subnet> = match &config.form {
                NetworkForm::Own { subnet, .. } => subnet.iter().copied().collect(),
                NetworkForm::Bridge { .. } => vec![],
            };
            assert_eq!(info.subnets, subnets, "{file}");
        }
    }

    #[test]
    fn another_definition_has_another_mark() {
        let marks: Vec<String> = goldens().iter().map(|(_, config)| made_of(config)).collect();
        let mut others = marks.clone();
        others.sort();
        others.dedup();
        assert_eq!(others.len(), marks.len());
        let renumbered = own("blue", Some("10.21.0.0/22"), true, true);
        assert_ne!(made_of(&renumbered), marks[0]);
    }

    #[test]
    fn a_network_of_others_is_read_as_far_as_it_goes() {
        let xml = "<network connections='2'><name>default</name>
            <uuid>00000000-0000-0000-0000-000000000005</uuid>
            <forward mode='nat'><nat><port start='1024' end='65535'/></nat></forward>
            <bridge name='virbr0' stp='on' delay='0'/>
            <ip address='192.168.122.1' netmask='255.255.255.0'/>
            <ip family='ipv6' address='fd00::1' prefix='64'/></network>";
        let info = NetworkRead::read(xml).unwrap().into_info(true).unwrap();
        assert_eq!((info.kind, info.cards, info.is_ours), (NetworkKind::Nat, 2, false));
        assert_eq!(info.bridge.as_deref(), Some("virbr0"));
        assert_eq!(info.subnets, ["192.168.122.0/24".parse().unwrap()]);
        let macvtap = "<network><name>m</name><uuid>00000000-0000-0000-0000-000000000006</uuid>
            <forward mode='bridge'><interface dev='eth0'/></forward></network>";
        let info = NetworkRead::read(macvtap).unwrap().into_info(false).unwrap();
        assert_eq!(info.kind, NetworkKind::Other);
        for text in ["", "<domain/>", "no xml"] {
            assert_eq!(NetworkRead::read(text), None, "{text:?}");
        }
    }
}
