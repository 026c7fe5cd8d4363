//! The networks that this host is asked to have, and those that it has.
//!
//! ```text
//!   (nothing) ── PUT ──▶ kept ── DELETE, nobody on it ──▶ going ── nothing of it is left ──▶ (nothing)
//!                        │  ▲
//!                        └──┘ PUT of a newer revision
//! ```
//!
//! What is asked for is written down first and then kept: made, and made again when it is gone, whoever
//! took it away. A network that was not asked for here is shown and never touched.

use core::net::Ipv4Addr;
use std::collections::BTreeMap;

use hypervisor::NetworkInfo;
use protocol::id::{JobId, Revision};
use protocol::job::{Job, JobSpec, Reason};
use protocol::network::{
    NETWORKS_MAX, NetworkFacts, NetworkName, NetworkSpec, NetworkStatus, PutNetwork, Subnet,
};
use protocol::refusal::Refusal;
use protocol::vm::Plug;
use serde::{Deserialize, Serialize};

use super::agent::Agent;
use super::input::{Effect, Reply};
use super::ledger::Write;

/// How far a free subnet is looked for, in steps of the one that was asked for.
const SUBNETS_TRIED_MAX: usize = 4096;
/// When to ask again after networks have not been looked at yet, or one of this name is going.
const RETRY_MS: u64 = 1_000;

/// A network's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Its name.
    pub name: NetworkName,
    /// Which change of it.
    pub revision: Revision,
    /// What it is to be.
    pub spec: NetworkSpec,
    /// True from its deletion until nothing of it is left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_going: bool,
}

/// A network device of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// What kind it is, such as `bridge`, `vlan`, `vxlan`; nothing for plain ones.
    pub kind: Option<String>,
    /// What somebody has written on it.
    pub alias: Option<String>,
    /// The bridge that it is a port of.
    pub master: Option<String>,
    /// The device below it.
    pub parent: Option<String>,
    /// Its VLAN or VXLAN identifier.
    pub id: Option<u32>,
    /// The address that its tunnels come from.
    pub local: Option<Ipv4Addr>,
    /// True when it is switched on.
    pub is_up: bool,
    /// Its IPv4 addresses, each with its subnet.
    pub addresses: Vec<(Ipv4Addr, Subnet)>,
}

/// What a look at the host's networks has shown, and what came of making them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenNetworks {
    /// Why libvirt has no networks here, when it has none at all.
    pub unsupported: Option<String>,
    /// Every network that libvirt has.
    pub networks: Vec<NetworkInfo>,
    /// Every device of the host.
    pub links: Vec<Link>,
    /// What keeps those from being as asked that are not.
    pub troubles: BTreeMap<NetworkName, String>,
    /// Of which nothing is left.
    pub gone: Vec<NetworkName>,
}

/// What the core knows of networks.
#[derive(Debug, Default)]
pub(super) struct KnownNetworks {
    pub(super) records: BTreeMap<NetworkName, NetworkRecord>,
    seen: Option<SeenNetworks>,
}

impl Agent {
    /// Every network that somebody asked for, with those that are going.
    #[must_use]
    pub fn networks(&self) -> BTreeMap<NetworkName, NetworkRecord> {
        self.networks.records.clone()
    }

    /// Takes what a look has shown.
    pub(super) fn handle_networks(&mut self, seen: SeenNetworks, out: &mut Vec<Effect>) {
        let records = &mut self.networks.records;
        for name in &seen.gone {
            // Asked for again meanwhile, it is to stay.
            if records.get(name).is_some_and(|record| record.is_going) {
                records.remove(name);
                out.push(Effect::Persist(Write::NetworkGone(name.clone())));
            }
        }
        if !seen.gone.is_empty() {
            out.push(Effect::KeepNetworks);
        }
        self.networks.seen = Some(seen);
        self.show_networks();
    }

    pub(super) fn put_network(
        &mut self,
        name: &NetworkName,
        put: PutNetwork,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let PutNetwork { revision, spec } = put;
        let busy = |what: &str| Refusal::Busy {
            what: format!("{what} {name}"),
            limit: 1,
            retry_after_ms: RETRY_MS,
        };
        let seen = self.networks.seen.as_ref().ok_or_else(|| busy("looks before network"))?;
        if let Some(why) = &seen.unsupported {
            let what = "have networks of its own".to_owned();
            return Err(Refusal::Unsupported { what, why: why.clone() });
        }
        spec.validate().map_err(|error| Refusal::Invalid { message: error.to_string() })?;
        match self.networks.records.get(name) {
            Some(known) if known.is_going => return Err(busy("deletions of network")),
            Some(known) if known.revision == revision && known.spec == spec => {
                let status = Box::new(self.network_status(name.as_str()));
                return Ok(Reply::Network { status, is_new: false });
            }
            Some(known) if revision <= known.revision => {
                let (network, current) = (name.clone(), known.revision);
                return Err(Refusal::NetworkRevision { network, current });
            }
            Some(known) if !known.spec.is_but_for_members(&spec) => self.check_unused(name)?,
            Some(_) => {}
            None => self.check_new(name, seen)?,
        }
        Check { name, seen, records: &self.networks.records }.all(&spec)?;
        let record = NetworkRecord { name: name.clone(), revision, spec, is_going: false };
        self.write_network(record, out);
        let status = Box::new(self.network_status(name.as_str()));
        Ok(Reply::Network { status, is_new: true })
    }

    pub(super) fn delete_network(
        &mut self,
        name: &str,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Refusal> {
        let known = NetworkName::new(name).ok();
        let Some(record) = known.and_then(|name| self.networks.records.get(&name)).cloned() else {
            let seen = self.networks.seen.iter().flat_map(|seen| &seen.networks);
            return Err(match seen.into_iter().find(|network| network.name == name) {
                Some(_) => Refusal::NetworkTaken { network: name.to_owned() },
                None => Refusal::NoSuchNetwork { network: name.to_owned() },
            });
        };
        if !record.is_going {
            self.check_unused(&record.name)?;
            self.write_network(NetworkRecord { is_going: true, ..record }, out);
        }
        Ok(Reply::Done)
    }

    /// One network, ours or not, as it is shown.
    #[must_use]
    pub fn network_status(&self, name: &str) -> NetworkStatus {
        let record = NetworkName::new(name).ok();
        let record = record.and_then(|name| self.networks.records.get(&name));
        NetworkStatus {
            name: name.to_owned(),
            spec: record.map(|record| record.spec.clone()),
            facts: self.host.networks.as_ref().and_then(|all| all.get(name)).cloned(),
            users: users_of(self.jobs.values().map(|entry| &entry.record.job), name),
        }
    }

    /// The same for whoever asks.
    pub(super) fn show_network(&self, name: &str) -> Result<Reply, Refusal> {
        let status = self.network_status(name);
        if status.spec.is_none() && status.facts.is_none() {
            return Err(Refusal::NoSuchNetwork { network: name.to_owned() });
        }
        Ok(Reply::Network { status: Box::new(status), is_new: false })
    }

    fn write_network(&mut self, record: NetworkRecord, out: &mut Vec<Effect>) {
        out.push(Effect::Persist(Write::Network(Box::new(record.clone()))));
        out.push(Effect::KeepNetworks);
        self.networks.records.insert(record.name.clone(), record);
        self.show_networks();
    }

    fn check_new(&self, name: &NetworkName, seen: &SeenNetworks) -> Result<(), Refusal> {
        if self.networks.records.len() >= NETWORKS_MAX {
            return Err(Refusal::Busy {
                what: "networks; delete one that nobody needs".to_owned(),
                limit: u32::try_from(NETWORKS_MAX).unwrap_or(u32::MAX),
                retry_after_ms: 60_000,
            });
        }
        // One of ours that the ledger does not know any more is taken up again.
        let is_theirs = |network: &&NetworkInfo| network.name == name.as_str() && !network.is_ours;
        match seen.networks.iter().find(is_theirs) {
            Some(_) => Err(Refusal::NetworkTaken { network: name.to_string() }),
            None => Ok(()),
        }
    }

    fn check_unused(&self, name: &NetworkName) -> Result<(), Refusal> {
        let users = users_of(self.jobs.values().map(|entry| &entry.record.job), name.as_str());
        let seen = self.networks.seen.iter().flat_map(|seen| &seen.networks);
        let of_all = seen.into_iter().find(|network| network.name == name.as_str());
        // Those whom we do not know by name are counted as far as libvirt says so.
        let others = if users.is_empty() { of_all.map_or(0, |network| network.cards) } else { 0 };
        if users.is_empty() && others == 0 {
            return Ok(());
        }
        Err(Refusal::NetworkInUse { network: name.clone(), users, others })
    }

    /// Says what networks there are, as far as libvirt could be asked.
    fn show_networks(&mut self) {
        let KnownNetworks { records, seen } = &self.networks;
        let Some(seen) = seen else { return };
        let mut shown: BTreeMap<String, NetworkFacts> = BTreeMap::new();
        for network in &seen.networks {
            shown.insert(network.name.clone(), facts_of_others(network));
        }
        for (name, record) in records {
            let network = shown.remove(name.as_str());
            if !record.is_going {
                let trouble = seen.troubles.get(name).cloned();
                shown.insert(name.to_string(), facts_of_ours(record, network, trouble));
            }
        }
        self.host.networks = Some(shown);
    }
}

/// The jobs that name a network. One that has moved away is not here any more.
fn users_of<'a>(jobs: impl Iterator<Item = &'a Job>, network: &str) -> Vec<JobId> {
    let names = |job: &Job| {
        let nics = job.spec.as_vm().map_or(&[][..], |vm| &vm.nics);
        nics.iter().any(|nic| matches!(&nic.plug, Plug::Libvirt { name } if name == network))
    };
    let is_here = |job: &Job| !matches!(job.reason, Some(Reason::Migrated { .. }));
    jobs.filter(|job| is_here(job) && names(job)).map(|job| job.id.clone()).collect()
}

fn facts_of_others(network: &NetworkInfo) -> NetworkFacts {
    NetworkFacts {
        kind: network.kind,
        revision: None,
        is_up: network.is_active,
        bridge: network.bridge.clone(),
        subnet: network.subnets.first().copied(),
        vlan: None,
        vni: None,
        members: vec![],
        trouble: None,
    }
}

fn facts_of_ours(
    record: &NetworkRecord,
    network: Option<NetworkFacts>,
    trouble: Option<String>,
) -> NetworkFacts {
    let (vlan, vni, members) = match &record.spec {
        NetworkSpec::Vlan { tag, .. } => (Some(*tag), None, vec![]),
        NetworkSpec::Overlay { vni, members } => (None, Some(*vni), members.clone()),
        _ => (None, None, vec![]),
    };
    // A change of the subnet takes a moment.
    let is_so = |network: &NetworkFacts| network.is_up && network.subnet == record.spec.subnet();
    NetworkFacts {
        kind: record.spec.kind(),
        revision: Some(record.revision),
        is_up: trouble.is_none() && network.as_ref().is_some_and(is_so),
        bridge: network.and_then(|network| network.bridge),
        subnet: record.spec.subnet(),
        vlan,
        vni,
        members,
        trouble,
    }
}

/// Whether the host can have such a network beside all that it has.
struct Check<'a> {
    name: &'a NetworkName,
    seen: &'a SeenNetworks,
    records: &'a BTreeMap<NetworkName, NetworkRecord>,
}

impl Check<'_> {
    fn all(&self, spec: &NetworkSpec) -> Result<(), Refusal> {
        if let Some(subnet) = spec.subnet() {
            self.subnet(subnet)?;
        }
        match spec {
            NetworkSpec::Nat { .. } | NetworkSpec::Isolated { .. } => Ok(()),
            NetworkSpec::Bridge { bridge } => {
                self.device(bridge, |link| link.kind.as_deref() == Some("bridge"))
            }
            NetworkSpec::Vlan { uplink, tag } => self.vlan(uplink, *tag),
            NetworkSpec::Overlay { vni, members } => self.overlay(*vni, members),
        }
    }

    fn others(&self) -> impl Iterator<Item = &NetworkRecord> {
        self.records.values().filter(|record| record.name != *self.name)
    }

    /// Devices that are not of this very network.
    fn foreign_links(&self) -> impl Iterator<Item = &Link> {
        let alias = format!("ostler network {}", self.name);
        let bridge = format!("ob-{}", self.name);
        let links = self.seen.links.iter();
        links.filter(move |link| link.alias.as_deref() != Some(&alias) && link.name != bridge)
    }

    fn subnet(&self, subnet: Subnet) -> Result<(), Refusal> {
        let Some(by) = self.who_has(subnet) else { return Ok(()) };
        let begin =
            [subnet.next(), Some(Subnet::around(Ipv4Addr::new(10, 0, 0, 0), subnet.prefix()))];
        let free = begin.into_iter().flatten().find_map(|first| {
            let next = |subnet: &Subnet| subnet.next();
            let all = std::iter::successors(Some(first), next).take(SUBNETS_TRIED_MAX);
            all.into_iter().find(|it| it.is_for_guests() && self.who_has(*it).is_none())
        });
        Err(Refusal::SubnetTaken { subnet, by, free })
    }

    /// Who has an address in it.
    fn who_has(&self, subnet: Subnet) -> Option<String> {
        let is_taken = |record: &&NetworkRecord| {
            record.spec.subnet().is_some_and(|other| other.overlaps(subnet))
        };
        if let Some(record) = self.others().find(is_taken) {
            return Some(format!("network {}", record.name));
        }
        let theirs = self.seen.networks.iter().filter(|n| n.name != self.name.as_str());
        for network in theirs {
            if let Some(other) = network.subnets.iter().find(|other| other.overlaps(subnet)) {
                return Some(format!("network {} ({other})", network.name));
            }
        }
        self.foreign_links().find_map(|link| {
            let (ip, _) = link.addresses.iter().find(|(_, other)| other.overlaps(subnet))?;
            Some(format!("the host's address {ip} on {}", link.name))
        })
    }

    fn device(&self, name: &str, is_fit: impl Fn(&Link) -> bool) -> Result<(), Refusal> {
        let fit = self.foreign_links().filter(|link| is_fit(link));
        let has: Vec<String> = fit.map(|link| link.name.clone()).collect();
        if has.iter().any(|link| link == name) {
            return Ok(());
        }
        Err(Refusal::NoDevice { device: name.to_owned(), has })
    }

    fn vlan(&self, uplink: &str, tag: u16) -> Result<(), Refusal> {
        // What guests are plugged into the host by, and what is upon something else, carries no VLANs.
        let carries = |link: &Link| {
            let is_guests = link.name.starts_with("vnet") || link.kind.as_deref() == Some("tun");
            link.name != "lo" && !is_guests && !link.name.starts_with("ob-")
        };
        self.device(uplink, carries)?;
        let what = format!("VLAN {tag} of {uplink}");
        let is_same = |record: &&NetworkRecord| matches!(&record.spec, NetworkSpec::Vlan { uplink: u, tag: t } if u == uplink && *t == tag);
        if let Some(record) = self.others().find(is_same) {
            return Err(Refusal::NetworkClash { what, by: format!("network {}", record.name) });
        }
        let is_its = |link: &&Link| {
            link.kind.as_deref() == Some("vlan")
                && link.parent.as_deref() == Some(uplink)
                && link.id == Some(u32::from(tag))
        };
        match self.foreign_links().find(is_its) {
            Some(link) => Err(Refusal::NetworkClash { what, by: format!("device {}", link.name) }),
            None => Ok(()),
        }
    }

    fn overlay(&self, vni: u32, members: &[Ipv4Addr]) -> Result<(), Refusal> {
        let own = self.seen.links.iter().flat_map(|link| &link.addresses).map(|(ip, _)| *ip);
        let own: Vec<Ipv4Addr> = own.filter(|ip| !ip.is_loopback()).collect();
        if !own.iter().any(|ip| members.contains(ip)) {
            let own: Vec<String> = own.iter().map(ToString::to_string).collect();
            let own = own.join(", ");
            return Err(Refusal::Invalid {
                message: format!(
                    "none of the members is this host: name one of its addresses, {own}"
                ),
            });
        }
        let what = format!("overlay {vni}");
        let is_same = |record: &&NetworkRecord| matches!(&record.spec, NetworkSpec::Overlay { vni: v, .. } if *v == vni);
        if let Some(record) = self.others().find(is_same) {
            return Err(Refusal::NetworkClash { what, by: format!("network {}", record.name) });
        }
        let is_its = |link: &&Link| link.kind.as_deref() == Some("vxlan") && link.id == Some(vni);
        match self.foreign_links().find(is_its) {
            Some(link) => Err(Refusal::NetworkClash { what, by: format!("device {}", link.name) }),
            None => Ok(()),
        }
    }
}

impl Agent {
    /// Nobody else on this host may have the address of one of the cards: frames would go to either.
    /// Cards of QEMU's user network are alone on theirs.
    pub(super) fn check_macs(&self, id: &JobId, spec: &JobSpec) -> Result<(), Refusal> {
        let macs = spec.macs(id);
        match self.jobs.has_mac(&macs, id) {
            Some((job, mac)) => Err(Refusal::MacTaken { mac: mac.to_owned(), job: job.clone() }),
            None => Ok(()),
        }
    }

    /// Restores what the ledger says.
    pub(super) fn restore_networks(&mut self, records: Vec<NetworkRecord>) {
        self.networks.records = records.into_iter().map(|r| (r.name.clone(), r)).collect();
    }
}
