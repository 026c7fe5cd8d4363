//! `ostler history`: how much the hosts remember of jobs that are history; and limiting it.

use protocol::history::HistoryConfig;
use protocol::resources::Bytes;
use serde_json::json;
use transport::{CallError, Method};

use super::images::{Place, places};
use crate::cli::Ms;
use crate::exit::{Code, Failure, code_of};
use crate::session::Session;
use crate::show;

const PATH: &str = "/v1/config/history";

#[derive(Debug, clap::Args)]
pub(crate) struct HistoryArgs {
    /// Remember at most so many one-off jobs and failed starts that have ended
    #[arg(long, value_name = "N")]
    jobs: Option<u32>,
    /// Forget them after so long
    #[arg(long, value_name = "TIME")]
    age: Option<Ms>,
    /// Have their rows take at most so much of the ledger
    #[arg(long, value_name = "SIZE")]
    bytes: Option<Bytes>,
    /// Only on this host
    #[arg(long, value_name = "HOST")]
    on: Vec<String>,
}

pub(crate) async fn run(session: &Session, args: HistoryArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let is_change = args.jobs.is_some() || args.age.is_some() || args.bytes.is_some();
    let mut kept = Vec::new();
    for place in places(&picture, &args.on)? {
        let mut config = read(session, &place).await?;
        if is_change {
            config.version += 1;
            config.jobs = args.jobs.unwrap_or(config.jobs);
            config.age_ms = args.age.map_or(config.age_ms, |age| age.0);
            config.bytes = args.bytes.map_or(config.bytes, |bytes| bytes.0);
            write(session, &place, &config).await?;
        }
        kept.push((place.name, config));
    }
    if session.is_json {
        let hosts = kept.iter().map(|(host, config)| json!({ "host": host, "history": config }));
        show::json_pretty(&json!({ "hosts": hosts.collect::<Vec<_>>() }));
        return Ok(Code::Ok);
    }
    let row = |(host, config): &(String, HistoryConfig)| {
        let HistoryConfig { jobs, age_ms, bytes, .. } = *config;
        [host.clone(), jobs.to_string(), show::age(age_ms), Bytes(bytes).to_string()]
    };
    show::table(["HOST", "JOBS", "AGE", "BYTES"], kept.iter().map(row).collect());
    Ok(Code::Ok)
}

async fn read(session: &Session, place: &Place) -> Result<HistoryConfig, Failure> {
    let asked = session.client.get::<HistoryConfig>(&place.agent, PATH).await;
    asked.map_err(|error| failure(error, format!("{} does not say what it remembers", place.name)))
}

async fn write(session: &Session, place: &Place, config: &HistoryConfig) -> Result<(), Failure> {
    let asked = session.client.send::<_, Option<()>>(Method::PUT, &place.agent, PATH, config).await;
    let kept = format!("{} remembers what it did before", place.name);
    asked.map(drop).map_err(|error| failure(error, kept))
}

fn failure(error: CallError, what: String) -> Failure {
    Failure::new(code_of(&error), what)
        .because(error)
        .next("name the hosts that are meant with --on")
}
