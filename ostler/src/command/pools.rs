//! `ostler pools`: which pools hosts have, and which of them are one and the same; declaring them.
//!
//! A shared pool is declared on all its hosts with one id: the first host finds it (or makes it, if that
//! is said), and the others must find the same. A host on which the mount is missing is refused, and
//! named.

use std::collections::BTreeMap;

use protocol::id::{JobId, PoolName};
use protocol::job::JobRow;
use protocol::pool::{PoolFacts, PoolId, PoolSpec, PoolsConfig};
use protocol::refusal::Refusal;
use protocol::resources::Bytes;
use serde_json::json;
use transport::Method;

use super::images::{Place, places};
use crate::cli::parse_label;
use crate::exit::{Code, Failure, code_of};
use crate::picture::Picture;
use crate::session::Session;
use crate::show;

const PATH: &str = "/v1/config/pools";

const NEXT_OF_ADD: &str =
    "mount it there, or name the hosts that have it with --on; --create makes a new pool";

const NEXT_OF_RM: &str = "ostler volumes shows what is in it; hosts that have let go of it get it back with `ostler pools add`";

#[derive(Debug, clap::Args)]
pub(crate) struct PoolsArgs {
    #[command(subcommand)]
    command: Option<PoolsCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum PoolsCommand {
    /// Which pools there are, on which hosts (the default)
    Ls,
    /// Declare a directory as a pool, on all hosts or some
    Add(AddArgs),
    /// Declare a pool no longer; what is in it stays there
    Rm {
        /// The pool
        name: PoolName,
        /// Only on this host
        #[arg(long, value_name = "HOST")]
        on: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    /// What to call it
    name: PoolName,
    /// The directory, by its whole path
    path: String,
    /// The hosts have it together: all of them mount the same
    #[arg(long)]
    shared: bool,
    /// What to say of it, such as class=ssd or copies=2, for expectations to ask for: on top of what is said already.
    /// KEY= says it no more
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,
    /// Make a new pool of it; without this it must be one already
    #[arg(long)]
    create: bool,
    /// Only on this host
    #[arg(long, value_name = "HOST")]
    on: Vec<String>,
}

pub(crate) async fn run(session: &Session, args: PoolsArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    match args.command.unwrap_or(PoolsCommand::Ls) {
        PoolsCommand::Ls => Ok(ls(session, &picture)),
        PoolsCommand::Add(args) => add(session, &picture, args).await,
        PoolsCommand::Rm { name, on } => rm(session, &picture, &on, &name).await,
    }
}

/// A pool as the hosts that have it say.
struct Shown {
    facts: PoolFacts,
    hosts: Vec<String>,
    troubles: Vec<String>,
}

fn ls(session: &Session, picture: &Picture) -> Code {
    let mut pools: BTreeMap<(PoolName, PoolId), Shown> = BTreeMap::new();
    for row in picture.hosts() {
        for (name, facts) in row.host.pools {
            let key = (name, facts.id);
            let shown = pools.entry(key).or_insert_with(|| Shown {
                facts: facts.clone(),
                hosts: Vec::new(),
                troubles: Vec::new(),
            });
            shown.hosts.push(row.host.name.clone());
            match &facts.unavailable {
                Some(why) => shown.troubles.push(format!("{}: {why}", row.host.name)),
                // Whoever can't look does not know.
                None => shown.facts = facts,
            }
        }
    }
    if session.is_json {
        let pools = pools.iter().map(|((name, _), shown)| {
            json!({ "name": name, "pool": shown.facts, "hosts": shown.hosts, "troubles": shown.troubles })
        });
        show::json_pretty(&json!({ "pools": pools.collect::<Vec<_>>() }));
        return Code::Ok;
    }
    let lines = pools.iter().map(|((name, id), Shown { facts, hosts, troubles })| {
        let state = match troubles.len() {
            0 => "available".to_owned(),
            some if some == hosts.len() => "unavailable".to_owned(),
            some => format!("unavailable on {some}"),
        };
        [
            name.to_string(),
            id.simple().to_string()[..8].to_owned(),
            if facts.is_shared { "shared" } else { "own" }.to_owned(),
            Bytes(facts.promised_bytes).to_string(),
            Bytes(facts.capacity_bytes).to_string(),
            Bytes(facts.free_bytes).to_string(),
            label_words(&facts.labels),
            state,
            hosts.join(", "),
        ]
    });
    let header = ["POOL", "ID", "KIND", "PROMISED", "CAPACITY", "FREE", "LABELS", "STATE", "HOSTS"];
    show::table(header, lines.collect());
    for ((name, _), Shown { troubles, .. }) in &pools {
        for why in troubles {
            show::note(&format!("{name} on {why}"));
        }
    }
    Code::Ok
}

fn label_words(labels: &BTreeMap<String, String>) -> String {
    let words: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(",") }
}

async fn add(session: &Session, picture: &Picture, args: AddArgs) -> Result<Code, Failure> {
    let targets = places(picture, &args.on)?;
    let AddArgs { name, path, shared, create, label, .. } = args;
    // What other hosts have under this name and share is what is meant.
    let mut id = known_id(picture, &name).filter(|_| shared);
    for place in targets {
        let config = read(session, &place).await?;
        if let Some(has) = config.pools.get(&name)
            && (&has.path, has.shared) == (&path, shared)
            && labels_after(&has.labels, &label) == has.labels
            && id.is_none_or(|id| has.id == Some(id))
        {
            id = has.id.filter(|_| shared).or(id);
            tell(session, &place, &name, has.id, "has it already");
            continue;
        }
        let may_create = create && (id.is_none() || !shared);
        let labels = config.pools.get(&name).map(|has| has.labels.clone()).unwrap_or_default();
        let labels = labels_after(&labels, &label);
        let spec = PoolSpec { path: path.clone(), shared, id, create: may_create, labels };
        let mut pools = config.pools;
        pools.insert(name.clone(), spec);
        let put = PoolsConfig { version: config.version + 1, pools };
        let now = write(session, &place, &put, NEXT_OF_ADD).await?;
        let found = now.pools.get(&name).and_then(|spec| spec.id);
        id = found.filter(|_| shared).or(id);
        tell(session, &place, &name, found, "has it");
    }
    Ok(Code::Ok)
}

/// What is said of a pool, changed by what is said now.
fn labels_after(
    before: &BTreeMap<String, String>,
    said: &[(String, String)],
) -> BTreeMap<String, String> {
    let mut labels = before.clone();
    labels.extend(said.iter().cloned());
    labels.retain(|_, value| !value.is_empty());
    labels
}

fn known_id(picture: &Picture, name: &PoolName) -> Option<PoolId> {
    let hosts = picture.hosts().into_iter();
    let mut ids = hosts.filter_map(|row| row.host.pools.get(name).cloned());
    ids.find(|facts| facts.is_shared).map(|facts| facts.id)
}

fn tell(session: &Session, place: &Place, name: &PoolName, id: Option<PoolId>, what: &str) {
    match session.is_json {
        true => show::json(&json!({ "host": place.name, "pool": name, "id": id })),
        false => {
            let id = id.map(|id| id.simple().to_string()[..8].to_owned()).unwrap_or_default();
            show::line(&format!("{}: {what}: {name} ({id})", place.name));
        }
    }
}

/// All hosts let go of it or none: whose disks are in it is asked of what is seen before any of them is told. What has
/// come since, its host knows.
async fn rm(
    session: &Session,
    picture: &Picture,
    on: &[String],
    name: &PoolName,
) -> Result<Code, Failure> {
    let targets = places(picture, on)?;
    let jobs = picture.jobs();
    for place in &targets {
        let is_in_it = |row: &&JobRow| {
            row.host == place.host.id
                && row.job.spec.as_vm().is_some_and(|vm| vm.bytes_by_pool().contains_key(name))
        };
        let users: Vec<JobId> =
            jobs.iter().filter(is_in_it).map(|row| row.job.id.clone()).collect();
        if !users.is_empty() {
            let no = Refusal::PoolInUse { pool: name.clone(), users };
            let what = format!("nothing was taken away: on {}: {no}", place.name);
            return Err(
                Failure::new(Code::Refused, what).next("ostler volumes shows what is in it")
            );
        }
    }
    let mut is_found = false;
    for place in targets {
        let mut config = read(session, &place).await?;
        if config.pools.remove(name).is_none() {
            continue;
        }
        is_found = true;
        config.version += 1;
        write(session, &place, &config, NEXT_OF_RM).await?;
        show::line(&format!("{}: {name} is no pool of it any more", place.name));
    }
    match is_found {
        true => Ok(Code::Ok),
        false => {
            let what = format!("no pool {name} on the hosts that were asked");
            Err(Failure::new(Code::NotFound, what).next("ostler pools"))
        }
    }
}

async fn read(session: &Session, place: &Place) -> Result<PoolsConfig, Failure> {
    let asked = session.client.get::<PoolsConfig>(&place.agent, PATH).await;
    asked.map_err(|error| {
        Failure::new(code_of(&error), format!("{} does not say which pools it has", place.name))
            .because(error)
            .next("name the hosts that are meant with --on")
    })
}

async fn write(
    session: &Session,
    place: &Place,
    config: &PoolsConfig,
    next: &str,
) -> Result<PoolsConfig, Failure> {
    let asked = session.client.send(Method::PUT, &place.agent, PATH, config).await;
    asked.map(|reply| reply.body).map_err(|error| {
        Failure::new(code_of(&error), format!("{} has the pools that it had", place.name))
            .because(error)
            .next(next)
    })
}
