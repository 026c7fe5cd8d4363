//! What a host starts again by itself: after which ends, how soon, how often, and by what right.

use hypervisor::{Lifecycle, StopReason};
use protocol::job::JobKind;
use protocol::vm::Restart;

use super::*;

fn restarting(restart: Restart, autostart: bool) -> JobSpec {
    let JobKind::Vm(vm) = spec(1).kind else { unreachable!("it is a VM") };
    JobSpec::vm(VmSpec { restart, autostart, ..vm })
}

fn started(mut bench: Bench, spec: JobSpec) -> Bench {
    let ticket = bench.agent.trust().is_some().then(|| {
        let ask = OfferRequest {
            job: job_id("web-1"),
            revision: Revision(1),
            spec: spec.clone(),
            action: Action::Start,
            finds_disks: false,
        };
        let Ok(Reply::Offered(offered)) = bench.ask(Request::Offer(ask)) else {
            panic!("there is room")
        };
        granted(offered.offer)
    });
    bench.put("web-1", PutJob { spec, ..body(1, 1, ticket) }).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(bench.state("web-1"), JobState::Running);
    bench
}

/// libvirt has said that it ended so, and has shown it twice.
fn ends(bench: &mut Bench, how: StopReason) {
    let seen = domain("web-1", DomainState::ShutOff(how));
    let hint = Some(Lifecycle::Stopped(how));
    let look = Look { hint, ..bench.look(seen.uuid, true) };
    bench.tell(Input::Looked { look, domain: Some(seen) });
}

fn reason(bench: &Bench) -> Option<Reason> {
    bench.agent.job(&job_id("web-1")).unwrap().job.reason.clone()
}

fn pass(bench: &mut Bench, ms: u64) {
    bench.now.mono_ms += ms;
    bench.tell(Input::Tick);
}

/// The next life, at the same time by the machine's clock, with no guest running.
fn next_life(bench: &mut Bench, is_rebooted: bool) {
    let now = bench.now;
    bench.die(is_rebooted);
    bench.now = if is_rebooted { Now { mono_ms: 1_000, ..now } } else { now };
    let off = domain("web-1", DomainState::ShutOff(StopReason::Unknown));
    bench.tell(Input::Domains(vec![off]));
}

#[test]
fn which_ends_are_followed_by_a_start_is_the_owners_wish() {
    let cases = [
        (Restart::Never, StopReason::Crashed, JobState::Crashed),
        (Restart::Never, StopReason::Shutdown, JobState::Stopped),
        (Restart::OnCrash, StopReason::Crashed, JobState::Starting),
        (Restart::OnCrash, StopReason::Shutdown, JobState::Stopped),
        (Restart::OnCrash, StopReason::Destroyed, JobState::Crashed),
        (Restart::Always, StopReason::Crashed, JobState::Starting),
        (Restart::Always, StopReason::Shutdown, JobState::Starting),
        (Restart::Always, StopReason::Destroyed, JobState::Starting),
    ];
    for (restart, how, expected) in cases {
        let mut bench = started(Bench::lone(), restarting(restart, false));
        ends(&mut bench, how);
        assert_eq!(bench.state("web-1"), expected, "{restart:?} after {how:?}");
    }
}

#[test]
fn a_restart_waits_keeps_its_room_and_its_hold_and_then_runs() {
    let mut bench = started(Bench::trusted(HOST), restarting(Restart::OnCrash, false));
    let hold = bench.agent.job(&job_id("web-1")).unwrap().job.hold;
    ends(&mut bench, StopReason::Crashed);
    let after = Box::new(Reason::Killed);
    assert_eq!(reason(&bench), Some(Reason::Restarting { after, number: 1, in_ms: 1_000 }));
    assert_eq!(bench.agent.inventory().host.allocation.vcpus, 1);
    pass(&mut bench, 999);
    assert!(bench.works.is_empty(), "its time has not come");
    pass(&mut bench, 1);
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StartVm(_)));
    let job = &bench.agent.job(&job_id("web-1")).unwrap().job;
    assert_eq!((job.state, job.hold), (JobState::Running, hold));
    assert!(hold.is_some());
}

#[test]
fn what_ends_again_and_again_is_given_up_until_somebody_asks() {
    let mut bench = started(Bench::lone(), restarting(Restart::OnCrash, false));
    for number in 0..5 {
        ends(&mut bench, StopReason::Crashed);
        assert_eq!(bench.state("web-1"), JobState::Starting, "restart {number}");
        pass(&mut bench, 1_000 << number);
        bench.end_work(WorkOutcome::Done);
    }
    ends(&mut bench, StopReason::Crashed);
    assert_eq!(bench.state("web-1"), JobState::Crashed);
    assert!(matches!(reason(&bench), Some(Reason::Flapping { restarts: 5, .. })));
    pass(&mut bench, 3_600_000);
    assert!(bench.works.is_empty(), "nobody has asked");
    let put = PutJob { spec: restarting(Restart::OnCrash, false), ..body(2, 1, None) };
    bench.put("web-1", put).unwrap();
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StartVm(_)));
}

#[test]
fn what_has_run_for_long_is_restarted_as_if_for_the_first_time() {
    let mut bench = started(Bench::lone(), restarting(Restart::OnCrash, false));
    for _ in 0..20 {
        ends(&mut bench, StopReason::Crashed);
        assert!(matches!(reason(&bench), Some(Reason::Restarting { number: 1, .. })));
        pass(&mut bench, 1_000);
        bench.end_work(WorkOutcome::Done);
        pass(&mut bench, 600_000);
    }
}

#[test]
fn a_restart_that_fails_is_tried_again_and_a_first_start_is_not() {
    let mut bench = Bench::lone();
    let put = PutJob { spec: restarting(Restart::OnCrash, false), ..body(1, 1, None) };
    bench.put("web-1", put).unwrap();
    bench.end_work(WorkOutcome::Failed("no disk".into()));
    assert_eq!(bench.state("web-1"), JobState::Failed);

    let mut bench = started(Bench::lone(), restarting(Restart::OnCrash, false));
    ends(&mut bench, StopReason::Crashed);
    pass(&mut bench, 1_000);
    bench.end_work(WorkOutcome::Failed("no disk".into()));
    assert!(matches!(reason(&bench), Some(Reason::Restarting { number: 2, in_ms: 2_000, .. })));
}

#[test]
fn a_stop_ends_the_waiting() {
    let mut bench = started(Bench::lone(), restarting(Restart::Always, false));
    ends(&mut bench, StopReason::Shutdown);
    let stop = Request::Stop { job: job_id("web-1"), stop: StopJob::within(0) };
    bench.ask(stop).unwrap();
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StopVm { .. }));
    pass(&mut bench, 60_000);
    assert_eq!(bench.state("web-1"), JobState::Stopped);
    assert!(bench.works.is_empty());
}

#[test]
fn the_agents_death_neither_shortens_nor_forgets_the_waiting() {
    let mut bench = started(Bench::lone(), restarting(Restart::OnCrash, false));
    ends(&mut bench, StopReason::Crashed);
    next_life(&mut bench, false);
    assert!(bench.works.is_empty());
    pass(&mut bench, 1_000);
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StartVm(_)));
}

#[test]
fn after_a_reboot_of_a_lone_host_autostart_begins_at_once() {
    let mut bench = started(Bench::lone(), restarting(Restart::Never, true));
    next_life(&mut bench, true);
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StartVm(_)));
    assert_eq!(bench.state("web-1"), JobState::Running);

    let mut bench = started(Bench::lone(), restarting(Restart::Always, false));
    next_life(&mut bench, true);
    assert_eq!((bench.state("web-1"), bench.works.len()), (JobState::Crashed, 0));
    assert_eq!(reason(&bench), Some(Reason::HostRebooted));
}

#[test]
fn with_trust_autostart_waits_for_the_arbiters_word_over_any_number_of_lives() {
    let mut bench = started(Bench::trusted(HOST), restarting(Restart::Never, true));
    next_life(&mut bench, true);
    assert_eq!(reason(&bench), Some(Reason::AwaitingRight));
    pass(&mut bench, 1_000);
    assert_eq!(bench.asked_right, 1);
    bench.tell(right(&[], 1));
    next_life(&mut bench, false);
    pass(&mut bench, 1_000);
    assert_eq!(bench.asked_right, 1, "asked again in the new life");
    bench.tell(right(&[0], 0));
    assert!(bench.works.is_empty(), "an older document shows nothing");
    pass(&mut bench, 1_000);
    bench.tell(right(&[0], 1));
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StartVm(_)));
    assert_eq!(bench.state("web-1"), JobState::Running);
}

#[test]
fn a_start_that_a_reboot_cut_short_needs_the_right_too() {
    let mut bench = Bench::trusted(HOST);
    let offer = bench.offer("web-1", 1, Action::Start);
    bench.put("web-1", body(1, 1, Some(granted(offer)))).unwrap();
    next_life(&mut bench, true);
    assert_eq!(reason(&bench), Some(Reason::AwaitingRight));
    pass(&mut bench, 1_000);
    assert!(bench.works.is_empty());
    bench.tell(right(&[0], 1));
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StartVm(_)));
}

#[test]
fn a_job_that_was_taken_before_libvirts_first_answer_needs_the_right_after_a_reboot() {
    let mut bench = Bench::new(HOST, LedgerState { epoch: Epoch(1), ..LedgerState::default() });
    bench.ask(Request::Trust(trust())).unwrap();
    let offer = bench.offer("web-1", 1, Action::Start);
    bench.put("web-1", body(1, 1, Some(granted(offer)))).unwrap();
    assert!(bench.works.is_empty(), "no list of domains yet");
    next_life(&mut bench, true);
    assert_eq!(reason(&bench), Some(Reason::AwaitingRight));
    pass(&mut bench, 1_000);
    assert!(bench.works.is_empty(), "nobody has shown the right");
}

/// A host of a cluster on which the job runs and is being sent to another.
fn sending(restart: Restart, autostart: bool) -> Bench {
    let mut bench = started(Bench::trusted(HOST), restarting(restart, autostart));
    let to_hold = Some(OfferId { epoch: Epoch(1), num: 7 });
    let url = "https://10.0.0.2:7460".to_owned();
    let migrate = MigrateJob { to: id_of(OTHER), to_hold, url, run: None, pace: Pace::default() };
    bench.ask(Request::Migrate { job: job_id("web-1"), migrate, revision: None }).unwrap();
    bench
}

fn job(bench: &Bench) -> Job {
    bench.agent.job(&job_id("web-1")).unwrap().job.clone()
}

#[test]
fn a_guest_that_was_being_sent_away_when_its_host_lost_power_is_started_again_like_any_other() {
    let mut bench = sending(Restart::Never, true);
    let hold = job(&bench).hold;
    next_life(&mut bench, true);
    assert_eq!(reason(&bench), Some(Reason::AwaitingRight));
    pass(&mut bench, 1_000);
    assert!(bench.works.is_empty(), "nobody has shown the right");
    bench.tell(right(&[0], 1));
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StartVm(_)), "not sent again");
    assert_eq!((job(&bench).state, job(&bench).migration), (JobState::Running, None));
    assert!(hold.is_some() && job(&bench).hold == hold, "it has not let go");

    let mut bench = sending(Restart::Always, false);
    next_life(&mut bench, true);
    assert_eq!((bench.state("web-1"), bench.works.len()), (JobState::Crashed, 0));
    assert_eq!((reason(&bench), job(&bench).migration), (Some(Reason::HostRebooted), None));
}

#[test]
fn a_guest_that_ended_while_it_was_being_sent_is_restarted_as_its_owner_wishes() {
    for (restart, state) in
        [(Restart::Never, JobState::Crashed), (Restart::OnCrash, JobState::Starting)]
    {
        let mut bench = sending(restart, false);
        bench.end_work(WorkOutcome::Sent(MigrationOutcome::Ended));
        assert_eq!((bench.state("web-1"), job(&bench).migration), (state, None));
        pass(&mut bench, 1_000);
        assert_eq!(bench.works.len(), usize::from(restart == Restart::OnCrash));
    }
}

#[test]
fn of_a_migration_that_a_reboot_of_the_target_cut_short_only_what_was_handed_over_is_its_own() {
    let (mut source, mut target, migrate) = migration();
    let mut early = Bench::new(OTHER, target.disk.clone());
    source.ask(Request::Migrate { job: job_id("web-1"), migrate, revision: None }).unwrap();
    source.end_work(WorkOutcome::Sent(MigrationOutcome::Gone));
    let handoff = handoff_of(&source);
    target.ask(Request::Handoff { job: job_id("web-1"), handoff }).unwrap();
    target.works.clear();
    next_life(&mut target, true);
    assert_eq!((target.state("web-1"), target.works.len()), (JobState::Crashed, 0));
    assert_eq!(reason(&target), Some(Reason::HostRebooted));
    assert!(job(&target).hold.is_some() && job(&target).migration.is_none());
    next_life(&mut early, true);
    assert_eq!((early.state("web-1"), early.works.len()), (JobState::MigratingIn, 0), "M1");
    let needs_right = |record: &JobRecord| record.tally.needs_right;
    assert!(early.disk.jobs.iter().all(needs_right), "no later life goes on without");
}

#[test]
fn a_reboot_is_found_again_by_who_comes_after_an_agent_that_died_before_it_had_written_it() {
    let mut bench = Bench::trusted(HOST);
    let offer = bench.offer("web-1", 1, Action::Start);
    bench.put("web-1", body(1, 1, Some(granted(offer)))).unwrap();
    bench.die(true);
    assert_eq!(reason(&bench), Some(Reason::AwaitingRight), "libvirt has not said a word yet");
    next_life(&mut bench, false);
    assert_eq!(reason(&bench), Some(Reason::AwaitingRight));
    pass(&mut bench, 1_000);
    assert!(bench.works.is_empty(), "nobody has shown the right");

    let mut bench = started(Bench::lone(), restarting(Restart::Never, true));
    bench.die(true);
    next_life(&mut bench, false);
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StartVm(_)), "autostart");
}

#[test]
fn starts_beyond_the_limit_are_told_when_to_come_back() {
    let mut bench = Bench::lone();
    bench.tell(Input::Capacity(Resources { vcpus: 100, memory_bytes: 100 << 30, disk_bytes: 0 }));
    for n in 0..32 {
        bench.put(&format!("web-{n}"), body(1, 1, None)).unwrap();
    }
    let refused = bench.put("late", body(1, 1, None)).expect_err("it is one too many");
    assert!(matches!(refused, Refusal::Busy { limit: 32, .. }), "{refused}");
    assert!(matches!(bench.put("web-3", body(1, 1, None)), Ok(Reply::AlreadySo(_))));
    let (job, work, _) = bench.works.remove(0);
    bench.tell(Input::Done { job, work, outcome: WorkOutcome::Done });
    assert!(bench.put("late", body(1, 1, None)).is_ok());
}

fn right(obey: &[u32], version: u64) -> Input {
    let obey = obey.iter().copied().collect();
    Input::Right(Standing { obey, version, ..Standing::default() })
}
