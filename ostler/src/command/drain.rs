//! `ostler drain` and `ostler undrain`: a host is emptied for maintenance, and taken into use again.
//!
//! The host itself is told, and says so to everybody; a controller moves its guests away. What is
//! watched here is the view, so that watching can end and begin anew at any time.

use std::sync::Arc;
use std::time::Duration;

use planner::case::{Record, Wanted, case};
use planner::{Clause, Intent, Limits, UnmetReason};
use protocol::api::PutIntent;
use protocol::host::HostIntent;
use protocol::id::{HostId, JobId};
use protocol::job::{Job, JobState, Role};
use protocol::trust::Policy;
use protocol::view::Freshness;
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::json;
use transport::{Clock, Method};

use super::expect::rules;
use super::plan;
use crate::cli::{DrainArgs, UndrainArgs};
use crate::exit::{Code, Failure};
use crate::picture::Picture;
use crate::session::Session;
use crate::show;

/// How often the view is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How long nothing may move, while nothing can, before that is said and the watching ends: longer
/// than a controller rests after a first failure.
const STANDSTILL_MS_MAX: u64 = 8_000;

/// How long a host that is to sleep may take to be emptied.
const EMPTY_MS_MAX: u64 = 24 * 3_600_000;

/// Where a guest of the host is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Guest {
    job: JobId,
    state: JobState,
    /// Why it cannot leave, with what would help.
    #[serde(skip_serializing_if = "Option::is_none")]
    cannot_leave: Option<String>,
}

/// See the module.
pub(crate) async fn drain(session: &Session, args: DrainArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let row = picture.host(&args.host)?;
    let (id, name) = (row.host.id.clone(), row.host.name.clone());
    if args.dry_run {
        let rules = rules(session).await;
        return Ok(rehearse(session, &picture, &id, &rules));
    }
    let was_so = row.host.intent == Some(HostIntent::Drain);
    intend(session, &picture, &id, Some(HostIntent::Drain)).await?;
    let words = if was_so { "takes nothing new already" } else { "takes nothing new from now on" };
    show::note(&format!("{name} {words}"));
    if session.is_without_controller() || session.peers(Role::Controller).is_empty() {
        let what = "no controller is known, so nobody moves its guests: migrate or stop them";
        show::note(what);
        return Ok(Code::Ok);
    }
    if args.no_wait {
        return Ok(Code::Ok);
    }
    let _ = session.learn_names().await;
    tokio::select! {
        ended = watch(session, &id, &name, Watch { timeout_ms: args.timeout.0, is_part: false }) => ended,
        _ = tokio::signal::ctrl_c() => {
            show::note(&format!("{name} is being drained still; see `ostler hosts` and `ostler runs`"));
            Ok(Code::Interrupted)
        }
    }
}

/// Drains a host, and watches until it is empty or cannot be.
pub(crate) async fn empty(
    session: &Session,
    picture: &Picture,
    id: &HostId,
) -> Result<Code, Failure> {
    let name = picture.view.host(id).map_or(id.short(), |row| &row.host.name).to_owned();
    intend(session, picture, id, Some(HostIntent::Drain)).await?;
    show::note(&format!("{name} takes nothing new from now on"));
    let _ = session.learn_names().await;
    tokio::select! {
        ended = watch(session, id, &name, Watch { timeout_ms: EMPTY_MS_MAX, is_part: true }) => ended,
        _ = tokio::signal::ctrl_c() => {
            show::note(&format!("{name} is being drained still, and stays awake: `ostler undrain` ends that"));
            Ok(Code::Interrupted)
        }
    }
}

/// See the module.
pub(crate) async fn undrain(session: &Session, args: UndrainArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let row = picture.host(&args.host)?;
    let (id, name) = (&row.host.id, &row.host.name);
    intend(session, &picture, id, None).await?;
    show::note(&format!("{name} takes what fits; guests that have left stay where they are"));
    Ok(Code::Ok)
}

/// Tells the host what is intended with it.
pub(crate) async fn intend(
    session: &Session,
    picture: &Picture,
    id: &HostId,
    intent: Option<HostIntent>,
) -> Result<(), Failure> {
    check_heard(picture, id)?;
    let (agent, path) = (picture.agent(id), "/v1/config/intent");
    let client = &session.client;
    let told = match intent {
        Some(intent) => {
            let body = PutIntent { intent };
            client.send::<_, Option<IgnoredAny>>(Method::PUT, &agent, path, &body).await
        }
        None => client.send::<_, Option<IgnoredAny>>(Method::DELETE, &agent, path, &()).await,
    };
    told?;
    session.await_shown(id, |host| host.intent == intent).await;
    Ok(())
}

/// A host that does not answer can't be emptied: guests leave it by its own help.
fn check_heard(picture: &Picture, id: &HostId) -> Result<(), Failure> {
    let row = picture.rows.iter().find(|row| row.host == *id);
    let Some(row) = row.filter(|row| row.freshness == Freshness::Lost) else { return Ok(()) };
    let name = picture.view.host(id).map_or(id.as_str(), |known| &known.host.name);
    if picture.asleep.contains_key(id) {
        let what = format!("{name} is asleep");
        return Err(Failure::new(Code::Unreachable, what).next(format!("ostler power {name} on")));
    }
    let what = format!("{name} has not been heard for {}", show::age(row.age_ms));
    Err(Failure::new(Code::Unreachable, what).next("its guests can leave it only when it answers"))
}

/// What would be done, and what cannot; exits with 1 when something cannot leave.
fn rehearse(session: &Session, picture: &Picture, id: &HostId, rules: &[Clause]) -> Code {
    let record = planned(picture, id, rules, session.policy());
    plan::tell(session.is_json, &record);
    let is_stuck = !record.outcome.report.unmet.is_empty();
    if is_stuck { Code::Failed } else { Code::Ok }
}

/// What emptying the host takes, and what cannot leave it.
pub(crate) fn planned(
    picture: &Picture,
    id: &HostId,
    rules: &[Clause],
    policy: Arc<Policy>,
) -> Record {
    let heard = plan::heard_of(picture);
    let (mut input, _) = case(picture.view.clone(), heard, Wanted::default());
    plan::lay_asleep(&mut input, &picture.asleep);
    input.intents.insert(id.clone(), Intent::Drain);
    // As a controller does: it moves the guests of this host, and no others to make room for them.
    input.limits = Limits { tends_hosts: true, mends_rules: false, ..Limits::default() };
    input.clauses = rules.to_vec();
    input.policy = policy;
    Record::make(input, vec![])
}

/// How to watch.
#[derive(Clone, Copy)]
struct Watch {
    timeout_ms: u64,
    /// Whether more comes after it, which has the last word.
    is_part: bool,
}

/// Watches until the host is empty, until nothing can move, or until the time is over.
async fn watch(
    session: &Session,
    id: &HostId,
    name: &str,
    Watch { timeout_ms, is_part }: Watch,
) -> Result<Code, Failure> {
    let conclude = |session: &Session, id: &HostId, state: &str, guests: &[Guest]| {
        if !is_part {
            conclude(session, id, state, guests);
        }
    };
    let clock = Clock::real();
    let began_ms = clock.now().mono_ms;
    let rules = rules(session).await;
    let mut shown: Vec<Guest> = Vec::new();
    let mut moved_ms = began_ms;
    loop {
        let picture = session.picture().await?;
        let now_ms = clock.now().mono_ms;
        let guests = guests(session, &picture, id, &rules)?;
        if guests != shown {
            tell_change(session, &picture, &shown, &guests);
            (shown, moved_ms) = (guests, now_ms);
        }
        let took_ms = now_ms.saturating_sub(began_ms);
        if shown.is_empty() {
            conclude(session, id, "drained", &shown);
            show::note(&format!("{name} is drained {}", show::took(took_ms)));
            let stay = staying(&picture, id);
            if !stay.is_empty() {
                show::note(&format!("stopped VMs stay there, with their disks: {stay}"));
            }
            return Ok(Code::Ok);
        }
        let stands_still = shown.iter().all(|guest| guest.cannot_leave.is_some());
        if stands_still && now_ms.saturating_sub(moved_ms) > STANDSTILL_MS_MAX {
            conclude(session, id, "draining", &shown);
            return Err(cannot_leave(name, &shown));
        }
        if took_ms > timeout_ms {
            conclude(session, id, "draining", &shown);
            let left: Vec<&str> = shown.iter().map(|guest| guest.job.as_str()).collect();
            let what = format!("{name} still has {} after {}", left.join(", "), show::age(took_ms));
            return Err(Failure::new(Code::Unreachable, what)
                .next("it goes on by itself: ostler runs; ostler hosts"));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// The guests alive on the host; each with why it cannot leave, unless it is leaving.
fn guests(
    session: &Session,
    picture: &Picture,
    id: &HostId,
    rules: &[Clause],
) -> Result<Vec<Guest>, Failure> {
    let gone = || Failure::new(Code::NotFound, format!("host {id} is in the view no more"));
    let row = picture.view.host(id).ok_or_else(gone)?;
    let alive =
        row.jobs.iter().filter(|(_, job)| !job.state.is_ended() && job.spec.as_vm().is_some());
    let alive: Vec<_> = alive.map(|(job, row)| (job.clone(), row.state)).collect();
    if alive.is_empty() {
        return Ok(vec![]);
    }
    let record = planned(picture, id, rules, session.policy());
    let why = |job: &JobId| {
        let unmet = record.outcome.report.unmet.iter();
        let mut its = unmet.filter(|unmet| unmet.job == *job);
        its.find(|unmet| matches!(unmet.reason, UnmetReason::CannotLeave { .. }))
    };
    let guest = |(job, state): (JobId, JobState)| {
        let is_leaving = state == JobState::MigratingOut;
        let cannot_leave = why(&job).filter(|_| !is_leaving).map(ToString::to_string);
        Guest { job, state, cannot_leave }
    };
    Ok(alive.into_iter().map(guest).collect())
}

/// The VMs that are not alive and have disks on the host.
pub(crate) fn staying(picture: &Picture, id: &HostId) -> String {
    let jobs = picture.view.host(id).into_iter().flat_map(|row| row.jobs.values());
    let has_disks = |job: &&Arc<Job>| job.spec.as_vm().is_some_and(|vm| !vm.disks.is_empty());
    let stay = jobs.filter(|job| job.state.is_ended()).filter(has_disks);
    stay.map(|job| job.id.as_str()).collect::<Vec<_>>().join(", ")
}

fn tell_change(session: &Session, picture: &Picture, before: &[Guest], now: &[Guest]) {
    if session.is_json {
        return;
    }
    for guest in now.iter().filter(|guest| !before.contains(guest)) {
        match &guest.cannot_leave {
            Some(why) => show::line(&session.with_names(why)),
            None if guest.state == JobState::MigratingOut => {
                show::line(&format!("{} is leaving", guest.job));
            }
            None => show::line(&format!("{} is {}", guest.job, guest.state)),
        }
    }
    for guest in before.iter().filter(|guest| now.iter().all(|other| other.job != guest.job)) {
        match picture.job(&guest.job) {
            Ok(row) => {
                show::line(&format!("{} is {} on {}", guest.job, row.job.state, row.host_name));
            }
            Err(_) => show::line(&format!("{} is gone", guest.job)),
        }
    }
}

fn conclude(session: &Session, id: &HostId, state: &str, guests: &[Guest]) {
    if session.is_json {
        show::json_pretty(&json!({ "host": id, "state": state, "guests": guests }));
    }
}

fn cannot_leave(name: &str, guests: &[Guest]) -> Failure {
    let left: Vec<&str> = guests.iter().map(|guest| guest.job.as_str()).collect();
    let what = format!("{name} takes nothing new, but {} cannot leave it", left.join(", "));
    Failure::new(Code::Failed, what)
        .next("make room or stop them, and it goes on by itself; or `ostler undrain` to end it")
}
