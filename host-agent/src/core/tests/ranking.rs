//! How a VM stands to others is changed without a restart, and only what has agreed to it ends for another's sake.

use protocol::vm::{Priority, Rank};

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
    let stop = StopJob { lets: lets.map(job_id), ..StopJob::within(0) };
    bench.ask(Request::Stop { job: job_id("web-1"), stop })
}

#[test]
fn only_what_is_preemptible_is_stopped_for_another_and_says_for_whom() {
    let mut bench = running(Bench::lone());
    let refused = stop_for(&mut bench, Some("db-1"));
    assert_eq!(refused, Err(Refusal::NotPreemptible { job: job_id("web-1") }));
    assert_eq!(bench.state("web-1"), JobState::Running);
    rank(&mut bench, None, Some(true)).unwrap();
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
