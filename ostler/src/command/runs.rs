//! `ostler runs`: what controllers did and do, and having them turn back.

use futures_util::future::join_all;
use protocol::api::{RunList, RunState, RunStatus};
use protocol::id::RunId;
use protocol::job::Role;
use transport::{Endpoint, Method};

use crate::cli::{RunsArgs, RunsCommand, run_id_matches};
use crate::exit::{Code, Failure};
use crate::follow::{ask, task_line, wanted};
use crate::picture::chain;
use crate::session::Session;
use crate::show;

/// A run, and the controller that has it.
type Known = (Endpoint, RunStatus);

pub(crate) async fn run(session: &Session, args: RunsArgs) -> Result<Code, Failure> {
    let _ = session.learn_names().await;
    match args.command {
        None => {
            let runs = list(session).await?;
            tell_all(session, &runs.into_iter().map(|(_, run)| run).collect::<Vec<_>>());
        }
        Some(RunsCommand::Show { id, follow }) => {
            let (controller, run) = find(session, &id).await?;
            let run = if follow { session.follow(&controller, run).await? } else { run };
            match session.is_json {
                true => show::json_pretty(&run),
                false => tell_one(session, &run),
            }
        }
        Some(RunsCommand::Cancel { id, no_wait }) => {
            let (controller, run) = find(session, &id).await?;
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

/// A run by its id, however old it is, or by the beginning of it, among those that are listed.
async fn find(session: &Session, id: &str) -> Result<Known, Failure> {
    if let Ok(id) = id.parse() {
        return of_id(session, id).await;
    }
    let runs = list(session).await?;
    let matching: Vec<Known> =
        runs.into_iter().filter(|(_, run)| run_id_matches(run.id, id)).collect();
    let [found] = <[Known; 1]>::try_from(matching).map_err(|runs| match runs.len() {
        0 => Failure::new(Code::NotFound, format!("no run {id}"))
            .next("ostler runs; one that is not listed is found by its whole id"),
        n => Failure::usage(format!("{n} runs begin with {id}")).next("write more of it"),
    })?;
    Ok(found)
}

/// The run of this id, of whichever controller has it.
pub(crate) async fn of_id(session: &Session, id: RunId) -> Result<Known, Failure> {
    let asked = session.peers(Role::Controller).into_iter().map(|controller| async move {
        let answer = ask(&session.client, &controller, id, 0).await;
        (controller, answer)
    });
    let (mut found, mut silent) = (Vec::new(), None);
    for (controller, answer) in join_all(asked).await {
        match answer {
            Ok(run) => found.push((controller, run)),
            Err(error) if error.problem().is_some_and(|problem| problem.status == 404) => {}
            Err(error) => silent = Some(error),
        }
    }
    match (each_once(found).pop(), silent) {
        (Some(found), _) => Ok(found),
        (None, None) => {
            Err(Failure::new(Code::NotFound, format!("no run {id}")).next("ostler runs"))
        }
        (None, Some(error)) => {
            let what = format!("no controller that answers has run {id}");
            Err(Failure::new(Code::Unreachable, what).because(error))
        }
    }
}

/// The runs of every controller that answers, newest first. Each has its own.
async fn list(session: &Session) -> Result<Vec<Known>, Failure> {
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
    Ok(each_once(runs))
}

/// Newest first, each once: one that two controllers have is the one who is at it, or has done it.
fn each_once(mut runs: Vec<Known>) -> Vec<Known> {
    let rank = |state: RunState| match state {
        RunState::Accepted | RunState::Running | RunState::Unwinding => 0,
        RunState::Succeeded => 1,
        RunState::RolledBack => 2,
        RunState::Stuck => 3,
    };
    // An id grows with time.
    runs.sort_by_key(|(_, run)| (std::cmp::Reverse(run.id), rank(run.state)));
    runs.dedup_by_key(|(_, run)| run.id);
    runs
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

#[cfg(test)]
mod tests {
    use protocol::api::Want;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_run_that_two_controllers_have_is_one_run() {
        let known = |controller: &str, id, state| {
            let want = Want::Delete { job: "web".parse().unwrap() };
            let (id, because, reason) = (RunId(Uuid::from_u128(id)), None, None);
            let (rounds, tasks, accepted_ms) = (0, vec![], 0);
            let run = RunStatus { id, want, because, state, reason, rounds, tasks, accepted_ms };
            (Endpoint::anyone(controller), run)
        };
        let (a, b) = ("http://10.0.0.1:1", "http://10.0.0.2:1");
        let runs = each_once(vec![
            known(a, 1, RunState::Stuck),
            known(b, 2, RunState::Running),
            known(b, 1, RunState::Succeeded),
        ]);
        assert_eq!(runs, [known(b, 2, RunState::Running), known(b, 1, RunState::Succeeded)]);
    }
}
