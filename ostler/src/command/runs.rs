//! `ostler runs`: what controllers did and do, and having them turn back.

use futures_util::future::join_all;
use protocol::api::{RunList, RunState, RunStatus};
use protocol::job::Role;
use transport::{Endpoint, Method};

use crate::cli::{RunsArgs, RunsCommand, run_id_matches};
use crate::exit::{Code, Failure};
use crate::follow::{task_line, wanted};
use crate::picture::chain;
use crate::session::Session;
use crate::show;

/// A run, and the controller that has it.
type Known = (Endpoint, RunStatus);

pub(crate) async fn run(session: &Session, args: RunsArgs) -> Result<Code, Failure> {
    let _ = session.learn_names().await;
    let runs = list(session).await?;
    match args.command {
        None => tell_all(session, &runs.into_iter().map(|(_, run)| run).collect::<Vec<_>>()),
        Some(RunsCommand::Show { id, follow }) => {
            let (controller, run) = find(runs, &id)?;
            let run = if follow { session.follow(&controller, run).await? } else { run };
            match session.is_json {
                true => show::json_pretty(&run),
                false => tell_one(session, &run),
            }
        }
        Some(RunsCommand::Cancel { id, no_wait }) => {
            let (controller, run) = find(runs, &id)?;
            if run.state.is_ended() {
                let state = state_word(run.state);
                return Err(Failure::new(
                    Code::Refused,
                    format!("run {} is over: {state}", run.id),
                ));
            }
            let mut run = cancel(session, &controller, &run).await?;
            if !no_wait {
                run = session.follow(&controller, run).await?;
            }
            match session.is_json {
                true => show::json_pretty(&run),
                false => tell_one(session, &run),
            }
            let is_so = no_wait || run.state == RunState::RolledBack;
            return Ok(if is_so { Code::Ok } else { Code::Failed });
        }
    }
    Ok(Code::Ok)
}

/// Asks the controller of a run to have it turn back.
pub(crate) async fn cancel(
    session: &Session,
    controller: &Endpoint,
    run: &RunStatus,
) -> Result<RunStatus, Failure> {
    let path = format!("/v1/runs/{}/cancel", run.id);
    let answer = session.client.send(Method::POST, controller, &path, &()).await;
    answer.map(|reply| reply.body).map_err(Failure::from)
}

fn find(runs: Vec<Known>, id: &str) -> Result<Known, Failure> {
    let matching: Vec<Known> =
        runs.into_iter().filter(|(_, run)| run_id_matches(run.id, id)).collect();
    let [found] = <[Known; 1]>::try_from(matching).map_err(|runs| match runs.len() {
        0 => Failure::new(Code::NotFound, format!("no run {id}")).next("ostler runs"),
        n => Failure::usage(format!("{n} runs begin with {id}")).next("write more of it"),
    })?;
    Ok(found)
}

/// The runs of every controller that answers, newest first. Each has its own.
pub(crate) async fn list(session: &Session) -> Result<Vec<Known>, Failure> {
    let asked = session.peers(Role::Controller).into_iter().map(|controller| async move {
        let answer = session.client.get::<RunList>(&controller, "/v1/runs").await;
        (controller, answer)
    });
    let (mut runs, mut answered, mut silent) = (Vec::new(), false, Vec::new());
    for (controller, answer) in join_all(asked).await {
        match answer {
            Ok(list) => {
                answered = true;
                runs.extend(list.runs.into_iter().map(|run| (controller.clone(), run)));
            }
            Err(error) => silent.push((controller, error)),
        }
    }
    if !answered {
        let failure = Failure::new(Code::Unreachable, "no controller answers")
            .next("ostler bootstrap (it is safe to repeat); VMs and `ostler ps` do not need one");
        return Err(match silent.pop() {
            Some((_, error)) => failure.because(error),
            None => failure,
        });
    }
    for (controller, error) in silent {
        show::note(&format!("warning: controller {controller}: {}", chain(&error)));
    }
    // An id grows with time.
    runs.sort_by_key(|(_, run)| std::cmp::Reverse(run.id));
    Ok(runs)
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
            session.with_names(&wanted_because(run)),
            show::moment(run.accepted_ms),
            session.with_names(run.reason.as_deref().unwrap_or_default()),
        ]
    });
    show::table(["RUN", "STATE", "WANTED", "ASKED AT", ""], rows.collect());
}

fn tell_one(session: &Session, run: &RunStatus) {
    show::line(&session.with_names(&format!("run {}: {}", run.id, wanted_because(run))));
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

/// What is wanted, and for whose sake if it is for another's.
fn wanted_because(run: &RunStatus) -> String {
    match &run.because {
        Some(because) => format!("{}, {because}", wanted(&run.want)),
        None => wanted(&run.want),
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
