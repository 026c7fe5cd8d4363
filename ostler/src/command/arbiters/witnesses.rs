//! `ostler witnesses`: who says beside the arbiters where a VM with `on_loss = stop` runs, and changing them.
//!
//! A change of witnesses is a change of the council like any other (`change`): the arbiters stay, every host
//! agrees to the document that names both, and a quorum of the arbiters says so. Decides which of the hosts
//! that a person names have a witness already, and says when witnesses are of no use there.

use std::collections::BTreeSet;

use bootstrap::committee::{
    Found, all_left_over, are_witnesses_lost, begun_with_witnesses, check_quorums, is_member,
    number_above,
};
use protocol::id::HostId;
use protocol::trust::{Seat, Slot, Trust, Witnesses, quorum};
use serde_json::json;

use super::change::{Place, Work, refused};
use super::{Row, cells, everywhere, rows};
use crate::cli::{ChangeArgs, WitnessesArgs, WitnessesCommand};
use crate::exit::{Code, Failure};
use crate::govern::in_force;
use crate::session::Session;
use crate::show;

/// See the module.
pub(crate) async fn run(session: &Session, args: WitnessesArgs) -> Result<Code, Failure> {
    match args.command {
        None => list(session).await,
        Some(WitnessesCommand::Set { on, how }) => set(session, &on, &how).await,
        Some(WitnessesCommand::None { how }) => set(session, &[], &how).await,
    }
}

async fn list(session: &Session) -> Result<Code, Failure> {
    let picture = session.picture().await?;
    let trust = in_force(session, &picture).await.ok_or_else(|| {
        Failure::usage("witnesses are in the cluster's trust document, and none is here")
            .next("ostler bootstrap, or another --context")
    })?;
    let there = everywhere(&picture);
    let mut rows = rows(session, &trust, &picture, &there).await;
    rows.retain(|row| row.seat == Seat::Witness);
    let note = note(&trust, &rows);
    if session.is_json {
        show::json_pretty(&json!({ "witnesses": rows, "k": trust.witnesses.k,
            "trust_version": trust.version, "notes": [note], "warnings": picture.warnings }));
        return Ok(Code::Ok);
    }
    picture.warn();
    if !trust.witnesses.is_none() {
        show::table(["SLOT", "HOST", "STATE", "TRUST", "WHERE"], rows.iter().map(cells).collect());
    }
    show::note(&note);
    Ok(Code::Ok)
}

/// What that means for VMs that may be lost.
fn note(trust: &Trust, rows: &[Row]) -> String {
    let Some(committee) = trust.council().witnesses else {
        return "there are no witnesses: a VM with --on-loss stop ends when too few arbiters are heard for \
                longer than a term. Three on hosts without arbiters: ostler witnesses set HOST HOST HOST"
            .to_owned();
    };
    let answer = rows.iter().filter(|row| row.is_present && row.trouble.is_none()).count();
    let (n, k) = (committee.n(), committee.k);
    match answer.checked_sub(k as usize) {
        Some(more) => format!(
            "{answer} of {n} answer and {k} are enough: VMs with --on-loss stop go on without the arbiters, \
             and {more} more may be lost before none can be started"
        ),
        None => format!(
            "{answer} of {n} answer and {k} are needed: no VM with --on-loss stop is started or fails over \
             until others are back. If they are lost: ostler witnesses set HOST…, or ostler witnesses none"
        ),
    }
}

/// These hosts have the witnesses, and no others do.
async fn set(session: &Session, on: &[String], how: &ChangeArgs) -> Result<Code, Failure> {
    let mut work = Work::begin(session, how).await?;
    work.go_on_with_bound(how.dry_run).await?;
    let wanted = wanted(&work, on)?;
    let mut is_changed = false;
    if !is_so(&work, &wanted) {
        work.check_none_under_way()?;
        let (stay, places) = plan(&work, &wanted)?;
        let answer = work.answering(&work.authority.trust).await;
        let are_lost = are_witnesses_lost(&work.authority.trust, &answer);
        tell(&work, &stay, &places, are_lost);
        let stand_ins = stay.iter().cloned().chain(places.iter().map(Place::stand_in)).collect();
        let next = begun_with_witnesses(&work.authority.trust, stand_ins, are_lost);
        next.validate().map_err(|error| Failure::new(Code::Refused, error.to_string()))?;
        work.check_all_heard()?;
        if how.dry_run {
            return Ok(Code::Ok);
        }
        work.check_obeyed(&[]).await?;
        let mut members = stay;
        for place in &places {
            members.push(work.start(place).await?);
        }
        members.sort_by_key(|witness| witness.slot);
        let next = begun_with_witnesses(&work.authority.trust, members, are_lost);
        check_quorums(&next, &work.answering(&next).await).map_err(refused)?;
        work.decree(next).await?;
        is_changed = true;
    } else if how.dry_run {
        show::note("nothing would be changed but what is under way");
        return Ok(Code::Ok);
    }
    let (goes_on, ended) = work.finish().await?;
    is_changed |= goes_on;
    conclude(session, &work.authority.trust, is_changed, &ended);
    Ok(Code::Ok)
}

/// The hosts that a person has named, each once.
fn wanted(work: &Work<'_>, on: &[String]) -> Result<BTreeSet<HostId>, Failure> {
    let mut hosts = BTreeSet::new();
    for text in on {
        let row = work.picture.host(text)?;
        if !hosts.insert(row.host.id.clone()) {
            return Err(Failure::usage(format!("{} is named twice", row.host.name)));
        }
    }
    let f = work.authority.trust.f;
    let count = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
    if count > 0 && !Witnesses::is_of_use(count, f) {
        let what = format!("{count} witnesses bear the loss of no more than one less");
        return Err(Failure::usage(what).next(format!("name {} hosts", Witnesses::of_use(f))));
    }
    Ok(hosts)
}

/// The witness that is or is to be on a host, if it has one.
fn witness_on<'a>(members: &'a [Slot], there: &[Found], host: &HostId) -> Option<&'a Slot> {
    let mut on_it = there.iter().filter(|found| found.host == *host && found.is_alive);
    on_it.find_map(|found| members.iter().find(|member| is_member(found, member)))
}

/// Whether they are what is wanted, or are on their way to that.
fn is_so(work: &Work<'_>, wanted: &BTreeSet<HostId>) -> bool {
    let trust = &work.authority.trust;
    let next = trust.succession.next.as_ref().map(|next| &next.witnesses);
    let members = &next.unwrap_or(&trust.witnesses).members;
    members.len() == wanted.len()
        && wanted.iter().all(|host| witness_on(members, &work.there, host).is_some())
}

/// Who stays, and which hosts get one.
fn plan(work: &Work<'_>, wanted: &BTreeSet<HostId>) -> Result<(Vec<Slot>, Vec<Place>), Failure> {
    let trust = &work.authority.trust;
    let (mut stay, mut places) = (Vec::new(), Vec::new());
    let mut number = number_above(trust, &work.there);
    for id in wanted {
        if let Some(member) = witness_on(&trust.witnesses.members, &work.there, id) {
            stay.push(member.clone());
            continue;
        }
        let host = work.fit(id.as_str(), &BTreeSet::new())?;
        let mut unused = all_left_over(trust, &work.there, Seat::Witness);
        let again = unused.find(|found| found.host == *id);
        let index = again.map_or(number, |found| found.index);
        number = number.max(index + 1);
        places.push(Place { host, seat: Seat::Witness, index, is_there: again.is_some() });
    }
    Ok((stay, places))
}

fn tell(work: &Work<'_>, stay: &[Slot], places: &[Place], are_lost: bool) {
    let trust = &work.authority.trust;
    if are_lost {
        show::note("too few of the witnesses answer: the change does without them");
    }
    for Slot { slot, .. } in trust.witnesses.members.iter().filter(|member| !stay.contains(member))
    {
        show::note(&format!("witness {slot} leaves"));
    }
    for Place { host, index, .. } in places {
        show::note(&format!("witness {index} comes, on {}", host.name));
    }
    let n = stay.len() + places.len();
    match n {
        0 => show::note(
            "then there are none: VMs with --on-loss stop end when too few arbiters are heard for a term",
        ),
        n => show::note(&format!(
            "then a VM with --on-loss stop needs {} of {n} witnesses to start or to fail over, and goes on \
             by either committee",
            quorum(u32::try_from(n).unwrap_or(u32::MAX), trust.f)
        )),
    }
    let at = |seat: Seat, slots: &[Slot]| -> BTreeSet<HostId> {
        let found = work.there.iter().filter(|found| found.seat == seat);
        let members = found.filter(|found| slots.iter().any(|slot| is_member(found, slot)));
        members.map(|found| found.host.clone()).collect()
    };
    let arbiters = at(Seat::Arbiter, &trust.arbiters);
    let mut witnesses = at(Seat::Witness, stay);
    witnesses.extend(places.iter().map(|place| place.host.id.clone()));
    if !witnesses.is_empty() && witnesses.is_subset(&arbiters) {
        show::note(
            "warning: all of them share their hosts with arbiters, so they are lost with these; other hosts \
             would help more",
        );
    }
}

fn conclude(session: &Session, trust: &Trust, is_changed: bool, ended: &[u32]) {
    let slots: Vec<u32> = trust.witnesses.members.iter().map(|witness| witness.slot).collect();
    let (k, version) = (trust.witnesses.k, trust.version);
    if session.is_json {
        show::json_pretty(&json!({ "witnesses": slots, "k": k, "ended": ended,
            "trust_version": version, "is_changed": is_changed }));
        return;
    }
    let how = if is_changed { "" } else { " already" };
    let list: Vec<String> = slots.iter().map(ToString::to_string).collect();
    show::note(&match slots.len() {
        0 => format!("there are no witnesses{how}, by trust version {version}"),
        n => format!(
            "the witnesses are {}{how}, by trust version {version}: {k} of {n} let a VM go on",
            list.join(", ")
        ),
    });
}
