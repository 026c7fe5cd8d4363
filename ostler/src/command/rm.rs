//! `ostler rm`: a stopped VM and its disks are gone. A running one is refused.

use protocol::api::Want;
use protocol::job::{JobRow, JobState};
use serde::de::IgnoredAny;
use transport::Method;

use super::expect::note_if_expected;
use super::stop;
use crate::cli::RmArgs;
use crate::exit::{Code, Failure};
use crate::follow::{await_ended, await_gone};
use crate::picture::Picture;
use crate::session::Session;
use crate::show;

/// How long a host may take to delete the disks.
const DELETE_MS_MAX: u64 = 60_000;

pub(crate) async fn run(session: &Session, args: RmArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let row = picture.job(&args.name)?;
    if !row.job.state.is_ended() && !args.force {
        let what = format!("{} is {} on {}", args.name, row.job.state, row.host_name);
        return Err(Failure::new(Code::Refused, what)
            .next(format!("ostler stop {} first, or rm --force, which destroys it", args.name)));
    }
    if !session.is_without_controller() {
        let want = Want::Delete { job: args.name.clone() };
        let code = session.want(want, !args.wait.no_wait).await?;
        let unless = "it is not made again unless they are taken back and put anew";
        note_if_expected(session, &args.name, unless).await;
        return Ok(code);
    }
    let agent = picture.agent(&row.host);
    // What was adopted is only given back, and one that is still to arrive has not run yet.
    let is_destroyed = row.job.spec.adopted().is_none() && row.job.state != JobState::MigratingIn;
    if is_destroyed && !row.job.state.is_ended() {
        stop::at_host(session, &picture, &args.name, 0).await?;
        await_ended(&session.client, &agent, &args.name, stop::STOP_MS_MORE).await?;
    }
    at_host(session, &picture, &row).await?;
    let (word, words) = match args.wait.no_wait {
        true => ("deleting", "is being deleted"),
        false => ("deleted", "is gone"),
    };
    if !args.wait.no_wait
        && let Some(why) = await_gone(&session.client, &agent, &args.name, DELETE_MS_MAX).await?
    {
        let what = format!("{} is still being deleted: {why}", args.name);
        return Err(Failure::new(Code::Unreachable, what)
            .next(format!("ostler inspect {}; the host goes on trying", args.name)));
    }
    match session.is_json {
        true => show::json(&serde_json::json!({ word: args.name, "host": row.host })),
        false => show::line(&format!("{} {words} from {}", args.name, row.host_name)),
    }
    Ok(Code::Ok)
}

/// Asks the host itself, and does not wait.
pub(crate) async fn at_host(
    session: &Session,
    picture: &Picture,
    row: &JobRow,
) -> Result<(), Failure> {
    let id = &row.job.id;
    let (agent, path) = (picture.agent(&row.host), format!("/v1/jobs/{id}"));
    let deleted = session.client.send::<_, Option<IgnoredAny>>(Method::DELETE, &agent, &path, &());
    deleted
        .await
        .map(drop)
        .map_err(|error| Failure::from(error).next(format!("ostler stop {id} first, if it runs")))
}
