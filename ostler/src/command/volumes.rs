//! `ostler volumes`: the disks of VMs, where they are and who used them last; what was deleted from pools,
//! and what in them is nobody's.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, stream};
use protocol::id::{HostId, JobId, PoolName, SnapshotName};
use protocol::job::Job;
use protocol::pool::{DEFAULT, PoolContent, PoolId, Tag};
use protocol::resources::Bytes;
use serde::Serialize;
use serde_json::json;
use transport::{Endpoint, Method};

use crate::exit::{Code, Failure};
use crate::picture::{Picture, chain, has_left};
use crate::session::Session;
use crate::show;

/// Hosts that are asked at a time what their volumes take: each answers within milliseconds.
const ASKED_MAX: usize = 32;

#[derive(Debug, clap::Args)]
pub(crate) struct VolumesArgs {
    #[command(subcommand)]
    command: Option<VolumesCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum VolumesCommand {
    /// Which volumes there are (the default)
    Ls,
    /// Put volumes into their pool's trash that are nobody's any more; they are kept there for a day
    Rm {
        /// The pool
        pool: PoolName,
        /// Whose volumes they were
        vm: JobId,
    },
    /// Take volumes out of a pool's trash
    Restore {
        /// The pool
        pool: PoolName,
        /// What `ostler volumes` calls them
        entry: String,
    },
}

pub(crate) async fn run(session: &Session, args: VolumesArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    match args.command.unwrap_or(VolumesCommand::Ls) {
        VolumesCommand::Ls => Ok(ls(session, &picture).await),
        VolumesCommand::Rm { pool, vm } => rm(session, &picture, &pool, &vm).await,
        VolumesCommand::Restore { pool, entry } => restore(session, &picture, &pool, &entry).await,
    }
}

/// A volume of a VM.
#[derive(Debug, Serialize)]
struct Shown {
    vm: JobId,
    disk: String,
    pool: String,
    /// Its size, as a guest sees it.
    bytes: u64,
    /// What its file takes, with what its snapshots keep; not said by hosts of before 0047.
    #[serde(skip_serializing_if = "Option::is_none")]
    used_bytes: Option<u64>,
    /// What it can be made again, the oldest first.
    snapshots: Vec<SnapshotName>,
    /// Who has them, or used them last.
    host: String,
    state: String,
    /// What they are called in the trash, if they were deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<String>,
}

async fn ls(session: &Session, picture: &Picture) -> Code {
    let mut rows = own(session, picture).await;
    for (name, endpoints) in pools(picture) {
        match content(session, &name, &endpoints).await {
            Ok(content) => rows.extend(pooled(picture, &name, content)),
            Err(why) => show::note(&format!("warning: pool {name} can't be looked into: {why}")),
        }
    }
    rows.sort_by(|a, b| {
        let key =
            |row: &Shown| (row.vm.clone(), row.pool.clone(), row.entry.clone(), row.disk.clone());
        key(a).cmp(&key(b))
    });
    if session.is_json {
        show::json_pretty(&json!({ "volumes": rows }));
        return Code::Ok;
    }
    let cells = rows.into_iter().map(|row| {
        let Shown { vm, disk, pool, bytes, used_bytes, snapshots, host, state, entry } = row;
        let state = entry.map_or(state, |entry| format!("deleted: {entry}"));
        let used = used_bytes.map_or_else(|| "-".to_owned(), |used| Bytes(used).to_string());
        let names: Vec<&str> = snapshots.iter().map(SnapshotName::as_str).collect();
        let names = if names.is_empty() { "-".to_owned() } else { names.join(",") };
        [vm.to_string(), disk, pool, Bytes(bytes).to_string(), used, names, host, state]
    });
    let heads = ["VM", "DISK", "POOL", "SIZE", "USED", "SNAPSHOTS", "HOST", "STATE"];
    show::table(heads, cells.collect());
    Code::Ok
}

/// Volumes in hosts' own folders. What they take is asked of each host that has some; one that can't say is
/// shown without it.
async fn own(session: &Session, picture: &Picture) -> Vec<Shown> {
    let mut rows = Vec::new();
    for row in picture.jobs().into_iter().filter(|row| !has_left(&row.job)) {
        let Some(vm) = row.job.spec.as_vm().filter(|vm| vm.adopted.is_none()) else { continue };
        let disks = vm.disks.iter().filter(|disk| disk.named_pool().is_none());
        let kept = || row.job.kept_snapshots().map(|snapshot| snapshot.name.clone());
        rows.extend(disks.map(|disk| {
            (
                row.host.clone(),
                Shown {
                    vm: row.job.id.clone(),
                    disk: disk.name.clone(),
                    pool: DEFAULT.to_owned(),
                    bytes: disk.size_bytes,
                    used_bytes: None,
                    snapshots: kept().collect(),
                    host: row.host_name.clone(),
                    state: row.job.state.to_string(),
                    entry: None,
                },
            )
        }));
    }
    let hosts: BTreeSet<HostId> = rows.iter().map(|(host, _)| host.clone()).collect();
    let asked = hosts.into_iter().map(|host| async {
        let path = format!("/v1/pools/{DEFAULT}/volumes");
        let content = session.client.get::<PoolContent>(&picture.agent(&host), &path).await.ok()?;
        Some((host, content.used))
    });
    let used: BTreeMap<_, _> = stream::iter(asked)
        .buffer_unordered(ASKED_MAX)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .flatten()
        .collect();
    let with_used = |(host, row): (HostId, Shown)| {
        let used_bytes =
            used.get(&host).and_then(|used| used.get(&row.vm)?.get(&row.disk).copied());
        Shown { used_bytes, ..row }
    };
    rows.into_iter().map(with_used).collect()
}

/// Each pool once, and the hosts that can look into it.
fn pools(picture: &Picture) -> Vec<(PoolName, Vec<Endpoint>)> {
    let mut pools: BTreeMap<(PoolName, PoolId), Vec<Endpoint>> = BTreeMap::new();
    for row in picture.hosts() {
        for (name, facts) in row.host.pools {
            let endpoints = pools.entry((name, facts.id)).or_default();
            if facts.unavailable.is_none() {
                endpoints.push(picture.agent(&row.host.id));
            }
        }
    }
    pools.into_iter().map(|((name, _), endpoints)| (name, endpoints)).collect()
}

async fn content(
    session: &Session,
    name: &PoolName,
    endpoints: &[Endpoint],
) -> Result<PoolContent, String> {
    let mut last = "no host has it available".to_owned();
    for endpoint in endpoints {
        let path = format!("/v1/pools/{name}/volumes");
        match session.client.get::<PoolContent>(endpoint, &path).await {
            Ok(content) => return Ok(content),
            Err(error) => last = chain(&error),
        }
    }
    Err(last)
}

fn pooled(picture: &Picture, name: &PoolName, content: PoolContent) -> Vec<Shown> {
    let shown = |tag: &Tag, used: Option<&BTreeMap<String, u64>>, entry: Option<&String>| {
        let (state, host) = (state_of(picture, &tag.job), host_name(picture, &tag.host));
        let of = |(disk, bytes): (&String, &u64)| Shown {
            vm: tag.job.clone(),
            disk: disk.clone(),
            pool: name.to_string(),
            bytes: *bytes,
            used_bytes: used.and_then(|used| used.get(disk).copied()),
            snapshots: tag.snapshots.iter().map(|snapshot| snapshot.name.clone()).collect(),
            host: host.clone(),
            state: state.clone(),
            entry: entry.cloned(),
        };
        tag.disks.iter().map(of).collect::<Vec<_>>()
    };
    let used = |tag: &Tag| content.used.get(&tag.job);
    let volumes = content.volumes.iter().flat_map(|tag| shown(tag, used(tag), None));
    let deleted = content.deleted.iter();
    let deleted = deleted.flat_map(|gone| shown(&gone.tag, Some(&gone.used), Some(&gone.entry)));
    volumes.chain(deleted).collect()
}

fn state_of(picture: &Picture, job: &JobId) -> String {
    let rows = picture.jobs().into_iter().map(|row| row.job);
    let newest = rows.filter(|row: &Job| row.id == *job).max_by_key(|row| row.revision);
    newest.map_or_else(|| "nobody's".to_owned(), |row| row.state.to_string())
}

fn host_name(picture: &Picture, host: &HostId) -> String {
    let row = picture.view.host(host);
    row.map_or_else(|| host.short().to_owned(), |row| row.host.name.clone())
}

async fn rm(
    session: &Session,
    picture: &Picture,
    pool: &PoolName,
    vm: &JobId,
) -> Result<Code, Failure> {
    if picture.jobs().iter().any(|row| row.job.id == *vm) {
        let what = format!("{vm} is a VM, and its volumes go with it");
        return Err(Failure::new(Code::Refused, what).next(format!("ostler rm {vm}")));
    }
    let all = pools(picture).into_iter().filter(|(name, _)| name == pool);
    for endpoint in all.flat_map(|(_, endpoints)| endpoints) {
        let path = format!("/v1/pools/{pool}/volumes");
        let content = session.client.get::<PoolContent>(&endpoint, &path).await?;
        let Some(tag) = content.volumes.into_iter().find(|tag| tag.job == *vm) else { continue };
        let path = format!("{path}/{vm}?host={}", tag.host);
        session.client.send::<_, Option<()>>(Method::DELETE, &endpoint, &path, &()).await?;
        show::line(&format!("the volumes of {vm} in {pool} are in its trash, for a day"));
        return Ok(Code::Ok);
    }
    let what = format!("no volumes of {vm} in a pool {pool}");
    Err(Failure::new(Code::NotFound, what).next("ostler volumes"))
}

async fn restore(
    session: &Session,
    picture: &Picture,
    pool: &PoolName,
    entry: &str,
) -> Result<Code, Failure> {
    let all = pools(picture).into_iter().filter(|(name, _)| name == pool);
    for endpoint in all.flat_map(|(_, endpoints)| endpoints) {
        let path = format!("/v1/pools/{pool}/volumes");
        let content = session.client.get::<PoolContent>(&endpoint, &path).await?;
        if !content.deleted.iter().any(|gone| gone.entry == *entry) {
            continue;
        }
        let path = format!("/v1/pools/{pool}/deleted/{entry}/restore");
        let tag = session.client.send::<_, Tag>(Method::POST, &endpoint, &path, &()).await?.body;
        show::line(&format!("the volumes of {} are in {pool} again, as nobody's", tag.job));
        return Ok(Code::Ok);
    }
    let what = format!("no {entry:?} in the trash of a pool {pool}");
    Err(Failure::new(Code::NotFound, what).next("ostler volumes"))
}
