//! Worlds in which one rule is broken on purpose, each named after the rule: the simulator must
//! find every one, at random where that is quick, else by the shortest story that shows it.
//!
//! Each story is told twice: with the rule nothing is wrong, without it the named invariant breaks.

use host_agent::core::Request;
use protocol::api::StopJob;
use protocol::job::{JobState, RunKey};
use protocol::refusal::Refusal;
use protocol::ticket::Action;
use tests::sim::minimal::minimise;
use tests::sim::workload::{job_id, spec};
use tests::sim::{Mutant, Profile, World, simulate, simulate_world};

use crate::fixed::replay;

/// The first of these seeds that finds the mutant, and by which rule.
#[track_caller]
fn found_at_random(mutant: Mutant, seeds: u64, invariants: &[&str]) {
    let found = (0..seeds).map(|seed| simulate(seed, Some(mutant))).find(|v| v.violation.is_some());
    let found = found.unwrap_or_else(|| panic!("{mutant:?} was not found over {seeds} seeds"));
    let invariant = found.violation.as_ref().map_or("", |violation| violation.invariant);
    assert!(invariants.contains(&invariant), "found by another rule: {}", replay(&found));
}

/// A story without and with the mutant.
#[track_caller]
fn found_in_story(mutant: Mutant, profile: Profile, invariant: &str, story: impl Fn(&mut World)) {
    found_in_story_by(mutant, profile, &[invariant], story);
}

/// The same where either of several rules may be broken first.
#[track_caller]
fn found_in_story_by(
    mutant: Mutant,
    profile: Profile,
    invariants: &[&str],
    story: impl Fn(&mut World),
) {
    let tell = |mutant| {
        let mut world = World::new(profile.clone(), mutant);
        world.run_ms(15_000);
        story(&mut world);
        world.violation
    };
    assert_eq!(tell(None), None, "the story itself breaks a rule");
    let found = tell(Some(mutant)).map(|violation| violation.invariant);
    assert!(found.is_some_and(|found| invariants.contains(&found)), "{mutant:?}: {found:?}");
}

fn one_arbiter() -> Profile {
    Profile { arbiters: 1, k: 1, ..Profile::calm(1) }
}

#[test]
fn ticket_reusable() {
    let mutant = Mutant::TicketReusable;
    found_in_story(mutant, Profile::calm(2), "expired_ticket_starts_nothing", |world| {
        let (job, spec) = (job_id(0), spec(1, false, false));
        assert!(world.start(0, &job, 1, &spec));
        world.await_state(0, &job, JobState::Running);
        world.stop(0, &job);
        world.delete(0, &job);
        let copy = world.oracle.puts[0].1.clone();
        world.ask_host(0, copy);
    });
}

#[test]
fn offer_numbers_restart_with_the_agent() {
    let mutant = Mutant::OfferNumbersRestart;
    found_in_story(mutant, Profile::calm(9), "offer_ids_never_repeat", |world| {
        let (job, spec) = (job_id(0), spec(1, false, false));
        world.offer(0, &job, 1, &spec, Action::Start).expect("an offer");
        world.restart(world.hosts[0].node, 50);
        world.run_ms(1_000);
        world.offer(0, &job, 1, &spec, Action::Start);
    });
}

/// Granted and forgotten: the offer is still open, so only silence keeps a second one away.
#[test]
fn no_silence_after_arbiter_restart() {
    let mutant = Mutant::NoSilenceAfterRestart;
    found_in_story(mutant, one_arbiter(), "no_vm_runs_on_two_hosts", |world| {
        let (job, spec) = (job_id(0), spec(1, false, false));
        let first = world.offer(0, &job, 1, &spec, Action::Start).expect("an offer");
        let first = world.ticket(first).expect("granted");
        world.restart(world.arbiters[0].node, 50);
        world.run_ms(4_500);
        let second = world.offer(1, &job, 1, &spec, Action::Start).expect("an offer");
        let second = world.ticket(second);
        world.put(0, &job, &spec, first, None);
        if let Some(second) = second {
            world.put(1, &job, &spec, second, None);
        }
        world.run_ms(5_000);
    });
}

#[test]
fn books_taken_as_empty_after_restart() {
    let mutant = Mutant::BooksTakenAsEmpty;
    found_in_story(mutant, one_arbiter(), "no_vm_runs_on_two_hosts", |world| {
        let (job, spec) = (job_id(0), spec(1, false, false));
        assert!(world.start(0, &job, 1, &spec));
        world.await_state(0, &job, JobState::Running);
        // The host can't be read, so its hold is nowhere but in its ledger.
        world.network.part(world.hosts[0].node, world.arbiters[0].node);
        world.restart(world.arbiters[0].node, 50);
        world.run_ms(12_000);
        world.start(1, &job, 1, &spec);
        world.run_ms(5_000);
    });
}

#[test]
fn target_runs_before_the_source_has_let_go() {
    found_at_random(Mutant::TargetRunsBeforeSourceLetGo, 250, &["no_vm_runs_on_two_hosts"]);
}

/// The offer was open when the job was handed away, by a host that deletes its row at once.
#[test]
fn handoff_leaves_the_sources_other_offers_open() {
    let mutant = Mutant::HandoffLeavesOffersOpen;
    found_in_story(mutant, Profile::calm(3), "expired_ticket_starts_nothing", |world| {
        let (job, spec) = (job_id(0), spec(1, false, false));
        let early = world.offer(0, &job, 7, &spec, Action::Start).expect("an offer");
        let early = world.ticket(early).expect("granted");
        assert!(world.start(0, &job, 1, &spec));
        world.await_state(0, &job, JobState::Running);
        world.migrate_by_hand(0, 1, &job, 2, &spec);
        world.await_state(1, &job, JobState::Running);
        world.delete(0, &job);
        world.put(0, &job, &spec, early, None);
        world.run_ms(3_000);
    });
}

#[test]
fn promise_ignored_by_the_arbiter() {
    let mutant = Mutant::PromiseIgnored;
    found_in_story(mutant, Profile::calm(4), "no_vm_runs_on_two_hosts", |world| {
        let (job, spec) = (job_id(0), spec(1, false, false));
        assert!(world.start(0, &job, 1, &spec));
        world.start(1, &job, 1, &spec);
        world.run_ms(5_000);
    });
}

#[test]
fn promise_freed_by_time() {
    let mutant = Mutant::PromiseFreedByTime;
    found_in_story(mutant, Profile::calm(5), "no_vm_runs_on_two_hosts", |world| {
        let (job, spec) = (job_id(0), spec(1, false, false));
        assert!(world.start(0, &job, 1, &spec));
        world.await_state(0, &job, JobState::Running);
        for arbiter in 0..3 {
            world.network.part(world.hosts[0].node, world.arbiters[arbiter].node);
        }
        world.run_ms(20_000);
        world.start(1, &job, 1, &spec);
        world.run_ms(5_000);
    });
}

#[test]
fn statement_hides_holds() {
    let mutant = Mutant::StatementHidesHolds;
    let rules = ["no_vm_runs_on_two_hosts", "every_hold_is_counted_in_full"];
    found_in_story_by(mutant, Profile::calm(6), &rules, |world| {
        let (job, spec) = (job_id(0), spec(1, false, false));
        assert!(world.start(0, &job, 1, &spec));
        world.await_state(0, &job, JobState::Running);
        world.run_ms(4_000);
        world.start(1, &job, 1, &spec);
        world.run_ms(5_000);
    });
}

#[test]
fn a_statement_tells_less_than_is_promised() {
    let mutant = Mutant::StatementTellsLess;
    found_in_story(mutant, one_arbiter(), "every_hold_is_counted_in_full", |world| {
        let spec = spec(4, false, true);
        assert!(world.start(0, &job_id(0), 1, &spec));
        world.await_state(0, &job_id(0), JobState::Running);
        world.run_ms(4_000);
        // 8 CPUs of 6.
        world.start(1, &job_id(1), 1, &spec);
        world.run_ms(5_000);
    });
}

/// A guest that is asked for a CPU does not always let it go.
#[test]
fn what_a_guest_was_asked_for_is_taken_for_given() {
    let mutant = Mutant::ShrinkTakenAsGiven;
    found_in_story(mutant, Profile::calm(12), "no_guest_has_more_than_is_promised", |world| {
        let (job, spec) = (job_id(0), spec(4, true, false));
        assert!(world.start(0, &job, 1, &spec));
        world.await_state(0, &job, JobState::Running);
        for revision in (2..40).step_by(2) {
            world.resize(0, &job, revision, 1, None);
            world.run_ms(20_000);
            // What is left is given back with the rest, whether or not it was given.
            if world.grow(0, &job, revision + 1, 4).is_none() {
                return;
            }
            world.run_ms(20_000);
        }
    });
}

#[test]
fn growth_needs_no_ticket() {
    let mutant = Mutant::GrowthNeedsNoTicket;
    found_in_story(mutant, one_arbiter(), "nothing_grows_without_a_ticket", |world| {
        let (job, spec) = (job_id(0), spec(1, true, true));
        assert!(world.start(0, &job, 1, &spec));
        world.await_state(0, &job, JobState::Running);
        let answer = world.resize(0, &job, 2, 4, None);
        let is_refused = matches!(answer, Some(Err(Refusal::Ticket { .. })));
        assert!(is_refused || world.violation.is_some(), "{answer:?}");
    });
}

#[test]
fn escrow_share_is_the_whole_quota() {
    found_at_random(Mutant::EscrowShareIsWholeQuota, 200, &["quota_is_never_exceeded"]);
}

#[test]
fn an_underbooked_ticket_is_taken() {
    let mutant = Mutant::UnderbookedTicketTaken;
    found_in_story(mutant, Profile::calm(13), "expired_ticket_starts_nothing", |world| {
        let (job, spec) = (job_id(0), spec(2, false, true));
        let offer = world.offer(0, &job, 1, &spec, Action::Start).expect("an offer");
        let ticket = world.ticket_of(offer, &[Some(1), Some(1), Some(1)]);
        assert_eq!(ticket.grants.len(), 3);
        let put = world.put(0, &job, &spec, ticket, None);
        let is_refused = matches!(put, Some(Err(Refusal::Ticket { .. })));
        assert!(is_refused || world.violation.is_some(), "{put:?}");
    });
}

/// Granted once more with other debits, and not redeemed: what runs is still booked as before.
#[test]
fn the_newest_debit_alone_counts() {
    let mutant = Mutant::NewestDebitAloneCounts;
    // A host that states what it has between the two hides it: with this seed it does not.
    found_in_story(mutant, Profile::calm(15), "every_hold_is_counted_in_full", |world| {
        let (job, spec) = (job_id(0), spec(3, false, true));
        let offer = world.offer(0, &job, 1, &spec, Action::Start).expect("an offer");
        let ticket = world.ticket_of(offer, &[Some(3), Some(3), None]);
        assert!(matches!(world.put(0, &job, &spec, ticket, None), Some(Ok(_))));
        world.await_state(0, &job, JobState::Running);
        let again = world.offer(0, &job, 2, &spec, Action::Resize).expect("an offer");
        world.ticket_of(again, &[Some(0), None, None]);
        // Anything that is written down.
        world.start(1, &job_id(1), 1, &spec);
        world.run_ms(500);
    });
}

#[test]
fn quota_is_ignored() {
    found_in_story(Mutant::QuotaIgnored, one_arbiter(), "quota_is_never_exceeded", |world| {
        let spec = spec(4, false, true);
        assert!(world.start(0, &job_id(0), 1, &spec));
        // 8 CPUs of 6.
        world.start(1, &job_id(1), 1, &spec);
        world.run_ms(5_000);
    });
}

#[test]
fn the_number_of_vms_in_a_quota_is_ignored() {
    let profile = Profile { quota_vms: Some(1), ..one_arbiter() };
    found_in_story(Mutant::QuotaIgnored, profile, "quota_is_never_exceeded", |world| {
        let spec = spec(1, false, true);
        assert!(world.start(0, &job_id(0), 1, &spec));
        // Two CPUs of 6, and two VMs of one.
        world.start(1, &job_id(1), 1, &spec);
        world.run_ms(5_000);
    });
}

/// Three starts by hand, of two in a minute; in between the arbiter is killed, if it is to forget.
fn three_starts(world: &mut World, is_killed: bool) {
    let spec = spec(1, false, true);
    for n in 0..3 {
        world.start(0, &job_id(n), 1, &spec);
        world.run_ms(1_000);
        if is_killed && n == 1 {
            world.restart(world.arbiters[0].node, 50);
            world.run_ms(12_000);
        }
    }
}

#[test]
fn the_rate_of_starts_is_ignored() {
    let profile = Profile { starts_in_a_minute: Some(2), ..one_arbiter() };
    found_in_story(Mutant::RateIgnored, profile, "rate_is_never_exceeded", |world| {
        three_starts(world, false);
    });
}

#[test]
fn starts_are_forgotten_by_an_arbiter_that_starts_anew() {
    let profile = Profile { starts_in_a_minute: Some(2), ..one_arbiter() };
    found_in_story(Mutant::StartsForgotten, profile, "rate_is_never_exceeded", |world| {
        three_starts(world, true);
    });
}

#[test]
fn hours_are_ignored() {
    let profile = Profile { has_hours: true, ..one_arbiter() };
    found_in_story(Mutant::HoursIgnored, profile, "nothing_is_granted_out_of_hours", |world| {
        let spec = spec(1, false, true);
        world.run_ms(60_000);
        assert!(!world.start(0, &job_id(0), 1, &spec) || world.mutant.is_some());
    });
}

#[test]
fn admission_ignores_open_offers() {
    let mutant = Mutant::AdmissionIgnoresOpenOffers;
    let invariant = "no_host_promises_more_than_it_has";
    found_in_story(mutant, Profile::calm(7), invariant, |world| {
        let spec = spec(2, false, false);
        for n in 0..4 {
            world.offer(0, &job_id(n), 1, &spec, Action::Start);
        }
    });
}

#[test]
fn reply_before_persist() {
    found_at_random(Mutant::ReplyBeforePersist, 10, &["accepted_jobs_survive_restart"]);
}

#[test]
fn event_before_persist() {
    found_at_random(Mutant::EventBeforePersist, 10, &["nothing_is_told_before_it_is_durable"]);
}

/// The put was held up on its way and arrives after its undo, with a ticket that is still good.
#[test]
fn undo_leaves_no_tombstone() {
    let mutant = Mutant::UndoLeavesNoTombstone;
    found_in_story(mutant, Profile::calm(8), "an_undone_task_is_never_done", |world| {
        use host_agent::core::Request;
        let (job, spec) = (job_id(0), spec(1, false, false));
        let run = Some(RunKey { run: world.next_run_id(), task: 2, claim: 1 });
        let offer = world.offer(0, &job, 1, &spec, Action::Start).expect("an offer");
        let ticket = world.ticket(offer).expect("granted");
        world.ask_host(0, Request::Delete { job: job.clone(), run, shared: false });
        let late = world.put(0, &job, &spec, ticket, run);
        let is_refused = matches!(late, Some(Err(Refusal::TaskUndone { .. })));
        assert!(is_refused || world.violation.is_some(), "{late:?}");
    });
}

#[test]
fn unexpected_guests_are_ended() {
    found_at_random(Mutant::UnexpectedGuestsAreEnded, 100, &["absence_destroys_nothing"]);
}

#[test]
fn conductor_ignores_claims() {
    found_at_random(Mutant::ConductorIgnoresClaims, 40, &["every_task_is_done_undone_or_owned"]);
}

#[test]
fn ledger_lost_at_boot() {
    found_at_random(Mutant::LedgerLostAtBoot, 20, &["accepted_jobs_survive_restart"]);
}

/// A guest takes its time to shut down, and nobody may take its job for free meanwhile.
#[test]
fn omitted_while_dying() {
    let mutant = Mutant::OmittedWhileDying;
    found_in_story(mutant, one_arbiter(), "no_vm_runs_on_two_hosts", |world| {
        let (job, spec) = (job_id(0), spec(1, false, false));
        assert!(world.start(0, &job, 1, &spec));
        world.await_state(0, &job, JobState::Running);
        world.hosts[0].hv.slowness = 60;
        let stop = StopJob::within(30_000);
        world.ask_host(0, Request::Stop { job: job.clone(), stop });
        for revision in 2..6 {
            world.start(1, &job, revision, &spec);
        }
        world.run_ms(5_000);
    });
}

/// A world that breaks a rule by a mutant is made smaller, and breaks the same.
#[test]
fn a_world_that_breaks_a_rule_is_minimised() {
    let mutant = Some(Mutant::ReplyBeforePersist);
    let (profile, violation) = (0..50)
        .find_map(|seed| {
            let violation = simulate(seed, mutant).violation?;
            Some((Profile::of_seed(seed), violation))
        })
        .expect("found at random, as above");
    let (least, _) = minimise(profile.clone(), mutant, 2).expect("it is broken");
    assert_eq!(least.violation.invariant, violation.invariant);
    assert!(least.profile.noise_ms < profile.noise_ms, "{:?}", least.profile);
    // As it is written and read.
    let text = serde_json::to_string(&least.profile).expect("a profile is plain data");
    let read: Profile = serde_json::from_str(&text).expect("what was written");
    assert_eq!(simulate_world(read, mutant).violation, Some(least.violation));
}
