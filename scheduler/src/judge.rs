//! What rows, denials and plans mean to a run: the pure parts of executor and engine.

use planner::{Expectation, Fetch, Outcome, PlanInput, Standing, State, whereabouts};
use protocol::id::{HostId, Revision};
use protocol::image::{FetchState, FetchTrouble, ImageStatus};
use protocol::job::{Job, JobState, Migration, Reason, ResizeStage, RunKey};
use protocol::refusal::Refusal;
use protocol::resources::Resources;
use protocol::signed::Signed;
use protocol::ticket::{Action, DenialReason, Offer, TicketError};
use protocol::vm::SizeChange;

use crate::run::{Answer, No};
use crate::task::TaskResult;

/// Whether the image is on the host, or will not come.
#[must_use]
pub fn fetched(status: &ImageStatus, fetch: &Fetch) -> Option<Answer> {
    if let Some(facts) = &status.facts {
        if facts.sha256 == fetch.facts.sha256 {
            return Some(Answer::Done(TaskResult::Done));
        }
        let (image, found) = (&fetch.image, facts.sha256);
        return Some(failed(&format!("it has another image {image}, with sha256 {found}")));
    }
    match &status.fetch {
        Some(FetchState::Failed {
            why: FetchTrouble::NoSpace { needed_bytes, free, capacity },
        }) => {
            let asked = Resources { disk_bytes: *needed_bytes, ..Resources::ZERO };
            let no = Refusal::NoCapacity { asked, free: *free, capacity: *capacity };
            Some(refused(no))
        }
        Some(FetchState::Failed { why }) => Some(failed(&format!("image {}: {why}", fetch.image))),
        Some(FetchState::Waiting | FetchState::Fetching { .. } | FetchState::Checking) | None => {
            None
        }
    }
}

/// Whether the job runs in at least this revision; a job that has ended never will.
#[must_use]
pub fn running(job: Option<&Job>, revision: Revision) -> Option<Answer> {
    let Some(job) = job else { return Some(failed("the host has no such job any more")) };
    match job.state {
        JobState::Running | JobState::Paused if job.revision >= revision => {
            Some(Answer::Done(TaskResult::Done))
        }
        // It was quicker than we.
        JobState::Stopped if job.spec.as_one_off().is_some() && job.revision >= revision => {
            Some(Answer::Done(TaskResult::Done))
        }
        JobState::Stopped | JobState::Failed | JobState::Crashed => {
            let why = job.reason.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            let words = format!("the job is {}{why}", job.state);
            let never_ran = job.state == JobState::Failed && job.revision == revision;
            Some(Answer::Refused(match &job.reason {
                _ if never_ran => No::NotStarted(words),
                Some(Reason::Requested | Reason::Saved) => No::EndedByCommand(words),
                _ => No::Failed(words),
            }))
        }
        JobState::Accepted
        | JobState::Starting
        | JobState::Running
        | JobState::Paused
        | JobState::MigratingIn
        | JobState::MigratingOut
        | JobState::Stopping => None,
    }
}

/// Whether the job has come to run in at least this revision.
#[must_use]
pub fn is_up(job: &Job, revision: Revision) -> bool {
    matches!(running(Some(job), revision), Some(Answer::Done(_)))
}

/// Whether the host is through with another size for the job. What waits for its next start is not
/// waited for: it is promised, and so it is done.
#[must_use]
pub fn resized(job: Option<&Job>, revision: Revision, size: &SizeChange) -> Option<Answer> {
    let Some(job) = job else { return Some(failed("the host has no such job any more")) };
    if job.revision < revision {
        return None;
    }
    if job.resize.as_ref().is_some_and(|resize| resize.stage == ResizeStage::Changing) {
        return None;
    }
    let is_asked = job.spec.is_sized(&job.id, size);
    if is_asked || job.revision > revision {
        return Some(Answer::Done(TaskResult::Done));
    }
    let why = job.reason.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    Some(failed(&format!("the job has its old size{why}")))
}

/// Whether the target listens, and where.
#[must_use]
pub fn incoming(job: Option<&Job>) -> Option<Answer> {
    let Some(job) = job else { return Some(failed("the host has no such job any more")) };
    if let Some(Migration::Incoming { url, .. }) = job.migration.as_deref() {
        if url.is_empty() {
            return Some(failed(
                "the target's agent is of an older version, which no guest can be sent to: update it",
            ));
        }
        let (hold, url) = (job.hold, url.clone());
        return Some(Answer::Done(TaskResult::Incoming { hold, url }));
    }
    if job.state.is_ended() {
        let why = job.reason.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        return Some(failed(&format!("the job is {}{why}", job.state)));
    }
    None
}

/// Whether the source has let go, and its word for it.
#[must_use]
pub fn sent(job: Option<&Job>, to: &HostId) -> Option<Answer> {
    let Some(job) = job else { return Some(failed("the host has no such job any more")) };
    if has_moved_to(job, to) {
        let handoff = match job.migration.as_deref() {
            Some(Migration::Outgoing { handoff, .. }) => handoff.clone(),
            Some(Migration::Incoming { .. }) | None => None,
        };
        return Some(Answer::Done(TaskResult::Sent { handoff }));
    }
    match (&job.reason, job.state) {
        (_, JobState::MigratingOut) => None,
        (Some(why @ (Reason::MigrationFailed { .. } | Reason::MigrationCancelled)), _) => {
            Some(failed(&why.to_string()))
        }
        (_, state) => Some(failed(&format!("the job is {state} and not on its way"))),
    }
}

/// Whether nothing of the job runs.
#[must_use]
pub fn ended(job: Option<&Job>) -> Option<Answer> {
    let is_over = job.is_none_or(|job| job.state.is_ended());
    is_over.then_some(Answer::Done(TaskResult::Done))
}

/// Whether it has ended here because it moved there.
#[must_use]
pub fn has_moved_to(job: &Job, to: &HostId) -> bool {
    job.state.is_ended()
        && matches!(&job.reason, Some(Reason::Migrated { to: there }) if there == to)
}

/// Whether it is on its way there, or has arrived.
#[must_use]
pub fn is_going_to(job: &Job, to: &HostId) -> bool {
    let is_outgoing = matches!(job.migration.as_deref(), Some(Migration::Outgoing { to: there, .. }) if there == to);
    (job.state == JobState::MigratingOut && is_outgoing) || has_moved_to(job, to)
}

/// Whether this very task has asked for the last change.
#[must_use]
pub fn is_ours(job: &Job, key: RunKey) -> bool {
    job.run.is_some_and(|run| run.run == key.run && run.task == key.task)
}

/// How far it is, in words.
#[must_use]
pub fn progress_words(job: Option<&Job>) -> String {
    match job {
        None => "the host does not have it yet".to_owned(),
        Some(job) => match job.migration.as_deref() {
            // MiB, because what moves at all has then another note after a second.
            Some(Migration::Outgoing { moved_bytes, total_bytes, memory, .. })
                if *total_bytes > 0 =>
            {
                let (moved, total) = (moved_bytes >> 20, total_bytes.div_ceil(1 << 20));
                let memory = memory.map(|passes| format!("; {passes}")).unwrap_or_default();
                format!("{}: {moved} of {total} MiB moved{memory}", job.state)
            }
            Some(Migration::Outgoing { .. } | Migration::Incoming { .. }) | None => {
                let resize = job.resize_words().map(|words| format!(": {words}"));
                format!("{}{}", job.state, resize.unwrap_or_default())
            }
        },
    }
}

/// Whether the ticket's time is over, without effect: the same may be asked with another.
#[must_use]
pub fn is_over(error: &TicketError) -> bool {
    matches!(
        error,
        TicketError::OfferEnded { .. }
            | TicketError::OfferUnknown { .. }
            | TicketError::OfferUsed { .. }
            | TicketError::TicketOfOtherTrust { .. }
            // Whoever asked did not know yet that there are witnesses.
            | TicketError::TicketWithoutWitnesses { .. }
    )
}

/// Whether a job that was to be started in place of a lost hold has been promised to somebody else
/// since: another scheduler was first, and nobody has to wait for that to pass.
#[must_use]
pub fn is_taken_over(offer: &Signed<Offer>, why: &DenialReason) -> bool {
    let DenialReason::Promised { host, .. } = why else { return false };
    let asked = offer.open().map(|offer| offer.action);
    matches!(asked, Ok(Action::FailOver { from, .. }) if from != *host)
}

/// How long a run waits for a start to be left of a tenant's rate: less than its offers last in a row. Whoever has
/// to wait for longer is told when, and asks again then.
const RATE_WAIT_MS_MAX: u64 = 20_000;

/// A no that asking again within the patience of a run will not change.
#[must_use]
pub fn is_firm(why: &DenialReason) -> bool {
    match why {
        DenialReason::Rate { for_ms, .. } => for_ms.is_none_or(|for_ms| for_ms > RATE_WAIT_MS_MAX),
        DenialReason::Quota { .. }
        | DenialReason::Window { .. }
        | DenialReason::Policy { .. }
        | DenialReason::NotTheLast { .. } => true,
        DenialReason::Silent { .. }
        | DenialReason::Rebuilding { .. }
        | DenialReason::OtherTrust { .. }
        | DenialReason::Promised { .. }
        | DenialReason::OfferEnded { .. } => false,
    }
}

/// Where the job is seen to be as it is wanted.
#[must_use]
pub fn met_at(
    input: &PlanInput,
    outcome: &Outcome,
    state: &State<'_>,
) -> Option<(HostId, Revision)> {
    let expectation = input.expectations.first()?;
    if !outcome.plan.steps.is_empty() || expectation.standing(state) != Standing::Met {
        return None;
    }
    let rows = state.placements(expectation.job());
    let runs = |s: JobState| matches!(s, JobState::Running | JobState::Paused);
    let found = match expectation {
        Expectation::Runs { .. } | Expectation::RunsOn { .. } => {
            rows.iter().find(|(_, placed)| runs(placed.state))
        }
        Expectation::HasSize { .. } => whereabouts(&rows),
        Expectation::IsStopped { .. } | Expectation::Absent { .. } => None,
    };
    found.map(|(host, placed)| (host.clone(), placed.revision))
}

pub(crate) fn refused(no: Refusal) -> Answer {
    match no {
        Refusal::StaleClaim { seen, .. } => Answer::ClaimLost { seen },
        no => Answer::Refused(No::Host(no, Resources::ZERO)),
    }
}

fn failed(why: &str) -> Answer {
    Answer::Refused(No::Failed(why.to_owned()))
}

#[cfg(test)]
mod tests {
    use protocol::job::JobSpec;
    use protocol::vm::VmSpec;

    use super::*;

    /// What may have run is somebody's to stop or to delete, and no try of ours brings it back.
    #[test]
    fn only_what_its_host_could_not_start_has_been_held_in_vain() {
        let job = |state| Job::of("web".parse().unwrap(), JobSpec::vm(VmSpec::default()), state);
        let says = |job: Option<&Job>| running(job, job.map_or(Revision(1), |job| job.revision));
        let by = |reason| Job { reason: Some(reason), ..job(JobState::Stopped) };
        for command in [Reason::Requested, Reason::Saved] {
            assert!(matches!(
                says(Some(&by(command))),
                Some(Answer::Refused(No::EndedByCommand(_)))
            ));
        }
        let by_itself = by(Reason::GuestShutdown);
        assert!(matches!(says(Some(&by_itself)), Some(Answer::Refused(No::Failed(_)))));
        let failed = job(JobState::Failed);
        assert!(matches!(says(Some(&failed)), Some(Answer::Refused(No::NotStarted(_)))));
        for state in [JobState::Stopped, JobState::Crashed] {
            assert!(matches!(says(Some(&job(state))), Some(Answer::Refused(No::Failed(_)))));
        }
        assert!(matches!(says(None), Some(Answer::Refused(No::Failed(_)))), "deleted since");
    }
}
