//! `ostler rank`: how much a VM matters beside others, and whether it may be stopped for one that matters more.
//! Asked of the host itself, which needs nobody else for that and restarts nothing.

use protocol::vm::Rank;
use serde_json::json;

use super::act;
use crate::cli::RankArgs;
use crate::exit::{Code, Failure};
use crate::session::Session;
use crate::show;

pub(crate) async fn run(session: &Session, args: RankArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let preemptible = match (args.preemptible, args.not_preemptible) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    let rank = Rank { priority: args.priority, preemptible };
    let row = act::at_host(session, &picture, &args.name, "rank", &json!(rank)).await?;
    if session.is_json {
        show::json_pretty(&json!({ "job": row.job, "host": row.host }));
        return Ok(Code::Ok);
    }
    let may = match row.job.spec.is_preemptible() {
        true => "may be stopped for one that has more",
        false => "is stopped for no other's sake",
    };
    show::line(&format!("{} has priority {}, and {may}", args.name, row.job.spec.priority()));
    Ok(Code::Ok)
}
