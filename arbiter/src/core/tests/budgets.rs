//! Budgets: counted in full while they are held, and the names that they own are nobody else's.

use protocol::budget::Delegated;

use super::*;

fn names(away: &[&str]) -> BTreeSet<JobId> {
    away.iter().map(|name| JobId::new(*name).unwrap()).collect()
}

fn delegate(n: u8, num: u64, job: &str, size: u32, away: &[&str]) -> Offer {
    let action = Action::Delegate { vms: size, away: names(away) };
    Offer { action, ..offer(n, num, job, size) }
}

fn budget(num: u64, job: &str, size: u32, away: &[&str]) -> HoldItem {
    let delegated = Some(Delegated { vms: size, away: names(away) });
    HoldItem { delegated, ..hold(num, job, size) }
}

type Answer = Result<Resources, DenialReason>;

fn is_promised(answer: &Answer, to: u8) -> bool {
    matches!(answer, Err(DenialReason::Promised { host: other, .. }) if *other == host(to))
}

fn is_granted(answer: &Answer) -> bool {
    answer.is_ok()
}

fn used(arbiter: &Arbiter) -> (u32, u32) {
    let used = arbiter.core.books().promised(&TenantId::default_tenant());
    (used.vcpus, used.vms)
}

#[test]
fn a_budget_counts_in_full_and_what_is_by_it_does_not() {
    let limit = Amounts { vcpus: 4, vms: 4, ..Amounts::UNLIMITED };
    let mut arbiter = Arbiter::ready(with_limit(trust(1, 1, 2), limit));
    assert!(is_granted(&arbiter.ask(0, &delegate(0, 1, "a", 3, &[]))));
    assert_eq!(used(&arbiter), (3, 3));
    assert!(!is_granted(&arbiter.ask(0, &offer(1, 1, "web", 2))));
    assert!(is_granted(&arbiter.ask(0, &offer(1, 2, "web", 1))));
    // Its host has less of it than was granted, and says so.
    arbiter.hears(0, 0, statement(1, vec![budget(1, "a", 2, &[])], &[]));
    assert_eq!(used(&arbiter), (3, 3));
    arbiter.hears(0, 0, statement(1, vec![], &[]));
    assert_eq!(used(&arbiter), (1, 1), "given back");
}

#[test]
fn a_keeper_that_knows_no_budgets_leaves_one_as_it_was() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 2));
    arbiter.hears(0, 0, statement(1, vec![budget(1, "a", 3, &[])], &[]));
    arbiter.hears(0, 0, statement(1, vec![hold(1, "a", 3)], &[]));
    assert_eq!(used(&arbiter), (3, 3));
    assert!(is_promised(&arbiter.ask(0, &offer(1, 1, "a.web", 1)), 0));
}

#[test]
fn names_of_a_budget_are_its_hosts_from_the_grant_to_the_statement_without_it() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 3));
    assert!(is_granted(&arbiter.ask(0, &delegate(0, 1, "a", 3, &[]))));
    for name in ["a.web", "a.web.2"] {
        assert!(is_promised(&arbiter.ask(0, &offer(1, 1, name, 1)), 0), "{name}");
    }
    assert!(is_granted(&arbiter.ask(0, &offer(1, 2, "ab.web", 1))));
    assert!(is_granted(&arbiter.ask(0, &offer(0, 2, "a.web", 1))), "its own host by a ticket");
    let nested = delegate(1, 3, "a.web", 1, &[]);
    assert!(is_promised(&arbiter.ask(0, &nested), 0), "a budget within the other's names");
    arbiter.hears(0, 0, statement(2, vec![], &[]));
    assert!(is_granted(&arbiter.ask(0, &offer(1, 4, "a.web", 1))));
    // And the other way round: what somebody has is in the way of a budget.
    assert!(is_promised(&arbiter.ask(0, &delegate(2, 1, "a", 1, &[])), 1));
    assert!(is_granted(&arbiter.ask(0, &delegate(1, 5, "a", 1, &[]))), "but not of its own");
}

#[test]
fn what_is_by_a_budget_moves_and_is_its_new_hosts_once_it_is_away() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 3));
    arbiter.hears(0, 0, statement(1, vec![budget(1, "a", 3, &[])], &[]));
    let wrong = arbiter.ask(0, &migrate_in(1, 1, "a.web", 0, id(1, 7)));
    assert!(!is_granted(&wrong), "host 0 does not hold it so");
    assert!(is_granted(&arbiter.ask(0, &migrate_in(1, 2, "a.web", 0, id(1, 1)))));
    let again = Offer { action: Action::Start, ..offer(1, 3, "a.web", 1) };
    assert!(is_promised(&arbiter.ask(0, &again), 0), "host 0 may start it still");
    assert!(is_promised(&arbiter.ask(0, &offer(2, 1, "a.web", 1)), 1));
    arbiter.hears(0, 1, statement(2, vec![hold(2, "a.web", 1)], &[]));
    assert!(is_granted(&arbiter.ask(0, &resize(1, 4, "a.web", 2))), "it has it");
    arbiter.hears(0, 0, statement(1, vec![budget(1, "a", 3, &["a.web"])], &[]));
    arbiter.hears(0, 1, statement(4, vec![], &[]));
    assert!(is_granted(&arbiter.ask(0, &offer(1, 5, "a.web", 1))), "its name has left");
    assert!(is_promised(&arbiter.ask(0, &offer(1, 6, "a.db", 1)), 0));
    // Another hold of the budget says so as well, and a new budget of that name does not.
    assert!(is_promised(&arbiter.ask(0, &delegate(0, 2, "a", 4, &[])), 1));
    assert!(is_granted(&arbiter.ask(0, &delegate(0, 3, "a", 4, &["a.web"]))));
}

#[test]
fn an_arbiter_that_has_forgotten_a_budget_grants_none_of_its_names_before_it_has_read_its_host() {
    let mut arbiter = Arbiter::started(trust(1, 1, 2), 0, true);
    arbiter.hears(T, 1, statement(0, vec![], &[]));
    let early = arbiter.ask(T, &offer(1, 1, "a.web", 1));
    assert!(!is_granted(&early) && !is_promised(&early, 0), "{early:?}");
    arbiter.hears(T, 0, statement(1, vec![budget(1, "a", 3, &[])], &[]));
    assert!(is_promised(&arbiter.ask(T, &offer(1, 1, "a.web", 1)), 0));
}

/// While its host is away nobody could say that it may run elsewhere, so it takes another name from the beginning.
#[test]
fn names_of_a_budget_are_for_vms_of_its_tenant_that_are_kept() {
    let mut arbiter = Arbiter::ready(trust(1, 1, 2));
    assert!(is_granted(&arbiter.ask(0, &delegate(0, 1, "a", 3, &[]))));
    let lost = Offer { on_loss: OnLoss::Stop, ..offer(0, 2, "a.web", 1) };
    let other = Offer { tenant: TenantId::new("other").unwrap(), ..offer(0, 3, "a.web", 1) };
    for (offer, why) in [(lost, "is stopped when its host is lost"), (other, "tenant other")] {
        let Err(DenialReason::Policy { message }) = arbiter.ask(0, &offer) else {
            panic!("granted: {offer:?}");
        };
        assert!(message.contains("budget a's") && message.contains(why), "{message}");
    }
    assert!(is_granted(&arbiter.ask(0, &offer(0, 4, "a.web", 1))));
}
