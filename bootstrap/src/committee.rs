//! The trust documents by which arbiters are changed, and where a new one goes (tenure protocol §10).
//!
//! ```text
//!   arbiters A ── begun(B), or recovered(B) ──▶ A, next B ── completed(words of B) ──▶ arbiters B
//!       ▲                                          │
//!       └────────────── taken_back ────────────────┘
//! ```
//!
//! Pure. What a host lets follow what is the trust document's own ([`protocol::trust::Succession`]).

use std::collections::{BTreeMap, BTreeSet};

use protocol::host::{Host, HostIntent};
use protocol::id::{HostId, Revision};
use protocol::job::{Job, JobKind, Role, ServiceEndpoint, ServiceSpec};
use protocol::signed::{PublicKey, Signed};
use protocol::trust::{Handover, Next, Ready, Seat, Slot, Succession, Trust, Witnesses, quorum};
use protocol::vm::OnLoss;

/// What becomes of the arbiters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The slots that leave.
    pub leaves: BTreeSet<u32>,
    /// Who comes.
    pub joins: Vec<Slot>,
}

/// Why arbiters can't be changed so. Nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// A slot is named that no arbiter has.
    #[error("no arbiter has slot {slot}; the arbiters are {}", list(.arbiters))]
    NoSuchSlot {
        /// The slot.
        slot: u32,
        /// The slots that there are.
        arbiters: Vec<u32>,
    },
    /// Nobody would be left.
    #[error("arbiter {slot} is the last: nothing could ever start without one")]
    Last {
        /// Its slot.
        slot: u32,
    },
    /// Too few would be left where some may lie.
    #[error(
        "{left} arbiters would be left, and {need} are needed where {f} may lie: let another one join first"
    )]
    TooFewForLiars {
        /// How many.
        left: u32,
        /// How many may lie.
        f: u32,
        /// How many bear that.
        need: u32,
    },
    /// Too few answer to go over.
    #[error("{answer} of {of} {which} answer, and {need} are needed")]
    NoQuorum {
        /// Such as `present arbiters` or `next witnesses`.
        which: &'static str,
        /// How many answer.
        answer: u32,
        /// How many there are.
        of: u32,
        /// How many a ticket needs.
        need: u32,
    },
    /// Those in force can be asked, so nothing is to be recovered.
    #[error("{answer} of {of} arbiters answer, and a ticket needs {need}: they are not lost")]
    NotLost {
        /// How many answer.
        answer: u32,
        /// How many there are.
        of: u32,
        /// How many a ticket needs.
        need: u32,
    },
}

fn list(slots: &[u32]) -> String {
    slots.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The document that begins a change. Where some may lie, it leaves enough arbiters to bear that, if there were enough.
pub fn begun(trust: &Trust, change: &Change) -> Result<Trust, ChangeError> {
    let next = changed(trust, change)?;
    let n = next.next_committee().map_or(0, |committee| committee.n());
    let need = trust.f.saturating_mul(3).saturating_add(1);
    if n < need && n < trust.committee().n() {
        return Err(ChangeError::TooFewForLiars { left: n, f: trust.f, need });
    }
    Ok(next)
}

/// The document that begins a change, however many are left.
fn changed(trust: &Trust, change: &Change) -> Result<Trust, ChangeError> {
    let slots: Vec<u32> = trust.arbiters.iter().map(|arbiter| arbiter.slot).collect();
    if let Some(slot) = change.leaves.iter().find(|slot| !slots.contains(slot)) {
        return Err(ChangeError::NoSuchSlot { slot: *slot, arbiters: slots });
    }
    let stays = trust.arbiters.iter().filter(|arbiter| !change.leaves.contains(&arbiter.slot));
    let mut arbiters: Vec<Slot> = stays.chain(&change.joins).cloned().collect();
    arbiters.sort_by_key(|arbiter| arbiter.slot);
    let n = u32::try_from(arbiters.len()).unwrap_or(u32::MAX);
    if n == 0 {
        return Err(ChangeError::Last { slot: slots.first().copied().unwrap_or(0) });
    }
    let successor = trust.next();
    let k = quorum(n, trust.f);
    let witnesses = trust.witnesses.clone();
    let next = Some(Next { since: successor.version, arbiters, k, witnesses, recovers: false });
    let succession = Succession { next, ..trust.succession.clone() };
    Ok(Trust { succession, ..successor })
}

/// The document that begins a change of the witnesses to these, or to none, with the arbiters that there are.
/// Where too many of those in force are `lost` to be asked, hosts agree without them.
#[must_use]
pub fn begun_with_witnesses(trust: &Trust, members: Vec<Slot>, are_lost: bool) -> Trust {
    let successor = trust.next();
    let (arbiters, k) = (trust.arbiters.clone(), trust.k);
    let witnesses = Witnesses::of(members, trust.f);
    let next = Some(Next { since: successor.version, arbiters, k, witnesses, recovers: are_lost });
    let succession = Succession { next, ..trust.succession.clone() };
    Trust { succession, ..successor }
}

/// Whether too few witnesses of those in force answer to ever grant anything again.
#[must_use]
pub fn are_witnesses_lost(trust: &Trust, answer: &BTreeSet<u32>) -> bool {
    let witnesses = trust.council().witnesses;
    witnesses.is_some_and(|committee| committee.count(answer) < committee.k)
}

/// The document by which a change comes to its end without those in force, who are lost: the change
/// that is given, or else the one under way. Hosts that are off for good leave with it.
pub fn recovered(
    trust: &Trust,
    change: Option<&Change>,
    off: &BTreeSet<PublicKey>,
) -> Result<Trust, ChangeError> {
    let mut next = match change {
        Some(change) => changed(trust, change)?,
        None => trust.next(),
    };
    if let Some(committee) = &mut next.succession.next {
        committee.recovers = true;
    }
    next.roster.retain(|host| !off.contains(host));
    let known = next.retired.clone();
    next.retired.extend(off.iter().filter(|host| !known.contains(host)));
    Ok(next)
}

/// Whether too few of those in force answer to ever grant anything again.
pub fn check_lost(trust: &Trust, answer: &BTreeSet<u32>) -> Result<(), ChangeError> {
    let committee = trust.committee();
    match committee.count(answer) {
        few if few < committee.k => Ok(()),
        answer => Err(ChangeError::NotLost { answer, of: committee.n(), need: committee.k }),
    }
}

/// How many new arbiters are to join those who are left, with so many hosts that could have one: as many
/// as there were, and a number that is of use where `f` may lie: an odd one where none does, because an even one bears the
/// loss of no more than one less does. Where there are too few places for that, as many as there are.
#[must_use]
pub fn joins_for_recovery(were: usize, left: usize, places: usize, f: u32) -> usize {
    let all = were.min(left + places);
    let is_of_use = |n: &usize| u32::try_from(*n).is_ok_and(|n| Witnesses::is_of_use(n, f));
    (1..=all).rev().find(is_of_use).unwrap_or(all).saturating_sub(left)
}

/// Whether enough arbiters answer for a change to come to its end: of those in force, so that things
/// start meanwhile, and of those who take over.
pub fn check_quorums(trust: &Trust, answer: &BTreeSet<u32>) -> Result<(), ChangeError> {
    let recovers = trust.succession.next.as_ref().is_some_and(|next| next.recovers);
    let present = (!recovers || trust.next_committee().is_none()).then_some(trust.council());
    let present = present.map(|council| (["present arbiters", "present witnesses"], council));
    let next = trust.next_council().map(|council| (["next arbiters", "next witnesses"], council));
    let all = present
        .into_iter()
        .chain(next)
        .flat_map(|(words, council)| words.into_iter().zip(council.to_take(OnLoss::Stop)));
    for (which, committee) in all {
        let count = committee.count(answer);
        if count < committee.k {
            let (of, need) = (committee.n(), committee.k);
            return Err(ChangeError::NoQuorum { which, answer: count, of, need });
        }
    }
    Ok(())
}

/// The document that completes the change under way, once a quorum of those who take over have said
/// that they are ready for it; else how many have.
pub fn completed(trust: &Trust, words: &[Signed<Ready>]) -> Result<Trust, u32> {
    let (Some(next), Some(change)) = (trust.succession.next.clone(), trust.change()) else {
        return Err(0);
    };
    let is_its = |signed: &&Signed<Ready>| {
        let ready = signed.open().ok();
        ready.is_some_and(|ready| {
            let member = Slot { slot: ready.slot, key: signed.key(), url: String::new() };
            let is_member = |a: &Slot| (a.slot, a.key) == (member.slot, member.key);
            ready.change == change
                && ready.cluster == trust.cluster
                && next.arbiters.iter().any(is_member)
        })
    };
    let by_key: BTreeMap<_, _> =
        words.iter().filter(is_its).map(|word| (word.key(), word)).collect();
    let have = u32::try_from(by_key.len()).unwrap_or(u32::MAX);
    if have < next.k {
        return Err(have);
    }
    let handover =
        Handover { since: next.since, change, ready: by_key.into_values().cloned().collect() };
    Ok(Trust {
        arbiters: next.arbiters,
        k: next.k,
        witnesses: next.witnesses,
        succession: Succession { next: None, handover: Some(handover) },
        ..trust.next()
    })
}

/// The document that takes the change under way back; `None` without one.
#[must_use]
pub fn taken_back(trust: &Trust) -> Option<Trust> {
    trust.succession.next.as_ref()?;
    let succession = Succession { next: None, ..trust.succession.clone() };
    Some(Trust { succession, ..trust.next() })
}

/// The document that goes on with a change which was taken back, or put aside for another, while a host
/// that obeys `theirs` had agreed to it: that host follows nothing else. `None`: it is no change that could
/// go on, or it is the one under way.
#[must_use]
pub fn gone_on(trust: &Trust, theirs: &Trust) -> Option<Trust> {
    let next = theirs.succession.next.clone()?;
    let is_same_start =
        theirs.council_is(trust) && theirs.succession.handover == trust.succession.handover;
    if !is_same_start || trust.change() == theirs.change() {
        return None;
    }
    let succession = Succession { next: Some(next), ..trust.succession.clone() };
    Some(Trust { succession, ..trust.next() })
}

/// An arbiter or a witness that a host says it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub host: HostId,
    /// What it was started as.
    pub seat: Seat,
    /// Its number: its slot, if it is a member.
    pub index: u32,
    /// What it was started with.
    pub service: ServiceSpec,
    /// Where it answers, once it does.
    pub endpoint: Option<ServiceEndpoint>,
    /// The change of its job.
    pub revision: Revision,
    /// False when it has ended.
    pub is_alive: bool,
}

/// The arbiters and witnesses that a host has, running or not.
pub fn found<'a>(host: &'a HostId, jobs: impl Iterator<Item = &'a Job>) -> Vec<Found> {
    let found = jobs.filter_map(|job| {
        let JobKind::Service(service) = &job.spec.kind else { return None };
        let seat = match service.role {
            Role::Arbiter => Seat::Arbiter,
            Role::Witness => Seat::Witness,
            _ => return None,
        };
        let number = job.id.as_str().strip_prefix(&format!("ostler-{seat}-"))?;
        let endpoint = job.endpoint.as_deref().cloned();
        let (host, service) = (host.clone(), service.clone());
        let (revision, is_alive) = (job.revision, !job.state.is_ended());
        let index = number.parse().ok()?;
        Some(Found { host, seat, index, service, endpoint, revision, is_alive })
    });
    found.collect()
}

/// Whether an arbiter that runs is that member.
#[must_use]
pub fn is_member(found: &Found, slot: &Slot) -> bool {
    found.endpoint.as_ref().is_some_and(|endpoint| endpoint.key == slot.key)
}

/// The number of an arbiter that nobody had before, as far as is known.
#[must_use]
pub fn number_above(trust: &Trust, found: &[Found]) -> u32 {
    highest(trust).max(found.iter().map(|found| found.index).max()).map_or(0, |most| most + 1)
}

/// An arbiter that was started for a change and never became a member: a change that was begun and
/// interrupted goes on with it.
#[must_use]
pub fn left_over<'a>(trust: &'a Trust, found: &'a [Found]) -> Option<&'a Found> {
    all_left_over(trust, found, Seat::Arbiter).next()
}

/// All of those, or witnesses like them.
pub fn all_left_over<'a>(
    trust: &'a Trust,
    found: &'a [Found],
    seat: Seat,
) -> impl Iterator<Item = &'a Found> {
    let highest = highest(trust);
    let of_it = found.iter().filter(move |found| found.seat == seat);
    let above = of_it.filter(move |found| found.is_alive && Some(found.index) > highest);
    above.filter(|found| trust.host_key(&found.host).is_some())
}

/// Arbiters and witnesses that run and are no members any more: they go on covering until every host has heard that
/// others have taken over, and are of no use after that. Of witnesses no document that names others remembers the
/// numbers, so while no change is under way every one that has no seat is former.
pub fn former<'a>(trust: &'a Trust, found: &'a [Found]) -> impl Iterator<Item = &'a Found> {
    let members = trust.seats();
    let is_former = move |found: &&Found| {
        let is_witness = found.seat == Seat::Witness && trust.succession.next.is_none();
        let is_known = is_witness || Some(found.index) <= highest(trust);
        is_known && !members.iter().any(|(_, member)| member.slot == found.index)
    };
    found.iter().filter(is_former)
}

/// The highest slot that the document knows of.
fn highest(trust: &Trust) -> Option<u32> {
    let words = trust.succession.handover.iter().flat_map(|handover| &handover.ready);
    let said = words.filter_map(|word| word.open().ok()).map(|ready| ready.slot);
    trust.seats().iter().map(|(_, member)| member.slot).chain(said).max()
}

/// A host on which a new arbiter may be placed.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The host.
    pub host: &'a Host,
    /// How many of Ostler's own services it has.
    pub services: usize,
    /// Whether it is heard now.
    pub is_heard: bool,
}

/// The host for a new arbiter: one that is heard, is not drained and has none, with the fewest of
/// Ostler's services. `None`: there is no such host.
#[must_use]
pub fn choose_host<'a>(
    trust: &Trust,
    candidates: &[Candidate<'a>],
    arbiters_at: &BTreeSet<HostId>,
) -> Option<&'a Host> {
    let is_fit = |c: &&Candidate<'_>| {
        c.is_heard
            && c.host.intent != Some(HostIntent::Drain)
            && trust.roster.contains(&c.host.key)
            && !arbiters_at.contains(&c.host.id)
    };
    let least = candidates.iter().filter(is_fit).min_by_key(|c| (c.services, &c.host.id));
    least.map(|candidate| candidate.host)
}

#[cfg(test)]
mod tests {
    use protocol::signed::SecretKey;

    use super::*;
    use crate::charter::tests::trust_of_arbiter;
    use crate::layout::tests::service;
    use crate::verdict::tests::host;

    fn key(n: u32) -> SecretKey {
        SecretKey::from_seed([u8::try_from(n).unwrap() + 90; 32])
    }

    fn arbiter(slot: u32) -> Slot {
        Slot { slot, key: key(slot).public(), url: format!("https://10.0.0.{slot}:7461") }
    }

    fn three() -> Trust {
        let arbiters = vec![arbiter(0), arbiter(1), arbiter(2)];
        Trust { arbiters, k: 2, ..trust_of_arbiter("") }
    }

    fn replace(leaves: u32, joins: u32) -> Change {
        Change { leaves: [leaves].into(), joins: vec![arbiter(joins)] }
    }

    fn accepts(old: &Trust, new: &Trust) -> bool {
        let operator = key(77);
        let with = |trust: &Trust| Trust { operators: vec![operator.public()], ..trust.clone() };
        let signed = Signed::seal(&with(new), &operator);
        Trust::accept(Some(&with(old)), &signed).is_ok()
    }

    #[test]
    fn a_change_is_begun_completed_or_taken_back_by_lawful_documents() {
        let old = three();
        let between = begun(&old, &replace(2, 3)).unwrap();
        assert!(accepts(&old, &between));
        assert!(accepts(&between, &taken_back(&between).unwrap()));
        assert_eq!(taken_back(&old), None);
        // A host that had agreed holds on to it, and the others can come back to it.
        let back = taken_back(&between).unwrap();
        let again = gone_on(&back, &between).unwrap();
        assert_eq!((again.change(), again.version), (between.change(), back.version + 1));
        assert!(accepts(&back, &again) && accepts(&between, &again));
        assert_eq!(gone_on(&between, &between), None);
        assert_eq!(gone_on(&back, &old), None);
        let word = |slot: u32, change| {
            let ready = Ready { cluster: old.cluster.clone(), slot, change };
            Signed::seal(&ready, &key(slot))
        };
        let change = between.change().unwrap();
        assert_eq!(completed(&between, &[word(3, change)]), Err(1));
        // Who leaves has no word in it, and nobody two.
        let words = [word(3, change), word(2, change), word(3, change)];
        assert_eq!(completed(&between, &words), Err(1));
        let done = completed(&between, &[word(3, change), word(0, change)]).unwrap();
        assert!(accepts(&between, &done) && !accepts(&old, &done));
        let slots: Vec<u32> = done.arbiters.iter().map(|a| a.slot).collect();
        assert_eq!((slots, done.k, done.version), (vec![0, 1, 3], 2, old.version + 2));
    }

    #[test]
    fn what_is_lost_is_recovered_without_it_and_what_is_not_lost_is_not() {
        let (there, gone) = (key(50).public(), key(51).public());
        let old = Trust { roster: vec![there, gone], ..three() };
        let not_lost = check_lost(&old, &[0, 2].into()).unwrap_err();
        assert_eq!(
            not_lost.to_string(),
            "2 of 3 arbiters answer, and a ticket needs 2: they are not lost"
        );
        assert_eq!(check_lost(&old, &[2, 7].into()), Ok(()));
        let change = Change { leaves: [0, 1].into(), joins: vec![arbiter(3), arbiter(4)] };
        let between = recovered(&old, Some(&change), &[gone].into()).unwrap();
        assert!(accepts(&old, &between));
        assert_eq!((&between.roster, &between.retired), (&vec![there], &vec![gone]));
        // A host agrees when those who take over grant; before, only with those in force as well.
        let ordinary = begun(&old, &change).unwrap();
        assert_eq!(ordinary.change(), between.change(), "it is the same change");
        let next = [2, 3].into();
        assert!(between.may_agree(&next) && !ordinary.may_agree(&next));
        assert!(!between.may_agree(&[0, 1, 2].into()));
        // The one that is under way can be completed so, and another host be found to be off.
        let later = recovered(&ordinary, None, &[gone].into()).unwrap();
        assert!(accepts(&ordinary, &later) && later.may_agree(&next));
        assert_eq!(recovered(&later, None, &[gone].into()).unwrap().retired, [gone]);
        let bytes = serde_json::to_value(&ordinary.succession.next).unwrap();
        assert!(bytes.get("recovers").is_none(), "agents of an older version read it");
    }

    #[test]
    fn an_odd_number_of_arbiters_is_recovered_with_the_hosts_there_are() {
        for (were, left, places, joins) in
            [(1, 0, 2, 1), (3, 1, 2, 2), (3, 1, 1, 0), (3, 0, 2, 1), (5, 2, 2, 1), (3, 1, 0, 0)]
        {
            assert_eq!(joins_for_recovery(were, left, places, 0), joins, "{were} {left} {places}");
        }
        // Of four, of whom one may lie, four come back, or as many as there are places for.
        for (left, places, joins) in [(2, 2, 2), (2, 1, 1), (2, 3, 2), (0, 3, 3)] {
            assert_eq!(joins_for_recovery(4, left, places, 1), joins, "{left} {places}");
        }
    }

    #[test]
    fn where_one_may_lie_enough_arbiters_stay_to_bear_it_unless_they_are_lost() {
        let four = Trust { f: 1, k: 3, arbiters: (0..4).map(arbiter).collect(), ..three() };
        let fewer = Change { leaves: [3].into(), joins: vec![] };
        let no = begun(&four, &fewer).unwrap_err();
        assert_eq!(no, ChangeError::TooFewForLiars { left: 3, f: 1, need: 4 });
        assert_eq!(begun(&four, &replace(3, 4)).unwrap().next_committee().unwrap().k, 3);
        assert!(recovered(&four, Some(&fewer), &BTreeSet::new()).is_ok());
    }

    #[test]
    fn what_cannot_be_says_why_with_numbers() {
        let old = three();
        let none = begun(&old, &replace(7, 8)).unwrap_err();
        assert_eq!(none.to_string(), "no arbiter has slot 7; the arbiters are 0, 1, 2");
        let one = Trust { arbiters: vec![arbiter(0)], k: 1, ..old.clone() };
        let last = begun(&one, &Change { leaves: [0].into(), joins: vec![] });
        assert_eq!(last, Err(ChangeError::Last { slot: 0 }));
        let between = begun(&old, &replace(2, 3)).unwrap();
        assert_eq!(check_quorums(&between, &[0, 1].into()), Ok(()));
        let few = check_quorums(&between, &[0, 3].into()).unwrap_err();
        assert_eq!(few.to_string(), "1 of 3 present arbiters answer, and 2 are needed");
        let few = check_quorums(&between, &[1, 2].into()).unwrap_err();
        assert_eq!(few.to_string(), "1 of 3 next arbiters answer, and 2 are needed");
    }

    #[test]
    fn a_number_is_never_given_twice_and_an_interrupted_start_is_gone_on_with() {
        let old = three();
        let there = host(3);
        let old = Trust { roster: vec![there.key], ..old };
        assert_eq!((number_above(&old, &[]), left_over(&old, &[])), (3, None));
        let jobs = [
            service(Role::Arbiter, 2, protocol::job::JobState::Running, 1),
            service(Role::Arbiter, 5, protocol::job::JobState::Running, 2),
            service(Role::Monitor, 9, protocol::job::JobState::Running, 3),
        ];
        let found = found(&there.id, jobs.iter());
        assert_eq!(number_above(&old, &found), 6);
        assert_eq!(left_over(&old, &found).map(|found| found.index), Some(5));
        assert_eq!(former(&old, &found).count(), 0);
        let fewer = Trust { arbiters: vec![arbiter(0), arbiter(3)], ..old };
        assert_eq!(former(&fewer, &found).map(|found| found.index).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_new_arbiter_goes_where_there_is_none_and_little_else() {
        let hosts = [host(1), host(2), host(3), host(4)];
        let roster = hosts.iter().map(|host| host.key).collect();
        let trust = Trust { roster, ..three() };
        let drained = Host { intent: Some(HostIntent::Drain), ..hosts[3].clone() };
        let candidate = |host, services, is_heard| Candidate { host, services, is_heard };
        let candidates = [
            candidate(&hosts[0], 0, true),
            candidate(&hosts[1], 1, true),
            candidate(&hosts[2], 0, false),
            candidate(&drained, 0, true),
        ];
        let taken = BTreeSet::from([hosts[0].id.clone()]);
        let chosen = choose_host(&trust, &candidates, &taken).map(|host| &host.id);
        assert_eq!(chosen, Some(&hosts[1].id));
        let all = hosts.iter().map(|host| host.id.clone()).collect();
        assert_eq!(choose_host(&trust, &candidates, &all), None);
    }
}
