//! `ostler inspect`: everything about one VM, service or host, as its host tells it.

use protocol::job::JobRow;
use serde_json::json;

use crate::cli::InspectArgs;
use crate::exit::{Code, Failure};
use crate::session::Session;
use crate::show;

pub(crate) async fn run(session: &Session, args: InspectArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let on = |row: &JobRow| row.job.id.as_str() == args.name;
    let rows: Vec<JobRow> = picture.jobs().into_iter().filter(on).collect();
    if !rows.is_empty() {
        let agents: Vec<_> = rows.iter().map(|row| picture.agent(&row.host).url).collect();
        show::json_pretty(&json!({ "jobs": rows, "agents": agents }));
        return Ok(Code::Ok);
    }
    match picture.host(&args.name) {
        Ok(row) => {
            let id = &row.host.id;
            let known = picture.hosts().into_iter().find(|reply| reply.host.id == *id);
            let observed: Vec<_> = row.observed.values().collect();
            let jobs: Vec<_> = row.jobs.values().map(|job| (&job.id, job.state)).collect();
            show::json_pretty(&json!({ "host": known, "observed": observed, "jobs": jobs }));
            Ok(Code::Ok)
        }
        Err(_) => {
            let what = format!("no VM, service or host {:?} among those that answer", args.name);
            Err(Failure::new(Code::NotFound, what).next("ostler ps --all; ostler hosts"))
        }
    }
}
