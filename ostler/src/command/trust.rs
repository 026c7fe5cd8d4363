//! `ostler trust`: who is believed, by the context, or by an agent that is asked.

use protocol::id::HostId;
use protocol::signed::Signed;
use protocol::trust::Trust;

use crate::cli::{Global, TrustCommand};
use crate::exit::{Code, Failure};
use crate::session::{Session, context_of};
use crate::show;

pub(crate) async fn run(global: &Global, command: TrustCommand) -> Result<Code, Failure> {
    let TrustCommand::Show = command;
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
    let mut rows: Vec<[String; 3]> = Vec::new();
    rows.extend(trust.operators.iter().map(|key| row("operator", "", key.to_string())));
    let arbiters = trust.arbiters.iter();
    rows.extend(arbiters.map(|a| row(&format!("arbiter {}", a.slot), &a.url, a.key.to_string())));
    let peers = trust.peers.iter();
    rows.extend(peers.map(|p| row(&p.role.to_string(), &p.url, p.key.to_string())));
    let hosts = trust.roster.iter();
    rows.extend(hosts.map(|key| row("host", HostId::of(key).as_str(), key.to_string())));
    show::table(["ROLE", "WHERE", "KEY"], rows);
}

fn row(role: &str, place: &str, key: String) -> [String; 3] {
    [role.to_owned(), place.to_owned(), key]
}
