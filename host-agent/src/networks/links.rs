//! The network devices of the host, as `ip` and `bridge` show them.
//!
//! The two programs and not netlink by hand: what is done shows in the log as an operator would type it,
//! it is done a few times a change, and every host that libvirt runs on has them.

use core::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use protocol::network::Subnet;
use serde::Deserialize;
use tokio::process::Command;
use tokio::time::timeout;

use crate::core::Link;

/// How long one of them may take: they ask the kernel and nobody else.
const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Shown {
    ifname: String,
    #[serde(default)]
    flags: Vec<String>,
    ifalias: Option<String>,
    master: Option<String>,
    link: Option<String>,
    linkinfo: Option<Info>,
    #[serde(default)]
    addr_info: Vec<Shining>,
}

#[derive(Deserialize)]
struct Info {
    info_kind: Option<String>,
    info_data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    id: Option<u32>,
    local: Option<Ipv4Addr>,
    link: Option<String>,
}

#[derive(Deserialize)]
struct Shining {
    local: Option<String>,
    prefixlen: Option<u8>,
}

#[derive(Deserialize)]
struct Forwarding {
    mac: Option<String>,
    dst: Option<Ipv4Addr>,
}

/// All devices of this host.
pub(crate) async fn links() -> Result<Vec<Link>, String> {
    read_links(&run("ip", &["-json", "-details", "address", "show"]).await?)
}

/// Where a tunnel sends what goes to everybody.
pub(crate) async fn floods(device: &str) -> Result<Vec<Ipv4Addr>, String> {
    read_floods(&run("bridge", &["-json", "fdb", "show", "dev", device]).await?)
}

/// Runs one of the two programs; what it printed, or what it complained of.
pub(crate) async fn run(program: &str, words: &[&str]) -> Result<String, String> {
    let line = || format!("{program} {}", words.join(" "));
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    let ended = timeout(DEADLINE, command.output()).await;
    let output = ended.map_err(|_| format!("{}: no end within {DEADLINE:?}", line()))?;
    let output = output.map_err(|error| format!("{}: {error}", line()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("{}: {said}", line()))
}

fn read_links(json: &str) -> Result<Vec<Link>, String> {
    let shown: Vec<Shown> =
        serde_json::from_str(json).map_err(|error| format!("what ip shows: {error}"))?;
    // `ip` shows an empty object for what another network namespace has.
    let links = shown.into_iter().filter(|link| !link.ifname.is_empty()).map(|link| {
        let (kind, data) = link.linkinfo.map_or((None, None), |i| (i.info_kind, i.info_data));
        let below = data.as_ref().and_then(|data| data.link.clone());
        let address = |shining: Shining| {
            let ip: Ipv4Addr = shining.local?.parse().ok()?;
            let prefix = shining.prefixlen.filter(|prefix| *prefix <= 32)?;
            Some((ip, Subnet::around(ip, prefix)))
        };
        Link {
            name: link.ifname,
            kind,
            alias: link.ifalias,
            master: link.master,
            parent: link.link.or(below),
            id: data.as_ref().and_then(|data| data.id),
            local: data.and_then(|data| data.local),
            is_up: link.flags.iter().any(|flag| flag == "UP"),
            addresses: link.addr_info.into_iter().filter_map(address).collect(),
        }
    });
    Ok(links.collect())
}

fn read_floods(json: &str) -> Result<Vec<Ipv4Addr>, String> {
    let shown: Vec<Forwarding> =
        serde_json::from_str(json).map_err(|error| format!("what bridge shows: {error}"))?;
    let everybody = |f: &Forwarding| f.mac.as_deref() == Some("00:00:00:00:00:00");
    Ok(shown.into_iter().filter(everybody).filter_map(|f| f.dst).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = r#"[
      {"ifname":"lo","flags":["LOOPBACK","UP"],"addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8}]},
      {"ifname":"eth0","flags":["UP"],"mtu":1500,"addr_info":[
        {"family":"inet","local":"10.0.0.5","prefixlen":24},
        {"family":"inet6","local":"fe80::1","prefixlen":64}]},
      {"ifname":"ob-blue","flags":[],"ifalias":"ostler network blue","linkinfo":{"info_kind":"bridge","info_data":{"forward_delay":1500}},"addr_info":[]},
      {"ifname":"ov-blue","link":"eth0","master":"ob-blue","flags":["UP"],"linkinfo":{"info_kind":"vlan","info_data":{"protocol":"802.1Q","id":7,"flags":[]}}},
      {"ifname":"ox-red","flags":["UP"],"linkinfo":{"info_kind":"vxlan","info_data":{"id":42,"local":"10.0.0.5","link":"eth0","port":4789}}}]"#;

    #[test]
    fn devices_are_read_as_ip_shows_them() {
        let links = read_links(SHOWN).unwrap();
        let of = |name: &str| links.iter().find(|link| link.name == name).unwrap();
        let subnet = "10.0.0.0/24".parse().unwrap();
        assert_eq!(of("eth0").addresses, [(Ipv4Addr::new(10, 0, 0, 5), subnet)]);
        assert!(of("eth0").is_up && !of("ob-blue").is_up);
        assert_eq!(of("ob-blue").kind.as_deref(), Some("bridge"));
        let vlan = of("ov-blue");
        assert_eq!((vlan.parent.as_deref(), vlan.id), (Some("eth0"), Some(7)));
        assert_eq!(vlan.master.as_deref(), Some("ob-blue"));
        let vxlan = of("ox-red");
        assert_eq!((vxlan.id, vxlan.local), (Some(42), Some(Ipv4Addr::new(10, 0, 0, 5))));
        assert!(read_links("nonsense").is_err());
    }

    #[test]
    fn only_what_goes_to_everybody_is_a_flood() {
        let shown = r#"[{"mac":"00:00:00:00:00:00","dst":"10.0.0.6","state":"permanent"},
            {"mac":"52:54:00:00:00:01","dst":"10.0.0.7"},{"mac":"33:33:00:00:00:01"}]"#;
        assert_eq!(read_floods(shown).unwrap(), [Ipv4Addr::new(10, 0, 0, 6)]);
    }
}
