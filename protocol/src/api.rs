//! Bodies and paths of the HTTP interfaces, shared by those who serve and those who call.
//!
//! Paths are versioned (`/v1`). Every error is a [`crate::refusal::Problem`].

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::amounts::Amounts;
use crate::event::Event;
use crate::host::{Host, HostIntent};
use crate::id::{HostId, ImageName, JobId, OfferId, Revision, RunId};
use crate::job::{Job, JobRow, JobSpec, ObservedDomain, Pace, RunKey};
use crate::signed::{PublicKey, Signed};
use crate::subject::Subject;
use crate::ticket::{Action, Handoff, HoldAt, Offer, Ticket};
use crate::trust::{Ready, StartRate};
use crate::view::{Freshness, View};
use crate::vm::{Preemptor, SizeChange};

/// `POST /v1/offers` on a host: may this job come to you? Answer 201 [`OfferReply`], or a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OfferRequest {
    /// The job.
    pub job: JobId,
    /// Which change of it.
    pub revision: Revision,
    /// What it is.
    pub spec: JobSpec,
    /// How it would come.
    pub action: Action,
    /// See [`PutJob::finds_disks`]; what fails over or migrates does so anyway.
    #[serde(default, skip_serializing_if = "is_false")]
    pub finds_disks: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// A reservation with a deadline, and the invitation to have it granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OfferReply {
    /// What to show the arbiters.
    pub offer: Signed<Offer>,
    /// How long it lasts, in milliseconds, on the host's clock.
    pub left_ms: u64,
}

/// `PUT /v1/jobs/{id}` on a host: take this job. 201 when accepted (durable), 200 when it is so
/// already, each with the [`Job`]; else a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutJob {
    /// Which change of it; above the present one.
    pub revision: Revision,
    /// What it is.
    pub spec: JobSpec,
    /// The right to run it; required by a host with trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<Ticket>,
    /// Who asks, when a run does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunKey>,
    /// True when it has run on another host and its disks in shared pools are there: none is made, and
    /// without them it does not start.
    #[serde(default, skip_serializing_if = "is_false")]
    pub finds_disks: bool,
    /// True when the job is on this host already, and starts again or changes: when somebody has deleted it
    /// meanwhile, it is refused (`no-such-job`), and nothing is made anew.
    #[serde(default, skip_serializing_if = "is_false")]
    pub must_exist: bool,
    /// The budget of this host that it is started by, instead of a ticket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<JobId>,
}

impl PutJob {
    /// This change of a job, to be taken where nothing is known of it, by nobody in particular and without a ticket.
    #[must_use]
    pub fn of(revision: Revision, spec: JobSpec) -> Self {
        Self {
            revision,
            spec,
            ticket: None,
            run: None,
            finds_disks: false,
            must_exist: false,
            budget: None,
        }
    }
}

/// `GET /v1/domains/{domain}` on a host: a domain that is nobody's job. `PUT /v1/jobs/{id}` with the
/// spec adopts it, in place and running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DomainReply {
    /// The domain.
    pub domain: ObservedDomain,
    /// The job that it would be.
    pub spec: JobSpec,
}

/// `POST /v1/jobs/{id}/stop` on a host. 202 with the [`Job`]; repeating it is harmless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopJob {
    /// How long the guest may take to shut down before it is destroyed, in milliseconds; 0 destroys
    /// it at once.
    #[serde(default = "grace_ms_default")]
    pub grace_ms: u64,
    /// Who asks, when a run does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunKey>,
    /// For whom, when another is to have its room; refused of what is not preemptible, or matters as much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lets: Option<Preemptor>,
}

impl StopJob {
    /// A stop for its own sake, and by no run.
    #[must_use]
    pub fn within(grace_ms: u64) -> Self {
        Self { grace_ms, run: None, lets: None }
    }
}

fn grace_ms_default() -> u64 {
    30_000
}

/// `POST /v1/jobs/{id}/reboot` on a host. 202 with the [`Job`]. Unlike a stop it is not remembered
/// over a restart of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RebootJob {
    /// How long the guest may take to reboot itself before it is reset, in milliseconds.
    #[serde(default = "grace_ms_default")]
    pub grace_ms: u64,
}

/// `POST /v1/jobs/{id}/resize` on a host: another size for a VM that is there. 202 with the [`Job`]
/// when it is written down, whose `resize` tells what the guest has as long as that is something
/// else; 200 when it is so already; else a refusal. A VM that has ended changes at its next start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResizeJob {
    /// Which change of the job; above the present one.
    pub revision: Revision,
    /// What is to change.
    pub size: SizeChange,
    /// The right to have more; required by a host with trust of a VM that is alive and grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<Ticket>,
    /// Who asks, when a run does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunKey>,
}

/// `POST /v1/jobs/{id}/snapshots/{snapshot}/revert`. 202 with the [`Job`] when it is written down: its
/// disks become what they were; 200 when this change was taken before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevertJob {
    /// Which change of the job; above the present one. A copy of the request that arrives late finds a
    /// job that has changed since, and reverts nothing.
    pub revision: Revision,
}

/// `POST /v1/jobs/{id}/migrate` on the source. 202 with the [`Job`], which then shows progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrateJob {
    /// Where to.
    pub to: HostId,
    /// The target's hold for it.
    pub to_hold: Option<OfferId>,
    /// From the target's job: where its agent takes the guest's streams, `https://IP:PORT`.
    pub url: String,
    /// Who asks, when a run does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunKey>,
    /// How it is sent.
    #[serde(default, skip_serializing_if = "Pace::is_default")]
    pub pace: Pace,
}

/// `POST /v1/jobs/{id}/handoff` on the target: the source has let go (rule M4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutHandoff {
    /// The source's word.
    pub handoff: Signed<Handoff>,
}

/// `GET /v1/jobs` on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobList {
    /// Its jobs.
    pub jobs: Vec<Job>,
}

/// `GET /v1/tenants/{tenant}/jobs/{job}` on an arbiter: what it could book for that job. With `?fresh=true`
/// it asks hosts first what they hold, where that may leave more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TenantRoom {
    /// The tenant's limit; `None`: it has none, and the rest says nothing.
    pub limit: Option<Amounts>,
    /// What is promised of it, as far as this arbiter knows.
    pub used: Amounts,
    /// What the job could have in all by that.
    pub at_most: Amounts,
    /// What this arbiter could book for the job in all.
    pub left: Amounts,
    /// What it has booked for it.
    pub has: Amounts,
    /// What it could grant of the tenant's starts; `None`: they are not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<StartsRoom>,
}

/// What an arbiter has left of how many VMs a tenant may start within a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StartsRoom {
    /// How many, in how long.
    pub limit: StartRate,
    /// This arbiter's part of them.
    pub part: u32,
    /// What counts as used of that part.
    pub used: u32,
    /// How much longer until one is left, in milliseconds, 0 while one is; `None`: it has no part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<u64>,
}

impl StartsRoom {
    /// How many it could grant now.
    #[must_use]
    pub fn left(&self) -> u32 {
        self.part.saturating_sub(self.used)
    }
}

/// `GET /v1/tenants/{tenant}` on an arbiter: what it has booked for the tenant's jobs, for whoever
/// spreads that anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TenantBook {
    /// Its part of the tenant's limit; `None` without a limit.
    pub part: Option<Amounts>,
    /// Job by job.
    pub jobs: Vec<JobDebit>,
}

/// What an arbiter has booked for a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobDebit {
    /// The job.
    pub job: JobId,
    /// Where it is; `None` when several hosts have a part in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// What it takes.
    pub takes: Amounts,
    /// What is booked.
    pub debit: Amounts,
}

/// What each arbiter has booked for a hold of a host's, in `GET /v1/offers` there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HoldDebits {
    /// The hold.
    pub hold: OfferId,
    /// By slot.
    pub debits: BTreeMap<u32, Amounts>,
}

/// `GET /v1/view` on a monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ViewReply {
    /// The monitor's key.
    pub monitor: PublicKey,
    /// True once every host that discovery names has been heard or given up.
    pub is_complete: bool,
    /// How fresh each host's row is.
    pub freshness: Vec<HostFreshness>,
    /// The rows.
    pub view: View,
}

/// One host's freshness in a view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostFreshness {
    /// The host.
    pub host: HostId,
    /// How fresh its row is.
    pub freshness: Freshness,
    /// Milliseconds since it was last heard.
    pub age_ms: u64,
    /// By which way: the url of the agent or of another monitor.
    pub path: String,
    /// The last trouble with it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// What somebody wants of the cluster: the body of `POST /v1/runs` on a controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "want", rename_all = "snake_case", deny_unknown_fields)]
pub enum Want {
    /// The job runs somewhere, or on the named host.
    Run {
        /// The job.
        job: JobId,
        /// What it is.
        spec: JobSpec,
        /// Only here, if given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        on: Option<HostId>,
        /// Only if it is somewhere already, running or not: a job that somebody has deleted meanwhile is not
        /// made anew.
        #[serde(default, skip_serializing_if = "is_false")]
        again: bool,
    },
    /// The job runs on that host, by a budget of that host's and without asking any arbiter.
    Spend {
        /// The job.
        job: JobId,
        /// What it is.
        spec: JobSpec,
        /// The host that has the budget.
        on: HostId,
        /// The budget.
        budget: JobId,
    },
    /// The job is stopped; its disks stay.
    Stop {
        /// The job.
        job: JobId,
        /// See [`StopJob::grace_ms`].
        #[serde(default = "grace_ms_default")]
        grace_ms: u64,
        /// See [`StopJob::lets`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lets: Option<Preemptor>,
    },
    /// The job runs on that host, moved without a stop.
    Migrate {
        /// The job.
        job: JobId,
        /// Where to.
        to: HostId,
        /// How it is sent.
        #[serde(default, skip_serializing_if = "Pace::is_default")]
        pace: Pace,
    },
    /// The job has this size, where it is.
    Resize {
        /// The job.
        job: JobId,
        /// What is to change.
        size: SizeChange,
    },
    /// The job and its disks are gone.
    Delete {
        /// The job.
        job: JobId,
    },
    /// The job, whose host has lost it or cannot be heard, runs somewhere. Arbiters let that be only
    /// while nobody has been promised it since.
    FailOver {
        /// The job.
        job: JobId,
        /// What it is.
        spec: JobSpec,
        /// Which change of it was lost.
        revision: Revision,
        /// Under which hold of which host it ran.
        lost: HoldAt,
    },
    /// The host is emptied and put to sleep, if no one needs it.
    Sleep {
        /// The host.
        #[schemars(with = "HostId")]
        host: Subject,
    },
    /// The host is awake.
    Wake {
        /// The host.
        #[schemars(with = "HostId")]
        host: Subject,
    },
}

impl Want {
    /// That the job is stopped, for its own sake.
    #[must_use]
    pub fn stop(job: JobId, grace_ms: u64) -> Self {
        Want::Stop { job, grace_ms, lets: None }
    }

    /// That the job runs on that host, sent there as its host thinks best.
    #[must_use]
    pub fn migrate(job: JobId, to: HostId) -> Self {
        Want::Migrate { job, to, pace: Pace::default() }
    }

    /// The job it is about; of a host, the name of its runs ([`Subject`]).
    #[must_use]
    pub fn job(&self) -> &JobId {
        match self {
            Want::Run { job, .. }
            | Want::Spend { job, .. }
            | Want::Stop { job, .. }
            | Want::Migrate { job, .. }
            | Want::Resize { job, .. }
            | Want::Delete { job }
            | Want::FailOver { job, .. } => job,
            Want::Sleep { host } | Want::Wake { host } => host.job(),
        }
    }

    /// Every word of [`Want::as_str`].
    pub const KINDS: [&str; 9] =
        ["run", "spend", "stop", "migrate", "resize", "delete", "fail_over", "sleep", "wake"];

    /// The word for what is wanted.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Want::Run { .. } => "run",
            Want::Spend { .. } => "spend",
            Want::Stop { .. } => "stop",
            Want::Migrate { .. } => "migrate",
            Want::Resize { .. } => "resize",
            Want::Delete { .. } => "delete",
            Want::FailOver { .. } => "fail_over",
            Want::Sleep { .. } => "sleep",
            Want::Wake { .. } => "wake",
        }
    }
}

/// `POST /v1/runs`: the caller names the run, so that asking twice is asking once. 202 with the
/// [`RunStatus`] once it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NewRun {
    /// Chosen by the caller.
    pub id: RunId,
    /// What is wanted.
    #[serde(flatten)]
    pub want: Want,
    /// Whether other VMs may be moved where that makes the job fit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub make_room: bool,
    /// Whether it waits for room rather than have anybody stopped who is preemptible.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub yields: bool,
    /// Why, for people who have not asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

impl NewRun {
    /// Wants this, and nobody else moved for it.
    #[must_use]
    pub fn new(id: RunId, want: Want) -> Self {
        Self { id, want, make_room: false, yields: false, because: None }
    }
}

/// Where a run is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Stored, not begun.
    Accepted,
    /// Being executed.
    Running,
    /// Something was refused for good; what was begun is being undone.
    Unwinding,
    /// What was wanted is so.
    Succeeded,
    /// It is not, and nothing of the attempt is left.
    RolledBack,
    /// It is not, and undoing failed too: a person must look. Survives restarts.
    Stuck,
}

impl RunState {
    /// Every state, in the order of a run's life.
    pub const ALL: [RunState; 6] = [
        RunState::Accepted,
        RunState::Running,
        RunState::Unwinding,
        RunState::Succeeded,
        RunState::RolledBack,
        RunState::Stuck,
    ];

    /// The word on screens.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RunState::Accepted => "accepted",
            RunState::Running => "running",
            RunState::Unwinding => "unwinding",
            RunState::Succeeded => "succeeded",
            RunState::RolledBack => "rolled_back",
            RunState::Stuck => "stuck",
        }
    }

    /// True when nothing more will happen.
    #[must_use]
    pub fn is_ended(self) -> bool {
        matches!(self, RunState::Succeeded | RunState::RolledBack | RunState::Stuck)
    }
}

/// Where a task of a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Not begun.
    Pending,
    /// Intent stored; may or may not have had its effect.
    Started,
    /// Done, result stored.
    Succeeded,
    /// Refused for good, without effect.
    Failed,
    /// Undo begun.
    Undoing,
    /// Undone.
    Undone,
    /// Undo refused: the run is stuck; but what was only moved to make room stays where it is then.
    UndoFailed,
    /// Never needed.
    Skipped,
}

/// One task as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskStatus {
    /// Its number in the run.
    pub number: u32,
    /// What it does, such as `start web-1 on h2`.
    pub title: String,
    /// Where it is.
    pub state: TaskState,
    /// What came of it or what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// `GET /v1/runs/{id}` on a controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunStatus {
    /// Its id.
    pub id: RunId,
    /// What is wanted.
    pub want: Want,
    /// Why, where it is for another's sake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// Where it is.
    pub state: RunState,
    /// Why it is there: what it waits for, or the reason of its end, with what would have worked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many plans it has made; more than one after refusals.
    pub rounds: u32,
    /// Its tasks in order.
    pub tasks: Vec<TaskStatus>,
    /// When it was accepted, in milliseconds since 1970; for people only.
    pub accepted_ms: u64,
}

/// `GET /v1/runs` on a controller: those that have not ended, then the others, of each the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunList {
    /// The runs.
    pub runs: Vec<RunStatus>,
}

/// `GET /v1/health` of every role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// `agent`, `monitor`, `arbiter`, `controller`.
    pub role: String,
    /// True when it can do its work now.
    pub is_ready: bool,
    /// The key it proves itself with.
    pub key: PublicKey,
    /// Version of the program.
    pub version: String,
    /// The trust document it obeys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_version: Option<u64>,
    /// What it waits for, when it is not ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<String>,
}

/// `GET /v1/handover` on an arbiter: whether a change of arbiters may be completed, by its word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HandoverReply {
    /// Its word, once it can give it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Signed<Ready>>,
    /// What it waits for until then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<String>,
}

/// `PUT /v1/config/intent` on a host: what its operator intends with it from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutIntent {
    /// What.
    pub intent: HostIntent,
}

/// `PUT /v1/images/{name}` (the file as body, its digest in the header [`SHA256_HEADER`]): 201 when
/// the file is on disk and its digest is right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageReply {
    /// The image.
    pub name: ImageName,
    /// What it is.
    #[serde(flatten)]
    pub facts: crate::host::ImageFacts,
}

/// The header that carries a body's SHA-256 in hex.
pub const SHA256_HEADER: &str = "ostler-sha256";

/// What `ps --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobRows {
    /// The jobs.
    pub jobs: Vec<JobRow>,
}

/// What `hosts --json` prints, a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostRowReply {
    /// The host.
    pub host: Host,
    /// How fresh this is.
    pub freshness: Freshness,
    /// Milliseconds since it was last heard.
    pub age_ms: u64,
    /// Jobs alive on it.
    pub jobs_alive: u32,
    /// Those of them that are VMs, and leave it when it is drained.
    pub vms_alive: u32,
}

/// What `events --json` prints, a line each.
pub type EventLine = Event;
