//! The next trust document: who is in the cluster, given who was and what runs now.
//!
//! Pure. The version grows only when the content differs, so that running bootstrap again signs
//! nothing. A host that does not answer today stays on the roster: absence removes nobody.

use std::collections::BTreeSet;

use protocol::id::ClusterId;
use protocol::job::{Role, ServiceEndpoint};
use protocol::signed::PublicKey;
use protocol::trust::{Peer, Slot, Trust, Witnesses, quorum};

/// A service that runs, as the trust document will name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it does.
    pub role: Role,
    /// Its number within the role; an arbiter's slot.
    pub index: u32,
    /// Where it answers, and its key.
    pub endpoint: ServiceEndpoint,
}

/// What the next document is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// The one in force says it all.
    Same,
    /// This one, to be signed.
    New(Box<Trust>),
}

/// Decides the next document. `cluster`, and how many `liars` it bears, are taken only when there is none yet.
#[must_use]
pub fn next_trust(
    in_force: Option<&Trust>,
    (cluster, liars): (&ClusterId, u32),
    operator: PublicKey,
    members: &[Member],
    hosts: &[PublicKey],
) -> Next {
    let first = || Trust { f: liars, ..Trust::of_nobody(cluster.clone()) };
    let mut next = in_force.cloned().unwrap_or_else(first);
    if !next.operators.contains(&operator) {
        next.operators.push(operator);
    }
    let of_role = |role: Role| {
        let of_it = members.iter().filter(move |member| member.role == role);
        of_it.map(|Member { index: slot, endpoint, .. }| Slot {
            slot: *slot,
            key: endpoint.key,
            url: endpoint.url.clone(),
        })
    };
    let arbiters = of_role(Role::Arbiter);
    match in_force {
        None => {
            next.arbiters = arbiters.collect();
            next.arbiters.sort_by_key(|arbiter| arbiter.slot);
            let n = u32::try_from(next.arbiters.len()).unwrap_or(u32::MAX);
            next.k = quorum(n, next.f);
            // There was no document before this one by which anybody could have taken anything without them.
            let mut witnesses: Vec<Slot> = of_role(Role::Witness).collect();
            witnesses.sort_by_key(|witness| witness.slot);
            next.witnesses = Witnesses::of(witnesses, next.f);
        }
        // Who they are changes by `ostler arbiters` and `ostler witnesses`; where they answer may change at
        // any time.
        Some(_) => arbiters.chain(of_role(Role::Witness)).for_each(|now| {
            let others = next.succession.next.iter_mut();
            let others =
                others.flat_map(|next| next.arbiters.iter_mut().chain(&mut next.witnesses.members));
            let present = next.arbiters.iter_mut().chain(&mut next.witnesses.members);
            for known in present.chain(others).filter(|member| member.key == now.key) {
                known.url.clone_from(&now.url);
            }
        }),
    }
    next.peers = members
        .iter()
        .filter(|member| !matches!(member.role, Role::Arbiter | Role::Witness))
        .map(|Member { role, endpoint, .. }| Peer {
            key: endpoint.key,
            role: *role,
            url: endpoint.url.clone(),
        })
        .collect();
    let roster: BTreeSet<PublicKey> = next.roster.iter().chain(hosts).copied().collect();
    next.roster = roster.into_iter().collect();
    next.drop_fencers_that_left();
    match in_force {
        Some(before) if *before == next => Next::Same,
        _ => Next::New(Box::new(next.next())),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use protocol::signed::SecretKey;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        SecretKey::from_seed([seed; 32]).public()
    }

    fn member(role: Role, index: u32, seed: u8) -> Member {
        let url = format!("https://10.0.0.{seed}:7461");
        Member { role, index, endpoint: ServiceEndpoint { url, key: key(seed) } }
    }

    fn cluster() -> ClusterId {
        ClusterId::new("c-1").unwrap()
    }

    pub(crate) fn trust_of_arbiter(url: &str) -> Trust {
        let endpoint = ServiceEndpoint { url: url.into(), key: key(40) };
        let arbiter = Member { role: Role::Arbiter, index: 0, endpoint };
        signed_first(&[arbiter], &[key(3)])
    }

    fn signed_first(members: &[Member], hosts: &[PublicKey]) -> Trust {
        let Next::New(trust) = next_trust(None, (&cluster(), 0), key(1), members, hosts) else {
            panic!("the first document is always new")
        };
        *trust
    }

    #[test]
    fn how_many_may_lie_is_decided_by_the_first_document() {
        let members: Vec<Member> =
            (0..4).map(|n| member(Role::Arbiter, n.into(), 10 + n)).collect();
        let with = |known: Option<&Trust>, liars| match next_trust(
            known,
            (&cluster(), liars),
            key(1),
            &members,
            &[key(3)],
        ) {
            Next::New(trust) => Some(trust),
            Next::Same => None,
        };
        let first = with(None, 1).unwrap();
        assert_eq!((first.k, first.f, first.validate()), (3, 1, Ok(())));
        assert_eq!(with(Some(&first), 0), None, "later it stays");
    }

    #[test]
    fn the_first_document_has_the_witnesses_that_were_started() {
        let members = [
            member(Role::Arbiter, 0, 10),
            member(Role::Witness, 1, 11),
            member(Role::Witness, 3, 13),
            member(Role::Witness, 2, 12),
        ];
        let trust = signed_first(&members, &[key(3)]);
        assert_eq!(trust.validate(), Ok(()));
        let slots: Vec<u32> = trust.witnesses.members.iter().map(|slot| slot.slot).collect();
        assert_eq!((slots, trust.witnesses.k), (vec![1, 2, 3], 2));
        assert!(trust.peers.is_empty());
    }

    #[test]
    fn the_first_document_is_version_one_and_valid() {
        for n in 1..=5 {
            let arbiters: Vec<_> =
                (0..n).map(|i| member(Role::Arbiter, u32::from(i), 10 + i)).collect();
            let trust = signed_first(&arbiters, &[key(3), key(2)]);
            assert_eq!(trust.version, 1);
            assert_eq!(trust.k, u32::from(n) / 2 + 1);
            assert_eq!(trust.validate(), Ok(()));
        }
    }

    #[test]
    fn the_same_members_in_any_order_make_no_new_version() {
        let members = [member(Role::Arbiter, 0, 10), member(Role::Monitor, 0, 11)];
        let trust = signed_first(&members, &[key(3), key(2)]);
        let again = next_trust(Some(&trust), (&cluster(), 0), key(1), &members, &[key(2), key(3)]);
        assert_eq!(again, Next::Same);
    }

    #[test]
    fn a_host_found_later_joins_and_one_that_is_away_stays() {
        let members = [member(Role::Arbiter, 0, 10)];
        let trust = signed_first(&members, &[key(2), key(3)]);
        let next = next_trust(Some(&trust), (&cluster(), 0), key(1), &members, &[key(2), key(4)]);
        let Next::New(next) = next else { panic!("host 4 is new") };
        assert_eq!(next.version, 2);
        assert_eq!(next.roster.len(), 3);
        assert!(next.roster.contains(&key(3)));
    }

    #[test]
    fn an_arbiter_is_found_elsewhere_and_is_never_somebody_else() {
        let trust = signed_first(&[member(Role::Arbiter, 0, 10)], &[key(2)]);
        let mut moved = member(Role::Arbiter, 0, 10);
        moved.endpoint.url = "https://10.0.0.77:7461".into();
        let stranger = member(Role::Arbiter, 1, 11);
        let Next::New(next) =
            next_trust(Some(&trust), (&cluster(), 0), key(1), &[moved, stranger], &[])
        else {
            panic!("its address is new")
        };
        assert_eq!((next.arbiters.len(), next.k), (1, 1));
        assert_eq!(next.arbiters[0].url, "https://10.0.0.77:7461");
        let other = member(Role::Arbiter, 0, 12);
        assert_eq!(next_trust(Some(&trust), (&cluster(), 0), key(1), &[other], &[]), Next::Same);
    }

    #[test]
    fn a_service_with_a_new_key_or_address_replaces_its_old_self() {
        let old = [member(Role::Arbiter, 0, 10), member(Role::Controller, 0, 11)];
        let trust = signed_first(&old, &[key(2)]);
        let new = [member(Role::Arbiter, 0, 10), member(Role::Controller, 0, 12)];
        let Next::New(next) = next_trust(Some(&trust), (&cluster(), 0), key(1), &new, &[]) else {
            panic!("the controller's key is new")
        };
        assert_eq!(next.role_of(&key(11)), None);
        assert_eq!(next.role_of(&key(12)), Some(Role::Controller));
    }

    #[test]
    fn what_an_operator_wrote_into_the_document_stays() {
        let members = [member(Role::Arbiter, 0, 10)];
        let mut trust = signed_first(&members, &[key(2)]);
        trust.term_ms = 20_000;
        trust.operators.push(key(99));
        let next = next_trust(Some(&trust), (&cluster(), 0), key(1), &members, &[key(5)]);
        let Next::New(next) = next else { panic!("host 5 is new") };
        assert_eq!((next.term_ms, next.operators.len()), (20_000, 2));
    }
}
