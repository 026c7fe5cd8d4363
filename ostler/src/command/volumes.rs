//! `ostler volumes`: the disks of VMs, where they are and who used them last; what was deleted from pools,
//! and what in them is nobody's.

use std::collections::BTreeMap;

use protocol::id::{HostId, JobId, PoolName};
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

/// A VM's volumes in one pool.
#[derive(Debug, Serialize)]
struct Shown {
    vm: JobId,
    pool: String,
    bytes: u64,
    /// Who has them, or used them last.
    host: String,
    state: String,
    /// What they are called in the trash, if they were deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<String>,
}

async fn ls(session: &Session, picture: &Picture) -> Code {
    let mut rows = own(picture);
    for (name, endpoints) in pools(picture) {
        match content(session, &name, &endpoints).await {
            Ok(content) => rows.extend(pooled(picture, &name, content)),
            Err(why) => show::note(&format!("warning: pool {name} can't be looked into: {why}")),
        }
    }
    rows.sort_by(|a, b| (&a.vm, &a.pool, &a.entry).cmp(&(&b.vm, &b.pool, &b.entry)));
    if session.is_json {
        show::json_pretty(&json!({ "volumes": rows }));
        return Code::Ok;
    }
    let cells = rows.into_iter().map(|Shown { vm, pool, bytes, host, state, entry }| {
        let state = entry.map_or(state, |entry| format!("deleted: {entry}"));
        [vm.to_string(), pool, Bytes(bytes).to_string(), host, state]
    });
    show::table(["VM", "POOL", "SIZE", "HOST", "STATE"], cells.collect());
    Code::Ok
}

/// Volumes in hosts' own folders.
fn own(picture: &Picture) -> Vec<Shown> {
    let jobs = picture.jobs().into_iter().filter(|row| !has_left(&row.job));
    let shown = jobs.filter_map(|row| {
        let bytes = row.job.spec.takes().disk_bytes;
        (bytes > 0).then(|| Shown {
            vm: row.job.id.clone(),
            pool: DEFAULT.to_owned(),
            bytes,
            host: row.host_name,
            state: row.job.state.to_string(),
            entry: None,
        })
    });
    shown.collect()
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
    let shown = |tag: Tag, entry: Option<String>| Shown {
        state: state_of(picture, &tag.job),
        bytes: tag.bytes(),
        host: host_name(picture, &tag.host),
        vm: tag.job,
        pool: name.to_string(),
        entry,
    };
    let volumes = content.volumes.into_iter().map(|tag| shown(tag, None));
    let deleted = content.deleted.into_iter().map(|gone| shown(gone.tag, Some(gone.entry)));
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
