//! `ostler fencing`: which controllers switch off hosts that nobody hears, and what they are about to do.
//!
//! Who may is in the trust document; what switches a host is in the power file of a controller's machine. Decides
//! which controllers a person means, by their hosts, and says whom nobody could switch off.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use protocol::fencing::{FencingList, Standing};
use protocol::id::HostId;
use protocol::job::Role;
use protocol::power::PowerList;
use protocol::signed::PublicKey;
use protocol::trust::{Fencer, Fencing, Peer, Trust};
use serde::Serialize;
use serde_json::json;
use transport::Endpoint;

use super::power::ask_all;
use super::retire::services;
use crate::cli::{FencingArgs, FencingCommand, FencingSetArgs};
use crate::exit::{Code, Failure};
use crate::govern::{Authority, in_force};
use crate::picture::{Picture, chain};
use crate::session::Session;
use crate::show;

/// See the module.
pub(crate) async fn run(session: &Session, args: FencingArgs) -> Result<Code, Failure> {
    match args.command {
        None => list(session).await,
        Some(FencingCommand::Set(args)) => set(session, &args).await,
        Some(FencingCommand::None) => none(session).await,
    }
}

/// One fencer, as it is shown.
#[derive(Serialize)]
struct Row {
    place: u8,
    host: Option<String>,
    key: PublicKey,
    url: String,
    says: Option<FencingList>,
    trouble: Option<String>,
}

async fn list(session: &Session) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    let trust = in_force(session, &picture).await.ok_or_else(no_trust)?;
    let rows = rows(session, &picture, &trust).await;
    let unswitched = match rows.is_empty() {
        true => vec![],
        false => unswitched(session, &picture).await?,
    };
    if session.is_json {
        show::json_pretty(&json!({ "fencers": rows, "after_ms": trust.fencing.after_ms,
            "stays_off": trust.fencing.stays_off, "no_device": unswitched,
            "warnings": picture.warnings }));
        return Ok(Code::Ok);
    }
    picture.warn();
    if rows.is_empty() {
        show::note(
            "no controller switches off a host by itself: VMs that are kept wait for `ostler fence` when their \
             host is lost. Let controllers do it, where power files name devices: ostler fencing set",
        );
        return Ok(Code::Ok);
    }
    let state = |row: &Row| match (&row.says, &row.trouble) {
        (_, Some(trouble)) => format!("does not answer: {trouble}"),
        (Some(FencingList { is_fencer: false, .. }), None) => "has not heard of it yet".to_owned(),
        (Some(FencingList { waits: Some(why), .. }), None) => format!("waits: {why}"),
        (Some(_), None) => "watches".to_owned(),
        (None, None) => String::new(),
    };
    let cells = |row: &Row| {
        let host = row.host.clone().unwrap_or_else(|| "-".to_owned());
        [row.place.to_string(), host, state(row), row.url.clone()]
    };
    show::table(["PLACE", "HOST", "STATE", "WHERE"], rows.iter().map(cells).collect());
    for (host, standing) in standings(&rows) {
        show::line(&format!("{} {standing}", name_of(&picture, &host)));
    }
    for host in &unswitched {
        show::note(&format!("warning: no controller has a device that switches {host}"));
    }
    show::note(&words(&trust.fencing));
    Ok(Code::Ok)
}

fn words(fencing: &Fencing) -> String {
    let then = if fencing.stays_off { "stays off" } else { "is turned on again" };
    format!(
        "a host with VMs that could start elsewhere is switched off after {} s of silence, and {then}",
        fencing.after_ms.div_ceil(1_000)
    )
}

async fn rows(session: &Session, picture: &Picture, trust: &Trust) -> Vec<Row> {
    let asked = trust.fencing.fencers.iter().map(|Fencer { place, key }| async move {
        let peer = trust.peers.iter().find(|peer| peer.key == *key);
        let url = peer.map_or_else(String::new, |peer| peer.url.clone());
        let controller = Endpoint::of_key(url.clone(), *key);
        let answer = session.client.get::<FencingList>(&controller, "/v1/fencing").await;
        let (says, trouble) = match answer {
            Ok(says) => (Some(says), None),
            Err(error) => (None, Some(chain(&error))),
        };
        let host = hosts_of(picture).get(key).map(|host| name_of(picture, host));
        Row { place: *place, host, key: *key, url, says, trouble }
    });
    join_all(asked).await
}

/// What comes of each silent host: of several fencers' words, whatever is nearest to its being switched off.
fn standings(rows: &[Row]) -> BTreeMap<HostId, String> {
    let mut all: BTreeMap<HostId, (u8, String)> = BTreeMap::new();
    let mut note = |host: &HostId, rank: u8, text: String| {
        let known = all.entry(host.clone()).or_insert_with(|| (rank, text.clone()));
        if rank < known.0 {
            *known = (rank, text);
        }
    };
    for says in rows.iter().filter_map(|row| row.says.as_ref()) {
        if let Some(at) = &says.at {
            note(&at.host, 0, at.stage.to_string());
        }
        for silent in &says.hosts {
            let rank = match silent.standing {
                Standing::Due => 1,
                Standing::Counted { .. } => 2,
                Standing::Resting { .. } => 3,
                Standing::FewHeard { .. } | Standing::NoDevice { .. } => 4,
                Standing::Asleep | Standing::Said | Standing::NothingAtStake => 5,
            };
            let text = format!(
                "has been silent for {} and {}",
                show::age(silent.silent_ms),
                silent.standing
            );
            note(&silent.host, rank, text);
        }
    }
    all.into_iter().map(|(host, (_, text))| (host, text)).collect()
}

/// Names of hosts that nobody can switch.
async fn unswitched(session: &Session, picture: &Picture) -> Result<Vec<String>, Failure> {
    let answers = ask_all::<PowerList>(session, "/v1/power").await?;
    let lists: Vec<PowerList> = answers.into_iter().filter_map(|(_, answer)| answer.ok()).collect();
    let is_switched =
        |host: &HostId| lists.iter().flat_map(|list| &list.hosts).any(|h| h.host == *host);
    let hosts = picture.view.hosts().filter(|(host, _)| !is_switched(host));
    Ok(hosts.map(|(_, row)| row.host.name.clone()).collect())
}

async fn set(session: &Session, args: &FencingSetArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let authority = Authority::newest(session, &picture).await?;
    let keys = wanted(&picture, &authority.trust, &args.on)?;
    let refused =
        |error: protocol::trust::TrustError| Failure::new(Code::Refused, error.to_string());
    let mut next = authority.trust.next_with_fencers(&keys).map_err(refused)?;
    if let Some(after) = args.after {
        next.fencing.after_ms = after.0;
    }
    next.fencing.stays_off = args.stays_off;
    decree(session, &picture, authority, next).await
}

async fn none(session: &Session) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let authority = Authority::newest(session, &picture).await?;
    let mut next = authority.trust.next();
    next.fencing = Fencing::default();
    decree(session, &picture, authority, next).await
}

async fn decree(
    session: &Session,
    picture: &Picture,
    authority: Authority,
    next: Trust,
) -> Result<Code, Failure> {
    if next.fencing == authority.trust.fencing {
        show::note("it is so already");
        return Ok(Code::Ok);
    }
    let (version, fencing) = (next.version, next.fencing.clone());
    let silent = authority.decree(session, picture, next).await?;
    if session.is_json {
        show::json_pretty(
            &json!({ "fencing": fencing, "trust_version": version, "not_told": silent }),
        );
        return Ok(Code::Ok);
    }
    match fencing.is_nobodys() {
        true => show::note(&format!(
            "no controller switches off a host by itself any more, by trust version {version}"
        )),
        false => {
            show::note(&format!("{}, by trust version {version}", words(&fencing)));
            for host in unswitched(session, picture).await? {
                show::note(&format!(
                    "warning: no controller has a device that switches {host}: name one in \
                     /etc/ostler/power.json on the hosts of controllers"
                ));
            }
        }
    }
    Ok(Code::Ok)
}

/// The controllers on these hosts, or all of them.
fn wanted(picture: &Picture, trust: &Trust, on: &[String]) -> Result<Vec<PublicKey>, Failure> {
    let is_controller = |peer: &&Peer| peer.role == Role::Controller;
    let controllers: Vec<PublicKey> =
        trust.peers.iter().filter(is_controller).map(|peer| peer.key).collect();
    if on.is_empty() {
        return Ok(controllers);
    }
    let mut keys = Vec::new();
    for text in on {
        let row = picture.host(text)?;
        let there = services(row);
        let found: Vec<PublicKey> =
            controllers.iter().filter(|key| there.contains(key)).copied().collect();
        if found.is_empty() {
            let what = format!("{} has no controller of this cluster", row.host.name);
            return Err(
                Failure::new(Code::Refused, what).next("ostler trust show; ostler bootstrap")
            );
        }
        keys.extend(found);
    }
    keys.dedup();
    Ok(keys)
}

/// Which host each of Ostler's own services is on.
fn hosts_of(picture: &Picture) -> BTreeMap<PublicKey, HostId> {
    let all = picture.view.hosts();
    all.flat_map(|(host, row)| services(row).into_iter().map(|key| (key, host.clone()))).collect()
}

fn name_of(picture: &Picture, host: &HostId) -> String {
    let row = picture.view.host(host);
    row.map_or_else(|| host.short().to_owned(), |row| row.host.name.clone())
}

fn no_trust() -> Failure {
    Failure::usage("who may switch off hosts is in the cluster's trust document, and none is here")
        .next("ostler bootstrap, or another --context")
}
