//! The atomic units of a run: what each asks of whom, how long it may take, and what takes it back.
//!
//! Sending is the executor's, order and retry the run's; how a plan's steps become tasks is [`of_steps`]'s.

use std::time::Duration;

use planner::Fetch;
use protocol::api::{MigrateJob, OfferRequest, PutJob, ResizeJob, Want};
use protocol::id::{HostId, JobId, OfferId, Revision};
use protocol::job::{JobSpec, Pace, RunKey};
use protocol::signed::Signed;
use protocol::subject::Subject;
use protocol::ticket::{Action, Grant, Handoff, Offer, Ticket};
use protocol::vm::{Preemptor, Priority, SizeChange};
use serde::{Deserialize, Serialize};

use crate::record::TaskRecord;

mod of_steps;

pub use of_steps::{Circumstances, tasks_of};

/// What a task does. Numbers point at the tasks whose results it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "snake_case")]
pub enum TaskKind {
    /// Have another job moved, so that this one fits: by a run of its own.
    MakeRoom {
        /// The other job.
        job: JobId,
        /// Where it is.
        from: HostId,
        /// Where it goes.
        to: HostId,
    },
    /// Have another job stopped that is preemptible and has a lower priority, so that this one fits: by a run of
    /// its own.
    Preempt {
        /// The other job.
        job: JobId,
        /// Where it is.
        host: HostId,
        /// How much the one matters that is to have its room.
        priority: Priority,
    },
    /// Have a sleeping host switched on. It stays on, whatever becomes of the run.
    Wake {
        /// The host.
        host: HostId,
    },
    /// Wait until it is heard, and takes what fits.
    AwaitAwake {
        /// The host.
        host: HostId,
    },
    /// Have a host take nothing new, so that it can sleep; what is there moves away. Undone, it takes what fits.
    Drain {
        /// The host.
        host: HostId,
    },
    /// Wait until nothing is alive there.
    AwaitEmpty {
        /// The host.
        host: HostId,
    },
    /// Have it put to sleep. Undone, it is woken.
    Sleep {
        /// The host.
        host: HostId,
    },
    /// Have a host copy an image from others. It stays there, whatever becomes of the run.
    Fetch {
        /// The host.
        host: HostId,
        /// The image, and who has it.
        fetch: Fetch,
    },
    /// Ask a host whether it would take the job.
    Offer {
        /// The host.
        host: HostId,
        /// Which change of the job.
        revision: Revision,
        /// What it is.
        spec: JobSpec,
        /// How it would come.
        how: Action,
        /// Whether its disks are there already: see [`PutJob::finds_disks`].
        #[serde(default)]
        finds_disks: bool,
    },
    /// Have the offer granted by a quorum of arbiters.
    Grants {
        /// The task with the offer.
        offer: usize,
    },
    /// Put the job on the host.
    Put {
        /// The host.
        host: HostId,
        /// Which change of the job.
        revision: Revision,
        /// What it is.
        spec: JobSpec,
        /// The tasks with the offer and its grants; `None` in a cluster without trust.
        ticket: Option<(usize, usize)>,
        /// True when the host has had nothing of the job before: undoing deletes its disks too.
        is_new: bool,
        /// Whether its disks are there already: see [`PutJob::finds_disks`].
        #[serde(default)]
        finds_disks: bool,
        /// Whether it is there already: see [`PutJob::must_exist`].
        #[serde(default)]
        must_exist: bool,
        /// The budget by which it is started instead: see [`PutJob::budget`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        budget: Option<JobId>,
    },
    /// Wait until the job runs there.
    AwaitRunning {
        /// The host.
        host: HostId,
        /// At least this change of it.
        revision: Revision,
    },
    /// Give the job another size where it is.
    Resize {
        /// The host.
        host: HostId,
        /// Which change of the job.
        revision: Revision,
        /// What changes.
        size: SizeChange,
        /// The tasks with the offer and its grants; `None` when it needs none.
        ticket: Option<(usize, usize)>,
    },
    /// Wait until its host is through with that.
    AwaitResized {
        /// The host.
        host: HostId,
        /// At least this change of it.
        revision: Revision,
        /// What has changed then.
        size: SizeChange,
    },
    /// Wait until the target is ready to receive.
    AwaitIncoming {
        /// The target.
        host: HostId,
    },
    /// Have the source send the guest.
    Send {
        /// The source.
        from: HostId,
        /// The target.
        to: HostId,
        /// The task that knows where the target listens.
        incoming: usize,
        /// The change of the job that the target has made room for.
        #[serde(default)]
        revision: Option<Revision>,
    },
    /// Wait until the source has let go. Done is the point of no return.
    AwaitSent {
        /// The source.
        from: HostId,
        /// The target.
        to: HostId,
    },
    /// Give the target the source's word.
    HandOver {
        /// The target.
        to: HostId,
        /// The task with the source's word.
        sent: usize,
    },
    /// Have the job stopped.
    Stop {
        /// The host.
        host: HostId,
        /// How long the guest may take.
        grace_ms: u64,
    },
    /// Wait until nothing of it runs.
    AwaitEnded {
        /// The host.
        host: HostId,
    },
    /// Delete the job and its disks.
    Delete {
        /// The host.
        host: HostId,
        /// Whether its disks in shared pools go as well: the job is to be nowhere.
        #[serde(default)]
        shared: bool,
    },
}

/// What a task leaves for those after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum TaskResult {
    /// Nothing but that it is done.
    Done,
    /// A host's offer.
    Offer {
        /// As signed.
        offer: Signed<Offer>,
    },
    /// Enough grants.
    Grants {
        /// As signed.
        grants: Vec<Signed<Grant>>,
    },
    /// Where the target listens.
    Incoming {
        /// Its hold.
        hold: Option<OfferId>,
        /// Its agent.
        url: String,
    },
    /// The source's word that it has let go; none where no holds are kept.
    Sent {
        /// As signed.
        handoff: Option<Signed<Handoff>>,
    },
}

/// Doing or undoing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The task itself.
    Do,
    /// Taking it back.
    Undo,
}

/// A task with everything the executor needs, and the key that makes repeating it harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatch {
    /// Run, task and claim.
    pub key: RunKey,
    /// Doing or undoing.
    pub direction: Direction,
    /// The job.
    pub job: JobId,
    /// What to ask.
    pub ask: Ask,
}

/// What to ask of whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// See [`TaskKind::MakeRoom`]. Only an engine can do this.
    MakeRoom {
        /// The other job.
        job: JobId,
        /// Where to.
        to: HostId,
        /// Why, for those who have not asked for it.
        because: String,
    },
    /// Take that back, if it has moved, and is still there.
    GiveBack {
        /// The other job.
        job: JobId,
        /// Where it was.
        from: HostId,
        /// Where it went.
        to: HostId,
        /// Why.
        because: String,
    },
    /// See [`TaskKind::Preempt`]. Only an engine can do this.
    Preempt {
        /// The other job.
        job: JobId,
        /// Where it is.
        host: HostId,
        /// How much the one matters that is to have its room.
        priority: Priority,
        /// Why, for those who have not asked for it.
        because: String,
    },
    /// Start it again, if it has been stopped and is so still.
    StartAgain {
        /// The other job.
        job: JobId,
        /// Where it was.
        host: HostId,
        /// Why.
        because: String,
    },
    /// See [`TaskKind::Wake`]. Only an engine can do this.
    Wake(HostId),
    /// See [`TaskKind::AwaitAwake`]. Only an engine can do this.
    AwaitAwake(HostId),
    /// See [`TaskKind::Drain`]. Only an engine can do this.
    Drain(HostId),
    /// Take that back.
    Undrain(HostId),
    /// See [`TaskKind::AwaitEmpty`]. Only an engine can do this.
    AwaitEmpty(HostId),
    /// See [`TaskKind::Sleep`]. Only an engine can do this.
    Sleep(HostId),
    /// Take that back.
    WakeAgain(HostId),
    /// See [`TaskKind::Fetch`].
    Fetch(HostId, Fetch),
    /// See [`TaskKind::Offer`].
    Offer(HostId, OfferRequest),
    /// Take an offer back.
    VoidOffer(HostId, OfferId),
    /// See [`TaskKind::Grants`].
    Grants(Signed<Offer>),
    /// See [`TaskKind::Put`].
    Put(HostId, PutJob),
    /// Take a put back: end the job if this task made it, and delete it if it was new.
    Discard {
        /// The host.
        host: HostId,
        /// The change that was put.
        revision: Revision,
        /// See [`TaskKind::Put`].
        is_new: bool,
        /// Whether a guest that has come up after all is left alone: it is too late to take it back then.
        keeps_running: bool,
    },
    /// See [`TaskKind::AwaitRunning`].
    AwaitRunning(HostId, Revision),
    /// See [`TaskKind::Resize`].
    Resize(HostId, ResizeJob),
    /// Take a resize back, as far as that gives something up.
    UndoResize(HostId),
    /// See [`TaskKind::AwaitResized`].
    AwaitResized(HostId, Revision, SizeChange),
    /// See [`TaskKind::AwaitIncoming`].
    AwaitIncoming(HostId),
    /// See [`TaskKind::Send`].
    Send(HostId, MigrateJob, Option<Revision>),
    /// Take a send back, if it is not too late.
    CancelSend {
        /// The source.
        from: HostId,
        /// The target.
        to: HostId,
    },
    /// See [`TaskKind::AwaitSent`].
    AwaitSent {
        /// The source.
        from: HostId,
        /// The target.
        to: HostId,
    },
    /// See [`TaskKind::HandOver`].
    HandOver(HostId, Option<Signed<Handoff>>),
    /// See [`TaskKind::Stop`].
    Stop {
        /// The host.
        host: HostId,
        /// See [`StopJob::grace_ms`](protocol::api::StopJob::grace_ms).
        grace_ms: u64,
        /// See [`StopJob::lets`](protocol::api::StopJob::lets).
        lets: Option<Preemptor>,
    },
    /// See [`TaskKind::AwaitEnded`].
    AwaitEnded(HostId),
    /// See [`TaskKind::Delete`].
    Delete(HostId, bool),
}

impl TaskKind {
    /// What it does, in words.
    #[must_use]
    pub fn title(&self, job: &JobId) -> String {
        match self {
            TaskKind::MakeRoom { job: other, from, to } => {
                let (from, to) = (from.short(), to.short());
                format!("move {other} from {from} to {to} so that {job} fits")
            }
            TaskKind::Preempt { job: other, host, .. } => {
                format!("stop {other} on {} so that {job} fits", host.short())
            }
            TaskKind::Wake { host } if Subject::from(host.clone()).job() == job => {
                format!("wake {}", host.short())
            }
            TaskKind::Wake { host } => format!("wake {} for {job}", host.short()),
            TaskKind::Drain { host } => format!("drain {}", host.short()),
            TaskKind::AwaitEmpty { host } => format!("wait until {} is empty", host.short()),
            TaskKind::Sleep { host } => format!("put {} to sleep", host.short()),
            TaskKind::AwaitAwake { host } => format!("wait until {} is awake", host.short()),
            TaskKind::Fetch { host, fetch } => {
                let from = fetch.from.first().map_or("nobody", HostId::short);
                format!("fetch image {} from {from} to {}", fetch.image, host.short())
            }
            TaskKind::Offer { host, .. } => format!("ask {} to offer {job} a place", host.short()),
            TaskKind::Grants { .. } => format!("have {job} granted by the arbiters"),
            TaskKind::Put { host, .. } => format!("put {job} on {}", host.short()),
            TaskKind::AwaitRunning { host, .. } => {
                format!("wait until {job} runs on {}", host.short())
            }
            TaskKind::Resize { host, .. } => format!("resize {job} on {}", host.short()),
            TaskKind::AwaitResized { host, .. } => {
                format!("wait until {} is through with resizing {job}", host.short())
            }
            TaskKind::AwaitIncoming { host } => {
                format!("wait until {} can receive {job}", host.short())
            }
            TaskKind::Send { from, to, .. } => {
                format!("send {job} from {} to {}", from.short(), to.short())
            }
            TaskKind::AwaitSent { from, .. } => {
                format!("wait until {} has let go of {job}", from.short())
            }
            TaskKind::HandOver { to, .. } => format!("hand {job} over to {}", to.short()),
            TaskKind::Stop { host, .. } => format!("stop {job} on {}", host.short()),
            TaskKind::AwaitEnded { host } => {
                format!("wait until {job} has ended on {}", host.short())
            }
            TaskKind::Delete { host, .. } => format!("delete {job} from {}", host.short()),
        }
    }

    /// The host it asks; `None` for the arbiters.
    #[must_use]
    pub fn host(&self) -> Option<&HostId> {
        match self {
            TaskKind::Grants { .. } => None,
            TaskKind::Wake { host }
            | TaskKind::AwaitAwake { host }
            | TaskKind::Drain { host }
            | TaskKind::AwaitEmpty { host }
            | TaskKind::Sleep { host }
            | TaskKind::Fetch { host, .. }
            | TaskKind::Offer { host, .. }
            | TaskKind::Put { host, .. }
            | TaskKind::AwaitRunning { host, .. }
            | TaskKind::Resize { host, .. }
            | TaskKind::AwaitResized { host, .. }
            | TaskKind::AwaitIncoming { host }
            | TaskKind::Preempt { host, .. }
            | TaskKind::Stop { host, .. }
            | TaskKind::AwaitEnded { host }
            | TaskKind::Delete { host, .. } => Some(host),
            TaskKind::Send { from, .. } | TaskKind::AwaitSent { from, .. } => Some(from),
            TaskKind::HandOver { to, .. } | TaskKind::MakeRoom { to, .. } => Some(to),
        }
    }

    /// How long it may go on without any sign of progress before it counts as not done.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let seconds = match self {
            // A device that does not take the order is asked again for so long.
            TaskKind::Wake { .. } => 120,
            // Nothing is heard of progress, so that ten times as long is waited in all: firmware that counts a
            // terabyte of memory takes minutes.
            TaskKind::AwaitAwake { .. } => 60,
            TaskKind::Drain { .. } => 60,
            // Each VM that leaves counts as progress, and one may move for ten times as long.
            TaskKind::AwaitEmpty { .. } => 120,
            // What has become of an order is found out by asking the devices again.
            TaskKind::Sleep { .. } => 300,
            // Each new byte counts as progress; the host itself gives up on a silent source sooner.
            TaskKind::Fetch { .. } => 120,
            // Nothing is begun yet: another host may answer sooner.
            TaskKind::Offer { .. } => 6,
            // A restarted arbiter is silent for one term of 9 s.
            TaskKind::Grants { .. } => 30,
            TaskKind::Put { .. } | TaskKind::AwaitRunning { .. } | TaskKind::Send { .. } => 60,
            TaskKind::Resize { .. } | TaskKind::AwaitIncoming { .. } => 60,
            // Each piece of memory that the guest gives up counts as progress.
            TaskKind::AwaitResized { .. } => 120,
            // Disks are copied; each percent counts as progress.
            TaskKind::MakeRoom { .. } => 120,
            // Its grace, and what may be in its way.
            TaskKind::Preempt { .. } => 120,
            TaskKind::AwaitSent { .. } => 120,
            // Past the point of no return there is nothing better to do than to go on asking.
            TaskKind::HandOver { .. } => 600,
            TaskKind::Stop { grace_ms, .. } => 60 + grace_ms / 1000,
            TaskKind::AwaitEnded { .. } => 120,
            TaskKind::Delete { .. } => 60,
        };
        Duration::from_secs(seconds)
    }

    /// Whether it changes anything that would have to be taken back.
    #[must_use]
    pub fn has_undo(&self) -> bool {
        match self {
            TaskKind::MakeRoom { .. }
            | TaskKind::Preempt { .. }
            | TaskKind::Drain { .. }
            | TaskKind::Sleep { .. }
            | TaskKind::Offer { .. }
            | TaskKind::Put { .. }
            | TaskKind::Resize { .. }
            | TaskKind::Send { .. } => true,
            TaskKind::Wake { .. }
            | TaskKind::AwaitAwake { .. }
            | TaskKind::AwaitEmpty { .. }
            | TaskKind::Fetch { .. }
            | TaskKind::Grants { .. }
            | TaskKind::AwaitRunning { .. }
            | TaskKind::AwaitResized { .. }
            | TaskKind::AwaitIncoming { .. }
            | TaskKind::AwaitSent { .. }
            | TaskKind::HandOver { .. }
            | TaskKind::Stop { .. }
            | TaskKind::AwaitEnded { .. }
            | TaskKind::Delete { .. } => false,
        }
    }

    /// Whether a migration has switched over once it is done: there is no way back then.
    #[must_use]
    pub fn is_switch_over(&self) -> bool {
        matches!(self, TaskKind::AwaitSent { .. })
    }
}

/// What to ask to do task `i`. `None` when a task before it has not left what this one needs,
/// which only a damaged record can cause.
#[must_use]
pub fn ask_to_do(tasks: &[TaskRecord], i: usize, want: &Want, key: RunKey) -> Option<Ask> {
    let job = want.job();
    let result = |i: usize| tasks.get(i)?.result.as_ref();
    Some(match &tasks.get(i)?.kind {
        TaskKind::MakeRoom { job: other, to, .. } => {
            let because = format!("so that {job} fits where it was");
            Ask::MakeRoom { job: other.clone(), to: to.clone(), because }
        }
        TaskKind::Preempt { job: other, host, priority } => {
            let because = format!("so that {job} fits there");
            let (job, host, priority) = (other.clone(), host.clone(), *priority);
            Ask::Preempt { job, host, priority, because }
        }
        TaskKind::Wake { host } => Ask::Wake(host.clone()),
        TaskKind::AwaitAwake { host } => Ask::AwaitAwake(host.clone()),
        TaskKind::Drain { host } => Ask::Drain(host.clone()),
        TaskKind::AwaitEmpty { host } => Ask::AwaitEmpty(host.clone()),
        TaskKind::Sleep { host } => Ask::Sleep(host.clone()),
        TaskKind::Fetch { host, fetch } => Ask::Fetch(host.clone(), fetch.clone()),
        TaskKind::Offer { host, revision, spec, how, finds_disks } => {
            let (job, spec, finds_disks) = (job.clone(), spec.clone(), *finds_disks);
            let request =
                OfferRequest { job, revision: *revision, spec, action: how.clone(), finds_disks };
            Ask::Offer(host.clone(), request)
        }
        TaskKind::Grants { offer } => match result(*offer)? {
            TaskResult::Offer { offer } => Ask::Grants(offer.clone()),
            _ => return None,
        },
        TaskKind::Put { host, revision, spec, ticket, finds_disks, must_exist, budget, .. } => {
            let (ticket, spec) = (ticket_of(tasks, *ticket)?, spec.clone());
            let (finds_disks, must_exist) = (*finds_disks, *must_exist);
            Ask::Put(
                host.clone(),
                PutJob {
                    revision: *revision,
                    spec,
                    ticket,
                    run: Some(key),
                    finds_disks,
                    must_exist,
                    budget: budget.clone(),
                },
            )
        }
        TaskKind::Resize { host, revision, size, ticket } => {
            let (ticket, size) = (ticket_of(tasks, *ticket)?, size.clone());
            let body = ResizeJob { revision: *revision, size, ticket, run: Some(key) };
            Ask::Resize(host.clone(), body)
        }
        TaskKind::AwaitResized { host, revision, size } => {
            Ask::AwaitResized(host.clone(), *revision, size.clone())
        }
        TaskKind::AwaitRunning { host, revision } => Ask::AwaitRunning(host.clone(), *revision),
        TaskKind::AwaitIncoming { host } => Ask::AwaitIncoming(host.clone()),
        TaskKind::Send { from, to, incoming, revision } => match result(*incoming)?.clone() {
            TaskResult::Incoming { hold: to_hold, url } => {
                let (to, run) = (to.clone(), Some(key));
                let pace = match want {
                    Want::Migrate { pace, .. } => *pace,
                    _ => Pace::default(),
                };
                Ask::Send(from.clone(), MigrateJob { to, to_hold, url, run, pace }, *revision)
            }
            _ => return None,
        },
        TaskKind::AwaitSent { from, to } => Ask::AwaitSent { from: from.clone(), to: to.clone() },
        TaskKind::HandOver { to, sent } => match result(*sent)? {
            TaskResult::Sent { handoff } => Ask::HandOver(to.clone(), handoff.clone()),
            _ => return None,
        },
        TaskKind::Stop { host, grace_ms } => {
            let lets = match want {
                Want::Stop { lets, .. } => lets.clone(),
                _ => None,
            };
            Ask::Stop { host: host.clone(), grace_ms: *grace_ms, lets }
        }
        TaskKind::AwaitEnded { host } => Ask::AwaitEnded(host.clone()),
        TaskKind::Delete { host, shared } => Ask::Delete(host.clone(), *shared),
    })
}

/// What two tasks before have left, as a ticket. The outer `None`: they have not.
#[expect(clippy::option_option, reason = "none needed, and none there, are not the same")]
fn ticket_of(tasks: &[TaskRecord], at: Option<(usize, usize)>) -> Option<Option<Ticket>> {
    let Some((offer, grants)) = at else { return Some(None) };
    let result = |i: usize| tasks.get(i)?.result.as_ref();
    match (result(offer)?, result(grants)?) {
        (TaskResult::Offer { offer }, TaskResult::Grants { grants }) => {
            Some(Some(Ticket { offer: offer.clone(), grants: grants.clone() }))
        }
        _ => None,
    }
}

/// What to ask to take a task back; `None` when there is nothing to take back. `keeps_running`: see
/// [`Ask::Discard`].
#[must_use]
pub fn ask_to_undo(task: &TaskRecord, keeps_running: bool) -> Option<Ask> {
    match &task.kind {
        TaskKind::MakeRoom { job, from, to } => {
            let because = "as its place is not needed after all".to_owned();
            let (job, from, to) = (job.clone(), from.clone(), to.clone());
            Some(Ask::GiveBack { job, from, to, because })
        }
        TaskKind::Preempt { job, host, .. } => {
            let because = "as its room is not needed after all".to_owned();
            Some(Ask::StartAgain { job: job.clone(), host: host.clone(), because })
        }
        TaskKind::Offer { host, .. } => match &task.result {
            Some(TaskResult::Offer { offer }) => {
                // An offer that cannot be read ends by itself within its term.
                Some(Ask::VoidOffer(host.clone(), offer.open().ok()?.id))
            }
            _ => None,
        },
        TaskKind::Put { host, revision, is_new, .. } => {
            let (host, revision, is_new) = (host.clone(), *revision, *is_new);
            Some(Ask::Discard { host, revision, is_new, keeps_running })
        }
        TaskKind::Resize { host, .. } => Some(Ask::UndoResize(host.clone())),
        TaskKind::Send { from, to, .. } => {
            Some(Ask::CancelSend { from: from.clone(), to: to.clone() })
        }
        TaskKind::Drain { host } => Some(Ask::Undrain(host.clone())),
        TaskKind::Sleep { host } => Some(Ask::WakeAgain(host.clone())),
        TaskKind::Wake { .. }
        | TaskKind::AwaitAwake { .. }
        | TaskKind::AwaitEmpty { .. }
        | TaskKind::Fetch { .. }
        | TaskKind::Grants { .. }
        | TaskKind::AwaitRunning { .. }
        | TaskKind::AwaitResized { .. }
        | TaskKind::AwaitIncoming { .. }
        | TaskKind::AwaitSent { .. }
        | TaskKind::HandOver { .. }
        | TaskKind::Stop { .. }
        | TaskKind::AwaitEnded { .. }
        | TaskKind::Delete { .. } => None,
    }
}
