//! Asking the controller for something, and watching it happen.
//!
//! The run's id is chosen here, so that asking again after a lost answer is asking once. Ctrl-C ends
//! the watching, never the run.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::api::{NewRun, RunState, RunStatus, TaskState, TaskStatus, Want};
use protocol::id::{JobId, RunId};
use protocol::job::{Job, JobRow, JobState};
use protocol::resources::{Bytes, Vcpus};
use protocol::vm::SizeChange;
use transport::{CallError, Client, Clock, Endpoint, Method};
use uuid::Uuid;

use crate::command::is_resized;
use crate::exit::{Code, Failure, code_of};
use crate::picture::{Picture, chain};
use crate::session::Session;
use crate::show;

/// How long a question after a run's state waits for news at the controller.
const WAIT_MS: u64 = 10_000;

/// How many times a run is asked for, or after, while no controller answers.
const TRIES_MAX: u32 = 20;

/// How long to wait between two tries.
const RETRY: Duration = Duration::from_millis(500);

/// How long a controller that may have stored a run is asked whether it has: it may be starting anew.
const UNSURE_MS_MAX: u64 = 30_000;

/// What the planner says of moves of others that would help.
const MAKES_ROOM: &str = ": that makes room";

/// How the reason begins of a run whose VM somebody has had stopped or saved meanwhile.
const ENDED_BY_COMMAND: &str = "ended-by-command: ";

/// How long the view may take to show what a finished run has done.
const SHOWN_MS_MAX: u64 = 3_000;

impl Session {
    /// Asks for something and, unless told not to, watches until it is so. The last line says where
    /// the job is now.
    pub(crate) async fn want(&self, want: Want, is_waiting: bool) -> Result<Code, Failure> {
        self.want_run(NewRun::new(RunId(Uuid::now_v7()), want), is_waiting).await
    }

    /// The same, where others may be moved if that makes it fit.
    pub(crate) async fn want_with_room(
        &self,
        want: Want,
        make_room: bool,
        is_waiting: bool,
    ) -> Result<Code, Failure> {
        let new = NewRun { make_room, ..NewRun::new(RunId(Uuid::now_v7()), want) };
        self.want_run(new, is_waiting).await
    }

    /// The same, with the reason why it is asked for.
    pub(crate) async fn want_because(&self, want: Want, because: String) -> Result<Code, Failure> {
        let because = Some(because);
        self.want_run(NewRun { because, ..NewRun::new(RunId(Uuid::now_v7()), want) }, true).await
    }

    async fn want_run(&self, new: NewRun, is_waiting: bool) -> Result<Code, Failure> {
        let clock = Clock::real();
        let started_ms = clock.now().mono_ms;
        if let Some(picture) = self.learn_names().await {
            check_target(&picture, &new.want)?;
        }
        let (controller, status) = self.submit(&new).await?;
        if !is_waiting {
            self.show_status(&status);
            return Ok(Code::Ok);
        }
        let status = tokio::select! {
            ended = self.follow(&controller, status) => ended?,
            _ = tokio::signal::ctrl_c() => {
                show::note(&format!("still going on; see `ostler runs show {}`", new.id));
                return Ok(Code::Interrupted);
            }
        };
        let took_ms = clock.now().mono_ms.saturating_sub(started_ms);
        self.conclude(&status, took_ms).await
    }

    /// Stores the run at the first controller that answers.
    pub(crate) async fn submit(&self, new: &NewRun) -> Result<(Endpoint, RunStatus), Failure> {
        submit(&self.client, &self.controllers().await, new, UNSURE_MS_MAX).await
    }

    /// Watches a run to its end, telling each change.
    pub(crate) async fn follow(
        &self,
        controller: &Endpoint,
        mut status: RunStatus,
    ) -> Result<RunStatus, Failure> {
        let mut told = BTreeMap::new();
        let mut tries = 0;
        loop {
            self.tell_changes(&status, &mut told);
            if status.state.is_ended() {
                return Ok(status);
            }
            match ask(&self.client, controller, status.id, WAIT_MS).await {
                Ok(next) => (status, tries) = (next, 0),
                Err(error) if error.is_retriable() && tries < TRIES_MAX => {
                    tries += 1;
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => {
                    let what = format!("run {} goes on, but cannot be watched", status.id);
                    return Err(Failure::new(code_of(&error), what)
                        .because(error)
                        .next(format!("ostler runs show {} --follow", status.id)));
                }
            }
        }
    }

    fn tell_changes(&self, status: &RunStatus, told: &mut BTreeMap<(u32, u32), TaskStatus>) {
        let mut is_news = told.is_empty();
        for task in &status.tasks {
            let key = (status.rounds, task.number);
            if last_told(told, key) == Some(task) {
                continue;
            }
            // What is begun is told when there is something to tell, as of a long copy.
            let is_quiet = task.state == TaskState::Started && task.note.is_none();
            if !self.is_json && !is_quiet && task.state != TaskState::Pending {
                show::line(&format!("  {}", self.with_names(&task_line(task))));
            }
            told.insert(key, task.clone());
            is_news = true;
        }
        if self.is_json && (is_news || status.state.is_ended()) {
            show::json(status);
        }
    }

    fn show_status(&self, status: &RunStatus) {
        match self.is_json {
            true => show::json(status),
            false => show::line(&format!("run {} is stored: {}", status.id, wanted(&status.want))),
        }
    }

    async fn conclude(&self, status: &RunStatus, took_ms: u64) -> Result<Code, Failure> {
        let reason = status.reason.as_deref().unwrap_or("no reason given");
        let job = status.want.job();
        match status.state {
            RunState::Succeeded => {
                if !self.is_json {
                    let sentence = self.outcome(&status.want).await;
                    show::line(&format!("{sentence} {}", show::took(took_ms)));
                }
                Ok(Code::Ok)
            }
            RunState::RolledBack => {
                let (code, what) = turned_back(status, reason);
                let failure = Failure::new(code, self.with_names(&what));
                let show = format!("ostler runs show {}", status.id);
                Err(failure.next(match reason.contains(MAKES_ROOM) {
                    true => {
                        format!("the same with --make-room, which moves these first; or {show}")
                    }
                    false => show,
                }))
            }
            RunState::Stuck => {
                let what = format!("{job} is half-way and could not be put back: {reason}");
                let failure = Failure::new(Code::Failed, what);
                Err(failure.next(format!("ostler runs show {}; ostler inspect {job}", status.id)))
            }
            RunState::Accepted | RunState::Running | RunState::Unwinding => {
                unreachable!("a run is followed to its end")
            }
        }
    }

    /// Where the job is now, in words. The view may be a moment behind the run.
    async fn outcome(&self, want: &Want) -> String {
        let clock = Clock::real();
        let deadline_ms = clock.now().mono_ms + SHOWN_MS_MAX;
        loop {
            let row = match self.picture().await {
                Ok(picture) => picture.job(want.job()).ok(),
                Err(_) => None,
            };
            let is_late = clock.now().mono_ms >= deadline_ms;
            match (want, row) {
                (Want::Delete { job }, None) => return format!("{job} is gone"),
                (want, Some(row)) if is_late || is_as_wanted(want, &row) => {
                    let job = &row.job;
                    let size = job.resize_words().map(|words| format!(": {words}"));
                    let size = size.unwrap_or_default();
                    show::resize_reasons(job);
                    return format!("{} {} on {}{size}", job.id, job.state, row.host_name);
                }
                _ if is_late => return format!("{} is done", wanted(want)),
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

async fn submit(
    client: &Client,
    controllers: &[Endpoint],
    new: &NewRun,
    unsure_ms_max: u64,
) -> Result<(Endpoint, RunStatus), Failure> {
    let mut last = None;
    for controller in controllers {
        for _ in 0..2 {
            match store(client, controller, new).await {
                Ok(status) => return Ok((controller.clone(), status)),
                // Nobody else is asked then: each controller would carry out the one that it has stored,
                // and the later of the two, when what is wanted may be wrong.
                Err(CallError::Ambiguous { .. }) => {
                    let status = store_surely(client, controller, new, unsure_ms_max).await?;
                    return Ok((controller.clone(), status));
                }
                Err(error) if error.is_retriable() => last = Some(error),
                Err(error) => return Err(refused(error)),
            }
        }
    }
    let job = new.want.job();
    let failure = Failure::new(Code::Unreachable, "no controller answers").next(format!(
        "ostler bootstrap (it is safe to repeat), or ask the host itself: see `ostler inspect \
         {job}` and add --hosts"
    ));
    Err(match last {
        Some(error) => failure.because(error),
        None => failure,
    })
}

/// Asks a controller that may have the run already, until it says so: under the same id it is one run.
async fn store_surely(
    client: &Client,
    controller: &Endpoint,
    new: &NewRun,
    unsure_ms_max: u64,
) -> Result<RunStatus, Failure> {
    let clock = Clock::real();
    let deadline_ms = clock.now().mono_ms + unsure_ms_max;
    loop {
        tokio::time::sleep(RETRY).await;
        let error = match store(client, controller, new).await {
            Ok(status) => return Ok(status),
            Err(error) if error.is_retriable() => error,
            Err(error) => return Err(refused(error)),
        };
        if clock.now().mono_ms >= deadline_ms {
            let (id, job) = (new.id, new.want.job());
            let what = format!("controller {controller} may have stored run {id}, and is silent");
            return Err(Failure::new(Code::Unreachable, what).because(error).next(format!(
                "ostler runs show {id}, once it answers: what it has stored it carries out then, so ask for \
                 nothing else of {job} before"
            )));
        }
    }
}

async fn store(
    client: &Client,
    controller: &Endpoint,
    new: &NewRun,
) -> Result<RunStatus, CallError> {
    client.send(Method::POST, controller, "/v1/runs", new).await.map(|reply| reply.body)
}

/// Somebody's no, with where to see a run that is in the way.
fn refused(error: CallError) -> Failure {
    let is_busy = match &error {
        CallError::Problem { problem, .. } => problem.kind.ends_with(":run-in-progress"),
        _ => false,
    };
    match is_busy {
        true => Failure::from(error).next("ostler runs; ostler runs cancel RUN turns one back"),
        false => error.into(),
    }
}

/// What was last told of a task. While another plan is made, the tasks of the last one are shown on.
fn last_told(
    told: &BTreeMap<(u32, u32), TaskStatus>,
    (round, number): (u32, u32),
) -> Option<&TaskStatus> {
    let before = || told.get(&(round.checked_sub(1)?, number));
    told.get(&(round, number)).or_else(before)
}

/// What is left of a run that has turned back, in a controller's words.
fn turned_back(status: &RunStatus, reason: &str) -> (Code, String) {
    let is_end = matches!(status.want, Want::Stop { .. } | Want::Delete { .. });
    let done = status.tasks.iter().filter(|task| task.state == TaskState::Succeeded);
    let done: Vec<&str> = done.map(|task| task.title.as_str()).collect();
    if is_end && !done.is_empty() {
        let what = "done in part, and nothing takes that back";
        return (Code::Failed, format!("{what} ({}): {reason}", done.join("; ")));
    }
    if reason.starts_with(ENDED_BY_COMMAND) {
        return (Code::Failed, format!("not done, and it stays where it was put: {reason}"));
    }
    let mut tasks = status.tasks.iter();
    let what = match tasks.any(|task| task.state == TaskState::UndoFailed) {
        true => "not done, and what was moved for it stays",
        false => "not done, and nothing of it is left",
    };
    (Code::Refused, format!("{what}: {reason}"))
}

/// Refuses what no controller could do, before it is asked: for a name that no host has, and for
/// Ostler's own services.
fn check_target(picture: &Picture, want: &Want) -> Result<(), Failure> {
    let id = match want {
        Want::Run { .. }
        | Want::Spend { .. }
        | Want::FailOver { .. }
        | Want::Sleep { .. }
        | Want::Wake { .. } => {
            return Ok(());
        }
        Want::Stop { job, .. }
        | Want::Migrate { job, .. }
        | Want::Resize { job, .. }
        | Want::Delete { job } => job,
    };
    match picture.job(id) {
        // It may be where nobody answers; a controller knows more.
        Err(_) if !picture.warnings.is_empty() => Ok(()),
        Err(none) => Err(none),
        Ok(row) if row.job.spec.as_budget().is_some() => match want {
            Want::Delete { .. } => Ok(()),
            _ => Err(Failure::usage(format!("{id} is a budget, and no VM")).next("ostler budget")),
        },
        Ok(row) if row.job.spec.as_vm().is_none() => {
            let what = format!("{id} is one of Ostler's own services, and no VM");
            let agent = picture.agent(&row.host).url;
            Err(Failure::new(Code::Refused, what).next(format!(
                "ostler arbiters changes arbiters; others are changed at their host, with --hosts {agent}"
            )))
        }
        Ok(_) => Ok(()),
    }
}

/// A run as a controller knows it.
pub(crate) async fn ask(
    client: &Client,
    controller: &Endpoint,
    id: RunId,
    wait_ms: u64,
) -> Result<RunStatus, CallError> {
    let client = client.with_deadline(Duration::from_millis(wait_ms + 10_000));
    client.get(controller, &format!("/v1/runs/{id}?wait_ms={wait_ms}")).await
}

fn is_as_wanted(want: &Want, row: &JobRow) -> bool {
    let job = &row.job;
    match want {
        Want::Run { on, .. } => {
            job.state == JobState::Running && on.as_ref().is_none_or(|on| *on == row.host)
        }
        Want::Spend { on, .. } => job.state == JobState::Running && *on == row.host,
        Want::Migrate { to, .. } => {
            matches!(job.state, JobState::Running | JobState::Paused) && *to == row.host
        }
        Want::FailOver { .. } => job.state == JobState::Running,
        Want::Resize { size, .. } => job.spec.is_sized(&job.id, size) && is_resized(job),
        Want::Stop { .. } => job.state.is_ended(),
        Want::Delete { .. } | Want::Sleep { .. } | Want::Wake { .. } => false,
    }
}

/// What is wanted, in words.
pub(crate) fn wanted(want: &Want) -> String {
    match want {
        Want::Run { job, on: None, .. } => format!("run {job}"),
        Want::Run { job, on: Some(host), .. } => format!("run {job} on {}", host.short()),
        Want::Spend { job, on, budget, .. } => {
            format!("run {job} on {} by budget {budget}", on.short())
        }
        Want::Stop { job, grace_ms: 0, .. } => format!("destroy {job}"),
        Want::Stop { job, .. } => format!("stop {job}"),
        Want::Migrate { job, to, .. } => format!("migrate {job} to {}", to.short()),
        Want::Resize { job, size } => format!("resize {job} to {}", size_words(size)),
        Want::Delete { job } => format!("delete {job}"),
        Want::FailOver { job, lost, .. } => {
            format!("run {job} elsewhere than on {}", lost.host.short())
        }
        Want::Sleep { host } => format!("put {} to sleep", host.host().short()),
        Want::Wake { host } => format!("wake {}", host.host().short()),
    }
}

fn size_words(size: &SizeChange) -> String {
    let vcpus = |count: u32| Vcpus(count).to_string();
    let memory = |bytes: u64| format!("{} of memory", Bytes(bytes));
    let at_most = |what: String| format!("at most {what}");
    let words = [
        size.vcpus.map(vcpus),
        size.memory_bytes.map(memory),
        size.max_vcpus.map(vcpus).map(at_most),
        size.max_memory_bytes.map(memory).map(at_most),
    ];
    let disks = size.disks.iter();
    let disks = disks.map(|(name, bytes)| format!("{} of disk {name}", Bytes(*bytes)));
    words
        .into_iter()
        .flatten()
        .chain(disks)
        .chain(device_words(size))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Disks and cards that come and go, in words.
fn device_words(size: &SizeChange) -> Vec<String> {
    let macs = size.add_nics.iter().filter_map(|nic| nic.mac.as_deref());
    let added = size.add_disks.iter().map(|disk| format!("disk {}", disk.name));
    let added = added.chain(macs.map(|mac| format!("card {mac}")));
    let removed = size.remove_disks.iter().map(|name| format!("disk {name}"));
    let removed = removed.chain(size.remove_nics.iter().map(|mac| format!("card {mac}")));
    let with = added.map(|what| format!("one with {what}"));
    with.chain(removed.map(|what| format!("one without {what}"))).collect()
}

/// A task as a line.
pub(crate) fn task_line(task: &TaskStatus) -> String {
    let state = match task.state {
        TaskState::Pending => "waits",
        TaskState::Started => "begun",
        TaskState::Succeeded => "done",
        TaskState::Failed => "refused",
        TaskState::Undoing => "being undone",
        TaskState::Undone => "undone",
        TaskState::UndoFailed => "cannot be undone",
        TaskState::Skipped => "not needed",
    };
    match &task.note {
        Some(note) => format!("{}: {state} ({note})", task.title),
        None => format!("{}: {state}", task.title),
    }
}

/// Waits until an agent says that a job has ended; for changes without a controller.
pub(crate) async fn await_ended(
    client: &Client,
    agent: &Endpoint,
    id: &JobId,
    wait_ms: u64,
) -> Result<Job, Failure> {
    await_job(client, agent, id, wait_ms, |job| job.state.is_ended()).await
}

/// Waits until an agent says that a job runs, or that it does not any more.
pub(crate) async fn await_settled(
    client: &Client,
    agent: &Endpoint,
    id: &JobId,
    wait_ms: u64,
) -> Result<Job, Failure> {
    let is_settled = |job: &Job| job.state == JobState::Running || job.state.is_ended();
    await_job(client, agent, id, wait_ms, is_settled).await
}

/// Waits until an agent has no such job any more. If that takes longer: why it still has it.
pub(crate) async fn await_gone(
    client: &Client,
    agent: &Endpoint,
    id: &JobId,
    wait_ms: u64,
) -> Result<Option<String>, Failure> {
    let clock = Clock::real();
    let deadline_ms = clock.now().mono_ms + wait_ms;
    loop {
        let why = match client.get::<Job>(agent, &format!("/v1/jobs/{id}")).await {
            Ok(job) => job.reason.map_or(job.state.to_string(), |reason| reason.to_string()),
            Err(error) if error.problem().is_some_and(|p| p.name() == "no-such-job") => {
                return Ok(None);
            }
            Err(error) if error.is_retriable() => chain(&error),
            Err(error) => return Err(error.into()),
        };
        if clock.now().mono_ms >= deadline_ms {
            return Ok(Some(why));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until an agent says this of a job.
pub(crate) async fn await_job(
    client: &Client,
    agent: &Endpoint,
    id: &JobId,
    wait_ms: u64,
    is_enough: impl Fn(&Job) -> bool,
) -> Result<Job, Failure> {
    let clock = Clock::real();
    let deadline_ms = clock.now().mono_ms + wait_ms;
    loop {
        let last = match client.get::<Job>(agent, &format!("/v1/jobs/{id}")).await {
            Ok(job) if is_enough(&job) => return Ok(job),
            Ok(job) => format!("it is {}", job.state),
            Err(error) if error.is_retriable() => chain(&error),
            Err(error) => return Err(error.into()),
        };
        if clock.now().mono_ms >= deadline_ms {
            let what = format!("{id} did not get there within {} s: {last}", wait_ms / 1000);
            return Err(Failure::new(Code::Unreachable, what).next(format!("ostler inspect {id}")));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use protocol::job::JobSpec;
    use protocol::refusal::Problem;
    use protocol::vm::VmSpec;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use transport::Identity;

    use super::*;

    fn new() -> NewRun {
        NewRun::new(RunId(Uuid::from_u128(7)), Want::Delete { job: "web".parse().unwrap() })
    }

    fn run(want: Want, state: RunState, tasks: Vec<TaskStatus>) -> RunStatus {
        let (id, reason, because) = (RunId(Uuid::from_u128(7)), None, None);
        RunStatus { id, want, because, state, reason, rounds: 1, tasks, accepted_ms: 0 }
    }

    /// Somebody who hears each request and answers it by its number, or hangs up.
    async fn server(
        reply: impl Fn(usize) -> Option<(u16, String)> + Send + 'static,
    ) -> (Endpoint, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heard = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let Some((status, body)) = reply(count.fetch_add(1, Ordering::SeqCst)) else {
                    continue;
                };
                let head = "content-type: application/json\r\nconnection: close";
                let length = body.len();
                let reply = format!(
                    "HTTP/1.1 {status} so\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}"
                );
                stream.write_all(reply.as_bytes()).await.unwrap();
            }
        });
        (Endpoint::anyone(url), heard)
    }

    /// A controller that answers only from this request on.
    async fn controller(first: usize) -> (Endpoint, Arc<AtomicUsize>) {
        server(move |n| {
            let status = run(new().want, RunState::Accepted, vec![]);
            (n >= first).then(|| (202, serde_json::to_string(&status).unwrap()))
        })
        .await
    }

    fn client() -> Client {
        Client::new(Arc::new(Identity::ephemeral())).with_deadline(Duration::from_secs(5))
    }

    #[tokio::test]
    async fn who_may_have_stored_a_run_is_asked_again_and_nobody_else() {
        let ((first, _), (second, asked)) = (controller(2).await, controller(0).await);
        let both = [first.clone(), second];
        let (taken, status) = submit(&client(), &both, &new(), UNSURE_MS_MAX).await.unwrap();
        assert_eq!((taken, status.id), (first, new().id));
        assert_eq!(asked.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_run_that_may_be_stored_where_nobody_answers_is_named() {
        let ((first, _), (second, asked)) = (controller(usize::MAX).await, controller(0).await);
        let failure = submit(&client(), &[first.clone(), second], &new(), 0).await.unwrap_err();
        assert_eq!((failure.code, asked.load(Ordering::SeqCst)), (Code::Unreachable, 0));
        let told = failure.to_string();
        assert!(
            told.contains(&first.to_string()) && told.contains(&new().id.to_string()),
            "{told}"
        );
    }

    #[tokio::test]
    async fn who_was_not_reached_has_stored_nothing_so_the_next_is_asked() {
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let nobody = Endpoint::anyone(format!("http://{nobody}"));
        let (second, _) = controller(0).await;
        let both = [nobody, second.clone()];
        let (taken, _) = submit(&client(), &both, &new(), UNSURE_MS_MAX).await.unwrap();
        assert_eq!(taken, second);
    }

    #[tokio::test]
    async fn a_job_is_gone_when_its_host_has_none_of_that_name() {
        let id: JobId = "web".parse().unwrap();
        let (agent, heard) = server(|n| {
            let spec = JobSpec::vm(VmSpec::default());
            let job = Job::of("web".parse().unwrap(), spec, JobState::Stopped);
            let none = Problem::new(404, "no-such-job", "there is no job web".to_owned());
            Some(match n {
                0 | 1 => (200, serde_json::to_string(&job).unwrap()),
                _ => (404, serde_json::to_string(&none).unwrap()),
            })
        })
        .await;
        let why = await_gone(&client(), &agent, &id, 0).await.unwrap();
        assert_eq!(why.as_deref(), Some("stopped"), "its disks are being deleted");
        assert_eq!(await_gone(&client(), &agent, &id, 60_000).await.unwrap(), None);
        assert_eq!(heard.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn what_a_run_that_turned_back_has_ended_is_not_called_nothing() {
        let job: JobId = "web".parse().unwrap();
        let task =
            |title: &str, state| TaskStatus { number: 0, title: title.into(), state, note: None };
        let tasks = vec![
            task("stop web on h1", TaskState::Succeeded),
            task("delete web from h1", TaskState::Failed),
        ];
        let back =
            |want, tasks| turned_back(&run(want, RunState::RolledBack, tasks), "refused: no");
        let (code, what) = back(Want::Delete { job: job.clone() }, tasks.clone());
        assert_eq!(code, Code::Failed);
        assert!(what.contains("(stop web on h1)"), "{what}");
        let (code, what) = back(Want::Delete { job: job.clone() }, vec![tasks[1].clone()]);
        assert_eq!(
            (code, what.as_str()),
            (Code::Refused, "not done, and nothing of it is left: refused: no")
        );
        let (code, _) = back(Want::migrate(job, "h2".parse().unwrap()), tasks);
        assert_eq!(code, Code::Refused, "what a move waits for leaves nothing");
    }
}
