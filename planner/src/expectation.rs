//! What is expected of one job, and how a state stands to it.
//!
//! Decides when an expectation is met, when it is on its way without our help, and when something
//! must be done. What can be done is the search's question.

use protocol::api::Want;
use protocol::id::{HostId, JobId};
use protocol::job::{JobSpec, JobState};
use protocol::view::Freshness;
use protocol::vm::SizeChange;
use serde::{Deserialize, Serialize};

use crate::state::{Placed, State};

/// One clause of what is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "expect", rename_all = "snake_case")]
pub enum Expectation {
    /// The job runs, somewhere or on the named host.
    Runs {
        /// The job.
        job: JobId,
        /// What it is.
        spec: JobSpec,
        /// Only here, if given.
        #[serde(default)]
        on: Option<HostId>,
    },
    /// The job, which runs already, runs on this host.
    RunsOn {
        /// The job.
        job: JobId,
        /// The host.
        on: HostId,
    },
    /// The job, wherever it is, is asked for in this size, and what can be had of it is there.
    HasSize {
        /// The job.
        job: JobId,
        /// What of its size is to be so.
        size: SizeChange,
    },
    /// Nothing of the job runs; its disks stay.
    IsStopped {
        /// The job.
        job: JobId,
    },
    /// The job and its disks are gone.
    Absent {
        /// The job.
        job: JobId,
    },
}

impl Expectation {
    /// What is wanted of a job; none where it is of a host.
    #[must_use]
    pub fn of(want: &Want) -> Option<Self> {
        Some(match want.clone() {
            Want::Run { job, spec, on, .. } => Expectation::Runs { job, spec, on },
            Want::Spend { job, spec, on, .. } => Expectation::Runs { job, spec, on: Some(on) },
            Want::Migrate { job, to, .. } => Expectation::RunsOn { job, on: to },
            Want::Resize { job, size } => Expectation::HasSize { job, size },
            Want::Stop { job, .. } => Expectation::IsStopped { job },
            Want::Delete { job } => Expectation::Absent { job },
            Want::FailOver { job, spec, .. } => Expectation::Runs { job, spec, on: None },
            Want::Sleep { .. } | Want::Wake { .. } => return None,
        })
    }
}

/// How a state stands to an expectation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "standing", rename_all = "snake_case")]
pub enum Standing {
    /// It is so.
    Met,
    /// A host is at it already; waiting is enough.
    Coming {
        /// The host.
        host: HostId,
    },
    /// Steps are needed.
    Violated,
}

impl Expectation {
    /// The job it is about.
    #[must_use]
    pub fn job(&self) -> &JobId {
        match self {
            Expectation::Runs { job, .. }
            | Expectation::RunsOn { job, .. }
            | Expectation::HasSize { job, .. }
            | Expectation::IsStopped { job }
            | Expectation::Absent { job } => job,
        }
    }

    /// How this state stands to it.
    #[must_use]
    pub fn standing(&self, state: &State<'_>) -> Standing {
        let rows = state.placements(self.job());
        // What ran on a host that is lost may or may not run: that is not what was wanted.
        let seen = |host: &HostId| state.heard(host).freshness != Freshness::Lost;
        match self {
            Expectation::Runs { spec, on, .. } => {
                let fits = |host: &HostId, placed: &Placed| {
                    placed.spec.is_alike(spec)
                        && on.as_ref().is_none_or(|on| on == host)
                        && seen(host)
                };
                runs(rows.iter().filter(|(host, placed)| fits(host, placed)))
            }
            Expectation::RunsOn { on, .. } => {
                runs(rows.iter().filter(|(host, _)| *host == on && seen(host)))
            }
            Expectation::HasSize { job, size } => {
                let at = whereabouts(&rows).filter(|(host, placed)| {
                    placed.is_sized(job, size) && (placed.state.is_ended() || seen(host))
                });
                at.map_or(Standing::Violated, |_| Standing::Met)
            }
            // To stop what nobody has is more likely a slip of the pen than a wish.
            Expectation::IsStopped { .. } if rows.is_empty() => Standing::Violated,
            Expectation::IsStopped { .. } => ends(&rows, |placed| placed.state.is_ended()),
            Expectation::Absent { .. } => ends(&rows, |_| false),
        }
    }
}

fn runs<'a>(rows: impl Iterator<Item = (&'a HostId, &'a Placed)>) -> Standing {
    let mut coming = None;
    for (host, placed) in rows {
        match placed.state {
            JobState::Running | JobState::Paused => return Standing::Met,
            JobState::Accepted | JobState::Starting => coming = Some(host.clone()),
            JobState::MigratingIn
            | JobState::MigratingOut
            | JobState::Stopping
            | JobState::Stopped
            | JobState::Failed
            | JobState::Crashed => {}
        }
    }
    coming.map_or(Standing::Violated, |host| Standing::Coming { host })
}

/// Where a job is: where it is alive, else where it was last and may be started again.
#[must_use]
pub fn whereabouts(rows: &imbl::OrdMap<HostId, Placed>) -> Option<(&HostId, &Placed)> {
    let stays = rows.iter().filter(|(_, placed)| !placed.has_moved_away);
    stays.max_by_key(|(_, placed)| (!placed.state.is_ended(), placed.revision))
}

fn ends(rows: &imbl::OrdMap<HostId, Placed>, is_fine: impl Fn(&Placed) -> bool) -> Standing {
    if rows.values().all(is_fine) { Standing::Met } else { Standing::Violated }
}
