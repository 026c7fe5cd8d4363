//! `ostler retire`: a host leaves the cluster for good.
//!
//! The operator signs a trust document without it. What arbiters have promised to the host is free
//! from then on, so its VMs may be started elsewhere; which is why a host that was not seen empty
//! leaves only by the person's word that it is off.

use std::sync::Arc;

use protocol::api::Want;
use protocol::id::{HostId, JobId};
use protocol::job::{Job, JobSpec, Role};
use protocol::signed::PublicKey;
use protocol::trust::{Slot, Trust};
use protocol::view::{Freshness, HostRow};
use protocol::vm::DiskSpec;
use serde_json::json;

use crate::cli::RetireArgs;
use crate::exit::{Code, Failure};
use crate::govern::Authority;
use crate::picture::Picture;
use crate::session::Session;
use crate::show;

/// A VM that was on the host when it was last heard.
pub(super) struct Guest {
    job: JobId,
    spec: JobSpec,
    is_alive: bool,
    /// Whether disks of it are lost with the host. Those in shared pools are not.
    has_disks: bool,
}

impl Guest {
    /// Whether it was alive.
    pub(super) fn is_alive(&self) -> bool {
        self.is_alive
    }

    fn has_disks(&self) -> bool {
        self.has_disks
    }

    /// Whether nothing of it is lost with the host: a stopped VM without disks is a name.
    fn is_nothing(&self) -> bool {
        !self.is_alive && !self.has_disks()
    }
}

/// See the module.
pub(crate) async fn run(session: &Session, args: RetireArgs) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    picture.warn();
    let authority = Authority::newest(session, &picture).await?;
    let trust = &authority.trust;
    let Ok(row) = picture.host(&args.host) else {
        return gone_already(trust, &args.host);
    };
    let (name, key) = (row.host.name.clone(), row.host.key);
    let guests = guests(row);
    check_empty(&picture, row, &guests, args.is_off)?;
    check_arbiters(trust, row)?;
    if args.restart {
        check_controller(trust, row)?;
    }
    let next = without(trust, row, key);
    let version = next.version;
    let silent = authority.decree(session, &picture, next).await?;
    if !session.is_json {
        show::note(&format!("{name} is retired by trust version {version}"));
        tell_left(trust, row, &guests, args.restart);
    } else {
        let jobs: Vec<&JobId> = guests.iter().map(|guest| &guest.job).collect();
        show::json_pretty(&json!({ "host": row.host.id, "trust_version": version,
            "jobs": jobs, "not_told": silent }));
    }
    if args.restart { restart(session, guests).await } else { Ok(Code::Ok) }
}

/// Retiring twice is retiring once.
fn gone_already(trust: &Trust, text: &str) -> Result<Code, Failure> {
    let is_it = |host: &HostId| host.as_str().starts_with(text);
    if !text.is_empty() && trust.retired_hosts().iter().any(is_it) {
        show::note(&format!("{text} is retired already"));
        return Ok(Code::Ok);
    }
    Err(Failure::new(Code::NotFound, format!("no host {text:?}")).next("ostler hosts"))
}

/// What is or was something on the host.
pub(super) fn guests(row: &HostRow) -> Vec<Guest> {
    let vms = row.jobs.values().filter(|job| job.spec.as_vm().is_some());
    let is_shared = |disk: &DiskSpec| {
        let facts = disk.named_pool().and_then(|pool| row.host.pools.get(pool));
        facts.is_some_and(|facts| facts.is_shared)
    };
    let is_lost = |disk: &DiskSpec| !disk.ephemeral && !is_shared(disk);
    let guest = |job: &Arc<Job>| Guest {
        has_disks: job.spec.as_vm().is_some_and(|vm| vm.disks.iter().any(is_lost)),
        job: job.id.clone(),
        spec: job.spec.as_ref().clone(),
        is_alive: !job.state.is_ended(),
    };
    vms.map(guest).filter(|guest| !guest.is_nothing()).collect()
}

pub(super) fn names<'a>(guests: impl Iterator<Item = &'a Guest>) -> String {
    guests.map(|guest| guest.job.as_str()).collect::<Vec<_>>().join(", ")
}

/// A host that is heard must be drained, so that nothing comes meanwhile, and have nothing left; one
/// that is not may run what it ran.
fn check_empty(
    picture: &Picture,
    row: &HostRow,
    guests: &[Guest],
    is_off: bool,
) -> Result<(), Failure> {
    let known = picture.rows.iter().find(|known| known.host == row.host.id);
    let (freshness, age_ms) =
        known.map_or((Freshness::Lost, 0), |known| (known.freshness, known.age_ms));
    let name = &row.host.name;
    let alive = names(guests.iter().filter(|guest| guest.is_alive));
    let stopped = names(guests.iter().filter(|guest| !guest.is_alive));
    match freshness {
        Freshness::Fresh if !alive.is_empty() => {
            let what = format!("{name} still runs {alive}");
            Err(Failure::new(Code::Refused, what).next(format!("ostler drain {name}")))
        }
        Freshness::Fresh if !stopped.is_empty() => {
            let what = format!("{name} has the disks of {stopped}, which would be lost");
            Err(Failure::new(Code::Refused, what)
                .next("ostler start and drain again to take them along, or ostler rm"))
        }
        Freshness::Fresh if row.host.intent.is_none() => {
            let what = format!("{name} is well and takes what comes");
            Err(Failure::new(Code::Refused, what).next(format!("ostler drain {name}")))
        }
        Freshness::Fresh => Ok(()),
        Freshness::Stale | Freshness::Lost if is_off => Ok(()),
        Freshness::Stale | Freshness::Lost => {
            let age = show::age(age_ms);
            let ran = match alive.as_str() {
                "" => String::new(),
                some => format!("; alive there then: {some}"),
            };
            let what = format!("{name} has not been heard for {age}{ran}");
            Err(Failure::new(Code::Refused, what).next(
                "whatever it still runs could run twice: see that it is off and stays off, and \
                 say so with --is-off",
            ))
        }
    }
}

/// The quorum must outlive the host; another arbiter may take the place of its before or after.
pub(super) fn check_arbiters(trust: &Trust, row: &HostRow) -> Result<(), Failure> {
    let there = services(row);
    let lost = trust.arbiters.iter().filter(|arbiter| there.contains(&arbiter.key)).count();
    let left = trust.arbiters.len() - lost;
    if lost == 0 || left >= trust.k as usize {
        return Ok(());
    }
    let what = format!(
        "{} has {lost} of {} arbiters, and a ticket needs {}: without it nothing could start",
        row.host.name,
        trust.arbiters.len(),
        trust.k
    );
    Err(Failure::new(Code::Refused, what)
        .next(format!(
            "bring it back if it is away, and `ostler arbiters replace` its arbiter first; or, if it is \
             off for good: ostler arbiters recover --off {}",
            row.host.name
        )))
}

/// Restarting is a controller's work.
fn check_controller(trust: &Trust, row: &HostRow) -> Result<(), Failure> {
    let there = services(row);
    let mut controllers = trust.peers.iter().filter(|peer| peer.role == Role::Controller);
    if controllers.any(|peer| !there.contains(&peer.key)) {
        return Ok(());
    }
    let what = format!("no controller but that of {} is known to restart its VMs", row.host.name);
    Err(Failure::new(Code::Refused, what).next(
        "retire it without --restart, let `ostler bootstrap` start another controller, and \
         `ostler run` the VMs with their names",
    ))
}

/// Keys of Ostler's own services on the host.
pub(super) fn services(row: &HostRow) -> Vec<PublicKey> {
    let alive = row.jobs.values().filter(|job| !job.state.is_ended());
    alive.filter_map(|job| job.endpoint.as_ref().map(|endpoint| endpoint.key)).collect()
}

/// The document without a host, and without what of Ostler's own it had but arbiters.
pub(super) fn without(trust: &Trust, row: &HostRow, key: PublicKey) -> Trust {
    let there = services(row);
    let mut next = trust.next();
    next.roster.retain(|member| *member != key);
    next.peers.retain(|peer| !there.contains(&peer.key));
    next.fenced.retain(|fence| fence.host != key);
    if !next.retired.contains(&key) {
        next.retired.push(key);
    }
    next
}

/// What becomes of what it had.
pub(super) fn tell_left(trust: &Trust, row: &HostRow, guests: &[Guest], is_restarting: bool) {
    let there = services(row);
    let peers = trust.peers.iter().filter(|peer| there.contains(&peer.key));
    let roles: Vec<Role> = peers.map(|peer| peer.role).collect();
    if !roles.is_empty() {
        let roles: Vec<String> = roles.iter().map(ToString::to_string).collect();
        show::note(&format!(
            "it had a {}: `ostler bootstrap` starts another",
            roles.join(" and a ")
        ));
    }
    let arbiters = trust.arbiters.iter().filter(|arbiter| there.contains(&arbiter.key));
    for Slot { slot, .. } in arbiters {
        show::note(&format!(
            "arbiter {slot} was there, and its place is empty: ostler arbiters replace {slot}"
        ));
    }
    let witnesses = trust.witnesses.members.iter();
    for Slot { slot, .. } in witnesses.filter(|witness| there.contains(&witness.key)) {
        show::note(&format!("witness {slot} was there: ostler witnesses set HOST…, with another"));
    }
    for guest in guests {
        let job = &guest.job;
        if guest.has_disks() {
            show::note(&format!("{job} is gone with its disks: run it anew, or from a backup"));
        } else if guest.is_alive && !is_restarting {
            show::note(&format!("{job} may be started elsewhere: ostler run, with its name"));
        }
    }
}

/// Starts elsewhere what had nothing on the host but its memory.
async fn restart(session: &Session, guests: Vec<Guest>) -> Result<Code, Failure> {
    let mut worst = Code::Ok;
    for guest in guests.into_iter().filter(|guest| guest.is_alive && !guest.has_disks()) {
        let Guest { job, spec, .. } = guest;
        match session.want(Want::Run { job, spec, on: None, again: false }, true).await? {
            Code::Ok => {}
            code => worst = code,
        }
    }
    Ok(worst)
}
