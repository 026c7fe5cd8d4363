//! One-off jobs: each of their ends, and what a new life of the agent makes of them.

use hypervisor::StopReason;
use protocol::job::{JobKind, OneOff};

use super::*;

const DEADLINE_MS: u64 = 60_000;
const IDLE_MS: u64 = 10_000;

fn one_off(idle_ms: Option<u64>) -> JobSpec {
    let JobKind::Vm(vm) = spec(1).kind else { unreachable!("it is a VM") };
    let kind = JobKind::OneOff(OneOff { vm, deadline_ms: DEADLINE_MS, idle_ms });
    JobSpec { kind, ..spec(1) }
}

/// A lone host on which such a job runs.
fn running(idle_ms: Option<u64>) -> Bench {
    let mut bench = Bench::lone();
    let put = PutJob { spec: one_off(idle_ms), ..body(1, 1, None) };
    bench.put("job-1", put).unwrap();
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StartOneOff(_)));
    bench.looks.clear();
    bench
}

fn reason(bench: &Bench) -> Option<Reason> {
    bench.agent.job(&job_id("job-1")).unwrap().job.reason.clone()
}

/// libvirt shows it off, twice, as after its guest has shut down.
fn shut_down(bench: &mut Bench) {
    let seen = domain("job-1", DomainState::ShutOff(StopReason::Shutdown));
    let look = bench.look(seen.uuid, true);
    bench.tell(Input::Looked { look, domain: Some(seen) });
}

fn pass(bench: &mut Bench, ms: u64) {
    bench.now.mono_ms += ms;
    bench.tell(Input::Tick);
}

#[test]
fn a_guest_that_is_done_leaves_its_exit_code() {
    for (code, expected) in [(Some(3), Reason::Exited { code: 3 }), (None, Reason::GuestShutdown)] {
        let mut bench = running(None);
        shut_down(&mut bench);
        assert_eq!(bench.state("job-1"), JobState::Stopping);
        assert_eq!(bench.end_work(WorkOutcome::Exited(code)), Work::ReadExit);
        assert_eq!(bench.state("job-1"), JobState::Stopped);
        assert_eq!(reason(&bench), Some(expected));
    }
}

#[test]
fn an_exit_code_that_was_not_read_yet_is_read_by_the_next_life() {
    let mut bench = running(None);
    shut_down(&mut bench);
    bench.die(false);
    let seen = domain("job-1", DomainState::ShutOff(StopReason::Shutdown));
    bench.tell(Input::Domains(vec![seen]));
    assert_eq!(bench.end_work(WorkOutcome::Exited(Some(0))), Work::ReadExit);
    assert_eq!(reason(&bench), Some(Reason::Exited { code: 0 }));
}

#[test]
fn an_exit_code_that_cannot_be_read_is_asked_for_again() {
    let mut bench = running(None);
    shut_down(&mut bench);
    bench.end_work(WorkOutcome::Unclear("the disk".into()));
    assert_eq!(bench.state("job-1"), JobState::Stopping);
    pass(&mut bench, 1_000);
    assert_eq!(bench.end_work(WorkOutcome::Exited(None)), Work::ReadExit);
}

#[test]
fn a_deadline_counts_over_the_agents_death() {
    let mut bench = running(None);
    pass(&mut bench, DEADLINE_MS - 1);
    assert_eq!(bench.state("job-1"), JobState::Running);
    let now = bench.now;
    bench.die(false);
    bench.now = now;
    bench.tell(Input::Domains(vec![domain("job-1", DomainState::Running)]));
    pass(&mut bench, 1);
    assert_eq!(bench.state("job-1"), JobState::Stopping);
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StopVm { grace_ms: 10_000 }));
    assert_eq!((bench.state("job-1"), reason(&bench)), (JobState::Stopped, Some(Reason::Deadline)));
}

#[test]
fn silence_ends_a_job_and_a_word_or_a_pause_does_not() {
    let mut bench = running(Some(IDLE_MS));
    let heard = |bytes| Input::Heard { job: job_id("job-1"), bytes };
    pass(&mut bench, 1_000);
    assert_eq!(bench.listens, [job_id("job-1")]);
    bench.tell(heard(10));
    pass(&mut bench, IDLE_MS - 1);
    bench.tell(heard(11));
    pass(&mut bench, IDLE_MS - 1);
    assert_eq!(bench.state("job-1"), JobState::Running, "it has said something");
    bench.tell(heard(11));
    let pause = Request::Act { job: job_id("job-1"), act: Act::Pause };
    bench.ask(pause).unwrap();
    assert_eq!(bench.end_work(WorkOutcome::Done), Work::PauseVm);
    pass(&mut bench, IDLE_MS);
    assert_eq!(bench.state("job-1"), JobState::Paused, "it could not have said anything");
    bench.ask(Request::Act { job: job_id("job-1"), act: Act::Resume }).unwrap();
    bench.end_work(WorkOutcome::Done);
    bench.tell(heard(11));
    pass(&mut bench, IDLE_MS);
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StopVm { .. }));
    assert_eq!(reason(&bench), Some(Reason::Idle));
}

#[test]
fn a_job_that_was_stopped_by_its_owner_says_so() {
    let mut bench = running(None);
    let stop = Request::Stop { job: job_id("job-1"), stop: StopJob::within(0) };
    bench.ask(stop).unwrap();
    bench.end_work(WorkOutcome::Done);
    assert_eq!(reason(&bench), Some(Reason::Requested));
}

#[test]
fn a_one_off_is_neither_saved_nor_moved() {
    let mut bench = running(None);
    let save = Request::Act { job: job_id("job-1"), act: Act::Save };
    assert_eq!(refusal(bench.ask(save)), "invalid");
    let mut trusted = Bench::trusted(HOST);
    let action = Action::MigrateIn { from: id_of(OTHER), hold: OfferId::default() };
    let ask = OfferRequest {
        job: job_id("job-1"),
        revision: Revision(1),
        spec: one_off(None),
        action,
        finds_disks: false,
    };
    assert_eq!(refusal(trusted.ask(Request::Offer(ask))), "unsupported");
}
