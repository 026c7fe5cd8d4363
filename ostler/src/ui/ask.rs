//! What the page may ask of the cluster: what the commands ask, in the same words, without waiting.
//!
//! A controller is asked for a run wherever the command would ask one; what becomes of it the page
//! sees in its feed. An answer is a sentence, and the run's id if there is one; a no is the failure
//! that the command would print, as `--json` has it.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use clap::Parser as _;
use http::StatusCode;
use protocol::api::{NewRun, RebootJob, Want};
use protocol::host::HostIntent;
use protocol::id::{HostId, JobId, RunId, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use transport::Json;
use uuid::Uuid;

use super::look;
use super::serve::Shared;
use crate::cli::{AdoptArgs, Cli, Command, ResizeArgs, RunArgs, WaitArgs};
use crate::command::{act, adopt, drain, resize, rm, run, runs, start, stop};
use crate::exit::{Code, Failure};
use crate::picture::Picture;
use crate::session::Session;

/// What is asked.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Ask {
    /// A new VM.
    Run {
        name: String,
        image: Option<String>,
        vcpus: String,
        memory: String,
        disk: Option<String>,
        max_vcpus: Option<String>,
        max_memory: Option<String>,
        tenant: Option<String>,
        on: Option<HostId>,
        #[serde(default)]
        more: MoreOfRun,
    },
    /// A stopped VM again.
    Start { job: JobId },
    /// An orderly end, or with a grace of 0 ms a sudden one; `at_host` asks no controller.
    Stop {
        job: JobId,
        grace_ms: u64,
        #[serde(default)]
        at_host: bool,
    },
    /// Its CPUs stand still.
    Pause { job: JobId },
    /// They go on.
    Resume { job: JobId },
    /// Its memory to its host's disk.
    Save { job: JobId },
    /// Its reset button.
    Reset { job: JobId },
    /// A reboot, and a reset when it does not.
    Reboot { job: JobId },
    /// Its host refuses to stop, save or delete it.
    Protect { job: JobId },
    /// And does so no more.
    Unprotect { job: JobId },
    /// Other CPUs and memory, or head-room for them; none: as it is.
    Resize {
        job: JobId,
        vcpus: Option<String>,
        memory: Option<String>,
        max_vcpus: Option<String>,
        max_memory: Option<String>,
    },
    /// To another host; to the best one when none is named.
    Migrate { job: JobId, to: Option<HostId> },
    /// A migration that is under way is given up.
    CancelMigration { job: JobId },
    /// A run turns back.
    CancelRun { run: RunId },
    /// It and its disks are gone. `name` is the name again, typed by the person.
    Delete { job: JobId, name: String },
    /// A host takes nothing new, and its VMs move away.
    Drain { host: HostId },
    /// It takes what fits.
    Undrain { host: HostId },
    /// A domain of others becomes a job.
    Adopt { host: HostId, domain: String, name: Option<JobId>, tenant: Option<TenantId> },
    /// And is given back.
    Release { job: JobId },
}

/// What a new VM has that few need.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MoreOfRun {
    pool: Option<String>,
    nic: Option<String>,
    on_loss: Option<String>,
    #[serde(default)]
    has_screen: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    words: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<RunId>,
}

/// A failure as an answer.
pub(super) struct No(Failure);

impl<F: Into<Failure>> From<F> for No {
    fn from(failure: F) -> Self {
        Self(failure.into())
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response {
        let status = match self.0.code {
            Code::Usage => StatusCode::BAD_REQUEST,
            Code::Refused => StatusCode::CONFLICT,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::Unreachable => StatusCode::GATEWAY_TIMEOUT,
            Code::Ok | Code::Failed | Code::Interrupted => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(self.0.json())).into_response()
    }
}

/// `POST /ask`.
pub(super) async fn ask(
    State(shared): State<Arc<Shared>>,
    Json(asked): Json<Ask>,
) -> Result<Json<Answer>, No> {
    let (session, picture) = shared.now().await?;
    let asking = Asking { session: &session, picture: &picture };
    Ok(Json(asking.carry_out(asked).await?))
}

struct Asking<'a> {
    session: &'a Session,
    picture: &'a Picture,
}

impl Asking<'_> {
    async fn carry_out(&self, asked: Ask) -> Result<Answer, Failure> {
        let nothing = json!(null);
        match asked {
            Ask::Run { .. } => self.run(&run_args(asked)?).await,
            Ask::Start { job } => self.start(&job).await,
            Ask::Stop { job, grace_ms, at_host } => self.stop(job, grace_ms, at_host).await,
            Ask::Pause { job } => self.act(&job, "pause", "pause", &nothing).await,
            Ask::Resume { job } => self.act(&job, "resume", "resume", &nothing).await,
            Ask::Save { job } => self.act(&job, "save", "save", &nothing).await,
            Ask::Reset { job } => self.act(&job, "reset", "reset", &nothing).await,
            Ask::Reboot { job } => {
                let body = json!(RebootJob { grace_ms: REBOOT_GRACE_MS });
                self.act(&job, "reboot", "reboot", &body).await
            }
            Ask::Protect { job } => self.act(&job, "protect", "protect", &nothing).await,
            Ask::Unprotect { job } => self.act(&job, "unprotect", "unprotect", &nothing).await,
            Ask::Resize { .. } => self.resize(&resize_args(asked)?).await,
            Ask::Migrate { job, to } => self.migrate(job, to).await,
            Ask::CancelMigration { job } => {
                self.act(&job, "migrate/cancel", "stop moving", &nothing).await
            }
            Ask::CancelRun { run } => self.cancel_run(run).await,
            Ask::Delete { job, name } => self.delete(job, &name).await,
            Ask::Drain { host } => {
                let then = "takes nothing new from now on";
                self.intend(&host, Some(HostIntent::Drain), then).await
            }
            Ask::Undrain { host } => {
                let then = "takes what fits; guests that have left stay where they are";
                self.intend(&host, None, then).await
            }
            Ask::Adopt { host, domain, name, tenant } => {
                let tenant = tenant.unwrap_or_else(TenantId::default_tenant);
                let wait = WaitArgs { no_wait: true };
                self.adopt(&host, &AdoptArgs { host: host.to_string(), domain, name, tenant, wait })
                    .await
            }
            Ask::Release { job } => self.act(&job, "release", "release", &nothing).await,
        }
    }

    async fn want(&self, want: Want) -> Result<Answer, Failure> {
        let new = NewRun::new(RunId(Uuid::now_v7()), want);
        let (_, status) = self.session.submit(&new).await?;
        let words = super::news::named(&self.picture.view, &crate::follow::wanted(&status.want));
        Ok(Answer { words: format!("asked for: {words}"), run: Some(status.id) })
    }

    async fn run(&self, args: &RunArgs) -> Result<Answer, Failure> {
        let (spec, on) = run::described(self.session, args, self.picture)?;
        if let Ok(row) = self.picture.job(&args.name) {
            let what = format!("there is a VM {} already, on {}", args.name, row.host_name);
            return Err(Failure::new(Code::Refused, what).next("choose another name"));
        }
        if !self.session.is_without_controller() {
            return self.want(Want::Run { job: args.name.clone(), spec, on, again: false }).await;
        }
        let (job, host) = run::at_hosts(self.session, self.picture, &args.name, spec, on).await?;
        Ok(told(&job, &host.name))
    }

    async fn start(&self, job: &JobId) -> Result<Answer, Failure> {
        let row = self.picture.job(job)?;
        if !self.session.is_without_controller() {
            return self.want(start::want(row)?).await;
        }
        if !row.job.state.is_ended() {
            return Ok(told(&row.job, &row.host_name));
        }
        let row = start::at_host(self.session, self.picture, row).await?;
        Ok(told(&row.job, &row.host_name))
    }

    async fn stop(&self, job: JobId, grace_ms: u64, at_host: bool) -> Result<Answer, Failure> {
        if !self.session.is_without_controller() && !at_host {
            return self.want(Want::stop(job, grace_ms)).await;
        }
        let row = stop::at_host(self.session, self.picture, &job, grace_ms).await?;
        Ok(told(&row.job, &row.host_name))
    }

    async fn act(
        &self,
        job: &JobId,
        path: &str,
        verb: &str,
        body: &Value,
    ) -> Result<Answer, Failure> {
        let row = act::at_host(self.session, self.picture, job, path, body).await?;
        Ok(Answer { words: format!("{} is asked to {verb} {job}", row.host_name), run: None })
    }

    async fn resize(&self, args: &ResizeArgs) -> Result<Answer, Failure> {
        let (job, size) = (args.name.clone(), resize::asked(args));
        if !self.session.is_without_controller() {
            return self.want(Want::Resize { job, size }).await;
        }
        let row = resize::at_host(self.session, self.picture, &job, size).await?;
        Ok(told(&row.job, &row.host_name))
    }

    async fn migrate(&self, job: JobId, to: Option<HostId>) -> Result<Answer, Failure> {
        if self.session.is_without_controller() {
            let what = "moving a VM takes two hosts and a ticket, so it needs a controller";
            return Err(Failure::usage(what).next("ostler bootstrap, then without --hosts"));
        }
        let to = match to {
            Some(to) => to,
            None => look::best_target(self.session, self.picture, &job).await?,
        };
        self.want(Want::migrate(job, to)).await
    }

    async fn cancel_run(&self, id: RunId) -> Result<Answer, Failure> {
        let (controller, run) = runs::of_id(self.session, id).await?;
        let run = runs::cancel(self.session, &controller, &run).await?;
        let words = super::news::named(&self.picture.view, &crate::follow::wanted(&run.want));
        Ok(Answer { words: format!("turns back: {words}"), run: Some(id) })
    }

    async fn delete(&self, job: JobId, name: &str) -> Result<Answer, Failure> {
        let row = self.picture.job(&job)?;
        if name != job.as_str() {
            let what = format!("{name:?} is not the name of {job}");
            return Err(Failure::usage(what).next("type the name of the VM that is to go"));
        }
        if !row.job.state.is_ended() {
            let what = format!("{job} is {} on {}", row.job.state, row.host_name);
            return Err(Failure::new(Code::Refused, what).next("stop it first"));
        }
        if !self.session.is_without_controller() {
            return self.want(Want::Delete { job }).await;
        }
        rm::at_host(self.session, self.picture, &row).await?;
        let words = format!("{job} is gone from {}", row.host_name);
        Ok(Answer { words, run: None })
    }

    async fn intend(
        &self,
        host: &HostId,
        intent: Option<HostIntent>,
        then: &str,
    ) -> Result<Answer, Failure> {
        let name = &self.picture.host(host.as_str())?.host.name;
        drain::intend(self.session, self.picture, host, intent).await?;
        Ok(Answer { words: format!("{name} {then}"), run: None })
    }

    async fn adopt(&self, host: &HostId, args: &AdoptArgs) -> Result<Answer, Failure> {
        let row = self.picture.host(host.as_str())?;
        let (job, spec) = adopt::described(self.session, self.picture, row, args).await?;
        if !self.session.is_without_controller() {
            return self.want(Want::Run { job, spec, on: Some(host.clone()), again: false }).await;
        }
        let job = adopt::at_host(self.session, self.picture, row, &job, spec).await?;
        Ok(told(&job, &row.host.name))
    }
}

/// How long a guest may take to reboot itself, as the command has it.
const REBOOT_GRACE_MS: u64 = 30_000;

fn told(job: &protocol::job::Job, host_name: &str) -> Answer {
    Answer { words: format!("{} {} on {host_name}", job.id, job.state), run: None }
}

fn run_args(asked: Ask) -> Result<RunArgs, Failure> {
    let Ask::Run { name, image, vcpus, memory, disk, max_vcpus, max_memory, tenant, on, more } =
        asked
    else {
        unreachable!("only this has that form")
    };
    let MoreOfRun { pool, nic, on_loss, has_screen } = more;
    let words: &[&str] = if has_screen { &["run", "--vnc"] } else { &["run"] };
    let given = [
        ("name", Some(name)),
        ("vcpus", Some(vcpus)),
        ("memory", Some(memory)),
        ("image", image),
        ("disk", disk),
        ("max-vcpus", max_vcpus),
        ("max-memory", max_memory),
        ("tenant", tenant),
        ("on", on.map(|host| host.to_string())),
        ("pool", pool),
        ("nic", nic),
        ("on-loss", on_loss),
    ];
    match read(words, given, None)? {
        Command::Run(args) => Ok(args),
        _ => unreachable!("the words say run"),
    }
}

fn resize_args(asked: Ask) -> Result<ResizeArgs, Failure> {
    let Ask::Resize { job, vcpus, memory, max_vcpus, max_memory } = asked else {
        unreachable!("only this has that form")
    };
    let given = [
        ("vcpus", vcpus),
        ("memory", memory),
        ("max-vcpus", max_vcpus),
        ("max-memory", max_memory),
    ];
    match read(&["resize"], given, Some(job.to_string()))? {
        Command::Resize(args) => Ok(args),
        _ => unreachable!("the words say resize"),
    }
}

/// A form is the command line that a person would write, and is read as that: what is a name and what
/// is a size is decided in one place.
fn read<const N: usize>(
    command: &[&str],
    given: [(&str, Option<String>); N],
    name: Option<String>,
) -> Result<Command, Failure> {
    let given = given.into_iter().filter_map(|(flag, value)| {
        let value = value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())?;
        Some(format!("--{flag}={value}"))
    });
    let words = ["ostler"].iter().chain(command).map(|word| (*word).to_owned());
    let words = words.chain(given).chain(name);
    match Cli::try_parse_from(words) {
        Ok(cli) => Ok(cli.command),
        Err(error) => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            Err(Failure::usage(first.trim_start_matches("error: ").to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(name: &str, memory: &str) -> Ask {
        Ask::Run {
            name: name.into(),
            image: Some("guest".into()),
            vcpus: "2".into(),
            memory: memory.into(),
            disk: Some(" ".into()),
            max_vcpus: Some("4".into()),
            max_memory: None,
            tenant: None,
            on: None,
            more: MoreOfRun {
                nic: Some("network=blue".into()),
                has_screen: true,
                ..MoreOfRun::default()
            },
        }
    }

    #[test]
    fn a_form_is_a_command_line_and_its_values_are_no_flags() {
        let args = run_args(form("web-1", "1GiB")).unwrap();
        assert_eq!((args.name.as_str(), args.vcpus, args.memory.0), ("web-1", 2, 1 << 30));
        assert!(args.disk.is_empty());
        assert_eq!((args.max_vcpus, args.max_memory), (Some(4), None));
        assert_eq!((args.nic.len(), args.vnc, args.pool), (1, true, None));
        for (name, memory) in [("--force", "1GiB"), ("web 1", "1GiB"), ("web-1", "much")] {
            let failure = run_args(form(name, memory)).unwrap_err();
            assert_eq!(failure.code, Code::Usage, "{failure}");
        }
    }

    #[test]
    fn a_form_for_another_size_asks_only_for_what_it_names() {
        let resize = |vcpus: Option<&str>, memory: Option<&str>| {
            let (vcpus, memory) = (vcpus.map(str::to_owned), memory.map(str::to_owned));
            let job = JobId::new("web-1").unwrap();
            let (max_vcpus, max_memory) = (None, None);
            resize_args(Ask::Resize { job, vcpus, memory, max_vcpus, max_memory })
                .map(|args| resize::asked(&args))
        };
        let size = resize(Some("2"), Some(" ")).unwrap();
        assert_eq!((size.vcpus, size.memory_bytes), (Some(2), None));
        assert_eq!(resize(None, Some("1536MiB")).unwrap().memory_bytes, Some(3 << 29));
        for (vcpus, memory) in [(None, None), (Some("some"), None), (None, Some("-1"))] {
            assert_eq!(resize(vcpus, memory).unwrap_err().code, Code::Usage);
        }
    }
}
