//! `ostler fence`: an operator says that a host is off, and what it ran is started elsewhere though the host
//! may come back.
//!
//! It is a line of the next trust document, so nothing forgets it. Decides who may be said to be off, and that
//! the person keeps the host off until a quorum of arbiters has heard: a host that boots before that may start
//! what it held. What follows is the arbiters', the controllers' and the host's own.

use protocol::id::{HostId, JobId};
use protocol::trust::{Fence, Trust};
use protocol::view::{Freshness, HostRow};
use protocol::vm::OnLoss;
use serde_json::json;
use transport::Clock;

use super::retire::{check_arbiters, names};
use crate::cli::FenceArgs;
use crate::exit::{Code, Failure};
use crate::govern::Authority;
use crate::picture::Picture;
use crate::session::Session;
use crate::show;

/// See the module.
pub(crate) async fn run(session: &Session, args: FenceArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let Some(text) = &args.host else { return list(session, &picture).await };
    let authority = Authority::newest(session, &picture).await?;
    let row = picture.host(text)?;
    let name = row.host.name.clone();
    check_silent(&picture, row, args.is_off)?;
    check_arbiters(&authority.trust, row)?;
    let fate = Fate::of(row);
    let next = with_fence(&authority, row, &args.reason);
    let (version, host) = (next.version, row.host.id.clone());
    if !session.is_json {
        show::note(&format!("keep {name} off until this command has ended"));
    }
    let silent = authority.decree(session, &picture, next).await.inspect_err(|_| {
        show::note(&format!(
            "keep {name} off: what it held is not surely taken from it yet; say it again"
        ));
    })?;
    if session.is_json {
        let Fate { elsewhere, waiting, over } = &fate;
        show::json_pretty(&json!({ "host": host, "trust_version": version,
            "elsewhere": elsewhere, "waiting": waiting, "over": over, "not_told": silent }));
        return Ok(Code::Ok);
    }
    show::note(&format!(
        "{name} is off by trust version {version}; it may be turned on again, and starts nothing that it \
         held before it has heard of this"
    ));
    fate.tell(&name);
    Ok(Code::Ok)
}

/// What becomes of the VMs that were alive on the host.
struct Fate {
    elsewhere: Vec<JobId>,
    waiting: Vec<JobId>,
    over: Vec<JobId>,
}

impl Fate {
    fn of(row: &HostRow) -> Self {
        let mut fate = Self { elsewhere: vec![], waiting: vec![], over: vec![] };
        for job in row.jobs.values().filter(|job| !job.state.is_ended()) {
            let Some(vm) = job.spec.as_vm() else { continue };
            let of = if job.spec.as_one_off().is_some() {
                &mut fate.over
            } else if vm.is_bound_to(&row.host) && vm.on_loss == OnLoss::Keep {
                &mut fate.waiting
            } else {
                &mut fate.elsewhere
            };
            of.push(job.id.clone());
        }
        fate
    }

    fn tell(&self, host: &str) {
        let names = |jobs: &[JobId]| jobs.iter().map(JobId::as_str).collect::<Vec<_>>().join(", ");
        if !self.elsewhere.is_empty() {
            let jobs = names(&self.elsewhere);
            show::note(&format!("controllers start elsewhere: {jobs}; `ostler ps` shows it"));
        }
        if !self.waiting.is_empty() {
            let jobs = names(&self.waiting);
            show::note(&format!("wait for {host}, where their disks are: {jobs}"));
        }
        if !self.over.is_empty() {
            let jobs = names(&self.over);
            show::note(&format!("one-off jobs are not begun a second time: {jobs}"));
        }
    }
}

/// The next document, with the word of this operator.
fn with_fence(authority: &Authority, row: &HostRow, reason: &str) -> Trust {
    let mut next = authority.trust.clone();
    next.version += 1;
    next.fenced.retain(|fence| fence.host != row.host.key);
    next.fenced.push(Fence {
        host: row.host.key,
        since: next.version,
        by: authority.key(),
        at_ms: Clock::real().now().wall_ms,
        reason: reason.to_owned(),
    });
    next
}

/// Who is heard is on; and only a person knows of anybody else.
fn check_silent(picture: &Picture, row: &HostRow, is_off: bool) -> Result<(), Failure> {
    let known = picture.rows.iter().find(|known| known.host == row.host.id);
    let (freshness, age_ms) =
        known.map_or((Freshness::Lost, 0), |known| (known.freshness, known.age_ms));
    let name = &row.host.name;
    match freshness {
        Freshness::Fresh => {
            let what = format!("{name} is heard, so it is on");
            Err(Failure::new(Code::Refused, what)
                .next(format!("ostler drain {name}, if its VMs are to leave it")))
        }
        Freshness::Stale | Freshness::Lost if is_off => Ok(()),
        Freshness::Stale | Freshness::Lost => {
            let alive = super::retire::guests(row);
            let alive = names(alive.iter().filter(|guest| guest.is_alive()));
            let ran = match alive.as_str() {
                "" => String::new(),
                some => format!("; alive there then: {some}"),
            };
            let what = format!("{name} has not been heard for {}{ran}", show::age(age_ms));
            Err(Failure::new(Code::Refused, what).next(
                "whatever it still runs could run twice: see that it is off, keep it off until the \
                 command has ended, and say so with --is-off",
            ))
        }
    }
}

/// What was ever said, and whether the host has heard of it.
async fn list(session: &Session, picture: &Picture) -> Result<Code, Failure> {
    let trust = session.trust.as_ref();
    let fences = trust.map(|trust| trust.fenced.as_slice()).unwrap_or_default();
    if session.is_json {
        show::json_pretty(&json!({ "fences": fences }));
        return Ok(Code::Ok);
    }
    let cells = |fence: &Fence| {
        let id = HostId::of(&fence.host);
        let row = picture.view.host(&id);
        let name = row.map_or_else(|| id.short().to_owned(), |row| row.host.name.clone());
        let obeyed = row.and_then(|row| row.host.trust_version);
        let state = if obeyed.unwrap_or(0) < fence.since { "off" } else { "has been back" };
        let by = fence.by.to_string().chars().take(8).collect();
        [name, state.to_owned(), show::moment(fence.at_ms), by, fence.reason.clone()]
    };
    let rows = fences.iter().map(cells).collect();
    show::table(["HOST", "STATE", "SAID", "BY", "REASON"], rows);
    Ok(Code::Ok)
}
