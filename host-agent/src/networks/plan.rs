//! From what a network is to be, and the devices that there are, to the commands that make it so. Pure.
//!
//! A network's devices carry its name behind a prefix, and our words as their alias; a device that is
//! called so without them is somebody else's, and is left alone.
//!
//! | device | what |
//! |---|---|
//! | `ob-NAME` | the bridge that guests are plugged into |
//! | `ov-NAME` | the VLAN, a port of it |
//! | `ox-NAME` | the VXLAN tunnels, a port of it |

use core::net::Ipv4Addr;

use hypervisor::NetworkForm;
use protocol::network::{NetworkName, NetworkSpec};

use crate::core::Link;

/// Where VXLAN is heard, by its RFC.
const VXLAN_PORT: &str = "4789";

/// Something to run: a program and its words.
pub(crate) type Line = Vec<String>;

/// The bridge that guests are plugged into.
pub(crate) fn bridge_of(name: &NetworkName) -> String {
    format!("ob-{name}")
}

/// The tunnels of an overlay.
pub(crate) fn tunnel_of(name: &NetworkName) -> String {
    format!("ox-{name}")
}

fn vlan_of(name: &NetworkName) -> String {
    format!("ov-{name}")
}

fn alias_of(name: &NetworkName) -> String {
    format!("ostler network {name}")
}

/// What libvirt is told of it.
pub(crate) fn form_of(name: &NetworkName, spec: &NetworkSpec) -> NetworkForm {
    let bridge = bridge_of(name);
    match spec {
        NetworkSpec::Nat { subnet, dhcp } => {
            NetworkForm::Own { bridge, subnet: Some(*subnet), dhcp: *dhcp, is_nat: true }
        }
        NetworkSpec::Isolated { subnet, dhcp } => {
            NetworkForm::Own { bridge, subnet: *subnet, dhcp: *dhcp, is_nat: false }
        }
        NetworkSpec::Bridge { bridge } => NetworkForm::Bridge { bridge: bridge.clone() },
        NetworkSpec::Vlan { .. } | NetworkSpec::Overlay { .. } => NetworkForm::Bridge { bridge },
    }
}

/// The member that this host is, and the device that has the address.
pub(crate) fn own_member<'a>(
    members: &[Ipv4Addr],
    links: &'a [Link],
) -> Option<(Ipv4Addr, &'a str)> {
    let addresses = links
        .iter()
        .flat_map(|link| link.addresses.iter().map(|(ip, _)| (*ip, link.name.as_str())));
    addresses.into_iter().find(|(ip, _)| members.contains(ip))
}

/// What is to be run so that the network has its devices; an error when it can't have them here.
pub(crate) fn make(
    name: &NetworkName,
    spec: &NetworkSpec,
    links: &[Link],
    floods: &[Ipv4Addr],
) -> Result<Vec<Line>, String> {
    let mut lines = Lines { name, links, lines: Vec::new() };
    match spec {
        NetworkSpec::Nat { .. } | NetworkSpec::Isolated { .. } => {}
        NetworkSpec::Bridge { bridge } => {
            if !links.iter().any(|link| link.name == *bridge) {
                return Err(format!("bridge {bridge} is not on this host"));
            }
        }
        NetworkSpec::Vlan { uplink, tag } => {
            if !links.iter().any(|link| link.name == *uplink) {
                return Err(format!("interface {uplink} is not on this host"));
            }
            let tag = u32::from(*tag);
            let is_it = |link: &Link| {
                link.kind.as_deref() == Some("vlan")
                    && link.id == Some(tag)
                    && link.parent.as_deref() == Some(uplink)
            };
            let how = ["link", uplink, "type", "vlan", "id", &tag.to_string()];
            lines.bridge()?;
            lines.port(&vlan_of(name), is_it, &how)?;
        }
        NetworkSpec::Overlay { vni, members } => {
            let (local, device) = own_member(members, links)
                .ok_or_else(|| "none of its members is an address of this host".to_owned())?;
            let is_it = |link: &Link| {
                link.kind.as_deref() == Some("vxlan")
                    && link.id == Some(*vni)
                    && link.local == Some(local)
            };
            let (vni, ip) = (vni.to_string(), local.to_string());
            let how =
                ["type", "vxlan", "id", &vni, "dstport", VXLAN_PORT, "local", &ip, "dev", device];
            lines.bridge()?;
            let is_new = lines.port(&tunnel_of(name), is_it, &how)?;
            lines.floods(members, local, if is_new { &[] } else { floods });
        }
    }
    Ok(lines.lines)
}

/// What is to be run so that nothing of the network is left.
pub(crate) fn remove(name: &NetworkName, links: &[Link]) -> Vec<Line> {
    let devices = [tunnel_of(name), vlan_of(name), bridge_of(name)];
    let ours = |device: &&String| {
        let alias = alias_of(name);
        links.iter().any(|link| link.name == **device && link.alias.as_deref() == Some(&alias))
    };
    devices
        .iter()
        .filter(ours)
        .map(|device| line("ip", &["link", "delete", "dev", device]))
        .collect()
}

struct Lines<'a> {
    name: &'a NetworkName,
    links: &'a [Link],
    lines: Vec<Line>,
}

impl Lines<'_> {
    fn ip(&mut self, words: &[&str]) {
        self.lines.push(line("ip", words));
    }

    /// The device of this name, if it is ours.
    fn own(&self, device: &str) -> Result<Option<&Link>, String> {
        let found = self.links.iter().find(|link| link.name == device);
        match found {
            Some(link) if link.alias.as_deref() != Some(&alias_of(self.name)) => {
                Err(format!("device {device} is there and is not ours: rename or delete it"))
            }
            found => Ok(found),
        }
    }

    /// The host has no address on it, not even the one that each IPv6 interface gives itself: guests
    /// reach each other there, and not their host.
    fn bridge(&mut self) -> Result<(), String> {
        let bridge = bridge_of(self.name);
        let is_up = match self.own(&bridge)? {
            Some(link) => link.is_up,
            None => {
                self.add(&bridge, &["type", "bridge", "forward_delay", "0"]);
                false
            }
        };
        if !is_up {
            self.ip(&["link", "set", "dev", &bridge, "addrgenmode", "none"]);
            self.ip(&["link", "set", "dev", &bridge, "up"]);
        }
        Ok(())
    }

    /// A port of the bridge. True when it is made anew.
    fn port(
        &mut self,
        device: &str,
        is_it: impl Fn(&Link) -> bool,
        how: &[&str],
    ) -> Result<bool, String> {
        let bridge = bridge_of(self.name);
        let found = self.own(device)?.cloned();
        let good = found.as_ref().filter(|link| is_it(link));
        let is_new = good.is_none();
        if is_new {
            if found.is_some() {
                self.ip(&["link", "delete", "dev", device]);
            }
            self.add(device, how);
        }
        if good.is_none_or(|link| link.master.as_deref() != Some(&bridge)) {
            self.ip(&["link", "set", "dev", device, "addrgenmode", "none"]);
            self.ip(&["link", "set", "dev", device, "master", &bridge]);
        }
        if good.is_none_or(|link| !link.is_up) {
            self.ip(&["link", "set", "dev", device, "up"]);
        }
        Ok(is_new)
    }

    fn add(&mut self, device: &str, how: &[&str]) {
        // `link UPLINK` stands before the name of what is made upon it.
        let (below, how) = if how[0] == "link" { how.split_at(2) } else { (&[][..], how) };
        self.ip(&[&["link", "add"], below, &["name", device], how].concat());
        self.ip(&["link", "set", "dev", device, "alias", &alias_of(self.name)]);
    }

    /// What goes to everybody goes to every other member, each by a packet of its own.
    fn floods(&mut self, members: &[Ipv4Addr], local: Ipv4Addr, there: &[Ipv4Addr]) {
        let device = tunnel_of(self.name);
        let everybody = "00:00:00:00:00:00";
        let entry = |verb: &str, ip: &Ipv4Addr| {
            line("bridge", &["fdb", verb, everybody, "dev", &device, "dst", &ip.to_string()])
        };
        let wanted: Vec<&Ipv4Addr> = members.iter().filter(|ip| **ip != local).collect();
        let missing = wanted.iter().filter(|ip| !there.contains(ip));
        let more: Vec<Line> = missing.map(|ip| entry("append", ip)).collect();
        let surplus = there.iter().filter(|ip| !wanted.contains(ip));
        let fewer: Vec<Line> = surplus.map(|ip| entry("del", ip)).collect();
        self.lines.extend(more);
        self.lines.extend(fewer);
    }
}

fn line(program: &str, words: &[&str]) -> Line {
    [&[program], words].concat().into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> NetworkName {
        NetworkName::new("blue").unwrap()
    }

    fn ip(n: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, n)
    }

    fn eth0() -> Link {
        let addresses = vec![(ip(5), "10.0.0.0/24".parse().unwrap())];
        Link { name: "eth0".into(), is_up: true, addresses, ..Link::default() }
    }

    fn own(device: &str, kind: &str) -> Link {
        Link {
            name: device.into(),
            kind: Some(kind.into()),
            alias: Some("ostler network blue".into()),
            is_up: true,
            ..Link::default()
        }
    }

    fn vlan() -> NetworkSpec {
        NetworkSpec::Vlan { uplink: "eth0".into(), tag: 7 }
    }

    fn overlay(members: &[u8]) -> NetworkSpec {
        NetworkSpec::Overlay { vni: 42, members: members.iter().map(|n| ip(*n)).collect() }
    }

    fn text(lines: Result<Vec<Line>, String>) -> Vec<String> {
        lines.unwrap().into_iter().map(|line| line.join(" ")).collect()
    }

    #[test]
    fn a_vlan_is_a_port_of_a_bridge_of_its_own() {
        let made = text(make(&name(), &vlan(), &[eth0()], &[]));
        assert_eq!(
            made,
            [
                "ip link add name ob-blue type bridge forward_delay 0",
                "ip link set dev ob-blue alias ostler network blue",
                "ip link set dev ob-blue addrgenmode none",
                "ip link set dev ob-blue up",
                "ip link add link eth0 name ov-blue type vlan id 7",
                "ip link set dev ov-blue alias ostler network blue",
                "ip link set dev ov-blue addrgenmode none",
                "ip link set dev ov-blue master ob-blue",
                "ip link set dev ov-blue up",
            ]
        );
        let mut port = own("ov-blue", "vlan");
        (port.parent, port.id) = (Some("eth0".into()), Some(7));
        port.master = Some("ob-blue".into());
        let there = [eth0(), own("ob-blue", "bridge"), port.clone()];
        assert_eq!(text(make(&name(), &vlan(), &there, &[])), [""; 0], "it is so already");
        port.id = Some(8);
        let other = [eth0(), own("ob-blue", "bridge"), port];
        let mended = text(make(&name(), &vlan(), &other, &[]));
        assert_eq!(mended[0], "ip link delete dev ov-blue");
        assert_eq!(mended[1], "ip link add link eth0 name ov-blue type vlan id 7");
    }

    #[test]
    fn an_overlay_sends_what_goes_to_everybody_to_each_other_member() {
        let made = text(make(&name(), &overlay(&[5, 6, 7]), &[eth0()], &[]));
        let tunnel =
            "ip link add name ox-blue type vxlan id 42 dstport 4789 local 10.0.0.5 dev eth0";
        assert!(made.contains(&tunnel.to_owned()), "{made:?}");
        let floods: Vec<&String> = made.iter().filter(|line| line.starts_with("bridge")).collect();
        let append = |n| format!("bridge fdb append 00:00:00:00:00:00 dev ox-blue dst 10.0.0.{n}");
        assert_eq!(floods, [&append(6), &append(7)]);
        let mut port = own("ox-blue", "vxlan");
        (port.id, port.local, port.master) = (Some(42), Some(ip(5)), Some("ob-blue".into()));
        let there = [eth0(), own("ob-blue", "bridge"), port];
        let changed = text(make(&name(), &overlay(&[5, 7, 8]), &there, &[ip(6), ip(7)]));
        let del = "bridge fdb del 00:00:00:00:00:00 dev ox-blue dst 10.0.0.6".to_owned();
        assert_eq!(changed, [append(8), del], "and the tunnel itself stays");
        assert!(make(&name(), &overlay(&[6]), &[eth0()], &[]).is_err());
    }

    #[test]
    fn a_device_of_others_is_left_alone() {
        let mut theirs = own("ob-blue", "bridge");
        theirs.alias = None;
        let error = make(&name(), &vlan(), &[eth0(), theirs.clone()], &[]).unwrap_err();
        assert!(error.contains("not ours"), "{error}");
        assert_eq!(remove(&name(), &[theirs, eth0()]), Vec::<Line>::new());
        let removed = remove(&name(), &[own("ob-blue", "bridge"), own("ov-blue", "vlan")]);
        let removed: Vec<String> = removed.iter().map(|line| line.join(" ")).collect();
        assert_eq!(removed, ["ip link delete dev ov-blue", "ip link delete dev ob-blue"]);
    }

    #[test]
    fn what_is_missing_on_the_host_is_said() {
        let missing = make(&name(), &vlan(), &[], &[]).unwrap_err();
        assert!(missing.contains("eth0 is not on this host"), "{missing}");
        let bridge = NetworkSpec::Bridge { bridge: "br0".into() };
        assert!(make(&name(), &bridge, &[eth0()], &[]).unwrap_err().contains("br0"));
    }
}
