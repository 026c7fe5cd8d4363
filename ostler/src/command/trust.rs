//! `ostler trust`: who is believed, by the context, or by an agent that is asked; and bringing the document of
//! a cluster into a context that has none.

use protocol::id::HostId;
use protocol::signed::Signed;
use protocol::trust::{Trust, TrustError, User};
use serde_json::json;
use transport::discovery::Source;

use crate::cli::{Global, TrustCommand};
use crate::exit::{Code, Failure};
use crate::picture::chain;
use crate::session::{Session, context_of};
use crate::show;

pub(crate) async fn run(global: &Global, command: TrustCommand) -> Result<Code, Failure> {
    match command {
        TrustCommand::Show => show(global).await,
        TrustCommand::Fetch { from } => fetch(global, from).await,
    }
}

async fn show(global: &Global) -> Result<Code, Failure> {
    let trust = if global.hosts.is_empty() {
        let context = context_of(global);
        context.trust()?.map(|(_, trust)| trust).ok_or_else(|| {
            let what = format!("no trust document in {}", context.folder().display());
            Failure::new(Code::NotFound, what).next("ostler bootstrap, or ask an agent: --hosts")
        })?
    } else {
        of_agent(&Session::open(global)?).await?
    };
    if global.json {
        show::json_pretty(&trust);
    } else {
        tell(&trust);
    }
    Ok(Code::Ok)
}

/// A context without a document believes the first that it is given, as a bare host does; from then on only
/// what one of its operators has signed.
async fn fetch(global: &Global, from: Vec<Source>) -> Result<Code, Failure> {
    let context = context_of(global);
    let own = context.operator()?.public();
    let kept = context.sources()?.into_iter().filter_map(|source| source.parse().ok()).collect();
    let hosts: Vec<Source> = if from.is_empty() { kept } else { from };
    if hosts.is_empty() {
        let what = format!(
            "nobody has said where hosts are found, and {} does not know",
            context.folder().display()
        );
        return Err(Failure::usage(what).next("ostler trust fetch URL, or addresses of agents"));
    }
    let session = Session::open(&Global { hosts: hosts.clone(), ..global.clone() })?;
    let (found, mut silent) = session.find().await;
    let mut trust = context.trust()?.map(|(_, trust)| trust);
    for found in found {
        let agent = found.endpoint();
        match session.client.get::<Option<Signed<Trust>>>(&agent, "/v1/config/trust").await {
            Ok(Some(signed)) => match Trust::follow(trust.as_ref(), &signed) {
                Ok(Some(newer)) => {
                    context.save_trust(&signed)?;
                    trust = Some(newer);
                }
                Ok(None) | Err(TrustError::NotNewer { .. }) => {}
                Err(error) => silent.push(format!("{agent}: {error}")),
            },
            Ok(None) => silent.push(format!("{agent} is a lone host without trust")),
            Err(error) => silent.push(format!("{agent}: {}", chain(&error))),
        }
    }
    for who in &silent {
        show::note(&format!("warning: {who}"));
    }
    let trust = trust.ok_or_else(|| {
        Failure::new(Code::NotFound, "no host has told its trust document").next(format!(
            "if they do not know the key of this context, an operator's `ostler users add {own} --name NAME --tenant TENANT`, or `ostler readers add {own} --name NAME`"
        ))
    })?;
    context.save_sources(&hosts.iter().map(Source::full).collect::<Vec<_>>())?;
    let role = trust.role_of(&own);
    if global.json {
        show::json_pretty(&json!({ "cluster": trust.cluster, "version": trust.version, "own": own,
            "role": role, "operators": trust.operators }));
        return Ok(Code::Ok);
    }
    show::line(&format!("cluster {}, version {}, of operator", trust.cluster, trust.version));
    for key in &trust.operators {
        show::line(&format!("  {key}"));
    }
    if let Some(role) = role {
        show::note(&format!("the key of this context is known there as {role}"));
    }
    Ok(Code::Ok)
}

async fn of_agent(session: &Session) -> Result<Trust, Failure> {
    let (found, silent) = session.find().await;
    let agent = found.first().map(|found| found.endpoint()).ok_or_else(|| {
        Failure::new(Code::Unreachable, format!("no agent found: {}", silent.join("; ")))
    })?;
    let signed: Option<Signed<Trust>> = session.client.get(&agent, "/v1/config/trust").await?;
    let signed = signed.ok_or_else(|| {
        Failure::new(Code::NotFound, format!("{agent} is a lone host without trust"))
    })?;
    signed.open().map_err(|error| Failure::new(Code::Failed, "open trust").because(error))
}

fn tell(trust: &Trust) {
    show::line(&format!("cluster {}, version {}", trust.cluster, trust.version));
    let arbiters = trust.arbiters.len();
    show::line(&format!("a ticket needs {} of {arbiters} arbiters", trust.k));
    if let Some(committee) = trust.council().witnesses {
        let (n, k) = (committee.n(), committee.k);
        show::line(&format!("of a VM that may be lost it needs {k} of {n} witnesses as well"));
    }
    let mut rows: Vec<[String; 3]> = Vec::new();
    rows.extend(trust.operators.iter().map(|key| row("operator", "", key.to_string())));
    let arbiters = trust.arbiters.iter();
    rows.extend(arbiters.map(|a| row(&format!("arbiter {}", a.slot), &a.url, a.key.to_string())));
    let witnesses = trust.witnesses.members.iter();
    rows.extend(witnesses.map(|w| row(&format!("witness {}", w.slot), &w.url, w.key.to_string())));
    let peers = trust.peers.iter();
    rows.extend(peers.map(|p| row(&p.role.to_string(), &p.url, p.key.to_string())));
    let hosts = trust.roster.iter();
    rows.extend(hosts.map(|key| row("host", HostId::of(key).as_str(), key.to_string())));
    let users = trust.users.iter();
    let of = |user: &User| format!("{} of {}", user.name, user.tenant);
    rows.extend(users.map(|user| row("user", &of(user), user.key.to_string())));
    let readers = trust.readers.iter();
    rows.extend(readers.map(|r| row(&r.role().to_string(), &r.name, r.key.to_string())));
    show::table(["ROLE", "WHERE", "KEY"], rows);
}

fn row(role: &str, place: &str, key: String) -> [String; 3] {
    [role.to_owned(), place.to_owned(), key]
}
