//! `ostler inspect`: everything about one VM, service or host, as its host tells it; and of a VM that may be lost,
//! who lets it run now.

use arbiter::LeaseRow;
use futures_util::future::join_all;
use protocol::id::{HostId, JobId};
use protocol::job::JobRow;
use protocol::trust::Seat;
use protocol::vm::OnLoss;
use serde::Serialize;
use serde_json::json;
use transport::Endpoint;

use crate::cli::InspectArgs;
use crate::command::arbiters::PATIENCE;
use crate::exit::{Code, Failure};
use crate::picture::chain;
use crate::session::Session;
use crate::show;

/// Who lets a VM that may be lost run now, and where.
#[derive(Serialize)]
struct Cover {
    seat: Seat,
    slot: u32,
    /// The host that it lets run it; `None`: nobody, or it does not answer.
    host: Option<HostId>,
    /// For how much longer at least.
    left_ms: u64,
    /// Why it does not answer.
    trouble: Option<String>,
}

/// What each arbiter and each witness says of that.
async fn covered_by(session: &Session, job: &JobId) -> Vec<Cover> {
    let Some(trust) = &session.trust else { return vec![] };
    let client = &session.client.with_patience(PATIENCE);
    let asked = trust.seats().into_iter().map(|(seat, member)| async move {
        let to = Endpoint::of_key(member.url, member.key);
        let told = client.get::<Option<LeaseRow>>(&to, &format!("/v1/leases/{job}")).await;
        let slot = member.slot;
        match told {
            Ok(lease) => {
                let live = lease.filter(|lease| lease.left_ms > 0);
                let left_ms = live.as_ref().map_or(0, |lease| lease.left_ms);
                Cover {
                    seat,
                    slot,
                    host: live.map(|lease| lease.hold.host),
                    left_ms,
                    trouble: None,
                }
            }
            Err(error) => {
                Cover { seat, slot, host: None, left_ms: 0, trouble: Some(chain(&error)) }
            }
        }
    });
    join_all(asked).await
}

pub(crate) async fn run(session: &Session, args: InspectArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let on = |row: &JobRow| row.job.id.as_str() == args.name;
    let rows: Vec<JobRow> = picture.jobs().into_iter().filter(on).collect();
    if !rows.is_empty() {
        let agents: Vec<_> = rows.iter().map(|row| picture.agent(&row.host).url).collect();
        let mut shown = json!({ "jobs": rows, "agents": agents });
        let lapses =
            |row: &JobRow| row.job.spec.as_vm().is_some_and(|vm| vm.on_loss == OnLoss::Stop);
        if let Some(row) = rows.iter().find(|row| lapses(row)) {
            shown["covered_by"] = json!(covered_by(session, &row.job.id).await);
        }
        show::json_pretty(&shown);
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
