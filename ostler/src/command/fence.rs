//! `ostler fence`: a host is off, and what it ran is started elsewhere though the host may come back.
//!
//! It is a line of the next trust document, so nothing forgets it. Decides who may be said to be off: a host
//! whose power a controller has cut and whose devices say so, or one of which a person says so. And that it
//! stays off until a quorum of arbiters has heard: a host that boots before that may start what it held. What
//! follows is the arbiters', the controllers' and the host's own.

use protocol::id::{HostId, JobId};
use protocol::power::{PowerAction, PowerState};
use protocol::trust::{Fence, Trust};
use protocol::view::{Freshness, HostRow};
use protocol::vm::OnLoss;
use serde_json::json;
use transport::Clock;

use super::power::Switch;
use super::retire::{check_arbiters, names};
use crate::cli::FenceArgs;
use crate::exit::{Code, Failure};
use crate::govern::{Authority, in_force};
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
    check_silent(&picture, row)?;
    check_arbiters(&authority.trust, row)?;
    // The devices that say so; without them, a person does.
    let devices = match (args.is_off, args.cut_power) {
        (true, _) => None,
        (false, true) => Some(turn_off(session, &picture, row).await?),
        (false, false) => return Err(not_surely_off(session, &picture, row).await),
    };
    let fate = Fate::of(row);
    let next = with_fence(&authority, row, &args.reason);
    let (version, host) = (next.version, row.host.id.clone());
    if !session.is_json {
        show::note(&match &devices {
            None => format!("keep {name} off until this command has ended"),
            Some(switch) => {
                format!("{name} is off, say {}", switch.power.devices.join(" and "))
            }
        });
    }
    let silent = authority.decree(session, &picture, next).await.inspect_err(|_| {
        show::note(&format!(
            "keep {name} off: what it held is not surely taken from it yet; say it again"
        ));
    })?;
    if let Some(switch) = &devices {
        check_off(session, &name, switch).await?;
    }
    let is_on = args.turn_on && turn_on(session, row, devices).await?;
    if session.is_json {
        let Fate { elsewhere, waiting, over } = &fate;
        show::json_pretty(&json!({ "host": host, "trust_version": version,
            "elsewhere": elsewhere, "waiting": waiting, "over": over, "not_told": silent,
            "turned_on": is_on }));
        return Ok(Code::Ok);
    }
    show::note(&format!(
        "{name} is off by trust version {version}; it may be turned on again, and starts nothing that it \
         held before it has heard of this"
    ));
    if is_on {
        show::note(&format!("{name} is turned on again"));
    }
    fate.tell(&name);
    Ok(Code::Ok)
}

/// Nobody has said what would make it certain.
async fn not_surely_off(session: &Session, picture: &Picture, row: &HostRow) -> Failure {
    let what = format!("{} {}", row.host.name, silence(picture, row));
    let ways =
        "see that it is off, keep it off until the command has ended, and say so with --is-off";
    Failure::new(Code::Refused, what).next(match Switch::of(session, row).await {
        Ok(switch) => format!(
            "whatever it still runs could run twice: --cut-power turns it off by {}; or {ways}",
            switch.power.devices.join(" and ")
        ),
        Err(_) => format!("whatever it still runs could run twice: {ways}"),
    })
}

/// Has a controller cut its power, and its devices say so.
async fn turn_off(session: &Session, picture: &Picture, row: &HostRow) -> Result<Switch, Failure> {
    let name = &row.host.name;
    let mut switch = Switch::of(session, row).await?;
    if !session.is_json {
        show::note(&format!("{name} {}; its power is cut now", silence(picture, row)));
    }
    switch.power = switch.turn(session, PowerAction::Off, false).await?;
    match switch.power.state {
        Some(PowerState::Off) => Ok(switch),
        _ => Err(Failure::new(Code::Failed, format!("{name} is not surely off"))),
    }
}

/// It must not have been turned on before the arbiters had heard.
async fn check_off(session: &Session, name: &str, switch: &Switch) -> Result<(), Failure> {
    match switch.state(session).await {
        Ok(Some(PowerState::Off)) => Ok(()),
        Ok(Some(PowerState::On | PowerState::Partly)) => Err(Failure::new(
            Code::Failed,
            format!("somebody has turned {name} on before the arbiters had heard that it is off"),
        )
        .next(format!(
            "a VM of it may run twice until it hears of the trust document: look with `ostler ps`, and \
             turn it off with `ostler power {name} off`"
        ))),
        Ok(None) => {
            show::note(&format!("warning: whether {name} is still off, its devices do not say"));
            Ok(())
        }
        Err(failure) => {
            show::note(&format!(
                "warning: whether {name} is still off is not known: {}",
                failure.cause()
            ));
            Ok(())
        }
    }
}

async fn turn_on(
    session: &Session,
    row: &HostRow,
    devices: Option<Switch>,
) -> Result<bool, Failure> {
    let switch = match devices {
        Some(switch) => switch,
        None => Switch::of(session, row).await?,
    };
    switch.turn(session, PowerAction::On, false).await?;
    Ok(true)
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
    let mut next = authority.trust.next();
    next.fenced.retain(|fence| fence.host != row.host.key);
    next.fenced.push(Fence {
        host: row.host.key,
        since: next.version,
        by: authority.key(),
        by_fencer: false,
        at_ms: Clock::real().now().wall_ms,
        reason: reason.to_owned(),
    });
    next
}

/// Who is heard is on.
fn check_silent(picture: &Picture, row: &HostRow) -> Result<(), Failure> {
    match freshness(picture, row).0 {
        Freshness::Fresh => {
            let name = &row.host.name;
            let what = format!("{name} is heard, so it is on");
            Err(Failure::new(Code::Refused, what)
                .next(format!("ostler drain {name}, if its VMs are to leave it")))
        }
        Freshness::Stale | Freshness::Lost => Ok(()),
    }
}

fn freshness(picture: &Picture, row: &HostRow) -> (Freshness, u64) {
    let known = picture.rows.iter().find(|known| known.host == row.host.id);
    known.map_or((Freshness::Lost, 0), |known| (known.freshness, known.age_ms))
}

/// For how long it is silent, and what ran there.
fn silence(picture: &Picture, row: &HostRow) -> String {
    let alive = super::retire::guests(row);
    let alive = names(alive.iter().filter(|guest| guest.is_alive()));
    let ran = match alive.as_str() {
        "" => String::new(),
        some => format!("; alive there then: {some}"),
    };
    format!("has not been heard for {}{ran}", show::age(freshness(picture, row).1))
}

/// What was ever said, and whether the host has heard of it.
async fn list(session: &Session, picture: &Picture) -> Result<Code, Failure> {
    let trust = in_force(session, picture).await;
    let fences = trust.as_ref().map(|trust| trust.fenced.as_slice()).unwrap_or_default();
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
