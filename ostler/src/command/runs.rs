//! `ostler runs`: what the controller did and does.

use protocol::api::{RunList, RunState, RunStatus};
use protocol::job::Role;
use transport::Endpoint;

use crate::cli::{RunsArgs, RunsCommand, run_id_matches};
use crate::exit::{Code, Failure};
use crate::follow::{task_line, wanted};
use crate::session::Session;
use crate::show;

pub(crate) async fn run(session: &Session, args: RunsArgs) -> Result<Code, Failure> {
    session.learn_names().await;
    let (controller, runs) = list(session).await?;
    match args.command {
        None => tell_all(session, &runs),
        Some(RunsCommand::Show { id, follow }) => {
            let matching: Vec<_> =
                runs.into_iter().filter(|run| run_id_matches(run.id, &id)).collect();
            let [run] = <[RunStatus; 1]>::try_from(matching).map_err(|runs| match runs.len() {
                0 => Failure::new(Code::NotFound, format!("no run {id}")).next("ostler runs"),
                n => Failure::usage(format!("{n} runs begin with {id}")).next("write more of it"),
            })?;
            let run = if follow { session.follow(&controller, run).await? } else { run };
            match session.is_json {
                true => show::json_pretty(&run),
                false => tell_one(session, &run),
            }
        }
    }
    Ok(Code::Ok)
}

async fn list(session: &Session) -> Result<(Endpoint, Vec<RunStatus>), Failure> {
    let mut last = None;
    for controller in session.peers(Role::Controller) {
        match session.client.get::<RunList>(&controller, "/v1/runs").await {
            Ok(list) => return Ok((controller, list.runs)),
            Err(error) => last = Some(error),
        }
    }
    let failure = Failure::new(Code::Unreachable, "no controller answers")
        .next("ostler bootstrap (it is safe to repeat); VMs and `ostler ps` do not need one");
    Err(match last {
        Some(error) => failure.because(error),
        None => failure,
    })
}

fn tell_all(session: &Session, runs: &[RunStatus]) {
    if session.is_json {
        show::json_pretty(&serde_json::json!({ "runs": runs }));
        return;
    }
    let rows = runs.iter().map(|run| {
        [
            run.id.to_string(),
            state_word(run.state).to_owned(),
            session.with_names(&wanted(&run.want)),
            show::moment(run.accepted_ms),
            session.with_names(run.reason.as_deref().unwrap_or_default()),
        ]
    });
    show::table(["RUN", "STATE", "WANTED", "ASKED AT", ""], rows.collect());
}

fn tell_one(session: &Session, run: &RunStatus) {
    show::line(&session.with_names(&format!("run {}: {}", run.id, wanted(&run.want))));
    let why = run.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    let state = state_word(run.state);
    show::line(&format!(
        "  {state}{why}; {} plans; asked at {}",
        run.rounds,
        show::moment(run.accepted_ms)
    ));
    for task in &run.tasks {
        show::line(&format!("  {}", session.with_names(&task_line(task))));
    }
}

fn state_word(state: RunState) -> &'static str {
    match state {
        RunState::Accepted => "accepted",
        RunState::Running => "running",
        RunState::Unwinding => "unwinding",
        RunState::Succeeded => "succeeded",
        RunState::RolledBack => "rolled_back",
        RunState::Stuck => "stuck",
    }
}
