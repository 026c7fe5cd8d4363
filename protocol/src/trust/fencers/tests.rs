//! What a fencer can say and what not, the numbers of documents, and two who speak at once.

use super::*;
use crate::id::ClusterId;
use crate::signed::SecretKey;
use crate::trust::{Fence, Slot};

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

fn peer(n: u8) -> Peer {
    Peer { key: key(n).public(), role: Role::Controller, url: String::new() }
}

const OPERATOR: u8 = 1;
const HOSTS: [u8; 3] = [3, 4, 5];
const FENCERS: [u8; 2] = [11, 12];

/// Version 3000 of a cluster with two fencers.
fn base() -> Trust {
    let bare = Trust {
        version: 2_417,
        operators: vec![key(OPERATOR).public()],
        arbiters: vec![Slot { slot: 0, key: key(2).public(), url: String::new() }],
        roster: HOSTS.map(|n| key(n).public()).to_vec(),
        peers: vec![peer(11), peer(12), peer(13)],
        ..Trust::of_nobody(ClusterId::new("c1").unwrap())
    };
    bare.next_with_fencers(&FENCERS.map(|n| key(n).public())).unwrap()
}

fn by_operator(trust: &Trust) -> Signed<Trust> {
    Signed::seal(trust, &key(OPERATOR))
}

/// What the fencer says of a host upon what is in force.
fn word(in_force: &Signed<Trust>, fencer: u8, host: u8) -> Signed<Trust> {
    word_after(0, in_force, fencer, host)
}

/// The same of one that has signed before.
fn word_after(last: u64, in_force: &Signed<Trust>, fencer: u8, host: u8) -> Signed<Trust> {
    let by = key(fencer);
    let trust = in_force.open().unwrap();
    let mut next = trust.next_by_fencer(in_force, &by.public(), last).unwrap();
    next.fenced.retain(|fence| fence.host != key(host).public());
    let (since, by_key) = (next.version, by.public());
    let of = key(host).public();
    next.fenced.push(Fence {
        host: of,
        since,
        by: by_key,
        by_fencer: true,
        at_ms: 0,
        reason: String::new(),
    });
    Signed::seal(&next, &by)
}

fn follows(old: &Signed<Trust>, new: &Signed<Trust>) -> bool {
    let old = old.open().unwrap();
    Trust::accept(Some(&old), new).is_ok_and(|new| new.is_some())
}

#[test]
fn each_signer_has_numbers_of_its_own() {
    let base = by_operator(&base());
    assert_eq!(base.open().unwrap().version, 3_000);
    let one = word(&base, 11, 3);
    let two = word(&base, 12, 4);
    let versions = |of: &[&Signed<Trust>]| -> Vec<u64> {
        of.iter().map(|signed| signed.open().unwrap().version).collect()
    };
    assert_eq!(versions(&[&one, &two]), [3_001, 3_002]);
    let later = [word(&one, 11, 4), word(&two, 11, 5), word(&one, 12, 5)];
    assert_eq!(versions(&later.each_ref()), [3_011, 3_011, 3_002]);
    assert_eq!(one.open().unwrap().next().version, 4_000);
    let without = one.open().unwrap().next_with_fencers(&[]).unwrap();
    assert_eq!((without.version, without.next().version), (4_000, 4_001));
}

#[test]
fn a_fencer_says_that_a_host_is_off_and_an_operator_goes_on_from_there() {
    let base = by_operator(&base());
    let one = word(&base, 11, 3);
    assert!(follows(&base, &one));
    let two = word(&one, 12, 4);
    assert!(follows(&one, &two) && follows(&base, &two), "one may have been missed");
    let next = by_operator(&two.open().unwrap().next());
    assert!(follows(&two, &next) && follows(&one, &next) && follows(&base, &next));
    assert_eq!(next.open().unwrap().fenced.len(), 2);
    let forgetful = by_operator(&base.open().unwrap().next());
    assert!(follows(&base, &forgetful) && !follows(&one, &forgetful), "what was said stays said");
    assert_eq!(Trust::accept(Some(&one.open().unwrap()), &one), Ok(None));
    assert!(Trust::accept(None, &two).unwrap().is_some(), "a role that begins");
}

#[test]
fn what_is_upon_an_older_operators_document_follows_no_later_one() {
    let base = by_operator(&base());
    let mut next = base.open().unwrap().next();
    next.quota.clear();
    next.kill_ms += 1;
    let next = by_operator(&next);
    assert!(!follows(&next, &word(&base, 11, 3)));
    let far = (0..98usize).fold(word(&base, 11, 3), |last, n| word(&last, 11, HOSTS[n % 3]));
    assert_eq!(far.open().unwrap().version, 3_981);
    assert!(!follows(&next, &far));
    let last = word(&far, 11, 3);
    let last_trust = last.open().unwrap();
    assert_eq!(last_trust.version, 3_991);
    assert_eq!(last_trust.next_by_fencer(&last, &key(11).public(), 0), None, "used up");
}

#[test]
fn a_fencer_changes_nothing_else() {
    let base = by_operator(&base());
    let in_force = base.open().unwrap();
    let fencer = key(11);
    let honest = word(&base, 11, 3).open().unwrap();
    let says = |change: &dyn Fn(&mut Trust), signer: &SecretKey| {
        let mut trust = honest.clone();
        change(&mut trust);
        let signed = Signed::seal(&trust, signer);
        let follows = follows(&base, &signed);
        assert_eq!(follows, Trust::accept(None, &signed).is_ok(), "nor is it believed at first");
        follows
    };
    assert!(says(&|_| {}, &fencer));
    assert!(!says(&|t| t.operators.push(fencer.public()), &fencer));
    assert!(!says(&|t| t.roster.push(key(9).public()), &fencer));
    assert!(!says(&|t| t.retired.push(key(9).public()), &fencer));
    assert!(!says(&|t| t.fencing.fencers.clear(), &fencer));
    assert!(!says(&|t| t.upon = None, &fencer));
    assert!(!says(&|t| t.version = 3_002, &fencer), "another's number");
    assert!(!says(&|t| t.version = 4_001, &fencer), "beyond what is its own");
    assert!(!says(&|t| t.fenced[0].by = key(OPERATOR).public(), &fencer), "another's word");
    assert!(!says(&|t| t.fenced[0].since = 2_999, &fencer), "by a number that was nobody's");
    assert!(!says(&|t| t.fenced[0].by_fencer = false, &fencer), "as if an operator had said it");
    assert!(!says(&|_| {}, &key(13)), "a controller that is no fencer");
    assert!(!says(&|_| {}, &key(12)), "another fencer's number");
    assert!(!says(&|t| t.fenced[0].host = key(77).public(), &fencer), "no host of the cluster");
    let mut claims = honest.clone();
    claims.upon = Some(Arc::new(Signed::seal(&in_force, &key(13))));
    let claimed = Signed::seal(&claims, &fencer);
    assert!(!follows(&base, &claimed), "no operator has signed what it is upon");
    assert!(Trust::accept(None, &claimed).is_err());
    let nested = Trust { upon: Some(Arc::new(word(&base, 11, 3))), ..honest.clone() };
    assert!(!follows(&base, &Signed::seal(&nested, &fencer)));
    let operators = Trust { version: 4_000, ..honest.clone() };
    assert!(!follows(&base, &by_operator(&operators)), "an operator's is upon nothing");
}

#[test]
fn two_who_speak_at_once_are_brought_together_by_who_says_it_again() {
    let base = by_operator(&base());
    let (one, two) = (word(&base, 11, 3), word(&base, 12, 4));
    assert!(!follows(&one, &two) && !follows(&two, &one), "neither takes back the other");
    let again = word_after(3_001, &two, 11, 3);
    assert!(follows(&one, &again) && follows(&two, &again));
    let other = word_after(3_002, &one, 12, 4);
    assert_eq!(other.open().unwrap().version, 3_012, "no version twice");
    assert!(follows(&one, &other));
    assert!(
        follows(&two, &other),
        "what a quorum has heard is heard afterwards by who obeyed another"
    );
    let both = word_after(3_012, &word_after(3_001, &other, 11, 3), 12, 4);
    assert!(follows(&one, &both) && follows(&two, &both) && follows(&again, &both));
}

#[test]
fn who_has_heard_a_fencer_and_who_has_heard_an_operator_follow_what_the_fencer_says_upon_that_one()
{
    let base = by_operator(&base());
    let said = word(&base, 11, 3);
    let meanwhile = by_operator(&base.open().unwrap().next());
    assert!(!follows(&said, &meanwhile), "it takes back that host 3 was off");
    assert!(!follows(&meanwhile, &said), "it is upon what is over");
    let again = word_after(3_001, &meanwhile, 11, 3);
    assert_eq!(again.open().unwrap().version, 4_001);
    assert!(follows(&said, &again) && follows(&meanwhile, &again) && follows(&base, &again));
    let goes_on = by_operator(&again.open().unwrap().next());
    assert!(follows(&again, &goes_on), "and so does everybody after that");
}

/// Of three arbiters one was on host 4, which is off now, one has heard both words and one an operator who has heard
/// neither: nobody but the fencer of host 4 can bring them together, whoever has fenced host 3.
#[test]
fn what_a_quorum_has_heard_of_another_host_is_repeated_upon_an_operators_later_document() {
    let base = by_operator(&base());
    let first = word(&base, 12, 3);
    let both = word_after(0, &first, 11, 4);
    let mut heard = vec![];
    base.open().unwrap().note_heard(&mut heard);
    assert_eq!(heard, []);
    first.open().unwrap().note_heard(&mut heard);
    assert_eq!(heard, first.open().unwrap().fenced);
    let meanwhile = by_operator(&base.open().unwrap().next());
    assert!(!follows(&both, &word_after(3_011, &meanwhile, 11, 4)), "it says nothing of host 3");

    let says = |upon: &Signed<Trust>, heard: &[Fence]| {
        let anew = word_after(3_011, upon, 11, 4).open().unwrap();
        let mut with = anew.clone();
        with.repeat(heard);
        (Signed::seal(&with, &key(11)), with != anew)
    };
    let (again, has_repeated) = says(&meanwhile, &heard);
    assert!(has_repeated && again.open().unwrap().fence_of(&key(3).public()) == heard.first());
    for known in [&base, &first, &both, &meanwhile] {
        assert!(follows(known, &again));
    }
    assert!(Trust::accept(None, &again).is_ok());
    let goes_on = by_operator(&again.open().unwrap().next());
    assert!(follows(&again, &goes_on) && follows(&both, &goes_on));
    let other = word_after(3_002, &again, 12, 5);
    assert!(follows(&again, &other), "another fencer goes on from there");
    again.open().unwrap().note_heard(&mut heard);
    assert_eq!(heard, again.open().unwrap().fenced, "once a quorum obeys it");
    assert_eq!(heard.len(), 2);

    // A change of arbiters may leave a word behind that a quorum has heard: then it is not repeated.
    let mut left_behind = heard.clone();
    meanwhile.open().unwrap().note_heard(&mut left_behind);
    assert!(left_behind.iter().all(|word| word.since > 4_000), "{left_behind:?}");

    // What is said already, disowned, or nobody's to say in this document is left out, and the rest is heard.
    assert!(!says(&again, &heard).1);
    let mut without = meanwhile.open().unwrap();
    without.fencing.disown(&base.open().unwrap(), &first.open().unwrap());
    assert!(!says(&by_operator(&without), &heard).1);
    let others: Vec<Fence> =
        heard.iter().map(|word| Fence { by: key(13).public(), ..word.clone() }).collect();
    assert!(!says(&meanwhile, &others).1);
}

#[test]
fn what_no_quorum_has_heard_is_left_behind_once_an_operator_disowns_it() {
    let base = by_operator(&base());
    let (one, two) = (word(&base, 11, 3), word(&base, 12, 4));
    let (heard, unheard) = (two.open().unwrap(), one.open().unwrap());
    let forgetful = heard.next();
    assert!(!follows(&one, &by_operator(&forgetful)), "it takes back that host 3 was off");
    let mut next = forgetful.clone();
    next.fencing.disown(&heard, &unheard);
    assert_eq!(next.fencing.disowned, [Disowned { host: key(3).public(), since: 3_001 }]);
    let next = by_operator(&next);
    assert!(follows(&one, &next) && follows(&two, &next) && follows(&base, &next));
    let mut twice = next.open().unwrap();
    twice.fencing.disown(&heard, &unheard);
    assert_eq!(twice, next.open().unwrap());
    let by_fencer = Trust { fencing: twice.fencing, ..word(&two, 12, 5).open().unwrap() };
    assert!(!follows(&two, &Signed::seal(&by_fencer, &key(12))), "only an operator does");
}

#[test]
fn an_operator_goes_on_from_its_newest_document_with_what_a_quorum_has_heard() {
    let base = by_operator(&base());
    let (one, two) = (word(&base, 11, 3), word(&base, 12, 4));
    // Signed without having heard of either.
    let mut news = base.open().unwrap().next();
    news.kill_ms += 1;
    let news = by_operator(&news);
    let seen = [&one, &two, &news, &base].map(|signed| signed.open().unwrap());
    let next = Trust::brought_together(&seen, Some(&seen[0])).unwrap();
    assert_eq!((next.version, next.kill_ms), (4_000, seen[2].kill_ms));
    assert_eq!(next.fenced, seen[0].fenced);
    assert_eq!(next.fencing.disowned, [Disowned { host: key(4).public(), since: 3_002 }]);
    let next = by_operator(&next.next());
    assert!([&one, &two, &news, &base].iter().all(|old| follows(old, &next)));
    // Nobody knows what was heard: nothing is disowned, and whoever has heard anything refuses.
    let blind = Trust::brought_together(&seen, None).unwrap();
    assert_eq!(blind, seen[2]);
    let blind = by_operator(&blind.next());
    assert!(follows(&news, &blind) && !follows(&one, &blind) && !follows(&two, &blind));
    assert_eq!(Trust::brought_together(&[], None), None);
}

#[test]
fn an_operators_own_word_is_never_disowned() {
    let base = base();
    let mut next = base.next();
    let (host, by) = (key(3).public(), key(OPERATOR).public());
    let since = next.version;
    let word = Fence { host, since, by, by_fencer: false, at_ms: 0, reason: String::new() };
    next.fenced.push(word);
    let mut later = base.next().next();
    later.fencing.disown(&base, &next);
    assert!(later.fencing.disowned.is_empty());
    later.fencing.disowned.push(Disowned { host, since });
    assert!(!follows(&by_operator(&next), &by_operator(&later)));
}

#[test]
fn an_operators_word_is_what_is_left_under_a_fencers_that_is_disowned() {
    let mut said = base().next();
    let (host, by) = (key(3).public(), key(OPERATOR).public());
    let fence =
        |since| Fence { host, since, by, by_fencer: false, at_ms: 0, reason: String::new() };
    said.fenced.push(fence(said.version));
    let said = by_operator(&said);
    // It is off again, or still, and no quorum hears who says so.
    let unheard = word(&said, 11, 3);
    assert!(follows(&said, &unheard));
    let seen = [&said, &unheard].map(|signed| signed.open().unwrap());
    let next = Trust::brought_together(&seen, Some(&seen[0])).unwrap().next();
    assert_eq!(next.fenced, seen[0].fenced);
    assert!(follows(&said, &by_operator(&next)) && follows(&unheard, &by_operator(&next)));
    // What the operator had not said is still said too late.
    let mut late = next;
    late.fenced = vec![fence(seen[0].version - 1)];
    assert!(!follows(&unheard, &by_operator(&late)));
}

#[test]
fn fencers_that_make_no_sense_are_refused() {
    let refused = |change: &dyn Fn(&mut Trust)| {
        let mut trust = base();
        change(&mut trust);
        trust.validate().is_err()
    };
    assert!(!refused(&|_| {}));
    assert!(refused(&|t| t.version = 3_001));
    assert!(refused(&|t| t.fencing.fencers[0].place = 0));
    assert!(refused(&|t| t.fencing.fencers[0].place = 10));
    assert!(refused(&|t| t.fencing.fencers[0].place = 2));
    assert!(refused(&|t| t.fencing.fencers[0].key = key(12).public()));
    assert!(refused(&|t| t.peers.clear()));
    assert!(refused(&|t| t.fencing.after_ms = 4_999));
    let mut left = base();
    left.peers.remove(0);
    left.drop_fencers_that_left();
    assert_eq!((left.validate(), left.fencing.fencers.len()), (Ok(()), 1));
}

#[test]
fn a_place_is_given_again_only_after_a_document_without_its_owner() {
    let places = |trust: &Trust| -> Vec<(u8, PublicKey)> {
        trust.fencing.fencers.iter().map(|fencer| (fencer.place, fencer.key)).collect()
    };
    let (one, two, three) = (key(11).public(), key(12).public(), key(13).public());
    let others = base().next_with_fencers(&[two, three]).unwrap();
    assert_eq!(places(&others), [(2, two), (3, three)]);
    let again = others.next_with_fencers(&[three, two, one]).unwrap();
    assert_eq!(places(&again), [(1, one), (2, two), (3, three)]);
}

#[test]
fn documents_without_fencers_are_written_as_before() {
    let trust = Trust { version: 7, fencing: Fencing::default(), ..base() };
    let text = serde_json::to_string(&trust).unwrap();
    assert!(!text.contains("fencing") && !text.contains("upon"), "{text}");
    assert_eq!((trust.next().version, trust.operators_version()), (8, 7));
}
