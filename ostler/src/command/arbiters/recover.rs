//! `ostler arbiters recover`: when too many arbiters are lost for good to ever grant anything again.
//!
//! ```text
//!   too few answer ─▶ every host of the roster is heard and obeys, or is off by the person's word
//!          ─▶ start new ones ─▶ sign: these, then those, without asking these ─▶ as any change goes on
//! ```
//!
//! Decides who is lost, where others go, and what a person has to say first. Nothing here is taken on
//! trust but that a host is off: arbiters that come back after all find that every host needs others.

use std::collections::BTreeSet;

use bootstrap::committee::{
    Change, all_left_over, are_witnesses_lost, check_lost, check_quorums, choose_host, is_member,
    joins_for_recovery, number_above, recovered,
};
use protocol::host::Host;
use protocol::id::HostId;
use protocol::signed::PublicKey;
use protocol::trust::{Seat, Trust, Witnesses};
use protocol::view::HostRow;
use protocol::vm::OnLoss;

use super::change::{Place, Work, refused};
use crate::cli::ChangeArgs;
use crate::command::retire;
use crate::exit::{Code, Failure};
use crate::picture::Picture;
use crate::session::Session;
use crate::show;

/// A host that is off by the person's word.
struct Off {
    host: HostId,
    key: PublicKey,
    name: String,
}

/// See the module.
pub(super) async fn run(
    session: &Session,
    off: &[String],
    with: &[String],
    how: &ChangeArgs,
) -> Result<Code, Failure> {
    let mut work = Work::begin(session, how).await?;
    // Signed with what makes it a recovery, or not at all.
    if let Some(bound) = work.bound_change().await? {
        work.authority.trust = bound;
    }
    let answer = work.answering(&work.authority.trust).await;
    check_lost(&work.authority.trust, &answer).map_err(refused)?;
    let off = off.iter().map(|text| find_off(&work, text)).collect::<Result<Vec<_>, _>>()?;
    let goes_on = goes_on(&work, &answer).await?;
    let (leaves, places) = if goes_on {
        show::note("the change under way is completed without those who are lost");
        (BTreeSet::new(), vec![])
    } else {
        plan(&work, &answer, with, &off)?
    };
    tell(&work, &answer, &off, (!goes_on).then_some((&leaves, &places)));
    check_heard(&work, &off)?;
    if how.dry_run {
        return Ok(Code::Ok);
    }
    if !goes_on {
        let names: Vec<&str> = off.iter().map(|gone| gone.name.as_str()).collect();
        work.check_obeyed(&names).await?;
    }
    let mut joins = Vec::new();
    for place in &places {
        joins.push(work.start(place).await?);
    }
    let change = Change { leaves, joins };
    let mut next = next(&work, (!goes_on).then_some(&change), &off)?;
    if !goes_on && are_witnesses_lost(&work.authority.trust, &answer) {
        show::note(
            "too few of the witnesses answer either: the change does without any; afterwards: ostler witnesses set",
        );
        if let Some(council) = &mut next.succession.next {
            council.witnesses = Witnesses::default();
        }
    }
    check_quorums(&next, &work.answering(&next).await).map_err(refused)?;
    let before = work.authority.trust.clone();
    work.decree(next).await?;
    for gone in &off {
        show::note(&format!("{} is retired", gone.name));
        if let Ok(row) = work.picture.host(gone.host.as_str()) {
            let guests = retire::guests(row);
            retire::tell_left(&Trust { arbiters: vec![], ..before.clone() }, row, &guests, false);
        }
    }
    work.complete().await?;
    let ended = work.end_former().await?;
    work.conclude(true, &ended);
    Ok(Code::Ok)
}

/// The document that begins it: without the hosts that are off, and what they had of Ostler's own.
fn next(work: &Work<'_>, change: Option<&Change>, off: &[Off]) -> Result<Trust, Failure> {
    let mut trust = work.authority.trust.clone();
    for gone in off {
        if let Ok(row) = work.picture.host(gone.host.as_str()) {
            trust.peers = retire::without(&trust, row, gone.key).peers;
        }
    }
    let keys = off.iter().map(|gone| gone.key).collect();
    recovered(&trust, change, &keys).map_err(refused)
}

/// Whether a change is under way whose next arbiters are there, so that it need only be completed.
async fn goes_on(work: &Work<'_>, answer: &BTreeSet<u32>) -> Result<bool, Failure> {
    let Some(next) = work.authority.trust.next_committee() else { return Ok(false) };
    if next.count(answer) >= next.k {
        return Ok(true);
    }
    let Some(who) = work.any_agreed().await else { return Ok(false) };
    let (have, n, k) = (next.count(answer), next.n(), next.k);
    let what = format!(
        "{who} has agreed to a change whose next arbiters do not answer either, {have} of {n} and {k} \
         are needed; others may count on it, so it can't be replaced by another"
    );
    Err(Failure::new(Code::Refused, what).next("bring one of those next arbiters' hosts back"))
}

/// A host of the roster that the person says is off.
fn find_off(work: &Work<'_>, text: &str) -> Result<Off, Failure> {
    let roster = work.authority.trust.roster_by_host();
    let known = work.picture.host(text).map(|row| (row.host.id.clone(), row.host.name.clone()));
    let host = match known {
        Ok(known) => known,
        Err(unknown) => {
            // Nobody who is left may have heard it.
            let mut ids =
                roster.keys().filter(|id| !text.is_empty() && id.as_str().starts_with(text));
            match (ids.next(), ids.next()) {
                (Some(id), None) => (id.clone(), id.short().to_owned()),
                _ => return Err(unknown),
            }
        }
    };
    let (host, name) = host;
    if work.is_heard(&host) {
        return Err(Failure::new(Code::Refused, format!("{name} answers: it is not off"))
            .next("leave it out; an arbiter that is lost while its host is well needs no word"));
    }
    match roster.get(&host) {
        Some(key) => Ok(Off { host, key: *key, name }),
        None => Err(Failure::new(Code::Refused, format!("{name} is not on the roster"))
            .next("leave it out: it was retired already")),
    }
}

/// Who is lost, and where others go: on hosts without an arbiter first, then where one was lost.
fn plan(
    work: &Work<'_>,
    answer: &BTreeSet<u32>,
    with: &[String],
    off: &[Off],
) -> Result<(BTreeSet<u32>, Vec<Place>), Failure> {
    let trust = &work.authority.trust;
    let (left, lost): (Vec<_>, Vec<_>) =
        trust.arbiters.iter().partition(|member| answer.contains(&member.slot));
    let host_of = |member: &&protocol::trust::Slot| {
        let found = work.there.iter().find(|found| is_member(found, member));
        found.map(|found| found.host.clone())
    };
    let mut taken: BTreeSet<HostId> = left.iter().filter_map(host_of).collect();
    let leaves: BTreeSet<u32> = lost.iter().map(|member| member.slot).collect();
    let mut hosts = Vec::new();
    for text in with {
        let host = work.fit(text, &taken)?;
        taken.insert(host.id.clone());
        hosts.push(host);
    }
    if with.is_empty() {
        let fit = fit_hosts(work, taken);
        let joins = joins_for_recovery(trust.arbiters.len(), left.len(), fit.len(), trust.f);
        hosts.extend(fit.into_iter().take(joins));
    }
    if hosts.is_empty() && left.is_empty() {
        let what = "no host is heard on which an arbiter could be";
        return Err(Failure::new(Code::Refused, what).next("bring a host back, or name it: --with"));
    }
    let mut unused: Vec<_> = all_left_over(trust, &work.there, Seat::Arbiter).collect();
    let mut number = number_above(trust, &work.there);
    let mut places = Vec::new();
    for host in hosts {
        let again = unused.iter().position(|found| found.host == host.id);
        let index = match again.map(|nth| unused.remove(nth)) {
            Some(found) => found.index,
            None => {
                number += 1;
                number - 1
            }
        };
        places.push(Place { host, seat: Seat::Arbiter, index, is_there: again.is_some() });
    }
    let joins = places.iter().map(Place::stand_in).collect();
    next(work, Some(&Change { leaves: leaves.clone(), joins }), off)?;
    Ok((leaves, places))
}

/// Every host that could have one, the best first.
fn fit_hosts(work: &Work<'_>, mut taken: BTreeSet<HostId>) -> Vec<Host> {
    let candidates = work.candidates();
    let mut fit = Vec::new();
    while let Some(host) = choose_host(&work.authority.trust, &candidates, &taken) {
        taken.insert(host.id.clone());
        fit.push(host.clone());
    }
    fit
}

/// What is lost, what will be done, and what it is to those who run VMs.
fn tell(
    work: &Work<'_>,
    answer: &BTreeSet<u32>,
    off: &[Off],
    change: Option<(&BTreeSet<u32>, &Vec<Place>)>,
) {
    let committee = work.authority.trust.committee();
    let (count, n, k) = (committee.count(answer), committee.n(), committee.k);
    show::note(&format!("{count} of {n} arbiters answer, and a ticket needs {k}"));
    if let Some((leaves, places)) = change {
        work.tell_members(leaves, places);
    }
    for gone in off {
        let ran = work.picture.host(gone.host.as_str()).map(alive_on).unwrap_or_default();
        let ran =
            if ran.is_empty() { String::new() } else { format!(": it ran {ran} when last heard") };
        show::note(&format!("{} is off for good, by your word{ran}", gone.name));
    }
    let ends = lapsing(work);
    if !ends.is_empty() {
        show::note(&format!(
            "{} may run only while arbiters or witnesses cover it: it has ended where neither are heard, and \
             may start when the others have taken over",
            ends.join(", ")
        ));
    }
    let term_s = work.authority.trust.member_term_ms().div_ceil(1_000);
    show::note(&format!(
        "kept VMs run on. Nothing starts until every host has agreed, which takes {term_s} s and a few more"
    ));
}

fn alive_on(row: &HostRow) -> String {
    let guests = retire::guests(row);
    retire::names(guests.iter().filter(|guest| guest.is_alive()))
}

/// VMs on hosts that are heard which need cover.
fn lapsing(work: &Work<'_>) -> Vec<String> {
    let rows = work.picture.view.hosts().filter(|(id, _)| work.is_heard(id));
    let jobs = rows.flat_map(|(_, row)| row.jobs.values());
    let lapses = |job: &&std::sync::Arc<protocol::job::Job>| {
        job.spec.as_vm().is_some_and(|vm| vm.on_loss == OnLoss::Stop)
    };
    let names: BTreeSet<String> = jobs.filter(lapses).map(|job| job.id.to_string()).collect();
    names.into_iter().collect()
}

/// Whoever is on the roster has to agree, or be off: what it holds is known to nobody else.
fn check_heard(work: &Work<'_>, off: &[Off]) -> Result<(), Failure> {
    let roster = work.authority.trust.roster_by_host().into_keys();
    let silent: Vec<HostId> = roster
        .filter(|host| !work.is_heard(host) && off.iter().all(|gone| gone.host != *host))
        .collect();
    let [first, ..] = silent.as_slice() else { return Ok(()) };
    let lines: Vec<String> =
        silent.iter().map(|host| silent_line(work, &work.picture, host)).collect();
    let what = format!(
        "these hosts are not heard, and nothing may start before each of them has agreed: what they run \
         could run twice\n  - {}",
        lines.join("\n  - ")
    );
    Err(Failure::new(Code::Refused, what).next(format!(
        "bring {0} back; or, if it is off and stays off, say so: --off {0}",
        work.name(first)
    )))
}

fn silent_line(work: &Work<'_>, picture: &Picture, host: &HostId) -> String {
    let name = work.name(host);
    let age = picture.rows.iter().find(|row| row.host == *host).map(|row| show::age(row.age_ms));
    let ran = picture.host(host.as_str()).map(alive_on).unwrap_or_default();
    match (age, ran.as_str()) {
        (None, _) => format!("{name}, of which nobody who is left has heard"),
        (Some(age), "") => format!("{name}, for {age}; it ran no VM then"),
        (Some(age), ran) => format!("{name}, for {age}; alive there then: {ran}"),
    }
}
