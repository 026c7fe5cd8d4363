//! A witness: leases by the same rules, and no books.

use protocol::tenure::Standing;
use protocol::trust::Witnesses;

use super::*;

/// Slot 7, beside one arbiter.
fn witnessed(hosts: u8) -> Trust {
    let slot = Slot { slot: 7, key: key(ARBITER).public(), url: String::new() };
    let mut trust = trust(1, 1, hosts);
    trust.arbiters[0].key = key(55).public();
    Trust { witnesses: Witnesses::of(vec![slot], 0), ..trust }
}

fn stop(n: u8, num: u64, job: &str) -> Offer {
    Offer { on_loss: OnLoss::Stop, ..offer(n, num, job, 1) }
}

fn covers(witness: &mut Arbiter, now_ms: u64, n: u8, held: &[u64]) -> Option<Vec<u64>> {
    let item = |num: &u64| tenure::Item {
        id: id(1, *num),
        job: JobId::new("web").unwrap(),
        resources: vcpus(1),
        tenant: TenantId::default_tenant(),
        debits: None,
        on_loss: OnLoss::Stop,
        delegated: None,
        standing: Standing::Hold,
    };
    let said = tenure::Statement {
        host: host(n),
        epoch: Epoch(1),
        seq: now_ms,
        watermark: id(1, 9),
        items: held.iter().map(item).collect(),
        trust_version: 1,
    };
    let statement = Signed::seal(&said, &key(HOST + n));
    let out = witness.tell(now_ms, Input::Stated { request: 1, statement });
    let [Effect::Term { term: Ok(term), .. }] = &out[..] else { panic!("{out:?}") };
    assert_eq!(term.slot, 7);
    (!term.is_silent).then(|| term.covered.iter().map(|id| id.num).collect())
}

#[test]
fn a_witness_waits_for_no_host_and_is_silent_for_a_term() {
    let mut witness = Arbiter::started(witnessed(3), 0, true);
    assert_eq!(witness.ask(5, &stop(0, 1, "web")), Err(DenialReason::Silent { for_ms: T - 5 }));
    assert_eq!(covers(&mut witness, T - 1, 0, &[1]), None);
    assert_eq!(witness.core.waiting_for(T - 1), [Waiting::Silence { for_ms: 1 }]);
    assert_eq!(witness.core.waiting_for(T), [], "nobody was read");
    assert_eq!(witness.ask(T, &stop(0, 12, "web")), Ok(Resources::ZERO), "and books nothing");
    assert_eq!(witness.core.books().entries().count(), 0);
    assert!(witness.core.is_witness());
}

#[test]
fn a_witness_lets_one_host_at_a_time_run_a_job() {
    let mut witness = Arbiter::started(witnessed(3), 0, false);
    assert_eq!(witness.ask(0, &stop(0, 10, "web")), Ok(Resources::ZERO));
    assert_eq!(covers(&mut witness, 4_000, 0, &[10]), Some(vec![10]));
    let promised = DenialReason::Promised { host: host(0), id: id(1, 10), for_ms: Some(4_001) };
    assert_eq!(witness.ask(T, &stop(1, 10, "web")), Err(promised));
    assert_eq!(witness.ask(4_001 + T, &stop(1, 11, "web")), Ok(Resources::ZERO));
    assert_eq!(covers(&mut witness, 4_002 + T, 0, &[10]), Some(vec![]), "another has it");
    // What its host has ended is over here as well.
    assert_eq!(covers(&mut witness, 4_003 + T, 1, &[]), Some(vec![]));
    let early = witness.ask(4_004 + T, &stop(1, 8, "web"));
    assert!(matches!(early, Err(DenialReason::OfferEnded { .. })), "{early:?}");
}

/// Arbiters say which hold was the last, and what a tenant may have; a witness has no say in either.
#[test]
fn a_witness_says_nothing_of_quotas_last_holds_and_kept_jobs() {
    let mut witness = Arbiter::started(with_quota(witnessed(3), 0), 0, false);
    let action = Action::FailOver { from: host(0), hold: id(1, 3) };
    assert_eq!(witness.ask(0, &Offer { action, ..stop(1, 1, "web") }), Ok(Resources::ZERO));
    let kept = witness.ask(0, &offer(1, 2, "db", 1));
    assert!(matches!(kept, Err(DenialReason::Policy { .. })), "{kept:?}");
    let tenant = TenantId::default_tenant();
    let refused = NotMember::Witness { version: 1 };
    assert_eq!(witness.core.tenant_book(&tenant).err(), Some(refused));
    assert_eq!(
        witness.core.tenant_room(0, &tenant, &JobId::new("web").unwrap()).err(),
        Some(refused)
    );
    assert_eq!(witness.core.ready(0).err(), Some(vec![Waiting::Change]));
}

#[test]
fn a_migration_names_a_successor_at_a_witness_too() {
    let mut witness = Arbiter::started(witnessed(3), 0, false);
    let arrive =
        |n: u8, num| Offer { on_loss: OnLoss::Stop, ..migrate_in(n, num, "web", 0, id(1, 10)) };
    let unknown = witness.ask(0, &arrive(1, 10));
    assert!(matches!(unknown, Err(DenialReason::Policy { .. })), "nobody runs it: {unknown:?}");
    witness.ask(0, &stop(0, 10, "web")).unwrap();
    assert_eq!(witness.ask(1, &arrive(1, 10)), Ok(Resources::ZERO));
    let third = witness.ask(2, &arrive(2, 10));
    assert!(matches!(third, Err(DenialReason::Promised { .. })), "{third:?}");
}

/// Who leaves goes on covering, and grants nothing; who is made an arbiter reads every host first.
#[test]
fn a_witness_that_leaves_covers_on_and_one_that_becomes_an_arbiter_is_new() {
    let mut witness = Arbiter::started(witnessed(2), 0, false);
    witness.ask(0, &stop(0, 10, "web")).unwrap();
    let gone = Trust { version: 2, witnesses: Witnesses::default(), ..witnessed(2) };
    witness.tell(10, Input::Trust(Arc::new(gone.clone())));
    assert_eq!(covers(&mut witness, 20, 0, &[10]), Some(vec![10]));
    assert_eq!(witness.core.books().entries().count(), 0);
    assert!(witness.core.slot().is_err());
    let arbiter = Trust { version: 3, ..trust(1, 1, 2) };
    witness.tell(30, Input::Trust(Arc::new(arbiter)));
    let waiting = witness.core.waiting_for(30);
    assert!(waiting.contains(&Waiting::Silence { for_ms: T }), "{waiting:?}");
    assert!(waiting.contains(&Waiting::Host(host(1))), "{waiting:?}");
}
