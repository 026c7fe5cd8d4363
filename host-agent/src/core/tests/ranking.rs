//! How a VM stands to others is changed without a restart, and only what has agreed to it ends for another's sake.

use protocol::vm::{Preemptor, Priority, Rank};

use super::*;

fn rank(
    bench: &mut Bench,
    priority: Option<u8>,
    preemptible: Option<bool>,
) -> Result<Reply, Refusal> {
    let priority = priority.map(|number| Priority::try_from(number).unwrap());
    bench.ask(Request::Rank { job: job_id("web-1"), rank: Rank { priority, preemptible } })
}

fn stop_for(bench: &mut Bench, lets: Option<&str>) -> Result<Reply, Refusal> {
    let lets = lets.map(|job| Preemptor { job: job_id(job), priority: Priority::default() });
    let stop = StopJob { lets, ..StopJob::within(0) };
    bench.ask(Request::Stop { job: job_id("web-1"), stop })
}

#[test]
fn only_what_is_preemptible_is_stopped_for_another_and_says_for_whom() {
    let mut bench = running(Bench::lone());
    let refused = stop_for(&mut bench, Some("db-1"));
    assert_eq!(refused, Err(Refusal::NotPreemptible { job: job_id("web-1") }));
    assert_eq!(bench.state("web-1"), JobState::Running);
    rank(&mut bench, None, Some(true)).unwrap();
    let refused = stop_for(&mut bench, Some("db-1"));
    assert_eq!(refusal(refused), "not-preemptible", "it matters as much");
    rank(&mut bench, Some(49), None).unwrap();
    assert!(matches!(stop_for(&mut bench, Some("db-1")), Ok(Reply::Accepted(_))));
    assert!(matches!(bench.end_work(WorkOutcome::Done), Work::StopVm { .. }));
    assert_eq!(bench.state("web-1"), JobState::Stopped);
    let job = &bench.agent.job(&job_id("web-1")).unwrap().job;
    assert_eq!(job.reason, Some(Reason::Preempted { lets: job_id("db-1") }));
}

#[test]
fn a_rank_is_a_new_revision_of_the_same_guest_and_is_on_disk_before_the_answer() {
    let mut bench = running(Bench::lone());
    let before = bench.agent.job(&job_id("web-1")).unwrap().job.revision;
    assert!(matches!(rank(&mut bench, Some(80), None), Ok(Reply::Accepted(_))));
    assert!(matches!(rank(&mut bench, Some(80), Some(false)), Ok(Reply::AlreadySo(_))));
    bench.die(false);
    let job = &bench.agent.job(&job_id("web-1")).unwrap().job;
    assert_eq!(job.revision, Revision(before.0 + 1), "whoever planned with the old row plans anew");
    assert_eq!(job.spec.priority(), Priority::try_from(80).unwrap());
    assert_eq!(job.state, JobState::Running);
}

#[test]
fn what_is_protected_is_not_made_preemptible_nor_the_other_way_round() {
    let mut bench = running(Bench::lone());
    let protect = Request::Protect { job: job_id("web-1"), is_protected: true };
    bench.ask(protect.clone()).unwrap();
    assert!(matches!(rank(&mut bench, None, Some(true)), Err(Refusal::Invalid { .. })));
    bench.ask(Request::Protect { job: job_id("web-1"), is_protected: false }).unwrap();
    rank(&mut bench, None, Some(true)).unwrap();
    assert!(matches!(bench.ask(protect), Err(Refusal::Invalid { .. })));
}

#[test]
fn whoever_stops_it_for_its_own_sake_has_the_last_word() {
    let reason = |bench: &Bench| bench.agent.job(&job_id("web-1")).unwrap().job.reason.clone();
    let preempted = Some(Reason::Preempted { lets: job_id("db-1") });
    let begin = || {
        let mut bench = running(Bench::lone());
        rank(&mut bench, Some(1), Some(true)).unwrap();
        bench
    };

    let mut after = begin();
    stop_for(&mut after, Some("db-1")).unwrap();
    after.end_work(WorkOutcome::Done);
    assert_eq!(reason(&after), preempted);
    stop_for(&mut after, None).unwrap();
    assert_eq!(reason(&after), Some(Reason::Requested));

    let mut meanwhile = begin();
    stop_for(&mut meanwhile, Some("db-1")).unwrap();
    stop_for(&mut meanwhile, None).unwrap();
    meanwhile.end_work(WorkOutcome::Done);
    assert_eq!(reason(&meanwhile), Some(Reason::Requested));

    let mut before = begin();
    stop_for(&mut before, None).unwrap();
    assert!(matches!(stop_for(&mut before, Some("db-1")), Ok(Reply::AlreadySo(_))));
    before.end_work(WorkOutcome::Done);
    assert_eq!(reason(&before), Some(Reason::Requested));
}
