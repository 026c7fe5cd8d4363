//! `ostler networks`: which network is on which host, making one on several, and taking one away.
//!
//! Each host is told for itself, and all the same. What could not be done on one is said of it, and doing
//! it again goes on where it is.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use protocol::host::Host;
use protocol::id::Revision;
use protocol::network::{
    NetworkFacts, NetworkKind, NetworkName, NetworkSpec, NetworkStatus, PutNetwork,
};
use protocol::refusal::Refusal;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use transport::{CallError, Method};

use super::images::{Place, places};
use super::import::all_or;
use crate::cli::{CreateNetworkArgs, NetworksArgs, NetworksCommand};
use crate::exit::{Code, Failure, code_of};
use crate::picture::{Picture, chain};
use crate::session::Session;
use crate::show;

/// Hosts told at a time.
const TOLD_AT_ONCE: usize = 16;
/// How long a host may take to have a network, or to be rid of it.
const PATIENCE: Duration = Duration::from_secs(45);
/// How often it is asked whether it has.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) async fn run(session: &Session, args: NetworksArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    match args.command.unwrap_or(NetworksCommand::Ls) {
        NetworksCommand::Ls => Ok(ls(session, &picture)),
        NetworksCommand::Create(args) => create(session, &picture, args).await,
        NetworksCommand::Rm { name, on } => rm(session, &picture, &name, &on).await,
    }
}

// Looking.

fn ls(session: &Session, picture: &Picture) -> Code {
    let mut rows: BTreeMap<(String, String), Vec<(String, NetworkFacts)>> = BTreeMap::new();
    for row in picture.hosts() {
        for (name, facts) in row.host.networks.into_iter().flatten() {
            let key = (name, what(&facts));
            rows.entry(key).or_default().push((row.host.name.clone(), facts));
        }
    }
    if session.is_json {
        let networks: Vec<Value> = rows.iter().map(|((name, _), on)| as_json(name, on)).collect();
        show::json_pretty(&json!({ "networks": networks, "warnings": picture.warnings }));
        return Code::Ok;
    }
    let lines = rows.iter().map(|((name, what), on)| {
        let (_, facts) = &on[0];
        let made_by = if facts.revision.is_some() { "ostler" } else { "others" };
        let up = on.iter().filter(|(_, facts)| facts.is_up).map(|(host, _)| host.as_str());
        let down = on.iter().filter(|(_, facts)| !facts.is_up);
        let down: Vec<String> = down.map(|(host, facts)| why_down(host, facts)).collect();
        [
            name.clone(),
            what.clone(),
            made_by.to_owned(),
            up.collect::<Vec<_>>().join(", "),
            down.join("; "),
        ]
    });
    show::table(["NETWORK", "WHAT", "MADE BY", "UP ON", "NOT UP"], lines.collect());
    Code::Ok
}

/// Two hosts have the same network under a name when this is the same.
fn what(facts: &NetworkFacts) -> String {
    let kind = facts.kind.as_str();
    match (facts.kind, facts.vlan, facts.vni) {
        (NetworkKind::Vlan, Some(tag), _) => format!("{kind} {tag}"),
        (NetworkKind::Overlay, _, Some(vni)) => format!("{kind} {vni}"),
        (NetworkKind::Bridge, ..) => {
            format!("{kind} {}", facts.bridge.as_deref().unwrap_or_default())
        }
        _ => facts.subnet.map_or_else(|| kind.to_owned(), |subnet| format!("{kind} {subnet}")),
    }
}

fn why_down(host: &str, facts: &NetworkFacts) -> String {
    let why = facts.trouble.as_deref().unwrap_or("not started");
    format!("{host}: {why}")
}

fn as_json(name: &str, on: &[(String, NetworkFacts)]) -> Value {
    let hosts: BTreeMap<&String, &NetworkFacts> = on.iter().map(|(host, f)| (host, f)).collect();
    json!({ "name": name, "kind": on[0].1.kind, "hosts": hosts })
}

// Making.

async fn create(
    session: &Session,
    picture: &Picture,
    args: CreateNetworkArgs,
) -> Result<Code, Failure> {
    let name = args.name.clone();
    let mut hosts = places(picture, &args.on)?;
    if hosts.is_empty() {
        return Err(Failure::new(Code::NotFound, "no host is known").next("ostler hosts"));
    }
    let spec = match args.spec().map_err(|why| Failure::new(Code::Usage, why))? {
        // An overlay is told to all that have it, those included that have it already.
        NetworkSpec::Overlay { vni, .. } => {
            let has = |place: &Place| overlay_of(&place.host, &name) == Some(vni);
            let more = places(picture, &[])?.into_iter().filter(has);
            let more: Vec<Place> =
                more.filter(|place| hosts.iter().all(|h| h.host.id != place.host.id)).collect();
            hosts.extend(more);
            NetworkSpec::Overlay { vni, members: members_of(&hosts)? }
        }
        spec => spec,
    };
    let revision = next_revision(session, &hosts, &name).await;
    let told = each(hosts, |place| tell(session, place, &name, revision, &spec)).await;
    let mut failed = Vec::new();
    for (host, told) in told {
        match told {
            Ok(words) if session.is_json => {
                show::json(&json!({ "host": host, "network": name, "is": words }));
            }
            Ok(words) => show::line(&format!("{name} {words} on {host}")),
            Err((code, why)) => failed.push((code, format!("{host}: {why}"))),
        }
    }
    all_or(failed, &format!("hosts do not have network {name}"))
}

/// The number that a host's overlay of this name has.
fn overlay_of(host: &Host, name: &NetworkName) -> Option<u32> {
    let facts = host.networks.as_ref()?.get(name.as_str())?;
    facts.vni.filter(|_| facts.revision.is_some())
}

/// The addresses by which hosts reach each other: those of their agents, in order.
fn members_of(hosts: &[Place]) -> Result<Vec<Ipv4Addr>, Failure> {
    let mut members = Vec::new();
    for place in hosts {
        let ip = place.host.urls.iter().find_map(|url| address_in(url)).ok_or_else(|| {
            let what = format!("{} has no IPv4 address that tunnels could go to", place.name);
            Failure::new(Code::Failed, what).next("name the hosts that are meant with --on")
        })?;
        members.push(ip);
    }
    members.sort();
    members.dedup();
    Ok(members)
}

fn address_in(url: &str) -> Option<Ipv4Addr> {
    let rest = url.strip_prefix("https://")?;
    let host = rest.split('/').next()?.rsplit_once(':').map_or(rest, |(host, _)| host);
    match host.parse().ok()? {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

/// One number for all: above what any of them was told.
async fn next_revision(session: &Session, hosts: &[Place], name: &NetworkName) -> Revision {
    let known =
        each(hosts.to_vec(), |place| async move { read(session, &place, name).await }).await;
    let revisions = known.into_iter().filter_map(|(_, status)| status.ok().flatten());
    let revisions = revisions.filter_map(|status| status.facts?.revision);
    Revision(revisions.map(|revision| revision.0).max().unwrap_or(0) + 1)
}

/// Tells one host, and waits until it has the network.
async fn tell(
    session: &Session,
    place: Place,
    name: &NetworkName,
    revision: Revision,
    spec: &NetworkSpec,
) -> Result<&'static str, (Code, String)> {
    let known = read(session, &place, name).await.map_err(because)?;
    let is_so = known.is_some_and(|status| status.spec.as_ref() == Some(spec));
    if !is_so {
        let put = PutNetwork { revision, spec: spec.clone() };
        let path = path_of(name);
        let sent = session.client.send::<_, NetworkStatus>(Method::PUT, &place.agent, &path, &put);
        sent.await.map_err(because)?;
    }
    let is_up = async {
        loop {
            let status = read(session, &place, name).await.map_err(because)?;
            match status.and_then(|status| status.facts) {
                Some(NetworkFacts { is_up: true, .. }) => return Ok(()),
                Some(NetworkFacts { trouble: Some(why), .. }) => {
                    return Err((Code::Failed, format!("not up: {why}")));
                }
                _ => sleep(LOOK_INTERVAL).await,
            }
        }
    };
    let late = |_| (Code::Failed, "it is still being made".to_owned());
    timeout(PATIENCE, is_up).await.map_err(late)??;
    Ok(if is_so { "is up already" } else { "is up" })
}

// Taking away.

/// While one of the hosts needs it, it is taken off none. Those that keep an overlay hear then who has left.
async fn rm(
    session: &Session,
    picture: &Picture,
    name: &NetworkName,
    on: &[String],
) -> Result<Code, Failure> {
    let all = places(picture, &[])?;
    let leaving = places(picture, on)?;
    let stays = |place: &Place| leaving.iter().all(|l| l.host.id != place.host.id);
    let has = |place: &Place| overlay_of(&place.host, name);
    let staying: Vec<Place> = all.into_iter().filter(|p| stays(p) && has(p).is_some()).collect();
    let known = each(leaving.clone(), |place| async move { read(session, &place, name).await });
    for (host, status) in known.await {
        let users = status.ok().flatten().map(|status| status.users).unwrap_or_default();
        if !users.is_empty() {
            let no = Refusal::NetworkInUse { network: name.clone(), users, others: 0 };
            let what = format!("nothing was taken away: on {host}: {no}");
            return Err(Failure::new(Code::Refused, what).next("ostler networks"));
        }
    }
    let gone = each(leaving, |place| remove(session, place, name)).await;
    let mut failed = Vec::new();
    let mut removed = 0;
    for (host, gone) in gone {
        match gone {
            Ok(false) => {}
            Ok(true) => {
                removed += 1;
                match session.is_json {
                    true => show::json(&json!({ "host": host, "deleted": name })),
                    false => show::line(&format!("{name} is gone from {host}")),
                }
            }
            Err((code, why)) => failed.push((code, format!("{host}: {why}"))),
        }
    }
    if removed == 0 && failed.is_empty() {
        let what = format!("no network {name} on the hosts that were asked");
        return Err(Failure::new(Code::NotFound, what).next("ostler networks"));
    }
    if let Some(vni) = staying.first().and_then(has)
        && failed.is_empty()
    {
        let spec = NetworkSpec::Overlay { vni, members: members_of(&staying)? };
        let revision = next_revision(session, &staying, name).await;
        for (host, told) in each(staying, |place| tell(session, place, name, revision, &spec)).await
        {
            if let Err((code, why)) = told {
                failed.push((code, format!("{host} was not told who has left: {why}")));
            }
        }
    }
    all_or(failed, &format!("hosts still have network {name}, or were not told"))
}

/// False when it was not there.
async fn remove(
    session: &Session,
    place: Place,
    name: &NetworkName,
) -> Result<bool, (Code, String)> {
    let path = path_of(name);
    let sent = session.client.send::<_, Option<()>>(Method::DELETE, &place.agent, &path, &());
    match sent.await {
        Err(error) if is_missing(&error) => return Ok(false),
        sent => sent.map(drop).map_err(because)?,
    }
    let is_gone = async {
        while read(session, &place, name).await.map_err(because)?.is_some() {
            sleep(LOOK_INTERVAL).await;
        }
        Ok(true)
    };
    let late = |_| (Code::Failed, "it is still being taken down".to_owned());
    timeout(PATIENCE, is_gone).await.map_err(late)?
}

// Asking.

async fn read(
    session: &Session,
    place: &Place,
    name: &NetworkName,
) -> Result<Option<NetworkStatus>, CallError> {
    match session.client.get::<NetworkStatus>(&place.agent, &path_of(name)).await {
        Ok(status) => Ok(Some(status)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_missing(error: &CallError) -> bool {
    matches!(error.refusal(), Some(Refusal::NoSuchNetwork { .. }))
}

fn path_of(name: &NetworkName) -> String {
    format!("/v1/networks/{name}")
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn because(error: CallError) -> (Code, String) {
    (code_of(&error), chain(&error))
}

/// Does the same with each host, some at a time; with the host's name.
async fn each<T, F: Future<Output = T>>(
    hosts: Vec<Place>,
    act: impl Fn(Place) -> F,
) -> Vec<(String, T)> {
    let acts = hosts.into_iter().map(|place| {
        let (name, act) = (place.name.clone(), act(place));
        async move { (name, act.await) }
    });
    stream::iter(acts).buffered(TOLD_AT_ONCE).collect().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_go_to_the_address_of_the_agent() {
        assert_eq!(address_in("https://10.0.0.5:7460"), Some(Ipv4Addr::new(10, 0, 0, 5)));
        for url in ["https://[fd00::1]:7460", "https://h1:7460", "unix:/run/agent.sock"] {
            assert_eq!(address_in(url), None, "{url}");
        }
    }
}
