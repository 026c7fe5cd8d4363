//! A run as it is stored: data only, complete enough that any engine can go on from it.
//!
//! Decides the form on disk and how it is shown. When it changes is [`crate::run`]'s, where it is
//! kept the conductor's.

use std::fmt;

use planner::{Level, Report, Setback};
use protocol::api::{NewRun, RunState, RunStatus, TaskState, TaskStatus, Want};
use protocol::id::{JobId, RunId, TenantId};
use protocol::refusal::Refusal;
use protocol::ticket::{DenialReason, HoldAt};
use protocol::view::View;
use serde::{Deserialize, Serialize};

use crate::task::{TaskKind, TaskResult};

/// The form of [`RunRecord`]; a record of a later form is left alone, loudly.
pub const RECORD_VERSION: u32 = 1;

/// One run with its tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// See [`RECORD_VERSION`].
    pub version: u32,
    /// Its id, chosen by who asked.
    pub id: RunId,
    /// What is wanted.
    pub want: Want,
    /// Whether other jobs may be moved where that makes it fit.
    #[serde(default)]
    pub make_room: bool,
    /// Whether it waits for room rather than have anybody stopped who is preemptible.
    #[serde(default)]
    pub yields: bool,
    /// Why, where it is for another's sake.
    #[serde(default)]
    pub because: Option<String>,
    /// Whose jobs alone it may be about: a user of this tenant has asked for it.
    #[serde(default)]
    pub tenant: Option<TenantId>,
    /// How much it matters, where a plan of this scheduler's own has found it: a move may break what matters less
    /// for the time that the rest takes. What somebody asks for by name breaks nothing.
    #[serde(default)]
    pub level: Option<Level>,
    /// Where it is.
    pub state: RunState,
    /// The engine's claim; grows with each engine that takes the run up.
    pub claim: u64,
    /// When it was accepted, for people.
    pub accepted_ms: u64,
    /// Plans made.
    pub rounds: u32,
    /// Plans made in a row without anything coming of them.
    pub rounds_idle: u32,
    /// Index of the first task of the present plan.
    pub round_start: usize,
    /// Whether the present round has its plan.
    pub is_planned: bool,
    /// Offers of this round that ended before they could be redeemed.
    pub offers_over: u32,
    /// Every task of every round.
    pub tasks: Vec<TaskRecord>,
    /// What hosts have refused or failed at.
    pub setbacks: Vec<Setback>,
    /// Why it is being undone, or has ended.
    pub cause: Option<Cause>,
}

/// One task of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// What to do.
    pub kind: TaskKind,
    /// Where it is.
    pub state: TaskState,
    /// What came of it, for the tasks after it.
    pub result: Option<TaskResult>,
    /// True once a request of it may have had an effect without our knowing.
    pub is_ambiguous: bool,
    /// What came of it or what it waits for, for people.
    pub note: Option<String>,
    /// True when the host has said that it could not start the guest.
    #[serde(default)]
    pub never_ran: bool,
}

/// Why a run turned back or ended short of what was wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    /// The planner knows no way.
    Unmet {
        /// Why, per host.
        report: Report,
    },
    /// A host said no.
    Refused {
        /// In these words.
        no: Refusal,
    },
    /// The arbiters said no.
    Denied {
        /// Each one's slot and words.
        denials: Vec<(u32, DenialReason)>,
    },
    /// Too few arbiters answered, or too few could say yes yet.
    NoQuorum {
        /// How many grants there were, and what the others said.
        message: String,
    },
    /// A host said yes and could not do it.
    Failed {
        /// What it said.
        message: String,
    },
    /// Somebody has had the job stopped or saved once this run had put it on a host.
    EndedByCommand {
        /// What its host says of it.
        message: String,
    },
    /// Nobody answered in time.
    TimedOut {
        /// What was tried, and for how long.
        message: String,
    },
    /// Hosts kept refusing.
    GaveUp {
        /// After so many plans.
        rounds: u32,
        /// The last reason.
        last: Box<Cause>,
    },
    /// Somebody wants it no more.
    Cancelled,
    /// A task can be neither done nor undone.
    Stuck {
        /// The task's number.
        task: u32,
        /// What it was to do.
        title: String,
        /// Why it cannot.
        why: String,
    },
}

impl RunRecord {
    /// A run nobody has begun.
    #[must_use]
    pub fn new(asked: NewRun, accepted_ms: u64) -> Self {
        Self {
            version: RECORD_VERSION,
            id: asked.id,
            want: asked.want,
            make_room: asked.make_room,
            yields: asked.yields,
            because: asked.because,
            tenant: None,
            level: None,
            state: RunState::Accepted,
            claim: 1,
            accepted_ms,
            rounds: 0,
            rounds_idle: 0,
            round_start: 0,
            is_planned: false,
            offers_over: 0,
            tasks: Vec::new(),
            setbacks: Vec::new(),
            cause: None,
        }
    }

    /// Why whoever has asked for it may not have it done to the job as it is seen now, if so: a name may have
    /// become another tenant's since.
    #[must_use]
    pub fn objection(&self, view: &View) -> Option<String> {
        let tenant = self.tenant.as_ref()?;
        let (_, other) = view.job(self.job()).find(|(_, row)| row.spec.tenant != *tenant)?;
        let (job, whose) = (self.job(), &other.spec.tenant);
        Some(format!(
            "{job} is tenant {whose}'s by now, and was asked for by one of tenant {tenant}"
        ))
    }

    /// The job it is about; one active run a job.
    #[must_use]
    pub fn job(&self) -> &JobId {
        self.want.job()
    }

    /// The last hold under which a host could not start the job. One under which it may have run is not meant:
    /// somebody may have stopped or deleted it since, and that stays so.
    #[must_use]
    pub fn held_in_vain(&self) -> Option<HoldAt> {
        if self.state == RunState::Succeeded {
            return None;
        }
        let failed_at = self.tasks.iter().rposition(|task| task.never_ran)?;
        let failed_on = self.tasks[failed_at].kind.host()?;
        self.tasks[..failed_at].iter().rev().find_map(|task| {
            let TaskKind::Put { host, ticket: Some((offer, _)), .. } = &task.kind else {
                return None;
            };
            if host != failed_on {
                return None;
            }
            match &self.tasks.get(*offer)?.result {
                Some(TaskResult::Offer { offer }) => {
                    Some(HoldAt { host: host.clone(), hold: offer.open().ok()?.id })
                }
                _ => None,
            }
        })
    }

    /// As people see it.
    #[must_use]
    pub fn status(&self) -> RunStatus {
        let number = |i: usize| u32::try_from(i).unwrap_or(u32::MAX);
        let task = |(i, task): (usize, &TaskRecord)| TaskStatus {
            number: number(i),
            title: task.kind.title(self.job()),
            state: task.state,
            note: task.note.clone(),
        };
        let reason = match self.state {
            RunState::Succeeded => None,
            RunState::Accepted
            | RunState::Running
            | RunState::Unwinding
            | RunState::RolledBack
            | RunState::Stuck => self.cause.as_ref().map(Cause::to_string),
        };
        RunStatus {
            id: self.id,
            want: self.want.clone(),
            because: self.because.clone(),
            state: self.state,
            reason,
            rounds: self.rounds,
            tasks: self.tasks.iter().enumerate().map(task).collect(),
            accepted_ms: self.accepted_ms,
        }
    }
}

impl TaskRecord {
    /// A task that has not begun.
    #[must_use]
    pub fn new(kind: TaskKind) -> Self {
        Self {
            kind,
            state: TaskState::Pending,
            result: None,
            is_ambiguous: false,
            note: None,
            never_ran: false,
        }
    }
}

impl Cause {
    /// The word for it, first in every reason shown.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Cause::Unmet { .. } => "unmet",
            Cause::Refused { .. } => "refused",
            Cause::Denied { .. } => "denied",
            Cause::NoQuorum { .. } => "no-quorum",
            Cause::Failed { .. } => "failed",
            Cause::EndedByCommand { .. } => "ended-by-command",
            Cause::TimedOut { .. } => "timed-out",
            Cause::GaveUp { .. } => "gave-up",
            Cause::Cancelled => "cancelled",
            Cause::Stuck { .. } => "stuck",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name())?;
        match self {
            Cause::Unmet { report } => report.fmt(f),
            Cause::Refused { no } => no.fmt(f),
            Cause::Denied { denials } => {
                for (i, (slot, why)) in denials.iter().enumerate() {
                    let gap = if i > 0 { "; " } else { "" };
                    write!(f, "{gap}arbiter {slot}: {why}")?;
                }
                Ok(())
            }
            Cause::NoQuorum { message }
            | Cause::Failed { message }
            | Cause::EndedByCommand { message }
            | Cause::TimedOut { message } => f.write_str(message),
            Cause::Cancelled => f.write_str("somebody wanted it no more"),
            Cause::GaveUp { rounds, last } => write!(f, "after {rounds} plans; {last}"),
            Cause::Stuck { task, title, why } => {
                write!(f, "task {task} ({title}) can be neither done nor undone: {why}")
            }
        }
    }
}
