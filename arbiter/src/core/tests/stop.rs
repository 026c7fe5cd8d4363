//! Jobs that are killed when they are not covered: leases, and the statements that renew them.

use protocol::tenure::Standing;

use super::*;

fn stop(n: u8, num: u64, job: &str) -> Offer {
    Offer { on_loss: OnLoss::Stop, ..offer(n, num, job, 1) }
}

fn arrive(n: u8, num: u64, job: &str, from: u8, hold: OfferId) -> Offer {
    Offer { on_loss: OnLoss::Stop, ..migrate_in(n, num, job, from, hold) }
}

fn fail_over(n: u8, num: u64, job: &str, from: u8, hold: OfferId) -> Offer {
    let action = Action::FailOver { from: host(from), hold };
    Offer { action, ..stop(n, num, job) }
}

pub(super) fn item(num: u64, job: &str, standing: Standing) -> tenure::Item {
    tenure::Item {
        id: id(1, num),
        job: JobId::new(job).unwrap(),
        resources: vcpus(1),
        tenant: TenantId::default_tenant(),
        debits: None,
        on_loss: OnLoss::Stop,
        delegated: None,
        standing,
    }
}

fn from(n: u8, num: u64, is_handed: bool) -> Standing {
    let from = HoldAt { host: host(n), hold: id(1, num) };
    Standing::Arriving { from, is_handed }
}

impl Arbiter {
    /// What host `n` is covered for when it lists this.
    pub(super) fn covers(
        &mut self,
        now_ms: u64,
        n: u8,
        watermark: u64,
        items: Vec<tenure::Item>,
    ) -> Vec<u64> {
        let said = tenure::Statement {
            host: host(n),
            epoch: Epoch(1),
            seq: now_ms,
            watermark: id(1, watermark),
            items,
            trust_version: 1,
        };
        let statement = Signed::seal(&said, &key(HOST + n));
        let out = self.tell(now_ms, Input::Stated { request: 1, statement });
        let [Effect::Term { request: 1, term: Ok(term) }] = &out[..] else { panic!("{out:?}") };
        assert_eq!((term.slot, &term.host, term.seq), (0, &host(n), now_ms));
        term.covered.iter().map(|id| id.num).collect()
    }
}

fn promised_for(n: u8, num: u64, for_ms: u64) -> Result<Resources, DenialReason> {
    Err(DenialReason::Promised { host: host(n), id: id(1, num), for_ms: Some(for_ms) })
}

fn not_the_last(answer: &Result<Resources, DenialReason>) -> bool {
    matches!(answer, Err(DenialReason::NotTheLast { .. }))
}

#[test]
fn r5_a_lapsed_promise_is_given_to_another_host_and_a_live_one_is_not() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 2));
    assert_eq!(arbiter.ask(0, &stop(0, 1, "web")), Ok(vcpus(1)));
    assert_eq!(arbiter.ask(T, &stop(1, 1, "web")), promised_for(0, 1, 1));
    assert_eq!(arbiter.ask(T + 1, &stop(1, 2, "web")), Ok(vcpus(1)));
    assert_eq!(arbiter.ask(T + 2, &stop(0, 2, "web")), promised_for(1, 2, T));
}

#[test]
fn r4_a_statement_keeps_the_promise_and_a_late_one_is_not_covered_once_another_has_it() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 2));
    arbiter.ask(0, &stop(0, 1, "web")).unwrap();
    let listed = || vec![item(1, "web", Standing::Hold)];
    assert_eq!(arbiter.covers(5_000, 0, 1, listed()), [1]);
    assert_eq!(arbiter.ask(T + 1, &stop(1, 1, "web")), promised_for(0, 1, 5_000));
    assert_eq!(arbiter.ask(5_001 + T, &stop(1, 2, "web")), Ok(vcpus(1)));
    assert_eq!(arbiter.covers(5_002 + T, 0, 1, listed()), [0_u64; 0], "excluded");
    assert_eq!(arbiter.covers(5_003 + T, 1, 2, vec![item(2, "web", Standing::Hold)]), [2]);
}

#[test]
fn r4_nothing_is_covered_in_silence_and_everything_alive_after_it() {
    let mut arbiter = Arbiter::started(trust(1, 1, 1), 0, true);
    let listed = || vec![item(1, "web", Standing::Hold)];
    assert_eq!(arbiter.covers(T - 1, 0, 1, listed()), [0_u64; 0]);
    assert_eq!(arbiter.covers(T, 0, 1, listed()), [1]);
}

#[test]
fn r1_whoever_gets_a_slot_later_gives_no_leases_for_one_term() {
    let later = Trust { version: 2, ..trust(1, 1, 1) };
    let mut arbiter = Arbiter::ready(later);
    let ask = |job| Offer { trust_version: 2, ..stop(0, 1, job) };
    let listed = || vec![item(1, "web", Standing::Hold)];
    assert_eq!(arbiter.ask(5, &ask("web")), Err(DenialReason::Silent { for_ms: T - 5 }));
    assert_eq!(arbiter.covers(T - 1, 0, 1, listed()), [0_u64; 0]);
    let keep = Offer { trust_version: 2, ..offer(0, 2, "db", 1) };
    assert_eq!(arbiter.ask(5, &keep), Ok(vcpus(1)), "the books say who has it");
    assert_eq!(arbiter.covers(T, 0, 1, listed()), [1]);
    // A later document that names it still changes nothing.
    let third = Arc::new(Trust { version: 3, ..trust(1, 1, 1) });
    arbiter.tell(T, Input::Trust(third));
    assert_eq!(arbiter.covers(T + 1, 0, 1, listed()), [1]);
}

#[test]
fn r3_a_statement_without_the_job_releases_it_at_once_and_an_old_one_does_not() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 2));
    arbiter.ask(0, &stop(0, 3, "web")).unwrap();
    arbiter.covers(1, 0, 2, vec![]);
    assert_eq!(arbiter.ask(2, &stop(1, 1, "web")), promised_for(0, 3, T - 1), "older than it");
    let offered =
        vec![tenure::Item { standing: Standing::Offer, ..item(3, "web", Standing::Hold) }];
    arbiter.covers(3, 0, 3, offered);
    assert_eq!(arbiter.ask(4, &stop(1, 2, "web")), promised_for(0, 3, T - 3), "still offered");
    arbiter.covers(5, 0, 3, vec![]);
    assert_eq!(arbiter.ask(6, &stop(1, 3, "web")), Ok(vcpus(1)));
}

#[test]
fn r5_a_late_duplicate_of_an_older_offer_does_not_lower_the_id_of_the_lease() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 2));
    arbiter.ask(0, &stop(0, 2, "web")).unwrap();
    arbiter.ask(1, &stop(0, 1, "web")).unwrap();
    arbiter.covers(2, 0, 1, vec![]);
    assert_eq!(arbiter.ask(3, &stop(1, 1, "web")), promised_for(0, 2, T - 1));
}

#[test]
fn a_migration_names_a_successor_that_runs_only_once_it_is_handed_over() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 3));
    arbiter.ask(0, &stop(0, 1, "web")).unwrap();
    let source = || vec![item(1, "web", Standing::Hold)];
    arbiter.covers(1, 0, 1, source());
    assert_eq!(arbiter.ask(2, &arrive(1, 1, "web", 0, id(1, 1))), Ok(vcpus(1)));
    assert!(matches!(
        arbiter.ask(3, &arrive(2, 1, "web", 0, id(1, 1))),
        Err(DenialReason::Promised { .. })
    ));
    assert_eq!(arbiter.covers(4, 1, 1, vec![item(1, "web", from(0, 1, false))]), [1]);
    // The source has closed its hold; its statement hands the lease to the successor.
    arbiter.covers(5, 0, 1, vec![]);
    assert_eq!(arbiter.covers(6, 1, 1, vec![item(1, "web", from(0, 1, true))]), [1]);
    assert_eq!(arbiter.ask(7, &stop(0, 2, "web")), promised_for(1, 1, T));
}

#[test]
fn an_arrival_whose_source_is_gone_is_not_covered_before_it_is_handed_over() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 2));
    arbiter.ask(0, &stop(0, 1, "web")).unwrap();
    arbiter.covers(0, 0, 1, vec![item(1, "web", Standing::Hold)]);
    arbiter.ask(1, &arrive(1, 1, "web", 0, id(1, 1))).unwrap();
    let late = T + 1;
    assert_eq!(arbiter.covers(late, 1, 1, vec![item(1, "web", from(0, 1, false))]), [0_u64; 0]);
    assert_eq!(arbiter.covers(late + 1, 1, 1, vec![item(1, "web", from(0, 1, true))]), [1]);
}

#[test]
fn what_fails_over_must_have_been_the_last_hold_that_was_covered() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 3));
    arbiter.ask(0, &stop(0, 1, "web")).unwrap();
    let late = T + 1;
    let unknown = arbiter.ask(late, &fail_over(1, 1, "web", 0, id(1, 1)));
    assert!(not_the_last(&unknown), "never seen to be held: {unknown:?}");
    arbiter.covers(late, 0, 1, vec![item(1, "web", Standing::Hold)]);
    assert!(matches!(
        arbiter.ask(late, &fail_over(1, 2, "web", 0, id(1, 1))),
        Err(DenialReason::Promised { .. })
    ));
    let later = 2 * late;
    assert_eq!(arbiter.ask(later, &fail_over(1, 3, "web", 0, id(1, 1))), Ok(vcpus(1)));
    // It did not come to that there, and the next host is asked.
    arbiter.covers(later, 1, 3, vec![]);
    assert_eq!(arbiter.ask(later, &fail_over(2, 1, "web", 0, id(1, 1))), Ok(vcpus(1)));
    arbiter.covers(later, 2, 1, vec![item(1, "web", Standing::Hold)]);
    // Stopped and deleted there; whoever still sees it on the lost host is too late.
    arbiter.covers(later, 2, 1, vec![]);
    let stale = arbiter.ask(later, &fail_over(1, 4, "web", 0, id(1, 1)));
    assert!(not_the_last(&stale), "{stale:?}");
    assert_eq!(arbiter.ask(later, &stop(1, 5, "web")), Ok(vcpus(1)), "somebody wants it anew");
}

#[test]
fn a_growth_keeps_the_lease_and_its_hold_is_the_last_once_it_is_covered() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 2));
    arbiter.ask(0, &stop(0, 1, "web")).unwrap();
    assert_eq!(arbiter.covers(1, 0, 1, vec![item(1, "web", Standing::Hold)]), [1]);
    let grown = Offer { on_loss: OnLoss::Stop, ..resize(0, 2, "web", 3) };
    assert_eq!(arbiter.ask(2, &grown), Ok(vcpus(3)));
    let offered = tenure::Item { standing: Standing::Offer, ..item(2, "web", Standing::Hold) };
    let both = vec![item(1, "web", Standing::Hold), offered];
    assert_eq!(arbiter.covers(3, 0, 2, both), [1], "not redeemed yet");
    let instead = || vec![item(2, "web", Standing::Hold)];
    assert_eq!(arbiter.covers(4, 0, 2, instead()), [2]);
    assert_eq!(arbiter.ask(5, &stop(1, 1, "web")), promised_for(0, 2, T));
    assert_eq!(arbiter.covers(5 + T, 0, 2, instead()), [2], "lapsed, and nobody has it");
    let lapsed = 6 + 2 * T;
    assert!(not_the_last(&arbiter.ask(lapsed, &fail_over(1, 2, "web", 0, id(1, 1)))));
    assert_eq!(arbiter.ask(lapsed, &fail_over(1, 3, "web", 0, id(1, 2))), Ok(vcpus(1)));
    let grown = Offer { on_loss: OnLoss::Stop, ..resize(0, 3, "web", 4) };
    assert_eq!(arbiter.ask(lapsed + 1, &grown), promised_for(1, 3, T), "it is another's");
}

#[test]
fn a_kept_entry_is_in_the_way_of_a_job_that_lapses_and_the_other_way_round() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 2));
    arbiter.ask(0, &offer(0, 1, "web", 1)).unwrap();
    assert_eq!(arbiter.ask(9 * T, &stop(1, 1, "web")), promised(0, 1));
    arbiter.ask(0, &stop(0, 2, "db")).unwrap();
    assert_eq!(arbiter.ask(9 * T, &offer(1, 2, "db", 1)), promised(0, 2));
    let kept = Offer { on_loss: OnLoss::Keep, ..fail_over(1, 3, "new", 0, id(1, 1)) };
    assert!(is_policy(&arbiter.ask(0, &kept)));
}

#[test]
fn r6_a_job_at_full_quota_fails_over() {
    let mut arbiter = Arbiter::ready(with_quota(trust(1, 1, 2), 1));
    arbiter.ask(0, &stop(0, 1, "web")).unwrap();
    assert!(matches!(arbiter.ask(0, &stop(0, 2, "db")), Err(DenialReason::Quota { .. })));
    assert_eq!(arbiter.ask(T + 1, &stop(1, 1, "web")), Ok(vcpus(1)));
}

#[test]
fn a_statement_that_is_no_hosts_is_refused() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 1));
    let said = tenure::Statement {
        host: host(0),
        epoch: Epoch(1),
        seq: 1,
        watermark: id(1, 9),
        items: vec![],
        trust_version: 1,
    };
    arbiter.ask(0, &stop(0, 1, "web")).unwrap();
    for signer in [HOST + 1, ARBITER] {
        let statement = Signed::seal(&said, &key(signer));
        let out = arbiter.tell(0, Input::Stated { request: 1, statement });
        let is_refused =
            matches!(out[..], [Effect::Term { term: Err(NotStated::NotAHost { .. }), .. }]);
        assert!(is_refused, "{out:?}");
    }
    assert_eq!(arbiter.core.books().entries().count(), 1, "nothing was released");
}
