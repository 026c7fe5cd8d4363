//! When a tenant's VMs may be started: what of all that is granted is asked the hours, and what a clock that jumps does.

use protocol::budget::Delegated;
use protocol::tenure::Standing;
use protocol::trust::{Policy, TenantPolicy};
use serde_json::json;

use super::stop::item;
use super::*;

/// Monday the fifth of January 2026, 00:00 UTC.
const MONDAY_MS: u64 = 1_767_571_200_000;
const HOUR_MS: u64 = 3_600_000;
const OPEN_MS: u64 = MONDAY_MS + 8 * HOUR_MS;
const SHUT_MS: u64 = MONDAY_MS + 18 * HOUR_MS;

fn with_hours(trust: Trust) -> Trust {
    let rules: TenantPolicy = serde_json::from_value(json!({
        "start_windows": { "open": [{ "days": ["mon"], "from": "08:00", "to": "18:00" }] } }))
    .unwrap();
    let tenants = BTreeMap::from([(TenantId::default_tenant(), rules)]);
    let policy = Policy { default: None, tenants };
    policy.validate().unwrap();
    Trust { policy: Arc::new(policy), ..trust }
}

/// One that has read its hosts, at a time of the wall clock.
fn at(wall_ms: u64) -> Arbiter {
    Arbiter { wall_ms, ..Arbiter::ready(with_hours(trust(1, 1, 2))) }
}

fn is_closed(answer: &Result<Resources, DenialReason>) -> bool {
    matches!(answer, Err(DenialReason::Window { .. }))
}

#[test]
fn a_start_is_granted_while_a_window_is_open_and_a_no_says_when_it_is() {
    let mut arbiter = at(SHUT_MS - 1);
    assert_eq!(arbiter.ask(1, &offer(0, 1, "web", 1)), Ok(vcpus(1)));
    arbiter.wall_ms = SHUT_MS;
    let Err(DenialReason::Window { is_default, closed, .. }) =
        arbiter.ask(2, &offer(0, 2, "db", 1))
    else {
        panic!("the window is shut");
    };
    assert_eq!((is_default, closed.at_ms), (false, SHUT_MS));
    assert_eq!(closed.opens_ms, Some(OPEN_MS + 7 * 24 * HOUR_MS));
    let other = Offer { tenant: TenantId::new("other").unwrap(), ..offer(0, 3, "api", 1) };
    assert_eq!(arbiter.ask(3, &other), Ok(vcpus(1)), "it has no hours");
}

#[test]
fn what_was_granted_once_is_said_again_when_the_window_is_shut() {
    let mut arbiter = at(SHUT_MS - 1);
    let ask = offer(0, 1, "web", 1);
    assert_eq!(arbiter.ask(1, &ask), Ok(vcpus(1)));
    arbiter.wall_ms = SHUT_MS;
    assert_eq!(arbiter.ask(2, &ask), Ok(vcpus(1)));
    arbiter.hears(3, 0, statement(1, vec![hold(1, "web", 1)], &[]));
    assert_eq!(arbiter.core.books().used(&TenantId::default_tenant()).vcpus, 1);
}

#[test]
fn what_runs_moves_and_fails_over_at_any_hour() {
    let mut arbiter = at(SHUT_MS);
    arbiter.hears(1, 0, statement(1, vec![hold(1, "web", 2)], &[]));
    assert_eq!(
        arbiter.ask(2, &Offer { resources: vcpus(2), ..migrate_in(1, 1, "web", 0, id(1, 1)) }),
        Ok(vcpus(2))
    );
    let mut lost = at(OPEN_MS);
    let stop = |offer: Offer| Offer { on_loss: OnLoss::Stop, ..offer };
    assert_eq!(lost.ask(1, &stop(offer(0, 1, "db", 1))), Ok(vcpus(1)));
    assert_eq!(lost.covers(2, 0, 1, vec![item(1, "db", Standing::Hold)]), [1]);
    lost.wall_ms = SHUT_MS;
    let action = Action::FailOver { from: host(0), hold: id(1, 1) };
    let elsewhere = stop(Offer { action, ..offer(1, 1, "db", 1) });
    assert_eq!(lost.ask(2 * T, &elsewhere), Ok(vcpus(1)));
}

#[test]
fn growing_is_asked_the_hours_and_nothing_else_of_a_size_is() {
    let mut arbiter = at(SHUT_MS);
    arbiter.hears(1, 0, statement(1, vec![hold(1, "web", 2)], &[]));
    assert!(is_closed(&arbiter.ask(2, &resize(0, 2, "web", 3))));
    assert_eq!(arbiter.ask(2, &resize(0, 3, "web", 2)), Ok(vcpus(2)), "its debits spread anew");
    assert_eq!(arbiter.ask(2, &resize(0, 4, "web", 1)), Ok(vcpus(1)));
    // One that grows as it moves does, too.
    let larger = Offer { resources: vcpus(3), ..migrate_in(1, 1, "web", 0, id(1, 1)) };
    assert!(is_closed(&arbiter.ask(2, &larger)));
    arbiter.wall_ms = OPEN_MS;
    assert_eq!(arbiter.ask(3, &resize(0, 5, "web", 3)), Ok(vcpus(3)));
}

#[test]
fn a_job_that_others_have_granted_is_read_before_it_is_said_to_grow() {
    let mut arbiter = at(SHUT_MS);
    let ask = Signed::seal(&resize(0, 2, "web", 2), &key(HOST));
    let (verdict, out) = arbiter.ask_signed(1, ask.clone());
    assert!(matches!(verdict, Verdict::Denial(_)));
    assert_eq!(out, [Effect::ReadHost { host: host(0) }]);
    arbiter.hears(2, 0, statement(2, vec![hold(1, "web", 2)], &[2]));
    assert!(matches!(arbiter.ask_signed(3, ask).0, Verdict::Grant(_)));
}

#[test]
fn a_wall_clock_that_jumps_opens_or_shuts_the_window_and_nothing_else() {
    let mut arbiter = at(OPEN_MS);
    assert_eq!(arbiter.ask(1, &offer(0, 1, "web", 1)), Ok(vcpus(1)));
    arbiter.hears(2, 0, statement(1, vec![hold(1, "web", 1)], &[]));
    let books = arbiter.core.books().clone();
    let times = [(0, false), (u64::MAX, false), (OPEN_MS, true), (SHUT_MS, false)];
    for (num, (wall_ms, is_open)) in (2..).zip(times) {
        arbiter.wall_ms = wall_ms;
        let answer = arbiter.ask(3, &offer(0, num, "db", 1));
        assert_eq!((answer.is_ok(), is_closed(&answer)), (is_open, !is_open), "at {wall_ms}");
        arbiter.hears(3, 0, statement(num, vec![hold(1, "web", 1)], &[]));
        assert_eq!(arbiter.core.books(), &books, "at {wall_ms}");
    }
}

/// It has no entry of its own, and cannot have been larger than its budget.
#[test]
fn what_runs_by_a_budget_moves_at_any_hour() {
    let mut arbiter = at(SHUT_MS);
    let delegated = Some(Delegated { vms: 2, away: BTreeSet::new() });
    arbiter.hears(1, 0, statement(1, vec![HoldItem { delegated, ..hold(1, "a", 2) }], &[]));
    let to = |size| Offer {
        resources: vcpus(size),
        ..migrate_in(1, u64::from(size), "a.web", 0, id(1, 1))
    };
    assert!(is_closed(&arbiter.ask(2, &to(3))), "more than the budget");
    assert_eq!(arbiter.ask(2, &to(2)), Ok(vcpus(2)));
}
